//! What a policy that keeps the contract gets.

use policy_host::contract::{Advice, Attribute, Fault, Obligation, Reason, Verdict, expiry, quota, route};
use policy_host::{Output, PolicyFault};
use schemas::policy::PolicyKind;

use crate::guest::{Guest, permit};
use crate::world::{World, input};

fn full(verdict: Verdict) -> Verdict {
    Verdict {
        reasons: vec![
            Reason { code: "test.reason".into(), text: Some("because of ünïcode".into()), is_public: true },
            Reason { code: "test.reason".into(), text: None, is_public: false },
        ],
        obligations: vec![
            Obligation::CapOutput(u64::MAX),
            Obligation::CapParallel(3),
            Obligation::TagUsage(Attribute { name: "team".into(), value: "search".into() }),
            Obligation::PinRegion("eu".into()),
        ],
        advice: vec![Advice::RotateKeyBy(-1), Advice::Warn("soon".into())],
        ..verdict
    }
}

#[test]
fn every_field_of_an_output_arrives() {
    let world = World::new();
    let picks = vec![route::Pick { id: "up_2".into(), rank: 0, weight: 5 }, route::Pick { id: "up_0".into(), rank: 9, weight: 0 }];
    let reserve = vec![quota::Charge { meter: "key.tokens.day".into(), amount: 77 }];
    let outputs = [
        Output::Route(route::Output { verdict: full(permit()), picks }),
        Output::Quota(quota::Output { verdict: full(permit()), reserve, retry_ms: None }),
        Output::Expiry(expiry::Output { verdict: full(permit()), valid_until_ms: Some(4_999_999) }),
    ];
    for output in outputs {
        let evaluation = world.module(&Guest::saying(output.clone())).decide(&input(output.kind(), 1));
        assert_eq!(evaluation.result, Ok(output));
        assert!(evaluation.fuel > 0);
    }
}

#[test]
fn the_memory_that_an_instance_had_at_its_end_is_told() {
    let world = World::new();
    let memory_bytes = |grown: &str| {
        let guest = Guest::deciding(PolicyKind::Route, &format!("{grown} (i32.const 64)"));
        world.module(&guest).decide(&input(PolicyKind::Route, 1)).memory_bytes
    };
    let pages = 65536;
    let (before, after) = (memory_bytes(""), memory_bytes("(drop (memory.grow (i32.const 3)))"));
    assert!(before > 0 && before % pages == 0 && after == before + 3 * pages, "{before} {after}");
    assert_eq!(
        world.module(&Guest::deciding(PolicyKind::Route, "(unreachable)")).decide(&input(PolicyKind::Route, 1)).memory_bytes,
        before
    );
}

#[test]
fn a_declared_fault_arrives_without_control_characters() {
    let world = World::new();
    for kind in PolicyKind::ALL {
        let fault = Fault { code: "test.fault".into(), detail: "no \u{1b}[31mprice".into() };
        let evaluation = world.module(&Guest::answering(&Err(fault), kind)).decide(&input(kind, 1));
        let shown = Fault { code: "test.fault".into(), detail: "no  [31mprice".into() };
        assert_eq!(evaluation.result, Err(PolicyFault::Declared(shown)));
    }
}

#[test]
fn an_expiry_is_never_later_than_the_hosts_own() {
    let world = World::new();
    let output = Output::Expiry(expiry::Output { verdict: permit(), valid_until_ms: Some(i64::MAX) });
    let evaluation = world.module(&Guest::saying(output)).decide(&input(PolicyKind::Expiry, 1));
    assert_eq!(evaluation.result, Ok(Output::Expiry(expiry::Output { verdict: permit(), valid_until_ms: Some(5_000_000) })));
}

#[test]
fn an_input_of_another_kind_is_refused() {
    let evaluation = World::new().module(&Guest::new(PolicyKind::Route)).decide(&input(PolicyKind::Quota, 1));
    assert_eq!(evaluation.result, Err(PolicyFault::InvalidInput));
}
