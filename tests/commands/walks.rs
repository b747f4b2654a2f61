//! Walks by SCAN, HSCAN, SSCAN and ZSCAN: many at once, with changes between their calls, over a restart.

use super::Shape;
use crate::harness::client::Client;
use crate::harness::server::Server;
use crate::harness::value::Value;
use crate::storage::seed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

/// Cursors from here on are not what they were after a client has kept them in a double.
const CURSOR_END: u64 = 1 << 53;

/// What is walked. The keys are all of one slot, which is the hardest case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walked {
    Keys,
    Fields,
    Set,
    SortedSet,
}

const ALL: [Walked; 4] = [Walked::Keys, Walked::Fields, Walked::Set, Walked::SortedSet];

impl Walked {
    fn add(self, client: &mut Client, name: &str) {
        let key = format!("{{app}}:{name}");
        match self {
            Walked::Keys => client.command(&["SET", &key, "v"]),
            Walked::Fields => client.command(&["HSET", "h", name, "v"]),
            Walked::Set => client.command(&["SADD", "s", name]),
            Walked::SortedSet => client.command(&["ZADD", "z", &name.len().to_string(), name]),
        };
    }

    fn remove(self, client: &mut Client, name: &str) {
        let key = format!("{{app}}:{name}");
        match self {
            Walked::Keys => client.command(&["DEL", &key]),
            Walked::Fields => client.command(&["HDEL", "h", name]),
            Walked::Set => client.command(&["SREM", "s", name]),
            Walked::SortedSet => client.command(&["ZREM", "z", name]),
        };
    }

    /// One call: the names that it gives, and the next cursor.
    fn call(self, client: &mut Client, cursor: u64, count: usize) -> (Vec<String>, u64) {
        let (cursor, count) = (cursor.to_string(), count.to_string());
        let reply = match self {
            Walked::Keys => client.command(&["SCAN", &cursor, "COUNT", &count]),
            Walked::Fields => client.command(&["HSCAN", "h", &cursor, "COUNT", &count]),
            Walked::Set => client.command(&["SSCAN", "s", &cursor, "COUNT", &count]),
            Walked::SortedSet => client.command(&["ZSCAN", "z", &cursor, "COUNT", &count]),
        };
        let Value::Array(Some(parts)) = &reply else {
            panic!("{self:?} answered {}", reply.render())
        };
        let cursor = parts[0].text().expect("a cursor");
        let Value::Array(Some(found)) = &parts[1] else {
            panic!("{self:?} answered {}", reply.render())
        };
        let width = if matches!(self, Walked::Fields | Walked::SortedSet) {
            2
        } else {
            1
        };
        let names = found.iter().step_by(width).map(|name| name.text().expect("a name"));
        let names = names.map(|name| name.trim_start_matches("{app}:").to_owned());
        let cursor = cursor.parse().expect("a number");
        assert!(cursor < CURSOR_END, "{self:?}: {cursor}");
        (names.collect(), cursor)
    }

    /// A whole walk: how often each name is given.
    fn walk(self, client: &mut Client, count: usize) -> BTreeMap<String, u32> {
        let (mut given, mut cursor) = (BTreeMap::new(), 0);
        loop {
            let (names, next) = self.call(client, cursor, count);
            names.into_iter().for_each(|name| *given.entry(name).or_default() += 1);
            cursor = next;
            if cursor == 0 {
                return given;
            }
        }
    }
}

/// One that is under way.
#[derive(Default)]
struct Walker {
    cursor: u64,
    calls: usize,
    given: BTreeMap<String, u32>,
    is_done: bool,
}

impl Walker {
    fn step(&mut self, walked: Walked, client: &mut Client, count: usize) -> Option<String> {
        let (names, next) = walked.call(client, self.cursor, count);
        let last = names.last().cloned();
        names
            .into_iter()
            .for_each(|name| *self.given.entry(name).or_default() += 1);
        (self.cursor, self.calls, self.is_done) = (next, self.calls + 1, next == 0);
        last
    }
}

fn one_shard() -> Server {
    Server::builder().flags(&Shape::OneShard.flags()).start()
}

#[test]
fn walks_end_beside_any_number_of_others_and_give_each_name_once() {
    let server = one_shard();
    let mut client = server.connect();
    for walked in ALL {
        client.command(&["FLUSHALL"]);
        let names: BTreeSet<String> = (0..2000).map(|number| number.to_string()).collect();
        names.iter().for_each(|name| walked.add(&mut client, name));
        // One that is slow beside one that is quick.
        let (mut slow, mut quick) = (Walker::default(), 0);
        while !slow.is_done {
            slow.step(walked, &mut client, 250);
            for _ in 0..270 {
                quick = walked.call(&mut client, quick, 7).1;
            }
            assert!(slow.calls <= 9, "{walked:?} does not end");
        }
        assert!(
            slow.given.keys().eq(&names) && slow.given.values().all(|times| *times == 1),
            "{walked:?}"
        );
        let mut walkers: Vec<Walker> = (0..300).map(|_| Walker::default()).collect();
        for round in 0.. {
            let mut under_way = walkers.iter_mut().filter(|walker| !walker.is_done).peekable();
            if under_way.peek().is_none() {
                break;
            }
            assert!(round <= 9, "{walked:?}: {} walkers do not end", under_way.count());
            under_way.for_each(|walker| drop(walker.step(walked, &mut client, 250)));
        }
        for walker in &walkers {
            assert!(
                walker.given.keys().eq(&names) && walker.given.values().all(|times| *times == 1),
                "{walked:?}"
            );
        }
    }
}

#[test]
fn walks_miss_nothing_that_lasts_and_end_whatever_changes_between_their_calls() {
    let mut random = StdRng::seed_from_u64(seed("walks"));
    let mut server = one_shard();
    let mut client = server.connect();
    let lasting: Vec<String> = (0..700).map(|number| format!("l{number}")).collect();
    for walked in ALL {
        lasting.iter().for_each(|name| walked.add(&mut client, name));
        let mut walkers: Vec<(Walker, usize)> = (0..40)
            .map(|_| (Walker::default(), random.random_range(20..200)))
            .collect();
        for round in 0.. {
            let under_way = walkers.iter_mut().filter(|(walker, _)| !walker.is_done);
            let mut last_given = Vec::new();
            let mut count_under_way = 0;
            for (walker, count) in under_way {
                count_under_way += 1;
                last_given.extend(walker.step(walked, &mut client, *count));
                for _ in 0..random.random_range(0..6) {
                    let name = format!("p{}", random.random_range(0..300));
                    match random.random_range(0..2) {
                        0 => walked.add(&mut client, &name),
                        _ => walked.remove(&mut client, &name),
                    }
                }
            }
            if count_under_way == 0 {
                break;
            }
            assert!(round < 200, "{walked:?}: {count_under_way} walks do not end");
            // What the cursors stand for goes, and what the server remembers of it too.
            for name in last_given.iter().filter(|name| name.starts_with('p')) {
                walked.remove(&mut client, name);
            }
            if random.random_range(0..5) == 0 {
                server.kill_9();
                server.restart();
                client = server.connect();
            }
        }
        for (walker, count) in &walkers {
            let missed: Vec<_> = lasting
                .iter()
                .filter(|name| !walker.given.contains_key(*name))
                .collect();
            assert!(missed.is_empty(), "{walked:?} COUNT {count} missed {missed:?}");
        }
    }
}

#[test]
fn cursors_go_on_after_a_restart() {
    let mut server = one_shard();
    let mut client = server.connect();
    let names: BTreeSet<String> = (0..1000).map(|number| number.to_string()).collect();
    for walked in ALL {
        names.iter().for_each(|name| walked.add(&mut client, name));
    }
    let mut walkers = ALL.map(|walked| (walked, Walker::default()));
    for _ in 0..3 {
        for (walked, walker) in &mut walkers {
            walker.step(*walked, &mut client, 200);
        }
        server.kill_9();
        server.restart();
        client = server.connect();
    }
    for (walked, mut walker) in walkers {
        while !walker.is_done {
            walker.step(walked, &mut client, 200);
        }
        // The keys of the collections are walked as well.
        walker.given.retain(|name, _| names.contains(name));
        assert!(walker.given.keys().eq(&names), "{walked:?}");
        assert!(
            walker.given.values().all(|times| *times == 1),
            "{walked:?}: {:?}",
            walker.given
        );
    }
}

#[test]
fn what_is_removed_makes_nothing_else_come_twice() {
    let server = one_shard();
    let mut client = server.connect();
    for walked in ALL {
        client.command(&["FLUSHALL"]);
        let names: Vec<String> = (0..600).map(|number| format!("m{number:03}")).collect();
        names.iter().for_each(|name| walked.add(&mut client, name));
        let (mut walker, mut removed) = (Walker::default(), 0);
        while !walker.is_done {
            let last = walker.step(walked, &mut client, 10);
            // One that was not given yet, one that was, and the one that the cursor stands for.
            let unseen = names.iter().find(|name| !walker.given.contains_key(*name)).cloned();
            let seen = walker.given.keys().next().cloned();
            for name in [unseen, seen, last].into_iter().flatten().take(1 + walker.calls % 3) {
                walked.remove(&mut client, &name);
                removed += 1;
            }
        }
        assert!(removed > 50, "{walked:?}");
        let twice: Vec<_> = walker.given.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{walked:?}: {twice:?}");
    }
}

#[test]
fn count_is_what_a_call_gives_of_what_is_no_listpack() {
    let server = one_shard();
    let mut client = server.connect();
    for walked in [Walked::Fields, Walked::Set, Walked::SortedSet] {
        let names: BTreeSet<String> = (0..72).map(|number| format!("{number:0>80}")).collect();
        names.iter().for_each(|name| walked.add(&mut client, name));
        for count in [1, 10, 50] {
            let (first, cursor) = walked.call(&mut client, 0, count);
            assert_eq!((first.len(), cursor == 0), (count, false), "{walked:?} COUNT {count}");
            assert!(
                walked.walk(&mut client, count).keys().eq(&names),
                "{walked:?} COUNT {count}"
            );
        }
        assert_eq!(walked.call(&mut client, 0, 72).1, 0, "{walked:?}: no more are left");
    }
    // One long value makes a hash no listpack as well.
    client.command(&["DEL", "h"]);
    (0..72).for_each(|number| Walked::Fields.add(&mut client, &number.to_string()));
    assert_eq!(
        Walked::Fields.call(&mut client, 0, 10),
        (Vec::from_iter((0..72).map(|n| n.to_string())), 0)
    );
    client.command(&["HSET", "h", "71", &"v".repeat(65)]);
    assert_eq!(Walked::Fields.call(&mut client, 0, 10).0.len(), 10);
    // So does a hash's size, a set's of integers, and a sorted set's.
    for (walked, compact_max) in [(Walked::Fields, 512), (Walked::Set, 512), (Walked::SortedSet, 128)] {
        client.command(&["FLUSHALL"]);
        (0..compact_max).for_each(|number| walked.add(&mut client, &number.to_string()));
        assert_eq!(walked.call(&mut client, 0, 10).0.len(), compact_max, "{walked:?}");
        walked.add(&mut client, "513");
        assert_eq!(walked.call(&mut client, 0, 10).0.len(), 10, "{walked:?}");
    }
}
