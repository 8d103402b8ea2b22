//! What is sealed for a credential that an OAuth provider granted: both tokens, and what it takes to refresh them.
//!
//! JSON, so that an older release reads what a newer one has sealed. All of it lives in memory that is wiped.

use std::fmt;

use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The bytes are no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the secret is not a provider's grant")]
pub struct NoGrantSecret;

/// A provider's grant. Its `Debug` hides all of it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct GrantSecret {
    /// What upstreams are shown.
    pub access_token: String,
    pub refresh_token: Option<String>,
    pub token_type: String,
    pub client_id: String,
    pub client_secret: Option<String>,
    /// When the access token ends, so that an answer which was sealed and not recorded can be recorded later.
    #[serde(default)]
    #[zeroize(skip)]
    pub expires_at: Option<Timestamp>,
    /// The claim that this answers, as `CredentialRefreshClaimed` numbers them; 0 for what a login gave.
    #[serde(default)]
    pub generation: u32,
    /// Whether the refresh that gave this brought another refresh token.
    #[serde(default)]
    pub is_rotated: bool,
}

impl GrantSecret {
    /// The bytes to seal.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // As large as it may get, so that no copy is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(crate::vault::SECRET_BYTES_MAX));
        serde_json::to_writer(&mut *bytes, self).expect("a grant is plain data; encoding to memory cannot fail");
        bytes
    }

    /// The inverse of [`GrantSecret::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoGrantSecret> {
        serde_json::from_slice(bytes).map_err(|_| NoGrantSecret)
    }
}

impl fmt::Debug for GrantSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantSecret").field("generation", &self.generation).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use super::*;

    fn secret() -> GrantSecret {
        GrantSecret {
            access_token: "at-canary".into(),
            refresh_token: Some("rt-canary".into()),
            token_type: "Bearer".into(),
            client_id: "client-canary".into(),
            client_secret: Some("cs-canary".into()),
            expires_at: Some(Timestamp::from_micros(1_800_000_000_000_000)),
            generation: 3,
            is_rotated: true,
        }
    }

    #[test]
    fn a_grant_is_read_back_as_it_was_written() {
        assert_eq!(GrantSecret::from_bytes(&secret().to_bytes()), Ok(secret()));
        assert_eq!(GrantSecret::from_bytes(b"sk-plain"), Err(NoGrantSecret));
    }

    #[test]
    fn a_grant_of_an_older_or_newer_release_is_read() {
        let text = br#"{"access_token":"a","refresh_token":null,"token_type":"Bearer","client_id":"c","client_secret":null,"later":1}"#;
        let read = GrantSecret::from_bytes(text).unwrap();
        assert_eq!((read.access_token.as_str(), read.generation, read.expires_at), ("a", 0, None));
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", secret()).contains("canary"));
    }
}
