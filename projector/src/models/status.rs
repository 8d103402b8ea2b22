//! How the read models stand, for metrics and `/readyz`.

use std::time::Duration;

use schemas::Sequence;

use super::Position;
use crate::fold::Counts;

/// What the fold is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On its way to the head that the log had when following began, or when the log came back. Rows are served, but may be far behind.
    Rebuilding,
    /// The log cannot be reached. What was folded before is served and grows stale; the fold goes on by itself when the log is back and
    /// is still the one that the rows were folded from.
    Waiting { reason: String },
    /// It has been at the head and folds what comes.
    Following,
    /// It cannot go on at this sequence. What was folded before is served. It stays so, however often it is tried again, until it goes on.
    Stopped { sequence: Sequence, reason: String },
}

/// Plain numbers about the read models at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    pub position: Position,
    /// The head of the log as last heard of, at most about a second old while the fold runs.
    pub head: Sequence,
    /// `head - position`, in records.
    pub lag: u64,
    /// See [`super::ReadModels::staleness`].
    pub staleness: Duration,
    pub counts: Counts,
    /// The version of the rows, [`crate::VERSION`].
    pub version: u32,
}

impl Status {
    /// Whether the log is at hand and the rows were level with it since it was. Rows that are not ready may be served too, as long as they are
    /// not too stale.
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, State::Following)
    }
}
