//! The payload forms: one notice as each kind of receiver wants it, and what its answer means.

use http::HeaderValue;
use schemas::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use utoipa::ToSchema;

use super::channel::Secrets;
use super::notice::Notice;
use super::signature;
use super::template::Template;

/// How a receiver wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// JSON of our own or of a template, signed as Standard Webhooks says.
    Webhook,
    /// An incoming webhook of Slack.
    Slack,
    /// A webhook of Discord.
    Discord,
    /// `sendMessage` of Telegram's bots; needs a chat.
    Telegram,
    /// A robot of DingTalk, signed where it has a secret.
    DingTalk,
    /// A bot of Feishu or Lark, signed where it has a secret.
    Feishu,
    /// A robot of a group in WeCom.
    WeCom,
    /// The address of a device in Bark.
    Bark,
}

/// A POST as it goes out. The address may hold a secret, so nothing shows it.
pub struct Posting {
    pub url: Url,
    /// Beside the content type, which is always JSON's.
    pub headers: Vec<(&'static str, HeaderValue)>,
    pub body: Vec<u8>,
}

impl Form {
    /// Whether the address alone lets anybody send, so that it has to come from a file.
    pub const fn has_secret_address(self) -> bool {
        !matches!(self, Self::Webhook)
    }

    /// Whether messages are signed where there is a secret.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Webhook | Self::DingTalk | Self::Feishu)
    }

    /// The request that tells a notice at a time. `template` counts for webhooks only.
    pub(super) fn posting(self, notice: &Notice, secrets: &Secrets, template: Option<&Template>, now: Timestamp) -> Posting {
        let (seconds, millis) = (now.as_micros() / 1_000_000, now.as_micros() / 1000);
        let (mut url, text) = (secrets.url.clone(), notice.text.as_str());
        let body = match self {
            Self::Webhook => template.map_or_else(|| own(notice), |template| template.fill(notice)),
            // What Slack reads as a mention or a link begins with one of these.
            Self::Slack => json!({ "text": text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;") }),
            Self::Discord => json!({ "content": text, "allowed_mentions": { "parse": [] } }),
            Self::Telegram => json!({
                "chat_id": secrets.chat_id.as_deref().unwrap_or_default(),
                "text": text,
                "link_preview_options": { "is_disabled": true },
            }),
            Self::DingTalk | Self::WeCom => json!({ "msgtype": "text", "text": { "content": text } }),
            Self::Feishu => feishu(text, secrets.signing_text(), seconds),
            Self::Bark => json!({ "title": "Keyrelay", "body": text }),
        };
        if let (Self::DingTalk, Some(secret)) = (self, secrets.signing_text()) {
            let (millis, sign) = (millis.to_string(), signature::dingtalk(secret, millis));
            url.query_pairs_mut().append_pair("timestamp", &millis).append_pair("sign", &sign);
        }
        let body = body.to_string().into_bytes();
        let headers = if self == Self::Webhook { webhook_headers(notice, secrets, seconds, &body) } else { Vec::new() };
        Posting { url, headers, body }
    }

    /// Whether an answer says that the message was taken. Several vendors refuse with status 200.
    pub(super) fn is_taken(self, status: u16, body: &[u8]) -> bool {
        let member = |name: &str| serde_json::from_slice::<Value>(body).ok().and_then(|answer| answer.get(name).cloned());
        let is_success = (200..300).contains(&status);
        is_success
            && match self {
                Self::Webhook | Self::Slack | Self::Discord => true,
                Self::Telegram => member("ok") == Some(json!(true)),
                Self::DingTalk | Self::WeCom => member("errcode") == Some(json!(0)),
                Self::Feishu => member("code").or_else(|| member("StatusCode")) == Some(json!(0)),
                Self::Bark => member("code") == Some(json!(200)),
            }
    }
}

/// The payload of a webhook without a template, in the shape that Standard Webhooks recommends.
fn own(notice: &Notice) -> Value {
    let Notice { id, kind, tenant, subject, text, at } = notice;
    let data = json!({ "id": id, "kind": kind, "tenant": tenant, "subject": subject, "text": text });
    json!({ "type": format!("notice.{}", kind.name()), "timestamp": at, "data": data })
}

fn feishu(text: &str, secret: Option<&str>, seconds: u64) -> Value {
    // `<at user_id="all">` in a text calls everybody, and there is no escape.
    let content = json!({ "text": text.replace('<', "‹").replace('>', "›") });
    match secret {
        None => json!({ "msg_type": "text", "content": content }),
        // The time is a text there, not a number.
        Some(secret) => {
            json!({ "timestamp": seconds.to_string(), "sign": signature::feishu(secret, seconds), "msg_type": "text", "content": content })
        }
    }
}

fn webhook_headers(notice: &Notice, secrets: &Secrets, seconds: u64, body: &[u8]) -> Vec<(&'static str, HeaderValue)> {
    let Some(key) = secrets.signing_key() else { return Vec::new() };
    let signature = signature::standard_webhook(key, &notice.id, seconds, body);
    // Hexadecimal, digits and base64: each is a header's value.
    [("webhook-id", notice.id.clone()), ("webhook-timestamp", seconds.to_string()), ("webhook-signature", signature)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)))
        .collect()
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
