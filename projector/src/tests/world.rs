//! A small cluster whose log is written by hand: what a test says happened, as signed records.

use std::collections::HashMap;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use event_log::{EventLog as _, Expect, MemoryLog, Stored};
use schemas::aggregate::Head;
use schemas::cluster::{ClusterFounded, FORMAT_LEVEL};
use schemas::credential::CredentialAdded;
use schemas::judge::{retirement_statement, sign_enrolment};
use schemas::key::{Expiry, KeyArchived, KeyCreated, KeyDetails, KeyPurged, KeyRevoked, KeyRotated, Limits};
use schemas::pool::PoolCreated;
use schemas::record::{Header, Seen, encode};
use schemas::upstream::{Dialect, UpstreamAdded, UpstreamDetails};
use schemas::writer::{CounterSignature, WriterEnrolled, WriterRetired};
use schemas::{
    Actor, ClusterId, CommandId, CredentialId, Digest, Event, KeyId, PoolId, PublicKey, Sequence, Stream, TenantId, Timestamp, UpstreamId,
    WriterId,
};

pub(crate) const ORIGIN: &str = "https://api.example.com";
/// 2026-01-01, a second per record from there.
const BEGIN_MICROS: u64 = 1_767_225_600_000_000;

pub(crate) struct World {
    pub(crate) records: Vec<Stored>,
    pub(crate) seen: Seen,
    cluster: ClusterId,
    cluster_key: SigningKey,
    writer_key: SigningKey,
    heads: HashMap<Stream, Head>,
    commands: u64,
    pub(crate) now: Timestamp,
}

pub(crate) fn tenant() -> TenantId {
    TenantId::default_tenant()
}

pub(crate) fn key_id(n: u8) -> KeyId {
    KeyId::from_bytes([n; 16])
}

pub(crate) fn key_stream(n: u8) -> Stream {
    Stream::key(tenant(), key_id(n))
}

/// The hash of a key's secret.
pub(crate) fn hash(key: u8, number: u32) -> Digest {
    Digest::blake3(&[key, number as u8])
}

fn public_key(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

impl World {
    /// Sequence 1 is the founding, 2 the writer's enrolment.
    pub(crate) fn founded() -> Self {
        Self::founded_as(1)
    }

    pub(crate) fn founded_as(cluster: u8) -> Self {
        let (cluster_key, writer_key) = (SigningKey::from_bytes(&[cluster; 32]), SigningKey::from_bytes(&[100; 32]));
        let mut world = Self {
            records: Vec::new(),
            seen: Seen::nothing(),
            cluster: ClusterId::from_bytes([cluster; 16]),
            cluster_key: cluster_key.clone(),
            writer_key: writer_key.clone(),
            heads: HashMap::new(),
            commands: 0,
            now: Timestamp::from_micros(BEGIN_MICROS),
        };
        let cluster_id = world.cluster;
        let founded = ClusterFounded {
            cluster_id,
            format_level: FORMAT_LEVEL,
            cluster_public_key: public_key(&cluster_key),
            root_key_commitment: Digest::blake3(b"root"),
            owner_token_hash: Digest::blake3(b"owner"),
        };
        world.writer_key = cluster_key;
        world.append(&Stream::CLUSTER, &[Event::ClusterFounded(founded)]);
        world.writer_key = writer_key;
        let public_key = public_key(&world.writer_key);
        let cluster_signature = sign_enrolment(cluster_id, &public_key, &world.cluster_key);
        let enrolled = Event::WriterEnrolled(WriterEnrolled { public_key, cluster_signature });
        world.append(&Stream::writer(WriterId::of(&public_key)), &[enrolled]);
        world
    }

    /// A valid record of a command of its own.
    pub(crate) fn append(&mut self, stream: &Stream, events: &[Event]) -> Sequence {
        self.commands += 1;
        self.append_as(CommandId::from_bytes(u128::from(self.commands).to_be_bytes()), stream, events)
    }

    pub(crate) fn append_as(&mut self, command: CommandId, stream: &Stream, events: &[Event]) -> Sequence {
        let bytes = self.record(command, stream, events);
        let sequence = self.append_bytes(&stream.subject(), bytes);
        let head = self.heads.entry(stream.clone()).or_default();
        head.version = head.version.next();
        self.now = self.now.plus_seconds(1);
        sequence
    }

    /// The bytes of the record that would come next on a stream.
    pub(crate) fn record(&self, command: CommandId, stream: &Stream, events: &[Event]) -> Vec<u8> {
        let header = Header {
            writer: WriterId::of(&public_key(&self.writer_key)),
            record_id: command.record_id(),
            command_id: command,
            request_digest: Digest::blake3(command.as_bytes()),
            stream: stream.clone(),
            version: self.heads.get(stream).copied().unwrap_or_default().version.next(),
            actor: Actor::Owner,
            causation: None,
            correlation: command,
            time: self.now,
            seen: self.seen,
        };
        encode(self.cluster, &header, events, &self.writer_key).unwrap()
    }

    /// Whatever anybody could put into the log.
    pub(crate) fn append_bytes(&mut self, subject: &str, bytes: impl Into<Vec<u8>>) -> Sequence {
        let sequence = Sequence(self.records.len() as u64 + 1);
        self.records.push(Stored { sequence, subject: Arc::from(subject), bytes: bytes.into().into() });
        sequence
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus_seconds(seconds);
    }

    pub(crate) fn create_key(&mut self, n: u8) -> Sequence {
        self.append(&key_stream(n), &[key_created(n, hash(n, 1))])
    }

    pub(crate) fn rotate_key(&mut self, n: u8, number: u32) -> Sequence {
        let previous_valid_until = self.now.plus_seconds(3600);
        self.append(&key_stream(n), &[Event::KeyRotated(KeyRotated { number, hash: hash(n, number), previous_valid_until })])
    }

    pub(crate) fn revoke_key(&mut self, n: u8) -> Sequence {
        self.append(&key_stream(n), &[Event::KeyRevoked(KeyRevoked { reason: None })])
    }

    pub(crate) fn purge_key(&mut self, n: u8) -> Sequence {
        self.append(&key_stream(n), &[Event::KeyArchived(KeyArchived { reason: None })]);
        self.append(&key_stream(n), &[Event::KeyPurged(KeyPurged {})])
    }

    /// A credential, then an upstream that uses it.
    pub(crate) fn add_upstream(&mut self, n: u8) -> Sequence {
        let (upstream, credential) = (UpstreamId::from_bytes([n; 16]), CredentialId::from_bytes([n; 16]));
        let added = CredentialAdded { upstream, origin: ORIGIN.into(), fingerprint: "1:00".into() };
        self.append(&Stream::credential(tenant(), credential), &[Event::CredentialAdded(added)]);
        let details = UpstreamDetails {
            name: format!("u{n}"),
            dialect: Dialect::Openai,
            base_url: format!("{ORIGIN}/v1"),
            pool: PoolId::from_bytes([1; 16]),
            priority: 1,
            weight: 1,
            models: vec![],
        };
        let added = Event::UpstreamAdded(UpstreamAdded { details, credential: Some(credential) });
        self.append(&Stream::upstream(tenant(), upstream), &[added])
    }

    pub(crate) fn create_pool(&mut self, n: u8) -> Sequence {
        let stream = Stream::pool(tenant(), PoolId::from_bytes([n; 16]));
        self.append(&stream, &[Event::PoolCreated(PoolCreated { name: format!("p{n}") })])
    }

    /// What is not in the log yet goes there.
    pub(crate) async fn write_to(&self, log: &MemoryLog) {
        let head = log.head().await.unwrap().0 as usize;
        for stored in &self.records[head..] {
            let subject = log.last(&stored.subject).await.unwrap();
            let _appended = log.append(&stored.subject, Expect { subject, log: None }, stored.bytes.clone()).await.unwrap();
        }
    }

    pub(crate) async fn log(&self) -> MemoryLog {
        let log = MemoryLog::new();
        self.write_to(&log).await;
        log
    }

    pub(crate) fn cluster(&self) -> (ClusterId, PublicKey) {
        (self.cluster, public_key(&self.cluster_key))
    }

    pub(crate) fn writer(&self) -> PublicKey {
        public_key(&self.writer_key)
    }

    pub(crate) fn sign(&self, statement: &[u8]) -> [u8; 64] {
        self.writer_key.sign(statement).to_bytes()
    }

    /// What comes is signed with another key.
    pub(crate) fn sign_as(&mut self, key: SigningKey) {
        self.writer_key = key;
    }

    /// An enrolment in this cluster.
    pub(crate) fn enrolment_of(&self, key: &SigningKey) -> WriterEnrolled {
        let public_key = public_key(key);
        WriterEnrolled { public_key, cluster_signature: sign_enrolment(self.cluster, &public_key, &self.cluster_key) }
    }

    /// The cluster retires its own writer.
    pub(crate) fn retire_writer(&mut self) -> Sequence {
        let writer = WriterId::of(&self.writer());
        let statement = retirement_statement(self.cluster, writer);
        let cluster_signature = Some(CounterSignature(self.cluster_key.sign(&statement).to_bytes()));
        self.append(&Stream::writer(writer), &[Event::WriterRetired(WriterRetired { cluster_signature })])
    }

    pub(crate) fn head(&self) -> Sequence {
        Sequence(self.records.len() as u64)
    }
}

pub(crate) fn key_created(n: u8, hash: Digest) -> Event {
    let details = KeyDetails {
        name: format!("key {n}"),
        description: None,
        owner: None,
        tags: vec![],
        pools: vec![PoolId::from_bytes([1; 16])],
        models: vec![],
        endpoints: vec![],
        limits: Limits::default(),
    };
    Event::KeyCreated(KeyCreated { details, hash, expiry: Expiry::Never })
}
