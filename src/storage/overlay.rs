//! The cells that RocksDB does not have yet, in the order of their keys: what a read of a range must see over what is
//! on disk.
//!
//! There may be hundreds of thousands of them, since RocksDB gets what was logged a while later, and each comes and
//! goes once. To keep so many in one order costs a microsecond a cell (cache misses). But all keys of members and
//! records begin with their slot, and a slot has few such cells: they are put in order when the slot is read. Where a
//! slot has many, as with a large collection, their order is kept with every cell that comes or goes, so that no read
//! has to make it.

use super::database::{Column, Direction};
use super::records::EntryIndex;
use super::resident::cell_tree::CellTree;
use super::resident::cell_walk::Entries;

/// Cells of a slot whose order is made when it is read, some microseconds.
const FEW_MAX: usize = 64;

/// Slots whose cells lie together.
const PAGE_SLOTS: usize = 64;

/// Pages for every number that two bytes can have.
const PAGES: usize = (1 << u16::BITS) / PAGE_SLOTS;

/// The entries of the table of records that RocksDB does not have yet, by column and key.
#[derive(Default)]
pub struct Overlay {
    /// `meta`, `data` and `score`.
    by_slot: [Slots; 3],
    /// `expiry` and `system`.
    others: [CellTree; 2],
}

/// The cells of a column by slot.
struct Slots {
    pages: Vec<Option<Box<[Cells; PAGE_SLOTS]>>>,
}

/// The cells of a slot, of all databases.
enum Cells {
    /// In any order.
    Few(Vec<EntryIndex>),
    /// By key.
    Many(Box<CellTree>),
}

impl Default for Slots {
    fn default() -> Slots {
        Slots {
            pages: (0..PAGES).map(|_| None).collect(),
        }
    }
}

impl Default for Cells {
    fn default() -> Cells {
        Cells::Few(Vec::new())
    }
}

/// Where a key's cells lie: its database and its slot, as one number that grows with the key.
fn place_of(key: &[u8]) -> u32 {
    let byte = |at: usize| u32::from(key.get(at).copied().unwrap_or(0));
    byte(0) << 16 | byte(1) << 8 | byte(2)
}

/// The first and the last place of a range, whose keys are of one database.
fn places_of(from: &[u8], to: &[u8]) -> (i64, i64) {
    // A short end has no key of its own place before it.
    let last = i64::from(place_of(to)) - i64::from(to.len() <= 3);
    let first = i64::from(place_of(from));
    assert!(
        first > last || first >> 16 == last >> 16,
        "a slot has the cells of all databases, and is read for one"
    );
    (first, last)
}

fn index_of(bytes: &[u8]) -> EntryIndex {
    EntryIndex::from_le_bytes(bytes.try_into().expect("an entry's index has four bytes"))
}

impl Overlay {
    /// A cell comes that was not here. `key_of` tells an entry's key.
    pub fn insert<'a>(
        &mut self,
        column: Column,
        key: &[u8],
        index: EntryIndex,
        key_of: impl Fn(EntryIndex) -> &'a [u8],
    ) {
        match column {
            Column::Meta | Column::Data | Column::Score => {
                self.by_slot[column as usize]
                    .at_mut(place_of(key))
                    .insert(key, index, key_of);
            }
            Column::Expiry | Column::System => insert_into(&mut self.others[column as usize - 3], key, index),
        }
    }

    /// A cell goes that was here.
    pub fn remove(&mut self, column: Column, key: &[u8], index: EntryIndex) {
        let was_here = match column {
            Column::Meta | Column::Data | Column::Score => {
                self.by_slot[column as usize].at_mut(place_of(key)).remove(key, index)
            }
            Column::Expiry | Column::System => self.others[column as usize - 3].remove_with(key, |_| ()).is_some(),
        };
        assert!(was_here, "what goes was here");
    }

    /// The cells from the key `from` to before `to`, which are of one database, in the order of the keys or backwards.
    /// `key_of` tells an entry's key.
    pub fn range<'a, 'b, KeyOf: Fn(EntryIndex) -> &'a [u8]>(
        &'a self,
        column: Column,
        (from, to): (&'b [u8], &'b [u8]),
        direction: Direction,
        key_of: KeyOf,
    ) -> InRange<'a, 'b, KeyOf> {
        let (current, by_slot) = match column {
            Column::Meta | Column::Data | Column::Score => (
                Current::Few(Vec::new().into_iter()),
                Some(&self.by_slot[column as usize]),
            ),
            Column::Expiry | Column::System => {
                let entries = self.others[column as usize - 3].entries((Some(from), Some(to)), direction);
                (Current::Many(entries), None)
            }
        };
        InRange {
            by_slot: by_slot.filter(|_| from < to),
            range: (from, to),
            places: by_slot.map_or((0, -1), |_| places_of(from, to)),
            direction,
            key_of,
            current,
        }
    }

    /// How many cells there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let slots = self.by_slot.iter().flat_map(|slots| slots.pages.iter().flatten());
        let by_slot = slots.flat_map(|page| page.iter()).map(|cells| match cells {
            Cells::Few(few) => few.len(),
            Cells::Many(tree) => tree.len(),
        });
        by_slot.sum::<usize>() + self.others.iter().map(CellTree::len).sum::<usize>()
    }
}

fn insert_into(tree: &mut CellTree, key: &[u8], index: EntryIndex) {
    let before = tree.insert_with(key, &index.to_le_bytes(), |_| ());
    assert!(before.is_none(), "a cell is here once");
}

impl Slots {
    fn at_mut(&mut self, place: u32) -> &mut Cells {
        let slot = place as usize & 0xffff;
        let page = &mut self.pages[slot / PAGE_SLOTS];
        &mut page.get_or_insert_with(|| Box::new(std::array::from_fn(|_| Cells::default())))[slot % PAGE_SLOTS]
    }

    fn at(&self, place: u32) -> Option<&Cells> {
        let slot = place as usize & 0xffff;
        Some(&self.pages[slot / PAGE_SLOTS].as_ref()?[slot % PAGE_SLOTS])
    }
}

impl Cells {
    #[inline]
    fn insert<'a>(&mut self, key: &[u8], index: EntryIndex, key_of: impl Fn(EntryIndex) -> &'a [u8]) {
        match self {
            Cells::Few(few) if few.len() < FEW_MAX => few.push(index),
            Cells::Few(few) => {
                let mut tree = Box::new(CellTree::new());
                few.iter()
                    .for_each(|index| insert_into(&mut tree, key_of(*index), *index));
                insert_into(&mut tree, key, index);
                *self = Cells::Many(tree);
            }
            Cells::Many(tree) => insert_into(tree, key, index),
        }
    }

    fn remove(&mut self, key: &[u8], index: EntryIndex) -> bool {
        match self {
            Cells::Few(few) => {
                let at = few.iter().position(|other| *other == index);
                at.map(|at| few.swap_remove(at)).is_some()
            }
            Cells::Many(tree) => {
                let was_here = tree.remove_with(key, |_| ()).is_some();
                if tree.is_empty() {
                    *self = Cells::default();
                }
                was_here
            }
        }
    }
}

/// The cells of a range, in order.
pub struct InRange<'a, 'b, KeyOf> {
    /// `None` where all that is left is the current part.
    by_slot: Option<&'a Slots>,
    range: (&'b [u8], &'b [u8]),
    /// The places that are left, from the first to the last.
    places: (i64, i64),
    direction: Direction,
    key_of: KeyOf,
    current: Current<'a, 'b>,
}

enum Current<'a, 'b> {
    Few(std::vec::IntoIter<EntryIndex>),
    Many(Entries<'a, 'b>),
}

impl<'a, KeyOf: Fn(EntryIndex) -> &'a [u8]> InRange<'a, '_, KeyOf> {
    /// The next place that may have cells; pages without any are passed.
    fn next_cells(&mut self) -> Option<&'a Cells> {
        let slots = self.by_slot?;
        while self.places.0 <= self.places.1 {
            let place = match self.direction {
                Direction::Forward => self.places.0,
                Direction::Backward => self.places.1,
            };
            let cells = slots.at(place as u32);
            let step = if cells.is_some() { 1 } else { PAGE_SLOTS as i64 };
            match self.direction {
                Direction::Forward => self.places.0 = (place / step + 1) * step,
                Direction::Backward => self.places.1 = place / step * step - 1,
            }
            match cells {
                Some(Cells::Few(few)) if few.is_empty() => {}
                Some(cells) => return Some(cells),
                None => {}
            }
        }
        None
    }
}

impl<'a, KeyOf: Fn(EntryIndex) -> &'a [u8]> Iterator for InRange<'a, '_, KeyOf> {
    type Item = EntryIndex;

    fn next(&mut self) -> Option<EntryIndex> {
        loop {
            let next = match &mut self.current {
                Current::Few(few) => few.next(),
                Current::Many(entries) => entries.next().map(|(_, index)| index_of(index)),
            };
            if next.is_some() {
                return next;
            }
            let (cells, (from, to)) = (self.next_cells()?, self.range);
            let key_of = &self.key_of;
            self.current = match cells {
                Cells::Few(few) => {
                    let is_in_range = |index: &EntryIndex| (from..to).contains(&key_of(*index));
                    let mut found: Vec<EntryIndex> = few.iter().copied().filter(is_in_range).collect();
                    found.sort_unstable_by(|a, b| match self.direction {
                        Direction::Forward => key_of(*a).cmp(key_of(*b)),
                        Direction::Backward => key_of(*b).cmp(key_of(*a)),
                    });
                    Current::Few(found.into_iter())
                }
                Cells::Many(tree) => Current::Many(tree.entries((Some(from), Some(to)), self.direction)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    /// Some cells of the first slot, as many of others, of two databases.
    fn key(below: &mut impl FnMut(u64) -> u64, database: u8, name_len: usize) -> Vec<u8> {
        let slot = if below(10) < 7 { 0 } else { below(300) as u16 };
        let name = (below(2000) as u32).to_be_bytes();
        [&[database][..], &slot.to_be_bytes(), &name[..name_len]].concat()
    }

    #[test]
    fn ranges_of_slots_with_few_cells_and_many_are_those_of_a_map() {
        let mut random = seeded_random::printed();
        let mut below = |bound: u64| random.random_range(0..bound);
        let (mut overlay, mut model, mut keys) = (Overlay::default(), BTreeMap::new(), Vec::new());
        for step in 0..60_000 {
            // Waves, so that slots fill and become empty again.
            let grows = step / 10_000 % 2 == 0;
            match below(10) {
                0..=8 if (below(4) > 0) == grows => {
                    let database = below(2) as u8;
                    let key = key(&mut below, database, 4);
                    if let Entry::Vacant(place) = model.entry(key.clone()) {
                        let index = keys.len() as EntryIndex;
                        keys.push(key.clone());
                        let keys: &Vec<Vec<u8>> = &keys;
                        overlay.insert(Column::Data, &key, index, |index| &keys[index as usize]);
                        place.insert(index);
                    }
                }
                0..=8 => {
                    let database = below(2) as u8;
                    let from = key(&mut below, database, 4);
                    let found = model.range(from..).next().map(|(key, index)| (key.clone(), *index));
                    if let Some((key, index)) = found {
                        overlay.remove(Column::Data, &key, index);
                        model.remove(&key);
                    }
                }
                _ => {
                    let (database, one_len, other_len) = (below(2) as u8, below(5), below(5));
                    let one = key(&mut below, database, one_len as usize);
                    let other = match below(8) {
                        0 => vec![database + 1],
                        _ => key(&mut below, database, other_len as usize),
                    };
                    let (from, to) = (one.clone().min(other.clone()), one.max(other));
                    let key_of = |index: EntryIndex| &keys[index as usize][..];
                    let read = |direction| overlay.range(Column::Data, (&from, &to), direction, key_of);
                    let expected: Vec<EntryIndex> =
                        model.range(from.clone()..to.clone()).map(|(_, index)| *index).collect();
                    assert_eq!(
                        read(Direction::Forward).collect::<Vec<_>>(),
                        expected,
                        "{from:?} {to:?}"
                    );
                    let mut backwards: Vec<_> = read(Direction::Backward).collect();
                    backwards.reverse();
                    assert_eq!(backwards, expected, "{from:?} {to:?}, backwards");
                }
            }
            assert_eq!(overlay.len(), model.len());
        }
    }
}
