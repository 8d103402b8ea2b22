//! Tells the other nodes how this one stands, and hears them: core NATS messages, which are fast and may be lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use futures_util::StreamExt as _;
use schemas::{ClusterId, WriterId};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::message::{Message, Told};
use super::registry::Registry;

/// How often a node is heard when nothing changes.
const BEAT: Duration = Duration::from_secs(1);
/// Changes that come faster than this are told together: at most 200 messages a second from a node that applies a busy log.
const COALESCE: Duration = Duration::from_millis(5);
/// How long one message may wait for room in the client's queue.
const SEND_WAIT: Duration = Duration::from_millis(500);
/// The pause before another attempt to subscribe.
const SUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Heartbeat {
    pub(crate) client: Client,
    pub(crate) cluster: ClusterId,
    pub(crate) registry: Arc<Registry>,
}

impl Heartbeat {
    /// Runs until it is dropped. The client subscribes again by itself after a reconnect; a subscription ends with the client.
    pub(crate) async fn run(self) {
        let mut beat = 0;
        loop {
            match self.client.subscribe(self.subject()).await {
                Ok(messages) => self.exchange(messages, &mut beat).await,
                Err(error) => tracing::debug!(%error, "subscribing to the other nodes"),
            }
            sleep(SUBSCRIBE_PAUSE).await;
        }
    }

    async fn exchange(&self, mut messages: Subscriber, beat: &mut u64) {
        let mut sent = Instant::now();
        let mut is_pending = self.registry.own().is_some();
        loop {
            let due = sent + if is_pending { COALESCE } else { BEAT };
            let wake = self.registry.next_end(Instant::now()).map_or(due, |end| end.min(due));
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hear(&message.payload),
                    None => return,
                },
                () = self.registry.changed.notified(), if !is_pending => is_pending = true,
                () = sleep_until(wake) => {
                    self.registry.refresh(Instant::now());
                    if Instant::now() >= due {
                        *beat += 1;
                        self.beat(*beat).await;
                        (sent, is_pending) = (Instant::now(), false);
                    }
                }
            }
        }
    }

    fn hear(&self, payload: &[u8]) {
        match Message::decode(self.cluster, payload).map(|message| message.told) {
            Some(Told::Here { beat, status }) => self.registry.hear(status, beat, Instant::now()),
            Some(Told::Gone { node }) => self.registry.forget(node),
            None => self.registry.ignore("not of this version and cluster"),
        }
    }

    async fn beat(&self, beat: u64) {
        if let Some(status) = self.registry.own() {
            self.tell(Told::Here { beat, status }).await;
        }
    }

    pub(crate) async fn tell_gone(&self, node: WriterId) {
        self.tell(Told::Gone { node }).await;
    }

    /// Losing a message is right: the next says the same or more. What waits for a connection would come late and in heaps.
    async fn tell(&self, told: Told) {
        if self.client.connection_state() == State::Connected {
            let message = Message::encode(self.cluster, told);
            let sent = timeout(SEND_WAIT, self.client.publish(self.subject(), message.into())).await;
            if !matches!(sent, Ok(Ok(()))) {
                tracing::debug!("a message to the other nodes was not sent");
            }
        }
    }

    fn subject(&self) -> String {
        format!("kr.n.{}", self.cluster)
    }
}
