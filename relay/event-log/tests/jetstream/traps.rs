//! What nats-servers do that the contract forbids: each trap is shown to be there, and not to be seen through the log.
//!
//! Counters, whose repeated answer lacks the value (G3), are no part of the log: its stream is refused if it has them, see `prepare`.

use std::time::Duration;

use event_log::{AppendError, Appended, EventLog};
use schemas::Sequence;
use serde_json::{Value, json};

use crate::servers::{STREAM, already, api, appended, bytes, conflict, last, open, publish, raw, start};

const ID: &str = "Nats-Msg-Id";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
const FILTER: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
const SUBJECT: &str = "kr.e.default.key.one";

/// G1. The same retry is a duplicate on three servers and a wrong sequence on one.
#[tokio::test]
async fn a_retry_is_answered_otherwise_by_one_server_and_by_three() {
    for servers in [1, 3] {
        let cluster = start(servers);
        let log = open(&cluster).await;
        let client = raw(&cluster).await;
        let headers = [(ID, "one"), (EXPECTED, "0")];
        assert_eq!(publish(&client, "kr.e.raw", &headers, "raw").await["seq"], 1);
        let retried = publish(&client, "kr.e.raw", &headers, "raw").await;
        // What a duplicate holds is not looked at by the server.
        let other = publish(&client, "kr.e.raw", &headers, "other").await;
        if servers == 1 {
            assert_eq!((&retried["error"]["err_code"], &other["error"]["err_code"]), (&json!(10071), &json!(10071)));
        } else {
            assert_eq!((&retried["duplicate"], &retried["seq"]), (&json!(true), &json!(1)));
            assert_eq!((&other["duplicate"], &other["seq"]), (&json!(true), &json!(1)));
        }

        assert_eq!(log.append(SUBJECT, last(0), bytes("a")).await, Ok(appended(2)));
        assert_eq!(log.append(SUBJECT, last(0), bytes("a")).await, Ok(already(2)));
        assert_eq!(log.append(SUBJECT, last(0), bytes("b")).await, Ok(conflict(2)));
        // The same bytes in two places are two records.
        assert_eq!(log.append("kr.e.default.key.two", last(0), bytes("a")).await, Ok(appended(3)));
        assert_eq!(log.append(SUBJECT, last(2), bytes("a")).await, Ok(appended(4)));
    }
}

/// G2. A wildcard is taken for an expectation, and does not see what is on its way under another name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expectations_are_literal() {
    let cluster = start(3);
    let log = open(&cluster).await;
    let client = raw(&cluster).await;
    assert_eq!(publish(&client, "kr.e.g2.a", &[(EXPECTED, "0")], "a").await["seq"], 1);
    // The server compares with the last of another subject, under a name that is none.
    let wide = publish(&client, "kr.e.g2.b", &[(EXPECTED, "1"), (FILTER, "kr.e.g2.>")], "b").await;
    assert_eq!(wide["seq"], 2);

    // The log never says it that way, ...
    assert!(matches!(log.append("kr.e.g2.>", last(2), bytes("c")).await, Err(AppendError::Subject { .. })));
    assert_eq!(log.append(SUBJECT, last(0), bytes("c")).await, Ok(appended(3)));
    let stored = stored_headers(&client, 3).await;
    assert!(stored.contains(EXPECTED) && !stored.contains(FILTER), "{stored}");
    // ... and of those who expect the same of one subject, one is stored, however they meet on their way.
    for round in 0..20 {
        let subject = format!("kr.e.race.{round}");
        let racers: Vec<_> = (0..16)
            .map(|n| {
                let (log, subject) = (log.clone(), subject.clone());
                tokio::spawn(async move { log.append(&subject, last(0), bytes(n.to_string())).await.unwrap() })
            })
            .collect();
        let mut winners = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                Appended::Appended(sequence) => winners.push(sequence),
                Appended::Conflict { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(winners, [log.last(&subject).await.unwrap()]);
    }
}

/// G4. Ids are remembered for a while, and an expectation for ever.
#[tokio::test]
async fn a_retry_is_known_after_its_id_is_forgotten() {
    for servers in [1, 3] {
        let cluster = start(servers);
        let log = open(&cluster).await;
        let client = raw(&cluster).await;
        // A stream that forgets fast: the same id is stored twice.
        let forgetful = json!({"name": "F", "subjects": ["f"], "num_replicas": servers, "duplicate_window": 100_000_000});
        assert!(api(&client, "STREAM.CREATE.F", forgetful).await["error"].is_null());
        assert_eq!(publish(&client, "f", &[(ID, "one")], "x").await["seq"], 1);
        assert_eq!(publish(&client, "f", &[(ID, "one")], "x").await["duplicate"], true);
        forgotten(&client).await;

        // A record whose id no server knows, as after the window.
        assert_eq!(publish(&client, SUBJECT, &[], "a").await["seq"], 1);
        assert_eq!(log.append(SUBJECT, last(0), bytes("a")).await, Ok(already(1)));
        assert_eq!(log.append(SUBJECT, last(0), bytes("b")).await, Ok(conflict(1)));
        assert_eq!(log.head().await, Ok(Sequence(1)));
    }
}

async fn forgotten(client: &async_nats::Client) {
    let mut sequences = Vec::new();
    while !sequences.contains(&json!(2)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        sequences.push(publish(client, "f", &[(ID, "one")], "x").await["seq"].clone());
        assert!(sequences.len() < 100, "{sequences:?}");
    }
}

/// G4. A server that starts again reads the ids from what it has stored.
#[tokio::test]
async fn ids_are_known_after_a_restart() {
    let mut cluster = start(1);
    let log = open(&cluster).await;
    assert_eq!(log.append(SUBJECT, last(0), bytes("a")).await, Ok(appended(1)));
    let id = stored_headers(&raw(&cluster).await, 1).await;
    let id = id.lines().find_map(|line| line.strip_prefix("Nats-Msg-Id: ")).unwrap().trim().to_owned();
    cluster.server(0).kill().unwrap();
    cluster.server(0).run().unwrap();
    cluster.wait_ready().unwrap();
    let again = publish(&raw(&cluster).await, "kr.e.other", &[(ID, &id)], "a").await;
    assert_eq!((&again["duplicate"], &again["seq"]), (&json!(true), &json!(1)));
    let log = open(&cluster).await;
    assert_eq!(log.append(SUBJECT, last(0), bytes("a")).await, Ok(already(1)));
}

/// While a record on the same subject is on its way, three servers refuse without saying where the subject is. That is no conflict yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_in_flight_is_waited_for() {
    let cluster = start(3);
    let log = open(&cluster).await;
    let client = raw(&cluster).await;
    let mut in_flight = 0;
    for round in 0..100 {
        let subject = format!("kr.e.raw.{round}");
        let publishes = (0..32).map(|n| {
            let (client, subject) = (client.clone(), subject.clone());
            async move { publish(&client, &subject, &[(EXPECTED, "0")], &n.to_string()).await }
        });
        let answers = futures_util::future::join_all(publishes).await;
        in_flight += answers.iter().filter(|answer| answer["error"]["err_code"] == 10164).count();
        if in_flight > 0 {
            break;
        }
    }
    assert!(in_flight > 0, "no server refused with 10164");

    for round in 0..10 {
        let subject = format!("kr.e.ours.{round}");
        let appends = (0..32).map(|n| log.append(&subject, last(0), bytes(n.to_string())));
        let outcomes: Vec<_> = futures_util::future::join_all(appends).await.into_iter().map(Result::unwrap).collect();
        let sequence = log.last(&subject).await.unwrap();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Appended::Appended(sequence)).count(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == conflict(sequence.0)).count(), 31, "{outcomes:?}");
    }
}

/// Another stream that takes our subjects is not written to.
#[tokio::test]
async fn another_stream_is_not_written_to() {
    let cluster = start(1);
    let log = open(&cluster).await;
    let client = raw(&cluster).await;
    assert_eq!(api(&client, &format!("STREAM.DELETE.{STREAM}"), Value::Null).await["success"], true);
    let gone = log.append(SUBJECT, last(0), bytes("a")).await;
    assert!(matches!(&gone, Err(AppendError::Unavailable { reason }) if reason.contains("not on the NATS servers")), "{gone:?}");

    let impostor = json!({"name": "OTHER", "subjects": ["kr.>"]});
    assert!(api(&client, "STREAM.CREATE.OTHER", impostor).await["error"].is_null());
    let refused = log.append(SUBJECT, last(0), bytes("a")).await;
    assert!(matches!(&refused, Err(AppendError::Unavailable { reason }) if reason.contains("another stream")), "{refused:?}");
    assert_eq!(api(&client, "STREAM.INFO.OTHER", json!({})).await["state"]["messages"], 0);
    // It was there, so it is not made again.
    assert_eq!(log.prepare().await, Err(event_log::PrepareError::Gone));
}

/// The headers that were stored with a record.
async fn stored_headers(client: &async_nats::Client, sequence: u64) -> String {
    use base64::Engine as _;
    let answer = api(client, &format!("STREAM.MSG.GET.{STREAM}"), json!({ "seq": sequence })).await;
    let headers = base64::engine::general_purpose::STANDARD.decode(answer["message"]["hdrs"].as_str().unwrap()).unwrap();
    String::from_utf8(headers).unwrap()
}
