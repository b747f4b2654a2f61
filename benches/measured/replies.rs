//! Replies in RESP2: where one ends, and whether it is what was asked for.

/// What a command must answer. An error is never right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// `+OK` and the like.
    Status,
    Integer,
    /// A value that is there.
    Bulk,
    /// A value, or that there is none.
    BulkOrNil,
    /// As many elements.
    Array(usize),
    /// Any number of elements.
    AnyArray,
}

/// The length of the reply that `bytes` begins with; none while a part of it is missing.
///
/// # Panics
///
/// When the reply is an error, or not what is expected.
pub(crate) fn check(bytes: &[u8], expected: Expected) -> Option<usize> {
    let end = end_of_reply(bytes, 0)?;
    let count = || number(bytes, 1).map_or(-1, |(count, _)| count);
    let is_right = match (bytes[0], expected) {
        (b'+', Expected::Status) | (b':', Expected::Integer) | (b'$', Expected::BulkOrNil) => true,
        (b'*', Expected::Array(elements)) => count() == elements as i64,
        (b'$', Expected::Bulk) | (b'*', Expected::AnyArray) => count() >= 0,
        _ => false,
    };
    assert!(is_right, "{expected:?} was expected, {} came", shown(&bytes[..end]));
    Some(end)
}

/// The offset at which the reply that begins at `start` ends.
fn end_of_reply(bytes: &[u8], start: usize) -> Option<usize> {
    match bytes.get(start)? {
        b'+' => line_end(bytes, start),
        b':' => number(bytes, start + 1).map(|(_, end)| end),
        b'$' => {
            let (len, end) = number(bytes, start + 1)?;
            let end = if len < 0 {
                end
            } else {
                end + len as usize + b"\r\n".len()
            };
            (end <= bytes.len()).then_some(end)
        }
        b'*' => {
            let (count, mut end) = number(bytes, start + 1)?;
            for _ in 0..count {
                end = end_of_reply(bytes, end)?;
            }
            Some(end)
        }
        _ => {
            let end = line_end(bytes, start)?;
            panic!("an error came: {}", shown(&bytes[start..end]));
        }
    }
}

/// The number at `start`, and the offset behind its line.
fn number(bytes: &[u8], start: usize) -> Option<(i64, usize)> {
    let mut value = 0i64;
    let mut sign = 1;
    for (offset, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'-' => sign = -1,
            b'0'..=b'9' => value = value * 10 + i64::from(byte - b'0'),
            b'\r' if offset + 1 < bytes.len() => return Some((sign * value, offset + 2)),
            b'\r' => return None,
            _ => panic!("no number: {}", shown(&bytes[start..])),
        }
    }
    None
}

fn line_end(bytes: &[u8], start: usize) -> Option<usize> {
    memchr::memchr(b'\n', &bytes[start..]).map(|position| start + position + 1)
}

/// The beginning of a reply, for a message.
fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 200;
    bytes[..bytes.len().min(SHOWN_BYTES_MAX)].escape_ascii().to_string()
}
