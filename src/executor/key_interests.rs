//! The interests in an executor's keys: clients that watch them, track them or wait for them, and transactions that
//! have locked them. The shards record which keys are written; here the interested ones are told.

use super::key_readers::TrackedKeys;
use super::locks::Locks;
use super::waiters::Waiters;
use super::watches::Watches;
use crate::registry::clients::Clients;
use crate::registry::metrics::StorageMetrics;
use crate::registry::tracked_keys::{Reader, Tracking};
use crate::storage::encoding::{DATABASE_COUNT, DatabaseMap};
use crate::storage::redo::{Part, Write};
use crate::storage::shard::{Modified, Shard};
use crate::storage::shards::{Presence, Shards};
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope};
use crate::storage::view::WatchesAndLocks;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module's documentation.
pub(super) struct KeyInterests {
    watches: Watches,
    /// The keys that clients track.
    pub(super) tracked: TrackedKeys,
    /// Commands that wait for a key.
    pub(super) waiters: Waiters,
    /// Keys that were written and that commands wait for, oldest first.
    pub(super) ready: VecDeque<DatabaseKey>,
    /// Transactions over several executors that have keys here.
    pub(super) locks: Locks,
}

impl KeyInterests {
    /// No interests yet.
    pub(super) fn new(tracking: Arc<Tracking>, clients: Arc<Clients>, metrics: Arc<StorageMetrics>) -> KeyInterests {
        let mut watches = Watches::default();
        watches.set_metrics(metrics);
        KeyInterests {
            watches,
            tracked: TrackedKeys::new(tracking),
            waiters: Waiters::new(clients),
            ready: VecDeque::new(),
            locks: Locks::default(),
        }
    }

    /// Begins a turn.
    pub(super) fn begin_turn(&mut self, shards: &mut Shards) {
        self.tracked.begin_turn();
        self.update_interest(shards);
    }

    /// A client has read keys of the command that was run, and is to be told when they are written.
    pub(super) fn track_read<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>, reader: Reader) {
        keys.for_each(|key| self.tracked.track_read(key, reader));
    }

    /// Tells the interested ones which keys were written since the last call, by a client (0: by nobody).
    #[inline]
    pub(super) fn after_command(&mut self, shards: &mut Shards, writer: u64) {
        if shards.tracks_modified() {
            self.tell_modified(shards, writer);
        }
    }

    fn tell_modified(&mut self, shards: &mut Shards, writer: u64) {
        for shard_index in 0..shards.list().len() {
            for Modified { key, quietly } in shards.list_mut()[shard_index].take_modified() {
                if !quietly && self.watches.has(&key) {
                    let presence = shards.presence_or_absent(&key);
                    self.watches.touch(&key, presence);
                }
                if !quietly {
                    self.tracked.key_written(&key.1, writer);
                }
                if self.waiters.wait_for(&key) {
                    self.ready.push_back(key);
                }
            }
        }
        self.update_interest(shards);
    }

    /// Tells the shards whether anybody is interested in what is written, after that may have changed.
    pub(super) fn update_interest(&mut self, shards: &mut Shards) {
        let waits = !self.waiters.is_empty();
        shards.track_modified(waits || !self.watches.is_empty() || self.tracked.is_interested());
    }

    /// A client watches keys, each stored as it says.
    pub(super) fn watch(
        &mut self,
        shards: &mut Shards,
        client_id: u64,
        keys: impl Iterator<Item = (DatabaseKey, Presence)>,
    ) {
        keys.for_each(|(key, presence)| self.watches.add(client_id, key, presence));
        shards.track_modified(true);
    }

    /// Whether a key that a client watches was modified, or has expired, since the client began to watch it.
    pub(super) fn is_watched_key_modified(&mut self, shards: &mut Shards, client_id: u64) -> bool {
        self.watches.is_dirty(client_id, |key| shards.presence_or_absent(key))
    }

    /// A client watches nothing any more.
    pub(super) fn unwatch(&mut self, shards: &mut Shards, client_id: u64) {
        self.watches.forget(client_id);
        self.update_interest(shards);
    }

    /// The keys that a client watches.
    pub(super) fn keys_watched_by(&self, client_id: u64) -> &[DatabaseKey] {
        self.watches.keys_watched_by(client_id)
    }

    /// All keys of a database are about to be deleted, or replaced by those of another.
    fn replace_database(&mut self, shards: &mut Shards, database: u8, by: Option<u8>) {
        // Waiters look for themselves what is there now.
        let waited_for = self.waiters.keys();
        self.ready
            .extend(waited_for.into_iter().filter(|key| key.0 == database));
        for key in self.watches.keys_of(database) {
            let before = shards.presence_or_absent(&key);
            let after = by.map_or(Presence::Absent, |by| shards.presence_or_absent(&(by, key.1.clone())));
            self.watches.replace(&key, before, after);
        }
    }

    /// A part of a transaction is about to be written: tells the interested ones if it is about whole databases.
    pub(super) fn tell_whole_changes_of(&mut self, shards: &mut Shards, part: &Part) {
        for write in &part.writes {
            match write {
                Write::Databases { map } => self.tell_swapped(shards, map),
                Write::Empty { database } => self.before_flush(shards, *database),
                Write::Record { .. } | Write::Member { .. } => {}
            }
        }
    }

    /// The databases are about to be numbered by another map.
    fn tell_swapped(&mut self, shards: &mut Shards, new: &DatabaseMap) {
        self.tracked.all_flushed();
        let Some(old) = shards.list().first().map(Shard::database_map) else {
            return;
        };
        for (number, physical) in new.physical.iter().enumerate() {
            if old.physical[number] != *physical {
                let by = old.physical.iter().position(|of_number| of_number == physical);
                self.replace_database(shards, number as u8, by.map(|by| by as u8));
            }
        }
    }
}

impl WatchesAndLocks for KeyInterests {
    fn before_flush(&mut self, shards: &mut Shards, database: Option<u8>) {
        self.tracked.all_flushed();
        for number in database.map_or(0..DATABASE_COUNT as u8, |database| database..database + 1) {
            self.replace_database(shards, number, None);
        }
    }

    fn before_swap_databases(&mut self, shards: &mut Shards, first: u8, second: u8) {
        // Redis leaves its tracking clients with the values of the other database; they would keep them for ever.
        self.tracked.all_flushed();
        self.replace_database(shards, first, Some(second));
        self.replace_database(shards, second, Some(first));
    }

    fn is_locked(&self, key: &DatabaseKey, mode: Mode) -> bool {
        !self.locks.is_empty() && self.locks.holds(key, mode)
    }

    fn is_any_locked(&self, mode: Mode) -> bool {
        !self.locks.is_empty() && self.locks.holds_some(&Scope::Everything, mode)
    }
}
