//! Bitmaps: strings as rows of bits. Bit 0 is the highest bit of the first byte.

use super::Context;
use super::arguments::{integer, is_option};
use super::steps::{Steps, members_per_step};
use super::string_part::{LongString, StringEdit};
use crate::config::EventClass;
use crate::error::CommandError;
use crate::number::parse_integer;
use crate::protocol::Arguments;
use crate::storage::encoding::{Record, STRING_CHUNK_LEN};
use std::cell::Cell;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

type Outcome = Result<(), CommandError>;

/// SETBIT key offset value
pub fn setbit(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let offset = bit_offset(arguments.get(2), None, context.string_bytes_max)?;
    let set = match parse_integer(arguments.get(3)) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(CommandError::text("ERR bit is not an integer or out of range")),
    };
    let (byte, mask) = ((offset / 8) as usize, 0x80_u8 >> (offset % 8));
    let mut string = context.edit_string(arguments.get(1))?;
    let grows = string.byte_len() <= byte;
    let old = string.set_bits(context, byte, (mask, if set { mask } else { 0 }))?;
    let was_set = old & mask != 0;
    let is_changed = was_set != set || grows;
    save_bits(context, string, is_changed)?;
    context.reply.integer(i64::from(was_set));
    Ok(())
}

/// Saves what SETBIT or BITFIELD has done. The string is one that was edited even if nothing has changed in it, which
/// is told to nobody.
fn save_bits(context: &mut Context<'_>, string: StringEdit, is_changed: bool) -> Outcome {
    let was_quiet = context.view.set_quiet(!is_changed);
    let saved = string.save(context, true);
    context.view.set_quiet(was_quiet);
    saved?;
    if is_changed {
        context.notify(EventClass::String, "setbit", context.arguments.get(1));
    }
    Ok(())
}

/// GETBIT key offset
pub fn getbit(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let offset = bit_offset(arguments.get(2), None, context.string_bytes_max)?;
    let byte = (offset / 8) as usize;
    let mut value = 0;
    let part = |len: usize| byte.min(len)..byte.saturating_add(1).min(len);
    context.visit_string(arguments.get(1), part, |bytes| {
        value = bytes[0];
        ControlFlow::Break(())
    })?;
    context.reply.integer(i64::from(value & (0x80 >> (offset % 8)) != 0));
    Ok(())
}

/// A position among a string's bits; `#n` stands for the n-th field of `bits_per_field` bits, where there are fields.
fn bit_offset(argument: &[u8], bits_per_field: Option<u32>, string_bytes_max: usize) -> Result<u64, CommandError> {
    let offset = match (argument, bits_per_field) {
        // Redis multiplies without a check; what overflows is negative or out of range but for rare numbers.
        ([b'#', index @ ..], Some(bits)) => parse_integer(index).map(|index| index.wrapping_mul(i64::from(bits))),
        _ => parse_integer(argument),
    };
    offset
        .and_then(|offset| u64::try_from(offset).ok())
        .filter(|offset| offset / 8 < string_bytes_max as u64)
        .ok_or_else(|| CommandError::text("ERR bit offset is not an integer or out of range"))
}

/// A range as BITCOUNT and BITPOS take it: from the first to the last, negative ones counting from the end.
#[derive(Clone, Copy)]
struct BitRange {
    first: i64,
    last: i64,
    in_bits: bool,
}

impl BitRange {
    const ALL: BitRange = BitRange {
        first: 0,
        last: -1,
        in_bits: false,
    };

    fn unit(argument: &[u8]) -> Result<bool, CommandError> {
        match argument {
            _ if is_option(argument, "BIT") => Ok(true),
            _ if is_option(argument, "BYTE") => Ok(false),
            _ => Err(CommandError::Syntax),
        }
    }

    /// The bits that are meant of a string of `len` bytes.
    fn of(self, len: usize) -> Range<u64> {
        let scale = if self.in_bits { 1 } else { 8 };
        let total = len as i64 * 8 / scale;
        let from_start = |index: i64| if index < 0 { (index + total).max(0) } else { index };
        let (first, last) = (from_start(self.first), from_start(self.last).min(total - 1));
        match first <= last {
            true => (first * scale) as u64..((last + 1) * scale) as u64,
            false => 0..0,
        }
    }
}

/// Calls `visit` with some bits of the string under `key` until it breaks: the number of the first byte, the bytes, and
/// which of their bits count; those that do not count in full come alone. Returns whether there is such a key.
fn visit_bits(
    context: &mut Context<'_>,
    key: &[u8],
    range: impl FnOnce(usize) -> Range<u64>,
    mut visit: impl FnMut(u64, &[u8], u8) -> ControlFlow<()>,
) -> Result<bool, CommandError> {
    let chosen = Cell::new((0, 0));
    let part = |len: usize| {
        let bits = range(len);
        chosen.set((bits.start, bits.end));
        bytes_of(&bits)
    };
    let mut done = 0;
    let len = context.visit_string(key, part, |bytes| {
        let (start, end) = chosen.get();
        visit_piece(start..end, &mut done, bytes, &mut visit)
    })?;
    Ok(len.is_some())
}

/// The bytes in which bits lie.
fn bytes_of(bits: &Range<u64>) -> Range<usize> {
    (bits.start / 8) as usize..bits.end.div_ceil(8) as usize
}

/// Calls `visit`, as [`visit_bits`] does, with the next piece of the bytes in which bits lie; `done` of them were
/// before.
fn visit_piece(
    Range { start, end }: Range<u64>,
    done: &mut u64,
    mut bytes: &[u8],
    visit: &mut impl FnMut(u64, &[u8], u8) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let (first, last) = (start / 8, (end - 1) / 8);
    let (first_mask, last_mask) = (0xff >> (start % 8), 0xff << (7 - (end - 1) % 8));
    let mut at = first + *done;
    *done += bytes.len() as u64;
    if at == first && first_mask != 0xff {
        let mask = if first == last {
            first_mask & last_mask
        } else {
            first_mask
        };
        visit(at, &bytes[..1], mask)?;
        (at, bytes) = (at + 1, &bytes[1..]);
    }
    let ends = !bytes.is_empty() && last_mask != 0xff && at + bytes.len() as u64 == last + 1;
    let (whole, cut) = bytes.split_at(bytes.len() - usize::from(ends));
    if !whole.is_empty() {
        visit(at, whole, 0xff)?;
    }
    match ends {
        true => visit(last, cut, last_mask),
        false => ControlFlow::Continue(()),
    }
}

/// Calls `visit` with some bits of a string, as [`visit_bits`] does, in steps, and with a state that is returned.
async fn visit_in_steps<S: Send + 'static>(
    steps: &Steps,
    string: LongString,
    bits: Range<u64>,
    mut state: S,
    visit: fn(&mut S, u64, &[u8], u8) -> ControlFlow<()>,
) -> Result<S, CommandError> {
    let (string, mut at) = (Arc::new(string), bits.start);
    while at < bits.end {
        let end = bits.end.min((at / 8 + bytes_per_step()) * 8);
        let (string, part) = (Arc::clone(&string), at..end);
        let step = steps.run(move |context| {
            let (mut done, mut flow) = (0, ControlFlow::Continue(()));
            context.visit_part(&string, bytes_of(&part), |bytes| {
                flow = visit_piece(part.clone(), &mut done, bytes, &mut |at, bytes, mask| {
                    visit(&mut state, at, bytes, mask)
                });
                flow
            })?;
            Ok((state, flow.is_break()))
        });
        let (next, is_over) = step.await?;
        (state, at) = (next, if is_over { bits.end } else { end });
    }
    Ok(state)
}

/// Bytes of a string that one step reads.
fn bytes_per_step() -> u64 {
    (members_per_step() * STRING_CHUNK_LEN) as u64
}

/// BITCOUNT key [start end [BYTE | BIT]]
pub fn bitcount(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let range = match arguments.len() {
        2 => BitRange::ALL,
        4 | 5 => BitRange {
            first: integer(arguments.get(2))?,
            last: integer(arguments.get(3))?,
            in_bits: arguments.len() == 5 && BitRange::unit(arguments.get(4))?,
        },
        _ => return Err(CommandError::Syntax),
    };
    // Without this, two positions before the string's start would both be the start.
    let reversed = range.first < 0 && range.last < 0 && range.first > range.last;
    let bits_of = |len| if reversed { 0..0 } else { range.of(len) };
    if let Some(string) = context.long_string(arguments.get(1))? {
        let bits = bits_of(string.byte_len());
        return context.in_steps((string.chunks(), Vec::new()), |steps| async move {
            let count = visit_in_steps(&steps, string, bits, 0, count_bits).await?;
            steps.run(move |context| reply_number(context, count as i64)).await
        });
    }
    let mut count = 0;
    visit_bits(context, arguments.get(1), bits_of, |at, bytes, mask| {
        count_bits(&mut count, at, bytes, mask)
    })?;
    reply_number(context, count as i64)
}

fn count_bits(count: &mut u64, _: u64, bytes: &[u8], mask: u8) -> ControlFlow<()> {
    *count += match mask {
        0xff => ones(bytes),
        mask => u64::from((bytes[0] & mask).count_ones()),
    };
    ControlFlow::Continue(())
}

fn reply_number(context: &mut Context<'_>, number: i64) -> Outcome {
    context.reply.integer(number);
    Ok(())
}

/// How many bits are set, eight bytes at a time.
fn ones(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let of_words: u64 = words
        .iter()
        .map(|word| u64::from(u64::from_ne_bytes(*word).count_ones()))
        .sum();
    of_words + rest.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()
}

/// BITPOS key bit [start [end [BYTE | BIT]]]
pub fn bitpos(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let set = match integer(arguments.get(2))? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::text("ERR The bit argument must be 1 or 0.")),
    };
    let mut range = BitRange::ALL;
    match arguments.len() {
        3 => {}
        4..=6 => {
            range.first = integer(arguments.get(3))?;
            range.in_bits = arguments.len() == 6 && BitRange::unit(arguments.get(5))?;
            if arguments.len() > 4 {
                range.last = integer(arguments.get(4))?;
            }
        }
        _ => return Err(CommandError::Syntax),
    }
    let ends_with_string = arguments.len() < 5;
    let answer = move |exists: bool, found: Option<u64>, end: u64| match found {
        _ if !exists => -i64::from(set),
        Some(bit) => bit as i64,
        // Behind the string's end all is zeros, unless an end was asked for.
        None if !set && ends_with_string && end > 0 => end as i64,
        None => -1,
    };
    let seek = if set { seek_bit::<0> } else { seek_bit::<0xff> };
    if let Some(string) = context.long_string(arguments.get(1))? {
        let bits = range.of(string.byte_len());
        return context.in_steps((string.chunks(), Vec::new()), |steps| async move {
            let end = bits.end;
            let found = visit_in_steps(&steps, string, bits, None, seek).await?;
            steps
                .run(move |context| reply_number(context, answer(true, found, end)))
                .await
        });
    }
    let (mut found, mut end) = (None, 0);
    let bits_of = |len| {
        let bits = range.of(len);
        end = bits.end;
        bits
    };
    let exists = visit_bits(context, arguments.get(1), bits_of, |at, bytes, mask| {
        seek(&mut found, at, bytes, mask)
    })?;
    reply_number(context, answer(exists, found, end))
}

/// Looks for the first bit that is one when it is flipped by `FLIP`.
fn seek_bit<const FLIP: u8>(found: &mut Option<u64>, at: u64, bytes: &[u8], mask: u8) -> ControlFlow<()> {
    let wanted = |byte: u8| (byte ^ FLIP) & mask;
    let index = match mask {
        0xff => first_other(bytes, FLIP),
        _ => (wanted(bytes[0]) != 0).then_some(0),
    };
    let Some(index) = index else {
        return ControlFlow::Continue(());
    };
    *found = Some((at + index as u64) * 8 + u64::from(wanted(bytes[index]).leading_zeros()));
    ControlFlow::Break(())
}

/// The index of the first byte that is not `byte`.
fn first_other(bytes: &[u8], byte: u8) -> Option<usize> {
    /// Bytes that are compared at once.
    const STEP: usize = 64;
    let skipped = bytes
        .chunks_exact(STEP)
        .take_while(|step| **step == [byte; STEP])
        .count()
        * STEP;
    let index = bytes[skipped..].iter().position(|other| *other != byte)?;
    Some(skipped + index)
}

/// What BITOP does with its sources.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BitOperation {
    And,
    Or,
    Xor,
    Not,
    /// Bits of the first source that no other has.
    Diff,
    /// Bits of the other sources that the first has not.
    Diff1,
    /// Bits of the first source that any other has.
    AndOr,
    /// Bits that exactly one source has.
    One,
}

impl BitOperation {
    const NAMES: [(&'static str, BitOperation); 8] = [
        ("AND", BitOperation::And),
        ("OR", BitOperation::Or),
        ("XOR", BitOperation::Xor),
        ("NOT", BitOperation::Not),
        ("DIFF", BitOperation::Diff),
        ("DIFF1", BitOperation::Diff1),
        ("ANDOR", BitOperation::AndOr),
        ("ONE", BitOperation::One),
    ];

    fn parse(argument: &[u8], sources: usize) -> Result<BitOperation, CommandError> {
        let (name, operation) = *BitOperation::NAMES
            .iter()
            .find(|(name, _)| is_option(argument, name))
            .ok_or(CommandError::Syntax)?;
        match operation {
            BitOperation::Not if sources != 1 => Err(CommandError::text(
                "ERR BITOP NOT must be called with a single source key.",
            )),
            BitOperation::Diff | BitOperation::Diff1 | BitOperation::AndOr if sources < 2 => Err(CommandError::text(
                format!("ERR BITOP {name} must be called with at least two source keys."),
            )),
            _ => Ok(operation),
        }
    }

    /// Takes one more source into the result. `rest` is what the operation keeps beside: all sources that were taken,
    /// but for the first where that has a part of its own. Both are as long as the longest source; `source` may be
    /// shorter.
    fn take(self, result: &mut [u8], rest: &mut [u8], source: &[u8], is_first: bool) {
        let (shared, behind) = result.split_at_mut(source.len());
        let pairs = shared.iter_mut().zip(source);
        match self {
            _ if is_first && self != BitOperation::One => shared.copy_from_slice(source),
            BitOperation::And => {
                pairs.for_each(|(byte, other)| *byte &= other);
                behind.fill(0);
            }
            BitOperation::Or => pairs.for_each(|(byte, other)| *byte |= other),
            BitOperation::Xor => pairs.for_each(|(byte, other)| *byte ^= other),
            BitOperation::One => {
                for ((byte, other), seen) in pairs.zip(rest) {
                    *byte = (*byte & !other) | (other & !*seen);
                    *seen |= other;
                }
            }
            BitOperation::Not | BitOperation::Diff | BitOperation::Diff1 | BitOperation::AndOr => {
                rest.iter_mut().zip(source).for_each(|(byte, other)| *byte |= other);
            }
        }
    }

    /// What is done when all sources were taken.
    fn finish(self, result: &mut [u8], rest: &[u8]) {
        let pairs = result.iter_mut().zip(rest);
        match self {
            BitOperation::Not => result.iter_mut().for_each(|byte| *byte = !*byte),
            BitOperation::Diff => pairs.for_each(|(byte, other)| *byte &= !other),
            BitOperation::Diff1 => pairs.for_each(|(byte, other)| *byte = !*byte & other),
            BitOperation::AndOr => pairs.for_each(|(byte, other)| *byte &= other),
            BitOperation::And | BitOperation::Or | BitOperation::Xor | BitOperation::One => {}
        }
    }
}

/// BITOP <AND | OR | XOR | NOT | DIFF | DIFF1 | ANDOR | ONE> destkey key [key …]
pub fn bitop(context: &mut Context<'_>) -> Outcome {
    let arguments = context.arguments;
    let sources = arguments.iter().skip(3);
    let operation = BitOperation::parse(arguments.get(1), sources.len())?;
    let mut len_max = 0;
    for key in sources.clone() {
        let len = context.reading(|context| context.string_len(key))?;
        len_max = len_max.max(len.unwrap_or(0));
    }
    let (mut result, mut rest) = (vec![0; len_max], vec![0; len_max]);
    for (index, key) in sources.enumerate() {
        let source = context.read_string(key)?.map_or(&[][..], |record| record.payload);
        operation.take(&mut result, &mut rest, source, index == 0);
    }
    operation.finish(&mut result, &rest);
    let target = arguments.get(2);
    if result.is_empty() {
        context.delete_target(target)?;
    } else {
        context.write(
            target,
            &Record {
                edited: true,
                ..Record::string(&result, 0)
            },
        )?;
        context.notify(EventClass::String, "set", target);
    }
    context.reply.integer(len_max as i64);
    Ok(())
}

/// A field of a bitmap: an integer of up to 64 bits anywhere in it, its highest bit first.
#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    bits: u32,
    /// The first bit.
    offset: u64,
}

/// Bytes that a field can lie in: 64 bits that begin with the last bit of a byte.
const FIELD_BYTES_MAX: usize = 9;

/// What becomes of a number that a field is too small for.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64),
    Increment(i64),
}

impl Field {
    fn parse(kind: &[u8], offset: &[u8], string_bytes_max: usize) -> Result<Field, CommandError> {
        let (signed, bits_max, digits) = match kind {
            [b'i', digits @ ..] => (true, 64, digits),
            [b'u', digits @ ..] => (false, 63, digits),
            _ => (false, 0, &[][..]),
        };
        // Redis reads up to a zero byte.
        let digits = digits.split(|byte| *byte == 0).next().unwrap_or_default();
        let bits = parse_integer(digits).filter(|bits| (1..=bits_max).contains(bits));
        let bits = bits.ok_or_else(|| {
            CommandError::text(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            )
        })? as u32;
        Ok(Field {
            signed,
            bits,
            offset: bit_offset(offset, Some(bits), string_bytes_max)?,
        })
    }

    fn first_byte(self) -> usize {
        (self.offset / 8) as usize
    }

    /// How many bytes the field lies in.
    fn bytes(self) -> usize {
        (self.offset % 8 + u64::from(self.bits)).div_ceil(8) as usize
    }

    /// Bits behind the field in a window of [`FIELD_BYTES_MAX`] bytes that begins with the field's first byte.
    fn bits_behind(self) -> u32 {
        FIELD_BYTES_MAX as u32 * 8 - (self.offset % 8) as u32 - self.bits
    }

    fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// The number that the field holds, from a window.
    fn get(self, window: &[u8; FIELD_BYTES_MAX]) -> i128 {
        self.number((window_bits(window) >> self.bits_behind()) as u64)
    }

    /// Puts a number into a window.
    fn put(self, window: &mut [u8; FIELD_BYTES_MAX], number: i128) {
        let mask = u128::from(self.mask()) << self.bits_behind();
        let field = u128::from(number as u64 & self.mask()) << self.bits_behind();
        let bits = (window_bits(window) & !mask | field).to_be_bytes();
        window.copy_from_slice(&bits[bits.len() - FIELD_BYTES_MAX..]);
    }

    /// The number that the lowest bits of `bits` stand for.
    fn number(self, bits: u64) -> i128 {
        let bits = bits & self.mask();
        match self.signed {
            true => i128::from((bits << (64 - self.bits)) as i64 >> (64 - self.bits)),
            false => i128::from(bits),
        }
    }

    /// What the field holds after `number` was put into it; `None` if that fails.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i128> {
        let max = i128::from(self.mask() >> u32::from(self.signed));
        let min = if self.signed { -max - 1 } else { 0 };
        match overflow {
            _ if (min..=max).contains(&number) => Some(number),
            Overflow::Wrap => Some(self.number(number as u64)),
            Overflow::Saturate => Some(number.clamp(min, max)),
            Overflow::Fail => None,
        }
    }
}

/// The bytes of a window as one number.
fn window_bits(window: &[u8; FIELD_BYTES_MAX]) -> u128 {
    window.iter().fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}

/// What BITFIELD was asked for, in order.
fn field_actions(
    arguments: Arguments<'_>,
    string_bytes_max: usize,
) -> Result<Vec<(Field, Action, Overflow)>, CommandError> {
    let mut actions = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut at = 2;
    while at < arguments.len() {
        let (name, left) = (arguments.get(at), arguments.len() - at - 1);
        if is_option(name, "OVERFLOW") && left >= 1 {
            overflow = match arguments.get(at + 1) {
                kind if is_option(kind, "WRAP") => Overflow::Wrap,
                kind if is_option(kind, "SAT") => Overflow::Saturate,
                kind if is_option(kind, "FAIL") => Overflow::Fail,
                _ => return Err(CommandError::text("ERR Invalid OVERFLOW type specified")),
            };
            at += 2;
            continue;
        }
        let amount: Option<fn(i64) -> Action> = match name {
            _ if is_option(name, "GET") && left >= 2 => None,
            _ if is_option(name, "SET") && left >= 3 => Some(Action::Set),
            _ if is_option(name, "INCRBY") && left >= 3 => Some(Action::Increment),
            _ => return Err(CommandError::Syntax),
        };
        let field = Field::parse(arguments.get(at + 1), arguments.get(at + 2), string_bytes_max)?;
        let action = match amount {
            Some(action) => action(integer(arguments.get(at + 3))?),
            None => Action::Get,
        };
        actions.push((field, action, overflow));
        at += if amount.is_some() { 4 } else { 3 };
    }
    Ok(actions)
}

/// BITFIELD key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] SET type offset value | INCRBY type offset increment …]
pub fn bitfield(context: &mut Context<'_>) -> Outcome {
    let actions = field_actions(context.arguments, context.string_bytes_max)?;
    let written = actions.iter().filter(|(_, action, _)| !matches!(action, Action::Get));
    let Some(len_min) = written.map(|(field, ..)| field.first_byte() + field.bytes()).max() else {
        return context.reading(|context| get_fields(context, &actions));
    };
    let mut string = context.edit_string(context.arguments.get(1))?;
    // As in Redis the string grows even if all that would be written fails.
    let grows = string.byte_len() < len_min;
    string.grow(context, len_min)?;
    context.reply.array(actions.len());
    let mut is_changed = false;
    for (field, action, overflow) in actions {
        match act_on_field(context, &mut string, field, (action, overflow))? {
            Some((answer, changes)) => {
                is_changed |= changes || grows && !matches!(action, Action::Get);
                context.reply.integer(answer as i64);
            }
            None => context.reply.null(),
        }
    }
    save_bits(context, string, is_changed)
}

/// Does one thing to a field; returns the answer and whether the field has changed, `None` if an overflow made it fail.
fn act_on_field(
    context: &mut Context<'_>,
    string: &mut StringEdit,
    field: Field,
    (action, overflow): (Action, Overflow),
) -> Result<Option<(i128, bool)>, CommandError> {
    let mut window = [0; FIELD_BYTES_MAX];
    string.read(context, field.first_byte(), &mut window)?;
    let old = field.get(&window);
    let wanted = match action {
        Action::Get => return Ok(Some((old, false))),
        Action::Increment(by) => old + i128::from(by),
        Action::Set(value) if field.signed && field.bits < 64 && matches!(overflow, Overflow::Saturate) => {
            // Redis's check overflows for numbers far below the field's smallest: they saturate to the largest.
            let room = (field.mask() as i64 >> 1).checked_sub(value);
            i128::from(if room.is_some() { value } else { i64::MAX })
        }
        Action::Set(value) if field.signed => i128::from(value),
        // A negative number is a large one to an unsigned field, as in Redis.
        Action::Set(value) => i128::from(value as u64),
    };
    let Some(new) = field.fit(wanted, overflow) else {
        return Ok(None);
    };
    if new != old {
        field.put(&mut window, new);
        string.write(context, field.first_byte(), &window[..field.bytes()])?;
    }
    let answer = if matches!(action, Action::Set(_)) { old } else { new };
    Ok(Some((answer, new != old)))
}

/// BITFIELD_RO key [GET type offset [GET type offset …]]
pub fn bitfield_ro(context: &mut Context<'_>) -> Outcome {
    let actions = field_actions(context.arguments, context.string_bytes_max)?;
    if actions.iter().any(|(_, action, _)| !matches!(action, Action::Get)) {
        return Err(CommandError::text("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    get_fields(context, &actions)
}

/// BITFIELD_RO, and BITFIELD where nothing is written.
fn get_fields(context: &mut Context<'_>, actions: &[(Field, Action, Overflow)]) -> Outcome {
    let key = context.arguments.get(1);
    // The type is checked even if no field is asked for.
    if context.string_len(key)?.is_none() {
        context.reply.array(actions.len());
        actions.iter().for_each(|_| context.reply.integer(0));
        return Ok(());
    }
    context.reply.array(actions.len());
    for (field, ..) in actions {
        let mut window = [0; FIELD_BYTES_MAX];
        let first = field.first_byte();
        let mut filled = 0;
        context.visit_string(
            key,
            |len| first.min(len)..(first + FIELD_BYTES_MAX).min(len),
            |bytes| {
                window[filled..filled + bytes.len()].copy_from_slice(bytes);
                filled += bytes.len();
                ControlFlow::Continue(())
            },
        )?;
        context.reply.integer(field.get(&window) as i64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_keeps_its_number_and_leaves_its_neighbours() {
        for bits in 1..=64 {
            for offset in 0..8 {
                for signed in [false, true] {
                    if bits == 64 && !signed {
                        continue;
                    }
                    let field = Field { signed, bits, offset };
                    for number in [0, 1, u64::MAX, 1 << 63, 0x5a5a_1234_5678_9abc] {
                        let number = field.number(number);
                        for filler in [0, 0xff, 0xa5] {
                            let mut window = [filler; FIELD_BYTES_MAX];
                            field.put(&mut window, number);
                            assert_eq!(field.get(&window), number);
                            let outside = !(u128::from(field.mask()) << field.bits_behind());
                            let differ = window_bits(&window) ^ window_bits(&[filler; FIELD_BYTES_MAX]);
                            assert_eq!(differ & outside & (u128::MAX >> 56), 0, "{bits} bits at {offset}");
                        }
                    }
                }
            }
        }
    }
}
