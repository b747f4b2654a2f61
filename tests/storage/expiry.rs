//! The expiry index is exact, the sweep follows it, and the counts follow both.

use std::time::{SystemTime, UNIX_EPOCH};

use corelane::error::DatabaseError;
use corelane::slots::{ShardId, Slot};
use corelane::storage::cell_writes::CellWrites;
use corelane::storage::encoding::{self, Record};
use corelane::storage::expiry::{DueHash, sweep};
use corelane::storage::shard::Shard;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::contents::{self, Contents, with_database};
use super::{Node, four_shards_on_two_executors, seed};
use crate::harness::process::wait_for;
use crate::harness::value::Value;

/// Opens an empty shard in a folder of its own.
fn with_shard(memory_bytes: usize, work: impl FnOnce(&mut Shard)) {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    with_database(folder.path(), true, |database| {
        let shard = Shard::open(ShardId(0), database.clone(), memory_bytes);
        work(&mut shard.expect("an empty shard can be opened"));
    });
}

fn write(shard: &mut Shard, database: u8, key: &str, value: Option<Vec<u8>>) {
    let written = shard.write(database, Slot::of(key.as_bytes()), key.as_bytes(), value);
    written.expect("a healthy shard takes a write");
}

fn string(value: &str, deadline_ms: u64) -> Option<Vec<u8>> {
    Some(Record::string(value.as_bytes(), deadline_ms).encode())
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is right");
    since.as_millis() as u64
}

#[test]
fn index_and_counts_are_exact_after_any_commands_failed_ones_too() {
    let seed = seed("index_and_counts_are_exact_after_any_commands_failed_ones_too");
    for memory_bytes in [0, 2_000, 1 << 20] {
        let mut random = StdRng::seed_from_u64(seed);
        with_shard(memory_bytes, |shard| {
            let mut turn = 1;
            shard.begin_turn(turn);
            for _ in 0..4_000 {
                // A command of one to three writes, as SET, RENAME and MSET are.
                for _ in 0..random.random_range(1..4) {
                    let key = format!("key{}", random.random_range(0..30));
                    let deadline_ms = if random.random_ratio(1, 2) {
                        random.random_range(1..50)
                    } else {
                        0
                    };
                    // Some records are too large for the table of hot ones.
                    let length = if random.random_ratio(1, 50) { 70_000 } else { 10 };
                    let deletes = random.random_ratio(1, 4);
                    let value = if deletes {
                        None
                    } else {
                        string(&"v".repeat(length), deadline_ms)
                    };
                    write(shard, random.random_range(0..3), &key, value);
                }
                match random.random_ratio(1, 5) {
                    true => shard.roll_back_command(),
                    false => shard.keep_command(),
                }
                if random.random_ratio(1, 6) {
                    shard.write_through().expect("a commit");
                    turn += 1;
                    shard.begin_turn(turn);
                }
                if random.random_ratio(1, 100) {
                    let now_ms = random.random_range(0..30);
                    sweep(shard, now_ms, 10, &mut Vec::new(), |_| false).expect("a sweep");
                }
            }
            shard.write_through().expect("a commit");
            let contents = Contents::of(shard.database());
            assert!(contents.records.len() > 20, "{} records", contents.records.len());
            assert_eq!(contents.check(), [], "an entry of the index that no key has");
            for database in 0..3 {
                assert_eq!(
                    shard.counts(database),
                    contents.counts[usize::from(database)],
                    "counts of database {database}"
                );
            }
        });
    }
}

#[test]
fn a_sweep_deletes_what_is_due_in_the_order_of_deadlines_within_its_budget() {
    with_shard(1 << 20, |shard| {
        shard.begin_turn(1);
        for number in 0..25 {
            // The latest first, so that only the index can bring them in order.
            write(
                shard,
                0,
                &format!("key{number}"),
                string("v", 1000 - u64::from(number as u8)),
            );
        }
        write(shard, 0, "later", string("v", 5000));
        write(shard, 0, "never", string("v", 0));
        shard.keep_command();
        shard.write_through().expect("a commit");
        let mut left = Vec::new();
        for turn in 2..6 {
            shard.begin_turn(turn);
            let expired = sweep(shard, 2000, 10, &mut Vec::new(), |_| false).expect("a sweep");
            shard.write_through().expect("a commit");
            let contents = Contents::of(shard.database());
            assert_eq!(contents.check(), []);
            let earliest = contents.deadlines().first().map(|(deadline_ms, _)| *deadline_ms);
            left.push((expired, shard.counts(0).keys, earliest));
        }
        assert_eq!(
            left,
            [
                (10, 17, Some(986)),
                (10, 7, Some(996)),
                (5, 2, Some(5000)),
                (0, 2, Some(5000))
            ]
        );
        assert_eq!(
            shard.swept.next_deadline_ms(),
            5000,
            "the next sweep knows that nothing is due before"
        );
        shard.begin_turn(6);
        write(shard, 0, "earlier", string("v", 3000));
        shard.keep_command();
        shard.write_through().expect("a commit");
        shard.begin_turn(7);
        assert_eq!(
            sweep(shard, 4000, 10, &mut Vec::new(), |_| false).expect("a sweep"),
            1,
            "an earlier deadline that came later is seen"
        );
    });
}

#[test]
fn a_deadline_that_is_put_off_moves_in_the_index_when_the_sweep_comes_to_it() {
    with_shard(1 << 20, |shard| {
        let mut turn = 0;
        let mut index_after = |shard: &mut Shard, deadlines_ms: &[u64], swept_at: Option<u64>| {
            turn += 1;
            shard.begin_turn(turn);
            for deadline_ms in deadlines_ms {
                write(shard, 0, "session", string("v", *deadline_ms));
                shard.keep_command();
            }
            let sweep = |now_ms| sweep(shard, now_ms, 10, &mut Vec::new(), |_| false).expect("a sweep");
            let expired = swept_at.map_or(0, sweep);
            shard.write_through().expect("a commit");
            let contents = Contents::of(shard.database());
            assert_eq!(contents.check(), []);
            let index: Vec<u64> = contents.index.iter().map(|(entry_ms, _)| *entry_ms).collect();
            (index, expired)
        };
        assert_eq!(index_after(shard, &[1000, 2000], None), (vec![1000], 0));
        assert_eq!(index_after(shard, &[3000], Some(999)), (vec![1000], 0));
        assert_eq!(index_after(shard, &[], Some(1001)), (vec![3000], 0));
        assert_eq!(index_after(shard, &[4000], None), (vec![3000], 0));
        assert_eq!(
            index_after(shard, &[2500], None),
            (vec![2500], 0),
            "an earlier one moves it at once"
        );
        assert_eq!(index_after(shard, &[3500, 0], None), (vec![], 0), "none takes it away");
        assert_eq!(index_after(shard, &[3500, 4500], Some(4400)), (vec![4500], 0));
        assert_eq!(index_after(shard, &[4600], Some(4550)), (vec![4600], 0));
        assert_eq!(
            index_after(shard, &[4700], Some(4800)),
            (vec![], 1),
            "one sweep is enough for what is due"
        );
    });
}

/// A key that is due exactly now is alive in Redis, and must not be swept.
#[test]
fn a_key_lives_through_the_millisecond_of_its_deadline() {
    with_shard(1 << 20, |shard| {
        shard.begin_turn(1);
        write(shard, 0, "key", string("v", 1000));
        shard.keep_command();
        shard.write_through().expect("a commit");
        shard.begin_turn(2);
        assert_eq!(sweep(shard, 1000, 10, &mut Vec::new(), |_| false).expect("a sweep"), 0);
        assert_eq!(sweep(shard, 1001, 10, &mut Vec::new(), |_| false).expect("a sweep"), 1);
    });
}

#[test]
fn the_index_follows_overwriting_persisting_renaming_and_copying() {
    let mut node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    let commands = [
        "SET overwritten 1 PX 100000",
        "SET overwritten 2",
        "SET again 1 PX 100000",
        "SET again 2 PX 200000",
        "SET kept 1 PX 100000",
        "SET kept 2 KEEPTTL",
        "SET persisted 1 PX 100000",
        "PERSIST persisted",
        "SET deleted 1 PX 100000",
        "DEL deleted",
        "SET source 1 PX 100000",
        "SET target 1 PX 200000",
        "RENAME source target",
        "SET original 1 PX 100000",
        "COPY original copy",
        "COPY original copy DB 3",
        "SET moved 1 PX 100000",
        "MOVE moved 2",
        "SET changed 1 PX 100000",
        "EXPIRE changed 500",
        "SET appended 1 PX 100000",
        "APPEND appended 2",
        "SET got 1 PX 100000",
        "GETEX got PERSIST",
        "SET taken 1 PX 100000",
        "GETDEL taken",
        "SET past 1 PX 100000",
        "EXPIREAT past 1",
        "SWAPDB 3 4",
    ];
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        let reply = client.command(&words).render();
        assert!(!reply.starts_with("(error)"), "{command}: {reply}");
    }
    let keyspace = node.info("keyspace", "db0", "expires");
    assert_eq!(keyspace, "7", "again kept target original copy changed appended");
    node.kill_9();
    assert_eq!(contents::check(&node.data_directory()), 0, "stale entries of the index");
}

#[test]
fn expired_keys_are_swept_and_dbsize_follows_although_nobody_asks_for_them() {
    let mut node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    // Above the budget of one turn, so that several sweeps are needed.
    let mut bytes = Vec::new();
    for number in 0..2_000 {
        bytes.extend(format!("SET key:{number} 1 PX 100\r\n").into_bytes());
    }
    bytes.extend(b"SET stays 1\r\nSET later 1 EX 1000\r\n");
    client.send_bytes(&bytes).expect("the server reads");
    for _ in 0..2_002 {
        assert_eq!(client.read().expect("the server answers").render(), "OK");
    }
    let swept = wait_for(|| client.command(&["DBSIZE"]) == Value::Integer(2));
    assert!(swept, "DBSIZE is {}", client.command(&["DBSIZE"]).render());
    assert_eq!(node.info("stats", "expired_keys", ""), "2000");
    assert_eq!(node.info("keyspace", "db0", "keys"), "2");
    assert_eq!(node.info("keyspace", "db0", "expires"), "1");
    node.kill_9();
    assert_eq!(contents::check(&node.data_directory()), 0, "stale entries of the index");
    // Keys that expire while the server is down are gone when it is back.
    node.start(&four_shards_on_two_executors(), "");
    let soon = (now_ms() + 50).to_string();
    assert_eq!(
        node.connect().command(&["SET", "down", "1", "PXAT", &soon]).render(),
        "OK"
    );
    node.kill_9();
    node.start(&four_shards_on_two_executors(), "");
    assert!(wait_for(|| node.connect().command(&["DBSIZE"]) == Value::Integer(2)));
}

#[test]
fn flushing_leaves_nothing_in_the_index_once_the_sweep_has_passed() {
    let mut node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    let at = (now_ms() + 1_500).to_string();
    for number in 0..100 {
        let key = format!("key:{number}");
        assert_eq!(client.command(&["SET", &key, "1", "PXAT", &at]).render(), "OK");
    }
    assert_eq!(client.command(&["FLUSHDB"]).render(), "OK");
    assert_eq!(client.command(&["DBSIZE"]), Value::Integer(0));
    // The same key and deadline as a leftover: it must be swept once, as a key.
    assert_eq!(client.command(&["SET", "key:0", "2", "PXAT", &at]).render(), "OK");
    assert_eq!(client.command(&["GET", "key:0"]).render(), "\"2\"");
    // The sweep goes by deadline: when these later ones are gone, it has passed the leftovers of their shards.
    let later = (now_ms().max(at.parse().expect("a number")) + 50).to_string();
    for number in 0..100 {
        let key = format!("late:{number}");
        assert_eq!(client.command(&["SET", &key, "1", "PXAT", &later]).render(), "OK");
    }
    assert!(wait_for(|| client.command(&["DBSIZE"]) == Value::Integer(0)));
    assert_eq!(client.command(&["SELECT", "5"]).render(), "OK");
    assert_eq!(client.command(&["SET", "all", "1", "EX", "1000"]).render(), "OK");
    assert_eq!(client.command(&["FLUSHALL"]).render(), "OK");
    node.kill_9();
    assert_eq!(contents::check(&node.data_directory()), 0, "stale entries of the index");
}

/// Every sweep would pass over all that the earlier ones have deleted, if it began with the first of a deadline.
#[test]
fn keys_of_one_deadline_take_no_longer_the_more_there_are() {
    with_shard(1 << 30, |shard| {
        shard.begin_turn(1);
        const KEYS: usize = 100_000;
        for number in 0..KEYS {
            write(shard, 0, &format!("key{number}"), string("v", 1000));
            shard.keep_command();
        }
        shard.logged(1);
        let began = std::time::Instant::now();
        let (mut expired, mut turn) = (0, 1);
        while expired < KEYS {
            turn += 1;
            shard.begin_turn(turn);
            expired += sweep(shard, 2000, 200, &mut Vec::new(), |_| false).expect("a sweep");
            shard.logged(1);
        }
        // Minutes, if each sweep passes over all; less than a second if not.
        assert!(began.elapsed().as_secs() < 10, "it took {:?}", began.elapsed());
        assert_eq!((shard.counts(0).keys, shard.swept.next_deadline_ms()), (0, u64::MAX));
    });
}

#[test]
fn a_key_that_must_stay_holds_up_no_other_and_is_swept_when_it_may_go() {
    with_shard(1 << 20, |shard| {
        shard.begin_turn(1);
        for number in 0..1000_u64 {
            write(shard, 0, &format!("key{number}"), string("v", 1000 + number));
            shard.keep_command();
        }
        let sweep_all = |shard: &mut Shard, locks: &[&[u8]]| {
            let is_locked = |key: &DueHash| locks.contains(&&key.1[..]);
            let sweep_some = |_| sweep(shard, 5000, 100, &mut Vec::new(), is_locked).expect("a sweep");
            let expired: usize = (0..12).map(sweep_some).sum();
            (expired, shard.swept.next_deadline_ms())
        };
        assert_eq!(sweep_all(shard, &[b"key0", b"key500"]), (998, 1000));
        assert_eq!(sweep_all(shard, &[]), (2, u64::MAX));
        // What is taken back is due again, also behind what was swept.
        shard.stop(&DatabaseError::DiskFull("on request".to_owned()));
        shard.set_disk_full(false);
        shard.begin_turn(2);
        write(shard, 0, "again", string("v", 1000));
        shard.keep_command();
        assert_eq!(sweep(shard, 5000, 100, &mut Vec::new(), |_| false).expect("a sweep"), 1);
    });
}

#[test]
fn flushing_the_only_database_that_has_keys_empties_the_index_and_another_leaves_theirs() {
    with_shard(1 << 20, |shard| {
        for (turn, others) in [(1, false), (2, true)] {
            shard.begin_turn(turn);
            write(shard, 3, "flushed", string("v", 1000));
            if others {
                write(shard, 2, "before", string("v", 2000));
                write(shard, 4, "behind", string("v", 3000));
            }
            shard.keep_command();
            shard.write_through().expect("a commit");
            shard.flush(Some(3)).expect("the shard takes writes");
            shard.keep_command();
            shard.write_through().expect("a commit");
            let stale = Contents::of(shard.database()).check();
            let stale: Vec<u64> = stale.iter().map(|(deadline_ms, _)| *deadline_ms).collect();
            // The sweep is to find that of the database that was flushed.
            assert_eq!(stale, if others { vec![1000] } else { vec![] });
            assert_eq!(shard.counts(2).keys + shard.counts(4).keys, if others { 2 } else { 0 });
        }
    });
}

/// The sweep deletes the entry of the index that it found, whatever the key's record says now.
#[test]
fn an_entry_of_the_index_without_its_key_is_removed_and_harms_no_other() {
    with_shard(1 << 20, |shard| {
        let mut writes = CellWrites::default();
        let (mut meta_key, mut index_key) = (Vec::new(), Vec::new());
        encoding::meta_key(&mut meta_key, 0, Slot::of(b"key"), b"key");
        encoding::expiry_key(&mut index_key, 500, &meta_key);
        writes.put(
            corelane::storage::database::Column::Expiry,
            &index_key,
            &0_u64.to_be_bytes(),
        );
        shard.database().ingest(writes).expect("a write");
        shard.begin_turn(1);
        write(shard, 0, "key", string("v", 5000));
        shard.keep_command();
        shard.write_through().expect("a commit");
        shard.begin_turn(2);
        assert_eq!(sweep(shard, 2000, 10, &mut Vec::new(), |_| false).expect("a sweep"), 0);
        shard.write_through().expect("a commit");
        let contents = Contents::of(shard.database());
        assert_eq!(contents.check(), []);
        assert_eq!(shard.counts(0).keys, 1);
    });
}
