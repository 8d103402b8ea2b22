//! A share of the keys or requests goes to another pool.
//!
//! The draw is a hash of the key's id, so a key stays where it is, and a larger share takes more keys without letting go of any. Candidates
//! of neither pool are left out.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failing test says where"))]

use keyrelay_policy::{DeclaredReason, Effect, Fault, Kind, Manifest, RoutePolicy, Verdict, route};
use serde::Deserialize;

const WHOLE_PPM: u64 = 1_000_000;
const TO_CANARY: &str = "canary.drawn";
const EMPTY: &str = "canary.pool_empty";

struct CanaryShare;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    stable: String,
    canary: String,
    share_ppm: u64,
    #[serde(default)]
    by: Draw,
    #[serde(default = "falls_back")]
    falls_back: bool,
    #[serde(default)]
    salt: String,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Draw {
    #[default]
    Key,
    Request,
}

const fn falls_back() -> bool {
    true
}

impl RoutePolicy for CanaryShare {
    const MANIFEST: Manifest = Manifest {
        name: "canary-share",
        description: "Sends a share of the keys or requests to another pool, and marks their usage.",
        effects: &[Effect::Permit, Effect::Deny, Effect::NotApplicable],
        reasons: &[
            DeclaredReason { code: TO_CANARY, text: "the request was drawn for the canary" },
            DeclaredReason { code: EMPTY, text: "the drawn pool has no upstream, and the other one may not be used" },
        ],
        obligations: &["tag_usage"],
        settings: include_str!("../settings.schema.json"),
        ..Manifest::new(Kind::Route)
    };
    type Settings = Settings;

    fn configure(settings: &Settings) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        if settings.share_ppm > WHOLE_PPM {
            faults.push(Fault::new("settings.share_ppm", "at most 1000000"));
        }
        if settings.stable == settings.canary {
            faults.push(Fault::new("settings.canary", "both pools are the same"));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn decide(settings: &Settings, input: &route::Input) -> Result<route::Output, Fault> {
        let in_pool = |candidate: &&route::Candidate, pool: &str| candidate.pool == pool || candidate.pool_name == pool;
        let (stable, canary): (Vec<_>, Vec<_>) = (
            input.candidates.iter().filter(|candidate| in_pool(candidate, &settings.stable)).collect(),
            input.candidates.iter().filter(|candidate| in_pool(candidate, &settings.canary)).collect(),
        );
        if stable.is_empty() && canary.is_empty() {
            return Ok(Verdict::not_applicable().into());
        }
        let is_canary = drawn(settings, input) < settings.share_ppm;
        let (first, second) = if is_canary { (canary, stable) } else { (stable, canary) };
        if first.is_empty() && !settings.falls_back {
            return Ok(Verdict::deny(EMPTY).into());
        }
        // The operator's own order within a pool stays; all of the second pool comes after all of the first.
        let fallback = second.iter().filter(|_| settings.falls_back).map(|candidate| ((1, candidate.priority), candidate));
        let mut kept: Vec<_> = first.iter().map(|candidate| ((0, candidate.priority), candidate)).chain(fallback).collect();
        kept.sort_by_key(|(place, _)| *place);
        let mut rank = 0;
        let picks = kept.iter().enumerate().map(|(index, (place, candidate))| {
            if index > 0 && kept[index - 1].0 != *place {
                rank += 1;
            }
            candidate.ranked(rank)
        });
        let picks = picks.collect();
        let verdict = Verdict::permit().tag_usage("release", if is_canary { "canary" } else { "stable" });
        let verdict = if is_canary { verdict.because(TO_CANARY) } else { verdict };
        Ok(route::Output { verdict, picks })
    }
}

/// A number below a million, the same for the same key or request.
fn drawn(settings: &Settings, input: &route::Input) -> u64 {
    let hash = settings.salt.bytes().chain([0]).fold(0xcbf2_9ce4_8422_2325, fold);
    let hash = match settings.by {
        Draw::Key => input.subject.key.bytes().fold(hash, fold),
        Draw::Request => input.seed.to_le_bytes().into_iter().fold(hash, fold),
    };
    spread(hash) % WHOLE_PPM
}

/// One step of FNV-1a.
const fn fold(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3)
}

/// The last steps of SplitMix64: every bit of the hash reaches every bit of the result.
const fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

keyrelay_policy::export_route!(CanaryShare);

#[cfg(test)]
mod tests {
    use keyrelay_policy::testing;

    use super::*;

    fn settings(share_ppm: u64) -> Settings {
        Settings { stable: "default".into(), canary: "next".into(), share_ppm, by: Draw::Key, falls_back: true, salt: String::new() }
    }

    fn input(key: &str) -> route::Input {
        let next = route::Candidate { pool: "pool_next".into(), pool_name: "next".into(), ..testing::candidate("n") };
        let mut input = route::Input { candidates: vec![testing::candidate("s"), next], ..testing::route_input() };
        input.subject.key = key.to_owned();
        input
    }

    fn is_canary(settings: &Settings, input: &route::Input) -> bool {
        CanaryShare::decide(settings, input).unwrap().picks.iter().min_by_key(|pick| pick.rank).unwrap().id == "up_n"
    }

    #[test]
    fn the_share_of_the_keys_is_what_was_asked_for() {
        let drawn = (0..10_000).filter(|key| is_canary(&settings(50_000), &input(&format!("key_{key}")))).count();
        assert!((400..600).contains(&drawn), "{drawn} of 10000 for five per cent");
    }

    #[test]
    fn a_key_stays_where_it_is_and_a_larger_share_only_adds_keys() {
        for key in 0..500 {
            let mut one = input(&format!("key_{key}"));
            let before = is_canary(&settings(100_000), &one);
            one.seed = key;
            assert_eq!(is_canary(&settings(100_000), &one), before);
            assert!(!before || is_canary(&settings(300_000), &one));
        }
    }

    #[test]
    fn requests_can_be_drawn_one_by_one() {
        let by_request = Settings { by: Draw::Request, ..settings(500_000) };
        let drawn = (0..1000).filter(|seed| is_canary(&by_request, &route::Input { seed: *seed, ..input("key_a") })).count();
        assert!((400..600).contains(&drawn), "{drawn} of 1000 for one half");
    }

    #[test]
    fn nobody_and_everybody_are_shares_too() {
        assert!(!is_canary(&settings(0), &input("key_a")) && is_canary(&settings(WHOLE_PPM), &input("key_a")));
    }

    #[test]
    fn the_other_pool_is_a_fallback_unless_it_must_not_be() {
        let output = CanaryShare::decide(&settings(WHOLE_PPM), &input("key_a")).unwrap();
        assert_eq!(output.picks.len(), 2);
        let alone = Settings { falls_back: false, ..settings(WHOLE_PPM) };
        assert_eq!(CanaryShare::decide(&alone, &input("key_a")).unwrap().picks.len(), 1);
        let mut empty = input("key_a");
        empty.candidates.pop();
        assert_eq!(CanaryShare::decide(&alone, &empty).unwrap().verdict.reasons[0].code, EMPTY);
    }

    #[test]
    fn two_pools_that_are_one_are_a_mistake() {
        let same = Settings { canary: "default".into(), ..settings(WHOLE_PPM + 1) };
        assert_eq!(CanaryShare::configure(&same).unwrap_err().len(), 2);
    }
}
