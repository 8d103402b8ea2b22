//! The only code that speaks to a provider's OAuth endpoints.
//!
//! Apart from the relay's own client: no redirects, no proxy from the environment, no cookies, no connection used twice, TLS unless the
//! endpoint is a private address and those are allowed. Every failure says whether the provider can have seen the request, because a code
//! and most refresh tokens are good once.

mod answer;
mod exchange;
mod tokens;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, Method, StatusCode};
use serde::Deserialize;
use thiserror::Error;
use url::Url;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::provider::{ClientAuth, IdentitySource, OauthClient, Provider, Wire};
use answer::{Answer, Fault};
use exchange::{Exchange, Outgoing};

pub use tokens::{Account, Tokens};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The grant type of a device code (RFC 8628).
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// How long between two polls where the provider does not say.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// What we are called where a client registers itself.
const CLIENT_NAME: &str = "keyrelay";

/// Why a provider gave no tokens.
#[derive(Debug, Error)]
pub enum TokenError {
    /// Not one byte of the request went out; it can be sent again.
    #[error("the provider could not be reached")]
    NotSent(#[source] BoxError),
    /// The request went out and nobody knows what it did.
    #[error("the provider's answer is not known")]
    Unknown(#[source] BoxError),
    #[error("the provider asks to come again later")]
    RateLimited { retry_after: Option<Duration> },
    /// The code, the device code or the refresh token is not good, or no longer.
    #[error("the provider refused the grant")]
    InvalidGrant,
    /// The provider does not know us.
    #[error("the provider refused the client")]
    InvalidClient,
    #[error("the provider's endpoint does not do what it should")]
    Invalid(#[source] Flaw),
}

/// What is wrong with an endpoint, or with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Flaw {
    #[error("its address is not https, or private without relay.allow_private_upstreams")]
    Address,
    #[error("its TLS certificate or handshake is not good")]
    Tls,
    #[error("it redirects")]
    Redirect,
    #[error("it answers {status}")]
    Status { status: u16 },
    #[error("its answer is not JSON")]
    NotJson,
    #[error("its answer has more than {} bytes", exchange::ANSWER_BYTES_MAX)]
    TooLarge,
    #[error("its answer lacks {0}")]
    Lacks(&'static str),
    #[error("it refuses the request: {code}")]
    Refused { code: String },
    #[error("its ID token is not for us")]
    Audience,
}

impl From<Flaw> for TokenError {
    fn from(flaw: Flaw) -> Self {
        Self::Invalid(flaw)
    }
}

/// A login at a device of the user's own (RFC 8628).
#[derive(Clone)]
pub struct DeviceCode {
    pub device_code: Zeroizing<String>,
    /// What the user types in at the provider's page.
    pub user_code: String,
    pub verification_uri: String,
    /// The page with the code in it.
    pub verification_uri_complete: Option<String>,
    pub expires_in: Duration,
    /// The least time between two polls.
    pub interval: Duration,
}

/// What a poll for a device code came to.
#[derive(Debug)]
pub enum Polled {
    Pending,
    /// Pending, and the interval is five seconds longer from now on.
    SlowDown,
    Denied,
    Expired,
    Done(Box<Tokens>),
}

/// Speaks to token endpoints. Cheap to clone.
#[derive(Clone)]
pub struct TokenClient(Exchange);

impl TokenClient {
    /// Fails where the system has no root certificates.
    pub fn new(allow_private: bool) -> std::io::Result<Self> {
        Exchange::new(allow_private).map(Self)
    }

    /// Redeems the code of an authorization. `verifier` is PKCE's.
    pub async fn exchange_code(
        &self,
        provider: &Provider,
        client: &OauthClient,
        code: &str,
        verifier: Option<&str>,
        redirect_uri: &str,
    ) -> Result<Tokens, TokenError> {
        let mut parameters = vec![("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect_uri)];
        parameters.extend(verifier.map(|verifier| ("code_verifier", verifier)));
        self.redeem(provider, client, &parameters, &|| true).await
    }

    /// Redeems a refresh token. `may_send` is asked once the connection stands, right before the first byte goes out; where it says no, that
    /// is [`TokenError::NotSent`].
    pub async fn refresh(
        &self,
        provider: &Provider,
        client: &OauthClient,
        refresh_token: &str,
        may_send: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Tokens, TokenError> {
        self.redeem(provider, client, &[("grant_type", "refresh_token"), ("refresh_token", refresh_token)], may_send).await
    }

    async fn redeem(
        &self,
        provider: &Provider,
        client: &OauthClient,
        parameters: &[(&str, &str)],
        may_send: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Tokens, TokenError> {
        let further = provider.token_parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = parameters.iter().copied().chain(further).collect();
        let answer = self.post(provider, client, &provider.token_url, &all, may_send).await?;
        Tokens::read(provider, &answer.accepted()?)
    }

    /// Asks for a device code.
    pub async fn device_start(&self, provider: &Provider, client: &OauthClient) -> Result<DeviceCode, TokenError> {
        #[derive(Deserialize)]
        struct Started {
            #[serde(alias = "deviceCode")]
            device_code: String,
            #[serde(alias = "userCode")]
            user_code: String,
            #[serde(alias = "verificationUri", alias = "verification_url")]
            verification_uri: String,
            #[serde(default, alias = "verificationUriComplete")]
            verification_uri_complete: Option<String>,
            #[serde(alias = "expiresIn")]
            expires_in: u64,
            #[serde(default)]
            interval: Option<u64>,
        }
        let url = provider.device_url.as_ref().ok_or(Flaw::Lacks("device_url"))?;
        let scopes = provider.scopes.join(" ");
        let parameters: Vec<_> = match &provider.start_url {
            Some(start) => vec![("start_url", start.as_str())],
            None => vec![("scope", scopes.as_str())],
        };
        let answer = self.post(provider, client, url, &parameters, &|| true).await?.accepted()?;
        let started = serde_json::from_slice::<Started>(&answer).map_err(|_| Flaw::Lacks("a device code"))?;
        Ok(DeviceCode {
            device_code: Zeroizing::new(started.device_code),
            user_code: started.user_code,
            verification_uri: started.verification_uri,
            verification_uri_complete: started.verification_uri_complete,
            expires_in: Duration::from_secs(started.expires_in),
            interval: started.interval.map_or(POLL_INTERVAL, |seconds| Duration::from_secs(seconds.max(1))),
        })
    }

    /// Asks once whether the user has agreed.
    pub async fn device_poll(&self, provider: &Provider, client: &OauthClient, device_code: &str) -> Result<Polled, TokenError> {
        let parameters = [("grant_type", DEVICE_GRANT), ("device_code", device_code)];
        let answer = self.post(provider, client, &provider.token_url, &parameters, &|| true).await?;
        match answer.judged() {
            Ok(bytes) => Ok(Polled::Done(Box::new(Tokens::read(provider, &bytes)?))),
            Err(Fault::Named(code)) if code == "authorization_pending" => Ok(Polled::Pending),
            Err(Fault::Named(code)) if code == "slow_down" => Ok(Polled::SlowDown),
            Err(Fault::Named(code)) if code == "access_denied" => Ok(Polled::Denied),
            Err(Fault::Named(code)) if code == "expired_token" => Ok(Polled::Expired),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Gives a token back. Without a `revoke_url` there is nothing to do.
    pub async fn revoke(&self, provider: &Provider, client: &OauthClient, token: &str) -> Result<(), TokenError> {
        let Some(url) = &provider.revoke_url else { return Ok(()) };
        let answer = self.post(provider, client, url, &[("token", token)], &|| true).await?;
        // The answer to a revocation is empty, and a token that is not known is as good as revoked.
        if answer.status.is_success() { Ok(()) } else { answer.accepted().map(drop) }
    }

    /// Registers a client of our own, where the provider wants that.
    pub async fn register(&self, provider: &Provider, redirect_uri: Option<&str>) -> Result<OauthClient, TokenError> {
        #[derive(Deserialize)]
        struct Registered {
            #[serde(alias = "clientId")]
            client_id: String,
            #[serde(default, alias = "clientSecret")]
            client_secret: Option<String>,
        }
        let url = provider.registration_url.as_ref().ok_or(Flaw::Lacks("registration_url"))?;
        let grant = if redirect_uri.is_some() { "authorization_code" } else { DEVICE_GRANT };
        let camel = serde_json::json!({
            "clientName": CLIENT_NAME, "clientType": "public", "scopes": provider.scopes, "grantTypes": [grant, "refresh_token"],
            "redirectUris": redirect_uri.map(|uri| [uri]), "issuerUrl": provider.start_url,
        });
        let snake = serde_json::json!({
            "client_name": CLIENT_NAME, "token_endpoint_auth_method": "none", "scope": provider.scopes.join(" "),
            "grant_types": [grant, "refresh_token"], "redirect_uris": redirect_uri.map(|uri| [uri]),
        });
        let mut body = if provider.wire == Wire::CamelJson { camel } else { snake };
        if let Some(members) = body.as_object_mut() {
            members.retain(|_, value| !value.is_null());
        }
        let body = Zeroizing::new(body.to_string().into_bytes());
        let outgoing = Outgoing { method: Method::POST, url, content_type: Some(JSON), authorization: None, headers: &[], body };
        let answer = self.0.send(outgoing, &|| true).await?.accepted()?;
        let registered = serde_json::from_slice::<Registered>(&answer).map_err(|_| Flaw::Lacks("a client id"))?;
        Ok(OauthClient { id: registered.client_id, secret: registered.client_secret.map(Zeroizing::new) })
    }

    /// Whose account the tokens are for; none where the provider does not tell.
    pub async fn account(&self, provider: &Provider, client: &OauthClient, tokens: &Tokens) -> Result<Option<Account>, TokenError> {
        let claims = match &provider.identity.source {
            IdentitySource::Nowhere => return Ok(None),
            IdentitySource::TokenAnswer => tokens.answer.clone(),
            IdentitySource::IdToken => tokens.claims(&client.id)?,
            IdentitySource::Url(url) => {
                let authorization = Some(Zeroizing::new(format!("Bearer {}", &*tokens.access_token)));
                let outgoing =
                    Outgoing { method: Method::GET, url, content_type: None, authorization, headers: &[], body: Zeroizing::default() };
                self.0.send(outgoing, &|| true).await?.accepted()?
            }
        };
        Account::read(&provider.identity, &claims).map(Some)
    }

    /// Asks a provider for something that is no token: the status and the body of its answer, which may be a refusal.
    pub(crate) async fn call(
        &self,
        method: Method,
        url: &Url,
        headers: &[(HeaderName, Zeroizing<String>)],
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), TokenError> {
        let (content_type, body) = (body.is_some().then_some(JSON), body.unwrap_or_default());
        let answer = self.0.send(Outgoing { method, url, content_type, authorization: None, headers, body }, &|| true).await?;
        Ok((answer.status, answer.body))
    }

    async fn post(
        &self,
        provider: &Provider,
        client: &OauthClient,
        url: &Url,
        parameters: &[(&str, &str)],
        may_send: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Answer, TokenError> {
        let secret = client.secret.as_deref().map(String::as_str);
        let by_header = provider.client_auth == ClientAuth::Basic && secret.is_some();
        let mut all = parameters.to_vec();
        if !by_header {
            all.push(("client_id", client.id.as_str()));
            all.extend(secret.map(|secret| ("client_secret", secret)));
        }
        let authorization = by_header.then(|| basic(&client.id, secret.unwrap_or_default()));
        let (content_type, body) = match provider.wire {
            Wire::Form => (FORM, Zeroizing::new(Serializer::new(String::new()).extend_pairs(&all).finish().into_bytes())),
            Wire::Json => (JSON, json(all.iter().map(|(name, value)| ((*name).to_owned(), *value)))),
            Wire::CamelJson => (JSON, json(all.iter().map(|(name, value)| (camel(name), *value)))),
        };
        let outgoing = Outgoing { method: Method::POST, url, content_type: Some(content_type), authorization, headers: &[], body };
        self.0.send(outgoing, may_send).await
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// RFC 6749, 2.3.1: both parts are form-encoded before they are put together.
fn basic(id: &str, secret: &str) -> Zeroizing<String> {
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encoded(id), encoded(secret)));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

fn json<'a>(members: impl Iterator<Item = (String, &'a str)>) -> Zeroizing<Vec<u8>> {
    let members: BTreeMap<String, &str> = members.collect();
    Zeroizing::new(serde_json::to_vec(&members).expect("texts are always JSON"))
}

/// `code_verifier` is `codeVerifier`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut out, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        out.push_str(&head.to_ascii_uppercase());
        out.push_str(tail);
        out
    })
}

#[cfg(test)]
#[path = "token_client_tests.rs"]
mod tests;
