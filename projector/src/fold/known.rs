//! Verdicts that this node has reached before: all records up to a position are valid but for those that are listed as void.
//!
//! They hold for a log with the same root there, and for no other: the root is over the signed bytes of every valid record and over every byte
//! of a void one. Whoever folds by them compares the root at the position before anything is believed of the rows.

use std::collections::HashMap;
use std::sync::Arc;

use event_log::Stored;
use schemas::{Sequence, VoidReason};

use super::rows::{VOIDS, of_sequence};
use crate::models::{Position, View};
use crate::store::{ReadError, Store, key};

/// The verdicts of a model up to the position that it had.
#[derive(Clone)]
pub(crate) struct Known {
    store: Arc<Store>,
    pub(crate) position: Position,
}

/// The void records of a run, by their places.
pub(crate) type Voids = HashMap<Sequence, VoidReason>;

impl Known {
    pub(crate) fn of(view: &View) -> Self {
        Self { store: Arc::clone(&view.store), position: view.position }
    }

    /// Which of these records are void. They lie at or below the position, whose list grows no more.
    pub(crate) fn voids(&self, records: &[Stored]) -> Result<Voids, ReadError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(Voids::new()) };
        let mut voids = Voids::new();
        for row in self.store.scan::<VoidReason>(VOIDS, &of_sequence(first.sequence), key::cluster_wide(&[])) {
            let (place, reason) = row?;
            let number = place.last_chunk::<8>().ok_or(ReadError::Row { family: VOIDS })?;
            let sequence = Sequence(u64::from_be_bytes(*number));
            if sequence > last.sequence {
                break;
            }
            voids.insert(sequence, reason);
        }
        Ok(voids)
    }
}
