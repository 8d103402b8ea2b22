//! Reports of client keys that were found in the open: who may make them, and what comes of them.

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use aws_lc_rs::{digest, hmac};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control::{Commands, LeakConfig, LeakIntake};
use http_body_util::BodyExt as _;
use schemas::key::{ImportedSecret, KeyCommand, KeyDetails, KeyImport, LeakAction, METADATA_EMPTY, SecretScheme, Term};
use schemas::{Actor, Command, CommandId, Digest, KeyId, PoolId, Stream, TenantId, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;
use vault::{Entry, KeyStore as _, RootKey};
use zeroize::Zeroizing;

use crate::shaky::{Gate, Turn};
use crate::world::{Node, World};

const SECRET: &str = "a secret that our own scanners sign with";

/// A scanner as GitHub is one: it signs, and publishes its public keys.
struct Scanner {
    pair: EcdsaKeyPair,
    id: &'static str,
}

impl Scanner {
    fn new(id: &'static str) -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(), id }
    }

    fn pem(&self) -> String {
        let der = self.pair.public_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The header fields of a report with this body.
    fn fields(&self, body: &str) -> Vec<(&'static str, String)> {
        let signature = self.pair.sign(&SystemRandom::new(), body.as_bytes()).unwrap();
        vec![("Github-Public-Key-Identifier", self.id.to_owned()), ("Github-Public-Key-Signature", STANDARD.encode(signature))]
    }
}

/// A node that takes reports of this scanner and of own ones.
async fn node(scanner: &Scanner, action: LeakAction) -> (World, Node, TempDir) {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let list = json!({ "public_keys": [{ "key_identifier": scanner.id, "key": scanner.pem(), "is_current": true }] });
    std::fs::write(keys.path(), list.to_string()).unwrap();
    let config = LeakConfig { action, keys_file: Some(keys.path().to_owned()), secret: Some(Zeroizing::new(SECRET.to_owned())) };
    let world = World { leaks: LeakIntake::open(config).unwrap().map(Arc::new), ..World::default() };
    let (node, data) = world.node(&RootKey::generate().unwrap()).await;
    (world, node, data)
}

/// Sends a report as anybody can, without the owner's token.
async fn report(node: &Node, fields: &[(&str, String)], body: &str) -> (StatusCode, Value) {
    let mut request = Request::builder().method("POST").uri("/api/v1/leaks");
    for (name, value) in fields {
        request = request.header(*name, value);
    }
    let answer = node.router().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    (head.status, serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap())
}

async fn created(node: &Node, body: Value) -> (String, String) {
    let answer = node.call("POST", "/api/v1/keys", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&answer.body["key"]["id"]), text(&answer.body["secret"]))
}

async fn key(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/v1/keys/{id}")).await.body["key"].clone()
}

fn found(token: &str) -> Value {
    json!({ "token": token, "type": "keyrelay_client_key", "url": "https://github.example/octocat/Hello/blob/1/a.py", "source": "content" })
}

fn hash(token: &str) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, token.as_bytes()))
}

fn labelled(token: &str, label: &str) -> Value {
    json!({ "token_hash": hash(token), "token_type": "keyrelay_client_key", "label": label })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_report_quarantines_each_live_key_once_and_tells_true_from_false() {
    let scanner = Scanner::new("90a4");
    let (world, node, _data) = node(&scanner, LeakAction::Disable).await;
    let (issued, secret) = created(&node, json!({ "name": "issued", "expires": "never" })).await;
    let brought_secret = "cr_4f1c9a7e03b8d2566e1f9b0c8a7d3e2f4f1c9a7e03b8d2566e1f9b0c8a7d3e2f";
    let (brought, _) = created(&node, json!({ "name": "brought", "expires": "never", "secret": brought_secret })).await;
    let unknown = "sk-proj-9aKq7Lm2Vx5Rt8Yw1Zc4Bn6Df3Gh0Js";
    let body = json!([found(&secret), found(unknown), found(brought_secret), found(&secret), found("")]).to_string();

    let (status, answer) = report(&node, &scanner.fields(&body), &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (known, not) = ("true_positive", "false_positive");
    let expected =
        [labelled(&secret, known), labelled(unknown, not), labelled(brought_secret, known), labelled(&secret, known), labelled("", not)];
    assert_eq!(answer, json!(expected));
    for id in [&issued, &brought] {
        let key = key(&node, id).await;
        assert_eq!(key["state"], "disabled");
        assert_eq!(key["disabled"]["by"], json!({ "node": node.id }));
        assert_eq!(key["disabled"]["reason"], "leaked: found by github/90a4 in content");
        let leak = &key["leaks"][0];
        assert_eq!((&leak["number"], &leak["scanner"], &leak["source"]), (&json!(1), &json!("github/90a4"), &json!("content")));
        assert_eq!(leak["url"], "https://github.example/octocat/Hello/blob/1/a.py");
    }

    // The same again changes nothing, not even after the operator has let the key in again.
    let enabled = node.call("POST", &format!("/api/v1/keys/{issued}/enable"), json!({})).await;
    assert_eq!(enabled.status, StatusCode::OK);
    let head = world.log.true_head().await;
    let (again, answer) = report(&node, &scanner.fields(&body), &body).await;
    assert_eq!((again, &answer), (StatusCode::OK, &json!(expected)));
    assert_eq!(world.log.true_head().await, head);
    assert_eq!(key(&node, &issued).await["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_configured_is_heard() {
    let (scanner, stranger) = (Scanner::new("90a4"), Scanner::new("90a4"));
    let (world, node, _data) = node(&scanner, LeakAction::Revoke).await;
    let (id, secret) = created(&node, json!({ "name": "ci", "expires": "never" })).await;
    let body = json!([found(&secret)]).to_string();
    let other_body = json!([found(&secret), found("x")]).to_string();
    let tag = |secret: &str, body: &str| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body.as_bytes());
        let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        vec![("Keyrelay-Signature", format!("sha256={digits}"))]
    };
    let head = world.log.true_head().await;
    let mut unknown_id = scanner.fields(&body);
    unknown_id[0].1 = "beef".to_owned();
    let mut both = scanner.fields(&body);
    both.extend(tag(SECRET, &body));
    let wrong = [
        vec![],
        stranger.fields(&body),
        scanner.fields(&other_body),
        unknown_id,
        vec![("Github-Public-Key-Identifier", "90a4".to_owned())],
        vec![("authorization", format!("Bearer {}", crate::world::TOKEN))],
        tag("another secret that nobody has configured", &body),
        tag(SECRET, &other_body),
        vec![("Keyrelay-Signature", "sha256=é".to_owned())],
        both,
    ];
    for fields in wrong {
        let (status, answer) = report(&node, &fields, &body).await;
        assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &json!("bad_signature")), "{fields:?}");
    }
    assert_eq!(world.log.true_head().await, head);
    assert_eq!(key(&node, &id).await["state"], "active");

    for (body, expected) in
        [("{}", "bad_request"), ("[{\"token\":1}]", "bad_request"), (&*json!(vec![found("x"); 1001]).to_string(), "bad_request")]
    {
        let (status, answer) = report(&node, &scanner.fields(body), body).await;
        assert_eq!((status, &answer["code"]), (StatusCode::BAD_REQUEST, &json!(expected)), "{answer}");
    }
    let large = " ".repeat(1024 * 1024 + 1);
    assert_eq!(report(&node, &scanner.fields(&large), &large).await.0, StatusCode::PAYLOAD_TOO_LARGE);

    // A scanner of one's own; and a revoked key is told as what it is.
    for fields in [tag(SECRET, &body), scanner.fields(&body)] {
        assert_eq!(report(&node, &fields, &body).await, (StatusCode::OK, json!([labelled(&secret, "true_positive")])));
    }
    let key = key(&node, &id).await;
    assert_eq!((&key["state"], &key["revoked"]["reason"]), (&json!("revoked"), &json!("leaked: found by own in content")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_before_the_current_one_counts_while_it_is_good() {
    let scanner = Scanner::new("90a4");
    let (_world, node, _data) = node(&scanner, LeakAction::Revoke).await;
    let (id, first) = created(&node, json!({ "name": "ci", "expires": "never" })).await;
    let path = format!("/api/v1/keys/{id}/rotate");
    let rotate = |overlap: &str| node.call("POST", &path, json!({ "overlap": overlap }));
    assert_eq!(rotate("0s").await.status, StatusCode::OK);
    let body = json!([found(&first)]).to_string();
    // It is good no more: a true positive, and nothing to do.
    assert_eq!(report(&node, &scanner.fields(&body), &body).await.1, json!([labelled(&first, "true_positive")]));
    assert_eq!(key(&node, &id).await["state"], "active");

    let second = rotate("1h").await.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(rotate("1h").await.status, StatusCode::CONFLICT);
    let third = node.call("POST", &path, json!({ "overlap": "1h", "finish_previous": true })).await;
    assert_eq!(third.status, StatusCode::OK);
    let body = json!([found(&second)]).to_string();
    assert_eq!(report(&node, &scanner.fields(&body), &body).await.1, json!([labelled(&second, "true_positive")]));
    let key = key(&node, &id).await;
    assert_eq!((&key["state"], &key["leaks"][0]["number"]), (&json!("revoked"), &json!(3)));
}

/// A key that another system made, in this cluster.
struct Older<'a> {
    node: &'a Node,
    id: KeyId,
    secret: &'static str,
    /// What that system hashed behind the secret.
    salt: &'static str,
    version: u32,
}

impl Older<'_> {
    fn hash(&self) -> Digest {
        let text = format!("{}{}", self.secret, self.salt);
        Digest::from_bytes(digest::digest(&digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap())
    }

    /// The key as that system's file says; onto one that is there, as a forced import does it.
    fn import(&self) -> KeyCommand {
        let scheme = SecretScheme::ClaudeRelayService { salt: self.version };
        KeyCommand::Import(Box::new(KeyImport {
            details: KeyDetails { name: "older".into(), pools: vec![PoolId::from_bytes([1; 16])], ..KeyDetails::default() },
            metadata: METADATA_EMPTY.into(),
            dedicated: None,
            rotation: None,
            secrets: vec![ImportedSecret { number: 1, hash: self.hash(), scheme, valid_until: None }],
            term: Term::Never,
            first_used_at: None,
            created_at: Timestamp::from_micros(1),
            renewed_at: None,
            rotated_at: None,
            expired_at: None,
            disabled: None,
            revoked: None,
            archived: None,
        }))
    }

    /// As a gateway says it on the first use.
    fn upgrade(&self) -> KeyCommand {
        let (hash, pepper) = self.node.vault.client_key_hash(self.secret);
        KeyCommand::UpgradeSecret { number: 1, from: self.hash(), hash, pepper }
    }

    async fn does(&self, step: &str, command: KeyCommand) {
        let (tenant, actor) = (TenantId::default_tenant(), Actor::Owner);
        let request = control::Request {
            command_id: CommandId::of(&tenant, &actor, &format!("{step} {}", self.id)),
            stream: Stream::key(tenant, self.id),
            command: Command::Key(command),
            actor,
            request_digest: Digest::blake3(step.as_bytes()),
            if_version: None,
            deadline: Commands::deadline(),
        };
        assert!(self.node.commands.execute(request).await.unwrap().recorded, "{step}");
    }

    async fn state(&self) -> Value {
        key(self.node, &self.id.to_string()).await["state"].clone()
    }
}

const LITELLM: &str = "sk-litellm-4f1c9a7e03b8d2566e1f9b0c";

fn older<'a>(node: &'a Node, n: u8, secret: &'static str) -> Older<'a> {
    Older { node, id: KeyId::from_bytes([n; 16]), secret, salt: "", version: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_set_back_to_its_old_hash_is_disabled() {
    let scanner = Scanner::new("90a4");
    let (_world, node, _data) = node(&scanner, LeakAction::Disable).await;
    let older = older(&node, 1, LITELLM);
    older.does("import", older.import()).await;
    older.does("upgrade", older.upgrade()).await;
    older.does("set back", older.import()).await;
    let body = json!([found(LITELLM)]).to_string();
    assert_eq!(report(&node, &scanner.fields(&body), &body).await, (StatusCode::OK, json!([labelled(LITELLM, "true_positive")])));
    assert_eq!(older.state().await, "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_upgraded_under_way_is_found_by_its_new_hash() {
    let scanner = Scanner::new("90a4");
    let (world, node, _data) = node(&scanner, LeakAction::Disable).await;
    let older = older(&node, 1, LITELLM);
    older.does("import", older.import()).await;
    let (body, gate) = (json!([found(LITELLM)]).to_string(), Gate::default());
    world.log.next_appends([Turn::Held(gate.clone())]);
    let fields = scanner.fields(&body);
    let upgraded = async {
        gate.reached().await;
        older.does("upgrade", older.upgrade()).await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(report(&node, &fields, &body), upgraded);
    assert_eq!(answer, (StatusCode::OK, json!([labelled(LITELLM, "true_positive")])));
    assert_eq!(older.state().await, "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_other_systems_are_found_however_short_and_before_their_first_use() {
    let scanner = Scanner::new("90a4");
    let (_world, node, _data) = node(&scanner, LeakAction::Disable).await;
    let (short, used) = (older(&node, 1, "sk-1234"), older(&node, 2, "sk-5678"));
    let version = node.vault.seal_salt(b"an ENCRYPTION_KEY", Timestamp::from_micros(1)).unwrap();
    let salted = Older { salt: "an ENCRYPTION_KEY", version, ..older(&node, 3, "cr_4f1c9a7e03b8d2566e1f9b0c8a7d3e2f") };
    let all = [&short, &used, &salted];
    for one in all {
        one.does("import", one.import()).await;
    }
    used.does("upgrade", used.upgrade()).await;
    let body = json!(all.map(|one| found(one.secret))).to_string();
    let expected = json!(all.map(|one| labelled(one.secret, "true_positive")));
    assert_eq!(report(&node, &scanner.fields(&body), &body).await, (StatusCode::OK, expected));
    for one in all {
        assert_eq!(one.state().await, "disabled", "{}", one.secret);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_import_leaves_a_leaked_key_disabled_and_says_so() {
    let scanner = Scanner::new("90a4");
    let (_world, node, _data) = node(&scanner, LeakAction::Disable).await;
    let (id, secret) = created(&node, json!({ "name": "ci", "expires": "never" })).await;
    let fields = [("keyrelay-passphrase", "a passphrase that is long enough for this")];
    let (head, file) = node.exchange("GET", "/api/v1/export?types=keys", &fields, Vec::new()).await;
    assert_eq!(head.status, StatusCode::OK);
    let body = json!([found(&secret)]).to_string();
    assert_eq!(report(&node, &scanner.fields(&body), &body).await.0, StatusCode::OK);

    let (head, told) = node.exchange("POST", "/api/v1/import?on_conflict=force", &fields, file.to_vec()).await;
    assert_eq!(head.status, StatusCode::OK, "{}", String::from_utf8_lossy(&told));
    let told: Vec<Value> = told.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let item = told.iter().find(|line| line["id"] == id).unwrap();
    assert_eq!(item["detail"], "stays disabled: a secret of it was found in the open", "{told:?}");
    assert_eq!(key(&node, &id).await["state"], "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_told_is_acted_on_while_a_salt_cannot_be_read() {
    let scanner = Scanner::new("90a4");
    let (world, node, _data) = node(&scanner, LeakAction::Disable).await;
    let (issued, secret) = created(&node, json!({ "name": "issued", "expires": "never" })).await;
    let (other, other_secret) = created(&node, json!({ "name": "other", "expires": "never" })).await;
    let version = node.vault.seal_salt(b"an ENCRYPTION_KEY", Timestamp::from_micros(1)).unwrap();
    let salted = Older { salt: "an ENCRYPTION_KEY", version, ..older(&node, 1, "cr_4f1c9a7e03b8d2566e1f9b0c8a7d3e2f") };
    salted.does("import", salted.import()).await;
    let sealed = world.store.scan(Entry::Sealed, None, 1000).unwrap();
    let (slot, good) = sealed.into_iter().find(|(slot, _)| slot.field == "salt").unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let put = |from: &[u8], to: &[u8]| {
        world.store.delete_sealed(&slot, from).unwrap();
        world.store.put_sealed(&slot, to).unwrap();
    };
    put(&good, &bad);

    let body = json!([found(salted.secret), found(&secret)]).to_string();
    let (status, answer) = report(&node, &scanner.fields(&body), &body).await;
    assert_eq!((status, &answer["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("key_store_unavailable")), "{answer}");
    assert_eq!((key(&node, &issued).await["state"].clone(), salted.state().await), (json!("disabled"), json!("active")));
    // Where nothing is left to be told, all is well.
    let body_of_ours = json!([found(&other_secret)]).to_string();
    let answer = report(&node, &scanner.fields(&body_of_ours), &body_of_ours).await;
    assert_eq!(answer, (StatusCode::OK, json!([labelled(&other_secret, "true_positive")])));
    assert_eq!(key(&node, &other).await["state"], "disabled");

    put(&bad, &good);
    let (status, answer) = report(&node, &scanner.fields(&body), &body).await;
    let expected = json!([labelled(salted.secret, "true_positive"), labelled(&secret, "true_positive")]);
    assert_eq!((status, answer), (StatusCode::OK, expected));
    assert_eq!(salted.state().await, "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_in_where_no_scanner_is_configured_and_bad_keys_are_refused_at_start() {
    let world = World::default();
    let (node, _data) = world.node(&RootKey::generate().unwrap()).await;
    assert_eq!(report(&node, &[], "[]").await.0, StatusCode::NOT_FOUND);

    let file = tempfile::NamedTempFile::new().unwrap();
    let open = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        let config = LeakConfig { action: LeakAction::Revoke, keys_file: Some(file.path().to_owned()), secret: None };
        LeakIntake::open(config).map(|intake| intake.is_some())
    };
    let pem = Scanner::new("x").pem();
    let list = |id: &str, pem: &str| json!({ "public_keys": [{ "key_identifier": id, "key": pem }] }).to_string();
    assert!(open(&list("x", &pem)).unwrap());
    for wrong in ["", "[]", "{\"public_keys\":[]}", &list("x", "no key"), &list("", &pem), &list("x", &pem.replace("PUBLIC", "PRIVATE"))] {
        assert!(open(wrong).is_err(), "{wrong}");
    }
    let short = LeakConfig { action: LeakAction::Revoke, keys_file: None, secret: Some(Zeroizing::new("short".to_owned())) };
    assert!(LeakIntake::open(short).is_err());
}
