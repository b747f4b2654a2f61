//! A packed block: keys in order, each with a value, in one allocation that is shared until it is changed.
//!
//! ```text
//! count u16 │ skip u16 │ gone u16 │ heads, 4 bytes each │ ends, 2 bytes each │ free │ cell n-1 │ … │ cell 1 │ cell 0
//!
//! cell: length of the key (1 byte, or 255 and 4 bytes) │ key │ value
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
//! Numbers are in the machine's byte order, since a block never leaves memory. In a block of more than 64 KiB (one
//! large cell, or separators of very long keys) ends are 4 bytes each.

use crate::storage::look_ahead::Aim;
use std::cmp::Ordering;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// The most that a block takes, with its `Arc`, unless it has only one cell or no bound.
pub(super) const BLOCK_BYTES_MAX: usize = 4096;

/// What `Arc` puts before what is shared: two counts.
pub(super) const ARC_BYTES: usize = 2 * size_of::<usize>();

const COUNT: Range<usize> = 0..2;
const SKIP: Range<usize> = 2..4;
const GONE: Range<usize> = 4..6;
const HEADER_BYTES: usize = 6;
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

/// What new blocks are copied from, which is the one safe way to get a shared slice without a loop over its bytes.
static ZEROS: [u8; BLOCK_BYTES_MAX] = [0; BLOCK_BYTES_MAX];

// The count of a bounded block must fit its two bytes, also with empty keys and values.
const _: () = assert!(BLOCK_BYTES_MAX / (HEAD_BYTES + NARROW_END_BYTES + 1) < u16::MAX as usize);
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

/// A block taken apart for reading.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    bytes: &'a [u8],
    heads: &'a [[u8; HEAD_BYTES]],
    ends: Ends<'a>,
    skip: usize,
    /// The bytes of the cells that are gone.
    gone_bytes: usize,
}

#[derive(Clone, Copy)]
enum Ends<'a> {
    Narrow(&'a [[u8; NARROW_END_BYTES]]),
    Wide(&'a [[u8; WIDE_END_BYTES]]),
}

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

/// The bytes of a cell, without its head and end.
fn cell_bytes(key: &[u8], value: &[u8]) -> usize {
    key_length_bytes(key.len()) + key.len() + value.len()
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

/// The key and the value of a cell.
#[inline]
fn parts_of(cell: &[u8]) -> (&[u8], &[u8]) {
    match cell {
        [LONG_KEY, a, b, c, d, rest @ ..] => rest.split_at(u32::from_ne_bytes([*a, *b, *c, *d]) as usize),
        [length, rest @ ..] => rest.split_at(usize::from(*length)),
        [] => unreachable!("a cell begins with its key's length"),
    }
}

/// How many bytes two keys have in common at their beginning.
pub(super) fn common_bytes(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// How a key compares with what all keys of a block have in common, the first `common` bytes of `other`.
#[inline]
fn compare_beginning(key: &[u8], other: &[u8], common: usize) -> Ordering {
    let (key_bytes, other) = (&key[..common.min(key.len())], &other[..common]);
    if common > FEW_BYTES {
        return key_bytes.cmp(other);
    }
    for (one, other) in key_bytes.iter().zip(other) {
        if one != other {
            return one.cmp(other);
        }
    }
    key_bytes.len().cmp(&common)
}

/// How many bytes all keys have in common when one more comes before that at `at`.
#[inline]
fn skip_with(cells: &Cells<'_>, at: usize, key: &[u8]) -> usize {
    let Some(last) = cells.len().checked_sub(1) else {
        return key.len().min(usize::from(u16::MAX));
    };
    let neighbour = cells.key(at.min(last));
    match key.get(..cells.skip) == Some(&neighbour[..cells.skip]) {
        true => cells.skip,
        false => common_bytes(key, neighbour),
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
                heads: &all.heads[gone..],
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
        let skip = usize::from(u16::from_ne_bytes([bytes[2], bytes[3]]));
        let (heads, rest) = bytes[HEADER_BYTES..].split_at(HEAD_BYTES * count);
        let ends = if bytes.len() > NARROW_BYTES_MAX {
            Ends::Wide(rest[..WIDE_END_BYTES * count].as_chunks().0)
        } else {
            Ends::Narrow(rest[..NARROW_END_BYTES * count].as_chunks().0)
        };
        Cells {
            bytes,
            heads: heads.as_chunks().0,
            ends,
            skip,
            gone_bytes: 0,
        }
    }

    /// Those of no block.
    pub(super) fn empty() -> Cells<'a> {
        Cells {
            bytes: &[],
            heads: &[],
            ends: Ends::Narrow(&[]),
            skip: 0,
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
        self.heads.is_empty()
    }

    #[inline]
    fn head(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.heads[at])
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
        let slot = HEAD_BYTES + end_bytes(self.bytes.len());
        HEADER_BYTES + slot * self.len() + self.bytes_before(self.len()) - self.gone_bytes
    }

    #[inline(always)]
    fn cell_range(&self, at: usize) -> Range<usize> {
        let end = self.bytes.len();
        end - self.bytes_before(at + 1)..end - self.bytes_before(at)
    }

    /// The key and the value of a cell.
    #[inline(always)]
    pub(super) fn cell(&self, at: usize) -> (&'a [u8], &'a [u8]) {
        parts_of(&self.bytes[self.cell_range(at)])
    }

    /// Calls `visit` with the cells of a range, in order, until it breaks.
    #[inline]
    pub(super) fn visit(
        &self,
        range: Range<usize>,
        visit: &mut impl FnMut(&'a [u8], &'a [u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut end = self.bytes.len() - self.bytes_before(range.start);
        for at in range {
            let begin = self.bytes.len() - self.bytes_before(at + 1);
            let (key, value) = parts_of(&self.bytes[begin..end]);
            visit(key, value)?;
            end = begin;
        }
        ControlFlow::Continue(())
    }

    /// The same from the last cell of the range to the first.
    #[inline]
    pub(super) fn visit_backward(
        &self,
        range: Range<usize>,
        visit: &mut impl FnMut(&'a [u8], &'a [u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut begin = self.bytes.len() - self.bytes_before(range.end);
        for at in range.rev() {
            let end = self.bytes.len() - self.bytes_before(at);
            let (key, value) = parts_of(&self.bytes[begin..end]);
            visit(key, value)?;
            begin = end;
        }
        ControlFlow::Continue(())
    }

    /// The key of a cell.
    #[inline]
    pub(super) fn key(&self, at: usize) -> &'a [u8] {
        self.cell(at).0
    }

    /// The last key of a block that has one.
    #[inline]
    pub(super) fn last_key(&self) -> &'a [u8] {
        self.key(self.len() - 1)
    }

    /// Where a key is, or where it would have to be.
    #[inline]
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let count = self.len();
        if count == 0 {
            return Err(0);
        }
        let head = head_of(key, self.skip);
        let at = self.heads_below(head);
        let has_head = at < count && self.head(at) == head;
        // Mostly what is looked for is there.
        if has_head && self.key(at) == key {
            return Ok(at);
        }
        if self.skip > 0 {
            // Heads say nothing of a key that has not what all keys have in common: it is before or behind them.
            match compare_beginning(key, self.key(at.min(count - 1)), self.skip) {
                Ordering::Less => return Err(0),
                Ordering::Greater => return Err(count),
                Ordering::Equal => {}
            }
        }
        if has_head && key > self.key(at) {
            return self.search_same_heads(key, at + 1);
        }
        Err(at)
    }

    /// How many heads are less than `head`.
    #[inline]
    fn heads_below(&self, head: u32) -> usize {
        // One head of each line of the cache, whose loads do not wait for one another, and then one line.
        let (lines, rest) = self.heads.as_chunks::<LINE_HEADS>();
        let is_below = |other: &[u8; HEAD_BYTES]| u32::from(u32::from_ne_bytes(*other) < head);
        let full = lines.iter().map(|line| is_below(&line[LINE_HEADS - 1])).sum::<u32>() as usize;
        let partly: u32 = match lines.get(full) {
            Some(line) => line.iter().map(is_below).sum(),
            None => rest.iter().map(is_below).sum(),
        };
        full * LINE_HEADS + partly as usize
    }

    /// The rest of a search, among the cells from `from` on that have the head of the cell before.
    #[cold]
    fn search_same_heads(&self, key: &[u8], from: usize) -> Result<usize, usize> {
        let head = self.head(from - 1);
        let heads = &self.heads[from..];
        let (mut low, mut high) = (
            from,
            from + heads.partition_point(|other| u32::from_ne_bytes(*other) <= head),
        );
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(key) {
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
        let mut block = CellBlock::concat(&[], (1, cell_bytes(key, value)));
        block.insert_in_place(0, key, value);
        block
    }

    /// A block without cells that has room for as many as a bounded block can have, or for this one if that is larger.
    pub(super) fn with_most_room(key: &[u8], value: &[u8]) -> CellBlock {
        let most = BLOCK_BYTES_MAX - ARC_BYTES - HEADER_BYTES - HEAD_BYTES - NARROW_END_BYTES;
        CellBlock::concat(&[], (1, cell_bytes(key, value).max(most)))
    }

    /// A block of the cells of several, in their order, with room for `cells` more of `bytes` bytes.
    fn concat(parts: &[(Cells<'_>, Range<usize>)], (cells, bytes): (usize, usize)) -> CellBlock {
        let part_bytes =
            |(part, range): &(Cells<'_>, Range<usize>)| part.bytes_before(range.end) - part.bytes_before(range.start);
        let count: usize = parts.iter().map(|(_, range)| range.len()).sum();
        let size = |end_bytes: usize| {
            let slots = (count + cells) * (HEAD_BYTES + end_bytes);
            let needed = HEADER_BYTES + slots + parts.iter().map(part_bytes).sum::<usize>() + bytes;
            allocation_bytes(ARC_BYTES + needed) - ARC_BYTES
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
        let filled = parts.iter().filter(|(_, range)| !range.is_empty());
        let ends_of_order = filled.clone().next().zip(filled.clone().next_back());
        let skip = ends_of_order.map_or(0, |((first, range), (last, last_range))| {
            common_bytes(first.key(range.start), last.key(last_range.end - 1)).min(usize::from(u16::MAX))
        });
        let mut to = Writer::of(Arc::get_mut(&mut shared).expect("nobody else has it yet"));
        to.set_count(count);
        to.set_skip(skip);
        let (mut at, mut before) = (0, 0);
        for (part, range) in filled {
            let bytes = part_bytes(&(*part, range.clone()));
            let from = part.bytes.len() - part.bytes_before(range.end);
            let target = to.bytes.len() - before - bytes;
            to.bytes[target..][..bytes].copy_from_slice(&part.bytes[from..][..bytes]);
            if part.skip == skip {
                let heads = part.heads[range.clone()].as_flattened();
                to.bytes[HEADER_BYTES + HEAD_BYTES * at..][..heads.len()].copy_from_slice(heads);
            } else {
                for (to_at, cell) in range.clone().enumerate() {
                    to.set_head(at + to_at, head_of(part.key(cell), skip));
                }
            }
            to.copy_ends(count, at, part.ends, range.clone());
            to.move_ends((at, at + range.len()), count, before, part.bytes_before(range.start));
            at += range.len();
            before += bytes;
        }
        CellBlock(shared)
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
            Aim::Member(key) => return cells.search(key).map_or(0, |at| cells.cell(at).1.len() as u64),
            Aim::First | Aim::Unknown => 0,
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
        let (count, size) = (cells.len(), cell_bytes(key, value));
        let more = HEAD_BYTES + end_bytes(self.0.len()) + size;
        let needed = cells.used_bytes() + more;
        if ARC_BYTES + needed > bytes_max && count > 0 {
            return false;
        }
        if at == 0 && self.has_room_in_front(size) {
            self.insert_in_front(key, value);
            return true;
        }
        if self.cells_with_gone().used_bytes() + more > self.0.len() || (count == 0 && self.gone() > 0) {
            let room = match ARC_BYTES + needed {
                bytes @ GROWS_TWICE_BYTES_MIN..=BLOCK_BYTES_MAX if more_to_come == MoreToCome::ThisEnd => {
                    bytes.next_power_of_two().min(BLOCK_BYTES_MAX) - bytes
                }
                _ => 0,
            };
            *self = CellBlock::concat(&[(cells, 0..count)], (1, size + room));
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
        let free = self.0.len() - HEADER_BYTES - (HEAD_BYTES + end_bytes(self.0.len())) * count - all;
        let more = free / (HEAD_BYTES + end_bytes(self.0.len()) + size);
        if more < 2 {
            return false;
        }
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.move_cells(0..all, more * size, 0);
        let (ends, new_ends, width) = (block.ends_at(count), block.ends_at(count + more), block.end_bytes);
        block
            .bytes
            .copy_within(ends..ends + width * count, new_ends + width * more);
        block
            .bytes
            .copy_within(HEADER_BYTES..ends, HEADER_BYTES + HEAD_BYTES * more);
        block.set_count(count + more);
        block.move_ends((more, more + count), count + more, more * size, 0);
        // Of those that are gone only where the last one ends is asked for.
        if gone == 0 {
            block.set_end(count + more, more - 1, more * size);
        }
        block.set_gone(gone + more);
        true
    }

    /// Adds a cell before all others, in the place of gone ones.
    fn insert_in_front(&mut self, key: &[u8], value: &[u8]) {
        let (cells, size) = (self.cells(), cell_bytes(key, value));
        let (gone, begin) = (self.gone(), cells.gone_bytes);
        let skip = skip_with(&cells, 0, key);
        let has_new_skip = skip != cells.skip;
        let count = gone + cells.len();
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.write_cell(begin, key, value);
        block.set_head(gone - 1, head_of(key, skip));
        if gone > 1 {
            block.set_end(count, gone - 2, begin - size);
        }
        block.set_gone(gone - 1);
        if has_new_skip {
            self.set_skip(skip);
        }
    }

    /// The same as [`CellBlock::insert`] where it is known that there is room.
    fn insert_in_place(&mut self, at: usize, key: &[u8], value: &[u8]) {
        let (cells, at) = (self.cells_with_gone(), self.gone() + at);
        let (count, size) = (cells.len(), cell_bytes(key, value));
        let (before, all) = (cells.bytes_before(at), cells.bytes_before(count));
        let skip = skip_with(&cells, at, key);
        let has_new_skip = skip != cells.skip;
        assert!(count < usize::from(u16::MAX), "a block's count has two bytes");
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.move_cells(before..all, size, 0);
        block.write_cell(before + size, key, value);
        let (ends, new_ends) = (block.ends_at(count), block.ends_at(count + 1));
        let width = block.end_bytes;
        let tail = new_ends + width * (at + 1);
        block.bytes.copy_within(ends + width * at..ends + width * count, tail);
        block.bytes.copy_within(ends..ends + width * at, new_ends);
        let heads = HEADER_BYTES + HEAD_BYTES * at;
        block.bytes.copy_within(heads..ends, heads + HEAD_BYTES);
        block.set_count(count + 1);
        block.set_end(count + 1, at, before + size);
        block.move_ends((at + 1, count + 1), count + 1, size, 0);
        block.set_head(at, head_of(key, skip));
        if has_new_skip {
            self.set_skip(skip);
        }
    }

    /// The keys have fewer bytes in common than before, or more.
    #[cold]
    fn set_skip(&mut self, skip: usize) {
        let gone = self.gone();
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.set_skip(skip);
        for at in gone..Cells::with_gone(block.bytes).len() {
            let head = head_of(Cells::with_gone(block.bytes).key(at), skip);
            block.set_head(at, head);
        }
    }

    /// Gives a cell another value. A smaller one may leave the block so sparse that it is to be shrunk.
    pub(super) fn replace(&mut self, at: usize, value: &[u8]) {
        let cells = self.cells();
        let old = cells.cell(at).1.len();
        if self.cells_with_gone().used_bytes() - old + value.len() > self.0.len() {
            *self = CellBlock::concat(&[(cells, 0..cells.len())], (0, value.len() - old));
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

    /// Removes cells, and gives back memory where much is free. Returns whether it did.
    pub(super) fn remove(&mut self, range: Range<usize>) -> bool {
        let gone = self.gone();
        if range.start == 0 {
            Writer::of(Arc::make_mut(&mut self.0)).set_gone(gone + range.end);
            return self.shrink_if(CellBlock::is_half_free);
        }
        let (cells, range) = (self.cells_with_gone(), gone + range.start..gone + range.end);
        let count = cells.len();
        let (before, all) = (cells.bytes_before(range.start), cells.bytes_before(count));
        let through = cells.bytes_before(range.end);
        let mut block = Writer::of(Arc::make_mut(&mut self.0));
        block.move_cells(through..all, 0, through - before);
        let rest = count - range.len();
        let head = |at: usize| HEADER_BYTES + HEAD_BYTES * at;
        let (ends, new_ends, width) = (block.ends_at(count), block.ends_at(rest), block.end_bytes);
        block.bytes.copy_within(head(range.end)..ends, head(range.start));
        block.bytes.copy_within(ends..ends + width * range.start, new_ends);
        block.bytes.copy_within(
            ends + width * range.end..ends + width * count,
            new_ends + width * range.start,
        );
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
            *self = CellBlock::concat(&[(cells, 0..cells.len())], (0, 0));
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
            CellBlock::concat(&[(cells, 0..at)], (0, 0)),
            CellBlock::concat(&[(cells, at..cells.len())], (0, 0)),
        )
    }

    /// The cells of both blocks, of which all of the other's are behind this one's.
    pub(super) fn joined(&self, other: &CellBlock) -> CellBlock {
        let (cells, others) = (self.cells(), other.cells());
        CellBlock::concat(&[(cells, 0..cells.len()), (others, 0..others.len())], (0, 0))
    }
}

/// A block that is changed. It does not know the count, which changes on the way.
struct Writer<'a> {
    bytes: &'a mut [u8],
    end_bytes: usize,
}

impl Writer<'_> {
    fn of(bytes: &mut [u8]) -> Writer<'_> {
        let end_bytes = end_bytes(bytes.len());
        Writer { bytes, end_bytes }
    }

    /// Where the ends begin in a block of `count` cells.
    fn ends_at(&self, count: usize) -> usize {
        HEADER_BYTES + HEAD_BYTES * count
    }

    fn set_count(&mut self, count: usize) {
        let count = u16::try_from(count).expect("a block's count has two bytes");
        self.bytes[COUNT].copy_from_slice(&count.to_ne_bytes());
    }

    fn set_gone(&mut self, gone: usize) {
        let gone = u16::try_from(gone).expect("no more are gone than there were");
        self.bytes[GONE].copy_from_slice(&gone.to_ne_bytes());
    }

    fn set_skip(&mut self, skip: usize) {
        let skip = u16::try_from(skip).expect("the bytes to skip were bounded");
        self.bytes[SKIP].copy_from_slice(&skip.to_ne_bytes());
    }

    fn set_head(&mut self, at: usize, head: u32) {
        self.bytes[HEADER_BYTES + HEAD_BYTES * at..][..HEAD_BYTES].copy_from_slice(&head.to_ne_bytes());
    }

    fn set_end(&mut self, count: usize, at: usize, end: usize) {
        let place = &mut self.bytes[HEADER_BYTES + HEAD_BYTES * count + self.end_bytes * at..][..self.end_bytes];
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
        let cell = &mut self.bytes[from..][..cell_bytes(key, value)];
        let prefix = key_length_bytes(key.len());
        if prefix == 1 {
            cell[0] = key.len() as u8;
        } else {
            let length = u32::try_from(key.len()).expect("a key's length has four bytes");
            cell[0] = LONG_KEY;
            cell[1..prefix].copy_from_slice(&length.to_ne_bytes());
        }
        let (to_key, to_value) = cell[prefix..].split_at_mut(key.len());
        to_key.copy_from_slice(key);
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
            before += cell_bytes(key, value);
            assert_eq!(cells.bytes_before(at + 1), before, "ends are the cells' bytes");
            assert_eq!(cells.head(at), head_of(key, cells.skip), "heads are the keys'");
            assert_eq!(
                &key[..cells.skip],
                &cells.key(0)[..cells.skip],
                "what is skipped is in common"
            );
            assert!(at == 0 || cells.key(at - 1) < key, "keys ascend");
            assert_eq!(cells.search(key), Ok(at));
        }
        assert!(!block.is_half_free());
    }
}
