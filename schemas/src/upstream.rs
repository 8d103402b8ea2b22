//! Upstreams: one account at one provider each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::aggregate::At;
use crate::event::Event;
use crate::id::{CredentialId, PoolId, TenantId, UpstreamId};
use crate::key::Fact;
use crate::name::{self, NameError};
use crate::sealed::Sealed;
use crate::stream::Stream;
use crate::time::Timestamp;

/// The API shape an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    Openai,
    Anthropic,
}

impl Dialect {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

/// The largest priority and weight.
pub const RANK_MAX: u32 = 10_000;

/// How much harm a leaked secret of an upstream does, and so how often it is to be rotated. Said by a tag: `risk:metered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RiskClass {
    /// A provider's that is paid by use: 7 days.
    Metered,
    /// One's own, inside one's own network: 30 days.
    Internal,
    /// One with more rights than calls need: a day.
    Privileged,
}

impl RiskClass {
    /// The age at which a secret of this class is due for a rotation.
    pub const fn interval_seconds(self) -> u64 {
        const DAY: u64 = 86_400;
        match self {
            Self::Metered => 7 * DAY,
            Self::Internal => 30 * DAY,
            Self::Privileged => DAY,
        }
    }

    const fn tag(self) -> &'static str {
        match self {
            Self::Metered => "risk:metered",
            Self::Internal => "risk:internal",
            Self::Privileged => "risk:privileged",
        }
    }
}

/// What of an upstream can be changed, but for its credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamDetails {
    pub name: String,
    pub dialect: Dialect,
    /// Scheme, host, optional port and path, without a trailing slash. An OpenAI one ends in `/v1`, an Anthropic one has no version.
    pub base_url: String,
    pub pool: PoolId,
    /// Lower is tried first.
    pub priority: u32,
    /// Share of the requests among upstreams of the same priority. 0 is used only when no other is left.
    pub weight: u32,
    /// Patterns of the models it serves; empty is all.
    pub models: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamAdded {
    pub details: UpstreamDetails,
    pub credential: Option<CredentialId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamChanged {
    /// The details after the change, whole.
    pub details: UpstreamDetails,
    pub credential: Option<CredentialId>,
}

/// What policies may know of an upstream beside its details.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamLabels {
    /// Where it is, in the operator's words: `eu`, `us-east-1`.
    pub region: Option<String>,
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamLabelled {
    /// The labels after the change, whole.
    pub labels: UpstreamLabels,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamDisabled {
    pub reason: Option<Sealed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamEnabled {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamRemoved {}

/// The state of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    pub id: UpstreamId,
    pub tenant: TenantId,
    pub details: UpstreamDetails,
    pub labels: UpstreamLabels,
    /// None until one is entered, and after the base URL changed.
    pub credential: Option<CredentialId>,
    pub created_at: Timestamp,
    pub disabled: Option<Fact>,
    pub removed: bool,
}

/// A change; an absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamPatch {
    pub name: Option<String>,
    pub base_url: Option<String>,
    pub pool: Option<PoolId>,
    pub priority: Option<u32>,
    pub weight: Option<u32>,
    pub models: Option<Vec<String>>,
    /// An inner `None` takes the region away.
    pub region: Option<Option<String>>,
    pub tags: Option<Vec<String>>,
    /// Another credential; an inner `None` takes the upstream's credential away.
    pub credential: Option<Option<CredentialId>>,
}

/// What an upstream was elsewhere, and is to be here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamImport {
    pub details: UpstreamDetails,
    pub labels: UpstreamLabels,
    pub credential: Option<CredentialId>,
    /// Disabled, for this reason if there is one.
    pub disabled: Option<Option<Sealed>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamCommand {
    Add {
        details: Box<UpstreamDetails>,
        labels: UpstreamLabels,
        credential: Option<CredentialId>,
    },
    /// Makes the upstream what it was elsewhere, in one record. One that was removed here is there again.
    Import(Box<UpstreamImport>),
    Change(Box<UpstreamPatch>),
    Disable {
        reason: Option<Sealed>,
    },
    Enable,
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpstreamError {
    #[error("the upstream exists already")]
    Exists,
    #[error("there is no such upstream")]
    NotFound,
    #[error("the base URL must be http or https with a host, without credentials, query or fragment, and must not end in a slash")]
    BaseUrl,
    #[error("{field} is at most {RANK_MAX}")]
    Rank { field: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The origin of a base URL in our canonical form: `scheme://host[:port]`. None where the text is no such URL.
///
/// The edge has parsed the URL in full; this only takes the canonical text apart, so that rules need no URL library.
pub fn origin(base_url: &str) -> Option<&str> {
    let host_at = ["https://", "http://"].into_iter().find(|scheme| base_url.starts_with(scheme))?.len();
    let end = base_url[host_at..].find('/').map_or(base_url.len(), |slash| host_at + slash);
    let authority = &base_url[host_at..end];
    let clean =
        !base_url.ends_with('/') && !base_url.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '@' | '\\'));
    (!authority.is_empty() && clean).then_some(&base_url[..end])
}

impl Upstream {
    /// The origin that a credential of this upstream is bound to.
    pub fn origin(&self) -> &str {
        origin(&self.details.base_url).unwrap_or_default()
    }

    /// The risk class that its tags name; of several the one that is due soonest.
    pub fn risk(&self) -> Option<RiskClass> {
        let classes = [RiskClass::Privileged, RiskClass::Metered, RiskClass::Internal];
        classes.into_iter().find(|class| self.labels.tags.iter().any(|tag| tag == class.tag()))
    }

    /// Whether requests may be sent to it, as far as operators decide.
    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none() && !self.removed
    }

    pub(crate) fn decide(state: Option<&Self>, command: &UpstreamCommand) -> Result<Vec<Event>, UpstreamError> {
        let upstream = match (state, command) {
            (None, UpstreamCommand::Add { details, labels, credential }) => {
                check_details(details)?;
                check_labels(labels)?;
                let added = Event::UpstreamAdded(UpstreamAdded { details: (**details).clone(), credential: *credential });
                let labelled = (*labels != UpstreamLabels::default()).then(|| labelled(labels));
                return Ok([added].into_iter().chain(labelled).collect());
            }
            (_, UpstreamCommand::Import(import)) => return import.decide(state),
            (Some(_), UpstreamCommand::Add { .. }) => return Err(UpstreamError::Exists),
            (None | Some(Self { removed: true, .. }), _) => return Err(UpstreamError::NotFound),
            (Some(upstream), _) => upstream,
        };
        match command {
            UpstreamCommand::Add { .. } | UpstreamCommand::Import(_) => Err(UpstreamError::Exists),
            UpstreamCommand::Change(patch) => {
                let (details, credential) = patch.applied_to(upstream);
                check_details(&details)?;
                // A patch that names a credential is a change even if it names the same: its secret is another.
                let changes = details != upstream.details || credential != upstream.credential || patch.credential.is_some();
                let changed = changes.then_some(Event::UpstreamChanged(UpstreamChanged { details, credential }));
                let labels = patch.labels_for(upstream);
                check_labels(&labels)?;
                let labelled = (labels != upstream.labels).then(|| labelled(&labels));
                Ok(changed.into_iter().chain(labelled).collect())
            }
            UpstreamCommand::Disable { .. } if upstream.disabled.is_some() => Ok(vec![]),
            UpstreamCommand::Disable { reason } => Ok(vec![Event::UpstreamDisabled(UpstreamDisabled { reason: reason.clone() })]),
            UpstreamCommand::Enable if upstream.disabled.is_none() => Ok(vec![]),
            UpstreamCommand::Enable => Ok(vec![Event::UpstreamEnabled(UpstreamEnabled {})]),
            UpstreamCommand::Remove => Ok(vec![Event::UpstreamRemoved(UpstreamRemoved {})]),
        }
    }

    pub(crate) fn apply(state: Option<Self>, stream: &Stream, event: &Event, at: &At) -> Option<Self> {
        match (state, event) {
            // One that was removed comes back by an import only.
            (None | Some(Self { removed: true, .. }), Event::UpstreamAdded(added)) => Some(Self {
                id: UpstreamId::from_bytes(*stream.id()),
                tenant: stream.tenant().clone(),
                details: added.details.clone(),
                labels: UpstreamLabels::default(),
                credential: added.credential,
                created_at: at.time,
                disabled: None,
                removed: false,
            }),
            (Some(upstream), Event::UpstreamChanged(changed)) => {
                Some(Self { details: changed.details.clone(), credential: changed.credential, ..upstream })
            }
            (Some(upstream), Event::UpstreamLabelled(labelled)) => Some(Self { labels: labelled.labels.clone(), ..upstream }),
            (Some(upstream), Event::UpstreamDisabled(disabled)) => {
                Some(Self { disabled: Some(Fact { at: at.time, by: at.actor, reason: disabled.reason.clone() }), ..upstream })
            }
            (Some(upstream), Event::UpstreamEnabled(_)) => Some(Self { disabled: None, ..upstream }),
            (Some(upstream), Event::UpstreamRemoved(_)) => Some(Self { credential: None, removed: true, ..upstream }),
            _ => None,
        }
    }
}

impl UpstreamImport {
    fn decide(&self, state: Option<&Upstream>) -> Result<Vec<Event>, UpstreamError> {
        check_details(&self.details)?;
        check_labels(&self.labels)?;
        let (details, credential) = (self.details.clone(), self.credential);
        let is_there = state.filter(|upstream| !upstream.removed);
        let mut events = match is_there {
            None => vec![Event::UpstreamAdded(UpstreamAdded { details, credential })],
            Some(upstream) if details.dialect != upstream.details.dialect => return Err(UpstreamError::Exists),
            Some(upstream) if details == upstream.details && credential == upstream.credential => vec![],
            Some(_) => vec![Event::UpstreamChanged(UpstreamChanged { details, credential })],
        };
        if is_there.map_or(self.labels != UpstreamLabels::default(), |upstream| self.labels != upstream.labels) {
            events.push(labelled(&self.labels));
        }
        match (&self.disabled, is_there.is_some_and(|upstream| upstream.disabled.is_some())) {
            (Some(reason), false) => events.push(Event::UpstreamDisabled(UpstreamDisabled { reason: reason.clone() })),
            (None, true) => events.push(Event::UpstreamEnabled(UpstreamEnabled {})),
            (Some(_), true) | (None, false) => {}
        }
        Ok(events)
    }
}

impl UpstreamPatch {
    fn labels_for(&self, upstream: &Upstream) -> UpstreamLabels {
        UpstreamLabels {
            region: self.region.clone().unwrap_or_else(|| upstream.labels.region.clone()),
            tags: self.tags.clone().unwrap_or_else(|| upstream.labels.tags.clone()),
        }
    }

    /// Another base URL drops the credential unless the patch brings one: a secret goes only where it was entered for.
    fn applied_to(&self, upstream: &Upstream) -> (UpstreamDetails, Option<CredentialId>) {
        let (patch, details) = (self.clone(), &upstream.details);
        let details = UpstreamDetails {
            name: patch.name.unwrap_or_else(|| details.name.clone()),
            dialect: details.dialect,
            base_url: patch.base_url.unwrap_or_else(|| details.base_url.clone()),
            pool: patch.pool.unwrap_or(details.pool),
            priority: patch.priority.unwrap_or(details.priority),
            weight: patch.weight.unwrap_or(details.weight),
            models: patch.models.unwrap_or_else(|| details.models.clone()),
        };
        let same_base = details.base_url == upstream.details.base_url;
        let credential = patch.credential.unwrap_or(if same_base { upstream.credential } else { None });
        (details, credential)
    }
}

fn labelled(labels: &UpstreamLabels) -> Event {
    Event::UpstreamLabelled(UpstreamLabelled { labels: labels.clone() })
}

/// Whether an upstream could be added like this, for whoever adds it later.
pub fn check(details: &UpstreamDetails, labels: &UpstreamLabels) -> Result<(), UpstreamError> {
    check_details(details)?;
    check_labels(labels)
}

fn check_labels(labels: &UpstreamLabels) -> Result<(), UpstreamError> {
    labels.region.as_deref().map_or(Ok(()), |region| name::check("region", region))?;
    Ok(name::check_list("tags", &labels.tags)?)
}

fn check_details(details: &UpstreamDetails) -> Result<(), UpstreamError> {
    name::check("name", &details.name)?;
    name::check_list("models", &details.models)?;
    for (field, rank) in [("priority", details.priority), ("weight", details.weight)] {
        if rank > RANK_MAX {
            return Err(UpstreamError::Rank { field });
        }
    }
    if details.base_url.len() > 2048 || origin(&details.base_url).is_none() { Err(UpstreamError::BaseUrl) } else { Ok(()) }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
