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

/// Makes a sorted set of [`MEMBERS`] members and as long a list, in so many commands of [`AT_ONCE`].
fn fill_sorted_and_list(client: &mut Client) {
    for first in (0..MEMBERS).step_by(AT_ONCE as usize) {
        let mut sorted = vec!["ZADD".to_owned(), "{t}sorted".to_owned()];
        let mut list = vec!["RPUSH".to_owned(), "{t}list".to_owned()];
        for number in first..first + AT_ONCE {
            sorted.extend([number.to_string(), format!("member:{number}")]);
            list.push(format!("element:{number}"));
        }
        for command in [sorted, list] {
            assert!(wait_for(|| !client.command(&command).render().contains("BUSY")));
        }
    }
    assert_eq!(ask(client, "ZCARD {t}sorted"), format!("(integer) {MEMBERS}"));
    assert_eq!(ask(client, "LLEN {t}list"), format!("(integer) {MEMBERS}"));
}

/// Removals, and what is left by each.
const REMOVALS: [(&str, &str, &str); 6] = [
    ("ZREMRANGEBYSCORE {t}sorted 100 (39900", "ZCARD {t}sorted", "200"),
    ("ZREMRANGEBYRANK {t}sorted 0 29999", "ZCARD {t}sorted", "10000"),
    ("ZPOPMAX {t}sorted 30000", "ZCARD {t}sorted", "10000"),
    ("LTRIM {t}list 10000 29999", "LLEN {t}list", "20000"),
    ("LPOP {t}list 30000", "LLEN {t}list", "10000"),
    ("SPOP {t}from 30000", "SCARD {t}from", "10000"),
];

/// The first and the last of what the list, and the set in its order, have.
fn ends(client: &mut Client) -> Vec<String> {
    let commands = [
        "ZRANGE {t}sorted 0 0 WITHSCORES",
        "ZRANGE {t}sorted -1 -1 WITHSCORES",
        "LINDEX {t}list 0",
        "LINDEX {t}list -1",
    ];
    commands.iter().map(|command| ask(client, command)).collect()
}

#[test]
fn others_see_a_removal_whole_or_not_at_all_and_go_on_meanwhile() {
    for (command, count, left) in REMOVALS {
        let mut node = Node::new();
        node.start("--shards 1", STEPS);
        let (mut client, mut reader, mut other) = (node.connect(), node.connect(), node.connect());
        fill_sorted_and_list(&mut client);
        fill_set(&mut client, "{t}from", 0..MEMBERS);
        let before = executors_sum(&mut other, "stepped_requests");
        client
            .send(&command.split(' ').collect::<Vec<_>>())
            .expect("the server reads");
        assert!(wait_for(|| executors_sum(&mut other, "stepped_requests") > before));
        reader
            .send(&count.split(' ').collect::<Vec<_>>())
            .expect("the server reads");
        for _ in 0..20 {
            assert_eq!(ask(&mut other, "SET another 1"), "OK");
        }
        assert_eq!(reader.read().expect("an answer").render(), format!("(integer) {left}"));
        assert!(!client.read().expect("an answer").render().contains("(error)"));
    }
}

/// Fills the collections of [`REMOVALS`] and sends one of these, which is not answered yet.
fn begin_removal(client: &mut Client, command: &str) {
    fill_sorted_and_list(client);
    fill_set(client, "{t}from", 0..MEMBERS);
    client
        .send(&command.split(' ').collect::<Vec<_>>())
        .expect("the server reads");
}

#[test]
fn a_removal_that_a_crash_has_interrupted_is_gone_on_with() {
    for (command, count, left) in REMOVALS {
        let mut node = Node::new();
        node.start(
            "--shards 1",
            &format!("{STEPS},seal-log=every:10,kill-after-commit=1000"),
        );
        let mut client = node.connect();
        begin_removal(&mut client, command);
        assert!(client.read().is_err(), "the server dies before {command} is over");
        node.wait_for_exit();
        // Once more in the midst of it.
        node.start("--shards 1", &format!("{STEPS},kill-after-commit=200"));
        node.wait_for_exit();
        node.start("--shards 1", STEPS);
        let mut client = node.connect();
        assert_eq!(ask(&mut client, count), format!("(integer) {left}"), "{command}");
        let after = ends(&mut client);
        assert_eq!(ask(&mut client, "ZADD {t}sorted 500 new"), "(integer) 1");
        assert!(!ask(&mut client, "RPUSH {t}list new").contains("(error)"));
        node.kill_9();
        // It is over, and takes nothing that was added since.
        node.start("--shards 1", "");
        let mut client = node.connect();
        assert_eq!(ask(&mut client, "ZSCORE {t}sorted new"), "\"500\"");
        assert_eq!(ask(&mut client, "RPOP {t}list"), "\"new\"");
        assert_eq!(ask(&mut client, "ZREM {t}sorted new"), "(integer) 1");
        assert_eq!(ends(&mut client), after, "{command}");
    }
}

#[test]
fn a_removal_that_meets_a_full_disk_goes_on_when_there_is_room() {
    for (command, count, left) in REMOVALS {
        let mut node = Node::new();
        node.start("--shards 1", &format!("{STEPS},disk-full=1000"));
        let mut client = node.connect();
        begin_removal(&mut client, command);
        assert!(client.read().is_err(), "{command} is neither answered nor an error");
        let mut client = node.connect();
        assert_eq!(ask(&mut client, count), format!("(integer) {left}"), "{command}");
        node.terminate();
        node.start("--shards 1", "");
        assert_eq!(
            ask(&mut node.connect(), count),
            format!("(integer) {left}"),
            "{command}"
        );
    }
}

/// What is asked of collections of thousands, and of bitmaps of millions of bits.
const COMMANDS_ON_LARGE: &str = "COPY {t}hash {t}to; HGETALL {t}to; \
    PEXPIREAT {t}list 33177117420000; RENAME {t}list {t}to; \
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
    SINTERSTORE {t}to {t}none {t}set; EXISTS {t}to; DBSIZE; \
    COPY {t}sorted {t}to; ZREMRANGEBYRANK {t}to 10 -20; ZRANGE {t}to 0 -1 WITHSCORES; \
    COPY {t}sorted {t}to REPLACE; ZREMRANGEBYRANK {t}to 1500 -1500; ZRANGE {t}to 0 -1 WITHSCORES; \
    COPY {t}sorted {t}to REPLACE; ZREMRANGEBYSCORE {t}to (7 40; ZRANGE {t}to 0 -1 WITHSCORES; \
    ZREMRANGEBYSCORE {t}to -inf +inf; EXISTS {t}to; COPY {t}other {t}to; \
    ZADD {t}to 5 a 5 b; ZUNIONSTORE {t}to 1 {t}other; ZREMRANGEBYLEX {t}to [m2 (m7; ZRANGE {t}to 0 -1; \
    ZREMRANGEBYLEX {t}to - +; EXISTS {t}to; COPY {t}sorted {t}to; ZPOPMIN {t}to 2000; ZPOPMAX {t}to 1500; \
    ZRANGE {t}to 0 -1 WITHSCORES; ZMPOP 2 {t}none {t}to MIN COUNT 1100; ZCARD {t}to; ZPOPMIN {t}to 5000; \
    EXISTS {t}to; COPY {t}sorted {t}to; ZMPOP 1 {t}to MAX COUNT 9000; EXISTS {t}to; DEL {t}list; \
    SORT {t}set BY nosort LIMIT 0 0 STORE {t}none; SORT {t}sorted STORE {t}list ALPHA; \
    COPY {t}list {t}to; PEXPIREAT {t}to 33177117420000; LTRIM {t}to 1000 2500; LRANGE {t}to 0 -1; \
    PEXPIRETIME {t}to; COPY {t}list {t}to REPLACE; LTRIM {t}to 1500 -500; LRANGE {t}to 0 -1; \
    LPOP {t}to 1200; RPOP {t}to 1100; LRANGE {t}to 0 -1; LMPOP 2 {t}none {t}to RIGHT COUNT 5000; EXISTS {t}to; \
    COPY {t}list {t}to; LINSERT {t}to BEFORE m5000 new; LINSERT {t}to AFTER new newer; LINSERT {t}to AFTER no x; \
    LINDEX {t}to 2000; LLEN {t}to; LPOS {t}to new; LPOS {t}to new RANK -1; LPOS {t}to m9999 MAXLEN 3000; \
    LPOS {t}to m9999 COUNT 0; LRANGE {t}to 0 -1; COPY {t}to {t}copy; RPUSH {t}copy a b a b a b; \
    LPUSH {t}copy b a b a b a; LPOS {t}copy a RANK -2 COUNT 3; LREM {t}copy 2 b; LREM {t}copy -4 a; \
    LINSERT {t}copy BEFORE m5000 a; LREM {t}copy 0 a; LREM {t}copy 1 m4000; LREM {t}copy 0 nothing; \
    LRANGE {t}copy 0 -1; SCARD {t}set; EXISTS {t}copy; DBSIZE; \
    SETBIT {t}bits 50000007 1; SETBIT {t}bits 9000 1; SETBIT {t}bits 40000000 1; BITCOUNT {t}bits; \
    BITCOUNT {t}bits 1125 6250000; BITCOUNT {t}bits 9000 50000006 BIT; BITCOUNT {t}bits -5 -9; \
    BITPOS {t}bits 1; BITPOS {t}bits 1 1126; BITPOS {t}bits 1 40000001 -1 BIT; BITPOS {t}bits 0 -1; \
    BITPOS {t}bits 1 9001 39999999 BIT; RENAME {t}bits {t}to; BITCOUNT {t}to; COPY {t}to {t}bits; \
    SETBIT {t}to 9000 0; BITCOUNT {t}to; BITCOUNT {t}bits; STRLEN {t}bits; GETRANGE {t}bits 1120 1130; \
    OBJECT ENCODING {t}bits; GEOADD {t}geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania; \
    ZUNIONSTORE {t}all 2 {t}geo {t}sorted; GEOSEARCH {t}all FROMMEMBER Palermo BYRADIUS 30000 km; \
    GEOSEARCH {t}all FROMMEMBER Palermo BYBOX 500 500 km ASC WITHDIST WITHHASH WITHCOORD; \
    GEOSEARCHSTORE {t}to {t}all FROMMEMBER Palermo BYRADIUS 30000 km; ZRANGE {t}to 0 -1 WITHSCORES; \
    GEOSEARCH {t}all FROMMEMBER Catania BYRADIUS 30000 km COUNT 2 ANY";

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
    for command in COMMANDS_ON_LARGE.split(';').map(str::trim) {
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
    assert!(executors_sum(&mut clients[0], "stepped_requests") > 50);
}

/// What is popped is each time another member, and every one is as likely.
#[test]
fn random_members_that_are_popped_in_steps_are_gone_and_no_others() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    fill_set(&mut client, "{t}from", 0..MEMBERS);
    assert_eq!(ask(&mut client, "COPY {t}from {t}left"), "(integer) 1");
    let Value::Array(Some(popped)) = client.command(&["SPOP", "{t}left", "20000"]) else {
        panic!("SPOP answers with an array");
    };
    assert_eq!(card(&mut client, "{t}left"), MEMBERS - 20_000);
    let numbers: Vec<usize> = popped.iter().map(member_number).collect();
    let mut different = numbers.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 20_000);
    for popped in popped.chunks(AT_ONCE as usize) {
        let names = popped.iter().map(|member| member.text().expect("a name"));
        let command: Vec<String> = ["SMISMEMBER", "{t}left"]
            .iter()
            .map(ToString::to_string)
            .chain(names)
            .collect();
        assert!(!client.command(&command).render().contains("(integer) 1"));
    }
    // Of each tenth of the members about a half: 2,000, and the standard deviation is 32.
    let mut tenths = [0_i64; 10];
    numbers
        .iter()
        .for_each(|number| tenths[number / (MEMBERS as usize / 10)] += 1);
    assert!(tenths.iter().all(|count| (count - 2_000).abs() < 200), "{tenths:?}");
    // And in the order in which they were popped nothing goes up or down with the names.
    let rises = numbers.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(
        (9_600..10_400).contains(&rises),
        "{rises} of 20,000 are greater than the one before"
    );
}

fn member_number(member: &Value) -> usize {
    let name = member.text().expect("a name");
    name.trim_start_matches("member:").parse().expect("a number")
}
