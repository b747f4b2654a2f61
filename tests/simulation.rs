//! Random commands against a model, with crashes.
//!
//! One client pipelines random commands to a real server and compares every reply with what a simple model says. At
//! random points the server dies: by SIGKILL in the middle of a pipeline, between the commits of two shards of one
//! turn, or with the power (what was not synced is cut off the logs). After the restart each shard must hold what the
//! model held after some prefix of the commands, and no shard may miss an acknowledged one.
//! In some lives the disk of one shard or another is full or stalls for a while: what is refused then was not done, and
//! what is answered was.
//!
//! The seed is printed. `CORELANE_SEED=n` repeats its commands and crashes; deadlines and the moment of a SIGKILL
//! depend on the clock, so a rare failure may take some repetitions. `CORELANE_SIMULATION_SECONDS=n` runs for that long
//! in place of a few seconds.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use corelane::slots::{Slot, shard_of};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::client::Client;
use crate::harness::process::{holds_for, wait_for};
use crate::harness::server::allowed_cpus;
use crate::harness::value::Value;
use crate::storage::{Node, Switch, contents, seed};

/// How long a simulation runs unless CORELANE_SIMULATION_SECONDS says otherwise.
const SECONDS_DEFAULT: u64 = 5;

/// Databases and keys: so few that commands meet.
const DATABASES: usize = 3;
const KEYS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "{tag}k", "{tag}l"];

/// Commands per pipeline.
const PIPELINE_MAX: usize = 24;

/// A pipeline is only sent when no key expires within this time, so that the model knows which keys are alive. One that
/// takes longer proves nothing; the model then starts anew from what the server has.
const GUARD_MS: u64 = 200;

/// A pipeline or a look at everything is done with in half of that.
const ON_TIME: Duration = Duration::from_millis(GUARD_MS / 2);

/// A relative time to live is known to this precision until the server is asked.
const RELATIVE_TTL_SLACK_MS: u64 = 60_000;

/// Above what fits in the server's table of hot records.
const LARGE_VALUE_BYTES: usize = 70_000;

/// Collections leave memory at any time, and what is read of them there is compared with the disk. Commands are undone
/// and wait for what they read, some or all. Some come in steps.
const MEMORY_FAULTS: [&str; 3] = [
    ",check-residents=1..",
    ",check-residents=1..,evict-resident=every:3,load-cells=5,miss-reads=every:3,step-members=3",
    ",check-residents=1..,forget-residents=every:10,miss-reads=1..",
];

/// RocksDB gets what was logged every few seconds, or now and then, or all the time.
const LOG_FAULTS: [&str; 4] = ["", ",seal-log=every:400", SEALED_SOON, FULL_LATER];
// A segment takes a mebibyte of disk, however little it has: those that wait must not fill the disk.
const SEALED_SOON: &str = ",seal-log=every:40";
// The disk is full for some checkpoints, and not for the start, which brings each shard a few files at most.
const FULL_LATER: &str = ",seal-log=every:40,full-ingest=60..70";

/// Where a server dies: at a turn's frame, or at the work of its checkpointer if that has some all the time.
const POINTS: [&str; 2] = ["kill-before-commit", "kill-after-commit"];
const POINTS_OF_CHECKPOINTS: [&str; 4] = [
    "kill-before-ingest",
    "kill-before-checkpoint",
    "kill-after-checkpoint",
    "kill-after-recycling",
];

/// Of so many lives one has disks that are full or stall, and in it one command of so many meets that.
const TROUBLED_LIVES: u32 = 3;
const TROUBLED_COMMANDS: u32 = 8;

/// How long a disk is full or stalls after a command was sent, in milliseconds.
const TROUBLE_MS: std::ops::Range<u64> = 0..30;

/// Commands that are shown when something differs.
const HISTORY_MAX: usize = 60;

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is right");
    since.as_millis() as u64
}

/// A key's value, and the first and last millisecond (Unix) that its deadline may be at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Rc<Vec<u8>>,
    deadline: Option<(u64, u64)>,
}

/// What the server must hold.
#[derive(Clone, Debug, Default)]
struct Model {
    databases: [BTreeMap<String, Entry>; DATABASES],
    selected: usize,
}

/// What a reply must be.
#[derive(Clone, Debug)]
enum Expected {
    Reply(Value),
    /// An integer between two.
    Between(u64, u64),
    /// An array of these in any order.
    Unordered(Vec<String>),
    /// An error that begins so.
    Error(&'static str),
}

impl Expected {
    fn matches(&self, reply: &Value) -> bool {
        match (self, reply) {
            (Expected::Reply(expected), reply) => expected == reply,
            (Expected::Between(from, to), Value::Integer(found)) => {
                u64::try_from(*found).is_ok_and(|found| (*from..=*to).contains(&found))
            }
            (Expected::Unordered(expected), Value::Array(Some(found))) => {
                let mut found: Vec<String> = found.iter().filter_map(Value::text).collect();
                found.sort();
                found == *expected
            }
            (Expected::Error(prefix), Value::Error(found)) => found.starts_with(prefix),
            _ => false,
        }
    }
}

fn ok() -> Expected {
    Expected::Reply(Value::Simple("OK".to_owned()))
}

fn integer(number: usize) -> Expected {
    Expected::Reply(Value::Integer(number as i64))
}

fn bulk(entry: Option<&Entry>) -> Value {
    Value::Bulk(entry.map(|entry| entry.value.to_vec()))
}

/// A command's words and what it must be answered.
type Step = (Vec<String>, Expected);

fn step(words: &[&str], expected: Expected) -> Step {
    (words.iter().map(|word| (*word).to_owned()).collect(), expected)
}

/// What the simulation makes random choices with.
struct Choices {
    random: StdRng,
    next_value: u64,
}

impl Choices {
    fn key(&mut self) -> &'static str {
        KEYS.choose(&mut self.random).expect("there are keys")
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_ratio(1, one_in)
    }

    /// A value that no other command writes; sometimes a number, sometimes very long.
    fn value(&mut self) -> String {
        self.next_value += 1;
        match self.random.random_range(0..40) {
            0 => format!("large{}{}", self.next_value, "x".repeat(LARGE_VALUE_BYTES)),
            1..=12 => self.next_value.to_string(),
            _ => format!("value{}", self.next_value),
        }
    }

    /// Where a string is changed: near its beginning, or anywhere in a long one.
    fn offset(&mut self) -> usize {
        let below = if self.chance(3) { LARGE_VALUE_BYTES } else { 30 };
        self.random.random_range(0..below)
    }

    /// A deadline in Unix milliseconds: soon, or on some full 100 s far away.
    fn deadline_ms(&mut self) -> u64 {
        match self.chance(12) {
            true => now_ms() + GUARD_MS * 2 + self.random.random_range(0..600),
            false => (now_ms() / 100_000 + self.random.random_range(20..40)) * 100_000,
        }
    }
}

impl Model {
    fn keys(&mut self) -> &mut BTreeMap<String, Entry> {
        &mut self.databases[self.selected]
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        self.databases[self.selected].get(key)
    }

    fn put(&mut self, key: &str, value: impl Into<Vec<u8>>, deadline: Option<(u64, u64)>) {
        let value = Rc::new(value.into());
        self.keys().insert(key.to_owned(), Entry { value, deadline });
    }

    /// Forgets the keys whose deadline has passed; all others' lie beyond the guard.
    fn expire(&mut self, now_ms: u64) {
        for database in &mut self.databases {
            database.retain(|_, entry| entry.deadline.is_none_or(|(_, last)| last >= now_ms));
        }
    }

    /// The first and last moments (Unix ms) at which its keys may expire.
    fn deadlines(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let entries = self.databases.iter().flat_map(BTreeMap::values);
        entries.filter_map(|entry| entry.deadline)
    }

    /// A random command, applied to the model.
    fn step(&mut self, choices: &mut Choices) -> Step {
        let key = choices.key();
        let found = self.get(key).cloned();
        let deadline = found.as_ref().and_then(|entry| entry.deadline);
        match choices.random.random_range(0..100) {
            0..=17 => self.step_set(choices, key, found),
            18..=25 => step(&["GET", key], Expected::Reply(bulk(found.as_ref()))),
            26..=28 => {
                self.keys().remove(key);
                step(&["GETDEL", key], Expected::Reply(bulk(found.as_ref())))
            }
            29..=30 => {
                if let Some(entry) = self.keys().get_mut(key) {
                    entry.deadline = None;
                }
                step(&["GETEX", key, "PERSIST"], Expected::Reply(bulk(found.as_ref())))
            }
            31..=33 => {
                let at = choices.deadline_ms();
                if let Some(entry) = self.keys().get_mut(key) {
                    entry.deadline = Some((at, at));
                }
                step(
                    &["GETEX", key, "PXAT", &at.to_string()],
                    Expected::Reply(bulk(found.as_ref())),
                )
            }
            34..=38 => {
                let tail = choices.value();
                let mut value = found.map_or(Vec::new(), |entry| entry.value.to_vec());
                // Not for ever: the model is copied after every command.
                if value.len() > 2 * LARGE_VALUE_BYTES {
                    return step(&["STRLEN", key], integer(value.len()));
                }
                value.extend_from_slice(tail.as_bytes());
                let len = value.len();
                self.put(key, value, deadline);
                step(&["APPEND", key, &tail], integer(len))
            }
            39..=45 => self.step_add(choices, key, found),
            46..=50 => self.step_several(choices),
            51..=55 => {
                let other = choices.key();
                let mut deleted = 0;
                for key in [key, other] {
                    deleted += usize::from(self.keys().remove(key).is_some());
                }
                step(&["DEL", key, other], integer(deleted))
            }
            56..=57 => self.step_bit(choices, key, found),
            58 => {
                let other = choices.key();
                let there = [key, other, key].iter().filter(|key| self.get(key).is_some()).count();
                step(&["EXISTS", key, other, key], integer(there))
            }
            59..=66 => self.step_expire(choices, key, found),
            67..=69 => {
                let persisted = deadline.is_some();
                if let Some(entry) = self.keys().get_mut(key) {
                    entry.deadline = None;
                }
                step(&["PERSIST", key], integer(usize::from(persisted)))
            }
            70..=73 => {
                let expected = match (&found, deadline) {
                    (None, _) => Expected::Reply(Value::Integer(-2)),
                    (Some(_), None) => Expected::Reply(Value::Integer(-1)),
                    (Some(_), Some((first, last))) => Expected::Between(first, last),
                };
                step(&["PEXPIRETIME", key], expected)
            }
            74..=81 => self.step_rename(choices, key, found),
            82..=86 => self.step_copy(choices, key, found),
            87..=88 => self.step_move(choices, key, found),
            89..=91 => {
                let offset = choices.offset();
                let patch = choices.value();
                let mut value = found.map_or(Vec::new(), |entry| entry.value.to_vec());
                let end = offset + patch.len();
                value.resize(value.len().max(end), 0);
                value[offset..end].copy_from_slice(patch.as_bytes());
                let len = value.len();
                self.put(key, value, deadline);
                step(&["SETRANGE", key, &offset.to_string(), &patch], integer(len))
            }
            92 => step(
                &["KEYS", "*"],
                Expected::Unordered(self.keys().keys().cloned().collect()),
            ),
            93 if choices.chance(2) => {
                self.keys().clear();
                step(&["FLUSHDB"], ok())
            }
            94 if choices.chance(4) => {
                self.databases.iter_mut().for_each(BTreeMap::clear);
                step(&["FLUSHALL"], ok())
            }
            93..=97 => {
                self.selected = choices.random.random_range(0..DATABASES);
                step(&["SELECT", &self.selected.to_string()], ok())
            }
            // Expired keys count until they are swept.
            _ => step(&["DBSIZE"], Expected::Between(self.keys().len() as u64, u64::MAX)),
        }
    }

    /// SETBIT, of bits among others most of the time.
    fn step_bit(&mut self, choices: &mut Choices, key: &str, found: Option<Entry>) -> Step {
        let (offset, bit, set) = (choices.offset(), choices.random.random_range(0..8), choices.chance(2));
        let deadline = found.as_ref().and_then(|entry| entry.deadline);
        let mut value = found.map_or(Vec::new(), |entry| entry.value.to_vec());
        value.resize(value.len().max(offset + 1), 0);
        let mask = 0x80 >> bit;
        let was_set = value[offset] & mask != 0;
        value[offset] = value[offset] & !mask | if set { mask } else { 0 };
        self.put(key, value, deadline);
        let (offset, set) = ((8 * offset + bit).to_string(), u8::from(set).to_string());
        step(&["SETBIT", key, &offset, &set], integer(usize::from(was_set)))
    }

    /// SET with any of its options, SETNX, GETSET and SETEX.
    fn step_set(&mut self, choices: &mut Choices, key: &str, found: Option<Entry>) -> Step {
        let value = choices.value();
        let mut words = vec!["SET", key, &value];
        let (at, seconds);
        let mut deadline = None;
        match choices.random.random_range(0..10) {
            0 => {
                let absent = found.is_none();
                if absent {
                    self.put(key, value.clone(), None);
                }
                return step(&["SETNX", key, &value], integer(usize::from(absent)));
            }
            1 => {
                self.put(key, value.clone(), None);
                return step(&["GETSET", key, &value], Expected::Reply(bulk(found.as_ref())));
            }
            2 => {
                let left = choices.random.random_range(20..40) * 1000;
                let first = now_ms() + left * 1000;
                self.put(key, value.clone(), Some((first, first + RELATIVE_TTL_SLACK_MS)));
                return step(&["SETEX", key, &left.to_string(), &value], ok());
            }
            3 | 4 => {
                let deadline_ms = choices.deadline_ms();
                deadline = Some((deadline_ms, deadline_ms));
                at = deadline_ms.to_string();
                words.extend(["PXAT", &at]);
            }
            5 => {
                let left = choices.random.random_range(20..40) * 1000;
                let first = now_ms() + left * 1000;
                deadline = Some((first, first + RELATIVE_TTL_SLACK_MS));
                seconds = left.to_string();
                words.extend(["EX", &seconds]);
            }
            6 => {
                deadline = found.as_ref().and_then(|entry| entry.deadline);
                words.push("KEEPTTL");
            }
            _ => {}
        }
        let condition = choices.random.random_range(0..6);
        let refused = match condition {
            0 => found.is_some(),
            1 => found.is_none(),
            _ => false,
        };
        match condition {
            0 => words.push("NX"),
            1 => words.push("XX"),
            _ => {}
        }
        let gets = choices.chance(5);
        if gets {
            words.push("GET");
        }
        let expected = match (gets, refused) {
            (true, _) => Expected::Reply(bulk(found.as_ref())),
            (false, true) => Expected::Reply(Value::Bulk(None)),
            (false, false) => ok(),
        };
        let step = step(&words, expected);
        if !refused {
            self.put(key, value, deadline);
        }
        step
    }

    fn step_add(&mut self, choices: &mut Choices, key: &str, found: Option<Entry>) -> Step {
        let amount = choices.random.random_range(-50..50_i64);
        let words = ["INCRBY", key, &amount.to_string()];
        let deadline = found.as_ref().and_then(|entry| entry.deadline);
        let old = match &found {
            None => Some(0),
            Some(entry) => std::str::from_utf8(&entry.value).ok().and_then(canonical_integer),
        };
        match old.and_then(|old| old.checked_add(amount)) {
            Some(sum) => {
                self.put(key, sum.to_string(), deadline);
                step(&words, Expected::Reply(Value::Integer(sum)))
            }
            None => step(&words, Expected::Error("ERR ")),
        }
    }

    /// MSET, MSETNX and MGET.
    fn step_several(&mut self, choices: &mut Choices) -> Step {
        let keys = [choices.key(), choices.key(), choices.key()];
        let values = [choices.value(), choices.value(), choices.value()];
        let mut words = vec!["MSET"];
        for (key, value) in keys.iter().zip(&values) {
            words.extend([*key, value.as_str()]);
        }
        match choices.random.random_range(0..4) {
            0 => {
                let found = keys.iter().map(|key| bulk(self.get(key))).collect();
                let words = ["MGET", keys[0], keys[1], keys[2]];
                return step(&words, Expected::Reply(Value::Array(Some(found))));
            }
            1 => {
                words[0] = "MSETNX";
                if keys.iter().any(|key| self.get(key).is_some()) {
                    return step(&words, integer(0));
                }
            }
            _ => {}
        }
        for (key, value) in keys.iter().zip(&values) {
            self.put(key, value.clone(), None);
        }
        step(&words, if words[0] == "MSET" { ok() } else { integer(1) })
    }

    fn step_expire(&mut self, choices: &mut Choices, key: &str, found: Option<Entry>) -> Step {
        if choices.chance(8) {
            // In the past: the key goes at once.
            self.keys().remove(key);
            return step(&["EXPIRE", key, "-1"], integer(usize::from(found.is_some())));
        }
        let at = choices.deadline_ms();
        let mut words = vec!["PEXPIREAT".to_owned(), key.to_owned(), at.to_string()];
        let old = found.as_ref().map(|entry| entry.deadline);
        // Whether the old deadline is known well enough to be compared with.
        let known = old
            .flatten()
            .is_none_or(|(first, last)| last < at || at < first || first == last);
        let first = old.flatten().map(|(first, _)| first);
        let allowed = match choices.random.random_range(0..10) {
            0 => {
                words.push("NX".to_owned());
                first.is_none()
            }
            1 => {
                words.push("XX".to_owned());
                first.is_some()
            }
            2 if known => {
                words.push("GT".to_owned());
                first.is_some_and(|first| at > first)
            }
            3 if known => {
                words.push("LT".to_owned());
                first.is_none_or(|first| at < first)
            }
            _ => true,
        };
        let set = allowed && found.is_some();
        if let Some(entry) = self.keys().get_mut(key).filter(|_| set) {
            entry.deadline = Some((at, at));
        }
        (words, integer(usize::from(set)))
    }

    /// RENAME and RENAMENX.
    fn step_rename(&mut self, choices: &mut Choices, key: &str, found: Option<Entry>) -> Step {
        let to = choices.key();
        let only_if_free = choices.chance(3);
        let command = if only_if_free { "RENAMENX" } else { "RENAME" };
        let words = [command, key, to];
        let Some(entry) = found else {
            return step(&words, Expected::Error("ERR no such key"));
        };
        if only_if_free && self.get(to).is_some() {
            return step(&words, integer(0));
        }
        self.keys().remove(key);
        self.keys().insert(to.to_owned(), entry);
        step(&words, if only_if_free { integer(1) } else { ok() })
    }

    fn step_copy(&mut self, choices: &mut Choices, key: &str, found: Option<Entry>) -> Step {
        let (to, database) = (choices.key(), choices.random.random_range(0..DATABASES));
        let number = database.to_string();
        let mut words = vec!["COPY", key, to, "DB", &number];
        let replace = choices.chance(2);
        if replace {
            words.push("REPLACE");
        }
        if database == self.selected && key == to {
            return step(
                &words,
                Expected::Error("ERR source and destination objects are the same"),
            );
        }
        let free = replace || !self.databases[database].contains_key(to);
        match found.filter(|_| free) {
            Some(entry) => {
                self.databases[database].insert(to.to_owned(), entry);
                step(&words, integer(1))
            }
            None => step(&words, integer(0)),
        }
    }

    fn step_move(&mut self, choices: &mut Choices, key: &str, found: Option<Entry>) -> Step {
        let database = choices.random.random_range(0..DATABASES);
        let number = database.to_string();
        let words = ["MOVE", key, &number];
        if database == self.selected {
            return step(
                &words,
                Expected::Error("ERR source and destination objects are the same"),
            );
        }
        match found.filter(|_| !self.databases[database].contains_key(key)) {
            Some(entry) => {
                self.keys().remove(key);
                self.databases[database].insert(key.to_owned(), entry);
                step(&words, integer(1))
            }
            None => step(&words, integer(0)),
        }
    }

    /// The keys of one shard: by database and name.
    fn of_shard(&self, shard: u16, shard_count: u16) -> BTreeMap<(usize, &str), &Entry> {
        let mut keys = BTreeMap::new();
        for (number, database) in self.databases.iter().enumerate() {
            for (key, entry) in database {
                if shard_of(Slot::of(key.as_bytes()), shard_count).0 == shard {
                    keys.insert((number, key.as_str()), entry);
                }
            }
        }
        keys
    }

    /// Whether a shard of a server that was asked (`found`, with exact deadlines) holds what it holds here.
    fn agrees(&self, found: &Model, shard: u16, shard_count: u16) -> bool {
        let (mine, theirs) = (self.of_shard(shard, shard_count), found.of_shard(shard, shard_count));
        let same_deadline = |mine: Option<(u64, u64)>, theirs: Option<(u64, u64)>| match (mine, theirs) {
            (Some((first, last)), Some((at, _))) => (first..=last).contains(&at),
            (mine, theirs) => mine.is_none() && theirs.is_none(),
        };
        mine.len() == theirs.len()
            && mine.iter().zip(&theirs).all(|((my_key, mine), (their_key, theirs))| {
                my_key == their_key && mine.value == theirs.value && same_deadline(mine.deadline, theirs.deadline)
            })
    }
}

/// The integer that INCR sees in a string: only one that is written as Redis writes it.
fn canonical_integer(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Sends one command; nothing if the server dies.
fn call(client: &mut Client, words: &[&str]) -> Option<Value> {
    client.send(words).ok()?;
    client.read().ok()
}

/// Everything that a server holds, with exact deadlines; nothing if it dies meanwhile. Waits until expired keys are
/// swept, so that DBSIZE is exact, and leaves database 0 selected.
fn ask(client: &mut Client) -> Option<Model> {
    let mut model = Model::default();
    for database in 0..DATABASES {
        call(client, &["SELECT", &database.to_string()])?;
        let keys = match call(client, &["KEYS", "*"])? {
            Value::Array(Some(keys)) => keys,
            other => panic!("KEYS was answered {}", other.render()),
        };
        let keys: Vec<String> = keys.iter().filter_map(Value::text).collect();
        for key in &keys {
            let value = match call(client, &["GET", key])? {
                Value::Bulk(Some(value)) => Rc::new(value),
                // It has expired since.
                _ => continue,
            };
            let deadline = match call(client, &["PEXPIRETIME", key])? {
                Value::Integer(-1) => None,
                Value::Integer(at) => Some((at as u64, at as u64)),
                other => panic!("PEXPIRETIME was answered {}", other.render()),
            };
            model.databases[database].insert(key.clone(), Entry { value, deadline });
        }
        // Some may have expired since, and the sweep may be a little behind.
        let mut size = Some((Value::Null, Value::Null));
        let exact = wait_for(|| {
            size = call(client, &["DBSIZE"]).zip(call(client, &["KEYS", "*"]));
            size.as_ref().is_none_or(|(size, keys)| match keys {
                Value::Array(Some(keys)) => *size == Value::Integer(keys.len() as i64),
                _ => false,
            })
        });
        let (size, keys) = size?;
        assert!(
            exact,
            "DBSIZE of database {database} is {}, and it has the keys {}",
            size.render(),
            keys.render()
        );
    }
    call(client, &["SELECT", "0"])?;
    Some(model)
}

/// How a server's life ends, and what the machine keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGKILL, a random time after a pipeline was sent.
    Killed,
    /// The process dies at a write: before it or after it.
    AtWrite,
    /// The same under `always`, and of what was not synced some is lost too.
    PowerLoss,
    /// SIGTERM between two pipelines.
    Stopped,
}

const ENDS: &[End] = match cfg!(feature = "fault-injection") {
    true => &[End::Killed, End::Killed, End::AtWrite, End::PowerLoss, End::Stopped],
    false => &[End::Killed, End::Killed, End::Stopped],
};

/// What a command is answered that a disk does not allow to write: it has done nothing.
const REFUSALS: [&str; 2] = ["MISCONF", "BUSY"];

struct Simulation {
    node: Node,
    shard_count: u16,
    choices: Choices,
    /// What the server holds.
    model: Model,
    /// What each of its shards may hold after a crash: the model after each number of commands that may have been
    /// executed.
    candidates: Vec<Model>,
    history: VecDeque<String>,
    /// How the running server was started.
    start: String,
    commands: u64,
    lives: u64,
}

impl Simulation {
    fn new(shard_count: u16, seed: u64) -> Simulation {
        Simulation {
            node: Node::new(),
            shard_count,
            choices: Choices {
                random: StdRng::seed_from_u64(seed),
                next_value: 0,
            },
            model: Model::default(),
            candidates: vec![Model::default()],
            history: VecDeque::new(),
            start: String::new(),
            commands: 0,
            lives: 0,
        }
    }

    fn record(&mut self, text: String) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(text);
    }

    fn fail(&self, what: &str) -> ! {
        let history: Vec<&str> = self.history.iter().map(String::as_str).collect();
        panic!(
            "{what}\nin life {} ({}) after {} commands; the last were:\n{}",
            self.lives,
            self.start,
            self.commands,
            history.join("\n")
        );
    }

    /// One server, from its start to its end.
    fn live(&mut self) {
        let random = &mut self.choices.random;
        let end = *ENDS.choose(random).expect("there are ends");
        let durability = match end {
            End::PowerLoss => "always",
            _ => ["interval", "none", "always"]
                .choose(random)
                .expect("there are durabilities"),
        };
        let cache = ["auto", "0", "160kb"].choose(random).expect("there are sizes");
        let batch_size = ["1", "7", "512"].choose(random).expect("there are sizes");
        let log_faults = *LOG_FAULTS.choose(random).expect("there are faults");
        let points = match log_faults == SEALED_SOON && random.random() {
            true => &POINTS_OF_CHECKPOINTS[..],
            false => &POINTS[..],
        };
        let point = points.choose(random).expect("there are points");
        // Above what the start and the first sweep write.
        let nth = random.random_range(20..150);
        let pipelines = random.random_range(1..40);
        let mut faults = match end {
            End::AtWrite => format!("{point}={nth}"),
            End::PowerLoss => format!("{point}={nth},record-unsynced-log=1,delay-sync-ms=1"),
            End::Killed | End::Stopped => String::new(),
        };
        faults += MEMORY_FAULTS.choose(random).expect("there are faults");
        faults += log_faults;
        let is_troubled = cfg!(feature = "fault-injection") && random.random_ratio(1, TROUBLED_LIVES);
        let mut troubles: Vec<Switch> = Vec::new();
        for shard in (0..self.shard_count).filter(|_| is_troubled) {
            for fault in ["disk-full", "stall-writes"].map(|name| format!("{name}@{shard}")) {
                let switch = self.node.switch(&fault);
                faults += &format!(",{fault}={}", switch.when());
                troubles.push(switch);
            }
        }
        let cpu = allowed_cpus()[0];
        // One executor has all shards, so that the commands of a pipeline run in their order.
        let flags = format!(
            "--shards {} --network-cores {cpu} --storage-cores {cpu} --durability {durability} --memory-size \
             {cache} --batch-size {batch_size}",
            self.shard_count
        );
        self.start = format!("{end:?}: {flags} {faults}");
        self.record(format!("-- {}", self.start));
        self.node.start(&flags, &faults);
        self.lives += 1;
        let mut client = self.node.connect();
        let mut alive = self.check_all(&mut client);
        for number in 1.. {
            if !alive || (end == End::Stopped && number == pipelines) {
                break;
            }
            let kill = end == End::Killed && number == pipelines;
            alive = match is_troubled {
                true => self.run_one_by_one(&mut client, &troubles, kill),
                false => self.run_pipeline(&mut client, kill),
            };
        }
        match end {
            End::Killed => {}
            End::Stopped => self.stop(is_troubled),
            End::AtWrite | End::PowerLoss => self.node.wait_for_exit(),
        }
        #[cfg(feature = "fault-injection")]
        if end == End::PowerLoss {
            let random = &mut self.choices.random;
            self.node.lose_power(|_, contents| random.random_range(0..contents));
        }
        if self.choices.chance(4) {
            contents::check(&self.node.data_directory());
        }
    }

    fn stop(&mut self, is_troubled: bool) {
        // While a disk is full its log cannot be synced, and a server that stops then says so.
        for shard in (0..self.shard_count).filter(|_| is_troubled) {
            self.node.wait_for_state(shard, "healthy");
        }
        let (status, output) = self.node.terminate();
        if status.code() != Some(0) {
            self.fail(&format!("the server stopped with {status}:\n{output}"));
        }
    }

    /// Waits until no key that may be there expires within the guard, and forgets those that have.
    fn wait_for_deadlines(&mut self) {
        loop {
            let now = now_ms();
            let models = self.candidates.iter().chain([&self.model]);
            let near = models
                .flat_map(Model::deadlines)
                .filter(|(first, last)| *first < now + GUARD_MS && now <= last + 1);
            match near.map(|(_, last)| last).max() {
                Some(last) => assert!(wait_for(|| now_ms() > last + 1), "the clock stands still"),
                None => {
                    self.model.expire(now);
                    self.candidates.iter_mut().for_each(|model| model.expire(now));
                    return;
                }
            }
        }
    }

    /// After a start: every shard must hold what one of the candidates holds. Returns whether the server lives on.
    fn check_all(&mut self, client: &mut Client) -> bool {
        let found = loop {
            self.wait_for_deadlines();
            let began = Instant::now();
            match ask(client) {
                None => return false,
                Some(found) if began.elapsed() < ON_TIME => break found,
                // Keys may have expired while it was asked.
                Some(_) => self.record("-- slow".to_owned()),
            }
        };
        for shard in 0..self.shard_count {
            if !self
                .candidates
                .iter()
                .any(|model| model.agrees(&found, shard, self.shard_count))
            {
                let (held, acknowledged) = (found.of_shard(shard, self.shard_count), &self.candidates[0]);
                self.fail(&format!(
                    "shard {shard} holds {}\nand with what was acknowledged it would be {}\n({} commands were not)",
                    shown(&held),
                    shown(&acknowledged.of_shard(shard, self.shard_count)),
                    self.candidates.len() - 1
                ));
            }
        }
        self.candidates = vec![found.clone()];
        self.model = found;
        true
    }

    /// Sends as many commands as a pipeline has, one after the other, while disks fill up and stall, and compares what
    /// is not refused; with `kill` the server dies at the end. Returns whether it lives.
    fn run_one_by_one(&mut self, client: &mut Client, troubles: &[Switch], kill: bool) -> bool {
        for _ in 0..self.choices.random.random_range(1..=PIPELINE_MAX) {
            if !self.run_troubled(client, troubles) {
                return false;
            }
        }
        if kill {
            self.node.kill_9();
        }
        !kill
    }

    /// Sends one command, at which a disk may fill up or stall. Returns whether the server lives.
    fn run_troubled(&mut self, client: &mut Client, troubles: &[Switch]) -> bool {
        self.wait_for_deadlines();
        let began = Instant::now();
        let mut next = self.model.clone();
        let (words, expected) = next.step(&mut self.choices);
        self.candidates = vec![self.model.clone(), next];
        let random = &mut self.choices.random;
        let trouble = match random.random_ratio(1, TROUBLED_COMMANDS) {
            true => troubles.choose(random),
            false => None,
        };
        let for_ms = random.random_range(TROUBLE_MS);
        self.record(format!(
            "{}{}",
            cut(&words.join(" ")),
            trouble.map_or("", |_| "  (in trouble)")
        ));
        if let Some(trouble) = trouble {
            trouble.on();
        }
        // A server that is gone is noticed when its reply is read.
        let _ = client.send(&words);
        if let Some(trouble) = trouble {
            // How long a disk is in trouble is a part of what is tried.
            holds_for(Duration::from_millis(for_ms), || true);
            trouble.off();
        }
        let reply = client.read();
        let is_on_time = began.elapsed() < ON_TIME;
        match &reply {
            Ok(Value::Error(text)) if REFUSALS.iter().any(|refusal| text.starts_with(refusal)) => {
                self.record(format!("-- {text}"));
                self.candidates.truncate(1);
            }
            Ok(reply) => {
                if is_on_time && !expected.matches(reply) {
                    let (words, reply) = (cut(&words.join(" ")), cut(&reply.render()));
                    let expected = cut(&format!("{expected:?}"));
                    self.fail(&format!("{words} was answered {reply}, expected {expected}"));
                }
                self.candidates.remove(0);
            }
            Err(_) => self.record("-- the connection was closed".to_owned()),
        }
        self.commands += 1;
        if reply.is_ok() && is_on_time {
            self.model = self.candidates[0].clone();
            return true;
        }
        if reply.is_err() {
            let Some(again) = self.node.try_connect() else {
                return false;
            };
            *client = again;
        }
        // What the server has tells what became of the command, and which keys have expired meanwhile.
        let selected = self.candidates.last().map_or(0, |model| model.selected);
        let alive = self.check_all(client);
        self.model.selected = selected;
        alive && call(client, &["SELECT", &selected.to_string()]).is_some()
    }

    /// Sends one pipeline and compares its replies; with `kill` the server dies meanwhile. Returns whether it lives.
    fn run_pipeline(&mut self, client: &mut Client, kill: bool) -> bool {
        self.wait_for_deadlines();
        let began = Instant::now();
        let mut steps = Vec::new();
        let mut models = vec![self.model.clone()];
        if self.choices.chance(30) {
            // Alone: a crash in the middle of it is mended by swapping the rest, as if all had been executed.
            let other = self.choices.random.random_range(0..DATABASES);
            self.model.databases.swap(0, other);
            steps.push(step(&["SWAPDB", "0", &other.to_string()], ok()));
            models.push(self.model.clone());
        } else {
            for _ in 0..self.choices.random.random_range(1..=PIPELINE_MAX) {
                steps.push(self.model.step(&mut self.choices));
                models.push(self.model.clone());
            }
        }
        let mut bytes = Vec::new();
        for (words, _) in &steps {
            self.record(cut(&words.join(" ")));
            bytes.extend(format!("*{}\r\n", words.len()).into_bytes());
            for word in words {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
            }
        }
        // A server that is gone is noticed when its replies are read.
        let _ = client.send_bytes(&bytes);
        if kill {
            // From before the first command is read until after the last reply has left.
            let sent_at = Instant::now();
            let delay_us = self.choices.random.random_range(0..2_000);
            // The moment itself is what is tried, to the microsecond.
            while sent_at.elapsed() < Duration::from_micros(delay_us) {
                std::hint::spin_loop();
            }
            self.node.kill_9();
        }
        let mut answered = 0;
        for (words, expected) in &steps {
            let Ok(reply) = client.read() else { break };
            if began.elapsed() < ON_TIME && !expected.matches(&reply) {
                let (words, reply) = (cut(&words.join(" ")), cut(&reply.render()));
                self.fail(&format!(
                    "{words} was answered {reply}, expected {}",
                    cut(&format!("{expected:?}"))
                ));
            }
            answered += 1;
        }
        self.commands += answered as u64;
        let alive = !kill && answered == steps.len();
        self.candidates = models.split_off(answered);
        if !alive || began.elapsed() < ON_TIME {
            return alive;
        }
        // Keys may have expired between the commands: the model starts anew from what the server has.
        self.record("-- slow".to_owned());
        let selected = self.model.selected;
        let Some(found) = ask(client) else { return false };
        self.model = Model { selected, ..found };
        self.candidates = vec![self.model.clone()];
        call(client, &["SELECT", &selected.to_string()]).is_some()
    }
}

/// The first characters of a text that may hold large values.
fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}

/// A shard's keys, a line each.
fn shown(keys: &BTreeMap<(usize, &str), &Entry>) -> String {
    let line = |((database, key), entry): (&(usize, &str), &&Entry)| {
        let value = cut(&String::from_utf8_lossy(&entry.value));
        format!(
            "\n    {database} {key}: {value} ({} bytes), deadline {:?}",
            entry.value.len(),
            entry.deadline
        )
    };
    keys.iter().map(line).collect()
}

fn simulate(test: &str, shard_count: u16) {
    let given = std::env::var("CORELANE_SIMULATION_SECONDS").ok();
    let seconds = given.map_or(SECONDS_DEFAULT, |seconds| {
        seconds.parse().expect("CORELANE_SIMULATION_SECONDS is a number")
    });
    let mut simulation = Simulation::new(shard_count, seed(test));
    let end = Instant::now() + Duration::from_secs(seconds);
    // One life may take all the time; what its end has left is looked at by the next.
    while Instant::now() < end || simulation.lives < 2 {
        simulation.live();
    }
    println!("{test}: {} commands in {} lives", simulation.commands, simulation.lives);
    assert!(
        simulation.lives > 1 && simulation.commands > 0,
        "no server was started again"
    );
}

#[test]
fn one_shard_holds_what_the_model_says_through_all_crashes() {
    simulate("one_shard_holds_what_the_model_says_through_all_crashes", 1);
}

#[test]
fn four_shards_hold_what_the_model_says_through_all_crashes() {
    simulate("four_shards_hold_what_the_model_says_through_all_crashes", 4);
}
