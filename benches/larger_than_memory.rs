//! Corelane with data four times its memory, which a control group bounds, page cache included.
//!
//! `cargo bench --bench larger_than_memory` prints, for strings and for hashes, each on a server of its own:
//!
//! - rates and latencies of 90 % reads and 10 % writes, uniform and of a Zipf distribution of 0.99;
//! - the latencies of GET of a hundred hot keys alone, and while 50 others read cold ones;
//! - cold reads per second with 1 to 64 readers, beside the device's own rate of random reads with as many threads;
//! - uniform overwrites: mean and slowest second.
//!
//! Bytes that the server read from the device, per command, say how cold reads were: few mean that the cache had them.
//! Without the permission to make a control group it says so and does nothing.
//!
//! Options after `--`: `memory=256` (MiB, the setting `memory-size`), `multiple=4` (data by memory), `seconds=5`
//! of each load, `overwrite-seconds=30` (1200 for the 20 minutes of the engine's targets), `connections=50`, and
//! `durability`, `shards`, `executors`, `flags`, `directory` as in comparison.

#[path = "measured/mod.rs"]
mod measured;

use measured::control_group::ControlGroup;
use measured::device::{Device, READ_BYTES};
use measured::load::{Load, Outcome};
use measured::options::{Durability, Options};
use measured::replies::Expected;
use measured::servers::{self, Kind, Server, Setup};
use measured::template::{Template, random_word};
use measured::{MIB, machine, shown_latencies};
use std::thread;
use std::time::Duration;

const OPTIONS: &[&str] = &[
    "memory",
    "multiple",
    "seconds",
    "overwrite-seconds",
    "connections",
    "durability",
];

/// The setting that says how much memory the server may use for data.
const MEMORY_SETTING: &str = "--memory-size";

/// The group may have as much again as a share of that, for the page cache of the server's files.
const PAGE_CACHE_DIVISOR: u64 = 4;

/// What even a server without memory for data has: its program, buffers, and what waits to be written.
const MEMORY_BYTES_MIN: u64 = 192 * MIB;

/// Bytes of a string and of a hash's field, of digits at random.
const STRING_BYTES: usize = 252;
const FIELD_BYTES: usize = 36;
const FIELDS: usize = 8;

/// Keys that are asked for all the time.
const HOT_KEYS: u64 = 100;
const HOT_CONNECTIONS: usize = 4;

const READERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Of ten commands one writes.
const READS_BY_WRITE: usize = 9;

/// How keys are filled: fast.
const FILL_PIPELINE: usize = 64;

#[derive(Clone, Copy)]
enum Family {
    Strings,
    Hashes,
}

/// What is measured how.
struct Plan {
    is_test: bool,
    memory_bytes: u64,
    data_bytes: u64,
    duration: Duration,
    overwrite_duration: Duration,
    connections: usize,
}

/// A family's keys on a server.
struct Bench<'a> {
    plan: &'a Plan,
    family: Family,
    keys: u64,
    server: Server,
    group: &'a ControlGroup,
}

fn main() {
    let options = Options::read(OPTIONS, &[]);
    if !options.filters.is_empty() {
        println!("no part of this bench is selected by {:?}", options.filters);
        return;
    }
    let plan = Plan::read(&options);
    let memory_max = (plan.memory_bytes + plan.memory_bytes / PAGE_CACHE_DIVISOR).max(MEMORY_BYTES_MIN);
    let group = match ControlGroup::new(memory_max) {
        Ok(group) => group,
        Err(error) => {
            println!("skipped: without a control group memory is not bounded: {error}");
            return;
        }
    };
    let mut setup = Setup::read(&options, options.value("durability", Durability::Interval));
    setup.flag(MEMORY_SETTING, plan.memory_bytes);
    setup.control_group = Some(group.clone());
    let files = servers::directory(&options);
    machine::print_heading(&options, &[Kind::Corelane], std::slice::from_ref(&setup), files.path());
    println!(
        "{} MiB of data, memory-size of {} MiB, {} MiB for the server and its page cache\n",
        plan.data_bytes / MIB,
        plan.memory_bytes / MIB,
        memory_max / MIB
    );
    let device = Device::prepare(files.path(), plan.data_bytes);
    for family in [Family::Strings, Family::Hashes] {
        let directory = files.path().join(family.name());
        std::fs::create_dir(&directory).expect("the directory can be written");
        let mut server = Server::start(Kind::Corelane, &setup, &directory);
        if !plan.is_test {
            server.measure_idle_share();
        }
        let bench = Bench {
            plan: &plan,
            family,
            keys: plan.data_bytes / family.bytes_of_key(),
            server,
            group: &group,
        };
        bench.fill();
        bench.mixed();
        bench.hot_beside_cold();
        bench.cold_readers(&device);
        bench.overwrites();
    }
}

impl Plan {
    fn read(options: &Options) -> Plan {
        let is_test = options.is_test;
        let memory_bytes = options.value("memory", if is_test { 1 } else { 256 }) * MIB;
        let seconds = |name, default| {
            let default = if is_test { 0.1 } else { default };
            Duration::from_secs_f64(options.value(name, default))
        };
        Plan {
            is_test,
            memory_bytes,
            data_bytes: memory_bytes * options.value("multiple", 4),
            duration: seconds("seconds", 5.0),
            overwrite_duration: seconds("overwrite-seconds", 30.0),
            connections: options.value("connections", 50),
        }
    }
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Family::Strings => "strings",
            Family::Hashes => "hashes",
        }
    }

    /// What a key and its values come to, without what keeping them costs.
    fn bytes_of_key(self) -> u64 {
        const KEY_BYTES: usize = 12;
        const FIELD_NAME_BYTES: usize = 7;
        let bytes = match self {
            Family::Strings => KEY_BYTES + STRING_BYTES,
            Family::Hashes => KEY_BYTES + FIELDS * (FIELD_NAME_BYTES + FIELD_BYTES),
        };
        bytes as u64
    }

    fn read(self, number: &str) -> Template {
        let key = format!("key:{number}");
        match self {
            Family::Strings => Template::new(&["GET", &key], Expected::Bulk),
            Family::Hashes => Template::new(&["HGET", &key, &any_field()], Expected::Bulk),
        }
    }

    fn write(self, number: &str) -> Template {
        let key = format!("key:{number}");
        match self {
            Family::Strings => Template::new(&["SET", &key, &random_word(STRING_BYTES)], Expected::Status),
            Family::Hashes => {
                let words = ["HSET", &key, &any_field(), &random_word(FIELD_BYTES)];
                Template::new(&words, Expected::Integer)
            }
        }
    }

    /// Writes all of a key.
    fn make(self, number: &str) -> Template {
        let Family::Hashes = self else {
            return self.write(number);
        };
        let mut words = vec!["HSET".to_owned(), format!("key:{number}")];
        for field in 0..FIELDS {
            words.extend([format!("field:{field}"), random_word(FIELD_BYTES)]);
        }
        Template::new(&words, Expected::Integer)
    }
}

fn any_field() -> String {
    format!("field:{{0-{}}}", FIELDS - 1)
}

impl Bench<'_> {
    fn fill(&self) {
        let numbers = format!("{{#{}}}", self.keys);
        let load = Load {
            templates: vec![self.family.make(&numbers)],
            connections: 1,
            threads: 1,
            pipeline: FILL_PIPELINE,
            duration: Duration::MAX,
            // Whole pipelines; what is over writes the first keys again.
            commands_max: Some(self.keys.next_multiple_of(FILL_PIPELINE as u64)),
            seed: 1,
        };
        let outcome = load.run(self.server.port);
        if !self.plan.is_test {
            self.server.wait_until_idle();
        }
        println!(
            "{}: {} keys, loaded at {:.1} thousand/s\n",
            self.family.name(),
            self.keys,
            outcome.rate() / 1000.0
        );
    }

    /// A load of commands one at a time on each connection.
    fn load(&self, templates: Vec<Template>, connections: usize, duration: Duration) -> Load {
        Load {
            templates,
            connections,
            threads: 1,
            pipeline: 1,
            duration,
            commands_max: None,
            seed: connections as u64,
        }
    }

    fn uniform(&self) -> String {
        format!("{{0-{}}}", self.keys - 1)
    }

    /// Numbers of hot keys, with zeros before them as the others have.
    fn hot(&self) -> String {
        let digits = (self.keys - 1).to_string().len() - (HOT_KEYS - 1).to_string().len();
        format!("{}{{0-{}}}", "0".repeat(digits), HOT_KEYS - 1)
    }

    /// Runs a load; what came of it, and the bytes that a command read from the device.
    fn run(&self, load: &Load) -> (Outcome, f64) {
        let read_before = self.server.device_bytes_read();
        let outcome = load.run(self.server.port);
        let read = self.server.device_bytes_read() - read_before;
        let per_command = read as f64 / outcome.commands as f64;
        (outcome, per_command)
    }

    fn mixed(&self) {
        println!(
            "| {}, 10 % writes | thousand/s | p50, p99, p99.9 µs | device bytes a command | peak MiB: process, group |",
            self.family.name()
        );
        println!("|---|---|---|---|---|");
        let zipf = format!("{{z{}}}", self.keys);
        for (name, numbers) in [("uniform", self.uniform()), ("Zipf 0.99", zipf)] {
            let mut templates = vec![self.family.read(&numbers); READS_BY_WRITE];
            templates.push(self.family.write(&numbers));
            let load = self.load(templates, self.plan.connections, self.plan.duration);
            let (outcome, read) = self.run(&load);
            println!(
                "| {name} | {:.1} | {} | {read:.0} | {}, {} |",
                outcome.rate() / 1000.0,
                shown_latencies(&outcome.latencies),
                self.server.memory_max() / MIB,
                self.group.memory_max() / MIB
            );
        }
        println!();
    }

    fn hot_beside_cold(&self) {
        let hot = self.load(vec![self.family.read(&self.hot())], HOT_CONNECTIONS, self.plan.duration);
        let cold = self.load(
            vec![self.family.read(&self.uniform())],
            self.plan.connections,
            self.plan.duration,
        );
        // The first run makes them hot.
        hot.run(self.server.port);
        let alone = hot.run(self.server.port);
        let (beside, (cold, read)) = thread::scope(|scope| {
            let beside = scope.spawn(|| hot.run(self.server.port));
            let cold = self.run(&cold);
            (beside.join().expect("hot keys are answered"), cold)
        });
        println!(
            "| reads of {HOT_KEYS} hot {} | thousand/s | p50, p99, p99.9 µs |",
            self.family.name()
        );
        println!("|---|---|---|");
        for (name, outcome) in [
            ("alone", &alone),
            ("while cold ones are read", &beside),
            ("the cold ones", &cold),
        ] {
            println!(
                "| {name} | {:.1} | {} |",
                outcome.rate() / 1000.0,
                shown_latencies(&outcome.latencies)
            );
        }
        println!("A cold read took {read:.0} bytes from the device.\n");
    }

    fn cold_readers(&self, device: &Device) {
        println!(
            "| readers of cold {} | reads/s | p50, p99, p99.9 µs | of them from the device, MiB/s | the device's own \
             reads of {READ_BYTES} bytes/s, as many threads |",
            self.family.name()
        );
        println!("|---|---|---|---|---|");
        for readers in READERS {
            let load = self.load(vec![self.family.read(&self.uniform())], readers, self.plan.duration);
            let (outcome, read) = self.run(&load);
            let own = device.reads_per_second(readers, self.plan.duration.min(Duration::from_secs(2)));
            println!(
                "| {readers} | {:.0} | {} | {:.1} | {} |",
                outcome.rate(),
                shown_latencies(&outcome.latencies),
                outcome.rate() * read / MIB as f64,
                own.map_or("unknown".to_owned(), |own| format!("{own:.0}"))
            );
        }
        println!();
    }

    fn overwrites(&self) {
        let templates = vec![self.family.write(&self.uniform())];
        let load = self.load(templates, self.plan.connections, self.plan.overwrite_duration);
        let (outcome, _) = self.run(&load);
        let slowest = outcome.slowest_second();
        println!(
            "{}: overwrites for {:.0} s: {:.1} thousand/s, in the slowest second {}; p50, p99, p99.9 µs: {}; peak MiB: \
             process {}, group {}\n",
            self.family.name(),
            outcome.elapsed.as_secs_f64(),
            outcome.rate() / 1000.0,
            slowest.map_or("unknown".to_owned(), |commands| format!(
                "{:.1}",
                commands as f64 / 1000.0
            )),
            shown_latencies(&outcome.latencies),
            self.server.memory_max() / MIB,
            self.group.memory_max() / MIB
        );
    }
}
