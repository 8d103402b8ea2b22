//! One suite over every backend of the event log: what [`event_log::EventLog`] promises, each promise a test.
//!
//! A backend joins by its name in the list of `backends!`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and waits for the tasks it spawns")]

mod backend;
mod disturbed;
mod records;

mod append;
mod contention;
mod model;
mod read;
mod retry;
mod unknown;

/// Runs every case against a backend, each with a log of its own.
macro_rules! suite {
    ($backend:ident: $($module:ident { $($case:ident)* })*) => {
        mod $backend {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let backend = crate::backend::$backend().await;
                    crate::$module::$case(&backend).await;
                }
            )*)*
        }
    };
}

macro_rules! backends {
    ($($backend:ident)*) => {$(
        suite! { $backend:
            append {
                sequences_are_dense_from_1
                an_expectation_must_be_exact
                the_whole_log_can_be_expected
                the_largest_record_is_stored_and_a_larger_one_is_refused
                any_bytes_are_stored
                a_subject_that_is_no_subject_is_refused
                identity_is_the_founded_cluster
            }
            read {
                ranges_and_subjects_are_read_in_order
                runs_are_bounded
                a_reader_catches_up_and_then_waits
                a_reader_resumes_across_a_restart
                readers_never_see_a_later_record_first
            }
            retry {
                an_exact_retry_is_told_so
                an_exact_retry_is_told_so_after_a_restart
                the_same_command_with_other_content_is_a_conflict
                a_retry_of_an_expectation_on_the_whole_log_is_told_so
            }
            contention {
                of_64_contenders_one_wins_each_version
                appends_to_many_subjects_do_not_meet
            }
            unknown {
                an_unknown_outcome_is_resolved_by_appending_again
                an_unknown_outcome_comes_back_at_the_deadline
            }
        }
    )*};
}

backends! { memory embedded witnessed jetstream_r1 jetstream_r3 }

/// The cases of which every outcome is certain, whatever happens to the servers.
macro_rules! disturbed_backends {
    ($($backend:ident)*) => {$(
        suite! { $backend:
            append {
                sequences_are_dense_from_1
                an_expectation_must_be_exact
                the_whole_log_can_be_expected
                the_largest_record_is_stored_and_a_larger_one_is_refused
                any_bytes_are_stored
            }
            read {
                a_reader_resumes_across_a_restart
                readers_never_see_a_later_record_first
            }
            retry {
                an_exact_retry_is_told_so
                an_exact_retry_is_told_so_after_a_restart
                the_same_command_with_other_content_is_a_conflict
                a_retry_of_an_expectation_on_the_whole_log_is_told_so
            }
            contention {
                of_64_contenders_one_wins_each_version
                appends_to_many_subjects_do_not_meet
            }
        }
    )*};
}

disturbed_backends! { jetstream_r1_disturbed jetstream_r3_disturbed }

#[tokio::test]
async fn the_same_input_has_the_same_root_on_every_backend() {
    let mut roots = Vec::new();
    for backend in [backend::memory().await, backend::embedded().await, backend::jetstream_r1().await, backend::jetstream_r3().await] {
        let log = backend.open().await;
        for (subject, expect, record) in records::history() {
            assert!(matches!(log.append(&subject, expect, record).await.unwrap(), event_log::Appended::Appended(_)));
        }
        roots.push(records::root(log.as_ref()).await);
    }
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
    assert_eq!(roots[0].0, records::history().len() as u64);
}
