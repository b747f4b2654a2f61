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
//! What each type keeps as members, behind the version, in `data` and `score`, and behind the count in its record:
//!
//! ```text
//! sorted set
//! data     member                                         score(8, IEEE 754 bits)
//! score    0(1) ‖ ordered score(8) ‖ member               nothing
//!          1(1) ‖ node(8)                                 children: child(v) ‖ bound length(v) ‖ bound, for each
//!          2(1) ‖ node(8)                                 counts: members below(v), for each child
//! record   nothing, or: levels(1) ‖ [root node(8) ‖ next new node(8)] ‖ lowest length(1) ‖ lowest ‖ end
//! ```
//!
//! (v): seven bits a byte, the lowest first, bit 7 set in all but the last. The nodes are the counted tree of
//! `commands::sorted_sets::counted_tree`; its two numbers are there if it has levels. Between `lowest` and before `end` (if
//! it is not empty) lie all keys of members, so that walks need not look beyond.
//!
//! An ordered score has the sign bit flipped, and all other bits too if the number is negative, so that byte order is
//! number order from −∞ to +∞. −0 is stored as 0.
//!
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

/// The most levels of a sorted set's tree: with blocks that are a quarter full and nodes that have four children, more than
/// 2^64 members.
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

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
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
    /// Its counted tree, if it is large enough for one.
    pub tree: Option<TreeRoot>,
    /// No member's key in `score` is below this; at most 255 bytes.
    pub lowest: Vec<u8>,
    /// All of them are below this, unless it is empty.
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
                split_score_key(&bytes).map(|(_, member)| member.len()),
                split_score_value(&bytes),
                children(&bytes).count(),
                node_counts(&bytes),
                SortedSetHeader::decode(&bytes),
            );
            let _ = (Counts::decode(&bytes), DatabaseMap::decode(&bytes), deadline_of(&bytes));
        }
    }
}
