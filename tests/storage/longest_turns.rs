//! How long anything holds a storage executor: the longest turn, and the longest step beside turns, of commands on
//! large collections and on many keys, as INFO has them.

use super::run_all;
use crate::harness::client::Client;
use crate::harness::observe::executors_sum;
use crate::harness::process::wait_for;
use crate::harness::server::Server;
use crate::harness::value::Value;

/// Members of each collection, and keys that come and go.
const MEMBERS: usize = 200_000;

/// Bytes of a bitmap, and of each command that fills it.
const BITMAP_BYTES: usize = 64 << 20;
const BIT_FILL: usize = 64 << 10;

/// Members of one command.
const AT_ONCE: usize = 500;

/// What nothing may take on a busy machine, with a server that is not optimised much. On a machine of its own it is
/// below five milliseconds; what is not bounded takes hundreds.
const HELD_MAX_US: u64 = 60_000;

/// Runs something, and returns the longest turn and the longest step meanwhile, in microseconds.
fn longest(client: &mut Client, name: &str, run: impl FnOnce(&mut Client)) -> (u64, u64) {
    assert_eq!(client.command(&["CONFIG", "RESETSTAT"]).render(), "OK");
    run(client);
    let longest = (
        executors_sum(client, "longest_turn_us"),
        executors_sum(client, "longest_step_us"),
    );
    println!("{name}: longest turn {} us, longest step {} us", longest.0, longest.1);
    longest
}

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

/// Makes a collection of each type under `{t}hash`, `{t}set`, `{t}sorted` and `{t}list`.
fn fill(client: &mut Client) {
    let members = |command: &'static str, member: fn(usize) -> Vec<String>| {
        (0..MEMBERS).step_by(AT_ONCE).map(move |first| {
            let members = (first..first + AT_ONCE).flat_map(member);
            words(command).into_iter().chain(members).collect::<Vec<String>>()
        })
    };
    let field = |number| vec![format!("f{number}"), format!("v{number}")];
    run_all(client, members("HSET {t}hash", field));
    run_all(client, members("SADD {t}set", |number| vec![format!("m{number}")]));
    let scored = |number: usize| vec![number.to_string(), format!("m{number}")];
    run_all(client, members("ZADD {t}sorted", scored));
    run_all(client, members("RPUSH {t}list", |number| vec![format!("e{number}")]));
}

/// Goes through all keys; returns how many there are.
fn scan(client: &mut Client) -> usize {
    let (mut cursor, mut found) = ("0".to_owned(), 0);
    loop {
        let Value::Array(Some(reply)) = client.command(&["SCAN", &cursor]) else {
            panic!("SCAN answers with an array");
        };
        let Value::Array(Some(keys)) = &reply[1] else {
            panic!("SCAN answers with keys");
        };
        found += keys.len();
        cursor = reply[0].text().expect("a cursor");
        if cursor == "0" {
            return found;
        }
    }
}

#[test]
fn nothing_that_comes_in_slices_holds_an_executor() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    let keys = || (0..MEMBERS).map(|number| format!("key:{number}"));
    let mut held = Vec::new();
    let mut bounded = |name: &str, client: &mut Client, run: &mut dyn FnMut(&mut Client)| {
        let (turn, step) = longest(client, name, run);
        held.push((name.to_owned(), turn.max(step)));
    };
    run_all(
        &mut client,
        keys().map(|key| vec!["SET".to_owned(), key, "v".to_owned()]),
    );
    run_all(&mut client, keys().map(|key| vec!["DEL".to_owned(), key]));
    run_all(&mut client, std::iter::once(words("SET stays v")));
    bounded("SCAN over deleted keys", &mut client, &mut |client| {
        assert_eq!(scan(client), 1)
    });
    bounded("RANDOMKEY among deleted keys", &mut client, &mut |client| {
        for _ in 0..5 {
            assert_eq!(client.command(&["RANDOMKEY"]).render(), "\"stays\"");
        }
    });
    bounded("KEYS over deleted keys", &mut client, &mut |client| {
        assert_eq!(client.command(&["KEYS", "*"]).render(), "1) \"stays\"");
    });
    let deadline_ms = server_time_ms(&mut client) + 8_000;
    let set = |key: String| words(&format!("SET {key} v PXAT {deadline_ms}"));
    run_all(&mut client, keys().map(set));
    bounded("200,000 keys of one deadline", &mut client, &mut |client| {
        assert!(wait_for(|| client.command(&["DBSIZE"]) == Value::Integer(1)));
    });
    run_all(
        &mut client,
        keys().map(|key| vec!["SET".to_owned(), key, "v".to_owned()]),
    );
    for command in ["FLUSHALL", "FLUSHDB"] {
        bounded(command, &mut client, &mut |client| {
            assert_eq!(client.command(&[command]).render(), "OK");
            assert_eq!(client.command(&["DBSIZE"]), Value::Integer(0));
        });
        run_all(
            &mut client,
            keys().map(|key| vec!["SET".to_owned(), key, "v".to_owned()]),
        );
    }
    bounded("KEYS", &mut client, &mut |client| {
        let Value::Array(Some(keys)) = client.command(&["KEYS", "*"]) else {
            panic!("KEYS answers with an array");
        };
        assert_eq!(keys.len(), MEMBERS);
    });
    let over: Vec<_> = held.into_iter().filter(|(_, us)| *us > HELD_MAX_US).collect();
    assert!(over.is_empty(), "held an executor for so many us: {over:?}");
}

fn server_time_ms(client: &mut Client) -> u64 {
    let Value::Array(Some(time)) = client.command(&["TIME"]) else {
        panic!("TIME answers with an array");
    };
    let number = |at: usize| -> u64 { time[at].text().expect("a number").parse().expect("a number") };
    number(0) * 1000 + number(1) / 1000
}

/// Which of `commands`, which may be run again, hold an executor for longer than anything may, and for how long. A
/// machine that stops for a moment does so once; a command that holds an executor does it each time.
fn held_by(client: &mut Client, commands: &[&str]) -> Vec<(String, u64)> {
    let mut held = held_once(client, commands);
    if !held.is_empty() {
        println!("again, since this took long: {held:?}");
        let again = held_once(client, commands);
        held.retain(|(command, _)| again.iter().any(|(other, _)| other == command));
    }
    held
}

fn held_once(client: &mut Client, commands: &[&str]) -> Vec<(String, u64)> {
    let mut held = Vec::new();
    for command in commands {
        let (turn, step) = longest(client, command, |client| {
            let reply = client.command(&words(command));
            assert!(!matches!(reply, Value::Error(_)), "{command}: {}", reply.render());
        });
        held.push(((*command).to_owned(), turn.max(step)));
    }
    held.retain(|(_, us)| *us > HELD_MAX_US);
    held
}

/// Those that go from one collection to another, or combine them, for each type that has them.
#[test]
fn commands_that_make_large_collections_come_in_steps() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    fill(&mut client);
    let mut commands = Vec::new();
    for kind in ["hash", "set", "sorted", "list"] {
        commands.push(format!("COPY {{t}}{kind} {{t}}copy"));
        commands.push("RENAME {t}copy {t}renamed".to_owned());
        commands.push("MOVE {t}renamed 1".to_owned());
        commands.extend(["SELECT 1", "DEL {t}renamed", "SELECT 0"].map(str::to_owned));
    }
    let others = [
        "SUNIONSTORE {t}to {t}set {t}none {t}set",
        "SINTERSTORE {t}to {t}set {t}set",
        "SDIFFSTORE {t}to {t}set {t}none",
        "ZUNIONSTORE {t}to 2 {t}sorted {t}set WEIGHTS 2 3",
        "ZINTERSTORE {t}to 2 {t}sorted {t}set",
        "ZDIFFSTORE {t}to 2 {t}sorted {t}none",
        "ZRANGESTORE {t}to {t}sorted 0 -1",
        "ZRANGESTORE {t}to {t}sorted (5 inf BYSCORE",
        "SORT {t}set ALPHA STORE {t}list",
        "SORT {t}list ALPHA DESC LIMIT 5 10",
        "SUNION {t}set {t}other",
        "SINTER {t}set {t}set",
        "SDIFF {t}set {t}none",
        "SINTERCARD 2 {t}set {t}set",
        "ZUNION 1 {t}sorted WITHSCORES",
        "ZINTER 2 {t}sorted {t}set",
        "ZDIFF 1 {t}sorted",
        "ZINTERCARD 2 {t}sorted {t}set",
    ];
    commands.extend(others.map(str::to_owned));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let held = held_by(&mut client, &commands);
    assert!(held.is_empty(), "held an executor for so many us: {held:?}");
}

/// Those that take many members out, or look at many.
#[test]
fn commands_that_remove_or_seek_many_members_come_in_steps() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    fill(&mut client);
    let places = (0..MEMBERS).step_by(AT_ONCE).map(|first| {
        let triples = (first..first + AT_ONCE).flat_map(|number| {
            let degrees = |modulus: usize| format!("{:.3}", (number * 7919 % modulus) as f64 / 1000.0);
            [degrees(90_000), degrees(80_000), format!("p{number}")]
        });
        words("GEOADD {t}places")
            .into_iter()
            .chain(triples)
            .collect::<Vec<String>>()
    });
    run_all(&mut client, places);
    let again = |kind: &str, commands: &[&str]| {
        let copies = commands.iter().flat_map(|command| {
            let copy = format!("COPY {{t}}{kind} {{t}}to REPLACE");
            [copy, (*command).to_owned()]
        });
        copies.collect::<Vec<String>>()
    };
    let mut commands = again(
        "sorted",
        &[
            "ZREMRANGEBYRANK {t}to 0 -1",
            "ZREMRANGEBYRANK {t}to 5 -5",
            "ZREMRANGEBYSCORE {t}to (5 150000",
            "ZREMRANGEBYSCORE {t}to -inf inf",
            "ZREMRANGEBYLEX {t}to - +",
            "ZPOPMIN {t}to 150000",
            "ZPOPMAX {t}to 200000",
            "ZMPOP 1 {t}to MAX COUNT 150000",
        ],
    );
    commands.extend(again(
        "list",
        &[
            "LTRIM {t}to 1 0",
            "LTRIM {t}to 80000 -1",
            "LTRIM {t}to 150000 -1",
            "LTRIM {t}to 10 150000",
            "LPOP {t}to 150000",
            "RPOP {t}to 200000",
            "LMPOP 1 {t}to LEFT COUNT 150000",
            "LPOS {t}to e190000",
            "LPOS {t}to nothing COUNT 0 RANK -1",
            "LINSERT {t}to BEFORE e100000 new",
            "LREM {t}to 0 e100000",
        ],
    ));
    commands.extend(again("set", &["SPOP {t}to 150000", "SPOP {t}to 200000"]));
    commands.extend([
        "GEOSEARCH {t}places FROMLONLAT 45 40 BYRADIUS 9000 km DESC WITHDIST".to_owned(),
        "GEOSEARCH {t}places FROMLONLAT 45 40 BYBOX 9000 9000 km COUNT 10".to_owned(),
        "GEOSEARCHSTORE {t}to {t}places FROMLONLAT 45 40 BYBOX 9000 9000 km".to_owned(),
    ]);
    let filled = (0..BITMAP_BYTES / BIT_FILL).map(|number| {
        let bits = "\u{1}".repeat(BIT_FILL);
        words(&format!("SETRANGE {{t}}bits {} {bits}", number * BIT_FILL))
    });
    run_all(&mut client, filled);
    let others = [
        "BITCOUNT {t}bits",
        "BITCOUNT {t}bits 77 400000000 BIT",
        "BITPOS {t}bits 1 -3 -1 BIT",
        "BITPOS {t}bits 0 7 7 BIT",
        "COPY {t}bits {t}to REPLACE",
        "RENAME {t}to {t}renamed",
        "BITCOUNT {t}renamed",
    ];
    commands.extend(others.map(str::to_owned));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let held = held_by(&mut client, &commands);
    assert!(held.is_empty(), "held an executor for so many us: {held:?}");
}

#[test]
#[ignore = "prints how long commands hold an executor that do not come in slices yet"]
fn commands_on_large_collections_hold_an_executor_for_so_long() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    fill(&mut client);
    let mut commands = Vec::new();
    for kind in ["hash", "set", "sorted", "list"] {
        commands.push(format!("COPY {{t}}{kind} {{t}}copy"));
        commands.push("DEL {t}copy".to_owned());
        commands.push(format!("COPY {{t}}{kind} {{t}}copy"));
        commands.push("UNLINK {t}copy".to_owned());
        commands.push(format!("COPY {{t}}{kind} {{t}}copy"));
        commands.push("PEXPIRE {t}copy 1".to_owned());
        commands.push("DBSIZE".to_owned());
    }
    let others = [
        "LRANGE {t}list 0 -1",
        "HGETALL {t}hash",
        "SMEMBERS {t}set",
        "ZRANGE {t}sorted 0 -1",
        "ZREMRANGEBYRANK {t}sorted 0 -1",
        "LTRIM {t}list 1 0",
        "FLUSHALL",
    ];
    commands.extend(others.map(str::to_owned));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    println!("longer than anything may: {:?}", held_by(&mut client, &commands));
}
