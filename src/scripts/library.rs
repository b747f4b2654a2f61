//! What the server gives to scripts: the table `redis`, and functions that take the place of Lua's own.

use super::libraries;
use super::raise::{self, Outcome};
use super::redis_call;
use super::registry::Digest;
use super::script::Shared;
use crate::command;
use crate::command::REDIS_VERSION;
use crate::protocol::reply::Version;
use crate::scripts::function_libraries;
use mlua::{IntoLua, Lua, MultiValue, Result, Table, Value};
use std::rc::Rc;

/// The multiplier, the increment and the bits of the numbers that `rand48` of POSIX is made of; Redis's `math.random`
/// is it.
const RANDOM_MULTIPLIER: u64 = 0x5_DEEC_E66D;
const RANDOM_INCREMENT: u64 = 0xB;
const RANDOM_BITS: u32 = 48;

/// The highest number that it gives.
const RANDOM_MAX: f64 = 2_147_483_647.0;

/// Everything that the prelude takes from here.
pub fn host(lua: &Lua, shared: &Rc<Shared>) -> Result<Table> {
    let host = lua.create_table()?;
    host.raw_set("redis", redis(lua, shared)?)?;
    libraries::open(lua)?;
    let found = lua.create_table()?;
    for name in libraries::NAMES {
        found.raw_set(name, lua.globals().raw_get::<Table>(name)?)?;
    }
    host.raw_set("libraries", found)?;
    let flags = lua.create_table()?;
    for flag in function_libraries::FLAGS {
        flags.raw_set(flag, true)?;
    }
    host.raw_set("flags", flags)?;
    let refuse = |_: &Lua, _| Ok(Outcome::Raises("Attempt to modify a readonly table".to_owned()));
    host.raw_set("refuse", raise::function(lua, refuse)?)?;
    let missing = |_: &Lua, arguments: MultiValue| {
        let name = arguments.get(1).map(shown).unwrap_or_default();
        Ok(Outcome::Raises(format!(
            "Script attempted to access nonexistent global variable '{name}'"
        )))
    };
    host.raw_set("missing", raise::function(lua, missing)?)?;
    seed(shared, 0);
    let own = Rc::clone(shared);
    host.raw_set(
        "random",
        raise::function(lua, move |lua, arguments| random(lua, &own, arguments))?,
    )?;
    let own = Rc::clone(shared);
    let randomseed = move |lua: &Lua, arguments: MultiValue| match arguments.front().and_then(number) {
        Some(number) => {
            seed(&own, number as i64);
            Outcome::returns(lua, ())
        }
        None => Ok(bad_number(arguments.front(), 1, "randomseed")),
    };
    host.raw_set("randomseed", raise::function(lua, randomseed)?)?;
    Ok(host)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => String::from_utf8_lossy(&text.as_bytes()).into_owned(),
        other => other.to_string().unwrap_or_default(),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Number(number) => Some(*number),
        Value::String(text) => text.to_str().ok()?.trim().parse().ok(),
        _ => None,
    }
}

fn bad_number(value: Option<&Value>, position: usize, function: &str) -> Outcome {
    let found = value.map_or("no value", Value::type_name);
    Outcome::Raises(format!(
        "bad argument #{position} to '{function}' (number expected, got {found})"
    ))
}

// ---- math.random ----

fn seed(shared: &Shared, seed: i64) {
    shared.random.set((u64::from(seed as u32) << 16) | 0x330E);
}

fn random(lua: &Lua, shared: &Shared, arguments: MultiValue) -> Result<Outcome> {
    let next = shared.random.get().wrapping_mul(RANDOM_MULTIPLIER);
    let next = next.wrapping_add(RANDOM_INCREMENT) & ((1 << RANDOM_BITS) - 1);
    shared.random.set(next);
    let drawn = (next >> (RANDOM_BITS - 31)) as f64 % RANDOM_MAX / RANDOM_MAX;
    let mut bounds = [1.0, 0.0];
    let own = match arguments.len() {
        0 => return Outcome::returns(lua, drawn),
        1 => &mut bounds[1..],
        2 => &mut bounds[..],
        _ => return Ok(Outcome::Raises("wrong number of arguments".to_owned())),
    };
    for (position, (bound, argument)) in own.iter_mut().zip(&arguments).enumerate() {
        match number(argument) {
            // As C casts it to an int.
            Some(number) => *bound = f64::from(number as i64 as i32),
            None => return Ok(bad_number(Some(argument), position + 1, "random")),
        }
    }
    let [lowest, highest] = bounds;
    if lowest > highest {
        let position = arguments.len();
        let text = format!("bad argument #{position} to 'random' (interval is empty)");
        return Ok(Outcome::Raises(text));
    }
    Outcome::returns(lua, (drawn * (highest - lowest + 1.0)).floor() + lowest)
}

// ---- redis ----

/// The table `redis`.
fn redis(lua: &Lua, shared: &Rc<Shared>) -> Result<Table> {
    let redis = lua.create_table()?;
    redis.raw_set("call", redis_call::function(lua, shared, true)?)?;
    redis.raw_set("pcall", redis_call::function(lua, shared, false)?)?;
    redis.raw_set("error_reply", raise::function(lua, error_reply)?)?;
    redis.raw_set("status_reply", raise::function(lua, status_reply)?)?;
    redis.raw_set("sha1hex", raise::function(lua, sha1hex)?)?;
    redis.raw_set("log", raise::function(lua, log)?)?;
    let own = Rc::clone(shared);
    let setresp = move |lua: &Lua, arguments: MultiValue| setresp(lua, &own, &arguments);
    redis.raw_set("setresp", raise::function(lua, setresp)?)?;
    // Whole scripts are never replicated, so there is nothing to choose: as in Redis since version 7.
    redis.raw_set(
        "replicate_commands",
        raise::function(lua, |lua, _| Outcome::returns(lua, true))?,
    )?;
    redis.raw_set("set_repl", raise::function(lua, set_repl)?)?;
    redis.raw_set("acl_check_cmd", raise::function(lua, acl_check_cmd)?)?;
    let numbers = [
        ("LOG_DEBUG", 0),
        ("LOG_VERBOSE", 1),
        ("LOG_NOTICE", 2),
        ("LOG_WARNING", 3),
        ("REPL_NONE", 0),
        ("REPL_AOF", 1),
        ("REPL_SLAVE", 2),
        ("REPL_REPLICA", 2),
        ("REPL_ALL", 3),
        ("REDIS_VERSION_NUM", version_number()),
    ];
    for (name, number) in numbers {
        redis.raw_set(name, number)?;
    }
    redis.raw_set("REDIS_VERSION", REDIS_VERSION)?;
    Ok(redis)
}

/// Major, minor and patch, a byte each.
fn version_number() -> u32 {
    let parts = REDIS_VERSION.split('.').map(|part| part.parse().unwrap_or(0));
    parts.fold(0, |number, part: u32| number << 8 | part)
}

/// An error of one of these functions, which is a table as those of commands are.
fn fails(lua: &Lua, text: &str) -> Result<Outcome> {
    Ok(Outcome::RaisesValue(error_table(lua, text.as_bytes())?))
}

/// The table that an error is to a script.
fn error_table(lua: &Lua, text: &[u8]) -> Result<Value> {
    let table = lua.create_table_with_capacity(0, 2)?;
    table.raw_set("err", lua.create_string(text)?)?;
    table.raw_set("ignore_error_stats_update", true)?;
    Ok(Value::Table(table))
}

/// A table with one field.
fn one_field(lua: &Lua, name: &str, value: Value) -> Result<Value> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(name, value)?;
    Ok(Value::Table(table))
}

/// The one argument of a function that takes a text.
fn only_text(arguments: &MultiValue) -> Option<Vec<u8>> {
    match (arguments.len(), arguments.front()) {
        (1, Some(Value::String(text))) => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

fn error_reply(lua: &Lua, arguments: MultiValue) -> Result<Outcome> {
    let Some(text) = only_text(&arguments) else {
        return Outcome::returns(lua, error_table(lua, b"ERR wrong number or type of arguments")?);
    };
    // A text of two words begins with a code of its own.
    let text = text.strip_prefix(b"-").unwrap_or(&text);
    let text = match text.contains(&b' ') {
        true => text.to_vec(),
        false => [b"ERR ", text].concat(),
    };
    let text = &text[..text
        .iter()
        .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
        .map_or(0, |last| last + 1)];
    Outcome::returns(lua, one_field(lua, "err", Value::String(lua.create_string(text)?))?)
}

fn status_reply(lua: &Lua, arguments: MultiValue) -> Result<Outcome> {
    match only_text(&arguments) {
        Some(text) => Outcome::returns(lua, one_field(lua, "ok", Value::String(lua.create_string(text)?))?),
        None => Outcome::returns(lua, error_table(lua, b"ERR wrong number or type of arguments")?),
    }
}

fn sha1hex(lua: &Lua, arguments: MultiValue) -> Result<Outcome> {
    if arguments.len() != 1 {
        return fails(lua, "ERR wrong number of arguments");
    }
    let text = arguments.front().cloned().unwrap_or(Value::Nil);
    // A value that is neither text nor number counts as empty.
    let text = lua.coerce_string(text)?;
    let text = text.map(|text| text.as_bytes().to_vec()).unwrap_or_default();
    Outcome::returns(lua, Digest::of(&text).as_str())
}

fn log(lua: &Lua, arguments: MultiValue) -> Result<Outcome> {
    if arguments.len() < 2 {
        return fails(lua, "ERR redis.log() requires two arguments or more.");
    }
    let level = match arguments.front() {
        Some(Value::Integer(level)) => *level as f64,
        Some(Value::Number(level)) => *level,
        _ => return fails(lua, "ERR First argument must be a number (log level)."),
    };
    let mut words = Vec::new();
    for argument in arguments.iter().skip(1) {
        if let Some(text) = lua.coerce_string(argument.clone())? {
            words.push(String::from_utf8_lossy(&text.as_bytes()).into_owned());
        }
    }
    let text = words.join(" ");
    match level.trunc() {
        0.0 => tracing::trace!(target: "script", "{text}"),
        1.0 => tracing::debug!(target: "script", "{text}"),
        2.0 => tracing::info!(target: "script", "{text}"),
        3.0 => tracing::warn!(target: "script", "{text}"),
        _ => return fails(lua, "ERR Invalid debug level."),
    }
    Outcome::returns(lua, ())
}

fn setresp(lua: &Lua, shared: &Shared, arguments: &MultiValue) -> Result<Outcome> {
    if arguments.len() != 1 {
        return fails(lua, "ERR redis.setresp() requires one argument.");
    }
    let version = match arguments.front().and_then(number).map(f64::trunc) {
        Some(2.0) => Version::Resp2,
        Some(3.0) => Version::Resp3,
        _ => return fails(lua, "ERR RESP version must be 2 or 3."),
    };
    shared.version.set(version);
    Outcome::returns(lua, ())
}

fn set_repl(lua: &Lua, arguments: MultiValue) -> Result<Outcome> {
    if arguments.len() != 1 {
        return fails(lua, "ERR redis.set_repl() requires two arguments.");
    }
    match arguments.front().and_then(number) {
        Some(flags) if (0.0..4.0).contains(&flags) => Outcome::returns(lua, ()),
        _ => fails(
            lua,
            "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
        ),
    }
}

/// Whether the user may run a command: every user may run every one there is.
fn acl_check_cmd(lua: &Lua, arguments: MultiValue) -> Result<Outcome> {
    let Some(name) = arguments.front() else {
        return fails(lua, "ERR Please specify at least one argument for this redis lib call");
    };
    let name = lua.coerce_string(name.clone())?;
    let row = name.and_then(|name| command::find(&name.as_bytes()));
    match row {
        Some(_) => Outcome::returns(lua, true.into_lua(lua)?),
        None => fails(lua, "ERR Invalid command passed to redis.acl_check_cmd()"),
    }
}
