//! A small HTTP client: whole answers as bytes, or a body read chunk by chunk.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::wait;

/// A header of a request.
pub type Field<'a> = (&'a str, &'a str);

/// A pooled client for loopback.
#[derive(Clone)]
pub struct Http(Client<HttpConnector, Full<Bytes>>);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer whose body is still on its way. Dropping it is a client that leaves.
pub struct Streaming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }
}

impl Http {
    /// Sends a request and waits for the head of the answer.
    pub async fn open(&self, method: Method, url: &str, fields: &[Field<'_>], body: impl Into<Bytes>) -> Result<Streaming> {
        let mut request = Request::builder().method(method.clone()).uri(url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let answer = wait::for_future(url, self.0.request(request)).await?;
        let (parts, body) = answer.with_context(|| format!("{method} {url}"))?.into_parts();
        Ok(Streaming { status: parts.status, headers: parts.headers, body })
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&self, method: Method, url: &str, fields: &[Field<'_>], body: impl Into<Bytes>) -> Result<Answer> {
        self.open(method, url, fields, body).await?.whole().await
    }
}

impl Streaming {
    /// The next piece of the body as it came off the wire; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = wait::for_future("the next piece of a body", self.body.frame()).await?;
            match frame.transpose().context("a body ended early")? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    pub async fn whole(mut self) -> Result<Answer> {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await? {
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status: self.status, headers: self.headers, body: body.into() })
    }
}

impl Answer {
    /// The body as JSON, whatever the status.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{}, not JSON: {}", self.status, self.text()))
    }

    /// The body as JSON of a success.
    pub fn success(&self) -> Result<Value> {
        anyhow::ensure!(self.status.is_success(), "answered {}: {}", self.status, self.text());
        self.json()
    }

    /// Checks the status of a refusal, or of anything else.
    pub fn expect(&self, status: u16) -> Result<&Self> {
        anyhow::ensure!(self.status.as_u16() == status, "expected {status}, answered {}: {}", self.status, self.text());
        Ok(self)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
