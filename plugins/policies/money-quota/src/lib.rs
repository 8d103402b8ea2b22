//! Daily and monthly money, with a soft cap that lowers output.
//!
//! Near a limit answers are kept short; at the limit requests are refused until the window begins anew. What is under way counts: the host
//! reserves what each request may cost.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

use keyrelay_policy::quota::{Input, Meter, Output};
use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, QuotaPolicy, Verdict};
use serde::Deserialize;

const DAY: &str = "quota.day";
const MONTH: &str = "quota.month";
const SOFT: &str = "quota.soft";
const UNPRICED: &str = "quota.unpriced";

struct MoneyQuota;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    of: Owner,
    day_microusd: Option<u64>,
    month_microusd: Option<u64>,
    #[serde(default = "soft_percent")]
    soft_percent: u8,
    #[serde(default = "soft_output_tokens")]
    soft_output_tokens: u64,
    #[serde(default)]
    is_strict: bool,
    #[serde(default)]
    unpriced: Unpriced,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Owner {
    #[default]
    Key,
    Tenant,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unpriced {
    #[default]
    Allow,
    Deny,
}

const fn soft_percent() -> u8 {
    80
}

const fn soft_output_tokens() -> u64 {
    1024
}

/// One limit of the settings.
struct Limit {
    code: &'static str,
    meter: &'static str,
    most: u64,
}

impl Settings {
    fn limits(&self) -> impl Iterator<Item = Limit> {
        let (day, month) = match self.of {
            Owner::Key => ("key.micro_usd.day", "key.micro_usd.month"),
            Owner::Tenant => ("tenant.micro_usd.day", "tenant.micro_usd.month"),
        };
        let day = self.day_microusd.map(|most| Limit { code: DAY, meter: day, most });
        let month = self.month_microusd.map(|most| Limit { code: MONTH, meter: month, most });
        // The month first: where both are used up, it is the one to wait for.
        month.into_iter().chain(day)
    }
}

impl QuotaPolicy for MoneyQuota {
    const MANIFEST: Manifest = Manifest {
        name: "money-quota",
        description: "Limits the money of a key or a tenant by day and month, and keeps answers short near a limit.",
        effects: &[Effect::Permit, Effect::Deny, Effect::NotApplicable],
        reasons: &[
            DeclaredReason { code: DAY, text: "the day's money is used up" },
            DeclaredReason { code: MONTH, text: "the month's money is used up" },
            DeclaredReason { code: SOFT, text: "a limit is near, so the answer is kept short" },
            DeclaredReason { code: UNPRICED, text: "the request may go to an upstream without a price" },
        ],
        obligations: &["cap_output"],
        meters: &["key.micro_usd.day", "key.micro_usd.month", "tenant.micro_usd.day", "tenant.micro_usd.month"],
        settings: include_str!("../settings.schema.json"),
        ..Manifest::new(Kind::Quota)
    };
    type Settings = Settings;

    fn configure(settings: &Settings) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        if settings.limits().next().is_none() {
            faults.push(Fault::new("settings.no_limit", "give `day_microusd`, `month_microusd` or both"));
        }
        if settings.limits().any(|limit| limit.most == 0) {
            faults.push(Fault::new("settings.limit", "at least 1"));
        }
        if settings.soft_percent > 100 {
            faults.push(Fault::new("settings.soft_percent", "at most 100"));
        }
        if settings.soft_output_tokens == 0 {
            faults.push(Fault::new("settings.soft_output_tokens", "at least 1"));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn decide(settings: &Settings, input: &Input) -> Result<Output, Fault> {
        if settings.unpriced == Unpriced::Deny && input.cost_max.is_none() {
            return Ok(Verdict::deny(UNPRICED).public("an upstream for this model has no price").into());
        }
        let mut is_near = false;
        for limit in settings.limits() {
            let meter = input.meter(limit.meter).ok_or_else(|| Fault::new("quota.no_meter", limit.meter))?;
            let may_cost = if settings.is_strict { input.cost_max.unwrap_or_default() } else { 0 };
            if meter.taken() >= limit.most || meter.taken().saturating_add(may_cost) > limit.most {
                return Ok(refuse(&limit, meter, input.now_ms));
            }
            is_near |= u128::from(meter.taken()) * 100 >= u128::from(limit.most) * u128::from(settings.soft_percent);
        }
        let is_longer = input.demand.output_tokens_max.is_none_or(|tokens| tokens > settings.soft_output_tokens);
        if is_near && is_longer {
            return Ok(Verdict::permit().because(SOFT).cap_output(settings.soft_output_tokens).into());
        }
        Ok(Verdict::not_applicable().into())
    }
}

fn refuse(limit: &Limit, meter: &Meter, now_ms: i64) -> Output {
    let left = limit.most.saturating_sub(meter.taken());
    let output = Output::from(Verdict::deny(limit.code).public(format!("{left} of {} micro-dollars are left", limit.most)));
    let wait_ms = meter.resets_ms.and_then(|resets_ms| u64::try_from(resets_ms.saturating_sub(now_ms)).ok());
    match wait_ms {
        Some(wait_ms) => output.retry_in(wait_ms),
        None => output,
    }
}

keyrelay_policy::export_quota!(MoneyQuota);

#[cfg(test)]
mod tests {
    use keyrelay_policy::{Obligation, testing};

    use super::*;

    fn settings() -> Settings {
        Settings {
            of: Owner::Key,
            day_microusd: Some(1000),
            month_microusd: Some(10_000),
            soft_percent: 80,
            soft_output_tokens: 100,
            is_strict: false,
            unpriced: Unpriced::Allow,
        }
    }

    fn input(day: u64, month: u64) -> Input {
        let mut meters = vec![testing::meter("key.micro_usd.day", day), testing::meter("key.micro_usd.month", month)];
        meters[0].resets_ms = Some(testing::NOW_MS + 5000);
        Input { meters, ..testing::quota_input() }
    }

    fn decide(settings: &Settings, input: &Input) -> Output {
        MoneyQuota::decide(settings, input).unwrap()
    }

    #[test]
    fn below_the_soft_cap_it_has_nothing_to_say() {
        assert_eq!(decide(&settings(), &input(799, 799)).verdict.effect, Effect::NotApplicable);
    }

    #[test]
    fn above_the_soft_cap_answers_are_kept_short() {
        let verdict = decide(&settings(), &input(800, 800)).verdict;
        assert_eq!((verdict.effect, verdict.obligations), (Effect::Permit, vec![Obligation::CapOutput(100)]));
        let mut short = input(800, 800);
        short.demand.output_tokens_max = Some(100);
        assert_eq!(decide(&settings(), &short).verdict.effect, Effect::NotApplicable);
    }

    #[test]
    fn at_a_limit_requests_are_refused_until_it_begins_anew() {
        let mut reserved = input(600, 600);
        reserved.meters[0].reserved = 400;
        let output = decide(&settings(), &reserved);
        assert_eq!((output.verdict.reasons[0].code.as_str(), output.retry_ms), (DAY, Some(5000)));
        assert_eq!(decide(&settings(), &input(1000, 10_000)).verdict.reasons[0].code, MONTH);
    }

    #[test]
    fn strictly_what_may_not_fit_is_refused() {
        let dear = Input { cost_max: Some(402), ..input(599, 599) };
        assert_eq!(decide(&settings(), &dear).verdict.effect, Effect::NotApplicable);
        assert!(decide(&Settings { is_strict: true, ..settings() }, &dear).verdict.is_deny());
        let fits = Input { cost_max: Some(401), ..dear };
        assert!(!decide(&Settings { is_strict: true, ..settings() }, &fits).verdict.is_deny());
    }

    #[test]
    fn what_has_no_price_can_be_refused() {
        let strict = Settings { unpriced: Unpriced::Deny, ..settings() };
        assert_eq!(decide(&strict, &input(0, 0)).verdict.reasons[0].code, UNPRICED);
    }

    #[test]
    fn a_missing_meter_is_a_fault_and_no_limit_at_all_a_mistake() {
        assert_eq!(MoneyQuota::decide(&settings(), &testing::quota_input()).unwrap_err().code, "quota.no_meter");
        let none = Settings { day_microusd: None, month_microusd: None, soft_percent: 101, ..settings() };
        assert_eq!(MoneyQuota::configure(&none).unwrap_err().len(), 2);
    }
}
