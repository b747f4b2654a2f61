//! Members of sets and fields of hashes at random, where memory has all of them and where a counted tree tells ranks.

use crate::harness::client::Client;
use crate::harness::server::Server;
use crate::harness::value::Value;
use corelane::storage::encoding;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

fn texts(client: &mut Client, words: &[&str]) -> Vec<String> {
    match client.command(words) {
        Value::Array(Some(elements)) => elements.iter().filter_map(Value::text).collect(),
        value => value.text().into_iter().collect(),
    }
}

fn integer(client: &mut Client, words: &[&str]) -> i64 {
    match client.command(words) {
        Value::Integer(number) => number,
        other => panic!("{words:?} was answered {other:?}"),
    }
}

/// A set and a hash with the same names, and the names.
struct World {
    client: Client,
    names: BTreeSet<String>,
    random: StdRng,
}

impl World {
    fn add(&mut self, count: usize) {
        let (mut members, mut fields) = (vec!["SADD", "s"], vec!["HSET", "h"]);
        let names: Vec<String> = (0..count)
            .map(|_| format!("name:{}", self.random.random_range(0..5000)))
            .collect();
        for name in &names {
            members.push(name);
            fields.extend([&name[..], "v"]);
        }
        let new: BTreeSet<_> = names.iter().filter(|name| !self.names.contains(*name)).collect();
        let new = new.len() as i64;
        assert_eq!(integer(&mut self.client, &members), new);
        assert_eq!(integer(&mut self.client, &fields), new);
        self.names.extend(names);
    }

    fn remove(&mut self) {
        let name = format!("name:{}", self.random.random_range(0..5000));
        let removed = i64::from(self.names.remove(&name));
        assert_eq!(integer(&mut self.client, &["SREM", "s", &name]), removed);
        assert_eq!(integer(&mut self.client, &["HDEL", "h", &name]), removed);
    }

    fn pop(&mut self) {
        for member in texts(&mut self.client, &["SPOP", "s"]) {
            assert!(self.names.remove(&member), "{member} was not there");
            assert_eq!(integer(&mut self.client, &["HDEL", "h", &member]), 1);
        }
    }

    fn check(&mut self) {
        let count = self.names.len();
        assert_eq!(integer(&mut self.client, &["SCARD", "s"]), count as i64);
        assert_eq!(integer(&mut self.client, &["HLEN", "h"]), count as i64);
        for words in [["SMEMBERS", "s"], ["HKEYS", "h"]] {
            let all = texts(&mut self.client, &words);
            assert_eq!(all.len(), count, "{words:?}");
            assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), self.names, "{words:?}");
        }
        let some = (count / 3).to_string();
        for words in [["SRANDMEMBER", "s", &some], ["HRANDFIELD", "h", &some]] {
            let drawn = texts(&mut self.client, &words);
            let distinct: BTreeSet<_> = drawn.iter().collect();
            assert_eq!((drawn.len(), distinct.len()), (count / 3, count / 3), "{words:?}");
            assert!(drawn.iter().all(|name| self.names.contains(name)), "{words:?}");
        }
    }
}

#[test]
fn random_names_are_those_that_are_there_whatever_comes_and_goes() {
    let seed =
        std::env::var("CORELANE_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().expect("a seed"));
    println!("again with CORELANE_SEED={seed}");
    for size in ["0", "800kb", "256mb"] {
        let flags = ["--shards", "1", "--memory-size", size];
        let mut server = Server::builder().flags(&flags).start();
        let mut world = World {
            client: server.connect(),
            names: BTreeSet::new(),
            random: StdRng::seed_from_u64(seed),
        };
        for round in 0..40 {
            match world.random.random_range(0..10) {
                0..4 => world.add(300),
                4..6 => world.add(3),
                6..8 => (0..100).for_each(|_| world.remove()),
                _ => (0..50).for_each(|_| world.pop()),
            }
            if round % 15 == 14 {
                server.kill_9();
                server.restart();
                world.client = server.connect();
            }
            world.check();
        }
        while !world.names.is_empty() {
            world.pop();
        }
        assert_eq!(integer(&mut world.client, &["EXISTS", "s", "h"]), 0);
    }
}

#[test]
fn names_are_drawn_uniformly_in_memory_and_by_the_counted_tree() {
    for size in ["0", "256mb"] {
        let flags = ["--shards", "1", "--memory-size", size];
        let server = Server::builder().flags(&flags).start();
        let mut client = server.connect();
        let names: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let members = ["SADD", "s"].into_iter().chain(names.iter().map(String::as_str));
        assert_eq!(integer(&mut client, &members.collect::<Vec<_>>()), 1000);
        let fields = ["HSET", "h"]
            .into_iter()
            .chain(names.iter().flat_map(|name| [name.as_str(), "v"]));
        assert_eq!(integer(&mut client, &fields.collect::<Vec<_>>()), 1000);
        for words in [["SRANDMEMBER", "s", "-50000"], ["HRANDFIELD", "h", "-50000"]] {
            let mut times = vec![0; 1000];
            for name in texts(&mut client, &words) {
                times[name.parse::<usize>().expect("a number")] += 1;
            }
            // 50 each on average, with a deviation of 7.
            assert!(
                times.iter().all(|times| (10..100).contains(times)),
                "{words:?}: {times:?}"
            );
        }
    }
}

#[test]
fn numbers_of_names_are_read_as_they_were_written() {
    for (next_number, tree) in [(7, None), (9, None), (9, Some((2, 5, 6)))] {
        let order = encoding::NameOrder {
            next_number,
            tree: tree.map(|(levels, node, next_node)| encoding::TreeRoot {
                levels,
                node,
                next_node,
            }),
        };
        let mut extra = Vec::new();
        order.encode_into(7, &mut extra);
        assert_eq!(encoding::NameOrder::of_set(&extra, 7), Some(order));
        let deadlines = encoding::FieldDeadlines {
            earliest_ms: 1,
            latest_ms: 2,
            fields: 3,
        };
        for deadlines in [encoding::FieldDeadlines::default(), deadlines] {
            let extra = [deadlines.encode(), extra.clone()].concat();
            assert_eq!(encoding::FieldDeadlines::decode(&extra), Some(deadlines));
            assert_eq!(encoding::NameOrder::of_hash(&extra, 7), Some(order));
        }
    }
    assert_eq!(encoding::NameOrder::of_set(b"short", 7), None);
    assert_eq!(encoding::NameOrder::of_hash(&[0; 26], 7), None);
}
