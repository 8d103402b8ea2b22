//! One suite over every backend of the usage stream, what [`event_log::usage::UsageStream`] promises; and what only NATS can do to one.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

mod backend;
mod records;

mod contract;
mod places;
mod shipping;
mod troubles;

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
            numbers_follow_and_repetitions_are_harmless
            a_reader_catches_up_and_then_waits
            a_reader_resumes_after_opening_again
            ranges_are_bounded
            closing_tells_readers_and_writers
            what_is_appended_is_what_is_read
        }
    )*};
}

backends! { embedded jetstream }
