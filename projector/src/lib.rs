//! Read models: what the event log means, folded into rows that the data path and the API read.
//!
//! ```text
//! event log ── read(position + 1) ──> fold::Folder ── one WriteBatch: rows + position ──> store::Store
//!                                          │ changes                                          │
//!                                          v                                                  v
//!             models::Shared: invalidate the key cache, swap the view, announce ──────> ReadModels (many readers)
//! ```
//!
//! Invariants. Rows and position are committed together, so a position never promises a row that is not there. Rows are a function
//! of the log's prefix alone: no clock, no randomness, and no trace of where the log was cut into batches. A reader that asks after
//! a sequence was announced sees its effect, cached or not.
//!
//! This crate decides nothing: whether a record counts is [`schemas::judge()`]'s, what it does to an aggregate is [`schemas::apply`]'s. It is the
//! only place that opens a read model.

mod contact;
pub mod decisions;
mod directory;
#[cfg(feature = "faults")]
pub mod faults;
mod fold;
pub mod keys;
mod memory;
mod models;
mod prices;
mod projector;
mod snapshot;
mod start;
mod store;
#[cfg(test)]
mod tests;
pub mod usage;

pub use fold::{CommandRow, Counts, FoldError, ROOTS_KEPT, SeenFault, SeenFinding, Stop, StopCause};
pub use memory::Memory;
pub use models::{CommittedPrefix, Policies, Position, ReadModels, Route, Routes, State, Status, Versioned, Whole};
pub use prices::Prices;
pub use projector::{Clock, Config, FollowError, Projector, RebuildError, Rebuilding, Rebuilt, Verdicts};
pub use snapshot::{InstallError, SNAPSHOT_FORMAT, SnapshotError, SnapshotFile, SnapshotManifest, install_snapshot};
pub use start::{CheckError, DirectoryError, OpenError};
pub use store::{CommitError, ReadError, Row};
pub use usage::UsageModels;

/// The version of the rows and of the fold. A change that gives other rows for the same log raises it, and every node rebuilds.
pub const VERSION: u32 = 6;
