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

/// Counters of the control plane. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    commands: Family<OutcomeLabel, Counter>,
    append_seconds: Histogram,
    /// Set when the metrics are read.
    pub(crate) position: Gauge,
    pub(crate) lag: Gauge,
    pub(crate) voids: Gauge,
}

impl Metrics {
    /// New counters, registered.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            commands: Family::default(),
            // 50 us to about 6.5 s.
            append_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            position: Gauge::default(),
            lag: Gauge::default(),
            voids: Gauge::default(),
        };
        registry.register("keyrelay_commands", "Commands by outcome", metrics.commands.clone());
        registry.register("keyrelay_append_seconds", "Time of an append until its outcome", metrics.append_seconds.clone());
        registry.register("keyrelay_projector_position", "Last sequence applied to the read models", metrics.position.clone());
        registry.register("keyrelay_projector_lag", "Records in the log that the read models have not applied", metrics.lag.clone());
        registry.register("keyrelay_void_records", "Void records up to the position", metrics.voids.clone());
        metrics
    }

    pub(crate) fn count_command(&self, outcome: &Result<Receipt, ExecuteError>) {
        let outcome = match outcome {
            Ok(receipt) if receipt.repeated => "repeated",
            Ok(_) => "done",
            Err(ExecuteError::Rejected(_) | ExecuteError::CommandReused | ExecuteError::Encode(_)) => "rejected",
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

    pub(crate) fn observe_append(&self, elapsed: Duration) {
        self.append_seconds.observe(elapsed.as_secs_f64());
    }
}
