//! Corelane as a process: the built binary on a port and a data directory of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

use super::client::Client;
use super::process::{ServerProcess, free_address};

/// What a server is started with.
pub(crate) struct Builder {
    data_directory: Option<PathBuf>,
    flags: Vec<String>,
    faults: String,
}

/// A running Corelane. Dropping it kills it, and removes the data directory unless the test gave one.
pub(crate) struct Server {
    process: ServerProcess,
    address: SocketAddr,
    data_directory: PathBuf,
    /// Held so that it is removed with the server.
    _temporary: Option<TempDir>,
    flags: Vec<String>,
    faults: String,
}

impl Server {
    /// The binary's defaults, on a free port and in a temporary directory, unless the test says otherwise.
    pub(crate) fn builder() -> Builder {
        Builder {
            data_directory: None,
            flags: Vec::new(),
            faults: String::new(),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection. Panics when the server does not accept it.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address).unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.address))
    }

    /// The data directory.
    pub(crate) fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    /// The server's process: its number, its output, its signals.
    pub(crate) fn process(&self) -> &ServerProcess {
        &self.process
    }

    /// Kills the server with SIGKILL, as `kill -9` does.
    pub(crate) fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Asks the server to stop with SIGTERM and returns how it exited.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.signal(libc::SIGTERM);
        self.process.wait_for_exit()
    }

    /// Waits for a server that was told to stop, and returns how it exited.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        self.process.wait_for_exit()
    }

    /// Starts the server again after [`Server::kill_9`] or [`Server::terminate`]: the same directory, port and flags.
    pub(crate) fn restart(&mut self) {
        self.process = ServerProcess::spawn(command(self.address, &self.data_directory, &self.flags, &self.faults));
        self.process.wait_until_ready(self.address);
    }
}

impl Builder {
    /// Uses a directory of the test, which outlives the server.
    pub(crate) fn data_directory(mut self, directory: &Path) -> Builder {
        self.data_directory = Some(directory.to_path_buf());
        self
    }

    /// Adds flags, each word by itself: `["--shards", "4"]`.
    pub(crate) fn flags(mut self, flags: &[impl AsRef<str>]) -> Builder {
        self.flags.extend(flags.iter().map(|flag| flag.as_ref().to_string()));
        self
    }

    /// What CORELANE_FAULTS is set to; the server obeys it where it is built with the feature `fault-injection`.
    pub(crate) fn faults(mut self, faults: &str) -> Builder {
        self.faults = faults.to_owned();
        self
    }

    /// Starts the server and waits until it answers. Panics with what it printed when it does not.
    pub(crate) fn start(self) -> Server {
        let (data_directory, temporary) = self.directory();
        let address = free_address();
        let mut process = ServerProcess::spawn(command(address, &data_directory, &self.flags, &self.faults));
        process.wait_until_ready(address);
        Server {
            process,
            address,
            data_directory,
            _temporary: temporary,
            flags: self.flags,
            faults: self.faults,
        }
    }

    /// Starts a server that must not come up, and returns how it exited and what it printed.
    pub(crate) fn start_refused(self) -> (ExitStatus, String) {
        let (data_directory, _temporary) = self.directory();
        let mut process = ServerProcess::spawn(command(free_address(), &data_directory, &self.flags, &self.faults));
        let status = process.wait_for_exit();
        (status, process.output())
    }

    fn directory(&self) -> (PathBuf, Option<TempDir>) {
        if let Some(directory) = &self.data_directory {
            return (directory.clone(), None);
        }
        let temporary = tempfile::tempdir().expect("a temporary directory can be made");
        (temporary.path().join("data"), Some(temporary))
    }
}

fn command(address: SocketAddr, data_directory: &Path, flags: &[String], faults: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args([
        "--bind",
        &address.ip().to_string(),
        "--port",
        &address.port().to_string(),
    ]);
    command.arg("--data-dir").arg(data_directory);
    command.args(flags);
    command.env("CORELANE_FAULTS", faults);
    command
}

/// The CPUs that the tests may use, as the kernel lists them for this process.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut cpus = Vec::new();
    for range in list.expect("the kernel lists the allowed CPUs").trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("{text:?} is no CPU"));
        cpus.extend(number(first)..=number(last));
    }
    cpus
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9_and_after_sigterm() {
    let mut server = Server::builder().flags(&["--shards", "1"]).start();
    assert_eq!(server.connect().command(&["SET", "first", "1"]).render(), "OK");
    server.kill_9();
    server.restart();
    assert_eq!(server.connect().command(&["GET", "first"]).render(), "\"1\"");
    assert_eq!(server.connect().command(&["SET", "second", "2"]).render(), "OK");
    let status = server.terminate();
    assert_eq!(status.code(), Some(0), "{}", server.process().output());
    server.restart();
    let both = server.connect().command(&["MGET", "first", "second"]);
    assert_eq!(both.render(), "1) \"1\"\n2) \"2\"");
}

#[test]
fn a_second_server_on_a_data_directory_is_refused() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let (status, printed) = Server::builder()
        .data_directory(server.data_directory())
        .start_refused();
    assert_eq!(status.code(), Some(1), "{printed}");
    let pid = server.process().pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the first server goes on");
    assert_eq!(server.connect().command(&["PING"]).render(), "PONG");
}

#[test]
fn bytes_that_are_no_command_get_an_error_and_end_the_connection() {
    let server = Server::builder().flags(&["--shards", "1"]).start();
    let mut client = server.connect();
    client.send_bytes(b"*1\r\n!4\r\nPING\r\n").expect("the server reads");
    let reply = client.read().expect("the server answers");
    assert_eq!(reply.render(), "(error) ERR Protocol error: expected '$', got '!'");
    assert!(client.is_closed());
}
