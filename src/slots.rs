//! Hash slots and the shards that have them.
//!
//! Slots are those of the [Redis Cluster
//! specification](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/): CRC16-XMODEM of the key,
//! or of its `{hash tag}`, modulo 16384.

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

impl Slot {
    /// The slot of a key.
    #[inline]
    pub fn of(key: &[u8]) -> Slot {
        Slot(CRC16.checksum(hash_tag(key)) % SLOT_COUNT)
    }
}

/// The part of a key that is hashed: the bytes between the first `{` and the next `}`, if there are any, or else all.
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
