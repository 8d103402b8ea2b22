//! How a connection comes about, breaks, and comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use event_log::{AppendError, EventLog, JetStreamLog, NatsConfig, ReadError};
use nats_server::{Cluster, Sync};
use schemas::Sequence;
use tokio::time::{Instant, timeout};

use crate::servers::{SOON, appended, bytes, config, connect, last, open, prepare, start};

/// A dead server is to be noticed in ten seconds; the rest is for a machine with other work.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_connection_comes_back() {
    let mut cluster = start(1);
    let nats = connect(config(&cluster)).await;
    let log = JetStreamLog::new(&nats);
    prepare(&log).await.unwrap();
    assert_eq!(log.append("kr.e.a", last(0), bytes("a")).await, Ok(appended(1)));
    let mut connected = nats.connected();
    assert_eq!(connected.borrow().epoch, 1);

    cluster.server(0).kill().unwrap();
    timeout(SOON, connected.wait_for(|connection| !connection.is_up)).await.unwrap().unwrap();
    let begin = Instant::now();
    assert!(matches!(log.append("kr.e.a", last(1), bytes("b")).await, Err(AppendError::Unavailable { .. })));
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert!(matches!(log.head().await, Err(ReadError::Unavailable { .. })));

    cluster.server(0).run().unwrap();
    timeout(SOON, connected.wait_for(|connection| connection.is_up && connection.epoch == 2)).await.unwrap().unwrap();
    assert_eq!(log.head().await, Ok(Sequence(1)));
    assert_eq!(log.append("kr.e.a", last(1), bytes("b")).await, Ok(appended(2)));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_noticed() {
    let cluster = start(1);
    let nats = connect(config(&cluster)).await;
    let mut connected = nats.connected();
    cluster.servers()[0].pause().unwrap();
    timeout(NOTICED_WITHIN, connected.wait_for(|connection| !connection.is_up)).await.unwrap().unwrap();
    cluster.servers()[0].resume().unwrap();
    timeout(SOON, connected.wait_for(|connection| connection.is_up)).await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_connection_breaks() {
    let mut cluster = start(1);
    let log = open(&cluster).await;
    cluster.servers()[0].pause().unwrap();
    let asked = tokio::spawn({
        let log = log.clone();
        async move { log.append("kr.e.a", last(0), bytes("a")).await }
    });
    // The connection breaks by the kill, long before any time limit.
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asked.is_finished());
    cluster.server(0).kill().unwrap();
    assert_eq!(asked.await.unwrap(), Ok(event_log::Appended::Unknown));
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_closed_connection_ends_what_reads() {
    let cluster = start(1);
    let nats = connect(config(&cluster)).await;
    let log = JetStreamLog::new(&nats);
    prepare(&log).await.unwrap();
    let mut batches = log.read(Sequence(1)).await.unwrap();
    nats.close().await;
    let ended = timeout(SOON, futures_util::StreamExt::next(&mut batches)).await.unwrap();
    assert_eq!(ended, Some(Err(ReadError::Closed)));
    assert!(!nats.connected().borrow().is_up);
}

#[tokio::test]
async fn an_nkey_opens_the_door() {
    let seed = "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY";
    let user = "UAMMBNV2EYR65NYZZ7IAK5SIR5ODNTTERJOBOF4KJLMWI45YOXOSWULM";
    let cluster = Cluster::start_with(1, Sync::Default, &format!("authorization {{ users: [{{ nkey: {user} }}] }}")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let nkey = Some(secret(directory.path(), "seed", seed));
    let log = JetStreamLog::new(&connect(NatsConfig { nkey, ..config(&cluster) }).await);
    assert!(prepare(&log).await.unwrap().is_new);

    // Without it there is never a connection.
    let nats = event_log::Nats::connect(config(&cluster)).await.unwrap();
    let mut connected = nats.connected();
    let up = timeout(Duration::from_secs(1), connected.wait_for(|connection| connection.is_up)).await;
    assert!(up.is_err());
}

#[tokio::test]
async fn both_sides_show_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let ca = secret(directory.path(), "ca.pem", include_str!("tls/ca.pem"));
    let certificate = secret(directory.path(), "server.pem", include_str!("tls/server.pem"));
    let key = secret(directory.path(), "server.key", include_str!("tls/server.key"));
    let tls = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}");
    let cluster = Cluster::start_with(1, Sync::Default, &tls).unwrap();
    let config = NatsConfig {
        tls_ca: Some(ca),
        tls_cert: Some(secret(directory.path(), "client.pem", include_str!("tls/client.pem"))),
        tls_key: Some(secret(directory.path(), "client.key", include_str!("tls/client.key"))),
        ..config(&cluster)
    };
    let log = JetStreamLog::new(&connect(config).await);
    assert!(prepare(&log).await.unwrap().is_new);
}

pub(crate) fn secret(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
