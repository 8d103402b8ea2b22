//! The old secret of a credential, while a rotation keeps it as the fall-back.
//!
//! A request goes with the secret in use. Where the upstream refuses that with 401 or 403, which it does before any byte went to the client, the
//! request goes once more with the old one. That it was needed is counted, told in the log of the node, and put on the record: it is what a
//! rotation is rolled back for, and what keeps the old secret alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use schemas::credential::CredentialCommand;
use schemas::credential::rotation::{RotationCommand, RotationFallbackUsed};
use schemas::{Command, RotationId, Stream};
use thiserror::Error;

use crate::gateway::State;
use crate::outbox::Outbound;
use crate::targets::{CredentialError, Secret, Shown, Target};
use crate::transport::TransportError;

/// How often a node tells of one rotation that its old secret was needed; what came in between is told together.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// The old secret of an open rotation.
pub(crate) struct Fallback {
    pub(crate) rotation: RotationId,
    pub(crate) secret: Arc<Secret>,
    /// Shared among snapshots.
    pub(crate) tally: Arc<Tally>,
}

/// How often it was needed since that was told last.
#[derive(Default)]
pub(crate) struct Tally {
    untold: AtomicU32,
    /// When it was told last. Written by requests.
    told_at: Mutex<Option<Instant>>,
}

/// Why a request brought no answer.
#[derive(Debug, Error)]
pub(crate) enum SendError {
    #[error("the credential is not at hand")]
    Credential(#[from] CredentialError),
    #[error("the upstream has no such address")]
    Address,
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// Sends a request with the secret in use, and if need be with the old one. `request` makes it for the header that shows a secret.
pub(crate) async fn send(
    state: &State,
    target: &Target,
    request: impl Fn(Shown) -> Option<Request<Full<Bytes>>>,
) -> Result<Response<Incoming>, SendError> {
    let asked = ask(state, target, &target.secret, &request).await;
    let Some(fallback) = target.fallback.as_ref().filter(|_| is_refused(&asked)) else { return asked };
    match ask(state, target, &fallback.secret, &request).await {
        Ok(response) if !refuses(response.status()) => {
            // Evidence against the new one is that the upstream refused it and took the old one; a secret that this node has not got yet, or an
            // answer that says nothing about a secret, is none.
            if asked.is_ok() && takes(response.status()) {
                fallback.needed(state, target);
            }
            Ok(response)
        }
        // The old one does no better, so that nothing speaks against the new one.
        _ => asked,
    }
}

async fn ask(
    state: &State,
    target: &Target,
    secret: &Secret,
    request: &impl Fn(Shown) -> Option<Request<Full<Bytes>>>,
) -> Result<Response<Incoming>, SendError> {
    let header = state.targets.header(target, secret).await?;
    let request = request(header).ok_or(SendError::Address)?;
    Ok(state.transport.send(request).await?)
}

/// Whether it was the secret that did not do.
fn is_refused(asked: &Result<Response<Incoming>, SendError>) -> bool {
    match asked {
        Ok(response) => refuses(response.status()),
        Err(error) => matches!(error, SendError::Credential(_)),
    }
}

/// Whether an answer shows that the upstream took the secret.
fn takes(status: StatusCode) -> bool {
    !refuses(status) && status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error()
}

fn refuses(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

impl Fallback {
    fn needed(&self, state: &State, target: &Target) {
        state.metrics.fell_back(target.route.upstream.details.dialect);
        let Some(uses) = self.tally.to_tell() else { return };
        let (upstream, stream) = (&target.route.upstream, Stream::credential(target.tenant().clone(), target.credential_id()));
        tracing::error!(
            upstream.name = upstream.details.name,
            upstream.id = %upstream.id,
            rotation.id = %self.rotation,
            uses,
            "the upstream refuses the new credential of a rotation and takes the old one"
        );
        let used = RotationFallbackUsed { rotation: self.rotation, node: state.node, uses, last_used_at: state.now() };
        let command = Command::Credential(CredentialCommand::Rotate(RotationCommand::NoteFallback(used)));
        if !state.outbox.offer(Outbound { stream, command }) {
            self.tally.untold.fetch_add(uses, Ordering::Relaxed);
        }
    }
}

impl Tally {
    /// Counts one use; how many there are to tell, if it is time.
    fn to_tell(&self) -> Option<u32> {
        self.untold.fetch_add(1, Ordering::Relaxed);
        let mut told_at = self.told_at.lock();
        if told_at.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
            return None;
        }
        *told_at = Some(Instant::now());
        Some(self.untold.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_secret_is_a_reason_to_try_the_other_one() {
        for (status, is_refusal) in
            [(401, true), (403, true), (200, false), (400, false), (402, false), (404, false), (429, false), (500, false)]
        {
            assert_eq!(StatusCode::from_u16(status).map(refuses).ok(), Some(is_refusal), "{status}");
        }
    }

    #[test]
    fn an_answer_that_says_nothing_about_a_secret_is_no_evidence() {
        for (status, is_evidence) in
            [(200, true), (400, true), (404, true), (401, false), (403, false), (429, false), (500, false), (503, false)]
        {
            assert_eq!(StatusCode::from_u16(status).map(takes).ok(), Some(is_evidence), "{status}");
        }
    }

    #[test]
    fn uses_are_told_together_and_none_is_lost() {
        let tally = Tally::default();
        assert_eq!(tally.to_tell(), Some(1));
        assert!((0..5).all(|_| tally.to_tell().is_none()));
        *tally.told_at.lock() = Instant::now().checked_sub(TELL_INTERVAL);
        assert_eq!(tally.to_tell(), Some(6));
    }
}
