//! What is wrong with a policy, in status and code. The codes are stable: authors' tools act on them.

use axum::http::StatusCode;
use event_log::artefacts::ArtefactError;
use policy_host::{AdmissionError, CompileError, LoadError, PolicyFault, WorldError};

use super::{ARTEFACTS_UNAVAILABLE, INTERNAL, SettingsFault};
use crate::policies::ModuleError;

const BAD: StatusCode = StatusCode::BAD_REQUEST;
const AWAY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
const OURS: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

/// Why an upload is not admitted.
pub(super) fn admission_status(error: &AdmissionError) -> (StatusCode, &'static str) {
    match error {
        AdmissionError::Compile(error) => match error {
            CompileError::Malformed(_) => (BAD, "policy_malformed"),
            CompileError::Encode(_) => (BAD, "policy_not_a_component"),
            CompileError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "policy_too_large"),
            CompileError::TooManyFunctions { .. } => (BAD, "policy_too_large"),
            CompileError::Refused(_) => (BAD, "policy_not_compiled"),
            CompileError::Overrun => (BAD, "policy_compile_overrun"),
            CompileError::Child(_) => (OURS, INTERNAL),
        },
        AdmissionError::World(error) => match error {
            WorldError::Imports(_) => (BAD, "policy_imports"),
            WorldError::Missing(_) | WorldError::OtherKind { .. } | WorldError::Type { .. } => (BAD, "policy_wrong_world"),
            WorldError::TooLarge(_) => (BAD, "policy_too_large"),
            WorldError::Instance(fault) => fault_status(fault),
        },
        AdmissionError::Describe(fault) => fault_status(fault),
        AdmissionError::Manifest(_) | AdmissionError::Schema(_) => (BAD, "bad_manifest"),
        AdmissionError::Engine(_) | AdmissionError::Cache(_) => (OURS, INTERNAL),
    }
}

/// A policy that fails outside of any request: in `describe`, `configure`, or its start function.
pub(super) fn fault_status(fault: &PolicyFault) -> (StatusCode, &'static str) {
    match fault {
        PolicyFault::Busy | PolicyFault::NotLoaded => (AWAY, "busy"),
        PolicyFault::Trap(_)
        | PolicyFault::OutOfFuel
        | PolicyFault::OutOfMemory
        | PolicyFault::Timeout
        | PolicyFault::InvalidOutput(_)
        | PolicyFault::InvalidInput
        | PolicyFault::Declared(_) => (BAD, "policy_fault"),
    }
}

/// Why an admitted policy is not at hand.
pub(super) fn module_status(error: &ModuleError) -> (StatusCode, &'static str) {
    match error {
        ModuleError::Missing { .. } => (AWAY, "policy_missing"),
        ModuleError::Artefact(error) => artefact_status(error),
        ModuleError::Load(LoadError::Digest { .. } | LoadError::Refused(_)) | ModuleError::Task(_) => (OURS, INTERNAL),
    }
}

pub(super) fn artefact_status(error: &ArtefactError) -> (StatusCode, &'static str) {
    match error {
        ArtefactError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "policy_too_large"),
        ArtefactError::Unavailable { .. } => (AWAY, ARTEFACTS_UNAVAILABLE),
        ArtefactError::Damaged { .. } | ArtefactError::Io { .. } => (OURS, INTERNAL),
    }
}

/// Faults as one text.
pub(super) fn listed(faults: &[policy_host::SettingsFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

pub(super) fn shown(fault: &policy_host::SettingsFault) -> SettingsFault {
    let policy_host::SettingsFault { code, path, detail } = fault.clone();
    SettingsFault { code, path, detail }
}

/// An error and its sources in one line: what an author has to know is often in the source.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source()).fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
