//! Commands that come in steps: what others see of them meanwhile, and what a crash, a compaction or a full disk in the
//! midst of one leaves.

use corelane::storage::database::Column;

use super::contents::with_database;
use super::{Node, shard_folders};
use crate::harness::client::Client;
use crate::harness::observe::executors_sum;
use crate::harness::process::wait_for;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::value::Value;

/// Members of a set: enough for hundreds of steps.
const MEMBERS: i64 = 40_000;

/// Members of one command.
const AT_ONCE: i64 = 1_000;

/// Commands come in steps of so many members, each in a turn of its own.
const STEPS: &str = "step-members=16";

fn fill_set(client: &mut Client, key: &str, members: std::ops::Range<i64>) {
    for first in members.clone().step_by(AT_ONCE as usize) {
        let mut command = vec!["SADD".to_owned(), key.to_owned()];
        command.extend((first..members.end.min(first + AT_ONCE)).map(|number| format!("member:{number}")));
        assert!(wait_for(|| !client.command(&command).render().contains("BUSY")));
    }
    assert_eq!(card(client, key), members.end - members.start);
}

fn card(client: &mut Client, key: &str) -> i64 {
    match client.command(&["SCARD", key]) {
        Value::Integer(card) => card,
        other => panic!("SCARD was answered {}", other.render()),
    }
}

fn ask(client: &mut Client, command: &str) -> String {
    client.command(&command.split(' ').collect::<Vec<_>>()).render()
}

#[test]
fn others_see_all_of_a_command_or_nothing_and_go_on_meanwhile() {
    let mut node = Node::new();
    node.start("--shards 1", STEPS);
    let (mut client, mut reader, mut other) = (node.connect(), node.connect(), node.connect());
    fill_set(&mut client, "{t}from", 0..MEMBERS);
    assert_eq!(ask(&mut client, "SADD {t}to old"), "(integer) 1");
    for command in ["SUNIONSTORE {t}to {t}from {t}none", "COPY {t}from {t}to REPLACE"] {
        let before = executors_sum(&mut other, "stepped_requests");
        client
            .send(&command.split(' ').collect::<Vec<_>>())
            .expect("the server reads");
        assert!(wait_for(|| executors_sum(&mut other, "stepped_requests") > before));
        // Whoever reads what it makes waits, and what it reads can be read and not written.
        for _ in 0..20 {
            assert_eq!(ask(&mut other, "SET another 1"), "OK");
            assert_eq!(ask(&mut other, "SISMEMBER {t}from member:1"), "(integer) 1");
        }
        reader.send(&["SCARD", "{t}to"]).expect("the server reads");
        other.send(&["SADD", "{t}from", "newer"]).expect("the server reads");
        let reply = client.read().expect("the server answers").render();
        assert!(
            reply == format!("(integer) {MEMBERS}") || reply == "(integer) 1",
            "{reply}"
        );
        assert_eq!(
            reader.read().expect("an answer").render(),
            format!("(integer) {MEMBERS}")
        );
        assert_eq!(other.read().expect("an answer").render(), "(integer) 1");
        assert_eq!(ask(&mut client, "SREM {t}from newer"), "(integer) 1");
        assert_eq!(ask(&mut client, "SISMEMBER {t}to newer"), "(integer) 0");
        assert_eq!(ask(&mut client, "SADD {t}to old"), "(integer) 1");
    }
}

/// The members of what is being made lie on the disk before the record that names them: compactions leave them alone.
#[test]
fn what_a_command_makes_is_whole_although_the_disk_has_some_of_it_long_before() {
    for kills in [false, true] {
        let mut node = Node::new();
        node.start("--shards 1 --log-size-max 8mb", &format!("{STEPS},seal-log=every:10"));
        let mut client = node.connect();
        fill_set(&mut client, "{t}from", 0..MEMBERS);
        assert_eq!(ask(&mut client, "COPY {t}from {t}to"), "(integer) 1");
        assert_eq!(ask(&mut client, "RENAME {t}to {t}renamed"), "OK");
        assert_eq!(card(&mut client, "{t}renamed"), MEMBERS);
        if kills {
            node.kill_9();
        } else {
            node.terminate();
        }
        node.start("--shards 1", "");
        let mut client = node.connect();
        assert_eq!(card(&mut client, "{t}renamed"), MEMBERS);
        let all = ask(&mut client, "SINTERCARD 2 {t}renamed {t}from");
        assert_eq!(all, format!("(integer) {MEMBERS}"));
        assert_eq!(ask(&mut client, "EXISTS {t}to"), "(integer) 0");
    }
}

#[test]
fn a_crash_in_the_midst_of_a_command_leaves_what_was_there_before() {
    let mut node = Node::new();
    // The frames of what it reads are few.
    node.start(
        "--shards 1",
        &format!("{STEPS},seal-log=every:10,kill-after-commit=1500"),
    );
    let mut client = node.connect();
    fill_set(&mut client, "{t}from", 0..MEMBERS);
    assert_eq!(ask(&mut client, "SADD {t}to old"), "(integer) 1");
    client
        .send(&["SUNIONSTORE", "{t}to", "{t}from"])
        .expect("the server reads");
    assert!(client.read().is_err(), "the server dies before it is over");
    node.wait_for_exit();
    node.start("--shards 1", "");
    let mut client = node.connect();
    assert_eq!(ask(&mut client, "SMEMBERS {t}to"), "1) \"old\"");
    assert_eq!(card(&mut client, "{t}from"), MEMBERS);
    assert_eq!(
        ask(&mut client, "SUNIONSTORE {t}to {t}from"),
        format!("(integer) {MEMBERS}")
    );
    assert_eq!(card(&mut client, "{t}to"), MEMBERS);
    node.kill_9();
    for folder in shard_folders(&node.data_directory()) {
        with_database(&folder, false, |database| {
            database.set_in_the_making(&[]);
            database.compact(Column::Data);
        });
    }
    node.start("--shards 1", "");
    assert_eq!(card(&mut node.connect(), "{t}to"), MEMBERS);
}

#[test]
fn a_command_that_meets_a_full_disk_fails_and_leaves_what_was_there_before() {
    let mut node = Node::new();
    node.start("--shards 1", &format!("{STEPS},disk-full=500"));
    let mut client = node.connect();
    fill_set(&mut client, "{t}from", 0..MEMBERS);
    assert_eq!(ask(&mut client, "SADD {t}to old"), "(integer) 1");
    let reply = ask(&mut client, "SUNIONSTORE {t}to {t}from");
    assert!(reply.contains("(error)"), "{reply}");
    assert_eq!(ask(&mut client, "SMEMBERS {t}to"), "1) \"old\"");
    let again = || ask(&mut node.connect(), "SUNIONSTORE {t}to {t}from") == format!("(integer) {MEMBERS}");
    assert!(wait_for(again));
    assert_eq!(card(&mut client, "{t}to"), MEMBERS);
}

/// Some thousand members, so that commands come in steps as they are, and redis-server's answers beside them.
#[test]
fn commands_on_large_collections_answer_as_redis_does() {
    let Some(redis) = RedisOracle::start() else { return };
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut clients = [server.connect(), Client::connect(redis.address()).expect("it accepts")];
    for client in &mut clients {
        for first in (0..5_000).step_by(500) {
            let numbers = || (first..first + 500).map(|number: i64| number * 7919 % 100_000);
            let words = |command: &str, members: Vec<String>| {
                let words = command.split(' ').map(str::to_owned);
                words.chain(members).collect::<Vec<String>>()
            };
            let names = numbers().map(|number| format!("m{number}")).collect();
            client.command(&words("SADD {t}set", names));
            let others = numbers().map(|number| format!("m{}", number / 2 * 2)).collect();
            client.command(&words("SADD {t}other", others));
            let scored = numbers().flat_map(|number| [(number % 50).to_string(), format!("m{number}")]);
            client.command(&words("ZADD {t}sorted", scored.collect()));
            client.command(&words(
                "RPUSH {t}list",
                numbers().map(|number| number.to_string()).collect(),
            ));
            let fields = numbers().flat_map(|number| [format!("f{number}"), number.to_string()]);
            client.command(&words("HSET {t}hash", fields.collect()));
        }
    }
    let commands = "COPY {t}hash {t}to; HGETALL {t}to; PEXPIREAT {t}list 33177117420000; RENAME {t}list {t}to; \
        PEXPIRETIME {t}to; EXISTS {t}list; LRANGE {t}to 0 -1; COPY {t}to {t}list REPLACE; LRANGE {t}list 100 200; \
        COPY {t}sorted {t}to DB 1; COPY {t}sorted {t}to DB 1; MOVE {t}to 1; RENAMENX {t}to {t}set; \
        SUNIONSTORE {t}to {t}set {t}other {t}none; SMEMBERS {t}to; SINTERSTORE {t}to {t}to {t}other; SMEMBERS {t}to; \
        SDIFFSTORE {t}to {t}set {t}other; SMEMBERS {t}to; SDIFFSTORE {t}to {t}set {t}set; EXISTS {t}to; \
        SUNION {t}set {t}other; SINTER {t}set {t}other; SDIFF {t}other {t}set; \
        SINTERCARD 2 {t}set {t}other LIMIT 1500; \
        ZUNIONSTORE {t}to 2 {t}sorted {t}other WEIGHTS 2 0.5 AGGREGATE MAX; ZRANGE {t}to 0 -1 WITHSCORES; \
        ZINTERSTORE {t}to 2 {t}sorted {t}other; ZRANGE {t}to 0 -1 WITHSCORES; ZCARD {t}to; ZRANK {t}to m7918; \
        ZDIFFSTORE {t}to 2 {t}sorted {t}other; ZRANGE {t}to 0 -1 WITHSCORES; \
        ZRANGESTORE {t}to {t}sorted 10 4000 REV; ZRANGE {t}to 0 -1 WITHSCORES; \
        ZRANGESTORE {t}to {t}sorted (3 40 BYSCORE LIMIT 7 2000; ZRANGE {t}to 0 -1 WITHSCORES; \
        ZUNION 2 {t}sorted {t}set WITHSCORES; ZINTER 2 {t}other {t}sorted; ZDIFF 2 {t}sorted {t}other WITHSCORES; \
        ZINTERCARD 2 {t}sorted {t}other LIMIT 1700; SORT {t}list; SORT {t}list DESC LIMIT 3000 1500; \
        SORT {t}set ALPHA; SORT {t}set; SORT {t}sorted BY nosort DESC LIMIT 2000 1600; SORT {t}list BY none GET #; \
        SORT {t}list ALPHA DESC STORE {t}to; LRANGE {t}to 0 -1; SORT {t}list GET # GET none STORE {t}to; \
        LRANGE {t}to 3000 3100; SUNIONSTORE {t}to {t}set {t}list; RENAME {t}none {t}to; \
        SINTERSTORE {t}to {t}none {t}set; EXISTS {t}to; DBSIZE";
    for command in commands.split(';').map(str::trim) {
        let words: Vec<&str> = command.split(' ').collect();
        let [ours, theirs] = clients.each_mut().map(|client| client.command(&words));
        let has_no_order = matches!(words[0], "SMEMBERS" | "SUNION" | "SINTER" | "SDIFF" | "HGETALL");
        let lines = |value: Value| match value {
            Value::Array(Some(values)) if has_no_order => {
                let mut lines: Vec<String> = values.iter().map(Value::render).collect();
                lines.sort();
                lines
            }
            other => vec![other.render()],
        };
        assert!(
            lines(ours) == lines(theirs),
            "{command} is answered otherwise than by Redis"
        );
    }
    assert!(executors_sum(&mut clients[0], "stepped_requests") > 25);
}
