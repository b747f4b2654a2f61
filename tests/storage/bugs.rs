//! A bug is loud: a panic outside of a handler ends the process with a message and an exit status of its own, on
//! whatever thread it is, and the next start recovers what was acknowledged. One where a client's commands are read
//! ends that client's connection and nothing else.

use std::time::{Duration, Instant};

use super::Node;
use crate::harness::client::Client;
use crate::harness::process::SERVER_SECONDS_MAX;

/// EX_SOFTWARE of sysexits.h.
const EXIT_STATUS: i32 = 70;

/// Keys that are set one after the other, as long as the server lives; returns how many were acknowledged.
fn set_until_the_end(client: &mut Client) -> usize {
    let give_up_at = Instant::now() + Duration::from_secs(SERVER_SECONDS_MAX);
    let mut acknowledged = 0;
    while Instant::now() < give_up_at {
        let key = format!("later-{acknowledged}");
        match client.send(&["SET", &key, "v"]).and_then(|()| client.read()) {
            Ok(reply) => assert_eq!(reply.render(), "OK"),
            Err(_) => return acknowledged,
        }
        acknowledged += 1;
    }
    panic!("the server lives on after {acknowledged} commands");
}

/// Has one thread of a server panic, and looks at what becomes of the process and of its data.
fn a_bug_ends_the_process(fault: &str, thread: &str, flags: &str) {
    let mut node = Node::new();
    let switch = node.switch("bug");
    let flags = format!("--shards 2 --sync-interval-ms 10 {flags}");
    node.start(&flags, &format!("{fault}=1:{}", switch.when()));
    let mut client = node.connect();
    for number in 0..100 {
        let reply = client.command(&["SET", &format!("early-{number}"), "v"]);
        assert_eq!(reply.render(), "OK");
    }
    // What the reclaimer is for; a string so long lies in chunks.
    assert_eq!(
        client.command(&["SETRANGE", "long", "16000000", "x"]).render(),
        "(integer) 16000001"
    );
    switch.on();
    if fault == "panic-in-reclaim" {
        // The answer may or may not come before the end.
        let _ = client.send(&["DEL", "long"]);
        let _ = client.read();
    }
    let acknowledged = set_until_the_end(&mut client);
    let (status, output) = node.wait_for_end();
    assert_eq!(status.code(), Some(EXIT_STATUS), "{fault}:\n{output}");
    assert!(output.contains("a bug on request"), "{fault}:\n{output}");
    let sentence = format!("corelane: the thread {thread}");
    let has_sentence = output
        .lines()
        .any(|line| line.starts_with(&sentence) && line.contains("has panicked"));
    assert!(has_sentence, "{fault}:\n{output}");
    node.start(&flags, "");
    let mut client = node.connect();
    let keys = (0..100).map(|number| format!("early-{number}"));
    let keys = keys.chain((0..acknowledged).map(|number| format!("later-{number}")));
    let exists: Vec<String> = std::iter::once("EXISTS".to_owned()).chain(keys).collect();
    let expected = format!("(integer) {}", 100 + acknowledged);
    assert_eq!(client.command(&exists).render(), expected, "{fault}");
    let (status, output) = node.terminate();
    assert_eq!(status.code(), Some(0), "{output}");
}

#[test]
fn a_bug_on_a_network_executor_ends_the_process() {
    a_bug_ends_the_process("panic-in-network", "", "");
}

#[test]
fn a_bug_on_a_storage_executor_ends_the_process() {
    a_bug_ends_the_process(
        "panic-in-turn",
        "",
        &super::four_shards_on_two_executors().replace("--shards 4", ""),
    );
}

#[test]
fn a_bug_in_a_syncer_ends_the_process() {
    a_bug_ends_the_process("panic-in-sync", "syncer-0", "");
}

#[test]
fn a_bug_in_a_checkpointer_ends_the_process() {
    a_bug_ends_the_process("seal-log=1..,panic-in-checkpoint", "checkpointer-0", "");
}

#[test]
fn a_bug_in_a_reclaimer_ends_the_process() {
    a_bug_ends_the_process("panic-in-reclaim", "reclaimer-0", "");
}

#[test]
fn a_bug_where_commands_are_read_ends_that_connection_only() {
    let mut node = Node::new();
    let switch = node.switch("bug");
    node.start("--shards 1", &format!("panic-in-parse=1:{}", switch.when()));
    let (mut victim, mut other) = (node.connect(), node.connect());
    for client in [&mut victim, &mut other] {
        assert_eq!(client.command(&["PING"]).render(), "PONG");
    }
    // MULTI and WATCH: what a connection has under way goes with it.
    assert_eq!(victim.command(&["WATCH", "k"]).render(), "OK");
    assert_eq!(victim.command(&["MULTI"]).render(), "OK");
    assert_eq!(victim.command(&["SET", "k", "lost"]).render(), "QUEUED");
    switch.on();
    victim.send(&["EXEC"]).expect("the server reads");
    assert!(victim.is_closed());
    assert_eq!(other.command(&["GET", "k"]).render(), "(nil)");
    assert_eq!(other.command(&["SET", "k", "v"]).render(), "OK");
    let panics = node.info_section("executors");
    assert!(panics.contains("network_panics=1"), "{panics}");
    let (status, output) = node.terminate();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("a bug on request"), "{output}");
}
