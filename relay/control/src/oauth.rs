//! Upstream accounts that are opened by a login at their provider (OAuth 2) instead of a pasted secret.
//!
//! Where to look first: [`provider`] for what is known of a provider, [`token_client`] for the only code that speaks to one, [`Logins`] for
//! what moves a login on. Endpoints come from the compiled presets or the configuration, never from discovery at run time.

mod flow;
mod logins;
mod paste;
mod problem;
pub mod provider;
mod throttle;
pub mod token_client;

pub(crate) use flow::DeviceSecret;
pub(crate) use logins::{Begun, NewLogin, placeholder};
pub use logins::{Logins, LoginsParts};
pub(crate) use problem::LoginProblem;
pub(crate) use provider::definition::is_safe;
pub use provider::{OauthClient, Provider, Providers};
pub use token_client::{TokenClient, TokenError, Tokens};
