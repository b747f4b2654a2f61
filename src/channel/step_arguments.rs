//! What a coordinator says to an executor in each step of a transaction over several: the only file that knows how it
//! is written. What executors answer is in [`step_answers`](super::step_answers).

use crate::slots::ShardId;
use crate::storage::database::{Column, Direction, MemberRange};
use crate::storage::fields::{FieldReader, FieldWriter};
use crate::storage::gathered::KeyRange;
use crate::storage::redo::{Part, decode_parts, encode_parts};
use crate::storage::shard::Owner;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId};
use std::borrow::Cow;

/// What the schedule step says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Which transaction.
    pub id: TransactionId,
    /// Whether the transaction may write.
    pub mode: Mode,
    /// The client of which is asked whether a key that it watches was modified; 0 for none.
    pub watcher: u64,
    /// The index of the client's connection on its executor.
    pub connection: u32,
    /// Whether an executor has handed the command back: then it is not behind what waits for it to be over.
    pub is_handed_back: bool,
    /// Whether the transaction may write although the disk is full.
    pub frees_space: bool,
    /// What is to be locked.
    pub scope: Scope,
}

impl Schedule {
    /// The step's argument.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        fields.number(self.id);
        fields.number(self.watcher);
        fields.number(u64::from(self.connection));
        fields.byte(u8::from(self.mode == Mode::Exclusive));
        fields.byte(u8::from(self.is_handed_back));
        fields.byte(u8::from(self.frees_space));
        fields.byte(u8::from(self.scope == Scope::Everything));
        if let Scope::Keys(keys) = &self.scope {
            write_keys(&mut fields, keys);
        }
        out
    }

    /// Reads the argument; `None` if it is none.
    pub fn decode(argument: &[u8]) -> Option<Schedule> {
        let mut fields = FieldReader(argument);
        let (id, watcher) = (fields.number()?, fields.number()?);
        let connection = u32::try_from(fields.number()?).ok()?;
        let mode = match fields.byte()? {
            0 => Mode::Shared,
            _ => Mode::Exclusive,
        };
        let is_handed_back = fields.byte()? != 0;
        let frees_space = fields.byte()? != 0;
        let is_whole = fields.byte()? != 0;
        let keys = read_keys(&mut fields)?;
        let scope = match is_whole {
            true => Scope::Everything,
            false => Scope::Keys(keys),
        };
        Some(Schedule {
            id,
            mode,
            watcher,
            connection,
            is_handed_back,
            frees_space,
            scope,
        })
    }
}

/// Keys up to the end of the argument.
fn write_keys(fields: &mut FieldWriter<'_>, keys: &[DatabaseKey]) {
    for (database, key) in keys {
        fields.byte(*database);
        fields.bytes(key);
    }
}

fn read_keys(fields: &mut FieldReader<'_>) -> Option<Vec<DatabaseKey>> {
    let mut keys = Vec::new();
    while !fields.is_at_end() {
        keys.push((fields.byte()?, fields.bytes()?.to_vec()));
    }
    Some(keys)
}

/// What the read step asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// A member's value.
    Member(Cow<'a, Owner>, Column, &'a [u8]),
    /// The first members of a range, and how many of them.
    Members(Cow<'a, Owner>, Column, MemberRange<'a>, Direction, u64),
    /// Keys.
    Keys(Cow<'a, [DatabaseKey]>),
    /// The number of keys of a database.
    Count(u8),
    /// The keys of a database that are alive at a time (Unix milliseconds), on the shard of the first slot.
    KeysOf(u8, Cow<'a, KeyRange>, u64),
}

/// The first byte of each question.
const KEYS: u8 = 0;
const MEMBER: u8 = 1;
const MEMBERS: u8 = 2;
const COUNT: u8 = 3;
const KEYS_OF: u8 = 4;

impl<'a> Question<'a> {
    /// The step's argument.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        match self {
            Question::Keys(keys) => {
                fields.byte(KEYS);
                write_keys(&mut fields, keys);
            }
            Question::Member(owner, column, member) => {
                fields.byte(MEMBER);
                write_owner(&mut fields, owner, *column);
                fields.bytes(member);
            }
            Question::Members(owner, column, (from, to), direction, count) => {
                fields.byte(MEMBERS);
                write_owner(&mut fields, owner, *column);
                fields.bytes(from);
                fields.optional_bytes(*to);
                fields.byte(u8::from(*direction == Direction::Backward));
                fields.number(*count);
            }
            Question::Count(database) => {
                fields.byte(COUNT);
                fields.byte(*database);
            }
            Question::KeysOf(database, range, now_ms) => {
                fields.byte(KEYS_OF);
                fields.byte(*database);
                fields.number(u64::from(range.slot));
                fields.number(u64::from(range.end));
                fields.optional_bytes(range.after.as_deref());
                fields.number(*now_ms);
            }
        }
        out
    }

    /// Reads the argument; `None` if it is none.
    pub fn decode(argument: &'a [u8]) -> Option<Question<'a>> {
        let mut fields = FieldReader(argument);
        let question = match fields.byte()? {
            KEYS => Question::Keys(Cow::Owned(read_keys(&mut fields)?)),
            MEMBER => {
                let (owner, column) = read_owner(&mut fields)?;
                Question::Member(Cow::Owned(owner), column, fields.bytes()?)
            }
            MEMBERS => {
                let (owner, column) = read_owner(&mut fields)?;
                let range = (fields.bytes()?, fields.optional_bytes()?);
                let direction = match fields.byte()? {
                    0 => Direction::Forward,
                    _ => Direction::Backward,
                };
                Question::Members(Cow::Owned(owner), column, range, direction, fields.number()?)
            }
            COUNT => Question::Count(fields.byte()?),
            KEYS_OF => {
                let database = fields.byte()?;
                let range = KeyRange {
                    slot: u16::try_from(fields.number()?).ok()?,
                    end: u16::try_from(fields.number()?).ok()?,
                    after: fields.optional_bytes()?.map(<[u8]>::to_vec),
                };
                Question::KeysOf(database, Cow::Owned(range), fields.number()?)
            }
            _ => return None,
        };
        fields.is_at_end().then_some(question)
    }
}

fn write_owner(fields: &mut FieldWriter<'_>, owner: &Owner, column: Column) {
    fields.byte(owner.database);
    fields.bytes(&owner.key);
    fields.number(owner.version);
    fields.byte(u8::from(column == Column::Score));
}

fn read_owner(fields: &mut FieldReader<'_>) -> Option<(Owner, Column)> {
    let owner = Owner {
        database: fields.byte()?,
        key: fields.bytes()?.to_vec(),
        version: fields.number()?,
    };
    let column = match fields.byte()? {
        0 => Column::Data,
        _ => Column::Score,
    };
    Some((owner, column))
}

/// What the prepare step says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare<'a> {
    /// Which transaction.
    pub id: TransactionId,
    /// Whether the executor has no other part, so that its locks go with the primary's.
    pub releases_locks: bool,
    /// All parts as the redo record has them; the first is the primary's.
    pub parts: &'a [u8],
}

impl<'a> Prepare<'a> {
    /// The step's argument.
    pub fn encode(id: TransactionId, releases_locks: bool, parts: &[Part]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        fields.number(id);
        fields.byte(u8::from(releases_locks));
        encode_parts(&mut out, parts);
        out
    }

    /// Reads the argument; `None` if it is none.
    pub fn decode(argument: &'a [u8]) -> Option<Prepare<'a>> {
        let mut fields = FieldReader(argument);
        Some(Prepare {
            id: fields.number()?,
            releases_locks: fields.byte()? != 0,
            parts: fields.0,
        })
    }
}

/// What the apply step says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// Which transaction.
    pub id: TransactionId,
    /// Whether there is a redo record: then the parts are written whatever happens.
    pub is_decided: bool,
    /// The parts of the executor's shards.
    pub parts: Vec<Part>,
}

impl Apply {
    /// The step's argument without parts, which [`encode_parts`] appends.
    pub fn begin(id: TransactionId, is_decided: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        fields.number(id);
        fields.byte(u8::from(is_decided));
        out
    }

    /// Reads the argument; `None` if it is none.
    pub fn decode(argument: &[u8]) -> Option<Apply> {
        let mut fields = FieldReader(argument);
        Some(Apply {
            id: fields.number()?,
            is_decided: fields.byte()? != 0,
            parts: decode_parts(fields.0)?,
        })
    }
}

/// What the resolve step asks: whether the shard has the transaction's redo record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// Which transaction.
    pub id: TransactionId,
    /// The primary.
    pub shard: ShardId,
}

impl Resolve {
    /// The step's argument.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        fields.number(self.id);
        fields.number(u64::from(self.shard.0));
        out
    }

    /// Reads the argument; `None` if it is none.
    pub fn decode(argument: &[u8]) -> Option<Resolve> {
        let mut fields = FieldReader(argument);
        Some(Resolve {
            id: fields.number()?,
            shard: read_shard(&mut fields)?,
        })
    }
}

/// The argument of the steps that say only which transaction they are about.
pub fn encode_id(id: TransactionId) -> [u8; 8] {
    id.to_be_bytes()
}

/// Reads it; `None` if it is none.
pub fn decode_id(argument: &[u8]) -> Option<TransactionId> {
    FieldReader(argument).number()
}

/// One record that the forget step lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Whether it is the primary's redo record, or another shard's marker that its part is applied.
    pub is_primary: bool,
    /// The shard that has the record.
    pub shard: ShardId,
    /// The transaction.
    pub id: TransactionId,
}

impl Forget {
    /// The step's argument, for several records.
    pub fn encode_all(records: impl IntoIterator<Item = Forget>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        for record in records {
            fields.byte(u8::from(record.is_primary));
            fields.number(u64::from(record.shard.0));
            fields.number(record.id);
        }
        out
    }

    /// Reads the argument; `None` if it is none.
    pub fn decode_all(argument: &[u8]) -> Option<Vec<Forget>> {
        let mut fields = FieldReader(argument);
        let mut records = Vec::new();
        while !fields.is_at_end() {
            records.push(Forget {
                is_primary: fields.byte()? != 0,
                shard: read_shard(&mut fields)?,
                id: fields.number()?,
            });
        }
        Some(records)
    }
}

fn read_shard(fields: &mut FieldReader<'_>) -> Option<ShardId> {
    u16::try_from(fields.number()?).ok().map(ShardId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_as_it_was_written() {
        for schedule in [
            Schedule {
                id: 7,
                watcher: 3,
                connection: 4,
                is_handed_back: true,
                frees_space: false,
                mode: Mode::Shared,
                scope: Scope::Keys(vec![(0, b"a".to_vec()), (15, Vec::new())]),
            },
            Schedule {
                id: u64::MAX,
                watcher: 0,
                connection: 0,
                is_handed_back: false,
                frees_space: true,
                mode: Mode::Exclusive,
                scope: Scope::Everything,
            },
        ] {
            assert_eq!(Schedule::decode(&schedule.encode()), Some(schedule));
        }
        assert_eq!(Schedule::decode(b"short"), None);
    }

    #[test]
    fn questions_are_read_as_they_were_written() {
        let owner = Owner {
            database: 3,
            key: b"key".to_vec(),
            version: 9,
        };
        let range = KeyRange {
            slot: 5,
            after: Some(b"k".to_vec()),
            end: 16384,
        };
        for question in [
            Question::Member(Cow::Borrowed(&owner), Column::Score, b"m"),
            Question::Members(
                Cow::Borrowed(&owner),
                Column::Data,
                (b"a", Some(b"b")),
                Direction::Backward,
                8,
            ),
            Question::Keys(Cow::Owned(vec![(0, b"a".to_vec()), (15, Vec::new())])),
            Question::Count(2),
            Question::KeysOf(1, Cow::Borrowed(&range), 77),
        ] {
            let bytes = question.encode();
            assert_eq!(Question::decode(&bytes), Some(question));
            assert_eq!(Question::decode(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(Question::decode(&[9]), None);
    }

    #[test]
    fn the_steps_behind_the_decision_are_read_as_they_were_written() {
        let parts = [Part {
            shard: ShardId(2),
            writes: Vec::new(),
        }];
        let prepare = Prepare::encode(7, true, &parts);
        let prepare = Prepare::decode(&prepare).expect("it was just encoded");
        assert_eq!((prepare.id, prepare.releases_locks), (7, true));
        assert_eq!(decode_parts(prepare.parts).as_deref(), Some(&parts[..]));
        let mut apply = Apply::begin(8, false);
        encode_parts(&mut apply, &parts);
        let apply = Apply::decode(&apply).expect("it was just encoded");
        assert_eq!((apply.id, apply.is_decided, &apply.parts[..]), (8, false, &parts[..]));
        let resolve = Resolve {
            id: 9,
            shard: ShardId(3),
        };
        assert_eq!(Resolve::decode(&resolve.encode()), Some(resolve));
        let records = [true, false].map(|is_primary| Forget {
            is_primary,
            shard: ShardId(1),
            id: 4,
        });
        assert_eq!(Forget::decode_all(&Forget::encode_all(records)), Some(records.to_vec()));
        assert_eq!(decode_id(&encode_id(5)), Some(5));
    }
}
