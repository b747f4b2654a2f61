//! The entries of the table of records, as they lie in memory.
//!
//! There may be many millions of them, and most records are small, so an entry is 48 bytes and one allocation, which
//! has the record and behind it the key: in this order the allocation of a record that was just made is taken over,
//! and to compare a key reads the line of the cache that the record of a small string is in.

use super::database::Column;
use super::pieced_list::PiecedList;
use std::ops::{Index, IndexMut};

/// The index of an entry, valid until the next call that inserts or evicts.
pub type EntryIndex = u32;

/// No index: the end of a queue.
pub(super) const NO_ENTRY: EntryIndex = EntryIndex::MAX;

/// What an entry costs beside its key and value: the entry, its place in the table, what its allocation is rounded up.
pub const ENTRY_BYTES: usize = size_of::<Entry>() + 8 + 8;

/// In place of a record's length: there is no record.
const NO_VALUE: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    None,
    Small,
    Main,
}

/// What the next frame has of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Staged {
    Nothing,
    /// The bytes that were changed, each as it was: the table has only what has become of all.
    Patches,
    /// The whole value, or that it is gone.
    Whole,
}

/// A key and the stored form of its record; none for a key that was deleted and that RocksDB may have.
pub(super) struct Body {
    /// The record, and behind it the key.
    bytes: Box<[u8]>,
    value_len: u32,
}

impl Body {
    /// Takes the value's allocation over, if it has room for the key or can be given it.
    pub(super) fn new(key: &[u8], value: Option<Vec<u8>>) -> Body {
        let value_len = value.as_ref().map_or(NO_VALUE, |value| length(value.len()));
        let mut bytes = value.unwrap_or_default();
        bytes.reserve_exact(key.len());
        bytes.extend_from_slice(key);
        Body {
            bytes: bytes.into_boxed_slice(),
            value_len,
        }
    }

    fn empty() -> Body {
        Body {
            bytes: Box::default(),
            value_len: NO_VALUE,
        }
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        (self.value_len != NO_VALUE).then(|| &self.bytes[..self.value_len as usize])
    }
}

fn length(len: usize) -> u32 {
    let length = u32::try_from(len).ok().filter(|length| *length != NO_VALUE);
    length.expect("a record is shorter than 4 GiB")
}

pub(super) struct Entry {
    /// See [`Body`], whose parts lie apart here so that they take 12 bytes and not 16.
    bytes: Box<[u8]>,
    pub(super) epoch: u64,
    value_len: u32,
    /// See [`table_hash`].
    pub(super) hash: u32,
    /// The segment of the log that has the last write which was logged; 0 once that is in RocksDB and was worked off.
    pub(super) segment: u32,
    pub(super) older: EntryIndex,
    pub(super) newer: EntryIndex,
    pub(super) column: Column,
    pub(super) uses: u8,
    /// What the next frame has of the entry; whatever that is, the entry is in the list of those that were changed.
    pub(super) staged: Staged,
    pub(super) queue: Queue,
}

const _: () = assert!(size_of::<Entry>() == 48);

/// The hash by which the table finds an entry: half of its key's, twice, since a table takes the place from the lowest
/// bits and tells entries of one place by the highest.
#[inline]
pub(super) fn table_hash(half: u32) -> u64 {
    u64::from(half) << 32 | u64::from(half)
}

impl Entry {
    pub(super) fn new(hash: u32, column: Column, body: Body) -> Entry {
        Entry {
            bytes: body.bytes,
            epoch: 0,
            value_len: body.value_len,
            hash,
            segment: 0,
            older: NO_ENTRY,
            newer: NO_ENTRY,
            column,
            uses: 0,
            staged: Staged::Nothing,
            queue: Queue::None,
        }
    }

    #[inline]
    pub(super) fn key(&self) -> &[u8] {
        match self.value_len {
            NO_VALUE => &self.bytes,
            value_len => &self.bytes[value_len as usize..],
        }
    }

    /// The stored form of the record; `None` for a key that was deleted and that RocksDB may have.
    #[inline]
    pub(super) fn value(&self) -> Option<&[u8]> {
        (self.value_len != NO_VALUE).then(|| &self.bytes[..self.value_len as usize])
    }

    /// The value's bytes, to be changed in place.
    pub(super) fn value_mut(&mut self) -> Option<&mut [u8]> {
        (self.value_len != NO_VALUE).then(|| &mut self.bytes[..self.value_len as usize])
    }

    pub(super) fn has_value(&self) -> bool {
        self.value_len != NO_VALUE
    }

    pub(super) fn value_len(&self) -> usize {
        self.value().map_or(0, <[u8]>::len)
    }

    /// Puts another record, of the same key, in place and gives the old one back.
    pub(super) fn replace(&mut self, body: Body) -> Body {
        Body {
            bytes: std::mem::replace(&mut self.bytes, body.bytes),
            value_len: std::mem::replace(&mut self.value_len, body.value_len),
        }
    }

    /// Gives a value that there is another length: it ends earlier, or goes on with zeros.
    pub(super) fn resize_value(&mut self, len: usize) {
        let key = self.key().to_vec();
        let mut bytes = std::mem::take(&mut self.bytes).into_vec();
        bytes.truncate(self.value_len as usize);
        bytes.reserve_exact((len + key.len()).saturating_sub(bytes.len()));
        bytes.resize(len, 0);
        bytes.extend_from_slice(&key);
        (self.bytes, self.value_len) = (bytes.into_boxed_slice(), length(len));
    }

    /// The entry is of no key any more.
    pub(super) fn clear(&mut self) {
        drop(self.replace(Body::empty()));
    }

    /// Reads something of the entry itself.
    #[inline]
    pub(super) fn touch(&self) -> u64 {
        u64::from(self.hash) ^ self.epoch ^ self.bytes.len() as u64
    }

    /// Reads something of the key and of the record.
    #[inline]
    pub(super) fn touch_body(&self) -> u64 {
        let byte = |byte: Option<&u8>| byte.copied().map_or(0, u64::from);
        byte(self.bytes.first()) ^ byte(self.bytes.last())
    }

    /// Whether it says that a key exists.
    pub(super) fn is_key(&self) -> bool {
        self.column == Column::Meta && self.has_value()
    }

    /// Whether RocksDB has what the entry says, so that it may go.
    pub(super) fn is_clean(&self) -> bool {
        self.staged == Staged::Nothing && self.segment == 0
    }

    pub(super) fn size(&self) -> usize {
        ENTRY_BYTES + self.bytes.len()
    }
}

/// All entries by their index.
#[derive(Default)]
pub(super) struct Entries(PiecedList<Entry>);

impl Entries {
    /// How many there ever were at a time.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, entry: Entry) -> EntryIndex {
        let index = EntryIndex::try_from(self.0.len()).expect("far fewer than 2^32 entries are kept or staged");
        self.0.push(entry);
        index
    }
}

impl Index<EntryIndex> for Entries {
    type Output = Entry;

    #[inline]
    fn index(&self, index: EntryIndex) -> &Entry {
        &self.0[index as usize]
    }
}

impl IndexMut<EntryIndex> for Entries {
    #[inline]
    fn index_mut(&mut self, index: EntryIndex) -> &mut Entry {
        &mut self.0[index as usize]
    }
}
