//! Hashes: HSET, HGET and their relatives, counters in fields, random fields, HSCAN. What gives fields a deadline is in
//! [`super::field_expiry`].

use super::Context;
use super::arguments::{integer, is_option};
use super::hash::{Hash, living, write_living};
use super::keys::{SCAN_COUNT_MAX, ScanOptions, Scanned, is_compact, matches_key, parse_cursor};
use super::name_order::LISTED_MAX;
use super::random::Shuffled;
use super::walks::{Members, walk};
use crate::error::CommandError;
use crate::number::{LongDouble, parse_integer};
use crate::protocol::{Arguments, Reply, Version};
use crate::storage::pieces::WriteMember;

type Outcome = Result<(), CommandError>;

/// HSET key field value [field value …]
pub fn hset(context: &mut Context<'_>) -> Outcome {
    let created = hset_generic(context, "hset")?;
    context.reply.integer(created);
    Ok(())
}

/// HMSET key field value [field value …]
pub fn hmset(context: &mut Context<'_>) -> Outcome {
    hset_generic(context, "hmset")?;
    context.reply.ok();
    Ok(())
}

/// HSET and HMSET: sets the fields, which lose their deadlines; returns how many are new.
fn hset_generic(context: &mut Context<'_>, command: &str) -> Result<i64, CommandError> {
    let arguments = context.arguments;
    if arguments.len() % 2 == 1 {
        return Err(CommandError::Arity(command.to_owned()));
    }
    let mut hash = Hash::open_or_new(context, arguments.get(1))?;
    let mut created = 0;
    for pair in (2..arguments.len()).step_by(2) {
        let (field, value) = (arguments.get(pair), arguments.get(pair + 1));
        created += i64::from(hash.put(context, field, value, 0)?);
    }
    hash.save_after(context, &["hset"])?;
    Ok(created)
}

/// HSETNX key field value
pub fn hsetnx(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut hash = Hash::open_or_new(context, arguments.get(1))?;
    let field = arguments.get(2);
    let absent = hash.find(context, field)?.is_none();
    if absent {
        hash.put(context, field, arguments.get(3), 0)?;
    }
    hash.save_after(context, if absent { &["hset"] } else { &[] })?;
    context.reply.integer(i64::from(absent));
    Ok(())
}

/// HGET key field
pub fn hget(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    match Hash::open(context, arguments.get(1))? {
        None => context.reply.null(),
        Some(hash) => hash.answer_with(context, arguments.get(2), bulk_or_null)?,
    }
    Ok(())
}

pub(super) fn bulk_or_null(reply: &mut Reply<'_>, value: Option<&[u8]>) {
    match value {
        Some(value) => reply.bulk(value),
        None => reply.null(),
    }
}

/// HMGET key field [field …]
pub fn hmget(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let hash = Hash::open(context, arguments.get(1))?;
    context.reply.array(arguments.len() - 2);
    for field in arguments.iter().skip(2) {
        match &hash {
            None => context.reply.null(),
            Some(hash) => hash.answer_with(context, field, bulk_or_null)?,
        }
    }
    Ok(())
}

/// HGETALL key
pub fn hgetall(context: &mut Context<'_>) -> Outcome {
    hgetall_generic(
        context,
        |reply, fields| reply.map(fields),
        |reply, field, stored, now_ms| {
            write_living(reply, stored, now_ms, |reply, value| {
                reply.bulk(field);
                reply.bulk(value);
            })
        },
    )
}

/// HKEYS key
pub fn hkeys(context: &mut Context<'_>) -> Outcome {
    hgetall_generic(
        context,
        |reply, fields| reply.array(fields),
        |reply, field, stored, now_ms| write_living(reply, stored, now_ms, |reply, _| reply.bulk(field)),
    )
}

/// HVALS key
pub fn hvals(context: &mut Context<'_>) -> Outcome {
    hgetall_generic(
        context,
        |reply, fields| reply.array(fields),
        |reply, _, stored, now_ms| write_living(reply, stored, now_ms, |reply, value| reply.bulk(value)),
    )
}

/// HGETALL, HKEYS and HVALS.
fn hgetall_generic(
    context: &mut Context<'_>,
    header: impl FnOnce(&mut Reply<'_>, usize),
    write: WriteMember,
) -> Outcome {
    let key = context.arguments.get(1);
    let Some(hash) = Hash::open(context, key)? else {
        header(&mut context.reply, 0);
        return Ok(());
    };
    let fields = hash.living_fields(context)?;
    header(&mut context.reply, fields as usize);
    hash.reply_fields(context, fields, write)
}

/// HDEL key field [field …]
pub fn hdel(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut deleted = 0;
    if let Some(mut hash) = Hash::open_to_write(context, arguments.get(1))? {
        for field in arguments.iter().skip(2) {
            if let Some(header) = hash.find(context, field)? {
                hash.remove(context, field, header)?;
                deleted += 1;
            }
        }
        hash.save_after(context, if deleted > 0 { &["hdel"] } else { &[] })?;
    }
    context.reply.integer(deleted);
    Ok(())
}

/// HLEN key
pub fn hlen(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let fields = match Hash::open(context, key)? {
        None => 0,
        Some(hash) => hash.living_fields(context)?,
    };
    context.reply.integer(fields as i64);
    Ok(())
}

/// HEXISTS key field
pub fn hexists(context: &mut Context<'_>) -> Outcome {
    answer_about_value(context, |value| i64::from(value.is_some()))
}

/// HSTRLEN key field
pub fn hstrlen(context: &mut Context<'_>) -> Outcome {
    answer_about_value(context, |value| value.map_or(0, <[u8]>::len) as i64)
}

/// HEXISTS and HSTRLEN.
fn answer_about_value(context: &mut Context<'_>, answer: impl FnOnce(Option<&[u8]>) -> i64) -> Outcome {
    let arguments = context.arguments;
    match Hash::open(context, arguments.get(1))? {
        None => context.reply.integer(answer(None)),
        Some(hash) => {
            hash.answer_with(context, arguments.get(2), |reply, value| reply.integer(answer(value)))?;
        }
    }
    Ok(())
}

/// HINCRBY key field increment
pub fn hincrby(context: &mut Context<'_>) -> Outcome {
    let increment = integer(context.arguments.get(3))?;
    let mut sum = 0;
    change_value(context, "hincrby", |old| {
        let not_an_integer = || CommandError::text("ERR hash value is not an integer");
        let old = old.map_or(Ok(0), |old| parse_integer(old).ok_or_else(not_an_integer))?;
        sum = old.checked_add(increment).ok_or(CommandError::Overflow)?;
        Ok(itoa::Buffer::new().format(sum).to_owned())
    })?;
    context.reply.integer(sum);
    Ok(())
}

/// HINCRBYFLOAT key field increment
pub fn hincrbyfloat(context: &mut Context<'_>) -> Outcome {
    let increment = LongDouble::parse(context.arguments.get(3)).ok_or(CommandError::NotAFloat)?;
    if increment.is_nan_or_infinite() {
        return Err(CommandError::text("ERR value is NaN or Infinity"));
    }
    let sum = change_value(context, "hincrbyfloat", |old| {
        let not_a_float = || CommandError::text("ERR hash value is not a float");
        let old = LongDouble::parse(old.unwrap_or(b"0")).ok_or_else(not_a_float)?;
        let sum = old + increment;
        match sum.is_nan_or_infinite() {
            true => Err(CommandError::NotFinite),
            false => Ok(sum.format_human()),
        }
    })?;
    context.reply.text(&sum);
    Ok(())
}

/// HINCRBY and HINCRBYFLOAT: puts what `change` makes of a field's value in its place. The field keeps its deadline.
fn change_value(
    context: &mut Context<'_>,
    event: &'static str,
    change: impl FnOnce(Option<&[u8]>) -> Result<String, CommandError>,
) -> Result<String, CommandError> {
    let arguments = context.arguments;
    let mut hash = Hash::open_or_new(context, arguments.get(1))?;
    let field = arguments.get(2);
    let deadline_ms = hash.find(context, field)?.map_or(0, |header| header.deadline_ms);
    let new = hash.answer_with(context, field, |_, old| change(old))??;
    hash.put(context, field, new.as_bytes(), deadline_ms)?;
    hash.save_after(context, &[event])?;
    Ok(new)
}

/// Fields that HRANDFIELD returns at most where they may repeat, so that a reply has a bound: Redis has none there, and
/// runs out of memory.
const REPEATED_FIELDS_MAX: u64 = 1 << 24;

/// HRANDFIELD key [count [WITHVALUES]]
pub fn hrandfield(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    if arguments.len() == 2 {
        return random_field(context);
    }
    let (count, with_values) = hrandfield_count(arguments)?;
    let Some(hash) = Hash::open(context, arguments.get(1))?.filter(|_| count != 0) else {
        context.reply.array(0);
        return Ok(());
    };
    if count < 0 {
        let repeated = count.unsigned_abs();
        if repeated > REPEATED_FIELDS_MAX {
            return Err(CommandError::OutOfRange);
        }
        field_list_header(&mut context.reply, repeated, with_values);
        let mut ranks = Shuffled::new(hash.stored_fields(), context.seed);
        for _ in 0..repeated {
            ranks.begin_again();
            let field = next_field(context, &hash, &mut ranks)?;
            answer_field(context, &hash, &field, with_values)?;
        }
        return Ok(());
    }
    let (wanted, fields) = (count.unsigned_abs(), hash.living_fields(context)?);
    field_list_header(&mut context.reply, wanted.min(fields), with_values);
    if wanted >= fields {
        let write: WriteMember = match with_values {
            true => |reply, field, stored, now_ms| {
                write_living(reply, stored, now_ms, |reply, value| {
                    write_field(reply, field, Some(value))
                })
            },
            false => |reply, field, stored, now_ms| {
                write_living(reply, stored, now_ms, |reply, _| write_field(reply, field, None))
            },
        };
        return hash.reply_fields(context, fields, write);
    }
    let mut ranks = Shuffled::new(hash.stored_fields(), context.seed);
    for _ in 0..wanted {
        let field = next_field(context, &hash, &mut ranks)?;
        answer_field(context, &hash, &field, with_values)?;
    }
    Ok(())
}

/// HRANDFIELD without a count.
fn random_field(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let Some(hash) = Hash::open(context, key)? else {
        context.reply.null();
        return Ok(());
    };
    let field = next_field(context, &hash, &mut Shuffled::new(hash.stored_fields(), context.seed))?;
    context.reply.bulk(&field);
    Ok(())
}

/// HRANDFIELD's count, and whether it is to answer values too.
fn hrandfield_count(arguments: Arguments<'_>) -> Result<(i64, bool), CommandError> {
    let count = integer(arguments.get(2))?;
    if count == i64::MIN {
        return Err(CommandError::text(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ));
    }
    let with_values = match arguments.len() {
        3 => false,
        4 if is_option(arguments.get(3), "WITHVALUES") => true,
        _ => return Err(CommandError::Syntax),
    };
    // The reply has twice as many elements.
    match with_values && count.unsigned_abs() > i64::MAX as u64 / 2 {
        true => Err(CommandError::OutOfRange),
        false => Ok((count, with_values)),
    }
}

/// The next field that is there, of those at random ranks.
fn next_field(context: &mut Context<'_>, hash: &Hash, ranks: &mut Shuffled) -> Result<Vec<u8>, CommandError> {
    for rank in ranks {
        if let Some(field) = hash.field_at(context, rank)? {
            return Ok(field);
        }
    }
    // A hash that is there has a field that is there, and no more are drawn than that.
    Err(CommandError::Internal)
}

fn field_list_header(reply: &mut Reply<'_>, fields: u64, with_values: bool) {
    let elements = match (reply.version(), with_values) {
        (Version::Resp2, true) => fields * 2,
        _ => fields,
    };
    reply.array(elements as usize);
}

fn answer_field(context: &mut Context<'_>, hash: &Hash, field: &[u8], with_values: bool) -> Outcome {
    match with_values {
        true => hash.answer_with(context, field, |reply, value| write_field(reply, field, value)),
        false => {
            write_field(&mut context.reply, field, None);
            Ok(())
        }
    }
}

/// One field of HRANDFIELD's list; in RESP3 a field and its value are an array of two.
fn write_field(reply: &mut Reply<'_>, field: &[u8], value: Option<&[u8]>) {
    if value.is_some() && reply.version() == Version::Resp3 {
        reply.array(2);
    }
    reply.bulk(field);
    if let Some(value) = value {
        reply.bulk(value);
    }
}

/// A field of HSCAN's reply, and its value if that is wanted.
type FoundField = (Vec<u8>, Option<Vec<u8>>);

/// HSCAN key cursor [MATCH pattern] [COUNT count] [NOVALUES]
pub fn hscan(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let cursor = parse_cursor(arguments.get(2))?;
    let Some(hash) = Hash::open(context, arguments.get(1))? else {
        context.reply.array(2);
        context.reply.text("0");
        context.reply.array(0);
        return Ok(());
    };
    let options = ScanOptions::parse(arguments, Scanned::Fields)?;
    let now_ms = context.now_ms;
    let item = |field: &[u8], stored: &[u8]| -> Option<Result<FoundField, CommandError>> {
        if options.pattern.is_some_and(|pattern| !matches_key(pattern, field)) {
            return None;
        }
        let found = living(Some(stored), now_ms).transpose()?;
        Some(found.map(|found| (field.to_vec(), options.values.then(|| found.value.to_vec()))))
    };
    let is_at_once = cursor == 0 && is_compact(context, hash.collection())?;
    let (next, found) = match is_at_once {
        true if hash.stored_fields() <= LISTED_MAX => {
            let listed = hash.listed(&mut context.view)?;
            let found = listed.iter().filter_map(|(field, stored)| item(field, stored));
            (0, found.collect())
        }
        _ => {
            let mut members = Members {
                view: &mut context.view,
                collection: hash.collection(),
                item,
            };
            let count = if is_at_once {
                usize::MAX
            } else {
                options.count.min(SCAN_COUNT_MAX)
            };
            let found = walk(&mut members, (0, cursor), count)?;
            (found.next.in_collection(), found.items)
        }
    };
    let found = found.into_iter().collect::<Result<Vec<FoundField>, _>>()?;
    context.reply.array(2);
    context.reply.text(itoa::Buffer::new().format(next));
    context.reply.array(found.len() * if options.values { 2 } else { 1 });
    for (field, value) in &found {
        context.reply.bulk(field);
        value.iter().for_each(|value| context.reply.bulk(value));
    }
    Ok(())
}
