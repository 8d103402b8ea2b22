//! The way from the blocking side of the store to the task that talks to NATS, and back.
//!
//! A caller hands over one request and waits for its answer on a channel, no longer than a request may take. The task is [`serve`], a part
//! of [`run`](super::NatsKeyStore::run); while that does not run, every request is [`Away`].

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::task;

use super::bucket::{Away, Bucket, Published, REQUEST_WAIT, Write};
use super::entry_key::EntryKey;
use super::state::State;

/// Requests that wait for the task. Callers block, so there are at most as many as threads.
const WAITING_MAX: usize = 1024;

/// How much longer a caller waits than the request may take, so that it hears what came of it.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

pub(crate) enum Request {
    Get(EntryKey, SyncSender<Result<Option<State>, Away>>),
    Last(SyncSender<Result<u64, Away>>),
    Publish(Write, Instant, SyncSender<Result<Published, Away>>),
}

/// The caller's end.
pub(crate) struct Link {
    requests: mpsc::Sender<Request>,
}

impl Link {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        (Self { requests }, waiting)
    }

    pub(crate) fn get(&self, key: &EntryKey, until: Instant) -> Result<Option<State>, Away> {
        self.ask(until, |answer| Request::Get(key.clone(), answer)).unwrap_or_else(Err)
    }

    pub(crate) fn last(&self, until: Instant) -> Result<u64, Away> {
        self.ask(until, Request::Last).unwrap_or_else(Err)
    }

    pub(crate) fn publish(&self, write: Write, until: Instant) -> Result<Published, Away> {
        let give_up = until.min(Instant::now() + REQUEST_WAIT);
        match self.ask(until, |answer| Request::Publish(write, give_up, answer)) {
            Ok(answer) => answer,
            // The task may have sent it, only the answer is late.
            Err(Away(reason)) => Ok(Published::Unknown(reason)),
        }
    }

    fn ask<T>(&self, until: Instant, request: impl FnOnce(SyncSender<T>) -> Request) -> Result<T, Away> {
        let (answer, answered) = sync_channel(1);
        self.requests.try_send(request(answer)).map_err(|_| Away("too many wait for the key store".to_owned()))?;
        let wait = until.saturating_duration_since(Instant::now()).min(REQUEST_WAIT + ANSWER_MARGIN);
        blocking(|| answered.recv_timeout(wait))
            .map_err(|_| Away("no answer in time, or the task of the key store does not run".to_owned()))
    }
}

/// Answers requests until the store is gone. Those under way are answered side by side.
pub(crate) async fn serve(bucket: &Bucket, waiting: &mut mpsc::Receiver<Request>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            request = waiting.recv() => match request {
                Some(request) => under_way.push(answer(bucket, request)),
                None => return,
            },
            Some(()) = under_way.next() => {}
        }
    }
}

async fn answer(bucket: &Bucket, request: Request) {
    // An answer that nobody waits for any more is dropped.
    match request {
        Request::Get(key, answer) => drop(answer.try_send(bounded(bucket.get(&key)).await)),
        Request::Last(answer) => drop(answer.try_send(bounded(bucket.last()).await)),
        Request::Publish(_, give_up, _) if Instant::now() > give_up => {}
        Request::Publish(write, _, answer) => {
            let published = tokio::time::timeout(REQUEST_WAIT, bucket.publish(write)).await;
            drop(answer.try_send(published.unwrap_or_else(|_| Ok(Published::Unknown("no answer in time".to_owned())))));
        }
    }
}

async fn bounded<T>(request: impl Future<Output = Result<T, Away>>) -> Result<T, Away> {
    tokio::time::timeout(REQUEST_WAIT, request).await.unwrap_or_else(|_| Err(Away("no answer in time".to_owned())))
}

/// Blocks this thread. A worker of a runtime hands its tasks to another one first, or the one that answers might be among them.
pub(crate) fn blocking<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => task::block_in_place(wait),
        _ => wait(),
    }
}

/// Retries under one deadline, with pauses that grow.
pub(crate) struct Retry {
    deadline: Instant,
    pause: Duration,
}

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl Retry {
    pub(crate) fn within(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, pause: PAUSE_MIN }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits for a while; false, at once, if there is no time for that.
    pub(crate) fn pause(&mut self) -> bool {
        if Instant::now() + self.pause >= self.deadline {
            return false;
        }
        blocking(|| thread::sleep(self.pause));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}
