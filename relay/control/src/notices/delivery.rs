//! What became of a notice at a channel.

use http::{HeaderName, HeaderValue, Method};
use schemas::{TenantId, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::channel::Channel;
use super::form::Posting;
use super::notice::{Kind, Notice};
use crate::oauth::token_client::Flaw;
use crate::oauth::{TokenClient, TokenError};

/// What came of one attempt. Holds nothing of what was sent or answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Delivered,
    /// There was no connection, or no answer in ten seconds, or a status from 500 on.
    Unreachable,
    /// It asks to come again later.
    RateLimited,
    /// Its address resolves to private addresses only, or its certificate is not good.
    Unsafe,
    /// It answers with a refusal, or redirects.
    Refused,
}

/// One attempt to tell a notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Delivery {
    /// Of the notice; the same at each attempt.
    pub id: String,
    pub kind: Kind,
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    pub subject: String,
    pub text: String,
    /// When the attempt ended.
    pub at: Timestamp,
    #[schema(inline)]
    pub outcome: Outcome,
    /// The status of the answer; null where there was none, or none that was read.
    pub status: Option<u16>,
}

/// Sends a notice once.
pub(super) async fn send(client: &TokenClient, channel: &Channel, notice: &Notice, now: Timestamp) -> (Outcome, Option<u16>) {
    let Posting { url, headers, body } = channel.posting(notice, now);
    let header =
        |(name, value): (&'static str, HeaderValue)| Some((HeaderName::from_static(name), Zeroizing::new(value.to_str().ok()?.to_owned())));
    let headers: Vec<_> = headers.into_iter().filter_map(header).collect();
    match client.call(Method::POST, &url, &headers, Some(Zeroizing::new(body))).await {
        Ok((status, body)) => {
            let status = status.as_u16();
            let outcome = if channel.is_taken(status, &body) { Outcome::Delivered } else { Outcome::Refused };
            (outcome, Some(status))
        }
        Err(TokenError::RateLimited { .. }) => (Outcome::RateLimited, Some(429)),
        Err(TokenError::NotSent(_) | TokenError::Unknown(_)) => (Outcome::Unreachable, None),
        Err(TokenError::Invalid(Flaw::Address | Flaw::Tls)) => (Outcome::Unsafe, None),
        Err(TokenError::Invalid(_) | TokenError::InvalidGrant | TokenError::InvalidClient) => (Outcome::Refused, None),
    }
}
