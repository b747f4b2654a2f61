//! The data directory: counts that survive everything, damage that is refused with a sentence, and what a crash in the
//! middle of SWAPDB leaves.

use corelane::storage::cell_writes::CellWrites;
use corelane::storage::database::Column;
use corelane::storage::encoding::{Counts, DatabaseMap};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;

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
    contents::finish_checkpoints(&node.data_directory());
    with_database(&shard_folders(&node.data_directory())[shard], false, |database| {
        let mut writes = CellWrites::default();
        writes.put(Column::System, key, value);
        database.ingest(writes).expect("a write");
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

const MANIFEST_WITHOUT_SHARDS: &str =
    "format = 2\nid = \"00112233445566778899aabbccddeeff\"\nshards = 0\ngeneration = 7\n";

fn manifest(node: &Node) -> PathBuf {
    node.data_directory().join("MANIFEST.toml")
}

fn write_manifest(node: &Node, text: &str) {
    std::fs::write(manifest(node), text).expect("it can be written");
}

fn edit_manifest(node: &Node, from: &str, to: &str) {
    let text = std::fs::read_to_string(manifest(node)).expect("it can be read");
    write_manifest(node, &text.replace(from, to));
}

/// What is done to a directory of two shards, the flags of the next start, and what that says.
type Break = (fn(&Node), &'static str, &'static str);

const BREAKS: [Break; 9] = [
    (
        |node| std::fs::remove_dir_all(&shard_folders(&node.data_directory())[1]).expect("a shard can be removed"),
        "",
        "shard-0001 is missing although the manifest counts 2 shards",
    ),
    (
        |node| std::fs::remove_file(manifest(node)).expect("it can be removed"),
        "",
        "holds shards but no manifest",
    ),
    (
        |node| write_manifest(node, "format = 99\nid = \"0\"\nshards = 2\n"),
        "",
        "has format 99",
    ),
    (
        |node| write_manifest(node, "format = 1\nid = \"0\"\nshards = 2\n"),
        "",
        "has format 1, and this version reads the formats 2 to 5",
    ),
    (
        |node| write_manifest(node, "title = \"somebody else's\"\n"),
        "",
        "is not a Corelane manifest (it has no format)",
    ),
    (
        |node| write_manifest(node, MANIFEST_WITHOUT_SHARDS),
        "",
        "is not a Corelane manifest (its number of shards is out of range)",
    ),
    (
        |node| edit_manifest(node, "id = \"", "id = \"x"),
        "",
        "is not a Corelane manifest (its id is not 32 hexadecimal digits)",
    ),
    (
        |node| edit_manifest(node, "generation = 1", "generation = 0"),
        "",
        "is the log of start 1, and MANIFEST.toml counts 1 starts",
    ),
    (
        |_| (),
        "--shards 4",
        "was created with 2 shards and --shards asks for 4",
    ),
];

#[test]
fn a_directory_that_is_not_whole_is_refused() {
    for (break_it, flags, sentence) in BREAKS {
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

/// SWAPDB writes one frame on each executor; when the process dies in between, the shards that were reached are right.
#[cfg(feature = "fault-injection")]
#[test]
fn a_crash_in_the_middle_of_swapdb_is_mended_at_the_start() {
    let flags = four_shards_on_two_executors();
    // The first four frames are those of the keys.
    for frame in 5.. {
        assert!(frame < 20, "SWAPDB does not end");
        let durability = ["interval", "always"][frame % 2];
        let mut node = Node::new();
        node.start(&flags, &format!("kill-before-commit={frame}"));
        let mut client = node.connect();
        for shard in 0..4 {
            let key = key_on(shard, 4, "key");
            assert_eq!(client.command(&["SET", &key, "of database 0"]).render(), "OK");
        }
        client.send(&["SWAPDB", "0", "1"]).expect("the server reads");
        let is_over = client.read().is_ok();
        match is_over {
            true => node.kill_9(),
            false => node.wait_for_exit(),
        }

        node.start(&format!("{flags} --durability {durability}"), "");
        let mut client = node.connect();
        select(&mut client, 1);
        let is_swapped = client.command(&["DBSIZE"]) == Value::Integer(4);
        assert!(is_swapped || !is_over, "an acknowledged swap is lost");
        let (full, empty) = if is_swapped { (1, 0) } else { (0, 1) };
        for (database, size) in [(full, 4), (empty, 0)] {
            select(&mut client, database);
            assert_eq!(client.command(&["DBSIZE"]), Value::Integer(size), "frame {frame}");
            for shard in 0..4 {
                let found = client.command(&["EXISTS", &key_on(shard, 4, "key")]);
                assert_eq!(found, Value::Integer(size / 4), "frame {frame}");
            }
        }
        // The next swap is a newer one everywhere.
        assert_eq!(client.command(&["SWAPDB", "0", "1"]).render(), "OK");
        node.kill_9();
        node.start(&flags, "");
        let mut client = node.connect();
        select(&mut client, empty);
        assert_eq!(client.command(&["DBSIZE"]), Value::Integer(4));
        if is_over {
            return;
        }
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
