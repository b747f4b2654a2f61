//! Scripts inside of transactions, and scripts that had to wait, pause like others: nobody else stands still meanwhile.

use super::{BUSY, KEYS, WRITES_FOR_EVER, assert_fails, bulk, kill, ok, run, start};
use crate::commands::Shape;
use crate::harness::client::Client;
use crate::harness::observe::{executors_sum, info_number};
use crate::harness::process::wait_for;
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;

/// Longer than a script runs before it pauses, many times over.
const LONG: &str =
    "redis.call('append', KEYS[1], 'b') for i = 1, 3000000 do end redis.call('append', KEYS[1], 'c') return 'done'";

/// Sends MULTI, the commands and EXEC, and reads what comes before EXEC's answer.
fn send_transaction(client: &mut Client, commands: &[&[&str]]) {
    client.send(&["MULTI"]).expect("it is sent");
    for command in commands {
        client.send(command).expect("it is sent");
    }
    client.send(&["EXEC"]).expect("it is sent");
    assert_eq!(client.read().expect("it is answered"), ok());
    for _ in commands {
        let queued = client.read().expect("it is answered");
        assert_eq!(queued, Value::Simple("QUEUED".to_owned()));
    }
}

fn replies(client: &mut Client) -> Vec<Value> {
    match client.read().expect("EXEC is answered") {
        Value::Array(Some(replies)) => replies,
        other => panic!("EXEC answered {}", other.render()),
    }
}

#[test]
fn a_busy_script_in_a_transaction_is_killed_and_the_rest_of_it_stands() {
    for shape in [Shape::OneShard, Shape::FourShardsBothRoles] {
        let server = start(shape, &["--busy-reply-threshold", "50"]);
        let (mut scripting, mut client) = (server.connect(), server.connect());
        let key = KEYS[0];
        let commands: [&[&str]; 4] = [
            &["SET", key, "before"],
            &["EVAL", WRITES_FOR_EVER, "1", key],
            &["APPEND", key, "!"],
            &["EVAL", LONG, "1", key],
        ];
        send_transaction(&mut scripting, &commands);
        let busy = Value::Error(BUSY.to_owned());
        assert!(wait_for(|| run(&mut client, &format!("GET {key}")) == busy));
        assert_eq!(run(&mut client, "PING"), Value::Simple("PONG".to_owned()));
        assert_eq!(run(&mut client, "SCRIPT KILL"), ok());
        let replies = replies(&mut scripting);
        assert_eq!(replies[0], ok());
        assert_fails(&replies[1], "Script killed by user with SCRIPT KILL.");
        assert_eq!(replies[2..], [Value::Integer(7), bulk("done")]);
        assert!(wait_for(|| run(&mut client, &format!("GET {key}")) == bulk("before!bc")));
    }
}

#[test]
fn long_scripts_in_a_transaction_answer_in_their_places() {
    for shape in [
        Shape::OneShard,
        Shape::FourShardsBothRoles,
        Shape::FourShardsSeparateRoles,
    ] {
        let server = start(shape, &[]);
        let mut client = server.connect();
        let commands: [&[&str]; 7] = [
            &["EVAL", LONG, "1", "k"],
            // One that the network executor runs itself: the replies are told apart.
            &["PING"],
            &["EVAL", "return redis.error_reply('MINE')", "1", "k"],
            &["EVAL", LONG, "1", "k"],
            &["INCR", "k"],
            &["GET", "k"],
            &["EVALSHA", "nothing", "0"],
        ];
        for (round, is_split) in [(1, true), (2, false)] {
            let commands: Vec<&[&str]> = commands
                .iter()
                .copied()
                .filter(|words| is_split || words[0] != "PING")
                .collect();
            send_transaction(&mut client, &commands);
            let found: Vec<String> = replies(&mut client).iter().map(Value::render).collect();
            let all = [
                "\"done\"",
                "PONG",
                "(error) ERR MINE",
                "\"done\"",
                "(error) ERR value is not an integer or out of range",
            ];
            let content = format!("\"{}\"", "bcbc".repeat(round));
            let last = [
                content.as_str(),
                "(error) NOSCRIPT No matching script. Please use EVAL.",
            ];
            let expected: Vec<&str> = all
                .into_iter()
                .filter(|text| is_split || *text != "PONG")
                .chain(last)
                .collect();
            assert_eq!(found, expected, "{shape:?}");
        }
        // What was watched before counts, although the script begins anew in a turn of its own.
        run(&mut client, "WATCH k");
        run(&mut server.connect(), "SET k other");
        send_transaction(&mut client, &[&["EVAL", LONG, "1", "k"]]);
        assert_eq!(client.read().expect("EXEC is answered"), Value::Array(None));
        assert_eq!(run(&mut client, "GET k"), bulk("other"));
    }
}

#[test]
fn keys_of_a_busy_script_on_several_executors_say_so() {
    if allowed_cpus().len() < 2 {
        return;
    }
    let server = start(Shape::FourShardsBothRoles, &["--busy-reply-threshold", "50"]);
    let (mut scripting, mut client) = (server.connect(), server.connect());
    scripting
        .send(&["EVAL", WRITES_FOR_EVER, "2", KEYS[0], KEYS[1]])
        .expect("the script is sent");
    let busy = Value::Error(BUSY.to_owned());
    assert!(wait_for(|| run(&mut client, &format!("GET {}", KEYS[0])) == busy));
    // By itself, in a transaction with another executor's, and in one with everything.
    for line in [
        format!("SET {} 1", KEYS[1]),
        format!("MSET {} 1 other 1 {{other}}2 1 c 1 d 1", KEYS[1]),
        "FLUSHALL".to_owned(),
    ] {
        assert_eq!(run(&mut client, &line), busy, "{line}");
    }
    assert_eq!(run(&mut client, "SET {other}key 1"), ok());
    kill(&server);
    assert_fails(&scripting.read().expect("the script is answered"), "SCRIPT KILL");
    assert_eq!(run(&mut client, &format!("SET {} 1", KEYS[1])), ok());
}

/// Its first run is dropped when it turns out to be long; what is written before the second counts.
#[test]
fn an_exec_that_begins_anew_still_sees_what_it_watches() {
    if allowed_cpus().len() < 2 {
        return;
    }
    let server = start(Shape::FourShardsBothRoles, &["--busy-reply-threshold", "10000"]);
    let [mut holding, mut watching, mut writing, mut client] = [0; 4].map(|_| server.connect());
    holding
        .send(&["EVAL", WRITES_FOR_EVER, "2", KEYS[0], KEYS[1]])
        .expect("the script is sent");
    assert!(wait_for(|| info_number(&mut client, "memory", "running_scripts") == 1));
    // WATCH waits for no lock: it reads, and what it reads is that the key is not there.
    let parked = executors_sum(&mut client, "parked");
    let watched = format!("{{{}}}watched", KEYS[0]);
    assert_eq!(run(&mut watching, &format!("WATCH {watched}")), ok());
    send_transaction(&mut watching, &[&["EVAL", LONG, "1", KEYS[0]]]);
    assert!(wait_for(|| executors_sum(&mut client, "parked") == parked + 1));
    writing
        .send(&["MSET", KEYS[0], "written", &watched, "1"])
        .expect("it is sent");
    assert!(wait_for(|| executors_sum(&mut client, "parked") == parked + 2));
    kill(&server);
    assert_fails(&holding.read().expect("the script is answered"), "SCRIPT KILL");
    assert_eq!(writing.read().expect("it is answered"), ok());
    assert_eq!(watching.read().expect("EXEC is answered"), Value::Array(None));
    assert_eq!(run(&mut client, &format!("GET {}", KEYS[0])), bulk("written"));
}

#[test]
fn a_long_script_that_had_to_wait_pauses_too() {
    if allowed_cpus().len() < 2 {
        return;
    }
    let server = start(Shape::FourShardsBothRoles, &["--busy-reply-threshold", "10000"]);
    let (mut first, mut second, mut client) = (server.connect(), server.connect(), server.connect());
    first
        .send(&["EVAL", WRITES_FOR_EVER, "2", KEYS[0], KEYS[1]])
        .expect("the script is sent");
    assert!(wait_for(|| info_number(&mut client, "memory", "running_scripts") == 1));
    // It waits for the first, and its client's next command for it.
    let parked = executors_sum(&mut client, "parked");
    second
        .send(&["EVAL", WRITES_FOR_EVER, "1", KEYS[0]])
        .expect("it is sent");
    second.send(&["APPEND", KEYS[0], "next"]).expect("it is sent");
    assert!(wait_for(|| executors_sum(&mut client, "parked") == parked + 2));
    kill(&server);
    assert_fails(&first.read().expect("the script is answered"), "SCRIPT KILL");
    // Every connection, on whichever executor, is served while the second runs, until it is killed, too.
    for _ in 0..4 {
        assert_eq!(run(&mut server.connect(), "PING"), Value::Simple("PONG".to_owned()));
    }
    kill(&server);
    assert_fails(&second.read().expect("the script is answered"), "SCRIPT KILL");
    assert_eq!(second.read().expect("it is answered"), Value::Integer(4));
    assert_eq!(run(&mut client, &format!("GET {}", KEYS[0])), bulk("next"));
}
