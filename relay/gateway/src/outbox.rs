//! What requests must make durable, on its way to the control plane: a bounded queue of commands that no request ever waits for.
//!
//! One command of a topic and stream is on its way at a time; the same asked again meanwhile is coalesced with it. A full outbox drops what comes,
//! which is counted: whoever offers must be able to offer again at a later request.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use schemas::key::KeyCommand;
use schemas::{Command, Stream};
use tokio::sync::Notify;

use crate::activation::Activations;
use crate::metrics::Metrics;

/// Commands on their way. While the log is away, they wait here.
const COMMANDS_MAX: usize = 65_536;

/// A command that a request gave rise to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    pub stream: Stream,
    pub command: Command,
}

/// What is coalesced: the stream, and what about it.
type Slot = (Stream, Topic);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Topic {
    Activation,
    /// Of the secret of this number.
    Upgrade(u32),
    Other,
}

/// Where requests put commands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outbox(Arc<Shared>);

struct Shared {
    /// Written by requests and by the reader.
    queue: Mutex<Queue>,
    filled: Notify,
    activations: Arc<Activations>,
    metrics: Metrics,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Outbound>,
    /// Waiting, or taken and not done.
    slots: HashSet<Slot>,
}

/// The end from which the composition root takes commands, to execute them.
pub struct OutboxReader(Outbox);

impl Outbound {
    fn slot(&self) -> Slot {
        let topic = match &self.command {
            Command::Key(KeyCommand::Activate { .. }) => Topic::Activation,
            Command::Key(KeyCommand::UpgradeSecret { number, .. }) => Topic::Upgrade(*number),
            _ => Topic::Other,
        };
        (self.stream.clone(), topic)
    }
}

impl Outbox {
    pub(crate) fn new(activations: Arc<Activations>, metrics: Metrics) -> (Self, OutboxReader) {
        let shared = Shared { queue: Mutex::default(), filled: Notify::new(), activations, metrics };
        let outbox = Self(Arc::new(shared));
        (outbox.clone(), OutboxReader(outbox))
    }

    /// Puts a command on its way, unless one of its kind is; whether it did. Never waits.
    pub(crate) fn offer(&self, outbound: Outbound) -> bool {
        let mut queue = self.0.queue.lock();
        let slot = outbound.slot();
        if queue.slots.contains(&slot) {
            return false;
        }
        if queue.slots.len() >= COMMANDS_MAX {
            self.0.metrics.outbox_dropped().inc();
            return false;
        }
        queue.slots.insert(slot);
        queue.waiting.push_back(outbound);
        drop(queue);
        self.0.filled.notify_one();
        true
    }
}

impl OutboxReader {
    /// The next command, which stays on its way until it is done. Cancel-safe.
    pub async fn next(&self) -> Outbound {
        loop {
            let filled = self.0.0.filled.notified();
            if let Some(outbound) = self.0.0.queue.lock().waiting.pop_front() {
                return outbound;
            }
            filled.await;
        }
    }

    /// The command is in the log and applied here, or it was refused for good.
    pub fn done(&self, outbound: &Outbound) {
        if let Command::Key(KeyCommand::Activate { since, .. }) = &outbound.command {
            self.0.0.activations.forget(&outbound.stream, *since);
        }
        self.0.0.queue.lock().slots.remove(&outbound.slot());
    }

    /// The command could not be executed now; it goes to the end of the queue.
    pub fn again(&self, outbound: Outbound) {
        self.0.0.queue.lock().waiting.push_back(outbound);
        self.0.0.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use schemas::{KeyId, TenantId, Timestamp};

    use super::*;

    fn outbound(id: u8, micros: u64) -> Outbound {
        let stream = Stream::key(TenantId::default_tenant(), KeyId::from_bytes([id; 16]));
        let time = Timestamp::from_micros(micros);
        Outbound { stream, command: Command::Key(KeyCommand::Activate { first_used_at: time, since: time }) }
    }

    fn outbox() -> (Outbox, OutboxReader, Metrics) {
        let metrics = Metrics::default();
        let (outbox, reader) = Outbox::new(Arc::default(), metrics.clone());
        (outbox, reader, metrics)
    }

    #[tokio::test]
    async fn one_command_of_a_kind_is_on_its_way_at_a_time() {
        let (outbox, reader, _) = outbox();
        assert_eq!((1..=9).filter(|micros| outbox.offer(outbound(1, *micros))).count(), 1);
        outbox.offer(outbound(2, 1));
        let taken = reader.next().await;
        assert_eq!(taken, outbound(1, 1));
        // Taken is not done.
        outbox.offer(outbound(1, 10));
        assert_eq!(reader.next().await, outbound(2, 1));
        reader.done(&taken);
        outbox.offer(outbound(1, 11));
        assert_eq!(reader.next().await, outbound(1, 11));
        assert!(reader.0.0.queue.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_command_that_could_not_be_executed_comes_again() {
        let (outbox, reader, _) = outbox();
        outbox.offer(outbound(1, 1));
        outbox.offer(outbound(2, 1));
        reader.again(reader.next().await);
        outbox.offer(outbound(1, 2));
        assert_eq!((reader.next().await, reader.next().await), (outbound(2, 1), outbound(1, 1)));
    }

    #[test]
    fn a_full_outbox_drops_what_comes_and_counts_it() {
        let (outbox, _reader, metrics) = outbox();
        for n in 0..=COMMANDS_MAX as u128 {
            let stream = Stream::key(TenantId::default_tenant(), KeyId::from_bytes(n.to_be_bytes()));
            outbox.offer(Outbound { stream, ..outbound(0, 1) });
        }
        assert_eq!((outbox.0.queue.lock().waiting.len(), metrics.outbox_dropped().get()), (COMMANDS_MAX, 1));
    }
}
