//! Channels over several connections and several network executors: who gets what, in which order, and what becomes of
//! those who do not read or go away.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use socket2::SockRef;

use super::{exchange, expect, has_two_cpus, one_executor, raw, request, separate_executors, several_executors};
use crate::harness::client::Client;
use crate::harness::observe::{info, info_number, resident_bytes};
use crate::harness::process::wait_for;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::value::Value;

fn run(client: &mut Client, line: &str) -> Value {
    client.command(&line.split_whitespace().collect::<Vec<_>>())
}

/// A connection that subscribes to some channels; their confirmations are read.
fn subscriber(server: &Server, command: &str, names: &[&str]) -> Client {
    let mut client = server.connect();
    let mut arguments = vec![command];
    arguments.extend(names);
    client.send(&arguments).expect("the server reads");
    for name in names {
        let confirmation = client.read().expect("a confirmation comes").render();
        assert!(confirmation.contains(&format!("\"{name}\"")), "{confirmation}");
    }
    client
}

/// The content of the next message: the last element of a push.
fn next_message(client: &mut Client) -> String {
    match client.read().expect("a message comes") {
        Value::Array(Some(elements)) | Value::Push(elements) => {
            let last = elements.last().and_then(Value::text);
            last.expect("a message has a content")
        }
        other => panic!("{} is no message", other.render()),
    }
}

/// The figures of PUBSUB and INFO when nobody subscribes to anything.
fn nobody_subscribes(client: &mut Client) -> bool {
    let figures = ["pubsub_channels", "pubsub_patterns", "pubsubshard_channels"];
    figures.iter().all(|figure| info_number(client, "stats", figure) == 0)
        && run(client, "PUBSUB NUMSUB channel").render() == "1) \"channel\"\n2) (integer) 0"
}

#[test]
fn every_subscriber_of_every_executor_gets_every_message_once_and_in_order() {
    const SUBSCRIBERS: usize = 12;
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 500;
    for flags in [one_executor(), separate_executors(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut subscribers: Vec<Client> = (0..SUBSCRIBERS)
            .map(|number| match number % 2 {
                0 => subscriber(&server, "SUBSCRIBE", &["channel"]),
                _ => subscriber(&server, "PSUBSCRIBE", &["ch*"]),
            })
            .collect();
        let mut publishers: Vec<Client> = (0..PUBLISHERS).map(|_| server.connect()).collect();
        // All publish at once, in pipelines.
        for (publisher, client) in publishers.iter_mut().enumerate() {
            let pipeline: Vec<u8> = (0..MESSAGES)
                .flat_map(|number| request(&["PUBLISH", "channel", &format!("{publisher} {number}")]))
                .collect();
            client.send_bytes(&pipeline).expect("the server reads");
        }
        for client in &mut publishers {
            for _ in 0..MESSAGES {
                assert_eq!(
                    client.read().expect("PUBLISH is answered"),
                    Value::Integer(SUBSCRIBERS as i64)
                );
            }
        }
        for client in &mut subscribers {
            let mut next: HashMap<String, usize> = HashMap::new();
            for _ in 0..PUBLISHERS * MESSAGES {
                let message = next_message(client);
                let (publisher, number) = message.split_once(' ').expect("it has two words");
                let expected = next.entry(publisher.to_owned()).or_default();
                assert_eq!(number, expected.to_string(), "of publisher {publisher}");
                *expected += 1;
            }
            assert!(client.has_no_reply());
        }
    }
}

/// Whoever has the confirmation gets what is published from then on; whoever subscribes later gets nothing of before,
/// though another client of its executor does.
#[test]
fn a_subscription_begins_with_its_confirmation() {
    const ROUNDS: usize = 300;
    let server = Server::builder().flags(&several_executors()).start();
    let mut early = subscriber(&server, "SUBSCRIBE", &["channel"]);
    let mut publisher = server.connect();
    let mut late: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    for round in 0..ROUNDS {
        run(&mut publisher, &format!("PUBLISH channel before-{round}"));
        for client in &mut late {
            client.send(&["SUBSCRIBE", "channel"]).expect("the server reads");
        }
        for client in &mut late {
            let confirmation = client.read().expect("a confirmation comes").render();
            assert!(confirmation.starts_with("1) \"subscribe\""), "{round}: {confirmation}");
        }
        let receivers = run(&mut publisher, &format!("PUBLISH channel after-{round}"));
        assert_eq!(receivers, Value::Integer(3));
        for client in &mut late {
            assert_eq!(next_message(client), format!("after-{round}"));
            run(client, "UNSUBSCRIBE");
        }
        assert_eq!(next_message(&mut early), format!("before-{round}"));
        assert_eq!(next_message(&mut early), format!("after-{round}"));
    }
}

#[test]
fn the_figures_are_right_after_clients_went_away_abruptly() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut control = server.connect();
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = subscriber(&server, "SUBSCRIBE", &["channel", "other"]);
            client.send(&["PSUBSCRIBE", "c*", "d*"]).expect("the server reads");
            client.send(&["SSUBSCRIBE", "channel"]).expect("the server reads");
            for _ in 0..3 {
                client.read().expect("a confirmation comes");
            }
            clients.push(client);
        }
        assert_eq!(info_number(&mut control, "stats", "pubsub_channels"), 2);
        assert_eq!(info_number(&mut control, "stats", "pubsub_patterns"), 2);
        assert_eq!(info_number(&mut control, "stats", "pubsubshard_channels"), 1);
        assert_eq!(run(&mut control, "PUBLISH channel x"), Value::Integer(40));
        assert_eq!(run(&mut control, "SPUBLISH channel x"), Value::Integer(20));
        // Before any of them goes: one that is going has no subscriptions any more for a moment.
        assert_eq!(
            run(&mut control, "CLIENT KILL TYPE normal SKIPME yes"),
            Value::Integer(0)
        );
        // Half of them are killed, the others close their sockets with messages unread: these send a reset.
        for client in clients.drain(..10) {
            drop(client);
        }
        assert!(wait_for(|| run(&mut control, "PUBLISH other x") == Value::Integer(10)));
        assert_eq!(run(&mut control, "CLIENT KILL TYPE pubsub"), Value::Integer(10));
        assert!(wait_for(|| nobody_subscribes(&mut control)));
        assert_eq!(run(&mut control, "PUBLISH channel x"), Value::Integer(0));
        assert!(wait_for(
            || info_number(&mut control, "clients", "connected_clients") == 1
        ));
    }
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_off_and_no_other_client() {
    const MESSAGE_BYTES: usize = 64 * 1024;
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder()
            .flags(&flags)
            .flags(&["--client-output-buffer-limit", "pubsub 1mb 0 0"])
            .start();
        let mut control = server.connect();
        let mut slow = raw(&server);
        SockRef::from(&slow)
            .set_recv_buffer_size(64 * 1024)
            .expect("a socket has the option");
        exchange(
            &mut slow,
            &request(&["SUBSCRIBE", "channel"]),
            b"*3\r\n$9\r\nsubscribe\r\n$7\r\nchannel\r\n:1\r\n",
        );
        let mut reader = subscriber(&server, "SUBSCRIBE", &["channel"]);
        let mut publisher = server.connect();
        let message = vec![b'm'; MESSAGE_BYTES];
        let mut published = 0;
        // More than the kernel's buffers take, and then the limit.
        while publisher.command(&[b"PUBLISH".as_slice(), b"channel", &message]) == Value::Integer(2) {
            published += 1;
            assert_eq!(next_message(&mut reader).len(), MESSAGE_BYTES);
            assert!(published < 1000, "the client that does not read is never cut off");
        }
        assert_eq!(next_message(&mut reader).len(), MESSAGE_BYTES);
        let disconnections = info_number(&mut control, "stats", "client_output_buffer_limit_disconnections");
        assert_eq!(disconnections, 1);
        // A client of the other class may have as much waiting.
        assert_eq!(
            run(&mut control, "PUBSUB NUMSUB channel").render(),
            "1) \"channel\"\n2) (integer) 1"
        );
    }
}

/// A push never lands inside a reply, though that comes in pieces, and what waits behind the reply counts against the
/// limit.
#[test]
fn pushes_wait_behind_a_reply_that_comes_in_pieces() {
    const FIELDS: usize = 200_000;
    for flags in [one_executor(), separate_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut control = server.connect();
        for start in (0..FIELDS).step_by(1000) {
            let fields = (start..start + 1000).flat_map(|field| [format!("field:{field:08}"), "v".repeat(50)]);
            let arguments: Vec<String> = ["HSET".to_owned(), "hash".to_owned()]
                .into_iter()
                .chain(fields)
                .collect();
            control.command(&arguments);
        }
        let mut client = raw(&server);
        SockRef::from(&client)
            .set_recv_buffer_size(64 * 1024)
            .expect("a socket has the option");
        client.write_all(&request(&["HELLO", "3"])).expect("the server reads");
        read_until(&mut client, b"$7\r\nmodules\r\n*0\r\n");
        let confirmation = b">3\r\n$9\r\nsubscribe\r\n$7\r\nchannel\r\n:1\r\n";
        exchange(&mut client, &request(&["SUBSCRIBE", "channel"]), confirmation);
        client
            .write_all(&request(&["HGETALL", "hash"]))
            .expect("the server reads");
        // The reply has begun and is far from its end.
        expect(&mut client, format!("%{FIELDS}\r\n").as_bytes());
        for number in 0..100 {
            let receivers = run(&mut control, &format!("PUBLISH channel {number}"));
            assert_eq!(receivers, Value::Integer(1));
        }
        client.write_all(&request(&["PING"])).expect("the server reads");
        let pair = format!("$14\r\nfield:00000000\r\n$50\r\n{}\r\n", "v".repeat(50));
        let mut rest = vec![0; FIELDS * pair.len()];
        client.read_exact(&mut rest).expect("the reply comes");
        assert!(!rest.contains(&b'>'), "a push landed inside the reply");
        for number in 0..100 {
            let number = number.to_string();
            let message = format!(
                ">3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n${}\r\n{number}\r\n",
                number.len()
            );
            expect(&mut client, message.as_bytes());
        }
        expect(&mut client, b"+PONG\r\n");

        // The same again, and the client reads nothing: what is behind the reply must not grow without bound.
        let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 4mb 0 0"];
        assert_eq!(control.command(&limit).render(), "OK");
        client
            .write_all(&request(&["HGETALL", "hash"]))
            .expect("the server reads");
        expect(&mut client, format!("%{FIELDS}\r\n").as_bytes());
        let message = "m".repeat(1 << 20);
        let is_cut_off = wait_for(|| control.command(&["PUBLISH", "channel", &message]) == Value::Integer(0));
        assert!(is_cut_off);
    }
}

/// Reads up to some bytes.
fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut got = Vec::new();
    while !got.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more bytes come");
        got.push(byte[0]);
    }
}

/// Confirmations and messages keep their places among the replies of a pipeline.
#[test]
fn a_subscription_keeps_its_place_in_a_pipeline() {
    for flags in [one_executor(), separate_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut client = raw(&server);
        exchange(&mut client, &request(&["SET", "key", "v"]), b"+OK\r\n");
        let pipeline = [
            request(&["GET", "key"]),
            request(&["SUBSCRIBE", "a", "b"]),
            request(&["GET", "key"]),
            request(&["PING"]),
            request(&["UNSUBSCRIBE", "a"]),
            request(&["UNSUBSCRIBE", "b"]),
            request(&["GET", "key"]),
        ]
        .concat();
        let expected =
            b"$1\r\nv\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n\
              -ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
              this context\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n\
              *3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n$1\r\nv\r\n";
        for _ in 0..50 {
            exchange(&mut client, &pipeline, expected);
        }
        // RESP3: what one publishes to oneself comes behind the reply, and before the next one.
        let mut three = server.connect();
        run(&mut three, "HELLO 3");
        run(&mut three, "SUBSCRIBE own");
        let pipeline = [
            request(&["GET", "key"]),
            request(&["PUBLISH", "own", "x"]),
            request(&["PING"]),
            request(&["GET", "key"]),
        ]
        .concat();
        for _ in 0..50 {
            three.send_bytes(&pipeline).expect("the server reads");
            let got: Vec<String> = (0..5).map(|_| three.read().expect("it comes").render()).collect();
            let message = "1> \"message\"\n2> \"own\"\n3> \"x\"";
            assert_eq!(got, ["\"v\"", "(integer) 1", message, "PONG", "\"v\""]);
        }
    }
}

#[test]
fn subscribers_are_not_idle() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--timeout", "1"])
        .start();
    let mut subscribed = subscriber(&server, "SUBSCRIBE", &["channel"]);
    let mut monitor = server.connect();
    run(&mut monitor, "MONITOR");
    let mut idle = server.connect();
    run(&mut idle, "PING");
    assert!(idle.is_closed());
    let mut control = server.connect();
    assert_eq!(run(&mut control, "PUBLISH channel x"), Value::Integer(1));
    assert_eq!(next_message(&mut subscribed), "x");
    // Without a subscription it is a client as any other.
    run(&mut subscribed, "UNSUBSCRIBE");
    assert!(subscribed.is_closed());
    assert!(!monitor.has_no_reply());
}

/// The lines of MONITOR are those of redis-server for the same commands, but for times and ports.
#[test]
fn monitor_prints_what_redis_prints() {
    let Some(redis) = RedisOracle::start() else { return };
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let ours = monitored(server.address());
        assert_eq!(ours, monitored(redis.address()));
        assert!(ours.len() > 20, "{ours:?}");
    }
}

/// Runs some commands on two connections while a third monitors; its lines, with times and ports replaced.
fn monitored(address: std::net::SocketAddr) -> Vec<String> {
    let mut monitor = Client::connect(address).expect("the server accepts");
    assert_eq!(run(&mut monitor, "MONITOR").render(), "OK");
    let mut clients: Vec<Client> = (0..2)
        .map(|_| Client::connect(address).expect("the server accepts"))
        .collect();
    for round in 0..5 {
        for client in &mut clients {
            for line in [
                "SET key value EX 100",
                "get key",
                "GET",
                "INCR key",
                "CONFIG GET port",
                "SELECT 1",
                "MGET a b c d",
                "auth secret",
                "SELECT 0",
                "HELLO 2 AUTH default secret",
                "SUBSCRIBE channel",
                "RESET",
            ] {
                run(client, line);
            }
            client.command(&[b"ECHO".as_slice(), &[round, 0xff, b'\n', b'"', b'\\', b'~', 0x7f]]);
        }
    }
    run(&mut clients[0], "ECHO end");
    let pattern = regex::Regex::new(r"^[0-9]{10}\.[0-9]{6} \[([0-9]) 127\.0\.0\.1:[0-9]+\] ").expect("it is a pattern");
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.ends_with("\"end\"")) {
        let Value::Simple(line) = monitor.read().expect("a line comes") else {
            panic!("MONITOR sends simple strings")
        };
        assert!(pattern.is_match(&line), "{line}");
        lines.push(pattern.replace(&line, "TIME [$1 PORT] ").into_owned());
    }
    lines
}

/// Many subscribers cost what they are sent, and nothing when they leave at once.
#[test]
fn ten_thousand_subscribers_of_one_channel() {
    let _alone = crate::harness::process::measures();
    // Without descriptors for as many, as many as there are.
    let count = open_files_max().saturating_sub(500).min(10_000);
    let server = Server::builder()
        .flags(&several_executors())
        .flags(&["--maxclients", "20000"])
        .start();
    let mut subscribers: Vec<Client> = (0..count)
        .map(|_| subscriber(&server, "SUBSCRIBE", &["channel"]))
        .collect();
    let mut publisher = server.connect();
    for message in ["first", "second"] {
        let receivers = publisher.command(&["PUBLISH", "channel", message]);
        assert_eq!(receivers, Value::Integer(count as i64));
        for client in &mut subscribers {
            assert_eq!(next_message(client), message);
        }
    }
    drop(subscribers);
    assert!(wait_for(|| nobody_subscribes(&mut publisher)));
    println!("{count} subscribers");
}

/// How many descriptors this process may have.
fn open_files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("/proc is mounted");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(1024)
}

/// Who publishes more than the subscribers' executor can send waits, and nobody is cut off who reads.
#[test]
fn publishers_wait_for_an_executor_that_is_behind() {
    if !has_two_cpus("publishers_wait_for_an_executor_that_is_behind") {
        return;
    }
    let _alone = crate::harness::process::measures();
    const SUBSCRIBERS: usize = 50;
    const MESSAGES: usize = 2000;
    const MESSAGE_BYTES: usize = 10_000;
    // A gigabyte of output: four times what an inbox takes at most.
    let server = Server::builder()
        .flags(&several_executors())
        .flags(&["--client-output-buffer-limit", "pubsub 1gb 0 0"])
        .start();
    // New connections go to the executors by turns: the subscribers are all on the other one than the publisher, so
    // that it has nothing to do but to publish.
    let connections: Vec<Client> = (0..=2 * SUBSCRIBERS).map(|_| server.connect()).collect();
    let (mut others, mut readers) = (Vec::new(), Vec::new());
    for (number, mut client) in connections.into_iter().enumerate() {
        if number % 2 == 0 {
            others.push(client);
            continue;
        }
        run(&mut client, "SUBSCRIBE channel");
        readers.push(std::thread::spawn(move || {
            (0..MESSAGES).for_each(|_| assert_eq!(next_message(&mut client).len(), MESSAGE_BYTES));
        }));
    }
    let mut publisher = others.pop().expect("there is one more of them");
    let message = "m".repeat(MESSAGE_BYTES);
    let pipeline = request(&["PUBLISH", "channel", &message]).repeat(MESSAGES);
    publisher.send_bytes(&pipeline).expect("the server reads");
    for _ in 0..MESSAGES {
        let receivers = publisher.read().expect("PUBLISH is answered");
        assert_eq!(receivers, Value::Integer(SUBSCRIBERS as i64));
    }
    for reader in readers {
        reader.join().expect("every message came");
    }
    let disconnections = info_number(&mut publisher, "stats", "client_output_buffer_limit_disconnections");
    assert_eq!(disconnections, 0);
}

/// What is published at once is more than fits any buffer if it is counted once for each of its receivers, and little
/// for each of them.
#[test]
fn a_burst_that_is_within_the_limit_of_each_subscriber_disconnects_nobody() {
    const SUBSCRIBERS: usize = 100;
    const MESSAGES: usize = 8;
    const MESSAGE_BYTES: usize = 500_000;
    const MIB: u64 = 1 << 20;
    let _alone = crate::harness::process::measures();
    let server = Server::builder().flags(&one_executor()).start();
    let mut control = server.connect();
    let mut unrelated = subscriber(&server, "SUBSCRIBE", &["other"]);
    let mut subscribers: Vec<TcpStream> = (0..SUBSCRIBERS).map(|_| raw(&server)).collect();
    for (number, stream) in subscribers.iter_mut().enumerate() {
        // Some by name, some by a pattern.
        let (command, name) = [("subscribe", "big"), ("psubscribe", "bi?")][number % 2];
        let confirmation = format!("*3\r\n${}\r\n{command}\r\n$3\r\n{name}\r\n:1\r\n", command.len());
        exchange(stream, &request(&[command, name]), confirmation.as_bytes());
    }
    let message = vec![b'm'; MESSAGE_BYTES];
    let base_bytes = resident_bytes(server.process().pid());
    let mut peak_bytes = 0;
    for round in 0..2 {
        match round {
            0 => {
                let script = format!("for i=1,{MESSAGES} do redis.call('PUBLISH',ARGV[1],ARGV[2]) end");
                let words = [b"EVAL".as_slice(), script.as_bytes(), b"0", b"big", &message];
                assert_eq!(control.command(&words).render(), "(nil)");
            }
            _ => {
                let publish = request(&[b"PUBLISH".as_slice(), b"big", &message]);
                let whole = [request(&["MULTI"]), publish.repeat(MESSAGES), request(&["EXEC"])].concat();
                control.send_bytes(&whole).expect("the server reads");
                (0..MESSAGES + 2).for_each(|_| drop(control.read().expect("it is answered")));
            }
        }
        // Nobody has read anything yet.
        assert_eq!(run(&mut control, "PUBLISH other x"), Value::Integer(1));
        assert_eq!(next_message(&mut unrelated), "x");
        let disconnections = info_number(&mut control, "stats", "client_output_buffer_limit_disconnections");
        assert_eq!(disconnections, 0);
        peak_bytes = peak_bytes.max(resident_bytes(server.process().pid()));
        let mut content = vec![0; MESSAGE_BYTES];
        for (number, stream) in subscribers.iter_mut().enumerate() {
            let head = match number % 2 {
                0 => format!("*3\r\n$7\r\nmessage\r\n$3\r\nbig\r\n${MESSAGE_BYTES}\r\n"),
                _ => format!("*4\r\n$8\r\npmessage\r\n$3\r\nbi?\r\n$3\r\nbig\r\n${MESSAGE_BYTES}\r\n"),
            };
            for _ in 0..MESSAGES {
                expect(stream, head.as_bytes());
                stream.read_exact(&mut content).expect("the whole message comes");
                assert!(content == message);
                expect(stream, b"\r\n");
            }
        }
    }
    let held = peak_bytes.saturating_sub(base_bytes) / MIB;
    println!("{held} MiB were held for {SUBSCRIBERS} subscribers of {MESSAGES} messages of {MESSAGE_BYTES} bytes");
    assert!(
        held < 100,
        "{held} MiB were held: a message is copied for each subscriber"
    );
}

/// The same with the events of one command on many keys.
#[test]
fn the_events_of_a_command_on_many_keys_disconnect_nobody() {
    const SUBSCRIBERS: usize = 30;
    const KEYS: usize = 70_000;
    let _alone = crate::harness::process::measures();
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--notify-keyspace-events", "Eg"])
        .start();
    let mut control = server.connect();
    let names: Vec<String> = (0..KEYS).map(|key| format!("key:{key:05}")).collect();
    for some in names.chunks(10_000) {
        let words = ["MSET"].into_iter().chain(some.iter().flat_map(|name| [name, "v"]));
        assert_eq!(control.command(&words.collect::<Vec<_>>()).render(), "OK");
    }
    let channel = "__keyevent@0__:del";
    let mut unrelated = subscriber(&server, "SUBSCRIBE", &["other"]);
    let mut subscribers: Vec<TcpStream> = (0..SUBSCRIBERS).map(|_| raw(&server)).collect();
    let confirmation = format!("*3\r\n$9\r\nsubscribe\r\n$18\r\n{channel}\r\n:1\r\n");
    for stream in &mut subscribers {
        exchange(stream, &request(&["SUBSCRIBE", channel]), confirmation.as_bytes());
    }
    let words: Vec<&str> = ["DEL"].into_iter().chain(names.iter().map(String::as_str)).collect();
    assert_eq!(control.command(&words), Value::Integer(KEYS as i64));
    assert_eq!(run(&mut control, "PUBLISH other x"), Value::Integer(1));
    assert_eq!(next_message(&mut unrelated), "x");
    let expected: Vec<u8> = names
        .iter()
        .flat_map(|name| format!("*3\r\n$7\r\nmessage\r\n$18\r\n{channel}\r\n$9\r\n{name}\r\n").into_bytes())
        .collect();
    for stream in &mut subscribers {
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).expect("every event comes");
        assert!(got == expected);
    }
    let disconnections = info_number(&mut control, "stats", "client_output_buffer_limit_disconnections");
    assert_eq!(disconnections, 0);
}

/// What one command publishes is more than the subscribers of one name may have waiting: they go, and no others.
#[test]
fn a_burst_over_the_limit_cuts_off_those_whom_it_is_for() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--client-output-buffer-limit", "pubsub 2mb 0 0"])
        .start();
    let mut control = server.connect();
    let mut over: Vec<Client> = (0..5)
        .map(|_| subscriber(&server, "SUBSCRIBE", &["big", "other"]))
        .collect();
    let mut unrelated = subscriber(&server, "SUBSCRIBE", &["other"]);
    let script = "for i=1,40 do redis.call('PUBLISH',ARGV[1],ARGV[2]) end";
    let message = "m".repeat(500_000);
    control.command(&["EVAL", script, "0", "big", &message]);
    let disconnections =
        |control: &mut Client| info_number(control, "stats", "client_output_buffer_limit_disconnections");
    assert!(wait_for(|| disconnections(&mut control) == over.len() as u64));
    assert_eq!(run(&mut control, "PUBLISH other x"), Value::Integer(1));
    assert_eq!(next_message(&mut unrelated), "x");
    for client in &mut over {
        // Some came before it was too much.
        while let Ok(pushed) = client.read() {
            assert!(pushed.render().contains("\"big\""));
        }
    }
    assert_eq!(disconnections(&mut control), over.len() as u64);
    // The name takes again.
    let mut late = subscriber(&server, "SUBSCRIBE", &["big"]);
    assert_eq!(run(&mut control, "PUBLISH big y"), Value::Integer(1));
    assert_eq!(next_message(&mut late), "y");
}

/// How many connections the network executor on a CPU has.
pub(super) fn connections_on(control: &mut Client, cpu: &str) -> u64 {
    let info = info(control, "executors");
    let line = info
        .lines()
        .find(|line| line.contains(&format!(":cpu={cpu},roles=network")));
    let count = line.and_then(|line| line.split_once("connections=")?.1.split(',').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("there is no network executor on CPU {cpu}:\n{info}"))
}

/// What redis-py does with channels: a thread of its own, patterns, pushes in RESP3, a monitor.
const PYTHON: &str = r#"
import sys, threading, time, redis
protocols = ({'protocol': 2}, {'protocol': 3}) if int(redis.__version__.split('.')[0]) >= 5 else ({},)
def wanted(pubsub, kind):
    until = time.time() + 20
    while time.time() < until:
        message = pubsub.get_message(timeout=1)
        if message and message['type'] == kind:
            return message
    sys.exit(f'no {kind} came')
for protocol in protocols:
    client = redis.Redis(port=int(sys.argv[1]), **protocol)
    pubsub = client.pubsub()
    pubsub.subscribe('news', 'more')
    pubsub.psubscribe('n?ws')
    assert [wanted(pubsub, 'subscribe')['data'] for _ in range(2)] == [1, 2]
    assert wanted(pubsub, 'psubscribe')['data'] == 3
    assert client.pubsub_numsub('news') == [(b'news', 1)] and client.pubsub_numpat() == 1
    assert client.publish('news', b'\x00\r\n') == 2
    assert wanted(pubsub, 'message')['data'] == b'\x00\r\n'
    assert wanted(pubsub, 'pmessage')['pattern'] == b'n?ws'
    pubsub.unsubscribe('news')
    assert wanted(pubsub, 'unsubscribe')['channel'] == b'news'
    heard, all_heard = [], threading.Event()
    def hear(message):
        heard.append(message['data'])
        if len(heard) == 100:
            all_heard.set()
    other = client.pubsub()
    other.subscribe(chat=hear)
    wanted(other, 'subscribe')
    thread = other.run_in_thread(sleep_time=0.01)
    for n in range(100):
        client.publish('chat', n)
    all_heard.wait(20)
    thread.stop(); thread.join()
    assert heard == [str(n).encode() for n in range(100)], heard
    with client.monitor() as monitor:
        client.set('watched', 1)
        command = monitor.next_command()
        assert command['command'].split()[:2] == ['SET', 'watched'] and command['db'] == 0, command
    pubsub.close(); other.close()
print('all well with redis-py', redis.__version__)
"#;

#[test]
fn redis_py_works_with_channels() {
    let mut tried = 0;
    for python in ["python3", "/usr/bin/python3"] {
        let imported = Command::new(python).args(["-c", "import redis"]).output();
        if !imported.is_ok_and(|output| output.status.success()) {
            continue;
        }
        tried += 1;
        for flags in [one_executor(), several_executors()] {
            let server = Server::builder().flags(&flags).start();
            let port = server.address().port().to_string();
            let output = Command::new(python).args(["-c", PYTHON, &port]).output();
            let output = output.expect("python3 starts");
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("all well"), "{python}: {text}");
        }
    }
    if tried == 0 {
        println!("redis-py is not installed: it was not tried.");
    }
}
