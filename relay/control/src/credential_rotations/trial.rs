//! The trial of a new secret: a real call with it, and the question whether it belongs to the account that the old one belongs to.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use projector::Route;
use schemas::credential::Credential;
use schemas::credential::rotation::{EndCause, Rotation, RotationStep, RotationTested};
use tokio::time::Instant;

use super::{CredentialRotations, RotationOf};

/// How long a new secret may be untestable: the provider cannot be reached, or answers what says nothing about a secret.
pub(super) const UNTESTABLE_SECONDS: u64 = 600;
/// How often the provider may refuse a new secret before it is given up: providers take a moment to know a secret everywhere.
const REFUSALS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_secs(2);
/// How long it is waited after a look at a secret that was not good enough to destroy the other one.
const REST: Duration = Duration::from_secs(30);
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

/// Whether the provider takes the secret in use, before the other one is destroyed.
pub(crate) enum StillGood {
    Yes,
    /// It refuses it, and takes the old one.
    No,
    /// It cannot be told now.
    Unknown,
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
    made: Mutex<HashMap<RotationOf, Made>>,
}

#[derive(Default)]
struct Made {
    refusals: u32,
    next_at: Option<Instant>,
    /// The uses of the old secret that were known when the new one was tried again.
    uses: u64,
    /// The step after which other nodes are waited for, and since when.
    waits: Option<(RotationStep, Instant)>,
}

impl Trials {
    /// Whether the pause after the last trial is over.
    pub(super) fn is_due(&self, rotation: RotationOf) -> bool {
        self.made().get(&rotation).and_then(|made| made.next_at).is_none_or(|at| at <= Instant::now())
    }

    /// Whether the old secret was needed since the new one was tried again.
    pub(super) fn is_news(&self, of: RotationOf, rotation: &Rotation) -> bool {
        rotation.fallback.uses > self.made().get(&of).map_or(0, |made| made.uses)
    }

    /// Whether this node has tried the new secret.
    pub(super) fn was_tried(&self, rotation: RotationOf) -> bool {
        self.made().get(&rotation).is_some_and(|made| made.next_at.is_some())
    }

    /// How long this node has been waiting for other nodes before the step after this one.
    pub(super) fn waited(&self, rotation: RotationOf, at: RotationStep) -> Duration {
        let mut since = Duration::ZERO;
        self.note(rotation, |made| {
            let (_, begin) = made.waits.filter(|(step, _)| *step == at).unwrap_or((at, Instant::now()));
            made.waits = Some((at, begin));
            since = begin.elapsed();
            0
        });
        since
    }

    /// Makes a pause before anything is tried again.
    pub(super) fn rest(&self, rotation: RotationOf) {
        self.note(rotation, |made| {
            made.next_at = Some(Instant::now() + REST);
            0
        });
    }

    fn made(&self) -> MutexGuard<'_, HashMap<RotationOf, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, rotation: RotationOf, note: impl FnOnce(&mut Made) -> u32) -> u32 {
        let mut made = self.made();
        if made.len() >= ROTATIONS_MAX {
            made.clear();
        }
        note(made.entry(rotation).or_default())
    }
}

fn is_success(status: Option<u16>) -> bool {
    status.is_some_and(|status| (200..300).contains(&status))
}

fn is_refusal(status: Option<u16>) -> bool {
    matches!(status, Some(401 | 403))
}

impl CredentialRotations {
    /// Tries the new secret of a rotation.
    pub(crate) async fn trial(&self, route: &Route, credential: &Credential, rotation: &Rotation) -> TrialOutcome {
        let (upstream, of) = (&route.upstream, super::of(credential, rotation));
        let new = (self.probe)(upstream.id, rotation.secret_version).await;
        let Some(status) = new.status.filter(|status| is_success(Some(*status))) else {
            let refusals = self.notes.trials.note(of, |made| {
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
        // The record is on its way; without it the trial is made again, but not at once.
        self.notes.trials.note(of, |made| {
            made.next_at = Some(Instant::now() + PAUSE);
            0
        });
        let node = self.commands.writer().id();
        TrialOutcome::Passed(RotationTested { rotation: rotation.id, node, status, account, previous_account })
    }

    /// Tries the new secret once more, since the old one was needed; false if the provider refuses it by now. As long as the provider may not know
    /// it everywhere, a refusal is asked again.
    pub(super) async fn trial_again(&self, route: &Route, credential: &Credential, rotation: &Rotation) -> bool {
        let of = super::of(credential, rotation);
        let tried = (self.probe)(route.upstream.id, rotation.secret_version).await;
        let (is_refused, is_settled) = (is_refusal(tried.status), rotation.is_settled((self.clock)()));
        self.notes.trials.note(of, |made| {
            if is_refused && !is_settled {
                made.next_at = Some(Instant::now() + PAUSE);
            } else {
                made.uses = rotation.fallback.uses;
            }
            0
        });
        !is_refused || !is_settled
    }

    /// Asks the provider before the old secret is destroyed.
    pub(crate) async fn still_good(&self, route: &Route, credential: &Credential, rotation: &Rotation) -> StillGood {
        let upstream = &route.upstream;
        let new = (self.probe)(upstream.id, rotation.secret_version).await;
        if is_success(new.status) {
            return StillGood::Yes;
        }
        self.notes.trials.rest(super::of(credential, rotation));
        let is_worse = is_refusal(new.status) && is_success((self.probe)(upstream.id, rotation.previous.version).await.status);
        let (name, status, error) = (&upstream.details.name, new.status, new.error.as_deref());
        tracing::warn!(upstream.name = name, rotation.id = %rotation.id, status, error, "the credential in use does not pass its test: the old one is kept");
        if is_worse { StillGood::No } else { StillGood::Unknown }
    }
}
