//! One shard: a range of slots, its RocksDB, and what is staged for it.
//!
//! All commands of a shard run on one thread, one after the other. A command's writes are staged in [`Records`], where
//! later commands see them at once; those of members of collections that are whole in memory change [`Residents`], and
//! are noted in the order in which they happen. At the end of the turn [`Shard::append_to`] puts them into the
//! executor's next frame of the log, and the shard learns whether that was written: [`Shard::logged`] or
//! [`Shard::take_back`]. RocksDB gets them later, from the log; [`Shard::work_off`] learns how far it has come.

mod member_reads;
mod redo_parts;

use super::cell_writes::CellWrites;
use super::database::{
    Column, Database, DatabaseError, Direction, InMemory, MemberRange, RangeReader, ScanLimits, Scanned,
};
use super::dead_versions;
use super::encoding::{
    self, Counts, DATABASE_COUNT, DatabaseMap, Record, STRING_CHUNK_LEN, Type, deadline_of, due_of, entry_of,
};
use super::expiry::Swept;
use super::gaps::Gaps;
use super::lifecycle::Lifecycle;
use super::log::FrameBuffer;
use super::missed_reads::{MissedRead, Misses};
use super::operations::{self, MemberOperations};
use super::range_cursor::RangeCursor;
use super::records::{EntryIndex, RECORD_BYTES_KEPT_MAX, Records};
use super::resident::cell_tree::ENTRY_BYTES_MAX;
use super::resident::residents::Residents;
use super::scan_positions::ScanPositions;
use crate::error::CommandError;
use crate::faults;
use crate::slots::{ShardId, Slot};
use crate::storage::transaction_scope::DatabaseKey;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Writes that a stalled shard takes before it refuses them, at the most; see [`Shard::set_writes_while_stalled_max`].
const WRITES_WHILE_STALLED_MAX: usize = 4096;

/// Chunks of a string that are looked up one by one, where they may be hot; more are read in one scan.
const CHUNKS_LOOKED_UP_MAX: u32 = 64;

/// Deleted keys that lie side by side on the disk before a read in steps goes through them step by step.
const DELETED_ON_DISK_MAX: u64 = 256;

/// What such a step goes through on the disk: some thousand deleted keys, half a millisecond.
const STEP_BYTES: u64 = 16 << 10;

/// Deleted keys that are passed over to see whether what a cursor begins with is in memory.
const DELETED_LOOKED_AT_MAX: u64 = 256;

/// Of longer records the stored form is made where it stays: to copy it twice costs more than an allocation.
const IN_PLACE_BYTES_MAX: usize = 4096;

/// Records always leave this part of the memory to collections, and they to records.
const SHARE_DIVISOR_MAX: usize = 8;

/// Slots whose keys one cursor reads: where many keys were deleted, to find the first of a range takes long.
const SLOTS_PER_CURSOR: usize = 512;

/// Loads of members into memory that one command makes, each of half a millisecond at most: both columns of a small
/// collection, or one step of each of two.
const LOADS_PER_COMMAND: usize = 2;

/// What a shard can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardState {
    /// Reads and writes.
    Healthy,
    /// RocksDB refuses writes for now; what is staged waits, reads go on.
    Stalled,
    /// The disk is full: reads only, until there is room.
    ReadOnly,
    /// A write or a sync failed, so nothing this shard says could be trusted: it answers errors until a restart.
    Unavailable(String),
}

impl ShardState {
    /// The states' words for INFO, by [`ShardState::code`].
    pub const NAMES: [&str; 4] = ["healthy", "stalled", "read-only", "unavailable"];

    /// The state's number in the metrics.
    pub fn code(&self) -> u64 {
        match self {
            ShardState::Healthy => 0,
            ShardState::Stalled => 1,
            ShardState::ReadOnly => 2,
            ShardState::Unavailable(_) => 3,
        }
    }

    /// The word for INFO and the log.
    pub fn name(&self) -> &'static str {
        ShardState::NAMES[self.code() as usize]
    }
}

/// How many keys each physical database holds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct CountsByDatabase([Counts; DATABASE_COUNT]);

impl CountsByDatabase {
    /// All keys of the shard.
    fn keys(&self) -> u64 {
        self.0.iter().map(|counts| counts.keys).sum()
    }

    /// Accounts for a record that becomes another (or none). Returns false if that shows that a count was too low.
    #[must_use]
    fn replace(&mut self, meta_key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> bool {
        let Some(counts) = self.0.get_mut(usize::from(meta_key[0])) else {
            return true;
        };
        let keys = |record: Option<&[u8]>| u64::from(record.is_some());
        let expires = |record: Option<&[u8]>| u64::from(record.is_some_and(|record| deadline_of(record) != 0));
        let (keys, expires) = (
            (counts.keys + keys(new)).checked_sub(keys(old)),
            (counts.expires + expires(new)).checked_sub(expires(old)),
        );
        *counts = Counts {
            keys: keys.unwrap_or(0),
            expires: expires.unwrap_or(0),
        };
        keys.is_some() && expires.is_some()
    }
}

/// Changes of a whole shard that wait for the next frame beside its records.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct WholeChanges {
    /// The physical databases that were emptied, one bit each: what the disk has of them is not seen any more, and the
    /// next frame begins by deleting it.
    emptied: u16,
    /// The database map differs from the stored one.
    has_new_map: bool,
    /// With databases emptied, if the table of records will have every key of the shard when that is logged: how
    /// many keys had left the table then.
    complete_at: Option<u64>,
}

/// What concerns the whole shard, beside its records: kept, taken back and logged as one, so that nothing of it can
/// be forgotten.
#[derive(Clone, Copy)]
struct Wide {
    counts: CountsByDatabase,
    databases: DatabaseMap,
    /// Nothing of these is left when they are logged.
    changes: WholeChanges,
}

/// How to take back a FLUSHDB, FLUSHALL or SWAPDB of the running command.
struct WholeUndo {
    /// Changes of records that the command had made before.
    changes: usize,
    /// Another table of records has taken the place of the one that has those.
    has_new_table: bool,
    wide: Wide,
}

const _: () = assert!(
    DATABASE_COUNT <= u16::BITS as usize,
    "emptied databases are told by one bit each"
);

/// How many keys that are deleted, and of which the disk does not know yet, a read still passes over.
struct Patience<'a> {
    left: u64,
    /// How many keys were passed over.
    passed: &'a Cell<u64>,
    /// Before this key everything was visited when the read gave up.
    ended_at: Option<Vec<u8>>,
}

impl Patience<'_> {
    /// `None` never ends.
    fn new(deleted_max: Option<u64>, passed: &Cell<u64>) -> Patience<'_> {
        Patience {
            left: deleted_max.unwrap_or(u64::MAX),
            passed,
            ended_at: None,
        }
    }

    fn is_endless(&self) -> bool {
        self.left == u64::MAX
    }

    fn pass(&mut self, key: &[u8]) -> ControlFlow<()> {
        self.passed.set(self.passed.get() + 1);
        if self.is_endless() {
            return ControlFlow::Continue(());
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            return ControlFlow::Continue(());
        }
        self.ended_at = Some(encoding::first_behind(key.to_vec()));
        ControlFlow::Break(())
    }
}

/// A range of slots and its keys.
pub struct Shard {
    id: ShardId,
    database: Arc<Database>,
    pub(super) records: Records,
    residents: Residents,
    /// What is staged of members that `residents` is the authority for, and how much of that the running command found.
    member_operations: MemberOperations,
    /// See [`Shard::take_deletes_keys`].
    deletes_keys: bool,
    operations_kept: usize,
    /// How often the running command may still load members into memory.
    loads_left: usize,
    gaps: Gaps,
    /// How many deleted members walks have passed over.
    deleted_passed: u64,
    ranges: RangeReader,
    hasher: foldhash::fast::RandomState,
    /// Keys that were written and of which somebody has to be told, those of the running command at the end.
    modified: Vec<Modified>,
    modified_kept: usize,
    /// Whether anybody has to be told which keys are written.
    tracks_modified: bool,
    /// See [`Shard::set_quiet`].
    is_quiet: bool,
    /// What became of the keys that the running command wrote.
    pub lifecycle: Lifecycle,
    /// What the running command has read that is not in memory.
    pub misses: Misses,
    /// What was staged when the parts of the running command began that are being run, the innermost last.
    inner_marks: Vec<InnerMark>,
    /// What concerns the whole shard as it is staged, and as the last frame has left it.
    wide: Wide,
    wide_logged: Wide,
    /// The counts as they were logged last, or stored, which a start may have found wrong.
    counts_logged: CountsByDatabase,
    /// Databases that were emptied, one bit each, by the segment of the log that says so, until RocksDB has that.
    emptied_logged: VecDeque<(u32, u16)>,
    /// Those of all segments.
    emptied_by_log: u16,
    /// A count was found wrong in this run: none is stored any more, so that the next start counts.
    counts_are_wrong: bool,
    /// How to take back what the running command has changed of `wide`.
    whole_undo: Vec<WholeUndo>,
    /// The newest epoch that changed the whole shard: every read sees that change.
    whole_epoch: u64,
    state: ShardState,
    /// Why the running command may not write here, if it may not: another of its shards cannot take its writes.
    denied: Option<CommandError>,
    /// The running command may write although the disk is full.
    frees_space: bool,
    /// The epoch of the turn being run; what is staged belongs to it, or to an earlier one while the shard is stalled.
    epoch: u64,
    /// The newest epoch in which anything was staged.
    newest_epoch: u64,
    /// The earliest epoch of which something is staged.
    staged_epoch: u64,
    writes_while_stalled: usize,
    /// Those of commands that are over.
    writes_while_stalled_kept: usize,
    writes_while_stalled_max: usize,
    /// How far expired keys were swept.
    pub swept: Swept,
    /// The newest version that was given to a collection, and that of the last frame: a clock that is set back must not
    /// make one be given twice.
    last_version: u64,
    last_version_logged: u64,
    /// Versions of collections whose records come later than their members, each with the segment of the log before
    /// which RocksDB does not have the record, when that is known.
    in_the_making: Vec<InTheMaking>,
    /// The stored key that is being read or written.
    pub(super) key: Vec<u8>,
    expiry_key: Vec<u8>,
    /// A record with the time of its entry in `expiry`, while it is staged.
    with_entry: Vec<u8>,
    /// A record's stored form, while it is staged.
    encoded: Vec<u8>,
    /// A record too large to keep in the table, while a command reads it.
    large: Vec<u8>,
    /// A string put together from its chunks, while a command reads it.
    joined: Vec<u8>,
    /// The names at which walks have stopped.
    pub scan_positions: ScanPositions,
    /// What records and collections are to take.
    memory_bytes: usize,
    /// A marker of a dead version was staged for the reclaimer.
    has_new_marker: bool,
    /// The first and the last segment with such a marker of which the reclaimer was not told: it is when RocksDB has
    /// them.
    marker_segments: Option<(u32, u32)>,
}

/// Whose members are read and written: a collection by its key and version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The database, as SELECT numbers it.
    pub database: u8,
    /// The user key.
    pub key: Vec<u8>,
    /// The version in its record.
    pub version: u64,
}

/// A key that was written.
pub struct Modified {
    /// The key.
    pub key: DatabaseKey,
    /// The write concerns only clients that wait for the key: see [`Shard::set_quiet`].
    pub quietly: bool,
}

/// A collection whose record comes later than its members.
struct InTheMaking {
    version: u64,
    stage: Making,
}

/// How far a collection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Making {
    /// Members come.
    Begun,
    /// The record is staged, or will never be.
    Over,
    /// That is in this segment of the log.
    Logged(u32),
}

/// What a command had staged when a part of it began.
#[derive(Clone, Copy)]
struct InnerMark {
    changes: usize,
    resident_changes: usize,
    operations_len: usize,
    whole_changes: usize,
    modified: usize,
    lifecycle: usize,
    writes_while_stalled: usize,
}

/// A position among the keys of a database: behind a name of a slot, which need not be a key's, or at the slot's
/// beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPosition {
    /// The slot.
    pub slot: Slot,
    /// The name.
    pub after: Option<Vec<u8>>,
}

impl KeyPosition {
    /// The position before a key of `meta` at which a read gave up.
    fn before(meta_key: &[u8]) -> KeyPosition {
        let byte = |at: usize| meta_key.get(at).copied().unwrap_or(0);
        let after = meta_key.get(encoding::PREFIX_LEN..).filter(|name| !name.is_empty());
        let after = after.map(|name| {
            let (last, before) = name.split_last().expect("a name that is not empty");
            assert_eq!(*last, 0, "reads give up behind a name");
            before.to_vec()
        });
        KeyPosition {
            slot: Slot(u16::from_be_bytes([byte(1), byte(2)])),
            after,
        }
    }
}

/// Where a record was found.
enum Found {
    Entry(EntryIndex),
    Large,
    Absent,
}

/// What one of records and collections may take of the memory for both, where the other takes `others` bytes.
#[inline]
fn share_beside(memory_bytes: usize, others: usize) -> usize {
    memory_bytes - others.clamp(memory_bytes / SHARE_DIVISOR_MAX, memory_bytes / 2)
}

impl Shard {
    /// Takes over an open database; reads its counts and database map. Records and collections are to take
    /// `memory_bytes` at the most, but for what waits for RocksDB.
    ///
    /// # Errors
    /// The database cannot be read, or what it says of the whole shard is damaged.
    pub fn open(id: ShardId, database: Arc<Database>, memory_bytes: usize) -> Result<Shard, DatabaseError> {
        let counts_stored = stored_counts(&database)?;
        let (counts, is_empty) = checked_counts(id, &database, counts_stored)?;
        let mut records = Records::new(share_beside(memory_bytes, 0));
        if is_empty {
            records.set_complete();
        }
        let wide = Wide {
            counts,
            databases: stored_database_map(&database)?,
            changes: WholeChanges::default(),
        };
        let last_version = stored_last_version(&database)?;
        // A collection that an earlier run has begun to make, and not ended, is dead.
        database.set_in_the_making(&[]);
        Ok(Shard {
            id,
            database,
            records,
            residents: Residents::new(share_beside(memory_bytes, 0)),
            memory_bytes,
            member_operations: MemberOperations::default(),
            deletes_keys: false,
            operations_kept: 0,
            loads_left: LOADS_PER_COMMAND,
            gaps: Gaps::default(),
            deleted_passed: 0,
            ranges: RangeReader::default(),
            hasher: foldhash::fast::RandomState::default(),
            modified: Vec::new(),
            modified_kept: 0,
            tracks_modified: false,
            is_quiet: false,
            lifecycle: Lifecycle::default(),
            misses: Misses::default(),
            inner_marks: Vec::new(),
            wide,
            wide_logged: wide,
            counts_logged: counts_stored,
            emptied_logged: VecDeque::new(),
            emptied_by_log: 0,
            counts_are_wrong: false,
            whole_undo: Vec::new(),
            whole_epoch: 0,
            state: ShardState::Healthy,
            denied: None,
            frees_space: false,
            epoch: 0,
            newest_epoch: 0,
            staged_epoch: 0,
            writes_while_stalled: 0,
            writes_while_stalled_kept: 0,
            writes_while_stalled_max: WRITES_WHILE_STALLED_MAX,
            swept: Swept::default(),
            last_version,
            last_version_logged: last_version,
            in_the_making: Vec::new(),
            key: Vec::new(),
            expiry_key: Vec::new(),
            with_entry: Vec::new(),
            encoded: Vec::new(),
            large: Vec::new(),
            joined: Vec::new(),
            scan_positions: ScanPositions::default(),
            has_new_marker: false,
            marker_segments: None,
        })
    }

    /// The shard's number.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// What the shard can do at the moment.
    pub fn state(&self) -> &ShardState {
        &self.state
    }

    /// The shard's RocksDB, for the metrics and the threads beside the executor.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// The table of hot records, for the metrics.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Tables of records that FLUSHALL has replaced and nobody reads any more: to drop them takes long.
    pub fn take_discarded(&mut self) -> Vec<Records> {
        self.records.take_discarded()
    }

    /// How many keys a database (as SELECT numbers it) has here.
    pub fn counts(&self, database: u8) -> Counts {
        self.wide.counts.0[usize::from(self.wide.databases.physical[usize::from(database)])]
    }

    /// Which physical database each number stands for.
    pub fn database_map(&self) -> DatabaseMap {
        self.wide.databases
    }

    /// Begins a turn: what is staged from now on is logged under `epoch`.
    pub fn begin_turn(&mut self, epoch: u64) {
        assert!(epoch > self.epoch, "epochs only grow");
        self.epoch = epoch;
        self.share_memory();
        self.residents.begin_turn();
        self.loads_left = LOADS_PER_COMMAND;
        if self.joined.capacity() > RECORD_BYTES_KEPT_MAX {
            self.joined = Vec::new();
        }
    }

    /// Records may have what collections leave, and they what records leave, but each a half of it, and never all. What
    /// is above a share does not go because it waits for RocksDB, and takes the room of what may go on the other side.
    #[inline]
    fn share_memory(&mut self) {
        let (records, collections) = (self.records.bytes(), self.residents.bytes());
        let for_records = share_beside(self.memory_bytes, collections);
        let for_collections = share_beside(self.memory_bytes, records);
        let least = self.memory_bytes / SHARE_DIVISOR_MAX;
        let without = |share: usize, taken: usize| share.saturating_sub(taken).max(least);
        let taken = collections.saturating_sub(for_collections);
        self.records.set_bytes_max(without(for_records, taken));
        let taken = records.saturating_sub(for_records);
        self.residents.set_bytes_max(without(for_collections, taken));
    }

    /// Bytes in memory that RocksDB does not have yet: of records, and of collections what is above the half that they
    /// may have in any case. If that waits for nothing it goes soon, where others need the room.
    pub fn unclean_bytes(&self) -> usize {
        self.records.unclean_bytes() + self.residents.bytes().saturating_sub(self.memory_bytes / 2)
    }

    /// What records and collections are to take in memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// The epoch of the turn being run, or of the last one.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The first epoch of which something is staged, if anything is.
    pub fn staged_epoch(&self) -> Option<u64> {
        self.has_staged().then_some(self.staged_epoch)
    }

    /// The epoch of the newest writes, for a command that has seen all of them.
    pub fn newest_epoch(&self) -> u64 {
        self.newest_epoch
    }

    /// The record of a key, dead or alive, and the newest epoch whose writes were seen in finding it. A string that
    /// lies in chunks is put together, so that the reader has its bytes, as if they were in the record.
    pub fn read(&mut self, database: u8, slot: Slot, key: &[u8]) -> Result<(Option<Record<'_>>, u64), CommandError> {
        let hash = self.begin_read(database, slot, key)?;
        let entry = self.records.find(hash, Column::Meta, &self.key);
        self.read_further(entry, hash, (database, slot, key))
    }

    /// Begins to read a key: sets `self.key` to what `meta` has it under, and returns the hash of that.
    #[inline]
    pub(super) fn begin_read(&mut self, database: u8, slot: Slot, key: &[u8]) -> Result<u64, CommandError> {
        self.check_readable()?;
        let physical = self.physical(database);
        encoding::meta_key(&mut self.key, physical, slot, key);
        self.miss_on_request(Column::Meta)?;
        Ok(hash_of(&self.hasher, Column::Meta, &self.key))
    }

    /// The hash by which the table of records will look for a key.
    #[inline]
    pub(super) fn hash_ahead(&mut self, database: u8, slot: Slot, key: &[u8]) -> u64 {
        let physical = self.physical(database);
        encoding::meta_key(&mut self.key, physical, slot, key);
        hash_of(&self.hasher, Column::Meta, &self.key)
    }

    /// The same for a chunk of a string.
    pub(super) fn chunk_hash_ahead(&mut self, place: (u8, Slot, &[u8]), version: u64, number: u32) -> u64 {
        let (database, slot, key) = place;
        let physical = self.physical(database);
        let member = encoding::chunk_member(number);
        encoding::member_key_into(&mut self.key, (physical, slot), key, version, &member);
        hash_of(&self.hasher, Column::Data, &self.key)
    }

    /// Goes on with what [`Shard::begin_read`] has begun, after the look-up in the table of records: on disk if there
    /// was no `entry`, and with the chunks of a string.
    pub(super) fn read_further(
        &mut self,
        entry: Option<EntryIndex>,
        hash: u64,
        (database, slot, key): (u8, Slot, &[u8]),
    ) -> Result<(Option<Record<'_>>, u64), CommandError> {
        let found = match entry {
            Some(entry) => Found::Entry(entry),
            None => self.find_on_disk(hash, Column::Meta)?,
        };
        match self.stored(&found).is_some_and(encoding::is_in_chunks) {
            true => self.read_in_chunks(database, slot, key),
            false => self.decoded(&found),
        }
    }

    /// The same as [`Shard::read`], but of a string in chunks the record as it is stored.
    pub fn read_header(
        &mut self,
        database: u8,
        slot: Slot,
        key: &[u8],
    ) -> Result<(Option<Record<'_>>, u64), CommandError> {
        let hash = self.begin_read(database, slot, key)?;
        let found = self.find_by_hash(hash, Column::Meta)?;
        self.decoded(&found)
    }

    /// The record of an entry of the table, and the newest epoch whose writes were seen in finding it.
    #[inline]
    pub(super) fn record_at(&self, entry: EntryIndex) -> Result<(Option<Record<'_>>, u64), CommandError> {
        self.decoded(&Found::Entry(entry))
    }

    #[inline]
    fn stored(&self, found: &Found) -> Option<&[u8]> {
        match found {
            Found::Entry(index) => self.records.value(*index),
            Found::Large => Some(&self.large),
            Found::Absent => None,
        }
    }

    #[inline]
    fn decoded(&self, found: &Found) -> Result<(Option<Record<'_>>, u64), CommandError> {
        let epoch = match found {
            Found::Entry(index) => self.records.epoch(*index),
            Found::Large | Found::Absent => 0,
        };
        let epoch = epoch.max(self.whole_epoch);
        match self.stored(found).map(Record::decode) {
            None => Ok((None, epoch)),
            Some(Some(record)) => Ok((Some(record), epoch)),
            Some(None) => Err(damaged_record()),
        }
    }

    /// Reads a string that lies in chunks as if its bytes were in its record.
    fn read_in_chunks(
        &mut self,
        database: u8,
        slot: Slot,
        key: &[u8],
    ) -> Result<(Option<Record<'_>>, u64), CommandError> {
        let (header, mut epoch) = self.read_header(database, slot, key)?;
        let header = header.ok_or_else(damaged_record)?;
        let len = header.string_len().ok_or_else(damaged_record)?;
        let (deadline_ms, edited) = (header.deadline_ms, header.edited);
        let owner = Owner {
            database,
            key: key.to_vec(),
            version: header.version,
        };
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        joined.try_reserve(len).map_err(|_| damaged_record())?;
        joined.resize(len, 0);
        epoch = epoch.max(self.visit_chunks((&owner, slot), 0..len, |offset, bytes| {
            joined[offset..][..bytes.len()].copy_from_slice(bytes);
            ControlFlow::Continue(())
        })?);
        self.joined = joined;
        let record = Record {
            edited,
            ..Record::string(&self.joined, deadline_ms)
        };
        Ok((Some(record), epoch))
    }

    /// Calls `visit` with the stored bytes of a part of a string that lies in chunks, and where in the part they begin,
    /// in order, until it breaks; what is not stored is zeros. Returns the newest epoch whose writes were seen.
    pub fn visit_chunks(
        &mut self,
        (owner, slot): (&Owner, Slot),
        part: std::ops::Range<usize>,
        mut visit: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> Result<u64, CommandError> {
        let mut give = |number: u32, chunk: &[u8]| {
            let start = number as usize * STRING_CHUNK_LEN;
            let from = part.start.max(start);
            let to = part.end.min(start + chunk.len());
            match from < to {
                true => visit(from - part.start, &chunk[from - start..to - start]),
                false => ControlFlow::Continue(()),
            }
        };
        let too_long = |_| damaged_record();
        let first = u32::try_from(part.start / STRING_CHUNK_LEN).map_err(too_long)?;
        let end = u32::try_from(part.end.div_ceil(STRING_CHUNK_LEN)).map_err(too_long)?;
        let mut epoch = 0;
        if end.saturating_sub(first) > CHUNKS_LOOKED_UP_MAX {
            let range = (
                &encoding::chunk_member(first)[..],
                Some(&encoding::chunk_member(end)[..]),
            );
            let mut visit = |member: &[u8], chunk: &[u8]| match encoding::chunk_number(member) {
                Some(number) => give(number, chunk),
                None => ControlFlow::Continue(()),
            };
            // Chunks are never in memory as members are.
            return self.scan_members(
                (owner, slot),
                u64::MAX,
                Column::Data,
                range,
                Direction::Forward,
                &mut visit,
            );
        }
        for number in first..end {
            let member = encoding::chunk_member(number);
            let (chunk, chunk_epoch) = self.member((owner, slot), Column::Data, &member)?;
            epoch = epoch.max(chunk_epoch);
            if chunk.is_some_and(|chunk| give(number, chunk).is_break()) {
                break;
            }
        }
        Ok(epoch)
    }

    /// Stages a record (its stored form; `None` deletes). Returns the epoch it will be logged in.
    pub fn write(&mut self, database: u8, slot: Slot, key: &[u8], value: Option<Vec<u8>>) -> Result<u64, CommandError> {
        let physical = self.physical(database);
        encoding::meta_key(&mut self.key, physical, slot, key);
        self.write_meta_key(value.map(Cow::Owned))
    }

    /// The same of a record that is not in its stored form.
    pub fn write_record(
        &mut self,
        database: u8,
        slot: Slot,
        key: &[u8],
        record: &Record<'_>,
    ) -> Result<u64, CommandError> {
        if record.payload.len() > IN_PLACE_BYTES_MAX {
            return self.write(database, slot, key, Some(record.encode()));
        }
        let physical = self.physical(database);
        encoding::meta_key(&mut self.key, physical, slot, key);
        let mut encoded = std::mem::take(&mut self.encoded);
        encoded.clear();
        record.encode_into(&mut encoded);
        let written = self.write_meta_key(Some(Cow::Borrowed(&encoded)));
        self.encoded = encoded;
        written
    }

    /// Stages the deletion of a key of `meta` (the expiry sweep has no database number, only what is stored).
    pub fn delete_meta_key(&mut self, meta_key: &[u8]) -> Result<u64, CommandError> {
        self.key.clear();
        self.key.extend_from_slice(meta_key);
        self.write_meta_key(None)
    }

    fn write_meta_key(&mut self, value: Option<Cow<'_, [u8]>>) -> Result<u64, CommandError> {
        self.check_writable()?;
        self.miss_on_request(Column::Meta)?;
        let hash = hash_of(&self.hasher, Column::Meta, &self.key);
        let index = match self.find_by_hash(hash, Column::Meta)? {
            Found::Entry(index) => Some(index),
            Found::Absent => None,
            // Kept all the same: it is what a failed command goes back to.
            Found::Large => {
                let record = std::mem::take(&mut self.large);
                Some(self.records.keep(hash, Column::Meta, &self.key, record))
            }
        };
        let old = index.and_then(|index| self.records.value(index));
        if old.is_none() && value.is_none() {
            let epoch = index.map_or(0, |index| self.records.epoch(index));
            return Ok(epoch.max(self.whole_epoch));
        }
        let new = value.as_deref();
        let (old_entry, new_due) = (old.map_or(0, entry_of), new.map_or(0, due_of));
        let version = |record: Option<&[u8]>| record.and_then(encoding::version_of);
        let is_small = |record: &[u8]| record.len() <= IN_PLACE_BYTES_MAX;
        // What is due later keeps its entry, which the sweep will move.
        let keeps_entry =
            old_entry != 0 && old_entry < new_due && version(old) == version(new) && new.is_some_and(is_small);
        let mut index_changes = [None, None];
        if !keeps_entry && old_entry != new_due {
            let version = version(new).unwrap_or(0).to_be_bytes();
            index_changes = [
                (old_entry != 0).then_some((old_entry, None)),
                (new_due != 0).then_some((new_due, Some(version))),
            ];
            if new_due != 0 {
                self.swept.add_deadline(new_due);
            }
        }
        let mut with_entry = std::mem::take(&mut self.with_entry);
        with_entry.clear();
        if keeps_entry || new.is_some_and(encoding::has_entry) {
            let entry_ms = keeps_entry.then_some(old_entry);
            encoding::with_entry(new.unwrap_or_default(), entry_ms, &mut with_entry);
        }
        let counts_were_right = self.wide.counts.replace(&self.key, old, new);
        let marker = dead_versions::marker_of_dead_version(&self.key, old, new);
        let dead_version = version(old).filter(|dead| version(new) != Some(*dead));
        if self.lifecycle.is_tracking()
            && let Some((physical, _, key)) = encoding::split_meta_key(&self.key)
            && let Some(number) = number_of(&self.wide.databases, physical)
        {
            self.lifecycle.replaced(number, key, old, new);
        }
        if self.tracks_modified {
            let is_same = old.is_some() && new.is_some() && version(old) == version(new);
            self.add_modified_record(self.is_quiet && is_same);
        }
        if !counts_were_right {
            self.report_wrong_counts();
        }
        if let Some(dead_version) = dead_version {
            self.drop_members(dead_version);
        }
        self.begin_staging();
        let value = match with_entry.is_empty() {
            true => value,
            false => Some(Cow::Borrowed(&with_entry[..])),
        };
        self.records
            .stage(index, (hash, Column::Meta), &self.key, value, self.epoch);
        self.with_entry = with_entry;
        self.stage_entries(index_changes);
        if let Some(marker) = marker {
            self.stage_cell(Column::System, &marker, Some(&[]));
            self.has_new_marker = true;
        }
        Ok(self.epoch)
    }

    /// Stages entries of the expiry index for `self.key`, with its version, or their deletion.
    fn stage_entries(&mut self, changes: [Option<(u64, Option<[u8; 8]>)>; 2]) {
        let mut index_key = std::mem::take(&mut self.expiry_key);
        for (entry_ms, version) in changes.into_iter().flatten() {
            encoding::expiry_key(&mut index_key, entry_ms, &self.key);
            self.stage_cell(Column::Expiry, &index_key, version.as_ref().map(|version| &version[..]));
        }
        self.expiry_key = index_key;
    }

    /// The sweep has come to the entry of a key of `meta` that is due later: the entry goes to where the key is due, of
    /// which the sweep knows. For nobody the key has changed.
    pub fn move_entry(&mut self, meta_key: &[u8]) -> Result<(), CommandError> {
        self.check_writable()?;
        self.key.clear();
        self.key.extend_from_slice(meta_key);
        let hash = hash_of(&self.hasher, Column::Meta, &self.key);
        let index = match self.find_by_hash(hash, Column::Meta)? {
            Found::Entry(index) => index,
            // Only small records have such entries.
            Found::Absent | Found::Large => return Ok(()),
        };
        let Some(record) = self.records.value(index).filter(|record| encoding::has_entry(record)) else {
            return Ok(());
        };
        let (entry_ms, due_ms) = (entry_of(record), due_of(record));
        let version = encoding::version_of(record).unwrap_or(0).to_be_bytes();
        let mut moved = Vec::new();
        encoding::with_entry(record, None, &mut moved);
        self.begin_staging();
        let value = Some(Cow::Owned(moved));
        self.records
            .stage(Some(index), (hash, Column::Meta), &self.key, value, self.epoch);
        self.stage_entries([Some((entry_ms, None)), Some((due_ms, Some(version)))]);
        self.keep_command();
        Ok(())
    }

    /// Stages what the shard keeps beside keys and members, or its deletion.
    fn stage_cell(&mut self, column: Column, key: &[u8], value: Option<&[u8]>) {
        let hash_and_column = (hash_of(&self.hasher, column, key), column);
        let index = self.records.find(hash_and_column.0, column, key);
        let value = value.map(Cow::Borrowed);
        self.records.stage(index, hash_and_column, key, value, self.epoch);
    }

    /// Whether RocksDB, which has all segments up to `watermark`, has got markers of dead versions since the last call
    /// that said so.
    pub fn take_ingested_markers(&mut self, watermark: u32) -> bool {
        let Some((_, last)) = self.marker_segments.take_if(|(first, _)| *first <= watermark) else {
            return false;
        };
        // Under steady deletions there is always a later one.
        self.marker_segments = (last > watermark).then_some((watermark + 1, last));
        true
    }

    /// Stages the deletion of the marker of a dead version, which was reclaimed. Returns whether there was a marker:
    /// the reclaimer finds one again, and nothing to reclaim, whose deletion RocksDB does not have yet.
    pub fn delete_marker(&mut self, marker: &[u8]) -> Result<bool, CommandError> {
        self.check_writable()?;
        self.key.clear();
        self.key.extend_from_slice(marker);
        let found = self.find_in(Column::System)?;
        if self.stored(&found).is_none() {
            return Ok(false);
        }
        self.begin_staging();
        self.stage_cell(Column::System, marker, None);
        self.keep_command();
        Ok(true)
    }

    /// A version for a new collection of a type: greater than any that this shard has given out, in this run or an
    /// earlier one.
    pub fn new_version(&mut self, kind: Type, now_ms: u64) -> u64 {
        // A thousand collections per millisecond, for ever, before it runs ahead of the clock.
        self.last_version = (self.last_version + 1).max(now_ms * 1000);
        if kind != Type::String {
            self.residents.born(self.last_version, kind);
        }
        self.last_version
    }

    /// The newest version that was given to a collection.
    pub fn newest_version(&self) -> u64 {
        self.last_version
    }

    /// The collection that was given the newest version has no record yet, and will have when it is made: until
    /// [`Shard::is_made`] says so, compactions leave its members alone.
    pub fn is_making_newest(&mut self) -> u64 {
        let (version, stage) = (self.last_version, Making::Begun);
        self.in_the_making.push(InTheMaking { version, stage });
        self.tell_in_the_making();
        version
    }

    /// The record of such a collection is staged now, or will never be.
    pub fn is_made(&mut self, version: u64) {
        for making in &mut self.in_the_making {
            if making.version == version {
                making.stage = Making::Over;
            }
        }
    }

    fn tell_in_the_making(&self) {
        let versions: Vec<u64> = self.in_the_making.iter().map(|making| making.version).collect();
        self.database.set_in_the_making(&versions);
    }

    /// Stages a member of a collection (`None` deletes), whatever there is. Returns the epoch it will be logged in.
    pub fn write_member(
        &mut self,
        (owner, slot): (&Owner, Slot),
        column: Column,
        member: &[u8],
        value: Option<&[u8]>,
    ) -> Result<u64, CommandError> {
        self.check_writable()?;
        if member.len() + value.map_or(0, <[u8]>::len) > ENTRY_BYTES_MAX {
            return Err(CommandError::text("ERR a member and its value are longer than 1 GiB"));
        }
        self.set_member_key(owner, slot, member);
        if self.tracks_modified {
            self.add_modified(owner.database, owner.key.clone(), self.is_quiet);
        }
        self.begin_staging();
        if !self.cell_changes(column, member, value) {
            self.stage_here(column, value);
            self.residents.staged();
        }
        Ok(self.epoch)
    }

    /// Shows `taken` the value of a member of a collection, and stages its deletion. Whether there was one, and the
    /// newest epoch whose writes were seen or made.
    pub fn take_member(
        &mut self,
        (owner, slot): (&Owner, Slot),
        column: Column,
        member: &[u8],
        taken: &mut dyn FnMut(&[u8]),
    ) -> Result<(bool, u64), CommandError> {
        if !self.is_authority_in_memory((owner, slot)) {
            let (value, epoch) = self.member((owner, slot), column, member)?;
            let Some(value) = value else {
                return Ok((false, epoch));
            };
            taken(value);
            return Ok((true, self.write_member((owner, slot), column, member, None)?));
        }
        let before = self.residents.changes();
        let epoch = self.write_member((owner, slot), column, member, None)?;
        let has_changed = self.residents.changes() > before;
        let value = self.residents.value_before().filter(|_| has_changed);
        Ok((value.map(taken).is_some(), epoch))
    }

    /// Stages that from `offset` on the value of a chunk of a string becomes `bytes`; a shorter one grows with zeros.
    /// Returns the epoch this will be logged in; `None` if there is no such chunk.
    pub fn patch_chunk(
        &mut self,
        (owner, slot): (&Owner, Slot),
        number: u32,
        (offset, bytes): (usize, &[u8]),
    ) -> Result<Option<u64>, CommandError> {
        self.check_writable()?;
        let Some(index) = self.find_chunk((owner, slot), number)? else {
            return Ok(None);
        };
        self.patch_found((owner, index), number, (offset, bytes));
        Ok(Some(self.epoch))
    }

    /// Stages that those bits of byte `at` of a chunk of a string which are set in `mask` become those of `bits`.
    /// Returns the byte as it was, and the newest epoch whose writes were seen; `None` if there is no such chunk.
    pub fn set_chunk_bits(
        &mut self,
        (owner, slot): (&Owner, Slot),
        (number, at): (u32, usize),
        (mask, bits): (u8, u8),
    ) -> Result<Option<(u8, u64)>, CommandError> {
        self.check_writable()?;
        let Some(index) = self.find_chunk((owner, slot), number)? else {
            return Ok(None);
        };
        let chunk = self.records.value(index).unwrap_or_default();
        let old = chunk.get(at).copied().unwrap_or(0);
        let new = old & !mask | bits & mask;
        if new == old {
            return Ok(Some((old, self.records.epoch(index).max(self.whole_epoch))));
        }
        self.patch_found((owner, index), number, (at, &[new]));
        Ok(Some((old, self.epoch)))
    }

    /// Looks a chunk of a string up, whose key is in `self.key` then.
    fn find_chunk(&mut self, (owner, slot): (&Owner, Slot), number: u32) -> Result<Option<EntryIndex>, CommandError> {
        self.set_member_key(owner, slot, &encoding::chunk_member(number));
        self.miss_on_request(Column::Data)?;
        match self.find_in(Column::Data)? {
            Found::Entry(index) => Ok(self.records.value(index).map(|_| index)),
            Found::Absent => Ok(None),
            Found::Large => Err(damaged_record()),
        }
    }

    /// Stages new bytes of the chunk that was found.
    fn patch_found(&mut self, (owner, index): (&Owner, EntryIndex), number: u32, (offset, bytes): (usize, &[u8])) {
        if self.tracks_modified {
            self.add_modified(owner.database, owner.key.clone(), self.is_quiet);
        }
        self.begin_staging();
        if self.records.patch(index, (offset, bytes), self.epoch) {
            // Chunks are never in memory as members are, but logged as changes of members are.
            let member = encoding::chunk_member(number);
            let before_member = &self.key[..self.key.len() - member.len()];
            self.member_operations
                .patch(before_member, Column::Data, &member, (offset, bytes));
        }
    }

    /// Stages `value` under `self.key`, whatever is there. Returns the epoch it will be logged in.
    #[inline]
    fn stage_here(&mut self, column: Column, value: Option<&[u8]>) -> u64 {
        let hash_and_column = (hash_of(&self.hasher, column, &self.key), column);
        let index = self.records.find(hash_and_column.0, column, &self.key);
        let value = value.map(Cow::Borrowed);
        self.begin_staging();
        self.records.stage(index, hash_and_column, &self.key, value, self.epoch);
        self.epoch
    }

    /// Calls `visit` with the keys and values of a column from `from` (inclusive) to `to` (exclusive), which belong to
    /// one database: those on the disk with what it does not have yet. Returns the newest epoch whose writes were seen.
    pub(super) fn scan_range(
        &mut self,
        column: Column,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<u64, CommandError> {
        self.scan_counting_deleted(&Cell::new(0), column, (from, to), direction, visit)
    }

    /// The same, and counts in `deleted` the deleted keys in the range of which the disk does not know yet.
    pub(super) fn scan_counting_deleted(
        &mut self,
        deleted: &Cell<u64>,
        column: Column,
        range: (&[u8], &[u8]),
        direction: Direction,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<u64, CommandError> {
        let patience = Patience::new(None, deleted);
        let (epoch, _) = self.scan_with_patience((patience, None), column, range, direction, visit)?;
        Ok(epoch)
    }

    /// The same, but gives up behind so many deleted keys of which the disk does not know yet, or side by side on the
    /// disk, if `deleted_max` says how many: forwards only. Returns also the key before which all was visited, if it
    /// gave up.
    pub(super) fn scan_past_deleted(
        &mut self,
        deleted_max: Option<u64>,
        column: Column,
        range: (&[u8], &[u8]),
        direction: Direction,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(u64, Option<Vec<u8>>), CommandError> {
        let passed = Cell::new(0);
        let patience = Patience::new(deleted_max, &passed);
        self.scan_with_patience((patience, deleted_max), column, range, direction, visit)
    }

    /// The same forwards, but ends behind so many deleted keys of which the disk does not know yet, or when it has gone
    /// some way through others that lie side by side on the disk: it always goes ahead.
    pub(super) fn scan_some(
        &mut self,
        column: Column,
        (from, to): (&[u8], &[u8]),
        deleted_max: u64,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(u64, Option<Vec<u8>>), CommandError> {
        let passed = Cell::new(0);
        let patience = (Patience::new(Some(deleted_max), &passed), Some(DELETED_ON_DISK_MAX));
        let scanned = self.scan_with_patience(patience, column, (from, to), Direction::Forward, &mut visit)?;
        if scanned.1.as_deref() != Some(from) {
            return Ok(scanned);
        }
        let mut end = self.database.end_of_step(column, (from, to), STEP_BYTES);
        if end[..] < *to {
            // A read that goes on goes on behind a key.
            end.push(0);
        }
        let mut has_ended = false;
        let give = |key: &[u8], value: &[u8]| {
            let flow = visit(key, value);
            has_ended = flow.is_break();
            flow
        };
        let patience = (Patience::new(Some(deleted_max), &passed), None);
        let (epoch, gave_up_at) = self.scan_with_patience(patience, column, (from, &end), Direction::Forward, give)?;
        let is_done = has_ended || gave_up_at.is_none() && end == to;
        Ok((epoch, (!is_done).then(|| gave_up_at.unwrap_or(end))))
    }

    /// [`Shard::scan_past_deleted`] with bounds for what is deleted in memory, and for what lies deleted on the disk.
    fn scan_with_patience(
        &mut self,
        (mut patience, on_disk_max): (Patience<'_>, Option<u64>),
        column: Column,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(u64, Option<Vec<u8>>), CommandError> {
        assert!(patience.is_endless() && on_disk_max.is_none() || direction == Direction::Forward);
        let mut epoch = self.whole_epoch;
        if from >= to {
            return Ok((epoch, None));
        }
        if self.misses.come_on_request() {
            return Err(self.miss(MissedRead::Range(column, from.to_vec(), to.to_vec(), direction)));
        }
        let is_emptied = is_emptied(self.emptied(), column, from);
        let mut unclean = self.records.unclean(column, (from, to), direction).peekable();
        let mut ended = false;
        let mut give = |key: &[u8], value: &[u8]| {
            ended = visit(key, value).is_break();
            if ended {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let mut merge = |key: &[u8], value: &[u8]| {
            // Keys that the disk lacks and that come before its next key, and the newer value of that key itself.
            while let Some(newer) = unclean.next_if(|newer| match direction {
                Direction::Forward => newer.key <= key,
                Direction::Backward => newer.key >= key,
            }) {
                epoch = epoch.max(newer.epoch);
                match newer.value {
                    Some(value) => give(newer.key, value)?,
                    None => patience.pass(newer.key)?,
                }
                if newer.key == key {
                    return ControlFlow::Continue(());
                }
            }
            give(key, value)
        };
        let (database, range) = (&self.database, (from, to));
        let limits = ScanLimits {
            deleted_max: on_disk_max,
            in_memory: self.misses.may_miss,
        };
        let scanned = match is_emptied {
            true => Scanned::All,
            false => self
                .ranges
                .scan(database, column, range, direction, limits, &mut merge)?,
        };
        let ends_at = match scanned {
            Scanned::All => None,
            Scanned::GaveUp(at) => Some(at),
            Scanned::NotInMemory(from, to) => {
                drop(unclean);
                return Err(self.miss(MissedRead::Range(column, from, to, direction)));
            }
        };
        if !ended && ends_at.is_none() && patience.ended_at.is_none() {
            for newer in unclean {
                epoch = epoch.max(newer.epoch);
                let flow = match newer.value {
                    Some(value) => visit(newer.key, value),
                    None => patience.pass(newer.key),
                };
                if flow.is_break() {
                    break;
                }
            }
        }
        Ok((epoch, ends_at.or(patience.ended_at)))
    }

    /// The members that [`Shard::scan_members`] would visit, to be read little by little, how many bytes of each key
    /// come before the member, and the newest epoch whose writes may be among them.
    pub fn member_cursor(
        &mut self,
        (owner, slot): (&Owner, Slot),
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
    ) -> Result<(RangeCursor, usize, u64), CommandError> {
        self.check_readable()?;
        self.set_member_key(owner, slot, b"");
        if let Some((members, _)) = self.residents.snapshot(&self.key, column) {
            let (from, to) = (range.0.to_vec(), range.1.map(<[u8]>::to_vec));
            let cursor = RangeCursor::in_memory(self.id, members, (from, to), direction);
            return Ok((cursor, 0, self.newest_epoch));
        }
        let (from, to, prefix_len) = self.member_range((owner, slot), range);
        self.need_beginning(column, (&from, &to), direction)?;
        let cursor = self.cursor(column, (from, to), direction);
        Ok((cursor, prefix_len, self.newest_epoch))
    }

    /// All records of a database (as SELECT numbers it) that lie in `slots`, to be read little by little, and the
    /// newest epoch whose writes may be among them.
    pub fn key_cursors(
        &mut self,
        database: u8,
        slots: std::ops::Range<u16>,
    ) -> Result<(Vec<RangeCursor>, u64), CommandError> {
        self.check_readable()?;
        let physical = self.physical(database);
        let all = [slots.start, slots.end].map(|slot| encoding::slot_start(physical, Slot(slot)));
        self.need_beginning(Column::Meta, (&all[0], &all[1]), Direction::Forward)?;
        let mut cursors = Vec::new();
        for first in slots.clone().step_by(SLOTS_PER_CURSOR) {
            let end = slots.end.min(first.saturating_add(SLOTS_PER_CURSOR as u16));
            let from = encoding::slot_start(physical, Slot(first)).to_vec();
            let to = encoding::slot_start(physical, Slot(end)).to_vec();
            cursors.push(self.cursor(Column::Meta, (from, to), Direction::Forward));
        }
        Ok((cursors, self.newest_epoch))
    }

    /// What a cursor begins with is fetched first, if it is not in memory and the command may wait for that.
    fn need_beginning(
        &mut self,
        column: Column,
        range: (&[u8], &[u8]),
        direction: Direction,
    ) -> Result<(), CommandError> {
        if self.misses.may_miss && direction == Direction::Forward {
            let look = |_: &[u8], _: &[u8]| ControlFlow::Break(());
            self.scan_past_deleted(Some(DELETED_LOOKED_AT_MAX), column, range, direction, look)?;
        }
        Ok(())
    }

    fn cursor(&mut self, column: Column, (from, to): (Vec<u8>, Vec<u8>), direction: Direction) -> RangeCursor {
        let disk =
            (!is_emptied(self.emptied(), column, &from)).then(|| self.database.cursor(column, (&from, &to), direction));
        RangeCursor::new(self.id, &mut self.records, column, (from, to), direction, disk)
    }

    /// The keys of a range of members, and how many of their bytes come before the member.
    fn member_range(&self, (owner, slot): (&Owner, Slot), (from, to): MemberRange<'_>) -> (Vec<u8>, Vec<u8>, usize) {
        let physical = self.physical(owner.database);
        let member_key = |member| encoding::member_key(physical, slot, &owner.key, owner.version, member);
        let all = member_key(b"");
        let prefix_len = all.len();
        let to = to.map_or_else(|| encoding::after_prefix(all), member_key);
        (member_key(from), to, prefix_len)
    }

    fn set_member_key(&mut self, owner: &Owner, slot: Slot, member: &[u8]) {
        let physical = self.physical(owner.database);
        encoding::member_key_into(&mut self.key, (physical, slot), &owner.key, owner.version, member);
    }

    /// The running command is over and its writes stand.
    #[inline]
    pub fn keep_command(&mut self) {
        self.records.keep_command();
        self.residents.keep_command();
        self.operations_kept = self.member_operations.len();
        self.whole_undo.clear();
        self.modified_kept = self.modified.len();
        self.writes_while_stalled_kept = self.writes_while_stalled;
        self.loads_left = LOADS_PER_COMMAND;
        if faults::forgets_residents() {
            self.residents.drop_clean();
        }
        if faults::evicts_resident() {
            self.residents.evict_next();
        }
    }

    /// The running command failed: its writes are rolled back.
    pub fn roll_back_command(&mut self) {
        self.distrust_half_changed();
        self.loads_left = LOADS_PER_COMMAND;
        self.inner_marks.clear();
        self.roll_back_to(InnerMark {
            changes: 0,
            resident_changes: 0,
            operations_len: self.operations_kept,
            whole_changes: 0,
            modified: self.modified_kept,
            lifecycle: 0,
            writes_while_stalled: self.writes_while_stalled_kept,
        });
    }

    /// A part of the running command begins, which may fail and leave what was staged before.
    pub fn begin_inner(&mut self) {
        self.inner_marks.push(InnerMark {
            changes: self.records.changes(),
            resident_changes: self.residents.changes(),
            operations_len: self.member_operations.len(),
            whole_changes: self.whole_undo.len(),
            modified: self.modified.len(),
            lifecycle: self.lifecycle.len(),
            writes_while_stalled: self.writes_while_stalled,
        });
    }

    /// The part that began last is over, and its writes stand (`is_kept`) or are rolled back.
    pub fn end_inner(&mut self, is_kept: bool) {
        if let Some(mark) = self.inner_marks.pop()
            && !is_kept
        {
            self.roll_back_to(mark);
        }
    }

    fn roll_back_to(&mut self, mark: InnerMark) {
        self.residents.roll_back_command(mark.resident_changes);
        self.member_operations.truncate(mark.operations_len);
        while self.whole_undo.len() > mark.whole_changes {
            let Some(undo) = self.whole_undo.pop() else { break };
            // What was learned since of emptied databases is not true any more.
            self.gaps.clear();
            match undo.has_new_table {
                true => self.records.undo_delete_everything(),
                false => self.roll_back_records(undo.changes),
            }
            assert_eq!(self.records.changes(), undo.changes, "what came before stands");
            self.wide = undo.wide;
        }
        self.roll_back_records(mark.changes);
        self.modified.truncate(mark.modified);
        self.lifecycle.truncate(mark.lifecycle);
        self.writes_while_stalled = mark.writes_while_stalled;
    }

    /// Takes back the changes of records that the running command made after the first `kept`.
    fn roll_back_records(&mut self, kept: usize) {
        let Shard {
            wide: Wide { counts, .. },
            residents,
            gaps,
            records,
            ..
        } = self;
        let mut counts_were_right = true;
        records.roll_back_command(kept, |undone| match undone.column {
            Column::Meta => counts_were_right &= counts.replace(undone.key, undone.staged, undone.restored),
            Column::Data | Column::Score => member_reads::forget_owner_of(residents, gaps, undone.key),
            Column::Expiry | Column::System => {}
        });
        if !counts_were_right {
            self.report_wrong_counts();
        }
    }

    /// Says, once, that a count of keys is wrong. A wrong count hides no key: whether one exists is never told by
    /// counts.
    #[cold]
    fn report_wrong_counts(&mut self) {
        if !std::mem::replace(&mut self.counts_are_wrong, true) {
            tracing::error!(
                shard = self.id.0,
                "the count of keys is wrong, by a bug: DBSIZE and INFO are wrong until the next start counts again"
            );
        }
    }

    /// Nothing may be read for a while: lets go of what is kept for reads, on the disk and in memory.
    pub fn release_readers(&mut self) {
        self.ranges.release();
    }

    /// Sets whether somebody has to be told which keys are written.
    pub fn track_modified(&mut self, tracks: bool) {
        self.tracks_modified = tracks;
    }

    /// The keys that were written since the last call by commands that are over, oldest first; one may come several
    /// times.
    pub fn take_modified(&mut self) -> Vec<Modified> {
        self.modified_kept = 0;
        std::mem::take(&mut self.modified)
    }

    /// Remembers that the key whose record's key in `meta` is `self.key` was written.
    fn add_modified_record(&mut self, quietly: bool) {
        if let Some((physical, _, key)) = encoding::split_meta_key(&self.key)
            && let Some(database) = self.number_of(physical)
        {
            let key = key.to_vec();
            self.add_modified(database, key, quietly);
        }
    }

    fn add_modified(&mut self, database: u8, key: Vec<u8>, quietly: bool) {
        let key = (database, key);
        let is_told = |last: &Modified| last.key == key && (quietly || !last.quietly);
        if !self.modified.last().is_some_and(is_told) {
            self.modified.push(Modified { key, quietly });
        }
    }

    /// Sets whether what is written from now on counts as a change only for clients that wait for the key, if the key
    /// is there before and after.
    pub fn set_quiet(&mut self, is_quiet: bool) {
        self.is_quiet = is_quiet;
    }

    /// Whether there is anything for the next frame.
    #[inline]
    pub fn has_staged(&self) -> bool {
        self.records.has_staged() || !self.member_operations.is_empty() || self.wide.changes != WholeChanges::default()
    }

    /// Something is about to be staged.
    #[inline]
    fn begin_staging(&mut self) {
        if !self.has_staged() {
            self.staged_epoch = self.epoch;
        }
        self.newest_epoch = self.epoch;
    }

    /// The physical databases, one bit each, of which the disk has what is not to be seen any more.
    #[inline]
    fn emptied(&self) -> u16 {
        self.wide.changes.emptied | self.emptied_by_log
    }

    /// At least as many bytes as are staged.
    #[inline]
    pub fn staged_bytes(&self) -> usize {
        self.records.staged_bytes() + self.member_operations.len()
    }

    /// Counts how many bytes are staged: until then the table of records may say more.
    pub fn count_staged_bytes(&mut self) {
        self.records.count_staged_bytes();
    }

    /// Appends what is staged to the operations of the executor's next frame, if anything is. What becomes of the frame
    /// the shard is to be told.
    pub fn append_to(&mut self, frame: &mut FrameBuffer) {
        if !self.has_staged() {
            return;
        }
        operations::begin_shard(frame, self.id);
        let emptied = self.wide.changes.emptied;
        if emptied != 0 {
            operations::empty_databases(frame, emptied);
        }
        self.member_operations.append_to(frame);
        let mut deletes = emptied != 0;
        self.each_staged(|column, key, value| match value {
            Some(value) => {
                deletes |= column == Column::System && encoding::prefix_of_dead_version(key).is_some();
                operations::put(frame, column, key, value);
            }
            None => {
                deletes |= column == Column::Meta;
                operations::delete(frame, column, key);
            }
        });
        self.deletes_keys |= deletes;
    }

    /// Whether keys were deleted, since the last call, in frames: their space comes back when RocksDB knows.
    pub fn take_deletes_keys(&mut self) -> bool {
        std::mem::take(&mut self.deletes_keys)
    }

    /// Calls `write` with each cell that is to be written, after the databases were emptied that are.
    fn each_staged(&self, mut write: impl FnMut(Column, &[u8], Option<&[u8]>)) {
        let emptied = self.wide.changes.emptied;
        if self.wide.changes.has_new_map {
            write(
                Column::System,
                DatabaseMap::KEY,
                Some(&self.wide.databases.encode()[..]),
            );
        }
        for (column, key, value) in self.records.staged() {
            // A deletion that goes with a database's.
            if value.is_some() || !is_emptied(emptied, column, key) {
                write(column, key, value);
            }
        }
        for number in 0..DATABASE_COUNT {
            let (counts, logged) = (self.wide.counts.0[number], self.counts_logged.0[number]);
            match self.counts_are_wrong {
                true => write(Column::System, &Counts::key(number as u8), None),
                false if counts != logged => {
                    write(Column::System, &Counts::key(number as u8), Some(&counts.encode()[..]));
                }
                false => {}
            }
        }
        if self.last_version != self.last_version_logged {
            let last_version = self.last_version.to_be_bytes();
            write(Column::System, encoding::LAST_VERSION_KEY, Some(&last_version[..]));
        }
    }

    /// What is staged was logged in `segment`, and survives the end of the process.
    pub fn logged(&mut self, segment: u32) {
        for making in &mut self.in_the_making {
            if making.stage == Making::Over {
                making.stage = Making::Logged(segment);
            }
        }
        if self.has_staged() {
            if self.wide.changes.emptied != 0 {
                self.log_emptied(segment, self.wide.changes.emptied);
            }
            self.records.logged(segment);
            self.residents.logged(segment);
            self.was_written();
        }
        if std::mem::take(&mut self.has_new_marker) {
            let first = self.marker_segments.map_or(segment, |(first, _)| first);
            self.marker_segments = Some((first, segment));
        }
    }

    /// A segment says that databases were emptied, one bit each.
    fn log_emptied(&mut self, segment: u32, emptied: u16) {
        match self.emptied_logged.back_mut() {
            Some((last, of_last)) if *last == segment => *of_last |= emptied,
            _ => self.emptied_logged.push_back((segment, emptied)),
        }
        self.emptied_by_log |= emptied;
    }

    /// Writes what is staged to RocksDB at once, without a log, durably: for the start of a server, and for shards
    /// without an executor.
    ///
    /// # Errors
    /// What is staged is taken back, and the shard takes no more writes.
    pub fn write_through(&mut self) -> Result<(), DatabaseError> {
        if !self.has_staged() {
            return Ok(());
        }
        let (mut frame, mut writes) = (FrameBuffer::new(), CellWrites::default());
        self.append_to(&mut frame);
        for operation in operations::read(frame.payload()) {
            writes.apply(operation.expect("what was just written is read back").change);
        }
        if let Err(error) = self.database.ingest(writes) {
            self.stop(&error);
            return Err(error);
        }
        self.records.written_through();
        self.residents.logged(0);
        self.was_written();
        if std::mem::take(&mut self.has_new_marker) {
            // RocksDB has it.
            self.marker_segments = Some((0, 0));
        }
        Ok(())
    }

    fn was_written(&mut self) {
        assert!(self.staged_epoch <= self.epoch, "nothing is staged in a later epoch");
        if let Some(keys_left) = self.wide.changes.complete_at {
            self.records.set_complete_since(keys_left);
        }
        self.check_counts();
        self.wide.changes = WholeChanges::default();
        self.wide_logged = self.wide;
        self.counts_logged = self.wide.counts;
        self.last_version_logged = self.last_version;
        self.whole_undo.clear();
        self.member_operations.clear();
        self.operations_kept = 0;
    }

    /// RocksDB has all segments up to `watermark`: works off up to `records_max` records that need not stay for that
    /// any more. Returns how many were looked at: fewer, if nothing is left to do.
    pub fn work_off(&mut self, watermark: u32, records_max: usize) -> usize {
        let is_ingested = |(segment, _): &(u32, u16)| *segment <= watermark;
        if self.emptied_logged.front().is_some_and(is_ingested) {
            self.emptied_logged.retain(|emptied| !is_ingested(emptied));
            let left = self.emptied_logged.iter();
            self.emptied_by_log = left.fold(0, |all, (_, emptied)| all | emptied);
        }
        let is_in_rocksdb = |making: &InTheMaking| match making.stage {
            Making::Logged(segment) => segment <= watermark,
            Making::Begun | Making::Over => false,
        };
        if self.in_the_making.iter().any(is_in_rocksdb) {
            self.in_the_making.retain(|making| !is_in_rocksdb(making));
            self.tell_in_the_making();
        }
        let Shard { residents, records, .. } = self;
        let looked_at = records.work_off(watermark, records_max, |column, key| {
            encoding::before_member(key)
                .filter(|_| matches!(column, Column::Data | Column::Score))
                .is_some_and(|owner| residents.has_cell(owner, column, &key[owner.len()..]))
        });
        // The table that was replaced comes again if that is taken back, with what is not worked off there.
        if !records.is_replacement() {
            residents.work_off(records.worked_off_to(watermark));
        }
        looked_at
    }

    /// Where every key is in the table, the counts must say how many there are.
    fn check_counts(&mut self) {
        if self.records.is_complete() && self.records.present() as u64 != self.wide.counts.keys() {
            self.report_wrong_counts();
        }
    }

    /// The log takes nothing for now: what is staged waits.
    pub fn stall(&mut self) {
        if self.state == ShardState::Healthy {
            self.state = ShardState::Stalled;
        }
    }

    /// The log takes something again.
    pub fn end_stall(&mut self) {
        self.forget_stalled_writes();
        if self.state == ShardState::Stalled {
            self.state = ShardState::Healthy;
        }
    }

    /// None of the writes that were counted while the shard was stalled is staged any more.
    fn forget_stalled_writes(&mut self) {
        (self.writes_while_stalled, self.writes_while_stalled_kept) = (0, 0);
    }

    /// What is staged was not logged: takes all of it back and takes no more writes.
    pub fn stop(&mut self, error: &DatabaseError) {
        self.take_back();
        self.forget_stalled_writes();
        self.state = match error {
            DatabaseError::DiskFull(_) => ShardState::ReadOnly,
            DatabaseError::Stalled => ShardState::Stalled,
            DatabaseError::Failed(text) => ShardState::Unavailable(text.clone()),
        };
        tracing::error!(shard = self.id.0, state = self.state.name(), %error, "a shard stopped taking writes");
    }

    /// Takes back all that is staged, whichever commands have staged it.
    fn take_back(&mut self) {
        // What a sweep had staged is due again.
        self.swept.begin_again();
        self.distrust_half_changed();
        self.inner_marks.clear();
        if !self.whole_undo.is_empty() || self.wide.changes != WholeChanges::default() {
            self.gaps.clear();
        }
        self.residents.roll_back_staged();
        self.member_operations.clear();
        self.operations_kept = 0;
        let Shard {
            residents,
            gaps,
            records,
            ..
        } = self;
        records.roll_back_staged(|undone| {
            if matches!(undone.column, Column::Data | Column::Score) {
                member_reads::forget_owner_of(residents, gaps, undone.key);
            }
        });
        self.wide = self.wide_logged;
        self.whole_undo.clear();
        self.has_new_marker = false;
    }

    /// There is little room left on the disk (`true`) or enough again.
    pub fn set_disk_full(&mut self, full: bool) {
        match (&self.state, full) {
            (ShardState::Healthy, true) => self.state = ShardState::ReadOnly,
            (ShardState::ReadOnly, false) => self.state = ShardState::Healthy,
            _ => return,
        }
        tracing::warn!(
            shard = self.id.0,
            state = self.state.name(),
            "free space on the disk changed the shard's state"
        );
    }

    /// Stages the deletion of all keys of a database (as SELECT numbers it), or of all. Returns the epoch it will be
    /// logged in.
    pub fn flush(&mut self, database: Option<u8>) -> Result<u64, CommandError> {
        self.check_writable()?;
        let emptied = match database.map(|database| self.physical(database)) {
            // The entries of the expiry index go only with all databases.
            Some(physical) if !self.is_only(physical)? => 1 << physical,
            _ => u16::MAX,
        };
        self.begin_whole_change(emptied == u16::MAX);
        self.wide.changes.emptied |= emptied;
        // Every key is in the table before, or none is outside when this is logged.
        let was_complete =
            self.records.is_complete() || self.wide.changes.complete_at == Some(self.records.keys_left());
        match emptied {
            u16::MAX => self.records.delete_everything(),
            _ => self
                .records
                .delete_all(self.epoch, |column, key| is_emptied(emptied, column, key)),
        }
        let will_be_complete = was_complete || self.wide.changes.emptied == u16::MAX;
        self.wide.changes.complete_at = will_be_complete.then_some(self.records.keys_left());
        for (number, counts) in self.wide.counts.0.iter_mut().enumerate() {
            if is_emptied(emptied, Column::Meta, &[number as u8]) {
                *counts = Counts::default();
            }
        }
        self.gaps.clear();
        match emptied {
            u16::MAX => self.residents.flush(),
            _ => self.residents.flush_databases(emptied, self.last_version),
        }
        if !self.member_operations.is_empty() {
            self.member_operations.empty_databases(emptied);
        }
        Ok(self.epoch)
    }

    /// Whether it is certain, without a long look, that no other physical database than this one has keys.
    fn is_only(&mut self, physical: u8) -> Result<bool, CommandError> {
        let mut others = (0..DATABASE_COUNT as u8).filter(|other| *other != physical);
        if others.any(|other| self.records.present_in(other) > 0) {
            return Ok(false);
        }
        let (before, behind) = (
            &[0][..]..&[physical][..],
            &[physical + 1][..]..&[DATABASE_COUNT as u8][..],
        );
        for range in [before, behind].into_iter().filter(|range| !range.is_empty()) {
            if self.database.has_keys(Column::Meta, (range.start, range.end))? != Some(false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stages another database map. Returns the epoch it will be logged in.
    pub fn set_database_map(&mut self, map: DatabaseMap) -> Result<u64, CommandError> {
        self.check_writable()?;
        self.begin_whole_change(false);
        self.wide.changes.has_new_map = true;
        self.wide.databases = map;
        Ok(self.epoch)
    }

    fn begin_whole_change(&mut self, has_new_table: bool) {
        self.begin_staging();
        self.whole_epoch = self.epoch;
        self.whole_undo.push(WholeUndo {
            changes: self.records.changes(),
            has_new_table,
            wide: self.wide,
        });
    }

    /// Stages function libraries, each given by its name and its code (`None` deletes it). Returns the epoch they will
    /// be logged in.
    pub fn write_libraries(&mut self, changes: &[(&str, Option<&[u8]>)]) -> Result<u64, CommandError> {
        for (name, code) in changes {
            self.write_system(&encoding::library_key(name), code.map(<[u8]>::to_vec))?;
        }
        Ok(self.epoch)
    }

    /// The codes of all function libraries.
    pub fn libraries(&mut self) -> Result<Vec<Vec<u8>>, CommandError> {
        let mut codes = Vec::new();
        let range = encoding::LIBRARIES_RANGE;
        self.scan_range(Column::System, range, Direction::Forward, |_, code| {
            codes.push(code.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(codes)
    }

    /// What the shard keeps of a key of `meta`, dead or alive, without keeping it in the table.
    pub(super) fn peek_record<T>(
        &mut self,
        meta_key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, CommandError> {
        let hash = hash_of(&self.hasher, Column::Meta, meta_key);
        if let Some(entry) = self.records.find(hash, Column::Meta, meta_key) {
            return Ok(self.records.value(entry).map(read));
        }
        if is_emptied(self.emptied(), Column::Meta, meta_key) {
            return Ok(None);
        }
        Ok(self.database.get(Column::Meta, meta_key, read)?)
    }

    /// Calls `visit` with the slot, user key and record of each key of a database that lies in `slots`, from the first
    /// key after `after` (of the first slot) on, until it breaks. Returns the newest epoch whose writes were seen.
    pub fn scan(
        &mut self,
        database: u8,
        slots: std::ops::Range<u16>,
        after: Option<&[u8]>,
        visit: impl FnMut(Slot, &[u8], Record<'_>) -> ControlFlow<()>,
    ) -> Result<u64, CommandError> {
        let (epoch, _) = self.scan_keys((database, slots, after), u64::MAX, visit)?;
        Ok(epoch)
    }

    /// The same, but [gives up](Shard::scan_some) behind `deleted_max` deleted keys: returns also where.
    pub fn scan_keys(
        &mut self,
        (database, slots, after): (u8, std::ops::Range<u16>, Option<&[u8]>),
        deleted_max: u64,
        mut visit: impl FnMut(Slot, &[u8], Record<'_>) -> ControlFlow<()>,
    ) -> Result<(u64, Option<KeyPosition>), CommandError> {
        self.check_readable()?;
        let physical = self.physical(database);
        let mut from = encoding::slot_start(physical, Slot(slots.start)).to_vec();
        if let Some(after) = after {
            // The first key that is greater: the key itself with a zero byte more.
            from.extend_from_slice(after);
            from.push(0);
        }
        let to = encoding::slot_start(physical, Slot(slots.end));
        let mut damaged = 0_u64;
        let give = |key: &[u8], value: &[u8]| match (encoding::split_meta_key(key), Record::decode(value)) {
            (Some((_, slot, key)), Some(record)) => visit(slot, key, record),
            _ => {
                damaged += 1;
                ControlFlow::Continue(())
            }
        };
        let (epoch, gave_up_at) = match deleted_max {
            u64::MAX => (
                self.scan_range(Column::Meta, (&from, &to), Direction::Forward, give)?,
                None,
            ),
            _ => self.scan_some(Column::Meta, (&from, &to), deleted_max, give)?,
        };
        if damaged > 0 {
            return Err(CommandError::text(format!(
                "ERR {damaged} stored records of this shard are damaged"
            )));
        }
        Ok((epoch, gave_up_at.map(|key| KeyPosition::before(&key))))
    }

    /// Deletes entries of the expiry index that no key has any more.
    pub fn delete_stale_index_entries(&mut self, index_keys: &[Vec<u8>]) -> Result<(), CommandError> {
        if index_keys.is_empty() {
            return Ok(());
        }
        self.check_writable()?;
        self.begin_staging();
        for key in index_keys {
            self.stage_cell(Column::Expiry, key, None);
        }
        self.keep_command();
        Ok(())
    }

    /// The number under which SELECT finds a physical database.
    pub fn number_of(&self, physical: u8) -> Option<u8> {
        number_of(&self.wide.databases, physical)
    }

    pub(super) fn physical(&self, database: u8) -> u8 {
        self.wide.databases.physical[usize::from(database)]
    }

    /// An error if the shard has stopped for good.
    pub fn check_readable(&self) -> Result<(), CommandError> {
        match &self.state {
            ShardState::Unavailable(text) => Err(CommandError::ShardDown(text.clone())),
            _ => Ok(()),
        }
    }

    fn check_writable(&mut self) -> Result<(), CommandError> {
        if let Some(error) = &self.denied {
            return Err(error.clone());
        }
        if self.state == ShardState::Healthy {
            return Ok(());
        }
        self.can_stage()?;
        self.writes_while_stalled += 1;
        Ok(())
    }

    /// Why the command that is about to run may not write here, if it may not.
    pub fn set_denied(&mut self, denied: Option<CommandError>) {
        self.denied = denied;
    }

    /// Sets whether the command that is about to run may write here although the disk is full.
    pub fn set_frees_space(&mut self, frees_space: bool) {
        self.frees_space = frees_space;
    }

    /// Sets how many writes the shard takes while it is stalled before it refuses them. Their replies wait for the end
    /// of the stall and hold credits of their senders, which the reads of the same executor need, too.
    pub fn set_writes_while_stalled_max(&mut self, writes: usize) {
        self.writes_while_stalled_max = writes.clamp(1, WRITES_WHILE_STALLED_MAX);
    }

    /// Whether a write can be staged now: while the shard is stalled, a bounded number can.
    pub fn can_stage(&self) -> Result<(), CommandError> {
        match &self.state {
            ShardState::Healthy => Ok(()),
            ShardState::Stalled if self.writes_while_stalled < self.writes_while_stalled_max => Ok(()),
            ShardState::Stalled => Err(CommandError::Stalled),
            ShardState::ReadOnly if self.frees_space => Ok(()),
            ShardState::ReadOnly => Err(CommandError::DiskFull),
            ShardState::Unavailable(text) => Err(CommandError::ShardDown(text.clone())),
        }
    }

    /// Looks `self.key` up, in the table and then on disk.
    #[inline]
    fn find_in(&mut self, column: Column) -> Result<Found, CommandError> {
        self.find_by_hash(hash_of(&self.hasher, column, &self.key), column)
    }

    /// The same with the key's hash.
    #[inline]
    fn find_by_hash(&mut self, hash: u64, column: Column) -> Result<Found, CommandError> {
        match self.records.find(hash, column, &self.key) {
            Some(entry) => Ok(Found::Entry(entry)),
            None => self.find_on_disk(hash, column),
        }
    }

    /// Looks `self.key` up on disk, after it was not found in the table under its `hash`.
    fn find_on_disk(&mut self, hash: u64, column: Column) -> Result<Found, CommandError> {
        if column == Column::Meta && self.records.is_complete() {
            return Ok(Found::Absent);
        }
        if is_emptied(self.emptied(), column, &self.key) {
            return Ok(Found::Absent);
        }
        let keep = |record: &[u8]| {
            if record.len() <= RECORD_BYTES_KEPT_MAX {
                return Some(record.to_vec());
            }
            self.large.clear();
            self.large.extend_from_slice(record);
            None
        };
        let stored = match self.misses.may_miss {
            true => match self.database.get_in_memory(column, &self.key, keep)? {
                InMemory::Known(stored) => stored,
                InMemory::Unknown => return Err(self.miss(MissedRead::Cell(column, self.key.clone()))),
            },
            false => self.database.get(column, &self.key, keep)?,
        };
        Ok(match stored {
            None => Found::Absent,
            Some(None) => Found::Large,
            Some(Some(record)) => Found::Entry(self.records.keep(hash, column, &self.key, record)),
        })
    }
}

/// Reads that are not in memory.
impl Shard {
    /// The running command cannot go on without the disk.
    #[cold]
    pub(super) fn miss(&mut self, read: MissedRead) -> CommandError {
        self.misses.add(read);
        CommandError::NotInMemory
    }

    /// Before `self.key` is looked up: in tests it may be missed on request, wherever it is.
    #[inline]
    fn miss_on_request(&mut self, column: Column) -> Result<(), CommandError> {
        match self.misses.come_on_request() {
            true => Err(self.miss(MissedRead::Cell(column, self.key.clone()))),
            false => Ok(()),
        }
    }
}

/// The counts of keys as they are stored.
fn stored_counts(database: &Database) -> Result<CountsByDatabase, DatabaseError> {
    let mut counts_stored = CountsByDatabase::default();
    for (number, counts) in counts_stored.0.iter_mut().enumerate() {
        let stored = database.get(Column::System, &Counts::key(number as u8), Counts::decode)?;
        let damaged = || DatabaseError::Failed(format!("the counts of database {number} are damaged"));
        *counts = stored.map_or(Ok(Counts::default()), |stored| stored.ok_or_else(damaged))?;
    }
    Ok(counts_stored)
}

fn stored_database_map(database: &Database) -> Result<DatabaseMap, DatabaseError> {
    let stored = database.get(Column::System, DatabaseMap::KEY, DatabaseMap::decode)?;
    let damaged = || DatabaseError::Failed("the database map is damaged".to_owned());
    stored.map_or(Ok(DatabaseMap::default()), |stored| stored.ok_or_else(damaged))
}

fn stored_last_version(database: &Database) -> Result<u64, DatabaseError> {
    let stored = database.get(Column::System, encoding::LAST_VERSION_KEY, |stored| {
        stored.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    })?;
    let damaged = || DatabaseError::Failed("the last version of a collection is damaged".to_owned());
    stored.map_or(Ok(0), |stored| stored.ok_or_else(damaged))
}

/// The counts of a shard that is being opened, after a look at whether they can be right, and whether it has no keys at
/// all. Wrong ones are counted again.
fn checked_counts(
    id: ShardId,
    database: &Database,
    stored: CountsByDatabase,
) -> Result<(CountsByDatabase, bool), DatabaseError> {
    let (mut is_empty, mut are_plausible) = (true, true);
    for (number, counts) in stored.0.iter().enumerate() {
        let (from, to) = encoding::database_range(number as u8);
        let has_keys = database.has_keys(Column::Meta, (&from, &to))?;
        is_empty &= has_keys == Some(false);
        are_plausible &= has_keys.is_none_or(|has_keys| has_keys == (counts.keys > 0));
    }
    if are_plausible {
        return Ok((stored, is_empty));
    }
    let mut counted = CountsByDatabase::default();
    let (from, _) = encoding::database_range(0);
    database.scan(Column::Meta, &from, &[DATABASE_COUNT as u8], |key, record| {
        // A count that only grows is never too low.
        let _ = counted.replace(key, None, Some(record));
        ControlFlow::Continue(())
    })?;
    tracing::error!(
        shard = id.0,
        stored = stored.keys(),
        counted = counted.keys(),
        "the stored counts of keys were wrong, and the keys were counted again"
    );
    Ok((counted, is_empty))
}

/// Whether a key of a column belongs to what goes with the physical databases `emptied`.
#[inline]
fn is_emptied(emptied: u16, column: Column, key: &[u8]) -> bool {
    let is_chosen = |physical: &u8| {
        emptied
            .checked_shr(u32::from(*physical))
            .is_some_and(|bits| bits & 1 == 1)
    };
    emptied != 0
        && match column {
            Column::Meta | Column::Data | Column::Score => key.first().is_some_and(is_chosen),
            // Entries of other databases lie between; those of one that was emptied are found to be stale.
            Column::Expiry => emptied == u16::MAX,
            Column::System => false,
        }
}

fn number_of(databases: &DatabaseMap, physical: u8) -> Option<u8> {
    let number = databases.physical.iter().position(|of_number| *of_number == physical);
    number.map(|number| number as u8)
}

pub(super) fn damaged_record() -> CommandError {
    CommandError::text("ERR the stored record of this key is damaged")
}

#[inline]
fn hash_of(hasher: &foldhash::fast::RandomState, column: Column, key: &[u8]) -> u64 {
    // The same key in two columns has two entries in the table.
    hasher.hash_one(key).wrapping_add(column as u64)
}
