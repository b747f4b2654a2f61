//! What becomes of keys apart from what a command says of itself: keys come into being, and are found expired.
//!
//! A shard sees both where it stages a record; keyspace notifications ask for them.

use super::encoding::Record;

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFate {
    /// There was no such key, or an expired one, and now there is.
    Made,
    /// The key went because its deadline had passed, whether a sweep took it or a write came first.
    Expired,
    /// The key was a hash and went because all of its fields had expired.
    FieldsExpired,
    /// A command that reads asked for the key, which was not there.
    Missed,
}

/// A key (the database as SELECT numbers it) and what became of it.
pub type KeyOutcome = (KeyFate, u8, Vec<u8>);

/// What becomes of a shard's keys, if anybody asks for it.
#[derive(Default)]
pub struct Lifecycle {
    /// The turn's clock in Unix milliseconds; `None` if nobody asks.
    now_ms: Option<u64>,
    outcomes: Vec<KeyOutcome>,
}

impl Lifecycle {
    /// Tracks what becomes of keys by this clock (Unix milliseconds) from now on, or does not any more.
    pub fn track(&mut self, now_ms: Option<u64>) {
        self.now_ms = now_ms;
    }

    /// Whether anybody asks.
    #[inline]
    pub fn is_tracking(&self) -> bool {
        self.now_ms.is_some()
    }

    /// The record of a key was `old` and is now `new`, both as they are stored.
    pub fn replaced(&mut self, database: u8, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        let Some(now_ms) = self.now_ms else { return };
        let old = old.and_then(Record::decode);
        let was_alive = old.as_ref().is_some_and(|old| old.is_alive(now_ms));
        let mut add = |fate| self.outcomes.push((fate, database, key.to_vec()));
        if let Some(old) = old.filter(|_| !was_alive) {
            add(match old.deadline_ms {
                deadline_ms if deadline_ms != 0 && deadline_ms < now_ms => KeyFate::Expired,
                _ => KeyFate::FieldsExpired,
            });
        }
        if new.is_some() && !was_alive {
            add(KeyFate::Made);
        }
    }

    /// What has become of keys since the last call.
    pub fn take(&mut self) -> Vec<KeyOutcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// How many outcomes there are.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there is no outcome.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// Forgets all outcomes but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.outcomes.truncate(len);
    }
}
