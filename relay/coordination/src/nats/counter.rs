//! Counters: one subject each in a stream whose leader adds (ADR-49), so that additions never conflict and each is answered with its total.
//!
//! Ids of additions are remembered by the server in memory, and after a restart read from the messages that it still has. A counter therefore
//! keeps its last [`MESSAGES_KEPT`], which bounds both: at more than about 7 additions a second to one counter, an addition that is sent again
//! after all servers restarted may count twice.

use async_nats::jetstream::stream::Config;
use async_nats::{Client, HeaderMap, header};
use bytes::Bytes;
use schemas::ClusterId;
use serde::Deserialize;

use super::own_stream::{CONTENTION_PAUSE, OwnStream, Refusal};
use crate::{COUNTER_KEPT, CoordinationError, IDS_KEPT};

const STREAM: &str = "KEYRELAY_COUNTERS";
const INCREMENT: &str = "Nats-Incr";
/// How many messages of one counter are kept: some 150 bytes each.
const MESSAGES_KEPT: i64 = 1_024;

pub(crate) struct Counters {
    cluster: ClusterId,
    stream: OwnStream,
}

/// What the server writes into the message of an addition.
#[derive(Deserialize)]
struct Total {
    val: String,
}

impl Counters {
    pub(crate) fn new(client: &Client, cluster: ClusterId, replicas: Option<usize>) -> Self {
        let config = Config {
            name: STREAM.to_owned(),
            description: Some("Keyrelay: counters".to_owned()),
            subjects: vec!["kr.q.>".to_owned()],
            max_messages_per_subject: MESSAGES_KEPT,
            max_messages: -1,
            max_bytes: -1,
            max_consumers: -1,
            max_age: COUNTER_KEPT,
            duplicate_window: IDS_KEPT,
            allow_message_counter: true,
            ..Config::default()
        };
        Self { cluster, stream: OwnStream::new(client, config, replicas) }
    }

    pub(crate) async fn prepare(&self) -> Result<(), CoordinationError> {
        self.stream.prepare().await
    }

    pub(crate) async fn add(&self, counter: &str, amount: u64, id: u128) -> Result<u64, CoordinationError> {
        let subject = self.subject(counter);
        let mut headers = HeaderMap::new();
        headers.insert(INCREMENT, format!("+{amount}"));
        headers.insert(header::NATS_MESSAGE_ID, format!("{subject}/{id:032x}"));
        let ack = loop {
            match self.stream.publish(subject.clone(), headers.clone(), Bytes::new()).await {
                Ok(ack) => break ack,
                // The same addition is under way: soon it is a duplicate.
                Err(Refusal::Contention | Refusal::Expectation) => tokio::time::sleep(CONTENTION_PAUSE).await,
                Err(Refusal::Failed(error)) => return Err(error),
            }
        };
        match ack.value {
            Some(value) if !ack.duplicate => parse(counter, &value),
            // The answer to a duplicate has the sequence of the first, and no total.
            _ => match self.stream.at(ack.sequence).await? {
                Some(message) => read(counter, &message.payload),
                None => self.total(counter).await,
            },
        }
    }

    pub(crate) async fn total(&self, counter: &str) -> Result<u64, CoordinationError> {
        let last = self.stream.last(&self.subject(counter)).await?;
        last.map_or(Ok(0), |message| read(counter, &message.payload))
    }

    fn subject(&self, counter: &str) -> String {
        format!("kr.q.{}.{counter}", self.cluster)
    }
}

fn read(counter: &str, payload: &[u8]) -> Result<u64, CoordinationError> {
    let total: Total = serde_json::from_slice(payload).map_err(|_| CoordinationError::Foreign { name: counter.to_owned() })?;
    parse(counter, &total.val)
}

/// The server counts without a bound; beyond 64 bits, or below zero, is not of our making.
fn parse(counter: &str, value: &str) -> Result<u64, CoordinationError> {
    value.parse().map_err(|_| CoordinationError::Foreign { name: counter.to_owned() })
}
