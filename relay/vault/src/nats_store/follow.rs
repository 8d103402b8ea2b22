//! Following the bucket into the mirror.
//!
//! One turn lasts from a connection to the next trouble: the whole bucket is read into the mirror, both are compared, what the bucket lost
//! is healed, and then every change is taken over. A gap, silence, a new connection, a bucket that stands behind what was already read, or
//! a day: each ends the turn, and the next begins with everything.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::{self, JoinHandle};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::bucket::{Away, Bucket, MARKER_LIFETIME, PrepareError};
use super::entry_key::EntryKey;
use super::feed::{Batch, Feed};
use super::mirror::{Known, Seen};
use super::{Shared, heal};
use crate::cluster_secrets;
use crate::key_store::{Entry, StoreError};

/// Before another turn, so that trouble does not keep a core busy.
const TURN_PAUSE: Duration = Duration::from_millis(250);
/// Before another turn where it takes an operator.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// How often the connection is looked at, and old files are scrubbed of what was deleted.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often the leader is asked whether the bucket stands where the mirror does.
const COMPARE_INTERVAL: Duration = Duration::from_secs(2);
/// Whole comparisons at least this often, even without any trouble.
const TURN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Deletions are scrubbed together: each time rewrites files.
const SCRUB_INTERVAL: Duration = Duration::from_secs(1);
const LEVEL_NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// Why a turn ended.
#[derive(Debug, thiserror::Error)]
enum TurnEnd {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("the mirror belongs to another cluster than the bucket: their peppers differ; nothing is taken over and nothing put back")]
    Foreign,
    #[error(transparent)]
    Away(#[from] Away),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the bucket is at revision {last}, the mirror at {followed}")]
    OutOfStep { last: u64, followed: u64 },
    #[error("the connection was lost")]
    Disconnected,
    #[error("it is time to compare everything")]
    Due,
}

/// Follows for as long as it is polled.
pub(super) async fn follow(shared: &Arc<Shared>) {
    let bucket = &shared.bucket;
    loop {
        while !bucket.is_connected() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        let end = Turn::new(shared).run().await;
        shared.progress.lost_touch();
        let pause = match &end {
            TurnEnd::Prepare(PrepareError::Differs { .. }) | TurnEnd::Foreign => {
                shared.progress.refused();
                tracing::error!(error = &end as &dyn Error, "the key store's bucket is not followed");
                REFUSED_PAUSE
            }
            TurnEnd::Store(_) => {
                tracing::error!(error = &end as &dyn Error, "the key store's bucket cannot be followed");
                REFUSED_PAUSE
            }
            TurnEnd::Prepare(PrepareError::Away(_))
            | TurnEnd::Away(_)
            | TurnEnd::OutOfStep { .. }
            | TurnEnd::Disconnected
            | TurnEnd::Due => {
                tracing::info!(error = &end as &dyn Error, "the key store's bucket is compared with the mirror anew");
                TURN_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

struct Turn<'a> {
    shared: &'a Arc<Shared>,
    bucket: &'a Bucket,
    /// What was met, until everything was.
    seen: Option<Seen>,
    followed: u64,
    /// What the bucket has to be healed of.
    behind: Vec<EntryKey>,
    healing: Option<JoinHandle<Result<(), StoreError>>>,
    /// Ends what this turn began.
    stop: CancellationToken,
    scrubbed_at: Instant,
    compared: Compared,
    noted_at: Option<Instant>,
}

/// What the leader held when it was last asked, and how far the mirror was.
struct Compared {
    at: Instant,
    last: u64,
    followed: u64,
}

impl<'a> Turn<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            bucket: &shared.bucket,
            seen: Some(Seen::default()),
            followed: 0,
            behind: Vec::new(),
            healing: None,
            stop: CancellationToken::new(),
            scrubbed_at: now,
            compared: Compared { at: now, last: 0, followed: 0 },
            noted_at: None,
        }
    }

    async fn run(mut self) -> TurnEnd {
        let _stop = self.stop.clone().drop_guard();
        match self.follow().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, TurnEnd> {
        let (connects, begun) = (self.bucket.connects(), Instant::now());
        self.bucket.prepare().await?;
        self.assert_own().await?;
        let all = self.bucket.last().await?;
        let mut feed = Feed::start(self.bucket).await?;
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.level(all).await?;
            self.begin_healing();
            tokio::select! {
                // First what came in, so that a mirror that was slow to write does not take the server for silent.
                biased;
                batch = feed.next() => {
                    let mut batch = batch?;
                    self.take_over(&mut batch).await?;
                    feed.acknowledge(&mut batch).await?;
                }
                healed = finished(&mut self.healing) => {
                    self.healing = None;
                    match healed {
                        Err(StoreError::Unavailable { reason }) => return Err(Away(reason).into()),
                        healed => healed?,
                    }
                }
                _ = looks.tick() => {
                    if !self.bucket.is_connected() || self.bucket.connects() != connects {
                        return Err(TurnEnd::Disconnected);
                    }
                    if begun.elapsed() > TURN_MAX {
                        return Err(TurnEnd::Due);
                    }
                }
            }
            self.look().await?;
        }
    }

    /// A mirror of another cluster would fill this one's bucket. The pepper is every store's first secret and never changes.
    async fn assert_own(&self) -> Result<(), TurnEnd> {
        let key = EntryKey::new(&cluster_secrets::pepper_slot(), Entry::Sealed);
        let Some(content) = self.bucket.get(&key).await?.and_then(|state| state.content) else { return Ok(()) };
        match self.shared.mirror.known(&key)? {
            Known::Live(held) if held != content => Err(TurnEnd::Foreign),
            Known::Live(_) | Known::Deleted | Known::Nothing => Ok(()),
        }
    }

    async fn take_over(&mut self, batch: &mut Batch) -> Result<(), TurnEnd> {
        let Some(revision) = batch.revision else { return Ok(()) };
        let states = std::mem::take(&mut batch.states);
        if let Some(seen) = &mut self.seen {
            states.iter().for_each(|(key, _)| seen.insert(key));
        }
        let shared = Arc::clone(self.shared);
        self.behind.extend(off_executor(move || shared.mirror.adopt_all(&states)).await?);
        self.followed = revision;
        if self.seen.is_none() {
            self.shared.progress.followed(revision);
        }
        Ok(())
    }

    /// Compares, once everything that the bucket held at the beginning has been met.
    async fn level(&mut self, all: u64) -> Result<(), TurnEnd> {
        if self.followed < all {
            return Ok(());
        }
        let Some(seen) = self.seen.take() else { return Ok(()) };
        let shared = Arc::clone(self.shared);
        let lost = off_executor(move || compare(&shared, &seen)).await?;
        self.behind.extend(lost);
        self.shared.progress.followed(self.followed);
        tracing::debug!(revision = self.followed, behind = self.behind.len(), "the mirror of the key store is level with the bucket");
        Ok(())
    }

    fn begin_healing(&mut self) {
        if self.seen.is_none() && self.healing.is_none() && !self.behind.is_empty() {
            let (shared, stop, keys) = (Arc::clone(self.shared), self.stop.clone(), std::mem::take(&mut self.behind));
            self.healing = Some(task::spawn_blocking(move || heal::heal_all(&shared, &keys, &stop)));
        }
    }

    /// What is due from time to time.
    async fn look(&mut self) -> Result<(), TurnEnd> {
        if self.scrubbed_at.elapsed() > SCRUB_INTERVAL && !self.shared.mirror.is_scrubbed() {
            let shared = Arc::clone(self.shared);
            off_executor(move || shared.mirror.scrub_deleted()).await?;
            self.scrubbed_at = Instant::now();
        }
        if self.seen.is_some() {
            return Ok(());
        }
        if self.compared.at.elapsed() > COMPARE_INTERVAL {
            let (before, followed, last) = (&self.compared, self.followed, self.bucket.last().await?);
            // What is written now may be on its way; what was there at the last look is not, if nothing at all has come since.
            let is_stuck = followed == before.followed && followed < before.last;
            if last < followed || is_stuck {
                return Err(TurnEnd::OutOfStep { last, followed });
            }
            self.compared = Compared { at: Instant::now(), last, followed };
        }
        if self.noted_at.is_none_or(|noted| noted.elapsed() > LEVEL_NOTE_INTERVAL) {
            let shared = Arc::clone(self.shared);
            off_executor(move || shared.mirror.set_level_at(now().as_secs())).await?;
            self.noted_at = Some(Instant::now());
        }
        Ok(())
    }
}

/// What the bucket lost. A mirror that was away for longer than markers are kept cannot tell lost from erased, and drops it; not so if the
/// bucket is empty, for nobody erases everything.
fn compare(shared: &Shared, seen: &Seen) -> Result<Vec<EntryKey>, StoreError> {
    let (now, mirror) = (now(), &shared.mirror);
    let is_outdated = mirror.level_at()?.is_some_and(|at| at + MARKER_LIFETIME.as_secs() < now.as_secs());
    if is_outdated && !seen.is_empty() {
        let dropped = mirror.drop_lost(seen)?;
        tracing::warn!(dropped, "the mirror of the key store was away for so long that what it alone holds is dropped");
    }
    let forget_before = now.saturating_sub(MARKER_LIFETIME).as_nanos();
    mirror.lost(seen, u64::try_from(forget_before).unwrap_or(u64::MAX))
}

#[expect(
    clippy::disallowed_methods,
    reason = "both ends of a mirror's absence are read from the clock of its own node, here and nowhere else"
)]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

async fn finished(healing: &mut Option<JoinHandle<Result<(), StoreError>>>) -> Result<(), StoreError> {
    match healing {
        Some(running) => match running.await {
            Ok(healed) => healed,
            Err(error) => Err(StoreError::Engine { operation: "put back what was lost", source: Box::new(error) }),
        },
        None => std::future::pending().await,
    }
}

/// Runs what waits for the disk.
async fn off_executor<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    match task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StoreError::Engine { operation: "follow the bucket", source: Box::new(error) }),
    }
}
