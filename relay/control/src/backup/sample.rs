//! A backup of nothing in particular, for the tests of both who writes and who verifies backups.

use schemas::{ClusterId, Digest, PublicKey, Sequence, Timestamp, WriterId};

use super::{Archive, FORMAT, KIND, Manifest, Part};

/// A manifest of nothing in particular.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        kind: KIND.to_owned(),
        format: FORMAT,
        cluster: ClusterId::from_bytes([1; 16]),
        cluster_public_key: PublicKey::from_bytes([2; 32]),
        sequence: Sequence(3),
        root: Digest::from_bytes([4; 32]),
        created_at: Timestamp::from_micros(5),
        node: WriterId::from_bytes([6; 16]),
        release: "9.9.9".to_owned(),
        usage_unreadable: 0,
        parts: Vec::new(),
    }
}

/// A backup of these entries.
pub(crate) fn written<'a>(
    entries: impl IntoIterator<Item = (Part, &'a [u8])>,
    manifest: Manifest,
    sign: impl FnOnce(&[u8]) -> [u8; 64],
) -> Vec<u8> {
    let mut archive = Archive::begin(Vec::new()).unwrap();
    for (part, entry) in entries {
        archive.entry(part, entry).unwrap();
    }
    archive.finish(manifest, sign).unwrap()
}
