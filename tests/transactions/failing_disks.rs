//! One shard's disk is full, stalls or fails in the middle of a transaction over several shards: what was decided is
//! done, what was answered is true, and keys do not stay locked without a word.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{SHARDS, key_per_shard, mget, mset, one_executor, run};
use crate::harness::client::Client;
use crate::harness::process::wait_for;
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;
use crate::storage::{Node, Switch, four_shards_on_two_executors, key_on, seed};

/// How long an answer may take that must not wait for anything.
const PROMPT: Duration = Duration::from_secs(5);

/// Each client may have some writes out; together these have more than a stalled shard takes before it refuses them.
const FILLERS: usize = 8;
const WRITES_PER_FILLER: usize = 2_000;

/// So many looks, some milliseconds apart, are longer than an executor rests between two looks at its shards.
const LOOKS: usize = 20;

/// More files than a start ingests.
const FILES_OF_A_START_MAX: u64 = 100;

fn prompt(client: &mut Client, line: &str) -> String {
    let began = Instant::now();
    let reply = run(client, line).render();
    assert!(began.elapsed() < PROMPT, "{line} took {:?}", began.elapsed());
    reply
}

/// A server whose first shard stalls, and whose disk is full, while the first and the second switch is on.
fn stalling_and_full() -> (Node, Switch, Switch) {
    let mut node = Node::new();
    let (stall, full) = (node.switch("stall"), node.switch("full"));
    node.start(
        &one_executor(),
        &format!("stall-writes@0={},disk-full@0={}", stall.when(), full.when()),
    );
    (node, stall, full)
}

/// What MGET of [`SHARDS`] keys answers.
fn values(each: [&str; SHARDS as usize]) -> String {
    let lines = each.iter().enumerate();
    let lines: Vec<String> = lines
        .map(|(place, value)| format!("{}) \"{value}\"", place + 1))
        .collect();
    lines.join("\n")
}

fn read(client: &mut Client) -> String {
    client.read().expect("the server answers").render()
}

/// With one CPU there is one executor, where nobody follows another.
fn has_two_executors() -> bool {
    allowed_cpus().len() > 1
}

/// A transaction has parts for two shards of one executor. The first takes its part, the second takes no more writes
/// for a while: both must have theirs in the end.
#[test]
fn a_part_is_not_lost_when_another_shard_of_its_executor_is_stalled() {
    let mut node = Node::new();
    let stall = node.switch("stall");
    let flags = four_shards_on_two_executors();
    node.start(&flags, &format!("stall-writes@3={}", stall.when()));
    let keys = key_per_shard("k");
    let mut client = node.connect();
    let mut fillers: Vec<Client> = (0..FILLERS).map(|_| node.connect()).collect();
    assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
    stall.on();
    let fill = format!("SET {} 1\r\n", key_on(3, SHARDS, "fill")).repeat(WRITES_PER_FILLER);
    for filler in &mut fillers {
        filler.send_bytes(fill.as_bytes()).expect("the server reads");
    }
    assert!(
        wait_for(|| node.info_section("errorstats").contains("errorstat_BUSY:")),
        "a stalled shard takes writes without an end"
    );
    client.send(&mset(&keys, "new")).expect("the server reads");
    if has_two_executors() {
        // The first executor has the transaction's decision.
        let mut reader = node.connect();
        assert!(wait_for(
            || run(&mut reader, &format!("GET {}", keys[0])).render() == "\"new\""
        ));
    }
    stall.off();
    let reply = read(&mut client);
    let expected = match reply.as_str() {
        "OK" => values(["new"; 4]),
        refused => {
            assert!(
                !has_two_executors() && refused.starts_with("(error) BUSY "),
                "{refused}"
            );
            values(["old"; 4])
        }
    };
    assert_eq!(client.command(&mget(&keys)).render(), expected);
    node.kill_9();
    node.start(&flags, "");
    assert_eq!(node.connect().command(&mget(&keys)).render(), expected);
}

/// The disk of a shard is full when it is to commit its part of what the others have committed. That is done when there
/// is room, and not by the next start, over what was written since.
fn a_part_waits_for_room(flags: &str, full_shard: u16) {
    let mut node = Node::new();
    let full = node.switch("full");
    node.start(flags, &format!("disk-full@{full_shard}={}", full.when()));
    let keys = key_per_shard("k");
    let mut client = node.connect();
    assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
    full.on();
    client.send(&mset(&keys, "new")).expect("the server reads");
    node.wait_for_state(full_shard, "read-only");
    let other = key_on(full_shard, SHARDS, "other");
    let reply = prompt(&mut node.connect(), &format!("SET {other} 1"));
    assert!(reply.starts_with("(error) MISCONF "), "{reply}");
    assert!(client.has_no_reply(), "it is not committed, and cannot be taken back");
    full.off();
    assert_eq!(read(&mut client), "OK");
    assert_eq!(client.command(&mget(&keys)).render(), values(["new"; 4]));
    let key = &keys[usize::from(full_shard)];
    assert!(
        wait_for(|| run(&mut client, &format!("SET {key} newer")).render() == "OK"),
        "the shard takes writes again"
    );
    node.kill_9();
    node.start(flags, "");
    let mut expected = ["new"; 4];
    expected[usize::from(full_shard)] = "newer";
    assert_eq!(
        node.connect().command(&mget(&keys)).render(),
        values(expected),
        "an old part came back"
    );
}

#[test]
fn a_part_that_meets_a_full_disk_waits_for_room_and_never_comes_back() {
    if !has_two_executors() {
        return;
    }
    for durability in ["interval", "always"] {
        let shards = four_shards_on_two_executors();
        // The first executor has the decision, and needs room for it.
        a_part_waits_for_room(&format!("{shards} --durability {durability}"), 3);
    }
}

/// Shards of one executor share a log: what finds no room there is done on none of them.
#[test]
fn a_write_to_several_shards_of_a_full_log_is_refused_as_a_whole() {
    for durability in ["interval", "always"] {
        let flags = format!("{} --durability {durability}", one_executor());
        let mut node = Node::new();
        let full = node.switch("full");
        node.start(&flags, &format!("disk-full@3={}", full.when()));
        let keys = key_per_shard("k");
        let mut client = node.connect();
        assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
        full.on();
        let reply = client.command(&mset(&keys, "new")).render();
        assert!(reply.starts_with("(error) MISCONF "), "{reply}");
        assert_eq!(client.command(&mget(&keys)).render(), values(["old"; 4]));
        full.off();
        assert!(wait_for(|| client.command(&mset(&keys, "newer")).render() == "OK"));
        node.kill_9();
        node.start(&flags, "");
        assert_eq!(node.connect().command(&mget(&keys)).render(), values(["newer"; 4]));
    }
}

/// While a decided part waits for room, its keys wait, and nothing else does.
#[test]
fn others_go_on_while_a_part_waits_for_room() {
    let mut node = Node::new();
    let full = node.switch("full");
    let flags = four_shards_on_two_executors();
    node.start(&flags, &format!("disk-full@3={}", full.when()));
    let keys = key_per_shard("k");
    let (mut client, mut other) = (node.connect(), node.connect());
    assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
    full.on();
    client.send(&mset(&keys, "new")).expect("the server reads");
    node.wait_for_state(3, "read-only");
    if has_two_executors() {
        let on = |shard: u16| key_on(shard, SHARDS, "other");
        assert_eq!(prompt(&mut other, &format!("MSET {} 1 {} 1", on(0), on(1))), "OK");
        assert_eq!(
            prompt(&mut other, &format!("EXISTS {} {}", on(1), on(3))),
            "(integer) 1"
        );
        assert_eq!(node.info("executors", "executor1", "decided"), "1");
    }
    full.off();
    assert_eq!(read(&mut client), "OK");
    assert!(wait_for(|| node.info("executors", "executor1", "decided") == "0"));
}

/// What is to be one is not done in part because one of its shards takes no writes.
#[test]
fn an_exec_or_a_script_that_meets_a_full_disk_does_nothing() {
    for flags in [one_executor(), four_shards_on_two_executors()] {
        let mut node = Node::new();
        let full = node.switch("full");
        node.start(&flags, &format!("disk-full@1={}", full.when()));
        let keys = key_per_shard("k");
        let mut client = node.connect();
        assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
        full.on();
        run(&mut client, &format!("SET {} new", keys[1]));
        node.wait_for_state(1, "read-only");
        let script = "for i = 1, 4 do redis.call('SET', KEYS[i], 'new') end";
        let eval = ["EVAL", script, "4"].into_iter().chain(keys.iter().map(String::as_str));
        let reply = client.command(&eval.collect::<Vec<_>>()).render();
        assert!(reply.contains("MISCONF"), "{reply}");
        run(&mut client, "MULTI");
        for key in &keys {
            run(&mut client, &format!("SET {key} new"));
        }
        let reply = run(&mut client, "EXEC").render();
        assert!(reply.contains("MISCONF") && !reply.contains("OK"), "{reply}");
        assert_eq!(client.command(&mget(&keys)).render(), values(["old"; 4]), "{flags}");
        let eval = ["EVAL", "return redis.call('GET', KEYS[1])", "2", &keys[0], &keys[1]];
        if flags == one_executor() {
            assert_eq!(
                client.command(&eval).render(),
                "\"old\"",
                "a script that reads is served"
            );
        }
    }
}

/// The power fails, and the start that finishes what it has left half done dies before each of the files that it brings
/// into the shards.
#[test]
fn a_start_that_dies_after_a_power_loss_tears_nothing() {
    let flags = format!("{} --durability always", four_shards_on_two_executors());
    let keys = key_per_shard("k");
    for file in 1.. {
        assert!(file < FILES_OF_A_START_MAX, "the start does not end");
        let mut node = Node::new();
        let switch = node.switch("dying");
        let fault = format!("record-unsynced-log=1,kill-before-apply=1:{}", switch.when());
        node.start(&flags, &fault);
        let mut client = node.connect();
        assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
        switch.on();
        client.send(&mset(&keys, "new")).expect("the server reads");
        node.wait_for_exit();
        node.lose_all_unsynced();
        let is_up = node.start_or_die(&flags, &format!("record-unsynced-log=1,kill-before-ingest={file}"));
        if is_up {
            node.kill_9();
        }
        node.lose_all_unsynced();
        node.start(&flags, "");
        let found = node.connect().command(&mget(&keys)).render();
        assert_eq!(found, values(["new"; 4]), "the start has died before file {file}");
        if is_up {
            return;
        }
    }
}

/// The power fails after a write to several shards of one executor: it is there as a whole or not at all, and not
/// without what came before it on another shard.
#[test]
fn a_write_to_several_shards_of_one_log_is_not_on_disk_before_what_came_before_it() {
    let mut random = StdRng::seed_from_u64(seed(
        "a_write_to_several_shards_of_one_log_is_not_on_disk_before_what_came_before_it",
    ));
    let flags = format!("{} --durability interval --batch-size 1", one_executor());
    let keys = key_per_shard("k");
    let earlier = key_on(2, SHARDS, "earlier");
    // More than a page: parts of it may get lost.
    let large = "x".repeat(10_000);
    for _ in 0..6 {
        let mut node = Node::new();
        let dying = node.switch("dying");
        let fault = format!("record-unsynced-log=1,kill-after-commit=2:{}", dying.when());
        node.start(&flags, &fault);
        let mut client = node.connect();
        dying.on();
        client.send(&["SET", &earlier, "there"]).expect("the server reads");
        client.send(&mset(&keys, &large)).expect("the server reads");
        node.wait_for_exit();
        node.lose_power(|_, contents| random.random_range(0..contents));
        node.start(&flags, "");
        let mut client = node.connect();
        let exists = |client: &mut Client, key: &str| client.command(&["EXISTS", key]) == Value::Integer(1);
        let found: Vec<bool> = keys.iter().map(|key| exists(&mut client, key)).collect();
        assert!(found.iter().all(|is_there| *is_there == found[0]), "{found:?}");
        assert!(!found[0] || exists(&mut client, &earlier), "the earlier write is lost");
    }
}

/// The primary of a redo record stops, and nobody can tell whether its log has the record. The keys of the other shards
/// can be read, who writes them is told why not, and the operator is, too.
#[test]
fn keys_in_doubt_are_read_and_not_written_and_the_operator_is_told() {
    if !has_two_executors() {
        return;
    }
    let mut node = Node::new();
    let fail = node.switch("fail");
    let flags = format!("{} --durability always", four_shards_on_two_executors());
    node.start(&flags, &format!("record-unsynced-log=1,fail-sync@0={}", fail.when()));
    let keys = key_per_shard("k");
    let mut client = node.connect();
    assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
    // Until its redo record is deleted, and that is on the disk: the next sync is that of the next record.
    let (mut syncs, mut unchanged) = (node.syncs(), 0);
    assert!(wait_for(|| {
        let before = std::mem::replace(&mut syncs, node.syncs());
        unchanged = if syncs == before { unchanged + 1 } else { 0 };
        unchanged > LOOKS
    }));
    fail.on();
    client.send(&mset(&keys, "new")).expect("the server reads");
    assert!(client.is_closed(), "neither OK nor an error would be true");
    node.wait_for_state(0, "unavailable");
    assert!(wait_for(|| node.info("executors", "executor1", "in_doubt") == "1"));
    let mut client = node.connect();
    for key in &keys[2..] {
        assert_eq!(prompt(&mut client, &format!("GET {key}")), "\"old\"");
        for line in [
            format!("SET {key} newer"),
            format!("MSET {key} newer {} newer", keys[1]),
        ] {
            let reply = prompt(&mut client, &line);
            assert!(reply.starts_with("(error) SHARDDOWN "), "{line}: {reply}");
        }
    }
    assert_eq!(
        prompt(&mut client, &format!("MGET {} {}", keys[2], keys[3])),
        "1) \"old\"\n2) \"old\""
    );
    let other = key_on(2, SHARDS, "other");
    assert_eq!(prompt(&mut client, &format!("SET {other} 1")), "OK");
    let (_, output) = node.terminate();
    assert!(output.contains("before a restart"), "nothing is said of it:\n{output}");
    node.start(&flags, "");
    let mut client = node.connect();
    let found = client.command(&mget(&keys)).render();
    assert!([values(["old"; 4]), values(["new"; 4])].contains(&found), "{found}");
    assert_eq!(
        client.command(&mset(&keys, "newer")).render(),
        "OK",
        "nothing is locked"
    );
}

/// The primary of a redo record takes it back, and cannot say so by an error, because other keys were looked at: it is
/// asked whether the record is there, and the locks go.
#[test]
fn a_transaction_whose_record_was_taken_back_keeps_no_locks() {
    let mut node = Node::new();
    let full = node.switch("full");
    node.start(
        &four_shards_on_two_executors(),
        &format!("disk-full@0=1:{}", full.when()),
    );
    let keys = key_per_shard("k");
    let (mut client, mut watcher) = (node.connect(), node.connect());
    assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
    assert_eq!(run(&mut watcher, &format!("WATCH {}", keys[1])).render(), "OK");
    full.on();
    for line in ["MULTI", "FLUSHALL", &format!("SET {} new", keys[2]), "EXEC"] {
        client
            .send(&line.split(' ').collect::<Vec<_>>())
            .expect("the server reads");
    }
    // On one executor nobody can be asked.
    while client.read().is_ok_and(|reply| !matches!(reply, Value::Error(_))) {}
    let mut client = node.connect();
    assert!(wait_for(
        || prompt(&mut client, &format!("SET {} newer", keys[0])) == "OK"
    ));
    assert_eq!(prompt(&mut client, &format!("SET {} newer", keys[3])), "OK");
    assert_eq!(
        client.command(&mget(&keys)).render(),
        values(["newer", "old", "old", "newer"])
    );
}

/// A FLUSHALL that waits for the end of a stall has emptied nothing yet, whatever else is staged meanwhile.
#[test]
fn a_flush_that_is_stalled_is_not_answered_before_it_is_committed() {
    /// How often the note of what is reclaimed may be gone before the stall begins.
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        let mut node = Node::new();
        let stall = node.switch("stall");
        node.start("--shards 1", &format!("stall-writes={}", stall.when()));
        let mut client = node.connect();
        // Its members are worth to be reclaimed, which is noted, and the note is deleted when it is done.
        assert_eq!(
            run(&mut client, "SETRANGE big 33554432 x").render(),
            "(integer) 33554433"
        );
        assert_eq!(run(&mut client, "SET small 1").render(), "OK");
        assert_eq!(run(&mut client, "DEL big"), Value::Integer(1));
        stall.on();
        client.send(&["FLUSHALL"]).expect("the server reads");
        node.wait_for_state(0, "stalled");
        let reclaimed = || node.info("shards", "shard0", "reclaimed_collections");
        let came_too_late = reclaimed() != "0";
        if !came_too_late {
            assert!(wait_for(|| reclaimed() == "1"));
            let mut looks = 0;
            wait_for(|| {
                looks += 1;
                looks > LOOKS || !client.has_no_reply()
            });
            assert!(client.has_no_reply(), "it is not committed");
        }
        stall.off();
        assert_eq!(read(&mut client), "OK");
        if !came_too_late {
            return;
        }
    }
    panic!("each time it was reclaimed too early");
}

/// A flush of several shards fails because the disk of the first one is full: who has read on another shard that it is
/// empty is not told so.
#[test]
fn nobody_is_told_of_a_flush_that_was_taken_back() {
    let (node, stall, full) = stalling_and_full();
    let keys = key_per_shard("k");
    let (mut client, mut reader) = (node.connect(), node.connect());
    assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
    stall.on();
    client.send(&["FLUSHALL"]).expect("the server reads");
    node.wait_for_state(0, "stalled");
    reader.send(&["GET", &keys[1]]).expect("the server reads");
    // It has read when what it was sent after is answered.
    assert!(wait_for(|| node.info("executors", "executor0", "held") == "2"));
    full.on();
    stall.off();
    let reply = read(&mut reader);
    assert!(reply.starts_with("(error) MISCONF "), "it was told {reply}");
    assert_eq!(node.connect().command(&mget(&keys)).render(), values(["old"; 4]));
}

/// An element that was taken is back when the write of its removal was: a client that waits for it, because it saw the
/// list without it, is not told that there was none.
#[test]
fn nobody_waits_in_vain_for_an_element_whose_removal_was_taken_back() {
    let (node, stall, full) = stalling_and_full();
    let list = key_on(0, SHARDS, "list");
    let (mut client, mut waiting, mut late) = (node.connect(), node.connect(), node.connect());
    assert_eq!(
        run(&mut client, &format!("RPUSH {list} element")).render(),
        "(integer) 1"
    );
    stall.on();
    client.send(&["LPOP", &list]).expect("the server reads");
    node.wait_for_state(0, "stalled");
    let blocked = |count: &str| {
        wait_for(|| {
            node.info_section("clients")
                .contains(&format!("blocked_clients:{count}"))
        })
    };
    late.send(&["BLPOP", &list, "0.05"]).expect("the server reads");
    assert!(blocked("1"), "nothing else is there");
    // Its time is up, and its answer waits as that of the client that has the element does.
    assert!(wait_for(|| node.info("executors", "executor0", "held") == "2"));
    waiting.send(&["BLPOP", &list, "0"]).expect("the server reads");
    assert!(blocked("1"), "it waits for longer");
    full.on();
    stall.off();
    for client in [&mut client, &mut waiting, &mut late] {
        let reply = read(client);
        assert!(reply.starts_with("(error) MISCONF "), "it was told {reply}");
    }
    full.off();
    assert!(wait_for(
        || run(&mut client, &format!("LPOP {list}")).render() == "\"element\""
    ));
}
