//! Providers with public, documented endpoints.
//!
//! Google: developers.google.com/identity/protocols/oauth2/native-app. GitHub: docs.github.com/apps/oauth-apps. AWS: the API reference of
//! IAM Identity Center OIDC. Of each but AWS, where a client registers itself, the operator brings the client.

use std::collections::BTreeMap;

use url::Url;

use super::{ClientAuth, Identity, IdentitySource, Provider, Redirect, Wire};

pub(super) fn all() -> impl Iterator<Item = Provider> {
    [google(), github(), aws_sso()].into_iter()
}

fn url(text: &str) -> Url {
    Url::parse(text).expect("the presets' addresses are constants that a test reads")
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn loopback() -> Redirect {
    Redirect::Loopback { host: "127.0.0.1".to_owned(), ports: Vec::new(), path: "/oauth/callback".to_owned() }
}

fn google() -> Provider {
    Provider {
        name: "google".to_owned(),
        authorize_url: Some(url("https://accounts.google.com/o/oauth2/v2/auth")),
        token_url: url("https://oauth2.googleapis.com/token"),
        device_url: Some(url("https://oauth2.googleapis.com/device/code")),
        revoke_url: Some(url("https://oauth2.googleapis.com/revoke")),
        registration_url: None,
        start_url: None,
        issuer: Some("https://accounts.google.com".to_owned()),
        client: None,
        client_auth: ClientAuth::Post,
        scopes: texts(&["openid", "https://www.googleapis.com/auth/userinfo.email"]),
        redirect: loopback(),
        pkce: true,
        wire: Wire::Form,
        // Without these Google gives no refresh token to an account that has agreed before.
        authorize_parameters: parameters(&[("access_type", "offline"), ("prompt", "consent")]),
        token_parameters: BTreeMap::new(),
        needs_refresh_token: true,
        identity: Identity { source: IdentitySource::IdToken, account_member: "sub".to_owned(), shown_members: texts(&["email", "hd"]) },
    }
}

fn github() -> Provider {
    Provider {
        name: "github".to_owned(),
        authorize_url: Some(url("https://github.com/login/oauth/authorize")),
        token_url: url("https://github.com/login/oauth/access_token"),
        device_url: Some(url("https://github.com/login/device/code")),
        // Tokens are given back with the client's own password at another API; the owner does it in the account's settings.
        revoke_url: None,
        registration_url: None,
        start_url: None,
        issuer: None,
        client: None,
        client_auth: ClientAuth::Post,
        scopes: texts(&["read:user"]),
        redirect: loopback(),
        pkce: true,
        wire: Wire::Form,
        authorize_parameters: BTreeMap::new(),
        token_parameters: BTreeMap::new(),
        // The tokens of an OAuth app do not expire and have none.
        needs_refresh_token: false,
        identity: Identity {
            source: IdentitySource::Url(url("https://api.github.com/user")),
            account_member: "id".to_owned(),
            shown_members: texts(&["login", "email", "company"]),
        },
    }
}

fn aws_sso() -> Provider {
    Provider {
        name: "aws-sso".to_owned(),
        authorize_url: Some(url("https://oidc.us-east-1.amazonaws.com/authorize")),
        token_url: url("https://oidc.us-east-1.amazonaws.com/token"),
        device_url: Some(url("https://oidc.us-east-1.amazonaws.com/device_authorization")),
        revoke_url: None,
        registration_url: Some(url("https://oidc.us-east-1.amazonaws.com/client/register")),
        // Of a Builder ID; an organisation defines its own, with the endpoints of its region.
        start_url: Some(url("https://view.awsapps.com/start")),
        issuer: None,
        client: None,
        client_auth: ClientAuth::Post,
        scopes: texts(&["sso:account:access"]),
        redirect: loopback(),
        pkce: true,
        wire: Wire::CamelJson,
        authorize_parameters: BTreeMap::new(),
        token_parameters: BTreeMap::new(),
        needs_refresh_token: true,
        identity: Identity { source: IdentitySource::Nowhere, account_member: "sub".to_owned(), shown_members: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_speaks_https_only_and_can_be_logged_in_to() {
        for provider in all() {
            let urls = [
                provider.authorize_url.as_ref(),
                Some(&provider.token_url),
                provider.device_url.as_ref(),
                provider.revoke_url.as_ref(),
                provider.registration_url.as_ref(),
            ];
            assert!(urls.into_iter().flatten().all(|url| url.scheme() == "https"), "{}", provider.name);
            assert!(provider.authorize_url.is_some() && provider.redirect.address(None).is_some(), "{}", provider.name);
            assert!(provider.pkce && provider.client.is_none(), "{}", provider.name);
        }
    }
}
