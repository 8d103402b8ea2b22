//! The models that upstreams list, and the question whether an upstream answers at all.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use schemas::UpstreamId;
use schemas::key::Endpoint;
use schemas::upstream::Dialect;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::gateway::{Gateway, State};
use crate::headers::{ANTHROPIC_VERSION, credential_name};
use crate::targets::{CredentialError, Target};
use crate::transport::{self, TransportError};

/// Claude Code waits three seconds for a list of models.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(3);
const CATALOGUE_BYTES_MAX: usize = 4 << 20;
/// The version that the provider's own SDKs send.
const ANTHROPIC_VERSION_DEFAULT: HeaderValue = HeaderValue::from_static("2023-06-01");

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
}

#[derive(Debug, Error)]
pub(crate) enum CatalogueError {
    #[error("the upstream has no credential for its address, or its address is not allowed")]
    NoTarget,
    #[error("the upstream's credential is not at hand")]
    Credential(#[from] CredentialError),
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
    let dialect = target.route.upstream.details.dialect;
    let query = match dialect {
        Dialect::Openai => None,
        Dialect::Anthropic => Some("limit=1000"),
    };
    let uri = target.uri(Endpoint::Models, query).ok_or(CatalogueError::NoTarget)?;
    let mut request = transport::request(Method::GET, uri, Bytes::new());
    let headers = request.headers_mut();
    headers.insert(credential_name(dialect), state.targets.credential(target).await?);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if dialect == Dialect::Anthropic {
        headers.insert(ANTHROPIC_VERSION, version.cloned().unwrap_or(ANTHROPIC_VERSION_DEFAULT));
    }
    Ok(state.transport.send(request).await?)
}

impl Gateway {
    /// Asks an upstream for its models with its credential, whether or not it is enabled. Says nothing to the cool-downs.
    pub async fn probe(&self, upstream: UpstreamId) -> Probed {
        let started = Instant::now();
        let state = self.state();
        let snapshot = state.targets.snapshot();
        let target = snapshot.targets.iter().find(|target| target.route.upstream.id == upstream);
        let asked = match target {
            None => Err(CatalogueError::NoTarget),
            Some(target) => tokio::time::timeout(CATALOGUE_TIMEOUT, ask(state, target, None)).await.unwrap_or(Err(CatalogueError::Timeout)),
        };
        let (status, error) = match asked {
            Ok(response) if response.status().is_success() => (Some(response.status()), None),
            Ok(response) => (Some(response.status()), Some(CatalogueError::Status(response.status()).to_string())),
            Err(error) => (None, Some(error.to_string())),
        };
        Probed { status, elapsed: started.elapsed(), error }
    }
}
