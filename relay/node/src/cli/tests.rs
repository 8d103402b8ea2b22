#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::io::{Read as _, Write as _};

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use keys::KeysCommand;

use super::*;
use crate::config::Secret;

fn parse(line: &str) -> Result<Cli, ErrorKind> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_is_understood() {
    for line in [
        "serve --data d --config f --relay-listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --nats nats://127.0.0.1:4222",
        "config --json",
        "keys create ci --expires-in 30d --pool default --model gpt-* --requests-per-minute 60 --concurrency 4",
        "keys create ci --never-expires --description text --owner me --tag a --tag b --endpoint messages",
        "keys create ci",
        "keys list --limit 5",
        "keys list --search ci --tag a --owner o --state active --pool p --sort last_used_at --order desc --never-expires",
        "keys list --expires-before 2027-01-01T00:00:00Z --unused-since 2026-01-01T00:00:00Z",
        "keys create --count 20 --name-pattern ci-{n:04} --first 5 --output f --expires-in 30d --resume w",
        "keys renew --filter tag=ci --filter state=expired --expires-in 30d --yes",
        "keys disable --ids-file f --reason r --dry-run",
        "keys update --filter tag=ci --tag eu --json",
        "keys enable --ids-file -",
        "keys revoke --filter owner=me --yes",
        "keys show key_x",
        "keys update key_x --name n --no-limits --if-version 3",
        "keys renew key_x --expires-at 2027-01-01T00:00:00Z",
        "keys rotate key_x --overlap 24h --finish-previous",
        "keys disable key_x --reason leaked",
        "keys enable key_x",
        "keys revoke key_x --reason leaked --wait",
        "keys create ci --expires-after-first-use 30d --metadata {} --upstream u --upstream-fallback",
        "keys create ci --never-expires --secret-file - --allow-weak",
        "keys update key_x --no-upstream --metadata {}",
        "keys renew key_x --expires-after-first-use 12h --enable",
        "keys finish-rotation key_x",
        "keys collect key_x --resume w",
        "keys archive key_x --reason left",
        "keys restore key_x",
        "keys purge key_x --json",
        "root-key new --output f",
        "root-key fingerprint f",
        "root-key show",
        "root-key announce f",
        "root-key withdraw f",
        "root-key backup --to f --key g",
        "root-key verify-backup f",
        "root-key destroy f --json",
        "migrate-keys --from f --to - --dry-run",
        "migrate-keys --to f --without-backup --no-wait",
        "nodes",
        "nodes --limit 3 --json",
        "tenants create acme --name Acme --default-expiry 30d --expiry-max 90d",
        "tenants list --limit 3",
        "tenants show acme --json",
        "tenants update acme --name n --no-default-expiry --expiry-max 60d --if-version 3",
        "tenants suspend acme --reason unpaid --wait",
        "tenants resume acme",
        "keys list --tenant acme",
        "--tenant acme usage show",
        "nodes retire node_x",
        "nodes leave",
        "upstreams add a --dialect openai --base-url http://127.0.0.1:9/v1 --credential-file - --priority 1 --weight 2 --pool p",
        "upstreams list",
        "upstreams show a",
        "upstreams update a --no-credential --base-url http://x",
        "upstreams update a --region eu --tag cheap --tag fast",
        "upstreams disable a --reason r",
        "upstreams enable a",
        "upstreams remove a",
        "upstreams test a",
        "upstreams rotate a --credential-file - --if-older-than 7d --grace 48h --window 24h --unused-after 10m --reason r",
        "upstreams rotate a --if-due --compromise --rotation rot_mfrggzdfmztwq2lknnwg23tpoa",
        "upstreams rotate a --status",
        "upstreams rotate a --advance --to dual",
        "upstreams rotate a --rollback --rotation rot_mfrggzdfmztwq2lknnwg23tpoa",
        "upstreams rotate a --abort",
        "pools create p",
        "pools list",
        "pools show p",
        "pools update p --name q",
        "pools remove p",
        "policy upload m.wasm --kind route --name cheapest --class slow",
        "policy upload - --kind expiry",
        "policy upload m.wasm",
        "policy list --limit 3",
        "policy show 0123abcd",
        "policy bind 0123abcd --tenant",
        "policy bind 0123abcd --tenant default --mode shadow",
        "--tenant acme policy bind 0123abcd --pool p",
        "policy bind 0123abcd --pool p --mode canary --canary-percent 10 --on-fault skip --settings {}",
        "policy bind 0123abcd --key key_x --settings @file",
        "policy bindings",
        "policy bindings bind_x --json",
        "policy update bind_x --policy 4567abcd --mode off --if-version 3",
        "policy rollback bind_x --if-version 3",
        "policy unbind bind_x",
        "compile-policy --class fast",
        "prices set p - --if-version 2",
        "prices show",
        "prices show p --json",
        "usage show --group-by model --from 2026-11-01 --to 2026-11-30",
        "usage explain req_x",
        "log head",
        "log read --from 5 --limit 10 --stream key_x",
        "log read --follow",
        "log verify --offline --data d",
        "log rebuild --judge",
        "log migrate --to-nats nats://a:4222,nats://b:4222 --data d",
        "log migrate --to-embedded --nats nats://a:4222 --data d",
        "log migrate --to-embedded --config f",
        "migrate-expiry --dry-run",
        "migrate-expiry --days 90 --yes --json",
        "audit export d --admin-url http://x",
        "audit verify d",
        "version",
    ] {
        assert!(parse(&format!("keyrelay {line}")).is_ok(), "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for (line, kind) in [
        ("keys create ci --never-expires --expires-in 1d", ErrorKind::ArgumentConflict),
        ("keys update k --no-limits --concurrency 1", ErrorKind::ArgumentConflict),
        ("keys renew --expires-in 1d", ErrorKind::MissingRequiredArgument),
        ("keys renew key_x --filter tag=a --expires-in 1d", ErrorKind::ArgumentConflict),
        ("keys revoke --filter tag=a --wait", ErrorKind::ArgumentConflict),
        ("keys create ci --count 2 --name-pattern ci-{n} --never-expires", ErrorKind::ArgumentConflict),
        ("keys create --count 2 --never-expires", ErrorKind::MissingRequiredArgument),
        ("tenants create", ErrorKind::MissingRequiredArgument),
        ("tenants update acme --no-expiry-max --expiry-max 1d", ErrorKind::ArgumentConflict),
        ("upstreams update a --no-credential --credential x", ErrorKind::ArgumentConflict),
        ("upstreams rotate a --credential x", ErrorKind::UnknownArgument),
        ("upstreams rotate a --advance --abort", ErrorKind::ArgumentConflict),
        ("upstreams rotate a --rollback --grace 1d", ErrorKind::ArgumentConflict),
        ("upstreams rotate a --to dual", ErrorKind::MissingRequiredArgument),
        ("log read --follow --limit 3", ErrorKind::ArgumentConflict),
        ("log migrate", ErrorKind::MissingRequiredArgument),
        ("log migrate --to-nats nats://a:4222 --to-embedded", ErrorKind::ArgumentConflict),
        ("log migrate --to-nats nats://a:4222 --nats nats://b:4222", ErrorKind::ArgumentConflict),
        ("policy upload m.wasm --kind colour", ErrorKind::InvalidValue),
        ("policy bind 0123abcd", ErrorKind::MissingRequiredArgument),
        ("policy bind 0123abcd --tenant --pool p", ErrorKind::ArgumentConflict),
        ("policy bind 0123abcd --pool p --canary-percent 100", ErrorKind::ValueValidation),
        ("audit verify d --cluster-key 12", ErrorKind::ValueValidation),
        ("usage show --group-by colour", ErrorKind::InvalidValue),
        ("heal", ErrorKind::InvalidSubcommand),
    ] {
        assert_eq!(parse(&format!("keyrelay {line}")).unwrap_err(), kind, "{line}");
    }
}

#[test]
fn the_admin_address_comes_from_the_flag_the_environment_or_the_data_directory() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("owner.token"), "from-file\n").unwrap();
    let global =
        |url: Option<&str>| Global { json: false, data: Some(data.path().to_owned()), admin_url: url.map(str::to_owned), tenant: None };
    let find = |url, environment: &[(&str, &str)]| {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let access = Access::find(&global(url), &environment).unwrap();
        (access.url.to_string(), access.token.expose().as_str().to_owned())
    };
    assert_eq!(find(None, &[]), ("http://127.0.0.1:8081/".to_owned(), "from-file".to_owned()));
    std::fs::write(data.path().join("admin.address"), "http://127.0.0.1:7\n").unwrap();
    assert_eq!(find(None, &[]).0, "http://127.0.0.1:7/");
    assert_eq!(find(None, &[("KEYRELAY_ADMIN_URL", "https://e"), ("KEYRELAY_TOKEN", "t")]), ("https://e/".to_owned(), "t".to_owned()));
    assert_eq!(find(Some("http://flag:1"), &[("KEYRELAY_ADMIN_URL", "https://e")]).0, "http://flag:1/");
    assert!(Access::find(&global(Some("ftp://x")), &BTreeMap::new()).is_err());
}

#[test]
fn the_tenant_comes_from_the_flag_wherever_it_stands_or_the_environment() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("owner.token"), "from-file\n").unwrap();
    let find = |line: &str, set: &[(&str, &str)]| {
        let line = format!("keyrelay {line} --data {}", data.path().display());
        let environment = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Access::find(&parse(&line).unwrap().global, &environment).unwrap().tenant
    };
    let named = Some("acme".to_owned());
    assert_eq!(find("keys list", &[]), None);
    assert_eq!(find("keys list", &[("KEYRELAY_TENANT", "acme")]), named);
    for line in ["--tenant acme keys list", "keys list --tenant acme", "--tenant acme policy bind 0123abcd --pool p"] {
        assert_eq!(find(line, &[("KEYRELAY_TENANT", "other")]), named, "{line}");
    }
    assert_eq!(find("policy bind 0123abcd --tenant acme", &[]), named);
    // Without a name it is the scope alone, and whose is said elsewhere.
    assert_eq!(find("policy bind 0123abcd --tenant", &[("KEYRELAY_TENANT", "acme")]), named);
    assert_eq!(find("policy bind 0123abcd --tenant", &[]), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collect_that_goes_on_is_the_same_call() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let node = std::thread::spawn(move || {
        let (mut stream, mut request) = (listener.accept().unwrap().0, Vec::new());
        while !request.ends_with(b"{}") {
            let mut bytes = [0; 1024];
            let length = stream.read(&mut bytes).unwrap();
            assert!(length > 0, "the request broke off");
            request.extend_from_slice(&bytes[..length]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        String::from_utf8(request).unwrap()
    });
    let client = Client::new(Access { url, token: Secret::new("t"), tenant: None }).unwrap();
    let command = KeysCommand::Collect { id: "key_x".into(), resume: Some("word".into()) };
    keys::run(command, &client, &mut Output::new(true)).await.unwrap();
    let request = node.join().unwrap();
    assert!(request.starts_with("POST /api/v1/keys/key_x/successor ") && request.contains("idempotency-key: word\r\n"), "{request}");
}
