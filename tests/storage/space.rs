//! The space of large collections comes back when they are deleted, overwritten or expired, nothing else goes with it,
//! and no crash or loss of power leaves a collection without its members.

use std::ops::ControlFlow;
use std::sync::Arc;

use corelane::slots::{ShardId, Slot};
use corelane::storage::cell_writes::CellWrites;
use corelane::storage::database::{Column, Database, Direction};
use corelane::storage::encoding::{self, Record, Type, member_key, meta_key};
use corelane::storage::shard::Shard;

use super::contents::{self, with_database};
use super::{Node, shard_folders};
use crate::harness::client::Client;
use crate::harness::process::wait_for;
use crate::harness::value::Value;

/// Enough to be noted when they die.
const MEMBERS: u64 = 140_000;

/// Members per command.
const FILL_MEMBERS: u64 = 2_000;

/// How many times the usual limit of a wait it may take until all is reclaimed.
const PATIENCE: usize = 4;

/// A small log, so that there are files on several levels.
const FLAGS: &str = "--shards 1 --log-size-max 8mb";

fn fill_hash(client: &mut Client, key: &str, members: u64) {
    for first in (0..members).step_by(FILL_MEMBERS as usize) {
        let mut command = vec!["HSET".to_owned(), key.to_owned()];
        for number in first..members.min(first + FILL_MEMBERS) {
            command.extend([format!("field:{number}"), format!("value of {key} {number}")]);
        }
        // Writes are refused while RocksDB is stalled: those of an unoptimised server's client may be faster than it.
        assert!(wait_for(|| !client.command(&command).render().contains("BUSY")));
    }
    assert_eq!(client.command(&["HLEN", key]), Value::Integer(members as i64));
}

fn fill_sorted_set(client: &mut Client, key: &str, members: u64) {
    for first in (0..members).step_by(FILL_MEMBERS as usize) {
        let mut command = vec!["ZADD".to_owned(), key.to_owned()];
        for number in first..members.min(first + FILL_MEMBERS) {
            command.extend([number.to_string(), format!("member:{number}")]);
        }
        assert!(wait_for(|| !client.command(&command).render().contains("BUSY")));
    }
    assert_eq!(client.command(&["ZCARD", key]), Value::Integer(members as i64));
}

/// All fields of a hash, in no order.
fn fields(client: &mut Client, key: &str) -> Vec<String> {
    let mut fields: Vec<String> = match client.command(&["HGETALL", key]) {
        Value::Array(Some(values)) => values.iter().map(Value::render).collect(),
        other => panic!("HGETALL was answered {}", other.render()),
    };
    fields.sort();
    fields
}

fn reclaimed(node: &Node) -> u64 {
    let reclaimed = node.info("shards", "shard0", "reclaimed_collections");
    reclaimed.parse().expect("a count")
}

/// The thread that reclaims rests after each for as long as that took, so on a busy machine it may be a while.
fn wait_for_reclaimed(node: &Node, expected: u64) {
    let is_done = || reclaimed(node) == expected && node.info("shards", "shard0", "reclaims_pending") == "0";
    let done = (0..PATIENCE).any(|_| wait_for(is_done));
    assert!(done, "not {expected}: {}", node.info_section("shards"));
}

/// How many entries of a column there are by what they begin with: the version of a key, with its name.
fn versions_on_disk(database: &Arc<Database>, column: Column) -> Vec<(String, u64)> {
    let mut versions: Vec<(String, u64)> = Vec::new();
    let scanned = database.scan(column, b"", &[0xff], |key, _| {
        let (owner, _) = encoding::owner_of_member(key).expect("a member's key is whole");
        let (_, _, name) = encoding::split_meta_key(&owner).expect("a key of meta is whole");
        let name = String::from_utf8_lossy(name).into_owned();
        let prefix = encoding::version_prefix(key).expect("a member's key is whole").to_vec();
        let name = format!("{name} {:?}", &prefix[prefix.len() - 8..]);
        match versions.last_mut() {
            Some((last, count)) if *last == name => *count += 1,
            _ => versions.push((name, 1)),
        }
        ControlFlow::Continue(())
    });
    scanned.expect("members can be read");
    versions
}

fn notes_on_disk(database: &Arc<Database>) -> usize {
    let (from, to) = encoding::dead_version_range();
    let mut notes = 0;
    let scanned = database.scan(Column::System, &from, &to, |_, _| {
        notes += 1;
        ControlFlow::Continue(())
    });
    scanned.expect("notes can be read");
    notes
}

#[test]
fn the_space_of_large_collections_comes_back_however_they_go_and_nothing_else_goes() {
    let mut node = Node::started(FLAGS);
    let mut client = node.connect();
    // They lie on both sides of the one that goes, in the same files.
    for neighbour in ["{k}a", "{k}c"] {
        fill_hash(&mut client, neighbour, 3_000);
    }
    let neighbours = ["{k}a", "{k}c"].map(|key| fields(&mut client, key));
    let ways: [&[&str]; 6] = [
        &["DEL", "{k}b"],
        &["UNLINK", "{k}b"],
        &["SET", "{k}b", "a string"],
        &["PEXPIRE", "{k}b", "1"],
        &["RENAME", "{k}small", "{k}b"],
        &["ZREMRANGEBYRANK", "{k}b", "0", "-1"],
    ];
    for (number, way) in ways.iter().enumerate() {
        client.command(&["DEL", "{k}b"]);
        fill_hash(&mut client, "{k}small", 10);
        match way[0] {
            "ZREMRANGEBYRANK" => fill_sorted_set(&mut client, "{k}b", MEMBERS),
            _ => fill_hash(&mut client, "{k}b", MEMBERS),
        }
        assert_eq!(reclaimed(&node), number as u64, "nothing is reclaimed that is alive");
        let reply = client.command(way).render();
        assert!(!reply.starts_with("(error)"), "{way:?}: {reply}");
        // A new one under the name of the old one, while that is being reclaimed.
        if way[0] == "DEL" {
            assert_eq!(client.command(&["HSET", "{k}b", "", "new"]), Value::Integer(1));
        }
        wait_for_reclaimed(&node, number as u64 + 1);
        if way[0] == "DEL" {
            assert_eq!(client.command(&["HGETALL", "{k}b"]).render(), "1) \"\"\n2) \"new\"");
        }
    }
    client.command(&["DEL", "{k}small", "{k}b"]);
    fill_hash(&mut client, "{k}b", 100);
    assert_eq!(["{k}a", "{k}c"].map(|key| fields(&mut client, key)), neighbours);
    assert!(wait_for(|| node.info("shards", "shard0", "reclaims_pending") == "0"));
    let (status, output) = node.terminate();
    assert!(status.success(), "{output}");
    contents::finish_checkpoints(&node.data_directory());
    let folder = &shard_folders(&node.data_directory())[0];
    let (data, notes) = with_database(folder, false, |database| {
        (versions_on_disk(database, Column::Data), notes_on_disk(database))
    });
    let large: Vec<_> = data.iter().filter(|(_, members)| *members >= MEMBERS).collect();
    assert_eq!((large.len(), notes), (0, 0), "{data:?}");
    node.start(FLAGS, "");
    let mut client = node.connect();
    assert_eq!(["{k}a", "{k}c"].map(|key| fields(&mut client, key)), neighbours);
    assert_eq!(client.command(&["HLEN", "{k}b"]), Value::Integer(100));
    assert_eq!(reclaimed(&node), 0, "nothing is left to be reclaimed");
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_delete_that_fails_reclaims_nothing() {
    let mut node = Node::new();
    let full = node.switch("full");
    node.start(FLAGS, &format!("disk-full={}", full.when()));
    let mut client = node.connect();
    fill_hash(&mut client, "hash", MEMBERS);
    full.on();
    let reply = client.command(&["DEL", "hash"]).render();
    assert!(reply.starts_with("(error) MISCONF"), "{reply}");
    full.off();
    node.wait_for_state(0, "healthy");
    assert_eq!(fields(&mut client, "hash").len(), 2 * MEMBERS as usize);
    // By now the note would be there, had it outlived the batch.
    assert_eq!(client.command(&["SET", "other", "1"]).render(), "OK");
    node.kill_9();
    contents::finish_checkpoints(&node.data_directory());
    let folder = &shard_folders(&node.data_directory())[0];
    assert_eq!(with_database(folder, false, notes_on_disk), 0);
    node.start(FLAGS, "");
    assert_eq!(fields(&mut node.connect(), "hash").len(), 2 * MEMBERS as usize);
}

#[test]
fn a_note_goes_with_its_command_and_is_deleted_once() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    with_database(folder.path(), true, |database| {
        let mut shard = Shard::open(ShardId(0), Arc::clone(database), 1 << 20).expect("an empty shard can be opened");
        let record = |version, members: u64| {
            let payload = members.to_be_bytes();
            let record = Record {
                kind: Type::Set,
                deadline_ms: 0,
                version,
                edited: false,
                payload: &payload,
            };
            Some(record.encode())
        };
        let write = |shard: &mut Shard, value, stands| {
            let written = shard.write(0, Slot::of(b"set"), b"set", value);
            written.expect("a healthy shard takes a write");
            match stands {
                true => shard.keep_command(),
                false => shard.roll_back_command(),
            }
        };
        let commit = |shard: &mut Shard| {
            shard.write_through().expect("a commit");
            (notes_on_disk(database), shard.take_ingested_markers(0))
        };
        shard.begin_turn(1);
        write(&mut shard, record(7, MEMBERS), true);
        // It has more members, or fewer, and is the same; a command that kills it fails.
        write(&mut shard, record(7, MEMBERS + 1), true);
        write(&mut shard, None, false);
        write(&mut shard, record(7, 10), true);
        assert_eq!(notes_on_disk(database), 0);
        shard.write_through().expect("a commit");
        assert_eq!(notes_on_disk(database), 0);
        shard.begin_turn(2);
        // A small one is left to ordinary compactions, a large one is not.
        write(&mut shard, record(8, MEMBERS), true);
        assert_eq!(commit(&mut shard).0, 0);
        write(&mut shard, Some(Record::string(b"a string", 0).encode()), true);
        assert!(!shard.take_ingested_markers(0), "nothing is committed");
        assert_eq!(commit(&mut shard), (1, true));
        let mut meta = Vec::new();
        meta_key(&mut meta, 0, Slot::of(b"set"), b"set");
        let note = encoding::dead_version_key(&meta, 8).expect("a key of meta");
        shard.begin_turn(3);
        let deleted: Vec<bool> = (0..2).map(|_| shard.delete_marker(&note).expect("a write")).collect();
        assert_eq!((deleted, commit(&mut shard)), (vec![true, false], (0, false)));
        assert!(!shard.delete_marker(&note).expect("a look at the disk"));
    });
}

/// A reclaim that a crash interrupted, or kept from beginning, is done by the next start.
#[test]
fn a_kill_or_a_shutdown_after_the_delete_leaves_all_members_or_none_and_the_space_comes_back() {
    let mut node = Node::started(FLAGS);
    for round in 0..5 {
        let mut client = node.connect();
        fill_hash(&mut client, "hash", MEMBERS);
        client.send(&["DEL", "hash"]).expect("the server reads");
        // Before or after the server has read it; when it has been answered; or when the members are going.
        match round {
            0 => {}
            1 => assert_eq!(client.read().expect("a reply"), Value::Integer(1)),
            _ => {
                let begun = || node.info("shards", "shard0", "reclaims_pending") == "1" || reclaimed(&node) == 1;
                assert!(wait_for(begun));
            }
        }
        match round {
            4 => assert!(node.terminate().0.success(), "a reclaim keeps nobody from stopping"),
            _ => node.kill_9(),
        }
        node.start(FLAGS, "");
        let mut client = node.connect();
        match fields(&mut client, "hash").len() as u64 {
            0 => assert_eq!(client.command(&["EXISTS", "hash"]), Value::Integer(0)),
            members => {
                assert_eq!((members, round), (2 * MEMBERS, 0), "some members are gone");
                assert_eq!(client.command(&["DEL", "hash"]), Value::Integer(1));
            }
        }
        let gone = || {
            let pending = node.info("shards", "shard0", "reclaims_pending");
            pending == "0"
                && node
                    .info("shards", "shard0", "file_bytes")
                    .parse::<u64>()
                    .is_ok_and(|bytes| bytes < 4 << 20)
        };
        assert!(wait_for(gone), "{}", node.info_section("shards"));
    }
}

/// Nothing syncs the log here but what is tested. All members lie in files when the hash is deleted, so to reclaim them
/// is to delete files; then the machine fails. The hash must not be back without them.
#[cfg(feature = "fault-injection")]
#[test]
fn a_loss_of_power_does_not_bring_back_a_collection_whose_members_are_gone() {
    let flags = format!("{FLAGS} --durability none");
    let mut node = Node::started(&flags);
    fill_hash(&mut node.connect(), "hash", MEMBERS);
    node.terminate();
    // The start writes what the log has to files.
    node.start(&flags, "record-unsynced-log=1");
    let mut client = node.connect();
    assert_eq!(client.command(&["SET", "before", "1"]).render(), "OK");
    assert_eq!(client.command(&["DEL", "hash"]), Value::Integer(1));
    wait_for_reclaimed(&node, 1);
    assert_eq!(client.command(&["SET", "after", "1"]).render(), "OK");
    node.kill_9();
    assert!(node.lose_all_unsynced() > 0, "nothing synced the last write");
    node.start(&flags, "");
    let mut client = node.connect();
    let exists = ["before", "hash", "after"].map(|key| client.command(&["EXISTS", key]).render());
    assert_eq!(exists, ["(integer) 1", "(integer) 0", "(integer) 0"]);
}

/// A dead version of a hash in a file of the last level, which ends with the only member of the version after it if
/// `shares_file`.
fn with_a_dead_version(shares_file: bool, work: impl FnOnce(&Arc<Database>, &dyn Fn(u64, &[u8]) -> Vec<u8>)) {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    with_database(folder.path(), true, |database| {
        // Until that is known, nothing counts as dead.
        database.set_in_the_making(&[]);
        let (slot, name) = (Slot::of(b"hash"), b"hash");
        let key = |version: u64, member: &[u8]| member_key(0, slot, name, version, member);
        let mut meta = Vec::new();
        meta_key(&mut meta, 0, slot, name);
        let mut writes = CellWrites::default();
        for member in 0..1000_u32 {
            writes.put(Column::Data, &key(7, &member.to_be_bytes()), b"old");
        }
        if shares_file {
            writes.put(Column::Data, &key(8, b""), b"new");
        }
        // Of this record nothing can be told, so the compaction keeps both versions.
        writes.put(Column::Meta, &meta, b"damaged");
        database.ingest(writes).expect("a write");
        database.compact(Column::Data);
        let record = Record {
            kind: Type::Hash,
            deadline_ms: 0,
            version: 8,
            edited: false,
            payload: b"",
        };
        let mut writes = CellWrites::default();
        writes.put(Column::Meta, &meta, &record.encode());
        database.ingest(writes).expect("a write");
        work(database, &key);
    });
}

fn count(database: &Arc<Database>, from: &[u8], to: &[u8]) -> u64 {
    let mut count = 0;
    let scanned = database.scan(Column::Data, from, to, |_, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    scanned.expect("members can be read");
    count
}

/// RocksDB would delete a file whose last key is the end of the range.
#[test]
fn a_reclaim_stops_before_the_first_key_of_the_next_version() {
    with_a_dead_version(true, |database, key| {
        assert!(
            database
                .reclaim(Column::Data, &key(6, b""))
                .expect("nothing to reclaim")
        );
        assert_eq!(count(database, b"", &[0xff]), 1001);
        assert!(database.reclaim(Column::Data, &key(7, b"")).expect("a reclaim"));
        assert_eq!(count(database, b"", &[0xff]), 1);
        let newer = database.get(Column::Data, &key(8, b""), <[u8]>::to_vec);
        assert_eq!(newer.expect("a read").as_deref(), Some(&b"new"[..]));
    });
}

#[test]
fn a_reader_of_a_dead_version_reads_it_to_its_end() {
    with_a_dead_version(false, |database, key| {
        let (from, to) = (key(7, b""), key(8, b""));
        let mut cursor = database.cursor(Column::Data, (&from, &to), Direction::Forward);
        let late = database.cursor(Column::Data, (&from, &to), Direction::Forward);
        assert!(cursor.begin() && !cursor.begin());
        for _ in 0..10 {
            cursor.advance();
        }
        assert!(database.reclaim(Column::Data, &from).expect("a reclaim"));
        assert_eq!(count(database, &from, &to), 0);
        let mut read = 10;
        while let Some((_, value)) = cursor.item() {
            assert_eq!(value, b"old");
            read += 1;
            cursor.advance();
        }
        assert!(cursor.has_ended());
        cursor.rewind();
        assert_eq!((read, cursor.begin(), cursor.item().is_some()), (1000, true, true));
        // It was opened before, though it begins only now.
        let mut cursor = late;
        assert!(cursor.begin() && cursor.item().is_some());
    });
}
