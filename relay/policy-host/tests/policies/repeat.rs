//! The same input gives the same bytes and the same fuel, wherever and however often, and nothing of one evaluation is in the next.

use std::sync::Arc;
use std::time::Instant;

use policy_host::{Input, Module, Output, PolicyFault};
use schemas::policy::{PolicyClass, PolicyKind};

use crate::guest::Guest;
use crate::world::{World, candidate, input, route_input};

/// Walks the candidates of its input and picks all of them: the rank is the place in the list, the weight is the candidate's.
///
/// Offsets are those of `route-policy.input` and `candidate` in the canonical ABI.
pub(crate) const PICK_ALL: &str = r"(local $n i32) (local $from i32) (local $to i32)
    (local.set $from (i32.load offset=144 (local.get $input)))
    (local.set $to (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (i32.mul (i32.load offset=148 (local.get $input)) (i32.const 16))))
    (i32.store (i32.const 96) (local.get $to))
    (i32.store (i32.const 100) (i32.load offset=148 (local.get $input)))
    (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $n) (i32.load offset=148 (local.get $input))))
        (i32.store (local.get $to) (i32.load (local.get $from)))
        (i32.store offset=4 (local.get $to) (i32.load offset=4 (local.get $from)))
        (i32.store offset=8 (local.get $to) (local.get $n))
        (i32.store offset=12 (local.get $to) (i32.load offset=56 (local.get $from)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (local.set $from (i32.add (local.get $from) (i32.const 128)))
        (local.set $to (i32.add (local.get $to) (i32.const 16)))
        (br $next)))
    (i32.const 64)";

/// Answers with a fold over all of its memory, floats included: whatever differs, differs here.
const FOLD: &str = r"(local $at i32) (local $sum i64) (local $x f64)
    (local.set $sum (i64.const 0xcbf29ce4))
    (local.set $x (f64.div (f64.const 0) (f64.const 0)))
    (loop $next
        (local.set $sum (i64.mul (i64.xor (local.get $sum) (i64.load (local.get $at))) (i64.const 0x100000001b3)))
        (local.set $x (f64.add (f64.sqrt (f64.convert_i64_s (local.get $sum))) (f64.mul (local.get $x) (f64.const 1.1))))
        (local.set $sum (i64.xor (local.get $sum) (i64.reinterpret_f64 (local.get $x))))
        (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 0x20000))))
    (i32.store8 (i32.const 104) (i32.const 1))
    (i64.store (i32.const 112) (i64.shr_u (local.get $sum) (i64.const 20)))
    (i32.const 64)";

#[test]
fn candidates_of_the_input_are_read_and_picked() {
    let module = World::new().module(&Guest::deciding(PolicyKind::Route, PICK_ALL));
    for count in [0_u32, 1, 3, 700] {
        let asked = Input::Route(route_input((0..count).map(|n| candidate(n, 1)).collect()));
        let Ok(Output::Route(output)) = module.decide(&asked).result else { panic!("{count}") };
        let picked: Vec<_> = output.picks.iter().map(|pick| (pick.id.clone(), pick.rank, pick.weight)).collect();
        assert_eq!(picked, (0..count).map(|n| (format!("up_{n}"), n, 100)).collect::<Vec<_>>());
    }
}

#[test]
fn an_input_over_its_cap_never_reaches_the_policy() {
    let module = World::new().module(&Guest::deciding(PolicyKind::Route, PICK_ALL));
    let mut large = route_input(vec![candidate(0, 1)]);
    large.demand.model = "x".repeat(256 * 1024);
    assert_eq!(module.decide(&Input::Route(large)).result, Err(PolicyFault::InvalidInput));
}

fn answers(module: &Module, inputs: &[Input]) -> Vec<(Vec<u8>, u64)> {
    inputs.iter().map(|input| module.decide(input)).map(|evaluation| (evaluation.result.unwrap().encode(), evaluation.fuel)).collect()
}

#[test]
fn the_same_input_gives_the_same_bytes_and_the_same_fuel_everywhere() {
    let guest = Guest::deciding(PolicyKind::Expiry, FOLD);
    // The host's own expiry would cut off what the fold says.
    let inputs: Vec<_> = (0..50)
        .map(|seed| match input(PolicyKind::Expiry, seed) {
            Input::Expiry(mut asked) => {
                asked.key.expires_ms = None;
                Input::Expiry(asked)
            }
            other => other,
        })
        .collect();
    let world = World::new();
    let admitted = world.admit(&guest).unwrap();
    let first = answers(&admitted.module, &inputs);
    // Another seed is another answer, or the fold would show nothing.
    assert!(first.windows(2).all(|pair| pair[0].0 != pair[1].0));
    assert_eq!(answers(&admitted.module, &inputs), first, "again");
    let restarted = world.restarted().load_cached(&admitted.digest, PolicyKind::Expiry, PolicyClass::Fast).unwrap().unwrap();
    assert_eq!(answers(&restarted, &inputs), first, "from the cache");
    let elsewhere = World::new();
    let elsewhere = elsewhere.host.load(&admitted.digest, PolicyKind::Expiry, PolicyClass::Fast, &admitted.component).unwrap();
    assert_eq!(answers(&elsewhere, &inputs), first, "compiled elsewhere");
    let slow = world.host.admit(&guest.module(), PolicyKind::Expiry, PolicyClass::Slow).unwrap();
    let outputs = |answers: &[(Vec<u8>, u64)]| answers.iter().map(|(output, _)| output.clone()).collect::<Vec<_>>();
    assert_eq!(outputs(&answers(&slow.module, &inputs)), outputs(&first), "in the other class");
}

#[test]
fn threads_do_not_disturb_each_other_and_too_many_are_told_so() {
    let world = World::new();
    let modules: Vec<_> = (0..4)
        .map(|n| world.module(&Guest::deciding(PolicyKind::Route, PICK_ALL).with_fields(&format!("(global i32 (i32.const {n}))"))))
        .collect();
    let hostile = world.module(&Guest::deciding(PolicyKind::Route, "(loop $l (br $l)) (unreachable)"));
    // More threads than the host has slots for.
    let busy: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24_u32)
            .map(|thread| {
                let (modules, hostile) = (&modules, &hostile);
                scope.spawn(move || {
                    let mut busy = 0;
                    for n in 0..200_u32 {
                        let count = (thread + n) % 9;
                        let asked = Input::Route(route_input((0..count).map(|n| candidate(n * 7 + thread, 1)).collect()));
                        match modules[((thread + n) % 4) as usize].decide(&asked).result {
                            Ok(Output::Route(output)) => {
                                let ids: Vec<_> = output.picks.iter().map(|pick| pick.id.clone()).collect();
                                assert_eq!(ids, (0..count).map(|n| format!("up_{}", n * 7 + thread)).collect::<Vec<_>>());
                            }
                            Err(PolicyFault::Busy) => busy += 1,
                            other => panic!("{other:?}"),
                        }
                        if n % 50 == 0 {
                            let fault = hostile.decide(&asked).result;
                            assert!(matches!(fault, Err(PolicyFault::OutOfFuel | PolicyFault::Busy)), "{fault:?}");
                        }
                    }
                    busy
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(busy < 24 * 200, "some were evaluated");
    // Every slot came back.
    for module in &modules {
        assert!(module.decide(&input(PolicyKind::Route, 1)).result.is_ok());
    }
}

/// Looks for anything that is not zero where nothing was ever written, then leaves something everywhere it looked.
///
/// Of the four megabytes it reads and dirties 8 stretches of 4 KiB, chosen by the seed and all different; in every 64th run all of the first.
/// It grows its memory; a global and a table must be what they were. What it finds it tells as a number of milliseconds.
const SPY: &str = r"(local $found i64) (local $n i32) (local $at i32)
    (drop (memory.grow (i32.const 4)))
    (local.set $found (i64.extend_i32_u (i32.or (global.get $left) (i32.eqz (ref.is_null (table.get (i32.const 1)))))))
    (global.set $left (i32.const 1))
    (table.set (i32.const 1) (ref.func $describe))
    (if (i64.eqz (i64.and (i64.load offset=8 (local.get $input)) (i64.const 63)))
        (then
            (local.set $at (i32.const 0x20000))
            (loop $all
                (local.set $found (i64.or (local.get $found) (i64.load (local.get $at))))
                (i64.store (local.get $at) (i64.const -1))
                (br_if $all (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 0x120000)))))
        (else
            (loop $stretch
                (local.set $at (i32.add (i32.const 0x20000) (i32.shl (i32.rem_u (i32.add
                    (i32.rem_u (i32.mul (i32.wrap_i64 (i64.load offset=8 (local.get $input))) (i32.const 0x9e3779b1)) (i32.const 970))
                    (i32.mul (local.get $n) (i32.const 121))) (i32.const 970)) (i32.const 12))))
                (local.set $found (i64.or (local.get $found) (call $any (local.get $at))))
                (memory.fill (local.get $at) (i32.const 0xa5) (i32.const 4096))
                (br_if $stretch (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 8))))))
    (i32.store8 (i32.const 104) (i32.const 1))
    (i64.store (i32.const 112) (local.get $found))
    (i32.const 64)";
const SPY_FIELDS: &str = r"(global $left (mut i32) (i32.const 0)) (table 4 funcref) (elem declare func $describe)
    (func $any (param $at i32) (result i64) (local $found v128) (local $end i32)
        (local.set $end (i32.add (local.get $at) (i32.const 4096)))
        (loop $next
            (local.set $found (v128.or (local.get $found) (v128.or
                (v128.or (v128.load (local.get $at)) (v128.load offset=16 (local.get $at)))
                (v128.or (v128.load offset=32 (local.get $at)) (v128.load offset=48 (local.get $at))))))
            (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 64))) (local.get $end))))
        (i64.or (i64x2.extract_lane 0 (local.get $found)) (i64x2.extract_lane 1 (local.get $found))))";

/// Runs of the spies: 100,000, or what `KEYRELAY_LEAK_RUNS` says.
#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn runs() -> u64 {
    std::env::var("KEYRELAY_LEAK_RUNS").map_or(100_000, |runs| runs.parse().unwrap())
}

#[test]
fn nothing_of_one_instance_is_in_another() {
    let world = World::new();
    let spy = |end: &str, pages: u32| {
        let mut guest = Guest::deciding(PolicyKind::Expiry, &format!("{SPY}{end}")).with_fields(SPY_FIELDS);
        guest.memory = format!("(memory (export \"memory\") {pages})");
        world.module(&guest)
    };
    // One that answers, one that traps when it has left its traces, one whose memory is larger: slots go from one to the other.
    let spies = [spy("", 60), spy("(drop) (unreachable)", 60), spy("", 59)];
    let other = world.module(&Guest::deciding(PolicyKind::Route, PICK_ALL));
    let Input::Expiry(asked) = input(PolicyKind::Expiry, 0) else { panic!("an expiry input") };
    let runs = runs();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (mut asked, spies, other) = (asked.clone(), &spies, &other);
            scope.spawn(move || {
                for n in (thread..runs).step_by(2) {
                    asked.seed = n;
                    let which = (n / 2 % 3) as usize;
                    let evaluation = spies[which].decide(&Input::Expiry(asked.clone()));
                    match evaluation.result {
                        Ok(Output::Expiry(output)) => assert_eq!(output.valid_until_ms, Some(0), "run {n} found what another left"),
                        Err(PolicyFault::Trap(_)) if which == 1 => {}
                        other => panic!("run {n}: {other:?}"),
                    }
                    if n % 100 == 0 {
                        assert!(other.decide(&input(PolicyKind::Route, n)).result.is_ok());
                    }
                }
            });
        }
    });
    eprintln!("{runs} runs in {:?}", start.elapsed());
}

#[test]
fn a_spy_finds_what_is_there() {
    // The same guest over memory that is not empty: the test above would see a leak.
    let world = World::new();
    let mut guest = Guest::deciding(PolicyKind::Expiry, SPY).with_fields(SPY_FIELDS);
    guest.memory = "(memory (export \"memory\") 60)".into();
    guest.fields.push_str("(data (i32.const 0x50000) \"\\01\")");
    let Input::Expiry(mut asked) = input(PolicyKind::Expiry, 64) else { panic!("an expiry input") };
    asked.key.expires_ms = None;
    let module: Arc<Module> = world.module(&guest);
    let Ok(Output::Expiry(output)) = module.decide(&Input::Expiry(asked)).result else { panic!("an answer") };
    assert_eq!(output.valid_until_ms, Some(1));
}
