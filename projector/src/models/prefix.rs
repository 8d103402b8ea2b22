//! The announced position as what a record can be judged against.

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use schemas::judge::Prefix;
use schemas::{ClusterId, Stream, Version, WriterId};

use super::view::View;
use crate::fold::rows::{AGGREGATES, StreamRow};
use crate::store::key;

/// The valid records up to a position, as [`schemas::judge()`] asks for them.
pub struct CommittedPrefix(pub(super) Arc<View>);

impl Prefix for CommittedPrefix {
    fn cluster(&self) -> Option<(ClusterId, VerifyingKey)> {
        self.0.authority.cluster
    }

    fn writer(&self, id: WriterId) -> Option<VerifyingKey> {
        self.0.authority.writers.get(&id).copied()
    }

    /// A row that cannot be read answers a version that no record follows on, so that nothing is taken for valid on its account.
    fn version(&self, stream: &Stream) -> Version {
        match self.0.store.get::<StreamRow>(AGGREGATES, &key::of_stream(stream)) {
            Ok(row) => row.map(|row| row.head.version).unwrap_or_default(),
            Err(error) => {
                tracing::error!(stream = %stream, error = %error, "a stream's version cannot be read");
                Version(u64::MAX - 1)
            }
        }
    }
}
