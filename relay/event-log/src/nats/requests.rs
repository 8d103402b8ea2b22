//! Requests and their answers over one inbox.
//!
//! The client library has requests of its own; these differ in what a log needs: whether a request can have reached a server is part of the
//! outcome, whoever waits is told as soon as the connection breaks, and an answer that never comes leaves nothing behind.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum RequestError {
    /// Nothing left this process.
    #[error("there is no connection to NATS")]
    NotSent,
    /// A server looked for somebody to give the request to, and found nobody.
    #[error("nobody at NATS takes requests for {subject}")]
    NoResponders { subject: String },
    #[error("NATS did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("the connection to NATS broke before the answer")]
    Disconnected,
}

/// Those who wait for an answer, by the number of their request.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Written by requests when they begin and end, and by what arrives.
    senders: Mutex<HashMap<u64, oneshot::Sender<Message>>>,
}

impl Waiting {
    /// Tells all who wait that nothing will come.
    pub(super) fn clear(&self) {
        self.senders.lock().clear();
    }

    fn answer(&self, message: Message) {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let sender = number.and_then(|number: u64| self.senders.lock().remove(&number));
        if let Some(sender) = sender {
            // Whoever asked may have stopped waiting.
            let _ = sender.send(message);
        }
    }
}

/// Forgets a request when its future ends, however it ends.
struct Entry<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.waiting.senders.lock().remove(&self.number);
    }
}

pub(crate) struct Requests {
    client: Client,
    inbox: String,
    next: AtomicU64,
    waiting: Arc<Waiting>,
}

impl Requests {
    pub(super) async fn start(client: Client, waiting: Arc<Waiting>, tasks: &TaskTracker, closing: CancellationToken) -> Self {
        let inbox = client.new_inbox();
        match client.subscribe(format!("{inbox}.*")).await {
            // It ends with the connection; then no request is answered any more, and each says so.
            Ok(answers) => drop(tasks.spawn(dispatch(answers, Arc::clone(&waiting), closing))),
            Err(error) => tracing::error!(%error, "no answer of NATS will be heard"),
        }
        Self { client, inbox, next: AtomicU64::new(0), waiting }
    }

    /// Sends a request and waits for the first answer. An error other than [`RequestError::NotSent`] leaves open what became of it,
    /// but for [`RequestError::NoResponders`], which says that nobody has it.
    pub(crate) async fn request(&self, subject: &str, headers: HeaderMap, payload: Bytes, wait: Duration) -> Result<Message, RequestError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.senders.lock().insert(number, sender);
        let _entry = Entry { waiting: &self.waiting, number };

        let reply = format!("{}.{number}", self.inbox);
        let sent = self.client.publish_with_reply_and_headers(subject.to_owned(), reply, headers, payload);
        match timeout(wait, sent).await {
            Ok(Ok(())) => {}
            // The queue of the client has no room, or has ended.
            Err(_) | Ok(Err(_)) => return Err(RequestError::NotSent),
        }
        match timeout(wait, answer).await {
            Err(_) => Err(RequestError::TimedOut(wait)),
            Ok(Err(_)) => Err(RequestError::Disconnected),
            Ok(Ok(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                Err(RequestError::NoResponders { subject: subject.to_owned() })
            }
            Ok(Ok(message)) => Ok(message),
        }
    }
}

async fn dispatch(mut answers: Subscriber, waiting: Arc<Waiting>, closing: CancellationToken) {
    // One wait for the end, not one beside each answer.
    let mut closed = pin!(closing.cancelled());
    loop {
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(message) => waiting.answer(message),
                None => break,
            },
            () = &mut closed => break,
        }
    }
    waiting.clear();
}
