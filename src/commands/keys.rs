//! Keys of any type: DEL, EXISTS, expiry, RENAME, COPY, SCAN and their relatives, and commands about whole databases.

use super::Context;
use super::arguments::{TimeUnit, database, database_of, integer, is_option, small_integer};
use super::collection::{Collection, Column, Direction};
use super::random::Random;
use super::steps::{Steps, members_per_step};
use super::walks::{self, GaveUp, Names, Next, VisitName, walk};
use crate::config::EventClass;
use crate::error::CommandError;
use crate::glob;
use crate::number::{parse_integer, parse_unsigned};
use crate::slots::{SLOT_COUNT, ShardId, Slot, shard_of, slots_of};
use crate::storage::encoding::{HashField, PREFIX_LEN, Record, STRING_CHUNK_LEN, Type, member_key, split_meta_key};
use crate::storage::pieces::{Extent, Pieces, WriteEntry};
use crate::storage::records::ENTRY_BYTES;
use crate::storage::scan_positions::Walked;
use crate::storage::shard::Owner;
use crate::storage::shards::Shards;
use crate::storage::transaction_scope::DatabaseKey;
use std::ops::ControlFlow;
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// DEL key [key …], and UNLINK: a record goes at once whatever it holds; compaction gives its members' space back.
pub fn del(context: &mut Context<'_>) -> Outcome {
    let mut deleted = 0;
    for key in context.arguments.iter().skip(1) {
        if context.read_header(key)?.is_some() {
            context.delete(key)?;
            context.notify(EventClass::Generic, "del", key);
            deleted += 1;
        }
    }
    context.reply.integer(deleted);
    Ok(())
}

/// EXISTS key [key …], and TOUCH
pub fn exists(context: &mut Context<'_>) -> Outcome {
    let mut found = 0;
    for key in context.arguments.iter().skip(1) {
        found += i64::from(context.read_header(key)?.is_some());
    }
    context.reply.integer(found);
    Ok(())
}

/// TYPE key
pub fn type_of(context: &mut Context<'_>) -> Outcome {
    let name = context
        .read_header(context.arguments.get(1))?
        .map_or("none", |record| record.kind.name());
    context.reply.simple(name);
    Ok(())
}

/// EXPIRE key seconds [NX | XX | GT | LT]
pub fn expire(context: &mut Context<'_>) -> Outcome {
    expire_generic(context, TimeUnit::SECONDS, "expire")
}

/// PEXPIRE key milliseconds [NX | XX | GT | LT]
pub fn pexpire(context: &mut Context<'_>) -> Outcome {
    expire_generic(context, TimeUnit::MILLISECONDS, "pexpire")
}

/// EXPIREAT key unix-time-seconds [NX | XX | GT | LT]
pub fn expireat(context: &mut Context<'_>) -> Outcome {
    expire_generic(context, TimeUnit::UNIX_SECONDS, "expireat")
}

/// PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]
pub fn pexpireat(context: &mut Context<'_>) -> Outcome {
    expire_generic(context, TimeUnit::UNIX_MILLISECONDS, "pexpireat")
}

/// When EXPIRE and its relatives may change a deadline.
#[derive(Clone, Copy, Default)]
struct ExpireCondition {
    if_none: bool,
    if_any: bool,
    if_later: bool,
    if_earlier: bool,
}

impl ExpireCondition {
    fn parse<'a>(options: impl Iterator<Item = &'a [u8]>) -> Result<ExpireCondition, CommandError> {
        let mut condition = ExpireCondition::default();
        for option in options {
            match option {
                _ if is_option(option, "NX") => condition.if_none = true,
                _ if is_option(option, "XX") => condition.if_any = true,
                _ if is_option(option, "GT") => condition.if_later = true,
                _ if is_option(option, "LT") => condition.if_earlier = true,
                _ => {
                    let option = CommandError::quoted(option);
                    return Err(CommandError::text(format!("ERR Unsupported option {option}")));
                }
            }
        }
        let ExpireCondition {
            if_none,
            if_any,
            if_later,
            if_earlier,
        } = condition;
        if if_none && (if_any || if_later || if_earlier) {
            return Err(CommandError::text(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if if_later && if_earlier {
            return Err(CommandError::text(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(condition)
    }

    /// Whether a key whose deadline is `old` (0: none) may get `new`; no deadline counts as infinitely late.
    fn allows(self, old: u64, new: i64) -> bool {
        let old_ms = if old == 0 { i64::MAX } else { old as i64 };
        !(self.if_none && old != 0
            || self.if_any && old == 0
            || self.if_later && (old == 0 || new <= old_ms)
            || self.if_earlier && new >= old_ms && old != 0)
    }
}

/// EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT.
fn expire_generic(context: &mut Context<'_>, unit: TimeUnit, command: &'static str) -> Outcome {
    let arguments = context.arguments;
    let condition = ExpireCondition::parse(arguments.iter().skip(3))?;
    let deadline_ms = unit.deadline_ms(arguments.get(2), context.now_ms, command)?;
    let (key, now_ms) = (arguments.get(1), context.now_ms);
    let stored = match context.read_header(key)? {
        Some(record) if condition.allows(record.deadline_ms, deadline_ms) => match u64::try_from(deadline_ms) {
            // A time that has passed deletes the key at once.
            Ok(deadline_ms) if deadline_ms > now_ms => Some(Record { deadline_ms, ..record }.encode()),
            _ => None,
        },
        _ => {
            context.reply.integer(0);
            return Ok(());
        }
    };
    let event = if stored.is_some() { "expire" } else { "del" };
    context.view.write_stored(context.database, key, stored)?;
    context.notify(EventClass::Generic, event, key);
    context.reply.integer(1);
    Ok(())
}

/// PERSIST key
pub fn persist(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let stored = match context.read_header(key)? {
        Some(record) if record.deadline_ms != 0 => Record {
            deadline_ms: 0,
            ..record
        }
        .encode(),
        _ => {
            context.reply.integer(0);
            return Ok(());
        }
    };
    context.view.write_stored(context.database, key, Some(stored))?;
    context.notify(EventClass::Generic, "persist", key);
    context.reply.integer(1);
    Ok(())
}

/// TTL key
pub fn ttl(context: &mut Context<'_>) -> Outcome {
    let now_ms = context.now_ms;
    ttl_generic(context, |deadline_ms| (deadline_ms.saturating_sub(now_ms) + 500) / 1000)
}

/// PTTL key
pub fn pttl(context: &mut Context<'_>) -> Outcome {
    let now_ms = context.now_ms;
    ttl_generic(context, |deadline_ms| deadline_ms.saturating_sub(now_ms))
}

/// EXPIRETIME key
pub fn expiretime(context: &mut Context<'_>) -> Outcome {
    ttl_generic(context, |deadline_ms| (deadline_ms + 500) / 1000)
}

/// PEXPIRETIME key
pub fn pexpiretime(context: &mut Context<'_>) -> Outcome {
    ttl_generic(context, |deadline_ms| deadline_ms)
}

/// TTL, PTTL, EXPIRETIME and PEXPIRETIME: −2 for no key, −1 for no deadline.
fn ttl_generic(context: &mut Context<'_>, time_of: impl Fn(u64) -> u64) -> Outcome {
    let answer = match context.read_header(context.arguments.get(1))? {
        None => -2,
        Some(record) if record.deadline_ms == 0 => -1,
        Some(record) => time_of(record.deadline_ms) as i64,
    };
    context.reply.integer(answer);
    Ok(())
}

/// RENAME key newkey
pub fn rename(context: &mut Context<'_>) -> Outcome {
    rename_generic(context, |context| context.reply.ok())
}

/// RENAMENX key newkey
pub fn renamenx(context: &mut Context<'_>) -> Outcome {
    let (from, to) = (context.arguments.get(1), context.arguments.get(2));
    if context.read_header(from)?.is_none() {
        return Err(CommandError::NoSuchKey);
    }
    if context.read_header(to)?.is_some() {
        context.reply.integer(0);
        return Ok(());
    }
    rename_generic(context, |context| context.reply.integer(1))
}

/// RENAME and RENAMENX: the value moves with its deadline.
fn rename_generic(context: &mut Context<'_>, reply: fn(&mut Context<'_>)) -> Outcome {
    let (database, from, to) = (context.database, context.arguments.get(1), context.arguments.get(2));
    if from == to {
        context.read(from)?.ok_or(CommandError::NoSuchKey)?;
        reply(context);
        return Ok(());
    }
    let writes = vec![(database, from.to_vec()), (database, to.to_vec())];
    let renamed = move |context: &mut Context<'_>| {
        let (from, to) = (context.arguments.get(1), context.arguments.get(2));
        context.delete(from)?;
        context.notify(EventClass::Generic, "rename_from", from);
        context.notify(EventClass::Generic, "rename_to", to);
        reply(context);
        Ok(())
    };
    match duplicate(context, from, (database, to), writes, renamed)? {
        true => Ok(()),
        false => Err(CommandError::NoSuchKey),
    }
}

/// Stages under another key what is under `from`, with its deadline, and does what comes `then`; whether there is
/// anything. RENAME, RENAMENX, COPY and MOVE, which write the keys `writes`.
///
/// Members are stored under their key's name, so they are copied, and the new ones get a version of their own: that
/// takes time and memory in proportion to the collection. On several executors it is refused.
fn duplicate(
    context: &mut Context<'_>,
    from: &[u8],
    (target, to): (u8, &[u8]),
    writes: Vec<DatabaseKey>,
    then: impl FnOnce(&mut Context<'_>) -> Outcome + Send + 'static,
) -> Result<bool, CommandError> {
    // A string in chunks is copied by them, unless it comes from other executors.
    let found = match context.view.is_gathered() {
        true => context.read(from)?,
        false => context.read_header(from)?,
    };
    let Some(stored) = found.map(|record| record.encode()) else {
        return Ok(false);
    };
    let Some(record) = Record::decode(&stored) else {
        unreachable!("a record that was just encoded can be decoded");
    };
    if record.version == 0 {
        // The old key is deleted first: the new one is a key of its own, not the old one with another value.
        context.view.delete(target, to)?;
        context.view.write_stored(target, to, Some(stored))?;
        then(context)?;
        return Ok(true);
    }
    let mut from = Collection::of_record(context.database, from, &record)?;
    let to = Owner {
        database: target,
        key: to.to_vec(),
        version: 0,
    };
    let mut members = from.count;
    if record.is_in_chunks() {
        // Those of its record are bytes, and its chunks are not to be kept in memory as a collection's members are.
        members = from.count.div_ceil(STRING_CHUNK_LEN as u64);
        from.count = u64::MAX;
    }
    context.in_steps((members, writes), |steps| async move {
        let to = copy_members(&steps, from, to).await?;
        let finish = move |context: &mut Context<'_>| {
            let Some(record) = Record::decode(&stored) else {
                unreachable!("a record that was just encoded can be decoded");
            };
            let version = to.version;
            context.view.delete(target, &to.key)?;
            context.view.write(target, &to.key, &Record { version, ..record })?;
            then(context)
        };
        steps.run(finish).await
    })?;
    Ok(true)
}

/// Bytes of members that one step copies.
const COPIED_BYTES_MAX: usize = 128 << 10;

/// Copies a collection's members, which are to be those of `to` under a new version.
async fn copy_members(steps: &Steps, from: Collection, to: Owner) -> Result<Owner, CommandError> {
    let (from, mut to) = (Arc::new(from), to);
    for column in [Column::Data, Column::Score] {
        let mut next = Some(Vec::new());
        while let Some(start) = next {
            let from = Arc::clone(&from);
            let copy = move |context: &mut Context<'_>| {
                if to.version == 0 {
                    // In the step of its first member: the new collection is in memory from the beginning.
                    to.version = context.view.new_version(&to.key, from.kind)?;
                }
                Ok((copy_some(context, column, (&from, &start), &to)?, to))
            };
            (next, to) = steps.run(copy).await?;
        }
    }
    Ok(to)
}

/// Copies members from `start` on. Returns where the next ones begin.
fn copy_some(
    context: &mut Context<'_>,
    column: Column,
    (from, start): (&Collection, &[u8]),
    to: &Owner,
) -> Result<Option<Vec<u8>>, CommandError> {
    let (mut members, mut bytes, mut next) = (Vec::new(), 0, None);
    context.scan_members(from, column, (start, None), Direction::Forward, |member, value| {
        members.push((member.to_vec(), value.to_vec()));
        bytes += member.len() + value.len();
        if members.len() < members_per_step() && bytes < COPIED_BYTES_MAX {
            return ControlFlow::Continue(());
        }
        // The first member that is greater: this one with a zero byte more.
        next = Some([member, b"\0"].concat());
        ControlFlow::Break(())
    })?;
    for (member, value) in members {
        context.view.put_member(to, column, &member, &value)?;
    }
    Ok(next)
}

/// COPY source destination [DB number] [REPLACE]
pub fn copy(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut replace = false;
    let mut target = context.database;
    let mut rest = arguments.iter().skip(3);
    while let Some(option) = rest.next() {
        match option {
            _ if is_option(option, "REPLACE") => replace = true,
            _ if is_option(option, "DB") => {
                target = database(rest.next().ok_or(CommandError::Syntax)?)?;
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let (from, to) = (arguments.get(1), arguments.get(2));
    if target == context.database && from == to {
        return Err(CommandError::SameObject);
    }
    let is_there = context.reading(|context| context.read_header(from).map(|record| record.is_some()))?;
    let may_copy = is_there && (replace || context.view.read_header(target, to)?.is_none());
    let copied = move |context: &mut Context<'_>| {
        let to = context.arguments.get(2);
        context.notify_in(target, EventClass::Generic, "copy_to", to);
        context.reply.integer(1);
        Ok(())
    };
    let writes = vec![(target, to.to_vec())];
    if !(may_copy && duplicate(context, from, (target, to), writes, copied)?) {
        context.reply.integer(0);
    }
    Ok(())
}

/// MOVE key database
pub fn move_key(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let target = database(context.arguments.get(2))?;
    if target == context.database {
        return Err(CommandError::SameObject);
    }
    let is_free = context.view.read_header(target, key)?.is_none();
    let moved = move |context: &mut Context<'_>| {
        let key = context.arguments.get(1);
        context.delete(key)?;
        context.notify(EventClass::Generic, "move_from", key);
        context.notify_in(target, EventClass::Generic, "move_to", key);
        context.reply.integer(1);
        Ok(())
    };
    let writes = vec![(context.database, key.to_vec()), (target, key.to_vec())];
    if !(is_free && duplicate(context, key, (target, key), writes, moved)?) {
        context.reply.integer(0);
    }
    Ok(())
}

/// OBJECT ENCODING key: what Redis 7.2 would keep the value in by its default settings, told from the value alone.
/// (Redis does not go back to a compact form when a collection shrinks.)
pub fn object_encoding(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(2);
    let database = context.database;
    let Some(record) = context.read_header(key)? else {
        context.reply.null();
        return Ok(());
    };
    let name = match record.kind {
        Type::String => string_encoding(&record),
        _ => {
            let collection = Collection::of_record(database, key, &record)?;
            collection_encoding(context, &collection)?
        }
    };
    context.reply.text(name);
    Ok(())
}

/// The longest string that Redis embeds in its object.
const EMBEDDED_LEN_MAX: usize = 44;

fn string_encoding(record: &Record<'_>) -> &'static str {
    match record.payload {
        _ if record.edited || record.is_in_chunks() => "raw",
        payload if payload.len() <= 20 && parse_integer(payload).is_some() => "int",
        payload if payload.len() <= EMBEDDED_LEN_MAX => "embstr",
        _ => "raw",
    }
}

/// `set-max-intset-entries`
const INTSET_ENTRIES_MAX: u64 = 512;

/// `set-max-listpack-entries` and `zset-max-listpack-entries`
const LISTPACK_MEMBERS_MAX: u64 = 128;

/// `hash-max-listpack-entries`
const LISTPACK_FIELDS_MAX: u64 = 512;

/// `set-max-listpack-value`, `hash-max-listpack-value` and `zset-max-listpack-value`, in bytes
const LISTPACK_VALUE_LEN_MAX: usize = 64;

/// `list-max-listpack-size`: −2, which is this many bytes
const LISTPACK_BYTES_MAX: usize = 8192;

/// Bytes of an element in a listpack beside its own: its length before it and behind it.
const LISTPACK_ELEMENT_OVERHEAD: usize = 2;

/// Looks at 512 members at most, or 4096 elements of a list.
fn collection_encoding(context: &mut Context<'_>, collection: &Collection) -> Result<&'static str, CommandError> {
    let is_short = |member: &[u8], _: &[u8]| member.len() <= LISTPACK_VALUE_LEN_MAX;
    match collection.kind {
        Type::Set => {
            let names = ("listpack", "hashtable");
            let without_integers = encoding_by_members(context, collection, LISTPACK_MEMBERS_MAX, names, is_short)?;
            let is_integer = |member: &[u8], _: &[u8]| parse_integer(member).is_some();
            let names = ("intset", without_integers);
            encoding_by_members(context, collection, INTSET_ENTRIES_MAX, names, is_integer)
        }
        Type::Hash => {
            let names = ("listpack", "hashtable");
            let are_short = |field: &[u8], stored: &[u8]| {
                let value = HashField::decode(stored).map_or(stored, |field| field.value);
                is_short(field, stored) && value.len() <= LISTPACK_VALUE_LEN_MAX
            };
            encoding_by_members(context, collection, LISTPACK_FIELDS_MAX, names, are_short)
        }
        Type::SortedSet => {
            let names = ("listpack", "skiplist");
            encoding_by_members(context, collection, LISTPACK_MEMBERS_MAX, names, is_short)
        }
        Type::List => {
            let mut bytes = 0;
            encoding_by_members(
                context,
                collection,
                u64::MAX,
                ("listpack", "quicklist"),
                |_, element| {
                    bytes += element.len() + LISTPACK_ELEMENT_OVERHEAD;
                    bytes <= LISTPACK_BYTES_MAX
                },
            )
        }
        Type::String | Type::Stream => Ok(collection.kind.name()),
    }
}

/// Whether Redis would keep a collection in its compact form, which HSCAN, SSCAN and ZSCAN give at once whatever COUNT
/// is.
pub(super) fn is_compact(context: &mut Context<'_>, collection: &Collection) -> Result<bool, CommandError> {
    let encoding = collection_encoding(context, collection)?;
    Ok(matches!(encoding, "listpack" | "intset"))
}

/// The compact form's name if there are few enough members and all of them fit, or else the other one.
fn encoding_by_members(
    context: &mut Context<'_>,
    collection: &Collection,
    count_max: u64,
    (compact, other): (&'static str, &'static str),
    mut fits: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<&'static str, CommandError> {
    if collection.count > count_max {
        return Ok(other);
    }
    let mut name = compact;
    context.scan_members(
        collection,
        Column::Data,
        (b"", None),
        Direction::Forward,
        |member, value| {
            if fits(member, value) {
                return ControlFlow::Continue(());
            }
            name = other;
            ControlFlow::Break(())
        },
    )?;
    Ok(name)
}

/// OBJECT REFCOUNT key: values are not shared.
pub fn object_refcount(context: &mut Context<'_>) -> Outcome {
    object_integer(context, 1)
}

/// OBJECT IDLETIME key: no time of last use is kept, so a key that is asked for was just used.
pub fn object_idletime(context: &mut Context<'_>) -> Outcome {
    object_integer(context, 0)
}

fn object_integer(context: &mut Context<'_>, answer: i64) -> Outcome {
    match context.read_header(context.arguments.get(2))?.is_some() {
        true => context.reply.integer(answer),
        false => context.reply.null(),
    }
    Ok(())
}

/// OBJECT FREQ key: there is no eviction, so no LFU policy either, and Redis then refuses.
pub fn object_freq(context: &mut Context<'_>) -> Outcome {
    match context.read_header(context.arguments.get(2))?.is_some() {
        true => Err(CommandError::text(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
        false => {
            context.reply.null();
            Ok(())
        }
    }
}

/// MEMORY USAGE key [SAMPLES count]: the bytes that the key's record takes in memory, or would, and those of its
/// members. A collection that is in memory knows its bytes. Of another one it is about the members' bytes as on disk
/// before they are compressed: all members count as much as the first ones do on average, five of them, as in Redis,
/// and all for 0.
pub fn memory_usage(context: &mut Context<'_>) -> Outcome {
    let touched = context.view.touched();
    let outcome = measure_memory(context);
    // As in Redis: MEMORY USAGE is about the key, and does not use it.
    context.view.uncount_look_ups(touched);
    outcome
}

fn measure_memory(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let samples = match arguments.len() {
        3 => 5,
        5 if is_option(arguments.get(3), "SAMPLES") => {
            let samples = integer(arguments.get(4))?;
            u64::try_from(samples).map_err(|_| CommandError::Syntax)?
        }
        _ => return Err(CommandError::Syntax),
    };
    let (key, database) = (arguments.get(2), context.database);
    let Some(record) = context.read_header(key)? else {
        context.reply.null();
        return Ok(());
    };
    let mut bytes = (ENTRY_BYTES + PREFIX_LEN + key.len() + record.encode().len()) as u64;
    if record.is_in_chunks() {
        // As many as if all chunks were stored.
        bytes += record.string_len().unwrap_or(0) as u64;
    } else if record.version != 0 {
        let collection = Collection::of_record(database, key, &record)?;
        bytes += match context.view.bytes_in_memory(&collection.owner)? {
            Some(bytes) => bytes,
            None => {
                let data = member_bytes(context, &collection, Column::Data, samples)?;
                data + member_bytes(context, &collection, Column::Score, samples)?
            }
        };
    }
    context.reply.integer(bytes as i64);
    Ok(())
}

/// The bytes of a collection's members in a column: exactly if there are no more than `samples` (0: however many), or
/// else as if all were like the first ones.
fn member_bytes(
    context: &mut Context<'_>,
    collection: &Collection,
    column: Column,
    samples: u64,
) -> Result<u64, CommandError> {
    let owner = &collection.owner;
    let prefix_len = member_key(0, Slot(0), &owner.key, owner.version, b"").len();
    let (mut seen, mut bytes, mut is_exact) = (0, 0, true);
    context.scan_members(collection, column, (b"", None), Direction::Forward, |member, value| {
        if samples != 0 && seen == samples {
            is_exact = false;
            return ControlFlow::Break(());
        }
        seen += 1;
        bytes += (prefix_len + member.len() + value.len()) as u64;
        ControlFlow::Continue(())
    })?;
    match is_exact {
        true => Ok(bytes),
        false => Ok((u128::from(bytes) * u128::from(collection.count.max(seen)) / u128::from(seen)) as u64),
    }
}

/// DBSIZE, of the shards of one executor.
pub fn dbsize(context: &mut Context<'_>) -> Outcome {
    let keys = context.view.key_count(context.database)?;
    context.reply.integer(keys as i64);
    Ok(())
}

fn shard_ids(context: &mut Context<'_>) -> Result<Vec<ShardId>, CommandError> {
    Ok(context.view.shards()?.list().iter().map(|shard| shard.id()).collect())
}

/// FLUSHDB [ASYNC | SYNC], on the shards of one executor.
pub fn flushdb(context: &mut Context<'_>) -> Outcome {
    flush_generic(context, Some(context.database))
}

/// FLUSHALL [ASYNC | SYNC], on the shards of one executor.
pub fn flushall(context: &mut Context<'_>) -> Outcome {
    flush_generic(context, None)
}

fn flush_generic(context: &mut Context<'_>, database: Option<u8>) -> Outcome {
    let arguments = context.arguments;
    match arguments.len() {
        1 => {}
        2 if is_option(arguments.get(1), "ASYNC") || is_option(arguments.get(1), "SYNC") => {}
        _ => return Err(CommandError::Syntax),
    }
    context.view.flush(database)?;
    context.reply.ok();
    Ok(())
}

/// SWAPDB index1 index2, on the shards of one executor.
pub fn swapdb(context: &mut Context<'_>) -> Outcome {
    let number = |position, name| {
        let invalid = |_| CommandError::text(format!("ERR invalid {name} DB index"));
        small_integer(context.arguments.get(position)).map_err(invalid)
    };
    let (first, second) = (number(1, "first")?, number(2, "second")?);
    let (first, second) = (database_of(first)?, database_of(second)?);
    context.view.swap_databases(first, second)?;
    context.reply.ok();
    Ok(())
}

/// KEYS pattern, on the shards of one executor: in pieces, counted first, since the number of keys comes before the
/// keys.
pub fn keys(context: &mut Context<'_>) -> Outcome {
    if context.is_inner {
        return keys_at_once(context);
    }
    let (pattern, database, now_ms) = (context.arguments.get(1).to_vec(), context.database, context.now_ms);
    let mut cursors = Vec::new();
    for id in shard_ids(context)? {
        let shards = context.view.shards()?;
        cursors.extend(shards.key_cursors(id, database, 0..SLOT_COUNT)?);
    }
    let write: WriteEntry = Box::new(move |reply, meta_key, stored| {
        let Some((_, _, key)) = split_meta_key(meta_key) else {
            return false;
        };
        let is_alive = Record::decode(stored).is_some_and(|record| record.is_alive(now_ms));
        let is_found = is_alive && matches_key(&pattern, key);
        if let Some(reply) = reply.filter(|_| is_found) {
            reply.bulk(key);
        }
        is_found
    });
    context.pieces = Some(Box::new(Pieces::new(cursors, Extent::AtMost(u64::MAX), write)));
    Ok(())
}

/// KEYS as a part of another command, whose reply cannot come in pieces.
fn keys_at_once(context: &mut Context<'_>) -> Outcome {
    let pattern = context.arguments.get(1);
    let mut found: Vec<Vec<u8>> = Vec::new();
    context.view.visit_keys(context.database, 0..SLOT_COUNT, |key, _| {
        if matches_key(pattern, key) {
            found.push(key.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    context.reply.array(found.len());
    found.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}

/// Whether KEYS, and MATCH of SCAN and its relatives, select a key or member; a lone `*` selects the empty key too.
pub fn matches_key(pattern: &[u8], key: &[u8]) -> bool {
    pattern == b"*" || glob::matches(pattern, key, false)
}

/// RANDOMKEY: one of the keys that follow a random slot, of those that the executor has.
///
/// Not uniform over keys (nor is Redis's), but about so if they are spread over the slots, and every key can come up.
pub fn randomkey(context: &mut Context<'_>) -> Outcome {
    let mut random = Random::new(context.seed);
    let start = random.below(u64::from(SLOT_COUNT)) as u16;
    // So many candidates that it makes little difference how large the gap before the first one is.
    let mut candidates: Vec<Vec<u8>> = Vec::new();
    let mut gave_up = false;
    for slots in [start..SLOT_COUNT, 0..start] {
        let deleted_max = match context.is_inner {
            true => u64::MAX,
            false => RANDOM_DELETED_MAX,
        };
        gave_up = context
            .view
            .visit_some_keys(context.database, slots, deleted_max, |key, _| {
                candidates.push(key.to_vec());
                match candidates.len() < RANDOM_CANDIDATES {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
        if gave_up || candidates.len() == RANDOM_CANDIDATES {
            break;
        }
    }
    let Some(last) = candidates.last() else {
        if gave_up {
            return randomkey_in_pieces(context, Slot(start), random.below(u64::MAX));
        }
        context.reply.null();
        return Ok(());
    };
    // Not all keys of the last slot may be among them.
    let is_whole = !gave_up && candidates.len() < RANDOM_CANDIDATES;
    let last_slot = (!is_whole).then(|| Slot::of(last));
    let mut picked = candidates.swap_remove(random.below(candidates.len() as u64) as usize);
    if let Some(slot) = last_slot.filter(|slot| *slot == Slot::of(&picked)) {
        let of_slot = context
            .view
            .random_key_of_slot(context.database, slot, &mut |bound| random.below(bound))?;
        picked = of_slot.unwrap_or(picked);
    }
    context.reply.bulk(&picked);
    Ok(())
}

/// Keys that RANDOMKEY picks one of.
const RANDOM_CANDIDATES: usize = 64;

/// Keys that are not there any more which RANDOMKEY passes over at once: about a millisecond.
const RANDOM_DELETED_MAX: u64 = 1024;

/// RANDOMKEY where so many deleted keys follow `start` that it takes long to find one: looked for as a large reply is
/// made, piece by piece.
fn randomkey_in_pieces(context: &mut Context<'_>, start: Slot, random: u64) -> Outcome {
    let (database, now_ms) = (context.database, context.now_ms);
    let mut cursors = Vec::new();
    for slots in [start.0..SLOT_COUNT, 0..start.0] {
        for id in shard_ids(context)? {
            cursors.extend(context.view.shards()?.key_cursors(id, database, slots.clone())?);
        }
    }
    let write: WriteEntry = Box::new(move |reply, meta_key, stored| {
        let is_alive = Record::decode(stored).is_some_and(|record| record.is_alive(now_ms));
        if let (Some(reply), Some((_, _, key))) = (reply, split_meta_key(meta_key)) {
            reply.bulk(key);
        }
        is_alive
    });
    let pieces = Pieces::new(cursors, Extent::AtMost(RANDOM_CANDIDATES as u64), write);
    context.pieces = Some(Box::new(pieces.pick_one(random)));
    Ok(())
}

/// Where the slot is in a SCAN cursor: above the position in it.
pub const CURSOR_SLOT_SHIFT: u32 = walks::POSITION_BITS;

const _: () = assert!(
    (SLOT_COUNT as u64) << CURSOR_SLOT_SHIFT <= 1 << f64::MANTISSA_DIGITS,
    "a cursor is exact where a client keeps it as a double"
);

/// The slot that a SCAN cursor points into: see [`walks`].
pub fn cursor_slot(argument: &[u8]) -> Result<Slot, CommandError> {
    let cursor = parse_cursor(argument)?;
    // A cursor that no SCAN returned ends the scan, as in Redis, where it may return anything.
    let slot = (cursor >> CURSOR_SLOT_SHIFT).min(u64::from(SLOT_COUNT - 1));
    Ok(Slot(slot as u16))
}

/// A cursor's number; unlike other numbers that Redis reads so, it must not begin with a blank.
pub fn parse_cursor(argument: &[u8]) -> Result<u64, CommandError> {
    let begins_blank = matches!(argument.first(), Some(b' ' | b'\t'..=b'\r'));
    parse_unsigned(argument)
        .filter(|_| !begins_blank)
        .ok_or(CommandError::InvalidCursor)
}

/// What SCAN or one of its relatives goes through, which says what its options may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    /// SCAN, which alone knows TYPE, and has no key before its cursor.
    Keys,
    /// HSCAN, which alone knows NOVALUES.
    Fields,
    /// SSCAN and ZSCAN.
    Members,
}

/// What SCAN or one of its relatives was asked for.
pub(super) struct ScanOptions<'a> {
    pub(super) pattern: Option<&'a [u8]>,
    pub(super) count: usize,
    /// Whether HSCAN gives the values too.
    pub(super) values: bool,
    /// `Some(None)`: a type that no key can have.
    kind: Option<Option<Type>>,
}

impl<'a> ScanOptions<'a> {
    /// Reads the options behind the cursor.
    pub(super) fn parse(
        arguments: crate::protocol::Arguments<'a>,
        scanned: Scanned,
    ) -> Result<ScanOptions<'a>, CommandError> {
        let mut options = ScanOptions {
            pattern: None,
            count: 10,
            values: true,
            kind: None,
        };
        let first = if scanned == Scanned::Keys { 2 } else { 3 };
        let mut rest = arguments.iter().skip(first);
        while let Some(option) = rest.next() {
            if scanned == Scanned::Fields && is_option(option, "NOVALUES") {
                options.values = false;
                continue;
            }
            let value = rest.next().ok_or(CommandError::Syntax)?;
            match option {
                _ if is_option(option, "COUNT") => {
                    let count = integer(value)?;
                    options.count = usize::try_from(count)
                        .ok()
                        .filter(|count| *count > 0)
                        .ok_or(CommandError::Syntax)?;
                }
                _ if is_option(option, "MATCH") => options.pattern = Some(value),
                _ if is_option(option, "TYPE") && scanned == Scanned::Keys => {
                    let types = (0..=u8::MAX).map_while(Type::from_code);
                    options.kind = Some(
                        types
                            .into_iter()
                            .find(|kind| value.eq_ignore_ascii_case(kind.name().as_bytes())),
                    );
                }
                _ => return Err(CommandError::Syntax),
            }
        }
        Ok(options)
    }
}

/// How many keys a SCAN looks at, if its options are right.
pub fn scan_count(arguments: crate::protocol::Arguments<'_>) -> Option<usize> {
    let options = ScanOptions::parse(arguments, Scanned::Keys).ok()?;
    Some(options.count.min(SCAN_COUNT_MAX))
}

/// Keys or members that one SCAN looks at, whatever COUNT says: so that it does not hold the shard (about 10 ms).
pub(super) const SCAN_COUNT_MAX: usize = 10_000;

/// SCAN cursor [MATCH pattern] [COUNT count] [TYPE type], on the shard that the cursor points into.
pub fn scan(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let slot = cursor_slot(arguments.get(1))?;
    let position = parse_cursor(arguments.get(1))? & ((1 << CURSOR_SLOT_SHIFT) - 1);
    let mut at = (slot.0, position);
    let options = ScanOptions::parse(arguments, Scanned::Keys)?;
    if context.view.is_gathered() {
        return scan_at_once(context, slot, &options);
    }
    let (database, now_ms) = (context.database, context.now_ms);
    let is_wanted = |key: &[u8], record: &Record<'_>| {
        record.is_alive(now_ms)
            && options.kind.is_none_or(|kind| kind == Some(record.kind))
            && options.pattern.is_none_or(|pattern| matches_key(pattern, key))
    };
    let shards = context.view.shards()?;
    let shard_count = shards.shard_count();
    let mut left = options.count.min(SCAN_COUNT_MAX);
    let mut found: Vec<Vec<u8>> = Vec::new();
    let next = loop {
        let id = shard_of(Slot(at.0), shard_count);
        let slots_end = slots_of(id, shard_count).end;
        let mut keys = ShardKeys {
            shards: &mut *shards,
            id,
            slots_end,
            database,
            is_wanted: &is_wanted,
        };
        let part = walk(&mut keys, at, left)?;
        left = left.saturating_sub(part.looked_at);
        found.extend(part.items);
        at = match part.next {
            Next::At(slot, position) => (slot, position),
            Next::Behind(slot) => (slot + 1, 0),
            Next::Nowhere => (slots_end, 0),
        };
        if at.0 >= SLOT_COUNT {
            break 0;
        }
        // The next shard's keys come in the same call, if it is one of this executor's.
        if left == 0 || part.gave_up || shards.shard_of(Slot(at.0)).is_err() {
            break u64::from(at.0) << CURSOR_SLOT_SHIFT | at.1;
        }
    };
    let mut digits = itoa::Buffer::new();
    context.reply.array(2);
    context.reply.text(digits.format(next));
    context.reply.array(found.len());
    found.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}

/// The keys of a shard, each slot being a group.
struct ShardKeys<'a> {
    shards: &'a mut Shards,
    id: ShardId,
    /// The slot behind the shard's last.
    slots_end: u16,
    database: u8,
    is_wanted: &'a dyn Fn(&[u8], &Record<'_>) -> bool,
}

impl Names for ShardKeys<'_> {
    type Item = Vec<u8>;

    fn visit(
        &mut self,
        slot: u16,
        after: Option<&[u8]>,
        deleted_max: Option<u64>,
        visit: &mut VisitName<'_, Vec<u8>>,
    ) -> Result<Option<GaveUp>, CommandError> {
        let slots_end = deleted_max.map_or(slot + 1, |_| self.slots_end);
        let part = (self.database, slot..slots_end, after);
        let is_wanted = self.is_wanted;
        let gave_up_at = self.shards.with_shard(self.id, |shard| {
            let deleted_max = deleted_max.unwrap_or(u64::MAX);
            let (epoch, gave_up_at) = shard.scan_keys(part, deleted_max, |slot, key, record| {
                visit(slot.0, key, &|| is_wanted(key, &record).then(|| key.to_vec()))
            })?;
            Ok((gave_up_at, epoch))
        })?;
        Ok(gave_up_at.map(|position| (position.slot.0, position.after)))
    }

    fn recall(&mut self, slot: u16, hash: u64) -> Result<Option<Vec<u8>>, CommandError> {
        let slot = Slot(slot);
        let walked = Walked::Slot(self.database, slot);
        self.shards.recall_scan_position(slot, walked, hash)
    }

    fn remember(&mut self, slot: u16, hash: u64, name: &[u8]) -> Result<(), CommandError> {
        let slot = Slot(slot);
        let walked = Walked::Slot(self.database, slot);
        self.shards.remember_scan_position(slot, walked, hash, name)
    }
}

/// SCAN in a transaction over several storage executors: all that is left, since no shard remembers a position for it.
fn scan_at_once(context: &mut Context<'_>, slot: Slot, options: &ScanOptions<'_>) -> Outcome {
    let mut found: Vec<Vec<u8>> = Vec::new();
    context
        .view
        .visit_keys(context.database, slot.0..SLOT_COUNT, |key, kind| {
            let is_wanted = options.kind.is_none_or(|wanted| wanted == Some(kind))
                && options.pattern.is_none_or(|pattern| matches_key(pattern, key));
            if is_wanted {
                found.push(key.to_vec());
            }
            ControlFlow::Continue(())
        })?;
    context.reply.array(2);
    context.reply.text("0");
    context.reply.array(found.len());
    found.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}

/// The next piece of a large reply, by its number(8).
pub fn pieces_next(context: &mut Context<'_>) -> Outcome {
    context.pieces = take_pieces(context)?;
    match context.pieces.is_some() {
        true => Ok(()),
        false => Err(CommandError::Internal),
    }
}

/// The remainder of a large reply is not wanted any more.
pub fn pieces_drop(context: &mut Context<'_>) -> Outcome {
    if let Some(pieces) = take_pieces(context)? {
        context.view.shards()?.replies_begun.end(*pieces);
    }
    context.reply.ok();
    Ok(())
}

fn take_pieces(context: &mut Context<'_>) -> Result<Option<Box<Pieces>>, CommandError> {
    let number = context.arguments.get(1).first_chunk().ok_or(CommandError::Internal)?;
    Ok(context.view.shards()?.replies_begun.take(u64::from_be_bytes(*number)))
}
