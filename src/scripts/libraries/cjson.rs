//! `cjson`: JSON as the library lua-cjson 2.1.0 writes and reads it, with the settings that Redis gives it.
//!
//! An empty table is an object. null is `cjson.null`, a light userdata. Strings are bytes: invalid UTF-8 passes
//! unchanged. Numbers have 14 digits. `cjson.new()` makes a library with settings of its own.

use super::{Answer, Call, Failure, NESTING_MAX, Next, Outcome, entries_if_few, function, type_name};
use mlua::{Lua, Table, Value};
use rustc_apfloat::Float;
use rustc_apfloat::ieee::Double;
use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

/// Adds `cjson` to the globals of `lua`.
///
/// # Errors
/// Where Lua's memory does not suffice.
pub fn open(lua: &Lua) -> mlua::Result<()> {
    let table = instance(lua)?;
    lua.globals().raw_set("cjson", table)
}

/// What the functions of one instance can be told.
struct Settings {
    sparse_convert: Cell<bool>,
    sparse_ratio: Cell<i32>,
    sparse_safe: Cell<i32>,
    encode_max_depth: Cell<i32>,
    decode_max_depth: Cell<i32>,
    number_precision: Cell<i32>,
    /// Without effect: a buffer is made for each call.
    keep_buffer: Cell<bool>,
    encode_invalid_numbers: Cell<InvalidNumbers>,
    decode_invalid_numbers: Cell<bool>,
}

/// What NaN and the infinities become.
#[derive(Clone, Copy, PartialEq)]
enum InvalidNumbers {
    Refused,
    /// Words that are no JSON.
    Written,
    Null,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sparse_convert: Cell::new(false),
            sparse_ratio: Cell::new(2),
            sparse_safe: Cell::new(10),
            encode_max_depth: Cell::new(1000),
            decode_max_depth: Cell::new(1000),
            number_precision: Cell::new(14),
            keep_buffer: Cell::new(true),
            encode_invalid_numbers: Cell::new(InvalidNumbers::Refused),
            decode_invalid_numbers: Cell::new(true),
        }
    }
}

type Body = fn(&Lua, &Settings, &Call) -> Outcome;

fn instance(lua: &Lua) -> mlua::Result<Table> {
    const FUNCTIONS: &[(&str, Body)] = &[
        ("decode", decode),
        ("encode_sparse_array", encode_sparse_array),
        ("encode_max_depth", |lua, settings, call| {
            whole_number(lua, call, &settings.encode_max_depth, i32::MAX)
        }),
        ("decode_max_depth", |lua, settings, call| {
            whole_number(lua, call, &settings.decode_max_depth, i32::MAX)
        }),
        ("encode_number_precision", |lua, settings, call| {
            whole_number(lua, call, &settings.number_precision, 14)
        }),
        ("encode_keep_buffer", |lua, settings, call| {
            switch(lua, call, &settings.keep_buffer)
        }),
        ("encode_invalid_numbers", encode_invalid_numbers),
        ("decode_invalid_numbers", |lua, settings, call| {
            switch(lua, call, &settings.decode_invalid_numbers)
        }),
    ];
    let settings = Rc::new(Settings::default());
    let table = lua.create_table()?;
    for (name, body) in FUNCTIONS {
        let settings = Rc::clone(&settings);
        let body = move |lua: &Lua, call: Call| body(lua, &settings, &call);
        table.raw_set(*name, function(lua, "too many arguments", body)?)?;
    }
    let next = Next::of(lua)?;
    let encode = move |lua: &Lua, call: Call| encode(lua, &settings, &next, &call);
    table.raw_set("encode", function(lua, "too many arguments", encode)?)?;
    let new = |lua: &Lua, _: Call| Ok(Answer::One(Value::Table(instance(lua)?)));
    table.raw_set("new", function(lua, "too many arguments", new)?)?;
    table.raw_set("null", Value::NULL)?;
    table.raw_set("_NAME", "cjson")?;
    table.raw_set("_VERSION", "2.1.0")?;
    Ok(table)
}

// ---- Settings ----

fn arguments_at_most(call: &Call, count: usize) -> Result<(), Failure> {
    match call.count() > count {
        true => Err(Failure::argument(count + 1, "found too many arguments")),
        false => Ok(()),
    }
}

/// Sets a number if the argument is not nil, and answers with it.
fn set_number(
    lua: &Lua,
    call: &Call,
    position: usize,
    setting: &Cell<i32>,
    bounds: (i32, i32),
) -> Result<Value, Failure> {
    if !call.get(position).is_nil() {
        let (min, max) = bounds;
        let number = call.integer(lua, position)? as i32;
        if !(min..=max).contains(&number) {
            let text = format!("expected integer between {min} and {max}");
            // Of whichever argument: lua-cjson names the first.
            return Err(Failure::argument(1, text));
        }
        setting.set(number);
    }
    Ok(Value::Integer(setting.get().into()))
}

fn whole_number(lua: &Lua, call: &Call, setting: &Cell<i32>, max: i32) -> Outcome {
    arguments_at_most(call, 1)?;
    set_number(lua, call, 1, setting, (1, max)).map(Answer::One)
}

/// Which of the words the argument is.
fn option(lua: &Lua, call: &Call, position: usize, words: &[&str]) -> Result<usize, Failure> {
    let text = call.string(lua, position)?;
    let text = text.as_bytes();
    let found = words.iter().position(|word| word.as_bytes() == &*text);
    found.ok_or_else(|| {
        let shown = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Failure::argument(position, [&b"invalid option '"[..], shown, b"'"].concat())
    })
}

/// Sets a switch if the argument is not nil: a boolean, "on" or "off".
fn set_switch(lua: &Lua, call: &Call, position: usize, setting: &Cell<bool>) -> Result<Value, Failure> {
    match call.get(position) {
        Value::Nil => {}
        Value::Boolean(is_on) => setting.set(*is_on),
        _ => setting.set(option(lua, call, position, &["off", "on"])? == 1),
    }
    Ok(Value::Boolean(setting.get()))
}

fn switch(lua: &Lua, call: &Call, setting: &Cell<bool>) -> Outcome {
    arguments_at_most(call, 1)?;
    set_switch(lua, call, 1, setting).map(Answer::One)
}

/// cjson.encode_sparse_array([convert [, ratio [, safe]]]): an array is sparse if its largest key is above `safe` and
/// above `ratio` times the number of its elements; a ratio of 0 makes none sparse.
fn encode_sparse_array(lua: &Lua, settings: &Settings, call: &Call) -> Outcome {
    arguments_at_most(call, 3)?;
    let bounds = (0, i32::MAX);
    Ok(Answer::Many(vec![
        set_switch(lua, call, 1, &settings.sparse_convert)?,
        set_number(lua, call, 2, &settings.sparse_ratio, bounds)?,
        set_number(lua, call, 3, &settings.sparse_safe, bounds)?,
    ]))
}

fn encode_invalid_numbers(lua: &Lua, settings: &Settings, call: &Call) -> Outcome {
    use InvalidNumbers::{Null, Refused, Written};
    arguments_at_most(call, 1)?;
    let setting = &settings.encode_invalid_numbers;
    match call.get(1) {
        Value::Nil => {}
        Value::Boolean(true) => setting.set(Written),
        Value::Boolean(false) => setting.set(Refused),
        _ => setting.set([Refused, Written, Null][option(lua, call, 1, &["off", "on", "null"])?]),
    }
    Ok(Answer::One(match setting.get() {
        Null => Value::String(lua.create_string("null")?),
        now => Value::Boolean(now == Written),
    }))
}

// ---- Writing ----

/// A table that is being written.
enum Open {
    Array {
        table: Table,
        len: i32,
        place: i32,
    },
    Object {
        table: Table,
        key: Value,
    },
    /// All of a small object.
    Entries {
        rest: std::vec::IntoIter<(Value, Value)>,
        is_first: bool,
    },
}

/// cjson.encode(value). Without recursion: a script chooses how deep its tables are.
fn encode(lua: &Lua, settings: &Settings, next: &Next, call: &Call) -> Outcome {
    if call.count() != 1 {
        return Err(Failure::argument(1, "expected 1 argument"));
    }
    let mut out = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut value = Some(call.get(1).clone());
    loop {
        if let Some(value) = value.take() {
            put_value(settings, &mut out, &mut open, value)?;
        }
        match open.last_mut() {
            None => break,
            Some(Open::Array { len, place, .. }) if place == len => {
                out.push(b']');
                open.pop();
            }
            Some(Open::Array { table, place, .. }) => {
                if *place > 0 {
                    out.push(b',');
                }
                *place += 1;
                value = Some(table.raw_get(*place)?);
            }
            Some(Open::Entries { rest, is_first }) => {
                let Some((key, element)) = rest.next() else {
                    out.push(b'}');
                    open.pop();
                    continue;
                };
                if !std::mem::take(is_first) {
                    out.push(b',');
                }
                put_key(settings, &mut out, &key)?;
                value = Some(element);
            }
            Some(Open::Object { table, key }) => {
                let Some((this, element)) = next.entry(table, key)? else {
                    out.push(b'}');
                    open.pop();
                    continue;
                };
                if !key.is_nil() {
                    out.push(b',');
                }
                put_key(settings, &mut out, &this)?;
                *key = this;
                value = Some(element);
            }
        }
    }
    Ok(Answer::One(Value::String(lua.create_string(out)?)))
}

fn refuse(value: &Value, reason: &str) -> Failure {
    Failure::error(format!("Cannot serialise {}: {reason}", type_name(value)))
}

/// Writes a value, or the beginning of a table, which is then open.
fn put_value(settings: &Settings, out: &mut Vec<u8>, open: &mut Vec<Open>, value: Value) -> Result<(), Failure> {
    match &value {
        Value::String(text) => put_string(out, &text.as_bytes()),
        Value::Integer(_) | Value::Number(_) => put_number(settings, out, &value)?,
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(pointer) if pointer.0.is_null() => out.extend_from_slice(b"null"),
        Value::Table(table) => {
            let depth = open.len() + 1;
            if depth > NESTING_MAX || depth > settings.encode_max_depth.get() as usize {
                return Err(Failure::error(format!("Cannot serialise, excessive nesting ({depth})")));
            }
            let table = table.clone();
            let few = entries_if_few(&table, depth)?;
            let len = match &few {
                Some(few) => array_length(settings, few.iter().map(|(key, _)| Ok(key.clone())))?,
                None => array_length(settings, table.pairs::<Value, Value>().map(|entry| Ok(entry?.0)))?,
            };
            match (len, few) {
                (Some(len), _) => {
                    out.push(b'[');
                    open.push(Open::Array { table, len, place: 0 });
                }
                (None, Some(few)) => {
                    out.push(b'{');
                    let rest = few.into_iter();
                    open.push(Open::Entries { rest, is_first: true });
                }
                (None, None) => {
                    out.push(b'{');
                    let key = Value::Nil;
                    open.push(Open::Object { table, key });
                }
            }
        }
        _ => return Err(refuse(&value, "type not supported")),
    }
    Ok(())
}

/// The largest key of a table that is an array: one with positive integers as keys and nothing else.
fn array_length(settings: &Settings, keys: impl Iterator<Item = mlua::Result<Value>>) -> Result<Option<i32>, Failure> {
    let mut largest: i32 = 0;
    let mut elements: i32 = 0;
    for key in keys {
        let number = match key? {
            Value::Integer(key) if key >= 1 => key as f64,
            Value::Number(key) if key >= 1.0 && key.floor() == key => key,
            _ => return Ok(None),
        };
        if number > largest.into() {
            // Beyond 32 bits it becomes the smallest integer, as in C on x86, and with that the table an object.
            largest = if number > i32::MAX.into() {
                i32::MIN
            } else {
                number as i32
            };
        }
        elements = elements.wrapping_add(1);
    }
    let ratio = settings.sparse_ratio.get();
    if ratio > 0 && largest > elements.wrapping_mul(ratio) && largest > settings.sparse_safe.get() {
        return match settings.sparse_convert.get() {
            true => Ok(None),
            false => Err(Failure::error("Cannot serialise table: excessively sparse array")),
        };
    }
    Ok((largest > 0).then_some(largest))
}

fn put_key(settings: &Settings, out: &mut Vec<u8>, key: &Value) -> Result<(), Failure> {
    match key {
        Value::String(text) => put_string(out, &text.as_bytes()),
        Value::Integer(_) | Value::Number(_) => {
            out.push(b'"');
            put_number(settings, out, key)?;
            out.push(b'"');
        }
        _ => return Err(refuse(key, "table key must be a number or string")),
    }
    out.push(b':');
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' | b'/' => out.extend_from_slice(&[b'\\', *byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            ..0x20 | 0x7f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

fn put_number(settings: &Settings, out: &mut Vec<u8>, value: &Value) -> Result<(), Failure> {
    let number = match value {
        Value::Integer(integer) => *integer as f64,
        Value::Number(number) => *number,
        _ => return Err(refuse(value, "type not supported")),
    };
    if !number.is_finite() {
        let word = match number {
            _ if settings.encode_invalid_numbers.get() == InvalidNumbers::Null => "null",
            _ if settings.encode_invalid_numbers.get() == InvalidNumbers::Refused => {
                return Err(refuse(value, "must not be NaN or Inf"));
            }
            number if number.is_nan() => "nan",
            number if number < 0.0 => "-inf",
            _ => "inf",
        };
        out.extend_from_slice(word.as_bytes());
        return Ok(());
    }
    out.extend_from_slice(format_general(number, settings.number_precision.get() as usize).as_bytes());
    Ok(())
}

/// A finite number as C's `%.*g` prints it: so many digits, without zeros at the end, with an exponent if it is below
/// -4 or not below the number of digits.
fn format_general(number: f64, digits: usize) -> String {
    let scientific = format!("{number:.*e}", digits.max(1) - 1);
    let Some((significand, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(significand), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent) as usize;
    trim(&format!("{number:.decimals$}"))
}

// ---- Reading ----

/// A piece of JSON text.
enum Token<'a> {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String(Cow<'a, [u8]>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

impl Token<'_> {
    /// Its name in errors.
    fn name(&self) -> &'static str {
        match self {
            Token::ObjectBegin => "T_OBJ_BEGIN",
            Token::ObjectEnd => "T_OBJ_END",
            Token::ArrayBegin => "T_ARR_BEGIN",
            Token::ArrayEnd => "T_ARR_END",
            Token::String(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::Colon => "T_COLON",
            Token::Comma => "T_COMMA",
            Token::End => "T_END",
            Token::Error(what) => what,
        }
    }
}

/// Takes tokens from a text, which a zero byte ends, as it ends a C string.
struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the last token began; of one that is wrong, what is wrong.
    start: usize,
    invalid_numbers: bool,
}

impl<'a> Tokens<'a> {
    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Token<'a> {
        while matches!(self.byte(self.at), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        self.start = self.at;
        let punctuation = match self.byte(self.at) {
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b',' => Token::Comma,
            b':' => Token::Colon,
            0 => return Token::End,
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' if self.invalid_numbers || !self.is_invalid_number() => return self.number(),
            b'-' | b'0'..=b'9' => return Token::Error("invalid number"),
            _ => return self.word(),
        };
        self.at += 1;
        punctuation
    }

    fn word(&mut self) -> Token<'a> {
        let rest = self.rest();
        let (len, token) = if rest.starts_with(b"true") {
            (4, Token::Boolean(true))
        } else if rest.starts_with(b"false") {
            (5, Token::Boolean(false))
        } else if rest.starts_with(b"null") {
            (4, Token::Null)
        } else if self.invalid_numbers && self.is_invalid_number() {
            return self.number();
        } else {
            return Token::Error("invalid token");
        };
        self.at += len;
        token
    }

    /// Whether it looks like a number for C and not for JSON: with a plus sign, hexadecimal, with a zero in front, an
    /// infinity or NaN.
    fn is_invalid_number(&self) -> bool {
        let rest = self.rest();
        let unsigned = rest.strip_prefix(b"-").unwrap_or(rest);
        let begins = |word: &[u8]| unsigned.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
        match unsigned {
            _ if rest.first() == Some(&b'+') => true,
            [b'0', second, ..] => matches!(second, b'x' | b'X' | b'0'..=b'9'),
            _ => begins(b"inf") || begins(b"nan"),
        }
    }

    fn number(&mut self) -> Token<'a> {
        match parse_number(self.rest()) {
            Some((number, len)) => {
                self.at += len;
                Token::Number(number)
            }
            None => Token::Error("invalid number"),
        }
    }

    fn string(&mut self) -> Token<'a> {
        self.at += 1;
        let mut text: Cow<'a, [u8]> = Cow::Borrowed(&[]);
        loop {
            let rest = self.rest();
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0));
            let plain = plain.unwrap_or(rest.len());
            match text.is_empty() {
                true => text = Cow::Borrowed(&rest[..plain]),
                false => text.to_mut().extend_from_slice(&rest[..plain]),
            }
            self.at += plain;
            match self.byte(self.at) {
                b'"' => break,
                b'\\' => {}
                _ => return self.wrong("unexpected end of string"),
            }
            let code = match self.byte(self.at + 1) {
                code @ (b'"' | b'\\' | b'/') => code,
                b'b' => 0x08,
                b't' => b'\t',
                b'n' => b'\n',
                b'f' => 0x0c,
                b'r' => b'\r',
                b'u' => {
                    let Some((character, len)) = self.unicode_escape() else {
                        return self.wrong("invalid unicode escape code");
                    };
                    let mut utf8 = [0; 4];
                    text.to_mut()
                        .extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
                    self.at += len;
                    continue;
                }
                _ => return self.wrong("invalid escape code"),
            };
            text.to_mut().push(code);
            self.at += 2;
        }
        self.at += 1;
        Token::String(text)
    }

    fn wrong(&mut self, what: &'static str) -> Token<'a> {
        self.start = self.at;
        Token::Error(what)
    }

    /// The character of the `\uXXXX` at this place, or of the two that are a surrogate pair; and their length.
    fn unicode_escape(&self) -> Option<(char, usize)> {
        let first = self.code_unit(self.at)?;
        if let Some(character) = char::from_u32(first) {
            return Some((character, 6));
        }
        let second = match self.text.get(self.at + 6..self.at + 8) {
            Some(b"\\u") => self.code_unit(self.at + 6)?,
            _ => return None,
        };
        let mut pair = char::decode_utf16([first as u16, second as u16]);
        Some((pair.next()?.ok()?, 12))
    }

    fn code_unit(&self, escape: usize) -> Option<u32> {
        let digits = self.text.get(escape + 2..escape + 6)?;
        digits.iter().try_fold(0, |value, digit| {
            let digit = (*digit as char).to_digit(16)?;
            Some(value << 4 | digit)
        })
    }
}

/// The number at the beginning of a text, in all notations of C's `strtod` but blanks, and its length.
fn parse_number(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let is_negative = text.first() == Some(&b'-');
    let unsigned = &text[sign..];
    let (number, len) = parse_word(unsigned)
        .or_else(|| parse_hexadecimal(unsigned))
        .or_else(|| parse_decimal(unsigned))?;
    Some((if is_negative { -number } else { number }, sign + len))
}

/// `inf`, `infinity`, `nan`, `nan(…)` in any case.
fn parse_word(text: &[u8]) -> Option<(f64, usize)> {
    let begins = |word: &str| {
        text.get(..word.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(word.as_bytes()))
    };
    if begins("infinity") {
        return Some((f64::INFINITY, 8));
    }
    if begins("inf") {
        return Some((f64::INFINITY, 3));
    }
    if !begins("nan") {
        return None;
    }
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    let payload = match &text[3..] {
        [b'(', rest @ ..] => rest.iter().take_while(is_part).count(),
        _ => return Some((f64::NAN, 3)),
    };
    match text.get(4 + payload) {
        Some(b')') => Some((f64::NAN, 5 + payload)),
        _ => Some((f64::NAN, 3)),
    }
}

/// Digits with a point among them or not; the length of both, and whether there is a digit.
fn digits_and_point(text: &[u8], is_digit: fn(&u8) -> bool) -> (usize, bool) {
    let whole = text.iter().take_while(|byte| is_digit(byte)).count();
    if text.get(whole) != Some(&b'.') {
        return (whole, whole > 0);
    }
    let fraction = text[whole + 1..].iter().take_while(|byte| is_digit(byte)).count();
    (whole + 1 + fraction, whole + fraction > 0)
}

/// The length of an exponent, with its letter and sign; 0 if it has no digits.
fn exponent_length(text: &[u8], letter: u8) -> usize {
    match text {
        [first, rest @ ..] if first.eq_ignore_ascii_case(&letter) => {
            let sign = usize::from(matches!(rest.first(), Some(b'-' | b'+')));
            let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 { 0 } else { 1 + sign + digits }
        }
        _ => 0,
    }
}

fn parse_decimal(text: &[u8]) -> Option<(f64, usize)> {
    let (significand, has_digits) = digits_and_point(text, u8::is_ascii_digit);
    if !has_digits {
        return None;
    }
    let len = significand + exponent_length(&text[significand..], b'e');
    let number = std::str::from_utf8(&text[..len]).ok()?.parse().ok()?;
    Some((number, len))
}

fn parse_hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    let digits = match text {
        [b'0', b'x' | b'X', digits @ ..] => digits,
        _ => return None,
    };
    let (significand, has_digits) = digits_and_point(digits, u8::is_ascii_hexdigit);
    if !has_digits {
        return None;
    }
    let exponent = exponent_length(&digits[significand..], b'p');
    let number = std::str::from_utf8(&digits[..significand + exponent]).ok()?;
    // The exponent may be missing in C.
    let suffix = if exponent == 0 { "p0" } else { "" };
    let number: Double = format!("0x{number}{suffix}").parse().ok()?;
    Some((f64::from_bits(number.to_bits() as u64), 2 + significand + exponent))
}

/// A table that is being read.
enum Partial<'a> {
    Array { table: Table, count: usize },
    Object { table: Table, key: Cow<'a, [u8]> },
}

/// What comes next.
enum Step<'a> {
    /// A value, which begins with this token.
    Element(Token<'a>),
    /// Nothing more for this value.
    Complete(Value),
}

struct Decoder<'a> {
    tokens: Tokens<'a>,
    open: Vec<Partial<'a>>,
    depth_max: usize,
}

/// cjson.decode(text). Without recursion: a client chooses how deep its arrays are.
fn decode(lua: &Lua, settings: &Settings, call: &Call) -> Outcome {
    if call.count() != 1 {
        return Err(Failure::argument(1, "expected 1 argument"));
    }
    let text = call.string(lua, 1)?;
    let text = text.as_bytes();
    if matches!(*text, [0, _, ..] | [_, 0, ..]) {
        return Err(Failure::error("JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut decoder = Decoder {
        tokens: Tokens {
            text: &text,
            at: 0,
            start: 0,
            invalid_numbers: settings.decode_invalid_numbers.get(),
        },
        open: Vec::new(),
        depth_max: NESTING_MAX.min(settings.decode_max_depth.get() as usize),
    };
    let value = decoder.document(lua)?;
    match decoder.tokens.next() {
        Token::End => Ok(Answer::One(value)),
        token => Err(decoder.unexpected("the end", &token)),
    }
}

impl<'a> Decoder<'a> {
    fn unexpected(&self, expected: &str, found: &Token<'_>) -> Failure {
        let place = self.tokens.start + 1;
        Failure::error(format!(
            "Expected {expected} but found {} at character {place}",
            found.name()
        ))
    }

    fn document(&mut self, lua: &Lua) -> Result<Value, Failure> {
        let mut token = self.tokens.next();
        loop {
            let mut step = match self.begin(lua, token)? {
                Some(value) => Step::Complete(value),
                None => self.first_element()?,
            };
            // What is complete goes into what is around it, which may be complete with it.
            token = loop {
                match step {
                    Step::Element(token) => break token,
                    Step::Complete(value) if self.open.is_empty() => return Ok(value),
                    Step::Complete(value) => {
                        self.store(lua, value)?;
                        step = self.next_element()?;
                    }
                }
            };
        }
    }

    /// The value that is one token; nothing where it is the beginning of a table, which is then open.
    fn begin(&mut self, lua: &Lua, token: Token<'a>) -> Result<Option<Value>, Failure> {
        let table = |decoder: &Self| {
            let depth = decoder.open.len() + 1;
            match depth > decoder.depth_max {
                true => {
                    let place = decoder.tokens.at;
                    let text = format!("Found too many nested data structures ({depth}) at character {place}");
                    Err(Failure::error(text))
                }
                false => Ok(lua.create_table()?),
            }
        };
        Ok(Some(match token {
            Token::String(text) => Value::String(lua.create_string(text)?),
            Token::Number(number) => Value::Number(number),
            Token::Boolean(boolean) => Value::Boolean(boolean),
            Token::Null => Value::NULL,
            Token::ArrayBegin => {
                let table = table(self)?;
                self.open.push(Partial::Array { table, count: 0 });
                return Ok(None);
            }
            Token::ObjectBegin => {
                let table = table(self)?;
                let key = Cow::Borrowed(&b""[..]);
                self.open.push(Partial::Object { table, key });
                return Ok(None);
            }
            other => return Err(self.unexpected("value", &other)),
        }))
    }

    /// After the beginning of a table.
    fn first_element(&mut self) -> Result<Step<'a>, Failure> {
        let token = self.tokens.next();
        match (self.open.last(), token) {
            (Some(Partial::Array { .. }), Token::ArrayEnd) | (Some(Partial::Object { .. }), Token::ObjectEnd) => {
                self.close()
            }
            (Some(Partial::Object { .. }), token) => self.key(token),
            (_, token) => Ok(Step::Element(token)),
        }
    }

    /// After an element of the innermost table.
    fn next_element(&mut self) -> Result<Step<'a>, Failure> {
        let separator = self.tokens.next();
        let is_array = matches!(self.open.last(), Some(Partial::Array { .. }));
        match (separator, is_array) {
            (Token::ArrayEnd, true) | (Token::ObjectEnd, false) => self.close(),
            (Token::Comma, true) => Ok(Step::Element(self.tokens.next())),
            (Token::Comma, false) => {
                let key = self.tokens.next();
                self.key(key)
            }
            (other, true) => Err(self.unexpected("comma or array end", &other)),
            (other, false) => Err(self.unexpected("comma or object end", &other)),
        }
    }

    /// Takes a key and the colon.
    fn key(&mut self, token: Token<'a>) -> Result<Step<'a>, Failure> {
        let Token::String(text) = token else {
            return Err(self.unexpected("object key string", &token));
        };
        if let Some(Partial::Object { key, .. }) = self.open.last_mut() {
            *key = text;
        }
        match self.tokens.next() {
            Token::Colon => Ok(Step::Element(self.tokens.next())),
            other => Err(self.unexpected("colon", &other)),
        }
    }

    fn store(&mut self, lua: &Lua, value: Value) -> mlua::Result<()> {
        match self.open.last_mut() {
            Some(Partial::Array { table, count }) => {
                *count += 1;
                table.raw_set(*count, value)
            }
            Some(Partial::Object { table, key }) => table.raw_set(lua.create_string(&*key)?, value),
            None => Ok(()),
        }
    }

    fn close(&mut self) -> Result<Step<'a>, Failure> {
        match self.open.pop() {
            Some(Partial::Array { table, .. } | Partial::Object { table, .. }) => {
                Ok(Step::Complete(Value::Table(table)))
            }
            None => Err(Failure::error("no table is open")),
        }
    }
}
