//! A cluster made by hand: a founding, an enrolment, and as many signed keys as are wanted.

use anyhow::Result;
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use schemas::cluster::{ClusterFounded, FORMAT_LEVEL};
use schemas::judge::sign_enrolment;
use schemas::key::{Expiry, KeyCreated, KeyDetails, Limits};
use schemas::record::{Header, Seen, encode};
use schemas::writer::WriterEnrolled;
use schemas::{
    Actor, ClusterId, CommandId, Digest, Event, KeyId, PoolId, PublicKey, Stream, TenantId, Timestamp, Version, WriterId, client_key,
};

const CLUSTER: ClusterId = ClusterId::from_bytes([1; 16]);
/// 2026-01-01.
const TIME: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// Signs records as the one writer of a cluster.
pub(crate) struct Founded {
    cluster: ClusterId,
    cluster_key: SigningKey,
    writer_key: SigningKey,
}

/// A record and where it goes.
pub(crate) type Signed = (String, Bytes);

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

fn id_bytes(number: usize) -> [u8; 16] {
    let mut id = [0; 16];
    // Spread like the random ids of real keys.
    id.copy_from_slice(&Digest::blake3(&number.to_be_bytes()).as_bytes()[..16]);
    id
}

/// The hash of the secret of a key.
pub(crate) fn hash(number: usize) -> Digest {
    client_key::hash(&format!("sk-kr-bench-{number}"))
}

pub(crate) fn key_stream(number: usize) -> Stream {
    Stream::key(TenantId::default_tenant(), KeyId::from_bytes(id_bytes(number)))
}

impl Founded {
    pub(crate) fn new() -> Self {
        Self { cluster: CLUSTER, cluster_key: SigningKey::from_bytes(&[1; 32]), writer_key: SigningKey::from_bytes(&[2; 32]) }
    }

    /// A writer that a node has enrolled in the cluster it founded. Only keys can be signed so: the cluster's key is the node's.
    pub(crate) fn enrolled(cluster: ClusterId, writer_key: &[u8; 32]) -> Self {
        Self { cluster, writer_key: SigningKey::from_bytes(writer_key), ..Self::new() }
    }

    /// The cluster and its key, as the founding says them.
    pub(crate) fn cluster(&self) -> (ClusterId, PublicKey) {
        (self.cluster, public(&self.cluster_key))
    }

    /// The writer's key.
    pub(crate) fn writer(&self) -> PublicKey {
        public(&self.writer_key)
    }

    /// Signs bytes that are no record.
    pub(crate) fn sign_statement(&self, statement: &[u8]) -> [u8; 64] {
        self.writer_key.sign(statement).to_bytes()
    }

    /// The records that every log begins with.
    pub(crate) fn beginning(&self) -> Result<Vec<Signed>> {
        let founded = Event::ClusterFounded(ClusterFounded {
            cluster_id: self.cluster,
            format_level: FORMAT_LEVEL,
            cluster_public_key: public(&self.cluster_key),
            root_key_commitment: Digest::blake3(b"root"),
            owner_token_hash: Digest::blake3(b"owner"),
        });
        let public_key = public(&self.writer_key);
        let cluster_signature = sign_enrolment(self.cluster, &public_key, &self.cluster_key);
        let enrolled = Event::WriterEnrolled(WriterEnrolled { public_key, cluster_signature });
        let writer = Stream::writer(WriterId::of(&public_key));
        Ok(vec![self.sign(&Stream::CLUSTER, 1, founded, &self.cluster_key, 1)?, self.sign(&writer, 1, enrolled, &self.writer_key, 2)?])
    }

    /// The creation of a key.
    pub(crate) fn key(&self, number: usize) -> Result<Signed> {
        self.event(number, 1, created(number))
    }

    /// Any event of a key.
    pub(crate) fn event(&self, number: usize, version: u64, event: Event) -> Result<Signed> {
        self.sign(&key_stream(number), version, event, &self.writer_key, (number as u64) << 20 | version << 4)
    }

    fn sign(&self, stream: &Stream, version: u64, event: Event, key: &SigningKey, command: u64) -> Result<Signed> {
        let command_id = CommandId::from_bytes(u128::from(command).to_be_bytes());
        let header = Header {
            writer: WriterId::of(&public(key)),
            record_id: command_id.record_id(),
            command_id,
            request_digest: Digest::blake3(command_id.as_bytes()),
            stream: stream.clone(),
            version: Version(version),
            actor: Actor::Owner,
            causation: None,
            correlation: command_id,
            time: TIME,
            seen: Seen::nothing(),
        };
        Ok((stream.subject(), encode(self.cluster, &header, &[event], key)?.into()))
    }
}

fn created(number: usize) -> Event {
    let details = KeyDetails {
        name: format!("bench-{number}"),
        description: None,
        owner: None,
        tags: Vec::new(),
        pools: vec![PoolId::from_bytes([3; 16])],
        models: vec!["gpt-*".to_owned()],
        endpoints: Vec::new(),
        limits: Limits { requests_per_minute: Some(60), concurrency: Some(4) },
    };
    Event::KeyCreated(KeyCreated { details, hash: hash(number), expiry: Expiry::Never })
}
