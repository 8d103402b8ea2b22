//! A scripted upstream: a provider that answers as told, remembers what it was asked, and counts its own tokens.
//!
//! It speaks OpenAI chat completions and Anthropic messages, plain and streamed, and the model lists of both. What it answers depends
//! only on the request's content and on the script, so two identical calls, one direct and one through a relay, get the same bytes.

mod anthropic;
mod behaviour;
mod openai;
mod speech;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use behaviour::Behaviour;
use speech::Speech;

use crate::wait;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A running upstream. Dropping it ends it and its connections.
pub struct ScriptedUpstream {
    address: SocketAddr,
    memory: Arc<Memory>,
    _running: DropGuard,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What the upstream says it was asked and answered: the figures of the usage it reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    pub requests: u64,
    /// All of the prompt, cached or not.
    pub input_tokens: u64,
    pub cached_tokens: u64,
    /// All of the answer, reasoning or not.
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
}

/// What the upstream remembers; shared with the answers that are still being spoken.
struct Memory {
    /// Taken one per request, before the script in the request itself.
    queue: Mutex<VecDeque<Behaviour>>,
    default: Mutex<Behaviour>,
    seen: Mutex<Vec<Seen>>,
    counted: Mutex<Counted>,
    /// Bytes of streamed bodies handed to the connection.
    spoken_bytes: AtomicU64,
    /// Answers whose client left before their end.
    abandoned: watch::Sender<u64>,
    /// Wakes the answers that are held.
    release: Notify,
    /// Credentials that are taken no more, and whose the others are.
    refused: Mutex<BTreeSet<String>>,
    accounts: Mutex<BTreeMap<String, String>>,
}

impl ScriptedUpstream {
    pub async fn start() -> Result<Self> {
        Self::listen("127.0.0.1:0").await
    }

    pub async fn listen(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let memory = Arc::new(Memory {
            queue: Mutex::default(),
            default: Mutex::default(),
            seen: Mutex::default(),
            counted: Mutex::default(),
            spoken_bytes: AtomicU64::new(0),
            abandoned: watch::Sender::new(0),
            release: Notify::new(),
            refused: Mutex::default(),
            accounts: Mutex::default(),
        });
        let running = CancellationToken::new();
        tokio::spawn(running.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&memory))));
        Ok(Self { address, memory, _running: running.drop_guard() })
    }

    /// `http://127.0.0.1:port`, the base URL of an anthropic upstream.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL of an openai upstream.
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What the next request gets, after those already queued.
    pub fn next(&self, behaviour: Behaviour) {
        locked(&self.memory.queue).push_back(behaviour);
    }

    /// What every request gets that nothing else is said about.
    pub fn always(&self, behaviour: Behaviour) {
        *locked(&self.memory.default) = behaviour;
    }

    /// Answers 401 to a credential from now on.
    pub fn refuse(&self, credential: &str) {
        locked(&self.memory.refused).insert(credential.to_owned());
    }

    /// Takes a credential again.
    pub fn take(&self, credential: &str) {
        locked(&self.memory.refused).remove(credential);
    }

    /// Names an account in the answers to a credential.
    pub fn name_account(&self, credential: &str, account: &str) {
        locked(&self.memory.accounts).insert(credential.to_owned(), account.to_owned());
    }

    /// How many requests showed a credential so far.
    pub fn shown(&self, credential: &str) -> usize {
        locked(&self.memory.seen).iter().filter(|seen| seen.credential() == credential).count()
    }

    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.memory.seen).clone()
    }

    pub fn counted(&self) -> Counted {
        *locked(&self.memory.counted)
    }

    pub fn spoken_bytes(&self) -> u64 {
        self.memory.spoken_bytes.load(Ordering::Relaxed)
    }

    /// Lets go on what a behaviour holds.
    pub fn release(&self) {
        self.memory.release.notify_waiters();
    }

    /// Waits until so many clients have left before the end of their answer.
    pub async fn abandoned(&self, answers: u64) -> Result<()> {
        let mut abandoned = self.memory.abandoned.subscribe();
        wait::for_future("a cancelled upstream call", abandoned.wait_for(|count| *count >= answers)).await??;
        Ok(())
    }

    /// Waits for ever: for the stand-alone binary.
    pub async fn run(self) {
        std::future::pending::<()>().await;
    }
}

impl Seen {
    /// What the request showed.
    pub fn credential(&self) -> &str {
        let bearer = self.header("authorization").strip_prefix("Bearer ");
        bearer.unwrap_or_else(|| self.header("x-api-key"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Memory {
    fn behaviour_for(&self, body: &Value) -> Behaviour {
        let queued = locked(&self.queue).pop_front();
        queued.or_else(|| Behaviour::in_message(body)).unwrap_or_else(|| locked(&self.default).clone())
    }

    fn count(&self, more: Counted) {
        let mut counted = locked(&self.counted);
        counted.requests += more.requests;
        counted.input_tokens += more.input_tokens;
        counted.cached_tokens += more.cached_tokens;
        counted.output_tokens += more.output_tokens;
        counted.reasoning_tokens += more.reasoning_tokens;
    }
}

async fn accept(listener: TcpListener, memory: Arc<Memory>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => _ = connections.spawn(serve(stream, Arc::clone(&memory))),
                Err(_) => return,
            },
            // Finished connections are let go as they come; none ends the loop.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, memory: Arc<Memory>) {
    // Without it the first chunk waits for an acknowledgement; an error here shows in the next read.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(Arc::clone(&memory), request));
    // A client that leaves ends the connection with an error, which is what some tests are about.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(memory: Arc<Memory>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(text(StatusCode::BAD_REQUEST, "{}".to_owned()));
    };
    let target = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let seen = Seen { method: parts.method, target, headers: parts.headers, body: body.to_bytes() };
    let path = parts.uri.path();
    if path == "/scripted" {
        return Ok(text(StatusCode::OK, serde_json::to_string(&*locked(&memory.counted)).unwrap_or_default()));
    }
    locked(&memory.seen).push(seen.clone());
    let is_anthropic = path.ends_with("/messages") || seen.headers.contains_key("anthropic-version");
    let dialect: &dyn Dialect = if is_anthropic { &anthropic::Anthropic } else { &openai::OpenAi };
    Ok(spoken(memory, dialect, path, &seen).await)
}

async fn spoken(memory: Arc<Memory>, dialect: &dyn Dialect, path: &str, seen: &Seen) -> Response<Body> {
    if [seen.header("authorization"), seen.header("x-api-key")].iter().any(|key| key.contains("wrong")) {
        return text(StatusCode::UNAUTHORIZED, dialect.error(401));
    }
    if locked(&memory.refused).contains(seen.credential()) {
        return text(StatusCode::UNAUTHORIZED, dialect.error(401));
    }
    if path.ends_with("/models") {
        let mut answer = text(StatusCode::OK, dialect.models());
        let account = locked(&memory.accounts).get(seen.credential()).and_then(|account| account.parse().ok());
        account.map(|account| answer.headers_mut().insert("openai-organization", account));
        return answer;
    }
    let request: Value = match serde_json::from_slice(&seen.body) {
        Ok(request) if path.ends_with("/chat/completions") || path.ends_with("/messages") => request,
        Ok(_) => return text(StatusCode::NOT_FOUND, dialect.error(404)),
        Err(_) => return text(StatusCode::BAD_REQUEST, dialect.error(400)),
    };
    let behaviour = memory.behaviour_for(&request);
    if behaviour.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(behaviour.delay_ms)).await;
    }
    if let Some(status) = behaviour.status {
        let mut answer = text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), dialect.error(status));
        if let Some(seconds) = behaviour.retry_after {
            answer.headers_mut().insert("retry-after", seconds.into());
        }
        return answer;
    }
    let counted = behaviour.counted(&request);
    if request["stream"] == true {
        let frames = dialect.stream(request, behaviour.clone(), counted);
        let speech = Speech::new(memory, behaviour, frames, counted);
        let mut answer = Response::new(speech.into_body());
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream; charset=utf-8"));
        identified(answer)
    } else {
        memory.count(counted);
        text(StatusCode::OK, dialect.whole(&request, &behaviour, counted))
    }
}

/// What the two APIs spell differently.
trait Dialect: Sync {
    fn error(&self, status: u16) -> String;
    fn models(&self) -> String;
    fn whole(&self, request: &Value, behaviour: &Behaviour, counted: Counted) -> String;
    /// The frames of a streamed answer, made one by one so that a flood takes no memory.
    fn stream(&self, request: Value, behaviour: Behaviour, counted: Counted) -> speech::Frames;
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    identified(answer)
}

fn identified(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert("x-scripted", http::HeaderValue::from_static("kept"));
    answer
}

/// An id that follows from the question alone.
fn id_of(request: &Value) -> String {
    let question = format!("{}{}", request["model"], request["messages"]);
    let sum = question.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{sum:016x}")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
