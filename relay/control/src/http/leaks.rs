//! `/leaks`: client keys that a scanner found in the open. The one route that takes no token; see [`crate::leaks`] for who may send.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt as _};
use schemas::key::{Key, KeyCommand, LeakAction, LeakReport};
use schemas::{Actor, Command, CommandId, Digest, Stream, client_key};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use vault::UnsealError;
use zeroize::Zeroizing;

use super::app::App;
use super::error::{ApiError, Problem};
use super::keys::{LENGTH_OF_BROUGHT, seal_text};
use crate::commands::{Commands, Request};
use crate::health::STALE_FROM;
use crate::leaks::Signature;
use crate::secrets;

/// The most bytes of a report, and the most tokens in it.
const BODY_BYTES_MAX: usize = 1024 * 1024;
const TOKENS_MAX: usize = 1000;
/// How long a body may take: whoever sends it has not shown yet who they are.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// Commands under way at once.
const COMMANDS_AT_ONCE: usize = 16;
/// The most characters of a place's kind and of its address; the rest is cut off.
const SOURCE_LENGTH_MAX: usize = 64;
const URL_LENGTH_MAX: usize = 1000;

const KEY_ID: HeaderName = HeaderName::from_static("github-public-key-identifier");
const KEY_SIGNATURE: HeaderName = HeaderName::from_static("github-public-key-signature");
const SHARED_SIGNATURE: HeaderName = HeaderName::from_static("keyrelay-signature");

/// A token that a scanner found. Members that are not named here are passed over.
#[derive(Deserialize, ToSchema)]
pub(super) struct FoundToken {
    /// What may be a client key.
    #[schema(value_type = String, format = Password)]
    #[serde(deserialize_with = "wiped")]
    token: Zeroizing<String>,
    /// What the scanner calls tokens of this form.
    r#type: String,
    /// Where it was found; it is sealed and can be erased.
    #[serde(default)]
    url: Option<String>,
    /// What kind of place that is, such as `content`.
    #[serde(default)]
    source: Option<String>,
}

/// A text whose memory is wiped.
fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// What a token turned out to be.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Label {
    /// It is, or was, a secret of a key.
    TruePositive,
    FalsePositive,
}

/// What is answered to one token of a report.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LabelledToken {
    /// SHA-256 of the token in base64: the token itself does not travel back.
    token_hash: String,
    token_type: String,
    label: Label,
}

/// The refusals of a report.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive only")]
pub(super) enum LeakProblems {
    /// The report is not a list of tokens, or has too many.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// There is no signature, or nobody made it whose key is configured (`bad_signature`).
    #[response(status = 401, content_type = "application/problem+json")]
    BadSignature(Problem),
    /// No scanner's key is configured.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The report is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    BodyTooLarge(Problem),
    /// Something inside failed; the node's log says what.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// Not everything could be done now (`log_unavailable`, `stale`, `busy`); the same report does the rest later.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// Report client keys that were found in the open, in the form of GitHub's secret scanning. Needs no token: the report is signed, by a key of
/// `control.leak_keys_file` (ECDSA on P-256 with SHA-256 over the body) or with the secret of `control.leak_secret_file` (HMAC-SHA-256 over the body).
/// A key that is good is revoked or disabled as `control.leak_action` says, once for each of its secrets: the same report again changes nothing.
#[utoipa::path(post, path = "/leaks", tag = "keys", operation_id = "report_leaks", request_body = Vec<FoundToken>, security(()),
    params(("Github-Public-Key-Identifier" = Option<String>, Header, description = "Which published key signed"),
        ("Github-Public-Key-Signature" = Option<String>, Header, description = "The signature, ASN.1 DER in base64"),
        ("Keyrelay-Signature" = Option<String>, Header, description = "`sha256=` and the HMAC in hexadecimal")),
    responses((status = 200, body = Vec<LabelledToken>), LeakProblems))]
pub(super) async fn report(State(app): State<App>, headers: HeaderMap, body: Body) -> Result<Json<Vec<LabelledToken>>, ApiError> {
    let intake = app.leaks.as_ref().ok_or(ApiError::NotFound("leak intake here: no scanner's key is configured"))?;
    let signature = signature(&headers).ok_or(ApiError::BadSignature)?;
    let _turn = intake.turns.try_acquire().map_err(|_| ApiError::Busy("reports of leaks"))?;
    let body = tokio::time::timeout(BODY_WAIT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    let body = body.map_err(|_| ApiError::BadRequest("the body took too long".to_owned()))?;
    let body = body.map_err(|_| ApiError::BodyTooLarge { max: BODY_BYTES_MAX })?;
    let scanner = intake.scanner(signature, &body).await.ok_or(ApiError::BadSignature)?;
    let tokens: Vec<FoundToken> =
        serde_json::from_slice(&body).map_err(|error| ApiError::BadRequest(format!("the body is not a list of tokens: {error}")))?;
    if tokens.len() > TOKENS_MAX {
        return Err(ApiError::BadRequest(format!("a report has at most {TOKENS_MAX} tokens")));
    }
    // What looks unknown may be a key that this node has not heard of yet.
    if app.staleness() >= STALE_FROM {
        return Err(ApiError::Stale);
    }
    let labels = take_in(&app, intake.action, &scanner, &tokens).await?;
    let answer = tokens.into_iter().zip(labels).map(|(token, label)| LabelledToken {
        token_hash: STANDARD.encode(digest::digest(&digest::SHA256, token.token.as_bytes())),
        token_type: token.r#type,
        label,
    });
    Ok(Json(answer.collect()))
}

fn signature(headers: &HeaderMap) -> Option<Signature> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str());
    match (text(&KEY_ID), text(&KEY_SIGNATURE), text(&SHARED_SIGNATURE)) {
        (Some(Ok(key_id)), Some(Ok(signature)), None) => {
            Some(Signature::Published { key_id: key_id.to_owned(), signature: STANDARD.decode(signature).ok()? })
        }
        (None, None, Some(Ok(tag))) => Some(Signature::Shared { tag: hex(tag.strip_prefix("sha256=")?)? }),
        _ => None,
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// What the tokens are, in their order, once everything is done about them. Each secret is acted on once, however often it stands in a report.
async fn take_in(app: &App, action: LeakAction, scanner: &str, tokens: &[FoundToken]) -> Result<Vec<Label>, ApiError> {
    let salts = salts(app).await?;
    let (mut firsts, mut met, mut labels) = (Vec::new(), BTreeSet::new(), Vec::with_capacity(tokens.len()));
    for token in tokens {
        let Some((key, hash)) = key_of(app, &token.token, &salts)? else {
            labels.push(Label::FalsePositive);
            continue;
        };
        labels.push(Label::TruePositive);
        if met.insert(hash) {
            firsts.push(Found { key, hash, source: token.source.clone(), url: token.url.clone() });
        }
    }
    let mut done = stream::iter(firsts).map(|found| act(app, action, scanner, found)).buffer_unordered(COMMANDS_AT_ONCE);
    let mut outcome = Ok(());
    // One that fails keeps no other from being done.
    while let Some(acted) = done.next().await {
        outcome = outcome.and(acted);
    }
    outcome?;
    Ok(labels)
}

/// A secret of a key, and where it was found.
struct Found {
    key: Arc<Key>,
    hash: Digest,
    source: Option<String>,
    url: Option<String>,
}

/// The salts of older schemes that present keys are known under, opened. One that this cluster does not have can tell nothing.
async fn salts(app: &App) -> Result<Vec<u32>, ApiError> {
    let salts: Vec<u32> = app.models.salts().iter().copied().collect();
    if salts.is_empty() {
        return Ok(salts);
    }
    let opened = app.vault(move |vault| {
        let is_open = |salt: &u32| match vault.open_salt(*salt) {
            Ok(()) => Ok(true),
            Err(UnsealError::Missing) => Ok(false),
            Err(error) => Err(error),
        };
        salts.into_iter().map(|salt| is_open(&salt).map(|is_open| is_open.then_some(salt))).collect::<Result<Vec<_>, _>>()
    });
    Ok(opened.await??.into_iter().flatten().collect())
}

/// The key that has, or had, this secret, and the hash by which it is known.
fn key_of(app: &App, token: &str, salts: &[u32]) -> Result<Option<(Arc<Key>, Digest)>, ApiError> {
    let is_ours = token.starts_with(client_key::PREFIX);
    let may_be_brought = LENGTH_OF_BROUGHT.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    let issued = (is_ours && client_key::parse(token).is_ok()).then(|| client_key::hash(token));
    let brought = (!is_ours && may_be_brought).then(|| app.vault.client_key_hash(token).0);
    let older = salts.iter().filter(|_| brought.is_some()).filter_map(|salt| app.vault.salted_hash(*salt, token));
    for hash in issued.into_iter().chain(brought).chain(older) {
        if let Some(key) = app.models.key_by_hash(&hash)? {
            return Ok(Some((key, hash)));
        }
    }
    Ok(None)
}

/// Reports one leak to its key. What there is to decide is decided on the log's head.
async fn act(app: &App, action: LeakAction, scanner: &str, found: Found) -> Result<(), ApiError> {
    let Found { key, hash, source, url } = found;
    let secret = key.secret(&hash, app.now());
    if key.revoked.is_some() || secret.is_none_or(|secret| key.leaks.iter().any(|leak| leak.number == secret.number)) {
        return Ok(());
    }
    let stream = Stream::key(key.tenant.clone(), key.id);
    let source = source.map(|source| shortened(&source, SOURCE_LENGTH_MAX)).filter(|source| !source.is_empty());
    let url = url.map(|url| shortened(&url, URL_LENGTH_MAX));
    let reason = format!("leaked: found by {scanner}{}", source.as_deref().map(|source| format!(" in {source}")).unwrap_or_default());
    let report = LeakReport {
        hash,
        scanner: scanner.to_owned(),
        source,
        url: seal_text(app, &stream, url.as_deref()).await?,
        action,
        reason: seal_text(app, &stream, Some(&reason)).await?,
    };
    let request = Request {
        stream: stream.clone(),
        command: Command::Key(KeyCommand::ReportLeak(Box::new(report))),
        actor: Actor::Node(app.node()),
        command_id: CommandId::from_bytes(secrets::random_bytes()),
        request_digest: Digest::blake3(b"keyrelay leak"),
        if_version: None,
        deadline: Commands::deadline(),
    };
    let receipt = app.commands.execute(request).await?;
    if receipt.recorded {
        tracing::warn!(key.id = %key.id, tenant = %key.tenant, scanner, sequence = receipt.sequence.0, "a client key was found in the open");
    }
    Ok(())
}

/// At most so many characters, none of them a control character.
fn shortened(text: &str, length: usize) -> String {
    text.chars().filter(|character| !character.is_control()).take(length).collect()
}
