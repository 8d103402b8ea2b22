//! Policies written by hand, by the means of the host's own tests.

use policy_host::contract::{Effect, Verdict, expiry, route};
use policy_host::{Output, canonical_json};
use schemas::policy::PolicyKind;
use serde_json::{Value, json};

#[path = "../../../policy-host/tests/policies/guest.rs"]
#[expect(dead_code, reason = "the host's tests do more with it")]
mod by_hand;

pub(crate) use by_hand::{Guest, manifest};

/// Where the refusal of settings lies in the guest's memory.
const REFUSAL: u32 = 0x3000;

/// A module that permits everything. Its number makes it another one.
pub(crate) fn permitting(kind: PolicyKind, number: u32) -> Vec<u8> {
    numbered(Guest::new(kind), number).module()
}

/// A route policy that denies everything.
pub(crate) fn denying(number: u32) -> Vec<u8> {
    let verdict = Verdict { effect: Effect::Deny, ..Verdict::plain(Effect::Deny) };
    numbered(Guest::saying(Output::Route(route::Output { verdict, picks: vec![] })), number).module()
}

/// An expiry policy that ends every key at a moment.
pub(crate) fn expiring(valid_until_ms: i64) -> Vec<u8> {
    let verdict = Verdict::plain(Effect::Permit);
    Guest::saying(Output::Expiry(expiry::Output { verdict, valid_until_ms: Some(valid_until_ms) })).module()
}

/// A route policy that takes no settings but `{}`, and finds two faults with all others.
pub(crate) fn choosy() -> Vec<u8> {
    let word = |number: u32| number.to_le_bytes();
    let texts = ["region.unknown", "there is no region x", "weight.range", "weights are below 10"];
    let (list, at) = (REFUSAL + 16, REFUSAL + 64);
    let mut bytes = [word(1), word(list), word(2), word(0)].concat();
    let mut next = at;
    for text in texts {
        bytes.extend([word(next), word(u32::try_from(text.len()).unwrap())].concat());
        next += u32::try_from(text.len()).unwrap();
    }
    bytes.resize((at - REFUSAL) as usize, 0);
    bytes.extend(texts.concat().bytes());
    let bytes: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let configure =
        format!("(if (result i32) (i32.le_u (local.get $length) (i32.const 2)) (then (i32.const 32)) (else (i32.const {REFUSAL})))");
    Guest { configure, ..Guest::new(PolicyKind::Route) }.with_fields(&format!("(data (i32.const {REFUSAL}) \"{bytes}\")")).module()
}

/// A module with another manifest.
pub(crate) fn described(manifest: &Value) -> Vec<u8> {
    Guest { manifest: canonical_json(manifest), ..Guest::new(PolicyKind::Route) }.module()
}

fn numbered(guest: Guest, number: u32) -> Guest {
    let mut said = manifest(guest.kind);
    said["version"] = json!(number.to_string());
    Guest { manifest: canonical_json(&said), ..guest }
}
