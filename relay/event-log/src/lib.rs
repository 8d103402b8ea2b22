//! The event log: where records are kept, in one order, for ever.
//!
//! [`EventLog`] is the contract; [`EmbeddedLog`] keeps it on one machine, [`JetStreamLog`] on the servers of a cluster, and [`MemoryLog`] is the
//! reference that tests compare with.
//! A log stores bytes under a subject at a sequence and compares sequences. It does not know what a valid record is: garbage
//! is stored as willingly as a signed record, and is judged by whoever reads it.
//!
//! [`WitnessedLog`] stands before a log that somebody else keeps: it remembers what it saw and heals or refuses a log that forgot.
//!
//! Beside the log stand [`merkle`], the tree whose root commits to every record up to a position, and [`usage`], the stream of
//! usage batches, apart from the log because of its volume, [`decisions`], what policies were asked and answered, bounded, and [`artefacts`], what events name by digest because of its size.

pub mod artefacts;
mod contract;
pub mod decisions;
mod directory;
mod embedded;
#[cfg(feature = "faults")]
pub mod faults;
mod framing;
mod jetstream;
mod memory;
pub mod merkle;
mod nats;
mod reader;
mod resolve;
mod storage;
mod tail;
#[cfg(feature = "faults")]
pub mod testing;
pub mod usage;
mod witness;
mod worker;
#[cfg(feature = "yardstick")]
pub mod yardstick;

pub use contract::{AppendError, Appended, Batches, EventLog, Expect, ReadError, Stored, SyncMode};
pub use contract::{RUN_BYTES_MAX, RUN_RECORDS_MAX, SUBJECT_BYTES_MAX};
pub use directory::OpenError;
pub use embedded::EmbeddedLog;
pub use jetstream::{Difference, JetStreamLog, PrepareError, Prepared};
pub use memory::MemoryLog;
pub use nats::remote::StreamPrepareError;
pub use nats::{ConnectError, Connection, Nats, NatsConfig};
pub use resolve::append_resolving;
pub use schemas::record::RECORD_BYTES_MAX;
pub use storage::{Damage, StorageError};
pub use witness::{COMPARE_INTERVAL, Counts, Health, WINDOW, WitnessedLog};
