//! One budget for all read models of a node.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options, WriteBufferManager};

/// A budget of bytes that blocks, indexes, filters and write buffers of all read models share. Nothing is taken before it is used.
///
/// A clone is the same budget. RocksDB keeps to it within a few percent: pinned blocks and iterators come on top.
#[derive(Clone)]
pub struct Memory {
    cache: Cache,
    write_buffers: WriteBufferManager,
}

impl Memory {
    /// Holds the hot rows of about a million keys.
    pub const BYTES_DEFAULT: usize = 192 << 20;
    /// Below this RocksDB would flush after every few batches.
    pub const BYTES_MIN: usize = 16 << 20;

    /// A budget of this many bytes, raised to [`Memory::BYTES_MIN`].
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.max(Self::BYTES_MIN);
        let cache = Cache::new_lru_cache(bytes);
        // A quarter may be unflushed rows. They are charged to the cache, so that the sum stays one number.
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(bytes / 4, false, cache.clone());
        Self { cache, write_buffers }
    }

    /// Options of a database. Everything in one is derived from a log, hence the write-ahead log is never synced: a crash of the
    /// machine loses a suffix of batches, whole ones only, and the next start folds them again.
    pub(crate) fn database_options(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_max_open_files(256);
        options.set_max_background_jobs(2);
        options.set_max_total_wal_size(64 << 20);
        options.set_keep_log_file_num(2);
        options.set_avoid_unnecessary_blocking_io(true);
        options
    }

    /// Options of a column family.
    pub(crate) fn family_options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_bloom_filter(10.0, false);
        table.set_block_size(8 << 10);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_manager(&self.write_buffers);
        options.set_write_buffer_size(16 << 20);
        // Small arenas: a family that hardly holds a row must not take a megabyte of the budget.
        options.set_arena_block_size(64 << 10);
        // Most rows that are asked for before they are written are not there yet: new keys, new commands, new hashes.
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(0.05);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_level_compaction_dynamic_level_bytes(true);
        options
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(Self::BYTES_DEFAULT)
    }
}
