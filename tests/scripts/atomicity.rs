//! A crash leaves all of a script's writes or none, short scripts and long ones.
//!
//! Clients run scripts that write one number to several keys of one tag. After `kill -9` and a restart all keys of a
//! tag hold the same number, which is the last acknowledged one or a later one that was sent.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Shape, start};
use crate::harness::client::Client;
use crate::harness::progress::Progress;
use crate::harness::value::Value;

const CLIENTS: usize = 4;
const KEYS_PER_SCRIPT: usize = 8;
const ROUNDS: usize = 4;

/// Scripts that the clients were told of when a round is killed.
const ROUND_SCRIPTS: std::ops::Range<u64> = 1..600;

/// Every tenth script is long: it runs some milliseconds between its writes.
const SCRIPT: &str = "for place, key in ipairs(KEYS) do redis.call('set', key, ARGV[1]) \
                      if ARGV[1] % 10 == 0 then for i = 1, 100000 do end end end return #KEYS";

fn keys(client: usize) -> Vec<String> {
    (0..KEYS_PER_SCRIPT)
        .map(|number| format!("{{{client}}}{number}"))
        .collect()
}

/// Writes higher and higher numbers until the server is gone; returns the last that was acknowledged and the last sent.
fn write_until_killed(address: SocketAddr, client: usize, first: u64, progress: &Progress) -> (u64, u64) {
    let keys = keys(client);
    let Ok(mut connection) = Client::connect(address) else {
        return (first, first);
    };
    let mut acknowledged = first;
    for number in first + 1.. {
        let mut command = vec!["EVAL".to_owned(), SCRIPT.to_owned(), keys.len().to_string()];
        command.extend(keys.iter().cloned());
        command.push(number.to_string());
        if connection.send(&command).is_err() {
            return (acknowledged, number);
        }
        match connection.read() {
            Ok(reply) => assert_eq!(reply, Value::Integer(keys.len() as i64)),
            Err(_) => return (acknowledged, number),
        }
        acknowledged = number;
        progress.add();
    }
    unreachable!("numbers do not end")
}

/// The number that all keys of a client hold; 0 if there are none.
fn number_of(connection: &mut Client, client: usize) -> u64 {
    let mut numbers: Vec<u64> = (keys(client).iter())
        .map(|key| match connection.command(&["GET", key]) {
            Value::Bulk(Some(digits)) => String::from_utf8_lossy(&digits).parse().expect("a number"),
            _ => 0,
        })
        .collect();
    numbers.dedup();
    assert_eq!(
        numbers.len(),
        1,
        "client {client}: a part of a script was left: {numbers:?}"
    );
    numbers[0]
}

#[test]
fn a_crash_leaves_all_of_a_script_or_nothing() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for shape in [Shape::OneShard, Shape::FourShardsBothRoles] {
        let mut server = start(shape, &[]);
        let mut last = [0; CLIENTS];
        for _ in 0..ROUNDS {
            let address = server.address();
            let progress = Progress::default();
            let writers: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (first, progress) = (last[client], progress.clone());
                    std::thread::spawn(move || write_until_killed(address, client, first, &progress))
                })
                .collect();
            progress.wait_for(random.random_range(ROUND_SCRIPTS));
            server.kill_9();
            let bounds: Vec<_> = (writers.into_iter())
                .map(|writer| writer.join().expect("a writer does not fail"))
                .collect();
            server.restart();
            let mut connection = server.connect();
            for (client, (acknowledged, sent)) in bounds.into_iter().enumerate() {
                let number = number_of(&mut connection, client);
                assert!(
                    (acknowledged..=sent).contains(&number),
                    "{acknowledged} <= {number} <= {sent}"
                );
                last[client] = number;
            }
        }
        assert!(last.iter().any(|number| *number > 0), "something was written");
    }
}
