//! Everything the relay itself may answer a request with instead of an upstream's answer: one status, one code, one text each.
//!
//! The code is a closed vocabulary (header `x-keyrelay-reason`, metric label). The body is written in the caller's dialect, such that
//! the official SDKs raise the exception class their users catch.

use std::fmt;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use policy_host::chain::Denial;
use schemas::RequestId;
use schemas::upstream::Dialect;
use serde::Serialize;
use thiserror::Error;

use crate::headers::{self, POLICY_REASON, REASON, REQUEST_ID, RETRY_AFTER_MS, SHOULD_RETRY};
use crate::limits::Rate;

/// How long a client is asked to wait where nothing better is known.
const RETRY_AFTER_MS_DEFAULT: u64 = 1000;
/// How long a client is asked to wait for a log that has been away for minutes: about what an election of its leader takes.
const RETRY_AFTER_MS_STALE: u64 = 5000;
/// A client that is told to come again later than this is told not to try by itself: official SDKs would try sooner.
const RETRY_BY_ITSELF_MS_MAX: u64 = 60_000;

/// Why a request got no upstream's answer. The `Display` text is shown to the caller and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    #[error("no key was shown; send one as `Authorization: Bearer`, `x-api-key`, `x-goog-api-key`, `api-key` or `?key=`")]
    KeyMissing,
    #[error("the key is malformed: {0}")]
    KeyMalformed(&'static str),
    #[error("two different keys were shown; send one")]
    KeysConflict,
    #[error("the key is not known here")]
    KeyUnknown,
    #[error("the key has expired")]
    KeyExpired,
    #[error("the key is revoked")]
    KeyRevoked,
    #[error("the key is archived")]
    KeyArchived,
    #[error("this secret of the key was replaced by a newer one")]
    KeySuperseded,
    #[error("the key is disabled")]
    KeyDisabled,
    #[error("the key's tenant is suspended")]
    TenantSuspended,
    #[error("the key may not use this endpoint")]
    EndpointNotAllowed,
    #[error("the key may not use the model `{0}`")]
    ModelNotAllowed(String),
    #[error("the key's limit of {} requests per minute is used up", .0.limit)]
    RateLimited(Rate),
    #[error("the key's limit of {0} requests at once is reached")]
    ConcurrencyLimited(u32),
    /// An expiry or route policy.
    #[error("a policy does not allow this request{0}")]
    PolicyDenied(Box<PolicyDenial>),
    #[error("a quota does not allow this request{0}")]
    QuotaDenied(Box<PolicyDenial>),
    #[error("a policy that must be asked failed")]
    PolicyFault,
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    #[error("the body is not usable: {0}")]
    BodyInvalid(BodyFault),
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("there is no endpoint {0}")]
    EndpointUnknown(String),
    #[error("the endpoint does not take this method")]
    MethodNotAllowed,
    #[error("there is no model `{0}`, or the key may not use it")]
    ModelUnknown(String),
    #[error("no upstream is set up for this request")]
    NoUpstream,
    #[error("no upstream could be reached")]
    UpstreamFailed,
    #[error("the upstream did not answer in time")]
    UpstreamTimeout,
    /// Only ever inside a stream that had begun.
    #[error("the upstream broke off its answer")]
    UpstreamBrokeOff,
    #[error("the relay is shutting down")]
    Draining,
    #[error("the relay is overloaded")]
    Overloaded,
    /// What a request uses could not be written down.
    #[error("the relay has no room to record usage at the moment")]
    UsageSpoolFull,
    #[error("the relay cannot look up keys at the moment")]
    Unavailable,
    #[error("the relay has not heard of its log for too long to tell whether the key is still good")]
    Stale,
}

/// What is wrong with a request's body. Never holds a piece of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BodyFault {
    #[error("it is not a JSON object with a text `model` (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("`model` is missing")]
    ModelMissing,
    #[error("`model` is given twice")]
    ModelTwice,
    #[error("it is nested too deeply")]
    TooDeep,
    #[error("it is compressed; send it as it is")]
    Compressed,
    #[error("it broke off")]
    BrokeOff,
}

/// What a client is told of a denial: the first reason there is, and its text if that is public.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PolicyDenial {
    code: Option<String>,
    text: Option<String>,
    retry_ms: Option<u64>,
}

impl PolicyDenial {
    pub(crate) fn new(denial: &Denial) -> Box<Self> {
        let first = denial.reasons.first();
        let text = first.filter(|reason| reason.is_public).and_then(|reason| reason.text.clone());
        Box::new(Self { code: first.map(|reason| reason.code.clone()), text, retry_ms: denial.retry_ms })
    }

    /// That of a stage which chooses upstreams: without a reason, it is that none was left.
    pub(crate) fn of_route(denial: &Denial) -> Box<Self> {
        let mut told = Self::new(denial);
        if told.code.is_none() {
            told.text = Some("no upstream is left that the policies allow".to_owned());
        }
        told
    }
}

/// What follows the relay's own words.
impl fmt::Display for PolicyDenial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.as_ref().map_or(Ok(()), |code| write!(f, " ({code})"))?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::KeyMissing | Self::KeyMalformed(_) | Self::KeysConflict | Self::KeyUnknown => StatusCode::UNAUTHORIZED,
            Self::KeyExpired | Self::KeyRevoked | Self::KeyArchived | Self::KeySuperseded => StatusCode::UNAUTHORIZED,
            Self::KeyDisabled | Self::EndpointNotAllowed | Self::ModelNotAllowed(_) => StatusCode::FORBIDDEN,
            Self::TenantSuspended | Self::PolicyDenied(_) => StatusCode::FORBIDDEN,
            Self::RateLimited(_) | Self::ConcurrencyLimited(_) | Self::QuotaDenied(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyInvalid(_) => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::EndpointUnknown(_) | Self::ModelUnknown(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UpstreamFailed | Self::UpstreamBrokeOff => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::NoUpstream | Self::Draining | Self::Overloaded | Self::UsageSpoolFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unavailable | Self::Stale | Self::PolicyFault => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The stable name of the reason.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::KeyMissing => "key_missing",
            Self::KeyMalformed(_) => "key_malformed",
            Self::KeysConflict => "keys_conflict",
            Self::KeyUnknown => "key_unknown",
            Self::KeyExpired => "key_expired",
            Self::KeyRevoked => "key_revoked",
            Self::KeyArchived => "key_archived",
            Self::KeySuperseded => "key_superseded",
            Self::KeyDisabled => "key_disabled",
            Self::TenantSuspended => "tenant_suspended",
            Self::EndpointNotAllowed => "endpoint_not_allowed",
            Self::ModelNotAllowed(_) => "model_not_allowed",
            Self::RateLimited(_) => "rate_limited",
            Self::ConcurrencyLimited(_) => "concurrency_limited",
            Self::PolicyDenied(_) => "policy_denied",
            Self::QuotaDenied(_) => "quota_denied",
            Self::PolicyFault => "policy_fault",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::BodyInvalid(_) => "body_invalid",
            Self::BodyTimeout => "body_timeout",
            Self::EndpointUnknown(_) => "endpoint_unknown",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ModelUnknown(_) => "model_unknown",
            Self::NoUpstream => "no_upstream",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamBrokeOff => "upstream_broke_off",
            Self::Draining => "draining",
            Self::Overloaded => "overloaded",
            Self::UsageSpoolFull => "usage_spool_full",
            Self::Unavailable => "unavailable",
            Self::Stale => "stale",
        }
    }

    /// OpenAI's `code`: the one its users match on where there is one, else ours.
    fn openai_code(&self) -> &'static str {
        match (self.status(), self) {
            (StatusCode::UNAUTHORIZED, _) => "invalid_api_key",
            // The spelling of a budget that is spent.
            (_, Self::QuotaDenied(denial)) if denial.retry_ms.is_none() => "insufficient_quota",
            (StatusCode::TOO_MANY_REQUESTS, _) => "rate_limit_exceeded",
            (_, Self::ModelUnknown(_)) => "model_not_found",
            _ => self.code(),
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.status() {
            _ if self.openai_code() == "insufficient_quota" => "insufficient_quota",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn openai_param(&self) -> Option<&'static str> {
        match self {
            Self::ModelNotAllowed(_) | Self::ModelUnknown(_) | Self::BodyInvalid(BodyFault::ModelMissing | BodyFault::ModelTwice) => {
                Some("model")
            }
            _ => None,
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::BAD_GATEWAY => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The body in the caller's dialect.
    pub(crate) fn body(&self, dialect: Dialect, request: RequestId) -> Vec<u8> {
        let message = self.to_string();
        let encoded = match dialect {
            Dialect::Openai => serde_json::to_vec(&OpenaiBody {
                error: OpenaiError { message: &message, kind: self.openai_type(), param: self.openai_param(), code: self.openai_code() },
            }),
            Dialect::Anthropic => serde_json::to_vec(&AnthropicBody {
                kind: "error",
                error: AnthropicError { kind: self.anthropic_type(), message: &message },
                request_id: request,
            }),
        };
        encoded.expect("plain texts; encoding to memory cannot fail")
    }

    /// The event that ends a stream which cannot go on, in the caller's dialect.
    pub(crate) fn event(&self, dialect: Dialect, request: RequestId) -> Vec<u8> {
        let head: &[u8] = match dialect {
            Dialect::Openai => b"data: ",
            Dialect::Anthropic => b"event: error\ndata: ",
        };
        [head, &self.body(dialect, request), b"\n\n"].concat()
    }

    pub(crate) fn response(&self, dialect: Dialect, request: RequestId) -> Response {
        let mut response = Response::new(Body::from(self.body(dialect, request)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REASON, HeaderValue::from_static(self.code()));
        headers.insert(REQUEST_ID, headers::text(request));
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        self.write_retry(headers);
        match self {
            Self::RateLimited(rate) => headers::write_rate(headers, dialect, rate),
            Self::PolicyDenied(denial) | Self::QuotaDenied(denial) => {
                if let Some(code) = &denial.code {
                    headers.insert(POLICY_REASON, headers::text(code));
                }
            }
            _ => {}
        }
        response
    }

    /// When to come again: as official SDKs read it.
    fn write_retry(&self, headers: &mut HeaderMap) {
        let after_ms = match self {
            Self::RateLimited(rate) => rate.reset_after_ms(),
            Self::QuotaDenied(denial) => {
                if denial.retry_ms.is_none_or(|retry_ms| retry_ms > RETRY_BY_ITSELF_MS_MAX) {
                    headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
                }
                let Some(retry_ms) = denial.retry_ms else { return };
                headers::write_spent(headers, retry_ms);
                retry_ms.max(1)
            }
            Self::ConcurrencyLimited(_) | Self::Draining | Self::Overloaded | Self::UsageSpoolFull => RETRY_AFTER_MS_DEFAULT,
            Self::Unavailable | Self::PolicyFault => RETRY_AFTER_MS_DEFAULT,
            Self::Stale => RETRY_AFTER_MS_STALE,
            // Nothing but an operator can change this; an SDK that tries again only waits.
            Self::NoUpstream => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
                return;
            }
            _ => return,
        };
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after_ms.div_ceil(1000)));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(after_ms));
    }
}

#[derive(Serialize)]
struct OpenaiBody<'a> {
    error: OpenaiError<'a>,
}

#[derive(Serialize)]
struct OpenaiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: &'static str,
}

#[derive(Serialize)]
struct AnthropicBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicError<'a>,
    request_id: RequestId,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
