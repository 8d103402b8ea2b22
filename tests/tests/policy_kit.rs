//! The author's commands, end to end: the built binary with the modules of the stock policies.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::cli::{self, Run};
use tests::policies;

const STOCK: [(&str, &str); 6] = [
    ("business-hours", "quota"),
    ("canary-share", "route"),
    ("cheapest-healthy", "route"),
    ("expire-unused", "expiry"),
    ("model-allow-list", "route"),
    ("money-quota", "quota"),
];

fn module(name: &str) -> Result<PathBuf> {
    Ok(policies::stock()?.join(format!("{name}.wasm")))
}

fn folder(name: &str) -> PathBuf {
    cli::workspace().join("plugins/policies").join(name)
}

/// `keyrelay policy VERB MODULE ... --json`.
fn policy(verb: &str, module: &Path, more: &[&str]) -> Result<Run> {
    let mut arguments = vec!["policy".as_ref(), verb.as_ref(), module.as_os_str(), "--json".as_ref()];
    arguments.extend(more.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
    cli::keyrelay(arguments)
}

#[test]
fn every_stock_policy_is_taken_and_says_what_its_folder_says() -> Result<()> {
    let mut folders: Vec<String> = fs::read_dir(cli::workspace().join("plugins/policies"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    folders.sort_unstable();
    ensure!(folders == STOCK.map(|(name, _)| name), "{folders:?}");
    for (name, kind) in STOCK {
        let checked = policy("check", &module(name)?, &["--kind", kind])?.expect(0)?.json()?;
        let schema: Value = serde_json::from_slice(&fs::read(folder(name).join("settings.schema.json"))?)?;
        ensure!(checked["ok"] == true && checked["class"] == "fast" && checked["manifest"]["name"] == name, "{checked}");
        ensure!(checked["manifest"]["settings"] == schema, "{name}: the manifest has another schema than the folder");
        let bytes = checked["bytes"].as_u64().context("bytes")?;
        ensure!(bytes < 200_000, "{name} has {bytes} bytes");
        let readme = fs::read_to_string(folder(name).join("README.md"))?;
        let codes = checked["manifest"]["reasons"].as_array().context("reasons")?.iter().filter_map(|reason| reason["code"].as_str());
        let untold: Vec<&str> = codes.filter(|code| !readme.contains(&format!("`{code}`"))).collect();
        ensure!(untold.is_empty(), "{name}: the README does not tell of {untold:?}");
    }
    Ok(())
}

#[test]
fn every_stock_policy_answers_its_vectors_with_room_to_spare() -> Result<()> {
    for (name, _) in STOCK {
        let vectors = folder(name).join("vectors.json");
        let tested = policy("test", &module(name)?, &[&vectors.to_string_lossy()])?;
        let answer = tested.json()?;
        ensure!(tested.code == 0 && answer["failed"] == 0, "{name}: {answer:#}");
        let most = answer["vectors"].as_array().context("vectors")?.iter().filter_map(|vector| vector["fuel"].as_u64()).max();
        // A quarter of what the class has: the head-room that the contract's rules ask authors for.
        ensure!(most.is_some_and(|fuel| (1..500_000).contains(&fuel)), "{name} takes {most:?} of fuel");
    }
    Ok(())
}

#[test]
fn a_vector_that_fails_is_named_with_what_differs() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("vectors.json");
    let vectors = json!({
        "kind": "expiry",
        "settings": { "unused_days": 7 },
        "vectors": [
            { "name": "right", "input": { "key": { "last_used": "-1d" } }, "expect": { "effect": "permit", "valid_until": "+6d" } },
            { "name": "wrong effect", "input": { "key": { "last_used": "-1d" } }, "expect": { "effect": "deny" } },
            { "name": "wrong time", "input": { "key": { "last_used": "-1d" } }, "expect": { "valid_until": "+7d" } },
            { "name": "wrong reason", "expect": { "reasons": ["key.old"] } },
            { "name": "no fault", "expect": { "fault": "trap" } },
            { "name": "settings are taken", "expect": { "refused": [] } },
            { "name": "settings are refused", "settings": { "unused_days": 0 }, "expect": { "effect": "permit" } },
        ],
    });
    fs::write(&path, vectors.to_string())?;
    let tested = policy("test", &module("expire-unused")?, &[&path.to_string_lossy()])?.expect(1)?.json()?;
    let ok: Vec<&Value> = tested["vectors"].as_array().context("vectors")?.iter().map(|vector| &vector["ok"]).collect();
    ensure!(ok == [true, false, false, false, false, false, false] && tested["failed"] == 6, "{tested:#}");

    let told = cli::keyrelay(["policy", "test", &module("expire-unused")?.to_string_lossy(), &path.to_string_lossy()])?.expect(1)?;
    ensure!(told.stdout.contains("FAILED wrong effect: effect: expected Deny, got Permit"), "{}", told.stdout);
    ensure!(told.stdout.contains("1 passed, 6 failed"), "{}", told.stdout);

    // What is no vector is not passed over.
    fs::write(&path, json!({ "kind": "expiry", "vectors": [{ "name": "a", "expect": { "efect": "deny" } }] }).to_string())?;
    let refused = policy("test", &module("expire-unused")?, &[&path.to_string_lossy()])?.expect(2)?;
    ensure!(refused.stderr.contains("efect"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn what_a_node_would_not_take_is_refused_with_the_reason() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("other.wasm");
    let refused = policy("check", &module("money-quota")?, &["--kind", "route"])?.expect(1)?.json()?;
    ensure!(refused["ok"] == false && refused["refused"].is_string(), "{refused}");
    fs::write(&path, b"\0asm\x01\0\0\0")?;
    policy("check", &path, &["--kind", "route"])?.expect(1)?;
    fs::write(&path, b"not wasm")?;
    policy("check", &path, &["--kind", "route"])?.expect(1)?;
    let missing = policy("check", &directory.path().join("missing"), &["--kind", "route"])?.expect(2)?;
    ensure!(missing.stderr.contains("missing"), "{}", missing.stderr);
    // Without a word on it, a module is what it exports.
    for (name, kind) in STOCK {
        let unsaid = policy("check", &module(name)?, &[])?.expect(0)?.json()?;
        ensure!(unsaid["kind"] == kind, "{name}: {unsaid}");
    }
    let other = policy("check", &module("money-quota")?, &["--kind", "route"])?.expect(1)?.json()?;
    ensure!(other["refused"] == "the component decides on quota, not on route", "{other}");
    // Larger than the class allows, whatever it is.
    fs::write(&path, [&b"\0asm\x0d\0\x01\0"[..], &vec![0; 1 << 20]].concat())?;
    let large = policy("check", &path, &["--kind", "route"])?.expect(1)?.json()?;
    ensure!(large["refused"].as_str().is_some_and(|why| why.contains("class slow")), "{large}");
    Ok(())
}

#[test]
fn a_component_is_compiled_once_and_its_machine_code_kept_for_the_next_command() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (path, folder) = (directory.path().join("policy.wasm"), directory.path().join("keyrelay/policy-code"));
    fs::write(&path, component("expire-unused")?)?;
    let check = || -> Result<u64> {
        let mut command = cli::command("keyrelay")?;
        command.args(["policy", "check", "--json"]).arg(&path).env("XDG_CACHE_HOME", directory.path());
        let checked = cli::run(&mut command)?.expect(0)?.json()?;
        ensure!(checked["manifest"]["name"] == "expire-unused", "{checked}");
        let entries = fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
        let code: Vec<_> = entries.iter().filter(|entry| entry.path().extension().is_some_and(|extension| extension == "code")).collect();
        ensure!(code.len() == 1, "{code:?}");
        // What is compiled is written as a file of its own, and put in the place of the other.
        Ok(std::os::unix::fs::MetadataExt::ino(&code[0].metadata()?))
    };
    let first = check()?;
    ensure!(check()? == first, "it was compiled again");
    // What somebody changed is not run.
    let code = fs::read_dir(&folder)?.flatten().find(|entry| entry.path().extension().is_some_and(|extension| extension == "code"));
    let code = code.context("machine code")?.path();
    let mut bytes = fs::read(&code)?;
    *bytes.last_mut().context("bytes")? ^= 1;
    fs::write(&code, &bytes)?;
    check()?;
    ensure!(fs::read(&code)? != bytes, "the changed machine code was left");
    Ok(())
}

/// A stock policy as a node stores it.
fn component(name: &str) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let config = policy_host::HostConfig {
        cache: directory.path().join("cache"),
        cache_bytes_max: policy_host::host::CACHE_BYTES_DEFAULT,
        compiler: policy_host::Compiler::InProcess,
        fast_slots: 1,
        fast_resident_bytes: 0,
        slow_threads: 1,
    };
    let uploaded = fs::read(module(name)?)?;
    let kind = policy_host::kind_of(&uploaded).context("a policy")?;
    Ok(policy_host::Host::new(config)?.admit(&uploaded, kind, schemas::policy::PolicyClass::Fast)?.component)
}

#[test]
fn one_question_is_answered_the_same_every_time() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("input.json");
    fs::write(&path, json!({ "kind": "route", "subject": { "tags": ["support"] } }).to_string())?;
    let settings = r#"{"tags":{"support":["*-mini"]}}"#;
    let ask = |settings: &str| policy("run", &module("model-allow-list")?, &["--input", &path.to_string_lossy(), "--settings", settings]);
    let (one, other) = (ask(settings)?.expect(0)?.json()?, ask(settings)?.expect(0)?.json()?);
    ensure!(one["output"]["verdict"]["effect"] == "deny", "{one}");
    ensure!(one["output"]["verdict"]["reasons"][0]["code"] == "model.not_allowed", "{one}");
    for member in ["output", "digest", "input_digest", "fuel"] {
        ensure!(one[member] == other[member] && !one[member].is_null(), "{member}: {one} {other}");
    }
    let refused = ask(r#"{"tag":{}}"#)?.expect(1)?;
    ensure!(refused.stderr.contains("settings.schema: /tag: is not known, expected `others`, `tags`"), "{}", refused.stderr);
    let file = directory.path().join("settings.json");
    fs::write(&file, settings)?;
    let from_file = ask(&format!("@{}", file.display()))?.expect(0)?.json()?;
    ensure!(from_file["input_digest"] == one["input_digest"], "{from_file}");
    Ok(())
}

#[test]
fn a_fault_is_told_and_is_a_finding() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("input.json");
    fs::write(&path, json!({ "kind": "quota", "meters": [] }).to_string())?;
    let settings = r#"{"day_microusd":1}"#;
    let run = policy("run", &module("money-quota")?, &["--input", &path.to_string_lossy(), "--settings", settings])?.expect(1)?.json()?;
    ensure!(run["fault"] == "declared" && run["detail"] == "quota.no_meter: key.micro_usd.day", "{run}");
    Ok(())
}

#[test]
fn the_bench_tells_time_fuel_memory_and_room() -> Result<()> {
    let settings = r#"{"stable":"default","canary":"next","share_ppm":1}"#;
    let bench =
        policy("bench", &module("canary-share")?, &["--kind", "route", "--settings", settings, "--runs", "50"])?.expect(0)?.json()?;
    let number = |member: &str| bench[member].as_f64().with_context(|| format!("{member} in {bench}"));
    ensure!(number("p50_us")? > 0.0 && number("p50_us")? <= number("p99_us")? && number("p99_us")? <= number("max_us")?, "{bench}");
    ensure!(bench["runs"] == 50 && number("fuel")? > 0.0 && number("fuel_max")? >= number("fuel")? * number("fuel_room")?, "{bench}");
    let (memory, most) = (number("memory_bytes")?, number("memory_bytes_max")?);
    ensure!(memory > 0.0 && memory % 65536.0 == 0.0 && memory <= most && most == 4_194_304.0, "{bench}");
    Ok(())
}

#[test]
fn a_new_policy_is_not_written_over_something() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("mine");
    let new = |name: &str| {
        cli::keyrelay([
            "policy".as_ref(),
            "new".as_ref(),
            name.as_ref(),
            "--kind".as_ref(),
            "expiry".as_ref(),
            "--dir".as_ref(),
            path.as_os_str(),
        ])
    };
    new("Mine")?.expect(2)?;
    new("mine-")?.expect(2)?;
    new("mine")?.expect(0)?;
    ensure!(path.join("src/lib.rs").is_file() && path.join("keyrelay/wit/policy.wit").is_file());
    let again = new("mine")?.expect(2)?;
    ensure!(again.stderr.contains("is not empty"), "{}", again.stderr);
    Ok(())
}
