//! The three durabilities: how often they sync, what they hold back, and switching between them while running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Node, four_shards_on_two_executors};
use crate::harness::client::Client;
use crate::harness::observe::info_number;
use crate::harness::process::wait_for;
use crate::harness::progress::Progress;

/// How long a reply may take while the setting changes: longer than any sync here, far less than a sync interval.
const STALL_MAX: Duration = Duration::from_secs(2);

/// Writes that are answered under each durability: several by each of the writers, so that some have begun under the
/// one before.
const WRITES_BETWEEN_SWITCHES: u64 = 40;

fn set(client: &mut Client, key: &str, value: u64) {
    assert_eq!(client.command(&["SET", key, &value.to_string()]).render(), "OK");
}

#[test]
fn always_syncs_before_each_reply() {
    let node = Node::started("--shards 1 --durability always");
    let mut client = node.connect();
    let before = node.syncs();
    for number in 0..50 {
        set(&mut client, "key", number);
    }
    let enough = wait_for(|| node.syncs() - before >= 50);
    assert!(
        enough,
        "50 writes, one after another, made {} syncs",
        node.syncs() - before
    );
}

#[test]
fn clients_that_write_at_once_share_a_sync_under_always() {
    let mut node = Node::new();
    node.start("--shards 1 --durability always", "delay-sync-ms=10");
    let before = node.syncs();
    let address = node.address();
    let clients: Vec<_> = (0..20)
        .map(|client| {
            std::thread::spawn(move || {
                let mut connection = Client::connect(address).expect("the server accepts");
                for number in 0..10 {
                    set(&mut connection, &format!("key:{client}"), number);
                }
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().expect("every write is answered OK"));
    let syncs = node.syncs() - before;
    assert!(syncs < 100, "200 writes of 20 clients made {syncs} syncs");
}

#[test]
fn interval_syncs_once_per_interval_and_none_never() {
    for (durability, most) in [("interval", 7), ("none", 0)] {
        let node = Node::started(&format!("--shards 1 --durability {durability} --sync-interval-ms 200"));
        let mut client = node.connect();
        let before = node.syncs();
        let end = Instant::now() + Duration::from_millis(1000);
        let mut number = 0;
        while Instant::now() < end {
            set(&mut client, "key", number);
            number += 1;
        }
        let syncs = node.syncs() - before;
        assert!(
            syncs <= most && (most == 0 || syncs >= 2),
            "{durability}: {number} writes in 1 s made {syncs} syncs"
        );
    }
}

#[test]
fn interval_syncs_the_last_write_although_no_other_follows() {
    let mut node = Node::new();
    let flags = "--shards 1 --durability interval --sync-interval-ms 50";
    node.start(flags, "record-unsynced-log=1");
    let before = node.syncs();
    set(&mut node.connect(), "key", 1);
    assert!(wait_for(|| node.syncs() > before));
    node.kill_9();
    node.lose_all_unsynced();
    node.start(flags, "");
    assert_eq!(node.connect().command(&["GET", "key"]).render(), "\"1\"");
}

/// Writes of `interval` that no sync has covered yet become visible under `always` only when they are on disk, whether
/// anybody writes or not.
#[test]
fn reads_after_a_switch_to_always_wait_for_what_they_saw() {
    for always in [["durability", "always"], ["appendfsync", "always"]] {
        for setting in ["interval", "none"] {
            let mut node = Node::new();
            // No sync comes by itself within the test.
            let flags = format!("--shards 1 --durability {setting} --sync-interval-ms 60000");
            node.start(&flags, "record-unsynced-log=1,delay-sync-ms=30");
            let mut client = node.connect();
            set(&mut client, "key", 1);
            assert_eq!(client.command(&["CONFIG", "SET", always[0], always[1]]).render(), "OK");
            let began = Instant::now();
            assert_eq!(client.command(&["GET", "key"]).render(), "\"1\"");
            assert!(
                began.elapsed() < STALL_MAX,
                "{setting}: the read waited {:?}",
                began.elapsed()
            );
            node.kill_9();
            node.lose_all_unsynced();
            node.start(&flags, "");
            assert_eq!(
                node.connect().command(&["GET", "key"]).render(),
                "\"1\"",
                "{setting}: what was read is on disk"
            );
        }
    }
}

#[test]
fn a_shorter_interval_is_obeyed_at_once() {
    let node = Node::started("--shards 1 --durability interval --sync-interval-ms 60000");
    let mut client = node.connect();
    set(&mut client, "key", 1);
    let before = node.syncs();
    assert_eq!(
        client.command(&["CONFIG", "SET", "sync-interval-ms", "20"]).render(),
        "OK"
    );
    let began = Instant::now();
    assert!(wait_for(|| node.syncs() > before));
    assert!(began.elapsed() < STALL_MAX, "{:?}", began.elapsed());
}

#[test]
fn durability_switches_under_load_in_both_directions() {
    let mut node = Node::new();
    let flags = four_shards_on_two_executors();
    node.start(&flags, "record-unsynced-log=1,delay-sync-ms=2");
    let (stop, progress) = (Arc::new(AtomicBool::new(false)), Progress::default());
    let address = node.address();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (stop, progress) = (Arc::clone(&stop), progress.clone());
            std::thread::spawn(move || {
                let mut connection = Client::connect(address).expect("the server accepts");
                let (mut number, mut slowest) = (0, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    set(&mut connection, &format!("key:{writer}:{}", number % 10), number);
                    slowest = slowest.max(began.elapsed());
                    number += 1;
                    progress.add();
                }
                (number, slowest)
            })
        })
        .collect();
    let mut control = node.connect();
    let words = [
        ("durability", "always"),
        ("appendfsync", "everysec"),
        ("appendfsync", "always"),
        ("durability", "none"),
        ("durability", "always"),
        ("appendfsync", "no"),
    ];
    for round in 0..18 {
        let (name, value) = words[round % words.len()];
        assert_eq!(control.command(&["CONFIG", "SET", name, value]).render(), "OK");
        progress.wait_for(WRITES_BETWEEN_SWITCHES);
    }
    assert_eq!(
        control.command(&["CONFIG", "SET", "durability", "always"]).render(),
        "OK"
    );
    set(&mut control, "last", 1);
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        let (writes, slowest) = writer.join().expect("every write is answered OK");
        assert!(
            writes > 0 && slowest < STALL_MAX,
            "{writes} writes, the slowest took {slowest:?}"
        );
    }
    node.kill_9();
    node.lose_all_unsynced();
    node.start(&flags, "");
    assert_eq!(node.connect().command(&["GET", "last"]).render(), "\"1\"");
}

#[test]
fn an_orderly_stop_syncs_everything_whatever_the_durability() {
    for durability in ["interval", "none"] {
        let mut node = Node::new();
        let flags = format!("--shards 1 --durability {durability} --sync-interval-ms 60000");
        node.start(&flags, "record-unsynced-log=1");
        set(&mut node.connect(), "key", 1);
        let began = Instant::now();
        let (status, output) = node.terminate();
        assert_eq!(status.code(), Some(0), "{output}");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "it took {:?}",
            began.elapsed()
        );
        node.lose_all_unsynced();
        node.start(&flags, "");
        assert_eq!(
            node.connect().command(&["GET", "key"]).render(),
            "\"1\"",
            "{durability}"
        );
    }
}

#[test]
fn save_has_what_was_answered_on_disk_whatever_the_durability() {
    for durability in ["interval", "none", "always"] {
        let mut node = Node::new();
        // No sync comes by itself within the test.
        let flags = format!(
            "{} --durability {durability} --sync-interval-ms 60000",
            four_shards_on_two_executors()
        );
        node.start(&flags, "record-unsynced-log=1");
        let mut client = node.connect();
        for number in 0..8 {
            set(&mut client, &format!("key{number}"), number);
        }
        let began = Instant::now();
        assert_eq!(client.command(&["SAVE"]).render(), "OK");
        assert!(began.elapsed() < STALL_MAX, "SAVE took {:?}", began.elapsed());
        node.kill_9();
        node.lose_all_unsynced();
        node.start(&flags, "");
        assert_eq!(
            node.connect().command(&["DBSIZE"]).render(),
            "(integer) 8",
            "{durability}"
        );
    }
}

#[test]
fn nothing_is_said_to_be_on_disk_when_a_log_has_failed() {
    for (fault, durability) in [
        ("fail-sync", "interval"),
        ("fail-write", "interval"),
        ("fail-write", "none"),
    ] {
        let mut node = Node::new();
        let switch = node.switch("fail");
        let flags = format!("--shards 1 --durability {durability} --sync-interval-ms 10");
        node.start(&flags, &format!("{fault}={}", switch.when()));
        let mut client = node.connect();
        set(&mut client, "key", 1);
        switch.on();
        // With a failed sync it is answered, with a failed write it is not.
        let _ = client.send(&["SET", "key", "2"]).and_then(|()| client.read());
        node.wait_for_state(0, "unavailable");
        let mut client = node.connect();
        for local in ["0", "1"] {
            let told = client.command(&["WAITAOF", local, "0", "50"]).render();
            assert_eq!(told, "1) (integer) 0\n2) (integer) 0", "{fault}, {durability}");
        }
        let saved = client.command(&["SAVE"]).render();
        assert!(
            saved.starts_with("(error) SHARDDOWN "),
            "{fault}, {durability}: {saved}"
        );
    }
}

#[test]
fn lastsave_tells_when_bgsave_was_done() {
    let mut node = Node::new();
    node.start("--shards 1", "");
    let mut client = node.connect();
    let mut last = || client.command(&["LASTSAVE"]).render();
    let before = last();
    // The clock must have moved on for the difference to show.
    assert!(wait_for(|| {
        let started = node.connect().command(&["BGSAVE"]).render();
        assert!(
            started == "Background saving started" || started.contains("already in progress"),
            "{started}"
        );
        last() != before
    }));
}

/// Long before RocksDB would get them otherwise.
const ASKED_CHECKPOINT_MAX: Duration = Duration::from_secs(15);

#[test]
fn the_logs_are_short_soon_when_that_is_asked_for() {
    let mut node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    (0..100).for_each(|number| set(&mut client, &format!("key:{number}"), number));
    let persistence = |client: &mut Client, name| info_number(client, "persistence", name);
    assert_ne!(persistence(&mut client, "log_unclean_bytes"), 0);
    let began = Instant::now();
    assert_eq!(
        client.command(&["BGREWRITEAOF"]).render(),
        "Background append only file rewriting started"
    );
    assert!(wait_for(|| persistence(&mut client, "aof_rewrite_in_progress") == 0));
    assert!(wait_for(|| persistence(&mut client, "log_unclean_bytes") == 0));
    assert!(began.elapsed() < ASKED_CHECKPOINT_MAX, "{:?}", began.elapsed());
    node.kill_9();
    node.start(&four_shards_on_two_executors(), "");
    assert_eq!(node.connect().command(&["GET", "key:99"]).text().as_deref(), Some("99"));
}
