//! One shard's RocksDB: the only file that names the crate.
//!
//! Options follow from how a shard is used: one writer, large write batches, point reads of `meta`, ranges of the
//! others.

use super::compaction::{Judge, Past};
use super::encoding;
use super::log_check::{self, LogState, Loss};
pub use crate::error::DatabaseError;
use crate::faults;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamilyDescriptor, CompactOptions, CompactionDecision,
    DB, DBCompressionType, Env, ErrorKind, FlushOptions, Options, ReadOptions, WriteBatch, WriteBufferManager,
    WriteOptions,
};
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A column family; see [`super::encoding`] for what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// One record per key.
    Meta,
    /// Members of collections.
    Data,
    /// Sorted sets by score.
    Score,
    /// Keys by deadline.
    Expiry,
    /// Records of the shard itself.
    System,
}

/// Which way to read a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first key up.
    Forward,
    /// From the last key down.
    Backward,
}

/// What is called with each key and value of a range.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

impl Direction {
    /// The other one.
    pub fn reversed(self) -> Direction {
        match self {
            Direction::Forward => Direction::Backward,
            Direction::Backward => Direction::Forward,
        }
    }
}

impl Column {
    /// How many there are.
    pub const COUNT: usize = Column::ALL.len();

    const ALL: [Column; 5] = [
        Column::Meta,
        Column::Data,
        Column::Score,
        Column::Expiry,
        Column::System,
    ];

    fn name(self) -> &'static str {
        match self {
            Column::Meta => "meta",
            Column::Data => "data",
            Column::Score => "score",
            Column::Expiry => "expiry",
            // RocksDB insists on a family of this name.
            Column::System => "default",
        }
    }
}

/// Memtables that one flush merges. A small memtable is cheap to write to, since its upper levels stay in the CPU's
/// cache; merging several keeps the files of level 0 large and few (tuning/README.md has the figures).
const MEMTABLES_PER_FLUSH: i32 = 6;
/// Memtables of one column; when all are full and none is flushed, writes stall. Room for two flushes and the one that
/// is written to.
const MEMTABLES_MAX: i32 = 2 * MEMTABLES_PER_FLUSH + 2;
/// Files of level 0 that start its compaction, which rewrites the level below too: few compactions of many files cost
/// less. A read that misses the table of hot records asks each file's Bloom filter.
const LEVEL_0_FILES_COMPACTED: i32 = 8;
/// Files of level 0 from which on writes are refused (no write ever waits), and all are.
const LEVEL_0_FILES_SLOW: i32 = 36;
const LEVEL_0_FILES_STOP: i32 = 48;

/// Deleted entries that an iterator without bounds passes over at a time: behind the range there may be millions of
/// them, which one with bounds never looks at.
const SKIPPED_MAX: u64 = 64;

/// Deleted entries that [`Database::has_keys`] passes over: milliseconds.
const SKIPPED_TO_TELL_MAX: u64 = 10_000;

/// An opening that takes longer is worth a line in the log.
const SLOW_OPENING_MIN: Duration = Duration::from_millis(100);

/// How long a flush may take before it is asked for again.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

impl From<rocksdb::Error> for DatabaseError {
    fn from(error: rocksdb::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            ErrorKind::Incomplete => DatabaseError::Stalled,
            _ if text.contains("No space left") => DatabaseError::DiskFull(text),
            _ => DatabaseError::Failed(text),
        }
    }
}

/// Another thread that writes batches of shards, each of which has an index there.
pub trait BatchWriter: Send + Sync {
    /// Hands over the batch of the shard at `index`, which has no batch there.
    fn submit(&self, index: usize, database: Arc<Database>, writes: Writes);

    /// Waits for the batch of the shard at `index`, which must be there: blocks for as long as it takes to write what
    /// is queued, so only for commands on a whole shard (and at the end).
    fn wait_for(&self, index: usize) -> Result<(), DatabaseError>;
}

/// What all shards of the process share: caches, memory budget, background threads.
pub struct Resources {
    env: Env,
    block_cache: Cache,
    write_buffers: WriteBufferManager,
    write_buffer_bytes: usize,
    background_jobs: i32,
}

impl Resources {
    /// `block_cache_bytes` and `write_buffer_bytes` (per shard) size the memory, `background_jobs` the pool. The pool's
    /// threads inherit the affinity of the calling thread, so pin it to the background cores before (PITFALLS 20).
    pub fn new(
        block_cache_bytes: usize,
        write_buffer_bytes: usize,
        shard_count: usize,
        background_jobs: usize,
    ) -> Result<Resources, DatabaseError> {
        let background_jobs = i32::try_from(background_jobs).unwrap_or(i32::MAX);
        let mut env = Env::new()?;
        env.set_low_priority_background_threads(background_jobs);
        env.set_high_priority_background_threads((background_jobs / 2).max(1));
        // The pool keeps its CPU priority: a compaction that is starved while it holds the database's mutex starves the
        // executor that wants to write (measured: requests waited over 10 s beside two busy loops on two cores).
        let memtable_bytes = write_buffer_bytes * shard_count * MEMTABLES_MAX as usize;
        let write_buffers = WriteBufferManager::new_write_buffer_manager(memtable_bytes, false);
        let block_cache = Cache::new_hyper_clock_cache(block_cache_bytes, 0);
        Ok(Resources {
            env,
            block_cache,
            write_buffers,
            write_buffer_bytes,
            background_jobs,
        })
    }

    /// Bytes in the block cache.
    pub fn block_cache_bytes(&self) -> usize {
        self.block_cache.get_usage()
    }

    /// Bytes in memtables of all shards.
    pub fn write_buffer_bytes(&self) -> usize {
        self.write_buffers.get_usage()
    }
}

/// Writes that are applied as one.
#[derive(Default)]
pub struct Writes(WriteBatch);

/// One shard's RocksDB.
pub struct Database {
    db: DB,
    path: PathBuf,
    write_options: WriteOptions,
    read_options: ReadOptions,
    /// The last write found the disk full. Until one succeeds the log must not be synced: RocksDB would take the broken
    /// log for a failure that it cannot recover from.
    ran_full: AtomicBool,
    /// Held during a sync of the log; why one has failed, if one has.
    sync: Mutex<Option<DatabaseError>>,
    /// The last operation that is known to be in the log on disk; every batch says it.
    synced_sequence: AtomicU64,
}

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The shard's log is damaged, and nothing was changed.
    #[error("{0}")]
    DamagedLog(Loss),
    /// The shard's log could not be read.
    #[error("its log cannot be read: {0}")]
    UnreadableLog(#[from] std::io::Error),
    /// Anything else.
    #[error("{0}")]
    Database(#[from] DatabaseError),
}

impl From<rocksdb::Error> for OpenError {
    fn from(error: rocksdb::Error) -> Self {
        OpenError::Database(error.into())
    }
}

/// How a database is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// A database that is not there is created.
    pub creates: bool,
    /// A log that is damaged before its end is replayed up to the damage, and not refused.
    pub loads_damaged_log: bool,
}

impl Database {
    /// Opens the database in `path`; recovery replays its log.
    ///
    /// # Errors
    /// Among others, the log is damaged ([`log_check`]) and `opening` does not allow that.
    pub fn open(path: &Path, resources: &Resources, opening: Opening) -> Result<Arc<Database>, OpenError> {
        faults::check().map_err(DatabaseError::Failed)?;
        let began = Instant::now();
        let log_bytes = check_log(path, opening)?;
        let checked = began.elapsed();
        let mut options = Options::default();
        options.create_if_missing(opening.creates);
        options.create_missing_column_families(opening.creates);
        options.set_env(&resources.env);
        options.set_write_buffer_manager(&resources.write_buffers);
        options.set_max_background_jobs(resources.background_jobs);
        options.set_max_open_files(1024);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        options.set_stats_dump_period_sec(0);
        // One writer: neither pipelining nor concurrent memtable writes can help (PITFALLS 21).
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_pipelined_write(false);
        // Deleting files must not hold up the thread that drops the last reference, often an executor.
        options.set_avoid_unnecessary_blocking_io(true);
        // Up to the first record that cannot be read; `check_log` has told whether that is a tear.
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::PointInTime);
        options.set_max_total_wal_size(resources.write_buffer_bytes as u64 * MEMTABLES_MAX as u64);
        // Spread write-back over time, so that a log sync finds little else to wait for.
        options.set_bytes_per_sync(1 << 20);

        let opened = Arc::new(OnceLock::new());
        let columns = Column::ALL.map(|column| {
            ColumnFamilyDescriptor::new(column.name(), column_options(column, resources, Arc::clone(&opened)))
        });
        let db = DB::open_cf_descriptors(&options, path, columns)?;
        if began.elapsed() >= SLOW_OPENING_MIN {
            tracing::info!(
                path = %path.display(),
                log_bytes,
                check_ms = checked.as_millis(),
                replay_ms = (began.elapsed() - checked).as_millis(),
                "a shard's log was checked and replayed"
            );
        }
        let mut write_options = WriteOptions::default();
        write_options.set_no_slowdown(true);
        let read_options = ReadOptions::default();
        let database = Arc::new(Database {
            db,
            path: path.to_owned(),
            write_options,
            read_options,
            ran_full: AtomicBool::new(false),
            sync: Mutex::new(None),
            synced_sequence: AtomicU64::new(0),
        });
        let _ = opened.set(Arc::downgrade(&database));
        Ok(database)
    }

    /// The database's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads one value and gives it to `read`; `None` if the key is absent.
    #[inline]
    pub fn get<T>(
        &self,
        column: Column,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, DatabaseError> {
        let value = self
            .db
            .get_pinned_cf_opt(self.family(column), key, &self.read_options)?;
        Ok(value.map(|bytes| read(&bytes)))
    }

    /// Applies writes as one: in the log (and so in the kernel) when this returns. Never sleeps in a stall.
    pub fn write(&self, writes: Writes) -> Result<(), DatabaseError> {
        let written =
            faults::before_write(&self.path).and_then(|()| Ok(self.db.write_opt(writes.0, &self.write_options)?));
        match &written {
            Ok(()) => {
                faults::after_write();
                if self.ran_full.load(Ordering::Relaxed) {
                    self.ran_full.store(false, Ordering::Release);
                }
            }
            Err(DatabaseError::DiskFull(_)) => self.ran_full.store(true, Ordering::Release),
            Err(_) => {}
        }
        written
    }

    /// An empty set of writes with room for `capacity` bytes.
    pub fn writes(&self, capacity: usize) -> Staging<'_> {
        let families = Column::ALL.map(|column| self.family(column));
        let mut writes = WriteBatch::with_capacity_bytes(capacity);
        writes.put_log_data(log_check::sync_mark(self.synced_sequence.load(Ordering::Acquire)));
        Staging { families, writes }
    }

    /// Makes everything durable that was written before the call (fdatasync of the log). Blocks: for the syncer's
    /// thread, and for those that delete files or members.
    ///
    /// Returns false, and nothing is durable, while the log is broken because the disk was full.
    ///
    /// # Errors
    /// A sync failed, this one or one before; what the disk has is unknown.
    pub fn sync_log(&self) -> Result<bool, DatabaseError> {
        // One sync at a time, and none after a failed one: the kernel tells of a failure once, and the next sync would
        // succeed without what was lost. Every caller must hear of it, whichever call's sync it was.
        let mut failed = self.sync.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(error) = &*failed {
            return Err(error.clone());
        }
        if self.ran_full.load(Ordering::Acquire) {
            return Ok(false);
        }
        let synced = self.sync_log_now();
        *failed = synced.as_ref().err().cloned();
        synced.map(|()| true)
    }

    fn sync_log_now(&self) -> Result<(), DatabaseError> {
        let sizes = faults::before_sync(&self.path)?;
        // What is written during the sync may not be covered.
        let sequence = self.db.latest_sequence_number();
        self.db.flush_wal(true)?;
        self.synced_sequence.fetch_max(sequence, Ordering::AcqRel);
        faults::after_sync(&self.path, &sizes)
    }

    /// Whether a write can succeed: always, unless the disk was full when the last one was tried. Then it tries one:
    /// RocksDB begins another log, and flushes what the old one has, some seconds after there is room.
    pub fn takes_writes(&self) -> bool {
        if !self.ran_full.load(Ordering::Acquire) {
            return true;
        }
        let mut staging = self.writes(64);
        // There is no such key: to delete it changes nothing, but needs room in the log.
        staging.delete(Column::System, b"room");
        self.write(staging.finish()).is_ok()
    }

    /// Calls `visit` for each entry from `from` (inclusive) to `to` (exclusive) in order, until it breaks.
    pub fn scan(
        &self,
        column: Column,
        from: &[u8],
        to: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), DatabaseError> {
        self.scan_in(column, (from, to), Direction::Forward, visit)
    }

    /// The same, in either direction.
    pub fn scan_in(
        &self,
        column: Column,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), DatabaseError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.set_iterate_lower_bound(from);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(column), options);
        match direction {
            Direction::Forward => entries.seek_to_first(),
            Direction::Backward => entries.seek_to_last(),
        }
        while let Some((key, value)) = entries.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            match direction {
                Direction::Forward => entries.next(),
                Direction::Backward => entries.prev(),
            }
        }
        Ok(entries.status()?)
    }

    /// Whether a range has any key; `None` if so many deleted ones come first that it would take long to tell.
    pub fn has_keys(&self, column: Column, (from, to): (&[u8], &[u8])) -> Result<Option<bool>, DatabaseError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.set_iterate_lower_bound(from);
        options.set_max_skippable_internal_keys(SKIPPED_TO_TELL_MAX);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(column), options);
        entries.seek_to_first();
        match entries.status() {
            Ok(()) => Ok(Some(entries.valid())),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A range to be read little by little, as it is now: from `from` (inclusive) to `to` (exclusive), or backwards.
    pub fn cursor(self: &Arc<Database>, column: Column, (from, to): (&[u8], &[u8]), direction: Direction) -> Cursor {
        let entries = EntriesOf::new(Arc::clone(self), |database| {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(to);
            options.set_iterate_lower_bound(from);
            let mut entries = database.db.raw_iterator_cf_opt(database.family(column), options);
            match direction {
                Direction::Forward => entries.seek_to_first(),
                Direction::Backward => entries.seek_to_last(),
            }
            entries
        });
        Cursor { entries, direction }
    }

    /// An integer property, such as `rocksdb.estimate-num-keys`, summed over the columns.
    pub fn property_sum(&self, name: &CStr) -> u64 {
        let of = |column| {
            self.db
                .property_int_value_cf(self.family(column), name)
                .ok()
                .flatten()
                .unwrap_or(0)
        };
        Column::ALL.map(of).iter().sum()
    }

    /// An integer property of the whole database, such as `rocksdb.is-write-stopped`.
    pub fn property(&self, name: &CStr) -> u64 {
        self.db
            .property_int_value_cf(self.family(Column::Meta), name)
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    /// Compacts a column. Blocks for as long as that takes.
    pub fn compact(&self, column: Column) {
        self.db
            .compact_range_cf(self.family(column), None::<&[u8]>, None::<&[u8]>);
    }

    /// Deletes from the disk what begins with `prefix` in a column, all of which must be dead for the filter of
    /// compactions, durably so: files are deleted without asking anybody. Blocks for as long as that takes; returns
    /// whether nothing is left. Cursors go on seeing what they saw: RocksDB keeps their files until they are dropped.
    pub fn reclaim(&self, column: Column, prefix: &[u8]) -> Result<bool, DatabaseError> {
        let to = encoding::after_prefix(prefix.to_vec());
        // RocksDB also deletes the file that ends with the end of the range, so that must not be `to`: another
        // version's key may be just that.
        let Some(last) = self.last_key(column, (prefix, &to))? else {
            return Ok(true);
        };
        let family = self.family(column);
        self.db.delete_file_in_range_cf(family, prefix, &last)?;
        let mut options = CompactOptions::default();
        // Other compactions go on meanwhile.
        options.set_exclusive_manual_compaction(false);
        // A compaction that began when these members were alive may have written some to the last level since.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.until_flushed(column, || {
            // A manual compaction begins with a flush.
            self.db.compact_range_cf_opt(family, Some(prefix), Some(&to), &options);
        });
        Ok(self.last_key(column, (prefix, &to))?.is_none())
    }

    /// Whether nothing in a column begins with `prefix`.
    pub fn has_none(&self, column: Column, prefix: &[u8]) -> Result<bool, DatabaseError> {
        let to = encoding::after_prefix(prefix.to_vec());
        Ok(self.last_key(column, (prefix, &to))?.is_none())
    }

    fn last_key(&self, column: Column, range: (&[u8], &[u8])) -> Result<Option<Vec<u8>>, DatabaseError> {
        let mut last = None;
        self.scan_in(column, range, Direction::Backward, |key, _| {
            last = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        Ok(last)
    }

    /// Writes the memtables to files. Blocks.
    pub fn flush(&self) -> Result<(), DatabaseError> {
        for column in Column::ALL {
            self.until_flushed(column, || self.db.flush_cf(self.family(column)))?;
        }
        Ok(())
    }

    /// Does what waits for a flush of a column.
    ///
    /// RocksDB forgets one that is asked for while an earlier flush is about to begin, if fewer memtables are full than
    /// it merges: that flush takes the request back (`MemTableList::PickMemtablesToFlush`) without having the newest
    /// memtable, and the caller waits until others have written enough. So another thread asks again, from time to
    /// time.
    fn until_flushed<T>(&self, column: Column, work: impl FnOnce() -> T) -> T {
        let (working, is_working) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut options = FlushOptions::default();
                options.set_wait(false);
                let mut pause = FLUSH_PATIENCE;
                while is_working.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    // The caller that waits for the flush gets the error, too.
                    let _ = self.db.flush_cf_opt(self.family(column), &options);
                    pause *= 2;
                }
            });
            let result = work();
            drop(working);
            result
        })
    }

    /// Makes RocksDB start its threads now, by the calling thread, whose CPUs they inherit: a flush and a compaction of
    /// one small record.
    pub fn start_background_threads(&self) -> Result<(), DatabaseError> {
        let mut staging = self.writes(64);
        staging.put(Column::System, b"opened", &crate::clock::unix_ms().to_be_bytes());
        self.write(staging.finish())?;
        self.db.flush_cf(self.family(Column::System))?;
        self.compact(Column::System);
        Ok(())
    }

    /// Stops flushes and compactions, [`Database::reclaim`]'s too, and waits for those that run; must precede the drop
    /// of the last reference, because a compaction holds one while it asks which versions are alive.
    pub fn stop_background_work(&self) {
        self.db.cancel_all_background_work(true);
    }

    fn family(&self, column: Column) -> &rocksdb::ColumnFamily {
        self.db
            .cf_handle(column.name())
            .expect("open creates every column family")
    }
}

type Entries<'a> = rocksdb::DBRawIteratorWithThreadMode<'a, DB>;

self_cell::self_cell!(
    struct EntriesOf {
        owner: Arc<Database>,
        #[covariant]
        dependent: Entries,
    }
);

/// Reads one range after the other, of any column, each as it is then.
///
/// To make an iterator costs as much as to read dozens of entries with it, because it looks into every memtable and
/// file. So one of each column is kept, and brought up to date for each range. It holds on to memtables and files that
/// were replaced since; [`RangeReader::release`] lets go of them.
#[derive(Default)]
pub struct RangeReader {
    kept: [Option<EntriesOf>; Column::COUNT],
}

/// How a range was read by an iterator that passes over a bounded number of deleted entries.
enum Walked {
    /// To its end, or until `visit` broke.
    All,
    /// Up to the key at which the iterator gave up, this being the last before it; `None` if it was the first.
    UpTo(Option<Vec<u8>>),
}

impl RangeReader {
    /// The same as [`Database::scan_in`], of `database`, which must be the same each time.
    pub fn scan(
        &mut self,
        database: &Arc<Database>,
        column: Column,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), DatabaseError> {
        match (
            self.walk_kept(database, column, (from, to), direction, &mut visit)?,
            direction,
        ) {
            (Walked::All, _) => Ok(()),
            (Walked::UpTo(None), _) => database.scan_in(column, (from, to), direction, visit),
            (Walked::UpTo(Some(last)), Direction::Forward) => {
                database.scan_in(column, (&encoding::first_behind(last), to), direction, visit)
            }
            (Walked::UpTo(Some(last)), Direction::Backward) => {
                database.scan_in(column, (from, &last), direction, visit)
            }
        }
    }

    /// The same forwards, but gives up where more than `deleted_max` deleted entries lie side by side. Returns the key
    /// before which `visit` was called with all entries, if it gave up.
    pub fn scan_bounded(
        &mut self,
        database: &Arc<Database>,
        column: Column,
        (from, to): (&[u8], &[u8]),
        deleted_max: u64,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<Option<Vec<u8>>, DatabaseError> {
        let walked = self.walk_kept(database, column, (from, to), Direction::Forward, &mut visit)?;
        let Walked::UpTo(last) = walked else {
            return Ok(None);
        };
        // The kept iterator gives up early, and also for what is deleted behind the range.
        let begin = last.map_or_else(|| from.to_vec(), encoding::first_behind);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        options.set_max_skippable_internal_keys(deleted_max);
        let mut entries = database.db.raw_iterator_cf_opt(database.family(column), options);
        match walk(&mut entries, (&begin, to), Direction::Forward, &mut visit)? {
            Walked::All => Ok(None),
            Walked::UpTo(last) => Ok(Some(last.map_or(begin, encoding::first_behind))),
        }
    }

    /// Reads a range by the iterator that is kept, as far as it comes.
    fn walk_kept(
        &mut self,
        database: &Arc<Database>,
        column: Column,
        range: (&[u8], &[u8]),
        direction: Direction,
        visit: &mut impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<Walked, DatabaseError> {
        let kept = &mut self.kept[column as usize];
        let is_current = kept
            .as_mut()
            .is_some_and(|kept| kept.with_dependent_mut(|_, entries| entries.refresh().is_ok()));
        if !is_current {
            *kept = None;
        }
        let kept = kept.get_or_insert_with(|| {
            EntriesOf::new(Arc::clone(database), |database| {
                let mut options = ReadOptions::default();
                options.set_max_skippable_internal_keys(SKIPPED_MAX);
                database.db.raw_iterator_cf_opt(database.family(column), options)
            })
        });
        kept.with_dependent_mut(|_, entries| walk(entries, range, direction, visit))
    }

    /// Lets go of the iterators that are kept.
    pub fn release(&mut self) {
        self.kept = Default::default();
    }
}

/// Reads a range by an iterator that may know nothing of its bounds.
fn walk(
    entries: &mut Entries<'_>,
    (from, to): (&[u8], &[u8]),
    direction: Direction,
    visit: &mut impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<Walked, DatabaseError> {
    match direction {
        Direction::Forward => entries.seek(from),
        Direction::Backward => {
            entries.seek_for_prev(to);
            if entries.key() == Some(to) {
                entries.prev();
            }
        }
    }
    let mut last: Option<Vec<u8>> = None;
    while let Some((key, value)) = entries.item() {
        let is_behind = match direction {
            Direction::Forward => key >= to,
            Direction::Backward => key < from,
        };
        if is_behind || visit(key, value).is_break() {
            return Ok(Walked::All);
        }
        let last = last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        match direction {
            Direction::Forward => entries.next(),
            Direction::Backward => entries.prev(),
        }
    }
    match entries.status() {
        Ok(()) => Ok(Walked::All),
        Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Walked::UpTo(last)),
        Err(error) => Err(error.into()),
    }
}

/// A position in a range of keys that is read as it was when the cursor was made. What it has still to read is not
/// deleted from the disk before the cursor is dropped.
pub struct Cursor {
    entries: EntriesOf,
    direction: Direction,
}

impl Cursor {
    /// The entry at the cursor; `None` at the end, or if it cannot be read.
    pub fn item(&self) -> Option<(&[u8], &[u8])> {
        self.entries.borrow_dependent().item()
    }

    /// Whether there is no entry because it was the last, and not because it could not be read.
    pub fn has_ended(&self) -> bool {
        self.entries.borrow_dependent().status().is_ok()
    }

    /// Goes back to the first entry; all are as they were.
    pub fn rewind(&mut self) {
        let direction = self.direction;
        self.entries.with_dependent_mut(|_, entries| match direction {
            Direction::Forward => entries.seek_to_first(),
            Direction::Backward => entries.seek_to_last(),
        });
    }

    /// Goes on to the next entry.
    pub fn advance(&mut self) {
        let direction = self.direction;
        self.entries.with_dependent_mut(|_, entries| match direction {
            Direction::Forward => entries.next(),
            Direction::Backward => entries.prev(),
        });
    }
}

/// Collects [`Writes`] for one database.
pub struct Staging<'a> {
    families: [&'a rocksdb::ColumnFamily; Column::ALL.len()],
    writes: WriteBatch,
}

impl Staging<'_> {
    /// Sets a key.
    pub fn put(&mut self, column: Column, key: &[u8], value: &[u8]) {
        self.writes.put_cf(self.families[column as usize], key, value);
    }

    /// Deletes a key.
    pub fn delete(&mut self, column: Column, key: &[u8]) {
        self.writes.delete_cf(self.families[column as usize], key);
    }

    /// Deletes all keys from `from` (inclusive) to `to` (exclusive): for ranges of the size of a slot or a database
    /// only, since every read then looks through the range tombstones.
    pub fn delete_range(&mut self, column: Column, from: &[u8], to: &[u8]) {
        self.writes.delete_range_cf(self.families[column as usize], from, to);
    }

    /// Ready for [`Database::write`].
    pub fn finish(self) -> Writes {
        Writes(self.writes)
    }
}

/// Looks for damage in the log of the database in `path`, if there is one, before it is replayed. Returns its bytes.
fn check_log(path: &Path, opening: Opening) -> Result<u64, OpenError> {
    if !path.exists() {
        return Ok(0);
    }
    let (state, bytes) = log_check::examine(path)?;
    match state {
        LogState::Whole => {}
        LogState::Torn(loss) => {
            tracing::warn!(
                "a log ends early, as after a kill or a loss of power, and what was not synced is dropped: {loss}"
            );
        }
        LogState::Damaged(loss) if opening.loads_damaged_log => {
            tracing::error!("a damaged log is loaded up to the damage, and the rest is dropped: {loss}");
        }
        LogState::Damaged(loss) => return Err(OpenError::DamagedLog(loss)),
    }
    Ok(bytes)
}

fn column_options(column: Column, resources: &Resources, database: Arc<OnceLock<Weak<Database>>>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&resources.block_cache);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_write_buffer_size(resources.write_buffer_bytes);
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_min_write_buffer_number_to_merge(MEMTABLES_PER_FLUSH);
    options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES_COMPACTED);
    options.set_level_zero_slowdown_writes_trigger(LEVEL_0_FILES_SLOW);
    options.set_level_zero_stop_writes_trigger(LEVEL_0_FILES_STOP);
    options.set_level_compaction_dynamic_level_bytes(true);
    // Level 0 is read whole by its compaction within minutes and holds what is read most: not worth the CPU.
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    options.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
    match column {
        Column::Meta => filter_whole_keys(&mut options, &mut table),
        Column::Data | Column::Score => {
            filter_whole_keys(&mut options, &mut table);
            options.set_compaction_filter_factory(FilterFactory { database });
        }
        Column::Expiry | Column::System => options.set_write_buffer_size(resources.write_buffer_bytes.min(16 << 20)),
    }
    options.set_block_based_table_factory(&table);
    options
}

/// Bloom filters in files and memtables: most look-ups that miss the table of records are for keys or members that do
/// not exist yet.
fn filter_whole_keys(options: &mut Options, table: &mut BlockBasedOptions) {
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.02);
}

const FILTER_NAME: &CStr = c"corelane.dead_versions";

/// Makes a [`Filter`] for each compaction.
struct FilterFactory {
    /// Not set while the database is being opened.
    database: Arc<OnceLock<Weak<Database>>>,
}

/// Drops the members of dead versions from one compaction.
struct Filter(Judge<MetaSnapshot>);

impl CompactionFilterFactory for FilterFactory {
    type Filter = Filter;

    fn create(&mut self, _context: CompactionFilterContext) -> Filter {
        let database = self.database.get().and_then(Weak::upgrade);
        let snapshot = database.map(|database| MetaSnapshot::new(database, |database| database.db.snapshot()));
        Filter(Judge::new(snapshot))
    }

    fn name(&self) -> &CStr {
        FILTER_NAME
    }
}

impl CompactionFilter for Filter {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> CompactionDecision {
        match self.0.is_dead(key) {
            true => CompactionDecision::Remove,
            false => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        FILTER_NAME
    }
}

type Snapshot<'a> = rocksdb::SnapshotWithThreadMode<'a, DB>;

self_cell::self_cell!(
    struct MetaSnapshot {
        owner: Arc<Database>,
        #[covariant]
        dependent: Snapshot,
    }
);

impl Past for MetaSnapshot {
    fn record<T>(&self, meta_key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Option<T> {
        let family = self.borrow_owner().family(Column::Meta);
        let mut options = ReadOptions::default();
        // Each owner is looked up once: its record must not take the room of those that are asked for more often.
        options.fill_cache(false);
        let record = self
            .borrow_dependent()
            .get_pinned_cf_opt(family, meta_key, options)
            .ok()?;
        Some(read(record.as_deref()))
    }

    fn make_durable(&self) -> bool {
        match self.borrow_owner().sync_log() {
            Ok(synced) => synced,
            Err(error) => {
                tracing::error!(%error, "a compaction keeps dead members, since the log could not be synced");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;

    const CREATES: Opening = Opening {
        creates: true,
        loads_damaged_log: false,
    };

    /// What a range has, or its first `count` entries.
    fn read(
        scan: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), DatabaseError>,
        count: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            match found.len() < count {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        scan(&mut visit).expect("a range can be read");
        found
    }

    /// Runs of deleted keys before, in and behind the ranges are longer than what a kept iterator passes over.
    #[test]
    fn a_kept_iterator_reads_what_a_new_one_does() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let resources = Resources::new(1 << 20, 1 << 20, 1, 2).expect("RocksDB's environment");
        let database = Arc::new(Database::open(folder.path(), &resources, CREATES).expect("a new database"));
        let mut random = seeded_random::printed();
        let mut reader = RangeReader::default();
        let key_of = |number: u32| number.to_be_bytes();
        for round in 0..60_u32 {
            let mut writes = database.writes(0);
            let first = random.random_range(0..1500);
            for number in first..first + 10 * SKIPPED_MAX as u32 {
                match random.random_bool(0.1) {
                    true => writes.put(Column::Meta, &key_of(number), &round.to_be_bytes()),
                    false => writes.delete(Column::Meta, &key_of(number)),
                }
            }
            database.write(writes.finish()).expect("a write");
            if random.random_bool(0.1) {
                database.flush().expect("a flush");
            }
            if random.random_bool(0.1) {
                reader.release();
            }
            for _ in 0..20 {
                let (from, len) = (random.random_range(0..2200), random.random_range(0..400));
                let (from, to) = (key_of(from), key_of(from + len));
                let range = (&from[..], &to[..]);
                let direction = match random.random() {
                    true => Direction::Forward,
                    false => Direction::Backward,
                };
                let count = random.random_range(1..30);
                let expected = read(|visit| database.scan_in(Column::Meta, range, direction, visit), count);
                let found = read(
                    |visit| reader.scan(&database, Column::Meta, range, direction, visit),
                    count,
                );
                assert_eq!(found, expected, "{range:?} {direction:?}");
            }
        }
        reader.release();
        database.stop_background_work();
    }

    #[test]
    fn a_bounded_read_gives_up_where_much_is_deleted_and_has_read_all_before() {
        const DELETED_MAX: u64 = 1000;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let resources = Resources::new(1 << 20, 1 << 20, 1, 2).expect("RocksDB's environment");
        let database = Database::open(folder.path(), &resources, CREATES).expect("a new database");
        let key_of = |number: u32| number.to_be_bytes();
        // Between the first part and the second, much is deleted; between those of a part, less than is passed over.
        let is_there = |number: u32| !(10_000..60_000).contains(&number) && number.is_multiple_of(100);
        for deletes in [false, true] {
            let mut writes = database.writes(0);
            for number in (0..70_000).filter(|number| !deletes || !is_there(*number)) {
                match deletes {
                    true => writes.delete(Column::Meta, &key_of(number)),
                    false => writes.put(Column::Meta, &key_of(number), b""),
                }
            }
            database.write(writes.finish()).expect("a write");
        }
        rocksdb::perf::set_perf_stats(rocksdb::perf::PerfStatsLevel::EnableCount);
        let mut reader = RangeReader::default();
        let mut read = |from: u32, to: u32| {
            let mut counters = rocksdb::perf::PerfContext::default();
            counters.reset();
            let (mut found, range) = (Vec::new(), (&key_of(from)[..], &key_of(to)[..]));
            let end = reader.scan_bounded(&database, Column::Meta, range, DELETED_MAX, |key, _| {
                found.push(u32::from_be_bytes(key.try_into().expect("a number")));
                ControlFlow::Continue(())
            });
            let looked_at = counters.metric(rocksdb::perf::PerfMetric::InternalDeleteSkippedCount);
            let end = end.expect("a range can be read");
            let before = end.as_ref().map_or(to, |_| 10_000);
            let expected: Vec<u32> = (from..before).filter(|number| is_there(*number)).collect();
            assert_eq!(found, expected, "from {from} to {to}");
            (end, looked_at)
        };
        let last = [&key_of(9900)[..], &[0]].concat();
        let (end, looked_at) = read(0, 70_000);
        assert_eq!(end, Some(last));
        assert!(looked_at < 10_000 + 2 * DELETED_MAX, "{looked_at} deleted entries");
        let (end, looked_at) = read(10_000, 70_000);
        assert_eq!(end, Some(key_of(10_000).to_vec()));
        assert!(looked_at < 2 * DELETED_MAX, "{looked_at} deleted entries");
        // What is deleted behind a range does not matter.
        assert_eq!(read(0, 9950).0, None);
        assert_eq!(read(60_000, 70_000).0, None);
        reader.release();
        database.stop_background_work();
    }
}
