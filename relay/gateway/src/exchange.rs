//! One proxied request, from its head to the head of its answer: admit, read, choose, forward.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, Request, header};
use schemas::key::{Endpoint, Key};
use schemas::upstream::Dialect;
use schemas::usage::{Outcome, TokenParts, UsageRecord, UsageSource};
use schemas::{RequestId, Timestamp};

use crate::address::ClientAddress;
use crate::admit::{Admitted, admit};
use crate::answer_body::{AnswerBody, Deadlines};
use crate::choose::Selection;
use crate::config::REFUSED_BODY_BYTES_MAX;
use crate::forward::{Answer, Forwarding, Outgoing};
use crate::gateway::{InFlight, State};
use crate::headers::{self, ATTEMPTS, KEY_ROTATED, OVERHEAD_MS, REQUEST_ID, UPSTREAM};
use crate::held_body::{self, HeldBody};
use crate::limits::{Permit, Rate};
use crate::meter::{Meter, short};
use crate::meters::Reservation;
use crate::policies::{self, Asked, Caps, Decided, Shadow};
use crate::refusal::Refusal;
use crate::request_head::RequestHead;
use crate::splice::splice;
use crate::staleness::Staleness;
use crate::tap::{EventTap, Reading, Tap, WholeTap};
use crate::targets;

/// When a request came and what it is called.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) request: RequestId,
    pub(crate) at: Timestamp,
    pub(crate) started: Instant,
}

impl Arrival {
    pub(crate) fn new(state: &State) -> Self {
        Self { request: state.random.request_id(), at: state.now(), started: Instant::now() }
    }
}

/// What is known of a request before it is read.
#[derive(Clone, Copy)]
struct Exchange<'a> {
    state: &'a State,
    dialect: Dialect,
    endpoint: Endpoint,
    arrival: Arrival,
}

/// Answers a request for an endpoint that generates text.
pub(crate) async fn serve(state: &State, dialect: Dialect, endpoint: Endpoint, request: Request<Body>) -> Response {
    let arrival = Arrival::new(state);
    let in_flight = InFlight::new(&state.metrics);
    let (parts, body) = request.into_parts();
    let exchange = Exchange { state, dialect, endpoint, arrival };
    let served = match admit(state, &parts, endpoint, arrival).await {
        Ok(admitted) => exchange.relay(admitted, in_flight, &parts, body).await,
        Err(refusal) => {
            held_body::discard(&parts.headers, body, REFUSED_BODY_BYTES_MAX).await;
            Err(refusal)
        }
    };
    served.unwrap_or_else(|refusal| refuse(state, dialect, arrival, &refusal))
}

/// Answers with a refusal, and counts it.
pub(crate) fn refuse(state: &State, dialect: Dialect, arrival: Arrival, refusal: &Refusal) -> Response {
    state.metrics.refused(dialect, refusal);
    tracing::debug!(request.id = %arrival.request, reason = refusal.code(), "request refused");
    refusal.response(dialect, arrival.request)
}

impl Exchange<'_> {
    async fn relay(self, admitted: Admitted, in_flight: InFlight, parts: &Parts, body: Body) -> Result<Response, Refusal> {
        let Self { state, dialect, endpoint, arrival } = self;
        let Admitted { key, secret_number, secret_until, allowed, staleness } = admitted;
        let reading_since = Instant::now();
        let body = HeldBody::read(&parts.headers, body, &state.config, &state.bodies).await?;
        let reading = reading_since.elapsed();
        let head = RequestHead::parse(&body.bytes).map_err(Refusal::BodyInvalid)?;
        if !targets::allows(&key.details.models, &head.model) {
            return Err(Refusal::ModelNotAllowed(short(head.model.into_owned())));
        }
        let snapshot = state.targets.snapshot();
        let mut selection = Selection::new(&snapshot, &state.cooling, &key, dialect, Some(&head.model), arrival.at);
        if selection.is_empty() {
            return Err(Refusal::NoUpstream);
        }
        let (first, rest, granted) = match state.policies.bound(&key.tenant) {
            None => (
                selection.next(&state.random).ok_or(Refusal::NoUpstream)?,
                selection,
                Granted { permit: allowed.permit, ..Granted::default() },
            ),
            Some(active) => {
                let request_bytes = body.bytes.len();
                let asked = Asked { state, key: &key, dialect, endpoint, head: &head, request_bytes, arrival, snapshot: &snapshot };
                // Boxed, so that a request without policies is no larger for them.
                let Decided { first, rest, caps, permit, reservation, shadow } =
                    Box::pin(policies::decide(active, asked, selection, allowed.permit)).await?;
                (first, rest, Granted { permit: Some(permit), caps, reservation, shadow })
            }
        };
        let Granted { permit, caps, reservation, shadow } = granted;

        let option = if dialect == Dialect::Openai && head.stream { head.usage_option(&body.bytes) } else { None };
        let hides_usage = option.is_some();
        let sent = |cap: Option<u64>| {
            let cap = cap.map(|cap| head.capped(&body.bytes, dialect, cap)).unwrap_or_default();
            splice(&body.bytes, option.iter().cloned().chain(cap).collect())
        };
        let outgoing = Outgoing {
            dialect,
            endpoint,
            headers: headers::to_upstream(&parts.headers, key.id),
            query: parts.uri.query().and_then(crate::client_key::scrub),
            body: sent(caps.all),
            pool_bodies: caps.pools.iter().map(|(pool, cap)| (*pool, sent(Some(*cap)))).collect(),
        };
        let slot = state.usage.reserve()?;
        let record = UsageRecord {
            request: arrival.request,
            tenant: key.tenant.clone(),
            key: key.id,
            secret_number,
            upstream: first.route.upstream.id,
            dialect,
            model_requested: head.model.into_owned(),
            model_billed: None,
            streamed: head.stream,
            attempts: 0,
            status: 0,
            outcome: Outcome::ClientLeft,
            source: UsageSource::Estimated,
            tokens: TokenParts::default(),
            started_at: arrival.at,
            settled_at: arrival.at,
            client: parts.extensions.get::<ClientAddress>().map(ClientAddress::class),
        };
        state.activations.used(&key, arrival.at, &state.outbox);
        let meter = Meter::open(slot, record, body.bytes.len(), Arc::clone(&state.clock), state.metrics.clone(), reservation);
        let forwarding = Forwarding { state, outgoing, first, rest, meter };
        let answer = forwarding.run().await?;
        drop(body);
        let taken = Taken { key, secret_until, rate: allowed.rate, permit, shadow, staleness, in_flight, hides_usage, reading };
        Ok(self.respond(taken, answer))
    }

    fn respond(self, taken: Taken, answer: Answer) -> Response {
        let Self { state, dialect, arrival, .. } = self;
        let Answer { response, target, attempts, waited, first_byte, mut meter, under_way } = answer;
        let (head, upstream) = response.into_parts();
        let overhead = arrival.started.elapsed().saturating_sub(waited + taken.reading);
        state.metrics.answered(first_byte.as_secs_f64(), overhead.as_secs_f64());
        if let Some(record) = meter.record() {
            record.status = head.status.as_u16();
        }
        let mut headers = headers::to_client(&head.headers);
        headers.insert(REQUEST_ID, headers::text(arrival.request));
        headers.insert(UPSTREAM, target.name.clone());
        headers.insert(ATTEMPTS, attempts.into());
        headers.insert(OVERHEAD_MS, headers::text(format_args!("{:.3}", overhead.as_secs_f64() * 1000.0)));
        taken.staleness.write(&mut headers);
        if let Some(until) = taken.secret_until {
            headers.insert(KEY_ROTATED, headers::text(format_args!("until={until}")));
        }
        if let Some(rate) = &taken.rate {
            headers::write_rate(&mut headers, dialect, rate);
        }
        tracing::debug!(request.id = %arrival.request, key.id = %taken.key.id, status = head.status.as_u16(), attempts, "answer begins");

        let is_success = head.status.is_success();
        let tap = tap(dialect, is_success, taken.hides_usage, &head.headers);
        #[cfg(feature = "faults")]
        let upstream = crate::faults::upstream_body(upstream);
        let body = AnswerBody {
            is_stream: matches!(tap, Tap::Events(_)),
            upstream,
            tap,
            meter,
            deadlines: Deadlines::new(state.config.idle_timeout, (arrival.started + state.config.total_timeout).into()),
            dialect,
            request: arrival.request,
            is_success,
            is_over: false,
            _permit: taken.permit,
            _under_way: under_way,
            _in_flight: taken.in_flight,
        };
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = head.status;
        *response.headers_mut() = headers;
        response
    }
}

/// What became of a request before its upstream.
#[derive(Default)]
struct Granted {
    permit: Option<Permit>,
    caps: Caps,
    reservation: Option<Reservation>,
    shadow: Option<Shadow>,
}

/// What the request holds besides the answer.
struct Taken {
    key: Arc<Key>,
    secret_until: Option<Timestamp>,
    rate: Option<Rate>,
    permit: Option<Permit>,
    /// Begins when this is dropped: with the answer.
    #[expect(dead_code, reason = "it is held for its drop")]
    shadow: Option<Shadow>,
    staleness: Staleness,
    in_flight: InFlight,
    hides_usage: bool,
    /// How long the client took to send the body.
    reading: Duration,
}

/// The tap that fits what the answer says it is, which need not be what was asked for.
fn tap(dialect: Dialect, is_success: bool, hides_usage: bool, headers: &HeaderMap) -> Tap {
    let is_encoded = headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    if !is_success || is_encoded {
        return Tap::Blind(Reading::default());
    }
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let is_stream = content_type.get(..EVENT_STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM));
    if is_stream { Tap::Events(Box::new(EventTap::new(dialect, hides_usage))) } else { Tap::Whole(WholeTap::new(dialect)) }
}

const EVENT_STREAM: &[u8] = b"text/event-stream";
