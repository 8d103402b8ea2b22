//! One suite over every form of coordination: what [`coordination::Coordination`] promises, each promise a case, and then what only the form
//! over NATS has to stand: servers that end, pause and come back.
//!
//! Every case has nodes and a cluster id of its own, so all cases of a backend share its servers and run at once.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, reads the time, and waits for the tasks it spawns")]

mod backend;

mod away;
mod counters;
mod leases;
mod over_nats;
mod registry;
mod soft;

use backend::Backend;
use tokio::task::{LocalSet, spawn_local};

macro_rules! suite {
    ($($module:ident { $($case:ident)* })*) => {
        async fn run(backend: Backend) {
            backend.ready().await;
            // Alone, because it measures.
            registry::applied_is_told_at_once(backend.room()).await;
            let cases = [$($((stringify!($case), spawn_local($module::$case(backend.room())))),*),*];
            let mut failed = Vec::new();
            for (name, case) in cases {
                if case.await.is_err() {
                    failed.push(name);
                }
            }
            assert!(failed.is_empty(), "failed: {failed:?}");
        }
    };
}

suite! {
    leases {
        another_node_is_kept_out_until_the_release
        a_lease_ends_after_its_ttl_and_not_before_whatever_the_clocks_say
        of_16_contenders_one_holds
        a_name_that_is_none_is_refused
    }
    counters {
        additions_are_exact_under_concurrency
        an_addition_that_is_sent_again_counts_once
        counters_are_apart
    }
    registry {
        a_node_that_stops_is_listed_until_it_is_forgotten
        who_leaves_is_gone
    }
    soft {
        others_see_soft_state_until_its_end
        a_large_value_is_refused
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local() {
    LocalSet::new().run_until(run(Backend::local())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_r1() {
    LocalSet::new().run_until(run(Backend::nats(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_r3() {
    LocalSet::new().run_until(run(Backend::nats(3))).await;
}
