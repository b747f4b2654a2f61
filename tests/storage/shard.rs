//! One shard against a model, without a server: whatever becomes of its batches, and in whatever order, every key holds
//! what was last written and not taken back, the counts are those of the keys, and no read leaves before what it saw.
//!
//! Commands that succeed and fail, batches written at once, by the committer or by hand (then the disk may be full, or
//! RocksDB stalled), parts of commands that fail alone, FLUSHDB, SWAPDB, scans and restarts; with a table of hot
//! records that holds everything, little or nothing. A look-up trusts the table
//! to know when it holds every key, so one that is wrong about that loses keys here.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use corelane::executor::committer::Committer;
use corelane::slots::{ShardId, Slot};
use corelane::storage::database::{BatchWriter, Column, Database, DatabaseError, Opening, Resources, Writes};
use corelane::storage::encoding::{Counts, DATABASE_COUNT, Record};
use corelane::storage::shard::{Shard, ShardState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::contents::Contents;
use super::seed;

/// So few that commands and batches meet.
const DATABASES: u8 = 3;
const KEYS: u8 = 8;

/// A deadline that no test lives to see.
const FAR_MS: u64 = 1 << 45;

/// Above what stays in the table of hot records.
const LARGE_BYTES: usize = 70_000;

const STEPS: usize = 6_000;

/// Block cache and memtables, in bytes.
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
    /// The turn of the last write to a key, deletions too, that is not committed.
    uncommitted: BTreeMap<(u8, u8), u64>,
}

/// A batch that was begun.
enum UnderWay {
    ByHand(Writes),
    Submitted,
}

struct Test {
    random: StdRng,
    resources: Resources,
    committer: Arc<Committer>,
    committer_thread: JoinHandle<()>,
    shard: Shard,
    cache_bytes: usize,
    turn: u64,
    now: Model,
    /// What is on disk.
    committed: Model,
    /// What will be when the batch under way is written.
    under_way: Option<(UnderWay, Model)>,
}

fn open(path: &Path, resources: &Resources, committer: &Arc<Committer>, cache_bytes: usize, create: bool) -> Shard {
    let opening = Opening {
        creates: create,
        ..Opening::default()
    };
    let database = Database::open(path, resources, opening).expect("the database opens");
    let mut shard = Shard::open(ShardId(0), database, cache_bytes).expect("the shard opens");
    shard.set_committer(committer.clone(), 0);
    shard
}

fn name(key: u8) -> Vec<u8> {
    format!("key{key}").into_bytes()
}

impl Test {
    fn new(path: &Path, cache_bytes: usize, seed: u64) -> Test {
        let resources = Resources::new(CACHE_BYTES, CACHE_BYTES, 1, 2).expect("RocksDB starts");
        let (wake, _) = flume::bounded(1);
        let (committer, committer_thread) =
            Committer::start("committer-test".to_owned(), wake, || {}).expect("a thread starts");
        let shard = open(path, &resources, &committer, cache_bytes, true);
        let mut test = Test {
            random: StdRng::seed_from_u64(seed),
            resources,
            committer,
            committer_thread,
            shard,
            cache_bytes,
            turn: 0,
            now: Model::default(),
            committed: Model::default(),
            under_way: None,
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
        let released = self.shard.released_epoch(None);
        let name = name(key);
        let (record, epoch) = self
            .shard
            .read(database, Slot::of(&name), &name)
            .expect("the shard is readable");
        assert!(
            record.map(|record| record.encode()) == expected,
            "key {key} of database {database} is not what was written last"
        );
        if let Some(written) = self.now.uncommitted.get(&(database, key)) {
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
            self.now.uncommitted.insert(place, self.turn);
        }
        match stored {
            Some(stored) => self.now.keys.insert(place, stored),
            None => self.now.keys.remove(&place),
        };
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

    /// Begins a batch, for the committer or to be decided on by hand.
    fn begin(&mut self) {
        let Some(writes) = self.shard.begin_commit() else {
            return;
        };
        let model = self.now.clone();
        let under_way = if self.random.random_bool(0.3) {
            self.committer.submit(0, Arc::clone(self.shard.database()), writes);
            UnderWay::Submitted
        } else {
            UnderWay::ByHand(writes)
        };
        self.under_way = Some((under_way, model));
    }

    fn wrote(&mut self, model: Model) {
        // What was written again meanwhile is still to be committed.
        self.now
            .uncommitted
            .retain(|place, turn| model.uncommitted.get(place).is_none_or(|committed| *turn > *committed));
        self.committed = Model {
            uncommitted: BTreeMap::new(),
            ..model
        };
    }

    fn finish(&mut self) {
        let Some((under_way, model)) = self.under_way.take() else {
            return;
        };
        let writes = match under_way {
            UnderWay::ByHand(writes) => writes,
            UnderWay::Submitted => {
                let written = self.committer.wait_for(0);
                self.shard.finish_commit(written).expect("the disk takes writes");
                return self.wrote(model);
            }
        };
        match self.random.random_range(0..10) {
            0..=1 => {
                let _ = self.shard.finish_commit(Err(DatabaseError::Stalled));
                assert_eq!(*self.shard.state(), ShardState::Stalled);
                assert!(self.shard.has_staged(), "what was refused is still to be committed");
            }
            2..=3 => {
                let full = DatabaseError::DiskFull("on request".to_owned());
                let _ = self.shard.finish_commit(Err(full));
                assert_eq!(*self.shard.state(), ShardState::ReadOnly);
                let first = self.now.uncommitted.values().min().copied().unwrap_or(u64::MAX);
                let rolled_back = self.shard.take_rolled_back().expect("something was staged");
                assert!(rolled_back.from_epoch <= first, "the first turn must be answered too");
                assert!(!self.shard.has_staged());
                self.now = self.committed.clone();
                self.shard.set_disk_full(false);
                assert_eq!(*self.shard.state(), ShardState::Healthy);
            }
            _ => {
                let written = self.shard.database().write(writes);
                self.shard.finish_commit(written).expect("the disk takes writes");
                self.wrote(model);
            }
        }
    }

    /// What the shard itself commits first (by way of the committer's batch, if it has one).
    fn committed_by_itself(&mut self) {
        self.under_way = None;
        self.now.uncommitted.clear();
        self.committed = self.now.clone();
    }

    fn settle_by_hand(&mut self) {
        if matches!(self.under_way, Some((UnderWay::ByHand(_), _))) {
            self.finish();
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
            self.now.uncommitted.insert(*place, self.turn);
        }
        self.now.keys.retain(|(number, _), _| !emptied(*number));
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
        for key in 0..KEYS {
            for number in [first, second] {
                self.now.uncommitted.insert((number, key), self.turn);
            }
        }
    }

    fn scan(&mut self) {
        let database = self.random.random_range(0..DATABASES);
        let mut found = Vec::new();
        let scanned = self.shard.scan(database, 0..16384, None, |_, key, _| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        });
        let epoch = scanned.expect("the shard is readable");
        let written = self
            .now
            .uncommitted
            .iter()
            .filter(|((number, _), _)| *number == database);
        let newest = written.map(|(_, turn)| *turn).max().unwrap_or(0);
        assert!(epoch >= newest, "a scan saw turn {newest} and says {epoch}");
        found.sort();
        let expected: Vec<Vec<u8>> = (0..KEYS)
            .filter(|key| self.now.keys.contains_key(&(database, *key)))
            .map(name)
            .collect();
        assert_eq!(found, expected, "a scan finds the keys of database {database}");
    }

    /// The process is killed, or has stopped if nothing is staged; looks at what is on disk and goes on from there.
    fn restart(mut self, path: &Path) -> Test {
        if matches!(self.under_way, Some((UnderWay::Submitted, _))) {
            self.finish();
        }
        self.under_way = None;
        self.now = self.committed.clone();
        Contents::of(self.shard.database()).check();
        self.shard.database().stop_background_work();
        let Test {
            shard,
            resources,
            committer,
            cache_bytes,
            turn,
            ..
        } = self;
        drop(shard);
        let mut shard = open(path, &resources, &committer, cache_bytes, false);
        shard.begin_turn(turn);
        Test {
            shard,
            resources,
            committer,
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

    fn end(self) {
        self.committer.stop();
        self.committer_thread.join().expect("the committer does not panic");
        self.shard.database().stop_background_work();
    }
}

#[test]
fn a_shard_holds_what_the_model_says_whatever_becomes_of_its_batches() {
    let seed = seed("a_shard_holds_what_the_model_says_whatever_becomes_of_its_batches");
    for cache_bytes in [0, 2_000, 1 << 20] {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let path = folder.path().join("shard");
        let mut test = Test::new(&path, cache_bytes, seed);
        for _ in 0..STEPS {
            match test.random.random_range(0..200) {
                0..=99 => test.command(),
                100..=129 => test.next_turn(),
                130..=154 if test.under_way.is_none() => test.begin(),
                130..=184 => test.finish(),
                185..=191 => test.scan(),
                192..=197 => test.command(),
                198 => {
                    test.settle_by_hand();
                    test.shard.commit().expect("the disk takes writes");
                    test.committed_by_itself();
                }
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
    let resources = Resources::new(CACHE_BYTES, CACHE_BYTES, 1, 2).expect("RocksDB starts");
    let (wake, _) = flume::bounded(1);
    let (committer, committer_thread) =
        Committer::start("committer".to_owned(), wake, || {}).expect("a thread can be started");
    let record = Record::string(b"value", 0).encode();
    let is_there = |shard: &mut Shard, key: u8| {
        let name = name(key);
        let (record, _) = shard.read(0, Slot::of(&name), &name).expect("the shard can be read");
        record.is_some()
    };
    let mut shard = open(&path, &resources, &committer, 1 << 20, true);
    shard.begin_turn(1);
    for key in 0..3 {
        let name = name(key);
        let written = shard.write(0, Slot::of(&name), &name, Some(record.clone()));
        written.expect("the shard takes writes");
    }
    shard.commit().expect("the disk takes writes");
    let mut writes = shard.database().writes(64);
    let wrong = Counts { keys: 1, expires: 0 };
    writes.put(Column::System, &Counts::key(0), &wrong.encode());
    shard.database().write(writes.finish()).expect("the disk takes writes");
    shard.database().stop_background_work();
    drop(shard);

    let mut shard = open(&path, &resources, &committer, 1 << 20, false);
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
    shard.commit().expect("the disk takes writes");
    assert!(is_there(&mut shard, 2));
    shard.database().stop_background_work();
    drop(shard);

    let mut shard = open(&path, &resources, &committer, 1 << 20, false);
    assert_eq!(shard.counts(0), Counts { keys: 1, expires: 0 });
    shard.begin_turn(1);
    assert!(is_there(&mut shard, 2) && !is_there(&mut shard, 0));
    shard.database().stop_background_work();
    drop(shard);
    committer.stop();
    committer_thread.join().expect("the committer does not panic");
}
