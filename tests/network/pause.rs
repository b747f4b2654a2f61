//! CLIENT PAUSE and UNPAUSE.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{expect, one_executor, raw, several_executors};
use crate::harness::process::wait_for;
use crate::harness::server::Server;

/// Whether nothing has come from the server so far.
fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket has the option");
    let silent = matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).expect("a socket has the option");
    silent
}

/// Sends bytes and waits until `observer` sees them in the connection's query buffer: the server has read them, and
/// holds them back.
fn send_and_wait_until_held(server: &Server, stream: &mut TcpStream, sent: &[u8], held: usize) {
    use std::io::Write;
    stream.write_all(sent).expect("the server reads");
    let mut observer = server.connect();
    let port = stream.local_addr().expect("it is connected").port();
    let is_held = wait_for(|| {
        // CLIENT is served during a pause.
        let list = observer.command(&["CLIENT", "LIST"]).text().unwrap_or_default();
        let line = list.lines().find(|line| line.contains(&format!(":{port} laddr=")));
        line.is_some_and(|line| line.contains(&format!(" qbuf={held} ")))
    });
    assert!(is_held, "the commands were not held back");
}

#[test]
fn a_pause_of_writes_holds_writes_and_what_follows_them_until_it_is_ended() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut control = server.connect();
        assert_eq!(control.command(&["SET", "k", "1"]).render(), "OK");
        assert_eq!(control.command(&["CLIENT", "PAUSE", "60000", "WRITE"]).render(), "OK");
        // Reads go on, a write does not, and neither does what its connection sends behind it.
        assert_eq!(control.command(&["GET", "k"]).render(), "\"1\"");
        let mut writer = raw(&server);
        let held = b"INCR k\r\nPING\r\n";
        send_and_wait_until_held(&server, &mut writer, &[b"GET k\r\n", &held[..]].concat(), held.len());
        expect(&mut writer, b"$1\r\n1\r\n");
        assert!(is_silent(&mut writer));
        assert_eq!(
            control.command(&["MGET", "k", "a", "b"]).render(),
            "1) \"1\"\n2) (nil)\n3) (nil)"
        );
        assert_eq!(control.command(&["CLIENT", "UNPAUSE"]).render(), "OK");
        expect(&mut writer, b":2\r\n+PONG\r\n");
    }
}

/// To publish counts as a write, to subscribe does not.
#[test]
fn a_pause_of_writes_holds_what_publishes() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut control = server.connect();
    assert_eq!(control.command(&["CLIENT", "PAUSE", "60000", "WRITE"]).render(), "OK");
    let mut subscriber = server.connect();
    let confirmation = subscriber.command(&["SUBSCRIBE", "channel"]).render();
    assert_eq!(confirmation, "1) \"subscribe\"\n2) \"channel\"\n3) (integer) 1");
    let mut publisher = raw(&server);
    let held = b"PUBLISH channel x\r\n";
    send_and_wait_until_held(&server, &mut publisher, held, held.len());
    assert!(is_silent(&mut publisher) && subscriber.has_no_reply());
    assert_eq!(control.command(&["CLIENT", "UNPAUSE"]).render(), "OK");
    expect(&mut publisher, b":1\r\n");
    let message = subscriber.read().expect("the message comes").render();
    assert_eq!(message, "1) \"message\"\n2) \"channel\"\n3) \"x\"");
}

#[test]
fn a_pause_of_all_holds_reads_and_pings_too() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut control = server.connect();
    assert_eq!(control.command(&["CLIENT", "PAUSE", "60000", "ALL"]).render(), "OK");
    let (mut reader, mut pinger) = (raw(&server), raw(&server));
    send_and_wait_until_held(&server, &mut reader, b"GET k\r\n", 7);
    send_and_wait_until_held(&server, &mut pinger, b"PING\r\n", 6);
    assert!(is_silent(&mut reader) && is_silent(&mut pinger));
    assert_eq!(control.command(&["CLIENT", "UNPAUSE"]).render(), "OK");
    expect(&mut reader, b"$-1\r\n");
    expect(&mut pinger, b"+PONG\r\n");
}

#[test]
fn a_pause_ends_by_itself_and_a_client_that_leaves_during_it_is_let_go() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut control = server.connect();
    let began = Instant::now();
    assert_eq!(control.command(&["CLIENT", "PAUSE", "500"]).render(), "OK");
    let mut leaving = raw(&server);
    send_and_wait_until_held(&server, &mut leaving, b"SET k leaving\r\n", 15);
    let id = control.command(&["CLIENT", "ID"]);
    drop(leaving);
    // Held until the pause is over: the reply, and with it the proof.
    assert_eq!(control.command(&["SET", "k", "control"]).render(), "OK");
    let took = began.elapsed();
    // The server counts whole milliseconds of the clock, the first of which had begun.
    assert!(
        (Duration::from_millis(499)..Duration::from_secs(5)).contains(&took),
        "it took {took:?}"
    );
    let only_one = wait_for(|| {
        let list = control.command(&["CLIENT", "LIST"]).text().unwrap_or_default();
        list.lines().count() == 1 && list.starts_with(&format!("id={} ", id.text().unwrap_or_default()))
    });
    assert!(only_one, "the client that left is still there");
}
