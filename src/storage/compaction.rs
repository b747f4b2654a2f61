//! Which members of collections compaction may drop: those that no live version owns.
//!
//! Deleting or overwriting a collection writes one record of `meta`; its members stay behind under the old version
//! until a compaction meets them here. A version is never used twice, so what is dead stays dead: all that RocksDB
//! shows is durable. A compaction looks at `meta` as it was at its beginning; the members that it meets then were
//! ingested after their owners' records, but for those of versions that are being made, which have no records yet.

use super::encoding::{Record, owner_of_member, version_prefix};

/// `meta` as it was at one moment.
pub trait Past {
    /// Calls `read` with a key's stored record (`None`: no such key); `None` if it cannot be read.
    fn record<T>(&self, meta_key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Option<T>;
}

/// Tells for one compaction, which meets the members of a version one after the other, which are dead.
pub struct Judge<P> {
    /// `None` if it cannot be told, as while the database is being opened or closed.
    past: Option<P>,
    /// Versions that were being made before that.
    in_the_making: Vec<u64>,
    /// What the members of the version begin with that was met last, and whether it is dead.
    version: Vec<u8>,
    is_dead: bool,
}

impl<P: Past> Judge<P> {
    /// Judges by `past`. All versions that were being made then are among `in_the_making`.
    pub fn new(past: Option<P>, in_the_making: Vec<u64>) -> Judge<P> {
        Judge {
            past,
            in_the_making,
            version: Vec::new(),
            is_dead: false,
        }
    }

    /// Whether a key of `data` or `score` belongs to no live version. What cannot be told, or read, is kept.
    pub fn is_dead(&mut self, member_key: &[u8]) -> bool {
        // Millions of members of one version cost one look-up.
        if self.version.is_empty() || !member_key.starts_with(&self.version) {
            self.is_dead = self.is_owner_dead(member_key);
            self.version.clear();
            self.version
                .extend_from_slice(version_prefix(member_key).unwrap_or_default());
        }
        self.is_dead
    }

    fn is_owner_dead(&mut self, member_key: &[u8]) -> bool {
        let (Some(past), Some((meta_key, version))) = (&self.past, owner_of_member(member_key)) else {
            return false;
        };
        if self.in_the_making.contains(&version) {
            return false;
        }
        let dead = past.record(&meta_key, |record| match record {
            None => true,
            Some(bytes) => Record::decode(bytes).is_some_and(|record| record.version != version),
        });
        dead.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Slot;
    use crate::storage::cell_writes::CellWrites;
    use crate::storage::database::{Column, Database, Resources};
    use crate::storage::encoding::{Type, member_key, meta_key};
    use std::cell::Cell;
    use std::ops::ControlFlow;
    use std::rc::Rc;

    const ALIVE: Record<'_> = Record {
        kind: Type::Hash,
        deadline_ms: 0,
        version: 8,
        edited: false,
        payload: b"",
    };

    /// There is one key, "alive"; counts what it is asked.
    #[derive(Clone, Default)]
    struct OneKey {
        looked_up: Rc<Cell<u32>>,
    }

    impl Past for OneKey {
        fn record<T>(&self, wanted: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Option<T> {
            self.looked_up.set(self.looked_up.get() + 1);
            let mut key = Vec::new();
            meta_key(&mut key, 0, Slot(5), b"alive");
            Some(read((wanted == key).then_some(&ALIVE.encode()[..])))
        }
    }

    fn judge_all(judge: &mut Judge<OneKey>) -> Vec<bool> {
        let mut dead = Vec::new();
        for (user_key, version) in [(b"alive", 7), (b"alive", 8), (b"gone!", 3)] {
            for member in 0..1000_u32 {
                dead.push(judge.is_dead(&member_key(0, Slot(5), user_key, version, &member.to_be_bytes())));
            }
        }
        dead.dedup();
        dead
    }

    #[test]
    fn a_version_costs_one_look_up() {
        let past = OneKey::default();
        assert_eq!(
            judge_all(&mut Judge::new(Some(past.clone()), Vec::new())),
            [true, false, true]
        );
        assert_eq!(past.looked_up.get(), 3);
    }

    #[test]
    fn nothing_is_dead_that_cannot_be_told() {
        assert_eq!(judge_all(&mut Judge::new(None, Vec::new())), [false]);
        let mut judge = Judge::new(Some(OneKey::default()), vec![4]);
        assert!(!judge.is_dead(b"no key of a member"));
        assert!(judge.is_dead(&member_key(0, Slot(5), b"gone!", 3, b"")));
        assert!(!judge.is_dead(&member_key(0, Slot(5), b"gone!", 4, b"")));
        assert!(!judge.is_dead(b""));
    }

    #[test]
    fn compaction_drops_the_members_of_dead_versions_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let resources = Resources::new(1 << 20, 2).expect("RocksDB's environment");
        let database = Database::open(folder.path(), &resources, true).expect("a new database");
        let mut writes = CellWrites::default();
        let mut key = Vec::new();
        meta_key(&mut key, 0, Slot(5), b"alive");
        writes.put(Column::Meta, &key, &ALIVE.encode());
        for (user_key, version) in [(b"alive", 7), (b"alive", 8), (b"gone!", 3)] {
            for member in [b"a", b"b"] {
                writes.put(
                    Column::Data,
                    &member_key(0, Slot(5), user_key, version, member),
                    b"value",
                );
            }
        }
        database.ingest(writes).expect("a write");
        let left = || {
            database.compact(Column::Data);
            let mut left = Vec::new();
            let scanned = database.scan(Column::Data, b"", &[0xff; 4], |key, _| {
                left.push(key.to_vec());
                ControlFlow::Continue(())
            });
            scanned.expect("a scan");
            left
        };
        assert_eq!(left().len(), 6, "it is not known what is being made");
        let members = |user_key, version| [b"a", b"b"].map(|member| member_key(0, Slot(5), user_key, version, member));
        database.set_in_the_making(&[3]);
        assert_eq!(left(), [members(b"alive", 8), members(b"gone!", 3)].concat());
        database.set_in_the_making(&[]);
        assert_eq!(left(), members(b"alive", 8));
        database.stop_background_work();
    }
}
