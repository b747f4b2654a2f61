//! Between replies and Lua's values, as Redis converts them.

use crate::number::parse_integer;
use crate::protocol::Reply;
use crate::protocol::reply::Version;
use mlua::{Lua, Result, Table, Value};

/// How deep tables in a script's result may be nested: what the stack of a script has room for.
const DEPTH_MAX: usize = 128;

/// The Lua value of the reply at the beginning of `bytes`; the rest goes back into `bytes`. `None` for bytes that are
/// no reply.
pub fn to_lua(lua: &Lua, bytes: &mut &[u8]) -> Result<Option<Value>> {
    let Some((kind, line)) = take_line(bytes) else {
        return Ok(None);
    };
    let count = || parse_integer(line).and_then(|count| usize::try_from(count).ok());
    Ok(Some(match kind {
        b':' => Value::Number(parse_integer(line).unwrap_or_default() as f64),
        b'+' => one_field(lua, "ok", Value::String(lua.create_string(line)?))?,
        b'-' => error_table(lua, line)?,
        b'$' => match count() {
            None => Value::Boolean(false),
            Some(len) => Value::String(lua.create_string(take_bulk(bytes, len))?),
        },
        b'*' => match count() {
            None => Value::Boolean(false),
            Some(len) => Value::Table(elements(lua, bytes, len)?),
        },
        b'_' => Value::Nil,
        b'#' => Value::Boolean(line == b"t"),
        b',' => {
            let number = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
            one_field(lua, "double", Value::Number(number.unwrap_or(f64::NAN)))?
        }
        b'(' => one_field(lua, "big_number", Value::String(lua.create_string(line)?))?,
        b'=' => {
            let content = take_bulk(bytes, count().unwrap_or_default());
            let (format, text) = content.split_at(content.len().min(4));
            let table = lua.create_table()?;
            table.raw_set("string", lua.create_string(text)?)?;
            table.raw_set("format", lua.create_string(&format[..format.len().min(3)])?)?;
            one_field(lua, "verbatim_string", Value::Table(table))?
        }
        b'%' => {
            let map = lua.create_table()?;
            for _ in 0..count().unwrap_or_default() {
                let (Some(key), Some(value)) = (to_lua(lua, bytes)?, to_lua(lua, bytes)?) else {
                    break;
                };
                map.raw_set(key, value)?;
            }
            one_field(lua, "map", Value::Table(map))?
        }
        b'~' => {
            let set = lua.create_table()?;
            for _ in 0..count().unwrap_or_default() {
                let Some(member) = to_lua(lua, bytes)? else { break };
                set.raw_set(member, true)?;
            }
            one_field(lua, "set", Value::Table(set))?
        }
        b'>' => Value::Table(elements(lua, bytes, count().unwrap_or_default())?),
        _ => return Ok(None),
    }))
}

/// The table that an error reply is to a script.
pub fn error_table(lua: &Lua, text: &[u8]) -> Result<Value> {
    let table = lua.create_table_with_capacity(0, 2)?;
    table.raw_set("err", lua.create_string(text)?)?;
    table.raw_set("ignore_error_stats_update", true)?;
    Ok(Value::Table(table))
}

/// A table with one field.
pub fn one_field(lua: &Lua, name: &str, value: Value) -> Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}

fn elements(lua: &Lua, bytes: &mut &[u8], count: usize) -> Result<Table> {
    let table = lua.create_table_with_capacity(count.min(bytes.len()), 0)?;
    for position in 1..=count {
        let Some(element) = to_lua(lua, bytes)? else { break };
        // By its position, so that a null leaves a gap.
        table.raw_set(position, element)?;
    }
    Ok(table)
}

fn take_line<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = bytes.get(1..end.checked_sub(1)?)?;
    let kind = bytes[0];
    *bytes = &bytes[end + 1..];
    Some((kind, line))
}

fn take_bulk<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (content, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest.get(2..).unwrap_or_default();
    content
}

/// Writes a script's result as its reply. `script_version` is what `redis.setresp` chose: booleans are booleans only
/// then.
pub fn to_reply(reply: &mut Reply<'_>, value: &Value, script_version: Version) -> Result<()> {
    write(reply, value, script_version, 0)
}

fn write(reply: &mut Reply<'_>, value: &Value, script_version: Version, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        reply.error("ERR reached lua stack limit");
        return Ok(());
    }
    match value {
        Value::String(text) => reply.bulk(&text.as_bytes()),
        Value::Boolean(value) => match (script_version, value) {
            (Version::Resp3, value) => reply.boolean(*value),
            (Version::Resp2, true) => reply.integer(1),
            (Version::Resp2, false) => reply.null(),
        },
        Value::Integer(number) => reply.integer(*number),
        Value::Number(number) => reply.integer(truncated(*number)),
        Value::Table(table) => return write_table(reply, table, script_version, depth),
        _ => reply.null(),
    }
    Ok(())
}

/// What C makes of a double that is cast to a long long: a number that does not fit becomes the lowest.
fn truncated(number: f64) -> i64 {
    match number.abs() < 9.223_372_036_854_775e18 {
        true => number as i64,
        false => i64::MIN,
    }
}

fn write_table(reply: &mut Reply<'_>, table: &Table, script_version: Version, depth: usize) -> Result<()> {
    if let Value::String(text) = table.raw_get("err")? {
        reply.error(text.as_bytes());
        return Ok(());
    }
    if let Value::String(text) = table.raw_get("ok")? {
        let text: Vec<u8> = (text.as_bytes().iter())
            .map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte })
            .collect();
        reply.raw(&[b"+", &text[..], b"\r\n"].concat());
        return Ok(());
    }
    match table.raw_get("double")? {
        Value::Number(number) => {
            reply.double(number);
            return Ok(());
        }
        Value::Integer(number) => {
            reply.double(number as f64);
            return Ok(());
        }
        _ => {}
    }
    if let Value::Table(map) = table.raw_get("map")? {
        let pairs: Vec<(Value, Value)> = map.pairs().collect::<Result<_>>()?;
        reply.map(pairs.len());
        for (key, value) in &pairs {
            write(reply, key, script_version, depth + 1)?;
            write(reply, value, script_version, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::Table(set) = table.raw_get("set")? {
        let members: Vec<(Value, Value)> = set.pairs().collect::<Result<_>>()?;
        reply.set(members.len());
        for (member, _) in &members {
            write(reply, member, script_version, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::String(digits) = table.raw_get("big_number")? {
        let digits = String::from_utf8_lossy(&digits.as_bytes()).replace(['\r', '\n'], " ");
        reply.big_number(&digits);
        return Ok(());
    }
    if let Value::Table(verbatim) = table.raw_get("verbatim_string")?
        && let (Value::String(format), Value::String(text)) = (verbatim.raw_get("format")?, verbatim.raw_get("string")?)
    {
        let mut letters: String = String::from_utf8_lossy(&format.as_bytes()).chars().take(3).collect();
        if letters.len() != 3 {
            letters = "txt".to_owned();
        }
        reply.verbatim(&letters, &text.as_bytes());
        return Ok(());
    }
    let mut elements = Vec::new();
    loop {
        match table.raw_get(elements.len() + 1)? {
            Value::Nil => break,
            element => elements.push(element),
        }
    }
    reply.array(elements.len());
    for element in &elements {
        write(reply, element, script_version, depth + 1)?;
    }
    Ok(())
}
