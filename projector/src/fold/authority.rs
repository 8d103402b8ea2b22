//! Whose signatures count at a place in the log, with the keys decoded once.

use std::collections::HashMap;

use ed25519_dalek::VerifyingKey;
use schemas::{Aggregate, ClusterId, Stream, StreamKind, TenantId, WriterId};

use super::rows::{AGGREGATES, StreamRow};
use crate::store::{ReadError, Store, key};

/// The cluster's key and the keys of the writers that are enrolled and not retired.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authority {
    pub cluster: Option<(ClusterId, VerifyingKey)>,
    pub writers: HashMap<WriterId, VerifyingKey>,
}

impl Authority {
    /// What the rows say.
    pub(crate) fn load(store: &Store) -> Result<Self, ReadError> {
        let mut authority = Self::default();
        if let Some(row) = store.get::<StreamRow>(AGGREGATES, &key::of_stream(&Stream::CLUSTER))? {
            authority.learn(&Stream::CLUSTER, row.aggregate.as_ref());
        }
        let writers = key::of_kind(&TenantId::none(), StreamKind::Writer);
        for row in store.scan::<StreamRow>(AGGREGATES, &writers.clone(), writers) {
            let (_, StreamRow { aggregate, .. }) = row?;
            if let Some(Aggregate::Writer(writer)) = &aggregate {
                authority.learn(&Stream::writer(writer.id), aggregate.as_ref());
            }
        }
        Ok(authority)
    }

    /// Takes in the state of a stream of the kind cluster or writer.
    ///
    /// A writer counts only on the stream that its key gives the name of, so that nobody can be enrolled twice.
    pub(crate) fn learn(&mut self, stream: &Stream, aggregate: Option<&Aggregate>) {
        match aggregate {
            Some(Aggregate::Cluster(cluster)) => {
                self.cluster = VerifyingKey::from_bytes(cluster.public_key.as_bytes()).ok().map(|key| (cluster.id, key));
            }
            Some(Aggregate::Writer(writer)) if *stream == Stream::writer(writer.id) => {
                match VerifyingKey::from_bytes(writer.public_key.as_bytes()) {
                    Ok(key) if !writer.retired => self.writers.insert(writer.id, key),
                    _ => self.writers.remove(&writer.id),
                };
            }
            _ => {}
        }
    }
}
