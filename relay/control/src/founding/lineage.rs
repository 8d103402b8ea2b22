//! The cluster as its own stream in the log has it by now, for a start before anything is folded: the root keys may have changed since the
//! founding. Every record is judged as the projector judges it; what is void there changes nothing here.

use ed25519_dalek::{Signature, VerifyingKey};
use event_log::{EventLog, RUN_RECORDS_MAX, Stored};
use schemas::cluster::Cluster;
use schemas::judge::{self, Prefix, Verdict};
use schemas::record::Frame;
use schemas::{Aggregate, ClusterId, Event, Sequence, Stream, Version, WriterId, aggregate};

use super::FoundingError;

/// What follows on the founding, on the cluster's stream.
pub(super) async fn follow(log: &dyn EventLog, founded: Cluster) -> Result<Cluster, FoundingError> {
    let key = VerifyingKey::from_bytes(founded.public_key.as_bytes()).map_err(|_| FoundingError::NotFounded)?;
    let mut past = Past { cluster: (founded.id, key), writer: None, stream: Stream::CLUSTER, version: Version(1) };
    let mut state = Aggregate::Cluster(founded);
    for stored in records(log, &Stream::CLUSTER, Sequence(1)).await? {
        let Ok(frame) = Frame::parse(&stored.bytes) else { continue };
        past.writer = past.writer_at(log, frame.writer, stored.sequence).await?;
        match judge::judge(&past, &stored.subject, &stored.bytes) {
            Verdict::Valid(record) => {
                past.version = record.header.version;
                // An event that cannot follow stops the fold, and with it every node; here it ends what can be told.
                match aggregate::apply_record(Some(state.clone()), &record) {
                    Ok(Some(next)) => state = next,
                    Ok(None) | Err(_) => break,
                }
            }
            Verdict::Void(_) => {}
            Verdict::Stop(reason) => return Err(FoundingError::Newer(reason)),
        }
    }
    match state {
        Aggregate::Cluster(cluster) => Ok(cluster),
        _ => Err(FoundingError::NotFounded),
    }
}

/// All that stands on a stream after a sequence, whoever wrote it.
async fn records(log: &dyn EventLog, stream: &Stream, mut after: Sequence) -> Result<Vec<Stored>, FoundingError> {
    let (subject, mut records) = (stream.subject(), Vec::new());
    loop {
        let run = log.read_subject(&subject, after, RUN_RECORDS_MAX).await?;
        let Some(last) = run.last() else { return Ok(records) };
        after = last.sequence;
        records.extend(run);
    }
}

/// The log before a record, as far as the record's verdict depends on it.
struct Past {
    cluster: (ClusterId, VerifyingKey),
    /// Whose record it is, where that writer counts.
    writer: Option<(WriterId, VerifyingKey)>,
    stream: Stream,
    version: Version,
}

impl Past {
    /// A writer and its key, if it was enrolled before a place in the log and not retired.
    async fn writer_at(&self, log: &dyn EventLog, id: WriterId, at: Sequence) -> Result<Option<(WriterId, VerifyingKey)>, FoundingError> {
        let stream = Stream::writer(id);
        let mut own = Self { cluster: self.cluster, writer: None, stream: stream.clone(), version: Version(0) };
        for stored in records(log, &stream, Sequence::ZERO).await?.into_iter().take_while(|stored| stored.sequence < at) {
            if let Verdict::Valid(record) = judge::judge(&own, &stored.subject, &stored.bytes) {
                own.version = record.header.version;
                for event in &record.events {
                    own.writer = match event {
                        Event::WriterEnrolled(enrolled) => {
                            VerifyingKey::from_bytes(enrolled.public_key.as_bytes()).ok().map(|key| (id, key))
                        }
                        _ => None,
                    };
                }
            } else if self.is_retired_by_cluster(id, &stored) {
                // Written by another node: its own standing does not matter, for the cluster key has signed it.
                own.writer = None;
            }
            if own.version.0 > 0 && own.writer.is_none() {
                return Ok(None);
            }
        }
        Ok(own.writer)
    }

    fn is_retired_by_cluster(&self, id: WriterId, stored: &Stored) -> bool {
        let events = Frame::parse(&stored.bytes).ok().and_then(|frame| frame.events().ok()).unwrap_or_default();
        let statement = judge::retirement_statement(self.cluster.0, id);
        events.iter().any(|event| match event {
            Event::WriterRetired(retired) => retired
                .cluster_signature
                .as_ref()
                .is_some_and(|signature| self.cluster.1.verify_strict(&statement, &Signature::from_bytes(&signature.0)).is_ok()),
            _ => false,
        })
    }
}

impl Prefix for Past {
    fn cluster(&self) -> Option<(ClusterId, VerifyingKey)> {
        Some(self.cluster)
    }

    fn writer(&self, id: WriterId) -> Option<VerifyingKey> {
        self.writer.filter(|(writer, _)| *writer == id).map(|(_, key)| key)
    }

    fn version(&self, stream: &Stream) -> Version {
        if *stream == self.stream { self.version } else { Version(0) }
    }
}
