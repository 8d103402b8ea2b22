#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::oauth::provider::{Definition, Providers};

/// What the endpoint of a test does with a connection.
#[derive(Clone)]
enum Does {
    Answer(String),
    /// Reads the request and closes.
    Close,
    /// Reads the request and says nothing more.
    Hang,
}

struct Endpoint {
    url: Url,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

fn answer(status: &str, headers: &str, body: &str) -> Does {
    Does::Answer(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
}

async fn endpoint(does: Does) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/token", listener.local_addr().unwrap())).unwrap();
    let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let (kept, counted) = (seen.clone(), connections.clone());
    let serve = async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                request.extend_from_slice(&buffer[..n]);
                // A TLS handshake is answered too, with what is none.
                if is_whole(&request) || request.first() == Some(&0x16) {
                    break;
                }
            }
            kept.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
            match &does {
                Does::Answer(text) => drop(stream.write_all(text.as_bytes()).await),
                Does::Close => {}
                Does::Hang => std::future::pending().await,
            }
        }
    };
    #[expect(clippy::disallowed_methods, reason = "a test's own server ends with its runtime")]
    tokio::spawn(serve);
    Endpoint { url, seen, connections }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
    body.len() >= length.unwrap_or(0)
}

fn provider(token_url: &Url, more: impl FnOnce(&mut Definition)) -> Arc<Provider> {
    let mut definition = Definition {
        token_url: Some(token_url.clone()),
        authorize_url: Some(token_url.clone()),
        device_url: Some(token_url.clone()),
        scopes: Some(vec!["read".into()]),
        ..Definition::default()
    };
    more(&mut definition);
    let mut providers = Providers::presets();
    providers.define("corp", definition).unwrap();
    providers.get("corp").unwrap()
}

fn me() -> OauthClient {
    OauthClient { id: "me".into(), secret: Some(Zeroizing::new("s e".to_owned())) }
}

async fn redeem(does: Does) -> Result<Tokens, TokenError> {
    let endpoint = endpoint(does).await;
    let client = TokenClient::new(true).unwrap();
    client.exchange_code(&provider(&endpoint.url, |_| ()), &me(), "c&d", Some("v"), "http://127.0.0.1:1/cb").await
}

#[tokio::test]
async fn a_code_is_redeemed_once_with_everything_the_provider_asks_for() {
    let endpoint =
        endpoint(answer("200 OK", "", r#"{"access_token":"at","refresh_token":"rt","token_type":"bearer","expires_in":"60"}"#)).await;
    let client = TokenClient::new(true).unwrap();
    let tokens = client.exchange_code(&provider(&endpoint.url, |_| ()), &me(), "c&d", Some("v"), "http://127.0.0.1:1/cb").await.unwrap();
    assert_eq!((tokens.access_token.as_str(), tokens.refresh_token.as_deref().map(String::as_str)), ("at", Some("rt")));
    assert_eq!((tokens.expires_in, tokens.scopes.as_slice()), (Some(Duration::from_secs(60)), &["read".to_owned()][..]));
    let seen = endpoint.seen.lock().unwrap().clone();
    assert_eq!(endpoint.connections.load(Ordering::Relaxed), 1);
    let body = "grant_type=authorization_code&code=c%26d&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcb&code_verifier=v&client_id=me&client_secret=s+e";
    assert!(seen[0].starts_with("POST /token HTTP/1.1\r\n") && seen[0].ends_with(body), "{}", seen[0]);
    assert!(!seen[0].to_lowercase().contains("cookie"));
}

#[tokio::test]
async fn json_and_camel_case_and_basic_are_spelt_as_the_provider_wants() {
    let endpoint = endpoint(answer("200 OK", "", r#"{"accessToken":"at","expiresIn":5}"#)).await;
    let client = TokenClient::new(true).unwrap();
    let camel = provider(&endpoint.url, |definition| definition.wire = Some(Wire::CamelJson));
    client.refresh(&camel, &me(), "old", &|| true).await.unwrap();
    let basic = provider(&endpoint.url, |definition| definition.client_auth = Some(ClientAuth::Basic));
    client.refresh(&basic, &me(), "old", &|| true).await.unwrap();
    let seen = endpoint.seen.lock().unwrap().clone();
    assert!(seen[0].ends_with(r#"{"clientId":"me","clientSecret":"s e","grantType":"refresh_token","refreshToken":"old"}"#), "{}", seen[0]);
    assert!(
        seen[1].contains("authorization: Basic bWU6cytl\r\n") && seen[1].ends_with("\r\n\r\ngrant_type=refresh_token&refresh_token=old")
    );
}

#[tokio::test]
async fn each_failure_says_whether_the_provider_can_have_seen_the_request() {
    let refused = |code: &str| answer("400 Bad Request", "", &format!(r#"{{"error":"{code}","error_description":"x"}}"#));
    let flaw = |does| async move {
        match redeem(does).await {
            Err(TokenError::Invalid(flaw)) => flaw,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(redeem(refused("invalid_grant")).await, Err(TokenError::InvalidGrant)));
    assert!(matches!(redeem(answer("200 OK", "", r#"{"error":"bad_verification_code"}"#)).await, Err(TokenError::InvalidGrant)));
    assert!(matches!(redeem(refused("invalid_client")).await, Err(TokenError::InvalidClient)));
    assert_eq!(flaw(refused("invalid_scope")).await, Flaw::Refused { code: "invalid_scope".into() });
    assert_eq!(flaw(answer("302 Found", "location: http://127.0.0.1/\r\n", "")).await, Flaw::Redirect);
    assert_eq!(flaw(answer("200 OK", "", "<html>")).await, Flaw::NotJson);
    assert_eq!(flaw(answer("404 Not Found", "", "<html>")).await, Flaw::Status { status: 404 });
    assert_eq!(flaw(answer("200 OK", "", "{}")).await, Flaw::Lacks("an access token"));
    assert_eq!(flaw(answer("200 OK", "", &"x".repeat(exchange::ANSWER_BYTES_MAX + 1))).await, Flaw::TooLarge);
    assert!(matches!(redeem(answer("503 Busy", "", "{}")).await, Err(TokenError::Unknown(_))));
    assert!(matches!(redeem(Does::Close).await, Err(TokenError::Unknown(_))));
    let limited = redeem(answer("429 Slow", "retry-after: 7\r\n", "{}")).await;
    assert!(matches!(limited, Err(TokenError::RateLimited { retry_after: Some(wait) }) if wait == Duration::from_secs(7)));
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_was_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/token", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let refused = TokenClient::new(true).unwrap().refresh(&provider(&url, |_| ()), &me(), "old", &|| true).await;
    assert!(matches!(refused, Err(TokenError::NotSent(_))), "{refused:?}");
}

#[tokio::test]
async fn what_may_no_longer_be_sent_stays_here() {
    let endpoint = endpoint(Does::Hang).await;
    let held = TokenClient::new(true).unwrap().refresh(&provider(&endpoint.url, |_| ()), &me(), "old", &|| false).await;
    assert!(matches!(held, Err(TokenError::NotSent(_))), "{held:?}");
    assert!(endpoint.seen.lock().unwrap().iter().all(String::is_empty));
}

#[tokio::test]
async fn private_addresses_and_bad_tls_are_refused() {
    let endpoint = endpoint(answer("200 OK", "", r#"{"access_token":"at"}"#)).await;
    let strict = TokenClient::new(false).unwrap();
    let refused = strict.refresh(&provider(&endpoint.url, |_| ()), &me(), "old", &|| true).await;
    assert!(matches!(refused, Err(TokenError::Invalid(Flaw::Address))), "{refused:?}");
    let mut tls = endpoint.url.clone();
    tls.set_scheme("https").unwrap();
    let refused = TokenClient::new(true).unwrap().refresh(&provider(&tls, |_| ()), &me(), "old", &|| true).await;
    assert!(matches!(refused, Err(TokenError::Invalid(Flaw::Tls))), "{refused:?}");
    assert!(endpoint.seen.lock().unwrap().iter().all(|seen| !seen.contains("refresh_token")));
}

#[tokio::test]
async fn a_device_code_is_polled_until_the_user_agrees() {
    let started = r#"{"device_code":"dc","user_code":"AB-CD","verification_uri":"https://x.example/d","expires_in":600,"interval":2}"#;
    let client = TokenClient::new(true).unwrap();
    let at = endpoint(answer("200 OK", "", started)).await;
    let code = client.device_start(&provider(&at.url, |_| ()), &me()).await.unwrap();
    assert_eq!((code.user_code.as_str(), code.interval), ("AB-CD", Duration::from_secs(2)));
    let polled = |body: &'static str, status: &'static str| async move {
        let at = endpoint(answer(status, "", body)).await;
        TokenClient::new(true).unwrap().device_poll(&provider(&at.url, |_| ()), &me(), "dc").await.unwrap()
    };
    assert!(matches!(polled(r#"{"error":"authorization_pending"}"#, "400 Bad").await, Polled::Pending));
    assert!(matches!(polled(r#"{"error":"slow_down"}"#, "400 Bad").await, Polled::SlowDown));
    assert!(matches!(polled(r#"{"error":"access_denied"}"#, "400 Bad").await, Polled::Denied));
    assert!(matches!(polled(r#"{"error":"expired_token"}"#, "400 Bad").await, Polled::Expired));
    assert!(matches!(polled(r#"{"access_token":"at"}"#, "200 OK").await, Polled::Done(_)));
}

#[tokio::test]
async fn an_account_is_read_from_an_id_token_that_is_for_us() {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = |audience: &str| URL_SAFE_NO_PAD.encode(format!(r#"{{"aud":"{audience}","sub":"42","email":"ada@example.com"}}"#));
    let body = |audience: &str| format!(r#"{{"access_token":"at","id_token":"e30.{}.sig"}}"#, claims(audience));
    let account = |audience: &'static str| async move {
        let at = endpoint(answer("200 OK", "", &body(audience))).await;
        let (client, provider) = (TokenClient::new(true).unwrap(), provider(&at.url, |_| ()));
        let tokens = client.refresh(&provider, &me(), "old", &|| true).await.unwrap();
        assert!(!format!("{tokens:?}").contains("at\""));
        client.account(&provider, &me(), &tokens).await
    };
    assert_eq!(account("me").await.unwrap().unwrap(), Account { id: "42".into(), shown: "ada@example.com".into() });
    assert!(matches!(account("other").await, Err(TokenError::Invalid(Flaw::Audience))));
}
