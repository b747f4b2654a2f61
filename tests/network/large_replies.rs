//! Replies of many members come in pieces: complete, as the collection was when it was asked for, in their order, while
//! others are served.

use super::{expect, one_executor, raw, request};
use crate::harness::client::Client;
use crate::harness::observe::{executors_sum, info_number};
use crate::harness::process::wait_for;
use crate::harness::server::Server;
use crate::harness::value::Value;
use std::collections::HashMap;
use std::io::Write;

/// With [`VALUE_BYTES`] far more than a socket's buffers hold, so that a client which does not read is sent a part
/// only.
const FIELDS: usize = 45_000;
const VALUE_BYTES: usize = 300;

fn value(round: char, field: usize) -> String {
    format!("{round}{field:0VALUE_BYTES$}")
}

/// Sets all fields, many with each command.
fn set_all(client: &mut Client, round: char) {
    let fields: Vec<usize> = (0..FIELDS).collect();
    for some in fields.chunks(1000) {
        let mut command = vec!["HSET".to_owned(), "big".to_owned()];
        for field in some {
            command.extend([format!("field{field}"), value(round, *field)]);
        }
        client.command(&command);
    }
}

fn assert_all_fields(reply: &Value, round: char) {
    let Value::Array(Some(elements)) = reply else {
        panic!("the reply is {}", reply.render())
    };
    assert_eq!(elements.len(), FIELDS * 2);
    let mut found = HashMap::new();
    for pair in elements.chunks(2) {
        found.insert(pair[0].text().expect("a field"), pair[1].text().expect("a value"));
    }
    for field in 0..FIELDS {
        assert_eq!(
            found.get(&format!("field{field}")),
            Some(&value(round, field)),
            "field{field}"
        );
    }
}

#[test]
fn a_large_reply_shows_the_collection_as_it_was_and_keeps_its_place_among_others() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut writer = server.connect();
    set_all(&mut writer, 'a');
    assert_eq!(writer.command(&["SET", "small", "1"]).render(), "OK");
    let mut reader = server.connect();
    for command in [
        &["GET", "small"][..],
        &["HGETALL", "big"],
        &["INCR", "small"],
        &["HGETALL", "big"],
        &["PING"],
    ] {
        reader.send(command).expect("the server reads");
    }
    // Nobody reads: both replies have begun and wait.
    assert!(wait_for(|| executors_sum(&mut writer, "replies_begun") == 2));
    set_all(&mut writer, 'b');
    assert_eq!(writer.command(&["HGET", "big", "field7"]).text(), Some(value('b', 7)));
    assert_eq!(writer.command(&["DEL", "big"]).render(), "(integer) 1");
    assert_eq!(reader.read().expect("a reply").render(), "\"1\"");
    assert_all_fields(&reader.read().expect("a reply"), 'a');
    assert_eq!(reader.read().expect("a reply").render(), "(integer) 2");
    assert_all_fields(&reader.read().expect("a reply"), 'a');
    assert_eq!(reader.read().expect("a reply").render(), "PONG");
    assert!(wait_for(|| executors_sum(&mut writer, "replies_begun") == 0));
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_large_reply_leaves_nothing_behind() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut control = server.connect();
    set_all(&mut control, 'a');
    let mut leaving = raw(&server);
    leaving
        .write_all(&request(&["HGETALL", "big"]).repeat(3))
        .expect("the server reads");
    expect(&mut leaving, format!("*{}\r\n", FIELDS * 2).as_bytes());
    assert!(wait_for(|| executors_sum(&mut control, "replies_begun") == 3));
    drop(leaving);
    assert!(wait_for(|| executors_sum(&mut control, "replies_begun") == 0));
    assert_eq!(
        control.command(&["HLEN", "big"]).render(),
        format!("(integer) {FIELDS}")
    );
}

/// What a large reply is read from may not be deleted before it is sent: a client that takes no more of it must not
/// keep that for ever.
#[test]
fn a_client_that_stops_taking_a_large_reply_is_disconnected_after_a_while() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--large-reply-timeout", "1"])
        .start();
    let mut control = server.connect();
    set_all(&mut control, 'a');
    let mut silent = raw(&server);
    silent
        .write_all(&request(&["HGETALL", "big"]))
        .expect("the server reads");
    expect(&mut silent, format!("*{}\r\n", FIELDS * 2).as_bytes());
    assert!(wait_for(|| executors_sum(&mut control, "replies_begun") == 1));
    assert!(wait_for(|| executors_sum(&mut control, "replies_begun") == 0));
    let disconnections = info_number(&mut control, "stats", "client_output_buffer_limit_disconnections");
    assert_eq!(disconnections, 1);
    // One that only has nothing to read stays, and so does one that reads.
    silent = raw(&server);
    silent
        .write_all(&request(&["HGETALL", "big"]))
        .expect("the server reads");
    assert_all_fields(&control.command(&["HGETALL", "big"]), 'a');
    assert!(wait_for(|| executors_sum(&mut control, "replies_begun") == 0));
    assert_eq!(control.command(&["PING"]).render(), "PONG");
    drop(silent);
}

#[test]
fn keys_of_a_large_database_are_counted_first_and_come_from_every_shard() {
    const KEYS: usize = 20_000;
    for flags in ["--shards 1".to_owned(), crate::storage::four_shards_on_two_executors()] {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let server = Server::builder().flags(&flags).start();
        let mut client = server.connect();
        for some in (0..KEYS).collect::<Vec<_>>().chunks(500) {
            let mut command = vec!["MSET".to_owned()];
            some.iter()
                .for_each(|key| command.extend([format!("key{key}"), "1".to_owned()]));
            assert_eq!(client.command(&command).render(), "OK");
        }
        let mut keys = |pattern| match client.command(&["KEYS", pattern]) {
            Value::Array(Some(keys)) => keys.len(),
            reply => panic!("the reply is {}", reply.render()),
        };
        assert_eq!(keys("*"), KEYS);
        assert_eq!(keys("key1???"), 1000);
        assert_eq!(keys("nothing*"), 0);
        assert_eq!(keys("key19999"), 1);
    }
}

/// Members of the sorted set and entries of the stream below: many pieces.
const MEMBERS: usize = 9_000;

/// Something in front of each number, so that a whole reply is far more than a socket's buffers hold.
fn long(number: usize) -> String {
    format!("{number:0VALUE_BYTES$}")
}

/// Fills `z`, a sorted set whose scores are half of the members' numbers, and `x`, a stream whose entries are at every
/// other id.
fn fill_ordered(client: &mut Client) {
    for some in (0..MEMBERS).collect::<Vec<_>>().chunks(500) {
        let mut command = vec!["ZADD".to_owned(), "z".to_owned()];
        some.iter()
            .for_each(|number| command.extend([(number / 2).to_string(), long(*number)]));
        assert_eq!(client.command(&command).render(), format!("(integer) {}", some.len()));
    }
    for number in 0..MEMBERS {
        let id = format!("{}-1", 2 * number);
        client
            .send(&["XADD", "x", &id, "field", &long(number)])
            .expect("the server reads");
    }
    for _ in 0..MEMBERS {
        client.read().expect("a reply");
    }
}

/// The numbers in what a range answered, and how many other texts are in it.
fn numbers(reply: &Value) -> (Vec<usize>, usize) {
    let Value::Array(Some(elements)) = reply else {
        match reply {
            Value::Bulk(Some(text)) if text.len() == VALUE_BYTES => {
                let text = String::from_utf8(text.clone()).expect("digits");
                return (vec![text.parse().expect("a number")], 0);
            }
            _ => return (Vec::new(), 1),
        }
    };
    let parts = elements.iter().map(numbers);
    parts.fold((Vec::new(), 0), |(mut numbers, others), (more, other)| {
        numbers.extend(more);
        (numbers, others + other)
    })
}

#[test]
fn ranges_of_sorted_sets_and_streams_that_come_in_pieces_are_complete_and_in_order() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut client = server.connect();
    fill_ordered(&mut client);
    let last = MEMBERS - 1;
    let forward = |from: usize, to: usize| (from..=to).collect::<Vec<_>>();
    let backward = |from: usize, to: usize| (from..=to).rev().collect::<Vec<_>>();
    let check = |client: &mut Client, command: &[&str], expected: Vec<usize>, others_for_each: usize| {
        let (found, others) = numbers(&client.command(command));
        assert_eq!(found.len(), expected.len(), "{command:?}");
        assert!(found == expected, "{command:?} is not in order");
        assert_eq!(others, expected.len() * others_for_each, "{command:?}");
    };
    let client = &mut client;
    for (protocol, scores) in [("2", 1), ("3", 1)] {
        client.command(&["HELLO", protocol]);
        check(client, &["ZRANGE", "z", "0", "-1"], forward(0, last), 0);
        check(
            client,
            &["ZRANGE", "z", "100", "-2", "WITHSCORES"],
            forward(100, last - 1),
            scores,
        );
        check(client, &["ZRANGE", "z", "100", "-2", "REV"], backward(1, last - 100), 0);
        check(
            client,
            &["ZREVRANGE", "z", "0", "-1", "WITHSCORES"],
            backward(0, last),
            scores,
        );
        check(client, &["ZRANGEBYSCORE", "z", "(50", "4000"], forward(102, 8001), 0);
        check(
            client,
            &["ZRANGEBYSCORE", "z", "-inf", "inf", "WITHSCORES", "LIMIT", "7", "5000"],
            forward(7, 5006),
            scores,
        );
        check(
            client,
            &["ZRANGE", "z", "inf", "50", "BYSCORE", "REV", "LIMIT", "1000", "-1"],
            backward(100, last - 1000),
            0,
        );
        check(
            client,
            &["ZREVRANGEBYSCORE", "z", "4000", "(50", "LIMIT", "3", "100000"],
            backward(102, 7998),
            0,
        );
    }
    client.command(&["HELLO", "2"]);
    // An entry's id and its field are no numbers of ours.
    check(client, &["XRANGE", "x", "-", "+"], forward(0, last), 2);
    check(client, &["XREVRANGE", "x", "+", "-"], backward(0, last), 2);
    check(client, &["XRANGE", "x", "-", "+", "COUNT", "5000"], forward(0, 4999), 2);
    check(client, &["XRANGE", "x", "100", "16000"], forward(50, 8000), 2);
    check(
        client,
        &["XRANGE", "x", "(100-1", "+", "COUNT", "6000"],
        forward(51, 6050),
        2,
    );
    check(client, &["XREVRANGE", "x", "16000", "100"], backward(50, 8000), 2);
    check(
        client,
        &["XREVRANGE", "x", "16000", "100", "COUNT", "1500"],
        backward(6501, 8000),
        2,
    );
    for (protocol, others) in [("2", 1), ("3", 1)] {
        client.command(&["HELLO", protocol]);
        // The stream's name is no number either.
        let reply = client.command(&["XREAD", "COUNT", "7000", "STREAMS", "x", "100"]);
        let stream = match reply {
            Value::Array(Some(mut streams)) => streams.remove(0),
            Value::Map(mut streams) => {
                let (name, entries) = streams.remove(0);
                Value::Array(Some(vec![name, entries]))
            }
            reply => panic!("the reply is {}", reply.render()),
        };
        let (found, others_found) = numbers(&stream);
        assert!(found == forward(50, 7049));
        assert_eq!(others_found, 2 * found.len() + others);
    }
    client.command(&["HELLO", "2"]);
    // Deleted entries are not counted.
    client.command(&["XDEL", "x", "0-1", "2000-1", "17998-1"]);
    let mut left = forward(1, last - 1);
    left.retain(|number| *number != 1000);
    check(client, &["XRANGE", "x", "-", "+"], left.clone(), 2);
    left.retain(|number| *number >= 10);
    check(client, &["XRANGE", "x", "20", "+"], left, 2);
    assert_eq!(executors_sum(client, "replies_begun"), 0);
}

#[test]
fn members_by_name_come_in_pieces_too() {
    const NAMES: usize = 5_000;
    let server = Server::builder().flags(&one_executor()).start();
    let mut client = server.connect();
    for some in (0..NAMES).collect::<Vec<_>>().chunks(500) {
        let mut command = vec!["ZADD".to_owned(), "z".to_owned()];
        some.iter()
            .for_each(|number| command.extend(["0".to_owned(), format!("name{number:05}")]));
        client.command(&command);
    }
    let mut names = |command: &[&str]| match client.command(command) {
        Value::Array(Some(names)) => names.iter().filter_map(Value::text).collect::<Vec<_>>(),
        reply => panic!("the reply is {}", reply.render()),
    };
    let expected = |from: usize, to: usize| (from..to).map(|number| format!("name{number:05}")).collect::<Vec<_>>();
    assert_eq!(names(&["ZRANGEBYLEX", "z", "-", "+"]), expected(0, NAMES));
    assert_eq!(
        names(&[
            "ZRANGE",
            "z",
            "[name00100",
            "(name04000",
            "BYLEX",
            "LIMIT",
            "50",
            "3000"
        ]),
        expected(150, 3150)
    );
    let mut backwards = expected(0, NAMES);
    backwards.reverse();
    assert_eq!(names(&["ZREVRANGEBYLEX", "z", "+", "-"]), backwards);
}

#[test]
fn large_ranges_show_what_was_there_when_they_were_asked_for() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut writer = server.connect();
    fill_ordered(&mut writer);
    let mut reader = server.connect();
    for _ in 0..3 {
        for command in [
            &["ZRANGE", "z", "0", "-1"][..],
            &["XRANGE", "x", "-", "+"],
            &["XRANGE", "x", "2", "+"],
        ] {
            reader.send(command).expect("the server reads");
        }
    }
    // Nobody reads: they have begun and wait.
    assert!(wait_for(|| executors_sum(&mut writer, "replies_begun") >= 6));
    writer.command(&["ZREMRANGEBYRANK", "z", "10", "-10"]);
    writer.command(&["XTRIM", "x", "MAXLEN", "5"]);
    for _ in 0..3 {
        for first in [0, 0, 1] {
            let (found, _) = numbers(&reader.read().expect("a reply"));
            assert!(found == (first..MEMBERS).collect::<Vec<_>>());
        }
    }
    assert!(wait_for(|| executors_sum(&mut writer, "replies_begun") == 0));
}

#[test]
fn few_large_members_come_in_pieces_too() {
    const LARGE: usize = 40;
    let server = Server::builder().flags(&one_executor()).start();
    let mut writer = server.connect();
    let element = "e".repeat(1_000_000);
    for _ in 0..LARGE {
        writer.command(&["RPUSH", "l", &element]);
    }
    let mut reader = raw(&server);
    reader
        .write_all(&request(&["LRANGE", "l", "0", "-1"]))
        .expect("the server reads");
    assert!(wait_for(|| executors_sum(&mut writer, "replies_begun") == 1));
    expect(&mut reader, format!("*{LARGE}\r\n").as_bytes());
    for _ in 0..LARGE {
        expect(&mut reader, format!("$1000000\r\n{element}\r\n").as_bytes());
    }
    assert!(wait_for(|| executors_sum(&mut writer, "replies_begun") == 0));
}
