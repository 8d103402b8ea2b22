//! Reading on for ever: what is there first, then what comes.

use futures_util::stream::{self, BoxStream, StreamExt};
use schemas::Sequence;
use tokio::sync::watch;

use crate::contract::ReadError;

/// A stream of runs from a sequence on. `read` returns what stands from a sequence on, at least one item once the head has reached it.
pub(crate) fn tail<T, R, F>(head: watch::Receiver<Sequence>, from: Sequence, read: R) -> BoxStream<'static, Result<Vec<T>, ReadError>>
where
    T: Send + 'static,
    R: Fn(Sequence) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Vec<T>, ReadError>> + Send,
{
    let start = (head, from.max(Sequence(1)), read);
    stream::try_unfold(start, |(mut head, next, read)| async move {
        // The sender is gone when the log was closed: nothing will ever come.
        if head.wait_for(|head| *head >= next).await.is_err() {
            return Err(ReadError::Closed);
        }
        let run = read(next).await?;
        let after = Sequence(next.0 + run.len() as u64);
        Ok(Some((run, (head, after, read))))
    })
    .boxed()
}
