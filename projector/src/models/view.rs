//! What readers share with the one who folds: the model in use, swapped whole at each position.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use schemas::Sequence;
use tokio::sync::watch;

use super::cache::{KeyCache, Mark};
use super::freshness::{Freshness, Moment};
use super::policies::Policies;
use super::routes::Routes;
use super::{Position, State};
use crate::fold::rows::KEYS_BY_SALT;
use crate::fold::{Authority, Changes, Counts, Folder};
use crate::store::{ReadError, Store, key};

/// One position of one model. The store under it may be ahead by a batch that is not announced yet.
pub(crate) struct View {
    pub store: Arc<Store>,
    /// Counts the switches of this process, so that two models at the same sequence are told apart.
    pub generation: u64,
    pub position: Position,
    pub counts: Counts,
    pub authority: Arc<Authority>,
    pub routes: Arc<Routes>,
    pub policies: Arc<Policies>,
    pub salts: Arc<[u32]>,
}

/// What is small and asked for often, read from a model whole.
pub(crate) struct Snapshots {
    routes: Arc<Routes>,
    policies: Arc<Policies>,
    salts: Arc<[u32]>,
}

impl Snapshots {
    pub(crate) fn load(folder: &Folder) -> Result<Self, ReadError> {
        let (store, sequence) = (folder.store(), folder.row().sequence);
        let (routes, policies) = (Routes::load(store, sequence)?, Policies::load(store, sequence)?);
        Ok(Self { routes: Arc::new(routes), policies: Arc::new(policies), salts: salts(store)? })
    }

    /// Those of a view, but for what changed.
    fn after(view: &View, folder: &Folder, changes: &Changes) -> Result<Self, ReadError> {
        let (store, sequence) = (folder.store(), folder.row().sequence);
        let routes = if changes.routes { Arc::new(Routes::load(store, sequence)?) } else { Arc::clone(&view.routes) };
        let policies = if changes.policies { Arc::new(Policies::load(store, sequence)?) } else { Arc::clone(&view.policies) };
        let salts = if changes.salts { salts(store)? } else { Arc::clone(&view.salts) };
        Ok(Self { routes, policies, salts })
    }
}

/// The salts under which present keys are known, in their order.
fn salts(store: &Store) -> Result<Arc<[u32]>, ReadError> {
    let prefix = key::cluster_wide(&[]);
    let rows = store.scan::<u64>(KEYS_BY_SALT, &prefix.clone(), prefix);
    let salt = |key: &[u8]| Some(u32::from_be_bytes(*key.last_chunk::<4>()?));
    rows.map(|row| salt(&row?.0).ok_or(ReadError::Row { family: KEYS_BY_SALT })).collect()
}

impl View {
    fn of(folder: &Folder, generation: u64, snapshots: Snapshots) -> Arc<Self> {
        let (row, Snapshots { routes, policies, salts }) = (folder.row(), snapshots);
        Arc::new(Self {
            store: Arc::clone(folder.store()),
            generation,
            position: row.position(),
            counts: row.counts,
            authority: Arc::clone(folder.authority()),
            routes,
            policies,
            salts,
        })
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { generation: self.generation, sequence: self.position.sequence }
    }
}

/// Written by the fold, read by everybody.
pub(crate) struct Shared {
    view: ArcSwap<View>,
    pub(crate) cache: KeyCache,
    announced: watch::Sender<Sequence>,
    /// The head of the log as last heard of.
    head: AtomicU64,
    pub(crate) freshness: Freshness,
    /// Written by whoever runs the fold.
    state: watch::Sender<State>,
}

impl Shared {
    pub(crate) fn new(folder: &Folder, freshness: Freshness, state: State) -> Result<Self, ReadError> {
        let sequence = folder.row().sequence;
        Ok(Self {
            view: ArcSwap::new(View::of(folder, 0, Snapshots::load(folder)?)),
            cache: KeyCache::new(),
            announced: watch::Sender::new(sequence),
            head: AtomicU64::new(sequence.0),
            freshness,
            state: watch::Sender::new(state),
        })
    }

    pub(crate) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    pub(crate) fn sequence(&self) -> Sequence {
        self.view.load().position.sequence
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Sequence> {
        self.announced.subscribe()
    }

    /// Makes a committed batch visible. The order is the cache's rule: invalidate, swap, announce. On an error nothing is announced, and the
    /// next run of the fold begins with a refresh.
    pub(crate) fn publish(&self, folder: &Folder, changes: &Changes) -> Result<(), ReadError> {
        let view = self.view.load();
        let sequence = folder.row().sequence;
        self.cache.invalidate(&changes.hashes, Mark { generation: view.generation, sequence });
        let snapshots = Snapshots::after(&view, folder, changes)?;
        self.view.store(View::of(folder, view.generation, snapshots));
        self.announce(sequence);
        Ok(())
    }

    /// Makes all that is committed visible, whatever came of the last run of the fold.
    pub(crate) fn refresh(&self, folder: &Folder) -> Result<(), ReadError> {
        self.publish(folder, &Changes { hashes: Vec::new(), routes: true, policies: true, salts: true })
    }

    /// Puts another model in the place of the one in use.
    pub(crate) fn switch(&self, folder: &Folder, snapshots: Snapshots) {
        let generation = self.view.load().generation + 1;
        self.cache.clear(Mark { generation, sequence: Sequence::ZERO });
        self.view.store(View::of(folder, generation, snapshots));
        self.announce(folder.row().sequence);
    }

    /// Tells waiters of a position that readers see already. Whoever has waited finds the rows as fresh as the position makes them.
    fn announce(&self, sequence: Sequence) {
        self.freshness.reach(sequence);
        self.head.fetch_max(sequence.0, Ordering::Relaxed);
        self.announced.send_replace(sequence);
    }

    /// Takes in a head of the log, as of the moment at which it was asked for.
    pub(crate) fn note_head(&self, head: Sequence, asked: Moment) {
        self.head.fetch_max(head.0, Ordering::Relaxed);
        self.freshness.hear(head, asked, || self.sequence());
    }

    pub(crate) fn head(&self) -> Sequence {
        Sequence(self.head.load(Ordering::Relaxed))
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.send_if_modified(|at| {
            let is_other = *at != state;
            *at = state;
            is_other
        });
    }
}
