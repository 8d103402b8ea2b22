//! How much may be used.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

use super::{Attribute, Demand, Price, Subject, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    #[component(name = "requests")]
    Requests,
    #[component(name = "tokens")]
    Tokens,
    #[component(name = "micro-usd")]
    MicroUsd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// `<scope>.<unit>.<window>`: `key.micro_usd.day`.
    pub name: String,
    pub unit: Unit,
    pub used: u64,
    #[serde(default)]
    pub reserved: u64,
    #[component(name = "resets-ms")]
    #[serde(default)]
    pub resets_ms: Option<i64>,
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
    pub meters: Vec<Meter>,
    #[component(name = "cost-max")]
    #[serde(default)]
    pub cost_max: Option<u64>,
    #[serde(default)]
    pub chosen: Option<Price>,
    #[serde(default)]
    pub more: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Charge {
    pub meter: String,
    pub amount: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub verdict: Verdict,
    #[serde(default)]
    pub reserve: Vec<Charge>,
    #[component(name = "retry-ms")]
    #[serde(default)]
    pub retry_ms: Option<u64>,
}
