//! A pipelined request means the same wherever TCP cuts it.

use std::io::Write;

use super::{exchange, expect, raw, request, separate_executors, several_executors, shown};
use crate::harness::client::Client;
use crate::harness::process::wait_for;
use crate::harness::server::Server;

/// Commands, each with its reply: arrays and inline commands, values with every byte that could mislead a parser,
/// errors, frames without a command, keys of several shards.
fn pipeline() -> Vec<(Vec<u8>, &'static [u8])> {
    vec![
        (request(&["FLUSHALL"]), b"+OK\r\n"),
        (
            request(&[b"SET".as_slice(), b"k\r\n\0", b"\r\n$3\r\n*1\r\n\0\xff"]),
            b"+OK\r\n",
        ),
        (
            request(&[b"GET".as_slice(), b"k\r\n\0"]),
            b"$12\r\n\r\n$3\r\n*1\r\n\0\xff\r\n",
        ),
        (b"PING\r\n".to_vec(), b"+PONG\r\n"),
        (b"set inline \"a\\x00 b\\n\"\n".to_vec(), b"+OK\r\n"),
        (request(&["GET", "inline"]), b"$5\r\na\0 b\n\r\n"),
        (request(&["MSET", "a", "1", "b", "", "c", "3", "d", "4"]), b"+OK\r\n"),
        (
            request(&["MGET", "a", "b", "none", "c", "d"]),
            b"*5\r\n$1\r\n1\r\n$0\r\n\r\n$-1\r\n$1\r\n3\r\n$1\r\n4\r\n",
        ),
        (b"\r\n".to_vec(), b""),
        (b"*0\r\n".to_vec(), b""),
        (request(&["INCR", "a"]), b":2\r\n"),
        (request(&["ECHO", ""]), b"$0\r\n\r\n"),
        (
            request(&["INCR", "inline"]),
            b"-ERR value is not an integer or out of range\r\n",
        ),
        (
            request(&["NOSUCH", "x"]),
            b"-ERR unknown command 'NOSUCH', with args beginning with: 'x' \r\n",
        ),
        (
            request(&["GET"]),
            b"-ERR wrong number of arguments for 'get' command\r\n",
        ),
        (request(&["DEL", "a", "b", "c", "d", "e"]), b":4\r\n"),
        (b"  echo 'last one'  \r\n".to_vec(), b"$8\r\nlast one\r\n"),
    ]
}

#[test]
fn a_pipeline_cut_at_every_position_gets_the_same_replies() {
    for flags in [separate_executors(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut observer = server.connect();
        let commands = pipeline();
        let sent: Vec<u8> = commands.iter().flat_map(|(request, _)| request.clone()).collect();
        let whole: Vec<u8> = commands.iter().flat_map(|(_, reply)| reply.to_vec()).collect();
        exchange(&mut raw(&server), &sent, &whole);

        for cut in 1..sent.len() {
            let mut stream = raw(&server);
            let id = identify(&mut stream);
            stream.write_all(&sent[..cut]).expect("the server reads");
            // The second half follows when the server has the first: all replies to whole commands are here, and the
            // rest lies in its query buffer.
            let (mut end, mut replies) = (0, Vec::new());
            for (request, reply) in &commands {
                if end + request.len() > cut {
                    break;
                }
                end += request.len();
                replies.extend_from_slice(reply);
            }
            expect(&mut stream, &replies);
            wait_until_buffered(&mut observer, id, cut - end);
            exchange(&mut stream, &sent[cut..], &whole[replies.len()..]);
        }
    }
}

#[test]
fn a_pipeline_that_comes_byte_by_byte_gets_the_same_replies() {
    let server = Server::builder().flags(&separate_executors()).start();
    let mut stream = raw(&server);
    for (request, reply) in pipeline() {
        for byte in request {
            stream.write_all(&[byte]).expect("the server reads");
        }
        expect(&mut stream, reply);
    }
}

#[test]
fn two_pipelines_that_come_in_turns_are_not_mixed() {
    let server = Server::builder().flags(&several_executors()).start();
    let (mut one, mut other) = (raw(&server), raw(&server));
    let (first, second) = (request(&["ECHO", "first"]), request(&["GET", "second"]));
    for place in 0..first.len().max(second.len()) {
        one.write_all(first.get(place..=place).unwrap_or_default())
            .expect("the server reads");
        other
            .write_all(second.get(place..=place).unwrap_or_default())
            .expect("the server reads");
    }
    expect(&mut one, b"$5\r\nfirst\r\n");
    expect(&mut other, b"$-1\r\n");
}

/// The connection's CLIENT ID.
fn identify(stream: &mut std::net::TcpStream) -> u64 {
    use std::io::Read;
    stream.write_all(b"CLIENT ID\r\n").expect("the server reads");
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the server answers");
        reply.push(byte[0]);
    }
    let digits = String::from_utf8_lossy(&reply[1..reply.len() - 2]).into_owned();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("CLIENT ID was answered {}", shown(&reply)))
}

/// Waits until that many bytes of a client are read and not run.
fn wait_until_buffered(observer: &mut Client, id: u64, bytes: usize) {
    let wanted = format!(" qbuf={bytes} ");
    let mut line = String::new();
    let buffered = wait_for(|| {
        line = observer
            .command(&["CLIENT", "LIST", "ID", &id.to_string()])
            .text()
            .unwrap_or_default();
        line.contains(&wanted)
    });
    assert!(
        buffered,
        "the server never had {bytes} bytes of an unfinished command: {line}"
    );
}
