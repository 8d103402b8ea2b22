//! The read side of decisions: cheap to clone, synchronous.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use schemas::decision::{DecisionEffect, DecisionMode, DecisionRecord};
use schemas::policy::PolicyKind;
use schemas::{BindingId, Digest, KeyId, RequestId, Sequence, TenantId, Timestamp, WriterId};
use tokio::sync::watch;

use super::rows::{
    BY_BINDING, BY_KEY, BY_POLICY, BY_REQUEST, DecisionPosition, DecisionRow, RECORDS, parse_place, place, prefix, record_key,
};
use crate::store::{Family, ReadError, Row, Store, key};

/// The most rows that one page looks at; with filters that hardly anything fits, a page may be short or empty and still have a next one.
const ROWS_SEEN_MAX: usize = 20_000;

/// Where a decision stands among those of its tenant, newest first. As text it is what a page's `next` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionPlace {
    pub at: Timestamp,
    /// In the order of this node's fold.
    pub number: u64,
}

/// When a decision was taken, its number, and the decision where the family holds it.
type Placed = (Timestamp, u64, Option<DecisionRow>);

impl Display for DecisionPlace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at.as_micros(), self.number)
    }
}

impl FromStr for DecisionPlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, number) = text.split_once('-').ok_or(())?;
        Ok(Self { at: Timestamp::from_micros(at.parse().map_err(|_| ())?), number: number.parse().map_err(|_| ())? })
    }
}

/// Which decisions are asked for: those that fit everything that is given.
#[derive(Debug, Clone)]
pub struct DecisionQuery {
    pub tenant: TenantId,
    pub request: Option<RequestId>,
    pub key: Option<KeyId>,
    pub binding: Option<BindingId>,
    pub policy: Option<Digest>,
    pub kind: Option<PolicyKind>,
    pub effect: Option<DecisionEffect>,
    pub mode: Option<DecisionMode>,
    /// The earliest and the latest moment, both included.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// The `next` of the page before.
    pub after: Option<DecisionPlace>,
    pub limit: usize,
}

impl DecisionQuery {
    /// Everything of a tenant.
    pub const fn all(tenant: TenantId, limit: usize) -> Self {
        Self {
            tenant,
            request: None,
            key: None,
            binding: None,
            policy: None,
            kind: None,
            effect: None,
            mode: None,
            from: None,
            to: None,
            after: None,
            limit,
        }
    }

    /// The rows to go through: those of the member that fewest decisions share.
    fn rows(&self) -> (Family, Vec<u8>) {
        let of = |member: &[u8]| prefix(&self.tenant, member);
        match self {
            Self { request: Some(id), .. } => (BY_REQUEST, of(id.as_bytes())),
            Self { key: Some(id), .. } => (BY_KEY, of(id.as_bytes())),
            Self { binding: Some(id), .. } => (BY_BINDING, of(id.as_bytes())),
            Self { policy: Some(digest), .. } => (BY_POLICY, of(digest.as_bytes())),
            _ => (RECORDS, of(&[])),
        }
    }

    fn fits(&self, record: &DecisionRecord) -> bool {
        self.request.is_none_or(|request| request == record.request)
            && self.key.is_none_or(|key| key == record.key)
            && self.binding.is_none_or(|binding| binding == record.binding)
            && self.policy.is_none_or(|policy| policy == record.policy)
            && self.kind.is_none_or(|kind| kind == record.kind)
            && self.effect.is_none_or(|effect| effect == record.effect)
            && self.mode.is_none_or(|mode| mode == record.mode)
    }
}

/// One decision that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub place: DecisionPlace,
    /// Where in the stream it stands: the sequence of its batch, and its place in that from 0.
    pub sequence: Sequence,
    pub index: u32,
    /// Who decided.
    pub node: WriterId,
    pub record: DecisionRecord,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionPage {
    /// Newest first.
    pub decisions: Vec<Decision>,
    /// Where the next page begins; none at the end.
    pub next: Option<DecisionPlace>,
}

/// Plain numbers about the decision models at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionStatus {
    pub sequence: Sequence,
    /// What is kept.
    pub records: u64,
    pub bytes: u64,
    pub repeats: u64,
    /// Batches that never came.
    pub missing: u64,
    /// Places of the stream that hold no batch.
    pub voids: u64,
    pub following: bool,
}

/// The decision models. Queries touch the disk: they belong in `spawn_blocking`.
#[derive(Clone)]
pub struct DecisionModels {
    pub(super) store: Arc<Store>,
    pub(super) announced: watch::Receiver<Announced>,
}

/// Written by the fold after each commit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Announced {
    pub position: DecisionPosition,
    pub following: bool,
}

impl DecisionModels {
    /// The place in the decision stream up to which decisions are here.
    pub fn position(&self) -> Sequence {
        self.announced.borrow().position.sequence
    }

    pub fn status(&self) -> DecisionStatus {
        let Announced { position, following } = *self.announced.borrow();
        let DecisionPosition { sequence, last, dropped, bytes, repeats, missing, voids } = position;
        DecisionStatus { sequence, records: last - dropped, bytes, repeats, missing, voids, following }
    }

    /// Waits until a place of the stream is folded; false if it is not within `limit`.
    pub async fn wait_for(&self, sequence: Sequence, limit: Duration) -> bool {
        let mut announced = self.announced.clone();
        let reached = announced.wait_for(|announced| announced.position.sequence >= sequence);
        tokio::time::timeout(limit, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// A page of decisions, newest first.
    pub fn page(&self, query: &DecisionQuery) -> Result<DecisionPage, ReadError> {
        let (family, prefix) = query.rows();
        let mut from = prefix.clone();
        let newest = query.to.map_or([0; 16], |to| place(to, u64::MAX));
        let after = query.after.map(|DecisionPlace { at, number }| place(at, number));
        match after.filter(|after| *after >= newest) {
            Some(after) => {
                from.extend_from_slice(&after);
                from = key::after(from);
            }
            None => from.extend_from_slice(&newest),
        }
        let mut page = DecisionPage::default();
        for (row, count) in self.rows(family, &from, &prefix, &query.tenant).zip(1..) {
            let (at, number, row) = row?;
            if query.from.is_some_and(|from| at < from) {
                return Ok(page);
            }
            let here = DecisionPlace { at, number };
            // A row may be dropped between its index and itself.
            if let Some(DecisionRow { sequence, index, node, record }) = row.filter(|row| query.fits(&row.record)) {
                page.decisions.push(Decision { place: here, sequence, index, node, record });
            }
            if page.decisions.len() >= query.limit || count >= ROWS_SEEN_MAX {
                page.next = Some(here);
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// The rows of a family from a key on, with the decisions that they stand for.
    fn rows<'a>(
        &'a self,
        family: Family,
        from: &[u8],
        prefix: &[u8],
        tenant: &'a TenantId,
    ) -> Box<dyn Iterator<Item = Result<Placed, ReadError>> + 'a> {
        let length = prefix.len();
        let place = move |key: &[u8]| parse_place(&key[length..]).ok_or(ReadError::Row { family });
        if family == RECORDS {
            let rows = self.store.scan::<DecisionRow>(family, from, prefix.to_vec());
            return Box::new(rows.map(move |row| {
                let (key, row) = row?;
                let (at, number) = place(&key)?;
                Ok((at, number, Some(row)))
            }));
        }
        let rows = self.store.scan::<()>(family, from, prefix.to_vec());
        Box::new(rows.map(move |row| {
            let (key, ()) = row?;
            let (at, number) = place(&key)?;
            Ok((at, number, self.store.get(RECORDS, &record_key(tenant, &key[length..]))?))
        }))
    }

    /// Every row, position included: equal dumps are equal models.
    pub fn dump(&self) -> Result<Vec<Row>, ReadError> {
        self.store.dump()
    }
}
