//! What the control plane counts. Metric names are spelled in this file only.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::commands::{ExecuteError, Receipt};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// One upstream; its name may change, so it is the id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct UpstreamLabels {
    pub(crate) tenant: String,
    pub(crate) upstream: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RotationLabels {
    pub(crate) tenant: String,
    pub(crate) upstream: String,
    /// `idle`, `ordered`, or a step.
    pub(crate) status: &'static str,
}

/// Counters of the control plane. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    commands: Family<OutcomeLabel, Counter>,
    append_seconds: Histogram,
    policy_loads: Family<OutcomeLabel, Counter>,
    refreshes: Family<OutcomeLabel, Counter>,
    /// Set when the metrics are read.
    pub(crate) position: Gauge,
    pub(crate) lag: Gauge,
    pub(crate) voids: Gauge,
    pub(crate) stale_seconds: Gauge,
    pub(crate) nodes_live: Gauge,
    pub(crate) log_connected: Gauge,
    pub(crate) log_trusted: Gauge,
    pub(crate) key_store_level: Gauge,
    pub(crate) spool_batches: Gauge,
    pub(crate) spool_bytes: Gauge,
    pub(crate) policy_bindings: Gauge,
    pub(crate) policies_loaded: Gauge,
    pub(crate) policies_missing: Gauge,
    pub(crate) upstreams_usable: Gauge,
    pub(crate) logins_required: Gauge,
    pub(crate) credentials: CredentialMetrics,
}

/// How the credentials of upstreams stand. Written anew when the metrics are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct CredentialMetrics {
    pub(crate) age_seconds: Family<UpstreamLabels, Gauge>,
    pub(crate) overdue_seconds: Family<UpstreamLabels, Gauge>,
    pub(crate) rotation: Family<RotationLabels, Gauge>,
    pub(crate) previous_uses: Family<UpstreamLabels, Gauge>,
}

impl CredentialMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("keyrelay_credential_age_seconds", "Age of the secret that an upstream is shown", self.age_seconds.clone());
        let overdue = "Seconds since an upstream's secret was due for a rotation by its schedule or risk class; negative before that";
        registry.register("keyrelay_credential_overdue_seconds", overdue, self.overdue_seconds.clone());
        registry.register("keyrelay_credential_rotation", "1 for where the rotation of an upstream's secret stands", self.rotation.clone());
        let uses = "Requests for which the upstream refused the new secret of the rotation under way and took the old one";
        registry.register("keyrelay_credential_previous_uses", uses, self.previous_uses.clone());
    }

    pub(crate) fn clear(&self) {
        self.age_seconds.clear();
        self.overdue_seconds.clear();
        self.rotation.clear();
        self.previous_uses.clear();
    }
}

impl Metrics {
    /// New counters, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            commands: Family::default(),
            // 50 us to about 6.5 s.
            append_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            policy_loads: Family::default(),
            refreshes: Family::default(),
            position: Gauge::default(),
            lag: Gauge::default(),
            voids: Gauge::default(),
            stale_seconds: Gauge::default(),
            nodes_live: Gauge::default(),
            log_connected: Gauge::default(),
            log_trusted: Gauge::default(),
            key_store_level: Gauge::default(),
            spool_batches: Gauge::default(),
            spool_bytes: Gauge::default(),
            policy_bindings: Gauge::default(),
            policies_loaded: Gauge::default(),
            policies_missing: Gauge::default(),
            upstreams_usable: Gauge::default(),
            logins_required: Gauge::default(),
            credentials: CredentialMetrics::default(),
        };
        metrics.credentials.register(registry);
        registry.register("keyrelay_commands", "Commands by outcome", metrics.commands.clone());
        registry.register("keyrelay_append_seconds", "Time of an append until its outcome", metrics.append_seconds.clone());
        registry.register("keyrelay_projector_position", "Last sequence applied to the read models", metrics.position.clone());
        registry.register("keyrelay_projector_lag", "Records in the log that the read models have not applied", metrics.lag.clone());
        registry.register("keyrelay_void_records", "Void records up to the position", metrics.voids.clone());
        let stale = "Seconds since the read models were last known to be level with the log";
        registry.register("keyrelay_log_stale_seconds", stale, metrics.stale_seconds.clone());
        registry.register("keyrelay_log_connected", "1 while the log can be reached", metrics.log_connected.clone());
        registry.register("keyrelay_log_trusted", "1 while the log is known to have what it acknowledged", metrics.log_trusted.clone());
        registry.register(
            "keyrelay_key_store_level",
            "1 while the copy of the key store is level with it",
            metrics.key_store_level.clone(),
        );
        registry.register("keyrelay_nodes_live", "Nodes heard of recently", metrics.nodes_live.clone());
        registry.register(
            "keyrelay_usage_spool_batches",
            "Usage batches on disk that the log does not have",
            metrics.spool_batches.clone(),
        );
        registry.register("keyrelay_usage_spool_bytes", "Bytes of usage on disk that the log does not have", metrics.spool_bytes.clone());
        registry.register("keyrelay_policy_loads", "Attempts to load a policy's module, by outcome", metrics.policy_loads.clone());
        registry.register("keyrelay_refreshes", "Refreshes of grants, by outcome", metrics.refreshes.clone());
        registry.register("keyrelay_policy_bindings", "Bindings that are not removed", metrics.policy_bindings.clone());
        registry.register(
            "keyrelay_policies_loaded",
            "Policy modules that bindings need and that are loaded",
            metrics.policies_loaded.clone(),
        );
        let missing = "Policy modules that bindings need and that cannot be had, so that on_fault applies";
        registry.register("keyrelay_policies_missing", missing, metrics.policies_missing.clone());
        let usable = "Enabled upstreams with a credential that has not ended";
        registry.register("keyrelay_upstreams_usable", usable, metrics.upstreams_usable.clone());
        let logins = "Enabled upstreams whose provider wants a login";
        registry.register("keyrelay_upstream_logins_required", logins, metrics.logins_required.clone());
        metrics
    }

    pub(crate) fn count_command(&self, outcome: &Result<Receipt, ExecuteError>) {
        let outcome = match outcome {
            Ok(receipt) if receipt.repeated => "repeated",
            Ok(_) => "done",
            Err(ExecuteError::Rejected(_) | ExecuteError::ExpiryTooLong { .. } | ExecuteError::CommandReused | ExecuteError::Encode(_)) => {
                "rejected"
            }
            Err(ExecuteError::VersionMismatch { .. } | ExecuteError::Contention) => "conflict",
            Err(ExecuteError::OutcomeUnknown { .. }) => "unknown",
            Err(ExecuteError::RecordVoid { .. }) => "void",
            Err(
                ExecuteError::LogLost { .. }
                | ExecuteError::Log(_)
                | ExecuteError::Read(_)
                | ExecuteError::History(_)
                | ExecuteError::HistoryGone { .. }
                | ExecuteError::Stopping,
            ) => "failed",
        };
        self.commands.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn count_policy_load(&self, is_loaded: bool) {
        let outcome = if is_loaded { "done" } else { "failed" };
        self.policy_loads.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn count_refresh(&self, outcome: &'static str) {
        self.refreshes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn observe_append(&self, elapsed: Duration) {
        self.append_seconds.observe(elapsed.as_secs_f64());
    }
}
