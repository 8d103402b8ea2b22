//! A node's side of a change of the root key: it takes a root key that was announced when it is given one, wraps under the active one, forgets
//! what was destroyed, and wraps data keys again that lie under an older one.
//!
//! The log says which root key is in which state; files, a credential or the environment give the keys themselves; the registry tells the
//! others which of them this node has. Re-wrapping is done by one node at a time, by lease, and goes on after a crash: every entry says under which
//! root key it lies. Requests never wait for it: what lies under an older root key opens under that one until it is destroyed.

mod place;
mod rewrapping;

use std::sync::Arc;
use std::time::Duration;

use coordination::Coordination;
use projector::ReadModels;
use schemas::cluster::Cluster;
use schemas::{Aggregate, Digest, Stream};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use vault::{RootKeyVersion, Vault};

use crate::founding::{FoundingError, Sources};
pub use rewrapping::{Rewrapping, RewrappingState};

/// How often it is looked for a root key that is announced and not there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What it takes to keep a node's root keys as the log says.
pub struct RootKeyWatchParts {
    /// Looked into again when a root key is announced.
    pub sources: Sources,
    pub vault: Arc<Vault>,
    pub models: ReadModels,
    pub coordination: Arc<dyn Coordination>,
}

/// Keeps a node's root keys as the log says, and re-wraps. Cheap to clone.
#[derive(Clone)]
pub struct RootKeyWatch {
    parts: Arc<RootKeyWatchParts>,
    /// The root keys of the log that this node has. Written by [`RootKeyWatch::run`].
    held: watch::Sender<Arc<[Digest]>>,
    /// How the last re-wrap on this node went. Written by [`RootKeyWatch::run`].
    rewrapping: watch::Sender<Rewrapping>,
    /// Told when a re-wrap is to be made again, though one was finished.
    again: Arc<Notify>,
}

/// Why a node's root keys are not as the log says.
#[derive(Debug, Error)]
enum SettleError {
    #[error("the read models cannot be read")]
    Read(#[from] projector::ReadError),
    #[error("a root key that this node is given cannot be read")]
    Sources(#[from] FoundingError),
    #[error(transparent)]
    NotHeld(#[from] vault::NotHeld),
}

impl RootKeyWatch {
    pub fn new(parts: RootKeyWatchParts) -> Self {
        let (held, rewrapping) = (watch::Sender::new(Arc::default()), watch::Sender::new(Rewrapping::default()));
        Self { parts: Arc::new(parts), held, rewrapping, again: Arc::default() }
    }

    /// The root keys of the log that this node has, for the registry.
    pub fn held(&self) -> watch::Receiver<Arc<[Digest]>> {
        self.held.subscribe()
    }

    /// How the last re-wrap on this node went, or goes.
    pub fn rewrapping(&self) -> watch::Receiver<Rewrapping> {
        self.rewrapping.subscribe()
    }

    /// Whether this node was given a root key, whatever the log says of it. Blocks on files.
    pub(crate) fn is_given(&self, commitment: &Digest) -> bool {
        let is_held = self.parts.vault.holds_root_key(RootKeyVersion::of(commitment));
        is_held || self.parts.sources.root_keys().is_ok_and(|keys| keys.iter().any(|key| key.commitment() == *commitment))
    }

    /// Has all data keys looked at again, though a re-wrap was finished.
    pub(crate) fn rewrap_again(&self) {
        self.again.notify_one();
    }

    /// Follows the log until the node stops. Begun when the read models have caught up: what they have not folded yet would look like the
    /// present.
    pub async fn run(self, stop: CancellationToken) {
        let rewrapper = self.clone().rewrap_as_needed(stop.clone());
        tokio::join!(self.follow(stop), rewrapper);
    }

    async fn follow(self, stop: CancellationToken) {
        let (mut applied, mut failed) = (self.parts.models.subscribe(), false);
        loop {
            applied.mark_unchanged();
            let watch = self.clone();
            let settled = tokio::task::spawn_blocking(move || watch.settle()).await;
            let is_whole = match settled {
                Ok(Ok(is_whole)) => {
                    failed = false;
                    is_whole
                }
                Ok(Err(error)) => {
                    // Told once: it is tried again every second.
                    if !failed {
                        tracing::error!(error = &error as &dyn std::error::Error, "this node's root keys are not as the log says");
                    }
                    failed = true;
                    false
                }
                Err(_) => false,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = applied.changed() => {}
                () = tokio::time::sleep(LOOK_INTERVAL), if !is_whole => {}
            }
        }
    }

    /// Brings the vault's root keys to what the log says. False where one is wanted that this node was not given yet. Blocks on files.
    fn settle(&self) -> Result<bool, SettleError> {
        let Some(cluster) = self.cluster()? else { return Ok(true) };
        let (vault, keys) = (&self.parts.vault, &cluster.root_keys);
        let is_held = |commitment: &Digest| vault.holds_root_key(RootKeyVersion::of(commitment));
        if !keys.held.iter().all(|key| is_held(&key.commitment)) {
            for key in self.parts.sources.root_keys()?.iter().filter(|key| keys.get(&key.commitment()).is_some()) {
                if !vault.holds_root_key(key.version()) {
                    tracing::info!(root_key = %key.version(), "this node has a root key that the log speaks of");
                    vault.hold_root_key(key);
                }
            }
        }
        let held: Arc<[Digest]> = keys.held.iter().map(|key| key.commitment).filter(is_held).collect();
        let is_whole = held.len() == keys.held.len();
        let active = RootKeyVersion::of(&keys.active().commitment);
        if vault.root_key_version() != active {
            vault.activate_root_key(active)?;
            tracing::warn!(root_key = %active, "data keys are wrapped under another root key from now on");
        }
        keys.destroyed.iter().for_each(|commitment| vault.forget_root_key(RootKeyVersion::of(commitment)));
        if self.parts.sources.settle_root_key_files(&cluster)? {
            tracing::warn!(root_key = %active, "root.key in the data directory is the new root key now");
        }
        // Told last: what is told is in effect.
        self.held.send_if_modified(|told| {
            let is_news = *told != held;
            *told = held;
            is_news
        });
        Ok(is_whole)
    }

    fn cluster(&self) -> Result<Option<Cluster>, projector::ReadError> {
        Ok(match self.parts.models.load(&Stream::CLUSTER)?.0 {
            Some(Aggregate::Cluster(cluster)) => Some(cluster),
            _ => None,
        })
    }
}
