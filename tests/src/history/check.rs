//! What does not fit together between a history and the views of the log after it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::{Result, ensure};

use super::{History, Moment, Outcome, Record, Request, View, Write};
use crate::admin::Used;
use crate::upstream::Counted;

/// So many findings are told; the rest are counted.
const TOLD_MAX: usize = 20;

/// What is known once a cluster has come to rest.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Of every node, and of the log itself.
    pub views: Vec<View>,
    /// What the upstream says it answered; none if usage is not looked at.
    pub counted: Option<Counted>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An acknowledged write is not where its answer said.
    Lost,
    /// One command is in the log twice.
    Twice,
    /// Two records, or two answers, have one place in a stream.
    TwoWinners,
    /// The sequences of the log, or the versions of a stream, are not dense.
    Gap,
    /// Two views show different logs.
    Differ,
    /// A write that began after another had been answered stands before it.
    Order,
    /// A read that waited for a write did not see it.
    StaleRead,
    /// A key was served after its revocation was said to be everywhere.
    ServedAfterFence,
    /// A relay request with a good key was not served.
    RelayFailed,
    /// What was counted is not what the upstream answered.
    Usage,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

impl Settled {
    /// Fails with what is wrong, if anything is.
    pub fn expect_sound(&self, history: &History) -> Result<()> {
        let findings = check(history, self);
        let told: Vec<String> = findings.iter().take(TOLD_MAX).map(ToString::to_string).collect();
        ensure!(findings.is_empty(), "{} findings\n{}", findings.len(), told.join("\n"));
        Ok(())
    }
}

/// Everything that is wrong, in no order that matters.
pub fn check(history: &History, settled: &Settled) -> Vec<Finding> {
    let mut findings = Findings::default();
    for view in &settled.views {
        dense(view, &mut findings);
        once(view, &mut findings);
        acknowledged_are_there(history, view, &mut findings);
    }
    same(&settled.views, &mut findings);
    one_winner(history, &mut findings);
    in_order(&history.writes, &mut findings);
    reads(history, &mut findings);
    requests(history, &mut findings);
    if let Some(counted) = settled.counted {
        usage(history, &settled.views, counted, &mut findings);
    }
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, kind: Kind, what: String) {
        self.0.push(Finding { kind, what });
    }
}

/// The stream of a key of the first tenant, as it is shown.
fn stream_of(key: &str) -> String {
    format!("default.key.{key}")
}

/// Sequences and the versions of each stream begin at 1 and have no holes.
fn dense(view: &View, findings: &mut Findings) {
    let mut versions: HashMap<&str, u64> = HashMap::new();
    for (expected, record) in (1..).zip(&view.records) {
        if record.sequence != expected {
            findings.add(Kind::Gap, format!("{} shows sequence {} in the place of {expected}", view.name, record.sequence));
            return;
        }
        if record.void.is_some() {
            continue;
        }
        let last = versions.entry(&record.stream).or_default();
        match record.version {
            version if version == *last + 1 => *last = version,
            version if version <= *last => {
                findings.add(Kind::TwoWinners, format!("{} shows version {version} twice: {record:?}", view.name));
            }
            _ => {
                findings.add(Kind::Gap, format!("{} shows version {last} and then {record:?}", view.name));
                *last = record.version;
            }
        }
    }
}

/// No command is there twice.
fn once(view: &View, findings: &mut Findings) {
    let mut commands: HashMap<&str, u64> = HashMap::new();
    for record in view.records.iter().filter(|record| record.void.is_none()) {
        if let Some(first) = commands.insert(&record.command, record.sequence) {
            findings.add(Kind::Twice, format!("{} shows command {} at {first} and at {}", view.name, record.command, record.sequence));
        }
    }
}

/// Each acknowledged write stands at its sequence, in its stream, with its version and its event.
fn acknowledged_are_there(history: &History, view: &View, findings: &mut Findings) {
    let by_sequence: HashMap<u64, &Record> = view.records.iter().map(|record| (record.sequence, record)).collect();
    for write in &history.writes {
        let Outcome::Acknowledged { sequence, version, .. } = write.outcome else { continue };
        let is_it = |record: &&&Record| {
            record.void.is_none()
                && record.version == version
                && record.events.iter().any(|event| event == write.event)
                && write.key.as_ref().is_none_or(|key| record.stream == stream_of(key))
        };
        if by_sequence.get(&sequence).filter(is_it).is_none() {
            findings.add(Kind::Lost, format!("{} shows {:?} for {write:?}", view.name, by_sequence.get(&sequence)));
        }
    }
}

/// All views show one log, and one root.
fn same(views: &[View], findings: &mut Findings) {
    let Some((first, others)) = views.split_first() else { return };
    for other in others {
        if first.position != other.position || first.records.len() != other.records.len() {
            let lengths = [(first.position, first.records.len()), (other.position, other.records.len())];
            findings.add(Kind::Differ, format!("{} and {} show (position, records) {lengths:?}", first.name, other.name));
        }
        if let Some((one, two)) = first.records.iter().zip(&other.records).find(|(one, two)| one != two) {
            findings.add(Kind::Differ, format!("{} shows {one:?}, {} shows {two:?}", first.name, other.name));
        }
        if let (Some(one), Some(two)) = (&first.root, &other.root)
            && first.position == other.position
            && one != two
        {
            findings.add(Kind::Differ, format!("at {} the root of {} is {one}, of {} {two}", first.position, first.name, other.name));
        }
    }
}

/// No two answers give out one version of a key, and no two writes that expected the same version were both acknowledged.
fn one_winner(history: &History, findings: &mut Findings) {
    let mut given: HashMap<(&str, u64), &Write> = HashMap::new();
    let mut expected = given.clone();
    for write in &history.writes {
        let (Outcome::Acknowledged { version, .. }, Some(key)) = (&write.outcome, &write.key) else { continue };
        let before = write.expected.and_then(|expected_version| expected.insert((key, expected_version), write));
        if let Some(other) = given.insert((key, *version), write).or(before) {
            findings.add(Kind::TwoWinners, format!("both were acknowledged: {other:?} and {write:?}"));
        }
    }
}

/// What had been answered before something else was asked stands before it.
fn in_order(writes: &[Write], findings: &mut Findings) {
    let acknowledged = writes.iter().filter_map(|write| match write.outcome {
        Outcome::Acknowledged { at, sequence, .. } => Some((write, at, sequence)),
        Outcome::Refused { .. } | Outcome::Unknown => None,
    });
    let mut by_invocation: Vec<(&Write, Moment, u64)> = acknowledged.collect();
    let mut by_answer = by_invocation.clone();
    by_invocation.sort_by_key(|(write, ..)| write.invoked);
    by_answer.sort_by_key(|(_, at, _)| *at);
    let mut answered = by_answer.into_iter().peekable();
    let mut highest: Option<(&Write, u64)> = None;
    for (write, _, sequence) in by_invocation {
        while let Some((earlier, _, earlier_sequence)) = answered.next_if(|(_, at, _)| *at < write.invoked) {
            if highest.is_none_or(|(_, highest)| highest < earlier_sequence) {
                highest = Some((earlier, earlier_sequence));
            }
        }
        if let Some((earlier, highest)) = highest.filter(|(_, highest)| *highest > sequence) {
            findings.add(Kind::Order, format!("{write:?} stands before {highest}, which was answered before it began: {earlier:?}"));
        }
    }
}

fn reads(history: &History, findings: &mut Findings) {
    for read in &history.reads {
        if read.shown.is_some_and(|shown| shown < read.version) {
            findings.add(Kind::StaleRead, format!("{read:?}"));
        }
    }
}

/// A key is served until it is revoked, and not after that.
fn requests(history: &History, findings: &mut Findings) {
    let mut revocations: HashMap<&str, Moment> = HashMap::new();
    for write in history.writes.iter().filter(|write| write.event == "KeyRevoked") {
        if let Some(key) = &write.key {
            let first = revocations.entry(key).or_insert(write.invoked);
            *first = write.invoked.min(*first);
        }
    }
    for request in &history.requests {
        let is_served = request.status == 200;
        let is_fenced = history.fences.get(&request.key).is_some_and(|fence| request.sent > *fence);
        // While a revocation is under way either is right.
        let revoked_at = revocations.get(request.key.as_str());
        let may_be_revoked = is_refusal(request) && revoked_at.is_some_and(|invoked| request.answered >= *invoked);
        match (is_served, is_fenced) {
            (true, true) => findings.add(Kind::ServedAfterFence, format!("{request:?}")),
            (false, true) if !is_refusal(request) => findings.add(Kind::RelayFailed, format!("{request:?}")),
            (false, false) if !may_be_revoked => findings.add(Kind::RelayFailed, format!("{request:?}")),
            (true, false) | (false, _) => {}
        }
    }
}

fn is_refusal(request: &Request) -> bool {
    request.status == 401 && request.reason == "key_revoked"
}

/// Every node counts what the upstream answered, no more and no less.
fn usage(history: &History, views: &[View], counted: Counted, findings: &mut Findings) {
    let mut served: BTreeMap<&str, u64> = BTreeMap::new();
    for request in history.requests.iter().filter(|request| request.status == 200) {
        *served.entry(&request.key).or_default() += 1;
    }
    for view in views {
        let Some(usage) = &view.usage else { continue };
        let total = usage.values().fold(Used::default(), |sum, used| Used {
            requests: sum.requests + used.requests,
            input_tokens: sum.input_tokens + used.input_tokens,
            output_tokens: sum.output_tokens + used.output_tokens,
        });
        let answered = Used { requests: counted.requests, input_tokens: counted.input_tokens, output_tokens: counted.output_tokens };
        if total != answered {
            findings.add(Kind::Usage, format!("{} counts {total:?}, the upstream answered {answered:?}", view.name));
        }
        for (key, served) in &served {
            let used = usage.get(*key).map_or(0, |used| used.requests);
            if used != *served {
                findings.add(Kind::Usage, format!("{} counts {used} requests of {key}, {served} were served", view.name));
            }
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
