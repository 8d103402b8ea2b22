//! What a tenant has from its beginning, and what it says about the keys that are made in it.

use projector::ReadModels;
use schemas::key::Expiry;
use schemas::pool::PoolCommand;
use schemas::{ClusterId, Command, DurationText, Event, Stream, TenantId, Timestamp};

use crate::commands::{Commands, ExecuteError, Request};
use crate::founding::furniture_digest;

/// Founds the pool `default` of a tenant that is about to be created, under ids that are the same at every try; nothing where it is there.
/// Whoever broke off between the pool and the tenant goes on from there, and no tenant is ever there without its pool.
pub(crate) async fn furnish(
    commands: &Commands,
    models: &ReadModels,
    cluster: ClusterId,
    tenant: &TenantId,
    request: Request,
) -> Result<(), ExecuteError> {
    let command_id = cluster.tenant_pool_command(tenant);
    let stream = Stream::pool(tenant.clone(), command_id.new_pool_id());
    if models.load(&stream).map_err(ExecuteError::Read)?.0.is_none() {
        let command = Command::Pool(PoolCommand::Create { name: "default".to_owned() });
        let request_digest = furniture_digest();
        commands.execute(Request { stream, command, command_id, request_digest, if_version: None, ..request }).await?;
    }
    Ok(())
}

/// The tenant's maximum of how long its keys are good for, if these events give a key a longer time than that.
pub(crate) fn maximum_exceeded(models: &ReadModels, tenant: &TenantId, events: &[Event], now: Timestamp) -> Option<DurationText> {
    // Most commands say nothing about it, and need no look-up.
    events.iter().find_map(expiry_of)?;
    let max = models.routes().tenant(tenant)?.value.details.expiry_seconds_max?;
    is_beyond(events, now, max).then(|| DurationText::from_seconds(max))
}

fn is_beyond(events: &[Event], now: Timestamp, seconds_max: u64) -> bool {
    // The time of a key that waits for its first use is counted from there, so its events hold no end of it yet.
    let awaited = events.iter().find_map(|event| match event {
        Event::KeyActivationAwaited(awaited) => Some(awaited.seconds),
        _ => None,
    });
    if let Some(seconds) = awaited {
        return seconds > seconds_max;
    }
    let latest = now.plus_seconds(seconds_max);
    events.iter().filter_map(expiry_of).any(|expiry| match expiry {
        Expiry::Never => true,
        Expiry::At(at) => at > latest,
    })
}

/// Until when an event makes a key good; none for one that says nothing about that.
fn expiry_of(event: &Event) -> Option<Expiry> {
    match event {
        Event::KeyCreated(created) => Some(created.expiry),
        Event::KeyRenewed(renewed) => Some(renewed.expiry),
        _ => None,
    }
}
