//! What a command writes to several shards of one executor is one frame of its log: whole after any crash, also where
//! the power fails and nobody was promised that anything is on disk.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Node, key_on, seed};
use crate::harness::client::Client;
use crate::harness::progress::Progress;
use crate::harness::server::allowed_cpus;

const SHARDS: u16 = 4;
const CLIENTS: usize = 3;
const ROUNDS: usize = 3;

/// Commands that the clients were told of when a round is killed.
const ROUND_COMMANDS: std::ops::Range<u64> = 1..600;

/// Commands that are sent before the first reply is read.
const PIPELINE: u64 = 8;

/// The keys of a client, one on each shard.
fn keys(client: usize) -> Vec<String> {
    (0..SHARDS)
        .map(|shard| key_on(shard, SHARDS, &format!("{client}:")))
        .collect()
}

/// Writes numbers from `first` on until the server is gone; returns the last that was
/// acknowledged, 0 for none, and the last sent.
fn write_until_killed(address: SocketAddr, client: usize, first: u64, progress: &Progress) -> (u64, u64) {
    let (mut acknowledged, mut next, mut answered) = (0, first, first);
    let Ok(mut connection) = Client::connect(address) else {
        return (acknowledged, first - 1);
    };
    let keys = keys(client);
    loop {
        let mut bytes = String::new();
        for number in next..next + PIPELINE {
            let pairs: String = keys.iter().map(|key| format!(" {key} {number}")).collect();
            bytes += &format!("MSET{pairs}\r\n");
        }
        next += PIPELINE;
        if connection.send_bytes(bytes.as_bytes()).is_err() {
            return (acknowledged, next - 1);
        }
        for _ in 0..PIPELINE {
            match connection.read() {
                Err(_) => return (acknowledged, next - 1),
                Ok(reply) => assert_eq!(reply.render(), "OK"),
            }
            (acknowledged, answered) = (answered, answered + 1);
            progress.add();
        }
    }
}

/// The number that all keys of a client have.
fn number(connection: &mut Client, client: usize, flags: &str) -> u64 {
    let found: Vec<u64> = keys(client)
        .iter()
        .map(|key| {
            let text = connection.command(&["GET", key]).text();
            text.map_or(0, |text| text.parse().expect("a number"))
        })
        .collect();
    assert_eq!(
        found,
        vec![found[0]; keys(client).len()],
        "{flags}: a command is there in part"
    );
    found[0]
}

fn crash(durability: &str, fails_power: bool, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let cpu = allowed_cpus()[0];
    let flags = format!("--shards {SHARDS} --network-cores {cpu} --storage-cores {cpu} --durability {durability}");
    let mut node = Node::new();
    let mut first = [1; CLIENTS];
    for _ in 0..ROUNDS {
        let seals = [1, 5, 1000][random.random_range(0..3)];
        node.start(&flags, &format!("record-unsynced-log=1,seal-log=every:{seals}"));
        let address = node.address();
        let progress = Progress::default();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (first, progress) = (first[client], progress.clone());
                std::thread::spawn(move || write_until_killed(address, client, first, &progress))
            })
            .collect();
        progress.wait_for(random.random_range(ROUND_COMMANDS));
        node.kill_9();
        if fails_power {
            node.lose_power(|_, contents| random.random_range(0..contents));
        }
        node.start(&flags, "");
        let mut connection = node.connect();
        for (client, thread) in clients.into_iter().enumerate() {
            let (acknowledged, sent) = thread.join().expect("a client does not panic");
            let found = number(&mut connection, client, &flags);
            assert!(found <= sent, "{flags}: {found} was found, and {sent} sent");
            if !fails_power || durability == "always" {
                assert!(
                    found >= acknowledged,
                    "{flags}: {found} was found, {acknowledged} acknowledged"
                );
            }
            first[client] = sent + 1;
        }
        node.kill_9();
    }
}

#[test]
fn a_command_on_several_shards_of_an_executor_is_whole_after_any_crash() {
    let seed = seed("a_command_on_several_shards_of_an_executor_is_whole_after_any_crash");
    for durability in ["always", "interval", "none"] {
        crash(durability, false, seed);
        crash(durability, true, seed);
    }
}
