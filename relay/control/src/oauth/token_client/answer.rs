//! What an endpoint answered, judged by the words of the standard and of those who have their own.

use http::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Flaw, TokenError};

/// An answer below 500 that is neither a redirect nor a 429.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// A refusal.
pub(super) enum Fault {
    /// The `error` of RFC 6749, 5.2.
    Named(String),
    Flaw(Flaw),
}

/// The most characters of a provider's error code that are passed on.
const CODE_LENGTH_MAX: usize = 64;

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Answer {
    /// The bytes of a JSON answer, unless it is a refusal. GitHub refuses with status 200.
    pub(super) fn judged(self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        if serde_json::from_slice::<serde::de::IgnoredAny>(&self.body).is_err() {
            let is_answer = self.status.is_success();
            return Err(Fault::Flaw(if is_answer { Flaw::NotJson } else { Flaw::Status { status: self.status.as_u16() } }));
        }
        match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(Refusal { error }) => Err(Fault::Named(error)),
            Err(_) if self.status.is_success() => Ok(self.body),
            Err(_) => Err(Fault::Flaw(Flaw::Status { status: self.status.as_u16() })),
        }
    }

    pub(super) fn accepted(self) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.judged().map_err(TokenError::from)
    }
}

impl From<Fault> for TokenError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Flaw(flaw) => Self::Invalid(flaw),
            Fault::Named(code) => match code.as_str() {
                // The standard's, and GitHub's two.
                "invalid_grant" | "bad_verification_code" | "bad_refresh_token" => Self::InvalidGrant,
                "invalid_client" | "unauthorized_client" | "incorrect_client_credentials" => Self::InvalidClient,
                _ => Self::Invalid(Flaw::Refused { code: shown(&code) }),
            },
        }
    }
}

/// A text of the provider's as it may be shown: visible ASCII only, cut.
fn shown(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(CODE_LENGTH_MAX).collect()
}
