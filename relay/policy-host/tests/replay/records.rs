//! Decisions as a node records them, made here.

use std::path::Path;
use std::sync::Arc;

use policy_host::contract::{Demand, Effect, Subject, quota, route};
use policy_host::host::{CACHE_BYTES_DEFAULT, FAST_RESIDENT_BYTES_DEFAULT};
use policy_host::{Compiler, Host, HostConfig, Input, Module, replay};
use schemas::decision::{DecisionAnswer, DecisionBatch, DecisionEffect, DecisionMode, DecisionRecord};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::{BindingId, Digest, IncarnationId, KeyId, RequestId, TenantId, Timestamp, WriterId};

pub(crate) fn host(directory: &Path) -> Host {
    let cache = directory.join("cache");
    Host::new(HostConfig {
        cache,
        cache_bytes_max: CACHE_BYTES_DEFAULT,
        compiler: Compiler::InProcess,
        fast_slots: 4,
        fast_resident_bytes: FAST_RESIDENT_BYTES_DEFAULT,
        slow_threads: 1,
    })
    .unwrap()
}

pub(crate) fn admit(host: &Host, module: &[u8], kind: PolicyKind) -> (Arc<Module>, Vec<u8>) {
    let admitted = host.admit(module, kind, PolicyClass::Fast).unwrap();
    (admitted.module, admitted.component)
}

/// The same numbers on every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(crate) fn tenant(number: u64) -> TenantId {
    format!("tenant-{number}").parse().unwrap()
}

fn subject(tenant: &TenantId) -> Subject {
    Subject { tenant: tenant.to_string(), key: "key_a".into(), tags: vec!["ci".into()], ..Subject::default() }
}

pub(crate) fn quota_input(tenant: &TenantId, seed: u64, request_bytes: u64, cost_max: Option<u64>) -> Input {
    let demand = Demand { dialect: "openai".into(), model: "small-1".into(), request_bytes, ..Demand::default() };
    let (now_ms, settings, subject) = (1_000, "{}".into(), subject(tenant));
    Input::Quota(quota::Input { now_ms, seed, settings, subject, demand, meters: vec![], cost_max, chosen: None, more: vec![] })
}

pub(crate) fn route_input(tenant: &TenantId, seed: u64, candidates: u64) -> Input {
    let candidate = |n: u64| route::Candidate {
        id: format!("up_{n}"),
        name: format!("upstream {n}"),
        pool: "pool_a".into(),
        pool_name: "default".into(),
        region: None,
        tags: vec![],
        priority: 1,
        weight: 1,
        is_cooling: false,
        in_flight: 0,
        latency_ms: Some(3),
        price: None,
        more: vec![],
    };
    let (settings, subject, candidates) = ("{}".into(), subject(tenant), (0..candidates).map(candidate).collect());
    Input::Route(route::Input { now_ms: 1_000, seed, settings, subject, demand: Demand::default(), candidates, more: vec![] })
}

/// A decision of a module, as the gateway writes it down.
pub(crate) fn record(
    module: &Module,
    engine: &str,
    number: u64,
    tenant: &TenantId,
    input: &Input,
    cost_max: Option<u64>,
) -> DecisionRecord {
    let evaluation = module.decide(input);
    let verdict = evaluation.result.as_ref().ok().map(|output| output.verdict());
    let effect = match verdict.map(|verdict| verdict.effect) {
        None => DecisionEffect::Fault,
        Some(Effect::Permit) => DecisionEffect::Permit,
        Some(Effect::Deny) => DecisionEffect::Deny,
        Some(Effect::NotApplicable) => DecisionEffect::NotApplicable,
    };
    let reasons = verdict.map(|verdict| verdict.reasons.iter().map(|reason| reason.code.clone()).collect());
    // Now and then two decisions are of one request.
    let mut request = [0; 16];
    request[8..].copy_from_slice(&(number - number % 10 / 9).to_be_bytes());
    DecisionRecord {
        request: RequestId::from_bytes(request),
        at: Timestamp::from_micros(number),
        tenant: tenant.clone(),
        key: KeyId::from_bytes([1; 16]),
        kind: input.kind(),
        binding: BindingId::from_bytes([2; 16]),
        policy: *module.digest(),
        class: Some(PolicyClass::Fast),
        settings: Digest::blake3(b"{}"),
        mode: DecisionMode::Enforced,
        input: input.encode(),
        answer: replay::answer(&evaluation),
        effect,
        reasons: reasons.unwrap_or_default(),
        combined: effect,
        cost_max,
        fuel: evaluation.fuel,
        elapsed_ns: u64::try_from(evaluation.elapsed.as_nanos()).unwrap(),
        engine: engine.to_owned(),
    }
}

/// A record whose fault the machine made.
pub(crate) fn timed_out(record: &DecisionRecord) -> DecisionRecord {
    let answer = DecisionAnswer::Fault { code: "timeout".into(), detail: String::new(), replayable: false };
    DecisionRecord { answer, effect: DecisionEffect::Fault, reasons: vec![], ..record.clone() }
}

/// The records as they come out of the stream: through the bytes of batches.
pub(crate) fn through_batches(records: Vec<DecisionRecord>) -> Vec<DecisionRecord> {
    let (node, incarnation) = (WriterId::from_bytes([3; 16]), IncarnationId::from_bytes([4; 16]));
    let batches = records.chunks(256).zip(1..);
    let bytes = batches.map(|(records, number)| DecisionBatch { node, incarnation, number, records: records.to_vec() }.encode());
    bytes.flat_map(|bytes| DecisionBatch::decode(&bytes).unwrap().records).collect()
}
