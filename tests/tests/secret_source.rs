//! A credential that lives in a KV store is taken from there by `upstreams rotate --credential-from`. The store is a stand-in: it answers what the
//! documents of Vault and OpenBao say about the one request that is made, and nothing else.
#![expect(clippy::disallowed_methods, reason = "the stand-in ends with the runtime of its test")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tests::world::{CREDENTIAL, World};
use tests::{cli, wait};
use tokio::net::TcpListener;

const NEXT: &str = "sk-provider-next-4hT7cPq9ZbX2nVw6RkLs";
const TOKEN: &str = "hvs.stand-in";

/// Paths below `/v1`, and what is there.
type Secrets = Arc<Mutex<BTreeMap<String, Value>>>;

/// Answers until the runtime of the test ends.
async fn kv_stand_in(secrets: Secrets) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let secrets = Arc::clone(&secrets);
            let answer = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&secrets, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), answer));
        }
    });
    Ok(address)
}

fn answer(secrets: &Secrets, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let is_known = request.headers().get("x-vault-token").is_some_and(|token| token == TOKEN);
    let found = secrets.lock().unwrap_or_else(PoisonError::into_inner).get(request.uri().path()).cloned();
    let (status, body) = match found {
        _ if !is_known => (StatusCode::FORBIDDEN, json!({ "errors": ["permission denied"] })),
        None => (StatusCode::NOT_FOUND, json!({ "errors": [] })),
        Some(body) => (StatusCode::OK, body),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
}

fn put(secrets: &Secrets, version: u32, api_key: &str) {
    let body = json!({ "data": { "data": { "api_key": api_key, "owner": "ada" }, "metadata": { "version": version } } });
    secrets.lock().unwrap_or_else(PoisonError::into_inner).insert("/v1/kv/data/llm/openai".to_owned(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_at_the_source_becomes_one_rotation() -> Result<()> {
    let world = World::start().await?;
    let key = world.key(json!({})).await?;
    let secrets = Secrets::default();
    let address = kv_stand_in(Arc::clone(&secrets)).await?;
    let data = world.node.data().display().to_string();
    let pull = |reference: &str, token: &str, more: &[&str]| {
        let mut command = cli::command("keyrelay")?;
        command.env("VAULT_ADDR", &address).env("VAULT_TOKEN", token);
        cli::run(command.args(["upstreams", "rotate", "openai", "--json", "--data", &data, "--credential-from", reference]).args(more))
    };
    let reference = "vault:kv/llm/openai#api_key";

    // What is in use already is no rotation.
    put(&secrets, 1, CREDENTIAL);
    ensure!(pull(reference, TOKEN, &[])?.expect(0)?.json()?["due"] == false);
    // The next version is one, however often the job runs.
    put(&secrets, 2, NEXT);
    let begun = pull(reference, TOKEN, &["--unused-after", "1s"])?.expect(0)?.json()?;
    let rotation = begun["rotation"]["id"].as_str().context("an id")?.to_owned();
    let again = pull(reference, TOKEN, &["--unused-after", "1s"])?.expect(0)?.json()?;
    ensure!(again["rotation"]["id"] == rotation.as_str(), "{again}");
    wait::until("the end of the rotation", || async {
        let shown = world.admin.get(&format!("/upstreams/openai/rotations/{rotation}")).await?.success()?;
        Ok((shown["rotation"]["status"] == "finished").then_some(()))
    })
    .await?;
    let shown_before = world.upstream.shown(NEXT);
    world.relay.chat(&key.secret, "hello").await?.expect(200)?;
    ensure!(world.upstream.shown(NEXT) == shown_before + 1, "the new credential is not in use");
    pull(reference, TOKEN, &[])?.expect(0)?;
    // The same secret under a new version is in use already.
    put(&secrets, 3, NEXT);
    ensure!(pull(reference, TOKEN, &[])?.expect(0)?.json()?["due"] == false);

    // A source that has nothing for us changes nothing, says why, and shows no secret.
    for (reference, token, why) in [
        ("vault:kv/llm/other#api_key", TOKEN, "no such secret"),
        ("vault:kv/llm/openai#other", TOKEN, "no text field"),
        (reference, "hvs.other", "refuses us"),
        ("kv/llm/openai", TOKEN, "expected vault:"),
    ] {
        let run = pull(reference, token, &[])?.expect(2)?;
        ensure!(run.stderr.contains(why) && !run.stderr.contains(NEXT) && !run.stderr.contains(token), "{}", run.stderr);
    }
    let listed = world.admin.get("/upstreams/openai/rotations").await?.success()?;
    ensure!(listed["rotations"].as_array().context("a list")?.len() == 1, "{listed}");
    world.relay.chat(&key.secret, "hello").await?.expect(200)?;
    Ok(())
}
