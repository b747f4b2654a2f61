//! Collections whose keys lie on several storage executors: no command loses any of them.

use super::Shape;
use crate::harness::client::Client;
use crate::harness::server::Server;
use crate::harness::value::Value;

/// Keys that lie on four different shards of four, and so on two executors; on one if the machine has one CPU.
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

fn run(client: &mut Client, line: &str) -> Value {
    client.command(&line.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn members_move_between_executors_whole() {
    let server = Server::builder().flags(&Shape::FourShardsBothRoles.flags()).start();
    let mut client = server.connect();
    for from in KEYS {
        for to in KEYS.into_iter().filter(|to| *to != from) {
            for command in ["RENAME", "RENAMENX", "COPY", "SMOVE", "SUNIONSTORE", "SINTERSTORE"] {
                one_member_is_somewhere_after(command, (from, to), &mut client);
            }
        }
    }
}

/// Moves or copies a set of one member from key to key: it is at both places or one, or nothing has changed.
fn one_member_is_somewhere_after(command: &str, (from, to): (&str, &str), client: &mut Client) {
    run(client, "FLUSHALL");
    run(client, &format!("SADD {from} member"));
    run(client, &format!("EXPIRE {from} 1000"));
    let line = match command {
        "SMOVE" => format!("SMOVE {from} {to} member"),
        "SUNIONSTORE" | "SINTERSTORE" => format!("{command} {to} {from}"),
        _ => format!("{command} {from} {to}"),
    };
    let reply = run(client, &line);
    assert!(!matches!(reply, Value::Error(_)), "{line}: {reply:?}");
    let at_from = run(client, &format!("SISMEMBER {from} member")) == Value::Integer(1);
    let at_to = run(client, &format!("SISMEMBER {to} member")) == Value::Integer(1);
    let stays = !matches!(command, "RENAME" | "RENAMENX" | "SMOVE");
    assert_eq!((at_from, at_to), (stays, true), "{line}");
    let keys = Value::Integer(i64::from(at_from) + i64::from(at_to));
    assert_eq!(run(client, "DBSIZE"), keys, "{line}");
    let keeps_deadline = matches!(command, "RENAME" | "RENAMENX" | "COPY");
    let deadline = Value::Integer(if keeps_deadline { 1000 } else { -1 });
    assert_eq!(run(client, &format!("TTL {to}")), deadline, "{line}");
}

/// One call, whichever storage executors the keys lie on, as long as there are fewer of them than COUNT.
#[test]
fn a_handful_of_keys_comes_in_one_scan() {
    for shape in [Shape::FourShardsBothRoles, Shape::OneShard] {
        let server = Server::builder().flags(&shape.flags()).start();
        let mut client = server.connect();
        for count in 1..10 {
            run(&mut client, &format!("SET key:{count} v"));
            run(&mut client, &format!("SADD set:{count} v"));
            let (mut keys, cursor) = scanned(&mut client, "SCAN 0 MATCH key:*");
            keys.sort();
            if 2 * count < 10 {
                let all = Vec::from_iter((1..=count).map(|number| format!("key:{number}")));
                assert_eq!((keys, &*cursor), (all, "0"), "{shape:?}");
            }
            let (keys, cursor) = scanned(&mut client, "SCAN 0 COUNT 19 TYPE set");
            assert_eq!((keys.len(), &*cursor), (count, "0"), "{shape:?}");
        }
        // More than COUNT come in as many calls as it takes, each once.
        let (mut found, mut cursor, mut calls) = (Vec::new(), "0".to_owned(), 0);
        while calls == 0 || cursor != "0" {
            let (keys, next) = scanned(&mut client, &format!("SCAN {cursor} COUNT 4"));
            assert!(keys.len() <= 4, "{keys:?}");
            found.extend(keys);
            (cursor, calls) = (next, calls + 1);
        }
        assert!(calls <= 6, "{calls} calls for 18 keys, {shape:?}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 18);
        let error = run(&mut client, "SCAN 0 COUNT 0").render();
        assert_eq!(error, "(error) ERR syntax error");
    }
}

/// What a SCAN answers: keys and the next cursor.
fn scanned(client: &mut Client, line: &str) -> (Vec<String>, String) {
    let reply = run(client, line);
    let Value::Array(Some(parts)) = &reply else {
        panic!("{line}: {}", reply.render())
    };
    let Value::Array(Some(keys)) = &parts[1] else {
        panic!("{line}: {}", reply.render())
    };
    let keys = keys.iter().map(|key| key.text().expect("a key")).collect();
    (keys, parts[0].text().expect("a cursor"))
}
