//! Rotations under two nodes that crash, repeat themselves, act on what was true a while ago, and never hear what became of a command.
//!
//! The world around the rules is a plain model: a vault with the numbers of the secrets in it, a provider that takes some of them, and an account of
//! open rotations that is kept from the events alone. After every step a request is sent, and what must always hold is checked.

use std::collections::BTreeSet;

use super::rotation::{
    EndCause, Installer, RotationCommand, RotationFallbackUsed, RotationStaged, RotationStep, RotationTested, StepCause,
};
use super::{Credential, CredentialAdded, CredentialCommand, CredentialReplaced};
use crate::aggregate::{Aggregate, At, Command, Context, apply, decide};
use crate::event::Event;
use crate::id::{CredentialId, RotationId, UpstreamId, WriterId};
use crate::rules::{NOW, tenant};
use crate::{Actor, Stream, Timestamp};

/// Steps of one life, and lives: 200,000 steps together.
const STEPS: u32 = 2_000;
const LIVES: u64 = 100;

/// A small generator, the same for a seed for ever.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a node believes, and what it does not know the outcome of.
struct Node {
    id: WriterId,
    seen: Credential,
    unresolved: Vec<RotationCommand>,
}

struct World {
    chance: Chance,
    now: Timestamp,
    stream: Stream,
    state: Aggregate,
    /// Numbers of secrets that can be opened.
    vault: BTreeSet<u32>,
    /// Numbers of secrets that the provider takes.
    taken: BTreeSet<u32>,
    /// Secrets to destroy, as the log said; whoever comes by does it.
    doomed: BTreeSet<u32>,
    /// Begun and not over, from the events alone.
    open: BTreeSet<RotationId>,
    promoted: BTreeSet<RotationId>,
    finished: BTreeSet<RotationId>,
    /// How often each thing happened, so that a world in which nothing happens proves nothing.
    tally: Tally,
    nodes: [Node; 2],
    next_id: u128,
}

#[derive(Debug, Default)]
struct Tally {
    staged: u64,
    finished: u64,
    aborted: u64,
    rolled_back: u64,
    fallbacks: u64,
    repeated: u64,
    refused: u64,
    crashes: u64,
    replaced: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let stream = Stream::credential(tenant(), CredentialId::from_bytes([1; 16]));
        let added = Event::CredentialAdded(CredentialAdded {
            upstream: UpstreamId::from_bytes([2; 16]),
            origin: "https://api.example.com".into(),
            fingerprint: "1:1".into(),
        });
        let state = apply(None, &stream, &added, &At { time: NOW, actor: Actor::Owner }).unwrap();
        let Aggregate::Credential(seen) = state.clone() else { panic!("not a credential") };
        let node = |n| Node { id: WriterId::from_bytes([n; 16]), seen: seen.clone(), unresolved: vec![] };
        Self {
            chance: Chance(seed),
            now: NOW,
            stream,
            vault: BTreeSet::from([1]),
            taken: BTreeSet::from([1]),
            doomed: BTreeSet::new(),
            open: BTreeSet::new(),
            promoted: BTreeSet::new(),
            finished: BTreeSet::new(),
            tally: Tally::default(),
            nodes: [node(1), node(2)],
            next_id: 0,
            state,
        }
    }

    fn credential(&self) -> &Credential {
        let Aggregate::Credential(credential) = &self.state else { panic!("not a credential") };
        credential
    }

    /// Executes a command as a node does: decided on the head of the log, whatever the node believed. It may crash before it is sent, or after
    /// it was stored and before it heard so.
    fn execute(&mut self, node: usize, command: RotationCommand) {
        if self.chance.one_in(8) {
            self.tally.crashes += 1;
            if self.chance.one_in(2) {
                self.append(&command);
            }
            // Whoever it was will send it again, perhaps long after.
            self.nodes[node].unresolved.push(command);
            return;
        }
        self.append(&command);
    }

    fn append(&mut self, command: &RotationCommand) {
        let context = Context { now: self.now, actor: Actor::Scheduler };
        let whole = Command::Credential(CredentialCommand::Rotate(command.clone()));
        let Ok(events) = decide(Some(&self.state), &whole, &context) else {
            self.tally.refused += 1;
            return;
        };
        self.tally.repeated += u64::from(events.is_empty());
        for event in &events {
            let at = At { time: self.now, actor: context.actor };
            self.state = apply(Some(self.state.clone()), &self.stream, event, &at).unwrap();
            self.account(event);
        }
    }

    /// The second account, which knows nothing of the state.
    fn account(&mut self, event: &Event) {
        let previous = |credential: &Credential, id| credential.rotation(id).map(|rotation| rotation.previous.version).unwrap();
        match event {
            Event::RotationStaged(staged) => {
                self.tally.staged += 1;
                self.open.insert(staged.rotation);
            }
            Event::RotationPromoted(event) => _ = self.promoted.insert(event.rotation),
            Event::RotationFinished(event) => {
                self.tally.finished += 1;
                assert!(self.promoted.contains(&event.rotation), "finished without having been promoted");
                self.open.remove(&event.rotation);
                self.finished.insert(event.rotation);
                let old = previous(self.credential(), event.rotation);
                self.doomed.insert(old);
                // The operator takes the old one away at the provider once it is out of use here.
                self.taken.remove(&old);
            }
            Event::RotationAborted(event) => {
                self.tally.aborted += 1;
                assert!(!self.promoted.contains(&event.rotation), "aborted though the new secret was in use");
                self.open.remove(&event.rotation);
                let new = self.credential().rotation(event.rotation).unwrap().secret_version;
                self.doomed.insert(new);
            }
            Event::RotationRolledBack(event) => {
                self.tally.rolled_back += 1;
                assert!(!self.finished.contains(&event.rotation), "rolled back after its end");
                self.open.remove(&event.rotation);
                let new = self.credential().rotation(event.rotation).unwrap().secret_version;
                self.doomed.insert(new);
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        let node = self.chance.below(2) as usize;
        match self.chance.below(17) {
            0 => self.begin(node),
            16 => self.replace(node),
            1..=7 => self.go_on(node),
            8 => self.ask(node),
            9 | 10 => self.repeat(node),
            11 => self.destroy(),
            12 => self.go_bad(),
            13 => self.now = self.now.plus_seconds(self.chance.below(40_000)),
            _ => self.nodes[node].seen = self.credential().clone(),
        }
        self.request();
        self.check();
    }

    /// The operator enters another secret at once, which the provider takes.
    fn replace(&mut self, node: usize) {
        if self.chance.one_in(4) {
            let version = self.sealed(node);
            self.taken.insert(version);
            let before = self.credential().secret_version;
            let replaced = CredentialReplaced { secret_version: version, fingerprint: format!("1:{version}") };
            let is_open = self.credential().open_rotation().is_some();
            let context = Context { now: self.now, actor: Actor::Owner };
            let Ok(events) = decide(Some(&self.state), &Command::Credential(CredentialCommand::Replace(replaced)), &context) else {
                return;
            };
            assert!(!is_open, "a secret was replaced under a rotation");
            for event in &events {
                self.state = apply(Some(self.state.clone()), &self.stream, event, &At { time: self.now, actor: context.actor }).unwrap();
            }
            self.tally.replaced += 1;
            self.doomed.insert(before);
        }
    }

    /// Seals a secret under the next number that is free, as far as the node knows.
    fn sealed(&mut self, node: usize) -> u32 {
        let mut version = self.nodes[node].seen.next_secret_version();
        // One that a node sealed and died with stays there, and is passed over.
        while self.vault.contains(&version) {
            version += 1;
        }
        self.vault.insert(version);
        version
    }

    /// Seals the next secret, and stages it unless the node dies in between.
    fn begin(&mut self, node: usize) {
        // What is refused as far as the node knows is not sealed first; what it does not know of is refused after that.
        if self.nodes[node].seen.open_rotation().is_some() && !self.chance.one_in(8) {
            return;
        }
        let version = self.sealed(node);
        if !self.chance.one_in(4) {
            self.taken.insert(version);
        }
        // Callers choose the ids, and may choose one twice.
        if !self.chance.one_in(10) {
            self.next_id += 1;
        }
        let window_seconds = 1 + self.chance.below(86_400);
        let staged = RotationStaged {
            rotation: RotationId::from_bytes(self.next_id.to_be_bytes()),
            secret_version: version,
            fingerprint: format!("1:{version}"),
            compromise: self.chance.one_in(6),
            window_seconds,
            grace_seconds: window_seconds + self.chance.below(86_400),
            unused_seconds: self.chance.one_in(3).then_some(600),
            reason: None,
        };
        let installed = (!self.chance.one_in(3)).then_some(Installer::Operator);
        if self.chance.one_in(6) {
            self.tally.crashes += 1;
            return;
        }
        self.execute(node, RotationCommand::Stage { staged: Box::new(staged), installed });
    }

    /// What a scheduler does, from what its node believes.
    fn go_on(&mut self, node: usize) {
        let seen = self.nodes[node].seen.clone();
        let Some(open) = seen.open_rotation() else { return self.nodes[node].seen = self.credential().clone() };
        let (rotation, is_good) = (open.id, self.taken.contains(&open.secret_version));
        let command = match open.step {
            RotationStep::Staged => RotationCommand::Install { rotation, by: Installer::Provider },
            RotationStep::Installed if is_good => {
                let id = self.nodes[node].id;
                let tested = RotationTested { rotation, node: id, status: 200, account: None, previous_account: None };
                RotationCommand::Pass(Box::new(tested))
            }
            RotationStep::Installed => RotationCommand::Abort { rotation, cause: EndCause::Refused },
            RotationStep::Tested => RotationCommand::Promote { rotation },
            RotationStep::Dual if open.is_refused_in_use() => RotationCommand::RollBack { rotation, cause: EndCause::Refused },
            RotationStep::Dual => match open.due(self.now) {
                Some(cause) => RotationCommand::Drain { rotation, cause },
                None => return self.nodes[node].seen = self.credential().clone(),
            },
            RotationStep::Draining => match open.due(self.now) {
                Some(cause) => RotationCommand::Finish { rotation, cause },
                None => return self.nodes[node].seen = self.credential().clone(),
            },
            RotationStep::Finished | RotationStep::Aborted | RotationStep::RolledBack => return,
        };
        self.execute(node, command);
    }

    /// An operator who asks for something, whether it fits or not.
    fn ask(&mut self, node: usize) {
        let Some(rotation) = self.nodes[node].seen.rotations.last().map(|rotation| rotation.id) else { return };
        let command = match self.chance.below(3) {
            0 => RotationCommand::Abort { rotation, cause: EndCause::Asked },
            1 => RotationCommand::RollBack { rotation, cause: EndCause::Asked },
            _ => RotationCommand::Finish { rotation, cause: StepCause::Asked },
        };
        self.execute(node, command);
    }

    /// A command whose outcome was unknown comes again, and may come once more.
    fn repeat(&mut self, node: usize) {
        let unresolved = self.nodes[node].unresolved.len() as u64;
        if unresolved == 0 {
            return;
        }
        let place = self.chance.below(unresolved) as usize;
        let command = self.nodes[node].unresolved[place].clone();
        if self.chance.one_in(2) {
            self.nodes[node].unresolved.swap_remove(place);
        }
        self.append(&command);
    }

    fn destroy(&mut self) {
        for version in std::mem::take(&mut self.doomed) {
            assert!(!self.credential().secret_versions().contains(&version), "secret {version} is destroyed and needed");
            self.vault.remove(&version);
        }
    }

    /// The provider takes the new secret no more, in the time in which that is what the old one is kept for.
    fn go_bad(&mut self) {
        if let Some((_, new)) = self.credential().fallback_secret().map(|(rotation, _)| (rotation.id, rotation.secret_version)) {
            self.taken.remove(&new);
        }
    }

    /// A client's request: the secret in use, and where that is refused the fall-back, whose use is noted.
    fn request(&mut self) {
        let credential = self.credential();
        if self.taken.contains(&credential.secret_version) {
            return;
        }
        let fallback = credential.fallback_secret().map(|(rotation, previous)| (rotation.id, previous.version));
        let (rotation, previous) = fallback.unwrap_or_else(|| panic!("a request is refused: {credential:#?}"));
        assert!(
            self.taken.contains(&previous) && self.vault.contains(&previous),
            "a request is refused with both secrets: {credential:#?}"
        );
        self.tally.fallbacks += 1;
        let used = RotationFallbackUsed { rotation, node: self.nodes[0].id, uses: 1, last_used_at: self.now };
        self.append(&RotationCommand::NoteFallback(used));
    }

    fn check(&self) {
        let credential = self.credential();
        assert!(self.vault.contains(&credential.secret_version), "the secret in use cannot be opened: {credential:#?}");
        assert!(credential.secret_versions().iter().all(|version| self.vault.contains(version)), "a secret is gone: {credential:#?}");
        assert!(self.open.len() <= 1, "two open rotations: {:?}", self.open);
        assert_eq!(self.open.first().copied(), credential.open_rotation().map(|rotation| rotation.id));
    }
}

#[test]
fn at_every_moment_one_secret_works_and_one_rotation_is_open_at_most() {
    let mut total = Tally::default();
    for seed in 0..LIVES {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        let Tally { staged, finished, aborted, rolled_back, fallbacks, repeated, refused, crashes, replaced } = world.tally;
        total = Tally {
            staged: total.staged + staged,
            finished: total.finished + finished,
            aborted: total.aborted + aborted,
            rolled_back: total.rolled_back + rolled_back,
            fallbacks: total.fallbacks + fallbacks,
            repeated: total.repeated + repeated,
            refused: total.refused + refused,
            crashes: total.crashes + crashes,
            replaced: total.replaced + replaced,
        };
    }
    assert!(total.replaced > 500, "too little happened: {total:?}");
    let each =
        [total.staged, total.finished, total.aborted, total.rolled_back, total.fallbacks, total.repeated, total.refused, total.crashes];
    assert!(each.iter().all(|count| *count > 300), "too little happened: {total:?}");
}
