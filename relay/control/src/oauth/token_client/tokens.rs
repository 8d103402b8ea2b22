//! Tokens, and whose they are.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Flaw, TokenError};
use crate::oauth::provider::{Identity, Provider};

/// The most characters of what is shown of an account.
const SHOWN_LENGTH_MAX: usize = 256;

/// What a token endpoint gave. `Debug` hides the tokens, and their memory is wiped.
#[derive(Clone)]
pub struct Tokens {
    pub access_token: Zeroizing<String>,
    pub refresh_token: Option<Zeroizing<String>>,
    /// `Bearer`, as the provider spells it.
    pub token_type: String,
    /// None where the provider does not say, or the token does not expire.
    pub expires_in: Option<Duration>,
    /// What was granted; what was asked for where the provider does not say.
    pub scopes: Vec<String>,
    pub(super) id_token: Option<Zeroizing<String>>,
    /// The whole answer.
    pub(super) answer: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("expires_in", &self.expires_in).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(alias = "accessToken", deserialize_with = "secret")]
    access_token: Option<Zeroizing<String>>,
    #[serde(default, alias = "refreshToken", deserialize_with = "secret")]
    refresh_token: Option<Zeroizing<String>>,
    #[serde(default, alias = "idToken", deserialize_with = "secret")]
    id_token: Option<Zeroizing<String>>,
    #[serde(default, alias = "tokenType")]
    token_type: Option<String>,
    #[serde(default, alias = "expiresIn")]
    expires_in: Option<Seconds>,
    #[serde(default)]
    scope: Option<String>,
}

/// A number, or a text of one, as some spell it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(Zeroizing::new).filter(|text| !text.is_empty()))
}

impl Tokens {
    pub(super) fn read(provider: &Provider, bytes: &[u8]) -> Result<Self, TokenError> {
        let answer = serde_json::from_slice::<TokenAnswer>(bytes).map_err(|_| Flaw::Lacks("an access token"))?;
        let access_token = answer.access_token.ok_or(Flaw::Lacks("an access token"))?;
        let seconds = answer.expires_in.and_then(|seconds| match seconds {
            Seconds::Number(seconds) => Some(seconds),
            Seconds::Text(text) => text.trim().parse().ok(),
        });
        // RFC 6749 separates scopes by spaces, GitHub by commas.
        let granted = answer.scope.map(|scope| scope.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect());
        Ok(Self {
            access_token,
            refresh_token: answer.refresh_token,
            token_type: answer.token_type.unwrap_or_else(|| "Bearer".to_owned()),
            expires_in: seconds.filter(|seconds| *seconds > 0.0).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            scopes: granted.unwrap_or_else(|| provider.scopes.clone()),
            id_token: answer.id_token,
            answer: Zeroizing::new(bytes.to_vec()),
        })
    }

    /// The scopes that were asked for and not granted.
    pub fn missing_scopes<'a>(&'a self, provider: &'a Provider) -> impl Iterator<Item = &'a str> {
        provider.scopes.iter().filter(|scope| !self.scopes.contains(scope)).map(String::as_str)
    }

    /// The claims of the ID token. It came from the token endpoint itself, so its signature needs no second look (OpenID Connect Core 3.1.3.7).
    pub(super) fn claims(&self, client_id: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let token = self.id_token.as_deref().ok_or(Flaw::Lacks("an ID token"))?;
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let payload = Zeroizing::new(payload.ok_or(Flaw::Lacks("an ID token"))?);
        let claims = serde_json::from_slice::<Map<String, Value>>(&payload).map_err(|_| Flaw::Lacks("an ID token"))?;
        let is_ours = match claims.get("aud") {
            Some(Value::String(audience)) => audience == client_id,
            Some(Value::Array(audiences)) => audiences.iter().any(|audience| audience == client_id),
            _ => false,
        };
        if is_ours { Ok(payload) } else { Err(Flaw::Audience.into()) }
    }
}

/// Whose account the tokens are for. `Debug` hides it: it is personal.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// What stays the same for ever.
    pub id: String,
    /// What people know it by: mail address, organisation, plan.
    pub shown: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account")
    }
}

impl Account {
    pub(super) fn read(identity: &Identity, bytes: &[u8]) -> Result<Self, TokenError> {
        let members = serde_json::from_slice::<Map<String, Value>>(bytes).map_err(|_| Flaw::Lacks("an account"))?;
        let text = |name: &String| match members.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let id = text(&identity.account_member).ok_or(Flaw::Lacks("an account"))?;
        let shown = identity.shown_members.iter().filter_map(text).collect::<Vec<_>>().join(", ");
        let shown: String = shown.chars().filter(|c| !c.is_control()).take(SHOWN_LENGTH_MAX).collect();
        Ok(Self { shown: if shown.is_empty() { id.clone() } else { shown }, id })
    }
}
