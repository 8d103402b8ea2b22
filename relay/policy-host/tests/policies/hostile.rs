//! Hostile policies. Each costs one bounded fault: nothing else of this process notices.

use std::time::{Duration, Instant};

use policy_host::contract::{Advice, Attribute, Effect, Obligation, Reason, Verdict, expiry, quota, route};
use policy_host::{InvalidOutput, Output, PolicyFault, Trapped};
use schemas::policy::PolicyKind::{self, Expiry, Quota, Route};

use crate::guest::{ADVICE, EFFECT, Guest, LIST, OBLIGATIONS, REASONS, payload, permit, plain};
use crate::world::{World, input};

/// What one evaluation may take here, on a loaded machine: the fast class's epoch, and slack.
const TIME_MAX: Duration = Duration::from_secs(2);

const INVALID: fn(InvalidOutput) -> PolicyFault = PolicyFault::InvalidOutput;
const ABI: PolicyFault = PolicyFault::InvalidOutput(InvalidOutput::Abi);

fn trap(trapped: Trapped) -> PolicyFault {
    PolicyFault::Trap(trapped)
}

/// A route policy with this body.
fn body(body: &str) -> Guest {
    Guest::deciding(Route, body)
}

/// A route policy whose answer was changed in memory; positions are from the payload on.
fn mangled(change: impl FnOnce(&mut Guest)) -> Guest {
    let mut guest = Guest::new(Route);
    change(&mut guest);
    guest
}

fn says(verdict: Verdict) -> Guest {
    Guest::saying(plain(Route, verdict))
}

fn picks(picks: &[(&str, u32, u32)]) -> Guest {
    let picks = picks.iter().map(|&(id, rank, weight)| route::Pick { id: id.into(), rank, weight }).collect();
    Guest::saying(Output::Route(route::Output { verdict: permit(), picks }))
}

fn reserves(charges: &[(&str, u64)]) -> Guest {
    let reserve = charges.iter().map(|&(meter, amount)| quota::Charge { meter: meter.into(), amount }).collect();
    Guest::saying(Output::Quota(quota::Output { verdict: permit(), reserve, retry_ms: None }))
}

fn reason(code: &str, text: Option<String>) -> Verdict {
    Verdict { reasons: vec![Reason { code: code.into(), text, is_public: true }], ..permit() }
}

fn without(mut guest: Guest, member: &str) -> Guest {
    let mut manifest: serde_json::Value = serde_json::from_str(&guest.manifest).unwrap();
    manifest[member] = serde_json::json!([]);
    guest.manifest = manifest.to_string();
    guest
}

/// Time: what never ends.
fn loops() -> Vec<(&'static str, Guest, PolicyFault)> {
    let realloc = Guest { realloc: "(loop $l (br $l)) (unreachable)".into(), ..Guest::new(Route) };
    let post_return = "(func (export \"cabi_post_keyrelay:policy/route-policy@1.0.0#decide\") (param i32) (loop $l (br $l)))";
    let tail = "(type $t (func (param i32) (result i32))) (func $tail (type $t) (return_call $tail (local.get 0)))";
    let fill = "(loop $l (memory.fill (i32.const 0xe000) (i32.const 1) (i32.const 0x10000)) (br $l)) (unreachable)";
    let copy = "(loop $l (memory.copy (i32.const 0xe000) (i32.const 0) (i32.const 0xe000)) (br $l)) (unreachable)";
    let table = "(loop $l (table.fill (i32.const 0) (ref.null func) (i32.const 1000)) (br $l)) (unreachable)";
    let floats = "(local $x f64) (loop $l (local.set $x (f64.sqrt (f64.add (local.get $x) (f64.const 2)))) (br $l)) (unreachable)";
    vec![
        ("an endless loop", body("(loop $l (br $l)) (unreachable)"), PolicyFault::OutOfFuel),
        ("an endless loop in realloc", realloc, PolicyFault::OutOfFuel),
        ("an endless loop after the answer", Guest::new(Route).with_fields(post_return), PolicyFault::OutOfFuel),
        ("endless tail calls", body("(call $tail (i32.const 0))").with_fields(tail), PolicyFault::OutOfFuel),
        ("endless filling of memory", body(fill), PolicyFault::OutOfFuel),
        ("endless copying of memory", body(copy), PolicyFault::OutOfFuel),
        ("endless filling of a table", body(table).with_fields("(table 1000 funcref)"), PolicyFault::OutOfFuel),
        ("endless arithmetic", body(floats), PolicyFault::OutOfFuel),
    ]
}

/// Space: what only grows.
fn growth() -> Vec<(&'static str, Guest, PolicyFault)> {
    let page = "(loop $l (drop (memory.grow (i32.const 1))) (br $l)) (unreachable)";
    let bounded = Guest { memory: "(memory (export \"memory\") 2 65536)".into(), ..body(page) };
    let table = "(loop $l (drop (table.grow (ref.null func) (i32.const 100))) (br $l)) (unreachable)";
    let recursion = "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))";
    let locals = format!(
        "(func $deep (param i32) (result i32) (local {}) (i32.add (call $deep (local.get 0)) (i32.const 1)))",
        "v128 ".repeat(1000)
    );
    let indirect = "(type $t (func (param i32) (result i32))) (table 1 funcref) (elem (i32.const 0) $deep) \
        (func $deep (type $t) (i32.add (call_indirect (type $t) (local.get 0) (i32.const 0)) (i32.const 1)))";
    let deep = || body("(call $deep (i32.const 0))");
    vec![
        ("memory page by page", body(page), PolicyFault::OutOfMemory),
        ("memory beyond a maximum that it declares too large", bounded, PolicyFault::OutOfMemory),
        ("all memory at once", body("(memory.grow (i32.const 65534))"), PolicyFault::OutOfMemory),
        ("a growing table", body(table).with_fields("(table 1 funcref)"), PolicyFault::OutOfMemory),
        ("deep recursion", deep().with_fields(recursion), trap(Trapped::StackOverflow)),
        ("deep recursion with many locals", deep().with_fields(&locals), trap(Trapped::StackOverflow)),
        ("deep recursion through a table", deep().with_fields(indirect), trap(Trapped::StackOverflow)),
    ]
}

/// Every way to trap.
fn traps() -> Vec<(&'static str, Guest, PolicyFault)> {
    let table = "(type $t (func (param i32) (result i32))) (type $other (func)) (table 1 2 funcref)";
    let call = "(call_indirect (type $t) (local.get 0) (i32.const 0))";
    let beyond = "(call_indirect (type $t) (local.get 0) (i32.const 9))";
    let other = format!("{table} (func $f (type $other)) (elem (i32.const 0) $f)");
    let realloc = |body: &str| Guest { realloc: body.into(), ..Guest::new(Route) };
    vec![
        ("unreachable", body("unreachable"), trap(Trapped::Unreachable)),
        ("a trap in realloc", realloc("unreachable"), trap(Trapped::Unreachable)),
        ("a division by zero", body("(i32.div_u (i32.const 1) (i32.const 0))"), trap(Trapped::DivisionByZero)),
        ("a remainder of zero", body("(i32.rem_s (i32.const 1) (i32.const 0))"), trap(Trapped::DivisionByZero)),
        ("an overflow", body("(i32.div_s (i32.const 0x80000000) (i32.const -1))"), trap(Trapped::IntegerOverflow)),
        ("a conversion of no number", body("(i32.trunc_f64_s (f64.const nan))"), trap(Trapped::BadConversion)),
        ("a conversion of too large a number", body("(i32.trunc_f64_s (f64.const 1e300))"), trap(Trapped::IntegerOverflow)),
        ("a load out of bounds", body("(i32.load (i32.const 0x7fffffff))"), trap(Trapped::MemoryOutOfBounds)),
        ("a store out of bounds", body("(i32.store (i32.const -4) (i32.const 1)) (i32.const 0)"), trap(Trapped::MemoryOutOfBounds)),
        (
            "a fill out of bounds",
            body("(memory.fill (i32.const 0x1fff0) (i32.const 1) (i32.const 0x100)) (i32.const 0)"),
            trap(Trapped::MemoryOutOfBounds),
        ),
        (
            "a copy out of bounds",
            body("(memory.copy (i32.const 0) (i32.const 9) (i32.const 0x40000)) (i32.const 0)"),
            trap(Trapped::MemoryOutOfBounds),
        ),
        ("a call of nothing", body(call).with_fields(table), trap(Trapped::IndirectCall)),
        ("a call of another type", body(call).with_fields(&other), trap(Trapped::IndirectCall)),
        ("a call beyond the table", body(beyond).with_fields(table), trap(Trapped::TableOutOfBounds)),
    ]
}

/// Answers that break the canonical ABI.
fn broken_answers() -> Vec<(&'static str, Guest, PolicyFault)> {
    let realloc = |body: &str| Guest { realloc: body.into(), ..Guest::new(Route) };
    let list = |at: usize, pointer: u32, length: u32| mangled(move |guest| guest.image.slice(payload(Route) + at, pointer, length));
    let text = |bytes: &'static [u8]| {
        mangled(|guest| {
            let room = guest.image.room(24);
            guest.image.raw_text(room, b"test.reason");
            guest.image.put(room + 8, &[1]);
            guest.image.raw_text(room + 12, bytes);
            guest.image.slice(payload(Route) + REASONS, crate::guest::address(room), 1);
        })
    };
    vec![
        ("a list of two billion picks", list(LIST, 8, 1 << 31), ABI),
        ("a list of all the numbers there are", list(LIST, 8, u32::MAX), ABI),
        ("a list that begins beyond the memory", list(LIST, 0x7fff_fff0, 1), ABI),
        ("a list that is not aligned", list(LIST, 67, 1), ABI),
        ("a list of reasons beyond the memory", list(REASONS, 0x1_fff0, 100), ABI),
        ("a text of two gigabytes", mangled(|guest| one_reason(guest, 16, 1 << 31)), ABI),
        ("a text beyond the memory", mangled(|guest| one_reason(guest, 0x1_fff0, 64)), ABI),
        ("a text that is not UTF-8", text(b"\xff\xfe"), ABI),
        ("a text with an overlong character", text(b"\xc0\x80"), ABI),
        ("a text with half a surrogate pair", text(b"\xed\xa0\x80"), ABI),
        ("a text cut in the middle of a character", text(b"\xe2\x82"), ABI),
        ("an answer beyond the memory", body("(i32.const 0x7ffffff0)"), ABI),
        ("an answer at the very end of memory", body("(i32.const 0x1fffc)"), ABI),
        ("an answer that is not aligned", body("(i32.const 65)"), ABI),
        ("an effect that is none", mangled(|guest| guest.image.put(payload(Route) + EFFECT, &[3])), ABI),
        ("a result that is none", mangled(|guest| guest.image.put(0, &[2])), ABI),
        ("an obligation of no kind", mangled(|guest| one_variant(guest, OBLIGATIONS, 4)), ABI),
        ("an advice of no kind", mangled(|guest| one_variant(guest, ADVICE, 200)), ABI),
        ("an option that is none", mangled(|guest| guest.image.raw_reason_option(payload(Route) + REASONS)), ABI),
        ("memory for the input beyond the memory", realloc("(i32.const 0x7ffffff0)"), ABI),
        ("memory for the input that is not aligned", realloc("(i32.const 57345)"), ABI),
    ]
}

fn one_reason(guest: &mut Guest, pointer: u32, length: u32) {
    let room = guest.image.room(24);
    guest.image.slice(room, pointer, length);
    guest.image.slice(payload(Route) + REASONS, crate::guest::address(room), 1);
}

fn one_variant(guest: &mut Guest, list: usize, discriminant: u8) {
    let room = guest.image.room(24);
    guest.image.put(room, &[discriminant]);
    guest.image.slice(payload(Route) + list, crate::guest::address(room), 1);
}

/// Answers that keep the ABI and are far too large.
fn large_answers() -> Vec<(&'static str, Guest, PolicyFault)> {
    // All of memory, as one text; the same text four thousand times; a million picks that share one id.
    let memory = || "(memory (export \"memory\") 60)".to_owned();
    let huge = Guest { memory: memory(), ..mangled(|guest| one_reason(guest, 0x1_0000, 50 * 0x1_0000)) };
    let shared = "(local $n i32) (loop $l \
            (i32.store offset=0x10000 (local.get $n) (i32.const 0x4000)) (i32.store offset=0x10004 (local.get $n) (i32.const 200)) \
            (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 16))) (i32.const 0x100000)))) \
        (i32.store (i32.const 96) (i32.const 0x10000)) (i32.store (i32.const 100) (i32.const 0x10000)) (i32.const 64)";
    let shared = Guest { memory: memory(), ..body(shared) };
    let many =
        |count: usize| Verdict { reasons: vec![Reason { code: "test.reason".into(), text: None, is_public: false }; count], ..permit() };
    vec![
        ("a text of three megabytes", huge, INVALID(InvalidOutput::TooLarge)),
        ("sixty thousand picks of one text", shared, INVALID(InvalidOutput::TooLarge)),
        ("seventeen reasons", says(many(17)), INVALID(InvalidOutput::TooLarge)),
        ("a long text", says(reason("test.reason", Some("x".repeat(513)))), INVALID(InvalidOutput::TooLarge)),
        ("a code of ten kilobytes", says(reason(&"x".repeat(10_000), None)), INVALID(InvalidOutput::TooLarge)),
    ]
}

/// Answers of the right shape that would widen, or that nobody was told of.
fn lies() -> Vec<(&'static str, Guest, PolicyFault)> {
    let obliged = |obligation| says(Verdict { obligations: vec![obligation], ..permit() });
    let advised = |advice| says(Verdict { advice: vec![advice], ..permit() });
    let tag = |name: &str, value: &str| Obligation::TagUsage(Attribute { name: name.into(), value: value.into() });
    let denial = Verdict::plain(Effect::Deny);
    let pick = vec![route::Pick { id: "up_0".into(), rank: 0, weight: 1 }];
    let denial_with_picks = Output::Route(route::Output { verdict: denial.clone(), picks: pick });
    let denial_until = Output::Expiry(expiry::Output { verdict: denial.clone(), valid_until_ms: Some(1) });
    let permit_retry = Output::Quota(quota::Output { verdict: permit(), reserve: vec![], retry_ms: Some(1) });
    let late_retry = Output::Quota(quota::Output { verdict: denial.clone(), reserve: vec![], retry_ms: Some(u64::MAX) });
    let denial_with_cap = Verdict { obligations: vec![Obligation::CapOutput(1)], ..denial.clone() };
    let mut narrow = without(says(denial), "effects");
    narrow.manifest = narrow.manifest.replace("\"effects\":[]", "\"effects\":[\"permit\"]");
    vec![
        ("a candidate of its own", picks(&[("up_99", 0, 1)]), INVALID(InvalidOutput::UnknownCandidate)),
        ("a candidate without a name", picks(&[("", 0, 1)]), INVALID(InvalidOutput::UnknownCandidate)),
        ("a candidate spelled otherwise", picks(&[("UP_0", 0, 1)]), INVALID(InvalidOutput::UnknownCandidate)),
        ("a candidate twice", picks(&[("up_0", 0, 1), ("up_1", 0, 1), ("up_0", 1, 1)]), INVALID(InvalidOutput::RepeatedCandidate)),
        ("all the weight in the world", picks(&[("up_0", 0, u32::MAX)]), INVALID(InvalidOutput::OutOfRange)),
        ("a rank over its bound", picks(&[("up_0", u32::MAX, 1)]), INVALID(InvalidOutput::OutOfRange)),
        ("picks of a denial", Guest::saying(denial_with_picks), INVALID(InvalidOutput::Contradiction)),
        ("an obligation of a denial", says(denial_with_cap), INVALID(InvalidOutput::Contradiction)),
        ("a moment until which a denied key is good", Guest::saying(denial_until), INVALID(InvalidOutput::Contradiction)),
        ("a permit that says when to come back", Guest::saying(permit_retry), INVALID(InvalidOutput::Contradiction)),
        ("a denial for ever", Guest::saying(late_retry), INVALID(InvalidOutput::OutOfRange)),
        ("a meter of its own", reserves(&[("all.tokens.day", 1)]), INVALID(InvalidOutput::UnknownMeter)),
        ("a meter twice", reserves(&[("key.tokens.day", 1), ("key.tokens.day", 1)]), INVALID(InvalidOutput::RepeatedMeter)),
        ("a charge that overflows", reserves(&[("key.tokens.day", u64::MAX)]), INVALID(InvalidOutput::OutOfRange)),
        ("an effect that it did not declare", narrow, INVALID(InvalidOutput::UndeclaredEffect)),
        ("a reason that it did not declare", says(reason("test.other", None)), INVALID(InvalidOutput::UndeclaredReason)),
        (
            "an obligation that it did not declare",
            without(obliged(Obligation::CapOutput(1)), "obligations"),
            INVALID(InvalidOutput::UndeclaredObligation),
        ),
        (
            "an advice that it did not declare",
            without(advised(Advice::Warn("x".into())), "advice"),
            INVALID(InvalidOutput::UndeclaredAdvice),
        ),
        ("a text that steers a terminal", says(reason("test.reason", Some("\u{1b}]0;title\u{7}".into()))), INVALID(InvalidOutput::Text)),
        ("a warning that steers a terminal", advised(Advice::Warn("\u{9b}2J".into())), INVALID(InvalidOutput::Text)),
        ("a tag without a name", obliged(tag("", "x")), INVALID(InvalidOutput::Text)),
        ("a tag with a line break", obliged(tag("a", "x\ny")), INVALID(InvalidOutput::Text)),
        ("a region of a kilobyte", obliged(Obligation::PinRegion("x".repeat(400))), INVALID(InvalidOutput::Text)),
    ]
}

#[test]
fn each_hostile_policy_costs_one_bounded_fault() {
    let world = World::new();
    let honest: Vec<_> = PolicyKind::ALL.into_iter().map(|kind| world.module(&Guest::new(kind))).collect();
    let cases: Vec<_> = [loops(), growth(), traps(), broken_answers(), large_answers(), lies()].into_iter().flatten().collect();
    assert!(cases.len() >= 40, "{}", cases.len());
    let memory = resident_bytes();
    let mut wrong = Vec::new();
    for (name, guest, expected) in cases {
        let module = world.module(&guest);
        let start = Instant::now();
        let first = module.decide(&input(guest.kind, 1));
        let elapsed = start.elapsed();
        // The same fault at the same place, every time.
        let again = module.decide(&input(guest.kind, 1));
        if first.result != Err(expected) || again.result != first.result || again.fuel != first.fuel || elapsed > TIME_MAX {
            wrong.push((name, first, again.fuel, elapsed));
        }
        // Who comes next notices nothing.
        for module in &honest {
            assert!(module.decide(&input(module.kind(), 1)).result.is_ok(), "{name}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let grown = resident_bytes().saturating_sub(memory);
    assert!(grown < 128 << 20, "{grown} bytes more after all of them");
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn describing_and_configuring_are_bounded_like_deciding() {
    let world = World::new();
    let hang = "(loop $l (br $l)) (unreachable)".to_owned();
    for kind in [Expiry, Quota, Route] {
        let module = world.module(&Guest { configure: hang.clone(), ..Guest::new(kind) });
        assert_eq!(module.configure("{}"), Err(policy_host::ConfigureError::Fault(PolicyFault::OutOfFuel)));
        assert!(module.decide(&input(kind, 1)).result.is_ok());
    }
}
