//! The KV bucket `KEYRELAY_COORDINATION`: `<cluster>.lease.<name>`, `<cluster>.soft.<name>` and `<cluster>.node.<node>`.
//!
//! It is a common bucket that `nats kv` can show, but it is read from its leader, since a KV read may come from a replica that lags.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::{Client, HeaderMap, header};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::own_stream::{CONTENTION_PAUSE, OwnStream, Refusal, unavailable};
use crate::{CoordinationError, SOFT_BYTES_MAX};

const BUCKET: &str = "KEYRELAY_COORDINATION";
const OPERATION: &str = "KV-Operation";
/// Room for the headers beside a value.
const HEADER_BYTES_MAX: usize = 1024;
/// How long the mark of a removed key is kept, in seconds: until a follower of the bucket has seen it.
const MARK_KEPT_SECONDS: &str = "3600";

pub(crate) struct Bucket {
    stream: OwnStream,
}

pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) headers: HeaderMap,
    pub(crate) value: Bytes,
}

impl Bucket {
    pub(crate) fn new(client: &Client, replicas: Option<usize>) -> Self {
        let config = Config {
            name: format!("KV_{BUCKET}"),
            description: Some("Keyrelay: leases, the node registry and soft state".to_owned()),
            subjects: vec![format!("$KV.{BUCKET}.>")],
            max_messages_per_subject: 1,
            max_messages: -1,
            max_bytes: -1,
            max_consumers: -1,
            max_message_size: i32::try_from(SOFT_BYTES_MAX + HEADER_BYTES_MAX).unwrap_or(i32::MAX),
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            allow_message_ttl: true,
            ..Config::default()
        };
        Self { stream: OwnStream::new(client, config, replicas) }
    }

    pub(crate) async fn prepare(&self) -> Result<(), CoordinationError> {
        self.stream.prepare().await
    }

    /// What lies under a key now.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>, CoordinationError> {
        let Some(message) = self.stream.last(&subject(key)).await? else { return Ok(None) };
        if message.headers.get(OPERATION).is_some() || message.headers.get(header::NATS_MARKER_REASON).is_some() {
            return Ok(None);
        }
        Ok(Some(Entry { revision: message.sequence, headers: message.headers, value: message.payload }))
    }

    /// Puts a value over whatever is there, and gives its revision.
    pub(crate) async fn put(&self, key: &str, headers: HeaderMap, value: Bytes) -> Result<u64, CoordinationError> {
        loop {
            match self.stream.publish(subject(key), headers.clone(), value.clone()).await {
                Ok(ack) => return Ok(ack.sequence),
                Err(Refusal::Expectation | Refusal::Contention) => tokio::time::sleep(CONTENTION_PAUSE).await,
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
    }

    /// Puts a value in the place of a revision, 0 for a key that is not there. None where another revision is there, or may be soon.
    pub(crate) async fn swap(&self, key: &str, value: Bytes, revision: u64) -> Result<Option<u64>, CoordinationError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        match self.stream.publish(subject(key), headers, value).await {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(Refusal::Expectation | Refusal::Contention) => Ok(None),
            Err(Refusal::Failed(error)) => Err(error),
        }
    }

    pub(crate) async fn remove(&self, key: &str) -> Result<(), CoordinationError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "PURGE");
        headers.insert(header::NATS_ROLLUP, "sub");
        headers.insert(header::NATS_MESSAGE_TTL, MARK_KEPT_SECONDS);
        self.put(key, headers, Bytes::new()).await.map(|_| ())
    }

    /// The keys that begin with `prefix` and a dot, removed ones included for a while.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<String>, CoordinationError> {
        let stream = self.stream.stream().await?;
        let subjects = stream.info_with_subjects(subject(&format!("{prefix}.>"))).await.map_err(|error| unavailable(&error))?;
        let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(|error| unavailable(&error))?;
        let begin = subject("").len();
        Ok(subjects.into_iter().map(|(subject, _)| subject[begin..].to_owned()).collect())
    }
}

/// A header that lets the server remove the message after a time, which it knows in whole seconds.
pub(crate) fn ttl_header(headers: &mut HeaderMap, ttl: Duration) {
    headers.insert(header::NATS_MESSAGE_TTL, ttl.as_millis().div_ceil(1000).max(1).to_string());
}

fn subject(key: &str) -> String {
    format!("$KV.{BUCKET}.{key}")
}
