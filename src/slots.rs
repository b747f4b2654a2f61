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

/// Remembers the slots of keys that were asked for lately: a command asks for its key's several times, and a look at
/// the bytes is quicker than their checksum.
pub struct SlotMemo {
    places: [RememberedSlot; SlotMemo::PLACES],
}

/// A key and its slot; longer keys are not remembered.
#[derive(Clone, Copy)]
struct RememberedSlot {
    len: u8,
    key: [u8; SlotMemo::KEY_LEN_MAX],
    slot: Slot,
}

impl Default for SlotMemo {
    fn default() -> SlotMemo {
        // No key is empty here but the one whose slot this is.
        let empty = RememberedSlot {
            len: 0,
            key: [0; SlotMemo::KEY_LEN_MAX],
            slot: Slot::of(b""),
        };
        SlotMemo {
            places: [empty; SlotMemo::PLACES],
        }
    }
}

impl SlotMemo {
    /// Twice as many as keys are looked ahead at.
    const PLACES: usize = 64;
    const KEY_LEN_MAX: usize = 29;

    /// [`Slot::of`] a key.
    #[inline]
    pub fn slot_of(&mut self, key: &[u8]) -> Slot {
        if key.len() > SlotMemo::KEY_LEN_MAX {
            return Slot::of(key);
        }
        let place = &mut self.places[SlotMemo::place_of(key)];
        if place.key[..usize::from(place.len)] != *key {
            place.slot = Slot::of(key);
            place.len = key.len() as u8;
            place.key[..key.len()].copy_from_slice(key);
        }
        place.slot
    }

    /// By the last bytes, in which keys differ most.
    #[inline]
    fn place_of(key: &[u8]) -> usize {
        let last = match key.last_chunk::<8>() {
            Some(last) => u64::from_le_bytes(*last),
            None => key.iter().fold(0, |last, byte| last << 8 | u64::from(*byte)),
        };
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4).
        (last.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SlotMemo::PLACES.ilog2())) as usize
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
    fn what_is_remembered_is_the_slot() {
        let mut memo = SlotMemo::default();
        for _ in 0..2 {
            for number in 0..1000 {
                for len in [0, 1, 7, 8, 9, 28, 29, 30, 64] {
                    let key = format!("{{{number}}}{number:0>len$}");
                    for key in [&key, &key[..len.min(key.len())]] {
                        assert_eq!(memo.slot_of(key.as_bytes()), Slot::of(key.as_bytes()), "{key}");
                    }
                }
            }
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
