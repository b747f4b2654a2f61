//! Corelane against redis-server, both under redis-benchmark, on this machine and in the same run: the figures of
//! README.
//!
//! `cargo bench --bench comparison` prints, for SET, GET, INCR and MSET at pipeline 1, 16 and 64 under each durability,
//! and for commands on collections and a script at pipeline 16, the medians of three interleaved rounds in thousand
//! requests per second, the ratio, and the server's CPU seconds per million requests (user and system time of the whole
//! process, from /proc). Redis runs with `appendonly yes` and `appendfsync everysec` or `always`, Corelane with
//! `durability interval` or `always`. Then come the times of a hand-over by BLPOP: from sending an RPUSH on one
//! connection to reading the element on another that waits for it. With the argument `collections` or `blocking` it
//! prints only those. It needs redis-server and redis-benchmark.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What is run against each server under each durability: as `redis-benchmark -t` names it, with the requests that
/// share one round's time.
const TESTS: [(&str, usize); 4] = [("set", 1), ("get", 1), ("incr", 1), ("mset", 8)];

const PIPELINES: [usize; 3] = [1, 16, 64];

/// Commands on collections, in an order in which each finds what it needs; `__rand_int__` is a number below a million.
const COLLECTIONS: [(&str, &[&str]); 8] = [
    ("HSET", &["hset", "hash", "field:__rand_int__", VALUE]),
    ("HGET", &["hget", "hash", "field:__rand_int__"]),
    ("LPUSH", &["lpush", "list", VALUE]),
    ("LPOP", &["lpop", "list"]),
    ("SADD", &["sadd", "set", "member:__rand_int__"]),
    ("ZADD", &["zadd", "sorted", "__rand_int__", "member:__rand_int__"]),
    ("ZRANGE of 10", &["zrange", "sorted", "1000", "1009"]),
    ("XADD", &["xadd", "stream", "*", "field", VALUE]),
];

/// Scripts.
const SCRIPTS: [(&str, &[&str]); 1] = [("EVAL of INCRBY", &["eval", INCRBY, "1", "scripted:__rand_int__", "2"])];

const INCRBY: &str = "return redis.call('incrby', KEYS[1], ARGV[1])";

/// The pipeline that all of these are run with: enough that the network does not hide the difference.
const COLLECTIONS_PIPELINE: usize = 16;

const VALUE: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";

const CLIENTS: usize = 50;

const ROUNDS: usize = 3;

/// Elements handed over by BLPOP, one after the other.
const HAND_OVERS: usize = 10_000;

/// One server of a pair, with the files it may write.
struct Server {
    name: String,
    port: u16,
    process: Child,
    _files: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the runs would have shown.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn redis(sync: &str) -> Server {
        let files = TempDir::new().expect("a temporary folder");
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            sync,
        ]);
        command.arg("--dir").arg(files.path());
        Server::start(format!("redis {sync}"), command, port, files)
    }

    fn corelane(durability: &str) -> Server {
        let files = TempDir::new().expect("a temporary folder");
        let port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
        command.args([
            "--port",
            &port.to_string(),
            "--durability",
            durability,
            "--log-level",
            "warn",
        ]);
        command.arg("--data-dir").arg(files.path());
        Server::start(format!("corelane {durability}"), command, port, files)
    }

    fn start(name: String, mut command: Command, port: u16, files: TempDir) -> Server {
        let process = command
            .stdout(Stdio::null())
            .spawn()
            .expect("the server's program is installed");
        let give_up_at = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port))
            .and_then(|mut stream| stream.write_all(b"PING\r\n"))
            .is_err()
        {
            assert!(Instant::now() < give_up_at, "{name} does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Server {
            name,
            port,
            process,
            _files: files,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server accepts");
        stream.set_nodelay(true).expect("a TCP socket has the option");
        stream
    }

    /// The times of `rounds` hand-overs by BLPOP, in microseconds, sorted.
    fn hand_over(&self, rounds: usize) -> Vec<f64> {
        let (mut giver, mut taker) = (self.connect(), self.connect());
        let mut times_us: Vec<f64> = (0..rounds)
            .map(|_| {
                exchange(&mut taker, b"PING\r\n", b"+PONG\r\n");
                taker.write_all(b"BLPOP queue 0\r\n").expect("the server reads");
                // Answered behind the BLPOP, which came before it: so that one waits by now.
                exchange(&mut giver, b"LLEN queue\r\n", b":0\r\n");
                let began = Instant::now();
                giver.write_all(b"RPUSH queue element\r\n").expect("the server reads");
                expect(&mut taker, b"*2\r\n$5\r\nqueue\r\n$7\r\nelement\r\n");
                let took = began.elapsed();
                expect(&mut giver, b":1\r\n");
                took.as_secs_f64() * 1e6
            })
            .collect();
        times_us.sort_by(f64::total_cmp);
        times_us
    }

    /// User and system time so far, in seconds.
    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("the server runs");
        // The name in parentheses may hold blanks; utime and stime are the 12th and 13th fields behind it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = [11, 12]
            .iter()
            .map(|place| fields[*place].parse::<f64>().expect("a number of ticks"))
            .sum();
        ticks / 100.0
    }

    /// Runs redis-benchmark once, with what `command` ends it with: thousand requests per second, and CPU seconds per
    /// million requests.
    fn run(&self, command: &[&str], pipeline: usize, requests: usize) -> (f64, f64) {
        let cpu_before = self.cpu_seconds();
        let output = Command::new("redis-benchmark")
            .args([
                "-p",
                &self.port.to_string(),
                "-c",
                &CLIENTS.to_string(),
                "-d",
                "64",
                "-r",
                "1000000",
                "--csv",
            ])
            .args(["-n", &requests.to_string(), "-P", &pipeline.to_string()])
            .args(command)
            .output()
            .expect("redis-benchmark is installed");
        let cpu_seconds = self.cpu_seconds() - cpu_before;
        let text = String::from_utf8_lossy(&output.stdout);
        // A header, then one line for the test.
        let line = text.lines().nth(1).unwrap_or_default();
        // The second column: "SET","123456.78",…
        let rate = line
            .split("\",\"")
            .nth(1)
            .and_then(|field| field.trim_matches('"').parse::<f64>().ok());
        let rate = rate.unwrap_or_else(|| panic!("{} did not finish {command:?}: {text}", self.name));
        (rate / 1000.0, cpu_seconds * 1e6 / requests as f64)
    }
}

fn exchange(stream: &mut TcpStream, command: &[u8], reply: &[u8]) {
    stream.write_all(command).expect("the server reads");
    expect(stream, reply);
}

fn expect(stream: &mut TcpStream, reply: &[u8]) {
    let mut got = vec![0; reply.len()];
    stream.read_exact(&mut got).expect("the server answers");
    assert_eq!(got.escape_ascii().to_string(), reply.escape_ascii().to_string());
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let small = std::env::args().any(|argument| argument == "--test");
    if Command::new("redis-server").arg("--version").output().is_err() {
        println!("skipped: redis-server is not installed");
        return;
    }
    let pairs = [
        (Server::redis("everysec"), Server::corelane("interval")),
        (Server::redis("always"), Server::corelane("always")),
    ];
    let blocking_only = std::env::args().any(|argument| argument == "blocking");
    if !blocking_only {
        compare_rates(&pairs, small);
    }
    println!("| BLPOP hand-over | p50, µs | p99, µs |");
    println!("|---|---|---|");
    for pair in &pairs {
        for server in [&pair.0, &pair.1] {
            let times_us = server.hand_over(if small { 100 } else { HAND_OVERS });
            let quantile = |share: f64| times_us[((times_us.len() - 1) as f64 * share) as usize];
            println!("| {} | {:.0} | {:.0} |", server.name, quantile(0.5), quantile(0.99));
        }
    }
}

fn compare_rates(pairs: &[(Server, Server)], small: bool) {
    println!("| | pipeline | redis-server, thousand/s (CPU s per million) | corelane | ratio |");
    println!("|---|---|---|---|---|");
    let collections_only = std::env::args().any(|argument| argument == "collections");
    for pair in pairs.iter().filter(|_| !collections_only) {
        for pipeline in PIPELINES {
            for (test, weight) in TESTS {
                let requests = requests(small, pipeline) / weight;
                compare(pair, small, &test.to_uppercase(), (&["-t", test], pipeline, requests));
            }
        }
    }
    for (name, command) in COLLECTIONS.into_iter().chain(SCRIPTS) {
        let requests = requests(small, COLLECTIONS_PIPELINE);
        compare(&pairs[0], small, name, (command, COLLECTIONS_PIPELINE, requests));
    }
}

fn requests(small: bool, pipeline: usize) -> usize {
    match (small, pipeline) {
        (true, _) => 2_000,
        (false, 1) => 100_000,
        (false, _) => 600_000,
    }
}

/// Prints a row: the medians of some rounds, in which the two servers take turns.
fn compare((redis, corelane): &(Server, Server), small: bool, name: &str, run: (&[&str], usize, usize)) {
    let (command, pipeline, requests) = run;
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..if small { 1 } else { ROUNDS } {
        for (server, figures) in [redis, corelane].into_iter().zip(&mut figures) {
            figures.push(server.run(command, pipeline, requests));
        }
    }
    let [(redis_rate, redis_cpu), (rate, cpu)] = figures.map(|rounds| {
        let (rates, cpus) = rounds.into_iter().unzip();
        (median(rates), median(cpus))
    });
    println!(
        "| {} / {}: {name} | {pipeline} | {redis_rate:.0} ({redis_cpu:.2}) | {rate:.0} ({cpu:.2}) | {:.2} |",
        redis.name,
        corelane.name,
        rate / redis_rate
    );
}
