//! A connection's replies leave in the order of its commands, wherever those ran and however long they took; what it
//! wrote is there for its next command; and nothing that was asked is left unanswered at the end.

use std::io::{Read, Write};
use std::net::Shutdown;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    exchange, expect, four_shards_of_one_executor, one_executor, raw, request, separate_executors, several_executors,
    shown,
};
use crate::harness::server::Server;

#[test]
fn replies_come_in_the_order_of_the_commands() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for flags in [one_executor(), separate_executors(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut stream = raw(&server);
        // Slow enough to be overtaken by all others if anything could overtake.
        let fill: Vec<u8> = (0..5000)
            .flat_map(|number| request(&["SET", &format!("fill-{number}"), "x"]))
            .collect();
        exchange(&mut stream, &fill, &b"+OK\r\n".repeat(5000));
        for _ in 0..50 {
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for number in 0..random.random_range(1..200) {
                let (request, reply) = numbered_command(random.random_range(0..9), number);
                sent.extend(request);
                expected.extend(reply);
            }
            exchange(&mut stream, &sent, &expected);
        }
    }
}

/// A transaction that begins behind a command of low priority sends all its steps at that priority: its client's next
/// commands, which are not of low priority any more, must not overtake the last step. Under `always` a command on
/// several shards of one executor is a transaction of several steps.
#[test]
fn what_follows_a_transaction_does_not_overtake_its_steps() {
    let server = Server::builder()
        .flags(&four_shards_of_one_executor())
        .flags(&["--durability", "always", "--batch-size", "1"])
        .start();
    let mut stream = raw(&server);
    for number in 0..40 {
        let (from, to) = (format!("from-{number}"), format!("to-{number}"));
        let commands: [&[&str]; 5] = [
            &["SET", &from, "1"],
            &["KEYS", "nothing"],
            &["RENAME", &from, &to],
            &["DBSIZE"],
            &["DEL", &to],
        ];
        let sent: Vec<u8> = commands.iter().flat_map(|command| request(command)).collect();
        exchange(&mut stream, &sent, b"+OK\r\n*0\r\n+OK\r\n:1\r\n:1\r\n");
    }
}

/// Under `always` what a script writes to several shards of an executor is committed as one when the shards' earlier
/// commits are on disk; one of these may be of the same turn, which a command that reads what is committed has cut in
/// two.
#[test]
fn a_commit_of_several_shards_follows_one_of_the_same_turn() {
    let server = Server::builder()
        .flags(&four_shards_of_one_executor())
        .flags(&["--durability", "always"])
        .start();
    let mut stream = raw(&server);
    let script = "for i = 1, 20 do redis.call('SET', 'key' .. i, ARGV[1]) end return ARGV[1]";
    for number in 0..40 {
        let value = number.to_string();
        let commands: [&[&str]; 4] = [
            &["SET", "key1", "earlier"],
            &["KEYS", "nothing"],
            &["EVAL", script, "0", &value],
            &["GET", "key7"],
        ];
        let sent: Vec<u8> = commands.iter().flat_map(|command| request(command)).collect();
        let bulk = format!("${}\r\n{value}\r\n", value.len());
        exchange(&mut stream, &sent, format!("+OK\r\n*0\r\n{bulk}{bulk}").as_bytes());
    }
}

/// A command whose reply tells its number: on the network executor, on one shard, on several, on all of them slowly.
fn numbered_command(kind: u32, number: usize) -> (Vec<u8>, Vec<u8>) {
    let text = number.to_string();
    let bulk = format!("${}\r\n{text}\r\n", text.len()).into_bytes();
    let key = format!("key-{text}");
    let several = ["a", "b", "c", "d"].map(|letter| format!("{letter}-{text}"));
    let [a, b, c, d] = several.each_ref().map(String::as_str);
    match kind {
        0 => (request(&["ECHO", &text]), bulk),
        1 => (format!("PING {text}\r\n").into_bytes(), bulk),
        2 => (request(&["SET", &key, &text, "GET"]), b"$-1\r\n".to_vec()).followed_by(request(&["GETDEL", &key]), bulk),
        3 => (request(&["SET", &key, &text]), b"+OK\r\n".to_vec())
            .followed_by(request(&["GET", &key]), bulk)
            .followed_by(request(&["DEL", &key]), b":1\r\n".to_vec()),
        4 => (
            request(&["MSET", a, &text, b, &text, c, &text, d, &text]),
            b"+OK\r\n".to_vec(),
        )
            .followed_by(request(&["GET", c]), bulk.clone())
            .followed_by(
                request(&["MGET", d, c, b, a]),
                [b"*4\r\n".to_vec(), bulk.repeat(4)].concat(),
            )
            .followed_by(request(&["DEL", a, b, c, d]), b":4\r\n".to_vec()),
        5 => (request(&["KEYS", &format!("nothing-{text}")]), b"*0\r\n".to_vec())
            .followed_by(request(&["ECHO", &text]), bulk),
        6 => (request(&["KEYS", "fill-4999"]), b"*1\r\n$9\r\nfill-4999\r\n".to_vec()),
        7 => (request(&["SET", a, &text]), b"+OK\r\n".to_vec())
            .followed_by(request(&["RENAME", a, b]), b"+OK\r\n".to_vec())
            .followed_by(request(&["EXISTS", a, b]), b":1\r\n".to_vec())
            .followed_by(request(&["GETDEL", b]), bulk),
        _ => (request(&["DBSIZE"]), b":5000\r\n".to_vec()).followed_by(request(&["NOSUCH", &text]), {
            format!("-ERR unknown command 'NOSUCH', with args beginning with: '{text}' \r\n").into_bytes()
        }),
    }
}

trait FollowedBy {
    fn followed_by(self, request: Vec<u8>, reply: Vec<u8>) -> Self;
}

impl FollowedBy for (Vec<u8>, Vec<u8>) {
    fn followed_by(mut self, request: Vec<u8>, reply: Vec<u8>) -> Self {
        self.0.extend(request);
        self.1.extend(reply);
        self
    }
}

/// A command on keys of several executors fetches them first and writes afterwards: what follows on its connection must
/// wait. (It once did not, and read what was there before.)
#[test]
fn what_a_command_over_several_executors_wrote_is_there_for_the_next_command() {
    let server = Server::builder().flags(&several_executors()).start();
    let mut stream = raw(&server);
    for number in 0..300 {
        let text = number.to_string();
        let sent = [
            request(&["MSET", "a", &text, "b", &text, "c", &text, "d", &text]),
            request(&["INCR", "a"]),
            request(&["RENAME", "a", "e"]),
            request(&["GET", "e"]),
            request(&["COPY", "e", "b", "REPLACE"]),
            request(&["MGET", "b", "a", "c"]),
        ];
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let next = (number + 1).to_string();
        let expected = format!(
            "+OK\r\n:{next}\r\n+OK\r\n{0}:1\r\n*3\r\n{0}$-1\r\n{1}",
            bulk(&next),
            bulk(&text)
        );
        exchange(&mut stream, &sent.concat(), expected.as_bytes());
    }
}

#[test]
fn quit_is_answered_after_everything_before_it_and_nothing_after_it() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut stream = raw(&server);
        let before = [
            request(&["MSET", "a", "1", "b", "2"]),
            request(&["KEYS", "a*"]),
            request(&["INCR", "b"]),
        ]
        .concat();
        let sent = [&before[..], b"QUIT\r\n", b"SET after 1\r\nPING\r\n"].concat();
        stream.write_all(&sent).expect("the server reads");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("QUIT closes");
        assert_eq!(shown(&all), shown(b"+OK\r\n*1\r\n$1\r\na\r\n:3\r\n+OK\r\n"));
        assert_eq!(server.connect().command(&["EXISTS", "after"]).render(), "(integer) 0");
    }
}

/// `printf 'GET k\r\n' | nc` closes its side before the reply is there.
#[test]
fn a_client_that_has_closed_its_own_side_still_gets_its_replies() {
    for flags in [one_executor(), separate_executors()] {
        let server = Server::builder().flags(&flags).start();
        let large = vec![b'v'; 3 << 20];
        server.connect().command(&[b"SET".as_slice(), b"large", &large]);
        let mut stream = raw(&server);
        // A slow one, one that does not fit the socket's buffers, one behind it, and half a command.
        stream
            .write_all(
                b"EVAL \"for i = 1, 10000000 do end return 1\" 1 large\r\nGET large\r\nGET large\r\nSET last 1\r\nPING\r\n*1\r\n$4\r\nPI",
            )
            .expect("the server reads");
        stream.shutdown(Shutdown::Write).expect("the socket is open");
        expect(&mut stream, b":1\r\n");
        let reply = [format!("${}\r\n", large.len()).as_bytes(), &large, b"\r\n"].concat();
        for _ in 0..2 {
            let mut got = vec![0; reply.len()];
            stream.read_exact(&mut got).expect("the value comes");
            assert!(got == reply, "the value came back changed");
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the server closes its side too");
        assert_eq!(shown(&rest), shown(b"+OK\r\n+PONG\r\n"));
        assert_eq!(server.connect().command(&["GET", "last"]).render(), "\"1\"");
    }
}

#[test]
fn replies_that_a_client_did_not_want_are_left_out_of_the_order() {
    let server = Server::builder().flags(&several_executors()).start();
    let mut stream = raw(&server);
    let sent =
        b"SET a 1\r\nCLIENT REPLY SKIP\r\nKEYS *\r\nGET a\r\nCLIENT REPLY OFF\r\nINCR a\r\nPING\r\nMGET a b c d\r\n\
        CLIENT REPLY ON\r\nGET a\r\n";
    exchange(&mut stream, sent, b"+OK\r\n$1\r\n1\r\n+OK\r\n$1\r\n2\r\n");
}
