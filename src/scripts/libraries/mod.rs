//! The Lua libraries that a Redis script finds beside Lua's own: `bit`, `cjson`, `cmsgpack` and `struct`.
//!
//! They are Redis 7's to the byte: results, the order of an object's members, texts of errors and the place in the
//! script that an error names. Crates for JSON and MessagePack write numbers and refuse input in other ways, so these
//! are our own.
//!
//! A library's function is safe Rust behind one C function, [`answer_or_raise`]: only that raises the error. An error
//! that mlua raises by itself is an object, and scripts compare, concatenate and return errors as the strings that they
//! are in Redis; and a wrapper written in Lua would lose the caller's line when a script ends in `return
//! cjson.decode(…)`.

// `answer_or_raise` is a C function for Lua, made of calls of Lua's C interface.
#![allow(unsafe_code)]

pub mod bit;
pub mod cjson;
pub mod cmsgpack;
pub mod structs;

use mlua::{Function, IntoLuaMulti, Lua, MultiValue, Table, Value, ffi};
use std::ffi::c_int;

/// The globals that [`open`] adds.
pub const NAMES: [&str; 4] = ["bit", "cjson", "cmsgpack", "struct"];

/// Adds all the libraries to the globals of `lua`, which has Lua's base library.
///
/// # Errors
/// Where Lua's memory does not suffice.
pub fn open(lua: &Lua) -> mlua::Result<()> {
    bit::open(lua)?;
    cjson::open(lua)?;
    cmsgpack::open(lua)?;
    structs::open(lua)
}

/// Tables within tables that a library opens at once at most, whatever the script allows: mlua holds each in one of
/// 8,000 slots, which it shares with everything else that Rust holds of Lua.
const NESTING_MAX: usize = 3000;

/// Arguments of one call at most: half of the 8,000 slots of Lua's stack that a C function may use, because each is
/// there twice. cmsgpack.pack has the same limit in Redis.
const ARGUMENTS_MAX: c_int = 4000;

/// What a library's function gives back.
enum Answer {
    One(Value),
    Many(Vec<Value>),
    /// The first `count` elements of a table, each as a value of its own; the text of the error if they are too many
    /// for Lua's stack.
    Elements(Table, usize, &'static str),
}

/// Why a library's function gives nothing back.
enum Failure {
    /// An error's text, which begins with the place in the script that called.
    Error(Vec<u8>),
    /// An error's text as it is.
    Bare(&'static str),
    /// An argument, counted from 1, and what is wrong with it.
    Argument(usize, Vec<u8>),
    /// Lua's own: out of memory.
    Lua(mlua::Error),
}

impl Failure {
    fn error(text: impl Into<Vec<u8>>) -> Failure {
        Failure::Error(text.into())
    }

    fn argument(position: usize, text: impl Into<Vec<u8>>) -> Failure {
        Failure::Argument(position, text.into())
    }
}

impl From<mlua::Error> for Failure {
    fn from(error: mlua::Error) -> Self {
        Failure::Lua(error)
    }
}

type Outcome = Result<Answer, Failure>;

/// The arguments of a call, read as Lua's C libraries read them: numbers and their texts stand for each other.
struct Call(MultiValue);

impl Call {
    fn count(&self) -> usize {
        self.0.len()
    }

    /// An argument, counted from 1; nil if there are fewer.
    fn get(&self, position: usize) -> &Value {
        self.0.get(position - 1).unwrap_or(&Value::Nil)
    }

    fn type_name(&self, position: usize) -> &'static str {
        match self.0.get(position - 1) {
            None => "no value",
            Some(value) => type_name(value),
        }
    }

    fn wrong_type(&self, position: usize, expected: &str) -> Failure {
        let got = self.type_name(position);
        Failure::argument(position, format!("{expected} expected, got {got}"))
    }

    fn string(&self, lua: &Lua, position: usize) -> Result<mlua::LuaString, Failure> {
        match self.get(position) {
            Value::String(text) => Ok(text.clone()),
            number @ (Value::Integer(_) | Value::Number(_)) => {
                let text = lua.coerce_string(number.clone())?;
                text.ok_or_else(|| self.wrong_type(position, "string"))
            }
            _ => Err(self.wrong_type(position, "string")),
        }
    }

    /// A number, or a string that is one for Lua.
    fn as_number(&self, lua: &Lua, position: usize) -> Option<f64> {
        match self.get(position) {
            Value::Integer(integer) => Some(*integer as f64),
            Value::Number(number) => Some(*number),
            text @ Value::String(_) => lua.coerce_number(text.clone()).ok().flatten(),
            _ => None,
        }
    }

    fn number(&self, lua: &Lua, position: usize) -> Result<f64, Failure> {
        self.as_number(lua, position)
            .ok_or_else(|| self.wrong_type(position, "number"))
    }

    fn integer(&self, lua: &Lua, position: usize) -> Result<i64, Failure> {
        self.number(lua, position).map(to_i64)
    }

    /// An integer that may be left out, or be nil.
    fn integer_or(&self, lua: &Lua, position: usize, default: i64) -> Result<i64, Failure> {
        match self.get(position) {
            Value::Nil => Ok(default),
            _ => self.integer(lua, position),
        }
    }
}

/// A type's name in Lua's errors.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "boolean",
        Value::Integer(_) | Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Table(_) => "table",
        Value::Function(_) => "function",
        Value::Thread(_) => "thread",
        _ => "userdata",
    }
}

/// A double as a C program on x86-64 converts it: beyond the range, and for NaN, the smallest integer.
fn to_i64(number: f64) -> i64 {
    match number {
        // The bound is 2^63.
        number if number >= -(i64::MIN as f64) || number.is_nan() => i64::MIN,
        number => number as i64,
    }
}

/// A function for scripts. `too_many` is the error of a call with more than [`ARGUMENTS_MAX`] arguments.
fn function(lua: &Lua, too_many: &str, body: impl Fn(&Lua, Call) -> Outcome + 'static) -> mlua::Result<Function> {
    let inner = lua.create_function(move |lua, arguments: MultiValue| reply(lua, body(lua, Call(arguments))))?;
    // SAFETY: the closure pushes one value in place of the two that it takes, on a stack that has room for three more.
    unsafe {
        lua.exec_raw((inner, too_many), |state| {
            ffi::lua_pushcclosure(state, answer_or_raise, 2)
        })
    }
}

/// What [`answer_or_raise`] is told, by the type of the first value:
///
/// | first | then | it does |
/// |---|---|---|
/// | true | values | returns them |
/// | table | count, text | returns the elements, or raises the text if the stack has no room for them |
/// | false | text | raises it, after the place of the caller |
/// | nil | text | raises it |
/// | number | text | raises it as said of the argument with that number |
fn reply(lua: &Lua, outcome: Outcome) -> mlua::Result<MultiValue> {
    match outcome {
        Ok(Answer::One(value)) => (true, value).into_lua_multi(lua),
        Ok(Answer::Many(values)) => {
            let first = std::iter::once(Value::Boolean(true));
            Ok(first.chain(values).collect())
        }
        Ok(Answer::Elements(table, count, overflow)) => {
            (table, count, format!("stack overflow ({overflow})")).into_lua_multi(lua)
        }
        Err(Failure::Error(text)) => (false, lua.create_string(text)?).into_lua_multi(lua),
        Err(Failure::Bare(text)) => (Value::Nil, text).into_lua_multi(lua),
        Err(Failure::Argument(position, text)) => (position, lua.create_string(text)?).into_lua_multi(lua),
        Err(Failure::Lua(error)) => Err(error),
    }
}

/// Calls the function that is its first upvalue and does what that says (see [`reply`]).
///
/// # Safety
/// For Lua only, as a closure with a function and a string as upvalues. Errors leave by a long jump, which must not
/// pass over anything that is to be dropped: there is nothing of that kind here, and the inner function has returned
/// before.
unsafe extern "C-unwind" fn answer_or_raise(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: a C function has 20 slots beside its arguments. At most two are in use beside them, or beside the results
    // that `lua_call` made room for, until `lua_checkstack` has given more.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        if arguments > ARGUMENTS_MAX {
            return ffi::luaL_argerror(state, 0, ffi::lua_tostring(state, ffi::lua_upvalueindex(2)));
        }
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, arguments, ffi::LUA_MULTRET);
        match ffi::lua_type(state, 1) {
            ffi::LUA_TBOOLEAN if ffi::lua_toboolean(state, 1) != 0 => ffi::lua_gettop(state) - 1,
            ffi::LUA_TTABLE => {
                let count = ffi::lua_tointeger(state, 2) as c_int;
                if ffi::lua_checkstack(state, count + 1) == 0 {
                    return raise_with_place(state, 3);
                }
                for place in 1..=count {
                    ffi::lua_rawgeti(state, 1, place.into());
                }
                count
            }
            ffi::LUA_TNUMBER => {
                let position = ffi::lua_tointeger(state, 1) as c_int;
                ffi::luaL_argerror(state, position, ffi::lua_tostring(state, 2))
            }
            ffi::LUA_TBOOLEAN => raise_with_place(state, 2),
            _ => {
                ffi::lua_settop(state, 2);
                ffi::lua_error(state)
            }
        }
    }
}

/// Raises the string in a slot of the stack, after the place in the script that called the running C function.
///
/// # Safety
/// As of [`answer_or_raise`], which calls it.
unsafe fn raise_with_place(state: *mut ffi::lua_State, text: c_int) -> c_int {
    // SAFETY: two slots, see `answer_or_raise`.
    unsafe {
        ffi::luaL_where(state, 1);
        ffi::lua_pushvalue(state, text);
        ffi::lua_concat(state, 2);
        ffi::lua_error(state)
    }
}

/// Entries of a table that are taken out at once, which is several times faster than one at a time; and how deep within
/// other tables that is done, because each entry takes two of the slots of [`NESTING_MAX`].
const ENTRIES_AT_ONCE_MAX: usize = 128;
const AT_ONCE_NESTING_MAX: usize = 5;

/// All entries of a table inside of `nesting` others, in its own order, if they are few.
fn entries_if_few(table: &Table, nesting: usize) -> mlua::Result<Option<Vec<(Value, Value)>>> {
    if nesting >= AT_ONCE_NESTING_MAX {
        return Ok(None);
    }
    let mut entries = Vec::new();
    let mut are_few = true;
    let walked = table.for_each(|key: Value, value: Value| {
        are_few = entries.len() < ENTRIES_AT_ONCE_MAX;
        match are_few {
            true => entries.push((key, value)),
            // Ends the walk.
            false => return Err(mlua::Error::runtime("there are more")),
        }
        Ok(())
    });
    match are_few {
        true => walked.map(|()| Some(entries)),
        false => Ok(None),
    }
}

/// Walks a table as Lua's `next` does, a step at a time, so that other tables can be walked meanwhile.
#[derive(Clone)]
struct Next(Function);

impl Next {
    fn of(lua: &Lua) -> mlua::Result<Next> {
        lua.globals().raw_get("next").map(Next)
    }

    /// The entry after that of `key`; of nil, the first.
    fn entry(&self, table: &Table, key: &Value) -> mlua::Result<Option<(Value, Value)>> {
        let (key, value) = self.0.call::<(Value, Value)>((table, key))?;
        Ok(if key.is_nil() { None } else { Some((key, value)) })
    }
}

/// What a function does that keeps nothing between its calls.
type Body = fn(&Lua, &Call) -> Outcome;

/// The library's table with functions in it.
fn library(lua: &Lua, functions: &[(&str, Body)]) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for (name, body) in functions {
        let body = *body;
        table.raw_set(
            *name,
            function(lua, "too many arguments", move |lua, call| body(lua, &call))?,
        )?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlua::FromLuaMulti;

    fn run<R: FromLuaMulti>(script: &str) -> mlua::Result<R> {
        let lua = Lua::new();
        open(&lua).expect("the libraries can be opened");
        lua.load(script).set_name("@user_script").eval()
    }

    #[test]
    fn an_error_is_a_string_that_names_the_line_of_its_caller() {
        let script = "local ok, err = pcall(function()\n return cjson.decode('x') end) return type(err) .. ' ' .. err";
        let expected = "string user_script:2: Expected value but found invalid token at character 1";
        assert_eq!(run::<String>(script).expect("the script runs"), expected);
    }

    #[test]
    fn an_error_of_an_argument_names_the_function() {
        let script = "local ok, err = pcall(function() return cjson.encode() end) return err";
        let expected = "user_script:1: bad argument #1 to 'encode' (expected 1 argument)";
        assert_eq!(run::<String>(script).expect("the script runs"), expected);
    }

    #[test]
    fn what_is_nested_too_deep_is_refused_whatever_a_script_allows() {
        let scripts = [
            (
                "cjson.decode(string.rep('[', 100000))",
                "Found too many nested data structures (3001) at character 3001",
            ),
            (
                "cjson.decode(string.rep('{\"a\":', 100000))",
                "Found too many nested data structures (3001) at character 15001",
            ),
            (
                "cmsgpack.unpack(string.rep('\\145', 100000))",
                "stack overflow (in function mp_decode_to_lua_array)",
            ),
            (
                "(function() local t = {} for i = 1, 100000 do t = {t} end return cjson.encode(t) end)()",
                "Cannot serialise, excessive nesting (3001)",
            ),
            (
                "(function() local t = {} for i = 1, 100000 do t = {a = t} end return cjson.encode(t) end)()",
                "Cannot serialise, excessive nesting (3001)",
            ),
        ];
        for (call, expected) in scripts {
            let script = format!(
                "cjson.decode_max_depth(1000000) cjson.encode_max_depth(1000000)
                local ok, err = pcall(function() local r = {call} return r end) return err"
            );
            assert_eq!(
                run::<String>(&script).expect("the script runs"),
                format!("user_script:2: {expected}")
            );
        }
    }

    #[test]
    fn what_is_nested_nearly_too_deep_is_read_and_written() {
        let script = "cjson.decode_max_depth(1000000) cjson.encode_max_depth(1000000)
            local text = string.rep('[', 2999) .. '{\"a\":1}' .. string.rep(']', 2999)
            return cjson.encode(cjson.decode(text)) == text and #cjson.encode(cmsgpack.unpack(
                string.rep('\\129\\1', 3000) .. '\\5'))";
        assert_eq!(run::<usize>(script).expect("the script runs"), 3000 * 2 + 1);
    }

    #[test]
    fn more_arguments_than_fit_are_refused() {
        let script = "local t = {} for i = 1, 4001 do t[i] = 'x' .. i end
            local ok, err = pcall(bit.band, unpack(t)) return err";
        let expected = "bad argument #0 to '?' (too many arguments)";
        assert_eq!(run::<String>(script).expect("the script runs"), expected);
    }

    #[test]
    fn a_library_that_runs_out_of_memory_ends_in_lua_error() {
        let lua = Lua::new();
        open(&lua).expect("the libraries can be opened");
        lua.set_memory_limit(4 << 20).expect("the limit can be set");
        let script = "return cmsgpack.unpack(cmsgpack.pack(string.rep('x', 3000000)))";
        let error = lua.load(script).exec().expect_err("there is not that much memory");
        assert!(
            matches!(error, mlua::Error::MemoryError(_)) || error.to_string().contains("memory"),
            "{error}"
        );
        lua.set_memory_limit(0).expect("the limit can be set");
        assert_eq!(
            lua.load("return cjson.encode({1})").eval::<String>().expect("it runs"),
            "[1]"
        );
    }
}
