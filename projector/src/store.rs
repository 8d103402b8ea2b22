//! One RocksDB directory: typed rows by column family, written a batch at a time.

pub(crate) mod key;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, Direction, FlushOptions, IteratorMode, ReadOptions, Snapshot, WriteBatch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::memory::Memory;

/// The name of a column family.
pub(crate) type Family = &'static str;

/// Why a read model cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("the read model's storage failed")]
    Storage(#[from] rocksdb::Error),
    /// The rows are derived: with the directory removed they are folded again from the log.
    #[error("a row of {family} does not have its shape; remove the read model's directory to have it rebuilt")]
    Row { family: &'static str },
}

/// Why a batch was not committed. Neither its rows nor its position are there.
#[derive(Debug, Error)]
#[error("the read model's batch could not be written")]
pub struct CommitError(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// A row as it is stored, for comparing whole models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub family: &'static str,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// An open database. Blocking throughout.
pub(crate) struct Store {
    db: DB,
    families: &'static [Family],
    /// Whether commits pass by the write-ahead log. Written by whoever fills the model, which nobody else has yet.
    is_loading: AtomicBool,
    // Dropped after the database, so that a retired directory goes only when nobody reads it any more.
    place: Place,
    #[cfg(feature = "faults")]
    pub(crate) faults: std::sync::Arc<crate::faults::Faults>,
}

/// The directory, and whether it goes with the store.
struct Place {
    path: PathBuf,
    retired: AtomicBool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // The next start sweeps what no pointer names.
            tracing::warn!(path = %self.path.display(), error = %error, "a retired read model could not be removed");
        }
    }
}

impl Store {
    pub(crate) fn open(path: &Path, families: &'static [Family], memory: &Memory) -> Result<Self, ReadError> {
        let descriptors = families.iter().map(|family| ColumnFamilyDescriptor::new(*family, memory.family_options()));
        let db = DB::open_cf_descriptors(&memory.database_options(), path, descriptors)?;
        Ok(Self::of(db, path, families))
    }

    /// Opens a database only to look into it; not a byte of it is changed.
    pub(crate) fn open_read_only(path: &Path, families: &'static [Family], memory: &Memory) -> Result<Self, ReadError> {
        let descriptors = families.iter().map(|family| ColumnFamilyDescriptor::new(*family, memory.family_options()));
        let db = DB::open_cf_descriptors_read_only(&memory.database_options(), path, descriptors, false)?;
        Ok(Self::of(db, path, families))
    }

    fn of(db: DB, path: &Path, families: &'static [Family]) -> Self {
        Self {
            db,
            families,
            is_loading: AtomicBool::new(false),
            place: Place { path: path.to_owned(), retired: AtomicBool::new(false) },
            #[cfg(feature = "faults")]
            faults: std::sync::Arc::default(),
        }
    }

    /// Whether the directory is removed once the last reader has let go.
    pub(crate) fn set_retired(&self, retired: bool) {
        self.place.retired.store(retired, Ordering::Release);
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, family: Family, key: &[u8]) -> Result<Option<T>, ReadError> {
        let value = self.db.get_pinned_cf(self.family(family), key)?;
        value.map(|value| decode(family, &value)).transpose()
    }

    /// The rows under these keys, in their order.
    pub(crate) fn get_all<T: DeserializeOwned>(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<T>>, ReadError> {
        let values = self.db.batched_multi_get_cf(self.family(family), keys, false);
        values.into_iter().map(|value| value?.map(|value| decode(family, &value)).transpose()).collect()
    }

    /// The rows whose keys are `from` or after it and begin with `prefix`, in the order of their keys.
    pub(crate) fn scan<'a, T: DeserializeOwned>(
        &'a self,
        family: Family,
        from: &[u8],
        prefix: Vec<u8>,
    ) -> impl Iterator<Item = Result<(Box<[u8]>, T), ReadError>> + use<'a, T> {
        let rows = self.db.iterator_cf(self.family(family), IteratorMode::From(from, Direction::Forward));
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))).map(move |row| {
            let (key, value) = row?;
            let value = decode(family, &value)?;
            Ok((key, value))
        })
    }

    /// The bytes of one row.
    pub(crate) fn get_bytes(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.db.get_cf(self.family(family), key)?)
    }

    /// Shows rows as they are now, one by one, until the visitor has enough: the rest of each key behind the walk's prefix, and the value. Long
    /// walks leave the block cache to those who read single rows.
    pub(crate) fn walk(
        &self,
        family: Family,
        walk: &Walk,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        let (mut from, mut until) = walk.bounds();
        match &walk.after {
            Some(after) if walk.descending => until = until.min([&walk.prefix[..], after].concat()),
            Some(after) => from = from.max(key::after([&walk.prefix[..], after].concat())),
            None => {}
        }
        if from >= until {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(until);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family), options);
        if walk.descending {
            rows.seek_to_last()
        } else {
            rows.seek_to_first()
        }
        while let Some((key, value)) = rows.item() {
            if visit(&key[walk.prefix.len()..], value)?.is_break() {
                return Ok(());
            }
            if walk.descending { rows.prev() } else { rows.next() }
        }
        Ok(rows.status()?)
    }

    /// The rows as they are now, whatever is committed while they are read.
    pub(crate) fn frozen(&self) -> Frozen<'_> {
        Frozen { store: self, snapshot: self.db.snapshot() }
    }

    /// The first key that is `from` or after it.
    pub(crate) fn seek(&self, family: Family, from: &[u8]) -> Result<Option<Box<[u8]>>, ReadError> {
        let mut rows = self.db.iterator_cf(self.family(family), IteratorMode::From(from, Direction::Forward));
        Ok(rows.next().transpose()?.map(|(key, _)| key))
    }

    /// What is committed from now on survives no crash, not even one of the process, before it was [settled](Self::settle): for a model that is
    /// begun anew after a crash.
    pub(crate) fn load(&self) {
        self.is_loading.store(true, Ordering::Release);
    }

    /// Ends loading: all that was committed is in files.
    pub(crate) fn settle(&self) -> Result<(), ReadError> {
        self.flush()?;
        self.is_loading.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes all that was committed survive a crash of the machine.
    pub(crate) fn sync(&self) -> Result<(), ReadError> {
        Ok(self.db.flush_wal(true)?)
    }

    /// Moves what is in memory to files, so that a checkpoint has little left to write.
    pub(crate) fn flush(&self) -> Result<(), ReadError> {
        let families: Vec<_> = self.families.iter().map(|family| self.family(family)).collect();
        Ok(self.db.flush_cfs_opt(&families, &FlushOptions::default())?)
    }

    /// Makes a copy of the database as it is now, in a directory that must not exist. Files are linked where the file system can.
    pub(crate) fn checkpoint(&self, into: &Path) -> Result<(), ReadError> {
        Ok(Checkpoint::new(&self.db)?.create_checkpoint(into)?)
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { store: self, writes: WriteBatch::default(), row: Vec::new() }
    }

    /// Every row of every family, in order.
    pub(crate) fn dump(&self) -> Result<Vec<Row>, ReadError> {
        let mut rows = Vec::new();
        for &family in self.families {
            for row in self.db.iterator_cf(self.family(family), IteratorMode::Start) {
                let (key, value) = row?;
                rows.push(Row { family, key: key.into(), value: value.into() });
            }
        }
        Ok(rows)
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family).expect("the store was opened with all families it is asked for")
    }
}

fn decode<T: DeserializeOwned>(family: Family, value: &[u8]) -> Result<T, ReadError> {
    postcard::from_bytes(value).map_err(|_| ReadError::Row { family })
}

/// Rows whose keys have one prefix, in the order of their keys or against it. Places are what stands behind the prefix.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub prefix: Vec<u8>,
    /// The first place.
    pub from: Vec<u8>,
    /// The first place past the last; empty is none.
    pub until: Vec<u8>,
    /// A place that was visited before; the walk goes on behind it.
    pub after: Option<Vec<u8>>,
    pub descending: bool,
}

impl Walk {
    /// The first key, and the first key past the last.
    fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let from = [&self.prefix[..], &self.from].concat();
        if !self.until.is_empty() {
            return (from, [&self.prefix[..], &self.until].concat());
        }
        let mut until = self.prefix.clone();
        while until.pop_if(|byte| *byte == u8::MAX).is_some() {}
        if let Some(last) = until.last_mut() {
            *last += 1;
        }
        (from, until)
    }
}

/// The rows of one moment.
pub(crate) struct Frozen<'a> {
    store: &'a Store,
    snapshot: Snapshot<'a>,
}

impl<'s> Frozen<'s> {
    pub(crate) fn get<T: DeserializeOwned>(&self, family: Family, key: &[u8]) -> Result<Option<T>, ReadError> {
        let value = self.snapshot.get_pinned_cf(self.store.family(family), key)?;
        value.map(|value| decode(family, &value)).transpose()
    }

    /// As [`Store::seek`].
    pub(crate) fn seek(&self, family: Family, from: &[u8]) -> Result<Option<Box<[u8]>>, ReadError> {
        let mut rows = self.snapshot.iterator_cf(self.store.family(family), IteratorMode::From(from, Direction::Forward));
        Ok(rows.next().transpose()?.map(|(key, _)| key))
    }

    /// As [`Store::scan`].
    pub(crate) fn scan<'a, T: DeserializeOwned>(
        &'a self,
        family: Family,
        from: &[u8],
        prefix: Vec<u8>,
    ) -> impl Iterator<Item = Result<(Box<[u8]>, T), ReadError>> + use<'a, 's, T> {
        let rows = self.snapshot.iterator_cf(self.store.family(family), IteratorMode::From(from, Direction::Forward));
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))).map(move |row| {
            let (key, value) = row?;
            let value = decode(family, &value)?;
            Ok((key, value))
        })
    }
}

/// Writes that are committed together or not at all.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    writes: WriteBatch,
    /// Where rows are encoded, one after the other.
    row: Vec<u8>,
}

impl Batch<'_> {
    pub(crate) fn put<T: Serialize>(&mut self, family: Family, key: &[u8], row: &T) {
        self.row.clear();
        let value = postcard::to_extend(row, std::mem::take(&mut self.row)).expect("a row is plain data; encoding to memory cannot fail");
        self.writes.put_cf(self.store.family(family), key, &value);
        self.row = value;
    }

    pub(crate) fn put_bytes(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.writes.put_cf(self.store.family(family), key, value);
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) {
        self.writes.delete_cf(self.store.family(family), key);
    }

    pub(crate) fn commit(self) -> Result<(), CommitError> {
        #[cfg(feature = "faults")]
        self.store.faults.before_commit()?;
        let Store { db, is_loading, .. } = self.store;
        let written = if is_loading.load(Ordering::Acquire) { db.write_without_wal(self.writes) } else { db.write(self.writes) };
        written.map_err(|error| CommitError(Box::new(error)))
    }
}
