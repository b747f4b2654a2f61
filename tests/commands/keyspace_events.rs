//! Keyspace notifications: every command's events, in their order, on Corelane in three shapes and on the machine's
//! redis-server; what a setting leaves out; and that events come when keys expire.

use std::path::Path;

use corelane::command::{Runs, WRITE};
use corelane::rows::COMMANDS;

use crate::commands::Shape;
use crate::harness::client::Client;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::transcript::Version;
use crate::harness::value::{Value, split_arguments};

/// A command and the events that it must raise, each as `DATABASE EVENT KEY`.
struct Step {
    line: usize,
    command: Vec<Vec<u8>>,
    expected: Vec<String>,
    /// The first Redis that has these events.
    since: Option<Version>,
}

fn steps() -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/keyspace_events.txt");
    let text = std::fs::read_to_string(&path).expect("the list of events can be read");
    let mut steps: Vec<Step> = Vec::new();
    let mut since = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(version) = line.strip_prefix("@redis >= ") {
            since = Some(Version::parse(version).expect("a version follows @redis >="));
        } else if let Some(command) = line.strip_prefix("> ") {
            steps.push(Step {
                line: index + 1,
                command: split_arguments(command).expect("a command is quoted as for redis-cli"),
                expected: Vec::new(),
                since: since.take(),
            });
        } else if !line.starts_with('#') && !line.is_empty() {
            let step = steps.last_mut().expect("events follow their command");
            step.expected.push(line.to_string());
        }
    }
    steps
}

/// A connection that has subscribed to all events.
struct Events(Client);

impl Events {
    fn subscribe(mut client: Client) -> Events {
        client.command(&["PSUBSCRIBE", "__key*__:*"]);
        Events(client)
    }

    /// The next message: its channel and what it says; `None` for the answer to PING.
    fn next(&mut self) -> Option<(String, String)> {
        let Value::Array(Some(elements)) = self.0.read().expect("a message comes") else {
            panic!("a message is an array");
        };
        let text = |value: &Value| match value {
            Value::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{other:?} is in a message"),
        };
        let [kind, _, rest @ ..] = elements.as_slice() else {
            panic!("{elements:?} is no message");
        };
        match (text(kind).as_str(), rest) {
            ("pmessage", [channel, message]) => Some((text(channel), text(message))),
            ("pong", []) => None,
            _ => panic!("{elements:?} is no message"),
        }
    }

    /// What has come, once at least `count` events have: all that was published before this call is among it.
    fn since_last(&mut self, count: usize) -> Vec<String> {
        let mut messages = Vec::new();
        while messages.len() < 2 * count && self.0.can_read() {
            messages.push(self.next().expect("nothing was pinged"));
        }
        self.0.send(&["PING"]).expect("the connection stands");
        while let Some(message) = self.next() {
            messages.push(message);
        }
        messages.chunks(2).map(event_of).collect()
    }
}

/// The event that is told to both of its channels.
fn event_of(messages: &[(String, String)]) -> String {
    let parts = |channel: &str, prefix: &str| {
        let (database, subject) = channel.strip_prefix(prefix)?.split_once("__:")?;
        Some((database.to_string(), subject.to_string()))
    };
    if let [(keyspace, event), (keyevent, key)] = messages
        && let Some((database, key_there)) = parts(keyspace, "__keyspace@")
        && let Some((database_there, event_there)) = parts(keyevent, "__keyevent@")
        && (&database, event, key) == (&database_there, &event_there, &key_there)
    {
        return format!("{database} {event} {key}");
    }
    format!("not one event: {messages:?}")
}

fn play(target: &str, connect: impl Fn() -> Client, version: Option<Version>) {
    let mut client = connect();
    client.command(&["FLUSHALL"]);
    let set = client.command(&["CONFIG", "SET", "notify-keyspace-events", "AKEnm"]);
    assert_eq!(set, Value::Simple("OK".into()), "{target}");
    let mut events = Events::subscribe(connect());
    let mut wrong = Vec::new();
    for step in steps() {
        if version.is_some_and(|version| step.since.is_some_and(|since| version < since)) {
            continue;
        }
        client.command(&step.command);
        let found = events.since_last(step.expected.len());
        if found != step.expected {
            let command = String::from_utf8_lossy(&step.command.join(&b' ')).into_owned();
            wrong.push(format!(
                "keyspace_events.txt:{}: {command}\n  expected {:?}\n  found    {found:?}",
                step.line, step.expected
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} commands on {target} have other events:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn play_on_corelane(shape: Shape) {
    let server = Server::builder().flags(&shape.flags()).start();
    play(&format!("Corelane ({shape:?})"), || server.connect(), None);
}

#[test]
fn every_event_comes_on_one_shard() {
    play_on_corelane(Shape::OneShard);
}

#[test]
fn every_event_comes_on_four_shards_of_two_executors_with_both_roles() {
    play_on_corelane(Shape::FourShardsBothRoles);
}

#[test]
fn every_event_comes_on_four_shards_with_separate_executors() {
    play_on_corelane(Shape::FourShardsSeparateRoles);
}

#[test]
fn every_event_comes_on_redis() {
    if let Some(redis) = RedisOracle::start() {
        let connect = || Client::connect(redis.address()).expect("redis-server takes connections");
        play(
            &format!("redis-server {}", redis.version()),
            connect,
            Some(redis.version()),
        );
    }
}

#[test]
fn every_command_that_writes_is_in_the_list_of_events() {
    let listed: Vec<String> = steps()
        .iter()
        .flat_map(|step| {
            let word = |place: usize| {
                let word = step.command.get(place).map(|word| String::from_utf8_lossy(word));
                word.unwrap_or_default().to_lowercase()
            };
            [word(0), format!("{}|{}", word(0), word(1))]
        })
        .collect();
    let missing: Vec<&str> = COMMANDS
        .iter()
        .filter(|command| command.flags.has(WRITE) && !matches!(command.runs, Runs::Container))
        // Scripts have the events of what they call.
        .filter(|command| command.group != "scripting")
        .map(|command| command.name)
        .filter(|name| !listed.iter().any(|listed| listed == name))
        .collect();
    assert!(
        missing.is_empty(),
        "tests/commands/keyspace_events.txt has no events of {missing:?}"
    );
}

#[test]
fn only_the_classes_that_are_asked_for_come_and_only_on_the_channels_that_are() {
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = server.connect();
    let mut events = server.connect();
    events.command(&["PSUBSCRIBE", "__key*__:*"]);
    let mut heard = |classes: &str| {
        assert_eq!(
            client
                .command(&["CONFIG", "SET", "notify-keyspace-events", classes])
                .render(),
            "OK"
        );
        for command in [
            &["RPUSH", "list", "a"][..],
            &["SET", "string", "a"],
            &["GET", "missing"],
            &["LPOP", "list"],
        ] {
            client.command(command);
        }
        events.send(&["PING"]).expect("the connection stands");
        let mut channels = Vec::new();
        loop {
            match events.read().expect("the server answers") {
                Value::Array(Some(elements)) if elements.len() == 4 => channels.push(elements[2].render()),
                _ => return channels.join(" "),
            }
        }
    };
    assert_eq!(heard(""), "");
    assert_eq!(heard("A"), "", "neither K nor E");
    assert_eq!(heard("KE"), "", "no class");
    assert_eq!(heard("El"), "\"__keyevent@0__:rpush\" \"__keyevent@0__:lpop\"");
    assert_eq!(heard("K$"), "\"__keyspace@0__:string\"");
    assert_eq!(heard("Kg"), "\"__keyspace@0__:list\"");
    assert_eq!(heard("Em"), "\"__keyevent@0__:keymiss\"");
    assert_eq!(heard("En"), "\"__keyevent@0__:new\"", "of the list, each time anew");
    assert_eq!(heard("Kxetd"), "");
}

#[test]
fn a_key_that_was_overwritten_after_its_deadline_has_expired_first() {
    let server = Server::builder().flags(&Shape::OneShard.flags()).start();
    let mut client = server.connect();
    client.command(&["CONFIG", "SET", "notify-keyspace-events", "AKEn"]);
    let mut events = Events::subscribe(server.connect());
    // Whether the sweep or the command comes first is left to chance, and makes no difference.
    for round in 0..50 {
        client.command(&["SET", "key", "v", "PX", "1"]);
        while client.command(&["EXISTS", "key"]).render() == "(integer) 1" {}
        client.command(&["LPUSH", "key", "a"]);
        client.command(&["DEL", "key"]);
        let expected = ["new", "set", "expire", "expired", "new", "lpush", "del"].map(|event| format!("0 {event} key"));
        assert_eq!(events.since_last(expected.len()), expected, "round {round}");
    }
}
