//! Many writers at once.

use event_log::Appended;
use schemas::Sequence;

use crate::backend::Backend;
use crate::records::{SUBJECT, bytes, fill, last};

pub(crate) async fn of_64_contenders_one_wins_each_version(backend: &Backend) {
    let log = backend.open().await;
    let mut subject_last = 0;
    for version in 0..10 {
        let contenders: Vec<_> = (0..64)
            .map(|contender| {
                let log = log.clone();
                let record = bytes(format!("{version} by {contender}"));
                tokio::spawn(async move { log.append(SUBJECT, last(subject_last), record).await.unwrap() })
            })
            .collect();
        let mut winners = Vec::new();
        for (contender, task) in contenders.into_iter().enumerate() {
            match task.await.unwrap() {
                Appended::Appended(sequence) => winners.push((contender, sequence)),
                Appended::Conflict { subject_last: found, log_last: None } => assert_eq!(found, Sequence(subject_last + 1)),
                other => panic!("{other:?}"),
            }
        }
        let [(winner, sequence)] = winners[..] else { panic!("{} winners of version {version}", winners.len()) };
        let stored = &log.read_range(sequence, 1).await.unwrap()[0];
        assert_eq!(stored.bytes, format!("{version} by {winner}"));
        subject_last = sequence.0;
    }
    assert_eq!(log.head().await, Ok(Sequence(10)));
}

pub(crate) async fn appends_to_many_subjects_do_not_meet(backend: &Backend) {
    let log = backend.open().await;
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let log = log.clone();
            tokio::spawn(async move { fill(log.as_ref(), &format!("kr.e.subject.{writer}"), 20).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(log.head().await, Ok(Sequence(64 * 20)));
    for writer in 0..64 {
        let records = log.read_subject(&format!("kr.e.subject.{writer}"), Sequence::ZERO, 100).await.unwrap();
        let texts: Vec<_> = records.iter().map(|stored| stored.bytes.clone()).collect();
        assert_eq!(texts, (0..20).map(|n| bytes(n.to_string())).collect::<Vec<_>>());
    }
}
