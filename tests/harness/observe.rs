//! What a test looks at from outside: fields of INFO, and what the kernel says of the server's process.

use std::fs;
use std::path::PathBuf;

use super::client::Client;

/// A section of INFO as text.
pub(crate) fn info(client: &mut Client, section: &str) -> String {
    let reply = client.command(&["INFO", section]);
    reply
        .text()
        .unwrap_or_else(|| panic!("INFO {section} was answered {}", reply.render()))
}

/// The number behind `name:` in a section of INFO. Panics when there is none.
pub(crate) fn info_number(client: &mut Client, section: &str, name: &str) -> u64 {
    let info = info(client, section);
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("INFO {section} has no number {name}:\n{info}"))
}

/// The sum of one figure (`pending`, `backpressure_events`…) over all executors of INFO. Panics when none has it.
pub(crate) fn executors_sum(client: &mut Client, figure: &str) -> u64 {
    let info = info(client, "executors");
    let figures = info.lines().flat_map(|line| line.split(',')).filter_map(|field| {
        let (name, value) = field.split_once('=')?;
        (name == figure).then_some(value)
    });
    let values: Vec<u64> = figures
        .map(|value| {
            value
                .parse()
                .unwrap_or_else(|_| panic!("{figure}={value} is no number"))
        })
        .collect();
    assert!(!values.is_empty(), "no executor has a figure {figure}:\n{info}");
    values.iter().sum()
}

/// The memory of a process that is resident, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    bytes_of_status(pid, "VmRSS:")
}

/// The most that has been resident at a time.
pub(crate) fn most_resident_bytes(pid: u32) -> u64 {
    bytes_of_status(pid, "VmHWM:")
}

fn bytes_of_status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("the kernel says how much memory is resident") * 1024
}

/// The number of sockets that a process has open: its files come and go with checkpoints.
pub(crate) fn sockets(pid: u32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let names = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
    names
        .filter(|name| name.to_string_lossy().starts_with("socket:"))
        .count()
}

/// A thread of a process: its name, and the CPUs that it may run on as the kernel lists them (`0`, `0-1`, `2,4`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) cpus: String,
}

/// All threads of a process. Those that end meanwhile are left out.
pub(crate) fn threads(pid: u32) -> Vec<Thread> {
    let folder = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let read = |task: PathBuf| -> Option<Thread> {
        let name = fs::read_to_string(task.join("comm")).ok()?.trim_end().to_owned();
        let status = fs::read_to_string(task.join("status")).ok()?;
        let cpus = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(Thread {
            name,
            cpus: cpus.trim().to_owned(),
        })
    };
    folder.filter_map(|entry| read(entry.ok()?.path())).collect()
}

/// The soft limit of open files of this process, which its children inherit.
pub(crate) fn open_files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("/proc is mounted");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    // `unlimited` is no number.
    soft.unwrap_or(usize::MAX)
}

/// The CPU time that a process has used, in clock ticks (100 a second on Linux), by all of its threads.
pub(crate) fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name in parentheses may have blanks in it.
    let (_, fields) = stat.rsplit_once(')').expect("the name ends");
    let field = |place: usize| {
        fields
            .split_whitespace()
            .nth(place)
            .and_then(|text| text.parse::<u64>().ok())
    };
    // utime and stime: fields 14 and 15, of which 3 is the first here.
    field(11)
        .zip(field(12))
        .map(|(user, system)| user + system)
        .expect("the kernel gives both")
}
