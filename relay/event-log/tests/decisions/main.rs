//! One suite over every backend of the decision stream, what [`event_log::decisions::DecisionStream`] promises; and what only a spool before
//! NATS does.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

mod backend;
mod bounds;
mod contract;
mod spool;

/// Runs every case against a backend, each with a stream of its own.
macro_rules! suite {
    ($backend:ident: $($case:ident)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::contract::$case(&crate::backend::$backend()).await;
                }
            )*
        }
    };
}

macro_rules! backends {
    ($($backend:ident)*) => {$(
        suite! { $backend:
            what_is_appended_is_what_is_read
            a_reader_catches_up_and_then_waits
            what_was_appended_survives_opening_again
            the_oldest_is_dropped_and_passed_over
            closing_tells_readers_and_writers
        }
    )*};
}

backends! { embedded jetstream }
