//! The smallest log there can be: what the valid records so far say, in memory.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use schemas::aggregate::{Aggregate, apply_record};
use schemas::judge::{Prefix, VoidReason};
use schemas::record::{self, HEADER_LENGTH, Header};
use schemas::{ClusterId, Event, Stream, Verdict, Version, WriterId, judge};

use crate::samples;

#[derive(Default)]
pub(crate) struct Log {
    streams: BTreeMap<Stream, (Version, Aggregate)>,
}

impl Prefix for Log {
    fn cluster(&self) -> Option<(ClusterId, VerifyingKey)> {
        match self.streams.get(&Stream::CLUSTER) {
            Some((_, Aggregate::Cluster(cluster))) => Some((cluster.id, VerifyingKey::from_bytes(cluster.public_key.as_bytes()).unwrap())),
            _ => None,
        }
    }

    fn writer(&self, id: WriterId) -> Option<VerifyingKey> {
        match self.streams.get(&Stream::writer(id)) {
            Some((_, Aggregate::Writer(writer))) if !writer.retired => {
                Some(VerifyingKey::from_bytes(writer.public_key.as_bytes()).unwrap())
            }
            _ => None,
        }
    }

    fn version(&self, stream: &Stream) -> Version {
        self.streams.get(stream).map_or(Version::default(), |(version, _)| *version)
    }
}

impl Log {
    /// A log with its founding and no writer.
    pub(crate) fn founded() -> Self {
        let mut log = Self::default();
        log.admit(&Draft::founding());
        log
    }

    /// A founded log in which the sample writer is enrolled.
    pub(crate) fn enrolled() -> Self {
        let mut log = Self::founded();
        log.admit(&Draft::enrolment());
        log
    }

    pub(crate) fn judge(&self, draft: &Draft) -> Verdict {
        judge(self, &draft.subject, &draft.bytes())
    }

    pub(crate) fn assert_void(&self, draft: &Draft, reason: VoidReason) {
        assert_eq!(self.judge(draft), Verdict::Void(reason));
    }

    /// Judges a record valid and folds it.
    pub(crate) fn admit(&mut self, draft: &Draft) {
        let Verdict::Valid(record) = self.judge(draft) else { panic!("not valid: {:?}", self.judge(draft)) };
        let stream = &record.header.stream;
        let state = self.streams.get(stream).map(|(_, state)| state.clone());
        let state = apply_record(state, &record).unwrap().unwrap();
        self.streams.insert(stream.clone(), (record.header.version, state));
    }
}

/// A record to be put into a log, before it is encoded and signed.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) subject: String,
    pub(crate) header: Header,
    pub(crate) events: Vec<Event>,
    pub(crate) key: SigningKey,
}

impl Draft {
    pub(crate) fn new(header: Header, event: Event, key: SigningKey) -> Self {
        Self { subject: header.stream.subject(), header, events: vec![event], key }
    }

    pub(crate) fn founding() -> Self {
        Self::new(samples::founding_header(), samples::founding(), samples::cluster_key())
    }

    /// The enrolment of the sample writer.
    pub(crate) fn enrolment() -> Self {
        let header = Header { stream: Stream::writer(samples::writer_id(&samples::writer_key())), ..samples::header() };
        Self::new(header, samples::enrolment(), samples::writer_key())
    }

    /// The creation of the sample key, by the sample writer.
    pub(crate) fn key_created() -> Self {
        Self::new(samples::header(), sample("KeyCreated"), samples::writer_key())
    }

    pub(crate) fn version(mut self, version: u64) -> Self {
        self.header.version = Version(version);
        self
    }

    /// The same, written and signed by another writer.
    pub(crate) fn by(mut self, key: SigningKey) -> Self {
        self.header.writer = samples::writer_id(&key);
        self.key = key;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        record::encode(samples::cluster_id(), &self.header, &self.events, &self.key).unwrap()
    }

    /// The bytes after a change to the header that the writer itself signs.
    pub(crate) fn signed_after(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = self.bytes();
        change(&mut bytes[..HEADER_LENGTH]);
        sign(&mut bytes, &self.key);
        bytes
    }

    /// The bytes with another payload, to which the writer itself commits.
    pub(crate) fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.truncate(HEADER_LENGTH + 64);
        bytes[6..10].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes[26..58].copy_from_slice(schemas::Digest::blake3(payload).as_bytes());
        sign(&mut bytes, &self.key);
        bytes.extend_from_slice(payload);
        bytes
    }
}

fn sign(bytes: &mut [u8], key: &SigningKey) {
    let signature = key.sign(&record::signed_bytes(samples::cluster_id(), &bytes[..HEADER_LENGTH])).to_bytes();
    bytes[HEADER_LENGTH..HEADER_LENGTH + 64].copy_from_slice(&signature);
}

/// The sample of the event with this name.
pub(crate) fn sample(name: &str) -> Event {
    samples::events().into_iter().find(|event| event.name() == name).unwrap()
}
