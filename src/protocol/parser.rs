//! The incremental request parser: RESP arrays of bulk strings and inline lines, by Redis's rules.
//!
//! Source: the RESP specification, and what Redis 7.2 accepts and answers (its `networking.c`), down to these habits:
//! the byte after a length line's CR and the two bytes after a bulk string are skipped unseen; a NUL in a line hides
//! the line's end, so that the line never ends; the first byte alone tells an array (`*`) from an inline command.
//!
//! One rule is stricter, so that a pipeline means the same wherever it is cut: Redis refuses a line over 64 KiB only
//! if its end had not arrived yet, and we refuse it always.

use super::{Arguments, REQUEST_BYTES_MAX, Span};
use std::fmt;

/// Longest inline command or length line, in bytes without its end: Redis's PROTO_INLINE_MAX_SIZE.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Most arguments in an array from a client that has not authenticated, as in Redis: AUTH and HELLO need no more.
const UNAUTHENTICATED_ARGUMENTS_MAX: usize = 10;

/// Longest bulk string from a client that has not authenticated, as in Redis.
const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16384;

/// Longest frame: positions in it must fit a [`Span`], and those in the batch that it is copied to, too.
const FRAME_BYTES_MAX: usize = REQUEST_BYTES_MAX;

/// Spans that an idle parser keeps allocated (8 KiB per connection). Larger frames pay one allocation for more
/// than a thousand arguments each, and do not leave megabytes with every connection that once sent one.
const SPANS_KEPT_MAX: usize = 1024;

/// Bytes of unquoted inline arguments that an idle parser keeps allocated, for the same reason.
const SCRATCH_BYTES_KEPT_MAX: usize = 4096;

/// Digits of a length that are read without a check for overflow; longer ones take the slow path.
const SHORT_LENGTH_DIGITS_MAX: usize = 9;

/// The bytes after a bulk string, CR LF, which are not looked at.
const BULK_END_BYTES: usize = 2;

/// What a client may send. Settings and the session decide, so the parser gets it at each call.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest bulk string in bytes (`proto-max-bulk-len`).
    pub bulk_bytes_max: usize,
    /// Most arguments in one array.
    pub arguments_max: usize,
    /// Whether the client has authenticated or need not.
    pub authenticated: bool,
}

impl Default for Limits {
    /// Redis's defaults: 512 MB, as many arguments as a C `int` counts (the query buffer's limit is met long before),
    /// and a client that need not authenticate.
    fn default() -> Self {
        Limits {
            bulk_bytes_max: 512 * 1024 * 1024,
            arguments_max: i32::MAX as usize,
            authenticated: true,
        }
    }
}

/// What [`Parser::parse`] found at the beginning of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The frame goes on after the buffer's end: call again with the same bytes and more.
    Incomplete {
        /// Bytes that the frame surely still lacks, at least 1: room worth reserving (the client can make it
        /// `bulk_bytes_max`, so cap it), not a number to wait for, since an error may show sooner.
        wanted: usize,
    },
    /// A frame without a command, which gets no reply: an empty line, `*0` or `*-1`.
    Empty {
        /// The frame's bytes.
        consumed: usize,
    },
    /// A command, whose arguments [`Parser::arguments`] gives until the next call of [`Parser::parse`].
    Command {
        /// The frame's bytes.
        consumed: usize,
    },
}

/// Why a client's bytes are no request. Redis answers `-ERR Protocol error: ` and this text, then closes.
///
/// `Display` gives the text after `-ERR `; [`ProtocolError::write_text`] the same as bytes, which differs when the
/// client's byte that is quoted is no ASCII character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// `*` is not followed by a number, or by one over the limit.
    InvalidArrayLength,
    /// An array too long for a client that has not authenticated.
    UnauthenticatedArrayLength,
    /// `$` is not followed by a number, or by a negative one or one over the limit.
    InvalidBulkLength,
    /// A bulk string too long for a client that has not authenticated.
    UnauthenticatedBulkLength,
    /// An array's element begins with this byte instead of `$`.
    ExpectedBulk(u8),
    /// An inline command over 64 KiB.
    InlineTooBig,
    /// An array's length line over 64 KiB.
    ArrayLengthTooBig,
    /// A bulk string's length line over 64 KiB.
    BulkLengthTooBig,
    /// An inline command with an open quote, or with text right after a closing one.
    UnbalancedQuotes,
    /// A frame of almost 4 GiB or more (Redis closes such a connection without an answer, at
    /// `client-query-buffer-limit`).
    FrameTooBig,
}

impl ProtocolError {
    /// Appends the text after `-ERR ` exactly as Redis sends it.
    pub fn write_text(self, out: &mut Vec<u8>) {
        match self {
            ProtocolError::ExpectedBulk(byte) => {
                out.extend_from_slice(b"Protocol error: expected '$', got '");
                out.push(quoted(byte));
                out.push(b'\'');
            }
            other => out.extend_from_slice(other.to_string().as_bytes()),
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self {
            ProtocolError::InvalidArrayLength => "invalid multibulk length",
            ProtocolError::UnauthenticatedArrayLength => "unauthenticated multibulk length",
            ProtocolError::InvalidBulkLength => "invalid bulk length",
            ProtocolError::UnauthenticatedBulkLength => "unauthenticated bulk length",
            ProtocolError::ExpectedBulk(byte) => {
                return write!(
                    formatter,
                    "Protocol error: expected '$', got '{}'",
                    char::from(quoted(*byte))
                );
            }
            ProtocolError::InlineTooBig => "too big inline request",
            ProtocolError::ArrayLengthTooBig => "too big mbulk count string",
            ProtocolError::BulkLengthTooBig => "too big bulk count string",
            ProtocolError::UnbalancedQuotes => "unbalanced quotes in request",
            ProtocolError::FrameTooBig => "too big request",
        };
        write!(formatter, "Protocol error: {reason}")
    }
}

impl std::error::Error for ProtocolError {}

/// The byte as an error line can hold it: a line break would end the line.
fn quoted(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }
}

/// What the byte at `position` belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A frame's first byte.
    Start,
    /// An inline command's line, which begins where the frame does.
    Inline,
    /// An array's length line.
    ArrayLength,
    /// A bulk string's length line.
    BulkLength,
    /// A bulk string of this many bytes, and the two bytes after it.
    Bulk(usize),
}

/// An incremental request parser: what it learned of a frame survives between calls, so that a frame of a million
/// arguments or of 512 MB that arrives byte by byte is read once. It allocates only for frames larger than any before.
pub struct Parser {
    stage: Stage,
    /// Where the stage begins, counted from the frame's start.
    position: usize,
    /// Bytes from `position` on in which no line end was found.
    searched_bytes: usize,
    /// Arguments of the array that are not in `spans` yet.
    arguments_missing: usize,
    spans: Vec<Span>,
    /// An inline command's arguments, one after the other, without quotes and escapes.
    scratch: Vec<u8>,
    /// Whether `spans` lie in `scratch` (an inline command) or in the caller's buffer.
    in_scratch: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the beginning of a frame; it allocates nothing yet.
    pub fn new() -> Self {
        Parser {
            stage: Stage::Start,
            position: 0,
            searched_bytes: 0,
            arguments_missing: 0,
            spans: Vec::new(),
            scratch: Vec::new(),
            in_scratch: false,
        }
    }

    /// Reads one frame. `buffer` holds the bytes not consumed yet, beginning where the frame begins: after
    /// [`Parsed::Incomplete`] the same bytes as last time and more, after the others what follows `consumed`.
    ///
    /// After an error the connection must be answered and closed; the parser's state means nothing then.
    #[inline]
    pub fn parse(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.stage == Stage::Start {
            match buffer.first() {
                None => return Ok(Parsed::Incomplete { wanted: 1 }),
                Some(first) => self.begin(*first),
            }
        }
        if self.stage == Stage::Inline {
            return self.parse_inline(buffer);
        }
        self.parse_array(buffer, limits)
    }

    /// The arguments of the command that [`Parser::parse`] just found in `buffer`.
    #[inline]
    pub fn arguments<'a>(&'a self, buffer: &'a [u8]) -> Arguments<'a> {
        let bytes = if self.in_scratch { &self.scratch } else { buffer };
        Arguments::new(bytes, &self.spans)
    }

    #[inline]
    fn begin(&mut self, first: u8) {
        self.position = 0;
        self.searched_bytes = 0;
        self.spans.clear();
        if self.spans.capacity() > SPANS_KEPT_MAX {
            self.spans.shrink_to(SPANS_KEPT_MAX);
        }
        self.in_scratch = first != b'*';
        self.stage = if self.in_scratch {
            Stage::Inline
        } else {
            Stage::ArrayLength
        };
    }

    #[inline]
    fn parse_array(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.stage == Stage::ArrayLength {
            let (length, next) = match short_length(buffer, 0) {
                Some(found) => found,
                None => match self.array_length(buffer)? {
                    LengthLine::Incomplete => return Ok(Parsed::Incomplete { wanted: 1 }),
                    LengthLine::NoArguments { next } => {
                        self.stage = Stage::Start;
                        return Ok(Parsed::Empty { consumed: next });
                    }
                    LengthLine::Length { length, next } => (length, next),
                },
            };
            if length > limits.arguments_max {
                return Err(ProtocolError::InvalidArrayLength);
            }
            if length > UNAUTHENTICATED_ARGUMENTS_MAX && !limits.authenticated {
                return Err(ProtocolError::UnauthenticatedArrayLength);
            }
            if length == 0 {
                self.stage = Stage::Start;
                return Ok(Parsed::Empty { consumed: next });
            }
            // No room is reserved for what the client only claims to send.
            self.spans.reserve(length.min(SPANS_KEPT_MAX));
            self.arguments_missing = length;
            self.searched_bytes = 0;
            self.position = next;
            self.stage = Stage::BulkLength;
        }
        self.parse_bulks(buffer, limits)
    }

    fn parse_bulks(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let mut position = self.position;
        let mut arguments_missing = self.arguments_missing;
        let mut bulk = match self.stage {
            Stage::Bulk(length) => Some(length),
            _ => None,
        };
        while arguments_missing > 0 {
            let length = match bulk.take() {
                Some(length) => length,
                None => {
                    let (length, next) = match short_bulk_length(buffer, position) {
                        Some(found) => found,
                        None => match self.bulk_length(buffer, position)? {
                            Some(found) => found,
                            None => {
                                self.position = position;
                                self.arguments_missing = arguments_missing;
                                self.stage = Stage::BulkLength;
                                return Ok(Parsed::Incomplete { wanted: 1 });
                            }
                        },
                    };
                    if length > limits.bulk_bytes_max {
                        return Err(ProtocolError::InvalidBulkLength);
                    }
                    if length > UNAUTHENTICATED_BULK_BYTES_MAX && !limits.authenticated {
                        return Err(ProtocolError::UnauthenticatedBulkLength);
                    }
                    if next.saturating_add(length) > FRAME_BYTES_MAX - BULK_END_BYTES {
                        return Err(ProtocolError::FrameTooBig);
                    }
                    // The line may have been cut before, and then its end found on the short path.
                    self.searched_bytes = 0;
                    position = next;
                    length
                }
            };
            let end = position + length + BULK_END_BYTES;
            if end > buffer.len() {
                self.position = position;
                self.arguments_missing = arguments_missing;
                self.stage = Stage::Bulk(length);
                return Ok(Parsed::Incomplete {
                    wanted: end - buffer.len(),
                });
            }
            self.spans.push(Span::new(position, length));
            position = end;
            arguments_missing -= 1;
        }
        self.stage = Stage::Start;
        Ok(Parsed::Command { consumed: position })
    }

    /// The slow path of an array's length line: one that is cut, long, or wrong.
    #[cold]
    fn array_length(&mut self, buffer: &[u8]) -> Result<LengthLine, ProtocolError> {
        let Some(end) = self.line_end(buffer, b'\r').ok_or(ProtocolError::ArrayLengthTooBig)? else {
            return Ok(LengthLine::Incomplete);
        };
        if end + 1 >= buffer.len() {
            return Ok(LengthLine::Incomplete);
        }
        let number = crate::number::parse_integer(&buffer[1..end]).ok_or(ProtocolError::InvalidArrayLength)?;
        let next = end + 2;
        match usize::try_from(number) {
            Ok(length) => Ok(LengthLine::Length { length, next }),
            Err(_) => Ok(LengthLine::NoArguments { next }),
        }
    }

    /// The slow path of a bulk string's length line at `position`: its length and where its bytes begin; `None` when
    /// the line is not all there.
    #[cold]
    fn bulk_length(&mut self, buffer: &[u8], position: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
        let line = &buffer[position..];
        let Some(end) = self.line_end(line, b'\r').ok_or(ProtocolError::BulkLengthTooBig)? else {
            return Ok(None);
        };
        if end + 1 >= line.len() {
            return Ok(None);
        }
        if line[0] != b'$' {
            return Err(ProtocolError::ExpectedBulk(line[0]));
        }
        let number = crate::number::parse_integer(&line[1..end]).ok_or(ProtocolError::InvalidBulkLength)?;
        let length = usize::try_from(number).map_err(|_| ProtocolError::InvalidBulkLength)?;
        Ok(Some((length, position + end + 2)))
    }

    fn parse_inline(&mut self, buffer: &[u8]) -> Result<Parsed, ProtocolError> {
        let Some(end) = self.line_end(buffer, b'\n').ok_or(ProtocolError::InlineTooBig)? else {
            return Ok(Parsed::Incomplete { wanted: 1 });
        };
        let line = &buffer[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH_BYTES_KEPT_MAX);
        split_line(line, &mut self.scratch, &mut self.spans)?;
        self.stage = Stage::Start;
        let consumed = end + 1;
        Ok(if self.spans.is_empty() {
            Parsed::Empty { consumed }
        } else {
            Parsed::Command { consumed }
        })
    }

    /// The index of `end` in `line`, searching only what was not searched before. `Some(None)`: it is not there yet;
    /// `None`: the line is longer than LINE_BYTES_MAX.
    fn line_end(&mut self, line: &[u8], end: u8) -> Option<Option<usize>> {
        let window = &line[..line.len().min(LINE_BYTES_MAX + 1)];
        let found = window[self.searched_bytes..]
            .iter()
            .position(|byte| *byte == end || *byte == 0);
        self.searched_bytes = found.map_or(window.len(), |offset| self.searched_bytes + offset);
        match window.get(self.searched_bytes) {
            Some(byte) if *byte == end => Some(Some(self.searched_bytes)),
            _ if line.len() > LINE_BYTES_MAX => None,
            _ => Some(None),
        }
    }
}

/// An array's length line.
enum LengthLine {
    /// The line is not all there.
    Incomplete,
    /// A negative length: a frame that ends at `next` and means nothing.
    NoArguments { next: usize },
    /// This many arguments, which begin at `next`.
    Length { length: usize, next: usize },
}

/// The length in the line at `position` and where the next line begins, if the line is there with the byte after its
/// CR and its number is short and well formed. Otherwise `None`: the slow path finds out why.
#[inline]
fn short_length(buffer: &[u8], position: usize) -> Option<(usize, usize)> {
    let line = buffer.get(position + 1..)?;
    let mut value = 0;
    let mut digits = 0;
    loop {
        let byte = *line.get(digits)?;
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let well_formed = byte == b'\r' && digits > 0 && (line[0] != b'0' || digits == 1);
            // The byte after CR must be there, whatever it is.
            return (well_formed && digits + 1 < line.len()).then_some((value, position + digits + 3));
        }
        if digits == SHORT_LENGTH_DIGITS_MAX {
            return None;
        }
        value = value * 10 + usize::from(digit);
        digits += 1;
    }
}

#[inline]
fn short_bulk_length(buffer: &[u8], position: usize) -> Option<(usize, usize)> {
    if *buffer.get(position)? != b'$' {
        return None;
    }
    short_length(buffer, position)
}

/// The arguments of a line as an inline command has them: separated by blanks, perhaps quoted. `None` if a quote is not
/// closed.
pub fn split_arguments(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut bytes, mut spans) = (Vec::new(), Vec::new());
    split_line(line, &mut bytes, &mut spans).ok()?;
    let of = |span: &Span| bytes.get(span.range());
    spans.iter().map(|span| of(span).map(<[u8]>::to_vec)).collect()
}

/// Splits an inline command into arguments as Redis does (and its redis-cli): blanks separate; `"…"` takes `\n \r \t
/// \b \a`, `\xHH` and `\` before any other byte; `'…'` takes only `\'`; a closing quote must end the argument.
/// `line` holds no line feed and no NUL. The arguments' bytes go to `scratch`, their spans to `spans`.
fn split_line(line: &[u8], scratch: &mut Vec<u8>, spans: &mut Vec<Span>) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = &rest[rest.iter().take_while(|byte| is_space(**byte)).count()..];
        if rest.is_empty() {
            return Ok(());
        }
        let start = scratch.len();
        rest = split_argument(rest, scratch)?;
        spans.push(Span::new(start, scratch.len() - start));
    }
}

/// Appends the argument that `rest` begins with to `scratch`; what follows it is returned.
fn split_argument<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Ok(rest),
            // Vertical tab and form feed separate too, but only where an argument would begin.
            [b' ' | b'\n' | b'\r' | b'\t', after @ ..] => return Ok(after),
            [b'"', after @ ..] => return closed_quote(double_quoted(after, scratch)?),
            [b'\'', after @ ..] => return closed_quote(single_quoted(after, scratch)?),
            [byte, after @ ..] => {
                scratch.push(*byte);
                rest = after;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                scratch.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                scratch.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                scratch.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], scratch: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\'', after @ ..] => return Ok(after),
            [b'\\', b'\'', after @ ..] => {
                scratch.push(b'\'');
                rest = after;
            }
            [byte, after @ ..] => {
                scratch.push(*byte);
                rest = after;
            }
        }
    }
}

/// What follows a closing quote must be a blank or nothing.
fn closed_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

/// The C locale's blanks.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte - b'A' + 10,
    }
}
