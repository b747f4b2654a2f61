//! PITFALLS, trap 1: an executor of glommio can park although it has work, when its thread is descheduled at the wrong
//! moment. A prototype froze for good within seconds on two busy cores. A timer on every executor bounds such a sleep.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use super::{has_two_cpus, raw, request};
use crate::harness::server::{Server, allowed_cpus};

const LOAD: Duration = Duration::from_secs(20);
const CLIENTS: usize = 50;
const PIPELINE: usize = 16;

/// The longest that a client may be without any reply.
const STALL_MAX: Duration = Duration::from_secs(1);

#[test]
fn separate_executors_on_two_busy_cores_do_not_stall() {
    if !has_two_cpus("the stall test with separate executors") {
        return;
    }
    let cpus = allowed_cpus();
    let (network, storage) = (cpus[0], cpus[1]);
    longest_silence_must_be_short(&[network, storage], network, storage);
}

#[test]
fn one_executor_with_both_roles_on_a_busy_core_does_not_stall() {
    let cpu = allowed_cpus()[0];
    longest_silence_must_be_short(&[cpu], cpu, cpu);
}

/// Loads a server for [`LOAD`] while one thread spins on each of `busy`.
fn longest_silence_must_be_short(busy: &[usize], network: usize, storage: usize) {
    let _alone = crate::harness::process::measures();
    let (network, storage) = (network.to_string(), storage.to_string());
    let flags = [
        "--shards",
        "1",
        "--network-cores",
        &network,
        "--storage-cores",
        &storage,
    ];
    // No syncs: the report of one wakes the storage executor each second, and would hide what it sleeps through.
    let server = Server::builder().flags(&flags).flags(&["--durability", "none"]).start();
    let stop = AtomicBool::new(false);
    let ends_at = Instant::now() + LOAD;
    let silences: Vec<(Duration, u64)> = std::thread::scope(|scope| {
        for cpu in busy {
            let stop = &stop;
            scope.spawn(move || {
                assert!(
                    core_affinity::set_for_current(CoreId { id: *cpu }),
                    "CPU {cpu} is ours to use"
                );
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let server = &server;
                    move || longest_silence(server, number, ends_at)
                })
            })
            .collect();
        let silences = clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .collect();
        stop.store(true, Ordering::Relaxed);
        silences
    });
    let longest = silences
        .iter()
        .map(|(silence, _)| *silence)
        .max()
        .expect("there are clients");
    let replies: u64 = silences.iter().map(|(_, replies)| replies).sum();
    println!("{replies} replies in {LOAD:?}, the longest silence of one client {longest:?}");
    assert!(longest < STALL_MAX, "a client had no reply for {longest:?}");
    assert!(
        silences.iter().all(|(_, replies)| *replies > 0),
        "a client was not served at all"
    );
}

/// How long the kernel kept threads waiting although they wanted to run: on a machine that is busy with other things
/// that can be seconds, and is no stall of theirs. A thread that is asleep does not wait.
struct CpuWaits {
    /// The kernel's accounts of the executors and of this thread.
    accounts: Vec<PathBuf>,
    taken_at: Instant,
    waited: Duration,
}

/// How old the figures may be that a silence is compared with.
const WAITS_AGE_MAX: Duration = Duration::from_millis(50);

impl CpuWaits {
    fn of_executors_and_this_thread(pid: u32) -> CpuWaits {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
        let is_executor = |task: &PathBuf| {
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            ["executor-", "network-", "storage-"]
                .iter()
                .any(|role| name.starts_with(role))
        };
        let executors = tasks.filter_map(|task| Some(task.ok()?.path())).filter(is_executor);
        let mut accounts: Vec<PathBuf> = executors.map(|task| task.join("schedstat")).collect();
        assert!(!accounts.is_empty(), "the server has no executors");
        accounts.push("/proc/thread-self/schedstat".into());
        let waited = total_waited(&accounts);
        CpuWaits {
            accounts,
            taken_at: Instant::now(),
            waited,
        }
    }

    /// Waits since the figures were last taken, not long before the last reply.
    fn since(&self) -> Duration {
        total_waited(&self.accounts).saturating_sub(self.waited)
    }

    /// A reply came: waits from now on are counted.
    fn restart(&mut self) {
        if self.taken_at.elapsed() >= WAITS_AGE_MAX {
            self.taken_at = Instant::now();
            self.waited = total_waited(&self.accounts);
        }
    }
}

/// The second number of a schedstat is the nanoseconds on a run queue. A kernel without the file has no excuse.
fn total_waited(accounts: &[PathBuf]) -> Duration {
    let waited_ns = |path: &PathBuf| {
        let account = fs::read_to_string(path).unwrap_or_default();
        account
            .split(' ')
            .nth(1)
            .and_then(|waited| waited.parse().ok())
            .unwrap_or(0)
    };
    Duration::from_nanos(accounts.iter().map(waited_ns).sum())
}

/// Pipelines writes and reads; returns the longest time without any reply, less what the kernel kept the executors or
/// this thread waiting for a CPU, and the number of replies.
fn longest_silence(server: &Server, number: usize, ends_at: Instant) -> (Duration, u64) {
    let mut stream = raw(server);
    // Time enough for a stall, and not so long that a stall for good takes the usual limit of a reply.
    stream
        .set_read_timeout(Some(2 * STALL_MAX))
        .expect("a socket has the option");
    let key = format!("key-{number}");
    // Few writes: a disk that is busy with something else can hold those up for a second, and that is no fault of the
    // executors either.
    let value = "0123456789abcdef";
    let get = request(&["GET", &key]);
    let pipeline = [request(&["SET", &key, value]), get.repeat(PIPELINE - 1)].concat();
    let get_reply_bytes = format!("${}\r\n{value}\r\n", value.len()).len();
    let reply_bytes = b"+OK\r\n".len() + (PIPELINE - 1) * get_reply_bytes;
    let mut buffer = vec![0; reply_bytes];
    let (mut longest, mut replies) = (Duration::ZERO, 0);
    let mut waits = CpuWaits::of_executors_and_this_thread(server.process().pid());
    let mut heard_at = Instant::now();
    while Instant::now() < ends_at {
        stream.write_all(&pipeline).expect("the server reads");
        let mut filled = 0;
        while filled < reply_bytes {
            let read = stream.read(&mut buffer[filled..]);
            let silence = heard_at.elapsed();
            if silence > longest {
                longest = longest.max(silence.saturating_sub(waits.since()));
            }
            match read {
                Ok(count) if count > 0 => filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock && longest < STALL_MAX => continue,
                _ => return (longest.max(STALL_MAX), replies),
            }
            heard_at = Instant::now();
            waits.restart();
        }
        replies += PIPELINE as u64;
    }
    (longest, replies)
}
