//! A provider that makes keys and takes them away: a stand-in for the administrators' sides of OpenAI and Anthropic, and for a webhook. It counts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What it must be shown.
pub const ADMIN_KEY: &str = "sk-admin-b7Qx2Zt9Kw4Rm6Yp1Lc8Vn3";
const ACCOUNTS: &str = "/v1/organization/projects/proj_1/service_accounts";
const API_KEYS: &str = "/v1/organizations/api_keys";

/// A running provider. Dropping it ends it.
pub struct KeyMaker {
    address: SocketAddr,
    memory: Arc<Mutex<Memory>>,
    _running: DropGuard,
}

#[derive(Default)]
struct Memory {
    /// Keys that are there: id to name.
    keys: BTreeMap<String, String>,
    /// Keys that only their hints show, by id.
    hints: BTreeMap<String, String>,
    inactive: Vec<String>,
    made: u64,
    removed: u64,
    /// Bodies that the webhook was sent, with their signatures.
    hooks: Vec<(String, Value)>,
    refusals: u64,
}

fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeyMaker {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let memory = Arc::new(Mutex::new(Memory::default()));
        let running = CancellationToken::new();
        tokio::spawn(running.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&memory))));
        Ok(Self { address, memory, _running: running.drop_guard() })
    }

    /// The settings of a provider of this kind for the upstreams of these names.
    pub fn config(&self, kind: &str, upstreams: &str, secret_file: &std::path::Path) -> String {
        let secret = secret_file.display();
        let further = match kind {
            "openai" => format!("url = \"http://{}/v1\"\nadmin_key_file = \"{secret}\"\nproject = \"proj_1\"", self.address),
            "anthropic" => format!("url = \"http://{}/v1\"\nadmin_key_file = \"{secret}\"", self.address),
            _ => format!("url = \"http://{}/hook\"\nsecret_file = \"{secret}\"", self.address),
        };
        format!("[rotation.providers.{kind}]\nkind = \"{kind}\"\nupstreams = [\"{upstreams}\"]\n{further}\n")
    }

    /// A key that was made before, as its hint shows it.
    pub fn knows(&self, id: &str, hint: &str) {
        locked(&self.memory).hints.insert(id.to_owned(), hint.to_owned());
    }

    /// The names of the keys that are there.
    pub fn names(&self) -> Vec<String> {
        locked(&self.memory).keys.values().cloned().collect()
    }

    pub fn made(&self) -> u64 {
        locked(&self.memory).made
    }

    pub fn removed(&self) -> u64 {
        locked(&self.memory).removed
    }

    pub fn inactive(&self) -> Vec<String> {
        locked(&self.memory).inactive.clone()
    }

    /// What the webhook was sent, with the signatures.
    pub fn hooks(&self) -> Vec<(String, Value)> {
        locked(&self.memory).hooks.clone()
    }

    /// Requests that did not show the key.
    pub fn refusals(&self) -> u64 {
        locked(&self.memory).refusals
    }
}

impl Memory {
    fn make(&mut self, name: &str) -> (String, String) {
        self.made += 1;
        let id = format!("svc_{:04}", self.made);
        self.keys.insert(id.clone(), name.to_owned());
        (id, format!("sk-made-{:04}-v8Tz3Qk6Wn1Xc5Rb9Lm2", self.made))
    }

    fn answer(&mut self, method: &Method, target: &str, body: &Value, signature: &str) -> (StatusCode, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match (method, path.strip_prefix(ACCOUNTS), path.strip_prefix(API_KEYS)) {
            // Pages of two, so that whoever reads one only is found out.
            (&Method::GET, Some(""), _) => {
                let after = query.split('&').find_map(|pair| pair.strip_prefix("after=")).unwrap_or_default();
                let all: Vec<_> = self.keys.iter().filter(|(id, _)| id.as_str() > after).collect();
                let page: Vec<_> = all.iter().take(2).map(|(id, name)| json!({ "id": id, "name": name })).collect();
                let last = page.last().map(|last| last["id"].clone());
                (StatusCode::OK, json!({ "object": "list", "data": page, "has_more": all.len() > 2, "last_id": last }))
            }
            (&Method::POST, Some(""), _) => {
                let (id, value) = self.make(body["name"].as_str().unwrap_or_default());
                (
                    StatusCode::OK,
                    json!({ "id": id, "name": body["name"], "api_key": { "value": value, "id": "key_1", "name": "Secret Key" } }),
                )
            }
            (&Method::DELETE, Some(id), _) => match self.keys.remove(id.trim_start_matches('/')) {
                Some(_) => {
                    self.removed += 1;
                    (StatusCode::OK, json!({ "deleted": true }))
                }
                None => (StatusCode::NOT_FOUND, json!({ "error": { "message": "no such service account" } })),
            },
            (&Method::GET, _, Some("")) => {
                let data: Vec<_> =
                    self.hints.iter().map(|(id, hint)| json!({ "id": id, "partial_key_hint": hint, "status": "active" })).collect();
                (StatusCode::OK, json!({ "data": data, "has_more": false, "first_id": null, "last_id": null }))
            }
            (&Method::POST, _, Some(id)) if body["status"] == "inactive" => {
                self.inactive.push(id.trim_start_matches('/').to_owned());
                (StatusCode::OK, json!({ "id": id, "status": "inactive" }))
            }
            (&Method::POST, None, None) if path == "/hook" => {
                self.hooks.push((signature.to_owned(), body.clone()));
                if body["action"] == "retire" {
                    self.keys.remove(body["key"].as_str().unwrap_or_default());
                    self.removed += 1;
                    return (StatusCode::OK, json!({}));
                }
                let (key, credential) = self.make(body["name"].as_str().unwrap_or_default());
                (StatusCode::OK, json!({ "credential": credential, "key": key }))
            }
            _ => (StatusCode::NOT_FOUND, json!({ "error": { "message": "no such place" } })),
        }
    }
}

async fn accept(listener: TcpListener, memory: Arc<Mutex<Memory>>) {
    while let Ok((connection, _)) = listener.accept().await {
        let memory = Arc::clone(&memory);
        let service = service_fn(move |request| answer(request, Arc::clone(&memory)));
        // A client that leaves is what some tests are about.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(connection), service).await.ok() });
    }
}

async fn answer(request: Request<Incoming>, memory: Arc<Mutex<Memory>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let target = head.uri.to_string();
    let is_known = match target.as_str() {
        "/hook" => header("x-keyrelay-signature").starts_with("t="),
        target if target.starts_with(API_KEYS) => header("x-api-key") == ADMIN_KEY && header("anthropic-version") == "2023-06-01",
        _ => header("authorization") == format!("Bearer {ADMIN_KEY}"),
    };
    let mut memory = locked(&memory);
    let (status, text) = if is_known {
        memory.answer(&head.method, &target, &body, &header("x-keyrelay-signature"))
    } else {
        memory.refusals += 1;
        (StatusCode::UNAUTHORIZED, json!({ "error": { "message": "who are you" } }))
    };
    let mut response = Response::new(Full::new(Bytes::from(text.to_string())));
    *response.status_mut() = status;
    Ok(response)
}
