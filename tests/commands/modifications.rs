//! Which commands modify a key in the eyes of those who WATCH it, on Corelane in three shapes and on the machine's
//! redis-server.

use std::path::Path;

use super::Shape;
use crate::harness::client::Client;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::value::Value;

fn run(client: &mut Client, line: &str) -> Value {
    // A word may be empty.
    client.command(&line.split(' ').collect::<Vec<_>>())
}

fn play(target: &str, connect: impl Fn() -> Client) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/modifications.txt");
    let text = std::fs::read_to_string(&path).expect("the list can be read");
    let (mut watcher, mut writer) = (connect(), connect());
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [expected, before, command] = parts[..] else {
            panic!("{line} has three parts");
        };
        run(&mut writer, "FLUSHALL");
        for earlier in before.split("; ").filter(|earlier| !earlier.is_empty()) {
            let reply = run(&mut writer, earlier).render();
            assert!(!reply.starts_with("(error)"), "{earlier}: {reply}");
        }
        run(&mut watcher, "WATCH k");
        run(&mut writer, command);
        run(&mut watcher, "MULTI");
        run(&mut watcher, "PING");
        let found = match run(&mut watcher, "EXEC") {
            Value::Array(None) => "modified",
            _ => "same",
        };
        if found != expected {
            wrong.push(format!("{line}: found {found}"));
        }
    }
    assert!(wrong.is_empty(), "on {target}:\n{}", wrong.join("\n"));
}

fn play_on_corelane(shape: Shape) {
    let server = Server::builder().flags(&shape.flags()).start();
    play(&format!("Corelane ({shape:?})"), || server.connect());
}

#[test]
fn every_modification_is_seen_on_one_shard() {
    play_on_corelane(Shape::OneShard);
}

#[test]
fn every_modification_is_seen_on_four_shards_of_two_executors_with_both_roles() {
    play_on_corelane(Shape::FourShardsBothRoles);
}

#[test]
fn every_modification_is_seen_on_four_shards_with_separate_executors() {
    play_on_corelane(Shape::FourShardsSeparateRoles);
}

#[test]
fn every_modification_is_seen_on_redis() {
    if let Some(redis) = RedisOracle::start() {
        let connect = || Client::connect(redis.address()).expect("redis-server takes connections");
        play(&format!("redis-server {}", redis.version()), connect);
    }
}
