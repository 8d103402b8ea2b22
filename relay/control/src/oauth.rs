//! Upstream accounts that are opened by a login at their provider (OAuth 2) instead of a pasted secret.
//!
//! Where to look first: [`provider`] for what is known of a provider, [`token_client`] for the only code that speaks to one. Endpoints come
//! from the compiled presets or the configuration, never from discovery at run time.

pub mod provider;
pub mod token_client;

pub use provider::{OauthClient, Provider, Providers};
pub use token_client::{TokenClient, TokenError, Tokens};
