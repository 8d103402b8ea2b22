//! RocksDB, as the logs of this crate use it. The only file that sets its options and the only one that writes to it.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice, DBRawIterator, DBRecoveryMode,
    LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use schemas::Sequence;
use thiserror::Error;

use crate::directory::{Directory, OpenError};
use crate::framing;

/// Memory for blocks that were read: the tail of a log is read from the write buffers, the rest is read once, in order.
const BLOCK_CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Memory per family for what is not in a sorted file yet; it is taken as it fills.
const WRITE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// All write-ahead logs together, which bounds what a start has to replay.
const WAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
const SCAN_READAHEAD_BYTES: usize = 2 * 1024 * 1024;

/// Why the storage under a log cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorageError {
    /// What the storage engine says; a checksum that does not fit is one of these.
    #[error("{0}")]
    Engine(String),
    #[error(transparent)]
    Damage(#[from] Damage),
}

impl From<rocksdb::Error> for StorageError {
    fn from(error: rocksdb::Error) -> Self {
        Self::Engine(error.into_string())
    }
}

/// What every checksum let pass and still cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Damage {
    #[error("sequence {expected} is missing: {found} comes next")]
    Hole { expected: Sequence, found: Sequence },
    /// Answers were given up to a sequence that is not there any more.
    #[error("the log had reached sequence {remembered} and now ends at {found}")]
    Lost { remembered: Sequence, found: Sequence },
    /// A place that was seen with one record now has another.
    #[error("sequence {sequence} holds another record than the one that is remembered")]
    Forked { sequence: Sequence },
    #[error("a row of {family} has not the shape of one")]
    Row { family: &'static str },
    #[error("{family} and the records do not agree")]
    Disagreement { family: &'static str },
    #[error("the file {name} is missing or broken")]
    File { name: String },
}

/// An open RocksDB in a directory of ours. The database is declared first, so that it is closed before the directory is given up.
pub(crate) struct Rocks {
    db: DB,
    directory: Directory,
}

impl Rocks {
    /// Opens the database with all of `families`, and refuses it if `check` does or if the log ends before its last answer.
    /// `check` reads all rows; it returns the last sequence, which comes back with the database.
    pub(crate) fn open(
        directory: Directory,
        families: &[&str],
        check: impl FnOnce(&Self) -> Result<Sequence, StorageError>,
    ) -> Result<(Self, Sequence), OpenError> {
        framing::check(&directory.rocks()).map_err(|error| directory.refuse(error))?;
        let tables = table_options();
        let families = families.iter().map(|name| ColumnFamilyDescriptor::new(*name, family_options(&tables)));
        let db = DB::open_cf_descriptors(&database_options(directory.is_fresh()), directory.rocks(), families);
        let db = db.map_err(|error| directory.refuse(error))?;
        let rocks = Self { db, directory };
        let head = check(&rocks).and_then(|head| rocks.directory.check_head(head).map(|()| head));
        let head = head.map_err(|error| rocks.directory.refuse(error))?;
        Ok((rocks, head))
    }

    pub(crate) fn put(&self, batch: &mut WriteBatch, family: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        batch.put_cf(self.family(family), key, value);
    }

    pub(crate) fn delete(&self, batch: &mut WriteBatch, family: &str, key: impl AsRef<[u8]>) {
        batch.delete_cf(self.family(family), key);
    }

    pub(crate) fn get(&self, family: &str, key: impl AsRef<[u8]>) -> Result<Option<DBPinnableSlice<'_>>, StorageError> {
        Ok(self.db.get_pinned_cf(self.family(family), key)?)
    }

    /// The rows from a key on; position it, then check [`DBRawIterator::status`] where it ends.
    pub(crate) fn iterate(&self, family: &str) -> DBRawIterator<'_> {
        self.db.raw_iterator_cf(self.family(family))
    }

    /// An iterator for reading a whole family once: it leaves the cache alone and reads ahead.
    pub(crate) fn scan(&self, family: &str) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.fill_cache(false);
        options.set_readahead_size(SCAN_READAHEAD_BYTES);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family), options);
        rows.seek_to_first();
        rows
    }

    /// Writes a batch whose last sequence is `head`, all or nothing, and returns when it is on stable storage.
    pub(crate) fn write(&self, batch: WriteBatch, head: Sequence) -> Result<(), StorageError> {
        self.write_synced(batch)?;
        self.directory.remember(head)
    }

    /// Writes a batch that a crash of the machine may take back, as a whole, and only if it takes back everything that was written after it.
    pub(crate) fn write_unsynced(&self, batch: WriteBatch) -> Result<(), StorageError> {
        Ok(self.db.write(batch)?)
    }

    fn write_synced(&self, batch: WriteBatch) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        #[cfg(feature = "faults")]
        {
            use crate::faults::{self, Fault};
            let injected = || StorageError::Engine("a test made this write fail".to_owned());
            options.set_sync(faults::sync());
            if faults::is_planted("buffered-log") {
                options.set_sync(false);
                options.disable_wal(true);
            }
            match faults::take_write_fault() {
                None => {}
                Some(Fault::NotKept) => return Err(injected()),
                Some(Fault::Kept) => return self.db.write_opt(batch, &options).map_err(StorageError::from).and(Err(injected())),
            }
        }
        Ok(self.db.write_opt(batch, &options)?)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every family was named when the database was opened")
    }
}

/// A start tolerates a last write that was cut off, which nobody was told of, and nothing else. Every other fault of a checksum, of a
/// size or of a missing file refuses to open.
fn database_options(create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_use_fsync(false);
    options.set_max_background_jobs(2);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options
}

fn family_options(tables: &BlockBasedOptions) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(tables);
    options
}

fn table_options() -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    tables.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    tables
}

/// A sequence as a key or a value: big-endian, so that the order of the bytes is the order of the numbers.
pub(crate) const fn sequence_bytes(sequence: Sequence) -> [u8; 8] {
    sequence.0.to_be_bytes()
}

/// The inverse of [`sequence_bytes`]; `family` is where the bytes were found.
pub(crate) fn parse_sequence(bytes: &[u8], family: &'static str) -> Result<Sequence, Damage> {
    bytes.try_into().map(|bytes| Sequence(u64::from_be_bytes(bytes))).map_err(|_| Damage::Row { family })
}
