//! Corelane against redis-server with the same durability, command by command, on this machine and in the same run:
//! the figures of README.
//!
//! `cargo bench --bench comparison` prints a row for each command and pipeline: the medians of interleaved rounds in
//! thousand requests per second, their ratio, the CPU seconds that the server took for a million requests, **counted
//! until its background work was idle**, and the latencies of a pipeline. Then come the geometric means of the ratios,
//! and what is below 1. An error or a wrong reply fails the bench.
//!
//! Options follow `--` as `name=value` (or stand in the environment as `CORELANE_BENCH_NAME`); a word that is no option
//! selects a command, as `commands` does.
//!
//! | option | default | |
//! |---|---|---|
//! | `commands` | all | as `SET,ZADD` |
//! | `pipelines` | `1,16,64` | with `sustained` 16 |
//! | `durability` | `interval` | `interval,always` is both: Redis's everysec and always |
//! | `rounds` | 3 | with `sustained` 1 |
//! | `seconds` | 2 | of one measurement; with `sustained` 60 |
//! | `connections` | 50 | |
//! | `threads` | 1 | of the load |
//! | `shards`, `executors` | automatic | Corelane's; executors have both roles |
//! | `flags` | | more flags of Corelane, with blanks between them |
//! | `directory` | the build's | where the servers' files are |
//!
//! The word `sustained` asks for a minute per command, and shows the slowest second: of a server that defers work, a
//! later second pays. Commands that make collections longer or shorter take turns with their opposites then.
//! The server that is not measured is idle and runs on; how much CPU that takes is printed last.
//! A run with all defaults is 20 minutes of load per durability, a sustained one an hour; preparing the key spaces and
//! waiting until the servers are idle come on top.

mod cases;
#[path = "../measured/mod.rs"]
mod measured;
mod spaces;

use cases::Case;
use measured::load::{Load, Outcome};
use measured::options::{Durability, Options};
use measured::servers::{self, Idle, Kind, Server, Setup};
use measured::{Latencies, machine, median, shown_latencies};
use spaces::{Sizes, Space};
use std::collections::BTreeSet;
use std::time::Duration;
use tempfile::TempDir;

const OPTIONS: &[&str] = &[
    "commands",
    "pipelines",
    "durability",
    "rounds",
    "seconds",
    "sustained",
    "connections",
    "threads",
];

/// Above this share of its time, the load may have been what limits a rate.
const LOAD_BUSY_MAX: f64 = 0.95;

/// What is measured how.
struct Plan {
    is_test: bool,
    sustained: bool,
    sizes: Sizes,
    pipelines: Vec<usize>,
    rounds: usize,
    duration: Duration,
    connections: usize,
    threads: usize,
}

/// A server, its files, and which key spaces it has.
struct Prepared {
    server: Server,
    spaces: Vec<Space>,
    /// Removed after the process is gone.
    _files: TempDir,
}

/// One measurement.
struct Measurement {
    outcome: Outcome,
    cpu_per_million: f64,
    became_idle: bool,
}

/// What a server's rounds come to.
struct Figures {
    rate: f64,
    cpu_per_million: f64,
    latencies: Latencies,
    slowest_second: Option<u64>,
    load_busy: f64,
    became_idle: bool,
}

/// A row of the table, as the summary needs it.
struct Row {
    durability: Durability,
    name: String,
    pipeline: usize,
    ratio: f64,
}

fn main() {
    let options = Options::read(OPTIONS, &["sustained"]);
    if !servers::redis_is_installed() {
        println!("skipped: redis-server is not installed");
        return;
    }
    let plan = Plan::read(&options);
    let cases = selected(&options, &plan);
    if cases.is_empty() {
        println!("no command is selected");
        return;
    }
    let setups = Setup::read_all(&options, "interval");
    let files = servers::directory(&options);
    machine::print_heading(&options, &Kind::BOTH, &setups, files.path());
    plan.print_heading();
    let (mut rows, mut idle) = (Vec::new(), Vec::new());
    for setup in &setups {
        let mut pair = Kind::BOTH.map(|kind| Prepared::start(kind, setup, &options));
        for case in &cases {
            for pipeline in &plan.pipelines {
                rows.push(plan.compare(&mut pair, setup.durability, case, *pipeline));
            }
        }
        let idle_shares = pair.map(|prepared| format!("{:.1}", prepared.server.idle_share * 100.0));
        idle.push(format!("{} ({})", idle_shares.join(" / "), setup.durability));
    }
    print_summary(&rows);
    println!("With nothing to do the servers took {} % of a CPU.", idle.join(", "));
}

/// The cases that are asked for.
fn selected(options: &Options, plan: &Plan) -> Vec<Case> {
    let mut wanted = options.filters.clone();
    if options.text("commands").is_some() {
        wanted.extend(options.list::<String>("commands", ""));
    }
    let is_wanted = |case: &Case| {
        let names = |word: &String| word.eq_ignore_ascii_case(case.command) || word.eq_ignore_ascii_case(&case.name);
        wanted.is_empty() || wanted.iter().any(names)
    };
    cases::all(plan.sizes, plan.sustained)
        .into_iter()
        .filter(is_wanted)
        .collect()
}

impl Plan {
    fn read(options: &Options) -> Plan {
        let (is_test, sustained) = (options.is_test, options.is_on("sustained"));
        let (seconds, rounds) = match (is_test, sustained) {
            (true, _) => (1.0, 1),
            (false, true) => (60.0, 1),
            (false, false) => (2.0, 3),
        };
        Plan {
            is_test,
            sustained,
            sizes: if is_test { Sizes::TEST } else { Sizes::FULL },
            pipelines: options.list("pipelines", if sustained { "16" } else { "1,16,64" }),
            rounds: options.value("rounds", rounds),
            duration: Duration::from_secs_f64(options.value("seconds", seconds)),
            connections: options.value("connections", if is_test { 2 } else { 50 }),
            threads: options.value("threads", 1),
        }
    }

    fn print_heading(&self) {
        println!(
            "- medians of {} interleaved rounds of {:.1} s, {} connections, {} thread(s) of load",
            self.rounds,
            self.duration.as_secs_f64(),
            self.connections,
            self.threads
        );
        println!("- each pair of figures is redis-server / corelane");
        println!("- CPU: the server's until it was idle, seconds per million requests; ~: it did not become idle");
        println!("- µs: p50, p99, p99.9 of a whole pipeline, from sending it to its last reply");
        println!(
            "- *: the load was busy for over {:.0} % of its time, so that the faster server may be faster still",
            LOAD_BUSY_MAX * 100.0
        );
        println!();
        let last = if self.sustained {
            " slowest second, thousand/s |"
        } else {
            ""
        };
        println!(
            "| durability | command | pipeline | thousand/s | ratio | CPU | redis-server µs | corelane µs |{last}"
        );
        println!(
            "|---|---|---|---|---|---|---|---|{}",
            if self.sustained { "---|" } else { "" }
        );
    }

    /// Measures a case, the servers taking turns, and prints its row.
    fn compare(&self, pair: &mut [Prepared; 2], durability: Durability, case: &Case, pipeline: usize) -> Row {
        let mut measurements = [Vec::new(), Vec::new()];
        for round in 0..self.rounds {
            for (prepared, measurements) in pair.iter_mut().zip(&mut measurements) {
                measurements.push(self.measure(prepared, case, pipeline, round));
            }
        }
        let [redis, corelane] = measurements.map(Figures::of);
        let ratio = corelane.rate / redis.rate;
        let load_busy = redis.load_busy.max(corelane.load_busy);
        println!(
            "| {durability} | {} | {pipeline} | {:.1} / {:.1}{} | {ratio:.2} | {:.2} / {:.2}{} | {} | {} |{}",
            case.name,
            redis.rate / 1000.0,
            corelane.rate / 1000.0,
            if load_busy > LOAD_BUSY_MAX { " *" } else { "" },
            redis.cpu_per_million,
            corelane.cpu_per_million,
            if redis.became_idle && corelane.became_idle {
                ""
            } else {
                " ~"
            },
            shown_latencies(&redis.latencies),
            shown_latencies(&corelane.latencies),
            if self.sustained {
                format!(" {} / {} |", redis.shown_slowest(), corelane.shown_slowest())
            } else {
                String::new()
            }
        );
        Row {
            durability,
            name: case.name.clone(),
            pipeline,
            ratio,
        }
    }

    /// One measurement, from an idle server to an idle server.
    fn measure(&self, prepared: &mut Prepared, case: &Case, pipeline: usize, round: usize) -> Measurement {
        prepared.prepare(case, self);
        let server = &prepared.server;
        let test_max = (self.connections * pipeline) as u64;
        let commands_max = match (self.is_test, case.commands_max) {
            (true, None) => Some(test_max),
            (true, Some(max)) => Some(max.min(test_max)),
            (false, max) => max,
        };
        let load = Load {
            templates: case.templates.clone(),
            connections: self.connections,
            threads: self.threads,
            pipeline,
            duration: self.duration,
            commands_max,
            seed: 1000 * round as u64 + 1,
        };
        let cpu_before = server.cpu_seconds();
        let outcome = load.run(server.port);
        let idle = match self.is_test {
            true => Idle {
                cpu_seconds: server.cpu_seconds(),
                came: true,
            },
            false => server.wait_until_idle(),
        };
        Measurement {
            cpu_per_million: (idle.cpu_seconds - cpu_before) * 1e6 / outcome.commands as f64,
            outcome,
            became_idle: idle.came,
        }
    }
}

impl Prepared {
    fn start(kind: Kind, setup: &Setup, options: &Options) -> Prepared {
        let files = servers::directory(options);
        let mut server = Server::start(kind, setup, files.path());
        if !options.is_test {
            server.measure_idle_share();
        }
        Prepared {
            server,
            spaces: Vec::new(),
            _files: files,
        }
    }

    /// Gives a case the keys that it needs; the server is idle afterwards.
    fn prepare(&mut self, case: &Case, plan: &Plan) {
        let Some(space) = case.space else {
            return;
        };
        let exists = self.spaces.contains(&space);
        if exists && !case.needs_fresh_space {
            return;
        }
        if !exists {
            self.spaces.push(space);
        }
        space.fill(plan.sizes, exists, &mut self.server.filler());
        if !plan.is_test {
            // Whether that came to an end, the measurement's own wait will show.
            self.server.wait_until_idle();
        }
    }
}

impl Figures {
    fn of(measurements: Vec<Measurement>) -> Figures {
        let mut latencies = Latencies::new();
        for measurement in &measurements {
            latencies.add(&measurement.outcome.latencies);
        }
        let all = || measurements.iter();
        Figures {
            rate: median(all().map(|one| one.outcome.rate())),
            cpu_per_million: median(all().map(|one| one.cpu_per_million)),
            latencies,
            slowest_second: all().filter_map(|one| one.outcome.slowest_second()).min(),
            load_busy: median(all().map(|one| one.outcome.load_busy)),
            became_idle: all().all(|one| one.became_idle),
        }
    }

    fn shown_slowest(&self) -> String {
        match self.slowest_second {
            Some(commands) => format!("{:.1}", commands as f64 / 1000.0),
            None => "none".to_owned(),
        }
    }
}

/// Prints the geometric means, and what is slower than Redis.
fn print_summary(rows: &[Row]) {
    println!();
    let mean = |rows: &[&Row]| {
        let logarithms: f64 = rows.iter().map(|row| row.ratio.ln()).sum();
        (logarithms / rows.len() as f64).exp()
    };
    let groups: BTreeSet<(&str, usize)> = rows
        .iter()
        .map(|row| (row.durability.of_corelane(), row.pipeline))
        .collect();
    for (durability, pipeline) in groups {
        let is_in = |row: &&Row| row.durability.of_corelane() == durability && row.pipeline == pipeline;
        let group: Vec<&Row> = rows.iter().filter(is_in).collect();
        println!(
            "Geometric mean of {} ratios, {durability}, pipeline {pipeline}: {:.2}",
            group.len(),
            mean(&group)
        );
    }
    let all: Vec<&Row> = rows.iter().collect();
    println!("Geometric mean of all {} ratios: {:.2}", all.len(), mean(&all));
    let mut below: Vec<&Row> = rows.iter().filter(|row| row.ratio < 1.0).collect();
    below.sort_by(|left, right| left.ratio.total_cmp(&right.ratio));
    if below.is_empty() {
        println!("No ratio is below 1.0.");
        return;
    }
    println!("Below 1.0 are {} of {}:", below.len(), rows.len());
    for row in below {
        println!(
            "- {:.2} {}, pipeline {}, {}",
            row.ratio, row.name, row.pipeline, row.durability
        );
    }
}
