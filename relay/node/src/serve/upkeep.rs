//! What a node does on its own from time to time: destroys secrets whose time is over and orphans that no record refers to.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use control::{Clock, SUCCESSOR_OWNER};
use projector::{ReadError, ReadModels};
use schemas::{Aggregate, CredentialId, KeyId, Stream, Timestamp};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use vault::{Slot, Vault};

const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// How soon an erase is tried again that the key store was away for.
const RETRY: Duration = Duration::from_secs(60);
/// Turns of the shorter interval in one of the longer.
const TURNS: u64 = INTERVAL.as_secs() / RETRY.as_secs();
/// An entry without a record may belong to a command that is still under way; after a day it does not.
const ORPHAN_SECONDS: u64 = 24 * 3600;
/// How often all subjects are asked after: another node may have gone between a purge and its erase.
const SUBJECTS_SECONDS: u64 = 24 * 3600;

/// Sweeps the vault until the node stops, from when the read models have caught up: what they have not folded yet would look like
/// nothing refers to it. A sweep that fails, or finds the read models behind, is tried again at the next turn.
pub(super) async fn sweep_vault(vault: Arc<Vault>, models: ReadModels, clock: Clock, stop: CancellationToken) {
    let mut turns = tokio::time::interval(RETRY);
    let mut subjects_at: Option<Timestamp> = None;
    for turn in 0_u64.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        let (is_whole, now) = (turn % TURNS == 0, clock());
        let is_subjects_turn =
            vault.is_erase_unfinished() || is_whole && subjects_at.is_none_or(|at| at.plus_seconds(SUBJECTS_SECONDS) <= now);
        if !is_whole && !is_subjects_turn {
            continue;
        }
        let (vault, models) = (vault.clone(), models.clone());
        let swept = tokio::task::spawn_blocking(move || sweep(&vault, &models, now, is_subjects_turn));
        match swept.await {
            Ok(Ok(Some(count))) => {
                subjects_at = if is_subjects_turn { Some(now) } else { subjects_at };
                if count > 0 {
                    tracing::info!(count, "secrets that nothing refers to were destroyed");
                }
            }
            Ok(Ok(None)) | Err(_) => {}
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

/// Destroys what has expired and what no record refers to, and where they are asked after the keys of subjects that are gone; gives how
/// many secrets, or none where the read models are behind.
fn sweep(vault: &Vault, models: &ReadModels, now: Timestamp, with_subjects: bool) -> Result<Option<usize>, SweepError> {
    let status = models.status();
    if !status.is_ready() || status.lag > 0 {
        return Ok(None);
    }
    let unreadable = RefCell::new(None);
    let or_kept = |answer: Result<bool, ReadError>, kept: bool| {
        answer.unwrap_or_else(|error| {
            unreadable.replace(Some(error));
            kept
        })
    };
    let mut swept = vault.sweep_expired(now)? + vault.sweep(now, ORPHAN_SECONDS, |slot| or_kept(is_kept(models, slot), true))?;
    if with_subjects {
        swept += vault.sweep_subjects(|subject| or_kept(is_gone(models, subject), false))?;
    }
    unreadable.into_inner().map_or(Ok(Some(swept)), |error| Err(error.into()))
}

/// Whether the log says that a subject's texts are to be no more.
fn is_gone(models: &ReadModels, subject: &Stream) -> Result<bool, ReadError> {
    Ok(match models.load(subject)?.0 {
        Some(Aggregate::Key(key)) => key.is_purged(),
        // Whose account it was is known only as long as somebody has to confirm it.
        Some(Aggregate::Login(login)) => login.has_ended(),
        _ => false,
    })
}

/// Only secrets of credentials, and those that wait for whoever a key belongs to, can be orphans; all else goes by its own time. One that cannot
/// be asked after is kept.
fn is_kept(models: &ReadModels, slot: &Slot) -> Result<bool, ReadError> {
    if slot.owner_kind == SUCCESSOR_OWNER {
        let stream = Stream::key(slot.tenant.clone(), KeyId::from_bytes(slot.owner_id));
        return Ok(matches!(models.load(&stream)?.0, Some(Aggregate::Key(key)) if key.successor == Some(slot.version)));
    }
    if slot.owner_kind != "credential" {
        return Ok(true);
    }
    let stream = Stream::credential(slot.tenant.clone(), CredentialId::from_bytes(slot.owner_id));
    Ok(match models.load(&stream)?.0 {
        // One with a number that is to come was on its way to its record a day ago, and has not arrived: whoever sealed it died. The tokens of a
        // grant are another matter: a node that has been down may be the only one that knows them.
        Some(Aggregate::Credential(credential)) => {
            let is_to_come = credential.grant.is_some() && !credential.revoked && slot.version >= credential.next_secret_version();
            is_to_come || credential.secret_versions().contains(&slot.version)
        }
        _ => false,
    })
}
