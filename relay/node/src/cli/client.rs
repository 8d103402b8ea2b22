//! A small client of the REST API.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client as Legacy};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use url::Url;

use super::access::Access;
use super::failure::{Failure, Problem};
use crate::config::Secret;

/// The node answers a write within 16 seconds, whatever becomes of it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 64 * 1024;
/// Far above a full page of the API.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) struct Client {
    transport: Transport,
    origin: Url,
    token: Secret,
    tenant: Option<String>,
}

/// Plain connections need no certificates of the system, which a small container may not have.
enum Transport {
    Plain(Legacy<HttpConnector, Body>),
    Tls(Legacy<HttpsConnector<HttpConnector>, Body>),
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a request carries. A file is read as it is sent, and again where the request is sent once more.
enum Payload {
    Bytes(Bytes),
    File(PathBuf),
}

/// A request to the API: path segments below `/api/v1`, and what goes with it.
pub(super) struct Call<'a> {
    method: Method,
    path: &'a [&'a str],
    /// What the path is below.
    base: &'static [&'static str],
    query: Vec<(&'static str, String)>,
    body: Payload,
    content_type: &'static str,
    if_version: Option<u64>,
    /// Of a call that another run may send again; otherwise one is drawn.
    idempotency_key: Option<String>,
    /// By their headers.
    secrets: Vec<(&'static str, Secret)>,
    /// How long the head of the answer may take.
    patience: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, path: &'a [&'a str]) -> Self {
        let (query, body, content_type) = (Vec::new(), Payload::Bytes(Bytes::new()), "application/json");
        let (base, if_version, idempotency_key, secrets) = (&["api", "v1"] as &[_], None, None, Vec::new());
        Self { method, path, base, query, body, content_type, if_version, idempotency_key, secrets, patience: HEAD_TIMEOUT }
    }

    pub(super) fn get(path: &'a [&'a str]) -> Self {
        Self::new(Method::GET, path)
    }

    /// Adds a parameter that is given.
    pub(super) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Payload::Bytes(body.to_string().into());
        self
    }

    /// The bytes of a WebAssembly module.
    pub(super) fn wasm(mut self, bytes: Vec<u8>) -> Self {
        (self.body, self.content_type) = (Payload::Bytes(bytes.into()), "application/wasm");
        self
    }

    /// A file of JSON lines.
    pub(super) fn lines(mut self, file: PathBuf) -> Self {
        (self.body, self.content_type) = (Payload::File(file), "application/x-ndjson");
        self
    }

    /// What a file's secrets are sealed under.
    pub(super) fn passphrase(self, passphrase: Option<Secret>) -> Self {
        self.secret("keyrelay-passphrase", passphrase)
    }

    /// A secret that is given, in a header.
    pub(super) fn secret(mut self, header: &'static str, secret: Option<Secret>) -> Self {
        self.secrets.extend(secret.map(|secret| (header, secret)));
        self
    }

    /// For an answer that takes longer than most.
    pub(super) const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Makes it the call that was sent under this key before, if one was.
    pub(super) fn idempotency_key(mut self, key: &str) -> Self {
        self.idempotency_key = Some(key.to_owned());
        self
    }

    /// Lets the change happen on this version only.
    pub(super) const fn if_version(mut self, version: Option<u64>) -> Self {
        self.if_version = version;
        self
    }
}

impl Client {
    pub(super) fn new(access: Access) -> Result<Self> {
        let Access { url, token, tenant } = access;
        let transport = if url.scheme() == "https" {
            let connector = HttpsConnectorBuilder::new().with_native_roots().context("the system's certificates cannot be read")?;
            Transport::Tls(Legacy::builder(TokioExecutor::new()).build(connector.https_only().enable_http1().build()))
        } else {
            Transport::Plain(Legacy::builder(TokioExecutor::new()).build_http())
        };
        Ok(Self { transport, origin: url, token, tenant })
    }

    /// The tenant that all requests act in.
    pub(super) fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or("default")
    }

    /// The tenant that was named, for what is about the whole cluster where none is.
    pub(super) fn named_tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Value, Failure> {
        let response = self.open(call).await?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let body = body.await.map_err(|error| anyhow!(error).context("the node's answer cannot be read"))?.to_bytes();
        Ok(serde_json::from_slice(&body).context("the node's answer is not JSON; is this the admin side of Keyrelay?")?)
    }

    /// Whether the node is ready, in its own words: an answer whether it is or not.
    pub(super) async fn readiness(&self) -> Result<Value, Failure> {
        let call = Call { base: &[], ..Call::get(&["readyz"]) };
        let body = Limited::new(self.attempt(&call, "").await?.into_body(), ANSWER_BYTES_MAX).collect();
        let body = body.await.map_err(|error| anyhow!(error).context("the node's answer cannot be read"))?.to_bytes();
        Ok(serde_json::from_slice(&body).context("the node's answer is not JSON; is this the admin side of Keyrelay?")?)
    }

    /// Sends a request and gives the answer as it comes.
    pub(super) async fn open(&self, call: Call<'_>) -> Result<Response<Incoming>, Failure> {
        let idempotency_key = call.idempotency_key.clone().map_or_else(idempotency_key, Ok)?;
        // Every mutation carries an idempotency key, so a request whose fate is unknown may be sent once more.
        let response = match self.attempt(&call, &idempotency_key).await {
            Err(error) if is_lost_connection(&error) => self.attempt(&call, &idempotency_key).await?,
            response => response?,
        };
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    async fn attempt(&self, call: &Call<'_>, idempotency_key: &str) -> Result<Response<Incoming>> {
        let (patience, request) = (call.patience, self.request(call, idempotency_key).await?);
        let response = async {
            match &self.transport {
                Transport::Plain(client) => client.request(request).await,
                Transport::Tls(client) => client.request(request).await,
            }
        };
        let response = tokio::time::timeout(patience, response).await.with_context(|| format!("{} does not answer", self.origin))?;
        response.with_context(|| format!("cannot reach the node at {}; is it running, and is this its admin side?", self.origin))
    }

    async fn request(&self, call: &Call<'_>, idempotency_key: &str) -> Result<Request<Body>> {
        let mut url = self.origin.clone();
        let segments = url.path_segments_mut().map_err(|()| anyhow!("the admin URL has no path"));
        segments?.pop_if_empty().extend(call.base).extend(call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = Request::builder().method(&call.method).uri(url.as_str());
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose().as_str()));
        if let Some(tenant) = &self.tenant {
            request = request.header("keyrelay-tenant", tenant);
        }
        if call.method != Method::GET {
            request = request.header("idempotency-key", idempotency_key).header(header::CONTENT_TYPE, call.content_type);
        }
        if let Some(version) = call.if_version {
            request = request.header(header::IF_MATCH, format!("\"{version}\""));
        }
        for (name, secret) in &call.secrets {
            let mut value =
                HeaderValue::from_bytes(secret.expose().as_bytes()).with_context(|| format!("{name} has control characters"))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        let body = match &call.body {
            Payload::Bytes(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync(),
            Payload::File(path) => {
                let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
                StreamBody::new(stream::try_unfold(file, next_chunk)).boxed_unsync()
            }
        };
        request.body(body).context("the token, the tenant or the URL cannot be sent")
    }
}

/// The next piece of a file that is sent.
async fn next_chunk(mut file: tokio::fs::File) -> io::Result<Option<(Frame<Bytes>, tokio::fs::File)>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let length = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await?;
    Ok((length > 0).then(|| (Frame::data(chunk.into()), file)))
}

/// Random, so that no two runs of a command are taken for one.
pub(super) fn idempotency_key() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the system has no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether the connection went away under a request, as opposed to never having been there.
fn is_lost_connection(error: &anyhow::Error) -> bool {
    error.downcast_ref::<legacy::Error>().is_some_and(|error| !error.is_connect())
}

async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let problem = body.ok().and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
    Failure::Refused(problem.unwrap_or_else(|| unworded(status)))
}

/// A refusal by something that is not a node, such as a proxy before it.
fn unworded(status: StatusCode) -> Problem {
    Problem { status: status.as_u16(), code: status.as_u16().to_string(), detail: format!("answered with {status}"), lines: Vec::new() }
}
