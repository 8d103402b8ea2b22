//! Signatures looked at before their records' turn, beside the fold and on another core.
//!
//! Nothing is judged here. What a check ahead says of a record is that a certain writer's key has signed its bytes for a certain cluster, which
//! no later record can change; whether that cluster and that writer count at the record's place is judged in its turn, as ever.

use std::sync::Arc;

use event_log::Stored;
use schemas::judge::signed_by;
use schemas::{Sequence, WriterId};

use super::authority::Authority;

/// Whose good signature the records of one run carry, as far as that was looked at.
#[derive(Debug, Default)]
pub(crate) struct CheckedAhead {
    first: Sequence,
    /// None where the signature is not good, or the writer was not known: the fold looks itself.
    writers: Vec<Option<WriterId>>,
    /// The keys that were checked with.
    authority: Arc<Authority>,
}

impl CheckedAhead {
    /// Checks a run of records with the keys that are known now. Takes tens of microseconds a record.
    pub(crate) fn of(run: &[Stored], authority: Arc<Authority>) -> Self {
        let (Some(first), Some((cluster, _))) = (run.first(), authority.cluster) else { return Self::default() };
        let key = |writer| authority.writers.get(&writer).copied();
        let writers = run.iter().map(|stored| signed_by(cluster, &stored.bytes, key)).collect();
        Self { first: first.sequence, writers, authority }
    }

    /// Whether a record was seen to carry the signature that it needs with these keys.
    pub(crate) fn stands(&self, sequence: Sequence, authority: &Arc<Authority>) -> bool {
        let place = sequence.0.checked_sub(self.first.0).and_then(|place| usize::try_from(place).ok());
        let Some(writer) = place.and_then(|place| self.writers.get(place).copied().flatten()) else { return false };
        let (then, now) = (&*self.authority, &**authority);
        Arc::ptr_eq(&self.authority, authority)
            || (then.cluster == now.cluster && then.writers.get(&writer).is_some_and(|key| now.writers.get(&writer) == Some(key)))
    }
}
