//! A request that waits longer than `request-timeout-ms` is answered -TIMEOUT, was not executed and never will be.

#![cfg(feature = "fault-injection")]

use std::io::Write;
use std::time::{Duration, Instant};

use super::{expect, has_two_cpus, raw, request, separate_executors};
use crate::harness::observe::executors_sum;
use crate::harness::process::wait_for;
use crate::harness::server::Server;
use crate::storage::Switch;

const DEADLINE: Duration = Duration::from_millis(50);

const TIMEOUT: &[u8] = b"-TIMEOUT the request waited longer than request-timeout-ms and was not executed\r\n";

#[test]
fn requests_behind_a_slow_one_time_out_and_are_not_applied() {
    // With one executor for both roles the sockets sleep too, and what they hold has no deadline yet.
    if !has_two_cpus("the test of deadlines") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let held = Switch::in_folder(folder.path(), "held");
    let server = Server::builder()
        .flags(&separate_executors())
        .flags(&["--request-timeout-ms", &DEADLINE.as_millis().to_string()])
        .faults(&format!("hold-storage={}", held.when()))
        .start();
    let mut observer = server.connect();
    for round in 1..=3_u64 {
        let keys = ["set", "counter", "mset-a", "mset-b"].map(|name| format!("{name}-{round}"));
        let mut writer = raw(&server);
        held.on();
        let sent = [
            request(&["SET", &keys[0], "late"]),
            request(&["INCR", &keys[1]]),
            request(&["MSET", &keys[2], "late", &keys[3], "late"]),
            b"PING\r\n".to_vec(),
        ];
        writer.write_all(&sent.concat()).expect("the server reads");
        // All three are out before the time is up, and wait.
        let sent_at = Instant::now();
        assert!(wait_for(
            || executors_sum(&mut observer, "pending") == 3 && sent_at.elapsed() > 2 * DEADLINE
        ));
        held.off();
        expect(&mut writer, &[TIMEOUT, TIMEOUT, TIMEOUT, b"+PONG\r\n"].concat());
        let present = observer.command(&["EXISTS", &keys[0], &keys[1], &keys[2], &keys[3]]);
        assert_eq!(present.render(), "(integer) 0");
        assert_eq!(executors_sum(&mut observer, "timeouts"), 3 * round);
        assert_eq!(executors_sum(&mut observer, "requests_late"), 3 * round);
        // The same connection is served again at once.
        writer
            .write_all(&request(&["SET", &keys[0], "in time"]))
            .expect("the server reads");
        expect(&mut writer, b"+OK\r\n");
    }
}
