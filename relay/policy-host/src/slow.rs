//! The threads that slow policies run on: few, with a short queue, so that they never hold up what is fast.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{Evaluation, Input, Module};

/// Jobs that may wait for each thread.
const QUEUE_PER_THREAD: usize = 8;
/// A job that waited longer is not begun: its request has other things to do.
const WAIT_MAX: Duration = Duration::from_secs(2);

struct Job {
    module: Arc<Module>,
    input: Arc<Input>,
    answer: oneshot::Sender<Evaluation>,
    queued_at: Instant,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    /// Written by `submit`, by the threads and on drop; held for a push or a pop.
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The threads and their queue. Dropping it lets the threads end after the job in hand.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    waiting_max: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let mut pool = Self { shared: Arc::default(), waiting_max: threads * QUEUE_PER_THREAD, threads: Vec::with_capacity(threads) };
        for n in 0..threads {
            let shared = pool.shared.clone();
            pool.threads.push(std::thread::Builder::new().name(format!("policy-slow-{n}")).spawn(move || work(&shared))?);
        }
        Ok(pool)
    }

    /// None if the queue is full.
    pub(crate) fn submit(&self, module: Arc<Module>, input: Arc<Input>) -> Option<oneshot::Receiver<Evaluation>> {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.shared.queue.lock();
        if queue.jobs.len() >= self.waiting_max {
            return None;
        }
        queue.jobs.push_back(Job { module, input, answer, queued_at: Instant::now() });
        drop(queue);
        self.shared.wake.notify_one();
        Some(receiver)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.is_closed = true;
        let left = std::mem::take(&mut queue.jobs);
        drop(queue);
        // Jobs hold modules, which may hold the last reference to other parts of the host; not under the lock.
        drop(left);
        self.shared.wake.notify_all();
        self.threads.clear();
    }
}

fn work(shared: &Shared) {
    while let Some(job) = next(shared) {
        // A client that left needs no answer; one that waited too long has none by dropping the sender.
        if job.answer.is_closed() || job.queued_at.elapsed() > WAIT_MAX {
            continue;
        }
        let evaluation = job.module.decide(&job.input);
        // The client may have left meanwhile.
        drop(job.answer.send(evaluation));
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut queue = shared.queue.lock();
    loop {
        if queue.is_closed {
            return None;
        }
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        shared.wake.wait(&mut queue);
    }
}
