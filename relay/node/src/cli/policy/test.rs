//! `keyrelay policy test`: a module against its table vectors.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use policy_host::{ConfigureError, Module, canonical_json};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::Output;
use super::super::render;
use super::example;
use super::module_file::{ModuleArgs, read_text};
use super::vectors::{Vector, Vectors, told};
use super::workbench::CodeFolder;

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    #[command(flatten)]
    module: ModuleArgs,
    /// The vectors, or '-' for standard input
    vectors: PathBuf,
}

/// What became of one vector.
#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    ok: bool,
    /// What the policy answered, or the fault.
    answer: Value,
    fuel: u64,
    elapsed_us: u64,
    /// All that is not as expected.
    differences: Vec<String>,
}

pub(super) fn run(args: &Test, folder: &CodeFolder, output: &mut Output) -> Result<(), Failure> {
    let unreadable = || format!("in {}", args.vectors.display());
    let vectors = Vectors::parse(&read_text(&args.vectors)?).with_context(unreadable)?;
    let trial = args.module.read(vectors.kind, vectors.class)?.admitted(folder, output)?;
    let module = &trial.admitted.module;
    let outcome = |vector| judge(module, &vectors, vector).with_context(|| format!("vector `{}`", vector.name));
    let outcomes = vectors.vectors.iter().map(outcome).collect::<anyhow::Result<Vec<_>>>().with_context(unreadable)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    let passed = outcomes.len() - failed;
    let answer = json!({ "passed": passed, "failed": failed, "digest": trial.admitted.digest, "vectors": outcomes });
    output.answer(&answer, |_| {
        let mut lines = vec![table(&outcomes)];
        for outcome in outcomes.iter().filter(|outcome| !outcome.ok) {
            lines.extend(outcome.differences.iter().map(|difference| format!("FAILED {}: {difference}", outcome.name)));
        }
        lines.push(format!("{passed} passed, {failed} failed"));
        lines.join("\n")
    })?;
    if failed == 0 { Ok(()) } else { Err(Failure::Findings) }
}

fn judge(module: &Module, vectors: &Vectors, vector: &Vector) -> anyhow::Result<Outcome> {
    let expected = vectors.expected(vector)?;
    let settings = vectors.settings(vector);
    let refused = match module.configure(&canonical_json(&settings)) {
        Ok(()) => None,
        Err(ConfigureError::Refused(faults)) => Some(faults),
        Err(ConfigureError::Fault(fault)) => anyhow::bail!("`configure` ends in the fault {}", told(&fault)),
    };
    let mut outcome =
        Outcome { name: vector.name.clone(), ok: false, answer: Value::Null, fuel: 0, elapsed_us: 0, differences: Vec::new() };
    match (refused, &expected.refused) {
        (Some(faults), Some(expected)) => {
            let codes: Vec<&String> = faults.iter().map(|fault| &fault.code).collect();
            if codes.iter().ne(&expected.iter().collect::<Vec<_>>()) {
                outcome.differences.push(format!("refused: expected {expected:?}, got {codes:?}"));
            }
            outcome.answer = json!({ "refused": faults });
        }
        (Some(faults), None) => {
            outcome.differences.extend(faults.iter().map(|fault| format!("settings: {fault}")));
            outcome.answer = json!({ "refused": faults });
        }
        (None, Some(codes)) => outcome.differences.push(format!("the settings are taken, but {codes:?} was expected")),
        (None, None) => {
            let input = example::input(module.manifest(), &vectors.input(vector), &settings)?;
            let evaluation = module.decide(&input);
            outcome.differences = expected.differences(&input, &evaluation);
            let again = module.decide(&input);
            if (&again.result, again.fuel) != (&evaluation.result, evaluation.fuel) {
                outcome.differences.push("a second evaluation of the same input was another one".to_owned());
            }
            outcome.fuel = evaluation.fuel;
            outcome.elapsed_us = u64::try_from(evaluation.elapsed.as_micros()).unwrap_or(u64::MAX);
            outcome.answer = match &evaluation.result {
                Ok(output) => super::run::plain(output)?,
                Err(fault) => json!({ "fault": fault.code(), "detail": fault.detail() }),
            };
        }
    }
    outcome.ok = outcome.differences.is_empty();
    Ok(outcome)
}

fn table(outcomes: &[Outcome]) -> String {
    let effect = |answer: &Value| match answer {
        Value::Object(members) if members.contains_key("refused") => json!("settings refused"),
        Value::Object(members) if members.contains_key("fault") => json!("fault"),
        answer => answer["verdict"]["effect"].clone(),
    };
    let row = |outcome: &Outcome| {
        json!({
            "result": if outcome.ok { "ok" } else { "FAILED" }, "vector": outcome.name, "effect": effect(&outcome.answer),
            "reasons": outcome.answer["verdict"]["reasons"].as_array().map(|reasons| reasons.iter().map(|reason| reason["code"].clone()).collect::<Vec<_>>()),
            "fuel": outcome.fuel, "us": outcome.elapsed_us,
        })
    };
    let rows: Vec<Value> = outcomes.iter().map(row).collect();
    let fields =
        [("result", "/result"), ("vector", "/vector"), ("effect", "/effect"), ("reasons", "/reasons"), ("fuel", "/fuel"), ("us", "/us")];
    render::table(&rows, &fields)
}
