//! Random commands on bitmaps, parts of long strings and HyperLogLogs, sent to Corelane and to a real redis-server:
//! every reply, and every string byte for byte, is the same. Corelane is restarted on the way, so that it reads from
//! disk too.
//!
//! The seed is printed; `CORELANE_SEED=n` repeats a run.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::client::Client;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::harness::value::Value;
use crate::storage::seed;

const KEYS: [&str; 4] = ["{k}a", "{k}b", "{k}c", "{k}d"];

/// Commands between two looks at all keys.
const COMMANDS_PER_ROUND: usize = 25;

type Words = Vec<Vec<u8>>;

fn words(text: &str) -> Words {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn key(random: &mut StdRng) -> &'static str {
    KEYS[random.random_range(0..KEYS.len())]
}

fn bytes(random: &mut StdRng, len_max: usize) -> Vec<u8> {
    let len = random.random_range(0..=len_max);
    (0..len).map(|_| random.random()).collect()
}

/// Plays `rounds` of commands, restarting Corelane in the middle.
fn play(test: &str, rounds: usize, command: fn(&mut StdRng) -> Words) {
    let Some(redis) = RedisOracle::start() else { return };
    let mut random = StdRng::seed_from_u64(seed(test));
    let mut corelane = Server::builder().flags(&["--shards", "1"]).start();
    let mut oracle = Client::connect(redis.address()).expect("redis-server accepts a connection");
    let mut client = corelane.connect();
    for round in 0..rounds {
        if round == rounds / 2 {
            assert!(corelane.terminate().success(), "an orderly stop");
            corelane.restart();
            client = corelane.connect();
        }
        for _ in 0..COMMANDS_PER_ROUND {
            let words = command(&mut random);
            let (expected, got) = (oracle.command(&words), client.command(&words));
            assert_same(&words, &expected, &got);
        }
        for key in KEYS {
            let words = words(&format!("GET {key}"));
            let (expected, got) = (oracle.command(&words), client.command(&words));
            assert_same(&words, &expected, &got);
        }
    }
}

/// Values may be long: a failure shows where they begin to differ.
fn assert_same(words: &Words, expected: &Value, got: &Value) {
    if expected == got {
        return;
    }
    let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
    let same = expected.bytes().zip(got.bytes()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(40)).take(120).collect::<String>();
    let command: Vec<String> = words
        .iter()
        .map(|word| word[..word.len().min(40)].escape_ascii().to_string())
        .collect();
    panic!(
        "{}\n  redis    …{}\n  Corelane …{}",
        command.join(" "),
        part(&expected),
        part(&got)
    );
}

/// An offset in bytes: often beside the end of a chunk, sometimes far away.
fn offset(random: &mut StdRng) -> usize {
    match random.random_range(0..4) {
        0 => random.random_range(0..100),
        1 => (4096 * random.random_range(1..8) + random.random_range(0..6)) - 3,
        2 => random.random_range(0..40_000),
        _ => random.random_range(0..400_000),
    }
}

fn index(random: &mut StdRng) -> i64 {
    let index = offset(random) as i64 * random.random_range(1..=8);
    if random.random() { index } else { -index }
}

fn unit(random: &mut StdRng) -> &'static str {
    ["BIT", "BYTE"][random.random_range(0..2)]
}

fn fields(random: &mut StdRng) -> String {
    let mut text = String::new();
    for _ in 0..random.random_range(1..5) {
        let (signed, bits) = (random.random::<bool>(), random.random_range(1..=63));
        let kind = format!("{}{bits}", if signed { "i" } else { "u" });
        let at = offset(random) * 8 + random.random_range(0..8);
        let amount = match random.random_range(0..3) {
            0 => random.random_range(-300..300),
            1 => i64::MIN,
            _ => random.random::<i64>(),
        };
        text.push_str(&match random.random_range(0..4) {
            0 => format!(" OVERFLOW {}", ["WRAP", "SAT", "FAIL"][random.random_range(0..3)]),
            1 => format!(" GET {kind} {at}"),
            2 => format!(" SET {kind} {at} {amount}"),
            _ => format!(" INCRBY {kind} {at} {amount}"),
        });
    }
    text
}

fn string_command(random: &mut StdRng) -> Words {
    let (one, other) = (key(random), key(random));
    let (at, first, last) = (offset(random), index(random), index(random));
    let bit = random.random_range(0..2);
    let with_bytes = |text: String, bytes: Vec<u8>| {
        let mut words = words(&text);
        words.push(bytes);
        words
    };
    match random.random_range(0..24) {
        0..=4 => words(&format!("SETBIT {one} {} {bit}", at * 8 + 5)),
        5 => words(&format!("GETBIT {one} {}", at * 8 + 5)),
        6 => words(&format!("BITCOUNT {one} {first} {last} {}", unit(random))),
        7 => words(&format!("BITCOUNT {one}")),
        8 => words(&format!("BITPOS {one} {bit} {first} {last} {}", unit(random))),
        9 => words(&format!("BITPOS {one} {bit} {first}")),
        10 => {
            let operation = ["AND", "OR", "XOR"][random.random_range(0..3)];
            words(&format!("BITOP {operation} {} {one} {other}", key(random)))
        }
        11 => words(&format!("BITOP NOT {one} {other}")),
        12..=14 => words(&format!("BITFIELD {one}{}", fields(random))),
        15 | 16 => with_bytes(format!("SETRANGE {one} {at}"), bytes(random, 9000)),
        17 => with_bytes(format!("APPEND {one}"), bytes(random, 9000)),
        18 => words(&format!("GETRANGE {one} {first} {last}")),
        19 => words(&format!("STRLEN {one}")),
        20 => words(&format!("OBJECT ENCODING {one}")),
        21 => with_bytes(format!("SET {one}"), bytes(random, 30_000)),
        22 => words(&format!("COPY {one} {other} REPLACE")),
        _ => words(&match random.random_range(0..7) {
            0 => format!("DEL {one}"),
            1 => format!("GETDEL {one}"),
            2 => format!("EXPIRE {one} 10000"),
            3 => format!("PERSIST {one}"),
            4 => format!("GETEX {one} EX 10000"),
            5 => format!("MGET {one} {other}"),
            _ => format!("INCR {one}"),
        }),
    }
}

#[test]
fn bitmaps_and_parts_of_long_strings_are_as_in_redis() {
    play("bitmaps_and_parts_of_long_strings_are_as_in_redis", 40, string_command);
}

fn sketch_command(random: &mut StdRng) -> Words {
    let (one, other) = (key(random), key(random));
    match random.random_range(0..16) {
        0..=8 => {
            let mut words = words(&format!("PFADD {one}"));
            let count = [0, 1, 5, 300][random.random_range(0..4)];
            words.extend((0..count).map(|_| bytes(random, 20)));
            words
        }
        9 => words(&format!("PFCOUNT {one}")),
        10 => words(&format!("PFCOUNT {one} {other}")),
        11 => words(&format!("PFMERGE {one} {other} {}", key(random))),
        12 => words(&format!("PFDEBUG DECODE {one}")),
        13 => words(&format!("PFDEBUG ENCODING {one}")),
        14 => words(&format!("PFDEBUG GETREG {one}")),
        _ => words(&format!("DEL {one}")),
    }
}

#[test]
fn hyperloglogs_have_redis_s_bytes_and_counts() {
    play("hyperloglogs_have_redis_s_bytes_and_counts", 30, sketch_command);
}

#[test]
fn a_bit_of_a_bitmap_of_512_mb_is_set_without_writing_the_others() {
    const LAST_BIT: u64 = 4 * 1024 * 1024 * 1024 - 1;
    let mut server = Server::builder().start();
    let mut client = server.connect();
    for bit in 0..100 {
        let offset = (LAST_BIT - bit * 40_000_000).to_string();
        assert_eq!(client.command(&["SETBIT", "bits", &offset, "1"]), Value::Integer(0));
    }
    assert_eq!(client.command(&["STRLEN", "bits"]), Value::Integer(512 << 20));
    assert!(server.terminate().success(), "an orderly stop");
    let stored: u64 = files_below(server.data_directory());
    assert!(stored < 32 << 20, "{stored} bytes were written for 100 bits");
    server.restart();
    let mut client = server.connect();
    for bit in 0..100 {
        let offset = LAST_BIT - bit * 40_000_000;
        assert_eq!(
            client.command(&["GETBIT", "bits", &offset.to_string()]),
            Value::Integer(1)
        );
        assert_eq!(
            client.command(&["GETBIT", "bits", &(offset - 1).to_string()]),
            Value::Integer(0)
        );
    }
    let first = (LAST_BIT - 99 * 40_000_000) as i64;
    assert_eq!(client.command(&["BITPOS", "bits", "1"]), Value::Integer(first));
    assert_eq!(client.command(&["BITCOUNT", "bits", "-1", "-1"]), Value::Integer(1));
}

fn files_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder of the server");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("an entry's metadata");
        match metadata.is_dir() {
            true => files_below(&entry.path()),
            // Files are made as long as they may become.
            false => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        }
    });
    sizes.sum()
}
