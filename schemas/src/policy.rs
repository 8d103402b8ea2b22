//! Policies: WebAssembly modules that decide on requests. The module is an artefact, named by its digest; the event says that it was admitted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::actor::Actor;
use crate::aggregate::At;
use crate::event::Event;
use crate::id::{Digest, TenantId, derive16};
use crate::name::{self, NameError};
use crate::stream::Stream;
use crate::time::Timestamp;

/// What a policy decides on: the worlds of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// Until when a key is good.
    Expiry,
    /// How much may be used.
    Quota,
    /// Which upstreams, and in which order.
    Route,
}

impl PolicyKind {
    /// All kinds, in the order of the chain.
    pub const ALL: [Self; 3] = [Self::Expiry, Self::Quota, Self::Route];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expiry => "expiry",
            Self::Quota => "quota",
            Self::Route => "route",
        }
    }
}

/// The limits that a policy runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyClass {
    /// For compiled languages; runs inline.
    Fast,
    /// For JavaScript and Python; must be asked for, runs on a bounded pool of threads.
    Slow,
}

impl PolicyClass {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }
}

/// The most bytes of a manifest.
pub const MANIFEST_BYTES_MAX: usize = 32 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyUploaded {
    pub name: String,
    /// Of the component, which is the artefact.
    pub digest: Digest,
    /// Of the bytes that were uploaded; another one where a core module was wrapped into a component.
    pub uploaded_digest: Digest,
    pub kind: PolicyKind,
    pub class: PolicyClass,
    /// The component's size.
    pub bytes: u64,
    /// What the policy says of itself, canonical JSON.
    pub manifest: String,
}

/// The state of a policy. It never changes: another module is another policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub tenant: TenantId,
    pub uploaded: PolicyUploaded,
    pub uploaded_at: Timestamp,
    pub uploaded_by: Actor,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyCommand {
    Upload(Box<PolicyUploaded>),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    #[error("the manifest has at most {MANIFEST_BYTES_MAX} bytes")]
    ManifestTooLarge,
    #[error("these bytes are here already as a {} policy of class {}", kind.as_str(), class.as_str())]
    Exists { kind: PolicyKind, class: PolicyClass },
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Stream {
    /// The stream of the policy with this digest: a tenant has a module once.
    pub fn policy(tenant: TenantId, digest: &Digest) -> Self {
        let id = derive16("keyrelay 2026 policy id v1", &[digest.as_bytes()]);
        Self::new(tenant, crate::StreamKind::Policy, id).expect("a policy may have any tenant of a name and any id")
    }
}

impl Policy {
    pub(crate) fn decide(state: Option<&Self>, command: &PolicyCommand) -> Result<Vec<Event>, PolicyError> {
        let PolicyCommand::Upload(upload) = command;
        name::check("name", &upload.name)?;
        if upload.manifest.len() > MANIFEST_BYTES_MAX {
            return Err(PolicyError::ManifestTooLarge);
        }
        match state {
            None => Ok(vec![Event::PolicyUploaded((**upload).clone())]),
            Some(Self { uploaded, .. }) if (uploaded.kind, uploaded.class) == (upload.kind, upload.class) => Ok(vec![]),
            Some(Self { uploaded, .. }) => Err(PolicyError::Exists { kind: uploaded.kind, class: uploaded.class }),
        }
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            (None, Event::PolicyUploaded(uploaded)) => {
                Some(Self { tenant: stream.tenant().clone(), uploaded: uploaded.clone(), uploaded_at: at.time, uploaded_by: at.actor })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Command;
    use crate::rules::{self, Given, tenant};

    fn uploaded(name: &str) -> PolicyUploaded {
        PolicyUploaded {
            name: name.into(),
            digest: Digest::from_bytes([1; 32]),
            uploaded_digest: Digest::from_bytes([2; 32]),
            kind: PolicyKind::Route,
            class: PolicyClass::Fast,
            bytes: 19_000,
            manifest: "{}".into(),
        }
    }

    fn given(events: impl IntoIterator<Item = Event>) -> Given {
        rules::given(Stream::policy(tenant(), &Digest::from_bytes([1; 32])), events)
    }

    fn upload(policy: PolicyUploaded) -> Command {
        Command::Policy(PolicyCommand::Upload(Box::new(policy)))
    }

    #[test]
    fn a_module_is_uploaded_once() {
        let event = Event::PolicyUploaded(uploaded("cheapest"));
        given([]).when(upload(uploaded("cheapest"))).then([event]).when(upload(uploaded("again"))).then_nothing();
    }

    #[test]
    fn a_module_has_one_kind_and_class() {
        let other = PolicyUploaded { class: PolicyClass::Slow, ..uploaded("slow") };
        let exists = PolicyError::Exists { kind: PolicyKind::Route, class: PolicyClass::Fast };
        given([Event::PolicyUploaded(uploaded("a"))]).when(upload(other)).then_refused(exists);
    }

    #[test]
    fn a_manifest_is_bounded() {
        let large = PolicyUploaded { manifest: "x".repeat(MANIFEST_BYTES_MAX + 1), ..uploaded("a") };
        given([]).when(upload(large)).then_refused(PolicyError::ManifestTooLarge);
    }
}
