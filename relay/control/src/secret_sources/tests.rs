//! Against stand-ins: servers of our own that answer what the documents of the real ones say, and nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use schemas::Timestamp;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::{AwsKeys, Exchange, KvLogin, KvStore, SecretSource, SecretsManager, SourceError, Unsafe};

/// 2015-08-30 12:36:00 UTC.
const NOW: Timestamp = Timestamp::from_micros(1_440_938_160_000_000);

/// A KV store whose token is good until it is taken away; it counts logins.
#[derive(Clone, Default)]
struct StandIn {
    logins: Arc<AtomicU32>,
    secrets: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl StandIn {
    fn token(&self) -> String {
        format!("hvs.{}", self.logins.load(Ordering::SeqCst))
    }

    /// Puts the next version of a secret; null deletes it.
    fn put(&self, path: &str, version: u32, data: Value) {
        let body = json!({ "data": { "data": data, "metadata": { "version": version, "destroyed": false } } });
        self.secrets.lock().unwrap().insert(path.to_owned(), body);
    }
}

async fn listen(router: Router) -> Url {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a server of a test ends with its runtime")]
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}").parse().unwrap()
}

async fn log_in(State(state): State<StandIn>, headers: HeaderMap, Json(body): Json<Value>) -> Result<Json<Value>, StatusCode> {
    let is_known = body == json!({ "role_id": "relay", "secret_id": "s3cret" }) || body == json!({ "role": "relay", "jwt": "pod-token" });
    if !is_known || headers.get("x-vault-namespace").is_none_or(|namespace| namespace != "team-a") {
        return Err(StatusCode::BAD_REQUEST);
    }
    state.logins.fetch_add(1, Ordering::SeqCst);
    Ok(Json(json!({ "auth": { "client_token": state.token(), "lease_duration": 3600, "renewable": true } })))
}

async fn read(State(state): State<StandIn>, Path(path): Path<String>, headers: HeaderMap) -> (StatusCode, Json<Value>) {
    if headers.get("x-vault-token").is_none_or(|token| *token != *state.token()) {
        return (StatusCode::FORBIDDEN, Json(json!({ "errors": ["permission denied"] })));
    }
    let secrets = state.secrets.lock().unwrap();
    let Some(body) = secrets.get(&path) else { return (StatusCode::NOT_FOUND, Json(json!({ "errors": [] }))) };
    // The newest version deleted is 404 with its metadata.
    let status = if body["data"]["data"].is_null() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    (status, Json(body.clone()))
}

async fn kv(login: KvLogin) -> (StandIn, SecretSource) {
    let state = StandIn::default();
    let router = Router::new()
        .route("/v1/auth/approle/login", post(log_in))
        .route("/v1/auth/kubernetes/login", post(log_in))
        .route("/v1/kv/data/{*path}", get(read))
        .with_state(state.clone());
    let store = KvStore::new(Exchange::new(None).unwrap(), listen(router).await, Some("team-a".to_owned()), login);
    (state, SecretSource::Kv(store))
}

fn app_role() -> KvLogin {
    KvLogin::AppRole { mount: "approle".to_owned(), role_id: "relay".to_owned(), secret_id: Zeroizing::new("s3cret".to_owned()) }
}

async fn value(source: &SecretSource, reference: &str) -> Result<(String, String), SourceError> {
    source.read(&reference.parse().unwrap(), NOW).await.map(|secret| (secret.value.to_string(), secret.version))
}

#[tokio::test]
async fn a_secret_is_read_with_one_login_and_again_after_the_token_is_gone() {
    let (state, source) = kv(app_role()).await;
    state.put("llm/openai", 3, json!({ "api_key": "sk-one\n", "owner": "ada" }));
    let expected = ("sk-one".to_owned(), "3".to_owned());
    assert_eq!(value(&source, "vault:kv/llm/openai#api_key").await.unwrap(), expected);
    assert_eq!(value(&source, "vault:kv/llm/openai#api_key").await.unwrap(), expected);
    assert_eq!(state.logins.load(Ordering::SeqCst), 1);
    // The token that we hold is not the newest any more.
    state.logins.fetch_add(1, Ordering::SeqCst);
    assert_eq!(value(&source, "vault:kv/llm/openai#api_key").await.unwrap(), expected);
    assert_eq!(state.logins.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_pod_logs_in_with_the_token_of_its_service_account() {
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, "pod-token\n").unwrap();
    let (state, source) = kv(KvLogin::Kubernetes { mount: "kubernetes".to_owned(), role: "relay".to_owned(), token_file }).await;
    state.put("openai", 1, json!({ "api_key": "sk-one" }));
    assert_eq!(value(&source, "vault:kv/openai").await.unwrap().0, "sk-one");
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let (state, source) = kv(app_role()).await;
    state.put("two", 1, json!({ "a": "x", "b": 1 }));
    state.put("gone", 2, Value::Null);
    state.put("void", 1, json!({ "a": " " }));
    assert!(matches!(value(&source, "vault:kv/none").await, Err(SourceError::Missing)));
    assert!(matches!(value(&source, "vault:kv/gone").await, Err(SourceError::Missing)));
    assert!(matches!(value(&source, "vault:kv/two").await, Err(SourceError::FieldNeeded)));
    assert!(matches!(value(&source, "vault:kv/two#b").await, Err(SourceError::Field(name)) if name == "b"));
    assert!(matches!(value(&source, "vault:kv/void").await, Err(SourceError::Empty)));
    let (_, denied) = kv(KvLogin::Token(Zeroizing::new("hvs.other".to_owned()))).await;
    assert!(matches!(value(&denied, "vault:kv/two").await, Err(SourceError::Denied(_))));
}

/// Answers as Secrets Manager does, to requests of the right shape.
async fn secrets_manager(headers: HeaderMap, body: axum::body::Bytes) -> (StatusCode, Json<Value>) {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let signed = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target";
    let is_ours = header("authorization").contains("Credential=AKIDEXAMPLE/20150830/eu-central-1/secretsmanager/aws4_request")
        && header("authorization").contains(signed)
        && header("x-amz-date") == "20150830T123600Z"
        && header("x-amz-security-token") == "session"
        && header("x-amz-target") == "secretsmanager.GetSecretValue";
    if !is_ours {
        return (StatusCode::BAD_REQUEST, Json(json!({ "__type": "InvalidSignatureException" })));
    }
    match (body["SecretId"].as_str(), body["VersionStage"].as_str()) {
        (Some("openai"), Some("AWSCURRENT")) => {
            (StatusCode::OK, Json(json!({ "SecretString": "{\"api_key\":\"sk-old\"}", "VersionId": "v1" })))
        }
        (Some("openai"), Some("AWSPENDING")) => {
            (StatusCode::OK, Json(json!({ "SecretString": "{\"api_key\":\"sk-new\"}", "VersionId": "v2" })))
        }
        (Some("text"), Some("AWSCURRENT")) => (StatusCode::OK, Json(json!({ "SecretString": "sk-text", "VersionId": "v1" }))),
        _ => (StatusCode::BAD_REQUEST, Json(json!({ "__type": "x#ResourceNotFoundException", "Message": "secret text" }))),
    }
}

#[tokio::test]
async fn secrets_manager_is_asked_for_a_stage_of_a_secret() {
    let endpoint = listen(Router::new().route("/", post(secrets_manager))).await;
    let keys = AwsKeys {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: Zeroizing::new("secret".to_owned()),
        session_token: Some(Zeroizing::new("session".to_owned())),
    };
    let store = SecretsManager::new(Exchange::new(None).unwrap(), "eu-central-1".to_owned(), Some(endpoint), keys).unwrap();
    let source = SecretSource::Aws(store);
    let pair = |value: &str, version: &str| (value.to_owned(), version.to_owned());
    assert_eq!(value(&source, "aws:openai#api_key").await.unwrap(), pair("sk-old", "v1"));
    assert_eq!(value(&source, "aws:openai#api_key@AWSPENDING").await.unwrap(), pair("sk-new", "v2"));
    assert_eq!(value(&source, "aws:text").await.unwrap(), pair("sk-text", "v1"));
    assert!(matches!(value(&source, "aws:text#api_key").await, Err(SourceError::Field(_))));
    let missing = value(&source, "aws:none").await.unwrap_err();
    assert!(matches!(missing, SourceError::Missing) && !missing.to_string().contains("secret text"));
}

#[tokio::test]
async fn a_name_of_the_metadata_address_is_not_spoken_to() {
    let url: Url = "https://169.254.169.254".parse().unwrap();
    let store = KvStore::new(Exchange::new(None).unwrap(), url, None, KvLogin::Token(Zeroizing::default()));
    let refused = value(&SecretSource::Kv(store), "vault:kv/x").await;
    assert!(matches!(refused, Err(SourceError::Address(Unsafe::LinkLocal))));
}
