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
//! expiry   when due(8, Unix ms) ‖ prefix ‖ user key       version(8)
//! system   "counts" ‖ database(1)                         keys(8) ‖ keys with an expiry(8)
//!          "opened"                                       Unix ms(8) of the last start (first shard only)
//!          "databases"                                    generation(8) ‖ physical database(1) × 16
//!          "version"                                      the newest version(8) of a collection
//!
//! record   tag(1) ‖ [deadline(8, Unix ms)] ‖ [version(8)] ‖ payload
//! tag      bits 0–3 type │ bit 4 a deadline follows │ bit 5 a version follows │ bit 6 edited in place
//! payload  a string's bytes; a string in chunks: its length(8); a collection's count(8) ‖ what its type adds
//!
//! string   in chunks: in data, chunk number(4) → up to 4096 bytes: what is missing at its end is zeros
//! hash     in meta, after the count: nothing while no field has a deadline, else
//!            earliest(8) ‖ latest(8) deadline ‖ fields with one(8)
//!          in data,  field → position(8) ‖ flags(1): bit 0 a deadline follows │ [deadline(8, Unix ms)] ‖ value
//!          in score, position(8) → field, for positions from 0 to the count
//!                    0xff ‖ deadline(8) ‖ field → nothing, for each field with a deadline
//! ```
//!
//! A string that was changed in place and is long has a version and lies in chunks, of which those that are all zeros may
//! be missing: to set a bit of a bitmap of 512 MB is to write one chunk. A string without a version lies in its record.
//! A record is due, for the sweep, at its deadline or at the first one of a hash's fields, whichever comes first.
//! "Edited in place" is what `OBJECT ENCODING` calls `raw` whatever the length (after APPEND or SETRANGE, as in Redis).
//! The database of a prefix is the *physical* one: SWAPDB exchanges numbers in the `databases` record and moves no key.

use crate::channel::router::Slot;

/// The version of this layout, written to the manifest; another one is refused at start.
pub const FORMAT_VERSION: u32 = 1;

/// The number of databases that SELECT can name, as Redis's default.
pub const DATABASE_COUNT: usize = 16;

/// Bytes before the user key in `meta`: database and slot.
pub const PREFIX_LEN: usize = 3;

/// Bytes before the prefix in `expiry`: the deadline.
pub const DEADLINE_LEN: usize = 8;

/// Bytes of a chunk of a string: what setting one bit writes. Smaller ones would cost a reader of the whole string more,
/// as each has a key of its own.
pub const STRING_CHUNK_LEN: usize = 4096;

/// The longest string that stays in its record when it is changed in place. Beyond, writing it again for each change costs
/// more than reading it in chunks.
pub const WHOLE_STRING_LEN_MAX: usize = 4 * STRING_CHUNK_LEN;

const TYPE_MASK: u8 = 0x0f;
const HAS_DEADLINE: u8 = 1 << 4;
const HAS_VERSION: u8 = 1 << 5;
const EDITED: u8 = 1 << 6;

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
    /// What tells a collection from an earlier one under the same name; 0 for strings, unless they lie in chunks.
    pub version: u64,
    /// Whether a string was changed in place (APPEND, SETRANGE).
    pub edited: bool,
    /// A string's bytes (its length, if it lies in chunks), a collection's counters.
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
        usize::try_from(u64::from_be_bytes(len)).ok()
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
    /// A hash is gone with its last field, too.
    #[inline]
    pub fn is_alive(&self, now_ms: u64) -> bool {
        (self.deadline_ms == 0 || now_ms <= self.deadline_ms)
            && (self.kind != Type::Hash || self.has_living_field(now_ms))
    }

    fn first_field_deadline(&self) -> u64 {
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

/// Whether a stored record is a string's whose bytes lie in chunks, without decoding it.
#[inline]
pub fn is_in_chunks(record: &[u8]) -> bool {
    record
        .first()
        .is_some_and(|tag| tag & (TYPE_MASK | HAS_VERSION) == Type::String as u8 | HAS_VERSION)
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

// ---- Hashes ----

/// Flag of a hash's field: a deadline follows.
const FIELD_HAS_DEADLINE: u8 = 1;

/// What the index of a hash's field deadlines begins with, behind all positions.
const FIELD_DEADLINE_INDEX: u8 = 0xff;

/// The stored form of a hash's field in `data`, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashField<'a> {
    /// Its place among the hash's fields, from 0 to before their count.
    pub position: u64,
    /// When it expires, in Unix milliseconds; 0 for never.
    pub deadline_ms: u64,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> HashField<'a> {
    /// Reads the stored form; `None` if the bytes are not one.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Option<HashField<'a>> {
        let (position, rest) = bytes.split_first_chunk::<8>()?;
        let (deadline_ms, value) = match rest.split_first()? {
            (0, value) => (0, value),
            (&FIELD_HAS_DEADLINE, rest) => {
                let (deadline, value) = rest.split_first_chunk::<8>()?;
                (u64::from_be_bytes(*deadline), value)
            }
            _ => return None,
        };
        Some(HashField {
            position: u64::from_be_bytes(*position),
            deadline_ms,
            value,
        })
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 1 + 8 + self.value.len());
        out.extend_from_slice(&self.position.to_be_bytes());
        if self.deadline_ms == 0 {
            out.push(0);
        } else {
            out.push(FIELD_HAS_DEADLINE);
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
        if bytes.is_empty() {
            return Some(FieldDeadlines::default());
        }
        let (earliest, rest) = bytes.split_first_chunk::<8>()?;
        let (latest, fields) = rest.split_first_chunk::<8>()?;
        Some(FieldDeadlines {
            earliest_ms: u64::from_be_bytes(*earliest),
            latest_ms: u64::from_be_bytes(*latest),
            fields: u64::from_be_bytes(<[u8; 8]>::try_from(fields).ok()?),
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
            Counts { keys: 1, expires: 2 }.encode(),
            *b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02"
        );
        let field = HashField {
            position: 1,
            deadline_ms: 0,
            value: b"v",
        };
        assert_eq!(field.encode(), b"\0\0\0\0\0\0\0\x01\0v");
        let expiring = HashField {
            deadline_ms: 2,
            ..field
        };
        assert_eq!(expiring.encode(), b"\0\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0\x02v");
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
        let member = member_key(1, Slot(2), b"key", 3, b"member");
        assert_eq!(owner_of_member(&member), Some((b"\x01\0\x02key".to_vec(), 3)));
        let map = DatabaseMap::default();
        assert_eq!(DatabaseMap::decode(&map.encode()), Some(map));
        for (position, deadline_ms, value) in [(0, 0, &b""[..]), (u64::MAX, 1, b"\0\xff"), (7, u64::MAX, b"v")] {
            let field = HashField {
                position,
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
            );
            let _ = (Counts::decode(&bytes), DatabaseMap::decode(&bytes), deadline_of(&bytes));
            let _ = (
                HashField::decode(&bytes),
                FieldDeadlines::decode(&bytes),
                split_field_deadline_key(&bytes),
                due_of(&bytes),
                Record::decode(&bytes).map(|record| record.is_alive(1)),
            );
        }
    }
}
