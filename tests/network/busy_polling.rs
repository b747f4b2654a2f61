//! An executor that has both roles and is alone asks its sockets itself while it is busy, and for a while before it
//! sleeps; what only the reactor knows of (timers, new connections, wakes of other threads) is not forgotten meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::has_two_cpus;
use crate::harness::observe::executors_sum;
use crate::harness::server::allowed_cpus;
use crate::storage::Node;

/// Commands that a client sends one after the other.
const COMMANDS: u64 = 500;

/// Clients that load the server, and how many commands each pipelines.
const LOADING_CLIENTS: usize = 8;
const PIPELINE: usize = 16;

/// How long what must not be forgotten may take on a busy machine.
const NOT_FORGOTTEN_MAX: Duration = Duration::from_secs(5);

fn on_one_cpu(more: &str) -> String {
    let cpu = allowed_cpus()[0];
    format!("--network-cores {cpu} --storage-cores {cpu} {more}")
}

/// Sends commands one after the other; returns how many reads were told of without the reactor.
fn polled_reads(node: &Node) -> u64 {
    let mut client = node.connect();
    for number in 0..COMMANDS {
        let number = number.to_string();
        client.command(&["SET", "key", &number]);
        assert_eq!(client.command(&["GET", "key"]).text(), Some(number));
    }
    executors_sum(&mut client, "polled_reads")
}

#[test]
fn a_client_that_waits_for_each_reply_is_read_without_the_reactor() {
    let node = Node::started(&on_one_cpu("--spin-before-park-us 1000"));
    let polled = polled_reads(&node);
    assert!(polled > COMMANDS, "{polled} of {} reads", 2 * COMMANDS);
    let mut client = node.connect();
    let (spins, won) = (
        executors_sum(&mut client, "spins"),
        executors_sum(&mut client, "spins_won"),
    );
    assert!(spins >= won && won > 0, "{won} of {spins} spins were won");
}

#[test]
fn an_executor_that_waits_for_another_does_not_poll() {
    if !has_two_cpus("an_executor_that_waits_for_another_does_not_poll") {
        return;
    }
    let cpus = allowed_cpus();
    let node = Node::started(&format!("--network-cores {} --storage-cores {}", cpus[0], cpus[1]));
    assert_eq!(polled_reads(&node), 0);
}

#[test]
fn what_only_the_reactor_knows_of_is_not_forgotten_under_load() {
    let node = Node::started(&on_one_cpu("--spin-before-park-us 1000"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for loading in 0..LOADING_CLIENTS {
            let (node, is_over) = (&node, &is_over);
            scope.spawn(move || {
                let mut client = node.connect();
                let key = format!("load:{loading}");
                let commands = vec![vec!["INCR", key.as_str()]; PIPELINE];
                while !is_over.load(Ordering::Relaxed) {
                    for command in &commands {
                        client.send(command).expect("the server reads");
                    }
                    for _ in &commands {
                        client.read().expect("the server answers");
                    }
                }
            });
        }
        let _end = EndsLoad(&is_over);
        look_after_what_the_reactor_knows(&node);
    });
}

/// Ends the load, also when the test fails.
struct EndsLoad<'a>(&'a AtomicBool);

impl Drop for EndsLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn look_after_what_the_reactor_knows(node: &Node) {
    // A new connection; a timer of the executor; a key's deadline; a sync by another thread.
    let mut client = node.connect();
    let began = Instant::now();
    client.command(&["BLPOP", "nothing", "0.05"]);
    assert!(began.elapsed() < NOT_FORGOTTEN_MAX, "BLPOP took {:?}", began.elapsed());
    let mut watcher = node.connect();
    client.command(&["CONFIG", "SET", "notify-keyspace-events", "Ex"]);
    watcher.command(&["SUBSCRIBE", "__keyevent@0__:expired"]);
    let began = Instant::now();
    client.command(&["SET", "short", "v", "PX", "20"]);
    watcher.read().expect("the server tells of it");
    assert!(began.elapsed() < NOT_FORGOTTEN_MAX, "expiry took {:?}", began.elapsed());
    client.command(&["CONFIG", "SET", "durability", "always"]);
    let began = Instant::now();
    assert_eq!(client.command(&["SET", "durable", "v"]).text().as_deref(), Some("OK"));
    assert!(began.elapsed() < NOT_FORGOTTEN_MAX, "a sync took {:?}", began.elapsed());
    assert!(
        executors_sum(&mut client, "polled_reads") > 0,
        "the load was not polled for"
    );
}
