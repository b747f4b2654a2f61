//! Scripts that use keys which they have not declared, and other commands whose keys are found while they run, on four
//! shards of two storage executors: they see and do what they would on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::assert_fails;
use crate::harness::client::Client;
use crate::harness::value::Value;
use crate::storage::{Node, four_shards_on_two_executors, seed};

/// Keys that lie on four different shards of four, two on each executor.
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

fn run(client: &mut Client, line: &str) -> Value {
    client.command(&line.split_whitespace().collect::<Vec<_>>())
}

fn eval(client: &mut Client, script: &str, words: &[&str]) -> String {
    let mut command = vec!["EVAL", script];
    command.extend(words);
    client.command(&command).render()
}

fn elements(reply: Value) -> Vec<Value> {
    match reply {
        Value::Array(Some(elements)) => elements,
        other => panic!("an array, not {}", other.render()),
    }
}

/// A figure of `INFO executors`, over all of them.
fn figure(client: &mut Client, name: &str) -> u64 {
    let text = run(client, "INFO executors").text().expect("INFO is a text");
    let fields = text.split(['\r', '\n', ',', ':']);
    let figures = fields.filter_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    figures.map(|figure| figure.parse::<u64>().expect("a number")).sum()
}

#[test]
fn a_script_without_declared_keys_writes_wherever_its_keys_are() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    for key in KEYS {
        let reply = eval(
            &mut client,
            "return redis.call('set', ARGV[1], ARGV[2])",
            &["0", key, "v"],
        );
        assert_eq!(reply, "OK", "{key}");
        assert_eq!(run(&mut client, &format!("GET {key}")).render(), "\"v\"");
    }
    // The same by digest, and as a function.
    let digest = "return redis.call('incrby', 'n:' .. ARGV[1], 1)";
    let loaded = client.command(&["SCRIPT", "LOAD", digest]).text().expect("a digest");
    let library = "#!lua name=l\nredis.register_function('f', function(keys, arguments) return redis.call('incrby', 'n:' .. arguments[1], 1) end)";
    client.command(&["FUNCTION", "LOAD", library]);
    for round in 0..3 {
        for key in KEYS {
            let by_digest = client.command(&["EVALSHA", &loaded, "0", key]);
            assert_eq!(by_digest, Value::Integer(2 * round + 1));
            let by_name = client.command(&["FCALL", "f", "0", key]);
            assert_eq!(by_name, Value::Integer(2 * round + 2));
        }
    }
}

#[test]
fn a_script_reads_in_one_key_which_others_to_use() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    run(&mut client, "RPUSH names a b c d {e}f g h i j");
    let script = "local sum = 0 for i, name in ipairs(redis.call('lrange', KEYS[1], 0, -1)) do \
                  redis.call('incrby', 'count:' .. name, i) \
                  redis.call('sadd', 'all', name) \
                  sum = sum + redis.call('get', 'count:' .. name) end \
                  return {sum, redis.call('scard', 'all')}";
    for round in 1..=3 {
        let reply = eval(&mut client, script, &["1", "names"]);
        assert_eq!(reply, format!("1) (integer) {}\n2) (integer) 9", 45 * round));
    }
    assert_eq!(run(&mut client, "GET count:j").render(), "\"27\"");
}

#[test]
fn what_was_undone_is_never_published_or_counted() {
    let node = Node::started(&four_shards_on_two_executors());
    let (mut client, mut listener) = (node.connect(), node.connect());
    listener.send(&["SUBSCRIBE", "news"]).expect("it is sent");
    listener.read().expect("it is confirmed");
    run(&mut client, "CONFIG RESETSTAT");
    let script = "redis.call('publish', 'news', ARGV[1]) redis.call('incr', KEYS[1]) redis.call('incr', ARGV[2]) \
                  redis.call('incr', ARGV[3])";
    for round in 0..5 {
        for key in KEYS {
            eval(&mut client, script, &["1", key, &format!("{round}{key}"), "x", "y"]);
            let message = listener.read().expect("a message").render();
            assert_eq!(message, format!("1) \"message\"\n2) \"news\"\n3) \"{round}{key}\""));
        }
    }
    assert_eq!(
        run(&mut client, "MGET a b c d x y").render(),
        "1) \"5\"\n2) \"5\"\n3) \"5\"\n4) \"5\"\n5) \"20\"\n6) \"20\""
    );
    let stats = run(&mut client, "INFO commandstats").text().expect("a text");
    let calls = |command: &str| {
        stats
            .lines()
            .find(|line| line.starts_with(&format!("cmdstat_{command}:")))
            .map(str::to_owned)
    };
    assert!(
        calls("incr").is_some_and(|line| line.contains("calls=60,")),
        "{:?}",
        calls("incr")
    );
    assert!(
        calls("eval").is_some_and(|line| line.contains("calls=20,")),
        "{:?}",
        calls("eval")
    );
}

#[test]
fn commands_on_all_keys_run_inside_scripts() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    run(&mut client, "MSET a 1 b 2 c 3 d 4");
    for _ in 0..2 {
        assert_eq!(eval(&mut client, "return redis.call('dbsize')", &["0"]), "(integer) 4");
        let keys = "local keys = redis.call('keys', '*') table.sort(keys) return keys";
        assert_eq!(
            eval(&mut client, keys, &["1", "a"]),
            "1) \"a\"\n2) \"b\"\n3) \"c\"\n4) \"d\""
        );
        let scan = "local found, cursor = 0, '0' repeat local page = redis.call('scan', cursor) cursor = page[1] \
                    found = found + #page[2] until cursor == '0' return found";
        assert_eq!(eval(&mut client, scan, &["0"]), "(integer) 4");
        let random = "return redis.call('exists', redis.call('randomkey'))";
        assert_eq!(eval(&mut client, random, &["0"]), "(integer) 1");
        // Each sees what the script has written before.
        let doubled = "for _, key in ipairs(redis.call('keys', '*')) do redis.call('incrby', key, redis.call('get', key)) end \
                       redis.call('set', 'e', 1) return redis.call('dbsize')";
        assert_eq!(eval(&mut client, doubled, &["0"]), "(integer) 5");
        run(&mut client, "DEL e");
    }
    assert_eq!(
        run(&mut client, "MGET a b c d").render(),
        "1) \"4\"\n2) \"8\"\n3) \"12\"\n4) \"16\""
    );
    let swap = "redis.call('swapdb', 0, 1) redis.call('select', 1) return redis.call('get', 'c')";
    assert_eq!(eval(&mut client, swap, &["0"]), "\"12\"");
    assert_eq!(eval(&mut client, swap, &["0"]), "(nil)");
    let flush = "redis.call('flushall') redis.call('set', 'b', 'left') return redis.call('dbsize')";
    assert_eq!(eval(&mut client, flush, &["1", "a"]), "(integer) 1");
    assert_eq!(run(&mut client, "KEYS *").render(), "1) \"b\"");
}

#[test]
fn scripts_inside_a_transaction_use_any_key() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    let script = "return redis.call('incrby', ARGV[1], ARGV[2])";
    for key in KEYS {
        for watched in [&[][..], &["a"], &["b", "c"]] {
            run(&mut client, "MSET a 1 b 1 c 1 d 1");
            if !watched.is_empty() {
                run(&mut client, &format!("WATCH {}", watched.join(" ")));
            }
            run(&mut client, "MULTI");
            client.command(&["INCR", "a"]);
            client.command(&["EVAL", script, "0", key, "10"]);
            client.command(&["PING"]);
            client.command(&["EVAL", "return redis.call('dbsize')", "0"]);
            let expected = if key == "a" { 12 } else { 11 };
            let reply = run(&mut client, "EXEC").render();
            assert_eq!(
                reply,
                format!("1) (integer) 2\n2) (integer) {expected}\n3) PONG\n4) (integer) 4")
            );
        }
    }
    // A watched key that was modified keeps all of it from running.
    let mut other = node.connect();
    for watched in KEYS {
        run(&mut client, "MSET a 1 b 1 c 1 d 1");
        run(&mut client, &format!("WATCH {watched}"));
        run(&mut other, &format!("SET {watched} other"));
        run(&mut client, "MULTI");
        client.command(&["EVAL", script, "1", watched, "d", "10"]);
        assert_eq!(run(&mut client, "EXEC").render(), "(nil)");
    }
}

#[test]
fn a_pipeline_keeps_its_order_around_a_script_that_is_handed_back() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    for round in 0..20 {
        let text = format!(
            "local _ = {round} redis.call('append', KEYS[1], 'b') redis.call('append', ARGV[1], 'x') \
                            redis.call('append', KEYS[1], 'c') return 'done'"
        );
        for (key, other) in [("a", "b"), ("b", "c"), ("c", "a")] {
            run(&mut client, "FLUSHALL");
            client.send(&["SET", key, "a"]).expect("it is sent");
            client.send(&["EVAL", &text, "1", key, other]).expect("it is sent");
            client.send(&["APPEND", key, "d"]).expect("it is sent");
            client.send(&["EVAL", &text, "1", key, other]).expect("it is sent");
            client
                .send(&["MSET", "m", "1", "n", "2", "o", "3"])
                .expect("it is sent");
            client.send(&["GET", key]).expect("it is sent");
            let replies: Vec<String> = (0..6)
                .map(|_| client.read().expect("it is answered").render())
                .collect();
            assert_eq!(
                replies,
                ["OK", "\"done\"", "(integer) 4", "\"done\"", "OK", "\"abcdbc\""]
            );
            assert_eq!(run(&mut client, &format!("GET {other}")).render(), "\"xx\"");
        }
    }
}

#[test]
fn transfers_between_keys_that_are_not_declared_keep_the_sum() {
    const ACCOUNTS: usize = 12;
    const ROUNDS: usize = 60;
    let seed = seed("transfers_between_keys_that_are_not_declared_keep_the_sum");
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    for account in 0..ACCOUNTS {
        run(&mut client, &format!("SET account:{account} 100"));
        run(
            &mut client,
            &format!("SET next:{account} {}", (account * 5 + 1) % ACCOUNTS),
        );
    }
    let done = Arc::new(AtomicBool::new(false));
    // From one account to the one that another key names, which changes.
    let transfer = "local to = redis.call('get', 'next:' .. ARGV[1]) \
                    redis.call('decrby', 'account:' .. ARGV[1], ARGV[2]) \
                    redis.call('incrby', 'account:' .. to, ARGV[2]) \
                    redis.call('set', 'next:' .. ARGV[1], ARGV[3])";
    let all = format!(
        "local sum = 0 for i = 0, {} do sum = sum + redis.call('get', 'account:' .. i) end return sum",
        ACCOUNTS - 1
    );
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (mut client, done, all) = (node.connect(), Arc::clone(&done), all.clone());
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(eval(&mut client, &all, &["0"]), format!("(integer) {}", 100 * ACCOUNTS));
                }
            })
        })
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut client = node.connect();
            std::thread::spawn(move || {
                let mut random = StdRng::seed_from_u64(seed + writer);
                for _ in 0..ROUNDS {
                    let account = random.random_range(0..ACCOUNTS).to_string();
                    let next = random.random_range(0..ACCOUNTS).to_string();
                    let amount = random.random_range(0..50).to_string();
                    let words = ["0", &account, &amount, &next];
                    match random.random_bool(0.3) {
                        false => assert_eq!(eval(&mut client, transfer, &words), "(nil)"),
                        true => {
                            run(&mut client, "MULTI");
                            client.command(&["EVAL", transfer, "0", &account, &amount, &next]);
                            assert_eq!(run(&mut client, "EXEC").render(), "1) (nil)");
                        }
                    }
                    // Commands that are no scripts meet the locks, too.
                    let names: Vec<String> = (0..ACCOUNTS).map(|account| format!("account:{account}")).collect();
                    let key = names.choose(&mut random).expect("there are accounts");
                    run(&mut client, &format!("INCRBY {key} 0"));
                    let balances = run(&mut client, &format!("MGET {}", names.join(" ")));
                    let Value::Array(Some(balances)) = balances else {
                        panic!("MGET answers an array")
                    };
                    let balance = |value: &Value| {
                        value
                            .text()
                            .and_then(|text| text.parse::<i64>().ok())
                            .expect("a number")
                    };
                    assert_eq!(balances.iter().map(balance).sum::<i64>(), 100 * ACCOUNTS as i64);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    done.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
}

#[test]
fn the_second_run_of_a_script_goes_straight_and_declared_keys_cost_nothing() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    let beyond = "return redis.call('mset', 'a', 1, 'b', 2, 'c', 3, 'd', 4)";
    for _ in 0..5 {
        assert_eq!(eval(&mut client, beyond, &["0"]), "OK");
    }
    assert_eq!(
        figure(&mut client, "handed_back"),
        1,
        "only the first run was begun where it could not end"
    );
    let declared = "return redis.call('incr', KEYS[1])";
    let transactions = figure(&mut client, "transactions");
    for _ in 0..10 {
        for key in KEYS {
            eval(&mut client, declared, &["1", key]);
        }
    }
    assert_eq!(
        figure(&mut client, "transactions"),
        transactions,
        "what is declared needs no transaction"
    );
    assert_eq!(figure(&mut client, "handed_back"), 1);
}

#[test]
fn the_setting_forbids_undeclared_keys_wherever_they_are() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    run(&mut client, "CONFIG SET script-undeclared-keys no");
    for key in KEYS {
        let reply = client.command(&["EVAL", "return redis.call('set', ARGV[1], 1)", "1", "a", key]);
        match key {
            "a" => assert_eq!(reply.render(), "OK"),
            _ => assert_fails(&reply, "ERR Script attempted to access a key that it has not declared"),
        }
    }
    for command in ["dbsize", "randomkey", "flushall"] {
        let reply = client.command(&["EVAL", "return redis.call(ARGV[1])", "1", "a", command]);
        assert_fails(&reply, "ERR Script attempted to run a command on all keys");
    }
    assert_eq!(run(&mut client, "CONFIG SET script-undeclared-keys yes").render(), "OK");
    assert_eq!(eval(&mut client, "return redis.call('dbsize')", &["0"]), "(integer) 1");
}

#[test]
fn a_long_script_that_goes_beyond_its_keys_can_be_killed() {
    let node = Node::started(&four_shards_on_two_executors());
    let (mut client, mut other) = (node.connect(), node.connect());
    let long =
        "redis.call('set', KEYS[1], 'x') redis.call('set', ARGV[1], 'x') while true do redis.call('get', ARGV[1]) end";
    for to in ["b", "c"] {
        for _ in 0..2 {
            client.send(&["EVAL", long, "1", "a", to]).expect("it is sent");
            loop {
                // It is undone and begun anew meanwhile.
                let reply = run(&mut other, "SCRIPT KILL").render();
                if reply == "OK" {
                    break;
                }
                assert!(reply.contains("NOTBUSY"), "{reply}");
            }
            assert_fails(
                &client.read().expect("it is answered"),
                "ERR user_script:1: Script killed by user",
            );
            assert_eq!(run(&mut other, "MGET a b c").render(), "1) (nil)\n2) (nil)\n3) (nil)");
        }
    }
}

#[test]
fn sort_follows_patterns_to_other_executors() {
    let node = Node::started(&four_shards_on_two_executors());
    let mut client = node.connect();
    const ELEMENTS: usize = 300;
    for element in 0..ELEMENTS {
        run(&mut client, &format!("RPUSH list {element}"));
        run(&mut client, &format!("SET w_{element} {}", (element * 7) % ELEMENTS));
        run(&mut client, &format!("HSET h_{element} f value-{element}"));
    }
    let mut sorted: Vec<usize> = (0..ELEMENTS).collect();
    sorted.sort_by_key(|element| (element * 7) % ELEMENTS);
    let rendered = |lines: Vec<String>| {
        let numbered = lines
            .iter()
            .enumerate()
            .map(|(line, text)| format!("{}) \"{text}\"", line + 1));
        numbered.collect::<Vec<_>>().join("\n")
    };
    for command in ["SORT", "SORT_RO"] {
        let reply = run(&mut client, &format!("{command} list BY w_* LIMIT 0 9"));
        assert_eq!(
            reply.render(),
            rendered(sorted[..9].iter().map(usize::to_string).collect())
        );
        let reply = run(
            &mut client,
            &format!("{command} list BY w_* LIMIT 0 3 GET # GET h_*->f GET none_*"),
        );
        let three = sorted[..3]
            .iter()
            .map(|element| format!("{element} value-{element}"))
            .collect::<Vec<_>>();
        assert_eq!(
            elements(reply).iter().map(Value::render).collect::<Vec<_>>(),
            three
                .iter()
                .flat_map(|pair| pair
                    .split(' ')
                    .map(|word| format!("\"{word}\""))
                    .chain(["(nil)".to_owned()]))
                .collect::<Vec<_>>()
        );
    }
    for target in KEYS {
        let reply = run(&mut client, &format!("SORT list BY w_* GET h_*->f STORE {target}"));
        assert_eq!(reply, Value::Integer(ELEMENTS as i64));
        let first = run(&mut client, &format!("LINDEX {target} 1")).render();
        assert_eq!(first, format!("\"value-{}\"", sorted[1]));
        run(&mut client, "MULTI");
        run(&mut client, "SORT list BY w_* LIMIT 0 1");
        assert_eq!(
            elements(run(&mut client, "EXEC"))[0].render(),
            format!("1) \"{}\"", sorted[0])
        );
    }
    let reply = eval(
        &mut client,
        "return redis.call('sort', KEYS[1], 'by', 'w_*', 'limit', 0, 1)",
        &["1", "list"],
    );
    assert_eq!(reply, format!("1) \"{}\"", sorted[0]));
}
