//! One request to a secret source, on a connection of its own.
//!
//! The address is the operator's of this process, so that private networks are where sources are expected. What is not reached is the link-local
//! network, where clouds keep the metadata of their machines, and nothing but loopback is spoken to without TLS. No redirects, no proxy.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tower::{Service, ServiceExt as _};
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{BoxError, SourceError};

/// For all of it.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer; a secret of Secrets Manager has at most 64 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Where AWS keeps the metadata of machines that have IPv6 only.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Why an address is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unsafe {
    #[error("it is neither https nor http on loopback")]
    Plain,
    #[error("it is link-local")]
    LinkLocal,
    #[error("it cannot be part of a request")]
    Malformed,
}

#[derive(Debug, Error)]
#[error("there was no answer in time")]
struct Timeout;

#[derive(Clone)]
struct Resolver(GaiResolver);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context).map_err(BoxError::from)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let addresses = self.0.call(name);
        Box::pin(async move {
            let allowed: Vec<_> = addresses.await?.filter(|found| !is_link_local(found.ip())).collect();
            if allowed.is_empty() { Err(Unsafe::LinkLocal.into()) } else { Ok(allowed.into_iter()) }
        })
    }
}

/// Speaks to secret sources. Cheap to clone.
#[derive(Clone)]
pub struct Exchange(HttpsConnector<HttpConnector<Resolver>>);

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Exchange {
    /// Trusts the certificates of a PEM file, or those of the system. Fails where the file has none or cannot be read.
    pub fn new(ca: Option<&Path>) -> std::io::Result<Self> {
        let mut http = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = match ca {
            None => HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?,
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(path).map_err(std::io::Error::other)? {
                    roots.add(certificate.map_err(std::io::Error::other)?).map_err(std::io::Error::other)?;
                }
                if roots.is_empty() {
                    return Err(std::io::Error::other("it holds no certificate"));
                }
                let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
                let config = config.map_err(std::io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        Ok(Self(builder.https_or_http().enable_http1().wrap_connector(http)))
    }

    /// Sends a request with these headers.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&'static str, &str)],
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, SourceError> {
        check(url).map_err(SourceError::Address)?;
        let (uri, request) = request(method, url, headers, body).ok_or(SourceError::Address(Unsafe::Malformed))?;
        let exchange = async {
            let connection = self.0.clone().oneshot(uri).await?;
            let (mut sender, driver) = http1::handshake(connection).await?;
            let answer = pin!(async move {
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
                Ok::<_, BoxError>(Answer { status: head.status, body: Zeroizing::new(body.to_vec()) })
            });
            // The driver moves the bytes; it may end before what it has read is taken.
            match select(answer, pin!(driver)).await {
                Either::Left((answer, _)) => answer,
                Either::Right((_, answer)) => answer.await,
            }
        };
        let outcome = tokio::time::timeout(TOTAL_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(Timeout.into()));
        outcome.map_err(SourceError::Away)
    }
}

/// Whether a URL may be spoken to; what its name resolves to is looked at when it is.
fn check(url: &Url) -> Result<(), Unsafe> {
    let address = match url.host().ok_or(Unsafe::Malformed)? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(_) => None,
    };
    if address.is_some_and(is_link_local) {
        return Err(Unsafe::LinkLocal);
    }
    let is_loopback = address.map_or(url.host_str() == Some("localhost"), |address| address.to_canonical().is_loopback());
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback => Ok(()),
        _ => Err(Unsafe::Plain),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address == METADATA_V6,
    }
}

/// The address to connect to, and the request in the form that a server expects.
fn request(method: Method, url: &Url, headers: &[(&'static str, &str)], body: Zeroizing<Vec<u8>>) -> Option<(Uri, Request<Full<Bytes>>)> {
    let uri: Uri = url.as_str().parse().ok()?;
    let mut request = Request::new(Full::new(Bytes::from_owner(body)));
    *request.method_mut() = method;
    *request.uri_mut() = uri.path_and_query()?.as_str().parse().ok()?;
    let map = request.headers_mut();
    map.insert(header::HOST, HeaderValue::from_str(&authority(url)?).ok()?);
    map.insert(header::USER_AGENT, HeaderValue::from_static("keyrelay"));
    map.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in headers {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        map.insert(HeaderName::from_static(name), value);
    }
    Some((uri, request))
}

/// Host and port as the header `Host` has them: without the port of the scheme.
pub(super) fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a fixture may panic")]
mod tests {
    use super::{Unsafe, check};

    #[test]
    fn metadata_of_machines_and_plain_addresses_are_not_spoken_to() {
        let cases = [
            ("https://vault.internal:8200", Ok(())),
            ("https://10.0.0.7", Ok(())),
            ("http://127.0.0.1:8200", Ok(())),
            ("http://[::1]:8200", Ok(())),
            ("http://vault.internal:8200", Err(Unsafe::Plain)),
            ("http://10.0.0.7", Err(Unsafe::Plain)),
            ("https://169.254.169.254", Err(Unsafe::LinkLocal)),
            ("https://[::ffff:169.254.169.254]", Err(Unsafe::LinkLocal)),
            ("https://[fe80::1]", Err(Unsafe::LinkLocal)),
            ("https://[fd00:ec2::254]", Err(Unsafe::LinkLocal)),
        ];
        for (url, expected) in cases {
            assert_eq!(check(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
