//! The check of every row at the start, as for the event log.

use schemas::Sequence;

use super::store::{BATCHES, NUMBERS, Origin, number_key, parse_batch, parse_number_key};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence, sequence_bytes};

/// What the rows hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// The last sequence.
    pub(super) head: Sequence,
    pub(super) batches: u64,
    /// Of the encoded batches.
    pub(super) bytes: u64,
}

/// Reads all rows once. `dropped` is the last sequence that is gone, and `passed` the last number of an origin that is.
pub(super) fn check(rocks: &Rocks, dropped: Sequence, passed: impl Fn(&Origin) -> Result<u64, StorageError>) -> Result<Held, StorageError> {
    let held = check_batches(rocks, dropped)?;
    // Every batch is found by its number, and there are as many numbers as batches: none is left over.
    if check_numbers(rocks, passed)? == held.batches { Ok(held) } else { Err(Damage::Disagreement { family: NUMBERS }.into()) }
}

/// The sequences follow on each other, and each batch is found by its number.
fn check_batches(rocks: &Rocks, dropped: Sequence) -> Result<Held, StorageError> {
    let mut rows = rocks.scan(BATCHES);
    let mut held = Held { head: dropped, batches: 0, bytes: 0 };
    while let Some((key, value)) = rows.item() {
        let (expected, found) = (held.head.next(), parse_sequence(key, BATCHES)?);
        if found != expected {
            return Err(Damage::Hole { expected, found }.into());
        }
        let batch = parse_batch(value)?;
        let number = rocks.get(NUMBERS, number_key(&(batch.node, batch.incarnation), batch.number))?;
        if number.as_deref() != Some(&sequence_bytes(found)) {
            return Err(Damage::Disagreement { family: NUMBERS }.into());
        }
        held = Held { head: found, batches: held.batches + 1, bytes: held.bytes + value.len() as u64 };
        rows.next();
    }
    rows.status()?;
    Ok(held)
}

/// The numbers of each origin follow on each other, from the one after those that are gone; returns how many there are.
fn check_numbers(rocks: &Rocks, passed: impl Fn(&Origin) -> Result<u64, StorageError>) -> Result<u64, StorageError> {
    let mut rows = rocks.scan(NUMBERS);
    let mut count = 0;
    let mut last: Option<(Origin, u64)> = None;
    while let Some(key) = rows.key() {
        let (origin, number) = parse_number_key(key)?;
        let before = match last.filter(|(before, _)| *before == origin) {
            Some((_, number)) => number,
            None => passed(&origin)?,
        };
        if number != before + 1 {
            return Err(Damage::Disagreement { family: NUMBERS }.into());
        }
        last = Some((origin, number));
        count += 1;
        rows.next();
    }
    rows.status()?;
    Ok(count)
}
