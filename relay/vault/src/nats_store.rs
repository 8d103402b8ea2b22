//! The key store of a cluster: a key-value bucket in NATS, and a mirror of it on every node.
//!
//! The bucket decides. A write first reads what the stream's leader holds and then writes expecting just that, so that of two writers one
//! wins and a stale read changes nothing. A write whose outcome is unknown is looked up before it is answered; where that fails too, the
//! answer is [`StoreError::Unavailable`] within [`OPERATION_WAIT`], which means: try later.
//!
//! The mirror serves while NATS is away: sealed bytes are immutable, so a copy is as good as any; wrapped keys are asked of the leader and
//! taken from the mirror if it cannot be reached. An entry that the mirror has never heard of is not called absent then.
//!
//! [`NatsKeyStore::run`] is the one task that talks to NATS. It answers the store's calls, follows the bucket into the mirror, and after
//! each connection compares both: what the bucket lost is put back, and what it forgot to have been erased is erased again.
//! Without it every call that needs NATS is unavailable.
//!
//! Deleting leaves a marker and removes the older message from the stream; the server compacts its files in its own time. Scrubbing cleans
//! the mirror's files, on this node at once and on the others when they have followed.

mod bucket;
mod entry_key;
mod feed;
mod follow;
mod heal;
mod link;
mod mirror;
mod progress;
mod state;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use schemas::TenantId;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

pub use self::bucket::BUCKET;
use self::bucket::{Away, Bucket, PrepareError, Published, Write};
use self::entry_key::EntryKey;
use self::link::{Link, Request, Retry};
use self::mirror::{Known, Mirror};
pub use self::progress::Mirrored;
use self::progress::Progress;
use self::state::{Origin, Standing, State};
use crate::address::Slot;
use crate::aead;
use crate::key_store::{Entry, KeyStore, Put, StoreError, Swap, Swapping};
use crate::rocks_store::RocksKeyStore;

/// The longest that a call takes, retries included, before it says that the store is unavailable.
pub const OPERATION_WAIT: Duration = Duration::from_secs(5);

/// How long the leader is asked for something that the mirror can answer too: an election takes longer, and a request waits.
const MIRRORED_READ_WAIT: Duration = Duration::from_secs(2);

/// How many writes of a re-wrap are under way at once: enough to hide the way to the servers, few enough to leave them to others.
const SWAP_LANES: usize = 16;

/// A key store in a bucket of NATS, with a mirror on this node.
pub struct NatsKeyStore {
    shared: Arc<Shared>,
    /// Held by the one `run` there is.
    waiting: Mutex<mpsc::Receiver<Request>>,
}

/// What the calls of the store and the task have in common.
pub(crate) struct Shared {
    pub(crate) mirror: Mirror,
    pub(crate) link: Link,
    pub(crate) progress: Progress,
    bucket: Bucket,
}

/// Why a key store over NATS does not open.
#[derive(Debug, Error)]
pub enum OpenNatsStoreError {
    #[error("the key-value bucket {BUCKET} is another one than this node needs: {difference}; it is never changed by a node")]
    Differs { difference: String },
    #[error("the mirror of the key store cannot be read")]
    Mirror(#[from] StoreError),
}

/// What is to be done about what a key holds.
enum Decision<T> {
    Answer(T),
    /// Write this, or a deletion, and then answer.
    Write(Option<Bytes>, T),
}

impl NatsKeyStore {
    /// Opens the store. If NATS can be reached its bucket is checked, and made if it is missing; if not, that happens later, and the store
    /// serves what the mirror knows. `replicas` is how many servers keep it; none leaves that to whether they are clustered. Needs a runtime only for this call; the calls of [`KeyStore`] need [`NatsKeyStore::run`].
    pub async fn open(
        client: async_nats::Client,
        mirror: RocksKeyStore,
        replicas: impl Into<Option<usize>>,
    ) -> Result<Arc<Self>, OpenNatsStoreError> {
        let bucket = Bucket::new(client, replicas.into());
        let (link, waiting) = Link::new();
        let mirror = Mirror::new(mirror)?;
        let progress = Progress::new(mirror.level_at()?.is_some());
        if let Ok(Err(PrepareError::Differs { difference })) = tokio::time::timeout(OPERATION_WAIT, bucket.prepare()).await {
            return Err(OpenNatsStoreError::Differs { difference });
        }
        let shared = Arc::new(Shared { mirror, link, progress, bucket });
        Ok(Arc::new(Self { shared, waiting: Mutex::new(waiting) }))
    }

    /// Answers the store's calls and keeps the mirror level with the bucket, until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut waiting = self.waiting.lock().await;
        tokio::select! {
            () = cancel.cancelled() => {}
            () = link::serve(&self.shared.bucket, &mut waiting) => {}
            () = follow::follow(&self.shared) => {}
        }
        self.shared.progress.lost_touch();
    }

    /// How the mirror stands to the bucket.
    pub fn mirrored(&self) -> Mirrored {
        let mirrored = self.shared.progress.mirrored();
        Mirrored { is_level: mirrored.is_level && self.shared.bucket.is_connected(), ..mirrored }
    }
}

impl Shared {
    /// Decides on what the leader holds and writes that, until the outcome is certain or the time is over.
    fn change<T: Copy>(&self, key: &EntryKey, decide: impl Fn(Option<&Bytes>) -> Decision<T>) -> Result<T, StoreError> {
        let id = write_id()?;
        let mut retry = Retry::within(OPERATION_WAIT);
        // What a write expected that was sent and not answered, and what is answered if it was stored.
        let mut unresolved: Option<(u64, T)> = None;
        loop {
            let found = match self.link.get(key, retry.deadline()) {
                Ok(found) => found,
                Err(away) => {
                    wait(&mut retry, away)?;
                    continue;
                }
            };
            if !self.is_settled(key, found.as_ref())? {
                heal::heal(self, key, &mut retry)?;
                continue;
            }
            let revision = found.as_ref().map_or(0, |state| state.revision);
            if let Some((expected, answer)) = unresolved {
                if found.as_ref().is_some_and(|state| state.write_id.as_ref() == Some(&id)) {
                    return Ok(answer);
                }
                if expected != revision {
                    return Err(unavailable("the outcome of a write is unknown, and another one followed"));
                }
            }
            let (content, answer) = match decide(found.as_ref().and_then(|state| state.content.as_ref())) {
                Decision::Answer(answer) => return Ok(answer),
                Decision::Write(content, answer) => (content, answer),
            };
            let write = Write { key: key.clone(), expected: revision, content: content.clone(), origin: None, id: id.clone() };
            match self.link.publish(write, retry.deadline()) {
                Ok(Published::Stored(stored)) => {
                    self.note_own(key, stored, found.as_ref(), content)?;
                    return Ok(answer);
                }
                Ok(Published::Refused) if retry.is_over() => return Err(unavailable("too many others write to one entry")),
                Ok(Published::Refused) => {}
                Ok(Published::Unknown(reason)) => {
                    unresolved = Some((revision, answer));
                    wait(&mut retry, Away(reason))?;
                }
                Err(away) => wait(&mut retry, away)?,
            }
        }
    }

    /// Takes what the leader holds into the mirror. False if the bucket has lost what this node knows.
    fn is_settled(&self, key: &EntryKey, found: Option<&State>) -> Result<bool, StoreError> {
        match found {
            Some(state) => Ok(self.mirror.adopt(key, state)? != Standing::Behind),
            // A marker that is gone is none: the bucket drops old ones.
            None => Ok(!matches!(self.mirror.known(key)?, Known::Live(_))),
        }
    }

    /// Puts a write of this node into the mirror before the call returns. The server's time of it comes with the bucket's own word, if
    /// that was not quicker; until then it counts as just after what it replaced.
    fn note_own(&self, key: &EntryKey, revision: u64, replaced: Option<&State>, content: Option<Bytes>) -> Result<(), StoreError> {
        let held = self.mirror.held(key)?;
        if held.as_ref().is_some_and(|held| held.mark.revision == revision && held.content.as_deref() == content.as_deref()) {
            return Ok(());
        }
        let known = held.map_or(0, |held| held.mark.origin.time);
        let time = 1 + known.max(replaced.map_or(0, |state| state.origin.time));
        let state = State { revision, origin: Origin { time, revision }, is_restored: false, content, write_id: None };
        self.mirror.adopt(key, &state).map(|_| ())
    }

    fn read(&self, key: &EntryKey) -> Result<Option<Vec<u8>>, StoreError> {
        let known = self.mirror.known(key)?;
        if key.entry == Entry::Sealed && matches!(known, Known::Live(_)) {
            return Ok(live(known));
        }
        let is_mirrored = known != Known::Nothing;
        let mut retry = Retry::within(if is_mirrored { MIRRORED_READ_WAIT } else { OPERATION_WAIT });
        loop {
            if is_mirrored && !self.bucket.is_connected() {
                return Ok(live(known));
            }
            match self.link.get(key, retry.deadline()) {
                Ok(found) if self.is_settled(key, found.as_ref())? => {
                    return Ok(found.and_then(|state| state.content).map(Vec::from));
                }
                // What was lost is about to be put back.
                Ok(_) => return Ok(live(self.mirror.known(key)?)),
                Err(_) if is_mirrored && retry.is_over() => return Ok(live(known)),
                Err(away) => match wait(&mut retry, away) {
                    Err(_) if is_mirrored => return Ok(live(known)),
                    waited => waited?,
                },
            }
        }
    }

    /// Waits until the mirror has what the leader holds now. False if NATS is away and the mirror was level with it before.
    fn is_level(&self) -> Result<bool, StoreError> {
        let was_level = self.progress.was_level();
        let mut retry = Retry::within(OPERATION_WAIT);
        let fall_back = Retry::within(MIRRORED_READ_WAIT);
        loop {
            if was_level && (!self.bucket.is_connected() || fall_back.is_over()) {
                return Ok(false);
            }
            match self.link.last(retry.deadline()) {
                Ok(last) if self.progress.wait_followed(last, retry.deadline()) => return Ok(true),
                Ok(_) => return Err(unavailable("the mirror has not followed the bucket yet")),
                Err(away) => wait(&mut retry, away)?,
            }
        }
    }
}

impl KeyStore for NatsKeyStore {
    fn put_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<Put, StoreError> {
        self.shared.change(&EntryKey::new(slot, Entry::Sealed), |found| match found {
            Some(_) => Decision::Answer(Put::Exists),
            None => Decision::Write(Some(Bytes::copy_from_slice(bytes)), Put::Stored),
        })
    }

    fn delete_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<(), StoreError> {
        self.shared.change(&EntryKey::new(slot, Entry::Sealed), |found| match found {
            Some(found) if found == bytes => Decision::Write(None, ()),
            _ => Decision::Answer(()),
        })
    }

    fn swap_wrapped(&self, slot: &Slot, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Swap, StoreError> {
        self.shared.change(&EntryKey::new(slot, Entry::Wrapped), |found| match found {
            found if found.map(|bytes| &bytes[..]) != from => Decision::Answer(Swap::Conflict),
            None if to.is_none() => Decision::Answer(Swap::Swapped),
            _ => Decision::Write(to.map(Bytes::copy_from_slice), Swap::Swapped),
        })
    }

    /// Every write is a message of its own that waits for the servers, so that some are under way at once.
    fn swap_each(&self, swaps: &[Swapping<'_>]) -> Result<Vec<Swap>, StoreError> {
        let lane = swaps.len().div_ceil(SWAP_LANES).max(1);
        let of_lane = |swaps: &[Swapping<'_>]| -> Result<Vec<Swap>, StoreError> {
            swaps.iter().map(|swap| self.swap_wrapped(swap.slot, Some(swap.from), Some(&swap.to))).collect()
        };
        let lanes: Vec<Result<Vec<Swap>, StoreError>> = thread::scope(|scope| {
            let running: Vec<_> = swaps.chunks(lane).map(|swaps| scope.spawn(move || of_lane(swaps))).collect();
            running.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        lanes.into_iter().collect::<Result<Vec<_>, _>>().map(|lanes| lanes.concat())
    }

    /// Sealed bytes come from the mirror if it has them. What the leader says is not there is absent at once; who expects it to be on its
    /// way asks again, see [`Vault::unseal_within`](crate::Vault::unseal_within).
    fn read(&self, entry: Entry, slot: &Slot) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.read(&EntryKey::new(slot, entry))
    }

    fn scan(&self, entry: Entry, after: Option<&Slot>, limit: usize) -> Result<Vec<(Slot, Vec<u8>)>, StoreError> {
        self.shared.is_level()?;
        self.shared.mirror.scan(entry, after, limit)
    }

    /// Unavailable while NATS is away, unlike a scan: who asks for an owner's slots means to erase them all, and must not miss one.
    fn owner_slots(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<Vec<Slot>, StoreError> {
        if !self.shared.is_level()? {
            return Err(unavailable("NATS is away, and the mirror may not know every entry"));
        }
        self.shared.mirror.owner_slots(tenant, owner_kind, owner_id)
    }

    /// Scrubs the mirror's files. On the server nothing is to do but what deleting does: the marker rolls the subject up, and the server
    /// compacts its files in its own time.
    fn scrub(&self, slots: &[Slot]) -> Result<(), StoreError> {
        self.shared.mirror.scrub(slots)
    }
}

fn live(known: Known) -> Option<Vec<u8>> {
    match known {
        Known::Live(content) => Some(content),
        Known::Deleted | Known::Nothing => None,
    }
}

/// Pauses before another attempt; the reason of the last one is the answer once the time is over.
fn wait(retry: &mut Retry, away: Away) -> Result<(), StoreError> {
    if retry.pause() { Ok(()) } else { Err(StoreError::Unavailable { reason: away.0 }) }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable { reason: reason.to_owned() }
}

/// A name for one write that no other has.
fn write_id() -> Result<String, StoreError> {
    let random = aead::random::<16>().map_err(|error| StoreError::Engine { operation: "name a write", source: Box::new(error) })?;
    Ok(format!("{:032x}", u128::from_be_bytes(*random)))
}
