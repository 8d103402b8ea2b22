//! A server with operator, accounts and users by JWT: the `.creds` file of a user opens it, and nothing else does.
//!
//! `jwt/` was made once, by hand: an operator, its system account, an account with JetStream without limits and a user of it, none of which ends.
//! `stranger.creds` is of an account that the operator never signed for, `stolen.creds` the user's JWT with another's seed.

use std::time::Duration;

use event_log::{EventLog, JetStreamLog, Nats, NatsConfig};
use nats_server::{Cluster, Sync};
use schemas::Sequence;
use tokio::time::timeout;

use crate::connection::secret;
use crate::servers::{SOON, appended, bytes, config, connect, last, prepare};

/// How long a door is knocked at that must stay shut.
const KNOCK: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_credentials_file_opens_a_server_of_an_operator() {
    let mut cluster = Cluster::start_with(1, Sync::Default, include_str!("jwt/server.conf")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let credentials = Some(secret(directory.path(), "user.creds", include_str!("jwt/user.creds")));
    let nats = connect(NatsConfig { credentials, ..config(&cluster) }).await;
    let log = JetStreamLog::new(&nats);
    assert!(prepare(&log).await.unwrap().is_new);
    assert_eq!(log.append("kr.e.a", last(0), bytes("a")).await, Ok(appended(1)));

    // Every connection signs a challenge of its own.
    cluster.server(0).kill().unwrap();
    cluster.server(0).run().unwrap();
    timeout(SOON, nats.connected().wait_for(|connection| connection.is_up && connection.epoch == 2)).await.unwrap().unwrap();
    assert_eq!(log.head().await, Ok(Sequence(1)));
}

#[tokio::test]
async fn credentials_that_the_operator_does_not_stand_for_open_nothing() {
    let cluster = Cluster::start_with(1, Sync::Default, include_str!("jwt/server.conf")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let stranger = secret(directory.path(), "stranger.creds", include_str!("jwt/stranger.creds"));
    let stolen = secret(directory.path(), "stolen.creds", include_str!("jwt/stolen.creds"));
    for credentials in [Some(stranger), Some(stolen), None] {
        let nats = Nats::connect(NatsConfig { credentials: credentials.clone(), ..config(&cluster) }).await.unwrap();
        let mut connected = nats.connected();
        let up = timeout(KNOCK, connected.wait_for(|connection| connection.is_up)).await;
        assert!(up.is_err(), "{credentials:?}");
    }
}
