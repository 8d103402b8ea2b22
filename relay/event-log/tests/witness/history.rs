//! Any history, with a log that forgets at any time: in the end either everything acknowledged stands where it stood, or the log is refused.

use bytes::Bytes;
use event_log::testing::Faithless;
use event_log::{Appended, EventLog, Expect, Health, Stored};
use proptest::prelude::*;
use schemas::Sequence;

use crate::node::Node;
use crate::records::root;

#[derive(Debug, Clone)]
enum Step {
    /// Through the witness.
    Append {
        subject: u8,
    },
    /// By a node without one.
    AppendElsewhere {
        subject: u8,
    },
    Follow,
    LoseTail {
        count: usize,
    },
    /// To what the log held that many steps ago.
    RollBack {
        steps: usize,
    },
    Overwrite {
        place: usize,
    },
    Reconnect,
    Restart,
}

fn step(is_alone: bool) -> impl Strategy<Value = Step> {
    let elsewhere = if is_alone { 0 } else { 4 };
    prop_oneof![
        10 => (0..3_u8).prop_map(|subject| Step::Append { subject }),
        elsewhere => (0..3_u8).prop_map(|subject| Step::AppendElsewhere { subject }),
        3 => Just(Step::Follow),
        2 => (1..5_usize).prop_map(|count| Step::LoseTail { count }),
        1 => (1..8_usize).prop_map(|steps| Step::RollBack { steps }),
        elsewhere / 4 => (0..20_usize).prop_map(|place| Step::Overwrite { place }),
        3 => Just(Step::Reconnect),
        1 => Just(Step::Restart),
    ]
}

/// What was answered for, in the order of sequences.
#[derive(Default)]
struct Acknowledged(Vec<Stored>);

async fn run(steps: Vec<Step>, is_alone: bool) {
    let log = Faithless::new();
    let mut node = Node::new(&log).await;
    let mut acknowledged = Acknowledged::default();
    let mut past = vec![Vec::new()];
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Append { subject } => {
                let (subject, bytes) = (format!("s.{subject}"), Bytes::from(format!("own {number}")));
                let Ok(last) = node.log.last(&subject).await else { continue };
                let outcome = node.log.append(&subject, Expect { subject: last, log: None }, bytes.clone()).await;
                if let Ok(Appended::Appended(sequence) | Appended::AlreadyAppended(sequence)) = outcome {
                    acknowledged.0.push(Stored { sequence, subject: subject.into(), bytes });
                }
            }
            Step::AppendElsewhere { subject } => {
                crate::records::append(&log, &format!("s.{subject}"), Bytes::from(format!("other {number}"))).await;
            }
            Step::Follow => {
                let head = log.head().await.unwrap();
                let _read = node.log.read_range(head, 10).await;
            }
            Step::LoseTail { count } => log.lose_tail(count).await,
            Step::RollBack { steps } => log.roll_back_to(past[past.len().saturating_sub(steps)].clone()),
            Step::Overwrite { place } => log.overwrite(Sequence(place as u64), Bytes::from(format!("changed {number}"))).await,
            Step::Reconnect => node.reconnect().await,
            Step::Restart => node = node.restart(&log).await,
        }
        past.push(log.records().await);
    }
    node.reconnect().await;
    node.log.compare().await;
    let settled = node.becomes(|health| matches!(health, Health::Trusted | Health::Refused { .. })).await;
    // A comparison that was under way may have been about the connection before.
    let settled = if node.log.compare().await == settled { settled } else { node.becomes(|health| *health != Health::Healing).await };
    match settled {
        Health::Trusted => {
            let records = log.records().await;
            for stored in &acknowledged.0 {
                assert_eq!(records.get(stored.sequence.0 as usize - 1), Some(stored), "lost in silence");
            }
            if is_alone {
                let known: Vec<_> = records.iter().filter(|stored| acknowledged.0.contains(stored)).cloned().collect();
                assert_eq!(known.len(), acknowledged.0.len());
                assert_eq!(root(&known), root(&sorted(acknowledged.0)));
            }
        }
        Health::Refused { evidence, .. } => assert!(evidence.join("report.json").exists(), "{}", evidence.display()),
        other => panic!("{other:?}"),
    }
}

fn sorted(mut records: Vec<Stored>) -> Vec<Stored> {
    records.sort_by_key(|stored| stored.sequence);
    records
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_writer(steps in proptest::collection::vec(step(true), 1..40)) {
        block_on(run(steps, true));
    }

    #[test]
    fn several_writers_and_a_disk_that_changes_records(steps in proptest::collection::vec(step(false), 1..40)) {
        block_on(run(steps, false));
    }
}

/// A disk that changes a record while nobody looks, right before a reconnect: found by chance, when the look came before the reconnect was heard of.
#[test]
fn what_a_disk_changed_before_a_reconnect_is_found_after_it() {
    use Step::{Append, AppendElsewhere, Follow, Overwrite, Reconnect};
    for _ in 0..20 {
        let steps = vec![
            AppendElsewhere { subject: 1 },
            Append { subject: 1 },
            Append { subject: 2 },
            Append { subject: 0 },
            Follow,
            Reconnect,
            AppendElsewhere { subject: 1 },
            Append { subject: 2 },
            AppendElsewhere { subject: 1 },
            Overwrite { place: 4 },
            AppendElsewhere { subject: 1 },
            Append { subject: 0 },
        ];
        block_on(run(steps, false));
    }
}
