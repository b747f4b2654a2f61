//! `bit`: operations on the 32 low bits of numbers, as the library BitOp 1.0 defines them.

use super::{Answer, Call, Failure, Outcome, library};
use mlua::{Lua, Value};

/// Adds `bit` to the globals of `lua`.
///
/// # Errors
/// Where Lua's memory does not suffice.
pub fn open(lua: &Lua) -> mlua::Result<()> {
    let table = library(
        lua,
        &[
            ("tobit", |lua, call| answer(bits(lua, call, 1)?)),
            ("bnot", |lua, call| answer(!bits(lua, call, 1)?)),
            ("band", |lua, call| fold(lua, call, |left, right| left & right)),
            ("bor", |lua, call| fold(lua, call, |left, right| left | right)),
            ("bxor", |lua, call| fold(lua, call, |left, right| left ^ right)),
            ("lshift", |lua, call| shift(lua, call, |bits, by| bits << by)),
            ("rshift", |lua, call| shift(lua, call, |bits, by| bits >> by)),
            ("arshift", |lua, call| {
                shift(lua, call, |bits, by| (bits as i32 >> by) as u32)
            }),
            ("rol", |lua, call| shift(lua, call, u32::rotate_left)),
            ("ror", |lua, call| shift(lua, call, u32::rotate_right)),
            ("bswap", |lua, call| answer(bits(lua, call, 1)?.swap_bytes())),
            ("tohex", tohex),
        ],
    )?;
    lua.globals().raw_set("bit", table)
}

/// The low 32 bits of an argument, rounded to an integer, halves to even.
fn bits(lua: &Lua, call: &Call, position: usize) -> Result<u32, Failure> {
    /// 2^52 + 2^51: beside it the unit is a double's lowest bit, so that the integer's low bits are the double's.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    Ok((call.number(lua, position)? + SHIFT).to_bits() as u32)
}

fn answer(bits: u32) -> Outcome {
    Ok(Answer::One(Value::Integer((bits as i32).into())))
}

/// band, bor and bxor. The last wrong argument is the one that is reported, but for the first.
fn fold(lua: &Lua, call: &Call, operation: fn(u32, u32) -> u32) -> Outcome {
    let mut result = bits(lua, call, 1)?;
    for position in (2..=call.count()).rev() {
        result = operation(result, bits(lua, call, position)?);
    }
    answer(result)
}

/// lshift, rshift, arshift, rol and ror.
fn shift(lua: &Lua, call: &Call, operation: fn(u32, u32) -> u32) -> Outcome {
    let value = bits(lua, call, 1)?;
    answer(operation(value, bits(lua, call, 2)? & 31))
}

/// bit.tohex(x [, n]): the low n digits, in capitals if n is negative.
fn tohex(lua: &Lua, call: &Call) -> Outcome {
    const DIGITS: usize = 8;
    let value = bits(lua, call, 1)?;
    let count = match call.count() {
        ..2 => DIGITS as i32,
        _ => bits(lua, call, 2)? as i32,
    };
    let text = match count {
        0.. => format!("{value:08x}"),
        _ => format!("{value:08X}"),
    };
    let kept = (count.unsigned_abs() as usize).min(DIGITS);
    Ok(Answer::One(Value::String(lua.create_string(&text[DIGITS - kept..])?)))
}
