//! Protections that are no commands: requests of other protocols, malformed frames, clients that have not
//! authenticated.
//!
//! What is expected was asked of redis-server 7.0.15; where one is installed it is asked again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{exchange, one_executor, raw, request, shown};
use crate::harness::client::REPLY_SECONDS_MAX;
use crate::harness::observe::info_number;
use crate::harness::process::wait_for;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;

/// All bytes that a server answers before it closes the connection. QUIT is sent last: where its OK is missing, the
/// server has closed before it.
fn answered(address: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream
        .set_read_timeout(Some(Duration::from_secs(REPLY_SECONDS_MAX)))
        .expect("a socket has the option");
    stream
        .write_all(&[sent, b"QUIT\r\n"].concat())
        .expect("the server reads");
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        // A connection that is closed with bytes unread is reset.
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{}", shown(sent));
    }
    shown(&bytes)
}

/// What is sent, and all that is answered.
type Exchange<'a> = (&'a [u8], &'a str);

const NOT_EVEN_A_REPLY: &str = "";

/// Requests of other protocols: the connection is closed at once, and nothing of what follows is run.
const CROSS_PROTOCOL: &[Exchange<'_>] = &[
    (b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET http 1\r\n", NOT_EVEN_A_REPLY),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET http 1\r\n", NOT_EVEN_A_REPLY),
    (b"DELETE / HTTP/1.1\r\nhost: x\r\nSET http 1\r\n", NOT_EVEN_A_REPLY),
    // Replies of the same read are lost with the connection.
    (b"PING\r\npOsT x\r\nSET http 1\r\n", NOT_EVEN_A_REPLY),
    (b"*1\r\n$4\r\nPOST\r\nSET http 1\r\n", NOT_EVEN_A_REPLY),
    (b"MULTI\r\nSET http 1\r\nHOST: x\r\nEXEC\r\n", NOT_EVEN_A_REPLY),
    (b"SUBSCRIBE x\r\nPOST\r\n", NOT_EVEN_A_REPLY),
    // Words that only resemble those.
    (
        b"Host x\r\n",
        "-ERR unknown command \\'Host\\', with args beginning with: \\'x\\' \\r\\n+OK\\r\\n",
    ),
    (b"PING POST\r\n", "$4\\r\\nPOST\\r\\n+OK\\r\\n"),
];

/// Frames that are none: an error, and the end of the connection.
const MALFORMED: &[Exchange<'_>] = &[
    (
        b"*2147483648\r\n",
        "-ERR Protocol error: invalid multibulk length\\r\\n",
    ),
    (b"*1x\r\n", "-ERR Protocol error: invalid multibulk length\\r\\n"),
    (b"*\r\n", "-ERR Protocol error: invalid multibulk length\\r\\n"),
    (b"*01\r\n", "-ERR Protocol error: invalid multibulk length\\r\\n"),
    (b"*-5\r\n", "+OK\\r\\n"),
    (b"*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\\r\\n"),
    (
        b"*1\r\n$536870913\r\n",
        "-ERR Protocol error: invalid bulk length\\r\\n",
    ),
    (
        b"*1\r\nPING\r\n",
        "-ERR Protocol error: expected \\'$\\', got \\'P\\'\\r\\n",
    ),
    (
        b"PING \"a\"b\r\n",
        "-ERR Protocol error: unbalanced quotes in request\\r\\n",
    ),
    (b"QUIT a b\r\nPING\r\n", "+OK\\r\\n"),
    (
        b"*1\r\n$0\r\n\r\n",
        "-ERR unknown command \\'\\', with args beginning with: \\r\\n+OK\\r\\n",
    ),
];

fn compare(address: SocketAddr, exchanges: &[Exchange<'_>]) {
    for (sent, expected) in exchanges {
        assert_eq!(answered(address, sent), *expected, "after {}", shown(sent));
    }
}

#[test]
fn requests_of_other_protocols_and_malformed_frames_end_the_connection_as_in_redis() {
    if let Some(redis) = RedisOracle::start() {
        compare(redis.address(), CROSS_PROTOCOL);
        compare(redis.address(), MALFORMED);
    }
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--log-level", "debug"])
        .start();
    compare(server.address(), CROSS_PROTOCOL);
    compare(server.address(), MALFORMED);
    assert_eq!(server.connect().command(&["EXISTS", "http"]).render(), "(integer) 0");
    assert!(wait_for(|| server.process().output().contains("InvalidBulkLength")));
    let output = server.process().output();
    let warnings = output.matches("Possible SECURITY ATTACK detected").count();
    assert_eq!(warnings, 1, "the log is not flooded:\n{output}");
}

#[test]
fn an_http_request_ends_a_connection_that_has_not_authenticated_too() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--requirepass", "secret"])
        .start();
    compare(
        server.address(),
        &[(b"POST / HTTP/1.1\r\nAUTH secret\r\nSET http 1\r\n", NOT_EVEN_A_REPLY)],
    );
    let mut client = raw(&server);
    exchange(&mut client, b"AUTH secret\r\nEXISTS http\r\n", b"+OK\r\n:0\r\n");
}

/// Without a password nobody may make the server keep replies for it: Redis has a limit of 1024 bytes for them.
#[test]
fn a_client_that_has_not_authenticated_and_does_not_read_is_disconnected() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--requirepass", "secret"])
        .start();
    let mut control = server.connect();
    assert_eq!(control.command(&["AUTH", "secret"]).render(), "OK");
    let mut silent = raw(&server);
    let pings = b"PING\r\n".repeat(10_000);
    // What the sockets' buffers hold is no more than some megabytes; then the server has to keep it.
    let refused = (0..10_000).any(|_| silent.write_all(&pings).is_err());
    assert!(refused, "the server went on reading");
    let mut disconnections = || info_number(&mut control, "stats", "client_output_buffer_limit_disconnections");
    assert!(wait_for(|| disconnections() == 1));
}

#[test]
fn an_array_may_have_more_than_a_million_arguments() {
    const COUNT: usize = 1_100_000;
    let server = Server::builder().flags(&one_executor()).start();
    let mut client = server.connect();
    let mut words = vec!["DEL"; 1];
    words.resize(COUNT, "k");
    assert_eq!(client.command(&["SET", "k", "v"]).render(), "OK");
    client.send_bytes(&request(&words)).expect("the server reads");
    assert_eq!(client.read().expect("DEL is answered").render(), "(integer) 1");
}
