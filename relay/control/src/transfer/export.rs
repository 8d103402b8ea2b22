//! Writing a file, from the rows of one moment.
//!
//! The head stands first and counts what follows, so the body is written aside, counted and hashed before anything goes out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use event_log::artefacts::{ArtefactError, ArtefactKind};
use projector::{ReadError, Whole};
use schemas::binding::{Mode, Scope};
use schemas::credential::Credential;
use schemas::key::{Expiry, Fact, Key, RotationSchedule};
use schemas::pool::Pool;
use schemas::tenant::{Tenant, TenantChanged};
use schemas::time::day_text;
use schemas::upstream::Upstream;
use schemas::{Aggregate, CredentialId, Digest, KeyId, PoolId, Sealed, StreamKind, TenantId, UpstreamId};
use thiserror::Error;
use tokio::runtime::Handle;
use vault::{NoRandomness, UnsealError, UnsealFieldError};

use super::file::{Count, FORMAT, Head, Kind, LeftOut, ORIGIN};
use super::line::{
    BindingLine, DedicatedLine, FactLine, KeyLine, Line, ModeLine, PolicyLine, PoolLine, PriceLine, RotationLine, ScopeLine, SealedText,
    SecretLine, TenantLine, UpstreamLine, UsageLine,
};
use super::privacy::{Privacy, place};
use crate::App;
use crate::http::secret_address;

/// What no export holds.
const LEFT_OUT: [(&str, &str); 6] = [
    ("events", "what happened stays in this cluster's log: `keyrelay audit export` carries it"),
    ("decisions", "records of policy decisions belong to the log that they refer to"),
    ("requests", "usage is exported as sums by key and day, without single requests"),
    ("removed upstreams and bindings, purged keys and what is bound to them", "they are gone"),
    ("what a rollback of a binding returns to", "only what is bound now is exported"),
    ("users and sessions", "there are none yet: the owner's token is all that opens the admin side"),
];
/// And what a sanitised one leaves out beside.
const SANITIZED: [(&str, &str); 2] = [
    ("tenants, upstreams: credentials, reasons and who gave them", "sanitised"),
    ("keys: secrets, description, owner, metadata, reasons and who gave them", "sanitised"),
];

/// Why an export broke off.
#[derive(Debug, Error)]
pub(crate) enum ExportError {
    #[error("the export cannot be written")]
    Write(#[from] io::Error),
    #[error("the read models cannot be read")]
    Models(#[source] ReadError),
    #[error("the secret of upstream {id} cannot be unsealed; if it was changed just now, try again")]
    Credential { id: UpstreamId, source: UnsealError },
    #[error("a personal text of {subject} cannot be unsealed")]
    Field { subject: String, source: UnsealFieldError },
    #[error("the module of policy {digest} is missing; upload it again to mend it")]
    ModuleMissing { digest: Digest },
    #[error("the module of a policy cannot be fetched")]
    Module(#[from] ArtefactError),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("a line cannot be written")]
    Line(#[from] serde_json::Error),
}

/// A file whose body is written: the head, and the body from its beginning.
pub(crate) struct Exported {
    pub(crate) head: Head,
    pub(crate) body: File,
}

/// Writes these kinds, of one tenant where one is named. Blocks.
pub(crate) fn write(
    app: &App,
    runtime: &Handle,
    kinds: &BTreeSet<Kind>,
    privacy: &Privacy,
    tenant: Option<&TenantId>,
) -> Result<Exported, ExportError> {
    let created_at = app.now();
    app.models
        .of_one_moment(tenant, |whole| {
            let mut body = Body { out: BufWriter::new(tempfile::tempfile()?), hasher: blake3::Hasher::new(), lines: 0 };
            let writer = Writer { app, runtime, whole, privacy };
            let mut counts = Vec::new();
            for kind in kinds {
                let before = body.lines;
                writer.kind(*kind, &mut body)?;
                counts.push(Count { kind: *kind, lines: body.lines - before });
            }
            let left_out = LEFT_OUT.iter().chain(privacy.is_sanitized().then_some(&SANITIZED).into_iter().flatten());
            let others = tenant.map(|_| ("all other tenants", "one was asked for"));
            let head = Head {
                keyrelay_export: FORMAT,
                created_at,
                cluster_id: app.cluster_id,
                sequence: whole.position().sequence,
                origin: ORIGIN.to_owned(),
                tenant: tenant.cloned(),
                sanitized: privacy.is_sanitized(),
                kinds: counts,
                left_out: left_out.chain(&others).map(|(what, why)| LeftOut { what: (*what).to_owned(), why: (*why).to_owned() }).collect(),
                sealing: privacy.terms().cloned(),
                digest: Digest::from_bytes([0; 32]),
            };
            let digest = Digest::from_bytes(*body.hasher.finalize().as_bytes());
            let mut file = body.out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.rewind()?;
            Ok(Exported { head: head.over(&digest), body: file })
        })
        .map_err(ExportError::Models)?
}

/// The body under way.
struct Body {
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    lines: u64,
}

impl Body {
    fn line(&mut self, line: &Line) -> Result<(), ExportError> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.hasher.update(&text);
        self.lines += 1;
        Ok(self.out.write_all(&text)?)
    }
}

struct Writer<'a> {
    app: &'a App,
    runtime: &'a Handle,
    whole: &'a Whole<'a>,
    privacy: &'a Privacy,
}

impl Writer<'_> {
    fn kind(&self, kind: Kind, body: &mut Body) -> Result<(), ExportError> {
        match kind {
            Kind::Tenants => self.each(StreamKind::Tenant, body, |aggregate| self.tenant(aggregate)),
            Kind::Pools => {
                self.each(StreamKind::Pool, body, |aggregate| self.pool(aggregate))?;
                self.forgotten_pools(body)
            }
            Kind::Prices => self.each(StreamKind::Pool, body, |aggregate| self.prices(aggregate)),
            Kind::Upstreams => {
                let credentials = self.credentials()?;
                self.each(StreamKind::Upstream, body, |aggregate| self.upstream(aggregate, &credentials))
            }
            Kind::Keys => self.each(StreamKind::Key, body, |aggregate| match aggregate {
                Aggregate::Key(key) if !key.is_purged() => self.key(&key).map(Some),
                _ => Ok(None),
            }),
            Kind::Policies => self.each(StreamKind::Policy, body, |aggregate| self.policy(aggregate)),
            Kind::Bindings => self.each(StreamKind::Binding, body, |aggregate| self.binding(aggregate)),
            Kind::Usage => self.usage(body),
            Kind::Users => Ok(()),
        }
    }

    fn each<L: IntoIterator<Item = Line>>(
        &self,
        kind: StreamKind,
        body: &mut Body,
        mut lines: impl FnMut(Aggregate) -> Result<L, ExportError>,
    ) -> Result<(), ExportError> {
        for aggregate in self.whole.aggregates(kind) {
            for line in lines(aggregate.map_err(ExportError::Models)?.value)? {
                body.line(&line)?;
            }
        }
        Ok(())
    }

    fn tenant(&self, aggregate: Aggregate) -> Result<Option<Line>, ExportError> {
        let Aggregate::Tenant(tenant) = aggregate else { return Ok(None) };
        let Tenant { id, details, created_at, suspended, rotations } = *tenant;
        let suspended = suspended.map(|fact| self.fact("tenant", &id, "suspended", &fact)).transpose()?;
        let TenantChanged { name, default_expiry_seconds, expiry_seconds_max } = details;
        let rotations = Some(rotations);
        let line = TenantLine { tenant: id, name, default_expiry_seconds, expiry_seconds_max, rotations, suspended, created_at };
        Ok(Some(Line::Tenant(line)))
    }

    fn pool(&self, aggregate: Aggregate) -> Result<Option<Line>, ExportError> {
        let Aggregate::Pool(Pool { id, tenant, name, created_at, removed, .. }) = aggregate else { return Ok(None) };
        Ok(Some(Line::Pool(PoolLine { tenant, id, name, created_at, removed })))
    }

    /// The pools that keys name and this cluster has never had: they were removed where the keys were imported from.
    fn forgotten_pools(&self, body: &mut Body) -> Result<(), ExportError> {
        let mut known = HashSet::new();
        for aggregate in self.whole.aggregates(StreamKind::Pool) {
            if let Aggregate::Pool(pool) = aggregate.map_err(ExportError::Models)?.value {
                known.insert((pool.tenant, pool.id));
            }
        }
        self.each(StreamKind::Key, body, |aggregate| {
            let Aggregate::Key(key) = aggregate else { return Ok(Vec::new()) };
            let named = key.details.pools.iter().filter(|pool| known.insert((key.tenant.clone(), **pool)));
            let line = |id: &PoolId| PoolLine {
                tenant: key.tenant.clone(),
                id: *id,
                name: id.to_string(),
                created_at: key.created_at,
                removed: true,
            };
            Ok(named.map(|id| Line::Pool(line(id))).collect())
        })
    }

    fn prices(&self, aggregate: Aggregate) -> Result<Option<Line>, ExportError> {
        Ok(match aggregate {
            Aggregate::Pool(pool) if !pool.removed && !pool.prices.is_empty() => {
                Some(Line::Price(PriceLine { tenant: pool.tenant, pool: pool.id, prices: pool.prices }))
            }
            _ => None,
        })
    }

    fn credentials(&self) -> Result<HashMap<CredentialId, Credential>, ExportError> {
        let all = self.whole.aggregates(StreamKind::Credential).filter_map(|aggregate| match aggregate {
            Ok(versioned) => match versioned.value {
                Aggregate::Credential(credential) if !credential.revoked => Some(Ok((credential.id, credential))),
                _ => None,
            },
            Err(error) => Some(Err(ExportError::Models(error))),
        });
        all.collect()
    }

    fn upstream(&self, aggregate: Aggregate, credentials: &HashMap<CredentialId, Credential>) -> Result<Option<Line>, ExportError> {
        let Aggregate::Upstream(upstream) = aggregate else { return Ok(None) };
        if upstream.removed {
            return Ok(None);
        }
        let live = upstream.credential.and_then(|id| credentials.get(&id)).filter(|credential| credential.origin == upstream.origin());
        // A grant that two clusters refresh is a grant that its provider revokes.
        let credential = match live.filter(|credential| !self.privacy.is_sanitized() && credential.grant.is_none()) {
            Some(credential) => self.credential(&upstream, credential)?,
            None => None,
        };
        let Upstream { id, tenant, details, labels, created_at, disabled, .. } = *upstream;
        let disabled = disabled.map(|fact| self.fact("upstream", id, "disabled", &fact)).transpose()?;
        Ok(Some(Line::Upstream(Box::new(UpstreamLine {
            tenant,
            id,
            name: details.name,
            dialect: details.dialect,
            base_url: details.base_url,
            pool: details.pool,
            priority: details.priority,
            weight: details.weight,
            models: details.models,
            region: labels.region,
            tags: labels.tags,
            credential,
            disabled,
            created_at,
        }))))
    }

    fn credential(&self, upstream: &Upstream, credential: &Credential) -> Result<Option<SealedText>, ExportError> {
        let address = secret_address(&upstream.tenant, credential.id, credential.secret_version, &credential.origin);
        let secret = self.app.vault.unseal(&address).map_err(|source| ExportError::Credential { id: upstream.id, source })?;
        Ok(self.privacy.text(&place("upstream", upstream.id, "credential"), &secret)?)
    }

    fn key(&self, key: &Key) -> Result<Line, ExportError> {
        let (details, id, is_sanitized) = (&key.details, key.id, self.privacy.is_sanitized());
        let fact = |member, fact: &Option<Fact>| fact.as_ref().map(|fact| self.fact("key", id, member, fact)).transpose();
        let secret = |secret: &schemas::key::KeySecret| SecretLine {
            number: secret.number,
            hash: secret.hash,
            scheme: secret.scheme.into(),
            valid_until: secret.valid_until,
        };
        Ok(Line::Key(Box::new(KeyLine {
            tenant: key.tenant.clone(),
            id,
            name: details.name.clone(),
            description: self.text("key", id, "description", details.description.as_ref())?,
            owner: details.owner.clone().filter(|_| !is_sanitized),
            tags: details.tags.clone(),
            pools: details.pools.clone(),
            models: details.models.clone(),
            endpoints: details.endpoints.clone(),
            limits: details.limits.clone(),
            metadata: if is_sanitized { serde_json::Map::new() } else { serde_json::from_str(&key.metadata)? },
            dedicated: key.dedicated.map(|to| DedicatedLine { upstream: to.upstream, fallback: to.fallback }),
            rotation: Some(key.rotation.map(|schedule| {
                let RotationSchedule { every_seconds, overlap_seconds } = schedule;
                RotationLine { every_seconds, overlap_seconds }
            })),
            secrets: if is_sanitized { Vec::new() } else { key.secrets.iter().map(secret).collect() },
            expires_at: match key.expiry {
                Expiry::At(at) => Some(at),
                Expiry::Never => None,
            },
            expiry_unset: key.is_expiry_unset,
            activation_seconds: key.activation.map(|activation| activation.seconds),
            first_used_at: key.first_used_at,
            expired_at: key.expired_at,
            created_at: key.created_at,
            renewed_at: key.renewed_at,
            rotated_at: key.rotated_at,
            disabled: fact("disabled", &key.disabled)?,
            revoked: fact("revoked", &key.revoked)?,
            archived: fact("archived", &key.archived)?,
        })))
    }

    fn fact(&self, kind: &str, id: impl std::fmt::Display, member: &str, fact: &Fact) -> Result<FactLine, ExportError> {
        let by = (!self.privacy.is_sanitized()).then_some(fact.by);
        Ok(FactLine { at: fact.at, by, reason: self.text(kind, id, member, fact.reason.as_ref())? })
    }

    /// A personal text, under the file's passphrase; none where it was erased.
    fn text(
        &self,
        kind: &str,
        id: impl std::fmt::Display,
        member: &str,
        sealed: Option<&Sealed>,
    ) -> Result<Option<SealedText>, ExportError> {
        let Some(sealed) = sealed.filter(|_| !self.privacy.is_sanitized()) else { return Ok(None) };
        match self.app.vault.unseal_field(sealed) {
            Ok(text) => Ok(self.privacy.text(&place(kind, id, member), text.as_bytes())?),
            Err(UnsealFieldError::Erased) => Ok(None),
            Err(source) => Err(ExportError::Field { subject: sealed.subject.to_string(), source }),
        }
    }

    fn policy(&self, aggregate: Aggregate) -> Result<Option<Line>, ExportError> {
        let Aggregate::Policy(policy) = aggregate else { return Ok(None) };
        let (tenant, uploaded) = (policy.tenant, policy.uploaded);
        let module = self.runtime.block_on(self.app.modules.artefacts().get(ArtefactKind::PolicyModule, &uploaded.digest))?;
        let module = module.ok_or(ExportError::ModuleMissing { digest: uploaded.digest })?;
        Ok(Some(Line::Policy(PolicyLine {
            tenant,
            digest: uploaded.digest,
            uploaded_digest: uploaded.uploaded_digest,
            name: uploaded.name,
            kind: uploaded.kind,
            class: uploaded.class,
            module: STANDARD.encode(&module),
        })))
    }

    fn binding(&self, aggregate: Aggregate) -> Result<Option<Line>, ExportError> {
        let Aggregate::Binding(binding) = aggregate else { return Ok(None) };
        let is_purged = |key| self.app.models.key(&binding.tenant, key).map(|key| key.is_none_or(|key| key.value.is_purged()));
        let is_moot = match binding.scope {
            Scope::Key(key) => is_purged(key).map_err(ExportError::Models)?,
            Scope::Tenant | Scope::Pool(_) => false,
        };
        if binding.removed || is_moot {
            return Ok(None);
        }
        Ok(Some(Line::Binding(Box::new(BindingLine {
            tenant: binding.tenant,
            id: binding.id,
            kind: binding.kind,
            scope: match binding.scope {
                Scope::Tenant => ScopeLine::Tenant,
                Scope::Pool(pool) => ScopeLine::Pool(pool),
                Scope::Key(key) => ScopeLine::Key(key),
            },
            policy: binding.bound.policy,
            settings: serde_json::from_str(&binding.bound.settings)?,
            mode: match binding.bound.mode {
                Mode::Enforce => ModeLine::Enforce,
                Mode::Canary(percent) => ModeLine::Canary(percent),
                Mode::Shadow => ModeLine::Shadow,
                Mode::Off => ModeLine::Off,
            },
            on_fault: binding.bound.on_fault,
        }))))
    }

    fn usage(&self, body: &mut Body) -> Result<(), ExportError> {
        for aggregate in self.whole.aggregates(StreamKind::Key) {
            let Aggregate::Key(key) = aggregate.map_err(ExportError::Models)?.value else { continue };
            for line in self.usage_of(&key.tenant, key.id)? {
                body.line(&line)?;
            }
        }
        Ok(())
    }

    fn usage_of(&self, tenant: &TenantId, key: KeyId) -> Result<Vec<Line>, ExportError> {
        let days = self.app.usage.key_usage(tenant, key).map_err(ExportError::Models)?.days;
        let line = |(day, totals): (u32, projector::usage::Totals)| {
            Line::Usage(Box::new(UsageLine {
                tenant: tenant.clone(),
                key,
                day: day_text(day),
                requests: totals.requests,
                input_tokens: totals.tokens.input(),
                output_tokens: totals.tokens.output(),
            }))
        };
        Ok(days.into_iter().map(line).collect())
    }
}
