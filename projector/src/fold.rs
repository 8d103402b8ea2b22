//! The fold: records in log order to rows, one batch and one position at a time.
//!
//! Live following, a start after a crash and a rebuild run this one path. It is a pure function of the log but for the store it
//! writes to: times are those of record headers.

mod ahead;
mod authority;
mod commands;
mod draft;
mod key_index;
mod known;
pub(crate) mod rows;
mod seen;

use std::sync::Arc;

use event_log::Stored;
use schemas::aggregate::ApplyError;
use schemas::judge::StopReason;
use schemas::{Aggregate, Digest, Sequence, Stream, StreamKind};
use thiserror::Error;

pub(crate) use ahead::CheckedAhead;
pub(crate) use authority::Authority;
use draft::{Draft, Halt, Sight};
pub(crate) use known::{Known, Voids};
pub use rows::{CommandRow, Counts};
use rows::{META, PositionRow, position_key};
use seen::Roots;
pub use seen::{ROOTS_KEPT, SeenFault, SeenFinding};

use crate::store::{CommitError, ReadError, Store};

/// The most records of one batch.
pub(crate) const BATCH_RECORDS_MAX: usize = 512;

/// Where the fold cannot go on, and why. What was folded before stays in use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the fold stopped at sequence {sequence}")]
pub struct Stop {
    pub sequence: Sequence,
    #[source]
    pub cause: StopCause,
}

/// What about a record stops the fold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StopCause {
    #[error(transparent)]
    Judged(#[from] StopReason),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Why a batch was not folded.
#[derive(Debug, Error)]
pub enum FoldError {
    #[error(transparent)]
    Stop(#[from] Stop),
    #[error("the log gave sequence {found} where {expected} was due")]
    Gap { expected: Sequence, found: Sequence },
    /// Nothing of the batch was folded; other verdicts are known of another log.
    #[error("the record at sequence {sequence} is known to be valid, and is not")]
    OtherVerdict { sequence: Sequence },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What a batch changed, as far as caches and snapshots care.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Hashes of the secrets of changed keys, those before the change included.
    pub hashes: Vec<Digest>,
    /// Whether a tenant, an upstream, a credential or a pool changed.
    pub routes: bool,
    /// Whether a policy or a binding changed.
    pub policies: bool,
    /// Whether a key changed that has, or had, a secret under an older scheme.
    pub salts: bool,
}

impl Changes {
    fn note(&mut self, kind: StreamKind, before: Option<&Aggregate>, after: Option<&Aggregate>) {
        for aggregate in [before, after].into_iter().flatten() {
            if let Aggregate::Key(key) = aggregate {
                self.hashes.extend(key.secrets.iter().map(|secret| secret.hash));
                self.salts |= key.secrets.iter().any(|secret| key_index::salt(secret).is_some());
            }
        }
        self.routes |= matches!(kind, StreamKind::Tenant | StreamKind::Upstream | StreamKind::Credential | StreamKind::Pool);
        self.policies |= matches!(kind, StreamKind::Policy | StreamKind::Binding);
    }
}

/// The one writer of a store.
pub(crate) struct Folder {
    store: Arc<Store>,
    /// As committed.
    row: PositionRow,
    authority: Arc<Authority>,
    roots: Roots,
}

impl Folder {
    /// Takes up where the store stands.
    pub(crate) fn open(store: Arc<Store>) -> Result<Self, ReadError> {
        let row = store.get::<PositionRow>(META, &position_key())?.unwrap_or_else(PositionRow::empty);
        let authority = Arc::new(Authority::load(&store)?);
        let roots = Roots::load(&store, row.sequence)?;
        Ok(Self { store, row, authority, roots })
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(crate) fn row(&self) -> &PositionRow {
        &self.row
    }

    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Folds records into one batch and commits it. What lies at or below the position is passed over. On a stop, the records before it are
    /// committed, and the stop is told beside their changes; on any other error nothing of the batch is.
    pub(crate) fn fold(&mut self, records: &[Stored]) -> Result<(Changes, Option<Stop>), FoldError> {
        self.fold_checked(records, &CheckedAhead::default())
    }

    /// [`fold`](Self::fold), with what was found out about the records' signatures before.
    pub(crate) fn fold_checked(&mut self, records: &[Stored], ahead: &CheckedAhead) -> Result<(Changes, Option<Stop>), FoldError> {
        self.fold_by(records, Sight::Ahead(ahead))
    }

    /// The same by verdicts that are known, which spares the signatures. What cannot be as it is known to be is an error.
    pub(crate) fn fold_known(&mut self, records: &[Stored], voids: &Voids) -> Result<(), FoldError> {
        match self.fold_by(records, Sight::Known(voids))? {
            (_, None) => Ok(()),
            (_, Some(stop)) => Err(stop.into()),
        }
    }

    fn fold_by(&mut self, records: &[Stored], sight: Sight<'_>) -> Result<(Changes, Option<Stop>), FoldError> {
        let old = records.partition_point(|stored| stored.sequence <= self.row.sequence);
        let records = &records[old..];
        let expected = (self.row.sequence.0 + 1..).map(Sequence);
        if let Some((expected, stored)) = expected.zip(records).find(|(expected, stored)| *expected != stored.sequence) {
            return Err(FoldError::Gap { expected, found: stored.sequence });
        }
        let streams: Vec<Option<Stream>> = records.iter().map(|stored| Stream::from_subject(&stored.subject)).collect();
        let mut draft = Draft::begin(&self.store, &self.row, Arc::clone(&self.authority), &mut self.roots, &streams)?;
        let mut outcome = Ok(None);
        for (stored, stream) in records.iter().zip(&streams) {
            match draft.add(stored, stream.as_ref(), sight) {
                Ok(()) => {}
                Err(Halt::Stop(cause)) => {
                    outcome = Ok(Some(Stop { sequence: stored.sequence, cause }));
                    break;
                }
                Err(Halt::OtherVerdict) => {
                    outcome = Err(FoldError::OtherVerdict { sequence: stored.sequence });
                    break;
                }
                Err(Halt::Read(error)) => {
                    outcome = Err(FoldError::Read(error));
                    break;
                }
            }
        }
        let added = draft.len();
        let committed = outcome.and_then(|stop| {
            if added > 0 {
                draft.batch()?.commit()?;
            }
            Ok(stop)
        });
        let (row, authority, changes) = (draft.row, draft.authority, draft.changes);
        match committed {
            Ok(stop) => {
                (self.row, self.authority) = (row, authority);
                self.roots.trim();
                Ok((changes, stop))
            }
            Err(error) => {
                self.roots.take_back(added);
                Err(error)
            }
        }
    }
}
