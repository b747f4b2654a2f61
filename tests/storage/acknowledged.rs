//! Nothing that was acknowledged is lost, whatever kills the process in the middle of pipelined writes.
//!
//! Eight clients write numbers that only grow, each to keys of its own, and read each other's. After a crash every key
//! must hold at least the last number that was acknowledged or seen by anybody, and at most the last that was sent.

use std::collections::HashMap;
use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::contents;
use super::{Node, four_shards_on_two_executors, seed};
use crate::harness::client::Client;
use crate::harness::progress::Progress;
use crate::harness::value::Value;

const CLIENTS: usize = 8;
const KEYS_PER_CLIENT: usize = 12;
const PIPELINE: usize = 16;

/// Replies that the clients have got when a round is killed: those of a few commits up to those of many commits and
/// some syncs.
const ROUND_REPLIES: std::ops::Range<u64> = 1..8_000;

/// What is known of a key: it must hold at least `least` and at most `sent`.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    least: u64,
    sent: u64,
}

type Known = HashMap<String, Bounds>;

fn key(client: usize, number: usize) -> String {
    format!("{{{client}.{number}}}")
}

/// One client: pipelines of writes to its own keys and reads of anybody's, until the server is gone.
fn write_until_killed(address: SocketAddr, client: usize, first: u64, seed: u64, progress: &Progress) -> Known {
    let mut random = StdRng::seed_from_u64(seed);
    let mut known = Known::new();
    let Ok(mut connection) = Client::connect(address) else {
        return known;
    };
    let mut next = first;
    loop {
        // By command: the key, and what was written to it (nothing: it is read).
        let mut sent: Vec<(String, Option<u64>)> = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..PIPELINE {
            let number = random.random_range(0..KEYS_PER_CLIENT);
            if random.random_ratio(1, 4) {
                let key = key(random.random_range(0..CLIENTS), number);
                bytes.extend(format!("GET {key}\r\n").into_bytes());
                sent.push((key, None));
            } else {
                let key = key(client, number);
                bytes.extend(format!("SET {key} {next}\r\n").into_bytes());
                known.entry(key.clone()).or_default().sent = next;
                sent.push((key, Some(next)));
                next += 1;
            }
        }
        if connection.send_bytes(&bytes).is_err() {
            return known;
        }
        for (key, written) in sent {
            let seen = match (connection.read(), written) {
                (Err(_), _) => return known,
                (Ok(Value::Simple(text)), Some(written)) if text == "OK" => written,
                (Ok(Value::Bulk(Some(digits))), None) => String::from_utf8_lossy(&digits).parse().expect("a number"),
                (Ok(Value::Bulk(None)), None) => 0,
                (Ok(reply), _) => panic!("{key} was answered {}", reply.render()),
            };
            let bounds = known.entry(key).or_default();
            bounds.least = bounds.least.max(seen);
            progress.add();
        }
    }
}

/// Runs the clients, kills the server in the middle, and returns what is known of the keys.
fn crash_under_load(node: &mut Node, first: u64, random: &mut StdRng) -> Known {
    let address = node.address();
    let progress = Progress::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (seed, progress) = (random.random(), progress.clone());
            std::thread::spawn(move || write_until_killed(address, client, first, seed, &progress))
        })
        .collect();
    progress.wait_for(random.random_range(ROUND_REPLIES));
    node.kill_9();
    let mut all = Known::new();
    for client in clients {
        for (key, bounds) in client.join().expect("a client does not panic") {
            let known = all.entry(key).or_default();
            known.least = known.least.max(bounds.least);
            known.sent = known.sent.max(bounds.sent);
        }
    }
    all
}

/// The keys that hold something else than they must, each with a sentence, and the highest number found.
fn compare(node: &Node, known: &Known) -> (Vec<String>, u64) {
    let mut connection = node.connect();
    let mut wrong = Vec::new();
    let mut highest = 0;
    for (key, bounds) in known {
        let reply = connection.command(&["GET", key]);
        let found = reply.text().map_or(0, |digits| digits.parse().expect("a number"));
        highest = highest.max(found);
        if !(bounds.least..=bounds.sent.max(bounds.least)).contains(&found) {
            wrong.push(format!(
                "{key} is {found}; {} was acknowledged and {} sent",
                bounds.least, bounds.sent
            ));
        }
    }
    (wrong, highest)
}

/// Crashes the server `rounds` times; `cut` says how much of what is not synced the power loss leaves.
/// Returns the keys that lost something acknowledged, and the pages cut.
fn crash_rounds(
    (flags, faults): (&str, &str),
    rounds: u64,
    seed: u64,
    cut: Option<fn(&mut StdRng, usize) -> usize>,
) -> (Vec<String>, u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut node = Node::new();
    let (mut wrong, mut pages_cut, mut highest) = (Vec::new(), 0, 0);
    let mut acknowledged = 0;
    for round in 0..rounds {
        node.start(flags, faults);
        let known = crash_under_load(&mut node, highest + 1, &mut random);
        acknowledged += known.values().filter(|bounds| bounds.least > highest).count();
        if let Some(cut) = cut {
            pages_cut += node.lose_power(|_, contents| cut(&mut random, contents));
        }
        node.start(flags, "");
        let (found, now_highest) = compare(&node, &known);
        wrong.extend(found.into_iter().map(|sentence| format!("round {round}: {sentence}")));
        // Numbers go on above everything that was ever sent, so that what is left of a round is never taken for the
        // next's.
        highest = known
            .values()
            .map(|bounds| bounds.sent)
            .max()
            .unwrap_or(0)
            .max(now_highest);
        node.kill_9();
        contents::check(&node.data_directory());
    }
    assert!(acknowledged > 0, "no client was served before the crash");
    (wrong, pages_cut)
}

fn keep_only_what_is_synced(_: &mut StdRng, _: usize) -> usize {
    0
}

fn keep_some_of_what_is_not_synced(random: &mut StdRng, contents: usize) -> usize {
    random.random_range(0..contents)
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let seed = seed("a_killed_process_loses_nothing_acknowledged");
    // More by hand: 200 take a few minutes.
    let given = std::env::var("CORELANE_CRASH_ROUNDS").ok();
    let rounds = given.map_or(4, |rounds| rounds.parse().expect("a number of rounds"));
    for (shape, durability) in [
        ("--shards 1".to_owned(), "interval"),
        (four_shards_on_two_executors(), "none"),
        (four_shards_on_two_executors(), "always"),
    ] {
        let flags = format!("{shape} --durability {durability}");
        let (wrong, _) = crash_rounds((&flags, ""), rounds, seed, None);
        assert!(wrong.is_empty(), "{flags}: {}", wrong.join("\n"));
    }
}

#[test]
fn a_power_loss_takes_nothing_acknowledged_under_always() {
    let seed = seed("a_power_loss_takes_nothing_acknowledged_under_always");
    for shape in ["--shards 1".to_owned(), four_shards_on_two_executors()] {
        // Without a table of hot records every GET goes to RocksDB, which does not know what is synced.
        for cache in ["auto", "0"] {
            let flags = format!("{shape} --durability always --memory-size {cache}");
            // A slow disk, so that there is always something that is not synced.
            let faults = "record-unsynced-log=1,delay-sync-ms=4";
            let mut cut = 0;
            for how in [keep_only_what_is_synced, keep_some_of_what_is_not_synced] {
                let (wrong, pages) = crash_rounds((&flags, faults), 2, seed, Some(how));
                assert!(wrong.is_empty(), "{flags}: {}", wrong.join("\n"));
                cut += pages;
            }
            assert!(
                cut > 0,
                "the power loss took nothing, so this test could not have failed"
            );
        }
    }
}

#[test]
fn a_power_loss_takes_acknowledged_writes_under_none_so_that_the_double_works() {
    let seed = seed("a_power_loss_takes_acknowledged_writes_under_none");
    let flags = "--shards 1 --durability none";
    let (wrong, cut) = crash_rounds(
        (flags, "record-unsynced-log=1"),
        1,
        seed,
        Some(keep_only_what_is_synced),
    );
    assert!(
        cut > 0 && !wrong.is_empty(),
        "{cut} pages were cut and nothing was lost"
    );
}

/// Kills at the named points between commit, sync and replies, while one client writes under `always`.
#[test]
fn a_process_that_dies_between_commit_sync_and_replies_keeps_its_word() {
    for (point, may_be_there) in [
        ("kill-before-commit", false),
        ("kill-after-commit", false),
        ("kill-before-replies", true),
    ] {
        let mut node = Node::new();
        let switch = node.switch("kill");
        let faults = format!("record-unsynced-log=1,{point}={}", switch.when());
        node.start("--shards 1 --durability always", &faults);
        let mut client = node.connect();
        assert_eq!(client.command(&["SET", "key", "old"]).render(), "OK");
        switch.on();
        client.send(&["SET", "key", "new"]).expect("the server reads");
        assert!(client.is_closed(), "{point}: nothing is acknowledged");
        node.wait_for_exit();
        let cut = node.lose_all_unsynced();
        node.start("--shards 1", "");
        let expected = if may_be_there { "\"new\"" } else { "\"old\"" };
        assert_eq!(node.connect().command(&["GET", "key"]).render(), expected, "{point}");
        assert_eq!(
            cut > 0,
            point == "kill-after-commit",
            "{point} left {cut} unsynced pages"
        );
    }
}
