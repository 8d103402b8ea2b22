//! Wrapping all data keys again, in the background: page by page, no more than half of the time, with a scan at the end that opens every one.

use std::time::Duration;

use schemas::Digest;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vault::{RewrapError, RootKeyVersion, StoreError};

use super::RootKeyWatch;
use super::place::{Place, PlaceFile, Stage};

const LEASE: &str = "root-key-rewrap";
/// Extended as the work goes on.
const LEASE_TTL: Duration = Duration::from_secs(30);
const LEASE_EXTEND: Duration = Duration::from_secs(5);
/// How often a node looks whether a re-wrap is to be made, or whether another node still makes it.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often a re-wrap keeps where it is.
const KEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How often all are gone through while others go on writing under an older root key, until this is given up for now.
const PASSES_MAX: u32 = 10;

/// How far a re-wrap has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RewrappingState {
    /// There was nothing to do since the node started.
    #[default]
    Idle,
    /// Another node does it.
    Elsewhere,
    Rewrapping,
    /// Every data key is opened and held against its secret.
    Verifying,
    /// All data keys lie under the active root key, and every one opened; those that are damaged were so before.
    Done,
    Failed,
}

/// A re-wrap as this node makes it.
#[derive(Debug, Clone, Default)]
pub struct Rewrapping {
    pub state: RewrappingState,
    /// The root key that data keys come to lie under; none before the first re-wrap.
    pub root_key: Option<Digest>,
    /// Data keys there were at its beginning.
    pub total: u64,
    /// Looked at in the pass that is under way.
    pub seen: u64,
    /// Wrapped again since the node started on it.
    pub rewrapped: u64,
    /// As the last whole scan found them.
    pub damaged: u64,
    pub unheld: u64,
    /// Where the first of these lie: `<tenant>/<kind>/<id>/<field>/<version>`.
    pub at_fault: Vec<String>,
    /// Why it failed; it is tried again.
    pub reason: Option<String>,
    pub elapsed: Duration,
}

/// Why a re-wrap did not come to its end. The next try goes on where it was.
#[derive(Debug, Error)]
enum PassError {
    #[error("another node has taken it over, or cannot be asked")]
    LeaseLost,
    #[error("the node is stopping")]
    Stopping,
    #[error("the key store cannot be re-wrapped")]
    Rewrap(#[from] RewrapError),
    #[error("a task ended early")]
    Task(#[from] tokio::task::JoinError),
    #[error("{0} data keys lie under a root key that this node does not have")]
    Unheld(u64),
    #[error("others keep writing under an older root key")]
    Overtaken,
}

impl RootKeyWatch {
    pub(super) async fn rewrap_as_needed(self, stop: CancellationToken) {
        let mut applied = self.parts.models.subscribe();
        // The active root key that everything lies under, as far as this node knows.
        let mut done: Option<Digest> = None;
        loop {
            if let Some(active) = self.wanted().filter(|active| done != Some(*active) && self.is_active(active)) {
                match self.parts.coordination.lease(LEASE, LEASE_TTL).await {
                    Ok(Some(_)) => {
                        let begun = Instant::now();
                        match self.rewrap_all(active, begun, &stop).await {
                            Ok(()) => done = Some(active),
                            Err(PassError::Stopping) => {}
                            Err(error) => self.failed(&error, begun),
                        }
                        // Whether it is heard or not: a lease ends by its time.
                        self.parts.coordination.release(LEASE).await.ok();
                    }
                    Ok(None) => self.tell(|told| told.state = RewrappingState::Elsewhere),
                    Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "no lease for a re-wrap"),
                }
            }
            applied.mark_unchanged();
            let is_pending = self.wanted().is_some_and(|active| done != Some(active));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.again.notified() => done = None,
                Ok(()) = applied.changed() => {}
                () = tokio::time::sleep(LOOK_INTERVAL), if is_pending => {}
            }
        }
    }

    /// The active root key, where data keys may lie under another.
    fn wanted(&self) -> Option<Digest> {
        let cluster = self.cluster().ok().flatten()?;
        let active = cluster.root_keys.active().commitment;
        let has_older = cluster.root_keys.decrypt_only().next().is_some();
        has_older.then_some(active)
    }

    /// Whether this node wraps under a root key already; it is asked again soon where it does not yet.
    fn is_active(&self, root_key: &Digest) -> bool {
        self.parts.vault.root_key_version() == RootKeyVersion::of(root_key)
    }

    async fn rewrap_all(&self, active: Digest, begun: Instant, stop: &CancellationToken) -> Result<(), PassError> {
        let (vault, data) = (self.parts.vault.clone(), self.parts.sources.data.clone());
        let resumed = tokio::task::spawn_blocking(move || match PlaceFile::of(&data).read(&active) {
            Some(place) => Ok(place),
            None => Ok(Place::beginning(active, Stage::Rewrapping, vault.count_wrapped()?.values().sum())),
        });
        let mut place: Place = resumed.await?.map_err(|error: StoreError| RewrapError::from(error))?;
        tracing::info!(total = place.total, seen = place.seen, "data keys are wrapped again");
        self.rewrapping.send_replace(Rewrapping { root_key: Some(active), total: place.total, ..Rewrapping::default() });
        for _ in 0..PASSES_MAX {
            if place.stage == Stage::Rewrapping {
                place = self.pass(place, begun, stop).await?.turned(Stage::Verifying);
            }
            place = self.pass(place, begun, stop).await?;
            let scan = &place;
            if scan.unheld > 0 {
                self.forget_place();
                return Err(PassError::Unheld(scan.unheld));
            }
            if scan.rewrapped == 0 {
                let rewrapped = self.rewrapping.borrow().rewrapped;
                if scan.damaged > 0 {
                    tracing::error!(damaged = scan.damaged, "data keys do not open: the key store was changed from outside");
                }
                tracing::info!(
                    rewrapped,
                    verified = scan.seen,
                    elapsed_ms = begun.elapsed().as_millis() as u64,
                    "all data keys lie under the active root key"
                );
                self.forget_place();
                self.tell(|told| (told.state, told.elapsed, told.reason) = (RewrappingState::Done, begun.elapsed(), None));
                return Ok(());
            }
            place = place.turned(Stage::Rewrapping);
        }
        self.forget_place();
        Err(PassError::Overtaken)
    }

    /// Goes through all data keys that a pass has not seen yet. Rests as long as it works, so that requests find the disk and the cores.
    async fn pass(&self, mut place: Place, begun: Instant, stop: &CancellationToken) -> Result<Place, PassError> {
        let (mut extended, mut kept, mut rest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let before = self.rewrapping.borrow().rewrapped;
        let mut rewrapped = 0;
        loop {
            if stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                return Err(PassError::Stopping);
            }
            if extended.elapsed() >= LEASE_EXTEND {
                match self.parts.coordination.lease(LEASE, LEASE_TTL).await {
                    Ok(Some(_)) => extended = Instant::now(),
                    Ok(None) | Err(_) => return Err(PassError::LeaseLost),
                }
            }
            let (vault, data, worked, is_due) =
                (self.parts.vault.clone(), self.parts.sources.data.clone(), Instant::now(), kept.elapsed() >= KEEP_INTERVAL);
            let page = tokio::task::spawn_blocking(move || {
                let (is_end, part) = place.go_on(&vault)?;
                if is_due && let Err(error) = PlaceFile::of(&data).write(&place) {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the place of a re-wrap was not kept");
                }
                Ok::<_, RewrapError>((place, is_end, part))
            });
            let (went, is_end, part) = page.await??;
            place = went;
            rewrapped += part;
            if is_due {
                kept = Instant::now();
            }
            // What was done before a crash is passed over quickly.
            let is_passed_over = place.stage == Stage::Rewrapping && part == 0;
            rest = if is_passed_over { Duration::ZERO } else { worked.elapsed() };
            self.tell(|told| {
                (told.seen, told.elapsed) = (place.seen, begun.elapsed());
                match place.stage {
                    Stage::Rewrapping => (told.state, told.rewrapped) = (RewrappingState::Rewrapping, before + rewrapped),
                    Stage::Verifying => told.state = RewrappingState::Verifying,
                }
            });
            if is_end {
                break;
            }
        }
        self.tell(|told| {
            (told.damaged, told.unheld) = (place.damaged, place.unheld);
            told.at_fault.clone_from(&place.at_fault);
        });
        Ok(place)
    }

    /// The next re-wrap begins at the first data key.
    fn forget_place(&self) {
        if let Err(error) = PlaceFile::of(&self.parts.sources.data).remove() {
            tracing::warn!(error = &error as &dyn std::error::Error, "the place of a re-wrap that is over cannot be removed");
        }
    }

    fn failed(&self, error: &PassError, begun: Instant) {
        tracing::warn!(error = error as &dyn std::error::Error, "data keys were wrapped again in part; the next try goes on");
        self.tell(|told| {
            (told.state, told.elapsed) = (RewrappingState::Failed, begun.elapsed());
            told.reason = Some(error.to_string());
        });
    }

    fn tell(&self, change: impl FnOnce(&mut Rewrapping)) {
        self.rewrapping.send_modify(change);
    }
}
