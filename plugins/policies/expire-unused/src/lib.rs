//! Keys that were not used for some days are expired.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

use keyrelay_policy::expiry::{Input, Output};
use keyrelay_policy::{DeclaredReason, Effect, ExpiryPolicy, Fault, Kind, Manifest, Verdict};
use serde::Deserialize;

const UNUSED: &str = "key.unused";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

struct ExpireUnused;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    unused_days: u32,
    #[serde(default)]
    except_tags: Vec<String>,
}

impl ExpiryPolicy for ExpireUnused {
    const MANIFEST: Manifest = Manifest {
        name: "expire-unused",
        description: "Refuses keys that were not used for some days.",
        effects: &[Effect::Permit, Effect::Deny, Effect::NotApplicable],
        reasons: &[DeclaredReason { code: UNUSED, text: "the key was not used for too long" }],
        settings: include_str!("../settings.schema.json"),
        ..Manifest::new(Kind::Expiry)
    };
    type Settings = Settings;

    fn configure(settings: &Settings) -> Result<(), Vec<Fault>> {
        match settings.unused_days {
            1..=36_500 => Ok(()),
            _ => Err(vec![Fault::new("settings.unused_days", "from 1 to 36500")]),
        }
    }

    fn decide(settings: &Settings, input: &Input) -> Result<Output, Fault> {
        if settings.except_tags.iter().any(|tag| input.subject.has_tag(tag)) {
            return Ok(Verdict::not_applicable().into());
        }
        let key = &input.key;
        let later = [key.renewed_ms, key.rotated_ms, key.last_used_ms].into_iter().flatten();
        let last_ms = later.fold(key.created_ms, i64::max);
        let until_ms = last_ms.saturating_add(i64::from(settings.unused_days) * DAY_MS);
        if input.now_ms >= until_ms {
            return Ok(Verdict::deny(UNUSED).public(format!("not used for {} days", settings.unused_days)).into());
        }
        Ok(Output::permit_until(until_ms))
    }
}

keyrelay_policy::export_expiry!(ExpireUnused);

#[cfg(test)]
mod tests {
    use keyrelay_policy::testing;

    use super::*;

    /// A key that was made thirty days ago and used so many days ago, under a limit of seven.
    fn used(days_ago: Option<i64>) -> Input {
        let mut input = testing::expiry_input();
        input.key.last_used_ms = days_ago.map(|days| testing::NOW_MS - days * DAY_MS);
        input
    }

    fn decide(input: &Input) -> Output {
        ExpireUnused::decide(&Settings { unused_days: 7, except_tags: vec!["robot".into()] }, input).unwrap()
    }

    #[test]
    fn each_use_begins_the_count_anew() {
        assert_eq!(decide(&used(Some(0))).valid_until_ms, Some(testing::NOW_MS + 7 * DAY_MS));
        assert_eq!(decide(&used(Some(6))).valid_until_ms, Some(testing::NOW_MS + DAY_MS));
        assert!(decide(&used(Some(7))).verdict.is_deny());
    }

    #[test]
    fn a_key_that_was_never_used_counts_from_its_making_or_renewal() {
        assert_eq!(decide(&used(None)).verdict.reasons[0].code, UNUSED);
        let mut renewed = used(None);
        renewed.key.renewed_ms = Some(testing::NOW_MS - DAY_MS);
        assert_eq!(decide(&renewed).valid_until_ms, Some(testing::NOW_MS + 6 * DAY_MS));
    }

    #[test]
    fn some_keys_are_left_alone() {
        let mut robot = used(None);
        robot.subject.tags = vec!["robot".into()];
        assert_eq!(decide(&robot).verdict.effect, Effect::NotApplicable);
    }

    #[test]
    fn zero_days_are_a_mistake() {
        assert!(ExpireUnused::configure(&Settings { unused_days: 0, except_tags: vec![] }).is_err());
    }
}
