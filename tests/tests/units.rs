//! The units in `deploy/systemd`: what each starts is started here as systemd would, with the same words and environment, and ends by the signal
//! that it names.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::{cli, wait};

/// For a server that stops leading before it ends.
const END_WAIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "7e0f-as-a-generator-may-begin-it";

fn unit(name: &str) -> Result<String> {
    fs::read_to_string(cli::workspace().join("deploy/systemd").join(name)).with_context(|| name.to_owned())
}

/// All values of a setting.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

fn setting<'a>(unit: &'a str, name: &str) -> Result<&'a str> {
    let [value] = settings(unit, name)[..] else { anyhow::bail!("{name} does not stand once in:\n{unit}") };
    Ok(value)
}

/// The command of a unit, with every path of the machine replaced by one of the test's.
fn command(unit: &str, places: &[(&str, &Path)]) -> Result<Command> {
    let mut words = setting(unit, "ExecStart")?.split_whitespace().map(|word| {
        let place = places.iter().find(|(path, _)| *path == word).map(|(_, place)| *place);
        ensure!(place.is_some() || !word.starts_with('/'), "{word} is where?");
        Ok(place.map_or_else(|| word.into(), |place| place.as_os_str().to_owned()))
    });
    let mut command = Command::new(words.next().context("no command")??);
    cli::clean(&mut command);
    for word in words {
        command.arg(word?);
    }
    Ok(command)
}

/// A process that is killed if a test fails before it has ended.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?))
    }

    /// The line that a node writes when it is ready.
    async fn ready(&mut self) -> Result<Value> {
        let stdout = self.0.stdout.take().context("its output")?;
        let line = tokio::task::spawn_blocking(move || BufReader::new(stdout).lines().next());
        let line = wait::for_future("a node that is ready", line).await??.context("it ended before it was ready")??;
        serde_json::from_str(&line).with_context(|| line)
    }

    /// Ends it as systemd does, and waits for that.
    async fn stop(mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("a process")?;
        kill_process(pid, signal)?;
        let ended = wait::until_within(END_WAIT, "the end of a service", || std::future::ready(self.0.try_wait().map_err(Into::into)));
        let ended = ended.await?;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ports of the test's own instead of those that the example files name.
fn on_free_ports(command: &mut Command) -> &mut Command {
    command.env("KEYRELAY_RELAY_LISTEN", "127.0.0.1:0").env("KEYRELAY_ADMIN_LISTEN", "127.0.0.1:0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_and_ends_as_its_unit_says() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (data, config) = (directory.path().join("data"), cli::workspace().join("deploy/keyrelay.example.toml"));
    let unit = unit("keyrelay.service")?;
    let binary = cli::binary("keyrelay")?;
    let places = [("/usr/local/bin/keyrelay", &*binary), ("/etc/keyrelay/keyrelay.toml", &*config), ("/var/lib/keyrelay", &*data)];
    // Twice: the second start is that of a founded node.
    for _ in 0..2 {
        let mut node = Running::start(on_free_ports(&mut command(&unit, &places)?))?;
        ensure!(node.ready().await?["sync"] == "embedded");
        node.stop(Signal::TERM).await?;
    }
    Ok(())
}

/// Three servers and a node with the drop-in, on one machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_starts_and_ends_as_its_units_say() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (server_unit, deploy) = (unit("nats-server.service")?, cli::workspace().join("deploy"));
    let (program, config) = (nats_server::program(), deploy.join("nats/cluster.conf"));
    let places = [("/usr/local/bin/nats-server", &*program), ("/etc/nats/cluster.conf", &*config)];
    let port = |_| nats_server::free_port();
    let [clients, monitors, routes] = [(); 3].map(|()| (0..3).map(port).collect::<Result<Vec<_>>>());
    let (clients, monitors, routes) = (clients?, monitors?, routes?);
    let list = |ports: &[u16], before: &str| ports.iter().map(|port| format!("{before}127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let mut servers = Vec::new();
    for index in 0..3 {
        // As server.env has it, with the quotes that are for the server.
        let environment = [
            ("KEYRELAY_NATS_NAME", format!("n{index}")),
            ("KEYRELAY_NATS_LISTEN", format!("\"127.0.0.1:{}\"", clients[index])),
            ("KEYRELAY_NATS_MONITOR", format!("\"127.0.0.1:{}\"", monitors[index])),
            ("KEYRELAY_NATS_CLUSTER_LISTEN", format!("\"127.0.0.1:{}\"", routes[index])),
            ("KEYRELAY_NATS_ROUTES", format!("[{}]", list(&routes, "nats-route://"))),
            ("KEYRELAY_NATS_STORE", format!("{:?}", directory.path().join(format!("n{index}")))),
            ("KEYRELAY_NATS_PASSWORD", format!("\"{PASSWORD}\"")),
            ("KEYRELAY_NATS_OPERATOR_PASSWORD", "\"operator\"".to_owned()),
        ];
        let named = fs::read_to_string(&config)?;
        ensure!(
            environment.iter().all(|(name, _)| named.contains(&format!("#   {name}=")) || named.contains(&format!(", {name}"))),
            "{named}"
        );
        servers.push(Running::start(command(&server_unit, &places)?.envs(environment))?);
    }

    let drop_in = unit("keyrelay.service.d/cluster.conf")?;
    let credentials = directory.path().join("credentials");
    fs::create_dir(&credentials)?;
    let (_, recipe) = drop_in.split_once("To make one: ").context("how a root key is made")?;
    let key = Command::new("bash").args(["-c", recipe.lines().next().context("a command")?]).output()?.stdout;
    let root_key = credentials.join(setting(&drop_in, "LoadCredential")?.split_once(':').context("a name and a path")?.0);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o400).open(&root_key)?;
    std::io::Write::write_all(&mut file, &key)?;
    let (name, value) = setting(&drop_in, "Environment")?.split_once('=').context("a variable")?;

    let (data, config, binary) = (directory.path().join("data"), deploy.join("keyrelay.cluster.example.toml"), cli::binary("keyrelay")?);
    let places = [("/usr/local/bin/keyrelay", &*binary), ("/etc/keyrelay/keyrelay.toml", &*config), ("/var/lib/keyrelay", &*data)];
    let mut node = command(&unit("keyrelay.service")?, &places)?;
    node.env(name, value.replace("%d", &credentials.to_string_lossy()))
        .env("KEYRELAY_NATS_URL", list(&clients, &format!("nats://keyrelay:{PASSWORD}@")))
        .env("KEYRELAY_NATS_MONITOR_URL", list(&monitors, "http://"));
    let mut node = Running::start(on_free_ports(&mut node))?;
    ensure!(node.ready().await?["sync"] == "verified");

    // A server goes while the node is connected, as when its machine is updated.
    let signal = setting(&server_unit, "KillSignal")?;
    ensure!(signal == "SIGUSR2" && settings(&server_unit, "ExecStop").is_empty(), "another signal comes before it or after it");
    for server in servers {
        server.stop(Signal::USR2).await?;
    }
    node.stop(Signal::TERM).await
}
