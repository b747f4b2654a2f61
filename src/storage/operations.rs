//! What a turn has done to the cells of an executor's shards: the payload of a frame of the log.
//!
//! ```text
//! payload     (0x00 ‖ shard(v) ‖ operation × n) × m
//! operation   0x01 ‖ databases(2)                                all cells of these physical databases go, bit by bit
//!             0x02 ‖ length(v) ‖ owner                           the next members are of this collection
//!             0x10 + column ‖ length(v) ‖ key ‖ length(v) ‖ value  a cell is set
//!             0x20 + column ‖ length(v) ‖ key                    a cell is deleted
//!             0x30 + column ‖ length(v) ‖ member ‖ length(v) ‖ value  the cell owner ‖ member is set
//!             0x40 + column ‖ length(v) ‖ member                 the cell owner ‖ member is deleted
//!             0x50 + column ‖ length(v) ‖ member ‖ length(v) ‖ value  the same as 0x30; it was not there before
//!             0x60 + column ‖ length(v) ‖ member ‖ offset(v) ‖ length(v) ‖ bytes
//!                           from the offset on, the value of the cell owner ‖ member becomes these bytes, if the cell
//!                           is there; a shorter value grows with zeros
//! ```
//!
//! (v): seven bits a byte, the lowest first, bit 7 set in all but the last; the databases are little endian. Applying
//! all but the last of these kinds reads nothing, and applying any of them twice in their order is harmless: of those
//! that set or delete a cell only the last one counts, and of those behind it that change bytes the last one of each
//! byte.

use super::database::Column;
use super::encoding::{DATABASE_COUNT, take_varint};
use super::log::FrameBuffer;
use crate::slots::ShardId;

const SHARD: u8 = 0x00;
const EMPTY: u8 = 0x01;
const OWNER: u8 = 0x02;
const PUT: u8 = 0x10;
const DELETE: u8 = 0x20;
const PUT_MEMBER: u8 = 0x30;
const DELETE_MEMBER: u8 = 0x40;
const PUT_NEW_MEMBER: u8 = 0x50;
const PATCH_MEMBER: u8 = 0x60;

/// The bits of an operation's byte that name the column.
const COLUMN_MASK: u8 = 0x0f;

/// All physical databases, as the bits of [`Change::EmptyDatabases`].
pub const ALL_DATABASES: u16 = u16::MAX;

const _: () = assert!(DATABASE_COUNT == u16::BITS as usize && Column::COUNT <= COLUMN_MASK as usize);

/// What follows is about a shard, until the next one is named.
pub fn begin_shard(out: &mut FrameBuffer, shard: ShardId) {
    out.push(SHARD);
    push_number(out, usize::from(shard.0));
}

/// A cell of the shard is set.
pub fn put(out: &mut FrameBuffer, column: Column, key: &[u8], value: &[u8]) {
    out.push(PUT | column as u8);
    push_bytes(out, key);
    push_bytes(out, value);
}

/// A cell of the shard is deleted.
pub fn delete(out: &mut FrameBuffer, column: Column, key: &[u8]) {
    out.push(DELETE | column as u8);
    push_bytes(out, key);
}

/// All cells of the shard in these physical databases, one bit each, are deleted: in `meta`, `data` and `score`, and
/// with [`ALL_DATABASES`] in `expiry` too (the entries of that index are not in the order of the databases: those that
/// stay behind mean nothing).
pub fn empty_databases(out: &mut FrameBuffer, physical: u16) {
    out.push(EMPTY);
    out.extend(&physical.to_le_bytes());
}

fn push_number(out: &mut FrameBuffer, number: usize) {
    each_byte(number, |byte| out.push(byte));
}

fn push_bytes(out: &mut FrameBuffer, bytes: &[u8]) {
    push_number(out, bytes.len());
    out.extend(bytes);
}

#[inline]
fn each_byte(mut number: usize, mut push: impl FnMut(u8)) {
    while number >= 0x80 {
        push(number as u8 | 0x80);
        number >>= 7;
    }
    push(number as u8);
}

/// Operations on members of collections that are written as they happen, and may be taken back from the end: the owner
/// is named once for all that follow each other.
#[derive(Default)]
pub struct MemberOperations {
    bytes: Vec<u8>,
    /// The owner that was named last; empty if that is not known.
    owner: Vec<u8>,
}

/// More room is given back when the operations are cleared.
const MEMBER_BYTES_KEPT_MAX: usize = 1 << 20;

impl MemberOperations {
    /// Bytes of all operations.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A member of `owner`, which is what its members' keys begin with, is set, or deleted (`None`). `is_new`: it was
    /// not there before, which is known.
    #[inline]
    pub fn write(&mut self, owner: &[u8], column: Column, (member, value): (&[u8], Option<&[u8]>), is_new: bool) {
        self.name_owner(owner);
        let code = match value {
            Some(_) if is_new => PUT_NEW_MEMBER,
            Some(_) => PUT_MEMBER,
            None => DELETE_MEMBER,
        };
        self.bytes.push(code | column as u8);
        self.push_bytes(member);
        if let Some(value) = value {
            self.push_bytes(value);
        }
    }

    /// From `offset` on, the value of a member of `owner` becomes `bytes`, if the member is there.
    #[inline]
    pub fn patch(&mut self, owner: &[u8], column: Column, member: &[u8], (offset, bytes): (usize, &[u8])) {
        self.name_owner(owner);
        self.bytes.push(PATCH_MEMBER | column as u8);
        self.push_bytes(member);
        each_byte(offset, |byte| self.bytes.push(byte));
        self.push_bytes(bytes);
    }

    /// The next operation is on a member of `owner`.
    #[inline]
    fn name_owner(&mut self, owner: &[u8]) {
        assert!(!owner.is_empty(), "members have an owner");
        if *self.owner != *owner {
            self.bytes.push(OWNER);
            self.push_bytes(owner);
            self.owner.clear();
            self.owner.extend_from_slice(owner);
        }
    }

    /// [`empty_databases`], at this place among the others.
    pub fn empty_databases(&mut self, physical: u16) {
        self.bytes.push(EMPTY);
        self.bytes.extend_from_slice(&physical.to_le_bytes());
    }

    /// Takes back what came after the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if len < self.bytes.len() {
            self.bytes.truncate(len);
            self.owner.clear();
        }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MEMBER_BYTES_KEPT_MAX);
        self.owner.clear();
    }

    /// Appends them to what a frame says of their shard.
    pub fn append_to(&self, out: &mut FrameBuffer) {
        out.extend(&self.bytes);
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        each_byte(bytes.len(), |byte| self.bytes.push(byte));
        self.bytes.extend_from_slice(bytes);
    }
}

/// What becomes of a cell, or of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The functions that write them say it.
pub enum Change<'a> {
    Put {
        column: Column,
        key: CellKey<'a>,
        value: &'a [u8],
        /// The cell is known not to have been there before.
        is_new: bool,
    },
    Delete {
        column: Column,
        key: CellKey<'a>,
    },
    Patch {
        column: Column,
        key: CellKey<'a>,
        offset: usize,
        bytes: &'a [u8],
    },
    EmptyDatabases(u16),
}

/// A cell's key: both parts, one behind the other. The first is empty unless the cell is a member's.
pub type CellKey<'a> = [&'a [u8]; 2];

/// A change on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// The shard.
    pub shard: ShardId,
    /// The change.
    pub change: Change<'a>,
}

/// Bytes that are no operations: of a frame whose checksum is right, so another version has written them, or there is a
/// bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what a frame says cannot be understood from byte {at} of its {len} bytes on")]
pub struct Unintelligible {
    /// Where in the payload.
    pub at: usize,
    /// Bytes of the payload.
    pub len: usize,
}

/// The operations of a payload, in their order; behind an error comes nothing.
#[derive(Clone, Debug)]
pub struct Operations<'a> {
    payload: &'a [u8],
    rest: &'a [u8],
    shard: Option<ShardId>,
    owner: Option<&'a [u8]>,
}

/// Reads a payload.
pub fn read(payload: &[u8]) -> Operations<'_> {
    Operations {
        payload,
        rest: payload,
        shard: None,
        owner: None,
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<Operation<'a>, Unintelligible>;

    fn next(&mut self) -> Option<Self::Item> {
        let (at, len) = (self.payload.len() - self.rest.len(), self.payload.len());
        let operation = self.take_context().and_then(|()| match self.rest.is_empty() {
            true => Some(None),
            false => self.take_operation().map(Some),
        });
        if operation.is_none() {
            self.rest = &[];
        }
        operation.ok_or(Unintelligible { at, len }).transpose()
    }
}

impl<'a> Operations<'a> {
    /// Takes what says of which shard, and of which collection, the next operations are.
    fn take_context(&mut self) -> Option<()> {
        loop {
            match self.rest.first() {
                Some(&SHARD) => {
                    self.take_byte()?;
                    self.shard = Some(ShardId(u16::try_from(self.take_number()?).ok()?));
                    self.owner = None;
                }
                Some(&OWNER) => {
                    self.take_byte()?;
                    self.owner = Some(self.take_bytes()?);
                }
                _ => return Some(()),
            }
        }
    }

    fn take_operation(&mut self) -> Option<Operation<'a>> {
        let shard = self.shard?;
        let code = self.take_byte()?;
        let column = || Column::of_index(code & COLUMN_MASK);
        let change = match code & !COLUMN_MASK {
            0 if code == EMPTY => Change::EmptyDatabases(u16::from_le_bytes(*self.take_array()?)),
            PUT => Change::Put {
                column: column()?,
                key: [b"", self.take_bytes()?],
                value: self.take_bytes()?,
                is_new: false,
            },
            DELETE => Change::Delete {
                column: column()?,
                key: [b"", self.take_bytes()?],
            },
            PUT_MEMBER | PUT_NEW_MEMBER => Change::Put {
                column: column()?,
                key: [self.owner?, self.take_bytes()?],
                value: self.take_bytes()?,
                is_new: code & !COLUMN_MASK == PUT_NEW_MEMBER,
            },
            DELETE_MEMBER => Change::Delete {
                column: column()?,
                key: [self.owner?, self.take_bytes()?],
            },
            PATCH_MEMBER => Change::Patch {
                column: column()?,
                key: [self.owner?, self.take_bytes()?],
                offset: self.take_number()?,
                bytes: self.take_bytes()?,
            },
            _ => return None,
        };
        Some(Operation { shard, change })
    }

    fn take_byte(&mut self) -> Option<u8> {
        self.take_array::<1>().map(|[byte]| *byte)
    }

    fn take_array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(taken)
    }

    fn take_number(&mut self) -> Option<usize> {
        take_varint(&mut self.rest).and_then(|number| usize::try_from(number).ok())
    }

    fn take_bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.take_number()?;
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore};

    /// An operation that owns its bytes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Owned {
        Put(ShardId, Column, Vec<u8>, Vec<u8>),
        Delete(ShardId, Column, Vec<u8>),
        Patch(ShardId, Column, Vec<u8>, usize, Vec<u8>),
        Empty(ShardId, u16),
    }

    impl Owned {
        fn of(operation: Operation<'_>) -> Owned {
            let shard = operation.shard;
            match operation.change {
                Change::Put { column, key, value, .. } => Owned::Put(shard, column, key.concat(), value.to_vec()),
                Change::Delete { column, key } => Owned::Delete(shard, column, key.concat()),
                Change::Patch {
                    column,
                    key,
                    offset,
                    bytes,
                } => Owned::Patch(shard, column, key.concat(), offset, bytes.to_vec()),
                Change::EmptyDatabases(physical) => Owned::Empty(shard, physical),
            }
        }
    }

    fn random_bytes(random: &mut StdRng) -> Vec<u8> {
        let len_max = [1, 127, 129, 300, 20_000][random.random_range(0..5)];
        let mut bytes = vec![0; random.random_range(0..len_max)];
        random.fill_bytes(&mut bytes);
        bytes
    }

    fn random_operation(random: &mut StdRng, shard: ShardId) -> Owned {
        let column = Column::of_index(random.random_range(0..Column::COUNT as u8)).expect("a column");
        match random.random_range(0..5) {
            0 => Owned::Empty(shard, random.random()),
            1 => Owned::Delete(shard, column, random_bytes(random)),
            _ => Owned::Put(shard, column, random_bytes(random), random_bytes(random)),
        }
    }

    fn write(out: &mut FrameBuffer, operation: &Owned) {
        match operation {
            Owned::Put(_, column, key, value) => put(out, *column, key, value),
            Owned::Delete(_, column, key) => delete(out, *column, key),
            Owned::Patch(..) => unreachable!("patches are among the operations on members"),
            Owned::Empty(_, physical) => empty_databases(out, *physical),
        }
    }

    fn read_all(payload: &[u8]) -> Result<Vec<Owned>, Unintelligible> {
        read(payload).map(|operation| operation.map(Owned::of)).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut random = seeded_random::printed();
        for _ in 0..200 {
            let mut out = FrameBuffer::new();
            let mut expected = Vec::new();
            for _ in 0..random.random_range(0..4) {
                let shard = ShardId([0, 1, 127, 128, 1023, u16::MAX][random.random_range(0..6)]);
                begin_shard(&mut out, shard);
                for _ in 0..random.random_range(0..10) {
                    expected.push(random_operation(&mut random, shard));
                    write(&mut out, expected.last().expect("it was pushed"));
                }
            }
            assert_eq!(read_all(out.payload()), Ok(expected));
        }
    }

    #[test]
    fn members_are_read_back_under_their_owners_and_can_be_taken_back_from_the_end() {
        let mut members = MemberOperations::default();
        let shard = ShardId(2);
        let put = |key: &[u8], value: &[u8]| Owned::Put(shard, Column::Data, key.to_vec(), value.to_vec());
        members.write(b"one:", Column::Data, (b"a", Some(b"1")), true);
        let first = members.len();
        members.write(b"one:", Column::Score, (b"b", None), false);
        let second = members.len();
        assert_eq!(second - first, 3);
        members.write(b"two:", Column::Data, (b"c", Some(b"3")), true);
        members.truncate(second);
        members.write(b"two:", Column::Data, (b"c", Some(b"4")), false);
        members.empty_databases(5);
        members.write(b"two:", Column::Data, (b"d", Some(b"")), true);
        members.patch(b"two:", Column::Data, b"d", (300, b"new"));
        let third = members.len();
        members.patch(b"one:", Column::Data, b"", (0, b"gone"));
        members.truncate(third);
        members.patch(b"one:", Column::Data, b"", (0, b""));
        let mut out = FrameBuffer::new();
        begin_shard(&mut out, shard);
        members.append_to(&mut out);
        let expected = [
            put(b"one:a", b"1"),
            Owned::Delete(shard, Column::Score, b"one:b".to_vec()),
            put(b"two:c", b"4"),
            Owned::Empty(shard, 5),
            put(b"two:d", b""),
            Owned::Patch(shard, Column::Data, b"two:d".to_vec(), 300, b"new".to_vec()),
            Owned::Patch(shard, Column::Data, b"one:".to_vec(), 0, Vec::new()),
        ];
        assert_eq!(read_all(out.payload()), Ok(expected.to_vec()));
        let are_new = read(out.payload()).filter_map(|operation| match operation.expect("an operation").change {
            Change::Put { is_new, .. } => Some(is_new),
            _ => None,
        });
        assert_eq!(are_new.collect::<Vec<_>>(), [true, false, true]);
        // An owner is named anew for each shard.
        let mut orphan = FrameBuffer::new();
        begin_shard(&mut orphan, shard);
        members.append_to(&mut orphan);
        begin_shard(&mut orphan, ShardId(3));
        orphan.extend(&[DELETE_MEMBER | Column::Data as u8, 0]);
        let found = read_all(orphan.payload());
        assert!(
            matches!(found, Err(Unintelligible { at, .. }) if at == orphan.len() - 4),
            "{found:?}"
        );
    }

    #[test]
    fn a_set_of_a_small_string_takes_a_few_bytes_more_than_its_cell() {
        let mut out = FrameBuffer::new();
        begin_shard(&mut out, ShardId(3));
        assert_eq!(out.len(), 2);
        put(&mut out, Column::Meta, &[b'k'; 19], &[b'v'; 65]);
        assert_eq!(out.len(), 2 + 3 + 19 + 65);
        delete(&mut out, Column::Expiry, &[b'k'; 27]);
        assert_eq!(out.len(), 2 + 3 + 19 + 65 + 2 + 27);
    }

    #[test]
    fn a_payload_that_is_cut_gives_what_is_whole_and_says_where_it_ends() {
        let mut out = FrameBuffer::new();
        begin_shard(&mut out, ShardId(300));
        let mut ends = vec![out.len()];
        put(&mut out, Column::Data, &[1; 200], &[2; 130]);
        ends.push(out.len());
        delete(&mut out, Column::Score, b"key");
        ends.push(out.len());
        empty_databases(&mut out, 0x8001);
        ends.push(out.len());
        for len in 0..out.len() {
            let found: Vec<_> = read(&out.payload()[..len]).collect();
            let whole = ends[1..].iter().filter(|end| **end <= len).count();
            assert_eq!(
                found.iter().filter(|operation| operation.is_ok()).count(),
                whole,
                "{len} bytes"
            );
            let is_cut = len > 0 && !ends.contains(&len);
            let at = ends[1..].iter().copied().rfind(|end| *end <= len).unwrap_or(0);
            assert_eq!(found.len(), whole + usize::from(is_cut), "{len} bytes");
            if is_cut {
                assert_eq!(found.last(), Some(&Err(Unintelligible { at, len })));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_to_an_end() {
        let mut random = seeded_random::printed();
        for _ in 0..20_000 {
            let mut bytes = vec![0; random.random_range(0..60)];
            random.fill_bytes(&mut bytes);
            // Few codes mean something.
            for byte in &mut bytes {
                if random.random_bool(0.5) {
                    *byte &= 0x77;
                }
            }
            let found: Vec<_> = read(&bytes).collect();
            assert!(found.len() <= bytes.len());
            assert!(found.iter().rev().skip(1).all(Result::is_ok), "{bytes:?}");
        }
        let too_large = [&[SHARD][..], &[0xff; 9], &[0x7f, DELETE]].concat();
        assert_eq!(read_all(&too_large), Err(Unintelligible { at: 0, len: 12 }));
        let no_shard = [DELETE, 0];
        assert_eq!(read_all(&no_shard), Err(Unintelligible { at: 0, len: 2 }));
    }
}
