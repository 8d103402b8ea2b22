//! The event log: where records are kept, in one order, for ever.
//!
//! [`EventLog`] is the contract; [`EmbeddedLog`] keeps it on one machine, [`MemoryLog`] is the reference that tests compare with.
//! A log stores bytes under a subject at a sequence and compares sequences. It does not know what a valid record is: garbage
//! is stored as willingly as a signed record, and is judged by whoever reads it.
//!
//! Beside the log stand [`merkle`], the tree whose root commits to every record up to a position, and [`usage`], the stream of
//! usage batches, apart from the log because of its volume.

mod contract;
mod directory;
mod embedded;
#[cfg(feature = "faults")]
pub mod faults;
mod framing;
mod memory;
pub mod merkle;
mod reader;
mod resolve;
mod storage;
mod tail;
#[cfg(feature = "faults")]
pub mod testing;
pub mod usage;
mod worker;

pub use contract::{AppendError, Appended, Batches, EventLog, Expect, ReadError, Stored, SyncMode};
pub use contract::{RUN_BYTES_MAX, RUN_RECORDS_MAX, SUBJECT_BYTES_MAX};
pub use directory::OpenError;
pub use embedded::EmbeddedLog;
pub use memory::MemoryLog;
pub use resolve::append_resolving;
pub use schemas::record::RECORD_BYTES_MAX;
pub use storage::{Damage, StorageError};
