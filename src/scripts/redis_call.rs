//! `redis.call` and `redis.pcall`: a script's command goes to whoever drives the script, and its reply becomes a value.
//! Every script spends most of its calls here, so these speak Lua's C interface instead of going through values of the
//! `mlua` crate, each of which is a protected call of its own.
//!
//! `unsafe`: as in [`raise`](super::raise), nothing that must be dropped is held while Lua may raise an error, because
//! the error leaves these functions by a long jump. What they need beyond Lua's stack lies in [`Shared`], which lives
//! as long as the interpreter.
#![allow(unsafe_code)]

use super::convert;
use super::raise;
use super::script::{Input, Shared, Step};
use crate::protocol::format_double;
use mlua::ffi::{self, lua_State};
use mlua::{Function, LightUserData, Lua, Result, Value};
use std::ffi::c_int;
use std::rc::Rc;

/// What a call comes to.
enum Answer {
    /// The reply is in [`Shared`].
    Reply,
    /// The call was not made, with this error.
    Refused(&'static str),
    /// No script runs, only the code of a library.
    Nowhere,
    /// The script is stopped.
    Stopped,
}

/// The function `redis.call`, whose errors are raised, or else `redis.pcall`, whose errors are returned.
pub fn function(lua: &Lua, shared: &Rc<Shared>, raises: bool) -> Result<Function> {
    let shared = LightUserData(Rc::as_ptr(shared).cast_mut().cast());
    let upvalues = [Value::LightUserData(shared), Value::Boolean(raises)];
    raise::with_upvalues(lua, call, &upvalues)
}

unsafe extern "C-unwind" fn call(state: *mut lua_State) -> c_int {
    // SAFETY: the first upvalue is the interpreter's `Shared`, which lives longer than scripts run; the reply lies
    // there until the next call, and a call cannot come in between.
    unsafe {
        let shared = &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast::<Shared>();
        let answer = ask(state, shared);
        ffi::lua_settop(state, 0);
        let is_error = match answer {
            Answer::Reply => {
                let reply: *const [u8] = shared.reply();
                if !convert::push_reply(state, &mut &*reply) {
                    ffi::lua_pushnil(state);
                }
                (*reply).first() == Some(&b'-')
            }
            Answer::Refused(text) => {
                convert::push_error(state, text.as_bytes());
                true
            }
            Answer::Nowhere => {
                let text = "ERR redis.call/pcall can only be called inside a script invocation";
                convert::push_error(state, text.as_bytes());
                ffi::lua_error(state)
            }
            Answer::Stopped => {
                // The next instruction fails.
                ffi::lua_sethook(state, ffi::lua_gethook(state), ffi::lua_gethookmask(state), 1);
                return 0;
            }
        };
        match is_error && ffi::lua_toboolean(state, ffi::lua_upvalueindex(2)) != 0 {
            true => ffi::lua_error(state),
            false => 1,
        }
    }
}

/// Collects the arguments, which are on the stack, and suspends the script until they are answered.
///
/// # Safety
/// `state` is the one that the running function was called with.
unsafe fn ask(state: *mut lua_State, shared: &Shared) -> Answer {
    // SAFETY: only arguments that there are are looked at, and none is converted in its place. None of what is called
    // here raises an error.
    unsafe {
        let count = ffi::lua_gettop(state);
        if count == 0 {
            return Answer::Refused("ERR Please specify at least one argument for this redis lib call");
        }
        let mut call = shared.take_call();
        call.begin(shared.version.get());
        for position in 1..=count {
            let fits = match ffi::lua_type(state, position) {
                ffi::LUA_TSTRING => call.push(convert::text(state, position)),
                ffi::LUA_TNUMBER => match convert::integer(ffi::lua_tonumber(state, position)) {
                    Ok(number) => call.push(itoa::Buffer::new().format(number).as_bytes()),
                    Err(number) => call.push(format_double(number).as_bytes()),
                },
                _ => {
                    shared.put_call(call);
                    return Answer::Refused("ERR Lua redis lib command arguments must be strings or integers");
                }
            };
            if !fits {
                shared.put_call(call);
                return Answer::Refused("ERR the command's arguments take more than 4 GiB");
            }
        }
        if !shared.is_script_running() {
            shared.put_call(call);
            return Answer::Nowhere;
        }
        match shared.suspend(Step::Call(call)) {
            Some(Input::Reply(call, _)) => {
                shared.put_call(call);
                Answer::Reply
            }
            Some(Input::Go | Input::Stop(_)) | None => Answer::Stopped,
        }
    }
}
