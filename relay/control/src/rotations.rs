//! Rotations by schedule: a key whose current secret has reached its age gets the next one, and the overlap begins.
//!
//! The new secret is sealed before the record is appended, under the key's id and the secret's number: whoever dies in between, the next sweep
//! finds it there and goes on with it. It waits until whoever the key belongs to collects it; until then the key is not rotated again.

use std::sync::Arc;

use projector::{ReadError, ReadModels};
use schemas::key::{Key, KeyCommand, RotationSchedule};
use schemas::{Actor, Aggregate, Command, CommandId, Digest, KeyId, Stream, TenantId, Timestamp, client_key};
use thiserror::Error;
use vault::Vault;

use crate::commands::{Commands, ExecuteError, Request};
use crate::secrets::{self, RepeatError};

/// Keys of one read, where all of a tenant are looked at.
const PAGE: usize = 1024;

/// Does what schedules say, one key at a time.
pub struct Rotations {
    pub commands: Commands,
    pub models: ReadModels,
    pub vault: Arc<Vault>,
}

/// Why no key can be rotated now. The next sweep tries again.
#[derive(Debug, Error)]
pub(crate) enum RotationError {
    #[error("the read models cannot be read")]
    Read(#[from] ReadError),
    #[error("the key store does not take secrets")]
    Seal(#[source] RepeatError),
    #[error("the log does not take records")]
    Execute(#[source] ExecuteError),
}

impl Rotations {
    /// Rotates a key if its schedule is due; whether it did. What stands in the way of this key alone is told and passed over, so that it does not
    /// stand in the way of others.
    pub(crate) async fn rotate(&self, stream: Stream, now: Timestamp) -> Result<bool, RotationError> {
        let (Some(Aggregate::Key(key)), head) = self.models.load(&stream)? else { return Ok(false) };
        let Some(schedule) = self.due(&key, now) else { return Ok(false) };
        let number = key.current_secret().number.saturating_add(1);
        let (vault, tenant, id) = (Arc::clone(&self.vault), key.tenant.clone(), key.id);
        let text = match tokio::task::spawn_blocking(move || secrets::sealed_successor(&vault, &tenant, id, number, now)).await {
            Ok(Ok(text)) => text,
            Ok(Err(error)) if error.is_store_away() => return Err(RotationError::Seal(error)),
            Ok(Err(error)) => return Ok(passed_over(id, &error)),
            Err(ended) => return Ok(passed_over(id, &ended)),
        };
        let request = Request {
            command: Command::Key(KeyCommand::RotateBySchedule {
                number,
                hash: client_key::hash(&text),
                overlap_seconds: schedule.overlap_seconds,
            }),
            actor: Actor::Scheduler,
            // Two nodes at once, or one twice, are one command. A key that an import has set back to an earlier number is at another version.
            command_id: CommandId::of(&key.tenant, &Actor::Scheduler, &format!("rotation {id} {number} {}", head.version)),
            request_digest: Digest::blake3(b"keyrelay rotation"),
            if_version: None,
            deadline: Commands::deadline(),
            stream,
        };
        match self.commands.execute(request).await {
            Ok(receipt) => Ok(receipt.recorded && !receipt.repeated),
            // Rotated by hand, archived, revoked or purged since it was read.
            Err(ExecuteError::Rejected(_)) => Ok(false),
            Err(error) if concerns_all(&error) => Err(RotationError::Execute(error)),
            Err(error) => Ok(passed_over(id, &error)),
        }
    }

    /// The next keys of a tenant that has schedules for tags, after one that was given: those that are due, and the last one that was looked at.
    /// None where there are no more. Blocks on the disk.
    pub(crate) fn of_tags(
        &self,
        tenant: &TenantId,
        after: Option<KeyId>,
        now: Timestamp,
    ) -> Result<Option<(Vec<Stream>, KeyId)>, ReadError> {
        let page = self.models.keys(tenant, after, PAGE)?;
        let Some(last) = page.last().map(|key| key.value.id) else { return Ok(None) };
        let due = page.iter().map(|key| &key.value).filter(|key| key.rotation.is_none() && self.due(key, now).is_some());
        Ok(Some((due.map(|key| Stream::key(tenant.clone(), key.id)).collect(), last)))
    }

    /// The tenants that have schedules for tags.
    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        let routes = self.models.routes();
        routes.tenants.iter().filter(|tenant| !tenant.value.rotations.is_empty()).map(|tenant| tenant.value.id.clone()).collect()
    }

    /// The schedule by which the key is to be rotated now.
    fn due(&self, key: &Key, now: Timestamp) -> Option<RotationSchedule> {
        let routes = self.models.routes();
        let schedule = routes.tenant(&key.tenant).map_or(key.rotation, |tenant| tenant.value.rotation_of(key))?;
        (key.rotation_due_at(schedule)? <= now).then_some(schedule)
    }
}

/// Whether the log or the read models are away, so that the next key would fare no better.
fn concerns_all(error: &ExecuteError) -> bool {
    match error {
        ExecuteError::Log(_)
        | ExecuteError::LogLost { .. }
        | ExecuteError::History(_)
        | ExecuteError::OutcomeUnknown { .. }
        | ExecuteError::Read(_)
        | ExecuteError::Stopping => true,
        ExecuteError::Rejected(_)
        | ExecuteError::VersionMismatch { .. }
        | ExecuteError::ExpiryTooLong { .. }
        | ExecuteError::CommandReused
        | ExecuteError::Contention
        | ExecuteError::RecordVoid { .. }
        | ExecuteError::Encode(_)
        | ExecuteError::HistoryGone { .. } => false,
    }
}

/// Tells why a key is not rotated; it was not.
fn passed_over(id: KeyId, error: &(dyn std::error::Error + 'static)) -> bool {
    tracing::warn!(key.id = %id, error, "a key could not be rotated; the next sweep tries again");
    false
}
