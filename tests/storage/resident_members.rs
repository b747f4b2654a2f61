//! The members that a shard keeps in memory, against a model: whatever is written, taken back, committed, lost with a
//! full disk, deleted or flushed, a read shows what was written last and not taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use corelane::slots::{ShardId, Slot};
use corelane::storage::database::{Column, Database, DatabaseError, Direction, Resources};
use corelane::storage::encoding::{Record, Type, is_node_key};
use corelane::storage::shard::{Owner, Shard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::seed;

const OWNERS: u64 = 4;
const STEPS: usize = 8_000;
/// Members that come and go at once.
const CHURNED: u32 = 4_000;
/// Members that are added at once, more than one read loads.
const ADDED: u32 = 700;

/// More bytes than are written between two commits take in memory.
const PINNED_MAX: usize = 400_000;

/// Cells of which most are deleted, more than a load passes over.
const MANY: u64 = 60_000;

const CACHE_BYTES: usize = 16 << 20;

type Cells = BTreeMap<Vec<u8>, Vec<u8>>;

/// A key with members.
#[derive(Clone, Default)]
struct Collection {
    /// 0, if there is no such key.
    version: u64,
    /// Of `data` and `score`.
    cells: [Cells; 2],
}

type State = Vec<Collection>;

const COLUMNS: [Column; 2] = [Column::Data, Column::Score];

fn key_of(number: u64) -> (Vec<u8>, Slot) {
    let key = format!("key{number}").into_bytes();
    let slot = Slot::of(&key);
    (key, slot)
}

struct Test {
    random: StdRng,
    shard: Shard,
    turn: u64,
    now: State,
    committed: State,
    /// The turn of the last write to each owner and column, if it is not committed.
    uncommitted: BTreeMap<(u64, usize), u64>,
    /// What the running command has written to.
    written: BTreeSet<(u64, usize)>,
    /// What the collections are said to have.
    members: Option<u64>,
    /// How often an order was read when something was in memory.
    reads_in_memory: usize,
    /// How often one was read of which gaps were known.
    reads_past_gaps: usize,
}

impl Test {
    /// A key of `score` or `data`, or a beginning of one, as a sorted set has them: a zero, then the score, then the
    /// name.
    fn key(&mut self) -> Vec<u8> {
        let mut key = vec![0; 8];
        key.push(self.random.random_range(0..6));
        key.extend((0..self.random.random_range(0..3)).map(|_| b'a'));
        key
    }

    fn owner(&self, number: u64) -> (Owner, Slot) {
        let (key, slot) = key_of(number);
        let version = self.now[number as usize].version;
        let database = 0;
        (Owner { database, key, version }, slot)
    }

    fn write(&mut self, number: u64, column: usize, member: &[u8], value: Option<Vec<u8>>) {
        let (owner, slot) = self.owner(number);
        self.shard
            .write_member((&owner, slot), COLUMNS[column], member, value.as_deref())
            .expect("the shard takes writes");
        if !is_node_key(member) {
            self.written.insert((number, column));
        }
        let cells = &mut self.now[number as usize].cells[column];
        match value {
            Some(value) => cells.insert(member.to_vec(), value),
            None => cells.remove(member),
        };
    }

    /// A new collection in place of what there is, if there is anything, or none.
    fn replace(&mut self, number: u64, is_there: bool) {
        let (key, slot) = key_of(number);
        let version = if is_there {
            self.shard.new_version(Type::Hash, 1)
        } else {
            0
        };
        let record = is_there.then(|| {
            let record = Record {
                kind: Type::Hash,
                version,
                payload: &[0; 8],
                ..Record::string(b"", 0)
            };
            record.encode()
        });
        let writes_first = self.random.random_bool(0.5);
        if writes_first {
            self.shard
                .write(0, slot, &key, record.clone())
                .expect("the shard takes writes");
        }
        let cells = Default::default();
        self.now[number as usize] = Collection { version, cells };
        // Who reads the new one sees nothing of what was written to the old one.
        self.written.retain(|(of, _)| *of != number);
        self.uncommitted.retain(|(of, _), _| *of != number);
        if is_there {
            let (member, column) = (self.key(), self.random.random_range(0..2));
            self.write(number, column, &member, Some(Vec::new()));
        }
        if !writes_first {
            self.shard.write(0, slot, &key, record).expect("the shard takes writes");
        }
    }

    fn command(&mut self) {
        let before = self.now.clone();
        for _ in 0..self.random.random_range(1..6) {
            let number = self.random.random_range(0..OWNERS);
            if self.now[number as usize].version == 0 || self.random.random_bool(0.02) {
                let is_there = self.random.random_bool(0.8);
                self.replace(number, is_there);
            }
            if self.now[number as usize].version == 0 {
                continue;
            }
            let (member, column) = (self.key(), self.random.random_range(0..2));
            let value = vec![b'v'; self.random.random_range(0..40)];
            let value = self.random.random_bool(0.6).then_some(value);
            self.write(number, column, &member, value);
            if self.random.random_bool(0.2) {
                // What a counted tree keeps beside the members is no part of the order.
                let node = vec![self.random.random_range(1..3), self.random.random_range(0..3)];
                self.write(number, 1, &node, Some(vec![1]));
            }
            if self.random.random_bool(0.3) {
                // The command reads what it has written.
                self.read(number);
            }
        }
        if self.random.random_bool(0.2) {
            self.shard.roll_back_command();
            self.now = before;
            self.written.clear();
            return;
        }
        self.keep();
    }

    fn keep(&mut self) {
        self.shard.keep_command();
        let turn = self.turn;
        let written = std::mem::take(&mut self.written).into_iter();
        self.uncommitted.extend(written.map(|of| (of, turn)));
    }

    fn read(&mut self, number: u64) {
        match self.random.random_range(0..4) {
            0 => self.read_member(number),
            1 => self.read_ranks(number),
            _ => self.read_range(number),
        }
        self.reads_in_memory += usize::from(!self.shard.residents().is_empty());
        self.reads_past_gaps += usize::from(!self.shard.gaps().is_empty());
    }

    fn members(&self, number: u64, column: usize) -> u64 {
        let members = self.now[number as usize].cells[column].len() as u64;
        self.members.unwrap_or(members)
    }

    fn read_member(&mut self, number: u64) {
        let (owner, slot) = self.owner(number);
        let (member, column) = (self.key(), self.random.random_range(0..2));
        let (value, _) = self
            .shard
            .member((&owner, slot), COLUMNS[column], &member)
            .expect("the shard is readable");
        let expected = self.now[number as usize].cells[column].get(&member);
        assert_eq!(value, expected.map(Vec::as_slice), "of owner {number}, {member:?}");
    }

    fn read_ranks(&mut self, number: u64) {
        let (owner, slot) = self.owner(number);
        let (key, members) = (self.key(), self.members(number, 1));
        let order: Vec<&Vec<u8>> = self.now[number as usize].cells[1].keys().collect();
        let order: Vec<Vec<u8>> = order.into_iter().filter(|key| !is_node_key(key)).cloned().collect();
        let rank = self.shard.rank_in_memory((&owner, slot), members, &key);
        if let Some((rank, _)) = rank.expect("the shard is readable") {
            let expected = order.iter().filter(|other| **other < key).count();
            assert_eq!(rank, expected as u64, "of owner {number}, {key:?}");
        }
        if order.is_empty() {
            return;
        }
        let rank = self.random.random_range(0..order.len());
        let found = self
            .shard
            .key_at_rank_in_memory((&owner, slot), (members, Column::Score), rank as u64)
            .expect("the shard is readable");
        if let Some((key, _)) = found {
            assert_eq!(key, order[rank], "of owner {number}, rank {rank}");
        }
    }

    fn read_range(&mut self, number: u64) {
        let (owner, slot) = self.owner(number);
        let (mut from, to) = (self.key(), self.key());
        let mut to = Some(to);
        if to.as_ref().is_some_and(|to| from > *to) {
            std::mem::swap(&mut from, to.as_mut().expect("there is an end"));
        }
        let (is_whole, column) = (self.random.random_bool(0.3), self.random.random_range(0..2));
        if is_whole {
            (from, to) = (vec![0], Some(vec![1]));
        } else if self.random.random_bool(0.1) {
            (from, to) = (Vec::new(), None);
        }
        let backwards = self.random.random_bool(0.5);
        let direction = if backwards {
            Direction::Backward
        } else {
            Direction::Forward
        };
        let most = match self.random.random_bool(0.1) {
            true => usize::MAX,
            false => self.random.random_range(1..12),
        };
        let in_range = |key: &Vec<u8>| *key >= from && to.as_ref().is_none_or(|to| key < to);
        let cells = self.now[number as usize].cells[column].iter();
        let mut expected: Vec<(Vec<u8>, Vec<u8>)> = cells
            .filter(|(key, _)| in_range(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if backwards {
            expected.reverse();
        }
        expected.truncate(most);
        let mut found = Vec::new();
        let members = self.members(number, column);
        let range = (&from[..], to.as_deref());
        let epoch = self
            .shard
            .scan_members(
                (&owner, slot),
                members,
                COLUMNS[column],
                range,
                direction,
                &mut |key, value| {
                    found.push((key.to_vec(), value.to_vec()));
                    match found.len() < most {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                },
            )
            .expect("the shard is readable");
        assert!(
            found == expected,
            "of owner {number} {:?}, from {from:?} to {to:?}, {direction:?}: {found:?} and not {expected:?}",
            COLUMNS[column]
        );
        let written = self.uncommitted.get(&(number, column));
        if let Some(written) = written.filter(|_| is_whole && found.len() < most) {
            assert!(epoch >= *written, "written in turn {written}, read as of turn {epoch}");
        }
    }

    /// Many members come and go: walks past them take long.
    fn churn(&mut self) {
        let (number, column) = (self.random.random_range(0..OWNERS), self.random.random_range(0..2));
        if self.now[number as usize].version == 0 {
            return;
        }
        let low = self.random.random_range(0..6);
        for is_there in [true, false] {
            for name in 0..CHURNED {
                // Between the keys that others write.
                let mut key = vec![0, 0, 0, 0, 0, 0, 0, 0, low, b'b'];
                key.extend(name.to_be_bytes());
                self.write(number, column, &key, is_there.then(Vec::new));
            }
            self.keep();
            self.commit();
        }
    }

    /// Many members come, so that they are loaded by several reads.
    fn add_many(&mut self) {
        let number = self.random.random_range(0..OWNERS);
        if self.now[number as usize].version == 0 {
            return;
        }
        let column = self.random.random_range(0..2);
        for name in 0..ADDED {
            let mut key = self.key();
            key.extend(name.to_be_bytes());
            self.write(number, column, &key, Some(vec![b'x'; 5]));
        }
        self.keep();
    }

    fn commit(&mut self) {
        self.shard.write_through().expect("the disk takes writes");
        self.committed = self.now.clone();
        self.uncommitted.clear();
    }

    fn step(&mut self) {
        match self.random.random_range(0..2000) {
            0..=999 => self.command(),
            1000..=1899 => {
                let number = self.random.random_range(0..OWNERS);
                self.read(number);
            }
            1900..=1979 if self.members.is_some() && self.random.random_bool(0.03) => self.churn(),
            1900..=1979 => self.commit(),
            1980..=1985 if self.members.is_none() => self.add_many(),
            1980..=1989 => {
                self.shard.stop(&DatabaseError::DiskFull("full".to_owned()));
                self.shard.set_disk_full(false);
                self.now = self.committed.clone();
                self.uncommitted.clear();
            }
            _ => {
                self.shard.flush(None).expect("the disk takes writes");
                self.shard.keep_command();
                self.now = vec![Collection::default(); OWNERS as usize];
                self.commit();
            }
        }
    }
}

/// A key with cells in `data` whose names are numbers, as those of a list are, of which most were deleted again.
struct Shrunk {
    shard: Shard,
    owner: (Owner, Slot),
    left: std::ops::Range<u64>,
    members: u64,
    _folder: tempfile::TempDir,
}

impl Shrunk {
    /// `left` of `MANY` cells are there, and none is in memory.
    fn new(left: std::ops::Range<u64>) -> Shrunk {
        Shrunk::with_cache(left, 64 << 20)
    }

    /// The same, and none ever comes into memory.
    fn without_memory(left: std::ops::Range<u64>) -> Shrunk {
        Shrunk::with_cache(left, 0)
    }

    fn with_cache(left: std::ops::Range<u64>, cache_bytes: usize) -> Shrunk {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let resources = Resources::new(CACHE_BYTES, 2).expect("RocksDB starts");
        let database = Database::open(folder.path(), &resources, true).expect("the database opens");
        let mut shard = Shard::open(ShardId(0), database, cache_bytes).expect("the shard opens");
        shard.begin_turn(1);
        let (key, slot) = key_of(1);
        let version = shard.new_version(Type::Hash, 1);
        // Without a record the cells would be dead.
        let record = Record {
            kind: Type::Hash,
            version,
            payload: &[0; 8],
            ..Record::string(b"", 0)
        };
        let record = record.encode();
        shard
            .write(0, slot, &key, Some(record))
            .expect("the shard takes writes");
        let owner = Owner {
            database: 0,
            key,
            version,
        };
        for deletes in [false, true] {
            for number in (0..MANY).filter(|number| !deletes || !left.contains(number)) {
                let value = (!deletes).then_some(&b"value"[..]);
                shard
                    .write_member((&owner, slot), Column::Data, &number.to_be_bytes(), value)
                    .expect("the shard takes writes");
            }
            shard.keep_command();
            shard.write_through().expect("the disk takes writes");
        }
        let database = shard.database().clone();
        drop(shard);
        let mut shard = Shard::open(ShardId(0), database, cache_bytes).expect("the shard opens again");
        shard.begin_turn(1);
        let members = left.end - left.start;
        let owner = (owner, slot);
        Shrunk {
            shard,
            owner,
            left,
            members,
            _folder: folder,
        }
    }

    /// Reads the cells from one number to before another, and then says whether all of these are in memory.
    fn is_in_memory_after_read(&mut self, (from, to): (u64, u64)) -> bool {
        let Shrunk {
            shard,
            owner: (owner, slot),
            left,
            members,
            ..
        } = self;
        let (from_key, to_key) = (from.to_be_bytes(), to.to_be_bytes());
        let range = (&from_key[..], Some(&to_key[..]));
        let mut found = Vec::new();
        let mut visit = |key: &[u8], _: &[u8]| {
            found.push(u64::from_be_bytes(key.try_into().expect("a number")));
            ControlFlow::Continue(())
        };
        shard
            .scan_members(
                (owner, *slot),
                *members,
                Column::Data,
                range,
                Direction::Forward,
                &mut visit,
            )
            .expect("the shard is readable");
        shard.keep_command();
        assert!(found.into_iter().eq(from.max(left.start)..to.min(left.end)));
        let seen = shard.scan_in_memory(
            (owner, *slot),
            *members,
            Column::Data,
            range,
            Direction::Forward,
            &mut |_, _| ControlFlow::Continue(()),
        );
        shard.keep_command();
        seen.expect("the shard is readable").is_some()
    }
}

#[test]
fn a_load_does_not_walk_through_all_that_was_deleted_before_the_first_cell() {
    let left = (MANY - 100, MANY);
    let mut list = Shrunk::new(left.0..left.1);
    for _ in 0..3 {
        assert!(!list.is_in_memory_after_read(left), "a load gives up");
    }
    // When it is gone for good, the rest is loaded, some time.
    list.shard.database().compact(Column::Data);
    let reads = (0..1000).take_while(|_| !list.is_in_memory_after_read(left)).count();
    assert!(reads < 1000, "nothing was loaded");
    list.shard.database().stop_background_work();
}

/// How many deleted cells a read passes over that visits at most two cells of a range.
fn deleted_passed(list: &mut Shrunk, (from, to): (u64, Option<u64>), direction: Direction, expected: &[u64]) -> u64 {
    let before = list.shard.deleted_passed();
    let (from, to) = (from.to_be_bytes(), to.map(u64::to_be_bytes));
    let range = (&from[..], to.as_ref().map(|to| &to[..]));
    let mut found = Vec::new();
    let (owner, slot) = &list.owner;
    let mut visit = |key: &[u8], _: &[u8]| {
        found.push(u64::from_be_bytes(key.try_into().expect("a number")));
        match found.len() < 2 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    list.shard
        .scan_members((owner, *slot), list.members, Column::Data, range, direction, &mut visit)
        .expect("the shard is readable");
    list.shard.keep_command();
    assert_eq!(found, expected);
    list.shard.deleted_passed() - before
}

/// As entries that are acknowledged behind one that stays pending: the first of all stays, and others here and there.
#[test]
fn one_cell_that_stays_costs_nothing_to_those_behind_it() {
    /// Deleted cells that a read may pass over, whatever was deleted: those behind the range, and a few at a time.
    const PASSED_MAX: u64 = 3000;
    for is_on_disk in [true, false] {
        let mut list = Shrunk::without_memory(0..1);
        let write = |list: &mut Shrunk, number: u64, is_there: bool| {
            let (owner, slot) = &list.owner;
            let value = is_there.then_some(&[][..]);
            list.shard
                .write_member((owner, *slot), Column::Data, &number.to_be_bytes(), value)
                .expect("the shard takes writes");
            list.shard.keep_command();
        };
        // One in the midst, and the newest.
        [MANY / 2, 2 * MANY]
            .into_iter()
            .for_each(|number| write(&mut list, number, true));
        let keeps = |list: &mut Shrunk| {
            if is_on_disk {
                list.shard.write_through().expect("the disk takes writes");
            }
        };
        for (number, is_there) in (MANY..2 * MANY).flat_map(|number| [(number, true), (number, false)]) {
            write(&mut list, number, is_there);
        }
        keeps(&mut list);
        let ranges: [(u64, Option<u64>, Direction, &[u64]); 6] = [
            (0, None, Direction::Forward, &[0, MANY / 2]),
            (1, None, Direction::Forward, &[MANY / 2, 2 * MANY]),
            (MANY / 2 + 7, None, Direction::Forward, &[2 * MANY]),
            (0, None, Direction::Backward, &[2 * MANY, MANY / 2]),
            (1, Some(MANY), Direction::Backward, &[MANY / 2]),
            (100, Some(MANY / 2), Direction::Forward, &[]),
        ];
        let mut first = 0;
        for round in 0..3 {
            for (from, to, direction, expected) in ranges {
                let passed = deleted_passed(&mut list, (from, to), direction, expected);
                first += passed;
                assert!(
                    round == 0 || passed < PASSED_MAX,
                    "{round} {from}: {passed} deleted cells"
                );
            }
            // More go behind the first, and one comes and goes again.
            let number = 2 * MANY + 1 + round;
            [
                (number, true),
                (number, false),
                (MANY / 2 + 1, true),
                (MANY / 2 + 1, false),
            ]
            .into_iter()
            .for_each(|(number, is_there)| write(&mut list, number, is_there));
            keeps(&mut list);
        }
        assert!(
            first < 5 * MANY,
            "each deleted cell is passed over a few times: {first}"
        );
        list.shard.database().stop_background_work();
    }
}

#[test]
fn what_was_deleted_behind_the_last_cell_keeps_none_from_being_loaded() {
    let mut list = Shrunk::new(0..100);
    let reads = (0..10).take_while(|_| !list.is_in_memory_after_read((0, 100))).count();
    assert!(reads < 10, "nothing was loaded");
    list.shard.database().stop_background_work();
}

#[test]
fn members_in_memory_are_those_on_disk_whatever_becomes_of_the_writes() {
    let seed = seed("members_in_memory_are_those_on_disk_whatever_becomes_of_the_writes");
    let large = Some(1_000_000);
    for (cache_bytes, members) in [(0, None), (20_000, None), (1 << 20, None), (1 << 20, large), (0, large)] {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let resources = Resources::new(CACHE_BYTES, 2).expect("RocksDB starts");
        let database = Database::open(folder.path(), &resources, true).expect("the database opens");
        let mut test = Test {
            random: StdRng::seed_from_u64(seed),
            shard: Shard::open(ShardId(0), database, cache_bytes).expect("the shard opens"),
            turn: 0,
            now: vec![Collection::default(); OWNERS as usize],
            committed: vec![Collection::default(); OWNERS as usize],
            uncommitted: BTreeMap::new(),
            written: BTreeSet::new(),
            members,
            reads_in_memory: 0,
            reads_past_gaps: 0,
        };
        for step in 0..STEPS {
            if step % 3 == 0 {
                test.turn += 1;
                test.shard.begin_turn(test.turn);
            }
            test.step();
            // What was written since RocksDB got something stays, whatever the bound is.
            let pinned_max = if cache_bytes == 0 { 0 } else { PINNED_MAX };
            assert!(test.shard.residents().bytes() <= cache_bytes + pinned_max);
        }
        // With so little memory that none is kept, none is.
        assert_eq!(test.reads_in_memory > STEPS / 10, cache_bytes > 0);
        assert!(test.reads_past_gaps > 0 || cache_bytes > 0 || members.is_none());
        test.shard.database().stop_background_work();
    }
}
