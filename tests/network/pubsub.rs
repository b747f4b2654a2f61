//! Channels over several connections and several network executors: who gets what, in which order, and what becomes of
//! those who do not read or go away.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use socket2::SockRef;

use super::{exchange, expect, has_two_cpus, one_executor, raw, request, separate_executors, several_executors};
use crate::harness::client::Client;
use crate::harness::observe::{info, info_number};
use crate::harness::process::wait_for;
use crate::harness::redis::RedisOracle;
use crate::harness::server::{Server, allowed_cpus};
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
        let expected = b"$1\r\nv\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n\
              -ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
              context\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n\
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

/// An executor that does nothing for a while gets more lines of MONITOR than its inbox takes: nobody there may go on as
/// if nothing had been lost, and nobody else notices.
#[cfg(feature = "fault-injection")]
#[test]
fn all_listeners_of_an_executor_are_cut_off_when_its_inbox_was_full() {
    if !has_two_cpus("all_listeners_of_an_executor_are_cut_off_when_its_inbox_was_full") {
        return;
    }
    let _alone = crate::harness::process::measures();
    const MONITORS: usize = 30;
    const LINES: usize = 150;
    const LINE_BYTES: usize = 100_000;
    // The second executor has both roles, so that the fault holds it and not the first.
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0].to_string(), cpus[cpus.len() - 1].to_string());
    let both = format!("{first},{last}");
    let flags = ["--shards", "1", "--network-cores", &both, "--storage-cores", &last];
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let held = crate::storage::Switch::in_folder(folder.path(), "held");
    let faults = format!("hold-storage={}", held.when());
    let server = Server::builder().flags(&flags).faults(&faults).start();
    let mut control = server.connect();
    // New connections go to the executor that has the fewest.
    let (mut here, mut there) = (Vec::new(), Vec::new());
    while here.len() < 2 || there.len() < MONITORS + 2 {
        let before = connections_on(&mut control, &last);
        let mut client = server.connect();
        assert_eq!(run(&mut client, "PING").render(), "PONG");
        match connections_on(&mut control, &last) > before {
            true => there.push(client),
            false => here.push(client),
        }
        assert!(here.len() < 100, "no connection goes to the second executor");
    }
    let (mut flood, mut other_subscriber) = (here.remove(0), here.remove(0));
    let (mut subscriber, mut late_subscriber) = (there.remove(0), there.remove(0));
    let mut listeners: Vec<Client> = there.drain(..MONITORS).collect();
    for monitor in &mut listeners {
        assert_eq!(run(monitor, "MONITOR").render(), "OK");
    }
    run(&mut subscriber, "SUBSCRIBE channel");
    run(&mut other_subscriber, "SUBSCRIBE channel");
    let pipeline = request(&["ECHO", &"e".repeat(LINE_BYTES)]).repeat(LINES);
    let disconnections =
        |control: &mut Client| info_number(control, "stats", "client_output_buffer_limit_disconnections");
    held.on();
    flood.send_bytes(&pipeline).expect("the server reads");
    (0..LINES).for_each(|_| drop(flood.read().expect("ECHO is answered")));
    held.off();
    let is_lost = wait_for(|| disconnections(&mut control) > 0);
    assert!(is_lost);
    wait_for(|| disconnections(&mut control) > MONITORS as u64);
    assert_eq!(disconnections(&mut control), MONITORS as u64 + 1);
    assert!(subscriber.is_closed());
    // From then on it is as before.
    run(&mut late_subscriber, "SUBSCRIBE channel");
    assert_eq!(run(&mut flood, "PUBLISH channel x"), Value::Integer(2));
    assert_eq!(next_message(&mut late_subscriber), "x");
    assert_eq!(next_message(&mut other_subscriber), "x");
}

/// How many connections the network executor on a CPU has.
fn connections_on(control: &mut Client, cpu: &str) -> u64 {
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
