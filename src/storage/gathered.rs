//! What a transaction over several storage executors sees: its keys as they were when all of them were locked, and over
//! that what it has written.
//!
//! Records, and the members of small collections, come with the grants of the locks. Of large collections the members
//! are asked for, which takes a thread that may wait ([`Remote`]): without one a handler fails with
//! [`CommandError::Elsewhere`] when it gets to them, and is run again on such a thread.
//!
//! A handler that gets to a key which is not locked goes on with what is under it: this run only finds out what else it
//! needs (a reconnaissance), is undone, and the handler runs again when all that is locked.

use super::database::{Column, Direction, MemberRange, Visit};
use super::encoding::{DATABASE_COUNT, DatabaseMap, Record, Type};
use super::fields::FieldReader;
use super::keyspace::{Keyspace, Touched, VisitKey};
use super::redo::Write;
use super::shard::{Owner, damaged_record};
use super::undeclared::Undeclared;
use crate::error::CommandError;
use crate::slots::Slot;
use crate::storage::transaction_scope::{DatabaseKey, Mode};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, ControlFlow};
use std::time::{Duration, Instant};

/// Members that are asked for at once.
const MEMBERS_PER_QUESTION: usize = 1024;

/// Keys that one question names at most: a storage executor answers it in about a millisecond.
const KEYS_PER_QUESTION: usize = 256;

/// Keys that a reconnaissance may find before everything is locked instead: to lock that many takes an executor some
/// milliseconds.
const UNLOCKED_KEYS_MAX: usize = 4096;

/// How long a reconnaissance may take before what it has found is locked. What it sees of several keys need not fit
/// together, so a script may loop for ever on it.
const RECONNAISSANCE_MAX: Duration = Duration::from_millis(100);

/// A member's name and its value.
pub type Member = (Vec<u8>, Vec<u8>);

/// Asks the storage executors, and waits.
pub trait Remote {
    /// A member's value.
    fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<Vec<u8>>, CommandError>;

    /// At most `count` members of a range, in their order or backwards; fewer only if there are no more.
    fn members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<Member>, CommandError>;

    /// What is known of keys that did not come with the grants of the locks, each in the form of [`Gathered::add`].
    fn keys_at(&mut self, keys: &[DatabaseKey]) -> Result<Vec<Vec<u8>>, CommandError>;

    /// The number of keys in a database.
    fn count(&mut self, database: u8) -> Result<u64, CommandError>;

    /// Some keys of a database that are alive at `now_ms` (Unix milliseconds), in the order of slots, and where to go
    /// on.
    fn keys(&mut self, database: u8, slots: KeyRange, now_ms: u64) -> Result<KeysFound, CommandError>;
}

/// The keys of the slots before one, from the first of a slot on, or from behind a key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first slot.
    pub slot: u16,
    /// In that slot only keys that come after this one.
    pub after: Option<Vec<u8>>,
    /// The slot at which it ends.
    pub end: u16,
}

/// A key and its type.
pub type KeyAndType = (Vec<u8>, Type);

/// What [`Remote::keys`] has found.
#[derive(Debug, Default)]
pub struct KeysFound {
    /// The keys, and their types.
    pub keys: Vec<KeyAndType>,
    /// The range that was not looked at yet.
    pub remaining: Option<KeyRange>,
}

/// Members by column and name.
type Members = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// What is known of a key, and what was written to it.
#[derive(Default)]
struct Key {
    /// The record as the shard has it.
    stored: Option<Vec<u8>>,
    /// All members of that record's version, if they are known.
    members: Option<Members>,
    /// What the shard has was deleted with all others of the database.
    is_emptied: bool,
    /// Whether the key is in the order of what was written.
    is_written: bool,
    /// No shard was asked for the key, because its database was emptied before.
    is_assumed: bool,
    /// What was written: the record...
    record: Option<Option<Vec<u8>>>,
    /// ...and members, by version, column and name.
    written: BTreeMap<(u64, u8, Vec<u8>), Option<Vec<u8>>>,
}

impl Key {
    fn current(&self) -> Option<&[u8]> {
        match &self.record {
            Some(record) => record.as_deref(),
            None if self.is_emptied => None,
            None => self.stored.as_deref(),
        }
    }

    /// Whether the shard may have members of this version.
    fn is_stored_version(&self, version: u64) -> bool {
        let stored = self.stored.as_deref().and_then(Record::decode);
        !self.is_emptied && stored.is_some_and(|record| record.version == version)
    }
}

/// How to take back one change.
enum Undo {
    Record(DatabaseKey, Option<Option<Vec<u8>>>),
    Member(DatabaseKey, (u64, u8, Vec<u8>), Option<Option<Vec<u8>>>),
}

/// See the module's documentation.
#[derive(Default)]
pub struct Gathered {
    /// By database and key, the database being numbered as it was when everything was locked.
    keys: HashMap<DatabaseKey, Key>,
    /// The keys that were written, in the order of first writing.
    order: Vec<DatabaseKey>,
    /// Databases of which all keys were deleted, `None` for all, before what is written now.
    emptied: Vec<Option<u8>>,
    /// The shards' database map, if everything is locked.
    map: Option<DatabaseMap>,
    /// By number: which database it stands for now, as it was numbered before; `None` if none was swapped.
    swapped: Option<[u8; DATABASE_COUNT]>,
    undo: Vec<Undo>,
    /// The lengths of `undo` at which the parts of the command that are being run began, the innermost last.
    inner_marks: Vec<usize>,
    /// The newest version of the shards' collections: those made here are newer.
    last_version: u64,
    /// The clock of the command (Unix ms).
    pub now_ms: u64,
    /// Whether a shard says that a key which the client watches was written.
    pub is_watched_key_modified: bool,
    /// Whether a handler got to something that is not here.
    pub has_missed: bool,
    /// What was looked up. (Which shards and epochs is the executors' affair.)
    touched: Touched,
    is_whole: bool,
    /// Whether something was asked that concerns all keys.
    pub used_everything: bool,
    /// Keys that the handler has got to and that are not locked, in the order in which it did.
    unlocked: Vec<DatabaseKey>,
    /// When the handler got to the first of them.
    unlocked_since: Option<Instant>,
    /// Whether the handler can only go on when everything is locked.
    needs_everything: bool,
    /// The storage executors, where the handler may wait for them.
    pub remote: Option<Box<dyn Remote + Send>>,
    joined: Vec<u8>,
    value: Vec<u8>,
}

impl Gathered {
    /// Of nothing yet; `is_whole` if everything is locked, so that any key may be used.
    pub fn new(is_whole: bool) -> Gathered {
        Gathered {
            is_whole,
            ..Gathered::default()
        }
    }

    /// Whether everything is locked.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Asks for keys, which are not here, and takes them in.
    fn ask_for(&mut self, keys: &[DatabaseKey]) -> Result<(), CommandError> {
        if !self.is_whole {
            self.unlocked_since.get_or_insert_with(Instant::now);
            self.unlocked.extend_from_slice(keys);
            self.needs_everything |= self.unlocked.len() > UNLOCKED_KEYS_MAX;
            if self.must_run_again() {
                return Err(CommandError::Elsewhere);
            }
        }
        let known = self.asking()?.keys_at(keys)?;
        assert_eq!(known.len(), keys.len(), "each key that is asked for is answered");
        for (database_key, known) in keys.iter().zip(&known) {
            self.add(database_key.clone(), &mut FieldReader(known))
                .ok_or_else(damaged_record)?;
        }
        Ok(())
    }

    /// Takes in what a shard says of its newest version.
    pub fn raise_last_version(&mut self, last_version: u64) {
        self.last_version = self.last_version.max(last_version);
    }

    /// Takes in what a shard says of its database map: all say the same.
    pub fn set_database_map(&mut self, map: DatabaseMap) {
        self.map = Some(map);
    }

    /// Takes in what a shard says of a key: the fields that `Shard::export` has written. `None` if they are damaged.
    pub fn add(&mut self, database_key: DatabaseKey, fields: &mut FieldReader<'_>) -> Option<()> {
        let stored = fields.optional_bytes()?.map(<[u8]>::to_vec);
        let has_members = stored
            .as_deref()
            .and_then(Record::decode)
            .is_some_and(|record| record.version != 0);
        let mut members = None;
        if has_members && let Some(sent) = fields.optional_bytes()? {
            let mut sent = FieldReader(sent);
            let known = members.insert(BTreeMap::new());
            while !sent.is_at_end() {
                let column = sent.byte()?;
                let member = sent.bytes()?.to_vec();
                known.insert((column, member), sent.bytes()?.to_vec());
            }
        }
        let key = Key {
            stored,
            members,
            ..Key::default()
        };
        self.keys.insert(database_key, key);
        Some(())
    }

    /// Forgets what a handler has written, so that it can be run again.
    pub fn begin_again(&mut self) {
        assert!(
            self.unlocked.is_empty(),
            "what is under keys that are not locked is not kept"
        );
        self.keys.retain(|_, key| !key.is_assumed);
        for key in self.keys.values_mut() {
            (key.is_emptied, key.is_written, key.record) = (false, false, None);
            key.written.clear();
        }
        self.order.clear();
        self.emptied.clear();
        self.swapped = None;
        self.undo.clear();
        self.inner_marks.clear();
        self.has_missed = false;
        self.touched = Touched::default();
    }

    /// Everything that was written, each key and member once.
    pub fn take_writes(&mut self) -> Vec<Write> {
        let (new_map, numbers) = self.new_numbers();
        let mut writes: Vec<Write> = new_map.map(|map| Write::Databases { map }).into_iter().collect();
        let emptied = std::mem::take(&mut self.emptied).into_iter();
        writes.extend(emptied.map(|database| Write::Empty {
            database: database.map(|database| numbers[usize::from(database)]),
        }));
        for database_key in std::mem::take(&mut self.order) {
            let Some(key) = self.keys.get_mut(&database_key) else {
                continue;
            };
            let (database, name) = database_key;
            let database = numbers[usize::from(database)];
            for ((version, column, member), value) in std::mem::take(&mut key.written) {
                let Some(column) = column_of(column) else { continue };
                writes.push(Write::Member {
                    owner: Owner {
                        database,
                        key: name.clone(),
                        version,
                    },
                    column,
                    member,
                    value,
                });
            }
            if let Some(value) = key.record.take() {
                writes.push(Write::Record {
                    database,
                    key: name,
                    value,
                });
            }
        }
        writes
    }

    /// The database map after what was swapped, if anything was, and by number before the number now.
    fn new_numbers(&self) -> (Option<DatabaseMap>, [u8; DATABASE_COUNT]) {
        let same = std::array::from_fn(|number| number as u8);
        let (Some(swapped), Some(map)) = (self.swapped, self.map) else {
            return (None, same);
        };
        let mut numbers = same;
        for (now, before) in swapped.iter().enumerate() {
            numbers[usize::from(*before)] = now as u8;
        }
        let new_map = DatabaseMap {
            generation: map.generation + 1,
            physical: swapped.map(|before| map.physical[usize::from(before)]),
        };
        ((new_map.physical != map.physical).then_some(new_map), numbers)
    }

    /// How a database was numbered before the transaction.
    fn before(&self, database: u8) -> u8 {
        self.swapped.map_or(database, |swapped| swapped[usize::from(database)])
    }

    /// A collection as it was numbered before the transaction.
    fn owner_before<'a>(&self, owner: &'a Owner) -> Cow<'a, Owner> {
        match self.before(owner.database) {
            same if same == owner.database => Cow::Borrowed(owner),
            database => Cow::Owned(Owner {
                database,
                ..owner.clone()
            }),
        }
    }

    /// The handler does something that concerns all keys.
    ///
    /// # Errors
    /// Not everything is locked.
    fn use_everything(&mut self) -> Result<(), CommandError> {
        self.used_everything = true;
        match self.is_whole {
            true => Ok(()),
            false => {
                self.needs_everything = true;
                Err(CommandError::Elsewhere)
            }
        }
    }

    /// The storage executors; if the handler cannot ask them, it is to run again where it can.
    fn asking(&mut self) -> Result<&mut Box<dyn Remote + Send>, CommandError> {
        self.has_missed |= self.remote.is_none();
        self.remote.as_mut().ok_or(CommandError::Elsewhere)
    }

    /// The storage executors, for a question that concerns all keys.
    fn remote_of_all(&mut self) -> Result<&mut Box<dyn Remote + Send>, CommandError> {
        self.use_everything()?;
        self.asking()
    }

    fn is_emptied(&self, database: u8) -> bool {
        self.emptied
            .iter()
            .any(|emptied| emptied.is_none_or(|emptied| emptied == database))
    }

    fn key(&mut self, database: u8, name: &[u8]) -> Result<&mut Key, CommandError> {
        let database_key = (self.before(database), name.to_vec());
        if self.is_whole && self.is_emptied(database_key.0) {
            self.keys.entry(database_key.clone()).or_insert_with(|| Key {
                is_assumed: true,
                ..Key::default()
            });
        }
        if !self.keys.contains_key(&database_key) {
            if self.remote.is_none() {
                return Err(self.missed());
            }
            self.ask_for(std::slice::from_ref(&database_key))?;
        }
        self.keys.get_mut(&database_key).ok_or(CommandError::Internal)
    }

    fn missed(&mut self) -> CommandError {
        self.has_missed = true;
        CommandError::Elsewhere
    }

    fn header(&mut self, database: u8, name: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        let now_ms = self.now_ms;
        match self.key(database, name)?.current().map(Record::decode) {
            None => Ok(None),
            Some(Some(record)) => Ok(Some(record).filter(|record| record.is_alive(now_ms))),
            Some(None) => Err(damaged_record()),
        }
    }

    fn push_undo(&mut self, database_key: DatabaseKey, is_new: bool, undo: impl FnOnce(DatabaseKey) -> Undo) {
        if is_new {
            self.order.push(database_key.clone());
        }
        self.undo.push(undo(database_key));
    }

    /// Members of a range as the shard has them, and whether these are all; those that come first otherwise.
    fn stored_members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
    ) -> Result<(Vec<Member>, bool), CommandError> {
        let asked = self.owner_before(owner);
        let key = self.key(owner.database, &owner.key)?;
        if !key.is_stored_version(owner.version) {
            return Ok((Vec::new(), true));
        }
        if let Some(members) = &key.members {
            let start = Bound::Included((column as u8, range.0.to_vec()));
            let end = match range.1 {
                Some(to) => Bound::Excluded((column as u8, to.to_vec())),
                None => Bound::Excluded((column as u8 + 1, Vec::new())),
            };
            let found = members.range((start, end));
            return Ok((
                found.map(|((_, name), value)| (name.clone(), value.clone())).collect(),
                true,
            ));
        }
        match &mut self.remote {
            Some(remote) => {
                let found = remote.members(&asked, column, range, direction, MEMBERS_PER_QUESTION)?;
                let is_all = found.len() < MEMBERS_PER_QUESTION;
                Ok((found, is_all))
            }
            None => Err(self.missed()),
        }
    }
}

impl Keyspace for Gathered {
    fn read(&mut self, database: u8, name: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        let header = self.header(database, name)?;
        let is_there = header.is_some();
        let in_chunks = header.filter(Record::is_in_chunks).map(|record| {
            let len = record.string_len().ok_or_else(damaged_record);
            (len, record.deadline_ms, record.edited, record.version)
        });
        self.touched.count_look_up(is_there);
        let Some((len, deadline_ms, edited, version)) = in_chunks else {
            return self.header(database, name);
        };
        let len = len?;
        let owner = Owner {
            database,
            key: name.to_vec(),
            version,
        };
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        joined.resize(len, 0);
        self.visit_chunks(&owner, 0..len, &mut |offset, bytes| {
            joined[offset..][..bytes.len()].copy_from_slice(bytes);
            ControlFlow::Continue(())
        })?;
        self.joined = joined;
        Ok(Some(Record {
            edited,
            ..Record::string(&self.joined, deadline_ms)
        }))
    }

    fn read_header(&mut self, database: u8, name: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        let is_there = self.header(database, name)?.is_some();
        self.touched.count_look_up(is_there);
        self.header(database, name)
    }

    fn write_stored(&mut self, database: u8, name: &[u8], value: Option<Vec<u8>>) -> Result<(), CommandError> {
        let key = self.key(database, name)?;
        if key.current().is_none() && value.is_none() {
            return Ok(());
        }
        let old = key.record.replace(value);
        let is_new = !std::mem::replace(&mut key.is_written, true);
        let database_key = (self.before(database), name.to_vec());
        self.push_undo(database_key, is_new, |database_key| Undo::Record(database_key, old));
        Ok(())
    }

    fn new_version(&mut self, _: &[u8], _: Type) -> Result<u64, CommandError> {
        self.last_version = (self.last_version + 1).max(self.now_ms * 1000);
        Ok(self.last_version)
    }

    fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        let asked = self.owner_before(owner);
        let key = self.key(owner.database, &owner.key)?;
        let written = key.written.get(&(owner.version, column as u8, member.to_vec()));
        let value = match (written, &key.members) {
            (Some(value), _) => value.clone(),
            (None, _) if !key.is_stored_version(owner.version) => None,
            (None, Some(members)) => members.get(&(column as u8, member.to_vec())).cloned(),
            (None, None) => match &mut self.remote {
                Some(remote) => remote.member(&asked, column, member)?,
                None => return Err(self.missed()),
            },
        };
        Ok(match value {
            Some(value) => {
                self.value = value;
                Some(&self.value)
            }
            None => None,
        })
    }

    fn write_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), CommandError> {
        let name = (owner.version, column as u8, member.to_vec());
        let key = self.key(owner.database, &owner.key)?;
        let old = key.written.insert(name.clone(), value.map(<[u8]>::to_vec));
        let is_new = !std::mem::replace(&mut key.is_written, true);
        let database_key = (self.before(owner.database), owner.key.clone());
        self.push_undo(database_key, is_new, |database_key| {
            Undo::Member(database_key, name, old)
        });
        Ok(())
    }

    fn scan_members(
        &mut self,
        owner: &Owner,
        _members: u64,
        column: Column,
        (from, to): MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), CommandError> {
        let (mut from, mut to) = (from.to_vec(), to.map(<[u8]>::to_vec));
        if to.as_ref().is_some_and(|to| *to <= from) {
            return Ok(());
        }
        loop {
            let (stored, is_all) = self.stored_members(owner, column, (&from, to.as_deref()), direction)?;
            // What was written lies over what is stored, as far as that is known.
            let next = match (is_all, stored.last(), direction) {
                (true, ..) | (false, None, _) => None,
                (false, Some((last, _)), Direction::Forward) => Some([&last[..], &[0]].concat()),
                (false, Some((last, _)), Direction::Backward) => Some(last.clone()),
            };
            let (part_from, part_to) = match (&next, direction) {
                (None, _) => (&from, to.as_ref()),
                (Some(next), Direction::Forward) => (&from, Some(next)),
                (Some(next), Direction::Backward) => (next, to.as_ref()),
            };
            let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
                stored.into_iter().map(|(name, value)| (name, Some(value))).collect();
            let key = self.key(owner.database, &owner.key)?;
            let bound = |name: &Vec<u8>| (owner.version, column as u8, name.clone());
            let end = match part_to {
                Some(to) => Bound::Excluded(bound(to)),
                None => Bound::Excluded((owner.version, column as u8 + 1, Vec::new())),
            };
            for ((_, _, name), value) in key.written.range((Bound::Included(bound(part_from)), end)) {
                merged.insert(name.clone(), value.clone());
            }
            let mut give = |(name, value): (&Vec<u8>, &Option<Vec<u8>>)| match value {
                Some(value) => visit(name, value),
                None => ControlFlow::Continue(()),
            };
            let ended = match direction {
                Direction::Forward => merged.iter().try_for_each(&mut give),
                Direction::Backward => merged.iter().rev().try_for_each(&mut give),
            };
            match (next, direction) {
                (Some(next), Direction::Forward) if ended.is_continue() => from = next,
                (Some(next), Direction::Backward) if ended.is_continue() => to = Some(next),
                _ => return Ok(()),
            }
        }
    }

    fn begin_inner(&mut self) {
        self.inner_marks.push(self.undo.len());
    }

    fn end_inner(&mut self, is_kept: bool) {
        let Some(mark) = self.inner_marks.pop() else { return };
        if is_kept {
            return;
        }
        for undo in self.undo.drain(mark..).rev() {
            match undo {
                Undo::Record(database_key, old) => {
                    if let Some(key) = self.keys.get_mut(&database_key) {
                        key.record = old;
                    }
                }
                Undo::Member(database_key, member, old) => {
                    if let Some(key) = self.keys.get_mut(&database_key) {
                        match old {
                            Some(old) => key.written.insert(member, old),
                            None => key.written.remove(&member),
                        };
                    }
                }
            }
        }
    }

    /// A flush is not taken back with a part of the command, which cannot fail after it.
    fn flush(&mut self, database: Option<u8>) -> Result<(), CommandError> {
        self.use_everything()?;
        let database = database.map(|database| self.before(database));
        let is_emptied = |database_key: &DatabaseKey| database.is_none_or(|database| database_key.0 == database);
        for (_, key) in self
            .keys
            .iter_mut()
            .filter(|(database_key, _)| is_emptied(database_key))
        {
            (key.is_emptied, key.is_written, key.record) = (true, false, None);
            key.written.clear();
        }
        self.order.retain(|database_key| !is_emptied(database_key));
        self.emptied.push(database);
        Ok(())
    }

    /// A swap is not taken back with a part of the command either.
    fn swap_databases(&mut self, first: u8, second: u8) -> Result<(), CommandError> {
        self.use_everything()?;
        let swapped = self.swapped.get_or_insert(std::array::from_fn(|number| number as u8));
        swapped.swap(usize::from(first), usize::from(second));
        Ok(())
    }

    fn key_count(&mut self, database: u8) -> Result<u64, CommandError> {
        let database = self.before(database);
        let is_emptied = self.is_emptied(database);
        let mut count = match is_emptied {
            true => 0,
            false => self.remote_of_all()?.count(database)?,
        };
        for (_, key) in self.keys.iter().filter(|(database_key, _)| database_key.0 == database) {
            if let Some(record) = &key.record {
                let was_counted = key.stored.is_some() && !is_emptied;
                count = (count + u64::from(record.is_some())).saturating_sub(u64::from(was_counted));
            }
        }
        Ok(count)
    }

    /// Visits those first that were written.
    fn visit_keys(
        &mut self,
        database: u8,
        slots: std::ops::Range<u16>,
        visit: &mut VisitKey<'_>,
    ) -> Result<(), CommandError> {
        let (database, now_ms) = (self.before(database), self.now_ms);
        for ((_, name), key) in self.keys.iter().filter(|(database_key, _)| database_key.0 == database) {
            let Some(Some(stored)) = &key.record else { continue };
            let record = Record::decode(stored).ok_or_else(damaged_record)?;
            let is_meant = record.is_alive(now_ms) && slots.contains(&Slot::of(name).0);
            if is_meant && visit(name, record.kind).is_break() {
                return Ok(());
            }
        }
        let mut rest = (!self.is_emptied(database)).then_some(KeyRange {
            slot: slots.start,
            after: None,
            end: slots.end,
        });
        while let Some(range) = rest.filter(|range| range.slot < range.end) {
            let found = self.remote_of_all()?.keys(database, range, now_ms)?;
            for (name, kind) in found.keys {
                let database_key = (database, name);
                let was_written = self.keys.get(&database_key).is_some_and(|key| key.record.is_some());
                if !was_written && visit(&database_key.1, kind).is_break() {
                    return Ok(());
                }
            }
            rest = found.remaining;
        }
        Ok(())
    }

    /// Takes in what is known of the keys, if it can be asked for, many at once.
    fn need_keys(&mut self, keys: &[DatabaseKey], _: Mode) -> Result<(), CommandError> {
        if self.remote.is_none() {
            return Ok(());
        }
        let in_old_numbers = keys.iter().map(|(database, name)| (self.before(*database), name));
        let is_unknown = |(database, name): &(u8, &Vec<u8>)| {
            !self.is_emptied(*database) && !self.keys.contains_key(&(*database, (*name).clone()))
        };
        let unknown = in_old_numbers.filter(is_unknown);
        let mut unknown: Vec<DatabaseKey> = unknown.map(|(database, name)| (database, name.clone())).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for part in unknown.chunks(KEYS_PER_QUESTION) {
            self.ask_for(part)?;
        }
        Ok(())
    }

    fn need_everything(&mut self, _: Mode) -> Result<(), CommandError> {
        self.use_everything()
    }

    /// Whether what the handler needs can only be locked when it has ended.
    fn must_run_again(&self) -> bool {
        let is_late = |since: Instant| since.elapsed() > RECONNAISSANCE_MAX;
        self.needs_everything || self.unlocked_since.is_some_and(is_late)
    }

    fn take_undeclared(&mut self) -> Option<Undeclared> {
        self.unlocked_since = None;
        let unlocked = std::mem::take(&mut self.unlocked);
        match std::mem::take(&mut self.needs_everything) {
            true => Some(Undeclared::Everything),
            false => (!unlocked.is_empty()).then_some(Undeclared::Keys(unlocked)),
        }
    }

    fn touched(&mut self) -> &mut Touched {
        &mut self.touched
    }
}

fn column_of(number: u8) -> Option<Column> {
    [Column::Data, Column::Score]
        .into_iter()
        .find(|column| *column as u8 == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fields::FieldWriter;

    /// A collection of `members` in `data`, as an executor would send it.
    fn with_collection(members: Option<&[&str]>) -> (Gathered, Owner) {
        let record = Record {
            version: 7,
            kind: Type::Set,
            ..Record::string(b"12345678", 0)
        };
        let mut sent = Vec::new();
        FieldWriter(&mut sent).optional_bytes(Some(&record.encode()));
        let listed = members.map(|members| {
            let mut listed = Vec::new();
            for member in members {
                let mut fields = FieldWriter(&mut listed);
                fields.byte(Column::Data as u8);
                fields.bytes(member.as_bytes());
                fields.bytes(b"stored");
            }
            listed
        });
        FieldWriter(&mut sent).optional_bytes(listed.as_deref());
        let mut gathered = Gathered::default();
        let database_key = (0, b"k".to_vec());
        gathered
            .add(database_key, &mut FieldReader(&sent))
            .expect("whole fields");
        let owner = Owner {
            database: 0,
            key: b"k".to_vec(),
            version: 7,
        };
        (gathered, owner)
    }

    fn names(gathered: &mut Gathered, owner: &Owner, range: MemberRange<'_>, direction: Direction) -> Vec<String> {
        let mut found = Vec::new();
        let mut visit = |name: &[u8], _: &[u8]| {
            found.push(String::from_utf8_lossy(name).into_owned());
            ControlFlow::Continue(())
        };
        gathered
            .scan_members(owner, 1, Column::Data, range, direction, &mut visit)
            .expect("members that are here");
        found
    }

    #[test]
    fn what_was_written_lies_over_what_is_stored_and_can_be_taken_back() {
        let (mut gathered, owner) = with_collection(Some(&["a", "c", "e"]));
        gathered.write_member(&owner, Column::Data, b"b", Some(b"new")).unwrap();
        gathered.begin_inner();
        gathered.write_member(&owner, Column::Data, b"c", None).unwrap();
        gathered.write_member(&owner, Column::Data, b"b", None).unwrap();
        gathered.write_stored(0, b"k", None).unwrap();
        assert_eq!(
            names(&mut gathered, &owner, (b"", None), Direction::Forward),
            ["a", "e"]
        );
        assert_eq!(gathered.read_header(0, b"k").unwrap(), None);
        gathered.end_inner(false);
        assert_eq!(
            names(&mut gathered, &owner, (b"", None), Direction::Backward),
            ["e", "c", "b", "a"]
        );
        assert_eq!(
            names(&mut gathered, &owner, (b"b", Some(b"e")), Direction::Forward),
            ["b", "c"]
        );
        assert!(gathered.read_header(0, b"k").unwrap().is_some());
        assert_eq!(gathered.member(&owner, Column::Data, b"b").unwrap(), Some(&b"new"[..]));
        assert_eq!(gathered.member(&owner, Column::Data, b"x").unwrap(), None);
        assert_eq!(gathered.take_writes().len(), 1, "only b was written in the end");
    }

    #[test]
    fn a_new_version_has_nothing_of_the_old_one() {
        let (mut gathered, mut owner) = with_collection(Some(&["a"]));
        owner.version = gathered.new_version(b"k", Type::Hash).expect("a version");
        assert_eq!(names(&mut gathered, &owner, (b"", None), Direction::Forward), [""; 0]);
        gathered.write_member(&owner, Column::Data, b"z", Some(&[])).unwrap();
        assert_eq!(names(&mut gathered, &owner, (b"", None), Direction::Forward), ["z"]);
    }

    /// Answers with the numbers below a bound.
    struct Numbers(u32);

    impl Remote for Numbers {
        fn member(&mut self, _: &Owner, _: Column, member: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
            Ok(Some(member.to_vec()))
        }

        fn members(
            &mut self,
            _: &Owner,
            _: Column,
            (from, to): MemberRange<'_>,
            direction: Direction,
            count: usize,
        ) -> Result<Vec<Member>, CommandError> {
            let all = (0..self.0).map(|number| number.to_be_bytes().to_vec());
            let mut all: Vec<_> = all
                .filter(|name| **name >= *from && to.is_none_or(|to| **name < *to))
                .collect();
            if direction == Direction::Backward {
                all.reverse();
            }
            Ok(all.into_iter().take(count).map(|name| (name, Vec::new())).collect())
        }

        fn keys_at(&mut self, keys: &[DatabaseKey]) -> Result<Vec<Vec<u8>>, CommandError> {
            let known = |(_, name): &DatabaseKey| {
                let mut known = Vec::new();
                let record = Record::string(name, 0).encode();
                let stored = self.names().contains(name).then_some(&record[..]);
                FieldWriter(&mut known).optional_bytes(stored);
                known
            };
            Ok(keys.iter().map(known).collect())
        }

        fn count(&mut self, _: u8) -> Result<u64, CommandError> {
            Ok(u64::from(self.0))
        }

        fn keys(&mut self, _: u8, range: KeyRange, _: u64) -> Result<KeysFound, CommandError> {
            let is_meant = |name: &Vec<u8>| {
                let slot = Slot::of(name).0;
                let is_behind = slot > range.slot || range.after.as_ref().is_none_or(|after| name > after);
                (range.slot..range.end).contains(&slot) && is_behind
            };
            let mut names: Vec<_> = self.names().into_iter().filter(is_meant).collect();
            names.sort_by_key(|name| (Slot::of(name).0, name.clone()));
            let rest = names.get(2).map(|_| KeyRange {
                slot: Slot::of(&names[1]).0,
                after: Some(names[1].clone()),
                ..range
            });
            let keys = names.into_iter().take(2).map(|name| (name, Type::String));
            Ok(KeysFound {
                keys: keys.collect(),
                remaining: rest,
            })
        }
    }

    impl Numbers {
        /// Keys of every database, by their number in decimal digits.
        fn names(&self) -> Vec<Vec<u8>> {
            (0..self.0).map(|number| number.to_string().into_bytes()).collect()
        }
    }

    /// What KEYS would say, sorted.
    fn keys_of(gathered: &mut Gathered, database: u8) -> String {
        let mut found = Vec::new();
        let mut visit = |name: &[u8], _: Type| {
            found.push(String::from_utf8_lossy(name).into_owned());
            ControlFlow::Continue(())
        };
        gathered
            .visit_keys(database, 0..crate::slots::SLOT_COUNT, &mut visit)
            .expect("keys");
        found.sort();
        found.join(" ")
    }

    #[test]
    fn keys_of_whole_databases_are_those_of_the_shards_with_what_was_written_over_them() {
        let mut gathered = Gathered::new(true);
        assert_eq!(gathered.key_count(0), Err(CommandError::Elsewhere));
        assert!(gathered.has_missed);
        gathered.begin_again();
        gathered.set_database_map(DatabaseMap::default());
        gathered.remote = Some(Box::new(Numbers(5)));
        let text = |text: &str| Some(Record::string(text.as_bytes(), 0).encode());
        gathered.write_stored(0, b"2", None).unwrap();
        gathered.write_stored(0, b"3", text("again")).unwrap();
        gathered.write_stored(0, b"new", text("v")).unwrap();
        gathered.write_stored(0, b"none", None).unwrap();
        assert_eq!(keys_of(&mut gathered, 0), "0 1 3 4 new");
        assert_eq!(gathered.key_count(0), Ok(5));
        assert_eq!(keys_of(&mut gathered, 1), "0 1 2 3 4");
        // Another database is swapped in, and what is written goes there.
        gathered.swap_databases(0, 1).unwrap();
        assert_eq!(gathered.key_count(0), Ok(5));
        gathered.write_stored(0, b"0", None).unwrap();
        assert_eq!(
            (gathered.key_count(0), keys_of(&mut gathered, 1)),
            (Ok(4), "0 1 3 4 new".to_owned())
        );
        gathered.flush(Some(1)).unwrap();
        gathered.write_stored(1, b"only", text("v")).unwrap();
        assert_eq!(
            (gathered.key_count(1), keys_of(&mut gathered, 1)),
            (Ok(1), "only".to_owned())
        );
        let writes = gathered.take_writes();
        let Write::Databases { map } = &writes[0] else {
            panic!("the new numbers come first: {writes:?}");
        };
        assert_eq!((map.generation, &map.physical[..3]), (1, &[1, 0, 2][..]));
        assert_eq!(writes[1], Write::Empty { database: Some(1) });
        let names: Vec<_> = writes[2..]
            .iter()
            .map(|write| (write.key().unwrap(), matches!(write, Write::Record { database: 1, .. })))
            .collect();
        assert_eq!(names, [(&b"0"[..], false), (b"only", true)]);
    }

    #[test]
    fn keys_that_are_not_locked_are_found_and_everything_is_needed_when_there_are_too_many() {
        let mut gathered = Gathered::new(false);
        assert_eq!(gathered.read(0, b"1"), Err(CommandError::Elsewhere));
        assert!(
            gathered.has_missed && gathered.take_undeclared().is_none(),
            "it runs again where it can ask"
        );
        gathered.begin_again();
        gathered.remote = Some(Box::new(Numbers(5)));
        gathered
            .need_keys(&[(0, b"2".to_vec()), (0, b"none".to_vec())], Mode::Exclusive)
            .unwrap();
        assert!(gathered.read(0, b"1").unwrap().is_some() && gathered.read(0, b"none").unwrap().is_none());
        let found = [&b"2"[..], b"none", b"1"].map(|name| (0, name.to_vec()));
        assert_eq!(gathered.take_undeclared(), Some(Undeclared::Keys(found.to_vec())));
        assert_eq!(gathered.key_count(0), Err(CommandError::Elsewhere));
        assert_eq!(gathered.take_undeclared(), Some(Undeclared::Everything));
        let many: Vec<DatabaseKey> = (0..=UNLOCKED_KEYS_MAX)
            .map(|number| (1, number.to_string().into_bytes()))
            .collect();
        assert_eq!(gathered.need_keys(&many, Mode::Exclusive), Err(CommandError::Elsewhere));
        assert_eq!(gathered.take_undeclared(), Some(Undeclared::Everything));
    }

    #[test]
    fn members_that_are_not_here_are_asked_for_in_pieces() {
        let (mut gathered, owner) = with_collection(None);
        let asked = gathered.member(&owner, Column::Data, b"x").map(|value| value.is_some());
        assert_eq!(asked, Err(CommandError::Elsewhere));
        assert!(gathered.has_missed);
        gathered.begin_again();
        gathered.remote = Some(Box::new(Numbers(3000)));
        for number in [5_u32, 1500, 2999] {
            gathered
                .write_member(&owner, Column::Data, &number.to_be_bytes(), None)
                .unwrap();
        }
        gathered
            .write_member(&owner, Column::Data, &5000_u32.to_be_bytes(), Some(&[]))
            .unwrap();
        for direction in [Direction::Forward, Direction::Backward] {
            let mut found = Vec::new();
            let mut visit = |name: &[u8], _: &[u8]| {
                found.push(u32::from_be_bytes(name.try_into().unwrap()));
                ControlFlow::Continue(())
            };
            gathered
                .scan_members(&owner, 1, Column::Data, (b"", None), direction, &mut visit)
                .unwrap();
            if direction == Direction::Backward {
                found.reverse();
            }
            let expected: Vec<u32> = (0..3000)
                .filter(|number| ![5, 1500, 2999].contains(number))
                .chain([5000])
                .collect();
            assert_eq!(found, expected, "{direction:?}");
        }
    }
}
