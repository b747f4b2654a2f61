//! PUBLISH to 1, 100 and 10,000 subscribers of one channel: Corelane against redis-server, in the same run.
//!
//! `cargo bench --bench pubsub` prints, for 1 and 100 subscribers, the time from sending a pipeline of PUBLISH to the
//! moment when its replies and all messages were read, as p50 over the rounds, and the messages that were read per
//! second. The two servers take turns. With the argument `all` it does so for 10,000 subscribers too, for which it
//! needs 12,000 open files. One thread publishes and reads everything, so the figures contain its work: ratios tell
//! more than rates.

#[path = "common/server.rs"]
mod process;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Messages of one pipeline: alone, and enough that batches form.
const PIPELINES: [usize; 2] = [1, 16];

/// Bytes of a message.
const MESSAGE: &str = "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm";

/// Messages that all subscribers of a case read in one round, about.
const DELIVERIES_PER_ROUND: usize = 100_000;

const ROUNDS: usize = 3;

/// How long a server may take to send anything.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A server under test; dropping it kills it.
enum Server {
    Corelane {
        process: process::Server,
        /// Removed after the process is gone.
        _files: TempDir,
    },
    Redis(Child, u16),
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Server::Redis(process, _) = self {
            // It may have ended by itself, which the rounds would have shown.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Server {
    fn corelane() -> Server {
        let files = TempDir::new().expect("a temporary folder");
        Server::Corelane {
            process: process::Server::start(&files.path().join("data"), &["--maxclients", "10100"]),
            _files: files,
        }
    }

    fn redis() -> Option<Server> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        drop(listener);
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--maxclients", "10100"])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let give_up_at = Instant::now() + WAIT_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < give_up_at, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Server::Redis(process, port))
    }

    fn name(&self) -> &'static str {
        match self {
            Server::Corelane { .. } => "corelane",
            Server::Redis(..) => "redis-server",
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = match self {
            Server::Corelane { process, .. } => process.connect(),
            Server::Redis(_, port) => TcpStream::connect(("127.0.0.1", *port)).expect("the server accepts"),
        };
        stream.set_nodelay(true).expect("a socket can be set to send at once");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("a read can be bounded");
        stream
    }
}

/// One publisher and the subscribers of its channel.
struct Case {
    publisher: TcpStream,
    subscribers: Vec<TcpStream>,
    /// The pipeline, the replies to it, and what each subscriber gets.
    requests: Vec<u8>,
    replies: Vec<u8>,
    messages: Vec<u8>,
}

impl Case {
    /// A channel of its own: subscribers of the case before may not have left yet.
    fn new(server: &Server, subscriber_count: usize, pipeline: usize, number: usize) -> Case {
        let channel = format!("$11\r\nchannel-{number:03}\r\n");
        let confirmation = format!("*3\r\n$9\r\nsubscribe\r\n{channel}:1\r\n");
        let subscribe = |_| {
            let mut stream = server.connect();
            stream
                .write_all(format!("*2\r\n$9\r\nSUBSCRIBE\r\n{channel}").as_bytes())
                .expect("the server reads");
            read(&mut stream, confirmation.as_bytes());
            stream
        };
        let (len, count) = (MESSAGE.len(), subscriber_count);
        let publish = format!("*3\r\n$7\r\nPUBLISH\r\n{channel}${len}\r\n{MESSAGE}\r\n");
        let message = format!("*3\r\n$7\r\nmessage\r\n{channel}${len}\r\n{MESSAGE}\r\n");
        Case {
            publisher: server.connect(),
            subscribers: (0..subscriber_count).map(subscribe).collect(),
            requests: publish.repeat(pipeline).into_bytes(),
            replies: format!(":{count}\r\n").repeat(pipeline).into_bytes(),
            messages: message.repeat(pipeline).into_bytes(),
        }
    }

    /// Publishes one pipeline and reads all that comes of it; how long that took.
    fn publish(&mut self) -> Duration {
        let began = Instant::now();
        self.publisher.write_all(&self.requests).expect("the server reads");
        read(&mut self.publisher, &self.replies);
        for subscriber in &mut self.subscribers {
            read(subscriber, &self.messages);
        }
        began.elapsed()
    }
}

/// Reads what must come, and nothing else.
fn read(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("the server sends it");
    assert!(got == expected, "{} came", got.escape_ascii());
}

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let mut counts = vec![1, 100];
    if std::env::args().any(|argument| argument == "all") {
        counts.push(10_000);
    }
    let mut servers = vec![Server::corelane()];
    match Server::redis() {
        Some(redis) => servers.push(redis),
        None => println!("redis-server is not installed: only Corelane is measured"),
    }
    println!("| subscribers | pipeline | server | p50 until all were read | thousand messages/s |");
    println!("|---|---|---|---|---|");
    let mut numbers = 0..;
    for count in counts {
        for pipeline in PIPELINES {
            measure(&servers, (count, pipeline), &mut numbers, is_test);
        }
    }
}

/// Prints a row for each server. Their cases do not overlap, so that the open files suffice.
fn measure(
    servers: &[Server],
    (count, pipeline): (usize, usize),
    numbers: &mut impl Iterator<Item = usize>,
    is_test: bool,
) {
    let mut times = vec![Vec::new(); servers.len()];
    let repeats = match is_test {
        true => 3,
        false => (DELIVERIES_PER_ROUND / count / pipeline).clamp(10, 5000),
    };
    for number in numbers.take(if is_test { 1 } else { ROUNDS }) {
        for (server, times) in servers.iter().zip(&mut times) {
            let mut case = Case::new(server, count, pipeline, number);
            times.extend((0..repeats).map(|_| case.publish()));
        }
    }
    for (server, mut times) in servers.iter().zip(times) {
        let total: Duration = times.iter().sum();
        times.sort();
        let rate = (times.len() * pipeline * count) as f64 / total.as_secs_f64() / 1000.0;
        let p50_us = times[times.len() / 2].as_secs_f64() * 1e6;
        println!(
            "| {count} | {pipeline} | {} | {p50_us:.0} µs | {rate:.0} |",
            server.name()
        );
    }
}
