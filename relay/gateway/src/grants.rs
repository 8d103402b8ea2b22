//! Access tokens that end: a request waits for the next one, and says when one was refused before its time. It never asks the provider.

use std::sync::Arc;
use std::time::Duration;

use schemas::Command;
use schemas::credential::CredentialCommand;
use schemas::credential::grant::{ASK_AGE_SECONDS, GrantCommand};
use tokio::time::Instant;

use crate::gateway::State;
use crate::outbox::Outbound;
use crate::targets::Target;

/// How long a request waits for an access token that is being refreshed, before another upstream is tried.
const FRESH_WAIT: Duration = Duration::from_secs(10);

/// Whether the target's access token has ended. What is not a grant never does.
pub(crate) fn is_expired(state: &State, target: &Target) -> bool {
    target.grant().is_some_and(|grant| grant.is_expired(state.now()))
}

/// The target as it is once its access token was refreshed; none where no token came in time. What waits for a login is not waited for.
pub(crate) async fn fresh(state: &State, target: &Target) -> Option<Arc<Target>> {
    let (upstream, deadline) = (target.route.upstream.id, Instant::now() + FRESH_WAIT);
    // Subscribed before the first look, so that nothing comes in between.
    let mut applied = state.models.subscribe();
    loop {
        let snapshot = state.targets.snapshot();
        let present = snapshot.of(upstream)?;
        if !is_expired(state, present) {
            return Some(Arc::clone(present));
        }
        if !present.grant().is_some_and(|grant| grant.may_be_refreshed()) {
            return None;
        }
        match tokio::time::timeout_at(deadline, applied.changed()).await {
            Ok(Ok(())) => {}
            // The time is over, or the node is stopping.
            Ok(Err(_)) | Err(_) => return None,
        }
    }
}

/// An upstream answered 401. A token that should have been good is asked to be refreshed; one that is new would not be helped by that.
pub(crate) fn refused(state: &State, target: &Target) {
    let Some(grant) = target.grant() else { return };
    let is_of_age = grant.issued_at.plus_seconds(ASK_AGE_SECONDS) <= state.now();
    if is_of_age && grant.may_be_refreshed() {
        let secret_version = target.standing().secret;
        let command = Command::Credential(CredentialCommand::Grant(GrantCommand::AskRefresh { secret_version }));
        state.outbox.offer(Outbound { stream: target.credential_stream(), command });
    }
}
