//! Which policies a node runs no more for a while, because they failed again and again.
//!
//! What is kept are facts per binding, module and settings: how often it failed in a row, and when it may be tried again. A request in
//! between is decided by what was bound before, or as the binding's `on_fault` says, at no cost but the look-up here. One trial at a time
//! finds out whether it works again; each that fails doubles the pause. A module may fail with some settings and be sound with others, so
//! what failed with new settings says nothing of the old ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use schemas::{BindingId, Digest, Timestamp};

/// So many faults in a row open the breaker.
pub const FAULTS_MAX: u32 = 5;
/// The first pause.
pub const PAUSE_MIN: Duration = Duration::from_secs(30);
/// However often a trial failed, the next comes after this.
pub const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Facts are kept for so many versions; beyond it those whose pause ended longest ago go.
const VERSIONS_MAX: usize = 4_096;

/// What may fail: a module as a binding runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    pub binding: BindingId,
    pub policy: Digest,
    /// BLAKE3 of the settings.
    pub settings: Digest,
}

/// The versions that failed lately. One per node.
#[derive(Default)]
pub struct Breaker {
    /// Written at faults, at the first success after one, and at trials.
    facts: Mutex<HashMap<Version, Fact>>,
    /// 0 if there are no facts, as on a good day, which then costs no lock.
    count: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
struct Fact {
    in_a_row: u32,
    /// The pause that the last opening took; none while the breaker is closed.
    pause: Option<Duration>,
    /// When the next trial may begin. A trial that never reports back is followed by another after the same pause.
    trial_at: Timestamp,
}

/// Whether a version is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Run,
    /// The one request that finds out whether it works again.
    Trial,
    /// It failed too often; the next trial is not due.
    Open,
}

impl Breaker {
    /// Whether to run a version now. After [`Pass::Run`] and [`Pass::Trial`] the caller says how it went.
    pub fn pass(&self, version: &Version, now: Timestamp) -> Pass {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Pass::Run;
        }
        let mut facts = self.facts.lock();
        match facts.get_mut(version) {
            Some(Fact { pause: Some(pause), trial_at, .. }) if is_due(*trial_at, now) => {
                *trial_at = later(now, *pause);
                Pass::Trial
            }
            Some(Fact { pause: Some(_), .. }) => Pass::Open,
            Some(Fact { pause: None, .. }) | None => Pass::Run,
        }
    }

    /// It answered. What it answered does not matter.
    pub fn succeeded(&self, version: &Version, pass: Pass) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut facts = self.facts.lock();
        // What was under way when the breaker opened says nothing new; only a trial closes it.
        if pass == Pass::Trial || facts.get(version).is_some_and(|fact| fact.pause.is_none()) {
            facts.remove(version);
            self.count.store(facts.len(), Ordering::Relaxed);
        }
    }

    /// It failed. True if that opened the breaker; a trial that fails does not open it again, it only doubles the pause.
    pub fn failed(&self, version: &Version, pass: Pass, now: Timestamp) -> bool {
        let mut facts = self.facts.lock();
        make_room(&mut facts);
        let fact = facts.entry(*version).or_insert(Fact { in_a_row: 0, pause: None, trial_at: now });
        self.count.store(1, Ordering::Relaxed);
        fact.in_a_row = fact.in_a_row.saturating_add(1);
        match fact.pause {
            None if fact.in_a_row >= FAULTS_MAX => {
                (fact.pause, fact.trial_at) = (Some(PAUSE_MIN), later(now, PAUSE_MIN));
                true
            }
            Some(pause) if pass == Pass::Trial => {
                let pause = (pause * 2).min(PAUSE_MAX);
                (fact.pause, fact.trial_at) = (Some(pause), later(now, pause));
                false
            }
            Some(_) | None => false,
        }
    }

    /// The versions that are not run at the moment.
    pub fn open(&self) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.facts.lock().values().filter(|fact| fact.pause.is_some()).count()
    }
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.plus_seconds(pause.as_secs())
}

/// No pause is longer than the longest: a trial further ahead was set by a clock that has been set back since.
fn is_due(trial_at: Timestamp, now: Timestamp) -> bool {
    now >= trial_at || trial_at > later(now, PAUSE_MAX)
}

/// Bindings come and go; facts about those that are no more would stay for good.
fn make_room(facts: &mut HashMap<Version, Fact>) {
    if facts.len() >= VERSIONS_MAX {
        let mut times: Vec<_> = facts.values().map(|fact| fact.trial_at).collect();
        let (_, median, _) = times.select_nth_unstable(VERSIONS_MAX / 2);
        let median = *median;
        facts.retain(|_, fact| fact.trial_at > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Version =
        Version { binding: BindingId::from_bytes([1; 16]), policy: Digest::from_bytes([1; 32]), settings: Digest::from_bytes([1; 32]) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    /// What requests at these seconds are told; those that may run the module fail.
    fn failing(breaker: &Breaker, seconds: impl IntoIterator<Item = u64>) -> Vec<(u64, Pass)> {
        let mut told = Vec::new();
        for second in seconds {
            let pass = breaker.pass(&VERSION, at(second));
            if pass != Pass::Open {
                told.push((second, pass));
                breaker.failed(&VERSION, pass, at(second));
            }
        }
        told
    }

    #[test]
    fn five_faults_in_a_row_open_it_and_trials_come_at_doubling_pauses() {
        let breaker = Breaker::default();
        let runs = failing(&breaker, 0..3_000);
        assert_eq!(runs[..5], [0, 1, 2, 3, 4].map(|second| (second, Pass::Run)));
        let trials = [34, 94, 214, 454, 934, 1534, 2134, 2734];
        assert_eq!(runs[5..], trials.map(|second| (second, Pass::Trial)));
        assert_eq!(breaker.open(), 1);
    }

    #[test]
    fn a_success_in_between_begins_the_count_anew() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            failing(&breaker, [0; 4]);
            breaker.succeeded(&VERSION, Pass::Run);
        }
        assert_eq!((breaker.pass(&VERSION, at(0)), breaker.open()), (Pass::Run, 0));
    }

    #[test]
    fn a_trial_that_works_closes_it_and_one_that_never_reports_is_followed_by_another() {
        let breaker = Breaker::default();
        failing(&breaker, [0; 5]);
        assert_eq!(breaker.pass(&VERSION, at(30)), Pass::Trial);
        assert_eq!(breaker.pass(&VERSION, at(59)), Pass::Open);
        assert_eq!(breaker.pass(&VERSION, at(60)), Pass::Trial);
        breaker.succeeded(&VERSION, Pass::Trial);
        assert_eq!((breaker.pass(&VERSION, at(61)), breaker.open()), (Pass::Run, 0));
    }

    #[test]
    fn what_was_under_way_when_it_opened_changes_nothing() {
        let breaker = Breaker::default();
        failing(&breaker, [0; 5]);
        breaker.succeeded(&VERSION, Pass::Run);
        assert!(!breaker.failed(&VERSION, Pass::Run, at(20)));
        assert_eq!(breaker.pass(&VERSION, at(29)), Pass::Open);
        assert_eq!(breaker.pass(&VERSION, at(30)), Pass::Trial);
    }

    #[test]
    fn another_module_binding_or_settings_have_a_breaker_of_their_own() {
        let breaker = Breaker::default();
        failing(&breaker, [0; 5]);
        let another = Digest::from_bytes([2; 32]);
        for other in [
            Version { policy: another, ..VERSION },
            Version { settings: another, ..VERSION },
            Version { binding: BindingId::from_bytes([2; 16]), ..VERSION },
        ] {
            assert_eq!(breaker.pass(&other, at(1)), Pass::Run, "{other:?}");
        }
        assert_eq!(breaker.pass(&VERSION, at(1)), Pass::Open);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_a_trial_due_instead_of_a_long_rest() {
        const DAY: u64 = 86_400;
        let breaker = Breaker::default();
        failing(&breaker, [DAY; 5]);
        assert_eq!(breaker.pass(&VERSION, at(DAY + 29)), Pass::Open);
        assert_eq!(failing(&breaker, [0]), [(0, Pass::Trial)]);
        // From here on the pauses are counted by the clock as it is now.
        assert_eq!(failing(&breaker, 1..200), [60, 180].map(|second| (second, Pass::Trial)));
    }

    #[test]
    fn facts_about_bindings_that_are_no_more_do_not_pile_up() {
        let breaker = Breaker::default();
        for n in 0..20_000_u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            breaker.failed(&Version { binding: BindingId::from_bytes(id), ..VERSION }, Pass::Run, at(u64::from(n)));
        }
        assert!(breaker.facts.lock().len() <= VERSIONS_MAX);
    }
}
