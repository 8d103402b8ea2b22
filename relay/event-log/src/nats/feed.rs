//! Reading a stream of batches, in order and without gaps, through whatever happens to servers and connections.
//!
//! A feed pulls from a consumer that it makes, and trusts nothing of it: sequences must follow on each other, a silence is compared with the
//! leader's head, and a consumer in any doubt is given up for a new one that begins at the next sequence. What stays missing from a stream
//! that keeps everything is asked of the leader, message by message, before it is taken for gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures_util::{FutureExt as _, StreamExt as _};
use schemas::Sequence;
use tokio::time::{Instant, sleep, timeout_at};

use super::remote::{Away, Found, Remote};
use super::troubles::with_chance;
use crate::contract::{RUN_BYTES_MAX, RUN_RECORDS_MAX, ReadError};
use crate::storage::Damage;

/// Messages of one pull: what may lie in memory before it is asked for, some 64 MiB of the largest.
const PULL_MESSAGES: usize = 64;
/// How long a pull waits for messages. After it, a silence is looked into.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// What the end of a pull may be late, before the consumer is taken for dead. The library waits 5 s itself.
const PULL_GRACE: Duration = Duration::from_secs(2);
/// The pause after a failure, doubled with each further one, up to the most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long the head must be seen behind what was read, until the stream has lost its end. A leader that was cut off
/// says old things for 10 s, until it knows.
const LOSS_WAIT: Duration = Duration::from_secs(15);
/// How often the leader must say that a message is missing.
const MISSING_ANSWERS: u32 = 3;

/// What stands at a place of a stream.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) sequence: Sequence,
    /// None where what stood here is gone.
    pub(crate) message: Option<Found>,
}

/// What a place without a message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gaps {
    /// The stream keeps everything: a loss, once the leader has said so, which stands in the place.
    AreLosses,
    /// The stream drops its oldest: it is passed over.
    ArePassed,
}

/// A reader of the stream at one place.
pub(crate) struct Feed {
    remote: Arc<Remote>,
    gaps: Gaps,
    next: u64,
    /// Whether something was read here, so that the stream must reach that far.
    has_read: bool,
    /// What was pulled and is not handed out yet.
    ready: VecDeque<Place>,
    consumer: Option<Consumer<pull::Config>>,
    pull: Option<Pull>,
    failures: u32,
    /// Since when the head has been behind what was read.
    behind_since: Option<Instant>,
    /// The answers of the leader that the message at `next` is missing.
    missing: u32,
}

/// One request for messages.
struct Pull {
    messages: pull::Batch,
    until: Instant,
    is_empty: bool,
    /// Whether it is the first of its consumer.
    is_first: bool,
}

/// Why a step gave nothing.
enum Halt {
    /// Begin anew with another consumer, after a pause.
    Away(Away),
    /// There is nothing to go on with.
    Lost(Damage),
}

impl From<Away> for Halt {
    fn from(away: Away) -> Self {
        Self::Away(away)
    }
}

impl Feed {
    pub(crate) fn new(remote: Arc<Remote>, from: Sequence, gaps: Gaps) -> Self {
        Self {
            remote,
            gaps,
            next: from.0.max(1),
            has_read: false,
            ready: VecDeque::new(),
            consumer: None,
            pull: None,
            failures: 0,
            behind_since: None,
            missing: 0,
        }
    }

    /// The next run, as soon as there is one. It does not fail for what may pass. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Vec<Place>, ReadError> {
        while self.ready.is_empty() {
            match self.step().await {
                Ok(()) => self.failures = 0,
                Err(Halt::Lost(damage)) => return Err(ReadError::Storage(damage.into())),
                Err(Halt::Away(away)) => {
                    let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
                    let (stream, next, failures) = (self.remote.name(), self.next, self.failures);
                    tracing::debug!(reason = away.0, stream, next, failures, "reading the stream begins anew");
                    self.failures += 1;
                    self.give_up_consumer();
                    sleep(with_chance(pause)).await;
                }
            }
        }
        let run = Vec::from(std::mem::take(&mut self.ready));
        if let Some(last) = run.last() {
            self.remote.hear(last.sequence);
        }
        Ok(run)
    }

    /// Takes what is there, waiting for it no longer than a pull does.
    async fn step(&mut self) -> Result<(), Halt> {
        if self.pull.is_none() {
            let is_first = self.consumer.is_none();
            let consumer = match self.consumer.take() {
                Some(consumer) => consumer,
                None => {
                    self.check_head().await?;
                    self.remote.consume(self.next).await?
                }
            };
            let messages = consumer.batch().max_messages(PULL_MESSAGES).expires(PULL_WAIT).messages().await;
            self.consumer = Some(consumer);
            let messages = messages.map_err(|error| Away(error.to_string()))?;
            self.pull = Some(Pull { messages, until: Instant::now() + PULL_WAIT + PULL_GRACE, is_empty: true, is_first });
        }
        let Some(pull) = &mut self.pull else { return Ok(()) };
        let until = pull.until;
        let received = timeout_at(until, pull.messages.next()).await;
        match received.map_err(|_| Away("the consumer is silent".to_owned()))? {
            Some(message) => {
                let message = message.map_err(|error| Away(error.to_string()))?;
                let is_opening = std::mem::replace(&mut pull.is_empty, false) && pull.is_first;
                self.take(message, is_opening).await
            }
            None => {
                let was_empty = self.pull.take().is_some_and(|pull| pull.is_empty);
                if was_empty && self.check_head().await? >= self.next {
                    return Err(Away("the consumer gives nothing of what is there".to_owned()).into());
                }
                Ok(())
            }
        }
    }

    /// Takes a message and those that have come with it.
    async fn take(&mut self, message: Message, is_opening: bool) -> Result<(), Halt> {
        let mut bytes = 0;
        let mut next = Some(message);
        while let Some(message) = next.take() {
            let sequence = message.info().map_err(|error| Away(error.to_string()))?.stream_sequence;
            if sequence > self.next {
                if !self.ready.is_empty() || !is_opening {
                    // Something was lost on the way, or is gone: a new consumer tells which.
                    self.give_up_consumer();
                    return Ok(());
                }
                self.fill(sequence).await?;
            }
            if sequence == self.next {
                bytes += message.payload.len();
                let (subject, bytes) = (message.subject.to_string(), message.payload.clone());
                self.put(sequence, Some(Found { sequence, subject, bytes }));
            }
            let has_room = bytes < RUN_BYTES_MAX && self.ready.len() < RUN_RECORDS_MAX;
            if let Some(pull) = self.pull.as_mut().filter(|_| has_room)
                && let Some(Some(Ok(message))) = pull.messages.next().now_or_never()
            {
                next = Some(message);
            }
        }
        Ok(())
    }

    /// Gets what a consumer left out before a sequence, from the leader.
    async fn fill(&mut self, before: u64) -> Result<(), Halt> {
        if self.gaps == Gaps::ArePassed {
            self.next = before;
            return Ok(());
        }
        while self.next < before && self.ready.len() < RUN_RECORDS_MAX {
            match self.remote.at(self.next).await? {
                Some(found) => self.put(found.sequence, Some(found)),
                None if self.missing + 1 < MISSING_ANSWERS => {
                    self.missing += 1;
                    return Err(Away(format!("sequence {} is missing", self.next)).into());
                }
                // Once it is believed of one it is believed of those after it, up to the next that is there.
                None => {
                    tracing::error!(stream = self.remote.name(), sequence = self.next, "a message of the stream is gone");
                    let missing = std::mem::take(&mut self.missing);
                    self.put(self.next, None);
                    self.missing = missing;
                }
            }
        }
        if self.next < before {
            self.give_up_consumer();
        }
        Ok(())
    }

    fn put(&mut self, sequence: u64, message: Option<Found>) {
        self.next = sequence + 1;
        self.has_read = true;
        self.missing = 0;
        self.ready.push_back(Place { sequence: Sequence(sequence), message });
    }

    /// The head of the stream, which must not lie behind what was read.
    async fn check_head(&mut self) -> Result<u64, Halt> {
        let head = self.remote.head().await?.0;
        if !self.has_read || head + 1 >= self.next {
            self.behind_since = None;
            return Ok(head);
        }
        let since = *self.behind_since.get_or_insert_with(Instant::now);
        if since.elapsed() < LOSS_WAIT {
            return Err(Away(format!("the stream ends at {head}, before what was read")).into());
        }
        Err(Halt::Lost(Damage::Lost { remembered: Sequence(self.next - 1), found: Sequence(head) }))
    }

    fn give_up_consumer(&mut self) {
        self.consumer = None;
        self.pull = None;
    }
}
