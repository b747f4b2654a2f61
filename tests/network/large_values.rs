//! Values of many megabytes, and the limit on their size.

use std::io::{Read, Write};

use super::{expect, one_executor, raw, request, separate_executors};
use crate::harness::server::Server;

const VALUE_BYTES: usize = 64 << 20;

#[test]
fn a_value_of_64_mib_is_stored_and_read_back() {
    let _alone = crate::harness::process::measures();
    for flags in [one_executor(), separate_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut stream = raw(&server);
        // Every byte differs from its neighbours, so that a shifted piece shows.
        let value: Vec<u8> = (0..VALUE_BYTES).map(|place| (place * 31 + place / 251) as u8).collect();
        stream
            .write_all(&request(&[b"SET".as_slice(), b"large", &value]))
            .expect("the server reads");
        expect(&mut stream, b"+OK\r\n");
        for _ in 0..2 {
            stream.write_all(b"GET large\r\nPING\r\n").expect("the server reads");
            expect(&mut stream, format!("${VALUE_BYTES}\r\n").as_bytes());
            let mut got = vec![0; VALUE_BYTES];
            stream.read_exact(&mut got).expect("the whole value comes");
            assert!(got == value, "the value came back changed");
            expect(&mut stream, b"\r\n+PONG\r\n");
        }
        stream
            .write_all(b"GETRANGE large 67108860 -1\r\n")
            .expect("the server reads");
        expect(&mut stream, &[b"$4\r\n", &value[VALUE_BYTES - 4..], b"\r\n"].concat());
    }
}

/// All replies of one batch together pass 4 GiB: positions of 32 bits once wrapped around there.
#[test]
fn replies_of_more_than_4_gib_in_one_pipeline_come_right() {
    let _alone = crate::harness::process::measures();
    const BYTES: usize = 16 << 20;
    const REPLIES: usize = 270;
    const _: () = assert!(BYTES * REPLIES > u32::MAX as usize);
    // Without the limit, a client that asks for so much at once would be disconnected: one executor may run ahead of
    // the socket. On a busy machine the last replies are more than the usual ten seconds away.
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&[
            "--client-output-buffer-limit",
            "normal 0 0 0",
            "--request-timeout-ms",
            "600000",
        ])
        .start();
    let mut stream = raw(&server);
    for key in ["a", "b"] {
        stream
            .write_all(&request(&[
                b"SET".as_slice(),
                key.as_bytes(),
                &vec![key.as_bytes()[0]; BYTES],
            ]))
            .expect("the server reads");
        expect(&mut stream, b"+OK\r\n");
    }
    let pipeline: Vec<u8> = (0..REPLIES)
        .flat_map(|number| request(&["GET", ["a", "b"][number % 2]]))
        .collect();
    stream.write_all(&pipeline).expect("the server reads");
    let head = format!("${BYTES}\r\n");
    let mut reply = vec![0; head.len() + BYTES + 2];
    for number in 0..REPLIES {
        stream
            .read_exact(&mut reply)
            .unwrap_or_else(|error| panic!("reply {number} did not come: {error}"));
        assert!(
            reply.starts_with(head.as_bytes()) && reply.ends_with(b"\r\n"),
            "reply {number} is broken"
        );
        let letter = b"ab"[number % 2];
        assert!(
            reply[head.len()..head.len() + BYTES].iter().all(|byte| *byte == letter),
            "reply {number} is another"
        );
    }
}

#[test]
fn a_value_over_proto_max_bulk_len_is_refused_before_it_is_sent() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--proto-max-bulk-len", "1mb"])
        .start();
    let mut stream = raw(&server);
    stream
        .write_all(b"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n")
        .expect("the server reads");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the server closes the connection");
    assert_eq!(
        String::from_utf8_lossy(&all),
        "+PONG\r\n-ERR Protocol error: invalid bulk length\r\n"
    );

    // At the limit it is taken, and APPEND may not pass it.
    let mut client = server.connect();
    assert_eq!(
        client
            .command(&[b"SET".as_slice(), b"k", &vec![b'x'; 1 << 20]])
            .render(),
        "OK"
    );
    assert_eq!(
        client.command(&["APPEND", "k", "y"]).render(),
        "(error) ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    );
    assert_eq!(client.command(&["STRLEN", "k"]).render(), "(integer) 1048576");
}
