//! A request's body, held whole so that it can be sent to a second upstream. The bytes of all held bodies come out of one budget.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::{BODY_IDLE_TIMEOUT, DISCARD_TIMEOUT, GatewayConfig};
use crate::refusal::{BodyFault, Refusal};

/// Gives its bytes back to the budget when dropped.
pub(crate) struct HeldBody {
    pub(crate) bytes: Bytes,
    _budget: OwnedSemaphorePermit,
}

impl HeldBody {
    pub(crate) async fn read(
        headers: &HeaderMap,
        mut body: Body,
        config: &GatewayConfig,
        budget: &Arc<Semaphore>,
    ) -> Result<Self, Refusal> {
        let is_plain = |encoding: &http::HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
        if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
            return Err(Refusal::BodyInvalid(BodyFault::Compressed));
        }
        let max = config.body_bytes_max;
        if body.size_hint().lower() > max as u64 {
            discard(headers, body, 2 * max).await;
            return Err(Refusal::BodyTooLarge(max));
        }
        let mut held = take(budget, 0)?;
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = timeout(BODY_IDLE_TIMEOUT, body.frame()).await.map_err(|_| Refusal::BodyTimeout)? {
            let frame = frame.map_err(|_| Refusal::BodyInvalid(BodyFault::BrokeOff))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + joined.len() + data.len() > max {
                drop((held, first, joined));
                discard(headers, body, 2 * max).await;
                return Err(Refusal::BodyTooLarge(max));
            }
            held.merge(take(budget, data.len())?);
            // Most bodies are one chunk, which is kept as it is.
            if first.is_empty() && joined.is_empty() {
                first = data;
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
        }
        let bytes = if joined.is_empty() { first } else { joined.freeze() };
        Ok(Self { bytes, _budget: held })
    }
}

/// Reads the rest of a body that nobody wants, for a while. A server that closes with bytes unread resets the connection, and the client
/// may never see the refusal.
pub(crate) async fn discard(headers: &HeaderMap, mut body: Body, bytes_max: usize) {
    // A client that asks first has not sent any.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut left = bytes_max;
    let drained = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Whoever takes longer is cut off.
    timeout(DISCARD_TIMEOUT, drained).await.ok();
}

fn take(budget: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let count = u32::try_from(bytes).map_err(|_| Refusal::Overloaded)?;
    Arc::clone(budget).try_acquire_many_owned(count).map_err(|_| Refusal::Overloaded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use futures_util::stream;

    use super::*;

    fn chunked(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok::<_, std::convert::Infallible>(Bytes::from_static(chunk.as_bytes()))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    async fn read(body: Body, max: usize, budget: &Arc<Semaphore>) -> Result<HeldBody, Refusal> {
        let config = GatewayConfig { body_bytes_max: max, ..GatewayConfig::default() };
        HeldBody::read(&HeaderMap::new(), body, &config, budget).await
    }

    #[tokio::test]
    async fn chunks_are_joined_up_to_the_bound() {
        let budget = Arc::new(Semaphore::new(100));
        assert_eq!(read(chunked(&["ab", "", "c", "de"]), 5, &budget).await.unwrap().bytes, "abcde");
        assert_eq!(read(chunked(&[]), 5, &budget).await.unwrap().bytes, "");
        assert_eq!(read(chunked(&["abc", "def"]), 5, &budget).await.err(), Some(Refusal::BodyTooLarge(5)));
        assert_eq!(read(Body::from("abcdef"), 5, &budget).await.err(), Some(Refusal::BodyTooLarge(5)));
    }

    #[tokio::test]
    async fn a_body_beyond_the_budget_is_refused_until_another_is_dropped() {
        let budget = Arc::new(Semaphore::new(10));
        let held = read(Body::from("12345678"), 10, &budget).await.unwrap();
        assert_eq!(read(Body::from("123"), 10, &budget).await.err(), Some(Refusal::Overloaded));
        drop(held);
        assert!(read(Body::from("123"), 10, &budget).await.is_ok());
        assert_eq!(budget.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_compressed_body_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
        let read = HeldBody::read(&headers, Body::from("x"), &GatewayConfig::default(), &Arc::new(Semaphore::new(10))).await;
        assert_eq!(read.err(), Some(Refusal::BodyInvalid(BodyFault::Compressed)));
    }
}
