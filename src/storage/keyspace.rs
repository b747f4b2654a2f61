//! What a handler can do with keys, wherever they are: the primitives on which [`View`](super::view::View) builds, and
//! what is counted of them.

use super::database::{Column, Direction, MemberRange, Visit};
use super::encoding::{self, Record, STRING_CHUNK_LEN, Type};
use super::sampling::Sample;
use super::shard::{Owner, damaged_record};
use super::transaction_scope::{DatabaseKey, Mode};
use super::undeclared::Undeclared;
use crate::error::CommandError;
use crate::slots::Slot;
use std::ops::{ControlFlow, Range};

/// What the running command has read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The newest epoch whose writes the command made or saw.
    pub epoch: u64,
    /// Look-ups that found a key that is alive.
    pub found: u32,
    /// Look-ups that found none.
    pub missed: u32,
}

impl Touched {
    /// The command has made or seen writes of `epoch`.
    #[inline]
    pub(super) fn add(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// The command has looked a key up.
    #[inline]
    pub(super) fn count_look_up(&mut self, is_found: bool) {
        self.found += u32::from(is_found);
        self.missed += u32::from(!is_found);
    }
}

/// What is called with each key and its type.
pub type VisitKey<'a> = dyn FnMut(&[u8], Type) -> ControlFlow<()> + 'a;

/// What is called with bytes of a string in chunks, and where in the part that is read they begin.
pub type VisitBytes<'a> = dyn FnMut(usize, &[u8]) -> ControlFlow<()> + 'a;

/// Keys that a handler reads and writes. What it writes is seen by its later reads.
///
/// All methods fail if a key cannot be read or written where it is ([`CommandError::ShardDown`] and the like), or if it
/// is not here: then with [`CommandError::Elsewhere`], if the command is to run again where it is.
pub trait Keyspace {
    /// The record of a key that is alive, `None` if there is none. A string has its bytes in it, however it is stored.
    fn read(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError>;

    /// The same, but of a string in chunks the record as it is stored.
    fn read_header(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError>;

    /// Writes a record in its stored form, `None` for a deletion.
    fn write_stored(&mut self, database: u8, key: &[u8], value: Option<Vec<u8>>) -> Result<(), CommandError>;

    /// Writes a record.
    fn write_record(&mut self, database: u8, key: &[u8], record: &Record<'_>) -> Result<(), CommandError> {
        self.write_stored(database, key, Some(record.encode()))
    }

    /// A version for a new collection of a type under a key.
    fn new_version(&mut self, key: &[u8], kind: Type) -> Result<u64, CommandError>;

    /// The value of a member of a collection.
    fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<&[u8]>, CommandError>;

    /// Writes a member of a collection, `None` for a deletion, whether it is there or not.
    fn write_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), CommandError>;

    /// Shows `taken` the value of a member, and deletes it. Whether there was one.
    fn take_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        taken: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, CommandError> {
        let Some(value) = self.member(owner, column, member)? else {
            return Ok(false);
        };
        taken(value);
        self.write_member(owner, column, member, None)?;
        Ok(true)
    }

    /// From `offset` on, a chunk of a string becomes `bytes`; a shorter one grows with zeros. Whether there is such a
    /// chunk.
    fn patch_chunk(
        &mut self,
        owner: &Owner,
        number: u32,
        (offset, bytes): (usize, &[u8]),
    ) -> Result<bool, CommandError> {
        let member = encoding::chunk_member(number);
        let Some(chunk) = self.member(owner, Column::Data, &member)? else {
            return Ok(false);
        };
        let (mut chunk, end) = (chunk.to_vec(), offset + bytes.len());
        chunk.resize(chunk.len().max(end), 0);
        chunk[offset..end].copy_from_slice(bytes);
        self.write_member(owner, Column::Data, &member, Some(&chunk))?;
        Ok(true)
    }

    /// Those bits of byte `at` of a chunk of a string which are set in `mask` become those of `bits`. Returns the byte
    /// as it was; `None` if there is no such chunk.
    fn set_chunk_bits(
        &mut self,
        owner: &Owner,
        (number, at): (u32, usize),
        (mask, bits): (u8, u8),
    ) -> Result<Option<u8>, CommandError> {
        let Some(chunk) = self.member(owner, Column::Data, &encoding::chunk_member(number))? else {
            return Ok(None);
        };
        let old = chunk.get(at).copied().unwrap_or(0);
        let new = old & !mask | bits & mask;
        if new != old {
            self.patch_chunk(owner, number, (at, &[new]))?;
        }
        Ok(Some(old))
    }

    /// Calls `visit` with the members of a collection that has `members` members, from one (inclusive) to another
    /// (exclusive; `None`: to the last) and their values, in their order or backwards, until it breaks.
    fn scan_members(
        &mut self,
        owner: &Owner,
        members: u64,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), CommandError>;

    /// The same if all members of the range are in memory; whether they are.
    fn scan_in_memory(
        &mut self,
        _owner: &Owner,
        _members: u64,
        _column: Column,
        _range: MemberRange<'_>,
        _direction: Direction,
        _visit: &mut Visit<'_>,
    ) -> Result<bool, CommandError> {
        Ok(false)
    }

    /// A part of the running command begins, which may fail and leave what was written before.
    fn begin_inner(&mut self);

    /// The part that began last is over, and its writes stand (`is_kept`) or are rolled back.
    fn end_inner(&mut self, is_kept: bool);

    /// Deletes all keys of a database, or of all.
    fn flush(&mut self, database: Option<u8>) -> Result<(), CommandError>;

    /// Exchanges two databases.
    fn swap_databases(&mut self, first: u8, second: u8) -> Result<(), CommandError>;

    /// The number of keys of a database, those among them that have expired and were not deleted yet.
    fn key_count(&mut self, database: u8) -> Result<u64, CommandError>;

    /// Calls `visit` with the keys of a database that are alive and lie in `slots`, and their types, until it breaks.
    fn visit_keys(&mut self, database: u8, slots: Range<u16>, visit: &mut VisitKey<'_>) -> Result<(), CommandError>;

    /// The same, but it may give up behind about `deleted_max` keys that are not there any more. Returns whether it
    /// has.
    fn visit_some_keys(
        &mut self,
        database: u8,
        slots: Range<u16>,
        _deleted_max: u64,
        visit: &mut VisitKey<'_>,
    ) -> Result<bool, CommandError> {
        self.visit_keys(database, slots, visit)?;
        Ok(false)
    }

    /// The running command is about to use keys that it has perhaps not named.
    fn need_keys(&mut self, keys: &[DatabaseKey], mode: Mode) -> Result<(), CommandError>;

    /// The running command is about to do something that concerns all keys.
    fn need_everything(&mut self, mode: Mode) -> Result<(), CommandError>;

    /// Whether the running command must end now, because it is to run again with more keys.
    fn must_run_again(&self) -> bool;

    /// What the running command needs beyond what it may use, if anything: then nothing that it did stands.
    fn take_undeclared(&mut self) -> Option<Undeclared>;

    /// What the running command has read and written.
    fn touched(&mut self) -> &mut Touched;

    /// Whether memory knows the ranks of a collection's members for as long as it is written, so that they need not be
    /// stored.
    fn knows_ranks(&mut self, _owner: &Owner) -> Result<bool, CommandError> {
        Ok(false)
    }

    /// How many bytes a collection's members take in memory, if all are there.
    fn bytes_in_memory(&mut self, _owner: &Owner) -> Result<Option<u64>, CommandError> {
        Ok(None)
    }

    /// The running command needs the ranks of a collection's members in a column, which are not stored.
    fn need_ranks(&mut self, _owner: &Owner, _members: u64, _column: Column) -> Result<(), CommandError> {
        Ok(())
    }

    /// How many members of a sorted set of `members` members have keys in `score` below `key`; `None` if they are not
    /// in memory.
    fn rank_in_memory(&mut self, _owner: &Owner, _members: u64, _key: &[u8]) -> Result<Option<u64>, CommandError> {
        Ok(None)
    }

    /// The key in a column, of a collection of `members` members, before which lie `rank` others; `None` if they are
    /// not in memory.
    fn key_at_rank_in_memory(
        &mut self,
        _owner: &Owner,
        _members: u64,
        _column: Column,
        _rank: u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        Ok(None)
    }

    /// Calls `visit` with the stored bytes of a part of a string in chunks, in order, until it breaks; what is not
    /// stored is zeros.
    fn visit_chunks(
        &mut self,
        owner: &Owner,
        part: Range<usize>,
        visit: &mut VisitBytes<'_>,
    ) -> Result<(), CommandError> {
        let too_long = |_| damaged_record();
        let first = u32::try_from(part.start / STRING_CHUNK_LEN).map_err(too_long)?;
        let end = u32::try_from(part.end.div_ceil(STRING_CHUNK_LEN)).map_err(too_long)?;
        let (from, to) = (encoding::chunk_member(first), encoding::chunk_member(end));
        let range = (&from[..], Some(&to[..]));
        let visit_chunk = &mut |member: &[u8], chunk: &[u8]| {
            let Some(number) = encoding::chunk_number(member) else {
                return ControlFlow::Continue(());
            };
            let start = number as usize * STRING_CHUNK_LEN;
            let (from, to) = (part.start.max(start), part.end.min(start + chunk.len()));
            match from < to {
                true => visit(from - part.start, &chunk[from - start..to - start]),
                false => ControlFlow::Continue(()),
            }
        };
        self.scan_members(owner, u64::MAX, Column::Data, range, Direction::Forward, visit_chunk)
    }

    /// A key of a slot that is alive, picked with `random`, which draws a number below another.
    fn random_key(
        &mut self,
        database: u8,
        slot: Slot,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        let mut sample = Sample::new(random);
        self.visit_keys(database, slot.0..slot.0 + 1, &mut |key, _| {
            sample.add(key);
            ControlFlow::Continue(())
        })?;
        Ok(sample.picked)
    }
}
