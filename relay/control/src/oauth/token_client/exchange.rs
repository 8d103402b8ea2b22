//! One request and its answer, on a connection of its own.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use schemas::address;
use thiserror::Error;
use tower::{Service, ServiceExt as _};
use url::Url;
use zeroize::Zeroizing;

use super::answer::Answer;
use super::{BoxError, Flaw, TokenError};
use crate::oauth::provider::definition::is_safe;

/// For a connection, its TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For all of it.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// When to come again at the latest, whatever a provider says.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Why nothing went out, or no answer came.
#[derive(Debug, Error)]
enum Silence {
    #[error("there was no connection in time")]
    Connect,
    #[error("the time to send it was over")]
    HeldBack,
    #[error("there was no answer in time")]
    Timeout,
    #[error("the provider failed with status {0}")]
    Status(u16),
}

#[derive(Debug, Error)]
enum ResolveError {
    #[error("the name could not be resolved")]
    Resolve(#[source] std::io::Error),
    #[error("the name resolves to private addresses only")]
    Private,
}

/// The system's resolver, without private addresses unless they are allowed.
#[derive(Clone)]
struct Resolver {
    system: GaiResolver,
    allow_private: bool,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = BoxFuture<'static, Result<Self::Response, ResolveError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        self.system.poll_ready(context).map_err(ResolveError::Resolve)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (addresses, allow_private) = (self.system.call(name), self.allow_private);
        Box::pin(async move {
            let found = addresses.await.map_err(ResolveError::Resolve)?;
            let allowed: Vec<_> = found.filter(|found| allow_private || address::is_public(found.ip())).collect();
            if allowed.is_empty() { Err(ResolveError::Private) } else { Ok(allowed.into_iter()) }
        })
    }
}

/// A request as it goes out.
pub(super) struct Outgoing<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) content_type: Option<&'static str>,
    pub(super) authorization: Option<Zeroizing<String>>,
    /// Others, which all may be secret.
    pub(super) headers: &'a [(HeaderName, Zeroizing<String>)],
    pub(super) body: Zeroizing<Vec<u8>>,
}

#[derive(Clone)]
pub(super) struct Exchange {
    connector: HttpsConnector<HttpConnector<Resolver>>,
    allow_private: bool,
}

impl Exchange {
    pub(super) fn new(allow_private: bool) -> std::io::Result<Self> {
        let mut http = HttpConnector::new_with_resolver(Resolver { system: GaiResolver::new(), allow_private });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider()).as_ref().clone();
        let tls = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?;
        Ok(Self { connector: tls.https_or_http().enable_http1().wrap_connector(http), allow_private })
    }

    /// Sends a request whose every failure says whether it can have arrived.
    pub(super) async fn send(&self, outgoing: Outgoing<'_>, may_send: &(dyn Fn() -> bool + Send + Sync)) -> Result<Answer, TokenError> {
        if !is_safe(outgoing.url, self.allow_private) {
            return Err(Flaw::Address.into());
        }
        let deadline = tokio::time::Instant::now() + TOTAL_TIMEOUT;
        let (uri, request) = request(outgoing)?;
        let connecting = self.connector.clone().oneshot(uri);
        let connection = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(unconnected(error)),
            Err(_) => return Err(TokenError::NotSent(Silence::Connect.into())),
        };
        let (mut sender, driver) = http1::handshake(connection).await.map_err(|error| TokenError::NotSent(error.into()))?;
        if !may_send() {
            return Err(TokenError::NotSent(Silence::HeldBack.into()));
        }
        let exchange = pin!(async move { read(sender.send_request(request).await.map_err(unknown)?).await });
        // The driver moves the bytes; it may end before what it has read is taken.
        let both = async {
            match select(exchange, pin!(driver)).await {
                Either::Left((answer, _)) => answer,
                Either::Right((_, exchange)) => exchange.await,
            }
        };
        tokio::time::timeout_at(deadline, both).await.unwrap_or_else(|_| Err(unknown(Silence::Timeout)))
    }
}

fn unknown(error: impl Into<BoxError>) -> TokenError {
    TokenError::Unknown(error.into())
}

/// The address to connect to, and the request in the form that a server expects.
fn request(outgoing: Outgoing<'_>) -> Result<(Uri, Request<Full<Bytes>>), Flaw> {
    let uri: Uri = outgoing.url.as_str().parse().map_err(|_| Flaw::Address)?;
    let host = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()).ok_or(Flaw::Address)?;
    let target = uri.path_and_query().ok_or(Flaw::Address)?.as_str();
    let mut request = Request::new(Full::new(Bytes::from_owner(outgoing.body)));
    *request.method_mut() = outgoing.method;
    *request.uri_mut() = target.parse().map_err(|_| Flaw::Address)?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("keyrelay"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Some(content_type) = outgoing.content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Some(text) = outgoing.authorization {
        let mut value = HeaderValue::from_str(&text).map_err(|_| Flaw::Lacks("a token that a header can carry"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    for (name, text) in outgoing.headers {
        let mut value = HeaderValue::from_str(text).map_err(|_| Flaw::Lacks("a header that can be sent"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok((uri, request))
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Answer, TokenError> {
    let (head, body) = response.into_parts();
    if head.status.is_server_error() {
        return Err(unknown(Silence::Status(head.status.as_u16())));
    }
    if head.status == http::StatusCode::TOO_MANY_REQUESTS {
        let seconds = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        return Err(TokenError::RateLimited { retry_after: seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)) });
    }
    if head.status.is_redirection() {
        return Err(Flaw::Redirect.into());
    }
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => Ok(Answer { status: head.status, body: Zeroizing::new(body.to_bytes().to_vec()) }),
        Err(error) if error.is::<LengthLimitError>() => Err(Flaw::TooLarge.into()),
        Err(error) => Err(unknown(error)),
    }
}

/// A connection that was not made. A handshake that failed is the endpoint's fault; all else may be better in a moment.
fn unconnected(error: BoxError) -> TokenError {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return Flaw::Tls.into();
        }
        if matches!(error.downcast_ref::<ResolveError>(), Some(ResolveError::Private)) {
            return Flaw::Address.into();
        }
        // What an I/O error carries is not among its sources, only that one's sources are.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    TokenError::NotSent(error)
}
