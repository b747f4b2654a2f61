//! What becomes of a shard's cells, collected in any order: the last mention of a cell counts.

use super::database::Column;
use super::encoding::{DATABASE_COUNT, DEADLINE_LEN, database_range};
use super::operations::{ALL_DATABASES, CellKey, Change};

/// The columns of which a database is a range.
const BY_DATABASE: [Column; 3] = [Column::Meta, Column::Data, Column::Score];

/// Changes of the cells of one shard.
#[derive(Default)]
pub struct CellWrites {
    /// Keys and values, in the order in which they were mentioned.
    bytes: Vec<u8>,
    mentions: [Vec<Mention>; Column::COUNT],
    /// By physical database: where in `bytes` the mentions begin that came after it was emptied, if it was.
    emptied: [Option<usize>; DATABASE_COUNT],
    /// The same for the index of deadlines, which is emptied with all databases.
    expiry_emptied: Option<usize>,
}

/// A put or a delete.
#[derive(Clone, Copy)]
struct Mention {
    /// The first bytes of the key, padded with zeros: most comparisons need no more, and no cache line of the key.
    prefix: u64,
    /// Where the key begins, and behind it the value: a later mention begins later.
    at: usize,
    key_len: u32,
    /// None: the cell is deleted.
    value_len: Option<u32>,
}

impl CellWrites {
    /// Whether nothing was mentioned.
    pub fn is_empty(&self) -> bool {
        self.mentions.iter().all(Vec::is_empty) && self.emptied.iter().all(Option::is_none)
    }

    /// Sets a cell.
    pub fn put(&mut self, column: Column, key: &[u8], value: &[u8]) {
        self.mention(column, [b"", key], Some(value));
    }

    /// Deletes a cell.
    pub fn delete(&mut self, column: Column, key: &[u8]) {
        self.mention(column, [b"", key], None);
    }

    /// Deletes all cells of physical databases, one bit each, as
    /// [`operations::empty_databases`](super::operations::empty_databases) says.
    pub fn empty_databases(&mut self, physical: u16) {
        let now = Some(self.bytes.len());
        for (number, emptied) in self.emptied.iter_mut().enumerate() {
            if physical >> number & 1 == 1 {
                *emptied = now;
            }
        }
        if physical == ALL_DATABASES {
            self.expiry_emptied = now;
        }
    }

    /// Does what an operation says.
    pub fn apply(&mut self, change: Change<'_>) {
        match change {
            Change::Put { column, key, value } => self.mention(column, key, Some(value)),
            Change::Delete { column, key } => self.mention(column, key, None),
            Change::EmptyDatabases(physical) => self.empty_databases(physical),
        }
    }

    fn mention(&mut self, column: Column, key: CellKey<'_>, value: Option<&[u8]>) {
        let at = self.bytes.len();
        key.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let key_end = self.bytes.len();
        assert!(key_end > at, "a mention has a place of its own");
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let len = |len: usize| u32::try_from(len).expect("a frame is shorter than 4 GiB");
        self.mentions[column as usize].push(Mention {
            prefix: prefix_of(&self.bytes[at..key_end]),
            at,
            key_len: len(key_end - at),
            value_len: value.map(|value| len(value.len())),
        });
    }

    /// Brings the mentions of a column into the order of their keys, for [`CellWrites::cells`].
    pub fn sort(&mut self, column: Column) {
        let bytes = &self.bytes;
        self.mentions[column as usize].sort_unstable_by(|one, other| {
            let key_of = |mention: &Mention| mention.key_in(bytes);
            (one.prefix.cmp(&other.prefix))
                .then_with(|| key_of(one).cmp(key_of(other)))
                .then_with(|| one.at.cmp(&other.at))
        });
    }

    /// The ranges of a column that were emptied: from their first key to before their end. What [`CellWrites::cells`]
    /// gives comes after that.
    pub fn emptied_ranges(&self, column: Column) -> Vec<(Vec<u8>, Vec<u8>)> {
        if BY_DATABASE.contains(&column) {
            let emptied = (0..DATABASE_COUNT as u8).filter(|number| self.emptied[usize::from(*number)].is_some());
            return emptied.map(database_range).collect();
        }
        let is_emptied = column == Column::Expiry && self.expiry_emptied.is_some();
        is_emptied
            .then(|| (Vec::new(), vec![0xff; DEADLINE_LEN + 1]))
            .into_iter()
            .collect()
    }

    /// The cells of a column in the order of their keys, each once, with their values; none for what is deleted. The
    /// column must have been sorted.
    pub fn cells(&self, column: Column) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let mentions = &self.mentions[column as usize];
        let lasts = mentions.iter().enumerate().filter(move |(index, mention)| {
            let is_last = mentions.get(index + 1).is_none_or(|next| {
                next.prefix != mention.prefix || next.key_in(&self.bytes) != mention.key_in(&self.bytes)
            });
            is_last && !self.is_emptied(column, mention)
        });
        lasts.map(|(_, mention)| (mention.key_in(&self.bytes), mention.value_in(&self.bytes)))
    }

    /// Whether the cell's database was emptied after the mention.
    fn is_emptied(&self, column: Column, mention: &Mention) -> bool {
        let emptied = if BY_DATABASE.contains(&column) {
            // The first byte of the key is the highest of its prefix.
            let database = (mention.prefix >> (u64::BITS - u8::BITS)) as usize;
            self.emptied.get(database).copied().flatten()
        } else {
            self.expiry_emptied.filter(|_| column == Column::Expiry)
        };
        emptied.is_some_and(|at| mention.at < at)
    }
}

impl Mention {
    fn key_in<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.at..self.at + self.key_len as usize]
    }

    fn value_in<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let begin = self.at + self.key_len as usize;
        self.value_len.map(|len| &bytes[begin..begin + len as usize])
    }
}

/// The first eight bytes of a key as a number that is ordered like them.
fn prefix_of(key: &[u8]) -> u64 {
    let mut prefix = [0; 8];
    let len = key.len().min(prefix.len());
    prefix[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(prefix)
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;
    use rand::rngs::StdRng;
    use std::collections::BTreeMap;

    type Cells = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    /// Keys of which many begin alike, and some are the beginning of others.
    fn random_key(random: &mut StdRng) -> Vec<u8> {
        let mut key = vec![random.random_range(0..DATABASE_COUNT as u8)];
        key.extend((0..random.random_range(0..12)).map(|_| [0, 1, 0xff][random.random_range(0..3)]));
        key
    }

    /// Does a random thing to the writes and to the model.
    fn step(random: &mut StdRng, writes: &mut CellWrites, model: &mut [Cells; Column::COUNT]) {
        let index = random.random_range(0..Column::COUNT as u8);
        let column = Column::of_index(index).expect("a column");
        let key = random_key(random);
        match random.random_range(0..100) {
            0 => {
                let physical = [1 << random.random_range(0..16), random.random(), ALL_DATABASES];
                let physical: u16 = physical[random.random_range(0..3)];
                writes.empty_databases(physical);
                for cells in &mut model[..3] {
                    cells.retain(|key, _| physical >> key[0] & 1 == 0);
                }
                if physical == ALL_DATABASES {
                    model[Column::Expiry as usize].clear();
                }
            }
            1..30 => {
                writes.delete(column, &key);
                model[usize::from(index)].insert(key, None);
            }
            _ => {
                let value = vec![random.random(); random.random_range(0..9)];
                writes.put(column, &key, &value);
                model[usize::from(index)].insert(key, Some(value));
            }
        }
    }

    #[test]
    fn the_last_mention_of_each_cell_counts_and_cells_are_in_order() {
        let mut random = seeded_random::printed();
        for _ in 0..100 {
            let mut writes = CellWrites::default();
            let mut model = <[Cells; Column::COUNT]>::default();
            for _ in 0..random.random_range(0..400) {
                step(&mut random, &mut writes, &mut model);
            }
            for (index, expected) in model.iter().enumerate() {
                let column = Column::of_index(index as u8).expect("a column");
                writes.sort(column);
                let owned = |(key, value): (&[u8], Option<&[u8]>)| (key.to_vec(), value.map(<[u8]>::to_vec));
                let found: Vec<_> = writes.cells(column).map(owned).collect();
                let expected: Vec<_> = expected.clone().into_iter().collect();
                assert_eq!(found, expected, "{column:?}");
            }
        }
    }

    #[test]
    fn databases_are_ranges_of_three_columns_and_all_of_them_are_the_index_too() {
        let mut writes = CellWrites::default();
        assert!(writes.is_empty());
        writes.empty_databases(0b1010);
        assert!(!writes.is_empty());
        let expected = [(vec![1], vec![2]), (vec![3], vec![4])];
        for column in BY_DATABASE {
            assert_eq!(writes.emptied_ranges(column), expected);
        }
        assert_eq!(writes.emptied_ranges(Column::Expiry), []);
        assert_eq!(writes.emptied_ranges(Column::System), []);
        writes.empty_databases(ALL_DATABASES);
        assert_eq!(writes.emptied_ranges(Column::Meta).len(), DATABASE_COUNT);
        assert_eq!(writes.emptied_ranges(Column::Expiry), [(vec![], vec![0xff; 9])]);
        assert_eq!(writes.emptied_ranges(Column::System), []);
    }
}
