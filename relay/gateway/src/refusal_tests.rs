use super::*;
use policy_host::contract::Reason;
use schemas::Timestamp;

const REQUEST: RequestId = RequestId::from_bytes([0; 16]);

fn denial(is_public: bool, retry_ms: Option<u64>) -> Box<PolicyDenial> {
    let reason = Reason { code: "area.detail".into(), text: Some("ask for another model".into()), is_public };
    PolicyDenial::new(&Denial { reasons: vec![reason], retry_ms, is_expired: false })
}

fn all() -> Vec<Refusal> {
    let rate = Rate { limit: 60, remaining: 0, reset_at: Timestamp::from_micros(61_500_000), now: Timestamp::from_micros(60_000_000) };
    vec![
        Refusal::KeyMissing,
        Refusal::KeyMalformed("it has a typing error"),
        Refusal::KeysConflict,
        Refusal::KeyUnknown,
        Refusal::KeyExpired,
        Refusal::KeyRevoked,
        Refusal::KeyArchived,
        Refusal::KeySuperseded,
        Refusal::KeyDisabled,
        Refusal::TenantSuspended,
        Refusal::EndpointNotAllowed,
        Refusal::ModelNotAllowed("gpt-\"4\"".into()),
        Refusal::RateLimited(rate),
        Refusal::ConcurrencyLimited(4),
        Refusal::PolicyDenied(denial(true, None)),
        Refusal::QuotaDenied(denial(false, Some(2_500))),
        Refusal::PolicyFault,
        Refusal::BodyTooLarge(1024),
        Refusal::BodyInvalid(BodyFault::Json { line: 1, column: 7 }),
        Refusal::BodyInvalid(BodyFault::ModelMissing),
        Refusal::BodyInvalid(BodyFault::ModelTwice),
        Refusal::BodyInvalid(BodyFault::TooDeep),
        Refusal::BodyInvalid(BodyFault::Compressed),
        Refusal::BodyInvalid(BodyFault::BrokeOff),
        Refusal::BodyTimeout,
        Refusal::EndpointUnknown("POST /v1/v1/messages".into()),
        Refusal::MethodNotAllowed,
        Refusal::ModelUnknown("nope".into()),
        Refusal::NoUpstream,
        Refusal::UpstreamFailed,
        Refusal::UpstreamTimeout,
        Refusal::UpstreamBrokeOff,
        Refusal::Draining,
        Refusal::Overloaded,
        Refusal::UsageSpoolFull,
        Refusal::Unavailable,
        Refusal::Stale,
    ]
}

/// Status, reason and headers of every refusal, then the body in both dialects. `KEYRELAY_BLESS=1` is not a thing here: a change of
/// this surface is made in the fixture by hand.
#[test]
fn refusals_are_rendered_as_the_fixture_says() {
    let mut rendered = String::new();
    for refusal in all() {
        for dialect in [Dialect::Openai, Dialect::Anthropic] {
            let response = refusal.response(dialect, REQUEST);
            let mut headers: Vec<_> = response.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap_or("?"))).collect();
            headers.retain(|line| !line.starts_with("content-type") && !line.starts_with("x-request-id"));
            headers.sort_unstable();
            let body = String::from_utf8(refusal.body(dialect, REQUEST)).unwrap_or_default();
            rendered.push_str(&format!("{} {} [{}]\n{body}\n", dialect.as_str(), response.status().as_u16(), headers.join(", ")));
        }
        rendered.push('\n');
    }
    let fixture = include_str!("../tests/fixtures/refusals.txt");
    assert!(rendered == fixture, "the fixture differs from:\n{rendered}");
}

#[test]
fn reasons_are_distinct_but_for_the_variants_of_an_invalid_body() {
    let mut codes: Vec<_> = all().iter().map(Refusal::code).collect();
    codes.dedup();
    let count = codes.len();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), count);
}

#[test]
fn a_quota_tells_when_to_come_again_and_sdks_not_to_try_for_hours() {
    let headers = |retry_ms| Refusal::QuotaDenied(denial(false, retry_ms)).response(Dialect::Openai, REQUEST).headers().clone();
    let soon = headers(Some(59_001));
    assert!(soon["retry-after"] == "60" && soon["ratelimit"] == "\"policy\";r=0;t=60", "{soon:?}");
    assert!(!soon.contains_key(SHOULD_RETRY));
    let late = headers(Some(3_600_000));
    assert!(late["retry-after"] == "3600" && late[SHOULD_RETRY] == "false", "{late:?}");
    let never = headers(None);
    assert!(!never.contains_key(header::RETRY_AFTER) && never[SHOULD_RETRY] == "false");
    let spent = Refusal::QuotaDenied(denial(false, None)).body(Dialect::Openai, REQUEST);
    assert!(String::from_utf8_lossy(&spent).contains("\"code\":\"insufficient_quota\""));
}

#[test]
fn a_stream_ends_with_the_dialects_error_event() {
    let event = |dialect| String::from_utf8(Refusal::UpstreamBrokeOff.event(dialect, REQUEST)).unwrap_or_default();
    assert!(event(Dialect::Openai).starts_with("data: {\"error\":{\"message\":\"the upstream broke off its answer\""));
    assert!(event(Dialect::Anthropic).starts_with("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\""));
    assert!(event(Dialect::Openai).ends_with("}\n\n"));
}
