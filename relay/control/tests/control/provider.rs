//! A strict provider of accounts on loopback: a code is good once and only with its verifier, a device code after its user agreed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use control::oauth::Providers;
use control::oauth::provider::Definition;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use url::{Url, form_urlencoded};

/// How the token endpoint answers instead of as it should.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    Answer(&'static str, &'static str),
    /// Takes the request and closes the connection.
    Reset,
    /// Grants this, whatever was asked for.
    Grant(Value),
}

#[derive(Default)]
struct Memory {
    /// Codes that are good, and the challenge of each.
    codes: BTreeMap<String, String>,
    turns: VecDeque<Turn>,
    /// Bodies of requests to the token endpoint.
    redeemed: Vec<BTreeMap<String, String>>,
    granted: usize,
    revoked: Vec<String>,
    account: String,
    has_agreed: bool,
}

pub(crate) struct FakeProvider {
    pub(crate) origin: String,
    memory: Arc<Mutex<Memory>>,
    serving: AbortHandle,
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeProvider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let memory = Arc::new(Mutex::new(Memory { account: "42".into(), ..Memory::default() }));
        let shared = memory.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { origin, memory, serving: serving.abort_handle() }
    }

    /// The presets and this provider as `corp`.
    pub(crate) fn providers(&self) -> Providers {
        self.providers_with(|_| ())
    }

    pub(crate) fn providers_with(&self, change: impl FnOnce(&mut Definition)) -> Providers {
        let url = |path: &str| Some(Url::parse(&format!("{}{path}", self.origin)).unwrap());
        let mut definition = Definition {
            authorize_url: url("/authorize"),
            token_url: url("/token"),
            device_url: url("/device"),
            revoke_url: url("/revoke"),
            issuer: Some("https://id.example.com".into()),
            client_id: Some("keyrelay-test".into()),
            scopes: Some(vec!["read".into()]),
            identity: Some(format!("{}/me", self.origin)),
            account_member: Some("id".into()),
            shown_members: Some(vec!["email".into(), "plan".into()]),
            redirect_ports: Some(vec![3128, 4649]),
            ..Definition::default()
        };
        change(&mut definition);
        let mut providers = Providers::presets();
        providers.define("corp", definition).unwrap();
        providers
    }

    /// What a browser would end on after its user agreed: the address in full.
    pub(crate) fn agree(&self, authorize_url: &str) -> Url {
        let asked: BTreeMap<String, String> = Url::parse(authorize_url).unwrap().query_pairs().into_owned().collect();
        assert_eq!((asked["response_type"].as_str(), asked["code_challenge_method"].as_str()), ("code", "S256"));
        let mut memory = self.memory.lock().unwrap();
        let code = format!("code-{}", memory.codes.len());
        memory.codes.insert(code.clone(), asked["code_challenge"].clone());
        let mut back = Url::parse(&asked["redirect_uri"]).unwrap();
        back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked["state"]);
        back
    }

    pub(crate) fn next(&self, turns: impl IntoIterator<Item = Turn>) {
        self.memory.lock().unwrap().turns.extend(turns);
    }

    pub(crate) fn become_account(&self, id: &str) {
        self.memory.lock().unwrap().account = id.to_owned();
    }

    /// The user of a device code agrees.
    pub(crate) fn agree_to_device(&self) {
        self.memory.lock().unwrap().has_agreed = true;
    }

    /// Requests to the token endpoint.
    pub(crate) fn redeemed(&self) -> usize {
        self.memory.lock().unwrap().redeemed.len()
    }

    pub(crate) fn granted(&self) -> usize {
        self.memory.lock().unwrap().granted
    }

    pub(crate) fn revoked(&self) -> Vec<String> {
        self.memory.lock().unwrap().revoked.clone()
    }
}

async fn serve(mut stream: TcpStream, memory: Arc<Mutex<Memory>>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 8192]);
    let (head, body) = loop {
        let Ok(n @ 1..) = stream.read(&mut buffer).await else { return };
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let form: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let Some((status, headers, answer)) = answer(&path, &head, form, &memory) else { return };
    let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{answer}", answer.len());
    let _ = stream.write_all(text.as_bytes()).await;
}

fn answer(path: &str, head: &str, form: BTreeMap<String, String>, memory: &Mutex<Memory>) -> Option<(String, String, String)> {
    let mut memory = memory.lock().unwrap();
    let plain = |status: &str, body: Value| Some((status.to_owned(), String::new(), body.to_string()));
    match path {
        "/token" => {
            memory.redeemed.push(form.clone());
            let turn = memory.turns.pop_front();
            match turn {
                Some(Turn::Answer(status, body)) => return Some((status.to_owned(), "retry-after: 7\r\n".to_owned(), body.to_owned())),
                Some(Turn::Reset) => return None,
                Some(Turn::Grant(grant)) => return plain("200 OK", grant),
                None => {}
            }
            let is_good = match form.get("grant_type").map(String::as_str) {
                Some("authorization_code") => {
                    let challenge = memory.codes.remove(&form["code"]);
                    let made = URL_SAFE_NO_PAD.encode(digest(&SHA256, form["code_verifier"].as_bytes()).as_ref());
                    challenge == Some(made) && form["client_id"] == "keyrelay-test"
                }
                Some("urn:ietf:params:oauth:grant-type:device_code") if !memory.has_agreed => {
                    return plain("400 Bad Request", json!({ "error": "authorization_pending" }));
                }
                Some("urn:ietf:params:oauth:grant-type:device_code") => std::mem::take(&mut memory.has_agreed),
                _ => false,
            };
            if !is_good {
                return plain("400 Bad Request", json!({ "error": "invalid_grant" }));
            }
            memory.granted += 1;
            let n = memory.granted;
            let (access, refresh) = (format!("access-canary-{n}"), format!("refresh-canary-{n}"));
            plain(
                "200 OK",
                json!({ "access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": 3600, "scope": "read" }),
            )
        }
        "/device" => plain(
            "200 OK",
            json!({ "device_code": "device-canary", "user_code": "WDJB-MJHT", "verification_uri": "https://id.example.com/device", "expires_in": 1800, "interval": 1 }),
        ),
        "/revoke" => {
            memory.revoked.push(form["token"].clone());
            Some(("200 OK".to_owned(), String::new(), String::new()))
        }
        "/me" => {
            assert!(head.contains("Bearer access-"), "{head}");
            plain("200 OK", json!({ "id": memory.account, "email": "ada@example.com", "plan": "max" }))
        }
        _ => plain("404 Not Found", json!({})),
    }
}
