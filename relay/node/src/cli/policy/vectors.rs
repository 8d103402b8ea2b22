//! Table vectors: a file of inputs and the answers that are expected of a policy.

use anyhow::{Context as _, Result};
use policy_host::contract::quota::Charge;
use policy_host::contract::{Advice, Effect, Obligation};
use policy_host::{Evaluation, Output, PolicyFault};
use schemas::policy::{PolicyClass, PolicyKind};
use serde::Deserialize;
use serde_json::Value;

use super::example;

/// A file of vectors. What it says at the top holds for all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vectors {
    pub(super) kind: Option<PolicyKind>,
    pub(super) class: Option<PolicyClass>,
    #[serde(default = "empty")]
    settings: Value,
    #[serde(default = "empty")]
    input: Value,
    pub(super) vectors: Vec<Vector>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vector {
    /// What it shows.
    pub(super) name: String,
    /// Merged over those at the top, as the input is.
    #[serde(default = "empty")]
    settings: Value,
    #[serde(default = "empty")]
    input: Value,
    expect: Value,
}

/// What is expected. Only what is said is compared.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    effect: Option<Effect>,
    /// Codes.
    reasons: Option<Vec<String>>,
    obligations: Option<Vec<Obligation>>,
    advice: Option<Vec<Advice>>,
    /// In the order of their ranks.
    picks: Option<Vec<ExpectedPick>>,
    reserve: Option<Vec<Charge>>,
    retry_ms: Option<u64>,
    valid_until_ms: Option<i64>,
    /// The code of the host's fault, or of the one that the policy declares.
    fault: Option<String>,
    /// Codes of what is wrong with the settings, which are then not bound.
    pub(super) refused: Option<Vec<String>>,
}

/// A pick by the name or the id of its candidate.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ExpectedPick {
    Candidate(String),
    Placed(Placed),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Placed {
    pick: String,
    rank: Option<u32>,
    weight: Option<u32>,
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

impl Vectors {
    pub(super) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("these are no vectors")
    }

    /// A vector's settings over those of the file.
    pub(super) fn settings(&self, vector: &Vector) -> Value {
        let mut settings = empty();
        example::merge(&mut settings, &self.settings);
        example::merge(&mut settings, &vector.settings);
        settings
    }

    /// A vector's changes of the example over those of the file.
    pub(super) fn input(&self, vector: &Vector) -> Value {
        merged(&self.input, &vector.input)
    }

    pub(super) fn expected(&self, vector: &Vector) -> Result<Expected> {
        let mut expect = vector.expect.clone();
        example::times(&mut expect, example::now_ms(&self.input(vector))?)?;
        serde_json::from_value(expect).context("`expect` is not understood")
    }
}

/// `null` in a later patch must still take a member out of the example, so patches are not merged as values are.
fn merged(first: &Value, second: &Value) -> Value {
    match (first, second) {
        (Value::Object(first), Value::Object(second)) => {
            let mut members = first.clone();
            for (name, patch) in second {
                let under = members.get(name).map_or_else(|| patch.clone(), |value| merged(value, patch));
                members.insert(name.clone(), under);
            }
            Value::Object(members)
        }
        (_, second) => second.clone(),
    }
}

impl Expected {
    /// All that is not as expected.
    pub(super) fn differences(&self, input: &policy_host::Input, evaluation: &Evaluation) -> Vec<String> {
        let mut found = Vec::new();
        match (&evaluation.result, &self.fault) {
            (Ok(output), None) => self.compare(input, output, &mut found),
            (Ok(output), Some(fault)) => found.push(format!("expected the fault {fault}, got {:?}", output.verdict().effect)),
            (Err(fault), Some(expected)) if is_called(fault, expected) => {}
            (Err(fault), Some(expected)) => found.push(format!("expected the fault {expected}, got {}", told(fault))),
            (Err(fault), None) => found.push(format!("fault {}", told(fault))),
        }
        found
    }

    fn compare(&self, input: &policy_host::Input, output: &Output, found: &mut Vec<String>) {
        let verdict = output.verdict();
        let codes = verdict.reasons.iter().map(|reason| reason.code.clone()).collect();
        differ("effect", self.effect.as_ref(), &verdict.effect, found);
        differ("reasons", self.reasons.as_ref(), &codes, found);
        differ("obligations", self.obligations.as_ref(), &verdict.obligations, found);
        differ("advice", self.advice.as_ref(), &verdict.advice, found);
        let (picks, reserve, retry_ms, valid_until_ms) = match output {
            Output::Route(output) => (Some(&output.picks), None, None, None),
            Output::Quota(output) => (None, Some(&output.reserve), output.retry_ms, None),
            Output::Expiry(output) => (None, None, None, output.valid_until_ms),
        };
        differ("reserve", self.reserve.as_ref(), reserve.unwrap_or(&Vec::new()), found);
        differ("retry_ms", self.retry_ms.as_ref().map(Some).as_ref(), &retry_ms.as_ref(), found);
        differ("valid_until_ms", self.valid_until_ms.as_ref().map(Some).as_ref(), &valid_until_ms.as_ref(), found);
        if let (Some(expected), policy_host::Input::Route(input)) = (&self.picks, input) {
            let mut picks = picks.cloned().unwrap_or_default();
            picks.sort_by_key(|pick| pick.rank);
            let name = |id: &str| input.candidates.iter().find(|candidate| candidate.id == id).map_or("?", |candidate| &candidate.name);
            let is_met = |(expected, pick): (&ExpectedPick, &policy_host::contract::route::Pick)| {
                let (wanted, rank, weight) = match expected {
                    ExpectedPick::Candidate(wanted) => (wanted, None, None),
                    ExpectedPick::Placed(Placed { pick, rank, weight }) => (pick, *rank, *weight),
                };
                (*wanted == pick.id || wanted == name(&pick.id))
                    && rank.is_none_or(|rank| rank == pick.rank)
                    && weight.is_none_or(|weight| weight == pick.weight)
            };
            if expected.len() != picks.len() || !expected.iter().zip(&picks).all(is_met) {
                let got: Vec<String> =
                    picks.iter().map(|pick| format!("{} (rank {}, weight {})", name(&pick.id), pick.rank, pick.weight)).collect();
                found.push(format!("picks: got {}", if got.is_empty() { "none".to_owned() } else { got.join(", ") }));
            }
        } else if self.picks.is_some() {
            found.push("picks: only route policies have them".to_owned());
        }
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, expected: Option<&T>, got: &T, found: &mut Vec<String>) {
    if let Some(expected) = expected.filter(|expected| *expected != got) {
        found.push(format!("{what}: expected {expected:?}, got {got:?}"));
    }
}

fn is_called(fault: &PolicyFault, code: &str) -> bool {
    let declared = matches!(fault, PolicyFault::Declared(declared) if declared.code == code);
    declared || fault.code() == code
}

/// A fault as people read it.
pub(super) fn told(fault: &PolicyFault) -> String {
    let detail = fault.detail();
    if detail.is_empty() { fault.code().to_owned() } else { format!("{} ({detail})", fault.code()) }
}
