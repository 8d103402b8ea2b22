//! The KV secrets engine, version 2, of HashiCorp Vault and OpenBao.

use std::sync::Mutex;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::exchange::{Answer, Exchange};
use super::{SourceError, SourceSecret, pick};

/// How we become known to the store.
pub enum KvLogin {
    /// A token that somebody else renews.
    Token(Zeroizing<String>),
    AppRole {
        mount: String,
        role_id: String,
        secret_id: Zeroizing<String>,
    },
    /// With the token of the pod's service account, read anew for every login because it is replaced while the pod runs.
    Kubernetes {
        mount: String,
        role: String,
        token_file: std::path::PathBuf,
    },
}

/// A store at an address.
pub struct KvStore {
    exchange: Exchange,
    address: Url,
    namespace: Option<String>,
    login: KvLogin,
    /// The token of the last login, written by whoever logs in.
    token: Mutex<Option<Zeroizing<String>>>,
}

#[derive(Deserialize)]
struct Read {
    data: ReadSecret,
}

#[derive(Deserialize)]
struct ReadSecret {
    /// Null where the newest version is deleted.
    data: Option<serde_json::Map<String, Value>>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
}

#[derive(Deserialize)]
struct LoggedIn {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
}

impl KvStore {
    /// `address` is that of the server, without `/v1`.
    pub fn new(exchange: Exchange, address: Url, namespace: Option<String>, login: KvLogin) -> Self {
        Self { exchange, address, namespace, login, token: Mutex::new(None) }
    }

    /// The newest version of a secret. A token that is not good any more is replaced by a login, once.
    pub(super) async fn read(&self, mount: &str, path: &str, field: Option<&str>) -> Result<SourceSecret, SourceError> {
        let segments: Vec<&str> = ["v1", mount, "data"].into_iter().chain(path.split('/')).collect();
        let url = self.url(&segments)?;
        let held = self.held();
        let is_fresh = held.is_none();
        let token = match held {
            Some(token) => token,
            None => self.log_in().await?,
        };
        let mut answer = self.send(Method::GET, &url, Some(&token), Zeroizing::default()).await?;
        if answer.status == StatusCode::FORBIDDEN && !is_fresh && !matches!(self.login, KvLogin::Token(_)) {
            let token = self.log_in().await?;
            answer = self.send(Method::GET, &url, Some(&token), Zeroizing::default()).await?;
        }
        if answer.status == StatusCode::NOT_FOUND {
            return Err(SourceError::Missing);
        }
        let read: Read = accepted(&answer)?;
        let object = read.data.data.ok_or(SourceError::Missing)?;
        Ok(SourceSecret { value: pick(&object, field)?, version: read.data.metadata.version.to_string() })
    }

    fn held(&self) -> Option<Zeroizing<String>> {
        match &self.login {
            KvLogin::Token(token) => Some(token.clone()),
            KvLogin::AppRole { .. } | KvLogin::Kubernetes { .. } => {
                self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
            }
        }
    }

    async fn log_in(&self) -> Result<Zeroizing<String>, SourceError> {
        let (mount, body) = match &self.login {
            KvLogin::Token(token) => return Ok(token.clone()),
            KvLogin::AppRole { mount, role_id, secret_id } => (mount, json!({ "role_id": role_id, "secret_id": **secret_id })),
            KvLogin::Kubernetes { mount, role, token_file } => {
                let jwt = tokio::fs::read_to_string(token_file).await.map_err(|error| SourceError::Away(error.into()))?;
                (mount, json!({ "role": role, "jwt": jwt.trim() }))
            }
        };
        let url = self.url(&["v1", "auth", mount, "login"])?;
        let body = Zeroizing::new(body.to_string().into_bytes());
        let logged_in: LoggedIn = accepted(&self.send(Method::POST, &url, None, body).await?)?;
        let token = Zeroizing::new(logged_in.auth.client_token);
        *self.token.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(token.clone());
        Ok(token)
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        token: Option<&Zeroizing<String>>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, SourceError> {
        // Agents and proxies in front of the store want to see that a program asks, not a page that was talked into it.
        let mut headers = vec![("x-vault-request", "true")];
        headers.extend((!body.is_empty()).then_some(("content-type", "application/json")));
        headers.extend(token.map(|token| ("x-vault-token", token.as_str())));
        headers.extend(self.namespace.as_deref().map(|namespace| ("x-vault-namespace", namespace)));
        self.exchange.send(method, url, &headers, body).await
    }

    fn url(&self, segments: &[&str]) -> Result<Url, SourceError> {
        let mut url = self.address.clone();
        url.path_segments_mut().map_err(|()| SourceError::Address(super::Unsafe::Malformed))?.pop_if_empty().extend(segments);
        Ok(url)
    }
}

fn accepted<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T, SourceError> {
    match answer.status {
        status if status.is_success() => serde_json::from_slice(&answer.body).map_err(|_| SourceError::Answer),
        // A login that is refused is 400; neither answer says more than that in its texts.
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => {
            Err(SourceError::Denied(format!("status {}", answer.status.as_u16())))
        }
        status => Err(SourceError::Status { status: status.as_u16(), code: None }),
    }
}
