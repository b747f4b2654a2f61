//! Deadlines of a hash's fields: HEXPIRE, HTTL, HPERSIST, HGETEX, HSETEX, HGETDEL and their relatives.
//!
//! Source: Redis 7.4 for those that begin HEXPIRE to HPERSIST, Redis 8.0 for HGETEX, HSETEX and HGETDEL.

use super::Context;
use super::arguments::{TimeUnit, integer, is_option};
use super::hash::{FieldHeader, Hash};
use super::hashes::bulk_or_null;
use crate::error::CommandError;
use crate::number::parse_integer;
use crate::protocol::Arguments;

type Outcome = Result<(), CommandError>;

/// The latest deadline of a field, in Unix milliseconds: Redis keeps 46 bits (year 4199).
const FIELD_DEADLINE_MS_MAX: i64 = (1 << 46) - 1;

/// What is answered for a field that is not there.
const NO_FIELD: i64 = -2;
/// What is answered for a field without a deadline.
const NO_DEADLINE: i64 = -1;
/// What HEXPIRE answers where its condition does not hold.
const CONDITION_NOT_MET: i64 = 0;
/// What HEXPIRE and HPERSIST answer for a field that they have changed.
const CHANGED: i64 = 1;
/// What HEXPIRE answers for a field that is gone at once.
const DELETED: i64 = 2;

/// The deadline that an argument means, in Unix milliseconds; may lie in the past.
fn field_deadline_ms(unit: TimeUnit, argument: &[u8], now_ms: u64, command: &'static str) -> Result<u64, CommandError> {
    if integer(argument)? < 0 {
        return Err(CommandError::text("ERR invalid expire time, must be >= 0"));
    }
    match unit.deadline_ms(argument, now_ms, command)? {
        deadline_ms if deadline_ms > FIELD_DEADLINE_MS_MAX => Err(CommandError::InvalidExpireTime(command)),
        deadline_ms => Ok(deadline_ms as u64),
    }
}

/// The fields behind `FIELDS numfields`, which must be at `position` and end the command.
fn fields<'a>(
    arguments: Arguments<'a>,
    position: usize,
    bad_count: &'static str,
) -> Result<impl ExactSizeIterator<Item = &'a [u8]>, CommandError> {
    if position >= arguments.len() || !is_option(arguments.get(position), "FIELDS") {
        return Err(CommandError::text(
            "ERR Mandatory argument FIELDS is missing or not at the right position",
        ));
    }
    let count = match arguments.len() > position + 1 {
        true => parse_integer(arguments.get(position + 1)).filter(|count| *count > 0),
        false => None,
    };
    let count = count.ok_or(CommandError::text(bad_count))?;
    match arguments.len() - position - 2 == count as usize {
        true => Ok(arguments.iter().skip(position + 2)),
        false => Err(CommandError::text(
            "ERR The `numfields` parameter must match the number of arguments",
        )),
    }
}

const BAD_FIELD_COUNT: &str = "ERR Number of fields must be a positive integer";

/// HEXPIRE key seconds [NX | XX | GT | LT] FIELDS numfields field [field …]
pub fn hexpire(context: &mut Context<'_>) -> Outcome {
    hexpire_generic(context, TimeUnit::SECONDS, "hexpire")
}

/// HPEXPIRE key milliseconds [NX | XX | GT | LT] FIELDS numfields field [field …]
pub fn hpexpire(context: &mut Context<'_>) -> Outcome {
    hexpire_generic(context, TimeUnit::MILLISECONDS, "hpexpire")
}

/// HEXPIREAT key unix-time-seconds [NX | XX | GT | LT] FIELDS numfields field [field …]
pub fn hexpireat(context: &mut Context<'_>) -> Outcome {
    hexpire_generic(context, TimeUnit::UNIX_SECONDS, "hexpireat")
}

/// HPEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT] FIELDS numfields field [field …]
pub fn hpexpireat(context: &mut Context<'_>) -> Outcome {
    hexpire_generic(context, TimeUnit::UNIX_MILLISECONDS, "hpexpireat")
}

/// When a field's deadline may change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfNone,
    IfAny,
    IfLater,
    IfEarlier,
}

impl Condition {
    fn of_option(argument: &[u8]) -> Option<Condition> {
        match argument {
            _ if is_option(argument, "NX") => Some(Condition::IfNone),
            _ if is_option(argument, "XX") => Some(Condition::IfAny),
            _ if is_option(argument, "GT") => Some(Condition::IfLater),
            _ if is_option(argument, "LT") => Some(Condition::IfEarlier),
            _ => None,
        }
    }

    /// Whether a deadline that is `old_ms` (0: none) may become `new_ms`; no deadline counts as infinitely late.
    fn allows(self, old_ms: u64, new_ms: u64) -> bool {
        match self {
            Condition::Always => true,
            Condition::IfNone => old_ms == 0,
            Condition::IfAny => old_ms != 0,
            Condition::IfLater => old_ms != 0 && new_ms > old_ms,
            Condition::IfEarlier => old_ms == 0 || new_ms < old_ms,
        }
    }
}

/// HEXPIRE, HPEXPIRE, HEXPIREAT and HPEXPIREAT.
fn hexpire_generic(context: &mut Context<'_>, unit: TimeUnit, command: &'static str) -> Outcome {
    let arguments = context.arguments;
    let mut hash = Hash::open_to_write(context, arguments.get(1))?;
    let deadline_ms = field_deadline_ms(unit, arguments.get(2), context.now_ms, command)?;
    let (condition, position) = match Condition::of_option(arguments.get(3)) {
        Some(condition) => (condition, 4),
        None => (Condition::Always, 3),
    };
    let fields = fields(
        arguments,
        position,
        "ERR Parameter `numFields` should be greater than 0",
    )?;
    context.reply.array(fields.len());
    let mut events: &[&'static str] = &[];
    for field in fields {
        let answer = match &mut hash {
            None => NO_FIELD,
            Some(hash) => match hash.find(context, field)? {
                None => NO_FIELD,
                Some(header) if !condition.allows(header.deadline_ms, deadline_ms) => CONDITION_NOT_MET,
                Some(header) => {
                    events = expiry_events(deadline_ms, context.now_ms);
                    expire_field(context, hash, field, header, deadline_ms)?
                }
            },
        };
        context.reply.integer(answer);
    }
    hash.map_or(Ok(()), |hash| hash.save_after(context, events))
}

/// What has happened to a hash of which fields got this deadline.
fn expiry_events(deadline_ms: u64, now_ms: u64) -> &'static [&'static str] {
    match deadline_ms <= now_ms {
        true => &["hdel"],
        false => &["hexpire"],
    }
}

/// Gives a field a deadline; one that has passed already removes the field.
fn expire_field(
    context: &mut Context<'_>,
    hash: &mut Hash,
    field: &[u8],
    header: FieldHeader,
    deadline_ms: u64,
) -> Result<i64, CommandError> {
    match deadline_ms <= context.now_ms {
        true => hash.remove(context, field, header).map(|()| DELETED),
        false => hash.set_deadline(context, field, header, deadline_ms).map(|()| CHANGED),
    }
}

/// HTTL key FIELDS numfields field [field …]
pub fn httl(context: &mut Context<'_>) -> Outcome {
    let now_ms = context.now_ms;
    httl_generic(context, |deadline_ms| (deadline_ms + 999 - now_ms) / 1000)
}

/// HPTTL key FIELDS numfields field [field …]
pub fn hpttl(context: &mut Context<'_>) -> Outcome {
    let now_ms = context.now_ms;
    httl_generic(context, |deadline_ms| deadline_ms - now_ms)
}

/// HEXPIRETIME key FIELDS numfields field [field …]
pub fn hexpiretime(context: &mut Context<'_>) -> Outcome {
    httl_generic(context, |deadline_ms| deadline_ms.div_ceil(1000))
}

/// HPEXPIRETIME key FIELDS numfields field [field …]
pub fn hpexpiretime(context: &mut Context<'_>) -> Outcome {
    httl_generic(context, |deadline_ms| deadline_ms)
}

/// HTTL, HPTTL, HEXPIRETIME and HPEXPIRETIME; `time_of` is given deadlines that have not passed.
fn httl_generic(context: &mut Context<'_>, time_of: impl Fn(u64) -> u64) -> Outcome {
    let arguments = context.arguments;
    let hash = Hash::open(context, arguments.get(1))?;
    let fields = fields(arguments, 2, BAD_FIELD_COUNT)?;
    context.reply.array(fields.len());
    for field in fields {
        let header = match &hash {
            None => None,
            Some(hash) => hash.find(context, field)?,
        };
        context.reply.integer(match header {
            None => NO_FIELD,
            Some(header) if header.deadline_ms == 0 => NO_DEADLINE,
            Some(header) => time_of(header.deadline_ms) as i64,
        });
    }
    Ok(())
}

/// HPERSIST key FIELDS numfields field [field …]
pub fn hpersist(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut hash = Hash::open_to_write(context, arguments.get(1))?;
    let fields = fields(arguments, 2, BAD_FIELD_COUNT)?;
    context.reply.array(fields.len());
    let mut events: &[&'static str] = &[];
    for field in fields {
        let answer = match &mut hash {
            None => NO_FIELD,
            Some(hash) => match hash.find(context, field)? {
                None => NO_FIELD,
                Some(header) if header.deadline_ms == 0 => NO_DEADLINE,
                Some(header) => {
                    events = &["hpersist"];
                    hash.set_deadline(context, field, header, 0).map(|()| CHANGED)?
                }
            },
        };
        context.reply.integer(answer);
    }
    hash.map_or(Ok(()), |hash| hash.save_after(context, events))
}

/// HGETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST] FIELDS numfields field [field …]
pub fn hgetex(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut hash = Hash::open_to_write(context, arguments.get(1))?;
    let option = arguments.get(2);
    let (deadline_ms, position) = match TimeUnit::of_option(option) {
        Some(unit) => {
            let deadline_ms = field_deadline_ms(unit, arguments.get(3), context.now_ms, "hgetex")?;
            (Some(deadline_ms), 4)
        }
        None if is_option(option, "PERSIST") => (Some(0), 3),
        None => (None, 2),
    };
    let persist = is_option(option, "PERSIST");
    let fields = fields(arguments, position, BAD_FIELD_COUNT)?;
    context.reply.array(fields.len());
    let mut events: &[&'static str] = &[];
    for field in fields {
        let Some(hash) = &mut hash else {
            context.reply.null();
            continue;
        };
        hash.answer_with(context, field, bulk_or_null)?;
        let (Some(deadline_ms), Some(header)) = (deadline_ms, hash.find(context, field)?) else {
            continue;
        };
        match persist {
            true if header.deadline_ms == 0 => {}
            true => {
                events = &["hpersist"];
                hash.set_deadline(context, field, header, 0)?;
            }
            false => {
                events = expiry_events(deadline_ms, context.now_ms);
                expire_field(context, hash, field, header, deadline_ms)?;
            }
        }
    }
    hash.map_or(Ok(()), |hash| hash.save_after(context, events))
}

/// HGETDEL key FIELDS numfields field [field …]
pub fn hgetdel(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let mut hash = Hash::open_to_write(context, arguments.get(1))?;
    let fields = fields(arguments, 2, BAD_FIELD_COUNT)?;
    context.reply.array(fields.len());
    let mut events: &[&'static str] = &[];
    for field in fields {
        let Some(hash) = &mut hash else {
            context.reply.null();
            continue;
        };
        hash.answer_with(context, field, bulk_or_null)?;
        if let Some(header) = hash.find(context, field)? {
            hash.remove(context, field, header)?;
            events = &["hdel"];
        }
    }
    hash.map_or(Ok(()), |hash| hash.save_after(context, events))
}

/// What HSETEX was asked to do beside setting.
#[derive(Default)]
struct SetOptions {
    /// `Some(true)`: only if all fields are there; `Some(false)`: only if none is.
    if_present: Option<bool>,
    keep_deadline: bool,
    deadline_ms: Option<u64>,
    /// Where the first field is among the arguments.
    fields_at: usize,
}

impl SetOptions {
    fn parse(arguments: Arguments<'_>, now_ms: u64) -> Result<SetOptions, CommandError> {
        let mut options = SetOptions::default();
        let mut position = 2;
        while position < arguments.len() {
            let option = arguments.get(position);
            if is_option(option, "FIELDS") {
                options.fields_at = position + 2;
                return check_pairs(arguments, position).map(|()| options);
            } else if is_option(option, "FXX") || is_option(option, "FNX") {
                if options.if_present.is_some() {
                    return Err(CommandError::text(
                        "ERR Only one of FXX or FNX arguments can be specified",
                    ));
                }
                options.if_present = Some(is_option(option, "FXX"));
            } else if is_option(option, "KEEPTTL") || TimeUnit::of_option(option).is_some() {
                if options.keep_deadline || options.deadline_ms.is_some() {
                    return Err(CommandError::text(
                        "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
                    ));
                }
                match TimeUnit::of_option(option) {
                    None => options.keep_deadline = true,
                    Some(_) if position + 1 == arguments.len() => {
                        return Err(CommandError::text("ERR missing expire time"));
                    }
                    Some(unit) => {
                        position += 1;
                        options.deadline_ms = Some(field_deadline_ms(unit, arguments.get(position), now_ms, "hsetex")?);
                    }
                }
            } else {
                let option = CommandError::quoted(option);
                return Err(CommandError::text(format!("ERR unknown argument: {option}")));
            }
            position += 1;
        }
        // Redis has no answer for a command without FIELDS: it stops.
        Err(CommandError::Arity("hsetex".to_owned()))
    }
}

/// Whether HSETEX's `FIELDS numfields` at `position` is followed by as many fields with values.
fn check_pairs(arguments: Arguments<'_>, position: usize) -> Outcome {
    let wrong_arity = || CommandError::Arity("hsetex".to_owned());
    if position + 3 >= arguments.len() {
        return Err(wrong_arity());
    }
    let count = parse_integer(arguments.get(position + 1)).filter(|count| (1..=i64::from(i32::MAX)).contains(count));
    let count = count.ok_or(CommandError::text("ERR invalid number of fields"))?;
    match arguments.len() - position - 2 == count as usize * 2 {
        true => Ok(()),
        false => Err(wrong_arity()),
    }
}

/// HSETEX key [FNX | FXX] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL] FIELDS numfields field value [field value …]
pub fn hsetex(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let options = SetOptions::parse(arguments, context.now_ms)?;
    let mut hash = Hash::open_or_new(context, arguments.get(1))?;
    let pairs = || (options.fields_at..arguments.len()).step_by(2);
    if let Some(must_be_present) = options.if_present {
        for pair in pairs() {
            if hash.find(context, arguments.get(pair))?.is_some() != must_be_present {
                context.reply.integer(0);
                return hash.save_after(context, &[]);
            }
        }
    }
    for pair in pairs() {
        let (field, value) = (arguments.get(pair), arguments.get(pair + 1));
        let old = hash.find(context, field)?;
        match options.deadline_ms {
            Some(deadline_ms) if deadline_ms <= context.now_ms => {
                if let Some(header) = old {
                    hash.remove(context, field, header)?;
                }
            }
            Some(deadline_ms) => {
                hash.put(context, field, value, deadline_ms)?;
            }
            None => {
                let kept = old.filter(|_| options.keep_deadline);
                hash.put(context, field, value, kept.map_or(0, |header| header.deadline_ms))?;
            }
        }
    }
    hash.save_after(
        context,
        match options.deadline_ms {
            // Redis sets them, and then finds that they have expired.
            Some(deadline_ms) if deadline_ms <= context.now_ms => &["hset", "hdel"],
            Some(_) => &["hset", "hexpire"],
            None => &["hset"],
        },
    )?;
    context.reply.integer(1);
    Ok(())
}
