//! The data directory: counts that survive everything, damage that is refused with a sentence, and what a crash in the
//! middle of SWAPDB leaves.

use corelane::storage::database::Column;
use corelane::storage::encoding::{Counts, DatabaseMap};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::contents::{self, with_database};
use super::{Node, command, four_shards_on_two_executors, key_on, seed, shard_folders};
use crate::harness::client::Client;
use crate::harness::process::ServerProcess;
use crate::harness::value::Value;

fn select(client: &mut Client, database: usize) {
    assert_eq!(client.command(&["SELECT", &database.to_string()]).render(), "OK");
}

#[test]
fn counts_are_exact_after_a_stop_and_after_kill_9() {
    let mut random = StdRng::seed_from_u64(seed("counts_are_exact_after_a_stop_and_after_kill_9"));
    let flags = four_shards_on_two_executors();
    let mut node = Node::new();
    for round in 0..4 {
        node.start(&flags, "");
        let mut client = node.connect();
        let mut bytes = Vec::new();
        const COMMANDS: usize = 400;
        for _ in 0..COMMANDS {
            let key = format!("key{}", random.random_range(0..200));
            let command = match random.random_range(0..8) {
                0 => format!("DEL {key}"),
                1 => format!("SET {key} 1 EX 1000"),
                2 => format!("PERSIST {key}"),
                3 => format!("RENAME {key} {key}x"),
                4 => format!("MOVE {key} 7"),
                5 => format!("APPEND {key} more"),
                6 => format!("SELECT {}", random.random_range(0..3)),
                _ => format!("SET {key} 2"),
            };
            bytes.extend(format!("{command}\r\n").into_bytes());
        }
        client.send_bytes(&bytes).expect("the server reads");
        for _ in 0..COMMANDS {
            client.read().expect("the server answers");
        }
        // What the commands say of each database, before and after.
        let sizes = |node: &Node| -> Vec<(Value, usize)> {
            let mut client = node.connect();
            let size = |database| {
                select(&mut client, database);
                let keys = match client.command(&["KEYS", "*"]) {
                    Value::Array(Some(keys)) => keys.len(),
                    other => panic!("KEYS was answered {}", other.render()),
                };
                (client.command(&["DBSIZE"]), keys)
            };
            (0..8).map(size).collect()
        };
        let before = sizes(&node);
        for (database, (size, keys)) in before.iter().enumerate() {
            assert_eq!(*size, Value::Integer(*keys as i64), "database {database}");
        }
        assert!(
            before.iter().map(|(_, keys)| keys).sum::<usize>() > 50,
            "the commands left keys"
        );
        match round % 2 {
            0 => node.kill_9(),
            _ => assert_eq!(node.terminate().0.code(), Some(0)),
        }
        contents::check(&node.data_directory());
        node.start(&flags, "");
        assert_eq!(sizes(&node), before, "round {round}");
        node.kill_9();
    }
}

/// Puts bytes under a key of `system` of a shard.
fn damage(node: &Node, shard: usize, key: &[u8], value: &[u8]) {
    with_database(&shard_folders(&node.data_directory())[shard], false, |database| {
        let mut writes = database.writes(64);
        writes.put(Column::System, key, value);
        database.write(writes.finish()).expect("a write");
    });
}

#[test]
fn damaged_records_of_the_shard_itself_are_refused() {
    for (key, value, sentence) in [
        (
            &Counts::key(3)[..],
            &b"short"[..],
            "the counts of database 3 are damaged",
        ),
        (
            DatabaseMap::KEY,
            b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            "the database map is damaged",
        ),
    ] {
        let mut node = Node::started("--shards 2");
        assert_eq!(node.terminate().0.code(), Some(0));
        damage(&node, 1, key, value);
        let (status, output) = node.start_refused("", "");
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(output.contains(sentence) && output.contains("shard-0001"), "{output}");
    }
}

#[test]
fn a_directory_that_is_not_whole_is_refused() {
    let manifest = |node: &Node| node.data_directory().join("MANIFEST.toml");
    type Break = fn(&Node);
    let breaks: [(Break, &str, &str); 6] = [
        (
            |node| std::fs::remove_dir_all(&shard_folders(&node.data_directory())[1]).expect("a shard can be removed"),
            "",
            "shard-0001 is missing although the manifest counts 2 shards",
        ),
        (
            |node| std::fs::remove_file(node.data_directory().join("MANIFEST.toml")).expect("it can be removed"),
            "",
            "holds shards but no manifest",
        ),
        (
            |node| {
                let path = node.data_directory().join("MANIFEST.toml");
                std::fs::write(path, "format = 99\nid = \"0\"\nshards = 2\n").expect("it can be written");
            },
            "",
            "has format 99",
        ),
        (
            |node| {
                let path = node.data_directory().join("MANIFEST.toml");
                std::fs::write(path, "title = \"somebody else's\"\n").expect("it can be written");
            },
            "",
            "is not a Corelane manifest (it has no format)",
        ),
        (
            |node| {
                let path = node.data_directory().join("MANIFEST.toml");
                std::fs::write(path, "format = 1\nid = \"0\"\nshards = 0\n").expect("it can be written");
            },
            "",
            "is not a Corelane manifest (its number of shards is out of range)",
        ),
        (
            |_| (),
            "--shards 4",
            "was created with 2 shards and --shards asks for 4",
        ),
    ];
    for (break_it, flags, sentence) in breaks {
        let mut node = Node::started("--shards 2");
        let (here, there) = (key_on(0, 2, "key"), key_on(1, 2, "key"));
        assert_eq!(
            node.connect().command(&["MSET", &here, "1", &there, "2"]).render(),
            "OK"
        );
        assert_eq!(node.terminate().0.code(), Some(0));
        let intact = std::fs::read(manifest(&node)).expect("a started server has a manifest");
        break_it(&node);
        let (status, output) = node.start_refused(flags, "");
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(output.contains(sentence), "expected `{sentence}` in:\n{output}");
        // Being refused has damaged nothing that was left.
        if shard_folders(&node.data_directory()).len() == 2 {
            std::fs::write(manifest(&node), intact).expect("it can be written");
            node.start("", "");
            let both = node.connect().command(&["MGET", &here, &there]);
            assert_eq!(both.render(), "1) \"1\"\n2) \"2\"");
        }
    }
}

/// SWAPDB writes one record per shard; when the process dies in between, the shards that were reached are right.
#[cfg(feature = "fault-injection")]
#[test]
fn a_crash_in_the_middle_of_swapdb_is_mended_at_the_start() {
    let cpu = crate::harness::server::allowed_cpus()[0];
    let flags = format!("--shards 4 --network-cores {cpu} --storage-cores {cpu}");
    for (swapped, durability) in [(0, "interval"), (1, "always"), (3, "interval"), (3, "always")] {
        let mut node = Node::new();
        // Write 1 notes the start, 2 to 5 are those of the keys, 6 to 9 those of the shards' records.
        node.start(&flags, &format!("kill-before-commit={}", 6 + swapped));
        let mut client = node.connect();
        for shard in 0..4 {
            let key = key_on(shard, 4, "key");
            assert_eq!(client.command(&["SET", &key, "of database 0"]).render(), "OK");
        }
        client.send(&["SWAPDB", "0", "1"]).expect("the server reads");
        assert!(client.is_closed());
        node.wait_for_exit();

        node.start(&format!("{flags} --durability {durability}"), "");
        let mut client = node.connect();
        let (full, empty) = if swapped > 0 { (1, 0) } else { (0, 1) };
        for (database, size) in [(full, 4), (empty, 0)] {
            select(&mut client, database);
            assert_eq!(
                client.command(&["DBSIZE"]),
                Value::Integer(size),
                "{swapped} shards were swapped"
            );
            for shard in 0..4 {
                let found = client.command(&["EXISTS", &key_on(shard, 4, "key")]);
                assert_eq!(found, Value::Integer(size / 4), "{swapped} shards were swapped");
            }
        }
        // The next swap is a newer one everywhere.
        assert_eq!(client.command(&["SWAPDB", "0", "1"]).render(), "OK");
        node.kill_9();
        node.start(&flags, "");
        let mut client = node.connect();
        select(&mut client, empty);
        assert_eq!(client.command(&["DBSIZE"]), Value::Integer(4));
    }
}

/// As a supervisor does that does not wait: the kernel may still be freeing the old process's memory, and the lock
/// comes after.
#[test]
fn a_killed_server_may_be_started_again_at_once() {
    const VALUES: usize = 16;
    let mut node = Node::started("--shards 1");
    let value = "x".repeat(8 << 20);
    for number in 0..VALUES {
        let reply = node.connect().command(&["SET", &format!("key:{number}"), &value]);
        assert_eq!(reply.render(), "OK");
    }
    for _ in 0..3 {
        node.process().signal(libc::SIGKILL);
        let again = command(node.address(), &node.data_directory(), "--shards 1", "");
        let killed = node.process.replace(ServerProcess::spawn(again));
        let address = node.address();
        node.process().wait_until_ready(address);
        assert_eq!(node.connect().command(&["DBSIZE"]), Value::Integer(VALUES as i64));
        drop(killed);
    }
}
