//! An ordinary request to start a test from: change what the test is about.
//!
//! ```
//! let mut input = keyrelay_policy::testing::route_input();
//! input.candidates = vec![keyrelay_policy::testing::candidate("a"), keyrelay_policy::testing::candidate("b")];
//! input.candidates[1].region = Some("eu".into());
//! ```

use crate::{Demand, Subject, expiry, quota, route};

/// The moment of the inputs of this module, in milliseconds since the Unix epoch: Monday, 2026-06-01 12:00 UTC.
pub const NOW_MS: i64 = 1_780_315_200_000;

/// A key without tags.
pub fn subject() -> Subject {
    Subject { tenant: "default".to_owned(), key: "key_test".to_owned(), owner: None, tags: Vec::new(), more: Vec::new() }
}

/// A chat completion of about 250 tokens that says nothing of the answer's length.
pub fn demand() -> Demand {
    Demand {
        dialect: "openai".to_owned(),
        endpoint: "chat_completions".to_owned(),
        model: "gpt-4o".to_owned(),
        is_stream: false,
        request_bytes: 1000,
        input_tokens: 250,
        output_tokens_max: None,
        more: Vec::new(),
    }
}

/// An upstream of the pool `default` without region, tags, latency and price. Its id is `up_` and the name.
pub fn candidate(name: &str) -> route::Candidate {
    route::Candidate {
        id: format!("up_{name}"),
        name: name.to_owned(),
        pool: "pool_default".to_owned(),
        pool_name: "default".to_owned(),
        region: None,
        tags: Vec::new(),
        priority: 50,
        weight: 1,
        is_cooling: false,
        in_flight: 0,
        latency_ms: None,
        price: None,
        more: Vec::new(),
    }
}

/// A request with the candidates `a` and `b`.
pub fn route_input() -> route::Input {
    route::Input {
        now_ms: NOW_MS,
        seed: 1,
        settings: "{}".to_owned(),
        subject: subject(),
        demand: demand(),
        candidates: vec![candidate("a"), candidate("b")],
        more: Vec::new(),
    }
}

/// A meter with nothing reserved; its unit is that of the name, or requests.
pub fn meter(name: &str, used: u64) -> quota::Meter {
    let unit = match name.split('.').nth(1) {
        Some("tokens") => quota::Unit::Tokens,
        Some("micro_usd") => quota::Unit::MicroUsd,
        _ => quota::Unit::Requests,
    };
    quota::Meter { name: name.to_owned(), unit, used, reserved: 0, resets_ms: None }
}

/// A request without meters and prices.
pub fn quota_input() -> quota::Input {
    quota::Input {
        now_ms: NOW_MS,
        seed: 1,
        settings: "{}".to_owned(),
        subject: subject(),
        demand: demand(),
        meters: Vec::new(),
        cost_max: None,
        chosen: None,
        more: Vec::new(),
    }
}

/// A key that was made thirty days ago, was never used and does not expire.
pub fn expiry_input() -> expiry::Input {
    let created_ms = NOW_MS - 30 * 24 * 60 * 60 * 1000;
    let key = expiry::KeyFacts {
        created_ms,
        renewed_ms: None,
        rotated_ms: None,
        last_used_ms: None,
        expires_ms: None,
        requests: 0,
        tokens: 0,
        more: Vec::new(),
    };
    expiry::Input { now_ms: NOW_MS, seed: 1, settings: "{}".to_owned(), subject: subject(), key, more: Vec::new() }
}
