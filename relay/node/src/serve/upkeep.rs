//! What a node does on its own from time to time: destroys secrets whose time is over and orphans that no record refers to.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use control::Clock;
use projector::{ReadError, ReadModels};
use schemas::{Aggregate, CredentialId, Stream, Timestamp};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use vault::{Slot, Vault};

const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// An entry without a record may belong to a command that is still under way; after a day it does not.
const ORPHAN_SECONDS: u64 = 24 * 3600;

/// Sweeps the vault until the node stops, from when the read models have caught up: what they have not folded yet would look like
/// nothing refers to it. A sweep that fails, or finds the read models behind, is tried again at the next turn.
pub(super) async fn sweep_vault(vault: Arc<Vault>, models: ReadModels, clock: Clock, stop: CancellationToken) {
    let mut turns = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        let (vault, models, now) = (vault.clone(), models.clone(), clock());
        let swept = tokio::task::spawn_blocking(move || sweep(&vault, &models, now));
        match swept.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => tracing::info!(count, "secrets that nothing refers to were destroyed"),
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the vault could not be swept"),
        }
    }
}

/// Why a sweep did not come to its end.
#[derive(Debug, Error)]
enum SweepError {
    #[error("the read models cannot be read")]
    Read(#[from] ReadError),
    #[error("the key store cannot be swept")]
    Store(#[from] vault::StoreError),
}

/// Destroys what has expired and what no record refers to; gives how many secrets.
fn sweep(vault: &Vault, models: &ReadModels, now: Timestamp) -> Result<usize, SweepError> {
    let status = models.status();
    if !status.is_ready() || status.lag > 0 {
        return Ok(0);
    }
    let unreadable = RefCell::new(None);
    let keep = |slot: &Slot| match is_kept(models, slot) {
        Ok(kept) => kept,
        Err(error) => {
            unreadable.replace(Some(error));
            true
        }
    };
    let swept = vault.sweep_expired(now)? + vault.sweep(now, ORPHAN_SECONDS, keep)?;
    unreadable.into_inner().map_or(Ok(swept), |error| Err(error.into()))
}

/// Only secrets of credentials can be orphans; all else goes by its own time. One that cannot be asked after is kept.
fn is_kept(models: &ReadModels, slot: &Slot) -> Result<bool, ReadError> {
    if slot.owner_kind != "credential" {
        return Ok(true);
    }
    let stream = Stream::credential(slot.tenant.clone(), CredentialId::from_bytes(slot.owner_id));
    Ok(match models.load(&stream)?.0 {
        Some(Aggregate::Credential(credential)) => !credential.revoked && slot.version >= credential.secret_version,
        _ => false,
    })
}
