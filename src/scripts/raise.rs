//! Functions that Lua code calls and that raise errors as Lua's own functions do: a text with the caller's line in
//! front, or any value. What is written here is what cannot be said through the safe interface of the `mlua` crate,
//! whose functions raise objects of its own.
//!
//! `unsafe`: these functions speak Lua's C interface. None of them holds anything that must be dropped while it calls
//! Lua, because an error leaves it by a long jump.
#![allow(unsafe_code)]

use mlua::ffi::{self, lua_State};
use mlua::{Function, IntoLuaMulti, Lua, LuaOptions, MultiValue, Result, StdLib, Table, Value};
use std::ffi::c_int;

/// A new state of Lua with all libraries, among them the one for debugging.
pub fn new_state() -> Lua {
    // SAFETY: what is unsafe about that library is used by the prelude only and never reaches a script.
    unsafe { Lua::unsafe_new_with(StdLib::ALL_SAFE | StdLib::DEBUG, LuaOptions::default()) }
}

/// What a function of ours comes to.
pub enum Outcome {
    /// The function returns these values.
    Returns(MultiValue),
    /// An error with this text, which names the caller's line.
    Raises(String),
    /// An error with this value.
    RaisesValue(Value),
}

impl Outcome {
    /// One result, or several in a tuple.
    pub fn returns(lua: &Lua, values: impl IntoLuaMulti) -> Result<Outcome> {
        Ok(Outcome::Returns(values.into_lua_multi(lua)?))
    }
}

/// Makes a Lua function of `function`.
pub fn function(lua: &Lua, function: impl Fn(&Lua, MultiValue) -> Result<Outcome> + 'static) -> Result<Function> {
    let inner = lua.create_function(move |lua, arguments: MultiValue| match function(lua, arguments)? {
        Outcome::Returns(mut values) => {
            values.push_front(Value::Nil);
            Ok(values)
        }
        Outcome::Raises(text) => (text,).into_lua_multi(lua),
        Outcome::RaisesValue(value) => (true, value).into_lua_multi(lua),
    })?;
    with_upvalues(lua, call_inner, &[Value::Function(inner)])
}

/// A function with values that it keeps.
pub(super) fn with_upvalues(lua: &Lua, function: ffi::lua_CFunction, values: &[Value]) -> Result<Function> {
    let count = values.len() as c_int;
    // SAFETY: `make_closure` is a C function of no other needs than its arguments.
    let make = unsafe { lua.create_c_function(make_closure)? };
    // SAFETY: Lua calls `function` with its own state only.
    let raw = unsafe { lua.create_c_function(function)? };
    let mut arguments = MultiValue::new();
    arguments.push_back(Value::Function(raw));
    values.iter().for_each(|value| arguments.push_back(value.clone()));
    debug_assert_eq!(arguments.len() as c_int, count + 1);
    make.call(arguments)
}

/// `(function, values…)` -> the function with these upvalues.
unsafe extern "C-unwind" fn make_closure(state: *mut lua_State) -> c_int {
    // SAFETY: the arguments are the function and its values, by `with_upvalues`; the stack has room for as many.
    unsafe {
        let function = ffi::lua_tocfunction(state, 1);
        let Some(function) = function else { return 0 };
        ffi::lua_pushcclosure(state, function, ffi::lua_gettop(state) - 1);
        1
    }
}

/// Calls the first upvalue and does what its first result says: nil, return the others; a text, raise it with the
/// caller's line; true, raise the second result.
unsafe extern "C-unwind" fn call_inner(state: *mut lua_State) -> c_int {
    // SAFETY: Lua guarantees room for 20 values beyond the arguments, and `lua_call` makes room for results.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, arguments, ffi::LUA_MULTRET);
        match ffi::lua_type(state, 1) {
            ffi::LUA_TNIL => return ffi::lua_gettop(state) - 1,
            ffi::LUA_TSTRING => {
                ffi::luaL_where(state, 1);
                ffi::lua_pushvalue(state, 1);
                ffi::lua_concat(state, 2);
            }
            _ => ffi::lua_settop(state, 2),
        }
        ffi::lua_error(state)
    }
}

/// Bytes of a pattern: each item of it may take a frame of the stack (Lua 5.1 does not bound that), about 200 bytes.
const PATTERN_BYTES_MAX: usize = 10_000;

/// The functions of the string library that take a pattern, with a bound on its length.
pub fn pattern_functions(lua: &Lua) -> Result<Table> {
    let table = lua.create_table()?;
    let library: Table = lua.globals().raw_get("string")?;
    for name in ["find", "gfind", "gmatch", "gsub", "match"] {
        let original: Value = library.raw_get(name)?;
        table.raw_set(name, with_upvalues(lua, with_pattern, &[original])?)?;
    }
    Ok(table)
}

/// Runs the upvalue, a C function without upvalues of its own, in this function's place.
unsafe extern "C-unwind" fn with_pattern(state: *mut lua_State) -> c_int {
    // SAFETY: the function finds the arguments and the frame that it would have if it were called itself.
    unsafe {
        if ffi::lua_type(state, 2) == ffi::LUA_TSTRING && ffi::lua_objlen(state, 2) > PATTERN_BYTES_MAX {
            return ffi::luaL_error(state, c"pattern too complex".as_ptr());
        }
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(1)) {
            Some(function) => function(state),
            None => 0,
        }
    }
}

/// The functions of Lua's base library that must know of protected tables, which are empty tables before the real ones:
/// `protected` has the real one of each.
pub fn base_functions(lua: &Lua, protected: &Table) -> Result<Table> {
    let table = lua.create_table()?;
    let upvalues = [Value::Table(protected.clone())];
    let rows: [(&str, ffi::lua_CFunction); 7] = [
        ("next", next),
        ("pcall", pcall),
        ("rawget", rawget),
        ("rawset", rawset),
        ("setmetatable", setmetatable),
        ("loadstring", loadstring),
        ("xpcall", xpcall),
    ];
    for (name, function) in rows {
        table.raw_set(name, with_upvalues(lua, function, &upvalues)?)?;
    }
    table.raw_set("load", with_upvalues(lua, load, &upvalues)?)?;
    let next: Value = table.raw_get("next")?;
    table.raw_set("pairs", with_upvalues(lua, pairs, &[upvalues[0].clone(), next])?)?;
    Ok(table)
}

/// Puts the real table in the place of a protected first argument; returns whether it was one.
unsafe fn see_through(state: *mut lua_State) -> bool {
    // SAFETY: there is a first argument, and room for one value.
    unsafe {
        ffi::lua_pushvalue(state, 1);
        ffi::lua_rawget(state, ffi::lua_upvalueindex(1));
        if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_replace(state, 1);
            return true;
        }
        ffi::lua_pop(state, 1);
        false
    }
}

/// Raises Redis's error for writing to a protected table, which names no line here.
unsafe fn refuse(state: *mut lua_State) -> c_int {
    // SAFETY: one value is pushed.
    unsafe {
        ffi::lua_pushstring(state, c"Attempt to modify a readonly table".as_ptr());
        ffi::lua_error(state)
    }
}

unsafe extern "C-unwind" fn pairs(state: *mut lua_State) -> c_int {
    // SAFETY: the first argument is a table, so it may be looked for; three values are pushed. The second upvalue is
    // `next`.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        // The walk goes on with the protected table: the real one never reaches a script.
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushnil(state);
        3
    }
}

unsafe extern "C-unwind" fn next(state: *mut lua_State) -> c_int {
    // SAFETY: the first argument is a table; two values are on the stack, as `lua_next` wants them.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::lua_settop(state, 2);
        see_through(state);
        if ffi::lua_next(state, 1) != 0 {
            return 2;
        }
        ffi::lua_pushnil(state);
        1
    }
}

/// As Lua's own, but an error that is a table with a text in `err`, as those of commands are, is caught as that text.
unsafe extern "C-unwind" fn pcall(state: *mut lua_State) -> c_int {
    // SAFETY: the function and its arguments are on the stack; what the call leaves is what is counted.
    unsafe {
        ffi::luaL_checkany(state, 1);
        let status = ffi::lua_pcall(state, ffi::lua_gettop(state) - 1, ffi::LUA_MULTRET, 0);
        if status != ffi::LUA_OK && ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_pushstring(state, c"err".as_ptr());
            ffi::lua_rawget(state, -2);
            match ffi::lua_isstring(state, -1) != 0 {
                true => ffi::lua_replace(state, -2),
                false => ffi::lua_pop(state, 1),
            }
        }
        ffi::lua_pushboolean(state, c_int::from(status == ffi::LUA_OK));
        ffi::lua_insert(state, 1);
        ffi::lua_gettop(state)
    }
}

/// As Lua's own, but the handler does not get to see that the script is stopped: it would run unwatched.
unsafe extern "C-unwind" fn xpcall(state: *mut lua_State) -> c_int {
    // SAFETY: two values are on the stack, and what the call leaves is what is counted.
    unsafe {
        ffi::luaL_checkany(state, 2);
        ffi::lua_settop(state, 2);
        ffi::lua_pushcclosure(state, handle, 1);
        ffi::lua_insert(state, 1);
        let status = ffi::lua_pcall(state, 0, ffi::LUA_MULTRET, 1);
        ffi::lua_pushboolean(state, c_int::from(status == ffi::LUA_OK));
        ffi::lua_replace(state, 1);
        ffi::lua_gettop(state)
    }
}

/// Calls the handler that is the upvalue, unless the error is an object: scripts have none, and raise none.
unsafe extern "C-unwind" fn handle(state: *mut lua_State) -> c_int {
    // SAFETY: the error is on the stack, which has room for the handler.
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_type(state, 1) != ffi::LUA_TUSERDATA {
            ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
            ffi::lua_insert(state, 1);
            ffi::lua_call(state, 1, 1);
        }
        1
    }
}

unsafe extern "C-unwind" fn rawget(state: *mut lua_State) -> c_int {
    // SAFETY: the first argument is a table and there is a second.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::luaL_checkany(state, 2);
        ffi::lua_settop(state, 2);
        see_through(state);
        ffi::lua_rawget(state, 1);
        1
    }
}

unsafe extern "C-unwind" fn rawset(state: *mut lua_State) -> c_int {
    // SAFETY: the first argument is a table and there are three.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::luaL_checkany(state, 2);
        ffi::luaL_checkany(state, 3);
        ffi::lua_settop(state, 3);
        if see_through(state) {
            return refuse(state);
        }
        ffi::lua_rawset(state, 1);
        1
    }
}

unsafe extern "C-unwind" fn setmetatable(state: *mut lua_State) -> c_int {
    // SAFETY: the arguments are checked; the stack has room for the field of the metatable.
    unsafe {
        let kind = ffi::lua_type(state, 2);
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        if kind != ffi::LUA_TNIL && kind != ffi::LUA_TTABLE {
            return ffi::luaL_argerror(state, 2, c"nil or table expected".as_ptr());
        }
        if see_through(state) {
            return refuse(state);
        }
        if ffi::luaL_getmetafield(state, 1, c"__metatable".as_ptr()) != 0 {
            return ffi::luaL_error(state, c"cannot change a protected metatable".as_ptr());
        }
        ffi::lua_settop(state, 2);
        ffi::lua_setmetatable(state, 1);
        1
    }
}

unsafe extern "C-unwind" fn loadstring(state: *mut lua_State) -> c_int {
    // SAFETY: the text stays on the stack, and so alive, while it is compiled.
    unsafe {
        let mut len = 0;
        let text = ffi::luaL_checklstring(state, 1, &mut len);
        let name = ffi::luaL_optstring(state, 2, text);
        compile(state, (text, len), name)
    }
}

/// Collects what the function gives, piece by piece, and compiles it.
unsafe extern "C-unwind" fn load(state: *mut lua_State) -> c_int {
    // SAFETY: the pieces are joined on the stack, two at a time, at index 3.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TFUNCTION);
        let name = ffi::luaL_optstring(state, 2, c"=(load)".as_ptr());
        ffi::lua_settop(state, 2);
        ffi::lua_pushstring(state, c"".as_ptr());
        loop {
            ffi::lua_pushvalue(state, 1);
            ffi::lua_call(state, 0, 1);
            if ffi::lua_type(state, -1) == ffi::LUA_TNIL {
                break;
            }
            let mut len = 0;
            if ffi::lua_tolstring(state, -1, &mut len).is_null() {
                return ffi::luaL_error(state, c"reader function must return a string".as_ptr());
            }
            if len == 0 {
                break;
            }
            ffi::lua_concat(state, 2);
        }
        ffi::lua_settop(state, 3);
        let mut len = 0;
        let text = ffi::lua_tolstring(state, 3, &mut len);
        compile(state, (text, len), name)
    }
}

/// Text only: what is compiled already could do anything to the interpreter.
unsafe fn compile(
    state: *mut lua_State,
    (text, len): (*const std::ffi::c_char, usize),
    name: *const std::ffi::c_char,
) -> c_int {
    // SAFETY: `text` has `len` bytes; both strings are on the stack.
    unsafe {
        if len > 0 && *text == ffi::LUA_SIGNATURE[0] as std::ffi::c_char {
            ffi::lua_pushnil(state);
            ffi::lua_pushstring(state, c"attempt to load a binary chunk".as_ptr());
            return 2;
        }
        if ffi::luaL_loadbuffer(state, text, len, name) == ffi::LUA_OK {
            return 1;
        }
        ffi::lua_pushnil(state);
        ffi::lua_insert(state, -2);
        2
    }
}
