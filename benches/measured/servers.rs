//! Corelane and redis-server as processes, how much CPU they use, and when their background work is done.

use super::control_group::ControlGroup;
use super::cpus;
use super::options::{Durability, Options};
use super::replies::{self, Expected};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Names of the options that all benches of whole servers have: see [`Setup::read`] and [`directory`].
pub(crate) const OPTIONS: [&str; 4] = ["shards", "executors", "flags", "directory"];

/// How long a server may take to start, with all the data that a bench gives it.
const START_WAIT_MAX: Duration = Duration::from_secs(600);

/// Pause between two tries to reach a server that is starting: what the figures of recovery are exact to.
const START_PAUSE: Duration = Duration::from_millis(1);

/// How long one answer may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(120);

/// Ticks per second of the times in /proc/PID/stat: `USER_HZ`, part of Linux's interface.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

/// A server is idle when for so long (more than the second after which both servers sync what was written, or any
/// timer of that kind) …
const IDLE_TIME: Duration = Duration::from_millis(1200);

/// … it used no more CPU than two ticks and what it takes with nothing to do, times this.
const IDLE_CPU_SECONDS: f64 = 0.025;
const IDLE_SHARE_FACTOR: f64 = 1.5;

/// How often the share of a server with nothing to do is measured; the least counts.
const IDLE_MEASUREMENTS: usize = 4;

const IDLE_PAUSE: Duration = Duration::from_millis(50);

/// A server that is not idle after so long counts as one that never becomes idle.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(120);

/// What INFO says when the log is in RocksDB.
const DONE: &[u8] = b"aof_rewrite_in_progress:0";

/// Commands and bytes that are sent at once while key spaces are filled: few enough that the replies wait in the
/// socket's buffers.
const FILL_COMMANDS: usize = 200;
const FILL_BYTES: usize = 128 * 1024;

/// Which of the two servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Redis,
    Corelane,
}

impl Kind {
    /// Both, in the order in which they take turns.
    pub(crate) const BOTH: [Kind; 2] = [Kind::Redis, Kind::Corelane];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Redis => "redis-server",
            Kind::Corelane => "corelane",
        }
    }
}

/// How servers are started.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) durability: Durability,
    shards: Option<usize>,
    executors: Option<usize>,
    /// More flags of Corelane.
    pub(crate) flags: Vec<String>,
    pub(crate) control_group: Option<ControlGroup>,
}

impl Setup {
    /// The setup that the options ask for.
    pub(crate) fn read(options: &Options, durability: Durability) -> Setup {
        let flags = options.text("flags").unwrap_or_default();
        Setup {
            durability,
            shards: options.given("shards"),
            executors: options.given("executors"),
            flags: flags.split_whitespace().map(str::to_owned).collect(),
            control_group: None,
        }
    }

    /// The same for each durability that the option `durability` names.
    pub(crate) fn read_all(options: &Options, durabilities_default: &str) -> Vec<Setup> {
        let durabilities = options.list("durability", durabilities_default);
        durabilities
            .into_iter()
            .map(|durability| Setup::read(options, durability))
            .collect()
    }

    /// Adds a flag of Corelane.
    pub(crate) fn flag(&mut self, name: &str, value: impl ToString) {
        self.flags.extend([name.to_owned(), value.to_string()]);
    }

    /// What Corelane is started with, but for port and directory.
    fn corelane_flags(&self) -> Vec<String> {
        let mut flags = vec!["--durability".to_owned(), self.durability.of_corelane().to_owned()];
        if let Some(shards) = self.shards {
            flags.extend(["--shards".to_owned(), shards.to_string()]);
        }
        if let Some(executors) = self.executors {
            let cpus = cpus::first_cpus(executors);
            assert!(cpus.len() == executors, "there are {} CPUs for executors", cpus.len());
            let numbers: Vec<String> = cpus.iter().map(|cpu| cpu.number().to_string()).collect();
            for role in ["--network-cores", "--storage-cores"] {
                flags.extend([role.to_owned(), numbers.join(",")]);
            }
        }
        flags.extend_from_slice(&self.flags);
        flags
    }

    fn redis_flags(&self) -> Vec<String> {
        let sync = self.durability.of_redis();
        let flags = ["--save", "", "--appendonly", "yes", "--appendfsync", sync];
        flags.map(str::to_owned).into()
    }

    /// A server's program and flags, for a table's heading.
    pub(crate) fn describe(&self, kind: Kind) -> String {
        let flags = match kind {
            Kind::Redis => self.redis_flags(),
            Kind::Corelane => self.corelane_flags(),
        };
        let shown = flags.iter().map(|flag| if flag.is_empty() { "''" } else { flag });
        format!("{} {}", kind.name(), shown.collect::<Vec<_>>().join(" "))
    }
}

/// Whether there is a redis-server to compare with.
pub(crate) fn redis_is_installed() -> bool {
    let asked = Command::new("redis-server").arg("--version").output();
    asked.is_ok()
}

/// A temporary directory for a server's files: below the option `directory`, else in the build's.
pub(crate) fn directory(options: &Options) -> tempfile::TempDir {
    let parent = options.text("directory");
    let parent = parent.as_deref().unwrap_or(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(parent).expect("the directory can be written")
}

/// A process under test. Dropping it kills it; its directory must outlive it.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    process: Child,
    pub(crate) started_at: Instant,
    /// From its start to the first PONG.
    pub(crate) started_in: Duration,
    /// The share of a CPU that it takes with nothing to do, if that was measured.
    pub(crate) idle_share: f64,
}

/// What waiting for a server to become idle came to.
pub(crate) struct Idle {
    /// Its CPU seconds so far, without those of the time in which it was idle already.
    pub(crate) cpu_seconds: f64,
    /// Whether it became idle at all.
    pub(crate) came: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it has ended by itself, which the load would have shown.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts a server on the files in a directory and waits until it answers PING.
    pub(crate) fn start(kind: Kind, setup: &Setup, files: &Path) -> Server {
        let port = free_port();
        let (program, mut arguments) = match kind {
            Kind::Redis => ("redis-server", setup.redis_flags()),
            Kind::Corelane => (env!("CARGO_BIN_EXE_corelane"), setup.corelane_flags()),
        };
        arguments.extend(["--bind".to_owned(), Ipv4Addr::LOCALHOST.to_string()]);
        arguments.extend(["--port".to_owned(), port.to_string()]);
        let files = files.display().to_string();
        match kind {
            Kind::Redis => arguments.extend(["--dir".to_owned(), files]),
            Kind::Corelane => arguments.extend(["--data-dir", &files, "--log-level", "error"].map(str::to_owned)),
        }
        let mut command = match &setup.control_group {
            Some(group) => group.command(program),
            None => Command::new(program),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let started_at = Instant::now();
        let process = command.spawn().expect("the server's program can be run");
        let mut server = Server {
            kind,
            port,
            process,
            started_at,
            started_in: Duration::ZERO,
            idle_share: 0.0,
        };
        server.started_in = server.wait_for(&["PING"], b"+PONG\r\n");
        server
    }

    /// Asks again and again until the answer begins so; how long after its start that was.
    pub(crate) fn wait_for(&mut self, command: &[&str], answer: &[u8]) -> Duration {
        while !self.try_to_ask(command).is_some_and(|came| came.starts_with(answer)) {
            if let Some(status) = self.process.try_wait().expect("the child can be waited for") {
                panic!("{} ended while it started: {status}", self.kind.name());
            }
            assert!(
                self.started_at.elapsed() < START_WAIT_MAX,
                "{} does not answer {command:?}",
                self.kind.name()
            );
            thread::sleep(START_PAUSE);
        }
        self.started_at.elapsed()
    }

    /// The beginning of the answer to a command on a connection of its own; none if the server does not accept one.
    fn try_to_ask(&self, command: &[&str]) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX)).ok()?;
        stream.write_all(&resp(command)).ok()?;
        let mut answer = vec![0; 512];
        let read = stream.read(&mut answer).ok()?;
        answer.truncate(read);
        Some(answer)
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the server accepts a connection");
        stream.set_nodelay(true).expect("a socket can be set to send at once");
        let bounded = stream.set_read_timeout(Some(ANSWER_WAIT_MAX));
        bounded.expect("a read can be bounded");
        stream
    }

    /// A connection for commands by the thousand.
    pub(crate) fn filler(&self) -> Filler {
        Filler {
            stream: self.connect(),
            requests: Vec::new(),
            expected: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Ends the process as `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("the server runs");
        self.process.wait().expect("the server can be waited for");
    }

    fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// CPU seconds so far, user and system, of all threads, and of child processes (Redis rewrites its log in one).
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let of_process = cpu_ticks(self.process_id()).expect("the server runs");
        let of_children: f64 = children(self.process_id()).into_iter().filter_map(cpu_ticks).sum();
        (of_process + of_children) / CLOCK_TICKS_PER_SECOND
    }

    /// Measures what the server takes with nothing to do: timers. Only an empty server has surely nothing to do.
    pub(crate) fn measure_idle_share(&mut self) {
        let measure = |_| {
            let before = self.cpu_seconds();
            thread::sleep(IDLE_TIME);
            (self.cpu_seconds() - before) / IDLE_TIME.as_secs_f64()
        };
        self.idle_share = (0..IDLE_MEASUREMENTS).map(measure).fold(1.0, f64::min);
    }

    /// Waits until the server's background work is done. Corelane is asked for what it would do some seconds later:
    /// what a measurement has put off is its own.
    pub(crate) fn wait_until_idle(&self) -> Idle {
        let began = Instant::now();
        if self.kind == Kind::Corelane {
            let is_begun = self
                .try_to_ask(&["BGREWRITEAOF"])
                .is_some_and(|came| came.starts_with(b"+"));
            assert!(is_begun, "the server does not bring its log into RocksDB");
            let is_done = |came: Vec<u8>| came.windows(DONE.len()).any(|part| part == DONE);
            while !self.try_to_ask(&["INFO", "persistence"]).is_some_and(is_done) {
                if began.elapsed() > IDLE_WAIT_MAX {
                    break;
                }
                thread::sleep(IDLE_PAUSE);
            }
        }
        let (mut quiet_since, mut cpu_seconds) = (began, self.cpu_seconds());
        loop {
            let quiet = quiet_since.elapsed();
            let came = quiet >= IDLE_TIME;
            if came || began.elapsed() > IDLE_WAIT_MAX {
                return Idle { cpu_seconds, came };
            }
            thread::sleep(IDLE_PAUSE);
            let now = self.cpu_seconds();
            let timers = self.idle_share * quiet_since.elapsed().as_secs_f64() * IDLE_SHARE_FACTOR;
            if now - cpu_seconds > IDLE_CPU_SECONDS + timers || !children(self.process_id()).is_empty() {
                (quiet_since, cpu_seconds) = (Instant::now(), now);
            }
        }
    }

    /// Bytes that the process has read from the device so far, as the kernel counts them.
    pub(crate) fn device_bytes_read(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", self.process_id())).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// The most memory that the process has had, in bytes.
    pub(crate) fn memory_max(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// The memory that the process has now, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = value.and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

/// User and system time of a process and of its children that have ended, in ticks.
fn cpu_ticks(process: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold blanks; utime, stime, cutime and cstime are the 12th to 15th fields behind it.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok()).sum()
}

/// The processes that a process has started and that run.
fn children(process: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let numbers =
        |list: String| -> Vec<u32> { list.split_whitespace().filter_map(|child| child.parse().ok()).collect() };
    lists.flat_map(numbers).collect()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// A command as it is sent.
pub(crate) fn resp<T: AsRef<str>>(words: &[T]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// Sends commands many at a time and checks that they are answered as expected.
pub(crate) struct Filler {
    stream: TcpStream,
    requests: Vec<u8>,
    expected: Vec<Expected>,
    replies: Vec<u8>,
}

impl Filler {
    /// Adds a command; sends all when they are many.
    pub(crate) fn push<T: AsRef<str>>(&mut self, words: &[T], expected: Expected) {
        self.requests.extend_from_slice(&resp(words));
        self.expected.push(expected);
        if self.expected.len() >= FILL_COMMANDS || self.requests.len() >= FILL_BYTES {
            self.finish();
        }
    }

    /// Sends what is left and reads the replies.
    pub(crate) fn finish(&mut self) {
        self.stream.write_all(&self.requests).expect("the server reads");
        self.requests.clear();
        self.replies.clear();
        let mut checked = 0;
        for expected in self.expected.drain(..) {
            checked += loop {
                if let Some(len) = replies::check(&self.replies[checked..], expected) {
                    break len;
                }
                let mut more = [0; 64 * 1024];
                let read = self.stream.read(&mut more).expect("the server answers in time");
                assert!(read > 0, "the server closed the connection");
                self.replies.extend_from_slice(&more[..read]);
            };
        }
        assert!(checked == self.replies.len(), "more replies came than were asked for");
    }
}
