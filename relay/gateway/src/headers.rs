//! Which headers cross the relay. Towards upstreams a list of what may pass, because a stray header may choose an account or carry a
//! secret; towards clients a list of what may not, because SDKs read headers that providers have yet to invent.

use std::fmt::Display;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemas::upstream::Dialect;
use schemas::{Digest, KeyId};

use crate::limits::Rate;

/// The code of a policy's own reason for a denial.
pub(crate) const POLICY_REASON: HeaderName = HeaderName::from_static("x-keyrelay-policy-reason");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-keyrelay-reason");
pub(crate) const UPSTREAM: HeaderName = HeaderName::from_static("x-keyrelay-upstream");
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-keyrelay-attempts");
pub(crate) const OVERHEAD_MS: HeaderName = HeaderName::from_static("x-keyrelay-overhead-ms");
/// Tells a caller that shows a secret which a newer one has replaced until when it is taken.
pub(crate) const KEY_ROTATED: HeaderName = HeaderName::from_static("x-keyrelay-key-rotated");
pub(crate) const STALE_SECONDS: HeaderName = HeaderName::from_static("x-keyrelay-stale-seconds");
pub(crate) const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// What is left of a quota, as the IETF's draft (draft-ietf-httpapi-ratelimit-headers) has it, and what the quota is.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
pub(crate) const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a client may tell an upstream. Absent with intent: all credentials, cookies, `openai-organization` and `openai-project` (they
/// choose an account), anything about the network, and `x-stainless-*` (telemetry about the client's machine).
static TO_UPSTREAM: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::ACCEPT,
    header::USER_AGENT,
    ANTHROPIC_VERSION,
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("openai-beta"),
];

/// What an upstream does not get to tell a client: hop-by-hop headers, what speaks for an origin or a browser's session with it, what
/// names the account, and what only we say.
static NOT_TO_CLIENT: [HeaderName; 24] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    // The server that sends the body knows its length, or that a splice left none.
    header::CONTENT_LENGTH,
    header::SET_COOKIE,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("public-key-pins"),
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("nel"),
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::LOCATION,
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    HeaderName::from_static("anthropic-organization-id"),
    REQUEST_ID,
];
const OUR_PREFIX: &str = "x-keyrelay-";

/// An upstream's own rate headers describe the account, not the caller's key; they pass under a name that says so.
const UPSTREAM_RATE_PREFIXES: [&str; 3] = ["x-ratelimit-", "anthropic-ratelimit-", "ratelimit"];

/// The headers of an upstream request, but for the credential.
pub(crate) fn to_upstream(from_client: &HeaderMap, key: KeyId) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(TO_UPSTREAM.len() + 4);
    for name in &TO_UPSTREAM {
        for value in from_client.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    // The meter reads answers as they pass.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // Clients share an upstream account, so a client's idempotency key is kept apart from every other key's.
    if let Some(value) = from_client.get(IDEMPOTENCY_KEY) {
        headers.insert(IDEMPOTENCY_KEY, text(Digest::blake3(&[key.as_bytes(), value.as_bytes()].concat())));
    }
    headers
}

/// The credential as the dialect shows it.
pub(crate) fn credential_name(dialect: Dialect) -> HeaderName {
    match dialect {
        Dialect::Openai => header::AUTHORIZATION,
        Dialect::Anthropic => X_API_KEY,
    }
}

/// The headers of an answer, as far as they are the upstream's.
pub(crate) fn to_client(from_upstream: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(from_upstream.len() + 8);
    let named_by_connection = |name: &HeaderName| {
        let values = from_upstream.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(name.as_str()))
    };
    for (name, value) in from_upstream {
        if NOT_TO_CLIENT.contains(name) || name.as_str().starts_with(OUR_PREFIX) || named_by_connection(name) {
            continue;
        }
        if UPSTREAM_RATE_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) {
            let renamed = format!("x-upstream-{}", name.as_str().trim_start_matches("x-"));
            if let Ok(renamed) = HeaderName::try_from(renamed) {
                headers.append(renamed, value.clone());
            }
        } else {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// The key's rate as the caller's dialect spells it.
pub(crate) fn write_rate(headers: &mut HeaderMap, dialect: Dialect, rate: &Rate) {
    let (names, reset) = match dialect {
        Dialect::Openai => {
            (["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"], go_duration(rate))
        }
        Dialect::Anthropic => (
            ["anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"],
            text(rate.reset_at),
        ),
    };
    for (name, value) in names.into_iter().zip([HeaderValue::from(rate.limit), HeaderValue::from(rate.remaining), reset]) {
        headers.insert(HeaderName::from_static(name), value);
    }
    // The IETF's draft of them, which is the same in every dialect.
    let Rate { limit, remaining, .. } = rate;
    headers.insert(RATE_LIMIT_POLICY, text(format_args!("\"requests\";q={limit};w=60")));
    headers.insert(RATE_LIMIT, text(format_args!("\"requests\";r={remaining};t={}", rate.reset_after_ms().div_ceil(1000))));
}

/// A quota that is used up until so many milliseconds are over, as the IETF's draft of rate limit headers spells it. There is no
/// `RateLimit-Policy` beside it, which must name the quota: that is known to the policy alone.
pub(crate) fn write_spent(headers: &mut HeaderMap, reset_ms: u64) {
    headers.insert(RATE_LIMIT, text(format_args!("\"policy\";r=0;t={}", reset_ms.div_ceil(1000))));
}

/// `12ms`, `6.5s`, `1m0s`: the spelling of OpenAI's reset headers.
fn go_duration(rate: &Rate) -> HeaderValue {
    let ms = rate.reset_after_ms();
    match (ms / 60_000, ms % 60_000) {
        (0, rest) if rest < 1000 => text(format_args!("{rest}ms")),
        (0, rest) => text(format_args!("{}s", rest as f64 / 1000.0)),
        (minutes, rest) => text(format_args!("{minutes}m{}s", rest as f64 / 1000.0)),
    }
}

/// A header value of visible ASCII; anything else would be a bug and becomes empty.
pub(crate) fn text(value: impl Display) -> HeaderValue {
    HeaderValue::try_from(value.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_listed_headers_reach_the_upstream() {
        let key = KeyId::from_bytes([1; 16]);
        let sent = to_upstream(
            &map(&[
                ("authorization", "Bearer sk-kr-x"),
                ("x-api-key", "sk-kr-x"),
                ("cookie", "a=b"),
                ("x-forwarded-for", "10.0.0.1"),
                ("host", "relay"),
                ("openai-organization", "org"),
                ("anthropic-beta", "a,b"),
                ("content-type", "application/json"),
                ("accept-encoding", "gzip"),
                ("idempotency-key", "abc"),
            ]),
            key,
        );
        let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept-encoding", "anthropic-beta", "content-type", "idempotency-key"]);
        assert_eq!(sent[header::ACCEPT_ENCODING], "identity");
        assert_ne!(sent[IDEMPOTENCY_KEY], "abc");
        assert_ne!(sent[IDEMPOTENCY_KEY], to_upstream(&map(&[("idempotency-key", "abc")]), KeyId::from_bytes([2; 16]))[IDEMPOTENCY_KEY]);
    }

    #[test]
    fn what_speaks_for_an_origin_an_account_or_a_hop_does_not_reach_the_client() {
        let sent = to_client(&map(&[
            ("content-type", "text/event-stream"),
            ("set-cookie", "a=b"),
            ("alt-svc", "h3"),
            ("strict-transport-security", "max-age=1"),
            ("openai-organization", "org"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("x-keyrelay-reason", "spoofed"),
            ("content-length", "5"),
            ("x-new", "1"),
            ("request-id", "req_1"),
            ("x-ratelimit-remaining-tokens", "5"),
            ("anthropic-ratelimit-requests-limit", "6"),
            ("ratelimit", "\"default\";r=7;t=1"),
        ]));
        let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "content-type",
            "request-id",
            "x-new",
            "x-upstream-anthropic-ratelimit-requests-limit",
            "x-upstream-ratelimit",
            "x-upstream-ratelimit-remaining-tokens",
        ];
        assert_eq!(names, expected);
    }
}
