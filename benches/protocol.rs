//! The protocol layer: what one request costs to parse and one reply to write. Bytes in memory, no sockets.

use corelane::protocol::{Limits, Parsed, Parser, Reply, Version};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// The size of values, as in `redis-benchmark -d 64`.
const VALUE_BYTES: usize = 64;

/// Commands in the pipeline.
const PIPELINE: usize = 64;

/// The value of the large SET.
const LARGE_VALUE_BYTES: usize = 1 << 20;

/// What arrives at a time of a large request: as much as a network executor reads at once.
const READ_BYTES: usize = 64 * 1024;

/// Elements of the array.
const ARRAY_ELEMENTS: usize = 100;

/// Replies that are written before the output is emptied: one would measure the emptying.
const REPLIES_PER_ROUND: usize = 64;

fn main_benches(criterion: &mut Criterion) {
    parse(criterion);
    parse_large(criterion);
    encode(criterion);
}

/// A request as a RESP array of bulk strings.
fn request(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Parses all requests of a buffer that ends with one, reads every argument's length, and returns how many there were.
fn parse_all(parser: &mut Parser, limits: &Limits, buffer: &[u8]) -> usize {
    let mut commands = 0;
    let mut position = 0;
    while position < buffer.len() {
        match parser.parse(&buffer[position..], limits) {
            Ok(Parsed::Command { consumed }) => {
                let arguments = parser.arguments(&buffer[position..]);
                black_box(arguments.iter().map(<[u8]>::len).sum::<usize>());
                position += consumed;
                commands += 1;
            }
            other => panic!("a complete request was parsed as {other:?}"),
        }
    }
    commands
}

fn parse(criterion: &mut Criterion) {
    let set = request(&[b"SET", b"key:000000012345", &[b'v'; VALUE_BYTES]]);
    let cases = [
        ("set", set.clone(), 1),
        ("get", request(&[b"GET", b"key:000000012345"]), 1),
        ("set pipeline of 64", set.repeat(PIPELINE), PIPELINE),
        ("inline get", b"GET key:000000012345\r\n".to_vec(), 1),
    ];
    let limits = Limits::default();
    let mut group = criterion.benchmark_group("parse");
    for (name, buffer, commands) in cases {
        let mut parser = Parser::new();
        assert_eq!(parse_all(&mut parser, &limits, &buffer), commands);
        group.throughput(Throughput::Elements(commands as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse_all(&mut parser, &limits, black_box(&buffer)));
        });
    }
    group.finish();
}

/// A SET of 1 MiB that arrives in pieces: the parser is asked after each, and must not read the earlier ones again.
fn parse_large(criterion: &mut Criterion) {
    let buffer = request(&[b"SET", b"key:000000012345", &vec![b'v'; LARGE_VALUE_BYTES]]);
    let limits = Limits::default();
    let mut parser = Parser::new();
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    group.bench_function("set of 1 MiB in pieces of 64 KiB", |bencher| {
        bencher.iter(|| {
            let mut received = 0;
            loop {
                received = (received + READ_BYTES).min(buffer.len());
                match parser.parse(black_box(&buffer[..received]), &limits) {
                    Ok(Parsed::Incomplete { .. }) => assert!(received < buffer.len()),
                    Ok(Parsed::Command { consumed }) => break consumed,
                    other => panic!("a piece of a request was parsed as {other:?}"),
                }
            }
        });
    });
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let value = [b'v'; VALUE_BYTES];
    let write_ok = |mut reply: Reply<'_>| reply.ok();
    let write_integer = |mut reply: Reply<'_>| reply.integer(black_box(123_456));
    let write_bulk = |mut reply: Reply<'_>| reply.bulk(black_box(&value));
    let write_array = |mut reply: Reply<'_>| {
        reply.array(ARRAY_ELEMENTS);
        (0..ARRAY_ELEMENTS).for_each(|_| reply.bulk(black_box(&value)));
    };
    encode_one(criterion, "ok", write_ok);
    encode_one(criterion, "integer", write_integer);
    encode_one(criterion, "bulk of 64 bytes", write_bulk);
    encode_one(criterion, "array of 100 bulks", write_array);
}

/// Measures one kind of reply in both protocols.
fn encode_one(criterion: &mut Criterion, name: &str, write: impl Fn(Reply<'_>)) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(REPLIES_PER_ROUND as u64));
    for (protocol, version) in [("RESP2", Version::Resp2), ("RESP3", Version::Resp3)] {
        let mut output = Vec::new();
        group.bench_function(BenchmarkId::new(name, protocol), |bencher| {
            bencher.iter(|| {
                output.clear();
                (0..REPLIES_PER_ROUND).for_each(|_| write(Reply::new(&mut output, black_box(version))));
                black_box(output.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, main_benches);
criterion_main!(benches);
