//! A candidate over recorded decisions: what it would have decided, against what was decided.
//!
//! Open loop: every decision is made on the facts as they were recorded, meters included. A candidate that denies more would have left meters
//! lower, and one that denies less would have raised them; that is not followed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use schemas::decision::{DecisionAnswer, DecisionEffect, DecisionRecord};
use schemas::{RequestId, TenantId};
use serde::Serialize;

use crate::contract::Effect;
use crate::{Input, Module, Output, replay};

/// The reason under which flips are counted that give none.
const NO_REASON: &str = "none";
/// The most changed decisions that are named.
pub const NAMED_MAX: usize = 100;

/// So many decisions, and the money that hangs on them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub decisions: u64,
    /// One request may be decided on more than once.
    pub requests: u64,
    /// The most that those requests could cost, each counted once, in micro-dollars.
    pub cost_max_microusd: u64,
    /// Requests among them without a price.
    pub unpriced: u64,
    #[serde(skip)]
    seen: HashSet<RequestId>,
}

impl Tally {
    fn add(&mut self, record: &DecisionRecord) {
        self.decisions += 1;
        if self.seen.insert(record.request) {
            self.requests += 1;
            match record.cost_max {
                Some(cost) => self.cost_max_microusd = self.cost_max_microusd.saturating_add(cost),
                None => self.unpriced += 1,
            }
        }
    }
}

/// From one effect to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flip {
    pub before: DecisionEffect,
    pub after: DecisionEffect,
    #[serde(flatten)]
    pub tally: Tally,
}

/// A changed decision by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// As the decision's list or file names it.
    pub id: String,
    pub request: RequestId,
    pub before: DecisionEffect,
    pub after: DecisionEffect,
    pub reasons_before: Vec<String>,
    pub reasons_after: Vec<String>,
}

/// What a candidate would have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Decisions that both have made.
    pub compared: u64,
    /// The same effect, and the same answer.
    pub same: u64,
    /// The same effect, and other picks.
    pub picks_changed: Tally,
    /// The same effect and picks, and other reasons, obligations, advice, reservations or times.
    pub details_changed: Tally,
    /// Another effect.
    pub flipped: Tally,
    pub flips: Vec<Flip>,
    /// Flips by the reasons of the side that denies, or of the candidate where neither does. One with two reasons counts under both.
    pub by_reason: BTreeMap<String, Tally>,
    pub by_tenant: BTreeMap<TenantId, Tally>,
    /// The first flips.
    pub named: Vec<Changed>,
    /// Decisions of another kind than the candidate's.
    pub other_kind: u64,
    /// Decisions whose recorded fault, or whose fault now, came of the machine.
    pub undecided: u64,
    /// Inputs that this release does not read.
    pub unreadable: u64,
}

/// One run of a candidate.
pub struct Backtest {
    candidate: Arc<Module>,
    /// Canonical JSON that the candidate runs with; none for the settings that each decision was made with.
    settings: Option<String>,
    flips: BTreeMap<(DecisionEffect, DecisionEffect), Tally>,
    report: Report,
}

impl Backtest {
    pub fn new(candidate: Arc<Module>, settings: Option<String>) -> Self {
        Self { candidate, settings, flips: BTreeMap::new(), report: Report::default() }
    }

    /// Decides once more on what was recorded. `id` names the decision in the report.
    pub fn add(&mut self, id: &str, record: &DecisionRecord) {
        if record.kind != self.candidate.kind() {
            self.report.other_kind += 1;
            return;
        }
        let Some(mut input) = Input::decode(&record.input) else {
            self.report.unreadable += 1;
            return;
        };
        if let Some(settings) = &self.settings {
            set_settings(&mut input, settings.clone());
        }
        let recorded_by_machine = matches!(record.answer, DecisionAnswer::Fault { replayable: false, .. });
        let evaluation = if recorded_by_machine { None } else { replay::decide(&self.candidate, &input) };
        let Some(evaluation) = evaluation else {
            self.report.undecided += 1;
            return;
        };
        self.report.compared += 1;
        let after = replay::answer(&evaluation);
        if after == record.answer {
            self.report.same += 1;
            return;
        }
        let output = evaluation.result.as_ref().ok();
        let effect = output.map_or(DecisionEffect::Fault, |output| effect_of(output.verdict().effect));
        if effect != record.effect {
            self.flip(id, record, effect, output.map(reasons_of).unwrap_or_default());
        } else if picks_of(output) == picks_of(recorded(record).as_ref()) {
            self.report.details_changed.add(record);
        } else {
            self.report.picks_changed.add(record);
        }
    }

    fn flip(&mut self, id: &str, record: &DecisionRecord, after: DecisionEffect, reasons_after: Vec<String>) {
        let before = record.effect;
        self.report.flipped.add(record);
        self.flips.entry((before, after)).or_default().add(record);
        self.report.by_tenant.entry(record.tenant.clone()).or_default().add(record);
        let mut reasons = if before == DecisionEffect::Deny { record.reasons.clone() } else { reasons_after.clone() };
        if reasons.is_empty() {
            reasons.push(NO_REASON.to_owned());
        }
        reasons.sort();
        reasons.dedup();
        for reason in reasons {
            self.report.by_reason.entry(reason).or_default().add(record);
        }
        if self.report.named.len() < NAMED_MAX {
            let (id, request, reasons_before) = (id.to_owned(), record.request, record.reasons.clone());
            self.report.named.push(Changed { id, request, before, after, reasons_before, reasons_after });
        }
    }

    pub fn finish(self) -> Report {
        let flips = self.flips.into_iter().map(|((before, after), tally)| Flip { before, after, tally }).collect();
        Report { flips, ..self.report }
    }
}

/// The settings that an input was made with, canonical JSON.
pub fn settings_of(input: &Input) -> &str {
    match input {
        Input::Expiry(input) => &input.settings,
        Input::Quota(input) => &input.settings,
        Input::Route(input) => &input.settings,
    }
}

fn set_settings(input: &mut Input, settings: String) {
    match input {
        Input::Expiry(input) => input.settings = settings,
        Input::Quota(input) => input.settings = settings,
        Input::Route(input) => input.settings = settings,
    }
}

fn recorded(record: &DecisionRecord) -> Option<Output> {
    match &record.answer {
        DecisionAnswer::Output(bytes) => Output::decode(bytes),
        DecisionAnswer::Fault { .. } => None,
    }
}

const fn effect_of(effect: Effect) -> DecisionEffect {
    match effect {
        Effect::Permit => DecisionEffect::Permit,
        Effect::Deny => DecisionEffect::Deny,
        Effect::NotApplicable => DecisionEffect::NotApplicable,
    }
}

fn reasons_of(output: &Output) -> Vec<String> {
    output.verdict().reasons.iter().map(|reason| reason.code.clone()).collect()
}

fn picks_of(output: Option<&Output>) -> Option<&[crate::contract::route::Pick]> {
    match output {
        Some(Output::Route(output)) => Some(&output.picks),
        _ => None,
    }
}
