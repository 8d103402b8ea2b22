//! Writers: the nodes whose signatures count.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::event::Event;
use crate::id::{PublicKey, WriterId};

/// An Ed25519 signature of the cluster key over a statement, see [`crate::judge::enrolment_statement`]. Base64 in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterSignature(pub [u8; 64]);

impl Serialize for CounterSignature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::BASE64.encode(&self.0))
        } else {
            let (head, tail) = self.0.split_at(32);
            (<[u8; 32]>::try_from(head).expect("half of 64 bytes"), <[u8; 32]>::try_from(tail).expect("half of 64 bytes"))
                .serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for CounterSignature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut out = [0; 64];
        if deserializer.is_human_readable() {
            let text = Cow::<'de, str>::deserialize(deserializer)?;
            let bytes = data_encoding::BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
            out = bytes.try_into().map_err(|_| serde::de::Error::custom("expected 64 bytes"))?;
        } else {
            let (head, tail) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
            out[..32].copy_from_slice(&head);
            out[32..].copy_from_slice(&tail);
        }
        Ok(Self(out))
    }
}

impl JsonSchema for CounterSignature {
    fn schema_name() -> Cow<'static, str> {
        "CounterSignature".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "contentEncoding": "base64" })
    }
}

/// A node may sign records. Signed by the key it enrols, and by the cluster key within.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WriterEnrolled {
    pub public_key: PublicKey,
    pub cluster_signature: CounterSignature,
}

/// A node may sign no more. Valid if the writer itself signs the record, or with the cluster key's signature here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WriterRetired {
    pub cluster_signature: Option<CounterSignature>,
}

/// The state of a writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    pub id: WriterId,
    pub public_key: PublicKey,
    pub retired: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriterCommand {
    Enrol(WriterEnrolled),
    Retire(WriterRetired),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriterError {
    #[error("the writer is enrolled already")]
    AlreadyEnrolled,
    #[error("the writer is not enrolled")]
    NotEnrolled,
    #[error("the writer is retired; a retired writer does not come back, it gets a new key")]
    Retired,
}

impl Writer {
    pub(crate) fn decide(state: Option<&Self>, command: &WriterCommand) -> Result<Vec<Event>, WriterError> {
        match (state, command) {
            (None, WriterCommand::Enrol(enrolled)) => Ok(vec![Event::WriterEnrolled(enrolled.clone())]),
            (None, WriterCommand::Retire(_)) => Err(WriterError::NotEnrolled),
            (Some(Self { retired: true, .. }), _) => Err(WriterError::Retired),
            (Some(_), WriterCommand::Enrol(_)) => Err(WriterError::AlreadyEnrolled),
            (Some(_), WriterCommand::Retire(retired)) => Ok(vec![Event::WriterRetired(retired.clone())]),
        }
    }

    pub(crate) fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        match (state, event) {
            (None, Event::WriterEnrolled(enrolled)) => {
                Some(Self { id: WriterId::of(&enrolled.public_key), public_key: enrolled.public_key, retired: false })
            }
            (Some(writer), Event::WriterRetired(_)) if !writer.retired => Some(Self { retired: true, ..writer }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Aggregate, Command};
    use crate::rules::{self, Given};
    use crate::stream::Stream;

    const PUBLIC_KEY: PublicKey = PublicKey::from_bytes([7; 32]);

    fn given(events: impl IntoIterator<Item = Event>) -> Given {
        rules::given(Stream::writer(WriterId::of(&PUBLIC_KEY)), events)
    }

    fn enrolment() -> WriterEnrolled {
        WriterEnrolled { public_key: PUBLIC_KEY, cluster_signature: CounterSignature([9; 64]) }
    }

    fn enrol() -> Command {
        Command::Writer(WriterCommand::Enrol(enrolment()))
    }

    fn enrolled() -> Event {
        Event::WriterEnrolled(enrolment())
    }

    fn retire() -> Command {
        Command::Writer(WriterCommand::Retire(WriterRetired { cluster_signature: None }))
    }

    fn retired() -> Event {
        Event::WriterRetired(WriterRetired { cluster_signature: None })
    }

    #[test]
    fn a_writer_is_enrolled_under_the_id_of_its_key() {
        let Aggregate::Writer(writer) = given([]).when(enrol()).then([enrolled()]).state() else { panic!("not a writer") };
        assert_eq!(writer, Writer { id: WriterId::of(&PUBLIC_KEY), public_key: PUBLIC_KEY, retired: false });
    }

    #[test]
    fn a_writer_is_enrolled_once() {
        given([enrolled()]).when(enrol()).then_refused(WriterError::AlreadyEnrolled);
    }

    #[test]
    fn a_writer_that_is_not_enrolled_cannot_be_retired() {
        given([]).when(retire()).then_refused(WriterError::NotEnrolled);
    }

    #[test]
    fn a_retired_writer_does_not_come_back() {
        let given = given([enrolled()]).when(retire()).then([retired()]);
        given.when(enrol()).then_refused(WriterError::Retired).when(retire()).then_refused(WriterError::Retired);
    }

    #[test]
    fn a_countersignature_is_base64_in_json_and_64_bytes_in_postcard() {
        let signature = CounterSignature(std::array::from_fn(|index| index as u8));
        let json = serde_json::to_string(&signature).unwrap();
        assert_eq!(json.len(), 2 + 88);
        assert_eq!(serde_json::from_str::<CounterSignature>(&json).unwrap(), signature);
        assert_eq!(postcard::to_allocvec(&signature).unwrap(), signature.0);
        for wrong in ["\"\"", "\"AAAA\"", "\"!\""] {
            assert!(serde_json::from_str::<CounterSignature>(wrong).is_err(), "{wrong}");
        }
    }
}
