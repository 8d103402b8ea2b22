//! Problem details (RFC 9457) for every way a request can fail. Each has a stable `code`; internals are only logged.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use event_log::artefacts::ArtefactError;
use event_log::{AppendError, ReadError};
use policy_host::{AdmissionError, PolicyFault};
use schemas::binding::BindingError;
use schemas::cluster::ClusterError;
use schemas::credential::CredentialError;
use schemas::credential::grant::GrantError;
use schemas::credential::rotation::RotationError;
use schemas::key::KeyError;
use schemas::login::LoginError;
use schemas::policy::PolicyError;
use schemas::pool::PoolError;
use schemas::root_key::RootKeyError;
use schemas::tenant::TenantError;
use schemas::upstream::UpstreamError;
use schemas::writer::WriterError;
use schemas::{CommandId, Digest, Rejection, Version, WriterId};
use serde::Serialize;
use thiserror::Error;
use utoipa::ToSchema;
use vault::{SealError, SealFieldError, StoreError, UnsealError, UnsealFieldError};

use crate::commands::ExecuteError;
use crate::credential_rotations::RotationStepError;
use crate::oauth::LoginProblem;
use crate::policies::ModuleError;
use crate::secrets::is_away;
use crate::transfer::check::Told;
use crate::transfer::elsewhere::SourceError;
use crate::transfer::export::ExportError;
use crate::transfer::file::FileError;
use crate::transfer::import::LineFault;
use policies::{admission_status, artefact_status, fault_status, module_status};

mod logins;
mod policies;
mod transfer;

/// A problem, as RFC 9457 has it; `code` is stable and meant for programs, `detail` for people.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Always `about:blank`: `code` says what `type` would.
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
    /// With `outcome_unknown`: ask `GET /api/v1/commands/{id}`, or send the request again with its idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    command_id: Option<CommandId>,
    /// With `version_mismatch`: the version there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    /// With `settings_refused`: everything that is wrong with the settings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<SettingsFault>,
    /// With `import_invalid` and `import_conflicts`: the first lines that are at fault, or in conflict.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<LineFault>,
}

/// One thing that is wrong with a binding's settings: what the manifest's schema finds, or else what the policy says.
#[derive(Debug, Serialize, ToSchema)]
struct SettingsFault {
    /// `settings.schema`, or a code of the policy.
    code: String,
    /// With `settings.schema`: the place of the wrong value in the settings, as a JSON pointer; empty for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    detail: String,
}

/// Why a request fails.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    #[error("send the owner token as Authorization: Bearer")]
    Unauthorized,
    #[error("the report is not signed by a scanner whose key is configured here")]
    BadSignature,
    #[error("this node has not heard of the log lately; try again later")]
    Stale,
    #[error("{0}")]
    BadRequest(String),
    #[error("the request body has more than {max} bytes")]
    BodyTooLarge { max: usize },
    #[error("there is no {0}")]
    NotFound(&'static str),
    #[error("there is no tenant {0:?}")]
    TenantNotFound(String),
    #[error("this path does not take this method")]
    MethodNotAllowed,
    #[error("the {kind} name {name:?} stands for more than one; use the id")]
    AmbiguousName { kind: &'static str, name: String },
    #[error("the {kind} name {name:?} is taken")]
    NameTaken { kind: &'static str, name: String },
    #[error("the pool still has {upstreams} upstreams; move or remove them first")]
    PoolInUse { upstreams: usize },
    #[error("node {0} is live; stop it before it is retired, or let it leave by itself with `keyrelay nodes leave`")]
    NodeLive(WriterId),
    #[error("whether the node is live cannot be told now: this node does not hear of others")]
    RegistryAway,
    #[error(
        "not every live node has followed: {}. Give each the root key as root.key.next in its data directory or as one of vault.root_key_files (no restart \
         is needed), and send the request again; retire nodes that are gone for good",
        listed(.0)
    )]
    RootKeyNotEverywhere(Vec<WriterId>),
    #[error(
        "no copy of the root key {0} was reported within a day, and whoever loses a root key loses every credential; make one with `keyrelay root-key \
         backup`, and send the request again"
    )]
    RootKeyNotBackedUp(Digest),
    #[error("the root key given as the one in use is {given}, and {active} is in use; nothing was changed")]
    RootKeyNotActive { given: Digest, active: Digest },
    #[error("everything is sealed already, under the root key {active}; to change it, say from which")]
    RootKeyFromMissing { active: Digest },
    #[error("{data_keys} data keys still lie under the root key; they are wrapped again now, so try again later")]
    RootKeyInUse { data_keys: u64 },
    #[error("a rebuild is running already; ask how far it is with GET")]
    RebuildRunning,
    #[error("the read models have not reached sequence {0} yet")]
    NotApplied(u64),
    #[error("{0} is the beginning of more than one digest; give more of it")]
    AmbiguousDigest(String),
    #[error("the node is busy with other {0}; try again later")]
    Busy(&'static str),
    #[error("the secret is weak: fewer than 80 bits by a rough count of its characters; take a random one, or ask to allow a weak one")]
    WeakSecret,
    #[error("another key has this secret")]
    SecretTaken,
    #[error("the secret that waits is gone from the key store; rotate the key by hand, with finish_previous while its overlap runs")]
    SuccessorGone,
    #[error("the upstream has no credential; give it one with PATCH /upstreams/{{id}}")]
    NoCredential,
    #[error("a rotation is due; send the new credential")]
    CredentialRequired,
    #[error("the new credential did not pass its test: {0}")]
    TrialFailed(String),
    #[error("{} live nodes do not know of the last step yet, such as {}; try again, or force the step", .0.len(), .0.first().map(WriterId::to_string).unwrap_or_default())]
    NodesBehind(Vec<WriterId>),
    #[error("the old secret cannot be opened any more, so that the new one is all there is; rotate to another one")]
    PreviousGone,
    #[error("settings have at most {} bytes", schemas::binding::SETTINGS_BYTES_MAX)]
    SettingsTooLarge,
    #[error("what some of the tokens are cannot be told now: a salt of other systems' keys cannot be read; all others are done")]
    LeakUntold(#[source] UnsealError),
    #[error("the settings are refused: {}", policies::listed(.0))]
    SettingsRefused(Vec<policy_host::SettingsFault>),
    #[error("the policy failed when it was asked about the settings: {0}")]
    PolicyFault(PolicyFault),
    #[error("this node is still compiling policy {0}; try again later")]
    ModuleLoading(Digest),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Module(ModuleError),
    #[error("the store of policy modules failed")]
    Artefact(#[from] ArtefactError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error("the read models cannot be read")]
    Read(#[from] projector::ReadError),
    #[error("the log cannot be read")]
    LogRead(#[from] ReadError),
    #[error("a secret cannot be sealed")]
    Seal(#[from] SealError),
    #[error("a secret cannot be unsealed")]
    Unseal(#[from] UnsealError),
    #[error("a text cannot be sealed")]
    SealField(#[from] SealFieldError),
    #[error("a text cannot be unsealed")]
    UnsealField(#[from] UnsealFieldError),
    #[error("a secret cannot be destroyed")]
    Erase(#[from] StoreError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{} lines of the file are at fault; nothing was applied", .0.lines.len() as u64 + .0.more)]
    ImportInvalid(Told),
    #[error("{} objects of the file are here already and differ; nothing was applied: skip, force or merge them", .0.lines.len() as u64 + .0.more)]
    ImportConflicts(Told),
    #[error("the export failed")]
    Export(#[from] ExportError),
    #[error("a file cannot be kept here while it is worked on")]
    Spool(#[source] std::io::Error),
    #[error(transparent)]
    Login(LoginProblem),
    #[error("a task ended early")]
    Task(#[from] tokio::task::JoinError),
}

impl ApiError {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::BadSignature => (StatusCode::UNAUTHORIZED, "bad_signature"),
            Self::Stale => (StatusCode::SERVICE_UNAVAILABLE, "stale"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::TenantNotFound(_) => (StatusCode::NOT_FOUND, TENANT_NOT_FOUND),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::AmbiguousName { .. } => (StatusCode::CONFLICT, "ambiguous_name"),
            Self::NameTaken { .. } => (StatusCode::CONFLICT, "name_taken"),
            Self::PoolInUse { .. } => (StatusCode::CONFLICT, "pool_in_use"),
            Self::NodeLive(_) => (StatusCode::CONFLICT, "node_live"),
            Self::RegistryAway => (StatusCode::SERVICE_UNAVAILABLE, "registry_unavailable"),
            Self::RootKeyNotEverywhere(_) => (StatusCode::CONFLICT, "root_key_not_everywhere"),
            Self::RootKeyNotBackedUp(_) => (StatusCode::CONFLICT, "root_key_not_backed_up"),
            Self::RootKeyNotActive { .. } => (StatusCode::CONFLICT, ROOT_KEY_NOT_ACTIVE),
            Self::RootKeyFromMissing { .. } => (StatusCode::BAD_REQUEST, "root_key_from_missing"),
            Self::RootKeyInUse { .. } => (StatusCode::CONFLICT, ROOT_KEY_IN_USE),
            Self::RebuildRunning => (StatusCode::CONFLICT, "rebuild_running"),
            Self::NotApplied(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_applied"),
            Self::AmbiguousDigest(_) => (StatusCode::CONFLICT, "ambiguous_digest"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::WeakSecret => (StatusCode::BAD_REQUEST, "weak_secret"),
            Self::SecretTaken => (StatusCode::CONFLICT, "secret_taken"),
            Self::LeakUntold(_) => (StatusCode::SERVICE_UNAVAILABLE, KEY_STORE_UNAVAILABLE),
            Self::SuccessorGone => (StatusCode::CONFLICT, "successor_gone"),
            Self::NoCredential => (StatusCode::CONFLICT, "no_credential"),
            Self::CredentialRequired => (StatusCode::BAD_REQUEST, "credential_required"),
            Self::TrialFailed(_) => (StatusCode::CONFLICT, "credential_test_failed"),
            Self::NodesBehind(_) => (StatusCode::CONFLICT, "nodes_behind"),
            Self::PreviousGone => (StatusCode::CONFLICT, "previous_gone"),
            Self::SettingsTooLarge => (StatusCode::BAD_REQUEST, "settings_too_large"),
            Self::SettingsRefused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "settings_refused"),
            Self::PolicyFault(fault) => fault_status(fault),
            Self::ModuleLoading(_) => (StatusCode::SERVICE_UNAVAILABLE, "policy_loading"),
            Self::Admission(error) => admission_status(error),
            Self::Module(error) => module_status(error),
            Self::Artefact(error) => artefact_status(error),
            Self::Execute(error) => execute_status(error),
            Self::File(error) => transfer::file_status(error),
            Self::Source(error) => transfer::source_status(error),
            Self::Login(problem) => logins::status(problem),
            Self::ImportInvalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "import_invalid"),
            Self::ImportConflicts(_) => (StatusCode::CONFLICT, "import_conflicts"),
            Self::LogRead(ReadError::Unavailable { .. }) => (StatusCode::SERVICE_UNAVAILABLE, LOG_UNAVAILABLE),
            _ if self.is_key_store_away() => (StatusCode::SERVICE_UNAVAILABLE, KEY_STORE_UNAVAILABLE),
            Self::Read(_)
            | Self::LogRead(_)
            | Self::Seal(_)
            | Self::Unseal(_)
            | Self::SealField(_)
            | Self::UnsealField(_)
            | Self::Erase(_)
            | Self::Export(_)
            | Self::Spool(_)
            | Self::Task(_) => (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL),
        }
    }

    /// The status, the code and the words for an answer that holds more than one outcome. What is the node's fault is logged, as it is for an
    /// answer of its own.
    pub(super) fn told(&self) -> (StatusCode, &'static str, String) {
        let (status, code) = self.status_and_code();
        if status.is_server_error() {
            tracing::error!(code, error = self as &dyn std::error::Error, "part of a request failed");
        }
        (status, code, self.detail())
    }

    /// Whether the key store may answer later, so that nothing is wrong with this node.
    fn is_key_store_away(&self) -> bool {
        match self {
            Self::Erase(error)
            | Self::Seal(SealError::Store(error))
            | Self::Unseal(UnsealError::Store(error))
            | Self::SealField(SealFieldError::Store(error))
            | Self::UnsealField(UnsealFieldError::Store(error)) => is_away(error),
            _ => false,
        }
    }

    /// When to come again. What is only late is there in a second; a log or a key store that was tried in vain takes longer.
    fn retry_after(code: &str) -> HeaderValue {
        let is_away = [LOG_UNAVAILABLE, KEY_STORE_UNAVAILABLE, ARTEFACTS_UNAVAILABLE, "outcome_unknown", "log_lost", "policy_loading"]
            .contains(&code);
        HeaderValue::from_static(if is_away { "5" } else { "1" })
    }

    /// What people may read: a refusal says why, a failure inside does not.
    fn detail(&self) -> String {
        match self {
            Self::Execute(ExecuteError::Rejected(rejection)) => rejection.to_string(),
            Self::Execute(ExecuteError::Encode(error)) => error.to_string(),
            Self::Execute(error) if error.is_log_away() => {
                "the log cannot be reached; the command was not written, so try again later".to_owned()
            }
            Self::LogRead(ReadError::Unavailable { .. }) => "the log cannot be reached; try again later".to_owned(),
            _ if self.is_key_store_away() => "the key store cannot be reached; try again later, with the same Idempotency-Key".to_owned(),
            _ if self.status_and_code().1 == ARTEFACTS_UNAVAILABLE => {
                "the store of policy modules cannot be reached; nothing was recorded, so try again later".to_owned()
            }
            Self::Admission(_) | Self::Module(_) if self.status_and_code().1 != INTERNAL => policies::chain(self),
            Self::Read(_)
            | Self::LogRead(_)
            | Self::Seal(_)
            | Self::Unseal(_)
            | Self::SealField(_)
            | Self::UnsealField(_)
            | Self::Erase(_)
            | Self::Admission(_)
            | Self::Module(_)
            | Self::Artefact(_)
            | Self::Export(_)
            | Self::Spool(_)
            | Self::Task(_) => "the node could not answer; its log says why".to_owned(),
            Self::Unauthorized
            | Self::BadSignature
            | Self::Stale
            | Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::NotFound(_)
            | Self::TenantNotFound(_)
            | Self::MethodNotAllowed
            | Self::AmbiguousName { .. }
            | Self::NameTaken { .. }
            | Self::PoolInUse { .. }
            | Self::NodeLive(_)
            | Self::RegistryAway
            | Self::RootKeyNotEverywhere(_)
            | Self::RootKeyNotBackedUp(_)
            | Self::RootKeyNotActive { .. }
            | Self::RootKeyFromMissing { .. }
            | Self::RootKeyInUse { .. }
            | Self::RebuildRunning
            | Self::NotApplied(_)
            | Self::AmbiguousDigest(_)
            | Self::Busy(_)
            | Self::WeakSecret
            | Self::SecretTaken
            | Self::LeakUntold(_)
            | Self::SuccessorGone
            | Self::NoCredential
            | Self::CredentialRequired
            | Self::TrialFailed(_)
            | Self::NodesBehind(_)
            | Self::PreviousGone
            | Self::SettingsTooLarge
            | Self::SettingsRefused(_)
            | Self::PolicyFault(_)
            | Self::ModuleLoading(_)
            | Self::File(_)
            | Self::Source(_)
            | Self::ImportInvalid(_)
            | Self::ImportConflicts(_)
            | Self::Login(_)
            | Self::Execute(_) => self.to_string(),
        }
    }

    /// As a line of a long answer says it.
    pub(crate) fn code_and_detail(&self) -> (&'static str, String) {
        (self.status_and_code().1, self.detail())
    }

    /// Whether the node, or what it depends on, is at fault, and not what was asked of it.
    pub(crate) fn is_the_nodes(&self) -> bool {
        self.status_and_code().0.is_server_error()
    }
}

impl From<RotationStepError> for ApiError {
    fn from(error: RotationStepError) -> Self {
        match error {
            RotationStepError::Execute(error) => Self::Execute(error),
            RotationStepError::Read(error) => Self::Read(error),
            RotationStepError::Erase(error) => Self::Erase(error),
            RotationStepError::Task(error) => Self::Task(error),
        }
    }
}

/// Codes that callers of several routes act on.
const LOG_UNAVAILABLE: &str = "log_unavailable";
const KEY_STORE_UNAVAILABLE: &str = "key_store_unavailable";
const ARTEFACTS_UNAVAILABLE: &str = "artefacts_unavailable";
const TENANT_NOT_FOUND: &str = "tenant_not_found";
const ROOT_KEY_NOT_ACTIVE: &str = "root_key_not_active";
const ROOT_KEY_IN_USE: &str = "root_key_in_use";
/// What is only told in the node's log.
const INTERNAL: &str = "internal";

fn listed(nodes: &[WriterId]) -> String {
    nodes.iter().map(WriterId::to_string).collect::<Vec<_>>().join(", ")
}

fn execute_status(error: &ExecuteError) -> (StatusCode, &'static str) {
    match error {
        ExecuteError::Rejected(rejection) => rejection_status(rejection),
        ExecuteError::VersionMismatch { .. } => (StatusCode::PRECONDITION_FAILED, "version_mismatch"),
        ExecuteError::ExpiryTooLong { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "expiry_beyond_maximum"),
        ExecuteError::CommandReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
        ExecuteError::Contention => (StatusCode::CONFLICT, "contention"),
        ExecuteError::OutcomeUnknown { .. } => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown"),
        ExecuteError::RecordVoid { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "record_void"),
        ExecuteError::Encode(_) => (StatusCode::BAD_REQUEST, "too_large"),
        ExecuteError::LogLost { .. } => (StatusCode::SERVICE_UNAVAILABLE, "log_lost"),
        ExecuteError::Log(AppendError::RecordTooLarge { .. }) => (StatusCode::BAD_REQUEST, "too_large"),
        ExecuteError::Log(_) | ExecuteError::History(ReadError::Unavailable { .. }) => (StatusCode::SERVICE_UNAVAILABLE, LOG_UNAVAILABLE),
        ExecuteError::Read(_) | ExecuteError::History(_) | ExecuteError::HistoryGone { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL)
        }
        ExecuteError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    }
}

/// The code under which a refused command is told.
pub(crate) fn rejection_code(rejection: &Rejection) -> &'static str {
    rejection_status(rejection).1
}

fn rejection_status(rejection: &Rejection) -> (StatusCode, &'static str) {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const GONE: StatusCode = StatusCode::NOT_FOUND;
    const CLASH: StatusCode = StatusCode::CONFLICT;
    match rejection {
        Rejection::Key(error) => match error {
            KeyError::Exists => (CLASH, "exists"),
            KeyError::NotFound => (GONE, "not_found"),
            KeyError::Revoked => (CLASH, "key_revoked"),
            KeyError::Archived => (CLASH, "key_archived"),
            KeyError::NotArchived => (CLASH, "key_not_archived"),
            KeyError::ExpiryInThePast => (BAD, "expiry_in_the_past"),
            KeyError::NotExpired => (CLASH, "key_not_expired"),
            KeyError::Expired => (CLASH, "key_expired"),
            KeyError::RotationRunning { .. } => (CLASH, "rotation_running"),
            KeyError::OverlapTooLong => (BAD, "overlap_too_long"),
            KeyError::RotationSchedule => (BAD, "bad_rotation_schedule"),
            KeyError::NoSuccessor => (CLASH, "no_successor"),
            KeyError::SameSecret => (CLASH, "same_secret"),
            KeyError::NoSuchSecret => (CLASH, "no_such_secret"),
            KeyError::Imported => (BAD, "bad_import"),
            KeyError::Metadata => (BAD, "bad_metadata"),
            KeyError::NoPools | KeyError::LimitZero { .. } | KeyError::List { .. } | KeyError::ActivationLength | KeyError::Name(_) => {
                (BAD, "bad_request")
            }
        },
        Rejection::Upstream(error) => match error {
            UpstreamError::Exists => (CLASH, "exists"),
            UpstreamError::NotFound => (GONE, "not_found"),
            UpstreamError::BaseUrl => (BAD, "bad_base_url"),
            UpstreamError::Rank { .. } | UpstreamError::Name(_) => (BAD, "bad_request"),
        },
        Rejection::Credential(error) => match error {
            CredentialError::Exists => (CLASH, "exists"),
            CredentialError::NotFound => (GONE, "not_found"),
            CredentialError::Revoked => (CLASH, "credential_revoked"),
            CredentialError::SecretVersion { .. } => (CLASH, "contention"),
            CredentialError::Rotation(error) => match error {
                RotationError::NotFound => (GONE, "not_found"),
                RotationError::Open(_) => (CLASH, "rotation_running"),
                RotationError::Reused(_) => (CLASH, "rotation_reused"),
                RotationError::SameSecret => (CLASH, "same_secret"),
                RotationError::Times => (BAD, "bad_rotation_times"),
                RotationError::Step { .. } => (CLASH, "rotation_step"),
                RotationError::Over { .. } => (CLASH, "rotation_over"),
                RotationError::Promoted => (CLASH, "rotation_promoted"),
                RotationError::NotPromoted => (CLASH, "rotation_not_promoted"),
                RotationError::NotDue => (CLASH, "rotation_not_due"),
                RotationError::Grant => (CLASH, "rotation_of_grant"),
            },
            CredentialError::Grant(error) => match error {
                GrantError::NoGrant => (CLASH, "no_grant"),
                GrantError::NotRefreshable => (CLASH, "not_refreshable"),
                GrantError::LoginRequired => (CLASH, "login_required"),
                GrantError::UnderWay { .. } | GrantError::Superseded { .. } => (CLASH, "refresh_under_way"),
                GrantError::TooSoon => (CLASH, "refreshed_too_recently"),
            },
        },
        Rejection::Pool(error) => match error {
            PoolError::Exists => (CLASH, "exists"),
            PoolError::NotFound => (GONE, "not_found"),
            PoolError::TooManyPrices | PoolError::Price => (BAD, "bad_price"),
            PoolError::Name(_) => (BAD, "bad_request"),
        },
        Rejection::Policy(error) => match error {
            PolicyError::Exists { .. } => (CLASH, "exists"),
            PolicyError::ManifestTooLarge => (BAD, "bad_manifest"),
            PolicyError::Name(_) => (BAD, "bad_request"),
        },
        Rejection::Binding(error) => match error {
            BindingError::Exists => (CLASH, "exists"),
            BindingError::NotFound => (GONE, "not_found"),
            BindingError::Kind { .. } => (BAD, "wrong_policy_kind"),
            BindingError::SettingsTooLarge => (BAD, "settings_too_large"),
            BindingError::Canary => (BAD, "bad_request"),
            BindingError::NothingBefore => (CLASH, "nothing_before"),
        },
        Rejection::Tenant(error) => match error {
            TenantError::Exists => (CLASH, "exists"),
            TenantError::NotFound => (GONE, TENANT_NOT_FOUND),
            TenantError::ExpiryZero | TenantError::DefaultBeyondMaximum => (BAD, "bad_expiry"),
            TenantError::Rotation(_) => (BAD, "bad_rotation_schedule"),
            TenantError::Name(_) => (BAD, "bad_request"),
        },
        Rejection::Login(error) => match error {
            LoginError::Exists => (CLASH, "exists"),
            LoginError::NotFound | LoginError::Foreign => (GONE, "not_found"),
            LoginError::Expired => (StatusCode::GONE, "oauth_state_expired"),
            LoginError::Used => (CLASH, "oauth_state_used"),
            LoginError::NotExchanged => (CLASH, "login_not_exchanged"),
            LoginError::Ended => (CLASH, "login_ended"),
        },
        Rejection::Writer(error) => match error {
            WriterError::AlreadyEnrolled => (CLASH, "exists"),
            WriterError::NotEnrolled => (GONE, "not_found"),
            WriterError::Retired => (CLASH, "writer_retired"),
        },
        Rejection::Cluster(error) => match error {
            ClusterError::AlreadyFounded => (CLASH, "exists"),
            ClusterError::NotFounded => (GONE, "not_found"),
            ClusterError::NotOwner => (StatusCode::FORBIDDEN, "forbidden"),
            ClusterError::RootKey(error) => match error {
                RootKeyError::Unknown { .. } => (GONE, "root_key_not_found"),
                RootKeyError::NotActive { .. } => (CLASH, ROOT_KEY_NOT_ACTIVE),
                RootKeyError::InUse { .. } => (CLASH, ROOT_KEY_IN_USE),
                RootKeyError::NotAnnounced { .. } => (CLASH, "root_key_not_announced"),
                RootKeyError::OnlyAnnounced { .. } => (CLASH, "root_key_only_announced"),
                RootKeyError::Spent { .. } => (CLASH, "root_key_spent"),
                RootKeyError::AnotherAnnounced { .. } => (CLASH, "root_key_announced"),
                RootKeyError::TooMany { .. } => (CLASH, "too_many_root_keys"),
            },
        },
        Rejection::WrongStream => (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        if status.is_server_error() {
            tracing::error!(code, error = &self as &dyn std::error::Error, "request failed");
        }
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: self.detail(),
            command_id: match &self {
                Self::Execute(ExecuteError::OutcomeUnknown { command_id }) => Some(*command_id),
                _ => None,
            },
            version: match &self {
                Self::Execute(ExecuteError::VersionMismatch { actual, .. }) => Some(*actual),
                _ => None,
            },
            faults: match &self {
                Self::SettingsRefused(faults) => faults.iter().map(policies::shown).collect(),
                _ => Vec::new(),
            },
            lines: match &self {
                Self::ImportInvalid(told) | Self::ImportConflicts(told) => told.lines.clone(),
                _ => Vec::new(),
            },
        };
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self, Self::Unauthorized) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, Self::retry_after(code));
        }
        if let Self::Login(problem) = &self
            && let Some(wait) = problem.retry_after()
        {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response
    }
}

/// The refusals that any authenticated route may give, for the document.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive only")]
pub(crate) enum ReadProblems {
    /// The request is malformed; `detail` says where.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// The owner token is missing or wrong.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// There is no such thing.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// A name stands for more than one thing.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// Something inside failed; the node's log says what.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// The node cannot answer now; `Retry-After` says when to come again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// The refusals that any mutation may give, for the document.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive only")]
pub(crate) enum MutationProblems {
    /// The request is malformed; `detail` says where.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// The owner token is missing or wrong.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// There is no such thing.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The state of the thing does not allow this, or a name is taken or ambiguous.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// `If-Match` names another version; `version` is the one there is.
    #[response(status = 412, content_type = "application/problem+json")]
    VersionMismatch(Problem),
    /// The request body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    BodyTooLarge(Problem),
    /// The idempotency key was used for another request (`idempotency_key_reused`), the expiry of a key lies beyond its tenant's maximum
    /// (`expiry_beyond_maximum`; `detail` names it), or a policy does not take the settings (`settings_refused`; `faults` name what is wrong).
    #[response(status = 422, content_type = "application/problem+json")]
    IdempotencyKeyReused(Problem),
    /// Something inside failed; the node's log says what.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// The log does not take records now (`log_unavailable`; the command was not written), the key store or the store of policy modules is away
    /// (`key_store_unavailable`, `artefacts_unavailable`), the node is still compiling (`policy_loading`) or has its hands full (`busy`), or
    /// the outcome is not known yet (`outcome_unknown`, with the command's id). `Retry-After` says when to come again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}
