//! The manifest: what a snapshot is, and all of its files.

use ed25519_dalek::{Signature, VerifyingKey};
use schemas::judge::enrolment_statement;
use schemas::writer::WriterEnrolled;
use schemas::{ClusterId, Digest, PublicKey, Sequence, WriterId};
use serde::{Deserialize, Serialize};

use super::install::InstallError;
use crate::start::Anchor;

/// The format of snapshots that this release writes, and the only one it installs.
pub const SNAPSHOT_FORMAT: u32 = 1;
/// What the signed statement begins with: no record's header begins with a text.
const STATEMENT: &[u8] = b"keyrelay snapshot manifest v1\n";

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    pub format: u32,
    pub cluster: ClusterId,
    /// The version of the rows, [`crate::VERSION`] of the release that took it.
    pub version: u32,
    /// The last record folded into the rows.
    pub position: Sequence,
    /// The RFC 6962 root over all records up to the position.
    pub root: Digest,
    /// The Merkle leaf of the record at the position.
    pub leaf: Digest,
    /// The node that took it and signed this, with the cluster key's word for it.
    pub writer: WriterEnrolled,
    /// The files of `rows/`, in the order of their names.
    pub files: Vec<SnapshotFile>,
}

/// One file of the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFile {
    pub name: String,
    pub bytes: u64,
    pub blake3: Digest,
}

/// As much of a manifest as every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

/// What the writer signs: a text that says what it is, and the manifest's bytes as they stand in the file.
pub(crate) fn statement(manifest: &[u8]) -> Vec<u8> {
    [STATEMENT, manifest].concat()
}

/// The content of `manifest.sig`: base64 and a line feed.
pub(crate) fn signature_text(signature: &[u8; 64]) -> String {
    data_encoding::BASE64.encode(signature) + "\n"
}

fn parse_signature(text: &[u8]) -> Option<Signature> {
    let bytes = data_encoding::BASE64.decode(text.strip_suffix(b"\n")?).ok()?;
    Some(Signature::from_bytes(&bytes.try_into().ok()?))
}

/// Whether the cluster key has enrolled this writer.
pub(super) fn is_enrolled(enrolled: &WriterEnrolled, cluster: ClusterId, cluster_key: &VerifyingKey) -> bool {
    let statement = enrolment_statement(cluster, WriterId::of(&enrolled.public_key), &enrolled.public_key);
    cluster_key.verify_strict(&statement, &Signature::from_bytes(&enrolled.cluster_signature.0)).is_ok()
}

pub(super) fn key_of(public_key: &PublicKey) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(public_key.as_bytes()).ok()
}

impl SnapshotManifest {
    /// Reads a manifest that an enrolled writer of this cluster has signed, and whose rows this release can use.
    pub(super) fn verify(bytes: &[u8], signature: &[u8], cluster: ClusterId, cluster_key: &PublicKey) -> Result<Self, InstallError> {
        let AnyFormat { format } = serde_json::from_slice(bytes).map_err(|_| InstallError::Manifest)?;
        if format != SNAPSHOT_FORMAT {
            return Err(InstallError::OtherFormat { found: format });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|_| InstallError::Manifest)?;
        if manifest.cluster != cluster {
            return Err(InstallError::OtherCluster { found: manifest.cluster, expected: cluster });
        }
        if !key_of(cluster_key).is_some_and(|key| is_enrolled(&manifest.writer, cluster, &key)) {
            return Err(InstallError::NotEnrolled { writer: manifest.writer_id() });
        }
        let is_signed = key_of(&manifest.writer.public_key)
            .zip(parse_signature(signature))
            .is_some_and(|(key, signature)| key.verify_strict(&statement(bytes), &signature).is_ok());
        if !is_signed {
            return Err(InstallError::Signature);
        }
        if manifest.version != crate::VERSION {
            return Err(InstallError::OtherVersion { found: manifest.version });
        }
        match manifest.files.iter().find(|file| !is_plain(&file.name)) {
            Some(file) => Err(InstallError::FileName { name: file.name.clone() }),
            None => Ok(manifest),
        }
    }

    /// The node that took the snapshot.
    pub fn writer_id(&self) -> WriterId {
        WriterId::of(&self.writer.public_key)
    }

    pub(super) fn anchor(&self) -> Anchor {
        Anchor { cluster: self.cluster, position: self.position, leaf: self.leaf }
    }
}

/// Whether a name stays in the directory it is put in.
fn is_plain(name: &str) -> bool {
    let is_spelt = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_spelt)
}
