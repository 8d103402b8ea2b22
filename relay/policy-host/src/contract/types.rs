//! What the three kinds have in common. The prose stands in the WIT file.

use serde::{Deserialize, Serialize};
use wasmtime::component::{ComponentType, Lift, Lower};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    pub tenant: String,
    pub key: String,
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub more: Vec<Attribute>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    pub dialect: String,
    pub endpoint: String,
    pub model: String,
    #[component(name = "is-stream")]
    #[serde(default)]
    pub is_stream: bool,
    #[component(name = "request-bytes")]
    #[serde(default)]
    pub request_bytes: u64,
    #[component(name = "input-tokens")]
    #[serde(default)]
    pub input_tokens: u64,
    #[component(name = "output-tokens-max")]
    #[serde(default)]
    pub output_tokens_max: Option<u64>,
    #[serde(default)]
    pub more: Vec<Attribute>,
}

/// In micro-dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input: u64,
    pub output: u64,
    #[component(name = "cache-read")]
    pub cache_read: u64,
    #[component(name = "cache-write")]
    pub cache_write: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    #[component(name = "permit")]
    Permit,
    #[component(name = "deny")]
    Deny,
    #[component(name = "not-applicable")]
    NotApplicable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    pub code: String,
    #[serde(default)]
    pub text: Option<String>,
    #[component(name = "is-public")]
    #[serde(default)]
    pub is_public: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(variant)]
#[serde(rename_all = "snake_case")]
pub enum Obligation {
    #[component(name = "cap-output")]
    CapOutput(u64),
    #[component(name = "cap-parallel")]
    CapParallel(u32),
    #[component(name = "tag-usage")]
    TagUsage(Attribute),
    #[component(name = "pin-region")]
    PinRegion(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(variant)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Milliseconds since the Unix epoch.
    #[component(name = "rotate-key-by")]
    RotateKeyBy(i64),
    #[component(name = "warn")]
    Warn(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    pub effect: Effect,
    #[serde(default)]
    pub reasons: Vec<Reason>,
    #[serde(default)]
    pub obligations: Vec<Obligation>,
    #[serde(default)]
    pub advice: Vec<Advice>,
}

impl Verdict {
    /// A verdict of nothing but its effect.
    pub const fn plain(effect: Effect) -> Self {
        Self { effect, reasons: Vec::new(), obligations: Vec::new(), advice: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ComponentType, Lift, Lower)]
#[component(record)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    pub code: String,
    pub detail: String,
}
