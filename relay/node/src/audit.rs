//! The offline audit: bytes, digests, signatures, enrolment, versions, root and state of an export, without a node and without a network.
//!
//! ```text
//! files in a folder, or a tar stream ──> Verification ── records ──> Fold (judge, apply, Merkle root)
//!                                             └── digests, state rows, manifest, signature ──> Report
//! ```
//!
//! A folder and a stream go through the same [`Verification`], file by file. It trusts the cluster's public key that it is given; without
//! one the founding in the export is the anchor, which the report says.

mod data;
mod directory;
mod fold;
mod hashing;
mod report;
mod tar_stream;
mod verification;

pub use data::verify_data;
pub use directory::{directory_bytes, verify_directory};
pub use fold::{Fold, FoldError, Row, SeenFault};
pub(crate) use report::Findings;
pub use report::{Anchor, Expected, Finding, Report, VoidRecord};
pub use tar_stream::{StreamError, Verdicts, each_run, unpack, verdicts, verify_stream};
pub use verification::Verification;
pub(crate) use verification::chain;

#[cfg(test)]
#[path = "audit/tests.rs"]
mod tests;
