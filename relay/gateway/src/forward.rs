//! Sending a request to upstreams, one after another, until one answers it.
//!
//! Another is tried only before the first byte has gone to the client, and only for what says something about the upstream and not
//! about the request. If all fail, the last answer there was is passed on as it is.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use schemas::PoolId;
use schemas::key::Endpoint;
use schemas::upstream::Dialect;

use crate::choose::Selection;
use crate::cooling::Failure;
use crate::fallback::{self, SendError};
use crate::gateway::State;
use crate::grants;
use crate::headers::RETRY_AFTER_MS;
use crate::meter::Meter;
use crate::metrics::AttemptResult;
use crate::pulse::UnderWay;
use crate::refusal::Refusal;
use crate::targets::{Shown, Target};
use crate::transport::{self, TransportError};

/// How many upstreams one request may bother.
pub(crate) const ATTEMPTS_MAX: u32 = 4;

/// What is sent, the same to each upstream but for credential and address.
pub(crate) struct Outgoing<'a> {
    pub(crate) dialect: Dialect,
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Option<Cow<'a, str>>,
    pub(crate) body: Bytes,
    /// Other bodies for upstreams of these pools: with lower bounds on the answer.
    pub(crate) pool_bodies: Vec<(PoolId, Bytes)>,
}

/// A request on its way through the candidates.
pub(crate) struct Forwarding<'a> {
    pub(crate) state: &'a State,
    pub(crate) outgoing: Outgoing<'a>,
    pub(crate) first: Arc<Target>,
    pub(crate) rest: Selection,
    pub(crate) meter: Meter,
}

/// The head of an upstream's answer, its body to come.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) target: Arc<Target>,
    pub(crate) attempts: u32,
    /// Time spent waiting for upstreams, all attempts together.
    pub(crate) waited: Duration,
    /// Time that this upstream took.
    pub(crate) first_byte: Duration,
    pub(crate) meter: Meter,
    pub(crate) under_way: UnderWay,
}

/// What an attempt ended in, if not in an answer that stands.
enum Miss {
    /// An answer that another upstream may better.
    Answer(Response<Incoming>),
    Unreachable,
    Timeout,
}

impl Outgoing<'_> {
    fn body(&self, target: &Target) -> Bytes {
        let pool = target.route.upstream.details.pool;
        self.pool_bodies.iter().find(|(id, _)| *id == pool).map_or(&self.body, |(_, body)| body).clone()
    }
}

impl Forwarding<'_> {
    pub(crate) async fn run(mut self) -> Result<Answer, Refusal> {
        let mut target = Arc::clone(&self.first);
        let (mut attempts, mut waited) = (0, Duration::ZERO);
        // The last answer that did not stand, with its upstream and time.
        let mut fallback: Option<(Response<Incoming>, Arc<Target>, Duration, UnderWay)> = None;
        let mut is_timeout = false;
        loop {
            attempts += 1;
            if let Some(record) = self.meter.record() {
                record.upstream = target.route.upstream.id;
                record.attempts = attempts;
            }
            let under_way = target.pulse.begin();
            let sent = Instant::now();
            let attempt = self.attempt(&target).await;
            let first_byte = sent.elapsed();
            waited += first_byte;
            match attempt {
                Ok(response) => {
                    target.pulse.answered(first_byte);
                    return Ok(Answer { response, target, attempts, waited, first_byte, meter: self.meter, under_way });
                }
                Err(Miss::Answer(response)) => fallback = Some((response, target, first_byte, under_way)),
                Err(Miss::Unreachable) => is_timeout = false,
                Err(Miss::Timeout) => is_timeout = true,
            }
            #[cfg(feature = "faults")]
            if crate::faults::is_planted("no-failover") {
                break;
            }
            let next = if attempts < ATTEMPTS_MAX { self.rest.next(&self.state.random) } else { None };
            match next {
                Some(next) => target = next,
                None => break,
            }
        }
        if let Some((response, target, first_byte, under_way)) = fallback {
            if let Some(record) = self.meter.record() {
                record.upstream = target.route.upstream.id;
            }
            return Ok(Answer { response, target, attempts, waited, first_byte, meter: self.meter, under_way });
        }
        let refusal = if is_timeout { Refusal::UpstreamTimeout } else { Refusal::UpstreamFailed };
        self.meter.settle_unanswered(refusal.status());
        Err(refusal)
    }

    async fn attempt(&self, target: &Target) -> Result<Response<Incoming>, Miss> {
        if grants::is_expired(self.state, target) {
            // Boxed, so that a request that need not wait is no larger for those that do.
            let Some(fresh) = Box::pin(grants::fresh(self.state, target)).await else {
                let upstream = &target.route.upstream.details.name;
                tracing::warn!(upstream.name = upstream, "upstream is not asked: its access token has expired");
                self.note(target, Some(Failure::Credential), AttemptResult::Credential);
                return Err(Miss::Unreachable);
            };
            return self.ask(&fresh).await;
        }
        self.ask(target).await
    }

    async fn ask(&self, target: &Target) -> Result<Response<Incoming>, Miss> {
        let response = match fallback::send(self.state, target, |credential| self.request(target, credential)).await {
            Ok(response) => response,
            Err(error) => {
                let upstream = &target.route.upstream.details.name;
                let (failure, result, miss) = match &error {
                    SendError::Credential(_) | SendError::Address => (Failure::Credential, AttemptResult::Credential, Miss::Unreachable),
                    SendError::Transport(TransportError::Timeout) => (Failure::Timeout, AttemptResult::Timeout, Miss::Timeout),
                    SendError::Transport(TransportError::Unreachable(_)) => {
                        (Failure::Unreachable, AttemptResult::Unreachable, Miss::Unreachable)
                    }
                };
                if matches!(error, SendError::Credential(_)) {
                    tracing::error!(upstream.name = upstream, error = &error as &dyn std::error::Error, "credential is not at hand");
                } else {
                    tracing::warn!(upstream.name = upstream, error = &error as &dyn std::error::Error, "upstream gave no answer");
                }
                self.note(target, Some(failure), result);
                return Err(miss);
            }
        };
        let (failure, result) = judge(response.status(), response.headers());
        self.note(target, failure, result);
        if response.status() == StatusCode::UNAUTHORIZED {
            grants::refused(self.state, target);
        }
        if failure.is_some() { Err(Miss::Answer(response)) } else { Ok(response) }
    }

    /// The request for this upstream with a header that shows a secret; none if it has no such address.
    fn request(&self, target: &Target, (name, credential): Shown) -> Option<http::Request<http_body_util::Full<Bytes>>> {
        #[cfg(feature = "faults")]
        if crate::faults::is_planted("leak-credential-in-log") {
            tracing::trace!(credential = ?credential.as_bytes().escape_ascii().to_string(), "asking an upstream");
        }
        let uri = target.uri(self.outgoing.endpoint, self.outgoing.query.as_deref())?;
        let mut request = transport::request(Method::POST, uri, self.outgoing.body(target));
        *request.headers_mut() = self.outgoing.headers.clone();
        request.headers_mut().insert(name, credential);
        Some(request)
    }

    fn note(&self, target: &Target, failure: Option<Failure>, result: AttemptResult) {
        let (upstream, standing) = (target.route.upstream.id, target.standing());
        match failure {
            Some(failure) => self.state.cooling.failed(upstream, standing, failure, self.state.now()),
            None => self.state.cooling.succeeded(upstream),
        }
        self.state.metrics.attempted(self.outgoing.dialect, result);
    }
}

/// What a status says about the upstream. A client's own mistake says nothing.
pub(crate) fn judge(status: StatusCode, headers: &HeaderMap) -> (Option<Failure>, AttemptResult) {
    match status.as_u16() {
        429 => (Some(Failure::RateLimited(retry_after(headers))), AttemptResult::RateLimited),
        401..=403 => (Some(Failure::Credential), AttemptResult::Credential),
        408 | 500.. => (Some(Failure::Server(retry_after(headers))), AttemptResult::ServerError),
        // A redirect is never followed: the credential goes where it was entered for.
        300..=399 => (Some(Failure::Server(None)), AttemptResult::ServerError),
        _ => (None, AttemptResult::Answered),
    }
}

/// Seconds or milliseconds; a date is not worth a clock's disagreement.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number(RETRY_AFTER_MS).map(|ms| ms / 1000.0).or_else(|| number(header::RETRY_AFTER))?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_is_the_upstreams_fault_is_tried_elsewhere() {
        for status in [200, 201, 400, 404, 409, 413, 415, 422] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap_or_default(), &HeaderMap::new()).0, None, "{status}");
        }
        for status in [301, 401, 402, 403, 408, 429, 500, 502, 503, 504, 529] {
            assert!(judge(StatusCode::from_u16(status).unwrap_or_default(), &HeaderMap::new()).0.is_some(), "{status}");
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_milliseconds() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(2)));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from_static("250"));
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(250)));
        for odd in ["-1", "soon", "inf", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(odd))]);
            assert_eq!(retry_after(&headers), None, "{odd}");
        }
    }
}
