//! Until when a key is good.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

use super::{Attribute, Subject, Verdict};

/// Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct KeyFacts {
    #[component(name = "created-ms")]
    pub created_ms: i64,
    #[component(name = "renewed-ms")]
    #[serde(default)]
    pub renewed_ms: Option<i64>,
    #[component(name = "rotated-ms")]
    #[serde(default)]
    pub rotated_ms: Option<i64>,
    #[component(name = "last-used-ms")]
    #[serde(default)]
    pub last_used_ms: Option<i64>,
    #[component(name = "expires-ms")]
    #[serde(default)]
    pub expires_ms: Option<i64>,
    #[serde(default)]
    pub requests: u64,
    #[serde(default)]
    pub tokens: u64,
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
    pub key: KeyFacts,
    #[serde(default)]
    pub more: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub verdict: Verdict,
    #[component(name = "valid-until-ms")]
    #[serde(default)]
    pub valid_until_ms: Option<i64>,
}
