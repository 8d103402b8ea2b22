//! What a node does on its own from time to time: destroys secrets whose time is over and orphans that no record refers to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use control::Clock;
use projector::ReadModels;
use schemas::CredentialId;
use tokio_util::sync::CancellationToken;
use vault::{Slot, Vault};

const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// An entry without a record may belong to a command that is still under way; after a day it does not.
const ORPHAN_SECONDS: u64 = 24 * 3600;

/// Sweeps the vault until the node stops. A sweep that fails is tried again at the next turn.
pub(super) async fn sweep_vault(vault: Arc<Vault>, models: ReadModels, clock: Clock, stop: CancellationToken) {
    let mut turns = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        let (vault, models, now) = (vault.clone(), models.clone(), clock());
        let swept = tokio::task::spawn_blocking(move || {
            let live = live_secrets(&models);
            Ok::<_, vault::StoreError>(vault.sweep_expired(now)? + vault.sweep(now, ORPHAN_SECONDS, |slot| is_kept(slot, &live))?)
        });
        match swept.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => tracing::info!(count, "secrets that nothing refers to were destroyed"),
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the vault could not be swept"),
        }
    }
}

/// The secrets of all upstreams that are there.
fn live_secrets(models: &ReadModels) -> HashSet<(CredentialId, u32)> {
    let routes = models.routes();
    routes
        .upstreams
        .iter()
        .filter_map(|route| route.credential.as_ref())
        .map(|credential| (credential.id, credential.secret_version))
        .collect()
}

/// Only secrets of credentials can be orphans; all else goes by its own time.
fn is_kept(slot: &Slot, live: &HashSet<(CredentialId, u32)>) -> bool {
    slot.owner_kind != "credential" || live.contains(&(CredentialId::from_bytes(slot.owner_id), slot.version))
}
