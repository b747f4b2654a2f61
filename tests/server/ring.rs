//! Every io_uring ring that the server makes has the cooperative flag, which about doubles what an executor serves, and
//! none has it when it is switched off.
//!
//! The rings are counted in a server process: the switch is one for a whole process, and other tests make rings in this
//! one.

use crate::harness::server::Server;

/// Main, latency and poll ring of one executor at least.
const RINGS_MIN: u64 = 3;

#[test]
fn every_ring_is_cooperative() {
    let (rings, cooperative) = rings_of_a_server(&[]);
    assert!(
        rings >= RINGS_MIN,
        "{rings} rings: glommio's system calls do not go through src/ring.rs"
    );
    assert_eq!(cooperative, if kernel_knows_the_flag() { rings } else { 0 });
}

#[test]
fn no_ring_is_cooperative_when_switched_off() {
    let (rings, cooperative) = rings_of_a_server(&["--no-coop-taskrun"]);
    assert!(rings >= RINGS_MIN, "{rings} rings");
    assert_eq!(cooperative, 0);
}

/// `rings` and `rings_cooperative` of INFO executors, from a server started with `flags`.
fn rings_of_a_server(flags: &[&str]) -> (u64, u64) {
    let server = Server::builder().flags(flags).start();
    let reply = server.connect().command(&["INFO", "executors"]);
    let info = reply
        .text()
        .unwrap_or_else(|| panic!("INFO was answered {}", reply.render()));
    (field(&info, "rings:"), field(&info, "rings_cooperative:"))
}

/// The number after `name` at the start of a line of INFO.
fn field(info: &str, name: &str) -> u64 {
    let value = info.lines().find_map(|line| line.strip_prefix(name));
    value
        .and_then(|value| value.trim_end().parse().ok())
        .unwrap_or_else(|| panic!("INFO executors has no number {name}\n{info}"))
}

/// IORING_SETUP_COOP_TASKRUN came with Linux 5.19.
fn kernel_knows_the_flag() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(5), Some(19))
}
