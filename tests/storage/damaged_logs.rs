//! Logs that are damaged in their middle, and logs that merely end early: a server refuses the first with a sentence
//! that says what would be lost, and starts with the second.

use std::path::PathBuf;

use super::Node;
use crate::harness::process::wait_for;

/// The segment that a node's only executor has written since the last start.
fn segment_of(node: &Node) -> PathBuf {
    let logs = std::fs::read_dir(node.data_directory().join("log")).expect("the folder of logs can be read");
    let generation = |folder: &PathBuf| {
        let name = folder.file_name()?.to_str()?;
        name.strip_suffix("-0")?.parse::<u64>().ok()
    };
    let folders = logs.map(|folder| folder.expect("the folder of logs can be read").path());
    let newest = folders.max_by_key(generation).expect("there is a log");
    newest.join("0000000001.log")
}

/// A server on one shard that has set `key:0` to `key:99`, all of which is on disk, and was killed.
fn killed() -> Node {
    let mut node = Node::started("--shards 1 --durability always");
    let mut client = node.connect();
    for number in 0..100 {
        assert_eq!(
            client.command(&["SET", &format!("key:{number}"), "value"]).render(),
            "OK"
        );
    }
    node.kill_9();
    node
}

/// Where the frame of a key's SET says its name in the log.
fn place_of(log: &[u8], key: &str) -> usize {
    let found = log.windows(key.len()).position(|window| window == key.as_bytes());
    found.expect("the key is in the log")
}

fn keys(node: &Node) -> usize {
    let answer = node.connect().command(&["DBSIZE"]).render();
    answer
        .trim_start_matches("(integer) ")
        .parse()
        .expect("DBSIZE answers a number")
}

#[test]
fn a_log_with_a_flipped_bit_in_its_middle_is_refused_and_can_be_loaded_up_to_there() {
    let mut node = killed();
    let log = segment_of(&node);
    let mut bytes = std::fs::read(&log).expect("the log can be read");
    let place = place_of(&bytes, "key:50");
    bytes[place] ^= 0x10;
    std::fs::write(&log, &bytes).expect("the log can be damaged");
    for _ in 0..2 {
        let (status, output) = node.start_refused("--shards 1", "");
        assert_eq!(status.code(), Some(1), "{output}");
        for said in [
            log.to_str().expect("a path in UTF-8"),
            "the payload of a frame is wrong; 49 readable frames come behind, and the log was on disk up to segment 1",
            "restore the data directory from a backup",
            "--load-damaged-log",
        ] {
            assert!(output.contains(said), "{said:?} is not said:\n{output}");
        }
        assert_eq!(
            std::fs::read(&log).expect("the log can be read"),
            bytes,
            "it was not touched"
        );
    }
    node.start("--shards 1 --load-damaged-log yes", "");
    assert_eq!(keys(&node), 50);
    let mut client = node.connect();
    assert_eq!(client.command(&["GET", "key:49"]).render(), "\"value\"");
    assert_eq!(client.command(&["GET", "key:51"]).render(), "(nil)");
    assert_eq!(client.command(&["SET", "key:51", "again"]).render(), "OK");
    node.kill_9();
    // What was dropped is gone, and the log is whole again.
    node.start("--shards 1", "");
    assert_eq!(node.connect().command(&["GET", "key:51"]).render(), "\"again\"");
}

/// Some of a log is in RocksDB, and nobody can tell how much: all that is there is loaded again, over what it has made.
#[test]
fn a_checkpoint_that_is_damaged_is_refused_and_can_be_loaded_without() {
    let mut node = Node::started("--shards 1");
    let set = |node: &Node, from: u64| {
        let mut client = node.connect();
        for number in from..from + 100 {
            let words = ["SET", &format!("key:{}", number % 150), &number.to_string()];
            assert_eq!(client.command(&words).render(), "OK");
        }
    };
    set(&node, 0);
    node.connect().command(&["BGREWRITEAOF"]);
    assert!(wait_for(|| node.info("persistence", "log_checkpoints", "") != "0"));
    set(&node, 100);
    node.kill_9();
    let checkpoint = segment_of(&node).with_file_name("CHECKPOINT");
    let mut bytes = std::fs::read(&checkpoint).expect("there is a checkpoint");
    bytes[30] ^= 1;
    std::fs::write(&checkpoint, &bytes).expect("it can be damaged");
    let (status, output) = node.start_refused("--shards 1", "");
    assert_eq!(status.code(), Some(1), "{output}");
    for said in ["CHECKPOINT is damaged", "--load-damaged-log yes"] {
        assert!(output.contains(said), "{said:?} is not said:\n{output}");
    }
    node.start("--shards 1 --load-damaged-log yes", "");
    for life in 0..2 {
        let mut client = node.connect();
        assert_eq!(keys(&node), 150);
        for number in 50..200 {
            let found = client.command(&["GET", &format!("key:{}", number % 150)]).render();
            assert_eq!(found, format!("\"{number}\""), "life {life}");
        }
        node.kill_9();
        node.start("--shards 1", "");
    }
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_log_on_a_damaged_disk_is_refused_and_can_be_loaded_as_far_as_it_is_readable() {
    let mut node = killed();
    let (status, output) = node.start_refused("--shards 1", "fail-read=1..");
    assert_eq!(status.code(), Some(1), "{output}");
    for said in ["its disk is damaged", "--load-damaged-log yes"] {
        assert!(output.contains(said), "{said:?} is not said:\n{output}");
    }
    // What cannot be read lies behind what is needed.
    node.start("--shards 1", "fail-read=1");
    assert_eq!(keys(&node), 100);
    assert_eq!(node.connect().command(&["SET", "last", "1"]).render(), "OK");
    node.kill_9();
    node.start("--shards 1 --load-damaged-log yes", "fail-read=1..");
    assert_eq!(keys(&node), 100, "the last log is lost, and no other");
    node.kill_9();
    node.start("--shards 1", "");
    assert_eq!(keys(&node), 100);
}

#[test]
fn a_log_that_ends_in_the_middle_of_a_frame_is_loaded_without_asking() {
    let mut node = killed();
    let log = segment_of(&node);
    let bytes = std::fs::read(&log).expect("the log can be read");
    let place = place_of(&bytes, "key:70");
    std::fs::write(&log, &bytes[..place + 3]).expect("the log can be cut");
    node.start("--shards 1", "");
    assert_eq!(keys(&node), 70);
}
