//! Checking a whole file before anything of it is applied: every line by itself, and each against those before it and against what is here.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use policy_host::{ConfigureError, Module};
use projector::ReadError;
use schemas::{Digest, KeyId, PoolId, Stream, TenantId, UpstreamId};
use thiserror::Error;
use tokio::runtime::Handle;

use super::file::Kind;
use super::import::{Import, LineFault, OnConflict, Outcome, Tally};
use super::line::{BindingLine, KeyLine, Line, ModeLine, PolicyLine, ScopeLine};
use super::objects::{Pass, PrepareError, Prepared};
use crate::policies::ModuleKey;

/// Faults and conflicts that are told one by one.
const TOLD_MAX: usize = 100;
/// A conflict where nothing was asked for, a fault where it stands in the way of what was.
const DEFAULT_POOL: &str = "default";
const NAME_TAKEN: &str = "name_taken";
pub(crate) const SECRET_TAKEN: &str = "another key has this secret";

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) tally: Tally,
    pub(crate) faults: Told,
    pub(crate) conflicts: Told,
}

/// The first of many, and how many more there are.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) lines: Vec<LineFault>,
    pub(crate) more: u64,
}

/// Why a file could not be checked.
#[derive(Debug, Error)]
pub(crate) enum CheckError {
    #[error("the file cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
}

impl Told {
    fn push(&mut self, fault: LineFault) {
        if self.lines.len() < TOLD_MAX {
            self.lines.push(fault);
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// What stood in the lines before.
#[derive(Default)]
struct Seen {
    /// Streams, by a hash: a file may name millions.
    objects: HashSet<[u8; 16]>,
    names: HashSet<(Kind, TenantId, String)>,
    hashes: HashSet<Digest>,
    counts: HashMap<Kind, u64>,
    last: Option<Kind>,
    /// Which id has a name here.
    here: HashMap<(Kind, TenantId, String), [u8; 16]>,
}

impl Seen {
    fn has(&self, stream: &Stream) -> bool {
        self.objects.contains(&short(stream))
    }
}

fn short(stream: &Stream) -> [u8; 16] {
    let digest = Digest::blake3(stream.subject().as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&digest.as_bytes()[..16]);
    short
}

impl Import {
    /// Checks every line. Blocks, for seconds where there are policies to compile or many lines.
    pub(crate) fn check(&mut self, runtime: &Handle) -> Result<Findings, CheckError> {
        let mut findings = Findings::default();
        findings.tally.not_carried = self.not_carried().len() as u64;
        let mut seen = Seen { here: self.names_here(), ..Seen::default() };
        let mut lines = self.staged.lines()?;
        while let Some(raw) = lines.next()? {
            let checked = self.parse(&raw).and_then(|line| {
                self.refer(&line, &mut seen)?;
                let prepared = self.prepare(&raw, &line, Pass::Look)?;
                if let Line::Tenant(line) = &line
                    && matches!(prepared.outcome, Outcome::Created | Outcome::Changed)
                {
                    self.tenants.insert(line.tenant.clone(), line.details());
                }
                self.compare(&line, &prepared, runtime)?;
                Ok(prepared)
            });
            match checked {
                Ok(prepared) => {
                    if prepared.outcome == Outcome::Conflict {
                        let detail = format!("{} {}: {}", prepared.kind.as_str(), prepared.id, prepared.detail.unwrap_or_default());
                        findings.conflicts.push(self.placed(LineFault { line: raw.number, code: "exists", detail }));
                    }
                    findings.tally.count(prepared.outcome);
                }
                Err(error) => match error.fault(raw.number).map(|fault| self.placed(fault)) {
                    Some(fault) if fault.code == NAME_TAKEN && self.on_conflict == OnConflict::Ask => {
                        findings.tally.count(Outcome::Conflict);
                        findings.conflicts.push(fault);
                    }
                    Some(fault) => findings.faults.push(fault),
                    None => return Err(error.into()),
                },
            }
        }
        for count in &self.head().kinds {
            let found = seen.counts.get(&count.kind).copied().unwrap_or_default();
            if found != count.lines {
                let detail = format!("the head says {} {}, the file has {found}", count.lines, count.kind.as_str());
                findings.faults.push(LineFault { line: 1, code: "bad_count", detail });
            }
        }
        Ok(findings)
    }

    /// With the place in another system's file, whose lines are not these.
    fn placed(&self, fault: LineFault) -> LineFault {
        match self.source_of(fault.line) {
            Some(source) => LineFault { detail: format!("{source}: {}", fault.detail), ..fault },
            None => fault,
        }
    }

    fn names_here(&self) -> HashMap<(Kind, TenantId, String), [u8; 16]> {
        let routes = self.app.models.routes();
        let pools = routes.pools.iter().map(|pool| &pool.value);
        let pools = pools.map(|pool| ((Kind::Pools, pool.tenant.clone(), pool.name.clone()), *pool.id.as_bytes()));
        let upstreams = routes.upstreams.iter().map(|route| &route.upstream);
        let upstreams = upstreams.map(|one| ((Kind::Upstreams, one.tenant.clone(), one.details.name.clone()), *one.id.as_bytes()));
        pools.chain(upstreams).collect()
    }

    /// Checks what a line refers to, and that nothing is said twice.
    fn refer(&mut self, line: &Line, seen: &mut Seen) -> Result<(), PrepareError> {
        let kind = line.kind();
        if seen.last.is_some_and(|last| last > kind) {
            return Err(PrepareError::line("bad_order", format!("{} stand after what refers to them", kind.as_str())));
        }
        seen.last = Some(kind);
        *seen.counts.entry(kind).or_default() += 1;
        if !self.head().has(kind) {
            return Err(PrepareError::line("bad_count", format!("the head does not name {}", kind.as_str())));
        }
        let tenant = line.tenant().clone();
        let stream = match line {
            Line::Tenant(_) => Stream::tenant_of(tenant.clone()),
            Line::Pool(line) if line.removed => Stream::pool(tenant.clone(), line.id),
            Line::Pool(line) => {
                self.need_free(Kind::Pools, &tenant, line.id.as_bytes(), seen)?;
                // What every tenant has from its beginning is the same pool in another one.
                let founded = seen.here.get(&(Kind::Pools, tenant.clone(), DEFAULT_POOL.to_owned()));
                if let Some(founded) = founded.filter(|_| self.is_renamed() && line.name == DEFAULT_POOL) {
                    self.pools.insert(line.id, PoolId::from_bytes(*founded));
                }
                let id = self.name(Kind::Pools, &tenant, &line.name, *self.pool(line.id).as_bytes(), seen)?;
                if id != *line.id.as_bytes() {
                    self.pools.insert(line.id, PoolId::from_bytes(id));
                }
                Stream::pool(tenant.clone(), line.id)
            }
            Line::Upstream(line) => {
                self.need_free(Kind::Upstreams, &tenant, line.id.as_bytes(), seen)?;
                let id = self.name(Kind::Upstreams, &tenant, &line.name, *line.id.as_bytes(), seen)?;
                if id != *line.id.as_bytes() {
                    self.upstreams.insert(line.id, UpstreamId::from_bytes(id));
                }
                self.need_pool(&tenant, line.pool, seen)?;
                Stream::upstream(tenant.clone(), line.id)
            }
            Line::Price(line) => {
                self.need_pool(&tenant, line.pool, seen)?;
                return Ok(());
            }
            Line::Key(line) => {
                self.refer_key(line, seen)?;
                Stream::key(tenant.clone(), line.id)
            }
            Line::Policy(line) => {
                self.admit(line)?;
                Stream::policy(tenant.clone(), &line.digest)
            }
            Line::Binding(line) => {
                self.refer_binding(line, seen)?;
                Stream::binding(tenant.clone(), line.id)
            }
            Line::Usage(_) => return Ok(()),
        };
        if !seen.objects.insert(short(&stream)) {
            return Err(PrepareError::line("twice", "the file has this object twice"));
        }
        let of_tenant = Stream::tenant_of(tenant.clone());
        if kind != Kind::Tenants && !seen.has(&of_tenant) && self.app.models.load(&of_tenant)?.0.is_none() {
            return Err(PrepareError::line("no_tenant", format!("there is no tenant {tenant}, here or in the file")));
        }
        Ok(())
    }

    /// The id that an object of this name has, or comes to have, here. Names of pools and upstreams stand for one each.
    fn name(&self, kind: Kind, tenant: &TenantId, name: &str, id: [u8; 16], seen: &mut Seen) -> Result<[u8; 16], PrepareError> {
        let key = (kind, tenant.clone(), name.to_owned());
        let other = seen.here.get(&key).copied().filter(|other| *other != id);
        if !seen.names.insert(key) {
            return Err(PrepareError::line("twice", format!("the file has the name {name:?} twice")));
        }
        let Some(other) = other else { return Ok(id) };
        let is_here = seen.here.values().any(|here| *here == id);
        match self.on_conflict {
            OnConflict::Ask => Err(PrepareError::line(NAME_TAKEN, format!("the name {name:?} is another one's here"))),
            OnConflict::Skip | OnConflict::Force | OnConflict::Merge if !is_here => Ok(other),
            OnConflict::Skip => Ok(id),
            OnConflict::Force | OnConflict::Merge => {
                Err(PrepareError::line(NAME_TAKEN, format!("the name {name:?} is another one's here; give that one another name first")))
            }
        }
    }

    /// Refuses what would have an id that stands in another tenant here: the same file went there before.
    fn need_free(&self, kind: Kind, tenant: &TenantId, id: &[u8; 16], seen: &Seen) -> Result<(), PrepareError> {
        let is_anothers = |((of, other, _), here): (&(Kind, TenantId, String), &[u8; 16])| *of == kind && other != tenant && here == id;
        if self.is_renamed() && seen.here.iter().any(is_anothers) {
            return Err(PrepareError::line("id_taken", "another tenant has this object here"));
        }
        Ok(())
    }

    fn need_pool(&self, tenant: &TenantId, id: PoolId, seen: &Seen) -> Result<(), PrepareError> {
        if seen.has(&Stream::pool(tenant.clone(), id)) {
            return Ok(());
        }
        let id = self.pool(id);
        let routes = self.app.models.routes();
        let is_here = routes.pools.iter().any(|pool| pool.value.id == id && pool.value.tenant == *tenant);
        if is_here { Ok(()) } else { Err(PrepareError::line("no_pool", format!("there is no pool {id}, here or in the file"))) }
    }

    fn refer_key(&self, line: &KeyLine, seen: &mut Seen) -> Result<(), PrepareError> {
        for pool in &line.pools {
            self.need_pool(&line.tenant, *pool, seen)?;
        }
        if let Some(dedicated) = &line.dedicated {
            let id = self.upstream(dedicated.upstream);
            let routes = self.app.models.routes();
            let is_here = routes.upstreams.iter().any(|route| route.upstream.id == id && route.upstream.tenant == line.tenant);
            // One that was removed where the key was is named by it still; a whole file does not have it.
            let may_be_gone = self.head().is_ours() && self.head().has(Kind::Upstreams);
            if !is_here && !may_be_gone && !seen.has(&Stream::upstream(line.tenant.clone(), dedicated.upstream)) {
                return Err(PrepareError::line("no_upstream", format!("there is no upstream {id}, here or in the file")));
            }
        }
        for secret in &line.secrets {
            if !seen.hashes.insert(secret.hash) {
                return Err(PrepareError::line("secret_taken", SECRET_TAKEN));
            }
        }
        if self.is_secret_taken(line)? { Err(PrepareError::line("secret_taken", SECRET_TAKEN)) } else { Ok(()) }
    }

    /// Whether another key here has one of this key's secrets: whoever came first keeps it, so that nobody could use this one.
    pub(crate) fn is_secret_taken(&self, line: &KeyLine) -> Result<bool, ReadError> {
        for secret in &line.secrets {
            let holder = self.app.models.key_by_hash(&secret.hash)?;
            if holder.is_some_and(|key| key.id != line.id || key.tenant != line.tenant) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn need_key(&self, tenant: &TenantId, id: KeyId, seen: &Seen) -> Result<(), PrepareError> {
        let is_there =
            seen.has(&Stream::key(tenant.clone(), id)) || self.app.models.key(tenant, id)?.is_some_and(|key| !key.value.is_purged());
        if is_there { Ok(()) } else { Err(PrepareError::line("no_key", format!("there is no key {id}, here or in the file"))) }
    }

    /// Compiles a module that is not here yet.
    fn admit(&mut self, line: &PolicyLine) -> Result<(), PrepareError> {
        let fault = |detail: String| PrepareError::line("bad_policy", detail);
        let bytes = STANDARD.decode(&line.module).map_err(|error| fault(error.to_string()))?;
        if Digest::blake3(&bytes) != line.digest {
            return Err(fault("the module is not the one of this digest".to_owned()));
        }
        if self.app.models.policies().policy(&line.tenant, &line.digest).is_none() && !self.admitted.contains_key(&line.digest) {
            let admitted = self.app.modules.host().admit(&bytes, line.kind, line.class);
            let admitted = admitted.map_err(|error| fault(format!("the module is not admitted: {error}")))?;
            if admitted.digest != line.digest {
                return Err(fault("the module is no component".to_owned()));
            }
            self.admitted.insert(line.digest, Arc::new(admitted));
        }
        Ok(())
    }

    fn refer_binding(&self, line: &BindingLine, seen: &Seen) -> Result<(), PrepareError> {
        match line.scope {
            ScopeLine::Tenant => {}
            ScopeLine::Pool(pool) => self.need_pool(&line.tenant, pool, seen)?,
            ScopeLine::Key(key) => self.need_key(&line.tenant, key, seen)?,
        }
        let policies = self.app.models.policies();
        let here = policies.policy(&line.tenant, &line.policy).map(|policy| policy.value.uploaded.kind);
        let kind = here.or_else(|| self.admitted.get(&line.policy).map(|admitted| admitted.manifest.kind));
        match kind {
            None => Err(PrepareError::line("no_policy", format!("there is no policy {}, here or in the file", line.policy))),
            Some(kind) if kind != line.kind => Err(PrepareError::line("wrong_policy_kind", "the policy decides on something else")),
            Some(_) => Ok(()),
        }
    }

    /// Asks a policy about settings that are to be bound.
    fn compare(&self, line: &Line, prepared: &Prepared, runtime: &Handle) -> Result<(), PrepareError> {
        let Line::Binding(line) = line else { return Ok(()) };
        let is_off = matches!(line.mode, ModeLine::Off);
        if is_off || !matches!(prepared.outcome, Outcome::Created | Outcome::Changed) {
            return Ok(());
        }
        let fault = |detail: String| PrepareError::line("settings_refused", detail);
        let module: Arc<Module> = match self.admitted.get(&line.policy) {
            Some(admitted) => admitted.module.clone(),
            None => {
                let policies = self.app.models.policies();
                let Some(policy) = policies.policy(&line.tenant, &line.policy) else { return Ok(()) };
                let load = self.app.modules.get(ModuleKey::of(&policy.value.uploaded));
                runtime.block_on(load).map_err(|error| PrepareError::line("policy_missing", error.to_string()))?
            }
        };
        module.configure(&policy_host::canonical_json(&line.settings)).map_err(|error| match error {
            ConfigureError::Refused(faults) => fault(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
            ConfigureError::Fault(error) => fault(error.to_string()),
        })
    }
}
