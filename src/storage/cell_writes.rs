//! What becomes of a shard's cells, collected in any order: the last mention of a cell counts, and where that changes
//! some bytes of the cell only (a *patch*), those before it, too.

use super::database::Column;
use super::encoding::{self, DATABASE_COUNT, DEADLINE_LEN, database_range};
use super::operations::{ALL_DATABASES, CellKey, Change};
use hashbrown::HashTable;
use std::cmp::Ordering;
use std::hash::BuildHasher;
use std::ops::Range;

/// The columns of which a database is a range.
const BY_DATABASE: [Column; 3] = [Column::Meta, Column::Data, Column::Score];

/// Changes of the cells of one shard.
#[derive(Default)]
pub struct CellWrites {
    /// Keys and values, in the order in which they were mentioned; a member's key without its owner.
    bytes: Vec<u8>,
    /// By column.
    mentions: [Vec<Mention>; Column::COUNT],
    /// By column: those of members whose owner was named.
    member_mentions: [Vec<Mention>; Column::COUNT],
    /// For how many a column has room once it has one: to grow is to copy, and to have new memory cleared twice.
    mentions_expected: usize,
    /// By column: [`CellWrites::sort`] has set what mentions are compared by.
    is_sorted: [bool; Column::COUNT],
    owners: Owners,
    /// By physical database: where in `bytes` the mentions begin that came after it was emptied, if it was.
    emptied: [Option<usize>; DATABASE_COUNT],
    /// The same for the index of deadlines, which is emptied with all databases.
    expiry_emptied: Option<usize>,
    /// Nothing of these changes was brought into the database before, in part or with fewer: what has come and gone
    /// within them need not be.
    leaves_out_passed: bool,
}

/// A put, a delete or a patch.
#[derive(Clone, Copy)]
struct Mention {
    /// Of a column that is sorted, the first bytes by which the key differs from others, padded with zeros
    /// ([`Common`]): most comparisons need no more, and no cache line of the key.
    prefix: u64,
    /// Where the key begins, and behind it the value: a later mention begins later.
    at: usize,
    key_len: u32,
    /// [`DELETED`]: there is none.
    value_len: u32,
    /// The number of a member's owner, and its rank in a column that is sorted; 0 if the key is whole.
    owner: u32,
    /// The prefix has all by which the key differs from others that are as long.
    is_told_by_prefix: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// The cell was not there before.
    New,
    /// In place of a value there is an offset(4, little endian), and behind it the bytes that the cell's value has from
    /// there on, if there is one.
    Patch,
}

/// In place of a value's length: the cell is deleted.
const DELETED: u32 = u32::MAX;

/// What patches make of a cell: its value, `None` for a deletion.
type Folded = Option<Vec<u8>>;

/// What an operation takes in a log, about: room for more than there are takes no memory, since nothing touches it.
const OPERATION_BYTES: usize = 64;

/// Bytes of a patch's offset.
const OFFSET_LEN: usize = 4;

/// What the keys of members begin with, each once: many members have one owner, and are sorted by it first.
#[derive(Default)]
struct Owners {
    /// By number: all owners' bytes lie one behind the other up to here.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    by_bytes: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    last: usize,
    /// By number: its place in the order of their bytes. Empty until [`Owners::rank`].
    ranks: Vec<u32>,
    /// By rank: the number.
    order: Vec<u32>,
}

impl Owners {
    fn get(&self, number: usize) -> &[u8] {
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[number]]
    }

    /// The number of an owner, which it gets if it has none.
    #[inline]
    fn number(&mut self, owner: &[u8]) -> u32 {
        if !self.ends.is_empty() && self.get(self.last) == owner {
            return self.last as u32;
        }
        let hash = self.hasher.hash_one(owner);
        if let Some(number) = self.by_bytes.find(hash, |number| self.get(*number as usize) == owner) {
            self.last = *number as usize;
            return *number;
        }
        let number = u32::try_from(self.ends.len()).expect("a log has fewer owners than 2^32");
        self.bytes.extend_from_slice(owner);
        self.ends.push(self.bytes.len());
        let Owners {
            by_bytes,
            bytes,
            ends,
            hasher,
            ..
        } = self;
        let owner_of = |number: usize| &bytes[number.checked_sub(1).map_or(0, |before| ends[before])..ends[number]];
        by_bytes.insert_unique(hash, number, |number| hasher.hash_one(owner_of(*number as usize)));
        self.last = number as usize;
        number
    }

    fn rank(&mut self) {
        if self.ranks.len() == self.ends.len() {
            return;
        }
        let mut order: Vec<u32> = (0..self.ends.len() as u32).collect();
        order.sort_unstable_by(|one, other| self.get(*one as usize).cmp(self.get(*other as usize)));
        self.ranks = vec![0; order.len()];
        for (rank, number) in order.iter().enumerate() {
            self.ranks[*number as usize] = rank as u32;
        }
        self.order = order;
    }

    fn at_rank(&self, rank: u32) -> &[u8] {
        self.get(self.order[rank as usize] as usize)
    }
}

/// What all of some keys begin with; `None`: there are no keys yet.
#[derive(Clone, Copy, Default)]
struct Common<'b>(Option<&'b [u8]>);

impl<'b> Common<'b> {
    #[inline]
    fn add(&mut self, key: &'b [u8]) {
        match self.0 {
            Some(bytes) if key.starts_with(bytes) => {}
            Some(bytes) => {
                let len = bytes.iter().zip(key).take_while(|(one, other)| one == other).count();
                self.0 = Some(&bytes[..len]);
            }
            None => self.0 = Some(key),
        }
    }

    #[inline]
    fn len(self) -> usize {
        self.0.map_or(0, <[u8]>::len)
    }
}

/// The slot, by which most keys differ that are whole, lies in front of this.
const HEAD_LEN: usize = encoding::PREFIX_LEN;

impl CellWrites {
    /// Those of a window of a log, with room for so many bytes. A window is fresh if nothing of it was brought into the
    /// database before, in part or with a shorter window: what has come and gone within it is left out.
    pub fn of_window(is_fresh: bool, bytes: usize) -> CellWrites {
        CellWrites {
            leaves_out_passed: is_fresh,
            bytes: Vec::with_capacity(bytes),
            mentions_expected: bytes / OPERATION_BYTES,
            ..CellWrites::default()
        }
    }

    /// Whether nothing was mentioned.
    pub fn is_empty(&self) -> bool {
        let mut mentions = self.mentions.iter().chain(&self.member_mentions);
        mentions.all(Vec::is_empty) && self.emptied.iter().all(Option::is_none)
    }

    /// Sets a cell.
    pub fn put(&mut self, column: Column, key: &[u8], value: &[u8]) {
        self.mention(column, [b"", key], Some([b"", value]), Kind::Plain);
    }

    /// Deletes a cell.
    pub fn delete(&mut self, column: Column, key: &[u8]) {
        self.mention(column, [b"", key], None, Kind::Plain);
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
            Change::Put {
                column,
                key,
                value,
                is_new,
            } => {
                let kind = if is_new { Kind::New } else { Kind::Plain };
                self.mention(column, key, Some([b"", value]), kind);
            }
            Change::Delete { column, key } => self.mention(column, key, None, Kind::Plain),
            Change::Patch {
                column,
                key,
                offset,
                bytes,
            } => {
                let offset = u32::try_from(offset).expect("no value has 4 GiB").to_le_bytes();
                self.mention(column, key, Some([&offset, bytes]), Kind::Patch);
            }
            Change::EmptyDatabases(physical) => self.empty_databases(physical),
        }
    }

    /// A value is given in two parts.
    #[inline]
    fn mention(&mut self, column: Column, [owner, key]: CellKey<'_>, value: Option<[&[u8]; 2]>, kind: Kind) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        value
            .iter()
            .flatten()
            .for_each(|part| self.bytes.extend_from_slice(part));
        if self.bytes.len() == at {
            // A mention has a place of its own, which tells it from others.
            self.bytes.push(0);
        }
        let len = |len: usize| {
            let len = u32::try_from(len).ok().filter(|len| *len < DELETED);
            len.expect("a frame is shorter than 4 GiB")
        };
        assert!(!self.is_sorted.contains(&true), "what is sorted is all");
        let mention = Mention {
            prefix: 0,
            is_told_by_prefix: false,
            at,
            key_len: len(key.len()),
            value_len: value.map_or(DELETED, |[first, second]| len(first.len() + second.len())),
            owner: match owner.is_empty() {
                true => 0,
                false => self.owners.number(owner),
            },
            kind,
        };
        let mentions = match owner.is_empty() {
            true => &mut self.mentions[column as usize],
            false => &mut self.member_mentions[column as usize],
        };
        if mentions.capacity() == 0 {
            mentions.reserve_exact(self.mentions_expected);
        }
        mentions.push(mention);
    }

    /// Brings the mentions of a column into the order of their keys, for [`CellWrites::each_cell`].
    pub fn sort(&mut self, column: Column) {
        if std::mem::replace(&mut self.is_sorted[column as usize], true) {
            return;
        }
        self.owners.rank();
        self.tell_whole(column);
        self.tell_members(column);
        let bytes = &self.bytes;
        let by_key = |one: &Mention, other: &Mention| one.compare_key(other, bytes).then_with(|| one.at.cmp(&other.at));
        self.mentions[column as usize].sort_unstable_by(by_key);
        // No owner's bytes begin with another's, so that this is the order of the whole keys.
        self.member_mentions[column as usize]
            .sort_unstable_by(|one, other| one.owner.cmp(&other.owner).then_with(|| by_key(one, other)));
    }

    /// Finds out by which bytes the keys of a column differ that are whole.
    fn tell_whole(&mut self, column: Column) {
        let (mentions, bytes) = (&mut self.mentions[column as usize], &self.bytes);
        let (mut heads, mut rests) = <(Common<'_>, Common<'_>)>::default();
        for mention in mentions.iter() {
            let key = mention.key_in(bytes);
            let (head, rest) = key.split_at(key.len().min(HEAD_LEN));
            heads.add(head);
            rests.add(rest);
        }
        let (in_head, in_rest) = (heads.len()..HEAD_LEN, HEAD_LEN + rests.len());
        mentions
            .iter_mut()
            .for_each(|mention| mention.tell(bytes, in_head.clone(), in_rest));
    }

    /// The same for members, among those of one owner, in whose place there is its rank from now on.
    fn tell_members(&mut self, column: Column) {
        let (mentions, bytes) = (&mut self.member_mentions[column as usize], &self.bytes);
        if mentions.is_empty() {
            return;
        }
        let mut common = vec![Common::default(); self.owners.ranks.len()];
        for mention in mentions.iter_mut() {
            mention.owner = self.owners.ranks[mention.owner as usize];
            common[mention.owner as usize].add(mention.key_in(bytes));
        }
        mentions
            .iter_mut()
            .for_each(|mention| mention.tell(bytes, 0..0, common[mention.owner as usize].len()));
    }

    /// The ranges of a column that were emptied: from their first key to before their end. What
    /// [`CellWrites::each_cell`] gives comes after that.
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

    /// Calls `visit` with the cells of a column in the order of their keys, each once, with their values; none for what
    /// is deleted. The column must have been sorted. `base` tells the value of a cell of which only bytes are changed,
    /// where these writes go: from before all of them, or with some of them done, as after a try that has failed
    /// half-way. If there is none, nothing is said of the cell: what it belonged to is dead.
    ///
    /// # Errors
    /// That of `visit` or `base`, which are not called again.
    pub fn each_cell<E>(
        &self,
        column: Column,
        mut base: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
        mut visit: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = &self.bytes;
        assert!(self.is_sorted[column as usize], "cells come in the order of their keys");
        let is_same = |one: &Mention, other: &Mention| {
            one.owner == other.owner && one.compare_key(other, bytes) == Ordering::Equal
        };
        let mut whole = self.mentions[column as usize].chunk_by(is_same).peekable();
        let mut members = self.member_mentions[column as usize].chunk_by(is_same).peekable();
        let (mut key, mut owner_of_key) = (Vec::new(), None);
        loop {
            let next = match (whole.peek(), members.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(whole), Some(members)) => self.compare(&whole[0], &members[0]),
            };
            let mentions = [
                next.is_le().then(|| whole.next()).flatten().unwrap_or_default(),
                next.is_ge().then(|| members.next()).flatten().unwrap_or_default(),
            ];
            let ends = mentions
                .iter()
                .flat_map(|mentions| mentions.first().into_iter().chain(mentions.last()));
            let (first, last) = (ends.clone().min_by_key(|end| end.at), ends.max_by_key(|end| end.at));
            let (Some(first), Some(last)) = (first, last) else {
                unreachable!("a cell has mentions");
            };
            let [whole_mentions, member_mentions] = mentions;
            let database = whole_mentions.first().map(|mention| mention.key_in(bytes));
            let database = database.or_else(|| member_mentions.first().map(|mention| self.owner_of(mention)));
            let emptied_at = self.emptied_at(column, database.unwrap_or_default());
            let has_passed = first.kind == Kind::New && last.value_len == DELETED;
            if emptied_at.is_some_and(|emptied_at| last.at < emptied_at) || has_passed && self.leaves_out_passed {
                continue;
            }
            let key = match member_mentions.first() {
                Some(member) => {
                    let owner = self.owner_of(member);
                    if owner_of_key != Some(member.owner) {
                        key.clear();
                        key.extend_from_slice(owner);
                        owner_of_key = Some(member.owner);
                    }
                    key.truncate(owner.len());
                    key.extend_from_slice(member.key_in(bytes));
                    &key[..]
                }
                None => last.key_in(bytes),
            };
            if last.kind != Kind::Patch {
                visit(key, last.value_in(bytes))?;
            } else if let Some(value) = self.fold(mentions, emptied_at, || base(key))? {
                let has_passed = first.kind == Kind::New && value.is_none();
                if !(has_passed && self.leaves_out_passed) {
                    visit(key, value.as_deref())?;
                }
            }
        }
    }

    /// What becomes of a cell whose last mention is a patch, `None` for a deletion; nothing at all if the cell is not
    /// there.
    fn fold<E>(
        &self,
        mentions: [&[Mention]; 2],
        emptied_at: Option<usize>,
        base: impl FnOnce() -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Folded>, E> {
        let mut in_order: Vec<&Mention> = mentions.into_iter().flatten().collect();
        in_order.sort_unstable_by_key(|mention| mention.at);
        // Bytes are changed of what was said last of the whole cell.
        let begin = in_order.iter().rposition(|mention| mention.kind != Kind::Patch);
        let mut value = match begin.map(|begin| in_order[begin]) {
            Some(whole) if emptied_at.is_some_and(|emptied_at| whole.at < emptied_at) => return Ok(None),
            Some(whole) => match whole.value_in(&self.bytes) {
                Some(value) => value.to_vec(),
                None => return Ok(Some(None)),
            },
            None if emptied_at.is_some() => return Ok(None),
            None => match base()? {
                Some(value) => value,
                None => return Ok(None),
            },
        };
        for patch in &in_order[begin.map_or(0, |begin| begin + 1)..] {
            let (offset, bytes) = patch
                .value_in(&self.bytes)
                .and_then(<[u8]>::split_first_chunk::<OFFSET_LEN>)
                .expect("a patch has an offset");
            let offset = u32::from_le_bytes(*offset) as usize;
            let range = offset..offset + bytes.len();
            if value.len() < range.end {
                value.resize(range.end, 0);
            }
            value[range].copy_from_slice(bytes);
        }
        Ok(Some(Some(value)))
    }

    fn owner_of(&self, member: &Mention) -> &[u8] {
        self.owners.at_rank(member.owner)
    }

    /// How a whole key and a member's compare.
    fn compare(&self, whole: &Mention, member: &Mention) -> Ordering {
        let (whole, owner) = (whole.key_in(&self.bytes), self.owner_of(member));
        match whole.strip_prefix(owner) {
            Some(rest) => rest.cmp(member.key_in(&self.bytes)),
            None => whole.cmp(owner),
        }
    }

    /// Where the mentions begin that came after the database of a cell, whose key begins with these bytes, was emptied;
    /// `None` if it was not.
    fn emptied_at(&self, column: Column, key: &[u8]) -> Option<usize> {
        if BY_DATABASE.contains(&column) {
            // The first byte of a key is the database.
            let database = key.first().copied().map_or(usize::MAX, usize::from);
            self.emptied.get(database).copied().flatten()
        } else {
            self.expiry_emptied.filter(|_| column == Column::Expiry)
        }
    }
}

impl Mention {
    /// The key begins to differ from others in `head`, or else from `begin` on.
    #[inline]
    fn tell(&mut self, bytes: &[u8], head: Range<usize>, begin: usize) {
        let key = self.key_in(bytes);
        let (mut prefix, mut len) = ([0; 8], 0);
        for part in [key.get(head.start..head.end.min(key.len())), key.get(begin..)] {
            let part = part.unwrap_or_default();
            let taken = part.len().min(prefix.len() - len);
            prefix[len..len + taken].copy_from_slice(&part[..taken]);
            len += taken;
            self.is_told_by_prefix = taken == part.len();
        }
        self.prefix = u64::from_be_bytes(prefix);
    }

    /// How the keys of two mentions compare, of one column that is sorted, and of one owner.
    #[inline]
    fn compare_key(&self, other: &Mention, bytes: &[u8]) -> Ordering {
        (self.prefix.cmp(&other.prefix)).then_with(|| match self.is_told_by_prefix && other.is_told_by_prefix {
            // One that ends before others that go on with zeros comes first.
            true => self.key_len.cmp(&other.key_len),
            false => self.key_in(bytes).cmp(other.key_in(bytes)),
        })
    }

    fn key_in<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.at..self.at + self.key_len as usize]
    }

    fn value_in<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let begin = self.at + self.key_len as usize;
        (self.value_len != DELETED).then(|| &bytes[begin..begin + self.value_len as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded_random;
    use super::*;
    use rand::Rng;
    use rand::rngs::StdRng;
    use std::collections::BTreeMap;

    type Cells = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    /// What most keys of a test have in common: they are of the first databases, and what comes behind that is this.
    struct Alike {
        databases: u8,
        then: Vec<u8>,
    }

    impl Alike {
        fn random(random: &mut StdRng) -> Alike {
            Alike {
                databases: [1, DATABASE_COUNT as u8][random.random_range(0..2)],
                then: vec![7; random.random_range(0..12)],
            }
        }
    }

    /// Keys of which many begin alike, and some are the beginning of others.
    fn random_key(random: &mut StdRng, alike: &Alike) -> Vec<u8> {
        let mut key = vec![random.random_range(0..alike.databases)];
        if random.random_bool(0.99) {
            key.extend(&alike.then);
        }
        key.extend((0..random.random_range(0..12)).map(|_| [0, 1, 0xff][random.random_range(0..3)]));
        key
    }

    /// What there is of a key before the writes of a test: every other key.
    fn base_of(key: &[u8]) -> Option<Vec<u8>> {
        key.len().is_multiple_of(2).then(|| vec![key[0]; key.len()])
    }

    /// Does a random thing to the writes and to the model. Members' keys are said in two parts, or in one.
    fn step(random: &mut StdRng, alike: &Alike, writes: &mut CellWrites, model: &mut [Cells; Column::COUNT]) {
        let index = random.random_range(0..Column::COUNT as u8);
        let column = Column::of_index(index).expect("a column");
        let key = random_key(random, alike);
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
            1..20 => {
                let (offset, bytes) = (
                    random.random_range(0..12),
                    vec![random.random(); random.random_range(0..5)],
                );
                writes.apply(Change::Patch {
                    column,
                    key: in_parts(random, &key),
                    offset,
                    bytes: &bytes,
                });
                let cells = &mut model[usize::from(index)];
                if writes.emptied_at(column, &key).is_none()
                    && !cells.contains_key(&key)
                    && let Some(base) = base_of(&key)
                {
                    cells.insert(key.clone(), Some(base));
                }
                if let Some(Some(value)) = cells.get_mut(&key) {
                    let end = offset + bytes.len();
                    value.resize(value.len().max(end), 0);
                    value[offset..end].copy_from_slice(&bytes);
                }
            }
            20..40 => {
                writes.apply(Change::Delete {
                    column,
                    key: in_parts(random, &key),
                });
                model[usize::from(index)].insert(key, None);
            }
            _ => {
                let value = vec![random.random(); random.random_range(0..9)];
                writes.apply(Change::Put {
                    column,
                    key: in_parts(random, &key),
                    value: &value,
                    is_new: random.random(),
                });
                model[usize::from(index)].insert(key, Some(value));
            }
        }
    }

    /// An owner has three bytes, and any key that is longer may be a member's.
    fn in_parts<'k>(random: &mut StdRng, key: &'k [u8]) -> CellKey<'k> {
        match key.split_at_checked(3) {
            Some((owner, member)) if random.random() => [owner, member],
            _ => [b"", key],
        }
    }

    fn cells_of(writes: &mut CellWrites, column: Column) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut found = Vec::new();
        writes.sort(column);
        let base = |key: &[u8]| Ok(base_of(key));
        let visited = writes.each_cell(column, base, |key, value| {
            found.push((key.to_vec(), value.map(<[u8]>::to_vec)));
            Ok::<(), ()>(())
        });
        visited.expect("nothing fails");
        found
    }

    #[test]
    fn what_has_come_and_gone_is_left_out_of_a_fresh_window_only() {
        let put = |is_new| Change::Put {
            column: Column::Data,
            key: [b"own", b"member"],
            value: b"v",
            is_new,
        };
        let delete = Change::Delete {
            column: Column::Data,
            key: [b"own", b"member"],
        };
        let gone = vec![(b"ownmember".to_vec(), None)];
        let there = vec![(b"ownmember".to_vec(), Some(b"v".to_vec()))];
        for (changes, fresh, other) in [
            (&[put(true), delete][..], vec![], gone.clone()),
            (
                &[put(true), put(false), delete, put(true), delete],
                vec![],
                gone.clone(),
            ),
            (&[put(false), delete], gone.clone(), gone.clone()),
            (&[delete, put(true), delete], gone.clone(), gone),
            (&[put(true), delete, put(true)], there.clone(), there),
        ] {
            for (mut writes, expected) in [(CellWrites::of_window(true, 0), fresh), (CellWrites::default(), other)] {
                changes.iter().for_each(|change| writes.apply(*change));
                assert_eq!(cells_of(&mut writes, Column::Data), expected, "{changes:?}");
            }
        }
    }

    #[test]
    fn the_last_mention_of_each_cell_counts_and_cells_are_in_order() {
        let mut random = seeded_random::printed();
        for _ in 0..100 {
            let alike = Alike::random(&mut random);
            let mut writes = CellWrites::default();
            let mut model = <[Cells; Column::COUNT]>::default();
            for _ in 0..random.random_range(0..400) {
                step(&mut random, &alike, &mut writes, &mut model);
            }
            for (index, expected) in model.iter().enumerate() {
                let column = Column::of_index(index as u8).expect("a column");
                let found = cells_of(&mut writes, column);
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
