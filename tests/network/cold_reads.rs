//! Commands that read what is not in memory wait for the disk, and nobody else does.

#![cfg(feature = "fault-injection")]

use crate::harness::client::Client;
use crate::harness::observe::{executors_sum, info_number};
use crate::harness::process::wait_for;
use crate::harness::server::{Server, allowed_cpus};
use crate::storage::Switch;
use tempfile::TempDir;

/// A server whose commands miss all that they read, and whose disk does not answer, when the switches are on.
struct Cold {
    server: Server,
    misses: Switch,
    disk_holds: Switch,
    _folder: TempDir,
}

impl Cold {
    fn start() -> Cold {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let [misses, disk_holds] = ["misses", "held"].map(|name| Switch::in_folder(folder.path(), name));
        let cpu = allowed_cpus()[0].to_string();
        let faults = format!("miss-reads={},hold-fetches={}", misses.when(), disk_holds.when());
        let server = Server::builder()
            .flags(&["--shards", "2", "--network-cores", &cpu, "--storage-cores", &cpu])
            .faults(&faults)
            .start();
        Cold {
            server,
            misses,
            disk_holds,
            _folder: folder,
        }
    }

    /// Sends commands in one go by clients of their own, and lets the first of each wait for the disk. Whoever comes
    /// later finds all in memory.
    fn wait_for_disk(&self, pipelines: &[&[&[&str]]]) -> Vec<Client> {
        let mut other = self.server.connect();
        self.disk_holds.on();
        self.misses.on();
        let send = |pipeline: &&[&[&str]]| {
            let mut client = self.server.connect();
            for command in *pipeline {
                client.send(command).expect("the server reads");
            }
            client
        };
        let clients: Vec<Client> = pipelines.iter().map(send).collect();
        let waiting = || executors_sum(&mut other, "waiting_for_disk") == pipelines.len() as u64;
        assert!(wait_for(waiting), "all wait for the disk");
        self.misses.off();
        clients
    }
}

fn replies(client: &mut Client, count: usize) -> Vec<String> {
    let mut reply = || client.read().expect("a reply").render();
    (0..count).map(|_| reply()).collect()
}

#[test]
fn a_clients_commands_wait_behind_one_that_reads_the_disk_and_the_others_are_served() {
    let cold = Cold::start();
    let mut other = cold.server.connect();
    other.command(&["SET", "a", "1"]);
    other.command(&["SET", "b", "2"]);
    let mut waiting = cold.wait_for_disk(&[&[
        &["GET", "a"],
        &["SET", "b", "3"],
        &["GET", "b"],
        &["MULTI"],
        &["INCR", "a"],
        &["EXEC"],
        &["GET", "a"],
    ]]);
    assert_eq!(other.command(&["GET", "b"]).render(), "\"2\"", "the SET waits");
    assert_eq!(other.command(&["INCR", "a"]).render(), "(integer) 2");
    assert!(waiting[0].has_no_reply());
    cold.disk_holds.off();
    let expected = ["\"2\"", "OK", "\"3\"", "OK", "QUEUED", "1) (integer) 3", "\"3\""];
    assert_eq!(replies(&mut waiting[0], 7), expected);
    assert_eq!(other.command(&["GET", "b"]).render(), "\"3\"");
}

#[test]
fn what_is_undone_to_wait_for_the_disk_is_done_once() {
    let cold = Cold::start();
    let mut other = cold.server.connect();
    other.command(&["CONFIG", "SET", "notify-keyspace-events", "KEAm"]);
    other.command(&["RPUSH", "list", "x", "y"]);
    other.command(&["SADD", "set", "m"]);
    other.command(&["WATCH", "watched"]);
    let script = "redis.call('incr', 'by script') return redis.call('get', 'absent')";
    let mut waiting = cold.wait_for_disk(&[
        &[&["EVAL", script, "0"]],
        &[&["INCRBY", "counter", "5"]],
        &[&["LMOVE", "list", "list", "LEFT", "RIGHT"]],
        &[&["SMOVE", "set", "other set", "m"]],
        &[&["BLPOP", "nothing", "0"]],
        &[&["SET", "watched", "v"]],
    ]);
    let mut events = cold.server.connect();
    events.command(&["PSUBSCRIBE", "__keyevent@0__:*"]);
    cold.disk_holds.off();
    let answers: Vec<String> = waiting[..4].iter_mut().flat_map(|client| replies(client, 1)).collect();
    assert_eq!(answers, ["(nil)", "(integer) 5", "\"x\"", "(integer) 1"]);
    assert_eq!(replies(&mut waiting[5], 1), ["OK"]);
    other.command(&["MULTI"]);
    other.command(&["PING"]);
    assert_eq!(other.command(&["EXEC"]).render(), "(nil)");
    other.command(&["RPUSH", "nothing", "v"]);
    assert_eq!(replies(&mut waiting[4], 1), ["1) \"nothing\"\n2) \"v\""]);
    assert_eq!(other.command(&["GET", "by script"]).render(), "\"1\"");
    assert_eq!(
        other.command(&["LRANGE", "list", "0", "-1"]).render(),
        "1) \"y\"\n2) \"x\""
    );
    other.command(&["PUBLISH", "__keyevent@0__:end", ""]);
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|event: &String| event.contains(":end")) {
        seen.push(events.read().expect("an event").render());
    }
    let count = |name: &str| {
        seen.iter()
            .filter(|event| event.contains(&format!(":{name}\"")))
            .count()
    };
    assert_eq!((count("incrby"), count("lpop"), count("srem")), (2, 2, 1), "{seen:?}");
    let misses = seen.iter().filter(|event| event.contains("\"absent\"")).count();
    assert_eq!(misses, 1, "{seen:?}");
}

#[test]
fn commands_that_wait_for_the_disk_are_answered_when_the_server_stops() {
    let cold = Cold::start();
    let (mut other, mut blocked) = (cold.server.connect(), cold.server.connect());
    other.command(&["SET", "a", "1"]);
    blocked.send(&["BLPOP", "nothing", "0"]).expect("the server reads");
    assert!(wait_for(|| info_number(&mut other, "clients", "blocked_clients") == 1));
    let mut waiting = cold.wait_for_disk(&[&[&["INCR", "a"], &["GET", "a"]]]);
    cold.server.process().signal(libc::SIGTERM);
    assert!(wait_for(|| blocked.is_closed()), "the server is stopping");
    cold.disk_holds.off();
    assert_eq!(replies(&mut waiting[0], 2), ["(integer) 2", "\"2\""]);
}

/// Members of a sorted set whose ranks only memory knows.
const RANKED: usize = 30_000;

#[test]
fn ranks_that_only_memory_knows_are_loaded_while_others_are_served() {
    let mut server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    for some in (0..RANKED).collect::<Vec<_>>().chunks(500) {
        let mut command = vec!["ZADD".to_owned(), "board".to_owned()];
        some.iter()
            .for_each(|number| command.extend([number.to_string(), format!("member:{number}")]));
        assert_eq!(client.command(&command).render(), "(integer) 500");
    }
    assert!(server.terminate().success());
    server.restart();
    let (mut client, mut other) = (server.connect(), server.connect());
    let before = executors_sum(&mut other, "missed_requests");
    client
        .send(&["ZRANK", "board", "member:12345"])
        .expect("the server reads");
    client
        .send(&["ZRANGE", "board", "20000", "20001"])
        .expect("the server reads");
    assert_eq!(other.command(&["PING"]).render(), "PONG");
    assert_eq!(other.command(&["INCR", "counter"]).render(), "(integer) 1");
    let range = "1) \"member:20000\"\n2) \"member:20001\"";
    assert_eq!(replies(&mut client, 2), ["(integer) 12345", range]);
    assert!(executors_sum(&mut other, "missed_requests") > before);
    // It is there now, and stays right while it is written.
    let missed = executors_sum(&mut other, "missed_requests");
    assert_eq!(
        client.command(&["ZADD", "board", "-1", "first"]).render(),
        "(integer) 1"
    );
    assert_eq!(
        client.command(&["ZRANK", "board", "member:12345"]).render(),
        "(integer) 12346"
    );
    assert_eq!(
        client.command(&["ZREVRANK", "board", "first"]).render(),
        format!("(integer) {RANKED}")
    );
    assert_eq!(executors_sum(&mut other, "missed_requests"), missed);
}

/// Each checkpoint brings files of which nothing is in memory yet.
#[test]
fn what_is_new_is_not_looked_for_on_the_disk() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    for round in 0..4 {
        for number in 0..300 {
            let key = |kind: &str| format!("{kind}:{round}:{number}");
            let commands = [
                vec!["HINCRBY".to_owned(), key("hash"), "field".to_owned(), "1".to_owned()],
                vec!["HSETNX".to_owned(), key("once"), "field".to_owned(), "1".to_owned()],
                vec!["SADD".to_owned(), key("set"), "a".to_owned(), "b".to_owned()],
                vec!["ZADD".to_owned(), key("board"), "1".to_owned(), "a".to_owned()],
                vec!["ZINCRBY".to_owned(), key("scores"), "1".to_owned(), "a".to_owned()],
                vec!["RPUSH".to_owned(), key("list"), "a".to_owned()],
                vec![
                    "XADD".to_owned(),
                    key("stream"),
                    "*".to_owned(),
                    "a".to_owned(),
                    "b".to_owned(),
                ],
            ];
            commands
                .iter()
                .for_each(|command| client.send(command).expect("the server reads"));
            let replies = replies(&mut client, commands.len());
            assert!(replies.iter().all(|reply| !reply.starts_with("(error)")), "{replies:?}");
        }
        let checkpoints = info_number(&mut client, "persistence", "log_checkpoints");
        client.command(&["BGREWRITEAOF"]);
        assert!(wait_for(
            || info_number(&mut client, "persistence", "log_checkpoints") > checkpoints
        ));
    }
    assert_eq!(executors_sum(&mut client, "missed_requests"), 0);
}
