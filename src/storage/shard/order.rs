//! The order of a shard's sorted sets, read without looking again and again at what was deleted: see
//! [`crate::storage::orders`] and [`crate::storage::gaps`].

use super::{Owner, Shard, Visit, hash_of};
use crate::error::CommandError;
use crate::slots::Slot;
use crate::storage::database::{Column, Direction};
use crate::storage::encoding::{self, SCORE_MEMBERS};
use crate::storage::gaps::Gaps;
use crate::storage::orders::{Orders, WALK_MAX};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

impl Shard {
    /// The orders of hot sorted sets, for the metrics.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Where large sorted sets are known to be empty.
    pub fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// The same as [`Shard::scan_members`] of the order of a sorted set of `members` members.
    pub fn scan_order(
        &mut self,
        (owner, slot): (&Owner, Slot),
        members: u64,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        self.check_readable()?;
        if *from < SCORE_MEMBERS.0[..] || *to > SCORE_MEMBERS.1[..] {
            return self.scan_members((owner, slot), Column::Score, (from, Some(to)), direction, visit);
        }
        self.set_member_key(owner, slot, b"");
        if let Some(epoch) = self.visit_in_memory((from, to), direction, visit) {
            return Ok(epoch);
        }
        let hash = hash_of(&self.hasher, Column::Score, &self.key);
        if self.orders.is_wanted(hash, members) {
            self.keep_order((owner, slot))?;
            if let Some(epoch) = self.visit_in_memory((from, to), direction, visit) {
                return Ok(epoch);
            }
        }
        if !self.gaps.knows(&self.key) {
            return self.walk_order((owner, slot), (hash, members), (from, to), direction, visit);
        }
        let (mut from, mut to) = (from.to_vec(), to.to_vec());
        let (begin, end) = match direction {
            Direction::Forward => (&mut from, &to),
            Direction::Backward => (&mut to, &from),
        };
        let (ended, epoch) = self.pass_gaps((owner, slot), (begin, end), direction, visit)?;
        if ended || from >= to {
            return Ok(epoch);
        }
        let seen = self.walk_order((owner, slot), (hash, members), (&from, &to), direction, visit)?;
        Ok(epoch.max(seen))
    }

    /// Goes from where the read of a range begins past gaps, and visits members that lie alone between two, at most to
    /// where it ends. Returns whether `visit` broke off, and the newest epoch whose writes were seen.
    fn pass_gaps(
        &mut self,
        (owner, slot): (&Owner, Slot),
        (begin, end): (&mut Vec<u8>, &[u8]),
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(bool, u64), CommandError> {
        let owner_key = self.key.clone();
        let mut newest = self.gaps.epoch(&owner_key);
        loop {
            if let Some(past) = self.gaps.past(&owner_key, begin, direction) {
                *begin = past.into();
            }
            let alone = self.gaps.alone(&owner_key, begin, direction);
            let in_range = |key: &[u8]| match direction {
                Direction::Forward => key < end,
                Direction::Backward => key >= end,
            };
            let Some((alone, past)) = alone.filter(|(key, _)| in_range(key)) else {
                return Ok((false, newest));
            };
            let (value, epoch) = self.member((owner, slot), Column::Score, &alone)?;
            newest = newest.max(epoch);
            if value.is_some_and(|value| visit(&alone, value).is_break()) {
                return Ok((true, newest));
            }
            *begin = past;
        }
    }

    /// Visits what is kept in memory of the owner whose key is in `self.key`, if anything is.
    fn visit_in_memory(&mut self, range: (&[u8], &[u8]), direction: Direction, visit: &mut Visit<'_>) -> Option<u64> {
        self.orders.visit(&self.key, range, direction, |key| visit(key, b""))
    }

    /// Reads the whole order of an owner, to keep it in memory. The owner is in `self.key`, before and after.
    fn keep_order(&mut self, (owner, slot): (&Owner, Slot)) -> Result<(), CommandError> {
        let mut keys = BTreeSet::new();
        let range = (&SCORE_MEMBERS.0[..], Some(&SCORE_MEMBERS.1[..]));
        let epoch = self.scan_members(
            (owner, slot),
            Column::Score,
            range,
            Direction::Forward,
            &mut |key, _| {
                keys.insert(key.into());
                ControlFlow::Continue(())
            },
        )?;
        self.set_member_key(owner, slot, b"");
        self.orders.keep(&self.key, keys, epoch);
        Ok(())
    }

    /// Reads an order from the disk and what is staged, and remembers it if that is slow.
    fn walk_order(
        &mut self,
        (owner, slot): (&Owner, Slot),
        (hash, members): (u64, u64),
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<u64, CommandError> {
        let began = Instant::now();
        let (mut visited, mut first): (u32, Option<Vec<u8>>) = (0, None);
        let range = (from, Some(to));
        let epoch = self.scan_members((owner, slot), Column::Score, range, direction, &mut |key, value| {
            if visited == 0 && began.elapsed() > WALK_MAX {
                // A gap ends before the first key, or begins after it.
                let end: &[u8] = if direction == Direction::Forward { b"" } else { &[0] };
                first = Some([key, end].concat());
            }
            visited += 1;
            visit(key, value)
        })?;
        let elapsed = began.elapsed();
        self.orders.walked(hash, visited, elapsed);
        if !Orders::may_keep(members) && elapsed > WALK_MAX {
            let empty = match (&first, direction) {
                _ if visited == 0 => Some((from, to)),
                (Some(first), Direction::Forward) => Some((from, &first[..])),
                (Some(after_first), Direction::Backward) => Some((&after_first[..], to)),
                (None, _) => None,
            };
            if let Some((from, to)) = empty {
                self.set_member_key(owner, slot, b"");
                self.gaps.learn(&self.key, (from, to), epoch);
            }
        }
        Ok(epoch)
    }

    /// The key in `self.key`, of the column `score`, was staged or deleted; `member` is its end.
    #[inline]
    pub(super) fn order_changed(&mut self, member: &[u8], is_there: bool) {
        if (self.orders.is_empty() && self.gaps.is_empty()) || !encoding::is_score_member(member) {
            return;
        }
        let owner = &self.key[..self.key.len() - member.len()];
        self.orders.apply(owner, member, is_there, self.epoch);
        self.gaps.apply(owner, member, is_there, self.epoch);
    }

    /// Nothing that is known of any order may be true any more.
    pub(super) fn forget_orders(&mut self) {
        self.orders.clear();
        self.gaps.clear();
    }
}

/// A write to a key of the column `score` was taken back: what is known of its owner may not be true any more.
pub(super) fn forget_owner_of(orders: &mut Orders, gaps: &mut Gaps, key: &[u8]) {
    if let Some(owner) = encoding::before_member(key) {
        orders.drop_owner(owner);
        gaps.drop_owner(owner);
    }
}
