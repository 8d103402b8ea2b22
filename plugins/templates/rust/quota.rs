//! So many requests a day for each key.

use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, QuotaPolicy, Verdict, quota};
use serde::Deserialize;

const DAY: &str = "quota.day";
const METER: &str = "key.requests.day";

struct Policy;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    requests_per_day: u64,
}

impl QuotaPolicy for Policy {
    const MANIFEST: Manifest = Manifest {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        description: "So many requests a day for each key.",
        effects: &[Effect::Deny, Effect::NotApplicable],
        reasons: &[DeclaredReason { code: DAY, text: "the day's requests are used up" }],
        meters: &[METER],
        settings: r#"{"type":"object","required":["requests_per_day"],"additionalProperties":false,
                      "properties":{"requests_per_day":{"type":"integer","minimum":0}}}"#,
        ..Manifest::new(Kind::Quota)
    };
    type Settings = Settings;

    fn decide(settings: &Settings, input: &quota::Input) -> Result<quota::Output, Fault> {
        let meter = input.meter(METER).ok_or_else(|| Fault::new("quota.no_meter", METER))?;
        if meter.taken() < settings.requests_per_day {
            return Ok(Verdict::not_applicable().into());
        }
        let output = quota::Output::from(Verdict::deny(DAY).public("the day's requests are used up"));
        let wait_ms = meter.resets_ms.and_then(|resets_ms| u64::try_from(resets_ms - input.now_ms).ok());
        Ok(quota::Output { retry_ms: wait_ms, ..output })
    }
}

keyrelay_policy::export_quota!(Policy);

#[cfg(test)]
mod tests {
    use keyrelay_policy::testing;

    use super::*;

    #[test]
    fn the_last_request_is_the_last() {
        let decide = |used| {
            let input = quota::Input { meters: vec![testing::meter(METER, used)], ..testing::quota_input() };
            Policy::decide(&Settings { requests_per_day: 10 }, &input).unwrap().verdict
        };
        assert!(!decide(9).is_deny() && decide(10).is_deny());
    }
}
