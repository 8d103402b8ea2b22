//! What the tests of export and import stand on: files, the command line, and what a node holds.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use schemas::policy::PolicyKind;
use serde_json::{Value, json};
use tests::admin::{IssuedKey, without_use};
use tests::cli::{self, Run};
use tests::{Admin, Launch, Node, World};

#[path = "../../../relay/policy-host/tests/policies/guest.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "the host's tests do more with it")]
mod guest;

/// The second tenant.
pub(crate) const BRAVO: &str = "bravo";
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";

/// Runs `keyrelay` on a node's data directory.
pub(crate) fn keyrelay(node: &Node, words: &[&str]) -> Result<Run> {
    cli::run(cli::command("keyrelay")?.args(words).arg("--data").arg(node.data()))
}

pub(crate) fn passphrase_file(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("passphrase");
    std::fs::write(&path, format!("{PASSPHRASE}\n"))?;
    Ok(path)
}

/// Exports everything under the passphrase.
pub(crate) fn export(node: &Node, directory: &Path, name: &str) -> Result<PathBuf> {
    let (file, passphrase) = (directory.join(name), passphrase_file(directory)?);
    let words = ["export", "--output", path(&file)?, "--passphrase-file", path(&passphrase)?];
    keyrelay(node, &words)?.expect(0)?;
    Ok(file)
}

/// Imports a file without being asked, and gives what was told.
pub(crate) fn import(node: &Node, directory: &Path, file: &Path, words: &[&str]) -> Result<Run> {
    let passphrase = passphrase_file(directory)?;
    let all = ["import", path(file)?, "--yes", "--json", "--passphrase-file", path(&passphrase)?];
    keyrelay(node, &[&all, words].concat())
}

pub(crate) fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

/// A file with other lines, and a head whose digest fits them: worked out here, by the rule that the README gives.
pub(crate) fn rewritten(file: &Path, change: impl Fn(&mut Value)) -> Result<String> {
    let text = std::fs::read_to_string(file)?;
    let (head, lines) = text.split_once('\n').context("a head")?;
    let mut body = String::new();
    for line in lines.lines() {
        let mut line: Value = serde_json::from_str(line)?;
        change(&mut line);
        body += &format!("{line}\n");
    }
    let (before, _) = head.rsplit_once("\"digest\":\"").context("a digest")?;
    let with = |digest: &str| format!("{before}\"digest\":\"{digest}\"}}");
    let mut hasher = blake3::Hasher::new_derive_key("keyrelay 2026 export file v1");
    hasher.update(blake3::hash(body.as_bytes()).as_bytes()).update(with(&"0".repeat(64)).as_bytes());
    Ok(format!("{}\n{body}", with(hasher.finalize().to_hex().as_str())))
}

/// A second, empty node beside a world.
pub(crate) async fn empty_node(directory: &Path, name: &str) -> Result<Node> {
    Launch::new(&directory.join(name)).start().await
}

/// What the world's node holds: something of everything.
pub(crate) struct Furnished {
    pub(crate) plain: IssuedKey,
    /// Whose older secret is still good.
    pub(crate) rotated: IssuedKey,
    pub(crate) newer: String,
    pub(crate) disabled: IssuedKey,
    pub(crate) binding: String,
}

/// Pools, prices, upstreams, keys in all states, a policy and a binding.
pub(crate) async fn furnish(world: &World) -> Result<Furnished> {
    let admin = &world.admin;
    admin.post("/pools", &json!({ "name": "fast" })).await?.success()?;
    let prices = json!({ "prices": [{ "model": "gpt-*", "input": 3_000_000, "output": 15_000_000 }] });
    admin.call(http::Method::PUT, "/api/v1/pools/fast/prices", &[], &prices).await?.success()?;
    let spare = json!({
        "name": "spare", "dialect": "openai", "base_url": world.upstream.openai_url(), "credential": "sk-spare-1", "pool": "fast",
        "priority": 90, "weight": 7, "models": ["gpt-*"], "region": "eu", "tags": ["b", "a"],
    });
    admin.add_upstream_with(&spare).await?;
    let bare = json!({ "name": "bare", "dialect": "anthropic", "base_url": "https://api.example.com" });
    admin.add_upstream_with(&bare).await?;
    admin.post("/upstreams/bare/disable", &json!({ "reason": "no contract yet" })).await?.success()?;
    let rules = json!({
        "description": "for the build", "owner": "ada", "tags": ["ci", "x"], "pools": ["default", "fast"], "models": ["gpt-*"],
        "endpoints": ["chat_completions"], "limits": { "requests_per_minute": 600, "concurrency": 9 },
    });
    let plain = world.key(rules).await?;
    let rotated = world.key(json!({ "name": "rotated" })).await?;
    let answer = admin.post(&format!("/keys/{}/rotate", rotated.id), &json!({ "overlap": "24h" })).await?.success()?;
    let newer = answer["secret"].as_str().context("a secret")?.to_owned();
    let disabled = world.key(json!({ "name": "disabled" })).await?;
    admin.post(&format!("/keys/{}/disable", disabled.id), &json!({ "reason": "on leave" })).await?.success()?;
    let revoked = world.key(json!({ "name": "revoked" })).await?;
    admin.post(&format!("/keys/{}/revoke", revoked.id), &json!({ "reason": "leaked" })).await?.success()?;
    let never = admin.create_key(&json!({ "name": "never", "expires": "never" })).await?;
    admin.post(&format!("/keys/{}/renew", never.id), &json!({ "expires_in": "90d" })).await?.success()?;
    admin.post("/pools", &json!({ "name": "gone" })).await?.success()?;
    world.key(json!({ "name": "left behind", "pools": ["gone", "default"] })).await?;
    admin.call(http::Method::DELETE, "/api/v1/pools/gone", &[], &json!({})).await?.success()?;
    let permitting = guest::Guest::new(PolicyKind::Route).module();
    let policy = admin.upload_policy("route", "open", permitting).await?;
    let digest = policy["policy"]["digest"].as_str().context("a digest")?;
    let of_tenant = json!({ "policy": digest, "scope": { "tenant": "default" }, "mode": "shadow" });
    let bound = admin.post("/bindings", &of_tenant).await?.success()?;
    let binding = bound["binding"]["id"].as_str().context("a binding")?.to_owned();
    let of_key = json!({ "policy": digest, "scope": { "key": plain.id }, "mode": "shadow", "settings": { "n": 1 } });
    admin.post("/bindings", &of_key).await?.success()?;
    admin.post("/tenants", &json!({ "id": BRAVO, "name": "Bravo", "default_expiry": "30d", "expiry_max": "90d" })).await?.success()?;
    let theirs = admin.of_tenant(BRAVO);
    theirs.add_upstream("openai", "openai", &world.upstream.openai_url(), "sk-bravo").await?;
    theirs.create_key(&json!({ "name": "theirs" })).await?;
    admin.post(&format!("/tenants/{BRAVO}/suspend"), &json!({ "reason": "has not paid" })).await?.success()?;
    Ok(Furnished { plain, rotated, newer, disabled, binding })
}

/// What a node holds, without what is its own: versions, and when and by whom a fact was recorded.
pub(crate) async fn holdings(admin: &Admin) -> Result<Value> {
    let tenants = admin.get("/tenants").await?.success()?;
    let tenants = tenants["tenants"].as_array().into_iter().flatten().map(|tenant| own_left_out("tenants", tenant.clone()));
    let tenants: Vec<Value> = tenants.collect();
    Ok(json!({ "tenants": tenants, "default": held(admin).await?, BRAVO: held(&admin.of_tenant(BRAVO)).await? }))
}

/// What a tenant holds.
pub(crate) async fn held(admin: &Admin) -> Result<Value> {
    let mut all = serde_json::Map::new();
    for noun in ["pools", "prices", "upstreams", "keys", "policies", "bindings"] {
        let page = admin.get(&format!("/{noun}{}", if noun == "prices" { "" } else { "?limit=1000" })).await?.success()?;
        let rows =
            page.get(noun).or_else(|| page.get("pools")).and_then(Value::as_array).with_context(|| format!("no {noun} in {page}"))?;
        let mut rows: Vec<Value> = rows.iter().map(|row| own_left_out(noun, row.clone())).collect();
        rows.sort_by_key(ToString::to_string);
        ensure!(!rows.is_empty() || noun == "policies" || noun == "bindings", "no {noun}");
        all.insert(noun.to_owned(), rows.into());
    }
    Ok(all.into())
}

fn own_left_out(noun: &str, mut row: Value) -> Value {
    if noun == "keys" {
        without_use(&mut row);
    }
    if let Some(row) = row.as_object_mut() {
        let own: &[&str] = match noun {
            // The pool that both were founded with has an id of its own in each.
            "pools" | "prices" => &["version", "created_at", "id", "pool"],
            "upstreams" => &["version", "created_at", "credential"],
            "tenants" => &["version", "created_at"],
            "policies" => &["version", "uploaded_at", "uploaded_by"],
            "bindings" => &["version", "created_at", "changed_at"],
            _ => &["version"],
        };
        if let Some(credential) = row.get("credential") {
            let has = !credential.is_null();
            row.insert("has_credential".to_owned(), has.into());
        }
        own.iter().for_each(|name| drop(row.remove(*name)));
        for fact in ["disabled", "revoked", "archived", "suspended"] {
            if let Some(Value::Object(fact)) = row.get_mut(fact) {
                fact.retain(|name, _| name == "reason");
            }
        }
    }
    row
}
