//! An upstream's answer on its way to the client: a body that pulls when the client pulls, so back-pressure is the network's own and
//! nothing is queued here. Dropping it (the client left, or the last byte was sent) drops the upstream's body, which ends the call.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use schemas::RequestId;
use schemas::upstream::Dialect;
use schemas::usage::Outcome;
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use crate::gateway::InFlight;
use crate::limits::Permit;
use crate::meter::Meter;
use crate::pulse::UnderWay;
use crate::refusal::Refusal;
use crate::tap::Tap;

/// Why an answer that is no stream of events was cut. The server then closes the connection, which is how the client learns of it.
#[derive(Debug, Error)]
pub(crate) enum AnswerError {
    #[error("the upstream broke off its answer")]
    BrokeOff(#[source] hyper::Error),
    #[error("the upstream's answer stalled or took too long")]
    Timeout,
}

/// The upstream's body as it comes.
#[cfg(not(feature = "faults"))]
pub(crate) type UpstreamBody = hyper::body::Incoming;
#[cfg(feature = "faults")]
pub(crate) type UpstreamBody = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

/// The body, with everything a request holds until its last byte.
pub(crate) struct AnswerBody {
    pub(crate) upstream: UpstreamBody,
    pub(crate) tap: Tap,
    pub(crate) meter: Meter,
    pub(crate) deadlines: Deadlines,
    pub(crate) dialect: Dialect,
    pub(crate) request: RequestId,
    /// Whether the head of the answer was a success.
    pub(crate) is_success: bool,
    /// Whether it is a stream of events.
    pub(crate) is_stream: bool,
    /// Settled, and nothing is left to send.
    pub(crate) is_over: bool,
    pub(crate) _permit: Option<Permit>,
    pub(crate) _under_way: UnderWay,
    pub(crate) _in_flight: InFlight,
}

/// When an answer has taken too long. The timer is set only when there is something to wait for, and set anew only when it fires.
pub(crate) struct Deadlines {
    idle: Duration,
    total_at: Instant,
    /// Since when the upstream has been silent while the client was listening.
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    pub(crate) fn new(idle: Duration, total_at: Instant) -> Self {
        Self { idle, total_at, waiting_since: None, timer: None }
    }

    fn heard(&mut self) {
        self.waiting_since = None;
    }

    fn poll_passed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let passes_at = (since + self.idle).min(self.total_at);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(passes_at)));
        while timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= passes_at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(passes_at);
        }
        Poll::Pending
    }
}

impl AnswerBody {
    /// The upstream has sent everything, as far as it says. Gives what is left to send.
    fn end(&mut self) -> Bytes {
        let rest = self.tap.finish();
        let reading = self.tap.reading();
        let is_cut = self.is_success && self.is_stream && !(reading.has_ended || reading.has_finished);
        let outcome = match (self.is_success && !reading.has_failed, is_cut) {
            (false, _) => Outcome::UpstreamError,
            (true, true) => Outcome::UpstreamFailed,
            (true, false) => Outcome::Completed,
        };
        self.settle(outcome);
        if is_cut && outcome == Outcome::UpstreamFailed {
            return self.error_event(&Refusal::UpstreamBrokeOff).into();
        }
        rest
    }

    /// The upstream broke off, or a deadline passed. A stream of events ends with the dialect's own error event; half an event that came
    /// before is not sent. Any other answer is cut, so that the client cannot take it for whole.
    fn break_off(&mut self, error: AnswerError) -> Option<Result<Frame<Bytes>, AnswerError>> {
        let reading = self.tap.reading();
        if reading.has_ended {
            self.settle(Outcome::Completed);
            return None;
        }
        let outcome = if !self.is_success || reading.has_failed { Outcome::UpstreamError } else { Outcome::UpstreamFailed };
        self.settle(outcome);
        if !self.is_stream {
            return Some(Err(error));
        }
        let refusal = match error {
            AnswerError::BrokeOff(_) => Refusal::UpstreamBrokeOff,
            AnswerError::Timeout => Refusal::UpstreamTimeout,
        };
        Some(Ok(Frame::data(self.error_event(&refusal).into())))
    }

    fn error_event(&self, refusal: &Refusal) -> Vec<u8> {
        refusal.event(self.dialect, self.request)
    }

    fn settle(&mut self, outcome: Outcome) {
        self.is_over = true;
        if self.is_success {
            self.meter.settle_answer(outcome, self.tap.reading());
        } else {
            self.meter.settle_error(outcome);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = self.get_mut();
        while !this.is_over {
            let data = match Pin::new(&mut this.upstream).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    // Trailers are nobody's here.
                    Err(_) => continue,
                },
                Poll::Ready(None) => {
                    let rest = this.end();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(this.break_off(AnswerError::BrokeOff(error))),
                Poll::Pending => {
                    return this.deadlines.poll_passed(context).map(|()| this.break_off(AnswerError::Timeout));
                }
            };
            this.deadlines.heard();
            let data = this.tap.push(data);
            if !this.is_stream && this.upstream.is_end_stream() {
                this.end();
            }
            // Nothing is left of a chunk that was hidden or is held.
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || (!self.is_stream && self.upstream.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_stream { SizeHint::default() } else { self.upstream.size_hint() }
    }
}

impl Drop for AnswerBody {
    /// Not over: the client left, or did not wait for the end of the connection after the last event.
    fn drop(&mut self) {
        if !self.is_over {
            self.tap.finish();
            let is_whole = self.tap.reading().has_ended || (!self.is_stream && self.upstream.is_end_stream());
            let outcome = match (is_whole, self.is_success) {
                (false, _) => Outcome::ClientLeft,
                (true, true) => Outcome::Completed,
                (true, false) => Outcome::UpstreamError,
            };
            self.settle(outcome);
        }
    }
}
