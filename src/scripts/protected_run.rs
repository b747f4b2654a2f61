//! Runs a script or a function in one protected call: KEYS and ARGV are made, the code runs, and its result is written
//! as a reply, all on Lua's stack.
//!
//! `unsafe`: as in [`raise`](super::raise). What the call needs lies with the caller, whom a long jump does not pass
//! by.
#![allow(unsafe_code)]

use super::convert;
use super::raise;
use super::script::Shared;
use crate::protocol::{Arguments, Reply, Version};
use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua, Result, Table, Value};
use std::ffi::c_int;

/// The place of a compiled function in the table of functions of its interpreter.
pub type Place = i32;

/// What is run.
pub struct Job<'a> {
    /// The code.
    pub place: Place,
    /// Whether KEYS and ARGV are arguments of the code, as those of a library's function are, or global variables.
    pub are_arguments: bool,
    /// How many of the arguments that `shared` has are keys.
    pub key_count: usize,
    /// In which version the result is written.
    pub version: Version,
    /// Has the arguments, and gets the reply.
    pub shared: &'a Shared,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// The reply is written.
    Replied,
    /// There was an error, which the function `explain` knows more of.
    Failed,
    /// There was no memory.
    OutOfMemory,
}

/// What runs the code of one interpreter.
pub struct Runner {
    /// Keeps the interpreter alive.
    _lua: Lua,
    /// The interpreter's main thread.
    state: *mut lua_State,
    /// The numbers in the registry of the function that runs a job and of the one that explains errors.
    run: c_int,
    explain: c_int,
}

impl Runner {
    /// Runs functions of the table `functions`, whose KEYS and ARGV go to the table `globals`. An error is passed to
    /// `explain` where it was raised.
    pub fn new(lua: &Lua, functions: &Table, globals: &Table, explain: &Function) -> Result<Runner> {
        let upvalues = [
            Value::Table(functions.clone()),
            Value::Table(globals.clone()),
            Value::String(lua.create_string("KEYS")?),
            Value::String(lua.create_string("ARGV")?),
        ];
        let run = raise::with_upvalues(lua, run_job, &upvalues)?;
        let mut runner = Runner {
            _lua: lua.clone(),
            state: std::ptr::null_mut(),
            run: 0,
            explain: 0,
        };
        let own = &mut runner;
        // SAFETY: both functions are on the stack, and each is taken off once. Outside of all calls, as here, the state
        // is that of the main thread.
        unsafe {
            lua.exec_raw::<()>((run, explain.clone()), |state| {
                own.explain = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
                own.run = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
                own.state = state;
            })?;
        }
        Ok(runner)
    }

    /// Runs a job in the interpreter that the runner was made for, which runs nothing else.
    pub fn run(&self, job: &mut Job<'_>) -> Ran {
        // SAFETY: the main thread lives as long as its interpreter. None of these functions raises an error, and there
        // is room for what they push as between any two calls; the job is alive until the protected call is over, and
        // what that leaves is taken off.
        unsafe {
            let state = self.state;
            let top = ffi::lua_gettop(state);
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, self.explain.into());
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, self.run.into());
            ffi::lua_pushlightuserdata(state, std::ptr::from_mut(job).cast());
            let status = ffi::lua_pcall(state, 1, 0, top + 1);
            ffi::lua_settop(state, top);
            match status {
                ffi::LUA_OK => Ran::Replied,
                ffi::LUA_ERRRUN => Ran::Failed,
                _ => Ran::OutOfMemory,
            }
        }
    }
}

/// `(job)`. Its upvalues are the functions, the global variables, and the names of two of these.
unsafe extern "C-unwind" fn run_job(state: *mut lua_State) -> c_int {
    let upvalue = |number| ffi::lua_upvalueindex(number);
    // SAFETY: the argument is a job, by `Runner::run`. The arguments are in Lua's tables before any code of a script
    // runs, which may use their place; a function of ours has room for 20 values.
    unsafe {
        let job = &*ffi::lua_touserdata(state, 1).cast::<Job<'_>>();
        let shared = job.shared;
        let arguments: Arguments<'_> = shared.arguments();
        let (keys, others) = (arguments.range(0, job.key_count), arguments.from(job.key_count));
        ffi::lua_settop(state, 0);
        ffi::lua_rawgeti(state, upvalue(1), job.place.into());
        let count = match job.are_arguments {
            true => {
                // By reference: an array's own iterator is dropped, which a long jump would leave out.
                for &name in &[3, 4] {
                    ffi::lua_pushvalue(state, upvalue(name));
                    ffi::lua_pushnil(state);
                    ffi::lua_rawset(state, upvalue(2));
                }
                convert::push_texts(state, keys);
                convert::push_texts(state, others);
                2
            }
            false => {
                for &(name, texts) in &[(3, keys), (4, others)] {
                    ffi::lua_pushvalue(state, upvalue(name));
                    convert::push_texts(state, texts);
                    ffi::lua_rawset(state, upvalue(2));
                }
                0
            }
        };
        ffi::lua_call(state, count, 1);
        let mut reply = Reply::new(shared.reply_mut(), job.version);
        convert::write_result(state, &mut reply, shared.version.get());
    }
    0
}
