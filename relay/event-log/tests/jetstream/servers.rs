//! Servers, connections to them, and the log on them.

use std::time::Duration;

use async_nats::RequestErrorKind;
use bytes::Bytes;
use event_log::{Appended, EventLog, Expect, JetStreamLog, Nats, NatsConfig, PrepareError, Prepared, append_resolving};
use nats_server::{Cluster, Sync};
use schemas::Sequence;
use serde_json::Value;
use tokio::time::{Instant, sleep};

pub(crate) const STREAM: &str = "KEYRELAY_EVENTS";
const PAUSE: Duration = Duration::from_millis(20);
/// How long a test waits for what has to come.
pub(crate) const SOON: Duration = Duration::from_secs(90);

pub(crate) fn start(servers: usize) -> Cluster {
    Cluster::start(servers, Sync::Default).unwrap()
}

pub(crate) fn config(cluster: &Cluster) -> NatsConfig {
    NatsConfig { url: list(&cluster.url()), ..NatsConfig::default() }
}

pub(crate) fn list(addresses: &str) -> Vec<String> {
    addresses.split(',').map(str::to_owned).collect()
}

pub(crate) async fn connect(config: NatsConfig) -> Nats {
    let nats = Nats::connect(config).await.unwrap();
    tokio::time::timeout(SOON, nats.connected().wait_for(|connection| connection.is_up)).await.unwrap().unwrap();
    nats
}

/// Prepares a log until that is possible or refused.
pub(crate) async fn prepare(log: &JetStreamLog) -> Result<Prepared, PrepareError> {
    let deadline = Instant::now() + SOON;
    loop {
        match log.prepare().await {
            Err(PrepareError::Unavailable { .. }) if Instant::now() < deadline => sleep(PAUSE).await,
            prepared => return prepared,
        }
    }
}

pub(crate) async fn open(cluster: &Cluster) -> JetStreamLog {
    let log = JetStreamLog::new(&connect(config(cluster)).await);
    prepare(&log).await.unwrap();
    log
}

/// A client without anything of ours.
pub(crate) async fn raw(cluster: &Cluster) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    options.connect(list(&cluster.url())).await.unwrap()
}

/// Publishes with headers; the answer of the server. A stream that was just made is not known everywhere yet.
pub(crate) async fn publish(client: &async_nats::Client, subject: &str, headers: &[(&str, &str)], bytes: &str) -> Value {
    let mut map = async_nats::HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    let deadline = Instant::now() + SOON;
    loop {
        match client.request_with_headers(subject.to_owned(), map.clone(), Bytes::from(bytes.to_owned())).await {
            Ok(answer) => return serde_json::from_slice(&answer.payload).unwrap(),
            Err(error) if error.kind() == RequestErrorKind::NoResponders && Instant::now() < deadline => sleep(PAUSE).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Asks the JetStream API; some questions have no body.
pub(crate) async fn api(client: &async_nats::Client, what: &str, body: Value) -> Value {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let deadline = Instant::now() + SOON;
    loop {
        // Nobody answers for a stream that has no leader. All but a deletion is answered the second time as it was the first.
        match client.request(format!("$JS.API.{what}"), body.clone()).await {
            Ok(answer) => return serde_json::from_slice(&answer.payload).unwrap(),
            Err(error) if Instant::now() >= deadline || what.starts_with("STREAM.DELETE") => panic!("{what}: {error}"),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

pub(crate) fn last(sequence: u64) -> Expect {
    Expect { subject: Sequence(sequence), log: None }
}

pub(crate) fn bytes(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

pub(crate) fn appended(sequence: u64) -> Appended {
    Appended::Appended(Sequence(sequence))
}

pub(crate) fn already(sequence: u64) -> Appended {
    Appended::AlreadyAppended(Sequence(sequence))
}

pub(crate) fn conflict(subject_last: u64) -> Appended {
    Appended::Conflict { subject_last: Sequence(subject_last), log_last: None }
}

/// Appends whatever happens to the servers meanwhile, and returns where the record stands.
pub(crate) async fn append(log: &dyn EventLog, subject: &str, expect: Expect, record: Bytes) -> Sequence {
    match decided(log, subject, expect, record).await {
        Appended::Appended(sequence) | Appended::AlreadyAppended(sequence) => sequence,
        other => panic!("{other:?} on {subject}"),
    }
}

/// The outcome of an append, as soon as there is one.
pub(crate) async fn decided(log: &dyn EventLog, subject: &str, expect: Expect, record: Bytes) -> Appended {
    let deadline = Instant::now() + SOON;
    loop {
        match append_resolving(log, subject, expect, record.clone(), deadline).await {
            Err(event_log::AppendError::Unavailable { .. }) | Ok(Appended::Unknown) if Instant::now() < deadline => sleep(PAUSE).await,
            outcome => return outcome.unwrap(),
        }
    }
}

/// What a log answers, as soon as it can be reached.
macro_rules! reached {
    ($asked:expr) => {{
        let deadline = tokio::time::Instant::now() + crate::servers::SOON;
        loop {
            match $asked.await {
                Err(event_log::ReadError::Unavailable { .. }) if tokio::time::Instant::now() < deadline => tokio::task::yield_now().await,
                answer => break answer.unwrap(),
            }
        }
    }};
}
pub(crate) use reached;

/// Fills a subject with records `0`, `1`, ... after the last one.
pub(crate) async fn fill(log: &dyn EventLog, subject: &str, count: u64) -> Sequence {
    let mut expect = Expect { subject: reached!(log.last(subject)), log: None };
    for n in 0..count {
        expect.subject = append(log, subject, expect, bytes(n.to_string())).await;
    }
    expect.subject
}
