//! Replies of many members come in pieces: complete, as the collection was when it was asked for, in their order, while others
//! are served.

use super::{expect, one_executor, raw, request};
use crate::harness::client::Client;
use crate::harness::observe::executors_sum;
use crate::harness::process::wait_for;
use crate::harness::server::Server;
use crate::harness::value::Value;
use std::collections::HashMap;
use std::io::Write;

/// With [`VALUE_BYTES`] far more than a socket's buffers hold, so that a client which does not read is sent a part only.
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
