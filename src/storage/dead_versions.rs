//! Which deleted or overwritten collections leave so much behind that their space is given back.

use super::encoding::{self, Record};

/// What a dead version must have left behind at least, in bytes, to be worth a compaction of its range. Whatever is
/// smaller is dropped when others cause a compaction. To reclaim a range, the files that it shares with others are
/// written again, those of level 0 among them: tens of megabytes.
const LEFT_BEHIND_BYTES_MIN: u64 = 8 << 20;

/// What a member takes up with its key and its entry in the order, guessed low: the record only has their number.
const MEMBER_BYTES: u64 = 64;

/// The marker, a key of `system`, that goes with replacing a record of `meta` by another (or none), if that leaves much
/// behind.
#[inline]
pub fn marker_of_dead_version(meta_key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) -> Option<Vec<u8>> {
    let old = old.filter(|record| encoding::has_members(record))?;
    let old = Record::decode(old)?;
    if bytes_of_members(&old)? < LEFT_BEHIND_BYTES_MIN {
        return None;
    }
    let new_version = new.and_then(Record::decode).map_or(0, |record| record.version);
    match new_version == old.version {
        true => None,
        false => encoding::dead_version_key(meta_key, old.version),
    }
}

fn bytes_of_members(record: &Record<'_>) -> Option<u64> {
    if record.is_in_chunks() {
        return record.string_len().map(|len| len as u64);
    }
    let count = record.payload.first_chunk()?;
    Some(u64::from_be_bytes(*count).saturating_mul(MEMBER_BYTES))
}
