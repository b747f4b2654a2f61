//! With few credits the sockets are simply read later: every command is answered, and every credit comes home.

use std::io::{Read, Write};

use super::{exchange, raw, request, separate_executors, several_executors, shown};
use crate::harness::observe::executors_sum;
use crate::harness::process::wait_for;
use crate::harness::server::Server;

const CLIENTS: usize = 100;
const PIPELINE: usize = 500;

#[test]
fn a_hundred_deep_pipelines_over_64_credits_are_all_answered() {
    for flags in [separate_executors(), several_executors()] {
        let server = Server::builder()
            .flags(&flags)
            .flags(&["--request-credits", "64"])
            .start();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let server = &server;
                scope.spawn(move || run_pipeline(server, client));
            }
        });
        let mut observer = server.connect();
        for client in 0..CLIENTS {
            let counter = observer.command(&["GET", &format!("counter-{client}")]);
            assert_eq!(counter.render(), format!("\"{PIPELINE}\""));
        }
        assert!(executors_sum(&mut observer, "backpressure_events") > 0);
        assert!(
            wait_for(|| executors_sum(&mut observer, "pending") == 0),
            "credits are missing"
        );
        assert_eq!(
            executors_sum(&mut observer, "requests"),
            executors_sum(&mut observer, "responses")
        );
        assert_eq!(executors_sum(&mut observer, "send_failures"), 0);
        assert_eq!(executors_sum(&mut observer, "timeouts"), 0);
    }
}

/// Counts on its own key, with commands over all shards and none in between.
fn run_pipeline(server: &Server, client: usize) {
    let counter = format!("counter-{client}");
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for number in 1..=PIPELINE {
        sent.extend(request(&["INCR", &counter]));
        expected.extend(format!(":{number}\r\n").into_bytes());
        match number % 10 {
            3 => {
                sent.extend(request(&["EXISTS", &counter, "a", "b", "c", "d"]));
                expected.extend(b":1\r\n");
            }
            6 => {
                sent.extend(b"PING\r\n");
                expected.extend(b"+PONG\r\n");
            }
            _ => {}
        }
    }
    let mut stream = raw(server);
    stream.write_all(&sent).expect("the server reads");
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("every reply comes");
    assert_eq!(shown(&got), shown(&expected));
}

/// A client that leaves with commands out takes no credits with it.
#[test]
fn credits_of_clients_that_left_come_home() {
    let server = Server::builder()
        .flags(&separate_executors())
        .flags(&["--request-credits", "64"])
        .start();
    for _ in 0..200 {
        let mut stream = raw(&server);
        stream
            .write_all(&request(&["INCR", "counter"]).repeat(300))
            .expect("the server reads");
    }
    let mut observer = server.connect();
    assert!(
        wait_for(|| executors_sum(&mut observer, "pending") == 0),
        "credits are missing"
    );
    let mut stream = raw(&server);
    exchange(
        &mut stream,
        &request(&["SET", "k", "v"]).repeat(1000),
        &b"+OK\r\n".repeat(1000),
    );
}
