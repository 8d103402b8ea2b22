//! The load generator: connections of its own, so that the client costs the same whatever is measured.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Where requests go, and the key they show.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) origin: String,
    pub(crate) secret: String,
}

/// A connection that is kept.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authorization: String,
    host: String,
}

impl Connection {
    async fn open(target: &Target) -> Result<Self> {
        let host = target.origin.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, authorization: format!("Bearer {}", target.secret), host })
    }

    async fn send(&mut self, body: &Bytes) -> Result<hyper::Response<hyper::body::Incoming>> {
        let request = Request::post("/v1/chat/completions")
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.clone()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "answered {}", response.status());
        Ok(response)
    }
}

/// The body of a request, 1 KiB; a stream of so many chunks at that pace if there are any.
pub(crate) fn body(chunks: u64, pace_us: u64) -> Bytes {
    let stream = if chunks == 0 { String::new() } else { format!(r#""stream":true,"x_chunks":{chunks},"x_pace_us":{pace_us},"#) };
    let text =
        |length: usize| format!(r#"{{"model":"gpt-bench",{stream}"messages":[{{"role":"user","content":"{}"}}]}}"#, "y".repeat(length));
    text(1024 - text(0).len()).into()
}

/// Sends requests one after the other on each of some connections, for a time: as fast as it goes, or at a steady rate in all. Gives the
/// time of each request; at a rate, from when it was due.
pub(crate) async fn requests(target: &Target, connections: u64, rate: Option<u64>, duration: Duration) -> Result<Vec<Duration>> {
    let body = body(0, 0);
    let mut workers = JoinSet::new();
    for worker in 0..connections {
        let (target, body) = (target.clone(), body.clone());
        workers.spawn(async move {
            let mut connection = Connection::open(&target).await?;
            let mut times = Vec::new();
            let mut pace = rate.map(|rate| {
                let period = Duration::from_secs_f64(connections as f64 / rate as f64);
                let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + period * worker as u32 / connections as u32, period);
                pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
                pace
            });
            let end = Instant::now() + duration;
            while Instant::now() < end {
                let due = match &mut pace {
                    Some(pace) => pace.tick().await.into_std(),
                    None => Instant::now(),
                };
                // The timer wakes up to a millisecond late, on every target alike; that is not the request's time.
                let begin = if rate.is_some() && due.elapsed() < Duration::from_millis(2) { Instant::now() } else { due };
                let response = connection.send(&body).await?;
                response.into_body().collect().await?;
                times.push(begin.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = workers.join_next().await {
        all.extend(times?.with_context(|| target.name)?);
    }
    Ok(all)
}

/// Reads some streams at once to their end. Gives how late the first chunk of each came after it was made.
pub(crate) async fn streams(target: &Target, streams: u64, chunks: u64, pace_us: u64) -> Result<Vec<Duration>> {
    let body = body(chunks, pace_us);
    let mut workers = JoinSet::new();
    for _ in 0..streams {
        let (target, body) = (target.clone(), body.clone());
        workers.spawn(async move {
            let mut connection = Connection::open(&target).await?;
            let mut incoming = connection.send(&body).await?.into_body();
            let mut first = None;
            while let Some(frame) = incoming.frame().await {
                if let (None, Some(data)) = (first, frame?.data_ref()) {
                    first = Some(lateness(data).context("a first chunk")?);
                }
            }
            first.context("a chunk")
        });
    }
    let mut all = Vec::new();
    while let Some(first) = workers.join_next().await {
        all.push(first?.with_context(|| target.name)?);
    }
    Ok(all)
}

/// Opens streams that go on, and runs something while they are open.
pub(crate) async fn while_open<T>(target: &Target, streams: u64, act: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    let body = body(10_000, 1_000_000);
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut connection = Connection::open(target).await?;
        let mut incoming = connection.send(&body).await?.into_body();
        incoming.frame().await.context("a first chunk")??;
        open.push((connection, incoming));
    }
    let done = act().await;
    drop(open);
    done
}

/// How long ago the chunk says it was made.
fn lateness(data: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(data).ok()?;
    let (_, rest) = text.split_once(r#""content":""#)?;
    let made: u64 = rest.split('"').next()?.parse().ok()?;
    SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(Duration::from_nanos(made))
}
