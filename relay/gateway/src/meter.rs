//! One usage record per request that reached an upstream, settled exactly once, however the request ends.
//!
//! Where the provider gave no figure, it is estimated at four bytes a token: the input from the request's bytes, the output from the
//! bytes of generated text seen. An estimate stands in for nothing the provider did tell.

use http::StatusCode;
use schemas::Timestamp;
use schemas::usage::{Outcome, TokenParts, UsageRecord, UsageSource};

use crate::Metrics;
use crate::gateway::Clock;
use crate::meters::Reservation;
use crate::tap::Reading;
use crate::usage::Slot;

/// The usual rule of thumb for English text.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;
/// The most bytes of a model's name in a record: it is the client's or the upstream's text.
const MODEL_BYTES_MAX: usize = 256;
/// The status of a request whose client left before the answer began, as nginx and its readers know it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The open account of one request. Dropped unsettled, it settles as left by the client.
pub(crate) struct Meter {
    /// Taken by whichever end of the request comes first.
    open: Option<Open>,
    request_bytes: u64,
    clock: Clock,
    metrics: Metrics,
}

/// What settling takes.
struct Open {
    slot: Slot,
    record: UsageRecord,
    /// What quota policies hold for the request; none where no policy counts.
    reservation: Option<Reservation>,
}

impl Meter {
    /// `record` holds what is known at the first attempt.
    pub(crate) fn open(
        slot: Slot,
        record: UsageRecord,
        request_bytes: usize,
        clock: Clock,
        metrics: Metrics,
        reservation: Option<Reservation>,
    ) -> Self {
        let record = UsageRecord { status: CLIENT_CLOSED_REQUEST, model_requested: short(record.model_requested), ..record };
        Self { open: Some(Open { slot, record, reservation }), request_bytes: request_bytes as u64, clock, metrics }
    }

    /// What changes with each attempt and its answer.
    pub(crate) fn record(&mut self) -> Option<&mut UsageRecord> {
        self.open.as_mut().map(|open| &mut open.record)
    }

    /// No upstream answered, and the relay does with this status. What an upstream may have done unseen is not known.
    pub(crate) fn settle_unanswered(mut self, status: StatusCode) {
        if let Some(record) = self.record() {
            record.status = status.as_u16();
        }
        self.settle(Outcome::UpstreamFailed, UsageSource::Estimated, TokenParts::default(), None);
    }

    /// An upstream's error was passed on; nothing was generated.
    pub(crate) fn settle_error(&mut self, outcome: Outcome) {
        self.count(outcome, &TokenParts::default());
        self.settle(outcome, UsageSource::Estimated, TokenParts::default(), None);
    }

    /// An answer ended, as `outcome` says; only a completed one came to its own end.
    pub(crate) fn settle_answer(&mut self, outcome: Outcome, reading: &mut Reading) {
        let source = match (outcome == Outcome::Completed, reading.is_final) {
            (true, true) => UsageSource::Provider,
            (true, false) => UsageSource::Estimated,
            (false, _) => UsageSource::Partial,
        };
        let mut tokens = reading.tokens;
        if !reading.is_final {
            // What a stream tells of its output before the end is a placeholder.
            let seen = Some(reading.text_bytes.div_ceil(BYTES_PER_TOKEN)).filter(|seen| *seen > 0);
            tokens.output_visible = tokens.output_visible.max(seen);
        }
        if tokens.input().is_none() {
            tokens.input_uncached = Some(self.request_bytes.div_ceil(BYTES_PER_TOKEN));
        }
        self.count(outcome, &tokens);
        self.settle(outcome, source, tokens, reading.model.take());
    }

    fn count(&self, outcome: Outcome, tokens: &TokenParts) {
        if let Some(Open { record, .. }) = &self.open {
            self.metrics.settled(record.dialect, outcome, tokens);
        }
    }

    fn settle(&mut self, outcome: Outcome, source: UsageSource, tokens: TokenParts, model: Option<String>) {
        let Some(Open { slot, record, reservation }) = self.open.take() else { return };
        #[cfg(feature = "faults")]
        if record.streamed && crate::faults::is_planted("forget-usage") {
            return;
        }
        let settled_at: Timestamp = (self.clock)();
        let record = UsageRecord { outcome, source, tokens, model_billed: model.map(short), settled_at, ..record };
        slot.fill(record, reservation);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.settle_answer(Outcome::ClientLeft, &mut Reading::default());
    }
}

/// A model's name as far as it is kept or shown.
pub(crate) fn short(mut model: String) -> String {
    if model.len() > MODEL_BYTES_MAX {
        model.truncate(model.floor_char_boundary(MODEL_BYTES_MAX));
    }
    model
}
