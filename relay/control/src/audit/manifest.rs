//! The manifest: every other file of an export by name, length and digest, and what the export claims to be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemas::{ClusterId, Digest, PublicKey, Sequence, Timestamp, WriterId};
use serde::{Deserialize, Serialize};

/// The format of exports that this release writes, and the only one it reads.
pub const FORMAT: u16 = 1;
pub const MANIFEST: &str = "manifest.json";
pub const SIGNATURE: &str = "manifest.sig";
/// What the signed statement begins with: no record's header begins with a text.
const STATEMENT: &[u8] = b"keyrelay export manifest v1\n";

/// What an export is, and all of its files but the manifest and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u16,
    pub cluster: ClusterId,
    pub cluster_public_key: PublicKey,
    /// The number of records: the export is the log's prefix of this size.
    pub size: Sequence,
    /// The RFC 6962 root over these records, as the exporting node had it.
    pub root: Digest,
    /// BLAKE3 of `state.bin`.
    pub state: Digest,
    /// The node whose key signed this manifest; enrolled within the exported records.
    pub writer: WriterId,
    pub created_at: Timestamp,
    pub files: Vec<FileEntry>,
}

/// One file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    pub blake3: Digest,
}

/// What the writer signs: a text that says what it is, and the manifest's bytes as they stand in the file.
pub fn statement(manifest: &[u8]) -> Vec<u8> {
    [STATEMENT, manifest].concat()
}

/// The content of `manifest.sig`: base64 and a line feed.
pub fn signature_text(signature: &[u8; 64]) -> String {
    STANDARD.encode(signature) + "\n"
}

/// Reads `manifest.sig`. A signature has one spelling, so that no byte of the file can change unnoticed.
pub fn parse_signature(text: &[u8]) -> Option<[u8; 64]> {
    STANDARD.decode(text.strip_suffix(b"\n")?).ok()?.try_into().ok()
}
