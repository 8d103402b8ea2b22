//! What became of commands, for 30 days.
//!
//! Time here is the running maximum of header times, so what is forgotten is a function of the log and the same on every node. After
//! any record the rows are: of each command its last valid record, if that is young enough; and by time every valid record that is.

use std::collections::HashMap;

use schemas::{CommandId, Timestamp};

use super::draft::sorted;
use super::rows::{COMMANDS, COMMANDS_BY_TIME, CommandRow, CommandTime, of_command};
use crate::store::{Batch, ReadError, Store, key};

/// How long a command is remembered.
pub(crate) const KEPT_SECONDS: u64 = 30 * 86_400;

/// The time before which commands are forgotten.
fn horizon(time_max: Timestamp) -> Timestamp {
    Timestamp::from_micros(time_max.as_micros().saturating_sub(KEPT_SECONDS * 1_000_000))
}

/// Writes the commands of one batch of records, in log order, and forgets those that the records' times have made old.
pub(super) fn write(
    batch: &mut Batch<'_>,
    store: &Store,
    commands: &[(CommandId, CommandRow)],
    time_max_before: Timestamp,
    time_max: Timestamp,
) -> Result<(), ReadError> {
    let horizon_before = horizon(time_max_before);
    let horizon = horizon(time_max);
    let last: HashMap<CommandId, &CommandRow> = commands.iter().map(|(id, row)| (*id, row)).collect();
    if horizon > horizon_before {
        forget(batch, store, &last, horizon_before, horizon)?;
    }
    for (id, row) in sorted(&last) {
        let key = of_command(id);
        if row.time >= horizon { batch.put(COMMANDS, &key, row) } else { batch.delete(COMMANDS, &key) }
    }
    for (command, CommandRow { time, sequence, .. }) in commands.iter().filter(|(_, row)| row.time >= horizon) {
        let row = CommandTime { time: *time, sequence: *sequence, command: *command };
        batch.put(COMMANDS_BY_TIME, &row.key(), &row);
    }
    Ok(())
}

/// Drops the stored rows between two horizons; below the first there are none. A command that has a later record keeps its row.
fn forget(
    batch: &mut Batch<'_>,
    store: &Store,
    replaced: &HashMap<CommandId, &CommandRow>,
    from: Timestamp,
    until: Timestamp,
) -> Result<(), ReadError> {
    // Beginning at the first horizon spares the walk over the tombstones of all that was forgotten before.
    let from = key::cluster_wide(&[&from.as_micros().to_be_bytes()]);
    for row in store.scan::<CommandTime>(COMMANDS_BY_TIME, &from, Vec::new()) {
        let (by_time, CommandTime { time, sequence, command }) = row?;
        if time >= until {
            break;
        }
        batch.delete(COMMANDS_BY_TIME, &by_time);
        let id = of_command(&command);
        if !replaced.contains_key(&command) && store.get::<CommandRow>(COMMANDS, &id)?.is_some_and(|row| row.sequence == sequence) {
            batch.delete(COMMANDS, &id);
        }
    }
    Ok(())
}
