//! `keyrelay policy run`: one question to a module.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use policy_host::{ConfigureError, Input, Module, Output as Answer, canonical_json};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::output::Output;
use super::example;
use super::module_file::{ModuleArgs, Trial, read_text};
use super::vectors::told;
use super::workbench::CodeFolder;

#[derive(Debug, Args)]
pub(in crate::cli) struct Run {
    #[command(flatten)]
    question: Question,
}

/// What is asked of which module.
#[derive(Debug, Args)]
pub(super) struct Question {
    #[command(flatten)]
    pub(super) module: ModuleArgs,
    /// What is to change in an ordinary request: a JSON object, or '-' for standard input [default: nothing]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The binding's settings as JSON, or @FILE [default: `settings` of the input, else none]
    #[arg(long, value_name = "JSON|@FILE")]
    settings: Option<String>,
}

impl Question {
    /// The admitted module, and the input as a node would give it. Settings that the policy refuses are findings.
    pub(super) fn ask(&self, folder: &CodeFolder, output: &mut Output) -> Result<(Trial, Input), Failure> {
        let mut changes: Value = match &self.input {
            None => json!({}),
            Some(path) => serde_json::from_str(&read_text(path)?).with_context(|| format!("{} is not JSON", path.display()))?,
        };
        let mut member = |name: &str| changes.as_object_mut().and_then(|members| members.remove(name));
        let (said, inside) = (member("kind"), member("settings"));
        let said = said.map(serde_json::from_value).transpose().context("`kind` is route, quota or expiry")?;
        let given = self.settings.as_deref().map(super::settings).transpose()?;
        let settings: Value = given.or(inside).unwrap_or_else(|| json!({}));
        let trial = self.module.read(said, None)?.admitted(folder, output)?;
        take(&trial.admitted.module, &settings, output)?;
        let input = example::input(&trial.admitted.manifest, &changes, &settings).context("the input is not understood")?;
        Ok((trial, input))
    }
}

fn take(module: &Module, settings: &Value, output: &mut Output) -> Result<(), Failure> {
    match module.configure(&canonical_json(settings)) {
        Ok(()) => Ok(()),
        Err(ConfigureError::Refused(faults)) => {
            for fault in faults {
                output.note(&format!("error: the settings are refused: {fault}"));
            }
            Err(Failure::Findings)
        }
        Err(ConfigureError::Fault(fault)) => {
            output.note(&format!("error: `configure` ends in the fault {}", told(&fault)));
            Err(Failure::Findings)
        }
    }
}

pub(super) fn run(args: &Run, folder: &CodeFolder, output: &mut Output) -> Result<(), Failure> {
    let (trial, input) = args.question.ask(folder, output)?;
    let evaluation = trial.admitted.module.decide(&input);
    let elapsed_us = u64::try_from(evaluation.elapsed.as_micros()).unwrap_or(u64::MAX);
    match &evaluation.result {
        Ok(decided) => {
            let answer = json!({
                "output": plain(decided)?, "digest": decided.digest(), "input_digest": input.digest(), "fuel": evaluation.fuel, "elapsed_us": elapsed_us,
            });
            output.answer(&answer, |answer| {
                let decided = serde_json::to_string_pretty(&answer["output"]).unwrap_or_default();
                format!("{decided}\nfuel {}, {elapsed_us} us", evaluation.fuel)
            })
        }
        Err(fault) => {
            let answer = json!({ "fault": fault.code(), "detail": fault.detail(), "fuel": evaluation.fuel, "elapsed_us": elapsed_us });
            output.answer(&answer, |_| format!("fault {}\nfuel {}, {elapsed_us} us", told(fault), evaluation.fuel))?;
            Err(Failure::Findings)
        }
    }
}

/// An output as JSON, without the name of its kind around it.
pub(super) fn plain(output: &Answer) -> anyhow::Result<Value> {
    let value = match output {
        Answer::Expiry(output) => serde_json::to_value(output),
        Answer::Quota(output) => serde_json::to_value(output),
        Answer::Route(output) => serde_json::to_value(output),
    };
    Ok(value?)
}
