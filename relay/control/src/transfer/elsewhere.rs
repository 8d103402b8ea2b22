//! Files of other systems, turned into the lines of an import, so that all of it applies to them: the check of the whole file, conflicts, dry runs,
//! and going on where it stopped.
//!
//! Ids derive from the ids that the objects have in the other system, so that a later export of it meets the keys that an earlier one made. What
//! cannot be carried is told one by one, with the place in the file and the reason; it is never guessed. A file holds secrets in clear: it is kept
//! in memory, and what is made of it too.

mod claude_relay_service;
mod draft;
mod entry;
mod gpt_load;
mod litellm;
mod one_api;

use schemas::upstream::Dialect;
use schemas::{ClusterId, Digest, Sequence, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use vault::{SALTS_MAX, SealSaltError};
use zeroize::Zeroizing;

use super::file::{Count, Head, Kind};
use super::import::{LineFault, Staged};
use crate::App;
use crate::http::ApiError;
use draft::Draft;

const DIGEST_DOMAIN: &str = "keyrelay 2026 file from elsewhere v1";
/// The most faults that are told one by one.
const FAULTS_MAX: usize = 100;

/// The systems whose files are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    ClaudeRelayService,
    GptLoad,
    Litellm,
    OneApi,
}

/// A file of another system, and what has to be said about it.
pub(crate) struct Source {
    pub(crate) system: System,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// Whose keys and upstreams these become.
    pub(crate) tenant: TenantId,
    /// The `ENCRYPTION_KEY` that claude-relay-service hashed its keys with.
    pub(crate) old_key: Option<Zeroizing<String>>,
    /// The pool of all keys; of a list of credentials the pool that they go to, which is created if there is none of the name.
    pub(crate) pool: Option<String>,
    /// The one group of GPT-Load that is taken.
    pub(crate) group: Option<String>,
    /// What a list of credentials is for.
    pub(crate) dialect: Option<Dialect>,
    pub(crate) base_url: Option<String>,
    /// Takes secrets that can be guessed.
    pub(crate) allow_weak: bool,
    /// Seals nothing.
    pub(crate) dry_run: bool,
}

/// Something in the file of another system that nothing here can be made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NotCarried {
    /// Where in the file: a JSON pointer, or `line n`.
    pub(crate) source: String,
    pub(crate) what: String,
    pub(crate) why: String,
}

/// What a file is beside its lines.
pub(crate) struct Elsewhere {
    /// Where each line comes from, the first one being line 2.
    pub(crate) sources: Vec<String>,
    pub(crate) not_carried: Vec<NotCarried>,
}

/// Why a file of another system is not taken, as a whole.
#[derive(Debug, Error)]
pub(crate) enum SourceError {
    #[error("the file is not what {system} writes: {detail}")]
    Form { system: &'static str, detail: String },
    #[error("the keys of the file are hashed with an ENCRYPTION_KEY; give it")]
    OldKeyNeeded,
    #[error("the file is sanitised: no key in it would work; export it again without --sanitize")]
    Sanitized,
    #[error("a list of credentials needs {0}")]
    Missing(&'static str),
    #[error("keys of {SALTS_MAX} other systems are known already")]
    TooManySalts,
}

impl From<SealSaltError> for ApiError {
    fn from(error: SealSaltError) -> Self {
        match error {
            SealSaltError::TooMany => SourceError::TooManySalts.into(),
            SealSaltError::Seal(error) => error.into(),
            SealSaltError::Unseal(error) => error.into(),
        }
    }
}

impl System {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ClaudeRelayService => "claude-relay-service",
            Self::GptLoad => "gpt-load",
            Self::Litellm => "litellm",
            Self::OneApi => "one-api",
        }
    }
}

impl Source {
    fn form(&self, detail: impl Into<String>) -> SourceError {
        SourceError::Form { system: self.system.as_str(), detail: detail.into() }
    }

    fn text(&self) -> Result<&str, SourceError> {
        let text = std::str::from_utf8(&self.bytes).map_err(|error| self.form(error.to_string()))?;
        Ok(text.trim_start_matches('\u{feff}'))
    }

    /// What makes the import of this file another one than that of another file, or of this one with other words.
    fn digest(&self, salt: u32) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_DOMAIN);
        let words = (self.system, &self.tenant, salt, &self.pool, &self.group, self.dialect, &self.base_url, self.allow_weak);
        let words = serde_json::to_vec(&words).expect("words are plain data");
        hasher.update(&(words.len() as u64).to_le_bytes()).update(&words).update(&self.bytes);
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }
}

/// Turns a file into a staged import. Blocks.
pub(crate) fn stage(app: &App, source: &Source) -> Result<(Staged, Elsewhere), ApiError> {
    let salt = match &source.old_key {
        Some(key) if source.dry_run => Some(app.vault.salt_version(key.as_bytes())?),
        Some(key) => Some(app.vault.seal_salt(key.as_bytes(), app.now())?),
        None => None,
    };
    let digest = source.digest(salt.unwrap_or_default());
    let mut cluster = [0; 16];
    cluster.copy_from_slice(&digest.as_bytes()[..16]);
    let cluster_id = ClusterId::from_bytes(cluster);
    let mut draft = Draft::new(app, source, salt)?;
    match source.system {
        System::ClaudeRelayService => claude_relay_service::read(source, &mut draft)?,
        System::GptLoad => gpt_load::read(source, &mut draft)?,
        System::Litellm => litellm::read(source, &mut draft)?,
        System::OneApi => one_api::read(source, &mut draft)?,
    }
    let Draft { lines, mut faults, not_carried, .. } = draft;
    if !faults.is_empty() {
        let more = faults.len().saturating_sub(FAULTS_MAX) as u64;
        faults.truncate(FAULTS_MAX);
        return Err(ApiError::ImportInvalid(super::check::Told { lines: faults, more }));
    }
    let mut kinds: Vec<Count> = Vec::new();
    let (mut body, mut sources) = (Zeroizing::new(Vec::new()), Vec::new());
    for (place, line) in lines.into_kinds() {
        match kinds.last_mut().filter(|count| count.kind == line.kind()) {
            Some(count) => count.lines += 1,
            None => kinds.push(Count { kind: line.kind(), lines: 1 }),
        }
        serde_json::to_writer(&mut *body, &line).expect("a line is plain data");
        body.push(b'\n');
        sources.push(place);
    }
    let head = Head {
        keyrelay_export: super::file::FORMAT,
        created_at: Timestamp::from_micros(0),
        cluster_id,
        sequence: Sequence::ZERO,
        origin: source.system.as_str().to_owned(),
        tenant: None,
        sanitized: false,
        kinds,
        left_out: Vec::new(),
        sealing: None,
        digest,
    };
    Ok((Staged::held(head, body), Elsewhere { sources, not_carried }))
}

fn fault(place: &str, detail: impl std::fmt::Display) -> LineFault {
    LineFault { line: 0, code: "bad_entry", detail: format!("{place}: {detail}") }
}

/// The kinds that files of other systems come to, in the order of an import's lines.
const KINDS: [Kind; 3] = [Kind::Pools, Kind::Upstreams, Kind::Keys];
