//! The stream on NATS: its definition, and the few requests that are made of it. Every request has a deadline, and none waits for a connection.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, PersistenceMode, RawMessage, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ContextBuilder, ErrorCode};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind, header};
use bytes::Bytes;
use schemas::usage::UsageBatch;
use schemas::{Digest, Sequence};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::watch;

use crate::nats::replicas_of;
use crate::usage::MESSAGE_BYTES_MAX;

/// The stream of all usage batches of a cluster.
pub const USAGE_STREAM: &str = "KEYRELAY_USAGE";
const SUBJECTS: &str = "kr.u.>";
/// A server without a leader is silent for 4 to 8 seconds; who asks again after this long finds the next one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a consumer that nobody asks is kept.
const CONSUMER_IDLE: Duration = Duration::from_secs(30);

/// Why the stream cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UsagePrepareError {
    /// May pass.
    #[error("the usage stream cannot be reached: {reason}")]
    Unavailable { reason: String },
    /// It is left as it is: somebody has to decide which definition is meant.
    #[error("the stream {USAGE_STREAM} is not the one that is asked for: {difference}")]
    Differs { difference: String },
    #[error("the stream {USAGE_STREAM} cannot be made: {reason}")]
    Refused { reason: String },
}

/// A request that came to nothing, and why. It may have been served all the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(super) struct Away(pub(super) String);

/// What became of a batch that was published.
#[derive(Debug)]
pub(super) enum Published {
    /// It is in the stream, at this sequence.
    Stored(u64),
    /// It was not stored: another message stands on the subject after the one that it was to follow, or that one is gone.
    NotNext,
}

/// A message of the stream.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) sequence: u64,
    pub(super) subject: String,
    pub(super) bytes: Bytes,
}

pub(super) struct Remote {
    client: Client,
    context: Context,
    replicas: Option<usize>,
    /// The last sequence that was heard of.
    heard: watch::Sender<Sequence>,
}

/// The subject of an incarnation's batches.
pub(super) fn subject_of(batch: &UsageBatch) -> String {
    format!("kr.u.{}.{}", batch.node, batch.incarnation)
}

impl Remote {
    pub(super) fn new(client: Client, replicas: Option<usize>) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        Self { client, context, replicas, heard: watch::Sender::new(Sequence::ZERO) }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    pub(super) fn heard(&self) -> watch::Receiver<Sequence> {
        self.heard.subscribe()
    }

    pub(super) fn hear(&self, sequence: Sequence) {
        self.heard.send_if_modified(|heard| {
            let is_new = sequence > *heard;
            *heard = sequence.max(*heard);
            is_new
        });
    }

    /// Makes the stream, or checks the one that is there, which is never changed.
    pub(super) async fn prepare(&self) -> Result<(), UsagePrepareError> {
        let away = |away: Away| UsagePrepareError::Unavailable { reason: away.0 };
        self.check_connection().map_err(away)?;
        let wanted = definition(replicas_of(&self.client, self.replicas));
        let found = match self.info().await.map_err(away)? {
            Some(info) => info.config,
            None => match self.context.create_stream(wanted.clone()).await {
                Ok(stream) => stream.cached_info().config.clone(),
                // Another node was a moment earlier, perhaps with another definition.
                Err(error) if is_name_in_use(&error.kind()) => match self.info().await.map_err(away)? {
                    Some(info) => info.config,
                    None => return Err(UsagePrepareError::Unavailable { reason: "the stream is being made".to_owned() }),
                },
                Err(error) => match error.kind() {
                    CreateStreamErrorKind::JetStream(refusal) if is_final(refusal.error_code()) => {
                        return Err(UsagePrepareError::Refused { reason: refusal.to_string() });
                    }
                    _ => return Err(UsagePrepareError::Unavailable { reason: error.to_string() }),
                },
            },
        };
        match difference(&wanted, &found) {
            None => Ok(()),
            Some(difference) => Err(UsagePrepareError::Differs { difference }),
        }
    }

    /// The last sequence of the stream, as its leader says.
    pub(super) async fn head(&self) -> Result<Sequence, Away> {
        self.check_connection()?;
        let info = self.info().await?.ok_or_else(|| Away(format!("there is no stream {USAGE_STREAM} yet")))?;
        let head = Sequence(info.state.last_sequence);
        self.hear(head);
        Ok(head)
    }

    /// Publishes a batch that follows the message at `follows` on its subject, 0 if it is the first there.
    pub(super) async fn publish(&self, subject: &str, follows: u64, bytes: Bytes) -> Result<Published, Away> {
        self.check_connection()?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_STREAM, USAGE_STREAM);
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, follows.to_string());
        // The id is that of the bytes, in which node, incarnation and number stand: what has the same id is the same batch.
        headers.insert(header::NATS_MESSAGE_ID, Digest::blake3(&bytes).to_string());
        let request = Request::new().headers(headers).payload(bytes).timeout(Some(REQUEST_TIMEOUT));
        let answer = self.client.send_request(subject.to_owned(), request).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Away("no server keeps the stream at the moment".to_owned()),
            _ => Away(error.to_string()),
        })?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(PublishAck { sequence, .. })) => {
                self.hear(Sequence(sequence));
                Ok(Published::Stored(sequence))
            }
            Ok(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE => Ok(Published::NotNext),
            Ok(Response::Err { error }) => Err(Away(error.to_string())),
            Err(error) => Err(Away(format!("the acknowledgement cannot be read: {error}"))),
        }
    }

    /// The first message on a subject after a sequence, from the leader.
    pub(super) async fn first_after(&self, subject: &str, sequence: u64) -> Result<Option<Found>, Away> {
        self.get(json!({ "seq": sequence.saturating_add(1), "next_by_subj": subject })).await
    }

    /// The last message on a subject, from the leader.
    pub(super) async fn last(&self, subject: &str) -> Result<Option<Found>, Away> {
        self.get(json!({ "last_by_subj": subject })).await
    }

    /// The message at a sequence, from the leader.
    pub(super) async fn at(&self, sequence: u64) -> Result<Option<Found>, Away> {
        self.get(json!({ "seq": sequence })).await
    }

    /// A consumer of the whole stream from a sequence on. The server forgets it when nobody asks any more.
    pub(super) async fn consume(&self, from: u64) -> Result<Consumer<pull::Config>, Away> {
        self.check_connection()?;
        let config = pull::Config {
            description: Some("usage reader".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            inactive_threshold: CONSUMER_IDLE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        self.context.create_consumer_on_stream(config, USAGE_STREAM).await.map_err(|error| Away(error.to_string()))
    }
}

impl Remote {
    fn check_connection(&self) -> Result<(), Away> {
        if self.is_connected() { Ok(()) } else { Err(Away("there is no connection to a server".to_owned())) }
    }

    async fn info(&self) -> Result<Option<Info>, Away> {
        match self.context.request(format!("STREAM.INFO.{USAGE_STREAM}"), &json!({})).await {
            Ok(Response::Ok(info)) => Ok(Some(info)),
            Ok(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            Ok(Response::Err { error }) => Err(Away(error.to_string())),
            Err(error) => Err(Away(error.to_string())),
        }
    }

    /// Asks for one message. `STREAM.MSG.GET` is answered by the leader, so that what was stored is found.
    async fn get(&self, request: Value) -> Result<Option<Found>, Away> {
        #[derive(Deserialize)]
        struct Got {
            message: RawMessage,
        }
        self.check_connection()?;
        match self.context.request(format!("STREAM.MSG.GET.{USAGE_STREAM}"), &request).await {
            Ok(Response::Ok(Got { message })) => {
                let message = StreamMessage::try_from(message).map_err(|error| Away(format!("the answer cannot be read: {error}")))?;
                Ok(Some(Found { sequence: message.sequence, subject: message.subject.to_string(), bytes: message.payload }))
            }
            Ok(Response::Err { error }) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            Ok(Response::Err { error }) => Err(Away(error.to_string())),
            Err(error) => Err(Away(error.to_string())),
        }
    }
}

/// The stream as it has to be. Nothing expires and nothing can be taken out: a batch is in the sums of every node for good, and an expiry is
/// for when sealed segments stand in for the batches.
fn definition(replicas: usize) -> Config {
    Config {
        name: USAGE_STREAM.to_owned(),
        description: Some("Usage batches of all nodes".to_owned()),
        subjects: vec![SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: replicas,
        discard: DiscardPolicy::New,
        max_message_size: i32::try_from(MESSAGE_BYTES_MAX).expect("one mebibyte"),
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    }
}

/// What of a definition decides whether the stream keeps its promises, in comparable form.
fn essentials(config: &Config) -> [(&'static str, String); 18] {
    let bound = |bound: i64| if bound <= 0 { "none".to_owned() } else { bound.to_string() };
    [
        ("subjects", config.subjects.join(", ")),
        ("retention", format!("{:?}", config.retention)),
        ("storage", format!("{:?}", config.storage)),
        ("num_replicas", config.num_replicas.to_string()),
        ("discard", format!("{:?}", config.discard)),
        ("max_age", format!("{:?}", config.max_age)),
        ("max_bytes", bound(config.max_bytes)),
        ("max_msgs", bound(config.max_messages)),
        ("max_msgs_per_subject", bound(config.max_messages_per_subject)),
        ("max_msg_size", bound(config.max_message_size.into())),
        ("deny_delete", config.deny_delete.to_string()),
        ("deny_purge", config.deny_purge.to_string()),
        ("allow_rollup_hdrs", config.allow_rollup.to_string()),
        ("sealed", config.sealed.to_string()),
        ("no_ack", config.no_ack.to_string()),
        ("persist_mode async", (config.persist_mode == Some(PersistenceMode::Async)).to_string()),
        ("subject_transform", config.subject_transform.is_some().to_string()),
        ("copied from", if config.mirror.is_none() && config.sources.is_none() { "nothing" } else { "other streams" }.to_owned()),
    ]
}

fn difference(wanted: &Config, found: &Config) -> Option<String> {
    let pairs = essentials(wanted).into_iter().zip(essentials(found));
    let differing = pairs.filter(|(wanted, found)| wanted != found);
    let texts: Vec<_> = differing.map(|((name, wanted), (_, found))| format!("{name} is {found}, not {wanted}")).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn is_name_in_use(error: &CreateStreamErrorKind) -> bool {
    matches!(error, CreateStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

/// Whether asking again cannot help.
fn is_final(code: ErrorCode) -> bool {
    [ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED, ErrorCode::STREAM_SUBJECT_OVERLAP, ErrorCode::STREAM_INVALID_CONFIG].contains(&code)
}
