//! The key store of a node without a cluster: RocksDB in a directory of its own.
//!
//! A key is the slot's bytes, which begin with the tenant, and one byte for the kind of entry. The format marker lies at a key that begins
//! with a zero byte, where no tenant does; so does what a node of a cluster notes there about a store that mirrors another.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, DBCompressionType, DBRecoveryMode, Direction, FlushOptions, IteratorMode, LogLevel,
    Options, WriteBatch, WriteOptions,
};
use schemas::TenantId;
use thiserror::Error;

use crate::address::Slot;
use crate::files::{self, PrivateDirError};
use crate::key_store::{Entry, KeyStore, Put, StoreError, Swap, Swapping};

/// The format of keys and values that this release writes.
pub const FORMAT: u32 = 1;

const FORMAT_KEY: &[u8] = b"\0format";

/// Small: a store holds some hundred bytes per secret and is written rarely.
const WRITE_BUFFER_BYTES: usize = 4 << 20;
const OPEN_FILES_MAX: i32 = 64;
const LOG_FILES_MAX: usize = 2;

/// A key store in RocksDB. The write-ahead log is synced with every write.
pub struct RocksKeyStore {
    pub(crate) db: DB,
    /// Makes look-then-write one step. Taken by every write; the directory's lock keeps other processes out.
    pub(crate) writing: Mutex<()>,
}

/// Why a key store does not open.
#[derive(Debug, Error)]
pub enum OpenStoreError {
    #[error(transparent)]
    Directory(#[from] PrivateDirError),
    #[error("the key store at {} does not open", path.display())]
    Engine {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("the key store at {} has format {found}, and this keyrelay reads formats up to {supported}: use a newer keyrelay", path.display())]
    Newer { path: PathBuf, found: u32, supported: u32 },
    #[error("the directory {} holds a database that is not a key store", path.display())]
    Foreign { path: PathBuf },
}

impl RocksKeyStore {
    /// Opens the store in `dir`, which is created with mode 0700 if it is missing.
    pub fn open(dir: &Path) -> Result<Self, OpenStoreError> {
        files::private_dir(dir)?;
        let engine = |source| OpenStoreError::Engine { path: dir.to_owned(), source };
        let db = DB::open(&options(), dir).map_err(engine)?;
        match db.get(FORMAT_KEY).map_err(engine)? {
            None if db.iterator(IteratorMode::Start).next().is_none() => {
                db.put_opt(FORMAT_KEY, FORMAT.to_be_bytes(), &synced()).map_err(engine)?;
            }
            None => return Err(OpenStoreError::Foreign { path: dir.to_owned() }),
            Some(marker) => match marker.as_slice().try_into().map(u32::from_be_bytes) {
                Ok(0) | Err(_) => return Err(OpenStoreError::Foreign { path: dir.to_owned() }),
                Ok(1..=FORMAT) => {}
                Ok(found) => return Err(OpenStoreError::Newer { path: dir.to_owned(), found, supported: FORMAT }),
            },
        }
        Ok(Self { db, writing: Mutex::new(()) })
    }

    /// Puts entries as they lay in another store, with one sync for all of them: for a store that nothing else knows of yet. What lies in
    /// a slot already is replaced.
    pub fn fill<'a>(&self, entries: impl IntoIterator<Item = (Entry, Slot, &'a [u8])>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (entry, slot, bytes) in entries {
            batch.put(key(&slot, entry), bytes);
        }
        let _writing = self.writing.lock();
        self.db.write_opt(batch, &synced()).map_err(failed("put entries"))
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(failed("read an entry"))
    }

    /// As [`KeyStore::scrub`], for every slot.
    pub(crate) fn scrub_all(&self) -> Result<(), StoreError> {
        self.rewrite(None, None)
    }

    fn rewrite(&self, start: Option<Vec<u8>>, end: Option<Vec<u8>>) -> Result<(), StoreError> {
        let mut flush = FlushOptions::default();
        flush.set_wait(true);
        self.db.flush_opt(&flush).map_err(failed("flush"))?;
        let mut compaction = CompactOptions::default();
        compaction.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.compact_range_opt(start, end, &compaction);
        Ok(())
    }

    /// The entries from `start` on, keys taken apart.
    pub(crate) fn entries(&self, start: &[u8]) -> impl Iterator<Item = Result<(Slot, Entry, Box<[u8]>), StoreError>> {
        // Past the format marker, whatever the start: no tenant begins with a byte below 1.
        let start = start.max(b"\x01");
        self.db.iterator(IteratorMode::From(start, Direction::Forward)).map(|item| {
            let (key, value) = item.map_err(failed("scan its entries"))?;
            let (slot, entry) = parse_key(&key).ok_or(StoreError::ForeignEntry)?;
            Ok((slot, entry, value))
        })
    }
}

impl KeyStore for RocksKeyStore {
    fn put_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<Put, StoreError> {
        let key = key(slot, Entry::Sealed);
        let _writing = self.writing.lock();
        if self.get(&key)?.is_some() {
            return Ok(Put::Exists);
        }
        self.db.put_opt(&key, bytes, &synced()).map_err(failed("put sealed bytes"))?;
        Ok(Put::Stored)
    }

    fn delete_sealed(&self, slot: &Slot, bytes: &[u8]) -> Result<(), StoreError> {
        let key = key(slot, Entry::Sealed);
        let _writing = self.writing.lock();
        if self.get(&key)?.as_deref() == Some(bytes) {
            self.db.delete_opt(&key, &synced()).map_err(failed("delete sealed bytes"))?;
        }
        Ok(())
    }

    fn swap_wrapped(&self, slot: &Slot, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Swap, StoreError> {
        let key = key(slot, Entry::Wrapped);
        let _writing = self.writing.lock();
        if self.get(&key)?.as_deref() != from {
            return Ok(Swap::Conflict);
        }
        let written = match to {
            Some(bytes) => self.db.put_opt(&key, bytes, &synced()),
            None => self.db.delete_opt(&key, &synced()),
        };
        written.map_err(failed("swap a wrapped key"))?;
        Ok(Swap::Swapped)
    }

    /// One batch with one sync.
    fn swap_each(&self, swaps: &[Swapping<'_>]) -> Result<Vec<Swap>, StoreError> {
        let (mut batch, mut outcomes) = (WriteBatch::default(), Vec::with_capacity(swaps.len()));
        let _writing = self.writing.lock();
        for swap in swaps {
            let key = key(swap.slot, Entry::Wrapped);
            let is_as_expected = self.get(&key)?.as_deref() == Some(swap.from);
            if is_as_expected {
                batch.put(key, &swap.to);
            }
            outcomes.push(if is_as_expected { Swap::Swapped } else { Swap::Conflict });
        }
        self.db.write_opt(batch, &synced()).map_err(failed("swap wrapped keys"))?;
        Ok(outcomes)
    }

    fn read(&self, entry: Entry, slot: &Slot) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(&key(slot, entry))
    }

    fn scan(&self, entry: Entry, after: Option<&Slot>, limit: usize) -> Result<Vec<(Slot, Vec<u8>)>, StoreError> {
        let start = after.map_or_else(Vec::new, |slot| [slot.encode().as_slice(), &[u8::MAX]].concat());
        let of_kind = |item: Result<(Slot, Entry, Box<[u8]>), StoreError>| match item {
            Ok((slot, kind, bytes)) => (kind == entry).then(|| Ok((slot, bytes.into_vec()))),
            Err(error) => Some(Err(error)),
        };
        self.entries(&start).filter_map(of_kind).take(limit).collect()
    }

    fn owner_slots(&self, tenant: &TenantId, owner_kind: &str, owner_id: &[u8; 16]) -> Result<Vec<Slot>, StoreError> {
        let mut slots: Vec<Slot> = Vec::new();
        for item in self.entries(&Slot::owner_prefix(tenant, owner_kind, owner_id)) {
            let (slot, _, _) = item?;
            if slot.tenant != *tenant || slot.owner_kind != owner_kind || slot.owner_id != *owner_id {
                break;
            }
            if slots.last() != Some(&slot) {
                slots.push(slot);
            }
        }
        Ok(slots)
    }

    /// Flushing retires the write-ahead log, and a forced compaction rewrites the files that a deleted entry may still lie in.
    fn scrub(&self, slots: &[Slot]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (slots.iter().min(), slots.iter().max()) else {
            return Ok(());
        };
        self.rewrite(Some(first.encode()), Some([last.encode().as_slice(), &[u8::MAX]].concat()))
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Ciphertext does not compress.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_keep_log_file_num(LOG_FILES_MAX);
    options.set_log_level(LogLevel::Warn);
    options
}

pub(crate) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

pub(crate) fn failed(operation: &'static str) -> impl Fn(rocksdb::Error) -> StoreError {
    move |source| StoreError::Engine { operation, source: Box::new(source) }
}

pub(crate) fn key(slot: &Slot, entry: Entry) -> Vec<u8> {
    let mut key = slot.encode();
    key.push(match entry {
        Entry::Wrapped => b'k',
        Entry::Sealed => b's',
    });
    key
}

pub(crate) fn parse_key(key: &[u8]) -> Option<(Slot, Entry)> {
    let (kind, slot) = key.split_last()?;
    let entry = match kind {
        b'k' => Entry::Wrapped,
        b's' => Entry::Sealed,
        _ => return None,
    };
    Some((Slot::decode(slot)?, entry))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_both_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let store = RocksKeyStore::open(&path).unwrap();
        store.db.put(FORMAT_KEY, 7_u32.to_be_bytes()).unwrap();
        drop(store);
        let refused = RocksKeyStore::open(&path).err().unwrap().to_string();
        assert!(refused.contains("format 7") && refused.contains("up to 1"), "{refused}");
    }

    #[test]
    fn what_was_filled_in_is_there_and_survives_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let slot =
            |version| Slot { tenant: TenantId::default_tenant(), owner_kind: "a".into(), owner_id: [1; 16], field: "b".into(), version };
        let store = RocksKeyStore::open(&path).unwrap();
        store.fill([(Entry::Sealed, slot(1), &b"one"[..]), (Entry::Wrapped, slot(1), b"key"), (Entry::Sealed, slot(2), b"two")]).unwrap();
        drop(store);
        let store = RocksKeyStore::open(&path).unwrap();
        assert_eq!(store.scan(Entry::Sealed, None, 9).unwrap(), [(slot(1), b"one".to_vec()), (slot(2), b"two".to_vec())]);
        assert_eq!(store.read(Entry::Wrapped, &slot(1)).unwrap(), Some(b"key".to_vec()));
        assert_eq!(store.put_sealed(&slot(2), b"other").unwrap(), Put::Exists);
    }

    #[test]
    fn another_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let store = RocksKeyStore::open(&path).unwrap();
        store.db.delete(FORMAT_KEY).unwrap();
        store.db.put(b"row", b"of something else").unwrap();
        drop(store);
        assert!(matches!(RocksKeyStore::open(&path), Err(OpenStoreError::Foreign { .. })));
    }
}
