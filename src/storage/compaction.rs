//! Which members of collections compaction may drop: those that no live version owns.
//!
//! Deleting or overwriting a collection writes one record of `meta`; its members stay behind under the old version until
//! a compaction meets them here. A version is never used twice, so what is dead stays dead.

use super::encoding::{Record, owner_of_member};

/// Tells what `meta` says of a key now.
pub trait Liveness {
    /// Calls `read` with the key's stored record (`None`: no such key); `None` if it cannot be told, as while the
    /// database is being opened or closed.
    fn current_record<T>(&self, meta_key: &[u8], read: impl FnOnce(Option<&[u8]>) -> T) -> Option<T>;
}

/// Whether a key of `data` or `score` belongs to no live version. What cannot be told, or read, is kept.
pub fn is_dead(member_key: &[u8], liveness: &impl Liveness) -> bool {
    let Some((meta_key, version)) = owner_of_member(member_key) else {
        return false;
    };
    let dead = liveness.current_record(&meta_key, |record| match record {
        None => true,
        Some(bytes) => Record::decode(bytes).is_some_and(|record| record.version != version),
    });
    dead.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::router::Slot;
    use crate::storage::database::{Column, Database, Resources};
    use crate::storage::encoding::{Type, member_key, meta_key};
    use std::ops::ControlFlow;

    #[test]
    fn compaction_drops_the_members_of_dead_versions_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let resources = Resources::new(1 << 20, 1 << 20, 1, 2).expect("RocksDB's environment");
        let database = Database::open(folder.path(), &resources, true).expect("a new database");
        let mut writes = database.writes(0);
        let mut key = Vec::new();
        meta_key(&mut key, 0, Slot(5), b"alive");
        let record = Record {
            kind: Type::Hash,
            deadline_ms: 0,
            version: 8,
            edited: false,
            payload: b"",
        };
        writes.put(Column::Meta, &key, &record.encode());
        for (user_key, version) in [(b"alive", 7), (b"alive", 8), (b"gone!", 3)] {
            for member in [b"a", b"b"] {
                writes.put(
                    Column::Data,
                    &member_key(0, Slot(5), user_key, version, member),
                    b"value",
                );
            }
        }
        database.write(writes.finish()).expect("a write");
        database.flush().expect("a flush");
        database.compact(Column::Data);
        let mut left = Vec::new();
        let all = [0xff; 4];
        let scanned = database.scan(Column::Data, b"", &all, |key, _| {
            left.push(key.to_vec());
            ControlFlow::Continue(())
        });
        scanned.expect("a scan");
        assert_eq!(
            left,
            [
                member_key(0, Slot(5), b"alive", 8, b"a"),
                member_key(0, Slot(5), b"alive", 8, b"b")
            ]
        );
        database.stop_background_work();
    }
}
