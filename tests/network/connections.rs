//! Connections that come and go in thousands, politely and not, leave nothing behind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use socket2::SockRef;

use super::{expect, one_executor, raw, request, several_executors};
use crate::harness::observe::{info_number, open_files_max, sockets};
use crate::harness::process::wait_for;
use crate::harness::server::Server;

const CONNECTIONS: usize = 5000;

/// Connections open at a time: below the usual soft limit of 1024 sockets, beside the other tests.
const WAVE_MAX: usize = 500;

#[test]
fn five_thousand_connections_leave_nothing_behind() {
    let _alone = crate::harness::process::measures();
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let wave = WAVE_MAX.min(open_files_max() / 3);
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut observer = server.connect();
        let pid = server.process().pid();
        let large = vec![b'v'; 1 << 20];
        observer.command(&[b"SET".as_slice(), b"large", &large]);
        let before = sockets(pid);

        let mut opened = 0;
        while opened < CONNECTIONS {
            let count = wave.min(CONNECTIONS - opened);
            let streams: Vec<TcpStream> = (0..count).map(|_| raw(&server)).collect();
            opened += count;
            for stream in streams {
                leave(stream, random.random_range(0..LEAVES));
            }
        }
        let mut left = 0;
        let all_gone = wait_for(|| {
            left = info_number(&mut observer, "clients", "connected_clients");
            left == 1
        });
        assert!(all_gone, "{left} clients are still connected");
        let mut open = 0;
        let all_closed = wait_for(|| {
            open = sockets(pid);
            open <= before
        });
        assert!(all_closed, "{before} sockets were open before, {open} are now");
        assert!(info_number(&mut observer, "stats", "total_connections_received") >= CONNECTIONS as u64);
        assert_eq!(observer.command(&["STRLEN", "large"]).render(), "(integer) 1048576");
        assert_eq!(raw(&server).write(b"PING\r\n").expect("it still accepts"), 6);
    }
}

/// The ways in which [`leave`] ends a connection.
const LEAVES: u32 = 8;

/// Ends a connection in one of many ways. Errors are the server's right: it may see a reset before it answers.
fn leave(mut stream: TcpStream, how: u32) {
    let reset = |stream: &TcpStream| {
        SockRef::from(stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket has the option")
    };
    match how {
        // Without a word; with a reset.
        0 => {}
        1 => reset(&stream),
        // In the middle of a command, politely and with a reset.
        2 => drop(stream.write_all(b"*3\r\n$3\r\nSET\r\n$5\r\nhalf")),
        3 => {
            drop(stream.write_all(b"*3\r\n$3\r\nSET\r\n$500000\r\nhalf"));
            reset(&stream);
        }
        // With replies on their way, more than the socket takes.
        4 => {
            drop(stream.write_all(&request(&["GET", "large"]).repeat(3)));
            reset(&stream);
        }
        5 => drop(stream.write_all(&request(&["MGET", "large", "a", "b", "c"]))),
        // After a reply; after QUIT.
        6 => expect_pong(&mut stream),
        _ => {
            drop(stream.write_all(b"QUIT\r\n"));
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("QUIT closes");
            assert_eq!(rest, b"+OK\r\n");
        }
    }
}

fn expect_pong(stream: &mut TcpStream) {
    stream.write_all(b"PING\r\n").expect("the server reads");
    expect(stream, b"+PONG\r\n");
}

/// An earlier system dropped the channel's sender at the end of its initialisation: it could never receive a request
/// once it had been idle.
#[test]
fn a_server_that_was_idle_serves_at_once() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut observer = server.connect();
        // INFO runs on the network executor: no storage executor hears of it.
        assert!(wait_for(
            || info_number(&mut observer, "server", "uptime_in_seconds") >= 3
        ));
        let asked = std::time::Instant::now();
        assert_eq!(observer.command(&["SET", "after", "idle"]).render(), "OK");
        assert_eq!(
            observer.command(&["MGET", "after", "b", "c", "d"]).render(),
            "1) \"idle\"\n2) (nil)\n3) (nil)\n4) (nil)"
        );
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "it took {:?}",
            asked.elapsed()
        );
    }
}
