//! What a login keeps sealed until it ends, and the address that its browser opens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemas::{Digest, LoginId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use url::Url;
use vault::{Lifetime, SealError, Sealing, SecretAddress, StoreError, UnsealError, Vault};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::provider::{OauthClient, Provider, Wire};
use crate::secrets::random_bytes;

/// The owner of a login's secrets in the vault.
pub(crate) const LOGIN_OWNER: &str = "login";
/// What a login keeps until it has tokens, and the tokens until they are confirmed.
const FLOW: &str = "flow";
const GRANT: &str = "grant";
/// How long the vault keeps either, should nobody destroy them: both deadlines of a login, and some.
const KEPT_SECONDS: u64 = 3 * schemas::login::LOGIN_SECONDS;

/// A login's secrets while it has no tokens.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct FlowSecret {
    /// PKCE's; the state comes from it, one way.
    verifier: String,
    client_id: String,
    client_secret: Option<String>,
    pub(crate) device: Option<DeviceSecret>,
}

#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct DeviceSecret {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
    pub(crate) verification_uri: String,
    pub(crate) verification_uri_complete: Option<String>,
    pub(crate) interval_seconds: u64,
    pub(crate) expires_in_seconds: u64,
}

impl FlowSecret {
    pub(crate) fn new(client: &OauthClient, device: Option<DeviceSecret>) -> Self {
        let bytes = Zeroizing::new(random_bytes::<32>());
        Self {
            verifier: URL_SAFE_NO_PAD.encode(&bytes[..]),
            client_id: client.id.clone(),
            client_secret: client.secret.as_ref().map(|secret| secret.to_string()),
            device,
        }
    }

    pub(crate) fn client(&self) -> OauthClient {
        OauthClient { id: self.client_id.clone(), secret: self.client_secret.clone().map(Zeroizing::new) }
    }

    /// PKCE's verifier, where the provider takes one.
    pub(crate) fn verifier(&self, provider: &Provider) -> Option<&str> {
        provider.pkce.then_some(self.verifier.as_str())
    }

    /// What the browser must bring back: 256 bits, of which nothing of the verifier can be told.
    pub(crate) fn state(&self) -> Zeroizing<String> {
        let bytes = blake3::derive_key("keyrelay 2026 login state v1", self.verifier.as_bytes());
        Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The address that the browser opens; none for a provider that has none.
    pub(crate) fn authorize_url(&self, provider: &Provider, redirect_uri: &str) -> Option<Url> {
        let mut url = provider.authorize_url.clone()?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code").append_pair("client_id", &self.client_id);
            query.append_pair("redirect_uri", redirect_uri).append_pair("state", &self.state());
            if !provider.scopes.is_empty() {
                let name = if provider.wire == Wire::CamelJson { "scopes" } else { "scope" };
                query.append_pair(name, &provider.scopes.join(" "));
            }
            if provider.pkce {
                query.append_pair("code_challenge", &challenge(&self.verifier)).append_pair("code_challenge_method", "S256");
            }
            query.extend_pairs(&provider.authorize_parameters);
        }
        Some(url)
    }

    /// Seals these secrets, or gives those that a try before has sealed.
    pub(crate) fn seal(self, vault: &Vault, tenant: &TenantId, id: LoginId, now: Timestamp) -> Result<Self, FlowError> {
        let bytes = Zeroizing::new(serde_json::to_vec(&self).expect("texts are always JSON"));
        match vault.seal(&address(tenant, id, FLOW), &bytes, Lifetime::of_seconds(now, KEPT_SECONDS))? {
            Sealing::Sealed => Ok(self),
            Sealing::Exists => Self::unseal(vault, tenant, id),
        }
    }

    pub(crate) fn unseal(vault: &Vault, tenant: &TenantId, id: LoginId) -> Result<Self, FlowError> {
        let bytes = vault.unseal_within(&address(tenant, id, FLOW), UNSEAL_WAIT)?;
        serde_json::from_slice(&bytes).map_err(|_| FlowError::Unseal(UnsealError::Tampered))
    }
}

/// How long a secret that another node has sealed may be on its way.
const UNSEAL_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Why a login's secrets cannot be kept, or found again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlowError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Unseal(#[from] UnsealError),
}

impl FlowError {
    /// Which of the two it is.
    pub(crate) fn split(self) -> Result<SealError, UnsealError> {
        match self {
            Self::Seal(error) => Ok(error),
            Self::Unseal(error) => Err(error),
        }
    }
}

/// The digest under which the log knows a state.
pub(crate) fn state_hash(state: &str) -> Digest {
    Digest::from_bytes(blake3::derive_key("keyrelay 2026 login state hash v1", state.as_bytes()))
}

/// RFC 7636, 4.2: S256.
fn challenge(verifier: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref())
}

fn address(tenant: &TenantId, id: LoginId, field: &'static str) -> SecretAddress {
    SecretAddress { tenant: tenant.clone(), owner_kind: LOGIN_OWNER, owner_id: *id.as_bytes(), field, version: 1, origin: String::new() }
}

/// Keeps the tokens of a login until they are confirmed. A login has tokens once.
pub(crate) fn seal_grant(vault: &Vault, tenant: &TenantId, id: LoginId, grant: &[u8], now: Timestamp) -> Result<Sealing, SealError> {
    vault.seal(&address(tenant, id, GRANT), grant, Lifetime::of_seconds(now, KEPT_SECONDS))
}

/// The tokens that wait; none once they are destroyed.
pub(crate) fn waiting_grant(vault: &Vault, tenant: &TenantId, id: LoginId) -> Result<Option<Zeroizing<Vec<u8>>>, UnsealError> {
    match vault.unseal_within(&address(tenant, id, GRANT), UNSEAL_WAIT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(UnsealError::Missing | UnsealError::Erased) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Destroys the verifier and what belongs to it. Doing it again is safe.
pub(crate) fn erase_flow(vault: &Vault, tenant: &TenantId, id: LoginId) -> Result<(), StoreError> {
    vault.erase(&address(tenant, id, FLOW))
}

/// Destroys everything that a login keeps. Doing it again is safe.
pub(crate) fn erase_all(vault: &Vault, tenant: &TenantId, id: LoginId) -> Result<(), StoreError> {
    vault.erase_owner(tenant, LOGIN_OWNER, id.as_bytes())?;
    vault.erase_subject(&schemas::Stream::login(tenant.clone(), id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use super::*;
    use crate::oauth::provider::{Definition, Providers};

    #[test]
    fn the_challenge_is_the_standards_own_example() {
        assert_eq!(challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn the_browser_is_sent_with_everything_but_the_verifier() {
        let mut providers = Providers::presets();
        providers.define("google", Definition { client_id: Some("me".into()), ..Definition::default() }).unwrap();
        let google = providers.get("google").unwrap();
        let flow = FlowSecret::new(google.client.as_ref().unwrap(), None);
        let url = flow.authorize_url(&google, "http://127.0.0.1:8976/oauth/callback").unwrap();
        let pairs: std::collections::BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!((pairs["response_type"].as_str(), pairs["client_id"].as_str()), ("code", "me"));
        assert_eq!((pairs["access_type"].as_str(), pairs["code_challenge_method"].as_str()), ("offline", "S256"));
        assert_eq!(pairs["state"], *flow.state());
        assert_eq!((pairs["state"].len(), pairs["code_challenge"].len()), (43, 43));
        assert!(!url.as_str().contains(&flow.verifier));
    }
}
