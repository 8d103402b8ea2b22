//! What the bare NATS client does on a stream like the log's: what the bench holds the log against. Nothing of the node uses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;

use crate::nats::Nats;

/// A stream of its own under the bare client.
#[derive(Clone)]
pub struct BareStream {
    context: Arc<Context>,
    name: String,
    subject: String,
}

impl BareStream {
    /// Makes the stream, kept by so many servers.
    pub async fn create(nats: &Nats, name: &str, replicas: usize) -> Result<Self, async_nats::Error> {
        let context = jetstream::new(nats.client());
        let subject = format!("{}.", name.to_lowercase());
        let config = Config {
            name: name.to_owned(),
            subjects: vec![format!("{subject}>")],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            num_replicas: replicas,
            deny_delete: true,
            deny_purge: true,
            ..Config::default()
        };
        context.create_stream(config).await?;
        Ok(Self { context: Arc::new(context), name: name.to_owned(), subject })
    }

    /// Publishes one message as an append of the log is published, with an id and what it expects, and waits for its acknowledgement: what the
    /// servers and the client make of that, without the log. Gives the sequence and the time that took.
    pub async fn publish_expecting(&self, token: &str, id: &str, last: u64, payload: Bytes) -> Result<(u64, Duration), async_nats::Error> {
        let begin = Instant::now();
        let message = PublishMessage::build().payload(payload).message_id(id);
        let message = message.expected_stream(&self.name).expected_last_subject_sequence(last);
        let stored = self.context.send_publish(format!("{}{token}", self.subject), message).await?.await?;
        Ok((stored.sequence, begin.elapsed()))
    }

    /// Publishes one message and waits for its acknowledgement. Gives the time that took.
    pub async fn publish(&self, token: &str, payload: Bytes) -> Result<Duration, async_nats::Error> {
        let begin = Instant::now();
        self.context.publish(format!("{}{token}", self.subject), payload).await?.await?;
        Ok(begin.elapsed())
    }
}
