//! The HTTP client towards upstreams: HTTP/1.1 with keep-alive, no redirects, no proxy from the environment, and no address that the
//! settings forbid.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;

use crate::address::Resolver;
use crate::config::GatewayConfig;

/// An idle connection is closed before most servers close it, so that a request seldom meets one that is just closing.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// The most a connection buffers of what it reads or writes: the larger part of an open stream's memory.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Why an upstream gave no answer.
#[derive(Debug, Error)]
pub(crate) enum TransportError {
    #[error("the upstream could not be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the upstream did not answer in time")]
    Timeout,
}

/// The client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    first_byte_timeout: Duration,
}

impl Transport {
    /// Fails where the system has no root certificates.
    pub(crate) fn new(config: &GatewayConfig) -> std::io::Result<Self> {
        let mut http = HttpConnector::new_with_resolver(Resolver::new(config.allow_private_upstreams));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(config.connect_timeout));
        http.set_keepalive(Some(POOL_IDLE_TIMEOUT));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider()).as_ref().clone();
        let tls = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .http1_max_buf_size(BUFFER_BYTES_MAX)
            .build(connector);
        Ok(Self { client, first_byte_timeout: config.first_byte_timeout })
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, TransportError> {
        match tokio::time::timeout(self.first_byte_timeout, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if is_timeout(&error) => Err(TransportError::Timeout),
            Ok(Err(error)) => Err(TransportError::Unreachable(error)),
            Err(_) => Err(TransportError::Timeout),
        }
    }
}

/// A request of ours, ready but for its headers.
pub(crate) fn request(method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request
}

/// Whether the time to connect was up.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    std::iter::from_fn(|| {
        let error = next?;
        next = error.source();
        Some(error)
    })
    .filter_map(|error| error.downcast_ref::<std::io::Error>())
    .any(|error| error.kind() == std::io::ErrorKind::TimedOut)
}
