//! The whole life of a key twice: `decide` and `apply` against a model that shares nothing with them but the words.
//!
//! The model is a plain struct of facts and a table of rules. [`PAIRS`] is a third account, written by hand: what each command does in each
//! state that matters.

use super::*;
use crate::aggregate::{Aggregate, At, Command, Context, Rejection, apply, decide};
use crate::event::Event;
use crate::rules::{NOW, later, tenant};
use crate::stream::Stream;

const DAY: u64 = 86_400;

/// What is true of a key, in seconds from [`NOW`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    is_born: bool,
    is_purged: bool,
    is_archived: bool,
    is_revoked: bool,
    is_disabled: bool,
    is_expiry_recorded: bool,
    good_until: Option<i64>,
    /// (seconds, since)
    awaits_use: Option<(i64, i64)>,
    /// Good for ever, but nobody said so.
    is_undecided: bool,
    first_used: Option<i64>,
    /// (number, hash, good until, pepper; 0 is none, that is one of ours)
    secrets: Vec<(u32, u8, Option<i64>, u32)>,
    name: String,
    metadata: String,
    dedicated: Option<u8>,
    /// Numbers of secrets that were found in the open.
    leaked: Vec<u32>,
    /// How often it gets a new secret by itself.
    every: Option<i64>,
    waiting: Option<u32>,
}

/// A command in the model's words.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    Create {
        until: Term,
        brought: bool,
    },
    Renew {
        until: Term,
        enable: bool,
    },
    Rotate {
        hash: u8,
        overlap: i64,
        finish: bool,
    },
    /// A rotation by schedule, with an overlap of 20.
    Turn {
        number: u32,
        hash: u8,
    },
    Collect {
        number: u32,
    },
    Schedule {
        every: Option<i64>,
    },
    Finish,
    Disable,
    Enable,
    Expire,
    Activate {
        first: i64,
        since: i64,
    },
    Upgrade {
        from: u8,
        hash: u8,
        pepper: u32,
    },
    Revoke,
    Leak {
        hash: u8,
        revoke: bool,
    },
    Change {
        name: Option<&'static str>,
        metadata: Option<&'static str>,
        dedicated: Option<Option<u8>>,
    },
    Archive,
    Restore,
    Purge,
}

/// What follows: the names of events, or of a refusal.
type Said = Result<Vec<&'static str>, &'static str>;

/// One rule: where its condition holds, that is the answer. The first rule that holds counts.
struct Rule {
    holds: fn(&Facts, &Ask, i64) -> bool,
    answer: Said,
}

const fn refuse(holds: fn(&Facts, &Ask, i64) -> bool, why: &'static str) -> Rule {
    Rule { holds, answer: Err(why) }
}

const fn idle(holds: fn(&Facts, &Ask, i64) -> bool) -> Rule {
    Rule { holds, answer: Ok(vec![]) }
}

fn is_past(facts: &Facts, now: i64) -> bool {
    facts.is_expiry_recorded || facts.good_until.is_some_and(|until| until <= now)
}

fn overlap_until(facts: &Facts, now: i64) -> Option<i64> {
    facts.secrets.iter().filter_map(|(_, _, until, _)| *until).find(|until| *until > now)
}

const RULES: &[Rule] = &[
    refuse(|key, ask, _| key.is_born && matches!(ask, Ask::Create { .. }), "exists"),
    refuse(|key, ask, _| !key.is_born && !matches!(ask, Ask::Create { .. }), "not found"),
    refuse(|key, _, _| key.is_purged, "not found"),
    idle(|key, ask, _| *ask == Ask::Archive && key.is_archived),
    idle(|key, ask, _| *ask == Ask::Restore && !key.is_archived),
    refuse(|key, ask, _| *ask == Ask::Purge && !key.is_archived, "not archived"),
    idle(|key, ask, _| *ask == Ask::Revoke && key.is_revoked),
    idle(|key, ask, now| matches!(ask, Ask::Leak { hash, .. } if key.is_revoked || leaking(key, *hash, now).is_none())),
    refuse(|key, ask, _| key.is_revoked && !matches!(ask, Ask::Archive | Ask::Restore | Ask::Purge), "revoked"),
    refuse(|key, ask, _| key.is_archived && matches!(ask, Ask::Turn { .. } | Ask::Collect { .. } | Ask::Schedule { .. }), "archived"),
    refuse(
        |key, ask, _| key.is_archived && matches!(ask, Ask::Renew { .. } | Ask::Rotate { .. } | Ask::Enable | Ask::Change { .. }),
        "archived",
    ),
    refuse(
        |_, ask, now| matches!(ask, Ask::Create { until: Term::At(at), .. } | Ask::Renew { until: Term::At(at), .. } if seconds(*at) <= now),
        "past",
    ),
    idle(|key, ask, _| matches!(ask, Ask::Turn { number, .. } if key.waiting.is_some() || key.secrets.last().unwrap().0 + 1 != *number)),
    refuse(|key, ask, now| matches!(ask, Ask::Rotate { .. } | Ask::Turn { .. }) && is_past(key, now), "expired"),
    refuse(|_, ask, _| matches!(ask, Ask::Rotate { overlap, .. } if *overlap > 30 * 86_400), "overlap too long"),
    refuse(
        |key, ask, _| matches!(ask, Ask::Rotate { hash, .. } | Ask::Turn { hash, .. } if key.secrets.iter().any(|secret| secret.1 == *hash)),
        "same secret",
    ),
    refuse(
        |key, ask, now| matches!(ask, Ask::Rotate { finish: false, .. } | Ask::Turn { .. }) && overlap_until(key, now).is_some(),
        "rotation running",
    ),
    refuse(|key, ask, _| matches!(ask, Ask::Collect { number } if key.waiting != Some(*number)), "no successor"),
    idle(|key, ask, now| *ask == Ask::Finish && overlap_until(key, now).is_none()),
    idle(|key, ask, _| *ask == Ask::Disable && key.is_disabled),
    idle(|key, ask, _| *ask == Ask::Enable && !key.is_disabled),
    idle(|key, ask, _| *ask == Ask::Expire && key.is_expiry_recorded),
    refuse(|key, ask, now| *ask == Ask::Expire && !is_past(key, now), "not expired"),
    idle(|key, ask, _| matches!(ask, Ask::Activate { since, .. } if key.awaits_use.is_none_or(|(_, began)| began != *since))),
    refuse(|key, ask, _| matches!(ask, Ask::Upgrade { .. }) && brought(key).is_none(), "no such secret"),
    idle(|key, ask, _| matches!(ask, Ask::Upgrade { from, .. } if key.secrets.iter().all(|secret| secret.0 != 1 || secret.1 != *from))),
    idle(|key, ask, _| matches!(ask, Ask::Upgrade { pepper, .. } if brought(key).is_some_and(|present| present >= *pepper))),
    refuse(|_, ask, _| matches!(ask, Ask::Change { name: Some(""), .. }), "name"),
];

/// The pepper of secret number 1, if the client brought it and the key still has it.
fn brought(facts: &Facts) -> Option<u32> {
    facts.secrets.iter().find(|secret| secret.0 == 1).map(|secret| secret.3).filter(|pepper| *pepper > 0)
}

/// The number of the secret that is good now and that nobody has reported yet.
fn leaking(facts: &Facts, hash: u8, now: i64) -> Option<u32> {
    let good = |until: Option<i64>| until.is_none_or(|until| until > now);
    let (number, ..) = facts.secrets.iter().find(|(_, its, until, _)| *its == hash && good(*until))?;
    (!facts.leaked.contains(number)).then_some(*number)
}

fn seconds(at: Timestamp) -> i64 {
    (at.as_micros() as i64 - NOW.as_micros() as i64) / 1_000_000
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros().checked_add_signed(seconds * 1_000_000).unwrap())
}

impl Facts {
    /// What is said to a command, and what is true after it.
    fn ask(&mut self, ask: &Ask, now: i64) -> Said {
        if let Some(rule) = RULES.iter().find(|rule| (rule.holds)(self, ask, now)) {
            return rule.answer.clone();
        }
        Ok(self.change(ask, now))
    }

    /// Does what was accepted, and names what happened.
    fn change(&mut self, ask: &Ask, now: i64) -> Vec<&'static str> {
        let mut said = Vec::new();
        match *ask {
            Ask::Create { until, brought } => {
                let secrets = vec![(1, 1, None, u32::from(brought))];
                *self = Self { is_born: true, name: "ci".into(), metadata: "{}".into(), secrets, ..Self::default() };
                said.push("KeyCreated");
                said.extend(self.good_for(until, now));
                said.extend(brought.then_some("KeySecretBrought"));
            }
            Ask::Renew { until, enable } => {
                let is_same = match until {
                    Term::Never => self.good_until.is_none() && self.awaits_use.is_none() && !self.is_undecided,
                    Term::Unset => self.is_undecided,
                    Term::At(at) => self.good_until == Some(seconds(at)),
                    Term::AfterFirstUse { seconds } => self.awaits_use.is_some_and(|(long, _)| long == seconds as i64),
                };
                if !is_same || self.is_expiry_recorded {
                    self.is_expiry_recorded = false;
                    said.push("KeyRenewed");
                    said.extend(self.good_for(until, now));
                }
                if enable && self.is_disabled {
                    self.is_disabled = false;
                    said.push("KeyEnabled");
                }
            }
            Ask::Turn { hash, .. } => {
                said = self.change(&Ask::Rotate { hash, overlap: 20, finish: false }, now);
                self.waiting = self.secrets.last().map(|secret| secret.0);
                said.push("KeySuccessorSealed");
            }
            Ask::Collect { .. } => (self.waiting, said) = (None, vec!["KeySuccessorCollected"]),
            Ask::Schedule { every } if every == self.every => {}
            Ask::Schedule { every } => {
                self.every = every;
                said.push(if every.is_some() { "KeyRotationScheduled" } else { "KeyRotationUnscheduled" });
            }
            Ask::Rotate { hash, overlap, .. } => {
                self.waiting = None;
                let (number, present, _, pepper) = *self.secrets.last().unwrap();
                let end = self.good_until.map_or(now + overlap, |until| until.min(now + overlap));
                self.secrets = vec![(number, present, Some(end), pepper), (number + 1, hash, None, 0)];
                self.leaked.retain(|leaked| *leaked == number);
                said.push("KeyRotated");
            }
            Ask::Finish => {
                self.secrets[0].2 = Some(now);
                said.push("KeyOverlapFinished");
            }
            Ask::Disable => (self.is_disabled, said) = (true, vec!["KeyDisabled"]),
            Ask::Enable => (self.is_disabled, said) = (false, vec!["KeyEnabled"]),
            Ask::Expire => (self.is_expiry_recorded, said) = (true, vec!["KeyExpired"]),
            Ask::Activate { first, .. } => {
                let (long, since) = self.awaits_use.take().unwrap();
                let first = if first > now { now } else { first };
                let first = if first < since { since } else { first };
                (self.first_used, self.good_until) = (Some(first), Some(first + long));
                said.push("KeyActivated");
            }
            Ask::Upgrade { hash, pepper, .. } => {
                let secret = self.secrets.iter_mut().find(|secret| secret.0 == 1).unwrap();
                (secret.1, secret.3) = (hash, pepper);
                said.push("KeySecretUpgraded");
            }
            Ask::Revoke => (self.is_revoked, said) = (true, vec!["KeyRevoked"]),
            Ask::Leak { hash, revoke } => {
                self.leaked.extend(leaking(self, hash, now));
                said.push("KeyLeakReported");
                if revoke {
                    self.is_revoked = true;
                    said.push("KeyRevoked");
                } else if !self.is_disabled {
                    self.is_disabled = true;
                    said.push("KeyDisabled");
                }
            }
            Ask::Change { name, metadata, dedicated } => {
                if let Some(name) = name.filter(|name| *name != self.name) {
                    self.name = name.into();
                    said.push("KeyChanged");
                }
                if let Some(metadata) = metadata.filter(|metadata| *metadata != self.metadata) {
                    self.metadata = metadata.into();
                    said.push("KeyMetadataSet");
                }
                if let Some(dedicated) = dedicated.filter(|dedicated| *dedicated != self.dedicated) {
                    self.dedicated = dedicated;
                    said.push("KeyUpstreamDedicated");
                }
            }
            Ask::Archive => (self.is_archived, said) = (true, vec!["KeyArchived"]),
            Ask::Restore => (self.is_archived, said) = (false, vec!["KeyRestored"]),
            Ask::Purge => {
                *self = Self { is_born: true, is_purged: true, metadata: "{}".into(), ..Self::default() };
                said.push("KeyPurged");
            }
        }
        said
    }

    fn good_for(&mut self, until: Term, now: i64) -> Option<&'static str> {
        (self.good_until, self.awaits_use, self.first_used) = (None, None, None);
        self.is_undecided = until == Term::Unset;
        match until {
            Term::Never => None,
            Term::Unset => Some("KeyExpiryUnset"),
            Term::At(at) => {
                self.good_until = Some(seconds(at));
                None
            }
            Term::AfterFirstUse { seconds } => {
                self.awaits_use = Some((seconds as i64, now));
                Some("KeyActivationAwaited")
            }
        }
    }

    fn state(&self, now: i64) -> KeyState {
        let weights = [
            (self.is_archived, KeyState::Archived),
            (self.is_revoked, KeyState::Revoked),
            (is_past(self, now), KeyState::Expired),
            (self.is_disabled, KeyState::Disabled),
        ];
        weights.into_iter().find(|(is, _)| *is).map_or(KeyState::Active, |(_, state)| state)
    }

    /// The facts as the code under test has them.
    fn of(key: Option<&Key>) -> Self {
        let Some(key) = key else { return Self::default() };
        let secret = |secret: &KeySecret| {
            let pepper = match secret.scheme {
                SecretScheme::Issued => 0,
                SecretScheme::Peppered { pepper } => pepper,
                SecretScheme::ClaudeRelayService { .. } => u32::MAX,
            };
            (secret.number, secret.hash.as_bytes()[0], secret.valid_until.map(seconds), pepper)
        };
        Self {
            is_born: true,
            is_purged: key.purged_at.is_some(),
            is_archived: key.archived.is_some(),
            is_revoked: key.revoked.is_some(),
            is_disabled: key.disabled.is_some(),
            is_expiry_recorded: key.expired_at.is_some(),
            good_until: match key.expiry {
                Expiry::Never => None,
                Expiry::At(at) => Some(seconds(at)),
            },
            is_undecided: key.is_expiry_unset,
            awaits_use: key.activation.map(|activation| (activation.seconds as i64, seconds(activation.since))),
            first_used: key.first_used_at.map(seconds),
            secrets: key.secrets.iter().map(secret).collect(),
            name: key.details.name.clone(),
            metadata: key.metadata.clone(),
            dedicated: key.dedicated.map(|dedicated| dedicated.upstream.as_bytes()[0]),
            leaked: key.leaks.iter().map(|leak| leak.number).collect(),
            every: key.rotation.map(|rotation| rotation.every_seconds as i64),
            waiting: key.successor,
        }
    }
}

impl Ask {
    fn command(&self) -> Command {
        let hash = |n: u8| Digest::from_bytes([n; 32]);
        Command::Key(match self.clone() {
            Self::Create { until, brought } => KeyCommand::Create(Box::new(NewKey {
                details: KeyDetails { name: "ci".into(), pools: vec![PoolId::from_bytes([1; 16])], ..KeyDetails::default() },
                secret: NewSecret {
                    hash: hash(1),
                    scheme: if brought { SecretScheme::Peppered { pepper: 1 } } else { SecretScheme::Issued },
                },
                term: until,
                metadata: "{}".into(),
                dedicated: None,
                rotation: None,
            })),
            Self::Renew { until, enable } => KeyCommand::Renew { term: until, enable },
            Self::Rotate { hash: n, overlap, finish } => {
                KeyCommand::Rotate { hash: hash(n), overlap_seconds: overlap as u64, finish_previous: finish }
            }
            Self::Turn { number, hash: n } => KeyCommand::RotateBySchedule { number, hash: hash(n), overlap_seconds: 20 },
            Self::Collect { number } => KeyCommand::CollectSuccessor { number },
            Self::Schedule { every } => KeyCommand::Change(Box::new(KeyPatch {
                rotation: Some(every.map(|every| RotationSchedule { every_seconds: every as u64, overlap_seconds: 1 })),
                ..KeyPatch::default()
            })),
            Self::Finish => KeyCommand::FinishOverlap,
            Self::Disable => KeyCommand::Disable { reason: None },
            Self::Enable => KeyCommand::Enable,
            Self::Expire => KeyCommand::Expire,
            Self::Activate { first, since } => KeyCommand::Activate { first_used_at: at(first), since: at(since) },
            Self::Upgrade { from, hash: n, pepper } => KeyCommand::UpgradeSecret { number: 1, from: hash(from), hash: hash(n), pepper },
            Self::Revoke => KeyCommand::Revoke { reason: None },
            Self::Leak { hash: n, revoke } => KeyCommand::ReportLeak(Box::new(LeakReport {
                hash: hash(n),
                scanner: "own".into(),
                source: None,
                url: None,
                action: if revoke { LeakAction::Revoke } else { LeakAction::Disable },
                reason: None,
            })),
            Self::Change { name, metadata, dedicated } => KeyCommand::Change(Box::new(KeyPatch {
                name: name.map(str::to_owned),
                metadata: metadata.map(str::to_owned),
                dedicated: dedicated.map(|n| n.map(|n| Dedicated { upstream: UpstreamId::from_bytes([n; 16]), fallback: false })),
                ..KeyPatch::default()
            })),
            Self::Archive => KeyCommand::Archive { reason: None },
            Self::Restore => KeyCommand::Restore,
            Self::Purge => KeyCommand::Purge,
        })
    }
}

/// The code under test, with the log that it could be folded from again.
#[derive(Default)]
struct Real {
    state: Option<Aggregate>,
    log: Vec<(u16, u8, Vec<u8>, i64)>,
}

fn stream() -> Stream {
    Stream::key(tenant(), KeyId::from_bytes([1; 16]))
}

impl Real {
    fn ask(&mut self, ask: &Ask, now: i64) -> Said {
        let context = Context { now: at(now), actor: Actor::Owner };
        match decide(self.state.as_ref(), &ask.command(), &context) {
            Ok(events) => {
                for event in &events {
                    self.log.push((event.type_number(), event.schema_version(), event.encode(), now));
                    self.state = Some(fold(self.state.take(), event, now));
                }
                Ok(events.iter().map(Event::name).collect())
            }
            Err(Rejection::Key(error)) => Err(match error {
                KeyError::Exists => "exists",
                KeyError::NotFound => "not found",
                KeyError::Revoked => "revoked",
                KeyError::Archived => "archived",
                KeyError::NotArchived => "not archived",
                KeyError::ExpiryInThePast => "past",
                KeyError::NotExpired => "not expired",
                KeyError::Expired => "expired",
                KeyError::RotationRunning { .. } => "rotation running",
                KeyError::OverlapTooLong => "overlap too long",
                KeyError::SameSecret => "same secret",
                KeyError::NoSuchSecret => "no such secret",
                KeyError::NoSuccessor => "no successor",
                KeyError::Name(_) => "name",
                other => panic!("no rule of the model says {other}"),
            }),
            Err(other) => panic!("{other}"),
        }
    }

    /// The process dies: what is left is the log.
    fn crash(&mut self) {
        let read = self.log.iter().map(|(number, version, bytes, now)| (Event::decode(*number, *version, bytes).unwrap(), *now));
        self.state = read.fold(None, |state, (event, now)| Some(fold(state, &event, now)));
    }

    fn key(&self) -> Option<&Key> {
        match self.state.as_ref()? {
            Aggregate::Key(key) => Some(key),
            other => panic!("a key stays a key: {other:?}"),
        }
    }
}

fn fold(state: Option<Aggregate>, event: &Event, now: i64) -> Aggregate {
    apply(state, &stream(), event, &At { time: at(now), actor: Actor::Owner }).unwrap()
}

const CREATE: Ask = Ask::Create { until: Term::Never, brought: false };
const UNTIL: i64 = 2 * DAY as i64;

/// How each state of [`PAIRS`] comes about. The commands of the table come at `UNTIL - 1` or, where the name says `past`, at `UNTIL`.
fn way_to(state: &str) -> Vec<Ask> {
    let created = |until| Ask::Create { until, brought: false };
    let until = created(Term::At(later(UNTIL as u64)));
    let waiting = created(Term::AfterFirstUse { seconds: DAY });
    let rotate = Ask::Rotate { hash: 2, overlap: 30 * DAY as i64, finish: false };
    match state {
        "absent" => vec![],
        "endless" => vec![CREATE],
        "timed" | "past" => vec![until],
        "expired, past" => vec![until, Ask::Expire],
        "disabled" => vec![CREATE, Ask::Disable],
        "disabled, expired, past" => vec![until, Ask::Disable, Ask::Expire],
        "awaiting" => vec![waiting],
        "activated" => vec![waiting, Ask::Activate { first: 0, since: 0 }],
        "rotating" => vec![CREATE, rotate],
        "brought" => vec![Ask::Create { until: Term::Never, brought: true }],
        "revoked" => vec![CREATE, Ask::Revoke],
        "archived" => vec![CREATE, Ask::Archive],
        "archived, rotating" => vec![CREATE, rotate, Ask::Archive],
        "archived, awaiting" => vec![waiting, Ask::Archive],
        "archived, disabled, past" => vec![until, Ask::Disable, Ask::Archive],
        "archived, revoked" => vec![CREATE, Ask::Revoke, Ask::Archive],
        "purged" => vec![CREATE, Ask::Archive, Ask::Purge],
        other => panic!("no way to {other}"),
    }
}

fn column(name: &str) -> Ask {
    let until = Term::At(at(100 * DAY as i64));
    match name {
        "create" => CREATE,
        "renew" => Ask::Renew { until, enable: false },
        "renew+" => Ask::Renew { until, enable: true },
        "await" => Ask::Renew { until: Term::AfterFirstUse { seconds: DAY }, enable: false },
        "rotate" => Ask::Rotate { hash: 3, overlap: 60, finish: false },
        "rotate+" => Ask::Rotate { hash: 3, overlap: 60, finish: true },
        "finish" => Ask::Finish,
        "disable" => Ask::Disable,
        "enable" => Ask::Enable,
        "expire" => Ask::Expire,
        "activate" => Ask::Activate { first: 9, since: 0 },
        "upgrade" => Ask::Upgrade { from: 1, hash: 9, pepper: 2 },
        "upgrade-" => Ask::Upgrade { from: 8, hash: 9, pepper: 2 },
        "revoke" => Ask::Revoke,
        "leak" => Ask::Leak { hash: 1, revoke: false },
        "change" => Ask::Change { name: Some("b"), metadata: None, dedicated: None },
        "archive" => Ask::Archive,
        "restore" => Ask::Restore,
        "purge" => Ask::Purge,
        other => panic!("no command {other}"),
    }
}

/// A capital is an event, `·` no event, a small word a refusal. C created, R renewed, W its first use is awaited, E enabled, D disabled,
/// T rotated, F overlap finished, X expiry recorded, A activated, U secret upgraded, V revoked, L leak reported, H changed, Z archived, B restored, P purged.
const PAIRS: &str = "
state                    | create renew   renew+  await   rotate  rotate+ finish  disable enable  expire activate upgrade upgrade- revoke  leak  change  archive restore purge
absent                   | C      none    none    none    none    none    none    none    none    none   none     none    none     none    none  none    none    none    none
endless                  | exists R       R       RW      T       T       ·       D       ·       not    ·        secret  secret   V       LD    H       Z       ·       store
timed                    | exists R       R       RW      T       T       ·       D       ·       not    ·        secret  secret   V       LD    H       Z       ·       store
past                     | exists R       R       RW      expired expired ·       D       ·       X      ·        secret  secret   V       LD    H       Z       ·       store
expired, past            | exists R       R       RW      expired expired ·       D       ·       ·      ·        secret  secret   V       LD    H       Z       ·       store
disabled                 | exists R       RE      RW      T       T       ·       ·       E       not    ·        secret  secret   V       L     H       Z       ·       store
disabled, expired, past  | exists R       RE      RW      expired expired ·       ·       E       ·      ·        secret  secret   V       L     H       Z       ·       store
awaiting                 | exists R       R       ·       T       T       ·       D       ·       not    A        secret  secret   V       LD    H       Z       ·       store
activated                | exists R       R       RW      expired expired ·       D       ·       X      ·        secret  secret   V       LD    H       Z       ·       store
rotating                 | exists R       R       RW      running T       F       D       ·       not    ·        secret  secret   V       LD    H       Z       ·       store
brought                  | exists R       R       RW      T       T       ·       D       ·       not    ·        U       ·        V       LD    H       Z       ·       store
revoked                  | exists revoked revoked revoked revoked revoked revoked revoked revoked revoked revoked  revoked revoked  ·       ·     revoked Z       ·       store
archived                 | exists away    away    away    away    away    ·       D       away    not    ·        secret  secret   V       LD    away    ·       B       P
archived, rotating       | exists away    away    away    away    away    F       D       away    not    ·        secret  secret   V       LD    away    ·       B       P
archived, awaiting       | exists away    away    away    away    away    ·       D       away    not    A        secret  secret   V       LD    away    ·       B       P
archived, disabled, past | exists away    away    away    away    away    ·       ·       away    X      ·        secret  secret   V       L     away    ·       B       P
archived, revoked        | exists revoked revoked revoked revoked revoked revoked revoked revoked revoked revoked  revoked revoked  ·       ·     revoked ·       B       P
purged                   | exists none    none    none    none    none    none    none    none    none   none     none    none     none    none  none    none    none    none
";

fn cell(text: &str) -> Said {
    let event = |letter| match letter {
        'C' => "KeyCreated",
        'R' => "KeyRenewed",
        'W' => "KeyActivationAwaited",
        'E' => "KeyEnabled",
        'D' => "KeyDisabled",
        'T' => "KeyRotated",
        'F' => "KeyOverlapFinished",
        'X' => "KeyExpired",
        'A' => "KeyActivated",
        'U' => "KeySecretUpgraded",
        'V' => "KeyRevoked",
        'L' => "KeyLeakReported",
        'H' => "KeyChanged",
        'Z' => "KeyArchived",
        'B' => "KeyRestored",
        'P' => "KeyPurged",
        other => panic!("no event {other}"),
    };
    match text {
        "·" => Ok(vec![]),
        "exists" => Err("exists"),
        "none" => Err("not found"),
        "not" => Err("not expired"),
        "expired" => Err("expired"),
        "running" => Err("rotation running"),
        "secret" => Err("no such secret"),
        "revoked" => Err("revoked"),
        "away" => Err("archived"),
        "store" => Err("not archived"),
        events => Ok(events.chars().map(event).collect()),
    }
}

#[test]
fn every_command_in_every_state_does_what_the_table_says() {
    let mut lines = PAIRS.trim().lines();
    let columns: Vec<&str> = lines.next().unwrap().split_once('|').unwrap().1.split_whitespace().collect();
    let mut pairs = 0;
    for line in lines {
        let (state, cells) = line.split_once('|').unwrap();
        let (state, cells) = (state.trim(), cells.split_whitespace().collect::<Vec<_>>());
        assert_eq!(cells.len(), columns.len(), "{state}");
        for (name, text) in columns.iter().zip(cells) {
            let (mut real, mut model) = (Real::default(), Facts::default());
            let now = UNTIL - i64::from(!state.contains("past"));
            for ask in way_to(state) {
                let then = if ask == Ask::Expire { now } else { 0 };
                assert_eq!(real.ask(&ask, then), model.ask(&ask, then), "on the way to {state}");
            }
            let (ask, expected) = (column(name), cell(text));
            assert_eq!(model.ask(&ask, now), expected, "the model: {name} when {state}");
            assert_eq!(real.ask(&ask, now), expected, "{name} when {state}");
            assert_eq!(Facts::of(real.key()), model, "after {name} when {state}");
            pairs += 1;
        }
    }
    assert_eq!(pairs, 18 * 19);
}

/// A seeded source of chance; the walk must be the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn term(&mut self, now: i64) -> Term {
        match self.below(5) {
            0 => Term::Never,
            1 => Term::AfterFirstUse { seconds: 1 + self.below(60) },
            2 => Term::Unset,
            _ => Term::At(at((now + self.below(120) as i64 - 10).max(0))),
        }
    }

    fn ask(&mut self, now: i64) -> Ask {
        match self.below(44) {
            40..=41 => Ask::Turn { number: 2 + self.below(3) as u32, hash: self.below(6) as u8 },
            42 => Ask::Collect { number: 2 + self.below(3) as u32 },
            43 => Ask::Schedule { every: [None, Some(30), Some(60)][self.below(3) as usize] },
            0..=2 => Ask::Create { until: self.term(now), brought: self.below(2) == 0 },
            3..=7 => Ask::Renew { until: self.term(now), enable: self.below(3) == 0 },
            8..=12 => Ask::Rotate { hash: self.below(6) as u8, overlap: self.below(40) as i64, finish: self.below(2) == 0 },
            13 => Ask::Rotate { hash: 7, overlap: 31 * DAY as i64, finish: true },
            14..=15 => Ask::Finish,
            16..=18 => Ask::Disable,
            19..=21 => Ask::Enable,
            22..=26 => Ask::Expire,
            27..=29 => Ask::Activate { first: (now + self.below(20) as i64 - 15).max(0), since: (now - self.below(8) as i64).max(0) },
            30 => Ask::Upgrade { from: [1, 9, 8][self.below(3) as usize], hash: 9, pepper: self.below(4) as u32 },
            31 => match self.below(9) {
                0 => Ask::Revoke,
                1 => Ask::Leak { hash: self.below(6) as u8, revoke: true },
                2..=5 => Ask::Leak { hash: self.below(6) as u8, revoke: false },
                _ => Ask::Expire,
            },
            32..=34 => Ask::Change {
                name: [None, Some("a"), Some("")][self.below(3) as usize],
                metadata: [None, Some("{\"a\":1}"), Some("{}")][self.below(3) as usize],
                dedicated: [None, Some(None), Some(Some(1))][self.below(3) as usize],
            },
            35 => Ask::Archive,
            36..=38 => Ask::Restore,
            _ => Ask::Purge,
        }
    }
}

/// Clocks of two nodes disagree, so that time may go back; the process may die at any moment, and then there is only the log.
#[test]
fn a_random_walk_of_a_hundred_thousand_commands_never_leaves_the_model() {
    let mut chance = Chance(0x6b65_7972_656c_6179);
    let (mut commands, mut accepted, mut crashes, mut seen) = (0, 0, 0, std::collections::BTreeSet::new());
    while commands < 100_000 {
        let (mut real, mut model, mut now, mut way) = (Real::default(), Facts::default(), 0_i64, Vec::new());
        for _ in 0..20 + chance.below(100) {
            now = (now + chance.below(25) as i64 - 4).max(0);
            // A waiting is met by its own activation now and then, which chance alone would rarely do.
            let ask = match model.awaits_use {
                Some((_, since)) if chance.below(5) == 0 => Ask::Activate { first: now, since },
                _ => chance.ask(now),
            };
            // Nothing ever happens to a key that is gone; a few commands show that.
            if model.is_purged && chance.below(4) == 0 {
                break;
            }
            way.push((now, ask.clone()));
            let (expected, said) = (model.ask(&ask, now), real.ask(&ask, now));
            assert_eq!(said, expected, "{way:#?}");
            commands += 1;
            accepted += usize::from(said.as_ref().is_ok_and(|events| !events.is_empty()));
            seen.extend(said.unwrap_or_default());
            if chance.below(50) == 0 {
                real.crash();
                crashes += 1;
            }
            assert_eq!(Facts::of(real.key()), model, "{way:#?}");
            if let Some(key) = real.key().filter(|key| !key.is_purged()) {
                assert_eq!(key.state(at(now)), model.state(now), "{way:#?}");
                let (current, older) = key.secrets.split_last().unwrap();
                assert!(
                    older.len() <= 1 && current.valid_until.is_none() && older.iter().all(|secret| secret.number + 1 == current.number)
                );
                assert!(key.activation.is_none() || key.expiry == Expiry::Never);
            }
        }
    }
    assert!(accepted > 20_000 && crashes > 1_000, "{accepted} accepted, {crashes} crashes");
    // An import sets a key as a whole; its own tests show what it does to one.
    let of_keys = Event::NAMES.iter().filter(|name| name.starts_with("Key") && **name != "KeyImported").count();
    assert_eq!(seen.len(), of_keys, "the walk meets every event of a key: {seen:?}");
}
