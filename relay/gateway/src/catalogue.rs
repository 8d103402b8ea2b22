//! The models that upstreams list, and the question whether an upstream answers at all.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use schemas::UpstreamId;
use schemas::key::Endpoint;
use schemas::upstream::Dialect;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::fallback::{self, SendError};
use crate::gateway::{Gateway, State};
use crate::headers::ANTHROPIC_VERSION;
use crate::targets::{CredentialError, Secret, Shown, Target};
use crate::transport::{self, TransportError};

/// Claude Code waits three seconds for a list of models.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(3);
const CATALOGUE_BYTES_MAX: usize = 4 << 20;
/// The version that the provider's own SDKs send.
const ANTHROPIC_VERSION_DEFAULT: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Where providers name the account of a credential.
const ACCOUNT_HEADERS: [&str; 2] = ["openai-organization", "anthropic-organization-id"];

/// A model as the upstream describes it.
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) description: Box<RawValue>,
}

/// What a test of an upstream found.
#[derive(Debug, Clone)]
pub struct Probed {
    /// The upstream's HTTP status; none where it gave no answer.
    pub status: Option<StatusCode>,
    pub elapsed: Duration,
    /// What went wrong, without any secret.
    pub error: Option<String>,
    /// The account that the provider says the credential belongs to; many say nothing.
    pub account: Option<String>,
}

#[derive(Debug, Error)]
pub(crate) enum CatalogueError {
    #[error("the upstream has no credential for its address, or its address is not allowed")]
    NoTarget,
    #[error("the upstream's credential is not at hand")]
    Credential(#[from] CredentialError),
    #[error("the credential has no such secret")]
    NoSecret,
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the upstream did not answer in time")]
    Timeout,
    #[error("the upstream answered {0}")]
    Status(StatusCode),
    #[error("the upstream's list of models is cut or too long")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the upstream's list of models is not one")]
    Shape(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct List {
    data: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// The models that one upstream lists.
pub(crate) async fn models(state: &State, target: &Target, version: Option<&HeaderValue>) -> Result<Vec<Model>, CatalogueError> {
    let answer = async {
        let response = ask(state, target, version).await?;
        if !response.status().is_success() {
            return Err(CatalogueError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), CATALOGUE_BYTES_MAX).collect().await.map_err(CatalogueError::Body)?;
        let list: List = serde_json::from_slice(&body.to_bytes())?;
        let named = list.data.into_iter().filter_map(|description| {
            // What has no id cannot be asked for.
            let id = serde_json::from_str::<Named<'_>>(description.get()).ok()?.id.into_owned();
            Some(Model { id, description })
        });
        Ok(named.collect())
    };
    tokio::time::timeout(CATALOGUE_TIMEOUT, answer).await.unwrap_or(Err(CatalogueError::Timeout))
}

async fn ask(state: &State, target: &Target, version: Option<&HeaderValue>) -> Result<Response<Incoming>, CatalogueError> {
    Ok(fallback::send(state, target, |credential| question(target, credential, version)).await?)
}

/// The request for an upstream's models; none if it has no such address.
fn question(target: &Target, (name, credential): Shown, version: Option<&HeaderValue>) -> Option<Request<Full<Bytes>>> {
    let dialect = target.route.upstream.details.dialect;
    let query = match dialect {
        Dialect::Openai => None,
        Dialect::Anthropic => Some("limit=1000"),
    };
    let mut request = transport::request(Method::GET, target.uri(Endpoint::Models, query)?, Bytes::new());
    let headers = request.headers_mut();
    headers.insert(name, credential);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if dialect == Dialect::Anthropic {
        headers.insert(ANTHROPIC_VERSION, version.cloned().unwrap_or(ANTHROPIC_VERSION_DEFAULT));
    }
    Some(request)
}

/// The same with one secret and no other.
async fn ask_with(state: &State, target: &Target, secret: &Secret) -> Result<Response<Incoming>, CatalogueError> {
    let header = state.targets.header(target, secret).await?;
    Ok(state.transport.send(question(target, header, None).ok_or(CatalogueError::NoTarget)?).await?)
}

/// The account that an answer names, where the provider does.
fn account(headers: &HeaderMap) -> Option<String> {
    let named = ACCOUNT_HEADERS.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    Some(named.to_owned()).filter(|account| !account.is_empty())
}

impl From<SendError> for CatalogueError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Credential(error) => Self::Credential(error),
            SendError::Address => Self::NoTarget,
            SendError::Transport(error) => Self::Transport(error),
        }
    }
}

impl Gateway {
    /// Asks an upstream for its models with the secret in use, whether or not it is enabled. Says nothing to the cool-downs.
    pub async fn probe(&self, upstream: UpstreamId) -> Probed {
        self.probe_secret(upstream, None).await
    }

    /// The same with the secret of a number, in use or not.
    pub async fn probe_secret(&self, upstream: UpstreamId, version: Option<u32>) -> Probed {
        let started = Instant::now();
        let state = self.state();
        let snapshot = state.targets.snapshot();
        let target = snapshot.targets.iter().find(|target| target.route.upstream.id == upstream);
        let asking = async {
            let target = target.ok_or(CatalogueError::NoTarget)?;
            match version {
                None => ask_with(state, target, &target.secret).await,
                Some(version) => ask_with(state, target, &target.secret_of(version).ok_or(CatalogueError::NoSecret)?).await,
            }
        };
        let asked = tokio::time::timeout(CATALOGUE_TIMEOUT, asking).await.unwrap_or(Err(CatalogueError::Timeout));
        let account = asked.as_ref().ok().and_then(|response| account(response.headers()));
        let (status, error) = match asked {
            Ok(response) if response.status().is_success() => (Some(response.status()), None),
            Ok(response) => (Some(response.status()), Some(CatalogueError::Status(response.status()).to_string())),
            Err(error) => (None, Some(error.to_string())),
        };
        Probed { status, elapsed: started.elapsed(), error, account }
    }
}
