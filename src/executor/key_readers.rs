//! Which keys clients have read that [track](https://redis.io/docs/latest/develop/reference/client-side-caching/) what
//! they read: kept where the keys are, so that a read is on record before its reply leaves, and every write after it is
//! noticed.
//!
//! A key is forgotten when its readers are told; they read it again if they want to know more. Databases are not told
//! apart, as in Redis. Readers are told of a write that failed, too: a client that reads once too often is never wrong.
//! Readers that are gone are forgotten by and by, some at each housekeeping, whether anybody writes or not.

use crate::registry::tracked_keys::{FlushId, Invalidation, Reader, Tracking};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

/// Readers that are looked at in one housekeeping: 200,000 each second, in some tenths of a millisecond each.
const SWEPT_READERS_MAX: usize = 2048;

/// The keys of one storage executor that clients track.
pub struct TrackedKeys {
    /// What all threads know.
    shared: Arc<Tracking>,
    /// By key, in the order of the keys, so that a hand can go round when there are too many; a key's readers in the
    /// order of their numbers.
    readers: BTreeMap<Box<[u8]>, Vec<Reader>>,
    /// The walk that looks for readers that are gone, if one is under way.
    sweep: Option<Sweep>,
    /// How many had gone when the last walk began that has come to its end.
    swept_departures: u64,
    /// The last key that was given up for want of room.
    hand: Box<[u8]>,
    /// Whether clients asked for all keys with some prefix (BCAST); looked up once per turn.
    broadcasts: bool,
    /// The running command, should it flush.
    pub command: FlushId,
    /// What it has outdated.
    outdated: Vec<Invalidation>,
}

/// A walk over all keys.
struct Sweep {
    /// How many readers had gone when it began.
    departures: u64,
    /// The last key that was looked at.
    after: Option<Box<[u8]>>,
}

impl TrackedKeys {
    /// No key is tracked yet.
    pub fn new(shared: Arc<Tracking>) -> TrackedKeys {
        TrackedKeys {
            shared,
            readers: BTreeMap::new(),
            sweep: None,
            swept_departures: 0,
            hand: Box::default(),
            broadcasts: false,
            command: FlushId::default(),
            outdated: Vec::new(),
        }
    }

    /// Begins a turn, whose requests are all taken up: what their clients asked for before they sent them is seen here.
    #[inline]
    pub fn begin_turn(&mut self) {
        self.broadcasts = self.shared.broadcasts();
        if !self.readers.is_empty() && !self.shared.is_used() {
            let keys = std::mem::take(&mut self.readers);
            self.shared.remove_keys(keys.len(), keys.values().map(Vec::len).sum());
        }
    }

    /// Whether anybody has to be told of written keys.
    #[inline]
    pub fn is_interested(&self) -> bool {
        self.broadcasts || !self.readers.is_empty()
    }

    /// A client has read a key.
    pub fn track_read(&mut self, key: &[u8], reader: Reader) {
        let is_new = match self.readers.entry(key.into()) {
            Entry::Vacant(entry) => {
                entry.insert(vec![reader]);
                self.shared.add_key();
                true
            }
            Entry::Occupied(mut entry) => {
                let readers = entry.get_mut();
                let found = readers.binary_search_by_key(&reader.client_id, |known| known.client_id);
                if let Err(index) = found {
                    readers.insert(index, reader);
                }
                found.is_err()
            }
        };
        if is_new {
            self.shared.add_reader();
        }
    }

    /// Looks at some keys, if clients that track have gone since all were looked at: forgets their readers that are
    /// gone.
    pub fn forget_gone(&mut self) {
        let departures = self.shared.departures();
        if self.readers.is_empty() {
            (self.sweep, self.swept_departures) = (None, departures);
        }
        if self.sweep.is_none() && departures == self.swept_departures {
            return;
        }
        let sweep = self.sweep.get_or_insert(Sweep {
            departures,
            after: None,
        });
        let from = sweep.after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut looked_at, mut forgotten, mut keys_without) = (0, 0, Vec::new());
        {
            let present = self.shared.readers();
            for (key, readers) in self.readers.range_mut::<Box<[u8]>, _>((from, Bound::Unbounded)) {
                looked_at += readers.len();
                let before = readers.len();
                readers.retain(|reader| present.contains(&reader.client_id));
                forgotten += before - readers.len();
                if readers.is_empty() {
                    keys_without.push(key.clone());
                } else if readers.len() < before {
                    readers.shrink_to_fit();
                }
                if looked_at >= SWEPT_READERS_MAX {
                    sweep.after = Some(key.clone());
                    break;
                }
            }
        }
        if sweep.after.is_none() {
            self.swept_departures = sweep.departures;
            self.sweep = None;
        }
        for key in &keys_without {
            self.readers.remove(key);
        }
        self.shared.remove_keys(keys_without.len(), forgotten);
    }

    /// Gives keys up while there are more than `keys_max` in all (0: any number), as if they had been written.
    pub fn make_room(&mut self, keys_max: u64) {
        while keys_max > 0 && self.shared.tracked_keys() > keys_max {
            let after = (Bound::Excluded(&*self.hand), Bound::Unbounded);
            let next = self
                .readers
                .range::<[u8], _>(after)
                .next()
                .or_else(|| self.readers.first_key_value());
            let Some(key) = next.map(|(key, _)| key.clone()) else {
                return;
            };
            self.tell_readers(&key, 0);
            self.hand = key;
        }
    }

    /// A key was written, for a client (0: for nobody).
    pub fn key_written(&mut self, key: &[u8], writer: u64) {
        if self.broadcasts {
            self.outdated.push(Invalidation::Matching {
                key: key.into(),
                writer,
            });
        }
        self.tell_readers(key, writer);
    }

    fn tell_readers(&mut self, key: &[u8], writer: u64) {
        if let Some((key, readers)) = self.readers.remove_entry(key) {
            self.shared.remove_keys(1, readers.len());
            self.outdated.push(Invalidation::Read { key, readers, writer });
        }
    }

    /// Whole databases were emptied or exchanged: everybody forgets everything.
    pub fn all_flushed(&mut self) {
        let keys = std::mem::take(&mut self.readers);
        self.shared.remove_keys(keys.len(), keys.values().map(Vec::len).sum());
        if self.shared.is_used() {
            self.outdated.push(Invalidation::Everything(self.command));
        }
    }

    /// What was outdated since the last call.
    #[inline]
    pub fn take_outdated(&mut self) -> Vec<Invalidation> {
        std::mem::take(&mut self.outdated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::subscribers::PubSub;

    fn reader(client_id: u64) -> Reader {
        Reader {
            client_id,
            executor: 0,
            connection: 0,
        }
    }

    fn keys() -> TrackedKeys {
        let (pubsub, _inboxes) = PubSub::new(1);
        TrackedKeys::new(Arc::new(Tracking::new(Arc::new(pubsub), 1)))
    }

    fn told(keys: &mut TrackedKeys) -> Vec<(Vec<u8>, usize)> {
        let outdated = keys.take_outdated().into_iter().map(|outdated| match outdated {
            Invalidation::Read { key, readers, .. } => (key.to_vec(), readers.len()),
            _ => panic!("nobody asked for more than what was read"),
        });
        outdated.collect()
    }

    #[test]
    fn readers_are_told_once_and_each_is_counted_once() {
        let mut keys = keys();
        for client in [1, 2, 1] {
            keys.track_read(b"a", reader(client));
        }
        keys.track_read(b"b", reader(1));
        assert_eq!((keys.shared.tracked_keys(), keys.shared.tracked_items()), (2, 3));
        for key in [b"a", b"a", b"c"] {
            keys.key_written(key, 7);
        }
        assert_eq!(told(&mut keys), [(b"a".to_vec(), 2)]);
        assert_eq!((keys.shared.tracked_keys(), keys.shared.tracked_items()), (1, 1));
    }

    #[test]
    fn readers_that_are_gone_are_forgotten_without_a_write() {
        let mut keys = keys();
        let clients = [1, 2, 3];
        clients.iter().for_each(|client| keys.shared.set_reading(*client, true));
        for number in 0..2 * SWEPT_READERS_MAX {
            for client in clients.iter().rev() {
                keys.track_read(&number.to_be_bytes(), reader(*client));
            }
        }
        keys.track_read(b"of one", reader(2));
        keys.forget_gone();
        assert_eq!(keys.shared.tracked_items(), 6 * SWEPT_READERS_MAX as u64 + 1);
        keys.shared.set_reading(2, false);
        keys.forget_gone();
        let left = keys.shared.tracked_items();
        assert!(
            left > 5 * SWEPT_READERS_MAX as u64,
            "one call looks at some only: {left}"
        );
        // Another goes in the middle of the walk.
        keys.shared.set_reading(3, false);
        for _ in 0..2 * 7 {
            keys.forget_gone();
        }
        let expected = 2 * SWEPT_READERS_MAX as u64;
        assert_eq!(
            (keys.shared.tracked_keys(), keys.shared.tracked_items()),
            (expected, expected)
        );
        keys.key_written(&0_usize.to_be_bytes(), 0);
        assert_eq!(told(&mut keys), [(0_usize.to_be_bytes().to_vec(), 1)]);
    }

    #[test]
    fn keys_without_room_go_in_turn() {
        let mut keys = keys();
        for key in [b"a", b"b", b"c", b"d"] {
            keys.track_read(key, reader(1));
        }
        keys.make_room(0);
        assert_eq!(told(&mut keys), []);
        keys.make_room(2);
        assert_eq!(told(&mut keys), [(b"a".to_vec(), 1), (b"b".to_vec(), 1)]);
        keys.track_read(b"a", reader(1));
        keys.make_room(2);
        assert_eq!(told(&mut keys), [(b"c".to_vec(), 1)], "the hand goes on");
        keys.make_room(1);
        assert_eq!(told(&mut keys), [(b"d".to_vec(), 1)]);
    }
}
