//! Strings: GET, SET and their relatives, counters, ranges, LCS.

use super::Context;
use super::arguments::{TimeUnit, integer, is_option};
use crate::config::EventClass;
use crate::error::CommandError;
use crate::number::{LongDouble, parse_integer};
use crate::protocol::Arguments;
use crate::storage::encoding::{Record, Type};
use std::ops::{ControlFlow, Range};

type Outcome = Result<(), CommandError>;

/// GET key
pub fn get(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let Context {
        view, reply, database, ..
    } = context;
    match view.read(*database, key)? {
        None => reply.null(),
        Some(record) => reply.bulk(string_payload(&record)?),
    }
    Ok(())
}

/// MGET key [key …]
pub fn mget(context: &mut Context<'_>) -> Outcome {
    let Context {
        view,
        reply,
        database,
        arguments,
        ..
    } = context;
    reply.array(arguments.len() - 1);
    for key in arguments.iter().skip(1) {
        match view.read(*database, key)? {
            Some(record) => match string_payload(&record) {
                Ok(payload) => reply.bulk(payload),
                Err(_) => reply.null(),
            },
            None => reply.null(),
        }
    }
    Ok(())
}

/// What SET was asked to do beside setting.
#[derive(Clone, Copy, Default)]
struct SetOptions {
    if_absent: bool,
    if_present: bool,
    get: bool,
    keep_deadline: bool,
    deadline_ms: u64,
}

/// SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]
pub fn set(context: &mut Context<'_>) -> Outcome {
    let options = if context.arguments.len() == 3 {
        SetOptions::default()
    } else {
        set_options(context)?
    };
    let (key, value) = (context.arguments.get(1), context.arguments.get(2));
    set_generic(context, key, value, options)
}

fn set_options(context: &Context<'_>) -> Result<SetOptions, CommandError> {
    let mut options = SetOptions::default();
    let mut time = None;
    let mut rest = context.arguments.iter().skip(3);
    while let Some(argument) = rest.next() {
        if is_option(argument, "NX") && !options.if_present {
            options.if_absent = true;
        } else if is_option(argument, "XX") && !options.if_absent {
            options.if_present = true;
        } else if is_option(argument, "GET") {
            options.get = true;
        } else if is_option(argument, "KEEPTTL") && time.is_none() {
            options.keep_deadline = true;
        } else if let Some(unit) = TimeUnit::of_option(argument)
            // The same option again replaces the amount, as in Redis; another one contradicts it.
            && time.is_none_or(|(earlier, _)| earlier == unit)
            && !options.keep_deadline
        {
            time = Some((unit, rest.next().ok_or(CommandError::Syntax)?));
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if let Some((unit, amount)) = time {
        options.deadline_ms = unit.future_deadline_ms(amount, context.now_ms, "set")?;
    }
    Ok(options)
}

/// SET, SETEX, PSETEX and GETSET.
fn set_generic(context: &mut Context<'_>, key: &[u8], value: &[u8], options: SetOptions) -> Outcome {
    let mut deadline_ms = options.deadline_ms;
    if options.if_absent || options.if_present || options.get || options.keep_deadline {
        let Context {
            view, reply, database, ..
        } = context;
        let found = view.read(*database, key)?;
        if options.get {
            match &found {
                Some(record) => reply.bulk(string_payload(record)?),
                None => reply.null(),
            }
        }
        let is_there = found.is_some();
        if options.keep_deadline {
            deadline_ms = found.map_or(0, |record| record.deadline_ms);
        }
        if options.get && !is_there {
            context.notify(EventClass::KeyMiss, "keymiss", key);
        }
        if (options.if_absent && is_there) || (options.if_present && !is_there) {
            if !options.get {
                context.reply.null();
            }
            return Ok(());
        }
    }
    let record = Record::string(value, deadline_ms);
    context.write(key, &record)?;
    context.notify(EventClass::String, "set", key);
    if options.deadline_ms != 0 {
        context.notify(EventClass::Generic, "expire", key);
    }
    if !record.is_alive(context.now_ms) {
        // EXAT in the past: it was set, and has expired at once.
        context.delete(key)?;
    }
    if !options.get {
        context.reply.ok();
    }
    Ok(())
}

/// SETNX key value
pub fn setnx(context: &mut Context<'_>) -> Outcome {
    let (key, value) = (context.arguments.get(1), context.arguments.get(2));
    let absent = context.read_header(key)?.is_none();
    if absent {
        context.write(key, &Record::string(value, 0))?;
        context.notify(EventClass::String, "set", key);
    }
    context.reply.integer(i64::from(absent));
    Ok(())
}

/// SETEX key seconds value
pub fn setex(context: &mut Context<'_>) -> Outcome {
    set_with_span(context, TimeUnit::SECONDS, "setex")
}

/// PSETEX key milliseconds value
pub fn psetex(context: &mut Context<'_>) -> Outcome {
    set_with_span(context, TimeUnit::MILLISECONDS, "psetex")
}

fn set_with_span(context: &mut Context<'_>, unit: TimeUnit, command: &'static str) -> Outcome {
    let deadline_ms = unit.future_deadline_ms(context.arguments.get(2), context.now_ms, command)?;
    let (key, value) = (context.arguments.get(1), context.arguments.get(3));
    set_generic(
        context,
        key,
        value,
        SetOptions {
            deadline_ms,
            ..SetOptions::default()
        },
    )
}

/// GETSET key value
pub fn getset(context: &mut Context<'_>) -> Outcome {
    let (key, value) = (context.arguments.get(1), context.arguments.get(2));
    set_generic(
        context,
        key,
        value,
        SetOptions {
            get: true,
            ..SetOptions::default()
        },
    )
}

/// GETDEL key
pub fn getdel(context: &mut Context<'_>) -> Outcome {
    context.reading(get)?;
    let touched = context.view.touched();
    let key = context.arguments.get(1);
    if context.read_header(key)?.is_some() {
        context.delete(key)?;
        context.notify(EventClass::Generic, "del", key);
    }
    context.view.uncount_look_ups(touched);
    Ok(())
}

/// GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]
pub fn getex(context: &mut Context<'_>) -> Outcome {
    let change = deadline_change(context.arguments)?;
    context.reading(get)?;
    let touched = context.view.touched();
    let outcome = change_deadline(context, change);
    context.view.uncount_look_ups(touched);
    outcome
}

/// The part of GETEX that does not get.
fn change_deadline(context: &mut Context<'_>, change: DeadlineChange<'_>) -> Outcome {
    let (key, now_ms) = (context.arguments.get(1), context.now_ms);
    // The key is looked at before the time, as in Redis: an absent key answers nil to any amount.
    let Some(record) = context.read_header(key)? else {
        return Ok(());
    };
    let (deadline_ms, event) = match change {
        DeadlineChange::None => return Ok(()),
        DeadlineChange::Persist if record.deadline_ms == 0 => return Ok(()),
        DeadlineChange::Persist => (0, "persist"),
        DeadlineChange::Expire(unit, amount) => (unit.future_deadline_ms(amount, now_ms, "getex")?, "expire"),
    };
    let changed = Record { deadline_ms, ..record };
    let stored = changed.is_alive(now_ms).then(|| changed.encode());
    let event = if stored.is_some() { event } else { "del" };
    context.view.write_stored(context.database, key, stored)?;
    context.notify(EventClass::Generic, event, key);
    Ok(())
}

/// What GETEX was asked to do beside getting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DeadlineChange<'a> {
    None,
    Persist,
    Expire(TimeUnit, &'a [u8]),
}

/// GETEX's options: the same one may be given again, and the last amount counts.
fn deadline_change(arguments: Arguments<'_>) -> Result<DeadlineChange<'_>, CommandError> {
    let mut change = DeadlineChange::None;
    let mut rest = arguments.iter().skip(2);
    while let Some(option) = rest.next() {
        change = match (TimeUnit::of_option(option), change) {
            (None, DeadlineChange::None | DeadlineChange::Persist) if is_option(option, "PERSIST") => {
                DeadlineChange::Persist
            }
            (Some(unit), DeadlineChange::None) => {
                DeadlineChange::Expire(unit, rest.next().ok_or(CommandError::Syntax)?)
            }
            (Some(unit), DeadlineChange::Expire(earlier, _)) if unit == earlier => {
                DeadlineChange::Expire(unit, rest.next().ok_or(CommandError::Syntax)?)
            }
            _ => return Err(CommandError::Syntax),
        };
    }
    Ok(change)
}

/// MSET key value [key value …]
pub fn mset(context: &mut Context<'_>) -> Outcome {
    check_pairs(context, "mset")?;
    write_pairs(context)?;
    context.reply.ok();
    Ok(())
}

/// MSETNX key value [key value …]
pub fn msetnx(context: &mut Context<'_>) -> Outcome {
    check_pairs(context, "msetnx")?;
    for key in context.arguments.iter().skip(1).step_by(2) {
        if context.read_header(key)?.is_some() {
            context.reply.integer(0);
            return Ok(());
        }
    }
    write_pairs(context)?;
    context.reply.integer(1);
    Ok(())
}

fn check_pairs(context: &Context<'_>, command: &str) -> Outcome {
    match context.arguments.len() % 2 {
        1 => Ok(()),
        _ => Err(CommandError::Arity(command.to_owned())),
    }
}

fn write_pairs(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    for pair in (1..arguments.len()).step_by(2) {
        let key = arguments.get(pair);
        context.write(key, &Record::string(arguments.get(pair + 1), 0))?;
        context.notify(EventClass::String, "set", key);
    }
    Ok(())
}

/// STRLEN key
pub fn strlen(context: &mut Context<'_>) -> Outcome {
    let len = context.string_len(context.arguments.get(1))?.unwrap_or(0);
    context.reply.integer(len as i64);
    Ok(())
}

/// APPEND key value
pub fn append(context: &mut Context<'_>) -> Outcome {
    let (key, tail) = (context.arguments.get(1), context.arguments.get(2));
    let mut string = context.edit_string(key)?;
    let existed = string.existed();
    let len = string.byte_len().saturating_add(tail.len());
    if existed {
        check_len(len, context.string_bytes_max)?;
    }
    string.write(context, len - tail.len(), tail)?;
    string.save(context, existed)?;
    context.notify(EventClass::String, "append", key);
    context.reply.integer(len as i64);
    Ok(())
}

fn check_len(len: usize, string_bytes_max: usize) -> Outcome {
    if len > string_bytes_max {
        Err(CommandError::StringTooLong)
    } else {
        Ok(())
    }
}

/// SETRANGE key offset value
pub fn setrange(context: &mut Context<'_>) -> Outcome {
    let (key, patch) = (context.arguments.get(1), context.arguments.get(3));
    let offset = integer(context.arguments.get(2))?;
    let offset = usize::try_from(offset).map_err(|_| CommandError::OffsetOutOfRange)?;
    if patch.is_empty() {
        let len = context.string_len(key)?.unwrap_or(0);
        context.reply.integer(len as i64);
        return Ok(());
    }
    let mut string = context.edit_string(key)?;
    check_len(offset.saturating_add(patch.len()), context.string_bytes_max)?;
    string.write(context, offset, patch)?;
    let len = string.byte_len();
    string.save(context, true)?;
    context.notify(EventClass::String, "setrange", key);
    context.reply.integer(len as i64);
    Ok(())
}

/// GETRANGE key start end, and SUBSTR
pub fn getrange(context: &mut Context<'_>) -> Outcome {
    let (start, end) = (integer(context.arguments.get(2))?, integer(context.arguments.get(3))?);
    let mut bytes = Vec::new();
    context.visit_string(
        context.arguments.get(1),
        |len| range_of(len, start, end),
        |piece| {
            bytes.extend_from_slice(piece);
            ControlFlow::Continue(())
        },
    )?;
    context.reply.bulk(&bytes);
    Ok(())
}

/// The bytes from `start` to `end` (inclusive) of `len`, negative ones counting from the end.
fn range_of(len: usize, start: i64, end: i64) -> Range<usize> {
    let len = len as i64;
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_end = |index: i64| if index < 0 { (len + index).max(0) } else { index };
    let (start, end) = (from_end(start.max(-len)), from_end(end.max(-len)).min(len - 1));
    if start > end || len == 0 {
        return 0..0;
    }
    start as usize..end as usize + 1
}

/// INCR key
pub fn incr(context: &mut Context<'_>) -> Outcome {
    incr_generic(context, 1)
}

/// DECR key
pub fn decr(context: &mut Context<'_>) -> Outcome {
    incr_generic(context, -1)
}

/// INCRBY key increment
pub fn incrby(context: &mut Context<'_>) -> Outcome {
    let increment = integer(context.arguments.get(2))?;
    incr_generic(context, increment)
}

/// DECRBY key decrement
pub fn decrby(context: &mut Context<'_>) -> Outcome {
    let decrement = integer(context.arguments.get(2))?;
    let increment = decrement.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    incr_generic(context, increment)
}

/// INCR, DECR, INCRBY and DECRBY.
fn incr_generic(context: &mut Context<'_>, increment: i64) -> Outcome {
    let key = context.arguments.get(1);
    let (value, deadline_ms) = match context.read_string(key)? {
        Some(record) => (
            parse_integer(record.payload).ok_or(CommandError::NotAnInteger)?,
            record.deadline_ms,
        ),
        None => (0, 0),
    };
    let sum = value.checked_add(increment).ok_or(CommandError::Overflow)?;
    let mut digits = itoa::Buffer::new();
    context.write(key, &Record::string(digits.format(sum).as_bytes(), deadline_ms))?;
    context.notify(EventClass::String, "incrby", key);
    context.reply.integer(sum);
    Ok(())
}

/// INCRBYFLOAT key increment
pub fn incrbyfloat(context: &mut Context<'_>) -> Outcome {
    let key = context.arguments.get(1);
    let (value, deadline_ms) = match context.read_string(key)? {
        Some(record) => (
            LongDouble::parse(record.payload).ok_or(CommandError::NotAFloat)?,
            record.deadline_ms,
        ),
        None => (LongDouble::parse(b"0").ok_or(CommandError::NotAFloat)?, 0),
    };
    let increment = LongDouble::parse(context.arguments.get(2)).ok_or(CommandError::NotAFloat)?;
    let sum = value + increment;
    if sum.is_nan_or_infinite() {
        return Err(CommandError::NotFinite);
    }
    let text = sum.format_human();
    context.write(key, &Record::string(text.as_bytes(), deadline_ms))?;
    context.notify(EventClass::String, "incrbyfloat", key);
    context.reply.text(&text);
    Ok(())
}

/// What LCS was asked to answer.
#[derive(Clone, Copy, Default)]
struct LcsOptions {
    len: bool,
    idx: bool,
    with_match_len: bool,
    match_len_min: i64,
}

/// Cells of LCS's table: Redis refuses above 2 GiB of 32-bit cells, and so do we.
const LCS_CELLS_MAX: usize = (2 << 30) / size_of::<u32>();

/// LCS key1 key2 [LEN] [IDX] [MINMATCHLEN n] [WITHMATCHLEN]
pub fn lcs(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let not_a_string = |error| match error {
        CommandError::WrongType => CommandError::text("ERR The specified keys must contain string values"),
        error => error,
    };
    let mut read = |key| match context.read_string(key) {
        Ok(record) => Ok(record.map_or(Vec::new(), |record| record.payload.to_vec())),
        Err(error) => Err(not_a_string(error)),
    };
    let (a, b) = (read(arguments.get(1))?, read(arguments.get(2))?);
    let mut options = LcsOptions::default();
    let mut rest = arguments.iter().skip(3);
    while let Some(argument) = rest.next() {
        match argument {
            _ if is_option(argument, "LEN") => options.len = true,
            _ if is_option(argument, "IDX") => options.idx = true,
            _ if is_option(argument, "WITHMATCHLEN") => options.with_match_len = true,
            _ if is_option(argument, "MINMATCHLEN") => {
                let amount = rest.next().ok_or(CommandError::Syntax)?;
                options.match_len_min = integer(amount)?.max(0);
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    if options.len && options.idx {
        return Err(CommandError::text(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    let cells = (a.len() + 1)
        .checked_mul(b.len() + 1)
        .filter(|cells| *cells <= LCS_CELLS_MAX);
    if cells.is_none() {
        return Err(CommandError::text("ERR String too long for LCS"));
    }
    let common = LongestCommon::of(&a, &b);
    let reply = &mut context.reply;
    match options {
        LcsOptions { len: true, .. } => reply.integer(i64::from(common.len)),
        LcsOptions { idx: true, .. } => {
            let matches: Vec<_> = common
                .runs
                .iter()
                .filter(|run| i64::from(run.len) >= options.match_len_min)
                .collect();
            reply.map(2);
            reply.text("matches");
            reply.array(matches.len());
            for run in matches {
                reply.array(if options.with_match_len { 3 } else { 2 });
                for start in [run.start_a, run.start_b] {
                    reply.array(2);
                    reply.integer(i64::from(start));
                    reply.integer(i64::from(start + run.len - 1));
                }
                if options.with_match_len {
                    reply.integer(i64::from(run.len));
                }
            }
            reply.text("len");
            reply.integer(i64::from(common.len));
        }
        _ => {
            let mut text = Vec::with_capacity(common.len as usize);
            for run in common.runs.iter().rev() {
                text.extend_from_slice(&a[run.start_a as usize..(run.start_a + run.len) as usize]);
            }
            reply.bulk(&text);
        }
    }
    Ok(())
}

/// A run of bytes that both strings have, by where it starts in each.
struct CommonRun {
    start_a: u32,
    start_b: u32,
    len: u32,
}

/// A longest common subsequence, as runs from the end to the start (the order in which Redis lists them).
struct LongestCommon {
    len: u32,
    runs: Vec<CommonRun>,
}

impl LongestCommon {
    /// The classic table of prefixes: time and space are the product of the lengths.
    fn of(a: &[u8], b: &[u8]) -> LongestCommon {
        let width = b.len() + 1;
        let mut table = vec![0_u32; (a.len() + 1) * width];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                table[i * width + j] = match a[i - 1] == b[j - 1] {
                    true => table[(i - 1) * width + j - 1] + 1,
                    false => table[(i - 1) * width + j].max(table[i * width + j - 1]),
                };
            }
        }
        let mut runs: Vec<CommonRun> = Vec::new();
        let (mut i, mut j) = (a.len(), b.len());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                (i, j) = (i - 1, j - 1);
                match runs.last_mut() {
                    Some(run) if run.start_a as usize == i + 1 && run.start_b as usize == j + 1 => {
                        (run.start_a, run.start_b, run.len) = (i as u32, j as u32, run.len + 1);
                    }
                    _ => runs.push(CommonRun {
                        start_a: i as u32,
                        start_b: j as u32,
                        len: 1,
                    }),
                }
            } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        LongestCommon {
            len: table[a.len() * width + b.len()],
            runs,
        }
    }
}

#[inline]
fn string_payload<'a>(record: &Record<'a>) -> Result<&'a [u8], CommandError> {
    match record.kind {
        Type::String => Ok(record.payload),
        _ => Err(CommandError::WrongType),
    }
}
