//! A provider's token endpoint whose refresh tokens are good once: a second use of one revokes all that came of the same login.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running token endpoint. Dropping it ends it.
pub struct TokenEndpoint {
    address: SocketAddr,
    memory: Arc<Mutex<Memory>>,
    _running: DropGuard,
}

#[derive(Default)]
struct Memory {
    accounts: HashMap<String, Login>,
    /// How long an access token is good, in seconds.
    life_seconds: u64,
    /// How long an answer takes after the token was redeemed.
    answers_after: Duration,
    redemptions: u64,
    second_redemptions: u64,
}

#[derive(Default)]
struct Login {
    serial: u64,
    is_revoked: bool,
}

fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TokenEndpoint {
    pub async fn start(life_seconds: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let memory = Arc::new(Mutex::new(Memory { life_seconds, ..Memory::default() }));
        let running = CancellationToken::new();
        tokio::spawn(running.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&memory))));
        Ok(Self { address, memory, _running: running.drop_guard() })
    }

    /// The settings that make this the provider `acme`.
    pub fn config(&self) -> String {
        format!(
            "[oauth.providers.acme]\ntoken_url = \"http://{0}/token\"\ndevice_url = \"http://{0}/device\"\nclient_id = \"relay\"\n",
            self.address
        )
    }

    /// A login; gives the access token and the refresh token.
    pub fn log_in(&self, account: &str) -> (String, String) {
        locked(&self.memory).accounts.insert(account.to_owned(), Login::default());
        tokens(account, 0)
    }

    pub fn revoke(&self, account: &str) {
        if let Some(login) = locked(&self.memory).accounts.get_mut(account) {
            login.is_revoked = true;
        }
    }

    /// How long an answer takes from now on, after the token was redeemed.
    pub fn answer_after(&self, time: Duration) {
        locked(&self.memory).answers_after = time;
    }

    /// The access token that was given last.
    pub fn access_token(&self, account: &str) -> String {
        let serial = locked(&self.memory).accounts.get(account).map_or(0, |login| login.serial);
        tokens(account, serial).0
    }

    pub fn redemptions(&self) -> u64 {
        locked(&self.memory).redemptions
    }

    pub fn second_redemptions(&self) -> u64 {
        locked(&self.memory).second_redemptions
    }
}

fn tokens(account: &str, serial: u64) -> (String, String) {
    (format!("at-{account}-{serial}"), format!("rt-{account}-{serial}"))
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
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body).into_owned();
    let token = text.split('&').find_map(|pair| pair.strip_prefix("refresh_token=")).unwrap_or_default().to_owned();
    let (redeemed, life_seconds, answers_after) = {
        let mut memory = locked(&memory);
        (memory.redeem(&token), memory.life_seconds, memory.answers_after)
    };
    tokio::time::sleep(answers_after).await;
    let (status, body) = match redeemed {
        Some((access_token, refresh_token)) => {
            let answer =
                json!({ "access_token": access_token, "refresh_token": refresh_token, "token_type": "Bearer", "expires_in": life_seconds });
            (200, answer)
        }
        None => (400, json!({ "error": "invalid_grant" })),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Memory {
    fn redeem(&mut self, token: &str) -> Option<(String, String)> {
        let (account, serial) = token.strip_prefix("rt-")?.rsplit_once('-')?;
        let (account, serial) = (account.to_owned(), serial.parse::<u64>().ok()?);
        let login = self.accounts.get_mut(&account)?;
        if serial < login.serial {
            self.second_redemptions += 1;
            login.is_revoked = true;
        }
        if login.is_revoked || serial != login.serial {
            return None;
        }
        login.serial += 1;
        self.redemptions += 1;
        Some(tokens(&account, login.serial))
    }
}
