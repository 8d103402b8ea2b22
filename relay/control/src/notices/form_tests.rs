#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use schemas::TenantId;
use zeroize::Zeroizing;

use super::*;
use crate::notices::Kind;

const SECRET: &str = "SEC0123456789abcdef";

fn notice(text: &str) -> Notice {
    Notice::new(Kind::LoginRequired, Some(TenantId::default_tenant()), "crd_1".to_owned(), text, Timestamp::from_micros(5_000_000))
}

fn posting(form: Form, url: &str, secret: Option<&str>, text: &str) -> (String, Vec<(&'static str, HeaderValue)>, Value) {
    let secret = secret.map(|secret| Zeroizing::new(secret.to_owned()));
    let secrets = Secrets::new(form, url.parse().unwrap(), secret, Some("-1001".to_owned())).unwrap();
    let now = Timestamp::from_micros(1_700_000_000_123_000);
    let Posting { url, headers, body } = form.posting(&notice(text), &secrets, None, now);
    (url.to_string(), headers, serde_json::from_slice(&body).unwrap())
}

#[test]
fn each_form_is_the_one_that_its_vendor_documents() {
    let mention = "a <!channel> & b";
    let rows = [
        (Form::Slack, json!({ "text": "a &lt;!channel&gt; &amp; b" })),
        (Form::Discord, json!({ "content": mention, "allowed_mentions": { "parse": [] } })),
        (Form::Telegram, json!({ "chat_id": "-1001", "text": mention, "link_preview_options": { "is_disabled": true } })),
        (Form::DingTalk, json!({ "msgtype": "text", "text": { "content": mention } })),
        (Form::WeCom, json!({ "msgtype": "text", "text": { "content": mention } })),
        (Form::Feishu, json!({ "msg_type": "text", "content": { "text": "a ‹!channel› & b" } })),
        (Form::Bark, json!({ "title": "Keyrelay", "body": mention })),
    ];
    for (form, expected) in rows {
        let (url, headers, body) = posting(form, "https://example.com/hook?key=1", None, mention);
        assert_eq!((url.as_str(), headers.len(), &body), ("https://example.com/hook?key=1", 0, &expected), "{form:?}");
    }
}

#[test]
fn the_signature_of_dingtalk_stands_in_the_query_and_that_of_feishu_in_the_body() {
    let (url, _, _) = posting(Form::DingTalk, "https://oapi.dingtalk.com/robot/send?access_token=t", Some(SECRET), "x");
    let signed = "timestamp=1700000000123&sign=V9VP5gL2WDsEZvZQHnbd9k4n%2Bp56ibcLMh%2BWKMZRQas%3D";
    assert_eq!(url, format!("https://oapi.dingtalk.com/robot/send?access_token=t&{signed}"));
    let (_, _, body) = posting(Form::Feishu, "https://open.feishu.cn/open-apis/bot/v2/hook/t", Some(SECRET), "x");
    assert_eq!(body["timestamp"], "1700000000");
    assert_eq!(body["sign"], "PiO7POLlSx/DM2qf8Dy/XCWeJK3exVnevp5G99LEN2M=");
}

#[test]
fn a_webhook_carries_its_id_its_time_and_a_signature_over_what_is_sent() {
    let (_, headers, body) = posting(Form::Webhook, "https://example.com/", Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "text");
    let id = notice("text").id;
    assert_eq!(body["type"], "notice.login_required");
    assert_eq!(body["data"], json!({ "id": id, "kind": "login_required", "tenant": "default", "subject": "crd_1", "text": "text" }));
    assert_eq!(headers.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["webhook-id", "webhook-timestamp", "webhook-signature"]);
    assert_eq!((headers[0].1.to_str().unwrap(), headers[1].1.to_str().unwrap()), (id.as_str(), "1700000000"));
    assert!(headers[2].1.to_str().unwrap().starts_with("v1,"));
}

#[test]
fn a_refusal_with_status_200_is_a_refusal() {
    let rows: [(Form, &[u8], &[u8]); 5] = [
        (Form::Telegram, br#"{"ok":true,"result":{}}"#, br#"{"ok":false,"error_code":400}"#),
        (Form::DingTalk, br#"{"errcode":0,"errmsg":"ok"}"#, br#"{"errcode":310000,"errmsg":"sign not match"}"#),
        (Form::WeCom, br#"{"errcode":0,"errmsg":"ok"}"#, br#"{"errcode":93000}"#),
        (Form::Feishu, br#"{"code":0,"msg":"success"}"#, br#"{"code":19021,"msg":"sign match fail"}"#),
        (Form::Bark, br#"{"code":200}"#, br#"{"code":400}"#),
    ];
    for (form, taken, refused) in rows {
        assert!(form.is_taken(200, taken), "{form:?}");
        assert!(!form.is_taken(200, refused) && !form.is_taken(500, taken) && !form.is_taken(200, b""), "{form:?}");
    }
    assert!(Form::Discord.is_taken(204, b"") && Form::Slack.is_taken(200, b"ok") && !Form::Slack.is_taken(404, b"no_service"));
}
