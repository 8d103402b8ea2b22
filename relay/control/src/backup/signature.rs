//! Whose a backup is: a node's signature over the manifest, and with it over every part, whose digests it holds.
//!
//! It is checked against the writers that the log inside enrols, so a file that somebody else made or changed is told from a node's, whoever
//! could write to where it lay.

use ed25519_dalek::{Signature, VerifyingKey};
use schemas::PublicKey;

use super::Manifest;

/// What a statement about a backup begins with; no record's header and no other statement does.
const STATEMENT: &[u8] = b"keyrelay 2026 backup manifest v1\n";

/// What the writer signs: a text that says what it is, and the manifest's bytes as they stand in the backup.
pub fn statement(manifest: &[u8]) -> Vec<u8> {
    [STATEMENT, manifest].concat()
}

/// A manifest as it was read, and what its writer put under it.
#[derive(Debug, Clone)]
pub struct SignedManifest {
    pub manifest: Manifest,
    /// As they stand in the backup.
    pub(super) bytes: Vec<u8>,
    pub(super) signature: [u8; 64],
}

impl SignedManifest {
    /// Whether it stands as the holder of this key signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(key.as_bytes()) else { return false };
        key.verify_strict(&statement(&self.bytes), &Signature::from_bytes(&self.signature)).is_ok()
    }
}
