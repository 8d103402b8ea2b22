//! What the log says about the node that takes or took a snapshot: asked of the log itself, since whoever installs has no rows yet.

use ed25519_dalek::{Signature, VerifyingKey};
use event_log::{EventLog, RUN_RECORDS_MAX, ReadError, Stored};
use schemas::judge::retirement_statement;
use schemas::record::{Frame, signed_bytes};
use schemas::writer::{WriterEnrolled, WriterRetired};
use schemas::{ClusterId, Event, PublicKey, Sequence, Stream, WriterId};

use super::manifest::{is_enrolled, key_of};

/// A writer, and the cluster in which it counts.
pub(super) struct WriterOf<'a> {
    pub cluster: ClusterId,
    pub cluster_key: &'a VerifyingKey,
    pub public_key: PublicKey,
}

impl WriterOf<'_> {
    /// The record of its enrolment; none if the cluster key has not enrolled it.
    pub(super) async fn enrolment(&self, log: &dyn EventLog) -> Result<Option<WriterEnrolled>, ReadError> {
        let records = self.records(log).await?;
        let mut enrolments = events(&records).filter_map(|(_, event)| match event {
            Event::WriterEnrolled(enrolled) => Some(enrolled),
            _ => None,
        });
        Ok(enrolments.find(|enrolled| enrolled.public_key == self.public_key && is_enrolled(enrolled, self.cluster, self.cluster_key)))
    }

    /// Whether it is retired. Errs on that side: a retirement that is void for another reason than its signatures counts too.
    pub(super) async fn is_retired(&self, log: &dyn EventLog) -> Result<bool, ReadError> {
        let records = self.records(log).await?;
        Ok(events(&records).any(|(frame, event)| match event {
            Event::WriterRetired(retired) => self.is_own(&frame) || self.is_countersigned(&retired),
            _ => false,
        }))
    }

    fn is_own(&self, frame: &Frame<'_>) -> bool {
        let signed = signed_bytes(self.cluster, frame.header_bytes);
        key_of(&self.public_key).is_some_and(|key| key.verify_strict(&signed, &Signature::from_bytes(frame.signature)).is_ok())
    }

    fn is_countersigned(&self, retired: &WriterRetired) -> bool {
        let statement = retirement_statement(self.cluster, WriterId::of(&self.public_key));
        let signature = retired.cluster_signature.map(|signature| Signature::from_bytes(&signature.0));
        signature.is_some_and(|signature| self.cluster_key.verify_strict(&statement, &signature).is_ok())
    }

    /// All that stands on the writer's subject, whoever wrote it.
    async fn records(&self, log: &dyn EventLog) -> Result<Vec<Stored>, ReadError> {
        let subject = Stream::writer(WriterId::of(&self.public_key)).subject();
        let (mut records, mut after) = (Vec::new(), Sequence::ZERO);
        loop {
            let run = log.read_subject(&subject, after, RUN_RECORDS_MAX).await?;
            let Some(last) = run.last() else { return Ok(records) };
            after = last.sequence;
            records.extend(run);
        }
    }
}

/// The events of all records that have any, each with its frame.
fn events(records: &[Stored]) -> impl Iterator<Item = (Frame<'_>, Event)> {
    let framed = records.iter().filter_map(|stored| Frame::parse(&stored.bytes).ok());
    framed.flat_map(|frame| frame.events().unwrap_or_default().into_iter().map(move |event| (frame, event)))
}
