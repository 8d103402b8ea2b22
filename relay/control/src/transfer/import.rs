//! Taking a file in: what is asked for, the file as it lies here, and what is told about each line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use policy_host::Admitted;
use projector::ReadError;
use schemas::tenant::TenantChanged;
use schemas::{Actor, Digest, PoolId, Sequence, TenantId, UpstreamId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault::FileKey;
use zeroize::Zeroizing;

use super::elsewhere::{Elsewhere, NotCarried};
use super::file::{FileError, Head, Kind, LINE_BYTES_MAX};
use super::privacy::withheld_hash;
use super::scope::TenantScope;
use super::sealing::Opener;
use crate::App;
use crate::http::ApiError;

/// What becomes of an object that is here already, and differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnConflict {
    /// Nothing at all is applied.
    #[default]
    Ask,
    /// It stays as it is.
    Skip,
    /// It becomes what the file says.
    Force,
    /// It gets what it does not have.
    Merge,
}

/// A file that was received, with its head read and its digest found right.
pub(crate) struct Staged {
    pub(crate) head: Head,
    body: Body,
}

/// Where the lines lie.
enum Body {
    /// From a place of a file on.
    Spooled { file: File, at: u64 },
    /// In memory, since they hold secrets in clear.
    Held(Held),
}

#[derive(Clone)]
struct Held(Arc<Zeroizing<Vec<u8>>>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// How the texts of a file are read.
pub(crate) enum Texts {
    /// It has none.
    None,
    /// They are sealed under this.
    Sealed(FileKey),
    /// They are not sealed: lines that were made here, of another system's file.
    Plain,
}

/// One import under way.
pub(crate) struct Import {
    pub(crate) app: App,
    pub(crate) staged: Staged,
    pub(crate) on_conflict: OnConflict,
    pub(crate) prune: bool,
    /// Where it is one tenant's file.
    pub(crate) scope: Option<TenantScope>,
    pub(crate) texts: Texts,
    /// What a file of another system is beside its lines.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// The file's ids of objects that have another here.
    pub(crate) pools: HashMap<PoolId, PoolId>,
    pub(crate) upstreams: HashMap<UpstreamId, UpstreamId>,
    /// The file's tenants that come to be as it says.
    pub(crate) tenants: HashMap<TenantId, TenantChanged>,
    /// The file's policies that are not here yet.
    pub(crate) admitted: HashMap<Digest, Arc<Admitted>>,
}

/// What is wrong with a line, or in its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct LineFault {
    /// The head is line 1. With 0 it is about the file as a whole.
    pub(crate) line: u64,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
}

/// Everything that is told about an import, one JSON object a line.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Told {
    /// First: what will be done, or in a dry run would be.
    Plan(Plan),
    /// Then, of a file of another system, everything in it that nothing is made of.
    NotCarried(NotCarried),
    /// Then every line of the file, in order.
    Item(Item),
    /// It stopped early; sent again, it goes on from there.
    Stopped(Stopped),
    /// Last.
    Done(Tally),
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    /// The file's.
    pub(crate) digest: Digest,
    pub(crate) origin: String,
    pub(crate) sanitized: bool,
    pub(crate) dry_run: bool,
    pub(crate) lines: u64,
    pub(crate) tally: Tally,
}

/// How many objects come to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) created: u64,
    pub(crate) changed: u64,
    pub(crate) unchanged: u64,
    pub(crate) skipped: u64,
    pub(crate) conflicts: u64,
    pub(crate) refused: u64,
    pub(crate) not_carried: u64,
    pub(crate) pruned: u64,
    pub(crate) failed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Created,
    Changed,
    /// It is as the file says, or was applied from this very file before.
    Unchanged,
    /// It is here and differs, and stays.
    Skipped,
    /// In a dry run: it is here and differs.
    Conflict,
    /// What is here cannot become that: a revocation is final.
    Refused,
    /// There is nothing here that it could become.
    NotCarried,
    /// It is here and not in the file.
    Pruned,
    /// The command failed; sent again, the file goes on with it.
    Failed,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Item {
    /// Of the file; none of what is pruned.
    pub(crate) line: Option<u64>,
    /// Where in another system's file it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
    /// Of the record that was appended for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence: Option<Sequence>,
    /// Why, or what of it is not carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stopped {
    pub(crate) code: &'static str,
    pub(crate) detail: String,
}

impl Tally {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Created => &mut self.created,
            Outcome::Changed => &mut self.changed,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Conflict => &mut self.conflicts,
            Outcome::Refused => &mut self.refused,
            Outcome::NotCarried => &mut self.not_carried,
            Outcome::Pruned => &mut self.pruned,
            Outcome::Failed => &mut self.failed,
        };
        *counter += 1;
    }
}

/// A line as it stands in the file, the head being line 1.
pub(crate) struct RawLine {
    pub(crate) number: u64,
    pub(crate) text: Vec<u8>,
}

/// The lines of a body, one after the other.
pub(crate) struct Lines {
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

impl Staged {
    /// Reads the head of a received file whose body hashes to `body`.
    pub(crate) fn open(file: File, head: &str, body: &Digest) -> Result<Self, FileError> {
        let body_at = head.len() as u64 + 1;
        let head = Head::parse(head)?;
        if !head.is_over(body) {
            return Err(FileError::Digest);
        }
        Ok(Self { head, body: Body::Spooled { file, at: body_at } })
    }

    /// Lines that were made here.
    pub(crate) fn held(head: Head, body: Zeroizing<Vec<u8>>) -> Self {
        Self { head, body: Body::Held(Held(Arc::new(body))) }
    }

    /// The body from its beginning.
    pub(crate) fn lines(&self) -> io::Result<Lines> {
        let reader: Box<dyn BufRead + Send> = match &self.body {
            Body::Spooled { file, at } => {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(*at))?;
                Box::new(BufReader::with_capacity(256 * 1024, file))
            }
            Body::Held(held) => Box::new(Cursor::new(held.clone())),
        };
        Ok(Lines { reader, number: 1 })
    }
}

impl Lines {
    /// The next line, without its end; none at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<RawLine>> {
        let mut text = Vec::new();
        let length = (&mut self.reader).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text)?;
        if length == 0 {
            return Ok(None);
        }
        if text.pop() != Some(b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than any, or the last has no end"));
        }
        self.number += 1;
        Ok(Some(RawLine { number: self.number, text }))
    }
}

impl Import {
    /// An import of this file; refuses what is wrong with the whole of it. Blocks for as long as a passphrase takes.
    pub(crate) fn begin(
        app: App,
        staged: Staged,
        on_conflict: OnConflict,
        prune: bool,
        opener: &Opener,
        into: Option<TenantId>,
    ) -> Result<Self, ApiError> {
        let head = &staged.head;
        let texts = head.sealing.as_ref().map(|terms| terms.key(opener)).transpose()?.map_or(Texts::None, Texts::Sealed);
        let is_forced = on_conflict == OnConflict::Force;
        if prune && (!is_forced || head.sanitized || !head.is_ours()) {
            return Err(FileError::Prune.into());
        }
        if head.sanitized && !is_forced && has_working_key(&app)? {
            return Err(FileError::Sanitized.into());
        }
        let scope = TenantScope::of(&staged, into)?;
        let mut import = Self { prune, texts, scope, ..Self::new(app, staged, on_conflict) };
        if import.is_renamed() {
            // That pool is the default tenant's.
            import.pools.clear();
        }
        import.check_scope()?;
        Ok(import)
    }

    /// An import of another system's file.
    pub(crate) fn begin_elsewhere(app: App, staged: Staged, elsewhere: Elsewhere, on_conflict: OnConflict) -> Self {
        Self { texts: Texts::Plain, elsewhere: Some(elsewhere), ..Self::new(app, staged, on_conflict) }
    }

    fn new(app: App, staged: Staged, on_conflict: OnConflict) -> Self {
        // Both are the pool that every cluster has from its founding on.
        let pools = HashMap::from([(staged.head.cluster_id.default_pool_id(), app.cluster_id.default_pool_id())]);
        let (upstreams, tenants, admitted) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (scope, texts, elsewhere) = (None, Texts::None, None);
        Self { app, staged, on_conflict, prune: false, scope, texts, elsewhere, pools, upstreams, tenants, admitted }
    }

    /// What of another system's file nothing is made of.
    pub(crate) fn not_carried(&self) -> &[NotCarried] {
        self.elsewhere.as_ref().map_or(&[], |elsewhere| &elsewhere.not_carried)
    }

    /// Where in another system's file a line comes from.
    pub(crate) fn source_of(&self, line: u64) -> Option<&str> {
        let index = usize::try_from(line).ok()?.checked_sub(2)?;
        self.elsewhere.as_ref()?.sources.get(index).map(String::as_str)
    }

    pub(crate) const fn head(&self) -> &Head {
        &self.staged.head
    }

    /// Whoever the records of this file are by.
    pub(crate) const fn actor(&self) -> Actor {
        Actor::Import(self.staged.head.digest)
    }

    pub(crate) fn pool(&self, id: PoolId) -> PoolId {
        self.pools.get(&id).copied().unwrap_or(id)
    }

    pub(crate) fn upstream(&self, id: UpstreamId) -> UpstreamId {
        self.upstreams.get(&id).copied().unwrap_or(id)
    }
}

/// Whether there is a key here that a client may hold the secret of.
fn has_working_key(app: &App) -> Result<bool, ReadError> {
    use schemas::{Aggregate, StreamKind};
    app.models.at_one_moment(|whole| {
        for aggregate in whole.aggregates(StreamKind::Key) {
            if let Aggregate::Key(key) = aggregate?.value
                && key.secrets.iter().any(|secret| secret.hash != withheld_hash(key.id))
            {
                return Ok(true);
            }
        }
        Ok(false)
    })?
}
