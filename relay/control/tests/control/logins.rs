//! Logins at a provider: every row of the paste table, and one exchange whoever brings the answer how often and where.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use control::{Commands, Request};
use schemas::login::{LoginCommand, LoginFlow, LoginStarted};
use schemas::{Actor, Command, CommandId, Digest, LoginId, Sequence, Stream, TenantId, Timestamp, UpstreamId, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use url::Url;
use vault::RootKey;

use crate::provider::{FakeProvider, Turn};
use crate::world::{Answer, Node, World};

struct Scene {
    provider: FakeProvider,
    world: World,
    root_key: RootKey,
    node: Node,
    _data: TempDir,
}

/// What is done to a provider's answer on its way.
type Change = fn(&mut Url);

/// A login as its start answered.
struct Started {
    id: String,
    authorize_url: String,
}

async fn scene() -> Scene {
    let provider = FakeProvider::start().await;
    let world = World { providers: provider.providers(), ..World::default() };
    let root_key = RootKey::generate().unwrap();
    let (node, _data) = world.node(&root_key).await;
    Scene { provider, world, root_key, node, _data }
}

fn body(name: &str) -> Value {
    json!({ "provider": "corp", "upstream": { "name": name, "dialect": "openai", "base_url": "https://api.example.com/v1" } })
}

impl Scene {
    async fn start(&self, name: &str) -> Started {
        let answer = self.node.call("POST", "/api/v1/logins", body(name)).await;
        started(&answer)
    }

    async fn login(&self, id: &str) -> Value {
        self.node.get(&format!("/api/v1/logins/{id}")).await.body["login"].clone()
    }

    /// The names of the events on a login's stream.
    async fn events(&self, id: &str) -> Vec<String> {
        let page = self.node.get(&format!("/api/v1/events?stream={id}&limit=100")).await;
        page.body["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }
}

fn started(answer: &Answer) -> Started {
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Started { id: text(&answer.body["login"]["id"]), authorize_url: text(&answer.body["authorize_url"]) }
}

async fn paste(node: &Node, id: &str, text: &str) -> Answer {
    node.call("POST", &format!("/api/v1/logins/{id}/callback"), json!({ "callback_url": text })).await
}

async fn confirm(node: &Node, id: &str) -> Answer {
    node.call("POST", &format!("/api/v1/logins/{id}/confirm"), json!({})).await
}

fn told(answer: &Answer) -> (u16, &str, &str) {
    (answer.status.as_u16(), answer.code(), answer.body["detail"].as_str().unwrap_or_default())
}

const NOT_EXCHANGED: &str = "Failed to exchange code for token";

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_address_makes_an_upstream_once_its_account_is_confirmed() {
    let scene = scene().await;
    let login = scene.start("mail").await;
    let back = scene.provider.agree(&login.authorize_url);
    assert_eq!(back.as_str().split('?').next(), Some("http://127.0.0.1:3128/oauth/callback"));

    let brought = paste(&scene.node, &login.id, back.as_str()).await;
    assert_eq!(brought.status, StatusCode::OK, "{}", brought.body);
    let shown = &brought.body["login"];
    assert_eq!((shown["state"].as_str(), shown["identity"].as_str()), (Some("awaiting_confirmation"), Some("ada@example.com, max")));
    assert_eq!(scene.node.get("/api/v1/upstreams").await.body["upstreams"], json!([]), "nothing is used before it is confirmed");

    let confirmed = confirm(&scene.node, &login.id).await;
    assert_eq!(confirmed.status, StatusCode::OK, "{}", confirmed.body);
    assert_eq!(confirmed.body["detail"], "Authentication successful! Token has been saved.");
    let upstream = &confirmed.body["upstream"];
    assert_eq!((&upstream["id"], &upstream["name"]), (&shown["upstream"], &json!("mail")));
    let account = &upstream["credential"]["grant"];
    assert_eq!((&account["provider"], &account["refreshable"]), (&json!("corp"), &json!(true)));
    assert!(["valid", "expiring"].contains(&account["status"].as_str().unwrap()), "{account}");
    assert_eq!(scene.events(&login.id).await, ["LoginStarted", "LoginConsumed", "LoginExchanged", "LoginConfirmed"]);

    // Again is the same, and whose account it was is forgotten.
    let again = confirm(&scene.node, &login.id).await;
    assert_eq!((again.status, &again.body["upstream"]["id"]), (StatusCode::OK, &upstream["id"]), "{}", again.body);
    assert_eq!((scene.login(&login.id).await["identity"].clone(), scene.provider.granted()), (Value::Null, 1));
    let log = scene.node.get("/api/v1/events?limit=1000").await.body.to_string();
    assert!(!log.contains("canary") && !log.contains("ada@example.com") && !log.contains("code-0"), "{log}");
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_of_the_provider_leaves_the_login_open() {
    let scene = scene().await;
    let login = scene.start("mail").await;
    let back = scene.provider.agree(&login.authorize_url);
    let twice = format!("{back}&state=x");
    let incomplete = "Callback URL missing code or state parameter";
    for (text, detail) in [("code-0", incomplete), ("http://127.0.0.1:3128/oauth/callback?code=code-0", incomplete), ("", incomplete)] {
        assert_eq!(told(&paste(&scene.node, &login.id, text).await), (400, "oauth_paste_invalid", detail), "{text}");
    }
    assert_eq!(told(&paste(&scene.node, &login.id, &twice).await).1, "oauth_paste_invalid");
    assert_eq!(told(&paste(&scene.node, &login.id, &"x".repeat(8193)).await).1, "oauth_paste_invalid");
    let unknown = (400, "oauth_state_unknown", "invalid state");
    assert_eq!(told(&paste(&scene.node, &login.id, "code-0#other").await), unknown);
    let nobody = LoginId::from_bytes([9; 16]).to_string();
    assert_eq!(told(&paste(&scene.node, &nobody, back.as_str()).await), unknown);
    assert_eq!((scene.events(&login.id).await, scene.provider.redeemed()), (vec!["LoginStarted".to_owned()], 0));
    assert_eq!(paste(&scene.node, &login.id, back.query().unwrap()).await.status, StatusCode::OK);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_good_once_and_for_ten_minutes() {
    let scene = scene().await;
    let login = scene.start("mail").await;
    let back = scene.provider.agree(&login.authorize_url);
    assert_eq!(paste(&scene.node, &login.id, back.as_str()).await.status, StatusCode::OK);
    assert_eq!(told(&paste(&scene.node, &login.id, back.as_str()).await).1, "oauth_state_used");

    let late = scene.start("late").await;
    let back = scene.provider.agree(&late.authorize_url);
    scene.world.ahead.fetch_add(600, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(told(&paste(&scene.node, &late.id, back.as_str()).await), (410, "oauth_state_expired", "invalid state"));
    }
    assert_eq!(scene.events(&late.id).await, ["LoginStarted", "LoginFailed"]);
    assert_eq!(scene.provider.redeemed(), 1);
    // The other was not confirmed in time either.
    assert_eq!(confirm(&scene.node, &login.id).await.status, StatusCode::GONE);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_elsewhere_ends_the_login() {
    let scene = scene().await;
    let rows: [(&str, Change, u16, &str); 4] = [
        ("port", |url| url.set_port(Some(4649)).unwrap(), 400, "oauth_redirect_mismatch"),
        ("path", |url| url.set_path("/other"), 400, "oauth_redirect_mismatch"),
        ("issuer", |url| _ = url.query_pairs_mut().append_pair("iss", "https://evil.example.com"), 400, "oauth_issuer_mismatch"),
        (
            "denied",
            |url| {
                let state = url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
                url.query_pairs_mut().clear().append_pair("error", "access_denied").append_pair("state", &state);
            },
            400,
            "oauth_denied",
        ),
    ];
    for (name, change, status, code) in rows {
        let login = scene.start(name).await;
        let mut back = scene.provider.agree(&login.authorize_url);
        let good = back.clone();
        change(&mut back);
        let answer = paste(&scene.node, &login.id, back.as_str()).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{name}");
        assert_eq!(told(&paste(&scene.node, &login.id, good.as_str()).await).1, "oauth_state_used", "{name}");
        let misused = scene.events(&login.id).await.contains(&"LoginMisused".to_owned());
        assert_eq!(misused, name == "issuer");
    }
    assert_eq!(scene.provider.redeemed(), 0);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_of_an_exchange_has_its_code_and_says_whether_to_try_again() {
    let scene = scene().await;
    let grant = |scope: &str| json!({ "access_token": "access-x", "refresh_token": "refresh-x", "scope": scope });
    let large: &'static str = Box::leak("x".repeat(70_000).into_boxed_str());
    let rows = [
        ("a", Turn::Answer("400 Bad Request", r#"{"error":"invalid_grant"}"#), 422, "oauth_code_rejected", false),
        ("b", Turn::Answer("401 Unauthorized", r#"{"error":"invalid_client"}"#), 502, "oauth_upstream_invalid", false),
        ("c", Turn::Answer("302 Found", "{}"), 502, "oauth_upstream_invalid", false),
        ("d", Turn::Answer("200 OK", "<html>"), 502, "oauth_upstream_invalid", false),
        ("e", Turn::Answer("200 OK", large), 502, "oauth_upstream_invalid", false),
        ("f", Turn::Reset, 502, "oauth_outcome_unknown", false),
        ("g", Turn::Answer("503 Busy", "{}"), 502, "oauth_outcome_unknown", false),
        ("h", Turn::Answer("429 Slow Down", "{}"), 503, "oauth_rate_limited", true),
        ("i", Turn::Grant(json!({ "access_token": "access-x", "scope": "read" })), 422, "oauth_grant_incomplete", false),
        ("j", Turn::Grant(grant("other")), 422, "oauth_grant_incomplete", false),
    ];
    for (name, turn, status, code, is_open) in rows {
        let login = scene.start(name).await;
        let back = scene.provider.agree(&login.authorize_url);
        scene.provider.next([turn]);
        let answer = paste(&scene.node, &login.id, back.as_str()).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{name}");
        if code != "oauth_grant_incomplete" {
            assert_eq!(answer.body["detail"], NOT_EXCHANGED, "{name}");
        }
        assert_eq!(answer.header("retry-after"), is_open.then_some(7), "{name}");
        let again = paste(&scene.node, &login.id, back.as_str()).await;
        assert_eq!(again.status == StatusCode::OK, is_open, "{name}: {}", again.body);
        if is_open {
            scene.node.call("DELETE", &format!("/api/v1/logins/{}", login.id), Value::Null).await;
        }
    }
    // What came to nothing was given back: what was incomplete, and what was cancelled.
    assert_eq!(scene.provider.revoked(), ["refresh-canary-1", "access-x", "refresh-x"]);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_cannot_be_reached_leaves_the_login_open_three_times() {
    let scene = scene().await;
    let login = scene.start("mail").await;
    let back = scene.provider.agree(&login.authorize_url);
    let origin = scene.provider.origin.clone();
    drop(scene.provider);
    // Whether the listener is gone shows when connecting.
    let address = origin.trim_start_matches("http://").to_owned();
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for _ in 0..4 {
        assert_eq!(told(&paste(&scene.node, &login.id, back.as_str()).await), (503, "oauth_upstream_unreachable", NOT_EXCHANGED));
    }
    assert_eq!(told(&paste(&scene.node, &login.id, back.as_str()).await).1, "oauth_state_used");
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_are_shown_the_same_answer_exchange_it_once() {
    let scene = scene().await;
    let (second, _data) = scene.world.node(&scene.root_key).await;
    for round in 0..5 {
        let login = scene.start(&format!("mail-{round}")).await;
        let back = scene.provider.agree(&login.authorize_url);
        let (before, text) = (scene.provider.redeemed(), back.as_str());
        let path = format!("/api/v1/logins/{}/callback", login.id);
        let (a, b, c) = tokio::join!(
            paste(&scene.node, &login.id, text),
            paste(&second, &login.id, text),
            second.call_with("POST", &path, &[("idempotency-key", "same")], json!({ "callback_url": text }).to_string().into_bytes()),
        );
        let mut outcomes = [a.status.as_u16(), b.status.as_u16(), c.status.as_u16()];
        outcomes.sort_unstable();
        assert_eq!(outcomes, [200, 409, 409], "{} {} {}", a.body, b.body, c.body);
        assert_eq!(scene.provider.redeemed(), before + 1);
        // Started on one node, brought to another, confirmed on both at once: one upstream.
        let (a, b) = tokio::join!(confirm(&scene.node, &login.id), confirm(&second, &login.id));
        assert!(a.status == StatusCode::OK || b.status == StatusCode::OK, "{} {}", a.body, b.body);
        let again = confirm(&second, &login.id).await;
        assert_eq!(again.status, StatusCode::OK, "{}", again.body);
    }
    let upstreams = second.get("/api/v1/upstreams").await.body["upstreams"].as_array().unwrap().len();
    assert_eq!(upstreams, 5);
    second.stop().await;
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_somebody_elses_login_is_as_unknown_as_any_and_is_noted() {
    let scene = scene().await;
    let (tenant, state) = (TenantId::default_tenant(), "their-state");
    let id = CommandId::from_bytes([5; 16]).new_login_id();
    let flow = LoginFlow::Code {
        redirect_uri: "http://127.0.0.1:3128/oauth/callback".into(),
        state_hash: Digest::from_bytes(blake3::derive_key("keyrelay 2026 login state hash v1", state.as_bytes())),
    };
    let theirs = LoginStarted {
        provider: "corp".into(),
        flow,
        upstream: UpstreamId::from_bytes([6; 16]),
        creates: None,
        labels: schemas::upstream::UpstreamLabels::default(),
        account: None,
        expires_at: Timestamp::from_micros(u64::MAX / 2),
    };
    let request = Request {
        stream: Stream::login(tenant, id),
        command: Command::Login(LoginCommand::Start(Box::new(theirs))),
        actor: Actor::User(UserId::from_bytes([7; 16])),
        command_id: CommandId::from_bytes([5; 16]),
        request_digest: Digest::from_bytes([0; 32]),
        if_version: None,
        deadline: Commands::deadline(),
    };
    assert!(scene.node.commands.execute(request).await.unwrap().sequence > Sequence::ZERO);
    let id = id.to_string();
    let answer = paste(&scene.node, &id, &format!("code#{state}")).await;
    assert_eq!(told(&answer), (400, "oauth_state_unknown", "invalid state"));
    assert_eq!(scene.events(&id).await, ["LoginStarted", "LoginMisused"]);
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/confirm")] {
        let answer = scene.node.call(method, &format!("/api/v1/logins/{id}{path}"), Value::Null).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method}");
    }
    assert_eq!(scene.provider.redeemed(), 0);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_logins_and_too_many_wrong_pastes_are_refused() {
    let scene = scene().await;
    let mut open = Vec::new();
    for n in 0..5 {
        open.push(scene.start(&format!("mail-{n}")).await);
    }
    let sixth = scene.node.call("POST", "/api/v1/logins", body("mail-5")).await;
    assert_eq!((sixth.status.as_u16(), sixth.code()), (429, "oauth_too_many_logins"));
    for n in 0..9 {
        assert_eq!(told(&paste(&scene.node, &open[0].id, "bare-code").await).0, 400, "{n}");
    }
    let tenth = paste(&scene.node, &open[0].id, "bare-code").await;
    assert_eq!((tenth.status.as_u16(), tenth.code()), (429, "oauth_too_many_pastes"));
    for login in &open {
        assert_eq!(scene.login(&login.id).await["failure"], "too_many_pastes");
    }
    let fresh = scene.start("fresh").await;
    let back = scene.provider.agree(&fresh.authorize_url);
    assert_eq!(paste(&scene.node, &fresh.id, back.as_str()).await.status, StatusCode::TOO_MANY_REQUESTS);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_renewed_for_the_same_account_only() {
    let scene = scene().await;
    let first = scene.start("mail").await;
    let back = scene.provider.agree(&first.authorize_url);
    paste(&scene.node, &first.id, back.as_str()).await;
    let upstream = confirm(&scene.node, &first.id).await.body["upstream"].clone();

    let renewed = async |account: &str| {
        scene.provider.become_account(account);
        let login = started(&scene.node.call("POST", "/api/v1/upstreams/mail/logins", json!({})).await);
        let back = scene.provider.agree(&login.authorize_url);
        (paste(&scene.node, &login.id, back.as_str()).await, login)
    };
    let (other, login) = renewed("43").await;
    assert_eq!((other.status.as_u16(), other.code()), (409, "oauth_account_mismatch"));
    assert_eq!(scene.provider.revoked(), ["refresh-canary-2"]);
    assert_eq!(confirm(&scene.node, &login.id).await.code(), "login_ended");

    let (same, login) = renewed("42").await;
    assert_eq!(same.status, StatusCode::OK, "{}", same.body);
    let after = confirm(&scene.node, &login.id).await.body["upstream"].clone();
    assert_eq!((&after["id"], &after["credential"]["id"]), (&upstream["id"], &upstream["credential"]["id"]));
    assert_eq!(after["credential"]["secret_version"], 2);
    assert_ne!(after["credential"]["fingerprint"], upstream["credential"]["fingerprint"]);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_nobody_confirms_is_given_back() {
    let scene = scene().await;
    let login = scene.start("mail").await;
    let back = scene.provider.agree(&login.authorize_url);
    paste(&scene.node, &login.id, back.as_str()).await;
    scene.world.ahead.fetch_add(600, Ordering::Relaxed);
    assert_eq!(scene.login(&login.id).await["failure"], "unconfirmed", "whether or not it was swept");
    let stop = CancellationToken::new();
    let sweeping = tokio::spawn(scene.node.logins.clone().sweep_until(stop.clone()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while scene.provider.revoked().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the tokens were not given back");
        tokio::task::yield_now().await;
    }
    stop.cancel();
    sweeping.await.unwrap();
    assert_eq!(scene.provider.revoked(), ["refresh-canary-1"]);
    assert_eq!(scene.events(&login.id).await.last().unwrap(), "LoginFailed");
    assert_eq!(confirm(&scene.node, &login.id).await.status, StatusCode::CONFLICT);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_code_is_asked_after_until_its_user_agrees() {
    let scene = scene().await;
    let mut asked = body("tv");
    asked["flow"] = json!("device");
    let answer = scene.node.call("POST", "/api/v1/logins", asked).await;
    assert_eq!((answer.status, &answer.body["device"]["user_code"]), (StatusCode::CREATED, &json!("WDJB-MJHT")), "{}", answer.body);
    assert!(!answer.body.to_string().contains("canary"));
    let path = format!("/api/v1/logins/{}/callback", answer.body["login"]["id"].as_str().unwrap());
    for _ in 0..2 {
        let pending = scene.node.call("POST", &path, json!({})).await;
        assert_eq!((pending.status, &pending.body["login"]["state"]), (StatusCode::OK, &json!("open")), "{}", pending.body);
    }
    assert_eq!(scene.provider.redeemed(), 1, "the second ask came too soon");
    scene.provider.agree_to_device();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let polled = scene.node.call("POST", &path, json!({})).await;
        assert_eq!(polled.status, StatusCode::OK, "{}", polled.body);
        if polled.body["login"]["state"] == "awaiting_confirmation" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", polled.body);
        tokio::task::yield_now().await;
    }
    let confirmed = confirm(&scene.node, answer.body["login"]["id"].as_str().unwrap()).await;
    assert_eq!((confirmed.status, &confirmed.body["upstream"]["name"]), (StatusCode::OK, &json!("tv")), "{}", confirmed.body);
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_sent_again_is_the_same_login() {
    let scene = scene().await;
    let fields = [("idempotency-key", "once")];
    let start = async || scene.node.call_with("POST", "/api/v1/logins", &fields, body("mail").to_string().into_bytes()).await;
    let (first, second) = (started(&start().await), started(&start().await));
    assert_eq!((first.id, first.authorize_url), (second.id, second.authorize_url));
    scene.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_a_client_is_listed_and_refused() {
    let scene = scene().await;
    let listed = scene.node.get("/api/v1/providers").await.body;
    let of = |name: &str| listed["providers"].as_array().unwrap().iter().find(|provider| provider["name"] == name).cloned().unwrap();
    assert_eq!((&of("google")["configured"], &of("corp")["configured"]), (&json!(false), &json!(true)));
    assert_eq!(of("corp")["redirect_ports"], json!([3128, 4649]));
    let mut asked = body("mail");
    asked["provider"] = json!("google");
    assert_eq!(scene.node.call("POST", "/api/v1/logins", asked).await.status, StatusCode::BAD_REQUEST);
    let mut asked = body("mail");
    asked["redirect_port"] = json!(80);
    assert_eq!(scene.node.call("POST", "/api/v1/logins", asked).await.status, StatusCode::BAD_REQUEST);
    scene.node.stop().await;
}
