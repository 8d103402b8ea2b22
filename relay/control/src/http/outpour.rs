//! A response body that blocking code writes, as fast as the client takes it.

use std::error::Error;
use std::io::{self, Write};

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::mpsc;

/// Chunks that wait for the client; the writing goes no faster than it is taken.
const CHUNKS_HELD: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;

/// Runs `write` on a thread of its own and gives what it writes as a body. It ends with the client: a chunk that nobody takes fails the next
/// write. `what` names it in the log, where an error goes.
pub(super) fn body<E: Error + 'static>(what: &'static str, write: impl FnOnce(Chunks) -> Result<(), E> + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel(CHUNKS_HELD);
    tokio::task::spawn_blocking(move || {
        let out = Chunks { sender: sender.clone(), chunk: Vec::with_capacity(CHUNK_BYTES) };
        if let Err(error) = write(out) {
            if !is_gone(&error) {
                tracing::error!(error = &error as &dyn Error, "{what} failed");
            }
            // An error in the body cuts the connection, so that a part is never taken for the whole. Nobody may be there to see it.
            let _ = sender.blocking_send(Err(io::Error::other(format!("{what} failed"))));
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|chunk| (chunk, receiver)) });
    Body::from_stream(chunks)
}

/// Whether the client has left.
fn is_gone(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    causes.any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// The writing end of a response body, for a blocking thread. What is left in it is written by `flush`.
pub(super) struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.sender.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
