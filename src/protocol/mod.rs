//! Bytes to commands and values to bytes; no sockets and no storage.
//!
//! [`parser`] finds the commands in what a client sent (RESP arrays of bulk strings, or inline lines) and [`reply`]
//! writes what it gets back (RESP2 or RESP3); [`rdb`] is the encoding of DUMP and RESTORE. A command's arguments are
//! never copied here: they are [`Span`]s in the bytes that were read, seen through [`Arguments`].

pub mod owned;
pub mod parser;
pub mod rdb;
pub mod reply;

pub use owned::OwnedArguments;
pub use parser::{Limits, Parsed, Parser, ProtocolError};
pub use reply::{DoubleText, Reply, Version, format_double};

/// Where one argument lies in a run of bytes: `bytes[start..start + len]`.
///
/// 32 bits are enough, because the parser refuses a frame that does not fit, and they keep a million arguments at 8 MB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte, counted from the start of the run.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

/// The longest request, in bytes of its arguments and of what is between them: well below what a [`Span`] can tell,
/// because in a batch other requests may lie before it.
pub const REQUEST_BYTES_MAX: usize = u32::MAX as usize - (16 << 20);

impl Span {
    /// `len` bytes from `start` on.
    ///
    /// # Panics
    /// 32 bits do not hold them: what is too long is refused before it is collected.
    #[inline]
    pub fn new(start: usize, len: usize) -> Span {
        let bits = |number: usize| u32::try_from(number).expect("a run of bytes is bounded below 4 GiB");
        Span {
            start: bits(start),
            len: bits(len),
        }
    }

    /// Where the bytes begin and end.
    #[inline]
    pub fn range(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// A command's arguments, its name being argument 0: spans in one run of bytes.
#[derive(Clone, Copy)]
pub struct Arguments<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Arguments<'a> {
    /// The arguments that `spans` marks in `bytes`. Every span must lie within `bytes`, or reading it panics.
    #[inline]
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Arguments { bytes, spans }
    }

    /// How many arguments there are, the name included.
    #[inline]
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// Whether there is none, not even a name.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index`; 0 is the name. Panics when there are not that many, as slices do: arity is checked first.
    #[inline]
    pub fn get(self, index: usize) -> &'a [u8] {
        slice(self.bytes, self.spans[index])
    }

    /// All arguments in order, beginning with the name.
    #[inline]
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| slice(bytes, *span))
    }

    /// The arguments from `index` on: what was argument `index` is argument 0 there. Panics when `index > len()`.
    #[inline]
    pub fn from(self, index: usize) -> Arguments<'a> {
        Arguments::new(self.bytes, &self.spans[index..])
    }

    /// The arguments from `start` to before `end`. Panics when `end > len()`.
    #[inline]
    pub fn range(self, start: usize, end: usize) -> Arguments<'a> {
        Arguments::new(self.bytes, &self.spans[start..end])
    }

    /// Where the arguments lie in [`Arguments::bytes`].
    #[inline]
    pub fn spans(self) -> &'a [Span] {
        self.spans
    }

    /// The run of bytes that the arguments lie in, with whatever else is in it.
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

impl std::fmt::Debug for Arguments<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_list()
            .entries(self.iter().map(<[u8]>::escape_ascii).map(|text| text.to_string()))
            .finish()
    }
}

#[inline]
fn slice(bytes: &[u8], span: Span) -> &[u8] {
    &bytes[span.range()]
}
