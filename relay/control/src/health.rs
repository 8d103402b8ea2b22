//! How a node stands with what it depends on, and what follows from that: whether it serves, and what is wrong though it does.
//!
//! The composition root fills [`NodeHealth`] from the pieces; nothing here asks them.

mod upstreams;

use std::sync::Arc;
use std::time::Duration;

use event_log::SyncMode;
use event_log::usage::SpoolStatus;
use projector::State as ProjectorState;
use schemas::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::policies::PolicyHealth;

pub use upstreams::{NeedsLogin, UpstreamHealth};

/// From here on answers tell their age, and the node counts as degraded. Below it lies what a change of the log's leader takes.
pub(crate) const STALE_FROM: Duration = Duration::from_secs(10);

/// How the node stands now; asked for each answer of `/readyz` and `/metrics`, so it only copies what is known.
pub type Health = Arc<dyn Fn() -> NodeHealth + Send + Sync>;

/// How a node stands with the log, the usage spool and the key store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NodeHealth {
    pub log: LogHealth,
    /// Usage that is on this node's disk and not in the log yet; null where usage is not spooled.
    pub spool: Option<SpoolHealth>,
    /// The node's copy of the shared key store; null where the key store is the node's own.
    pub key_store: Option<KeyStoreHealth>,
}

/// The connection to the log, and whether what the log says can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LogHealth {
    pub connected: bool,
    /// Grows with every new connection.
    pub epoch: u64,
    pub trust: Trust,
    /// Why the log is not trusted, and where the evidence lies.
    pub trust_reason: Option<String>,
}

/// Whether the log still has the records that it acknowledged to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    Trusted,
    /// It was not compared since the last connection.
    Unknown,
    /// Records that it lost are being put back.
    Healing,
    /// It is another log than it was, and nothing is written to it.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct SpoolHealth {
    pub batches: u64,
    pub bytes: u64,
    /// When the oldest request that waits was settled.
    pub oldest_at: Option<Timestamp>,
    /// Batches that found another one in their place of the stream, and are kept aside, since the node started.
    pub refused: u64,
    /// Times that the stream was found to have lost acknowledged batches, since the node started.
    pub losses: u64,
}

impl From<SpoolStatus> for SpoolHealth {
    fn from(status: SpoolStatus) -> Self {
        let SpoolStatus { batches, bytes, oldest, refused, losses, .. } = status;
        Self { batches, bytes, oldest_at: oldest, refused, losses }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyStoreHealth {
    /// Whether the copy was compared with the store since the last connection, and follows it.
    pub level: bool,
    /// Whether the store is one that this node does not follow: of another definition, or of another cluster. It takes an operator.
    pub refused: bool,
    /// Whether it ever was; only then it serves while the store is away.
    pub was_level: bool,
    /// The last revision of the store that is in the copy; null while it is not level.
    pub revision: Option<u64>,
    /// Entries that the store had lost and this node put back, since it started.
    pub put_back: u64,
    /// Entries that the store had brought back and this node erased again, since it started.
    pub erased_again: u64,
}

impl From<vault::Mirrored> for KeyStoreHealth {
    fn from(mirrored: vault::Mirrored) -> Self {
        let vault::Mirrored { is_level, was_level, revision, put_back, erased_again, is_refused } = mirrored;
        Self { level: is_level, refused: is_refused, was_level, revision, put_back, erased_again }
    }
}

/// Something that is wrong while the node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Degradation {
    /// The log cannot be reached: control writes are refused, the relay goes on until the staleness bound.
    LogAway,
    /// The read models were not known to be level with the log for ten seconds or more.
    Stale,
    /// The log was not compared with what it acknowledged, or is being healed.
    LogUntrusted,
    /// The log is another one than it was: nothing is written to it.
    LogRefused,
    /// A server was seen to acknowledge before it syncs: a power cut may lose what was acknowledged.
    SyncLazy,
    /// The node's copy of the key store is behind.
    KeyStoreBehind,
    /// The usage models do not follow their stream: sums grow no more. The node's log says why.
    UsageStopped,
    /// Usage that was acknowledged is gone from the stream, or another batch stands in the place of one.
    UsageLost,
    /// The module of a bound policy cannot be had: the binding's `on_fault` applies. `policies` names it.
    PolicyMissing,
    /// The provider of an upstream wants a login: its access token is refreshed no more. `upstreams` names it.
    LoginRequired,
}

/// What the parts of a node come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) is_ready: bool,
    pub(crate) degradations: Vec<Degradation>,
}

/// Everything that readiness is judged by.
pub(crate) struct Signs<'a> {
    /// The start is over and the end has not begun.
    pub(crate) is_serving: bool,
    pub(crate) read_models: &'a ProjectorState,
    pub(crate) staleness: Duration,
    pub(crate) staleness_max: Duration,
    pub(crate) sync: SyncMode,
    pub(crate) health: &'a NodeHealth,
    pub(crate) policies: &'a PolicyHealth,
    /// Whether the usage models follow their stream, or wait for it.
    pub(crate) usage_follows: bool,
    pub(crate) upstreams: &'a UpstreamHealth,
}

impl Standing {
    pub(crate) fn judge(signs: &Signs<'_>) -> Self {
        let is_stopped = matches!(signs.read_models, ProjectorState::Stopped { .. });
        let log = &signs.health.log;
        let found = [
            (Degradation::LogAway, !log.connected),
            (Degradation::Stale, signs.staleness >= STALE_FROM),
            (Degradation::LogUntrusted, matches!(log.trust, Trust::Unknown | Trust::Healing)),
            (Degradation::LogRefused, log.trust == Trust::Refused),
            (Degradation::SyncLazy, signs.sync == SyncMode::Lazy),
            (Degradation::KeyStoreBehind, signs.health.key_store.is_some_and(|store| !store.level)),
            (Degradation::UsageStopped, !signs.usage_follows),
            (Degradation::UsageLost, signs.health.spool.is_some_and(|spool| spool.refused + spool.losses > 0)),
            (Degradation::PolicyMissing, !signs.policies.missing.is_empty()),
            (Degradation::LoginRequired, signs.upstreams.logins_required > 0),
        ];
        Self {
            is_ready: signs.is_serving && !is_stopped && signs.staleness <= signs.staleness_max,
            degradations: found.into_iter().filter_map(|(degradation, is_found)| is_found.then_some(degradation)).collect(),
        }
    }
}

impl LogHealth {
    /// A log over a connection, under a witness.
    pub fn witnessed(connection: event_log::Connection, witness: &event_log::Health) -> Self {
        let (trust, trust_reason) = match witness {
            event_log::Health::Trusted => (Trust::Trusted, None),
            event_log::Health::Unknown => (Trust::Unknown, None),
            event_log::Health::Healing => (Trust::Healing, None),
            event_log::Health::Refused { reason, evidence } => {
                (Trust::Refused, Some(format!("{reason}; the evidence lies in {}", evidence.display())))
            }
        };
        Self { connected: connection.is_up, epoch: connection.epoch, trust, trust_reason }
    }
}

impl NodeHealth {
    /// A node that has everything to itself: its log is in its own process.
    pub const fn embedded() -> Self {
        Self { log: LogHealth { connected: true, epoch: 0, trust: Trust::Trusted, trust_reason: None }, spool: None, key_store: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use schemas::Sequence;

    use super::*;
    use crate::policies::MissingModule;

    const MAX: Duration = Duration::from_secs(900);

    fn judge(staleness: u64, change: impl FnOnce(&mut NodeHealth)) -> Standing {
        let mut health = NodeHealth::embedded();
        change(&mut health);
        let staleness = Duration::from_secs(staleness);
        let (read_models, sync) = (&ProjectorState::Following, SyncMode::Verified);
        Standing::judge(&Signs {
            is_serving: true,
            read_models,
            staleness,
            staleness_max: MAX,
            sync,
            health: &health,
            policies: &PolicyHealth::default(),
            usage_follows: true,
            upstreams: &UpstreamHealth::default(),
        })
    }

    #[test]
    fn a_node_whose_parts_are_well_is_ready_and_not_degraded() {
        assert_eq!(judge(0, |_| {}), Standing { is_ready: true, degradations: vec![] });
    }

    #[test]
    fn a_node_without_its_log_is_ready_inside_the_bound_and_says_so() {
        let away = |health: &mut NodeHealth| health.log.connected = false;
        assert_eq!(judge(2, away), Standing { is_ready: true, degradations: vec![Degradation::LogAway] });
        assert_eq!(judge(900, away), Standing { is_ready: true, degradations: vec![Degradation::LogAway, Degradation::Stale] });
        assert!(!judge(901, away).is_ready);
    }

    #[test]
    fn a_log_that_is_not_trusted_is_told() {
        let with = |trust| judge(0, |health| health.log.trust = trust).degradations;
        assert_eq!(with(Trust::Unknown), [Degradation::LogUntrusted]);
        assert_eq!(with(Trust::Healing), [Degradation::LogUntrusted]);
        assert_eq!(with(Trust::Refused), [Degradation::LogRefused]);
        let behind = KeyStoreHealth { level: false, refused: false, was_level: true, revision: None, put_back: 0, erased_again: 0 };
        assert_eq!(judge(0, |health| health.key_store = Some(behind)).degradations, [Degradation::KeyStoreBehind]);
    }

    #[test]
    fn a_policy_that_cannot_be_had_is_told() {
        let missing = MissingModule { policy: schemas::Digest::from_bytes([1; 32]), name: "a".into(), reason: "gone".into(), attempts: 1 };
        let policies = PolicyHealth { missing: vec![missing], ..PolicyHealth::default() };
        let (health, read_models, sync) = (NodeHealth::embedded(), &ProjectorState::Following, SyncMode::Verified);
        let (staleness, staleness_max) = (Duration::ZERO, MAX);
        let signs = Signs {
            is_serving: true,
            read_models,
            staleness,
            staleness_max,
            sync,
            health: &health,
            policies: &policies,
            usage_follows: true,
            upstreams: &UpstreamHealth::default(),
        };
        assert_eq!(Standing::judge(&signs), Standing { is_ready: true, degradations: vec![Degradation::PolicyMissing] });
    }

    #[test]
    fn usage_that_is_not_summed_is_told_and_stops_nobody() {
        let (health, read_models) = (NodeHealth::embedded(), &ProjectorState::Following);
        let (staleness, staleness_max, sync) = (Duration::ZERO, MAX, SyncMode::Verified);
        let policies = &PolicyHealth::default();
        let signs = Signs {
            is_serving: true,
            read_models,
            staleness,
            staleness_max,
            sync,
            health: &health,
            policies,
            usage_follows: false,
            upstreams: &UpstreamHealth::default(),
        };
        assert_eq!(Standing::judge(&signs), Standing { is_ready: true, degradations: vec![Degradation::UsageStopped] });
    }

    #[test]
    fn a_node_whose_fold_stopped_or_that_drains_is_not_ready() {
        let health = NodeHealth::embedded();
        let judge = |is_serving, read_models: &ProjectorState| {
            let (staleness, sync) = (Duration::ZERO, SyncMode::Lazy);
            Standing::judge(&Signs {
                is_serving,
                read_models,
                staleness,
                staleness_max: MAX,
                sync,
                health: &health,
                policies: &PolicyHealth::default(),
                usage_follows: true,
                upstreams: &UpstreamHealth::default(),
            })
        };
        let stopped = ProjectorState::Stopped { sequence: Sequence(3), reason: "newer format".to_owned() };
        assert!(!judge(true, &stopped).is_ready);
        assert!(!judge(false, &ProjectorState::Following).is_ready);
        assert_eq!(judge(true, &ProjectorState::Following).degradations, [Degradation::SyncLazy]);
    }
}
