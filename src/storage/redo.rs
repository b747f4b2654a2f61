//! What keeps a command on several shards whole across a crash: the redo record.
//!
//! One of the shards, the primary, commits a record of all parts together with its own part. Only then do the others
//! commit theirs, each with a marker that it has; and only when all have is the record deleted. A start that finds a
//! record gives those shards their parts that have no marker. The bytes are described in
//! [`encoding`].

use super::database::Column;
use super::encoding::{self, DATABASE_COUNT, DatabaseMap};
use super::fields::{FieldReader, FieldWriter};
use super::shard::{Owner, Shard};
use crate::error::CommandError;
use crate::slots::{ShardId, Slot, shard_of};
use crate::storage::transaction_scope::TransactionId;
use std::collections::BTreeMap;

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Databases were swapped: the other writes number them by this map. This write comes first, and changes nothing
    /// where the map is as new or newer.
    Databases {
        /// The new map.
        map: DatabaseMap,
    },
    /// All keys of a database, or of all, are deleted. This write comes before those of keys.
    Empty {
        /// The database, as SELECT numbers it.
        database: Option<u8>,
    },
    /// A key's record, `None` for none.
    Record {
        /// The database, as SELECT numbers it.
        database: u8,
        /// The key.
        key: Vec<u8>,
        /// The record's stored form.
        value: Option<Vec<u8>>,
    },
    /// A member of a collection, `None` for none.
    Member {
        /// The collection.
        owner: Owner,
        /// The member's column.
        column: Column,
        /// The member's name in that column.
        member: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
}

/// What stands for a column where all keys are deleted, and for a database where all databases are.
const EMPTY: u8 = 0xff;
const ALL_DATABASES: u8 = 0xff;

/// What stands for a column where databases were swapped.
const DATABASES: u8 = 0xfe;

const _: () = assert!(
    Column::COUNT <= DATABASES as usize && DATABASE_COUNT <= ALL_DATABASES as usize,
    "what stands for a column or a database is none"
);

impl Write {
    /// The key that is written; none if it is all of them.
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Write::Databases { .. } | Write::Empty { .. } => None,
            Write::Record { key, .. } => Some(key),
            Write::Member { owner, .. } => Some(&owner.key),
        }
    }

    fn encoded_len(&self) -> usize {
        let value_len = |value: &Option<Vec<u8>>| 1 + value.as_ref().map_or(0, |value| LEN_BYTES + value.len());
        match self {
            Write::Databases { map } => 1 + LEN_BYTES + map.encode().len(),
            Write::Empty { .. } => 2,
            Write::Record { key, value, .. } => 2 + LEN_BYTES + key.len() + value_len(value),
            Write::Member {
                owner, member, value, ..
            } => 2 + LEN_BYTES + owner.key.len() + 8 + LEN_BYTES + member.len() + value_len(value),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        match self {
            Write::Databases { map } => {
                fields.byte(DATABASES);
                fields.bytes(&map.encode());
            }
            Write::Empty { database } => {
                fields.byte(EMPTY);
                fields.byte(database.unwrap_or(ALL_DATABASES));
            }
            Write::Record { database, key, value } => {
                fields.byte(Column::Meta as u8);
                fields.byte(*database);
                fields.bytes(key);
                fields.optional_bytes(value.as_deref());
            }
            Write::Member {
                owner,
                column,
                member,
                value,
            } => {
                fields.byte(*column as u8);
                fields.byte(owner.database);
                fields.bytes(&owner.key);
                fields.number(owner.version);
                fields.bytes(member);
                fields.optional_bytes(value.as_deref());
            }
        }
    }

    fn decode(fields: &mut FieldReader<'_>) -> Option<Write> {
        let column = fields.byte()?;
        if column == DATABASES {
            let map = DatabaseMap::decode(fields.bytes()?)?;
            return Some(Write::Databases { map });
        }
        let database = fields.byte()?;
        let is_one = usize::from(database) < encoding::DATABASE_COUNT;
        if column == EMPTY {
            return (is_one || database == ALL_DATABASES).then_some(Write::Empty {
                database: is_one.then_some(database),
            });
        }
        if !is_one {
            return None;
        }
        let key = fields.bytes()?.to_vec();
        if column == Column::Meta as u8 {
            let value = fields.optional_bytes()?.map(<[u8]>::to_vec);
            return Some(Write::Record { database, key, value });
        }
        let column = [Column::Data, Column::Score]
            .into_iter()
            .find(|known| *known as u8 == column)?;
        let version = fields.number()?;
        Some(Write::Member {
            owner: Owner { database, key, version },
            column,
            member: fields.bytes()?.to_vec(),
            value: fields.optional_bytes()?.map(<[u8]>::to_vec),
        })
    }
}

/// What a transaction writes to one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub shard: ShardId,
    /// The part's writes in any order: each key and member once.
    pub writes: Vec<Write>,
}

/// The most that may be written as one on several executors, in bytes of its redo record: with the part of the shard
/// that has it, the record fits a frame of the log.
pub const RECORD_BYTES_MAX: usize = (1 << 30) - (1 << 20);

const _: () = assert!(RECORD_BYTES_MAX < u32::MAX as usize, "lengths in a record have 32 bits");

/// The error of a command that would write more than [`RECORD_BYTES_MAX`].
pub fn record_too_long() -> CommandError {
    CommandError::text("ERR the command writes more than 1 GiB on several storage executors")
}

/// The length of the stored form of parts.
pub fn encoded_len<'a>(parts: impl IntoIterator<Item = &'a Part>) -> usize {
    let of_part = |part: &Part| 2 + LEN_BYTES + part.writes.iter().map(Write::encoded_len).sum::<usize>();
    parts.into_iter().map(of_part).sum()
}

/// Appends the stored form of parts, which must not be longer than [`RECORD_BYTES_MAX`].
pub fn encode_parts<'a>(out: &mut Vec<u8>, parts: impl IntoIterator<Item = &'a Part>) {
    for part in parts {
        out.extend_from_slice(&part.shard.0.to_be_bytes());
        // The length goes before the writes when it is known.
        let start = out.len();
        FieldWriter(out).bytes(b"");
        part.writes.iter().for_each(|write| write.encode(&mut FieldWriter(out)));
        let len = u32::try_from(out.len() - start - LEN_BYTES).expect("a part is bounded by what a record may have");
        out[start..start + LEN_BYTES].copy_from_slice(&len.to_be_bytes());
    }
}

/// Bytes of a byte string's length.
const LEN_BYTES: usize = 4;

/// Reads parts; `None` if the bytes are damaged.
pub fn decode_parts(mut bytes: &[u8]) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    while let Some((shard, rest)) = bytes.split_first_chunk() {
        let mut fields = FieldReader(rest);
        let mut own = FieldReader(fields.bytes()?);
        let mut writes = Vec::new();
        while !own.is_at_end() {
            writes.push(Write::decode(&mut own)?);
        }
        parts.push(Part {
            shard: ShardId(u16::from_be_bytes(*shard)),
            writes,
        });
        bytes = fields.0;
    }
    bytes.is_empty().then_some(parts)
}

/// Sorts writes by the shard that has the key, the shards in their order. What concerns whole databases goes to each.
///
/// # Errors
/// The parts would be longer than `bytes_max`.
pub fn parts_of(writes: Vec<Write>, shard_count: u16, bytes_max: usize) -> Result<Vec<Part>, CommandError> {
    let mut by_shard: BTreeMap<ShardId, Vec<Write>> = BTreeMap::new();
    for write in writes {
        match write.key() {
            Some(key) => by_shard
                .entry(shard_of(Slot::of(key), shard_count))
                .or_default()
                .push(write),
            None => {
                for shard in (0..shard_count).map(ShardId) {
                    by_shard.entry(shard).or_default().push(write.clone());
                }
            }
        }
    }
    let parts = by_shard.into_iter().map(|(shard, writes)| Part { shard, writes });
    let parts: Vec<Part> = parts.collect();
    match encoded_len(&parts) <= bytes_max {
        true => Ok(parts),
        false => Err(record_too_long()),
    }
}

/// A transaction that a crash has left half done.
struct Unfinished {
    /// The shard that has its record, and with it its part.
    primary: ShardId,
    parts: Vec<Part>,
}

/// Finishes the transactions that a crash has left half done. All shards of the server are in `shards`, by their
/// number. Returns how many there were.
///
/// # Errors
/// A record is damaged, or a shard cannot be read or written.
pub fn recover(shards: &mut [Shard], epoch: u64) -> Result<usize, CommandError> {
    // What two of them write to one key they wrote in the order of their numbers.
    let mut found: BTreeMap<TransactionId, Unfinished> = BTreeMap::new();
    for shard in shards.iter_mut() {
        shard.begin_turn(epoch);
        for (id, stored) in shard.redo_records()? {
            let (primary, parts) = (shard.id(), parts_of_record(&stored)?);
            found.insert(id, Unfinished { primary, parts });
        }
    }
    for (id, Unfinished { primary, parts }) in &found {
        for part in parts.iter().filter(|part| part.shard != *primary) {
            let shard = shard_of_part(shards, part)?;
            if !shard.has_applied(*id)? {
                shard.apply(&part.writes)?;
                shard.mark_applied(*id)?;
                shard.keep_command();
            }
        }
    }
    // In this order, and durable one after the other: while there is a record, what it
    // protects is not safe without it; and while one may come back, so must the markers of the shards that have applied
    // it.
    write(shards)?;
    if found.is_empty() {
        return forget_all(shards).map(|()| 0);
    }
    for (id, Unfinished { primary, .. }) in &found {
        shards[usize::from(primary.0)].delete_redo(*id)?;
    }
    write(shards)?;
    forget_all(shards)?;
    Ok(found.len())
}

fn parts_of_record(stored: &[u8]) -> Result<Vec<Part>, CommandError> {
    let damaged = || CommandError::text("ERR a redo record is damaged; restore the directory from a backup");
    decode_parts(stored).ok_or_else(damaged)
}

fn shard_of_part<'a>(shards: &'a mut [Shard], part: &Part) -> Result<&'a mut Shard, CommandError> {
    let unknown = || CommandError::text("ERR a redo record names a shard that is not there");
    shards.get_mut(usize::from(part.shard.0)).ok_or_else(unknown)
}

fn write(shards: &mut [Shard]) -> Result<(), CommandError> {
    shards.iter_mut().try_for_each(|shard| {
        shard.keep_command();
        shard.write_through().map_err(CommandError::from)
    })
}

fn forget_all(shards: &mut [Shard]) -> Result<(), CommandError> {
    shards.iter_mut().try_for_each(Shard::forget_all_applied)?;
    write(shards)
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;

    fn some_parts() -> Vec<Part> {
        let owner = Owner {
            database: 3,
            key: b"k".to_vec(),
            version: 9,
        };
        vec![
            Part {
                shard: ShardId(1),
                writes: vec![
                    Write::Record {
                        database: 0,
                        key: b"a".to_vec(),
                        value: Some(b"\x00v".to_vec()),
                    },
                    Write::Record {
                        database: 15,
                        key: Vec::new(),
                        value: None,
                    },
                ],
            },
            Part {
                shard: ShardId(0x0203),
                writes: vec![Write::Member {
                    owner,
                    column: Column::Score,
                    member: b"m".to_vec(),
                    value: Some(Vec::new()),
                }],
            },
            Part {
                shard: ShardId(4),
                writes: vec![
                    Write::Databases {
                        map: DatabaseMap {
                            generation: 5,
                            ..DatabaseMap::default()
                        },
                    },
                    Write::Empty { database: Some(3) },
                    Write::Empty { database: None },
                ],
            },
        ]
    }

    #[test]
    fn the_bytes_of_parts_are_these() {
        let parts = some_parts();
        let mut bytes = Vec::new();
        encode_parts(&mut bytes, &parts);
        let expected = [
            &[0, 1, 0, 0, 0, 21][..],
            &[0, 0, 0, 0, 0, 1, b'a', 1, 0, 0, 0, 2, 0, b'v'],
            &[0, 15, 0, 0, 0, 0, 0],
            &[2, 3, 0, 0, 0, 25],
            &[
                2, 3, 0, 0, 0, 1, b'k', 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, b'm', 1, 0, 0, 0, 0,
            ],
            &[0, 4, 0, 0, 0, 33, 0xfe, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 5],
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            &[0xff, 3, 0xff, 0xff],
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(encoded_len(&parts), expected.len());
        assert_eq!(decode_parts(&bytes), Some(parts));
    }

    #[test]
    fn what_does_not_fit_a_redo_record_is_refused() {
        let record = |key: &[u8]| Write::Record {
            database: 0,
            key: key.to_vec(),
            value: Some(vec![b'v'; 100]),
        };
        let writes: Vec<Write> = [&b"a"[..], b"b", b"c"].map(record).into();
        let parts = parts_of(writes.clone(), 2, usize::MAX).expect("no bound");
        let len = encoded_len(&parts);
        assert_eq!((parts.len(), len), (2, 2 * 6 + 3 * (6 + 1 + 5 + 100)));
        assert_eq!(parts_of(writes.clone(), 2, len), Ok(parts));
        assert_eq!(parts_of(writes, 2, len - 1), Err(record_too_long()));
    }

    #[test]
    fn damaged_parts_are_refused_and_never_panic() {
        let mut bytes = Vec::new();
        encode_parts(&mut bytes, &some_parts());
        for len in 1..bytes.len() {
            let cut = decode_parts(&bytes[..len]);
            assert!(cut.is_none_or(|parts| parts.len() < 3), "cut to {len}");
        }
        let mut random = seeded_random::printed();
        for _ in 0..20_000 {
            let mut damaged = bytes.clone();
            let index = random.random_range(0..damaged.len());
            damaged[index] = random.random();
            let _ = decode_parts(&damaged);
        }
    }
}
