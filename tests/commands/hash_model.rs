//! Random commands on hashes, with a clock of their own, against a model: every reply, and in the end every byte on
//! disk.
//!
//! What a transcript cannot reach: fields that expire between any two commands, sweeps and commits in between, fields
//! that move to other positions, hashes large enough for all ways of listing them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use corelane::command;
use corelane::commands::effects::Effects;
use corelane::commands::{Context, hash};
use corelane::protocol::reply::{Reply, Version};
use corelane::protocol::{Arguments, Span};
use corelane::rows;
use corelane::slots::{ShardId, Slot};
use corelane::storage::database::Column;
use corelane::storage::encoding::{self, FieldDeadlines, HashField, NameOrder, Record, Type};
use corelane::storage::expiry::sweep;
use corelane::storage::shard::Shard;
use corelane::storage::shards::Shards;
use corelane::storage::view::{LocalShards, NoWatchesOrLocks, View};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::value::{self, Value};
use crate::storage::contents::{Contents, with_database};
use crate::storage::seed;

/// The clock of the model begins here, in Unix milliseconds.
const START_MS: u64 = 1_000_000;

/// A shard whose commands run one by one, at any time.
struct Bench {
    shards: Shards,
    now_ms: u64,
    turn: u64,
    seed: u64,
}

impl Bench {
    fn command(&mut self, arguments: &[impl AsRef<[u8]>]) -> Value {
        let mut bytes = Vec::new();
        let spans: Vec<Span> = arguments
            .iter()
            .map(|argument| {
                let start = bytes.len() as u32;
                bytes.extend_from_slice(argument.as_ref());
                let len = bytes.len() as u32 - start;
                Span { start, len }
            })
            .collect();
        rows::install();
        let row = command::find(arguments[0].as_ref()).expect("a command of the table");
        let handler = rows::STORAGE_HANDLERS.of(row);
        let handler = handler.unwrap_or_else(|| panic!("{} does not run on a shard", row.name));
        let mut replies = Vec::new();
        let outcome = self.with_context(&mut replies, Arguments::new(&bytes, &spans), handler);
        match outcome {
            Ok(()) => value::parse(&replies).expect("a reply").expect("a whole reply").0,
            Err(error) => Value::Error(error.to_string()),
        }
    }

    fn with_context<T>(
        &mut self,
        replies: &mut Vec<u8>,
        arguments: Arguments<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Result<T, corelane::error::CommandError>,
    ) -> Result<T, corelane::error::CommandError> {
        self.seed = self.seed.wrapping_add(1);
        self.shards.begin_command();
        let mut effects = Effects::default();
        let mut context = Context {
            arguments,
            reply: Reply::new(replies, Version::Resp2),
            view: View::Local(LocalShards {
                shards: &mut self.shards,
                watches_and_locks: &mut NoWatchesOrLocks,
            }),
            now_ms: self.now_ms,
            database: 0,
            seed: self.seed,
            string_bytes_max: 1 << 20,
            client_id: 0,
            is_watched_key_modified: false,
            is_inner: false,
            handlers: rows::STORAGE_HANDLERS,
            script_seat: None,
            effects: &mut effects,
            pieces: None,
            may_take_steps: false,
            steps: None,
            waits: None,
        };
        let outcome = work(&mut context);
        assert!(context.pieces.is_none(), "no hash here is large enough for pieces");
        match &outcome {
            Ok(_) => self.shards.keep_command(),
            Err(_) => self.shards.roll_back_command(),
        }
        outcome
    }

    fn begin_turn(&mut self) {
        self.turn += 1;
        self.shards.begin_turn(self.turn, self.now_ms);
    }

    fn commit(&mut self) {
        self.shards.list_mut()[0].write_through().expect("a commit");
        self.begin_turn();
    }

    /// What the executor does every few milliseconds.
    fn sweep(&mut self, budget: usize) {
        let mut hashes = Vec::new();
        let shard = &mut self.shards.list_mut()[0];
        sweep(shard, self.now_ms, budget, &mut hashes, |_| false).expect("a sweep");
        for (_, key) in hashes {
            let nothing = Arguments::new(&[], &[]);
            let swept = self.with_context(&mut Vec::new(), nothing, |context| {
                hash::expire_fields(context, &key, budget)
            });
            assert!(
                swept.expect("fields expire") > 0,
                "a hash that is due has expired fields"
            );
        }
        self.commit();
    }
}

/// A field's value and deadline (0: none).
type Fields = BTreeMap<String, (String, u64)>;

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(Some(elements)) => elements
            .iter()
            .map(|element| element.text().unwrap_or_default())
            .collect(),
        other => panic!("the reply is {}", other.render()),
    }
}

/// Checks all ways of listing a hash, and of drawing from it.
fn check_lists(bench: &mut Bench, fields: &Fields, random: &mut StdRng) {
    let names: BTreeSet<String> = fields.keys().cloned().collect();
    assert_eq!(bench.command(&["HLEN", "h"]), Value::Integer(names.len() as i64));
    assert_eq!(
        bench.command(&["EXISTS", "h"]),
        Value::Integer(i64::from(!names.is_empty()))
    );
    let all = texts(&bench.command(&["HGETALL", "h"]));
    let pairs: BTreeMap<String, String> = all.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let expected: BTreeMap<String, String> = fields
        .iter()
        .map(|(name, (value, _))| (name.clone(), value.clone()))
        .collect();
    assert_eq!((pairs, all.len()), (expected, names.len() * 2));
    assert_eq!(
        texts(&bench.command(&["HKEYS", "h"]))
            .into_iter()
            .collect::<BTreeSet<_>>(),
        names
    );
    let count = random.random_range(1..40);
    let drawn = texts(&bench.command(&["HRANDFIELD", "h", &count.to_string()]));
    let distinct: BTreeSet<String> = drawn.iter().cloned().collect();
    assert!(distinct.is_subset(&names));
    assert_eq!(
        (drawn.len(), distinct.len()),
        (count.min(names.len()), count.min(names.len()))
    );
    let repeated = texts(&bench.command(&["HRANDFIELD", "h", "-5"]));
    assert_eq!(repeated.len(), if names.is_empty() { 0 } else { 5 });
    assert!(repeated.iter().all(|name| names.contains(name)));
}

/// A whole HSCAN, with fields removed on the way: what is there all along must come.
fn check_scan(bench: &mut Bench, fields: &mut Fields, random: &mut StdRng) {
    let mut cursor = "0".to_owned();
    let mut seen = BTreeSet::new();
    loop {
        let Value::Array(Some(parts)) = bench.command(&["HSCAN", "h", &cursor, "COUNT", "25", "NOVALUES"]) else {
            panic!("HSCAN answers a cursor and fields")
        };
        seen.extend(texts(&parts[1]));
        cursor = parts[0].text().expect("a cursor");
        if cursor == "0" {
            break;
        }
        let name = name(random);
        assert_eq!(
            bench.command(&["HDEL", "h", &name]),
            Value::Integer(i64::from(fields.remove(&name).is_some()))
        );
    }
    assert!(fields.keys().all(|name| seen.contains(name)));
}

fn name(random: &mut StdRng) -> String {
    format!("f{}", random.random_range(0..300))
}

/// One random command, done to the model as well.
fn step(bench: &mut Bench, fields: &mut Fields, random: &mut StdRng) {
    let (name, text) = (name(random), random.random_range(0..1000).to_string());
    let deadline_ms = bench.now_ms + random.random_range(0..60);
    let at = deadline_ms.to_string();
    let is_past = deadline_ms <= bench.now_ms;
    let found = fields.get(&name).cloned();
    let integer = |value: i64| Value::Integer(value);
    let one = |value: i64| Value::Array(Some(vec![Value::Integer(value)]));
    let bulk =
        |found: Option<(String, u64)>| Value::Array(Some(vec![Value::Bulk(found.map(|(text, _)| text.into_bytes()))]));
    let expire = |fields: &mut Fields, text: &str| match is_past {
        true => drop(fields.remove(&name)),
        false => drop(fields.insert(name.clone(), (text.to_owned(), deadline_ms))),
    };
    match random.random_range(0..10) {
        0..3 => {
            fields.insert(name.clone(), (text.clone(), 0));
            assert_eq!(
                bench.command(&["HSET", "h", &name, &text]),
                integer(i64::from(found.is_none()))
            );
        }
        3 => {
            expire(fields, &text);
            let set = bench.command(&["HSETEX", "h", "PXAT", &at, "FIELDS", "1", &name, &text]);
            assert_eq!(set, integer(1));
        }
        4 => {
            let answer = match &found {
                None => -2,
                Some((text, _)) => {
                    expire(fields, text);
                    1 + i64::from(is_past)
                }
            };
            assert_eq!(
                bench.command(&["HPEXPIREAT", "h", &at, "FIELDS", "1", &name]),
                one(answer)
            );
        }
        5 => {
            fields.remove(&name);
            assert_eq!(
                bench.command(&["HDEL", "h", &name, &name]),
                integer(i64::from(found.is_some()))
            );
        }
        6 => {
            let answer = match found {
                None => -2,
                Some((_, 0)) => -1,
                Some((text, _)) => {
                    fields.insert(name.clone(), (text, 0));
                    1
                }
            };
            assert_eq!(bench.command(&["HPERSIST", "h", "FIELDS", "1", &name]), one(answer));
        }
        7 => {
            let (old, deadline_ms) = found.unwrap_or(("0".to_owned(), 0));
            let sum = old.parse::<i64>().expect("a number") + 7;
            fields.insert(name.clone(), (sum.to_string(), deadline_ms));
            assert_eq!(bench.command(&["HINCRBY", "h", &name, "7"]), integer(sum));
        }
        8 => {
            fields.remove(&name);
            assert_eq!(bench.command(&["HGETDEL", "h", "FIELDS", "1", &name]), bulk(found));
        }
        _ => {
            let answer = match &found {
                None => -2,
                Some((_, 0)) => -1,
                Some((_, deadline_ms)) => *deadline_ms as i64,
            };
            assert_eq!(bench.command(&["HPEXPIRETIME", "h", "FIELDS", "1", &name]), one(answer));
            assert_eq!(bench.command(&["HMGET", "h", &name]), bulk(found));
        }
    }
}

/// The members of the hash on disk agree with each other and with its record, and the record with the expiry index.
fn check_disk(shard: &Shard, fields: &Fields) {
    let contents = Contents::of(shard.database());
    assert_eq!(contents.check(), [], "stale entries of the expiry index");
    let mut meta_key = Vec::new();
    encoding::meta_key(&mut meta_key, 0, Slot::of(b"h"), b"h");
    let stored = contents.records.get(&meta_key).expect("the hash is stored");
    let record = Record::decode(stored).expect("a record");
    assert_eq!(record.kind, Type::Hash);
    let (count, extra) = record.payload.split_first_chunk::<8>().expect("a count");
    let prefix = encoding::member_key(0, Slot::of(b"h"), b"h", record.version, b"");
    let members = |column| {
        let mut members = BTreeMap::new();
        let scanned = shard.database().scan(
            column,
            &prefix,
            &encoding::after_prefix(prefix.clone()),
            |key, value| {
                members.insert(key[prefix.len()..].to_vec(), value.to_vec());
                ControlFlow::Continue(())
            },
        );
        scanned.expect("the members can be read");
        members
    };
    let data = members(Column::Data);
    assert_eq!(data.len() as u64, u64::from_be_bytes(*count));
    let (mut score, mut deadlines, mut model) = (BTreeMap::new(), Vec::new(), Fields::new());
    let mut numbers = BTreeSet::new();
    let order = NameOrder::of_hash(extra, data.len() as u64).expect("an order of names");
    for (name, stored) in &data {
        let field = HashField::decode(stored).expect("a field");
        assert!(field.number < order.next_number, "{} of {order:?}", field.number);
        assert!(numbers.insert(field.number), "{} twice", field.number);
        if field.deadline_ms != 0 {
            score.insert(encoding::field_deadline_key(field.deadline_ms, name), Vec::new());
            deadlines.push(field.deadline_ms);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        model.insert(text(name), (text(field.value), field.deadline_ms));
    }
    // The names of many fields have a counted tree there while they are not all in memory.
    let mut indexed = members(Column::Score);
    indexed.retain(|key, _| !encoding::is_node_key(key));
    assert_eq!(indexed, score);
    let expected = FieldDeadlines {
        earliest_ms: deadlines.iter().min().copied().unwrap_or(0),
        latest_ms: deadlines.iter().max().copied().unwrap_or(0),
        fields: deadlines.len() as u64,
    };
    assert_eq!(FieldDeadlines::decode(extra), Some(expected));
    assert_eq!(&model, fields);
}

#[test]
fn hashes_agree_with_a_model_while_their_fields_expire() {
    let seed = seed("hashes_agree_with_a_model_while_their_fields_expire");
    for memory_bytes in [0, 1 << 20] {
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        with_database(folder.path(), true, |database| {
            let shard = Shard::open(ShardId(0), database.clone(), memory_bytes).expect("an empty shard can be opened");
            let mut bench = Bench {
                shards: Shards::new(vec![shard], 1),
                now_ms: START_MS,
                turn: 0,
                seed,
            };
            bench.begin_turn();
            let mut fields = Fields::new();
            for round in 0..3_000 {
                step(&mut bench, &mut fields, &mut random);
                if random.random_ratio(1, 6) {
                    bench.now_ms += random.random_range(0..8);
                    bench.commit();
                }
                let now_ms = bench.now_ms;
                fields.retain(|_, (_, deadline_ms)| *deadline_ms == 0 || now_ms <= *deadline_ms);
                if random.random_ratio(1, 40) {
                    bench.sweep(random.random_range(1..6));
                }
                if round % 50 == 0 {
                    check_lists(&mut bench, &fields, &mut random);
                }
                if round % 500 == 499 {
                    check_scan(&mut bench, &mut fields, &mut random);
                }
                // Everything goes at once, as when the last of a hash's fields expire together.
                if random.random_ratio(1, 700) {
                    bench.command(&["DEL", "h"]);
                    fields.clear();
                }
            }
            bench.command(&["HSET", "h", "last", "1"]);
            fields.insert("last".to_owned(), ("1".to_owned(), 0));
            for _ in 0..100 {
                bench.sweep(20);
            }
            check_lists(&mut bench, &fields, &mut random);
            check_disk(&bench.shards.list()[0], &fields);
        });
    }
}
