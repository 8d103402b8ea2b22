//! A channel as the settings have it: `[notices.channels.NAME]`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemas::TenantId;
use serde::Deserialize;
use thiserror::Error;
use url::Url;
use zeroize::Zeroizing;

use super::channel::{Channel, Secrets};
use super::form::Form;
use super::notice::Kind;
use super::template::{Template, TemplateError};
use crate::oauth::provider::definition::is_safe;

const NAME_LENGTH_MAX: usize = 32;

/// One table of the settings. Secrets are named by file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelDefinition {
    pub form: Form,
    /// The address, for a webhook; that of any other form is a secret and comes from a file.
    #[serde(default)]
    pub url: Option<Url>,
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// What messages are signed with, for forms that are signed.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Where Telegram's bot writes to.
    #[serde(default)]
    pub chat_id: Option<String>,
    /// The payload of a webhook in place of ours: JSON with places such as `{{text}}` in its strings.
    #[serde(default)]
    pub template: Option<String>,
    #[serde(default)]
    pub kinds: BTreeSet<Kind>,
    #[serde(default)]
    pub tenants: BTreeSet<TenantId>,
}

/// What is wrong with a channel. Says nothing of what its files hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChannelError {
    #[error("its name is not 1 to 32 characters of a-z, 0-9 and -")]
    Name,
    #[error("it needs either url or url_file")]
    Address,
    #[error("its address lets anybody send, so it is given in url_file")]
    AddressInSettings,
    #[error("its url_file does not hold a URL")]
    NotAddress,
    #[error("its address is not https, or is private without relay.allow_private_upstreams")]
    UnsafeAddress,
    #[error("its form is not signed, so it takes no secret_file")]
    Unsigned,
    #[error("its secret is empty, or is not whsec_ and base64 of 24 to 64 bytes as webhooks need it")]
    Secret,
    #[error("chat_id belongs to the form telegram, which needs it")]
    Chat,
    #[error("template belongs to the form webhook")]
    TemplateForm,
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl ChannelDefinition {
    /// What can be said without reading the files.
    pub fn check(&self, name: &str) -> Result<(), ChannelError> {
        let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let template = self.template.as_deref().map(Template::parse).transpose()?;
        let faults = [
            (name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(is_name), ChannelError::Name),
            (self.url.is_some() == self.url_file.is_some(), ChannelError::Address),
            (self.url.is_some() && self.form.has_secret_address(), ChannelError::AddressInSettings),
            (self.secret_file.is_some() && !self.form.is_signed(), ChannelError::Unsigned),
            (self.chat_id.is_some() != (self.form == Form::Telegram), ChannelError::Chat),
            (template.is_some() && self.form != Form::Webhook, ChannelError::TemplateForm),
        ];
        faults.into_iter().find_map(|(is_fault, fault)| is_fault.then_some(Err(fault))).unwrap_or(Ok(()))
    }

    /// The channel, with what its files hold: `address` is the text of `url_file`, `secret` that of `secret_file`.
    pub fn open(
        self,
        name: &str,
        address: Option<&str>,
        secret: Option<Zeroizing<String>>,
        allow_private: bool,
    ) -> Result<Channel, ChannelError> {
        self.check(name)?;
        let url = match (self.url, address) {
            (Some(url), None) => url,
            (None, Some(text)) => text.trim().parse().map_err(|_| ChannelError::NotAddress)?,
            _ => return Err(ChannelError::Address),
        };
        if !is_safe(&url, allow_private) {
            return Err(ChannelError::UnsafeAddress);
        }
        let template = self.template.as_deref().map(Template::parse).transpose()?;
        let secrets = Secrets::new(self.form, url, secret, self.chat_id)?;
        Ok(Channel { name: name.to_owned(), form: self.form, kinds: self.kinds, tenants: self.tenants, secrets, template })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn define(table: Value) -> ChannelDefinition {
        serde_json::from_value(table).unwrap()
    }

    #[test]
    fn a_definition_that_is_wrong_is_refused_with_what_is_wrong() {
        let rows = [
            ("ops", json!({ "form": "slack", "url": "https://hooks.slack.com/x" }), ChannelError::AddressInSettings),
            ("ops", json!({ "form": "slack" }), ChannelError::Address),
            ("Ops", json!({ "form": "slack", "url_file": "/x" }), ChannelError::Name),
            ("ops", json!({ "form": "slack", "url_file": "/x", "secret_file": "/y" }), ChannelError::Unsigned),
            ("ops", json!({ "form": "telegram", "url_file": "/x" }), ChannelError::Chat),
            ("ops", json!({ "form": "wecom", "url_file": "/x", "template": "{}" }), ChannelError::TemplateForm),
        ];
        for (name, table, expected) in rows {
            assert_eq!(define(table.clone()).check(name), Err(expected), "{table}");
        }
    }

    #[test]
    fn an_address_is_https_and_public_unless_private_ones_are_allowed() {
        for (url, allowed) in [("http://127.0.0.1:9/", true), ("https://10.0.0.1/", true), ("http://example.com/", false)] {
            let open = |allow| define(json!({ "form": "webhook", "url": url })).open("ops", None, None, allow).err();
            assert_eq!(open(false), Some(ChannelError::UnsafeAddress), "{url}");
            assert_eq!(open(true).is_none(), allowed, "{url}");
        }
    }

    #[test]
    fn an_empty_or_short_secret_is_refused_and_none_is_shown() {
        let open = |secret: &str| {
            let secret = Some(Zeroizing::new(secret.to_owned()));
            define(json!({ "form": "webhook", "url_file": "/x" })).open("ops", Some("https://example.com/hush\n"), secret, false)
        };
        for secret in ["", "whsec_", "whsec_aHVzaA==", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert_eq!(open(secret).unwrap_err(), ChannelError::Secret, "{secret}");
        }
        let channel = open("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let shown = format!("{channel:?}");
        assert!(!shown.contains("hush") && !shown.contains("MfKQ"), "{shown}");
    }

    #[test]
    fn a_channel_takes_the_kinds_and_tenants_that_it_names_and_all_if_it_names_none() {
        let open = |table| define(table).open("ops", None, None, false).unwrap();
        let tenant: TenantId = "alpha".parse().unwrap();
        let all = open(json!({ "form": "webhook", "url": "https://example.com/" }));
        assert!(all.takes(Kind::Recovered, Some(&tenant)) && all.takes(Kind::Test, None));
        let some = open(json!({ "form": "webhook", "url": "https://example.com/", "kinds": ["login_required"], "tenants": ["alpha"] }));
        assert!(some.takes(Kind::LoginRequired, Some(&tenant)));
        assert!(!some.takes(Kind::Recovered, Some(&tenant)) && !some.takes(Kind::LoginRequired, Some(&TenantId::default_tenant())));
    }
}
