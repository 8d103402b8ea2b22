//! What the problems of a login are told as.

use axum::http::StatusCode;

use super::{ApiError, INTERNAL};
use crate::oauth::LoginProblem;

pub(super) fn status(problem: &LoginProblem) -> (StatusCode, &'static str) {
    use LoginProblem as P;
    match problem {
        P::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        P::Bad(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        P::Paste(_) => (StatusCode::BAD_REQUEST, "oauth_paste_invalid"),
        P::StateUnknown => (StatusCode::BAD_REQUEST, "oauth_state_unknown"),
        P::StateExpired => (StatusCode::GONE, "oauth_state_expired"),
        P::StateUsed(_) => (StatusCode::CONFLICT, "oauth_state_used"),
        P::RedirectMismatch => (StatusCode::BAD_REQUEST, "oauth_redirect_mismatch"),
        P::IssuerMismatch => (StatusCode::BAD_REQUEST, "oauth_issuer_mismatch"),
        P::Denied(_) => (StatusCode::BAD_REQUEST, "oauth_denied"),
        P::CodeRejected => (StatusCode::UNPROCESSABLE_ENTITY, "oauth_code_rejected"),
        P::UpstreamInvalid(_) => (StatusCode::BAD_GATEWAY, "oauth_upstream_invalid"),
        P::Unreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, "oauth_upstream_unreachable"),
        P::OutcomeUnknown(_) => (StatusCode::BAD_GATEWAY, "oauth_outcome_unknown"),
        P::RateLimited(_) => (StatusCode::SERVICE_UNAVAILABLE, "oauth_rate_limited"),
        P::GrantIncomplete(_) => (StatusCode::UNPROCESSABLE_ENTITY, "oauth_grant_incomplete"),
        P::AccountMismatch => (StatusCode::CONFLICT, "oauth_account_mismatch"),
        P::TooManyPastes => (StatusCode::TOO_MANY_REQUESTS, "oauth_too_many_pastes"),
        P::TooManyLogins { .. } => (StatusCode::TOO_MANY_REQUESTS, "oauth_too_many_logins"),
        P::NotExchanged => (StatusCode::CONFLICT, "login_not_exchanged"),
        P::Ended => (StatusCode::CONFLICT, "login_ended"),
        P::GrantGone => (StatusCode::CONFLICT, "login_tokens_gone"),
        // These become errors of their own on the way here, see below.
        P::Execute(_) | P::Read(_) | P::Flow(_) | P::SealField(_) | P::Erase(_) | P::Task(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL)
        }
    }
}

impl From<LoginProblem> for ApiError {
    fn from(problem: LoginProblem) -> Self {
        match problem {
            LoginProblem::Execute(error) => error.into(),
            LoginProblem::Read(error) => error.into(),
            LoginProblem::Flow(error) => match error.split() {
                Ok(seal) => seal.into(),
                Err(unseal) => unseal.into(),
            },
            LoginProblem::SealField(error) => error.into(),
            LoginProblem::Erase(error) => error.into(),
            LoginProblem::Task(error) => error.into(),
            problem => Self::Login(problem),
        }
    }
}
