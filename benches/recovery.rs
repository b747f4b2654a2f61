//! How long a server that was killed takes to serve again: from its start to the first PONG and the first value.
//!
//! `cargo bench --bench recovery` kills each server with SIGKILL
//!
//! - when it has just been given so many MiB of writes, of which some are only in its log;
//! - when it has so many keys, none of which is only in the log, and nothing to do;
//!
//! and starts it again on the same files. All that was acknowledged must be there: the values of a thousand keys from
//! the first to the last are asked for. The CPU is the server's from its start until it was idle.
//!
//! Options after `--`: `log=512` (MiB), `keys=1000000` (10000000 for the engine's targets), `rounds=3`, and
//! `durability`, `shards`, `executors`, `flags`, `directory` as in comparison.

#[path = "measured/mod.rs"]
mod measured;

use measured::load::Load;
use measured::options::{Durability, Options};
use measured::replies::Expected;
use measured::servers::{self, Kind, Server, Setup};
use measured::template::{Template, random_word};
use measured::{MIB, machine, median};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const OPTIONS: &[&str] = &["log", "keys", "rounds", "durability"];

const VALUE_BYTES: usize = 108;

/// A key, a value, and what a command adds.
const COMMAND_BYTES: u64 = 150;

/// Keys that are asked for after a recovery.
const CHECKED_KEYS: u64 = 1000;

const FILL_CONNECTIONS: usize = 1;
const FILL_PIPELINE: u64 = 64;

/// The keys that a server is given before it is killed.
struct Content {
    name: String,
    keys: u64,
    /// Whether a recovery has brought all of the log into the files.
    is_recovered: bool,
}

/// A server and its files, which are removed when it is gone.
struct Life {
    server: Server,
    files: TempDir,
}

/// One recovery.
struct Recovery {
    pong: Duration,
    value: Duration,
    cpu_seconds: f64,
}

fn main() {
    let options = Options::read(OPTIONS, &[]);
    if !options.filters.is_empty() {
        println!("no part of this bench is selected by {:?}", options.filters);
        return;
    }
    let is_test = options.is_test;
    let log_mib: u64 = options.value("log", if is_test { 1 } else { 512 });
    let keys: u64 = options.value("keys", if is_test { 1000 } else { 1_000_000 });
    let rounds: usize = options.value("rounds", if is_test { 1 } else { 3 });
    let setup = Setup::read(&options, options.value("durability", Durability::Interval));
    let kinds: &[Kind] = match servers::redis_is_installed() {
        true => &Kind::BOTH,
        false => &[Kind::Corelane],
    };
    let files = servers::directory(&options);
    machine::print_heading(&options, kinds, std::slice::from_ref(&setup), files.path());
    println!("| {rounds} round(s) | server | MB on disk | first PONG, s | first value, s | CPU s until idle |");
    println!("|---|---|---|---|---|---|");
    let contents = [
        Content {
            name: format!("{log_mib} MiB just written"),
            keys: log_mib * MIB / COMMAND_BYTES,
            is_recovered: false,
        },
        Content {
            name: format!("{keys} keys, nothing in the log"),
            keys,
            is_recovered: true,
        },
    ];
    for content in &contents {
        for kind in kinds {
            content.measure(*kind, &setup, &options, rounds);
        }
    }
}

impl Content {
    /// Prints a row.
    fn measure(&self, kind: Kind, setup: &Setup, options: &Options, rounds: usize) {
        let mut recoveries = Vec::new();
        let mut recovered = None;
        let mut bytes = 0;
        for _ in 0..rounds {
            // A log that was recovered is empty after that, so that each round needs one of its own.
            let life = match recovered.take() {
                Some(life) if self.is_recovered => life,
                _ => self.first_life(kind, setup, options),
            };
            bytes = bytes_below(life.files.path());
            let (life, recovery) = self.recover(life, setup, options.is_test);
            recoveries.push(recovery);
            recovered = Some(life);
        }
        let middle = |figure: fn(&Recovery) -> f64| median(recoveries.iter().map(figure));
        println!(
            "| {} | {} | {:.0} | {:.3} | {:.3} | {:.2} |",
            self.name,
            kind.name(),
            bytes as f64 / 1e6,
            middle(|one| one.pong.as_secs_f64()),
            middle(|one| one.value.as_secs_f64()),
            middle(|one| one.cpu_seconds)
        );
    }

    /// A server that has the keys and is ready to be killed.
    fn first_life(&self, kind: Kind, setup: &Setup, options: &Options) -> Life {
        let files = servers::directory(options);
        let mut server = Server::start(kind, setup, files.path());
        if !options.is_test {
            server.measure_idle_share();
        }
        self.fill(&server);
        let life = Life { server, files };
        if !self.is_recovered {
            return life;
        }
        // A recovery finishes what the first life left in the log.
        self.recover(life, setup, options.is_test).0
    }

    /// Kills a server and starts it again; it is idle afterwards.
    fn recover(&self, Life { server, files }: Life, setup: &Setup, is_test: bool) -> (Life, Recovery) {
        let (kind, idle_share) = (server.kind, server.idle_share);
        server.kill();
        let mut server = Server::start(kind, setup, files.path());
        server.idle_share = idle_share;
        let last = self.key(self.keys - 1);
        let value = server.wait_for(&["GET", &last], format!("${VALUE_BYTES}\r\n").as_bytes());
        self.check(&server);
        let cpu_seconds = match is_test {
            true => server.cpu_seconds(),
            false => server.wait_until_idle().cpu_seconds,
        };
        let recovery = Recovery {
            pong: server.started_in,
            value,
            cpu_seconds,
        };
        (Life { server, files }, recovery)
    }

    fn digits(&self) -> usize {
        (self.keys - 1).to_string().len()
    }

    fn key(&self, number: u64) -> String {
        let digits = self.digits();
        format!("key:{number:0digits$}")
    }

    /// Sets all keys, and returns as soon as that is acknowledged.
    fn fill(&self, server: &Server) {
        let key = format!("key:{{#{}}}", self.keys);
        let load = Load {
            templates: vec![Template::new(
                &["SET", &key, &random_word(VALUE_BYTES)],
                Expected::Status,
            )],
            connections: FILL_CONNECTIONS,
            threads: 1,
            pipeline: FILL_PIPELINE as usize,
            duration: Duration::MAX,
            // Whole pipelines; what is over sets the first keys again.
            commands_max: Some(self.keys.next_multiple_of(FILL_PIPELINE)),
            seed: 1,
        };
        load.run(server.port);
    }

    /// Asks for keys from the first to the last.
    ///
    /// # Panics
    ///
    /// When one is not there.
    fn check(&self, server: &Server) {
        let mut filler = server.filler();
        for number in (0..self.keys).step_by((self.keys / CHECKED_KEYS).max(1) as usize) {
            filler.push(&["GET", &self.key(number)], Expected::Bulk);
        }
        filler.finish();
    }
}

/// Bytes of all files below a directory; what is removed meanwhile does not count.
fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
