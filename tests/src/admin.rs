//! The REST API of a node, as an operator's script would call it.

use anyhow::{Context as _, Result};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::http::{Answer, Field, Http, Streaming};
use crate::wait;

/// A client of the admin listener that shows the owner's token.
#[derive(Clone)]
pub struct Admin {
    http: Http,
    origin: String,
    authorization: String,
    /// The tenant that requests name; none leaves it to the node.
    tenant: Option<String>,
}

/// What a request for a key answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedKey {
    pub id: String,
    pub secret: String,
    pub version: u64,
    pub sequence: u64,
}

/// One row of `GET /usage`, as far as every grouping has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

impl Admin {
    pub fn new(origin: &str, token: &str) -> Self {
        Self { http: Http::default(), origin: origin.to_owned(), authorization: format!("Bearer {token}"), tenant: None }
    }

    /// The same client, acting in another tenant.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self.clone() }
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Any request, path with its prefix.
    pub async fn call(&self, method: Method, path: &str, fields: &[Field<'_>], body: &Value) -> Result<Answer> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.send(method, path, &[&[("content-type", "application/json")], fields].concat(), body).await
    }

    /// Any request, with any bytes.
    pub async fn send(&self, method: Method, path: &str, fields: &[Field<'_>], body: Vec<u8>) -> Result<Answer> {
        let own = [("authorization", self.authorization.as_str())];
        let tenant: Vec<Field<'_>> = self.tenant.iter().map(|tenant| ("keyrelay-tenant", tenant.as_str())).collect();
        self.http.call(method, &format!("{}{path}", self.origin), &[&own, tenant.as_slice(), fields].concat(), body).await
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, &format!("/api/v1{path}"), &[], &Value::Null).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.call(Method::POST, &format!("/api/v1{path}"), &[], body).await
    }

    /// A request that may be repeated.
    pub async fn post_once(&self, path: &str, body: &Value, idempotency_key: &str) -> Result<Answer> {
        self.call(Method::POST, &format!("/api/v1{path}"), &[("idempotency-key", idempotency_key)], body).await
    }

    /// The same, with the answer as it comes.
    pub async fn open_once(&self, path: &str, body: &Value, idempotency_key: &str) -> Result<Streaming> {
        let fields = [("authorization", self.authorization.as_str()), ("idempotency-key", idempotency_key)];
        self.http.open(Method::POST, &format!("{}/api/v1{path}", self.origin), &fields, body.to_string()).await
    }

    pub async fn add_upstream(&self, name: &str, dialect: &str, base_url: &str, credential: &str) -> Result<Value> {
        self.add_upstream_with(&json!({ "name": name, "dialect": dialect, "base_url": base_url, "credential": credential })).await
    }

    pub async fn add_upstream_with(&self, body: &Value) -> Result<Value> {
        self.post("/upstreams", body).await?.success().context("adding an upstream")
    }

    pub async fn create_key(&self, body: &Value) -> Result<IssuedKey> {
        IssuedKey::parse(&self.post("/keys", body).await?.success().context("creating a key")?)
    }

    /// Uploads a module of the fast class, and gives what the node says of it.
    pub async fn upload_policy(&self, kind: &str, name: &str, module: Vec<u8>) -> Result<Value> {
        self.upload_policy_as("fast", kind, name, module).await
    }

    /// Uploads a policy's module, and gives what the node says of it.
    pub async fn upload_policy_as(&self, class: &str, kind: &str, name: &str, module: Vec<u8>) -> Result<Value> {
        let path = format!("/api/v1/policies?kind={kind}&class={class}&name={name}");
        self.send(Method::POST, &path, &[("content-type", "application/wasm")], module).await?.success().context("uploading a policy")
    }

    /// Binds a policy to the tenant, enforced, and gives the binding's id.
    pub async fn bind_policy(&self, digest: &str) -> Result<String> {
        let body = json!({ "policy": digest, "scope": { "tenant": self.tenant.as_deref().unwrap_or("default") }, "mode": "enforce" });
        let answer = self.post("/bindings", &body).await?.success().context("binding a policy")?;
        answer["binding"]["id"].as_str().map(str::to_owned).with_context(|| format!("no binding in {answer}"))
    }

    /// The binding as the node shows it.
    pub async fn binding(&self, id: &str) -> Result<Value> {
        let mut shown = self.get(&format!("/bindings/{id}")).await?.success()?;
        Ok(shown["binding"].take())
    }

    /// The key as the read model shows it.
    pub async fn key(&self, id: &str) -> Result<Value> {
        let mut shown = self.get(&format!("/keys/{id}")).await?.success()?;
        Ok(shown["key"].take())
    }

    /// The first thousand keys as the log has made them, see [`without_use`].
    pub async fn keys(&self) -> Result<Value> {
        let mut page = self.get("/keys?limit=1000").await?.success()?;
        page["keys"].as_array_mut().into_iter().flatten().for_each(without_use);
        Ok(page["keys"].take())
    }

    /// All events, in order, void records included.
    pub async fn events(&self) -> Result<Vec<Value>> {
        let (mut events, mut from) = (Vec::new(), 1);
        loop {
            let mut page = self.get(&format!("/events?from={from}&limit=1000")).await?.success()?;
            if let Some(page) = page["events"].as_array_mut() {
                events.append(page);
            }
            match page["next"].as_u64() {
                Some(next) => from = next,
                None => return Ok(events),
            }
        }
    }

    /// The types of the events of one stream, in order.
    pub async fn event_types(&self, stream: &str) -> Result<Vec<String>> {
        let of_stream = |event: &Value| event["stream"] == stream;
        let name = |event: &Value| event["type"].as_str().unwrap_or("void").to_owned();
        Ok(self.events().await?.iter().filter(|event| of_stream(event)).map(name).collect())
    }

    /// What a key used, once so many requests are settled.
    pub async fn usage_of(&self, key: &str, requests: u64) -> Result<Used> {
        wait::until(&format!("{requests} settled requests of {key}"), || async {
            let usage = self.get("/usage?group_by=key").await?.success()?;
            let row = usage["usage"].as_array().and_then(|rows| rows.iter().find(|row| row["key"] == key)).map(Used::parse);
            Ok(row.filter(|row| row.requests >= requests))
        })
        .await
    }

    /// A read that waits for a sequence first.
    pub async fn get_after(&self, path: &str, sequence: u64) -> Result<Answer> {
        let fields = [("keyrelay-wait-for", sequence.to_string())];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.call(Method::GET, &format!("/api/v1{path}"), &fields, &Value::Null).await
    }

    /// What a read shows that waits for a sequence, however long the node takes to have it.
    pub async fn shown_after(&self, path: &str, sequence: u64) -> Result<Value> {
        let what = format!("{path} after {sequence}");
        let answer = wait::until(&what, || async {
            let answer = self.get_after(path, sequence).await?;
            Ok((answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer))
        });
        answer.await?.success()
    }

    /// What `/readyz` says, whatever its status.
    pub async fn readiness(&self) -> Result<Value> {
        self.call(Method::GET, "/readyz", &[], &Value::Null).await?.json()
    }

    /// The number of the last record.
    pub async fn head(&self) -> Result<u64> {
        let log = self.get("/log").await?.success()?;
        log["head"].as_u64().with_context(|| format!("no head in {log}"))
    }

    pub async fn metrics(&self) -> Result<String> {
        Ok(self.call(Method::GET, "/metrics", &[], &Value::Null).await?.text())
    }
}

impl IssuedKey {
    pub fn parse(answer: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("not an issued key: {answer}"));
        let number = |value: &Value| value.as_u64().with_context(|| format!("not an issued key: {answer}"));
        let key = &answer["key"];
        Ok(Self {
            id: text(&key["id"])?,
            secret: text(&answer["secret"])?,
            version: number(&key["version"])?,
            sequence: number(&answer["sequence"])?,
        })
    }

    /// The name of its stream.
    pub fn stream(&self) -> String {
        format!("default.key.{}", self.id)
    }
}

impl Used {
    pub fn parse(row: &Value) -> Self {
        let number = |name: &str| row[name].as_u64().unwrap_or_default();
        Self { requests: number("requests"), input_tokens: number("input_tokens"), output_tokens: number("output_tokens") }
    }
}

/// Takes out of a key what is summed up behind the requests, and neither travels with the key nor is there at once.
pub fn without_use(key: &mut Value) {
    for member in ["last_used_at", "requests", "clients"] {
        key.as_object_mut().map(|key| key.remove(member));
        for secret in key["secrets"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            secret.remove(member);
        }
    }
}
