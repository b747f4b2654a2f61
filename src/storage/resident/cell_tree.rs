//! An ordered map from byte strings to byte strings, complete in memory, that knows ranks: a counted B+tree.
//!
//! Leaves are packed blocks ([`super::cell_block`]) of at most 4 KiB, so that an entry costs some ten bytes beside its
//! own and a range is read along memory; an entry that is larger has a leaf of its own. A node above has up to 64
//! children, their counts, and the separators between them, which are a packed block as well.
//!
//! A leaf's allocation is as large as what lies in it, up to a quarter of a power of two, but for leaves that grow and
//! shrink at an end, of which up to a half is free. So a tree that was filled at random has no more memory
//! free than one whose leaves are kept full by moving entries to their neighbours, and a small tree is small.
//!
//! What nodes hold, and how they part and join, is in [`super::cell_node`]; reading ranges is in [`super::cell_walk`].
//!
//! All nodes are shared until they are changed: a [`Snapshot`] costs nothing to take, and the tree copies what it
//! changes while one is there, one leaf and what lies above it at a time. Without one nothing is copied. The
//! counts of who shares a node are atomic (`Arc`), because a shard is opened on another thread than it runs on.

use super::cell_block::{Cell, CellBlock};
use super::cell_node::{Edges, Inner, Node, Put, full_leaves, level_above};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::Arc;

/// The most bytes of a key and its value: twice what Redis allows for a string, and few enough that the ends of a block
/// fit four bytes.
pub const ENTRY_BYTES_MAX: usize = 1 << 30;

/// The keys from the first to before the second; `None` is the end of the tree.
pub type KeyRange<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A key and its value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// An ordered map from byte strings to byte strings.
#[derive(Default)]
pub struct CellTree(Option<Rooted>);

/// What a tree has that is not empty. How many entries there are the root knows, so that a tree of one leaf takes no
/// more than it must.
struct Rooted {
    root: Node,
    /// What all nodes take; what is zero is an empty tree.
    heap_bytes: NonZeroUsize,
}

const _: () = assert!(
    size_of::<CellTree>() == 24,
    "there are two for each collection in memory"
);

impl Rooted {
    /// Calls `change` with the root and the bytes of the heap, which it keeps right.
    #[inline]
    fn change<R>(&mut self, change: impl FnOnce(&mut Node, &mut usize) -> R) -> R {
        let mut heap_bytes = self.heap_bytes.get();
        let result = change(&mut self.root, &mut heap_bytes);
        self.heap_bytes = NonZeroUsize::new(heap_bytes).expect("a root takes something of the heap");
        result
    }
}

/// A tree as it was: it does not change while the tree does.
pub struct Snapshot(CellTree);

impl CellTree {
    /// A tree without entries, which takes nothing of the heap.
    pub fn new() -> CellTree {
        CellTree::default()
    }

    /// The tree of entries whose keys ascend, with full leaves.
    pub fn from_sorted<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> CellTree {
        let (mut level, mut separators) = full_leaves(entries);
        let mut heap_bytes = level.iter().map(Node::heap_bytes).sum::<usize>();
        while level.len() > 1 {
            (level, separators) = level_above(level, separators);
            heap_bytes += level.iter().map(Node::heap_bytes).sum::<usize>();
        }
        let heap_bytes = NonZeroUsize::new(heap_bytes);
        CellTree(
            level
                .pop()
                .zip(heap_bytes)
                .map(|(root, heap_bytes)| Rooted { root, heap_bytes }),
        )
    }

    #[inline]
    pub(super) fn root(&self) -> Option<&Node> {
        self.0.as_ref().map(|rooted| &rooted.root)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.root().map_or(0, Node::count)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What the tree takes of the heap: what it has asked the allocator for. What a snapshot has in common with it
    /// counts
    /// for both.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |rooted| rooted.heap_bytes.get())
    }

    /// The tree as it is now. Takes no time; as long as the snapshot is there, a write copies the leaf that it changes,
    /// once, and what lies above it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(CellTree(self.0.as_ref().map(|rooted| Rooted {
            root: rooted.root.clone(),
            heap_bytes: rooted.heap_bytes,
        })))
    }

    /// Sets the value of a key. Returns the one that it had.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        self.insert_with(key, value, <[u8]>::to_vec)
    }

    /// The same, but the value that the key had is shown to `replaced` and not copied. That must not panic, here and
    /// where
    /// something is removed: the counts would be wrong.
    pub fn insert_with<R>(&mut self, key: &[u8], value: &[u8], replaced: impl FnOnce(&[u8]) -> R) -> Option<R> {
        assert!(
            key.len() + value.len() <= ENTRY_BYTES_MAX,
            "an entry is larger than a block can be"
        );
        let edges = Edges {
            first: true,
            last: true,
        };
        let (mut replaced, mut result) = (Some(replaced), None);
        loop {
            let Some(rooted) = &mut self.0 else {
                let leaf = CellBlock::one(key, value);
                let heap_bytes = NonZeroUsize::new(leaf.heap_bytes());
                self.0 = heap_bytes.map(|heap_bytes| Rooted {
                    root: Node::Leaf(leaf),
                    heap_bytes,
                });
                return result;
            };
            match rooted.change(|root, heap_bytes| root.put((key, value), edges, heap_bytes, &mut replaced)) {
                Put::Added => return result,
                Put::Replaced(result, is_small) => {
                    if is_small {
                        self.lower_root();
                    }
                    return Some(result);
                }
                Put::NoRoom => {
                    let replaced = replaced.take().expect("an entry is put once");
                    result = self.remove_with(key, replaced);
                }
                Put::Again => {}
                Put::Split(separator, node, added) => {
                    self.raise_root(&separator, node);
                    if added {
                        return result;
                    }
                }
            }
        }
    }

    /// Removes a key. Returns its value.
    pub fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.remove_with(key, <[u8]>::to_vec)
    }

    /// The same, but the value is shown to `removed` and not copied.
    pub fn remove_with<R>(&mut self, key: &[u8], removed: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let rooted = self.0.as_mut()?;
        let (result, is_small) = rooted.change(|root, heap_bytes| root.take(key, heap_bytes, removed))?;
        if is_small {
            self.lower_root();
        }
        Some(result)
    }

    /// Removes up to `entries_max` entries of a range, from its beginning; `removed` sees them. Returns how many there
    /// were: fewer than `entries_max` if the range is now empty.
    pub fn remove_up_to(
        &mut self,
        range: KeyRange<'_>,
        entries_max: usize,
        mut removed: impl FnMut(&[u8], &[u8]),
    ) -> usize {
        let Some(rooted) = &mut self.0 else {
            return 0;
        };
        if matches!(range, (Some(from), Some(to)) if from >= to) {
            return 0;
        }
        let count = rooted.change(|root, heap_bytes| root.take_range(range, entries_max, heap_bytes, &mut removed));
        self.lower_root();
        count
    }

    /// Drops up to `leaves_max` leaves, the last ones, with their entries, so that a large tree can be dropped in steps
    /// of about a microsecond a leaf. Returns whether there are more. What is left is a tree as any other.
    pub fn drop_some(&mut self, leaves_max: usize) -> bool {
        assert!(leaves_max > 0, "steps that drop nothing do not end");
        match &mut self.0 {
            Some(rooted) if matches!(rooted.root, Node::Inner(_)) => {
                rooted.change(|root, heap_bytes| root.drop_last(leaves_max, heap_bytes));
                self.lower_root();
            }
            _ => *self = CellTree::new(),
        }
        !self.is_empty()
    }

    /// The root was split: there is a node above it and its second half.
    fn raise_root(&mut self, separator: &[u8], second: Node) {
        let rooted = self.0.as_mut().expect("what was split is there");
        rooted.change(|root, heap_bytes| {
            let counts = vec![root.count(), second.count()];
            let above = Inner {
                separators: CellBlock::one(separator, b""),
                counts,
                children: vec![root.clone(), second],
            };
            *heap_bytes += above.heap_bytes();
            *root = Node::Inner(Arc::new(above));
        });
    }

    /// A root with one child or none is not needed.
    fn lower_root(&mut self) {
        while let Some(rooted) = &mut self.0 {
            let below = match &rooted.root {
                Node::Leaf(leaf) if !leaf.is_empty() => return,
                Node::Leaf(_) => None,
                Node::Inner(inner) if inner.children.len() > 1 => return,
                Node::Inner(inner) => inner.children.first().cloned(),
            };
            let Some(below) = below else {
                self.0 = None;
                return;
            };
            rooted.change(|root, heap_bytes| {
                *heap_bytes -= root.heap_bytes();
                *root = below;
            });
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let mut node = self.root()?;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_for(key)],
                Node::Leaf(leaf) => {
                    let cells = leaf.cells();
                    return Some(cells.value(cells.search(key).ok()?));
                }
            }
        }
    }

    /// How many keys are less than `key`, which need not be there.
    pub fn rank(&self, key: &[u8]) -> usize {
        let Some(mut node) = self.root() else {
            return 0;
        };
        let mut before = 0;
        loop {
            match node {
                Node::Leaf(leaf) => return before + leaf.cells().keys_below(key),
                Node::Inner(inner) => {
                    let at = inner.child_for(key);
                    before += inner.counts[..at].iter().sum::<usize>();
                    node = &inner.children[at];
                }
            }
        }
    }

    /// The entry before which there are `rank` others.
    pub fn nth(&self, rank: usize) -> Option<Cell<'_>> {
        let (cells, before) = self.leaf_at(rank)?;
        Some(cells.cell(rank - before))
    }

    /// The entry with the least key.
    pub fn first(&self) -> Option<Cell<'_>> {
        self.nth(0)
    }

    /// The entry with the greatest key.
    pub fn last(&self) -> Option<Cell<'_>> {
        self.nth(self.len().checked_sub(1)?)
    }
}

impl Deref for Snapshot {
    type Target = CellTree;

    fn deref(&self) -> &CellTree {
        &self.0
    }
}

impl Snapshot {
    /// [`CellTree::drop_some`]: what the tree has removed or copied since lies with its snapshot alone.
    pub fn drop_some(&mut self, leaves_max: usize) -> bool {
        self.0.drop_some(leaves_max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell_block::{BLOCK_BYTES_MAX, checks};
    use super::super::cell_node::{CHILDREN_MAX, CHILDREN_MIN};
    use super::*;
    use crate::storage::database::Direction;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    use std::ops::{Bound, ControlFlow};

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    /// Panics unless the tree is sound; returns what it takes of the heap, counted anew.
    fn check(tree: &CellTree) -> usize {
        let Some(root) = tree.root() else {
            assert_eq!(tree.bytes(), 0);
            return 0;
        };
        assert!(!tree.is_empty(), "an empty tree has no root");
        let (len, bytes, _) = check_node(root, (None, None), true);
        assert_eq!(
            (tree.len(), tree.bytes()),
            (len, bytes),
            "entries, and bytes of the heap"
        );
        bytes
    }

    /// Entries, bytes and height of what lies at a node and below; all keys are in the range.
    fn check_node(node: &Node, (from, to): KeyRange<'_>, is_root: bool) -> (usize, usize, usize) {
        let inner = match node {
            Node::Leaf(leaf) => {
                checks::check(leaf);
                let cells = leaf.cells();
                assert!(!cells.is_empty(), "no leaf is empty");
                let heads = 4 * cells.len();
                assert!(leaf.used_bytes() <= BLOCK_BYTES_MAX + heads || cells.len() == 1);
                assert!(from.is_none_or(|from| *from <= *cells.key(0)));
                assert!(to.is_none_or(|to| *cells.last_key() < *to));
                return (cells.len(), leaf.heap_bytes(), 0);
            }
            Node::Inner(inner) => inner,
        };
        checks::check(&inner.separators);
        let (separators, count) = (inner.separators.cells(), inner.children.len());
        let least = if is_root { 2 } else { CHILDREN_MIN };
        assert!((least..=CHILDREN_MAX).contains(&count), "{count} children");
        assert_eq!((inner.counts.len(), separators.len()), (count, count - 1));
        let (mut entries, mut bytes, mut heights) = (0, node.heap_bytes(), Vec::new());
        for (at, child) in inner.children.iter().enumerate() {
            let low = at.checked_sub(1).map(|before| separators.key(before));
            let high = (at + 1 < count).then(|| separators.key(at));
            let range = (low.as_deref().or(from), high.as_deref().or(to));
            let (child_entries, child_bytes, height) = check_node(child, range, false);
            assert_eq!(child_entries, inner.counts[at]);
            entries += child_entries;
            bytes += child_bytes;
            heights.push(height);
        }
        assert!(
            heights.iter().all(|height| *height == heights[0]),
            "all leaves are at one level"
        );
        (entries, bytes, heights[0] + 1)
    }

    fn bound(key: &Option<Vec<u8>>) -> Option<&[u8]> {
        key.as_deref()
    }

    fn in_model(model: &Model, from: &Option<Vec<u8>>, to: &Option<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let low = from.as_ref().map_or(Bound::Unbounded, Bound::Included);
        model
            .range::<Vec<u8>, _>((low, Bound::Unbounded))
            .take_while(|(key, _)| to.as_ref().is_none_or(|to| *key < to))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn visited(tree: &CellTree, range: KeyRange<'_>, direction: Direction, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        tree.visit(range, direction, |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            match found.len() < limit {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        found
    }

    fn assert_same(tree: &CellTree, model: &Model) {
        let found = visited(tree, (None, None), Direction::Forward, usize::MAX);
        let expected: Vec<_> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(found.len(), tree.len());
        assert!(found == expected);
    }

    /// How keys and values are drawn.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Shape {
        /// Few short keys over two letters: many are prefixes of one another, and one is empty.
        Prefixes,
        /// Score and member, no value.
        Scores,
        /// Long beginnings in common, values from none to larger than a block.
        Large,
        /// Many keys with the same head, since some share little with the others.
        SameHeads,
        /// Three entries to a leaf, so that nodes are above nodes.
        Tall,
        /// Numbers, mostly without gaps, at the least and the greatest that there are and around the places where a
        /// byte changes; some keys of other lengths.
        Numbers,
        /// As long as one another, most with much in common; some longer.
        Even,
    }

    impl Shape {
        fn key(self, random: &mut SmallRng) -> Vec<u8> {
            match self {
                Shape::Prefixes => {
                    let letters = [0, 255];
                    let length = random.random_range(0..12);
                    (0..length).map(|_| letters[random.random_range(0..2)]).collect()
                }
                Shape::Scores => {
                    let score: u64 = random.random_range(0..500) << 40;
                    [
                        &score.to_be_bytes()[..],
                        format!("member:{:09}", random.random_range(0..20)).as_bytes(),
                    ]
                    .concat()
                }
                Shape::Large => {
                    let length = match random.random_range(0..100) {
                        0 => 70_000,
                        1 => 5_000,
                        2..10 => random.random_range(250..260),
                        _ => 30,
                    };
                    let mut key = vec![b'k'; length];
                    key.extend_from_slice(&random.random_range(0..60_u8).to_be_bytes());
                    key
                }
                Shape::Tall => random.random::<u16>().to_be_bytes().to_vec(),
                Shape::Numbers => {
                    let base = [0, (1 << 24) - 150, (1 << 32) - 150, u64::MAX - 299][random.random_range(0..4)];
                    let number: u64 = base + random.random_range(0..300);
                    match random.random_range(0..400) {
                        0 => number.to_be_bytes()[4..].to_vec(),
                        1 => [&number.to_be_bytes()[..], b"a"].concat(),
                        _ => number.to_be_bytes().to_vec(),
                    }
                }
                Shape::Even => {
                    let number = random.random_range(0..3_000);
                    match random.random_range(0..400) {
                        0 => vec![b'f'; 33 + number % 3],
                        1 => format!("g:{number:03}").into_bytes(),
                        _ => format!("field of an entity:{number:08}").into_bytes(),
                    }
                }
                Shape::SameHeads => match random.random_range(0..20) {
                    0 => vec![random.random_range(0..255)],
                    _ => format!("the same beginning {:05}", random.random_range(0..4_000)).into_bytes(),
                },
            }
        }

        fn value(self, random: &mut SmallRng) -> Vec<u8> {
            let length = match self {
                Shape::Tall => random.random_range(1_200..1_330),
                Shape::Scores => 0,
                Shape::Numbers => random.random_range(0..2) * 20,
                Shape::Even => random.random_range(0..12),
                Shape::Prefixes => random.random_range(0..40),
                Shape::SameHeads => random.random_range(0..3) * 10,
                Shape::Large => match random.random_range(0..40) {
                    0 => random.random_range(60_000..140_000),
                    1..4 => random.random_range(3_900..4_200),
                    4..8 => random.random_range(0..4_000),
                    _ => random.random_range(0..100),
                },
            };
            vec![random.random(); length]
        }
    }

    /// Random operations on a tree of `entries` entries and a model, which must agree after each; all of both is
    /// compared after `check_every`.
    fn run(shape: Shape, entries: usize, (operations, check_every): (usize, usize), seed: u64) {
        println!("{shape:?}, seed {seed}");
        let mut run = Run {
            shape,
            random: SmallRng::seed_from_u64(seed),
            tree: CellTree::new(),
            model: Model::new(),
            snapshots: Vec::new(),
            grows: true,
        };
        for _ in 0..entries {
            let (key, value) = (shape.key(&mut run.random), shape.value(&mut run.random));
            run.tree.insert(&key, &value);
            run.model.insert(key, value);
        }
        for number in 0..operations {
            if run.random.random_range(0..operations / 6) == 0 {
                run.grows = !run.grows;
            }
            run.step();
            assert_eq!(run.tree.len(), run.model.len());
            if number % (check_every / 50).max(1) == 0 {
                check(&run.tree);
            }
            if number % check_every == 0 {
                assert_same(&run.tree, &run.model);
                for (snapshot, was) in &run.snapshots {
                    assert_same(snapshot, was);
                    check(snapshot);
                }
            }
        }
        assert_same(&run.tree, &run.model);
    }

    /// The ends of a range, if it has any.
    type Ends = (Option<Vec<u8>>, Option<Vec<u8>>);

    /// A tree and its model.
    struct Run {
        shape: Shape,
        random: SmallRng,
        tree: CellTree,
        model: Model,
        snapshots: Vec<(Snapshot, Model)>,
        /// Whether more comes than goes.
        grows: bool,
    }

    impl Run {
        fn step(&mut self) {
            let key = self.shape.key(&mut self.random);
            let ends = self.ends(&key);
            match self.random.random_range(0..100) {
                0..45 => self.write(key),
                45..60 => self.change_one(),
                60..70 => self.look_up(&key),
                70..85 => self.walk(&ends),
                85..88 => self.remove_range(&ends),
                88..91 => self.take_snapshot(),
                91 if !self.grows => self.drop_leaves(),
                92 if self.random.random_range(0..20) == 0 => {
                    let entries = self.model.iter().map(|(key, value)| (&key[..], &value[..]));
                    self.tree = CellTree::from_sorted(entries);
                    assert_same(&self.tree, &self.model);
                }
                _ => self.snapshots.truncate(1),
            }
        }

        fn ends(&mut self, key: &[u8]) -> Ends {
            let key = key.to_vec();
            match self.random.random_range(0..4) {
                _ if self.shape == Shape::Tall && self.random.random_range(0..8) > 0 => {
                    let width = self.random.random_range(1..2_000);
                    let to = u16::from_be_bytes([key[0], key[1]]).saturating_add(width);
                    (Some(key), Some(to.to_be_bytes().to_vec()))
                }
                0 => (None, Some(key)),
                1 => (Some(key), None),
                _ => (Some(key), Some(self.shape.key(&mut self.random))),
            }
        }

        fn write(&mut self, key: Vec<u8>) {
            if self.grows || self.random.random_range(0..4) == 0 {
                let value = self.shape.value(&mut self.random);
                assert_eq!(self.tree.insert(&key, &value), self.model.insert(key, value));
            } else {
                assert_eq!(self.tree.remove(&key), self.model.remove(&key));
            }
        }

        /// One that is there goes, or gets another value.
        fn change_one(&mut self) {
            if self.model.is_empty() {
                return;
            }
            let rank = self.random.random_range(0..self.model.len());
            let (key, value) = self.tree.nth(rank).expect("there are more");
            let (key, value) = (key.to_vec(), value.to_vec());
            assert_eq!(self.tree.rank(&key), rank);
            if self.grows {
                let new = self.shape.value(&mut self.random);
                assert_eq!(self.tree.insert(&key, &new).as_ref(), Some(&value));
                assert_eq!(self.model.insert(key, new), Some(value));
            } else {
                assert_eq!(self.tree.remove(&key).as_ref(), Some(&value));
                assert_eq!(self.model.remove(&key), Some(value));
            }
        }

        fn look_up(&self, key: &[u8]) {
            let Run { tree, model, .. } = self;
            assert_eq!(tree.get(key), model.get(key).map(|value| &value[..]));
            assert_eq!(tree.rank(key), model.range(..key.to_vec()).count());
            let first = model.first_key_value().map(|(key, value)| (&key[..], &value[..]));
            let last = model.last_key_value().map(|(key, value)| (&key[..], &value[..]));
            let entry = |cell: Option<Cell<'_>>| cell.map(|(key, value)| (key.to_vec(), value.to_vec()));
            let of_model = |entry: Option<(&[u8], &[u8])>| entry.map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert_eq!(
                (entry(tree.first()), entry(tree.last())),
                (of_model(first), of_model(last))
            );
            assert!(tree.nth(model.len()).is_none());
        }

        fn walk(&mut self, (from, to): &Ends) {
            let limit = [1, 10, usize::MAX][self.random.random_range(0..3)];
            let Run { tree, model, .. } = self;
            let range = (bound(from), bound(to));
            let mut expected = in_model(model, from, to);
            let direction = [Direction::Forward, Direction::Backward][self.random.random_range(0..2)];
            if direction == Direction::Backward {
                expected.reverse();
            }
            let entries = tree
                .entries(range, direction)
                .map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert!(entries.take(limit).eq(expected.iter().take(limit).cloned()));
            expected.truncate(limit);
            assert!(visited(tree, range, direction, limit) == expected);
            // The same by rank.
            let rank = match (direction, from, to) {
                (Direction::Forward, Some(from), _) => Some(tree.rank(from)),
                (Direction::Forward, None, _) => Some(0),
                (Direction::Backward, _, Some(to)) => tree.rank(to).checked_sub(1),
                (Direction::Backward, _, None) => tree.len().checked_sub(1),
            };
            let (mut found, count) = (Vec::new(), expected.len());
            if let Some(rank) = rank {
                tree.visit_from_rank(rank, count, direction, |key, value| {
                    found.push((key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                });
            }
            assert!(found == expected);
        }

        fn remove_range(&mut self, (from, to): &Ends) {
            let max = if self.grows { 5 } else { 300 };
            let max = self.random.random_range(0..max);
            let mut expected = in_model(&self.model, from, to);
            expected.truncate(max);
            let mut removed = Vec::new();
            let remove = |key: &[u8], value: &[u8]| removed.push((key.to_vec(), value.to_vec()));
            let count = self.tree.remove_up_to((bound(from), bound(to)), max, remove);
            assert_eq!(count, removed.len());
            assert!(removed == expected);
            for (key, _) in expected {
                self.model.remove(&key);
            }
        }

        fn take_snapshot(&mut self) {
            self.snapshots.push((self.tree.snapshot(), self.model.clone()));
            if self.snapshots.len() > 3 {
                let (mut snapshot, _) = self.snapshots.remove(self.random.random_range(0..3));
                while self.random.random_range(0..4) > 0 && snapshot.drop_some(2) {
                    check(&snapshot);
                }
            }
        }

        fn drop_leaves(&mut self) {
            let more = self.tree.drop_some(self.random.random_range(1..3));
            assert_eq!(more, !self.tree.is_empty());
            let keep = self.tree.len();
            self.model = std::mem::take(&mut self.model).into_iter().take(keep).collect();
        }
    }

    /// A seed from the environment, to run a test that failed once more, or a new one.
    fn seed() -> u64 {
        match std::env::var("SEED") {
            Ok(seed) => seed.parse().expect("a number"),
            Err(_) => rand::random(),
        }
    }

    #[test]
    fn random_operations_do_what_they_do_to_a_map() {
        let shapes = [
            Shape::Prefixes,
            Shape::Scores,
            Shape::Large,
            Shape::SameHeads,
            Shape::Numbers,
            Shape::Even,
        ];
        for shape in shapes {
            run(shape, 0, (6_000, 50), seed());
        }
    }

    #[test]
    fn random_operations_on_a_tree_of_several_levels_do_what_they_do_to_a_map() {
        run(Shape::Tall, 20_000, (1_500, 250), seed());
    }

    #[test]
    fn keys_that_ascend_or_descend_fill_all_leaves() {
        let key = |number: u32| [&number.to_be_bytes()[..], b"sixteen bytes, a member"].concat();
        for descends in [false, true] {
            let mut tree = CellTree::new();
            for number in 0..50_000_u32 {
                let number = if descends { 50_000 - number } else { number };
                tree.insert(&key(number), b"");
            }
            check(&tree);
            let (mut used, mut most) = (0, 0);
            each_leaf(tree.root().unwrap(), &mut |leaf| {
                used += leaf.used_bytes();
                most += BLOCK_BYTES_MAX;
            });
            assert!(used * 100 > most * 98, "{used} of {most}");
        }
    }

    #[test]
    fn keys_of_a_kind_that_ascend_fill_their_leaves_before_those_of_another() {
        let mut tree = CellTree::new();
        for number in 0..20_000_u32 {
            let id = u64::from(number).to_be_bytes();
            tree.insert(&[&[0], &id[..], &id].concat(), &[1; 64]);
            if number % 50 == 0 {
                tree.insert(&[&[5], &id[..], &id].concat(), &[2; 30]);
                tree.insert(&[&[2], &id[..4], &id].concat(), b"");
            }
        }
        check(&tree);
        let (mut used, mut leaves) = (0, 0);
        each_leaf(tree.root().unwrap(), &mut |leaf| {
            used += leaf.used_bytes();
            leaves += 1;
        });
        assert!(used * 100 > leaves * BLOCK_BYTES_MAX * 96, "{used} of {leaves} leaves");
    }

    #[test]
    fn numbers_without_gaps_take_no_room_and_may_go_from_the_midst() {
        for (value, bytes_max) in [(&b""[..], 4), (&[7; 50], 54)] {
            let (mut tree, mut model) = (CellTree::new(), Model::new());
            let key = |number: u64| (number << 40 | number).to_be_bytes();
            for number in (0..60_000_u64).map(|number| number + (1 << 23)) {
                tree.insert(&number.to_be_bytes(), value);
                model.insert(number.to_be_bytes().to_vec(), value.to_vec());
            }
            assert!(tree.bytes() <= bytes_max * tree.len(), "{} bytes", tree.bytes());
            // Of each leaf some go, in ones and in ranges; then others come, also such as are no neighbours.
            for number in (0..60_000_u64).step_by(100).map(|number| number + (1 << 23)) {
                assert_eq!(
                    tree.remove(&number.to_be_bytes()),
                    model.remove(&number.to_be_bytes()[..])
                );
            }
            check(&tree);
            let ends = ((1_u64 << 23) + 30_000, (1_u64 << 23) + 30_700);
            tree.remove_up_to(
                (Some(&ends.0.to_be_bytes()), Some(&ends.1.to_be_bytes())),
                10_000,
                |_, _| {},
            );
            model.retain(|key, _| !(ends.0.to_be_bytes().to_vec()..ends.1.to_be_bytes().to_vec()).contains(key));
            check(&tree);
            for number in (0..60_000_u64).step_by(70) {
                for key in [key(number), (number + (1 << 23)).to_be_bytes()] {
                    assert_eq!(tree.insert(&key, value), model.insert(key.to_vec(), value.to_vec()));
                }
            }
            check(&tree);
            assert_same(&tree, &model);
        }
    }

    #[test]
    fn what_comes_to_the_ends_and_goes_from_them_is_there() {
        let seed = seed();
        println!("SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        for lengths in [0..1, 8..9, 0..40, 60..200, 0..1_500] {
            let (mut tree, mut model) = (CellTree::new(), Model::new());
            let (mut first, mut end) = (1_u64 << 40, 1_u64 << 40);
            let mut snapshot = (tree.snapshot(), model.clone());
            for step in 0..6_000 {
                // For some time more comes than goes, and to and from one end more than the other.
                let (grows, leans) = (step / 700 % 3 != 2, step / 300 % 4);
                let at_front = random.random_range(0..10) < [0, 10, 9, 5][leans];
                if random.random_range(0..10) < if grows { 8 } else { 3 } || first == end {
                    let number = if at_front { first - 1 } else { end };
                    (first, end) = (first.min(number), end.max(number + 1));
                    let value = vec![random.random(); random.random_range(lengths.clone())];
                    tree.insert(&number.to_be_bytes(), &value);
                    model.insert(number.to_be_bytes().to_vec(), value);
                } else {
                    let number = if at_front { first } else { end - 1 };
                    (first, end) = if at_front { (first + 1, end) } else { (first, end - 1) };
                    let key = number.to_be_bytes();
                    assert_eq!(tree.remove(&key), model.remove(&key[..]));
                }
                match random.random_range(0..200) {
                    0 if first < end => {
                        // In the midst.
                        let key = random.random_range(first..end).to_be_bytes();
                        let value = vec![random.random(); random.random_range(lengths.clone())];
                        tree.insert(&key, &value);
                        model.insert(key.to_vec(), value);
                    }
                    1 => {
                        assert_same(&snapshot.0, &snapshot.1);
                        snapshot = (tree.snapshot(), model.clone());
                    }
                    2..10 => drop(check(&tree)),
                    _ => {}
                }
            }
            check(&tree);
            assert_same(&tree, &model);
        }
    }

    fn each_leaf(node: &Node, see: &mut impl FnMut(&CellBlock)) {
        match node {
            Node::Leaf(leaf) => see(leaf),
            Node::Inner(inner) => inner.children.iter().for_each(|child| each_leaf(child, see)),
        }
    }

    #[test]
    fn members_of_a_sorted_set_cost_at_most_forty_bytes() {
        let seed = seed();
        println!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut tree = CellTree::new();
        for number in 0..50_000 {
            tree.insert(&member(number, &mut random), b"");
        }
        assert_thrifty(&tree, 36, 88);
        // Others come and go, and then most go.
        let mut keys: Vec<Vec<u8>> = tree
            .entries((None, None), Direction::Forward)
            .map(|(key, _)| key.to_vec())
            .collect();
        for number in 0..150_000 {
            let at = random.random_range(0..keys.len());
            tree.remove(&keys[at]);
            keys[at] = member(number + 50_000, &mut random);
            tree.insert(&keys[at], b"");
        }
        assert_eq!(tree.len(), 50_000);
        assert_thrifty(&tree, 38, 85);
        // As many stay as make their mean a matter of the tree and not of chance.
        for key in &keys[..40_000] {
            tree.remove(key);
        }
        assert_eq!(check(&tree), tree.bytes());
        assert_thrifty(&tree, 40, 80);
    }

    /// The key of a sorted set's member: its score, which is drawn, and its name of 16 bytes.
    fn member(number: u32, random: &mut SmallRng) -> Vec<u8> {
        let score: f64 = random.random();
        [
            &score.to_bits().to_be_bytes()[..],
            format!("member:{number:09}").as_bytes(),
        ]
        .concat()
    }

    /// Panics unless an entry costs at most so many bytes, and so many hundredths of the leaves are used.
    fn assert_thrifty(tree: &CellTree, entry_bytes_max: usize, used_percent: usize) {
        let (mut used, mut taken) = (0, 0);
        each_leaf(tree.root().unwrap(), &mut |leaf| {
            used += leaf.used_bytes();
            taken += leaf.heap_bytes();
        });
        let each = tree.bytes() as f64 / tree.len() as f64;
        assert!(tree.bytes() <= entry_bytes_max * tree.len(), "{each} bytes each");
        assert!(used * 100 >= used_percent * taken, "{used} of {taken}");
    }

    #[test]
    fn a_write_copies_only_what_a_snapshot_has_too() {
        let mut tree = CellTree::from_sorted([(&b"a"[..], &b"1"[..]), (b"b", b"2")]);
        let address = |tree: &CellTree| tree.get(b"a").unwrap().as_ptr();
        let before = address(&tree);
        tree.insert(b"a", b"3");
        assert_eq!(address(&tree), before);
        let snapshot = tree.snapshot();
        tree.insert(b"a", b"4");
        assert_ne!(address(&tree), before);
        assert_eq!((snapshot.get(b"a"), tree.get(b"a")), (Some(&b"3"[..]), Some(&b"4"[..])));
        assert_eq!(address(&snapshot), before);
        let after = address(&tree);
        tree.insert(b"a", b"5");
        assert_eq!(address(&tree), after);
    }

    #[test]
    fn a_tree_is_dropped_in_steps_and_takes_nothing_then() {
        let keys: Vec<[u8; 4]> = (0..40_000_u32).map(u32::to_be_bytes).collect();
        let mut tree = CellTree::from_sorted(keys.iter().map(|key| (&key[..], &b"value"[..])));
        let (mut steps, mut len) = (1, tree.len());
        while tree.drop_some(3) {
            check(&tree);
            assert!(tree.len() < len, "each step drops something");
            len = tree.len();
            steps += 1;
        }
        assert!(steps > 20, "{steps} steps");
        assert_eq!((tree.len(), tree.bytes(), tree.first().is_none()), (0, 0, true));
    }

    #[test]
    fn a_tree_built_of_sorted_entries_is_sound_at_any_size() {
        let keys: Vec<[u8; 4]> = (0..30_000_u32).map(u32::to_be_bytes).collect();
        let value = [7; 600];
        for len in (0..300).chain([383, 384, 385, 390, 768, 2_000, 24_575, 24_576, 24_577, 24_600]) {
            let mut tree = CellTree::from_sorted(keys[..len].iter().map(|key| (&key[..], &value[..])));
            assert_eq!((tree.len(), check(&tree)), (len, tree.bytes()));
            tree.insert(b"\x00\x00\x00\x07\x01", &value);
            check(&tree);
        }
    }

    #[test]
    #[should_panic(expected = "ascend")]
    fn a_tree_is_not_built_of_keys_that_do_not_ascend() {
        CellTree::from_sorted([(&b"b"[..], &b""[..]), (b"a", b"")]);
    }
}
