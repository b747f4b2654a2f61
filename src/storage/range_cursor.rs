//! A position in a range of a shard's cells that is read as it was when the cursor was made, however long that takes.

use super::database::{Column, Cursor, Direction};
use super::open_ranges::{Saved, SavedRange};
use super::records::Records;
use super::resident::cell_tree::Snapshot;
use crate::slots::ShardId;
use std::ops::{Bound, ControlFlow};

/// See the module's documentation. What RocksDB has still to give is not deleted before the cursor is dropped.
pub struct RangeCursor {
    shard: ShardId,
    direction: Direction,
    /// The key that was read last.
    position: Option<Vec<u8>>,
    /// The cursor will go back to its first entry.
    will_rewind: bool,
    source: Source,
}

/// For how many keys the beginning of a range on disk counts: what was deleted there is passed over.
const KEYS_FOR_BEGINNING: u64 = 512;

enum Source {
    /// RocksDB, and what the shard had over that.
    Disk(DiskSource),
    /// A collection that was whole in memory; `None`: to its last member.
    Memory {
        members: Snapshot,
        range: (Vec<u8>, Option<Vec<u8>>),
    },
}

struct DiskSource {
    column: Column,
    /// From the first (inclusive) to the second (exclusive).
    range: (Vec<u8>, Vec<u8>),
    /// What RocksDB had, at its next entry; `None` if nothing of that counts.
    disk: Option<Cursor>,
    saved: SavedRange,
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorRead {
    /// `visit` broke off, or as many keys were looked at as may be; there may be more.
    UpToHere,
    /// All entries were read.
    All,
    /// The disk cannot be read.
    Broken,
}

impl RangeCursor {
    /// Of the range of `disk`, and of what the shard's `records` have over that.
    pub fn new(
        shard: ShardId,
        records: &mut Records,
        column: Column,
        range: (Vec<u8>, Vec<u8>),
        direction: Direction,
        disk: Option<Cursor>,
    ) -> RangeCursor {
        let saved = records.open_range(column, (&range.0, &range.1), direction);
        RangeCursor {
            shard,
            direction,
            position: None,
            will_rewind: false,
            source: Source::Disk(DiskSource {
                column,
                range,
                disk,
                saved,
            }),
        }
    }

    /// Of members as they were in memory, from the first of `range` to before the second.
    pub fn in_memory(
        shard: ShardId,
        members: Snapshot,
        range: (Vec<u8>, Option<Vec<u8>>),
        direction: Direction,
    ) -> RangeCursor {
        RangeCursor {
            shard,
            direction,
            position: None,
            will_rewind: false,
            source: Source::Memory { members, range },
        }
    }

    /// All is read twice: see [`RangeCursor::rewind`].
    pub fn read_twice(&mut self) {
        self.will_rewind = true;
    }

    /// The shard that is read.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Goes back to the first entry; all are as they were.
    pub fn rewind(&mut self) {
        assert!(self.will_rewind, "what was read once is not kept");
        self.will_rewind = false;
        self.position = None;
        if let Source::Disk(DiskSource { disk: Some(disk), .. }) = &mut self.source {
            disk.rewind();
        }
    }

    /// Calls `visit` with the next entries until it breaks, or `keys_left` is 0, from which each key is taken off that
    /// is looked at, deleted ones too. `records` are those of the shard.
    pub fn read(
        &mut self,
        records: &Records,
        keys_left: &mut u64,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> CursorRead {
        let (position, direction) = (&mut self.position, self.direction);
        match &mut self.source {
            Source::Memory { members, range } => {
                read_members(position, direction, (members, range), (keys_left, visit))
            }
            Source::Disk(source) => {
                let read = source.read(position, direction, (records, keys_left), visit);
                if let Some(position) = position.as_ref().filter(|_| !self.will_rewind) {
                    source.saved.lock().pass(position);
                }
                read
            }
        }
    }
}

/// [`RangeCursor::read`] of what was whole in memory.
fn read_members(
    position: &mut Option<Vec<u8>>,
    direction: Direction,
    (members, range): (&Snapshot, &(Vec<u8>, Option<Vec<u8>>)),
    (keys_left, mut visit): (&mut u64, impl FnMut(&[u8], &[u8]) -> ControlFlow<()>),
) -> CursorRead {
    let (mut from, mut to) = range.clone();
    match (&position, direction) {
        (Some(last), Direction::Forward) => from = [last, &[0][..]].concat(),
        (Some(last), Direction::Backward) => to = Some(last.clone()),
        (None, _) => {}
    }
    if to.as_ref().is_some_and(|to| from >= *to) {
        return CursorRead::All;
    }
    let mut has_ended = false;
    members.visit((Some(&from), to.as_deref()), direction, |key, value| {
        *keys_left = keys_left.saturating_sub(1);
        has_ended = visit(key, value).is_break() || *keys_left == 0;
        match has_ended {
            true => {
                *position = Some(key.to_vec());
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        }
    });
    match has_ended {
        true => CursorRead::UpToHere,
        false => CursorRead::All,
    }
}

impl DiskSource {
    fn read(
        &mut self,
        position: &mut Option<Vec<u8>>,
        direction: Direction,
        (records, keys_left): (&Records, &mut u64),
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> CursorRead {
        let (mut from, mut to) = self.range.clone();
        match (&position, direction) {
            (Some(last), Direction::Forward) => from = [last, &[0][..]].concat(),
            (Some(last), Direction::Backward) => to.clone_from(last),
            (None, _) => {}
        }
        if from >= to {
            return CursorRead::All;
        }
        if self.disk.as_mut().is_some_and(Cursor::begin) {
            *keys_left = keys_left.saturating_sub(KEYS_FOR_BEGINNING);
            if *keys_left == 0 {
                return CursorRead::UpToHere;
            }
        }
        let saved = self.saved.lock();
        let bounds = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let mut saved_range = saved.cells.range::<[u8], _>(bounds);
        let mut next_saved = || match direction {
            Direction::Forward => saved_range.next(),
            Direction::Backward => saved_range.next_back(),
        };
        let records = saved.table.as_deref().unwrap_or(records);
        let mut table = records.unclean(self.column, (&from, &to), direction).peekable();
        let mut save = next_saved();
        loop {
            let on_disk = match &self.disk {
                Some(disk) if disk.item().is_none() && !disk.has_ended() => return CursorRead::Broken,
                Some(disk) => disk.item(),
                None => None,
            };
            let heads = [
                on_disk.map(|(key, _)| key),
                table.peek().map(|cell| cell.key),
                save.map(|(key, _)| &**key),
            ];
            let heads = heads.into_iter().flatten();
            let Some(key) = (match direction {
                Direction::Forward => heads.min(),
                Direction::Backward => heads.max(),
            }) else {
                return CursorRead::All;
            };
            let on_disk = on_disk.filter(|(disk_key, _)| *disk_key == key);
            let in_table = table.next_if(|cell| cell.key == key);
            let was_saved = save.filter(|(saved_key, _)| ***saved_key == *key);
            let from_disk = on_disk.map(|(_, value)| value);
            let value = match (was_saved, &in_table) {
                (Some((_, Saved::InTable(value))), _) => value.as_deref(),
                (Some((_, Saved::OnDisk)), _) | (None, None) => from_disk,
                (None, Some(cell)) => cell.value,
            };
            let flow = value.map_or(ControlFlow::Continue(()), |value| visit(key, value));
            let position = position.get_or_insert_default();
            position.clear();
            position.extend_from_slice(key);
            if was_saved.is_some() {
                save = next_saved();
            }
            if on_disk.is_some()
                && let Some(disk) = &mut self.disk
            {
                disk.advance();
            }
            *keys_left = keys_left.saturating_sub(1);
            if flow.is_break() || *keys_left == 0 {
                return CursorRead::UpToHere;
            }
        }
    }
}
