//! Reads for which memory does not have all: a command that comes to one may be undone, and run again when others have
//! fetched what the read needs, so that its executor does not wait for the disk.
//!
//! What is fetched goes into RocksDB's block cache and nowhere else: to read there is always to read what RocksDB has
//! now, whatever was written meanwhile.

use super::database::{Column, Database, DatabaseError, Direction};
use super::shard::Owner;
use crate::faults;

/// A read that would have to wait for the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MissedRead {
    /// Of the value under a key.
    Cell(Column, Vec<u8>),
    /// Of a range, from the first key (inclusive) to the second (exclusive) or backwards, as far as a command may want.
    Range(Column, Vec<u8>, Vec<u8>, Direction),
    /// Of what only memory tells of a collection, which has so many members: its executor loads them, step by step.
    Members(Column, Owner, u64),
}

impl MissedRead {
    /// Brings what the read needs into memory, which may wait for the disk for long.
    ///
    /// # Errors
    /// The disk cannot be read: whoever reads it again is told, too.
    pub fn fetch(&self, database: &Database) -> Result<(), DatabaseError> {
        match self {
            MissedRead::Cell(column, key) => database.get(*column, key, |_| ()).map(drop),
            MissedRead::Range(column, from, to, direction) => database.fetch_range(*column, (from, to), *direction),
            MissedRead::Members(..) => unreachable!("members are loaded by their executor"),
        }
    }
}

/// The reads that the running command has missed on a shard: it is to be undone if there are any, whatever it has made
/// of them.
#[derive(Default)]
pub struct Misses {
    /// Whether the running command may be undone.
    pub may_miss: bool,
    reads: Vec<MissedRead>,
}

impl Misses {
    /// Whether there are any.
    #[inline]
    pub fn are_any(&self) -> bool {
        !self.reads.is_empty()
    }

    /// The running command has come to a read of which memory does not have all.
    pub(super) fn add(&mut self, read: MissedRead) {
        assert!(self.may_miss, "only a command that may be undone misses something");
        self.reads.push(read);
    }

    /// Those since the last call.
    pub fn take(&mut self) -> Vec<MissedRead> {
        std::mem::take(&mut self.reads)
    }

    /// Whether the running command misses a read on request, in tests.
    #[inline]
    pub(super) fn come_on_request(&self) -> bool {
        self.may_miss && faults::misses_read()
    }
}
