//! What the meter learns from an answer while it passes: a tap per kind of answer, a reader per dialect.
//!
//! Bytes are never written anew. Whole events leave as soon as they are whole; of an event that is still coming the first part is held
//! (at most [`EVENT_BYTES_MAX`]), because half an event is of no use to any client, and because then a stream that breaks off in the
//! middle of one can still end with a well-formed error event, and the one chunk that is hidden is hidden whole.

use bytes::{Buf, Bytes};
use schemas::upstream::Dialect;
use schemas::usage::TokenParts;

use crate::sse::{self, Boundary};

mod anthropic;
mod json_scan;
mod openai;

/// Of a longer event the meter learns nothing; its bytes flow.
pub(crate) const EVENT_BYTES_MAX: usize = 256 << 10;
/// Of a longer answer that is no stream the meter learns nothing.
pub(crate) const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What an answer has told so far.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) model: Option<String>,
    pub(crate) tokens: TokenParts,
    /// The figures are the provider's last word.
    pub(crate) is_final: bool,
    /// The stream said that nothing more comes.
    pub(crate) has_ended: bool,
    /// The stream said why generation ended; only the end itself, or usage, is to come.
    pub(crate) has_finished: bool,
    /// An error stood in the stream.
    pub(crate) has_failed: bool,
    /// Bytes of generated text seen, for an estimate.
    pub(crate) text_bytes: u64,
    /// Anthropic's figures as they were last told.
    told: anthropic::Usage,
}

/// Reads an answer as it passes.
pub(crate) enum Tap {
    /// An answer that is not metered by its content: an error, or an encoding we did not ask for.
    Blind(Reading),
    Whole(WholeTap),
    Events(Box<EventTap>),
}

impl Tap {
    pub(crate) fn push(&mut self, chunk: Bytes) -> Bytes {
        match self {
            Self::Blind(reading) => {
                reading.text_bytes += chunk.len() as u64;
                chunk
            }
            Self::Whole(tap) => tap.push(chunk),
            Self::Events(tap) => tap.push(chunk),
        }
    }

    /// The upstream has sent everything. Gives what was held back and is still to be sent.
    pub(crate) fn finish(&mut self) -> Bytes {
        match self {
            Self::Blind(_) => Bytes::new(),
            Self::Whole(tap) => {
                tap.finish();
                Bytes::new()
            }
            Self::Events(tap) => tap.finish(),
        }
    }

    pub(crate) fn reading(&mut self) -> &mut Reading {
        match self {
            Self::Blind(reading) => reading,
            Self::Whole(tap) => &mut tap.reading,
            Self::Events(tap) => &mut tap.reading,
        }
    }
}

/// The tap of an answer that is one JSON text. Keeps references to the chunks and parses them once, at the end.
pub(crate) struct WholeTap {
    dialect: Dialect,
    chunks: Vec<Bytes>,
    bytes: usize,
    reading: Reading,
}

impl WholeTap {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, chunks: Vec::new(), bytes: 0, reading: Reading::default() }
    }

    fn push(&mut self, chunk: Bytes) -> Bytes {
        self.bytes += chunk.len();
        if self.bytes <= ANSWER_BYTES_MAX {
            self.chunks.push(chunk.clone());
        } else {
            self.chunks.clear();
            self.reading.text_bytes = self.bytes as u64;
        }
        chunk
    }

    fn finish(&mut self) {
        let joined;
        let text: &[u8] = match self.chunks.as_slice() {
            [] => return,
            [only] => only,
            several => {
                joined = several.concat();
                &joined
            }
        };
        match self.dialect {
            Dialect::Openai => openai::read_answer(&mut self.reading, text),
            Dialect::Anthropic => anthropic::read_answer(&mut self.reading, text),
        }
        self.chunks.clear();
    }
}

/// The tap of a stream of events.
pub(crate) struct EventTap {
    dialect: Dialect,
    /// Whether the chunk that carries nothing but usage is kept from the client, who did not ask for it.
    hides_usage: bool,
    boundary: Boundary,
    /// The first part of an event whose end has not come.
    held: Vec<u8>,
    /// The event that is coming is too long; its bytes flow.
    is_overlong: bool,
    /// Whether the event before was shown.
    was_shown: bool,
    joined: Vec<u8>,
    reading: Reading,
}

impl EventTap {
    pub(crate) fn new(dialect: Dialect, hides_usage: bool) -> Self {
        Self {
            dialect,
            hides_usage,
            boundary: Boundary::new(),
            held: Vec::new(),
            is_overlong: false,
            was_shown: true,
            joined: Vec::new(),
            reading: Reading::default(),
        }
    }

    /// Takes a chunk and gives what of the stream may go on to the client: the chunk itself, uncopied, up to its last event's end,
    /// unless an event began in an earlier chunk or is hidden.
    fn push(&mut self, mut chunk: Bytes) -> Bytes {
        let mut start = 0;
        let is_between_events = self.held.is_empty() && !self.is_overlong;
        if is_between_events && self.boundary.is_after_cr() && chunk.first() == Some(&b'\n') {
            // The rest of a CRLF, which shares the fate of the event it ended.
            self.boundary.find(&chunk[..1]);
            if self.was_shown {
                start = 1;
            } else {
                chunk.advance(1);
            }
        }
        let mut copied: Option<Vec<u8>> = None;
        while let Some(length) = self.boundary.find(&chunk[start..]) {
            let event = &chunk[start..start + length];
            let mut held = std::mem::take(&mut self.held);
            let is_shown = if std::mem::take(&mut self.is_overlong) {
                true
            } else if held.is_empty() {
                self.read(event)
            } else {
                held.extend_from_slice(event);
                self.read(&held)
            };
            if !held.is_empty() {
                // Only the first event of a chunk can have begun before it.
                copied = Some(if is_shown { held } else { Vec::new() });
            } else if !is_shown {
                copied.get_or_insert_with(|| chunk[..start].to_vec());
            } else if let Some(copied) = &mut copied {
                copied.extend_from_slice(event);
            }
            self.was_shown = is_shown;
            start += length;
        }
        let tail = self.hold(&chunk[start..]);
        match copied {
            None if tail.is_empty() => {
                chunk.truncate(start);
                chunk
            }
            copied => {
                let mut copied = copied.unwrap_or_else(|| chunk[..start].to_vec());
                copied.extend_from_slice(&tail);
                copied.into()
            }
        }
    }

    /// Holds the first part of an event; gives back what cannot be held because it is too long.
    fn hold(&mut self, part: &[u8]) -> Vec<u8> {
        if self.is_overlong {
            return part.to_vec();
        }
        self.held.extend_from_slice(part);
        self.is_overlong = self.held.len() > EVENT_BYTES_MAX;
        if self.is_overlong { std::mem::take(&mut self.held) } else { Vec::new() }
    }

    /// What is held when the upstream has ended is an event without its empty line; some servers end so.
    fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() && self.read(&held) { held.into() } else { Bytes::new() }
    }

    /// Reads one event and says whether the client sees it.
    fn read(&mut self, event: &[u8]) -> bool {
        let Some(data) = sse::data(event, &mut self.joined) else { return true };
        match self.dialect {
            Dialect::Openai => {
                let is_usage_only = openai::read_event(&mut self.reading, data);
                !(is_usage_only && self.hides_usage)
            }
            Dialect::Anthropic => {
                anthropic::read_event(&mut self.reading, data);
                true
            }
        }
    }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
