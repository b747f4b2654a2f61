//! What the commands on hashes, lists, sets, sorted sets and streams share: a collection's record, and its members.
//!
//! A handler opens the collection, reads and writes members through it, and saves it; one that has become empty is
//! gone. The members are in the columns `data` and `score`, those of a small hash or set [`packed`] into its record;
//! see [`crate::storage::encoding`] for each type's keys and values.

use super::Context;
use super::name_order::LISTED_MAX;
use super::stored_ranks::BLOCK_KEYS_MAX;
use crate::config::EventClass;
use crate::error::CommandError;
use crate::protocol::Reply;
use crate::storage::database::MemberRange;
pub use crate::storage::database::{Column, Direction};
use crate::storage::encoding::{Record, Type};
use crate::storage::packed::{self, Cell, Cells, PACKED_MEMBERS_MAX};
use crate::storage::pieces::{Extent, PIECE_BYTES_FULL, PIECE_MEMBERS_MAX, WriteEntry, WriteMember};
use crate::storage::shard::Owner;
use crate::storage::view::View;
use smallvec::SmallVec;
use std::ops::ControlFlow;

/// A collection that a command works on.
#[derive(Clone, Debug)]
pub struct Collection {
    /// The key and the version that own the members; no version (0), if they are packed.
    pub owner: Owner,
    /// The key's type.
    pub kind: Type,
    /// When the key expires, in Unix milliseconds; 0 for never.
    pub deadline_ms: u64,
    /// How many members there are; a collection without any is deleted when it is saved (but for streams, which may be
    /// empty).
    pub count: u64,
    /// What the type keeps beside the count: see `encoding`. Of a [packed](crate::storage::packed) collection: its
    /// cells.
    pub extra: Vec<u8>,
}

impl Context<'_> {
    /// The collection under a key of the selected database; `None` if there is no such key.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn collection(&mut self, key: &[u8], kind: Type) -> Result<Option<Collection>, CommandError> {
        let database = self.database;
        let Some(record) = self.read(key)? else { return Ok(None) };
        if record.kind != kind {
            return Err(CommandError::WrongType);
        }
        Collection::of_record(database, key, &record).map(Some)
    }

    /// The collection under a key of the selected database, or a new empty one, which is there once it is saved.
    ///
    /// # Errors
    /// [`CommandError::WrongType`] if something else is there.
    pub fn collection_or_new(&mut self, key: &[u8], kind: Type) -> Result<Collection, CommandError> {
        match self.collection(key, kind)? {
            Some(collection) => Ok(collection),
            None => self.new_collection(key, kind),
        }
    }

    /// A new empty collection in place of whatever is under a key (`SUNIONSTORE` and the like): there once it is saved.
    pub fn new_collection(&mut self, key: &[u8], kind: Type) -> Result<Collection, CommandError> {
        let version = match is_packed_when_small(kind) {
            true => 0,
            false => self.view.new_version(key, kind)?,
        };
        Ok(Collection {
            owner: Owner {
                database: self.database,
                key: key.to_vec(),
                version,
            },
            kind,
            deadline_ms: 0,
            count: 0,
            extra: Vec::new(),
        })
    }

    /// Stages a collection's record, or the deletion of its key if it has become empty.
    pub fn save(&mut self, collection: &Collection) -> Result<(), CommandError> {
        let Owner { database, key, version } = &collection.owner;
        if collection.count == 0 && collection.kind != Type::Stream {
            return self.view.delete(*database, key);
        }
        let mut payload = Vec::with_capacity(size_of::<u64>() + collection.extra.len());
        match collection.is_packed() {
            true => payload.push(u8::try_from(collection.count).map_err(|_| CommandError::Internal)?),
            false => payload.extend_from_slice(&collection.count.to_be_bytes()),
        }
        payload.extend_from_slice(&collection.extra);
        let record = Record {
            kind: collection.kind,
            deadline_ms: collection.deadline_ms,
            version: *version,
            edited: false,
            payload: &payload,
        };
        self.view.write(*database, key, &record)
    }

    /// Saves a collection after `event` has happened to it; says so, and that the key is gone if it is.
    pub fn save_after(&mut self, event: &'static str, collection: &Collection) -> Result<(), CommandError> {
        self.save(collection)?;
        self.notify_of(event, collection);
        Ok(())
    }

    /// Says that `event` has happened to a collection, which is saved, and that its key is gone if it has become
    /// empty.
    pub fn notify_of(&mut self, event: &'static str, collection: &Collection) {
        let Owner { database, key, .. } = &collection.owner;
        self.notify_in(*database, event_class(collection.kind), event, key);
        if collection.count == 0 && collection.kind != Type::Stream {
            self.notify_in(*database, EventClass::Generic, "del", key);
        }
    }

    /// Deletes the key that a command would have stored an empty result under.
    pub fn delete_target(&mut self, key: &[u8]) -> Result<(), CommandError> {
        let wanted_missed = self.view.track_missed(false);
        let was_there = self.read_header(key)?.is_some();
        self.view.track_missed(wanted_missed);
        self.delete(key)?;
        if was_there {
            self.notify(EventClass::Generic, "del", key);
        }
        Ok(())
    }

    /// The value of a member.
    pub fn member<'a>(
        &'a mut self,
        collection: &'a Collection,
        column: Column,
        member: &[u8],
    ) -> Result<Option<&'a [u8]>, CommandError> {
        collection.member(&mut self.view, column, member)
    }

    /// Stages a field of a hash or a member of a set, whether it is there or not; the count is the caller's to keep. A
    /// packed collection that has no room for it is packed no more.
    pub fn put_name(&mut self, collection: &mut Collection, name: &[u8], value: &[u8]) -> Result<(), CommandError> {
        if collection.is_packed() {
            if packed::put(&mut collection.extra, collection.count, name, value) {
                return Ok(());
            }
            self.unpack(collection)?;
        }
        self.put_member(collection, Column::Data, name, value)
    }

    /// Stages the deletion of such a field or member, whether it is there or not; the count is the caller's to keep.
    pub fn delete_name(&mut self, collection: &mut Collection, name: &[u8]) -> Result<(), CommandError> {
        if collection.is_packed() {
            packed::remove(&mut collection.extra, name);
            return Ok(());
        }
        self.delete_member(collection, Column::Data, name)
    }

    /// Stages the members of a packed collection as cells of their own. What its type keeps beside the count is the
    /// caller's to put into the record.
    pub fn unpack(&mut self, collection: &mut Collection) -> Result<(), CommandError> {
        if !collection.is_packed() {
            return Ok(());
        }
        let owner = &mut collection.owner;
        owner.version = self.view.new_version(&owner.key, collection.kind)?;
        let packed = std::mem::take(&mut collection.extra);
        packed::cells(&packed).try_for_each(|cell| self.view.put_member(owner, Column::Data, cell.member, cell.value))
    }

    /// Stages a member, whether it is there or not; the count is the caller's to keep.
    pub fn put_member(
        &mut self,
        collection: &Collection,
        column: Column,
        member: &[u8],
        value: impl AsRef<[u8]>,
    ) -> Result<(), CommandError> {
        self.view.put_member(&collection.owner, column, member, value.as_ref())
    }

    /// Stages the deletion of a member, whether it is there or not; the count is the caller's to keep.
    pub fn delete_member(
        &mut self,
        collection: &Collection,
        column: Column,
        member: &[u8],
    ) -> Result<(), CommandError> {
        self.view.delete_member(&collection.owner, column, member)
    }

    /// Calls `visit` with members from `from` (inclusive) to `to` (exclusive; `None`: to the last) and their values, in
    /// the order of their bytes or backwards, until it breaks. What the command has staged is seen.
    pub fn scan_members(
        &mut self,
        collection: &Collection,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        collection.scan(&mut self.view, column, range, direction, visit)
    }
}

/// Members of a collection that follow each other, in one direction.
pub struct Part<'a> {
    /// The key and the version that own the members.
    pub collection: &'a Collection,
    /// The column that has them in the wanted order.
    pub column: Column,
    /// From the first (inclusive) to the second (exclusive; `None`: to the last).
    pub range: (&'a [u8], Option<&'a [u8]>),
    /// The end that is read first.
    pub direction: Direction,
    /// How many are passed over first.
    pub skip: u64,
}

/// What a reply says of members.
pub struct Said {
    /// How many of those that the reply's header counts.
    pub members: u64,
    /// How many others: those of which there is nothing to say, or which are damaged.
    pub others: u64,
    /// The reply, without the header.
    pub reply: Vec<u8>,
}

impl Context<'_> {
    /// Writes what `write` says of the members of a part until it has counted `count`, which are there: in pieces, if
    /// that is much. It must be the last thing in the reply; its array's or map's header comes before.
    pub fn reply_members(
        &mut self,
        collection: &Collection,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        (count, write): (u64, WriteMember),
    ) -> Result<(), CommandError> {
        let part = Part {
            collection,
            column,
            range,
            direction,
            skip: 0,
        };
        if count <= PIECE_MEMBERS_MAX
            && let Some(said) = self.say_little(&part, count, write)?
        {
            self.reply.raw(&said.reply);
            return if said.members == count {
                Ok(())
            } else {
                Err(damaged_members())
            };
        }
        self.reply_in_pieces(&part, Extent::Known(count), write)
    }

    /// What `write` says of the members of a part until it has counted `most`; `None` if that is more than a piece of a
    /// reply.
    pub fn say_little(&mut self, part: &Part<'_>, most: u64, write: WriteMember) -> Result<Option<Said>, CommandError> {
        // Not most of a piece and a member as large as strings may be.
        let is_little = |said: &Said| said.members <= PIECE_MEMBERS_MAX && said.reply.len() < PIECE_BYTES_FULL;
        let said = self.say(part, most, write, is_little)?;
        Ok(Some(said).filter(is_little))
    }

    /// What `write` says of the members of a part, whatever its size, for as long as `goes_on` says so.
    fn say(
        &mut self,
        part: &Part<'_>,
        most: u64,
        write: WriteMember,
        goes_on: impl Fn(&Said) -> bool,
    ) -> Result<Said, CommandError> {
        let Context {
            view, reply, now_ms, ..
        } = self;
        let mut said = Said {
            members: 0,
            others: 0,
            reply: Vec::new(),
        };
        if most == 0 {
            return Ok(said);
        }
        let (mut skip, version) = (part.skip, reply.version());
        let Part {
            collection,
            column,
            range,
            direction,
            ..
        } = *part;
        collection.scan(view, column, range, direction, |member, value| {
            if skip > 0 {
                skip -= 1;
                return ControlFlow::Continue(());
            }
            let counts = write(&mut Reply::new(&mut said.reply, version), member, value, *now_ms);
            said.members += u64::from(counts);
            said.others += u64::from(!counts);
            match said.members < most && goes_on(&said) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        Ok(said)
    }

    /// Lets the remainder of the reply be what `write` says of the members of a part, in pieces. An `extent` that is
    /// not known makes an array, whose header must not be written; every member of such a part counts.
    pub fn reply_in_pieces(&mut self, part: &Part<'_>, extent: Extent, write: WriteMember) -> Result<(), CommandError> {
        let now_ms = self.now_ms;
        let write_entry: WriteEntry = Box::new(move |reply, member, value| match reply {
            Some(reply) => write(reply, member, value, now_ms),
            None => true,
        });
        let (owner, skipped) = (&part.collection.owner, (part.skip, extent));
        // A part of another command must not commit what the others have staged, as a cursor would.
        // What is packed is little.
        let pieces = match self.is_inner || part.collection.is_packed() {
            true => None,
            false => self
                .view
                .pieces(owner, part.column, part.range, part.direction, skipped, write_entry)?,
        };
        if pieces.is_some() {
            self.pieces = pieces.map(Box::new);
            return Ok(());
        }
        let (Extent::Known(most) | Extent::AtMost(most)) = extent;
        let said = self.say(part, most, write, |_| true)?;
        match extent {
            Extent::Known(count) if said.members != count => return Err(damaged_members()),
            Extent::AtMost(_) if said.others > 0 => return Err(damaged_members()),
            Extent::Known(_) => {}
            Extent::AtMost(_) => self.reply.array(said.members as usize),
        }
        self.reply.raw(&said.reply);
        Ok(())
    }
}

/// The error for members that are not as they were written.
pub(super) fn damaged_members() -> CommandError {
    CommandError::text("ERR the stored members of this key are damaged")
}

impl Collection {
    /// Whether the members lie in the record, and not in cells of their own.
    #[inline]
    pub fn is_packed(&self) -> bool {
        self.owner.version == 0
    }

    /// The members and their values as they were added, if they lie in the record.
    pub fn packed_cells(&self) -> Option<Cells<'_>> {
        self.is_packed().then(|| packed::cells(&self.extra))
    }

    /// The same as [`Context::member`], of the view alone.
    #[inline]
    pub fn member<'a>(
        &'a self,
        view: &'a mut View<'_>,
        column: Column,
        member: &[u8],
    ) -> Result<Option<&'a [u8]>, CommandError> {
        match (self.is_packed(), column) {
            (false, _) => view.member(&self.owner, column, member),
            (true, Column::Data) => Ok(packed::value(&self.extra, member)),
            (true, _) => Ok(None),
        }
    }

    /// The same as [`Context::scan_members`], of the view alone.
    pub fn scan(
        &self,
        view: &mut View<'_>,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        if let Some(cells) = self.packed_cells() {
            let (from, to) = range;
            let is_in =
                |cell: &Cell<'_>| column == Column::Data && cell.member >= from && to.is_none_or(|to| cell.member < to);
            let mut cells: SmallVec<[Cell<'_>; 32]> = cells.filter(is_in).collect();
            cells.sort_unstable_by(|first, second| match direction {
                Direction::Forward => first.member.cmp(second.member),
                Direction::Backward => second.member.cmp(first.member),
            });
            let _ = cells.iter().try_for_each(|cell| visit(cell.member, cell.value));
            return Ok(());
        }
        view.scan_members((&self.owner, self.count), column, range, direction, visit)
    }

    /// Calls `visit` with the names of all members of a set, or fields of a hash, in the order of their bytes, and what
    /// `data` has of them. It takes the view alone, so that `visit` may write the reply.
    pub fn visit_names(&self, view: &mut View<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), CommandError> {
        let mut visited = 0;
        self.scan(view, Column::Data, (b"", None), Direction::Forward, |name, value| {
            visited += 1;
            visit(name, value);
            ControlFlow::Continue(())
        })?;
        match visited == self.count {
            true => Ok(()),
            false => Err(damaged_members()),
        }
    }
}

/// Whether a new collection of a type is packed. The others' commands would have to write their members by way of
/// [`Context::put_name`].
fn is_packed_when_small(kind: Type) -> bool {
    matches!(kind, Type::Hash | Type::Set)
}

// Those that are packed have no stored order of names, and all are listed as they were added.
const _: () = assert!(PACKED_MEMBERS_MAX <= BLOCK_KEYS_MAX && PACKED_MEMBERS_MAX <= LISTED_MAX);

/// The class of the events of a type's commands.
fn event_class(kind: Type) -> EventClass {
    match kind {
        Type::String => EventClass::String,
        Type::Hash => EventClass::Hash,
        Type::List => EventClass::List,
        Type::Set => EventClass::Set,
        Type::SortedSet => EventClass::SortedSet,
        Type::Stream => EventClass::Stream,
    }
}

impl Collection {
    /// Reads a collection's record.
    pub fn of_record(database: u8, key: &[u8], record: &Record<'_>) -> Result<Collection, CommandError> {
        let damaged = || CommandError::text("ERR the stored record of this key is damaged");
        let (count, extra) = match (record.version, is_packed_when_small(record.kind)) {
            (0, true) => {
                let (&count, packed) = record.payload.split_first().ok_or_else(damaged)?;
                (u64::from(count), packed)
            }
            (0, false) => return Err(damaged()),
            _ => {
                let (count, extra) = record.payload.split_first_chunk::<8>().ok_or_else(damaged)?;
                (u64::from_be_bytes(*count), extra)
            }
        };
        Ok(Collection {
            owner: Owner {
                database,
                key: key.to_vec(),
                version: record.version,
            },
            kind: record.kind,
            deadline_ms: record.deadline_ms,
            count,
            extra: extra.to_vec(),
        })
    }
}
