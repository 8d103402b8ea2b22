//! Every entry of the bucket in order, and then every change, without gaps: who is told of one begins anew.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::{StatusCode, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::unconstrained;

use super::bucket::{Away, Bucket, HEARTBEAT};
use super::entry_key::EntryKey;
use super::state::State;

/// Without a word for this long the server, or who served this feed there, is taken for gone.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(4);

/// How many are taken at once.
const BATCH_MAX: usize = 1024;

const _: () = assert!(HEARTBEAT.as_millis() * 3 < SILENCE_MAX.as_millis());

pub(crate) struct Feed {
    bucket: Bucket,
    messages: Subscriber,
    /// What the server has sent, as it counts.
    sent: u64,
    heard_at: Instant,
}

/// What came in since it was last asked.
pub(crate) struct Batch {
    pub(crate) states: Vec<(EntryKey, State)>,
    /// The last revision of the bucket that was delivered, if any was.
    pub(crate) revision: Option<u64>,
    last: Option<jetstream::Message>,
}

impl Feed {
    pub(crate) async fn start(bucket: &Bucket) -> Result<Self, Away> {
        Ok(Self { bucket: bucket.clone(), messages: bucket.deliver().await?, sent: 0, heard_at: Instant::now() })
    }

    /// Waits for a word of the server and takes what has come in. Nothing is lost if this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Batch, Away> {
        let silence = (self.heard_at + SILENCE_MAX).into();
        let first = tokio::time::timeout_at(silence, self.messages.next()).await;
        let first = first.map_err(|_| Away("the server has fallen silent".to_owned()))?;
        let mut batch = Batch { states: Vec::new(), revision: None, last: None };
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            self.take(message.ok_or_else(|| Away("the connection has ended".to_owned()))?, &mut batch)?;
            taken += 1;
            // Nothing may be taken from the subscription that this batch has no room for: it would be lost.
            if taken == BATCH_MAX {
                break;
            }
            // Takes no turn from other tasks, and would otherwise end a batch when its own turn is over.
            next = unconstrained(self.messages.next()).now_or_never();
        }
        self.heard_at = Instant::now();
        Ok(batch)
    }

    fn take(&mut self, message: async_nats::Message, batch: &mut Batch) -> Result<(), Away> {
        let gap = || Away("the server has sent more than came in".to_owned());
        match message.status {
            None => {}
            Some(StatusCode::IDLE_HEARTBEAT) => {
                let last = message.headers.as_ref().and_then(|headers| headers.get("Nats-Last-Consumer"));
                let sent = last.and_then(|last| last.as_str().parse::<u64>().ok());
                return if sent.is_some_and(|sent| sent != self.sent) { Err(gap()) } else { Ok(()) };
            }
            Some(status) => return Err(Away(format!("the server has ended the delivery with status {status}"))),
        }
        let message = self.bucket.delivered(message);
        let info = message.info().map_err(|error| Away(error.to_string()))?;
        if info.consumer_sequence != self.sent + 1 {
            return Err(gap());
        }
        self.sent += 1;
        let (revision, time) = (info.stream_sequence, info.published.unix_timestamp_nanos());
        batch.revision = Some(revision);
        match EntryKey::of_subject(&message.subject) {
            Some(key) => batch.states.push((key, State::of_message(revision, time, message.headers.as_ref(), message.payload.clone()))),
            None => tracing::warn!(subject = &*message.subject, "the bucket of the key store holds something that is no entry"),
        }
        batch.last = Some(message);
        Ok(())
    }

    /// Says that a batch is in the mirror, so that more is sent.
    pub(crate) async fn acknowledge(&self, batch: &mut Batch) -> Result<(), Away> {
        match batch.last.take() {
            Some(message) => message.ack().await.map_err(|error| Away(error.to_string())),
            None => Ok(()),
        }
    }
}
