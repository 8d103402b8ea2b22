//! A channel: a form, the secrets to send with, and what is sent there.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemas::{TenantId, Timestamp};
use url::Url;
use zeroize::Zeroizing;

use super::definition::ChannelError;
use super::form::{Form, Posting};
use super::notice::{Kind, Notice};
use super::template::Template;

/// Bytes of a webhook's key, as Standard Webhooks has it. An empty one would let anybody sign.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What it takes to send to a channel. Shows itself nowhere.
#[derive(Clone)]
pub struct Secrets {
    pub(super) url: Url,
    /// The text of the secret, and for webhooks the key that it spells.
    signing: Option<(Zeroizing<String>, Zeroizing<Vec<u8>>)>,
    pub(super) chat_id: Option<String>,
}

impl Secrets {
    /// Refuses a secret that is empty or, for a webhook, is not `whsec_` and base64 of 24 to 64 bytes.
    pub fn new(form: Form, url: Url, secret: Option<Zeroizing<String>>, chat_id: Option<String>) -> Result<Self, ChannelError> {
        let key = |text: &Zeroizing<String>| match form {
            Form::Webhook => STANDARD.decode(text.strip_prefix("whsec_")?).ok().filter(|key| KEY_BYTES.contains(&key.len())),
            _ => Some(text.as_bytes().to_vec()).filter(|key| !key.is_empty()),
        };
        let signing = match secret {
            None => None,
            Some(text) => {
                let key = key(&text).ok_or(ChannelError::Secret)?;
                Some((text, Zeroizing::new(key)))
            }
        };
        Ok(Self { url, signing, chat_id })
    }

    pub(super) fn signing_text(&self) -> Option<&str> {
        self.signing.as_ref().map(|(text, _)| text.as_str())
    }

    pub(super) fn signing_key(&self) -> Option<&[u8]> {
        self.signing.as_ref().map(|(_, key)| key.as_slice())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// Where notices go.
#[derive(Debug, Clone)]
pub struct Channel {
    pub name: String,
    pub form: Form,
    /// What is told there; nothing means all kinds.
    pub kinds: BTreeSet<Kind>,
    /// Whose notices are told there; nothing means those of all tenants.
    pub tenants: BTreeSet<TenantId>,
    pub(super) secrets: Secrets,
    pub(super) template: Option<Template>,
}

impl Channel {
    /// Whether a kind of notice about a tenant's thing is told here.
    pub fn takes(&self, kind: Kind, tenant: Option<&TenantId>) -> bool {
        let takes_tenant = self.tenants.is_empty() || tenant.is_some_and(|tenant| self.tenants.contains(tenant));
        takes_tenant && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }

    /// The request that tells a notice at a time.
    pub fn posting(&self, notice: &Notice, now: Timestamp) -> Posting {
        self.form.posting(notice, &self.secrets, self.template.as_ref(), now)
    }

    /// Whether an answer to it says that it was taken.
    pub fn is_taken(&self, status: u16, body: &[u8]) -> bool {
        self.form.is_taken(status, body)
    }
}
