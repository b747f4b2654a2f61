//! What a stopped server has left on disk, read through the library: the oracle for what no command shows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use corelane::slots::{ShardId, Slot, shard_of};
use corelane::storage::checkpointing::Databases;
use corelane::storage::database::{Column, Database, Resources};
use corelane::storage::encoding::{self, Counts, DATABASE_COUNT, Record};
use corelane::storage::log::LogIdentity;
use corelane::storage::manifest::{Manifest, logs_path};
use corelane::storage::recovery;

use super::shard_folders;

/// Block cache for small shards, in bytes.
const CACHE_BYTES: usize = 16 << 20;

/// One shard's records.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// By the key of `meta` (physical database, slot, user key): the stored record.
    pub(crate) records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The expiry index: deadline (Unix ms) and key of `meta`.
    pub(crate) index: BTreeSet<(u64, Vec<u8>)>,
    /// The stored counts, by physical database.
    pub(crate) counts: Vec<Counts>,
}

impl Contents {
    /// Reads an open database.
    pub(crate) fn of(database: &Database) -> Contents {
        let mut contents = Contents::default();
        // Databases are numbered far below 255, and deadlines lie far before the year 100,000,000.
        let all = [0xff; 1];
        let scanned = database.scan(Column::Meta, b"", &all, |key, record| {
            contents.records.insert(key.to_vec(), record.to_vec());
            ControlFlow::Continue(())
        });
        scanned.expect("the records can be read");
        let scanned = database.scan(Column::Expiry, b"", &all, |key, _version| {
            let (deadline_ms, meta_key) = encoding::split_expiry_key(key).expect("an entry of the index is whole");
            contents.index.insert((deadline_ms, meta_key.to_vec()));
            ControlFlow::Continue(())
        });
        scanned.expect("the index can be read");
        for number in 0..DATABASE_COUNT as u8 {
            let counts = database.get(Column::System, &Counts::key(number), Counts::decode);
            let counts = counts.expect("the counts can be read");
            contents
                .counts
                .push(counts.map_or(Counts::default(), |counts| counts.expect("the counts are whole")));
        }
        contents
    }

    /// What the index must hold: every key that has a deadline, or a field with one, once, and not later than it is
    /// due.
    pub(crate) fn deadlines(&self) -> BTreeSet<(u64, Vec<u8>)> {
        let with_deadline = self.records.iter().filter_map(|(key, record)| {
            let (entry_ms, due_ms) = (encoding::entry_of(record), encoding::due_of(record));
            assert_eq!(
                entry_ms == 0,
                due_ms == 0,
                "what is due is in the index, and nothing else"
            );
            assert!(entry_ms <= due_ms, "an entry of the index comes before its key is due");
            (due_ms != 0).then(|| (entry_ms, key.clone()))
        });
        with_deadline.collect()
    }

    /// Panics unless the records are whole, the counts are those of the records, and every key with a deadline is in
    /// the index. Returns the entries of the index that no key has (FLUSHDB leaves them to the sweep).
    pub(crate) fn check(&self) -> Vec<(u64, Vec<u8>)> {
        let mut counts = vec![Counts::default(); DATABASE_COUNT];
        for (key, record) in &self.records {
            let (database, slot, user_key) = encoding::split_meta_key(key).expect("a key of meta is whole");
            assert_eq!(slot, Slot::of(user_key), "a key lies in its slot");
            let record = Record::decode(record).expect("a record is whole");
            let counts = &mut counts[usize::from(database)];
            counts.keys += 1;
            counts.expires += u64::from(record.deadline_ms != 0);
        }
        assert_eq!(self.counts, counts, "the stored counts are those of the stored records");
        let deadlines = self.deadlines();
        let missing: Vec<_> = deadlines.difference(&self.index).collect();
        assert!(
            missing.is_empty(),
            "keys with a deadline that the index does not have: {missing:?}"
        );
        self.index.difference(&deadlines).cloned().collect()
    }
}

fn open(folder: &Path, resources: &Resources, create: bool) -> Arc<Database> {
    Database::open(folder, resources, create).expect("the shard's database can be opened")
}

/// Opens a shard's database in `folder`, runs `work` and closes it.
pub(crate) fn with_database<T>(folder: &Path, create: bool, work: impl FnOnce(&Arc<Database>) -> T) -> T {
    let resources = Resources::new(CACHE_BYTES, 2).expect("RocksDB can start");
    let database = open(folder, &resources, create);
    let result = work(&database);
    database.stop_background_work();
    result
}

/// Brings what the logs of a stopped server still hold into its shards, as its next start would.
pub(crate) fn finish_checkpoints(data_directory: &Path) {
    let (manifest, _) = Manifest::open(data_directory, None, 1).expect("the manifest can be read");
    let next = LogIdentity {
        generation: manifest.generation + 1,
        ..manifest.log_identity(0)
    };
    let resources = Resources::new(CACHE_BYTES, 2).expect("RocksDB can start");
    let folders = shard_folders(data_directory);
    let databases: Databases = (0..)
        .map(ShardId)
        .zip(folders.iter().map(|folder| open(folder, &resources, false)))
        .collect();
    recovery::recover(&logs_path(data_directory), next, &databases, false).expect("the logs are whole");
    databases.values().for_each(|database| database.stop_background_work());
}

/// Checks every shard of a stopped server, see [`Contents::check`]; returns how many stale entries the indexes have.
pub(crate) fn check(data_directory: &Path) -> usize {
    finish_checkpoints(data_directory);
    let folders = shard_folders(data_directory);
    let mut stale = 0;
    for (number, folder) in folders.iter().enumerate() {
        let contents = with_database(folder, false, |database| Contents::of(database));
        for key in contents.records.keys() {
            let (_, slot, _) = encoding::split_meta_key(key).expect("a key of meta is whole");
            assert_eq!(
                usize::from(shard_of(slot, folders.len() as u16).0),
                number,
                "a key lies on its shard"
            );
        }
        stale += contents.check().len();
    }
    stale
}
