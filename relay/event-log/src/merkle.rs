//! The Merkle tree over the log (RFC 6962, SHA-256), as far as whoever only ever adds to it needs it: the right edge.
//!
//! Two prefixes of a log with the same size and the same root are the same records. What a leaf commits to differs by verdict: of a valid
//! record header and signature, so that its payload can be withheld without touching a proof; of a void one everything that was stored.

use schemas::Digest;
use schemas::record::Frame;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

const LEAF: u8 = 0x00;
const NODE: u8 = 0x01;

/// The leaf hash of a valid record: SHA-256(0x00 | header | signature).
pub fn leaf_of_valid(frame: &Frame<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([LEAF]);
    hash.update(frame.header_bytes);
    hash.update(frame.signature);
    hash.finalize().into()
}

/// The leaf hash of a void record: SHA-256(0x00 | 0x00 | length of the subject, 2 bytes | subject | SHA-256 of the bytes). No header
/// begins with 0, so it is never the leaf of a valid record.
pub fn leaf_of_void(subject: &str, bytes: &[u8]) -> [u8; 32] {
    let length = u16::try_from(subject.len()).expect("a log takes no subject of more than 255 bytes");
    let mut hash = Sha256::new();
    hash.update([LEAF, 0x00]);
    hash.update(length.to_be_bytes());
    hash.update(subject);
    hash.update(Sha256::digest(bytes));
    hash.finalize().into()
}

/// The right edge of the tree: enough to add leaves and to know the root, in at most 64 hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Frontier {
    size: u64,
    /// The roots of the perfect trees that the leaves fall into, largest first: one for each bit of `size` that is set.
    edge: Vec<Digest>,
}

#[derive(Deserialize)]
struct Parts {
    size: u64,
    edge: Vec<Digest>,
}

/// The parts of a frontier that do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a tree of {size} leaves does not have an edge of {edge} hashes")]
pub struct FrontierError {
    size: u64,
    edge: usize,
}

impl TryFrom<Parts> for Frontier {
    type Error = FrontierError;

    fn try_from(Parts { size, edge }: Parts) -> Result<Self, FrontierError> {
        if edge.len() == size.count_ones() as usize { Ok(Self { size, edge }) } else { Err(FrontierError { size, edge: edge.len() }) }
    }
}

impl Frontier {
    /// Adds the next leaf, given as its hash.
    pub fn push(&mut self, leaf: [u8; 32]) {
        let mut node = Digest::from_bytes(leaf);
        for _ in 0..self.size.trailing_ones() {
            let left = self.edge.pop().expect("one hash for each bit of the size that is set");
            node = parent(&left, &node);
        }
        self.edge.push(node);
        self.size += 1;
    }

    /// The number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root over all leaves; of the empty tree SHA-256 of nothing.
    pub fn root(&self) -> Digest {
        let edge = self.edge.iter().rev().copied();
        edge.reduce(|right, left| parent(&left, &right)).unwrap_or_else(|| Digest::from_bytes(Sha256::digest([]).into()))
    }
}

fn parent(left: &Digest, right: &Digest) -> Digest {
    let mut hash = Sha256::new();
    hash.update([NODE]);
    hash.update(left.as_bytes());
    hash.update(right.as_bytes());
    Digest::from_bytes(hash.finalize().into())
}

#[cfg(test)]
#[path = "merkle_tests.rs"]
mod tests;
