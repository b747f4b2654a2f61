//! A tree that counts the keys of a sorted set's order: which rank has a key, and which key a rank.
//!
//! The keys lie in blocks, which are stretches of the order of at most [`Limits::block`] keys; the tree knows each
//! block's bound (it holds the keys from its bound to before the next block's) and count, but not its keys, which are
//! only walked along. A node has up to [`Limits::fan_out`] children, blocks or nodes, with the number of keys below
//! each. A bound is the shortest text between two neighbours, and a node's first child has none: it begins where the
//! node does.
//!
//! A node is stored in two parts, since a key that comes or goes changes the counts of one node per level, but children
//! only when something splits or merges, which is once in some ten keys at the most.

use crate::error::CommandError;
use crate::storage::encoding::{self, SCORE_MEMBERS, TreeRoot, node_keys};
use std::ops::ControlFlow;

/// How large the parts of a tree are.
#[derive(Clone, Copy)]
pub struct Limits {
    /// The most keys of a block; fewer in all need no tree.
    pub block: u64,
    /// The most children of a node.
    pub fan_out: usize,
}

/// Where a tree's nodes are kept, and the keys that it counts.
pub trait Store {
    /// The value under a key.
    fn read(&mut self, key: &[u8]) -> Result<Option<&[u8]>, CommandError>;
    /// Sets the value under a key.
    fn put(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), CommandError>;
    /// Deletes a key.
    fn delete(&mut self, key: &[u8]) -> Result<(), CommandError>;
    /// Calls `visit` with the counted keys from `from` to before `to`, until it breaks.
    fn walk(
        &mut self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), CommandError>;
}

/// A tree, or none while the keys fit one block.
pub struct CountedTree<S> {
    /// Where it is kept.
    pub store: S,
    /// Where it begins; to be kept by the caller.
    pub root: Option<TreeRoot>,
    /// How large its parts are.
    pub limits: Limits,
}

/// A block: where it begins, before which key it ends, how many keys come before it, and how many it has.
#[derive(Debug)]
pub struct Block {
    /// The first key that would be in it.
    pub from: Vec<u8>,
    /// The first key that would not.
    pub to: Vec<u8>,
    /// Keys before it.
    pub before: u64,
    /// Keys in it.
    pub count: u64,
}

impl Block {
    /// One that would have all keys, with so many in it.
    pub fn first(count: u64) -> Block {
        Block {
            from: SCORE_MEMBERS.0.to_vec(),
            to: SCORE_MEMBERS.1.to_vec(),
            before: 0,
            count,
        }
    }
}

/// What is looked for in a tree.
#[derive(Clone, Copy)]
enum Target<'a> {
    Key(&'a [u8]),
    Rank(u64),
}

/// A node on the way down, and which of its children comes next.
struct Step {
    node: u64,
    index: usize,
    counts: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq)]
struct Child {
    /// The child's number; 0 for a block.
    node: u64,
    bound: Vec<u8>,
    count: u64,
}

fn damaged() -> CommandError {
    CommandError::text("ERR the stored ranks of this key are damaged")
}

/// The shortest text above `left` and not above `right`.
fn bound_between(left: &[u8], right: &[u8]) -> Vec<u8> {
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    right[..right.len().min(common + 1)].to_vec()
}

fn total(children: &[Child]) -> u64 {
    children.iter().map(|child| child.count).sum()
}

impl<S: Store> CountedTree<S> {
    /// The block that a key is in, or would be.
    pub fn block_of_key(&mut self, key: &[u8]) -> Result<Option<Block>, CommandError> {
        self.descend(Target::Key(key))
            .map(|found| found.map(|(_, block)| block))
    }

    /// The block that has the key at a rank; the last one if there are not so many.
    pub fn block_of_rank(&mut self, rank: u64) -> Result<Option<Block>, CommandError> {
        self.descend(Target::Rank(rank))
            .map(|found| found.map(|(_, block)| block))
    }

    /// A key has come; there are `count` now. All of them are in the store.
    pub fn inserted(&mut self, key: &[u8], count: u64) -> Result<(), CommandError> {
        let Some((mut path, block)) = self.descend(Target::Key(key))? else {
            // Without a tree at this size the set was known in memory alone for a while: to make one now would take
            // as long as the set is large.
            return match count == self.limits.block + 1 {
                true => self.build_from_store(),
                false => Ok(()),
            };
        };
        for step in &mut path {
            step.counts[step.index] += 1;
            let counts = encoding::encode_node_counts(&step.counts);
            self.store.put(&node_keys(step.node).1, counts)?;
        }
        if block.count + 1 > self.limits.block {
            self.split(&path, &block)?;
        }
        Ok(())
    }

    /// A key has gone.
    pub fn removed(&mut self, key: &[u8]) -> Result<(), CommandError> {
        let Some((mut path, block)) = self.descend(Target::Key(key))? else {
            return Ok(());
        };
        for step in &mut path {
            let count = &mut step.counts[step.index];
            *count = count.checked_sub(1).ok_or_else(damaged)?;
            let counts = encoding::encode_node_counts(&step.counts);
            self.store.put(&node_keys(step.node).1, counts)?;
        }
        // A block that is well filled has no neighbour that it could be merged with.
        if block.count - 1 < self.limits.block / 4 {
            self.merge(&path)?;
        }
        Ok(())
    }

    /// Makes the tree of all keys in the store, in place of none.
    pub fn build_from_store(&mut self) -> Result<(), CommandError> {
        let mut keys = Vec::new();
        self.store.walk(&SCORE_MEMBERS.0, &SCORE_MEMBERS.1, &mut |key| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        self.build(&keys)
    }

    /// Deletes the tree.
    pub fn clear(&mut self) -> Result<(), CommandError> {
        match self.root.take() {
            Some(root) => self.forget_below(root.node),
            None => Ok(()),
        }
    }

    /// Makes the tree of keys that are in order, in place of none.
    pub fn build(&mut self, keys: &[Vec<u8>]) -> Result<(), CommandError> {
        self.build_of_ranks(keys.len() as u64, |_, rank| Ok(keys[rank as usize].clone()))
    }

    /// Makes the tree of `count` keys, in place of none; `key_at` tells the one at a rank.
    pub fn build_of_ranks(
        &mut self,
        count: u64,
        mut key_at: impl FnMut(&mut S, u64) -> Result<Vec<u8>, CommandError>,
    ) -> Result<(), CommandError> {
        if count <= self.limits.block {
            return Ok(());
        }
        // Three quarters full, so that the next keys split nothing.
        let block = (self.limits.block * 3 / 4).max(1);
        let mut children: Vec<Child> = Vec::new();
        for first in (0..count).step_by(block as usize) {
            let bound = match first {
                0 => Vec::new(),
                _ => bound_between(&key_at(&mut self.store, first - 1)?, &key_at(&mut self.store, first)?),
            };
            children.push(Child {
                node: 0,
                bound,
                count: block.min(count - first),
            });
        }
        let mut root = TreeRoot {
            levels: 0,
            node: 0,
            next_node: 1,
        };
        let fan_out = (self.limits.fan_out * 3 / 4).max(2);
        while children.len() > 1 || root.levels == 0 {
            let mut parents = Vec::new();
            for below in children.chunks_mut(fan_out) {
                parents.push(self.save_new(&mut root, below)?);
            }
            root.levels += 1;
            children = parents;
        }
        root.node = children[0].node;
        self.root = Some(root);
        Ok(())
    }

    /// The way to a block and the block itself; `None` if there is no tree.
    fn descend(&mut self, target: Target<'_>) -> Result<Option<(Vec<Step>, Block)>, CommandError> {
        let Some(root) = self.root else { return Ok(None) };
        let mut block = Block::first(0);
        let mut path = Vec::with_capacity(usize::from(root.levels));
        let mut node = root.node;
        for _ in 0..root.levels {
            let (step, child) = self.step(node, target, &mut block)?;
            path.push(step);
            node = child;
        }
        Ok(Some((path, block)))
    }

    /// One node of the way: narrows `block` to the child that is taken, and returns the child's number.
    fn step(&mut self, node: u64, target: Target<'_>, block: &mut Block) -> Result<(Step, u64), CommandError> {
        let (children_key, counts_key) = node_keys(node);
        let counts = self.store.read(&counts_key)?.and_then(encoding::node_counts);
        let counts = counts.ok_or_else(damaged)?;
        let by_rank = match target {
            Target::Rank(rank) => Some(place_of_rank(&counts, rank.saturating_sub(block.before))),
            Target::Key(_) => None,
        };
        let stored = self.store.read(&children_key)?.ok_or_else(damaged)?;
        let mut taken = None;
        for (index, (child, bound)) in encoding::children(stored).enumerate() {
            let is_beyond = match target {
                Target::Key(key) => bound > key,
                Target::Rank(_) => Some(index) > by_rank,
            };
            if index > 0 && is_beyond {
                block.to = bound.to_vec();
                break;
            }
            taken = Some((index, child, bound));
        }
        let (index, child, bound) = taken.ok_or_else(damaged)?;
        if index > 0 {
            block.from = bound.to_vec();
        }
        block.count = *counts.get(index).ok_or_else(damaged)?;
        block.before += counts[..index].iter().sum::<u64>();
        Ok((Step { node, index, counts }, child))
    }

    /// Splits a block at its middle, and on the way up the nodes that have too many children.
    fn split(&mut self, path: &[Step], block: &Block) -> Result<(), CommandError> {
        let Some(mut root) = self.root else { return Ok(()) };
        let (left_count, mut bound) = self.middle(block)?;
        let mut right = Child {
            node: 0,
            bound: std::mem::take(&mut bound),
            count: 0,
        };
        let mut left_total = left_count;
        for step in path.iter().rev() {
            let mut children = self.load(step.node)?;
            let left = children.get_mut(step.index).ok_or_else(damaged)?;
            right.count = left.count.checked_sub(left_total).ok_or_else(damaged)?;
            left.count = left_total;
            children.insert(step.index + 1, right);
            if children.len() <= self.limits.fan_out {
                self.save(step.node, &children)?;
                self.root = Some(root);
                return Ok(());
            }
            let mut beyond = children.split_off(children.len() / 2);
            self.save(step.node, &children)?;
            left_total = total(&children);
            right = self.save_new(&mut root, &mut beyond)?;
        }
        let left = Child {
            node: root.node,
            bound: Vec::new(),
            count: left_total,
        };
        root.node = self.save_new(&mut root, &mut [left, right])?.node;
        root.levels += 1;
        self.root = Some(root);
        Ok(())
    }

    /// How many keys of a block come before its middle, and a bound there.
    fn middle(&mut self, block: &Block) -> Result<(u64, Vec<u8>), CommandError> {
        let before = block.count.div_ceil(2);
        let (mut passed, mut last, mut bound) = (0, Vec::new(), None);
        self.store.walk(&block.from, &block.to, &mut |key| {
            if passed == before {
                bound = Some(bound_between(&last, key));
                return ControlFlow::Break(());
            }
            passed += 1;
            if passed == before {
                last = key.to_vec();
            }
            ControlFlow::Continue(())
        })?;
        Ok((before, bound.ok_or_else(damaged)?))
    }

    /// Merges the block at the end of a path with a neighbour if the two are small, and on the way up the nodes that
    /// became small by it; a root with one child gives way to it.
    fn merge(&mut self, path: &[Step]) -> Result<(), CommandError> {
        let Some(mut root) = self.root else { return Ok(()) };
        for (height, step) in path.iter().rev().enumerate() {
            let mut children = self.load(step.node)?;
            if !self.merge_child(&mut children, step.index, height > 0)? {
                break;
            }
            self.save(step.node, &children)?;
            if children.len() * 4 >= self.limits.fan_out && children.len() > 1 {
                break;
            }
        }
        loop {
            let children = self.load(root.node)?;
            if children.len() > 1 {
                break;
            }
            self.forget(root.node)?;
            root.levels -= 1;
            match children.first() {
                Some(only) if root.levels > 0 => root.node = only.node,
                _ => {
                    self.root = None;
                    return Ok(());
                }
            }
        }
        self.root = Some(root);
        Ok(())
    }

    /// Merges the child at `index` with a neighbour, or takes it away if nothing is below it. Whether it did.
    fn merge_child(&mut self, children: &mut Vec<Child>, index: usize, are_nodes: bool) -> Result<bool, CommandError> {
        let child = children.get(index).ok_or_else(damaged)?;
        if child.count == 0 {
            let gone = children.remove(index);
            if are_nodes {
                self.forget_below(gone.node)?;
            }
            return Ok(true);
        }
        for left in [index.checked_sub(1), Some(index)].into_iter().flatten() {
            if left + 1 < children.len() && self.merge_pair(children, left, are_nodes)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Merges two neighbours if they are small together. Whether they were.
    fn merge_pair(&mut self, children: &mut Vec<Child>, left: usize, are_nodes: bool) -> Result<bool, CommandError> {
        let count = children[left].count + children[left + 1].count;
        if !are_nodes {
            if count > self.limits.block / 2 {
                return Ok(false);
            }
        } else {
            let mut below = self.load(children[left].node)?;
            let mut below_right = self.load(children[left + 1].node)?;
            if below.len() + below_right.len() > self.limits.fan_out / 2 {
                return Ok(false);
            }
            if let Some(first) = below_right.first_mut() {
                first.bound.clone_from(&children[left + 1].bound);
            }
            below.append(&mut below_right);
            self.save(children[left].node, &below)?;
            self.forget(children[left + 1].node)?;
        }
        children[left].count = count;
        children.remove(left + 1);
        Ok(true)
    }

    /// Deletes a node and the nodes below it.
    fn forget_below(&mut self, node: u64) -> Result<(), CommandError> {
        if node == 0 {
            return Ok(());
        }
        for child in self.load(node)? {
            self.forget_below(child.node)?;
        }
        self.forget(node)
    }

    fn load(&mut self, node: u64) -> Result<Vec<Child>, CommandError> {
        let (children_key, counts_key) = node_keys(node);
        let counts = self.store.read(&counts_key)?.and_then(encoding::node_counts);
        let counts = counts.ok_or_else(damaged)?;
        let stored = self.store.read(&children_key)?.ok_or_else(damaged)?;
        let children = encoding::children(stored).zip(&counts);
        let children: Vec<Child> = children
            .map(|((node, bound), count)| Child {
                node,
                bound: bound.to_vec(),
                count: *count,
            })
            .collect();
        if children.len() == counts.len() {
            Ok(children)
        } else {
            Err(damaged())
        }
    }

    fn save(&mut self, node: u64, children: &[Child]) -> Result<(), CommandError> {
        let (children_key, counts_key) = node_keys(node);
        // The first child begins where the node does, whatever its bound was among other neighbours.
        let bound = |index: usize| if index == 0 { &b""[..] } else { &children[index].bound };
        let stored = children
            .iter()
            .enumerate()
            .map(|(index, child)| (child.node, bound(index)));
        self.store.put(&children_key, encoding::encode_children(stored))?;
        let counts: Vec<u64> = children.iter().map(|child| child.count).collect();
        self.store.put(&counts_key, encoding::encode_node_counts(&counts))
    }

    /// Saves a new node, and returns it as its parent's child.
    fn save_new(&mut self, root: &mut TreeRoot, children: &mut [Child]) -> Result<Child, CommandError> {
        let node = root.next_node;
        root.next_node += 1;
        self.save(node, children)?;
        Ok(Child {
            node,
            bound: std::mem::take(&mut children[0].bound),
            count: total(children),
        })
    }

    fn forget(&mut self, node: u64) -> Result<(), CommandError> {
        let (children_key, counts_key) = node_keys(node);
        self.store.delete(&children_key)?;
        self.store.delete(&counts_key)
    }
}

/// The index of the child that has the key at `rank` among the children's; the last if there are not so many.
fn place_of_rank(counts: &[u64], mut rank: u64) -> usize {
    for (index, count) in counts.iter().enumerate() {
        if rank < *count {
            return index;
        }
        rank -= count;
    }
    counts.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Memory(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Store for Memory {
        fn read(&mut self, key: &[u8]) -> Result<Option<&[u8]>, CommandError> {
            Ok(self.0.get(key).map(Vec::as_slice))
        }

        fn put(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), CommandError> {
            self.0.insert(key.to_vec(), value);
            Ok(())
        }

        fn delete(&mut self, key: &[u8]) -> Result<(), CommandError> {
            self.0.remove(key);
            Ok(())
        }

        fn walk(
            &mut self,
            from: &[u8],
            to: &[u8],
            visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
        ) -> Result<(), CommandError> {
            for key in self.0.range(from.to_vec()..to.to_vec()).map(|(key, _)| key) {
                if visit(key).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    type Tree = CountedTree<Memory>;

    fn tree(block: u64, fan_out: usize) -> Tree {
        CountedTree {
            store: Memory::default(),
            root: None,
            limits: Limits { block, fan_out },
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    /// A key: four bytes, and sometimes a longer one that begins like another.
    fn key(number: u64) -> Vec<u8> {
        let mut key = vec![0];
        key.extend_from_slice(&(number as u32 / 3).to_be_bytes());
        key.extend(std::iter::repeat_n(b'x', (number % 3) as usize));
        key
    }

    fn keys(tree: &Tree) -> Vec<Vec<u8>> {
        let members = SCORE_MEMBERS.0.to_vec()..SCORE_MEMBERS.1.to_vec();
        tree.store.0.range(members).map(|(key, _)| key.clone()).collect()
    }

    fn insert(tree: &mut Tree, key: &[u8]) {
        if tree.store.0.insert(key.to_vec(), Vec::new()).is_none() {
            let members = SCORE_MEMBERS.0.to_vec()..SCORE_MEMBERS.1.to_vec();
            let count = tree.store.0.range(members).count() as u64;
            tree.inserted(key, count).expect("an insertion");
        }
    }

    fn remove(tree: &mut Tree, key: &[u8]) {
        if tree.store.0.remove(key).is_some() {
            tree.removed(key).expect("a removal");
        }
    }

    /// Every block holds what its count says, ranks and keys lead to the same blocks, and no node is left over.
    fn check(tree: &mut Tree) {
        let all = keys(tree);
        let nodes = tree.store.0.len() - all.len();
        let Some(root) = tree.root else {
            assert!(all.len() as u64 <= tree.limits.block, "{} keys need a tree", all.len());
            assert_eq!(nodes, 0, "nodes are left over");
            return;
        };
        assert_eq!(
            nodes,
            2 * reachable(tree, root.node, root.levels),
            "nodes are left over"
        );
        let mut rank = 0;
        while rank < all.len() {
            let block = tree.block_of_rank(rank as u64).expect("a block").expect("a tree");
            assert_eq!(block.before as usize, rank);
            assert!(block.count > 0 && block.count <= tree.limits.block, "{block:?}");
            for key in &all[rank..rank + block.count as usize] {
                assert!(*key >= block.from && *key < block.to, "{key:?} is not in {block:?}");
                let of_key = tree.block_of_key(key).expect("a block").expect("a tree");
                assert_eq!((of_key.before, &of_key.from), (block.before, &block.from));
            }
            rank += block.count as usize;
        }
    }

    fn reachable(tree: &mut Tree, node: u64, levels: u8) -> usize {
        let children = tree.load(node).expect("a node");
        assert!(!children.is_empty() && children.len() <= tree.limits.fan_out);
        let below = children.iter().filter(|_| levels > 1);
        1 + below
            .map(|child| reachable(tree, child.node, levels - 1))
            .sum::<usize>()
    }

    #[test]
    fn ranks_are_right_whatever_comes_and_goes() {
        for seed in 1..=6 {
            let mut state = seed;
            let mut tree = tree(4 + seed % 5, 4 + seed as usize % 3);
            let mut deepest = 0;
            for round in 0..2400 {
                // Grows, shrinks, and shrinks from one end: a queue.
                let number = random(&mut state) % 1500;
                match (round / 600, random(&mut state) % 4) {
                    (0, _) | (1, 0) | (2, 0..=1) => insert(&mut tree, &key(number)),
                    (3, _) => {
                        let first = tree.store.0.range(vec![0]..vec![1]).next();
                        if let Some(first) = first.map(|(key, _)| key.clone()) {
                            remove(&mut tree, &first);
                        }
                        if number.is_multiple_of(3) {
                            insert(&mut tree, &key(1500 + round));
                        }
                    }
                    _ => remove(&mut tree, &key(number)),
                }
                deepest = deepest.max(tree.root.map_or(0, |root| root.levels));
                if round % 59 == 0 {
                    check(&mut tree);
                }
            }
            assert!(deepest >= 3, "seed {seed}: {deepest} levels");
            for key in keys(&tree) {
                remove(&mut tree, &key);
            }
            check(&mut tree);
            assert_eq!(tree.root, None, "seed {seed}: an empty set has no tree");
        }
    }

    #[test]
    fn a_tree_that_is_built_at_once_is_as_one_that_grew() {
        for count in [0, 4, 5, 17, 300, 2000] {
            let mut tree = tree(4, 4);
            let all: Vec<Vec<u8>> = (0..count).map(key).collect();
            for key in &all {
                tree.store.0.insert(key.clone(), Vec::new());
            }
            tree.build(&all).expect("a tree");
            check(&mut tree);
            insert(&mut tree, &key(5000));
            remove(&mut tree, &key(1));
            check(&mut tree);
            tree.clear().expect("no tree");
            assert_eq!(tree.store.0.len(), keys(&tree).len(), "nodes are left over");
            tree.build_from_store().expect("a tree");
            check(&mut tree);
        }
    }

    #[test]
    fn damaged_nodes_are_an_error_and_no_panic() {
        let mut state = 5;
        let mut tree = tree(4, 4);
        (0..200).for_each(|number| insert(&mut tree, &key(number)));
        for _ in 0..500 {
            let mut damaged = CountedTree {
                store: Memory(tree.store.0.clone()),
                root: tree.root,
                limits: tree.limits,
            };
            let index = random(&mut state) as usize % damaged.store.0.len();
            let value = damaged.store.0.values_mut().nth(index).expect("a value");
            if value.is_empty() {
                continue;
            }
            let byte = random(&mut state) as usize % value.len();
            value[byte] = random(&mut state) as u8;
            let key = key(random(&mut state) % 200);
            let _ = damaged.block_of_key(&key);
            let _ = damaged.block_of_rank(random(&mut state) % 300);
            let _ = damaged.inserted(&key, 201);
            let _ = damaged.removed(&key);
        }
    }
}
