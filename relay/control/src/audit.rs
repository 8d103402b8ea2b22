//! The export of a log for an auditor: the files it consists of, and how a node writes them.
//!
//! ```text
//! records/000000000001.bin   the log from sequence 1 on, a run of records a file     ([`record`])
//! state.bin                  what the exporting node believes the log means          ([`state`])
//! manifest.json              names, lengths and digests of the files above           ([`manifest`])
//! manifest.sig               an enrolled writer's signature over the manifest
//! ```
//!
//! It travels as a tar stream in this order, so that it is written and verified in one pass, with bounded memory on this side. Whoever
//! verifies it needs no network and trusts nothing but the cluster's public key.

mod export;
pub mod manifest;
pub mod record;
pub mod state;

pub use export::{Claims, Export};
pub use manifest::{FileEntry, Manifest};
pub use state::StateRow;
