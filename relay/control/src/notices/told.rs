//! What was told through a channel and still stood then: kept on this node's disk, and in the cluster's soft state for the node that sends next.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use coordination::{Coordination, SOFT_BYTES_MAX};
use schemas::{TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use super::notice::Kind;

/// How long the cluster remembers a channel to which nothing new is sent: 30 days. After that what still stands is told again, with the same id.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Something that was told and is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) kind: Kind,
    pub(super) tenant: Option<TenantId>,
    pub(super) subject: String,
    /// What people call the subject.
    pub(super) name: String,
    /// When its cause came to be.
    pub(super) at: Timestamp,
}

/// By the id of the notice.
pub(super) type AllTold = BTreeMap<String, Told>;

/// What a channel's leases and soft state are called.
pub(super) fn name_of(channel: &str) -> String {
    format!("notices-{channel}")
}

fn path_of(data: &Path, channel: &str) -> PathBuf {
    data.join("notices").join(format!("{channel}.json"))
}

/// What was told, as the cluster knows it, else as this node does. None while the cluster cannot be asked.
pub(super) async fn load(coordination: &dyn Coordination, data: &Path, channel: &str) -> Option<AllTold> {
    let soft = coordination.get(&name_of(channel)).await.ok()?;
    let text = match soft {
        Some(text) => text.to_vec(),
        None => tokio::fs::read(path_of(data, channel)).await.unwrap_or_default(),
    };
    // What cannot be read is as good as nothing: it is told again, with the same ids.
    Some(serde_json::from_slice(&text).unwrap_or_default())
}

/// Keeps what was told. Where one of the two places fails the other has it.
pub(super) async fn keep(coordination: &dyn Coordination, data: &Path, channel: &str, told: &AllTold) {
    let text = serde_json::to_vec(told).expect("names and times are JSON");
    if let Err(error) = write(&path_of(data, channel), &text).await {
        tracing::warn!(channel, error = &error as &dyn std::error::Error, "what was told could not be written down");
    }
    if text.len() > SOFT_BYTES_MAX {
        return;
    }
    if let Err(error) = coordination.put(&name_of(channel), Bytes::from(text), KEPT).await {
        tracing::debug!(channel, error = &error as &dyn std::error::Error, "the others could not hear what was told");
    }
}

async fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        tokio::fs::create_dir_all(directory).await?;
    }
    let draft = path.with_extension("draft");
    tokio::fs::write(&draft, text).await?;
    tokio::fs::rename(&draft, path).await
}
