//! The backup of a node: one file with everything that cannot be worked out again, and how a node writes it and anybody reads it.
//!
//! ```text
//! "keyrelay backup\n"
//! log         the records from sequence 1 up to the backup's, as they stand in the log       ([`entry`])
//! keys        sealed secrets and wrapped data keys, as they lie in the key store; nothing is opened
//! artefacts   policy modules
//! usage       batches of the usage stream
//! decisions   batches of the decision stream, as far back as it is kept
//! manifest    what the backup is; number, length and digest of each part                      ([`manifest`])
//! signature   by the node that wrote it, over the manifest                                    ([`SignedManifest`])
//! end         BLAKE3 of every byte before its own
//! ```
//!
//! Everything after the first line is a frame: kind (1 byte), length (4 bytes, big-endian), content. A part is any number of frames of its
//! kind, each of whole entries. It is written and read in one pass with bounded memory. The manifest comes last, so a backup that broke off has none.
//!
//! What is not in it: the root key, the owner token and writer keys, so that the file alone opens nothing; and read models, because a restore
//! folds the log anyway to prove it.
//!
//! The key store is read after the log's position was taken. Secrets are sealed before a record refers to them, so what the log refers to is
//! there, unless it was destroyed in between: then both are taken again.

mod archive;
pub mod entry;
pub mod manifest;
mod reading;
mod signature;
pub(crate) mod source;

pub use archive::Archive;
pub use manifest::{Manifest, Part, PartEntry};
pub use reading::{BackupError, Chunk, read};
pub use signature::{SignedManifest, statement};
pub use source::BackupSources;

/// What every backup begins with.
const MAGIC: &[u8; 16] = b"keyrelay backup\n";
/// The frames of the manifest and of its signature, and the last one. Parts have their own numbers.
const MANIFEST_FRAME: u8 = 0xf0;
const SIGNATURE_FRAME: u8 = 0xf1;
const END_FRAME: u8 = 0xff;
/// A frame ends with the entry that brings it to this many bytes.
const FRAME_BYTES: usize = 1024 * 1024;
/// The most bytes of an entry: a policy module, and what says which.
const ENTRY_BYTES_MAX: usize = event_log::artefacts::ARTEFACT_BYTES_MAX + 1024;
const FRAME_BYTES_MAX: usize = FRAME_BYTES + ENTRY_BYTES_MAX + 4;
const MANIFEST_BYTES_MAX: usize = 64 * 1024;
