//! A host in a directory of its own, and inputs to ask policies with.

use std::path::PathBuf;
use std::sync::Arc;

use policy_host::contract::{Attribute, Demand, Price, Subject, expiry, quota, route};
use policy_host::host::{CACHE_BYTES_DEFAULT, FAST_RESIDENT_BYTES_DEFAULT};
use policy_host::{AdmissionError, Admitted, Compiler, Host, HostConfig, HostError, Input, Module};
use schemas::policy::{PolicyClass, PolicyKind};
use tempfile::TempDir;

use crate::guest::Guest;

pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) directory: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Compiler::InProcess)
    }

    pub(crate) fn with(compiler: Compiler) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = host(directory.path().join("cache"), compiler);
        Self { host, directory }
    }

    /// Another host over the same cache, as after a restart.
    pub(crate) fn restarted(&self) -> Host {
        self.restarted_with(Compiler::InProcess)
    }

    pub(crate) fn restarted_with(&self, compiler: Compiler) -> Host {
        host(self.directory.path().join("cache"), compiler)
    }

    /// As [`Self::restarted`], with so much machine code.
    pub(crate) fn bounded(&self, cache_bytes_max: u64) -> Host {
        Host::new(HostConfig { cache_bytes_max, ..config(self.directory.path().join("cache"), Compiler::InProcess) }).unwrap()
    }

    /// As [`Self::restarted`], where that may fail.
    pub(crate) fn reopened(&self) -> Result<Host, HostError> {
        Host::new(config(self.directory.path().join("cache"), Compiler::InProcess))
    }

    pub(crate) fn admit(&self, guest: &Guest) -> Result<Admitted, AdmissionError> {
        self.host.admit(&guest.module(), guest.kind, PolicyClass::Fast)
    }

    pub(crate) fn module(&self, guest: &Guest) -> Arc<Module> {
        self.admit(guest).unwrap_or_else(|error| panic!("{error:?}\n{}", guest.text())).module
    }
}

fn host(cache: PathBuf, compiler: Compiler) -> Host {
    Host::new(config(cache, compiler)).unwrap()
}

fn config(cache: PathBuf, compiler: Compiler) -> HostConfig {
    HostConfig {
        cache,
        cache_bytes_max: CACHE_BYTES_DEFAULT,
        compiler,
        fast_slots: 16,
        fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
        slow_threads: 2,
    }
}

fn subject() -> Subject {
    let more = vec![Attribute { name: "team".into(), value: "search".into() }];
    Subject { tenant: "default".into(), key: "key_a".into(), owner: Some("ada".into()), tags: vec!["ci".into(), "prod".into()], more }
}

fn demand() -> Demand {
    Demand {
        dialect: "openai".into(),
        endpoint: "chat_completions".into(),
        model: "small-1".into(),
        is_stream: true,
        request_bytes: 900,
        input_tokens: 225,
        output_tokens_max: Some(1000),
        more: vec![],
    }
}

/// A candidate with the price per million tokens.
pub(crate) fn candidate(n: u32, price: u64) -> route::Candidate {
    route::Candidate {
        id: format!("up_{n}"),
        name: format!("upstream {n}"),
        pool: "pool_a".into(),
        pool_name: "default".into(),
        region: n.is_multiple_of(2).then(|| "eu".into()),
        tags: vec!["cheap".into()],
        priority: n,
        weight: 100,
        is_cooling: false,
        in_flight: n,
        latency_ms: Some(120),
        price: Some(Price { input: price, output: price * 4, cache_read: 0, cache_write: 0 }),
        more: vec![],
    }
}

pub(crate) fn route_input(candidates: Vec<route::Candidate>) -> route::Input {
    route::Input { now_ms: 1_000_000, seed: 7, settings: "{}".into(), subject: subject(), demand: demand(), candidates, more: vec![] }
}

/// A usual input of the kind; the seed is the only thing in it that differs.
pub(crate) fn input(kind: PolicyKind, seed: u64) -> Input {
    let (now_ms, settings, more) = (1_000_000, String::from("{}"), vec![]);
    match kind {
        PolicyKind::Route => Input::Route(route::Input { seed, ..route_input((0..3).map(|n| candidate(n, 100 + u64::from(n))).collect()) }),
        PolicyKind::Quota => {
            let meter = |name: &str| quota::Meter {
                name: name.into(),
                unit: quota::Unit::Tokens,
                used: 10,
                reserved: 1,
                resets_ms: Some(2_000_000),
            };
            let meters = vec![meter("key.tokens.day"), meter("tenant.tokens.day")];
            let (subject, demand) = (subject(), demand());
            Input::Quota(quota::Input { now_ms, seed, settings, subject, demand, meters, cost_max: Some(5000), chosen: None, more })
        }
        PolicyKind::Expiry => {
            let key = expiry::KeyFacts { created_ms: 1, expires_ms: Some(5_000_000), requests: 3, ..expiry::KeyFacts::default() };
            Input::Expiry(expiry::Input { now_ms, seed, settings, subject: subject(), key, more })
        }
    }
}
