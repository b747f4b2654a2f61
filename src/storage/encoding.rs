//! Every byte that Corelane writes to disk.
//!
//! Integers are big endian, so that byte order is number order. A record that begins `prefix` begins
//!
//! ```text
//! prefix        database(1) ‖ slot(2)
//! ```
//!
//! in every mode, so that a database or a slot is one contiguous range of each column family.
//!
//! ```text
//! column   key                                            value
//! meta     prefix ‖ user key                              record (below)
//! data     prefix ‖ key length(4) ‖ user key ‖ version(8) ‖ member
//! score    prefix ‖ key length(4) ‖ user key ‖ version(8) ‖ ordered score(8) ‖ member
//! expiry   deadline(8, Unix ms) ‖ prefix ‖ user key       version(8)
//! system   "counts" ‖ database(1)                         keys(8) ‖ keys with an expiry(8)
//!          "opened"                                       Unix ms(8) of the last start (first shard only)
//!          "databases"                                    generation(8) ‖ physical database(1) × 16
//!          "version"                                      the newest version(8) of a collection
//!
//! record   tag(1) ‖ [deadline(8, Unix ms)] ‖ [version(8)] ‖ payload
//! tag      bits 0–3 type │ bit 4 a deadline follows │ bit 5 a version follows │ bit 6 edited in place
//! payload  a string's bytes; a collection's count(8) ‖ what its type adds
//! ```
//!
//! A stream's record adds to the count of its entries
//!
//! ```text
//! last id(16) ‖ first id(16) ‖ greatest deleted id(16) ‖ entries ever added(8) ‖ consumer groups(8)
//! ```
//!
//! an id being milliseconds(8) ‖ sequence(8). Its members are all in `data` and begin with a tag:
//!
//! ```text
//! member                                                  value
//! 0 ‖ id(16)                                              (length(LEB128) ‖ bytes) for each field and value by turns
//! 1 ‖ group                                               last delivered id(16) ‖ greatest id ever pending(16) ‖
//!                                                         entries read(8, all ones: unknown) ‖ pending(8) ‖ consumers(8)
//! 2 ‖ length(4) ‖ group ‖ id(16)                          delivered at(8, Unix ms) ‖ deliveries(8) ‖ consumer
//! 3 ‖ length(4) ‖ group ‖ consumer                        seen at(8, Unix ms) ‖ active at(8, Unix ms, 0: never) ‖ pending(8)
//! 4 ‖ length(4) ‖ group ‖ length(4) ‖ consumer ‖ id(16)   nothing: the pending entries by consumer
//! ```
//!
//! "Edited in place" is what `OBJECT ENCODING` calls `raw` whatever the length (after APPEND or SETRANGE, as in Redis).
//! The database of a prefix is the *physical* one: SWAPDB exchanges numbers in the `databases` record and moves no key.

use crate::channel::router::Slot;
use std::fmt;

/// The version of this layout, written to the manifest; another one is refused at start.
pub const FORMAT_VERSION: u32 = 1;

/// The number of databases that SELECT can name, as Redis's default.
pub const DATABASE_COUNT: usize = 16;

/// Bytes before the user key in `meta`: database and slot.
pub const PREFIX_LEN: usize = 3;

/// Bytes before the prefix in `expiry`: the deadline.
pub const DEADLINE_LEN: usize = 8;

const TYPE_MASK: u8 = 0x0f;
const HAS_DEADLINE: u8 = 1 << 4;
const HAS_VERSION: u8 = 1 << 5;
const EDITED: u8 = 1 << 6;

const RECORD_HEADER_LEN_MAX: usize = 1 + 8 + 8;

/// A key's type, as stored in the low bits of a record's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// A string: the payload is its bytes.
    String = 0,
    /// A hash.
    Hash = 1,
    /// A list.
    List = 2,
    /// A set.
    Set = 3,
    /// A sorted set.
    SortedSet = 4,
    /// A stream.
    Stream = 5,
}

impl Type {
    /// The name that the TYPE command answers.
    pub fn name(self) -> &'static str {
        match self {
            Type::String => "string",
            Type::Hash => "hash",
            Type::List => "list",
            Type::Set => "set",
            Type::SortedSet => "zset",
            Type::Stream => "stream",
        }
    }

    /// The type stored as `code` (the low four bits of a tag); `None` for a code that this version does not know.
    pub fn from_code(code: u8) -> Option<Type> {
        [
            Type::String,
            Type::Hash,
            Type::List,
            Type::Set,
            Type::SortedSet,
            Type::Stream,
        ]
        .get(usize::from(code))
        .copied()
    }
}

/// A record of `meta`, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key's type.
    pub kind: Type,
    /// When the key expires, in Unix milliseconds; 0 for never.
    pub deadline_ms: u64,
    /// What tells a collection from an earlier one under the same name; 0 for strings.
    pub version: u64,
    /// Whether a string was changed in place (APPEND, SETRANGE).
    pub edited: bool,
    /// A string's bytes, a collection's counters.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// A string that was set as a whole.
    pub fn string(payload: &'a [u8], deadline_ms: u64) -> Record<'a> {
        Record {
            kind: Type::String,
            deadline_ms,
            version: 0,
            edited: false,
            payload,
        }
    }

    /// Reads a stored record; `None` if the bytes are not one (a damaged file, or a later version's type).
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Option<Record<'a>> {
        let (&tag, mut rest) = bytes.split_first()?;
        let kind = Type::from_code(tag & TYPE_MASK)?;
        let mut number = |present: bool| -> Option<u64> {
            if !present {
                return Some(0);
            }
            let (head, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_be_bytes(*head))
        };
        let deadline_ms = number(tag & HAS_DEADLINE != 0)?;
        let version = number(tag & HAS_VERSION != 0)?;
        Some(Record {
            kind,
            deadline_ms,
            version,
            edited: tag & EDITED != 0,
            payload: rest,
        })
    }

    /// Appends the record's stored form to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let mut tag = self.kind as u8;
        tag |= if self.deadline_ms != 0 { HAS_DEADLINE } else { 0 };
        tag |= if self.version != 0 { HAS_VERSION } else { 0 };
        tag |= if self.edited { EDITED } else { 0 };
        out.push(tag);
        if self.deadline_ms != 0 {
            out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        }
        if self.version != 0 {
            out.extend_from_slice(&self.version.to_be_bytes());
        }
        out.extend_from_slice(self.payload);
    }

    /// The record's stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RECORD_HEADER_LEN_MAX + self.payload.len());
        self.encode_into(&mut out);
        out
    }

    /// Whether the key is still there at `now_ms` (Unix milliseconds); Redis expires a key once now is past its deadline.
    #[inline]
    pub fn is_alive(&self, now_ms: u64) -> bool {
        self.deadline_ms == 0 || now_ms <= self.deadline_ms
    }
}

/// The deadline of a stored record without decoding the rest; 0 for none (or for bytes that are no record).
#[inline]
pub fn deadline_of(record: &[u8]) -> u64 {
    match record.split_first() {
        Some((tag, rest)) if tag & HAS_DEADLINE != 0 => {
            rest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        }
        _ => 0,
    }
}

/// Writes the key of `meta` for a user key into `out`, which is cleared first.
#[inline]
pub fn meta_key(out: &mut Vec<u8>, database: u8, slot: Slot, key: &[u8]) {
    out.clear();
    out.reserve(PREFIX_LEN + key.len());
    out.push(database);
    out.extend_from_slice(&slot.0.to_be_bytes());
    out.extend_from_slice(key);
}

/// The database, slot and user key of a key of `meta`; `None` if it is too short to be one.
pub fn split_meta_key(bytes: &[u8]) -> Option<(u8, Slot, &[u8])> {
    let (prefix, key) = bytes.split_first_chunk::<PREFIX_LEN>()?;
    Some((prefix[0], Slot(u16::from_be_bytes([prefix[1], prefix[2]])), key))
}

/// The first key of `meta`, `data` and `score` at or after a slot of a database: the start of a range.
pub fn slot_start(database: u8, slot: Slot) -> [u8; PREFIX_LEN] {
    let slot = slot.0.to_be_bytes();
    [database, slot[0], slot[1]]
}

/// The range of `meta`, `data` and `score` that holds one database: from the first key to before the second.
pub fn database_range(database: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![database], vec![database + 1])
}

/// Writes the key of `expiry` for a key of `meta` into `out`, which is cleared first.
pub fn expiry_key(out: &mut Vec<u8>, deadline_ms: u64, meta_key: &[u8]) {
    out.clear();
    out.reserve(DEADLINE_LEN + meta_key.len());
    out.extend_from_slice(&deadline_ms.to_be_bytes());
    out.extend_from_slice(meta_key);
}

/// The deadline (Unix milliseconds) and the key of `meta` that a key of `expiry` names; `None` if it is too short.
pub fn split_expiry_key(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (deadline, meta_key) = bytes.split_first_chunk::<DEADLINE_LEN>()?;
    (meta_key.len() >= PREFIX_LEN).then_some((u64::from_be_bytes(*deadline), meta_key))
}

/// The key of `meta` and the version that own a key of `data` or `score`; `None` if the bytes are not such a key.
pub fn owner_of_member(bytes: &[u8]) -> Option<(Vec<u8>, u64)> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_LEN>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    let version = rest.first_chunk::<8>()?;
    let mut owner = Vec::with_capacity(PREFIX_LEN + key.len());
    owner.extend_from_slice(prefix);
    owner.extend_from_slice(key);
    Some((owner, u64::from_be_bytes(*version)))
}

/// The key of `data` or `score` for a member of a collection.
pub fn member_key(database: u8, slot: Slot, key: &[u8], version: u64, member: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    member_key_into(&mut out, (database, slot), key, version, member);
    out
}

/// The same, written into `out`, which is cleared first.
#[inline]
pub fn member_key_into(out: &mut Vec<u8>, (database, slot): (u8, Slot), key: &[u8], version: u64, member: &[u8]) {
    out.clear();
    out.reserve(PREFIX_LEN + 4 + key.len() + 8 + member.len());
    out.extend_from_slice(&slot_start(database, slot));
    // A key is at most 512 MB long (the protocol's limit), so its length fits.
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(member);
}

/// The first key after all that begin with `prefix`, which begins with a database's number and so is never all `0xff`.
pub fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < 0xff {
            prefix.push(last + 1);
            return prefix;
        }
    }
    unreachable!("a database's number is below 16")
}

/// The key in `system` of the newest version that a collection was given.
pub const LAST_VERSION_KEY: &[u8] = b"version";

/// How many keys a database holds on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys, expired ones that were not swept yet among them (as Redis counts).
    pub keys: u64,
    /// Keys that have a deadline.
    pub expires: u64,
}

impl Counts {
    /// The key in `system` of a physical database's counts.
    pub fn key(database: u8) -> [u8; 7] {
        let mut key = *b"counts\0";
        key[6] = database;
        key
    }

    /// The stored form.
    pub fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.keys.to_be_bytes());
        out[8..].copy_from_slice(&self.expires.to_be_bytes());
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Option<Counts> {
        let (keys, expires) = bytes.split_first_chunk::<8>()?;
        Some(Counts {
            keys: u64::from_be_bytes(*keys),
            expires: u64::from_be_bytes(<[u8; 8]>::try_from(expires).ok()?),
        })
    }
}

/// Which physical database each number that SELECT takes stands for (SWAPDB exchanges two).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseMap {
    /// Counts the swaps: after a crash in the middle of one, the shard with the highest generation is right.
    pub generation: u64,
    /// The physical database by number.
    pub physical: [u8; DATABASE_COUNT],
}

impl Default for DatabaseMap {
    fn default() -> Self {
        DatabaseMap {
            generation: 0,
            physical: std::array::from_fn(|number| number as u8),
        }
    }
}

impl DatabaseMap {
    /// The key in `system`.
    pub const KEY: &'static [u8] = b"databases";

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.generation.to_be_bytes().to_vec();
        out.extend_from_slice(&self.physical);
        out
    }

    /// Reads the stored form; `None` unless it is a permutation of all databases.
    pub fn decode(bytes: &[u8]) -> Option<DatabaseMap> {
        let (generation, physical) = bytes.split_first_chunk::<8>()?;
        let physical = <[u8; DATABASE_COUNT]>::try_from(physical).ok()?;
        let mut sorted = physical;
        sorted.sort_unstable();
        (sorted == DatabaseMap::default().physical).then_some(DatabaseMap {
            generation: u64::from_be_bytes(*generation),
            physical,
        })
    }
}

/// The id of a stream's entry: Unix milliseconds ‖ sequence, compared and counted as one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u128);

impl StreamId {
    /// `0-0`, which no entry has.
    pub const MIN: StreamId = StreamId(0);
    /// The last possible id.
    pub const MAX: StreamId = StreamId(u128::MAX);

    /// The id `ms-sequence`.
    pub fn new(ms: u64, sequence: u64) -> StreamId {
        StreamId(u128::from(ms) << 64 | u128::from(sequence))
    }

    /// Its first part, Unix milliseconds if the server made it.
    pub fn ms(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// Its second part, which tells entries of one millisecond apart.
    pub fn sequence(self) -> u64 {
        self.0 as u64
    }

    /// The next possible id.
    pub fn successor(self) -> Option<StreamId> {
        self.0.checked_add(1).map(StreamId)
    }

    /// The possible id before.
    pub fn predecessor(self) -> Option<StreamId> {
        self.0.checked_sub(1).map(StreamId)
    }

    /// The id at the end of a member of a stream (an entry's, a pending entry's…); `None` if it is too short.
    pub fn of_member(member: &[u8]) -> Option<StreamId> {
        let id = member.last_chunk::<16>()?;
        Some(StreamId(u128::from_be_bytes(*id)))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.ms(), self.sequence())
    }
}

/// What the members of a stream's entries begin with; the id follows.
pub const STREAM_ENTRY_PREFIX: &[u8] = &[0];

/// The member of an entry of a stream.
pub fn stream_entry_member(id: StreamId) -> Vec<u8> {
    [STREAM_ENTRY_PREFIX, &id.0.to_be_bytes()].concat()
}

/// The member of a consumer group; without a name, what all groups' members begin with.
pub fn stream_group_member(group: &[u8]) -> Vec<u8> {
    [&[STREAM_GROUP][..], group].concat()
}

/// What the members of a group's pending entries begin with; an entry's id follows.
pub fn stream_pending_prefix(group: &[u8]) -> Vec<u8> {
    [&[STREAM_PENDING][..], &counted(group)].concat()
}

/// The member of a group's consumer; without a name, what all of them begin with.
pub fn stream_consumer_member(group: &[u8], consumer: &[u8]) -> Vec<u8> {
    [&[STREAM_CONSUMER][..], &counted(group), consumer].concat()
}

/// What the members of a consumer's own pending entries begin with; an entry's id follows.
pub fn stream_owned_prefix(group: &[u8], consumer: &[u8]) -> Vec<u8> {
    [&[STREAM_OWNED][..], &counted(group), &counted(consumer)].concat()
}

/// What all members of a group's consumers' own pending entries begin with.
pub fn stream_owned_by_group_prefix(group: &[u8]) -> Vec<u8> {
    [&[STREAM_OWNED][..], &counted(group)].concat()
}

const STREAM_GROUP: u8 = 1;
const STREAM_PENDING: u8 = 2;
const STREAM_CONSUMER: u8 = 3;
const STREAM_OWNED: u8 = 4;

/// A name behind its length, which lets no name be the beginning of another one.
fn counted(name: &[u8]) -> Vec<u8> {
    // An argument is at most 512 MB long (the protocol's limit), so its length fits.
    [&(name.len() as u32).to_be_bytes()[..], name].concat()
}

/// What a stream's record has beside the number of its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamNumbers {
    /// The id that the next entry's must exceed.
    pub last: StreamId,
    /// The id of the first entry; `0-0` without entries.
    pub first: StreamId,
    /// The greatest id that XDEL has deleted; `0-0` for none.
    pub deleted_max: StreamId,
    /// How many entries there have ever been.
    pub entries_added: u64,
    /// The number of consumer groups.
    pub groups: u64,
}

impl StreamNumbers {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        for id in [self.last, self.first, self.deleted_max] {
            out.extend_from_slice(&id.0.to_be_bytes());
        }
        for number in [self.entries_added, self.groups] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<StreamNumbers> {
        let numbers = StreamNumbers {
            last: take_id(&mut bytes)?,
            first: take_id(&mut bytes)?,
            deleted_max: take_id(&mut bytes)?,
            entries_added: take_number(&mut bytes)?,
            groups: take_number(&mut bytes)?,
        };
        bytes.is_empty().then_some(numbers)
    }
}

/// The value of a consumer group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamGroup {
    /// The last id that was delivered to a consumer.
    pub last: StreamId,
    /// The greatest id that was ever pending: a greater one need not be looked up.
    pub pending_max: StreamId,
    /// How many entries of the stream the group has read; `None` when it cannot be known.
    pub entries_read: Option<u64>,
    /// The number of pending entries.
    pub pending: u64,
    /// The number of consumers.
    pub consumers: u64,
}

impl StreamGroup {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(56);
        for id in [self.last, self.pending_max] {
            out.extend_from_slice(&id.0.to_be_bytes());
        }
        for number in [self.entries_read.unwrap_or(u64::MAX), self.pending, self.consumers] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<StreamGroup> {
        let group = StreamGroup {
            last: take_id(&mut bytes)?,
            pending_max: take_id(&mut bytes)?,
            entries_read: Some(take_number(&mut bytes)?).filter(|number| *number != u64::MAX),
            pending: take_number(&mut bytes)?,
            consumers: take_number(&mut bytes)?,
        };
        bytes.is_empty().then_some(group)
    }
}

/// The value of a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamConsumer {
    /// When it last asked for something, in Unix milliseconds.
    pub seen_ms: u64,
    /// When it last got something, in Unix milliseconds; 0 for never.
    pub active_ms: u64,
    /// The number of its pending entries.
    pub pending: u64,
}

impl StreamConsumer {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        [self.seen_ms, self.active_ms, self.pending]
            .map(u64::to_be_bytes)
            .concat()
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<StreamConsumer> {
        let consumer = StreamConsumer {
            seen_ms: take_number(&mut bytes)?,
            active_ms: take_number(&mut bytes)?,
            pending: take_number(&mut bytes)?,
        };
        bytes.is_empty().then_some(consumer)
    }
}

/// The value of a pending entry: one that was delivered and is not acknowledged yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPending {
    /// When it was last delivered, in Unix milliseconds.
    pub delivered_ms: u64,
    /// How often it was delivered.
    pub deliveries: u64,
    /// The consumer that has it.
    pub consumer: Vec<u8>,
}

impl StreamPending {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = [self.delivered_ms, self.deliveries].map(u64::to_be_bytes).concat();
        out.extend_from_slice(&self.consumer);
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<StreamPending> {
        Some(StreamPending {
            delivered_ms: take_number(&mut bytes)?,
            deliveries: take_number(&mut bytes)?,
            consumer: bytes.to_vec(),
        })
    }
}

/// The stored form of an entry's fields and values, by turns.
pub fn encode_stream_entry<'a>(fields_and_values: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields_and_values.clone().map(|text| text.len() + 2).sum());
    for text in fields_and_values {
        let mut len = text.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(text);
    }
    out
}

/// Reads an entry's fields and values, by turns; `None` if the bytes are not the stored form.
pub fn decode_stream_entry(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields_and_values = Vec::new();
    while !bytes.is_empty() {
        let mut len = 0_usize;
        let mut shift = 0;
        loop {
            let (byte, rest) = bytes.split_first()?;
            bytes = rest;
            // Four groups of seven bits are 256 MB, five 32 GB: more than any argument has.
            if shift > 28 {
                return None;
            }
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (text, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        fields_and_values.push(text);
    }
    fields_and_values.len().is_multiple_of(2).then_some(fields_and_values)
}

fn take_id(bytes: &mut &[u8]) -> Option<StreamId> {
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    *bytes = rest;
    Some(StreamId(u128::from_be_bytes(*id)))
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_every_record() {
        assert_eq!(Record::string(b"v", 0).encode(), b"\x00v");
        assert_eq!(Record::string(b"v", 0x0102).encode(), b"\x10\0\0\0\0\0\0\x01\x02v");
        let edited = Record {
            edited: true,
            ..Record::string(b"ab", 0)
        };
        assert_eq!(edited.encode(), b"\x40ab");
        let hash = Record {
            kind: Type::Hash,
            deadline_ms: 1,
            version: 2,
            edited: false,
            payload: b"c",
        };
        assert_eq!(hash.encode(), b"\x31\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02c");
        let mut key = Vec::new();
        meta_key(&mut key, 3, Slot(0x0405), b"user");
        assert_eq!(key, b"\x03\x04\x05user");
        let mut index = Vec::new();
        expiry_key(&mut index, 7, &key);
        assert_eq!(index, b"\0\0\0\0\0\0\0\x07\x03\x04\x05user");
        assert_eq!(
            member_key(3, Slot(0x0405), b"k", 9, b"m"),
            b"\x03\x04\x05\0\0\0\x01k\0\0\0\0\0\0\0\x09m"
        );
        assert_eq!(
            Counts { keys: 1, expires: 2 }.encode(),
            *b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02"
        );
        assert_eq!(
            DatabaseMap::default().encode(),
            b"\0\0\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
        );
    }

    #[test]
    fn golden_bytes_of_streams() {
        let id = StreamId::new(1, 2);
        assert_eq!(stream_entry_member(id), b"\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
        assert_eq!(stream_group_member(b"g"), b"\x01g");
        assert_eq!(stream_pending_prefix(b"g"), b"\x02\0\0\0\x01g");
        assert_eq!(stream_consumer_member(b"g", b"c"), b"\x03\0\0\0\x01gc");
        assert_eq!(stream_owned_by_group_prefix(b"g"), b"\x04\0\0\0\x01g");
        assert_eq!(stream_owned_prefix(b"g", b"c"), b"\x04\0\0\0\x01g\0\0\0\x01c");
        let long = [b'x'; 300];
        let entry = encode_stream_entry([&b"f"[..], &long].into_iter());
        assert_eq!(entry, [b"\x01f\xac\x02", &long[..]].concat());
        let numbers = StreamNumbers {
            last: id,
            first: StreamId(1),
            deleted_max: StreamId(2),
            entries_added: 3,
            groups: 4,
        };
        let ids = [u128::from(1_u8) << 64 | 2, 1, 2].map(u128::to_be_bytes).concat();
        assert_eq!(
            numbers.encode(),
            [&ids[..], b"\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04"].concat()
        );
        let group = StreamGroup {
            last: id,
            pending_max: StreamId(1),
            entries_read: None,
            pending: 1,
            consumers: 2,
        };
        let counts = b"\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02";
        assert_eq!(group.encode(), [&ids[..32], counts].concat());
        let consumer = StreamConsumer {
            seen_ms: 1,
            active_ms: 2,
            pending: 3,
        };
        assert_eq!(
            consumer.encode(),
            b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"
        );
        let pending = StreamPending {
            delivered_ms: 1,
            deliveries: 2,
            consumer: b"c".to_vec(),
        };
        assert_eq!(pending.encode(), b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02c");
    }

    #[test]
    fn what_is_written_of_a_stream_is_read_back() {
        for id in [StreamId::MIN, StreamId::MAX, StreamId::new(u64::MAX, 0)] {
            assert_eq!(StreamId::new(id.ms(), id.sequence()), id);
            assert_eq!(StreamId::of_member(&stream_entry_member(id)), Some(id));
            let numbers = StreamNumbers {
                last: id,
                first: id,
                deleted_max: StreamId(7),
                entries_added: u64::MAX,
                groups: 1,
            };
            assert_eq!(StreamNumbers::decode(&numbers.encode()), Some(numbers));
            for entries_read in [None, Some(0), Some(i64::MAX as u64)] {
                let group = StreamGroup {
                    last: id,
                    pending_max: StreamId(9),
                    entries_read,
                    pending: u64::MAX,
                    consumers: 5,
                };
                assert_eq!(StreamGroup::decode(&group.encode()), Some(group));
            }
        }
        let consumer = StreamConsumer {
            seen_ms: u64::MAX,
            active_ms: 0,
            pending: 1,
        };
        assert_eq!(StreamConsumer::decode(&consumer.encode()), Some(consumer));
        let pending = StreamPending {
            delivered_ms: 3,
            deliveries: u64::MAX,
            consumer: Vec::new(),
        };
        assert_eq!(StreamPending::decode(&pending.encode()), Some(pending));
        for len in [0, 1, 127, 128, 16_383, 16_384] {
            let text = vec![0xff; len];
            let entry = encode_stream_entry([&text[..], b""].into_iter());
            assert_eq!(decode_stream_entry(&entry), Some(vec![&text[..], b""]));
        }
        assert_eq!(StreamId::MAX.to_string(), "18446744073709551615-18446744073709551615");
    }

    #[test]
    fn what_is_written_is_read_back() {
        for kind in [
            Type::String,
            Type::Hash,
            Type::List,
            Type::Set,
            Type::SortedSet,
            Type::Stream,
        ] {
            for (deadline_ms, version, edited) in
                [(0, 0, false), (u64::MAX, 0, true), (0, 7, false), (1, u64::MAX, true)]
            {
                let record = Record {
                    kind,
                    deadline_ms,
                    version,
                    edited,
                    payload: b"\x00\xff",
                };
                let bytes = record.encode();
                assert_eq!(Record::decode(&bytes), Some(record));
                assert_eq!(deadline_of(&bytes), deadline_ms);
            }
        }
        let member = member_key(1, Slot(2), b"key", 3, b"member");
        assert_eq!(owner_of_member(&member), Some((b"\x01\0\x02key".to_vec(), 3)));
        let map = DatabaseMap::default();
        assert_eq!(DatabaseMap::decode(&map.encode()), Some(map));
    }

    #[test]
    fn no_bytes_panic_a_decoder() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..state % 40 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                bytes.push((state >> 56) as u8);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let _ = (
                Record::decode(&bytes),
                split_meta_key(&bytes),
                split_expiry_key(&bytes),
                owner_of_member(&bytes),
            );
            let _ = (Counts::decode(&bytes), DatabaseMap::decode(&bytes), deadline_of(&bytes));
            let _ = (StreamNumbers::decode(&bytes), StreamGroup::decode(&bytes));
            let _ = (StreamConsumer::decode(&bytes), StreamPending::decode(&bytes));
            let _ = (decode_stream_entry(&bytes), StreamId::of_member(&bytes));
        }
    }
}
