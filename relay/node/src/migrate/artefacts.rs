//! Artefacts from the data directory into the object store, or back: all that are there, each checked against its digest on both sides.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use event_log::Nats;
use event_log::artefacts::{ArtefactError, ArtefactKind, Artefacts, FileArtefacts, NatsArtefacts};

use super::{Direction, NATS_WAIT, PREPARE_PAUSE};
use crate::layout::Layout;

/// Copies what the target does not hold; gives how many artefacts the source has. What else the target holds is named by no record of this log,
/// and harms nobody.
pub(super) async fn copy(nats: &Nats, data: &Path, direction: Direction) -> Result<u64> {
    // A store over NATS answers from the copies of its directory first; here the servers themselves are meant.
    let scratch = tempfile::Builder::new().prefix("migrate-").tempdir_in(data)?;
    let (own, copies) = (Layout::new(data).artefacts(), scratch.path().to_owned());
    let (files, copies) =
        tokio::task::spawn_blocking(move || anyhow::Ok((FileArtefacts::open(&own)?, FileArtefacts::open(&copies)?))).await??;
    let servers = NatsArtefacts::new(nats.client(), copies, nats.replicas());
    match direction {
        Direction::ToJetStream => copy_all(&files, &servers).await,
        Direction::ToEmbedded => copy_all(&servers, &files).await,
    }
}

/// What is there already is not copied again, so that an attempt that the servers broke off is made again.
async fn copy_all(from: &dyn Artefacts, to: &dyn Artefacts) -> Result<u64> {
    let deadline = Instant::now() + NATS_WAIT;
    loop {
        match try_copy_all(from, to).await {
            Err(error) if is_passing(&error) && Instant::now() < deadline => tokio::time::sleep(PREPARE_PAUSE).await,
            copied => return copied,
        }
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ArtefactError::Unavailable { .. }))
}

async fn try_copy_all(from: &dyn Artefacts, to: &dyn Artefacts) -> Result<u64> {
    let kind = ArtefactKind::PolicyModule;
    let entries = from.list(kind).await?;
    for entry in &entries {
        let bytes = from.get(kind, &entry.digest).await?.with_context(|| format!("artefact {} went away meanwhile", entry.digest))?;
        to.put(kind, bytes).await?;
    }
    Ok(entries.len() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at its first surprise")]

    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn the_target_holds_what_the_source_does_and_what_is_damaged_there_is_mended() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (FileArtefacts::open(one.path()).unwrap(), FileArtefacts::open(two.path()).unwrap());
        let kind = ArtefactKind::PolicyModule;
        let mut digests = Vec::new();
        for bytes in [&b"a"[..], b"b", b"c"] {
            digests.push(from.put(kind, Bytes::from_static(bytes)).await.unwrap());
        }
        to.put(kind, Bytes::from_static(b"other")).await.unwrap();
        std::fs::write(two.path().join("policy-modules").join(digests[1].to_string()), b"damaged").unwrap();
        assert_eq!(copy_all(&from, &to).await.unwrap(), 3);
        for digest in &digests {
            assert_eq!(to.get(kind, digest).await.unwrap(), from.get(kind, digest).await.unwrap());
        }
        assert_eq!(to.list(kind).await.unwrap().len(), 4, "what else was there stays");
    }

    #[tokio::test]
    async fn a_damaged_source_is_told() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (FileArtefacts::open(one.path()).unwrap(), FileArtefacts::open(two.path()).unwrap());
        let digest = from.put(ArtefactKind::PolicyModule, Bytes::from_static(b"a")).await.unwrap();
        std::fs::write(one.path().join("policy-modules").join(digest.to_string()), b"damaged").unwrap();
        assert!(copy_all(&from, &to).await.unwrap_err().to_string().contains(&digest.to_string()));
    }
}
