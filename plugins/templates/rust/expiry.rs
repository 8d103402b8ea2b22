//! A key is good for so many days after it was made.

use keyrelay_policy::{DeclaredReason, Effect, ExpiryPolicy, Fault, Kind, Manifest, Verdict, expiry};
use serde::Deserialize;

const TOO_OLD: &str = "key.too_old";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

struct Policy;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    days: u32,
}

impl ExpiryPolicy for Policy {
    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        description: "A key is good for so many days after it was made.",
        effects: &[Effect::Permit, Effect::Deny],
        reasons: &[DeclaredReason { code: TOO_OLD, text: "the key is too old" }],
        settings: r#"{"type":"object","required":["days"],"additionalProperties":false,"properties":{"days":{"type":"integer","minimum":0}}}"#,
        ..Manifest::new(Kind::Expiry)
    };
    type Settings = Settings;

    fn decide(settings: &Settings, input: &expiry::Input) -> Result<expiry::Output, Fault> {
        let until_ms = input.key.created_ms + i64::from(settings.days) * DAY_MS;
        if input.now_ms >= until_ms {
            return Ok(Verdict::deny(TOO_OLD).public("the key is too old").into());
        }
        Ok(expiry::Output::permit_until(until_ms))
    }
}

keyrelay_policy::export_expiry!(Policy);

#[cfg(test)]
mod tests {
    use keyrelay_policy::testing;

    use super::*;

    #[test]
    fn a_key_is_good_until_its_last_day() {
        let decide = |days| Policy::decide(&Settings { days }, &testing::expiry_input()).unwrap();
        assert_eq!(decide(31).valid_until_ms, Some(testing::NOW_MS + DAY_MS));
        assert!(decide(30).verdict.is_deny());
    }
}
