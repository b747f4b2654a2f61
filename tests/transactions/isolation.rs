//! Many clients at once on few keys of several executors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{SHARDS, key_per_shard, mget, mset, run};
use crate::harness::client::Client;
use crate::harness::value::Value;
use crate::storage::{Node, four_shards_on_two_executors, key_on, seed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const WRITERS: usize = 4;
const ROUNDS: usize = 150;

#[test]
fn a_snapshot_never_shows_half_of_a_write() {
    let node = Node::started(&four_shards_on_two_executors());
    let keys = Arc::new(key_per_shard("k"));
    assert_eq!(node.connect().command(&mset(&keys, "first")).render(), "OK");
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (mut client, keys, done) = (node.connect(), Arc::clone(&keys), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let Value::Array(Some(values)) = client.command(&mget(&keys)) else {
                        panic!("MGET answers an array");
                    };
                    assert!(
                        values.iter().all(|value| *value == values[0]),
                        "half of a write: {values:?}"
                    );
                    looks += 1;
                }
                looks
            })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (mut client, keys) = (node.connect(), Arc::clone(&keys));
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    let value = format!("{writer}:{round}");
                    assert_eq!(client.command(&mset(&keys, &value)).render(), "OK");
                    // What was acknowledged is seen, unless somebody wrote after it.
                    let Value::Array(Some(values)) = client.command(&mget(&keys)) else {
                        panic!("MGET answers an array");
                    };
                    assert!(
                        values.iter().all(|value| *value == values[0]),
                        "half of a write: {values:?}"
                    );
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    done.store(true, Ordering::Relaxed);
    let looks: usize = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
    assert!(looks > 0, "nobody has looked");
    assert_nothing_is_left(&node);
}

/// No lock, no parked command and no redo record outlives the load.
fn assert_nothing_is_left(node: &Node) {
    let parked = run(&mut node.connect(), "PING");
    assert_eq!(parked.render(), "PONG");
    for key in key_per_shard("k") {
        assert_eq!(run(&mut node.connect(), &format!("SET {key} after")).render(), "OK");
    }
}

/// Members and elements that move about between sets and lists of all shards are neither lost nor doubled.
#[test]
fn what_moves_between_executors_is_always_somewhere() {
    const MEMBERS: usize = 40;
    let seed = seed("what_moves_between_executors_is_always_somewhere");
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    let (sets, lists) = (key_per_shard("set"), key_per_shard("list"));
    for member in 0..MEMBERS {
        run(&mut client, &format!("SADD {} {member}", sets[member % sets.len()]));
        run(&mut client, &format!("RPUSH {} {member}", lists[member % lists.len()]));
    }
    let movers: Vec<_> = (0..WRITERS as u64)
        .map(|mover| {
            let (mut client, sets, lists) = (node.connect(), sets.clone(), lists.clone());
            std::thread::spawn(move || {
                let mut random = StdRng::seed_from_u64(seed + mover);
                for _ in 0..ROUNDS {
                    let mut pick = |keys: &[String]| keys.choose(&mut random).expect("there are keys").clone();
                    let (from, to) = (pick(&sets), pick(&sets));
                    let (list_from, list_to) = (pick(&lists), pick(&lists));
                    let member = random.random_range(0..MEMBERS);
                    for line in [
                        format!("SMOVE {from} {to} {member}"),
                        format!("LMOVE {list_from} {list_to} LEFT RIGHT"),
                        format!("SUNION {} {}", sets.join(" "), from),
                    ] {
                        let reply = run(&mut client, &line);
                        assert!(!matches!(reply, Value::Error(_)), "{line}: {reply:?}");
                        if let Value::Array(Some(members)) | Value::Set(members) = reply {
                            assert_eq!(members.len(), MEMBERS, "{line} saw a member in flight");
                        }
                    }
                }
            })
        })
        .collect();
    movers.into_iter().for_each(|mover| mover.join().expect("a mover"));
    let count = |client: &mut Client, command: &str, keys: &[String]| -> i64 {
        let of_key = |key: &String| match run(client, &format!("{command} {key}")) {
            Value::Integer(count) => count,
            other => panic!("{command} {key}: {other:?}"),
        };
        keys.iter().map(of_key).sum()
    };
    assert_eq!(count(&mut client, "SCARD", &sets), MEMBERS as i64);
    assert_eq!(count(&mut client, "LLEN", &lists), MEMBERS as i64);
}

/// A transaction's keys wait, and no others.
#[test]
fn pipelines_of_one_client_keep_their_order_around_transactions() {
    let node = Node::started(&four_shards_on_two_executors());
    let keys = key_per_shard("o");
    let mut client = node.connect();
    for round in 0..100 {
        let mut sent = Vec::new();
        for (step, key) in keys.iter().enumerate() {
            sent.push(format!("SET {key} before:{round}"));
            sent.push(format!(
                "MSET {} a:{round}:{step} {} b:{round}:{step}",
                keys[0], keys[3]
            ));
            sent.push(format!("MGET {} {}", keys[0], keys[3]));
            sent.push(format!("SET {} c:{round}:{step}", keys[3]));
            sent.push(format!("GET {}", keys[3]));
            sent.push(format!("EXISTS {} {}", keys[3], key_on(1, SHARDS, "none")));
        }
        for line in &sent {
            client
                .send(&line.split_whitespace().collect::<Vec<_>>())
                .expect("the server reads");
        }
        for (number, line) in sent.iter().enumerate() {
            let reply = client.read().expect("a reply").render();
            let step = number / 6;
            let expected = match number % 6 {
                2 => format!("1) \"a:{round}:{step}\"\n2) \"b:{round}:{step}\""),
                4 => format!("\"c:{round}:{step}\""),
                5 => "(integer) 1".to_owned(),
                _ => "OK".to_owned(),
            };
            assert_eq!(reply, expected, "{line}");
        }
    }
}

/// Large collections do not travel whole: what is asked of them is asked for.
#[test]
fn large_collections_on_other_executors_are_asked_and_not_sent() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    let keys = key_per_shard("large");
    let numbers: Vec<String> = (0..5000).map(|number| format!("m{number:05}")).collect();
    let add = |client: &mut Client, command: &str, key: &str| {
        let words: Vec<&str> = [command, key]
            .into_iter()
            .chain(numbers.iter().map(String::as_str))
            .collect();
        assert_eq!(client.command(&words).render(), "(integer) 5000");
    };
    add(&mut client, "SADD", &keys[0]);
    add(&mut client, "SADD", &keys[3]);
    add(&mut client, "RPUSH", &keys[1]);
    run(&mut client, &format!("SADD {} extra", keys[0]));
    assert_eq!(
        run(&mut client, &format!("SMOVE {} {} extra", keys[0], keys[3])).render(),
        "(integer) 1"
    );
    assert_eq!(
        run(&mut client, &format!("SCARD {}", keys[3])).render(),
        "(integer) 5001"
    );
    assert_eq!(
        run(&mut client, &format!("LMOVE {} {} RIGHT LEFT", keys[1], keys[2])).render(),
        "\"m04999\""
    );
    assert_eq!(
        run(&mut client, &format!("LLEN {}", keys[1])).render(),
        "(integer) 4999"
    );
    assert_eq!(
        run(&mut client, &format!("SINTERCARD 2 {} {}", keys[0], keys[3])).render(),
        "(integer) 5000"
    );
    assert_eq!(
        run(&mut client, &format!("SDIFFSTORE {} {} {}", keys[2], keys[3], keys[0])).render(),
        "(integer) 1"
    );
    assert_eq!(
        run(&mut client, &format!("RENAME {} {}", keys[1], keys[2])).render(),
        "OK"
    );
    let last = run(&mut client, &format!("LRANGE {} -1 -1", keys[2])).render();
    assert_eq!(last, "1) \"m04998\"");
}

/// Scans inside collections go on from one transaction to the next, and between transactions and outside of them.
#[test]
fn scans_inside_collections_go_on_in_transactions_over_executors() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    let keys = key_per_shard("scanned");
    let names: Vec<String> = (0..1000).map(|number| format!("m{number:04}")).collect();
    for name in &names {
        run(&mut client, &format!("HSET {} {name} v", keys[0]));
        run(&mut client, &format!("SADD {} {name}", keys[1]));
        run(&mut client, &format!("ZADD {} 1 {name}", keys[3]));
    }
    for (command, key, width) in [("HSCAN", &keys[0], 2), ("SSCAN", &keys[1], 1), ("ZSCAN", &keys[3], 2)] {
        let (mut cursor, mut seen, mut calls) = ("0".to_owned(), Vec::new(), 0);
        while calls == 0 || cursor != "0" {
            let scan = format!("{command} {key} {cursor} COUNT 100");
            let reply = match calls % 3 {
                0 => run(&mut client, &scan),
                _ => {
                    run(&mut client, "MULTI");
                    for key in &keys {
                        run(&mut client, &format!("TYPE {key}"));
                    }
                    run(&mut client, &scan);
                    match run(&mut client, "EXEC") {
                        Value::Array(Some(mut replies)) => replies.remove(keys.len()),
                        other => panic!("EXEC answered {}", other.render()),
                    }
                }
            };
            let Value::Array(Some(parts)) = &reply else {
                panic!("{scan}: {}", reply.render())
            };
            cursor = parts[0].text().expect("a cursor");
            let Value::Array(Some(found)) = &parts[1] else {
                panic!("{scan}: {}", reply.render())
            };
            seen.extend(found.iter().step_by(width).map(|name| name.text().expect("a name")));
            calls += 1;
        }
        assert!(calls > 5, "{command} has seen all in {calls} calls");
        seen.sort();
        assert_eq!(seen, names, "{command}");
    }
}
