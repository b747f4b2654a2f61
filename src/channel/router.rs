//! From a key to the executor that owns it: key → slot → shard → storage executor.
//!
//! Slots are those of the [Redis Cluster specification](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/):
//! CRC16-XMODEM of the key, or of its `{hash tag}`, modulo 16384.

use crc::{CRC_16_XMODEM, Crc, Table};
use std::ops::Range;

/// The number of hash slots.
pub const SLOT_COUNT: u16 = 16384;

const CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);

/// A hash slot, `0..SLOT_COUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// A shard's number, `0..shard count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A storage executor's number, `0..storage executor count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageId(pub u16);

impl Slot {
    /// The slot of a key.
    #[inline]
    pub fn of(key: &[u8]) -> Slot {
        Slot(CRC16.checksum(hash_tag(key)) % SLOT_COUNT)
    }
}

/// What is hashed of a key: the bytes between the first `{` and the next `}`, if there are any, or else all of it.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let inside = &key[open + 1..];
    match memchr::memchr(b'}', inside) {
        Some(len) if len > 0 => &inside[..len],
        _ => key,
    }
}

/// Which shard has a slot, and which executor a shard.
#[derive(Clone, Debug)]
pub struct Router {
    shard_count: u16,
    executors: Vec<StorageId>,
}

impl Router {
    /// `executors[s]` is the storage executor that owns shard `s`.
    pub fn new(executors: Vec<StorageId>) -> Router {
        let shard_count = u16::try_from(executors.len()).expect("a manifest allows at most 1024 shards");
        assert!(
            (1..=SLOT_COUNT).contains(&shard_count),
            "a server has at least one shard and at least a slot for each"
        );
        Router { shard_count, executors }
    }

    /// The number of shards.
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// The number of storage executors.
    pub fn executor_count(&self) -> usize {
        self.executors.iter().map(|id| usize::from(id.0) + 1).max().unwrap_or(0)
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

/// The shard, of `shard_count`, that has a slot: shards are contiguous ranges of slots, of equal size to within one.
#[inline]
pub fn shard_of(slot: Slot, shard_count: u16) -> ShardId {
    ShardId((u32::from(slot.0) * u32::from(shard_count) / u32::from(SLOT_COUNT)) as u16)
}

/// The slots of a shard.
pub fn slots_of(shard: ShardId, shard_count: u16) -> Range<u16> {
    let first = |shard: u32| (shard * u32::from(SLOT_COUNT)).div_ceil(u32::from(shard_count)) as u16;
    first(u32::from(shard.0))..first(u32::from(shard.0) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // CLUSTER KEYSLOT of a real server.
        for (key, slot) in [
            ("123456789", 12739),
            ("foo", 12182),
            ("{foo}bar", 12182),
            ("a{}b", 13694),
            ("", 0),
            ("foo{{bar}}zap", 4015),
        ] {
            assert_eq!(Slot::of(key.as_bytes()), Slot(slot), "{key}");
        }
    }

    #[test]
    fn every_slot_lies_in_the_range_of_its_shard() {
        for shard_count in [1, 2, 3, 4, 7, 64, 1000, 1024] {
            let mut next = 0;
            for shard in (0..shard_count).map(ShardId) {
                let slots = slots_of(shard, shard_count);
                assert_eq!(slots.start, next, "ranges are contiguous");
                assert!(!slots.is_empty());
                assert!(slots.clone().all(|slot| shard_of(Slot(slot), shard_count) == shard));
                next = slots.end;
            }
            assert_eq!(next, SLOT_COUNT);
        }
    }
}
