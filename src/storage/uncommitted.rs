//! The records that wait for a commit, in two orders: that of first writing, in which a batch is made of them, and that
//! of their keys, for reads of ranges, which must see them beside what is on disk.
//!
//! Most turns read no range, or few: a read looks through the records one by one, until so many have done so that to
//! put them in order would have cost less. Those that come later are looked through again. So a pipeline that writes
//! and reads by turns puts each of its records in order once, and a command that writes a million and reads some ranges
//! none.

use super::database::{Column, Direction};
use super::records::EntryIndex;
use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::ops::Bound;

/// Looks at a record that cost as much as to put it in order.
const LOOKS_PER_SORT: usize = 32;

type ByKey = BTreeMap<Box<[u8]>, EntryIndex>;

/// Entries of the table of records that wait for a commit, each once.
#[derive(Default)]
pub struct UncommittedList {
    in_order_of_writing: Vec<EntryIndex>,
    /// The first `sorted` entries, by column and key.
    by_key: [ByKey; Column::COUNT],
    sorted: usize,
    /// Looks at the others since the order was made last.
    looks: usize,
}

impl UncommittedList {
    /// All entries, in the order in which they came.
    pub fn list(&self) -> &[EntryIndex] {
        &self.in_order_of_writing
    }

    /// Whether there is no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.in_order_of_writing.is_empty()
    }

    /// Adds a record.
    #[inline]
    pub fn push(&mut self, index: EntryIndex) {
        self.in_order_of_writing.push(index);
    }

    /// Takes the last entry out, which has this `column` and `key`.
    pub fn pop(&mut self, column: Column, key: &[u8]) -> Option<EntryIndex> {
        let last = self.in_order_of_writing.pop();
        if self.sorted > self.in_order_of_writing.len() {
            self.sorted = self.in_order_of_writing.len();
            self.by_key[column as usize].remove(key);
        }
        last
    }

    /// Takes all entries out.
    pub fn take(&mut self) -> Vec<EntryIndex> {
        if self.sorted > 0 {
            self.by_key.iter_mut().for_each(ByKey::clear);
            self.sorted = 0;
        }
        self.looks = 0;
        std::mem::take(&mut self.in_order_of_writing)
    }

    /// Puts back what [`UncommittedList::take`] gave, or another list.
    pub fn put(&mut self, list: Vec<EntryIndex>) {
        debug_assert!(self.is_empty());
        self.in_order_of_writing = list;
    }

    /// A range is going to be read: makes the order of keys if that is worth while. `key_of` tells the column and key
    /// of an entry.
    pub fn before_read<'a>(&mut self, key_of: impl Fn(EntryIndex) -> (Column, &'a [u8])) {
        let unsorted = self.in_order_of_writing.len() - self.sorted;
        self.looks += unsorted;
        if self.looks <= unsorted * LOOKS_PER_SORT {
            return;
        }
        self.looks = 0;
        for index in &self.in_order_of_writing[self.sorted..] {
            let (column, key) = key_of(*index);
            self.by_key[column as usize].insert(key.into(), *index);
        }
        self.sorted = self.in_order_of_writing.len();
    }

    /// The records that are in the order of keys, from the key `from` to before `to`.
    fn sorted_between(&self, column: Column, from: &[u8], to: &[u8]) -> btree_map::Range<'_, Box<[u8]>, EntryIndex> {
        self.by_key[column as usize].range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)))
    }

    /// The records that are not in the order of keys yet.
    fn unsorted(&self) -> &[EntryIndex] {
        &self.in_order_of_writing[self.sorted..]
    }
}

/// The entries of a range that wait in either of two lists, in the order of their keys or backwards.
pub struct UncommittedInRange<'a, Key> {
    sorted: [Peekable<InDirection<'a>>; 2],
    unsorted: Peekable<std::vec::IntoIter<EntryIndex>>,
    direction: Direction,
    key_of: Key,
    /// What was given last: an entry that waits in both lists is given once.
    last: Option<EntryIndex>,
}

/// A part of the order of keys in one of its directions.
struct InDirection<'a> {
    range: btree_map::Range<'a, Box<[u8]>, EntryIndex>,
    direction: Direction,
}

impl Iterator for InDirection<'_> {
    type Item = EntryIndex;

    fn next(&mut self) -> Option<EntryIndex> {
        let next = match self.direction {
            Direction::Forward => self.range.next(),
            Direction::Backward => self.range.next_back(),
        };
        next.map(|(_, index)| *index)
    }
}

impl<'a, Key: Fn(EntryIndex) -> (Column, &'a [u8])> UncommittedInRange<'a, Key> {
    /// The records of both lists from the key `from` to before `to`, which must not be below it.
    pub fn new(
        lists: [&'a UncommittedList; 2],
        column: Column,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
        key_of: Key,
    ) -> Self {
        let unsorted = lists.iter().flat_map(|list| list.unsorted()).copied();
        let mut unsorted: Vec<EntryIndex> = unsorted
            .filter(|index| {
                let (of, key) = key_of(*index);
                of == column && from <= key && key < to
            })
            .collect();
        unsorted.sort_unstable_by(|a, b| in_direction(direction, key_of(*a).1.cmp(key_of(*b).1)));
        let sorted = lists.map(|list| {
            let range = list.sorted_between(column, from, to);
            InDirection { range, direction }.peekable()
        });
        UncommittedInRange {
            sorted,
            unsorted: unsorted.into_iter().peekable(),
            direction,
            key_of,
            last: None,
        }
    }
}

impl<'a, Key: Fn(EntryIndex) -> (Column, &'a [u8])> Iterator for UncommittedInRange<'a, Key> {
    type Item = EntryIndex;

    fn next(&mut self) -> Option<EntryIndex> {
        loop {
            let [first, second] = &mut self.sorted;
            let heads = [first.peek(), second.peek(), self.unsorted.peek()];
            let heads = heads.into_iter().enumerate();
            let heads = heads.filter_map(|(source, head)| Some((source, (self.key_of)(*head?).1)));
            let (source, _) = heads.min_by(|(_, a), (_, b)| in_direction(self.direction, a.cmp(b)))?;
            let next = match source {
                0 | 1 => self.sorted[source].next(),
                _ => self.unsorted.next(),
            };
            if next != self.last {
                self.last = next;
                return next;
            }
        }
    }
}

fn in_direction(direction: Direction, ordering: Ordering) -> Ordering {
    match direction {
        Direction::Forward => ordering,
        Direction::Backward => ordering.reverse(),
    }
}
