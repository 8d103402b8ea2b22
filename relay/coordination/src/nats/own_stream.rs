//! A JetStream stream of ours: made when it is first needed, written with expectations, and read from its leader only.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::time::{sleep, timeout};

use crate::{ANSWER_WAIT, CoordinationError};

/// The pause before looking again where another write was in the way.
pub(crate) const CONTENTION_PAUSE: Duration = Duration::from_millis(10);

/// The pause before looking again whether there is a connection.
const CONNECTION_PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct OwnStream {
    client: Client,
    context: Context,
    /// But for the replicas, which the servers decide where none are configured.
    config: Config,
    replicas: Option<usize>,
    /// Whether it was seen to be there and as it must be. Taken back where nobody answers for its subjects.
    is_prepared: AtomicBool,
}

/// Why a message was not stored.
pub(crate) enum Refusal {
    /// The subject's last message is another than expected.
    Expectation,
    /// Another write to the subject, or the same one, is under way; which of them is stored is not known yet.
    Contention,
    Failed(CoordinationError),
}

impl OwnStream {
    pub(crate) fn new(client: &Client, config: Config, replicas: Option<usize>) -> Self {
        let context = jetstream::ContextBuilder::new().timeout(ANSWER_WAIT).ack_timeout(ANSWER_WAIT).build(client.clone());
        Self { client: client.clone(), context, config, replicas, is_prepared: AtomicBool::new(false) }
    }

    /// Waits for a connection, then makes the stream, or sees that the one that is there does what callers rely on. It is never changed.
    /// Like all that waits here it is called inside of [`within`].
    pub(crate) async fn prepare(&self) -> Result<(), CoordinationError> {
        // What is sent while there is no connection would be kept by the client and stored much later.
        while self.client.connection_state() != State::Connected {
            sleep(CONNECTION_PAUSE).await;
        }
        if self.is_prepared.load(Ordering::Acquire) {
            return Ok(());
        }
        let ours = Config { num_replicas: replicas_of(&self.client, self.replicas), ..self.config.clone() };
        let found = self.context.get_or_create_stream(ours.clone()).await.map_err(|error| unavailable(&error))?;
        let theirs = &found.cached_info().config;
        let is_fit = theirs.subjects == ours.subjects
            && theirs.max_messages_per_subject == ours.max_messages_per_subject
            && theirs.allow_message_ttl == ours.allow_message_ttl
            && theirs.allow_message_counter == ours.allow_message_counter
            && theirs.duplicate_window >= ours.duplicate_window;
        if !is_fit {
            return Err(CoordinationError::Foreign { name: ours.name });
        }
        if theirs.num_replicas < ours.num_replicas {
            tracing::warn!(stream = ours.name, replicas = theirs.num_replicas, wanted = ours.num_replicas, "fewer replicas than wanted");
        }
        self.is_prepared.store(true, Ordering::Release);
        Ok(())
    }

    /// A stream that was just made is not known to every server at once, and one that elects has nobody who takes the message. Then nothing was
    /// stored, and the same is sent again until the caller's time is over.
    pub(crate) async fn publish(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<PublishAck, Refusal> {
        loop {
            self.prepare().await.map_err(Refusal::Failed)?;
            let sent = self.context.publish_with_headers(subject.clone(), headers.clone(), payload.clone()).await;
            let error = match sent.map_err(|error| self.refusal(&error))?.await {
                Ok(ack) => return Ok(ack),
                Err(error) => error,
            };
            if error.kind() != PublishErrorKind::StreamNotFound {
                return Err(self.refusal(&error));
            }
            // Whether it is there at all is looked at again; that costs one question.
            self.is_prepared.store(false, Ordering::Release);
            sleep(CONTENTION_PAUSE).await;
        }
    }

    /// The last message on a subject, from the leader.
    pub(crate) async fn last(&self, subject: &str) -> Result<Option<StreamMessage>, CoordinationError> {
        let stream = self.stream().await?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// The message with a sequence, from the leader.
    pub(crate) async fn at(&self, sequence: u64) -> Result<Option<StreamMessage>, CoordinationError> {
        let stream = self.stream().await?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    pub(crate) async fn stream(&self) -> Result<Stream<()>, CoordinationError> {
        self.prepare().await?;
        self.context.get_stream_no_info(&self.config.name).await.map_err(|error| unavailable(&error))
    }

    fn refusal(&self, error: &PublishError) -> Refusal {
        match error.kind() {
            PublishErrorKind::WrongLastSequence => return Refusal::Expectation,
            PublishErrorKind::Other => {
                let answer = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
                let is_contention =
                    |code| code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT || code == ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT;
                if answer.is_some_and(|answer| is_contention(answer.error_code())) {
                    return Refusal::Contention;
                }
            }
            _ => {}
        }
        Refusal::Failed(unavailable(error))
    }
}

/// How many servers keep a stream: as configured, else three where the servers are clustered and one where they are not. Asked while there is
/// a connection, since without one nobody can tell.
fn replicas_of(client: &Client, configured: Option<usize>) -> usize {
    let is_clustered = client.try_server_info().is_some_and(|server| server.cluster.is_some());
    configured.unwrap_or(if is_clustered { 3 } else { 1 })
}

/// Ends work that takes longer than [`ANSWER_WAIT`].
pub(crate) async fn within<T>(work: impl Future<Output = Result<T, CoordinationError>>) -> Result<T, CoordinationError> {
    let late = |_| Err(CoordinationError::Unavailable { reason: format!("no answer within {ANSWER_WAIT:?}") });
    timeout(ANSWER_WAIT, work).await.unwrap_or_else(late)
}

/// The whole chain as the reason; the client's errors do not repeat their sources.
pub(crate) fn unavailable(error: &(dyn Error + 'static)) -> CoordinationError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some of the client's errors do repeat them.
        if !reason.ends_with(&cause_text) {
            reason = format!("{reason}: {cause_text}");
        }
        source = cause.source();
    }
    CoordinationError::Unavailable { reason }
}
