#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const WINDOWS: [Window; 4] = [Window::Hour, Window::Day, Window::Month, Window::Total];
/// The last hour of a month, so that the hours after it lie in other days and months.
const FIRST_HOUR: u32 = 498_911;

fn at(hour: u32) -> Timestamp {
    Timestamp::from_micros(u64::from(FIRST_HOUR + hour) * 3_600_000_000 + 1)
}

fn amounts(tokens: u64) -> Amounts {
    Amounts { requests: 1, tokens, cost: u128::from(tokens) * 7 }
}

fn is_in(window: Window, settled: Timestamp, now: Timestamp) -> bool {
    match window {
        Window::Hour => settled.hour() == now.hour(),
        Window::Day => settled.day() == now.day(),
        Window::Month => settled.month() == now.month(),
        Window::Total => true,
    }
}

fn sum<'a>(amounts: impl Iterator<Item = &'a Amounts>) -> Amounts {
    amounts.fold(Amounts::default(), |mut sum, one| {
        sum.add(one);
        sum
    })
}

/// All that ever happened to one account, with the usage stream and the usage models beside it.
#[derive(Default)]
struct World {
    account: Account,
    open: Vec<(u64, Amounts)>,
    /// Everything that was settled here, in order.
    settled: Vec<(Timestamp, Amounts)>,
    /// How many of them are in batches, and where each batch ends.
    numbered: usize,
    batches: Vec<usize>,
    /// Batches that the usage models have.
    folded: usize,
    /// What they have of other nodes.
    others: Vec<(Timestamp, Amounts)>,
    folds: u64,
    /// Counts that were taken and are still on their way.
    taken: VecDeque<Counted>,
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u64),
    Raise {
        which: usize,
        tokens: u64,
    },
    Release(usize),
    Settle {
        which: Option<usize>,
        hour: u32,
        tokens: u64,
    },
    /// The writer makes a batch of what waits.
    Batch,
    /// The usage models fold some of the batches, and something of another node.
    Fold {
        batches: usize,
        other: u64,
    },
    Take,
    /// One of the counts on their way arrives, late or not.
    Install(usize),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..9_u64).prop_map(Step::Reserve),
        (any::<usize>(), 1..20_u64).prop_map(|(which, tokens)| Step::Raise { which, tokens }),
        any::<usize>().prop_map(Step::Release),
        (any::<Option<usize>>(), 0..3_u32, 0..9_u64).prop_map(|(which, hour, tokens)| Step::Settle { which, hour, tokens }),
        (any::<Option<usize>>(), 0..3_u32, 0..9_u64).prop_map(|(which, hour, tokens)| Step::Settle { which, hour, tokens }),
        Just(Step::Batch),
        (0..4_usize, 0..5_u64).prop_map(|(batches, other)| Step::Fold { batches, other }),
        Just(Step::Take),
        any::<usize>().prop_map(Step::Install),
        Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..120)
}

impl World {
    fn run(&mut self, step: &Step) {
        match *step {
            Step::Reserve(tokens) => {
                let held = amounts(tokens);
                self.open.push((self.account.reserve(held), held));
            }
            Step::Raise { which, tokens } => {
                let Some(place) = which.checked_rem(self.open.len()) else { return };
                let (place, held) = &mut self.open[place];
                held.tokens = held.tokens.max(tokens);
                self.account.raise(*place, &Amounts { tokens, ..Amounts::default() });
            }
            Step::Release(which) => {
                let Some(place) = which.checked_rem(self.open.len()) else { return };
                self.account.release(self.open.remove(place).0);
            }
            Step::Settle { which, hour, tokens } => {
                let place = which.and_then(|which| which.checked_rem(self.open.len())).map(|place| self.open.remove(place).0);
                self.account.settle(place, at(hour), &amounts(tokens));
                self.settled.push((at(hour), amounts(tokens)));
            }
            Step::Batch => {
                let number = self.batches.len() as u64 + 1;
                self.settled[self.numbered..].iter().for_each(|(at, amounts)| self.account.number(number, *at, amounts));
                self.numbered = self.settled.len();
                self.batches.push(self.numbered);
            }
            Step::Fold { batches, other } => {
                self.folded = (self.folded + batches).min(self.batches.len());
                self.others.push((at(0), amounts(other)));
                self.folds += 1;
            }
            Step::Take => {
                let counted = self.count();
                self.taken.push_back(counted);
            }
            Step::Install(which) => {
                let Some(place) = which.checked_rem(self.taken.len()) else { return };
                self.taken.remove(place).into_iter().for_each(|counted| self.account.install(counted));
            }
            Step::Forget => self.account.forget(self.folded as u64),
        }
    }

    /// What the usage models have at this moment.
    fn count(&self) -> Counted {
        let own = self.folded.checked_sub(1).map_or(0, |last| self.batches[last]);
        let stamp = Stamp { as_of: Sequence(self.folds), prices: 1 };
        let mut counted = Counted { stamp, last_batch: self.folded as u64, ..Counted::default() };
        for (at, amounts) in self.settled[..own].iter().chain(&self.others) {
            counted.hours.entry(at.hour()).or_default().add(amounts);
            counted.days.entry(at.day()).or_default().add(amounts);
            counted.months.entry(at.month()).or_default().add(amounts);
            counted.total.add(amounts);
        }
        counted
    }

    /// A read as [`super::super::Meters`] does it: whatever is counted is shown, with what is settled here.
    fn check(&mut self) {
        while !self.account.is_counted() {
            let counted = self.count();
            self.account.install(counted);
        }
        for (window, now) in WINDOWS.into_iter().flat_map(|window| (0..3).map(move |hour| (window, at(hour)))) {
            let of = |all: &[(Timestamp, Amounts)]| sum(all.iter().filter(|(at, _)| is_in(window, *at, now)).map(|(_, one)| one));
            let (used, own, others) = (self.account.used(window, now), of(&self.settled), of(&self.others));
            let of_others = used.tokens.checked_sub(own.tokens);
            // What this process settled is there at once and once; what others did is there when it is counted, and not twice.
            assert!(of_others.is_some_and(|of_others| of_others <= others.tokens), "{used:?} of {own:?} and {others:?}");
            assert!(used.requests >= own.requests && used.requests <= own.requests + others.requests);
            assert_eq!(used.cost, u128::from(used.tokens) * 7);
        }
        assert_eq!(self.account.reserved(None), sum(self.open.iter().map(|(_, held)| held)));
        for (place, _) in &self.open {
            let earlier = sum(self.open.iter().filter(|(other, _)| other < place).map(|(_, held)| held));
            assert_eq!(self.account.reserved(Some(*place)), earlier);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_which_order_use_is_counted_once(steps in steps()) {
        let mut world = World::default();
        for step in &steps {
            world.run(step);
            // Half of the steps happen to an account that nobody reads.
            if matches!(step, Step::Install(_) | Step::Settle { .. } | Step::Forget | Step::Fold { .. }) {
                world.check();
            }
        }
        world.check();
        // In the end everything is counted, and nothing is kept.
        world.run(&Step::Batch);
        world.run(&Step::Fold { batches: usize::MAX / 2, other: 0 });
        let counted = world.count();
        world.account.install(counted);
        prop_assert_eq!(world.account.used(Window::Total, at(0)), sum(world.settled.iter().chain(&world.others).map(|(_, one)| one)));
        prop_assert!(world.account.settled.is_empty());
    }
}

#[test]
fn with_too_many_batches_waiting_nothing_is_missed_and_memory_is_bounded() {
    let mut world = World::default();
    for _ in 0..4 * BATCHES_MAX {
        world.run(&Step::Settle { which: None, hour: 1, tokens: 1 });
        world.run(&Step::Batch);
        assert!(world.account.settled.len() <= BATCHES_MAX + 1);
    }
    let settled = world.settled.len() as u64;
    for folded in 0..=world.batches.len() {
        world.folded = folded;
        world.folds += 1;
        let counted = world.count();
        world.account.install(counted);
        let used = world.account.used(Window::Day, at(1)).tokens;
        assert!((settled..=2 * settled).contains(&used), "{used} of {settled} with {folded} counted");
    }
    assert_eq!(world.account.used(Window::Day, at(1)).tokens, settled);
    assert!(world.account.is_idle());
}

#[test]
fn a_count_from_before_what_was_forgotten_is_refused() {
    let mut world = World::default();
    world.run(&Step::Settle { which: None, hour: 1, tokens: 5 });
    world.run(&Step::Batch);
    let old = world.count();
    world.run(&Step::Fold { batches: 1, other: 0 });
    world.run(&Step::Forget);
    world.account.install(old.clone());
    assert!(!world.account.is_counted());
    let now = world.count();
    world.account.install(now);
    world.account.install(old);
    assert_eq!(world.account.used(Window::Hour, at(1)).tokens, 5);
}
