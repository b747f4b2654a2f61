//! The whole server over TCP: the built program, loaded by 50 connections at pipeline 1, 16 and 64, once with one
//! executor for both roles and once with a network and a storage executor on cores of their own.
//!
//! An iteration is one pipeline on each connection, so the throughput is in commands. The load is made by two threads
//! on the same machine: on a small one they take cores from the server, and figures compare only with others of the
//! same machine. The time from sending a pipeline to reading its last reply is printed at the end, as p50 and p99.

mod common;
#[path = "common/cpus.rs"]
mod cpus;
#[path = "common/server.rs"]
mod process;

use common::{Latencies, LatencyTable};
use corelane::topology::CpuId;
use criterion::{Criterion, Throughput};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Connections of the load, half of them per thread.
const CONNECTIONS: usize = 50;
const LOAD_THREADS: usize = 2;

/// Commands that a connection sends before it waits for their replies.
const PIPELINES: [usize; 3] = [1, 16, 64];

/// Commands of one transaction: what is between MULTI and EXEC.
const TRANSACTION: usize = 8;

/// Keys that are set and got, at random: more than the CPU's caches hold with their values.
const KEY_COUNT: u64 = 100_000;

/// The digits of a key that vary.
const KEY_DIGITS: usize = 5;
const _: () = assert!(KEY_COUNT == 10u64.pow(KEY_DIGITS as u32));

/// The value of every key.
const VALUE: &[u8] = &[b'v'; 64];

/// Keys that are set per write while the keys are made: few enough that the replies wait in the sockets' buffers.
const FILL_PIPELINE: u64 = 1000;
const _: () = assert!(KEY_COUNT.is_multiple_of(FILL_PIPELINE));

/// What a connection sends, and what it must get.
#[derive(Clone, Copy)]
enum Load {
    Set,
    Get,
    /// The same as [`Load::Set`], in transactions of [`TRANSACTION`].
    SetInMulti,
}

/// The server with its keys, which is killed before its directory is removed.
struct Server {
    process: process::Server,
    _directory: TempDir,
}

/// One connection of the load.
struct Connection {
    stream: TcpStream,
    /// The pipeline; the varying digits of its keys are written anew each time.
    requests: Vec<u8>,
    /// Where those digits are.
    key_positions: Vec<usize>,
    expected: Vec<u8>,
    replies: Vec<u8>,
    random: u64,
    sent_at: Instant,
}

fn main() {
    let mut criterion = common::criterion();
    let mut table = LatencyTable::default();
    let cpus = cpus::first_cpus(2);
    measure(&mut criterion, &mut table, "one executor", cpus[0], cpus[0]);
    match cpus.get(1) {
        Some(second) => measure(&mut criterion, &mut table, "two executors", cpus[0], *second),
        None => println!("this process may use only one CPU: the cases with two executors are left out"),
    }
    criterion.final_summary();
    table.print();
}

/// Measures all loads on one core map; its server is started when criterion first runs one of them.
fn measure(criterion: &mut Criterion, table: &mut LatencyTable, map: &str, network: CpuId, storage: CpuId) {
    let mut server = None;
    for (name, load) in [
        ("SET", Load::Set),
        ("SET in MULTI", Load::SetInMulti),
        ("GET", Load::Get),
    ] {
        let mut group = criterion.benchmark_group(format!("server/{map}/{name}"));
        let is_whole = |pipeline: &usize| !matches!(load, Load::SetInMulti) || pipeline.is_multiple_of(TRANSACTION);
        for pipeline in PIPELINES.into_iter().filter(is_whole) {
            let mut connections = Vec::new();
            group.throughput(Throughput::Elements((CONNECTIONS * pipeline) as u64));
            group.bench_function(format!("pipeline {pipeline}"), |bencher| {
                let server = server.get_or_insert_with(|| Server::start(network, storage));
                if connections.is_empty() {
                    connections.extend((1..=CONNECTIONS as u64).map(|seed| server.load(load, pipeline, seed)));
                }
                bencher.iter_custom(|rounds| {
                    let (elapsed, latencies) = run(&mut connections, rounds);
                    table.add(&format!("{map}, {name}, pipeline {pipeline}"), &latencies);
                    elapsed
                });
            });
        }
        group.finish();
    }
}

/// Sends `rounds` pipelines on each connection; the time until all replies were read.
fn run(connections: &mut [Connection], rounds: u64) -> (Duration, Latencies) {
    let mut latencies = Latencies::new();
    let started = Instant::now();
    thread::scope(|scope| {
        let shares = connections.chunks_mut(CONNECTIONS / LOAD_THREADS);
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || drive(share, rounds))).collect();
        for thread in threads {
            latencies.add(&thread.join().expect("the server answers every command as it should"));
        }
    });
    (started.elapsed(), latencies)
}

/// Takes the connections in turn: reads the replies of one and sends its next pipeline, while the server works on those
/// of the others.
fn drive(connections: &mut [Connection], rounds: u64) -> Latencies {
    let mut latencies = Latencies::new();
    connections.iter_mut().for_each(Connection::send);
    for round in 1..=rounds {
        for connection in connections.iter_mut() {
            latencies.record(connection.receive());
            if round < rounds {
                connection.send();
            }
        }
    }
    latencies
}

impl Server {
    /// Starts the built program with the default settings but for the core map, and fills it.
    fn start(network: CpuId, storage: CpuId) -> Server {
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's directory can be written");
        let (network, storage) = (network.number().to_string(), storage.number().to_string());
        let server = Server {
            process: process::Server::start(
                &directory.path().join("data"),
                &["--network-cores", &network, "--storage-cores", &storage],
            ),
            _directory: directory,
        };
        server.fill();
        server
    }

    /// Sets every key.
    fn fill(&self) {
        let mut connection = Connection::new(self.process.connect(), Load::Set, FILL_PIPELINE as usize, 0);
        for first in (0..KEY_COUNT).step_by(FILL_PIPELINE as usize) {
            for (place, key) in (first..first + FILL_PIPELINE).enumerate() {
                connection.write_key(place, key);
            }
            connection.write();
            connection.receive();
        }
    }

    fn load(&self, load: Load, pipeline: usize, seed: u64) -> Connection {
        Connection::new(self.process.connect(), load, pipeline, seed)
    }
}

impl Connection {
    /// `seed` decides on the keys.
    fn new(stream: TcpStream, load: Load, pipeline: usize, seed: u64) -> Connection {
        let (mut before_key, mut after_key, reply) = match load {
            Load::Set | Load::SetInMulti => (
                b"*3\r\n$3\r\nSET\r\n".to_vec(),
                format!("\r\n${}\r\n", VALUE.len()).into_bytes(),
                b"+OK\r\n".to_vec(),
            ),
            Load::Get => (b"*2\r\n$3\r\nGET\r\n".to_vec(), Vec::new(), bulk(VALUE)),
        };
        let key_prefix = "key:0000000";
        before_key.extend_from_slice(format!("${}\r\n{key_prefix}", key_prefix.len() + KEY_DIGITS).as_bytes());
        if !matches!(load, Load::Get) {
            after_key.extend_from_slice(VALUE);
        }
        after_key.extend_from_slice(b"\r\n");
        let mut requests = Vec::new();
        let mut key_positions = Vec::new();
        let mut expected = Vec::new();
        let in_multi = matches!(load, Load::SetInMulti);
        for place in 0..pipeline {
            if in_multi && place % TRANSACTION == 0 {
                requests.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
                expected.extend_from_slice(b"+OK\r\n");
            }
            requests.extend_from_slice(&before_key);
            key_positions.push(requests.len());
            requests.extend_from_slice(&[b'0'; KEY_DIGITS]);
            requests.extend_from_slice(&after_key);
            expected.extend_from_slice(if in_multi { b"+QUEUED\r\n" } else { &reply });
            if in_multi && (place + 1) % TRANSACTION == 0 {
                requests.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
                expected.extend_from_slice(format!("*{TRANSACTION}\r\n").as_bytes());
                expected.extend(reply.repeat(TRANSACTION));
            }
        }
        Connection {
            stream,
            requests,
            key_positions,
            replies: vec![0; expected.len()],
            expected,
            random: seed,
            sent_at: Instant::now(),
        }
    }

    /// Sends a pipeline with keys at random.
    fn send(&mut self) {
        for place in 0..self.key_positions.len() {
            let key = self.next_random() % KEY_COUNT;
            self.write_key(place, key);
        }
        self.write();
    }

    fn write(&mut self) {
        self.sent_at = Instant::now();
        self.stream
            .write_all(&self.requests)
            .expect("the server reads what it is sent");
    }

    /// Reads a pipeline's replies; the time since it was sent.
    fn receive(&mut self) -> Duration {
        self.stream
            .read_exact(&mut self.replies)
            .expect("the server answers in time");
        let took = self.sent_at.elapsed();
        assert!(
            self.replies == self.expected,
            "a wrong reply among {}",
            self.replies.escape_ascii()
        );
        took
    }

    fn write_key(&mut self, place: usize, mut key: u64) {
        let start = self.key_positions[place];
        for digit in self.requests[start..start + KEY_DIGITS].iter_mut().rev() {
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
    }

    /// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}
