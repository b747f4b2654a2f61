//! What the server refuses a client: one too many, one that is idle, one without the password, one that sends too much.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::{exchange, expect, one_executor, raw, request};
use crate::harness::observe::{executors_sum, info_number};
use crate::harness::process::wait_for;
use crate::harness::server::Server;

/// Reads until the server closes the connection.
fn read_to_end(stream: &mut std::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn one_client_more_than_maxclients_is_told_so_and_closed() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--maxclients", "3"])
        .start();
    // The harness's own first connection may still be on its way out.
    let mut first = server.connect();
    assert!(wait_for(|| info_number(&mut first, "clients", "connected_clients") == 1));
    let mut others = [raw(&server), raw(&server)];
    others
        .iter_mut()
        .for_each(|other| exchange(other, b"PING\r\n", b"+PONG\r\n"));
    for _ in 0..3 {
        assert_eq!(read_to_end(&mut raw(&server)), "-ERR max number of clients reached\r\n");
    }
    assert_eq!(info_number(&mut first, "stats", "rejected_connections"), 3);
    // One leaves, one may come; CONFIG SET makes room too.
    let [leaving, _staying] = others;
    drop(leaving);
    assert!(wait_for(|| info_number(&mut first, "clients", "connected_clients") == 2));
    let mut next = raw(&server);
    exchange(&mut next, b"PING\r\n", b"+PONG\r\n");
    assert_eq!(first.command(&["CONFIG", "SET", "maxclients", "4"]).render(), "OK");
    assert!(wait_for(|| {
        let mut more = raw(&server);
        let _ = more.write_all(b"PING\r\n");
        let mut reply = [0; 5];
        more.read_exact(&mut reply).is_ok() && &reply == b"+PONG"
    }));
}

#[test]
fn an_idle_client_is_disconnected_and_a_busy_one_is_not() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--timeout", "1"])
        .start();
    let mut idle = raw(&server);
    let mut busy = server.connect();
    exchange(&mut idle, b"PING\r\n", b"+PONG\r\n");
    let began = Instant::now();
    // Each INFO is a sign of life.
    assert!(wait_for(|| info_number(&mut busy, "clients", "connected_clients") == 1));
    assert_eq!(read_to_end(&mut idle), "");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "it went after {:?}",
        began.elapsed()
    );
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "it went after {:?}",
        began.elapsed()
    );
    // CONFIG SET switches it off again.
    assert_eq!(busy.command(&["CONFIG", "SET", "timeout", "0"]).render(), "OK");
}

#[test]
fn a_client_without_the_password_may_not_do_anything() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--requirepass", "secret"])
        .start();
    let mut client = raw(&server);
    let refusal = b"-NOAUTH Authentication required.\r\n";
    exchange(&mut client, &request(&["SET", "k", "v"]), refusal);
    exchange(&mut client, b"PING\r\n", refusal);
    exchange(&mut client, &request(&["SHUTDOWN"]), refusal);
    exchange(
        &mut client,
        b"AUTH wrong\r\n",
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    );
    // A pipeline behind AUTH is run with its rights.
    let sent = [
        request(&["GET", "k"]),
        request(&["AUTH", "secret"]),
        request(&["GET", "k"]),
    ]
    .concat();
    exchange(&mut client, &sent, &[&refusal[..], b"+OK\r\n$-1\r\n"].concat());
    // RESET takes them away again.
    exchange(
        &mut client,
        b"RESET\r\nGET k\r\n",
        &[b"+RESET\r\n", &refusal[..]].concat(),
    );
}

#[test]
fn a_client_without_the_password_may_not_send_much() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--requirepass", "secret"])
        .start();
    for (sent, text) in [
        (
            b"*2\r\n$4\r\nAUTH\r\n$16385\r\n".as_slice(),
            "unauthenticated bulk length",
        ),
        (b"*11\r\n", "unauthenticated multibulk length"),
        (b"*2\r\n$4\r\nAUTH\r\n$536870913\r\n", "invalid bulk length"),
    ] {
        let mut client = raw(&server);
        client.write_all(sent).expect("the server reads");
        assert_eq!(read_to_end(&mut client), format!("-ERR Protocol error: {text}\r\n"));
    }
    // What is just allowed is a wrong password, and with the right one the limits are the usual ones, within one
    // pipeline.
    let mut client = raw(&server);
    let long = "x".repeat(16384);
    let wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    exchange(&mut client, &request(&["AUTH", &long]), wrong);
    let sent = [
        request(&["AUTH", "secret"]),
        request(&["SET", "k", &"x".repeat(20_000)]),
        request(&["STRLEN", "k"]),
    ];
    exchange(&mut client, &sent.concat(), b"+OK\r\n+OK\r\n:20000\r\n");
}

#[test]
fn a_query_over_its_limit_ends_the_connection_and_its_memory() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--client-query-buffer-limit", "1mb"])
        .start();
    let mut observer = server.connect();
    let mut client = raw(&server);
    client
        .write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9000000\r\n")
        .expect("the server reads");
    // Part of it is refused with a reset while it is being sent.
    let _ = client.write_all(&vec![b'x'; 9_000_000]);
    assert!(wait_for(
        || info_number(&mut observer, "clients", "connected_clients") == 1
    ));
    assert_eq!(
        info_number(&mut observer, "stats", "client_query_buffer_limit_disconnections"),
        1
    );
    assert_eq!(observer.command(&["EXISTS", "k"]).render(), "(integer) 0");
}

#[test]
fn garbage_is_answered_and_ends_only_its_own_connection() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut other = server.connect();
    for (sent, text) in [
        (b"*1\r\n!4\r\nPING\r\n".as_slice(), "expected '$', got '!'"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*2\r\n$4\r\nECHO\r\n$-5\r\n", "invalid bulk length"),
        (b"SET \"k v\r\n", "unbalanced quotes in request"),
    ] {
        let mut client = raw(&server);
        // The reply of the command before it comes first.
        client
            .write_all(&[b"SET before 1\r\n", sent].concat())
            .expect("the server reads");
        assert_eq!(
            read_to_end(&mut client),
            format!("+OK\r\n-ERR Protocol error: {text}\r\n")
        );
    }
    assert_eq!(other.command(&["GET", "before"]).render(), "\"1\"");
    assert_eq!(executors_sum(&mut other, "panics"), 0);
    let mut long = raw(&server);
    // More than the 64 KiB that a line may have, without its end.
    let _ = long.write_all(&vec![b'a'; 70_000]);
    expect(&mut long, b"-ERR Protocol error: too big inline request\r\n");
}

/// An address of this machine that is not on loopback, if it has one: the one it would reach others from.
fn outward_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-1 of RFC 5737: nothing is sent, the kernel only picks the route.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

#[test]
fn protected_mode_refuses_who_comes_from_elsewhere_until_there_is_a_password() {
    let Some(outward) = outward_address() else {
        println!("skipped: this machine has no address but loopback");
        return;
    };
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--bind", "*", "--maxclients", "50"])
        .start();
    let elsewhere = std::net::SocketAddr::new(outward, server.address().port());
    let connect = || {
        let stream = std::net::TcpStream::connect(elsewhere).expect("it listens on every address");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a socket option");
        stream
    };
    let refusal = read_to_end(&mut connect());
    assert!(
        refusal.starts_with("-DENIED Corelane is running in protected mode because protected mode is enabled"),
        "{refusal}"
    );
    let mut local = server.connect();
    assert_eq!(local.command(&["PING"]).render(), "PONG", "loopback is not refused");
    assert_eq!(
        local.command(&["CONFIG", "SET", "requirepass", "secret"]).render(),
        "OK"
    );
    exchange(&mut connect(), b"AUTH secret\r\nPING\r\n", b"+OK\r\n+PONG\r\n");
    assert_eq!(local.command(&["CONFIG", "SET", "requirepass", ""]).render(), "OK");
    assert!(read_to_end(&mut connect()).starts_with("-DENIED"));
    assert_eq!(local.command(&["CONFIG", "SET", "protected-mode", "no"]).render(), "OK");
    exchange(&mut connect(), b"PING\r\n", b"+PONG\r\n");
}
