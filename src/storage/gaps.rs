//! Stretches of large sorted sets' orders that are known to be empty, so that no read goes through them again.
//!
//! A queue by priority takes the lowest member again and again, and members come with any score below the others:
//! between the lowest and the next lie all that were taken before, deleted but not compacted. To walk past them takes
//! the longer the more there are. A set that is not [in memory](super::resident) is given a gap where such a walk was
//! slow: from one key to before another there is nothing. Writes are applied to the gaps: a key that
//! comes splits a gap, one that goes joins those on both sides.

use super::database::Direction;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Owners whose gaps are remembered; the oldest is forgotten for another one.
const OWNERS_MAX: usize = 64;

/// Gaps of one owner: as many as members come while the gap is emptied of others.
const GAPS_MAX: usize = 1024;

/// Longer keys are not remembered: with the others they bound the memory, at some 16 MiB at the very most.
const KEY_LEN_MAX: usize = 128;

/// Nor those of owners with longer names.
const OWNER_LEN_MAX: usize = 1024;

type Key = Box<[u8]>;

/// One owner's gaps, which neither overlap nor touch: from a key to before another.
#[derive(Default)]
struct OwnersGaps {
    by_start: BTreeMap<Key, Key>,
    /// The newest epoch whose writes the gaps show.
    epoch: u64,
}

/// The gaps of a shard, by what the keys in `score` begin with.
#[derive(Default)]
pub struct Gaps {
    by_owner: HashMap<Key, OwnersGaps, foldhash::fast::RandomState>,
    queue: VecDeque<Key>,
}

/// The first key that is greater.
fn after(key: &[u8]) -> Key {
    [key, &[0]].concat().into()
}

impl OwnersGaps {
    /// The gap that begins at or before a key last.
    fn at_or_before(&self, key: &[u8]) -> Option<(Key, Key)> {
        let (from, to) = self
            .by_start
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        Some((from.clone(), to.clone()))
    }

    fn insert(&mut self, from: Key, to: Key) {
        if from < to && from.len().max(to.len()) <= KEY_LEN_MAX && self.by_start.len() < GAPS_MAX {
            self.by_start.insert(from, to);
        }
    }

    /// Nothing lies from `from` to before `to`.
    fn learn(&mut self, mut from: Key, mut to: Key) {
        while let Some((other_from, other_to)) = self.at_or_before(&to).filter(|(_, other_to)| *other_to >= from) {
            self.by_start.remove(&other_from);
            (from, to) = (from.min(other_from), to.max(other_to));
        }
        self.insert(from, to);
    }

    fn came(&mut self, key: &[u8]) {
        if let Some((from, to)) = self.at_or_before(key).filter(|(_, to)| **to > *key) {
            self.by_start.remove(&from);
            self.insert(after(key), to);
            self.insert(from, key.into());
        }
    }

    fn went(&mut self, key: &[u8]) {
        let next = after(key);
        let touches = self.by_start.contains_key(&next) || self.at_or_before(key).is_some_and(|(_, to)| *to == *key);
        if touches {
            self.learn(key.into(), next);
        }
    }
}

impl Gaps {
    /// Whether none are known.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_owner.is_empty()
    }

    /// Whether any are known of an owner.
    pub fn knows(&self, owner: &[u8]) -> bool {
        self.by_owner.contains_key(owner)
    }

    /// The newest epoch whose writes are shown by what is known of an owner.
    pub fn epoch(&self, owner: &[u8]) -> u64 {
        self.by_owner.get(owner).map_or(0, |gaps| gaps.epoch)
    }

    /// Where a read of an owner's keys may begin instead of at `end`: that is the first key that it would visit, or
    /// the one after it if it goes backwards. `None` if no gap is known there.
    pub fn past(&self, owner: &[u8], end: &[u8], direction: Direction) -> Option<Key> {
        let (from, to) = self.by_owner.get(owner)?.at_or_before(end)?;
        match direction {
            Direction::Forward => Some(to).filter(|to| **to > *end),
            // A gap that begins at `end` lies behind it; the gap before ends before `end`.
            Direction::Backward => Some(from).filter(|from| **from < *end && *end <= *to),
        }
    }

    /// The key which a read that begins at `end` would visit first if it is there, if a gap begins behind it; and where
    /// the read goes on then.
    pub fn alone(&self, owner: &[u8], end: &[u8], direction: Direction) -> Option<(Vec<u8>, Vec<u8>)> {
        let gaps = self.by_owner.get(owner)?;
        match direction {
            Direction::Forward => {
                let next = after(end);
                gaps.by_start.contains_key(&next).then(|| (end.to_vec(), next.into()))
            }
            Direction::Backward => {
                let (0, key) = end.split_last()? else { return None };
                let (_, to) = gaps.at_or_before(key)?;
                (*to == *key).then(|| (key.to_vec(), key.to_vec()))
            }
        }
    }

    /// A read of an owner found nothing from `from` to before `to`, as of `epoch`.
    pub fn learn(&mut self, owner: &[u8], (from, to): (&[u8], &[u8]), epoch: u64) {
        if from.len().max(to.len()) > KEY_LEN_MAX || owner.len() > OWNER_LEN_MAX || from >= to {
            return;
        }
        if !self.by_owner.contains_key(owner) {
            if self.queue.len() == OWNERS_MAX
                && let Some(oldest) = self.queue.pop_front()
            {
                self.by_owner.remove(&oldest);
            }
            self.queue.push_back(owner.into());
        }
        let gaps = self.by_owner.entry(owner.into()).or_default();
        gaps.epoch = gaps.epoch.max(epoch);
        gaps.learn(from.into(), to.into());
    }

    /// A key of an owner was written in `epoch`, or deleted.
    pub fn apply(&mut self, owner: &[u8], key: &[u8], is_there: bool, epoch: u64) {
        let Some(gaps) = self.by_owner.get_mut(owner) else {
            return;
        };
        gaps.epoch = epoch;
        match is_there {
            true => gaps.came(key),
            false => gaps.went(key),
        }
    }

    /// What is known of an owner may not be true any more.
    pub fn drop_owner(&mut self, owner: &[u8]) {
        if self.by_owner.remove(owner).is_some() {
            self.queue.retain(|other| **other != *owner);
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

    fn key(number: u64) -> Vec<u8> {
        number.to_be_bytes()[6..].to_vec()
    }

    #[test]
    fn gaps_are_empty_in_a_model_and_lead_past_what_a_queue_has_deleted() {
        let mut random = seeded_random::printed();
        let mut below = |bound: u64| random.random_range(0..bound);
        let (mut gaps, mut live): (Gaps, BTreeSet<Vec<u8>>) = (Gaps::default(), BTreeSet::new());
        for step in 0..30_000 {
            match below(10) {
                0..=3 => {
                    let new = key(below(3000));
                    gaps.apply(b"q", &new, true, step);
                    live.insert(new);
                }
                4..=6 => {
                    let gone = match below(3) {
                        0 => Some(key(below(3000))),
                        1 => live.last().cloned(),
                        _ => live.first().cloned(),
                    };
                    let Some(gone) = gone else { continue };
                    gaps.apply(b"q", &gone, false, step);
                    live.remove(&gone);
                }
                7 if below(50) == 0 => {
                    let from = key(below(3000));
                    let first = live.range(from.clone()..).next().cloned();
                    gaps.learn(b"q", (&from, &first.unwrap_or_else(|| key(4000))), step);
                }
                _ => {
                    let (from, to) = (key(below(3000)), key(3000 + below(500)));
                    let members = live.range(from.clone()..to.clone());
                    let (first, last) = (members.clone().next(), members.clone().next_back());
                    if let Some(past) = gaps.past(b"q", &from, Direction::Forward) {
                        assert!(*past > *from);
                        assert!(
                            first.is_none_or(|first| **first >= *past),
                            "{from:?} {past:?} {first:?}"
                        );
                    }
                    if let Some(past) = gaps.past(b"q", &to, Direction::Backward) {
                        assert!(*past < *to);
                        assert!(last.is_none_or(|last| **last < *past), "{to:?} {past:?} {last:?}");
                    }
                    assert!(gaps.epoch(b"q") <= step);
                }
            }
            if step % 100 == 0
                && let Some(known) = gaps.by_owner.get(&b"q"[..])
            {
                let mut before: Option<Key> = None;
                for (from, to) in &known.by_start {
                    assert!(before.is_none_or(|before| before < *from), "gaps touch");
                    assert!(live.range(from.to_vec()..to.to_vec()).next().is_none());
                    before = Some(to.clone());
                }
            }
        }
    }

    #[test]
    fn the_gap_below_the_lowest_is_whole_again_when_all_that_came_into_it_has_gone() {
        let mut gaps = Gaps::default();
        gaps.learn(b"q", (&key(10), &key(1000)), 1);
        for round in 0..100 {
            let came = [500, 20, 700, 300].map(|number| key(number + round));
            came.iter().for_each(|key| gaps.apply(b"q", key, true, 2));
            let lowest = gaps.past(b"q", &key(10), Direction::Forward);
            assert_eq!(lowest.as_deref(), Some(&key(20 + round)[..]));
            let after_lowest = after(&key(20 + round));
            let alone = Some((key(20 + round), after_lowest.to_vec()));
            assert_eq!(gaps.alone(b"q", &key(20 + round), Direction::Forward), alone);
            let alone = Some((key(20 + round), key(20 + round)));
            assert_eq!(gaps.alone(b"q", &after_lowest, Direction::Backward), alone);
            assert_eq!(gaps.alone(b"q", &key(21 + round), Direction::Backward), None);
            came.iter().for_each(|key| gaps.apply(b"q", key, false, 3));
            let past = gaps.past(b"q", &key(20 + round), Direction::Forward);
            assert_eq!(past.as_deref(), Some(&key(1000)[..]));
        }
        assert_eq!(gaps.past(b"q", &key(1000), Direction::Forward), None);
        let lowest = gaps.past(b"q", &key(1000), Direction::Backward);
        assert_eq!(lowest.as_deref(), Some(&key(10)[..]));
        assert_eq!(gaps.epoch(b"q"), 3);
        for owner in 0..1000_u64 {
            gaps.learn(&owner.to_be_bytes(), (&key(1), &key(2)), 4);
        }
        assert!(gaps.by_owner.len() <= OWNERS_MAX && gaps.by_owner.len() == gaps.queue.len());
        assert!(!gaps.knows(b"q") && gaps.past(b"q", &key(10), Direction::Forward).is_none());
    }
}
