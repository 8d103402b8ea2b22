//! What nodes tell each other on `kr.n.<cluster>`, and what the bucket keeps of a node. JSON with a version: fields may be added to
//! [`NodeStatus`] with a default, and what has another version is left to newer nodes.

use schemas::{ClusterId, Timestamp, WriterId};
use serde::{Deserialize, Serialize};

use crate::NodeStatus;

const FORMAT: u8 = 1;
/// A status is some 300 bytes; nothing that is much longer is parsed.
const BYTES_MAX: usize = 8 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    v: u8,
    cluster: ClusterId,
    pub(crate) told: Told,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Told {
    /// A heartbeat; `beat` counts those of one process.
    Here { beat: u64, status: NodeStatus },
    /// A node was taken out of the registry.
    Gone { node: WriterId },
}

/// A node's entry in the bucket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    v: u8,
    pub(crate) at: Timestamp,
    pub(crate) status: NodeStatus,
}

impl Message {
    pub(crate) fn encode(cluster: ClusterId, told: Told) -> Vec<u8> {
        encode(&Self { v: FORMAT, cluster, told })
    }

    /// None for what is not a message of this version to this cluster.
    pub(crate) fn decode(cluster: ClusterId, bytes: &[u8]) -> Option<Self> {
        decode(bytes).filter(|message: &Self| message.v == FORMAT && message.cluster == cluster)
    }
}

impl Member {
    pub(crate) fn encode(at: Timestamp, status: NodeStatus) -> Vec<u8> {
        encode(&Self { v: FORMAT, at, status })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes).filter(|member: &Self| member.v == FORMAT)
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("ids, numbers and texts can be written as JSON")
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    (bytes.len() <= BYTES_MAX).then(|| serde_json::from_slice(bytes).ok()).flatten()
}
