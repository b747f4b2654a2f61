//! Between replies and Lua's values, as Redis converts them. All of it happens on Lua's stack: values of the `mlua`
//! crate are references that Lua keeps, and to make one is a protected call.
//!
//! `unsafe`: these functions speak Lua's C interface, and an error (there is no memory) leaves them by a long jump. So
//! none of them holds anything that must be dropped while it calls Lua.
#![allow(unsafe_code)]

use crate::number::parse_integer;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, Reply};
use mlua::ffi::{self, lua_State};
use std::ffi::{CStr, c_int};

/// How deep tables in a script's result may be nested: what the stack of a script has room for.
const DEPTH_MAX: usize = 128;

/// Values that a function may have on Lua's stack at any depth beyond those of the one that called it.
const VALUES_PER_DEPTH: c_int = 8;

/// The bytes of a string on the stack.
///
/// # Safety
/// There is a string, and it stays on the stack, or in a table that does, as long as its bytes are used.
pub unsafe fn text<'a>(state: *mut lua_State, index: c_int) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: Lua gives the address and the length of the string, which does not move.
    unsafe {
        let start = ffi::lua_tolstring(state, index, &mut len);
        std::slice::from_raw_parts(start.cast(), len)
    }
}

/// The integer that a number is, or else the number.
pub fn integer(number: f64) -> Result<i64, f64> {
    let as_integer = number as i64;
    let is_integer = (as_integer as f64).to_bits() == number.to_bits() && number < -(i64::MIN as f64);
    is_integer.then_some(as_integer).ok_or(number)
}

/// Pushes a string.
///
/// # Safety
/// The stack has room for it.
pub unsafe fn push_text(state: *mut lua_State, text: &[u8]) {
    // SAFETY: Lua copies so many bytes from there.
    unsafe {
        ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
    }
}

/// Pushes a table of strings.
///
/// # Safety
/// The stack has room for two values.
pub unsafe fn push_texts(state: *mut lua_State, texts: Arguments<'_>) {
    // SAFETY: the table is below the string that is put into it.
    unsafe {
        ffi::lua_createtable(state, c_int::try_from(texts.len()).unwrap_or(0), 0);
        for (index, text) in texts.iter().enumerate() {
            push_text(state, text);
            ffi::lua_rawseti(state, -2, index as ffi::lua_Integer + 1);
        }
    }
}

/// Pushes the value of the reply at the beginning of `bytes`, of which the rest is left. Returns false, and pushes
/// nothing, for bytes that are no reply.
///
/// # Safety
/// The stack has room for a few values, as in every function that Lua calls.
pub unsafe fn push_reply(state: *mut lua_State, bytes: &mut &[u8]) -> bool {
    let Some((kind, line)) = take_line(bytes) else {
        return false;
    };
    let count = || parse_integer(line).and_then(|count| usize::try_from(count).ok());
    // SAFETY: what nests makes sure of its room first; each arm pushes one value.
    unsafe {
        match kind {
            b':' => ffi::lua_pushnumber(state, parse_integer(line).unwrap_or_default() as f64),
            b'$' => match count() {
                None => ffi::lua_pushboolean(state, 0),
                Some(len) => push_text(state, take_bulk(bytes, len)),
            },
            b'+' => push_field(state, c"ok", |state| push_text(state, line)),
            b'-' => push_error(state, line),
            b'*' => match count() {
                None => ffi::lua_pushboolean(state, 0),
                Some(len) => push_elements(state, bytes, len),
            },
            b'_' => ffi::lua_pushnil(state),
            b'#' => ffi::lua_pushboolean(state, c_int::from(line == b"t")),
            b',' => {
                let number = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
                push_field(state, c"double", |state| {
                    ffi::lua_pushnumber(state, number.unwrap_or(f64::NAN));
                });
            }
            b'(' => push_field(state, c"big_number", |state| push_text(state, line)),
            b'=' => {
                let content = take_bulk(bytes, count().unwrap_or_default());
                push_field(state, c"verbatim_string", |state| push_verbatim(state, content));
            }
            b'%' => push_field(state, c"map", |state| {
                push_pairs(state, bytes, count().unwrap_or_default())
            }),
            b'~' => push_field(state, c"set", |state| {
                push_members(state, bytes, count().unwrap_or_default())
            }),
            b'>' => push_elements(state, bytes, count().unwrap_or_default()),
            _ => return false,
        }
    }
    true
}

/// Pushes the table that an error reply is to a script.
///
/// # Safety
/// See [`push_reply`].
pub unsafe fn push_error(state: *mut lua_State, text: &[u8]) {
    // SAFETY: the table is below the values that are put into it.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        set_field(state, c"err", |state| push_text(state, text));
        set_field(state, c"ignore_error_stats_update", |state| {
            ffi::lua_pushboolean(state, 1)
        });
    }
}

/// Pushes a table with one field, whose value `push` pushes.
unsafe fn push_field(state: *mut lua_State, name: &CStr, push: impl FnOnce(*mut lua_State)) {
    // SAFETY: the table is below the value that is put into it.
    unsafe {
        ffi::lua_createtable(state, 0, 1);
        set_field(state, name, push);
    }
}

/// Sets a field of the table at the top of the stack to the value that `push` pushes.
unsafe fn set_field(state: *mut lua_State, name: &CStr, push: impl FnOnce(*mut lua_State)) {
    // SAFETY: the name and the value are above the table.
    unsafe {
        push_text(state, name.to_bytes());
        push(state);
        ffi::lua_rawset(state, -3);
    }
}

unsafe fn push_verbatim(state: *mut lua_State, content: &[u8]) {
    let (format, text) = content.split_at(content.len().min(4));
    // SAFETY: the table is below the values that are put into it.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        set_field(state, c"string", |state| push_text(state, text));
        set_field(state, c"format", |state| {
            push_text(state, &format[..format.len().min(3)])
        });
    }
}

/// Pushes a table of the replies at the beginning of `bytes`.
unsafe fn push_elements(state: *mut lua_State, bytes: &mut &[u8], count: usize) {
    // SAFETY: there is room, and the table is below the element that is put into it.
    unsafe {
        ffi::luaL_checkstack(state, VALUES_PER_DEPTH, std::ptr::null());
        let places = c_int::try_from(count.min(bytes.len())).unwrap_or(0);
        ffi::lua_createtable(state, places, 0);
        for position in 1..=count {
            if !push_reply(state, bytes) {
                break;
            }
            // By its position, so that a null leaves a gap.
            ffi::lua_rawseti(state, -2, position as ffi::lua_Integer);
        }
    }
}

/// Pushes a table of pairs of replies.
unsafe fn push_pairs(state: *mut lua_State, bytes: &mut &[u8], count: usize) {
    // SAFETY: there is room, and the table is below the pair that is put into it.
    unsafe {
        ffi::luaL_checkstack(state, VALUES_PER_DEPTH, std::ptr::null());
        ffi::lua_createtable(state, 0, c_int::try_from(count.min(bytes.len())).unwrap_or(0));
        for _ in 0..count {
            if !push_reply(state, bytes) {
                break;
            }
            if !push_reply(state, bytes) {
                ffi::lua_pop(state, 1);
                break;
            }
            ffi::lua_rawset(state, -3);
        }
    }
}

/// Pushes a table whose keys are replies.
unsafe fn push_members(state: *mut lua_State, bytes: &mut &[u8], count: usize) {
    // SAFETY: there is room, and the table is below the member that is put into it.
    unsafe {
        ffi::luaL_checkstack(state, VALUES_PER_DEPTH, std::ptr::null());
        ffi::lua_createtable(state, 0, c_int::try_from(count.min(bytes.len())).unwrap_or(0));
        for _ in 0..count {
            if !push_reply(state, bytes) {
                break;
            }
            ffi::lua_pushboolean(state, 1);
            ffi::lua_rawset(state, -3);
        }
    }
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

/// Writes a script's result, which is at the top of the stack, as its reply, and leaves it there. `script_version` is
/// what `redis.setresp` chose: booleans are booleans only then.
///
/// # Safety
/// See [`push_reply`].
pub unsafe fn write_result(state: *mut lua_State, reply: &mut Reply<'_>, script_version: Version) {
    // SAFETY: the caller's.
    unsafe { write(state, reply, script_version, 0) }
}

unsafe fn write(state: *mut lua_State, reply: &mut Reply<'_>, script_version: Version, depth: usize) {
    // SAFETY: there is a value at the top, of which the type is known where it is used; there is room for more.
    unsafe {
        if depth > DEPTH_MAX || ffi::lua_checkstack(state, VALUES_PER_DEPTH) == 0 {
            reply.error("ERR reached lua stack limit");
            return;
        }
        match ffi::lua_type(state, -1) {
            ffi::LUA_TSTRING => reply.bulk(text(state, -1)),
            ffi::LUA_TBOOLEAN => match (script_version, ffi::lua_toboolean(state, -1) != 0) {
                (Version::Resp3, value) => reply.boolean(value),
                (Version::Resp2, true) => reply.integer(1),
                (Version::Resp2, false) => reply.null(),
            },
            ffi::LUA_TNUMBER => reply.integer(truncated(ffi::lua_tonumber(state, -1))),
            ffi::LUA_TTABLE => write_table(state, reply, script_version, depth),
            _ => reply.null(),
        }
    }
}

/// What C makes of a double that is cast to a long long: a number that does not fit becomes the lowest.
fn truncated(number: f64) -> i64 {
    // 2^63: the next number below it fits.
    match number.abs() < 9_223_372_036_854_775_808.0 {
        true => number as i64,
        false => i64::MIN,
    }
}

/// Pushes a field of the table at the top of the stack if it is of this type; returns whether it is.
unsafe fn push_field_of(state: *mut lua_State, name: &CStr, kind: c_int) -> bool {
    // SAFETY: there is a table at the top, which the name replaces itself in.
    unsafe {
        push_text(state, name.to_bytes());
        ffi::lua_rawget(state, -2);
        let is_of_kind = ffi::lua_type(state, -1) == kind;
        if !is_of_kind {
            ffi::lua_pop(state, 1);
        }
        is_of_kind
    }
}

unsafe fn write_table(state: *mut lua_State, reply: &mut Reply<'_>, script_version: Version, depth: usize) {
    // SAFETY: there is a table at the top, and room; what is found in it is taken off again.
    unsafe {
        if push_field_of(state, c"err", ffi::LUA_TSTRING) {
            reply.error(text(state, -1));
        } else if push_field_of(state, c"ok", ffi::LUA_TSTRING) {
            write_status(reply, text(state, -1));
        } else if push_field_of(state, c"double", ffi::LUA_TNUMBER) {
            reply.double(ffi::lua_tonumber(state, -1));
        } else if push_field_of(state, c"map", ffi::LUA_TTABLE) {
            let pairs = count_pairs(state);
            reply.map(pairs);
            write_pairs(state, reply, script_version, depth, true);
        } else if push_field_of(state, c"set", ffi::LUA_TTABLE) {
            let members = count_pairs(state);
            reply.set(members);
            write_pairs(state, reply, script_version, depth, false);
        } else if push_field_of(state, c"big_number", ffi::LUA_TSTRING) {
            write_big_number(reply, text(state, -1));
        } else if push_field_of(state, c"verbatim_string", ffi::LUA_TTABLE) {
            if !write_verbatim(state, reply) {
                ffi::lua_pop(state, 1);
                return write_elements(state, reply, script_version, depth);
            }
        } else {
            return write_elements(state, reply, script_version, depth);
        }
        ffi::lua_pop(state, 1);
    }
}

/// Without line breaks, which would end it.
fn write_status(reply: &mut Reply<'_>, text: &[u8]) {
    let is_break = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let shown = text.iter().map(|byte| if is_break(byte) { b' ' } else { *byte });
    reply.raw(b"+");
    match text.iter().any(is_break) {
        true => reply.raw(&shown.collect::<Vec<u8>>()),
        false => reply.raw(text),
    }
    reply.raw(b"\r\n");
}

fn write_big_number(reply: &mut Reply<'_>, digits: &[u8]) {
    reply.big_number(&String::from_utf8_lossy(digits).replace(['\r', '\n'], " "));
}

fn write_verbatim_text(reply: &mut Reply<'_>, format: &[u8], text: &[u8]) {
    let letters: String = String::from_utf8_lossy(format).chars().take(3).collect();
    match letters.len() {
        3 => reply.verbatim(&letters, text),
        _ => reply.verbatim("txt", text),
    }
}

/// Writes the verbatim string that the table at the top of the stack says; returns false if it says none.
unsafe fn write_verbatim(state: *mut lua_State, reply: &mut Reply<'_>) -> bool {
    // SAFETY: there is a table at the top; what is found in it is taken off again.
    unsafe {
        if !push_field_of(state, c"format", ffi::LUA_TSTRING) {
            return false;
        }
        ffi::lua_insert(state, -2);
        let has_text = push_field_of(state, c"string", ffi::LUA_TSTRING);
        if has_text {
            write_verbatim_text(reply, text(state, -3), text(state, -1));
            ffi::lua_pop(state, 1);
        }
        ffi::lua_remove(state, -2);
        has_text
    }
}

/// How many pairs the table at the top of the stack has.
unsafe fn count_pairs(state: *mut lua_State) -> usize {
    // SAFETY: the walk begins with nil, and takes each value off.
    unsafe {
        let mut count = 0;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, -2) != 0 {
            ffi::lua_pop(state, 1);
            count += 1;
        }
        count
    }
}

/// Writes the keys of the table at the top of the stack, each with its value if `with_values`.
unsafe fn write_pairs(
    state: *mut lua_State,
    reply: &mut Reply<'_>,
    script_version: Version,
    depth: usize,
    with_values: bool,
) {
    // SAFETY: the key is copied, so that the walk goes on from it as it was; what is written stays on the stack.
    unsafe {
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, -2) != 0 {
            ffi::lua_pushvalue(state, -2);
            write(state, reply, script_version, depth + 1);
            ffi::lua_pop(state, 1);
            if with_values {
                write(state, reply, script_version, depth + 1);
            }
            ffi::lua_pop(state, 1);
        }
    }
}

/// Writes the elements of the table at the top of the stack, up to the first gap.
unsafe fn write_elements(state: *mut lua_State, reply: &mut Reply<'_>, script_version: Version, depth: usize) {
    // SAFETY: there is a table at the top, and room for an element.
    unsafe {
        let mut count = 0;
        loop {
            let is_end = ffi::lua_rawgeti(state, -1, count + 1) == ffi::LUA_TNIL;
            ffi::lua_pop(state, 1);
            if is_end {
                break;
            }
            count += 1;
        }
        reply.array(count as usize);
        for position in 1..=count {
            ffi::lua_rawgeti(state, -1, position);
            write(state, reply, script_version, depth + 1);
            ffi::lua_pop(state, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a script replies that returns what it was answered (`None` for no reply), and how many bytes of `reply` are
    /// left.
    fn returned(reply: &[u8], version: Version) -> (Option<Vec<u8>>, usize) {
        let (mut bytes, mut left) = (Vec::new(), reply);
        let (mut is_reply, mut values) = (false, [0; 2]);
        let (out, pushed, depths) = (&mut bytes, &mut is_reply, &mut values);
        // SAFETY: what is pushed is taken off by `exec_raw`.
        let outcome = unsafe {
            mlua::Lua::new().exec_raw::<()>((), |state| {
                *pushed = push_reply(state, &mut left);
                depths[0] = ffi::lua_gettop(state);
                if *pushed {
                    write_result(state, &mut Reply::new(out, version), version);
                }
                depths[1] = ffi::lua_gettop(state);
                ffi::lua_settop(state, 0);
            })
        };
        assert!(outcome.is_ok());
        assert_eq!(values, [c_int::from(is_reply); 2], "one value is pushed and stays");
        (is_reply.then_some(bytes), left.len())
    }

    #[test]
    fn numbers_up_to_two_to_the_63_are_cut_and_others_are_the_lowest() {
        let highest = 9_223_372_036_854_774_784_i64;
        for number in [highest, -highest, 0, -1] {
            assert_eq!(truncated(number as f64), number);
        }
        for number in [2_f64.powi(63), -(2_f64.powi(63)), f64::INFINITY, f64::NAN] {
            assert_eq!(truncated(number), i64::MIN, "{number}");
        }
        assert_eq!((truncated(3.99), truncated(-3.99)), (3, -3));
    }

    #[test]
    fn a_reply_that_a_script_returns_is_the_same_again() {
        let nested = b"*3\r\n$3\r\na\0b\r\n*2\r\n:-7\r\n*0\r\n+QUEUED\r\n";
        let both: [&[u8]; 7] = [
            b":12\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"+OK\r\n",
            b"-ERR no\r\n",
            b"*0\r\n",
            nested,
        ];
        for reply in both {
            assert_eq!(returned(reply, Version::Resp2), (Some(reply.to_vec()), 0));
        }
        let third: [&[u8]; 8] = [
            b"_\r\n",
            b"#t\r\n",
            b"#f\r\n",
            b",1.5\r\n",
            b"(12345678901234567890\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"%1\r\n$1\r\na\r\n*1\r\n:1\r\n",
            b"~1\r\n$1\r\na\r\n",
        ];
        for reply in third {
            assert_eq!(returned(reply, Version::Resp3), (Some(reply.to_vec()), 0));
        }
        let two = [b"=5\r\ntxt:a\r\n".as_slice(), b":1\r\n"].concat();
        assert_eq!(returned(&two, Version::Resp2), (Some(b"$1\r\na\r\n".to_vec()), 4));
    }

    #[test]
    fn what_is_cut_off_is_no_reply_or_a_shorter_one() {
        let whole = b"*2\r\n%1\r\n$1\r\na\r\n:1\r\n~2\r\n$3\r\nabc\r\n#t\r\n";
        for len in 0..whole.len() {
            let (reply, _) = returned(&whole[..len], Version::Resp3);
            assert_eq!(reply.is_some(), len >= 4, "the first {len} bytes");
        }
    }

    #[test]
    fn integers_are_told_from_other_numbers_up_to_their_bounds() {
        let last = 9_223_372_036_854_774_784.0;
        assert_eq!(integer(3.0), Ok(3));
        assert_eq!(integer(-9_223_372_036_854_775_808.0), Ok(i64::MIN));
        assert_eq!(integer(last), Ok(i64::MAX - 1023));
        for number in [0.5, -0.0, 9_223_372_036_854_775_808.0, f64::INFINITY, 1e300] {
            assert_eq!(integer(number).map_err(f64::to_bits), Err(number.to_bits()));
        }
        assert!(integer(f64::NAN).is_err());
    }
}
