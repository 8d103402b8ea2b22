//! The check of every row at the start, as for the event log.

use schemas::Sequence;

use super::store::{BATCHES, NUMBERS, Origin, number_key, parse_batch, parse_number_key};
use crate::storage::{Damage, Rocks, StorageError, parse_sequence, sequence_bytes};

/// Reads all rows once and returns the last sequence.
pub(super) fn check(rocks: &Rocks) -> Result<Sequence, StorageError> {
    let head = check_batches(rocks)?;
    // Every batch is found by its number, and there are as many numbers as batches: none is left over.
    if check_numbers(rocks)? == head.0 { Ok(head) } else { Err(Damage::Disagreement { family: NUMBERS }.into()) }
}

/// The sequences are 1, 2, 3, ..., and each batch is found by its number.
fn check_batches(rocks: &Rocks) -> Result<Sequence, StorageError> {
    let mut rows = rocks.scan(BATCHES);
    let mut head = Sequence::ZERO;
    while let Some((key, value)) = rows.item() {
        let (expected, found) = (head.next(), parse_sequence(key, BATCHES)?);
        if found != expected {
            return Err(Damage::Hole { expected, found }.into());
        }
        let batch = parse_batch(value)?;
        let number = rocks.get(NUMBERS, number_key(&(batch.node, batch.incarnation), batch.number))?;
        if number.as_deref() != Some(&sequence_bytes(found)) {
            return Err(Damage::Disagreement { family: NUMBERS }.into());
        }
        head = found;
        rows.next();
    }
    rows.status()?;
    Ok(head)
}

/// The numbers of each origin are 1, 2, 3, ...; returns how many there are.
fn check_numbers(rocks: &Rocks) -> Result<u64, StorageError> {
    let mut rows = rocks.scan(NUMBERS);
    let mut count = 0;
    let mut last: Option<(Origin, u64)> = None;
    while let Some(key) = rows.key() {
        let (origin, number) = parse_number_key(key)?;
        let expected = last.filter(|(before, _)| *before == origin).map_or(1, |(_, number)| number + 1);
        if number != expected {
            return Err(Damage::Disagreement { family: NUMBERS }.into());
        }
        last = Some((origin, number));
        count += 1;
        rows.next();
    }
    rows.status()?;
    Ok(count)
}
