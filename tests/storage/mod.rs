//! What the disk keeps: durability, crashes, failing disks, the expiry index, the counts and the data directory.
//!
//! Most tests run the real binary, kill it and look at what is left. A loss of power is simulated by a test double
//! (`record-unsynced-log` in src/faults.rs): pages of the logs that no finished sync had covered are as they were
//! before, when the server starts again.
//!
//! Tests that need faults exist only with the cargo feature `fault-injection`, as CI runs them.
#![cfg_attr(not(feature = "fault-injection"), allow(dead_code))] // What they are made with is idle without it.

#[cfg(feature = "fault-injection")]
mod acknowledged;
#[cfg(feature = "fault-injection")]
mod bugs;
pub(crate) mod contents;
mod damaged_logs;
mod directory;
#[cfg(feature = "fault-injection")]
mod durability;
mod expiry;
#[cfg(feature = "fault-injection")]
mod failures;
mod longest_turns;
mod memory_size;
mod packed;
mod resident_members;
#[cfg(feature = "fault-injection")]
mod several_shards;
mod shard;
mod space;
#[cfg(feature = "fault-injection")]
mod stepped_commands;
#[cfg(feature = "fault-injection")]
mod transactions;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use corelane::slots::{Slot, shard_of};
use tempfile::TempDir;

use crate::harness::client::Client;
use crate::harness::process::{ServerProcess, free_address, wait_for};
use crate::harness::server::allowed_cpus;

/// A server that is killed, damaged and started again in the same directory, with other faults and flags each time.
pub(crate) struct Node {
    process: Option<ServerProcess>,
    address: SocketAddr,
    folder: TempDir,
}

impl Node {
    /// Nothing yet but a directory and an address.
    pub(crate) fn new() -> Node {
        Node {
            process: None,
            address: free_address(),
            folder: tempfile::tempdir().expect("a temporary directory can be made"),
        }
    }

    /// A running server with these flags, separated by blanks, and no faults.
    pub(crate) fn started(flags: &str) -> Node {
        let mut node = Node::new();
        node.start(flags, "");
        node
    }

    /// Starts the server and waits until it answers. `faults` is what CORELANE_FAULTS is set to.
    pub(crate) fn start(&mut self, flags: &str, faults: &str) {
        // The kernel takes down the rings of a killed process a little after its end, and with them its listening
        // socket.
        let free = wait_for(|| TcpListener::bind(self.address).is_ok());
        assert!(free, "somebody listens at {}", self.address);
        let process = self.process.insert(ServerProcess::spawn(command(
            self.address,
            &self.data_directory(),
            flags,
            faults,
        )));
        process.wait_until_ready(self.address);
    }

    /// Starts the server with a fault that may end it before it answers. Returns whether it answers.
    pub(crate) fn start_or_die(&mut self, flags: &str, faults: &str) -> bool {
        let free = wait_for(|| TcpListener::bind(self.address).is_ok());
        assert!(free, "somebody listens at {}", self.address);
        let command = command(self.address, &self.data_directory(), flags, faults);
        let process = self.process.insert(ServerProcess::spawn(command));
        let is_up = process.is_ready_before_it_ends(self.address);
        if !is_up {
            self.process = None;
        }
        is_up
    }

    /// Starts a server that must not come up; returns how it exited and what it printed.
    pub(crate) fn start_refused(&self, flags: &str, faults: &str) -> (ExitStatus, String) {
        let command = command(free_address(), &self.data_directory(), flags, faults);
        let mut process = ServerProcess::spawn(command);
        let status = process.wait_for_exit();
        (status, process.output())
    }

    pub(crate) fn data_directory(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A file beside the data directory, for faults that last as long as it exists.
    pub(crate) fn switch(&self, name: &str) -> Switch {
        Switch {
            path: self.folder.path().join(name),
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address).unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.address))
    }

    /// A connection; `None` if the server is gone.
    pub(crate) fn try_connect(&self) -> Option<Client> {
        Client::connect(self.address).ok()
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server was started").pid()
    }

    /// The address, for threads that connect by themselves.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn kill_9(&mut self) {
        self.process().kill_9();
        self.process = None;
    }

    /// Asks the server to stop with SIGTERM; returns how it exited and what it printed.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, String) {
        self.process().signal(libc::SIGTERM);
        let status = self.process().wait_for_exit();
        let output = self.process().output();
        self.process = None;
        (status, output)
    }

    /// Waits until the server has ended by itself.
    pub(crate) fn wait_for_exit(&mut self) {
        self.process().wait_for_exit();
        self.process = None;
    }

    /// The same; returns how it ended and what it printed.
    pub(crate) fn wait_for_end(&mut self) -> (ExitStatus, String) {
        let status = self.process().wait_for_exit();
        let output = self.process().output();
        self.process = None;
        (status, output)
    }

    fn process(&mut self) -> &mut ServerProcess {
        self.process.as_mut().expect("the server was started")
    }

    /// A section of INFO.
    pub(crate) fn info_section(&self, section: &str) -> String {
        let reply = self.connect().command(&["INFO", section]);
        reply
            .text()
            .unwrap_or_else(|| panic!("INFO was answered {}", reply.render()))
    }

    /// A figure of a line of INFO (`field` of `shard2:executor=0,state=healthy,…`), or the line's value for an empty
    /// field.
    pub(crate) fn info(&self, section: &str, line: &str, field: &str) -> String {
        let text = self.info_section(section);
        let values = text
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
        let values = values.unwrap_or_else(|| panic!("INFO {section} has no line {line}:\n{text}"));
        if field.is_empty() {
            return values.to_owned();
        }
        let value = values
            .split(',')
            .find_map(|pair| pair.strip_prefix(field)?.strip_prefix('='));
        value
            .unwrap_or_else(|| panic!("{line} has no {field}: {values}"))
            .to_owned()
    }

    /// The syncs of all logs since the start, as INFO says (its figures are read every 10 ms).
    pub(crate) fn syncs(&self) -> u64 {
        let syncs = self.info("persistence", "log_syncs", "");
        syncs.parse().expect("log_syncs is a number")
    }

    /// Waits until a shard is in a state of INFO shards.
    pub(crate) fn wait_for_state(&self, shard: u16, state: &str) {
        let line = format!("shard{shard}");
        let reached = wait_for(|| self.info("shards", &line, "state") == state);
        assert!(
            reached,
            "shard {shard} is {}, not {state}",
            self.info("shards", &line, "state")
        );
    }

    /// The power failed after [`Node::kill_9`]: of the pages of the logs that were written and not synced, as
    /// `record-unsynced-log` has noted them, `choose` picks one of so many possible contents; the last is what was
    /// written. It gets the number of the executor first. Returns how many pages have lost something.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn lose_power(&self, choose: impl FnMut(u32, usize) -> usize) -> u64 {
        assert!(self.process.is_none(), "kill the server first");
        let logs = self.data_directory().join("log");
        corelane::faults::lose_power(&logs, choose).expect("the logs can be changed")
    }

    /// The same; all that was not synced is lost.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn lose_all_unsynced(&self) -> u64 {
        self.lose_power(|_, _| 0)
    }
}

/// Commands that are sent before their answers are read.
const SENT_AT_ONCE: usize = 500;

/// Sends many commands and reads their answers, of which none may be an error.
fn run_all(client: &mut Client, commands: impl Iterator<Item = Vec<String>>) {
    let mut commands = commands.peekable();
    while commands.peek().is_some() {
        let mut sent = 0;
        for command in commands.by_ref().take(SENT_AT_ONCE) {
            client.send(&command).expect("the server reads");
            sent += 1;
        }
        for _ in 0..sent {
            let reply = client.read().expect("the server answers").render();
            assert!(!reply.starts_with("(error)"), "{reply}");
        }
    }
}

/// A fault that lasts as long as a file exists (`NAME=while:PATH`).
#[derive(Clone)]
pub(crate) struct Switch {
    path: PathBuf,
}

impl Switch {
    /// One with a file in a test's folder.
    pub(crate) fn in_folder(folder: &Path, name: &str) -> Switch {
        Switch {
            path: folder.join(name),
        }
    }

    /// What to write after `NAME=` in CORELANE_FAULTS.
    pub(crate) fn when(&self) -> String {
        format!("while:{}", self.path.display())
    }

    pub(crate) fn on(&self) {
        std::fs::write(&self.path, "").expect("a file can be made in a temporary directory");
    }

    /// Switches on a fault of the storage executor of a number only.
    pub(crate) fn on_for_executor(&self, number: usize) {
        // In one step: an empty file would mean all executors.
        let written = self.path.with_extension("new");
        std::fs::write(&written, number.to_string()).expect("a file can be made in a temporary directory");
        std::fs::rename(&written, &self.path).expect("a file can be renamed in its folder");
    }

    pub(crate) fn off(&self) {
        std::fs::remove_file(&self.path).expect("the switch was on");
    }
}

fn command(address: SocketAddr, data_directory: &Path, flags: &str, faults: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args([
        "--bind",
        &address.ip().to_string(),
        "--port",
        &address.port().to_string(),
    ]);
    command.arg("--data-dir").arg(data_directory);
    command.args(flags.split_whitespace());
    command.env("CORELANE_FAULTS", faults);
    command
}

/// Flags for four shards on two storage executors that also serve clients (on one CPU, on one).
pub(crate) fn four_shards_on_two_executors() -> String {
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let cores = if first == last {
        first.to_string()
    } else {
        format!("{first},{last}")
    };
    format!("--shards 4 --network-cores {cores} --storage-cores {cores}")
}

/// The folders of the shards, in their order.
pub(crate) fn shard_folders(data_directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_directory).expect("the data directory can be read");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the data directory can be read").path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("shard-"))
        })
        .collect();
    folders.sort();
    folders
}

/// A key whose name begins with `prefix` and that lies on a shard.
pub(crate) fn key_on(shard: u16, shard_count: u16, prefix: &str) -> String {
    (0..)
        .map(|number| format!("{prefix}{number}"))
        .find(|key| shard_of(Slot::of(key.as_bytes()), shard_count).0 == shard)
        .expect("every shard has keys")
}

/// The seed of a random test: CORELANE_SEED, or another one each time. It is printed, and shown if the test fails.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("CORELANE_SEED").ok();
    let seed = match given {
        Some(seed) => seed.parse().expect("CORELANE_SEED is a number"),
        None => rand::random::<u32>().into(),
    };
    println!("{test}: again with CORELANE_SEED={seed}");
    seed
}
