//! Looks ahead at keys that are about to be used, so that memory fetches what they need while other keys are looked at.
//!
//! A key that has not been used for a while costs a dozen cache misses, one after the other, since each tells where the
//! next one is: 60 to 100 ns each. Those of different keys need not wait for each other. Each step here does one of
//! them for all keys before any does the next, which the processor overlaps. (Redis 8 and Valkey 8 do so for commands
//! that came together.) Nothing is changed, and what is touched in vain does no harm.

use super::encoding::STRING_CHUNK_LEN;
use super::records::EntryIndex;
use super::resident::cell_walk::Descent;
use super::shards::Shards;
use crate::slots::Slot;
use smallvec::SmallVec;
use std::hint::black_box;

/// Keys that are looked at together: what they need fits a processor's nearer caches.
pub const LOOKED_AHEAD_MAX: usize = 32;

/// Two for each level of nodes: most trees have no more than two.
const DESCENT_STEPS: usize = 5;

/// What of a key's collection will be used.
#[derive(Clone, Copy)]
pub enum Aim<'k> {
    /// It is not known.
    Unknown,
    /// The first members.
    First,
    /// The last members.
    Last,
    /// This one.
    Member(&'k [u8]),
    /// Those before which there are so many others, of a sorted set by score.
    Rank(usize),
    /// The byte at this offset of a string.
    Byte(usize),
}

/// A key that will be used, as far as it was followed.
#[derive(Clone, Copy)]
struct Ahead<'k> {
    database: u8,
    slot: Slot,
    key: &'k [u8],
    shard: usize,
    hash: u64,
    aim: Aim<'k>,
    /// Where the table of records has it, perhaps.
    entry: Option<EntryIndex>,
    /// Where its collection is in memory, perhaps.
    resident: Option<u32>,
    /// The version of a string that lies in chunks, of which a byte will be used.
    string: Option<u64>,
}

/// A chunk of a string, as far as it was followed.
struct ChunkAhead {
    shard: usize,
    hash: u64,
    at: usize,
    entry: Option<EntryIndex>,
}

impl Shards {
    /// Looks ahead at keys, each with its database and what of it will be used; those of other executors are passed
    /// over.
    pub fn look_ahead<'k>(&mut self, keys: impl Iterator<Item = (u8, &'k [u8], Aim<'k>)>) {
        let mut ahead = SmallVec::<[Ahead<'_>; LOOKED_AHEAD_MAX]>::new();
        for (database, key, aim) in keys.take(LOOKED_AHEAD_MAX) {
            let slot = self.slots.slot_of(key);
            if let Ok(shard) = self.index_of(slot) {
                let hash = self.list[shard].hash_ahead(database, slot, key);
                ahead.push(Ahead {
                    database,
                    slot,
                    key,
                    shard,
                    hash,
                    aim,
                    entry: None,
                    resident: None,
                    string: None,
                });
            }
        }
        let mut touched = 0;
        for key in &mut ahead {
            key.entry = self.list[key.shard].records().candidate(key.hash);
        }
        for key in &ahead {
            touched ^= key
                .entry
                .map_or(0, |entry| self.list[key.shard].records().touch_entry(entry));
        }
        for key in &mut ahead {
            let Some(entry) = key.entry else { continue };
            let shard = &self.list[key.shard];
            let (bytes, version) = shard.records().touch_record(entry);
            touched ^= bytes;
            match key.aim {
                Aim::Byte(_) => key.string = version,
                _ => key.resident = version.and_then(|version| shard.residents().candidate(version)),
            }
        }
        touched ^= self.look_ahead_at_chunks(&ahead);
        let mut descents = SmallVec::<[Descent<'_>; 2 * LOOKED_AHEAD_MAX]>::new();
        for key in &ahead {
            let Some(resident) = key.resident else { continue };
            self.list[key.shard]
                .residents()
                .descend(resident, key.aim, &mut |descent| descents.push(descent));
        }
        for _ in 0..DESCENT_STEPS {
            for descent in &mut descents {
                touched ^= descent.step();
            }
        }
        black_box(touched);
    }

    /// The same for the bytes of strings that lie in chunks.
    fn look_ahead_at_chunks(&mut self, ahead: &[Ahead<'_>]) -> u64 {
        let mut chunks = SmallVec::<[ChunkAhead; LOOKED_AHEAD_MAX]>::new();
        for key in ahead {
            if let (Aim::Byte(byte), Some(version)) = (key.aim, key.string) {
                let shard = &mut self.list[key.shard];
                let number = (byte / STRING_CHUNK_LEN) as u32;
                chunks.push(ChunkAhead {
                    shard: key.shard,
                    hash: shard.chunk_hash_ahead((key.database, key.slot, key.key), version, number),
                    at: byte % STRING_CHUNK_LEN,
                    entry: None,
                });
            }
        }
        for chunk in &mut chunks {
            chunk.entry = self.list[chunk.shard].records().candidate(chunk.hash);
        }
        let found = || {
            chunks
                .iter()
                .filter_map(|chunk| Some((self.list[chunk.shard].records(), chunk, chunk.entry?)))
        };
        let entries = found().fold(0, |all, (records, _, entry)| all ^ records.touch_entry(entry));
        found().fold(entries, |all, (records, chunk, entry)| {
            all ^ records.touch_byte(entry, chunk.at)
        })
    }
}
