//! The JSON API of JetStream: one request, one answer, and the errors by their numbers.

use std::time::Duration;

use async_nats::HeaderMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Nats;
use super::requests::RequestError;

/// The numbers of errors that we act on.
pub(crate) mod code {
    pub(crate) const NO_PEERS: u64 = 10005;
    pub(crate) const TEMPORARILY_UNAVAILABLE: u64 = 10008;
    pub(crate) const INSUFFICIENT_RESOURCES: u64 = 10023;
    pub(crate) const NO_MESSAGE: u64 = 10037;
    pub(crate) const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
    pub(crate) const STREAM_NAME_IN_USE: u64 = 10058;
    pub(crate) const STREAM_NOT_FOUND: u64 = 10059;
    pub(crate) const STREAM_NOT_MATCH: u64 = 10060;
    pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
    pub(crate) const NOT_ENABLED: u64 = 10076;
    pub(crate) const DUPLICATE_IN_PROCESS: u64 = 10158;
    pub(crate) const WRONG_LAST_SEQUENCE_IN_FLIGHT: u64 = 10164;
}

/// What a server says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Error)]
#[error("NATS refused: {description} ({err_code})")]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

impl Refusal {
    /// Whether the same request may be granted later, without anybody changing anything.
    pub(crate) fn is_passing(&self) -> bool {
        self.code == 503 || matches!(self.err_code, code::TEMPORARILY_UNAVAILABLE | code::NO_PEERS | code::INSUFFICIENT_RESOURCES)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("NATS answered {subject} with something else than expected: {reason}")]
    Garbled { subject: String, reason: String },
}

impl ApiError {
    /// Whether it is a refusal of this number.
    pub(crate) fn is(&self, err_code: u64) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.err_code == err_code)
    }
}

#[derive(Deserialize)]
struct Verdict {
    error: Option<Refusal>,
}

/// Parses an answer, which is a refusal where it has an error.
pub(crate) fn parse<T: DeserializeOwned>(subject: &str, answer: &[u8]) -> Result<T, ApiError> {
    let garbled = |error: serde_json::Error| ApiError::Garbled { subject: subject.to_owned(), reason: error.to_string() };
    if let Some(refusal) = serde_json::from_slice::<Verdict>(answer).map_err(garbled)?.error {
        return Err(refusal.into());
    }
    serde_json::from_slice(answer).map_err(garbled)
}

impl Nats {
    /// Asks the JetStream API once.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, what: &str, body: &impl Serialize, wait: Duration) -> Result<T, ApiError> {
        // While the connection is away, a request would wait for the next one, and its answer for nobody.
        if !self.is_up() {
            return Err(RequestError::NotSent.into());
        }
        let subject = format!("$JS.API.{what}");
        let body = serde_json::to_vec(body).expect("requests have string keys and no maps of other kinds");
        let answer = self.requests().request(&subject, HeaderMap::new(), body.into(), wait).await?;
        parse(&subject, &answer.payload)
    }
}
