//! Approximate trims of streams remove what Redis's remove: random streams, against the machine's redis-server.

use super::Shape;
use crate::harness::client::Client;
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;
use crate::storage::seed;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Corelane and redis-server, which are asked the same.
struct Both {
    corelane: Client,
    redis: Client,
    asked: Vec<String>,
    _servers: (Server, RedisOracle),
}

impl Both {
    /// `None` without a redis-server.
    fn start() -> Option<Both> {
        let redis = RedisOracle::start()?;
        let server = Server::builder().flags(&Shape::OneShard.flags()).start();
        Some(Both {
            corelane: server.connect(),
            redis: Client::connect(redis.address()).expect("redis-server takes connections"),
            asked: Vec::new(),
            _servers: (server, redis),
        })
    }

    fn ask(&mut self, words: &[String]) -> String {
        self.asked.push(words.join(" "));
        let (ours, theirs) = (
            self.corelane.command(words).render(),
            self.redis.command(words).render(),
        );
        if ours != theirs {
            let from = self.asked.len().saturating_sub(30);
            panic!(
                "Corelane: {ours}\nRedis: {theirs}\nafter\n{}",
                self.asked[from..].join("\n")
            );
        }
        ours
    }

    fn line(&mut self, line: &str) -> String {
        self.ask(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }
}

/// Field names and a value of one of the kinds that listpacks have encodings of their own for.
fn entry(random: &mut StdRng, names: usize, len_max: usize) -> Vec<String> {
    let mut words = Vec::new();
    for name in 0..names {
        words.push(format!("field{name}"));
        words.push(match random.random_range(0..6) {
            0 => random.random_range(-5000..5000).to_string(),
            1 => random.random::<i64>().to_string(),
            2 => random.random_range(-40_000_000..40_000_000_i64).to_string(),
            _ => "x".repeat(random.random_range(0..=len_max)),
        });
    }
    words
}

/// One random command on the stream, which has had entries up to `last` (milliseconds).
fn command(random: &mut StdRng, last: &mut u64, shape: (usize, usize)) -> Vec<String> {
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let older = |random: &mut StdRng| last.saturating_sub(random.random_range(0..400));
    let limit = ["", "", "", " LIMIT 0", " LIMIT 150", " LIMIT 7"]
        .choose(random)
        .expect("not empty");
    let trim = match random.random_range(0..6) {
        0 => format!("MAXLEN ~ {}{limit}", random.random_range(0..300)),
        1 => format!("MINID ~ {}{limit}", older(random)),
        2 => format!("MAXLEN {}", random.random_range(0..300)),
        3 => format!("MINID {}-{}", older(random), random.random_range(0..3)),
        _ => String::new(),
    };
    match random.random_range(0..20) {
        0 if !trim.is_empty() => words(format!("XTRIM s {trim}")),
        1 => {
            let ids: Vec<String> = (0..random.random_range(1..120))
                .map(|_| older(random).to_string())
                .collect();
            words(format!("XDEL s {}", ids.join(" ")))
        }
        2 => {
            // The newest ones.
            let ids: Vec<String> = (0..random.random_range(1..4))
                .map(|back| (*last - back).to_string())
                .collect();
            words(format!("XDEL s {}", ids.join(" ")))
        }
        _ => {
            *last += random.random_range(1..3);
            let trim = if random.random_range(0..8) == 0 {
                trim
            } else {
                String::new()
            };
            let names = if random.random_range(0..30) == 0 {
                shape.0 + 1
            } else {
                shape.0
            };
            let mut all = words(format!("XADD s {trim} {last}-0"));
            all.extend(entry(random, names, shape.1));
            all
        }
    }
}

#[test]
fn approximate_trims_of_random_streams_leave_what_redis_leaves() {
    let Some(mut both) = Both::start() else { return };
    let mut random = StdRng::seed_from_u64(seed("stream trims"));
    for round in 0..40 {
        both.line("DEL s");
        let shape = (
            random.random_range(1..6),
            *[3, 20, 100, 400, 5000].choose(&mut random).expect("not empty"),
        );
        let mut last = 1000;
        for _ in 0..400 {
            let command = command(&mut random, &mut last, shape);
            both.ask(&command);
            if round % 4 == 0 {
                both.line("XLEN s");
            }
        }
        // Every entry that is left, and what an approximate trim makes of it.
        both.line("XRANGE s - +");
        for kept in [200, 90, 30, 0] {
            both.line(&format!("XTRIM s MAXLEN ~ {kept}"));
            both.line("XLEN s");
        }
    }
}

#[test]
fn the_sizes_at_which_nodes_end_are_redis_s() {
    let Some(mut both) = Both::start() else { return };
    for len in [
        0, 1, 20, 36, 37, 38, 39, 40, 41, 63, 64, 65, 120, 126, 127, 500, 2000, 4000, 4096, 10_000,
    ] {
        for names in [1, 2, 7] {
            both.line("DEL s");
            for number in 1..=300 {
                let mut words: Vec<String> = ["XADD", "s", &format!("{number}-1")].map(str::to_owned).to_vec();
                for name in 0..names {
                    words.extend([format!("f{name}"), "v".repeat(len / names)]);
                }
                both.ask(&words);
            }
            for kept in [250, 200, 150, 100, 50, 10, 0] {
                both.line(&format!("XTRIM s MAXLEN ~ {kept}"));
                both.line("XLEN s");
            }
        }
    }
}

/// A large entry ends its node; when it has gone, and all behind it have, the node before it goes on.
#[test]
fn a_node_goes_on_when_those_behind_it_are_empty_in_any_order() {
    let Some(mut both) = Both::start() else { return };
    for deleted in [[2, 3, 4], [4, 3, 2], [3, 2, 4], [2, 4, 3]] {
        both.line("DEL s");
        both.line("XADD s 1-0 f first");
        for number in [2, 3] {
            both.line(&format!("XADD s {number}-0 f {}", "v".repeat(5000)));
        }
        both.line("XADD s 4-0 f last");
        for number in deleted {
            both.line(&format!("XDEL s {number}-0"));
        }
        both.line("XADD s 5-0 f next");
        both.line("XTRIM s MINID ~ 5-0");
        both.line("XRANGE s - +");
        both.line("XTRIM s MINID ~ 6-0");
        both.line("XLEN s");
    }
}
