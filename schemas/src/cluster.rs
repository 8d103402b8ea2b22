//! The cluster: founded once, at sequence 1; its root keys come and go, see [`crate::root_key`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::actor::Actor;
use crate::aggregate::{At, Context};
use crate::event::Event;
use crate::id::{ClusterId, Digest, PublicKey};
use crate::root_key::{RootKeyCommand, RootKeyError, RootKeys};

/// The log begins. The record that carries this is signed by the cluster key named here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterFounded {
    pub cluster_id: ClusterId,
    /// The newest event versions that may be written, raised by `FormatRaised`; 1 at founding.
    pub format_level: u16,
    /// Ed25519; signs enrolments of writers.
    pub cluster_public_key: PublicKey,
    /// What a root key must commit to, so that a wrong one is refused before anything is unsealed.
    pub root_key_commitment: Digest,
    /// See [`crate::client_key::owner_token_hash`].
    pub owner_token_hash: Digest,
}

/// The state of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub id: ClusterId,
    pub format_level: u16,
    pub public_key: PublicKey,
    pub root_keys: RootKeys,
    pub owner_token_hash: Digest,
}

/// The format level that this release founds a cluster with.
pub const FORMAT_LEVEL: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterCommand {
    Found(ClusterFounded),
    RootKey(RootKeyCommand),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClusterError {
    #[error("the log already has its founding")]
    AlreadyFounded,
    #[error("the log does not begin with the founding of a cluster")]
    NotFounded,
    #[error("root keys are the owner's to change")]
    NotOwner,
    #[error(transparent)]
    RootKey(#[from] RootKeyError),
}

impl Cluster {
    pub(crate) fn decide(state: Option<&Self>, command: &ClusterCommand, context: &Context) -> Result<Vec<Event>, ClusterError> {
        match (state, command) {
            (Some(_), ClusterCommand::Found(_)) => Err(ClusterError::AlreadyFounded),
            (None, ClusterCommand::Found(founded)) => Ok(vec![Event::ClusterFounded(founded.clone())]),
            (Some(_), ClusterCommand::RootKey(_)) if context.actor != Actor::Owner => Err(ClusterError::NotOwner),
            (Some(cluster), ClusterCommand::RootKey(command)) => Ok(cluster.root_keys.decide(command)?),
            (None, ClusterCommand::RootKey(_)) => Err(ClusterError::NotFounded),
        }
    }

    pub(crate) fn apply(state: Option<Self>, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            (None, Event::ClusterFounded(founded)) => Some(Self {
                id: founded.cluster_id,
                format_level: founded.format_level,
                public_key: founded.cluster_public_key,
                root_keys: RootKeys::founded(founded.root_key_commitment, at),
                owner_token_hash: founded.owner_token_hash,
            }),
            (Some(cluster), event) => Some(Self { root_keys: cluster.root_keys.apply(event, at)?, ..cluster }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Command;
    use crate::rules;
    use crate::stream::Stream;

    #[test]
    fn a_cluster_is_founded_once() {
        let founding = ClusterFounded {
            cluster_id: ClusterId::from_bytes([1; 16]),
            format_level: FORMAT_LEVEL,
            cluster_public_key: PublicKey::from_bytes([2; 32]),
            root_key_commitment: Digest::from_bytes([3; 32]),
            owner_token_hash: Digest::from_bytes([4; 32]),
        };
        let found = || Command::Cluster(ClusterCommand::Found(founding.clone()));
        let given = rules::given(Stream::CLUSTER, []).when(found()).then([Event::ClusterFounded(founding.clone())]);
        given.when(found()).then_refused(ClusterError::AlreadyFounded);
    }
}
