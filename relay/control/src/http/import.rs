//! `/import`: a file that an export wrote, as commands.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use schemas::Digest;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use super::app::App;
use super::conventions::{Caller, Params, passphrase};
use super::error::{ApiError, MutationProblems};
use crate::transfer::apply;
use crate::transfer::check::CheckError;
use crate::transfer::file::FileError;
use crate::transfer::import::{Import, OnConflict, Staged, Told};

/// The most bytes of a file. It is kept on disk while it is worked on.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
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
}

/// Import a file. All of it is checked first: where a line is at fault nothing is applied (`import_invalid`), and neither where objects are here and
/// differ, unless it is said what becomes of them (`import_conflicts`). Then each line is a command of its own, by the actor `import`, whose id
/// derives from the file: sent again, a file changes nothing, and one that broke off goes on.
#[utoipa::path(post, path = "/import", tag = "data", operation_id = "import_data",
    params(Manner, ("Keyrelay-Passphrase" = Option<String>, Header, description = "What the file's secrets are sealed under")),
    request_body(content = String, content_type = "application/x-ndjson", description = "The file"),
    responses((status = 200, content_type = "application/x-ndjson", body = String,
        description = "One JSON object a line: `plan`, then an `item` for each line, then `done`, or `stopped` where it must be sent again"),
        MutationProblems))]
pub(super) async fn import(
    State(app): State<App>,
    _caller: Caller,
    Params(manner): Params<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Manner { on_conflict, prune, dry_run } = manner;
    let passphrase = passphrase(&headers)?;
    let (file, head, digest) = receive(body).await?;
    let staged = Staged::open(file, &head, &digest)?;
    let runtime = Handle::current();
    let work = move || {
        let mut import = Import::begin(app, staged, on_conflict, prune, passphrase.as_ref().map(|text| text.as_str()))?;
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
