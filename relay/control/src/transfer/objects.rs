//! What a line comes to here: the object it is about, the commands that make it so, and whether something stands in the way.
//!
//! The same judgement is made when the file is checked and when it is applied; only the latter seals texts and secrets, which is no event yet.
//! Here is what every line goes through; below, a file for each kind of object.

mod bindings;
mod difference;
mod expiry;
mod keys;
mod policies;
mod pools;
mod tenants;
mod texts;
mod upstreams;

use projector::ReadError;
use schemas::aggregate::Head;
use schemas::binding::BindingError;
use schemas::key::KeyError;
use schemas::policy::PolicyError;
use schemas::upstream::UpstreamError;
use schemas::{Aggregate, Command, CommandId, Context, Digest, Rejection, Stream, decide};
use thiserror::Error;
use vault::{SealError, SealFieldError, SecretAddress, UnsealError, UnsealFieldError};

use super::file::Kind;
use super::import::{Import, LineFault, OnConflict, Outcome, RawLine};
use super::line::Line;
use crate::http::rejection_code;

/// Whether texts and secrets are sealed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Look,
    Apply,
}

/// One command of a line.
pub(crate) struct Step {
    pub(crate) command_id: CommandId,
    pub(crate) stream: Stream,
    pub(crate) command: Command,
    /// The version that the line was judged on; none for what stands beside it.
    pub(crate) if_version: Option<schemas::Version>,
}

/// What a line comes to.
pub(crate) struct Prepared {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
    pub(crate) detail: Option<String>,
    /// In their order; the last but a revocation is the line's own.
    pub(crate) steps: Vec<Step>,
    /// Of the request, for the headers of its records.
    pub(crate) request_digest: Digest,
    /// A secret that goes out of use.
    pub(crate) erase: Option<SecretAddress>,
    /// A module that must be where every node finds it before its record is.
    pub(crate) module: Option<Digest>,
}

/// Why a line cannot be judged: the line's fault, or the node's.
#[derive(Debug, Error)]
pub(crate) enum PrepareError {
    #[error("{detail}")]
    Line { code: &'static str, detail: String },
    #[error("the read models cannot be read")]
    Read(#[from] ReadError),
    #[error("a text cannot be sealed")]
    SealField(#[from] SealFieldError),
    #[error("a text cannot be unsealed")]
    UnsealField(#[from] UnsealFieldError),
    #[error("a secret cannot be sealed")]
    Seal(#[from] SealError),
    #[error("a secret cannot be unsealed")]
    Unseal(#[from] UnsealError),
}

impl PrepareError {
    pub(crate) fn line(code: &'static str, detail: impl Into<String>) -> Self {
        Self::Line { code, detail: detail.into() }
    }

    /// As it is told of a line; none where the line is not at fault.
    pub(crate) fn fault(&self, line: u64) -> Option<LineFault> {
        match self {
            Self::Line { code, detail } => Some(LineFault { line, code, detail: detail.clone() }),
            _ => None,
        }
    }
}

/// An aggregate as it is here.
struct Here {
    state: Option<Aggregate>,
    head: Head,
    /// It is there, and not removed.
    is_there: bool,
    /// It is there because every cluster has it, and nobody has touched it.
    is_pristine: bool,
}

/// What a judgement says, and the command to give.
struct Judged {
    outcome: Outcome,
    detail: Option<String>,
    command: Command,
}

impl Import {
    /// What a line comes to. Blocks.
    pub(crate) fn prepare(&self, raw: &RawLine, line: &Line, pass: Pass) -> Result<Prepared, PrepareError> {
        let mut prepared = Prepared {
            number: raw.number,
            kind: line.kind(),
            id: line.id(),
            outcome: Outcome::Unchanged,
            detail: None,
            steps: Vec::new(),
            request_digest: self.app.vault.keyed_digest(&raw.text),
            erase: None,
            module: None,
        };
        match line {
            Line::Tenant(line) => self.tenant(line, pass, &mut prepared)?,
            Line::Pool(line) => self.pool_line(line, &mut prepared)?,
            Line::Price(line) => self.prices(line, &mut prepared)?,
            Line::Upstream(line) => self.upstream_line(line, pass, &mut prepared)?,
            Line::Key(line) => self.key_line(line, pass, &mut prepared)?,
            Line::Policy(line) => self.policy(line, &mut prepared)?,
            Line::Binding(line) => self.binding(line, &mut prepared)?,
            Line::Usage(_) => {
                prepared.outcome = Outcome::NotCarried;
                prepared.detail = Some("usage is counted from requests, and never imported".to_owned());
            }
        }
        Ok(prepared)
    }

    fn here(&self, stream: &Stream) -> Result<Here, ReadError> {
        let (state, head) = self.app.models.load(stream)?;
        let is_there = match &state {
            None => false,
            Some(Aggregate::Pool(pool)) => !pool.removed,
            Some(Aggregate::Upstream(upstream)) => !upstream.removed,
            Some(Aggregate::Binding(binding)) => !binding.removed,
            Some(Aggregate::Key(key)) => !key.is_purged(),
            Some(_) => true,
        };
        let tenant = schemas::TenantId::default_tenant();
        let founded = [Stream::pool(tenant.clone(), self.app.cluster_id.default_pool_id()), Stream::tenant_of(tenant)];
        let is_default = founded.contains(stream);
        Ok(Here { state, head, is_there, is_pristine: is_default && head.version.0 == 1 })
    }

    /// The id of a line's command. What sets an object that is there names the version it is set from, so that a file can be imported again
    /// after other changes, and never twice onto the same.
    fn command_id(&self, stream: &Stream, number: u64, here: &Here) -> CommandId {
        let step = match self.on_conflict {
            OnConflict::Force => format!("line {number} force {}", here.head.version.0),
            OnConflict::Merge if here.is_there => format!("line {number} merge {}", here.head.version.0),
            OnConflict::Ask | OnConflict::Skip | OnConflict::Merge => format!("line {number}"),
        };
        CommandId::of(stream.tenant(), &self.actor(), &step)
    }

    /// Whether this very file has applied this line before, in whatever state the object is now.
    fn was_applied(&self, stream: &Stream, number: u64) -> Result<bool, ReadError> {
        let id = CommandId::of(stream.tenant(), &self.actor(), &format!("line {number}"));
        Ok(self.app.models.command(&id)?.is_some())
    }

    /// Judges the command that makes an object what the file says. `merge` is the one that only fills what it does not have.
    fn judge(&self, stream: &Stream, number: u64, here: &Here, command: Command, merge: Option<Command>) -> Result<Judged, PrepareError> {
        let context = Context { now: self.app.now(), actor: self.actor() };
        let decision = decide(here.state.as_ref(), &command, &context);
        let judged = |outcome, detail: Option<String>| Judged { outcome, detail, command: command.clone() };
        let events = match decision {
            Err(rejection) if !is_of_state(&rejection) => return Err(refusal(&rejection)),
            Ok(events) if events.is_empty() => return Ok(judged(Outcome::Unchanged, None)),
            decision => decision,
        };
        let is_forced = self.on_conflict == OnConflict::Force;
        if !is_forced && self.was_applied(stream, number)? {
            return Ok(judged(Outcome::Unchanged, Some("applied from this file before".to_owned())));
        }
        let differs = match (here.is_there, events) {
            (_, Err(rejection)) if is_forced || !here.is_there => return Ok(judged(Outcome::Refused, Some(rejection.to_string()))),
            (_, Err(rejection)) => rejection.to_string(),
            (false, Ok(_)) => return Ok(judged(Outcome::Created, None)),
            (true, Ok(events)) => difference::told(here.state.as_ref(), stream, &events, &context),
        };
        if is_forced || here.is_pristine {
            return Ok(judged(Outcome::Changed, None));
        }
        match self.on_conflict {
            OnConflict::Force => Ok(judged(Outcome::Changed, None)),
            OnConflict::Ask => Ok(judged(Outcome::Conflict, Some(differs))),
            OnConflict::Skip => Ok(judged(Outcome::Skipped, Some(differs))),
            OnConflict::Merge => {
                let Some(command) = merge else { return Ok(judged(Outcome::Skipped, Some(differs))) };
                match decide(here.state.as_ref(), &command, &context) {
                    Ok(events) if events.is_empty() => Ok(judged(Outcome::Skipped, Some(differs))),
                    Ok(_) => Ok(Judged { outcome: Outcome::Changed, detail: None, command }),
                    Err(rejection) => Ok(judged(Outcome::Refused, Some(rejection.to_string()))),
                }
            }
        }
    }

    /// Judges a line of one command, and takes it in.
    fn settle(
        &self,
        stream: Stream,
        here: &Here,
        command: Command,
        merge: Option<Command>,
        prepared: &mut Prepared,
    ) -> Result<(), PrepareError> {
        let judged = self.judge(&stream, prepared.number, here, command, merge)?;
        (prepared.outcome, prepared.detail) = (judged.outcome, judged.detail);
        if matches!(judged.outcome, Outcome::Created | Outcome::Changed) {
            let command_id = self.command_id(&stream, prepared.number, here);
            prepared.steps.push(Step { command_id, stream, command: judged.command, if_version: Some(here.head.version) });
        }
        Ok(())
    }
}

/// Whether a command is refused for what is here, and not for what it says.
fn is_of_state(rejection: &Rejection) -> bool {
    match rejection {
        Rejection::Key(error) => matches!(error, KeyError::Exists | KeyError::NotFound | KeyError::Revoked | KeyError::Archived),
        Rejection::Upstream(error) => matches!(error, UpstreamError::Exists | UpstreamError::NotFound),
        Rejection::Binding(error) => matches!(error, BindingError::Exists | BindingError::NotFound),
        Rejection::Policy(error) => matches!(error, PolicyError::Exists { .. }),
        _ => false,
    }
}

fn refusal(rejection: &Rejection) -> PrepareError {
    PrepareError::line(rejection_code(rejection), rejection.to_string())
}
