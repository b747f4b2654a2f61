//! Disks that fail, fill up or stall, and channels that are full: what the clients are told is true, and the other
//! shards go on.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::{Node, four_shards_on_two_executors, key_on, shard_folders};
use crate::harness::client::Client;
use crate::harness::process::{ServerProcess, free_address, holds_for, wait_for};
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;

const SHARDS: u16 = 4;

/// How long an answer may take that must not wait for anything.
const PROMPT: Duration = Duration::from_secs(5);

fn prompt(client: &mut Client, arguments: &[&str]) -> String {
    let began = Instant::now();
    let reply = client.command(arguments).render();
    assert!(began.elapsed() < PROMPT, "{arguments:?} took {:?}", began.elapsed());
    reply
}

fn is_shard_down(reply: &str) -> bool {
    reply.starts_with("(error) SHARDDOWN ")
}

/// The shards of the executor that has this one: they share its log. With one CPU there is one executor.
fn shards_beside(shard: u16) -> std::ops::Range<u16> {
    if allowed_cpus().len() < 2 {
        return 0..SHARDS;
    }
    let first = shard / 2 * 2;
    first..first + 2
}

/// Whatever touches only the other executor's shards is served: alone, and on several shards.
fn assert_the_others_go_on(node: &Node, down: u16) {
    let mut client = node.connect();
    let stopped = shards_beside(down);
    let healthy: Vec<u16> = (0..SHARDS).filter(|shard| !stopped.contains(shard)).collect();
    for shard in &healthy {
        let key = key_on(*shard, SHARDS, "other");
        assert_eq!(prompt(&mut client, &["SET", &key, "1"]), "OK", "shard {shard}");
        assert_eq!(prompt(&mut client, &["GET", &key]), "\"1\"", "shard {shard}");
    }
    for pair in healthy.windows(2) {
        let [first, second] = [pair[0], pair[1]].map(|shard| key_on(shard, SHARDS, "other"));
        assert_eq!(prompt(&mut client, &["MSET", &first, "2", &second, "2"]), "OK");
        assert_eq!(prompt(&mut client, &["EXISTS", &first, &second]), "(integer) 2");
    }
    for shard in stopped {
        let reply = prompt(&mut client, &["SET", &key_on(shard, SHARDS, "other"), "1"]);
        assert!(is_shard_down(&reply), "shard {shard}: {reply}");
    }
    // What needs every shard says so, and does not hang.
    for command in [&["DBSIZE"][..], &["KEYS", "*"]] {
        let reply = prompt(&mut client, command);
        assert!(is_shard_down(&reply), "{command:?}: {reply}");
    }
}

#[test]
fn a_failed_sync_stops_the_shards_of_its_log_alone_and_acknowledges_nothing() {
    // The last but one has its executor shared with the last.
    for down in [0, 2] {
        let mut node = Node::new();
        let switch = node.switch("fail");
        let faults = format!("record-unsynced-log=1,delay-sync-ms=100,fail-sync={}", switch.when());
        let flags = format!("{} --durability always", four_shards_on_two_executors());
        node.start(&flags, &faults);
        let mut writer = node.connect();
        for shard in 0..SHARDS {
            let key = key_on(shard, SHARDS, "before");
            assert_eq!(writer.command(&["SET", &key, "old"]).render(), "OK");
        }
        let key = key_on(down, SHARDS, "before");
        switch.on();
        let mut reader = node.connect();
        writer.send(&["SET", &key, "new"]).expect("the server reads");
        // A reader that has seen the write waits for the same sync; one that came too late is refused.
        reader.send(&["GET", &key]).expect("the server reads");
        assert!(writer.is_closed(), "a write that may be lost is not answered");
        match reader.read() {
            Err(_) => {}
            Ok(reply) => assert!(
                is_shard_down(&reply.render()) || reply.render() == "\"old\"",
                "the reader was told {}",
                reply.render()
            ),
        }
        node.wait_for_state(down, "unavailable");
        switch.off();
        for command in [&["SET", &key, "newer"][..], &["GET", &key], &["DEL", &key]] {
            let reply = prompt(&mut node.connect(), command);
            assert!(is_shard_down(&reply), "{command:?}: {reply}");
        }
        assert_the_others_go_on(&node, down);

        node.kill_9();
        node.lose_all_unsynced();
        node.start(&flags, "");
        let mut client = node.connect();
        assert_eq!(
            client.command(&["GET", &key]).render(),
            "\"old\"",
            "what was not synced is gone"
        );
        for shard in 0..SHARDS {
            let [before, other] = ["before", "other"].map(|name| key_on(shard, SHARDS, name));
            assert_eq!(client.command(&["GET", &before]).render(), "\"old\"");
            let expected = if shards_beside(down).contains(&shard) {
                "(nil)"
            } else {
                "\"2\""
            };
            assert_eq!(client.command(&["GET", &other]).render(), expected);
        }
        assert_eq!(
            client.command(&["SET", &key, "again"]).render(),
            "OK",
            "a restart recovers the shard"
        );
    }
}

#[test]
fn a_server_whose_sync_failed_says_so_when_it_stops() {
    let mut node = Node::new();
    node.start("--shards 1 --durability interval --sync-interval-ms 10", "fail-sync=1");
    assert_eq!(node.connect().command(&["SET", "key", "1"]).render(), "OK");
    node.wait_for_state(0, "unavailable");
    let (status, output) = node.terminate();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("could not be synced"), "{output}");
}

#[test]
fn a_failed_write_stops_the_shards_of_its_log_alone_and_is_not_acknowledged() {
    for durability in ["interval", "always"] {
        let mut node = Node::new();
        let switch = node.switch("fail");
        let shards = four_shards_on_two_executors();
        let flags = format!("{shards} --durability {durability}");
        node.start(&flags, &format!("fail-write={}", switch.when()));
        let key = key_on(1, SHARDS, "key");
        assert_eq!(node.connect().command(&["SET", &key, "old"]).render(), "OK");
        switch.on();
        let mut writer = node.connect();
        writer.send(&["SET", &key, "new"]).expect("the server reads");
        // Nobody can tell what of it has reached the log.
        assert!(writer.is_closed(), "a write that may be there is not answered");
        switch.off();
        let reply = prompt(&mut node.connect(), &["GET", &key]);
        assert!(is_shard_down(&reply), "{reply}");
        assert_the_others_go_on(&node, 1);
        node.kill_9();
        node.start(&flags, "");
        assert_eq!(
            node.connect().command(&["GET", &key]).render(),
            "\"old\"",
            "what could not be written is not there"
        );
    }
}

/// All commands of a turn are answered with the error, also one that only reads what the others had written.
#[test]
fn a_turn_that_cannot_be_written_acknowledges_none_of_its_commands() {
    for (fault, expected) in [("fail-write", None), ("disk-full", Some("(error) MISCONF "))] {
        let mut node = Node::new();
        let switch = node.switch("fail");
        node.start("--shards 1", &format!("{fault}={}", switch.when()));
        let mut client = node.connect();
        assert_eq!(client.command(&["SET", "key", "old"]).render(), "OK");
        switch.on();
        client
            .send_bytes(b"SET key new\r\nRANDOMKEY\r\nSET other new\r\n")
            .expect("the server reads");
        match expected {
            None => assert!(client.is_closed(), "a turn that may be there is not answered"),
            Some(expected) => {
                for command in ["SET", "RANDOMKEY", "SET after RANDOMKEY"] {
                    let reply = client.read().expect("the server answers").render();
                    assert!(reply.starts_with(expected), "{fault}, {command}: {reply}");
                }
            }
        }
        node.kill_9();
        node.start("--shards 1", "");
        let left = node.connect().command(&["MGET", "key", "other"]).render();
        assert_eq!(left, "1) \"old\"\n2) (nil)", "{fault}");
    }
}

#[test]
fn nobody_hears_of_a_write_that_failed() {
    let mut node = Node::new();
    let switch = node.switch("full");
    let flags = "--shards 1 --notify-keyspace-events KA";
    node.start(flags, &format!("disk-full={}", switch.when()));
    let mut client = node.connect();
    assert_eq!(client.command(&["SET", "soon", "1", "PX", "200"]).render(), "OK");
    let mut events = node.connect();
    events.command(&["PSUBSCRIBE", "__key*__:*"]);
    switch.on();
    for _ in 0..2 {
        let reply = prompt(&mut client, &["SET", "key", "new"]);
        assert!(reply.starts_with("(error) MISCONF "), "{reply}");
    }
    // It cannot be deleted either, so it has not expired for those who are told so; nobody sees it all the same.
    assert!(wait_for(|| client.command(&["GET", "soon"]).render() == "(nil)"));
    switch.off();
    assert!(
        wait_for(|| client.command(&["SET", "last", "new"]).render() == "OK"),
        "the shard takes writes again"
    );
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let event = events.read().expect("two events come").render();
        heard.push(event.lines().skip(2).collect::<Vec<_>>().join(" "));
    }
    heard.sort();
    let expected = [
        "3) \"__keyspace@0__:last\" 4) \"set\"",
        "3) \"__keyspace@0__:soon\" 4) \"expired\"",
    ];
    assert_eq!(heard, expected);
    assert_eq!(
        events.command(&["PING"]).render(),
        "1) \"pong\"\n2) \"\"",
        "nothing else came"
    );
}

#[test]
fn a_full_disk_makes_a_shard_read_only_until_there_is_room() {
    let mut node = Node::new();
    let switch = node.switch("full");
    node.start("--shards 1", &format!("disk-full={}", switch.when()));
    let mut client = node.connect();
    assert_eq!(client.command(&["SET", "key", "old"]).render(), "OK");
    switch.on();
    for _ in 0..3 {
        let reply = prompt(&mut client, &["SET", "key", "new"]);
        assert!(reply.starts_with("(error) MISCONF "), "{reply}");
        assert_eq!(prompt(&mut client, &["GET", "key"]), "\"old\"", "reads go on");
    }
    switch.off();
    assert!(
        wait_for(|| client.command(&["SET", "key", "new"]).render() == "OK"),
        "the shard takes writes again"
    );
    node.kill_9();
    node.start("--shards 1", "");
    assert_eq!(node.connect().command(&["GET", "key"]).render(), "\"new\"");
}

/// Writes under `always` that were appended, and not yet synced, when the disk filled up: that keeps nobody from
/// syncing them, so their clients are told OK.
#[test]
fn a_full_disk_does_not_keep_what_was_written_before_from_its_sync() {
    let mut node = Node::new();
    let switch = node.switch("full");
    let faults = format!("disk-full={},delay-sync-ms=400,record-unsynced-log=1", switch.when());
    node.start("--shards 1 --durability always", &faults);
    let committed = || node.info("shards", "shard0", "committed_epoch");
    let mut clients = [node.connect(), node.connect()];
    // The first is being synced while the second is appended.
    for (number, client) in clients.iter_mut().enumerate() {
        let before = committed();
        let key = format!("key{number}");
        client.send(&["SET", &key, "1"]).expect("the server reads");
        assert!(wait_for(|| committed() != before));
    }
    switch.on();
    let reply = prompt(&mut node.connect(), &["SET", "key2", "1"]);
    assert!(reply.starts_with("(error) MISCONF "), "{reply}");
    for client in &mut clients {
        assert_eq!(client.read().expect("a sync needs no room").render(), "OK");
    }
    node.kill_9();
    node.lose_all_unsynced();
    node.start("--shards 1", "");
    let all = node.connect().command(&["MGET", "key0", "key1", "key2"]);
    assert_eq!(all.render(), "1) \"1\"\n2) \"1\"\n3) (nil)");
}

/// A server on a file system that gets really full, for the log and for RocksDB: a tmpfs in a mount namespace of the
/// server's own.
struct FullDisk {
    process: ServerProcess,
    client: Client,
    /// Keys that were set.
    written: usize,
    disk: String,
    _folder: TempDir,
}

/// Fills the disk until writes are refused for good; `None` if this user may not make a disk.
fn full_disk() -> Option<FullDisk> {
    const BALLAST_MIB: usize = 150;
    // When all is deleted there must be more than counts as full, beside the longest segment of the log.
    const FREE_MIB: usize = 160;
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let (disk, address) = (folder.path().display().to_string(), free_address());
    let script = format!(
        "mount -t tmpfs -o size={}m tmpfs {disk} && fallocate -l {BALLAST_MIB}m {disk}/ballast && \
         exec {} --bind {} --port {} --data-dir {disk}/data --shards 1 --memory-size 0",
        BALLAST_MIB + FREE_MIB,
        env!("CARGO_BIN_EXE_corelane"),
        address.ip(),
        address.port()
    );
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]);
        command
    };
    let possible = namespace(&format!("mount -t tmpfs tmpfs {disk}")).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user may not mount a tmpfs in a namespace");
        return None;
    }
    let mut process = ServerProcess::spawn(namespace(&script));
    process.wait_until_ready(address);
    let mut client = Client::connect(address).expect("the server accepts");
    assert_eq!(client.command(&["SET", "first", "1"]).render(), "OK");
    // What cannot be compressed: the log gives its room back when RocksDB has what was in it.
    let mut random = StdRng::seed_from_u64(1);
    let mut written = 0;
    let mut write_until_refused = |client: &mut Client| loop {
        let digits = (0..1 << 15).map(|_| format!("{:016x}", random.random::<u64>()));
        let value: String = digits.collect();
        match client.command(&["SET", &format!("large{written}"), &value]).render() {
            reply if reply == "OK" => written += 1,
            reply => break reply,
        }
        assert!(written < 4 * FREE_MIB, "the disk is never full");
    };
    loop {
        let refusal = write_until_refused(&mut client);
        assert!(refusal.starts_with("(error) MISCONF "), "{refusal}");
        assert_eq!(prompt(&mut client, &["GET", "first"]), "\"1\"", "reads go on");
        // Longer than the interval of syncs and of looks at the free space: neither may make it worse.
        let is_refused = holds_for(Duration::from_millis(2_500), || {
            prompt(&mut client, &["SET", "more", "1"]).starts_with("(error) MISCONF ")
        });
        if is_refused {
            break;
        }
    }
    Some(FullDisk {
        process,
        client,
        written,
        disk,
        _folder: folder,
    })
}

/// Nobody but the server can make room: by DEL a little, by FLUSHALL all.
#[test]
fn a_disk_that_is_really_full_is_helped_by_deletions() {
    let Some(full) = full_disk() else { return };
    let FullDisk {
        process, mut client, ..
    } = full;
    assert_eq!(prompt(&mut client, &["DEL", "large0", "large1"]), "(integer) 2");
    assert_eq!(prompt(&mut client, &["EXISTS", "large0"]), "(integer) 0");
    let refusal = prompt(&mut client, &["SET", "more", "1"]);
    assert!(refusal.starts_with("(error) MISCONF "), "{refusal}");
    assert_eq!(prompt(&mut client, &["FLUSHALL"]), "OK");
    assert_eq!(prompt(&mut client, &["DBSIZE"]), "(integer) 0");
    let mut healed = || wait_for(|| client.command(&["SET", "more", "1"]).render() == "OK");
    assert!(healed() || healed(), "the shard takes no writes:\n{}", process.output());
    assert_eq!(prompt(&mut client, &["DBSIZE"]), "(integer) 1");
}

#[test]
fn a_disk_that_is_really_full_is_written_again_when_there_is_room() {
    let Some(full) = full_disk() else { return };
    let FullDisk {
        mut process,
        mut client,
        written,
        disk,
        _folder,
    } = full;
    let ballast = format!("/proc/{}/root{disk}/ballast", process.pid());
    std::fs::remove_file(ballast).expect("the ballast can be removed");
    let mut healed = || wait_for(|| client.command(&["SET", "more", "1"]).render() == "OK");
    // RocksDB looks for room every 5 s.
    assert!(healed() || healed(), "the shard takes no writes:\n{}", process.output());
    assert_eq!(client.command(&["DBSIZE"]), Value::Integer(written as i64 + 2));
    assert_eq!(client.command(&["GET", "first"]).render(), "\"1\"");
    process.signal(libc::SIGTERM);
    let status = process.wait_for_exit();
    assert_eq!(status.code(), Some(0), "{}", process.output());
}

#[test]
fn a_sweep_that_fails_is_made_up_for_when_there_is_room() {
    let mut node = Node::new();
    let switch = node.switch("full");
    node.start("--shards 1", &format!("disk-full={}", switch.when()));
    let mut client = node.connect();
    assert_eq!(client.command(&["SET", "short", "1", "PX", "200"]).render(), "OK");
    switch.on();
    // Nobody writes, so it is the sweep that finds the disk full.
    node.wait_for_state(0, "read-only");
    assert_eq!(
        client.command(&["EXISTS", "short"]),
        Value::Integer(0),
        "it is invisible at once"
    );
    assert_eq!(client.command(&["DBSIZE"]), Value::Integer(1), "and is not swept");
    switch.off();
    let swept = wait_for(|| client.command(&["DBSIZE"]) == Value::Integer(0));
    assert!(swept, "DBSIZE is {}", client.command(&["DBSIZE"]).render());
}

/// Clients do not notice a checkpoint that finds no room, as long as the log has some; it is made up for.
#[test]
fn a_checkpoint_that_finds_no_room_is_tried_again_until_it_does() {
    let mut node = Node::new();
    let switch = node.switch("full");
    node.start("--shards 1", &format!("seal-log=1..,full-ingest={}", switch.when()));
    let mut client = node.connect();
    let figure = |name: &str| node.info("persistence", name, "");
    switch.on();
    assert_eq!(prompt(&mut client, &["SET", "key", "1"]), "OK");
    let retries = || figure("log_checkpoint_retries").parse::<u64>().expect("a number");
    assert!(wait_for(|| retries() > 0));
    let files = || {
        let folder = shard_folders(&node.data_directory())[0].join("ingest");
        let names = std::fs::read_dir(folder).expect("the folder of files on their way in");
        let mut names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let (kept, before) = (files(), retries());
    assert!(wait_for(|| retries() > before + 1));
    assert!(
        !kept.is_empty() && files() == kept,
        "they are not written again: {kept:?}, {:?}",
        files()
    );
    assert_eq!(prompt(&mut client, &["SET", "key", "2"]), "OK");
    assert_eq!(prompt(&mut client, &["GET", "key"]), "\"2\"");
    assert!(wait_for(|| figure("log_unclean_bytes") != "0"));
    switch.off();
    assert!(
        wait_for(|| figure("log_unclean_bytes") == "0"),
        "nothing is made up for"
    );
    assert_eq!(figure("log_segments_behind"), "0");
    assert_ne!(figure("log_checkpoints"), "0");
    assert_eq!(prompt(&mut client, &["GET", "key"]), "\"2\"");
    node.kill_9();
    node.start("--shards 1", "");
    assert_eq!(node.connect().command(&["GET", "key"]).render(), "\"2\"");
}

/// A log of which RocksDB cannot get anything any more would only grow. What it has is not lost.
#[test]
fn a_checkpoint_that_fails_stops_the_shards_of_its_log_alone() {
    let mut node = Node::new();
    let switch = node.switch("fail");
    let flags = four_shards_on_two_executors();
    node.start(&flags, &format!("seal-log=1..,fail-ingest@0={}", switch.when()));
    let key = key_on(0, SHARDS, "key");
    switch.on();
    assert_eq!(prompt(&mut node.connect(), &["SET", &key, "1"]), "OK");
    node.wait_for_state(0, "unavailable");
    let reply = prompt(&mut node.connect(), &["SET", &key, "2"]);
    assert!(is_shard_down(&reply), "{reply}");
    assert_the_others_go_on(&node, 0);
    node.kill_9();
    node.start(&flags, "");
    assert_eq!(node.connect().command(&["GET", &key]).render(), "\"1\"");
}

#[test]
fn little_free_space_makes_a_shard_read_only_before_the_disk_is_full() {
    let mut node = Node::new();
    let switch = node.switch("low");
    node.start("--shards 1", &format!("low-disk={}", switch.when()));
    let mut client = node.connect();
    assert_eq!(client.command(&["SET", "key", "old"]).render(), "OK");
    switch.on();
    node.wait_for_state(0, "read-only");
    let reply = prompt(&mut client, &["SET", "key", "new"]);
    assert!(reply.starts_with("(error) MISCONF "), "{reply}");
    assert_eq!(prompt(&mut client, &["GET", "key"]), "\"old\"");
    assert_eq!(node.info("persistence", "aof_last_write_status", ""), "err");
    switch.off();
    node.wait_for_state(0, "healthy");
    assert_eq!(prompt(&mut client, &["SET", "key", "new"]), "OK");
}

/// Writes wait until the stall ends, reads of other keys go on; when too many wait, the next are refused, long before
/// they have taken all credits; and what was accepted is committed.
#[test]
fn a_stall_slows_writers_refuses_too_many_and_loses_nothing() {
    /// Each client may have some commands out; together they have more than a stalled shard takes.
    const CLIENTS: usize = 8;
    const WRITES: usize = 2_000;
    const KEYS: usize = 20;
    for durability in ["interval", "always"] {
        let mut node = Node::new();
        let switch = node.switch("stall");
        let flags = format!("--shards 1 --durability {durability}");
        node.start(&flags, &format!("stall-writes={}", switch.when()));
        let mut reader = node.connect();
        assert_eq!(reader.command(&["SET", "key", "1"]).render(), "OK");
        switch.on();

        let mut writer = node.connect();
        writer.send(&["SET", "slow", "1"]).expect("the server reads");
        node.wait_for_state(0, "stalled");
        assert_eq!(prompt(&mut reader, &["GET", "key"]), "\"1\"", "reads go on");

        // The same few keys over and over: it is the waiting commands that must be bounded, not only the keys.
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| node.connect()).collect();
        for (client, connection) in clients.iter_mut().enumerate() {
            let write = |number| format!("SET {client}:{} {number}\r\n", number % KEYS);
            let bytes: String = (0..WRITES).map(write).collect();
            connection.send_bytes(bytes.as_bytes()).expect("the server reads");
        }
        let refused = wait_for(|| node.info_section("errorstats").contains("errorstat_BUSY:"));
        assert!(refused, "nobody was told BUSY");
        let reply = prompt(&mut node.connect(), &["SET", "other", "1"]);
        assert!(reply.starts_with("(error) BUSY "), "{reply}");
        assert_eq!(prompt(&mut reader, &["GET", "key"]), "\"1\"", "reads go on");

        switch.off();
        let reply = writer.read().expect("the stall has ended").render();
        assert_eq!(reply, "OK", "it was slow and not lost");
        let mut last = vec![None; CLIENTS * KEYS];
        let mut accepted = 0;
        for (client, connection) in clients.iter_mut().enumerate() {
            for number in 0..WRITES {
                match connection.read().expect("the server answers").render().as_str() {
                    "OK" => {
                        last[client * KEYS + number % KEYS] = Some(number);
                        accepted += 1;
                    }
                    reply => assert!(reply.starts_with("(error) BUSY "), "{reply}"),
                }
            }
        }
        assert!((1..CLIENTS * WRITES).contains(&accepted), "{accepted} were accepted");
        let reply = prompt(&mut node.connect(), &["SET", "other", "2"]);
        assert_eq!(reply, "OK", "the shard takes writes again");
        node.kill_9();
        node.start(&flags, "");
        let mut client = node.connect();
        assert_eq!(client.command(&["GET", "slow"]).render(), "\"1\"");
        for (place, last) in last.iter().enumerate() {
            let key = format!("{}:{}", place / KEYS, place % KEYS);
            let found = client.command(&["GET", &key]).text();
            assert_eq!(found, last.map(|number| number.to_string()), "{key}");
        }
    }
}

#[test]
fn a_server_that_is_stalled_commits_what_it_took_before_it_stops() {
    let mut node = Node::new();
    let switch = node.switch("stall");
    node.start("--shards 1", &format!("stall-writes={}", switch.when()));
    switch.on();
    let mut client = node.connect();
    client.send(&["SET", "key", "1"]).expect("the server reads");
    node.wait_for_state(0, "stalled");
    node.process().signal(libc::SIGTERM);
    assert!(wait_for(|| node.process().output().contains("shutting down")));
    switch.off();
    assert_eq!(client.read().expect("the client is answered").render(), "OK");
    node.wait_for_exit();
    node.start("--shards 1", "");
    assert_eq!(node.connect().command(&["GET", "key"]).render(), "\"1\"");
}

#[test]
fn a_batch_that_a_channel_refuses_is_offered_again_within_its_deadline() {
    let mut node = Node::new();
    let switch = node.switch("full");
    node.start(
        "--shards 1 --request-timeout-ms 20000",
        &format!("refuse-send={}", switch.when()),
    );
    let mut client = node.connect();
    switch.on();
    client.send(&["SET", "key", "1"]).expect("the server reads");
    let refused_again = wait_for(|| {
        let failures = node.info("executors", "executor0", "send_failures");
        failures.parse::<u64>().expect("a count") > 1
    });
    assert!(refused_again, "it was not offered again");
    switch.off();
    assert_eq!(client.read().expect("the server answers").render(), "OK");

    let shorter = ["CONFIG", "SET", "request-timeout-ms", "500"];
    assert_eq!(client.command(&shorter).render(), "OK");
    switch.on();
    let reply = prompt(&mut client, &["SET", "key", "2"]);
    assert!(reply.starts_with("(error) TIMEOUT "), "{reply}");
    switch.off();
    assert_eq!(
        prompt(&mut client, &["GET", "key"]),
        "\"1\"",
        "what timed out was not applied"
    );
    // Nothing of it comes later either.
    assert_eq!(prompt(&mut client, &["GET", "key"]), "\"1\"");
}

/// A request that reaches its executor after its deadline is answered so and not executed.
#[test]
fn a_request_that_is_delayed_beyond_its_deadline_is_not_executed() {
    let mut node = Node::new();
    node.start("--shards 1 --request-timeout-ms 20", "delay-send-ms=60");
    let mut client = node.connect();
    let reply = prompt(&mut client, &["SET", "key", "1"]);
    assert!(reply.starts_with("(error) TIMEOUT "), "{reply}");
    node.kill_9();
    node.start("--shards 1", "");
    assert_eq!(node.connect().command(&["EXISTS", "key"]), Value::Integer(0));
}

#[test]
fn a_fault_that_is_not_known_keeps_the_server_from_starting() {
    let (status, output) = Node::new().start_refused("--shards 1", "fail-everything=1");
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(
        output.contains("CORELANE_FAULTS: there is no fault \"fail-everything\""),
        "{output}"
    );
}
