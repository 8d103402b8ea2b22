//! What is known of a provider: data, not code.

pub mod definition;
mod presets;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

pub use definition::{Definition, DefinitionError};

/// A provider at which accounts are opened by a login.
#[derive(Debug, Clone)]
pub struct Provider {
    /// What operators and events call it: `google`.
    pub name: String,
    /// Where a browser is sent; none for a provider that only knows device codes.
    pub authorize_url: Option<Url>,
    pub token_url: Url,
    /// Where a device code is asked for (RFC 8628).
    pub device_url: Option<Url>,
    /// Where a token is given back (RFC 7009).
    pub revoke_url: Option<Url>,
    /// Where a client registers itself, at each login.
    pub registration_url: Option<Url>,
    /// The start page of an AWS access portal, where the provider wants to know it.
    pub start_url: Option<Url>,
    /// What the provider calls itself in `iss` (RFC 9207); none where it sends none.
    pub issuer: Option<String>,
    /// Whom the provider knows us as; none until an operator configures it, unless there is a `registration_url`.
    pub client: Option<OauthClient>,
    /// How the client shows its secret.
    pub client_auth: ClientAuth,
    /// What is asked for; what is granted must hold all of it.
    pub scopes: Vec<String>,
    pub redirect: Redirect,
    /// Whether the code is bound to a verifier (RFC 7636, always S256).
    pub pkce: bool,
    /// How requests to the token endpoint are spelt.
    pub wire: Wire,
    /// Further parameters of the URL that the browser opens.
    pub authorize_parameters: BTreeMap<String, String>,
    /// Further parameters of requests to the token endpoint.
    pub token_parameters: BTreeMap<String, String>,
    /// Whether a login without a refresh token is of no use.
    pub needs_refresh_token: bool,
    pub identity: Identity,
}

/// Whom a provider knows us as.
#[derive(Clone)]
pub struct OauthClient {
    pub id: String,
    /// None for a public client.
    pub secret: Option<Zeroizing<String>>,
}

impl fmt::Debug for OauthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OauthClient").field("id", &self.id).field("secret", &self.secret.as_ref().map(|_| "...")).finish()
    }
}

/// How a client shows its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Among the parameters.
    #[default]
    Post,
    /// As `Authorization: Basic`.
    Basic,
}

/// How requests to a token endpoint are spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// `application/x-www-form-urlencoded`, as the standard has it.
    #[default]
    Form,
    Json,
    /// JSON with members in camel case, both ways.
    CamelJson,
}

/// Where the provider sends the browser back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// A port on the operator's own machine. No ports means that the provider takes any.
    Loopback { host: String, ports: Vec<u16>, path: String },
    /// One address, from which the operator pastes.
    Fixed(Url),
}

/// The port of a loopback redirect where any will do and nobody listens: the browser shows an error there and the address is pasted.
const PASTE_PORT: u16 = 8976;

impl Redirect {
    /// The address for a login. `port` is where somebody listens; none where the address will be pasted. None for a port that the provider
    /// does not allow.
    pub fn address(&self, port: Option<u16>) -> Option<Url> {
        match self {
            Self::Fixed(url) => port.is_none().then(|| url.clone()),
            Self::Loopback { host, ports, path } => {
                let port = port.unwrap_or_else(|| ports.first().copied().unwrap_or(PASTE_PORT));
                let allowed = port != 0 && (ports.is_empty() || ports.contains(&port));
                allowed.then(|| Url::parse(&format!("http://{host}:{port}{path}")).ok()).flatten()
            }
        }
    }
}

/// Where the provider tells whose account it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub source: IdentitySource,
    /// The member that stays the same for ever: `sub`, `id`.
    pub account_member: String,
    /// The members that people know the account by, in the order in which they are shown: `email`, `login`, `plan`.
    pub shown_members: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// The ID token that comes with the tokens, over the same connection.
    IdToken,
    /// An address that answers JSON to the access token.
    Url(Url),
    /// The answer of the token endpoint itself.
    TokenAnswer,
    /// It does not tell.
    Nowhere,
}

/// The providers by name.
#[derive(Debug, Clone)]
pub struct Providers(BTreeMap<String, Arc<Provider>>);

impl Default for Providers {
    fn default() -> Self {
        Self::presets()
    }
}

impl Providers {
    /// What comes compiled in.
    pub fn presets() -> Self {
        Self(presets::all().map(|provider| (provider.name.clone(), Arc::new(provider))).collect())
    }

    /// Adds a provider, or completes a preset of this name.
    pub fn define(&mut self, name: &str, definition: Definition) -> Result<(), DefinitionError> {
        let provider = definition.complete(name, self.0.get(name).map(|preset| &**preset))?;
        self.0.insert(name.to_owned(), Arc::new(provider));
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<Arc<Provider>> {
        self.0.get(name).cloned()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.0.values()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_redirect_takes_only_the_ports_that_are_allowed() {
        let some = Redirect::Loopback { host: "localhost".into(), ports: vec![3128, 4649], path: "/oauth/callback".into() };
        assert_eq!(some.address(Some(4649)).unwrap().as_str(), "http://localhost:4649/oauth/callback");
        assert_eq!(some.address(None).unwrap().as_str(), "http://localhost:3128/oauth/callback");
        assert_eq!(some.address(Some(80)), None);
        let any = Redirect::Loopback { host: "127.0.0.1".into(), ports: vec![], path: "/".into() };
        assert_eq!(any.address(Some(40_000)).unwrap().as_str(), "http://127.0.0.1:40000/");
        assert_eq!(any.address(Some(0)), None);
        let fixed = Redirect::Fixed(Url::parse("https://example.com/code").unwrap());
        assert_eq!((fixed.address(None).is_some(), fixed.address(Some(1))), (true, None));
    }

    #[test]
    fn no_debug_output_shows_a_client_secret() {
        let client = OauthClient { id: "me".into(), secret: Some(Zeroizing::new("hush".to_owned())) };
        assert!(!format!("{client:?}").contains("hush"));
    }
}
