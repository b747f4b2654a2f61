//! A packed block: keys in order, each with a value, in one allocation that is shared until it is changed.
//!
//! ```text
//! count u16 │ skip u16 │ gone u16 │ form u8 │ key length u8 │ beginning │ heads, 4 bytes each │ ends, 2 bytes each │
//! free │ cell n-1 │ … │ cell 1 │ cell 0
//!
//! form     beginning          heads   cell
//! varied   none               yes     length of the key (1 byte, or 255 and 4 bytes) │ key │ value
//! even     the first `skip`   yes     what the key has behind its head │ value
//!          bytes of all keys
//! run      the first key      none    value
//! ```
//!
//! All keys of a block have their first `skip` bytes in common. A head is the next four bytes as a number whose order
//! is that of the keys, so that a search reads the heads, which lie side by side, and only one or two keys. An end is
//! the bytes of all cells up to and with its own, that is, the distance of the cell's beginning from the block's end.
//! Cells lie backwards, so that a key that is added behind all others moves no cell. There are no holes: what is
//! removed is closed up at once, but for the first cells. Those stay where they are, and are told by `gone`, until the
//! block is made anew, or their place is taken by a cell that comes before the others: who adds elements at a list's
//! head, or takes them, touches only them, and not all of a block. A block to whose front a cell comes has room made
//! there for several, of its size, as if they were gone.
//!
//! A block whose keys are equally long, and not very long, is *even*: what its keys have in common stands there once,
//! and their heads stand for the bytes that they have, so that a key is put together where one is asked for. If the
//! keys are numbers without a gap besides, as the positions of a list's elements are, the block is a *run*, and its
//! keys take no room at all. A block becomes even or a run where it is made of one key, of parts of others or of all of
//! one; a key that does not suit it makes it varied, or even.
//!
//! Numbers are in the machine's byte order, since a block never leaves memory. In a block of more than 64 KiB (one
//! large cell, or separators of very long keys) ends are 4 bytes each.

use crate::storage::look_ahead::Aim;
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::ops::{ControlFlow, Deref, Range};
use std::sync::Arc;

/// The most that a block takes, with its `Arc`, unless it has only one cell or no bound.
pub(super) const BLOCK_BYTES_MAX: usize = 4096;

/// What `Arc` puts before what is shared: two counts.
pub(super) const ARC_BYTES: usize = 2 * size_of::<usize>();

const COUNT: Range<usize> = 0..2;
const SKIP: Range<usize> = 2..4;
const GONE: Range<usize> = 4..6;
const FORM: usize = 6;
const KEY_LEN: usize = 7;
const HEADER_BYTES: usize = 8;
const HEAD_BYTES: usize = 4;

/// Heads in a line of the processor's cache.
const LINE_HEADS: usize = 16;

/// What is read ahead of a small block is all of it.
const LINE_BYTES: usize = HEAD_BYTES * LINE_HEADS;
const FEW_LINES_BYTES: usize = 8 * LINE_BYTES;

/// Cells that are read ahead of a range of unknown length.
const READ_CELLS: usize = 10;

/// So many bytes are compared in a loop as quickly as by a call.
const FEW_BYTES: usize = 8;

/// A block that becomes smaller keeps a sixteenth free.
const SHRINK_ROOM: usize = 16;

/// A block of more bytes is made twice as large when it grows at an end, where more will come, and only made smaller
/// when more than half of it is free, if cells go from its ends.
const GROWS_TWICE_BYTES_MIN: usize = 512;

/// A block of more bytes has wide ends, of 4 bytes and not 2.
const NARROW_BYTES_MAX: usize = u16::MAX as usize;
const NARROW_END_BYTES: usize = 2;
const WIDE_END_BYTES: usize = 4;

/// In place of a key's length: it follows in four bytes.
const LONG_KEY: u8 = 255;

/// The longest keys of an even block.
const EVEN_KEY_MAX: usize = 32;

/// What new blocks are copied from, which is the one safe way to get a shared slice without a loop over its bytes.
static ZEROS: [u8; BLOCK_BYTES_MAX] = [0; BLOCK_BYTES_MAX];

// The count of a bounded block must fit its two bytes, also with empty keys and values.
const _: () = assert!(BLOCK_BYTES_MAX / NARROW_END_BYTES < u16::MAX as usize);
const _: () = assert!(BLOCK_BYTES_MAX <= NARROW_BYTES_MAX);

/// A packed block: see the file's head.
#[derive(Clone)]
pub(super) struct CellBlock(Arc<[u8]>);

/// Where more cells will come behind one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MoreToCome {
    Anywhere,
    ThisEnd,
}

/// How the keys of a block are kept: see the file's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Varied,
    Even,
    Run,
}

/// What all keys of a block have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    form: Form,
    /// How long each key is, unless they are varied.
    key_len: usize,
    /// How many bytes are the same in all. They are followed by a whole head, unless the keys are varied or shorter.
    skip: usize,
}

/// A block taken apart for reading.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    bytes: &'a [u8],
    shape: Shape,
    heads: Heads<'a>,
    ends: Ends<'a>,
    /// The bytes of the cells that are gone.
    gone_bytes: usize,
}

#[derive(Clone, Copy)]
enum Heads<'a> {
    Kept(&'a [[u8; HEAD_BYTES]]),
    Run { first: u32, count: usize },
}

#[derive(Clone, Copy)]
enum Ends<'a> {
    Narrow(&'a [[u8; NARROW_END_BYTES]]),
    Wide(&'a [[u8; WIDE_END_BYTES]]),
}

/// A key of a block, as it lies there or put together.
#[derive(Clone, Copy, Debug)]
pub enum CellKey<'a> {
    /// Of a varied block.
    Whole(&'a [u8]),
    /// Of one whose keys are equally long.
    Joined(JoinedKey),
}

/// A key that was put together from what a block has of it.
#[derive(Clone, Copy, Debug)]
pub struct JoinedKey {
    bytes: [u8; EVEN_KEY_MAX],
    len: usize,
}

/// A key and its value, where they are.
pub(super) type Cell<'a> = (CellKey<'a>, &'a [u8]);

/// The bytes of an allocation that is asked for `bytes`: a quarter of a power of two, as allocators have them, so that
/// a block that grows is not moved for each cell; and no more than asked for where a block has few cells.
fn allocation_bytes(bytes: usize) -> usize {
    let step = match bytes {
        65..=256 => (1 << (bytes - 1).ilog2()) / 2,
        257..=BLOCK_BYTES_MAX => (1 << (bytes - 1).ilog2()) / 4,
        _ => 16,
    };
    bytes.next_multiple_of(step)
}

fn end_bytes(block_bytes: usize) -> usize {
    if block_bytes > NARROW_BYTES_MAX {
        WIDE_END_BYTES
    } else {
        NARROW_END_BYTES
    }
}

fn key_length_bytes(length: usize) -> usize {
    if length < usize::from(LONG_KEY) { 1 } else { 5 }
}

/// The four bytes of a key behind the first `skip`, as a number; zeros where it ends earlier.
#[inline]
fn head_of(key: &[u8], skip: usize) -> u32 {
    match key.get(skip..).unwrap_or_default() {
        [a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]),
        [a, b, c] => u32::from_be_bytes([*a, *b, *c, 0]),
        [a, b] => u32::from_be_bytes([*a, *b, 0, 0]),
        [a] => u32::from_be_bytes([*a, 0, 0, 0]),
        [] => 0,
    }
}

/// How many bytes two keys have in common at their beginning.
pub(super) fn common_bytes(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// How a key compares with what all keys of a block have in common.
#[inline]
fn compare_beginning(key: &[u8], beginning: &[u8]) -> Ordering {
    let key_bytes = &key[..beginning.len().min(key.len())];
    if beginning.len() > FEW_BYTES {
        return key_bytes.cmp(beginning);
    }
    for (one, other) in key_bytes.iter().zip(beginning) {
        if one != other {
            return one.cmp(other);
        }
    }
    key_bytes.len().cmp(&beginning.len())
}

impl Shape {
    /// The shape of a block of one key.
    fn of_one(key: &[u8]) -> Shape {
        let len = key.len();
        match len {
            0..=EVEN_KEY_MAX => Shape {
                form: if len < HEAD_BYTES { Form::Even } else { Form::Run },
                key_len: len,
                skip: len.saturating_sub(HEAD_BYTES),
            },
            _ => Shape::varied(len),
        }
    }

    fn varied(skip: usize) -> Shape {
        Shape {
            form: Form::Varied,
            key_len: 0,
            skip: skip.min(usize::from(u16::MAX)),
        }
    }

    /// The shape of a block of the cells of several, of which none has none.
    fn of(parts: &[(Cells<'_>, Range<usize>)]) -> Option<Shape> {
        let ((first, range), (last, last_range)) = (parts.first()?, parts.last()?);
        let key_len = first.shape.key_len;
        let (first_key, last_key) = (first.key(range.start), last.key(last_range.end - 1));
        let skip = common_bytes(&first_key, &last_key);
        let is_even = |(part, _): &(Cells<'_>, _)| part.shape.form != Form::Varied && part.shape.key_len == key_len;
        if !parts.iter().all(is_even) {
            return Some(Shape::varied(skip));
        }
        let skip = skip.min(key_len.saturating_sub(HEAD_BYTES));
        let count: usize = parts.iter().map(|(_, range)| range.len()).sum();
        let distance = head_of(&last_key, skip) - head_of(&first_key, skip);
        let is_run = key_len == skip + HEAD_BYTES && distance as usize == count - 1;
        let form = if is_run { Form::Run } else { Form::Even };
        Some(Shape { form, key_len, skip })
    }

    #[inline(always)]
    fn read(bytes: &[u8]) -> Shape {
        let form = match bytes[FORM] {
            0 => Form::Varied,
            1 => Form::Even,
            _ => Form::Run,
        };
        Shape {
            form,
            key_len: usize::from(bytes[KEY_LEN]),
            skip: usize::from(u16::from_ne_bytes([bytes[2], bytes[3]])),
        }
    }

    /// Where the heads begin, or the ends if there are no heads.
    #[inline(always)]
    fn heads_at(self) -> usize {
        HEADER_BYTES + self.beginning_bytes()
    }

    /// What stands in the block for all its keys.
    #[inline(always)]
    fn beginning_bytes(self) -> usize {
        match self.form {
            Form::Varied => 0,
            Form::Even => self.skip,
            Form::Run => self.key_len,
        }
    }

    /// What stands beside the cells for each key.
    #[inline(always)]
    fn head_bytes(self) -> usize {
        match self.form {
            Form::Varied | Form::Even => HEAD_BYTES,
            Form::Run => 0,
        }
    }

    /// Where the bytes of a key begin that its cell has.
    #[inline(always)]
    fn kept_from(self) -> usize {
        match self.form {
            Form::Varied => 0,
            Form::Even | Form::Run => (self.skip + HEAD_BYTES).min(self.key_len),
        }
    }

    /// What a cell has beside its value.
    #[inline(always)]
    fn kept_bytes(self, key_len: usize) -> usize {
        match self.form {
            Form::Varied => key_length_bytes(key_len) + key_len,
            Form::Even | Form::Run => self.key_len - self.kept_from(),
        }
    }

    /// The bytes of a cell.
    #[inline(always)]
    fn cell_bytes(self, key: &[u8], value: &[u8]) -> usize {
        self.kept_bytes(key.len()) + value.len()
    }

    /// Whether cells are the same bytes in a block of another shape.
    fn has_cells_of(self, other: Shape) -> bool {
        let are_varied = (self.form == Form::Varied, other.form == Form::Varied);
        match are_varied {
            (true, true) => true,
            (false, false) => self.key_len == other.key_len && self.kept_from() == other.kept_from(),
            _ => false,
        }
    }

    /// The key and the value of a cell, but of the key only what the cell has.
    #[inline(always)]
    fn parts_of(self, cell: &[u8]) -> (&[u8], &[u8]) {
        match (self.form, cell) {
            (Form::Even | Form::Run, _) => cell.split_at(self.key_len - self.kept_from()),
            (_, [LONG_KEY, a, b, c, d, rest @ ..]) => rest.split_at(u32::from_ne_bytes([*a, *b, *c, *d]) as usize),
            (_, [length, rest @ ..]) => rest.split_at(usize::from(*length)),
            (_, []) => unreachable!("a cell begins with its key's length"),
        }
    }
}

impl JoinedKey {
    /// A key without what follows the beginning of all keys.
    #[inline]
    fn begun(cells: &Cells<'_>) -> JoinedKey {
        let Shape { skip, key_len, .. } = cells.shape;
        let mut bytes = [0; EVEN_KEY_MAX];
        if cells.shape.form != Form::Varied {
            bytes[..skip].copy_from_slice(&cells.bytes[HEADER_BYTES..][..skip]);
        }
        JoinedKey { bytes, len: key_len }
    }

    /// Makes it that of a cell, of which the block has a head and what is behind it.
    #[inline]
    fn end(&mut self, skip: usize, head: u32, rest: &[u8]) {
        self.bytes[skip..][..HEAD_BYTES].copy_from_slice(&head.to_be_bytes());
        if !rest.is_empty() {
            self.bytes[skip + HEAD_BYTES..][..rest.len()].copy_from_slice(rest);
        }
    }
}

impl Deref for JoinedKey {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Deref for CellKey<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            CellKey::Whole(key) => key,
            CellKey::Joined(key) => key,
        }
    }
}

impl<'a> Heads<'a> {
    #[inline(always)]
    fn len(self) -> usize {
        match self {
            Heads::Kept(heads) => heads.len(),
            Heads::Run { count, .. } => count,
        }
    }

    #[inline(always)]
    fn get(self, at: usize) -> u32 {
        match self {
            Heads::Kept(heads) => u32::from_ne_bytes(heads[at]),
            Heads::Run { first, .. } => first + at as u32,
        }
    }

    #[inline(always)]
    fn from(self, at: usize) -> Heads<'a> {
        match self {
            Heads::Kept(heads) => Heads::Kept(&heads[at..]),
            Heads::Run { first, count } => Heads::Run {
                first: first.wrapping_add(at as u32),
                count: count - at,
            },
        }
    }

    /// How many are less than `head`.
    #[inline(always)]
    fn below(self, head: u32) -> usize {
        let heads = match self {
            Heads::Kept(heads) => heads,
            Heads::Run { first, count } => return (head.saturating_sub(first) as usize).min(count),
        };
        // One head of each line of the cache, whose loads do not wait for one another, and then one line.
        let (lines, rest) = heads.as_chunks::<LINE_HEADS>();
        let is_below = |other: &[u8; HEAD_BYTES]| u32::from(u32::from_ne_bytes(*other) < head);
        let full = lines.iter().map(|line| is_below(&line[LINE_HEADS - 1])).sum::<u32>() as usize;
        let partly: u32 = match lines.get(full) {
            Some(line) => line.iter().map(is_below).sum(),
            None => rest.iter().map(is_below).sum(),
        };
        full * LINE_HEADS + partly as usize
    }
}

impl<'a> Ends<'a> {
    #[inline(always)]
    fn get(self, at: usize) -> usize {
        match self {
            Ends::Narrow(ends) => usize::from(u16::from_ne_bytes(ends[at])),
            Ends::Wide(ends) => u32::from_ne_bytes(ends[at]) as usize,
        }
    }

    #[inline(always)]
    fn from(self, at: usize) -> Ends<'a> {
        match self {
            Ends::Narrow(ends) => Ends::Narrow(&ends[at..]),
            Ends::Wide(ends) => Ends::Wide(&ends[at..]),
        }
    }
}

impl<'a> Cells<'a> {
    /// Those of a block that are not gone.
    #[inline(always)]
    fn of(bytes: &'a [u8]) -> Cells<'a> {
        let all = Cells::with_gone(bytes);
        match usize::from(u16::from_ne_bytes([bytes[4], bytes[5]])) {
            0 => all,
            gone => Cells {
                heads: all.heads.from(gone),
                ends: all.ends.from(gone),
                gone_bytes: all.ends.get(gone - 1),
                ..all
            },
        }
    }

    /// All of a block. Those that are gone need not be in order.
    #[inline(always)]
    fn with_gone(bytes: &'a [u8]) -> Cells<'a> {
        let count = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let shape = Shape::read(bytes);
        let (beginning, rest) = bytes[HEADER_BYTES..].split_at(shape.beginning_bytes());
        let (heads, rest) = rest.split_at(shape.head_bytes() * count);
        let heads = match shape.form {
            Form::Varied | Form::Even => Heads::Kept(heads.as_chunks().0),
            Form::Run => Heads::Run {
                first: head_of(beginning, shape.skip),
                count,
            },
        };
        let ends = if bytes.len() > NARROW_BYTES_MAX {
            Ends::Wide(rest[..WIDE_END_BYTES * count].as_chunks().0)
        } else {
            Ends::Narrow(rest[..NARROW_END_BYTES * count].as_chunks().0)
        };
        Cells {
            bytes,
            shape,
            heads,
            ends,
            gone_bytes: 0,
        }
    }

    /// Those of no block.
    pub(super) fn empty() -> Cells<'a> {
        Cells {
            bytes: &[],
            shape: Shape::varied(0),
            heads: Heads::Kept(&[]),
            ends: Ends::Narrow(&[]),
            gone_bytes: 0,
        }
    }

    /// How many cells there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn head(&self, at: usize) -> u32 {
        self.heads.get(at)
    }

    /// The bytes of the first `count` cells, and of those that are gone.
    #[inline(always)]
    fn bytes_before(&self, count: usize) -> usize {
        match count {
            0 => self.gone_bytes,
            _ => self.ends.get(count - 1),
        }
    }

    /// What the block's cells need, with its header.
    #[inline]
    fn used_bytes(&self) -> usize {
        self.used_bytes_as(self.shape)
    }

    /// What they would need in a block of another shape.
    #[inline]
    fn used_bytes_as(&self, shape: Shape) -> usize {
        let slot = shape.head_bytes() + end_bytes(self.bytes.len());
        shape.heads_at() + slot * self.len() + self.bytes_as(&(0..self.len()), shape)
    }

    /// The bytes of the cells of a range in a block of another shape.
    #[inline]
    fn bytes_as(&self, range: &Range<usize>, shape: Shape) -> usize {
        let bytes = self.bytes_before(range.end) - self.bytes_before(range.start);
        match self.shape.form {
            // A varied block becomes no other while it has cells.
            Form::Varied => bytes,
            Form::Even | Form::Run => {
                let key_len = self.shape.key_len;
                bytes + range.len() * shape.kept_bytes(key_len) - range.len() * self.shape.kept_bytes(key_len)
            }
        }
    }

    #[inline(always)]
    fn cell_range(&self, at: usize) -> Range<usize> {
        let end = self.bytes.len();
        end - self.bytes_before(at + 1)..end - self.bytes_before(at)
    }

    /// The key and the value of a cell.
    #[inline(always)]
    pub(super) fn cell(&self, at: usize) -> Cell<'a> {
        let (kept, value) = self.kept(at);
        (self.key_of(at, kept), value)
    }

    /// The value of a cell.
    #[inline(always)]
    pub(super) fn value(&self, at: usize) -> &'a [u8] {
        self.kept(at).1
    }

    /// The key of a cell.
    #[inline(always)]
    pub(super) fn key(&self, at: usize) -> CellKey<'a> {
        self.cell(at).0
    }

    /// What a cell has of its key, and its value.
    #[inline(always)]
    fn kept(&self, at: usize) -> (&'a [u8], &'a [u8]) {
        self.shape.parts_of(&self.bytes[self.cell_range(at)])
    }

    /// The key of a cell that has `kept` of it.
    #[inline(always)]
    fn key_of(&self, at: usize, kept: &'a [u8]) -> CellKey<'a> {
        match self.shape.form {
            Form::Varied => CellKey::Whole(kept),
            Form::Even | Form::Run => {
                let mut key = JoinedKey::begun(self);
                key.end(self.shape.skip, self.head(at), kept);
                CellKey::Joined(key)
            }
        }
    }

    /// The first byte of a cell's key, if it has one.
    #[inline]
    pub(super) fn first_byte(&self, at: usize) -> Option<u8> {
        match self.shape {
            Shape { form: Form::Varied, .. } => self.kept(at).0.first().copied(),
            Shape { key_len: 0, .. } => None,
            Shape { skip: 0, .. } => Some(self.head(at).to_be_bytes()[0]),
            _ => Some(self.bytes[HEADER_BYTES]),
        }
    }

    /// What all keys have in common. `at` is any cell.
    #[inline(always)]
    fn beginning(&self, at: usize) -> &'a [u8] {
        let first = match self.shape.form {
            Form::Varied => self.kept(at).0,
            Form::Even | Form::Run => &self.bytes[HEADER_BYTES..],
        };
        &first[..self.shape.skip]
    }

    /// Whether a cell has this key, of whose head it is known.
    #[inline(always)]
    fn has_key(&self, at: usize, key: &[u8]) -> bool {
        let (kept, _) = self.kept(at);
        match self.shape.form {
            Form::Varied => kept == key,
            Form::Even | Form::Run => {
                key.len() == self.shape.key_len
                    && (kept.is_empty() || &key[self.shape.kept_from()..] == kept)
                    && &key[..self.shape.skip] == self.beginning(at)
            }
        }
    }

    /// The shape of the block when one more key comes before that at `at`.
    #[inline]
    fn shape_with(&self, at: usize, key: &[u8]) -> Shape {
        let Some(last) = self.len().checked_sub(1) else {
            return Shape::of_one(key);
        };
        let beginning = self.beginning(at.min(last));
        let skip = match key.starts_with(beginning) {
            true => self.shape.skip,
            false => common_bytes(key, beginning),
        };
        if self.shape.form == Form::Varied || key.len() != self.shape.key_len {
            return Shape::varied(skip);
        }
        let head = head_of(key, skip);
        let is_next = match at {
            0 => head.checked_add(1) == Some(self.head(0)),
            _ => at > last && self.head(last).checked_add(1) == Some(head),
        };
        let is_run = self.shape.form == Form::Run && skip == self.shape.skip && is_next;
        Shape {
            form: if is_run { Form::Run } else { Form::Even },
            skip,
            ..self.shape
        }
    }

    /// Calls `visit` with the cells of a range, in order, until it breaks.
    #[inline]
    pub(super) fn visit(
        &self,
        range: Range<usize>,
        visit: &mut impl FnMut(&[u8], &'a [u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut joined = JoinedKey::begun(self);
        let mut end = self.bytes.len() - self.bytes_before(range.start);
        for at in range {
            let begin = self.bytes.len() - self.bytes_before(at + 1);
            self.visit_one(at, &self.bytes[begin..end], &mut joined, visit)?;
            end = begin;
        }
        ControlFlow::Continue(())
    }

    /// The same from the last cell of the range to the first.
    #[inline]
    pub(super) fn visit_backward(
        &self,
        range: Range<usize>,
        visit: &mut impl FnMut(&[u8], &'a [u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut joined = JoinedKey::begun(self);
        let mut begin = self.bytes.len() - self.bytes_before(range.end);
        for at in range.rev() {
            let end = self.bytes.len() - self.bytes_before(at);
            self.visit_one(at, &self.bytes[begin..end], &mut joined, visit)?;
            begin = end;
        }
        ControlFlow::Continue(())
    }

    /// Shows a cell to `visit`; its key is put together in `joined`.
    #[inline(always)]
    fn visit_one(
        &self,
        at: usize,
        cell: &'a [u8],
        joined: &mut JoinedKey,
        visit: &mut impl FnMut(&[u8], &'a [u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (kept, value) = self.shape.parts_of(cell);
        if self.shape.form == Form::Varied {
            return visit(kept, value);
        }
        joined.end(self.shape.skip, self.head(at), kept);
        visit(joined, value)
    }

    /// The last key of a block that has one.
    #[inline]
    pub(super) fn last_key(&self) -> CellKey<'a> {
        self.key(self.len() - 1)
    }

    /// Where a key is, or where it would have to be.
    #[inline]
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let count = self.len();
        if count == 0 {
            return Err(0);
        }
        let head = head_of(key, self.shape.skip);
        let at = self.heads.below(head);
        let has_head = at < count && self.head(at) == head;
        // Mostly what is looked for is there.
        if has_head && self.has_key(at, key) {
            return Ok(at);
        }
        if self.shape.skip > 0 {
            // Heads say nothing of a key that has not what all keys have in common: it is before or behind them.
            match compare_beginning(key, self.beginning(at.min(count - 1))) {
                Ordering::Less => return Err(0),
                Ordering::Greater => return Err(count),
                Ordering::Equal => {}
            }
        }
        if has_head && *key > *self.key(at) {
            return self.search_same_heads(key, at + 1);
        }
        Err(at)
    }

    /// The rest of a search, among the cells from `from` on that have the head of the cell before.
    #[cold]
    fn search_same_heads(&self, key: &[u8], from: usize) -> Result<usize, usize> {
        let head = self.head(from - 1);
        let behind = head.checked_add(1).map_or(self.len(), |next| self.heads.below(next));
        let (mut low, mut high) = (from, behind);
        // Often it comes behind all of them: names end with numbers, and those mostly ascend.
        if let Some(last) = high.checked_sub(1).filter(|last| low <= *last) {
            match (*self.key(last)).cmp(key) {
                Ordering::Less => return Err(high),
                Ordering::Equal => return Ok(last),
                Ordering::Greater => high = last,
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match (*self.key(middle)).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// How many keys are less than `key`.
    #[inline]
    pub(super) fn keys_below(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|at| at)
    }

    /// Where to part the block's cells (there are two at least) into halves of about the same bytes.
    pub(super) fn middle(&self) -> usize {
        let (count, half) = (self.len(), (self.gone_bytes + self.bytes_before(self.len())) / 2);
        let (mut low, mut high) = (1, count - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.bytes_before(middle) < half {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl CellBlock {
    /// A block of one cell.
    pub(super) fn one(key: &[u8], value: &[u8]) -> CellBlock {
        let shape = Shape::of_one(key);
        let mut block = CellBlock::concat(&[], (1, shape.cell_bytes(key, value)), shape);
        block.insert_in_place(0, key, value);
        block
    }

    /// A block without cells that has room for as many as a bounded block can have, or for this one if that is larger.
    pub(super) fn with_most_room(key: &[u8], value: &[u8]) -> CellBlock {
        let shape = Shape::of_one(key);
        let most = BLOCK_BYTES_MAX - ARC_BYTES - shape.heads_at() - shape.head_bytes() - NARROW_END_BYTES;
        CellBlock::concat(&[], (1, shape.cell_bytes(key, value).max(most)), shape)
    }

    /// A block of cells of others, in their order, and no room for more.
    fn of_parts(parts: &[(Cells<'_>, Range<usize>)]) -> CellBlock {
        let filled: SmallVec<[_; 2]> = parts.iter().filter(|(_, range)| !range.is_empty()).cloned().collect();
        let shape = Shape::of(&filled).unwrap_or(Shape::varied(0));
        CellBlock::concat(&filled, (0, 0), shape)
    }

    /// A block of the cells of several, in their order, of which each has some, with room for `cells` more of `bytes`
    /// bytes.
    fn concat(parts: &[(Cells<'_>, Range<usize>)], (cells, bytes): (usize, usize), shape: Shape) -> CellBlock {
        let count: usize = parts.iter().map(|(_, range)| range.len()).sum();
        let part_bytes: usize = parts.iter().map(|(part, range)| part.bytes_as(range, shape)).sum();
        let size = |end_bytes: usize| {
            let slots = (count + cells) * (shape.head_bytes() + end_bytes);
            allocation_bytes(ARC_BYTES + shape.heads_at() + slots + part_bytes + bytes) - ARC_BYTES
        };
        let size = match size(NARROW_END_BYTES) {
            narrow if narrow <= NARROW_BYTES_MAX => narrow,
            // Not so few that its ends would be taken for narrow ones.
            _ => size(WIDE_END_BYTES).max(NARROW_BYTES_MAX + 1),
        };
        assert!(size <= u32::MAX as usize, "a block's ends have four bytes at the most");
        let mut shared = match ZEROS.get(..size) {
            Some(zeros) => Arc::from(zeros),
            None => Arc::from(vec![0; size]),
        };
        let mut to = Writer::of(Arc::get_mut(&mut shared).expect("nobody else has it yet"));
        to.set_shape(shape);
        to.set_count(count);
        if let Some((part, range)) = parts.first() {
            to.set_beginning(&part.key(range.start));
        }
        let (mut at, mut before) = (0, 0);
        for (part, range) in parts {
            to.copy_cells((part, range), count, (at, before));
            at += range.len();
            before += part.bytes_as(range, shape);
        }
        CellBlock(shared)
    }

    /// The block's cells in another shape, or the same one, with room for `cells` more of `bytes` bytes.
    fn make_anew(&mut self, (cells, bytes): (usize, usize), shape: Shape) {
        let all = self.cells();
        *self = match all.len() {
            0 => CellBlock::concat(&[], (cells, bytes), shape),
            count => CellBlock::concat(&[(all, 0..count)], (cells, bytes), shape),
        };
    }

    /// The block, to be read.
    #[inline]
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells::of(&self.0)
    }

    /// All cells, those included that are gone, to be changed: whose place is `at` has it `gone()` places later here.
    #[inline]
    fn cells_with_gone(&self) -> Cells<'_> {
        Cells::with_gone(&self.0)
    }

    /// How many of the first cells are gone.
    #[inline]
    fn gone(&self) -> usize {
        usize::from(u16::from_ne_bytes([self.0[4], self.0[5]]))
    }

    /// How many cells there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(u16::from_ne_bytes([self.0[0], self.0[1]])) - self.gone()
    }

    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the header.
    #[inline]
    pub(super) fn touch(&self) -> u64 {
        self.len() as u64
    }

    /// Reads what a search reads that ends before the first cell, behind the last one or at a key.
    #[inline]
    pub(super) fn touch_cells(&self, aim: Aim<'_>) -> u64 {
        if self.0.len() <= FEW_LINES_BYTES {
            return self.0.iter().step_by(LINE_BYTES).map(|byte| u64::from(*byte)).sum();
        }
        let cells = self.cells();
        let at = match aim {
            _ if cells.is_empty() => return 0,
            Aim::Member(key) => return cells.search(key).map_or(0, |at| cells.value(at).len() as u64),
            Aim::First | Aim::Unknown | Aim::Byte(_) => 0,
            Aim::Last => cells.len() - 1,
            Aim::Rank(rank) => {
                let from = rank.min(cells.len() - 1);
                let to = (from + READ_CELLS).min(cells.len());
                // Cells lie backwards.
                let bytes = &self.0[cells.cell_range(to - 1).start..cells.cell_range(from).end];
                return bytes.iter().step_by(LINE_BYTES).map(|byte| u64::from(*byte)).sum();
            }
        };
        u64::from(cells.head(at)) ^ u64::from(self.0[cells.cell_range(at).start])
    }

    /// What the block takes of the heap.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        ARC_BYTES + self.0.len()
    }

    /// What the block's cells need of the heap.
    pub(super) fn used_bytes(&self) -> usize {
        ARC_BYTES + self.cells().used_bytes()
    }

    /// Adds a cell before that at `at`, unless the block would then need more than `bytes_max` and is not empty.
    pub(super) fn insert(&mut self, at: usize, key: &[u8], value: &[u8], bytes_max: usize) -> bool {
        self.insert_of(at, (key, value), bytes_max, MoreToCome::Anywhere)
    }

    /// The same where more cells will probably come there, which is an end of the block.
    pub(super) fn insert_at_end(&mut self, at: usize, key: &[u8], value: &[u8], bytes_max: usize) -> bool {
        self.insert_of(at, (key, value), bytes_max, MoreToCome::ThisEnd)
    }

    #[inline]
    fn insert_of(
        &mut self,
        at: usize,
        (key, value): (&[u8], &[u8]),
        bytes_max: usize,
        more_to_come: MoreToCome,
    ) -> bool {
        let cells = self.cells();
        let (count, shape) = (cells.len(), cells.shape_with(at, key));
        let size = shape.cell_bytes(key, value);
        let more = shape.head_bytes() + end_bytes(self.0.len()) + size;
        let needed = cells.used_bytes_as(shape) + more;
        if ARC_BYTES + needed > bytes_max && count > 0 {
            return false;
        }
        let keeps_shape = shape == cells.shape;
        if at == 0 && count > 0 && keeps_shape && self.has_room_in_front(size) {
            self.insert_in_front(key, value);
            return true;
        }
        // Those that are gone stand for keys of the run that a cell before the others does not come behind.
        let is_before_run = at == 0 && shape.form == Form::Run && self.gone() > 0;
        let has_room = self.cells_with_gone().used_bytes() + more <= self.0.len();
        if !keeps_shape || is_before_run || !has_room || (count == 0 && self.gone() > 0) {
            let room = match ARC_BYTES + needed {
                bytes @ GROWS_TWICE_BYTES_MIN..=BLOCK_BYTES_MAX if more_to_come == MoreToCome::ThisEnd => {
                    bytes.next_power_of_two().min(BLOCK_BYTES_MAX) - bytes
                }
                _ => 0,
            };
            self.make_anew((1, size + room), shape);
        }
        let is_front = at == 0 && count > 0 && more_to_come == MoreToCome::ThisEnd;
        if is_front && self.make_room_in_front(size) {
            self.insert_in_front(key, value);
        } else {
            self.insert_in_place(at, key, value);
        }
        true
    }

    /// Whether a cell of so many bytes can take the place of gone ones.
    #[inline]
    fn has_room_in_front(&self, size: usize) -> bool {
        let gone_bytes = self.cells().gone_bytes;
        // All but the first begin anywhere, and that one where the block ends.
        match self.gone() {
            0 => false,
            1 => gone_bytes == size,
            _ => gone_bytes >= size,
        }
    }

    /// Makes what is free into room in front, for cells of so many bytes. Returns whether there is any now.
    fn make_room_in_front(&mut self, size: usize) -> bool {
        let cells = self.cells_with_gone();
        let (count, gone, all) = (cells.len(), self.gone(), cells.bytes_before(cells.len()));
        let slot = cells.shape.head_bytes() + end_bytes(self.0.len());
        let more = (self.0.len() - cells.used_bytes()) / (slot + size);
        if more < 2 {
            return false;
        }
        let first = match cells.heads {
            Heads::Kept(_) => None,
            Heads::Run { first, .. } => match first.checked_sub(more as u32) {
                None => return false,
                first => first,
            },
        };
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.move_cells(0..all, more * size, 0);
        block.make_slots(count, (0, more));
        block.set_count(count + more);
        block.move_ends((more, more + count), count + more, more * size, 0);
        // Of those that are gone only where the last one ends is asked for.
        if gone == 0 {
            block.set_end(count + more, more - 1, more * size);
        }
        block.set_gone(gone + more);
        if let Some(first) = first {
            block.set_run_head(first);
        }
        true
    }

    /// Adds a cell before all others, in the place of gone ones, to a block whose shape it suits.
    fn insert_in_front(&mut self, key: &[u8], value: &[u8]) {
        let cells = self.cells();
        let (size, begin, gone) = (cells.shape.cell_bytes(key, value), cells.gone_bytes, self.gone());
        let count = gone + cells.len();
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.write_cell(begin, key, value);
        block.set_head(gone - 1, key);
        if gone > 1 {
            block.set_end(count, gone - 2, begin - size);
        }
        block.set_gone(gone - 1);
    }

    /// The same as [`CellBlock::insert`] where it is known that there is room and that the block's shape suits the key.
    fn insert_in_place(&mut self, at: usize, key: &[u8], value: &[u8]) {
        let (cells, at) = (self.cells_with_gone(), self.gone() + at);
        let (count, size) = (cells.len(), cells.shape.cell_bytes(key, value));
        let (before, all) = (cells.bytes_before(at), cells.bytes_before(count));
        assert!(count < usize::from(u16::MAX), "a block's count has two bytes");
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        if at == 0 {
            block.set_beginning(key);
        }
        block.move_cells(before..all, size, 0);
        block.write_cell(before + size, key, value);
        block.make_slots(count, (at, 1));
        block.set_count(count + 1);
        block.set_end(count + 1, at, before + size);
        block.move_ends((at + 1, count + 1), count + 1, size, 0);
        block.set_head(at, key);
    }

    /// Gives a cell another value. A smaller one may leave the block so sparse that it is to be shrunk.
    pub(super) fn replace(&mut self, at: usize, value: &[u8]) {
        let cells = self.cells();
        let old = cells.value(at).len();
        if self.cells_with_gone().used_bytes() - old + value.len() > self.0.len() {
            self.make_anew((0, value.len() - old), cells.shape);
        }
        let (cells, at) = (self.cells_with_gone(), self.gone() + at);
        let (count, before, all) = (cells.len(), cells.bytes_before(at), cells.bytes_before(cells.len()));
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        if value.len() != old {
            // The cell's key lies before its value, and moves with the cells that follow.
            block.move_cells(before + old..all, value.len(), old);
            block.move_ends((at, count), count, value.len(), old);
        }
        let end = block.bytes.len() - before;
        block.bytes[end - value.len()..end].copy_from_slice(value);
    }

    /// Removes cells, and gives back memory where much is free. Returns whether the block was made anew. One that was a
    /// run keeps heads then, so that it may take up to [`HEAD_BYTES`] a cell more than [`BLOCK_BYTES_MAX`], until a
    /// cell is added and it is parted.
    pub(super) fn remove(&mut self, range: Range<usize>) -> bool {
        let gone = self.gone();
        if range.start == 0 {
            Writer::of(Arc::make_mut(&mut self.0)).set_gone(gone + range.end);
            return self.shrink_if(CellBlock::is_half_free);
        }
        let cells = self.cells();
        if cells.shape.form == Form::Run && range.end < cells.len() {
            // What is left is no run.
            *self = CellBlock::of_parts(&[(cells, 0..range.start), (cells, range.end..cells.len())]);
            return true;
        }
        let (cells, range) = (self.cells_with_gone(), gone + range.start..gone + range.end);
        let count = cells.len();
        let (before, all) = (cells.bytes_before(range.start), cells.bytes_before(count));
        let through = cells.bytes_before(range.end);
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.move_cells(through..all, 0, through - before);
        let rest = count - range.len();
        block.close_slots(count, &range);
        block.set_count(rest);
        block.move_ends((range.start, rest), rest, 0, through - before);
        match range.start == rest {
            true => self.shrink_if(CellBlock::is_half_free),
            false => self.shrink(),
        }
    }

    /// Gives back memory if there is enough free. Returns whether it did.
    pub(super) fn shrink(&mut self) -> bool {
        self.shrink_if(CellBlock::is_sparse)
    }

    fn shrink_if(&mut self, is_sparse: impl Fn(&CellBlock) -> bool) -> bool {
        let is_sparse = is_sparse(self);
        if is_sparse {
            let cells = self.cells();
            *self = CellBlock::of_parts(&[(cells, 0..cells.len())]);
        }
        is_sparse
    }

    /// Whether what is used would fit a smaller allocation, with some room so that a block that grows and shrinks in
    /// turn is not moved each time.
    fn is_sparse(&self) -> bool {
        allocation_bytes(self.used_bytes() + self.heap_bytes() / SHRINK_ROOM) < self.heap_bytes()
    }

    /// Whether more than half is free, which is as much as a block may have that grows at an end.
    fn is_half_free(&self) -> bool {
        let (used, heap) = (self.used_bytes(), self.heap_bytes());
        used + heap / SHRINK_ROOM <= heap / 2 && self.is_sparse()
    }

    /// The cells before `at`, and the others.
    pub(super) fn split(&self, at: usize) -> (CellBlock, CellBlock) {
        let cells = self.cells();
        (
            CellBlock::of_parts(&[(cells, 0..at)]),
            CellBlock::of_parts(&[(cells, at..cells.len())]),
        )
    }

    /// The cells of both blocks, of which all of the other's are behind this one's; `None` if they need more than so
    /// many bytes.
    pub(super) fn joined(&self, other: &CellBlock, bytes_max: usize) -> Option<CellBlock> {
        let (cells, others) = (self.cells(), other.cells());
        // What they have in common may be less than what each has, and more stands in the cells.
        let parts = [(cells, 0..cells.len()), (others, 0..others.len())];
        let shape = match (cells.len(), others.len()) {
            (0, 0) => None,
            (_, 0) => Shape::of(&parts[..1]),
            (0, _) => Shape::of(&parts[1..]),
            _ => Shape::of(&parts),
        };
        let bytes = shape.map_or(0, |shape| cells.used_bytes_as(shape) + others.used_bytes_as(shape));
        (2 * ARC_BYTES + bytes <= bytes_max).then(|| CellBlock::of_parts(&parts))
    }
}

/// A block that is changed. It does not know the count, which changes on the way.
struct Writer<'a> {
    bytes: &'a mut [u8],
    shape: Shape,
    end_bytes: usize,
}

impl Writer<'_> {
    fn of(bytes: &mut [u8]) -> Writer<'_> {
        let (shape, end_bytes) = (Shape::read(bytes), end_bytes(bytes.len()));
        Writer {
            bytes,
            shape,
            end_bytes,
        }
    }

    /// Where the ends begin in a block of `count` cells.
    fn ends_at(&self, count: usize) -> usize {
        self.shape.heads_at() + self.shape.head_bytes() * count
    }

    /// Gives a block without cells its shape.
    fn set_shape(&mut self, shape: Shape) {
        let skip = u16::try_from(shape.skip).expect("the bytes to skip were bounded");
        self.bytes[SKIP].copy_from_slice(&skip.to_ne_bytes());
        self.bytes[FORM] = shape.form as u8;
        self.bytes[KEY_LEN] = u8::try_from(shape.key_len).expect("even keys are short");
        self.shape = shape;
    }

    /// Keeps what all keys have in common, of which this one is the first.
    fn set_beginning(&mut self, key: &[u8]) {
        let len = self.shape.beginning_bytes();
        self.bytes[HEADER_BYTES..][..len].copy_from_slice(&key[..len]);
    }

    /// The first key of a run has another head.
    fn set_run_head(&mut self, head: u32) {
        self.bytes[HEADER_BYTES + self.shape.skip..][..HEAD_BYTES].copy_from_slice(&head.to_be_bytes());
    }

    fn set_count(&mut self, count: usize) {
        let count = u16::try_from(count).expect("a block's count has two bytes");
        self.bytes[COUNT].copy_from_slice(&count.to_ne_bytes());
    }

    fn set_gone(&mut self, gone: usize) {
        let gone = u16::try_from(gone).expect("no more are gone than there were");
        self.bytes[GONE].copy_from_slice(&gone.to_ne_bytes());
    }

    /// Keeps the head of a key, where heads are kept.
    fn set_head(&mut self, at: usize, key: &[u8]) {
        if self.shape.form != Form::Run {
            let place = self.shape.heads_at() + HEAD_BYTES * at;
            let head = head_of(key, self.shape.skip);
            self.bytes[place..][..HEAD_BYTES].copy_from_slice(&head.to_ne_bytes());
        }
    }

    /// Makes place for heads and ends of `more` cells before that at `at`, in a block of `count` cells.
    fn make_slots(&mut self, count: usize, (at, more): (usize, usize)) {
        let (ends, new_ends, width) = (self.ends_at(count), self.ends_at(count + more), self.end_bytes);
        let tail = new_ends + width * (at + more);
        self.bytes.copy_within(ends + width * at..ends + width * count, tail);
        self.bytes.copy_within(ends..ends + width * at, new_ends);
        let heads = self.ends_at(at);
        self.bytes
            .copy_within(heads..ends, heads + self.shape.head_bytes() * more);
    }

    /// Closes the places of the heads and ends of a range, in a block of `count` cells.
    fn close_slots(&mut self, count: usize, range: &Range<usize>) {
        let (ends, new_ends, width) = (self.ends_at(count), self.ends_at(count - range.len()), self.end_bytes);
        self.bytes
            .copy_within(self.ends_at(range.end)..ends, self.ends_at(range.start));
        self.bytes.copy_within(ends..ends + width * range.start, new_ends);
        self.bytes.copy_within(
            ends + width * range.end..ends + width * count,
            new_ends + width * range.start,
        );
    }

    /// Takes over cells of another block, to `at` and behind it, before which lie so many bytes of other cells. There
    /// will be `count` cells.
    fn copy_cells(&mut self, (part, range): (&Cells<'_>, &Range<usize>), count: usize, (at, before): (usize, usize)) {
        if !part.shape.has_cells_of(self.shape) {
            let mut begin = before;
            for (to_at, cell) in range.clone().enumerate() {
                let (key, value) = part.cell(cell);
                begin += self.shape.cell_bytes(&key, value);
                self.write_cell(begin, &key, value);
                self.set_head(at + to_at, &key);
                self.set_end(count, at + to_at, begin);
            }
            return;
        }
        let bytes = part.bytes_before(range.end) - part.bytes_before(range.start);
        let from = part.bytes.len() - part.bytes_before(range.end);
        let target = self.bytes.len() - before - bytes;
        self.bytes[target..][..bytes].copy_from_slice(&part.bytes[from..][..bytes]);
        match part.heads {
            Heads::Kept(heads) if part.shape.skip == self.shape.skip && self.shape.form != Form::Run => {
                let place = self.ends_at(at);
                let heads = heads[range.clone()].as_flattened();
                self.bytes[place..][..heads.len()].copy_from_slice(heads);
            }
            _ if self.shape.form == Form::Run => {}
            _ => {
                for (to_at, cell) in range.clone().enumerate() {
                    self.set_head(at + to_at, &part.key(cell));
                }
            }
        }
        self.copy_ends(count, at, part.ends, range.clone());
        self.move_ends((at, at + range.len()), count, before, part.bytes_before(range.start));
    }

    fn set_end(&mut self, count: usize, at: usize, end: usize) {
        let place = self.ends_at(count) + self.end_bytes * at;
        let place = &mut self.bytes[place..][..self.end_bytes];
        match self.end_bytes {
            NARROW_END_BYTES => place.copy_from_slice(&(end as u16).to_ne_bytes()),
            _ => place.copy_from_slice(&(end as u32).to_ne_bytes()),
        }
    }

    /// Takes over the ends of a range of another block, to `at` and behind it.
    fn copy_ends(&mut self, count: usize, at: usize, ends: Ends<'_>, range: Range<usize>) {
        let place = self.ends_at(count) + self.end_bytes * at;
        let place = &mut self.bytes[place..][..self.end_bytes * range.len()];
        match (ends, self.end_bytes) {
            (Ends::Narrow(ends), NARROW_END_BYTES) => place.copy_from_slice(ends[range].as_flattened()),
            (Ends::Wide(ends), WIDE_END_BYTES) => place.copy_from_slice(ends[range].as_flattened()),
            (Ends::Narrow(ends), _) => {
                for (to, end) in place.as_chunks_mut().0.iter_mut().zip(&ends[range]) {
                    *to = u32::from(u16::from_ne_bytes(*end)).to_ne_bytes();
                }
            }
            // What does not fit is made to when what lies before is taken away: only the difference counts.
            (Ends::Wide(ends), _) => {
                for (to, end) in place.as_chunks_mut().0.iter_mut().zip(&ends[range]) {
                    *to = (u32::from_ne_bytes(*end) as u16).to_ne_bytes();
                }
            }
        }
    }

    /// Adds `more` and takes away `less` from the ends from one to before another.
    fn move_ends(&mut self, (from, to): (usize, usize), count: usize, more: usize, less: usize) {
        let ends = self.ends_at(count);
        let ends = &mut self.bytes[ends + self.end_bytes * from..ends + self.end_bytes * to];
        match self.end_bytes {
            NARROW_END_BYTES => {
                let change = (more as u16).wrapping_sub(less as u16);
                for end in ends.as_chunks_mut().0 {
                    *end = u16::from_ne_bytes(*end).wrapping_add(change).to_ne_bytes();
                }
            }
            _ => {
                let change = (more as u32).wrapping_sub(less as u32);
                for end in ends.as_chunks_mut().0 {
                    *end = u32::from_ne_bytes(*end).wrapping_add(change).to_ne_bytes();
                }
            }
        }
    }

    /// Moves the cells of a range, counted in bytes from the block's end, away from that end by `more` and towards it
    /// by `less`.
    fn move_cells(&mut self, range: Range<usize>, more: usize, less: usize) {
        let end = self.bytes.len();
        let (from, to) = (end - range.end, end - range.start);
        self.bytes.copy_within(from..to, from + less - more);
    }

    /// Writes a cell that begins `begin` bytes before the block's end.
    fn write_cell(&mut self, begin: usize, key: &[u8], value: &[u8]) {
        let from = self.bytes.len() - begin;
        let cell = &mut self.bytes[from..][..self.shape.cell_bytes(key, value)];
        let kept = &key[self.shape.kept_from()..];
        let (to_length, rest) = cell.split_at_mut(self.shape.kept_bytes(key.len()) - kept.len());
        match to_length {
            [] => {}
            [length] => *length = key.len() as u8,
            _ => {
                let length = u32::try_from(key.len()).expect("a key's length has four bytes");
                to_length[0] = LONG_KEY;
                to_length[1..].copy_from_slice(&length.to_ne_bytes());
            }
        }
        let (to_key, to_value) = rest.split_at_mut(kept.len());
        to_key.copy_from_slice(kept);
        to_value.copy_from_slice(value);
    }
}

#[cfg(test)]
pub(super) mod checks {
    //! What must hold of a block at any time.
    use super::*;

    /// Panics unless the block is sound.
    pub(in crate::storage::resident) fn check(block: &CellBlock) {
        let cells = block.cells();
        assert!(cells.used_bytes() <= block.0.len());
        let mut before = cells.gone_bytes;
        for at in 0..cells.len() {
            let (key, value) = cells.cell(at);
            before += cells.shape.cell_bytes(&key, value);
            assert_eq!(cells.bytes_before(at + 1), before, "ends are the cells' bytes");
            assert_eq!(cells.head(at), head_of(&key, cells.shape.skip), "heads are the keys'");
            assert_eq!(
                key[..cells.shape.skip],
                *cells.beginning(0),
                "what is skipped is in common"
            );
            assert_eq!(cells.first_byte(at), key.first().copied());
            assert!(at == 0 || *cells.key(at - 1) < *key, "keys ascend");
            assert_eq!(cells.search(&key), Ok(at));
        }
        assert!(!block.is_half_free());
    }
}
