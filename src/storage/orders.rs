//! The orders of hot sorted sets in memory: the keys that their members have in the column `score`.
//!
//! RocksDB reads a range from its beginning by looking through all that was ever written there and is not compacted
//! yet. Scores that change all the time leave hundreds of thousands of deleted keys between those of some hundred
//! members, and a walk along the members would look through them each time; and even where nothing was deleted, to
//! begin a walk costs more than to go along a small set in memory.
//!
//! So a small set is kept when it is read for the second time, and a larger one when a walk along it has been slow.
//! From then on writes are applied to what is kept, so that it is what a read of RocksDB and of the staged records
//! would find. What a failed command wrote is dropped, since it could not be taken back one by one.

use super::database::Direction;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::time::Duration;

/// Members of a set that is kept when it is read again: to read all of it costs about as much as to begin a walk.
const SMALL_MEMBERS_MAX: u64 = 128;

/// Members of a set that is kept when it is slow: more would take milliseconds to read, and have fewer deleted keys
/// between any two of them.
const MEMBERS_MAX: u64 = 8192;

/// A walk that takes longer than this, and this for each member, has looked through much else: without it takes 15 µs,
/// and less than one.
pub const WALK_MAX: Duration = Duration::from_micros(300);
const WALK_MAX_PER_MEMBER: Duration = Duration::from_micros(3);

/// What a key costs beside its bytes: its place in the tree, an allocation.
const KEY_BYTES: usize = 48;

/// What an order costs beside its keys.
const ORDER_BYTES: usize = 256;

/// Of the owners that were read and are not kept, so many are remembered; a power of two.
const REMEMBERED: usize = 1024;

/// One set's keys, behind what all of them begin with.
struct Order {
    keys: BTreeSet<Box<[u8]>>,
    bytes: usize,
    /// The epoch of the newest write that the order shows.
    epoch: u64,
    used: bool,
}

/// The orders of a shard, by what their keys in `score` begin with.
pub struct Orders {
    by_owner: HashMap<Box<[u8]>, Order, foldhash::fast::RandomState>,
    /// The owners, oldest first: the next to go is the first that was not used since it was last looked at.
    queue: VecDeque<Box<[u8]>>,
    /// Hashes of owners that were read, each in the bucket that it names; the lowest bit says that it was slow.
    remembered: Vec<u64>,
    bytes: usize,
    bytes_max: usize,
}

impl Orders {
    /// No orders yet, and never more than about `bytes_max` bytes of them.
    pub fn new(bytes_max: usize) -> Orders {
        Orders {
            by_owner: HashMap::default(),
            queue: VecDeque::new(),
            remembered: vec![0; REMEMBERED],
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_owner.is_empty()
    }

    /// How much memory they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Calls `visit` with the keys from `from` to before `to` of an owner whose order is kept, until it breaks. Returns
    /// the newest epoch whose writes were seen; `None` if it is not kept.
    pub fn visit(
        &mut self,
        owner: &[u8],
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Option<u64> {
        let order = self.by_owner.get_mut(owner)?;
        order.used = true;
        if from < to {
            let mut keys = order
                .keys
                .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
            while let Some(key) = match direction {
                Direction::Forward => keys.next(),
                Direction::Backward => keys.next_back(),
            } {
                if visit(key).is_break() {
                    break;
                }
            }
        }
        Some(order.epoch)
    }

    /// Whether the order of a set of `members` members may be kept, if it is slow to read.
    pub fn may_keep(members: u64) -> bool {
        members <= MEMBERS_MAX
    }

    /// Whether the order of a set of `members` members should be read whole and kept, now that it is read; `hash` is
    /// its owner's.
    pub fn is_wanted(&mut self, hash: u64, members: u64) -> bool {
        let bucket = &mut self.remembered[hash as usize % REMEMBERED];
        let (was_read, was_slow) = (*bucket | 1 == hash | 1, *bucket == hash | 1);
        if !was_read {
            *bucket = hash & !1;
        }
        was_read && (members <= SMALL_MEMBERS_MAX || was_slow && members <= MEMBERS_MAX)
    }

    /// A walk along `visited` members of an owner took `elapsed`.
    pub fn walked(&mut self, hash: u64, visited: u32, elapsed: Duration) {
        if elapsed > WALK_MAX + WALK_MAX_PER_MEMBER * visited {
            self.remembered[hash as usize % REMEMBERED] = hash | 1;
        }
    }

    /// Keeps the order of an owner, as it is in `epoch`, unless it is too large.
    pub fn keep(&mut self, owner: &[u8], keys: BTreeSet<Box<[u8]>>, epoch: u64) {
        let bytes = ORDER_BYTES + 2 * owner.len() + keys.iter().map(|key| KEY_BYTES + key.len()).sum::<usize>();
        // One set must not displace all others.
        if bytes > self.bytes_max / 4 || keys.len() as u64 > MEMBERS_MAX {
            return;
        }
        self.drop_owner(owner);
        while self.bytes + bytes > self.bytes_max && self.evict_one() {}
        self.bytes += bytes;
        let order = Order {
            keys,
            bytes,
            epoch,
            used: false,
        };
        self.by_owner.insert(owner.into(), order);
        self.queue.push_back(owner.into());
    }

    /// A key of an owner was written in `epoch`, or deleted.
    pub fn apply(&mut self, owner: &[u8], key: &[u8], is_there: bool, epoch: u64) {
        let Some(order) = self.by_owner.get_mut(owner) else {
            return;
        };
        order.epoch = epoch;
        let cost = KEY_BYTES + key.len();
        if is_there && order.keys.insert(key.into()) {
            order.bytes += cost;
            self.bytes += cost;
        } else if !is_there && order.keys.remove(key) {
            order.bytes -= cost;
            self.bytes -= cost;
        }
        if order.keys.len() as u64 > MEMBERS_MAX || order.bytes > self.bytes_max / 4 {
            self.drop_owner(owner);
        }
        while self.bytes > self.bytes_max && self.evict_one() {}
    }

    /// What is kept of an owner may not be true any more.
    pub fn drop_owner(&mut self, owner: &[u8]) {
        if let Some(order) = self.by_owner.remove(owner) {
            self.bytes -= order.bytes;
            self.queue.retain(|other| **other != *owner);
        }
    }

    /// Nothing that is kept may be true any more.
    pub fn clear(&mut self) {
        *self = Orders::new(self.bytes_max);
    }

    /// Drops the order that was not used for longest, more or less; whether there was one.
    fn evict_one(&mut self) -> bool {
        while let Some(owner) = self.queue.pop_front() {
            let Some(order) = self.by_owner.get_mut(&owner) else {
                continue;
            };
            if std::mem::take(&mut order.used) {
                self.queue.push_back(owner);
                continue;
            }
            self.bytes -= order.bytes;
            self.by_owner.remove(&owner);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[&str]) -> BTreeSet<Box<[u8]>> {
        names.iter().map(|name| name.as_bytes().into()).collect()
    }

    fn found(orders: &mut Orders, owner: &[u8], range: (&[u8], &[u8]), direction: Direction) -> Option<Vec<String>> {
        let mut found = Vec::new();
        orders.visit(owner, range, direction, |key| {
            found.push(String::from_utf8_lossy(key).into_owned());
            ControlFlow::Continue(())
        })?;
        Some(found)
    }

    #[test]
    fn what_is_kept_follows_the_writes_and_is_read_both_ways() {
        let mut orders = Orders::new(1 << 20);
        orders.keep(b"z", keys(&["b", "d"]), 3);
        orders.apply(b"z", b"c", true, 4);
        orders.apply(b"z", b"d", false, 5);
        orders.apply(b"z", b"e", true, 5);
        orders.apply(b"other", b"e", true, 9);
        let all: (&[u8], &[u8]) = (b"a", b"f");
        let forward = found(&mut orders, b"z", all, Direction::Forward);
        assert_eq!(forward.as_deref(), Some(&["b", "c", "e"].map(str::to_owned)[..]));
        let backward = found(&mut orders, b"z", (b"c", b"e"), Direction::Backward);
        assert_eq!(backward.as_deref(), Some(&["c".to_owned()][..]));
        assert_eq!(
            found(&mut orders, b"z", (b"e", b"c"), Direction::Forward),
            Some(Vec::new())
        );
        assert_eq!(found(&mut orders, b"other", all, Direction::Forward), None);
        assert_eq!(
            orders.visit(b"z", all, Direction::Forward, |_| ControlFlow::Break(())),
            Some(5)
        );
        orders.drop_owner(b"z");
        assert_eq!(
            (found(&mut orders, b"z", all, Direction::Forward), orders.bytes()),
            (None, 0)
        );
    }

    #[test]
    fn memory_stays_within_its_bound_and_what_is_read_stays() {
        let mut orders = Orders::new(100_000);
        for number in 0..5_000_u32 {
            orders.keep(&number.to_be_bytes(), keys(&["a", "b", "c"]), 1);
            orders.apply(&number.to_be_bytes(), b"dddddddd", true, 1);
            orders.keep(b"read", keys(&["a"]), 1);
            assert!(found(&mut orders, b"read", (b"", b"z"), Direction::Forward).is_some());
            if number > 0 {
                assert!(found(&mut orders, &0_u32.to_be_bytes(), (b"", b"z"), Direction::Forward).is_some());
            }
            assert!(orders.bytes() <= 100_000);
        }
        assert!(orders.bytes() > 50_000);
        // An order that grows too large is dropped.
        for number in 0..10_000_u32 {
            orders.apply(b"read", &number.to_be_bytes(), true, 1);
        }
        assert!(found(&mut orders, b"read", (b"", b"z"), Direction::Forward).is_none());
        assert!(orders.bytes() <= 100_000);
        orders.clear();
        assert_eq!((orders.bytes(), orders.is_empty()), (0, true));
    }

    #[test]
    fn small_sets_are_wanted_when_read_again_and_larger_ones_when_slow() {
        let mut orders = Orders::new(1 << 20);
        assert!(!orders.is_wanted(1 << 20, 10));
        assert!(orders.is_wanted(1 << 20, 10));
        assert!(!orders.is_wanted(1 << 20, 1000));
        orders.walked(1 << 20, 10, Duration::from_micros(100));
        assert!(!orders.is_wanted(1 << 20, 1000));
        orders.walked(1 << 20, 1000, Duration::from_micros(2000));
        assert!(!orders.is_wanted(1 << 20, 1000));
        orders.walked(1 << 20, 10, Duration::from_micros(2000));
        assert!(orders.is_wanted(1 << 20, 1000));
        assert!(!orders.is_wanted(1 << 20, 1_000_000));
    }
}
