//! Which upstreams, and in which order.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

use super::{Attribute, Demand, Price, Subject, Verdict};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    pub id: String,
    pub name: String,
    pub pool: String,
    #[component(name = "pool-name")]
    pub pool_name: String,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    pub priority: u32,
    pub weight: u32,
    #[component(name = "is-cooling")]
    #[serde(default)]
    pub is_cooling: bool,
    #[component(name = "in-flight")]
    #[serde(default)]
    pub in_flight: u32,
    #[component(name = "latency-ms")]
    #[serde(default)]
    pub latency_ms: Option<u32>,
    #[serde(default)]
    pub price: Option<Price>,
    #[serde(default)]
    pub more: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Input {
    #[component(name = "now-ms")]
    pub now_ms: i64,
    #[serde(default)]
    pub seed: u64,
    /// Canonical JSON.
    pub settings: String,
    pub subject: Subject,
    pub demand: Demand,
    pub candidates: Vec<Candidate>,
    #[serde(default)]
    pub more: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Pick {
    pub id: String,
    pub rank: u32,
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub verdict: Verdict,
    #[serde(default)]
    pub picks: Vec<Pick>,
}
