//! `plugins/TUTORIAL.md`, run: every block of shell that is not marked as an installation or as the start of a node.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tests::{World, cli, policies};

/// Building a policy for the first time takes minutes on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(900);

/// What the text has between two headings.
fn section<'a>(tutorial: &'a str, heading: &str) -> Result<&'a str> {
    let (_, rest) = tutorial.split_once(&format!("\n## {heading}\n")).with_context(|| format!("no section {heading}"))?;
    Ok(rest.split_once("\n## ").map_or(rest, |(section, _)| section))
}

/// The blocks to run, as one script. What a block prints is compared with the block of text after it.
fn script(sections: &[&str]) -> Result<String> {
    let (mut script, mut previous) = ("set -euo pipefail\n".to_owned(), None);
    for section in sections {
        for block in section.split("\n```").skip(1).step_by(2) {
            let (language, body) = block.split_once('\n').context("a block has a first line")?;
            match language {
                "sh install" | "sh node" => {}
                "sh" => {
                    script += &previous.take().map_or_else(String::new, |run: &str| format!("{run}\n"));
                    previous = Some(body);
                }
                "text" => {
                    let run = previous.take().context("a text follows a block of shell")?;
                    // In this shell, not in one below: functions and variables are used later on.
                    let lines = body.lines().count();
                    script += &format!("{{\n{run}\n}} >printed.txt\n");
                    script += &format!("tail -n {lines} printed.txt | diff - <(cat <<'EXPECTED'\n{body}\nEXPECTED\n)\n");
                }
                other => anyhow::bail!("what is a block of `{other}`?"),
            }
        }
    }
    Ok(script + previous.unwrap_or_default())
}

/// Runs the sections in a folder of their own, with this build's binary and a node to put the policy into force on.
async fn run(heading: &str, prepare: impl FnOnce(&Path, &mut Command) -> Result<()>) -> Result<()> {
    let tutorial = fs::read_to_string(cli::workspace().join("plugins/TUTORIAL.md"))?;
    let script = script(&[section(&tutorial, heading)?, section(&tutorial, "In force")?])?;
    let world = World::start().await?;
    let key = world.key(serde_json::json!({})).await?;
    let directory = tempfile::tempdir()?;
    let binary = cli::binary("keyrelay")?;
    let own = [directory.path().join("bin"), binary.parent().context("a folder")?.to_owned()];
    let path = std::env::join_paths(own.into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())))?;

    let mut shell = Command::new("bash");
    shell.args(["-x", "-c", &script]).current_dir(directory.path()).stdin(std::process::Stdio::null());
    shell.env("PATH", path).env("KEYRELAY_ADMIN_URL", world.admin.origin());
    let token = fs::read_to_string(world.directory.path().join("data/owner.token"))?;
    shell.env("KEYRELAY_TOKEN", token.trim()).env("RELAY", &world.node.relay_origin).env("KEY", &key.secret).env("KEY_ID", &key.id);
    shell.env("XDG_CACHE_HOME", directory.path().join("caches"));
    prepare(directory.path(), &mut shell)?;
    let ran = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || cli::run(&mut shell))).await;
    ran.context("the tutorial does not end")???.expect(0)?;
    Ok(())
}

#[tokio::test]
async fn in_rust() -> Result<()> {
    let prepare = |_: &Path, shell: &mut Command| {
        // What was built for the last run is kept; the module itself stands where the text says.
        shell.env_remove("CARGO_TARGET_DIR").env("CARGO_BUILD_BUILD_DIR", policies::target()?.join("policy-tutorial"));
        shell.env("CARGO_NET_OFFLINE", "true");
        Ok(())
    };
    run("In Rust", prepare).await
}

#[tokio::test]
async fn in_javascript() -> Result<()> {
    let prepare = |directory: &Path, _: &mut Command| {
        // Instead of `npm install`: packages are looked for in the folders above, too.
        Ok(std::os::unix::fs::symlink(policies::tools()?.join("npm/node_modules"), directory.join("node_modules"))?)
    };
    run("In JavaScript", prepare).await
}

#[tokio::test]
async fn in_python() -> Result<()> {
    let prepare = |directory: &Path, _: &mut Command| {
        // Instead of `pip install`: found in the first folder of the path.
        let folder = directory.join("bin");
        fs::create_dir(&folder)?;
        Ok(std::os::unix::fs::symlink(policies::tools()?.join("componentize-py/bin/componentize-py"), folder.join("componentize-py"))?)
    };
    run("In Python", prepare).await
}
