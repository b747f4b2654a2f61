//! One shard against a model, without a server: whatever becomes of its frames, every key holds
//! what was last written and not taken back, the counts are those of the keys, and no read leaves before what it saw.
//!
//! Commands that succeed and fail, frames that are logged or find the disk full, RocksDB that gets the log in windows
//! of any size while the records are worked off in small steps or not at all,
//! parts of commands that fail alone, strings of which some bytes are changed, FLUSHDB, SWAPDB, scans, cursors that are
//! read little by little, and restarts that read the rest of the log; with a table of hot records that holds
//! everything, little or nothing. A look-up trusts the table to know when it holds every key, so one that is wrong
//! about that loses keys here.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;

use corelane::slots::{SLOT_COUNT, ShardId, Slot};
use corelane::storage::cell_writes::CellWrites;
use corelane::storage::database::{Column, Database, DatabaseError, Resources};
use corelane::storage::encoding::{Counts, DATABASE_COUNT, Record, chunk_member, with_entry};
use corelane::storage::log::FrameBuffer;
use corelane::storage::operations;
use corelane::storage::range_cursor::{CursorRead, RangeCursor};
use corelane::storage::shard::{Owner, Shard, ShardState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::contents::Contents;
use super::seed;

/// So few that commands and batches meet.
const DATABASES: u8 = 3;
const KEYS: u8 = 8;

/// The key of a string that lies in chunks, beside those, and how many chunks it has.
const IN_CHUNKS: u8 = KEYS;
const CHUNKS: u32 = 3;

/// A deadline that no test lives to see.
const FAR_MS: u64 = 1 << 45;

/// Above what stays in the table of hot records.
const LARGE_BYTES: usize = 70_000;

const STEPS: usize = 6_000;

/// Cursors that are open at once.
const CURSORS_MAX: usize = 4;

/// Block cache, in bytes.
const CACHE_BYTES: usize = 16 << 20;

/// What a key holds, and the turn that wrote it.
#[derive(Clone, Debug)]
struct Stored {
    record: Vec<u8>,
    deadline_ms: u64,
}

#[derive(Clone, Debug, Default)]
struct Model {
    keys: BTreeMap<(u8, u8), Stored>,
    /// By database and number.
    chunks: BTreeMap<(u8, u32), Vec<u8>>,
    /// The turn of the last write to a key, deletions too, that is not logged.
    unlogged: BTreeMap<(u8, u8), u64>,
}

/// What RocksDB does not have of the log: by segment, the payloads of its frames.
type Log = VecDeque<(u32, Vec<Vec<u8>>)>;

/// A cursor, what it must still find, and what was known when it was opened.
struct Open {
    cursor: RangeCursor,
    left: VecDeque<Vec<u8>>,
}

struct Test {
    random: StdRng,
    resources: Resources,
    shard: Shard,
    cache_bytes: usize,
    turn: u64,
    now: Model,
    /// What is in the log.
    logged: Model,
    log: Log,
    segment: u32,
    watermark: u32,
    cursors: Vec<Open>,
}

fn open(path: &Path, resources: &Resources, cache_bytes: usize, create: bool) -> Shard {
    let database = Database::open(path, resources, create).expect("the database opens");
    Shard::open(ShardId(0), database, cache_bytes).expect("the shard opens")
}

fn name(key: u8) -> Vec<u8> {
    format!("key{key}").into_bytes()
}

impl Test {
    fn new(path: &Path, cache_bytes: usize, seed: u64) -> Test {
        let resources = Resources::new(CACHE_BYTES, 2).expect("RocksDB starts");
        let shard = open(path, &resources, cache_bytes, true);
        let mut test = Test {
            random: StdRng::seed_from_u64(seed),
            resources,
            shard,
            cache_bytes,
            turn: 0,
            now: Model::default(),
            logged: Model::default(),
            log: Log::new(),
            segment: 1,
            watermark: 0,
            cursors: Vec::new(),
        };
        test.next_turn();
        test
    }

    fn next_turn(&mut self) {
        self.turn += 1;
        self.shard.begin_turn(self.turn);
    }

    fn read(&mut self, database: u8, key: u8) {
        let expected = self.now.keys.get(&(database, key)).map(|stored| stored.record.clone());
        let released = self.shard.staged_epoch().map_or(u64::MAX, |staged| staged - 1);
        let name = name(key);
        let (record, epoch) = self
            .shard
            .read(database, Slot::of(&name), &name)
            .expect("the shard is readable");
        assert!(
            record.map(|record| record.encode()) == expected,
            "key {key} of database {database} is not what was written last"
        );
        if let Some(written) = self.now.unlogged.get(&(database, key)) {
            assert!(
                epoch >= *written && epoch > released,
                "key {key} was written in turn {written}, read as of turn {epoch}, and {released} is released"
            );
        }
    }

    fn write(&mut self, database: u8, key: u8) {
        let stored = match self.random.random_range(0..10) {
            0..=3 => None,
            kind => {
                let len = if kind == 4 {
                    LARGE_BYTES
                } else {
                    self.random.random_range(0..40)
                };
                let deadline_ms = if self.random.random_bool(0.3) {
                    FAR_MS + self.random.random_range(0..9)
                } else {
                    0
                };
                let payload = vec![self.random.random::<u8>(); len];
                Some(Stored {
                    record: Record::string(&payload, deadline_ms).encode(),
                    deadline_ms,
                })
            }
        };
        let name = name(key);
        let record = stored.as_ref().map(|stored| stored.record.clone());
        let written = self.shard.write(database, Slot::of(&name), &name, record);
        written.expect("the shard takes writes");
        let place = (database, key);
        if stored.is_some() || self.now.keys.contains_key(&place) {
            self.now.unlogged.insert(place, self.turn);
        }
        match stored {
            Some(stored) => self.now.keys.insert(place, stored),
            None => self.now.keys.remove(&place),
        };
    }

    /// Reads or changes a chunk of the string that has some.
    fn chunk(&mut self, database: u8) {
        let place = (database, self.random.random_range(0..CHUNKS));
        let name = name(IN_CHUNKS);
        let owner = Owner {
            database,
            key: name.clone(),
            version: 7,
        };
        let (slot, member) = (Slot::of(&name), chunk_member(place.1));
        if !self.now.keys.contains_key(&(database, IN_CHUNKS)) {
            let record = Record {
                version: owner.version,
                ..Record::string(&[0; 8], 0)
            };
            let record = record.encode();
            let written = self.shard.write(database, slot, &name, Some(record.clone()));
            written.expect("the shard takes writes");
            self.now.unlogged.insert((database, IN_CHUNKS), self.turn);
            let stored = Stored { record, deadline_ms: 0 };
            self.now.keys.insert((database, IN_CHUNKS), stored);
        }
        let (offset, bytes) = (
            self.random.random_range(0..60),
            vec![self.random.random(); self.random.random_range(0..9)],
        );
        let known = self.now.chunks.get_mut(&place);
        match self.random.random_range(0..10) {
            0 | 1 => {
                let value = Some(bytes.clone()).filter(|bytes| bytes.len() > 1);
                let written = self
                    .shard
                    .write_member((&owner, slot), Column::Data, &member, value.as_deref());
                written.expect("the shard takes writes");
                match value {
                    Some(value) => drop(self.now.chunks.insert(place, value)),
                    None => drop(self.now.chunks.remove(&place)),
                }
            }
            2..=4 => {
                let patched = self.shard.patch_chunk((&owner, slot), place.1, (offset, &bytes));
                assert_eq!(patched.expect("the shard takes writes").is_some(), known.is_some());
                if let Some(known) = known {
                    known.resize(known.len().max(offset + bytes.len()), 0);
                    known[offset..offset + bytes.len()].copy_from_slice(&bytes);
                }
            }
            5 | 6 => {
                let (mask, bits) = self.random.random();
                let old = self
                    .shard
                    .set_chunk_bits((&owner, slot), (place.1, offset), (mask, bits));
                let expected = known.as_ref().map(|known| known.get(offset).copied().unwrap_or(0));
                let old = old.expect("the shard takes writes").map(|(old, _)| old);
                assert_eq!(old, expected, "a byte of a chunk");
                if let (Some(known), Some(old)) = (known, old) {
                    let new = old & !mask | bits & mask;
                    if new != old {
                        known.resize(known.len().max(offset + 1), 0);
                        known[offset] = new;
                    }
                }
            }
            _ => {
                let (found, _) = self
                    .shard
                    .member((&owner, slot), Column::Data, &member)
                    .expect("the shard is readable");
                assert_eq!(
                    found,
                    known.map(|known| &known[..]),
                    "chunk {} of database {database}",
                    place.1
                );
            }
        }
    }

    fn command(&mut self) {
        let before = self.now.clone();
        for _ in 0..self.random.random_range(1..5) {
            self.part();
        }
        if self.random.random_bool(0.3) {
            self.shard.roll_back_command();
            self.now = before;
        } else {
            self.shard.keep_command();
        }
    }

    /// A part of a command, which may fail alone.
    fn part(&mut self) {
        let before = self.now.clone();
        let is_inner = self.random.random_bool(0.5);
        if is_inner {
            self.shard.begin_inner();
        }
        for _ in 0..self.random.random_range(1..4) {
            let (database, key) = (
                self.random.random_range(0..DATABASES),
                self.random.random_range(0..KEYS),
            );
            match self.random.random_range(0..50) {
                0..=19 => self.read(database, key),
                20 => self.flush(),
                21 => self.swap(),
                22 => self.scan(),
                23..=34 => self.chunk(database),
                _ => self.write(database, key),
            }
        }
        if is_inner {
            let kept = self.random.random_bool(0.6);
            self.shard.end_inner(kept);
            if !kept {
                self.now = before;
            }
        }
    }

    /// The end of a turn: the frame is logged, or the disk is full.
    fn log_turn(&mut self) {
        let mut frame = FrameBuffer::new();
        self.shard.append_to(&mut frame);
        assert_eq!(frame.is_empty(), !self.shard.has_staged());
        if frame.is_empty() {
            return;
        }
        if self.random.random_bool(0.2) {
            self.shard.stop(&DatabaseError::DiskFull("on request".to_owned()));
            assert_eq!(*self.shard.state(), ShardState::ReadOnly);
            assert!(!self.shard.has_staged());
            self.now = self.logged.clone();
            self.shard.set_disk_full(false);
            assert_eq!(*self.shard.state(), ShardState::Healthy);
            // What they saw will not be answered.
            self.cursors.clear();
            return;
        }
        self.segment += u32::from(self.random.random_bool(0.3));
        self.shard.logged(self.segment);
        match self.log.back_mut().filter(|(segment, _)| *segment == self.segment) {
            Some((_, frames)) => frames.push(frame.payload().to_vec()),
            None => self.log.push_back((self.segment, vec![frame.payload().to_vec()])),
        }
        self.now.unlogged.clear();
        self.logged = self.now.clone();
    }

    /// RocksDB gets some segments, and the shard learns of that at once or later.
    fn ingest(&mut self) {
        // The one that is written is sealed.
        let segments = self.random.random_range(0..=self.log.len());
        let mut writes = CellWrites::default();
        for (segment, frames) in self.log.drain(..segments) {
            self.watermark = segment;
            for frame in &frames {
                apply(&mut writes, frame);
            }
        }
        self.segment = self.segment.max(self.watermark + 1);
        if !writes.is_empty() {
            self.shard.database().ingest(writes).expect("the disk takes writes");
        }
    }

    fn work_off(&mut self) {
        let records_max = self.random.random_range(1..20);
        self.shard.work_off(self.watermark, records_max);
        self.shard.take_discarded();
    }

    /// Opens a cursor, or reads on with one.
    fn cursor(&mut self) {
        if self.cursors.len() < CURSORS_MAX && self.random.random_bool(0.3) {
            let database = self.random.random_range(0..DATABASES);
            let (cursors, _) = self
                .shard
                .key_cursors(database, 0..SLOT_COUNT)
                .expect("the shard is readable");
            let mut names: Vec<(u16, Vec<u8>)> = (0..=IN_CHUNKS)
                .filter(|key| self.now.keys.contains_key(&(database, *key)))
                .map(|key| (Slot::of(&name(key)).0, self.now.keys[&(database, key)].record.clone()))
                .collect();
            names.sort();
            // Each is of as many slots.
            let slots = usize::from(SLOT_COUNT).div_ceil(cursors.len());
            for (number, cursor) in cursors.into_iter().enumerate() {
                let is_of_it = |slot: u16| usize::from(slot) / slots == number;
                let of_it = names.iter().filter(|(slot, _)| is_of_it(*slot));
                let left: VecDeque<_> = of_it.map(|(_, record)| record.clone()).collect();
                if !left.is_empty() || number == 0 {
                    self.cursors.push(Open { cursor, left });
                }
            }
            return;
        }
        if self.cursors.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.cursors.len());
        let mut entries = self.random.random_range(1..4);
        let Open { cursor, left } = &mut self.cursors[index];
        let mut keys_left = self.random.random_range(1..6);
        let read = cursor.read(self.shard.records(), &mut keys_left, |_, record| {
            // Where expiry has the key is no part of what the model knows.
            let mut known = Vec::new();
            with_entry(record, None, &mut known);
            assert_eq!(Some(known), left.pop_front(), "as it was when the cursor was opened");
            entries -= 1;
            match entries {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        match read {
            CursorRead::UpToHere => {}
            CursorRead::All => {
                assert!(self.cursors[index].left.is_empty(), "a cursor has left out keys");
                self.cursors.swap_remove(index);
            }
            CursorRead::Broken => panic!("the disk can be read"),
        }
    }

    fn flush(&mut self) {
        let database = self
            .random
            .random_bool(0.8)
            .then(|| self.random.random_range(0..DATABASES));
        self.shard.flush(database).expect("the shard takes writes");
        let emptied = |number: u8| database.is_none_or(|database| database == number);
        for place in self.now.keys.keys().filter(|(number, _)| emptied(*number)) {
            self.now.unlogged.insert(*place, self.turn);
        }
        self.now.keys.retain(|(number, _), _| !emptied(*number));
        self.now.chunks.retain(|(number, _), _| !emptied(*number));
    }

    fn swap(&mut self) {
        let (first, second) = (
            self.random.random_range(0..DATABASES),
            self.random.random_range(0..DATABASES),
        );
        let mut map = self.shard.database_map();
        map.physical.swap(usize::from(first), usize::from(second));
        map.generation += 1;
        self.shard.set_database_map(map).expect("the shard takes writes");
        let swapped = |number: u8| match number {
            number if number == first => second,
            number if number == second => first,
            number => number,
        };
        let keys = std::mem::take(&mut self.now.keys);
        self.now.keys = keys
            .into_iter()
            .map(|((number, key), stored)| ((swapped(number), key), stored))
            .collect();
        let chunks = std::mem::take(&mut self.now.chunks);
        self.now.chunks = chunks
            .into_iter()
            .map(|((database, number), chunk)| ((swapped(database), number), chunk))
            .collect();
        for key in 0..=IN_CHUNKS {
            for number in [first, second] {
                self.now.unlogged.insert((number, key), self.turn);
            }
        }
    }

    fn scan(&mut self) {
        let database = self.random.random_range(0..DATABASES);
        let mut found = Vec::new();
        let (mut slots, mut after, mut epoch) = (0..SLOT_COUNT, None::<Vec<u8>>, 0);
        // In steps, each over so many deleted keys.
        let deleted_max = match self.random.random_bool(0.5) {
            true => u64::MAX,
            false => self.random.random_range(1..4),
        };
        loop {
            let scanned =
                self.shard
                    .scan_keys((database, slots.clone(), after.as_deref()), deleted_max, |_, key, _| {
                        found.push(key.to_vec());
                        ControlFlow::Continue(())
                    });
            let (seen, gave_up_at) = scanned.expect("the shard is readable");
            epoch = epoch.max(seen);
            let Some(position) = gave_up_at else { break };
            assert!(
                (position.slot.0, &position.after) > (slots.start, &after),
                "a scan goes ahead"
            );
            (slots.start, after) = (position.slot.0, position.after);
        }
        let written = self.now.unlogged.iter().filter(|((number, _), _)| *number == database);
        let newest = written.map(|(_, turn)| *turn).max().unwrap_or(0);
        assert!(epoch >= newest, "a scan saw turn {newest} and says {epoch}");
        found.sort();
        let expected: Vec<Vec<u8>> = (0..=IN_CHUNKS)
            .filter(|key| self.now.keys.contains_key(&(database, *key)))
            .map(name)
            .collect();
        assert_eq!(found, expected, "a scan finds the keys of database {database}");
    }

    /// The process is killed; the next one reads the rest of the log, and goes on from there.
    fn restart(mut self, path: &Path) -> Test {
        let mut writes = CellWrites::default();
        for (_, frames) in self.log.drain(..) {
            frames.iter().for_each(|frame| apply(&mut writes, frame));
        }
        if !writes.is_empty() {
            self.shard.database().ingest(writes).expect("the disk takes writes");
        }
        self.now = self.logged.clone();
        self.cursors.clear();
        Contents::of(self.shard.database()).check();
        self.shard.database().stop_background_work();
        let Test {
            shard,
            resources,
            cache_bytes,
            turn,
            ..
        } = self;
        drop(shard);
        let mut shard = open(path, &resources, cache_bytes, false);
        shard.begin_turn(turn);
        Test {
            shard,
            resources,
            segment: 1,
            watermark: 0,
            ..self
        }
    }

    fn check_counts(&self) {
        for number in 0..DATABASE_COUNT as u8 {
            let counts = self.shard.counts(number);
            let stored = || self.now.keys.iter().filter(|((database, _), _)| *database == number);
            let expires = stored().filter(|(_, stored)| stored.deadline_ms != 0).count();
            assert_eq!(
                (counts.keys, counts.expires),
                (stored().count() as u64, expires as u64),
                "keys and deadlines of database {number}"
            );
        }
        let all = self.now.keys.len();
        assert!(self.shard.records().present() <= all, "the table has keys that are not");
    }

    fn end(mut self) {
        self.cursors.clear();
        self.shard.database().stop_background_work();
    }
}

fn apply(writes: &mut CellWrites, payload: &[u8]) {
    for operation in operations::read(payload) {
        let operation = operation.expect("a frame says what the shard has said");
        assert_eq!(operation.shard, ShardId(0));
        writes.apply(operation.change);
    }
}

#[test]
fn a_shard_holds_what_the_model_says_whatever_becomes_of_its_frames() {
    let seed = seed("a_shard_holds_what_the_model_says_whatever_becomes_of_its_frames");
    for cache_bytes in [0, 2_000, 1 << 20] {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let path = folder.path().join("shard");
        let mut test = Test::new(&path, cache_bytes, seed);
        for _ in 0..STEPS {
            match test.random.random_range(0..200) {
                0..=99 => test.command(),
                100..=129 => test.next_turn(),
                130..=154 => test.log_turn(),
                155..=160 => test.ingest(),
                161..=175 => test.work_off(),
                176..=184 => test.cursor(),
                185..=191 => test.scan(),
                192..=198 => test.command(),
                _ if test.random.random_bool(0.3) => test = test.restart(&path),
                _ => {}
            }
            test.check_counts();
        }
        test.end();
    }
}

/// As RocksDB would have it after a bug: the counts said that the only key in memory was the only one there is, and hid
/// the others.
#[test]
fn a_wrong_count_of_keys_hides_none_and_is_put_right_by_the_next_start() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("shard");
    let resources = Resources::new(CACHE_BYTES, 2).expect("RocksDB starts");
    let record = Record::string(b"value", 0).encode();
    let is_there = |shard: &mut Shard, key: u8| {
        let name = name(key);
        let (record, _) = shard.read(0, Slot::of(&name), &name).expect("the shard can be read");
        record.is_some()
    };
    let mut shard = open(&path, &resources, 1 << 20, true);
    shard.begin_turn(1);
    for key in 0..3 {
        let name = name(key);
        let written = shard.write(0, Slot::of(&name), &name, Some(record.clone()));
        written.expect("the shard takes writes");
    }
    shard.write_through().expect("the disk takes writes");
    let mut writes = CellWrites::default();
    let wrong = Counts { keys: 1, expires: 0 };
    writes.put(Column::System, &Counts::key(0), &wrong.encode());
    shard.database().ingest(writes).expect("the disk takes writes");
    shard.database().stop_background_work();
    drop(shard);

    let mut shard = open(&path, &resources, 1 << 20, false);
    shard.begin_turn(1);
    assert_eq!(shard.counts(0), wrong, "nothing shows yet that it is wrong");
    for key in 0..3 {
        assert!(is_there(&mut shard, key), "key {key} is there, whatever is counted");
    }
    for key in 0..2 {
        let name = name(key);
        shard
            .write(0, Slot::of(&name), &name, None)
            .expect("the shard takes writes");
    }
    shard.write_through().expect("the disk takes writes");
    assert!(is_there(&mut shard, 2));
    shard.database().stop_background_work();
    drop(shard);

    let mut shard = open(&path, &resources, 1 << 20, false);
    assert_eq!(shard.counts(0), Counts { keys: 1, expires: 0 });
    shard.begin_turn(1);
    assert!(is_there(&mut shard, 2) && !is_there(&mut shard, 0));
    shard.database().stop_background_work();
    drop(shard);
}

/// RocksDB's iterators tell no key before they have passed all tombstones, so the ends of the steps are made up.
#[test]
fn a_scan_in_steps_finds_what_lies_among_keys_that_are_deleted_on_disk() {
    const NAMES: u32 = 40_000;
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let resources = Resources::new(CACHE_BYTES, 2).expect("RocksDB starts");
    let mut shard = open(&folder.path().join("shard"), &resources, 1 << 20, true);
    let record = Record::string(b"value", 0).encode();
    // Half of them in one slot.
    let name = |number: u32| match number % 2 {
        0 => format!("{{one slot}}:{number:08}").into_bytes(),
        _ => format!("name:{number}").into_bytes(),
    };
    let stays = |number: u32| number % 9_000 < 4;
    for (turn, deletes) in [(1, false), (2, true)] {
        shard.begin_turn(turn);
        for number in (0..NAMES).filter(|number| !deletes || !stays(*number)) {
            let (name, record) = (name(number), record.clone());
            let written = shard.write(0, Slot::of(&name), &name, (!deletes).then_some(record));
            written.expect("the shard takes writes");
            shard.keep_command();
        }
        shard.write_through().expect("the disk takes writes");
    }
    shard.begin_turn(3);
    let (mut slots, mut after, mut found, mut steps) = (0..SLOT_COUNT, None::<Vec<u8>>, Vec::new(), 0);
    loop {
        let part = (0, slots.clone(), after.as_deref());
        let scanned = shard.scan_keys(part, 1_000_000, |_, key, _| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        });
        steps += 1;
        let (_, gave_up_at) = scanned.expect("the shard is readable");
        let Some(position) = gave_up_at else { break };
        assert!(
            (position.slot.0, &position.after) > (slots.start, &after),
            "a scan goes ahead"
        );
        (slots.start, after) = (position.slot.0, position.after);
    }
    let mut expected: Vec<Vec<u8>> = (0..NAMES).filter(|number| stays(*number)).map(name).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert!((10..2_000).contains(&steps), "{steps} steps");
    shard.database().stop_background_work();
}
