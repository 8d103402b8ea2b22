//! `/export`: what the read models know, as a file that another node takes in.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek as _};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use schemas::TenantId;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use utoipa::{IntoParams, ToSchema};

use super::app::App;
use super::conventions::{Caller, Params, passphrase};
use super::error::{ApiError, ReadProblems};
use crate::transfer::export::Exported;
use crate::transfer::file::{FileError, Kind};
use crate::transfer::privacy::{Privacy, PrivacyError};
use crate::transfer::sealing::parse_recipients;
use crate::transfer::{csv, export as writing};

const CHUNK_BYTES: usize = 64 * 1024;

/// What is exported, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Selection {
    /// Of `tenants`, `pools`, `prices`, `upstreams`, `keys`, `policies`, `bindings`, `usage`, separated by commas; all if not given. `users` is
    /// an empty set: there are none yet.
    #[serde(default)]
    types: Option<String>,
    /// The data of this tenant only; of all if not given, whatever `Keyrelay-Tenant` names.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    tenant: Option<TenantId>,
    /// Leave out secrets, hashes of secrets and personal texts.
    #[serde(default)]
    sanitize: bool,
    /// Seal to these X25519 public keys of age, `age1…`, separated by commas, instead of under a passphrase; at most 64. Whoever has the identity of one
    /// opens the file.
    #[serde(default)]
    recipients: Option<String>,
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Jsonl,
    /// Of keys only, for spreadsheets; it cannot be imported.
    Csv,
}

/// Export data of all tenants, or of one, as of one moment: a head, then a line for each object. Secrets and personal texts are sealed under the
/// passphrase or to the recipients, or left out of a sanitised file; hashes of secrets that were issued here go along, since nothing can be told from them.
#[utoipa::path(get, path = "/export", tag = "data", operation_id = "export_data",
    params(Selection, ("Keyrelay-Passphrase" = Option<String>, Header, description = "Needed for upstreams, keys and tenants, unless sanitised or sealed to recipients")),
    responses((status = 200, content((String = "application/x-ndjson"), (String = "text/csv"))), ReadProblems))]
pub(super) async fn export(
    State(app): State<App>,
    _caller: Caller,
    Params(selection): Params<Selection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let kinds = kinds(selection.types.as_deref())?;
    let tenant = selection.tenant;
    if let Some(unknown) = tenant.as_ref().filter(|tenant| app.models.routes().tenant(tenant).is_none()) {
        return Err(ApiError::TenantNotFound(unknown.to_string()));
    }
    if selection.format == Format::Csv {
        if kinds != BTreeSet::from([Kind::Keys]) {
            return Err(ApiError::BadRequest("csv is of keys only: ask for types=keys".to_owned()));
        }
        return table(app, tenant).await;
    }
    let recipients = selection.recipients.as_deref().map(parse_recipients).transpose()?;
    let (passphrase, is_private) = (passphrase(&headers)?, kinds.iter().any(|kind| kind.is_private()));
    let (sanitize, runtime) = (selection.sanitize, Handle::current());
    let work = move || {
        let privacy = match (passphrase, recipients) {
            (_, Some(_)) if sanitize => return Err(FileError::SealedTwice.into()),
            _ if sanitize => Privacy::Sanitized,
            (Some(_), Some(_)) => return Err(FileError::SealedTwice.into()),
            (Some(passphrase), None) => Privacy::sealed(&passphrase)?,
            (None, Some(recipients)) => Privacy::sealed_to(&recipients)?,
            (None, None) if is_private => return Err(FileError::Unsealed.into()),
            (None, None) => Privacy::Plain,
        };
        let exported = writing::write(&app, &runtime, &kinds, &privacy, tenant.as_ref())?;
        tracing::info!(sanitized = sanitize, lines = exported.head.lines(), "data was exported");
        Ok::<_, ApiError>(exported)
    };
    let Exported { head, body } = tokio::task::spawn_blocking(work).await??;
    let head = Bytes::from(head.text() + "\n");
    Ok(attachment("application/x-ndjson", "keyrelay-export.jsonl", Some(head), body))
}

async fn table(app: App, tenant: Option<TenantId>) -> Result<Response, ApiError> {
    let work = move || {
        let mut file = io::BufWriter::new(tempfile::tempfile().map_err(ApiError::Spool)?);
        csv::write(&app, tenant.as_ref(), &mut file)?;
        let mut file = file.into_inner().map_err(|error| ApiError::Spool(error.into_error()))?;
        file.rewind().map_err(ApiError::Spool)?;
        Ok::<_, ApiError>(file)
    };
    let file = tokio::task::spawn_blocking(work).await??;
    Ok(attachment("text/csv; charset=utf-8", "keyrelay-keys.csv", None, file))
}

fn kinds(types: Option<&str>) -> Result<BTreeSet<Kind>, ApiError> {
    let Some(types) = types else { return Ok(Kind::ALL.into()) };
    let kind = |name: &str| Kind::parse(name.trim()).ok_or_else(|| ApiError::BadRequest(format!("there is no type {name:?}")));
    types.split(',').map(kind).collect()
}

/// A file as the body of an answer, behind what comes first.
fn attachment(content_type: &'static str, name: &'static str, first: Option<Bytes>, file: File) -> Response {
    let file = tokio::fs::File::from_std(file);
    let chunks = stream::unfold((first, file), |(first, mut file)| async move {
        if let Some(first) = first {
            return Some((Ok(first), (None, file)));
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(chunk)), (None, file))),
            Err(error) => Some((Err(error), (None, file))),
        }
    });
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [(header::CONTENT_TYPE, content_type.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    (headers, Body::from_stream(chunks)).into_response()
}

impl From<PrivacyError> for ApiError {
    fn from(error: PrivacyError) -> Self {
        match error {
            PrivacyError::File(error) => error.into(),
            PrivacyError::NoRandomness(error) => Self::Seal(error.into()),
        }
    }
}
