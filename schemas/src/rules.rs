//! `given(events).when(command).then(events)`: the words that the rule tests of every aggregate are written in.
//!
//! Whatever a test expects of a decision, these words also check what holds of every decision: its events stand on the aggregate's kind
//! of stream, and they can be applied to the state they were decided on.

use proptest::prelude::*;

use crate::aggregate::{self, Aggregate, At, Command, Context, Rejection};
use crate::binding::{BindingCommand, BindingCreated, BindingPatch, Bound, Mode, OnFault, Scope};
use crate::cluster::{ClusterCommand, ClusterFounded};
use crate::credential::grant::{CredentialAuthorized, CredentialRefreshed, GrantCommand, LoginReason, RefreshFailure};
use crate::credential::order::{OrderCommand, ProviderKeyNoted, ProviderKeyRetired, RotationOrdered};
use crate::credential::rotation::{EndCause, Installer, RotationCommand, RotationFallbackUsed, RotationStaged, RotationTested, StepCause};
use crate::credential::{CredentialAdded, CredentialCommand, CredentialReplaced};
use crate::id::{BindingId, ClusterId, CredentialId, Digest, LoginId, PoolId, PublicKey, RotationId, TenantId, UpstreamId, WriterId};
use crate::login::{LOGIN_SECONDS, LoginCommand, LoginExchanged, LoginFailure, LoginFlow, LoginMisuse, LoginStarted};
use crate::policy::PolicyKind;
use crate::pool::{ModelPrice, PoolCommand};
use crate::root_key::RootKeyCommand;
use crate::tenant::{TenantChanged, TenantCommand, TenantPatch};
use crate::upstream::{Dialect, UpstreamCommand, UpstreamDetails, UpstreamLabels, UpstreamPatch};
use crate::writer::{CounterSignature, WriterCommand, WriterEnrolled, WriterRetired};
use crate::{Actor, Event, Stream, Timestamp};

/// When everything that is given happened, and when a command comes unless [`Given::after`] says otherwise.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// A time some seconds after [`NOW`].
pub(crate) fn later(seconds: u64) -> Timestamp {
    NOW.plus_seconds(seconds)
}

pub(crate) fn tenant() -> TenantId {
    TenantId::default_tenant()
}

/// The aggregate that these events lead to.
pub(crate) fn given(stream: Stream, events: impl IntoIterator<Item = Event>) -> Given {
    let at = At { time: NOW, actor: Actor::Owner };
    let fold = |state, event| Some(aggregate::apply(state, &stream, &event, &at).unwrap());
    let state = events.into_iter().fold(None, fold);
    Given { stream, state, now: NOW }
}

pub(crate) struct Given {
    stream: Stream,
    state: Option<Aggregate>,
    now: Timestamp,
}

impl Given {
    /// Lets some seconds pass.
    pub(crate) fn after(self, seconds: u64) -> Self {
        Self { now: self.now.plus_seconds(seconds), ..self }
    }

    pub(crate) fn when(self, command: Command) -> Decided {
        let context = Context { now: self.now, actor: Actor::Owner };
        let decision = aggregate::decide(self.state.as_ref(), &command, &context);
        let at = At { time: self.now, actor: Actor::Owner };
        let state = decision.iter().flatten().fold(self.state, |state, event| {
            assert_eq!(event.stream_kind(), self.stream.kind());
            Some(aggregate::apply(state, &self.stream, event, &at).unwrap())
        });
        Decided { decision, given: Given { state, ..self } }
    }

    pub(crate) fn state(self) -> Aggregate {
        self.state.unwrap()
    }
}

pub(crate) struct Decided {
    decision: Result<Vec<Event>, Rejection>,
    given: Given,
}

impl Decided {
    /// The command was accepted with exactly these events; what follows goes on from the state they lead to.
    pub(crate) fn then(self, events: impl IntoIterator<Item = Event>) -> Given {
        assert_eq!(self.decision, Ok(events.into_iter().collect()));
        self.given
    }

    /// The command was accepted, with whatever events.
    pub(crate) fn accepted(self) -> Given {
        assert!(self.decision.is_ok(), "{:?}", self.decision);
        self.given
    }

    /// The command was accepted and had nothing to change.
    pub(crate) fn then_nothing(self) -> Given {
        self.then([])
    }

    pub(crate) fn then_refused(self, error: impl Into<Rejection>) -> Given {
        assert_eq!(self.decision, Err(error.into()));
        self.given
    }
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        any_upstream_command().prop_map(Command::Upstream),
        any_credential_command().prop_map(Command::Credential),
        prop_oneof![
            "[a-c ]{0,2}".prop_map(|name| PoolCommand::Create { name }),
            "[a-c ]{0,2}".prop_map(|name| PoolCommand::Import { name }),
            "[a-c ]{0,2}".prop_map(|name| PoolCommand::Change { name }),
            (0_u64..3).prop_map(|input| PoolCommand::Price {
                prices: vec![ModelPrice { model: "*".into(), input, output: 1, cache_read: None, cache_write: None }]
            }),
            Just(PoolCommand::Remove),
        ]
        .prop_map(Command::Pool),
        any_binding_command().prop_map(Command::Binding),
        prop_oneof![
            any::<[u8; 32]>().prop_map(|key| WriterCommand::Enrol(WriterEnrolled {
                public_key: PublicKey::from_bytes(key),
                cluster_signature: CounterSignature([0; 64]),
            })),
            Just(WriterCommand::Retire(WriterRetired { cluster_signature: None })),
        ]
        .prop_map(Command::Writer),
        any_tenant_command().prop_map(Command::Tenant),
        any_login_command().prop_map(Command::Login),
        any::<u8>().prop_map(|number| {
            let commitment = Digest::from_bytes([number; 32]);
            Command::Cluster(ClusterCommand::RootKey(RootKeyCommand::Announce { commitment }))
        }),
        any::<[u8; 32]>().prop_map(|bytes| {
            Command::Cluster(ClusterCommand::Found(ClusterFounded {
                cluster_id: ClusterId::from_bytes([1; 16]),
                format_level: 1,
                cluster_public_key: PublicKey::from_bytes(bytes),
                root_key_commitment: Digest::from_bytes(bytes),
                owner_token_hash: Digest::from_bytes(bytes),
            }))
        }),
    ]
}

fn any_login_command() -> impl Strategy<Value = LoginCommand> {
    let start = |is_device| {
        let code = LoginFlow::Code { redirect_uri: "http://127.0.0.1:1/".into(), state_hash: Digest::from_bytes([1; 32]) };
        LoginCommand::Start(Box::new(LoginStarted {
            provider: "corp".into(),
            flow: if is_device { LoginFlow::Device } else { code },
            upstream: UpstreamId::from_bytes([1; 16]),
            creates: None,
            labels: UpstreamLabels::default(),
            account: None,
            expires_at: later(LOGIN_SECONDS),
        }))
    };
    let exchanged = LoginExchanged {
        identity: None,
        account: String::new(),
        scopes: vec![],
        token_expires_at: None,
        is_refreshable: true,
        confirm_by: later(LOGIN_SECONDS),
    };
    prop_oneof![
        any::<bool>().prop_map(start),
        Just(LoginCommand::Consume),
        any::<bool>().prop_map(|is_rate_limited| LoginCommand::Reopen { is_rate_limited }),
        Just(LoginCommand::Exchange(Box::new(exchanged))),
        Just(LoginCommand::Confirm),
        Just(LoginCommand::Fail(LoginFailure::IssuerMismatch)),
        Just(LoginCommand::Cancel),
        Just(LoginCommand::ReportMisuse(LoginMisuse::ForeignActor)),
    ]
}

fn any_tenant_command() -> impl Strategy<Value = TenantCommand> {
    let seconds = || proptest::option::of(0_u64..3);
    prop_oneof![
        ("[a-c ]{0,2}", seconds(), seconds()).prop_map(|(name, default_expiry_seconds, expiry_seconds_max)| TenantCommand::Create(
            TenantChanged { name, default_expiry_seconds, expiry_seconds_max }
        )),
        (proptest::option::of("[a-c ]{0,2}"), proptest::option::of(seconds()), proptest::option::of(seconds())).prop_map(
            |(name, default_expiry_seconds, expiry_seconds_max)| TenantCommand::Change(TenantPatch {
                name,
                default_expiry_seconds,
                expiry_seconds_max,
                rotations: None,
            })
        ),
        Just(TenantCommand::Suspend { reason: None }),
        Just(TenantCommand::Resume),
    ]
}

fn any_binding_command() -> impl Strategy<Value = BindingCommand> {
    let mode = || prop_oneof![Just(Mode::Enforce), (0_u8..=100).prop_map(Mode::Canary), Just(Mode::Shadow), Just(Mode::Off)];
    let digest = || (1_u8..4).prop_map(|n| Digest::from_bytes([n; 32]));
    prop_oneof![
        (digest(), mode(), any::<bool>()).prop_map(|(policy, mode, is_import)| {
            let bound = Bound { policy, settings: "{}".into(), mode, on_fault: OnFault::Skip };
            let created = Box::new(BindingCreated { kind: PolicyKind::Quota, scope: Scope::Tenant, bound });
            if is_import { BindingCommand::Import(created) } else { BindingCommand::Create(created) }
        }),
        (proptest::option::of(digest()), proptest::option::of(mode())).prop_map(|(policy, mode)| {
            let policy = policy.map(|digest| (digest, PolicyKind::Quota));
            BindingCommand::Change(Box::new(BindingPatch { policy, mode, ..BindingPatch::default() }))
        }),
        Just(BindingCommand::RollBack),
        Just(BindingCommand::Remove),
    ]
}

fn any_upstream_command() -> impl Strategy<Value = UpstreamCommand> {
    let base_url = || prop_oneof![Just("https://a.example/v1"), Just("http://b.example"), Just("ftp://c.example")].prop_map(String::from);
    let credential = || proptest::option::of((1_u8..3).prop_map(|n| CredentialId::from_bytes([n; 16])));
    prop_oneof![
        ("[a-c ]{0,2}", base_url(), 0_u32..20_000, credential()).prop_map(|(name, base_url, priority, credential)| UpstreamCommand::Add {
            details: Box::new(UpstreamDetails {
                name,
                dialect: Dialect::Openai,
                base_url,
                pool: PoolId::from_bytes([1; 16]),
                priority,
                weight: 1,
                models: vec![],
            }),
            labels: UpstreamLabels { region: None, tags: vec![] },
            credential,
        }),
        (proptest::option::of("[a-c ]{0,2}"), proptest::option::of(base_url()), proptest::option::of(credential())).prop_map(
            |(name, base_url, credential)| {
                UpstreamCommand::Change(Box::new(UpstreamPatch { name, base_url, credential, ..UpstreamPatch::default() }))
            }
        ),
        Just(UpstreamCommand::Disable { reason: None }),
        Just(UpstreamCommand::Enable),
        Just(UpstreamCommand::Remove),
    ]
}

fn any_credential_command() -> impl Strategy<Value = CredentialCommand> {
    let added =
        || CredentialAdded { upstream: UpstreamId::from_bytes([1; 16]), origin: "https://a.example".into(), fingerprint: "1:00".into() };
    let replaced = |secret_version| CredentialReplaced { secret_version, fingerprint: "1:01".into() };
    prop_oneof![
        Just(CredentialCommand::Add(added())),
        any::<bool>().prop_map(move |refreshable| CredentialCommand::AddGrant(added(), authorized(refreshable))),
        (0_u32..6).prop_map(move |secret_version| CredentialCommand::Replace(replaced(secret_version))),
        (0_u32..6).prop_map(move |secret_version| CredentialCommand::ReplaceGrant(replaced(secret_version), authorized(true))),
        any_grant_command().prop_map(CredentialCommand::Grant),
        Just(CredentialCommand::Revoke),
        any_rotation_command().prop_map(CredentialCommand::Rotate),
        any_order_command().prop_map(CredentialCommand::Order),
    ]
}

fn any_rotation_command() -> impl Strategy<Value = RotationCommand> {
    let rotation = || (1_u8..4).prop_map(|n| RotationId::from_bytes([n; 16]));
    prop_oneof![
        (rotation(), 1_u32..6, any::<bool>()).prop_map(|(rotation, secret_version, compromise)| RotationCommand::Stage {
            staged: Box::new(RotationStaged {
                rotation,
                secret_version,
                fingerprint: format!("1:{secret_version}"),
                compromise,
                window_seconds: 1,
                grace_seconds: 1,
                unused_seconds: None,
                reason: None,
            }),
            installed: compromise.then_some(Installer::Operator),
        }),
        rotation().prop_map(|rotation| RotationCommand::Install { rotation, by: Installer::Provider }),
        rotation().prop_map(|rotation| {
            let node = WriterId::from_bytes([1; 16]);
            RotationCommand::Pass(Box::new(RotationTested { rotation, node, status: 200, account: None, previous_account: None }))
        }),
        rotation().prop_map(|rotation| RotationCommand::Promote { rotation }),
        rotation().prop_map(|rotation| RotationCommand::Drain { rotation, cause: StepCause::Asked }),
        rotation().prop_map(|rotation| RotationCommand::Finish { rotation, cause: StepCause::Asked }),
        rotation().prop_map(|rotation| RotationCommand::Abort { rotation, cause: EndCause::Asked }),
        rotation().prop_map(|rotation| RotationCommand::RollBack { rotation, cause: EndCause::Asked }),
        rotation().prop_map(|rotation| {
            let node = WriterId::from_bytes([1; 16]);
            RotationCommand::NoteFallback(RotationFallbackUsed { rotation, node, uses: 1, last_used_at: NOW })
        }),
    ]
}

fn any_order_command() -> impl Strategy<Value = OrderCommand> {
    let rotation = || (1_u8..4).prop_map(|n| RotationId::from_bytes([n; 16]));
    let number = || 0_u32..4;
    prop_oneof![
        (rotation(), 0_u64..3).prop_map(|(rotation, window_seconds)| {
            let (provider, unused_seconds) = ("acme".into(), None);
            OrderCommand::Place(RotationOrdered { rotation, provider, compromise: false, window_seconds, grace_seconds: 1, unused_seconds })
        }),
        (rotation(), 1_u8..3).prop_map(|(rotation, n)| OrderCommand::Claim { rotation, node: WriterId::from_bytes([n; 16]) }),
        (rotation(), number()).prop_map(|(rotation, secret_version)| {
            let staged = RotationStaged {
                rotation,
                secret_version,
                fingerprint: format!("1:{secret_version}"),
                compromise: false,
                window_seconds: 1,
                grace_seconds: 1,
                unused_seconds: None,
                reason: None,
            };
            OrderCommand::Deliver { staged: Box::new(staged), key: Some(format!("key-{secret_version}")) }
        }),
        rotation().prop_map(|rotation| OrderCommand::Drop { rotation, cause: EndCause::Asked }),
        number().prop_map(|secret_version| {
            OrderCommand::Note(ProviderKeyNoted { secret_version, provider: "acme".into(), key: format!("key-{secret_version}") })
        }),
        number()
            .prop_map(|secret_version| OrderCommand::Retire(ProviderKeyRetired { secret_version, key: format!("key-{secret_version}") })),
    ]
}

fn authorized(is_refreshable: bool) -> CredentialAuthorized {
    CredentialAuthorized { provider: "acme".into(), account: "1:02".into(), scopes: vec![], expires_at: Some(later(3600)), is_refreshable }
}

fn any_grant_command() -> impl Strategy<Value = GrantCommand> {
    let (number, node) = (|| 0_u32..4, || (1_u8..3).prop_map(|n| WriterId::from_bytes([n; 16])));
    prop_oneof![
        number().prop_map(|secret_version| GrantCommand::AskRefresh { secret_version }),
        (node(), proptest::option::of(number())).prop_map(|(node, takes_over)| GrantCommand::ClaimRefresh { node, takes_over }),
        number().prop_map(|generation| GrantCommand::MarkSent { generation }),
        (number(), number(), any::<bool>()).prop_map(|(generation, secret_version, is_rotated)| {
            let fingerprint = "1:03".into();
            GrantCommand::Refresh(CredentialRefreshed { generation, secret_version, fingerprint, expires_at: None, is_rotated })
        }),
        number().prop_map(|generation| GrantCommand::ReleaseRefresh { generation, reason: RefreshFailure::NotSent }),
        number().prop_map(|generation| GrantCommand::RequireLogin { generation, reason: LoginReason::OutcomeUnknown }),
    ]
}

fn any_stream() -> impl Strategy<Value = Stream> {
    proptest::sample::select(vec![
        Stream::CLUSTER,
        Stream::writer(WriterId::from_bytes([1; 16])),
        Stream::tenant_of(tenant()),
        Stream::upstream(tenant(), UpstreamId::from_bytes([1; 16])),
        Stream::credential(tenant(), CredentialId::from_bytes([1; 16])),
        Stream::pool(tenant(), PoolId::from_bytes([1; 16])),
        Stream::binding(tenant(), BindingId::from_bytes([1; 16])),
        Stream::login(tenant(), LoginId::from_bytes([1; 16])),
    ])
}

proptest! {
    /// `when` unwraps every application, so that a decision which cannot be applied fails here. Keys have a property of their own.
    #[test]
    fn what_is_decided_can_be_applied(stream in any_stream(), commands in proptest::collection::vec(any_command(), 0..60)) {
        let kind = stream.kind();
        commands.into_iter().filter(|command| command.stream_kind() == kind).fold(given(stream, []), |given, command| given.when(command).given);
    }
}

#[test]
fn a_command_for_another_kind_of_aggregate_is_refused() {
    let pool =
        || given(Stream::pool(tenant(), PoolId::from_bytes([1; 16])), [Event::PoolCreated(crate::pool::PoolCreated { name: "a".into() })]);
    pool().when(Command::Credential(CredentialCommand::Revoke)).then_refused(Rejection::WrongStream);
    pool().when(Command::Upstream(UpstreamCommand::Enable)).then_refused(Rejection::WrongStream);
}

#[test]
fn an_event_of_another_kind_of_aggregate_cannot_be_applied() {
    let event = Event::PoolCreated(crate::pool::PoolCreated { name: "a".into() });
    let stream = Stream::upstream(tenant(), UpstreamId::from_bytes([1; 16]));
    let error = aggregate::apply(None, &stream, &event, &At { time: NOW, actor: Actor::Owner }).unwrap_err();
    assert_eq!(error, aggregate::ApplyError { stream, event: "PoolCreated" });
}
