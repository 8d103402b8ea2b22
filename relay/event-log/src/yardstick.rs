//! What the bare NATS client does on a stream like the log's: what the bench holds the log against. Nothing of the node uses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;

use crate::nats::Nats;

/// A stream of its own under the bare client.
#[derive(Clone)]
pub struct BareStream {
    context: Arc<Context>,
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
        Ok(Self { context: Arc::new(context), subject })
    }

    /// Publishes one message and waits for its acknowledgement. Gives the time that took.
    pub async fn publish(&self, token: &str, payload: Bytes) -> Result<Duration, async_nats::Error> {
        let begin = Instant::now();
        self.context.publish(format!("{}{token}", self.subject), payload).await?.await?;
        Ok(begin.elapsed())
    }
}
