//! One shard's RocksDB: the only file that names the crate.
//!
//! Nothing is written through RocksDB's log and memtables: a shard's cells come as sorted files, which are on disk when
//! they are part of the database. So whatever it shows is durable. Options follow from how a shard is used: point reads
//! of `meta`, ranges of the others.

use super::cell_writes::CellWrites;
use super::compaction::{Judge, Past};
use super::encoding;
use super::key_steps;
pub use crate::error::DatabaseError;
use crate::faults;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamilyDescriptor, CompactOptions, CompactionDecision,
    DB, DBCompressionType, Env, ErrorKind, IngestExternalFileOptions, Options, ReadOptions, ReadTier, SstFileWriter,
};
use std::collections::VecDeque;
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// A column family; see [`super::encoding`] for what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first key up.
    Forward,
    /// From the last key down.
    Backward,
}

/// What is known of a key without waiting for the disk.
#[derive(Debug, PartialEq, Eq)]
pub enum InMemory<T> {
    /// What was read of its value; `None` if the key is absent.
    Known(Option<T>),
    /// The disk must be asked.
    Unknown,
}

/// The members from one (inclusive) to another (exclusive; `None`: to the last).
pub type MemberRange<'a> = (&'a [u8], Option<&'a [u8]>);

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

    /// All of them, in the order in which files are ingested: a member never comes before its owner's record, whose
    /// absence would make it a dead one for the filter of compactions; what says that something is done comes last.
    pub const ALL: [Column; 5] = [
        Column::Meta,
        Column::Data,
        Column::Score,
        Column::Expiry,
        Column::System,
    ];

    /// The column that `column as u8` is the index of.
    pub fn of_index(index: u8) -> Option<Column> {
        Column::ALL.get(usize::from(index)).copied()
    }

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

/// Files of level 0 that start its compaction, which rewrites the level below too: few compactions of many files cost
/// less. Large ones start it earlier, by their bytes (`max_bytes_for_level_base`); so many are mostly small, of a log
/// that hardly grew, and not worth that all the rest is rewritten. A read that misses the table of hot records asks
/// each file's Bloom filter.
const LEVEL_0_FILES_COMPACTED: i32 = 24;
/// Files of level 0 from which on no more should come ([`Database::is_stalled`]): each costs every read that misses.
const LEVEL_0_FILES_MAX: i32 = 48;

/// Deleted entries that an iterator without bounds passes over at a time: behind the range there may be millions of
/// them, which one with bounds never looks at.
const SKIPPED_MAX: u64 = 64;

/// Deleted entries that [`Database::has_keys`] passes over: milliseconds.
const SKIPPED_TO_TELL_MAX: u64 = 10_000;

/// Bytes of a range that [`Database::fetch_range`] brings into memory: some hundred microseconds of a fast disk, and
/// more than most commands read.
const FETCHED_BYTES_MAX: usize = 128 << 10;

/// Deleted entries that [`Database::fetch_range`] passes over: tens of milliseconds, on a thread that has time.
const SKIPPED_TO_FETCH_MAX: u64 = 100_000;

/// What RocksDB says of an iterator that has passed over as many deleted entries as it may. Of one that would have to
/// wait for the disk it says otherwise, with the same kind of error.
const TOO_MANY_SKIPPED: &str = "internal keys skipped";

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

/// What all shards of the process share: cache and background threads.
pub struct Resources {
    env: Env,
    block_cache: Cache,
    background_jobs: i32,
}

impl Resources {
    /// `block_cache_bytes` sizes the memory, `background_jobs` the pool. The pool's threads inherit the affinity of the
    /// calling thread, so pin it to the background cores before (PITFALLS 20).
    pub fn new(block_cache_bytes: usize, background_jobs: usize) -> Result<Resources, DatabaseError> {
        let background_jobs = i32::try_from(background_jobs).unwrap_or(i32::MAX);
        let mut env = Env::new()?;
        env.set_low_priority_background_threads(background_jobs);
        // Flushes, of which there are none.
        env.set_high_priority_background_threads(1);
        // The pool keeps its CPU priority: a compaction that is starved while it holds the database's mutex starves the
        // executor that wants to read.
        let block_cache = Cache::new_hyper_clock_cache(block_cache_bytes, 0);
        Ok(Resources {
            env,
            block_cache,
            background_jobs,
        })
    }

    /// Bytes in the block cache.
    pub fn block_cache_bytes(&self) -> usize {
        self.block_cache.get_usage()
    }
}

/// One shard's RocksDB.
pub struct Database {
    db: DB,
    path: PathBuf,
    read_options: ReadOptions,
    /// For what is in memory.
    memory_options: ReadOptions,
    /// By column: how files are written that are to be ingested.
    file_options: [Options; Column::COUNT],
    /// How many of those files were begun.
    files_begun: AtomicU64,
    /// The versions of collections that are being made, whose records come later than their members. `None`: it is not
    /// known which they are, so that no member can be told to be dead.
    in_the_making: Mutex<Option<Vec<u64>>>,
}

impl Database {
    /// Opens the database in `path`, or creates it there.
    ///
    /// # Errors
    /// There is none and `creates` is false, or it cannot be read.
    pub fn open(path: &Path, resources: &Resources, creates: bool) -> Result<Arc<Database>, DatabaseError> {
        faults::check().map_err(DatabaseError::Failed)?;
        let mut options = Options::default();
        options.create_if_missing(creates);
        options.create_missing_column_families(creates);
        options.set_env(&resources.env);
        options.set_max_background_jobs(resources.background_jobs);
        options.set_max_open_files(1024);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 << 20);
        options.set_stats_dump_period_sec(0);
        // Deleting files must not hold up the thread that drops the last reference, often an executor.
        options.set_avoid_unnecessary_blocking_io(true);
        // Spread write-back over time, so that a sync of the log finds little else to wait for.
        options.set_bytes_per_sync(1 << 20);

        let opened = Arc::new(OnceLock::new());
        let columns = Column::ALL.map(|column| {
            ColumnFamilyDescriptor::new(column.name(), column_options(column, resources, Arc::clone(&opened)))
        });
        let db = DB::open_cf_descriptors(&options, path, columns)?;
        remove_left_files(path)?;
        let mut memory_options = ReadOptions::default();
        memory_options.set_read_tier(ReadTier::BlockCache);
        let database = Arc::new(Database {
            db,
            path: path.to_owned(),
            read_options: ReadOptions::default(),
            memory_options,
            file_options: Column::ALL.map(|column| file_options(column, resources)),
            files_begun: AtomicU64::new(0),
            in_the_making: Mutex::new(None),
        });
        let _ = opened.set(Arc::downgrade(&database));
        Ok(database)
    }

    /// Sets which collections are being made, by their versions: each before a member of it is ingested, and until its
    /// record is, if there will be one. Not before all logs are: they may have records of members that are there.
    pub fn set_in_the_making(&self, versions: &[u64]) {
        let mut in_the_making = self.in_the_making.lock().unwrap_or_else(PoisonError::into_inner);
        *in_the_making = Some(versions.to_vec());
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

    /// The same, as far as it can be told without waiting for the disk.
    pub fn get_in_memory<T>(
        &self,
        column: Column,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<InMemory<T>, DatabaseError> {
        let value = self
            .db
            .get_pinned_cf_opt(self.family(column), key, &self.memory_options);
        match value {
            Ok(value) => Ok(InMemory::Known(value.map(|bytes| read(&bytes)))),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(InMemory::Unknown),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings what a range begins with, in a direction, into the block cache.
    pub fn fetch_range(
        &self,
        column: Column,
        range: (&[u8], &[u8]),
        direction: Direction,
    ) -> Result<(), DatabaseError> {
        let mut options = bounded_by(range);
        options.set_max_skippable_internal_keys(SKIPPED_TO_FETCH_MAX);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(column), options);
        let mut bytes = 0;
        walk(&mut entries, range, direction, &mut |key, value| {
            bytes += key.len() + value.len();
            match bytes < FETCHED_BYTES_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(())
    }

    /// Applies writes, durably when this returns: what [`Database::write_files`] and [`Database::ingest_files`] do.
    ///
    /// # Errors
    /// Some of the writes may have been applied. To apply all of them again is harmless, and mends it.
    pub fn ingest(&self, mut writes: CellWrites) -> Result<(), DatabaseError> {
        let mut files = self.write_files(&mut writes)?;
        self.ingest_files(&mut files)
    }

    /// Writes what is to become of the cells into sorted files, one for each column that has something. Nobody reads
    /// them before they are ingested. Holds no lock of RocksDB. Cells of which bytes are changed are read: what comes
    /// before the writes must have been ingested.
    ///
    /// # Errors
    /// Nothing was changed, and no file is left.
    pub fn write_files(&self, writes: &mut CellWrites) -> Result<SortedFiles, DatabaseError> {
        let mut files = SortedFiles::default();
        for column in Column::ALL {
            writes.sort(column);
            let ranges = writes.emptied_ranges(column);
            let base = |key: &[u8]| self.get(column, key, <[u8]>::to_vec);
            // A file must have something.
            let first = writes.each_cell(column, |key| base(key).map_err(Some), |_, _| Err(None));
            match first {
                Ok(()) if ranges.is_empty() => continue,
                Err(Some(error)) => return Err(error),
                Ok(()) | Err(None) => {}
            }
            let number = self.files_begun.fetch_add(1, Ordering::Relaxed);
            let path = ingest_folder(&self.path).join(format!("{number}-{}.sst", column.name()));
            files.files.push_back(SortedFile {
                column,
                path: path.clone(),
                ranges: ranges.clone(),
            });
            let mut file = SstFileWriter::create(&self.file_options[column as usize]);
            file.open(&path)?;
            // Those that follow do not count as deleted: a range covers older cells than itself.
            for (from, to) in &ranges {
                file.delete_range(from, to)?;
            }
            writes.each_cell(column, base, |key, value| {
                match value {
                    Some(value) => file.put(key, value)?,
                    None => file.delete(key)?,
                }
                Ok(())
            })?;
            file.finish()?;
            files.bytes += file.file_size();
        }
        Ok(files)
    }

    /// Makes files part of the database, durably, column by column in the order of [`Column::ALL`]. What was ingested
    /// is not among `files` any more.
    ///
    /// # Errors
    /// The first columns may have their file and the others not. To call this again goes on with the others; to write
    /// and ingest all of it again is harmless, too, and mends it.
    pub fn ingest_files(&self, files: &mut SortedFiles) -> Result<(), DatabaseError> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        while let Some(file) = files.files.front() {
            faults::before_ingest(&self.path)?;
            let family = self.family(file.column);
            for (from, to) in &file.ranges {
                self.delete_files(file.column, (from, to))?;
            }
            self.db
                .ingest_external_file_cf_opts(family, &options, vec![&file.path])?;
            if let (Some((from, _)), Some((_, to))) = (file.ranges.first(), file.ranges.last()) {
                self.compact_emptied(file.column, (from, to))?;
            }
            files.files.pop_front();
        }
        Ok(())
    }

    /// Deletes the files that have nothing but what lies in a range. What is in others stays.
    fn delete_files(&self, column: Column, (from, to): (&[u8], &[u8])) -> Result<(), DatabaseError> {
        // RocksDB also deletes the file that ends with the end of the range, which does not belong to it.
        match self.last_key(column, (from, to))? {
            Some(last) => Ok(self.db.delete_file_in_range_cf(self.family(column), from, &last)?),
            None => Ok(()),
        }
    }

    /// Gives back the space of ranges that were emptied, from the first to the last, if a column had little else: level
    /// 0, whose files are not deleted by range, may have much of it, and it may be long until there are enough files
    /// for a compaction. What is deeper is gone already. Beside other databases that would rewrite what those have.
    fn compact_emptied(&self, column: Column, (from, to): (&[u8], &[u8])) -> Result<(), DatabaseError> {
        let end = [0xff; encoding::DEADLINE_LEN + 1];
        let others = [(&b""[..], from), (to, &end[..])];
        for other in others.into_iter().filter(|(from, to)| from < to) {
            if self.has_keys(column, other)? != Some(false) {
                return Ok(());
            }
        }
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        self.db
            .compact_range_cf_opt(self.family(column), Some(from), Some(to), &options);
        Ok(())
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
        range: (&[u8], &[u8]),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), DatabaseError> {
        let mut entries = self.db.raw_iterator_cf_opt(self.family(column), bounded_by(range));
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
    pub fn has_keys(&self, column: Column, range: (&[u8], &[u8])) -> Result<Option<bool>, DatabaseError> {
        let mut options = bounded_by(range);
        options.set_max_skippable_internal_keys(SKIPPED_TO_TELL_MAX);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(column), options);
        entries.seek_to_first();
        match entries.status() {
            Ok(()) => Ok(Some(entries.valid())),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A key behind the first of a range, so that about `bytes` of files lie between; the range's end, if less is left.
    pub fn end_of_step(&self, column: Column, (from, to): (&[u8], &[u8]), bytes: u64) -> Vec<u8> {
        let family = self.family(column);
        key_steps::end_of_step(from, to, bytes, |end| {
            let sizes = self
                .db
                .get_approximate_sizes_cf(family, &[rocksdb::Range::new(from, end)]);
            sizes.first().copied().unwrap_or(0)
        })
    }

    /// A range to be read little by little, as it is now: from `from` (inclusive) to `to` (exclusive), or backwards.
    /// Nothing is looked for yet.
    pub fn cursor(self: &Arc<Database>, column: Column, range: (&[u8], &[u8]), direction: Direction) -> Cursor {
        let entries = EntriesOf::new(Arc::clone(self), |database| {
            let family = database.family(column);
            database.db.raw_iterator_cf_opt(family, bounded_by(range))
        });
        Cursor {
            entries,
            direction,
            has_begun: false,
        }
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

    /// Whether so many files wait for a compaction that no more should come: reads get slow.
    pub fn is_stalled(&self) -> bool {
        self.property(c"rocksdb.is-write-stopped") > 0
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
        self.delete_files(column, (prefix, &to))?;
        let family = self.family(column);
        let mut options = CompactOptions::default();
        // Other compactions go on meanwhile.
        options.set_exclusive_manual_compaction(false);
        // A compaction that began when these members were alive may have written some to the last level since.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db.compact_range_cf_opt(family, Some(prefix), Some(&to), &options);
        self.has_none(column, prefix)
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

    /// Makes RocksDB start its threads now, by the calling thread, whose CPUs they inherit: a compaction of one small
    /// record.
    pub fn start_background_threads(&self) -> Result<(), DatabaseError> {
        let mut writes = CellWrites::default();
        writes.put(Column::System, b"opened", &crate::clock::unix_ms().to_be_bytes());
        self.ingest(writes)?;
        self.compact(Column::System);
        Ok(())
    }

    /// Stops compactions, [`Database::reclaim`]'s too, and waits for those that run; must precede the drop
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

fn bounded_by((from, to): (&[u8], &[u8])) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options.set_iterate_lower_bound(from);
    options
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
/// To make an iterator costs as much as to read dozens of entries with it, because it looks into every file.
/// So one of each column is kept, and brought up to date for each range. It holds on to files that were replaced since;
/// [`RangeReader::release`] lets go of them.
#[derive(Default)]
pub struct RangeReader {
    kept: [Option<EntriesOf>; Column::COUNT],
}

/// Counts the deleted entries on the disk that this thread's reads pass over.
pub struct DeletedPassed {
    counters: rocksdb::perf::PerfContext,
    taken: u64,
}

impl DeletedPassed {
    /// From now on.
    pub fn from_now() -> DeletedPassed {
        // The level is the thread's: to set it again costs nothing.
        rocksdb::perf::set_perf_stats(rocksdb::perf::PerfStatsLevel::EnableCount);
        let mut counter = DeletedPassed {
            counters: rocksdb::perf::PerfContext::default(),
            taken: 0,
        };
        counter.take();
        counter
    }

    /// How many since the last call.
    #[inline]
    pub fn take(&mut self) -> u64 {
        let all = self
            .counters
            .metric(rocksdb::perf::PerfMetric::InternalDeleteSkippedCount);
        all - std::mem::replace(&mut self.taken, all)
    }
}

/// What the read of a range may cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanLimits {
    /// The read gives up where more than so many deleted entries lie side by side, if there is a number: forwards only.
    pub deleted_max: Option<u64>,
    /// The read ends where it would have to wait for the disk.
    pub in_memory: bool,
}

/// How far a range was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Scanned {
    /// To its end, or until `visit` broke.
    All,
    /// Up to this key, where too many deleted entries lie side by side.
    GaveUp(Vec<u8>),
    /// But for this part, where the read would have had to wait for the disk.
    NotInMemory(Vec<u8>, Vec<u8>),
}

/// How far an iterator came that passes over a bounded number of deleted entries, or does not wait for the disk.
enum Walked {
    /// To the end, or until `visit` broke.
    All,
    /// Up to the key at which the iterator gave up, this being the last before it; `None` if it was the first.
    UpTo(Option<Vec<u8>>, Stop),
}

/// Why an iterator gave up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    TooManyDeleted,
    NotInMemory,
}

/// What is left of a range behind the last key that was visited, if any was.
fn rest_of((from, to): (&[u8], &[u8]), direction: Direction, last: Option<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    match (last, direction) {
        (None, _) => (from.to_vec(), to.to_vec()),
        (Some(last), Direction::Forward) => (encoding::first_behind(last), to.to_vec()),
        (Some(last), Direction::Backward) => (from.to_vec(), last),
    }
}

impl RangeReader {
    /// The same as [`Database::scan_in`], of `database`, which must be the same each time, as far as `limits` allow.
    pub fn scan(
        &mut self,
        database: &Arc<Database>,
        column: Column,
        range: (&[u8], &[u8]),
        direction: Direction,
        limits: ScanLimits,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<Scanned, DatabaseError> {
        assert!(limits.deleted_max.is_none() || direction == Direction::Forward);
        let walked = self.walk_kept(database, column, range, direction, &mut visit)?;
        let Walked::UpTo(last, stop) = walked else {
            return Ok(Scanned::All);
        };
        let (from, to) = rest_of(range, direction, last);
        if limits.in_memory && stop == Stop::NotInMemory {
            return Ok(Scanned::NotInMemory(from, to));
        }
        // The kept iterator gives up early, also for what is deleted behind the range, and never waits for the disk.
        let mut options = bounded_by((&from, &to));
        if let Some(deleted_max) = limits.deleted_max {
            options.set_max_skippable_internal_keys(deleted_max);
        }
        if limits.in_memory {
            options.set_read_tier(ReadTier::BlockCache);
        }
        let mut entries = database.db.raw_iterator_cf_opt(database.family(column), options);
        Ok(match walk(&mut entries, (&from, &to), direction, &mut visit)? {
            Walked::All => Scanned::All,
            Walked::UpTo(last, stop) => {
                let (from, to) = rest_of((&from, &to), direction, last);
                match stop {
                    Stop::TooManyDeleted => Scanned::GaveUp(from),
                    Stop::NotInMemory => Scanned::NotInMemory(from, to),
                }
            }
        })
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
        let entries = kept.get_or_insert_with(|| {
            EntriesOf::new(Arc::clone(database), |database| {
                let mut options = ReadOptions::default();
                options.set_max_skippable_internal_keys(SKIPPED_MAX);
                options.set_read_tier(ReadTier::BlockCache);
                database.db.raw_iterator_cf_opt(database.family(column), options)
            })
        });
        let walked = entries.with_dependent_mut(|_, entries| walk(entries, range, direction, visit));
        if !matches!(walked, Ok(Walked::All | Walked::UpTo(_, Stop::TooManyDeleted))) {
            // It may have been made when a file's index was not in memory, and would go on without.
            *kept = None;
        }
        walked
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
        Err(error) if error.kind() == ErrorKind::Incomplete => {
            let stop = match error.to_string().contains(TOO_MANY_SKIPPED) {
                true => Stop::TooManyDeleted,
                false => Stop::NotInMemory,
            };
            Ok(Walked::UpTo(last, stop))
        }
        Err(error) => Err(error.into()),
    }
}

/// A position in a range of keys that is read as it was when the cursor was made. What it has still to read is not
/// deleted from the disk before the cursor is dropped.
pub struct Cursor {
    entries: EntriesOf,
    direction: Direction,
    has_begun: bool,
}

impl Cursor {
    /// Goes to the first entry, if that was not done: before anything else. Returns whether it was not: what was
    /// deleted before that entry is passed over.
    pub fn begin(&mut self) -> bool {
        if std::mem::replace(&mut self.has_begun, true) {
            return false;
        }
        let direction = self.direction;
        self.entries.with_dependent_mut(|_, entries| match direction {
            Direction::Forward => entries.seek_to_first(),
            Direction::Backward => entries.seek_to_last(),
        });
        true
    }

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
        self.has_begun = false;
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

/// Where the files of a shard lie before they are ingested.
fn ingest_folder(path: &Path) -> PathBuf {
    path.join("ingest")
}

/// Removes the files that an earlier run of the server has written and not ingested, and makes their folder.
fn remove_left_files(path: &Path) -> Result<(), DatabaseError> {
    let folder = ingest_folder(path);
    let make = || {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir(&folder)
    };
    make().map_err(|error| DatabaseError::Failed(format!("cannot make {}: {error}", folder.display())))
}

/// Files that were written to be ingested, and their bytes. Those that are not are removed.
#[derive(Default)]
pub struct SortedFiles {
    files: VecDeque<SortedFile>,
    bytes: u64,
}

struct SortedFile {
    column: Column,
    path: PathBuf,
    /// What is deleted in the database before the file's cells come.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

impl SortedFiles {
    /// Bytes of all files, also of those that were ingested.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for SortedFile {
    fn drop(&mut self) {
        // One that was ingested is not there any more; one that stays is removed by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn file_options(column: Column, resources: &Resources) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&resources.block_cache);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES_COMPACTED);
    options.set_level_zero_slowdown_writes_trigger(LEVEL_0_FILES_MAX);
    options.set_level_zero_stop_writes_trigger(LEVEL_0_FILES_MAX);
    options.set_level_compaction_dynamic_level_bytes(true);
    // What compactions leave in level 0 is read whole by the next one within minutes: not worth the CPU. Files that are
    // ingested have the last level's compression (`SstFileWriter`): without it they took as much CPU to write.
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    options.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
    if matches!(column, Column::Meta | Column::Data | Column::Score) {
        // Most look-ups that miss the table of records are for keys or members that do not exist yet.
        table.set_bloom_filter(10.0, false);
        table.set_optimize_filters_for_memory(true);
    }
    options.set_block_based_table_factory(&table);
    options
}

fn column_options(column: Column, resources: &Resources, database: Arc<OnceLock<Weak<Database>>>) -> Options {
    let mut options = file_options(column, resources);
    if matches!(column, Column::Data | Column::Score) {
        options.set_compaction_filter_factory(FilterFactory { database });
    }
    options
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
        // Asked for before `meta` is looked at: what has been made by then has its record there.
        let in_the_making = database.as_ref().and_then(|database| {
            let in_the_making = database.in_the_making.lock();
            in_the_making.unwrap_or_else(PoisonError::into_inner).clone()
        });
        let database = database.filter(|_| in_the_making.is_some());
        let snapshot = database.map(|database| MetaSnapshot::new(database, |database| database.db.snapshot()));
        Filter(Judge::new(snapshot, in_the_making.unwrap_or_default()))
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
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;

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
        let resources = Resources::new(1 << 20, 2).expect("RocksDB's environment");
        let database = Arc::new(Database::open(folder.path(), &resources, true).expect("a new database"));
        let mut random = seeded_random::printed();
        let mut reader = RangeReader::default();
        let key_of = |number: u32| number.to_be_bytes();
        for round in 0..60_u32 {
            let mut writes = CellWrites::default();
            let first = random.random_range(0..1500);
            for number in first..first + 10 * SKIPPED_MAX as u32 {
                match random.random_bool(0.1) {
                    true => writes.put(Column::Meta, &key_of(number), &round.to_be_bytes()),
                    false => writes.delete(Column::Meta, &key_of(number)),
                }
            }
            database.ingest(writes).expect("a write");
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
                    |visit| {
                        let limits = ScanLimits::default();
                        let scanned = reader.scan(&database, Column::Meta, range, direction, limits, visit)?;
                        assert_eq!(scanned, Scanned::All);
                        Ok(())
                    },
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
        let resources = Resources::new(1 << 20, 2).expect("RocksDB's environment");
        let database = Database::open(folder.path(), &resources, true).expect("a new database");
        let key_of = |number: u32| number.to_be_bytes();
        // Between the first part and the second, much is deleted; between those of a part, less than is passed over.
        let is_there = |number: u32| !(10_000..60_000).contains(&number) && number.is_multiple_of(100);
        for deletes in [false, true] {
            let mut writes = CellWrites::default();
            for number in (0..70_000).filter(|number| !deletes || !is_there(*number)) {
                match deletes {
                    true => writes.delete(Column::Meta, &key_of(number)),
                    false => writes.put(Column::Meta, &key_of(number), b""),
                }
            }
            database.ingest(writes).expect("a write");
        }
        rocksdb::perf::set_perf_stats(rocksdb::perf::PerfStatsLevel::EnableCount);
        let mut reader = RangeReader::default();
        let mut read = |from: u32, to: u32| {
            let mut counters = rocksdb::perf::PerfContext::default();
            counters.reset();
            let (mut found, range) = (Vec::new(), (&key_of(from)[..], &key_of(to)[..]));
            let limits = ScanLimits {
                deleted_max: Some(DELETED_MAX),
                in_memory: false,
            };
            let scanned = reader.scan(&database, Column::Meta, range, Direction::Forward, limits, |key, _| {
                found.push(u32::from_be_bytes(key.try_into().expect("a number")));
                ControlFlow::Continue(())
            });
            let looked_at = counters.metric(rocksdb::perf::PerfMetric::InternalDeleteSkippedCount);
            let end = match scanned.expect("a range can be read") {
                Scanned::All => None,
                Scanned::GaveUp(at) => Some(at),
                Scanned::NotInMemory(..) => panic!("it may wait for the disk"),
            };
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

    /// What was ingested is on disk alone until it is read.
    #[test]
    fn what_is_not_in_memory_is_told_and_is_there_when_it_was_fetched() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let resources = Resources::new(64 << 20, 2).expect("RocksDB's environment");
        let database = Database::open(folder.path(), &resources, true).expect("a new database");
        let key_of = |number: u32| number.to_be_bytes();
        let mut writes = CellWrites::default();
        for number in 0..10_000 {
            writes.put(Column::Meta, &key_of(2 * number), &[number as u8; 100]);
        }
        database.ingest(writes).expect("a write");
        let get = |number| {
            let read = |value: &[u8]| value[0];
            database
                .get_in_memory(Column::Meta, &key_of(number), read)
                .expect("a read")
        };
        // The ends of a file are read when it is ingested.
        assert_eq!(get(10_000), InMemory::Unknown);
        assert_eq!(get(10_001), InMemory::Known(None), "the filter is in memory");
        database.get(Column::Meta, &key_of(10_000), |_| ()).expect("a read");
        assert_eq!(get(10_000), InMemory::Known(Some(5000_u32 as u8)));
        assert_eq!(get(15_000), InMemory::Unknown, "it is in another block");

        let mut reader = RangeReader::default();
        let mut scan = |numbers: (u32, u32), direction, deleted_max| {
            let limits = ScanLimits {
                deleted_max,
                in_memory: true,
            };
            let (mut found, range) = (0, (key_of(numbers.0), key_of(numbers.1)));
            let range = (&range.0[..], &range.1[..]);
            let scanned = reader.scan(&database, Column::Meta, range, direction, limits, |_, _| {
                found += 1;
                ControlFlow::Continue(())
            });
            (scanned.expect("a read"), found)
        };
        for (direction, numbers) in [
            (Direction::Forward, (15_000, 15_100)),
            (Direction::Backward, (4000, 4100)),
        ] {
            let (from, to) = (key_of(numbers.0).to_vec(), key_of(numbers.1).to_vec());
            let missed = (Scanned::NotInMemory(from.clone(), to.clone()), 0);
            assert_eq!(scan(numbers, direction, None), missed, "{direction:?}");
            database
                .fetch_range(Column::Meta, (&from, &to), direction)
                .expect("a read");
            assert_eq!(scan(numbers, direction, None), (Scanned::All, 50), "{direction:?}");
        }
        // What is in memory of a longer range is visited, and what is left is told.
        let (scanned, found) = scan((15_050, 20_000), Direction::Forward, Some(100));
        let Scanned::NotInMemory(from, to) = scanned else {
            panic!("{scanned:?}");
        };
        assert!(
            found >= 25 && from == encoding::first_behind(key_of(15_048 + 2 * found).to_vec()),
            "{found}"
        );
        assert_eq!(to, key_of(20_000));
        reader.release();
        database.stop_background_work();
    }
}
