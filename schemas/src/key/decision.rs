//! The rules of a key: which events a command yields, and what each event does to the state.

use super::command::{check_details, check_metadata};
use super::{
    Activation, Expiry, Fact, Key, KeyActivated, KeyActivationAwaited, KeyArchived, KeyChanged, KeyCommand, KeyCreated, KeyDetails,
    KeyDisabled, KeyEnabled, KeyError, KeyExpired, KeyExpiryUnset, KeyLeakReported, KeyMetadataSet, KeyOverlapFinished, KeyPatch,
    KeyPurged, KeyRenewed, KeyRestored, KeyRevoked, KeyRotated, KeyRotationScheduled, KeyRotationUnscheduled, KeySecret, KeySecretBrought,
    KeySecretUpgraded, KeySuccessorCollected, KeySuccessorSealed, KeyUpstreamDedicated, Leak, LeakAction, LeakReport, METADATA_EMPTY,
    NewKey, OVERLAP_SECONDS_MAX, RotationSchedule, SecretScheme, Term,
};
use crate::aggregate::{At, Context};
use crate::event::Event;
use crate::id::{Digest, KeyId};
use crate::sealed::Sealed;
use crate::stream::Stream;
use crate::time::Timestamp;

impl Key {
    pub(crate) fn decide(state: Option<&Self>, command: &KeyCommand, context: &Context) -> Result<Vec<Event>, KeyError> {
        let now = context.now;
        let key = match (state, command) {
            (None, KeyCommand::Create(new)) => return decide_create(new, now),
            (None, KeyCommand::Import(import)) => return import.decide_new(),
            (Some(_), KeyCommand::Create(_)) => return Err(KeyError::Exists),
            (None, _) => return Err(KeyError::NotFound),
            (Some(key), _) if key.is_purged() => return Err(KeyError::NotFound),
            (Some(key), _) => key,
        };
        if let KeyCommand::Import(import) = command {
            return import.decide_onto(key);
        }
        // Each of these is a fact of its own, which no other fact stands in the way of.
        match command {
            KeyCommand::Archive { .. } if key.archived.is_some() => return Ok(vec![]),
            KeyCommand::Archive { reason } => return Ok(vec![Event::KeyArchived(KeyArchived { reason: reason.clone() })]),
            KeyCommand::Restore if key.archived.is_none() => return Ok(vec![]),
            KeyCommand::Restore => return Ok(vec![Event::KeyRestored(KeyRestored {})]),
            KeyCommand::Purge if key.archived.is_none() => return Err(KeyError::NotArchived),
            KeyCommand::Purge => return Ok(vec![Event::KeyPurged(KeyPurged {})]),
            KeyCommand::Revoke { .. } if key.revoked.is_some() => return Ok(vec![]),
            KeyCommand::Revoke { reason } => return Ok(vec![Event::KeyRevoked(KeyRevoked { reason: reason.clone() })]),
            KeyCommand::ReportLeak(report) => return Ok(key.decide_leak(report, now)),
            _ => {}
        }
        if key.revoked.is_some() {
            return Err(KeyError::Revoked);
        }
        if key.archived.is_some() && command.may_widen() {
            return Err(KeyError::Archived);
        }
        match command {
            KeyCommand::Renew { term, enable } => key.decide_renew(*term, *enable, now),
            KeyCommand::Rotate { hash, overlap_seconds, finish_previous } => {
                key.decide_rotate(*hash, *overlap_seconds, *finish_previous, now)
            }
            KeyCommand::RotateBySchedule { number, hash, overlap_seconds } => {
                let is_turn = *number == key.current_secret().number.saturating_add(1) && key.successor.is_none();
                if !is_turn {
                    return Ok(vec![]);
                }
                let mut events = key.decide_rotate(*hash, *overlap_seconds, false, now)?;
                events.push(Event::KeySuccessorSealed(KeySuccessorSealed { number: *number }));
                Ok(events)
            }
            KeyCommand::CollectSuccessor { number } if key.successor != Some(*number) => Err(KeyError::NoSuccessor),
            KeyCommand::CollectSuccessor { number } => Ok(vec![Event::KeySuccessorCollected(KeySuccessorCollected { number: *number })]),
            KeyCommand::FinishOverlap if key.overlap_end(now).is_none() => Ok(vec![]),
            KeyCommand::FinishOverlap => Ok(vec![Event::KeyOverlapFinished(KeyOverlapFinished {})]),
            KeyCommand::Disable { .. } if key.disabled.is_some() => Ok(vec![]),
            KeyCommand::Disable { reason } => Ok(vec![Event::KeyDisabled(KeyDisabled { reason: reason.clone() })]),
            KeyCommand::Enable if key.disabled.is_none() => Ok(vec![]),
            KeyCommand::Enable => Ok(vec![Event::KeyEnabled(KeyEnabled {})]),
            KeyCommand::Expire => match key.expiry {
                _ if key.expired_at.is_some() => Ok(vec![]),
                Expiry::At(at) if at <= now => Ok(vec![Event::KeyExpired(KeyExpired { expired_at: at })]),
                Expiry::At(_) | Expiry::Never => Err(KeyError::NotExpired),
            },
            KeyCommand::Activate { first_used_at, since } => Ok(key.decide_activate(*first_used_at, *since, now)),
            KeyCommand::UpgradeSecret { number, from, hash, pepper } => key.decide_upgrade(*number, *from, *hash, *pepper),
            KeyCommand::Change(patch) => key.decide_change(patch),
            KeyCommand::Create(_)
            | KeyCommand::Import(_)
            | KeyCommand::Revoke { .. }
            | KeyCommand::ReportLeak(_)
            | KeyCommand::Archive { .. }
            | KeyCommand::Restore
            | KeyCommand::Purge => unreachable!("decided above"),
        }
    }

    fn decide_renew(&self, term: Term, enable: bool, now: Timestamp) -> Result<Vec<Event>, KeyError> {
        term.check(now)?;
        let mut events = Vec::new();
        if self.term() != term || self.expired_at.is_some() {
            events.push(Event::KeyRenewed(KeyRenewed { expiry: term.expiry() }));
            events.extend(beside(term));
        }
        if enable && self.disabled.is_some() {
            events.push(Event::KeyEnabled(KeyEnabled {}));
        }
        Ok(events)
    }

    /// The overlap ends with the key at the latest; the older of two secrets must be over, or be finished, before a third comes.
    fn decide_rotate(&self, hash: Digest, overlap_seconds: u64, finish_previous: bool, now: Timestamp) -> Result<Vec<Event>, KeyError> {
        if self.is_expired(now) {
            return Err(KeyError::Expired);
        }
        if overlap_seconds > OVERLAP_SECONDS_MAX {
            return Err(KeyError::OverlapTooLong);
        }
        if self.secrets.iter().any(|secret| secret.hash == hash) {
            return Err(KeyError::SameSecret);
        }
        if let Some(valid_until) = self.overlap_end(now).filter(|_| !finish_previous) {
            return Err(KeyError::RotationRunning { valid_until });
        }
        let overlap_end = now.plus_seconds(overlap_seconds);
        let previous_valid_until = match self.expiry {
            Expiry::At(expires_at) => overlap_end.min(expires_at),
            Expiry::Never => overlap_end,
        };
        Ok(vec![Event::KeyRotated(KeyRotated { number: self.current_secret().number.saturating_add(1), hash, previous_valid_until })])
    }

    /// The first one in the log wins; later ones, and those of a waiting that was renewed since, have nothing to say. The first use lies
    /// between the beginning of the waiting and now, whatever the clock of the node that saw it.
    fn decide_activate(&self, first_used_at: Timestamp, since: Timestamp, now: Timestamp) -> Vec<Event> {
        let Some(activation) = self.activation.filter(|activation| activation.since == since) else { return vec![] };
        let first_used_at = first_used_at.min(now).max(since);
        let expires_at = first_used_at.plus_seconds(activation.seconds);
        vec![Event::KeyActivated(KeyActivated { first_used_at, expires_at })]
    }

    /// A secret is reported once: what an operator did after that, such as enabling the key again, stands against whoever sends the same again.
    /// A secret that is good no more, or of a key that is revoked, is no danger.
    fn decide_leak(&self, report: &LeakReport, now: Timestamp) -> Vec<Event> {
        let LeakReport { hash, scanner, source, url, action, reason } = report.clone();
        let Some(secret) = self.secret(&hash, now).filter(|_| self.revoked.is_none()) else { return vec![] };
        if self.leaks.iter().any(|leak| leak.number == secret.number) {
            return vec![];
        }
        let mut events = vec![Event::KeyLeakReported(KeyLeakReported { number: secret.number, scanner, source, url })];
        match action {
            LeakAction::Revoke => events.push(Event::KeyRevoked(KeyRevoked { reason })),
            LeakAction::Disable if self.disabled.is_none() => events.push(Event::KeyDisabled(KeyDisabled { reason })),
            LeakAction::Disable => {}
        }
        events
    }

    /// Only of the very secret that was presented. The number alone does not tell: an import may have given it another secret since, which this
    /// would put back to the one before.
    fn decide_upgrade(&self, number: u32, from: Digest, hash: Digest, pepper: u32) -> Result<Vec<Event>, KeyError> {
        let secret = self.secrets.iter().find(|secret| secret.number == number).ok_or(KeyError::NoSuchSecret)?;
        match secret.scheme {
            SecretScheme::Issued => Err(KeyError::NoSuchSecret),
            _ if secret.hash != from => Ok(vec![]),
            SecretScheme::Peppered { pepper: present } if present >= pepper => Ok(vec![]),
            SecretScheme::Peppered { .. } | SecretScheme::ClaudeRelayService { .. } => {
                Ok(vec![Event::KeySecretUpgraded(KeySecretUpgraded { number, hash, pepper })])
            }
        }
    }

    fn decide_change(&self, patch: &KeyPatch) -> Result<Vec<Event>, KeyError> {
        let details = patch.applied_to(&self.details);
        check_details(&details)?;
        let mut events = Vec::new();
        if details != self.details {
            events.push(Event::KeyChanged(KeyChanged { details }));
        }
        if let Some(metadata) = patch.metadata.as_ref().filter(|metadata| **metadata != self.metadata) {
            check_metadata(metadata)?;
            events.push(Event::KeyMetadataSet(KeyMetadataSet { metadata: metadata.clone() }));
        }
        if let Some(dedicated) = patch.dedicated.filter(|dedicated| *dedicated != self.dedicated) {
            events.push(Event::KeyUpstreamDedicated(KeyUpstreamDedicated { dedicated }));
        }
        if let Some(rotation) = patch.rotation.filter(|rotation| *rotation != self.rotation) {
            events.push(scheduled(rotation)?);
        }
        Ok(events)
    }

    /// Until when the older of two secrets is good, if it still is.
    pub fn overlap_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.secrets.iter().filter_map(|secret| secret.valid_until).find(|until| *until > now)
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        let fact = |reason: &Option<Sealed>| Some(Fact { at: at.time, by: at.actor, reason: reason.clone() });
        match (state, event) {
            (None, Event::KeyCreated(created)) => Some(Self {
                id: KeyId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                details: created.details.clone(),
                metadata: METADATA_EMPTY.to_owned(),
                dedicated: None,
                secrets: vec![KeySecret { number: 1, hash: created.hash, scheme: SecretScheme::Issued, valid_until: None }],
                expiry: created.expiry,
                activation: None,
                is_expiry_unset: false,
                first_used_at: None,
                created_at: at.time,
                renewed_at: None,
                rotated_at: None,
                disabled: None,
                expired_at: None,
                revoked: None,
                archived: None,
                purged_at: None,
                leaks: vec![],
                rotation: None,
                successor: None,
            }),
            (Some(key), _) if key.is_purged() => None,
            (Some(key), Event::KeyRenewed(renewed)) => Some(Self {
                expiry: renewed.expiry,
                activation: None,
                is_expiry_unset: false,
                first_used_at: None,
                expired_at: None,
                renewed_at: Some(at.time),
                ..key
            }),
            (Some(key), Event::KeyActivationAwaited(awaited)) => {
                Some(Self { activation: Some(Activation { seconds: awaited.seconds, since: at.time }), ..key })
            }
            (Some(key), Event::KeyExpiryUnset(_)) => Some(Self { is_expiry_unset: true, ..key }),
            (Some(key), Event::KeyActivated(activated)) => Some(Self {
                expiry: Expiry::At(activated.expires_at),
                activation: None,
                first_used_at: Some(activated.first_used_at),
                ..key
            }),
            (Some(key), Event::KeyRotated(rotated)) => {
                let previous = KeySecret { valid_until: Some(rotated.previous_valid_until), ..key.current_secret().clone() };
                let current = KeySecret { number: rotated.number, hash: rotated.hash, scheme: SecretScheme::Issued, valid_until: None };
                let leaks = key.leaks.into_iter().filter(|leak| leak.number == previous.number).collect();
                Some(Self { secrets: vec![previous, current], rotated_at: Some(at.time), leaks, successor: None, ..key })
            }
            (Some(mut key), Event::KeyOverlapFinished(_)) => {
                let older = key.secrets.iter_mut().filter_map(|secret| secret.valid_until.as_mut());
                older.for_each(|until| *until = at.time.min(*until));
                Some(key)
            }
            (Some(mut key), Event::KeySecretBrought(brought)) => {
                key.secrets.iter_mut().find(|secret| secret.number == brought.number)?.scheme = brought.scheme;
                Some(key)
            }
            (Some(mut key), Event::KeySecretUpgraded(upgraded)) => {
                let secret = key.secrets.iter_mut().find(|secret| secret.number == upgraded.number)?;
                (secret.hash, secret.scheme) = (upgraded.hash, SecretScheme::Peppered { pepper: upgraded.pepper });
                Some(key)
            }
            (Some(key), Event::KeyImported(imported)) => Some(Self {
                leaks: key.leaks_among(imported.secrets()),
                successor: key.successor.filter(|_| imported.secrets().last() == key.secrets.last()),
                secrets: imported.secrets(),
                created_at: imported.created_at,
                renewed_at: imported.renewed_at,
                rotated_at: imported.rotated_at,
                ..key
            }),
            (Some(mut key), Event::KeyLeakReported(reported)) => {
                let KeyLeakReported { number, scanner, source, url } = reported.clone();
                key.leaks.push(Leak { number, at: at.time, scanner, source, url });
                Some(key)
            }
            (Some(key), Event::KeyRotationScheduled(scheduled)) => {
                let KeyRotationScheduled { every_seconds, overlap_seconds } = *scheduled;
                Some(Self { rotation: Some(RotationSchedule { every_seconds, overlap_seconds }), ..key })
            }
            (Some(key), Event::KeyRotationUnscheduled(_)) => Some(Self { rotation: None, ..key }),
            (Some(key), Event::KeySuccessorSealed(sealed)) => Some(Self { successor: Some(sealed.number), ..key }),
            (Some(key), Event::KeySuccessorCollected(_)) => Some(Self { successor: None, ..key }),
            (Some(key), Event::KeyMetadataSet(set)) => Some(Self { metadata: set.metadata.clone(), ..key }),
            (Some(key), Event::KeyUpstreamDedicated(set)) => Some(Self { dedicated: set.dedicated, ..key }),
            (Some(key), Event::KeyDisabled(disabled)) => Some(Self { disabled: fact(&disabled.reason), ..key }),
            (Some(key), Event::KeyEnabled(_)) => Some(Self { disabled: None, ..key }),
            (Some(key), Event::KeyExpired(expired)) => Some(Self { expired_at: Some(expired.expired_at), ..key }),
            (Some(key), Event::KeyRevoked(revoked)) => Some(Self { revoked: fact(&revoked.reason), ..key }),
            (Some(key), Event::KeyChanged(changed)) => Some(Self { details: changed.details.clone(), ..key }),
            (Some(key), Event::KeyArchived(archived)) => Some(Self { archived: fact(&archived.reason), ..key }),
            (Some(key), Event::KeyRestored(_)) => Some(Self { archived: None, ..key }),
            (Some(key), Event::KeyPurged(_)) => Some(key.purged(at.time)),
            _ => None,
        }
    }

    /// The leaks of those secrets that the key has already.
    pub(super) fn leaks_among(&self, secrets: Vec<KeySecret>) -> Vec<Leak> {
        let hash = |number, secrets: &[KeySecret]| secrets.iter().find(|secret| secret.number == number).map(|secret| secret.hash);
        let is_kept = |leak: &&Leak| hash(leak.number, &secrets).is_some_and(|kept| hash(leak.number, &self.secrets) == Some(kept));
        self.leaks.iter().filter(is_kept).cloned().collect()
    }

    /// What is left of a key that was purged.
    fn purged(self, at: Timestamp) -> Self {
        Self {
            id: self.id,
            tenant: self.tenant,
            details: KeyDetails::default(),
            metadata: METADATA_EMPTY.to_owned(),
            dedicated: None,
            secrets: vec![],
            expiry: Expiry::Never,
            activation: None,
            is_expiry_unset: false,
            first_used_at: None,
            created_at: self.created_at,
            renewed_at: None,
            rotated_at: None,
            disabled: None,
            expired_at: None,
            revoked: None,
            archived: None,
            purged_at: Some(at),
            leaks: vec![],
            rotation: None,
            successor: None,
        }
    }
}

impl KeyCommand {
    /// Whether an archived key refuses this. What only narrows it, or tells what a client did, is taken.
    const fn may_widen(&self) -> bool {
        match self {
            Self::Renew { .. }
            | Self::Rotate { .. }
            | Self::RotateBySchedule { .. }
            | Self::CollectSuccessor { .. }
            | Self::Enable
            | Self::Change(_)
            | Self::Create(_)
            | Self::Import(_) => true,
            Self::FinishOverlap
            | Self::Disable { .. }
            | Self::Expire
            | Self::Activate { .. }
            | Self::UpgradeSecret { .. }
            | Self::Revoke { .. }
            | Self::ReportLeak(_)
            | Self::Archive { .. }
            | Self::Restore
            | Self::Purge => false,
        }
    }
}

fn decide_create(new: &NewKey, now: Timestamp) -> Result<Vec<Event>, KeyError> {
    let NewKey { details, secret, term, metadata, dedicated, rotation } = new;
    check_details(details)?;
    check_metadata(metadata)?;
    term.check(now)?;
    let mut events = vec![Event::KeyCreated(KeyCreated { details: details.clone(), hash: secret.hash, expiry: term.expiry() })];
    events.extend(beside(*term));
    if secret.scheme != SecretScheme::Issued {
        events.push(Event::KeySecretBrought(KeySecretBrought { number: 1, scheme: secret.scheme }));
    }
    if metadata != METADATA_EMPTY {
        events.push(Event::KeyMetadataSet(KeyMetadataSet { metadata: metadata.clone() }));
    }
    if dedicated.is_some() {
        events.push(Event::KeyUpstreamDedicated(KeyUpstreamDedicated { dedicated: *dedicated }));
    }
    if rotation.is_some() {
        events.push(scheduled(*rotation)?);
    }
    Ok(events)
}

/// The event that gives a key this schedule, or takes it away.
pub(super) fn scheduled(rotation: Option<RotationSchedule>) -> Result<Event, KeyError> {
    let Some(schedule) = rotation else { return Ok(Event::KeyRotationUnscheduled(KeyRotationUnscheduled {})) };
    schedule.check()?;
    let RotationSchedule { every_seconds, overlap_seconds } = schedule;
    Ok(Event::KeyRotationScheduled(KeyRotationScheduled { every_seconds, overlap_seconds }))
}

/// What else there is to say of a term than its expiry.
pub(super) fn beside(term: Term) -> Option<Event> {
    match term {
        Term::AfterFirstUse { seconds } => Some(Event::KeyActivationAwaited(KeyActivationAwaited { seconds })),
        Term::Unset => Some(Event::KeyExpiryUnset(KeyExpiryUnset {})),
        Term::Never | Term::At(_) => None,
    }
}
