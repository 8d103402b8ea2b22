//! The upstream that the bench measures with, and the yardstick: a forwarder that does nothing but forward.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The whole answer: 1 KiB of an OpenAI chat completion.
fn answer() -> String {
    let text = |length: usize| {
        format!(
            r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"gpt-bench","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350}}}}"#,
            "x".repeat(length)
        )
    };
    text(1024 - text(0).len())
}

/// One chunk of a stream; its content is the time at which it was made, in nanoseconds.
fn chunk() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-bench\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{now}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

async fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "http://{}", listener.local_addr()?)?;
    std::io::stdout().flush()?;
    Ok(listener)
}

/// Answers as the request's `x_chunks` and `x_pace_us` say: a whole answer without, else so many chunks at that pace.
pub(crate) async fn mock() -> Result<()> {
    let listener = listen().await?;
    let answer = Bytes::from(answer());
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move { Ok::<_, Infallible>(speak(request, answer).await) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}

async fn speak(request: Request<Incoming>, answer: Bytes) -> Response<Body> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    // Only streams are read: the parse would be most of the mock's own cost.
    if !body.windows(8).any(|window| window == b"x_chunks") {
        let mut response = Response::new(Full::new(answer).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        return response;
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let pace = asked["x_pace_us"].as_u64().filter(|pace| *pace > 0).map(Duration::from_micros);
    let wants_usage = asked["stream_options"]["include_usage"] == true;
    let pacer = pace.map(tokio::time::interval);
    let state = (asked["x_chunks"].as_u64().unwrap_or(1), pacer, ending(wants_usage));
    let chunks = stream::unfold(state, |(left, mut pacer, mut ending)| async move {
        if left == 0 {
            return ending.pop().map(|text| (Ok(Frame::data(Bytes::from(text))), (0, pacer, ending)));
        }
        if let Some(pacer) = &mut pacer {
            pacer.tick().await;
        }
        Some((Ok(Frame::data(Bytes::from(chunk()))), (left - 1, pacer, ending)))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

/// What comes after the chunks, last first.
fn ending(wants_usage: bool) -> Vec<String> {
    let usage = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"gpt-bench","choices":[],"usage":{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350}}"#;
    let mut ending = vec!["data: [DONE]\n\n".to_owned()];
    if wants_usage {
        ending.push(format!("{usage}\n\n"));
    }
    ending
}

/// Forwards everything to one origin: hyper in, hyper-util's pooled client out, bodies streamed, TCP_NODELAY both ways.
pub(crate) async fn forward(origin: String) -> Result<()> {
    let authority: Authority = origin.trim_start_matches("http://").parse()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
    let listener = listen().await?;
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        tokio::spawn(relay(connection, client.clone(), authority.clone()));
    }
}

async fn relay(connection: TcpStream, client: Client<HttpConnector, Incoming>, authority: Authority) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request.headers_mut().remove(header::HOST);
        client.request(request)
    });
    // An error is a client that left, or an upstream that did: either ends this connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}
