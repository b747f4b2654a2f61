//! Small hashes and sets lie in their records, and whoever uses them cannot tell when they do not any more.

use super::Node;
use crate::harness::client::Client;
use crate::harness::value::Value;
use crate::transactions::run;

/// More bytes than are packed.
const LONG_VALUE_BYTES: usize = 600;

/// More fields than are packed.
const MANY_FIELDS: usize = 129;

/// Runs a command that must be answered so.
fn expect(client: &mut Client, line: &str, reply: &str) {
    assert_eq!(run(client, line).render(), reply, "{line}");
}

/// The texts of a reply, in its order.
fn texts(client: &mut Client, line: &str) -> Vec<String> {
    match run(client, line) {
        Value::Array(Some(values)) => values.iter().map(|value| value.text().expect("a text")).collect(),
        other => panic!("{line} was answered {}", other.render()),
    }
}

/// The collections that are in memory beside their records.
fn resident(node: &Node) -> u64 {
    let count = node.info("memory", "resident_collections", "");
    count.parse().expect("a number")
}

#[test]
fn small_hashes_and_sets_lie_in_their_records_and_keep_their_order() {
    let mut node = Node::started("--shards 1");
    let mut client = node.connect();
    for field in ["name", "visits", "last", "gone"] {
        run(&mut client, &format!("HSET session {field} {field}"));
    }
    expect(&mut client, "HDEL session gone", "(integer) 1");
    expect(&mut client, "HSET session name longer-than-before", "(integer) 0");
    expect(&mut client, "HSET session gone again", "(integer) 1");
    expect(&mut client, "SADD tags z y x", "(integer) 3");
    expect(&mut client, "SREM tags y", "(integer) 1");
    expect(&mut client, "SADD tags y z", "(integer) 1");
    let fields = [
        "name",
        "longer-than-before",
        "visits",
        "visits",
        "last",
        "last",
        "gone",
        "again",
    ];
    for _ in 0..2 {
        assert_eq!(resident(&node), 0, "they take nothing beside their records");
        assert_eq!(texts(&mut client, "HGETALL session"), fields);
        assert_eq!(texts(&mut client, "SMEMBERS tags"), ["z", "x", "y"]);
        node.kill_9();
        node.start("--shards 1", "");
        client = node.connect();
    }
    expect(&mut client, "HDEL session name visits last gone", "(integer) 4");
    expect(&mut client, "EXISTS session", "(integer) 0");
}

/// Each way in which a collection may become too large for its record, or have what has no place there.
#[test]
fn collections_that_do_not_fit_their_records_any_more_are_what_they_were() {
    let mut node = Node::started("--shards 1");
    let mut client = node.connect();
    let (long, many) = (
        "v".repeat(LONG_VALUE_BYTES),
        (0..MANY_FIELDS).map(|field| format!("f{field:03}")),
    );
    let many: Vec<String> = many.collect();
    for key in ["deadline", "added", "changed", "counted"] {
        expect(&mut client, &format!("HSET {key} b 1 a 2 c 3"), "(integer) 3");
        expect(&mut client, &format!("EXPIREAT {key} 4102444800"), "(integer) 1");
    }
    expect(&mut client, "SADD set b a c", "(integer) 3");
    assert_eq!(resident(&node), 0);
    expect(
        &mut client,
        "HEXPIREAT deadline 4102444801 FIELDS 1 a",
        "1) (integer) 1",
    );
    // The same deadline again is a change to who watches.
    let mut watching = node.connect();
    run(&mut watching, "WATCH deadline");
    run(&mut client, "HEXPIREAT deadline 4102444801 FIELDS 1 a");
    run(&mut watching, "MULTI");
    expect(&mut watching, "EXEC", "(nil)");
    expect(&mut client, &format!("HSET added d {long}"), "(integer) 1");
    expect(&mut client, &format!("HSET changed a {long}"), "(integer) 0");
    for field in &many {
        expect(&mut client, &format!("HSET counted {field} {field}"), "(integer) 1");
        expect(&mut client, &format!("SADD set {field}"), "(integer) 1");
    }
    assert_eq!(resident(&node), 5);
    run(&mut client, &format!("HDEL counted {}", many.join(" ")));
    run(&mut client, &format!("SREM set {}", many.join(" ")));
    for _ in 0..2 {
        assert_eq!(texts(&mut client, "HGETALL deadline"), ["b", "1", "a", "2", "c", "3"]);
        expect(
            &mut client,
            "HEXPIRETIME deadline FIELDS 2 a b",
            "1) (integer) 4102444801\n2) (integer) -1",
        );
        assert_eq!(
            texts(&mut client, "HGETALL added"),
            ["b", "1", "a", "2", "c", "3", "d", &long]
        );
        assert_eq!(texts(&mut client, "HGETALL changed"), ["b", "1", "a", &long, "c", "3"]);
        assert_eq!(texts(&mut client, "HGETALL counted"), ["b", "1", "a", "2", "c", "3"]);
        assert_eq!(texts(&mut client, "SMEMBERS set"), ["b", "a", "c"]);
        for key in ["deadline", "added", "changed", "counted"] {
            expect(&mut client, &format!("EXPIRETIME {key}"), "(integer) 4102444800");
        }
        node.kill_9();
        node.start("--shards 1", "");
        client = node.connect();
    }
}
