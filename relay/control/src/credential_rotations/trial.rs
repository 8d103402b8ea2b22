//! The trial of a new secret: a real call with it, and the question whether it belongs to the account that the old one belongs to.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use projector::Route;
use schemas::RotationId;
use schemas::credential::rotation::{EndCause, Rotation, RotationTested};
use tokio::time::Instant;

use super::CredentialRotations;

/// How long a new secret may be untestable: the provider cannot be reached, or answers what says nothing about a secret.
pub(super) const UNTESTABLE_SECONDS: u64 = 600;
/// How often the provider may refuse a new secret before it is given up: providers take a moment to know a secret everywhere.
const REFUSALS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// Rotations of which trials are remembered; beyond it all is forgotten, and a trial is made once more.
const ROTATIONS_MAX: usize = 4_096;

/// What a trial came to.
pub(crate) enum TrialOutcome {
    Passed(RotationTested),
    /// The secret is no good.
    Ended(EndCause),
    /// Nothing is known yet.
    Again(Trial),
}

/// What one call said.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
}

/// The trials that this node has made of rotations under way.
#[derive(Default)]
pub(super) struct Trials {
    /// Written by the scheduler and by requests to go on.
    made: Mutex<HashMap<RotationId, Made>>,
}

#[derive(Default)]
struct Made {
    refusals: u32,
    next_at: Option<Instant>,
    /// The uses of the old secret that were known when the new one was tried again.
    uses: u64,
}

impl Trials {
    /// Whether the pause after the last trial is over.
    pub(super) fn is_due(&self, rotation: RotationId) -> bool {
        self.made().get(&rotation).and_then(|made| made.next_at).is_none_or(|at| at <= Instant::now())
    }

    /// Whether the old secret was needed since the new one was tried again.
    pub(super) fn is_news(&self, rotation: &Rotation) -> bool {
        rotation.fallback.uses > self.made().get(&rotation.id).map_or(0, |made| made.uses)
    }

    fn made(&self) -> MutexGuard<'_, HashMap<RotationId, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, rotation: RotationId, note: impl FnOnce(&mut Made) -> u32) -> u32 {
        let mut made = self.made();
        if made.len() >= ROTATIONS_MAX {
            made.clear();
        }
        note(made.entry(rotation).or_default())
    }
}

fn is_refusal(status: Option<u16>) -> bool {
    matches!(status, Some(401 | 403))
}

impl CredentialRotations {
    /// Tries the new secret of a rotation.
    pub(crate) async fn trial(&self, route: &Route, rotation: &Rotation) -> TrialOutcome {
        let upstream = &route.upstream;
        let new = (self.probe)(upstream.id, rotation.secret_version).await;
        let Some(status) = new.status.filter(|status| (200..300).contains(status)) else {
            let refusals = self.notes.trials.note(rotation.id, |made| {
                made.refusals += u32::from(is_refusal(new.status));
                made.next_at = Some(Instant::now() + PAUSE);
                made.refusals
            });
            let (name, status, error) = (&upstream.details.name, new.status, new.error.as_deref());
            tracing::warn!(upstream.name = name, rotation.id = %rotation.id, status, error, "the new credential did not pass its test");
            return if refusals >= REFUSALS_MAX {
                TrialOutcome::Ended(EndCause::Refused)
            } else {
                TrialOutcome::Again(Trial { status: new.status, error: new.error })
            };
        };
        let old = (self.probe)(upstream.id, rotation.previous.version).await;
        let digest = |account: Option<String>| account.map(|account| self.vault.fingerprint(account.as_bytes()));
        let (account, previous_account) = (digest(new.account), digest(old.account));
        if account.is_some() && previous_account.is_some() && account != previous_account {
            return TrialOutcome::Ended(EndCause::OtherAccount);
        }
        let node = self.commands.writer().id();
        TrialOutcome::Passed(RotationTested { rotation: rotation.id, node, status, account, previous_account })
    }

    /// Tries the new secret once more, since the old one was needed; false if the provider refuses it by now.
    pub(super) async fn trial_again(&self, route: &Route, rotation: &Rotation) -> bool {
        let tried = (self.probe)(route.upstream.id, rotation.secret_version).await;
        self.notes.trials.note(rotation.id, |made| {
            made.uses = rotation.fallback.uses;
            0
        });
        !is_refusal(tried.status)
    }
}
