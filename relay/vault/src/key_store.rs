//! The contract of the key store, where sealed secrets and wrapped data keys lie. It never sees a plaintext or an unwrapped key.

use schemas::TenantId;
use thiserror::Error;

use crate::address::Slot;

/// The two kinds of entry a slot may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// A data key under the root's wrapping key. Its bytes name the root-key version, see [`crate::wrap`].
    Wrapped,
    /// A secret under its data key, see [`crate::seal`].
    Sealed,
}

/// What came of a put-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Stored,
    /// The slot already holds sealed bytes, which stay as they are.
    Exists,
}

/// What came of a compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    Swapped,
    /// The slot did not hold what was expected; nothing changed.
    Conflict,
}

/// One of many compare-and-swaps: what the slot must hold, and what it holds then.
#[derive(Debug, Clone)]
pub struct Swapping<'a> {
    pub slot: &'a Slot,
    pub from: &'a [u8],
    pub to: Vec<u8>,
}

/// The store failed. A write that failed may have been kept: the caller writes again, which every write here allows.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("the key store could not {operation}")]
    Engine {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the key store holds an entry that is not of this format")]
    ForeignEntry,
    /// The store cannot be reached, or not be trusted for now. Nothing is broken: the caller tries again later.
    #[error("the key store cannot be reached: {reason}")]
    Unavailable { reason: String },
}

/// Keeps sealed bytes and wrapped data keys by [`Slot`].
///
/// *Durability*: what a write changed survives a crash of process and machine once the call has returned.
///
/// *Concurrency*: every call is atomic towards every other, from all threads and all nodes; a read sees every write that returned before
/// it began.
///
/// *Two kinds of entry*: sealed bytes are immutable, put once and deleted once. Wrapped data keys change only by compare-and-swap on the
/// whole content; as every sealing and wrapping has a fresh nonce, equal content means that nothing happened in between. An entry of one
/// kind says nothing about the other.
///
/// *Retries*: repeating a call that failed is safe. It may find its own earlier write, and then answers `Exists` or `Conflict`.
///
/// *Away*: a store over a network answers [`StoreError::Unavailable`] in bounded time when it cannot be reached. Until then it may read and
/// scan from a copy that may lack what others wrote last; it never calls absent what the copy does not know, and never gives an owner's
/// slots from one.
///
/// *Blocking*: calls block on the medium; none needs an asynchronous runtime.
pub trait KeyStore: Send + Sync + 'static {
    /// Puts sealed bytes where there are none.
    fn put_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<Put, StoreError>;

    /// Deletes sealed bytes if they are these; others, put there since they were read, stay. It is no error if there are none.
    fn delete_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<(), StoreError>;

    /// Replaces a wrapped data key: `from` is what the slot must hold, `to` what it holds then, none meaning no entry.
    fn swap_wrapped(&self, slot: &Slot, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Swap, StoreError>;

    /// Replaces many wrapped data keys, each as [`swap_wrapped`](Self::swap_wrapped) would and with an answer of its own, in their order. They may
    /// become durable together. If it fails, any of them may have been replaced.
    fn swap_each(&self, swaps: &[Swapping<'_>]) -> Result<Vec<Swap>, StoreError> {
        swaps.iter().map(|swap| self.swap_wrapped(swap.slot, Some(swap.from), Some(&swap.to))).collect()
    }

    /// The bytes of one entry.
    fn read(&self, entry: Entry, slot: &Slot) -> Result<Option<Vec<u8>>, StoreError>;

    /// A page of entries of one kind in slot order, those beyond `after`; at most `limit`, and none at the end. What is written during
    /// a scan may or may not be seen; what lies there from before to after it is seen.
    fn scan(&self, entry: Entry, after: Option<&Slot>, limit: usize) -> Result<Vec<(Slot, Vec<u8>)>, StoreError>;

    /// The slots of one owner that hold an entry of any kind, each once.
    fn owner_slots(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<Vec<Slot>, StoreError>;

    /// Removes from the medium, as far as the store's own files go, what was deleted from these slots and may still lie in old files.
    fn scrub(&self, slots: &[Slot]) -> Result<(), StoreError>;
}
