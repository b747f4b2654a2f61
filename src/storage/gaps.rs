//! Stretches of collections that are known to be empty, so that no read goes through them again.
//!
//! What was deleted lies in the way of every walk until it is compacted. Where all of it lies before the first member,
//! a number in the record tells where that one is; but one member that stays is enough, and each read walks past all
//! that was deleted behind it: entries that were acknowledged behind one that stays pending, members of a queue by
//! priority that were taken, entries of a stream that were deleted in its midst. So a collection that is not
//! [in memory](super::resident) is given a gap where a walk has passed over much: from one key to before another there
//! is nothing. Writes are applied to the gaps: a key that comes splits a gap, one that goes joins those on both sides.
//! Each deletion is walked past once, and those that touch a gap are not even that.

use super::database::{Column, Direction};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

/// With fewer deleted keys a gap saves less than it costs to begin a read behind it.
pub const DELETED_MIN: u64 = 64;

/// Gaps of all owners: some 16 MiB. The owner that got its first before all others is forgotten for more.
const GAPS_MAX: usize = 1 << 16;

/// Gaps of one owner: as many as members come while the gap is emptied of others.
const GAPS_OF_ONE_MAX: usize = GAPS_MAX / 16;

/// Longer keys are not remembered: with the others they bound the memory.
const KEY_LEN_MAX: usize = 128;

/// Nor those of owners with longer names.
const OWNER_LEN_MAX: usize = 1024;

type Key = Box<[u8]>;

/// Where a gap ends: before a key, or behind all keys of its owner. In this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Key),
    Last,
}

/// What is known of a stretch beside where it begins.
#[derive(Clone, Debug)]
struct Gap {
    end: End,
    /// About how many deleted keys lie in it.
    deleted: u64,
}

/// One owner's gaps by their first keys, which neither overlap nor touch.
#[derive(Default)]
struct OwnersGaps {
    by_start: BTreeMap<Key, Gap>,
    /// The newest epoch whose writes the gaps show.
    epoch: u64,
}

/// The gaps of a column.
#[derive(Default)]
struct ColumnsGaps {
    by_owner: HashMap<Key, OwnersGaps, foldhash::fast::RandomState>,
    queue: VecDeque<Key>,
    /// How many gaps there are.
    gaps: usize,
}

/// The gaps of a shard in `data` and `score`, by what the keys there begin with.
#[derive(Default)]
pub struct Gaps([ColumnsGaps; 2]);

/// A stretch without keys: its first key, and the key before which it ends; `None`: behind the last.
pub type Empty = (Vec<u8>, Option<Vec<u8>>);

/// The first key that is greater.
fn after(key: &[u8]) -> Key {
    [key, &[0]].concat().into()
}

fn end_before(key: Option<&[u8]>) -> End {
    key.map_or(End::Last, |key| End::Before(key.into()))
}

impl End {
    /// Whether a key lies before this end.
    fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => **end > *key,
            End::Last => true,
        }
    }

    fn len(&self) -> usize {
        match self {
            End::Before(key) => key.len(),
            End::Last => 0,
        }
    }
}

impl OwnersGaps {
    /// The gap that begins at or before a key last.
    fn at_or_before(&self, key: &[u8]) -> Option<(&Key, &Gap)> {
        let range = (Bound::Unbounded, Bound::Included(key));
        self.by_start.range::<[u8], _>(range).next_back()
    }

    fn insert(&mut self, from: Key, gap: Gap) {
        if gap.deleted >= DELETED_MIN
            && gap.end.is_behind(&from)
            && from.len().max(gap.end.len()) <= KEY_LEN_MAX
            && self.by_start.len() < GAPS_OF_ONE_MAX
        {
            self.by_start.insert(from, gap);
        }
    }

    /// Nothing but so many deleted keys lies from `from` to before an end.
    fn learn(&mut self, mut from: Key, mut gap: Gap) {
        loop {
            let last = match &gap.end {
                End::Before(to) => self.at_or_before(to),
                End::Last => self.by_start.last_key_value(),
            };
            let touching = last.filter(|(_, other)| match &other.end {
                End::Before(to) => *to >= from,
                End::Last => true,
            });
            let Some((other_from, other)) = touching.map(|(from, other)| (from.clone(), other.clone())) else {
                break;
            };
            self.by_start.remove(&other_from);
            from = from.min(other_from);
            gap = Gap {
                end: gap.end.max(other.end),
                deleted: gap.deleted + other.deleted,
            };
        }
        self.insert(from, gap);
    }

    /// A key comes. Nobody knows on which side of it what is deleted lies: each side is taken to have half of it. Where
    /// keys come in ascending order, the gap before which they come is forgotten soon.
    fn came(&mut self, key: &[u8]) {
        let around = self.at_or_before(key).filter(|(_, gap)| gap.end.is_behind(key));
        let Some((from, gap)) = around.map(|(from, gap)| (from.clone(), gap.clone())) else {
            return;
        };
        self.by_start.remove(&from);
        let deleted = gap.deleted / 2;
        self.insert(after(key), Gap { deleted, ..gap });
        let end = End::Before(key.into());
        self.insert(from, Gap { end, deleted });
    }

    fn went(&mut self, key: &[u8]) {
        let end = End::Before(after(key));
        let is_end = |gap: &Gap| matches!(&gap.end, End::Before(to) if **to == *key);
        let End::Before(next) = &end else { return };
        let touches = self.by_start.contains_key(next) || self.at_or_before(key).is_some_and(|(_, gap)| is_end(gap));
        if touches {
            self.learn(key.into(), Gap { end, deleted: 1 });
        }
    }

    /// The first gap in a direction of which some lies in a range that is not empty.
    fn next(&self, (from, to): (&[u8], Option<&[u8]>), direction: Direction) -> Option<(&Key, &Gap)> {
        let range = match (direction, to) {
            (Direction::Forward, _) => {
                let around = self.at_or_before(from).filter(|(_, gap)| gap.end.is_behind(from));
                let behind = (Bound::Excluded(from), Bound::Unbounded);
                around.or_else(|| self.by_start.range::<[u8], _>(behind).next())
            }
            (Direction::Backward, Some(to)) => {
                let before = (Bound::Unbounded, Bound::Excluded(to));
                self.by_start.range::<[u8], _>(before).next_back()
            }
            (Direction::Backward, None) => self.by_start.last_key_value(),
        };
        range.filter(|(start, gap)| to.is_none_or(|to| ***start < *to) && gap.end.is_behind(from))
    }
}

impl ColumnsGaps {
    /// The gaps of an owner change, if it has any.
    fn change(&mut self, owner: &[u8], change: impl FnOnce(&mut OwnersGaps)) {
        if let Some(gaps) = self.by_owner.get_mut(owner) {
            let before = gaps.by_start.len();
            change(gaps);
            self.gaps = self.gaps - before + gaps.by_start.len();
        }
    }

    fn forget(&mut self, owner: &[u8]) -> bool {
        let forgotten = self.by_owner.remove(owner);
        self.gaps -= forgotten.as_ref().map_or(0, |gaps| gaps.by_start.len());
        forgotten.is_some()
    }
}

impl Gaps {
    fn of(&self, column: Column) -> &ColumnsGaps {
        &self.0[usize::from(column == Column::Score)]
    }

    fn of_mut(&mut self, column: Column) -> &mut ColumnsGaps {
        assert!(matches!(column, Column::Data | Column::Score), "members have gaps");
        &mut self.0[usize::from(column == Column::Score)]
    }

    /// Whether none are known.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|gaps| gaps.by_owner.is_empty())
    }

    /// The newest epoch whose writes are shown by what is known of an owner, if anything is.
    pub fn epoch(&self, column: Column, owner: &[u8]) -> Option<u64> {
        let gaps = self.of(column);
        match gaps.by_owner.is_empty() {
            true => None,
            false => gaps.by_owner.get(owner).map(|gaps| gaps.epoch),
        }
    }

    /// The first stretch in a direction that is empty and of which some lies in a range of an owner's keys.
    pub fn next(
        &self,
        column: Column,
        owner: &[u8],
        range: (&[u8], Option<&[u8]>),
        direction: Direction,
    ) -> Option<Empty> {
        let (from, gap) = self.of(column).by_owner.get(owner)?.next(range, direction)?;
        let end = match &gap.end {
            End::Before(to) => Some(to.to_vec()),
            End::Last => None,
        };
        Some((from.to_vec(), end))
    }

    /// A read of an owner found nothing but so many deleted keys from `from` to before `to` (`None`: to the last), as
    /// of `epoch`.
    pub fn learn(
        &mut self,
        column: Column,
        owner: &[u8],
        (from, to): (&[u8], Option<&[u8]>),
        deleted: u64,
        epoch: u64,
    ) {
        let end = end_before(to);
        if from.len().max(end.len()) > KEY_LEN_MAX || owner.len() > OWNER_LEN_MAX || !end.is_behind(from) {
            return;
        }
        let gaps = self.of_mut(column);
        if !gaps.by_owner.contains_key(owner) {
            gaps.queue.push_back(owner.into());
            gaps.by_owner.insert(owner.into(), OwnersGaps::default());
        }
        gaps.change(owner, |gaps| {
            gaps.epoch = gaps.epoch.max(epoch);
            gaps.learn(from.into(), Gap { end, deleted });
        });
        while gaps.gaps.max(gaps.by_owner.len()) > GAPS_MAX
            && let Some(oldest) = gaps.queue.pop_front()
        {
            gaps.forget(&oldest);
        }
    }

    /// A key of an owner was written in `epoch`, or deleted.
    pub fn apply(&mut self, column: Column, owner: &[u8], key: &[u8], is_there: bool, epoch: u64) {
        self.of_mut(column).change(owner, |gaps| {
            gaps.epoch = epoch;
            match is_there {
                true => gaps.came(key),
                false => gaps.went(key),
            }
        });
    }

    /// What is known of an owner may not be true any more.
    pub fn drop_owner(&mut self, owner: &[u8]) {
        for gaps in &mut self.0 {
            if gaps.forget(owner) {
                gaps.queue.retain(|other| **other != *owner);
            }
        }
    }

    /// Nothing that is known may be true any more.
    pub fn clear(&mut self) {
        *self = Gaps::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;
    use std::collections::BTreeSet;

    const COLUMN: Column = Column::Data;

    fn key(number: u64) -> Vec<u8> {
        number.to_be_bytes()[6..].to_vec()
    }

    /// The first empty stretch of a range, and what a model has of the same range outside of it.
    fn check_next(
        gaps: &Gaps,
        live: &BTreeSet<Vec<u8>>,
        (from, to): (Vec<u8>, Option<Vec<u8>>),
        forward: bool,
    ) -> bool {
        let direction = if forward {
            Direction::Forward
        } else {
            Direction::Backward
        };
        let Some((gap_from, gap_to)) = gaps.next(COLUMN, b"q", (&from, to.as_deref()), direction) else {
            return false;
        };
        let is_in_gap = |key: &Vec<u8>| *key >= gap_from && gap_to.as_ref().is_none_or(|to| key < to);
        assert!(!live.iter().any(is_in_gap), "{gap_from:?} to {gap_to:?}");
        assert!(to.as_ref().is_none_or(|to| gap_from < *to) && gap_to.as_ref().is_none_or(|to| *to > from));
        true
    }

    #[test]
    fn gaps_are_empty_in_a_model_whatever_comes_and_goes() {
        let mut random = seeded_random::printed();
        let mut below = |bound: u64| random.random_range(0..bound);
        let (mut gaps, mut live): (Gaps, BTreeSet<Vec<u8>>) = (Gaps::default(), BTreeSet::new());
        let mut found = 0;
        for step in 0..30_000 {
            match below(10) {
                0..=3 => {
                    let new = key(below(3000));
                    gaps.apply(COLUMN, b"q", &new, true, step);
                    live.insert(new);
                }
                4..=6 => {
                    let gone = match below(3) {
                        0 => Some(key(below(3000))),
                        1 => live.last().cloned(),
                        _ => live.first().cloned(),
                    };
                    let Some(gone) = gone else { continue };
                    gaps.apply(COLUMN, b"q", &gone, false, step);
                    live.remove(&gone);
                }
                7 if below(50) == 0 => {
                    let from = key(below(3000));
                    let first = live.range(from.clone()..).next().cloned();
                    let to = first.or_else(|| (below(2) == 0).then(|| key(4000)));
                    gaps.learn(COLUMN, b"q", (&from, to.as_deref()), 100 + below(5000), step);
                }
                _ => {
                    let range = (key(below(3000)), (below(4) > 0).then(|| key(3000 + below(500))));
                    found += u64::from(check_next(&gaps, &live, range, below(2) == 0));
                    assert!(gaps.epoch(COLUMN, b"q").is_none_or(|epoch| epoch <= step));
                }
            }
            let known = gaps.of(COLUMN).by_owner.get(&b"q"[..]);
            assert_eq!(gaps.of(COLUMN).gaps, known.map_or(0, |known| known.by_start.len()));
            if step % 100 == 0
                && let Some(known) = known
            {
                let mut before: Option<End> = None;
                for (from, gap) in &known.by_start {
                    let touches = |end: End| !matches!(end, End::Before(end) if end < *from);
                    assert!(before.take().is_none_or(|end| !touches(end)), "gaps touch");
                    before = Some(gap.end.clone());
                }
            }
        }
        assert!(found > 1000, "{found} gaps were found");
    }

    #[test]
    fn a_gap_is_whole_again_when_all_that_came_into_it_has_gone() {
        let mut gaps = Gaps::default();
        gaps.learn(COLUMN, b"q", (&key(10), Some(&key(1000))), 100_000, 1);
        let all = (&[][..], None);
        for round in 0..5 {
            let came = [500, 20, 700, 300].map(|number| key(number + round));
            came.iter().for_each(|key| gaps.apply(COLUMN, b"q", key, true, 2));
            let lowest = gaps.next(COLUMN, b"q", all, Direction::Forward);
            assert_eq!(lowest, Some((key(10), Some(key(20 + round)))));
            let highest = gaps.next(COLUMN, b"q", all, Direction::Backward);
            assert_eq!(highest, Some((after(&key(700 + round)).to_vec(), Some(key(1000)))));
            came.iter().for_each(|key| gaps.apply(COLUMN, b"q", key, false, 3));
            let whole = gaps.next(COLUMN, b"q", all, Direction::Forward);
            assert_eq!(whole, Some((key(10), Some(key(1000)))));
        }
        assert_eq!(gaps.next(COLUMN, b"q", (&key(1000), None), Direction::Forward), None);
        assert_eq!(
            gaps.next(COLUMN, b"q", (b"", Some(&key(10))), Direction::Backward),
            None
        );
        assert_eq!(gaps.next(Column::Score, b"q", all, Direction::Forward), None);
        assert_eq!(gaps.epoch(COLUMN, b"q"), Some(3));
    }

    #[test]
    fn keys_that_ascend_leave_one_gap_before_them_and_the_memory_is_bounded() {
        let mut gaps = Gaps::default();
        gaps.learn(COLUMN, b"q", (&key(10), None), 100_000, 1);
        (1000..5000).for_each(|number| gaps.apply(COLUMN, b"q", &key(number), true, 2));
        let known = gaps.of(COLUMN).gaps;
        assert!((1..20).contains(&known), "{known} gaps");
        for owner in 0..2 * GAPS_MAX as u64 {
            gaps.learn(COLUMN, &owner.to_be_bytes(), (&key(1), Some(&key(2))), DELETED_MIN, 4);
        }
        let column = gaps.of(COLUMN);
        assert!(column.by_owner.len() <= GAPS_MAX && column.by_owner.len() == column.queue.len());
        assert!(column.gaps <= GAPS_MAX && gaps.epoch(COLUMN, b"q").is_none());
        gaps.drop_owner(&u64::to_be_bytes(2 * GAPS_MAX as u64 - 1));
        assert!(gaps.of(COLUMN).gaps < GAPS_MAX);
    }
}
