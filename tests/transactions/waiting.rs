//! Who waits for a transaction over several executors gets its turn, and what many have to say comes whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{key_per_shard, mset, run};
use crate::harness::client::Client;
use crate::harness::observe::executors_sum;
use crate::harness::process::wait_for;
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;
use crate::storage::{Node, four_shards_on_two_executors, seed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Clients that write, each with several commands out.
const WRITERS: usize = 8;

/// Short, so that whoever stands still is noticed within the time that a reply may take.
const REQUEST_TIMEOUT: &str = "--request-timeout-ms 3000";

/// Where transactions on a key follow each other without a pause, a plain command on it would wait for ever if it only
/// looked whether somebody has the key: it must stand in the line.
#[test]
fn a_plain_command_gets_its_turn_among_transactions_on_its_key() {
    let node = Node::started(&format!("{} {REQUEST_TIMEOUT}", four_shards_on_two_executors()));
    let keys = Arc::new(key_per_shard("hot"));
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (mut client, keys, done) = (node.connect(), Arc::clone(&keys), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(client.command(&mset(&keys, "value")).render(), "OK");
                }
            })
        })
        .collect();
    let mut client = node.connect();
    for round in 0..100 {
        let key = &keys[round % keys.len()];
        assert_eq!(run(&mut client, &format!("SET {key} mine")).render(), "OK");
        let got = run(&mut client, &format!("GET {key}")).render();
        assert!(matches!(got.as_str(), "\"mine\"" | "\"value\""), "{got}");
    }
    done.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    // On one CPU there is one executor, and nobody waits.
    let waited = executors_sum(&mut client, "parked");
    let transactions = executors_sum(&mut client, "transactions");
    assert_eq!(
        waited > 0,
        transactions > 0,
        "{transactions} transactions, {waited} waited"
    );
}

/// Moves that wait, in both directions around a ring of keys, beside transactions and pushes on the same keys: what
/// they pass on is always somewhere once, and at the end nobody waits and nothing is locked.
#[test]
fn moves_that_wait_lose_nothing_and_keep_no_lock() {
    const TOKENS: usize = 6;
    const ROUNDS: usize = 100;
    let seed = seed("moves_that_wait_lose_nothing_and_keep_no_lock");
    let core = allowed_cpus()[0];
    // Where writes wait for the disk they take the same way between shards of one executor.
    let one_executor = format!("--shards 4 --network-cores {core} --storage-cores {core} --durability always");
    for flags in [four_shards_on_two_executors(), one_executor] {
        let node = Node::started(&format!("{flags} {REQUEST_TIMEOUT}"));
        let keys = key_per_shard("ring");
        let mut client = node.connect();
        for token in 0..TOKENS {
            run(&mut client, &format!("RPUSH {} {token}", keys[token % keys.len()]));
        }
        let clients: Vec<_> = (0..2 * WRITERS)
            .map(|number| {
                let (mut client, keys) = (node.connect(), keys.clone());
                std::thread::spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed + number as u64);
                    let (mut moved, mut pushed) = (0, Vec::new());
                    for round in 0..ROUNDS {
                        let from = random.random_range(0..keys.len());
                        let step = if number % 2 == 0 { 1 } else { keys.len() - 1 };
                        let (from, to) = (&keys[from], &keys[(from + step) % keys.len()]);
                        let line = match random.random_range(0..16) {
                            0 | 1 => format!("LMOVE {from} {to} LEFT RIGHT"),
                            2 | 3 => format!("BRPOPLPUSH {from} {to} 0.001"),
                            4 => {
                                let token = format!("{number}:{round}");
                                pushed.push(format!("\"{token}\""));
                                format!("RPUSH {to} {token}")
                            }
                            _ => format!("BLMOVE {from} {to} RIGHT LEFT 0.02"),
                        };
                        let reply = run(&mut client, &line).render();
                        moved += usize::from(reply != "(nil)");
                        assert!(!reply.starts_with("(error)"), "{line}: {reply}");
                    }
                    (moved, pushed)
                })
            })
            .collect();
        let mut expected: Vec<String> = (0..TOKENS).map(|token| format!("\"{token}\"")).collect();
        let mut moved = 0;
        for client in clients {
            let (own, pushed) = client.join().expect("a mover");
            moved += own;
            expected.extend(pushed);
        }
        assert!(moved > TOKENS, "{moved}");
        let mut tokens: Vec<String> = Vec::new();
        for key in &keys {
            // Were one locked, this would be a timeout.
            match run(&mut client, &format!("LPOP {key} 1000")) {
                Value::Array(Some(popped)) => tokens.extend(popped.iter().map(Value::render)),
                Value::Array(None) => {}
                other => panic!("{key}: {}", other.render()),
            }
        }
        tokens.sort();
        expected.sort();
        assert_eq!(tokens, expected, "{flags}");
        for figure in ["blocked_clients", "total_blocking_keys"] {
            assert!(wait_for(|| node.info("clients", figure, "") == "0"), "{figure}");
        }
    }
}

/// While a move that has waited takes place, nobody else writes its target.
#[test]
fn pushes_beside_a_move_that_has_waited_are_not_lost() {
    let core = allowed_cpus()[0];
    let one_executor = format!("--shards 4 --network-cores {core} --storage-cores {core} --durability always");
    for flags in [one_executor, four_shards_on_two_executors()] {
        let node = Node::started(&flags);
        let keys = key_per_shard("list");
        let [mut moving, mut pushing, mut beside] = [0; 3].map(|_| node.connect());
        for round in 0..40 {
            let (source, target) = (&keys[round % 4], &keys[(round + 1 + round / 4 % 3) % 4]);
            moving
                .send(&["BLMOVE", source, target, "LEFT", "LEFT", "0"])
                .expect("the server reads");
            assert!(wait_for(|| node.info("clients", "blocked_clients", "") == "1"));
            pushing.send(&["RPUSH", source, "moved"]).expect("the server reads");
            for _ in 0..50 {
                beside.send(&["RPUSH", target, "beside"]).expect("the server reads");
            }
            assert_eq!(moving.read().expect("it is moved").render(), "\"moved\"");
            pushing.read().expect("it is pushed");
            for _ in 0..50 {
                beside.read().expect("it is pushed");
            }
            assert_eq!(
                run(&mut pushing, &format!("LLEN {target}")),
                Value::Integer(51),
                "{flags}"
            );
            run(&mut pushing, &format!("DEL {target}"));
        }
    }
}

/// A transaction must not keep its locks elsewhere while an earlier command of its client waits here: those whom that
/// one waits for could wait for these locks.
#[test]
fn pipelines_that_cross_each_other_never_stand_still() {
    let seed = seed("pipelines_that_cross_each_other_never_stand_still");
    let node = Node::started(&format!("{} {REQUEST_TIMEOUT}", four_shards_on_two_executors()));
    let keys = key_per_shard("crossed");
    let lists = key_per_shard("list");
    for list in &lists {
        run(&mut node.connect(), &format!("RPUSH {list} a b c d"));
    }
    let clients: Vec<_> = (0..WRITERS as u64)
        .map(|number| {
            let (mut client, keys, lists) = (node.connect(), keys.clone(), lists.clone());
            std::thread::spawn(move || {
                let mut random = StdRng::seed_from_u64(seed + number);
                for _ in 0..30 {
                    let sent: Vec<String> = (0..20).map(|_| random_command(&mut random, &keys, &lists)).collect();
                    for line in &sent {
                        let words: Vec<_> = line.split_whitespace().collect();
                        client.send(&words).expect("the server reads");
                    }
                    for line in &sent {
                        let reply = client.read().expect("a reply");
                        assert!(!matches!(reply, Value::Error(_)), "{line}: {reply:?}");
                    }
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    let mut client = node.connect();
    let left: i64 = lists
        .iter()
        .map(|list| integer(run(&mut client, &format!("LLEN {list}"))))
        .sum();
    assert_eq!(left, 16, "elements were lost or doubled");
    // No lock outlives the load.
    for key in &keys {
        assert_eq!(run(&mut client, &format!("SET {key} after")).render(), "OK");
    }
    assert_eq!(client.command(&mset(&keys, "together")).render(), "OK");
}

fn integer(value: Value) -> i64 {
    match value {
        Value::Integer(number) => number,
        other => panic!("not a number: {other:?}"),
    }
}

fn random_command(random: &mut StdRng, keys: &[String], lists: &[String]) -> String {
    let mut pick = |from: &[String]| from.choose(random).expect("there are some").clone();
    let (one, other) = (pick(keys), pick(keys));
    let (from, to) = (pick(lists), pick(lists));
    match random.random_range(0..6) {
        0 => format!("SET {one} plain"),
        1 => format!("GET {one}"),
        2 => format!("MSET {one} both {other} both"),
        3 => format!("MGET {one} {other}"),
        4 => format!("LMOVE {from} {to} LEFT RIGHT"),
        _ => format!("APPEND {one} x"),
    }
}

/// The keys of a database come in pieces and are put together, by themselves and inside EXEC, where what it has written
/// counts.
#[test]
fn all_keys_of_several_executors_come_whole() {
    const KEYS: usize = 60_000;
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    for first in (0..KEYS).step_by(10_000) {
        let mut words = vec!["MSET".to_owned()];
        (first..first + 10_000).for_each(|number| words.extend([format!("key:{number}"), "v".to_owned()]));
        assert_eq!(client.command(&words).render(), "OK");
    }
    let sorted = |value: Value| {
        let Value::Array(Some(keys)) = value else {
            panic!("keys come as an array");
        };
        let mut keys: Vec<String> = keys.iter().map(Value::render).collect();
        keys.sort();
        keys
    };
    let mut expected: Vec<String> = (0..KEYS).map(|number| format!("\"key:{number}\"")).collect();
    expected.sort();
    assert!(sorted(run(&mut client, "KEYS *")) == expected, "KEYS has other keys");
    for line in [
        "MULTI",
        "DEL key:7",
        "SADD new member",
        "SELECT 3",
        "SET other v",
        "SELECT 0",
    ] {
        run(&mut client, line);
    }
    for line in [
        "DBSIZE",
        "KEYS *",
        "SCAN 0",
        "SCAN 0 TYPE set",
        "SCAN 0 MATCH key:5999?",
        "RANDOMKEY",
    ] {
        assert_eq!(run(&mut client, line).render(), "QUEUED");
    }
    let Value::Array(Some(replies)) = run(&mut client, "EXEC") else {
        panic!("EXEC answers an array");
    };
    expected.retain(|key| key != "\"key:7\"");
    expected.push("\"new\"".to_owned());
    assert_eq!(replies[5].render(), format!("(integer) {KEYS}"));
    assert!(
        sorted(replies[6].clone()) == expected,
        "KEYS inside EXEC has other keys"
    );
    let scanned = |reply: &Value| match reply {
        Value::Array(Some(parts)) => (parts[0].render(), sorted(parts[1].clone())),
        other => panic!("SCAN answers {other:?}"),
    };
    let several = executors_sum(&mut client, "transactions") > 0;
    if several {
        assert!(
            scanned(&replies[7]) == ("\"0\"".to_owned(), expected.clone()),
            "SCAN inside EXEC has other keys"
        );
        assert_eq!(scanned(&replies[8]).1, ["\"new\""]);
        assert_eq!(scanned(&replies[9]).1.len(), 10);
    }
    assert!(expected.contains(&replies[10].render()), "{:?}", replies[10]);
}

/// Who leaves in the middle of a transaction changes nothing for the others.
#[test]
fn clients_that_leave_in_the_middle_leave_no_lock() {
    let seed = seed("clients_that_leave_in_the_middle_leave_no_lock");
    let mut random = StdRng::seed_from_u64(seed);
    let node = Node::started(&four_shards_on_two_executors());
    let (keys, lists) = (key_per_shard("left"), key_per_shard("list"));
    for _ in 0..60 {
        let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
        for client in &mut clients {
            for _ in 0..random.random_range(1..8) {
                let line = random_command(&mut random, &keys, &lists);
                let words: Vec<_> = line.split_whitespace().collect();
                client.send(&words).expect("the server reads");
            }
        }
    }
    let mut client = node.connect();
    for _ in 0..3 {
        assert_eq!(client.command(&mset(&keys, "mine")).render(), "OK");
        for key in &keys {
            assert!(!matches!(run(&mut client, &format!("SET {key} v")), Value::Error(_)));
        }
    }
}
