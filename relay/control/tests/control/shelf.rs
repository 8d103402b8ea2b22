//! A store of artefacts that several nodes share, and that can be away, or slow, for any of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use event_log::artefacts::{ArtefactEntry, ArtefactError, ArtefactKind, Artefacts};
use schemas::Digest;
use tokio::sync::watch;

/// What the nodes share.
#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<BTreeMap<Digest, Bytes>>>);

/// How a node reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Requests fail.
    Away,
    /// Requests wait.
    Held,
}

/// A node's own way to the shelf.
#[derive(Clone)]
pub(crate) struct Reach {
    shelf: Shelf,
    way: Arc<watch::Sender<Way>>,
}

impl Shelf {
    pub(crate) fn reach(&self) -> Reach {
        Reach { shelf: self.clone(), way: Arc::new(watch::Sender::new(Way::Open)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn take(&self, digest: &Digest) -> Option<Bytes> {
        self.0.lock().unwrap().remove(digest)
    }
}

impl Reach {
    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    async fn pass(&self) -> Result<(), ArtefactError> {
        let mut way = self.way.subscribe();
        let way = *way.wait_for(|way| *way != Way::Held).await.unwrap();
        if way == Way::Away { Err(ArtefactError::Unavailable { reason: "the shelf is away".to_owned() }) } else { Ok(()) }
    }
}

#[async_trait]
impl Artefacts for Reach {
    async fn put(&self, _: ArtefactKind, bytes: Bytes) -> Result<Digest, ArtefactError> {
        self.pass().await?;
        let digest = Digest::blake3(&bytes);
        self.shelf.0.lock().unwrap().insert(digest, bytes);
        Ok(digest)
    }

    async fn get(&self, _: ArtefactKind, digest: &Digest) -> Result<Option<Bytes>, ArtefactError> {
        self.pass().await?;
        Ok(self.shelf.0.lock().unwrap().get(digest).cloned())
    }

    async fn list(&self, _: ArtefactKind) -> Result<Vec<ArtefactEntry>, ArtefactError> {
        self.pass().await?;
        let shelf = self.shelf.0.lock().unwrap();
        Ok(shelf.iter().map(|(digest, bytes)| ArtefactEntry { digest: *digest, bytes: bytes.len() as u64 }).collect())
    }

    async fn delete(&self, _: ArtefactKind, digest: &Digest) -> Result<(), ArtefactError> {
        self.pass().await?;
        self.shelf.take(digest);
        Ok(())
    }
}
