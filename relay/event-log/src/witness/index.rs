//! What is remembered of the log, as digests in memory: every comparison is made against these, and never waits for the disk.
//!
//! Remembered are the last [`WINDOW`](super::WINDOW) places of the log, the first record of all (it says whose log this is), and before the
//! window those of our own records for which no other writer has vouched yet. The last kind exists only where there are other writers, and
//! no more of it is kept than a window holds.

use std::collections::BTreeMap;

use schemas::record::Frame;
use schemas::{Digest, Sequence, WriterId};
use sha2::{Digest as _, Sha256};

use crate::contract::Stored;

const FIRST: Sequence = Sequence(1);

/// What is worth knowing of one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Print {
    pub(super) sequence: Sequence,
    pub(super) digest: Digest,
    /// Who wrote it and how far its writer had seen the log; none of bytes that are no record.
    seen: Option<(WriterId, Sequence)>,
}

/// What a record is to us that stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// It was not remembered and is now; or it is known to be our own only now. Either way there is a row to write.
    New,
    Known,
    /// It stands before what is remembered.
    Old,
    /// The place is remembered with another record.
    Contradicts,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    digest: Digest,
    is_own: bool,
}

pub(super) struct Index {
    window: u64,
    first: Option<Digest>,
    recent: BTreeMap<Sequence, Place>,
    /// Own records before the window that nobody has vouched for.
    unvouched: BTreeMap<Sequence, Digest>,
    /// The writer of our own records, known from the first of them.
    own_writer: Option<WriterId>,
    /// Another writer than ours was met since then.
    has_others: bool,
    /// The highest place that another writer had seen.
    vouched: Sequence,
    /// The end of the log as it was last told. It may be far ahead of what is remembered.
    head: Sequence,
    /// Everything up to here that is to be remembered was compared or remembered since the last reconnect.
    checked: Sequence,
}

impl Print {
    pub(super) fn of(stored: &Stored) -> Self {
        let header = Frame::parse(&stored.bytes).and_then(|frame| frame.header()).ok();
        // A place that is not below the record's own cannot have been seen.
        let seen = header.map(|header| (header.writer, header.seen.sequence)).filter(|(_, seen)| *seen < stored.sequence);
        Self { sequence: stored.sequence, digest: digest(stored), seen }
    }
}

/// What two records at one place are compared by: subject and bytes.
pub(super) fn digest(stored: &Stored) -> Digest {
    let mut hash = Sha256::new();
    hash.update((stored.subject.len() as u64).to_be_bytes());
    hash.update(stored.subject.as_bytes());
    hash.update(&stored.bytes);
    Digest::from_bytes(hash.finalize().into())
}

impl Index {
    pub(super) fn new(window: u64) -> Self {
        Self {
            window,
            first: None,
            recent: BTreeMap::new(),
            unvouched: BTreeMap::new(),
            own_writer: None,
            has_others: false,
            vouched: Sequence::ZERO,
            head: Sequence::ZERO,
            checked: Sequence::ZERO,
        }
    }

    /// Builds the index from all rows, in ascending order; `is_own` says which were acknowledged to us. Returns the rows not to be kept.
    pub(super) fn load(window: u64, rows: &[(Print, bool)]) -> (Self, Vec<Sequence>) {
        let mut index = Self::new(window);
        let mut forgotten = Vec::new();
        // Who we are comes first, since without it nobody is another writer, and then who vouched for what.
        index.own_writer = rows.iter().rev().filter(|(_, is_own)| *is_own).find_map(|(print, _)| print.seen).map(|(writer, _)| writer);
        for (print, is_own) in rows {
            index.hear_writer(print, *is_own, &mut forgotten);
        }
        for (print, is_own) in rows {
            if index.note(print, *is_own, &mut forgotten) == Noted::Old {
                forgotten.push(print.sequence);
            }
        }
        (index, forgotten)
    }

    pub(super) fn get(&self, sequence: Sequence) -> Option<Digest> {
        if sequence == FIRST {
            return self.first;
        }
        self.recent.get(&sequence).map(|place| place.digest).or_else(|| self.unvouched.get(&sequence).copied())
    }

    /// The last place that is remembered.
    pub(super) fn last(&self) -> Sequence {
        let last = self.recent.keys().next_back().max(self.unvouched.keys().next_back()).copied();
        last.unwrap_or_else(|| self.first.map(|_| FIRST).unwrap_or_default())
    }

    /// Everything remembered, in order.
    pub(super) fn all(&self) -> Vec<(Sequence, Digest)> {
        let first = self.first.iter().map(|digest| (FIRST, *digest));
        let unvouched = self.unvouched.iter().map(|(sequence, digest)| (*sequence, *digest));
        let recent = self.recent.iter().map(|(sequence, place)| (*sequence, place.digest));
        let mut all: Vec<_> = first.chain(unvouched).chain(recent).collect();
        // In order already, but for what was acknowledged far ahead of what is remembered.
        all.sort_by_key(|(sequence, _)| *sequence);
        all
    }

    /// The first record, the last one and some between, for a quick look at the whole. Not more than `count` and two.
    pub(super) fn sample(&self, count: usize) -> Vec<(Sequence, Digest)> {
        let all = self.all();
        let step = all.len().div_ceil(count).max(1);
        all.iter().copied().step_by(step).chain(all.last().copied()).collect()
    }

    /// Learns how far the log reaches.
    pub(super) fn heard(&mut self, head: Sequence) {
        self.head = self.head.max(head);
    }

    /// Whether any of these places is remembered or to be remembered.
    pub(super) fn concerns(&self, from: Sequence, to: Sequence) -> bool {
        from <= FIRST
            || to > self.horizon()
            || self.unvouched.range(from..=to).next().is_some()
            || self.recent.range(from..=to).next().is_some()
    }

    /// Compares a record with what is remembered at its place, and remembers it if that is nothing. Places that need not be remembered any
    /// more are added to `forgotten`.
    pub(super) fn note(&mut self, print: &Print, is_own: bool, forgotten: &mut Vec<Sequence>) -> Noted {
        let known = self.get(print.sequence);
        if known.is_some_and(|known| known != print.digest) {
            return Noted::Contradicts;
        }
        self.hear_writer(print, is_own, forgotten);
        if print.sequence == FIRST {
            self.first = Some(print.digest);
            return if known.is_some() { Noted::Known } else { Noted::New };
        }
        if known.is_some() {
            return self.note_again(print.sequence, is_own);
        }
        let noted = if print.sequence > self.horizon() {
            self.recent.insert(print.sequence, Place { digest: print.digest, is_own });
            Noted::New
        } else if is_own && self.is_unvouched(print.sequence) {
            self.unvouched.insert(print.sequence, print.digest);
            Noted::New
        } else {
            Noted::Old
        };
        self.evict(forgotten);
        noted
    }

    /// A record that is remembered already may turn out to be our own: it passed by before its acknowledgement was heard.
    fn note_again(&mut self, sequence: Sequence, is_own: bool) -> Noted {
        match self.recent.get_mut(&sequence) {
            Some(place) if is_own && !place.is_own => {
                place.is_own = true;
                Noted::New
            }
            _ => Noted::Known,
        }
    }

    /// Begins to check everything anew.
    pub(super) fn recheck(&mut self) {
        self.checked = Sequence::ZERO;
    }

    /// The next place of the log that is to be compared or remembered, if there is one.
    pub(super) fn unchecked(&self) -> Option<Sequence> {
        Some(self.next_unchecked()).filter(|next| *next <= self.head)
    }

    /// Learns that everything of a run was compared. A run that begins behind what is unchecked says nothing about what lies between.
    pub(super) fn check(&mut self, from: Sequence, to: Sequence) {
        if from <= self.next_unchecked() {
            self.checked = self.checked.max(to);
        }
    }

    fn next_unchecked(&self) -> Sequence {
        let (next, horizon) = (self.checked.next(), self.horizon());
        if next == FIRST || next > horizon {
            return next;
        }
        let unvouched = self.unvouched.range(next..).next().map(|(sequence, _)| *sequence);
        unvouched.unwrap_or(horizon.next()).min(horizon.next())
    }

    /// The last place before the window.
    fn horizon(&self) -> Sequence {
        Sequence(self.head.max(self.last()).0.saturating_sub(self.window))
    }

    fn is_unvouched(&self, sequence: Sequence) -> bool {
        self.has_others && sequence > self.vouched
    }

    fn hear_writer(&mut self, print: &Print, is_own: bool, forgotten: &mut Vec<Sequence>) {
        let Some((writer, seen)) = print.seen else { return };
        if is_own {
            self.own_writer = Some(writer);
        } else if self.own_writer.is_some_and(|own| own != writer) {
            self.has_others = true;
            self.vouched = self.vouched.max(seen);
            while let Some(entry) = self.unvouched.first_entry().filter(|entry| *entry.key() <= self.vouched) {
                forgotten.push(*entry.key());
                entry.remove();
            }
        }
    }

    /// Drops what has left the window, and of the rest what is too much.
    fn evict(&mut self, forgotten: &mut Vec<Sequence>) {
        // What is remembered stays until there is something newer to remember: the head alone evicts nothing.
        let horizon = Sequence(self.last().0.saturating_sub(self.window));
        while let Some(entry) = self.recent.first_entry().filter(|entry| *entry.key() <= horizon) {
            let (sequence, place) = entry.remove_entry();
            if place.is_own && self.is_unvouched(sequence) {
                self.unvouched.insert(sequence, place.digest);
            } else {
                forgotten.push(sequence);
            }
        }
        while self.unvouched.len() as u64 > self.window {
            forgotten.extend(self.unvouched.pop_first().map(|(sequence, _)| sequence));
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
