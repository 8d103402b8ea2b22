//! What the bench asks policies: the request of a small tenant with three candidates and two meters.

use policy_host::Input;
use policy_host::contract::{Demand, Price, Subject, expiry, quota, route};
use schemas::policy::PolicyKind;

const NOW_MS: i64 = 1_800_000_000_000;

/// A question to a policy of this kind, with these settings.
pub(crate) fn input(kind: PolicyKind, settings: &str) -> Input {
    let subject =
        Subject { tenant: "default".into(), key: "key_mfrggzdfmztwq2lknnwg23tpob".into(), tags: vec!["ci".into()], ..Subject::default() };
    let (now_ms, seed, settings, more) = (NOW_MS, 7, settings.to_owned(), vec![]);
    let demand = || Demand {
        dialect: "openai".into(),
        endpoint: "chat_completions".into(),
        model: "small-1".into(),
        request_bytes: 900,
        input_tokens: 225,
        output_tokens_max: Some(1000),
        ..Demand::default()
    };
    let price = |n: u64| Price { input: 100 * n, output: 400 * n, cache_read: 10, cache_write: 20 };
    match kind {
        PolicyKind::Route => {
            let candidate = |n: u32| route::Candidate {
                id: format!("up_{n}frggzdfmztwq2lknnwg23tpo"),
                name: format!("upstream {n}"),
                pool: "pool_mfrggzdfmztwq2lknnwg23tpob".into(),
                pool_name: "default".into(),
                region: Some("eu".into()),
                tags: vec![],
                priority: n,
                weight: 100,
                is_cooling: false,
                in_flight: 2,
                latency_ms: Some(120),
                price: Some(price(u64::from(n) + 1)),
                more: vec![],
            };
            Input::Route(route::Input {
                now_ms,
                seed,
                settings,
                subject,
                demand: demand(),
                candidates: (0..3).map(candidate).collect(),
                more,
            })
        }
        PolicyKind::Quota => {
            let meter = |name: &str, unit| quota::Meter { name: name.into(), unit, used: 9, reserved: 1, resets_ms: Some(now_ms + 1) };
            let meters = vec![meter("key.micro_usd.day", quota::Unit::MicroUsd), meter("key.requests.day", quota::Unit::Requests)];
            Input::Quota(quota::Input {
                now_ms,
                seed,
                settings,
                subject,
                demand: demand(),
                meters,
                cost_max: Some(5000),
                chosen: None,
                more,
            })
        }
        PolicyKind::Expiry => {
            let key = expiry::KeyFacts {
                created_ms: 1,
                last_used_ms: Some(now_ms - 2),
                expires_ms: Some(now_ms + 9),
                ..expiry::KeyFacts::default()
            };
            Input::Expiry(expiry::Input { now_ms, seed, settings, subject, key, more })
        }
    }
}
