//! What a handler sees of the data: the shards of its executor, or keys gathered from several executors.
//!
//! A handler reads and stages through [`View`] and does not know which of the two it has, so a command on several keys
//! is written once. What both can do is a [`Keyspace`]; all else is written here, once.

use super::database::{Column, Direction, MemberRange, Visit};
use super::encoding::{self, Record, Type};
use super::gathered::Gathered;
use super::keyspace::{Keyspace, Touched, VisitBytes, VisitKey};
use super::lifecycle::KeyOutcome;
use super::pieces::{Extent, Pieces, WriteEntry};
use super::scan_positions::Walked;
use super::shard::{Owner, Shard};
use super::shards::{Presence, Shards};
use super::transaction_scope::{DatabaseKey, Mode};
use super::undeclared::Undeclared;
use crate::error::CommandError;
use crate::slots::{Slot, shard_of, slots_of};
use std::ops::{ControlFlow, Range};

/// What an executor knows of keys beside their values, as far as handlers have to do with it: clients watch keys and
/// wait for them, and transactions over several executors have locked some.
///
/// All else goes by a command's effects and arguments. But what becomes of watched keys shows only by comparing them
/// before and after a flush, and which locks a script needs shows only while the script runs.
pub trait WatchesAndLocks {
    /// All keys of a database, or of all, are about to be deleted.
    fn before_flush(&mut self, shards: &mut Shards, database: Option<u8>);

    /// Two databases are about to be exchanged.
    fn before_swap_databases(&mut self, shards: &mut Shards, first: u8, second: u8);

    /// Whether a transaction over several executors has locked a key in a way that shuts `mode` out.
    fn is_locked(&self, key: &DatabaseKey, mode: Mode) -> bool;

    /// The same of any key, those included that are not there.
    fn is_any_locked(&self, mode: Mode) -> bool;
}

/// Nobody watches or locks: for shards that are used without an executor.
pub struct NoWatchesOrLocks;

impl WatchesAndLocks for NoWatchesOrLocks {
    fn before_flush(&mut self, _: &mut Shards, _: Option<u8>) {}

    fn before_swap_databases(&mut self, _: &mut Shards, _: u8, _: u8) {}

    fn is_locked(&self, _: &DatabaseKey, _: Mode) -> bool {
        false
    }

    fn is_any_locked(&self, _: Mode) -> bool {
        false
    }
}

/// The shards of the executor that runs a handler.
pub struct LocalShards<'a> {
    /// The data.
    pub shards: &'a mut Shards,
    /// What else the executor knows of the keys.
    pub watches_and_locks: &'a mut dyn WatchesAndLocks,
}

/// What a handler sees of the data.
pub enum View<'a> {
    /// All keys live on the executor that runs the handler.
    Local(LocalShards<'a>),
    /// Keys of several executors; the handler runs on a network executor.
    Gathered(&'a mut Gathered),
}

/// Calls a method of [`Keyspace`] on whichever of the two a view has.
macro_rules! of_keyspace {
    ($view:expr, $method:ident($($argument:expr),*)) => {
        match $view {
            View::Local(local) => local.$method($($argument),*),
            View::Gathered(gathered) => gathered.$method($($argument),*),
        }
    };
}

/// Keys and members.
impl View<'_> {
    /// The record of a key that is alive, `None` if there is none. A string has its bytes in it, however it is stored.
    #[inline]
    pub fn read(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        of_keyspace!(self, read(database, key))
    }

    /// The same, but of a string that lies in chunks the record as it is stored: for handlers that do not need its
    /// bytes, or only some of them.
    pub fn read_header(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        of_keyspace!(self, read_header(database, key))
    }

    /// Calls `visit` with the stored bytes of a part of a string that lies in chunks, and where in the part they begin,
    /// in order, until it breaks; what is not stored is zeros.
    pub fn visit_chunks(
        &mut self,
        owner: &Owner,
        part: Range<usize>,
        mut visit: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        of_keyspace!(self, visit_chunks(owner, part, &mut visit))
    }

    /// Stages a record.
    #[inline]
    pub fn write(&mut self, database: u8, key: &[u8], record: &Record<'_>) -> Result<(), CommandError> {
        of_keyspace!(self, write_record(database, key, record))
    }

    /// Stages the deletion of a key, dead or alive.
    pub fn delete(&mut self, database: u8, key: &[u8]) -> Result<(), CommandError> {
        self.write_stored(database, key, None)
    }

    /// Stages a record in its stored form, `None` for a deletion.
    #[inline]
    pub fn write_stored(&mut self, database: u8, key: &[u8], value: Option<Vec<u8>>) -> Result<(), CommandError> {
        of_keyspace!(self, write_stored(database, key, value))
    }

    /// A version for a new collection of a type under a key.
    pub fn new_version(&mut self, key: &[u8], kind: Type) -> Result<u64, CommandError> {
        of_keyspace!(self, new_version(key, kind))
    }

    /// The value of a member of a collection.
    pub fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        of_keyspace!(self, member(owner, column, member))
    }

    /// Stages a member of a collection, whether it is there or not.
    pub fn put_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: &[u8],
    ) -> Result<(), CommandError> {
        of_keyspace!(self, write_member(owner, column, member, Some(value)))
    }

    /// Shows `taken` the value of a member of a collection, and stages its deletion. Whether there was one.
    pub fn take_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        mut taken: impl FnMut(&[u8]),
    ) -> Result<bool, CommandError> {
        of_keyspace!(self, take_member(owner, column, member, &mut taken))
    }

    /// Stages that from an offset on a chunk of a string becomes other bytes; a shorter one grows with zeros. Returns
    /// whether there is such a chunk.
    pub fn patch_chunk(&mut self, owner: &Owner, number: u32, patch: (usize, &[u8])) -> Result<bool, CommandError> {
        of_keyspace!(self, patch_chunk(owner, number, patch))
    }

    /// Stages that those bits of a byte of a chunk of a string which are set in a mask become those of another byte.
    /// Returns the byte as it was; `None` if there is no such chunk.
    pub fn set_chunk_bits(
        &mut self,
        owner: &Owner,
        place: (u32, usize),
        mask_and_bits: (u8, u8),
    ) -> Result<Option<u8>, CommandError> {
        of_keyspace!(self, set_chunk_bits(owner, place, mask_and_bits))
    }

    /// Stages the deletion of a member of a collection, whether it is there or not.
    pub fn delete_member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<(), CommandError> {
        of_keyspace!(self, write_member(owner, column, member, None))
    }

    /// Stages what is to remain of a collection of which many members are being removed in steps, `None` when that is
    /// over: what a start goes on with. Only what runs on the executor of its keys comes in steps.
    pub fn write_removal(&mut self, owner: &Owner, remains: Option<Vec<u8>>) -> Result<(), CommandError> {
        let slot = Slot::of(&owner.key);
        self.shards()?
            .with_slot(slot, |shard| Ok(((), shard.write_removal(owner.version, remains)?)))
    }

    /// Calls `visit` with the members of a collection that has `members` members, as its record says, from one
    /// (inclusive) to another (exclusive; `None`: to the last) and their values, in their order or backwards, until it
    /// breaks. Earlier writes of the same command are seen.
    pub fn scan_members(
        &mut self,
        (owner, members): (&Owner, u64),
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        of_keyspace!(self, scan_members(owner, members, column, range, direction, &mut visit))
    }

    /// The same if all members of the range are in memory; whether they are. To read few members one by one is faster
    /// than a scan that is not in memory.
    pub fn scan_in_memory(
        &mut self,
        (owner, members): (&Owner, u64),
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<bool, CommandError> {
        of_keyspace!(
            self,
            scan_in_memory(owner, members, column, range, direction, &mut visit)
        )
    }

    /// Whether memory knows the ranks of a collection's members for as long as it is written, so that they need not be
    /// stored.
    pub fn knows_ranks(&mut self, owner: &Owner) -> Result<bool, CommandError> {
        of_keyspace!(self, knows_ranks(owner))
    }

    /// How many bytes a collection's members take in memory, if all are there.
    pub fn bytes_in_memory(&mut self, owner: &Owner) -> Result<Option<u64>, CommandError> {
        of_keyspace!(self, bytes_in_memory(owner))
    }

    /// The running command needs the ranks of a collection's members in a column, which are not stored.
    ///
    /// # Errors
    /// [`CommandError::NotInMemory`]: the command is to be run again, when they are in memory.
    pub fn need_ranks(&mut self, (owner, members): (&Owner, u64), column: Column) -> Result<(), CommandError> {
        of_keyspace!(self, need_ranks(owner, members, column))
    }

    /// How many members of a sorted set of `members` members have keys in `score` below `key`; `None` if they are not
    /// in memory.
    pub fn rank_in_memory(&mut self, (owner, members): (&Owner, u64), key: &[u8]) -> Result<Option<u64>, CommandError> {
        of_keyspace!(self, rank_in_memory(owner, members, key))
    }

    /// The key in a column, of a collection of `members` members, before which lie `rank` others; `None` if they are
    /// not in memory.
    pub fn key_at_rank_in_memory(
        &mut self,
        (owner, members): (&Owner, u64),
        column: Column,
        rank: u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        of_keyspace!(self, key_at_rank_in_memory(owner, members, column, rank))
    }

    /// The remainder of a reply that says something of the members of a range, but for the first `skip`; `None` if the
    /// reply must be written whole, because the collection is not all on this executor.
    pub fn pieces(
        &mut self,
        owner: &Owner,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        (skip, extent): (u64, Extent),
        write: WriteEntry,
    ) -> Result<Option<Pieces>, CommandError> {
        let Some(local) = self.local() else { return Ok(None) };
        let slot = Slot::of(&owner.key);
        let opened = local.shards.with_slot(slot, |shard| {
            let (cursor, prefix_len, epoch) = shard.member_cursor((owner, slot), column, range, direction)?;
            Ok(((cursor, prefix_len), epoch))
        });
        let (cursor, prefix_len) = opened?;
        let pieces = Pieces::new(vec![cursor], extent, write);
        Ok(Some(pieces.of_members(prefix_len, skip)))
    }
}

/// Whole databases.
impl View<'_> {
    /// Deletes all keys of a database, or of all.
    pub fn flush(&mut self, database: Option<u8>) -> Result<(), CommandError> {
        of_keyspace!(self, flush(database))
    }

    /// Exchanges two databases.
    pub fn swap_databases(&mut self, first: u8, second: u8) -> Result<(), CommandError> {
        of_keyspace!(self, swap_databases(first, second))
    }

    /// The number of keys of a database on the executor's shards, or on all if everything is locked.
    pub fn key_count(&mut self, database: u8) -> Result<u64, CommandError> {
        of_keyspace!(self, key_count(database))
    }

    /// Calls `visit` with the keys, of the same shards, that are alive and lie in `slots`, and their types, until it
    /// breaks.
    pub fn visit_keys(
        &mut self,
        database: u8,
        slots: Range<u16>,
        mut visit: impl FnMut(&[u8], Type) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        of_keyspace!(self, visit_keys(database, slots, &mut visit))
    }

    /// The same, but it may give up behind about `deleted_max` keys that are not there any more. Returns whether it
    /// has.
    pub fn visit_some_keys(
        &mut self,
        database: u8,
        slots: Range<u16>,
        deleted_max: u64,
        mut visit: impl FnMut(&[u8], Type) -> ControlFlow<()>,
    ) -> Result<bool, CommandError> {
        of_keyspace!(self, visit_some_keys(database, slots, deleted_max, &mut visit))
    }

    /// A key of a slot that is alive, picked with `random`, which draws a number below another: [`Shard::random_key`].
    pub fn random_key_of_slot(
        &mut self,
        database: u8,
        slot: Slot,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        of_keyspace!(self, random_key(database, slot, random))
    }

    /// The name of this hash at which a walk has stopped, if the shard of `slot` remembers it. Those of a transaction
    /// over executors are not remembered.
    pub fn recall_scan_position(
        &mut self,
        slot: Slot,
        walked: Walked,
        hash: u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        self.local()
            .map_or(Ok(None), |local| local.shards.recall_scan_position(slot, walked, hash))
    }

    /// A walk stops at a name.
    pub fn remember_scan_position(
        &mut self,
        slot: Slot,
        walked: Walked,
        hash: u64,
        name: &[u8],
    ) -> Result<(), CommandError> {
        self.local().map_or(Ok(()), |local| {
            local.shards.remember_scan_position(slot, walked, hash, name)
        })
    }
}

/// The running command.
impl View<'_> {
    /// A part of the running command begins, which may fail and leave what was staged before.
    pub fn begin_inner(&mut self) {
        of_keyspace!(self, begin_inner());
    }

    /// The part that began last is over, and its writes stand (`is_kept`) or are rolled back.
    pub fn end_inner(&mut self, is_kept: bool) {
        of_keyspace!(self, end_inner(is_kept));
    }

    /// What the running command has read and written.
    pub fn touched(&mut self) -> Touched {
        *of_keyspace!(self, touched())
    }

    /// Look-ups since `before` do not count.
    pub fn uncount_look_ups(&mut self, before: Touched) {
        let touched = of_keyspace!(self, touched());
        (touched.found, touched.missed) = (before.found, before.missed);
    }

    /// The running command is about to use keys that it has perhaps not named.
    ///
    /// # Errors
    /// Not all of them can be used here and now ([`CommandError::Elsewhere`]): the whole command must be undone and run
    /// again.
    pub fn need_keys(&mut self, keys: &[DatabaseKey], mode: Mode) -> Result<(), CommandError> {
        of_keyspace!(self, need_keys(keys, mode))
    }

    /// Whether the running command may use these keys, as can be told at a glance: they are here, and no key is locked.
    /// If not, [`View::need_keys`] decides.
    #[inline]
    pub fn may_use<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>, mode: Mode) -> bool {
        let View::Local(local) = self else { return false };
        let is_here = |key| local.shards.are_all() || local.shards.index_of(Slot::of(key)).is_ok();
        !local.watches_and_locks.is_any_locked(mode) && keys.all(is_here)
    }

    /// The running command is about to do something that concerns all keys.
    ///
    /// # Errors
    /// See [`View::need_keys`].
    pub fn need_everything(&mut self, mode: Mode) -> Result<(), CommandError> {
        of_keyspace!(self, need_everything(mode))
    }

    /// Whether the running command is to be ended, because it must run again.
    #[inline]
    pub fn must_run_again(&self) -> bool {
        of_keyspace!(self, must_run_again())
    }

    /// The running command was ended by its client: it does not run again, whatever it needs.
    pub fn forget_undeclared(&mut self) {
        drop(of_keyspace!(self, take_undeclared()));
    }

    /// The same view for a while, for a handler that another one runs.
    pub fn reborrow(&mut self) -> View<'_> {
        match self {
            View::Local(local) => View::Local(LocalShards {
                shards: local.shards,
                watches_and_locks: &mut *local.watches_and_locks,
            }),
            View::Gathered(gathered) => View::Gathered(gathered),
        }
    }
}

/// What only the executor of the keys knows. Where several executors have a part in a command, each of them looks after
/// its own keys when it applies what the command has written.
impl<'a> View<'a> {
    fn local(&mut self) -> Option<&mut LocalShards<'a>> {
        match self {
            View::Local(local) => Some(local),
            View::Gathered(_) => None,
        }
    }

    /// Whether the data is spread over several executors.
    pub fn is_gathered(&self) -> bool {
        matches!(self, View::Gathered(_))
    }

    /// The executor's shards, for commands that are about shards and not about keys.
    pub fn shards(&mut self) -> Result<&mut Shards, CommandError> {
        match self.local() {
            Some(local) => Ok(local.shards),
            None => Err(CommandError::text(
                "ERR this command cannot be a part of a transaction over several storage executors",
            )),
        }
    }

    /// What has become of keys since the last call.
    pub fn take_key_outcomes(&mut self) -> Vec<KeyOutcome> {
        self.local()
            .map_or(Vec::new(), |local| local.shards.take_key_outcomes())
    }

    /// Sets whether keys that are looked up from now on and are not there are remembered. Returns whether they were.
    pub fn track_missed(&mut self, tracks: bool) -> bool {
        self.local().is_some_and(|local| local.shards.track_missed(tracks))
    }

    /// Whether somebody has to be told here what is written.
    #[inline]
    pub fn tracks_modified(&mut self) -> bool {
        self.local().is_some_and(|local| local.shards.tracks_modified())
    }

    /// Sets whether what is written from now on is no change, but for clients that wait. Returns whether it was so.
    /// Where several executors have a part in a command, all that it writes is a change.
    pub fn set_quiet(&mut self, is_quiet: bool) -> bool {
        self.local().is_some_and(|local| local.shards.set_quiet(is_quiet))
    }

    /// How a key is stored, without counting it as a look-up.
    ///
    /// # Errors
    /// The key is not here, or cannot be read.
    pub fn presence(&mut self, key: &DatabaseKey) -> Result<Presence, CommandError> {
        self.shards()?.presence(key)
    }
}

impl LocalShards<'_> {
    /// Reads a key's record with `read` from its shard, and counts whether it is alive.
    #[inline]
    fn look_up<'a>(
        &'a mut self,
        (database, key): (u8, &[u8]),
        read: impl FnOnce(&'a mut Shard, Slot) -> Result<(Option<Record<'a>>, u64), CommandError>,
    ) -> Result<Option<Record<'a>>, CommandError> {
        let slot = self.shards.slots.slot_of(key);
        let index = self.shards.index_of(slot)?;
        let now_ms = self.shards.now_ms();
        // By its fields: what is counted is written while the record is borrowed from its shard.
        let Shards {
            list, touched, missed, ..
        } = &mut *self.shards;
        let (record, epoch) = read(&mut list[index], slot)?;
        touched.add(epoch);
        let record = record.filter(|record| record.is_alive(now_ms));
        touched.count_look_up(record.is_some());
        if record.is_none() {
            missed.add(database, key);
        }
        Ok(record)
    }

    /// Keeps the running command from what it may not use here, and remembers that it needs it.
    fn need(&mut self, undeclared: Undeclared) -> Result<(), CommandError> {
        self.shards.undeclared = Some(undeclared);
        Err(CommandError::Elsewhere)
    }
}

/// What was found, and the newest epoch whose writes were seen: 0, where nothing was.
fn split_epoch<T>(found: Option<(T, u64)>) -> (Option<T>, u64) {
    match found {
        Some((found, epoch)) => (Some(found), epoch),
        None => (None, 0),
    }
}

impl Keyspace for LocalShards<'_> {
    #[inline]
    fn read(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        self.look_up((database, key), |shard, slot| {
            let hash = shard.begin_read(database, slot, key)?;
            let entry = shard.records.find(hash, Column::Meta, &shard.key);
            let is_in_chunks = |entry| shard.records.value(entry).is_some_and(encoding::is_in_chunks);
            match entry {
                // Most reads end here: the record is in the table.
                Some(entry) if !is_in_chunks(entry) => shard.record_at(entry),
                _ => shard.read_further(entry, hash, (database, slot, key)),
            }
        })
    }

    fn read_header(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        self.look_up((database, key), |shard, slot| shard.read_header(database, slot, key))
    }

    #[inline]
    fn write_stored(&mut self, database: u8, key: &[u8], value: Option<Vec<u8>>) -> Result<(), CommandError> {
        let slot = self.shards.slots.slot_of(key);
        let write = |shard: &mut Shard| Ok(((), shard.write(database, slot, key, value)?));
        self.shards.with_slot(slot, write)
    }

    #[inline]
    fn write_record(&mut self, database: u8, key: &[u8], record: &Record<'_>) -> Result<(), CommandError> {
        let slot = self.shards.slots.slot_of(key);
        let write = |shard: &mut Shard| Ok(((), shard.write_record(database, slot, key, record)?));
        self.shards.with_slot(slot, write)
    }

    fn new_version(&mut self, key: &[u8], kind: Type) -> Result<u64, CommandError> {
        let slot = self.shards.slots.slot_of(key);
        let index = self.shards.index_of(slot)?;
        let now_ms = self.shards.now_ms();
        Ok(self.shards.list[index].new_version(kind, now_ms))
    }

    fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        self.shards
            .with_slot(slot, |shard| shard.member((owner, slot), column, member))
    }

    fn write_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        let write = |shard: &mut Shard| Ok(((), shard.write_member((owner, slot), column, member, value)?));
        self.shards.with_slot(slot, write)
    }

    /// As [`Shard::take_member`], which looks the member up once.
    fn take_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        taken: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        self.shards
            .with_slot(slot, |shard| shard.take_member((owner, slot), column, member, taken))
    }

    /// As [`Shard::patch_chunk`], which does not copy the chunk.
    fn patch_chunk(&mut self, owner: &Owner, number: u32, patch: (usize, &[u8])) -> Result<bool, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        self.shards.with_slot(slot, |shard| {
            let epoch = shard.patch_chunk((owner, slot), number, patch)?;
            Ok((epoch.is_some(), epoch.unwrap_or(0)))
        })
    }

    /// As [`Shard::set_chunk_bits`], which looks the chunk up once.
    fn set_chunk_bits(
        &mut self,
        owner: &Owner,
        place: (u32, usize),
        mask_and_bits: (u8, u8),
    ) -> Result<Option<u8>, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        let set = |shard: &mut Shard| {
            Ok(split_epoch(shard.set_chunk_bits(
                (owner, slot),
                place,
                mask_and_bits,
            )?))
        };
        self.shards.with_slot(slot, set)
    }

    fn scan_members(
        &mut self,
        owner: &Owner,
        members: u64,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        self.shards.with_slot(slot, |shard| {
            let epoch = shard.scan_members((owner, slot), members, column, range, direction, visit)?;
            Ok(((), epoch))
        })
    }

    /// As [`Shard::scan_in_memory`].
    fn scan_in_memory(
        &mut self,
        owner: &Owner,
        members: u64,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<bool, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        self.shards.with_slot(slot, |shard| {
            let seen = shard.scan_in_memory((owner, slot), members, column, range, direction, visit)?;
            Ok((seen.is_some(), seen.unwrap_or(0)))
        })
    }

    /// As [`Shard::is_authority_in_memory`].
    fn knows_ranks(&mut self, owner: &Owner) -> Result<bool, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        self.shards
            .with_slot(slot, |shard| Ok((shard.is_authority_in_memory((owner, slot)), 0)))
    }

    /// As [`Shard::bytes_in_memory`].
    fn bytes_in_memory(&mut self, owner: &Owner) -> Result<Option<u64>, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        self.shards
            .with_slot(slot, |shard| Ok((shard.bytes_in_memory((owner, slot)), 0)))
    }

    /// As [`Shard::need_in_memory`].
    fn need_ranks(&mut self, owner: &Owner, members: u64, column: Column) -> Result<(), CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        let need = |shard: &mut Shard| {
            let needed = shard.need_in_memory((owner, slot), members, column);
            Ok(((), needed.map(|()| 0)?))
        };
        self.shards.with_slot(slot, need)
    }

    /// As [`Shard::rank_in_memory`].
    fn rank_in_memory(&mut self, owner: &Owner, members: u64, key: &[u8]) -> Result<Option<u64>, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        let find = |shard: &mut Shard| Ok(split_epoch(shard.rank_in_memory((owner, slot), members, key)?));
        self.shards.with_slot(slot, find)
    }

    /// As [`Shard::key_at_rank_in_memory`].
    fn key_at_rank_in_memory(
        &mut self,
        owner: &Owner,
        members: u64,
        column: Column,
        rank: u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        let find = |shard: &mut Shard| {
            let members = (members, column);
            Ok(split_epoch(shard.key_at_rank_in_memory(
                (owner, slot),
                members,
                rank,
            )?))
        };
        self.shards.with_slot(slot, find)
    }

    fn begin_inner(&mut self) {
        self.shards.list.iter_mut().for_each(Shard::begin_inner);
    }

    fn end_inner(&mut self, is_kept: bool) {
        self.shards.list.iter_mut().for_each(|shard| shard.end_inner(is_kept));
    }

    fn flush(&mut self, database: Option<u8>) -> Result<(), CommandError> {
        self.watches_and_locks.before_flush(self.shards, database);
        for id in self.shards.ids() {
            self.shards.with_shard(id, |shard| Ok(((), shard.flush(database)?)))?;
        }
        Ok(())
    }

    fn swap_databases(&mut self, first: u8, second: u8) -> Result<(), CommandError> {
        self.watches_and_locks.before_swap_databases(self.shards, first, second);
        for id in self.shards.ids() {
            self.shards.with_shard(id, |shard| {
                let mut map = shard.database_map();
                map.physical.swap(usize::from(first), usize::from(second));
                map.generation += 1;
                Ok(((), shard.set_database_map(map)?))
            })?;
        }
        Ok(())
    }

    fn key_count(&mut self, database: u8) -> Result<u64, CommandError> {
        self.shards.key_count(database)
    }

    fn visit_keys(&mut self, database: u8, slots: Range<u16>, visit: &mut VisitKey<'_>) -> Result<(), CommandError> {
        self.visit_some_keys(database, slots, u64::MAX, visit)?;
        Ok(())
    }

    fn visit_some_keys(
        &mut self,
        database: u8,
        slots: Range<u16>,
        deleted_max: u64,
        visit: &mut VisitKey<'_>,
    ) -> Result<bool, CommandError> {
        let (shard_count, now_ms) = (self.shards.shard_count(), self.shards.now_ms());
        let mut flow = ControlFlow::Continue(());
        let mut gave_up = false;
        for id in self.shards.ids() {
            let own = slots_of(id, shard_count);
            let part = own.start.max(slots.start)..own.end.min(slots.end);
            if part.is_empty() || flow.is_break() || gave_up {
                continue;
            }
            gave_up = self.shards.with_shard(id, |shard| {
                let (epoch, gave_up_at) = shard.scan_keys((database, part, None), deleted_max, |_, key, record| {
                    if record.is_alive(now_ms) {
                        flow = visit(key, record.kind);
                    }
                    flow
                })?;
                Ok((gave_up_at.is_some(), epoch))
            })?;
        }
        Ok(gave_up)
    }

    fn need_keys(&mut self, keys: &[DatabaseKey], mode: Mode) -> Result<(), CommandError> {
        let may_use = |key: &DatabaseKey| match self.shards.index_of(Slot::of(&key.1)) {
            Ok(_) => !self.watches_and_locks.is_locked(key, mode),
            Err(_) => false,
        };
        match keys.iter().all(may_use) {
            true => Ok(()),
            false => self.need(Undeclared::Keys(keys.to_vec())),
        }
    }

    fn need_everything(&mut self, mode: Mode) -> Result<(), CommandError> {
        match self.shards.are_all() && !self.watches_and_locks.is_any_locked(mode) {
            true => Ok(()),
            false => self.need(Undeclared::Everything),
        }
    }

    #[inline]
    fn must_run_again(&self) -> bool {
        self.shards.undeclared.is_some() || self.shards.has_missed()
    }

    fn take_undeclared(&mut self) -> Option<Undeclared> {
        self.shards.take_undeclared()
    }

    #[inline]
    fn touched(&mut self) -> &mut Touched {
        &mut self.shards.touched
    }

    /// As [`Shard::visit_chunks`], which looks up single chunks, where they may be hot.
    fn visit_chunks(
        &mut self,
        owner: &Owner,
        part: Range<usize>,
        visit: &mut VisitBytes<'_>,
    ) -> Result<(), CommandError> {
        let slot = self.shards.slots.slot_of(&owner.key);
        let read = |shard: &mut Shard| Ok(((), shard.visit_chunks((owner, slot), part, visit)?));
        self.shards.with_slot(slot, read)
    }

    /// As [`Shard::random_key`], which does not read all keys of the slot.
    fn random_key(
        &mut self,
        database: u8,
        slot: Slot,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        let (id, now_ms) = (shard_of(slot, self.shards.shard_count()), self.shards.now_ms());
        self.shards
            .with_shard(id, |shard| shard.random_key(database, slot, now_ms, random))
    }
}
