//! Every record vouches for the past: its `seen` is a place in the log and the root its writer computed there.

use std::collections::VecDeque;

use schemas::record::Seen;
use schemas::{Digest, Sequence};
use serde::{Deserialize, Serialize};

use super::rows::ROOTS;
use crate::store::{ReadError, Store, key};

/// How many of the log's last roots are kept for checking what writers saw.
pub const ROOTS_KEPT: u64 = 4_096;

/// A valid record whose writer saw another log than this one. The record stays valid; the finding is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenFinding {
    pub seen: Seen,
    pub fault: SeenFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeenFault {
    /// The place is not below the record's own.
    NotBefore,
    /// The log has another root at that place.
    OtherRoot,
}

/// What a check of `seen` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeenCheck {
    Same,
    /// The place is older than the roots kept.
    Unchecked,
    Fault(SeenFault),
}

/// The roots of the last places up to a position. The position itself is the owner's to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roots {
    last: Sequence,
    roots: VecDeque<Digest>,
}

/// The row of one root; the key is the sequence modulo [`ROOTS_KEPT`], so that the rows are a ring.
#[derive(Serialize, Deserialize)]
pub(crate) struct RootRow(pub Sequence, pub Digest);

impl RootRow {
    pub(crate) fn key(&self) -> Vec<u8> {
        let slot = (self.0.0 % ROOTS_KEPT) as u16;
        key::cluster_wide(&[&slot.to_be_bytes()])
    }
}

impl Roots {
    pub(crate) fn load(store: &Store, last: Sequence) -> Result<Self, ReadError> {
        let mut rows: Vec<RootRow> = store.scan(ROOTS, &[], Vec::new()).map(|row| row.map(|(_, row)| row)).collect::<Result<_, _>>()?;
        rows.sort_unstable_by_key(|row| row.0);
        Ok(Self { last, roots: rows.into_iter().map(|row| row.1).collect() })
    }

    /// Adds the root of the next place.
    pub(crate) fn push(&mut self, root: Digest) {
        self.last = self.last.next();
        self.roots.push_back(root);
    }

    /// Forgets what is older than [`ROOTS_KEPT`].
    pub(crate) fn trim(&mut self) {
        let surplus = self.roots.len().saturating_sub(ROOTS_KEPT as usize);
        self.roots.drain(..surplus);
    }

    /// Takes back the last `count` places, which were not committed.
    pub(crate) fn take_back(&mut self, count: usize) {
        self.roots.truncate(self.roots.len() - count);
        self.last.0 -= count as u64;
    }

    /// The last `count` places, but no more than are kept.
    pub(crate) fn newest(&self, count: usize) -> impl Iterator<Item = RootRow> {
        let skipped = self.roots.len() - count.min(ROOTS_KEPT as usize);
        let first = self.last.0 + 1 - (self.roots.len() - skipped) as u64;
        self.roots.iter().skip(skipped).zip(first..).map(|(root, sequence)| RootRow(Sequence(sequence), *root))
    }

    /// Checks what the record after the last place saw. The answer depends on the log alone, not on when old roots are trimmed.
    pub(crate) fn check(&self, seen: &Seen) -> SeenCheck {
        let root = match seen.sequence {
            Sequence::ZERO => Some(Seen::nothing().root),
            sequence if sequence > self.last => return SeenCheck::Fault(SeenFault::NotBefore),
            sequence => {
                let back = self.last.0 - sequence.0;
                let kept = back < ROOTS_KEPT && back < self.roots.len() as u64;
                kept.then(|| self.roots[self.roots.len() - 1 - back as usize])
            }
        };
        match root {
            None => SeenCheck::Unchecked,
            Some(root) if root == seen.root => SeenCheck::Same,
            Some(_) => SeenCheck::Fault(SeenFault::OtherRoot),
        }
    }
}
