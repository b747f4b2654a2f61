//! The orders of sorted sets that a shard keeps in memory, against a model: whatever is written, taken back, committed,
//! lost with a full disk or flushed, a read of an order shows what was written last and not taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use corelane::slots::{ShardId, Slot};
use corelane::storage::database::{Column, Database, DatabaseError, Direction, Opening, Resources};
use corelane::storage::shard::{Owner, Shard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::seed;

const OWNERS: u64 = 4;
const STEPS: usize = 8_000;
/// Members that come and go at once.
const CHURNED: u32 = 4_000;

const CACHE_BYTES: usize = 16 << 20;

/// The members of each owner.
type Orders = BTreeMap<u64, BTreeSet<Vec<u8>>>;

fn owner(number: u64) -> (Owner, Slot) {
    // Two versions of each of two keys.
    let key = format!("set{}", number / 2).into_bytes();
    let slot = Slot::of(&key);
    let (database, version) = (0, 1 + number);
    (Owner { database, key, version }, slot)
}

struct Test {
    random: StdRng,
    shard: Shard,
    turn: u64,
    now: Orders,
    committed: Orders,
    /// The turn of the last write to each owner, if it is not committed.
    uncommitted: BTreeMap<u64, u64>,
    /// What the sets are said to have.
    members: Option<u64>,
    /// How often an order was read that was in memory.
    reads_in_memory: usize,
    /// How often one was read of which gaps were known.
    reads_past_gaps: usize,
}

impl Test {
    /// A key of `score`, or a beginning of one, as a sorted set has them: a zero, then the score, then the name.
    fn key(&mut self) -> Vec<u8> {
        let mut key = vec![0; 8];
        key.push(self.random.random_range(0..6));
        key.extend((0..self.random.random_range(0..3)).map(|_| b'a'));
        key
    }

    fn command(&mut self) {
        let (mut orders, mut written) = (self.now.clone(), BTreeSet::new());
        for _ in 0..self.random.random_range(1..6) {
            let number = self.random.random_range(0..OWNERS);
            let (owner, slot) = owner(number);
            let (key, is_there) = (self.key(), self.random.random_bool(0.6));
            let value = is_there.then(Vec::new);
            self.shard
                .write_member((&owner, slot), Column::Score, &key, value)
                .expect("the shard takes writes");
            // What a counted tree keeps beside the members is no part of the order.
            self.shard
                .write_member((&owner, slot), Column::Score, &[1, 7], Some(vec![1]))
                .expect("the shard takes writes");
            let order = orders.entry(number).or_default();
            if is_there {
                order.insert(key);
            } else {
                order.remove(&key);
            }
            written.insert(number);
            if self.random.random_bool(0.3) {
                // The command reads what it has written.
                let kept = std::mem::replace(&mut self.now, orders.clone());
                self.read(number);
                self.now = kept;
            }
        }
        if self.random.random_bool(0.2) {
            self.shard.roll_back_command();
            return;
        }
        self.shard.keep_command();
        self.now = orders;
        written.iter().for_each(|number| {
            self.uncommitted.insert(*number, self.turn);
        });
    }

    fn read(&mut self, number: u64) {
        let (owner, slot) = owner(number);
        let (mut from, mut to) = (self.key(), self.key());
        if from > to {
            std::mem::swap(&mut from, &mut to);
        }
        let is_whole = self.random.random_bool(0.3);
        if is_whole {
            (from, to) = (vec![0], vec![1]);
        }
        let backwards = self.random.random_bool(0.5);
        let direction = if backwards {
            Direction::Backward
        } else {
            Direction::Forward
        };
        let most = self.random.random_range(1..12);
        let mut expected: Vec<Vec<u8>> = Vec::new();
        if let Some(order) = self.now.get(&number) {
            let range = from.clone()..to.clone();
            expected.extend(order.iter().filter(|key| range.contains(*key)).cloned());
        }
        if backwards {
            expected.reverse();
        }
        expected.truncate(most);
        let mut found = Vec::new();
        let members = self.now.get(&number).map_or(0, BTreeSet::len) as u64;
        let members = self.members.unwrap_or(members);
        let epoch = self
            .shard
            .scan_order((&owner, slot), members, (&from, &to), direction, &mut |key, value| {
                assert!(value.is_empty());
                found.push(key.to_vec());
                match found.len() < most {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })
            .expect("the shard is readable");
        assert_eq!(
            found, expected,
            "of owner {number}, from {from:?} to {to:?}, {direction:?}"
        );
        if let Some(written) = self.uncommitted.get(&number).filter(|_| is_whole && found.len() < most) {
            assert!(epoch >= *written, "written in turn {written}, read as of turn {epoch}");
        }
        self.reads_in_memory += usize::from(!self.shard.orders().is_empty());
        self.reads_past_gaps += usize::from(!self.shard.gaps().is_empty());
    }

    /// Many members come and go: walks past them are slow, whatever the machine.
    fn churn(&mut self) {
        let number = self.random.random_range(0..OWNERS);
        let (owner, slot) = owner(number);
        let low = self.random.random_range(0..6);
        for is_there in [true, false] {
            for name in 0..CHURNED {
                // Between the keys that others write.
                let mut key = vec![0, 0, 0, 0, 0, 0, 0, 0, low, b'b'];
                key.extend(name.to_be_bytes());
                self.shard
                    .write_member((&owner, slot), Column::Score, &key, is_there.then(Vec::new))
                    .expect("the shard takes writes");
            }
            self.shard.keep_command();
            self.commit();
        }
    }

    fn commit(&mut self) {
        self.shard.commit().expect("the disk takes writes");
        self.committed = self.now.clone();
        self.uncommitted.clear();
    }
}

#[test]
fn an_order_in_memory_is_the_one_on_disk_whatever_becomes_of_the_writes() {
    let seed = seed("an_order_in_memory_is_the_one_on_disk_whatever_becomes_of_the_writes");
    for (cache_bytes, members) in [(0, None), (20_000, None), (1 << 20, None), (1 << 20, Some(1_000_000))] {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let resources = Resources::new(CACHE_BYTES, CACHE_BYTES, 1, 2).expect("RocksDB starts");
        let opening = Opening {
            creates: true,
            ..Opening::default()
        };
        let database = Database::open(folder.path(), &resources, opening).expect("the database opens");
        let mut test = Test {
            random: StdRng::seed_from_u64(seed),
            shard: Shard::open(ShardId(0), database, cache_bytes).expect("the shard opens"),
            turn: 0,
            now: Orders::new(),
            committed: Orders::new(),
            uncommitted: BTreeMap::new(),
            members,
            reads_in_memory: 0,
            reads_past_gaps: 0,
        };
        for step in 0..STEPS {
            if step % 3 == 0 {
                test.turn += 1;
                test.shard.begin_turn(test.turn);
            }
            match test.random.random_range(0..200) {
                0..=99 => test.command(),
                100..=189 => {
                    let number = test.random.random_range(0..OWNERS);
                    test.read(number);
                }
                190..=197 if members.is_some() && test.random.random_bool(0.03) => test.churn(),
                190..=197 => test.commit(),
                198 => {
                    test.shard.stop(&DatabaseError::DiskFull("full".to_owned()));
                    test.shard.set_disk_full(false);
                    test.now = test.committed.clone();
                    test.uncommitted.clear();
                }
                _ => {
                    test.shard.flush(None).expect("the disk takes writes");
                    test.shard.keep_command();
                    test.now = Orders::new();
                    test.commit();
                }
            }
        }
        // With so little memory that none is kept, none is; of large sets, only gaps are.
        assert_eq!(test.reads_in_memory > STEPS / 10, cache_bytes > 0 && members.is_none());
        assert_eq!(test.reads_past_gaps > STEPS / 10, members.is_some());
        test.shard.database().stop_background_work();
    }
}
