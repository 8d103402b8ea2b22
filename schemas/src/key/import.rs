//! A key that comes whole from elsewhere: an export of this or another cluster, or another system's keys.

use super::command::{check_details, check_metadata};
use super::decision::{beside, scheduled};
use super::{
    Dedicated, Expiry, ImportedSecret, Key, KeyActivated, KeyArchived, KeyChanged, KeyCreated, KeyDetails, KeyDisabled, KeyEnabled,
    KeyError, KeyExpired, KeyImported, KeyMetadataSet, KeyRenewed, KeyRestored, KeyRevoked, KeySecret, KeyUpstreamDedicated,
    METADATA_EMPTY, RotationSchedule, Term,
};
use crate::event::Event;
use crate::sealed::Sealed;
use crate::time::Timestamp;

/// What a key was elsewhere, and is to be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyImport {
    pub details: KeyDetails,
    /// A canonical JSON object, [`METADATA_EMPTY`] for none.
    pub metadata: String,
    pub dedicated: Option<Dedicated>,
    /// None where it was not told: a key that is here keeps its schedule, or goes on without.
    pub rotation: Option<Option<RotationSchedule>>,
    /// One, or two during an overlap; the last is current. Their numbers rise.
    pub secrets: Vec<ImportedSecret>,
    /// May lie in the past: the key is refused then, as it was elsewhere.
    pub term: Term,
    /// Of a key whose time began with its first request; goes with an expiry.
    pub first_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub renewed_at: Option<Timestamp>,
    pub rotated_at: Option<Timestamp>,
    pub expired_at: Option<Timestamp>,
    pub disabled: Option<ImportedFact>,
    pub revoked: Option<ImportedFact>,
    pub archived: Option<ImportedFact>,
}

/// A fact that stood elsewhere. Here it stands from the import on, by the import: the log says who did what in this log only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedFact {
    pub reason: Option<Sealed>,
}

impl KeyImported {
    /// The secrets as the key has them.
    pub fn secrets(&self) -> Vec<KeySecret> {
        let of = |&ImportedSecret { number, hash, scheme, valid_until }: &ImportedSecret| KeySecret { number, hash, scheme, valid_until };
        self.secrets.iter().map(of).collect()
    }
}

impl KeyImport {
    pub(super) fn decide_new(&self) -> Result<Vec<Event>, KeyError> {
        self.check()?;
        let hash = self.secrets.last().ok_or(KeyError::Imported)?.hash;
        let created = KeyCreated { details: self.details.clone(), hash, expiry: self.term.expiry() };
        let mut events = vec![Event::KeyCreated(created)];
        events.extend(self.time_events());
        events.push(Event::KeyImported(self.imported()));
        if self.metadata != METADATA_EMPTY {
            events.push(Event::KeyMetadataSet(KeyMetadataSet { metadata: self.metadata.clone() }));
        }
        if self.dedicated.is_some() {
            events.push(Event::KeyUpstreamDedicated(KeyUpstreamDedicated { dedicated: self.dedicated }));
        }
        if let Some(rotation @ Some(_)) = self.rotation {
            events.push(scheduled(rotation)?);
        }
        events.extend(self.facts_after(None));
        Ok(events)
    }

    /// The events that make a key that is there the same. A revocation is final, so it is never taken back; nor is what a leak came to, see
    /// [`Self::keeps_quarantine`].
    pub(super) fn decide_onto(&self, key: &Key) -> Result<Vec<Event>, KeyError> {
        self.check()?;
        if key.revoked.is_some() && self.revoked.is_none() {
            return Err(KeyError::Revoked);
        }
        let mut events = Vec::new();
        if self.details != key.details {
            events.push(Event::KeyChanged(KeyChanged { details: self.details.clone() }));
        }
        let is_other_time = (key.term(), key.first_used_at, key.expired_at) != (self.term, self.first_used_at, self.expired_at);
        if is_other_time {
            events.push(Event::KeyRenewed(KeyRenewed { expiry: self.term.expiry() }));
            events.extend(self.time_events());
        }
        let is_other_past = (key.created_at, key.renewed_at, key.rotated_at) != (self.created_at, self.renewed_at, self.rotated_at);
        let imported = self.imported();
        if is_other_time || is_other_past || imported.secrets() != key.secrets {
            events.push(Event::KeyImported(imported));
        }
        if self.metadata != key.metadata {
            events.push(Event::KeyMetadataSet(KeyMetadataSet { metadata: self.metadata.clone() }));
        }
        if self.dedicated != key.dedicated {
            events.push(Event::KeyUpstreamDedicated(KeyUpstreamDedicated { dedicated: self.dedicated }));
        }
        if let Some(rotation) = self.rotation.filter(|rotation| *rotation != key.rotation) {
            events.push(scheduled(rotation)?);
        }
        events.extend(self.facts_after(Some(key)));
        Ok(events)
    }

    /// Whether a key that is there stays disabled, whatever it was elsewhere: it keeps a secret that was found in the open, and a secret is
    /// reported only once.
    pub fn keeps_quarantine(&self, key: &Key) -> bool {
        self.disabled.is_none() && key.disabled.is_some() && !key.leaks_among(self.imported().secrets()).is_empty()
    }

    fn imported(&self) -> KeyImported {
        let &Self { created_at, renewed_at, rotated_at, .. } = self;
        KeyImported { secrets: self.secrets.clone(), created_at, renewed_at, rotated_at }
    }

    /// What follows on an expiry: that it is awaited, was begun, or has passed.
    fn time_events(&self) -> Vec<Event> {
        let mut events: Vec<_> = beside(self.term).into_iter().collect();
        if let (Some(first_used_at), Term::At(expires_at)) = (self.first_used_at, self.term) {
            events.push(Event::KeyActivated(KeyActivated { first_used_at, expires_at }));
        }
        if let Some(expired_at) = self.expired_at {
            events.push(Event::KeyExpired(KeyExpired { expired_at }));
        }
        events
    }

    /// The operator's facts, each by an event of its own.
    fn facts_after(&self, key: Option<&Key>) -> Vec<Event> {
        let reason = |fact: &ImportedFact| fact.reason.clone();
        let mut events = Vec::new();
        match (&self.disabled, key.is_some_and(|key| key.disabled.is_some())) {
            (Some(fact), false) => events.push(Event::KeyDisabled(KeyDisabled { reason: reason(fact) })),
            (None, true) if key.is_some_and(|key| self.keeps_quarantine(key)) => {}
            (None, true) => events.push(Event::KeyEnabled(KeyEnabled {})),
            (Some(_), true) | (None, false) => {}
        }
        if let Some(fact) = self.revoked.as_ref().filter(|_| key.is_none_or(|key| key.revoked.is_none())) {
            events.push(Event::KeyRevoked(KeyRevoked { reason: reason(fact) }));
        }
        match (&self.archived, key.is_some_and(|key| key.archived.is_some())) {
            (Some(fact), false) => events.push(Event::KeyArchived(KeyArchived { reason: reason(fact) })),
            (None, true) => events.push(Event::KeyRestored(KeyRestored {})),
            (Some(_), true) | (None, false) => {}
        }
        events
    }

    fn check(&self) -> Result<(), KeyError> {
        check_details(&self.details)?;
        check_metadata(&self.metadata)?;
        let secrets_fit = match &self.secrets[..] {
            [only] => only.number > 0 && only.valid_until.is_none(),
            [older, current] => {
                let rise = 0 < older.number && older.number < current.number && older.hash != current.hash;
                rise && older.valid_until.is_some() && current.valid_until.is_none()
            }
            _ => false,
        };
        let expires = matches!(self.term.expiry(), Expiry::At(_));
        let times_fit = expires || (self.first_used_at.is_none() && self.expired_at.is_none());
        if secrets_fit && times_fit { Ok(()) } else { Err(KeyError::Imported) }
    }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
