//! The signatures of channels that have one, as their vendors describe them.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The value of `webhook-signature` (Standard Webhooks): over the id, the time in seconds and the body.
pub(super) fn standard_webhook(key: &[u8], id: &str, seconds: u64, body: &[u8]) -> String {
    let signed = [format!("{id}.{seconds}.").as_bytes(), body].concat();
    format!("v1,{}", mac(key, &signed))
}

/// The `sign` of DingTalk's robots, over a time in milliseconds. It stands in the query, encoded.
pub(super) fn dingtalk(secret: &str, millis: u64) -> String {
    mac(secret.as_bytes(), format!("{millis}\n{secret}").as_bytes())
}

/// The `sign` of Feishu's bots, over a time in seconds: the secret is in the key and nothing in the text.
pub(super) fn feishu(secret: &str, seconds: u64) -> String {
    mac(format!("{seconds}\n{secret}").as_bytes(), b"")
}

fn mac(key: &[u8], text: &[u8]) -> String {
    STANDARD.encode(sign(&Key::new(HMAC_SHA256, key), text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries.
    #[test]
    fn the_signature_of_a_webhook_is_that_of_the_standards_example() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = standard_webhook(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// Computed with Python's `hmac` by the vendors' own code samples.
    #[test]
    fn signatures_of_robots_are_those_of_the_vendors_samples() {
        assert_eq!(dingtalk("SEC0123456789abcdef", 1_700_000_000_123), "V9VP5gL2WDsEZvZQHnbd9k4n+p56ibcLMh+WKMZRQas=");
        assert_eq!(feishu("SEC0123456789abcdef", 1_700_000_000), "PiO7POLlSx/DM2qf8Dy/XCWeJK3exVnevp5G99LEN2M=");
    }
}
