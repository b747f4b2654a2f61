//! DUMP and RESTORE: a key's value as the bytes that Redis would give or take (see [`crate::protocol::rdb`]).
//!
//! RESTORE makes a collection as a client would, by the handlers of its type's commands: so there is one piece of code
//! that knows how a member is stored.

use super::arguments::{integer, is_option};
use super::collection::{Collection, Column, Direction};
use super::sorted_sets::members::zadd;
use super::stream_groups::{Group, xclaim, xgroup_create, xgroup_createconsumer};
use super::{Context, Handler, hashes, lists, sets, streams};
use crate::config::EventClass;
use crate::error::CommandError;
use crate::protocol::rdb::{self, Pair, RdbError, Stream, StreamConsumer, StreamPending, Value};
use crate::protocol::{Arguments, OwnedArguments, REQUEST_BYTES_MAX, Reply, Version, format_double};
use crate::storage::encoding::{self, HashField, Record, StreamId, Type};
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// Members that one command adds at most: enough that the commands cost little beside the members.
const MEMBERS_PER_COMMAND: usize = 1024;

impl From<RdbError> for CommandError {
    fn from(error: RdbError) -> Self {
        CommandError::text(error.to_string())
    }
}

/// DUMP key
pub fn dump(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let database = context.database;
    let (string, collection) = match context.read(key)? {
        None => {
            context.reply.null();
            return Ok(());
        }
        Some(record) if record.kind == Type::String => (Some(record.payload.to_vec()), None),
        Some(record) => (None, Some(Collection::of_record(database, key, &record)?)),
    };
    let value = match (string, collection) {
        (Some(bytes), _) => Value::String(bytes),
        (None, Some(collection)) => value_of(context, &collection)?,
        (None, None) => return Err(CommandError::Internal),
    };
    context.reply.bulk(&rdb::dump(&value));
    Ok(())
}

fn value_of(context: &mut Context<'_>, collection: &Collection) -> Result<Value, CommandError> {
    let now_ms = context.now_ms;
    Ok(match collection.kind {
        Type::String => return Err(CommandError::Internal),
        Type::List => Value::List(entries(context, collection, |_, element| Some(element.to_vec()))?),
        Type::Set => Value::Set(entries(context, collection, |member, _| Some(member.to_vec()))?),
        Type::Hash => Value::Hash(entries(context, collection, |field, stored| {
            let living = HashField::decode(stored).filter(|stored| stored.is_alive(now_ms))?;
            Some((field.to_vec(), living.value.to_vec()))
        })?),
        Type::SortedSet => Value::SortedSet(entries(context, collection, |member, stored| {
            Some((member.to_vec(), f64::from_be_bytes(*stored.first_chunk()?)))
        })?),
        Type::Stream => Value::Stream(Box::new(stream_of(context, &collection.owner.key)?)),
    })
}

fn rdb_id(id: StreamId) -> rdb::StreamId {
    rdb::StreamId {
        ms: id.ms(),
        sequence: id.sequence(),
    }
}

/// A stream with its groups, as it is dumped.
fn stream_of(context: &mut Context<'_>, key: &[u8]) -> Result<Stream, CommandError> {
    let stream = context.stream(key)?.ok_or(CommandError::Internal)?;
    let all = (StreamId::MIN, StreamId::MAX);
    let mut dumped = Stream {
        last_id: rdb_id(stream.numbers.last),
        max_deleted_id: rdb_id(stream.numbers.deleted_max),
        entries_added: stream.numbers.entries_added,
        ..Stream::default()
    };
    context.visit_ids(
        &stream,
        encoding::STREAM_ENTRY_PREFIX,
        all,
        Direction::Forward,
        |id, value| {
            let texts = encoding::decode_stream_entry(value).unwrap_or_default();
            let pairs = texts.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec()));
            dumped.entries.push((rdb_id(id), pairs.collect::<Vec<Pair>>()));
            ControlFlow::Continue(())
        },
    )?;
    for (name, numbers) in context.groups(&stream)? {
        let group = Group { name: &name, numbers };
        let consumers = context.consumers(&stream, &group)?;
        let position_of = |name: &[u8]| consumers.iter().position(|(consumer, _)| consumer == name);
        let mut pending = Vec::new();
        for (id, entry) in context.pending_entries(&stream, &group, None, all, u64::MAX)? {
            pending.push(StreamPending {
                id: rdb_id(id),
                delivered_ms: entry.delivered_ms,
                deliveries: entry.deliveries,
                consumer: position_of(&entry.consumer).ok_or(CommandError::Internal)?,
            });
        }
        dumped.groups.push(rdb::StreamGroup {
            last_id: rdb_id(group.numbers.last),
            entries_read: group.numbers.entries_read,
            consumers: consumers
                .into_iter()
                .map(|(name, consumer)| StreamConsumer {
                    name,
                    seen_ms: consumer.seen_ms,
                })
                .collect(),
            pending,
            name,
        });
    }
    Ok(dumped)
}

/// What `take` makes of the entries of `data`.
fn entries<T>(
    context: &mut Context<'_>,
    collection: &Collection,
    take: impl Fn(&[u8], &[u8]) -> Option<T>,
) -> Result<Vec<T>, CommandError> {
    let mut taken = Vec::new();
    context.scan_members(
        collection,
        Column::Data,
        (b"", None),
        Direction::Forward,
        |member, value| {
            taken.extend(take(member, value));
            ControlFlow::Continue(())
        },
    )?;
    Ok(taken)
}

/// What RESTORE is told beside the value.
struct Options {
    replace: bool,
    absolute: bool,
}

/// RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]
pub fn restore(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let options = restore_options(arguments)?;
    let key = arguments.get(1);
    if !options.replace && context.read_header(key)?.is_some() {
        return Err(CommandError::text("BUSYKEY Target key name already exists."));
    }
    let ttl_ms = integer(arguments.get(2))?;
    let ttl_ms = u64::try_from(ttl_ms).map_err(|_| CommandError::text("ERR Invalid TTL value, must be >= 0"))?;
    let value = rdb::restore(arguments.get(3))?;
    let deadline_ms = match (ttl_ms, options.absolute) {
        (0, _) => 0,
        (ttl_ms, true) => ttl_ms,
        (ttl_ms, false) => ttl_ms.saturating_add(context.now_ms),
    };
    let was_there = context.read_header(key)?.is_some();
    if was_there {
        context.delete(key)?;
    }
    if deadline_ms == 0 || deadline_ms > context.now_ms {
        // The commands that make the value have no events of their own.
        let classes = std::mem::take(&mut context.effects.classes);
        let made = make(context, key, &value).and_then(|()| set_deadline(context, key, deadline_ms));
        context.effects.classes = classes;
        made?;
        context.notify(EventClass::Generic, "restore", key);
    } else if was_there {
        context.notify(EventClass::Generic, "del", key);
    }
    context.reply.ok();
    Ok(())
}

fn restore_options(arguments: Arguments<'_>) -> Result<Options, CommandError> {
    let mut options = Options {
        replace: false,
        absolute: false,
    };
    let (mut has_idle_time, mut has_frequency) = (false, false);
    let mut rest = arguments.iter().skip(4);
    while let Some(option) = rest.next() {
        match option {
            _ if is_option(option, "REPLACE") => options.replace = true,
            _ if is_option(option, "ABSTTL") => options.absolute = true,
            // Neither time nor frequency of use is kept here; a wrong number is refused all the same.
            _ if is_option(option, "IDLETIME") && !has_frequency => {
                has_idle_time = true;
                if integer(rest.next().ok_or(CommandError::Syntax)?)? < 0 {
                    return Err(CommandError::text("ERR Invalid IDLETIME value, must be >= 0"));
                }
            }
            _ if is_option(option, "FREQ") && !has_idle_time => {
                has_frequency = true;
                if !(0..=255).contains(&integer(rest.next().ok_or(CommandError::Syntax)?)?) {
                    return Err(CommandError::text("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    Ok(options)
}

fn make(context: &mut Context<'_>, key: &[u8], value: &Value) -> Outcome {
    match value {
        Value::String(bytes) => context.write(key, &Record::string(bytes, 0)),
        Value::List(elements) => add(context, (lists::rpush, "RPUSH"), key, elements, |element, words| {
            words.push(element.clone());
        }),
        Value::Set(members) => add(context, (sets::sadd, "SADD"), key, members, |member, words| {
            words.push(member.clone());
        }),
        Value::Hash(pairs) => add(context, (hashes::hset, "HSET"), key, pairs, |(field, value), words| {
            words.extend([field.clone(), value.clone()]);
        }),
        Value::SortedSet(pairs) => add(context, (zadd, "ZADD"), key, pairs, |(member, score), words| {
            words.extend([format_double(*score).as_bytes().to_vec(), member.clone()]);
        }),
        Value::Stream(stream) => make_stream(context, key, stream),
    }
}

/// Adds members by a command that takes many.
fn add<T>(
    context: &mut Context<'_>,
    (handler, name): (Handler, &str),
    key: &[u8],
    members: &[T],
    words_of: impl Fn(&T, &mut Vec<Vec<u8>>),
) -> Outcome {
    for some in members.chunks(MEMBERS_PER_COMMAND) {
        let mut words = vec![name.as_bytes().to_vec(), key.to_vec()];
        some.iter().for_each(|member| words_of(member, &mut words));
        run(context, handler, &words)?;
    }
    Ok(())
}

/// Runs another command's handler in this command; its reply goes nowhere.
fn run(context: &mut Context<'_>, handler: Handler, words: &[Vec<u8>]) -> Outcome {
    if words.iter().map(Vec::len).sum::<usize>() > REQUEST_BYTES_MAX {
        return Err(CommandError::StringTooLong);
    }
    let arguments = OwnedArguments::of(words.iter().map(Vec::as_slice));
    let mut no_reply = Vec::new();
    let reply = Reply::new(&mut no_reply, Version::Resp2);
    context.run_inner(arguments.get(), reply, handler)
}

/// Entries first, then what the stream says of itself, then its groups: each as Redis writes it to its append-only
/// file.
fn make_stream(context: &mut Context<'_>, key: &[u8], stream: &Stream) -> Outcome {
    let id = |id: &rdb::StreamId| format!("{}-{}", id.ms, id.sequence).into_bytes();
    let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
    if stream.entries.is_empty() {
        // The only way to an empty stream is through one entry.
        run(
            context,
            streams::xadd,
            &words(&[b"XADD", key, b"MAXLEN", b"0", b"0-1", b"f", b"v"]),
        )?;
    }
    for (entry, pairs) in &stream.entries {
        let mut command = words(&[b"XADD", key, &id(entry)]);
        pairs
            .iter()
            .for_each(|(field, value)| command.extend([field.clone(), value.clone()]));
        run(context, streams::xadd, &command)?;
    }
    let added = stream.entries_added.to_string();
    let (last_id, max_deleted_id) = (id(&stream.last_id), id(&stream.max_deleted_id));
    let numbers: [&[u8]; 7] = [
        b"XSETID",
        key,
        &last_id,
        b"ENTRIESADDED",
        added.as_bytes(),
        b"MAXDELETEDID",
        &max_deleted_id,
    ];
    run(context, streams::xsetid, &words(&numbers))?;
    for group in &stream.groups {
        let read = group.entries_read.map_or(-1, |read| read as i64).to_string();
        let last_id = id(&group.last_id);
        let create: [&[u8]; 7] = [
            b"XGROUP",
            b"CREATE",
            key,
            &group.name,
            &last_id,
            b"ENTRIESREAD",
            read.as_bytes(),
        ];
        run(context, xgroup_create, &words(&create))?;
        for consumer in &group.consumers {
            let create: [&[u8]; 5] = [b"XGROUP", b"CREATECONSUMER", key, &group.name, &consumer.name];
            run(context, xgroup_createconsumer, &words(&create))?;
        }
        for pending in &group.pending {
            let (delivered, count) = (pending.delivered_ms.to_string(), pending.deliveries.to_string());
            let (entry, consumer) = (id(&pending.id), &group.consumers[pending.consumer].name);
            let claim: [&[u8]; 12] = [
                b"XCLAIM",
                key,
                &group.name,
                consumer,
                b"0",
                &entry,
                b"TIME",
                delivered.as_bytes(),
                b"RETRYCOUNT",
                count.as_bytes(),
                b"FORCE",
                b"JUSTID",
            ];
            run(context, xclaim, &words(&claim))?;
        }
    }
    Ok(())
}

fn set_deadline(context: &mut Context<'_>, key: &[u8], deadline_ms: u64) -> Outcome {
    if deadline_ms == 0 {
        return Ok(());
    }
    let stored = context
        .read_header(key)?
        .map(|record| Record { deadline_ms, ..record }.encode());
    context.view.write_stored(context.database, key, stored)
}
