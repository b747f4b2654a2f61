//! From a key to the executor that owns it: key → slot → shard → storage executor.

use crate::slots::{SLOT_COUNT, ShardId, Slot, shard_of};

/// A storage executor's number, `0..storage executor count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageId(pub u16);

/// Which shard has a slot, and which executor a shard.
#[derive(Clone, Debug)]
pub struct Router {
    shard_count: u16,
    executors: Vec<StorageId>,
    executor_count: usize,
}

impl Router {
    /// `executors[s]` is the storage executor that owns shard `s`.
    pub fn new(executors: Vec<StorageId>) -> Router {
        let shard_count = u16::try_from(executors.len()).expect("a manifest allows at most 1024 shards");
        assert!(
            (1..=SLOT_COUNT).contains(&shard_count),
            "a server has at least one shard and at least a slot for each"
        );
        let executor_count = executors.iter().map(|id| usize::from(id.0) + 1).max().unwrap_or(0);
        Router {
            shard_count,
            executors,
            executor_count,
        }
    }

    /// The number of shards.
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// The number of storage executors.
    #[inline]
    pub fn executor_count(&self) -> usize {
        self.executor_count
    }

    /// The shard that has a slot.
    #[inline]
    pub fn shard_of(&self, slot: Slot) -> ShardId {
        shard_of(slot, self.shard_count)
    }

    /// The executor that owns a slot's shard.
    #[inline]
    pub fn executor_of(&self, slot: Slot) -> StorageId {
        self.executors[usize::from(self.shard_of(slot).0)]
    }

    /// The executor that owns the shard of a key. Where there is only one, the key's hash slot is not computed.
    #[inline]
    pub fn executor_of_key(&self, key: &[u8]) -> StorageId {
        match self.executor_count {
            1 => self.executors[0],
            _ => self.executor_of(Slot::of(key)),
        }
    }

    /// The executor that owns a shard.
    pub fn owner(&self, shard: ShardId) -> StorageId {
        self.executors[usize::from(shard.0)]
    }

    /// The shards of one executor.
    pub fn shards_of(&self, executor: StorageId) -> impl Iterator<Item = ShardId> + '_ {
        (0..self.shard_count)
            .map(ShardId)
            .filter(move |shard| self.owner(*shard) == executor)
    }
}
