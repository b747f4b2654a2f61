//! Where walks stopped: the names that the cursors of SCAN, HSCAN, SSCAN and ZSCAN stand for.

use crate::slots::Slot;
use std::collections::{HashMap, VecDeque};

/// What a walk goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Walked {
    /// The keys of a slot of a database, as SELECT numbers it.
    Slot(u8, Slot),
    /// The members of the collection that has this version, or in place of one this number with the highest bit set,
    /// which no version has.
    Collection(u64),
}

/// Bytes that a shard's positions may take, names and [`POSITION_BYTES`] each: some ten thousand walks that have
/// stopped inside a crowded slot or a large collection.
const BYTES_MAX: usize = 2 << 20;

/// What a position takes beside its name: its two entries, with what their tables leave empty.
const POSITION_BYTES: usize = 128;

/// Longer names are not kept, so that a few of them do not push all others out.
const NAME_LEN_MAX: usize = 16 << 10;

const _: () = assert!(
    NAME_LEN_MAX + POSITION_BYTES < BYTES_MAX / 64,
    "a long name pushes few others out"
);

/// The names at which walks have stopped, by what they go through and by the hash that their cursors carry.
///
/// A remembered name saves work and decides nothing: a walk whose name was forgotten (those that were used longest ago
/// go first, and all with a restart) finds out by reading what it goes through where to go on. Walks that have stopped
/// at one name share it.
#[derive(Default)]
pub struct ScanPositions {
    names: HashMap<(Walked, u64), Remembered, foldhash::fast::RandomState>,
    /// Every use of a name, the oldest first, with its number and the bytes that it counts for.
    uses: VecDeque<((Walked, u64), u64, usize)>,
    last_use: u64,
    bytes: usize,
}

struct Remembered {
    name: Vec<u8>,
    last_use: u64,
}

impl ScanPositions {
    /// The name of this hash at which a walk has stopped, unless it was forgotten.
    pub fn recall(&self, walked: Walked, hash: u64) -> Option<&[u8]> {
        self.names.get(&(walked, hash)).map(|remembered| &*remembered.name)
    }

    /// A walk has stopped at a name of this hash, which replaces another one that has it.
    pub fn remember(&mut self, walked: Walked, hash: u64, name: &[u8]) {
        if name.len() > NAME_LEN_MAX {
            return;
        }
        let (position, bytes) = ((walked, hash), name.len() + POSITION_BYTES);
        self.last_use += 1;
        let last_use = self.last_use;
        self.uses.push_back((position, last_use, bytes));
        self.bytes += bytes;
        let name = name.to_vec();
        self.names.insert(position, Remembered { name, last_use });
        while self.bytes > BYTES_MAX {
            let Some((position, number, bytes)) = self.uses.pop_front() else {
                unreachable!("bytes are those of the uses");
            };
            self.bytes -= bytes;
            // A later use keeps the name.
            if self
                .names
                .get(&position)
                .is_some_and(|remembered| remembered.last_use == number)
            {
                self.names.remove(&position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: Walked = Walked::Collection(1);

    #[test]
    fn a_name_is_found_by_what_was_walked_and_by_its_hash() {
        let mut positions = ScanPositions::default();
        positions.remember(SET, 7, b"a");
        assert_eq!(positions.recall(SET, 7), Some(&b"a"[..]));
        assert_eq!(positions.recall(SET, 8), None);
        assert_eq!(positions.recall(Walked::Collection(2), 7), None);
        let slot = Walked::Slot(0, Slot(1));
        positions.remember(slot, 7, b"b");
        assert_eq!(positions.recall(slot, 7), Some(&b"b"[..]));
        assert_eq!(positions.recall(SET, 7), Some(&b"a"[..]));
        positions.remember(SET, 7, b"c");
        assert_eq!(positions.recall(SET, 7), Some(&b"c"[..]), "the newer of two names");
    }

    #[test]
    fn those_used_longest_ago_are_forgotten_and_the_bytes_are_bounded() {
        let mut positions = ScanPositions::default();
        let name = [b'n'; 1000];
        let kept = (BYTES_MAX / (name.len() + POSITION_BYTES)) as u64;
        for hash in 0..3 * kept {
            positions.remember(SET, hash, &name);
            // One that is used again and again.
            positions.remember(SET, u64::MAX, b"");
        }
        assert!(positions.bytes <= BYTES_MAX);
        assert!(positions.names.len() as u64 <= kept && positions.names.len() as u64 > kept / 2);
        assert_eq!(positions.recall(SET, 0), None);
        assert_eq!(positions.recall(SET, 3 * kept - 1), Some(&name[..]));
        assert_eq!(positions.recall(SET, u64::MAX), Some(&b""[..]));
        positions.remember(SET, 5, &[0; NAME_LEN_MAX + 1]);
        assert_eq!(positions.recall(SET, 5), None, "too long to be kept");
    }
}
