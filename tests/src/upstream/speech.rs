//! A streamed answer while it is being spoken.

use std::io;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::{Behaviour, Body, Counted, Memory};

/// Server-sent events, one by one.
pub(super) type Frames = Box<dyn Iterator<Item = String> + Send>;

/// The state of an answer: what it still has to say, and whether it got to its end.
pub(super) struct Speech {
    memory: Arc<Memory>,
    behaviour: Behaviour,
    frames: Peekable<Frames>,
    counted: Counted,
    said: u64,
    ended: bool,
}

impl Speech {
    pub(super) fn new(memory: Arc<Memory>, behaviour: Behaviour, frames: Frames, counted: Counted) -> Self {
        Self { memory, behaviour, frames: frames.peekable(), counted, said: 0, ended: false }
    }

    /// The answer as a body: the connection asks for the next frame when it has room for it.
    pub(super) fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut speech| async move { speech.next().await.map(|frame| (frame, speech)) });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        if self.ended {
            return None;
        }
        if self.behaviour.cut_after == Some(self.said) {
            self.ended = true;
            return Some(Err(io::Error::other("cut by the script")));
        }
        if self.behaviour.hold_after == Some(self.said) {
            self.memory.release.notified().await;
        }
        if self.behaviour.drip_ms > 0 && self.said > 0 {
            tokio::time::sleep(Duration::from_millis(self.behaviour.drip_ms)).await;
        }
        let frame = self.frames.next()?;
        self.said += 1;
        if self.frames.peek().is_none() {
            // Counted with the last frame: a client that has it may go before the body is seen to end.
            self.ended = true;
            self.memory.count(self.counted);
        }
        self.memory.spoken_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Some(Ok(Frame::data(Bytes::from(frame))))
    }
}

impl Drop for Speech {
    fn drop(&mut self) {
        if !self.ended {
            self.memory.abandoned.send_modify(|count| *count += 1);
        }
    }
}
