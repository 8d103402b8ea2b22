//! Credentials: what the relay shows an upstream. The log holds references and fingerprints; the secret lies sealed in the vault.

pub mod grant;
pub mod order;
pub mod rotation;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::aggregate::{At, Context};
use crate::event::Event;
use crate::id::{CredentialId, RotationId, TenantId, UpstreamId};
use crate::stream::Stream;
use crate::time::Timestamp;

use grant::{CredentialAuthorized, Grant, GrantCommand, GrantError};
use order::{OrderCommand, ProviderSide};
use rotation::{ReplacedSecret, Rotation, RotationCommand, RotationError, RotationStep};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialAdded {
    pub upstream: UpstreamId,
    /// The origin the secret is bound to (`https://api.example.com`): it unseals for no other.
    pub origin: String,
    /// `<pepper version>:<hex>`, a keyed digest: equal texts mean equal secrets, and nothing else can be told from it.
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialReplaced {
    /// The number of the secret in the vault: 2, 3, ...
    pub secret_version: u32,
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRevoked {}

/// The state of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub id: CredentialId,
    pub tenant: TenantId,
    pub upstream: UpstreamId,
    pub origin: String,
    /// The version of the secret in use; part of its address in the vault.
    pub secret_version: u32,
    pub fingerprint: String,
    /// Since when this secret is the one in use.
    pub changed_at: Timestamp,
    pub revoked: bool,
    /// The newest [`rotation::ROTATIONS_KEPT`] rotations, oldest first. The last one may be open.
    pub rotations: Vec<Rotation>,
    /// Where the secret is a provider's grant, which ends and is refreshed. The sealed bytes are a `GrantSecret` then, else the secret itself.
    pub grant: Option<Box<Grant>>,
    /// The number of the last claim to refresh, over all grants that there were.
    pub claims: u32,
    /// What its provider was asked for, and has made.
    pub provider_side: Box<ProviderSide>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialCommand {
    Add(CredentialAdded),
    Replace(CredentialReplaced),
    /// As `Add`, of a provider's grant.
    AddGrant(CredentialAdded, CredentialAuthorized),
    /// As `Replace`, with a provider's grant: a new login.
    ReplaceGrant(CredentialReplaced, CredentialAuthorized),
    Grant(GrantCommand),
    Revoke,
    /// A step of a rotation.
    Rotate(RotationCommand),
    /// What a provider is asked for.
    Order(OrderCommand),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    #[error("the credential exists already")]
    Exists,
    #[error("there is no such credential")]
    NotFound,
    #[error("the credential is revoked")]
    Revoked,
    #[error("secret {given} does not follow secret {current}")]
    SecretVersion { current: u32, given: u32 },
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Grant(#[from] GrantError),
}

impl Credential {
    /// The number of the next secret. Numbers of secrets that were given up are not used again.
    pub fn next_secret_version(&self) -> u32 {
        let staged = self.rotations.iter().map(|rotation| rotation.secret_version);
        staged.fold(self.secret_version, u32::max).saturating_add(1)
    }

    /// The rotation of this id, if it is among the newest.
    pub fn rotation(&self, id: RotationId) -> Option<&Rotation> {
        self.rotations.iter().find(|rotation| rotation.id == id)
    }

    /// The rotation that is under way.
    pub fn open_rotation(&self) -> Option<&Rotation> {
        self.rotations.last().filter(|rotation| rotation.step.is_open())
    }

    /// The secret to ask with where the one in use is refused: the old one, as long as both are good.
    pub fn fallback_secret(&self) -> Option<(&Rotation, &ReplacedSecret)> {
        self.open_rotation().filter(|rotation| rotation.step == RotationStep::Dual).map(|rotation| (rotation, &rotation.previous))
    }

    /// The numbers of all secrets that must be in the vault: the one in use, and the other one of an open rotation.
    pub fn secret_versions(&self) -> Vec<u32> {
        let others = self.open_rotation().map(|rotation| [rotation.previous.version, rotation.secret_version]);
        let others = others.into_iter().flatten().filter(|version| *version != self.secret_version);
        if self.revoked { vec![] } else { std::iter::once(self.secret_version).chain(others).collect() }
    }

    pub(crate) fn decide(state: Option<&Self>, command: &CredentialCommand, context: &Context) -> Result<Vec<Event>, CredentialError> {
        match (state, command) {
            (None, CredentialCommand::Add(added)) => Ok(vec![Event::CredentialAdded(added.clone())]),
            (None, CredentialCommand::AddGrant(added, authorized)) => {
                Ok(vec![Event::CredentialAdded(added.clone()), Event::CredentialAuthorized(authorized.clone())])
            }
            (Some(_), CredentialCommand::Add(_) | CredentialCommand::AddGrant(..)) => Err(CredentialError::Exists),
            (None, _) => Err(CredentialError::NotFound),
            (Some(Self { revoked: true, .. }), CredentialCommand::Revoke) => Ok(vec![]),
            (Some(Self { revoked: true, .. }), _) => Err(CredentialError::Revoked),
            (Some(credential), CredentialCommand::Replace(replaced)) => Ok(vec![credential.replaced(replaced)?]),
            (Some(credential), CredentialCommand::ReplaceGrant(replaced, authorized)) => {
                Ok(vec![credential.replaced(replaced)?, Event::CredentialAuthorized(authorized.clone())])
            }
            (Some(credential), CredentialCommand::Grant(command)) => {
                let grant = credential.grant.as_ref().ok_or(GrantError::NoGrant)?;
                grant.decide(credential.secret_version, command, context)
            }
            (Some(_), CredentialCommand::Revoke) => Ok(vec![Event::CredentialRevoked(CredentialRevoked {})]),
            (Some(Self { grant: Some(_), .. }), CredentialCommand::Rotate(RotationCommand::Stage { .. })) => {
                Err(RotationError::Grant.into())
            }
            (Some(credential), CredentialCommand::Order(command)) => order::decide(credential, command, context.now),
            (Some(credential), CredentialCommand::Rotate(command)) => {
                let events = rotation::decide(credential, command, context.now)?;
                let staged = events.iter().find_map(|event| match event {
                    Event::RotationStaged(staged) => Some(staged.secret_version),
                    _ => None,
                });
                match staged.filter(|given| *given < credential.next_secret_version()) {
                    Some(given) => Err(CredentialError::SecretVersion { current: credential.secret_version, given }),
                    None => Ok(events),
                }
            }
        }
    }

    /// Refuses whatever would come between a rotation, or an order for one, and its end.
    fn refuse_open(&self) -> Result<(), RotationError> {
        let open = self.open_rotation().map(|rotation| rotation.id).or(self.provider_side.order.as_ref().map(|order| order.rotation));
        open.map_or(Ok(()), |open| Err(RotationError::Open(open)))
    }

    fn replaced(&self, replaced: &CredentialReplaced) -> Result<Event, CredentialError> {
        let (current, given) = (self.secret_version, replaced.secret_version);
        self.refuse_open()?;
        // What a command that died has sealed is passed over.
        if given < self.next_secret_version() {
            return Err(CredentialError::SecretVersion { current, given });
        }
        Ok(Event::CredentialReplaced(replaced.clone()))
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            (None, Event::CredentialAdded(added)) => Some(Self {
                id: CredentialId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                upstream: added.upstream,
                origin: added.origin.clone(),
                secret_version: 1,
                fingerprint: added.fingerprint.clone(),
                changed_at: at.time,
                revoked: false,
                rotations: vec![],
                grant: None,
                claims: 0,
                provider_side: Box::default(),
            }),
            // A secret that is entered is no grant, unless `CredentialAuthorized` follows.
            (Some(credential), Event::CredentialReplaced(replaced)) => Some(Self {
                secret_version: replaced.secret_version,
                fingerprint: replaced.fingerprint.clone(),
                changed_at: at.time,
                grant: None,
                ..credential
            }),
            (Some(credential), Event::CredentialRevoked(_)) => Some(Self { revoked: true, changed_at: at.time, ..credential }),
            (Some(credential), Event::CredentialAuthorized(authorized)) => {
                Some(Self { grant: Some(Box::new(Grant::new(authorized, credential.claims, at))), ..credential })
            }
            (
                Some(mut credential),
                Event::CredentialRefreshAsked(_)
                | Event::CredentialRefreshClaimed(_)
                | Event::CredentialRefreshSent(_)
                | Event::CredentialRefreshed(_)
                | Event::CredentialRefreshReleased(_)
                | Event::CredentialLoginRequired(_),
            ) => {
                let grant = credential.grant.take()?.apply(event, at)?;
                if let Event::CredentialRefreshed(refreshed) = event {
                    (credential.secret_version, credential.changed_at) = (refreshed.secret_version, at.time);
                    credential.fingerprint.clone_from(&refreshed.fingerprint);
                }
                credential.claims = grant.generation;
                Some(Self { grant: Some(Box::new(grant)), ..credential })
            }
            (
                Some(credential),
                Event::RotationOrdered(_)
                | Event::RotationOrderClaimed(_)
                | Event::RotationOrderDropped(_)
                | Event::ProviderKeyNoted(_)
                | Event::ProviderKeyRetired(_),
            ) => order::apply(credential, event, at),
            (Some(credential), event) if !credential.revoked => rotation::apply(credential, event, at),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Aggregate, Command};
    use crate::rules::{self, Given, later, tenant};

    fn given(events: impl IntoIterator<Item = Event>) -> Given {
        rules::given(Stream::credential(tenant(), CredentialId::from_bytes([1; 16])), events)
    }

    fn addition() -> CredentialAdded {
        CredentialAdded {
            upstream: UpstreamId::from_bytes([2; 16]),
            origin: "https://api.example.com".into(),
            fingerprint: "1:0123".into(),
        }
    }

    fn added() -> Event {
        Event::CredentialAdded(addition())
    }

    fn replacement(secret_version: u32) -> CredentialReplaced {
        CredentialReplaced { secret_version, fingerprint: "1:4567".into() }
    }

    fn replace(secret_version: u32) -> Command {
        Command::Credential(CredentialCommand::Replace(replacement(secret_version)))
    }

    fn revoked() -> Event {
        Event::CredentialRevoked(CredentialRevoked {})
    }

    const REVOKE: Command = Command::Credential(CredentialCommand::Revoke);

    #[test]
    fn a_replaced_secret_follows_the_one_before() {
        let given = given([added()]).after(5).when(replace(2)).then([Event::CredentialReplaced(replacement(2))]);
        let Aggregate::Credential(credential) = given.state() else { panic!("not a credential") };
        assert_eq!((credential.secret_version, credential.fingerprint.as_str()), (2, "1:4567"));
        assert_eq!((credential.origin.as_str(), credential.changed_at), ("https://api.example.com", later(5)));
    }

    #[test]
    fn a_secret_that_does_not_follow_is_refused() {
        for wrong in [0, 1] {
            given([added()]).when(replace(wrong)).then_refused(CredentialError::SecretVersion { current: 1, given: wrong });
        }
        // The number of one that nobody recorded is not used again.
        given([added()]).when(replace(3)).then([Event::CredentialReplaced(replacement(3))]);
    }

    #[test]
    fn a_credential_is_added_once() {
        let add = Command::Credential(CredentialCommand::Add(addition()));
        given([]).when(add.clone()).then([added()]).when(add.clone()).then_refused(CredentialError::Exists);
        given([added(), revoked()]).when(add).then_refused(CredentialError::Exists);
    }

    #[test]
    fn a_credential_that_was_never_added_can_be_neither_replaced_nor_revoked() {
        given([]).when(replace(2)).then_refused(CredentialError::NotFound);
        given([]).when(REVOKE).then_refused(CredentialError::NotFound);
    }

    #[test]
    fn a_revoked_credential_stays_revoked() {
        let given = given([added()]).when(REVOKE).then([revoked()]).when(REVOKE).then_nothing();
        given.when(replace(2)).then_refused(CredentialError::Revoked);
    }
}

#[cfg(test)]
#[path = "credential/rotation_tests.rs"]
mod rotation_tests;

#[cfg(test)]
#[path = "credential/rotation_model_tests.rs"]
mod rotation_model_tests;
