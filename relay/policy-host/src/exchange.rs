//! What goes into a policy and what comes out, whatever its kind, and the canonical bytes of both.

use schemas::Digest;
use schemas::policy::PolicyKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::contract::{Verdict, expiry, quota, route};

/// The first byte of an encoded input or output: the contract's version 1 in postcard.
const FORMAT: u8 = 1;

/// What a policy is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    Expiry(expiry::Input),
    Quota(quota::Input),
    Route(route::Input),
}

/// What a policy answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    Expiry(expiry::Output),
    Quota(quota::Output),
    Route(route::Output),
}

impl Input {
    pub const fn kind(&self) -> PolicyKind {
        match self {
            Self::Expiry(_) => PolicyKind::Expiry,
            Self::Quota(_) => PolicyKind::Quota,
            Self::Route(_) => PolicyKind::Route,
        }
    }

    /// The canonical bytes: what a decision record keeps and what [`Self::digest`] stands for.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// None for bytes that [`Self::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }

    /// BLAKE3 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::blake3(&self.encode())
    }

    /// How many canonical bytes there are, without writing them.
    pub fn encoded_bytes(&self) -> usize {
        encoded_bytes(self)
    }
}

impl Output {
    pub const fn kind(&self) -> PolicyKind {
        match self {
            Self::Expiry(_) => PolicyKind::Expiry,
            Self::Quota(_) => PolicyKind::Quota,
            Self::Route(_) => PolicyKind::Route,
        }
    }

    pub const fn verdict(&self) -> &Verdict {
        match self {
            Self::Expiry(output) => &output.verdict,
            Self::Quota(output) => &output.verdict,
            Self::Route(output) => &output.verdict,
        }
    }

    /// The canonical bytes: equal outputs have equal ones.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// None for bytes that [`Self::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }

    /// BLAKE3 of the canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::blake3(&self.encode())
    }

    /// How many canonical bytes there are, without writing them.
    pub fn encoded_bytes(&self) -> usize {
        encoded_bytes(self)
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT]).expect("plain data; encoding to memory cannot fail")
}

fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<T> {
    let (format, body) = bytes.split_first()?;
    let (value, rest) = postcard::take_from_bytes::<T>(body).ok()?;
    // Postcard reads more than one spelling of a number; only the one that it writes is canonical.
    let is_canonical = || encode(&value) == bytes;
    (*format == FORMAT && rest.is_empty() && is_canonical()).then_some(value)
}

fn encoded_bytes(value: &impl Serialize) -> usize {
    let size = postcard::serialize_with_flavor(value, postcard::ser_flavors::Size::default());
    size.expect("plain data; counting cannot fail") + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Attribute, Effect, Subject};

    fn input() -> Input {
        let subject = Subject { tenant: "default".into(), key: "key_a".into(), tags: vec!["ci".into()], ..Subject::default() };
        let more = vec![Attribute { name: "a".into(), value: "b".into() }];
        Input::Expiry(expiry::Input { now_ms: -7, seed: 1 << 60, settings: "{}".into(), subject, key: expiry::KeyFacts::default(), more })
    }

    #[test]
    fn encode_then_decode_is_identity() {
        let bytes = input().encode();
        assert_eq!(Input::decode(&bytes), Some(input()));
        assert_eq!(input().encoded_bytes(), bytes.len());
        assert_eq!(input().digest(), Digest::blake3(&bytes));
        let output = Output::Route(route::Output { verdict: Verdict::plain(Effect::Permit), picks: vec![] });
        assert_eq!(Output::decode(&output.encode()), Some(output));
    }

    #[test]
    fn only_canonical_bytes_are_decoded() {
        let bytes = input().encode();
        assert_eq!(Input::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Input::decode(&[bytes.as_slice(), &[0]].concat()), None);
        assert_eq!(Input::decode(&[&[2], &bytes[1..]].concat()), None);
        assert_eq!(Input::decode(&[]), None);
        // The kind's number 0, spelled with a byte too many.
        assert_eq!(Input::decode(&[&[1, 0x80, 0x00], &bytes[2..]].concat()), None);
    }
}
