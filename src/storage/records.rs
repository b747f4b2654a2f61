//! A shard's table of records in memory: what is staged for the next frame of the log, what was logged and is not in
//! RocksDB yet, and the hot part of what is there. The records are cells of all columns.
//!
//! The shard has one writer, so the table is never stale and needs no lock; one probe answers whether a key was written
//! lately, is hot, or must be read from disk. RocksDB gets whole segments of the log, long after they were written: a
//! record stays in the table, deleted ones too, until the segment of its last write is there (the *watermark*). It is
//! *clean* then, and may go at any time. Of the clean ones, those
//! that fit in `bytes_max` stay by the S3-FIFO policy (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 2023): a record enters a small queue and only moves to the main one if it was used again, so that a scan
//! does not wash out what is hot.

use super::database::{Column, Direction};
use super::encoding::{self, DATABASE_COUNT};
use super::open_ranges::{OpenRanges, Saved, SavedRange};
use super::overlay::Overlay;
use super::record_entries::{Body, Entries, Entry, NO_ENTRY, Queue, Staged, table_hash};
pub use super::record_entries::{ENTRY_BYTES, EntryIndex};
use hashbrown::HashTable;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A larger record is dropped once it is clean and not kept when it is read: one such would displace thousands of
/// hot ones, and what is gained by not copying it from the block cache is small beside sending it.
pub const RECORD_BYTES_KEPT_MAX: usize = 64 * 1024;

/// Uses that are counted per record; S3-FIFO needs no more than two bits.
const USES_MAX: u8 = 3;

/// The share of the bytes that the small queue gets, in percent (the paper's 10 %).
const SMALL_QUEUE_PERCENT: usize = 10;

/// Room for the old bytes of values that were changed in a turn; more is given back when the turn is logged.
const UNDO_BYTES_KEPT_MAX: usize = 1 << 20;

/// Steps that one record which comes in may take to make room: enough to take the uses of a few and to evict more than
/// one. Those that are not clean cannot go and are only passed by; where more is written than the table may hold, not
/// all of it is passed by for each key.
const STEPS_PER_RECORD: usize = 16;

/// The same for a change of how much the table may hold, which comes with each turn.
const STEPS_PER_CHANGE: usize = 64;

/// The most entries: clean ones leave when there are more, and the others are bounded by the log far below the numbers
/// that are left.
const ENTRIES_MAX: usize = 1 << 31;

/// What a staged record takes up in a frame, at most.
fn staged_size(key: &[u8], value: Option<&[u8]>) -> usize {
    32 + key.len() + value.map_or(0, <[u8]>::len)
}

/// A value, with room for its key behind it if it is copied anyway.
fn with_room_for(value: Cow<'_, [u8]>, key: &[u8]) -> Vec<u8> {
    match value {
        Cow::Owned(value) => value,
        Cow::Borrowed(value) => {
            let mut copied = Vec::with_capacity(value.len() + key.len());
            copied.extend_from_slice(value);
            copied
        }
    }
}

/// The physical database of a key of `meta`, which is its first byte.
fn database_of(key: &[u8]) -> usize {
    usize::from(key[0]) % DATABASE_COUNT
}

const _: () = assert!(
    ENTRIES_MAX < NO_ENTRY as usize,
    "no entry is taken for the end of a queue"
);

/// A queue of entries, linked through them, so that one leaves from the middle at no cost.
struct Fifo {
    oldest: EntryIndex,
    newest: EntryIndex,
    bytes: usize,
}

impl Fifo {
    const EMPTY: Fifo = Fifo {
        oldest: NO_ENTRY,
        newest: NO_ENTRY,
        bytes: 0,
    };

    fn push(&mut self, entries: &mut Entries, index: EntryIndex) {
        let entry = &mut entries[index];
        (entry.older, entry.newer) = (self.newest, NO_ENTRY);
        self.bytes += entry.size();
        match self.newest {
            NO_ENTRY => self.oldest = index,
            newest => entries[newest].newer = index,
        }
        self.newest = index;
    }

    fn unlink(&mut self, entries: &mut Entries, index: EntryIndex) {
        let Entry { older, newer, .. } = entries[index];
        let size = entries[index].size();
        assert!(self.bytes >= size, "a queue counts the bytes of its entries");
        self.bytes -= size;
        match older {
            NO_ENTRY => self.oldest = newer,
            older => entries[older].newer = newer,
        }
        match newer {
            NO_ENTRY => self.newest = older,
            newer => entries[newer].older = older,
        }
    }
}

/// How to take back one change since the last frame.
struct Undo {
    entry: EntryIndex,
    old: Old,
    epoch: u64,
    staged_before: Staged,
}

/// What there was before a change.
enum Old {
    Body(Body),
    /// A value that another of its length has taken the place of. It lies in this range of what [`Records`] keeps.
    Copied(Range<usize>),
    /// Some bytes of the value, which was `value_len` bytes long: they stood at `offset`, and lie in this range of what
    /// [`Records`] keeps of such bytes.
    Bytes {
        offset: usize,
        value_len: usize,
        kept: Range<usize>,
    },
}

/// What a roll back hands out for each change, newest first: the key, what it undid, what is there
/// again.
pub struct Undone<'a> {
    /// The key's column.
    pub column: Column,
    /// The key.
    pub key: &'a [u8],
    /// What was staged.
    pub staged: Option<&'a [u8]>,
    /// What is there again.
    pub restored: Option<&'a [u8]>,
}

/// A record that RocksDB does not have yet.
pub struct Unclean<'a> {
    /// The record's key.
    pub key: &'a [u8],
    /// The record's stored form; `None` for a deletion.
    pub value: Option<&'a [u8]>,
    /// The epoch that wrote the record.
    pub epoch: u64,
}

/// Records whose last write lay in a segment when they were written there, each once.
struct SegmentList {
    segment: u32,
    entries: Vec<EntryIndex>,
}

/// Hits and misses since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Look-ups that found the key.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Records that were dropped for room.
    pub evictions: u64,
}

/// See the module's documentation.
pub struct Records {
    table: HashTable<EntryIndex>,
    entries: Entries,
    free: Vec<EntryIndex>,
    /// Entries of `meta` that have a value, by physical database.
    present: [usize; DATABASE_COUNT],
    /// Entries of `meta` that have left the table although the disk has their keys, or may have.
    keys_left: u64,
    /// The table has every key of the shard as long as this is the number of those that have left.
    complete_at: Option<u64>,
    small: Fifo,
    main: Fifo,
    /// Hashes of records that left the small queue unused: one that comes back goes to the main queue at once.
    ghosts: VecDeque<u32>,
    ghost_set: hashbrown::HashSet<u32, foldhash::fast::RandomState>,
    bytes: usize,
    bytes_max: usize,
    /// The changed records, in the order of first writing.
    staged: Vec<EntryIndex>,
    /// Never less than the bytes of what is staged.
    staged_bytes: usize,
    /// What was logged and not worked off, by segment, in their order.
    logged: VecDeque<SegmentList>,
    /// All that are not clean, in the order of their keys.
    overlay: Overlay,
    /// The bytes of those.
    unclean_bytes: usize,
    open_ranges: OpenRanges,
    /// How to take back what is staged: of commands that are over only what leads to the first change of each record
    /// that stages the whole.
    undo: Vec<Undo>,
    /// The bytes of those that have changed bytes.
    undo_bytes: Vec<u8>,
    /// Where the changes of the running command begin.
    command_undo: usize,
    counters: Counters,
    /// The tables that this one has replaced ([`Records::delete_everything`]), oldest first, while that can be taken
    /// back.
    replaced: Vec<Arc<Records>>,
    /// Those that are of no use any more but to open ranges.
    discarded: Vec<Arc<Records>>,
}

impl Records {
    /// An empty table that keeps at most about `bytes_max` of clean records, and no more than [`ENTRIES_MAX`] of
    /// them.
    pub fn new(bytes_max: usize) -> Records {
        let bytes_max = bytes_max.min(ENTRIES_MAX * ENTRY_BYTES);
        Records {
            table: HashTable::new(),
            entries: Entries::default(),
            free: Vec::new(),
            present: [0; DATABASE_COUNT],
            keys_left: 0,
            complete_at: None,
            small: Fifo::EMPTY,
            main: Fifo::EMPTY,
            ghosts: VecDeque::new(),
            ghost_set: hashbrown::HashSet::default(),
            bytes: 0,
            bytes_max,
            staged: Vec::new(),
            staged_bytes: 0,
            logged: VecDeque::new(),
            overlay: Overlay::default(),
            unclean_bytes: 0,
            open_ranges: OpenRanges::default(),
            undo: Vec::new(),
            undo_bytes: Vec::new(),
            command_undo: 0,
            counters: Counters::default(),
            replaced: Vec::new(),
            discarded: Vec::new(),
        }
    }

    /// Looks a key up and counts the use.
    #[inline]
    pub fn find(&mut self, hash: u64, column: Column, key: &[u8]) -> Option<EntryIndex> {
        let found = self.index_of(hash, column, key);
        match found {
            Some(index) => {
                self.counters.hits += 1;
                let entry = &mut self.entries[index];
                entry.uses = (entry.uses + 1).min(USES_MAX);
            }
            None => self.counters.misses += 1,
        }
        found
    }

    /// The entry of a key, which is no use of it.
    #[inline]
    fn index_of(&self, hash: u64, column: Column, key: &[u8]) -> Option<EntryIndex> {
        let is_it = |index: &EntryIndex| {
            let entry = &self.entries[*index];
            entry.column == column && entry.key() == key
        };
        self.table.find(table_hash(hash as u32), is_it).copied()
    }

    /// The record of a key that is in the table, which is no use of it.
    pub(super) fn look_at(&self, hash: u64, column: Column, key: &[u8]) -> Option<&[u8]> {
        self.value(self.index_of(hash, column, key)?)
    }

    /// An entry that may be the one of a hash, without a look at it.
    #[inline]
    pub(super) fn candidate(&self, hash: u64) -> Option<EntryIndex> {
        self.table.find(table_hash(hash as u32), |_| true).copied()
    }

    /// Reads something of an entry.
    #[inline]
    pub(super) fn touch_entry(&self, index: EntryIndex) -> u64 {
        self.entries[index].touch()
    }

    /// Reads something of what an entry points to. Returns also the version of its record, if it has one.
    #[inline]
    pub(super) fn touch_record(&self, index: EntryIndex) -> (u64, Option<u64>) {
        let entry = &self.entries[index];
        (entry.touch_body(), entry.value().and_then(encoding::version_of))
    }

    /// Reads something of what an entry points to, and the byte at an offset.
    #[inline]
    pub(super) fn touch_byte(&self, index: EntryIndex, at: usize) -> u64 {
        let entry = &self.entries[index];
        let byte = entry.value().and_then(|value| value.get(at));
        entry.touch_body() ^ byte.copied().map_or(0, u64::from)
    }

    /// The stored form of an entry's record; `None` if the key was deleted.
    #[inline]
    pub fn value(&self, index: EntryIndex) -> Option<&[u8]> {
        self.entries[index].value()
    }

    /// The epoch that wrote an entry; 0 for one that was read from disk, which has nothing that is not durable.
    #[inline]
    pub fn epoch(&self, index: EntryIndex) -> u64 {
        self.entries[index].epoch
    }

    /// Keeps a record that was read from disk (`value`, its stored form). Records above [`RECORD_BYTES_KEPT_MAX`] are
    /// the caller's to hold.
    pub fn keep(&mut self, hash: u64, column: Column, key: &[u8], value: Vec<u8>) -> EntryIndex {
        self.make_room(STEPS_PER_RECORD);
        let index = self.insert((hash, column), key, Some(value));
        self.admit(index);
        index
    }

    /// Stages a record (`None`: a deletion) in `epoch`. `index` is the key's entry, if it has one; `hash_and_column`
    /// are the key's.
    pub fn stage(
        &mut self,
        index: Option<EntryIndex>,
        hash_and_column: (u64, Column),
        key: &[u8],
        value: Option<Cow<'_, [u8]>>,
        epoch: u64,
    ) {
        self.staged_bytes += staged_size(key, value.as_deref());
        let index = index.unwrap_or_else(|| self.insert(hash_and_column, key, None));
        let (epoch, staged_before) = self.begin_change(index, Staged::Whole, epoch);
        let overwritten = match &value {
            Some(Cow::Borrowed(new)) => self.overwrite(index, new),
            Some(Cow::Owned(_)) | None => None,
        };
        let old = overwritten.unwrap_or_else(|| {
            let body = Body::new(key, value.map(|value| with_room_for(value, key)));
            Old::Body(self.replace(index, body))
        });
        self.undo.push(Undo {
            entry: index,
            old,
            epoch,
            staged_before,
        });
    }

    /// Lets a value take the place of the one that an entry has, if that is as long: most records stay as long as they
    /// are, and need no new allocation.
    #[inline]
    fn overwrite(&mut self, index: EntryIndex, new: &[u8]) -> Option<Old> {
        let value = self.entries[index].value_mut()?;
        if value.len() != new.len() {
            return None;
        }
        let kept_at = self.undo_bytes.len();
        self.undo_bytes.extend_from_slice(value);
        value.copy_from_slice(new);
        Some(Old::Copied(kept_at..self.undo_bytes.len()))
    }

    /// Stages, in `epoch`, that from `offset` on the value of an entry, which has one, becomes `bytes`; a shorter value
    /// grows with zeros. Returns whether the next frame must say so: it need not if it has the whole value.
    pub fn patch(&mut self, index: EntryIndex, (offset, bytes): (usize, &[u8]), epoch: u64) -> bool {
        let staged = match self.entries[index].staged {
            Staged::Whole => Staged::Whole,
            Staged::Nothing | Staged::Patches => Staged::Patches,
        };
        let (epoch, staged_before) = self.begin_change(index, staged, epoch);
        let entry = &mut self.entries[index];
        let value = entry.value().expect("a value of which bytes are changed");
        let (value_len, kept_at, end) = (value.len(), self.undo_bytes.len(), offset + bytes.len());
        self.undo_bytes
            .extend_from_slice(&value[offset.min(value_len)..end.min(value_len)]);
        if end > value_len {
            entry.resize_value(end);
        }
        entry.value_mut().expect("it has a value")[offset..end].copy_from_slice(bytes);
        self.resized(index, value_len, value_len.max(end));
        let old = Old::Bytes {
            offset,
            value_len,
            kept: kept_at..self.undo_bytes.len(),
        };
        self.undo.push(Undo {
            entry: index,
            old,
            epoch,
            staged_before,
        });
        staged != Staged::Whole
    }

    /// An entry is about to be changed in `epoch`, and to be staged so. Returns the epoch of its last change, and what
    /// was staged of it.
    fn begin_change(&mut self, index: EntryIndex, staged: Staged, epoch: u64) -> (u64, Staged) {
        let entry = &self.entries[index];
        let is_clean = entry.is_clean();
        if !self.open_ranges.is_empty() {
            self.open_ranges.save(entry.column, entry.key(), || match is_clean {
                true => Saved::OnDisk,
                false => Saved::InTable(entry.value().map(<[u8]>::to_vec)),
            });
        }
        if is_clean {
            let entries = &self.entries;
            self.overlay
                .insert(entry.column, entry.key(), index, |index| entries[index].key());
            self.unclean_bytes += entry.size();
        }
        let entry = &mut self.entries[index];
        let staged_before = std::mem::replace(&mut entry.staged, staged);
        if staged_before == Staged::Nothing {
            self.staged.push(index);
        }
        (std::mem::replace(&mut entry.epoch, epoch), staged_before)
    }

    /// The running command is over and its writes stand, until the frame that they are for is written or not.
    #[inline]
    pub fn keep_command(&mut self) {
        if self.undo.len() == self.command_undo {
            return;
        }
        // Whoever takes back more than this command takes back all that is staged.
        let mut kept = self.command_undo;
        for index in self.command_undo..self.undo.len() {
            if self.undo[index].staged_before != Staged::Whole {
                self.undo.swap(kept, index);
                kept += 1;
            }
        }
        self.undo.truncate(kept);
        self.command_undo = kept;
    }

    /// Whether the running command has staged anything.
    pub fn command_staged(&self) -> bool {
        self.changes() > 0
    }

    /// How many changes the running command has made.
    #[inline]
    pub fn changes(&self) -> usize {
        self.undo.len() - self.command_undo
    }

    /// The running command failed, or a part of it: takes back all its writes but the first `kept`. `undone` is told of
    /// each.
    pub fn roll_back_command(&mut self, kept: usize, undone: impl FnMut(Undone<'_>)) {
        self.roll_back_to(self.command_undo + kept, undone);
    }

    /// Nothing that is staged will be logged: takes all of it back. `undone` is told of each record, but for those of
    /// tables that go with what they were to have.
    pub fn roll_back_staged(&mut self, undone: impl FnMut(Undone<'_>)) {
        while !self.replaced.is_empty() {
            self.undo_delete_everything();
        }
        self.roll_back_to(0, undone);
        assert!(self.staged.is_empty(), "what is staged can be taken back");
        (self.command_undo, self.staged_bytes) = (0, 0);
    }

    fn roll_back_to(&mut self, kept: usize, mut undone: impl FnMut(Undone<'_>)) {
        while self.undo.len() > kept {
            let Some(undo) = self.undo.pop() else { return };
            let replaced = match undo.old {
                Old::Body(body) => Some(self.replace(undo.entry, body)),
                Old::Copied(kept) => {
                    let value = self.undo_bytes[kept.clone()].to_vec();
                    self.undo_bytes.truncate(kept.start);
                    let body = Body::new(self.entries[undo.entry].key(), Some(value));
                    Some(self.replace(undo.entry, body))
                }
                Old::Bytes {
                    offset,
                    value_len,
                    kept,
                } => {
                    self.put_bytes_back(undo.entry, (offset, value_len), kept);
                    None
                }
            };
            let entry = &mut self.entries[undo.entry];
            (entry.epoch, entry.staged) = (undo.epoch, undo.staged_before);
            let restored = entry.value();
            undone(Undone {
                column: entry.column,
                key: entry.key(),
                staged: replaced.as_ref().map_or(restored, Body::value),
                restored,
            });
            if undo.staged_before != Staged::Nothing {
                continue;
            }
            let last = self.staged.pop();
            assert_eq!(last, Some(undo.entry), "writes are undone newest first");
            if entry.segment == 0 {
                self.leave_overlay(undo.entry);
                // RocksDB may have got the entry meanwhile.
                match self.entries[undo.entry].has_value() {
                    false => self.remove(undo.entry),
                    true => self.keep_or_forget(undo.entry),
                }
            }
        }
    }

    /// The bytes that are `kept`, the last of all, stand at `offset` again, in a value of `value_len` bytes.
    fn put_bytes_back(&mut self, index: EntryIndex, (offset, value_len): (usize, usize), kept: Range<usize>) {
        let entry = &mut self.entries[index];
        let len_changed = entry.value_len();
        if len_changed != value_len {
            entry.resize_value(value_len);
        }
        let value = entry.value_mut().expect("a value of which bytes were changed");
        if let Some(place) = value.get_mut(offset..) {
            place[..kept.len()].copy_from_slice(&self.undo_bytes[kept.clone()]);
        }
        self.undo_bytes.truncate(kept.start);
        self.resized(index, len_changed, value_len);
    }

    fn leave_overlay(&mut self, index: EntryIndex) {
        let entry = &self.entries[index];
        self.unclean_bytes -= entry.size();
        self.overlay.remove(entry.column, entry.key(), index);
    }

    /// What is staged: keys with their records, `None` for a deletion, in the order of first writing; not those of
    /// which only bytes were changed, as [`Records::patch`] says.
    pub fn staged(&self) -> impl Iterator<Item = (Column, &[u8], Option<&[u8]>)> {
        let entries = self.staged.iter().map(|index| &self.entries[*index]);
        let whole = entries.filter(|entry| entry.staged == Staged::Whole);
        whole.map(|entry| (entry.column, entry.key(), entry.value()))
    }

    /// What RocksDB does not have yet from the key `from` to before `to`, in the order of the keys or backwards.
    pub fn unclean<'a, 'b>(
        &'a self,
        column: Column,
        range: (&'b [u8], &'b [u8]),
        direction: Direction,
    ) -> impl Iterator<Item = Unclean<'a>> + use<'a, 'b> {
        let entries: &'a Entries = &self.entries;
        let key_of = move |index| entries[index].key();
        self.overlay.range(column, range, direction, key_of).map(move |index| {
            let entry = &entries[index];
            Unclean {
                key: entry.key(),
                value: entry.value(),
                epoch: entry.epoch,
            }
        })
    }

    /// Opens a range, so that what is in it now can be read while others write there.
    pub fn open_range(&mut self, column: Column, range: (&[u8], &[u8]), direction: Direction) -> SavedRange {
        self.open_ranges.open(column, range, direction)
    }

    /// The bytes of what RocksDB does not have yet.
    pub fn unclean_bytes(&self) -> usize {
        self.unclean_bytes
    }

    /// How many records RocksDB does not have yet.
    #[cfg(test)]
    fn unclean_len(&self) -> usize {
        self.overlay.len()
    }

    /// Whether anything is staged.
    #[inline]
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// At least as many bytes as are staged: what was staged twice, or taken back, counts until the frame.
    #[inline]
    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Counts the bytes that are staged.
    pub fn count_staged_bytes(&mut self) {
        self.staged_bytes = self.staged().map(|(_, key, value)| staged_size(key, value)).sum();
    }

    /// How many records are staged.
    pub fn staged_len(&self) -> usize {
        self.staged.len()
    }

    /// What is staged was logged in `segment`.
    pub fn logged(&mut self, segment: u32) {
        assert!(segment > 0, "the segments of a log are counted from one");
        let has_list = self.logged.back().is_some_and(|last| last.segment == segment);
        if !has_list {
            assert!(
                self.logged.back().is_none_or(|last| last.segment < segment),
                "segments are written one after the other"
            );
            self.logged.push_back(SegmentList {
                segment,
                entries: Vec::new(),
            });
        }
        let list = &mut self.logged.back_mut().expect("there is a list of the segment").entries;
        for index in self.staged.drain(..) {
            let entry = &mut self.entries[index];
            assert!(entry.staged != Staged::Nothing, "what is staged is staged once");
            entry.staged = Staged::Nothing;
            if entry.segment != segment {
                entry.segment = segment;
                list.push(index);
            }
        }
        self.forget_undo();
        self.discarded.append(&mut self.replaced);
    }

    /// What was staged stands.
    fn forget_undo(&mut self) {
        self.undo.clear();
        self.undo_bytes.clear();
        self.undo_bytes.shrink_to(UNDO_BYTES_KEPT_MAX);
        (self.command_undo, self.staged_bytes) = (0, 0);
    }

    /// What is staged was written to RocksDB at once, without a log: all of it is clean.
    pub fn written_through(&mut self) {
        self.forget_undo();
        self.discarded.append(&mut self.replaced);
        for index in std::mem::take(&mut self.staged) {
            self.entries[index].staged = Staged::Nothing;
            if self.entries[index].segment == 0 {
                self.become_clean(index, true);
            }
        }
    }

    /// RocksDB has all that was logged in segments up to `watermark`: works off up to `records_max` records that may be
    /// clean now. Those of which `is_elsewhere` says that they are in memory elsewhere, too, go. Returns how many were
    /// looked at: fewer, if nothing is left to do.
    pub fn work_off(
        &mut self,
        watermark: u32,
        records_max: usize,
        mut is_elsewhere: impl FnMut(Column, &[u8]) -> bool,
    ) -> usize {
        self.open_ranges.forget_closed();
        let mut looked_at = 0;
        while looked_at < records_max
            && let Some(list) = self.logged.front_mut()
            && list.segment <= watermark
        {
            let segment = list.segment;
            let Some(index) = list.entries.pop() else {
                self.logged.pop_front();
                continue;
            };
            looked_at += 1;
            let entry = &mut self.entries[index];
            if entry.segment != segment {
                // It was written again in a later segment.
                continue;
            }
            entry.segment = 0;
            if entry.staged == Staged::Nothing {
                let is_kept = !is_elsewhere(entry.column, entry.key());
                self.become_clean(index, is_kept);
            }
        }
        looked_at
    }

    /// Whether this table has replaced another, and that can be taken back.
    pub fn is_replacement(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// The last segment of which nothing is left to be worked off, when RocksDB has those up to `watermark`.
    pub fn worked_off_to(&self, watermark: u32) -> u32 {
        match self.logged.front() {
            Some(list) => watermark.min(list.segment - 1),
            None => watermark,
        }
    }

    /// Lets go of a record that is in memory elsewhere, if it is clean.
    pub fn forget_clean(&mut self, hash: u64, column: Column, key: &[u8]) {
        if let Some(index) = self.index_of(hash, column, key)
            && self.entries[index].is_clean()
        {
            self.forget(index);
        }
    }

    /// An entry may leave from now on, and leaves at once if it is of no use, or not to be kept.
    fn become_clean(&mut self, index: EntryIndex, is_kept: bool) {
        let entry = &self.entries[index];
        self.open_ranges.save(entry.column, entry.key(), || {
            Saved::InTable(entry.value().map(<[u8]>::to_vec))
        });
        self.leave_overlay(index);
        match is_kept {
            true => self.keep_or_forget(index),
            false => self.forget(index),
        }
        self.make_room(STEPS_PER_RECORD);
    }

    /// An entry is clean: it enters a queue, or goes at once if it is of no use.
    fn keep_or_forget(&mut self, index: EntryIndex) {
        let entry = &self.entries[index];
        let is_member_or_key = matches!(entry.column, Column::Meta | Column::Data | Column::Score);
        let is_kept = is_member_or_key && entry.value().is_some_and(|value| value.len() <= RECORD_BYTES_KEPT_MAX);
        if !is_kept {
            self.forget(index);
        } else if entry.queue == Queue::None {
            self.admit(index);
        }
    }

    /// Deletes, in `epoch`, all records that `is_chosen` selects by column and key: their range on disk is about to be
    /// deleted. Those that are clean are forgotten; of the others a deletion is staged, which can be taken back.
    pub fn delete_all(&mut self, epoch: u64, is_chosen: impl Fn(Column, &[u8]) -> bool) {
        let chosen: Vec<EntryIndex> = self
            .table
            .iter()
            .copied()
            .filter(|index| {
                let entry = &self.entries[*index];
                is_chosen(entry.column, entry.key())
            })
            .collect();
        for index in chosen {
            let entry = &self.entries[index];
            if entry.is_clean() {
                // The deletion of the range can be taken back.
                self.keys_left += u64::from(entry.is_key());
                self.remove(index);
            } else if entry.has_value() {
                let (hash, column, key) = (u64::from(entry.hash), entry.column, entry.key().to_vec());
                self.stage(Some(index), (hash, column), &key, None, epoch);
            }
        }
    }

    /// Deletes all records but those of `system`, as [`Records::delete_all`] does, at once: they stay behind in the
    /// table as it is, and an empty one takes its place until that is logged or taken back. Ranges that are open go on
    /// reading the one that they were opened on.
    pub fn delete_everything(&mut self) {
        let mut old = std::mem::replace(self, Records::new(self.bytes_max));
        self.counters = old.counters;
        self.keys_left = old.keys_left;
        self.open_ranges = std::mem::take(&mut old.open_ranges);
        self.replaced = std::mem::take(&mut old.replaced);
        self.discarded = std::mem::take(&mut old.discarded);
        self.take_system_over(&old);
        let old = Arc::new(old);
        self.open_ranges.freeze(&old);
        self.replaced.push(old);
    }

    /// What RocksDB does not have of `system` comes from another table; what that has more is clean.
    fn take_system_over(&mut self, old: &Records) {
        let mut logged = Vec::new();
        let key_of = |index: EntryIndex| old.entries[index].key();
        // Keys of `system` begin with a letter.
        for index in old
            .overlay
            .range(Column::System, (&[], &[0xff]), Direction::Forward, key_of)
        {
            let old = &old.entries[index];
            let (key, value, segment) = (old.key(), old.value(), old.segment);
            let hash_and_column = (u64::from(old.hash), Column::System);
            let new = self.insert(hash_and_column, key, value.map(<[u8]>::to_vec));
            let entry = &mut self.entries[new];
            (entry.epoch, entry.segment, entry.staged) = (old.epoch, segment, old.staged);
            self.unclean_bytes += entry.size();
            let entries = &self.entries;
            self.overlay
                .insert(Column::System, key, new, |index| entries[index].key());
            if old.staged != Staged::Nothing {
                self.staged.push(new);
                self.staged_bytes += staged_size(key, value);
            }
            if segment > 0 {
                logged.push((segment, new));
            }
        }
        logged.sort_unstable();
        for of_segment in logged.chunk_by(|(one, _), (other, _)| one == other) {
            self.logged.push_back(SegmentList {
                segment: of_segment[0].0,
                entries: of_segment.iter().map(|(_, index)| *index).collect(),
            });
        }
    }

    /// Takes the last [`Records::delete_everything`] back, with all that was staged since.
    ///
    /// # Panics
    /// If there is none that is not logged.
    pub fn undo_delete_everything(&mut self) {
        let old = self
            .replaced
            .pop()
            .expect("a table that was replaced, and can come back");
        self.open_ranges.thaw(&old);
        let old =
            Arc::try_unwrap(old).unwrap_or_else(|_| unreachable!("only open ranges have a table that was replaced"));
        let new = std::mem::replace(self, old);
        self.counters = new.counters;
        self.open_ranges = new.open_ranges;
        self.replaced = new.replaced;
        self.discarded = new.discarded;
    }

    /// Tables that nobody reads any more: to drop them takes long, as each has all its records still.
    pub fn take_discarded(&mut self) -> Vec<Records> {
        let (mut free, mut read) = (Vec::new(), Vec::new());
        for table in std::mem::take(&mut self.discarded) {
            match Arc::try_unwrap(table) {
                Ok(table) => free.push(table),
                Err(table) => read.push(table),
            }
        }
        self.discarded = read;
        free
    }

    /// Changes how many bytes of clean records there may be; makes some room, if there are more, and more of it for
    /// each record that comes in.
    #[inline]
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max.min(ENTRIES_MAX * ENTRY_BYTES);
        self.make_room(STEPS_PER_CHANGE);
    }

    /// Bytes of keys, values and entries.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hits, misses and evictions.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The number of records in memory.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// The number of keys that exist and are in memory.
    pub fn present(&self) -> usize {
        self.present.iter().sum()
    }

    /// How many of them belong to a physical database.
    pub fn present_in(&self, physical: u8) -> usize {
        self.present[database_of(&[physical])]
    }

    /// Whether every key of the shard is in the table, so that one that is not there does not exist. This is known from
    /// what the table has let go, and not from any count.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.complete_at == Some(self.keys_left)
    }

    /// The disk has no keys but those that are in the table.
    pub fn set_complete(&mut self) {
        self.complete_at = Some(self.keys_left);
    }

    /// How many keys have left the table although the disk has them, or may have.
    pub fn keys_left(&self) -> u64 {
        self.keys_left
    }

    /// When `keys_left` keys had left the table, the disk had no others than those in the table.
    pub fn set_complete_since(&mut self, keys_left: u64) {
        self.complete_at = Some(keys_left);
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn insert(&mut self, (hash, column): (u64, Column), key: &[u8], value: Option<Vec<u8>>) -> EntryIndex {
        let hash = hash as u32;
        let entry = Entry::new(hash, column, Body::new(key, value));
        self.bytes += entry.size();
        self.present[database_of(key)] += usize::from(entry.is_key());
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index] = entry;
                index
            }
            None => self.entries.push(entry),
        };
        let entries = &self.entries;
        self.table
            .insert_unique(table_hash(hash), index, |index| table_hash(entries[*index].hash));
        index
    }

    /// Puts another record of an entry's key in place and gives the old one back.
    fn replace(&mut self, index: EntryIndex, body: Body) -> Body {
        let entry = &mut self.entries[index];
        let old = entry.replace(body);
        let (new_len, old_len) = (entry.value_len(), old.value().map_or(0, <[u8]>::len));
        if entry.column == Column::Meta {
            let present = &mut self.present[database_of(entry.key())];
            *present = *present + usize::from(entry.has_value()) - usize::from(old.value().is_some());
        }
        self.resized(index, old_len, new_len);
        old
    }

    /// An entry's value has become shorter or longer.
    fn resized(&mut self, index: EntryIndex, old_len: usize, new_len: usize) {
        let entry = &self.entries[index];
        self.bytes = self.bytes + new_len - old_len;
        if !entry.is_clean() {
            self.unclean_bytes = self.unclean_bytes + new_len - old_len;
        }
        match entry.queue {
            Queue::None => {}
            Queue::Small => self.small.bytes = self.small.bytes + new_len - old_len,
            Queue::Main => self.main.bytes = self.main.bytes + new_len - old_len,
        }
    }

    fn enqueue(&mut self, index: EntryIndex, queue: Queue) {
        self.entries[index].queue = queue;
        match queue {
            Queue::None => {}
            Queue::Small => self.small.push(&mut self.entries, index),
            Queue::Main => self.main.push(&mut self.entries, index),
        }
    }

    fn unlink(&mut self, index: EntryIndex) {
        match std::mem::replace(&mut self.entries[index].queue, Queue::None) {
            Queue::None => {}
            Queue::Small => self.small.unlink(&mut self.entries, index),
            Queue::Main => self.main.unlink(&mut self.entries, index),
        }
    }

    /// Gives a clean entry that is in no queue its first place.
    fn admit(&mut self, index: EntryIndex) {
        let returns = self.ghost_set.remove(&self.entries[index].hash);
        self.enqueue(index, if returns { Queue::Main } else { Queue::Small });
    }

    /// Removes a clean entry: whoever looks for its key from now on asks the disk.
    fn forget(&mut self, index: EntryIndex) {
        self.keys_left += u64::from(self.entries[index].is_key());
        self.remove(index);
    }

    fn remove(&mut self, index: EntryIndex) {
        self.unlink(index);
        let entry = &mut self.entries[index];
        assert!(entry.is_clean(), "an entry stays until RocksDB has it");
        let (size, key) = (entry.size(), usize::from(entry.is_key()));
        assert!(
            self.bytes >= size && self.present[database_of(entry.key())] >= key,
            "the table counts the bytes and keys of its entries"
        );
        self.bytes -= size;
        self.present[database_of(entry.key())] -= key;
        if let Ok(found) = self.table.find_entry(table_hash(entry.hash), |other| *other == index) {
            found.remove();
        }
        entry.clear();
        self.free.push(index);
    }

    fn make_room(&mut self, mut steps_left: usize) {
        while self.bytes > self.bytes_max && steps_left > 0 {
            steps_left -= 1;
            let from_small =
                self.small.bytes > self.bytes_max / 100 * SMALL_QUEUE_PERCENT || self.main.oldest == NO_ENTRY;
            let index = if from_small {
                self.small.oldest
            } else {
                self.main.oldest
            };
            if index == NO_ENTRY {
                return;
            }
            let entry = &mut self.entries[index];
            if !entry.is_clean() || entry.uses > 0 {
                entry.uses = if from_small { 0 } else { entry.uses.saturating_sub(1) };
                self.unlink(index);
                self.enqueue(index, Queue::Main);
                continue;
            }
            if from_small {
                let hash = entry.hash;
                self.remember_ghost(hash);
            }
            self.counters.evictions += 1;
            self.forget(index);
        }
    }

    fn remember_ghost(&mut self, hash: u32) {
        // As many ghosts as there are records, as in the paper.
        while self.ghosts.len() > self.table.len() {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
        self.ghosts.push_back(hash);
        self.ghost_set.insert(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;
    use rand::rngs::StdRng;
    use std::collections::BTreeMap;

    fn hash(key: &[u8]) -> u64 {
        key.iter()
            .fold(7u64, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn stage(records: &mut Records, key: &[u8], value: Option<&[u8]>, epoch: u64) {
        let index = records.find(hash(key), Column::Meta, key);
        records.stage(index, (hash(key), Column::Meta), key, value.map(Cow::Borrowed), epoch);
    }

    fn value<'a>(records: &'a mut Records, key: &[u8]) -> Option<&'a [u8]> {
        let index = records.find(hash(key), Column::Meta, key)?;
        records.value(index)
    }

    #[test]
    fn a_failed_command_leaves_what_an_earlier_one_of_the_turn_staged() {
        let mut records = Records::new(1 << 20);
        stage(&mut records, b"000a", Some(b"1"), 1);
        records.keep_command();
        stage(&mut records, b"000a", Some(b"2"), 1);
        stage(&mut records, b"000b", Some(b"3"), 1);
        stage(&mut records, b"000a", None, 1);
        let mut undone = Vec::new();
        records.roll_back_command(0, |undo| {
            undone.push((undo.key.to_vec(), undo.staged.map(<[u8]>::to_vec)))
        });
        assert_eq!(
            undone,
            [
                (b"000a".to_vec(), None),
                (b"000b".to_vec(), Some(b"3".to_vec())),
                (b"000a".to_vec(), Some(b"2".to_vec()))
            ]
        );
        assert_eq!(value(&mut records, b"000a"), Some(&b"1"[..]));
        assert_eq!(value(&mut records, b"000b"), None);
        assert_eq!(
            records.staged().collect::<Vec<_>>(),
            [(Column::Meta, &b"000a"[..], Some(&b"1"[..]))]
        );
        records.roll_back_staged(|_| {});
        assert!(records.is_empty() && !records.has_staged());
        assert_eq!((records.bytes(), records.unclean_bytes), (0, 0));
    }

    /// What a command of the test does to a value.
    fn change(random: &mut StdRng, records: &mut Records, epoch: u64) {
        let key = [b"000a", b"000b", b"000c"][random.random_range(0..3)];
        let index = records.find(hash(key), Column::Meta, key);
        match index.filter(|index| records.value(*index).is_some() && random.random_bool(0.8)) {
            Some(index) => {
                let (offset, bytes) = (
                    random.random_range(0..30),
                    vec![random.random(); random.random_range(0..9)],
                );
                records.patch(index, (offset, &bytes), epoch);
            }
            None => {
                let value = vec![random.random(); random.random_range(0..20)];
                stage(records, key, Some(&value[..]).filter(|value| value.len() > 2), epoch);
            }
        }
    }

    #[test]
    fn bytes_that_were_changed_come_back_whatever_else_was_staged() {
        let mut random = seeded_random::printed();
        let mut records = Records::new(1 << 20);
        let state = |records: &Records| {
            let bytes = (
                records.bytes(),
                records.unclean_bytes,
                records.small.bytes,
                records.main.bytes,
            );
            (contents(records), records.staged.clone(), bytes)
        };
        for turn in 1..300_u32 {
            let epoch = u64::from(turn);
            if random.random_bool(0.5) {
                while records.work_off(turn - 1, 10, |_, _| false) > 0 {}
            }
            let before_turn = contents(&records);
            for _ in 0..random.random_range(0..8) {
                let before_command = state(&records);
                for _ in 0..random.random_range(0..5) {
                    change(&mut random, &mut records, epoch);
                }
                let before_part = (state(&records), records.changes());
                for _ in 0..random.random_range(0..5) {
                    change(&mut random, &mut records, epoch);
                }
                match random.random_range(0..6) {
                    0 => {
                        records.roll_back_command(0, |_| {});
                        assert_eq!(state(&records), before_command);
                    }
                    1 => {
                        records.roll_back_command(before_part.1, |_| {});
                        assert_eq!(state(&records), before_part.0);
                    }
                    _ => {}
                }
                records.keep_command();
            }
            if random.random_bool(0.3) {
                records.roll_back_staged(|_| {});
                assert_eq!(contents(&records), before_turn);
            }
            records.logged(turn);
            assert!(records.undo_bytes.is_empty());
        }
        while records.work_off(300, 10, |_, _| false) > 0 {}
        assert_eq!((records.unclean_len(), records.unclean_bytes), (0, 0));
    }

    #[test]
    fn the_next_frame_says_which_bytes_were_changed_unless_it_has_the_whole() {
        let mut records = Records::new(1 << 20);
        let patch = |records: &mut Records, offset, bytes: &[u8]| {
            let index = records.find(hash(b"000a"), Column::Meta, b"000a").expect("an entry");
            records.patch(index, (offset, bytes), 1)
        };
        stage(&mut records, b"000a", Some(b"123"), 1);
        assert!(!patch(&mut records, 1, b"x"));
        assert_eq!(records.staged().count(), 1);
        records.logged(1);
        assert!(patch(&mut records, 5, b"y"));
        records.keep_command();
        assert_eq!((records.staged().count(), records.has_staged()), (0, true));
        assert_eq!(value(&mut records, b"000a"), Some(&b"1x3\0\0y"[..]));
        stage(&mut records, b"000a", Some(b"4"), 1);
        assert!(!patch(&mut records, 0, b"5"));
        assert_eq!(records.staged().count(), 1);
        records.roll_back_command(0, |_| {});
        assert!(patch(&mut records, 0, b"0"));
        assert_eq!(records.staged().count(), 0);
        // What was logged last decides when it is clean.
        records.logged(2);
        assert_eq!((records.work_off(1, 10, |_, _| false), records.unclean_len()), (1, 1));
        assert_eq!((records.work_off(2, 10, |_, _| false), records.unclean_len()), (1, 0));
        assert_eq!(value(&mut records, b"000a"), Some(&b"0x3\0\0y"[..]));
    }

    #[test]
    fn memory_stays_within_its_bound_and_what_is_hot_survives_a_scan() {
        let mut records = Records::new(100_000);
        for round in 0..20_000_u32 {
            let key = format!("000scan{round}");
            if value(&mut records, key.as_bytes()).is_none() {
                records.keep(hash(key.as_bytes()), Column::Meta, key.as_bytes(), vec![0; 50]);
            }
            let hot = format!("000hot{}", round % 20);
            if value(&mut records, hot.as_bytes()).is_none() {
                records.keep(hash(hot.as_bytes()), Column::Meta, hot.as_bytes(), vec![1; 50]);
            }
            assert!(records.bytes() <= 100_000 + 300);
        }
        let hot_left = (0..20)
            .filter(|n| value(&mut records, format!("000hot{n}").as_bytes()).is_some())
            .count();
        assert_eq!(hot_left, 20);
        assert!(records.counters().evictions > 15_000);
    }

    #[test]
    fn a_command_that_stages_more_than_the_table_may_hold_takes_no_longer_per_key() {
        let mut records = Records::new(0);
        let began = std::time::Instant::now();
        for number in 0..100_000_u32 {
            let key = number.to_be_bytes();
            records.keep(hash(&key), Column::Meta, &key, vec![0; 8]);
            stage(&mut records, &key, Some(b"new"), 1);
        }
        // Minutes, if each key looks at all that are staged; far less than a second if not.
        assert!(began.elapsed().as_secs() < 20, "it took {:?}", began.elapsed());
        records.logged(1);
        assert_eq!(records.len(), 100_000, "what RocksDB has not stays");
        while records.work_off(1, 1000, |_, _| false) == 1000 {}
        assert_eq!((records.len(), records.bytes(), records.unclean_len()), (0, 0, 0));
    }

    #[test]
    fn a_record_stays_until_the_segment_of_its_last_write_is_in_rocksdb() {
        let mut records = Records::new(1 << 20);
        stage(&mut records, b"000a", Some(b"1"), 1);
        stage(&mut records, b"000b", None, 1);
        records.keep_command();
        records.logged(1);
        // A command that fails leaves the values that were logged, deletions too.
        stage(&mut records, b"000a", Some(b"x"), 2);
        stage(&mut records, b"000b", Some(b"x"), 2);
        records.roll_back_command(0, |_| {});
        assert_eq!(value(&mut records, b"000a"), Some(&b"1"[..]));
        let deleted = records.find(hash(b"000b"), Column::Meta, b"000b");
        assert_eq!(deleted.map(|index| records.value(index)), Some(None));
        stage(&mut records, b"000a", Some(b"2"), 2);
        records.keep_command();
        stage(&mut records, b"000a", Some(b"3"), 2);
        records.keep_command();
        // While it waits for the next frame, the one before goes to RocksDB.
        assert_eq!(records.work_off(1, 10, |_, _| false), 2);
        assert_eq!(records.unclean_len(), 1, "the deleted key is gone");
        // The frame is not written: back to what RocksDB has.
        records.roll_back_staged(|_| {});
        assert_eq!(value(&mut records, b"000a"), Some(&b"1"[..]));
        assert_eq!((records.len(), records.unclean_len(), records.unclean_bytes), (1, 0, 0));
        stage(&mut records, b"000a", Some(b"4"), 3);
        records.logged(2);
        stage(&mut records, b"000a", Some(b"5"), 4);
        records.logged(3);
        assert_eq!((records.work_off(2, 10, |_, _| false), records.unclean_len()), (1, 1));
        assert_eq!((records.work_off(3, 10, |_, _| false), records.unclean_len()), (1, 0));
        assert_eq!(value(&mut records, b"000a"), Some(&b"5"[..]));
    }

    fn unclean_keys(records: &Records, from: &[u8], to: &[u8], direction: Direction) -> Vec<Vec<u8>> {
        let found = records.unclean(Column::Meta, (from, to), direction);
        found.map(|record| record.key.to_vec()).collect()
    }

    #[test]
    fn ranges_of_what_rocksdb_lacks_are_those_of_a_model_whatever_fails_and_is_ingested() {
        let mut random = seeded_random::printed();
        let mut below = |bound: u64| random.random_range(0..bound);
        let mut records = Records::new(1 << 20);
        // By key, the segment of the last logged write (0: none) and whether it is staged.
        let mut model: BTreeMap<Vec<u8>, (u32, bool)> = BTreeMap::new();
        let (mut segment, mut watermark) = (1, 0);
        for epoch in 1..400_u64 {
            for _ in 0..below(30) {
                let writes: Vec<Vec<u8>> = (0..below(80))
                    .map(|_| {
                        // Most in one slot, the others in slots of their own.
                        let number = below(900);
                        let slot = if number < 600 { 0 } else { number % 300 };
                        [
                            &b"0"[..],
                            &(slot as u16).to_be_bytes(),
                            format!("{number:03}").as_bytes(),
                        ]
                        .concat()
                    })
                    .collect();
                for key in &writes {
                    let value = Some(b"v").filter(|_| below(4) > 0).map(|v| &v[..]);
                    stage(&mut records, key, value, epoch);
                }
                match below(5) {
                    0 => records.roll_back_command(0, |_| {}),
                    _ => {
                        records.keep_command();
                        writes
                            .into_iter()
                            .for_each(|key| model.entry(key).or_default().1 = true);
                    }
                }
                let mut end = || {
                    let slot = if below(2) == 0 { 0 } else { below(300) };
                    [
                        &b"0"[..],
                        &(slot as u16).to_be_bytes(),
                        format!("{:03}", below(600)).as_bytes(),
                    ]
                    .concat()
                };
                let (one, other) = (end(), end());
                let (from, to) = (one.clone().min(other.clone()), one.max(other));
                let range = from.clone()..to.clone();
                let expected: Vec<Vec<u8>> = model.range(range).map(|(key, _)| key.clone()).collect();
                let (from, to) = (&from[..], &to[..]);
                assert_eq!(unclean_keys(&records, from, to, Direction::Forward), expected);
                let mut backwards = unclean_keys(&records, from, to, Direction::Backward);
                backwards.reverse();
                assert_eq!(backwards, expected);
            }
            match below(5) {
                0 | 1 => {
                    segment += below(2) as u32;
                    records.logged(segment);
                    let staged = model.values_mut().filter(|(_, staged)| *staged);
                    staged.for_each(|state| *state = (segment, false));
                }
                2 => {
                    records.roll_back_staged(|_| {});
                    model.values_mut().for_each(|(_, staged)| *staged = false);
                    model.retain(|_, (segment, _)| *segment != 0);
                }
                3 => {
                    watermark += below(u64::from(segment - watermark) + 1) as u32;
                    while records.work_off(watermark, 7, |_, _| false) == 7 {}
                    for (segment, _) in model.values_mut().filter(|(segment, _)| *segment <= watermark) {
                        *segment = 0;
                    }
                    model.retain(|_, state| *state != (0, false));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn an_open_range_keeps_what_was_there_when_it_was_opened() {
        let mut records = Records::new(1 << 20);
        for key in [&b"000a"[..], b"000b", b"000c"] {
            stage(&mut records, key, Some(b"1"), 1);
        }
        records.logged(1);
        records.keep(hash(b"000d"), Column::Meta, b"000d", b"disk".to_vec());
        let range = records.open_range(Column::Meta, (b"000a", b"000z"), Direction::Forward);
        stage(&mut records, b"000a", Some(b"2"), 2);
        stage(&mut records, b"000a", Some(b"3"), 2);
        stage(&mut records, b"000d", None, 2);
        stage(&mut records, b"000e", Some(b"new"), 2);
        stage(&mut records, b"000zz", Some(b"outside"), 2);
        records.work_off(1, 2, |_, _| false);
        let in_table = |value: &[u8]| Saved::InTable(Some(value.to_vec()));
        let saved = |range: &SavedRange| -> Vec<(Vec<u8>, Saved)> {
            let cells = &range.lock().cells;
            cells.iter().map(|(key, saved)| (key.to_vec(), saved.clone())).collect()
        };
        assert_eq!(
            saved(&range),
            [
                (b"000a".to_vec(), in_table(b"1")),
                (b"000b".to_vec(), in_table(b"1")),
                (b"000c".to_vec(), in_table(b"1")),
                (b"000d".to_vec(), Saved::OnDisk),
                (b"000e".to_vec(), Saved::OnDisk)
            ]
        );
        // What the reader has passed is not saved any more.
        range.lock().pass(b"000d");
        stage(&mut records, b"000b", Some(b"2"), 2);
        assert_eq!(saved(&range), [(b"000e".to_vec(), Saved::OnDisk)]);
        drop(range);
        records.work_off(1, 1, |_, _| false);
        assert!(records.open_ranges.is_empty());
    }

    /// What a table has: each key with its value, and whether the disk knows.
    fn contents(records: &Records) -> Vec<(Vec<u8>, Option<Vec<u8>>, bool)> {
        let mut all: Vec<_> = records
            .table
            .iter()
            .map(|index| &records.entries[*index])
            .map(|entry| {
                (
                    entry.key().to_vec(),
                    entry.value().map(<[u8]>::to_vec),
                    entry.is_clean(),
                )
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_table_that_made_way_comes_back_as_it_was_or_is_given_back_when_no_range_is_open() {
        let mut records = Records::new(1 << 20);
        let stage_system = |records: &mut Records, key: &[u8], epoch| {
            let index = records.find(hash(key), Column::System, key);
            records.stage(
                index,
                (hash(key), Column::System),
                key,
                Some(Cow::Borrowed(b"s")),
                epoch,
            );
        };
        records.keep(hash(b"000disk"), Column::Meta, b"000disk", b"1".to_vec());
        stage(&mut records, b"000logged", Some(b"1"), 1);
        stage_system(&mut records, b"logged", 1);
        records.keep_command();
        records.logged(1);
        stage(&mut records, b"000logged", Some(b"2"), 2);
        stage_system(&mut records, b"staged", 2);
        records.keep_command();
        stage(&mut records, b"000of the command", Some(b"1"), 2);
        let range = records.open_range(Column::Meta, (b"000a", b"000z"), Direction::Forward);
        let (before, bytes) = (contents(&records), (records.bytes, records.unclean_bytes));
        let present = records.present();
        for commands in 0..2 {
            records.delete_everything();
            assert!(range.lock().table.is_some());
            let system = |key: &[u8]| (key.to_vec(), Some(b"s".to_vec()), false);
            assert_eq!(contents(&records), [system(b"logged"), system(b"staged")]);
            assert_eq!(records.present(), 0);
            assert_eq!(records.staged().map(|(_, key, _)| key).collect::<Vec<_>>(), [b"staged"]);
            stage(&mut records, b"000logged", Some(b"3"), 2);
            stage_system(&mut records, b"logged", 2);
            for _ in 0..commands {
                // Other commands of the turn, another FLUSHALL among them.
                records.keep_command();
                records.delete_everything();
                records.keep_command();
            }
            match commands {
                0 => records.undo_delete_everything(),
                _ => records.roll_back_staged(|_| {}),
            }
            assert!(range.lock().table.is_none());
            if commands == 0 {
                assert_eq!(contents(&records), before);
                assert_eq!(
                    (records.bytes, records.unclean_bytes, records.present()),
                    (bytes.0, bytes.1, present)
                );
                records.roll_back_command(0, |_| {});
                assert_eq!(value(&mut records, b"000logged"), Some(&b"2"[..]));
            }
        }
        assert_eq!(value(&mut records, b"000logged"), Some(&b"1"[..]));
        assert!(!records.has_staged());
        records.delete_everything();
        records.keep_command();
        records.logged(2);
        assert!(records.take_discarded().is_empty(), "the range reads it");
        assert_eq!(range.lock().table.as_ref().map(|table| table.len()), Some(3));
        drop(range);
        assert_eq!(records.take_discarded().len(), 1);
        assert_eq!(records.work_off(2, 10, |_, _| false), 1);
        assert_eq!((records.len(), records.bytes, records.unclean_bytes), (0, 0, 0));
    }

    #[test]
    fn a_turn_that_writes_and_reads_ranges_by_turns_takes_no_longer_per_command() {
        let mut records = Records::new(1 << 20);
        let began = std::time::Instant::now();
        for number in 0..200_000_u32 {
            // In an order that has nothing to do with that of the keys.
            let key = [&[0, 1, 2], &number.wrapping_mul(0x9e37_79b1).to_be_bytes()[..]].concat();
            stage(&mut records, &key, Some(b"v"), 1);
            records.keep_command();
            let first = records
                .unclean(Column::Meta, (&[0, 1, 2], &[0, 1, 3]), Direction::Forward)
                .next();
            assert!(first.is_some());
        }
        // Many minutes, if each read looks at all that are staged; a second if not.
        assert!(began.elapsed().as_secs() < 60, "it took {:?}", began.elapsed());
    }

    #[test]
    fn deleted_keys_leave_nothing_behind() {
        let mut records = Records::new(1 << 20);
        for segment in 1..5_000_u32 {
            stage(&mut records, b"000k", Some(b"v"), u64::from(segment));
            records.logged(segment);
            stage(&mut records, b"000k", None, u64::from(segment));
            records.logged(segment);
            records.work_off(segment, usize::MAX, |_, _| false);
        }
        assert_eq!((records.len(), records.bytes(), records.entries.len()), (0, 0, 1));
    }
}
