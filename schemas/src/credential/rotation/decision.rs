//! What may happen to a rotation, and what it does to its credential.

use thiserror::Error;

use super::{
    EndCause, FallbackUse, Installer, ROTATIONS_KEPT, ReplacedSecret, Rotation, RotationAborted, RotationDraining, RotationFallbackUsed,
    RotationFinished, RotationInstalled, RotationPromoted, RotationRolledBack, RotationStaged, RotationStep, RotationTested, StepCause,
};
use crate::aggregate::At;
use crate::credential::Credential;
use crate::credential::order::check_times;
use crate::event::Event;
use crate::id::RotationId;
use crate::time::Timestamp;

/// A step of a rotation. The same step again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotationCommand {
    /// Begins a rotation to a secret that is sealed; with an installer, the provider knows it already.
    Stage {
        staged: Box<RotationStaged>,
        installed: Option<Installer>,
    },
    Install {
        rotation: RotationId,
        by: Installer,
    },
    /// The provider took the new secret.
    Pass(Box<RotationTested>),
    Promote {
        rotation: RotationId,
    },
    Drain {
        rotation: RotationId,
        cause: StepCause,
    },
    Finish {
        rotation: RotationId,
        cause: StepCause,
    },
    Abort {
        rotation: RotationId,
        cause: EndCause,
    },
    RollBack {
        rotation: RotationId,
        cause: EndCause,
    },
    /// The old secret was needed.
    NoteFallback(RotationFallbackUsed),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RotationError {
    #[error("there is no such rotation")]
    NotFound,
    #[error("rotation {0} is not over; advance it to its end, or abort it or roll it back, before another one begins")]
    Open(RotationId),
    #[error("rotation {0} is one to another secret")]
    Reused(RotationId),
    #[error("the new secret is the one in use")]
    SameSecret,
    #[error("a window is 1 second to 7 days and not longer than the grace, which is 90 days at most")]
    Times,
    #[error("the rotation is {}, so that this step does not come next", at.as_str())]
    Step { at: RotationStep },
    #[error("the rotation is over: it is {}", at.as_str())]
    Over { at: RotationStep },
    #[error("the new secret is in use; roll the rotation back")]
    Promoted,
    #[error("the new secret is not in use yet; abort the rotation")]
    NotPromoted,
    #[error("it is too early for that")]
    NotDue,
    #[error("the credential is a provider's grant, which is refreshed; log in again for another")]
    Grant,
}

impl RotationCommand {
    fn rotation(&self) -> RotationId {
        match self {
            Self::Stage { staged, .. } => staged.rotation,
            Self::Pass(tested) => tested.rotation,
            Self::NoteFallback(used) => used.rotation,
            Self::Install { rotation, .. }
            | Self::Promote { rotation }
            | Self::Drain { rotation, .. }
            | Self::Finish { rotation, .. }
            | Self::Abort { rotation, .. }
            | Self::RollBack { rotation, .. } => *rotation,
        }
    }

    /// The step that the command leads to.
    const fn target(&self) -> RotationStep {
        match self {
            Self::Stage { .. } => RotationStep::Staged,
            Self::Install { .. } => RotationStep::Installed,
            Self::Pass(_) => RotationStep::Tested,
            Self::Promote { .. } | Self::NoteFallback(_) => RotationStep::Dual,
            Self::Drain { .. } => RotationStep::Draining,
            Self::Finish { .. } => RotationStep::Finished,
            Self::Abort { .. } => RotationStep::Aborted,
            Self::RollBack { .. } => RotationStep::RolledBack,
        }
    }
}

/// Decides a step on a credential that is not revoked.
pub(in crate::credential) fn decide(
    credential: &Credential,
    command: &RotationCommand,
    now: Timestamp,
) -> Result<Vec<Event>, RotationError> {
    if let RotationCommand::Stage { staged, installed } = command {
        return stage(credential, staged, *installed);
    }
    let rotation = credential.rotation(command.rotation()).ok_or(RotationError::NotFound)?;
    let (id, step, target) = (rotation.id, rotation.step, command.target());
    if let RotationCommand::NoteFallback(used) = command {
        // Of a rotation that has gone on meanwhile it says nothing that anybody acts on.
        let counts = step == RotationStep::Dual && used.uses > 0;
        return Ok(counts.then(|| Event::RotationFallbackUsed(used.clone())).into_iter().collect());
    }
    if step == target {
        return Ok(vec![]);
    }
    match (step, target) {
        (RotationStep::Finished, RotationStep::Aborted | RotationStep::RolledBack) => return Err(RotationError::Over { at: step }),
        // A step that it went through.
        (RotationStep::Finished, _) => return Ok(vec![]),
        (RotationStep::Aborted | RotationStep::RolledBack, _) => return Err(RotationError::Over { at: step }),
        (_, RotationStep::Aborted) if step.is_promoted() => return Err(RotationError::Promoted),
        (_, RotationStep::RolledBack) if !step.is_promoted() => return Err(RotationError::NotPromoted),
        (_, RotationStep::Aborted | RotationStep::RolledBack) => {}
        (step, target) if step > target => return Ok(vec![]),
        (RotationStep::Staged, RotationStep::Installed)
        | (RotationStep::Installed, RotationStep::Tested)
        | (RotationStep::Tested, RotationStep::Dual)
        | (RotationStep::Dual, RotationStep::Draining)
        | (RotationStep::Draining, RotationStep::Finished) => {}
        (step, _) => return Err(RotationError::Step { at: step }),
    }
    Ok(match command {
        RotationCommand::Install { by, .. } => vec![Event::RotationInstalled(RotationInstalled { rotation: id, by: *by })],
        RotationCommand::Pass(tested) => vec![Event::RotationTested((**tested).clone())],
        RotationCommand::Promote { .. } => {
            let promoted = Event::RotationPromoted(RotationPromoted { rotation: id });
            let draining = Event::RotationDraining(RotationDraining { rotation: id, cause: StepCause::Compromise });
            // A secret that others know is no fall-back.
            std::iter::once(promoted).chain(rotation.compromise.then_some(draining)).collect()
        }
        RotationCommand::Drain { cause, .. } => {
            timely(rotation, *cause, now)?;
            vec![Event::RotationDraining(RotationDraining { rotation: id, cause: *cause })]
        }
        RotationCommand::Finish { cause, .. } => {
            timely(rotation, *cause, now)?;
            vec![Event::RotationFinished(RotationFinished { rotation: id, cause: *cause })]
        }
        RotationCommand::Abort { cause, .. } => {
            vec![Event::RotationAborted(RotationAborted { rotation: id, at: step, cause: *cause })]
        }
        RotationCommand::RollBack { cause, .. } => {
            vec![Event::RotationRolledBack(RotationRolledBack { rotation: id, at: step, cause: *cause })]
        }
        RotationCommand::Stage { .. } | RotationCommand::NoteFallback(_) => vec![],
    })
}

/// Whoever goes on without being asked has time or evidence for it.
fn timely(rotation: &Rotation, cause: StepCause, now: Timestamp) -> Result<(), RotationError> {
    match cause {
        StepCause::Asked => Ok(()),
        cause if rotation.due(now) == Some(cause) => Ok(()),
        _ => Err(RotationError::NotDue),
    }
}

fn stage(credential: &Credential, staged: &RotationStaged, installed: Option<Installer>) -> Result<Vec<Event>, RotationError> {
    if let Some(rotation) = credential.rotation(staged.rotation) {
        let is_same = rotation.fingerprint == staged.fingerprint;
        return if is_same { Ok(vec![]) } else { Err(RotationError::Reused(rotation.id)) };
    }
    // Whoever brings the secret of an order brings what the order is for.
    if credential.provider_side.order_of(staged.rotation).is_none() {
        credential.refuse_open()?;
    }
    if staged.fingerprint == credential.fingerprint {
        return Err(RotationError::SameSecret);
    }
    check_times(staged.window_seconds, staged.grace_seconds, staged.unused_seconds)?;
    let installed = installed.map(|by| Event::RotationInstalled(RotationInstalled { rotation: staged.rotation, by }));
    Ok(std::iter::once(Event::RotationStaged(staged.clone())).chain(installed).collect())
}

/// Folds one event of a rotation; none where it cannot follow.
pub(in crate::credential) fn apply(mut credential: Credential, event: &Event, at: &At) -> Option<Credential> {
    match event {
        Event::RotationStaged(staged) => {
            if credential.open_rotation().is_some() || staged.secret_version < credential.next_secret_version() {
                return None;
            }
            if credential.rotations.len() >= ROTATIONS_KEPT {
                credential.rotations.remove(0);
            }
            let rotation = begun(&credential, staged, at);
            credential.rotations.push(rotation);
            credential.provider_side.order.take_if(|order| order.rotation == staged.rotation);
        }
        Event::RotationInstalled(event) => _ = step(&mut credential, event.rotation, RotationStep::Installed, at)?,
        Event::RotationTested(event) => step(&mut credential, event.rotation, RotationStep::Tested, at)?.tested = Some(event.clone()),
        Event::RotationPromoted(event) => {
            let rotation = step(&mut credential, event.rotation, RotationStep::Dual, at)?;
            rotation.promoted_at = Some(at.time);
            let (version, fingerprint) = (rotation.secret_version, rotation.fingerprint.clone());
            (credential.secret_version, credential.fingerprint, credential.changed_at) = (version, fingerprint, at.time);
        }
        Event::RotationDraining(event) => {
            step(&mut credential, event.rotation, RotationStep::Draining, at)?.cause = Some(event.cause);
        }
        Event::RotationFinished(event) => {
            step(&mut credential, event.rotation, RotationStep::Finished, at)?.cause = Some(event.cause);
        }
        Event::RotationAborted(event) => step(&mut credential, event.rotation, RotationStep::Aborted, at)?.end = Some(event.cause),
        Event::RotationRolledBack(event) => {
            let rotation = step(&mut credential, event.rotation, RotationStep::RolledBack, at)?;
            rotation.end = Some(event.cause);
            let ReplacedSecret { version, fingerprint, since } = rotation.previous.clone();
            (credential.secret_version, credential.fingerprint, credential.changed_at) = (version, fingerprint, since);
        }
        Event::RotationFallbackUsed(event) => {
            let rotation = credential.rotations.iter_mut().find(|rotation| rotation.id == event.rotation)?;
            let FallbackUse { uses, last_used_at } = rotation.fallback;
            rotation.fallback = FallbackUse {
                uses: uses.saturating_add(event.uses.into()),
                last_used_at: last_used_at.max(Some(event.last_used_at.min(at.time))),
            };
        }
        _ => return None,
    }
    Some(credential)
}

fn begun(credential: &Credential, staged: &RotationStaged, at: &At) -> Rotation {
    Rotation {
        id: staged.rotation,
        secret_version: staged.secret_version,
        fingerprint: staged.fingerprint.clone(),
        previous: ReplacedSecret {
            version: credential.secret_version,
            fingerprint: credential.fingerprint.clone(),
            since: credential.changed_at,
        },
        compromise: staged.compromise,
        window_seconds: staged.window_seconds,
        grace_seconds: staged.grace_seconds,
        unused_seconds: staged.unused_seconds,
        reason: staged.reason.clone(),
        staged_at: at.time,
        staged_by: at.actor,
        step: RotationStep::Staged,
        step_at: at.time,
        step_by: at.actor,
        tested: None,
        promoted_at: None,
        fallback: FallbackUse::default(),
        cause: None,
        end: None,
    }
}

/// Moves the open rotation of this id on; none if it is not the open one.
fn step<'a>(credential: &'a mut Credential, id: RotationId, step: RotationStep, at: &At) -> Option<&'a mut Rotation> {
    let rotation = credential.rotations.last_mut().filter(|rotation| rotation.id == id && rotation.step.is_open())?;
    (rotation.step, rotation.step_at, rotation.step_by) = (step, at.time, at.actor);
    Some(rotation)
}
