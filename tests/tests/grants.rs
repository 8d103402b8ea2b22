//! Upstreams with a provider's grant: what they are shown, what happens when a token ends, and that a node that dies loses none.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Admin, Behaviour, Launch, Node, ScriptedUpstream, TokenEndpoint, World, wait};

fn later(seconds: u64) -> Result<String> {
    let now = u64::try_from(tests::clock::now_ms()?)?;
    Ok(schemas::Timestamp::from_micros(now * 1000).plus_seconds(seconds).to_string())
}

/// An upstream with the account's grant, whose present token ends after so many seconds.
async fn add(admin: &Admin, upstream: &ScriptedUpstream, provider: &TokenEndpoint, account: &str, seconds: u64) -> Result<Value> {
    let (access_token, refresh_token) = provider.log_in(account);
    let grant = json!({ "provider": "acme", "access_token": access_token, "refresh_token": refresh_token, "client_id": "relay",
        "expires_at": later(seconds)?, "scopes": ["chat"] });
    let body = json!({ "name": account, "dialect": "openai", "base_url": upstream.openai_url(), "grant": grant });
    Ok(admin.add_upstream_with(&body).await?["upstream"].clone())
}

async fn grant(admin: &Admin, name: &str) -> Result<Value> {
    Ok(admin.get(&format!("/upstreams/{name}")).await?.success()?["upstream"]["credential"]["grant"].clone())
}

async fn node(directory: &tempfile::TempDir, provider: &TokenEndpoint) -> Result<Node> {
    Launch::new(&directory.path().join("data")).with_config(&provider.config()).start().await
}

fn shown(upstream: &ScriptedUpstream) -> Vec<String> {
    let value = |seen: &tests::upstream::Seen| seen.headers["authorization"].to_str().unwrap_or_default().to_owned();
    upstream.seen().iter().map(value).collect()
}

#[tokio::test]
async fn a_grant_is_shown_as_bearer_and_a_request_that_meets_its_end_goes_out_with_the_next_token() -> Result<()> {
    let (directory, upstream, provider) = (tempfile::tempdir()?, ScriptedUpstream::start().await?, TokenEndpoint::start(3600).await?);
    let node = node(&directory, &provider).await?;
    let (admin, relay) = (node.admin()?, node.relay());
    let key = admin.create_key(&json!({ "name": "ci", "expires": "never" })).await?;
    let added = add(&admin, &upstream, &provider, "ada", 3600).await?;
    ensure!(added["credential"]["grant"]["status"] == "expiring" && added["credential"]["grant"]["refreshable"] == true, "{added}");
    ensure!(!added.to_string().contains("at-ada") && !added.to_string().contains("rt-ada"), "{added}");
    relay.chat(&key.secret, "with the first token").await?.success()?;
    ensure!(shown(&upstream) == ["Bearer at-ada-0"], "{:?}", shown(&upstream));

    // Another one whose token has ended when it is entered: the request comes before the refresh has.
    provider.answer_after(Duration::from_secs(2));
    admin.call(http::Method::DELETE, "/api/v1/upstreams/ada", &[], &Value::Null).await?.success()?;
    add(&admin, &upstream, &provider, "eve", 0).await?;
    let answer = relay.chat(&key.secret, "with the second").await?;
    answer.success()?;
    ensure!(answer.header("x-keyrelay-attempts") == "1", "{:?}", answer.headers);
    ensure!(shown(&upstream)[1..] == ["Bearer at-eve-1"], "{:?}", shown(&upstream));
    ensure!((provider.redemptions(), provider.second_redemptions()) == (1, 0));
    let metrics = admin.metrics().await?;
    ensure!(metrics.contains("keyrelay_refreshes_total{outcome=\"refreshed\"} 1"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_session_cookie_is_refused_wherever_a_credential_is_entered() -> Result<()> {
    let world = World::start().await?;
    let cookie = "sessionKey=sk-ant-sid01-of-a-person";
    let new =
        |field: &str, secret: Value| json!({ "name": "web", "dialect": "openai", "base_url": world.upstream.openai_url(), field: secret });
    let asked = [
        world.admin.post("/upstreams", &new("credential", json!(cookie))).await?,
        world.admin.post("/upstreams", &new("grant", json!({ "provider": "acme", "access_token": cookie }))).await?,
        world.admin.post("/upstreams/openai/rotations", &json!({ "credential": cookie })).await?,
        world.admin.call(http::Method::PATCH, "/api/v1/upstreams/openai", &[], &json!({ "credential": cookie })).await?,
    ];
    for answer in asked {
        answer.expect(400)?;
        ensure!(answer.text().contains("session cookie") && !answer.text().contains("of-a-person"), "{}", answer.text());
    }
    world.admin.post("/upstreams", &new("credential", json!("sk-ant-oat01-a-set-up-token"))).await?.expect(201)?;
    Ok(())
}

#[tokio::test]
async fn an_account_that_needs_a_login_is_told_and_its_requests_go_elsewhere() -> Result<()> {
    let (directory, upstream, provider) = (tempfile::tempdir()?, ScriptedUpstream::start().await?, TokenEndpoint::start(3600).await?);
    let node = node(&directory, &provider).await?;
    let (admin, relay) = (node.admin()?, node.relay());
    let key = admin.create_key(&json!({ "name": "ci", "expires": "never" })).await?;
    // Revoked before the relay has ever refreshed it.
    let (access_token, refresh_token) = provider.log_in("ada");
    provider.revoke("ada");
    let grant_of = json!({ "provider": "acme", "access_token": access_token, "refresh_token": refresh_token, "client_id": "relay", "expires_at": later(0)? });
    let body = json!({ "name": "ada", "dialect": "openai", "base_url": upstream.openai_url(), "grant": grant_of, "priority": 1 });
    admin.add_upstream_with(&body).await?;
    admin.add_upstream("spare", "openai", &upstream.openai_url(), "sk-spare").await?;
    let state = wait::until("the login to be required", || async {
        let state = grant(&admin, "ada").await?;
        Ok((state["status"] == "login_required").then_some(state))
    })
    .await?;
    ensure!(state["login_required"] == "invalid_grant" && state["refresh_at"].is_null(), "{state}");
    relay.chat(&key.secret, "to the spare one").await?.success()?;
    ensure!(shown(&upstream) == ["Bearer sk-spare"], "{:?}", shown(&upstream));
    let ready = admin.readiness().await?;
    ensure!(ready["ready"] == true && ready["reasons"] == json!(["login_required"]), "{ready}");
    ensure!(ready["upstreams"]["enabled"] == 2 && ready["upstreams"]["usable"] == 1, "{ready}");

    // A new grant in its place, by paste: a set-up token that lasts.
    let change = json!({ "grant": { "provider": "acme", "access_token": "setup-token" } });
    admin.call(http::Method::PATCH, "/api/v1/upstreams/ada", &[], &change).await?.success()?;
    ensure!(grant(&admin, "ada").await?["status"] == "valid");
    relay.chat(&key.secret, "to the first again").await?.success()?;
    ensure!(shown(&upstream)[1..] == ["Bearer setup-token"], "{:?}", shown(&upstream));
    ensure!(admin.readiness().await?["reasons"] == json!([]));
    Ok(())
}

#[tokio::test]
async fn a_refused_token_that_is_new_is_not_refreshed_and_the_request_goes_elsewhere() -> Result<()> {
    let (directory, upstream, provider) = (tempfile::tempdir()?, ScriptedUpstream::start().await?, TokenEndpoint::start(3600).await?);
    let node = node(&directory, &provider).await?;
    let (admin, relay) = (node.admin()?, node.relay());
    let key = admin.create_key(&json!({ "name": "ci", "expires": "never" })).await?;
    add(&admin, &upstream, &provider, "ada", 3600).await?;
    add(&admin, &upstream, &provider, "eve", 3600).await?;
    upstream.next(Behaviour { status: Some(401), ..Behaviour::default() });
    let answer = relay.chat(&key.secret, "refused once").await?;
    answer.success()?;
    ensure!(answer.header("x-keyrelay-attempts") == "2" && shown(&upstream).len() == 2, "{:?}", shown(&upstream));
    ensure!(provider.redemptions() == 0);
    Ok(())
}

#[tokio::test]
async fn kills_in_mid_refresh_never_show_a_token_twice() -> Result<()> {
    const ACCOUNTS: usize = 12;
    let (directory, upstream, provider) = (tempfile::tempdir()?, ScriptedUpstream::start().await?, TokenEndpoint::start(36_000).await?);
    provider.answer_after(Duration::from_millis(30));
    let mut node = node(&directory, &provider).await?;
    for n in 0..ACCOUNTS {
        add(&node.admin()?, &upstream, &provider, &format!("account{n}"), 0).await?;
    }
    // One begins every 200 ms; the node dies after each few.
    for round in 1..=4_u64 {
        wait::until("some refreshes", || async { Ok((provider.redemptions() >= round * 2).then_some(())) }).await?;
        node = node.kill()?.start().await?;
    }
    let admin = node.admin()?;
    let ended = wait::until("all accounts to settle", || async {
        let mut ended = 0_u64;
        for n in 0..ACCOUNTS {
            let state = grant(&admin, &format!("account{n}")).await?;
            match state["status"].as_str() {
                Some("login_required") => {
                    ensure!(state["login_required"] == "outcome_unknown", "{state}");
                    ended += 1;
                }
                Some("expired") => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(ended))
    })
    .await?;
    ensure!(provider.second_redemptions() == 0, "{} second redemptions", provider.second_redemptions());
    // What the kills found in mid-air: with its token about to be sent, or its answer on the way.
    let (all, redeemed) = (ACCOUNTS as u64, provider.redemptions());
    ensure!(ended < all && (all - ended..=all).contains(&redeemed), "{ended} ended, {redeemed} redemptions");
    // What is left is in the key store, as the provider gave it.
    let key = admin.create_key(&json!({ "name": "ci", "expires": "never" })).await?;
    node.relay().chat(&key.secret, "after all").await?.success()?;
    ensure!(shown(&upstream).iter().all(|shown| shown.starts_with("Bearer at-account") && shown.ends_with("-1")), "{:?}", shown(&upstream));
    Ok(())
}
