//! Grants: credentials that an OAuth provider gave for a while, and that are refreshed before they end.
//!
//! A provider may take a refresh token once only, and answer a second use by revoking the whole account. So whoever refreshes says so in the
//! log first, in two steps: *claimed* takes the right, *sent* is appended on the claim's head right before the first byte goes out. A claim that
//! was never sent may be taken over; one that was sent and whose answer is lost is not tried again with a token that is good once.
//!
//! What is measured by clocks that only run on one machine, and so not by anything in the log: the holder sends while its time since the
//! claim is below [`SEND_WITHIN`], the exchange is cut at [`EXCHANGE_MAX`], and nobody takes over before [`TAKEOVER_AFTER`] has passed since the
//! claim was applied where the taker is. The last is more than the two before together, so that two never send at once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::CredentialError;
use crate::aggregate::{At, Context};
use crate::event::Event;
use crate::id::WriterId;
use crate::time::Timestamp;

/// How long after its claim a holder may begin to send, by its own monotonic clock.
pub const SEND_WITHIN: Duration = Duration::from_secs(5);
/// When an exchange with a provider is cut.
pub const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// How long after a claim was applied at a node that node leaves it to its holder, by the node's own monotonic clock.
pub const TAKEOVER_AFTER: Duration = Duration::from_secs(30);
/// The least time between two exchanges for one account, in seconds of the records' times.
pub const ATTEMPT_INTERVAL_SECONDS: u64 = 30;
/// How old an access token must be before an upstream's refusal of it is a reason to refresh, in seconds: one that is refused when it is new is
/// not helped by another.
pub const ASK_AGE_SECONDS: u64 = 300;
/// How far beyond the present secret the number of the next may lie; those between were sealed and given up.
const SECRET_VERSIONS_SKIPPED_MAX: u32 = 64;
/// A token that ends sooner than this is shown as expiring, in seconds: 24 hours.
const EXPIRING_SECONDS: u64 = 24 * 3600;

/// An account's consent was obtained from a provider; stands in one record with the `CredentialAdded` or `CredentialReplaced` that it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialAuthorized {
    /// The provider's name in the settings.
    pub provider: String,
    /// A keyed digest of the provider's account: equal texts mean the same account, and nothing else can be told from it.
    pub account: String,
    pub scopes: Vec<String>,
    /// When the access token ends; none if the provider does not say.
    pub expires_at: Option<Timestamp>,
    /// Whether there is a refresh token.
    pub is_refreshable: bool,
}

/// An upstream refused an access token that should have been good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRefreshAsked {
    /// The secret that was refused.
    pub secret_version: u32,
}

/// A node has the right to refresh. The claim's time is its record's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRefreshClaimed {
    /// The number of the claim: 1, 2, ...
    pub generation: u32,
    pub node: WriterId,
}

/// The holder of a claim is about to show the provider the refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRefreshSent {
    pub generation: u32,
}

/// The provider's answer is sealed in the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRefreshed {
    pub generation: u32,
    /// The number of the secret in the vault.
    pub secret_version: u32,
    pub fingerprint: String,
    pub expires_at: Option<Timestamp>,
    /// Whether the answer brought another refresh token, as it does where each is good once.
    pub is_rotated: bool,
}

/// A claim ended without a new secret; the one there is may be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialRefreshReleased {
    pub generation: u32,
    pub reason: RefreshFailure,
}

/// The grant cannot be refreshed any more: somebody must log in to the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialLoginRequired {
    pub reason: LoginReason,
}

/// Why a claim was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefreshFailure {
    /// Nothing was sent to the provider.
    NotSent,
    /// The provider did not answer, or not with anything that says what became of the request.
    NoAnswer,
    RateLimited,
    /// The provider refused the request for a reason other than the token, such as a wrong client.
    Refused,
}

/// Why a login is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoginReason {
    /// The provider says that the refresh token is good no more.
    InvalidGrant,
    /// The node that had sent the refresh token died before it had kept the answer, and the token is good once.
    OutcomeUnknown,
    /// The vault does not give the refresh token back.
    SecretLost,
}

/// What is known of a credential's grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub provider: String,
    pub account: String,
    pub scopes: Vec<String>,
    pub authorized_at: Timestamp,
    /// When the present access token was recorded.
    pub issued_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub is_refreshable: bool,
    /// Whether refresh tokens are good once, as far as the last refresh has shown.
    pub is_rotating: Option<bool>,
    /// The number of the last claim; 0 before the first.
    pub generation: u32,
    /// Claims released since the last refresh.
    pub failures: u32,
    /// When a refresh token was last shown to the provider.
    pub sent_at: Option<Timestamp>,
    pub refresh: Refresh,
}

/// Where a grant is between two access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refresh {
    Idle,
    /// Due at once.
    Asked {
        at: Timestamp,
    },
    Claimed {
        node: WriterId,
        at: Timestamp,
        is_sent: bool,
    },
    LoginRequired {
        reason: LoginReason,
        at: Timestamp,
    },
}

/// How an account is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantStatus {
    Valid,
    /// Ends in less than 24 hours, whether it will be refreshed or not.
    Expiring,
    Expired,
    LoginRequired,
}

/// What may be asked of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantCommand {
    /// An upstream refused this secret.
    AskRefresh {
        secret_version: u32,
    },
    /// Takes the right to refresh, from another claim only if its number is given.
    ClaimRefresh {
        node: WriterId,
        takes_over: Option<u32>,
    },
    /// The holder is about to send.
    MarkSent {
        generation: u32,
    },
    Refresh(CredentialRefreshed),
    ReleaseRefresh {
        generation: u32,
        reason: RefreshFailure,
    },
    RequireLogin {
        generation: u32,
        reason: LoginReason,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GrantError {
    #[error("the credential is no grant of a provider")]
    NoGrant,
    #[error("the grant has no refresh token")]
    NotRefreshable,
    #[error("the grant needs a login at the provider")]
    LoginRequired,
    #[error("refresh {generation} is under way")]
    UnderWay { generation: u32 },
    #[error("the account was refreshed less than {ATTEMPT_INTERVAL_SECONDS} s ago")]
    TooSoon,
    #[error("refresh {generation} is not the one under way")]
    Superseded { generation: u32 },
}

impl Grant {
    /// `generation` is the number of the last claim there was of any grant, so that nobody takes the answer to an older one for its own.
    pub(super) fn new(authorized: &CredentialAuthorized, generation: u32, at: &At) -> Self {
        Self {
            provider: authorized.provider.clone(),
            account: authorized.account.clone(),
            scopes: authorized.scopes.clone(),
            authorized_at: at.time,
            issued_at: at.time,
            expires_at: authorized.expires_at,
            is_refreshable: authorized.is_refreshable,
            is_rotating: None,
            generation,
            failures: 0,
            sent_at: None,
            refresh: Refresh::Idle,
        }
    }

    /// When the next refresh begins, as far as time decides it: at 80 % of the token's life, less up to 5 % of it; `jitter` says how much of
    /// that, in thousandths. None while a refresh is under way or would be of no use.
    pub fn refresh_at(&self, jitter: u16) -> Option<Timestamp> {
        match self.refresh {
            Refresh::Asked { at } => self.is_refreshable.then_some(at),
            Refresh::Idle if self.is_refreshable => {
                let (issued, expires) = (self.issued_at.as_micros(), self.expires_at?.as_micros());
                let life = expires.saturating_sub(issued);
                let early = life / 20_000 * u64::from(jitter.min(1000));
                Some(Timestamp::from_micros(issued + life / 10 * 8 - early))
            }
            Refresh::Idle | Refresh::Claimed { .. } | Refresh::LoginRequired { .. } => None,
        }
    }

    /// Whether the access token has ended.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// Whether a newer access token may come without anybody's help.
    pub const fn may_be_refreshed(&self) -> bool {
        self.is_refreshable && !matches!(self.refresh, Refresh::LoginRequired { .. })
    }

    /// How the account is shown.
    pub fn status(&self, now: Timestamp) -> GrantStatus {
        if matches!(self.refresh, Refresh::LoginRequired { .. }) {
            return GrantStatus::LoginRequired;
        }
        match self.expires_at {
            Some(end) if end <= now => GrantStatus::Expired,
            Some(end) if end < now.plus_seconds(EXPIRING_SECONDS) => GrantStatus::Expiring,
            _ => GrantStatus::Valid,
        }
    }

    pub(super) fn decide(&self, secret_version: u32, command: &GrantCommand, context: &Context) -> Result<Vec<Event>, CredentialError> {
        let now = context.now;
        Ok(match command {
            GrantCommand::AskRefresh { secret_version: refused } => {
                let is_idle = matches!(self.refresh, Refresh::Idle) && self.is_refreshable;
                let is_of_age = self.issued_at.plus_seconds(ASK_AGE_SECONDS) <= now;
                if !is_idle || *refused != secret_version || !is_of_age {
                    return Ok(vec![]);
                }
                vec![Event::CredentialRefreshAsked(CredentialRefreshAsked { secret_version })]
            }
            GrantCommand::ClaimRefresh { node, takes_over } => {
                self.check_claim(*takes_over, now)?;
                let generation = self.generation.saturating_add(1);
                vec![Event::CredentialRefreshClaimed(CredentialRefreshClaimed { generation, node: *node })]
            }
            GrantCommand::MarkSent { generation } => match self.refresh {
                Refresh::Claimed { is_sent: false, .. } if *generation == self.generation => {
                    vec![Event::CredentialRefreshSent(CredentialRefreshSent { generation: *generation })]
                }
                _ => return Err(GrantError::Superseded { generation: *generation }.into()),
            },
            GrantCommand::Refresh(refreshed) => {
                if !self.awaits_answer(refreshed.generation) {
                    return Err(GrantError::Superseded { generation: refreshed.generation }.into());
                }
                let (current, given) = (secret_version, refreshed.secret_version);
                if given <= current || given - current > SECRET_VERSIONS_SKIPPED_MAX {
                    return Err(CredentialError::SecretVersion { current, given });
                }
                vec![Event::CredentialRefreshed(refreshed.clone())]
            }
            GrantCommand::ReleaseRefresh { generation, reason } => {
                // The holder knows best whether it has sent, also where others have given it up.
                let is_known_not_sent = *reason == RefreshFailure::NotSent && self.awaits_answer(*generation);
                if !is_known_not_sent {
                    self.check_open(*generation)?;
                }
                vec![Event::CredentialRefreshReleased(CredentialRefreshReleased { generation: *generation, reason: *reason })]
            }
            GrantCommand::RequireLogin { generation, reason } => {
                self.check_open(*generation)?;
                vec![Event::CredentialLoginRequired(CredentialLoginRequired { reason: *reason })]
            }
        })
    }

    fn check_claim(&self, takes_over: Option<u32>, now: Timestamp) -> Result<(), GrantError> {
        match (self.refresh, takes_over) {
            _ if !self.is_refreshable => return Err(GrantError::NotRefreshable),
            (Refresh::LoginRequired { .. }, _) => return Err(GrantError::LoginRequired),
            // What was sent is settled by its outcome alone.
            (Refresh::Claimed { is_sent: false, .. }, Some(generation)) if generation == self.generation => {}
            (Refresh::Claimed { .. }, _) => return Err(GrantError::UnderWay { generation: self.generation }),
            // Whoever wanted to take over has not heard of its end.
            (Refresh::Idle | Refresh::Asked { .. }, Some(generation)) => return Err(GrantError::Superseded { generation }),
            (Refresh::Idle | Refresh::Asked { .. }, None) => {}
        }
        // A record from the future, of a node whose clock is ahead, holds nobody back.
        let is_too_soon = self.sent_at.is_some_and(|sent| sent <= now && now < sent.plus_seconds(ATTEMPT_INTERVAL_SECONDS));
        if is_too_soon { Err(GrantError::TooSoon) } else { Ok(()) }
    }

    fn check_open(&self, generation: u32) -> Result<(), GrantError> {
        let is_open = matches!(self.refresh, Refresh::Claimed { .. }) && generation == self.generation;
        if is_open { Ok(()) } else { Err(GrantError::Superseded { generation }) }
    }

    /// Whether the answer to this claim would be recorded. One that was kept is good even where others have given it up.
    pub fn awaits_answer(&self, generation: u32) -> bool {
        let is_awaited = matches!(
            self.refresh,
            Refresh::Claimed { is_sent: true, .. } | Refresh::LoginRequired { reason: LoginReason::OutcomeUnknown, .. }
        );
        is_awaited && generation == self.generation
    }

    /// The grant after an event of its own; none if the event cannot follow.
    pub(super) fn apply(mut self, event: &Event, at: &At) -> Option<Self> {
        match (event, &mut self.refresh) {
            (Event::CredentialRefreshAsked(_), refresh @ Refresh::Idle) => *refresh = Refresh::Asked { at: at.time },
            (Event::CredentialRefreshClaimed(claimed), refresh) => {
                *refresh = Refresh::Claimed { node: claimed.node, at: at.time, is_sent: false };
                self.generation = claimed.generation;
            }
            (Event::CredentialRefreshSent(_), Refresh::Claimed { is_sent, .. }) => {
                *is_sent = true;
                self.sent_at = Some(at.time);
            }
            (Event::CredentialRefreshed(refreshed), refresh) => {
                *refresh = Refresh::Idle;
                self.issued_at = at.time;
                self.expires_at = refreshed.expires_at;
                self.is_rotating = Some(refreshed.is_rotated);
                self.failures = 0;
            }
            (Event::CredentialRefreshReleased(released), refresh) => {
                *refresh = Refresh::Idle;
                self.failures = self.failures.saturating_add(1);
                if released.reason == RefreshFailure::NotSent {
                    self.sent_at = None;
                }
            }
            (Event::CredentialLoginRequired(required), refresh) => {
                *refresh = Refresh::LoginRequired { reason: required.reason, at: at.time };
            }
            _ => return None,
        }
        Some(self)
    }
}

#[cfg(test)]
#[path = "grant_tests.rs"]
mod tests;
