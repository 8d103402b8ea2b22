//! What happens to the connection, told once: to whoever watches it, to whoever waits for an answer, and to the operator.

use std::sync::Arc;

use async_nats::Event;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Connection;
use super::requests::Waiting;

pub(super) struct Observer {
    connection: watch::Sender<Connection>,
    waiting: Arc<Waiting>,
    /// The last error that was logged since the connection changed; an attempt a second repeats it.
    told: Mutex<Option<String>>,
}

impl Observer {
    pub(super) fn new(waiting: Arc<Waiting>) -> (Self, watch::Receiver<Connection>) {
        let (connection, watched) = watch::channel(Connection::default());
        (Self { connection, waiting, told: Mutex::default() }, watched)
    }

    pub(super) fn see(&self, event: &Event) {
        match event {
            Event::Connected => {
                *self.told.lock() = None;
                self.connection.send_modify(|connection| {
                    connection.is_up = true;
                    connection.epoch += 1;
                });
                tracing::info!("connected to NATS");
            }
            Event::Disconnected => {
                *self.told.lock() = None;
                self.down();
                tracing::warn!("the connection to NATS broke; it is tried again");
            }
            Event::Closed => self.down(),
            Event::LameDuckMode => tracing::info!("the NATS server is about to stop"),
            Event::Draining => {}
            Event::SlowConsumer(_) => self.tell("messages from NATS came faster than they were taken, and were dropped".to_owned()),
            Event::ServerError(error) => self.tell(error.to_string()),
            Event::ClientError(error) => self.tell(error.to_string()),
        }
    }

    /// Answers to what was asked over the old connection do not come over the next.
    fn down(&self) {
        self.connection.send_modify(|connection| connection.is_up = false);
        self.waiting.clear();
    }

    fn tell(&self, error: String) {
        let mut told = self.told.lock();
        if told.as_ref() != Some(&error) {
            tracing::warn!(%error, "NATS");
            *told = Some(error);
        }
    }
}
