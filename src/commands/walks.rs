//! Walks: what SCAN, HSCAN, SSCAN and ZSCAN have in common.
//!
//! A walk goes through names (keys, fields, members) in the order of their bytes, and stops somewhere. Its cursor
//! carries the hash of the last name that it has seen, from which the name is found again: among those that the shard
//! [remembers](crate::storage::scan_positions), or else by reading the names from the first on. If the name is gone as
//! well, the walk begins anew, this time in the order of the names' hashes, its cursor being the hash to go on from:
//! each call then reads all the names and gives those with the next hashes. So nothing in the server decides whether a
//! walk comes to its end, and what is there all along is given at least once, however many walks there are; twice only
//! in the last case. A call of SCAN that meets many names which are not there any more stops behind one of those.
//!
//! ```text
//! cursor     slot(14 bits, SCAN's) ‖ position(39 bits): below 2^53, as clients that keep numbers as doubles need it
//! position   0: from the first name │ 0 ‖ hash(38): behind the name of this hash │ 1 ‖ hash(38): from this hash on
//! ```

use super::collection::{Collection, Column, Direction};
use crate::error::CommandError;
use crate::slots::Slot;
use crate::storage::scan_positions::Walked;
use crate::storage::shard::Owner;
use crate::storage::view::View;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::ops::ControlFlow;

/// The bits of a cursor below SCAN's slot.
pub(super) const POSITION_BITS: u32 = 39;

const HASH_BITS: u32 = POSITION_BITS - 1;

/// The most that a call which reads all names gives, beside those that it was asked for, is one in so many: a walk then
/// reads all names so many times at most, whatever its COUNT is.
const CALLS_BY_HASH: usize = 64;

/// The least that such a call looks at: as many as Redis gives at once of what it keeps in a listpack.
const LOOKED_AT_BY_HASH_MIN: usize = 128;

/// Where a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    First,
    /// Behind the name that has this hash.
    Behind(u64),
    /// In the order of hashes, from this one on.
    Hash(u64),
}

impl Position {
    fn of_cursor(cursor: u64) -> Position {
        let hash = cursor & ((1 << HASH_BITS) - 1);
        match cursor >> HASH_BITS {
            0 if hash > 0 => Position::Behind(hash),
            1 => Position::Hash(hash),
            // Or a cursor that no call returned: anything may follow, as in Redis.
            _ => Position::First,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Position::First => 0,
            Position::Behind(hash) => hash,
            Position::Hash(hash) => 1 << HASH_BITS | hash,
        }
    }
}

/// A name's hash: the same in every run of the server, as cursors outlive it; from 1 to below 2^38.
fn hash_of(name: &[u8]) -> u64 {
    let hash = foldhash::quality::FixedState::with_seed(0).hash_one(name);
    1 + hash % ((1 << HASH_BITS) - 1)
}

/// What is called with a name's group, the name, and what makes the reply's item of it, if it is wanted.
pub(super) type VisitName<'a, T> = dyn FnMut(u16, &[u8], &dyn Fn() -> Option<T>) -> ControlFlow<()> + 'a;

/// What can be walked: names in groups (SCAN's slots; a collection is one group), in the order of their bytes within a
/// group.
pub(super) trait Names {
    /// What a reply says of a name.
    type Item;

    /// Calls `visit` with the names of a group behind `after` (`None`: all), and with those of all later groups, until
    /// it breaks. Behind about `deleted_max` names that are not there any more it may give up: returns then the group
    /// and the name up to which it has come, which need not be there either.
    ///
    /// Where no `deleted_max` is given, it is this group alone that is visited, all of it.
    fn visit(
        &mut self,
        group: u16,
        after: Option<&[u8]>,
        deleted_max: Option<u64>,
        visit: &mut VisitName<'_, Self::Item>,
    ) -> Result<Option<GaveUp>, CommandError>;

    /// The name of a group that has this hash, if a walk has stopped at the name and the shard remembers it.
    fn recall(&mut self, group: u16, hash: u64) -> Result<Option<Vec<u8>>, CommandError>;

    /// A walk stops at a name.
    fn remember(&mut self, group: u16, hash: u64, name: &[u8]) -> Result<(), CommandError>;
}

/// Where a visit gave up: in a group, behind a name or at the beginning.
pub(super) type GaveUp = (u16, Option<Vec<u8>>);

/// Names that are not there any more which a call passes over: about a millisecond.
const DELETED_MAX: u64 = 1024;

/// What one call has found.
pub(super) struct Found<T> {
    /// What the reply gives.
    pub(super) items: Vec<T>,
    /// How many names were looked at for them.
    pub(super) looked_at: usize,
    /// Where the next call goes on.
    pub(super) next: Next,
    /// Fewer names were looked at than there are, because many lay before them that are not there any more.
    pub(super) gave_up: bool,
}

/// Where the next call goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// In a group, at a position.
    At(u16, u64),
    /// With what comes after a group.
    Behind(u16),
    /// There are no more names.
    Nowhere,
}

/// Goes on with a walk at a position in a group; looks at about `count` names, which must not be 0.
pub(super) fn walk<N: Names>(
    names: &mut N,
    (group, position): (u16, u64),
    count: usize,
) -> Result<Found<N::Item>, CommandError> {
    match Position::of_cursor(position) {
        Position::First => walk_in_order(names, group, None, count),
        Position::Behind(hash) => {
            let name = match names.recall(group, hash)? {
                Some(name) => Some(name),
                None => find(names, group, hash)?,
            };
            match name {
                Some(name) => walk_in_order(names, group, Some(&name), count),
                None => walk_by_hash(names, group, 0, count),
            }
        }
        Position::Hash(hash) => walk_by_hash(names, group, hash, count),
    }
}

/// The first name of a group that has this hash. It is remembered: no walk will stop at another one of the same hash.
fn find<N: Names>(names: &mut N, group: u16, hash: u64) -> Result<Option<Vec<u8>>, CommandError> {
    let mut found = None;
    names.visit(group, None, None, &mut |_, name, _| {
        if hash_of(name) != hash {
            return ControlFlow::Continue(());
        }
        found = Some(name.to_vec());
        ControlFlow::Break(())
    })?;
    if let Some(name) = &found {
        names.remember(group, hash, name)?;
    }
    Ok(found)
}

fn walk_in_order<N: Names>(
    names: &mut N,
    group: u16,
    after: Option<&[u8]>,
    mut count: usize,
) -> Result<Found<N::Item>, CommandError> {
    let mut deleted_max = DELETED_MAX;
    loop {
        let (mut items, mut looked_at, mut last_group) = (Vec::new(), 0, group);
        let mut last: Option<(u16, Vec<u8>)> = None;
        let mut next_group = None;
        let gave_up = names.visit(group, after, Some(deleted_max), &mut |group, name, item| {
            if looked_at == count {
                next_group = Some(group);
                return ControlFlow::Break(());
            }
            looked_at += 1;
            last_group = group;
            items.extend(item());
            if looked_at == count {
                last = Some((group, name.to_vec()));
            }
            ControlFlow::Continue(())
        })?;
        if let Some((group, name)) = gave_up {
            // Where nothing of a group was given, the next call may as well begin with it.
            let next = match name.filter(|_| group == last_group) {
                None => Next::At(group, Position::First.bits()),
                Some(name) => match stop_behind(names, group, &name)? {
                    Some(next) => next,
                    None => {
                        deleted_max *= 2;
                        continue;
                    }
                },
            };
            return Ok(Found {
                items,
                looked_at,
                next,
                gave_up: true,
            });
        }
        let next = match (last, next_group) {
            (Some((last_group, name)), Some(next_group)) if last_group == next_group => {
                match stop_behind(names, last_group, &name)? {
                    Some(next) => next,
                    None => {
                        count += 1;
                        continue;
                    }
                }
            }
            (_, Some(next_group)) => Next::At(next_group, Position::First.bits()),
            (_, None) => Next::Nowhere,
        };
        return Ok(Found {
            items,
            looked_at,
            next,
            gave_up: false,
        });
    }
}

/// The walk stops behind a name; `None` if the cursor would stand for another one.
fn stop_behind<N: Names>(names: &mut N, group: u16, name: &[u8]) -> Result<Option<Next>, CommandError> {
    let hash = hash_of(name);
    if names.recall(group, hash)?.is_some_and(|other| other != name) {
        return Ok(None);
    }
    names.remember(group, hash, name)?;
    Ok(Some(Next::At(group, Position::Behind(hash).bits())))
}

/// A name that a walk by hash has come across; the greatest is the one with the greatest hash.
struct Hashed<T> {
    hash: u64,
    /// How many names were read before.
    number: usize,
    item: Option<T>,
}

impl<T> PartialEq for Hashed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl<T> Eq for Hashed<T> {}

impl<T> PartialOrd for Hashed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Hashed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.hash.cmp(&other.hash)
    }
}

/// Reads all names of a group and gives those that have the lowest hashes from `from` on.
fn walk_by_hash<N: Names>(names: &mut N, group: u16, from: u64, count: usize) -> Result<Found<N::Item>, CommandError> {
    let mut wanted_min = count.max(LOOKED_AT_BY_HASH_MIN);
    loop {
        let mut lowest: BinaryHeap<Hashed<N::Item>> = BinaryHeap::new();
        // The lowest hash of those that are left for later calls.
        let mut next_hash = u64::MAX;
        let mut read = 0;
        names.visit(group, None, None, &mut |_, name, item| {
            let number = read;
            read += 1;
            let hash = hash_of(name);
            if hash < from {
                return ControlFlow::Continue(());
            }
            let wanted = wanted_min.max(read / CALLS_BY_HASH);
            if lowest.len() < wanted {
                lowest.push(Hashed {
                    hash,
                    number,
                    item: item(),
                });
            } else if lowest.peek().is_some_and(|highest| hash < highest.hash) {
                lowest.push(Hashed {
                    hash,
                    number,
                    item: item(),
                });
                let highest = lowest.pop().map_or(u64::MAX, |highest| highest.hash);
                next_hash = next_hash.min(highest);
            } else {
                next_hash = next_hash.min(hash);
            }
            ControlFlow::Continue(())
        })?;
        // Names of one hash come in one call.
        let mut given: Vec<_> = lowest.into_vec();
        given.retain(|name| name.hash < next_hash);
        given.sort_unstable_by_key(|name| name.number);
        if given.is_empty() && next_hash != u64::MAX {
            wanted_min *= 2;
            continue;
        }
        return Ok(Found {
            looked_at: given.len(),
            items: given.into_iter().filter_map(|name| name.item).collect(),
            next: match next_hash {
                u64::MAX => Next::Behind(group),
                hash => Next::At(group, Position::Hash(hash).bits()),
            },
            gave_up: false,
        });
    }
}

/// A collection's members, by name.
pub(super) struct Members<'a, 'b, F> {
    pub(super) view: &'a mut View<'b>,
    pub(super) collection: &'a Collection,
    /// What the reply says of a member and its value, if it is wanted.
    pub(super) item: F,
}

impl<T, F: Fn(&[u8], &[u8]) -> Option<T>> Names for Members<'_, '_, F> {
    type Item = T;

    fn visit(
        &mut self,
        group: u16,
        after: Option<&[u8]>,
        _deleted_max: Option<u64>,
        visit: &mut VisitName<'_, T>,
    ) -> Result<Option<GaveUp>, CommandError> {
        // The first name that is greater: the name itself with a zero byte more.
        let from = after.map_or(Vec::new(), |after| [after, b"\0"].concat());
        let Members { view, collection, item } = self;
        let item = &*item;
        collection.scan(
            view,
            Column::Data,
            (&from, None),
            Direction::Forward,
            |member, value| visit(group, member, &|| item(member, value)),
        )?;
        Ok(None)
    }

    fn recall(&mut self, _group: u16, hash: u64) -> Result<Option<Vec<u8>>, CommandError> {
        let owner = &self.collection.owner;
        let slot = Slot::of(&owner.key);
        self.view.recall_scan_position(slot, walked(owner), hash)
    }

    fn remember(&mut self, _group: u16, hash: u64, name: &[u8]) -> Result<(), CommandError> {
        let owner = &self.collection.owner;
        let slot = Slot::of(&owner.key);
        self.view.remember_scan_position(slot, walked(owner), hash, name)
    }
}

/// A collection, for who remembers where walks through it have stopped. One that is packed has no version, and is told
/// by its key.
fn walked(owner: &Owner) -> Walked {
    Walked::Collection(match owner.version {
        0 => {
            let hash = foldhash::quality::FixedState::with_seed(0).hash_one((owner.database, &owner.key));
            1 << 63 | hash
        }
        version => version,
    })
}

impl Next {
    /// The cursor of a walk through a collection, which is one group.
    pub(super) fn in_collection(&self) -> u64 {
        match self {
            Next::At(_, position) => *position,
            Next::Behind(_) | Next::Nowhere => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::random::Random;
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    /// Names in memory, with a memory of positions that forgets at random.
    #[derive(Default)]
    struct Sample {
        names: BTreeSet<(u16, Vec<u8>)>,
        /// Names that are passed over.
        deleted: BTreeSet<(u16, Vec<u8>)>,
        /// How many of them a call passes over, if not as many as it may.
        deleted_max: Option<u64>,
        remembered: HashMap<(u16, u64), Vec<u8>>,
    }

    impl Names for Sample {
        type Item = Vec<u8>;

        fn visit(
            &mut self,
            group: u16,
            after: Option<&[u8]>,
            deleted_max: Option<u64>,
            visit: &mut VisitName<'_, Vec<u8>>,
        ) -> Result<Option<GaveUp>, CommandError> {
            let from = (group, after.map_or(Vec::new(), |after| [after, b"\0"].concat()));
            let of_test = self.deleted_max.unwrap_or(DELETED_MAX);
            let mut left = deleted_max.map(|max| max / DELETED_MAX * of_test);
            let all: BTreeSet<_> = self
                .names
                .range(from.clone()..)
                .chain(self.deleted.range(from..))
                .collect();
            for (of, name) in all {
                if deleted_max.is_none() && *of != group {
                    break;
                }
                if !self.names.contains(&(*of, name.clone())) {
                    if let Some(left) = &mut left {
                        *left -= 1;
                        if *left == 0 {
                            return Ok(Some((*of, Some(name.clone()))));
                        }
                    }
                } else if visit(*of, name, &|| Some(name.clone())).is_break() {
                    break;
                }
            }
            Ok(None)
        }

        fn recall(&mut self, group: u16, hash: u64) -> Result<Option<Vec<u8>>, CommandError> {
            Ok(self.remembered.get(&(group, hash)).cloned())
        }

        fn remember(&mut self, group: u16, hash: u64, name: &[u8]) -> Result<(), CommandError> {
            self.remembered.insert((group, hash), name.to_vec());
            Ok(())
        }
    }

    /// One call of a walk over all groups; `None` at its end.
    fn step(sample: &mut Sample, at: (u16, u64), count: usize) -> (Vec<Vec<u8>>, Option<(u16, u64)>) {
        let found = walk(sample, at, count).expect("nothing can fail");
        let next = match found.next {
            Next::At(group, position) => Some((group, position)),
            Next::Behind(group) => Some((group + 1, 0)),
            Next::Nowhere => None,
        };
        (found.items, next)
    }

    #[test]
    fn positions_fit_their_bits_and_are_read_as_they_were_written() {
        for position in [
            Position::First,
            Position::Behind(1),
            Position::Behind((1 << HASH_BITS) - 1),
            Position::Hash(0),
            Position::Hash((1 << HASH_BITS) - 1),
        ] {
            assert!(position.bits() < 1 << POSITION_BITS, "{position:?}");
            assert_eq!(Position::of_cursor(position.bits()), position);
        }
        assert_eq!(Position::of_cursor(u64::MAX), Position::First);
        // Cursors live longer than the server.
        assert_eq!(hash_of(b"name"), hash_of(b"name"));
        assert!((0..10_000_u32).all(|number| (1..1 << HASH_BITS).contains(&hash_of(&number.to_be_bytes()))));
    }

    #[test]
    fn a_walk_without_changes_gives_each_name_once_in_order() {
        let mut sample = Sample::default();
        for number in 0..1000_u16 {
            sample.names.insert((number / 300, number.to_be_bytes().to_vec()));
        }
        for count in [1, 7, 100, 10_000] {
            let (mut seen, mut at) = (Vec::new(), Some((0, 0)));
            while let Some(position) = at {
                let (items, next) = step(&mut sample, position, count);
                assert!(items.len() <= count);
                seen.extend(items);
                at = next;
            }
            let all: Vec<_> = (0..1000_u16).map(|number| number.to_be_bytes().to_vec()).collect();
            assert_eq!(seen, all, "COUNT {count}");
        }
    }

    #[test]
    fn a_walk_over_much_that_is_deleted_goes_on_where_it_gave_up() {
        let name = |number: u32| (number as u16 / 900, number.to_be_bytes().to_vec());
        let mut sample = Sample::default();
        let is_there = |number: &u32| number.is_multiple_of(700);
        sample.names.extend((0..3000).filter(is_there).map(name));
        sample
            .deleted
            .extend((0..3000).filter(|number| !is_there(number)).map(name));
        sample.deleted_max = Some(50);
        let (mut seen, mut at, mut calls) = (Vec::new(), Some((0, 0)), 0);
        while let Some(position) = at {
            let (items, next) = step(&mut sample, position, 10);
            seen.extend(items);
            (at, calls) = (next, calls + 1);
        }
        let all: Vec<_> = (0..3000).filter(is_there).map(|number| name(number).1).collect();
        assert_eq!(seen, all, "each once");
        assert!((59..70).contains(&calls), "{calls} calls");
    }

    #[test]
    fn walks_end_and_miss_nothing_however_much_is_forgotten_added_and_removed() {
        let given = std::env::var("CORELANE_SEED").ok();
        let seed = given.map_or_else(crate::clock::unix_us, |seed| {
            seed.parse().expect("CORELANE_SEED is a number")
        });
        println!("again with CORELANE_SEED={seed}");
        let mut random = Random::new(seed);
        for round in 0..60 {
            let mut sample = Sample {
                deleted_max: (random.below(2) == 0).then(|| 1 + random.below(9)),
                ..Sample::default()
            };
            let lasting: BTreeSet<Vec<u8>> = (0..400_u32).map(|number| format!("l{number}").into_bytes()).collect();
            let group_of = |name: &[u8]| u16::from(name[name.len() - 1] % 3);
            sample
                .names
                .extend(lasting.iter().map(|name| (group_of(name), name.clone())));
            let mut seen: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            let (mut at, mut calls) = (Some((0, 0)), 0);
            while let Some(position) = at {
                let (items, next) = step(&mut sample, position, 1 + random.below(20) as usize);
                // The worst that a client can do: it removes what it was given last.
                let last = items.last().cloned();
                for name in items {
                    *seen.entry(name).or_default() += 1;
                }
                for _ in 0..random.below(30) {
                    let name = format!("p{}", random.below(500)).into_bytes();
                    let name = (group_of(&name), name);
                    if sample.names.remove(&name) {
                        sample.deleted.insert(name);
                    } else {
                        sample.deleted.remove(&name);
                        sample.names.insert(name);
                    }
                }
                if let Some(last) = last.filter(|last| last[0] == b'p') {
                    sample.names.remove(&(group_of(&last), last));
                }
                if random.below(2) == 0 {
                    sample.remembered.clear();
                }
                (at, calls) = (next, calls + 1);
                assert!(calls < 3000, "round {round}: the walk does not end");
            }
            let missed: Vec<_> = lasting.iter().filter(|name| !seen.contains_key(*name)).collect();
            assert!(missed.is_empty(), "round {round}: missed {missed:?}");
        }
    }

    #[test]
    fn a_walk_whose_name_is_gone_and_forgotten_goes_on_by_hash_and_ends() {
        let mut sample = Sample::default();
        sample
            .names
            .extend((0..5000_u32).map(|number| (0, number.to_be_bytes().to_vec())));
        let (items, next) = step(&mut sample, (0, 0), 10);
        sample.names.remove(&(0, items[9].clone()));
        sample.remembered.clear();
        let (mut seen, mut at, mut calls) = (BTreeSet::new(), next, 0);
        while let Some(position) = at {
            let (items, next) = step(&mut sample, position, 10);
            for item in items {
                assert!(seen.insert(item), "given twice within the walk by hash");
            }
            (at, calls) = (next.filter(|next| next.0 == 0), calls + 1);
        }
        assert_eq!(seen.len(), 4999);
        assert!(calls <= 80, "{calls} calls");
    }

    #[test]
    fn names_of_one_hash_come_in_one_call_and_a_walk_stops_at_one_of_them_only() {
        // Two names of one hash are hard to find: one that is remembered under another's hash stands in for them.
        let mut sample = Sample::default();
        sample.names.extend((0..100_u8).map(|number| (0, vec![number])));
        let stops_at = hash_of(&[9]);
        sample.remembered.insert((0, stops_at), vec![3]);
        let (items, next) = step(&mut sample, (0, 0), 10);
        assert_eq!(items.len(), 11, "one more than asked for");
        assert_eq!(next, Some((0, hash_of(&[10]))));
    }
}
