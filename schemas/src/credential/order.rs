//! Orders: a provider is asked for the next secret of a credential, and keys that it made are taken away there.
//!
//! An order stands in the log before a provider hears of it, and so does the claim of the node that asks: whoever takes over after a crash knows
//! that the provider may have made a key, and finds it there by the id of the rotation, which is its name. A secret that is delivered begins the
//! rotation of that id; one that an operator enters under it does as well.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rotation::{EndCause, GRACE_SECONDS_MAX, Installer, RotationError, RotationInstalled, RotationStaged, WINDOW_SECONDS_MAX};
use super::{Credential, CredentialError};
use crate::actor::Actor;
use crate::aggregate::At;
use crate::event::Event;
use crate::id::{RotationId, WriterId};
use crate::time::Timestamp;

/// How long after a claim another one may be made: longer than a node may be at it.
pub const CLAIM_SECONDS: u64 = 30;
/// The keys at a provider that are remembered; what was before stands in the log.
const KEYS_MAX: usize = 64;

/// The next secret is to come from a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationOrdered {
    /// The rotation that it will be.
    pub rotation: RotationId,
    /// The name that the configuration gives the provider.
    pub provider: String,
    pub compromise: bool,
    /// As [`RotationStaged`] has them.
    pub window_seconds: u64,
    pub grace_seconds: u64,
    pub unused_seconds: Option<u64>,
}

/// A node is about to ask the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationOrderClaimed {
    pub rotation: RotationId,
    /// 1, 2, ... for one order.
    pub number: u32,
    pub node: WriterId,
}

/// The order was given up before a secret came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationOrderDropped {
    pub rotation: RotationId,
    pub cause: EndCause,
}

/// What the provider calls the key with this secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderKeyNoted {
    pub secret_version: u32,
    /// The name that the configuration gives the provider.
    pub provider: String,
    /// The provider's id of the key; no secret.
    pub key: String,
}

/// The provider takes the key no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderKeyRetired {
    pub secret_version: u32,
    pub key: String,
}

/// An order that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub rotation: RotationId,
    pub provider: String,
    pub compromise: bool,
    pub window_seconds: u64,
    pub grace_seconds: u64,
    pub unused_seconds: Option<u64>,
    pub ordered_at: Timestamp,
    pub ordered_by: Actor,
    pub claim: Option<Claim>,
}

/// Who asked the provider last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub number: u32,
    pub node: WriterId,
    pub at: Timestamp,
}

/// What a credential has to do with its provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderSide {
    pub order: Option<Order>,
    /// When the last order was given up.
    pub dropped_at: Option<Timestamp>,
    /// Keys at the provider that are not known to be gone.
    pub keys: Vec<ProviderKeyNoted>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderCommand {
    Place(RotationOrdered),
    Claim {
        rotation: RotationId,
        node: WriterId,
    },
    /// The secret has come, and is sealed.
    Deliver {
        staged: Box<RotationStaged>,
        key: Option<String>,
    },
    Drop {
        rotation: RotationId,
        cause: EndCause,
    },
    Note(ProviderKeyNoted),
    Retire(ProviderKeyRetired),
}

impl ProviderSide {
    /// The order of this id, if it is open.
    pub fn order_of(&self, id: RotationId) -> Option<&Order> {
        self.order.as_ref().filter(|order| order.rotation == id)
    }

    /// What the provider calls the key with this secret.
    pub fn key(&self, secret_version: u32) -> Option<&ProviderKeyNoted> {
        self.keys.iter().find(|key| key.secret_version == secret_version)
    }
}

impl Order {
    /// Whether the provider may be asked now: whoever asked last is done, one way or the other.
    pub fn is_free(&self, now: Timestamp) -> bool {
        self.claim.is_none_or(|claim| claim.at.plus_seconds(CLAIM_SECONDS) <= now)
    }
}

/// Whether times make a rotation.
pub(super) fn check_times(window: u64, grace: u64, unused: Option<u64>) -> Result<(), RotationError> {
    let is_window = (1..=WINDOW_SECONDS_MAX).contains(&window) && window <= grace;
    if is_window && grace <= GRACE_SECONDS_MAX && unused != Some(0) { Ok(()) } else { Err(RotationError::Times) }
}

/// Decides on a credential that is not revoked.
pub(super) fn decide(credential: &Credential, command: &OrderCommand, now: Timestamp) -> Result<Vec<Event>, CredentialError> {
    let side = &credential.provider_side;
    Ok(match command {
        OrderCommand::Place(ordered) => {
            if credential.grant.is_some() {
                return Err(RotationError::Grant.into());
            }
            if side.order_of(ordered.rotation).is_some() || credential.rotation(ordered.rotation).is_some() {
                return Ok(vec![]);
            }
            credential.refuse_open()?;
            check_times(ordered.window_seconds, ordered.grace_seconds, ordered.unused_seconds)?;
            vec![Event::RotationOrdered(ordered.clone())]
        }
        OrderCommand::Claim { rotation, node } => {
            let order = side.order_of(*rotation).ok_or(RotationError::NotFound)?;
            if !order.is_free(now) {
                return Err(RotationError::NotDue.into());
            }
            let number = order.claim.map_or(0, |claim| claim.number).saturating_add(1);
            vec![Event::RotationOrderClaimed(RotationOrderClaimed { rotation: *rotation, number, node: *node })]
        }
        OrderCommand::Deliver { staged, key } => {
            if let Some(known) = credential.rotation(staged.rotation) {
                return if known.fingerprint == staged.fingerprint { Ok(vec![]) } else { Err(RotationError::Reused(known.id).into()) };
            }
            let order = side.order_of(staged.rotation).ok_or(RotationError::NotFound)?;
            let (current, given) = (credential.secret_version, staged.secret_version);
            if given < credential.next_secret_version() {
                return Err(CredentialError::SecretVersion { current, given });
            }
            if staged.fingerprint == credential.fingerprint {
                return Err(RotationError::SameSecret.into());
            }
            check_times(staged.window_seconds, staged.grace_seconds, staged.unused_seconds)?;
            let provider = order.provider.clone();
            let noted = key.clone().map(|key| Event::ProviderKeyNoted(ProviderKeyNoted { secret_version: given, provider, key }));
            let installed = RotationInstalled { rotation: staged.rotation, by: Installer::Provider };
            let staged = [Event::RotationStaged((**staged).clone()), Event::RotationInstalled(installed)];
            noted.into_iter().chain(staged).collect()
        }
        OrderCommand::Drop { rotation, cause } => match (side.order_of(*rotation), credential.rotation(*rotation)) {
            (Some(_), _) => vec![Event::RotationOrderDropped(RotationOrderDropped { rotation: *rotation, cause: *cause })],
            (None, Some(known)) => return Err(RotationError::Step { at: known.step }.into()),
            (None, None) => return Err(RotationError::NotFound.into()),
        },
        OrderCommand::Note(noted) if side.key(noted.secret_version).is_some() => vec![],
        OrderCommand::Note(noted) => vec![Event::ProviderKeyNoted(noted.clone())],
        OrderCommand::Retire(retired) => {
            let is_known = side.keys.iter().any(|key| (key.secret_version, &key.key) == (retired.secret_version, &retired.key));
            is_known.then(|| Event::ProviderKeyRetired(retired.clone())).into_iter().collect()
        }
    })
}

/// Folds one event; none where it cannot follow.
pub(super) fn apply(mut credential: Credential, event: &Event, at: &At) -> Option<Credential> {
    let side = &mut credential.provider_side;
    match event {
        Event::RotationOrdered(ordered) => {
            side.order = Some(Order {
                rotation: ordered.rotation,
                provider: ordered.provider.clone(),
                compromise: ordered.compromise,
                window_seconds: ordered.window_seconds,
                grace_seconds: ordered.grace_seconds,
                unused_seconds: ordered.unused_seconds,
                ordered_at: at.time,
                ordered_by: at.actor,
                claim: None,
            });
        }
        Event::RotationOrderClaimed(claimed) => {
            let order = side.order.as_mut().filter(|order| order.rotation == claimed.rotation)?;
            order.claim = Some(Claim { number: claimed.number, node: claimed.node, at: at.time });
        }
        Event::RotationOrderDropped(dropped) => {
            side.order.take_if(|order| order.rotation == dropped.rotation)?;
            side.dropped_at = Some(at.time);
        }
        Event::ProviderKeyNoted(noted) => {
            if side.keys.len() >= KEYS_MAX {
                side.keys.remove(0);
            }
            side.keys.push(noted.clone());
        }
        Event::ProviderKeyRetired(retired) => side.keys.retain(|key| key.secret_version != retired.secret_version),
        _ => return None,
    }
    Some(credential)
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
