//! `keyrelay policy diff`: what a candidate would have changed.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use policy_host::backtest::{Backtest, Report, Tally, settings_of};
use policy_host::{Input, Module, canonical_json};
use schemas::decision::DecisionEffect;
use schemas::policy::{PolicyClass, PolicyKind};
use serde::Serialize;

use super::records::{self, Source, word};
use super::workbench::{CodeFolder, Workbench};
use crate::cli::client::Client;
use crate::cli::failure::{Failure, Problem};
use crate::cli::output::Output;
use crate::cli::render;

/// What every report says of itself.
const METHOD: &str = "open loop: every decision is made on the facts as recorded, meters included; what other decisions would have left of them is not followed";

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    /// The module of the candidate
    candidate: PathBuf,
    /// expiry, quota or route [default: what the module is]
    #[arg(long = "as", value_name = "KIND", value_parser = word::<PolicyKind>)]
    candidate_kind: Option<PolicyKind>,
    /// The limits that the candidate runs under: fast or slow
    #[arg(long, value_parser = word::<PolicyClass>, default_value = "fast")]
    class: PolicyClass,
    /// Settings for the candidate as JSON, or @FILE [default: those that each decision was made with]
    #[arg(long, value_name = "JSON|@FILE")]
    settings: Option<String>,
    #[command(flatten)]
    source: Source,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Answer {
    candidate: schemas::Digest,
    kind: PolicyKind,
    method: &'static str,
    #[serde(flatten)]
    report: Report,
}

/// Why there is no report.
enum Refusal {
    /// The candidate does not take settings.
    Settings(String),
}

pub(super) async fn run(
    args: Diff,
    folder: CodeFolder,
    connect: impl FnOnce() -> Result<Client, Failure>,
    output: &mut Output,
) -> Result<(), Failure> {
    let Diff { candidate, candidate_kind, class, settings, source } = args;
    let settings = settings.map(|text| super::settings(&text)).transpose()?.map(|value| canonical_json(&value));
    let client = if source.from.is_none() { Some(connect()?) } else { None };
    let answer = records::process(source, client.as_ref(), move |decisions| {
        let workbench = Workbench::new(&folder)?;
        let module = workbench.admit(&candidate, candidate_kind, class)?.module;
        if let Some(Err(refusal)) = settings.as_deref().map(|settings| configure(&module, settings)) {
            return Ok(Err(refusal));
        }
        let (mut backtest, mut taken) = (Backtest::new(module.clone(), settings.clone()), HashSet::new());
        for decision in decisions {
            let (id, record) = decision?;
            let is_new = settings.is_none() && record.kind == module.kind() && taken.insert(record.settings);
            if let Some(input) = is_new.then(|| Input::decode(&record.input)).flatten()
                && let Err(refusal) = configure(&module, settings_of(&input))
            {
                return Ok(Err(refusal));
            }
            backtest.add(&id, &record);
        }
        Ok(Ok(Answer { candidate: *module.digest(), kind: module.kind(), method: METHOD, report: backtest.finish() }))
    });
    let answer = match answer.await? {
        Ok(answer) => answer,
        Err(Refusal::Settings(detail)) => {
            return Err(Failure::Refused(Problem { status: 422, code: "settings_refused".to_owned(), detail, lines: Vec::new() }));
        }
    };
    output.answer(&answer, text)?;
    if answer.report.compared == 0 {
        return Err(anyhow::anyhow!("nothing was compared: no decision is one that the candidate can be asked for").into());
    }
    let is_quiet = answer.report.flipped.decisions == 0 && answer.report.picks_changed.decisions == 0;
    if is_quiet { Ok(()) } else { Err(Failure::Findings) }
}

fn configure(module: &Module, settings: &str) -> Result<(), Refusal> {
    module.configure(settings).map_err(|error| Refusal::Settings(format!("the candidate does not take the settings {settings}: {error}")))
}

const fn effect(effect: DecisionEffect) -> &'static str {
    match effect {
        DecisionEffect::Permit => "permit",
        DecisionEffect::Deny => "deny",
        DecisionEffect::NotApplicable => "not applicable",
        DecisionEffect::Fault => "fault",
    }
}

fn tally(tally: &Tally) -> String {
    let unpriced = if tally.unpriced > 0 { format!(", {} without a price", tally.unpriced) } else { String::new() };
    let money = format!("{}.{:06}", tally.cost_max_microusd / 1_000_000, tally.cost_max_microusd % 1_000_000);
    format!("{} decisions on {} requests, at most ${money}{unpriced}", tally.decisions, tally.requests)
}

fn text(answer: &Answer) -> String {
    let report = &answer.report;
    let mut pairs = vec![
        ("candidate", answer.candidate.to_string()),
        ("compared", report.compared.to_string()),
        ("same", report.same.to_string()),
        ("flipped", tally(&report.flipped)),
        ("other picks", tally(&report.picks_changed)),
        ("other details", tally(&report.details_changed)),
    ];
    let left_out = [("of other kinds", report.other_kind), ("undecided", report.undecided), ("unreadable", report.unreadable)];
    pairs.extend(left_out.iter().filter(|(_, count)| *count > 0).map(|(title, count)| (*title, count.to_string())));
    let mut lines = vec![render::pairs(&pairs)];
    lines.extend(report.flips.iter().map(|flip| format!("{} -> {}: {}", effect(flip.before), effect(flip.after), tally(&flip.tally))));
    lines.extend(report.by_reason.iter().map(|(reason, of)| format!("reason {reason}: {}", tally(of))));
    lines.extend(report.by_tenant.iter().map(|(tenant, of)| format!("tenant {tenant}: {}", tally(of))));
    lines.push(format!("({METHOD})"));
    lines.join("\n")
}
