//! Decision records: what a policy was given and what it answered, so that every decision can be explained, and run again to the same bytes.
//!
//! They stand on a stream of their own, sampled but for denials and faults, and are kept for a bounded time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{BindingId, Digest, IncarnationId, KeyId, RequestId, TenantId, WriterId};
use crate::policy::{PolicyClass, PolicyKind};
use crate::time::Timestamp;

/// Whether what the policy said counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionMode {
    Enforced,
    /// Enforced, as this key is within the canary's share.
    Canary,
    Shadow,
}

/// What a policy, or a whole chain, came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionEffect {
    Permit,
    Deny,
    NotApplicable,
    /// Only the host says so: the policy failed.
    Fault,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecisionAnswer {
    /// The output's canonical bytes.
    Output(Vec<u8>),
    Fault {
        code: String,
        detail: String,
        /// Whether the same input gives the same fault again: a clock or a full queue does not.
        replayable: bool,
    },
}

/// One evaluation of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    pub request: RequestId,
    pub at: Timestamp,
    pub tenant: TenantId,
    pub key: KeyId,
    pub kind: PolicyKind,
    pub binding: BindingId,
    pub policy: Digest,
    /// The limits that it ran under; none if its module was not loaded.
    pub class: Option<PolicyClass>,
    pub settings: Digest,
    pub mode: DecisionMode,
    /// The input's canonical bytes. It holds no prompt and no secret: the contract has neither.
    pub input: Vec<u8>,
    pub answer: DecisionAnswer,
    pub effect: DecisionEffect,
    /// The codes of the reasons, in order.
    pub reasons: Vec<String>,
    /// What became of the request at this stage with all its policies together.
    pub combined: DecisionEffect,
    /// The most that the request could cost, in micro-dollars; none without a price.
    pub cost_max: Option<u64>,
    pub fuel: u64,
    pub elapsed_ns: u64,
    /// Version and settings of the engine, which fuel depends on.
    pub engine: String,
}

impl DecisionRecord {
    /// Whether it is one of many like it, which may be lost under pressure. Denials and faults are not, and neither is what had a part in one.
    pub const fn is_sample(&self) -> bool {
        matches!(self.effect, DecisionEffect::Permit | DecisionEffect::NotApplicable)
            && matches!(self.combined, DecisionEffect::Permit | DecisionEffect::NotApplicable)
    }

    /// About what it takes in memory and when encoded.
    pub fn bytes(&self) -> usize {
        /// Ids, digests, numbers.
        const FIXED_BYTES: usize = 256;
        let answer = match &self.answer {
            DecisionAnswer::Output(bytes) => bytes.len(),
            DecisionAnswer::Fault { code, detail, .. } => code.len() + detail.len(),
        };
        FIXED_BYTES + self.input.len() + answer + self.reasons.iter().map(String::len).sum::<usize>() + self.engine.len()
    }
}

/// What one append to the decision stream stores, numbered per incarnation: 1, 2, 3, ...
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionBatch {
    pub node: WriterId,
    pub incarnation: IncarnationId,
    pub number: u64,
    pub records: Vec<DecisionRecord>,
}

impl DecisionBatch {
    /// The first byte of an encoded batch.
    const FORMAT: u8 = 1;

    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![Self::FORMAT]).expect("plain data; encoding to memory cannot fail")
    }

    /// None for bytes that no release up to this one writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, body) = bytes.split_first()?;
        if *format == Self::FORMAT { crate::event::exactly(body) } else { None }
    }
}
