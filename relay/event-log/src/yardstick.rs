//! What the bare NATS client does on a stream like the log's: what the bench holds the log against. Nothing of the node uses it.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;

use crate::nats::Nats;
use crate::nats::api::code;

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
    /// servers and the client make of that, without the log. The message before it on the subject may be in the way although it is acknowledged;
    /// then it is sent again at once. Gives the sequence, the time that took, and how often it was sent again.
    pub async fn publish_expecting(
        &self,
        token: &str,
        id: &str,
        last: u64,
        payload: Bytes,
    ) -> Result<(u64, Duration, u32), async_nats::Error> {
        let begin = Instant::now();
        let message = PublishMessage::build().payload(payload).message_id(id);
        let message = message.expected_stream(&self.name).expected_last_subject_sequence(last);
        let mut again = 0;
        loop {
            match self.context.send_publish(format!("{}{token}", self.subject), message.clone()).await?.await {
                Ok(stored) => return Ok((stored.sequence, begin.elapsed(), again)),
                Err(error) if is_in_flight(&error) => again += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Publishes one message and waits for its acknowledgement. Gives the time that took.
    pub async fn publish(&self, token: &str, payload: Bytes) -> Result<Duration, async_nats::Error> {
        let begin = Instant::now();
        self.context.publish(format!("{}{token}", self.subject), payload).await?.await?;
        Ok(begin.elapsed())
    }
}

/// Whether the server was still deciding on another message of the subject.
fn is_in_flight(error: &PublishError) -> bool {
    let answer = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    answer.is_some_and(|error| error.error_code().0 == code::WRONG_LAST_SEQUENCE_IN_FLIGHT)
}
