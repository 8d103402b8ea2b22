//! A provider as the configuration defines it: what it says stands over the preset of the same name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;
use url::Url;
use vault::files::{self, ReadSecretError};
use zeroize::Zeroizing;

use super::{ClientAuth, Identity, IdentitySource, OauthClient, Provider, Redirect, Wire};

/// A table of `[oauth.providers]`. What it does not say is as in the preset of its name, or as the standards have it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub authorize_url: Option<Url>,
    pub token_url: Option<Url>,
    pub device_url: Option<Url>,
    pub revoke_url: Option<Url>,
    pub registration_url: Option<Url>,
    pub start_url: Option<Url>,
    pub issuer: Option<String>,
    pub client_id: Option<String>,
    /// A file with the client's secret, that nobody else can read.
    pub client_secret_file: Option<PathBuf>,
    pub client_auth: Option<ClientAuth>,
    pub scopes: Option<Vec<String>>,
    /// Where the provider sends the browser back to, if it is one fixed address.
    pub redirect_uri: Option<Url>,
    /// The loopback ports that the provider allows; an empty list is any.
    pub redirect_ports: Option<Vec<u16>>,
    /// `127.0.0.1` or `localhost`, whichever is registered.
    pub redirect_host: Option<String>,
    pub redirect_path: Option<String>,
    pub pkce: Option<bool>,
    pub wire: Option<Wire>,
    pub authorize_parameters: Option<BTreeMap<String, String>>,
    pub token_parameters: Option<BTreeMap<String, String>>,
    pub needs_refresh_token: Option<bool>,
    /// `id_token`, `token_answer`, `nowhere`, or an address.
    pub identity: Option<String>,
    pub account_member: Option<String>,
    pub shown_members: Option<Vec<String>>,
}

/// Why a definition makes no provider. Goes on from the provider's name.
#[derive(Debug, Error)]
pub enum DefinitionError {
    #[error("is no name: 1 to 32 of a-z, 0-9, - and _")]
    Name,
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("has a {0} that is not https, or http on a private address")]
    Url(&'static str),
    #[error("has a redirect_uri and also loopback ports, a host or a path for it")]
    TwoRedirects,
    #[error("has a redirect_host other than 127.0.0.1, [::1] and localhost, or a redirect_path that is none")]
    Redirect,
    #[error("has an identity that is none of id_token, token_answer, nowhere and an address")]
    Identity,
    #[error("has a client_secret_file that cannot be used")]
    ClientSecret(#[source] ReadSecretError),
    #[error("has a client_secret_file that is not text")]
    ClientSecretText,
    #[error("has a client_secret_file without a client_id")]
    SecretWithoutId,
    #[error("has a parameter {0}, which is the login's own")]
    Parameter(String),
}

/// What a login says itself, and a definition cannot.
const OWN_PARAMETERS: [&str; 12] = [
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "device_code",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "response_type",
    "state",
];

impl Definition {
    /// The provider of this name.
    pub(super) fn complete(self, name: &str, preset: Option<&Provider>) -> Result<Provider, DefinitionError> {
        let named = (1..=32).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if !named {
            return Err(DefinitionError::Name);
        }
        let (client, redirect, identity) = (self.client(preset)?, self.redirect(preset)?, self.identity(preset)?);
        let provider = Provider {
            name: name.to_owned(),
            authorize_url: self.authorize_url.or_else(|| preset.and_then(|preset| preset.authorize_url.clone())),
            token_url: self
                .token_url
                .or_else(|| preset.map(|preset| preset.token_url.clone()))
                .ok_or(DefinitionError::Missing("token_url"))?,
            device_url: self.device_url.or_else(|| preset.and_then(|preset| preset.device_url.clone())),
            revoke_url: self.revoke_url.or_else(|| preset.and_then(|preset| preset.revoke_url.clone())),
            registration_url: self.registration_url.or_else(|| preset.and_then(|preset| preset.registration_url.clone())),
            start_url: self.start_url.or_else(|| preset.and_then(|preset| preset.start_url.clone())),
            issuer: self.issuer.or_else(|| preset.and_then(|preset| preset.issuer.clone())),
            client,
            client_auth: self.client_auth.or(preset.map(|preset| preset.client_auth)).unwrap_or_default(),
            scopes: self.scopes.or_else(|| preset.map(|preset| preset.scopes.clone())).unwrap_or_default(),
            redirect,
            pkce: self.pkce.or(preset.map(|preset| preset.pkce)).unwrap_or(true),
            wire: self.wire.or(preset.map(|preset| preset.wire)).unwrap_or_default(),
            authorize_parameters: self
                .authorize_parameters
                .or_else(|| preset.map(|preset| preset.authorize_parameters.clone()))
                .unwrap_or_default(),
            token_parameters: self.token_parameters.or_else(|| preset.map(|preset| preset.token_parameters.clone())).unwrap_or_default(),
            needs_refresh_token: self.needs_refresh_token.or(preset.map(|preset| preset.needs_refresh_token)).unwrap_or(true),
            identity,
        };
        check(&provider)?;
        Ok(provider)
    }

    fn client(&self, preset: Option<&Provider>) -> Result<Option<OauthClient>, DefinitionError> {
        let Some(id) = self.client_id.clone() else {
            let preset = preset.and_then(|preset| preset.client.clone());
            return if self.client_secret_file.is_some() { Err(DefinitionError::SecretWithoutId) } else { Ok(preset) };
        };
        let read = |path: &PathBuf| {
            let bytes = files::read_secret(path).map_err(DefinitionError::ClientSecret)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| DefinitionError::ClientSecretText)?;
            Ok(Zeroizing::new(text.trim().to_owned()))
        };
        Ok(Some(OauthClient { id, secret: self.client_secret_file.as_ref().map(read).transpose()? }))
    }

    fn redirect(&self, preset: Option<&Provider>) -> Result<Redirect, DefinitionError> {
        let says_loopback = self.redirect_ports.is_some() || self.redirect_host.is_some() || self.redirect_path.is_some();
        if let Some(url) = &self.redirect_uri {
            return if says_loopback { Err(DefinitionError::TwoRedirects) } else { Ok(Redirect::Fixed(url.clone())) };
        }
        let (host, ports, path) = match preset.map(|preset| &preset.redirect) {
            Some(fixed @ Redirect::Fixed(_)) if !says_loopback => return Ok(fixed.clone()),
            Some(Redirect::Loopback { host, ports, path }) => (host.clone(), ports.clone(), path.clone()),
            _ => ("127.0.0.1".to_owned(), Vec::new(), "/oauth/callback".to_owned()),
        };
        let host = self.redirect_host.clone().unwrap_or(host);
        let ports = self.redirect_ports.clone().unwrap_or(ports);
        let path = self.redirect_path.clone().unwrap_or(path);
        let fits = ["127.0.0.1", "[::1]", "localhost"].contains(&host.as_str()) && path.starts_with('/') && !path.contains(['?', '#']);
        if fits { Ok(Redirect::Loopback { host, ports, path }) } else { Err(DefinitionError::Redirect) }
    }

    fn identity(&self, preset: Option<&Provider>) -> Result<Identity, DefinitionError> {
        let preset = preset.map(|preset| &preset.identity);
        let source = match self.identity.as_deref() {
            None => preset.map_or(IdentitySource::IdToken, |preset| preset.source.clone()),
            Some("id_token") => IdentitySource::IdToken,
            Some("token_answer") => IdentitySource::TokenAnswer,
            Some("nowhere") => IdentitySource::Nowhere,
            Some(text) => IdentitySource::Url(Url::parse(text).map_err(|_| DefinitionError::Identity)?),
        };
        let account_member = self.account_member.clone().or_else(|| preset.map(|preset| preset.account_member.clone()));
        let shown_members = self.shown_members.clone().or_else(|| preset.map(|preset| preset.shown_members.clone()));
        Ok(Identity {
            source,
            account_member: account_member.unwrap_or_else(|| "sub".to_owned()),
            shown_members: shown_members.unwrap_or_else(|| vec!["email".to_owned()]),
        })
    }
}

fn check(provider: &Provider) -> Result<(), DefinitionError> {
    if provider.authorize_url.is_none() && provider.device_url.is_none() {
        return Err(DefinitionError::Missing("authorize_url and no device_url"));
    }
    let identity = match &provider.identity.source {
        IdentitySource::Url(url) => Some(url),
        IdentitySource::IdToken | IdentitySource::TokenAnswer | IdentitySource::Nowhere => None,
    };
    let urls = [
        ("authorize_url", provider.authorize_url.as_ref()),
        ("token_url", Some(&provider.token_url)),
        ("device_url", provider.device_url.as_ref()),
        ("revoke_url", provider.revoke_url.as_ref()),
        ("registration_url", provider.registration_url.as_ref()),
        ("identity", identity),
    ];
    for (name, url) in urls.into_iter().filter_map(|(name, url)| Some((name, url?))) {
        if !is_safe(url, true) {
            return Err(DefinitionError::Url(name));
        }
    }
    let own = |name: &&String| OWN_PARAMETERS.contains(&name.as_str());
    match provider.authorize_parameters.keys().chain(provider.token_parameters.keys()).find(own) {
        Some(name) => Err(DefinitionError::Parameter(name.clone())),
        None => Ok(()),
    }
}

/// Whether secrets may go to this address: over TLS, or in clear to a private literal address where those are allowed.
pub(crate) fn is_safe(url: &Url, allow_private: bool) -> bool {
    let Some(host) = url.host_str() else { return false };
    let is_private = host == "localhost" || schemas::address::forbids_literal(host);
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    plain && (allow_private || !is_private) && (url.scheme() == "https" || (url.scheme() == "http" && is_private))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use super::super::Providers;
    use super::*;

    fn define(name: &str, definition: Definition) -> Result<Providers, DefinitionError> {
        let mut providers = Providers::presets();
        providers.define(name, definition)?;
        Ok(providers)
    }

    fn url(text: &str) -> Option<Url> {
        Some(Url::parse(text).unwrap())
    }

    #[test]
    fn a_preset_is_completed_with_a_client() {
        let providers = define("google", Definition { client_id: Some("me".into()), ..Default::default() }).unwrap();
        let google = providers.get("google").unwrap();
        assert_eq!(google.client.as_ref().unwrap().id, "me");
        assert_eq!(google.token_url.as_str(), "https://oauth2.googleapis.com/token");
    }

    #[test]
    fn a_provider_of_ones_own_needs_its_endpoints() {
        assert!(matches!(define("corp", Definition::default()), Err(DefinitionError::Missing("token_url"))));
        let token_only = Definition { token_url: url("https://id.example.com/token"), ..Default::default() };
        assert!(matches!(define("corp", token_only), Err(DefinitionError::Missing(_))));
        let whole = Definition {
            token_url: url("https://id.example.com/token"),
            authorize_url: url("https://id.example.com/authorize"),
            ..Default::default()
        };
        assert!(define("corp", whole).unwrap().get("corp").unwrap().pkce);
    }

    #[test]
    fn no_secret_goes_out_in_clear_to_a_public_host() {
        for (text, allow_private, safe) in [
            ("https://id.example.com/token", false, true),
            ("http://id.example.com/token", true, false),
            ("http://127.0.0.1:9/token", true, true),
            ("http://127.0.0.1:9/token", false, false),
            ("https://10.0.0.1/token", false, false),
            ("http://localhost:9/token", true, true),
            ("https://user:pass@id.example.com/token", true, false),
            ("ftp://id.example.com/token", true, false),
        ] {
            assert_eq!(is_safe(&Url::parse(text).unwrap(), allow_private), safe, "{text} {allow_private}");
        }
    }

    #[test]
    fn what_a_login_says_itself_cannot_be_configured() {
        let taken = Definition { token_parameters: Some([("code".to_owned(), "x".to_owned())].into()), ..Default::default() };
        assert!(matches!(define("google", taken), Err(DefinitionError::Parameter(_))));
    }
}
