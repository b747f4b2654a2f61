//! The keys that clients WATCH, on one storage executor: which clients have to be told that one was modified, and which
//! were.
//!
//! A client's first modified key makes it dirty, and then its keys are of no interest any more: EXEC asks whether it
//! is, and forgets it. What happens to a key that had expired already when it was watched follows Redis: its deletion
//! is none.

use crate::registry::metrics::StorageMetrics;
use crate::storage::shards::Presence;
use crate::storage::transaction_scope::DatabaseKey;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

/// One client's interest in one key.
struct Watcher {
    client_id: u64,
    /// The key was stored but not alive any more when it was watched.
    was_expired: bool,
}

/// What one client watches.
#[derive(Default)]
struct Watching {
    keys: Vec<DatabaseKey>,
    is_dirty: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Watches {
    by_key: HashMap<DatabaseKey, Vec<Watcher>>,
    by_client: HashMap<u64, Watching>,
    /// Where CLIENT LIST finds the clients that are dirty.
    metrics: Option<Arc<StorageMetrics>>,
}

impl Watches {
    /// Clients that are dirty are told here from now on.
    pub fn set_metrics(&mut self, metrics: Arc<StorageMetrics>) {
        self.metrics = Some(metrics);
    }

    /// Whether no client watches any key.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// A client watches a key, which is stored as `presence` says. Once it is dirty there is no point in watching more.
    pub fn add(&mut self, client_id: u64, key: DatabaseKey, presence: Presence) {
        let watching = self.by_client.entry(client_id).or_default();
        if watching.is_dirty || watching.keys.contains(&key) {
            return;
        }
        watching.keys.push(key.clone());
        self.by_key.entry(key).or_default().push(Watcher {
            client_id,
            was_expired: presence == Presence::Expired,
        });
    }

    /// A client watches nothing any more.
    pub fn forget(&mut self, client_id: u64) {
        let Some(watching) = self.by_client.remove(&client_id) else {
            return;
        };
        self.take_keys(client_id, watching.keys);
        if watching.is_dirty {
            self.tell(|dirty| {
                dirty.remove(&client_id);
            });
        }
    }

    /// Whether a key that the client watches was modified, or (as `presence_of` says) has expired since.
    pub fn is_dirty(&self, client_id: u64, mut presence_of: impl FnMut(&DatabaseKey) -> Presence) -> bool {
        let Some(watching) = self.by_client.get(&client_id) else {
            return false;
        };
        let was_expired = |key: &DatabaseKey| {
            let watchers = self.by_key.get(key).into_iter().flatten();
            watchers
                .filter(|watcher| watcher.client_id == client_id)
                .any(|watcher| watcher.was_expired)
        };
        let mut has_expired = |key: &DatabaseKey| !was_expired(key) && presence_of(key) == Presence::Expired;
        watching.is_dirty || watching.keys.iter().any(&mut has_expired)
    }

    /// The keys that a client watches, as far as it matters: none when one of them was modified.
    pub fn keys_watched_by(&self, client_id: u64) -> &[DatabaseKey] {
        self.by_client.get(&client_id).map_or(&[], |watching| &watching.keys)
    }

    /// Whether anybody watches a key.
    pub fn has(&self, key: &DatabaseKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// A key was modified, and is now stored as `presence` says.
    pub fn touch(&mut self, key: &DatabaseKey, presence: Presence) {
        let Some(watchers) = self.by_key.get_mut(key) else {
            return;
        };
        let mut dirty = Vec::new();
        for watcher in watchers {
            match (watcher.was_expired, presence) {
                // The key had expired when it was watched, and now its deletion was noticed: no difference.
                (true, Presence::Absent) => watcher.was_expired = false,
                (true, Presence::Expired) => {}
                _ => dirty.push(watcher.client_id),
            }
        }
        self.make_dirty(&dirty);
    }

    /// The watched keys of a database.
    pub fn keys_of(&self, database: u8) -> Vec<DatabaseKey> {
        self.by_key.keys().filter(|key| key.0 == database).cloned().collect()
    }

    /// All of a watched key's database is about to be replaced, by another or by nothing: how the key is stored
    /// `before`, and how it will be `after`.
    pub fn replace(&mut self, key: &DatabaseKey, before: Presence, after: Presence) {
        if before == Presence::Absent && after == Presence::Absent {
            return;
        }
        let Some(watchers) = self.by_key.get_mut(key) else {
            return;
        };
        let mut dirty = Vec::new();
        for watcher in watchers {
            match (watcher.was_expired, before, after) {
                (true, _, Presence::Absent) => watcher.was_expired = false,
                (true, _, Presence::Expired) => {}
                (false, Presence::Absent, Presence::Expired) => watcher.was_expired = true,
                _ => dirty.push(watcher.client_id),
            }
        }
        self.make_dirty(&dirty);
    }

    fn make_dirty(&mut self, clients: &[u64]) {
        for client_id in clients {
            let Some(watching) = self.by_client.get_mut(client_id) else {
                continue;
            };
            watching.is_dirty = true;
            let keys = std::mem::take(&mut watching.keys);
            self.take_keys(*client_id, keys);
            self.tell(|dirty| {
                dirty.insert(*client_id);
            });
        }
    }

    fn take_keys(&mut self, client_id: u64, keys: Vec<DatabaseKey>) {
        for key in keys {
            if let Some(watchers) = self.by_key.get_mut(&key) {
                watchers.retain(|watcher| watcher.client_id != client_id);
                if watchers.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut BTreeSet<u64>)) {
        if let Some(metrics) = &self.metrics {
            change(&mut metrics.dirty_clients.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> DatabaseKey {
        (0, name.as_bytes().to_vec())
    }

    #[test]
    fn a_modified_key_makes_its_watchers_dirty_and_nobody_else() {
        let mut watches = Watches::default();
        watches.add(1, key("a"), Presence::Alive);
        watches.add(1, key("b"), Presence::Absent);
        watches.add(2, key("b"), Presence::Absent);
        watches.touch(&key("a"), Presence::Absent);
        watches.touch(&(1, b"b".to_vec()), Presence::Alive);
        let alive = |_: &DatabaseKey| Presence::Alive;
        assert!(watches.is_dirty(1, alive));
        assert!(!watches.is_dirty(2, alive) && !watches.is_dirty(3, alive));
        watches.forget(1);
        assert!(!watches.is_dirty(1, alive), "EXEC asks once");
        assert!(!watches.has(&key("a")) && watches.has(&key("b")));
        watches.forget(2);
        assert!(watches.is_empty());
    }

    #[test]
    fn a_key_that_has_expired_since_counts_and_one_that_had_before_does_not() {
        let mut watches = Watches::default();
        watches.add(1, key("a"), Presence::Alive);
        watches.add(2, key("a"), Presence::Expired);
        let expired = |_: &DatabaseKey| Presence::Expired;
        assert!(watches.is_dirty(1, expired));
        assert!(!watches.is_dirty(2, expired));
        // The sweep deletes it.
        watches.touch(&key("a"), Presence::Absent);
        let absent = |_: &DatabaseKey| Presence::Absent;
        assert!(watches.is_dirty(1, absent));
        assert!(!watches.is_dirty(2, absent));
        // Somebody makes it anew.
        watches.touch(&key("a"), Presence::Alive);
        assert!(watches.is_dirty(2, absent));
    }

    #[test]
    fn a_database_that_is_emptied_touches_only_the_keys_that_it_had() {
        let mut watches = Watches::default();
        for (client, presence) in [(1, Presence::Alive), (2, Presence::Absent), (3, Presence::Expired)] {
            let own = key(&client.to_string());
            watches.add(client, own.clone(), presence);
            watches.replace(&own, presence, Presence::Absent);
        }
        let absent = |_: &DatabaseKey| Presence::Absent;
        let dirty: Vec<u64> = (1..4).filter(|client| watches.is_dirty(*client, absent)).collect();
        assert_eq!(dirty, [1]);
    }
}
