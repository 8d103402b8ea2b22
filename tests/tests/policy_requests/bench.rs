//! One node with two OpenAI upstreams, and policies whose answers are written by hand.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use policy_host::Output;
use policy_host::contract::route::Pick;
use policy_host::contract::{Effect, Fault, Obligation, Reason, Verdict, expiry, quota, route};
use schemas::policy::PolicyKind;
use serde_json::{Value, json};
use tests::admin::IssuedKey;
use tests::http::Answer;
use tests::{Launch, Relay, World, clock};

use crate::guest::Guest;

/// A second OpenAI upstream, which only policies send anything to.
pub(crate) const SPARE: &str = "spare";

/// A third one, in a pool of its own: see [`Bench::second_pool`].
pub(crate) const FAR: &str = "far";
pub(crate) const OTHER_POOL: &str = "other";

/// Binds policies and asks the relay.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) key: IssuedKey,
    /// The ids of the two OpenAI upstreams.
    pub(crate) first: String,
    pub(crate) spare: String,
}

impl Bench {
    pub(crate) async fn start() -> Result<Self> {
        Self::with(|launch| launch).await
    }

    /// A bench whose node is started in another way.
    pub(crate) async fn with(change: impl FnOnce(Launch) -> Launch) -> Result<Self> {
        let world = World::with(change).await?;
        let spare = json!({ "name": SPARE, "dialect": "openai", "base_url": world.upstream.openai_url(), "credential": "sk-provider-spare", "priority": 90 });
        world.admin.add_upstream_with(&spare).await?;
        let listed = world.admin.get("/upstreams").await?.success()?;
        let id = |name: &str| {
            let found = listed["upstreams"]
                .as_array()
                .and_then(|all| all.iter().find(|one| one["name"] == name))
                .and_then(|one| one["id"].as_str());
            found.map(str::to_owned).with_context(|| format!("no {name} in {listed}"))
        };
        let (first, spare) = (id("openai")?, id(SPARE)?);
        let key = world.key(json!({})).await?;
        Ok(Self { world, key, first, spare })
    }

    pub(crate) async fn upload(&self, guest: &Guest) -> Result<String> {
        self.upload_as("fast", guest).await
    }

    /// Uploads a policy of a class.
    pub(crate) async fn upload_as(&self, class: &str, guest: &Guest) -> Result<String> {
        let answer = self.world.admin.upload_policy_as(class, guest.kind.as_str(), "guest", guest.module()).await?;
        Ok(answer["policy"]["digest"].as_str().context("a digest")?.to_owned())
    }

    /// Uploads a policy and binds it to the tenant; gives the binding's id.
    pub(crate) async fn bind(&self, guest: &Guest, rules: Value) -> Result<String> {
        self.bind_digest(&self.upload(guest).await?, rules).await
    }

    /// Binds an uploaded policy to the tenant, or as the rules say; gives the binding's id.
    pub(crate) async fn bind_digest(&self, digest: &str, rules: Value) -> Result<String> {
        let mut body = json!({ "policy": digest, "scope": { "tenant": "default" } });
        if let (Some(body), Value::Object(rules)) = (body.as_object_mut(), rules) {
            body.extend(rules);
        }
        let bound = self.world.admin.post("/bindings", &body).await?.success().context("binding")?;
        ensure!(bound["binding"]["loaded"] == true, "{bound}");
        Ok(bound["binding"]["id"].as_str().context("an id")?.to_owned())
    }

    pub(crate) async fn change(&self, binding: &str, body: &Value) -> Result<()> {
        self.world.admin.call(Method::PATCH, &format!("/api/v1/bindings/{binding}"), &[], body).await?.success().map(drop)
    }

    pub(crate) fn relay(&self) -> &Relay {
        &self.world.relay
    }

    pub(crate) async fn chat(&self) -> Result<Answer> {
        self.relay().chat(&self.key.secret, "hello").await
    }

    pub(crate) async fn served_by(&self) -> Result<String> {
        let answer = self.chat().await?;
        answer.expect(200)?;
        Ok(answer.header("x-keyrelay-upstream").to_owned())
    }

    /// An upstream in a pool of its own, and a key that may use both pools, the default one first. Gives the upstream's id.
    pub(crate) async fn second_pool(&mut self) -> Result<String> {
        let admin = &self.world.admin;
        admin.post("/pools", &json!({ "name": OTHER_POOL })).await?.success()?;
        let far = json!({ "name": FAR, "dialect": "openai", "base_url": self.world.upstream.openai_url(), "credential": "sk-far", "pool": OTHER_POOL });
        let added = admin.add_upstream_with(&far).await?;
        self.key = self.world.key(json!({ "pools": ["default", OTHER_POOL] })).await?;
        Ok(added["upstream"]["id"].as_str().context("an id")?.to_owned())
    }

    /// What a million tokens of an answer cost in a pool; nothing for no price at all.
    pub(crate) async fn price(&self, pool: &str, output: Option<u64>) -> Result<()> {
        let prices: Vec<Value> = output.map(|output| json!({ "model": "*", "input": 1, "output": output })).into_iter().collect();
        let path = format!("/api/v1/pools/{pool}/prices");
        self.world.admin.call(Method::PUT, &path, &[], &json!({ "prices": prices })).await?.success().map(drop)
    }

    /// Moves the clock of a node with the planted `moved-clock`.
    pub(crate) fn ahead(&self, seconds: u64) -> Result<()> {
        clock::ahead(self.world.node.data(), seconds)
    }

    pub(crate) async fn metric(&self, line: &str) -> Result<f64> {
        let metrics = self.world.admin.metrics().await?;
        let found = metrics.lines().find_map(|one| one.strip_prefix(line)?.trim().parse().ok());
        Ok(found.unwrap_or(0.0))
    }
}

pub(crate) fn picks(ids: &[&str]) -> Guest {
    let pick = |(rank, id): (u32, &&str)| Pick { id: (*id).to_owned(), rank, weight: 1 };
    Guest::saying(Output::Route(route::Output { verdict: Verdict::plain(Effect::Permit), picks: (0..).zip(ids).map(pick).collect() }))
}

pub(crate) fn denying(kind: PolicyKind, retry_ms: Option<u64>) -> Guest {
    let reason = Reason { code: "test.reason".into(), text: Some("not today".into()), is_public: true };
    let verdict = Verdict { reasons: vec![reason], ..Verdict::plain(Effect::Deny) };
    Guest::saying(match kind {
        PolicyKind::Expiry => Output::Expiry(expiry::Output { verdict, valid_until_ms: None }),
        PolicyKind::Quota => Output::Quota(quota::Output { verdict, reserve: vec![], retry_ms }),
        PolicyKind::Route => Output::Route(route::Output { verdict, picks: vec![] }),
    })
}

pub(crate) fn obliging(obligations: Vec<Obligation>) -> Guest {
    let verdict = Verdict { obligations, ..Verdict::plain(Effect::Permit) };
    Guest::saying(Output::Quota(quota::Output { verdict, reserve: vec![], retry_ms: None }))
}

pub(crate) fn faulty(kind: PolicyKind) -> Guest {
    let fault = Fault { code: "test.fault".into(), detail: "it cannot".into() };
    Guest::answering(&Err(fault), kind)
}

pub(crate) fn refused(answer: &Answer, status: u16, reason: &str) -> Result<()> {
    answer.expect(status)?;
    let given = answer.header("x-keyrelay-reason");
    ensure!(given == reason, "expected the reason {reason}, got {given}: {}", answer.text());
    Ok(())
}

/// The name of a counter of evaluations, as the node exports it.
pub(crate) fn evaluations(kind: &str, mode: &str, effect: &str) -> String {
    format!("keyrelay_policy_evaluations_total{{kind=\"{kind}\",mode=\"{mode}\",effect=\"{effect}\"}}")
}
