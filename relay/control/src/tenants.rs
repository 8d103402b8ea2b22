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

/// Refuses events that give a key a longer time than its tenant allows.
pub(crate) fn check_expiry(models: &ReadModels, stream: &Stream, events: &[Event], now: Timestamp) -> Result<(), ExecuteError> {
    // Most commands say nothing about it, and need no look-up.
    if !events.iter().any(|event| expiry_of(event).is_some()) {
        return Ok(());
    }
    let max = models.routes().tenant(stream.tenant()).and_then(|tenant| tenant.value.details.expiry_seconds_max);
    match max.filter(|max| is_beyond(events, now, *max)) {
        Some(max) => Err(ExecuteError::ExpiryTooLong { max: DurationText::from_seconds(max) }),
        None => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use schemas::key::{KeyActivationAwaited, KeyRenewed};

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn renewed(expiry: Expiry) -> Event {
        Event::KeyRenewed(KeyRenewed { expiry })
    }

    #[test]
    fn the_maximum_itself_is_allowed_and_nothing_beyond_it() {
        assert!(!is_beyond(&[renewed(Expiry::At(NOW.plus_seconds(60)))], NOW, 60));
        assert!(is_beyond(&[renewed(Expiry::At(NOW.plus_seconds(61)))], NOW, 60));
        assert!(is_beyond(&[renewed(Expiry::Never)], NOW, 60));
    }

    #[test]
    fn a_time_that_begins_with_the_first_use_is_measured_by_its_length() {
        let awaited = |seconds| [renewed(Expiry::Never), Event::KeyActivationAwaited(KeyActivationAwaited { seconds })];
        assert!(!is_beyond(&awaited(60), NOW, 60));
        assert!(is_beyond(&awaited(61), NOW, 60));
    }
}
