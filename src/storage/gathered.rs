//! What a transaction over several storage executors sees: its keys as they were when all of them were locked, and over that
//! what it has written.
//!
//! Records, and the members of small collections, come with the grants of the locks. Of large collections the members are asked
//! for, which takes a thread that may wait ([`Remote`]): without one a handler fails with [`CommandError::Elsewhere`] when it
//! gets to them, and is run again on such a thread.

use super::database::{Column, Direction};
use super::encoding::{self, Record, STRING_CHUNK_LEN};
use super::fields::FieldReader;
use super::locks::Place;
use super::redo::Write;
use super::shard::{Owner, Visit, damaged_record};
use crate::error::CommandError;
use crate::scripts::registry::Scripts;
use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Members that are asked for at once.
const MEMBERS_PER_QUESTION: usize = 1024;

/// A member's name and its value.
pub type Member = (Vec<u8>, Vec<u8>);

/// A part of a collection: from a name on (inclusive) to another (exclusive; `None`: to the last).
pub type Range<'a> = (&'a [u8], Option<&'a [u8]>);

/// Asks the storage executors, and waits.
pub trait Remote {
    /// A member's value.
    fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<Vec<u8>>, CommandError>;

    /// At most `count` members of a range, in their order or backwards; fewer only if there are no more.
    fn members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: Range<'_>,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<Member>, CommandError>;

    /// What is known of a key that was not locked with the others, in the form of [`Gathered::add`]. Only a transaction that
    /// has locked everything asks for such.
    fn key(&mut self, place: &Place) -> Result<Vec<u8>, CommandError>;
}

/// Members by column and name.
type Members = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// One key.
#[derive(Default)]
struct Key {
    /// The record as the shard has it.
    stored: Option<Vec<u8>>,
    /// All members of that record's version, if they are known.
    members: Option<Members>,
    /// What the shard has was deleted with all others of the database.
    is_emptied: bool,
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
    Record(Place, Option<Option<Vec<u8>>>),
    Member(Place, (u64, u8, Vec<u8>), Option<Option<Vec<u8>>>),
}

/// See the module's documentation.
#[derive(Default)]
pub struct Gathered {
    keys: HashMap<Place, Key>,
    /// The keys that were written, in the order of first writing.
    order: Vec<Place>,
    /// Databases of which all keys were deleted, `None` for all, before what is written now.
    emptied: Vec<Option<u8>>,
    undo: Vec<Undo>,
    /// Where the parts of the command that are being run began.
    inner_marks: Vec<usize>,
    /// The newest version of the shards' collections: those made here are newer.
    last_version: u64,
    /// The clock of the command (Unix ms).
    pub now_ms: u64,
    /// Whether a shard says that a key which the client watches was written.
    pub watch_failed: bool,
    /// Whether a handler got to something that is not here.
    pub has_missed: bool,
    is_whole: bool,
    /// What is known of scripts, and the number of who runs them here.
    pub scripts: Option<(Arc<Scripts>, usize)>,
    /// Where to ask.
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

    /// Whether a key may be used.
    pub fn has(&self, place: &Place) -> bool {
        self.is_whole || self.keys.contains_key(place)
    }

    /// Takes in what a shard says of its newest version.
    pub fn note_version(&mut self, last_version: u64) {
        self.last_version = self.last_version.max(last_version);
    }

    /// Takes in what a shard says of a key: the fields that `Shard::export` has written. `None` if they are damaged.
    pub fn add(&mut self, place: Place, fields: &mut FieldReader<'_>) -> Option<()> {
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
        self.keys.insert(place, key);
        Some(())
    }

    /// Forgets what a handler has written, so that it can be run again.
    pub fn begin_again(&mut self) {
        for key in self.keys.values_mut() {
            (key.is_emptied, key.record) = (false, None);
            key.written.clear();
        }
        self.order.clear();
        self.emptied.clear();
        self.undo.clear();
        self.inner_marks.clear();
        self.has_missed = false;
    }

    /// A part of the command begins, which may fail and leave what was written before.
    pub fn begin_inner(&mut self) {
        self.inner_marks.push(self.undo.len());
    }

    /// It is over, and its writes stand (`kept`) or never were.
    pub fn end_inner(&mut self, kept: bool) {
        let Some(mark) = self.inner_marks.pop() else { return };
        if kept {
            return;
        }
        for undo in self.undo.drain(mark..).rev() {
            match undo {
                Undo::Record(place, old) => {
                    if let Some(key) = self.keys.get_mut(&place) {
                        key.record = old;
                    }
                }
                Undo::Member(place, member, old) => {
                    if let Some(key) = self.keys.get_mut(&place) {
                        match old {
                            Some(old) => key.written.insert(member, old),
                            None => key.written.remove(&member),
                        };
                    }
                }
            }
        }
    }

    /// Everything that was written, each key and member once.
    pub fn take_writes(&mut self) -> Vec<Write> {
        let emptied = std::mem::take(&mut self.emptied).into_iter();
        let mut writes: Vec<Write> = emptied.map(|database| Write::Empty { database }).collect();
        for place in std::mem::take(&mut self.order) {
            let Some(key) = self.keys.get_mut(&place) else { continue };
            let (database, name) = place;
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

    /// Deletes all keys of a database, or of all. It is not taken back with a part of the command, which cannot fail after it.
    pub fn flush(&mut self, database: Option<u8>) {
        let is_emptied = |place: &Place| database.is_none_or(|database| place.0 == database);
        for (_, key) in self.keys.iter_mut().filter(|(place, _)| is_emptied(place)) {
            (key.is_emptied, key.record) = (true, None);
            key.written.clear();
        }
        self.order.retain(|place| !is_emptied(place));
        self.emptied.push(database);
    }

    fn is_emptied(&self, database: u8) -> bool {
        self.emptied
            .iter()
            .any(|emptied| emptied.is_none_or(|emptied| emptied == database))
    }

    fn key(&mut self, database: u8, name: &[u8]) -> Result<&mut Key, CommandError> {
        let place = (database, name.to_vec());
        if self.is_whole && self.is_emptied(database) {
            self.keys.entry(place.clone()).or_default();
        }
        if !self.keys.contains_key(&place) {
            if !self.is_whole {
                return Err(undeclared());
            }
            let Some(remote) = &mut self.remote else {
                return Err(self.missed());
            };
            let known = remote.key(&place)?;
            self.add(place.clone(), &mut FieldReader(&known))
                .ok_or_else(damaged_record)?;
        }
        self.keys.get_mut(&place).ok_or_else(undeclared)
    }

    fn missed(&mut self) -> CommandError {
        self.has_missed = true;
        CommandError::Elsewhere
    }

    /// The record of a key that is alive; of a string in chunks as it is stored.
    pub fn read_header(&mut self, database: u8, name: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        let now_ms = self.now_ms;
        match self.key(database, name)?.current().map(Record::decode) {
            None => Ok(None),
            Some(Some(record)) => Ok(Some(record).filter(|record| record.is_alive(now_ms))),
            Some(None) => Err(damaged_record()),
        }
    }

    /// The record of a key that is alive; a string has its bytes in it, however it is stored.
    pub fn read(&mut self, database: u8, name: &[u8]) -> Result<Option<Record<'_>>, CommandError> {
        let header = self.read_header(database, name)?;
        let Some(record) = header.filter(|record| record.is_in_chunks()) else {
            return self.read_header(database, name);
        };
        let len = record.string_len().ok_or_else(damaged_record)?;
        let (deadline_ms, edited) = (record.deadline_ms, record.edited);
        let owner = Owner {
            database,
            key: name.to_vec(),
            version: record.version,
        };
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        joined.resize(len, 0);
        self.visit_chunks(&owner, 0..len, |offset, bytes| {
            joined[offset..][..bytes.len()].copy_from_slice(bytes);
            ControlFlow::Continue(())
        })?;
        self.joined = joined;
        Ok(Some(Record {
            edited,
            ..Record::string(&self.joined, deadline_ms)
        }))
    }

    /// As `Shard::visit_chunks`.
    pub fn visit_chunks(
        &mut self,
        owner: &Owner,
        part: std::ops::Range<usize>,
        mut visit: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError> {
        let too_long = |_| damaged_record();
        let first = u32::try_from(part.start / STRING_CHUNK_LEN).map_err(too_long)?;
        let end = u32::try_from(part.end.div_ceil(STRING_CHUNK_LEN)).map_err(too_long)?;
        let (from, to) = (encoding::chunk_member(first), encoding::chunk_member(end));
        let range = (&from[..], Some(&to[..]));
        self.scan_members(owner, Column::Data, range, Direction::Forward, &mut |member, chunk| {
            let Some(number) = encoding::chunk_number(member) else {
                return ControlFlow::Continue(());
            };
            let start = number as usize * STRING_CHUNK_LEN;
            let (from, to) = (part.start.max(start), part.end.min(start + chunk.len()));
            match from < to {
                true => visit(from - part.start, &chunk[from - start..to - start]),
                false => ControlFlow::Continue(()),
            }
        })
    }

    /// Writes a record, `None` for none.
    pub fn write_stored(&mut self, database: u8, name: &[u8], value: Option<Vec<u8>>) -> Result<(), CommandError> {
        let key = self.key(database, name)?;
        if key.current().is_none() && value.is_none() {
            return Ok(());
        }
        let old = key.record.replace(value);
        self.note((database, name.to_vec()), |place| Undo::Record(place, old));
        Ok(())
    }

    fn note(&mut self, place: Place, undo: impl FnOnce(Place) -> Undo) {
        if !self.order.contains(&place) {
            self.order.push(place.clone());
        }
        self.undo.push(undo(place));
    }

    /// A version for a new collection.
    pub fn new_version(&mut self) -> u64 {
        self.last_version = (self.last_version + 1).max(self.now_ms * 1000);
        self.last_version
    }

    /// A member's value.
    pub fn member(&mut self, owner: &Owner, column: Column, member: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        let key = self.key(owner.database, &owner.key)?;
        let written = key.written.get(&(owner.version, column as u8, member.to_vec()));
        let value = match (written, &key.members) {
            (Some(value), _) => value.clone(),
            (None, _) if !key.is_stored_version(owner.version) => None,
            (None, Some(members)) => members.get(&(column as u8, member.to_vec())).cloned(),
            (None, None) => match &mut self.remote {
                Some(remote) => remote.member(owner, column, member)?,
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

    /// Writes a member, `None` for none.
    pub fn write_member(
        &mut self,
        owner: &Owner,
        column: Column,
        member: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<(), CommandError> {
        let name = (owner.version, column as u8, member.to_vec());
        let key = self.key(owner.database, &owner.key)?;
        let old = key.written.insert(name.clone(), value);
        self.note((owner.database, owner.key.clone()), |place| {
            Undo::Member(place, name, old)
        });
        Ok(())
    }

    /// As `Shard::scan_members`.
    pub fn scan_members(
        &mut self,
        owner: &Owner,
        column: Column,
        (from, to): Range<'_>,
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

    /// Members of a range as the shard has them, and whether these are all; those that come first otherwise.
    fn stored_members(
        &mut self,
        owner: &Owner,
        column: Column,
        range: Range<'_>,
        direction: Direction,
    ) -> Result<(Vec<Member>, bool), CommandError> {
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
                let found = remote.members(owner, column, range, direction, MEMBERS_PER_QUESTION)?;
                let is_all = found.len() < MEMBERS_PER_QUESTION;
                Ok((found, is_all))
            }
            None => Err(self.missed()),
        }
    }
}

fn column_of(number: u8) -> Option<Column> {
    [Column::Data, Column::Score]
        .into_iter()
        .find(|column| *column as u8 == number)
}

fn undeclared() -> CommandError {
    CommandError::text("ERR a command on several storage executors can only use the keys that it names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fields::FieldWriter;

    /// A collection of `members` in `data`, as an executor would send it.
    fn with_collection(members: Option<&[&str]>) -> (Gathered, Owner) {
        let record = Record {
            version: 7,
            kind: encoding::Type::Set,
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
        let place = (0, b"k".to_vec());
        gathered.add(place, &mut FieldReader(&sent)).expect("whole fields");
        let owner = Owner {
            database: 0,
            key: b"k".to_vec(),
            version: 7,
        };
        (gathered, owner)
    }

    fn names(gathered: &mut Gathered, owner: &Owner, range: Range<'_>, direction: Direction) -> Vec<String> {
        let mut found = Vec::new();
        let mut visit = |name: &[u8], _: &[u8]| {
            found.push(String::from_utf8_lossy(name).into_owned());
            ControlFlow::Continue(())
        };
        gathered
            .scan_members(owner, Column::Data, range, direction, &mut visit)
            .expect("members that are here");
        found
    }

    #[test]
    fn what_was_written_lies_over_what_is_stored_and_can_be_taken_back() {
        let (mut gathered, owner) = with_collection(Some(&["a", "c", "e"]));
        gathered
            .write_member(&owner, Column::Data, b"b", Some(b"new".to_vec()))
            .unwrap();
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
        owner.version = gathered.new_version();
        assert_eq!(names(&mut gathered, &owner, (b"", None), Direction::Forward), [""; 0]);
        gathered
            .write_member(&owner, Column::Data, b"z", Some(Vec::new()))
            .unwrap();
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
            (from, to): Range<'_>,
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

        fn key(&mut self, _: &Place) -> Result<Vec<u8>, CommandError> {
            Err(CommandError::Internal)
        }
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
            .write_member(&owner, Column::Data, &5000_u32.to_be_bytes(), Some(Vec::new()))
            .unwrap();
        for direction in [Direction::Forward, Direction::Backward] {
            let mut found = Vec::new();
            let mut visit = |name: &[u8], _: &[u8]| {
                found.push(u32::from_be_bytes(name.try_into().unwrap()));
                ControlFlow::Continue(())
            };
            gathered
                .scan_members(&owner, Column::Data, (b"", None), direction, &mut visit)
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
