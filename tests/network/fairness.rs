//! One client's load does not keep the others from being served.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{one_executor, raw, separate_executors};
use crate::harness::server::Server;

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(3);

/// The longest that another client may wait for one reply: scheduling on a full machine, not starvation.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A client that sends faster than it is served must not keep its executor to itself: its socket is never empty, so its
/// reads never wait. (The executor once served such a client and nobody else, for as long as it sent.)
#[test]
fn a_flood_of_pings_does_not_starve_the_others() {
    let _alone = crate::harness::process::measures();
    for flags in [one_executor(), separate_executors()] {
        slowest_beside_a_flood(&flags, b"PING\r\n");
    }
}

#[test]
fn a_flood_of_gets_does_not_starve_the_others() {
    let _alone = crate::harness::process::measures();
    for flags in [one_executor(), separate_executors()] {
        slowest_beside_a_flood(&flags, b"GET none\r\n");
    }
}

fn slowest_beside_a_flood(flags: &[String], command: &[u8]) {
    let server = Server::builder().flags(flags).start();
    let stop = AtomicBool::new(false);
    let writer = raw(&server);
    let reader = writer.try_clone().expect("a socket can be shared");
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let pipeline = command.repeat(100_000);
            let mut writer = &writer;
            // The end of the test closes the socket under it.
            while !stop.load(Ordering::Acquire) && writer.write_all(&pipeline).is_ok() {
                std::hint::spin_loop()
            }
        });
        scope.spawn(|| {
            let (mut reader, mut buffer) = (&reader, vec![0; 1 << 20]);
            while matches!(reader.read(&mut buffer), Ok(count) if count > 0) {}
        });
        let mut other = server.connect();
        let began = Instant::now();
        while began.elapsed() < FLOOD && slowest < WAIT_MAX {
            let asked = Instant::now();
            for command in ["PING", "DBSIZE"] {
                // A reply that does not come at all ends in the client's own limit.
                let reply = other.send(&[command]).and_then(|()| other.read());
                slowest = slowest.max(asked.elapsed());
                if reply.is_err() {
                    break;
                }
            }
        }
        stop.store(true, Ordering::Release);
        writer.shutdown(std::net::Shutdown::Both).expect("the socket is open");
    });
    println!("the slowest PING and DBSIZE beside a flood took {slowest:?}");
    assert!(slowest < WAIT_MAX, "another client waited {slowest:?}");
}
