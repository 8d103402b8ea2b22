//! Waits on this machine for the browser to come back.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// As long as a login is good.
const LOGIN_TIME: Duration = Duration::from_secs(600);
/// For one request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 * 1024;

const DONE: &str = "Go on in the terminal; this page can be closed.\n";

pub(super) struct Listener {
    listener: TcpListener,
    host: String,
    path: String,
    port: u16,
}

impl Listener {
    /// Takes the first of these ports that is free, or any where none is named.
    pub(super) async fn bind(host: &str, path: &str, ports: &[u16]) -> Option<Self> {
        let address = if host == "[::1]" { "::1" } else { "127.0.0.1" };
        for port in if ports.is_empty() { &[0] } else { ports } {
            if let Ok(listener) = TcpListener::bind((address, *port)).await {
                let port = listener.local_addr().ok()?.port();
                return Some(Self { listener, host: host.to_owned(), path: path.to_owned(), port });
            }
        }
        None
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// The address that the browser came to, in full.
    pub(super) async fn callback(&self) -> anyhow::Result<String> {
        let come = async {
            loop {
                let (stream, _) = self.listener.accept().await.context("cannot wait for the browser")?;
                if let Ok(Some(target)) = timeout(REQUEST_TIME, self.target(stream)).await {
                    return Ok(format!("http://{}:{}{target}", self.host, self.port));
                }
            }
        };
        timeout(LOGIN_TIME, come).await.unwrap_or_else(|_| Err(anyhow!("no browser came within ten minutes")))
    }

    /// What is asked for, if it is the provider's answer.
    async fn target(&self, mut stream: TcpStream) -> Option<String> {
        let (mut head, mut buffer) = (Vec::new(), [0; 2048]);
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0 && head.len() < HEAD_BYTES_MAX)?;
            head.extend_from_slice(&buffer[..n]);
        }
        let target = std::str::from_utf8(&head).ok()?.strip_prefix("GET ")?.split(' ').next()?.to_owned();
        let is_answer = target.split_once('?').is_some_and(|(path, query)| {
            path == self.path && query.split('&').any(|part| part.starts_with("code=") || part.starts_with("error="))
        });
        let (status, body) = if is_answer { ("200 OK", DONE) } else { ("404 Not Found", "") };
        let headers =
            "content-type: text/plain; charset=utf-8\r\ncache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close";
        let answer = format!("HTTP/1.1 {status}\r\n{headers}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        // Whether the browser shows it or not: what it brought is here.
        let _ = stream.write_all(answer.as_bytes()).await;
        is_answer.then_some(target)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failing test says where")]
mod tests {
    use super::*;

    async fn ask(port: u16, target: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_the_providers_answer_is_taken() {
        let listener = Listener::bind("localhost", "/cb", &[]).await.unwrap();
        let port = listener.port();
        let browser = async {
            assert!(ask(port, "/favicon.ico").await.starts_with("HTTP/1.1 404"));
            assert!(ask(port, "/cb?state=s").await.starts_with("HTTP/1.1 404"));
            ask(port, "/cb?code=c&state=s").await
        };
        let (callback, answer) = tokio::join!(listener.callback(), browser);
        assert_eq!(callback.unwrap(), format!("http://localhost:{port}/cb?code=c&state=s"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(DONE));
    }

    #[tokio::test]
    async fn the_next_allowed_port_is_taken_where_one_is_in_use() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (taken, next) = (first.local_addr().unwrap().port(), free.local_addr().unwrap().port());
        drop(free);
        assert_eq!(Listener::bind("127.0.0.1", "/cb", &[taken, next]).await.map(|listener| listener.port()), Some(next));
        assert!(Listener::bind("127.0.0.1", "/cb", &[taken]).await.is_none());
    }
}
