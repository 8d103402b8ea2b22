//! What a reader makes of a file: lines, and what it leaves.

use std::collections::{HashMap, HashSet};

use schemas::key::{Limits, METADATA_BYTES_MAX, SecretScheme};
use schemas::upstream::Dialect;
use schemas::{Digest, KeyId, PoolId, TenantId, Timestamp, UpstreamId, name};
use serde_json::{Map, Value};

use super::entry::Entry;
use super::{KINDS, NotCarried, Source, fault};
use crate::App;
use crate::http::{ApiError, brought, named_pool};
use crate::transfer::import::LineFault;
use crate::transfer::line::{FactLine, KeyLine, Line, PoolLine, SchemeText, SecretLine, UpstreamLine};
use crate::transfer::privacy::plain;

const ID_DOMAIN: &str = "keyrelay 2026 id from elsewhere v1";
/// A time that a file does not say.
pub(super) const UNKNOWN_TIME: Timestamp = Timestamp::from_micros(0);

/// Lines of a file, each with where it comes from.
#[derive(Default)]
pub(super) struct Drafted(Vec<(String, Line)>);

impl Drafted {
    /// In the order that an import needs.
    pub(super) fn into_kinds(self) -> impl Iterator<Item = (String, Line)> {
        let mut lines = self.0;
        lines.sort_by_key(|(_, line)| KINDS.iter().position(|kind| *kind == line.kind()));
        lines.into_iter()
    }
}

pub(super) struct Draft<'a> {
    app: &'a App,
    tenant: TenantId,
    allow_weak: bool,
    /// The version of the vault's salt that the file's hashes are made with.
    pub(super) salt: Option<u32>,
    /// The pool of keys that name none.
    pub(super) pool: PoolId,
    pub(super) lines: Drafted,
    pub(super) not_carried: Vec<NotCarried>,
    pub(super) faults: Vec<LineFault>,
    pools: HashMap<String, PoolId>,
    seen: HashSet<Digest>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(app: &'a App, source: &Source, salt: Option<u32>) -> Result<Self, ApiError> {
        let is_list = source.system == super::System::GptLoad;
        let pool = match &source.pool {
            Some(text) if !is_list => named_pool(app, &source.tenant, text)?,
            // Of another tenant than the first there is none from the founding on.
            None if source.tenant != TenantId::default_tenant() && !is_list => named_pool(app, &source.tenant, "default")?,
            _ => app.cluster_id.default_pool_id(),
        };
        Ok(Self {
            app,
            tenant: source.tenant.clone(),
            allow_weak: source.allow_weak,
            salt,
            pool,
            lines: Drafted::default(),
            not_carried: Vec::new(),
            faults: Vec::new(),
            pools: HashMap::new(),
            seen: HashSet::new(),
        })
    }

    pub(super) fn leave(&mut self, source: &str, what: impl Into<String>, why: impl Into<String>) {
        self.not_carried.push(NotCarried { source: source.to_owned(), what: what.into(), why: why.into() });
    }

    pub(super) fn fault(&mut self, place: &str, detail: impl std::fmt::Display) {
        self.faults.push(fault(place, detail));
    }

    /// An id that an object of the other system always has here.
    pub(super) fn id(&self, kind: &str, parts: &[&str]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_derive_key(ID_DOMAIN);
        for part in [kind, self.tenant.as_str()].iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        id
    }

    /// What stands for a secret in an id or a name: of use to nobody without the vault.
    pub(super) fn mark(&self, secret: &str) -> String {
        let digest = self.app.vault.keyed_digest(secret.as_bytes());
        digest.to_string()
    }

    /// A name as we take it, of one that may be anything.
    pub(super) fn name(&mut self, place: &str, text: &str, otherwise: &str) -> String {
        let cleaned: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let cleaned: String = cleaned.trim().chars().take(name::LENGTH_MAX).collect();
        let cleaned = if cleaned.trim().is_empty() { otherwise.to_owned() } else { cleaned.trim().to_owned() };
        if cleaned != text && !text.is_empty() {
            self.leave(
                place,
                "name",
                format!("a name has at most {} characters, none of control; it is {cleaned:?} here", name::LENGTH_MAX),
            );
        }
        cleaned
    }

    /// Tags or patterns of models as we take them.
    pub(super) fn names(&mut self, place: &str, what: &str, texts: Vec<String>) -> Vec<String> {
        let mut kept: Vec<String> = Vec::new();
        for text in texts.iter().map(|text| text.trim()) {
            if name::check("entry", text).is_err() || kept.len() == name::LIST_MAX {
                self.leave(place, format!("{what} {text:?}"), "too long, empty, or one too many");
            } else if !kept.iter().any(|one| one == text) {
                kept.push(text.to_owned());
            }
        }
        kept
    }

    /// A secret in clear, as the log has it; none where it cannot be brought.
    pub(super) fn brought(&mut self, place: &str, secret: &str) -> Option<SecretLine> {
        let weak = || {
            (!self.allow_weak && brought::is_weak(secret)).then_some("its secret can be guessed; allow weak ones to bring it all the same")
        };
        let held =
            || matches!(brought::older_holder(self.app, secret), Ok(Some(_))).then_some("a key here has this secret, from another system");
        if let Some(why) = brought::fault(secret).or_else(weak).or_else(held) {
            self.leave(place, "the key", why);
            return None;
        }
        let (hash, pepper) = self.app.vault.client_key_hash(secret);
        self.once(place, "the key", hash).then_some(SecretLine { number: 1, hash, scheme: SchemeText::Peppered(pepper), valid_until: None })
    }

    /// A secret that the file has by a hash only.
    pub(super) fn hashed(&mut self, place: &str, hash: Digest, scheme: SecretScheme) -> Option<SecretLine> {
        let scheme = scheme.into();
        self.once(place, "the key", hash).then_some(SecretLine { number: 1, hash, scheme, valid_until: None })
    }

    /// Whether the file has not had this before.
    fn once(&mut self, place: &str, what: &str, hash: Digest) -> bool {
        let is_new = self.seen.insert(hash);
        if !is_new {
            self.leave(place, what, "the file has the same secret before");
        }
        is_new
    }

    /// The pool of a name: the one that is here, or one that comes with the file.
    pub(super) fn pool_named(&mut self, place: &str, text: &str) -> PoolId {
        let name = self.name(place, text, "imported");
        if let Some(id) = self.pools.get(&name) {
            return *id;
        }
        let id = match named_pool(self.app, &self.tenant, &name) {
            Ok(id) => id,
            Err(_) => {
                let id = PoolId::from_bytes(self.id("pool", &[&name]));
                let line = PoolLine { tenant: self.tenant.clone(), id, name: name.clone(), created_at: UNKNOWN_TIME, removed: false };
                self.lines.0.push((place.to_owned(), Line::Pool(line)));
                id
            }
        };
        self.pools.insert(name, id);
        id
    }

    /// A credential as an upstream; none where the file has had it for the same address.
    pub(super) fn upstream(&mut self, place: &str, upstream: NewUpstream<'_>) -> Option<UpstreamId> {
        let NewUpstream { parts, name, dialect, base_url, pool, priority, models, credential, is_disabled } = upstream;
        if credential.is_empty() || !credential.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.leave(place, format!("the account {name:?}"), "its credential is empty, or not visible ASCII characters");
            return None;
        }
        let id = UpstreamId::from_bytes(self.id("upstream", parts));
        if !self.once(place, "the credential", Digest::blake3(id.as_bytes())) {
            return None;
        }
        let name = self.name(place, &name, "imported");
        let line = UpstreamLine {
            tenant: self.tenant.clone(),
            id,
            name,
            dialect,
            base_url,
            pool,
            priority,
            weight: 1,
            models,
            region: None,
            tags: Vec::new(),
            credential: Some(plain(credential)),
            disabled: is_disabled.then(fact),
            created_at: UNKNOWN_TIME,
        };
        self.lines.0.push((place.to_owned(), Line::Upstream(Box::new(line))));
        Some(id)
    }

    /// An upstream that a file before this one made.
    pub(super) fn upstream_here(&self, parts: &[&str]) -> Option<UpstreamId> {
        let id = UpstreamId::from_bytes(self.id("upstream", parts));
        let routes = self.app.models.routes();
        routes.upstreams.iter().any(|route| route.upstream.id == id && route.upstream.tenant == self.tenant).then_some(id)
    }

    pub(super) fn key(&mut self, place: &str, mut key: KeyLine) {
        let bytes = policy_host::canonical_json(&Value::Object(key.metadata.clone())).len();
        if bytes > METADATA_BYTES_MAX {
            self.leave(place, "metadata", format!("it has {bytes} bytes, and a key's has at most {METADATA_BYTES_MAX}"));
            key.metadata.clear();
        }
        self.lines.0.push((place.to_owned(), Line::Key(Box::new(key))));
    }

    /// A key that was made of an entry: what of that was kept for policies goes along, and what is left of it is told.
    pub(super) fn key_of(&mut self, system: &str, mut entry: Entry, mut key: KeyLine) -> Result<(), String> {
        entry.rest(self);
        if !entry.kept.is_empty() {
            key.metadata.insert(system.to_owned(), Value::Object(std::mem::take(&mut entry.kept)));
        }
        match entry.fault() {
            Some(detail) => Err(detail),
            None => {
                self.key(&entry.place, key);
                Ok(())
            }
        }
    }

    /// A key with nothing but what every key has.
    pub(super) fn bare_key(&self, id: [u8; 16], name: String, secret: SecretLine, created_at: Timestamp) -> KeyLine {
        KeyLine {
            tenant: self.tenant.clone(),
            id: KeyId::from_bytes(id),
            name,
            description: None,
            owner: None,
            tags: Vec::new(),
            pools: vec![self.pool],
            models: Vec::new(),
            endpoints: Vec::new(),
            limits: Limits::default(),
            metadata: Map::<String, Value>::new(),
            dedicated: None,
            rotation: None,
            secrets: vec![secret],
            expires_at: None,
            expiry_unset: false,
            activation_seconds: None,
            first_used_at: None,
            expired_at: None,
            created_at,
            renewed_at: None,
            rotated_at: None,
            disabled: None,
            revoked: None,
            archived: None,
        }
    }
}

/// What an upstream is made of.
pub(super) struct NewUpstream<'a> {
    /// What its id derives from.
    pub(super) parts: &'a [&'a str],
    pub(super) name: String,
    pub(super) dialect: Dialect,
    pub(super) base_url: String,
    pub(super) pool: PoolId,
    pub(super) priority: u32,
    pub(super) models: Vec<String>,
    pub(super) credential: &'a str,
    pub(super) is_disabled: bool,
}

/// A fact whose time and author the other system does not tell.
pub(super) fn fact() -> FactLine {
    FactLine { at: UNKNOWN_TIME, by: None, reason: None }
}
