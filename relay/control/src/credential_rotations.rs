//! Rotations of upstream credentials, taken forward: whatever step comes next and may be taken now is taken, by whichever node holds the lease.
//!
//! What there is to do is worked out from the state of the credential and the time alone, so that a node which takes over after another one died goes on
//! where that one was. The lease only keeps two nodes from doing the same; that nothing is done twice is the log's doing. A secret that went out of
//! use is destroyed after the record that says so, and again until the key store has confirmed it.

mod orders;
mod scheduler;
mod trial;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coordination::Coordination;
use projector::{ReadModels, Route};
use schemas::credential::rotation::{EndCause, Rotation, RotationCommand, RotationStep, StepCause};
use schemas::credential::{Credential, CredentialCommand};
use schemas::{Actor, Aggregate, Command, CommandId, CredentialId, Digest, RotationId, Sequence, Stream, Timestamp, WriterId};
use thiserror::Error;
use tokio::time::Instant;
use vault::{StoreError, UnsealError, Vault};

use crate::commands::{Commands, ExecuteError, Request};
use crate::fence::{Applied, FencePosts};
use crate::http::{ProbeSecret, enrolled_nodes, secret_address};
use crate::key_providers::KeyProviders;
use crate::oauth::TokenClient;
use crate::{Clock, Receipt};

pub use scheduler::RotationScheduler;
pub(crate) use trial::{StillGood, TrialOutcome};

/// How long a step waits for live nodes that are behind, after which it is taken all the same.
const FENCE_WAIT_MAX: Duration = Duration::from_secs(600);
/// The same where the old secret is known to others.
const FENCE_WAIT_MAX_COMPROMISE: Duration = Duration::from_secs(20);
/// Rotations of which is remembered that their secret is destroyed; beyond it all is forgotten, and they are destroyed once more.
const ERASED_MAX: usize = 4_096;
/// For how long after its end it is looked whether the secret of a rotation is destroyed; what is left then goes with the orphans.
const ERASE_SECONDS: u64 = 48 * 3600;

/// Takes rotations forward.
pub struct CredentialRotations {
    pub commands: Commands,
    pub models: ReadModels,
    pub vault: Arc<Vault>,
    pub coordination: Arc<dyn Coordination>,
    pub clock: Clock,
    pub probe: ProbeSecret,
    /// Who makes keys, and when they are due.
    pub providers: KeyProviders,
    /// Speaks to them.
    pub client: TokenClient,
    /// What this node has done about rotations that the log does not say.
    pub notes: RotationNotes,
}

/// A rotation and whose it is: callers choose the ids of rotations, and may choose one twice.
type RotationOf = (CredentialId, RotationId);

const fn of(credential: &Credential, rotation: &Rotation) -> RotationOf {
    (credential.id, rotation.id)
}

/// What a node remembers of rotations until it ends. All of it may be lost.
#[derive(Default)]
pub struct RotationNotes {
    trials: trial::Trials,
    pauses: orders::Pauses,
    /// Rotations whose destroyed secret the key store has confirmed. Written by the scheduler and by requests.
    erased: Mutex<HashSet<RotationOf>>,
}

/// What comes next in a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Ask the provider with the new secret.
    Try,
    /// Take this step.
    Step(StepOf),
    /// Ask the provider whether it still takes the new secret: the old one was needed.
    TryAgain,
    /// Destroy the secret that is out of use.
    Erase,
}

/// A step that needs no call of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepOf {
    Promote,
    Drain(StepCause),
    Finish(StepCause),
    Abort(EndCause),
    RollBack(EndCause),
}

/// Why a rotation does not go on now.
#[derive(Debug, Error)]
pub(crate) enum RotationStepError {
    #[error("the record could not be written")]
    Execute(#[from] ExecuteError),
    #[error("the read models cannot be read")]
    Read(#[from] projector::ReadError),
    #[error("a secret that is out of use could not be destroyed yet")]
    Erase(#[from] StoreError),
    #[error("a task ended early")]
    Task(#[from] tokio::task::JoinError),
}

impl RotationNotes {
    fn is_erased(&self, rotation: RotationOf) -> bool {
        self.erased.lock().unwrap_or_else(PoisonError::into_inner).contains(&rotation)
    }

    fn note_erased(&self, rotation: RotationOf) {
        let mut erased = self.erased.lock().unwrap_or_else(PoisonError::into_inner);
        if erased.len() >= ERASED_MAX {
            erased.clear();
        }
        erased.insert(rotation);
    }
}

impl CredentialRotations {
    /// What the newest rotation of a credential needs now, if anything.
    fn next(&self, credential: &Credential, now: Timestamp) -> Option<(Rotation, Next)> {
        let rotation = credential.rotations.last()?;
        let next = match rotation.step {
            // Whoever staged it tells when the provider knows it.
            RotationStep::Staged => None,
            // Not for time alone: nobody may have tried while nodes were down.
            RotationStep::Installed
                if rotation.step_at.plus_seconds(trial::UNTESTABLE_SECONDS) <= now
                    && self.notes.trials.was_tried(of(credential, rotation)) =>
            {
                Some(Next::Step(StepOf::Abort(EndCause::Untestable)))
            }
            RotationStep::Installed => self.notes.trials.is_due(of(credential, rotation)).then_some(Next::Try),
            RotationStep::Tested => Some(Next::Step(StepOf::Promote)),
            // A pause stands behind whatever was tried in vain.
            RotationStep::Dual | RotationStep::Draining if !self.notes.trials.is_due(of(credential, rotation)) => None,
            RotationStep::Dual if rotation.is_refused_in_use() => Some(Next::Step(StepOf::RollBack(EndCause::Refused))),
            RotationStep::Dual if self.notes.trials.is_news(of(credential, rotation), rotation) => Some(Next::TryAgain),
            RotationStep::Dual => rotation.due(now).map(|cause| Next::Step(StepOf::Drain(cause))),
            RotationStep::Draining => rotation.due(now).map(|cause| Next::Step(StepOf::Finish(cause))),
            RotationStep::Finished | RotationStep::Aborted | RotationStep::RolledBack => {
                let is_recent = rotation.step_at.plus_seconds(ERASE_SECONDS) > now;
                (is_recent && !self.notes.is_erased(of(credential, rotation))).then_some(Next::Erase)
            }
        };
        next.map(|next| (rotation.clone(), next))
    }

    /// Does what comes next. Whoever asks sees the outcome in the log.
    async fn go_on(&self, route: &Route, credential: &Credential, rotation: &Rotation, next: Next) -> Result<(), RotationStepError> {
        let step = match next {
            Next::Erase => return self.erase_loser(credential, rotation).await,
            Next::Try => match self.trial(route, credential, rotation).await {
                TrialOutcome::Passed(tested) => {
                    let command = RotationCommand::Pass(Box::new(tested));
                    self.execute(credential, rotation, command).await?;
                    return Ok(());
                }
                TrialOutcome::Ended(cause) => StepOf::Abort(cause),
                TrialOutcome::Again(_) => return Ok(()),
            },
            Next::TryAgain => match self.trial_again(route, credential, rotation).await {
                true => return Ok(()),
                false => StepOf::RollBack(EndCause::Refused),
            },
            Next::Step(step) => step,
        };
        let waits = matches!(step, StepOf::Promote | StepOf::Finish(_));
        if waits && !self.all_know(credential, rotation).await? {
            return Ok(());
        }
        let Some(step) = self.safe(route, credential, rotation, step).await? else { return Ok(()) };
        let id = rotation.id;
        let command = match step {
            StepOf::Promote => RotationCommand::Promote { rotation: id },
            StepOf::Drain(cause) => RotationCommand::Drain { rotation: id, cause },
            StepOf::Finish(cause) => RotationCommand::Finish { rotation: id, cause },
            StepOf::Abort(cause) => RotationCommand::Abort { rotation: id, cause },
            StepOf::RollBack(cause) => RotationCommand::RollBack { rotation: id, cause },
        };
        let receipt = self.execute(credential, rotation, command).await?;
        self.after(receipt).await
    }

    /// The step that may be taken where one would destroy a secret, after a look at the other one; none where it has to wait.
    async fn safe(
        &self,
        route: &Route,
        credential: &Credential,
        rotation: &Rotation,
        step: StepOf,
    ) -> Result<Option<StepOf>, RotationStepError> {
        if matches!(step, StepOf::Finish(_)) {
            self.identify_first(route, credential, rotation.previous.version).await;
        }
        let step = match step {
            // What was tested a moment ago, and the old one is out of use already.
            StepOf::Finish(_) if rotation.compromise => step,
            StepOf::Finish(_) => match self.still_good(route, credential, rotation).await {
                StillGood::Yes => step,
                StillGood::Unknown => return Ok(None),
                StillGood::No => StepOf::RollBack(EndCause::Refused),
            },
            step => step,
        };
        if matches!(step, StepOf::RollBack(_)) && !self.opens(credential, rotation.previous.version).await? {
            self.notes.trials.rest(of(credential, rotation));
            tracing::error!(rotation.id = %rotation.id, "a rotation cannot be rolled back: the old credential cannot be opened; rotate to another one");
            return Ok(None);
        }
        Ok(Some(step))
    }

    /// Whether a secret of the credential can be opened.
    pub(crate) async fn opens(&self, credential: &Credential, version: u32) -> Result<bool, RotationStepError> {
        let address = secret_address(&credential.tenant, credential.id, version, &credential.origin);
        let vault = Arc::clone(&self.vault);
        let opened = tokio::task::spawn_blocking(move || vault.unseal(&address).map(drop)).await?;
        match opened {
            Ok(()) => Ok(true),
            Err(UnsealError::Store(error)) => Err(error.into()),
            Err(UnsealError::Missing | UnsealError::Erased | UnsealError::Tampered | UnsealError::WrongRootKey { .. }) => Ok(false),
        }
    }

    /// Executes a step for the scheduler. Two nodes at once, or one twice, are one command.
    async fn execute(&self, credential: &Credential, rotation: &Rotation, command: RotationCommand) -> Result<Receipt, RotationStepError> {
        let stream = Stream::credential(credential.tenant.clone(), credential.id);
        // A caller may give several credentials one rotation id.
        let name = format!("rotation {} of {} after {}", rotation.id, credential.id, rotation.step.as_str());
        let request = Request {
            command_id: CommandId::of(&credential.tenant, &Actor::Scheduler, &format!("{name}: {}", verb(&command))),
            command: Command::Credential(CredentialCommand::Rotate(command)),
            actor: Actor::Scheduler,
            request_digest: Digest::blake3(b"keyrelay credential rotation"),
            if_version: None,
            deadline: Commands::deadline(),
            stream,
        };
        Ok(self.commands.execute(request).await?)
    }

    /// Destroys the secret that a step took out of use, if it took one, and tells of it.
    pub(crate) async fn after(&self, receipt: Receipt) -> Result<(), RotationStepError> {
        let Aggregate::Credential(credential) = receipt.aggregate else { return Ok(()) };
        let Some(rotation) = credential.rotations.last() else { return Ok(()) };
        let (id, step, end) = (rotation.id, rotation.step, rotation.end);
        match step {
            RotationStep::RolledBack => {
                tracing::error!(rotation.id = %id, ?end, "a rotation was rolled back: the old credential is in use again")
            }
            RotationStep::Aborted => tracing::warn!(rotation.id = %id, ?end, "a rotation was aborted: the credential is as it was"),
            step => tracing::info!(rotation.id = %id, step = step.as_str(), "a rotation has gone on"),
        }
        if step.is_open() {
            return Ok(());
        }
        self.erase_loser(&credential, rotation).await
    }

    /// Destroys the secret that the end of a rotation took out of use. Doing it again is safe.
    async fn erase_loser(&self, credential: &Credential, rotation: &Rotation) -> Result<(), RotationStepError> {
        let version = match rotation.step {
            RotationStep::Finished => rotation.previous.version,
            _ => rotation.secret_version,
        };
        if !credential.revoked && version == credential.secret_version {
            return Ok(());
        }
        let address = secret_address(&credential.tenant, credential.id, version, &credential.origin);
        let vault = Arc::clone(&self.vault);
        tokio::task::spawn_blocking(move || vault.erase(&address)).await??;
        self.notes.note_erased(of(credential, rotation));
        Ok(())
    }

    /// Whether all live nodes know what the credential has come to, or were waited for long enough. A node that does not would go on with the secret
    /// that is about to be destroyed, or not find the new one.
    async fn all_know(&self, credential: &Credential, rotation: &Rotation) -> Result<bool, RotationStepError> {
        let (_, head) = self.models.load(&Stream::credential(credential.tenant.clone(), credential.id))?;
        if self.is_known(head.sequence).await? {
            return Ok(true);
        }
        let patience = if rotation.compromise { FENCE_WAIT_MAX_COMPROMISE } else { FENCE_WAIT_MAX };
        let is_over = self.notes.trials.waited(of(credential, rotation), rotation.step) >= patience;
        if is_over {
            tracing::warn!(rotation.id = %rotation.id, "a rotation goes on though a live node may not know of it yet");
        }
        Ok(is_over)
    }

    /// The nodes that do not know yet what the credential has come to, after a wait for them.
    pub(crate) async fn behind(&self, credential: &Credential, patience: Duration) -> Result<Vec<WriterId>, RotationStepError> {
        let (_, head) = self.models.load(&Stream::credential(credential.tenant.clone(), credential.id))?;
        let fence = self.posts()?.wait(head.sequence, patience).await;
        Ok(if fence.reached { vec![] } else { fence.missing })
    }

    async fn is_known(&self, sequence: Sequence) -> Result<bool, projector::ReadError> {
        Ok(self.posts()?.wait(sequence, Duration::ZERO).await.reached)
    }

    fn posts(&self) -> Result<FencePosts<'_>, projector::ReadError> {
        Ok(FencePosts {
            coordination: &*self.coordination,
            models: &self.models,
            this: self.commands.writer().id(),
            enrolled: enrolled_nodes(&self.models)?,
            applied: Applied::Record,
            began: Instant::now(),
        })
    }
}

/// What a command does, for its id.
const fn verb(command: &RotationCommand) -> &'static str {
    match command {
        RotationCommand::Stage { .. } => "stage",
        RotationCommand::Install { .. } => "install",
        RotationCommand::Pass(_) => "pass",
        RotationCommand::Promote { .. } => "promote",
        RotationCommand::Drain { .. } => "drain",
        RotationCommand::Finish { .. } => "finish",
        RotationCommand::Abort { .. } => "abort",
        RotationCommand::RollBack { .. } => "roll back",
        RotationCommand::NoteFallback(_) => "note",
    }
}
