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
use schemas::{Actor, Aggregate, Command, CommandId, Digest, Stream, client_key};
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
/// How often a secret is looked up whose key changes under way.
const LOOKS_MAX: usize = 3;
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
    let mut is_untold = false;
    for token in tokens {
        let holder = holder_of(app, &token.token, &salts.open)?;
        is_untold |= may_be_older(&token.token) && holder.as_ref().is_none_or(|holder| !holder.is_present);
        let Some(holder) = holder else {
            labels.push(Label::FalsePositive);
            continue;
        };
        labels.push(Label::TruePositive);
        if met.insert(holder.hash) {
            firsts.push(Found { holder, token: token.token.clone(), source: token.source.clone(), url: token.url.clone() });
        }
    }
    let mut done = stream::iter(firsts).map(|found| act(app, action, scanner, found)).buffer_unordered(COMMANDS_AT_ONCE);
    let mut outcome = Ok(());
    // One that fails keeps no other from being done.
    while let Some(acted) = done.next().await {
        outcome = outcome.and(acted);
    }
    outcome?;
    match salts.unreadable.filter(|_| is_untold) {
        Some(error) => Err(ApiError::LeakUntold(error)),
        None => Ok(labels),
    }
}

/// A secret of a key, and where it was found.
struct Found {
    holder: Holder,
    token: Zeroizing<String>,
    source: Option<String>,
    url: Option<String>,
}

/// The key that has, or had, a secret.
struct Holder {
    key: Arc<Key>,
    /// The hash by which the key knows it.
    hash: Digest,
    /// It has it still.
    is_present: bool,
}

/// The salts of older schemes that present keys are known under. One that this cluster does not have can tell nothing.
#[derive(Default)]
struct Salts {
    open: Vec<u32>,
    /// Why one of the others could not be opened.
    unreadable: Option<UnsealError>,
}

async fn salts(app: &App) -> Result<Salts, ApiError> {
    let versions = app.models.salts();
    if versions.is_empty() {
        return Ok(Salts::default());
    }
    let opened = app.vault(move |vault| {
        let mut salts = Salts::default();
        for version in versions.iter() {
            match vault.open_salt(*version) {
                Ok(()) => salts.open.push(*version),
                Err(UnsealError::Missing) => {}
                Err(error) => salts.unreadable = Some(error),
            }
        }
        salts
    });
    Ok(opened.await?)
}

/// Whether a text may be a secret that was not issued here. Such ones may be short, since other systems issue what they like.
fn may_be_older(token: &str) -> bool {
    !token.is_empty() && token.len() <= *LENGTH_OF_BROUGHT.end() && !token.starts_with(client_key::PREFIX)
}

/// The key that has this secret, or else one that had it: by which hash a key knows its secret changes with an upgrade, and with an import that
/// sets it back.
fn holder_of(app: &App, token: &str, salts: &[u32]) -> Result<Option<Holder>, ApiError> {
    let issued = client_key::parse(token).is_ok().then(|| client_key::hash(token));
    let is_older = may_be_older(token);
    let brought = is_older.then(|| app.vault.client_key_hash(token).0);
    let older = salts.iter().filter(|_| is_older).filter_map(|salt| app.vault.salted_hash(*salt, token));
    // An upgrade may take an older hash away between the first look and the others.
    let again = brought.filter(|_| !salts.is_empty());
    let mut former = None;
    for hash in issued.into_iter().chain(brought).chain(older).chain(again) {
        let Some(key) = app.models.key_by_hash(&hash)? else { continue };
        let is_present = key.secrets.iter().any(|secret| secret.hash == hash);
        let holder = Holder { key, hash, is_present };
        if is_present {
            return Ok(Some(holder));
        }
        former = former.or(Some(holder));
    }
    Ok(former)
}

/// Acts on one leak. What there is to decide is decided on the log's head, where the key may know the secret by another hash already; it is looked
/// up again then.
async fn act(app: &App, action: LeakAction, scanner: &str, mut found: Found) -> Result<(), ApiError> {
    for _ in 0..LOOKS_MAX {
        if is_settled(app, action, scanner, &found).await? {
            return Ok(());
        }
        let Salts { open, unreadable } = salts(app).await?;
        let holder = holder_of(app, &found.token, &open)?;
        match (holder, unreadable) {
            (Some(holder), None) => found.holder = holder,
            (Some(holder), Some(_)) if holder.is_present => found.holder = holder,
            (_, Some(error)) => return Err(ApiError::LeakUntold(error)),
            (None, None) => return Ok(()),
        }
    }
    Err(ApiError::Busy("changes of a key that was found in the open"))
}

/// Reports a leak to its key; tells whether that settles it.
async fn is_settled(app: &App, action: LeakAction, scanner: &str, found: &Found) -> Result<bool, ApiError> {
    let Found { holder: Holder { key, hash, .. }, source, url, .. } = found;
    let Some(number) = key.secret(hash, app.now()).map(|secret| secret.number) else { return Ok(true) };
    let is_known = |key: &Key| key.revoked.is_some() || key.leaks.iter().any(|leak| leak.number == number);
    if is_known(key) {
        return Ok(true);
    }
    let stream = Stream::key(key.tenant.clone(), key.id);
    let source = source.as_deref().map(|source| shortened(source, SOURCE_LENGTH_MAX)).filter(|source| !source.is_empty());
    let url = url.as_deref().map(|url| shortened(url, URL_LENGTH_MAX));
    let reason = format!("leaked: found by {scanner}{}", source.as_deref().map(|source| format!(" in {source}")).unwrap_or_default());
    let report = LeakReport {
        hash: *hash,
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
        return Ok(true);
    }
    // Nothing came of it: another report came first, or the key has no such hash any more.
    Ok(matches!(&receipt.aggregate, Aggregate::Key(key) if is_known(key)))
}

/// At most so many characters, none of them a control character.
fn shortened(text: &str, length: usize) -> String {
    text.chars().filter(|character| !character.is_control()).take(length).collect()
}
