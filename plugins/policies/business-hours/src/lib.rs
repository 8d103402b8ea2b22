//! No requests outside of business hours.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

use keyrelay_policy::quota::{Input, Output};
use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, QuotaPolicy, Verdict};
use serde::Deserialize;

const CLOSED: &str = "hours.closed";
const MINUTE_MS: i64 = 60 * 1000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

struct BusinessHours;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    utc_offset_minutes: i32,
    #[serde(default = "workdays")]
    days: Vec<Day>,
    from: String,
    to: String,
    #[serde(default)]
    except_tags: Vec<String>,
}

/// In the order of the week.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

fn workdays() -> Vec<Day> {
    vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri]
}

impl Day {
    /// The day of the week of so many days after 1970-01-01, a Thursday.
    const fn of(days: i64) -> Self {
        const WEEK: [Day; 7] = [Day::Thu, Day::Fri, Day::Sat, Day::Sun, Day::Mon, Day::Tue, Day::Wed];
        WEEK[days.rem_euclid(7) as usize]
    }
}

/// Milliseconds since midnight of `09:30`.
fn clock_ms(text: &str) -> Result<i64, Fault> {
    let number = |text: &str, most: i64| text.parse().ok().filter(|number| text.len() == 2 && (0..=most).contains(number));
    let parsed = text.split_once(':').and_then(|(hours, minutes)| Some(number(hours, 23)? * 60 + number(minutes, 59)?));
    parsed.map(|minutes| minutes * MINUTE_MS).ok_or_else(|| Fault::new("settings.time", format!("`{text}` is no time such as 09:30")))
}

impl Settings {
    /// When hours begin after midnight, and how long they last.
    fn hours_ms(&self) -> Result<(i64, i64), Fault> {
        let (from, to) = (clock_ms(&self.from)?, clock_ms(&self.to)?);
        Ok((from, if to > from { to - from } else { to - from + DAY_MS }))
    }
}

impl QuotaPolicy for BusinessHours {
    const MANIFEST: Manifest = Manifest {
        name: "business-hours",
        description: "Refuses requests outside of business hours.",
        effects: &[Effect::Deny, Effect::NotApplicable],
        reasons: &[DeclaredReason { code: CLOSED, text: "it is outside of business hours" }],
        settings: include_str!("../settings.schema.json"),
        ..Manifest::new(Kind::Quota)
    };
    type Settings = Settings;

    fn configure(settings: &Settings) -> Result<(), Vec<Fault>> {
        let mut faults: Vec<Fault> = [&settings.from, &settings.to].into_iter().filter_map(|text| clock_ms(text).err()).collect();
        if settings.days.is_empty() {
            faults.push(Fault::new("settings.days", "there is no day on which it is open"));
        }
        if !(-720..=840).contains(&settings.utc_offset_minutes) {
            faults.push(Fault::new("settings.utc_offset_minutes", "from -720 to 840"));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn decide(settings: &Settings, input: &Input) -> Result<Output, Fault> {
        if settings.except_tags.iter().any(|tag| input.subject.has_tag(tag)) {
            return Ok(Verdict::not_applicable().into());
        }
        let (from_ms, length_ms) = settings.hours_ms()?;
        let local_ms = input.now_ms.saturating_add(i64::from(settings.utc_offset_minutes) * MINUTE_MS);
        let today = local_ms.div_euclid(DAY_MS);
        let opening_ms = |day: i64| settings.days.contains(&Day::of(day)).then(|| day.saturating_mul(DAY_MS).saturating_add(from_ms));
        // Hours of yesterday may reach into today.
        let is_open = |opening_ms: i64| (opening_ms..opening_ms.saturating_add(length_ms)).contains(&local_ms);
        if [today.saturating_sub(1), today].into_iter().filter_map(opening_ms).any(is_open) {
            return Ok(Verdict::not_applicable().into());
        }
        let next_ms = (0..=7).filter_map(|days| opening_ms(today.saturating_add(days))).find(|opening_ms| *opening_ms > local_ms);
        let output = Output::from(Verdict::deny(CLOSED).public(format!("open from {} to {}", settings.from, settings.to)));
        let wait_ms = next_ms.and_then(|next_ms| u64::try_from(next_ms.saturating_sub(local_ms)).ok());
        Ok(match wait_ms {
            Some(wait_ms) => output.retry_in(wait_ms),
            None => output,
        })
    }
}

keyrelay_policy::export_quota!(BusinessHours);

#[cfg(test)]
mod tests {
    use keyrelay_policy::testing;

    use super::*;

    const HOUR_MS: i64 = 60 * MINUTE_MS;

    fn settings(from: &str, to: &str) -> Settings {
        Settings { utc_offset_minutes: 0, days: workdays(), from: from.into(), to: to.into(), except_tags: vec!["on-call".into()] }
    }

    /// What the policy says so many hours after Monday, 2026-06-01 00:00 UTC.
    fn at(settings: &Settings, hours: i64) -> Output {
        let now_ms = testing::NOW_MS - 12 * HOUR_MS + hours * HOUR_MS;
        BusinessHours::decide(settings, &Input { now_ms, ..testing::quota_input() }).unwrap()
    }

    #[test]
    fn it_is_open_from_the_first_minute_to_before_the_last() {
        let settings = settings("09:00", "17:00");
        assert!([9, 12, 16].iter().all(|hours| !at(&settings, *hours).verdict.is_deny()));
        assert!([8, 17, 23].iter().all(|hours| at(&settings, *hours).verdict.is_deny()));
    }

    #[test]
    fn whoever_is_refused_is_told_when_to_come_again() {
        let settings = settings("09:00", "17:00");
        assert_eq!(at(&settings, 8).retry_ms, Some(3_600_000));
        // From Friday 17:00 to Monday 09:00.
        assert_eq!(at(&settings, 4 * 24 + 17).retry_ms, Some(64 * 3_600_000));
    }

    #[test]
    fn hours_may_go_over_midnight_and_the_day_is_that_of_their_beginning() {
        let night = settings("22:00", "06:00");
        assert!(!at(&night, 23).verdict.is_deny() && !at(&night, 24 + 5).verdict.is_deny() && at(&night, 24 + 6).verdict.is_deny());
        // Saturday before six still belongs to Friday, Monday before six to Sunday.
        assert!(!at(&night, 5 * 24 + 5).verdict.is_deny() && at(&night, 5).verdict.is_deny());
    }

    #[test]
    fn local_time_is_what_counts() {
        let india = Settings { utc_offset_minutes: 330, ..settings("09:00", "17:00") };
        assert!(!at(&india, 4).verdict.is_deny() && at(&india, 12).verdict.is_deny());
    }

    #[test]
    fn some_keys_may_always() {
        let mut input = Input { now_ms: 0, ..testing::quota_input() };
        let closed = Settings { days: vec![Day::Fri], ..settings("09:00", "10:00") };
        assert!(BusinessHours::decide(&closed, &input).unwrap().verdict.is_deny());
        input.subject.tags = vec!["on-call".into()];
        assert!(!BusinessHours::decide(&closed, &input).unwrap().verdict.is_deny());
    }

    #[test]
    fn all_that_is_wrong_with_settings_is_said_at_once() {
        let wrong = Settings { days: vec![], utc_offset_minutes: 1000, ..settings("9:00", "24:00") };
        assert_eq!(BusinessHours::configure(&wrong).unwrap_err().len(), 4);
    }
}
