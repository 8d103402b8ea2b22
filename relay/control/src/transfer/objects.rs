//! What a line comes to here: the object it is about, the commands that make it so, and whether something stands in the way.
//!
//! The same judgement is made when the file is checked and when it is applied; only the latter seals texts and secrets, which is no event yet.

use projector::ReadError;
use schemas::aggregate::Head;
use schemas::binding::{BindingCommand, BindingCreated, BindingError, Bound, Mode, Scope};
use schemas::credential::{Credential, CredentialAdded, CredentialCommand};
use schemas::key::import::ImportedFact;
use schemas::key::{
    Dedicated, ImportedSecret, Key, KeyCommand, KeyDetails, KeyError, KeyImport, KeyPatch, Limits, METADATA_EMPTY, SecretScheme, Term,
};
use schemas::policy::{PolicyCommand, PolicyError, PolicyUploaded};
use schemas::pool::{Pool, PoolCommand};
use schemas::tenant::{TenantChanged, TenantCommand};
use schemas::upstream::{Upstream, UpstreamCommand, UpstreamDetails, UpstreamError, UpstreamImport, UpstreamLabels, UpstreamPatch, origin};
use schemas::{Aggregate, Command, CommandId, Context, Digest, Event, Rejection, Sealed, Stream, decide};
use thiserror::Error;
use vault::{Lifetime, SealError, SealFieldError, Sealing, SecretAddress, UnsealError, UnsealFieldError};
use zeroize::Zeroizing;

use super::file::Kind;
use super::import::{Import, LineFault, OnConflict, Outcome, RawLine};
use super::line::{
    BindingLine, FactLine, KeyLine, Line, ModeLine, PolicyLine, PoolLine, PriceLine, SchemeText, ScopeLine, SealedText, TenantLine,
    UpstreamLine,
};
use super::privacy::{open, place, withheld_hash};
use crate::http::{canonical_base_url, rejection_code, secret_address};

/// The longest description or reason, as the API takes them.
const TEXT_BYTES_MAX: usize = 4096;

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
    /// Reads a line.
    pub(crate) fn parse(raw: &RawLine) -> Result<Line, PrepareError> {
        serde_json::from_slice(&raw.text).map_err(|error| PrepareError::line("bad_line", error.to_string()))
    }

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
            (true, Ok(events)) => format!("it differs: {}", names(&events)),
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

    fn tenant(&self, line: &TenantLine, pass: Pass, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::tenant_of(line.tenant.clone());
        let here = self.here(&stream)?;
        let is_new = !matches!(&here.state, Some(Aggregate::Tenant(tenant)) if tenant.suspended.is_some());
        let suspended = match &line.suspended {
            Some(fact) => Some(self.reason(&stream, "tenant", &line.tenant, "suspended", fact, pass, is_new)?),
            None => None,
        };
        let &TenantLine { default_expiry_seconds, expiry_seconds_max, .. } = line;
        let details = TenantChanged { name: line.name.clone(), default_expiry_seconds, expiry_seconds_max };
        self.settle(stream, &here, Command::Tenant(TenantCommand::Import { details, suspended }), None, prepared)
    }

    fn pool_line(&self, line: &PoolLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        if line.removed {
            return Ok(());
        }
        let id = self.pool(line.id);
        let stream = Stream::pool(line.tenant.clone(), id);
        let here = self.here(&stream)?;
        if id != line.id {
            prepared.detail = Some(format!("it is {id} here"));
        }
        let is_default = id == self.app.cluster_id.default_pool_id();
        // The pool that both clusters were founded with keeps its name here unless that is forced.
        if here.is_there && id != line.id && !(is_default && (here.is_pristine || self.on_conflict == OnConflict::Force)) {
            return Ok(());
        }
        let detail = prepared.detail.take();
        self.settle(stream, &here, Command::Pool(PoolCommand::Import { name: line.name.clone() }), None, prepared)?;
        prepared.detail = prepared.detail.take().or(detail);
        Ok(())
    }

    fn prices(&self, line: &PriceLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let id = self.pool(line.pool);
        let stream = Stream::pool(line.tenant.clone(), id);
        let mut here = self.here(&stream)?;
        let command = Command::Pool(PoolCommand::Price { prices: line.prices.clone() });
        match &here.state {
            Some(Aggregate::Pool(pool)) if here.is_there => here.is_there = !pool.prices.is_empty(),
            // It comes with this file.
            _ => {
                let name = "new".to_owned();
                let (tenant, created_at, prices) = (line.tenant.clone(), self.app.now(), Vec::new());
                here.state = Some(Aggregate::Pool(Pool { id, tenant, name, prices, created_at, removed: false }));
            }
        }
        self.settle(stream, &here, command, None, prepared)
    }

    fn upstream_line(&self, line: &UpstreamLine, pass: Pass, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let id = self.upstream(line.id);
        let stream = Stream::upstream(line.tenant.clone(), id);
        let here = self.here(&stream)?;
        let before = match &here.state {
            Some(Aggregate::Upstream(upstream)) if here.is_there => Some(&**upstream),
            _ => None,
        };
        let base_url = canonical_base_url(&line.base_url).map_err(|error| PrepareError::line("bad_base_url", error.to_string()))?;
        let origin = origin(&base_url).unwrap_or_default().to_owned();
        let command_id = self.command_id(&stream, prepared.number, &here);
        let secret = line.credential.as_ref().map(|text| self.text("upstream", line.id, "credential", text)).transpose()?;
        if secret.as_ref().is_some_and(|secret| secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(PrepareError::line("bad_credential", "a credential is visible ASCII characters"));
        }
        let held = before.map(|upstream| self.live_credential(upstream)).transpose()?.flatten();
        let kept = held.as_ref().filter(|credential| {
            let is_same = |secret: &Zeroizing<String>| credential.fingerprint == self.app.vault.fingerprint(secret.as_bytes());
            // A sanitised file does not say what the credential is.
            credential.origin == origin && secret.as_ref().map_or(self.head().sanitized, is_same)
        });
        let new = secret.as_ref().filter(|_| kept.is_none()).map(|_| command_id.new_credential_id());
        let credential = kept.map(|credential| credential.id).or(new);
        let details = UpstreamDetails {
            name: line.name.clone(),
            dialect: line.dialect,
            base_url,
            pool: self.pool(line.pool),
            priority: line.priority,
            weight: line.weight,
            models: line.models.clone(),
        };
        let labels = UpstreamLabels { region: line.region.clone(), tags: line.tags.clone() };
        let withheld = self.head().sanitized && credential.is_none();
        let disabled = match &line.disabled {
            Some(fact) => {
                Some(self.reason(&stream, "upstream", line.id, "disabled", fact, pass, before.is_none_or(|b| b.disabled.is_none()))?)
            }
            None => withheld.then_some(None),
        };
        let merge = before.map(|upstream| merge_upstream(upstream, &details, &labels, new));
        let import = UpstreamImport { details, labels, credential, disabled };
        let command = Command::Upstream(UpstreamCommand::Import(Box::new(import)));
        let judged = self.judge(
            &stream,
            prepared.number,
            &here,
            command,
            merge.map(|patch| Command::Upstream(UpstreamCommand::Change(Box::new(patch)))),
        )?;
        (prepared.outcome, prepared.detail) = (judged.outcome, judged.detail);
        if withheld && judged.outcome == Outcome::Created {
            prepared.detail = Some("disabled: it has no credential".to_owned());
        }
        if !matches!(judged.outcome, Outcome::Created | Outcome::Changed) {
            return Ok(());
        }
        let credential_after = match &judged.command {
            Command::Upstream(UpstreamCommand::Import(import)) => import.credential,
            Command::Upstream(UpstreamCommand::Change(patch)) => patch.credential.unwrap_or(held.as_ref().map(|held| held.id)),
            _ => None,
        };
        if let (Some(secret), Some(new)) = (&secret, new.filter(|new| credential_after == Some(*new))) {
            let address = secret_address(&line.tenant, new, 1, &origin);
            if pass == Pass::Apply {
                self.seal(&address, secret)?;
            }
            let added = CredentialAdded { upstream: id, origin, fingerprint: self.app.vault.fingerprint(secret.as_bytes()) };
            prepared.steps.push(Step {
                command_id: command_id.step("credential"),
                stream: Stream::credential(line.tenant.clone(), new),
                command: Command::Credential(CredentialCommand::Add(added)),
                if_version: None,
            });
        }
        prepared.steps.push(Step { command_id, stream, command: judged.command, if_version: Some(here.head.version) });
        if let Some(held) = held.filter(|held| Some(held.id) != credential_after) {
            prepared.erase = Some(secret_address(&line.tenant, held.id, held.secret_version, &held.origin));
            prepared.steps.push(Step {
                command_id: command_id.step("revocation"),
                stream: Stream::credential(line.tenant.clone(), held.id),
                command: Command::Credential(CredentialCommand::Revoke),
                if_version: None,
            });
        }
        Ok(())
    }

    fn live_credential(&self, upstream: &Upstream) -> Result<Option<Credential>, ReadError> {
        let Some(id) = upstream.credential else { return Ok(None) };
        match self.app.models.load(&Stream::credential(upstream.tenant.clone(), id))?.0 {
            Some(Aggregate::Credential(credential)) if !credential.revoked => Ok(Some(credential)),
            _ => Ok(None),
        }
    }

    fn seal(&self, address: &SecretAddress, secret: &str) -> Result<(), PrepareError> {
        let vault = &self.app.vault;
        match vault.seal(address, secret.as_bytes(), Lifetime::lasting(self.app.now()))? {
            Sealing::Sealed => Ok(()),
            Sealing::Exists if vault.unseal(address)?.as_slice() == secret.as_bytes() => Ok(()),
            Sealing::Exists => Err(PrepareError::line("credential_taken", "another secret is sealed in this one's place")),
        }
    }

    fn key_line(&self, line: &KeyLine, pass: Pass, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::key(line.tenant.clone(), line.id);
        let here = self.here(&stream)?;
        let before = match &here.state {
            Some(Aggregate::Key(key)) if here.is_there => Some(&**key),
            _ => None,
        };
        let is_sanitized = self.head().sanitized;
        let details = KeyDetails {
            name: line.name.clone(),
            description: self.description(&stream, line, before, pass)?,
            owner: line.owner.clone(),
            tags: line.tags.clone(),
            pools: line.pools.iter().map(|pool| self.pool(*pool)).collect(),
            models: line.models.clone(),
            endpoints: line.endpoints.clone(),
            limits: line.limits.clone(),
        };
        let metadata = match before.filter(|_| is_sanitized) {
            Some(key) => key.metadata.clone(),
            None => policy_host::canonical_json(&serde_json::Value::Object(line.metadata.clone())),
        };
        let dedicated = line.dedicated.as_ref().map(|to| Dedicated { upstream: self.upstream(to.upstream), fallback: to.fallback });
        let term = match (line.activation_seconds, line.expires_at, line.expiry_unset) {
            (Some(seconds), None, false) => Term::AfterFirstUse { seconds },
            (None, Some(at), false) => Term::At(at),
            (None, None, true) => Term::Unset,
            (None, None, false) => Term::Never,
            _ => return Err(PrepareError::line("bad_import", "expires_at, activation_seconds and expiry_unset exclude each other")),
        };
        let fact = |member, fact: &Option<FactLine>, is_new| {
            let sealed = |fact: &FactLine| {
                Ok::<_, PrepareError>(ImportedFact { reason: self.reason(&stream, "key", line.id, member, fact, pass, is_new)? })
            };
            fact.as_ref().map(sealed).transpose()
        };
        let mut import = KeyImport {
            details,
            metadata,
            dedicated,
            secrets: secrets(line, before, is_sanitized),
            term,
            first_used_at: line.first_used_at,
            created_at: line.created_at,
            renewed_at: line.renewed_at,
            rotated_at: line.rotated_at,
            expired_at: line.expired_at,
            disabled: fact("disabled", &line.disabled, before.is_none_or(|key| key.disabled.is_none()))?,
            revoked: fact("revoked", &line.revoked, before.is_none_or(|key| key.revoked.is_none()))?,
            archived: fact("archived", &line.archived, before.is_none_or(|key| key.archived.is_none()))?,
        };
        let is_withheld = is_sanitized && before.is_none_or(|key| key.secrets.iter().all(|secret| secret.hash == withheld_hash(key.id)));
        if is_withheld {
            import.disabled = import.disabled.or(Some(ImportedFact { reason: None }));
        }
        let merge = before.map(|key| Command::Key(KeyCommand::Change(Box::new(merge_key(key, &import)))));
        let is_foreign = self.head().is_ours() && self.head().cluster_id != self.app.cluster_id;
        let is_keyed = line.secrets.iter().any(|secret| secret.scheme != SchemeText::Issued);
        self.settle(stream, &here, Command::Key(KeyCommand::Import(Box::new(import))), merge, prepared)?;
        if prepared.outcome == Outcome::Created && is_withheld {
            prepared.detail = Some("disabled: no secret opens it; rotate it for one, then enable it".to_owned());
        } else if is_keyed && is_foreign {
            prepared.detail =
                Some("a secret that was brought to the other cluster is known by that cluster's pepper, and opens nothing here".to_owned());
        }
        Ok(())
    }

    /// The description, sealed here: as it stands where it says the same.
    fn description(&self, stream: &Stream, line: &KeyLine, before: Option<&Key>, pass: Pass) -> Result<Option<Sealed>, PrepareError> {
        let held = before.and_then(|key| key.details.description.as_ref());
        let Some(text) = &line.description else {
            return Ok(held.filter(|_| self.head().sanitized).cloned());
        };
        let text = self.text("key", line.id, "description", text)?;
        if let Some(held) = held {
            match self.app.vault.unseal_field(held) {
                Ok(present) if present == text => return Ok(Some(held.clone())),
                Ok(_) | Err(UnsealFieldError::Erased) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.sealed(stream, &text, pass).map(Some)
    }

    /// The reason of a fact, sealed here where the fact is new.
    #[expect(clippy::too_many_arguments, reason = "where a text stands takes four words, and what becomes of it two")]
    fn reason(
        &self,
        stream: &Stream,
        kind: &str,
        id: impl std::fmt::Display,
        member: &str,
        fact: &FactLine,
        pass: Pass,
        is_new: bool,
    ) -> Result<Option<Sealed>, PrepareError> {
        let Some(reason) = &fact.reason else { return Ok(None) };
        let text = self.text(kind, id, member, reason)?;
        if is_new { self.sealed(stream, &text, pass).map(Some) } else { Ok(None) }
    }

    fn sealed(&self, stream: &Stream, text: &str, pass: Pass) -> Result<Sealed, PrepareError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(PrepareError::line("bad_request", "a description or reason is too long"));
        }
        match pass {
            Pass::Apply => Ok(self.app.vault.seal_field(stream, text)?),
            // Only that there is another text counts here.
            Pass::Look => Ok(Sealed { subject: stream.clone(), bytes: Vec::new() }),
        }
    }

    fn text(&self, kind: &str, id: impl std::fmt::Display, member: &str, text: &SealedText) -> Result<Zeroizing<String>, PrepareError> {
        let fault = |detail: &str| PrepareError::line("bad_seal", format!("{member}: {detail}"));
        let key = self.key.as_ref().ok_or_else(|| fault("the file's head says nothing of a passphrase"))?;
        open(key, &place(kind, id, member), text).map_err(|error| fault(&error.to_string()))
    }

    fn policy(&self, line: &PolicyLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::policy(line.tenant.clone(), &line.digest);
        let here = self.here(&stream)?;
        // One that is here is the same bytes: it needs no second look.
        let (bytes, manifest) = match (&here.state, self.admitted.get(&line.digest)) {
            (Some(Aggregate::Policy(policy)), _) => (policy.uploaded.bytes, policy.uploaded.manifest.clone()),
            (_, Some(admitted)) => (admitted.component.len() as u64, policy_host::Manifest::canonical(&admitted.manifest)),
            (_, None) => return Err(PrepareError::line("bad_policy", "the module was not admitted")),
        };
        let uploaded = PolicyUploaded {
            name: line.name.clone(),
            digest: line.digest,
            uploaded_digest: line.uploaded_digest,
            kind: line.kind,
            class: line.class,
            bytes,
            manifest,
        };
        self.settle(stream, &here, Command::Policy(PolicyCommand::Upload(Box::new(uploaded))), None, prepared)?;
        prepared.module = (prepared.outcome == Outcome::Created).then_some(line.digest);
        Ok(())
    }

    fn binding(&self, line: &BindingLine, prepared: &mut Prepared) -> Result<(), PrepareError> {
        let stream = Stream::binding(line.tenant.clone(), line.id);
        let here = self.here(&stream)?;
        let created = BindingCreated { kind: line.kind, scope: self.scope(line.scope), bound: bound(line) };
        self.settle(stream, &here, Command::Binding(BindingCommand::Import(Box::new(created))), None, prepared)
    }

    fn scope(&self, scope: ScopeLine) -> Scope {
        match scope {
            ScopeLine::Tenant => Scope::Tenant,
            ScopeLine::Pool(pool) => Scope::Pool(self.pool(pool)),
            ScopeLine::Key(key) => Scope::Key(key),
        }
    }
}

fn bound(line: &BindingLine) -> Bound {
    let mode = match line.mode {
        ModeLine::Enforce => Mode::Enforce,
        ModeLine::Canary(percent) => Mode::Canary(percent),
        ModeLine::Shadow => Mode::Shadow,
        ModeLine::Off => Mode::Off,
    };
    Bound { policy: line.policy, settings: policy_host::canonical_json(&line.settings), mode, on_fault: line.on_fault }
}

/// The secrets that the key is to have: the file's, or of a sanitised file those that are here, or one that nothing opens.
fn secrets(line: &KeyLine, before: Option<&Key>, is_sanitized: bool) -> Vec<ImportedSecret> {
    match before {
        _ if !is_sanitized => {
            let of = |secret: &super::line::SecretLine| {
                let scheme = secret.scheme.into();
                ImportedSecret { number: secret.number, hash: secret.hash, scheme, valid_until: secret.valid_until }
            };
            line.secrets.iter().map(of).collect()
        }
        Some(key) => {
            let of = |secret: &schemas::key::KeySecret| ImportedSecret {
                number: secret.number,
                hash: secret.hash,
                scheme: secret.scheme,
                valid_until: secret.valid_until,
            };
            key.secrets.iter().map(of).collect()
        }
        None => vec![ImportedSecret { number: 1, hash: withheld_hash(line.id), scheme: SecretScheme::Issued, valid_until: None }],
    }
}

/// What a key that is here does not have, and the file does.
fn merge_key(key: &Key, import: &KeyImport) -> KeyPatch {
    let (held, given) = (&key.details, &import.details);
    let fill = |held: &Vec<String>, given: &Vec<String>| held.is_empty().then(|| given.clone());
    let limits = Limits {
        requests_per_minute: held.limits.requests_per_minute.or(given.limits.requests_per_minute),
        concurrency: held.limits.concurrency.or(given.limits.concurrency),
    };
    KeyPatch {
        description: held.description.is_none().then(|| given.description.clone()),
        owner: held.owner.is_none().then(|| given.owner.clone()),
        tags: fill(&held.tags, &given.tags),
        models: fill(&held.models, &given.models),
        endpoints: held.endpoints.is_empty().then(|| given.endpoints.clone()),
        limits: Some(limits),
        metadata: (key.metadata == METADATA_EMPTY).then(|| import.metadata.clone()),
        dedicated: key.dedicated.is_none().then_some(import.dedicated),
        ..KeyPatch::default()
    }
}

/// What an upstream that is here does not have, and the file does.
fn merge_upstream(
    upstream: &Upstream,
    details: &UpstreamDetails,
    labels: &UpstreamLabels,
    credential: Option<schemas::CredentialId>,
) -> UpstreamPatch {
    // A secret goes only where it was entered for.
    let is_same_base = upstream.details.base_url == details.base_url;
    UpstreamPatch {
        models: upstream.details.models.is_empty().then(|| details.models.clone()),
        region: upstream.labels.region.is_none().then(|| labels.region.clone()),
        tags: upstream.labels.tags.is_empty().then(|| labels.tags.clone()),
        credential: credential.filter(|_| upstream.credential.is_none() && is_same_base).map(Some),
        ..UpstreamPatch::default()
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

fn names(events: &[Event]) -> String {
    events.iter().map(Event::name).collect::<Vec<_>>().join(", ")
}
