#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use ed25519_dalek::{Signer as _, SigningKey};
use schemas::PublicKey;

use super::*;
use crate::backup::Archive;

#[path = "sample.rs"]
mod sample;

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

type Entries = Vec<(Part, Vec<u8>)>;

fn written(entries: &[(Part, Vec<u8>)], format: u16) -> Vec<u8> {
    let manifest = Manifest { format, ..sample::manifest() };
    sample::written(entries.iter().map(|(part, entry)| (*part, &entry[..])), manifest, |statement| signing_key().sign(statement).to_bytes())
}

fn taken(bytes: &[u8]) -> Result<(SignedManifest, Entries), BackupError> {
    let mut entries = Vec::new();
    let manifest = read(bytes, |chunk| {
        entries.extend(chunk.entries.iter().map(|entry| (chunk.part, entry.to_vec())));
        Ok::<_, BackupError>(())
    })?;
    Ok((manifest, entries))
}

fn some_entries() -> Entries {
    let mut entries = vec![(Part::Log, b"one".to_vec()), (Part::Log, vec![]), (Part::Log, vec![7; 3 * 1024 * 1024])];
    entries.extend([(Part::Log, b"after".to_vec()), (Part::Artefacts, b"module".to_vec()), (Part::Decisions, b"batch".to_vec())]);
    entries
}

#[test]
fn what_was_written_is_read_in_its_order() {
    let entries = some_entries();
    let (manifest, found) = taken(&written(&entries, FORMAT)).unwrap();
    assert_eq!(found, entries);
    let counts: Vec<u64> = manifest.manifest.parts.iter().map(|part| part.entries).collect();
    assert_eq!(counts, [4, 0, 1, 0, 1]);
}

#[test]
fn a_manifest_is_signed_by_its_writer_and_nobody_else() {
    let key = |key: &SigningKey| PublicKey::from_bytes(key.verifying_key().to_bytes());
    let (signed, _) = taken(&written(&some_entries(), FORMAT)).unwrap();
    assert!(signed.is_signed_by(&key(&signing_key())));
    assert!(!signed.is_signed_by(&key(&SigningKey::from_bytes(&[8; 32]))));
    // A signature over the manifest alone, which a signer of something else might be brought to give, is none.
    let bare = sample::written([], sample::manifest(), |statement| {
        let manifest = statement.strip_prefix(b"keyrelay 2026 backup manifest v1\n").unwrap();
        signing_key().sign(manifest).to_bytes()
    });
    assert!(!taken(&bare).unwrap().0.is_signed_by(&key(&signing_key())));
}

#[test]
fn an_empty_backup_is_one() {
    assert_eq!(taken(&written(&[], FORMAT)).unwrap().1, []);
}

#[test]
fn another_format_names_the_release_that_wrote_it() {
    let refused = taken(&written(&some_entries(), FORMAT + 1)).unwrap_err().to_string();
    assert!(refused.contains("format 3") && refused.contains("9.9.9"), "{refused}");
}

#[test]
fn something_after_the_end_is_found() {
    let mut bytes = written(&some_entries(), FORMAT);
    bytes.push(0);
    assert!(matches!(taken(&bytes), Err(BackupError::Damaged { .. })));
}

#[test]
fn every_changed_byte_and_every_cut_is_found() {
    let entries = [(Part::Log, b"one".to_vec()), (Part::Log, vec![]), (Part::Keys, b"sealed".to_vec()), (Part::Usage, b"batch".to_vec())];
    let whole = written(&entries, FORMAT);
    assert_eq!(taken(&whole).unwrap().1, entries);
    for place in 0..whole.len() {
        assert!(taken(&whole[..place]).is_err(), "cut at {place}");
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[place] ^= 1 << bit;
            assert!(taken(&changed).is_err(), "bit {bit} of byte {place}");
        }
    }
}
