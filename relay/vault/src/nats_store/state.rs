//! What a key of the bucket holds, what a mirror remembers of it, and which of the two came later.
//!
//! Within one history of the bucket, revisions tell. A server that lost its latest writes hands out the same revisions again, so a higher
//! revision in the mirror means one of two things: the bucket went back, or it went back and has been written anew. The time that the
//! server gave the first writing tells these apart. What is put back says of which writing it is the copy ([`Origin`]), so that an old
//! state, put back late, cannot pass for a new one.

use std::cmp::Ordering;

use async_nats::HeaderMap;
use bytes::Bytes;

/// The writing that a state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    /// When the server stored it, in nanoseconds.
    pub(crate) time: u64,
    pub(crate) revision: u64,
}

/// What a key holds in the bucket.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The sequence of the message in the bucket's stream.
    pub(crate) revision: u64,
    pub(crate) origin: Origin,
    /// Whether a node put this back and nobody wrote it anew.
    pub(crate) is_restored: bool,
    /// None for a marker of a deletion.
    pub(crate) content: Option<Bytes>,
    /// The id that its writer gave the message.
    pub(crate) write_id: Option<String>,
}

/// What a mirror remembers beside the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) revision: u64,
    pub(crate) origin: Origin,
    /// False where the mirror knows of a deletion.
    pub(crate) is_live: bool,
}

/// How the bucket's state of a key stands to the mirror's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Newer,
    Same,
    /// The bucket went back behind what this node has seen in it.
    Behind,
}

/// Names the copied writing in what is put back: `<revision>.<time>`.
pub(crate) const ORIGIN_HEADER: &str = "Keyrelay-Origin";
pub(crate) const OPERATION_HEADER: &str = "KV-Operation";
const SERVER_MARKER_HEADER: &str = "Nats-Marker-Reason";
const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";

impl State {
    /// Takes a message of the bucket's stream apart.
    pub(crate) fn of_message(revision: u64, time: i128, headers: Option<&HeaderMap>, payload: Bytes) -> Self {
        let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
        let copied = header(ORIGIN_HEADER).and_then(Origin::parse);
        let origin = Origin { time: u64::try_from(time).unwrap_or_default(), revision };
        let is_marker = header(OPERATION_HEADER).is_some_and(|operation| operation != "PUT") || header(SERVER_MARKER_HEADER).is_some();
        Self {
            revision,
            origin: copied.unwrap_or(origin),
            is_restored: copied.is_some(),
            content: (!is_marker).then_some(payload),
            write_id: header(MESSAGE_ID_HEADER).map(str::to_owned),
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { revision: self.revision, origin: self.origin, is_live: self.content.is_some() }
    }

    pub(crate) fn standing(&self, known: Option<Mark>) -> Standing {
        let Some(known) = known else { return Standing::Newer };
        if self.origin == known.origin && self.content.is_some() == known.is_live {
            return Standing::Same;
        }
        if !self.is_restored && self.revision > known.revision {
            return Standing::Newer;
        }
        match self.origin.cmp(&known.origin) {
            Ordering::Greater => Standing::Newer,
            Ordering::Equal => Standing::Same,
            Ordering::Less => Standing::Behind,
        }
    }
}

impl Origin {
    pub(crate) fn header(self) -> String {
        format!("{}.{}", self.revision, self.time)
    }

    fn parse(text: &str) -> Option<Self> {
        let (revision, time) = text.split_once('.')?;
        Some(Self { time: time.parse().ok()?, revision: revision.parse().ok()? })
    }
}

impl Mark {
    /// Of an entry that no bucket was ever asked about, as in a store that was a single node's.
    pub(crate) const UNSEEN: Self = Self { revision: 0, origin: Origin { time: 0, revision: 0 }, is_live: true };

    const LENGTH: usize = 25;

    pub(crate) fn encode(self) -> [u8; Self::LENGTH] {
        let mut out = [0; Self::LENGTH];
        out[0] = self.is_live.into();
        for (place, number) in out[1..].chunks_exact_mut(8).zip([self.revision, self.origin.revision, self.origin.time]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, numbers) = bytes.split_first()?;
        let (numbers, rest) = numbers.as_chunks::<8>();
        let [revision, origin_revision, time] = numbers else { return None };
        let origin = Origin { time: u64::from_be_bytes(*time), revision: u64::from_be_bytes(*origin_revision) };
        (rest.is_empty() && *kind <= 1).then(|| Self { revision: u64::from_be_bytes(*revision), origin, is_live: *kind == 1 })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use super::*;

    fn state(revision: u64, time: u64) -> State {
        State { revision, origin: Origin { time, revision }, is_restored: false, content: Some(Bytes::new()), write_id: None }
    }

    fn restored(revision: u64, of: State) -> State {
        State { revision, is_restored: true, ..of }
    }

    fn deleted(state: State) -> State {
        State { content: None, ..state }
    }

    #[test]
    fn within_one_history_revisions_tell_even_if_a_clock_went_back() {
        let known = state(10, 1000).mark();
        assert_eq!(state(11, 900).standing(Some(known)), Standing::Newer);
        assert_eq!(state(10, 1000).standing(Some(known)), Standing::Same);
        assert_eq!(state(9, 900).standing(Some(known)), Standing::Behind);
        assert_eq!(state(1, 1).standing(None), Standing::Newer);
        assert_eq!(state(1, 1).standing(Some(Mark::UNSEEN)), Standing::Newer);
    }

    #[test]
    fn what_was_written_after_a_roll_back_is_newer_and_what_was_there_before_is_not() {
        let known = state(105, 5000).mark();
        assert_eq!(state(90, 4000).standing(Some(known)), Standing::Behind);
        assert_eq!(state(101, 6000).standing(Some(known)), Standing::Newer);
        assert_eq!(state(105, 6000).standing(Some(known)), Standing::Newer);
    }

    #[test]
    fn what_is_put_back_counts_as_what_it_is_a_copy_of() {
        let (written, erased) = (state(90, 4000), deleted(state(105, 5000)));
        let late = restored(120, written.clone());
        assert_eq!(late.standing(Some(erased.mark())), Standing::Behind);
        assert_eq!(late.standing(Some(written.mark())), Standing::Same);
        assert_eq!(restored(121, erased.clone()).standing(Some(late.mark())), Standing::Newer);
        assert_eq!(restored(121, erased.clone()).standing(Some(erased.mark())), Standing::Same);
        // Written anew at an address that was erased before.
        assert_eq!(restored(122, state(110, 7000)).standing(Some(erased.mark())), Standing::Newer);
    }

    #[test]
    fn a_message_is_a_value_or_a_marker() {
        let mut headers = HeaderMap::new();
        assert!(State::of_message(1, 1, None, Bytes::new()).content.is_some());
        headers.insert(OPERATION_HEADER, "PURGE");
        headers.insert(ORIGIN_HEADER, "90.4000");
        let marker = State::of_message(7, 9000, Some(&headers), Bytes::new());
        assert!(marker.content.is_none() && marker.is_restored);
        assert_eq!(marker.mark(), Mark { revision: 7, origin: Origin { time: 4000, revision: 90 }, is_live: false });
    }

    #[test]
    fn a_mark_is_kept_as_it_is() {
        for is_live in [false, true] {
            let mark = Mark { revision: u64::MAX - 1, origin: Origin { time: 7, revision: 1 << 40 }, is_live };
            assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        }
        assert_eq!(Mark::decode(&[1; 24]), None);
        assert_eq!(Mark::decode(&[2; 25]), None);
    }
}
