//! The check of every row at the start.
//!
//! Block checksums catch bytes that changed; this catches rows that are whole and do not belong together, which is what a lost file or a
//! write-ahead log cut short leaves behind.

use std::hash::{DefaultHasher, Hash, Hasher};

use schemas::Sequence;

use super::store::{HEADS, INDEX, RECORDS, parse_index_key, parse_value};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence};

/// A sum over (subject, sequence) that does not depend on the order they come in: two families with the same pairs have the same sum, and
/// two that differ by accident do not.
#[derive(Default, PartialEq, Eq)]
struct Pairs(u64);

impl Pairs {
    fn add(&mut self, subject: &str, sequence: Sequence) {
        let mut hasher = DefaultHasher::new();
        (subject, sequence).hash(&mut hasher);
        self.0 = self.0.wrapping_add(hasher.finish());
    }
}

/// Reads all rows once and returns the last sequence.
pub(super) fn check(rocks: &Rocks) -> Result<Sequence, StorageError> {
    let mut recorded = Pairs::default();
    let head = check_records(rocks, &mut recorded)?;
    let mut indexed = Pairs::default();
    check_index_and_heads(rocks, &mut indexed)?;
    if recorded == indexed { Ok(head) } else { Err(Damage::Disagreement { family: INDEX }.into()) }
}

/// The sequences are 1, 2, 3, ...
fn check_records(rocks: &Rocks, pairs: &mut Pairs) -> Result<Sequence, StorageError> {
    let mut rows = rocks.scan(RECORDS);
    let mut head = Sequence::ZERO;
    while let Some((key, value)) = rows.item() {
        let (expected, found) = (head.next(), parse_sequence(key, RECORDS)?);
        if found != expected {
            return Err(Damage::Hole { expected, found }.into());
        }
        let (subject, _) = parse_value(value)?;
        pairs.add(subject, found);
        head = found;
        rows.next();
    }
    rows.status()?;
    Ok(head)
}

/// Both families are in the order of subjects, so one walk compares each subject's last entry in the index with its head.
fn check_index_and_heads(rocks: &Rocks, pairs: &mut Pairs) -> Result<(), StorageError> {
    let mut heads = rocks.scan(HEADS);
    let mut index = rocks.scan(INDEX);
    while let Some((subject, head)) = heads.item() {
        let head = parse_sequence(head, HEADS)?;
        let mut last = Sequence::ZERO;
        while let Some(key) = index.key() {
            let (found, sequence) = parse_index_key(key)?;
            if found.as_bytes() != subject {
                break;
            }
            pairs.add(found, sequence);
            last = sequence;
            index.next();
        }
        if last != head || head == Sequence::ZERO {
            return Err(Damage::Disagreement { family: HEADS }.into());
        }
        heads.next();
    }
    heads.status()?;
    index.status()?;
    // An entry that is left belongs to a subject without a head.
    if index.valid() { Err(Damage::Disagreement { family: HEADS }.into()) } else { Ok(()) }
}
