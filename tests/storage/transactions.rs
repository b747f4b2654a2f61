//! EXEC and crashes: of each transaction there is all or nothing, whatever commands are among it.
//!
//! Clients write the same number to several keys of one shard, again and again, with commands in between that look at
//! whole databases (those once committed what was staged before them). After a kill the keys of each client must agree.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Node, four_shards_on_two_executors, seed};
use crate::harness::client::Client;
use crate::harness::progress::Progress;
use crate::harness::value::Value;

const CLIENTS: usize = 4;
const ROUNDS: usize = 4;

/// Transactions that the clients were told of when a round is killed.
const ROUND_TRANSACTIONS: std::ops::Range<u64> = 1..1_000;

/// EXECs that are sent before the first reply is read.
const PIPELINE: usize = 8;

/// The keys of a client, all on one shard.
fn keys(client: usize) -> [String; 3] {
    ["first", "second", "third"].map(|name| format!("{{{client}}}{name}"))
}

/// Writes numbers from `first` on until the server is gone; returns the last that was acknowledged and the last sent.
fn write_until_killed(
    address: SocketAddr,
    client: usize,
    first: u64,
    between: &str,
    progress: &Progress,
) -> (u64, u64) {
    let (mut acknowledged, mut next) = (first - 1, first);
    let Ok(mut connection) = Client::connect(address) else {
        return (acknowledged, acknowledged);
    };
    let [one, two, three] = keys(client);
    loop {
        let mut bytes = String::new();
        for number in next..next + PIPELINE as u64 {
            bytes += &format!(
                "MULTI\r\nSET {one} {number}\r\n{between}LPUSH {two} {number}\r\nLTRIM {two} 0 0\r\n{between}HSET \
                 {three} f {number}\r\nEXEC\r\n"
            );
        }
        next += PIPELINE as u64;
        if connection.send_bytes(bytes.as_bytes()).is_err() {
            return (acknowledged, next - 1);
        }
        let replies = 6 + 2 * between.lines().count();
        for place in 0..PIPELINE * replies {
            match connection.read() {
                Err(_) => return (acknowledged, next - 1),
                Ok(Value::Array(Some(_))) if place % replies == replies - 1 => {
                    acknowledged += 1;
                    progress.add();
                }
                Ok(Value::Simple(_)) if place % replies < replies - 1 => {}
                Ok(reply) => panic!("a transaction was answered {}", reply.render()),
            }
        }
    }
}

/// The number in each of a client's keys.
fn numbers(connection: &mut Client, client: usize) -> [u64; 3] {
    let [one, two, three] = keys(client);
    let mut number = |words: &[&str]| {
        let text = connection.command(words).text();
        text.map_or(0, |text| text.parse().expect("a number"))
    };
    [
        number(&["GET", &one]),
        number(&["LINDEX", &two, "0"]),
        number(&["HGET", &three, "f"]),
    ]
}

fn crash(flags: &str, between: &str, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut node = Node::new();
    let mut first = [1; CLIENTS];
    let mut any_acknowledged = false;
    for _ in 0..ROUNDS {
        node.start(flags, "");
        let address = node.address();
        let progress = Progress::default();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (first, between, progress) = (first[client], between.to_owned(), progress.clone());
                std::thread::spawn(move || write_until_killed(address, client, first, &between, &progress))
            })
            .collect();
        progress.wait_for(random.random_range(ROUND_TRANSACTIONS));
        node.kill_9();
        node.start(flags, "");
        let mut connection = node.connect();
        for (client, thread) in clients.into_iter().enumerate() {
            let (acknowledged, sent) = thread.join().expect("a client does not panic");
            let found = numbers(&mut connection, client);
            assert_eq!(found, [found[0]; 3], "{flags}: a transaction is there in part");
            assert!(
                (acknowledged..=sent).contains(&found[0]),
                "{flags}: {} was found, {acknowledged} acknowledged and {sent} sent",
                found[0]
            );
            any_acknowledged |= acknowledged >= first[client];
            first[client] = sent + 1;
            let [one, two, three] = keys(client);
            // What was sent and never run must not be taken for the next round's.
            for words in [
                vec!["SET", &one, &sent.to_string()],
                vec!["LSET", &two, "0", &sent.to_string()],
                vec!["HSET", &three, "f", &sent.to_string()],
            ] {
                connection.command(&words);
            }
        }
        node.kill_9();
    }
    assert!(any_acknowledged, "no client was served before the crash");
}

#[test]
fn a_killed_process_leaves_all_of_a_transaction_or_nothing() {
    let seed = seed("a_killed_process_leaves_all_of_a_transaction_or_nothing");
    let whole_databases = "RANDOMKEY\r\nKEYS {1}*\r\nDBSIZE\r\nSCAN 0\r\n";
    crash("--shards 1", whole_databases, seed);
    crash(&four_shards_on_two_executors(), "", seed);
}
