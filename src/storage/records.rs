//! A shard's table of records in memory: what is staged for the next commit, and the hot part of what is committed. The
//! records are those of `meta` and the members of collections.
//!
//! The shard has one writer, so the table is never stale and needs no lock; one probe answers whether a key was written
//! in this turn, is hot, or must be read from disk. Staged records stay until they are committed, which may be in
//! flight on another thread while the next ones are staged. Of the others, those
//! that fit in `bytes_max` stay by the S3-FIFO policy (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 2023): a record enters a small queue and only moves to the main one if it was used again, so that a scan
//! does not wash out what is hot.

use super::database::{Column, Direction};
use super::uncommitted::{UncommittedInRange, UncommittedList};
use hashbrown::HashTable;
use std::collections::VecDeque;

/// A larger record is dropped once it is committed and not kept when it is read: one such would displace thousands of
/// hot ones, and what is gained by not copying it from the block cache is small beside sending it.
pub const RECORD_BYTES_KEPT_MAX: usize = 64 * 1024;

/// What an entry costs beside its key and value: the entry, its place in the table and in a queue, two allocations.
const ENTRY_BYTES: usize = 128;

/// Uses that are counted per record; S3-FIFO needs no more than two bits.
const USES_MAX: u8 = 3;

/// The share of the bytes that the small queue gets, in percent (the paper's 10 %).
const SMALL_QUEUE_PERCENT: usize = 10;

/// Steps that one record which comes in may take to make room: enough to take the uses of a few and to evict more than
/// one. Those that are staged cannot go and are only passed by; a command that stages more than the table may hold must
/// not pass by all of them for each of its keys.
const STEPS_PER_RECORD: usize = 16;

/// The index of an entry, valid until the next call that inserts or evicts.
pub type EntryIndex = u32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    None,
    Small,
    Main,
}

struct Entry {
    column: Column,
    key: Box<[u8]>,
    /// The stored form of the record; `None` for a key that was deleted in this turn.
    value: Option<Vec<u8>>,
    hash: u64,
    epoch: u64,
    uses: u8,
    /// The entry is in the list of what the next commit writes.
    staged: bool,
    /// The entry is in the list of what the commit in flight writes (an earlier value perhaps).
    in_flight: bool,
    queue: Queue,
    older: EntryIndex,
    newer: EntryIndex,
}

/// The most entries: committed ones leave when there are more, and what is staged is bounded far below the numbers that
/// are left.
const ENTRIES_MAX: usize = 1 << 31;

/// What a staged record takes up, with what a redo record has beside key and value.
fn staged_size(key: &[u8], value: Option<&[u8]>) -> usize {
    32 + key.len() + value.map_or(0, <[u8]>::len)
}

/// The end of a queue.
const NO_ENTRY: EntryIndex = EntryIndex::MAX;

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

    fn push(&mut self, entries: &mut [Entry], index: EntryIndex) {
        let entry = &mut entries[index as usize];
        (entry.older, entry.newer) = (self.newest, NO_ENTRY);
        self.bytes += entry.size();
        match self.newest {
            NO_ENTRY => self.oldest = index,
            newest => entries[newest as usize].newer = index,
        }
        self.newest = index;
    }

    fn unlink(&mut self, entries: &mut [Entry], index: EntryIndex) {
        let Entry { older, newer, .. } = entries[index as usize];
        let size = entries[index as usize].size();
        assert!(self.bytes >= size, "a queue counts the bytes of its entries");
        self.bytes -= size;
        match older {
            NO_ENTRY => self.oldest = newer,
            older => entries[older as usize].newer = newer,
        }
        match newer {
            NO_ENTRY => self.newest = older,
            newer => entries[newer as usize].older = older,
        }
    }
}

impl Entry {
    /// Whether it says that a key exists.
    fn is_key(&self) -> bool {
        self.column == Column::Meta && self.value.is_some()
    }

    fn size(&self) -> usize {
        ENTRY_BYTES + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// How to take back one change of the running command.
struct Undo {
    entry: EntryIndex,
    value: Option<Vec<u8>>,
    epoch: u64,
    newly_staged: bool,
}

/// What [`Records::roll_back_command`] hands back for each change, newest first: the key, what it undid, what is there
/// again.
pub struct Undone<'a> {
    /// The key's column.
    pub column: Column,
    /// The key.
    pub key: &'a [u8],
    /// What the command had staged.
    pub staged: Option<&'a [u8]>,
    /// What is there again.
    pub restored: Option<&'a [u8]>,
}

/// A record that the disk does not have yet.
pub struct Uncommitted<'a> {
    /// The record's key.
    pub key: &'a [u8],
    /// The record's stored form; `None` for a deletion.
    pub value: Option<&'a [u8]>,
    /// The epoch that wrote the record.
    pub epoch: u64,
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
    entries: Vec<Entry>,
    free: Vec<EntryIndex>,
    /// Entries of `meta` that have a value.
    present: usize,
    /// Entries of `meta` that have left the table although the disk has their keys, or may have.
    keys_left: u64,
    /// The table has every key of the shard as long as this is the number of those that have left.
    complete_at: Option<u64>,
    small: Fifo,
    main: Fifo,
    /// Hashes of records that left the small queue unused: one that comes back goes to the main queue at once.
    ghosts: VecDeque<u64>,
    ghost_set: hashbrown::HashSet<u64, foldhash::fast::RandomState>,
    bytes: usize,
    bytes_max: usize,
    staged: UncommittedList,
    /// Never less than the bytes of what is staged.
    staged_bytes: usize,
    in_flight: UncommittedList,
    undo: Vec<Undo>,
    /// The newest epoch whose writes the table no longer knows key by key: a look-up that misses may have seen them.
    forgotten_epoch: u64,
    counters: Counters,
}

impl Records {
    /// An empty table that keeps at most about `bytes_max` of committed records, and no more than [`ENTRIES_MAX`] of
    /// them.
    pub fn new(bytes_max: usize) -> Records {
        let bytes_max = bytes_max.min(ENTRIES_MAX * ENTRY_BYTES);
        Records {
            table: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            present: 0,
            keys_left: 0,
            complete_at: None,
            small: Fifo::EMPTY,
            main: Fifo::EMPTY,
            ghosts: VecDeque::new(),
            ghost_set: hashbrown::HashSet::default(),
            bytes: 0,
            bytes_max,
            staged: UncommittedList::default(),
            staged_bytes: 0,
            in_flight: UncommittedList::default(),
            undo: Vec::new(),
            forgotten_epoch: 0,
            counters: Counters::default(),
        }
    }

    /// Looks a key up and counts the use.
    #[inline]
    pub fn find(&mut self, hash: u64, column: Column, key: &[u8]) -> Option<EntryIndex> {
        let entries = &self.entries;
        let is_it = |index: &EntryIndex| {
            let entry = &entries[*index as usize];
            entry.column == column && *entry.key == *key
        };
        let found = self.table.find(hash, is_it).copied();
        match found {
            Some(index) => {
                self.counters.hits += 1;
                let entry = &mut self.entries[index as usize];
                entry.uses = (entry.uses + 1).min(USES_MAX);
            }
            None => self.counters.misses += 1,
        }
        found
    }

    /// The stored form of an entry's record; `None` if the key was deleted in this turn.
    #[inline]
    pub fn value(&self, index: EntryIndex) -> Option<&[u8]> {
        self.entries[index as usize].value.as_deref()
    }

    /// The epoch that wrote an entry; of one that was read from disk, the newest epoch that may have.
    #[inline]
    pub fn epoch(&self, index: EntryIndex) -> u64 {
        self.entries[index as usize].epoch
    }

    /// The newest epoch that wrote keys which the table has let go.
    #[inline]
    pub fn forgotten_epoch(&self) -> u64 {
        self.forgotten_epoch
    }

    /// Keeps a record that was read from disk (`value`, its stored form). Records above [`RECORD_BYTES_KEPT_MAX`] are
    /// the caller's to hold.
    pub fn keep(&mut self, hash: u64, column: Column, key: &[u8], value: Vec<u8>) -> EntryIndex {
        self.make_room(STEPS_PER_RECORD);
        let index = self.insert((hash, column), key, Some(value));
        // The table may have held this very record before, and forgotten when it was written.
        self.entries[index as usize].epoch = self.forgotten_epoch;
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
        value: Option<Vec<u8>>,
        epoch: u64,
    ) {
        self.staged_bytes += staged_size(key, value.as_deref());
        let Some(index) = index else {
            let index = self.insert(hash_and_column, key, value);
            let entry = &mut self.entries[index as usize];
            (entry.epoch, entry.staged) = (epoch, true);
            self.staged.push(index);
            self.undo.push(Undo {
                entry: index,
                value: None,
                epoch: 0,
                newly_staged: true,
            });
            return;
        };
        let old = self.replace(index, value);
        let entry = &mut self.entries[index as usize];
        let newly_staged = !entry.staged;
        self.undo.push(Undo {
            entry: index,
            value: old,
            epoch: entry.epoch,
            newly_staged,
        });
        (entry.epoch, entry.staged) = (epoch, true);
        if newly_staged {
            self.staged.push(index);
        }
    }

    /// The running command is over and its writes stand.
    #[inline]
    pub fn keep_command(&mut self) {
        self.undo.clear();
    }

    /// Whether the running command has staged anything.
    pub fn command_staged(&self) -> bool {
        !self.undo.is_empty()
    }

    /// How many changes the running command has made.
    #[inline]
    pub fn changes(&self) -> usize {
        self.undo.len()
    }

    /// The running command failed, or a part of it: takes back all its writes but the first `kept`. `undone` is told of
    /// each.
    pub fn roll_back_command(&mut self, kept: usize, mut undone: impl FnMut(Undone<'_>)) {
        while self.undo.len() > kept {
            let Some(undo) = self.undo.pop() else { return };
            let staged = self.replace(undo.entry, undo.value);
            let entry = &mut self.entries[undo.entry as usize];
            entry.epoch = undo.epoch;
            undone(Undone {
                column: entry.column,
                key: &entry.key,
                staged: staged.as_deref(),
                restored: entry.value.as_deref(),
            });
            if undo.newly_staged {
                let last = self.staged.pop(entry.column, &entry.key);
                assert_eq!(last, Some(undo.entry), "a command's writes are undone newest first");
                entry.staged = false;
                if entry.value.is_none() && !entry.in_flight {
                    self.remove(undo.entry);
                }
            }
        }
    }

    /// What is staged: keys with their records, `None` for a deletion, in the order of first writing.
    pub fn staged(&self) -> impl Iterator<Item = (Column, &[u8], Option<&[u8]>)> {
        self.staged.list().iter().map(|index| {
            let entry = &self.entries[*index as usize];
            (entry.column, &*entry.key, entry.value.as_deref())
        })
    }

    /// What is staged or being committed from the key `from` to before `to`, which must not be below it: what a read of
    /// the disk does not see, in the order of the keys or backwards.
    pub fn uncommitted(
        &mut self,
        column: Column,
        range: (&[u8], &[u8]),
        direction: Direction,
    ) -> impl Iterator<Item = Uncommitted<'_>> {
        let Records {
            staged,
            in_flight,
            entries,
            ..
        } = self;
        let entries: &[Entry] = entries;
        let key_of = |index: EntryIndex| {
            let entry = &entries[index as usize];
            (entry.column, &*entry.key)
        };
        staged.before_read(key_of);
        in_flight.before_read(key_of);
        let found = UncommittedInRange::new([staged, in_flight], column, range, direction, key_of);
        found.map(|index| {
            let entry = &entries[index as usize];
            Uncommitted {
                key: &entry.key,
                value: entry.value.as_deref(),
                epoch: entry.epoch,
            }
        })
    }

    /// Whether anything is staged.
    #[inline]
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// At least as many bytes as are staged: what was staged twice, or taken back, counts until the commit.
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
        self.staged.list().len()
    }

    /// What is staged is being committed: what is staged from now on belongs to the next commit.
    ///
    /// # Panics
    /// If a commit is in flight.
    pub fn begin_commit(&mut self) {
        assert!(self.in_flight.is_empty(), "a shard has one commit at a time");
        self.undo.clear();
        self.staged_bytes = 0;
        std::mem::swap(&mut self.staged, &mut self.in_flight);
        for index in self.in_flight.list() {
            let entry = &mut self.entries[*index as usize];
            assert!(entry.staged && !entry.in_flight, "what is staged is staged once");
            (entry.staged, entry.in_flight) = (false, true);
        }
    }

    /// The commit succeeded: what it wrote is now part of the hot records.
    pub fn committed(&mut self) {
        let mut committed = self.in_flight.take();
        for index in committed.drain(..) {
            let entry = &mut self.entries[index as usize];
            assert!(entry.in_flight, "an entry stays until it is committed");
            entry.in_flight = false;
            if entry.staged {
                // The record was written again meanwhile and waits for the next commit.
                continue;
            }
            let keep = entry
                .value
                .as_ref()
                .is_some_and(|value| value.len() <= RECORD_BYTES_KEPT_MAX);
            let queued = entry.queue != Queue::None;
            if !keep {
                self.forget(index);
            } else if !queued {
                self.admit(index);
            }
        }
        self.in_flight.put(committed);
        // Every step frees an entry or takes a use from one, and a staged one is only moved: four rounds see all.
        self.make_room(self.table.len() * (usize::from(USES_MAX) + 1));
    }

    /// The commit did not take place: what it would have written belongs to the next one, with what was staged
    /// meanwhile.
    pub fn commit_again(&mut self) {
        let later = self.staged.take();
        for index in self.in_flight.take() {
            let entry = &mut self.entries[index as usize];
            assert!(entry.in_flight, "an entry stays until it is committed");
            entry.in_flight = false;
            // A record that was written again meanwhile is in the list already.
            if !entry.staged {
                entry.staged = true;
                self.staged.push(index);
            }
        }
        later.into_iter().for_each(|index| self.staged.push(index));
        self.count_staged_bytes();
    }

    /// The commit failed for good: forgets what was to be written, so that the disk's state is seen again.
    pub fn roll_back_all(&mut self) {
        self.undo.clear();
        self.staged_bytes = 0;
        let mut lost = self.in_flight.take();
        for index in &lost {
            self.entries[*index as usize].in_flight = false;
        }
        // A record that is in both lists is forgotten once.
        lost.retain(|index| !self.entries[*index as usize].staged);
        lost.append(&mut self.staged.take());
        for index in lost {
            self.entries[index as usize].staged = false;
            // The disk may have one whose deletion is taken back.
            self.keys_left += u64::from(self.entries[index as usize].column == Column::Meta);
            self.forget(index);
        }
    }

    /// Deletes, in `epoch`, all records whose keys `is_chosen` selects: their range on disk is about to be
    /// deleted. Those that are committed are forgotten; of the others a deletion is staged, which can be taken back.
    pub fn delete_all(&mut self, epoch: u64, is_chosen: impl Fn(&[u8]) -> bool) {
        let chosen: Vec<EntryIndex> = self
            .table
            .iter()
            .copied()
            .filter(|index| is_chosen(&self.entries[*index as usize].key))
            .collect();
        for index in chosen {
            let entry = &self.entries[index as usize];
            if !entry.staged && !entry.in_flight {
                // The deletion of the range can be taken back.
                self.keys_left += u64::from(entry.is_key());
                self.remove(index);
            } else if entry.value.is_some() {
                let (hash, column, key) = (entry.hash, entry.column, entry.key.clone());
                self.stage(Some(index), (hash, column), &key, None, epoch);
            }
        }
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
        self.present
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
        let entry = Entry {
            column,
            key: key.into(),
            value,
            hash,
            epoch: 0,
            uses: 0,
            staged: false,
            in_flight: false,
            queue: Queue::None,
            older: NO_ENTRY,
            newer: NO_ENTRY,
        };
        self.bytes += entry.size();
        self.present += usize::from(entry.is_key());
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                EntryIndex::try_from(self.entries.len() - 1).expect("far fewer than 2^32 entries are kept or staged")
            }
        };
        let entries = &self.entries;
        self.table
            .insert_unique(hash, index, |index| entries[*index as usize].hash);
        index
    }

    /// Puts an entry's value in place and gives the old one back.
    fn replace(&mut self, index: EntryIndex, value: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let entry = &mut self.entries[index as usize];
        let (new_len, old) = (
            value.as_ref().map_or(0, Vec::len),
            std::mem::replace(&mut entry.value, value),
        );
        let old_len = old.as_ref().map_or(0, Vec::len);
        if entry.column == Column::Meta {
            self.present = self.present + usize::from(entry.value.is_some()) - usize::from(old.is_some());
        }
        self.bytes = self.bytes + new_len - old_len;
        match entry.queue {
            Queue::None => {}
            Queue::Small => self.small.bytes = self.small.bytes + new_len - old_len,
            Queue::Main => self.main.bytes = self.main.bytes + new_len - old_len,
        }
        old
    }

    fn enqueue(&mut self, index: EntryIndex, queue: Queue) {
        self.entries[index as usize].queue = queue;
        match queue {
            Queue::None => {}
            Queue::Small => self.small.push(&mut self.entries, index),
            Queue::Main => self.main.push(&mut self.entries, index),
        }
    }

    fn unlink(&mut self, index: EntryIndex) {
        match std::mem::replace(&mut self.entries[index as usize].queue, Queue::None) {
            Queue::None => {}
            Queue::Small => self.small.unlink(&mut self.entries, index),
            Queue::Main => self.main.unlink(&mut self.entries, index),
        }
    }

    /// Gives a committed entry that is in no queue its first place.
    fn admit(&mut self, index: EntryIndex) {
        let returns = self.ghost_set.remove(&self.entries[index as usize].hash);
        self.enqueue(index, if returns { Queue::Main } else { Queue::Small });
    }

    /// Removes an entry of which other commands may see the write as the key's absence or as its value on disk.
    fn forget(&mut self, index: EntryIndex) {
        let entry = &self.entries[index as usize];
        self.forgotten_epoch = self.forgotten_epoch.max(entry.epoch);
        self.keys_left += u64::from(entry.is_key());
        self.remove(index);
    }

    fn remove(&mut self, index: EntryIndex) {
        self.unlink(index);
        let entry = &mut self.entries[index as usize];
        let (size, key) = (entry.size(), usize::from(entry.is_key()));
        assert!(
            self.bytes >= size && self.present >= key,
            "the table counts the bytes and keys of its entries"
        );
        self.bytes -= size;
        self.present -= key;
        if let Ok(found) = self.table.find_entry(entry.hash, |other| *other == index) {
            found.remove();
        }
        (entry.key, entry.value) = (Box::default(), None);
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
            let entry = &mut self.entries[index as usize];
            if entry.staged || entry.in_flight || entry.uses > 0 {
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

    fn remember_ghost(&mut self, hash: u64) {
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
    use std::collections::BTreeSet;

    fn hash(key: &[u8]) -> u64 {
        key.iter()
            .fold(7u64, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn stage(records: &mut Records, key: &[u8], value: Option<&[u8]>, epoch: u64) {
        let index = records.find(hash(key), Column::Meta, key);
        records.stage(index, (hash(key), Column::Meta), key, value.map(<[u8]>::to_vec), epoch);
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
        records.roll_back_all();
        assert!(records.is_empty() && !records.has_staged());
        assert_eq!(records.bytes(), 0);
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
        records.begin_commit();
        records.committed();
        assert_eq!((records.len(), records.bytes()), (0, 0));
    }

    #[test]
    fn a_record_may_be_written_again_while_it_is_being_committed() {
        let mut records = Records::new(1 << 20);
        stage(&mut records, b"000a", Some(b"1"), 1);
        stage(&mut records, b"000b", None, 1);
        records.keep_command();
        records.begin_commit();
        // A command that fails meanwhile leaves the values that are being written.
        stage(&mut records, b"000a", Some(b"x"), 2);
        stage(&mut records, b"000b", Some(b"x"), 2);
        records.roll_back_command(0, |_| {});
        assert_eq!(value(&mut records, b"000a"), Some(&b"1"[..]));
        let deleted = records.find(hash(b"000b"), Column::Meta, b"000b");
        assert_eq!(deleted.map(|index| records.value(index)), Some(None));
        stage(&mut records, b"000a", Some(b"2"), 2);
        records.keep_command();
        // The first try is refused: both go into the next, once, with their newest values.
        records.commit_again();
        assert_eq!(
            records.staged().collect::<Vec<_>>(),
            [
                (Column::Meta, &b"000b"[..], None),
                (Column::Meta, &b"000a"[..], Some(&b"2"[..]))
            ]
        );
        records.begin_commit();
        stage(&mut records, b"000a", Some(b"3"), 3);
        records.keep_command();
        records.committed();
        assert_eq!(
            records.staged().collect::<Vec<_>>(),
            [(Column::Meta, &b"000a"[..], Some(&b"3"[..]))]
        );
        assert_eq!(records.len(), 1, "the deleted key is gone");
        records.begin_commit();
        stage(&mut records, b"000a", Some(b"4"), 4);
        records.roll_back_all();
        assert!(records.is_empty() && !records.has_staged());
        assert_eq!(records.bytes(), 0);
    }

    fn uncommitted_keys(records: &mut Records, from: &[u8], to: &[u8], direction: Direction) -> Vec<Vec<u8>> {
        let found = records.uncommitted(Column::Meta, (from, to), direction);
        found.map(|record| record.key.to_vec()).collect()
    }

    #[test]
    fn ranges_of_what_waits_are_those_of_a_model_whatever_fails_and_is_committed() {
        let mut random = seeded_random::printed();
        let mut below = |bound: u64| random.random_range(0..bound);
        let mut records = Records::new(1 << 20);
        let (mut staged, mut in_flight) = (BTreeSet::new(), BTreeSet::new());
        for epoch in 1..400_u64 {
            for _ in 0..below(30) {
                let writes: Vec<Vec<u8>> = (0..below(80))
                    .map(|_| format!("000{:03}", below(900)).into_bytes())
                    .collect();
                for key in &writes {
                    stage(
                        &mut records,
                        key,
                        Some(b"v").filter(|_| below(4) > 0).map(|v| &v[..]),
                        epoch,
                    );
                }
                if below(3) == 0 {
                    // The command itself reads, so that what it takes back is in the order of keys already.
                    uncommitted_keys(&mut records, b"000", b"001", Direction::Forward);
                }
                match below(5) {
                    0 => records.roll_back_command(0, |_| {}),
                    _ => {
                        records.keep_command();
                        staged.extend(writes);
                    }
                }
                let (from, to) = (format!("000{:03}", below(450)), format!("000{:03}", 450 + below(450)));
                let expected: BTreeSet<&Vec<u8>> = staged.union(&in_flight).collect();
                let range = from.as_bytes().to_vec()..to.as_bytes().to_vec();
                let expected: Vec<Vec<u8>> = expected
                    .into_iter()
                    .filter(|key| range.contains(*key))
                    .cloned()
                    .collect();
                let (from, to) = (from.as_bytes(), to.as_bytes());
                assert_eq!(uncommitted_keys(&mut records, from, to, Direction::Forward), expected);
                let mut backwards = uncommitted_keys(&mut records, from, to, Direction::Backward);
                backwards.reverse();
                assert_eq!(backwards, expected);
            }
            match below(4) {
                0 if in_flight.is_empty() => {
                    records.begin_commit();
                    in_flight = std::mem::take(&mut staged);
                }
                1 => {
                    records.committed();
                    in_flight.clear();
                }
                2 => {
                    records.commit_again();
                    staged.append(&mut in_flight);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_turn_that_writes_and_reads_ranges_by_turns_takes_no_longer_per_command() {
        let mut records = Records::new(1 << 20);
        let began = std::time::Instant::now();
        for number in 0..200_000_u32 {
            // In an order that has nothing to do with that of the keys.
            let key = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
            stage(&mut records, &key, Some(b"v"), 1);
            records.keep_command();
            let first = records
                .uncommitted(Column::Meta, (&[0], &[0xff]), Direction::Forward)
                .next();
            assert!(first.is_some());
        }
        // Many minutes, if each read looks at all that are staged; a second if not.
        assert!(began.elapsed().as_secs() < 60, "it took {:?}", began.elapsed());
    }

    #[test]
    fn deleted_keys_leave_nothing_behind_but_their_epoch() {
        let mut records = Records::new(1 << 20);
        for epoch in 1..5_000_u64 {
            stage(&mut records, b"000k", Some(b"v"), epoch);
            records.begin_commit();
            records.committed();
            stage(&mut records, b"000k", None, epoch);
            records.begin_commit();
            records.committed();
        }
        assert_eq!((records.len(), records.bytes(), records.entries.len()), (0, 0, 1));
        assert_eq!(records.forgotten_epoch(), 4_999);
    }
}
