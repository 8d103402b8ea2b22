//! A history of what clients asked of a cluster and were told, and a checker of it that knows nothing of how the relay works inside.
//!
//! While a test does harm, every control write, read and relay request goes into a [`History`]. Afterwards the whole log is read from every node
//! and from where it is kept, each a [`View`], and [`check()`] says what does not fit together. It shares no code with what it judges: it compares
//! what was answered with what is written down.

mod check;
mod view;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use check::{Finding, Kind, Settled, check};
pub use view::{Record, View};

/// Since the history began.
pub type Moment = Duration;

/// Everything that was asked, in no order.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
    pub requests: Vec<Request>,
    /// By key: when a revocation was answered of which the answer says that every node has applied it.
    pub fences: BTreeMap<String, Moment>,
}

/// One control write, with all of its attempts under one idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// What it is called in findings: its idempotency key.
    pub name: String,
    /// The event that it is meant to make.
    pub event: &'static str,
    /// The key it is about; of a creation whose answer never came it is not known.
    pub key: Option<String>,
    /// The version that it said it expects.
    pub expected: Option<u64>,
    /// When the first attempt was sent.
    pub invoked: Moment,
    pub outcome: Outcome,
}

/// What a client knows of its write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A success was answered: it is in the log, at this sequence, for ever.
    Acknowledged { at: Moment, sequence: u64, version: u64 },
    /// A refusal was answered that no later attempt follows: 409, 412.
    Refused { status: u16 },
    /// It may be in the log.
    Unknown,
}

/// A read of a key with `Keyrelay-Wait-For` the sequence of an acknowledged write on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub node: usize,
    pub key: String,
    /// The version that the write had been answered with.
    pub version: u64,
    /// The version that was shown; none where the node said that it is not there yet.
    pub shown: Option<u64>,
}

/// One relay request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub node: usize,
    pub key: String,
    pub sent: Moment,
    pub answered: Moment,
    /// 0 where no answer came.
    pub status: u16,
    /// `x-keyrelay-reason`, or what the client met.
    pub reason: String,
}

/// Where tasks write the history down.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    history: Mutex<History>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { begin: Instant::now(), history: Mutex::default() }
    }
}

impl Recorder {
    pub fn now(&self) -> Moment {
        self.begin.elapsed()
    }

    pub fn write(&self, write: Write) {
        self.locked().writes.push(write);
    }

    pub fn read(&self, read: Read) {
        self.locked().reads.push(read);
    }

    pub fn request(&self, request: Request) {
        self.locked().requests.push(request);
    }

    pub fn fence(&self, key: &str) {
        let now = self.now();
        self.locked().fences.insert(key.to_owned(), now);
    }

    /// What is written down so far.
    pub fn history(&self) -> History {
        self.locked().clone()
    }

    /// Looks at the history without copying it.
    pub fn look<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|write| matches!(write.outcome, Outcome::Acknowledged { .. })).count()
    }
}
