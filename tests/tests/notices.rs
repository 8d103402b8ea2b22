//! Notices: what an operator hears of without asking, as the receiver of a signed webhook sees it.

#![allow(clippy::disallowed_methods, reason = "a test stands outside the node and has no tracker")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tests::world::CREDENTIAL;
use tests::{Launch, Node, ScriptedUpstream, TokenEndpoint, wait};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Takes webhooks, or fails them.
struct Receiver {
    address: String,
    memory: Arc<Mutex<Memory>>,
    _running: DropGuard,
}

#[derive(Default)]
struct Memory {
    is_down: bool,
    failed: usize,
    taken: Vec<(HeaderMap, Value)>,
}

impl Receiver {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}/hook", listener.local_addr()?);
        let memory = Arc::new(Mutex::new(Memory::default()));
        let running = CancellationToken::new();
        tokio::spawn(running.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&memory))));
        Ok(Self { address, memory, _running: running.drop_guard() })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        look(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for as many notices of a kind, and gives the last.
    async fn told(&self, kind: &str, count: usize) -> Result<(HeaderMap, Value)> {
        let found =
            || self.with(|memory| memory.taken.iter().filter(|(_, body)| body["data"]["kind"] == kind).cloned().collect::<Vec<_>>());
        wait::until(&format!("{count} notices {kind}"), || async { Ok((found().len() >= count).then_some(())) }).await?;
        ensure!(found().len() == count, "{} notices of {count}", found().len());
        found().pop().context("a notice")
    }
}

async fn accept(listener: TcpListener, memory: Arc<Mutex<Memory>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let memory = Arc::clone(&memory);
        let service = service_fn(move |request| take(request, Arc::clone(&memory)));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn take(request: Request<Incoming>, memory: Arc<Mutex<Memory>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let mut response = Response::new(Full::default());
    if memory.is_down {
        memory.failed += 1;
        *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    } else {
        memory.taken.push((head.headers, serde_json::from_slice(&body).unwrap_or_default()));
    }
    Ok(response)
}

async fn node(directory: &tempfile::TempDir, provider: &TokenEndpoint, receiver: &Receiver) -> Result<Node> {
    let secret = directory.path().join("hook.secret");
    std::fs::write(&secret, SECRET)?;
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let channel =
        format!("\n[notices.channels.ops]\nform = \"webhook\"\nurl = \"{}\"\nsecret_file = \"{}\"\n", receiver.address, secret.display());
    Launch::new(&directory.path().join("data"))
        .with("KEYRELAY_ACCOUNTS_TEST_INTERVAL", "1s")
        .with_config(&(provider.config() + &channel))
        .start()
        .await
}

#[tokio::test]
async fn an_account_that_needs_a_login_is_told_once_across_an_outage_of_the_receiver_and_a_restart_and_so_is_its_recovery() -> Result<()> {
    let (directory, upstream) = (tempfile::tempdir()?, ScriptedUpstream::start().await?);
    let (provider, receiver) = (TokenEndpoint::start(3600).await?, Receiver::start().await?);
    let running = node(&directory, &provider, &receiver).await?;
    let admin = running.admin()?;
    receiver.with(|memory| memory.is_down = true);
    let (access_token, refresh_token) = provider.log_in("ada");
    provider.revoke("ada");
    let ended = schemas::Timestamp::from_micros(u64::try_from(tests::clock::now_ms()?)? * 1000);
    let grant = json!({ "provider": "acme", "access_token": access_token, "refresh_token": refresh_token, "client_id": "relay",
        "expires_at": ended, "scopes": ["chat"] });
    let body = json!({ "name": "ada", "dialect": "openai", "base_url": upstream.openai_url(), "grant": grant });
    let added = admin.add_upstream_with(&body).await?;

    wait::until("an attempt that fails", || async { Ok((receiver.with(|memory| memory.failed) > 0).then_some(())) }).await?;
    receiver.with(|memory| memory.is_down = false);
    let (headers, told) = receiver.told("login_required", 1).await?;
    ensure!(told["type"] == "notice.login_required" && told["data"]["subject"] == added["upstream"]["id"], "{told}");
    ensure!(headers["webhook-id"].to_str()? == told["data"]["id"].as_str().context("an id")?, "{headers:?}");
    ensure!(headers["webhook-signature"].to_str()?.starts_with("v1,"), "{headers:?}");
    ensure!(!told.to_string().contains("rt-ada") && !told.to_string().contains("at-ada"), "{told}");
    let shown = admin.get("/notices").await?.success()?;
    let outcomes: Vec<_> =
        shown["channels"][0]["recent"].as_array().context("attempts")?.iter().map(|sent| sent["outcome"].clone()).collect();
    ensure!(outcomes[0] == "delivered" && outcomes[1..].iter().all(|outcome| outcome == "unreachable") && outcomes.len() > 1, "{shown}");
    ensure!(!shown.to_string().contains("whsec_") && !shown.to_string().contains("/hook"), "{shown}");

    // After a restart it stands still, and is not told again: what comes next is that it is over.
    let running = running.stop().await?.start().await?;
    let admin = running.admin()?;
    admin.call(http::Method::DELETE, "/api/v1/upstreams/ada", &[], &Value::Null).await?.success()?;
    let (_, over) = receiver.told("recovered", 1).await?;
    ensure!(over["data"]["subject"] == added["upstream"]["id"] && over["data"]["id"] != told["data"]["id"], "{over}");
    receiver.told("login_required", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_test_of_a_channel_tells_what_came_of_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (provider, receiver) = (TokenEndpoint::start(3600).await?, Receiver::start().await?);
    let node = node(&directory, &provider, &receiver).await?;
    let admin = node.admin()?;
    let sent = admin.post("/notices/channels/ops/test", &Value::Null).await?.success()?;
    ensure!(sent["delivery"]["outcome"] == "delivered" && sent["delivery"]["status"] == 200, "{sent}");
    receiver.told("test", 1).await?;
    receiver.with(|memory| memory.is_down = true);
    let failed = admin.post("/notices/channels/ops/test", &Value::Null).await?.success()?;
    ensure!(failed["delivery"]["outcome"] == "unreachable", "{failed}");
    admin.post("/notices/channels/nobody/test", &Value::Null).await?.expect(404)?;
    Ok(())
}

#[tokio::test]
async fn a_rotation_that_is_given_up_and_a_token_that_nothing_renews_are_told_until_that_is_over() -> Result<()> {
    let (directory, upstream) = (tempfile::tempdir()?, ScriptedUpstream::start().await?);
    let (provider, receiver) = (TokenEndpoint::start(3600).await?, Receiver::start().await?);
    let node = node(&directory, &provider, &receiver).await?;
    let admin = node.admin()?;
    let now = schemas::Timestamp::from_micros(u64::try_from(tests::clock::now_ms()?)? * 1000);
    let grant = json!({ "provider": "acme", "access_token": "set-up-token", "expires_at": now.plus_seconds(3600) });
    admin.add_upstream_with(&json!({ "name": "short", "dialect": "openai", "base_url": upstream.openai_url(), "grant": grant })).await?;
    let (_, expiring) = receiver.told("credential_expiring", 1).await?;
    ensure!(expiring["data"]["text"].as_str().is_some_and(|text| text.contains("Upstream short of tenant default")), "{expiring}");

    admin.add_upstream("fixed", "openai", &upstream.openai_url(), "sk-the-first").await?;
    upstream.refuse("sk-the-second");
    upstream.refuse("sk-the-third");
    admin.post("/upstreams/fixed/rotations", &json!({ "credential": "sk-the-second" })).await?.success()?;
    let (_, stuck) = receiver.told("rotation_stuck", 1).await?;
    ensure!(stuck["data"]["text"].as_str().is_some_and(|text| text.contains("refused the new credential")), "{stuck}");
    ensure!(!stuck.to_string().contains("sk-the"), "{stuck}");

    // Another rotation is another story: the first is told no more.
    admin.post("/upstreams/fixed/rotations", &json!({ "credential": "sk-the-third" })).await?.success()?;
    let (_, over) = receiver.told("recovered", 1).await?;
    ensure!(over["data"]["subject"] == stuck["data"]["subject"], "{over}");
    Ok(())
}

#[tokio::test]
async fn a_credential_that_the_provider_rejects_in_test_calls_by_the_clock_is_told_until_it_is_taken_again() -> Result<()> {
    let (directory, upstream) = (tempfile::tempdir()?, ScriptedUpstream::start().await?);
    let (provider, receiver) = (TokenEndpoint::start(3600).await?, Receiver::start().await?);
    let node = node(&directory, &provider, &receiver).await?;
    let admin = node.admin()?;
    upstream.refuse(CREDENTIAL);
    let added = admin.add_upstream("fixed", "openai", &upstream.openai_url(), CREDENTIAL).await?;
    let (_, rejected) = receiver.told("credential_rejected", 1).await?;
    ensure!(rejected["data"]["subject"] == added["upstream"]["id"] && !rejected.to_string().contains(CREDENTIAL), "{rejected}");
    let history = admin.get("/upstreams/fixed/tests").await?.success()?;
    ensure!(history["last"]["fault"] == "rejected" && history["errors"][0]["status"] == 401, "{history}");
    ensure!(history["rejected_since"] == rejected["timestamp"], "{history}");

    upstream.take(CREDENTIAL);
    receiver.told("recovered", 1).await?;
    receiver.told("credential_rejected", 1).await?;
    let history = admin.get("/upstreams/fixed/tests").await?.success()?;
    ensure!(history["last"]["fault"].is_null() && history["rejected_since"].is_null(), "{history}");
    Ok(())
}
