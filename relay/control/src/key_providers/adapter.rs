//! How each kind of provider is asked.

use aws_lc_rs::hmac;
use http::{HeaderName, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::{KeyRequest, Made, ProviderError};
use crate::oauth::TokenClient;

/// Pages of keys that are read at most; a provider that has more is not searched to its end.
const PAGES_MAX: usize = 200;
/// The least of a secret's end that a hint must show.
const HINT_END_MIN: usize = 4;
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const SIGNATURE: HeaderName = HeaderName::from_static("x-keyrelay-signature");

/// What a provider is asked with. It has no `Debug`: there are secrets in it.
pub(super) enum Adapter {
    /// A service account of its own for each key, in one project: `{url}/organization/projects/{project}/service_accounts`.
    Openai { url: Url, admin_key: Zeroizing<String>, project: String },
    /// Keys can be listed and made inactive, not made: an operator pastes them.
    Anthropic { url: Url, admin_key: Zeroizing<String> },
    /// Whoever answers there makes the keys.
    Webhook { url: Url, secret: Zeroizing<String> },
    /// An operator makes and takes away the keys.
    Paste,
}

/// A page of a list.
#[derive(Deserialize)]
struct Listed<T> {
    data: Vec<T>,
    #[serde(default)]
    has_more: bool,
    #[serde(default)]
    last_id: Option<String>,
}

#[derive(Deserialize)]
struct ServiceAccount {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    api_key: Option<ApiKey>,
}

#[derive(Deserialize)]
struct ApiKey {
    #[serde(deserialize_with = "secret")]
    value: Zeroizing<String>,
}

#[derive(Deserialize)]
struct HintedKey {
    id: String,
    #[serde(default)]
    partial_key_hint: Option<String>,
}

#[derive(Deserialize)]
struct Delivered {
    #[serde(deserialize_with = "secret")]
    credential: Zeroizing<String>,
    #[serde(default)]
    key: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// What a key that is made for a rotation is called at the provider.
fn key_name(request: &KeyRequest<'_>) -> String {
    format!("keyrelay-{}", request.rotation)
}

impl Adapter {
    pub(super) async fn make(&self, client: &TokenClient, request: &KeyRequest<'_>) -> Result<Made, ProviderError> {
        match self {
            Self::Anthropic { .. } | Self::Paste => Ok(Made::Later),
            Self::Openai { url, admin_key, project } => {
                let (accounts, headers) = (accounts(url, project)?, bearer(admin_key));
                let name = key_name(request);
                // The secret of one that is there is lost with whoever asked for it.
                for account in list::<ServiceAccount>(client, &accounts, &headers, "after").await? {
                    if account.name == name {
                        remove(client, &below(&accounts, &account.id)?, &headers).await?;
                    }
                }
                let (_, answer) = accepted(client, Method::POST, &accounts, &headers, Some(&json!({ "name": name }))).await?;
                let made: ServiceAccount = parsed(&answer, "a service account")?;
                let secret = made.api_key.ok_or(ProviderError::Lacks("the key of the service account"))?.value;
                Ok(Made::Key { secret: usable(secret)?, key: Some(made.id) })
            }
            Self::Webhook { url, secret } => {
                let body =
                    json!({ "action": "make", "rotation": request.rotation, "name": key_name(request), "upstream": upstream(request) });
                let (status, answer) = signed(client, url, secret, &body, request.now).await?;
                if status == StatusCode::ACCEPTED {
                    return Ok(Made::Later);
                }
                let Delivered { credential, key } = parsed(&answer, "a credential")?;
                Ok(Made::Key { secret: usable(credential)?, key })
            }
        }
    }

    pub(super) async fn retire(&self, client: &TokenClient, key: &str, request: &KeyRequest<'_>) -> Result<(), ProviderError> {
        match self {
            Self::Paste => Ok(()),
            Self::Openai { url, admin_key, project } => remove(client, &below(&accounts(url, project)?, key)?, &bearer(admin_key)).await,
            Self::Anthropic { url, admin_key } => {
                let key = below(&keys(url)?, key)?;
                let body = json!({ "status": "inactive" });
                match accepted(client, Method::POST, &key, &anthropic(admin_key), Some(&body)).await {
                    Ok(_) | Err(ProviderError::Status(404)) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Self::Webhook { url, secret } => {
                let body = json!({ "action": "retire", "key": key, "upstream": upstream(request) });
                signed(client, url, secret, &body, request.now).await.map(drop)
            }
        }
    }

    pub(super) async fn identify(&self, client: &TokenClient, secret: &str) -> Result<Option<String>, ProviderError> {
        let Self::Anthropic { url, admin_key } = self else { return Ok(None) };
        let mut active = keys(url)?;
        active.query_pairs_mut().append_pair("status", "active");
        let listed = list::<HintedKey>(client, &active, &anthropic(admin_key), "after_id").await?;
        let mut fitting = listed.into_iter().filter(|key| key.partial_key_hint.as_deref().is_some_and(|hint| is_hint_of(hint, secret)));
        Ok(fitting.next().filter(|_| fitting.next().is_none()).map(|key| key.id))
    }
}

/// Whether a text such as `sk-ant-api03-R2D...igAA` can be what is shown of a secret.
fn is_hint_of(hint: &str, secret: &str) -> bool {
    let Some((start, end)) = hint.split_once("...") else { return false };
    end.len() >= HINT_END_MIN && secret.len() > start.len() + end.len() && secret.starts_with(start) && secret.ends_with(end)
}

fn upstream(request: &KeyRequest<'_>) -> Value {
    let upstream = request.upstream;
    json!({ "id": upstream.id, "tenant": upstream.tenant, "name": upstream.details.name, "base_url": upstream.details.base_url })
}

type Headers = Vec<(HeaderName, Zeroizing<String>)>;

fn bearer(key: &str) -> Headers {
    vec![(header::AUTHORIZATION, Zeroizing::new(format!("Bearer {key}")))]
}

fn anthropic(key: &str) -> Headers {
    vec![(X_API_KEY, Zeroizing::new(key.to_owned())), (ANTHROPIC_VERSION, Zeroizing::new("2023-06-01".to_owned()))]
}

fn accounts(url: &Url, project: &str) -> Result<Url, ProviderError> {
    ["organization", "projects", project, "service_accounts"].iter().try_fold(url.clone(), |url, part| below(&url, part))
}

fn keys(url: &Url) -> Result<Url, ProviderError> {
    ["organizations", "api_keys"].iter().try_fold(url.clone(), |url, part| below(&url, part))
}

fn below(url: &Url, part: &str) -> Result<Url, ProviderError> {
    let mut url = url.clone();
    url.path_segments_mut().map_err(|()| ProviderError::Address)?.pop_if_empty().push(part);
    Ok(url)
}

/// What goes into a header as it is.
fn usable(secret: Zeroizing<String>) -> Result<Zeroizing<String>, ProviderError> {
    let is_usable = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if is_usable { Ok(secret) } else { Err(ProviderError::Lacks("a credential of visible characters")) }
}

async fn list<T: DeserializeOwned>(client: &TokenClient, url: &Url, headers: &Headers, cursor: &str) -> Result<Vec<T>, ProviderError> {
    let (mut found, mut after) = (Vec::new(), None::<String>);
    for _ in 0..PAGES_MAX {
        let mut page = url.clone();
        page.query_pairs_mut().append_pair("limit", "100").extend_pairs(after.iter().map(|after| (cursor, after)));
        let (_, answer) = accepted(client, Method::GET, &page, headers, None).await?;
        let listed: Listed<T> = parsed(&answer, "a list")?;
        found.extend(listed.data);
        after = listed.last_id.filter(|_| listed.has_more);
        if after.is_none() {
            return Ok(found);
        }
    }
    Err(ProviderError::Lacks("an end of its list"))
}

async fn remove(client: &TokenClient, url: &Url, headers: &Headers) -> Result<(), ProviderError> {
    match accepted(client, Method::DELETE, url, headers, None).await {
        Ok(_) | Err(ProviderError::Status(404)) => Ok(()),
        Err(error) => Err(error),
    }
}

type Answered = (StatusCode, Zeroizing<Vec<u8>>);

async fn accepted(
    client: &TokenClient,
    method: Method,
    url: &Url,
    headers: &Headers,
    body: Option<&Value>,
) -> Result<Answered, ProviderError> {
    let body = body.map(|body| Zeroizing::new(body.to_string().into_bytes()));
    let (status, answer) = client.call(method, url, headers, body).await?;
    if status.is_success() { Ok((status, answer)) } else { Err(ProviderError::Status(status.as_u16())) }
}

fn parsed<T: DeserializeOwned>(answer: &[u8], what: &'static str) -> Result<T, ProviderError> {
    serde_json::from_slice(answer).map_err(|_| ProviderError::Lacks(what))
}

/// Sends what only we can have said, and at this time: `t=SECONDS,v1=HEX`, the HMAC-SHA256 of `SECONDS.BODY`.
async fn signed(client: &TokenClient, url: &Url, secret: &str, body: &Value, now: u64) -> Result<Answered, ProviderError> {
    let text = body.to_string();
    let headers = vec![(SIGNATURE, Zeroizing::new(signature(secret, now, &text)))];
    let (status, answer) = client.call(Method::POST, url, &headers, Some(Zeroizing::new(text.into_bytes()))).await?;
    if status.is_success() { Ok((status, answer)) } else { Err(ProviderError::Status(status.as_u16())) }
}

fn signature(secret: &str, now: u64, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{now}.{text}").as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={now},v1={hex}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test says where")]

    use super::*;

    #[test]
    fn a_hint_fits_the_secret_that_it_shows_and_no_shorter_one() {
        let secret = "sk-ant-api03-R2Dxxxxxxxxxxxxxxxxxxigaa";
        assert!(is_hint_of("sk-ant-api03-R2D...igaa", secret));
        for wrong in ["sk-ant-api03-R2E...igaa", "sk-ant-api03-R2D...igab", "sk-ant-api03-R2D...aa", "sk-ant-api03-R2D", "..."] {
            assert!(!is_hint_of(wrong, secret), "{wrong}");
        }
        assert!(!is_hint_of("sk-ant-api03-R2D...R2Dx", "sk-ant-api03-R2Dx"));
    }

    #[test]
    fn ids_of_providers_stay_inside_their_place() {
        let url = Url::parse("https://api.example.com/v1/").unwrap();
        assert_eq!(accounts(&url, "proj_1").unwrap().as_str(), "https://api.example.com/v1/organization/projects/proj_1/service_accounts");
        assert_eq!(below(&url, "a/../b?c").unwrap().as_str(), "https://api.example.com/v1/a%2F..%2Fb%3Fc");
    }

    #[test]
    fn a_webhook_is_signed_as_the_docs_say() {
        // By Python's hmac.
        let known = "t=1700000000,v1=8519ae38752143219395b703a0035a6dfdcaf63d15e5983b8b955de43fb31fcd";
        assert_eq!(signature("whsec", 1_700_000_000, r#"{"action":"make"}"#), known);
        assert_ne!(signature("whsec", 1_700_000_001, r#"{"action":"make"}"#), known);
    }
}
