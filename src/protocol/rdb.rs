//! Values as DUMP and RESTORE carry them: Redis's RDB encoding of one value, its version and a checksum.
//!
//! ```text
//! payload  type(1) ‖ value ‖ RDB version(2, little endian) ‖ CRC-64/Redis(8, little endian) of all before
//! ```
//!
//! Values are written in the plain encodings that every Redis reads (streams in listpacks, which are their only one),
//! and read in all encodings that Redis 2.6 to 7.2 writes: plain, ziplist, listpack, intset, quicklist, compressed
//! strings. Source: Redis's rdb.c, listpack.c, ziplist.c, intset.c and t_stream.c describe them; a zipmap (before 2.6)
//! and module types are refused.

mod functions;

pub use functions::{LibrariesError, dump_libraries, restore_libraries};

use crc::{CRC_64_REDIS, Crc, Table};

const CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// The version that is written: Redis 7.0's, so that it and all later ones accept it.
const VERSION_WRITTEN: u16 = 10;
/// The newest version that is read: Redis 7.2's.
const VERSION_READ_MAX: u16 = 11;

/// Version and checksum.
const FOOTER_LEN: usize = 2 + 8;

/// Entries of a stream per listpack, as Redis's `stream-node-max-entries`.
const STREAM_NODE_ENTRIES_MAX: usize = 100;

/// Bytes of a stream per listpack, as Redis's `stream-node-max-bytes`.
const STREAM_NODE_BYTES_MAX: usize = 4096;

/// The longest string that is decompressed: Redis's limit for any.
const STRING_BYTES_MAX: usize = 512 << 20;

/// A stream's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// Unix milliseconds.
    pub ms: u64,
    /// The number among the ids of that millisecond.
    pub sequence: u64,
}

/// A field or member and what belongs to it.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A value of any type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    String(Vec<u8>),
    /// A list, from its head.
    List(Vec<Vec<u8>>),
    /// A set, in any order.
    Set(Vec<Vec<u8>>),
    /// A hash's fields and values, in any order.
    Hash(Vec<Pair>),
    /// A sorted set's members and scores, in any order.
    SortedSet(Vec<(Vec<u8>, f64)>),
    /// A stream.
    Stream(Box<Stream>),
}

/// A stream with its groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    /// Entries in the order of their ids, each with its fields.
    pub entries: Vec<(StreamId, Vec<Pair>)>,
    /// The id of the newest entry that ever was.
    pub last_id: StreamId,
    /// The highest id that was deleted.
    pub max_deleted_id: StreamId,
    /// Entries that were ever added.
    pub entries_added: u64,
    /// Consumer groups.
    pub groups: Vec<StreamGroup>,
}

/// A consumer group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamGroup {
    /// The name.
    pub name: Vec<u8>,
    /// The last id that was delivered.
    pub last_id: StreamId,
    /// Entries that were read; `None` if that is not known.
    pub entries_read: Option<u64>,
    /// The consumers.
    pub consumers: Vec<StreamConsumer>,
    /// Entries that were delivered and not acknowledged, in the order of their ids.
    pub pending: Vec<StreamPending>,
}

/// A consumer of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamConsumer {
    /// The name.
    pub name: Vec<u8>,
    /// When it last tried to read, Unix milliseconds.
    pub seen_ms: u64,
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamPending {
    /// The entry.
    pub id: StreamId,
    /// When it was delivered last, Unix milliseconds.
    pub delivered_ms: u64,
    /// How often it was delivered.
    pub deliveries: u64,
    /// The consumer to whom it was delivered, by its index in the group's list.
    pub consumer: usize,
}

/// Why a payload cannot be read; the texts are RESTORE's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// The payload is cut, altered, or of a newer version.
    #[error("ERR DUMP payload version or checksum are wrong")]
    Footer,
    /// The payload's content makes no sense.
    #[error("ERR Bad data format")]
    Format,
}

mod tag {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    pub(super) const SORTED_SET: u8 = 3;
    pub(super) const HASH: u8 = 4;
    pub(super) const SORTED_SET_2: u8 = 5;
    pub(super) const LIST_ZIPLIST: u8 = 10;
    pub(super) const SET_INTSET: u8 = 11;
    pub(super) const SORTED_SET_ZIPLIST: u8 = 12;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_QUICKLIST: u8 = 14;
    pub(super) const STREAM_LISTPACKS: u8 = 15;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const SORTED_SET_LISTPACK: u8 = 17;
    pub(super) const LIST_QUICKLIST_2: u8 = 18;
    pub(super) const STREAM_LISTPACKS_2: u8 = 19;
    pub(super) const SET_LISTPACK: u8 = 20;
    pub(super) const STREAM_LISTPACKS_3: u8 = 21;
}

/// The payload of a value.
pub fn dump(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        Value::String(bytes) => {
            out.push(tag::STRING);
            write_string(&mut out, bytes);
        }
        Value::List(elements) => write_strings(&mut out, tag::LIST, elements),
        Value::Set(members) => write_strings(&mut out, tag::SET, members),
        Value::Hash(pairs) => {
            out.push(tag::HASH);
            write_length(&mut out, pairs.len() as u64);
            for (field, value) in pairs {
                write_string(&mut out, field);
                write_string(&mut out, value);
            }
        }
        Value::SortedSet(pairs) => {
            out.push(tag::SORTED_SET_2);
            write_length(&mut out, pairs.len() as u64);
            for (member, score) in pairs {
                write_string(&mut out, member);
                out.extend_from_slice(&score.to_le_bytes());
            }
        }
        Value::Stream(stream) => {
            out.push(tag::STREAM_LISTPACKS_2);
            write_stream(&mut out, stream);
        }
    }
    finish(out)
}

/// Appends version and checksum.
fn finish(mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(&VERSION_WRITTEN.to_le_bytes());
    let checksum = CRC64.checksum(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// The bytes before version and checksum, if those are right.
fn checked_body(payload: &[u8]) -> Result<&[u8], RdbError> {
    let body_len = payload.len().checked_sub(FOOTER_LEN).ok_or(RdbError::Footer)?;
    let (body, footer) = payload.split_at(body_len);
    let version = u16::from_le_bytes([footer[0], footer[1]]);
    let (checked, checksum) = payload.split_at(body_len + 2);
    let checksum_said = u64::from_le_bytes(checksum.try_into().map_err(|_| RdbError::Footer)?);
    if version > VERSION_READ_MAX || checksum_said != CRC64.checksum(checked) {
        return Err(RdbError::Footer);
    }
    Ok(body)
}

/// The value of a payload.
///
/// # Errors
/// See [`RdbError`]; nothing that a client sends makes this panic or take more memory than a few times the payload (a
/// compressed string says how long it is, and may be some 250 times shorter).
pub fn restore(payload: &[u8]) -> Result<Value, RdbError> {
    let body = checked_body(payload)?;
    let mut reader = Reader { rest: body };
    let value = read_value(&mut reader)?;
    match reader.rest.is_empty() {
        true => Ok(value),
        false => Err(RdbError::Format),
    }
}

// ---- Writing ----

fn write_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..64 => out.push(length as u8),
        64..16384 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        _ => match u32::try_from(length) {
            Ok(length) => {
                out.push(0x80);
                out.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&length.to_be_bytes());
            }
        },
    }
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    write_length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_strings(out: &mut Vec<u8>, tag: u8, strings: &[Vec<u8>]) {
    out.push(tag);
    write_length(out, strings.len() as u64);
    strings.iter().for_each(|string| write_string(out, string));
}

fn write_stream(out: &mut Vec<u8>, stream: &Stream) {
    let nodes = stream_nodes(&stream.entries);
    write_length(out, nodes.len() as u64);
    for (first, listpack) in &nodes {
        let mut key = first.ms.to_be_bytes().to_vec();
        key.extend_from_slice(&first.sequence.to_be_bytes());
        write_string(out, &key);
        write_string(out, listpack);
    }
    let first_id = stream.entries.first().map_or(StreamId::default(), |(id, _)| *id);
    write_length(out, stream.entries.len() as u64);
    for id in [stream.last_id, first_id, stream.max_deleted_id] {
        write_length(out, id.ms);
        write_length(out, id.sequence);
    }
    write_length(out, stream.entries_added);
    write_length(out, stream.groups.len() as u64);
    for group in &stream.groups {
        write_string(out, &group.name);
        write_length(out, group.last_id.ms);
        write_length(out, group.last_id.sequence);
        // Redis's -1 for "not known".
        write_length(out, group.entries_read.unwrap_or(u64::MAX));
        write_length(out, group.pending.len() as u64);
        for pending in &group.pending {
            write_raw_id(out, pending.id);
            out.extend_from_slice(&pending.delivered_ms.to_le_bytes());
            write_length(out, pending.deliveries);
        }
        write_length(out, group.consumers.len() as u64);
        for (index, consumer) in group.consumers.iter().enumerate() {
            write_string(out, &consumer.name);
            out.extend_from_slice(&consumer.seen_ms.to_le_bytes());
            let own = group.pending.iter().filter(|pending| pending.consumer == index);
            write_length(out, own.clone().count() as u64);
            own.for_each(|pending| write_raw_id(out, pending.id));
        }
    }
}

fn write_raw_id(out: &mut Vec<u8>, id: StreamId) {
    out.extend_from_slice(&id.ms.to_be_bytes());
    out.extend_from_slice(&id.sequence.to_be_bytes());
}

/// A stream's entries as listpacks, each under the id of its first entry.
fn stream_nodes(entries: &[(StreamId, Vec<Pair>)]) -> Vec<(StreamId, Vec<u8>)> {
    let mut nodes = Vec::new();
    let mut rest = entries;
    while let Some(((first, fields), _)) = rest.split_first() {
        let mut bytes = 0;
        let fits = |(_, pairs): &&(StreamId, Vec<Pair>)| {
            bytes += pairs
                .iter()
                .map(|(field, value)| field.len() + value.len())
                .sum::<usize>();
            bytes <= STREAM_NODE_BYTES_MAX
        };
        let count = rest
            .iter()
            .take(STREAM_NODE_ENTRIES_MAX)
            .take_while(fits)
            .count()
            .max(1);
        let (own, later) = rest.split_at(count);
        let mut listpack = ListpackWriter::new();
        listpack.integer(count as i64);
        listpack.integer(0);
        listpack.integer(fields.len() as i64);
        fields.iter().for_each(|(field, _)| listpack.string(field));
        listpack.integer(0);
        for (id, pairs) in own {
            // The flag of an entry that names its own fields.
            listpack.integer(0);
            listpack.integer(id.ms.wrapping_sub(first.ms) as i64);
            listpack.integer(id.sequence.wrapping_sub(first.sequence) as i64);
            listpack.integer(pairs.len() as i64);
            for (field, value) in pairs {
                listpack.string(field);
                listpack.string(value);
            }
            // Elements of this entry before this one, which is there to walk backwards.
            listpack.integer(pairs.len() as i64 * 2 + 4);
        }
        nodes.push((*first, listpack.finish()));
        rest = later;
    }
    nodes
}

struct ListpackWriter {
    bytes: Vec<u8>,
    count: u64,
}

impl ListpackWriter {
    const HEADER_LEN: usize = 6;

    fn new() -> ListpackWriter {
        ListpackWriter {
            bytes: vec![0; ListpackWriter::HEADER_LEN],
            count: 0,
        }
    }

    fn integer(&mut self, value: i64) {
        let start = self.bytes.len();
        match value {
            0..128 => self.bytes.push(value as u8),
            _ => match i16::try_from(value) {
                Ok(value) => {
                    self.bytes.push(0xf1);
                    self.bytes.extend_from_slice(&value.to_le_bytes());
                }
                Err(_) => {
                    self.bytes.push(0xf4);
                    self.bytes.extend_from_slice(&value.to_le_bytes());
                }
            },
        }
        self.end_entry(start);
    }

    fn string(&mut self, value: &[u8]) {
        let start = self.bytes.len();
        match value.len() {
            len @ 0..64 => self.bytes.push(0x80 | len as u8),
            len @ 64..4096 => self.bytes.extend_from_slice(&(0xe000 | len as u16).to_be_bytes()),
            len => {
                self.bytes.push(0xf0);
                let len = u32::try_from(len).expect("a string is shorter than 4 GiB");
                self.bytes.extend_from_slice(&len.to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(value);
        self.end_entry(start);
    }

    /// Appends the entry's length, most significant seven bits first, for walking backwards.
    fn end_entry(&mut self, start: usize) {
        let len = (self.bytes.len() - start) as u64;
        let bytes = backward_length_size(len);
        for index in (0..bytes).rev() {
            let bits = (len >> (7 * index)) as u8 & 0x7f;
            self.bytes.push(if index + 1 == bytes { bits } else { bits | 0x80 });
        }
        self.count += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0xff);
        // Where an entry alone takes more, the reply is refused for its length anyway.
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        // 65535 stands for more than can be told.
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        self.bytes[4..6].copy_from_slice(&count.to_le_bytes());
        self.bytes
    }
}

fn backward_length_size(len: u64) -> u32 {
    match len {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        2_097_152..268_435_456 => 4,
        _ => 5,
    }
}

// ---- Reading ----

struct Reader<'a> {
    rest: &'a [u8],
}

/// What begins a string or a number of elements.
enum Length {
    Is(u64),
    /// A string in one of the special encodings.
    Encoded(u8),
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], RdbError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(RdbError::Format)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(RdbError::Format)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, RdbError> {
        Ok(self.array::<1>()?[0])
    }

    fn length_or_encoding(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        Ok(match first {
            0x00..=0x3f => Length::Is(u64::from(first)),
            0x40..=0x7f => Length::Is(u64::from(u16::from_be_bytes([first & 0x3f, self.byte()?]))),
            0x80 => Length::Is(u64::from(u32::from_be_bytes(self.array()?))),
            0x81 => Length::Is(u64::from_be_bytes(self.array()?)),
            0xc0..=0xff => Length::Encoded(first & 0x3f),
            _ => return Err(RdbError::Format),
        })
    }

    fn length(&mut self) -> Result<u64, RdbError> {
        match self.length_or_encoding()? {
            Length::Is(length) => Ok(length),
            Length::Encoded(_) => Err(RdbError::Format),
        }
    }

    /// A number of things of which each takes a byte at least: more than there are bytes cannot be right.
    fn count(&mut self) -> Result<usize, RdbError> {
        usize::try_from(self.length()?)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or(RdbError::Format)
    }

    fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        Ok(match self.length_or_encoding()? {
            Length::Is(length) => self
                .take(usize::try_from(length).map_err(|_| RdbError::Format)?)?
                .to_vec(),
            Length::Encoded(0) => decimal(i64::from(i8::from_le_bytes(self.array()?))),
            Length::Encoded(1) => decimal(i64::from(i16::from_le_bytes(self.array()?))),
            Length::Encoded(2) => decimal(i64::from(i32::from_le_bytes(self.array()?))),
            Length::Encoded(3) => {
                let (compressed, len) = (self.length()?, self.length()?);
                let compressed = self.take(usize::try_from(compressed).map_err(|_| RdbError::Format)?)?;
                decompress(compressed, usize::try_from(len).map_err(|_| RdbError::Format)?)?
            }
            Length::Encoded(_) => return Err(RdbError::Format),
        })
    }

    fn strings(&mut self) -> Result<Vec<Vec<u8>>, RdbError> {
        let count = self.count()?;
        (0..count).map(|_| self.string()).collect()
    }

    /// A score as text, of before Redis 4.0.
    fn text_score(&mut self) -> Result<f64, RdbError> {
        Ok(match self.byte()? {
            253 => f64::NAN,
            254 => f64::INFINITY,
            255 => f64::NEG_INFINITY,
            len => score_of(self.take(usize::from(len))?)?,
        })
    }

    fn raw_id(&mut self) -> Result<StreamId, RdbError> {
        Ok(StreamId {
            ms: u64::from_be_bytes(self.array()?),
            sequence: u64::from_be_bytes(self.array()?),
        })
    }

    fn id(&mut self) -> Result<StreamId, RdbError> {
        Ok(StreamId {
            ms: self.length()?,
            sequence: self.length()?,
        })
    }
}

fn decimal(value: i64) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn score_of(text: &[u8]) -> Result<f64, RdbError> {
    let text = std::str::from_utf8(text).map_err(|_| RdbError::Format)?;
    text.parse().map_err(|_| RdbError::Format)
}

/// LZF (Marc Lehmann's liblzf): runs of literal bytes and references to what came before.
fn decompress(compressed: &[u8], len: usize) -> Result<Vec<u8>, RdbError> {
    /// Bytes that one byte of a reference can stand for at most.
    const EXPANSION_MAX: usize = 264;
    if len > compressed.len().saturating_mul(EXPANSION_MAX).min(STRING_BYTES_MAX) {
        return Err(RdbError::Format);
    }
    let mut out = Vec::new();
    let mut reader = Reader { rest: compressed };
    while !reader.rest.is_empty() {
        let control = usize::from(reader.byte()?);
        if control < 32 {
            out.extend_from_slice(reader.take(control + 1)?);
            continue;
        }
        let mut length = control >> 5;
        if length == 7 {
            length += usize::from(reader.byte()?);
        }
        let distance = ((control & 0x1f) << 8 | usize::from(reader.byte()?)) + 1;
        let start = out.len().checked_sub(distance).ok_or(RdbError::Format)?;
        for position in start..start + length + 2 {
            // Byte by byte: the reference may reach into what it appends.
            out.push(out[position]);
        }
        if out.len() > len {
            return Err(RdbError::Format);
        }
    }
    match out.len() == len {
        true => Ok(out),
        false => Err(RdbError::Format),
    }
}

fn read_value(reader: &mut Reader<'_>) -> Result<Value, RdbError> {
    let tag = reader.byte()?;
    let value = match tag {
        tag::STRING => return Ok(Value::String(reader.string()?)),
        tag::LIST => Value::List(reader.strings()?),
        tag::LIST_ZIPLIST => Value::List(ziplist(&reader.string()?)?),
        tag::LIST_QUICKLIST | tag::LIST_QUICKLIST_2 => {
            let mut elements = Vec::new();
            for _ in 0..reader.count()? {
                let is_plain = tag == tag::LIST_QUICKLIST_2 && reader.length()? == 1;
                let node = reader.string()?;
                match tag {
                    _ if is_plain => elements.push(node),
                    tag::LIST_QUICKLIST => elements.extend(ziplist(&node)?),
                    _ => elements.extend(listpack(&node)?),
                }
            }
            Value::List(elements)
        }
        tag::SET => Value::Set(reader.strings()?),
        tag::SET_INTSET => Value::Set(intset(&reader.string()?)?),
        tag::SET_LISTPACK => Value::Set(listpack(&reader.string()?)?),
        tag::HASH => {
            let count = reader.count()?;
            let pair = |_| Ok((reader.string()?, reader.string()?));
            Value::Hash((0..count).map(pair).collect::<Result<_, _>>()?)
        }
        tag::HASH_ZIPLIST => Value::Hash(pairs(ziplist(&reader.string()?)?)?),
        tag::HASH_LISTPACK => Value::Hash(pairs(listpack(&reader.string()?)?)?),
        tag::SORTED_SET | tag::SORTED_SET_2 => {
            let count = reader.count()?;
            let pair = |_| {
                let member = reader.string()?;
                let score = match tag {
                    tag::SORTED_SET => reader.text_score()?,
                    _ => f64::from_le_bytes(reader.array()?),
                };
                Ok((member, score))
            };
            Value::SortedSet((0..count).map(pair).collect::<Result<_, _>>()?)
        }
        tag::SORTED_SET_ZIPLIST => Value::SortedSet(scored(ziplist(&reader.string()?)?)?),
        tag::SORTED_SET_LISTPACK => Value::SortedSet(scored(listpack(&reader.string()?)?)?),
        tag::STREAM_LISTPACKS | tag::STREAM_LISTPACKS_2 | tag::STREAM_LISTPACKS_3 => {
            return Ok(Value::Stream(Box::new(read_stream(reader, tag)?)));
        }
        _ => return Err(RdbError::Format),
    };
    match value.is_sound() {
        true => Ok(value),
        false => Err(RdbError::Format),
    }
}

impl Value {
    /// Whether a collection has members, each once, and scores that are numbers.
    fn is_sound(&self) -> bool {
        let distinct = |members: Vec<&Vec<u8>>| {
            let count = members.len();
            count > 0 && members.into_iter().collect::<std::collections::HashSet<_>>().len() == count
        };
        match self {
            Value::String(_) | Value::Stream(_) => true,
            Value::List(elements) => !elements.is_empty(),
            Value::Set(members) => distinct(members.iter().collect()),
            Value::Hash(pairs) => distinct(pairs.iter().map(|(field, _)| field).collect()),
            Value::SortedSet(pairs) => {
                distinct(pairs.iter().map(|(member, _)| member).collect())
                    && pairs.iter().all(|(_, score)| !score.is_nan())
            }
        }
    }
}

fn pairs(elements: Vec<Vec<u8>>) -> Result<Vec<Pair>, RdbError> {
    if !elements.len().is_multiple_of(2) {
        return Err(RdbError::Format);
    }
    let mut elements = elements.into_iter();
    Ok(std::iter::from_fn(|| elements.next().zip(elements.next())).collect())
}

fn scored(elements: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, f64)>, RdbError> {
    pairs(elements)?
        .into_iter()
        .map(|(member, score)| Ok((member, score_of(&score)?)))
        .collect()
}

fn intset(bytes: &[u8]) -> Result<Vec<Vec<u8>>, RdbError> {
    let mut reader = Reader { rest: bytes };
    let (width, count) = (u32::from_le_bytes(reader.array()?), u32::from_le_bytes(reader.array()?));
    if u64::from(width) * u64::from(count) != reader.rest.len() as u64 {
        return Err(RdbError::Format);
    }
    let member = |_| {
        Ok(decimal(match width {
            2 => i64::from(i16::from_le_bytes(reader.array()?)),
            4 => i64::from(i32::from_le_bytes(reader.array()?)),
            8 => i64::from_le_bytes(reader.array()?),
            _ => return Err(RdbError::Format),
        }))
    };
    (0..count).map(member).collect()
}

fn ziplist(bytes: &[u8]) -> Result<Vec<Vec<u8>>, RdbError> {
    let mut reader = Reader { rest: bytes };
    // The header: length, offset of the tail, count (65535 stands for more than can be told).
    reader.take(4 + 4 + 2)?;
    let mut elements = Vec::new();
    loop {
        match reader.byte()? {
            0xff => break,
            // The length of the entry before takes five bytes, or this one.
            0xfe => _ = reader.take(4)?,
            _ => {}
        }
        let encoding = reader.byte()?;
        elements.push(match encoding {
            0x00..=0x3f => reader.take(usize::from(encoding))?.to_vec(),
            0x40..=0x7f => {
                let len = u16::from_be_bytes([encoding & 0x3f, reader.byte()?]);
                reader.take(usize::from(len))?.to_vec()
            }
            0x80 => {
                let len = u32::from_be_bytes(reader.array()?);
                reader.take(len as usize)?.to_vec()
            }
            0xc0 => decimal(i64::from(i16::from_le_bytes(reader.array()?))),
            0xd0 => decimal(i64::from(i32::from_le_bytes(reader.array()?))),
            0xe0 => decimal(i64::from_le_bytes(reader.array()?)),
            0xf0 => decimal(signed(reader.take(3)?)),
            0xfe => decimal(i64::from(i8::from_le_bytes(reader.array()?))),
            0xf1..=0xfd => decimal(i64::from(encoding & 0x0f) - 1),
            _ => return Err(RdbError::Format),
        });
    }
    match reader.rest.is_empty() {
        true => Ok(elements),
        false => Err(RdbError::Format),
    }
}

/// A little-endian number of any width.
fn signed(bytes: &[u8]) -> i64 {
    let unsigned = bytes
        .iter()
        .rev()
        .fold(0_i64, |value, byte| value << 8 | i64::from(*byte));
    let unused = 64 - 8 * bytes.len() as u32;
    (unsigned << unused) >> unused
}

fn listpack(bytes: &[u8]) -> Result<Vec<Vec<u8>>, RdbError> {
    let mut reader = Reader { rest: bytes };
    // The header: length and count.
    reader.take(4 + 2)?;
    let mut elements = Vec::new();
    loop {
        let before = reader.rest.len();
        let first = reader.byte()?;
        elements.push(match first {
            0xff => break,
            0x00..=0x7f => decimal(i64::from(first)),
            0x80..=0xbf => reader.take(usize::from(first & 0x3f))?.to_vec(),
            0xc0..=0xdf => {
                let bits = i64::from(first & 0x1f) << 8 | i64::from(reader.byte()?);
                decimal(if bits >= 1 << 12 { bits - (1 << 13) } else { bits })
            }
            0xe0..=0xef => {
                let len = u16::from_be_bytes([first & 0x0f, reader.byte()?]);
                reader.take(usize::from(len))?.to_vec()
            }
            0xf0 => {
                let len = u32::from_le_bytes(reader.array()?);
                reader.take(len as usize)?.to_vec()
            }
            0xf1 => decimal(signed(reader.take(2)?)),
            0xf2 => decimal(signed(reader.take(3)?)),
            0xf3 => decimal(signed(reader.take(4)?)),
            0xf4 => decimal(signed(reader.take(8)?)),
            _ => return Err(RdbError::Format),
        });
        let len = (before - reader.rest.len()) as u64;
        reader.take(backward_length_size(len) as usize)?;
    }
    match reader.rest.is_empty() {
        true => Ok(elements),
        false => Err(RdbError::Format),
    }
}

fn read_stream(reader: &mut Reader<'_>, tag: u8) -> Result<Stream, RdbError> {
    let mut stream = Stream::default();
    for _ in 0..reader.count()? {
        let key = reader.string()?;
        let first = Reader { rest: &key }.raw_id()?;
        read_stream_node(first, listpack(&reader.string()?)?, &mut stream.entries)?;
    }
    if !stream.entries.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(RdbError::Format);
    }
    let length = reader.length()?;
    stream.last_id = reader.id()?;
    stream.entries_added = length;
    if tag != tag::STREAM_LISTPACKS {
        let _first_id = reader.id()?;
        stream.max_deleted_id = reader.id()?;
        stream.entries_added = reader.length()?;
    }
    let newest = stream.entries.last().map_or(StreamId::default(), |(id, _)| *id);
    if length != stream.entries.len() as u64 || newest > stream.last_id {
        return Err(RdbError::Format);
    }
    for _ in 0..reader.count()? {
        stream.groups.push(read_group(reader, tag)?);
    }
    Ok(stream)
}

/// One listpack of a stream: the fields that its entries share, then the entries.
fn read_stream_node(
    first: StreamId,
    elements: Vec<Vec<u8>>,
    entries: &mut Vec<(StreamId, Vec<Pair>)>,
) -> Result<(), RdbError> {
    const DELETED: i64 = 1;
    const SAME_FIELDS: i64 = 2;
    let mut elements = elements.into_iter();
    let mut next = || elements.next().ok_or(RdbError::Format);
    let integer = |element: Vec<u8>| -> Result<i64, RdbError> {
        let text = std::str::from_utf8(&element).map_err(|_| RdbError::Format)?;
        text.parse().map_err(|_| RdbError::Format)
    };
    let (count, deleted) = (integer(next()?)?, integer(next()?)?);
    let shared_count = integer(next()?)?;
    let shared: Vec<Vec<u8>> = (0..shared_count).map(|_| next()).collect::<Result<_, _>>()?;
    next()?;
    for _ in 0..count.checked_add(deleted).ok_or(RdbError::Format)? {
        let flags = integer(next()?)?;
        let id = StreamId {
            ms: first.ms.wrapping_add(integer(next()?)? as u64),
            sequence: first.sequence.wrapping_add(integer(next()?)? as u64),
        };
        let mut pairs = Vec::new();
        if flags & SAME_FIELDS != 0 {
            for field in &shared {
                pairs.push((field.clone(), next()?));
            }
        } else {
            for _ in 0..integer(next()?)? {
                pairs.push((next()?, next()?));
            }
        }
        next()?;
        if flags & DELETED == 0 {
            entries.push((id, pairs));
        }
    }
    match elements.next() {
        None => Ok(()),
        Some(_) => Err(RdbError::Format),
    }
}

fn read_group(reader: &mut Reader<'_>, tag: u8) -> Result<StreamGroup, RdbError> {
    let mut group = StreamGroup {
        name: reader.string()?,
        last_id: reader.id()?,
        ..StreamGroup::default()
    };
    if tag != tag::STREAM_LISTPACKS {
        group.entries_read = Some(reader.length()?).filter(|read| *read != u64::MAX);
    }
    for _ in 0..reader.count()? {
        group.pending.push(StreamPending {
            id: reader.raw_id()?,
            delivered_ms: u64::from_le_bytes(reader.array()?),
            deliveries: reader.length()?,
            // The consumers that follow say whose the entry is.
            consumer: usize::MAX,
        });
    }
    if !group.pending.is_sorted_by(|one, next| one.id < next.id) {
        return Err(RdbError::Format);
    }
    for index in 0..reader.count()? {
        let name = reader.string()?;
        let seen_ms = u64::from_le_bytes(reader.array()?);
        if tag == tag::STREAM_LISTPACKS_3 {
            let _active_ms: [u8; 8] = reader.array()?;
        }
        for _ in 0..reader.count()? {
            let id = reader.raw_id()?;
            let found = group.pending.binary_search_by_key(&id, |pending| pending.id);
            group.pending[found.map_err(|_| RdbError::Format)?].consumer = index;
        }
        group.consumers.push(StreamConsumer { name, seen_ms });
    }
    match group.pending.iter().all(|pending| pending.consumer != usize::MAX) {
        true => Ok(group),
        false => Err(RdbError::Format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, sequence: u64) -> StreamId {
        StreamId { ms, sequence }
    }

    fn values() -> Vec<Value> {
        let long = vec![b'x'; 70_000];
        let pair = |field: &[u8], value: &[u8]| (field.to_vec(), value.to_vec());
        let stream = Stream {
            entries: (1..=250)
                .map(|ms| {
                    (
                        id(ms, ms % 3),
                        vec![pair(b"field", &ms.to_be_bytes()), pair(b"", &long[..(ms as usize)])],
                    )
                })
                .collect(),
            last_id: id(300, 7),
            max_deleted_id: id(299, 0),
            entries_added: 400,
            groups: vec![StreamGroup {
                name: b"group".to_vec(),
                last_id: id(10, 1),
                entries_read: None,
                consumers: vec![
                    StreamConsumer {
                        name: b"alice".to_vec(),
                        seen_ms: 5,
                    },
                    StreamConsumer {
                        name: b"bob".to_vec(),
                        seen_ms: 6,
                    },
                ],
                pending: vec![
                    StreamPending {
                        id: id(1, 1),
                        delivered_ms: 9,
                        deliveries: 2,
                        consumer: 1,
                    },
                    StreamPending {
                        id: id(2, 2),
                        delivered_ms: 9,
                        deliveries: 1,
                        consumer: 0,
                    },
                ],
            }],
        };
        vec![
            Value::String(b"".to_vec()),
            Value::String(long.clone()),
            Value::List(vec![b"a".to_vec(), b"a".to_vec(), vec![0xff; 20_000]]),
            Value::Set((0..300_u32).map(|member| member.to_be_bytes().to_vec()).collect()),
            Value::Hash(vec![pair(b"f", b"v"), pair(b"g", &long)]),
            Value::SortedSet(vec![(b"m".to_vec(), -1.5), (b"n".to_vec(), f64::INFINITY)]),
            Value::Stream(Box::new(stream)),
        ]
    }

    #[test]
    fn golden_bytes_of_a_payload() {
        // DUMP of redis-server 7.0 for SET key 10 has an integer; for "value" it is this.
        let payload = dump(&Value::String(b"value".to_vec()));
        assert_eq!(payload[..8], *b"\x00\x05value\x0a");
        assert_eq!(restore(&payload), Ok(Value::String(b"value".to_vec())));
    }

    #[test]
    fn what_is_dumped_is_restored() {
        for value in values() {
            assert_eq!(restore(&dump(&value)), Ok(value));
        }
    }

    #[test]
    fn a_payload_that_was_altered_or_is_of_the_future_is_refused() {
        let payload = dump(&Value::String(b"value".to_vec()));
        for position in 0..payload.len() {
            let mut altered = payload.clone();
            altered[position] ^= 1;
            assert_eq!(restore(&altered), Err(RdbError::Footer), "byte {position}");
        }
        for len in 0..payload.len() {
            assert!(restore(&payload[..len]).is_err(), "{len} bytes");
        }
    }

    /// With the checksum right, as an attacker would make it.
    #[test]
    fn no_bytes_panic_the_reader() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let bodies: Vec<Vec<u8>> = values()
            .iter()
            .map(dump)
            .map(|payload| payload[..payload.len().min(3000) - FOOTER_LEN].to_vec())
            .collect();
        for round in 0..20_000 {
            let mut body = match round % 2 {
                0 => bodies[random() as usize % bodies.len()].clone(),
                _ => (0..random() % 60).map(|_| random() as u8).collect(),
            };
            if body.is_empty() {
                continue;
            }
            for _ in 0..random() % 8 {
                let position = random() as usize % body.len();
                body[position] = random() as u8;
            }
            body[0] %= 24;
            body.extend_from_slice(&VERSION_READ_MAX.to_le_bytes());
            let checksum = CRC64.checksum(&body);
            body.extend_from_slice(&checksum.to_le_bytes());
            let _ = restore(&body);
        }
    }
}
