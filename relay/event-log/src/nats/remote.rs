//! A stream of batches on NATS, and the few requests that are made of it. Every request has a deadline, and none waits for a connection.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info, PersistenceMode, RawMessage};
use async_nats::jetstream::{Context, ContextBuilder, ErrorCode};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind, header};
use bytes::Bytes;
use schemas::{Digest, Sequence};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::watch;

use super::replicas_of;

/// A server without a leader is silent for 4 to 8 seconds; who asks again after this long finds the next one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a consumer that nobody asks is kept.
const CONSUMER_IDLE: Duration = Duration::from_secs(30);

/// Why a stream of batches cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamPrepareError {
    /// May pass.
    #[error("the stream {stream} cannot be reached: {reason}")]
    Unavailable { stream: String, reason: String },
    /// It is left as it is: somebody has to decide which definition is meant.
    #[error("the stream {stream} is not the one that is asked for: {difference}")]
    Differs { stream: String, difference: String },
    #[error("the stream {stream} cannot be made: {reason}")]
    Refused { stream: String, reason: String },
}

/// A request that came to nothing, and why. It may have been served all the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct Away(pub(crate) String);

/// What became of a batch that was published.
#[derive(Debug)]
pub(crate) enum Published {
    /// It is in the stream, at this sequence.
    Stored(u64),
    /// It was not stored: another message stands on the subject after the one that it was to follow, or that one is gone.
    NotNext,
}

/// A message of the stream.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    pub(crate) bytes: Bytes,
}

pub(crate) struct Remote {
    client: Client,
    context: Context,
    /// The stream as it has to be, but for its replicas.
    definition: Config,
    replicas: Option<usize>,
    /// The last sequence that was heard of.
    heard: watch::Sender<Sequence>,
}

impl Remote {
    /// `replicas` is how many servers keep the stream where it is made; the definition's own number is not looked at.
    pub(crate) fn new(client: Client, definition: Config, replicas: Option<usize>) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        Self { client, context, definition, replicas, heard: watch::Sender::new(Sequence::ZERO) }
    }

    /// The stream's name.
    pub(crate) fn name(&self) -> &str {
        &self.definition.name
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    pub(crate) fn heard(&self) -> watch::Receiver<Sequence> {
        self.heard.subscribe()
    }

    pub(crate) fn hear(&self, sequence: Sequence) {
        self.heard.send_if_modified(|heard| {
            let is_new = sequence > *heard;
            *heard = sequence.max(*heard);
            is_new
        });
    }

    /// Makes the stream, or checks the one that is there, which is never changed.
    pub(crate) async fn prepare(&self) -> Result<(), StreamPrepareError> {
        let stream = self.definition.name.clone();
        let away = |away: Away| StreamPrepareError::Unavailable { stream: stream.clone(), reason: away.0 };
        self.check_connection().map_err(away)?;
        let wanted = Config { num_replicas: replicas_of(&self.client, self.replicas), ..self.definition.clone() };
        let found = match self.info().await.map_err(away)? {
            Some(info) => info.config,
            None => match self.context.create_stream(wanted.clone()).await {
                Ok(stream) => stream.cached_info().config.clone(),
                // Another node was a moment earlier, perhaps with another definition.
                Err(error) if is_name_in_use(&error.kind()) => match self.info().await.map_err(away)? {
                    Some(info) => info.config,
                    None => return Err(StreamPrepareError::Unavailable { stream, reason: "the stream is being made".to_owned() }),
                },
                Err(error) => match error.kind() {
                    CreateStreamErrorKind::JetStream(refusal) if is_final(refusal.error_code()) => {
                        return Err(StreamPrepareError::Refused { stream, reason: refusal.to_string() });
                    }
                    _ => return Err(StreamPrepareError::Unavailable { stream, reason: error.to_string() }),
                },
            },
        };
        match difference(&wanted, &found) {
            None => Ok(()),
            Some(difference) => Err(StreamPrepareError::Differs { stream, difference }),
        }
    }

    /// The last sequence of the stream, as its leader says.
    pub(crate) async fn head(&self) -> Result<Sequence, Away> {
        self.check_connection()?;
        let info = self.info().await?.ok_or_else(|| Away(format!("there is no stream {} yet", self.name())))?;
        let head = Sequence(info.state.last_sequence);
        self.hear(head);
        Ok(head)
    }

    /// Publishes a batch. `follows` is the sequence of the message that it has to follow on its subject, 0 if it is the first there; none
    /// where that does not matter.
    pub(crate) async fn publish(&self, subject: &str, follows: Option<u64>, bytes: Bytes) -> Result<Published, Away> {
        self.check_connection()?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_STREAM, self.name());
        if let Some(follows) = follows {
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, follows.to_string());
        }
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
    pub(crate) async fn first_after(&self, subject: &str, sequence: u64) -> Result<Option<Found>, Away> {
        self.get(json!({ "seq": sequence.saturating_add(1), "next_by_subj": subject })).await
    }

    /// The last message on a subject, from the leader.
    pub(crate) async fn last(&self, subject: &str) -> Result<Option<Found>, Away> {
        self.get(json!({ "last_by_subj": subject })).await
    }

    /// The message at a sequence, from the leader.
    pub(crate) async fn at(&self, sequence: u64) -> Result<Option<Found>, Away> {
        self.get(json!({ "seq": sequence })).await
    }

    /// A consumer of the whole stream from a sequence on. The server forgets it when nobody asks any more.
    pub(crate) async fn consume(&self, from: u64) -> Result<Consumer<pull::Config>, Away> {
        self.check_connection()?;
        let config = pull::Config {
            description: Some("batch reader".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            inactive_threshold: CONSUMER_IDLE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        self.context.create_consumer_on_stream(config, self.name()).await.map_err(|error| Away(error.to_string()))
    }
}

impl Remote {
    fn check_connection(&self) -> Result<(), Away> {
        if self.is_connected() { Ok(()) } else { Err(Away("there is no connection to a server".to_owned())) }
    }

    async fn info(&self) -> Result<Option<Info>, Away> {
        match self.context.request(format!("STREAM.INFO.{}", self.name()), &json!({})).await {
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
        match self.context.request(format!("STREAM.MSG.GET.{}", self.name()), &request).await {
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
