//! One thread that owns the writes of a log: it drains a bounded queue into runs, and commits each run as a whole.

use std::io;
use std::mem;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tokio::sync::mpsc;

/// The most requests that wait for the thread; who comes later waits to be let in.
const QUEUE_LENGTH_MAX: usize = 4096;

/// How large a run may grow while requests are waiting. A run never waits for requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunLimits {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// Something that can be written, of a size in bytes.
pub(crate) trait Request: Send + 'static {
    fn bytes(&self) -> usize;
}

enum Message<R> {
    Request(R),
    Close,
}

/// The handle of the thread. Dropping it lets the thread finish what is queued and waits for that, which is one synced write or a few.
pub(crate) struct Worker<R> {
    queue: mpsc::Sender<Message<R>>,
    /// Taken by whoever waits for the thread's end.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The thread has ended.
#[derive(Debug)]
pub(crate) struct Stopped;

impl<R: Request> Worker<R> {
    /// Starts the thread. `commit` gets every request exactly once, in the order of arrival.
    pub(crate) fn spawn(name: &str, limits: RunLimits, commit: impl FnMut(Vec<R>) + Send + 'static) -> io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE_LENGTH_MAX);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(requests, limits, commit))?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)) })
    }

    pub(crate) async fn send(&self, request: R) -> Result<(), Stopped> {
        self.queue.send(Message::Request(request)).await.map_err(|_| Stopped)
    }

    /// Refuses further requests, finishes those that are queued, and returns when the thread has ended.
    pub(crate) async fn close(&self) {
        // The thread may have been closed before; then there is nothing to ask of it.
        let _ = self.queue.send(Message::Close).await;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || join(thread)).await;
            debug_assert!(joined.is_ok(), "joining cannot panic");
        }
    }
}

impl<R> Drop for Worker<R> {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel(1);
        drop(mem::replace(&mut self.queue, closed));
        if let Some(thread) = self.thread.get_mut().take() {
            join(thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("the writer thread of a log panicked");
    }
}

fn run<R: Request>(mut queue: mpsc::Receiver<Message<R>>, limits: RunLimits, mut commit: impl FnMut(Vec<R>)) {
    while let Some(message) = queue.blocking_recv() {
        let mut requests = Vec::new();
        let mut bytes = 0;
        let mut next = Some(message);
        while let Some(message) = next {
            match message {
                Message::Request(request) => {
                    bytes += request.bytes();
                    requests.push(request);
                }
                // What was sent before is still received; whoever sends now is refused.
                Message::Close => queue.close(),
            }
            let is_full = requests.len() >= limits.requests || bytes >= limits.bytes;
            next = if is_full { None } else { queue.try_recv().ok() };
        }
        if !requests.is_empty() {
            commit(requests);
        }
    }
}
