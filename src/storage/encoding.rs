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
//! score    prefix ‖ key length(4) ‖ user key ‖ version(8) ‖ what the type keeps in an order of its own
//! expiry   when due(8, Unix ms) ‖ prefix ‖ user key       version(8)
//! system   "counts" ‖ database(1)                         keys(8) ‖ keys with an expiry(8)
//!          "opened"                                       Unix ms(8) of the last start (first shard only)
//!          "databases"                                    generation(8) ‖ physical database(1) × 16
//!          "version"                                      the newest version(8) of a collection
//!          "redo" ‖ transaction(8)                        (shard(2) ‖ length(4) ‖ writes) for each shard
//!          "applied" ‖ 0(1) ‖ transaction(8)              nothing: this shard has applied its part of it
//!          "dead" ‖ prefix ‖ key length(4) ‖ user key ‖ version(8)
//!                                                         nothing: this version's members are still to be deleted
//!          "remove" ‖ version(8)                          database(1) ‖ length(4) ‖ key ‖ what is to remain of a
//!                                                         collection, of which the rest is being removed
//!          "library" ‖ 0(1) ‖ name                        the code of a function library (first shard only)
//!
//! record   tag(1) ‖ [deadline(8, Unix ms)] ‖ [entry(8, Unix ms)] ‖ [version(8)] ‖ payload
//! tag      bits 0–3 type │ bit 4 a deadline follows │ bit 5 a version follows │ bit 6 edited in place │ bit 7 an entry
//!          follows: where expiry has the key, earlier than it is due
//! payload  a string's bytes; a string in chunks: its length(8); a collection's count(8) ‖ what its type adds; a packed
//!          hash's or set's, which has no version: count(1) ‖ for each field or member as they were added, as data would
//!          have it: length(v) ‖ it ‖ length(v) ‖ value
//!
//! string   in data,  chunk number(4) → up to 4096 bytes: what is missing at its end is zeros
//! hash     in meta, after the count: nothing while no field has a deadline, else
//!            earliest(8) ‖ latest(8) deadline ‖ fields with one(8); then the order of names, as a set has it
//!          in data,  field → twice its number and two, and one if a deadline follows(v) ‖ [deadline(8, Unix ms)] ‖
//!                    value; or, as version 2 has it, number(8, the first of them 0) ‖ 1 if a deadline follows ‖ the same
//!          in score, 0xff ‖ deadline(8) ‖ field → nothing, for each field with a deadline
//!                    the nodes of a counted tree of the names in data, as a sorted set has them of its order
//!
//! list     in meta, after the count: head(8), the position of the first element
//!          in data,  position(8) → element, for positions from head to before head + count
//! set      in meta, after the count: nothing while the next number is the count, else
//!            next number(8) ‖ [levels(1) ‖ root node(8) ‖ next new node(8)]
//!          in data,  member → number and one(v), or, as version 2 has it, number(8, the first of them 0): members that
//!                    were added later have greater ones
//!          in score, the nodes of a counted tree, as a hash
//!
//! sorted   in data,  member → score(8, IEEE 754 bits)
//! set      in score, 0(1) ‖ ordered score(8) ‖ member → nothing
//!                    1(1) ‖ node(8) → children: child(v) ‖ bound length(v) ‖ bound, for each
//!                    2(1) ‖ node(8) → counts: members below(v), for each child
//!          in meta, after the count: nothing, or levels(1) ‖ [root node(8) ‖ next new node(8)] ‖ lowest length(1) ‖
//!          lowest ‖ end
//! ```
//!
//! The writes of a redo record, each with a database's *number* as SELECT takes it:
//!
//! ```text
//! 0xfe ‖ length(4) ‖ generation(8) ‖ physical database(1) × 16    the numbers are by this map, unless there is a newer one
//! 0 ‖ database(1) ‖ length(4) ‖ key ‖ value               the record of a key
//! 0xff ‖ database(1), 0xff: all                           all keys are deleted, before what follows
//! 1 or 2 ‖ database(1) ‖ length(4) ‖ key ‖ version(8) ‖ length(4) ‖ member ‖ value     a member in data or score
//! value: 0, for none │ 1 ‖ length(4) ‖ bytes
//! ```
//!
//! A stream's record adds to the count of its entries
//!
//! ```text
//! last id(16) ‖ first id(16) ‖ greatest deleted id(16) ‖ entries ever added(8) ‖ consumer groups(8) ‖ [nodes]
//! nodes     stored nodes(8) ‖ the last node: first id(16) ‖ node ‖ its entries that are left(4)
//!           ‖ the first node: last id(16) ‖ its entries that are left(4, 0: not counted)
//! node      last id(16) ‖ entries(4) ‖ bytes in Redis's encoding(4) ‖ hash of the field names(8)
//! ```
//!
//! an id being milliseconds(8) ‖ sequence(8). Its members are all in `data` and begin with a tag:
//!
//! ```text
//! member                                                  value
//! 0 ‖ id(16)                                              (length(LEB128) ‖ bytes) for each field and value by turns
//! 1 ‖ group                                               last delivered id(16) ‖ bound below all pending ids(16) ‖
//!                                                         greatest id ever pending(16) ‖ entries read(8, all ones: unknown) ‖
//!                                                         pending(8) ‖ released since the bound was found(8) ‖ consumers(8)
//! 2 ‖ length(4) ‖ group ‖ id(16)                          delivered at(8, Unix ms) ‖ deliveries(8) ‖ consumer
//! 3 ‖ length(4) ‖ group ‖ consumer                        seen at(8, Unix ms) ‖ active at(8, Unix ms, 0: never) ‖ pending(8)
//! 4 ‖ length(4) ‖ group ‖ length(4) ‖ consumer ‖ id(16)   nothing: the pending entries by consumer
//! 5 ‖ first id(16)                                        a node that is not the last: entries that Redis has in one listpack,
//!                                                         which `MAXLEN ~` and `MINID ~` take as a whole
//! ```
//!
//! A string that was changed in place and is long has a version and lies in chunks, of which those that are all zeros
//! may be missing: to set a bit of a bitmap of 512 MB is to write one chunk. A string without a version lies in its
//! record. (v): seven bits a byte, the lowest first, bit 7 set in all but the last. The nodes are the counted tree of
//! `commands::sorted_sets::counted_tree`; its two numbers are there if it has levels. Between `lowest` and before `end`
//! (if it is not empty) lie all keys of members, so that walks need not look beyond.
//!
//! An ordered score has the sign bit flipped, and all other bits too if the number is negative, so that byte order is
//! number order from −∞ to +∞. −0 is stored as 0.
//! A record is due, for the sweep, at its deadline or at the first one of a hash's fields, whichever comes first. A key
//! that becomes due later keeps its entry in `expiry`, so that a session whose deadline is put off with each use costs
//! no more than its record; the sweep moves the entry when it comes to it.
//! "Edited in place" is what `OBJECT ENCODING` calls `raw` whatever the length (after APPEND or SETRANGE, as in Redis).
//! The database of a prefix is the *physical* one: SWAPDB exchanges numbers in the `databases` record and moves no key.

use crate::slots::Slot;
use std::fmt;

/// The version of this layout and of the directory around it, written to the manifest. In version 1 each shard had a
/// log of RocksDB's; in version 2 the numbers of fields and of a set's members had eight bytes, and are still read; up to
/// version 3 the entries of `expiry` were always where their keys were due; up to version 4 no collection was packed.
pub const FORMAT_VERSION: u32 = 5;

/// The earliest version whose directories are opened; they are of [`FORMAT_VERSION`] from then on.
pub const FORMAT_VERSION_MIN: u32 = 2;

/// The number of databases that SELECT can name, as Redis's default.
pub const DATABASE_COUNT: usize = 16;

/// Bytes before the user key in `meta`: database and slot.
pub const PREFIX_LEN: usize = 3;

/// Bytes before the prefix in `expiry`: the deadline.
pub const DEADLINE_LEN: usize = 8;

/// Bytes of a chunk of a string: what setting one bit writes. Smaller ones would cost a reader of the whole string
/// more, as each has a key of its own.
pub const STRING_CHUNK_LEN: usize = 4096;

/// The longest string, whatever `proto-max-bulk-len` says.
pub const STRING_LEN_MAX: usize = 512 << 20;

/// The longest string that stays in its record when it is changed in place. Beyond, writing it again for each change
/// costs more than reading it in chunks.
pub const WHOLE_STRING_LEN_MAX: usize = 4 * STRING_CHUNK_LEN;

const TYPE_MASK: u8 = 0x0f;
const HAS_DEADLINE: u8 = 1 << 4;
const HAS_VERSION: u8 = 1 << 5;
const EDITED: u8 = 1 << 6;
const HAS_ENTRY: u8 = 1 << 7;

const RECORD_HEADER_LEN_MAX: usize = 1 + 8 + 8;

/// A key's type, as stored in the low bits of a record's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// A string: the payload is its bytes, or its length if it lies in chunks.
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
    /// How many types there are.
    pub const COUNT: usize = 6;

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
    /// What tells a collection from an earlier one under the same name; 0 for strings, unless they lie in chunks, and
    /// for [packed](super::packed) collections.
    pub version: u64,
    /// Whether a string was changed in place (APPEND, SETRANGE).
    pub edited: bool,
    /// A string's bytes (its length, if it lies in chunks), a collection's counters (if it is packed, its cells, too).
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

    /// Whether this is a string whose bytes lie in chunks, and not in the payload.
    #[inline]
    pub fn is_in_chunks(&self) -> bool {
        self.kind == Type::String && self.version != 0
    }

    /// A string's length in bytes; `None` if the record is damaged.
    pub fn string_len(&self) -> Option<usize> {
        if !self.is_in_chunks() {
            return Some(self.payload.len());
        }
        let len = <[u8; 8]>::try_from(self.payload).ok()?;
        let len = usize::try_from(u64::from_be_bytes(len)).ok()?;
        (len <= STRING_LEN_MAX).then_some(len)
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
        number(tag & HAS_ENTRY != 0)?;
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

    /// Whether the key is still there at `now_ms` (Unix milliseconds); Redis expires a key once now is past its
    /// deadline. A hash is gone with its last field, too.
    #[inline]
    pub fn is_alive(&self, now_ms: u64) -> bool {
        (self.deadline_ms == 0 || now_ms <= self.deadline_ms)
            && (self.kind != Type::Hash || self.version == 0 || self.has_living_field(now_ms))
    }

    /// The fields of a packed hash have no deadlines.
    fn first_field_deadline(&self) -> u64 {
        if self.version == 0 {
            return 0;
        }
        let extra = self.payload.split_first_chunk::<8>().map(|(_, extra)| extra);
        let deadlines = extra.and_then(FieldDeadlines::decode).unwrap_or_default();
        deadlines.earliest_ms
    }

    fn has_living_field(&self, now_ms: u64) -> bool {
        let end_ms = FieldDeadlines::end_of_hash(self.payload);
        end_ms == 0 || now_ms <= end_ms
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

/// When the sweep has to look at a stored record: at its deadline or at the first one of a hash's fields, whichever
/// comes first; 0 for never (or for bytes that are no record).
#[inline]
pub fn due_of(record: &[u8]) -> u64 {
    let is_hash = record.first().is_some_and(|tag| tag & TYPE_MASK == Type::Hash as u8);
    match is_hash {
        true => Record::decode(record).map_or(0, |record| match (record.deadline_ms, record.first_field_deadline()) {
            (deadline_ms, 0) | (0, deadline_ms) => deadline_ms,
            (of_key, of_field) => of_key.min(of_field),
        }),
        false => deadline_of(record),
    }
}

/// Where `expiry` has the key of a stored record: when the record is due, or earlier; 0 for nowhere.
#[inline]
pub fn entry_of(record: &[u8]) -> u64 {
    match has_entry(record) {
        true => {
            let rest = &record[behind_deadline(record[0])..];
            rest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        }
        false => due_of(record),
    }
}

/// Whether a stored record says that `expiry` has its key earlier than it is due.
#[inline]
pub fn has_entry(record: &[u8]) -> bool {
    record
        .first()
        .is_some_and(|tag| tag & HAS_ENTRY != 0 && record.len() >= behind_deadline(*tag))
}

/// Writes a stored record into `out`, which is cleared first, with another entry: one that is earlier than the record
/// is due, or none.
pub fn with_entry(record: &[u8], entry_ms: Option<u64>, out: &mut Vec<u8>) {
    out.clear();
    let Some(tag) = record.first() else { return };
    let (head, rest) = record.split_at(behind_deadline(*tag).min(record.len()));
    let rest = if has_entry(record) {
        rest.get(8..).unwrap_or_default()
    } else {
        rest
    };
    out.reserve(record.len() + 8);
    out.extend_from_slice(head);
    out[0] = tag & !HAS_ENTRY;
    if let Some(entry_ms) = entry_ms {
        out[0] |= HAS_ENTRY;
        out.extend_from_slice(&entry_ms.to_be_bytes());
    }
    out.extend_from_slice(rest);
}

/// Where in a stored record that begins with `tag` its deadline ends, if it has one.
#[inline]
fn behind_deadline(tag: u8) -> usize {
    if tag & HAS_DEADLINE != 0 { 1 + 8 } else { 1 }
}

/// Whether a stored record is a string's whose bytes lie in chunks, without decoding it.
#[inline]
pub fn is_in_chunks(record: &[u8]) -> bool {
    record
        .first()
        .is_some_and(|tag| tag & (TYPE_MASK | HAS_VERSION) == Type::String as u8 | HAS_VERSION)
}

/// Whether a stored record has members under a version, without decoding it.
#[inline]
pub fn has_members(record: &[u8]) -> bool {
    record.first().is_some_and(|tag| tag & HAS_VERSION != 0)
}

/// The version in a stored record without decoding the rest; `None` if it has none.
#[inline]
pub fn version_of(record: &[u8]) -> Option<u64> {
    let (tag, rest) = record.split_first()?;
    let rest = if tag & HAS_DEADLINE != 0 { rest.get(8..)? } else { rest };
    let rest = if tag & HAS_ENTRY != 0 { rest.get(8..)? } else { rest };
    let version = rest.first_chunk().filter(|_| tag & HAS_VERSION != 0)?;
    Some(u64::from_be_bytes(*version))
}

/// The member under which a chunk of a string lies in `data`.
#[inline]
pub fn chunk_member(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// The number of the chunk that lies under a member; `None` if it is not a chunk's.
pub fn chunk_number(member: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(member).ok().map(u32::from_be_bytes)
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

/// What all members of the version begin with that owns a key of `data` or `score`; `None` if the bytes are not such a
/// key.
pub fn version_prefix(bytes: &[u8]) -> Option<&[u8]> {
    let (len, _) = bytes.get(PREFIX_LEN..)?.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    bytes.get(..PREFIX_LEN.checked_add(4)?.checked_add(len)?.checked_add(8)?)
}

/// What all members of a version begin with that belongs to a key of `meta`.
pub fn members_of_version(meta_key: &[u8], version: u64) -> Option<Vec<u8>> {
    let (database, slot, key) = split_meta_key(meta_key)?;
    Some(member_key(database, slot, key, version, b""))
}

/// What the keys of dead versions begin with in `system`.
const DEAD_VERSION: &[u8] = b"dead";

/// The key of `system` that says that the members of a version are still to be deleted: those of a key of `meta`.
pub fn dead_version_key(meta_key: &[u8], version: u64) -> Option<Vec<u8>> {
    let (database, slot, key) = split_meta_key(meta_key)?;
    Some([DEAD_VERSION, &member_key(database, slot, key, version, b"")].concat())
}

/// What the members begin with that a key of `system` names; `None` if it is another key.
pub fn prefix_of_dead_version(bytes: &[u8]) -> Option<&[u8]> {
    let prefix = bytes.strip_prefix(DEAD_VERSION)?;
    (version_prefix(prefix)? == prefix).then_some(prefix)
}

/// The range of `system` that holds the dead versions: from the first key to before the second.
pub fn dead_version_range() -> (Vec<u8>, Vec<u8>) {
    (DEAD_VERSION.to_vec(), after_prefix(DEAD_VERSION.to_vec()))
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
    let len = u32::try_from(key.len()).expect("a request is shorter than 4 GiB, and so is a key");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(member);
}

/// What a key of `data` or `score` has before the member; `None` if the bytes are not such a key.
pub fn before_member(bytes: &[u8]) -> Option<&[u8]> {
    let (len, _) = bytes.get(PREFIX_LEN..)?.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    bytes.get(..PREFIX_LEN + 4 + len + 8)
}

/// The first key that is greater than another.
pub fn first_behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
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

// ---- Hashes ----

/// Flag of a hash's field, beside its number: a deadline follows.
const FIELD_HAS_DEADLINE: u64 = 1;

/// Fields are counted from 0 and one by one: no number ever needs all bits.
const FIELD_NUMBER_MAX: u64 = (u64::MAX >> 1) - 1;

/// What the index of a hash's field deadlines begins with.
const FIELD_DEADLINE_INDEX: u8 = 0xff;

/// The stored form of a hash's field in `data`, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashField<'a> {
    /// Greater than those of the fields that were added before.
    pub number: u64,
    /// When it expires, in Unix milliseconds; 0 for never.
    pub deadline_ms: u64,
    /// The field's value.
    pub value: &'a [u8],
}

impl<'a> HashField<'a> {
    /// Reads the stored form; `None` if the bytes are not one.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Option<HashField<'a>> {
        let mut rest = bytes;
        let head = match bytes.split_first_chunk::<8>() {
            // No number is stored as 0 since version 3, and those before are far below 2^56.
            Some((number @ [0, ..], [flag @ (0 | 1), behind @ ..])) => {
                rest = behind;
                (u64::from_be_bytes(*number) + 1) << 1 | u64::from(*flag)
            }
            _ => take_varint(&mut rest)?,
        };
        let number = (head >> 1).checked_sub(1)?;
        let (deadline_ms, value) = match head & FIELD_HAS_DEADLINE {
            0 => (0, rest),
            _ => {
                let (deadline, value) = rest.split_first_chunk::<8>()?;
                (u64::from_be_bytes(*deadline), value)
            }
        };
        Some(HashField {
            number,
            deadline_ms,
            value,
        })
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.number <= FIELD_NUMBER_MAX, "fields are counted one by one");
        let mut out = Vec::with_capacity(8 + 8 + self.value.len());
        let flags = if self.deadline_ms == 0 { 0 } else { FIELD_HAS_DEADLINE };
        put_varint(&mut out, (self.number + 1) << 1 | flags);
        if self.deadline_ms != 0 {
            out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        }
        out.extend_from_slice(self.value);
        out
    }

    /// Whether the field is still there at `now_ms` (Unix milliseconds).
    #[inline]
    pub fn is_alive(&self, now_ms: u64) -> bool {
        self.deadline_ms == 0 || now_ms <= self.deadline_ms
    }
}

/// What a hash's record says of its fields' deadlines; all 0 while no field has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldDeadlines {
    /// The first deadline, in Unix milliseconds.
    pub earliest_ms: u64,
    /// The last deadline, in Unix milliseconds.
    pub latest_ms: u64,
    /// How many fields have one.
    pub fields: u64,
}

impl FieldDeadlines {
    /// Reads what follows the count in a hash's record; `None` if the bytes are not that.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Option<FieldDeadlines> {
        let (deadlines, _) = split_hash_extra(bytes)?;
        let Some(numbers) = deadlines else {
            return Some(FieldDeadlines::default());
        };
        let (numbers, _) = numbers.as_chunks::<8>();
        let [earliest_ms, latest_ms, fields] = <[[u8; 8]; 3]>::try_from(numbers).ok()?.map(u64::from_be_bytes);
        Some(FieldDeadlines {
            earliest_ms,
            latest_ms,
            fields,
        })
    }

    /// The stored form: empty while no field has a deadline.
    pub fn encode(&self) -> Vec<u8> {
        if self.fields == 0 {
            return Vec::new();
        }
        [self.earliest_ms, self.latest_ms, self.fields]
            .map(u64::to_be_bytes)
            .concat()
    }

    /// When the last field of a hash expires, by what follows the tag's numbers in its record; 0 if one never does.
    fn end_of_hash(payload: &[u8]) -> u64 {
        let Some((count, extra)) = payload.split_first_chunk::<8>() else {
            return 0;
        };
        match FieldDeadlines::decode(extra) {
            Some(deadlines) if deadlines.fields != 0 && deadlines.fields == u64::from_be_bytes(*count) => {
                deadlines.latest_ms
            }
            _ => 0,
        }
    }
}

/// The key in `score`, below its hash, of a field's deadline. Fields in the order of their deadlines lie from
/// `field_deadline_key(0, b"")` on.
pub fn field_deadline_key(deadline_ms: u64, field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + 8 + field.len());
    out.push(FIELD_DEADLINE_INDEX);
    out.extend_from_slice(&deadline_ms.to_be_bytes());
    out.extend_from_slice(field);
    out
}

/// The deadline (Unix milliseconds) and the field that such a key names; `None` for another key of `score`.
pub fn split_field_deadline_key(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (deadline, field) = rest.split_first_chunk::<8>()?;
    (first == FIELD_DEADLINE_INDEX).then_some((u64::from_be_bytes(*deadline), field))
}

/// Bytes of the deadlines in a hash's record.
const DEADLINES_LEN: usize = 3 * 8;

/// What follows the count in a hash's record: its deadlines, if any, and the order of its fields' names. Their lengths
/// tell them apart.
#[inline]
fn split_hash_extra(bytes: &[u8]) -> Option<(Option<&[u8; DEADLINES_LEN]>, &[u8])> {
    if NameOrder::LENGTHS.contains(&bytes.len()) {
        return Some((None, bytes));
    }
    let (deadlines, order) = bytes.split_first_chunk()?;
    NameOrder::LENGTHS
        .contains(&order.len())
        .then_some((Some(deadlines), order))
}

/// What the record of a set or a hash says of the order of its members' or fields' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameOrder {
    /// The number that the next new name gets: greater than all others'.
    pub next_number: u64,
    /// The counted tree of the names, if there is one.
    pub tree: Option<TreeRoot>,
}

impl NameOrder {
    const LENGTHS: [usize; 3] = [0, 8, 8 + 1 + 8 + 8];

    /// Reads it of a set's record, from what follows the count, which is `count`; `None` if the bytes are not that.
    #[inline]
    pub fn of_set(extra: &[u8], count: u64) -> Option<NameOrder> {
        let Some((next_number, rest)) = extra.split_first_chunk() else {
            return extra.is_empty().then_some(NameOrder {
                next_number: count,
                tree: None,
            });
        };
        let tree = match rest.split_first_chunk::<8>() {
            None if rest.is_empty() => None,
            None => return None,
            Some(_) => {
                let (&levels, numbers) = rest.split_first()?;
                let (numbers, _) = numbers.as_chunks::<8>();
                let [node, next_node] = <[[u8; 8]; 2]>::try_from(numbers).ok()?.map(u64::from_be_bytes);
                Some(TreeRoot {
                    levels,
                    node,
                    next_node,
                })
            }
        };
        Some(NameOrder {
            next_number: u64::from_be_bytes(*next_number),
            tree,
        })
    }

    /// The same of a hash's record.
    #[inline]
    pub fn of_hash(extra: &[u8], count: u64) -> Option<NameOrder> {
        let (_, order) = split_hash_extra(extra)?;
        NameOrder::of_set(order, count)
    }

    /// Appends the stored form, for a record that says `count`.
    pub fn encode_into(&self, count: u64, out: &mut Vec<u8>) {
        if self.tree.is_none() && self.next_number == count {
            return;
        }
        out.extend_from_slice(&self.next_number.to_be_bytes());
        if let Some(tree) = &self.tree {
            out.push(tree.levels);
            out.extend_from_slice(&tree.node.to_be_bytes());
            out.extend_from_slice(&tree.next_node.to_be_bytes());
        }
    }
}

// ---- Lists ----

/// The position of a new list's first element: the middle, so that LPUSH may count down and RPUSH up.
pub const LIST_ORIGIN: u64 = 1 << 63;

/// What a list's record holds behind the count: the position of the first element.
pub fn list_extra(head: u64) -> [u8; 8] {
    head.to_be_bytes()
}

/// Reads [`list_extra`]; `None` if the bytes are not one, or if `count` elements have no positions from there on.
pub fn list_head(extra: &[u8], count: u64) -> Option<u64> {
    let head = u64::from_be_bytes(<[u8; 8]>::try_from(extra).ok()?);
    (head.checked_add(count).is_some() && i64::try_from(count).is_ok()).then_some(head)
}

/// The member under which `data` has a list's element.
pub fn list_member(position: u64) -> [u8; 8] {
    position.to_be_bytes()
}

// ---- Sets ----

/// The value in `data` of a set's member that has this number.
pub fn set_member(number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(VARINT_LEN_USUAL);
    put_varint(&mut out, number + 1);
    out
}

/// The number in the value of a set's member; `None` if the bytes are not such a value.
pub fn number_of_set_member(mut value: &[u8]) -> Option<u64> {
    match value.as_array::<8>() {
        // As version 2 has it.
        Some(number @ [0, ..]) => Some(u64::from_be_bytes(*number)),
        _ => take_varint(&mut value).filter(|_| value.is_empty())?.checked_sub(1),
    }
}

/// What begins a sorted set's keys in `score` that stand for members.
const SCORE_MEMBER: u8 = 0;

/// The range of `score` that holds a sorted set's members: from the first key to before the second.
pub const SCORE_MEMBERS: ([u8; 1], [u8; 1]) = ([SCORE_MEMBER], [SCORE_MEMBER + 1]);

/// A score as a number whose order is that of the scores.
pub fn ordered_score(score: f64) -> u64 {
    // −0 + 0 is 0.
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The score that an ordered one stands for.
pub fn score_of_ordered(ordered: u64) -> f64 {
    f64::from_bits(if ordered >> 63 == 1 {
        ordered ^ 1 << 63
    } else {
        !ordered
    })
}

/// The key in `score` of a sorted set's member, or where the members with an ordered score begin (an empty member).
pub fn score_key(ordered: u64, member: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 8 + member.len());
    key.push(SCORE_MEMBER);
    key.extend_from_slice(&ordered.to_be_bytes());
    key.extend_from_slice(member);
    key
}

/// The score and the member of a key in `score`; `None` if the bytes are not such a key.
pub fn split_score_key(key: &[u8]) -> Option<(f64, &[u8])> {
    let (ordered, member) = key.strip_prefix(&[SCORE_MEMBER])?.split_first_chunk::<8>()?;
    Some((score_of_ordered(u64::from_be_bytes(*ordered)), member))
}

/// The value in `data` of a sorted set's member.
pub fn score_value(score: f64) -> Vec<u8> {
    (score + 0.0).to_bits().to_be_bytes().to_vec()
}

/// The score in such a value; `None` if the bytes are not one.
pub fn split_score_value(value: &[u8]) -> Option<f64> {
    let bits = <[u8; 8]>::try_from(value).ok()?;
    Some(f64::from_bits(u64::from_be_bytes(bits)))
}

/// What begins the keys in `score` that stand for a node's children, and for their counts.
const SCORE_CHILDREN: u8 = 1;
const SCORE_COUNTS: u8 = 2;

/// Where in `score` the nodes of a sorted set's tree lie, behind its members: from the first to before the second. No
/// other type has keys there.
pub const NODES_RANGE: ([u8; 1], [u8; 1]) = ([SCORE_CHILDREN], [SCORE_COUNTS + 1]);

/// Whether a key of `score` is that of a node of a sorted set's tree.
#[inline]
pub fn is_node_key(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(SCORE_CHILDREN | SCORE_COUNTS)))
}

/// The most levels of a sorted set's tree: with blocks that are a quarter full and nodes that have four children, more
/// than 2^64 members.
pub const TREE_LEVELS_MAX: u8 = 32;

/// The keys in `score` of a node's children and of their counts.
pub fn node_keys(node: u64) -> ([u8; 9], [u8; 9]) {
    let key = |tag| {
        let mut key = [tag; 9];
        key[1..].copy_from_slice(&node.to_be_bytes());
        key
    };
    (key(SCORE_CHILDREN), key(SCORE_COUNTS))
}

/// Of a number below 2^28.
const VARINT_LEN_USUAL: usize = 4;

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The stored form of a node's children: numbers of nodes, and the keys where they begin.
pub fn encode_children<'a>(children: impl Iterator<Item = (u64, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (node, bound) in children {
        put_varint(&mut out, node);
        put_varint(&mut out, bound.len() as u64);
        out.extend_from_slice(bound);
    }
    out
}

/// The children in such a form, one after the other; damaged bytes end it, so the caller knows by their number.
pub fn children(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let node = take_varint(&mut bytes)?;
        let len = usize::try_from(take_varint(&mut bytes)?).ok()?;
        let (bound, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        Some((node, bound))
    })
}

/// The stored form of the counts of a node's children.
pub fn encode_node_counts(counts: &[u64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * counts.len());
    counts.iter().for_each(|count| put_varint(&mut out, *count));
    out
}

/// The counts in such a form; `None` if the bytes are not one.
pub fn node_counts(mut bytes: &[u8]) -> Option<Vec<u64>> {
    let mut counts = Vec::with_capacity(bytes.len() / 2 + 1);
    while !bytes.is_empty() {
        counts.push(take_varint(&mut bytes)?);
    }
    Some(counts)
}

/// What a sorted set's record has beside the count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SortedSetHeader {
    /// The set's counted tree, if the set is large enough for one.
    pub tree: Option<TreeRoot>,
    /// No member's key in `score` is below this; at most 255 bytes.
    pub lowest: Vec<u8>,
    /// All members' keys in `score` are below this, unless it is empty.
    pub end: Vec<u8>,
}

/// Where a counted tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeRoot {
    /// Nodes from the root to a block of members, at least 1.
    pub levels: u8,
    /// The root's number.
    pub node: u64,
    /// The number that the next new node gets.
    pub next_node: u64,
}

impl SortedSetHeader {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.tree {
            None if self.lowest.is_empty() && self.end.is_empty() => return out,
            None => out.push(0),
            Some(tree) => {
                out.push(tree.levels);
                out.extend_from_slice(&tree.node.to_be_bytes());
                out.extend_from_slice(&tree.next_node.to_be_bytes());
            }
        }
        let lowest_len = u8::try_from(self.lowest.len()).expect("the lowest key is cut to fit");
        out.push(lowest_len);
        out.extend_from_slice(&self.lowest);
        out.extend_from_slice(&self.end);
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(bytes: &[u8]) -> Option<SortedSetHeader> {
        let Some((&levels, mut rest)) = bytes.split_first() else {
            return Some(SortedSetHeader::default());
        };
        let mut number = || {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_be_bytes(*head))
        };
        let tree = match levels {
            0 => None,
            1..=TREE_LEVELS_MAX => Some(TreeRoot {
                levels,
                node: number()?,
                next_node: number()?,
            }),
            _ => return None,
        };
        let (&lowest_len, rest) = rest.split_first()?;
        let (lowest, end) = rest.split_at_checked(usize::from(lowest_len))?;
        Some(SortedSetHeader {
            tree,
            lowest: lowest.to_vec(),
            end: end.to_vec(),
        })
    }
}

/// The key in `system` of the newest version that a collection was given.
pub const LAST_VERSION_KEY: &[u8] = b"version";

const APPLIED_PREFIX: &[u8; 8] = b"applied\0";

/// The key in `system` of the marker that a shard has applied its part of a transaction.
pub fn applied_key(id: u64) -> Vec<u8> {
    [&APPLIED_PREFIX[..], &id.to_be_bytes()].concat()
}

const REDO_PREFIX: &[u8; 4] = b"redo";

/// The key in `system` of a transaction's redo record.
pub fn redo_key(id: u64) -> Vec<u8> {
    [&REDO_PREFIX[..], &id.to_be_bytes()].concat()
}

/// The transaction whose redo record lies under a key; `None` if none does.
pub fn id_of_redo_key(key: &[u8]) -> Option<u64> {
    number_behind(REDO_PREFIX, key)
}

/// The number that a key has behind a prefix, and nothing else.
fn number_behind(prefix: &[u8], key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(prefix)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

const REMOVAL_PREFIX: &[u8; 6] = b"remove";

/// The key in `system` that says that members of a version are being removed.
pub fn removal_key(version: u64) -> Vec<u8> {
    [&REMOVAL_PREFIX[..], &version.to_be_bytes()].concat()
}

/// The version of which members are being removed, as a key says; `None` if it is another key.
pub fn version_of_removal_key(key: &[u8]) -> Option<u64> {
    number_behind(REMOVAL_PREFIX, key)
}

/// Function libraries lie in `system` from here (inclusive) to the second (exclusive).
pub const LIBRARIES_RANGE: (&[u8], &[u8]) = (b"library\0", b"library\x01");

/// The key in `system` of a function library.
pub fn library_key(name: &str) -> Vec<u8> {
    [LIBRARIES_RANGE.0, name.as_bytes()].concat()
}

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

    /// The id's first part, Unix milliseconds if the server made it.
    pub fn ms(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The id's second part, which tells entries of one millisecond apart.
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

/// What the members of a stream's nodes begin with; the id of the first entry follows.
pub const STREAM_NODE_PREFIX: &[u8] = &[5];

/// The member of a node of a stream.
pub fn stream_node_member(first: StreamId) -> Vec<u8> {
    [STREAM_NODE_PREFIX, &first.0.to_be_bytes()].concat()
}

/// A name behind its length, which lets no name be the beginning of another one.
fn counted(name: &[u8]) -> Vec<u8> {
    let len = u32::try_from(name.len()).expect("a request is shorter than 4 GiB, and so is a name");
    [&len.to_be_bytes()[..], name].concat()
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
    /// How its entries are divided into nodes.
    pub nodes: StreamNodes,
}

/// Entries of a stream that Redis has in one listpack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamNode {
    /// The id of the first entry that was added to it, which may be deleted.
    pub first: StreamId,
    /// The id of the last one.
    pub last: StreamId,
    /// How many were added, deleted ones among them; 0 for no node.
    pub entries: u32,
    /// The bytes of the listpack.
    pub bytes: u32,
    /// A hash of the first entry's field names: entries with the same ones do not repeat them.
    pub fields: u64,
}

impl StreamNode {
    /// The stored form, without the first id.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.last.0.to_be_bytes().to_vec();
        out.extend_from_slice(&self.entries.to_be_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.extend_from_slice(&self.fields.to_be_bytes());
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(first: StreamId, mut bytes: &[u8]) -> Option<StreamNode> {
        let node = StreamNode::take(first, &mut bytes)?;
        bytes.is_empty().then_some(node)
    }

    fn take(first: StreamId, bytes: &mut &[u8]) -> Option<StreamNode> {
        Some(StreamNode {
            first,
            last: take_id(bytes)?,
            entries: take_short_number(bytes)?,
            bytes: take_short_number(bytes)?,
            fields: take_number(bytes)?,
        })
    }
}

/// What a stream's record says of its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamNodes {
    /// How many nodes are stored as members: all but the last, those among them whose entries have all been deleted.
    pub stored: u64,
    /// The last node, to which entries are added, if there is one.
    pub tail: StreamNode,
    /// How many of its entries are there.
    pub tail_left: u32,
    /// The last id of the first stored node, if its entries were counted.
    pub head_last: StreamId,
    /// How many of its entries are there; 0 if they were not counted.
    pub head_left: u32,
}

impl StreamNumbers {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(152);
        for id in [self.last, self.first, self.deleted_max] {
            out.extend_from_slice(&id.0.to_be_bytes());
        }
        for number in [self.entries_added, self.groups] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        let nodes = &self.nodes;
        if *nodes != StreamNodes::default() {
            out.extend_from_slice(&nodes.stored.to_be_bytes());
            out.extend_from_slice(&nodes.tail.first.0.to_be_bytes());
            out.extend_from_slice(&nodes.tail.encode());
            out.extend_from_slice(&nodes.tail_left.to_be_bytes());
            out.extend_from_slice(&nodes.head_last.0.to_be_bytes());
            out.extend_from_slice(&nodes.head_left.to_be_bytes());
        }
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<StreamNumbers> {
        let mut numbers = StreamNumbers {
            last: take_id(&mut bytes)?,
            first: take_id(&mut bytes)?,
            deleted_max: take_id(&mut bytes)?,
            entries_added: take_number(&mut bytes)?,
            groups: take_number(&mut bytes)?,
            nodes: StreamNodes::default(),
        };
        if !bytes.is_empty() {
            let stored = take_number(&mut bytes)?;
            let first = take_id(&mut bytes)?;
            numbers.nodes = StreamNodes {
                stored,
                tail: StreamNode::take(first, &mut bytes)?,
                tail_left: take_short_number(&mut bytes)?,
                head_last: take_id(&mut bytes)?,
                head_left: take_short_number(&mut bytes)?,
            };
        }
        bytes.is_empty().then_some(numbers)
    }
}

/// The value of a consumer group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamGroup {
    /// The last id that was delivered to a consumer.
    pub last: StreamId,
    /// No pending entry has a smaller id: where to begin to look for them.
    pub pending_min: StreamId,
    /// The greatest id that was ever pending: a greater one need not be looked up.
    pub pending_max: StreamId,
    /// How many entries of the stream the group has read; `None` when it cannot be known.
    pub entries_read: Option<u64>,
    /// The number of pending entries.
    pub pending: u64,
    /// How many entries have ceased to be pending since `pending_min` was found.
    pub released: u64,
    /// The number of consumers.
    pub consumers: u64,
}

impl StreamGroup {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80);
        for id in [self.last, self.pending_min, self.pending_max] {
            out.extend_from_slice(&id.0.to_be_bytes());
        }
        let read = self.entries_read.unwrap_or(u64::MAX);
        for number in [read, self.pending, self.released, self.consumers] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    /// Reads the stored form; `None` if the bytes are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<StreamGroup> {
        let group = StreamGroup {
            last: take_id(&mut bytes)?,
            pending_min: take_id(&mut bytes)?,
            pending_max: take_id(&mut bytes)?,
            entries_read: Some(take_number(&mut bytes)?).filter(|number| *number != u64::MAX),
            pending: take_number(&mut bytes)?,
            released: take_number(&mut bytes)?,
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

fn take_short_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_records_and_keys() {
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
        let chunked = Record {
            version: 3,
            payload: &0x0102_u64.to_be_bytes(),
            ..edited
        };
        assert_eq!(chunked.encode(), b"\x60\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\x01\x02");
        assert_eq!(chunk_member(0x0102), *b"\0\0\x01\x02");
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
            dead_version_key(&key, 9).as_deref(),
            Some(&b"dead\x03\x04\x05\0\0\0\x04user\0\0\0\0\0\0\0\x09"[..])
        );
    }

    #[test]
    fn golden_bytes_of_members() {
        assert_eq!(list_extra(LIST_ORIGIN - 1), *b"\x7f\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(list_member(LIST_ORIGIN + 2), *b"\x80\0\0\0\0\0\0\x02");
        assert_eq!(set_member(0x0101), b"\x82\x02");
        assert_eq!(number_of_set_member(b"\0\0\0\0\0\0\x01\x02"), Some(0x0102));
        assert_eq!(score_key(ordered_score(1.0), b"m"), b"\0\xbf\xf0\0\0\0\0\0\0m");
        assert_eq!(
            score_key(ordered_score(-1.0), b""),
            b"\0\x40\x0f\xff\xff\xff\xff\xff\xff"
        );
        assert_eq!(score_value(-1.0), b"\xbf\xf0\0\0\0\0\0\0");
        let (children_key, counts_key) = node_keys(0x0102);
        assert_eq!(&children_key, b"\x01\0\0\0\0\0\0\x01\x02");
        assert_eq!(&counts_key, b"\x02\0\0\0\0\0\0\x01\x02");
        let stored = encode_children([(0, &b""[..]), (300, b"\0ab")].into_iter());
        assert_eq!(stored, b"\0\0\xac\x02\x03\0ab");
        assert_eq!(encode_node_counts(&[5, 128]), b"\x05\x80\x01");
        let tree = TreeRoot {
            levels: 2,
            node: 3,
            next_node: 4,
        };
        let header = SortedSetHeader {
            tree: Some(tree),
            lowest: b"\0k".to_vec(),
            end: b"\0z".to_vec(),
        };
        assert_eq!(header.encode(), b"\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\x02\0k\0z");
    }

    #[test]
    fn golden_bytes_of_hash_fields_and_databases() {
        assert_eq!(
            Counts { keys: 1, expires: 2 }.encode(),
            *b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02"
        );
        let field = HashField {
            number: 1,
            deadline_ms: 0,
            value: b"v",
        };
        assert_eq!(field.encode(), b"\x04v");
        assert_eq!(HashField::decode(b"\0\0\0\0\0\0\0\x01\0v"), Some(field));
        let expiring = HashField {
            deadline_ms: 2,
            ..field
        };
        assert_eq!(expiring.encode(), b"\x05\0\0\0\0\0\0\0\x02v");
        let of_version_2 = b"\0\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0\x02v";
        assert_eq!(HashField::decode(of_version_2), Some(expiring));
        assert_eq!(FieldDeadlines::default().encode(), b"");
        let deadlines = FieldDeadlines {
            earliest_ms: 1,
            latest_ms: 2,
            fields: 3,
        };
        assert_eq!(
            deadlines.encode(),
            b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"
        );
        assert_eq!(field_deadline_key(4, b"f"), b"\xff\0\0\0\0\0\0\0\x04f");
        assert_eq!(
            DatabaseMap::default().encode(),
            b"\0\0\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
        );
    }

    #[test]
    fn golden_bytes_of_libraries() {
        let key = library_key("name");
        assert_eq!(key, b"library\0name");
        let (from, to) = LIBRARIES_RANGE;
        assert!(from < &key[..] && &key[..] < to);
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
            nodes: StreamNodes::default(),
        };
        let ids = [u128::from(1_u8) << 64 | 2, 1, 2].map(u128::to_be_bytes).concat();
        assert_eq!(
            numbers.encode(),
            [&ids[..], b"\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04"].concat()
        );
        let node = StreamNode {
            first: id,
            last: StreamId(1),
            entries: 2,
            bytes: 3,
            fields: 4,
        };
        assert_eq!(stream_node_member(id), b"\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
        let node_bytes = [&1_u128.to_be_bytes()[..], b"\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x04"].concat();
        assert_eq!(node.encode(), node_bytes);
        let nodes = StreamNodes {
            stored: 5,
            tail: node,
            tail_left: 6,
            head_last: StreamId(7),
            head_left: 8,
        };
        let with_nodes = StreamNumbers { nodes, ..numbers }.encode();
        assert_eq!(with_nodes[..numbers.encode().len()], numbers.encode());
        let nodes_bytes = [
            &5_u64.to_be_bytes()[..],
            &id.0.to_be_bytes(),
            &node_bytes,
            b"\0\0\0\x06",
            &7_u128.to_be_bytes(),
            b"\0\0\0\x08",
        ];
        assert_eq!(with_nodes[numbers.encode().len()..], nodes_bytes.concat());
        let group = StreamGroup {
            last: id,
            pending_min: StreamId(1),
            pending_max: StreamId(2),
            entries_read: None,
            pending: 1,
            released: 2,
            consumers: 3,
        };
        let counts = [u64::MAX, 1, 2, 3].map(u64::to_be_bytes).concat();
        assert_eq!(group.encode(), [&ids[..], &counts].concat());
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
                nodes: StreamNodes::default(),
            };
            assert_eq!(StreamNumbers::decode(&numbers.encode()), Some(numbers));
            let node = StreamNode {
                first: id,
                last: StreamId(3),
                entries: 1,
                bytes: u32::MAX,
                fields: 2,
            };
            assert_eq!(StreamNode::decode(id, &node.encode()), Some(node));
            let nodes = StreamNodes {
                tail: node,
                head_last: id,
                head_left: 100,
                ..StreamNodes::default()
            };
            let numbers = StreamNumbers { nodes, ..numbers };
            assert_eq!(StreamNumbers::decode(&numbers.encode()), Some(numbers));
            for entries_read in [None, Some(0), Some(i64::MAX as u64)] {
                let group = StreamGroup {
                    last: id,
                    pending_min: StreamId(8),
                    pending_max: StreamId(9),
                    entries_read,
                    pending: u64::MAX,
                    released: 6,
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
    fn records_and_scores_are_read_back() {
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
        for (version, payload, len) in [
            (0, &b"abc"[..], Some(3)),
            (7, &[0, 0, 0, 0, 0, 0, 1, 1], Some(257)),
            (7, b"abc", None),
        ] {
            let string = Record {
                version,
                ..Record::string(payload, 9)
            };
            assert_eq!((string.is_in_chunks(), string.string_len()), (version != 0, len));
            assert_eq!(is_in_chunks(&string.encode()), version != 0);
        }
        assert_eq!(chunk_number(&chunk_member(u32::MAX)), Some(u32::MAX));
        let mut before = None;
        for score in [
            f64::NEG_INFINITY,
            -1.5,
            -1.0,
            -5e-324,
            -0.0,
            5e-324,
            1.0,
            f64::MAX,
            f64::INFINITY,
        ] {
            let key = score_key(ordered_score(score), b"m");
            assert_eq!(split_score_key(&key), Some((score, &b"m"[..])));
            assert_eq!(split_score_value(&score_value(score)), Some(score));
            assert!(before < Some(key.clone()), "{score} comes after smaller numbers");
            before = Some(key);
        }
        assert_eq!(score_key(ordered_score(-0.0), b""), score_key(ordered_score(0.0), b""));
    }

    #[test]
    fn trees_of_sorted_sets_are_read_back() {
        let nodes = [(0, &b""[..]), (u64::MAX, b"\0bound"), (127, b"x")];
        let stored = encode_children(nodes.into_iter());
        assert!(children(&stored).eq(nodes));
        let counts = [0, 127, 128, 1 << 40, u64::MAX];
        assert_eq!(node_counts(&encode_node_counts(&counts)).as_deref(), Some(&counts[..]));
        let tree = TreeRoot {
            levels: TREE_LEVELS_MAX,
            node: u64::MAX,
            next_node: 7,
        };
        for tree in [None, Some(tree)] {
            for lowest in [b"".to_vec(), b"\0lowest".to_vec()] {
                for end in [b"".to_vec(), b"\0end".to_vec()] {
                    let lowest = lowest.clone();
                    let header = SortedSetHeader { tree, lowest, end };
                    assert_eq!(SortedSetHeader::decode(&header.encode()), Some(header));
                }
            }
        }
    }

    #[test]
    fn members_and_fields_are_read_back() {
        let member = member_key(1, Slot(2), b"key", 3, b"member");
        assert_eq!(owner_of_member(&member), Some((b"\x01\0\x02key".to_vec(), 3)));
        for head in [0, LIST_ORIGIN, u64::MAX] {
            assert_eq!(list_head(&list_extra(head), 0), Some(head));
        }
        for (extra, count) in [(u64::MAX, 1), (0, u64::MAX)] {
            assert_eq!(list_head(&list_extra(extra), count), None);
        }
        assert_eq!(number_of_set_member(&set_member(u64::MAX - 1)), Some(u64::MAX - 1));
        let map = DatabaseMap::default();
        assert_eq!(DatabaseMap::decode(&map.encode()), Some(map));
        for (number, deadline_ms, value) in [(0, 0, &b""[..]), (FIELD_NUMBER_MAX, 1, b"\0\xff"), (7, u64::MAX, b"v")] {
            let field = HashField {
                number,
                deadline_ms,
                value,
            };
            assert_eq!(HashField::decode(&field.encode()), Some(field));
        }
        for (earliest_ms, latest_ms, fields) in [(0, 0, 0), (1, u64::MAX, 2)] {
            let deadlines = FieldDeadlines {
                earliest_ms,
                latest_ms,
                fields,
            };
            assert_eq!(FieldDeadlines::decode(&deadlines.encode()), Some(deadlines));
        }
        for field in [&b""[..], b"\xff\0"] {
            assert_eq!(
                split_field_deadline_key(&field_deadline_key(9, field)),
                Some((9, field))
            );
        }
        assert_eq!(split_field_deadline_key(&5_u64.to_be_bytes()), None);
    }

    #[test]
    fn a_hash_lives_as_long_as_its_last_field() {
        let payload = |count: u64, deadlines: FieldDeadlines| [&count.to_be_bytes()[..], &deadlines.encode()].concat();
        let alive = |payload: &[u8], now_ms| {
            Record {
                kind: Type::Hash,
                deadline_ms: 0,
                version: 1,
                edited: false,
                payload,
            }
            .is_alive(now_ms)
        };
        let deadlines = FieldDeadlines {
            earliest_ms: 10,
            latest_ms: 20,
            fields: 2,
        };
        assert!(alive(&payload(2, deadlines), 20));
        assert!(!alive(&payload(2, deadlines), 21));
        assert!(alive(&payload(3, deadlines), 21), "one field has no deadline");
        assert!(alive(&payload(1, FieldDeadlines::default()), u64::MAX));
        let due = |deadline_ms, deadlines: FieldDeadlines| {
            let hash = Record {
                kind: Type::Hash,
                deadline_ms,
                version: 1,
                edited: false,
                payload: &payload(2, deadlines),
            };
            due_of(&hash.encode())
        };
        let none = FieldDeadlines::default();
        assert_eq!(
            [
                due(0, none),
                due(5, none),
                due(0, deadlines),
                due(5, deadlines),
                due(15, deadlines)
            ],
            [0, 5, 10, 5, 10]
        );
        assert_eq!(due_of(&Record::string(b"v", 7).encode()), 7);
    }

    #[test]
    fn a_dead_version_is_known_by_what_its_members_begin_with() {
        let mut key = Vec::new();
        meta_key(&mut key, 3, Slot(4), b"user");
        let member = member_key(3, Slot(4), b"user", 9, b"member");
        let prefix = version_prefix(&member).expect("a member's key");
        assert_eq!(prefix, member_key(3, Slot(4), b"user", 9, b""));
        let dead = dead_version_key(&key, 9).expect("a key of meta");
        assert_eq!(prefix_of_dead_version(&dead), Some(prefix));
        let (from, to) = dead_version_range();
        assert!(from <= dead && dead < to);
        for other in [
            LAST_VERSION_KEY,
            DatabaseMap::KEY,
            &Counts::key(0),
            b"opened",
            &dead[..9],
        ] {
            assert_eq!(prefix_of_dead_version(other), None);
            assert!(other == &dead[..9] || other < &from[..] || other >= &to[..]);
        }
        for short in [&member[..6], &member[..prefix.len() - 1], b""] {
            assert_eq!(version_prefix(short), None);
        }
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
                Record::decode(&bytes).map(|record| record.string_len()),
                (is_in_chunks(&bytes), chunk_number(&bytes)),
                split_meta_key(&bytes),
                split_expiry_key(&bytes),
                owner_of_member(&bytes),
                (version_prefix(&bytes), prefix_of_dead_version(&bytes)),
                list_head(&bytes, state),
                number_of_set_member(&bytes),
                split_score_key(&bytes).map(|(_, member)| member.len()),
                split_score_value(&bytes),
                children(&bytes).count(),
                node_counts(&bytes),
                SortedSetHeader::decode(&bytes),
            );
            let _ = (Counts::decode(&bytes), DatabaseMap::decode(&bytes), deadline_of(&bytes));
            let _ = (
                HashField::decode(&bytes),
                FieldDeadlines::decode(&bytes),
                split_field_deadline_key(&bytes),
                due_of(&bytes),
                Record::decode(&bytes).map(|record| record.is_alive(1)),
            );
            let _ = (StreamNumbers::decode(&bytes), StreamGroup::decode(&bytes));
            let _ = (StreamConsumer::decode(&bytes), StreamPending::decode(&bytes));
            let _ = (decode_stream_entry(&bytes), StreamId::of_member(&bytes));
        }
    }
}
