//! A response body for code that blocks.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// Chunks between the connection and the reader; the connection waits when they are full.
const CHUNKS_HELD: usize = 16;

/// The reading end; the body is taken from the connection by [`drive`].
pub(super) struct BodyReader {
    chunk: Bytes,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
}

/// Runs blocking work over a body, on a thread of its own.
pub(super) async fn drive<T: Send + 'static>(mut body: Incoming, work: impl FnOnce(BodyReader) -> T + Send + 'static) -> anyhow::Result<T> {
    let (sender, chunks) = mpsc::channel(CHUNKS_HELD);
    let work = tokio::task::spawn_blocking(move || work(BodyReader { chunk: Bytes::new(), chunks }));
    while let Some(frame) = body.frame().await {
        let chunk = frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(io::Error::other);
        // The work may be done, or have failed, before the body ends.
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    drop(sender);
    Ok(work.await?)
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
