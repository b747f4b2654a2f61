//! Collections over TCP: what one member costs in a hash, list, set, sorted set or stream of 16 and of a million
//! members. Both should cost about the same: no operation here should depend on how large the collection is.
//!
//! An iteration is one pipeline on one connection, so the throughput is in commands (in pairs of commands for `delete`,
//! which puts back what it deletes). The load runs on the same machine as the server. The operations follow one another
//! on the same collections, so that a later one finds what members that came and went have left on disk: tombstones,
//! which a walk must not pass one by one.
//!
//! Two figures are printed at the end:
//!
//! - `collections/delete_10_million`: the latencies of HGET of one field of a hash of 10 million and of one of 16; then
//!   how long DEL, UNLINK, SET over it and its expiry take to answer, when the bytes of the data directory are back
//!   below a tenth, and the latencies of GET until then. It has 1 million fields unless `CORELANE_BENCH_FULL` is set,
//!   since the load takes a while.
//! - `collections/get_during_hgetall`: the latencies of GET on one connection while another reads HGETALL of 5 million
//!   fields (1 million likewise), beside the same GETs without it.
//!
//! `cargo bench --bench collections -- collections/hash` measures what begins so, as with criterion.

mod common;
#[path = "common/server.rs"]
mod server;

use common::{Latencies, LatencyTable};
use criterion::{BenchmarkId, Criterion, Throughput};
use server::Server;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Commands in a pipeline: enough that the network does not hide what they cost.
const PIPELINE: usize = 64;

/// Members of the collections.
const SMALL_SIZE: u64 = 16;
const LARGE_SIZE: u64 = 1_000_000;

/// Members that one range asks for.
const RANGE_MEMBERS: u64 = 100;

/// Members per write while a collection is made: few enough that the replies wait in the socket's buffers.
const FILL_MEMBERS: u64 = 1000;

/// The value of every field, element and entry: small, so that it is the member's own cost that shows.
const VALUE: &str = "vvvvvvvvvvvvvvvv";

/// Fields of the hash that is deleted, and of the one that is read whole.
const DELETED_FIELDS: u64 = 10_000_000;
const READ_FIELDS: u64 = 5_000_000;

/// Fields of both unless [`FULL_VARIABLE`] is set.
const QUICK_FIELDS: u64 = 1_000_000;

/// The environment variable that asks for the full sizes.
const FULL_VARIABLE: &str = "CORELANE_BENCH_FULL";

/// Sizes with `--test`, which only has to show that all of it runs.
const TEST_SIZE: u64 = 1000;

/// How long compaction may take to give the space back.
const SPACE_WAIT_MAX: Duration = Duration::from_secs(60);
const TEST_SPACE_WAIT_MAX: Duration = Duration::from_millis(100);

/// Pause between two looks at the data directory.
const SPACE_PAUSE: Duration = Duration::from_millis(100);

/// GETs without HGETALL, and HGETs of one field, for the figures beside.
const GETS_ALONE: usize = 20_000;

/// Bytes that are read from the socket at a time: as a client that keeps up with large replies does.
const READ_BYTES: usize = 256 * 1024;

#[derive(Clone, Copy)]
enum Family {
    Hash,
    List,
    Set,
    SortedSet,
    Stream,
}

#[derive(Clone, Copy)]
enum Operation {
    /// One new member; after the pipeline as many are deleted.
    Add,
    /// One member, at random.
    Read,
    /// The rank of one member of a sorted set, at random.
    Rank,
    /// A hundred members: from the middle of what has an order, else the beginning of a scan.
    Range,
    /// Deletes a member, and puts it back: in a list and a stream the first one goes, and a new one comes at the end.
    Delete,
}

/// A server with the default settings but for one shard, killed before its directory is removed.
struct Running {
    server: Server,
    directory: TempDir,
}

/// Commands to be sent at once.
#[derive(Default)]
struct Pipeline {
    bytes: Vec<u8>,
    commands: usize,
}

struct Connection {
    stream: BufReader<TcpStream>,
    /// The line of a reply that is being read.
    line: Vec<u8>,
}

/// A collection whose members are known by numbers: 0 to `size`, but for a stream, whose entries move on.
struct Collection {
    family: Family,
    key: String,
    size: u64,
    /// The number of a stream's first entry.
    first: u64,
    /// The number of the next new member.
    next: u64,
    random: u64,
}

fn main() {
    let small = std::env::args().any(|argument| argument == "--test");
    let mut criterion = common::criterion();
    measure_families(&mut criterion, if small { TEST_SIZE } else { LARGE_SIZE });
    criterion.final_summary();
    let size = |full: u64| match (small, std::env::var_os(FULL_VARIABLE)) {
        (true, _) => TEST_SIZE,
        (false, None) => QUICK_FIELDS,
        (false, Some(_)) => full,
    };
    let gets_alone = if small { TEST_SIZE as usize } else { GETS_ALONE };
    if is_selected("collections/delete_10_million") {
        let wait_max = if small { TEST_SPACE_WAIT_MAX } else { SPACE_WAIT_MAX };
        delete_a_large_hash(size(DELETED_FIELDS), wait_max, gets_alone);
    }
    if is_selected("collections/get_during_hgetall") {
        get_during_hgetall(size(READ_FIELDS), gets_alone);
    }
}

/// Whether the command line lets a figure be printed: as criterion's filters, which are not options.
fn is_selected(id: &str) -> bool {
    let mut filters = std::env::args()
        .filter(|argument| argument.starts_with("collections"))
        .peekable();
    filters.peek().is_none() || filters.any(|filter| id.starts_with(&filter))
}

/// Measures all operations on all families; what they need is made when criterion first runs one of them.
fn measure_families(criterion: &mut Criterion, large_size: u64) {
    let mut running = None;
    let mut connection = None;
    for family in Family::ALL {
        let mut group = criterion.benchmark_group(format!("collections/{}", family.name()));
        group.throughput(Throughput::Elements(PIPELINE as u64));
        for size in [SMALL_SIZE, large_size] {
            let mut collection = None;
            for (name, operation) in family.operations() {
                group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                    let running = running.get_or_insert_with(Running::start);
                    let connection = connection.get_or_insert_with(|| running.connect());
                    let collection = collection.get_or_insert_with(|| {
                        let mut collection = Collection::new(family, size);
                        collection.fill(connection);
                        collection
                    });
                    bencher.iter_custom(|rounds| collection.run(connection, *operation, rounds));
                });
            }
        }
        group.finish();
    }
}

/// Prints what it costs to read one field of a large hash and to get rid of all, and when their space is free again.
fn delete_a_large_hash(fields: u64, wait_max: Duration, gets: usize) {
    let running = Running::start();
    let mut connection = running.connect();
    let mut hash = Collection::new(Family::Hash, fields);
    let ways: [(&str, &[&str]); 4] = [
        ("DEL", &["DEL", &hash.key.clone()]),
        ("UNLINK", &["UNLINK", &hash.key.clone()]),
        ("SET over it", &["SET", &hash.key.clone(), VALUE]),
        ("expiry", &["PEXPIRE", &hash.key.clone(), "1"]),
    ];
    let mut table = LatencyTable::default();
    for (number, (name, command)) in ways.iter().enumerate() {
        let began = Instant::now();
        hash.fill(&mut connection);
        let loaded = began.elapsed();
        if number == 0 {
            read_one_field(&mut connection, &mut hash, gets, &mut table);
        }
        let bytes_before = running.bytes();
        let (mut set, mut delete) = (Pipeline::default(), Pipeline::default());
        set.push(&["SET", "key", VALUE]);
        connection.run(&set);
        delete.push(command);
        let mut took = connection.run(&delete);
        let deleted_at = Instant::now();
        if *name == "expiry" {
            took = slowest_until_gone(&mut connection, &hash.key);
        }
        let (bytes, latencies) = wait_for_space(&running, &mut connection, bytes_before / 10, wait_max);
        table.add(&format!("collections/delete_10_million: GET after {name}"), &latencies);
        println!(
            "collections/delete_10_million: {name} of {fields} fields (loaded in {:.1} s) answers in {:.3} ms; the data \
             directory has {:.1} MB before it, {:.1} MB {:.1} s after it",
            loaded.as_secs_f64(),
            took.as_secs_f64() * 1e3,
            bytes_before as f64 / 1e6,
            bytes as f64 / 1e6,
            deleted_at.elapsed().as_secs_f64()
        );
        let mut clear = Pipeline::default();
        clear.push(&["FLUSHALL"]);
        connection.run(&clear);
    }
    table.print();
}

/// Adds the latencies of HGET of one field, at random, of a hash of 16 and of the large one.
fn read_one_field(connection: &mut Connection, large: &mut Collection, gets: usize, table: &mut LatencyTable) {
    let mut small = Collection::new(Family::Hash, SMALL_SIZE);
    small.fill(connection);
    let mut get = Pipeline::default();
    for hash in [&mut small, large] {
        let mut latencies = Latencies::new();
        for _ in 0..gets {
            get.clear();
            hash.push(Operation::Read, &mut get, &mut Pipeline::default());
            latencies.record(connection.run(&get));
        }
        table.add(
            &format!("collections/delete_10_million: HGET of {} fields", hash.size),
            &latencies,
        );
    }
}

/// Asks for a key until it has expired: the slowest answer.
fn slowest_until_gone(connection: &mut Connection, key: &str) -> Duration {
    let mut ask = Pipeline::default();
    ask.push(&["TYPE", key]);
    let mut slowest = Duration::ZERO;
    while connection.line != b"+none\r\n" {
        slowest = slowest.max(connection.run(&ask));
    }
    slowest
}

/// Waits until the data directory has no more than `bytes_max`, with one GET after the other: its bytes, and how long
/// they took.
fn wait_for_space(
    running: &Running,
    connection: &mut Connection,
    bytes_max: u64,
    wait_max: Duration,
) -> (u64, Latencies) {
    let began = Instant::now();
    let mut get = Pipeline::default();
    get.push(&["GET", "key"]);
    let mut latencies = Latencies::new();
    loop {
        let bytes = running.bytes();
        if bytes <= bytes_max || began.elapsed() >= wait_max {
            return (bytes, latencies);
        }
        let looked_at = Instant::now();
        while looked_at.elapsed() < SPACE_PAUSE {
            latencies.record(connection.run(&get));
        }
    }
}

/// Prints the latencies of GET while another connection reads HGETALL of a large hash, and without that.
fn get_during_hgetall(fields: u64, gets_alone: usize) {
    let running = Running::start();
    let mut connection = running.connect();
    let mut hash = Collection::new(Family::Hash, fields);
    hash.fill(&mut connection);
    let mut set = Pipeline::default();
    set.push(&["SET", "key", VALUE]);
    connection.run(&set);
    let mut get = Pipeline::default();
    get.push(&["GET", "key"]);

    let mut table = LatencyTable::default();
    let mut alone = Latencies::new();
    for _ in 0..gets_alone {
        alone.record(connection.run(&get));
    }
    table.add("collections/get_during_hgetall: GET alone", &alone);

    let mut reading = running.connect();
    let mut read_all = Pipeline::default();
    read_all.push(&["HGETALL", &hash.key]);
    let mut beside = Latencies::new();
    let took = thread::scope(|scope| {
        let reader = scope.spawn(|| reading.run(&read_all));
        while !reader.is_finished() {
            beside.record(connection.run(&get));
        }
        reader.join().expect("HGETALL is answered")
    });
    table.add("collections/get_during_hgetall: GET during HGETALL", &beside);
    table.print();
    println!(
        "collections/get_during_hgetall: HGETALL of {fields} fields took {:.2} s",
        took.as_secs_f64()
    );
}

impl Running {
    fn start() -> Running {
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's directory can be written");
        Running {
            server: Server::start(&directory.path().join("data"), &["--shards", "1"]),
            directory,
        }
    }

    fn connect(&self) -> Connection {
        Connection {
            stream: BufReader::with_capacity(READ_BYTES, self.server.connect()),
            line: Vec::new(),
        }
    }

    /// The bytes of all files in the data directory.
    fn bytes(&self) -> u64 {
        bytes_below(self.directory.path())
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).expect("the data directory can be read") {
        let entry = entry.expect("the data directory can be read");
        // A file that compaction has just removed has none.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += bytes_below(&entry.path()),
            Ok(metadata) => bytes += metadata.len(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", entry.path().display()),
        }
    }
    bytes
}

impl Pipeline {
    fn push<T: AsRef<str>>(&mut self, arguments: &[T]) {
        // Writing to memory does not fail.
        let _ = write!(self.bytes, "*{}\r\n", arguments.len());
        for argument in arguments.iter().map(T::as_ref) {
            let _ = write!(self.bytes, "${}\r\n{argument}\r\n", argument.len());
        }
        self.commands += 1;
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.commands = 0;
    }
}

impl Connection {
    /// Sends a pipeline and reads its replies; the time that this took.
    fn run(&mut self, pipeline: &Pipeline) -> Duration {
        let began = Instant::now();
        self.stream
            .get_mut()
            .write_all(&pipeline.bytes)
            .expect("the server reads what it is sent");
        for _ in 0..pipeline.commands {
            self.skip_reply();
        }
        began.elapsed()
    }

    /// Reads a reply and keeps nothing of it. Everything that is asked for here is there: an error, a nil, an empty
    /// array and a zero are wrong.
    fn skip_reply(&mut self) {
        let mut values_left = 1;
        while values_left > 0 {
            values_left -= 1;
            self.line.clear();
            self.stream
                .read_until(b'\n', &mut self.line)
                .expect("the server answers in time");
            let number = || {
                let digits = self.line.trim_ascii_end().get(1..).unwrap_or_default();
                let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                number.filter(|number: &usize| *number > 0)
            };
            match (self.line.first(), number()) {
                (Some(b'+'), _) | (Some(b':'), Some(_)) => {}
                (Some(b'$'), Some(bytes)) => self.skip_bytes(bytes + b"\r\n".len()),
                (Some(b'*'), Some(values)) => values_left += values,
                _ => panic!("a wrong reply: {}", self.line.escape_ascii()),
            }
        }
    }

    fn skip_bytes(&mut self, mut bytes_left: usize) {
        while bytes_left > 0 {
            let read = self.stream.fill_buf().expect("the server answers in time").len();
            assert!(read > 0, "the server closed the connection within a reply");
            let skipped = read.min(bytes_left);
            self.stream.consume(skipped);
            bytes_left -= skipped;
        }
    }
}

impl Family {
    const ALL: [Family; 5] = [
        Family::Hash,
        Family::List,
        Family::Set,
        Family::SortedSet,
        Family::Stream,
    ];

    fn name(self) -> &'static str {
        match self {
            Family::Hash => "hash",
            Family::List => "list",
            Family::Set => "set",
            Family::SortedSet => "sorted set",
            Family::Stream => "stream",
        }
    }

    fn operations(self) -> &'static [(&'static str, Operation)] {
        const ALL: [(&str, Operation); 5] = [
            ("add", Operation::Add),
            ("read", Operation::Read),
            ("range", Operation::Range),
            ("delete", Operation::Delete),
            ("rank", Operation::Rank),
        ];
        match self {
            Family::SortedSet => &ALL,
            _ => &ALL[..4],
        }
    }
}

impl Collection {
    fn new(family: Family, size: u64) -> Collection {
        Collection {
            family,
            key: format!("{} of {size}", family.name()),
            size,
            first: 0,
            next: size,
            random: 1,
        }
    }

    /// Adds the first members, many at a time.
    fn fill(&mut self, connection: &mut Connection) {
        let mut pipeline = Pipeline::default();
        for first in (0..self.size).step_by(FILL_MEMBERS as usize) {
            let numbers = first..self.size.min(first + FILL_MEMBERS);
            pipeline.clear();
            let many = |command: &str| vec![command.to_owned(), self.key.clone()];
            match self.family {
                Family::Hash => {
                    let mut command = many("HSET");
                    numbers.for_each(|number| command.extend([member(number), VALUE.to_owned()]));
                    pipeline.push(&command);
                }
                Family::List => {
                    let mut command = many("RPUSH");
                    numbers.for_each(|_| command.push(VALUE.to_owned()));
                    pipeline.push(&command);
                }
                Family::Set => {
                    let mut command = many("SADD");
                    command.extend(numbers.map(member));
                    pipeline.push(&command);
                }
                Family::SortedSet => {
                    let mut command = many("ZADD");
                    numbers.for_each(|number| command.extend([number.to_string(), member(number)]));
                    pipeline.push(&command);
                }
                Family::Stream => numbers.for_each(|number| pipeline.push(&self.add(number, number))),
            }
            connection.run(&pipeline);
        }
    }

    /// Runs pipelines; the time that they took.
    fn run(&mut self, connection: &mut Connection, operation: Operation, rounds: u64) -> Duration {
        let mut elapsed = Duration::ZERO;
        let (mut measured, mut afterwards) = (Pipeline::default(), Pipeline::default());
        for _ in 0..rounds {
            measured.clear();
            afterwards.clear();
            for _ in 0..PIPELINE {
                self.push(operation, &mut measured, &mut afterwards);
            }
            elapsed += connection.run(&measured);
            connection.run(&afterwards);
        }
        elapsed
    }

    /// Adds one operation to a pipeline, and to another what restores the size.
    fn push(&mut self, operation: Operation, measured: &mut Pipeline, afterwards: &mut Pipeline) {
        match operation {
            Operation::Add => {
                let number = self.new_number();
                // The score is one among the others.
                let score = self.random_number(0);
                measured.push(&self.add(number, score));
                afterwards.push(&self.delete(number));
            }
            Operation::Read => {
                let number = self.random_number(0);
                measured.push(&self.read(number));
            }
            Operation::Rank => {
                // The first one's rank is 0, which would be taken for a wrong reply.
                let number = self.random_number(1);
                measured.push(&["ZRANK", &self.key, &member(number)]);
            }
            Operation::Range => measured.push(&self.range()),
            Operation::Delete => {
                let number = self.random_number(0);
                measured.push(&self.delete(number));
                let number = match self.family {
                    Family::Stream => self.new_number(),
                    _ => number,
                };
                measured.push(&self.add(number, number));
            }
        }
    }

    fn add(&self, number: u64, score: u64) -> Vec<String> {
        let key = self.key.as_str();
        match self.family {
            Family::Hash => words(&["HSET", key, &member(number), VALUE]),
            Family::List => words(&["RPUSH", key, VALUE]),
            Family::Set => words(&["SADD", key, &member(number)]),
            Family::SortedSet => words(&["ZADD", key, &score.to_string(), &member(number)]),
            Family::Stream => words(&["XADD", key, &entry_id(number), "field", VALUE]),
        }
    }

    /// Deletes a member; of a list and a stream the first one, whichever is meant.
    fn delete(&mut self, number: u64) -> Vec<String> {
        let key = self.key.as_str();
        match self.family {
            Family::Hash => words(&["HDEL", key, &member(number)]),
            Family::List => words(&["LPOP", key]),
            Family::Set => words(&["SREM", key, &member(number)]),
            Family::SortedSet => words(&["ZREM", key, &member(number)]),
            Family::Stream => {
                let id = entry_id(self.first);
                self.first += 1;
                words(&["XDEL", key, &id])
            }
        }
    }

    fn read(&self, number: u64) -> Vec<String> {
        let key = self.key.as_str();
        match self.family {
            Family::Hash => words(&["HGET", key, &member(number)]),
            Family::List => words(&["LINDEX", key, &(self.size / 2).to_string()]),
            Family::Set => words(&["SISMEMBER", key, &member(number)]),
            Family::SortedSet => words(&["ZSCORE", key, &member(number)]),
            Family::Stream => words(&["XRANGE", key, &entry_id(number), &entry_id(number)]),
        }
    }

    fn range(&self) -> Vec<String> {
        let key = self.key.as_str();
        let count = RANGE_MEMBERS.to_string();
        // The collection may have fewer members than a range.
        let start = self.size.saturating_sub(RANGE_MEMBERS) / 2;
        let (first, last) = (start.to_string(), (start + RANGE_MEMBERS - 1).to_string());
        match self.family {
            Family::Hash => words(&["HSCAN", key, "0", "COUNT", &count]),
            Family::List => words(&["LRANGE", key, &first, &last]),
            Family::Set => words(&["SSCAN", key, "0", "COUNT", &count]),
            Family::SortedSet => words(&["ZRANGE", key, &first, &last]),
            Family::Stream => words(&["XRANGE", key, &entry_id(self.first + start), "+", "COUNT", &count]),
        }
    }

    fn new_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The number of a member that is there, and of the `skipped` first ones none.
    fn random_number(&mut self, skipped: u64) -> u64 {
        // The multiplicative generator of Steele and Vigna (Computationally easy, spectrally good multipliers, 2021).
        self.random = self.random.wrapping_mul(0xf135_7aea_2e62_a9c5);
        self.first + skipped + (self.random >> 32) % (self.size - skipped)
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn member(number: u64) -> String {
    format!("member:{number:012}")
}

/// An id of the form that clients do not choose, in the order of the numbers.
fn entry_id(number: u64) -> String {
    format!("{number}-1")
}
