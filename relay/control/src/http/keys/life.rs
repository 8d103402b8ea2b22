//! The rarer verbs of a key's life: ending an overlap early, putting a key away, taking it back, and purging it.

use axum::Json;
use axum::extract::{Path, State};
use schemas::key::KeyCommand;
use schemas::{Aggregate, Command, Head, KeyId, Sequence, Stream};
use serde::Serialize;
use utoipa::ToSchema;
use vault::Vault;

use super::{KeyAnswer, execute, parse_id, seal_reason};
use crate::commands::{Receipt, Request};
use crate::http::app::App;
use crate::http::conventions::{Mutation, Nothing, Reason};
use crate::http::error::{ApiError, MutationProblems};
use crate::secrets;

/// What is left to say of a key that was purged.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct PurgedKey {
    id: KeyId,
    /// Whether its personal fields are destroyed in the key store already; where false, the key store was away, and a node destroys them once
    /// it is back.
    erased: bool,
    sequence: Sequence,
    applied: bool,
}

/// End the overlap of a rotation early: the secret before the current one is refused from now on.
#[utoipa::path(post, path = "/keys/{id}/finish-rotation", tag = "keys", operation_id = "finish_key_rotation", request_body = Nothing,
    params(("id" = KeyId, Path)), responses((status = 200, body = KeyAnswer), MutationProblems))]
pub(in crate::http) async fn finish_rotation(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<KeyAnswer>, ApiError> {
    execute(&app, &mutation, &id, KeyCommand::FinishOverlap).await
}

/// Put a key away: it is refused, and takes no change but those that narrow it, until it is restored.
#[utoipa::path(post, path = "/keys/{id}/archive", tag = "keys", operation_id = "archive_key", request_body = Reason, params(("id" = KeyId, Path)),
    responses((status = 200, body = KeyAnswer), MutationProblems))]
pub(in crate::http) async fn archive(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Reason>,
) -> Result<Json<KeyAnswer>, ApiError> {
    let reason = seal_reason(&app, &mutation, &id).await?;
    execute(&app, &mutation, &id, KeyCommand::Archive { reason }).await
}

/// Take an archived key back. Whatever else is true of it, such as disabled, expired or revoked, stays true.
#[utoipa::path(post, path = "/keys/{id}/restore", tag = "keys", operation_id = "restore_key", request_body = Nothing, params(("id" = KeyId, Path)),
    responses((status = 200, body = KeyAnswer), MutationProblems))]
pub(in crate::http) async fn restore(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<KeyAnswer>, ApiError> {
    execute(&app, &mutation, &id, KeyCommand::Restore).await
}

/// Take an archived key out of everything for good, and destroy its description and reasons. What happened to it stays in the log and can be proved; what
/// it used stays counted under its id.
#[utoipa::path(post, path = "/keys/{id}/purge", tag = "keys", operation_id = "purge_key", request_body = Nothing, params(("id" = KeyId, Path)),
    responses((status = 200, body = PurgedKey), MutationProblems))]
pub(in crate::http) async fn purge(
    State(app): State<App>,
    Path(id): Path<String>,
    mutation: Mutation<Nothing>,
) -> Result<Json<PurgedKey>, ApiError> {
    let id = parse_id(&id)?;
    let stream = Stream::key(mutation.caller.tenant.clone(), id);
    let (receipt, erased) = purged(&app, mutation.request(stream, Command::Key(KeyCommand::Purge))).await?;
    let (sequence, applied) = (receipt.sequence, receipt.applied);
    Ok(Json(PurgedKey { id, erased, sequence, applied }))
}

/// Purges a key and destroys its texts, and a secret that waits to be collected; gives whether those are destroyed already. Of a key that is
/// gone, only that may be left to do.
pub(super) async fn purged(app: &App, request: Request) -> Result<(Receipt, bool), ApiError> {
    let stream = request.stream.clone();
    let receipt = match app.models.load(&stream)? {
        (Some(Aggregate::Key(key)), Head { version, sequence })
            if key.is_purged() && app.models.command(&request.command_id)?.is_none() =>
        {
            let (before, aggregate) = (Some(Aggregate::Key(key.clone())), Aggregate::Key(key));
            Receipt { before, aggregate, version, sequence, applied: true, repeated: false, recorded: false }
        }
        _ => app.commands.execute(request).await?,
    };
    let subject = stream.clone();
    // Each is tried whatever becomes of the other.
    let erase = move |vault: &Vault| {
        let (texts, successors) = (vault.erase_subject(&subject), secrets::erase_successors(vault, &subject));
        texts.and(successors)
    };
    let erased = match app.vault(erase).await? {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(stream = %stream, error = &error as &dyn std::error::Error, "the secrets of a purged key are not destroyed yet");
            false
        }
    };
    Ok((receipt, erased))
}
