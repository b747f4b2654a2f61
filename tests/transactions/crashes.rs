//! A process that dies somewhere in the middle of commands on several shards: after the restart they are there whole or
//! not at all, and those that were acknowledged are there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{SHARDS, key_per_shard, mget, mset, one_executor, run};
use crate::harness::client::Client;
use crate::harness::process::wait_for;
use crate::harness::progress::Progress;
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;
use crate::storage::{Node, four_shards_on_two_executors, key_on, seed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// More writes than the commands under test make.
const WRITES_MAX: u64 = 60;

/// One restart in so many is followed by another, which must find nothing left to do.
const SECOND_LOOKS: u64 = 4;

/// Places where a transaction dies by name, beside each of its writes.
const POINTS: [&str; 5] = [
    "kill-after-redo-staged",
    "kill-before-apply",
    "kill-after-apply",
    "kill-before-forget",
    "kill-after-forget",
];

/// What is killed, and what is there afterwards.
struct Victim {
    flags: String,
    power_fails: bool,
    node: Node,
    keys: Vec<String>,
    /// An element is moved from the one list to the other.
    pair: [String; 2],
    round: u64,
    was_half_done: u64,
}

/// How one life of the victim has ended.
#[derive(PartialEq, Eq)]
enum End {
    Died,
    Survived,
}

impl Victim {
    fn new(flags: &str, power_fails: bool) -> Victim {
        let lists = key_per_shard("list");
        Victim {
            flags: flags.to_owned(),
            power_fails,
            node: Node::new(),
            keys: key_per_shard("k"),
            pair: [lists[0].clone(), lists[3].clone()],
            round: 0,
            was_half_done: 0,
        }
    }

    /// What `LMOVE` and `MSET` have left: the values, and where the element is.
    fn contents(&self) -> (Vec<String>, i64, i64) {
        let mut client = self.node.connect();
        let Value::Array(Some(values)) = client.command(&mget(&self.keys)) else {
            panic!("MGET answers an array");
        };
        let mut len = |key: &str| match run(&mut client, &format!("LLEN {key}")) {
            Value::Integer(count) => count,
            other => panic!("LLEN {key}: {other:?}"),
        };
        (
            values.iter().map(Value::render).collect(),
            len(&self.pair[0]),
            len(&self.pair[1]),
        )
    }

    /// Lives once, with a fault that is named as `point` and happens for the `time`th time while the commands under
    /// test run; then looks at what is left.
    fn lives_until(&mut self, point: &str, time: u64) -> End {
        self.round += 1;
        let record = if self.power_fails { "record-unsynced-log=1," } else { "" };
        let switch = self.node.switch(&format!("dying-{}", self.round));
        let fault = format!("{record}{point}={time}:{}", switch.when());
        self.node.start(&self.flags, &fault);
        let (old, new) = (format!("old{}", self.round), format!("new{}", self.round));
        let mut client = self.node.connect();
        assert_eq!(client.command(&mset(&self.keys, &old)).render(), "OK");
        run(&mut client, &format!("DEL {} {}", self.pair[0], self.pair[1]));
        run(&mut client, &format!("RPUSH {} element", self.pair[0]));
        switch.on();
        let both = [
            mset(&self.keys, &new),
            vec!["LMOVE", &self.pair[0], &self.pair[1], "LEFT", "LEFT"],
        ];
        let acknowledged = both.map(|words| {
            let reply = client.send(&words).and_then(|()| client.read());
            reply.is_ok_and(|reply| !matches!(reply, Value::Error(_)))
        });
        // The redo records are removed a little later than the replies.
        let is_late = point.ends_with("forget");
        let survived =
            !is_late && acknowledged == [true, true] && client.send(&["PING"]).and_then(|()| client.read()).is_ok();
        match survived {
            true => self.node.kill_9(),
            false => self.node.wait_for_exit(),
        }
        self.restart();
        let (values, left, moved) = self.contents();
        let shown = format!("{point} {time}: {values:?}, {left} and {moved}, acknowledged {acknowledged:?}");
        assert!(
            values.iter().all(|value| *value == values[0]),
            "half of a write: {shown}"
        );
        assert_eq!(left + moved, 1, "an element is lost or doubled: {shown}");
        let expected = match acknowledged[0] {
            true => vec![&new],
            false => vec![&old, &new],
        };
        assert!(
            expected.iter().any(|value| values[0] == format!("\"{value}\"")),
            "an acknowledged write is lost: {shown}"
        );
        assert!(!acknowledged[1] || moved == 1, "an acknowledged move is lost: {shown}");
        self.was_half_done += u64::from(!acknowledged[0] && values[0] == format!("\"{new}\""));
        self.looks_again();
        match survived {
            true => End::Survived,
            false => End::Died,
        }
    }

    fn restart(&mut self) {
        if self.power_fails {
            self.node.lose_all_unsynced();
        }
        let record = if self.power_fails { "record-unsynced-log=1" } else { "" };
        self.node.start(&self.flags, record);
    }

    /// A start after the recovery finds nothing to do, and later writes stand.
    fn looks_again(&mut self) {
        if self.round.is_multiple_of(SECOND_LOOKS) {
            let mut client = self.node.connect();
            assert_eq!(client.command(&mset(&self.keys, "newer")).render(), "OK");
            self.node.kill_9();
            self.restart();
            let (values, ..) = self.contents();
            assert!(
                values.iter().all(|value| value == "\"newer\""),
                "an old record came back: {values:?}"
            );
        }
        self.node.kill_9();
    }
}

/// Dies at every `step`th write from `first` on: the others are another test's. Returns how often what was not answered
/// was there in the end.
fn dies_at_writes(flags: &str, power_fails: bool, (first, step): (u64, u64)) -> u64 {
    let mut victim = Victim::new(flags, power_fails);
    for write in (first..).step_by(step as usize) {
        assert!(write < WRITES_MAX, "the transaction does not end");
        let point = match write % 2 {
            0 => "kill-before-commit",
            _ => "kill-after-commit",
        };
        if victim.lives_until(point, write.div_ceil(2)) == End::Survived {
            break;
        }
    }
    victim.was_half_done
}

fn assert_some_were_half_done(times: u64) {
    assert!(times > 0, "no death came between the decision and the reply");
}

#[test]
fn a_killed_process_leaves_all_or_nothing_over_executors() {
    assert_some_were_half_done(dies_at_writes(&four_shards_on_two_executors(), false, (1, 1)));
}

#[test]
fn a_killed_process_leaves_all_or_nothing_over_shards_of_one_executor() {
    assert_some_were_half_done(dies_at_writes(&one_executor(), false, (1, 1)));
}

#[test]
fn a_power_loss_leaves_all_or_nothing_and_all_that_was_acknowledged() {
    let flags = format!("{} --durability always", four_shards_on_two_executors());
    assert_some_were_half_done(dies_at_writes(&flags, true, (1, 2)));
}

#[test]
fn a_power_loss_leaves_all_or_nothing_on_one_executor() {
    // A frame that was not synced is gone as a whole, or is there as a whole by chance.
    let flags = format!("{} --durability always", one_executor());
    dies_at_writes(&flags, true, (1, 1));
}

/// A way to write to several shards of an executor without naming them.
#[test]
fn a_power_loss_leaves_all_or_nothing_of_a_script_that_declares_no_keys() {
    let mut random = StdRng::seed_from_u64(seed(
        "a_power_loss_leaves_all_or_nothing_of_a_script_that_declares_no_keys",
    ));
    let flags = format!("{} --durability always", one_executor());
    let keys = key_per_shard("k");
    let script = "for i = 1, 4 do redis.call('SET', ARGV[i], ARGV[5]) end return 1";
    let eval = |value: &'static str| {
        let keys = keys.iter().map(String::as_str);
        ["EVAL", script, "0"]
            .into_iter()
            .chain(keys)
            .chain([value])
            .collect::<Vec<_>>()
    };
    let mut node = Node::new();
    let (mut was_half_done, mut survived, mut write) = (0, false, 0);
    while !survived {
        write += 1;
        for round in 0..4 {
            let switch = node.switch("dying");
            let fault = format!("record-unsynced-log=1,kill-after-commit={write}:{}", switch.when());
            node.start(&flags, &fault);
            let mut client = node.connect();
            assert_eq!(client.command(&eval("old")), Value::Integer(1));
            switch.on();
            let reply = client.send(&eval("new")).and_then(|()| client.read());
            let is_acknowledged = reply.is_ok_and(|reply| reply == Value::Integer(1));
            survived = is_acknowledged && client.send(&["PING"]).and_then(|()| client.read()).is_ok();
            match survived {
                true => node.kill_9(),
                false => node.wait_for_exit(),
            }
            // Once all that was written has come to the disk, so that chance does not decide what the test has seen.
            node.lose_power(|_, contents| match round {
                0 => contents - 1,
                _ => random.random_range(0..contents),
            });
            switch.off();
            node.start(&flags, "record-unsynced-log=1");
            let found = node.connect().command(&mget(&keys)).render();
            let all = |value: &str| {
                let lines: Vec<String> = (1..=4).map(|place| format!("{place}) \"{value}\"")).collect();
                lines.join("\n")
            };
            let is_whole = found == all("new") || !is_acknowledged && found == all("old");
            assert!(is_whole, "write {write}, acknowledged {is_acknowledged}:\n{found}");
            was_half_done += u64::from(!is_acknowledged && found == all("new"));
            node.kill_9();
        }
    }
    assert!(was_half_done > 0, "no death came between the decision and the reply");
}

#[test]
fn a_process_that_dies_at_a_named_point_leaves_all_or_nothing() {
    let mut victim = Victim::new(&four_shards_on_two_executors(), false);
    for point in POINTS {
        let end = victim.lives_until(point, 1);
        // On one CPU there is one executor, where nobody follows another.
        let is_passed = !point.ends_with("apply") || allowed_cpus().len() > 1;
        assert!(end == End::Died || !is_passed, "nothing has come to {point}");
    }
    let always = format!("{} --durability always", four_shards_on_two_executors());
    let mut victim = Victim::new(&always, true);
    for point in &POINTS[1..4] {
        victim.lives_until(point, 1);
    }
}

/// What the kernel writes back as a whole.
const PAGE_LEN: usize = 4096;

/// Longer than coordinators wait before they see to redo records and markers.
const DELETIONS_WITHIN: Duration = Duration::from_millis(300);

/// Where `text` is in the first segment that an executor has written in its first start.
fn places_of(node: &Node, executor: usize, text: &[u8]) -> Vec<usize> {
    let log = node.data_directory().join(format!("log/1-{executor}/0000000001.log"));
    // There is none before the first frame.
    let log = std::fs::read(log).unwrap_or_default();
    let places = log.windows(text.len()).enumerate();
    places.filter(|(_, found)| *found == text).map(|(at, _)| at).collect()
}

/// A redo record may outlive its deletion when power fails; the log of another executor keeps what came later. Nothing
/// is synced here.
#[test]
fn a_power_loss_does_not_apply_an_old_part_over_newer_writes() {
    if allowed_cpus().len() < 2 {
        return;
    }
    let flags = format!("{} --durability none", four_shards_on_two_executors());
    let mut node = Node::new();
    node.start(&flags, "record-unsynced-log=1");
    let mut client = node.connect();
    let filler = "x".repeat(4 * PAGE_LEN);
    // The page in which the record is deleted must be behind the record's own.
    let (deleted_at, key) = (0..20)
        .find_map(|number| {
            let keys = [0, 3].map(|shard| key_on(shard, SHARDS, &format!("key{number}:")));
            let known = places_of(&node, 0, b"redo").len();
            client.send(&mset(&keys, "old")).expect("the server reads");
            client.send(&["SET", &keys[0], &filler]).expect("the server reads");
            (0..2).for_each(|_| assert_eq!(client.read().expect("a reply").render(), "OK"));
            assert!(wait_for(|| places_of(&node, 0, b"redo").len() == known + 2));
            let pages: Vec<usize> = places_of(&node, 0, b"redo")
                .iter()
                .map(|place| place / PAGE_LEN)
                .collect();
            (pages[known] + 3 < pages[known + 1]).then(|| (pages[known + 1], keys[1].clone()))
        })
        .expect("a record that is deleted after another write");
    assert_eq!(client.command(&["SET", &key, "newer"]).render(), "OK");
    let began = Instant::now();
    let others = [0, 3].map(|shard| key_on(shard, SHARDS, "other"));
    // Each may be the one with which a marker goes. A checkpoint, some seconds later, would sync all.
    while began.elapsed() < DELETIONS_WITHIN {
        assert_eq!(client.command(&mset(&others, "1")).render(), "OK");
    }
    node.kill_9();
    let mut page = 0;
    node.lose_power(|executor, contents| {
        page += usize::from(executor == 0);
        match executor == 0 && page > deleted_at {
            true => 0,
            false => contents - 1,
        }
    });
    node.start(&flags, "");
    assert_eq!(node.connect().command(&["GET", &key]).render(), "\"newer\"");
}

/// Clients of the load, each with keys of its own.
const CLIENTS: usize = 4;

/// Elements that all clients move about.
const ELEMENTS: usize = 12;

const ROUNDS: usize = 3;

/// Commands that the clients were told of when a round is killed.
const ROUND_COMMANDS: std::ops::Range<u64> = 1..2_000;

/// Writes numbers from `first` on to all of a client's keys, by MSET and EXEC by turns, and moves elements between the
/// lists; until the server is gone. Returns the last number that was acknowledged and the last sent.
fn write_until_killed(address: SocketAddr, client: usize, first: u64, seed: u64, progress: &Progress) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(seed + client as u64);
    let (keys, lists) = (key_per_shard(&format!("{client}:")), key_per_shard("list"));
    let Ok(mut connection) = Client::connect(address) else {
        return (first - 1, first - 1);
    };
    for number in first.. {
        let text = number.to_string();
        let mut pick = || lists.choose(&mut random).expect("there are lists").clone();
        let (from, to) = (pick(), pick());
        let mut lines: Vec<Vec<&str>> = match number % 2 {
            0 => vec![mset(&keys, &text)],
            _ => {
                let sets = keys.iter().map(|key| vec!["SET", key, &text]);
                let all = std::iter::once(vec!["MULTI"]).chain(sets);
                all.chain([vec!["EXEC"]]).collect()
            }
        };
        lines.push(vec!["LMOVE", &from, &to, "LEFT", "RIGHT"]);
        if lines.iter().any(|words| connection.send(words).is_err()) {
            return (number - 1, number);
        }
        for (place, words) in lines.iter().enumerate() {
            match connection.read() {
                Ok(Value::Error(text)) => panic!("{words:?} was answered {text}"),
                Ok(_) => progress.add(),
                // The last but one is MSET's or EXEC's.
                Err(_) => return (number - u64::from(place + 1 < lines.len()), number),
            }
        }
    }
    unreachable!("the numbers do not end")
}

fn killed_under_load(flags: &str, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut node = Node::new();
    let lists = key_per_shard("list");
    node.start(flags, "");
    for element in 0..ELEMENTS {
        run(
            &mut node.connect(),
            &format!("RPUSH {} e{element}", lists[element % lists.len()]),
        );
    }
    let mut first = [1; CLIENTS];
    let mut any_acknowledged = false;
    for round in 0..ROUNDS {
        let address = node.address();
        let progress = Progress::default();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (first, seed, progress) = (first[client], seed + round as u64 * 100, progress.clone());
                std::thread::spawn(move || write_until_killed(address, client, first, seed, &progress))
            })
            .collect();
        progress.wait_for(random.random_range(ROUND_COMMANDS));
        node.kill_9();
        node.start(flags, "");
        let mut connection = node.connect();
        for (client, thread) in clients.into_iter().enumerate() {
            let (acknowledged, sent) = thread.join().expect("a client does not panic");
            let Value::Array(Some(found)) = connection.command(&mget(&key_per_shard(&format!("{client}:")))) else {
                panic!("MGET answers an array");
            };
            assert!(
                found.iter().all(|value| *value == found[0]),
                "{flags}: a transaction is there in part: {found:?}"
            );
            let found: u64 = found[0]
                .text()
                .map_or(0, |text| text.parse().expect("only numbers are written"));
            assert!(
                (acknowledged..=sent).contains(&found),
                "{flags}: {found} was found, {acknowledged} acknowledged and {sent} sent"
            );
            any_acknowledged |= acknowledged >= first[client];
            first[client] = found + 1;
        }
        let mut elements: Vec<String> = Vec::new();
        for list in &lists {
            let Value::Array(Some(found)) = run(&mut connection, &format!("LRANGE {list} 0 -1")) else {
                panic!("LRANGE answers an array");
            };
            elements.extend(found.iter().map(Value::render));
        }
        elements.sort();
        let mut expected: Vec<String> = (0..ELEMENTS).map(|element| format!("\"e{element}\"")).collect();
        expected.sort();
        assert_eq!(elements, expected, "{flags}: elements are lost or doubled");
    }
    assert!(any_acknowledged, "no client was served before the crash");
}

#[test]
fn kill_9_under_load_leaves_all_or_nothing_of_each_transaction() {
    let seed = seed("kill_9_under_load_leaves_all_or_nothing_of_each_transaction");
    killed_under_load(&four_shards_on_two_executors(), seed);
    killed_under_load(&format!("{} --durability always", four_shards_on_two_executors()), seed);
    killed_under_load(&one_executor(), seed);
}

/// What one EXEC writes before and after it swaps two databases is found where it belongs, or nothing of it has
/// happened.
fn dies_at_a_swap(flags: &str, faults: &[(&str, u64)]) {
    let keys = key_per_shard("k");
    for (point, time) in faults {
        let mut node = Node::new();
        let switch = node.switch("dying");
        node.start(flags, &format!("{point}={time}:{}", switch.when()));
        let mut client = node.connect();
        assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
        switch.on();
        let set = |value: &'static str| keys.iter().map(move |key| vec!["SET", key, value]);
        let lines = std::iter::once(vec!["MULTI"]).chain(set("before"));
        let lines: Vec<_> = lines
            .chain([vec!["SWAPDB", "0", "1"]])
            .chain(set("after"))
            .chain([vec!["EXEC"]])
            .collect();
        // The server may die before it has read all of them.
        for words in &lines {
            if client.send(words).is_err() {
                break;
            }
        }
        node.wait_for_exit();
        node.start(flags, "");
        let mut client = node.connect();
        let mut values_of = |database: &str| {
            run(&mut client, &format!("SELECT {database}"));
            let Value::Array(Some(values)) = client.command(&mget(&keys)) else {
                panic!("MGET answers an array");
            };
            values.iter().map(Value::render).collect::<Vec<_>>()
        };
        let all = |value: &str| vec![value.to_owned(); keys.len()];
        let found = (values_of("0"), values_of("1"));
        let (nothing, everything) = ((all("\"old\""), all("(nil)")), (all("\"after\""), all("\"before\"")));
        assert!(
            found == nothing || found == everything,
            "{flags}: {point} {time}: {found:?}"
        );
        node.kill_9();
    }
}

#[test]
fn a_swap_inside_a_transaction_is_there_with_its_writes_or_not_at_all() {
    let faults = [
        ("kill-after-redo-staged", 1),
        ("kill-after-commit", 1),
        ("kill-after-commit", 2),
        ("kill-after-commit", 3),
        ("kill-before-forget", 1),
    ];
    dies_at_a_swap(&four_shards_on_two_executors(), &faults);
    // One executor needs no redo record.
    dies_at_a_swap(&one_executor(), &[("kill-before-commit", 1), ("kill-after-commit", 1)]);
}

/// A command on several shards of one executor may have found what was staged in its turn and not committed. Where it
/// survives a death, that does too.
#[test]
fn what_a_command_has_seen_of_its_turn_survives_with_it() {
    let cpu = crate::harness::server::allowed_cpus()[0];
    let flags = format!("--shards {SHARDS} --network-cores {cpu} --storage-cores {cpu}");
    let keys = key_per_shard("k");
    let (list, copied) = (&key_per_shard("list")[3], &key_per_shard("copied")[3]);
    let (with_list, copy) = (&keys[0], &keys[1]);
    let mut survivors = 0;
    for write in 1.. {
        assert!(write < WRITES_MAX, "the pipeline does not end");
        let mut node = Node::new();
        let switch = node.switch("dying");
        node.start(&flags, &format!("kill-after-commit={write}:{}", switch.when()));
        let mut client = node.connect();
        switch.on();
        let pipeline = format!(
            "RPUSH {list} first\r\nMULTI\r\nRPUSH {list} second\r\nSET {with_list} written\r\nEXEC\r\n\
             SET {copied} value\r\nCOPY {copied} {copy}\r\n"
        );
        client.send_bytes(pipeline.as_bytes()).expect("the server reads");
        let survived = (0..7).all(|_| client.read().is_ok());
        match survived {
            true => node.kill_9(),
            false => node.wait_for_exit(),
        }
        node.start(&flags, "");
        let mut client = node.connect();
        let mut answer = |line: &str| run(&mut client, line).render();
        if answer(&format!("EXISTS {with_list}")) == "(integer) 1" {
            let elements = answer(&format!("LRANGE {list} 0 -1"));
            assert_eq!(elements, "1) \"first\"\n2) \"second\"", "death at write {write}");
            survivors += 1;
        }
        if answer(&format!("EXISTS {copy}")) == "(integer) 1" {
            let original = answer(&format!("GET {copied}"));
            assert_eq!(original, "\"value\"", "death at write {write}");
        }
        if survived {
            break;
        }
    }
    assert!(survivors > 1, "no death came after the transaction's decision");
}
