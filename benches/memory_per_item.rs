//! What an item takes in memory: how much a server's resident memory grows by a million items of a shape, by item.
//!
//! `cargo bench --bench memory_per_item` starts a server for each shape, notes its resident memory with nothing in it,
//! gives it the items and notes it again, as soon as all are acknowledged (Corelane has some in its log alone then, and
//! in memory until a checkpoint has written them) and once the server has been idle. An item is a key, or a
//! member of a large collection; the last column is what Corelane takes of what
//! redis-server does, when both are idle and have given back what their allocators held ready.
//!
//! What a server keeps beside the items (caches that fill, memory that the allocator holds) counts, too: that is what
//! a machine must have. Options after `--`: `items=1000000`, `shapes=string,hash` (all of them), and `shards`,
//! `executors`, `flags`, `directory` as in comparison.

#[path = "measured/mod.rs"]
mod measured;

use measured::machine;
use measured::options::{Durability, Options};
use measured::replies::Expected;
use measured::servers::{self, Kind, Server, Setup};
use std::thread;
use std::time::Duration;

const OPTIONS: &[&str] = &["items", "shapes"];

/// The bytes of the values that are long.
const VALUE_BYTES: usize = 64;

/// Fields of each small hash.
const SMALL_HASH_FIELDS: u64 = 8;

/// How long a server that is idle may take to give memory back.
const REST: Duration = Duration::from_secs(6);

/// A million items of one kind.
struct Shape {
    name: &'static str,
    /// What the table says of it.
    what: &'static str,
    /// The words of the command that adds the items from a number on; the text is [`VALUE_BYTES`] long.
    command: fn(u64, &str) -> Vec<String>,
    expected: Expected,
}

const SHAPES: [Shape; 7] = [
    Shape {
        name: "string",
        what: "string, 16 + 64 bytes",
        command: |number, text| words(&["SET", &format!("key:{number:012}"), text]),
        expected: Expected::Status,
    },
    Shape {
        name: "hash",
        what: "field of a large hash, 16 + 64 bytes",
        command: |number, text| words(&["HSET", "hash", &format!("field:{number:010}"), text]),
        expected: Expected::Integer,
    },
    Shape {
        name: "small-hash",
        what: "hash of 8 fields, 16 + 8 × (6 + 8) bytes",
        command: |number, text| {
            let mut command = words(&["HSET", &format!("user:{number:011}")]);
            for field in 0..SMALL_HASH_FIELDS {
                command.extend([format!("field{field}"), text[..8].to_owned()]);
            }
            command
        },
        expected: Expected::Integer,
    },
    Shape {
        name: "set",
        what: "member of a large set, 16 bytes",
        command: |number, _| words(&["SADD", "set", &format!("member:{number:09}")]),
        expected: Expected::Integer,
    },
    Shape {
        name: "sorted-set",
        what: "member of a large sorted set, 16 bytes",
        command: |number, _| {
            // Scores in no order, as those of a board.
            let score = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
            words(&["ZADD", "board", &score.to_string(), &format!("member:{number:09}")])
        },
        expected: Expected::Integer,
    },
    Shape {
        name: "list",
        what: "element of a list, 64 bytes",
        command: |_, text| words(&["RPUSH", "list", text]),
        expected: Expected::Integer,
    },
    Shape {
        name: "stream",
        what: "entry of a stream, a field of 5 + 64 bytes",
        command: |number, text| words(&["XADD", "stream", &format!("{}-1", number + 1), "field", text]),
        expected: Expected::Bulk,
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Bytes an item: when all are acknowledged, and when the server is idle.
struct Measured {
    written: f64,
    idle: f64,
}

fn main() {
    let options = Options::read(OPTIONS, &[]);
    if !options.filters.is_empty() {
        println!("no part of this bench is selected by {:?}", options.filters);
        return;
    }
    let items: u64 = options.value("items", if options.is_test { 1000 } else { 1_000_000 });
    let all: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
    let wanted: Vec<String> = options.list("shapes", &all.join(","));
    let setup = Setup::read(&options, Durability::Interval);
    let kinds: &[Kind] = match servers::redis_is_installed() {
        true => &Kind::BOTH,
        false => &[Kind::Corelane],
    };
    let files = servers::directory(&options);
    machine::print_heading(&options, kinds, std::slice::from_ref(&setup), files.path());
    println!("| {items} items | server | bytes an item as written | when idle | of redis-server's |");
    println!("|---|---|---|---|---|");
    for shape in SHAPES
        .iter()
        .filter(|shape| wanted.iter().any(|name| name == shape.name))
    {
        let mut of_redis = None;
        for kind in kinds {
            let Measured { written, idle } = shape.measure(*kind, &setup, &options, items);
            let share = match kind {
                Kind::Redis => {
                    of_redis = Some(idle);
                    String::new()
                }
                Kind::Corelane => of_redis.map_or_else(String::new, |redis: f64| format!("{:.2}", idle / redis)),
            };
            println!(
                "| {} | {} | {written:.0} | {idle:.0} | {share} |",
                shape.what,
                kind.name()
            );
        }
    }
}

impl Shape {
    fn measure(&self, kind: Kind, setup: &Setup, options: &Options, items: u64) -> Measured {
        let files = servers::directory(options);
        let mut server = Server::start(kind, setup, files.path());
        if !options.is_test {
            server.measure_idle_share();
        }
        let before = server.memory();
        let text = "0123456789abcdef".repeat(VALUE_BYTES / 16);
        let mut filler = server.filler();
        for number in 0..items {
            filler.push(&(self.command)(number, &text), self.expected);
        }
        filler.finish();
        let per_item = |memory: u64| memory.saturating_sub(before) as f64 / items as f64;
        let written = per_item(server.memory());
        if !options.is_test {
            server.wait_until_idle();
            thread::sleep(REST);
        }
        Measured {
            written,
            idle: per_item(server.memory()),
        }
    }
}
