//! `/import`: a file that an export wrote, or another system, as commands.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use schemas::upstream::Dialect;
use schemas::{Digest, TenantId};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use zeroize::Zeroizing;

use super::app::App;
use super::conventions::{Caller, Params, passphrase, secret_header};
use super::error::{ApiError, MutationProblems};
use crate::transfer::apply;
use crate::transfer::check::CheckError;
use crate::transfer::elsewhere::{self, Source, System};
use crate::transfer::file::FileError;
use crate::transfer::import::{Import, OnConflict, Staged, Told};
use crate::transfer::sealing::{Opener, parse_identities};

/// The most bytes of a file. It is kept on disk while it is worked on.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// The most bytes of another system's file, which is kept in memory.
const SOURCE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most bytes of its first line.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Lines of the answer that wait for the client; the import goes no faster than they are taken.
const TOLD_HELD: usize = 256;

/// How a file is taken in.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Manner {
    /// What becomes of objects that are here and differ: `ask` (the default) applies nothing where there are any, `skip` leaves them, `force` sets
    /// them to the file's state, `merge` gives them what they do not have.
    #[serde(default)]
    #[param(inline)]
    on_conflict: OnConflict,
    /// With `force`: take away what is not in the file, of the types that it has. Keys are archived, the rest is removed.
    #[serde(default)]
    prune: bool,
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
    /// The other system that wrote the file.
    #[param(inline)]
    from: Option<System>,
    /// Put the data of a file of one tenant into this one, which is made where it is not there. With `from`: the tenant of what is made, `default` if
    /// not given.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// With `from`: the pool of all keys, `default` if not given. Of credentials of GPT-Load the pool that they go to, which is created if there is none
    /// of the name; a CSV names one for each in its column.
    pool: Option<String>,
    /// With `from=gpt-load`: the one group that is taken.
    group: Option<String>,
    /// With `from=gpt-load`: what the provider of the credentials speaks.
    #[param(inline)]
    dialect: Option<Dialect>,
    /// With `from=gpt-load`: where the provider of the credentials is.
    base_url: Option<String>,
    /// With `from`: bring secrets that can be guessed too.
    #[serde(default)]
    allow_weak: bool,
}

impl Manner {
    /// The file of another system, if it is one.
    fn source(&self, bytes: Zeroizing<Vec<u8>>, old_key: Option<Zeroizing<String>>, system: System) -> Source {
        Source {
            system,
            bytes,
            tenant: self.tenant.clone().unwrap_or_else(TenantId::default_tenant),
            old_key,
            pool: self.pool.clone(),
            group: self.group.clone(),
            dialect: self.dialect,
            base_url: self.base_url.clone(),
            allow_weak: self.allow_weak,
            dry_run: self.dry_run,
        }
    }

    /// Whether something is said that is about other systems' files.
    fn is_about_elsewhere(&self) -> bool {
        self.allow_weak || [&self.pool, &self.group, &self.base_url].iter().any(|text| text.is_some()) || self.dialect.is_some()
    }
}

/// Import a file. All of it is checked first: where a line is at fault nothing is applied (`import_invalid`), and neither where objects are here and
/// differ, unless it is said what becomes of them (`import_conflicts`). Then each line is a command of its own, by the actor `import`, whose id
/// derives from the file: sent again, a file changes nothing, and one that broke off goes on.
///
/// With `from` the file is another system's: the JSON export of claude-relay-service (with the `ENCRYPTION_KEY` of that installation in a header, if it
/// has keys), `GET /key/list?return_full_object=true` of LiteLLM, `GET /api/token/` of One API, or a key list, CSV or `GET /api/groups` of GPT-Load. What
/// nothing can be made of is told as `not_carried`, with its place and the reason.
#[utoipa::path(post, path = "/import", tag = "data", operation_id = "import_data",
    params(Manner, ("Keyrelay-Passphrase" = Option<String>, Header, description = "What the file's secrets are sealed under"),
        ("Keyrelay-Identity" = Option<String>, Header,
            description = "Of a file that is sealed to recipients: an identity of age, `AGE-SECRET-KEY-1…`, or several, separated by commas"),
        ("Keyrelay-Old-Key" = Option<String>, Header, description = "With `from=claude-relay-service`: its `ENCRYPTION_KEY`")),
    request_body(content = String, content_type = "application/x-ndjson", description = "The file"),
    responses((status = 200, content_type = "application/x-ndjson", body = String,
        description = "One JSON object a line: `plan`, `not_carried` for all that is left of another system's file, an `item` for each line, then `done`, or `stopped` where it must be sent again"),
        MutationProblems))]
pub(super) async fn import(
    State(app): State<App>,
    _caller: Caller,
    Params(manner): Params<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Manner { on_conflict, prune, dry_run, from, ref tenant, .. } = manner;
    let tenant = tenant.clone();
    let opener = opener(&headers)?;
    let received = match from {
        Some(_) if prune => return Err(FileError::Prune.into()),
        Some(system) => Received::Elsewhere(manner.source(hold(body).await?, secret_header(&headers, "keyrelay-old-key")?, system)),
        None if manner.is_about_elsewhere() => {
            return Err(ApiError::BadRequest("say from which system the file is; pool and the like are about those".to_owned()));
        }
        None => {
            let (file, head, digest) = receive(body).await?;
            Received::Export(Staged::open(file, &head, &digest)?)
        }
    };
    let runtime = Handle::current();
    let work = move || {
        let mut import = match received {
            Received::Export(staged) => Import::begin(app, staged, on_conflict, prune, &opener, tenant)?,
            Received::Elsewhere(source) => {
                let (staged, elsewhere) = elsewhere::stage(&app, &source)?;
                Import::begin_elsewhere(app, staged, elsewhere, on_conflict)
            }
        };
        let findings = import.check(&runtime)?;
        if !findings.faults.is_empty() {
            return Err(ApiError::ImportInvalid(findings.faults));
        }
        if !findings.conflicts.is_empty() && !dry_run {
            return Err(ApiError::ImportConflicts(findings.conflicts));
        }
        Ok((import, findings.tally))
    };
    let (import, planned) = tokio::task::spawn_blocking(work).await??;
    let (teller, told) = mpsc::channel(TOLD_HELD);
    // It ends after the lines under way once the client has gone: what is left is for the next attempt.
    let tasks = import.app.clone();
    tasks.commands.spawn_task(apply::run(Arc::new(import), planned, dry_run, teller));
    let lines = stream::unfold(told, |mut told| async { told.recv().await.map(|one| (line(&one), told)) });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// What the caller gave to open the file with.
fn opener(headers: &HeaderMap) -> Result<Opener, ApiError> {
    let identities = secret_header(headers, "keyrelay-identity")?;
    let identities = identities.map(|text| parse_identities(&text)).transpose()?.unwrap_or_default();
    Ok(Opener { passphrase: passphrase(headers)?, identities })
}

enum Received {
    Export(Staged),
    Elsewhere(Source),
}

/// Keeps the body in memory, since it holds secrets in clear.
async fn hold(body: Body) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let mut held = Zeroizing::new(Vec::new());
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::BadRequest("the body broke off".to_owned()))?;
        if held.len() + chunk.len() > SOURCE_BYTES_MAX {
            return Err(ApiError::BodyTooLarge { max: SOURCE_BYTES_MAX });
        }
        held.extend_from_slice(&chunk);
    }
    Ok(held)
}

fn line(told: &Told) -> io::Result<Bytes> {
    let mut text = serde_json::to_vec(told)?;
    text.push(b'\n');
    Ok(text.into())
}

/// Keeps the body on disk; gives the first line apart, and the digest of the rest.
async fn receive(body: Body) -> Result<(std::fs::File, String, Digest), ApiError> {
    let spool = tokio::task::spawn_blocking(tempfile::tempfile).await?.map_err(ApiError::Spool)?;
    let mut file = tokio::io::BufWriter::new(tokio::fs::File::from_std(spool));
    let (mut head, mut is_head, mut hasher, mut bytes) = (Vec::new(), true, blake3::Hasher::new(), 0_u64);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::BadRequest("the body broke off".to_owned()))?;
        bytes += chunk.len() as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(ApiError::BodyTooLarge { max: usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX) });
        }
        file.write_all(&chunk).await.map_err(ApiError::Spool)?;
        let mut rest = &chunk[..];
        if is_head {
            let end = rest.iter().position(|byte| *byte == b'\n');
            head.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            if head.len() > HEAD_BYTES_MAX {
                return Err(FileError::Head("it is longer than any".to_owned()).into());
            }
            is_head = end.is_none();
            rest = end.map_or(&[], |end| &rest[end + 1..]);
        }
        hasher.update(rest);
    }
    file.flush().await.map_err(ApiError::Spool)?;
    let file = file.into_inner().into_std().await;
    let head = String::from_utf8(head).map_err(|error| FileError::Head(error.to_string()))?;
    if is_head {
        return Err(FileError::Head("it has no end".to_owned()).into());
    }
    Ok((file, head, Digest::from_bytes(*hasher.finalize().as_bytes())))
}

impl From<CheckError> for ApiError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Read(error) if error.kind() == io::ErrorKind::InvalidData => FileError::Head(error.to_string()).into(),
            CheckError::Read(error) => Self::Spool(error),
            CheckError::Prepare(error) => error.into(),
        }
    }
}
