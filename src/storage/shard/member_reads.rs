//! How a shard's members are read: in memory where they are [resident](crate::storage::resident), or else from the disk
//! with what is staged; and without looking again and again at what was deleted there ([`crate::storage::gaps`]).

use super::{Found, Owner, Shard, ShardState, hash_of};
use crate::error::CommandError;
use crate::faults;
use crate::slots::Slot;
use crate::storage::database::{Column, DeletedPassed, Direction, MemberRange, Visit};
use crate::storage::encoding::{self, Record};
use crate::storage::gaps::{DELETED_MIN, Empty, Gaps};
use crate::storage::missed_reads::MissedRead;
use crate::storage::records::EntryIndex;
use crate::storage::resident::residents::{LOADED_CELLS_MAX, LoadedCells, Residents, Trusted, Written, is_large_cell};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// A load that takes longer ends with the cell that it is at: between cells many others may be deleted.
const LOAD_MAX: Duration = Duration::from_millis(1);

/// Deleted cells that a load passes over between one cell and the next: half a millisecond. A list that was popped has
/// them before its first cell, one that was trimmed behind its last, as many as there ever were.
const DELETED_PASSED_MAX: u64 = 4096;

/// Cells that a check of what is in memory compares.
const CHECKED_MAX: usize = 2048;

/// Reads of members.
impl Shard {
    /// The value of a member of a collection, and the newest epoch whose writes were seen in finding it.
    pub fn member(
        &mut self,
        (owner, slot): (&Owner, Slot),
        column: Column,
        member: &[u8],
    ) -> Result<(Option<&[u8]>, u64), CommandError> {
        self.check_readable()?;
        self.set_member_key(owner, slot, member);
        let owner_len = self.key.len() - member.len();
        if self.residents.is_authority(&self.key[..owner_len]) {
            let (value, epoch) = self.residents.get(&self.key[..owner_len], column, member);
            return Ok((value, epoch.max(self.whole_epoch)));
        }
        if self.residents.is_newborn(&self.key[..owner_len]) {
            return Ok((None, self.whole_epoch));
        }
        self.miss_on_request(column)?;
        let hash = hash_of(&self.hasher, column, &self.key);
        if let Some(entry) = self.records.find(hash, column, &self.key) {
            return Ok(self.member_at(entry));
        }
        if self.residents.knows(&self.key[..owner_len], column, member) {
            if faults::checks_residents() {
                self.check_resident_member(column, owner_len, hash)?;
            }
            let (value, epoch) = self.residents.get(&self.key[..owner_len], column, member);
            return Ok((value, epoch.max(self.whole_epoch)));
        }
        let found = self.find_on_disk(hash, column)?;
        let epoch = match &found {
            Found::Entry(entry) => self.records.epoch(*entry),
            Found::Large | Found::Absent => 0,
        };
        Ok((self.stored(&found), epoch.max(self.whole_epoch)))
    }

    fn member_at(&self, entry: EntryIndex) -> (Option<&[u8]>, u64) {
        let epoch = self.records.epoch(entry).max(self.whole_epoch);
        (self.records.value(entry), epoch)
    }

    /// Calls `visit` with the members of a collection that has `members` members, as its record says, from one
    /// (inclusive) to another (exclusive; `None`: to the last) and their values, in their order or backwards, until it
    /// breaks. Returns the newest epoch whose writes were seen.
    pub fn scan_members(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        self.check_readable()?;
        self.set_member_key(owner, slot, b"");
        if let Some(epoch) = self.visit_resident(column, range, direction, visit) {
            return Ok(epoch);
        }
        match direction {
            Direction::Forward => self.scan_forward((owner, slot), members, column, range, visit),
            Direction::Backward => self.scan_backward((owner, slot), members, column, range, visit),
        }
    }

    /// The same, if all members of the range are in memory, or are from now on; `None` if they are not.
    pub fn scan_in_memory(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<Option<u64>, CommandError> {
        self.check_readable()?;
        self.set_member_key(owner, slot, b"");
        let seen = self.visit_resident(column, range, direction, visit);
        if seen.is_some() || !self.load_step((owner, slot), members, column, range.1)? {
            return Ok(seen);
        }
        Ok(self.visit_resident(column, range, direction, visit))
    }

    /// Whether a collection is whole in memory, and what is written to it is staged nowhere else.
    pub fn is_authority_in_memory(&mut self, (owner, slot): (&Owner, Slot)) -> bool {
        self.set_member_key(owner, slot, b"");
        self.residents.is_authority(&self.key) || self.residents.is_newborn(&self.key)
    }

    /// How many bytes a collection's members take in memory, if all are there.
    pub fn bytes_in_memory(&mut self, (owner, slot): (&Owner, Slot)) -> Option<u64> {
        self.set_member_key(owner, slot, b"");
        self.residents.bytes_of(&self.key).map(|bytes| bytes as u64)
    }

    /// A command needs what only memory tells of a collection. Fails with [`CommandError::NotInMemory`] if the command
    /// may wait until the collection is there, and that it fits is not ruled out.
    pub fn need_in_memory(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        column: Column,
    ) -> Result<(), CommandError> {
        self.set_member_key(owner, slot, b"");
        match self.misses.may_miss && self.residents.has_room_for(members) {
            true => Err(self.miss(MissedRead::Members(column, owner.clone(), members))),
            false => Ok(()),
        }
    }

    /// Loads more of a collection, for half a millisecond or a little more. Returns whether there is nothing more to
    /// be loaded.
    pub fn load_members(&mut self, owner: &Owner, members: u64, column: Column) -> Result<bool, CommandError> {
        self.check_readable()?;
        let slot = Slot::of(&owner.key);
        let (record, _) = self.read_header(owner.database, slot, &owner.key)?;
        if record.is_none_or(|record| record.version != owner.version) {
            // It was deleted meanwhile.
            return Ok(true);
        }
        self.set_member_key(owner, slot, b"");
        self.residents.remember_read(&self.key);
        let loads_left = std::mem::replace(&mut self.loads_left, 1);
        let has_loaded = self.load_step((owner, slot), members, column, None);
        self.loads_left = loads_left;
        Ok(!has_loaded?)
    }

    /// How many members of a sorted set of `members` members have keys in `score` below `key`, and the newest epoch
    /// whose writes were seen; `None` if they are not in memory.
    pub fn rank_in_memory(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        key: &[u8],
    ) -> Result<Option<(u64, u64)>, CommandError> {
        self.check_readable()?;
        self.set_member_key(owner, slot, b"");
        let rank = self.residents.rank(&self.key, Column::Score, key);
        if rank.is_some() || !self.load_step((owner, slot), members, Column::Score, Some(key))? {
            return Ok(rank);
        }
        Ok(self.residents.rank(&self.key, Column::Score, key))
    }

    /// The key in a column of a collection before which lie `rank` others, which are fewer than its `members` members,
    /// and the newest epoch whose writes were seen; `None` if they are not in memory.
    pub fn key_at_rank_in_memory(
        &mut self,
        (owner, slot): (&Owner, Slot),
        (members, column): (u64, Column),
        rank: u64,
    ) -> Result<Option<(Vec<u8>, u64)>, CommandError> {
        self.check_readable()?;
        self.set_member_key(owner, slot, b"");
        let key = self.residents.key_at(&self.key, column, rank);
        if key.is_some() || !self.load_step((owner, slot), members, column, None)? {
            return Ok(key);
        }
        Ok(self.residents.key_at(&self.key, column, rank))
    }
}

/// Reads of members that are not all in memory. The owner, without a member, is in `self.key`, before and after.
impl Shard {
    /// Visits a range that is known in memory; `None` if it is not.
    #[inline]
    fn visit_resident(
        &mut self,
        column: Column,
        range: MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Option<u64> {
        if faults::checks_residents() {
            self.check_resident(column, range, direction);
        }
        match self.residents.visit(&self.key, column, range, direction, visit) {
            Some(epoch) => Some(epoch.max(self.whole_epoch)),
            None => self.residents.is_newborn(&self.key).then_some(self.whole_epoch),
        }
    }

    /// Visits what is known of a range from its beginning on, then loads some, visits that, and reads the rest from the
    /// disk.
    fn scan_forward(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        column: Column,
        (from, to): MemberRange<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        let (mut at, mut newest) = (from.to_vec(), 0);
        for loads in [false, true] {
            if loads {
                if !self.load_step((owner, slot), members, column, to)? {
                    break;
                }
                if let Some(epoch) = self.visit_resident(column, (&at, to), Direction::Forward, visit) {
                    return Ok(newest.max(epoch));
                }
            }
            let Some(end) = self.residents.known_to(&self.key, column, &at) else {
                continue;
            };
            let mut has_ended = false;
            let epoch = self.visit_resident(column, (&at, Some(&end)), Direction::Forward, &mut |member, value| {
                let flow = visit(member, value);
                has_ended = flow.is_break();
                flow
            });
            newest = newest.max(epoch.expect("what is below the end is known"));
            if has_ended {
                return Ok(newest);
            }
            at = end;
        }
        let epoch = self.scan_on_disk((owner, slot), column, (&at, to), Direction::Forward, visit)?;
        Ok(newest.max(epoch))
    }

    /// Loads some, and reads from the disk what is not known of a range: its end.
    fn scan_backward(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        column: Column,
        (from, to): MemberRange<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        if self.load_step((owner, slot), members, column, to)?
            && let Some(epoch) = self.visit_resident(column, (from, to), Direction::Backward, visit)
        {
            return Ok(epoch);
        }
        let Some(end) = self.residents.known_to(&self.key, column, from) else {
            return self.scan_on_disk((owner, slot), column, (from, to), Direction::Backward, visit);
        };
        let mut has_ended = false;
        let epoch = self.scan_on_disk(
            (owner, slot),
            column,
            (&end, to),
            Direction::Backward,
            &mut |member, value| {
                let flow = visit(member, value);
                has_ended = flow.is_break();
                flow
            },
        )?;
        if has_ended {
            return Ok(epoch);
        }
        let below = self.visit_resident(column, (from, Some(&end)), Direction::Backward, visit);
        Ok(epoch.max(below.expect("what is below the end is known")))
    }

    /// Tells the collections in memory the type of one that was loaded, for INFO.
    fn tell_kind(&mut self, (owner, slot): (&Owner, Slot)) {
        let mut key = Vec::new();
        encoding::meta_key(&mut key, self.physical(owner.database), slot, &owner.key);
        let hash = hash_of(&self.hasher, Column::Meta, &key);
        let record = self.records.look_at(hash, Column::Meta, &key).and_then(Record::decode);
        if let Some(kind) = record.map(|record| record.kind) {
            self.residents.tell_kind(&self.key, kind);
        }
    }

    /// Loads the next cells of an owner, if this read, which ends at `to`, is to do so; whether it did.
    fn load_step(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        column: Column,
        to: Option<&[u8]>,
    ) -> Result<bool, CommandError> {
        if self.loads_left == 0 {
            return Ok(false);
        }
        let Some((from, end)) = self.residents.load_range(&self.key, column, members, to) else {
            return Ok(false);
        };
        self.loads_left -= 1;
        let past_gap = self.end_of_gap_at(column, (&from, end.as_deref()));
        let range = (past_gap.as_deref().unwrap_or(&from), end.as_deref());
        let (from, to, prefix_len) = self.member_range((owner, slot), range);
        let cells_max = faults::loaded_cells(LOADED_CELLS_MAX);
        let (mut cells, mut known_to, mut is_large) = (LoadedCells::default(), None, false);
        let began = Instant::now();
        let load = |key: &[u8], value: &[u8]| {
            let member = &key[prefix_len..];
            is_large = is_large_cell(member, value);
            if is_large || cells.are_enough(cells_max) || !cells.is_empty() && began.elapsed() > LOAD_MAX {
                known_to = Some(member.to_vec());
                return ControlFlow::Break(());
            }
            cells.push(member, value);
            ControlFlow::Continue(())
        };
        let deleted_max = Some(DELETED_PASSED_MAX);
        let (epoch, gave_up_at) =
            self.scan_past_deleted(deleted_max, column, (&from, &to), Direction::Forward, load)?;
        if is_large {
            self.residents.refuse_large_cell(&self.key);
            return Ok(false);
        }
        if gave_up_at.as_ref().is_some_and(|gave_up_at| *gave_up_at == from) {
            self.residents.give_up_load(&self.key, column, end);
            return Ok(false);
        }
        let gave_up_at = gave_up_at.map(|key| key[prefix_len..].to_vec());
        let known_to = known_to.or(gave_up_at).or(end);
        self.forget_records_of(column, &cells);
        self.residents.extend(&self.key, column, &cells, known_to, epoch);
        if self.residents.lacks_kind(&self.key) {
            self.tell_kind((owner, slot));
        }
        if column == Column::Data && self.residents.lacks_only(&self.key, Column::Score) {
            // Mostly there is nothing in it, and the collection is whole then.
            self.loads_left += 1;
            self.load_step((owner, slot), members, Column::Score, None)?;
        }
        Ok(true)
    }

    /// Lets the table of records go of what is in memory twice: the owner is in `self.key`.
    fn forget_records_of(&mut self, column: Column, cells: &LoadedCells) {
        let owner_len = self.key.len();
        for (member, _) in cells.iter() {
            self.key.extend_from_slice(member);
            let hash = hash_of(&self.hasher, column, &self.key);
            self.records.forget_clean(hash, column, &self.key);
            self.key.truncate(owner_len);
        }
    }

    /// Where the gap ends that has the first key of a range, if one has and it ends before the range does.
    fn end_of_gap_at(&self, column: Column, (from, to): MemberRange<'_>) -> Option<Vec<u8>> {
        self.gaps.epoch(column, &self.key)?;
        let (begin, end) = self.gaps.next(column, &self.key, (from, to), Direction::Forward)?;
        end.filter(|end| *begin <= *from && to.is_none_or(|to| **end < *to))
    }

    /// Reads a range from the disk and what is staged, but for what of it is known to be empty.
    fn scan_on_disk(
        &mut self,
        (owner, slot): (&Owner, Slot),
        column: Column,
        (from, to): MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        let Some(mut newest) = self.gaps.epoch(column, &self.key) else {
            return self.walk((owner, slot), column, (from, to), direction, visit);
        };
        let has_ended = Cell::new(false);
        let mut visit = |member: &[u8], value: &[u8]| {
            let flow = visit(member, value);
            has_ended.set(flow.is_break());
            flow
        };
        let (mut from, mut to) = (from.to_vec(), to.map(<[u8]>::to_vec));
        while to.as_ref().is_none_or(|to| from < *to) {
            let gap = self.gaps.next(column, &self.key, (&from, to.as_deref()), direction);
            let Some((gap_from, gap_to)) = gap else {
                let seen = self.walk((owner, slot), column, (&from, to.as_deref()), direction, &mut visit)?;
                return Ok(newest.max(seen));
            };
            // Up to the gap; then the rest lies behind it.
            let stretch = match direction {
                Direction::Forward => Some((&from[..], Some(&gap_from[..]))),
                Direction::Backward => gap_to.as_deref().map(|gap_to| (gap_to.max(&from[..]), to.as_deref())),
            };
            if let Some(stretch) = stretch.filter(|(from, to)| to.is_none_or(|to| *from < to)) {
                let seen = self.read_stretch((owner, slot), column, stretch, direction, &mut visit)?;
                newest = newest.max(seen);
            }
            match (direction, gap_to) {
                _ if has_ended.get() => break,
                (Direction::Forward, Some(gap_to)) => from = gap_to,
                (Direction::Forward, None) => break,
                (Direction::Backward, _) => to = Some(gap_from),
            }
        }
        Ok(newest)
    }

    /// Reads between two gaps, where there may be one member alone.
    fn read_stretch(
        &mut self,
        (owner, slot): (&Owner, Slot),
        column: Column,
        (from, to): MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        let is_alone = to.and_then(<[u8]>::split_last) == Some((&0, from));
        if !is_alone {
            return self.walk((owner, slot), column, (from, to), direction, visit);
        }
        let (value, epoch) = self.member((owner, slot), column, from)?;
        if let Some(value) = value {
            // Whether it goes on the visitor remembers.
            let _ = visit(from, value);
        }
        self.set_member_key(owner, slot, b"");
        Ok(epoch)
    }

    /// Reads a range from the disk and what is staged, and remembers where much is deleted.
    fn walk(
        &mut self,
        (owner, slot): (&Owner, Slot),
        column: Column,
        (from, to): MemberRange<'_>,
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        let (from_key, to_key, prefix_len) = self.member_range((owner, slot), (from, to));
        let (deleted, mut on_disk) = (Cell::new(0), DeletedPassed::from_now());
        let mut empty: Vec<(Empty, u64)> = Vec::new();
        // The end of the range that is still to be read: its beginning, or backwards its end.
        let mut rest = match direction {
            Direction::Forward => Some(from.to_vec()),
            Direction::Backward => to.map(<[u8]>::to_vec),
        };
        let (mut has_ended, mut passed_before) = (false, 0);
        let give = |key: &[u8], value: &[u8]| {
            let (member, passed) = (&key[prefix_len..], deleted.take() + on_disk.take());
            passed_before += passed;
            if passed >= DELETED_MIN {
                let stretch = match direction {
                    Direction::Forward => (rest.clone().unwrap_or_default(), Some(member.to_vec())),
                    Direction::Backward => (encoding::first_behind(member.to_vec()), rest.clone()),
                };
                empty.push((stretch, passed));
            }
            let rest = rest.get_or_insert_default();
            rest.clear();
            rest.extend_from_slice(member);
            if direction == Direction::Forward {
                rest.push(0);
            }
            let flow = visit(member, value);
            has_ended = flow.is_break();
            flow
        };
        let epoch = self.scan_counting_deleted(&deleted, column, (&from_key, &to_key), direction, give)?;
        let passed = deleted.take() + on_disk.take();
        self.deleted_passed += passed_before + passed;
        if !has_ended && passed >= DELETED_MIN {
            let stretch = match direction {
                Direction::Forward => (rest.unwrap_or_default(), to.map(<[u8]>::to_vec)),
                Direction::Backward => (from.to_vec(), rest),
            };
            empty.push((stretch, passed));
        }
        for ((from, to), passed) in &empty {
            self.gaps
                .learn(column, &self.key, (from, to.as_deref()), *passed, epoch);
        }
        if !empty.is_empty() {
            self.residents.try_again(&self.key, column);
        }
        Ok(epoch)
    }
}

/// What is known of members follows the writes.
impl Shard {
    /// The collections in memory, for the metrics.
    pub fn residents(&self) -> &Residents {
        &self.residents
    }

    /// Whether room was needed since the last call for collections in memory, and RocksDB has to make it.
    pub fn take_needs_clean(&mut self) -> bool {
        self.residents.take_needs_clean()
    }

    /// How many deleted members walks have passed over, in memory and on the disk.
    pub fn deleted_passed(&self) -> u64 {
        self.deleted_passed
    }

    /// Where collections are known to be empty.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// The cell of `member`, whose key is in `self.key`, is set or deleted (`None`). Returns whether it is staged with
    /// that; if not, it is about to be.
    #[inline]
    pub(super) fn cell_changes(&mut self, column: Column, member: &[u8], value: Option<&[u8]>) -> bool {
        let owner = &self.key[..self.key.len() - member.len()];
        let may_take_over = !self.records.has_staged();
        let cell = (column, member, value);
        if let Written::Alone { is_new } = self.residents.write(owner, cell, self.epoch, may_take_over) {
            self.member_operations.write(owner, column, (member, value), is_new);
            // Only what comes: what goes may be taken back.
            if value.is_some() && !self.gaps.is_empty() {
                self.gaps.apply(column, owner, member, true, self.epoch);
            }
            return true;
        }
        if !self.gaps.is_empty() {
            self.gaps.apply(column, owner, member, value.is_some(), self.epoch);
        }
        false
    }

    /// The record in `self.key`, of `meta`, is about to become one of another version, or none: nobody reads the
    /// members of `version` any more.
    pub(super) fn drop_members(&mut self, version: u64) {
        if !self.residents.is_empty()
            && let Some(owner) = encoding::members_of_version(&self.key, version)
        {
            self.residents.drop_dead(&owner);
        }
    }

    /// A command has failed: if that was by a panic between a change in memory and its staging, nothing that is known
    /// of any members is trusted any more. Where they were known nowhere else, the shard stops: a restart reads them
    /// from the log.
    pub(super) fn distrust_half_changed(&mut self) {
        let trusted = self.residents.command_failed();
        if trusted != Trusted::All {
            self.gaps.clear();
        }
        if trusted == Trusted::Lost {
            let text =
                "a command failed in the midst of a change in memory: a restart reads what was there from the log";
            tracing::error!(shard = self.id.0, "{text}");
            self.state = ShardState::Unavailable(text.to_owned());
        }
    }
}

/// A write to a key of the column `data` or `score` was taken back: what is known of its owner may not be true any
/// more.
pub(super) fn forget_owner_of(residents: &mut Residents, gaps: &mut Gaps, key: &[u8]) {
    if let Some(owner) = encoding::before_member(key) {
        residents.distrust(owner);
        gaps.drop_owner(owner);
    }
}

/// Checks that are made on request, in tests.
impl Shard {
    /// Compares what is in memory of a range with what the disk has and what is staged.
    #[cold]
    fn check_resident(&mut self, column: Column, (from, to): MemberRange<'_>, direction: Direction) {
        if self.residents.has_alone(&self.key) {
            return;
        }
        let mut found = Vec::new();
        let collect = |cells: &mut Vec<(Vec<u8>, Vec<u8>)>, key: &[u8], value: &[u8]| {
            cells.push((key.to_vec(), value.to_vec()));
            match cells.len() < CHECKED_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let known = self
            .residents
            .visit(&self.key, column, (from, to), direction, &mut |key, value| {
                collect(&mut found, key, value)
            });
        if known.is_none() {
            return;
        }
        let prefix_len = self.key.len();
        let with_owner = |member: &[u8]| [&self.key[..], member].concat();
        let to = to.map_or_else(|| encoding::after_prefix(self.key.clone()), with_owner);
        let (from, mut expected) = (with_owner(from), Vec::new());
        let read = self.scan_range(column, (&from, &to), direction, |key, value| {
            collect(&mut expected, &key[prefix_len..], value)
        });
        if read.is_ok() {
            assert!(
                found == expected,
                "{column:?} of {:?} from {from:?} to {to:?}: in memory {found:?}, on disk {expected:?}",
                self.key
            );
        }
    }

    /// Compares what is in memory of the member in `self.key`, whose `hash` is not in the table of records, with what
    /// the disk has.
    #[cold]
    fn check_resident_member(&mut self, column: Column, owner_len: usize, hash: u64) -> Result<(), CommandError> {
        if self.residents.has_alone(&self.key[..owner_len]) {
            return Ok(());
        }
        let found = self.find_on_disk(hash, column)?;
        let stored = self.stored(&found).map(<[u8]>::to_vec);
        let (owner, member) = self.key.split_at(owner_len);
        let (value, _) = self.residents.get(owner, column, member);
        assert!(
            value == stored.as_deref(),
            "{column:?} {:?}: in memory {value:?}, on disk {stored:?}",
            self.key
        );
        Ok(())
    }
}
