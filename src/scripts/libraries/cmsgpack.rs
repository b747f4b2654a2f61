//! `cmsgpack`: MessagePack as the library lua-cmsgpack 0.4.0 writes and reads it.
//!
//! A number without a fraction is an integer where 64 bits hold it, else a float where that is exact, else a double. A
//! table with the keys 1 to n is an array, any other a map. What MessagePack has no type for is nil, and so is a table
//! inside of sixteen others.

use super::{Answer, Call, Failure, NESTING_MAX, Next, Outcome, entries_if_few, function, library};
use mlua::{Lua, Table, Value};

/// Tables within tables that are written.
const PACK_NESTING_MAX: usize = 16;

/// Adds `cmsgpack` to the globals of `lua`.
///
/// # Errors
/// Where Lua's memory does not suffice.
pub fn open(lua: &Lua) -> mlua::Result<()> {
    let table = library(
        lua,
        &[
            ("unpack", |lua, call| unpack(lua, call, 0, 0)),
            ("unpack_one", |lua, call| {
                let offset = call.integer_or(lua, 2, 0)? as i32;
                unpack(lua, call, 1, offset)
            }),
            ("unpack_limit", |lua, call| {
                let limit = call.integer(lua, 2)? as i32;
                let offset = call.integer_or(lua, 3, 0)? as i32;
                unpack(lua, call, limit, offset)
            }),
        ],
    )?;
    let next = Next::of(lua)?;
    let too_many = "Too many arguments for MessagePack pack.";
    table.raw_set(
        "pack",
        function(lua, too_many, move |lua, call| pack(lua, &next, &call))?,
    )?;
    table.raw_set("_NAME", "cmsgpack")?;
    table.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    table.raw_set("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo")?;
    table.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    lua.globals().raw_set("cmsgpack", table)
}

/// The first bytes of what is longer than fits into one byte.
mod tag {
    pub(super) const NIL: u8 = 0xc0;
    pub(super) const FALSE: u8 = 0xc2;
    pub(super) const TRUE: u8 = 0xc3;
    pub(super) const FLOAT: u8 = 0xca;
    pub(super) const DOUBLE: u8 = 0xcb;
    pub(super) const UNSIGNED_8: u8 = 0xcc;
    pub(super) const UNSIGNED_16: u8 = 0xcd;
    pub(super) const UNSIGNED_32: u8 = 0xce;
    pub(super) const UNSIGNED_64: u8 = 0xcf;
    pub(super) const SIGNED_8: u8 = 0xd0;
    pub(super) const SIGNED_16: u8 = 0xd1;
    pub(super) const SIGNED_32: u8 = 0xd2;
    pub(super) const SIGNED_64: u8 = 0xd3;
    pub(super) const STRING_8: u8 = 0xd9;
    pub(super) const STRING_16: u8 = 0xda;
    pub(super) const STRING_32: u8 = 0xdb;
    pub(super) const ARRAY_16: u8 = 0xdc;
    pub(super) const ARRAY_32: u8 = 0xdd;
    pub(super) const MAP_16: u8 = 0xde;
    pub(super) const MAP_32: u8 = 0xdf;
}

// ---- Writing ----

/// cmsgpack.pack(values…): one after the other.
fn pack(lua: &Lua, next: &Next, call: &Call) -> Outcome {
    if call.count() == 0 {
        return Err(Failure::argument(0, "MessagePack pack needs input."));
    }
    let mut out = Vec::new();
    for position in 1..=call.count() {
        put(&mut out, next, call.get(position), 0)?;
    }
    Ok(Answer::One(Value::String(lua.create_string(out)?)))
}

fn put(out: &mut Vec<u8>, next: &Next, value: &Value, nesting: usize) -> mlua::Result<()> {
    match value {
        Value::Boolean(false) => out.push(tag::FALSE),
        Value::Boolean(true) => out.push(tag::TRUE),
        Value::Integer(integer) => put_number(out, *integer as f64),
        Value::Number(number) => put_number(out, *number),
        Value::String(text) => {
            let text = text.as_bytes();
            put_string_length(out, text.len())?;
            out.extend_from_slice(&text);
        }
        Value::Table(table) if nesting < PACK_NESTING_MAX => put_table(out, next, table, nesting + 1)?,
        _ => out.push(tag::NIL),
    }
    Ok(())
}

fn put_number(out: &mut Vec<u8>, number: f64) {
    /// 2^63, the first that no signed integer holds.
    const BEYOND: f64 = -(i64::MIN as f64);
    if number.trunc() == number && (-BEYOND..BEYOND).contains(&number) {
        put_integer(out, number as i64);
    } else if f64::from(number as f32) == number {
        out.push(tag::FLOAT);
        out.extend_from_slice(&(number as f32).to_be_bytes());
    } else {
        out.push(tag::DOUBLE);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn put_integer(out: &mut Vec<u8>, integer: i64) {
    let (tag, len) = match integer {
        -32..=127 => return out.push(integer as u8),
        128..=0xff => (tag::UNSIGNED_8, 1),
        0x100..=0xffff => (tag::UNSIGNED_16, 2),
        0x1_0000..=0xffff_ffff => (tag::UNSIGNED_32, 4),
        0x1_0000_0000.. => (tag::UNSIGNED_64, 8),
        -0x80..=-33 => (tag::SIGNED_8, 1),
        -0x8000..=-0x81 => (tag::SIGNED_16, 2),
        -0x8000_0000..=-0x8001 => (tag::SIGNED_32, 4),
        i64::MIN..=-0x8000_0001 => (tag::SIGNED_64, 8),
    };
    out.push(tag);
    out.extend_from_slice(&integer.to_be_bytes()[8 - len..]);
}

fn put_string_length(out: &mut Vec<u8>, len: usize) -> mlua::Result<()> {
    match len {
        ..32 => out.push(0xa0 | len as u8),
        32..=0xff => out.extend_from_slice(&[tag::STRING_8, len as u8]),
        _ => return put_length(out, len, tag::STRING_16, tag::STRING_32),
    }
    Ok(())
}

/// A length that takes more than one byte; lua-cmsgpack writes the lowest 32 bits of a longer one, which nobody can
/// read.
fn put_length(out: &mut Vec<u8>, len: usize, tag_16: u8, tag_32: u8) -> mlua::Result<()> {
    if let Ok(len) = u16::try_from(len) {
        out.push(tag_16);
        out.extend_from_slice(&len.to_be_bytes());
        return Ok(());
    }
    let len = u32::try_from(len).map_err(|_| mlua::Error::runtime("MessagePack holds nothing of 4 GiB"))?;
    out.push(tag_32);
    out.extend_from_slice(&len.to_be_bytes());
    Ok(())
}

fn put_table(out: &mut Vec<u8>, next: &Next, table: &Table, nesting: usize) -> mlua::Result<()> {
    let few = entries_if_few(table, nesting)?;
    let entries = match &few {
        Some(few) => count_entries(few.iter().map(|(key, _)| Ok(key.clone())))?,
        None => count_entries(table.pairs::<Value, Value>().map(|entry| Ok(entry?.0)))?,
    };
    let len = entries.all;
    match (entries.is_array, len) {
        (true, ..16) => out.push(0x90 | len as u8),
        (true, _) => put_length(out, len, tag::ARRAY_16, tag::ARRAY_32)?,
        (false, ..16) => out.push(0x80 | len as u8),
        (false, _) => put_length(out, len, tag::MAP_16, tag::MAP_32)?,
    }
    if entries.is_array {
        for place in 1..=len {
            put(out, next, &table.raw_get(place)?, nesting)?;
        }
        return Ok(());
    }
    let mut put_entry = |key: &Value, value: &Value| {
        put(out, next, key, nesting)?;
        put(out, next, value, nesting)
    };
    if let Some(few) = few {
        return few.iter().try_for_each(|(key, value)| put_entry(key, value));
    }
    let mut key = Value::Nil;
    while let Some((this, value)) = next.entry(table, &key)? {
        put_entry(&this, &value)?;
        key = this;
    }
    Ok(())
}

struct Entries {
    all: usize,
    is_array: bool,
}

fn count_entries(keys: impl Iterator<Item = mlua::Result<Value>>) -> mlua::Result<Entries> {
    let mut all = 0;
    let mut largest = 0;
    let mut is_array = true;
    for key in keys {
        all += 1;
        match key? {
            Value::Integer(key) if key > 0 => largest = largest.max(key),
            _ => is_array = false,
        }
    }
    Ok(Entries {
        all,
        // As many as the largest, so each is there.
        is_array: is_array && usize::try_from(largest) == Ok(all),
    })
}

// ---- Reading ----

/// What lua-cmsgpack says when Lua's stack has no room, whatever filled it.
const TOO_MANY_VALUES: &str = "too many return values at once; use unpack_one or unpack_limit instead.";

enum Damage {
    Cut,
    Format,
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Self {
        Failure::error(match damage {
            Damage::Cut => "Missing bytes in input.",
            Damage::Format => "Bad data format in input.",
        })
    }
}

/// What a value begins with.
enum Item<'a> {
    Value(Value),
    String(&'a [u8]),
    Array(usize),
    Map(usize),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Damage::Cut)?;
        self.rest = rest;
        Ok(taken)
    }

    fn unsigned(&mut self, len: usize) -> Result<u64, Damage> {
        let bytes = self.take(len)?;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, len: usize) -> Result<i64, Damage> {
        let unused = 64 - 8 * len as u32;
        Ok((self.unsigned(len)? << unused) as i64 >> unused)
    }

    fn string(&mut self, len: usize) -> Result<Item<'a>, Damage> {
        self.take(len).map(Item::String)
    }

    fn item(&mut self) -> Result<Item<'a>, Damage> {
        let first = self.take(1)?[0];
        let integer = |integer: i64| Item::Value(Value::Integer(integer));
        // Beyond a signed integer's range it becomes negative, as in Redis.
        let natural = |number: u64| Item::Value(Value::Integer(number as i64));
        Ok(match first {
            0x00..=0x7f | 0xe0..=0xff => integer((first as i8).into()),
            0x80..=0x8f => Item::Map((first & 0xf).into()),
            0x90..=0x9f => Item::Array((first & 0xf).into()),
            0xa0..=0xbf => self.string((first & 0x1f).into())?,
            tag::NIL => Item::Value(Value::Nil),
            tag::FALSE => Item::Value(Value::Boolean(false)),
            tag::TRUE => Item::Value(Value::Boolean(true)),
            tag::FLOAT => {
                let bits = self.unsigned(4)? as u32;
                Item::Value(Value::Number(f32::from_bits(bits).into()))
            }
            tag::DOUBLE => Item::Value(Value::Number(f64::from_bits(self.unsigned(8)?))),
            tag::UNSIGNED_8 => natural(self.unsigned(1)?),
            tag::UNSIGNED_16 => natural(self.unsigned(2)?),
            tag::UNSIGNED_32 => natural(self.unsigned(4)?),
            tag::UNSIGNED_64 => natural(self.unsigned(8)?),
            tag::SIGNED_8 => integer(self.signed(1)?),
            tag::SIGNED_16 => integer(self.signed(2)?),
            tag::SIGNED_32 => integer(self.signed(4)?),
            tag::SIGNED_64 => integer(self.signed(8)?),
            tag::STRING_8 => self.sized_string(1)?,
            tag::STRING_16 => self.sized_string(2)?,
            tag::STRING_32 => self.sized_string(4)?,
            tag::ARRAY_16 => Item::Array(self.unsigned(2)? as usize),
            tag::ARRAY_32 => Item::Array(self.unsigned(4)? as usize),
            tag::MAP_16 => Item::Map(self.unsigned(2)? as usize),
            tag::MAP_32 => Item::Map(self.unsigned(4)? as usize),
            // Binary data, extensions and the one byte without a meaning.
            _ => return Err(Damage::Format),
        })
    }

    fn sized_string(&mut self, len: usize) -> Result<Item<'a>, Damage> {
        let len = self.unsigned(len)? as usize;
        self.string(len)
    }
}

/// A table that is being read.
struct Open {
    table: Table,
    /// Elements, or pairs, that are still to come.
    left: usize,
    /// Elements of an array that there are.
    count: usize,
    is_map: bool,
    /// The key of the pair whose value comes next.
    key: Option<Value>,
}

impl Open {
    fn push(&mut self, value: Value) -> Result<(), Failure> {
        match (self.is_map, self.key.take()) {
            (false, _) => {
                self.count += 1;
                self.table.raw_set(self.count, value)?;
            }
            (true, None) => {
                self.key = Some(value);
                return Ok(());
            }
            (true, Some(Value::Nil)) => return Err(Failure::Bare("table index is nil")),
            (true, Some(Value::Number(number))) if number.is_nan() => {
                return Err(Failure::Bare("table index is NaN"));
            }
            (true, Some(key)) => self.table.raw_set(key, value)?,
        }
        self.left -= 1;
        Ok(())
    }
}

/// The next value. Without recursion: a client chooses how deep its tables are.
fn read(lua: &Lua, reader: &mut Reader<'_>) -> Result<Value, Failure> {
    let mut open: Vec<Open> = Vec::new();
    loop {
        let mut complete = match reader.item()? {
            Item::Value(value) => Some(value),
            Item::String(text) => Some(Value::String(lua.create_string(text)?)),
            item @ (Item::Array(left) | Item::Map(left)) => {
                if open.len() == NESTING_MAX {
                    return Err(Failure::error(match item {
                        Item::Array(_) => "stack overflow (in function mp_decode_to_lua_array)".to_owned(),
                        _ => format!("stack overflow ({TOO_MANY_VALUES})"),
                    }));
                }
                open.push(Open {
                    table: lua.create_table()?,
                    left,
                    count: 0,
                    is_map: matches!(item, Item::Map(_)),
                    key: None,
                });
                None
            }
        };
        loop {
            if let Some(value) = complete.take() {
                match open.last_mut() {
                    None => return Ok(value),
                    Some(around) => around.push(value)?,
                }
            }
            match open.pop_if(|table| table.left == 0) {
                None => break,
                Some(closed) => complete = Some(Value::Table(closed.table)),
            }
        }
    }
}

/// unpack, unpack_one and unpack_limit: at most `limit` values from `offset` on; all of them if both are 0. The last
/// two begin with the offset of what was not read, or -1.
fn unpack(lua: &Lua, call: &Call, limit: i32, offset: i32) -> Outcome {
    let data = call.string(lua, 1)?;
    let data = data.as_bytes();
    let len = data.len();
    let (Ok(start), Ok(count_max)) = (usize::try_from(offset), usize::try_from(limit)) else {
        let text = format!("Invalid request to unpack with offset of {offset} and limit of {len}.");
        return Err(Failure::error(text));
    };
    let Some(rest) = data.get(start..) else {
        let text = format!("Start offset {offset} greater than input length {len}.");
        return Err(Failure::error(text));
    };
    let reads_all = start == 0 && count_max == 0;
    let results = lua.create_table()?;
    let mut count = 0;
    if !reads_all {
        count += 1;
    }
    let mut reader = Reader { rest };
    let mut values = 0;
    while !reader.rest.is_empty() && (reads_all || values < count_max) {
        values += 1;
        count += 1;
        results.raw_set(count, read(lua, &mut reader)?)?;
    }
    if !reads_all {
        let next = match reader.rest.len() {
            0 => -1,
            left => (len - left) as i64,
        };
        results.raw_set(1, next)?;
    }
    Ok(Answer::Elements(results, count, TOO_MANY_VALUES))
}
