//! What is refused before a log is used, and what is found out about its servers.

use event_log::{AppendError, EventLog, JetStreamLog, Nats, NatsConfig, PrepareError, Prepared, ReadError, SyncMode};
use nats_server::{Cluster, Sync, free_port};
use schemas::Sequence;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::servers::{SOON, STREAM, api, appended, bytes, config, connect, last, list, open, prepare, raw, start};

#[tokio::test]
async fn nothing_is_done_before_the_stream_was_prepared() {
    let cluster = start(1);
    let log = JetStreamLog::new(&connect(config(&cluster)).await);
    assert!(matches!(log.append("kr.e.a", last(0), bytes("a")).await, Err(AppendError::Unavailable { .. })));
    assert!(matches!(log.head().await, Err(ReadError::Unavailable { .. })));
    assert!(matches!(log.read(Sequence(1)).await.err(), Some(ReadError::Unavailable { .. })));
    assert_eq!(log.sync(), SyncMode::Unverified);
    let prepared = log.prepare().await.unwrap();
    assert_eq!((prepared.is_new, prepared.replicas, prepared.head), (true, 1, Sequence(0)));
    assert_eq!(log.append("kr.e.a", last(0), bytes("a")).await, Ok(appended(1)));
    let prepared = log.prepare().await.unwrap();
    assert_eq!((prepared.is_new, prepared.head), (false, Sequence(1)));
}

#[tokio::test]
async fn without_a_server_all_is_unavailable() {
    let url = vec![format!("nats://127.0.0.1:{}", free_port().unwrap())];
    let nats = Nats::connect(NatsConfig { url, ..NatsConfig::default() }).await.unwrap();
    let log = JetStreamLog::new(&nats);
    assert!(matches!(log.prepare().await, Err(PrepareError::Unavailable { .. })));
    assert!(matches!(log.append("kr.e.a", last(0), bytes("a")).await, Err(AppendError::Unavailable { .. })));
    assert!(matches!(log.read_range(Sequence(1), 1).await, Err(ReadError::Unavailable { .. })));
    nats.close().await;
    assert_eq!(log.append("kr.e.a", last(0), bytes("a")).await, Err(AppendError::Closed));
    assert_eq!(log.head().await, Err(ReadError::Closed));
}

#[tokio::test]
async fn another_definition_is_refused_and_left_alone() {
    let cluster = start(1);
    let client = raw(&cluster).await;
    let other = json!({"name": STREAM, "subjects": ["kr.e.>"], "max_age": 3_600_000_000_000_u64, "discard": "old", "deny_delete": true});
    assert!(api(&client, &format!("STREAM.CREATE.{STREAM}"), other).await["error"].is_null());
    let before = definition(&client).await;
    let log = JetStreamLog::new(&connect(config(&cluster)).await);
    let error = prepare(&log).await.unwrap_err();
    let PrepareError::Differs { differences } = &error else { panic!("{error}") };
    let fields: Vec<_> = differences.iter().map(|difference| difference.field).collect();
    assert_eq!(fields, ["discard", "max_age", "max_msg_size", "deny_purge", "allow_direct"]);
    let printed = error.to_string();
    assert!(printed.contains("discard is \"old\" and has to be \"new\"; max_age is 3600000000000 and has to be 0;"), "{printed}");
    assert_eq!(definition(&client).await, before);
    assert!(matches!(log.head().await, Err(ReadError::Unavailable { .. })));
}

#[tokio::test]
async fn a_stream_with_counters_is_refused() {
    let cluster = start(1);
    let client = raw(&cluster).await;
    let counters = json!({"name": STREAM, "subjects": ["kr.e.>"], "allow_msg_counter": true, "allow_direct": true});
    assert!(api(&client, &format!("STREAM.CREATE.{STREAM}"), counters).await["error"].is_null());
    let error = prepare(&JetStreamLog::new(&connect(config(&cluster)).await)).await.unwrap_err();
    assert!(error.to_string().contains("allow_msg_counter is true and has to be false"), "{error}");
}

#[tokio::test]
async fn other_replicas_are_refused() {
    let cluster = start(3);
    let one = JetStreamLog::new(&connect(NatsConfig { replicas: Some(1), ..config(&cluster) }).await);
    assert_eq!(prepare(&one).await.unwrap().replicas, 1);
    let three = JetStreamLog::new(&connect(config(&cluster)).await);
    let error = prepare(&three).await.unwrap_err();
    assert!(error.to_string().ends_with("num_replicas is 1 and has to be 3"), "{error}");
}

#[tokio::test]
async fn two_nodes_prepare_at_once() {
    let cluster = start(3);
    let logs = [JetStreamLog::new(&connect(config(&cluster)).await), JetStreamLog::new(&connect(config(&cluster)).await)];
    let (first, second) = tokio::join!(prepare(&logs[0]), prepare(&logs[1]));
    assert_eq!((first.unwrap().replicas, second.unwrap().replicas), (3, 3));
}

#[tokio::test]
async fn an_account_without_jetstream_is_refused() {
    let accounts = "accounts { A { users: [{user: a, password: word}] } }";
    let cluster = Cluster::start_with(1, Sync::Default, accounts).unwrap();
    let url = vec![cluster.url().replace("nats://", "nats://a:word@")];
    let error = prepare(&JetStreamLog::new(&connect(NatsConfig { url, ..NatsConfig::default() }).await)).await.unwrap_err();
    assert!(matches!(error, PrepareError::NoJetStream { .. }), "{error}");
}

#[tokio::test]
async fn syncing_is_verified_by_monitoring() {
    let always = Cluster::start(3, Sync::Always).unwrap();
    let monitors = list(&always.monitor_url());
    let found = async |monitor_url: &[String]| {
        let log = JetStreamLog::new(&connect(NatsConfig { monitor_url: monitor_url.to_vec(), ..config(&always) }).await);
        let prepared = heard(&log, monitor_url.len()).await;
        assert_eq!(log.sync(), prepared.sync);
        (prepared.sync, prepared.servers.len())
    };
    assert_eq!(found(&monitors).await, (SyncMode::Verified, 3));
    assert_eq!(found(&monitors[..2]).await.0, SyncMode::Unverified);
    assert_eq!(found(&[]).await, (SyncMode::Unverified, 1));

    let strict = NatsConfig { require_verified_sync: true, ..config(&always) };
    let log = JetStreamLog::new(&connect(NatsConfig { monitor_url: monitors, ..strict.clone() }).await);
    let deadline = Instant::now() + SOON;
    let verified = loop {
        match prepare(&log).await {
            Err(PrepareError::Sync { mode: SyncMode::Unverified, .. }) if Instant::now() < deadline => {}
            prepared => break prepared.unwrap(),
        }
    };
    assert_eq!(verified.sync, SyncMode::Verified);
    let refused = prepare(&JetStreamLog::new(&connect(strict).await)).await;
    assert!(matches!(refused, Err(PrepareError::Sync { mode: SyncMode::Unverified, .. })), "{refused:?}");
}

#[tokio::test]
async fn servers_that_sync_later_are_told() {
    let lazy = start(1);
    let config = NatsConfig { monitor_url: list(&lazy.monitor_url()), ..config(&lazy) };
    let log = JetStreamLog::new(&connect(config.clone()).await);
    assert_eq!(prepare(&log).await.unwrap().sync, SyncMode::Lazy);
    let strict = JetStreamLog::new(&connect(NatsConfig { require_verified_sync: true, ..config }).await);
    let refused = prepare(&strict).await.unwrap_err();
    assert!(matches!(&refused, PrepareError::Sync { mode: SyncMode::Lazy, .. }), "{refused}");
    assert!(matches!(strict.head().await, Err(ReadError::Unavailable { .. })));
}

/// An account may be given the right to ask the system account.
#[tokio::test]
async fn syncing_is_verified_by_the_system_account() {
    let subject = "$SYS.REQ.SERVER.PING.JSZ";
    let accounts = format!(
        "system_account: SYS
         accounts {{
           SYS {{ exports: [{{ service: \"{subject}\", response_type: stream }}] }}
           A {{ jetstream: enabled, users: [{{user: a, password: word}}], imports: [{{ service: {{ account: SYS, subject: \"{subject}\" }} }}] }}
         }}"
    );
    let cluster = Cluster::start_with(3, Sync::Always, &accounts).unwrap();
    let url = list(&cluster.url().replace("nats://", "nats://a:word@"));
    let log = JetStreamLog::new(&connect(NatsConfig { url, ..NatsConfig::default() }).await);
    let prepared = heard(&log, 3).await;
    assert_eq!((prepared.sync, prepared.servers.len()), (SyncMode::Verified, 3));
}

/// Prepares a log until so many servers were heard of: one that is busy may be late with its answer, and is asked again.
async fn heard(log: &JetStreamLog, servers: usize) -> Prepared {
    let deadline = Instant::now() + SOON;
    loop {
        let prepared = prepare(log).await.unwrap();
        if prepared.servers.len() >= servers || Instant::now() >= deadline {
            return prepared;
        }
    }
}

#[tokio::test]
async fn the_log_is_there_for_the_next_node() {
    let cluster = start(1);
    let first = open(&cluster).await;
    assert_eq!(first.append("kr.e.a", last(0), bytes("a")).await, Ok(appended(1)));
    let second = JetStreamLog::new(&connect(config(&cluster)).await);
    let prepared = prepare(&second).await.unwrap();
    assert_eq!((prepared.is_new, prepared.head), (false, Sequence(1)));
}

async fn definition(client: &async_nats::Client) -> Value {
    api(client, &format!("STREAM.INFO.{STREAM}"), json!({})).await["config"].clone()
}
