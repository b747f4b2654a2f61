//! Keys of any type: DEL, EXISTS, expiry, RENAME, COPY, SCAN and their relatives, and commands about whole databases.

use super::Context;
use super::arguments::{TimeUnit, database, integer, is_option};
use super::glob;
use super::number::{parse_integer, parse_unsigned};
use crate::channel::router::{ShardId, Slot, shard_of, slots_of};
use crate::error::CommandError;
use crate::storage::encoding::{DatabaseMap, Record, Type, split_meta_key};
use crate::storage::pieces::{Pieces, Select};
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// DEL key [key …], and UNLINK: a record goes at once whatever it holds; compaction gives its members' space back.
pub fn del(context: &mut Context<'_>) -> Outcome {
    let mut deleted = 0;
    for key in context.arguments.iter().skip(1) {
        if context.read_header(key)?.is_some() {
            context.delete(key)?;
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
    expire_generic(
        context,
        TimeUnit {
            seconds: true,
            absolute: false,
        },
        "expire",
    )
}

/// PEXPIRE key milliseconds [NX | XX | GT | LT]
pub fn pexpire(context: &mut Context<'_>) -> Outcome {
    expire_generic(
        context,
        TimeUnit {
            seconds: false,
            absolute: false,
        },
        "pexpire",
    )
}

/// EXPIREAT key unix-time-seconds [NX | XX | GT | LT]
pub fn expireat(context: &mut Context<'_>) -> Outcome {
    expire_generic(
        context,
        TimeUnit {
            seconds: true,
            absolute: true,
        },
        "expireat",
    )
}

/// PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]
pub fn pexpireat(context: &mut Context<'_>) -> Outcome {
    expire_generic(
        context,
        TimeUnit {
            seconds: false,
            absolute: true,
        },
        "pexpireat",
    )
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
                    let option = String::from_utf8_lossy(option);
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
    context.view.write_stored(context.database, key, stored)?;
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
    rename_generic(context)?;
    context.reply.ok();
    Ok(())
}

/// RENAMENX key newkey
pub fn renamenx(context: &mut Context<'_>) -> Outcome {
    let (from, to) = (context.arguments.get(1), context.arguments.get(2));
    if context.read_header(from)?.is_none() {
        return Err(CommandError::NoSuchKey);
    }
    let free = context.read_header(to)?.is_none();
    if free {
        rename_generic(context)?;
    }
    context.reply.integer(i64::from(free));
    Ok(())
}

/// RENAME and RENAMENX: moves the record with its deadline.
fn rename_generic(context: &mut Context<'_>) -> Outcome {
    let (from, to) = (context.arguments.get(1), context.arguments.get(2));
    let stored = context.read(from)?.ok_or(CommandError::NoSuchKey)?.encode();
    if from != to {
        context.delete(from)?;
        context.view.write_stored(context.database, to, Some(stored))?;
    }
    Ok(())
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
                target = database(rest.next().ok_or(CommandError::Syntax)?, CommandError::NotAnInteger)?;
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    let (from, to) = (arguments.get(1), arguments.get(2));
    if target == context.database && from == to {
        return Err(CommandError::SameObject);
    }
    let stored = context.read(from)?.map(|record| record.encode());
    let copied = match stored {
        Some(stored) if replace || context.view.read_header(target, to)?.is_none() => {
            context.view.write_stored(target, to, Some(stored))?;
            true
        }
        _ => false,
    };
    context.reply.integer(i64::from(copied));
    Ok(())
}

/// The other database that a command on two databases names: COPY's `DB`. A bad number is the handler's to refuse.
pub fn second_database(arguments: crate::protocol::Arguments<'_>) -> Option<u8> {
    let after = arguments
        .iter()
        .skip(3)
        .skip_while(|argument| !is_option(argument, "DB"))
        .nth(1)?;
    database(after, CommandError::NotAnInteger).ok()
}

/// MOVE key database
pub fn move_key(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let target = database(context.arguments.get(2), CommandError::NotAnInteger)?;
    if target == context.database {
        return Err(CommandError::SameObject);
    }
    let stored = context.read(key)?.map(|record| record.encode());
    let moved = match stored {
        Some(stored) if context.view.read_header(target, key)?.is_none() => {
            context.view.write_stored(target, key, Some(stored))?;
            context.delete(key)?;
            true
        }
        _ => false,
    };
    context.reply.integer(i64::from(moved));
    Ok(())
}

/// OBJECT ENCODING key
pub fn object_encoding(context: &mut Context<'_>) -> Outcome {
    let Context {
        view,
        reply,
        database,
        arguments,
        ..
    } = context;
    match view.read_header(*database, arguments.get(2))? {
        Some(record) => reply.text(encoding_name(&record)),
        None => reply.null(),
    }
    Ok(())
}

/// The longest string that Redis embeds in its object.
const EMBEDDED_LEN_MAX: usize = 44;

fn encoding_name(record: &Record<'_>) -> &'static str {
    match record.kind {
        Type::String if record.edited || record.is_in_chunks() => "raw",
        Type::String if record.payload.len() <= 20 && parse_integer(record.payload).is_some() => "int",
        Type::String if record.payload.len() <= EMBEDDED_LEN_MAX => "embstr",
        Type::String => "raw",
        Type::Hash | Type::Set => "hashtable",
        Type::List => "quicklist",
        Type::SortedSet => "skiplist",
        Type::Stream => "stream",
    }
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

/// MEMORY USAGE key [SAMPLES count]: the bytes of the key's record, on disk and in the table of hot records alike; of a
/// string in chunks, as many as if all of them were stored.
pub fn memory_usage(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    match arguments.len() {
        3 => {}
        5 if is_option(arguments.get(3), "SAMPLES") => {
            if integer(arguments.get(4))? < 0 {
                return Err(CommandError::Syntax);
            }
        }
        _ => return Err(CommandError::Syntax),
    }
    let key = arguments.get(2);
    let Context {
        view, reply, database, ..
    } = context;
    match view.read_header(*database, key)? {
        Some(record) => {
            let chunks_len = match record.is_in_chunks() {
                true => record.string_len().unwrap_or(0),
                false => 0,
            };
            let record_len = crate::storage::encoding::PREFIX_LEN + key.len() + record.encode().len();
            reply.integer((record_len + chunks_len) as i64)
        }
        None => reply.null(),
    }
    Ok(())
}

/// DBSIZE, of the shards of one executor.
pub fn dbsize(context: &mut Context<'_>) -> Outcome {
    let database = context.database;
    let mut keys = 0;
    for place in shard_ids(context)? {
        keys += context.view.shards()?.with_shard(place, |shard| {
            Ok((shard.counts(database).keys, shard.committed_epoch()))
        })?;
    }
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
    for id in shard_ids(context)? {
        context
            .view
            .shards()?
            .with_shard(id, |shard| Ok(((), shard.flush(database)?)))?;
    }
    context.reply.ok();
    Ok(())
}

/// SWAPDB index1 index2, on the shards of one executor.
pub fn swapdb(context: &mut Context<'_>) -> Outcome {
    let index = |place, name| {
        let invalid = CommandError::text(format!("ERR invalid {name} DB index"));
        database(context.arguments.get(place), invalid)
    };
    let (first, second) = (index(1, "first")?, index(2, "second")?);
    for id in shard_ids(context)? {
        context.view.shards()?.with_shard(id, |shard| {
            let mut map = shard.database_map();
            map.physical.swap(usize::from(first), usize::from(second));
            map.generation += 1;
            Ok(((), shard.set_database_map(DatabaseMap { ..map })?))
        })?;
    }
    context.reply.ok();
    Ok(())
}

/// KEYS pattern, on the shards of one executor: in pieces, counted first, since the number of keys comes before the keys.
pub fn keys(context: &mut Context<'_>) -> Outcome {
    let (pattern, database, now_ms) = (context.arguments.get(1).to_vec(), context.database, context.now_ms);
    let mut cursors = Vec::new();
    for id in shard_ids(context)? {
        let shards = context.view.shards()?;
        cursors.push(shards.with_shard(id, |shard| shard.key_cursor(database))?);
    }
    let select: Select = Box::new(move |meta_key, stored| {
        let (_, _, key) = split_meta_key(meta_key)?;
        let is_alive = Record::decode(stored).is_some_and(|record| record.is_alive(now_ms));
        (is_alive && matches_key(&pattern, key)).then_some(key)
    });
    context.pieces = Some(Pieces::of_selected(cursors, select));
    Ok(())
}

/// Whether KEYS and SCAN's MATCH select a key; a lone `*` selects the empty key too.
pub fn matches_key(pattern: &[u8], key: &[u8]) -> bool {
    pattern == b"*" || glob::matches(pattern, key, false)
}

/// RANDOMKEY: the first key at or after a random slot of a random shard of the executor, else of the next shards.
///
/// Not uniform over keys (nor is Redis's), but every key can come up.
pub fn randomkey(context: &mut Context<'_>) -> Outcome {
    let (database, now_ms, seed) = (context.database, context.now_ms, context.seed);
    let ids = shard_ids(context)?;
    let first = (seed >> 32) as usize % ids.len();
    for id in ids.iter().cycle().skip(first).take(ids.len()) {
        let shards = context.view.shards()?;
        let slots = slots_of(*id, shards.shard_count());
        let start = slots.start + (seed % u64::from(slots.end - slots.start)) as u16;
        // A few keys from there on, of which one is picked: keys behind large gaps come up less often this way.
        let mut candidates: Vec<Vec<u8>> = Vec::new();
        for range in [start..slots.end, slots.start..start] {
            shards.with_shard(*id, |shard| {
                let epoch = shard.scan(database, range, None, |_, key, record| {
                    if record.is_alive(now_ms) {
                        candidates.push(key.to_vec());
                    }
                    if candidates.len() < RANDOM_CANDIDATES {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })?;
                Ok(((), epoch))
            })?;
        }
        if !candidates.is_empty() {
            let pick = (seed >> 16) as usize % candidates.len();
            context.reply.bulk(&candidates[pick]);
            return Ok(());
        }
    }
    context.reply.null();
    Ok(())
}

/// Keys that RANDOMKEY picks one of.
const RANDOM_CANDIDATES: usize = 16;

/// The bits of a cursor below the slot: the number of a remembered position inside the slot, 0 for its start.
const CURSOR_POSITION_BITS: u32 = 48;

/// The slot that a SCAN cursor points into.
///
/// A cursor is `slot(14 bits) ‖ position(48 bits)`. Keys are scanned in the order of slots, so a cursor at a slot's start
/// needs no memory; one inside a slot stands for a key that the shard remembers for a while. If it has forgotten it
/// (a restart, many unfinished scans), the slot is scanned again from its start: keys may come twice, none is missed.
pub fn cursor_slot(argument: &[u8]) -> Result<Slot, CommandError> {
    let cursor = parse_cursor(argument)?;
    // A cursor that no SCAN returned ends the scan, as in Redis, where it may return anything.
    let slot = (cursor >> CURSOR_POSITION_BITS).min(u64::from(crate::channel::router::SLOT_COUNT - 1));
    Ok(Slot(slot as u16))
}

/// A cursor's number; unlike other numbers that Redis reads so, it must not begin with a blank.
pub fn parse_cursor(argument: &[u8]) -> Result<u64, CommandError> {
    let begins_blank = matches!(argument.first(), Some(b' ' | b'\t'..=b'\r'));
    parse_unsigned(argument)
        .filter(|_| !begins_blank)
        .ok_or(CommandError::InvalidCursor)
}

/// What SCAN was asked for.
struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    /// `Some(None)`: a type that no key can have.
    kind: Option<Option<Type>>,
}

impl<'a> ScanOptions<'a> {
    fn parse(arguments: crate::protocol::Arguments<'a>) -> Result<ScanOptions<'a>, CommandError> {
        let mut options = ScanOptions {
            pattern: None,
            count: 10,
            kind: None,
        };
        let mut rest = arguments.iter().skip(2);
        while let Some(option) = rest.next() {
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
                _ if is_option(option, "TYPE") => {
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

/// Keys that one SCAN looks at, whatever COUNT says: so that it does not hold the shard (about 10 ms).
const SCAN_COUNT_MAX: usize = 10_000;

/// SCAN cursor [MATCH pattern] [COUNT count] [TYPE type], on the shard that the cursor points into.
pub fn scan(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let slot = cursor_slot(arguments.get(1))?;
    let cursor = parse_cursor(arguments.get(1))?;
    let position = cursor & ((1 << CURSOR_POSITION_BITS) - 1);
    let options = ScanOptions::parse(arguments)?;
    let (database, now_ms) = (context.database, context.now_ms);
    let shards = context.view.shards()?;
    let shard_count = shards.shard_count();
    let id = shard_of(slot, shard_count);
    let slots = slots_of(id, shard_count);
    let count_max = options.count.min(SCAN_COUNT_MAX);
    let mut found: Vec<Vec<u8>> = Vec::new();
    let next = shards.with_shard(id, |shard| {
        let after = shard.scan_position(position);
        let mut seen = 0;
        let mut last: Option<(Slot, Vec<u8>)> = None;
        let mut next_slot = None;
        let epoch = shard.scan(database, slot.0..slots.end, after.as_deref(), |slot, key, record| {
            if seen >= count_max {
                next_slot = Some(slot);
                return ControlFlow::Break(());
            }
            seen += 1;
            let wanted = record.is_alive(now_ms)
                && options.kind.is_none_or(|kind| kind == Some(record.kind))
                && options.pattern.is_none_or(|pattern| matches_key(pattern, key));
            if wanted {
                found.push(key.to_vec());
            }
            if seen == count_max {
                last = Some((slot, key.to_vec()));
            }
            ControlFlow::Continue(())
        })?;
        let next = match (next_slot, last) {
            // The next key lies in the same slot as the last: the place between them must be remembered.
            (Some(next_slot), Some((last_slot, key))) if next_slot == last_slot => {
                u64::from(last_slot.0) << CURSOR_POSITION_BITS | shard.remember_scan_position(key)
            }
            (Some(next_slot), _) => u64::from(next_slot.0) << CURSOR_POSITION_BITS,
            (None, _) if slots.end < crate::channel::router::SLOT_COUNT => u64::from(slots.end) << CURSOR_POSITION_BITS,
            (None, _) => 0,
        };
        Ok((next, epoch))
    })?;
    let mut digits = itoa::Buffer::new();
    context.reply.array(2);
    context.reply.text(digits.format(next));
    context.reply.array(found.len());
    found.iter().for_each(|key| context.reply.bulk(key));
    Ok(())
}

/// DEBUG SLEEP seconds: holds the executor, which is what it is for.
pub fn debug_sleep(context: &mut Context<'_>) -> Outcome {
    let seconds = super::number::parse_double(context.arguments.get(2)).ok_or(CommandError::NotAFloat)?;
    if seconds > 0.0 {
        // An hour at most: a slip of the keyboard should not need a restart.
        std::thread::sleep(std::time::Duration::from_secs_f64(seconds.min(3600.0)));
    }
    context.reply.ok();
    Ok(())
}

/// How a command on keys of several executors gets their records (not a client's command): pairs of database and key,
/// answered by as many stored records, nil for absent ones.
pub fn gather_fetch(context: &mut Context<'_>) -> Outcome {
    let Context {
        view, reply, arguments, ..
    } = context;
    reply.array((arguments.len() - 1) / 2);
    for pair in (1..arguments.len()).step_by(2) {
        let (database, key) = (arguments.get(pair)[0], arguments.get(pair + 1));
        match view.read(database, key)? {
            Some(record) => reply.bulk(&record.encode()),
            None => reply.null(),
        }
    }
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

/// The rest of a large reply is not wanted any more.
pub fn pieces_drop(context: &mut Context<'_>) -> Outcome {
    take_pieces(context)?;
    context.reply.ok();
    Ok(())
}

fn take_pieces(context: &mut Context<'_>) -> Result<Option<Pieces>, CommandError> {
    let number = context.arguments.get(1).first_chunk().ok_or(CommandError::Internal)?;
    Ok(context.view.shards()?.replies_begun.take(u64::from_be_bytes(*number)))
}

/// How what such a command staged is written: triples of database, key and stored record (empty for a deletion).
pub fn gather_apply(context: &mut Context<'_>) -> Outcome {
    let Context {
        view, reply, arguments, ..
    } = context;
    for triple in (1..arguments.len()).step_by(3) {
        let (database, key, stored) = (
            arguments.get(triple)[0],
            arguments.get(triple + 1),
            arguments.get(triple + 2),
        );
        view.write_stored(database, key, (!stored.is_empty()).then(|| stored.to_vec()))?;
    }
    reply.ok();
    Ok(())
}
