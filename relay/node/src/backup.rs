//! `keyrelay backup` and `keyrelay restore`: what a running node streams becomes a file, a file is proved without a node, and becomes a node
//! again.
//!
//! ```text
//! node ── stream ──> a file that has its name only when it is whole          ([`receive`])
//! file ──> digests, records judged and folded, secrets and modules present   ([`verify`])
//! file ──> verify ──> mark ──> log, keys, modules, usage, decisions ──> fold, same root ──> mark gone   ([`Restore`])
//! ```
//!
//! A restore founds nothing: the cluster, its keys and their secrets are those of the backup, and the node that starts on them enrols a writer
//! key of its own. While the mark is there, the directory is no node's; the same command makes a whole one of it, from the beginning.

mod mark;
mod receive;
mod restore;
mod retention;
mod verification;

pub(crate) use mark::refuse_unfinished;
pub use receive::{Received, Target, receive};
pub(crate) use restore::read_root_key;
pub use restore::{Outcome, Progress, Restore, Restored, Step};
pub use retention::prune;
pub use verification::{BackupReport, verify};
