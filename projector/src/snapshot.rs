//! Snapshots: the rows of one node as files that another may begin with, so that a new node need not judge the whole log.
//!
//! ```text
//! manifest.json    what the rows are: cluster, version, position, root, leaf, and every file by name, length and digest
//! manifest.sig     the signature of the node that took it, over a text and the manifest's bytes
//! rows/            a RocksDB checkpoint
//! ```
//!
//! A snapshot is believed as far as its writer is: rows are not bound to the log's root, so whoever may sign records of the cluster may
//! also vouch for rows. Nothing of it is opened before the signature, the writer's enrolment, every digest and the log's own record at the
//! position were checked, and it is put in use only after its position row and the root of its frontier were compared. A rebuild on the
//! node that installed it judges everything again.

mod install;
pub(crate) mod manifest;
mod take;
mod writers;

pub use install::{InstallError, install_snapshot};
pub use manifest::{SNAPSHOT_FORMAT, SnapshotFile, SnapshotManifest};
pub use take::SnapshotError;

/// The names of a snapshot's parts.
pub(crate) const MANIFEST: &str = "manifest.json";
const SIGNATURE: &str = "manifest.sig";
const ROWS: &str = "rows";
