//! The slow class: on threads of its own, and refused at once when they have enough to do.

use std::sync::Arc;

use policy_host::PolicyFault;
use schemas::policy::{PolicyClass, PolicyKind};

use crate::guest::Guest;
use crate::world::{World, input};

const HANG: &str = "(loop $l (br $l)) (unreachable)";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_slow_policy_answers_what_it_would_inline() {
    let world = World::new();
    let module = world.host.admit(&Guest::new(PolicyKind::Route).module(), PolicyKind::Route, PolicyClass::Slow).unwrap().module;
    let asked = Arc::new(input(PolicyKind::Route, 1));
    let evaluation = runtime().block_on(module.decide_slow(asked.clone()));
    let inline = module.decide(&asked);
    assert_eq!((evaluation.result, evaluation.fuel), (inline.result, inline.fuel));
}

#[test]
fn a_full_queue_is_busy_at_once_and_drains() {
    let world = World::new();
    let admit = |guest: &Guest| world.host.admit(&guest.module(), PolicyKind::Route, PolicyClass::Slow).unwrap().module;
    let (hang, honest) = (admit(&Guest::deciding(PolicyKind::Route, HANG)), admit(&Guest::new(PolicyKind::Route)));
    let asked = Arc::new(input(PolicyKind::Route, 1));
    let runtime = runtime();
    let results = runtime.block_on(async {
        // All are polled once before the first thread can have finished: two threads and eight places for each.
        let mut pending: Vec<_> = (0..200).map(|_| Box::pin(hang.decide_slow(asked.clone()))).collect();
        let mut results = Vec::new();
        std::future::poll_fn(|context| {
            pending.retain_mut(|evaluation| match evaluation.as_mut().poll(context) {
                std::task::Poll::Ready(evaluation) => {
                    results.push(evaluation.result);
                    false
                }
                std::task::Poll::Pending => true,
            });
            if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        results
    });
    let busy = results.iter().filter(|result| **result == Err(PolicyFault::Busy)).count();
    let fuel = results.iter().filter(|result| **result == Err(PolicyFault::OutOfFuel)).count();
    assert_eq!(busy + fuel, 200, "{results:?}");
    assert!(busy > 100 && fuel >= 2, "{busy} busy, {fuel} evaluated");
    assert!(runtime.block_on(honest.decide_slow(asked)).result.is_ok());
}

#[test]
fn an_answer_that_nobody_waits_for_costs_nothing_more() {
    let world = World::new();
    let module = world.host.admit(&Guest::new(PolicyKind::Route).module(), PolicyKind::Route, PolicyClass::Slow).unwrap().module;
    let asked = Arc::new(input(PolicyKind::Route, 1));
    let runtime = runtime();
    for _ in 0..100 {
        let mut evaluation = Box::pin(module.decide_slow(asked.clone()));
        runtime.block_on(std::future::poll_fn(|context| {
            // Asked and left.
            drop(evaluation.as_mut().poll(context));
            std::task::Poll::Ready(())
        }));
    }
    let evaluation = runtime.block_on(module.decide_slow(asked));
    assert!(matches!(evaluation.result, Ok(_) | Err(PolicyFault::Busy)));
}
