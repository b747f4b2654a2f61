//! Reading ranges of a [`super::cell_tree`], leaf by leaf.

use super::cell_block::{Cell, Cells};
use super::cell_node::{Inner, Node};
use super::cell_tree::{CellTree, KeyRange};
use crate::storage::database::Direction;
use crate::storage::look_ahead::Aim;
use std::ops::ControlFlow;

/// A range of a tree, entry by entry.
pub struct Entries<'a, 'b> {
    walk: Walk<'a, 'b>,
    stretch: Stretch<'a>,
}

/// A separator: a node and a place in it.
type Fence<'a> = Option<(&'a Inner, usize)>;

/// A leaf that was found.
struct Leaf<'a> {
    cells: Cells<'a>,
    /// The separators before the leaf and behind it, where there are other leaves.
    fences: (Fence<'a>, Fence<'a>),
}

/// Part of a leaf.
#[derive(Clone, Copy)]
struct Stretch<'a> {
    cells: Cells<'a>,
    from: usize,
    to: usize,
}

/// The leaves of a range, one after the other.
struct Walk<'a, 'b> {
    tree: &'a CellTree,
    direction: Direction,
    /// Where the range ends, in this direction.
    bound: Option<&'b [u8]>,
    /// The separator behind which the next leaf is, or before which if the walk goes backward. Not a rank, since to
    /// know
    /// one takes all counts on the way to the first leaf. `None` behind the last leaf.
    next: Fence<'a>,
}

/// The way from a node down to what will be used, step by step: each reads what the one before has found out where it
/// is, so that the memory fetches what several descents need at a time.
#[derive(Clone, Copy)]
pub struct Descent<'a> {
    node: Option<&'a Node>,
    aim: Aim<'a>,
    /// The node itself was read.
    is_read: bool,
}

impl<'a> Descent<'a> {
    pub(super) fn new(root: &'a Node, aim: Aim<'a>) -> Descent<'a> {
        Descent {
            node: Some(root),
            aim,
            is_read: false,
        }
    }

    /// Goes on by a step, if there is one. What it returns says nothing.
    #[inline]
    pub fn step(&mut self) -> u64 {
        let Some(node) = self.node else { return 0 };
        match (node, std::mem::replace(&mut self.is_read, true)) {
            (Node::Leaf(leaf), false) => leaf.touch(),
            (Node::Inner(inner), false) => inner.separators.touch(),
            (Node::Leaf(leaf), true) => {
                self.node = None;
                leaf.touch_cells(self.aim)
            }
            (Node::Inner(inner), true) => {
                let (at, touched) = match self.aim {
                    Aim::Member(key) => (inner.child_for(key), 0),
                    Aim::Rank(rank) => {
                        let (last, mut before) = (inner.counts.iter().sum::<usize>() - 1, 0);
                        let at = inner.child_at(rank.min(last), &mut before);
                        self.aim = Aim::Rank(rank - before);
                        (at, 0)
                    }
                    Aim::Last => (inner.children.len() - 1, inner.separators.touch_cells(self.aim)),
                    Aim::First | Aim::Unknown | Aim::Byte(_) => (0, inner.separators.touch_cells(self.aim)),
                };
                self.node = Some(&inner.children[at]);
                self.is_read = false;
                touched ^ inner.counts[at] as u64 ^ u64::from(matches!(inner.children[at], Node::Leaf(_)))
            }
        }
    }
}

impl CellTree {
    /// The entries of a range, from the first up or from the last down.
    pub fn entries<'a, 'b>(&'a self, range: KeyRange<'b>, direction: Direction) -> Entries<'a, 'b> {
        let (walk, stretch) = self.walk(range, direction);
        Entries { walk, stretch }
    }

    /// Calls `visit` with the entries of a range until it breaks.
    pub fn visit(
        &self,
        range: KeyRange<'_>,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        let (mut walk, mut stretch) = self.walk(range, direction);
        while stretch.visit(direction, &mut visit).is_continue() {
            match walk.next() {
                Some(next) => stretch = next,
                None => return,
            }
        }
    }

    /// Calls `visit` with up to `count` entries until it breaks: with that of `rank`, and those behind it or, backward,
    /// before it.
    pub fn visit_from_rank(
        &self,
        rank: usize,
        count: usize,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) {
        let mut next = Some(rank);
        let mut left = count;
        while left > 0
            && let Some(rank) = next
            && let Some((cells, before)) = self.leaf_at(rank)
        {
            let at = rank - before;
            let (from, to) = match direction {
                Direction::Forward => (at, cells.len().min(at.saturating_add(left))),
                Direction::Backward => ((at + 1).saturating_sub(left), at + 1),
            };
            let stretch = Stretch { cells, from, to };
            if stretch.visit(direction, &mut visit).is_break() {
                return;
            }
            left -= to - from;
            next = match direction {
                Direction::Forward => Some(rank + (to - from)),
                Direction::Backward => rank.checked_sub(to - from),
            };
        }
    }

    /// The leaf that has a key, if any has it. With `is_before`, not one that begins with that key's place, but the one
    /// before, which has the lesser keys.
    #[inline]
    fn leaf_for(&self, key: &[u8], is_before: bool) -> Option<Leaf<'_>> {
        self.descend(|inner| match inner.separators.cells().search(key) {
            Ok(at) if !is_before => at + 1,
            Ok(at) | Err(at) => at,
        })
    }

    /// The leaf that `choose` leads to, which says with which child of a node to go on.
    #[inline]
    fn descend(&self, choose: impl Fn(&Inner) -> usize) -> Option<Leaf<'_>> {
        let (mut node, mut fences) = (self.root()?, (None, None));
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let cells = leaf.cells();
                    return Some(Leaf { cells, fences });
                }
                Node::Inner(inner) => {
                    let at = choose(inner);
                    if at > 0 {
                        fences.0 = Some((&**inner, at - 1));
                    }
                    if at + 1 < inner.children.len() {
                        fences.1 = Some((&**inner, at));
                    }
                    node = &inner.children[at];
                }
            }
        }
    }

    /// The leaf that has the entry of a rank, and how many entries come before that leaf.
    #[inline]
    pub(super) fn leaf_at(&self, rank: usize) -> Option<(Cells<'_>, usize)> {
        if rank >= self.len() {
            return None;
        }
        let (mut node, mut before) = (self.root()?, 0);
        loop {
            match node {
                Node::Leaf(leaf) => return Some((leaf.cells(), before)),
                Node::Inner(inner) => node = &inner.children[inner.child_at(rank, &mut before)],
            }
        }
    }

    /// Begins to walk along a range: its first leaf's part of it, which may be empty, and the way to the others.
    fn walk<'a, 'b>(&'a self, (from, to): KeyRange<'b>, direction: Direction) -> (Walk<'a, 'b>, Stretch<'a>) {
        let is_empty = self.is_empty() || matches!((from, to), (Some(from), Some(to)) if from >= to);
        let (begin, bound) = match direction {
            Direction::Forward => (from, to),
            Direction::Backward => (to, from),
        };
        let mut walk = Walk {
            tree: self,
            direction,
            bound,
            next: None,
        };
        let leaf = match (begin, direction) {
            _ if is_empty => None,
            (Some(key), _) => self.leaf_for(key, direction == Direction::Backward),
            (None, Direction::Forward) => self.descend(|_| 0),
            (None, Direction::Backward) => self.descend(|inner| inner.children.len() - 1),
        };
        let Some(leaf) = leaf else {
            return (walk, Stretch::empty());
        };
        let at = match (begin, direction) {
            (Some(key), _) => leaf.cells.keys_below(key),
            (None, Direction::Forward) => 0,
            (None, Direction::Backward) => leaf.cells.len(),
        };
        let stretch = walk.stretch(&leaf, at);
        (walk, stretch)
    }
}

impl<'a> Stretch<'a> {
    fn empty() -> Stretch<'a> {
        Stretch {
            cells: Cells::empty(),
            from: 0,
            to: 0,
        }
    }

    #[inline]
    fn visit(&self, direction: Direction, visit: &mut impl FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        match direction {
            Direction::Forward => self.cells.visit(self.from..self.to, visit),
            Direction::Backward => self.cells.visit_backward(self.from..self.to, visit),
        }
    }

    #[inline]
    fn next(&mut self, direction: Direction) -> Option<Cell<'a>> {
        if self.from >= self.to {
            return None;
        }
        match direction {
            Direction::Forward => {
                self.from += 1;
                Some(self.cells.cell(self.from - 1))
            }
            Direction::Backward => {
                self.to -= 1;
                Some(self.cells.cell(self.to))
            }
        }
    }
}

impl<'a> Walk<'a, '_> {
    /// The part of a leaf that is in the range: from `at` on, or to before it.
    #[inline]
    fn stretch(&mut self, leaf: &Leaf<'a>, at: usize) -> Stretch<'a> {
        let (cells, count) = (leaf.cells, leaf.cells.len());
        match self.direction {
            Direction::Forward => {
                let to = match self.bound {
                    Some(to) if !leaf.ends_before(to) => cells.keys_below(to),
                    _ => count,
                };
                self.next = if to == count { leaf.fences.1 } else { None };
                Stretch { cells, from: at, to }
            }
            Direction::Backward => {
                let from = match self.bound {
                    Some(from) if !leaf.begins_with_or_behind(from) => cells.keys_below(from),
                    _ => 0,
                };
                self.next = if from == 0 { leaf.fences.0 } else { None };
                Stretch { cells, from, to: at }
            }
        }
    }

    /// The next leaf's part of the range.
    fn next(&mut self) -> Option<Stretch<'a>> {
        let (inner, at) = self.next?;
        let separator = inner.separators.cells().key(at);
        let leaf = self.tree.leaf_for(&separator, self.direction == Direction::Backward)?;
        let begin = match self.direction {
            Direction::Forward => 0,
            Direction::Backward => leaf.cells.len(),
        };
        Some(self.stretch(&leaf, begin))
    }
}

impl Leaf<'_> {
    /// Whether all keys are known to be less than `key` by the separator behind the leaf, which is at hand, while the
    /// last key lies where nothing else was read.
    #[inline]
    fn ends_before(&self, key: &[u8]) -> bool {
        self.fences
            .1
            .is_some_and(|(inner, at)| inner.separators.cells().key(at)[..] <= *key)
    }

    /// Whether no key is known to be less than `key`, by the separator before the leaf.
    #[inline]
    fn begins_with_or_behind(&self, key: &[u8]) -> bool {
        self.fences
            .0
            .is_some_and(|(inner, at)| inner.separators.cells().key(at)[..] >= *key)
    }
}

impl<'a> Iterator for Entries<'a, '_> {
    type Item = Cell<'a>;

    #[inline]
    fn next(&mut self) -> Option<Cell<'a>> {
        loop {
            if let Some(entry) = self.stretch.next(self.walk.direction) {
                return Some(entry);
            }
            self.stretch = self.walk.next()?;
        }
    }
}
