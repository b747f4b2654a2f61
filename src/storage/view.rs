//! What a handler sees of the data: the shards of its executor, or records gathered from several executors.
//!
//! A handler reads and stages through [`View`] and does not know which of the two it has, so a command on several keys is
//! written once.

use super::database::{Column, Direction};
use super::encoding::Record;
use super::encoding::Type;
use super::pieces::{Pieces, RepliesBegun, WriteMember};
pub use super::shard::Owner;
use super::shard::{ModifiedKey, Shard};
use super::waiters::Waiters;
use crate::channel::message::SEVERAL_SHARDS;
use crate::channel::router::{ShardId, Slot, shard_of};
use crate::error::CommandError;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// The shards of one storage executor.
pub struct Shards {
    list: Vec<Shard>,
    /// The place in `list` by shard number; `None` for a shard of another executor.
    places: Vec<Option<u16>>,
    now_ms: u64,
    touched: Touched,
    /// Large replies that wait for their clients.
    pub replies_begun: RepliesBegun,
    /// Commands that wait for a key.
    pub waiters: Waiters,
}

/// What the running command has read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The place of the only shard, or [`SEVERAL_SHARDS`]; `None` if it touched none.
    pub shard: Option<u16>,
    /// The newest turn whose writes it made or saw.
    pub epoch: u64,
    /// Look-ups that found a key that is alive.
    pub found: u32,
    /// Look-ups that did not.
    pub missed: u32,
}

impl Touched {
    #[inline]
    fn note(&mut self, place: usize, epoch: u64) {
        let place = place as u16;
        self.shard = match self.shard {
            None => Some(place),
            Some(same) if same == place => Some(place),
            Some(_) => Some(SEVERAL_SHARDS),
        };
        self.epoch = self.epoch.max(epoch);
    }
}

impl Shards {
    /// `shard_count` is the server's, `list` the executor's own.
    pub fn new(list: Vec<Shard>, shard_count: u16) -> Shards {
        let mut places = vec![None; usize::from(shard_count)];
        for (place, shard) in list.iter().enumerate() {
            places[usize::from(shard.id().0)] = Some(place as u16);
        }
        Shards {
            list,
            places,
            now_ms: 0,
            touched: Touched::default(),
            replies_begun: RepliesBegun::default(),
            waiters: Waiters::default(),
        }
    }

    /// All shards of the executor.
    pub fn list(&self) -> &[Shard] {
        &self.list
    }

    /// All shards of the executor.
    pub fn list_mut(&mut self) -> &mut [Shard] {
        &mut self.list
    }

    /// The number of shards of the server.
    pub fn shard_count(&self) -> u16 {
        self.places.len() as u16
    }

    /// Begins a turn at `now_ms` (Unix milliseconds), the one reading of the clock that its commands see.
    pub fn begin_turn(&mut self, epoch: u64, now_ms: u64) {
        self.now_ms = now_ms;
        for shard in &mut self.list {
            shard.begin_turn(epoch);
        }
    }

    /// The turn's reading of the clock, Unix milliseconds.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Begins a command.
    #[inline]
    pub fn begin_command(&mut self) {
        self.touched = Touched::default();
    }

    /// What the command has read and written so far.
    #[inline]
    pub fn touched(&self) -> Touched {
        self.touched
    }

    /// The command's writes stand.
    #[inline]
    pub fn keep_command(&mut self) {
        match self.touched.shard {
            Some(SEVERAL_SHARDS) => self.list.iter_mut().for_each(Shard::keep_command),
            Some(place) => self.list[usize::from(place)].keep_command(),
            None => {}
        }
    }

    /// Whether somebody has to be told which keys are written.
    pub fn set_notes_modified(&mut self, notes: bool) {
        self.list.iter_mut().for_each(|shard| shard.set_notes_modified(notes));
    }

    /// The keys that were written since the last call by commands that are over: [`Shard::take_modified`].
    pub fn take_modified(&mut self) -> Vec<ModifiedKey> {
        self.list.iter_mut().flat_map(Shard::take_modified).collect()
    }

    /// Whether whole databases were emptied or swapped since the last call.
    pub fn take_databases_modified(&mut self) -> bool {
        let taken = self.list.iter_mut().map(Shard::take_databases_modified);
        taken.fold(false, |any, modified| any | modified)
    }

    /// What kind of thing is under a key, if it is there and can be read.
    pub fn kind_of(&mut self, (database, key): &ModifiedKey) -> Option<Type> {
        let found = self.look_up(key, |shard, slot| shard.read_header(*database, slot, key));
        found.ok().flatten().map(|record| record.kind)
    }

    /// The command failed: its writes never were.
    pub fn roll_back_command(&mut self) {
        self.list.iter_mut().for_each(Shard::roll_back_command);
    }

    #[inline]
    fn place(&self, slot: Slot) -> Result<usize, CommandError> {
        let shard = shard_of(slot, self.places.len() as u16);
        match self.places[usize::from(shard.0)] {
            Some(place) => Ok(usize::from(place)),
            None => Err(CommandError::text(
                "ERR a key of this request lives on another executor",
            )),
        }
    }

    /// Reads a key's record with `read` from its shard, and notes whether it is alive.
    #[inline]
    fn look_up<'a>(
        &'a mut self,
        key: &[u8],
        read: impl FnOnce(&'a mut Shard, Slot) -> Result<(Option<Record<'a>>, u64), CommandError>,
    ) -> Result<Option<Record<'a>>, CommandError> {
        let slot = Slot::of(key);
        let place = self.place(slot)?;
        let now_ms = self.now_ms;
        // The turn is noted before the record is lent out; on a miss it is the same look-up's.
        let Shards { list, touched, .. } = self;
        let (record, epoch) = read(&mut list[place], slot)?;
        touched.note(place, epoch);
        let record = record.filter(|record| record.is_alive(now_ms));
        match record {
            Some(_) => touched.found += 1,
            None => touched.missed += 1,
        }
        Ok(record)
    }

    /// Runs `work` on the shard `id`, if this executor has it, and notes the turn that it returns.
    pub fn with_shard<T>(
        &mut self,
        id: ShardId,
        work: impl FnOnce(&mut Shard) -> Result<(T, u64), CommandError>,
    ) -> Result<T, CommandError> {
        let place = self.places.get(usize::from(id.0)).copied().flatten().map(usize::from);
        let place = place.ok_or_else(|| CommandError::text("ERR that shard lives on another executor"))?;
        self.list[place].check_readable()?;
        let (result, epoch) = work(&mut self.list[place])?;
        self.touched.note(place, epoch);
        Ok(result)
    }
}

/// Records of declared keys, fetched from their executors, and what a handler wants written there.
#[derive(Default)]
pub struct Gathered {
    /// By database and key: the stored record, `None` for an absent key.
    pub records: HashMap<(u8, Vec<u8>), Option<Vec<u8>>>,
    /// The keys that were written, in the order of first writing.
    pub written: Vec<(u8, Vec<u8>)>,
    /// The clock of the command (Unix ms).
    pub now_ms: u64,
}

impl Gathered {
    fn read(&self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        let found = self.records.get(&(database, key.to_vec())).ok_or_else(undeclared)?;
        match found.as_deref().map(Record::decode) {
            None => Ok(None),
            Some(Some(record)) => Ok(Some(record).filter(|record| record.is_alive(self.now_ms))),
            Some(None) => Err(CommandError::text("ERR the stored record of this key is damaged")),
        }
    }
}

/// What a handler sees of the data.
pub enum View<'a> {
    /// All keys live on the executor that runs the handler.
    Local(&'a mut Shards),
    /// Keys of several executors; the handler runs on a network executor.
    Gathered(&'a mut Gathered),
}

impl View<'_> {
    /// A part of the running command begins, which may fail and leave what was staged before.
    pub fn begin_inner(&mut self) {
        match self {
            View::Local(shards) => shards.list.iter_mut().for_each(Shard::begin_inner),
            View::Gathered(_) => {}
        }
    }

    /// It is over, and its writes stand (`kept`) or never were.
    pub fn end_inner(&mut self, kept: bool) {
        match self {
            View::Local(shards) => shards.list.iter_mut().for_each(|shard| shard.end_inner(kept)),
            View::Gathered(_) => {}
        }
    }

    /// The same view for a while, for a handler that another one runs.
    pub fn reborrow(&mut self) -> View<'_> {
        match self {
            View::Local(shards) => View::Local(shards),
            View::Gathered(gathered) => View::Gathered(gathered),
        }
    }

    /// The record of a key that is alive, `None` if there is none. A string has its bytes in it, however it is stored.
    #[inline]
    pub fn read(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        match self {
            View::Local(shards) => shards.look_up(key, |shard, slot| shard.read(database, slot, key)),
            View::Gathered(gathered) => gathered.read(database, key),
        }
    }

    /// The same, but of a string that lies in chunks the record as it is stored: for those who do not need its bytes, or
    /// only some of them.
    pub fn read_header(&mut self, database: u8, key: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        match self {
            View::Local(shards) => shards.look_up(key, |shard, slot| shard.read_header(database, slot, key)),
            // Strings are gathered whole.
            View::Gathered(gathered) => gathered.read(database, key),
        }
    }

    /// Calls `visit` with the stored bytes of a part of a string that lies in chunks, and where in the part they begin, in
    /// order, until it breaks; what is not stored is zeros.
    pub fn visit_chunks(
        &mut self,
        owner: &Owner,
        part: std::ops::Range<usize>,
        visit: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        let shards = self.shards_of_collections()?;
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let epoch = shards.list[place].visit_chunks((owner, slot), part, visit)?;
        shards.touched.note(place, epoch);
        Ok(())
    }

    /// Stages a record.
    #[inline]
    pub fn write(&mut self, database: u8, key: &[u8], record: &Record<'_>) -> Result<(), CommandError> {
        self.write_stored(database, key, Some(record.encode()))
    }

    /// Stages the deletion of a key, dead or alive.
    pub fn delete(&mut self, database: u8, key: &[u8]) -> Result<(), CommandError> {
        self.write_stored(database, key, None)
    }

    /// Stages a record in its stored form, `None` for a deletion.
    #[inline]
    pub fn write_stored(&mut self, database: u8, key: &[u8], value: Option<Vec<u8>>) -> Result<(), CommandError> {
        match self {
            View::Local(shards) => {
                let slot = Slot::of(key);
                let place = shards.place(slot)?;
                let epoch = shards.list[place].write(database, slot, key, value)?;
                shards.touched.note(place, epoch);
                Ok(())
            }
            View::Gathered(gathered) => {
                let place = (database, key.to_vec());
                *gathered.records.get_mut(&place).ok_or_else(undeclared)? = value;
                if !gathered.written.contains(&place) {
                    gathered.written.push(place);
                }
                Ok(())
            }
        }
    }

    /// A version for a new collection under a key.
    pub fn new_version(&mut self, key: &[u8]) -> Result<u64, CommandError> {
        let shards = self.shards_of_collections()?;
        let place = shards.place(Slot::of(key))?;
        let now_ms = shards.now_ms;
        Ok(shards.list[place].new_version(now_ms))
    }

    /// The value of a member of a collection.
    pub fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        let shards = self.shards_of_collections()?;
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let Shards { list, touched, .. } = shards;
        let (value, epoch) = list[place].member((owner, slot), column, member)?;
        touched.note(place, epoch);
        Ok(value)
    }

    /// Stages a member of a collection, whether it is there or not.
    pub fn put_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Vec<u8>,
    ) -> Result<(), CommandError> {
        self.write_member(owner, column, member, Some(value))
    }

    /// Stages the deletion of a member of a collection, whether it is there or not.
    pub fn delete_member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<(), CommandError> {
        self.write_member(owner, column, member, None)
    }

    fn write_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<(), CommandError> {
        let shards = self.shards_of_collections()?;
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let epoch = shards.list[place].write_member((owner, slot), column, member, value)?;
        shards.touched.note(place, epoch);
        Ok(())
    }

    /// Calls `visit` with the members of a collection from `from` (inclusive) to `to` (exclusive; `None`: to the last) and
    /// their values, in their order or backwards, until it breaks. Earlier writes of the same command are seen.
    pub fn scan_members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: (&[u8], Option<&[u8]>),
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        let shards = self.shards_of_collections()?;
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        let epoch = shards.list[place].scan_members((owner, slot), column, range, direction, &mut visit)?;
        shards.touched.note(place, epoch);
        Ok(())
    }

    /// The rest of a reply that says something of `left` members of a range; `None` if it must be written whole, because the
    /// shard is stalled and what is staged cannot be written first.
    pub fn pieces(
        &mut self,
        owner: &Owner,
        column: Column,
        range: (&[u8], Option<&[u8]>),
        direction: Direction,
        counted: (u64, WriteMember),
    ) -> Result<Option<Pieces>, CommandError> {
        let shards = self.shards_of_collections()?;
        let slot = Slot::of(&owner.key);
        let place = shards.place(slot)?;
        match shards.list[place].member_cursor((owner, slot), column, range, direction) {
            Ok((cursor, prefix_len, epoch)) => {
                shards.touched.note(place, epoch);
                Ok(Some(Pieces::of_members(cursor, prefix_len, counted, shards.now_ms)))
            }
            Err(CommandError::Stalled) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name that the cursor of an unfinished scan inside a collection stands for: [`Shard::scan_position`].
    pub fn scan_position(&mut self, key: &[u8], position: u64) -> Result<Option<Vec<u8>>, CommandError> {
        let shards = self.shards_of_collections()?;
        let place = shards.place(Slot::of(key))?;
        Ok(shards.list[place].scan_position(position))
    }

    /// Remembers where a scan inside a collection stopped; returns its cursor, which is not 0.
    pub fn remember_scan_position(&mut self, key: &[u8], name: Vec<u8>) -> Result<u64, CommandError> {
        let shards = self.shards_of_collections()?;
        let place = shards.place(Slot::of(key))?;
        Ok(shards.list[place].remember_scan_position(name))
    }

    /// The executor's shards, for what has members: those are not gathered from other executors.
    fn shards_of_collections(&mut self) -> Result<&mut Shards, CommandError> {
        match self {
            View::Local(shards) => Ok(shards),
            View::Gathered(_) => Err(collections_on_several_executors()),
        }
    }

    /// The executor's shards, for commands that are about shards and not about keys.
    pub fn shards(&mut self) -> Result<&mut Shards, CommandError> {
        match self {
            View::Local(shards) => Ok(shards),
            View::Gathered(_) => Err(CommandError::Internal),
        }
    }
}

/// What a command answers that cannot be run where its keys lie.
pub fn collections_on_several_executors() -> CommandError {
    CommandError::text(
        "ERR collections on several storage executors cannot be used in one command yet; give their keys one {hash tag}",
    )
}

fn undeclared() -> CommandError {
    CommandError::text("ERR a command on several executors can only use the keys that it names")
}
