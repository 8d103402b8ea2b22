//! Any history on any log gives the answers that it gives in memory.

use event_log::{EventLog, Expect, Stored};
use proptest::prelude::*;
use schemas::Sequence;

use crate::backend::{self, Backend};
use crate::records::bytes;

/// Small numbers, so that histories meet retries, conflicts and right expectations often.
#[derive(Debug, Clone)]
enum Step {
    Append {
        subject: u8,
        expect: u64,
        log: Option<u64>,
        record: u8,
    },
    /// Appends where the subject is, so that the log grows.
    Grow {
        subject: u8,
        record: u8,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let append = (0..3_u8, 0..12_u64, proptest::option::of(0..12_u64), 0..3_u8);
    prop_oneof![
        6 => append.prop_map(|(subject, expect, log, record)| Step::Append { subject, expect, log, record }),
        6 => (0..3_u8, 0..3_u8).prop_map(|(subject, record)| Step::Grow { subject, record }),
        1 => Just(Step::Reopen),
    ]
}

async fn everything(log: &dyn EventLog) -> Vec<Stored> {
    let mut all = log.read_range(Sequence(1), 100).await.unwrap();
    for subject in 0..3 {
        all.extend(log.read_subject(&format!("kr.e.s.{subject}"), Sequence(2), 100).await.unwrap());
    }
    all
}

/// What the history gives on a log and in memory.
async fn compare(backend: Backend, steps: Vec<Step>) {
    let memory = backend::memory().await.open().await;
    let mut log = backend.open().await;
    for step in steps {
        let (subject, expect, record) = match step {
            Step::Reopen => {
                drop(log);
                log = backend.open().await;
                continue;
            }
            Step::Append { subject, expect, log, record } => {
                (format!("kr.e.s.{subject}"), Expect { subject: Sequence(expect), log: log.map(Sequence) }, record)
            }
            Step::Grow { subject, record } => {
                let subject = format!("kr.e.s.{subject}");
                let expect = Expect { subject: memory.last(&subject).await.unwrap(), log: None };
                (subject, expect, record)
            }
        };
        let record = bytes(record.to_string());
        let answers = (log.append(&subject, expect, record.clone()).await, memory.append(&subject, expect, record).await);
        assert_eq!(answers.0, answers.1);
        assert_eq!(log.last(&subject).await, memory.last(&subject).await);
    }
    assert_eq!(everything(log.as_ref()).await, everything(memory.as_ref()).await);
}

fn run<F: Future<Output = Backend>>(backend: impl Fn() -> F, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { compare(backend().await, steps).await });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_has_the_same_answers(steps in proptest::collection::vec(step(), 1..30)) {
        run(backend::embedded, steps);
    }
}

// A history takes its own servers, so there are few, and they are long.
proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_has_the_same_answers_on_one_server(steps in proptest::collection::vec(step(), 20..100)) {
        run(backend::jetstream_r1, steps);
    }

    #[test]
    fn any_history_has_the_same_answers_on_three_servers(steps in proptest::collection::vec(step(), 20..100)) {
        run(backend::jetstream_r3, steps);
    }
}
