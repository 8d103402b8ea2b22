//! Records from one log into another, byte for byte, each where it stood.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use event_log::merkle::{Frontier, leaf_of_valid, leaf_of_void};
use event_log::{Appended, EventLog, Expect, Stored, append_resolving};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schemas::record::Frame;
use schemas::{Digest, Sequence};
use tokio::task::unconstrained;
use tokio::time::Instant;

/// Appends under way at once. Each expects the one before it, so an append that fails stops all that follow it.
const IN_FLIGHT_MAX: usize = 256;
/// Questions under way at once.
const QUESTIONS_MAX: usize = 32;
/// How long one record may take, elections included.
const RECORD_WAIT: Duration = Duration::from_secs(60);
/// How often the copying begins again where the target stands, without a record more than the time before.
const STALLS_MAX: u32 = 5;

/// Appends to a log in the order of another one.
pub(crate) struct Copier<'a> {
    to: &'a dyn EventLog,
    /// The last sequence on each subject so far: what the next append to it expects.
    last: HashMap<Arc<str>, Sequence>,
    head: Sequence,
    /// So many records of the target were not shown to this value: of their subjects the target itself is asked.
    unseen: Sequence,
}

impl<'a> Copier<'a> {
    /// A copier that has seen nothing yet.
    pub(crate) fn new(to: &'a dyn EventLog) -> Self {
        Self::beginning_at(to, Sequence::ZERO)
    }

    /// A copier to a target that is known to hold the first records of the source.
    pub(super) fn beginning_at(to: &'a dyn EventLog, head: Sequence) -> Self {
        Self { to, last: HashMap::new(), head, unseen: head }
    }

    /// How far the target holds what the source does.
    pub(crate) const fn head(&self) -> Sequence {
        self.head
    }

    /// Takes in records that both logs hold.
    pub(crate) fn agreed(&mut self, stored: &Stored) {
        self.last.insert(Arc::clone(&stored.subject), stored.sequence);
        self.head = stored.sequence;
    }

    /// Takes in a run of the source from its beginning on: what the target holds is compared, what it lacks is appended.
    pub(crate) async fn check_or_append(&mut self, run: &[Stored]) -> Result<()> {
        let mut rest = run;
        while let Some(first) = rest.first() {
            // A read gives so many at the most; a run may have more.
            let held = self.to.read_range(first.sequence, rest.len()).await?;
            for (ours, theirs) in rest.iter().zip(&held) {
                ensure!(ours == theirs, "the target log holds another record at sequence {}", ours.sequence);
                self.agreed(ours);
            }
            if held.is_empty() {
                break;
            }
            rest = &rest[held.len().min(rest.len())..];
        }
        self.append(rest).await
    }

    /// Appends a run of records that follows on what the target holds.
    pub(crate) async fn append(&mut self, run: &[Stored]) -> Result<()> {
        self.ask_unseen(run).await?;
        let mut rest = run;
        let mut stalls = 0;
        while !rest.is_empty() {
            let done = self.append_pipelined(rest).await?;
            rest = &rest[done..];
            stalls = if done == 0 { stalls + 1 } else { 0 };
            ensure!(stalls < STALLS_MAX, "record {} cannot be appended: something else writes to the target log", self.head.next());
        }
        Ok(())
    }

    /// Asks the target for the last sequences on subjects that it may have had before this value saw it.
    async fn ask_unseen(&mut self, run: &[Stored]) -> Result<()> {
        if self.unseen == Sequence::ZERO {
            return Ok(());
        }
        let (to, mut subjects) = (self.to, HashSet::new());
        let unknown =
            run.iter().map(|stored| &stored.subject).filter(|subject| !self.last.contains_key(*subject) && subjects.insert(*subject));
        let asked = unknown.map(|subject| async move { to.last(subject).await.map(|last| (Arc::clone(subject), last)) });
        let found: Vec<_> = stream::iter(asked).buffered(QUESTIONS_MAX).try_collect().await?;
        ensure!(found.iter().all(|(_, last)| *last <= self.head), "something else writes to the target log");
        self.last.extend(found);
        Ok(())
    }

    /// Sends many at once, each expecting the one before; gives how many of them stand.
    async fn append_pipelined(&mut self, run: &[Stored]) -> Result<usize> {
        let (to, mut last) = (self.to, self.last.clone_for(run));
        let deadline = Instant::now() + RECORD_WAIT;
        let appends = run.iter().map(|stored| {
            let subject_last = last.insert(Arc::clone(&stored.subject), stored.sequence).unwrap_or_default();
            let expect = Expect { subject: subject_last, log: Some(Sequence(stored.sequence.0 - 1)) };
            async move { append_resolving(to, &stored.subject, expect, stored.bytes.clone(), deadline).await }
        });
        let mut outcomes = stream::iter(appends).buffered(IN_FLIGHT_MAX);
        let mut done = 0;
        // The runtime ends a task's turn after so many steps and wakes what was left over in no order. Here each append would then come before
        // the one that it expects, be refused, asked about and sent again: without the limit a copy is several times faster.
        while let Some(outcome) = unconstrained(outcomes.next()).await {
            let stored = &run[done];
            match outcome? {
                Appended::Appended(sequence) | Appended::AlreadyAppended(sequence) => {
                    ensure!(sequence == stored.sequence, "record {} came to stand at sequence {sequence}", stored.sequence);
                    self.agreed(stored);
                    done += 1;
                }
                // One that was sent before it has not come through; the rest of the run is sent again from there.
                Appended::Conflict { .. } => break,
                Appended::Unknown => bail!("whether record {} was appended is not known; run the same command again", stored.sequence),
            }
        }
        Ok(done)
    }
}

/// The part of the subjects' last sequences that a run asks for.
trait CloneFor {
    fn clone_for(&self, run: &[Stored]) -> Self;
}

impl CloneFor for HashMap<Arc<str>, Sequence> {
    fn clone_for(&self, run: &[Stored]) -> Self {
        run.iter().filter_map(|stored| self.get_key_value(&stored.subject)).map(|(subject, last)| (Arc::clone(subject), *last)).collect()
    }
}

/// The records of a log from a sequence to another, one by one.
struct Records {
    runs: event_log::Batches,
    run: std::vec::IntoIter<Stored>,
    next: Sequence,
    last: Sequence,
}

impl Records {
    async fn read(log: &dyn EventLog, from: Sequence, last: Sequence) -> Result<Self> {
        Ok(Self { runs: log.read(from).await?, run: Vec::new().into_iter(), next: from, last })
    }

    async fn next(&mut self) -> Result<Option<Stored>> {
        if self.next > self.last {
            return Ok(None);
        }
        loop {
            if let Some(stored) = self.run.next() {
                self.next = stored.sequence.next();
                return Ok(Some(stored));
            }
            self.run = self.runs.try_next().await?.context("the log ended while it was read")?.into_iter();
        }
    }
}

/// Compares two logs byte for byte from behind a sequence up to another, which both have reached.
pub(super) async fn compare(
    from: &dyn EventLog,
    to: &dyn EventLog,
    after: Sequence,
    last: Sequence,
    mut same: impl FnMut(&Stored) -> Result<()>,
) -> Result<()> {
    let mut ours = Records::read(from, after.next(), last).await?;
    let mut theirs = Records::read(to, after.next(), last).await?;
    while let Some(stored) = ours.next().await? {
        let other = theirs.next().await?.context("the target log ends before its own head")?;
        ensure!(stored == other, "the target log holds another record at sequence {}", stored.sequence);
        same(&stored)?;
    }
    Ok(())
}

/// Runs of records of a log that follow on a sequence, up to its head.
pub(super) async fn runs_after(
    log: &dyn EventLog,
    after: Sequence,
    head: Sequence,
    mut each: impl AsyncFnMut(&[Stored]) -> Result<()>,
) -> Result<()> {
    let mut runs = log.read(after.next()).await?;
    let mut position = after;
    while position < head {
        let run = runs.try_next().await?.context("the log ended while it was read")?;
        let due = run.partition_point(|stored| stored.sequence <= head);
        each(&run[..due]).await?;
        position = Sequence(position.0 + due as u64);
    }
    Ok(())
}

/// The records that both logs were seen to hold, and their root.
pub(super) struct Compared<'a, F> {
    from: &'a dyn EventLog,
    to: &'a dyn EventLog,
    /// Tells of each sequence what it was judged.
    is_void: F,
    frontier: Frontier,
    head: Sequence,
}

impl<'a, F: Fn(Sequence) -> Result<bool>> Compared<'a, F> {
    /// Of two logs that are known to begin with the records of a tree.
    pub(super) fn new(from: &'a dyn EventLog, to: &'a dyn EventLog, is_void: F, frontier: Frontier) -> Self {
        let head = Sequence(frontier.size());
        Self { from, to, is_void, frontier, head }
    }

    /// Compares all that the target holds with the beginning of the source, which has so many records. A target that holds anything else is left
    /// alone.
    pub(super) async fn beginning(&mut self, source: Sequence, each: impl FnMut(&Stored)) -> Result<()> {
        let target = self.to.head().await?;
        ensure!(target <= source, "the target log has {target} records, the source only {source}: it is another log or has gone on since");
        self.up_to(target, each).await
    }

    /// Reads on in both logs up to a sequence that both have reached, and compares byte for byte.
    pub(super) async fn up_to(&mut self, last: Sequence, mut each: impl FnMut(&Stored)) -> Result<()> {
        let after = self.head;
        let (frontier, head, is_void) = (&mut self.frontier, &mut self.head, &self.is_void);
        compare(self.from, self.to, after, last, |stored| {
            frontier.push(leaf(stored, is_void)?);
            *head = stored.sequence;
            each(stored);
            Ok(())
        })
        .await
    }

    /// The Merkle root of what was compared.
    pub(super) fn root(&self) -> Digest {
        self.frontier.root()
    }
}

/// The tree over the first records of a log, from one over fewer of them on. `is_void` tells of each sequence what it was judged.
pub(super) async fn tree(
    log: &dyn EventLog,
    mut tree: Frontier,
    head: Sequence,
    is_void: impl Fn(Sequence) -> Result<bool>,
) -> Result<Frontier> {
    runs_after(log, Sequence(tree.size()), head, async |run| {
        for stored in run {
            tree.push(leaf(stored, &is_void)?);
        }
        Ok(())
    })
    .await?;
    Ok(tree)
}

pub(super) fn leaf(stored: &Stored, is_void: impl Fn(Sequence) -> Result<bool>) -> Result<[u8; 32]> {
    Ok(match Frame::parse(&stored.bytes) {
        Ok(frame) if !is_void(stored.sequence)? => leaf_of_valid(&frame),
        _ => leaf_of_void(&stored.subject, &stored.bytes),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

    use bytes::Bytes;
    use event_log::{EmbeddedLog, MemoryLog};

    use super::*;

    async fn filled(count: u64) -> MemoryLog {
        let log = MemoryLog::new();
        for n in 0..count {
            let subject = format!("s.{}", n % 7);
            let expect = Expect { subject: log.last(&subject).await.unwrap(), log: None };
            assert!(matches!(log.append(&subject, expect, Bytes::from(n.to_string())).await, Ok(Appended::Appended(_))));
        }
        log
    }

    async fn copy(from: &MemoryLog, to: &MemoryLog) -> Result<Digest> {
        let head = from.head().await?;
        let mut copier = Copier::new(to);
        let mut compared = Compared::new(from, to, |_| Ok(false), Frontier::default());
        compared.beginning(head, |stored| copier.agreed(stored)).await?;
        runs_after(from, copier.head(), head, async |run| copier.append(run).await).await?;
        compared.up_to(head, |_| {}).await?;
        Ok(compared.root())
    }

    #[tokio::test]
    async fn a_copy_has_the_same_records_and_goes_on_where_it_was_cut_off() {
        let (from, to) = (filled(1000).await, filled(300).await);
        let root = copy(&from, &to).await.unwrap();
        assert_eq!(copy(&from, &to).await.unwrap(), root);
        let (a, b) = (from.read_range(Sequence(1), 1000).await.unwrap(), to.read_range(Sequence(1), 1000).await.unwrap());
        assert_eq!(a, b);
        assert_eq!(copy(&from, &MemoryLog::new()).await.unwrap(), root, "copied in one piece");
    }

    #[tokio::test]
    async fn records_reach_a_log_in_their_order_however_many_are_under_way() {
        let (from, directory) = (filled(1000).await, tempfile::tempdir().unwrap());
        let to = EmbeddedLog::open(directory.path()).unwrap();
        let run = from.read_range(Sequence(1), 1000).await.unwrap();
        assert_eq!(Copier::new(&to).append_pipelined(&run).await.unwrap(), 1000, "an append came before the one that it expects");
        assert_eq!(to.read_range(Sequence(1), 1000).await.unwrap(), run);
        to.close().await;
    }

    #[tokio::test]
    async fn a_copy_goes_on_behind_records_that_it_was_not_shown() {
        let (from, to) = (filled(1000).await, filled(300).await);
        let run = from.read_range(Sequence(301), 700).await.unwrap();
        let mut copier = Copier::beginning_at(&to, Sequence(300));
        for part in run.chunks(100) {
            copier.append(part).await.unwrap();
        }
        assert_eq!(to.read_range(Sequence(1), 1000).await.unwrap(), from.read_range(Sequence(1), 1000).await.unwrap());
        // Of another length than it was said to have, it is not written to.
        let other = filled(301).await;
        let refused = Copier::beginning_at(&other, Sequence(300)).append(&run).await.unwrap_err().to_string();
        assert!(refused.contains("something else writes"), "{refused}");
        assert_eq!(other.head().await.unwrap(), Sequence(301));
    }

    #[tokio::test]
    async fn another_log_is_left_alone() {
        let from = filled(10).await;
        let to = filled(5).await;
        assert!(matches!(
            to.append("else", Expect { subject: Sequence::ZERO, log: None }, Bytes::from("x")).await,
            Ok(Appended::Appended(_))
        ));
        let refused = copy(&from, &to).await.unwrap_err().to_string();
        assert!(refused.contains("sequence 6"), "{refused}");
        assert_eq!(to.head().await.unwrap(), Sequence(6));
        let longer = filled(20).await;
        assert!(copy(&from, &longer).await.is_err());
    }
}
