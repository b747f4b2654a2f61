//! The `corelane` program: the server, and `corelane cores`.

use clap::ArgMatches;
use corelane::config::{self, LogLevel, Settings};
use corelane::observe::allocator;
use corelane::{preflight, ring, server, topology};
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

// Measured with redis-benchmark at pipeline 16: with glibc's allocator a GET takes about a tenth more of the server's
// CPU, a SET about the same.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    // Before any thread and any ring (see there).
    ring::register_membarrier();
    allocator::give_back_soon();
    let matches = command().get_matches();
    let outcome = match matches.subcommand() {
        Some(("cores", matches)) => cores(matches),
        _ => serve(&matches),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("corelane: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> clap::Command {
    let sysfs = clap::Arg::new("sysfs")
        .long("sysfs")
        .value_name("ROOT")
        .value_parser(clap::value_parser!(PathBuf));
    let json = clap::Arg::new("json").long("json").action(clap::ArgAction::SetTrue);
    config::command().subcommand(
        clap::Command::new("cores")
            .about("Prints the core map that the server would use on this machine, and why")
            .arg(sysfs.help("Looks at the machine recorded in this folder (its sys and proc) in place of this one"))
            .arg(json.help("Prints JSON in place of a table"))
            .args(config::arguments()),
    )
}

fn serve(matches: &ArgMatches) -> Result<(), String> {
    // A CPU that lacks what the build needs could fail anywhere, so the CPU is looked at first.
    preflight::cpu_features().map_err(|error| error.to_string())?;
    let (settings, config_file) = config::load(matches).map_err(|error| error.to_string())?;
    ring::install(settings.coop_taskrun);
    let set_log_level = start_log(&settings)?;
    server::run(settings, config_file, set_log_level).map_err(|error| error.to_string())
}

/// Starts the log; the returned function changes its level.
fn start_log(settings: &Settings) -> Result<impl Fn(LogLevel) + use<>, String> {
    let (filter, handle) = reload::Layer::new(level_filter(settings.log_level));
    let registry = tracing_subscriber::registry().with(filter);
    match &settings.log_file {
        None => {
            let layer = fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal());
            registry.with(layer).init();
        }
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let file = file.map_err(|error| format!("the log file {} cannot be opened: {error}", path.display()))?;
            registry.with(fmt::layer().with_writer(file).with_ansi(false)).init();
        }
    }
    Ok(move |level| {
        if let Err(error) = handle.modify(|filter| *filter = level_filter(level)) {
            tracing::warn!(%error, "the log level could not be changed");
        }
    })
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn cores(matches: &ArgMatches) -> Result<(), String> {
    let (settings, _) = config::load(matches).map_err(|error| error.to_string())?;
    let overrides = server::core_map_overrides(&settings).map_err(|error| error.to_string())?;
    let sysfs = matches.get_one::<PathBuf>("sysfs").map(PathBuf::as_path);
    let json = matches.get_flag("json");
    let text = topology::cores_command(sysfs.or(None::<&Path>), &overrides, json).map_err(|error| error.to_string())?;
    println!("{}", text.trim_end());
    Ok(())
}
