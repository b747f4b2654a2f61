//! Commands on several keys over TCP: what they cost where the keys lie on one shard, on several of one storage
//! executor, and on two or four executors, where they are transactions. The first two need no locks and should cost the
//! same but for the redo record that several shards need.
//!
//! An iteration is one command on each connection (MULTI, four SETs and EXEC count as one, and so do two LMOVEs, there
//! and back), each on keys of its own. The load runs on the machine of the server, on a small one on its cores: figures
//! compare only with others of the same run, and so as ratios. Cases that need more CPUs than there are, are left out.
//!
//! Printed at the end:
//!
//! - the time from sending the commands of all connections to each one's reply, as p50 and p99;
//! - `transactions/beside`: the rate of SETs of other keys by themselves, and while other clients run MSETs on one
//!   shard and on two executors: the two should take about the same from it, since a transaction holds up nobody on
//!   other keys. What either takes is CPU time.
//!
//! `cargo bench --bench transactions -- "transactions/two executors"` measures what begins so, as with criterion.

mod common;
#[path = "common/cpus.rs"]
mod cpus;
#[path = "common/server.rs"]
mod process;

use common::{Latencies, LatencyTable};
use corelane::slots::{Slot, shard_of};
use corelane::topology::CpuId;
use criterion::{Criterion, Throughput};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Shards of every server: four executors have one each.
const SHARDS: u16 = 4;

/// Keys of each MSET and EXEC.
const KEYS: u16 = 4;

/// Connections of the load.
const CLIENTS: [usize; 2] = [1, 50];

/// Clients of each kind for the SETs beside, and how long they are counted.
const CLIENTS_BESIDE: usize = 8;
const BESIDE: Duration = Duration::from_secs(2);
const TEST_BESIDE: Duration = Duration::from_millis(50);

/// The value of every key.
const VALUE: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";

/// Where the keys of a command lie.
#[derive(Clone, Copy)]
enum Keys {
    OnOneShard,
    OnEveryShard,
}

#[derive(Clone, Copy)]
enum Load {
    Mset,
    SetsInMulti,
    Lmove,
}

const LOADS: [(&str, Load); 3] = [
    ("MSET of 4", Load::Mset),
    ("EXEC of 4 SETs", Load::SetsInMulti),
    ("LMOVE", Load::Lmove),
];

/// The server, which is killed before its directory is removed.
struct Server {
    process: process::Server,
    _directory: TempDir,
}

/// One connection of the load: what it sends again and again, and what it must get.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    expected: Vec<u8>,
    reply: Vec<u8>,
}

fn main() {
    let mut criterion = common::criterion();
    let mut table = LatencyTable::default();
    let cpus = cpus::first_cpus(SHARDS.into());
    for (name, executors, keys) in [
        ("one shard", 1, Keys::OnOneShard),
        ("four shards of one executor", 1, Keys::OnEveryShard),
        ("one shard of two executors", 2, Keys::OnOneShard),
        ("two executors", 2, Keys::OnEveryShard),
        ("four executors", 4, Keys::OnEveryShard),
    ] {
        match cpus.get(..executors) {
            Some(cpus) => measure(&mut criterion, &mut table, name, (cpus, keys)),
            None => println!("this process may use {} CPUs: {name} is left out", cpus.len()),
        }
    }
    criterion.final_summary();
    table.print();
    let mut filters = std::env::args().filter(|argument| argument.starts_with("transactions/"));
    let is_asked = filters.all(|filter| "transactions/beside".starts_with(&filter));
    if let Some(cpus) = cpus.get(..2).filter(|_| is_asked) {
        beside(cpus);
    }
}

/// Measures all loads on one server, which is started when criterion first runs one of them.
fn measure(criterion: &mut Criterion, table: &mut LatencyTable, name: &str, (cpus, keys): (&[CpuId], Keys)) {
    let mut server = None;
    for (load_name, load) in LOADS {
        let mut group = criterion.benchmark_group(format!("transactions/{name}/{load_name}"));
        for clients in CLIENTS {
            let mut connections = Vec::new();
            group.throughput(Throughput::Elements(clients as u64));
            group.bench_function(format!("{clients} clients"), |bencher| {
                let server = server.get_or_insert_with(|| Server::start(cpus));
                if connections.is_empty() {
                    connections.extend((0..clients).map(|client| server.load(load, keys, client)));
                }
                bencher.iter_custom(|rounds| {
                    let mut latencies = Latencies::new();
                    let began = Instant::now();
                    for _ in 0..rounds {
                        let sent_at = Instant::now();
                        connections.iter_mut().for_each(Connection::send);
                        for connection in &mut connections {
                            connection.receive();
                            latencies.record(sent_at.elapsed());
                        }
                    }
                    table.add(&format!("{name}, {load_name}, {clients} clients"), &latencies);
                    began.elapsed()
                });
            });
        }
        group.finish();
    }
}

/// Prints the rate of SETs alone, beside MSETs on one shard, and beside MSETs on two executors.
fn beside(cpus: &[CpuId]) {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let span = if is_test { TEST_BESIDE } else { BESIDE };
    let server = Server::start(cpus);
    let mut rate_alone = None;
    for (name, others) in [
        ("alone", None),
        ("MSETs on one shard", Some(Keys::OnOneShard)),
        ("MSETs on two executors", Some(Keys::OnEveryShard)),
    ] {
        let done = AtomicBool::new(false);
        let (sets, msets) = thread::scope(|scope| {
            let msets = others.map(|keys| {
                let (server, done) = (&server, &done);
                scope.spawn(move || {
                    run_until(
                        (0..CLIENTS_BESIDE).map(|client| server.load(Load::Mset, keys, client)),
                        done,
                    )
                })
            });
            let sets = scope.spawn(|| run_until((0..CLIENTS_BESIDE).map(|client| server.set(client)), &done));
            thread::sleep(span);
            done.store(true, Ordering::Relaxed);
            let count = |thread: thread::ScopedJoinHandle<'_, u64>| thread.join().expect("the server answers");
            (count(sets), msets.map(count))
        });
        let per_second = |count: u64| count as f64 / span.as_secs_f64() / 1000.0;
        let alone = *rate_alone.get_or_insert(per_second(sets));
        println!(
            "transactions/beside: {name:<24} {:>8.1} thousand SETs/s, {:.2} of those alone; {:.1} thousand MSETs/s",
            per_second(sets),
            per_second(sets) / alone,
            per_second(msets.unwrap_or(0)),
        );
    }
}

/// Runs a command on each connection again and again; returns how many were answered.
fn run_until(connections: impl Iterator<Item = Connection>, done: &AtomicBool) -> u64 {
    let mut connections: Vec<Connection> = connections.collect();
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        connections.iter_mut().for_each(Connection::send);
        connections.iter_mut().for_each(Connection::receive);
        count += connections.len() as u64;
    }
    count
}

impl Server {
    /// Starts the built program with an executor of both roles on each of `cpus`.
    fn start(cpus: &[CpuId]) -> Server {
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's directory can be written");
        let cpus: Vec<String> = cpus.iter().map(|cpu| cpu.number().to_string()).collect();
        let (cpus, shards) = (cpus.join(","), SHARDS.to_string());
        let flags = ["--shards", &shards, "--network-cores", &cpus, "--storage-cores", &cpus];
        Server {
            process: process::Server::start(&directory.path().join("data"), &flags),
            _directory: directory,
        }
    }

    /// A connection with keys of its own.
    fn load(&self, load: Load, keys: Keys, client: usize) -> Connection {
        let keys: Vec<String> = (0..KEYS)
            .map(|number| match keys {
                Keys::OnOneShard => key_on((client % usize::from(SHARDS)) as u16, &format!("{client}:{number}:")),
                Keys::OnEveryShard => key_on(number, &format!("{client}:{number}:")),
            })
            .collect();
        let mut connection = Connection::new(self.process.connect());
        match load {
            Load::Mset => {
                let pairs = keys.iter().flat_map(|key| [key.as_str(), VALUE]);
                connection.request = command(std::iter::once("MSET").chain(pairs));
                connection.expect(b"+OK\r\n");
            }
            Load::SetsInMulti => {
                connection.request = command(["MULTI"]);
                for key in &keys {
                    connection.request.extend(command(["SET", key, VALUE]));
                }
                connection.request.extend(command(["EXEC"]));
                let queued = b"+QUEUED\r\n".repeat(KEYS.into());
                let ran = b"+OK\r\n".repeat(KEYS.into());
                connection.expect(&[b"+OK\r\n", &queued[..], b"*4\r\n", &ran].concat());
            }
            Load::Lmove => {
                // One there and one back, so that it can go on for ever.
                let (from, to) = (format!("list:{{{}}}", keys[0]), format!("list:{{{}}}", keys[3]));
                // An earlier connection of the same number may have made it.
                connection.request = command(["LTRIM", &from, "1", "0"]);
                connection.request.extend(command(["RPUSH", &from, VALUE]));
                connection.expect(b"+OK\r\n:1\r\n");
                connection.send();
                connection.receive();
                let moved = [format!("${}\r\n", VALUE.len()).as_bytes(), VALUE.as_bytes(), b"\r\n"].concat();
                connection.request = command(["LMOVE", &from, &to, "LEFT", "LEFT"]);
                connection
                    .request
                    .extend(command(["LMOVE", &to, &from, "LEFT", "LEFT"]));
                connection.expect(&moved.repeat(2));
            }
        }
        connection
    }

    /// A connection that sets a key of its own, which no other command names.
    fn set(&self, client: usize) -> Connection {
        let mut connection = Connection::new(self.process.connect());
        connection.request = command(["SET", &format!("alone:{client}"), VALUE]);
        connection.expect(b"+OK\r\n");
        connection
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            request: Vec::new(),
            expected: Vec::new(),
            reply: Vec::new(),
        }
    }

    fn expect(&mut self, reply: &[u8]) {
        self.expected = reply.to_vec();
        self.reply = vec![0; reply.len()];
    }

    fn send(&mut self) {
        self.stream
            .write_all(&self.request)
            .expect("the server reads what it is sent");
    }

    fn receive(&mut self) {
        self.stream
            .read_exact(&mut self.reply)
            .expect("the server answers in time");
        assert!(
            self.reply == self.expected,
            "a wrong reply: {}",
            self.reply.escape_ascii()
        );
    }
}

fn command<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let words: Vec<&str> = words.into_iter().collect();
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out += &format!("${}\r\n{word}\r\n", word.len());
    }
    out.into_bytes()
}

/// A key of a shard whose name begins with `prefix`.
fn key_on(shard: u16, prefix: &str) -> String {
    (0..)
        .map(|number| format!("{prefix}{number}"))
        .find(|key| shard_of(Slot::of(key.as_bytes()), SHARDS).0 == shard)
        .expect("every shard has keys")
}
