//! Wrapping all data keys again, in the background: page by page, no more than half of the time, with a scan at the end that opens every one.

use std::time::Duration;

use schemas::Digest;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vault::{Rewrap, RewrapError, RootKeyVersion, Slot};

use super::RootKeyWatch;

const LEASE: &str = "root-key-rewrap";
/// Extended as the work goes on.
const LEASE_TTL: Duration = Duration::from_secs(30);
const LEASE_EXTEND: Duration = Duration::from_secs(5);
/// How often a node looks whether a re-wrap is to be made, or whether another node still makes it.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Data keys of one write to the store.
const PAGE: usize = 512;
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
        let vault = self.parts.vault.clone();
        let counts = tokio::task::spawn_blocking(move || vault.count_wrapped()).await?.map_err(RewrapError::from)?;
        let total = counts.values().sum();
        tracing::info!(total, "data keys are wrapped again");
        self.rewrapping.send_replace(Rewrapping {
            state: RewrappingState::Rewrapping,
            root_key: Some(active),
            total,
            ..Rewrapping::default()
        });
        for _ in 0..PASSES_MAX {
            self.pass(RewrappingState::Rewrapping, begun, stop).await?;
            let scan = self.pass(RewrappingState::Verifying, begun, stop).await?;
            if scan.unheld > 0 {
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
                self.tell(|told| (told.state, told.elapsed, told.reason) = (RewrappingState::Done, begun.elapsed(), None));
                return Ok(());
            }
        }
        Err(PassError::Overtaken)
    }

    /// Goes through all data keys once. Rests as long as it works, so that requests find the disk and the cores.
    async fn pass(&self, state: RewrappingState, begun: Instant, stop: &CancellationToken) -> Result<Rewrap, PassError> {
        let (mut whole, mut after) = (Rewrap::default(), None::<Slot>);
        let (mut extended, mut rest) = (Instant::now(), Duration::ZERO);
        let before = self.rewrapping.borrow().rewrapped;
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
            let (vault, from, worked) = (self.parts.vault.clone(), after.take(), Instant::now());
            let page = tokio::task::spawn_blocking(move || match state {
                RewrappingState::Verifying => vault.verify_wrapped(from.as_ref(), PAGE).map_err(RewrapError::from),
                _ => vault.rewrap(from.as_ref(), PAGE),
            });
            let (part, next) = page.await??;
            // What was done before a crash is passed over quickly.
            let is_passed_over = state == RewrappingState::Rewrapping && part.rewrapped == 0;
            rest = if is_passed_over { Duration::ZERO } else { worked.elapsed() };
            whole.add(part);
            self.tell(|told| {
                (told.state, told.seen, told.elapsed) = (state, whole.seen, begun.elapsed());
                if state == RewrappingState::Rewrapping {
                    told.rewrapped = before + whole.rewrapped;
                }
            });
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.tell(|told| {
            (told.damaged, told.unheld) = (whole.damaged, whole.unheld);
            told.at_fault = whole.at_fault.iter().map(spell).collect();
        });
        Ok(whole)
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

/// A slot as people read it.
pub(crate) fn spell(slot: &Slot) -> String {
    let id: String = slot.owner_id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}/{}/{id}/{}/{}", slot.tenant.as_str(), slot.owner_kind, slot.field, slot.version)
}
