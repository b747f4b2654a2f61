//! Replies: RESP2 and RESP3 bytes into values, and values into the notation of `redis-cli --no-raw`.
//!
//! The notation is redis-cli's, with two additions, for kinds that it prints without a mark: a verbatim string is
//! `(verbatim txt) "…"`, and the elements of a push are numbered `1> `.

/// One reply, as the protocol's specification names its kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `+OK`
    Simple(String),
    /// `-ERR …`, without the dash
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3`, or `$-1` when there is none
    Bulk(Option<Vec<u8>>),
    /// `*2`, or `*-1` when there is none
    Array(Option<Vec<Value>>),
    /// `%1`: the entries in the order sent
    Map(Vec<(Value, Value)>),
    /// `~2`: the elements in the order sent
    Set(Vec<Value>),
    /// `,3.14`: the digits as sent, since their number is part of what a test looks at
    Double(String),
    /// `#t` or `#f`
    Boolean(bool),
    /// `_`
    Null,
    /// `=8`: the three letters of its format, and its text
    Verbatim(String, Vec<u8>),
    /// `(123`: the digits as sent
    BigNumber(String),
    /// `>2`
    Push(Vec<Value>),
}

/// Reads the reply that `bytes` begin with.
///
/// Returns the value and its length in bytes, or `None` while it is incomplete.
///
/// # Errors
///
/// A sentence, when the bytes are no reply of RESP2 or RESP3.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, String> {
    let mut position = 0;
    Ok(parse_at(bytes, &mut position)?.map(|value| (value, position)))
}

fn parse_at(bytes: &[u8], position: &mut usize) -> Result<Option<Value>, String> {
    let Some(line) = take_line(bytes, position) else {
        return Ok(None);
    };
    let Some((&kind, rest)) = line.split_first() else {
        return Err("a reply begins with an empty line".into());
    };
    let text = String::from_utf8_lossy(rest).into_owned();
    let value = match kind {
        b'+' => Value::Simple(text),
        b'-' => Value::Error(text),
        b':' => Value::Integer(text.parse().map_err(|_| format!("{text:?} is no integer"))?),
        b',' => Value::Double(text),
        b'(' => Value::BigNumber(text),
        b'_' => Value::Null,
        b'#' if text == "t" || text == "f" => Value::Boolean(text == "t"),
        b'$' | b'=' | b'!' => return parse_bytes(kind, &text, bytes, position),
        b'*' | b'~' | b'>' | b'%' => return parse_elements(kind, &text, bytes, position),
        _ => return Err(format!("a reply begins with {:?}", String::from_utf8_lossy(line))),
    };
    Ok(Some(value))
}

/// Takes the line at `position`, without its CR LF, or nothing while the line is incomplete.
fn take_line<'a>(bytes: &'a [u8], position: &mut usize) -> Option<&'a [u8]> {
    let rest = &bytes[*position..];
    let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
    *position += length + 2;
    Some(&rest[..length])
}

/// Reads the kinds that carry a counted number of bytes: bulk and verbatim strings and long errors.
fn parse_bytes(kind: u8, count: &str, bytes: &[u8], position: &mut usize) -> Result<Option<Value>, String> {
    if kind == b'$' && count == "-1" {
        return Ok(Some(Value::Bulk(None)));
    }
    let length: usize = count.parse().map_err(|_| format!("{count:?} is no length"))?;
    let Some(content) = bytes[*position..].get(..length + 2) else {
        return Ok(None);
    };
    *position += length + 2;
    let Some(content) = content.strip_suffix(b"\r\n") else {
        return Err(format!("a string of {length} bytes does not end with CR LF"));
    };
    Ok(Some(match kind {
        b'$' => Value::Bulk(Some(content.to_vec())),
        b'!' => Value::Error(String::from_utf8_lossy(content).into_owned()),
        _ if length >= 4 && content[3] == b':' => Value::Verbatim(
            String::from_utf8_lossy(&content[..3]).into_owned(),
            content[4..].to_vec(),
        ),
        _ => return Err("a verbatim string does not begin with its format".into()),
    }))
}

/// Reads the kinds that carry a counted number of values: arrays, sets, pushes and maps.
fn parse_elements(kind: u8, count: &str, bytes: &[u8], position: &mut usize) -> Result<Option<Value>, String> {
    if kind == b'*' && count == "-1" {
        return Ok(Some(Value::Array(None)));
    }
    let count: usize = count
        .parse()
        .map_err(|_| format!("{count:?} is no number of elements"))?;
    let mut elements = Vec::new();
    for _ in 0..count * if kind == b'%' { 2 } else { 1 } {
        let Some(element) = parse_at(bytes, position)? else {
            return Ok(None);
        };
        elements.push(element);
    }
    Ok(Some(match kind {
        b'*' => Value::Array(Some(elements)),
        b'~' => Value::Set(elements),
        b'>' => Value::Push(elements),
        _ => {
            let mut elements = elements.into_iter();
            let mut entries = Vec::with_capacity(count);
            while let (Some(key), Some(value)) = (elements.next(), elements.next()) {
                entries.push((key, value));
            }
            Value::Map(entries)
        }
    }))
}

impl Value {
    /// The reply as redis-cli prints it, without a line end after the last line.
    pub(crate) fn render(&self) -> String {
        self.render_indented("")
    }

    /// The reply's own text: a string's bytes, an error's or an integer's digits; nothing for what has no text.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Value::Simple(text) | Value::Error(text) | Value::Double(text) | Value::BigNumber(text) => {
                Some(text.clone())
            }
            Value::Integer(number) => Some(number.to_string()),
            Value::Bulk(Some(bytes)) | Value::Verbatim(_, bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    fn render_indented(&self, indentation: &str) -> String {
        match self {
            Value::Simple(text) => text.clone(),
            Value::Error(text) => format!("(error) {text}"),
            Value::Integer(number) => format!("(integer) {number}"),
            Value::Bulk(Some(bytes)) => quote(bytes),
            Value::Bulk(None) | Value::Array(None) | Value::Null => "(nil)".into(),
            Value::Double(digits) => format!("(double) {digits}"),
            Value::Boolean(truth) => format!("({truth})"),
            Value::Verbatim(format, bytes) => format!("(verbatim {format}) {}", quote(bytes)),
            Value::BigNumber(digits) => format!("(big number) {digits}"),
            Value::Array(Some(elements)) => render_list(elements, ')', "(empty array)", indentation),
            Value::Set(elements) => render_list(elements, '~', "(empty set)", indentation),
            Value::Push(elements) => render_list(elements, '>', "(empty push)", indentation),
            Value::Map(entries) => render_numbered(entries.len(), '#', "(empty hash)", indentation, |index, inner| {
                let (key, value) = &entries[index];
                format!("{} => {}", key.render_indented(inner), value.render_indented(inner))
            }),
        }
    }
}

fn render_list(elements: &[Value], separator: char, empty: &str, indentation: &str) -> String {
    render_numbered(elements.len(), separator, empty, indentation, |index, inner| {
        elements[index].render_indented(inner)
    })
}

/// Numbers the entries as redis-cli does: numbers are padded to the width of the largest, and what is nested is
/// indented by that width.
fn render_numbered(
    count: usize,
    separator: char,
    empty: &str,
    indentation: &str,
    render_entry: impl Fn(usize, &str) -> String,
) -> String {
    if count == 0 {
        return empty.into();
    }
    let width = count.to_string().len();
    let inner = format!("{indentation}{}", " ".repeat(width + 2));
    let mut lines = Vec::with_capacity(count);
    for index in 0..count {
        // The first entry stands on the line that its parent has begun.
        let before = if index == 0 { "" } else { indentation };
        let number = index + 1;
        lines.push(format!(
            "{before}{number:>width$}{separator} {}",
            render_entry(index, &inner)
        ));
    }
    lines.join("\n")
}

/// The bytes in double quotes, escaped as redis-cli escapes them.
fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for &byte in bytes {
        match byte {
            b'\\' => quoted.push_str("\\\\"),
            b'"' => quoted.push_str("\\\""),
            b'\n' => quoted.push_str("\\n"),
            b'\r' => quoted.push_str("\\r"),
            b'\t' => quoted.push_str("\\t"),
            0x07 => quoted.push_str("\\a"),
            0x08 => quoted.push_str("\\b"),
            0x20..=0x7e => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

/// Splits a command line into arguments by redis-cli's rules: blanks separate; double quotes take `\n \r \t \b \a`,
/// `\xHH` and a backslash before any other byte; single quotes take `\'` alone.
///
/// # Errors
///
/// A sentence, when a quote is not closed or a closing quote is not followed by a blank.
pub(crate) fn split_arguments(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut arguments = Vec::new();
    let mut rest = line.as_bytes().trim_ascii();
    while !rest.is_empty() {
        let (argument, length) = split_argument(rest).ok_or_else(|| format!("unbalanced quotes in `{line}`"))?;
        arguments.push(argument);
        rest = rest[length..].trim_ascii_start();
    }
    Ok(arguments)
}

/// Takes the first argument of `line`; returns it and its length in the line, or nothing when its quotes are wrong.
fn split_argument(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut argument = Vec::new();
    let mut position = 0;
    let mut quoted_by = None;
    while position < line.len() {
        let byte = line[position];
        position += 1;
        match (quoted_by, byte) {
            (None, b'"' | b'\'') => quoted_by = Some(byte),
            (None, _) if byte.is_ascii_whitespace() => return Some((argument, position - 1)),
            (Some(quote), _) if byte == quote => {
                let ends = line.get(position).is_none_or(u8::is_ascii_whitespace);
                return ends.then_some((argument, position));
            }
            (Some(b'"'), b'\\') => {
                let (escaped, length) = unescape(&line[position..])?;
                argument.push(escaped);
                position += length;
            }
            (Some(b'\''), b'\\') if line.get(position) == Some(&b'\'') => {
                argument.push(b'\'');
                position += 1;
            }
            _ => argument.push(byte),
        }
    }
    quoted_by.is_none().then_some((argument, position))
}

/// The byte that an escape stands for, and the escape's length without its backslash.
fn unescape(escape: &[u8]) -> Option<(u8, usize)> {
    let hexadecimal = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if let [b'x', high, low, ..] = *escape
        && let (Some(high), Some(low)) = (hexadecimal(high), hexadecimal(low))
    {
        return Some((high << 4 | low, 3));
    }
    let byte = match *escape.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    };
    Some((byte, 1))
}

#[test]
fn replies_are_printed_as_redis_cli_prints_them() {
    let cases: &[(&[u8], &str)] = &[
        (b"+OK\r\n", "OK"),
        (b"-ERR no\r\n", "(error) ERR no"),
        (b"!6\r\nERR no\r\n", "(error) ERR no"),
        (b":-7\r\n", "(integer) -7"),
        (b"$6\r\na\x00\"\\\n\xff\r\n", r#""a\x00\"\\\n\xff""#),
        (b"$-1\r\n", "(nil)"),
        (b"*-1\r\n", "(nil)"),
        (b"_\r\n", "(nil)"),
        (b"*0\r\n", "(empty array)"),
        (b"%0\r\n", "(empty hash)"),
        (b"~0\r\n", "(empty set)"),
        (b"#t\r\n", "(true)"),
        (b",3.14\r\n", "(double) 3.14"),
        (b"(123456789012345678901\r\n", "(big number) 123456789012345678901"),
        (b"=7\r\ntxt:a\nb\r\n", r#"(verbatim txt) "a\nb""#),
        (b">2\r\n+a\r\n+b\r\n", "1> a\n2> b"),
        (b"~1\r\n+a\r\n", "1~ a"),
        (
            b"*2\r\n*2\r\n:1\r\n:2\r\n$0\r\n\r\n",
            "1) 1) (integer) 1\n   2) (integer) 2\n2) \"\"",
        ),
        (
            b"%2\r\n+a\r\n*2\r\n:1\r\n:2\r\n+b\r\n:3\r\n",
            "1# a => 1) (integer) 1\n   2) (integer) 2\n2# b => (integer) 3",
        ),
    ];
    for (bytes, expected) in cases {
        let (value, length) = parse(bytes).unwrap().expect("the reply is complete");
        assert_eq!(value.render(), *expected);
        assert_eq!(length, bytes.len());
        for cut in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..cut]),
                Ok(None),
                "{cut} bytes of {expected} are no reply yet"
            );
        }
    }
    assert!(parse(b"?\r\n").is_err());
}

#[test]
fn numbers_of_long_lists_are_padded_to_one_width() {
    let list = Value::Array(Some((0..10).map(Value::Integer).collect()));
    let lines = list.render();
    assert!(lines.starts_with(" 1) (integer) 0\n 2) "), "{lines}");
    assert!(lines.ends_with("\n10) (integer) 9"), "{lines}");
}

#[test]
fn command_lines_are_split_as_redis_cli_splits_them() {
    let split = |line| split_arguments(line).map(|arguments| arguments.iter().map(|a| quote(a)).collect::<Vec<_>>());
    assert_eq!(split(" a  b ").unwrap(), ["\"a\"", "\"b\""]);
    assert_eq!(
        split(r#""\x00\xFF\n\q" '\'\n' """#).unwrap(),
        [r#""\x00\xff\nq""#, r#""'\\n""#, "\"\""]
    );
    for wrong in ["\"a", "'a", "\"a\"b"] {
        assert!(split(wrong).is_err(), "{wrong} must be refused");
    }
}
