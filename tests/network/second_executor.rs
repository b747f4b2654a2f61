//! What a second storage executor that is slow, stalled or stopped does to the clients of the first one, and to its
//! own. (What becomes of the server when an executor's thread ends: `storage::bugs`.)
//!
//! Shards 0 and 1 belong to the first storage executor, 2 and 3 to the second. Clients whose keys lie on the first and
//! whose sockets are with its thread are served as if nothing were wrong; those who want something of the second are
//! told what is wrong, or wait; commands over both do all or nothing; and what was acknowledged is there after a crash.

use std::time::{Duration, Instant};

use super::has_two_cpus;
use crate::harness::client::Client;
use crate::harness::observe::info_number;
use crate::harness::process::wait_for;
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;
use crate::storage::{Node, key_on};

const SHARDS: u16 = 4;

/// Rounds of commands for which the first executor's clients are served beside a second one in trouble.
const ROUNDS: usize = 100;

/// How long a reply may take that depends on the first executor only: far above what a busy machine takes for it, far
/// below any time at which something gives up waiting for the second one.
const REPLY_MAX: Duration = Duration::from_secs(5);

/// Requests that may be out to one executor: fewer than a client pipelines here.
const CREDITS: usize = 64;

/// Commands that one client pipelines to the second executor: more than its credits.
const FLOOD: usize = 1_000;

/// One key on each shard; the tests name others after them.
struct Keys {
    first: [String; 2],
    second: [String; 2],
}

fn keys(prefix: &str) -> Keys {
    let [a, b, c, d] = [0, 1, 2, 3].map(|shard| key_on(shard, SHARDS, prefix));
    Keys {
        first: [a, b],
        second: [c, d],
    }
}

/// How the executors' roles may lie: all sockets with the first one, or some with each.
fn shapes() -> [String; 2] {
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let storage = format!("--shards 4 --storage-cores {first},{last} --request-credits {CREDITS}");
    [
        format!("{storage} --network-cores {first}"),
        format!("{storage} --network-cores {first},{last}"),
    ]
}

/// A server and clients whose sockets are with the first executor.
fn start(flags: &str, faults: &str, count: usize) -> (Node, Vec<Client>) {
    let mut node = Node::new();
    node.start(flags, faults);
    for (shard, executor) in [(0, "0"), (1, "0"), (2, "1"), (3, "1")] {
        assert_eq!(node.info("shards", &format!("shard{shard}"), "executor"), executor);
    }
    let mut control = node.connect();
    let mut clients = Vec::new();
    let mut others = Vec::new();
    while clients.len() < count {
        let before = connections(&mut control);
        let mut client = node.connect();
        assert_eq!(client.command(&["PING"]).render(), "PONG");
        match connections(&mut control) > before {
            true => clients.push(client),
            false => others.push(client),
        }
        assert!(others.len() < 100, "no connection goes to the first executor");
    }
    (node, clients)
}

/// Connections of the first executor.
fn connections(client: &mut Client) -> usize {
    figure(client, "executor0:", "connections")
}

/// A figure of a line of INFO executors, asked for on a connection that is there already.
fn figure(client: &mut Client, line: &str, name: &str) -> usize {
    let info = crate::harness::observe::info(client, "executors");
    let found = info.lines().find(|found| found.starts_with(line));
    let value = found.and_then(|line| {
        line.split(',')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    });
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{line} has no {name}:\n{info}"))
}

/// A client of the first executor is served, each command within [`REPLY_MAX`].
fn assert_the_first_serves(client: &mut Client) {
    let [one, two] = keys("served").first;
    let mut ask = |words: &[&str], expected: &str| {
        let asked = Instant::now();
        assert_eq!(client.command(words).render(), expected, "{words:?}");
        assert!(asked.elapsed() < REPLY_MAX, "{words:?} took {:?}", asked.elapsed());
    };
    ask(&["DEL", &one, &two], "(integer) 0");
    for round in 1..=ROUNDS {
        let value = round.to_string();
        ask(&["SET", &one, &value], "OK");
        ask(&["GET", &one], &format!("\"{value}\""));
        // On both shards of the executor: by parts, as one, and in a transaction.
        ask(&["MGET", &one, &two], &format!("1) \"{value}\"\n2) (nil)"));
        ask(&["MSET", &one, &value, &two, &value], "OK");
        ask(&["MULTI"], "OK");
        ask(&["INCR", &one], "QUEUED");
        ask(&["DEL", &two], "QUEUED");
        ask(&["EXEC"], &format!("1) (integer) {}\n2) (integer) 1", round + 1));
        ask(
            &["EVAL", "return redis.call('incr', KEYS[1])", "1", &one],
            &format!("(integer) {}", round + 2),
        );
    }
    ask(&["DEL", &one], "(integer) 1");
}

/// Asserts that a reply is an error with a code.
fn assert_error(reply: &Value, code: &str) {
    assert!(
        matches!(reply, Value::Error(text) if text.starts_with(code)),
        "{} is no {code}",
        reply.render()
    );
}

/// Kills the server, starts it without faults, and looks for values.
fn assert_recovers(mut node: Node, flags: &str, values: &[(&str, &str)]) {
    node.kill_9();
    node.start(flags, "");
    let mut client = node.connect();
    for (key, value) in values {
        assert_eq!(client.command(&["GET", key]).render(), *value, "{key} after a restart");
    }
}

/// All credits have come home.
fn assert_nothing_is_out(client: &mut Client) {
    let pending = || figure(client, "executor0:", "pending") == 0;
    assert!(wait_for(pending), "requests are out for ever");
}

#[test]
fn a_busy_script_on_the_second_executor_is_felt_by_its_own_clients_only() {
    if !has_two_cpus("the test of a busy second executor") {
        return;
    }
    let keys = keys("k");
    let ([first, _], [second, other]) = (&keys.first, &keys.second);
    for shape in shapes() {
        let flags = format!("{shape} --busy-reply-threshold 50");
        let (node, mut clients) = start(&flags, "", 5);
        let [one, asking, scripting, flooding, killing] = &mut clients[..] else {
            unreachable!("five were asked for")
        };
        assert_eq!(
            asking.command(&["MSET", first, "1", second, "1", other, "1"]).render(),
            "OK"
        );
        let script = "redis.call('set', KEYS[1], 'lost') while true do end";
        scripting
            .send(&["EVAL", script, "1", second])
            .expect("the server reads");
        let is_busy = |reply: &Value| matches!(reply, Value::Error(text) if text.starts_with("BUSY "));
        assert!(
            wait_for(|| is_busy(&asking.command(&["GET", second]))),
            "nobody was told BUSY"
        );
        // Its own clients are told, also those of its other shard and those who ask for more than its credits.
        let pipeline = format!("INCR {other}\r\n").repeat(FLOOD);
        flooding.send_bytes(pipeline.as_bytes()).expect("the server reads");
        assert_the_first_serves(one);
        for _ in 0..FLOOD {
            assert_error(&flooding.read().expect("the server answers"), "BUSY ");
        }
        // So are commands over both, and nothing of them is done.
        for words in [
            &["MSET", first, "2", other, "2"][..],
            &["DEL", first, other],
            &["RENAME", first, other],
            &["EVAL", "return redis.call('set', KEYS[1], '2')", "2", first, other],
            &["DBSIZE"],
        ] {
            assert_error(&asking.command(words), "BUSY ");
        }
        for words in [&["MULTI"][..], &["SET", first, "2"], &["SET", other, "2"]] {
            asking.command(words);
        }
        assert_error(&asking.command(&["EXEC"]), "BUSY ");
        assert_the_first_serves(one);
        assert_eq!(asking.command(&["GET", first]).render(), "\"1\"", "nothing was done");
        assert_eq!(killing.command(&["SCRIPT", "KILL"]).render(), "OK");
        assert_error(
            &scripting.read().expect("the script was killed"),
            "ERR user_script:1: Script killed by user",
        );
        let found = asking.command(&["MGET", first, second, other]).render();
        assert_eq!(found, "1) \"1\"\n2) \"1\"\n3) \"1\"");
        assert_eq!(asking.command(&["MSET", first, "3", second, "3"]).render(), "OK");
        assert_nothing_is_out(asking);
        assert_recovers(node, &flags, &[(first, "\"3\""), (second, "\"3\""), (other, "\"1\"")]);
    }
}

/// An executor's thread that does nothing for a while: a slow disk under its writes, a page fault, a machine that is
/// busy.
#[test]
fn a_second_executor_that_stands_still_keeps_its_own_clients_waiting_only() {
    if !has_two_cpus("the test of a second executor that stands still") {
        return;
    }
    let (keys, more) = (keys("k"), keys("more"));
    let ([first, _], [second, other]) = (&keys.first, &keys.second);
    for shape in shapes() {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let held = folder.path().join("held");
        let (node, mut clients) = start(&shape, &format!("hold-storage=while:{}", held.display()), 5);
        let [one, reading, writing, flooding, coordinating] = &mut clients[..] else {
            unreachable!("five were asked for")
        };
        assert_eq!(reading.command(&["SET", second, "1"]).render(), "OK");
        std::fs::write(&held, "1").expect("a file can be made");
        // Of the flood, what has credits is out, and the rest waits with its socket.
        flooding
            .send_bytes(format!("INCR {other}\r\n").repeat(FLOOD).as_bytes())
            .expect("the server reads");
        let is_full = || figure(one, "executor0:", "pending") >= CREDITS;
        assert!(wait_for(is_full), "the credits are not used up");
        assert_the_first_serves(one);
        writing.send(&["SET", second, "2"]).expect("the server reads");
        reading.send(&["GET", second]).expect("the server reads");
        coordinating
            .send(&["MSET", first, "2", &more.second[0], "2"])
            .expect("the server reads");
        // A command for the first behind one for the second has its turn after it, as a connection's replies are in
        // order.
        writing.send(&["SET", &more.first[1], "2"]).expect("the server reads");
        assert_the_first_serves(one);
        for client in [&mut *writing, &mut *reading, &mut *flooding, &mut *coordinating] {
            assert!(
                client.has_no_reply(),
                "it was answered by an executor that stands still"
            );
        }
        std::fs::remove_file(&held).expect("it is there");
        for number in 1..=FLOOD {
            let reply = flooding.read().expect("the executor goes on");
            assert_eq!(reply, Value::Integer(number as i64));
        }
        assert_eq!(coordinating.read().expect("the executor goes on").render(), "OK");
        for _ in 0..2 {
            assert_eq!(writing.read().expect("the executor goes on").render(), "OK");
        }
        let seen = reading.read().expect("the executor goes on").render();
        assert!(seen == "\"1\"" || seen == "\"2\"", "{seen}");
        assert_nothing_is_out(reading);
        let counted = format!("\"{FLOOD}\"");
        let values = [
            (first.as_str(), "\"2\""),
            (second, "\"2\""),
            (other, &counted),
            (&more.second[0], "\"2\""),
            (&more.first[1], "\"2\""),
        ];
        assert_recovers(node, &shape, &values);
    }
}

/// The same, with clients who do not wait so long.
#[test]
fn requests_that_a_second_executor_takes_up_too_late_are_not_run() {
    if !has_two_cpus("the test of a second executor that is late") {
        return;
    }
    const DEADLINE: Duration = Duration::from_millis(100);
    let keys = keys("k");
    let ([first, _], [second, other]) = (&keys.first, &keys.second);
    for shape in shapes() {
        let flags = format!("{shape} --request-timeout-ms {}", DEADLINE.as_millis());
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let held = folder.path().join("held");
        let (node, mut clients) = start(&flags, &format!("hold-storage=while:{}", held.display()), 3);
        let [one, flooding, coordinating] = &mut clients[..] else {
            unreachable!("three were asked for")
        };
        assert_eq!(
            one.command(&["MSET", first, "1", second, "1", other, "0"]).render(),
            "OK"
        );
        std::fs::write(&held, "1").expect("a file can be made");
        let began = Instant::now();
        coordinating
            .send(&["MSET", first, "2", second, "2"])
            .expect("the server reads");
        // Behind the flood it would be read when there are credits again, and be in time.
        assert!(wait_for(|| figure(one, "executor0:", "pending") > 0));
        flooding
            .send_bytes(format!("INCR {other}\r\n").repeat(FLOOD).as_bytes())
            .expect("the server reads");
        assert!(wait_for(|| figure(one, "executor0:", "pending") >= CREDITS));
        assert!(wait_for(|| began.elapsed() > 3 * DEADLINE));
        std::fs::remove_file(&held).expect("it is there");
        // What was read from the socket after that is in time.
        let mut counted = 0;
        for _ in 0..FLOOD {
            match flooding.read().expect("the executor goes on") {
                Value::Integer(number) => {
                    counted += 1;
                    assert_eq!(number, counted);
                }
                reply => assert_error(&reply, "TIMEOUT "),
            }
        }
        assert!(counted < FLOOD as i64, "nothing was late");
        assert_error(&coordinating.read().expect("the executor goes on"), "TIMEOUT ");
        let found = one.command(&["MGET", first, second, other]).render();
        assert_eq!(found, format!("1) \"1\"\n2) \"1\"\n3) \"{counted}\""));
        assert_eq!(coordinating.command(&["MSET", first, "3", second, "3"]).render(), "OK");
        assert_nothing_is_out(one);
        assert_recovers(
            node,
            &flags,
            &[(first, "\"3\""), (second, "\"3\""), (other, &format!("\"{counted}\""))],
        );
    }
}

/// RocksDB's stall: the second executor's thread goes on, its shards take no writes.
#[test]
fn stalled_shards_of_the_second_executor_keep_their_own_writers_waiting_only() {
    if !has_two_cpus("the test of a stalled second executor") {
        return;
    }
    let (keys, more) = (keys("k"), keys("more"));
    let ([first, _], [second, other]) = (&keys.first, &keys.second);
    for shape in shapes() {
        for is_killed in [false, true] {
            let folder = tempfile::tempdir().expect("a temporary directory can be made");
            let stall = folder.path().join("stall");
            let when = stall.display();
            let (node, mut clients) = start(
                &shape,
                &format!("stall-writes@2=while:{when},stall-writes@3=while:{when}"),
                5,
            );
            let [one, reading, writing, flooding, coordinating] = &mut clients[..] else {
                unreachable!("five were asked for")
            };
            assert_eq!(reading.command(&["MSET", second, "1", other, "0"]).render(), "OK");
            std::fs::write(&stall, "").expect("a file can be made");
            writing.send(&["SET", &more.second[0], "2"]).expect("the server reads");
            node.wait_for_state(2, "stalled");
            flooding
                .send_bytes(format!("INCR {other}\r\n").repeat(FLOOD).as_bytes())
                .expect("the server reads");
            coordinating
                .send(&["MSET", first, "2", &more.second[1], "2"])
                .expect("the server reads");
            assert_the_first_serves(one);
            // Reads of the second go on.
            assert_eq!(reading.command(&["GET", second]).render(), "\"1\"");
            assert_eq!(
                reading.command(&["MGET", second, &more.first[0]]).render(),
                "1) \"1\"\n2) (nil)"
            );
            assert!(
                writing.has_no_reply(),
                "a write was answered that a stalled shard has not committed"
            );
            // It waits as well, or is refused because too many do.
            let waits = coordinating.has_no_reply();
            if is_killed {
                // Nobody was told of those writes; of a command over both there is all or nothing.
                let mut node = node;
                node.kill_9();
                node.start(&shape, "");
                let found = node.connect().command(&["MGET", first, &more.second[1]]).render();
                assert!(
                    ["1) (nil)\n2) (nil)", "1) \"2\"\n2) \"2\""].contains(&found.as_str()),
                    "of an MSET there is a part: {found}"
                );
                assert_eq!(node.connect().command(&["GET", second]).render(), "\"1\"");
                continue;
            }
            std::fs::remove_file(&stall).expect("it is there");
            assert_eq!(writing.read().expect("the stall is over").render(), "OK");
            let mut counted = 0;
            for _ in 0..FLOOD {
                match flooding.read().expect("the stall is over") {
                    Value::Integer(number) => {
                        counted += 1;
                        assert_eq!(number, counted);
                    }
                    reply => assert_error(&reply, "BUSY "),
                }
            }
            let both = match coordinating.read().expect("the stall is over") {
                Value::Simple(_) if waits => "\"2\"",
                reply => {
                    assert_error(&reply, "BUSY ");
                    "(nil)"
                }
            };
            assert_nothing_is_out(reading);
            let values = [
                (first.as_str(), both),
                (&more.second[1], both),
                (&more.second[0], "\"2\""),
                (second, "\"1\""),
                (other, &format!("\"{counted}\"")),
            ];
            assert_recovers(node, &shape, &values);
        }
    }
}

/// A failed sync stops a shard: what it was about to acknowledge is not, and it answers nothing until a restart.
#[test]
fn a_stopped_shard_of_the_second_executor_refuses_its_own_clients_only() {
    if !has_two_cpus("the test of a second executor with a stopped shard") {
        return;
    }
    let (keys, more) = (keys("k"), keys("more"));
    let ([first, _], [second, other]) = (&keys.first, &keys.second);
    for shape in shapes() {
        let flags = format!("{shape} --durability always");
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let fail = folder.path().join("fail");
        let (node, mut clients) = start(
            &flags,
            &format!("record-unsynced-log=1,fail-sync@2=while:{}", fail.display()),
            4,
        );
        let [one, asking, writing, waiting] = &mut clients[..] else {
            unreachable!("four were asked for")
        };
        assert_eq!(
            asking.command(&["MSET", first, "1", second, "1", other, "1"]).render(),
            "OK"
        );
        // It waits for a key of either executor.
        let (list, other_list) = (&more.first[0], &more.second[0]);
        waiting
            .send(&["BLPOP", other_list, list, "0"])
            .expect("the server reads");
        assert!(wait_for(|| info_number(asking, "clients", "blocked_clients") == 1));
        std::fs::write(&fail, "").expect("a file can be made");
        writing.send(&["SET", second, "2"]).expect("the server reads");
        assert!(writing.is_closed(), "a write was answered that may be lost");
        node.wait_for_state(2, "unavailable");
        assert_the_first_serves(one);
        for words in [
            &["GET", second][..],
            &["SET", second, "3"],
            &["MGET", first, second],
            &["MSET", first, "3", second, "3"],
            &["DEL", first, second],
            &["RENAME", first, second],
            &["EVAL", "return redis.call('set', KEYS[1], '3')", "2", first, second],
            &["DBSIZE"],
        ] {
            assert_error(&asking.command(words), "SHARDDOWN ");
        }
        for words in [&["MULTI"][..], &["SET", first, "3"], &["SET", second, "3"]] {
            asking.command(words);
        }
        assert_error(&asking.command(&["EXEC"]), "SHARDDOWN ");
        assert_eq!(asking.command(&["GET", first]).render(), "\"1\"", "nothing was done");
        // The executor's other shard has the same log, and stops with it.
        for words in [&["GET", other][..], &["MSET", first, "4", other, "4"]] {
            assert_error(&asking.command(words), "SHARDDOWN ");
        }
        // A client that waits is told of it, or served by the executor that goes on.
        let pushed = asking.command(&["RPUSH", list, "element"]).render();
        assert_eq!(pushed, "(integer) 1");
        match waiting.read().expect("it is not left waiting") {
            Value::Array(_) => assert_eq!(asking.command(&["LLEN", list]), Value::Integer(0)),
            reply => {
                assert_error(&reply, "SHARDDOWN ");
                assert_eq!(asking.command(&["LLEN", list]), Value::Integer(1));
            }
        }
        assert_the_first_serves(one);
        assert_nothing_is_out(one);
        let mut node = node;
        node.kill_9();
        node.lose_all_unsynced();
        node.start(&flags, "");
        let found = node.connect().command(&["MGET", first, second, other]).render();
        assert_eq!(
            found, "1) \"1\"\n2) \"1\"\n3) \"1\"",
            "what was acknowledged, and nothing else"
        );
    }
}
