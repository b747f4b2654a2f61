//! `struct`: numbers and strings packed into bytes as C structures, by a format string.
//!
//! ```text
//! <  >      the bytes' order                x         a byte of padding
//! ![n]      alignment (8)                   s         a string, ended by a zero byte
//! b  B      1 byte, signed, unsigned        c[n]      n (1) bytes of a string; c0: all of it, or as many as
//! h  H      2 bytes                                   the number before says
//! i[n] I[n] n (4) bytes                     f  d      a float, a double
//! l  L      8 bytes                         (blank)   ignored
//! ```

use super::{Answer, Call, Failure, Outcome, library, to_i64};
use mlua::{Lua, Table, Value};

/// Adds `struct` to the globals of `lua`.
///
/// # Errors
/// Where Lua's memory does not suffice.
pub fn open(lua: &Lua) -> mlua::Result<()> {
    let table = library(lua, &[("pack", pack), ("unpack", unpack), ("size", size)])?;
    lua.globals().raw_set("struct", table)
}

/// The alignment of `!` without a number: a double's.
const ALIGNMENT_DEFAULT: usize = 8;

/// Bytes of an integer at most.
const INTEGER_BYTES_MAX: usize = 32;

/// What a format has said so far.
struct Layout<'a> {
    rest: &'a [u8],
    big_endian: bool,
    alignment: usize,
}

/// A format's next option.
struct Field {
    option: u8,
    /// Its bytes; 0 where they depend on the value.
    size: usize,
}

impl<'a> Layout<'a> {
    /// A format; a zero byte ends it, as it ends a C string.
    fn new(format: &'a [u8]) -> Self {
        let end = format.iter().position(|byte| *byte == 0).unwrap_or(format.len());
        Layout {
            rest: &format[..end],
            big_endian: false,
            alignment: 1,
        }
    }

    /// The number at this place, if there is one.
    fn number(&mut self) -> Result<Option<usize>, Failure> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (text, rest) = self.rest.split_at(digits);
        self.rest = rest;
        if digits == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(text).unwrap_or_default();
        match text.parse::<i32>() {
            Ok(number) => Ok(Some(number as usize)),
            Err(_) => Err(Failure::error("integral size overflow")),
        }
    }

    fn field(&mut self) -> Result<Option<Field>, Failure> {
        let Some((&option, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        let size = match option {
            b'b' | b'B' | b'x' => 1,
            b'h' | b'H' => 2,
            b'l' | b'L' | b'd' => 8,
            b'f' => 4,
            b'c' => self.number()?.unwrap_or(1),
            b'i' | b'I' => self.number()?.unwrap_or(4),
            _ => 0,
        };
        if matches!(option, b'i' | b'I') && size > INTEGER_BYTES_MAX {
            let text = format!("integral size {size} is larger than limit of {INTEGER_BYTES_MAX}");
            return Err(Failure::error(text));
        }
        Ok(Some(Field { option, size }))
    }

    /// Bytes to skip so that a field after `offset` is aligned.
    fn padding(&self, offset: usize, field: &Field) -> usize {
        if field.size == 0 || field.option == b'c' {
            return 0;
        }
        let mask = field.size.min(self.alignment) - 1;
        // Sizes that are no powers of two are aligned as this says, in Redis too.
        (mask + 1).wrapping_sub(offset & mask) & mask
    }

    /// Takes an option that is no field.
    fn control(&mut self, option: u8) -> Result<(), Failure> {
        match option {
            b' ' => {}
            b'>' => self.big_endian = true,
            b'<' => self.big_endian = false,
            b'!' => {
                let alignment = self.number()?.unwrap_or(ALIGNMENT_DEFAULT);
                if !alignment.is_power_of_two() {
                    return Err(Failure::error(format!("alignment {alignment} is not a power of 2")));
                }
                self.alignment = alignment;
            }
            _ => {
                let mut text = b"invalid format option '".to_vec();
                text.extend([option, b'\'']);
                return Err(Failure::argument(1, text));
            }
        }
        Ok(())
    }
}

/// A number's integer as C on x86-64 converts it: modulo 2^64 where it fits, else 2^63 or 0.
fn to_u64(number: f64) -> u64 {
    match number {
        number if number.is_nan() || number < -(i64::MIN as f64) => to_i64(number) as u64,
        number if number >= u64::MAX as f64 => 0,
        number => number as u64,
    }
}

fn put_integer(out: &mut Vec<u8>, value: u64, size: usize, big_endian: bool) {
    let start = out.len();
    let bytes = value.to_le_bytes();
    out.extend((0..size).map(|place| bytes.get(place).copied().unwrap_or(0)));
    if big_endian {
        out[start..].reverse();
    }
}

fn get_integer(bytes: &[u8], signed: bool, big_endian: bool) -> f64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    let mut value = match big_endian {
        true => bytes.iter().fold(0, join),
        false => bytes.iter().rev().fold(0, join),
    };
    if !signed {
        return value as f64;
    }
    // Shifted modulo 64, as x86 does for sizes above 8 bytes.
    let sign = u64::MAX.wrapping_shl((bytes.len() as u32 * 8).wrapping_sub(1));
    if value & sign != 0 {
        value |= sign;
    }
    value as i64 as f64
}

fn put_bytes(out: &mut Vec<u8>, little_endian: &[u8], big_endian: bool) {
    let start = out.len();
    out.extend_from_slice(little_endian);
    if big_endian {
        out[start..].reverse();
    }
}

/// struct.pack(format, values…)
fn pack(lua: &Lua, call: &Call) -> Outcome {
    let format = call.string(lua, 1)?;
    let format = format.as_bytes();
    let mut layout = Layout::new(&format);
    let mut out = Vec::new();
    let mut position = 1;
    // A missing argument is nil here.
    let number = |position: usize| match position > call.count() {
        true => Err(Failure::argument(position, "number expected, got nil")),
        false => call.number(lua, position),
    };
    while let Some(field) = layout.field()? {
        out.resize(out.len() + layout.padding(out.len(), &field), 0);
        match field.option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'i' | b'I' => {
                position += 1;
                put_integer(&mut out, to_u64(number(position)?), field.size, layout.big_endian);
            }
            b'x' => out.push(0),
            b'f' => {
                position += 1;
                put_bytes(&mut out, &(number(position)? as f32).to_le_bytes(), layout.big_endian);
            }
            b'd' => {
                position += 1;
                put_bytes(&mut out, &number(position)?.to_le_bytes(), layout.big_endian);
            }
            b'c' | b's' => {
                position += 1;
                if position > call.count() {
                    return Err(Failure::argument(position, "string expected, got nil"));
                }
                let text = call.string(lua, position)?;
                let text = text.as_bytes();
                let size = if field.size == 0 { text.len() } else { field.size };
                // Redis names the argument after it.
                let short = || Failure::argument(position + 1, "string too short");
                out.extend_from_slice(text.get(..size).ok_or_else(short)?);
                if field.option == b's' {
                    out.push(0);
                }
            }
            option => layout.control(option)?,
        }
    }
    Ok(Answer::One(Value::String(lua.create_string(out)?)))
}

/// What an unpacking has read so far.
struct Results {
    table: Table,
    count: usize,
}

impl Results {
    fn push(&mut self, value: Value) -> mlua::Result<()> {
        self.count += 1;
        self.table.raw_set(self.count, value)
    }

    /// Takes the last result back, if it is a number, as the length of a string.
    fn pop_length(&mut self, lua: &Lua) -> Result<usize, Failure> {
        let last: Value = match self.count {
            0 => Value::Nil,
            count => self.table.raw_get(count)?,
        };
        let length = match last {
            Value::Integer(_) | Value::Number(_) | Value::String(_) => lua.coerce_number(last)?,
            _ => None,
        };
        let length = length.ok_or_else(|| Failure::error("format 'c0' needs a previous size"))?;
        self.count -= 1;
        Ok(to_u64(length) as usize)
    }
}

/// struct.unpack(format, data [, position]): the values, and the position after them.
fn unpack(lua: &Lua, call: &Call) -> Outcome {
    let too_short = || Failure::argument(2, "data string too short");
    let format = call.string(lua, 1)?;
    let format = format.as_bytes();
    let data = call.string(lua, 2)?;
    let data = data.as_bytes();
    let position = call.integer_or(lua, 3, 1)? as usize;
    let mut at = position
        .checked_sub(1)
        .ok_or_else(|| Failure::argument(3, "offset must be 1 or greater"))?;
    let mut layout = Layout::new(&format);
    let mut results = Results {
        table: lua.create_table()?,
        count: 0,
    };
    while let Some(field) = layout.field()? {
        at = at.wrapping_add(layout.padding(at, &field));
        let mut rest = data.get(at..).ok_or_else(too_short)?;
        let mut bytes = rest.get(..field.size).ok_or_else(too_short)?;
        match field.option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'i' | b'I' => {
                let signed = field.option.is_ascii_lowercase();
                results.push(Value::Number(get_integer(bytes, signed, layout.big_endian)))?;
            }
            b'x' => {}
            b'f' | b'd' => {
                let mut bytes = bytes.to_vec();
                if layout.big_endian {
                    bytes.reverse();
                }
                let float = |bytes| f64::from(f32::from_le_bytes(bytes));
                let number = match field.option {
                    b'f' => bytes.first_chunk().copied().map(float),
                    _ => bytes.first_chunk().copied().map(f64::from_le_bytes),
                };
                results.push(Value::Number(number.ok_or_else(too_short)?))?;
            }
            b'c' => {
                if field.size == 0 {
                    let length = results.pop_length(lua)?;
                    bytes = rest.get(..length).ok_or_else(too_short)?;
                }
                results.push(Value::String(lua.create_string(bytes)?))?;
            }
            b's' => {
                let end = memchr::memchr(0, rest).ok_or_else(|| Failure::error("unfinished string in data"))?;
                results.push(Value::String(lua.create_string(&rest[..end])?))?;
                bytes = &rest[..=end];
            }
            option => layout.control(option)?,
        }
        rest = &rest[bytes.len()..];
        at = data.len() - rest.len();
    }
    results.push(Value::Integer(at.wrapping_add(1) as i64))?;
    Ok(Answer::Elements(results.table, results.count, "too many results"))
}

/// struct.size(format)
fn size(lua: &Lua, call: &Call) -> Outcome {
    let format = call.string(lua, 1)?;
    let format = format.as_bytes();
    let mut layout = Layout::new(&format);
    let mut total: usize = 0;
    while let Some(field) = layout.field()? {
        total = total.wrapping_add(layout.padding(total, &field));
        match (field.option, field.size) {
            (b's', _) => return Err(Failure::argument(1, "option 's' has no fixed size")),
            (b'c', 0) => return Err(Failure::argument(1, "option 'c0' has no fixed size")),
            // Letters that are no options have no size.
            (option, _) if option.is_ascii_alphanumeric() => {}
            (option, _) => layout.control(option)?,
        }
        total = total.wrapping_add(field.size);
    }
    Ok(Answer::One(Value::Number(total as f64)))
}
