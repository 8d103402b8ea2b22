//! Root keys: which ones the cluster's data keys are wrapped under, and which come and go.
//!
//! A root key is known here by its commitment alone. It is announced first, so that every node can be given it; becomes the active one, under
//! which data keys are wrapped from then on; is good for decrypting only once another has followed; and is destroyed when nothing lies under it
//! any more. Founding begins with an active one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::aggregate::At;
use crate::event::Event;
use crate::id::Digest;
use crate::time::Timestamp;

/// The most root keys of a cluster that are not destroyed: a change that is under way, and one that was not finished before.
pub const HELD_MAX: usize = 4;

/// A root key is to follow on the active one: nodes are to be given it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RootKeyAnnounced {
    pub commitment: Digest,
}

/// An announced root key is not to be used after all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RootKeyWithdrawn {
    pub commitment: Digest,
}

/// Data keys are wrapped under another root key from here on; the one before is only decrypted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RootKeyChanged {
    /// What the new root key commits to.
    pub commitment: Digest,
    /// The root key that was active before.
    pub previous: Digest,
}

/// Nothing is wrapped under a root key any more, and nothing is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RootKeyDestroyed {
    pub commitment: Digest,
    /// The data keys that a scan opened before, each under another root key.
    pub data_keys: u64,
}

/// A copy of a root key was written somewhere else and read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RootKeyBackedUp {
    pub commitment: Digest,
}

/// How far a root key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootKeyState {
    /// Nodes are being given it.
    Announced,
    /// Data keys are wrapped under it.
    Active,
    /// Data keys may still lie under it; none are wrapped under it any more.
    DecryptOnly,
}

impl RootKeyState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Active => "active",
            Self::DecryptOnly => "decrypt_only",
        }
    }
}

/// A root key that is not destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRootKey {
    pub commitment: Digest,
    pub state: RootKeyState,
    /// Since when it is in this state.
    pub since: Timestamp,
    pub backed_up_at: Option<Timestamp>,
}

/// The root keys of a cluster, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKeys {
    pub held: Vec<HeldRootKey>,
    /// Destroyed ones: a key does not come back.
    pub destroyed: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootKeyCommand {
    Announce {
        commitment: Digest,
    },
    Withdraw {
        commitment: Digest,
    },
    /// Makes an announced root key the active one. What is said to be active must be: who is wrong about it means another cluster.
    Change {
        previous: Digest,
        commitment: Digest,
    },
    Destroy {
        commitment: Digest,
        data_keys: u64,
    },
    BackUp {
        commitment: Digest,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RootKeyError {
    #[error("the cluster has no root key {commitment}")]
    Unknown { commitment: Digest },
    #[error("the root key {given} is not the one in use, which is {active}; nothing was changed")]
    NotActive { given: Digest, active: Digest },
    #[error("the root key {commitment} is in use")]
    InUse { commitment: Digest },
    #[error("the root key {commitment} was not announced")]
    NotAnnounced { commitment: Digest },
    #[error("the root key {commitment} was announced and never used; withdraw it")]
    OnlyAnnounced { commitment: Digest },
    #[error("the root key {commitment} was in use before and does not come back; make a new one")]
    Spent { commitment: Digest },
    #[error("another root key, {commitment}, is announced; finish that change or withdraw it")]
    AnotherAnnounced { commitment: Digest },
    #[error("data keys may still lie under {count} older root keys; destroy those first")]
    TooMany { count: usize },
}

impl RootKeys {
    /// As founding leaves them.
    pub(crate) fn founded(commitment: Digest, at: &At) -> Self {
        let first = HeldRootKey { commitment, state: RootKeyState::Active, since: at.time, backed_up_at: None };
        Self { held: vec![first], destroyed: Vec::new() }
    }

    /// The one that data keys are wrapped under.
    pub fn active(&self) -> &HeldRootKey {
        self.held.iter().find(|key| key.state == RootKeyState::Active).expect("a cluster has an active root key from its founding on")
    }

    pub fn announced(&self) -> Option<&HeldRootKey> {
        self.held.iter().find(|key| key.state == RootKeyState::Announced)
    }

    /// Those that data keys may lie under, beside the active one.
    pub fn decrypt_only(&self) -> impl Iterator<Item = &HeldRootKey> {
        self.held.iter().filter(|key| key.state == RootKeyState::DecryptOnly)
    }

    pub fn get(&self, commitment: &Digest) -> Option<&HeldRootKey> {
        self.held.iter().find(|key| key.commitment == *commitment)
    }

    fn known(&self, commitment: Digest) -> Result<&HeldRootKey, RootKeyError> {
        let spent = || self.destroyed.contains(&commitment).then_some(RootKeyError::Spent { commitment });
        self.get(&commitment).ok_or_else(|| spent().unwrap_or(RootKeyError::Unknown { commitment }))
    }

    pub(crate) fn decide(&self, command: &RootKeyCommand) -> Result<Vec<Event>, RootKeyError> {
        match *command {
            RootKeyCommand::Announce { commitment } => self.announce(commitment),
            RootKeyCommand::Withdraw { commitment } => match self.known(commitment)?.state {
                RootKeyState::Announced => Ok(vec![Event::RootKeyWithdrawn(RootKeyWithdrawn { commitment })]),
                RootKeyState::Active | RootKeyState::DecryptOnly => Err(RootKeyError::InUse { commitment }),
            },
            RootKeyCommand::Change { previous, commitment } => self.change(previous, commitment),
            RootKeyCommand::Destroy { commitment, data_keys } => {
                if self.destroyed.contains(&commitment) {
                    return Ok(Vec::new());
                }
                match self.known(commitment)?.state {
                    RootKeyState::Announced => Err(RootKeyError::OnlyAnnounced { commitment }),
                    RootKeyState::Active => Err(RootKeyError::InUse { commitment }),
                    RootKeyState::DecryptOnly => Ok(vec![Event::RootKeyDestroyed(RootKeyDestroyed { commitment, data_keys })]),
                }
            }
            RootKeyCommand::BackUp { commitment } => {
                self.known(commitment)?;
                Ok(vec![Event::RootKeyBackedUp(RootKeyBackedUp { commitment })])
            }
        }
    }

    fn announce(&self, commitment: Digest) -> Result<Vec<Event>, RootKeyError> {
        if self.destroyed.contains(&commitment) {
            return Err(RootKeyError::Spent { commitment });
        }
        match (self.get(&commitment).map(|key| key.state), self.announced()) {
            (Some(RootKeyState::Announced | RootKeyState::Active), _) => Ok(Vec::new()),
            (Some(RootKeyState::DecryptOnly), _) => Err(RootKeyError::Spent { commitment }),
            (None, Some(other)) => Err(RootKeyError::AnotherAnnounced { commitment: other.commitment }),
            (None, None) if self.held.len() >= HELD_MAX => Err(RootKeyError::TooMany { count: self.held.len() - 1 }),
            (None, None) => Ok(vec![Event::RootKeyAnnounced(RootKeyAnnounced { commitment })]),
        }
    }

    fn change(&self, previous: Digest, commitment: Digest) -> Result<Vec<Event>, RootKeyError> {
        let active = self.active().commitment;
        // Done already: the key is in use, and follows on the one that was meant.
        if active == commitment && self.decrypt_only().last().is_some_and(|key| key.commitment == previous) {
            return Ok(Vec::new());
        }
        if active != previous {
            return Err(RootKeyError::NotActive { given: previous, active });
        }
        match self.get(&commitment).map(|key| key.state) {
            Some(RootKeyState::Announced) => Ok(vec![Event::RootKeyChanged(RootKeyChanged { commitment, previous })]),
            Some(RootKeyState::Active) => Err(RootKeyError::InUse { commitment }),
            Some(RootKeyState::DecryptOnly) => Err(RootKeyError::Spent { commitment }),
            None if self.destroyed.contains(&commitment) => Err(RootKeyError::Spent { commitment }),
            None => Err(RootKeyError::NotAnnounced { commitment }),
        }
    }

    /// None for an event that cannot follow.
    pub(crate) fn apply(mut self, event: &Event, at: &At) -> Option<Self> {
        match event {
            Event::RootKeyAnnounced(RootKeyAnnounced { commitment }) => {
                let is_new = self.get(commitment).is_none() && !self.destroyed.contains(commitment) && self.announced().is_none();
                let key = HeldRootKey { commitment: *commitment, state: RootKeyState::Announced, since: at.time, backed_up_at: None };
                self.held.push(key);
                is_new.then_some(self)
            }
            Event::RootKeyWithdrawn(RootKeyWithdrawn { commitment }) => self.without(commitment, RootKeyState::Announced),
            Event::RootKeyChanged(RootKeyChanged { commitment, previous }) => {
                let old = self.position(previous, RootKeyState::Active)?;
                let new = self.position(commitment, RootKeyState::Announced)?;
                for (index, state) in [(old, RootKeyState::DecryptOnly), (new, RootKeyState::Active)] {
                    (self.held[index].state, self.held[index].since) = (state, at.time);
                }
                Some(self)
            }
            Event::RootKeyDestroyed(RootKeyDestroyed { commitment, .. }) => {
                let mut left = self.without(commitment, RootKeyState::DecryptOnly)?;
                left.destroyed.push(*commitment);
                Some(left)
            }
            Event::RootKeyBackedUp(RootKeyBackedUp { commitment }) => {
                self.held.iter_mut().find(|key| key.commitment == *commitment)?.backed_up_at = Some(at.time);
                Some(self)
            }
            _ => None,
        }
    }

    fn position(&self, commitment: &Digest, state: RootKeyState) -> Option<usize> {
        self.held.iter().position(|key| key.commitment == *commitment && key.state == state)
    }

    fn without(mut self, commitment: &Digest, state: RootKeyState) -> Option<Self> {
        let index = self.position(commitment, state)?;
        self.held.remove(index);
        Some(self)
    }
}

#[cfg(test)]
#[path = "root_key_tests.rs"]
mod tests;
