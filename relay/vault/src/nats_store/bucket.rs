//! The bucket in NATS: its definition, and the few requests that are made of it.
//!
//! It is a key-value bucket as NATS clients know it: a stream that keeps the last message of each subject. Reads go to the stream's leader
//! (`STREAM.MSG.GET`) and never to a replica, which may lag. An existing bucket is never changed: one that differs is refused.

use std::error::Error as _;
use std::time::Duration;

use async_nats::connection::State as ConnectionState;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::{ContextBuilder, CreateStreamErrorKind, GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use thiserror::Error;

use super::entry_key::{ALL_SUBJECTS, EntryKey};
use super::state::{OPERATION_HEADER, ORIGIN_HEADER, Origin, State};

/// The name of the bucket.
pub const BUCKET: &str = "KEYRELAY_KEYS";
pub(crate) const STREAM: &str = "KV_KEYRELAY_KEYS";

/// How long one request may take. Several fit into the time of an operation.
pub(crate) const REQUEST_WAIT: Duration = Duration::from_millis(1500);

/// How long the marker of a deletion is kept, and with it the knowledge that something was erased: longer than any node is away. What was
/// away for longer is not trusted with what it still holds.
pub(crate) const MARKER_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// The longest entry: a sealed secret of the longest length and what surrounds it.
const ENTRY_BYTES_MAX: i32 = 128 * 1024;

/// What the server sends at least this often to who follows the bucket.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);
/// What the server sends before it waits for an acknowledgement: well below what a subscription holds.
const ON_THEIR_WAY_MAX: i64 = 8192;
/// Longer than any batch takes.
const FOLLOWER_ACKNOWLEDGES: Duration = Duration::from_secs(3600);
/// After this time without a word the server forgets who followed.
const FOLLOWER_FORGOTTEN: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct Bucket {
    client: Client,
    context: jetstream::Context,
    replicas: Option<usize>,
}

/// Why the bucket is not ready.
#[derive(Debug, Error)]
pub(crate) enum PrepareError {
    #[error("the bucket {BUCKET} differs from what this node asks for: {difference}")]
    Differs { difference: String },
    #[error(transparent)]
    Away(#[from] Away),
}

/// A request was surely not carried out, and may be later.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub(crate) struct Away(pub(crate) String);

/// What came of a write.
#[derive(Debug)]
pub(crate) enum Published {
    Stored(u64),
    /// The key has another revision than was expected.
    Refused,
    /// It was sent, and nobody said what came of it.
    Unknown(String),
}

/// What is written to a key whose last message has the revision `expected`, or 0 if there is none.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) key: EntryKey,
    pub(crate) expected: u64,
    /// None to delete.
    pub(crate) content: Option<Bytes>,
    /// Of what is put back.
    pub(crate) origin: Option<Origin>,
    /// Tells this write from every other one.
    pub(crate) id: String,
}

/// How many servers keep a stream: as configured, else three where the servers are clustered and one where they are not. Asked while there is
/// a connection, since without one nobody can tell.
fn replicas_of(client: &Client, configured: Option<usize>) -> usize {
    let is_clustered = client.try_server_info().is_some_and(|server| server.cluster.is_some());
    configured.unwrap_or(if is_clustered { 3 } else { 1 })
}

impl Bucket {
    pub(crate) fn new(client: Client, replicas: Option<usize>) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST_WAIT).build(client.clone());
        Self { client, context, replicas }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == ConnectionState::Connected
    }

    /// A number that grows with every connection made.
    pub(crate) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Makes the bucket if it is missing, and compares it with what is asked for if it is there.
    pub(crate) async fn prepare(&self) -> Result<(), PrepareError> {
        self.assert_connected()?;
        let config = match self.context.get_stream(STREAM).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => self.create().await?,
                _ => return Err(away(error).into()),
            },
        };
        match self.difference(&config) {
            None => Ok(()),
            Some(difference) => Err(PrepareError::Differs { difference }),
        }
    }

    async fn create(&self) -> Result<Config, Away> {
        match self.context.create_stream(self.config()).await {
            Ok(stream) => Ok(stream.cached_info().config.clone()),
            // Another node made it just now, maybe as another release does.
            Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NAME_EXIST) =>
            {
                let stream = self.context.get_stream(STREAM).await.map_err(away)?;
                Ok(stream.cached_info().config.clone())
            }
            Err(error) => Err(away(error)),
        }
    }

    fn config(&self) -> Config {
        Config {
            name: STREAM.to_owned(),
            description: Some("Keyrelay: sealed secrets and wrapped data keys".to_owned()),
            subjects: vec![ALL_SUBJECTS.to_owned()],
            max_messages_per_subject: 1,
            max_messages: -1,
            max_bytes: -1,
            max_message_size: ENTRY_BYTES_MAX,
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: replicas_of(&self.client, self.replicas),
            // A key-value bucket needs the roll-up of a subject; entries go by markers and never by deleting messages.
            allow_rollup: true,
            deny_delete: true,
            // For other clients of the bucket. This store reads from the leader.
            allow_direct: true,
            allow_message_ttl: true,
            ..Config::default()
        }
    }

    /// Where a definition differs in what this store relies on.
    fn difference(&self, found: &Config) -> Option<String> {
        let asked = self.config();
        let mut differences = Vec::new();
        macro_rules! compare {
            ($($field:ident),*) => {$(
                if found.$field != asked.$field {
                    differences.push(format!("{} is {:?} and should be {:?}", stringify!($field), found.$field, asked.$field));
                }
            )*};
        }
        compare!(subjects, max_messages_per_subject, max_messages, max_bytes, max_age, discard, retention, storage, num_replicas);
        compare!(allow_rollup, deny_delete, deny_purge, allow_message_ttl, mirror, sources, subject_transform, sealed);
        (!differences.is_empty()).then(|| differences.join(", "))
    }

    /// What the leader holds of a key; none if it has never heard of it, or has dropped a marker that was old enough.
    pub(crate) async fn get(&self, key: &EntryKey) -> Result<Option<State>, Away> {
        let found = self.last_of(key.subject()).await?;
        Ok(found.map(|message| {
            let time = message.time.unix_timestamp_nanos();
            State::of_message(message.sequence, time, Some(&message.headers), message.payload)
        }))
    }

    /// The revision of the last entry that the leader holds; 0 if it holds none.
    pub(crate) async fn last(&self) -> Result<u64, Away> {
        Ok(self.last_of(ALL_SUBJECTS.to_owned()).await?.map_or(0, |message| message.sequence))
    }

    async fn last_of(&self, subject: String) -> Result<Option<StreamMessage>, Away> {
        self.assert_connected()?;
        let stream = self.context.get_stream_no_info(STREAM).await.map_err(away)?;
        match stream.raw_message_builder().last_by_subject(subject).send().await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(away(error)),
        }
    }

    /// Writes if the key still has the revision that is expected.
    pub(crate) async fn publish(&self, write: Write) -> Result<Published, Away> {
        // What is handed to a client without a connection may be sent long after its caller gave up.
        self.assert_connected()?;
        let mut message = PublishMessage::build().expected_last_subject_sequence(write.expected).message_id(&write.id);
        message = match write.content {
            Some(content) => message.payload(content),
            None => message.header(OPERATION_HEADER, "PURGE").header("Nats-Rollup", "sub").ttl(MARKER_LIFETIME),
        };
        if let Some(origin) = write.origin {
            message = message.header(ORIGIN_HEADER, origin.header().as_str());
        }
        let sent = self.context.send_publish(write.key.subject(), message).await.map_err(away)?;
        let error = match sent.await {
            Ok(stored) => return Ok(Published::Stored(stored.sequence)),
            Err(error) => error,
        };
        match error.kind() {
            PublishErrorKind::WrongLastSequence => Ok(Published::Refused),
            // Nobody leads the stream now, so nobody took it.
            PublishErrorKind::StreamNotFound => Err(away(error)),
            // The server answered, and not that it stored it. One answer is that another write to the key is under way.
            PublishErrorKind::Other if error.source().is_some_and(|cause| cause.is::<jetstream::Error>()) => Err(away(error)),
            PublishErrorKind::Other
            | PublishErrorKind::TimedOut
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::MaxAckPending
            | PublishErrorKind::MaxPayloadExceeded => Ok(Published::Unknown(error.to_string())),
        }
    }

    /// Has the server send every entry, the oldest first, and then what changes. Acknowledging bounds what is on its way; nothing is sent
    /// twice, and who misses something begins anew.
    pub(crate) async fn deliver(&self) -> Result<Subscriber, Away> {
        self.assert_connected()?;
        let deliver_subject = self.client.new_inbox();
        let messages = self.client.subscribe(deliver_subject.clone()).await.map_err(away)?;
        let config = consumer::push::Config {
            deliver_subject,
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::All,
            ack_wait: FOLLOWER_ACKNOWLEDGES,
            max_ack_pending: ON_THEIR_WAY_MAX,
            max_deliver: 1,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: FOLLOWER_FORGOTTEN,
            num_replicas: 1,
            memory_storage: true,
            ..consumer::push::Config::default()
        };
        self.context.create_consumer_on_stream(config, STREAM).await.map_err(away)?;
        Ok(messages)
    }

    /// Takes a delivered message as JetStream's, whose reply says where in the stream it lies.
    pub(crate) fn delivered(&self, message: async_nats::Message) -> jetstream::Message {
        jetstream::Message { message, context: self.context.clone() }
    }

    fn assert_connected(&self) -> Result<(), Away> {
        if self.is_connected() { Ok(()) } else { Err(Away("there is no connection to NATS".to_owned())) }
    }
}

fn away(error: impl std::error::Error) -> Away {
    Away(error.to_string())
}
