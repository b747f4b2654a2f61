//! What every table begins with: without it, its figures mean nothing elsewhere.

use super::options::Options;
use super::servers::{self, Kind, Setup};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Prints the command line, the machine, the file system, versions, and how both servers are started.
pub(crate) fn print_heading(options: &Options, kinds: &[Kind], setups: &[Setup], files: &Path) {
    println!("- command line: `{}`", options.command_line());
    println!(
        "- machine: {}, {} of its CPUs usable, Linux {}, {:.1} GiB of memory; the load runs on the same CPUs",
        cpu_model(),
        thread::available_parallelism().map_or(0, usize::from),
        read_trimmed("/proc/sys/kernel/osrelease"),
        memory_bytes() as f64 / f64::from(1 << 30)
    );
    println!("- files: {}", file_system(files));
    println!("- versions: {}", versions(kinds));
    for setup in setups {
        for kind in kinds {
            println!("- durability {}: `{}`", setup.durability, setup.describe(*kind));
        }
    }
    println!();
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(": ")).map(|(_, model)| model);
    model.unwrap_or("a CPU without a name").to_owned()
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The type of the file system that holds a path: one in memory would make syncs free.
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().expect("the directory is there");
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            path.starts_with(point)
                .then(|| (point.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(len, _)| *len);
    mount.map_or_else(|| "an unknown file system".to_owned(), |(_, mount)| mount)
}

fn versions(kinds: &[Kind]) -> String {
    let mut versions = format!("corelane {}", env!("CARGO_PKG_VERSION"));
    let commit = output(
        "git",
        &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"],
    );
    if !commit.is_empty() {
        versions.push_str(&format!(" at {commit}"));
    }
    if kinds.contains(&Kind::Redis) && servers::redis_is_installed() {
        let redis = output("redis-server", &["--version"]);
        let version = redis.split_whitespace().find_map(|word| word.strip_prefix("v="));
        versions.push_str(&format!(", redis-server {}", version.unwrap_or("unknown")));
    }
    versions
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
