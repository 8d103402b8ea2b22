//! The house keeps its shape: who imports whom, which engine is known where, and what stands at the top.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cli;

/// What each crate may import from the workspace: the table of the README.
const IMPORTS: [(&str, &[&str]); 19] = [
    ("schemas", &[]),
    ("event_log", &["nats_server", "schemas"]),
    ("vault", &["nats_server", "schemas"]),
    ("coordination", &["nats_server", "schemas"]),
    ("policy_host", &["schemas"]),
    ("projector", &["event_log", "schemas"]),
    ("gateway", &["coordination", "event_log", "policy_host", "projector", "schemas", "vault"]),
    ("control", &["coordination", "event_log", "policy_host", "projector", "schemas", "vault"]),
    ("openapi", &["control", "gateway", "schemas"]),
    ("keyrelay", &["control", "coordination", "event_log", "gateway", "openapi", "policy_host", "projector", "schemas", "vault"]),
    // What the author of a policy depends on: nothing of the workspace.
    ("keyrelay-policy", &[]),
    ("business-hours", &["keyrelay-policy"]),
    ("canary-share", &["keyrelay-policy"]),
    ("cheapest-healthy", &["keyrelay-policy"]),
    ("expire-unused", &["keyrelay-policy"]),
    ("model-allow-list", &["keyrelay-policy"]),
    ("money-quota", &["keyrelay-policy"]),
    ("tests", &["coordination", "event_log", "nats_server", "policy_host", "projector", "schemas", "vault"]),
    // Test equipment without a word of Keyrelay in it; others have it among their development dependencies only.
    ("nats_server", &[]),
];

/// Engines, and the crates that may know them.
const ENGINES: [(&str, &[&str]); 4] = [
    ("rocksdb", &["event_log", "projector", "vault"]),
    ("axum", &["control", "gateway", "keyrelay"]),
    ("async-nats", &["coordination", "event_log", "vault"]),
    ("wasmtime", &["policy_host"]),
];

/// What stands at the top of the repository, dotfiles and build output aside.
const TOP: [&str; 18] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "openapi",
    "plugins",
    "projector",
    "relay",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "schemas",
    "tests",
];

/// The packages of the workspace with the names they depend on, development and build included.
fn packages() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = ["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"];
    let output = Command::new(cargo).args(words).current_dir(cli::workspace()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let named = |value: &Value| value["name"].as_str().map(str::to_owned).context("a name");
    let package = |package: &Value| {
        let dependencies = package["dependencies"].as_array().context("dependencies")?;
        Ok((named(package)?, dependencies.iter().map(named).collect::<Result<_>>()?))
    };
    metadata["packages"].as_array().context("packages")?.iter().map(package).collect()
}

#[test]
fn crates_import_only_what_the_table_allows() -> Result<()> {
    let packages = packages()?;
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.into_iter().collect();
    for (name, dependencies) in &packages {
        let allowed = allowed.get(name.as_str()).with_context(|| format!("the crate {name} is not in the table"))?;
        let imported: BTreeSet<&str> = dependencies.iter().map(String::as_str).filter(|name| packages.contains_key(*name)).collect();
        let extra: Vec<&&str> = imported.iter().filter(|import| !allowed.contains(import)).collect();
        ensure!(extra.is_empty(), "{name} imports {extra:?}");
    }
    Ok(())
}

#[test]
fn engines_are_known_only_in_their_rooms() -> Result<()> {
    let packages = packages()?;
    for (engine, rooms) in ENGINES {
        let known: Vec<&String> = packages.iter().filter(|(_, dependencies)| dependencies.contains(engine)).map(|(name, _)| name).collect();
        ensure!(known.iter().all(|name| rooms.contains(&name.as_str())), "{engine} is known in {known:?}");
    }
    Ok(())
}

#[test]
fn the_workspace_table_is_the_only_source_of_versions_and_lints() -> Result<()> {
    let root: toml::Table = fs::read_to_string(cli::workspace().join("Cargo.toml"))?.parse()?;
    let members = root["workspace"]["members"].as_array().context("members")?;
    for member in members.iter().filter_map(toml::Value::as_str) {
        let manifest: toml::Table = fs::read_to_string(cli::workspace().join(member).join("Cargo.toml"))?.parse()?;
        ensure!(manifest["lints"]["workspace"].as_bool() == Some(true), "{member} does not inherit the lints");
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = manifest.get(table).and_then(toml::Value::as_table).into_iter().flatten();
            for (name, entry) in entries {
                let inherits = entry.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                ensure!(inherits, "{member} chooses a version of {name} by itself");
            }
        }
    }
    Ok(())
}

#[test]
fn no_folder_stands_at_the_top_that_is_not_in_the_map() -> Result<()> {
    for entry in fs::read_dir(cli::workspace())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_output = ["target", "keyrelay-data"].contains(&name.as_str());
        ensure!(name.starts_with('.') || is_output || TOP.contains(&name.as_str()), "{name} is not in the map");
    }
    Ok(())
}

#[test]
fn example_configurations_are_read_by_the_binary() -> Result<()> {
    let mut read = 0;
    for entry in fs::read_dir(cli::workspace().join("deploy"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            cli::keyrelay(["config".as_ref(), "--config".as_ref(), path.as_os_str()])?.expect(0)?;
            // The comments show the defaults: uncommented, they are the defaults.
            let settings =
                |path: &std::path::Path| cli::keyrelay(["config".as_ref(), "--json".as_ref(), "--config".as_ref(), path.as_os_str()]);
            let text = fs::read_to_string(&path)?;
            let uncommented: String = text.lines().map(|line| format!("{}\n", line.strip_prefix("#").unwrap_or(line))).collect();
            let directory = tempfile::tempdir()?;
            let all = directory.path().join("all.toml");
            fs::write(&all, uncommented.lines().filter(|line| !line.starts_with(' ')).collect::<Vec<_>>().join("\n"))?;
            let (given, defaults) = (settings(&all)?.expect(0)?.json()?, settings(&path)?.expect(0)?.json()?);
            ensure!(values(&given) == values(&defaults), "{}: a comment is not the default: {given}\n{defaults}", path.display());
            read += 1;
        }
    }
    ensure!(read > 0, "there is no example");
    Ok(())
}

/// Names and values of `keyrelay config --json`, without their sources; unset ones left out.
fn values(printed: &Value) -> BTreeMap<String, Value> {
    let settings = printed.get("settings").unwrap_or(printed).as_array().cloned().unwrap_or_default();
    settings.iter().map(|setting| (setting["name"].to_string(), setting["value"].clone())).collect()
}
