//! Sealed fields: personal free text that stands in the log only as ciphertext.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stream::Stream;

/// A personal field (description, reason, e-mail, network address), sealed under the key of the aggregate that carries it.
///
/// Destroying that key erases the field everywhere at once: the log, its copies and its exports keep only these bytes.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Sealed {
    /// The aggregate whose subject key seals this.
    pub subject: Stream,
    /// As the vault writes them; base64 in JSON.
    #[serde(with = "base64_text")]
    #[schemars(with = "String")]
    pub bytes: Vec<u8>,
}

/// Bytes as base64 on human-readable wires.
mod base64_text {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Vec<u8>, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::BASE64.encode(bytes))
        } else {
            bytes.serialize(serializer)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            let text = Cow::<'de, str>::deserialize(deserializer)?;
            data_encoding::BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)
        } else {
            Vec::deserialize(deserializer)
        }
    }
}

impl Sealed {
    /// The most bytes a sealed field may hold: 4 KiB of text and the vault's framing.
    pub const BYTES_MAX: usize = 4096 + 64;
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}, {} bytes)", self.subject, self.bytes.len())
    }
}
