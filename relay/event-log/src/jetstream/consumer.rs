//! A consumer of our own on a server: made at a sequence, pulled from, and thrown away at the first doubt.
//!
//! It keeps no position that matters: it lives in a server's memory and acknowledges nothing. One pull is under way at a time, so that
//! what is on its way to us is bounded whatever the reader does.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use schemas::Sequence;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::STREAM;
use crate::contract::Stored;
use crate::nats::api::ApiError;
use crate::nats::{Connection, Nats};

/// What one pull asks for at the most.
const PULL_RECORDS_MAX: usize = 2048;
const PULL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A pull that nothing came for ends after this, and the next begins.
const PULL_WAIT: Duration = Duration::from_secs(30);
/// The server says that a pull still stands.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Longer without a record or a heartbeat, and the consumer is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The server forgets a consumer that nobody pulled from.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
const CREATION_WAIT: Duration = Duration::from_secs(3);

pub(super) struct Consumer {
    nats: Nats,
    name: String,
    inbox: String,
    messages: Subscriber,
    connection: watch::Receiver<Connection>,
    epoch: u64,
    /// The number of the last pull, by which its end is told from that of an earlier one.
    pull: u64,
    /// How many records the pull may still bring; none is under way at 0.
    expected: usize,
}

pub(super) enum Next {
    /// A record; whether more are known to be on their way.
    Record { stored: Stored, more: bool },
    /// Nothing for now.
    Quiet,
    /// Nothing will come any more.
    Gone(String),
}

/// Anything, as long as it is a success.
#[derive(Deserialize)]
struct Created {}

impl Consumer {
    /// Makes a consumer whose first record is at a sequence, or at the end if the log has not reached it.
    pub(super) async fn create(nats: &Nats, from: Sequence) -> Result<Self, ApiError> {
        let client = nats.client();
        let connection = nats.connected();
        let epoch = connection.borrow().epoch;
        let inbox = client.new_inbox();
        let name = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        let config = json!({
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from.0,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": nanos(FORGOTTEN_AFTER),
            "num_replicas": 1,
            "mem_storage": true,
        });
        let body = json!({ "stream_name": STREAM, "config": config, "action": "create" });
        let what = format!("CONSUMER.CREATE.{STREAM}.{name}");
        let _: Created = nats.ask(&what, &body, CREATION_WAIT).await?;
        let messages = client.subscribe(format!("{inbox}.*")).await;
        let messages = messages.map_err(|error| ApiError::Garbled { subject: inbox.clone(), reason: error.to_string() })?;
        Ok(Self { nats: nats.clone(), name, inbox, messages, connection, epoch, pull: 0, expected: 0 })
    }

    /// The next record. `linger` bounds the wait where something else is to be done; heartbeats bound it in any case. Dropping the future
    /// loses nothing.
    pub(super) async fn next(&mut self, linger: Option<Duration>) -> Next {
        if self.expected == 0
            && let Err(reason) = self.pull().await
        {
            return Next::Gone(reason);
        }
        let epoch = self.epoch;
        let broken = self.connection.wait_for(|connection| !connection.is_up || connection.epoch != epoch);
        let message = tokio::select! {
            // What has arrived is used even if the connection is gone by now.
            biased;
            message = timeout(linger.unwrap_or(SILENCE_MAX), self.messages.next()) => message,
            _ = broken => return Next::Gone("the connection broke".to_owned()),
        };
        match message {
            Ok(Some(message)) => self.take(message),
            Ok(None) => Next::Gone("the connection has ended".to_owned()),
            Err(_) if linger.is_some() => Next::Quiet,
            Err(_) => Next::Gone("no heartbeat came".to_owned()),
        }
    }

    async fn pull(&mut self) -> Result<(), String> {
        let pull = json!({
            "batch": PULL_RECORDS_MAX,
            "max_bytes": PULL_BYTES_MAX,
            "expires": nanos(PULL_WAIT),
            "idle_heartbeat": nanos(HEARTBEAT),
        });
        self.pull += 1;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{}", self.name);
        let reply = format!("{}.{}", self.inbox, self.pull);
        let sent = self.nats.client().publish_with_reply(subject, reply, Bytes::from(pull.to_string())).await;
        sent.map_err(|error| error.to_string())?;
        self.expected = PULL_RECORDS_MAX;
        Ok(())
    }

    fn take(&mut self, message: Message) -> Next {
        let Some(status) = message.status else {
            self.expected = self.expected.saturating_sub(1);
            let Some((sequence, pending)) = message.reply.as_deref().and_then(place) else {
                return Next::Gone(format!("a message on {} does not say where it stands", message.subject));
            };
            let stored = Stored { sequence, subject: message.subject.as_str().into(), bytes: message.payload };
            return Next::Record { stored, more: pending > 0 && self.expected > 0 };
        };
        let of_this_pull = message.subject.rsplit('.').next().and_then(|pull| pull.parse().ok()) == Some(self.pull);
        let description = message.description.unwrap_or_default();
        match status.as_u16() {
            100 => Next::Quiet,
            _ if !of_this_pull => Next::Quiet,
            // Nothing came in time, or as many bytes as may come.
            404 | 408 => self.pulled(),
            409 if description.contains("MaxBytes") || description.contains("Batch Completed") => self.pulled(),
            status => Next::Gone(format!("{status} {description}")),
        }
    }

    fn pulled(&mut self) -> Next {
        self.expected = 0;
        Next::Quiet
    }
}

/// The sequence of a message, and how many the consumer has after it:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`, with a domain and an account after `ACK` where
/// there are such.
fn place(reply: &str) -> Option<(Sequence, u64)> {
    let parts: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let skipped = if parts.len() == 7 { 0 } else { 2 };
    let number = |index: usize| parts.get(skipped + index).and_then(|part| part.parse().ok());
    Some((Sequence(number(3)?), number(6)?))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_where_it_stands() {
        assert_eq!(place("$JS.ACK.KEYRELAY_EVENTS.c.1.17.5.1700000000000000000.3"), Some((Sequence(17), 3)));
        assert_eq!(place("$JS.ACK.hub.ACCOUNT.KEYRELAY_EVENTS.c.1.17.5.1700000000000000000.3.token"), Some((Sequence(17), 3)));
        assert_eq!(place("$JS.ACK.KEYRELAY_EVENTS.c"), None);
        assert_eq!(place("_INBOX.a.b"), None);
    }
}
