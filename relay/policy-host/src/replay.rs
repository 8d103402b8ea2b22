//! Recorded decisions, run again.
//!
//! A record holds the input's bytes and the answer's. The same module on the same engine must give the same bytes and use the same fuel;
//! anything else is an incident, not noise. On another engine the bytes must still be the same, and the fuel may differ.

use schemas::decision::{DecisionAnswer, DecisionRecord};
use schemas::{Digest, RequestId};
use serde::Serialize;

use crate::{Evaluation, Input, Module};

/// How often a fault that depends on the machine is tried again, before the record stays undecided.
const ATTEMPTS_MAX: usize = 3;

/// What running a record again came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// Bit for bit.
    Same,
    /// The recorded fault came of the machine's load or state, so that there is nothing to compare with.
    NotReplayable,
    /// The machine was too slow now, again and again; the record may be as good as any.
    Undecided,
    Differs(Difference),
}

/// What is not as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "difference")]
pub enum Difference {
    /// The input's bytes are not those of any input of this contract.
    Input,
    /// The answer's bytes, or the fault with its detail.
    Answer { recorded: String, found: String },
    /// On the same engine.
    Fuel { recorded: u64, found: u64 },
}

/// Runs a record again. `engine` is the profile of the module's host.
pub fn replay(record: &DecisionRecord, module: &Module, engine: &str) -> Replayed {
    if matches!(record.answer, DecisionAnswer::Fault { replayable: false, .. }) {
        return Replayed::NotReplayable;
    }
    let Some(input) = Input::decode(&record.input) else { return Replayed::Differs(Difference::Input) };
    let Some(evaluation) = decide(module, &input) else { return Replayed::Undecided };
    let found = answer(&evaluation);
    if found != record.answer {
        return Replayed::Differs(Difference::Answer { recorded: shown(&record.answer), found: shown(&found) });
    }
    if record.engine == engine && record.fuel != evaluation.fuel {
        return Replayed::Differs(Difference::Fuel { recorded: record.fuel, found: evaluation.fuel });
    }
    Replayed::Same
}

/// An evaluation that the machine's load has no part in; none if there is none to be had.
pub(crate) fn decide(module: &Module, input: &Input) -> Option<Evaluation> {
    let evaluations = std::iter::repeat_with(|| module.decide(input)).take(ATTEMPTS_MAX);
    evaluations.into_iter().find(|evaluation| evaluation.result.as_ref().err().is_none_or(crate::PolicyFault::is_replayable))
}

/// What came back, as a record keeps it.
pub fn answer(evaluation: &Evaluation) -> DecisionAnswer {
    match &evaluation.result {
        Ok(output) => DecisionAnswer::Output(output.encode()),
        Err(fault) => DecisionAnswer::Fault { code: fault.code().to_owned(), detail: fault.detail(), replayable: fault.is_replayable() },
    }
}

fn shown(answer: &DecisionAnswer) -> String {
    match answer {
        DecisionAnswer::Output(bytes) => format!("output {}", Digest::blake3(bytes)),
        DecisionAnswer::Fault { code, detail, .. } if detail.is_empty() => format!("fault {code}"),
        DecisionAnswer::Fault { code, detail, .. } => format!("fault {code}: {detail}"),
    }
}

/// The most differences that a report names.
pub const NAMED_MAX: usize = 100;

/// What running many records again came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub decisions: u64,
    /// Bit for bit as recorded.
    pub same: u64,
    /// Of the decisions: those that were recorded on another engine, whose fuel was not compared.
    pub other_engine: u64,
    pub not_replayable: u64,
    pub undecided: u64,
    /// Decisions of modules that are not at hand.
    pub missing: u64,
    pub differing: u64,
    /// The first that differ.
    pub named: Vec<Differing>,
}

/// A decision that differs, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Differing {
    /// As the decision's list or file names it.
    pub id: String,
    pub request: RequestId,
    pub policy: Digest,
    #[serde(flatten)]
    pub difference: Difference,
}

impl Report {
    /// Runs a record again and counts it. `id` names it; without a module it is missing, unless there is nothing to run.
    pub fn add(&mut self, id: &str, record: &DecisionRecord, module: Option<&Module>, engine: &str) {
        self.decisions += 1;
        if record.engine != engine {
            self.other_engine += 1;
        }
        let replayed = match module {
            Some(module) => replay(record, module, engine),
            None if matches!(record.answer, DecisionAnswer::Fault { replayable: false, .. }) => Replayed::NotReplayable,
            None => {
                self.missing += 1;
                return;
            }
        };
        match replayed {
            Replayed::Same => self.same += 1,
            Replayed::NotReplayable => self.not_replayable += 1,
            Replayed::Undecided => self.undecided += 1,
            Replayed::Differs(difference) => {
                self.differing += 1;
                if self.named.len() < NAMED_MAX {
                    self.named.push(Differing { id: id.to_owned(), request: record.request, policy: record.policy, difference });
                }
            }
        }
    }

    /// Whether everything that can be run again was, and gave what was recorded.
    pub const fn is_clean(&self) -> bool {
        self.differing == 0 && self.undecided == 0 && self.missing == 0
    }
}
