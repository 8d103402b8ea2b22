//! Decisions outside of the node: lines of a file that replays on its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use projector::decisions::Decision;
use schemas::decision::{DecisionAnswer, DecisionEffect, DecisionMode, DecisionRecord};
use schemas::policy::{PolicyClass, PolicyKind};
use schemas::{BindingId, Digest, KeyId, RequestId, TenantId, Timestamp, WriterId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One decision as a line of an export: everything that was recorded, input and output as the very bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportedDecision {
    /// The place in the decision stream: the batch's sequence, and the place in it.
    pub id: String,
    pub node: WriterId,
    pub request: RequestId,
    pub at: Timestamp,
    pub tenant: TenantId,
    pub key: KeyId,
    pub kind: PolicyKind,
    pub binding: BindingId,
    pub policy: Digest,
    pub class: Option<PolicyClass>,
    pub settings: Digest,
    pub mode: DecisionMode,
    /// The input's canonical bytes, base64.
    pub input: String,
    /// The output's canonical bytes, base64; none with a fault.
    pub output: Option<String>,
    pub fault: Option<DecisionFault>,
    pub effect: DecisionEffect,
    pub reasons: Vec<String>,
    pub combined: DecisionEffect,
    pub cost_max: Option<u64>,
    pub fuel: u64,
    pub elapsed_ns: u64,
    pub engine: String,
}

/// How a policy failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionFault {
    pub code: String,
    pub detail: String,
    /// Whether the same input gives the same fault again.
    pub replayable: bool,
}

impl From<Decision> for ExportedDecision {
    fn from(decision: Decision) -> Self {
        let id = id_of(&decision);
        let Decision { node, record, .. } = decision;
        let (output, fault) = match record.answer {
            DecisionAnswer::Output(bytes) => (Some(STANDARD.encode(bytes)), None),
            DecisionAnswer::Fault { code, detail, replayable } => (None, Some(DecisionFault { code, detail, replayable })),
        };
        Self {
            id,
            node,
            request: record.request,
            at: record.at,
            tenant: record.tenant,
            key: record.key,
            kind: record.kind,
            binding: record.binding,
            policy: record.policy,
            class: record.class,
            settings: record.settings,
            mode: record.mode,
            input: STANDARD.encode(record.input),
            output,
            fault,
            effect: record.effect,
            reasons: record.reasons,
            combined: record.combined,
            cost_max: record.cost_max,
            fuel: record.fuel,
            elapsed_ns: record.elapsed_ns,
            engine: record.engine,
        }
    }
}

impl ExportedDecision {
    /// The record that was exported; none if the line was not written by an export.
    pub fn into_record(self) -> Option<DecisionRecord> {
        let answer = match (self.output, self.fault) {
            (Some(output), None) => DecisionAnswer::Output(STANDARD.decode(output).ok()?),
            (None, Some(DecisionFault { code, detail, replayable })) => DecisionAnswer::Fault { code, detail, replayable },
            _ => return None,
        };
        Some(DecisionRecord {
            request: self.request,
            at: self.at,
            tenant: self.tenant,
            key: self.key,
            kind: self.kind,
            binding: self.binding,
            policy: self.policy,
            class: self.class,
            settings: self.settings,
            mode: self.mode,
            input: STANDARD.decode(self.input).ok()?,
            answer,
            effect: self.effect,
            reasons: self.reasons,
            combined: self.combined,
            cost_max: self.cost_max,
            fuel: self.fuel,
            elapsed_ns: self.elapsed_ns,
            engine: self.engine,
        })
    }
}

/// The name of a decision, the same on every node.
pub(crate) fn id_of(decision: &Decision) -> String {
    format!("{}-{}", decision.sequence.0, decision.index)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use projector::decisions::DecisionPlace;
    use schemas::Sequence;

    use super::*;

    #[test]
    fn a_line_is_the_record_that_was_exported() {
        let fault = DecisionAnswer::Fault { code: "trap".into(), detail: "unreachable".into(), replayable: true };
        for answer in [DecisionAnswer::Output(vec![0, 255, 7]), fault] {
            let record = DecisionRecord {
                request: RequestId::from_bytes([1; 16]),
                at: Timestamp::from_micros(5_000_001),
                tenant: TenantId::default_tenant(),
                key: KeyId::from_bytes([2; 16]),
                kind: PolicyKind::Quota,
                binding: BindingId::from_bytes([3; 16]),
                policy: Digest::from_bytes([4; 32]),
                class: Some(PolicyClass::Fast),
                settings: Digest::from_bytes([5; 32]),
                mode: DecisionMode::Canary,
                input: (0..=255).collect(),
                answer,
                effect: DecisionEffect::Deny,
                reasons: vec!["a.b".into()],
                combined: DecisionEffect::Deny,
                cost_max: Some(u64::MAX),
                fuel: 7,
                elapsed_ns: 8,
                engine: "e".into(),
            };
            let place = DecisionPlace { at: record.at, number: 9 };
            let decision = Decision { place, sequence: Sequence(3), index: 4, node: WriterId::from_bytes([6; 16]), record: record.clone() };
            let line = serde_json::to_string(&ExportedDecision::from(decision)).unwrap();
            let read: ExportedDecision = serde_json::from_str(&line).unwrap();
            assert_eq!(read.id, "3-4");
            assert_eq!(read.into_record(), Some(record));
        }
    }
}
