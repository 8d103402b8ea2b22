//! Fixed keys and ids, and one fully populated sample of every event. Golden files hold the bytes of these, so they never change: a new
//! event adds a sample, a new version of an event replaces its sample and leaves the older golden file to be decoded.

use ed25519_dalek::SigningKey;
use schemas::binding::{BindingChanged, BindingCreated, BindingRemoved, BindingRolledBack, Bound, Mode, OnFault, Scope};
use schemas::cluster::ClusterFounded;
use schemas::credential::grant::{
    CredentialAuthorized, CredentialLoginRequired, CredentialRefreshAsked, CredentialRefreshClaimed, CredentialRefreshReleased,
    CredentialRefreshSent, CredentialRefreshed, LoginReason, RefreshFailure,
};
use schemas::credential::order::{ProviderKeyNoted, ProviderKeyRetired, RotationOrderClaimed, RotationOrderDropped, RotationOrdered};
use schemas::credential::rotation::{
    EndCause, Installer, RotationAborted, RotationDraining, RotationFallbackUsed, RotationFinished, RotationInstalled, RotationPromoted,
    RotationRolledBack, RotationStaged, RotationStep, RotationTested, StepCause,
};
use schemas::credential::{CredentialAdded, CredentialReplaced, CredentialRevoked};
use schemas::key::{
    Dedicated, Endpoint, Expiry, ImportedSecret, KeyActivated, KeyActivationAwaited, KeyArchived, KeyChanged, KeyCreated, KeyDetails,
    KeyDisabled, KeyEnabled, KeyExpired, KeyExpiryUnset, KeyImported, KeyLeakReported, KeyMetadataSet, KeyOverlapFinished, KeyPurged,
    KeyRenewed, KeyRestored, KeyRevoked, KeyRotated, KeyRotationScheduled, KeyRotationUnscheduled, KeySecretBrought, KeySecretUpgraded,
    KeySuccessorCollected, KeySuccessorSealed, KeyUpstreamDedicated, Limits, SecretScheme,
};
use schemas::login::{
    LoginCancelled, LoginConfirmed, LoginConsumed, LoginExchanged, LoginFailed, LoginFailure, LoginFlow, LoginMisuse, LoginMisused,
    LoginReopened, LoginStarted,
};
use schemas::policy::{PolicyClass, PolicyKind, PolicyUploaded};
use schemas::pool::{ModelPrice, PoolChanged, PoolCreated, PoolPriced, PoolRemoved};
use schemas::record::{Header, Seen};
use schemas::root_key::{RootKeyAnnounced, RootKeyBackedUp, RootKeyChanged, RootKeyDestroyed, RootKeyWithdrawn};
use schemas::tenant::{TagRotation, TenantChanged, TenantCreated, TenantResumed, TenantRotationsSet, TenantSuspended};
use schemas::upstream::{
    Dialect, UpstreamAdded, UpstreamChanged, UpstreamDetails, UpstreamDisabled, UpstreamEnabled, UpstreamLabelled, UpstreamLabels,
    UpstreamRemoved,
};
use schemas::writer::{CounterSignature, WriterEnrolled, WriterRetired};
use schemas::{
    Actor, ClusterId, CommandId, CredentialId, Digest, Event, KeyId, LoginId, PoolId, PublicKey, RecordId, RotationId, Sealed, Sequence,
    SessionId, Stream, TenantId, Timestamp, UpstreamId, Version, WriterId,
};

pub(crate) fn cluster_key() -> SigningKey {
    SigningKey::from_bytes(&[0xc1; 32])
}

pub(crate) fn writer_key() -> SigningKey {
    SigningKey::from_bytes(&[0xa1; 32])
}

pub(crate) fn public_key(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

pub(crate) fn writer_id(key: &SigningKey) -> WriterId {
    WriterId::of(&public_key(key))
}

pub(crate) fn cluster_id() -> ClusterId {
    ClusterId::from_bytes(bytes(0x10))
}

pub(crate) fn tenant() -> TenantId {
    "acme-1".parse().unwrap()
}

pub(crate) fn key_id() -> KeyId {
    KeyId::from_bytes(bytes(0x20))
}

pub(crate) fn key_stream() -> Stream {
    Stream::key(tenant(), key_id())
}

pub(crate) fn upstream_id() -> UpstreamId {
    UpstreamId::from_bytes(bytes(0x30))
}

pub(crate) fn credential_id() -> CredentialId {
    CredentialId::from_bytes(bytes(0x40))
}

fn rotation_id() -> RotationId {
    RotationId::from_bytes(bytes(0xb0))
}

pub(crate) fn login_stream() -> Stream {
    Stream::login(tenant(), LoginId::from_bytes(bytes(0x58)))
}

pub(crate) fn pool_id() -> PoolId {
    PoolId::from_bytes(bytes(0x50))
}

/// 16 bytes that count up, so that a byte out of place is seen.
pub(crate) fn bytes(first: u8) -> [u8; 16] {
    std::array::from_fn(|index| first + index as u8)
}

fn digest(first: u8) -> Digest {
    Digest::from_bytes(std::array::from_fn(|index| first.wrapping_add(index as u8)))
}

/// 2026-11-22T08:00:00.123456Z.
pub(crate) const TIME: Timestamp = Timestamp::from_micros(1_795_334_400_123_456);

/// A header whose every field is filled.
pub(crate) fn header() -> Header {
    Header {
        writer: writer_id(&writer_key()),
        record_id: RecordId::from_bytes(bytes(0x60)),
        command_id: CommandId::from_bytes(bytes(0x70)),
        request_digest: digest(0x80),
        stream: key_stream(),
        version: Version(1),
        actor: Actor::Session(SessionId::from_bytes(bytes(0x90))),
        causation: Some(RecordId::from_bytes(bytes(0xa0))),
        correlation: CommandId::from_bytes(bytes(0xb0)),
        time: TIME,
        seen: Seen { sequence: Sequence(41), root: digest(0xd0) },
    }
}

pub(crate) fn founding() -> Event {
    Event::ClusterFounded(ClusterFounded {
        cluster_id: cluster_id(),
        format_level: 1,
        cluster_public_key: public_key(&cluster_key()),
        root_key_commitment: digest(0x01),
        owner_token_hash: digest(0x41),
    })
}

/// The header of the founding record.
pub(crate) fn founding_header() -> Header {
    let founder = writer_id(&cluster_key());
    Header { writer: founder, stream: Stream::CLUSTER, actor: Actor::Node(founder), causation: None, seen: Seen::nothing(), ..header() }
}

pub(crate) fn enrolment() -> Event {
    let public_key = public_key(&writer_key());
    let cluster_signature = schemas::judge::sign_enrolment(cluster_id(), &public_key, &cluster_key());
    Event::WriterEnrolled(WriterEnrolled { public_key, cluster_signature })
}

fn sealed() -> Sealed {
    Sealed { subject: key_stream(), bytes: (0..48).collect() }
}

fn key_details() -> KeyDetails {
    KeyDetails {
        name: "ci für alle".into(),
        description: Some(sealed()),
        owner: Some("ada".into()),
        tags: vec!["build".into(), "nightly".into()],
        pools: vec![pool_id(), PoolId::from_bytes(bytes(0xe0))],
        models: vec!["gpt-*".into(), "claude-*".into()],
        endpoints: vec![Endpoint::ChatCompletions, Endpoint::Messages, Endpoint::Models],
        limits: Limits { requests_per_minute: Some(600), concurrency: Some(4) },
    }
}

fn upstream_details(dialect: Dialect) -> UpstreamDetails {
    UpstreamDetails {
        name: "primary".into(),
        dialect,
        base_url: "https://api.example.com/v1".into(),
        pool: pool_id(),
        priority: 50,
        weight: 300,
        models: vec!["gpt-*".into()],
    }
}

fn bound(mode: Mode) -> Bound {
    Bound { policy: digest(0x04), settings: "{\"limit\":3}".into(), mode, on_fault: OnFault::Skip }
}

/// One sample of every event, in the order of [`Event::NAMES`].
pub(crate) fn events() -> Vec<Event> {
    vec![
        founding(),
        Event::RootKeyAnnounced(RootKeyAnnounced { commitment: digest(0x09) }),
        Event::RootKeyWithdrawn(RootKeyWithdrawn { commitment: digest(0x09) }),
        Event::RootKeyChanged(RootKeyChanged { commitment: digest(0x09), previous: digest(0x01) }),
        Event::RootKeyDestroyed(RootKeyDestroyed { commitment: digest(0x01), data_keys: 200_300 }),
        Event::RootKeyBackedUp(RootKeyBackedUp { commitment: digest(0x09) }),
        enrolment(),
        Event::WriterRetired(WriterRetired { cluster_signature: Some(CounterSignature(std::array::from_fn(|index| index as u8))) }),
        Event::TenantCreated(TenantCreated { name: "Acme".into() }),
        Event::TenantChanged(TenantChanged {
            name: "Acme & Söhne".into(),
            default_expiry_seconds: Some(30 * 86_400),
            expiry_seconds_max: Some(90 * 86_400),
        }),
        Event::TenantSuspended(TenantSuspended { reason: Some(sealed()) }),
        Event::TenantResumed(TenantResumed {}),
        Event::TenantRotationsSet(TenantRotationsSet {
            rotations: vec![TagRotation { tag: "nightly".into(), every_seconds: 2_592_000, overlap_seconds: 604_800 }],
        }),
        Event::KeyCreated(KeyCreated { details: key_details(), hash: digest(0x02), expiry: Expiry::At(TIME.plus_seconds(86_400)) }),
        Event::KeyRenewed(KeyRenewed { expiry: Expiry::Never }),
        Event::KeyRotated(KeyRotated { number: 300, hash: digest(0x03), previous_valid_until: TIME.plus_seconds(3_600) }),
        Event::KeyDisabled(KeyDisabled { reason: Some(sealed()) }),
        Event::KeyEnabled(KeyEnabled {}),
        Event::KeyExpired(KeyExpired { expired_at: TIME }),
        Event::KeyRevoked(KeyRevoked { reason: Some(sealed()) }),
        Event::KeyChanged(KeyChanged { details: key_details() }),
        Event::KeyActivationAwaited(KeyActivationAwaited { seconds: 2_592_000 }),
        Event::KeyActivated(KeyActivated { first_used_at: TIME, expires_at: TIME.plus_seconds(2_592_000) }),
        Event::KeyOverlapFinished(KeyOverlapFinished {}),
        Event::KeyArchived(KeyArchived { reason: Some(sealed()) }),
        Event::KeyRestored(KeyRestored {}),
        Event::KeyPurged(KeyPurged {}),
        Event::KeySecretBrought(KeySecretBrought { number: 1, scheme: SecretScheme::ClaudeRelayService { salt: 300 } }),
        Event::KeySecretUpgraded(KeySecretUpgraded { number: 300, hash: digest(0x06), pepper: 2 }),
        Event::KeyMetadataSet(KeyMetadataSet { metadata: "{\"team\":\"ü\"}".into() }),
        Event::KeyUpstreamDedicated(KeyUpstreamDedicated { dedicated: Some(Dedicated { upstream: upstream_id(), fallback: true }) }),
        Event::KeyExpiryUnset(KeyExpiryUnset {}),
        Event::KeyLeakReported(KeyLeakReported {
            number: 300,
            scanner: "github/90a4".into(),
            source: Some("content".into()),
            url: Some(sealed()),
        }),
        Event::KeyRotationScheduled(KeyRotationScheduled { every_seconds: 2_592_000, overlap_seconds: 604_800 }),
        Event::KeyRotationUnscheduled(KeyRotationUnscheduled {}),
        Event::KeySuccessorSealed(KeySuccessorSealed { number: 300 }),
        Event::KeySuccessorCollected(KeySuccessorCollected { number: 300 }),
        Event::KeyImported(KeyImported {
            secrets: vec![
                ImportedSecret {
                    number: 299,
                    hash: digest(0x07),
                    scheme: SecretScheme::Peppered { pepper: 300 },
                    valid_until: Some(TIME.plus_seconds(3_600)),
                },
                ImportedSecret { number: 300, hash: digest(0x08), scheme: SecretScheme::Issued, valid_until: None },
            ],
            created_at: TIME,
            renewed_at: Some(TIME.plus_seconds(1)),
            rotated_at: Some(TIME.plus_seconds(2)),
        }),
        Event::UpstreamAdded(UpstreamAdded { details: upstream_details(Dialect::Openai), credential: Some(credential_id()) }),
        Event::UpstreamChanged(UpstreamChanged { details: upstream_details(Dialect::Anthropic), credential: Some(credential_id()) }),
        Event::UpstreamDisabled(UpstreamDisabled { reason: Some(sealed()) }),
        Event::UpstreamEnabled(UpstreamEnabled {}),
        Event::UpstreamRemoved(UpstreamRemoved {}),
        Event::UpstreamLabelled(UpstreamLabelled { labels: UpstreamLabels { region: Some("eu-west".into()), tags: vec!["fast".into()] } }),
        Event::CredentialAdded(CredentialAdded {
            upstream: upstream_id(),
            origin: "https://api.example.com".into(),
            fingerprint: "1:000102030405060708090a0b0c0d0e0f".into(),
        }),
        Event::CredentialReplaced(CredentialReplaced { secret_version: 300, fingerprint: "2:101112131415161718191a1b1c1d1e1f".into() }),
        Event::CredentialRevoked(CredentialRevoked {}),
        Event::RotationStaged(RotationStaged {
            rotation: rotation_id(),
            secret_version: 301,
            fingerprint: "2:202122232425262728292a2b2c2d2e2f".into(),
            compromise: true,
            window_seconds: 86_400,
            grace_seconds: 172_800,
            unused_seconds: Some(600),
            reason: Some(sealed()),
        }),
        Event::RotationInstalled(RotationInstalled { rotation: rotation_id(), by: Installer::Provider }),
        Event::RotationTested(RotationTested {
            rotation: rotation_id(),
            node: writer_id(&writer_key()),
            status: 200,
            account: Some("2:303132333435363738393a3b3c3d3e3f".into()),
            previous_account: Some("2:303132333435363738393a3b3c3d3e3f".into()),
        }),
        Event::RotationPromoted(RotationPromoted { rotation: rotation_id() }),
        Event::RotationDraining(RotationDraining { rotation: rotation_id(), cause: StepCause::Unused }),
        Event::RotationFinished(RotationFinished { rotation: rotation_id(), cause: StepCause::Due }),
        Event::RotationAborted(RotationAborted { rotation: rotation_id(), at: RotationStep::Installed, cause: EndCause::OtherAccount }),
        Event::RotationRolledBack(RotationRolledBack { rotation: rotation_id(), at: RotationStep::Dual, cause: EndCause::Refused }),
        Event::RotationFallbackUsed(RotationFallbackUsed {
            rotation: rotation_id(),
            node: writer_id(&writer_key()),
            uses: 300,
            last_used_at: TIME,
        }),
        Event::RotationOrdered(RotationOrdered {
            rotation: rotation_id(),
            provider: "openai-main".into(),
            compromise: true,
            window_seconds: 86_400,
            grace_seconds: 172_800,
            unused_seconds: Some(600),
        }),
        Event::RotationOrderClaimed(RotationOrderClaimed { rotation: rotation_id(), number: 300, node: writer_id(&writer_key()) }),
        Event::RotationOrderDropped(RotationOrderDropped { rotation: rotation_id(), cause: EndCause::Asked }),
        Event::ProviderKeyNoted(ProviderKeyNoted { secret_version: 301, provider: "openai-main".into(), key: "svc_acct_abc".into() }),
        Event::ProviderKeyRetired(ProviderKeyRetired { secret_version: 300, key: "svc_acct_abb".into() }),
        Event::CredentialAuthorized(CredentialAuthorized {
            provider: "google".into(),
            account: "1:202122232425262728292a2b2c2d2e2f".into(),
            scopes: vec!["openid".into(), "https://www.example.com/auth/models".into()],
            expires_at: Some(Timestamp::from_micros(1_763_803_600_000_000)),
            is_refreshable: true,
        }),
        Event::CredentialRefreshClaimed(CredentialRefreshClaimed { generation: 7, node: WriterId::from_bytes([0x31; 16]) }),
        Event::CredentialRefreshSent(CredentialRefreshSent { generation: 7 }),
        Event::CredentialRefreshed(CredentialRefreshed {
            generation: 7,
            secret_version: 301,
            fingerprint: "2:303132333435363738393a3b3c3d3e3f".into(),
            expires_at: None,
            is_rotated: true,
        }),
        Event::CredentialRefreshReleased(CredentialRefreshReleased { generation: 8, reason: RefreshFailure::RateLimited }),
        Event::CredentialLoginRequired(CredentialLoginRequired { reason: LoginReason::OutcomeUnknown }),
        Event::CredentialRefreshAsked(CredentialRefreshAsked { secret_version: 301 }),
        Event::PoolCreated(PoolCreated { name: "default".into() }),
        Event::PoolChanged(PoolChanged { name: "fast".into() }),
        Event::PoolRemoved(PoolRemoved {}),
        Event::PoolPriced(PoolPriced {
            prices: vec![ModelPrice {
                model: "gpt-*".into(),
                input: 3_000_000,
                output: 15_000_000,
                cache_read: Some(300_000),
                cache_write: None,
            }],
        }),
        Event::PolicyUploaded(PolicyUploaded {
            name: "cheapest".into(),
            digest: digest(0x04),
            uploaded_digest: digest(0x05),
            kind: PolicyKind::Route,
            class: PolicyClass::Slow,
            bytes: 19_456,
            manifest: "{\"name\":\"cheapest\"}".into(),
        }),
        Event::BindingCreated(BindingCreated { kind: PolicyKind::Quota, scope: Scope::Pool(pool_id()), bound: bound(Mode::Canary(10)) }),
        Event::BindingChanged(BindingChanged { bound: bound(Mode::Enforce) }),
        Event::BindingRolledBack(BindingRolledBack {}),
        Event::BindingRemoved(BindingRemoved {}),
        Event::LoginStarted(LoginStarted {
            provider: "google".into(),
            flow: LoginFlow::Code { redirect_uri: "http://127.0.0.1:8976/oauth/callback".into(), state_hash: digest(0x06) },
            upstream: upstream_id(),
            creates: Some(upstream_details(Dialect::Openai)),
            labels: UpstreamLabels { region: Some("eu-west".into()), tags: vec!["fast".into()] },
            account: Some("1:202122232425262728292a2b2c2d2e2f".into()),
            expires_at: Timestamp::from_micros(1_763_803_600_000_000),
        }),
        Event::LoginConsumed(LoginConsumed {}),
        Event::LoginReopened(LoginReopened { is_rate_limited: true }),
        Event::LoginExchanged(LoginExchanged {
            identity: Some(Sealed { subject: login_stream(), bytes: vec![1, 0xfe, 3] }),
            account: "1:202122232425262728292a2b2c2d2e2f".into(),
            scopes: vec!["openid".into()],
            token_expires_at: Some(Timestamp::from_micros(1_763_803_600_000_000)),
            is_refreshable: true,
            confirm_by: Timestamp::from_micros(1_763_804_200_000_000),
        }),
        Event::LoginConfirmed(LoginConfirmed {}),
        Event::LoginFailed(LoginFailed { code: LoginFailure::GrantIncomplete }),
        Event::LoginCancelled(LoginCancelled {}),
        Event::LoginMisused(LoginMisused { misuse: LoginMisuse::ForeignActor }),
    ]
}

#[test]
fn every_event_has_a_sample() {
    assert_eq!(events().iter().map(Event::name).collect::<Vec<_>>(), Event::NAMES);
}
