//! What the leader of the stream says: read after write, and never from a copy that lags.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemas::Sequence;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::STREAM;
use crate::contract::{ReadError, Stored};
use crate::nats::Nats;
use crate::nats::api::{ApiError, code};
use crate::storage::StorageError;

/// How long a question may stay without an answer, all attempts together.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long one attempt may.
const ATTEMPT_WAIT: Duration = Duration::from_secs(2);
/// For a question whose answer only says why something else failed.
const GLANCE_WAIT: Duration = Duration::from_millis(500);
/// A leader hears of its followers every second.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(3);
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// The most questions under way at once; a server has a bound too, and drops what is beyond it.
const QUESTIONS_MAX: usize = 128;

pub(super) struct Leader {
    nats: Nats,
    questions: Semaphore,
}

/// The last sequence, and whether the server that says so leads the others for certain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) sequence: Sequence,
    pub(super) is_followed: bool,
}

/// What the servers tell of the stream.
#[derive(Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: Map<String, Value>,
    pub(super) state: StreamState,
    #[serde(default)]
    pub(super) cluster: Peers,
    #[serde(default)]
    created: String,
}

#[derive(Deserialize)]
pub(super) struct StreamState {
    pub(super) last_seq: u64,
}

/// The servers that keep the stream.
#[derive(Deserialize, Default)]
pub(super) struct Peers {
    #[serde(default)]
    leader: String,
    #[serde(default)]
    replicas: Vec<Peer>,
}

#[derive(Deserialize)]
struct Peer {
    name: String,
    /// Whether it has what the leader has.
    #[serde(default)]
    current: bool,
    #[serde(default)]
    offline: bool,
    /// Nanoseconds since it was heard of; also 0 where it was never heard of, and then it is not current.
    #[serde(default)]
    active: u64,
}

impl Peers {
    /// Whether the server that answered leads the others for certain. It tells of itself as the leader and not among the replicas, and has just
    /// heard of most of them; without that it may have been replaced and not know it.
    fn follow(&self) -> bool {
        if self.replicas.is_empty() {
            return true;
        }
        let leads = !self.leader.is_empty() && self.replicas.iter().all(|peer| peer.name != self.leader);
        let heard = |peer: &&Peer| peer.current && !peer.offline && Duration::from_nanos(peer.active) < FOLLOWED_WITHIN;
        let followers = self.replicas.iter().filter(heard).count();
        leads && 2 * (followers + 1) > self.replicas.len() + 1
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let leader = Some(self.leader.as_str()).filter(|name| !name.is_empty());
        leader.into_iter().chain(self.replicas.iter().map(|peer| peer.name.as_str()))
    }
}

#[derive(Serialize, Default)]
struct Get<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_by_subj: Option<&'a str>,
}

#[derive(Deserialize)]
struct Got {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
}

impl Leader {
    pub(super) fn new(nats: Nats) -> Self {
        Self { nats, questions: Semaphore::new(QUESTIONS_MAX) }
    }

    pub(super) async fn head(&self) -> Result<Head, ReadError> {
        let info: StreamInfo = self.ask(&format!("STREAM.INFO.{STREAM}"), &Map::new()).await.map_err(unavailable)?;
        Ok(Head { sequence: Sequence(info.state.last_seq), is_followed: info.cluster.follow() })
    }

    /// When the stream was made, as the servers spell it.
    pub(super) async fn made_at(&self) -> Result<String, ReadError> {
        let info: StreamInfo = self.ask(&format!("STREAM.INFO.{STREAM}"), &Map::new()).await.map_err(unavailable)?;
        Ok(info.created)
    }

    /// Whether the servers know the stream.
    pub(super) async fn exists(&self) -> Result<bool, ApiError> {
        match self.nats.ask::<StreamInfo>(&format!("STREAM.INFO.{STREAM}"), &Map::new(), GLANCE_WAIT).await {
            Ok(_) => Ok(true),
            Err(error) if error.is(code::STREAM_NOT_FOUND) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn at(&self, sequence: Sequence) -> Result<Option<Stored>, ReadError> {
        self.get(&Get { seq: Some(sequence.0), ..Get::default() }).await?.map(stored).transpose()
    }

    /// The first record on a subject after a sequence.
    pub(super) async fn first_on(&self, subject: &str, after: Sequence) -> Result<Option<Stored>, ReadError> {
        let Some(seq) = after.0.checked_add(1) else { return Ok(None) };
        self.get(&Get { seq: Some(seq), next_by_subj: Some(subject), ..Get::default() }).await?.map(stored).transpose()
    }

    /// The last sequence on a subject, 0 if there is none.
    pub(super) async fn last_on(&self, subject: &str) -> Result<Sequence, ReadError> {
        let last = self.get(&Get { last_by_subj: Some(subject), ..Get::default() }).await?;
        Ok(last.map(|message| Sequence(message.seq)).unwrap_or_default())
    }

    pub(super) async fn first_at_or_after(&self, sequence: Sequence) -> Result<Option<Sequence>, ReadError> {
        let first = self.get(&Get { seq: Some(sequence.0), next_by_subj: Some(">"), ..Get::default() }).await?;
        Ok(first.map(|message| Sequence(message.seq)))
    }

    async fn get(&self, get: &Get<'_>) -> Result<Option<RawMessage>, ReadError> {
        let _permit = self.questions.acquire().await.expect("the semaphore is never closed");
        match self.ask::<Got>(&format!("STREAM.MSG.GET.{STREAM}"), get).await {
            Ok(got) => Ok(Some(got.message)),
            Err(error) if error.is(code::NO_MESSAGE) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Asks until there is an answer, or none for long: between two leaders, nobody answers for seconds.
    async fn ask<T: DeserializeOwned>(&self, what: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let deadline = Instant::now() + ANSWER_WAIT;
        loop {
            let error = match self.nats.ask(what, body, ATTEMPT_WAIT).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_pass = match &error {
                ApiError::Request(_) => !self.nats.is_closed(),
                ApiError::Refused(refusal) => refusal.is_passing(),
                ApiError::Garbled { .. } => false,
            };
            if !may_pass || Instant::now() + ATTEMPT_PAUSE >= deadline {
                return Err(error);
            }
            sleep(ATTEMPT_PAUSE).await;
        }
    }
}

fn stored(message: RawMessage) -> Result<Stored, ReadError> {
    let bytes = STANDARD.decode(message.data).map_err(|error| {
        ReadError::Storage(StorageError::Engine(format!("NATS shows the message at sequence {} in no base64: {error}", message.seq)))
    })?;
    Ok(Stored { sequence: Sequence(message.seq), subject: message.subject.into(), bytes: bytes.into() })
}

/// What is said of a stream that was there.
pub(super) fn gone() -> String {
    format!("the stream {STREAM} is not on the NATS servers any more")
}

fn unavailable(error: ApiError) -> ReadError {
    let reason = match error {
        error if error.is(code::STREAM_NOT_FOUND) => gone(),
        error => error.to_string(),
    };
    ReadError::Unavailable { reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_leader_is_followed_by_most() {
        let follow = |peers: &str| serde_json::from_str::<Peers>(peers).unwrap().follow();
        let peer = |name: &str, current: bool, active: u64| format!(r#"{{"name":"{name}","current":{current},"active":{active}}}"#);
        let (fresh, old) = (300_000_000, 8_000_000_000);
        let of = |leader: &str, peers: &[String]| follow(&format!(r#"{{"leader":"{leader}","replicas":[{}]}}"#, peers.join(",")));
        assert!(follow("{}") && follow(r#"{"leader":"n0"}"#));
        assert!(of("n0", &[peer("n1", true, fresh), peer("n2", true, fresh)]));
        assert!(of("n0", &[peer("n1", true, fresh), peer("n2", true, old)]));
        assert!(!of("n0", &[peer("n1", true, old), peer("n2", true, old)]));
        // Never heard of.
        assert!(!of("n0", &[peer("n1", false, 0), peer("n2", false, 0)]));
        // A server that does not lead itself.
        assert!(!of("n1", &[peer("n1", true, fresh), peer("n2", true, fresh)]));
        assert!(!of("", &[peer("n0", true, fresh), peer("n1", false, 0), peer("n2", false, 0)]));
    }
}
