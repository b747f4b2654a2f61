//! A load on a server: connections that send a pipeline, wait for its replies, check them, and send the next.
//!
//! One thread drives many connections by epoll. A pipeline costs it one read, one write and a share of an epoll_wait,
//! and a command its digits and the look at its reply. redis-benchmark, which the comparison used before, asks the
//! kernel to watch a socket anew for each pipeline, makes a tree of each reply, and has no key spaces of two numbers.
//! Whether the load was the limit all the same, an outcome tells by the share of its time that it was busy.

use super::Latencies;
use super::random::Random;
use super::replies;
use super::system_calls::{Epoll, thread_cpu_time};
use super::template::Template;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may be silent while it owes a reply.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Bytes of replies that a connection has room for at first: a pipeline of 64 replies of ten values.
const REPLY_BYTES: usize = 64 * 1024;

/// How far apart the numbers of sequences are in the threads of a load.
const THREAD_SEQUENCE_STEP: u64 = 1_000_000_000;

/// What is sent, and for how long.
#[derive(Clone)]
pub(crate) struct Load {
    /// Commands that take turns.
    pub(crate) templates: Vec<Template>,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    /// Commands that a connection sends before it waits for their replies.
    pub(crate) pipeline: usize,
    /// After so long no pipeline is sent any more.
    pub(crate) duration: Duration,
    /// The most commands that are sent.
    pub(crate) commands_max: Option<u64>,
    pub(crate) seed: u64,
}

/// What came of a load.
pub(crate) struct Outcome {
    pub(crate) commands: u64,
    pub(crate) elapsed: Duration,
    /// From sending a pipeline to reading its last reply.
    pub(crate) latencies: Latencies,
    /// The share of its time that the busiest thread of the load used a CPU; near 1 it may have been the limit.
    pub(crate) load_busy: f64,
    /// Commands that were answered in each second.
    commands_by_second: Vec<u64>,
}

impl Outcome {
    /// Commands per second.
    pub(crate) fn rate(&self) -> f64 {
        self.commands as f64 / self.elapsed.as_secs_f64()
    }

    /// The commands that were answered in the whole second in which the fewest were; none in shorter runs.
    pub(crate) fn slowest_second(&self) -> Option<u64> {
        let whole = self.elapsed.as_secs() as usize;
        (0..whole)
            .map(|second| self.commands_by_second.get(second).copied().unwrap_or(0))
            .min()
    }
}

impl Load {
    /// Runs the load against the server at this port of the machine itself.
    ///
    /// # Panics
    ///
    /// When a reply is an error or not what its template expects, or does not come.
    pub(crate) fn run(&self, port: u16) -> Outcome {
        assert!(self.threads >= 1 && self.threads <= self.connections);
        let start_line = Barrier::new(self.threads);
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let drive = |thread| {
                let start_line = &start_line;
                scope.spawn(move || self.drive(port, thread, start_line))
            };
            let threads: Vec<_> = (0..self.threads).map(drive).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Outcome>| thread.join().expect("every reply is right");
            threads.into_iter().map(join).collect()
        });
        let merge = |mut all: Outcome, one: Outcome| {
            all.commands += one.commands;
            all.elapsed = all.elapsed.max(one.elapsed);
            all.latencies.add(&one.latencies);
            all.load_busy = all.load_busy.max(one.load_busy);
            let seconds = all.commands_by_second.len().max(one.commands_by_second.len());
            all.commands_by_second.resize(seconds, 0);
            for (sum, commands) in all.commands_by_second.iter_mut().zip(one.commands_by_second) {
                *sum += commands;
            }
            all
        };
        outcomes.into_iter().reduce(merge).expect("there is a thread")
    }

    /// What one thread does.
    fn drive(&self, port: u16, thread: usize, start_line: &Barrier) -> Outcome {
        let mut epoll = Epoll::new();
        let share = (thread..self.connections).step_by(self.threads);
        let mut connections: Vec<Connection> = share.map(|index| Connection::new(self, port, index)).collect();
        for (index, connection) in connections.iter().enumerate() {
            epoll.add(&connection.stream, index);
        }
        let mut numbers = Numbers {
            templates: &self.templates,
            next: vec![thread as u64 * THREAD_SEQUENCE_STEP; self.templates.len()],
            random: Random::new(self.seed + thread as u64),
        };
        let pipeline = self.pipeline as u64;
        let mut pipelines_left = self
            .commands_max
            .map_or(u64::MAX, |commands| commands / self.threads as u64 / pipeline);
        start_line.wait();
        let (began, cpu_before) = (Instant::now(), thread_cpu_time());
        let mut outcome = Outcome {
            commands: 0,
            elapsed: Duration::ZERO,
            latencies: Latencies::new(),
            load_busy: 0.0,
            commands_by_second: Vec::new(),
        };
        let mut open = connections
            .len()
            .min(usize::try_from(pipelines_left).unwrap_or(usize::MAX));
        for connection in &mut connections[..open] {
            connection.send(&mut numbers);
            pipelines_left -= 1;
        }
        while open > 0 {
            let mut came = false;
            for index in epoll.wait(SILENCE_MAX) {
                came = true;
                let connection = &mut connections[index];
                if !connection.receive() {
                    continue;
                }
                let now = Instant::now();
                outcome.count(pipeline, now - began, now - connection.sent_at);
                if pipelines_left > 0 && now - began < self.duration {
                    connection.send(&mut numbers);
                    pipelines_left -= 1;
                } else {
                    open -= 1;
                }
            }
            assert!(came, "no reply came for {SILENCE_MAX:?}");
        }
        outcome.load_busy = (thread_cpu_time() - cpu_before).as_secs_f64() / began.elapsed().as_secs_f64();
        outcome
    }
}

impl Outcome {
    /// A pipeline of so many commands was answered this long after the load began.
    fn count(&mut self, commands: u64, since_began: Duration, latency: Duration) {
        self.commands += commands;
        self.elapsed = since_began;
        self.latencies.record(latency);
        let second = since_began.as_secs() as usize;
        if second >= self.commands_by_second.len() {
            self.commands_by_second.resize(second + 1, 0);
        }
        self.commands_by_second[second] += commands;
    }
}

/// What the numbers in a thread's commands come from.
struct Numbers<'a> {
    templates: &'a [Template],
    /// How many commands of each template were made.
    next: Vec<u64>,
    random: Random,
}

/// A pipeline as it is sent, again and again with other numbers.
struct Pipeline {
    bytes: Vec<u8>,
    /// Which template each command has, and its offset.
    commands: Vec<(usize, usize)>,
}

/// One connection of a load.
struct Connection {
    stream: TcpStream,
    /// As many as it takes until the first command is the first template again; they are sent in turn.
    pipelines: Vec<Pipeline>,
    /// The one that was sent last.
    sent: usize,
    sent_at: Instant,
    /// What each command of the pipeline that was sent last must be answered with.
    expected: Vec<Vec<replies::Expected>>,
    answered: usize,
    replies: Vec<u8>,
    /// Bytes of `replies` that have come and are not checked.
    unchecked: usize,
}

impl Connection {
    fn new(load: &Load, port: u16, index: usize) -> Connection {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server accepts a connection");
        stream.set_nodelay(true).expect("a socket can be set to send at once");
        let mut pipelines = vec![Pipeline::new(load, 0)];
        let mut first = load.pipeline % load.templates.len();
        while first != 0 {
            pipelines.push(Pipeline::new(load, first));
            first = (first + load.pipeline) % load.templates.len();
        }
        let expected_of = |pipeline: &Pipeline| {
            let expected = |(template, _): &(usize, usize)| load.templates[*template].expected;
            pipeline.commands.iter().map(expected).collect()
        };
        Connection {
            stream,
            expected: pipelines.iter().map(expected_of).collect(),
            // Connections begin with different ones.
            sent: index % pipelines.len(),
            pipelines,
            sent_at: Instant::now(),
            answered: 0,
            replies: vec![0; REPLY_BYTES],
            unchecked: 0,
        }
    }

    /// Sends the next pipeline.
    fn send(&mut self, numbers: &mut Numbers<'_>) {
        self.sent = (self.sent + 1) % self.pipelines.len();
        let pipeline = &mut self.pipelines[self.sent];
        for (template, offset) in &pipeline.commands {
            let sequence = numbers.next[*template];
            numbers.next[*template] += 1;
            let copy = &mut pipeline.bytes[*offset..];
            numbers.templates[*template].write_numbers(copy, sequence, &mut numbers.random);
        }
        self.answered = 0;
        self.sent_at = Instant::now();
        self.stream
            .write_all(&pipeline.bytes)
            .expect("the server reads what it is sent");
    }

    /// Reads what has come; whether the pipeline is answered now.
    fn receive(&mut self) -> bool {
        if self.unchecked == self.replies.len() {
            self.replies.resize(2 * self.unchecked, 0);
        }
        let read = self
            .stream
            .read(&mut self.replies[self.unchecked..])
            .expect("the server answers");
        assert!(read > 0, "the server closed the connection");
        self.unchecked += read;
        let mut checked = 0;
        let expected = &self.expected[self.sent];
        while self.answered < expected.len() {
            match replies::check(&self.replies[checked..self.unchecked], expected[self.answered]) {
                Some(len) => checked += len,
                None => break,
            }
            self.answered += 1;
        }
        self.replies.copy_within(checked..self.unchecked, 0);
        self.unchecked -= checked;
        let is_answered = self.answered == expected.len();
        assert!(
            !is_answered || self.unchecked == 0,
            "more replies came than were asked for"
        );
        is_answered
    }
}

impl Pipeline {
    /// Begins with this template.
    fn new(load: &Load, first: usize) -> Pipeline {
        let mut pipeline = Pipeline {
            bytes: Vec::new(),
            commands: Vec::new(),
        };
        for position in 0..load.pipeline {
            let template = (first + position) % load.templates.len();
            pipeline.commands.push((template, pipeline.bytes.len()));
            pipeline.bytes.extend_from_slice(&load.templates[template].bytes);
        }
        pipeline
    }
}
