//! Functions beside other clients and across restarts: what the transcripts of one connection cannot show.

use super::{assert_fails, bulk, ok, run, start};
use crate::commands::Shape;
use crate::harness::client::Client;
use crate::harness::observe::info_number;
use crate::harness::process::wait_for;
use crate::harness::redis::RedisOracle;
use crate::harness::server::{Server, allowed_cpus};
use crate::harness::value::Value;

const BUSY: &str = "BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.";
const BUSY_SCRIPT: &str = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";

/// Keys of all shards.
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A library with one function, which returns a number.
fn library(name: &str, function: &str, number: u32) -> String {
    format!("#!lua name={name}\nredis.register_function('{function}', function() return {number} end)")
}

fn load(client: &mut Client, code: &str) -> Value {
    client.command(&["FUNCTION", "LOAD", "REPLACE", code])
}

fn call(client: &mut Client, function: &str) -> Value {
    client.command(&["FCALL", function, "1", "k"])
}

fn dump(client: &mut Client) -> Vec<u8> {
    match client.command(&["FUNCTION", "DUMP"]) {
        Value::Bulk(Some(payload)) => payload,
        reply => panic!("FUNCTION DUMP answers {}", reply.render()),
    }
}

#[test]
fn a_function_is_new_on_every_executor_as_soon_as_it_is_loaded() {
    for shape in [Shape::FourShardsBothRoles, Shape::FourShardsSeparateRoles] {
        let server = start(shape, &[]);
        let (mut loading, mut calling) = (server.connect(), server.connect());
        for number in 1..=30 {
            assert_eq!(load(&mut loading, &library("l", "f", number)), bulk("l"));
            for key in KEYS {
                let reply = calling.command(&["FCALL", "f", "1", key]);
                assert_eq!(reply, Value::Integer(number.into()), "{key}");
            }
        }
        assert_eq!(info_number(&mut calling, "memory", "number_of_libraries"), 1);
        assert_eq!(info_number(&mut calling, "memory", "number_of_functions"), 1);
        assert_eq!(run(&mut loading, "FUNCTION DELETE l"), ok());
        for key in KEYS {
            assert_fails(&calling.command(&["FCALL", "f", "1", key]), "ERR Function not found");
        }
    }
}

#[test]
fn libraries_outlive_kill_9_restart_and_flushall() {
    for durability in ["always", "interval"] {
        let mut server = start(Shape::FourShardsBothRoles, &["--durability", durability]);
        let mut client = server.connect();
        for (name, function) in [("kept", "f"), ("replaced", "g"), ("deleted", "h")] {
            assert_eq!(load(&mut client, &library(name, function, 1)), bulk(name));
        }
        assert_eq!(load(&mut client, &library("replaced", "i", 2)), bulk("replaced"));
        assert_eq!(run(&mut client, "FUNCTION DELETE deleted"), ok());
        assert_eq!(run(&mut client, "FLUSHALL"), ok());
        let before = dump(&mut client);
        server.kill_9();
        for how in ["kill -9", "SIGTERM"] {
            server.restart();
            let mut client = server.connect();
            assert_eq!(dump(&mut client), before, "{how}, {durability}");
            assert_eq!(call(&mut client, "f"), Value::Integer(1), "{how}, {durability}");
            assert_eq!(call(&mut client, "i"), Value::Integer(2), "{how}, {durability}");
            for gone in ["g", "h"] {
                assert_fails(&call(&mut client, gone), "ERR Function not found");
            }
            if how == "kill -9" {
                assert_eq!(server.terminate().code(), Some(0));
            }
        }
        assert_eq!(run(&mut server.connect(), "FUNCTION FLUSH"), ok());
        server.kill_9();
        server.restart();
        assert_eq!(run(&mut server.connect(), "FUNCTION LIST").render(), "(empty array)");
    }
}

/// A client replaces two libraries with each other's functions, by RESTORE, until the server is killed: one of the two
/// sets is there then, and not a part of each.
#[test]
fn a_restore_is_whole_or_not_there_after_kill_9() {
    let mut server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    let payloads = [("f", "g"), ("g", "f")].map(|(first, second)| {
        assert_eq!(run(&mut client, "FUNCTION FLUSH"), ok());
        load(&mut client, &library("one", first, 1));
        load(&mut client, &library("two", second, 2));
        dump(&mut client)
    });
    for round in 0..3_u64 {
        let address = server.address();
        let sent = payloads.clone();
        let writer = std::thread::spawn(move || {
            let mut client = Client::connect(address).expect("the server answers");
            let mut restored = 0_u64;
            for payload in sent.iter().cycle() {
                let command = [&b"FUNCTION"[..], b"RESTORE", payload, b"FLUSH"];
                if client.send(&command).is_err() || client.read().is_err() {
                    return restored;
                }
                restored += 1;
            }
            restored
        });
        let mut watching = server.connect();
        let commands = |client: &mut Client| info_number(client, "stats", "total_commands_processed");
        let from = commands(&mut watching);
        assert!(wait_for(|| commands(&mut watching) > from + 50 + round * 37));
        server.kill_9();
        assert!(writer.join().expect("the writer ends") > 10);
        server.restart();
        let found = dump(&mut server.connect());
        assert!(payloads.contains(&found), "{}", found.escape_ascii());
    }
}

#[test]
fn payloads_go_from_one_server_to_the_other_and_back() {
    let Some(redis) = RedisOracle::start() else { return };
    let server = start(Shape::OneShard, &[]);
    let mut ours = server.connect();
    let mut theirs = Client::connect(redis.address()).expect("redis-server answers");
    let long = format!("{}\n-- {}", library("long", "f", 7), "the same again ".repeat(2000));
    let flags = "#!lua name=flags\nredis.register_function{function_name='g', description='d', \
                 callback=function(keys) return redis.call('GET', keys[1]) end, flags={'no-writes', 'allow-oom'}}";
    let list = |client: &mut Client| {
        let reply = run(client, "FUNCTION LIST WITHCODE").render();
        let mut lines: Vec<String> = reply
            .lines()
            .map(|line| line.trim_start_matches([' ', '1', '2', ')']).into())
            .collect();
        lines.sort();
        lines
    };
    for codes in [vec![long.as_str()], vec![flags], vec![&long, flags]] {
        assert_eq!(run(&mut ours, "FUNCTION FLUSH"), ok());
        assert_eq!(run(&mut theirs, "FUNCTION FLUSH"), ok());
        for code in codes {
            assert!(matches!(load(&mut theirs, code), Value::Bulk(_)));
        }
        let expected = list(&mut theirs);
        let payload = dump(&mut theirs);
        let restored = ours.command(&[&b"FUNCTION"[..], b"RESTORE", &payload]);
        assert_eq!(restored, ok());
        assert_eq!(list(&mut ours), expected);
        let payload = dump(&mut ours);
        let restored = theirs.command(&[&b"FUNCTION"[..], b"RESTORE", &payload, b"FLUSH"]);
        assert_eq!(restored, ok());
        assert_eq!(list(&mut theirs), expected);
    }
    assert_eq!(call(&mut ours, "f"), Value::Integer(7));
    assert_eq!(call(&mut theirs, "f"), Value::Integer(7));
}

#[test]
fn restore_refuses_what_collides_and_leaves_the_libraries_as_they_were() {
    let server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    load(&mut client, &library("one", "f", 1));
    load(&mut client, &library("two", "g", 2));
    let payload = dump(&mut client);
    let restore = |client: &mut Client, policy: &str| {
        client.command(&[&b"FUNCTION"[..], b"RESTORE", &payload, policy.as_bytes()])
    };
    assert_fails(&restore(&mut client, "APPEND"), "ERR Library one already exists");
    assert_eq!(restore(&mut client, "REPLACE"), ok());
    assert_eq!(run(&mut client, "FUNCTION DELETE two"), ok());
    load(&mut client, &library("three", "G", 3));
    let before = dump(&mut client);
    assert_fails(&restore(&mut client, "REPLACE"), "ERR Function g already exists");
    assert_eq!(dump(&mut client), before);
    assert_eq!(restore(&mut client, "FLUSH"), ok());
    assert_fails(&call(&mut client, "nothing"), "ERR Function not found");
    assert_eq!(call(&mut client, "g"), Value::Integer(2));
}

fn start_with_loops() -> Server {
    let server = start(Shape::OneShard, &["--busy-reply-threshold", "50"]);
    let code = "#!lua name=loops\nredis.register_function('writes', function(keys)\n\
                redis.call('SET', keys[1], 'written') while true do end end)";
    assert_eq!(load(&mut server.connect(), code), bulk("loops"));
    server
}

#[test]
fn a_busy_function_is_shown_and_killed_and_leaves_nothing() {
    let server = start_with_loops();
    let (mut calling, mut client) = (server.connect(), server.connect());
    calling
        .send(&["FCALL", "writes", "1", "k", "an argument"])
        .expect("the call is sent");
    let busy = Value::Error(BUSY.to_owned());
    assert!(wait_for(|| run(&mut client, "GET k") == busy));
    assert_eq!(run(&mut client, "SCRIPT KILL"), busy);
    let stats = run(&mut client, "FUNCTION STATS").render();
    let shown = [
        "\"name\"",
        "\"writes\"",
        "\"FCALL\"",
        "\"an argument\"",
        "\"duration_ms\"",
        "\"libraries_count\"",
    ];
    for word in shown {
        assert!(stats.contains(word), "{stats}");
    }
    assert_eq!(run(&mut client, "FUNCTION KILL"), ok());
    let reply = calling.read().expect("the call is answered");
    assert_fails(&reply, "Script killed by user with SCRIPT KILL.");
    assert_fails(&reply, "script: writes, on @user_function:3.");
    assert!(wait_for(|| run(&mut client, "EXISTS k") == Value::Integer(0)));
    assert_fails(
        &run(&mut client, "FUNCTION KILL"),
        "NOTBUSY No scripts in execution right now.",
    );
}

#[test]
fn function_kill_leaves_scripts_alone() {
    let server = start_with_loops();
    let (mut scripting, mut client) = (server.connect(), server.connect());
    scripting
        .send(&["EVAL", "while true do end", "0"])
        .expect("the script is sent");
    let busy = Value::Error(BUSY_SCRIPT.to_owned());
    assert!(wait_for(|| run(&mut client, "GET k") == busy));
    assert_eq!(run(&mut client, "FUNCTION KILL"), busy);
    assert_eq!(run(&mut client, "FUNCTION STATS"), busy);
    assert_eq!(run(&mut client, "SCRIPT KILL"), ok());
    assert_fails(&scripting.read().expect("the script is answered"), "SCRIPT KILL");
}

#[test]
fn code_that_never_ends_is_not_loaded_and_its_interpreter_goes_on() {
    let server = start(Shape::OneShard, &[]);
    let mut client = server.connect();
    let reply = load(
        &mut client,
        "#!lua name=l\nredis.register_function('f', function() end) while true do end",
    );
    assert_fails(&reply, "ERR Error registering functions: ERR FUNCTION LOAD timeout");
    assert_fails(&call(&mut client, "f"), "ERR Function not found");
    assert_eq!(load(&mut client, &library("l", "f", 1)), bulk("l"));
    assert_eq!(call(&mut client, "f"), Value::Integer(1));
}

#[test]
fn code_that_uses_too_much_memory_is_not_loaded() {
    let server = start(Shape::OneShard, &["--script-memory-limit", "8mb"]);
    let mut client = server.connect();
    let code = "#!lua name=l\nlocal t = {} while true do t[#t + 1] = {} end";
    assert_fails(&load(&mut client, code), "script-memory-limit");
    assert_eq!(load(&mut client, &library("l", "f", 1)), bulk("l"));
    assert_eq!(call(&mut client, "f"), Value::Integer(1));
}

#[test]
fn a_function_runs_where_its_keys_are() {
    let server = start(Shape::FourShardsBothRoles, &[]);
    let mut client = server.connect();
    load(&mut client, &library("l", "f", 1));
    let one = client.command(&["FCALL", "f", "2", "{a}1", "{a}2"]);
    assert_eq!(one, Value::Integer(1));
    if allowed_cpus().len() > 1 {
        let several = client.command(&["FCALL", "f", "2", "a", "b"]);
        assert_eq!(several, Value::Integer(1));
    }
    // Without keys it runs somewhere.
    assert_eq!(run(&mut client, "FCALL f 0"), Value::Integer(1));
}
