//! One client that waits for each answer: Corelane against redis-server, in the same run.
//!
//! `cargo bench --bench one_client` prints, as medians over interleaved rounds and quantiles over all of them, the time
//! of GET and SET, of a hand-over by BLPOP (from sending an RPUSH on one connection to reading the element on another
//! that waits for it), and of PUBLISH to one subscriber (from sending it to reading the message), with Corelane's p50
//! by Redis's: 1.1 is a tenth slower.
//!
//! Options after `--`: `exchanges=10000` of a round, `rounds=5`, `durability=interval,always`, and `shards`,
//! `executors`, `flags`, `directory` as in comparison; words select cases (`get`, `set`, `blpop`, `publish`).

#[path = "measured/mod.rs"]
mod measured;

use measured::options::{Durability, Options};
use measured::servers::{self, Kind, Server, Setup, resp};
use measured::{Latencies, machine, median};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const OPTIONS: &[&str] = &["exchanges", "rounds", "durability"];

const VALUE: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";

/// The share of a round's exchanges that come first and do not count, as a divisor.
const WARM_UP_DIVISOR: usize = 20;

#[derive(Clone, Copy)]
enum Case {
    Set,
    Get,
    BlpopHandOver,
    Publish,
}

impl Case {
    const ALL: [Case; 4] = [Case::Get, Case::Set, Case::BlpopHandOver, Case::Publish];

    fn name(self) -> &'static str {
        match self {
            Case::Set => "SET",
            Case::Get => "GET",
            Case::BlpopHandOver => "BLPOP hand-over",
            Case::Publish => "PUBLISH to one",
        }
    }

    fn is_selected(self, filters: &[String]) -> bool {
        let name = self.name().to_lowercase();
        filters.is_empty() || filters.iter().any(|filter| name.starts_with(&filter.to_lowercase()))
    }
}

/// What the rounds of one server came to.
struct Figures {
    latencies: Latencies,
    /// One of each round.
    p50s_us: Vec<f64>,
}

fn main() {
    let options = Options::read(OPTIONS, &[]);
    let cases: Vec<Case> = Case::ALL
        .into_iter()
        .filter(|case| case.is_selected(&options.filters))
        .collect();
    if cases.is_empty() {
        println!("no case is selected");
        return;
    }
    if !servers::redis_is_installed() {
        println!("skipped: redis-server is not installed");
        return;
    }
    let exchanges: usize = options.value("exchanges", if options.is_test { 20 } else { 10_000 });
    let rounds: usize = options.value("rounds", if options.is_test { 1 } else { 5 });
    let setups = Setup::read_all(&options, "interval,always");
    let files = servers::directory(&options);
    machine::print_heading(&options, &Kind::BOTH, &setups, files.path());
    println!("{rounds} interleaved round(s) of {exchanges}, one at a time\n");
    println!("| durability | | redis-server: p50, p99, p99.9 µs | corelane: p50, p99, p99.9 µs | p50 by Redis's |");
    println!("|---|---|---|---|---|");
    for setup in &setups {
        let start = |kind| {
            let files = servers::directory(&options);
            (Server::start(kind, setup, files.path()), files)
        };
        let pair: [(Server, TempDir); 2] = Kind::BOTH.map(start);
        for (server, _) in &pair {
            // The key that GET asks for.
            exchange(server, &["SET", "key", VALUE], b"+OK\r\n", 1);
        }
        for case in &cases {
            compare(&pair, setup.durability, *case, (rounds, exchanges));
        }
    }
}

/// Prints a row.
fn compare(pair: &[(Server, TempDir); 2], durability: Durability, case: Case, (rounds, exchanges): (usize, usize)) {
    let mut figures = [(); 2].map(|()| Figures {
        latencies: Latencies::new(),
        p50s_us: Vec::new(),
    });
    for _ in 0..rounds {
        for ((server, _), figures) in pair.iter().zip(&mut figures) {
            let mut latencies = Latencies::new();
            let times = match case {
                Case::Set => exchange(server, &["SET", "key", VALUE], b"+OK\r\n", exchanges),
                Case::Get => {
                    let reply = format!("${}\r\n{VALUE}\r\n", VALUE.len());
                    exchange(server, &["GET", "key"], reply.as_bytes(), exchanges)
                }
                Case::BlpopHandOver => hand_over(server, exchanges),
                Case::Publish => publish(server, exchanges),
            };
            times
                .into_iter()
                .skip(exchanges / WARM_UP_DIVISOR)
                .for_each(|time| latencies.record(time));
            figures.p50s_us.push(latencies.quantile_us(0.5));
            figures.latencies.add(&latencies);
        }
    }
    let [redis, corelane] = figures.map(|figures| {
        let p50_us = median(figures.p50s_us);
        let [p99, p999] = [0.99, 0.999].map(|share| figures.latencies.quantile_us(share));
        (p50_us, format!("{p50_us:.1}, {p99:.1}, {p999:.1}"))
    });
    println!(
        "| {durability} | {} | {} | {} | {:.2} |",
        case.name(),
        redis.1,
        corelane.1,
        corelane.0 / redis.0
    );
}

/// The times of a command on one connection.
fn exchange(server: &Server, command: &[&str], reply: &[u8], exchanges: usize) -> Vec<Duration> {
    let mut stream = server.connect();
    let request = resp(command);
    let time = |_| {
        let began = Instant::now();
        stream.write_all(&request).expect("the server reads");
        expect(&mut stream, reply);
        began.elapsed()
    };
    (0..exchanges).map(time).collect()
}

/// The times from an RPUSH to its element at a client that waits.
fn hand_over(server: &Server, exchanges: usize) -> Vec<Duration> {
    let (mut giver, mut taker) = (server.connect(), server.connect());
    let (take, give, count) = (
        resp(&["BLPOP", "queue", "0"]),
        resp(&["RPUSH", "queue", "element"]),
        resp(&["LLEN", "queue"]),
    );
    let time = |_| {
        // The connection is in use by now, as the giver's is.
        taker.write_all(&resp(&["PING"])).expect("the server reads");
        expect(&mut taker, b"+PONG\r\n");
        taker.write_all(&take).expect("the server reads");
        // Answered behind the BLPOP, which came before it: so that one waits by now.
        giver.write_all(&count).expect("the server reads");
        expect(&mut giver, b":0\r\n");
        let began = Instant::now();
        giver.write_all(&give).expect("the server reads");
        expect(&mut taker, b"*2\r\n$5\r\nqueue\r\n$7\r\nelement\r\n");
        let took = began.elapsed();
        expect(&mut giver, b":1\r\n");
        took
    };
    (0..exchanges).map(time).collect()
}

/// The times from a PUBLISH to its message at the one subscriber.
fn publish(server: &Server, exchanges: usize) -> Vec<Duration> {
    let (mut publisher, mut subscriber) = (server.connect(), server.connect());
    subscriber
        .write_all(&resp(&["SUBSCRIBE", "channel"]))
        .expect("the server reads");
    expect(&mut subscriber, b"*3\r\n$9\r\nsubscribe\r\n$7\r\nchannel\r\n:1\r\n");
    let publish = resp(&["PUBLISH", "channel", VALUE]);
    let message = format!(
        "*3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n${}\r\n{VALUE}\r\n",
        VALUE.len()
    );
    let time = |_| {
        let began = Instant::now();
        publisher.write_all(&publish).expect("the server reads");
        expect(&mut subscriber, message.as_bytes());
        let took = began.elapsed();
        expect(&mut publisher, b":1\r\n");
        took
    };
    (0..exchanges).map(time).collect()
}

fn expect(stream: &mut TcpStream, reply: &[u8]) {
    let mut got = vec![0; reply.len()];
    stream.read_exact(&mut got).expect("the server answers in time");
    assert!(got == reply, "{} came", got.escape_ascii());
}
