//! The cheapest healthy upstream, with a regional preference.
//!
//! Healthy before ailing, near before far, cheap before dear. Candidates that are equal in all of this share a rank, so that the operator's
//! weights decide between them.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, RoutePolicy, Verdict, route};
use serde::Deserialize;

const NO_REGION: &str = "route.no_region";

struct CheapestHealthy;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    regions: Vec<String>,
    #[serde(default)]
    elsewhere: Elsewhere,
    #[serde(default = "output_tokens")]
    output_tokens: u64,
    latency_ms_max: Option<u32>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Elsewhere {
    #[default]
    Later,
    Never,
}

const fn output_tokens() -> u64 {
    500
}

/// What candidates are ordered by; smaller is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    is_cooling: bool,
    is_slow: bool,
    is_far: bool,
    /// In micro-dollars times a million, so that nothing is rounded. One without a price is dearer than any.
    cost: u128,
    priority: u32,
}

impl RoutePolicy for CheapestHealthy {
    const MANIFEST: Manifest = Manifest {
        name: "cheapest-healthy",
        description: "Sends a request to the cheapest healthy upstream, those of preferred regions first.",
        effects: &[Effect::Permit, Effect::Deny, Effect::NotApplicable],
        reasons: &[DeclaredReason { code: NO_REGION, text: "no upstream stands in one of the regions" }],
        settings: include_str!("../settings.schema.json"),
        ..Manifest::new(Kind::Route)
    };
    type Settings = Settings;

    fn configure(settings: &Settings) -> Result<(), Vec<Fault>> {
        if settings.elsewhere == Elsewhere::Never && settings.regions.is_empty() {
            return Err(vec![Fault::new("settings.regions", "`elsewhere` is `never`, but there is no region to stay in")]);
        }
        if settings.latency_ms_max == Some(0) {
            return Err(vec![Fault::new("settings.latency_ms_max", "at least 1")]);
        }
        Ok(())
    }

    fn decide(settings: &Settings, input: &route::Input) -> Result<route::Output, Fault> {
        if input.candidates.is_empty() {
            return Ok(Verdict::not_applicable().into());
        }
        let standing = |candidate| standing(settings, &input.demand, candidate);
        let mut kept: Vec<_> = input.candidates.iter().map(|candidate| (standing(candidate), candidate)).collect();
        if settings.elsewhere == Elsewhere::Never {
            kept.retain(|(standing, _)| !standing.is_far);
        }
        if kept.is_empty() {
            return Ok(Verdict::deny(NO_REGION).public("no upstream stands in one of the regions").into());
        }
        kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut rank = 0;
        let picks = kept.iter().enumerate().map(|(index, (standing, candidate))| {
            if index > 0 && kept[index - 1].0 != *standing {
                rank += 1;
            }
            candidate.ranked(rank)
        });
        Ok(route::Output::permit(picks.collect()))
    }
}

fn standing(settings: &Settings, demand: &keyrelay_policy::Demand, candidate: &route::Candidate) -> Standing {
    let output_tokens = demand.output_tokens_max.unwrap_or(settings.output_tokens);
    let cost = candidate.price.map_or(u128::MAX, |price| {
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        part(demand.input_tokens, price.input).saturating_add(part(output_tokens, price.output))
    });
    let is_near = |region: &String| settings.regions.contains(region);
    Standing {
        is_cooling: candidate.is_cooling,
        is_slow: settings.latency_ms_max.zip(candidate.latency_ms).is_some_and(|(most, latency)| latency > most),
        is_far: !settings.regions.is_empty() && !candidate.region.as_ref().is_some_and(is_near),
        cost,
        priority: candidate.priority,
    }
}

keyrelay_policy::export_route!(CheapestHealthy);

#[cfg(test)]
mod tests {
    use keyrelay_policy::{Price, testing};

    use super::*;

    fn settings() -> Settings {
        Settings { regions: vec!["eu".into()], elsewhere: Elsewhere::Later, output_tokens: 500, latency_ms_max: Some(800) }
    }

    fn candidate(name: &str, region: &str, price: u64) -> route::Candidate {
        let price = Some(Price { input: price, output: price, cache_read: 0, cache_write: 0 });
        route::Candidate { region: Some(region.into()), price, ..testing::candidate(name) }
    }

    /// Ids and ranks of the picks.
    fn picks(settings: &Settings, candidates: Vec<route::Candidate>) -> Vec<(String, u32)> {
        let input = route::Input { candidates, ..testing::route_input() };
        let output = CheapestHealthy::decide(settings, &input).unwrap();
        output.picks.into_iter().map(|pick| (pick.id, pick.rank)).collect()
    }

    #[test]
    fn near_comes_before_cheap_and_cheap_before_dear() {
        let candidates = vec![candidate("us", "us", 1), candidate("dear", "eu", 9), candidate("cheap", "eu", 5)];
        assert_eq!(picks(&settings(), candidates), [("up_cheap".into(), 0), ("up_dear".into(), 1), ("up_us".into(), 2)]);
    }

    #[test]
    fn the_ailing_come_last_and_equals_share_a_rank() {
        let mut candidates =
            vec![candidate("cooling", "eu", 1), candidate("slow", "eu", 1), candidate("a", "eu", 5), candidate("b", "eu", 5)];
        candidates[0].is_cooling = true;
        candidates[1].latency_ms = Some(801);
        let expected = [("up_a".into(), 0), ("up_b".into(), 0), ("up_slow".into(), 1), ("up_cooling".into(), 2)];
        assert_eq!(picks(&settings(), candidates), expected);
    }

    #[test]
    fn without_a_price_is_dearer_than_any() {
        let unpriced = route::Candidate { price: None, ..candidate("unpriced", "eu", 0) };
        assert_eq!(picks(&settings(), vec![unpriced, candidate("dear", "eu", u64::MAX)])[0].0, "up_dear");
    }

    #[test]
    fn staying_in_a_region_can_be_a_must() {
        let strict = Settings { elsewhere: Elsewhere::Never, ..settings() };
        assert_eq!(picks(&strict, vec![candidate("us", "us", 1), candidate("eu", "eu", 9)]), [("up_eu".into(), 0)]);
        let input = route::Input { candidates: vec![candidate("us", "us", 1)], ..testing::route_input() };
        let verdict = CheapestHealthy::decide(&strict, &input).unwrap().verdict;
        assert!(verdict.is_deny() && verdict.reasons[0].code == NO_REGION);
        assert!(CheapestHealthy::configure(&Settings { regions: vec![], ..strict }).is_err());
    }
}
