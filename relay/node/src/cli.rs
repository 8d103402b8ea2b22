//! The command line: what can be said, and which exit code an outcome has.
//!
//! Exit codes: 0 done, 1 refused or findings, 2 usage or could not run. Answers go to stdout, everything else to stderr.

mod access;
mod audit;
mod backup;
mod client;
mod doctor;
mod export;
mod failure;
mod import;
mod keys;
mod log;
mod migrate;
mod migrate_expiry;
mod migrate_keys;
mod node;
mod nodes;
mod notices;
mod output;
mod own_node;
mod policy;
mod pools;
mod prices;
mod progress;
mod rebuild;
mod render;
mod resource;
mod root_key;
mod stream;
mod tenants;
mod upstreams;
mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use access::Access;
use client::Client;
use failure::Failure;
use output::Output;

/// A relay for LLM APIs in which every credential decision is on the record.
#[derive(Debug, Parser)]
#[command(name = "keyrelay", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// The data directory; of a node on this machine it also holds the owner token and the admin address [default: ./keyrelay-data]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The admin side of the node to talk to [default: KEYRELAY_ADMIN_URL, else what the node wrote to DIR/admin.address]
    #[arg(long, global = true, value_name = "URL")]
    admin_url: Option<String>,
    /// The tenant to act in [default: KEYRELAY_TENANT, else `default`]
    #[arg(long, global = true, value_name = "NAME")]
    tenant: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(node::ConfigArgs),
    /// Print the effective settings and the source of each
    Config(node::ConfigArgs),
    /// Client keys: what clients show the relay
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Tenants: whom keys, upstreams, pools, policies and bindings belong to
    #[command(subcommand)]
    Tenants(tenants::TenantsCommand),
    /// Upstreams: accounts at providers
    #[command(subcommand)]
    Upstreams(upstreams::UpstreamsCommand),
    /// Pools: groups of upstreams
    #[command(subcommand)]
    Pools(pools::PoolsCommand),
    /// Policies: WebAssembly modules that decide on requests
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// What models cost in a pool
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Nodes: who is in the cluster, and how one leaves it
    Nodes(nodes::NodesArgs),
    /// Look for what is wrong with the cluster, or will be, and say what to do about it
    Doctor,
    /// Notices: the channels that operators are told through, and what was sent
    Notices(notices::NoticesArgs),
    /// What was used, by whom
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// The event log
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Give keys that were imported without an expiry one; an explicit never is left alone
    MigrateExpiry(migrate_expiry::MigrateExpiry),
    /// The root key, under which everything that is sealed lies
    #[command(subcommand)]
    RootKey(root_key::RootKeyCommand),
    /// Wrap everything that is sealed under another root key, while the cluster serves
    MigrateKeys(migrate_keys::MigrateKeys),
    /// Exports of the log, and their verification without a node
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Back up a running node into one file, or prove such a file
    Backup(backup::Backup),
    /// Make a data directory of a backup
    Restore(backup::Restore),
    /// Write data into a file that another node takes in
    Export(export::ExportArgs),
    /// Take in a file that an export wrote
    Import(import::ImportArgs),
    #[command(hide = true)]
    CompilePolicy(policy::CompilePolicy),
    /// Print the version
    Version,
}

/// Runs a command to its end and gives the process's exit code.
pub fn run(cli: Cli, environment: BTreeMap<String, String>) -> ExitCode {
    if let Command::CompilePolicy(args) = &cli.command {
        // Before anything else: what goes wrong with the bytes is an answer, so that this is about pipes and limits only.
        return policy::compile(args).map_or(ExitCode::from(2), |()| ExitCode::SUCCESS);
    }
    #[cfg(feature = "faults")]
    if let Some(name) = environment.get("KEYRELAY_FAULT") {
        let plant =
            [control::faults::plant, event_log::faults::plant, gateway::faults::plant, projector::faults::plant, crate::faults::plant];
        plant.iter().for_each(|plant| plant(name));
    }
    let mut output = Output::new(cli.global.json);
    match execute(cli, environment, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn execute(cli: Cli, environment: BTreeMap<String, String>, output: &mut Output) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => runtime(true)?.block_on(node::serve(args, global, environment)),
        Command::Config(args) => node::config(args, global, environment, output),
        Command::Version => node::version(output),
        Command::Audit(audit::AuditCommand::Verify(args)) => audit::verify(args, output),
        Command::Backup(backup::Backup { command: Some(backup::BackupCommand::Verify(args)), .. }) => backup::verify(args, output),
        Command::Restore(args) => runtime(true)?.block_on(backup::restore(args, &global, environment, output)),
        Command::Export(export::ExportArgs { command: Some(export::ExportCommand::Inspect { file }), .. }) => {
            export::inspect(&file, output)
        }
        Command::Policy(policy::PolicyCommand::Author(command)) => policy::author(command, &policy::CodeFolder::of(&environment), output),
        Command::Log(log::LogCommand::Verify(args)) if args.offline => {
            runtime(false)?.block_on(log::verify_offline(&args, &access::layout(&global, &environment), output))
        }
        Command::Policy(command) => {
            let connect = || Ok(Client::new(Access::find(&global, &environment)?)?);
            runtime(false)?.block_on(policy::run(command, policy::CodeFolder::of(&environment), connect, output))
        }
        Command::RootKey(command) if command.needs_no_node() => root_key::local(command, &access::layout(&global, &environment), output),
        Command::RootKey(command) => {
            let client = Client::new(Access::find(&global, &environment)?)?;
            let layout = access::layout(&global, &environment);
            runtime(false)?.block_on(root_key::run(command, &client, &layout, output))
        }
        Command::MigrateKeys(args) => runtime(false)?.block_on(migrate_keys::run_anywhere(args, &global, &environment, output)),
        Command::Log(log::LogCommand::Migrate(args)) => runtime(true)?.block_on(migrate::run(args, &global, environment, output)),
        command => {
            let client = Client::new(Access::find(&global, &environment)?)?;
            runtime(false)?.block_on(talk(command, &client, &environment, output))
        }
    }
}

/// The commands that talk to a node.
async fn talk(command: Command, client: &Client, environment: &BTreeMap<String, String>, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Keys(command) => keys::run(command, client, output).await,
        Command::Tenants(command) => tenants::run(command, client, output).await,
        Command::Upstreams(command) => upstreams::run(command, client, environment, output).await,
        Command::Pools(command) => pools::run(command, client, output).await,
        Command::Prices(command) => prices::run(command, client, output).await,
        Command::Nodes(args) => nodes::run(args, client, output).await,
        Command::Doctor => doctor::run(client, output).await,
        Command::Notices(args) => notices::run(args, client, output).await,
        Command::Usage(command) => usage::run(command, client, output).await,
        Command::Log(command) => log::run(command, client, output).await,
        Command::MigrateExpiry(args) => migrate_expiry::run(args, client, output).await,
        Command::Audit(audit::AuditCommand::Export(args)) => audit::export(args, client, output).await,
        Command::Backup(args) => backup::take(args, client, output).await,
        Command::Export(args) => export::run(args, client, output).await,
        Command::Import(args) => import::run(args, client, output).await,
        Command::Restore(_)
        | Command::Audit(audit::AuditCommand::Verify(_))
        | Command::Policy(_)
        | Command::RootKey(_)
        | Command::MigrateKeys(_)
        | Command::Serve(_)
        | Command::Config(_)
        | Command::CompilePolicy(_)
        | Command::Version => {
            unreachable!("these commands were run before")
        }
    }
}

fn runtime(is_server: bool) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = if is_server { tokio::runtime::Builder::new_multi_thread() } else { tokio::runtime::Builder::new_current_thread() };
    Ok(builder.enable_all().build().context("cannot start the runtime")?)
}

#[cfg(test)]
#[path = "cli/tests.rs"]
mod tests;
