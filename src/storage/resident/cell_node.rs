//! The nodes of a [`super::cell_tree`]: what they hold, and how they part and join.

use super::cell_block::{ARC_BYTES, BLOCK_BYTES_MAX, CellBlock, Cells, common_bytes};
use super::cell_tree::{Entry, KeyRange};
use std::sync::Arc;

/// The most children of a node: searching it and adding up its counts then costs about what searching a leaf does.
pub(super) const CHILDREN_MAX: usize = 64;

/// A node with fewer children than this is joined with a neighbour, or takes some of the neighbour's: far from half of
/// the most, so that nodes do not split and join in turn.
pub(super) const CHILDREN_MIN: usize = 16;

/// Two leaves are joined if they fit in this: so that what they become has room.
const JOINED_BYTES_MAX: usize = BLOCK_BYTES_MAX / 4 * 3;

/// A leaf that uses less than this tries to join a neighbour, whenever it has given back memory.
const LEAF_BYTES_MIN: usize = BLOCK_BYTES_MAX / 2;

/// A leaf that begins with so many cells of a kind is parted behind them.
const PARTED_CELLS_MIN: usize = 16;

/// Larger entries stand where a leaf is parted for them, since halves of the leaf may have no room either.
const SMALL_ENTRY_BYTES_MAX: usize = BLOCK_BYTES_MAX / 8;

/// Separators have no bound: there are few, but each is as long as what its neighbours have in common.
const UNBOUNDED: usize = usize::MAX;

#[derive(Clone)]
pub(super) enum Node {
    Leaf(CellBlock),
    Inner(Arc<Inner>),
}

// A node is what the one above has for each child.
const _: () = assert!(size_of::<Node>() == 16);

/// A node above others.
pub(super) struct Inner {
    /// One less than there are children. A child's keys are not less than the separator before it, and less than the
    /// one behind it.
    pub(super) separators: CellBlock,
    /// The entries below each child.
    pub(super) counts: Vec<usize>,
    pub(super) children: Vec<Node>,
}

/// What became of an entry that was to be put somewhere below a node.
pub(super) enum Put<R> {
    /// It is there, and was not before.
    Added,
    /// It is there, with another value than before; whether its leaf has become small.
    Replaced(R, bool),
    /// Its key is there, but its leaf has no room for its value.
    NoRoom,
    /// The node is now two: the separator, the second one, and whether the entry is in one of them.
    Split(Vec<u8>, Node, bool),
    /// Something was split, and the entry is not yet there.
    Again,
}

/// Whether a node is the first of its level in the whole tree, or the last with keys of a kind, which begin with the
/// same byte: what is added to a stream comes behind its other entries and before its groups and nodes.
#[derive(Clone, Copy)]
pub(super) struct Edges {
    pub(super) first: bool,
    pub(super) last: bool,
}

impl Clone for Inner {
    /// With the same room for more, so that a copy takes the same memory.
    fn clone(&self) -> Inner {
        let mut counts = Vec::with_capacity(self.counts.capacity());
        counts.extend_from_slice(&self.counts);
        let mut children = Vec::with_capacity(self.children.capacity());
        children.extend_from_slice(&self.children);
        Inner {
            separators: self.separators.clone(),
            counts,
            children,
        }
    }
}

/// The shortest separator between two neighbouring keys.
pub(super) fn separator<'a>(before: &[u8], behind: &'a [u8]) -> &'a [u8] {
    &behind[..common_bytes(before, behind) + 1]
}

/// Full leaves of entries whose keys ascend, and the separators between them.
pub(super) fn full_leaves<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> (Vec<Node>, Vec<Vec<u8>>) {
    let (mut leaves, mut separators) = (Vec::<CellBlock>::new(), Vec::new());
    for (key, value) in entries {
        if let Some(leaf) = leaves.last_mut() {
            let count = leaf.len();
            assert!(
                *leaf.cells().last_key() < *key,
                "the keys of a tree that is built ascend"
            );
            if leaf.insert(count, key, value, BLOCK_BYTES_MAX) {
                continue;
            }
            leaf.shrink();
            separators.push(separator(&leaf.cells().last_key(), key).to_vec());
        }
        let mut leaf = CellBlock::with_most_room(key, value);
        leaf.insert(0, key, value, BLOCK_BYTES_MAX);
        leaves.push(leaf);
    }
    if let Some(last) = leaves.last_mut() {
        last.shrink();
    }
    (leaves.into_iter().map(Node::Leaf).collect(), separators)
}

/// The nodes above those of a level, as equal as may be, and the separators between them.
pub(super) fn level_above(level: Vec<Node>, separators: Vec<Vec<u8>>) -> (Vec<Node>, Vec<Vec<u8>>) {
    let (count, parents) = (level.len(), level.len().div_ceil(CHILDREN_MAX));
    let (mut nodes, mut separators) = (level.into_iter(), separators.into_iter());
    let (mut above, mut separators_above) = (Vec::new(), Vec::new());
    for parent in 0..parents {
        let children_count = (parent + 1) * count / parents - parent * count / parents;
        let children: Vec<Node> = nodes.by_ref().take(children_count).collect();
        let mut texts = separators.by_ref().take(children_count - 1);
        let mut packed = CellBlock::one(&texts.next().expect("a node has two children at least"), b"");
        for (at, text) in texts.enumerate() {
            packed.insert(at + 1, &text, b"", UNBOUNDED);
        }
        above.push(Node::Inner(Arc::new(Inner {
            separators: packed,
            counts: children.iter().map(Node::count).collect(),
            children,
        })));
        separators_above.extend(separators.next());
    }
    (above, separators_above)
}

impl Node {
    /// The entries below.
    pub(super) fn count(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.len(),
            Node::Inner(inner) => inner.counts.iter().sum(),
        }
    }

    /// Whether the node is to be joined with a neighbour.
    fn is_small(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.heap_bytes() < LEAF_BYTES_MIN || leaf.is_empty(),
            Node::Inner(inner) => inner.children.len() < CHILDREN_MIN,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.is_empty(),
            Node::Inner(inner) => inner.children.is_empty(),
        }
    }

    /// What this node alone takes of the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.heap_bytes(),
            Node::Inner(inner) => inner.heap_bytes(),
        }
    }

    /// Puts an entry below this node; `replaced` sees the value that it had. Keeps `heap_bytes` right.
    pub(super) fn put<R>(
        &mut self,
        (key, value): Entry<'_>,
        edges: Edges,
        heap_bytes: &mut usize,
        replaced: &mut Option<impl FnOnce(&[u8]) -> R>,
    ) -> Put<R> {
        match self {
            Node::Leaf(leaf) => put_in_leaf(leaf, (key, value), edges, heap_bytes, replaced),
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.child_for(key);
                let edges_below = Edges {
                    first: edges.first && at == 0,
                    last: match at + 1 == inner.children.len() {
                        true => edges.last,
                        false => inner.separators.cells().first_byte(at) != key.first().copied(),
                    },
                };
                let put = inner.children[at].put((key, value), edges_below, heap_bytes, replaced);
                match put {
                    Put::Added => inner.counts[at] += 1,
                    Put::Replaced(result, true) => {
                        inner.mend(at, heap_bytes);
                        return Put::Replaced(result, self.is_small());
                    }
                    Put::Split(separator, node, added) => {
                        return inner.child_was_split(at, (&separator, node), added, edges, heap_bytes);
                    }
                    Put::Replaced(_, false) | Put::NoRoom | Put::Again => {}
                }
                put
            }
        }
    }

    /// Removes a key below this node; `removed` sees its value. Returns what that returned, and whether this node has
    /// become small.
    pub(super) fn take<R>(
        &mut self,
        key: &[u8],
        heap_bytes: &mut usize,
        removed: impl FnOnce(&[u8]) -> R,
    ) -> Option<(R, bool)> {
        match self {
            Node::Leaf(leaf) => {
                let cells = leaf.cells();
                let at = cells.search(key).ok()?;
                let result = removed(cells.value(at));
                let before = leaf.heap_bytes();
                let has_shrunk = leaf.remove(at..at + 1);
                *heap_bytes = *heap_bytes + leaf.heap_bytes() - before;
                Some((result, (has_shrunk || leaf.is_empty()) && self.is_small()))
            }
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.child_for(key);
                let (result, is_small) = inner.children[at].take(key, heap_bytes, removed)?;
                inner.counts[at] -= 1;
                if is_small {
                    inner.mend(at, heap_bytes);
                }
                Some((result, is_small && self.is_small()))
            }
        }
    }

    /// Removes up to `entries_max` entries of a range, in order. Returns how many there were.
    pub(super) fn take_range(
        &mut self,
        (from, to): KeyRange<'_>,
        entries_max: usize,
        heap_bytes: &mut usize,
        removed: &mut impl FnMut(&[u8], &[u8]),
    ) -> usize {
        match self {
            Node::Leaf(leaf) => {
                let cells = leaf.cells();
                let begin = from.map_or(0, |from| cells.keys_below(from));
                let end = to.map_or(cells.len(), |to| cells.keys_below(to));
                let end = end.min(begin.saturating_add(entries_max));
                if begin >= end {
                    return 0;
                }
                for at in begin..end {
                    let (key, value) = cells.cell(at);
                    removed(&key, value);
                }
                let before = leaf.heap_bytes();
                leaf.remove(begin..end);
                *heap_bytes = *heap_bytes + leaf.heap_bytes() - before;
                end - begin
            }
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let begin = from.map_or(0, |from| inner.child_for(from));
                let end = to.map_or(inner.children.len() - 1, |to| inner.child_for(to));
                let mut count = 0;
                for at in begin..=end {
                    if count == entries_max {
                        break;
                    }
                    let taken = inner.children[at].take_range((from, to), entries_max - count, heap_bytes, removed);
                    inner.counts[at] -= taken;
                    count += taken;
                }
                for at in (begin..=end).rev() {
                    if inner.children[at].is_empty() {
                        inner.remove_child(at, heap_bytes);
                    }
                }
                inner.mend_around(begin, heap_bytes);
                count
            }
        }
    }

    /// Drops the last leaves below this node, but no more than `leaves_max`. Returns how many, and with how many
    /// entries.
    pub(super) fn drop_last(&mut self, leaves_max: usize, heap_bytes: &mut usize) -> (usize, usize) {
        let Node::Inner(inner) = self else {
            return (0, 0);
        };
        let inner = Arc::make_mut(inner);
        let (mut leaves, mut entries) = (0, 0);
        while leaves < leaves_max
            && let Some(last) = inner.children.last_mut()
        {
            let at = inner.counts.len() - 1;
            let (below, below_entries) = match last {
                Node::Leaf(leaf) => (1, leaf.len()),
                Node::Inner(_) => last.drop_last(leaves_max - leaves, heap_bytes),
            };
            leaves += below;
            entries += below_entries;
            inner.counts[at] -= below_entries;
            if inner.counts[at] == 0 {
                inner.remove_child(at, heap_bytes);
            }
        }
        inner.mend_around(inner.children.len().saturating_sub(1), heap_bytes);
        (leaves, entries)
    }
}

/// [`Node::put`] for a leaf.
fn put_in_leaf<R>(
    leaf: &mut CellBlock,
    (key, value): Entry<'_>,
    edges: Edges,
    heap_bytes: &mut usize,
    replaced: &mut Option<impl FnOnce(&[u8]) -> R>,
) -> Put<R> {
    let before = leaf.heap_bytes();
    let cells = leaf.cells();
    let count = cells.len();
    let at = match cells.search(key) {
        Ok(at) => {
            let old = cells.value(at);
            let fits = count == 1
                || value.len() <= old.len()
                || leaf.used_bytes() + value.len() - old.len() <= BLOCK_BYTES_MAX;
            if !fits {
                return Put::NoRoom;
            }
            let result = replaced.take().expect("an entry is put once")(old);
            let is_smaller = value.len() < old.len();
            leaf.replace(at, value);
            let is_small = is_smaller && leaf.shrink() && leaf.heap_bytes() < LEAF_BYTES_MIN;
            *heap_bytes = *heap_bytes + leaf.heap_bytes() - before;
            return Put::Replaced(result, is_small);
        }
        Err(at) => at,
    };
    // Only where there are many of a kind: names may begin with any byte.
    if at >= PARTED_CELLS_MIN && at < count && !is_of_kind(cells, at, key) && is_of_kind(cells, 0, key) {
        // Alone, keys of a kind are found quicker, and fill their leaves if they ascend.
        let text = separator(key, &cells.key(at)).to_vec();
        let (first, second) = leaf.split(at);
        *leaf = first;
        let added = leaf.insert_at_end(at, key, value, BLOCK_BYTES_MAX);
        *heap_bytes = *heap_bytes + leaf.heap_bytes() + second.heap_bytes() - before;
        return Put::Split(text, Node::Leaf(second), added);
    }
    let is_last = edges.last && at == count && is_of_kind(cells, 0, key);
    let is_end = is_last || (edges.first && at == 0);
    let is_added = match is_end {
        true => leaf.insert_at_end(at, key, value, BLOCK_BYTES_MAX),
        false => leaf.insert(at, key, value, BLOCK_BYTES_MAX),
    };
    if is_added {
        *heap_bytes = *heap_bytes + leaf.heap_bytes() - before;
        return Put::Added;
    }
    let cells = leaf.cells();
    let is_large = key.len() + value.len() > SMALL_ENTRY_BYTES_MAX;
    // At the tree's ends leaves stay full, for keys that ascend or descend.
    let (text, node, added) = if is_last || at == count && (is_large || count == 1) {
        let text = separator(&cells.last_key(), key).to_vec();
        (text, CellBlock::one(key, value), true)
    } else if at == 0 && (edges.first || is_large || count == 1) {
        let text = separator(key, &cells.key(0)).to_vec();
        (text, std::mem::replace(leaf, CellBlock::one(key, value)), true)
    } else {
        let middle = if is_large { at } else { cells.middle() };
        let text = separator(&cells.key(middle - 1), &cells.key(middle)).to_vec();
        let (first, second) = leaf.split(middle);
        *leaf = first;
        (text, second, false)
    };
    *heap_bytes = *heap_bytes + leaf.heap_bytes() + node.heap_bytes() - before;
    Put::Split(text, Node::Leaf(node), added)
}

/// Whether the key of a cell begins as another does.
#[inline]
fn is_of_kind(cells: Cells<'_>, at: usize, key: &[u8]) -> bool {
    cells.first_byte(at) == key.first().copied()
}

impl Inner {
    pub(super) fn heap_bytes(&self) -> usize {
        let children = self.children.capacity() * size_of::<Node>() + self.counts.capacity() * size_of::<usize>();
        ARC_BYTES + size_of::<Inner>() + children + self.separators.heap_bytes()
    }

    /// The child that has a key, if any has it.
    #[inline]
    pub(super) fn child_for(&self, key: &[u8]) -> usize {
        match self.separators.cells().search(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// The child that has the entry of a rank; `before` is how many entries come before this node, and then before the
    /// child.
    #[inline]
    pub(super) fn child_at(&self, rank: usize, before: &mut usize) -> usize {
        let mut at = 0;
        // Several at once, as long as that is not too far.
        for counts in self.counts.as_chunks::<8>().0 {
            let sum = counts.iter().sum::<usize>();
            if rank < *before + sum {
                break;
            }
            *before += sum;
            at += counts.len();
        }
        while rank >= *before + self.counts[at] {
            *before += self.counts[at];
            at += 1;
        }
        at
    }

    /// The separator at `at`, on its way to another place.
    fn separator(&self, at: usize) -> Vec<u8> {
        self.separators.cells().key(at).to_vec()
    }

    /// Adds a child behind that at `at`, of which it was a part.
    fn insert_child(&mut self, at: usize, separator: &[u8], node: Node, heap_bytes: &mut usize) {
        let before = self.heap_bytes();
        if self.children.len() == self.children.capacity() {
            let more = self.children.len().min(CHILDREN_MAX + 1 - self.children.len()).max(1);
            self.children.reserve_exact(more);
            self.counts.reserve_exact(more);
        }
        self.counts[at] = self.children[at].count();
        self.counts.insert(at + 1, node.count());
        self.children.insert(at + 1, node);
        self.separators.insert(at, separator, b"", UNBOUNDED);
        *heap_bytes = *heap_bytes + self.heap_bytes() - before;
    }

    /// Removes a child, with what lies below it.
    fn remove_child(&mut self, at: usize, heap_bytes: &mut usize) {
        let before = self.heap_bytes();
        self.counts.remove(at);
        let child = self.children.remove(at);
        *heap_bytes -= child.heap_bytes();
        if !self.children.is_empty() {
            let separator = at.saturating_sub(1);
            self.separators.remove(separator..separator + 1);
        }
        *heap_bytes = *heap_bytes + self.heap_bytes() - before;
    }

    /// The child at `at` was split, so that there is another one behind it. What that is for this node.
    fn child_was_split<R>(
        &mut self,
        at: usize,
        (separator, node): (&[u8], Node),
        added: bool,
        edges: Edges,
        heap_bytes: &mut usize,
    ) -> Put<R> {
        self.insert_child(at, separator, node, heap_bytes);
        let count = self.children.len();
        if count <= CHILDREN_MAX {
            return if added { Put::Added } else { Put::Again };
        }
        // At the tree's ends nodes stay as full as may be, like leaves.
        let middle = match edges {
            Edges { last: true, .. } if at + 2 == count => count - CHILDREN_MIN,
            Edges { first: true, .. } if at == 0 => CHILDREN_MIN,
            _ => count / 2,
        };
        let (separator, node) = self.split_off(middle, heap_bytes);
        Put::Split(separator, node, added)
    }

    /// Parts the children from `at` on from the others. Returns what separates them, and them.
    fn split_off(&mut self, at: usize, heap_bytes: &mut usize) -> (Vec<u8>, Node) {
        let before = self.heap_bytes();
        let separator = self.separator(at - 1);
        let (_, behind) = self.separators.split(at);
        self.separators.remove(at - 1..self.separators.len());
        let second = Inner {
            separators: behind,
            counts: self.counts.drain(at..).collect(),
            children: self.children.drain(at..).collect(),
        };
        *heap_bytes = *heap_bytes + self.heap_bytes() + second.heap_bytes() - before;
        (separator, Node::Inner(Arc::new(second)))
    }

    /// Mends the children at `at` and behind it: the only ones that may be small where a range was removed.
    fn mend_around(&mut self, at: usize, heap_bytes: &mut usize) {
        for at in [at + 1, at] {
            if self.children.get(at).is_some_and(Node::is_small) {
                self.mend(at, heap_bytes);
            }
        }
    }

    /// The child at `at` is small: joins it with a neighbour, or gives it some of the neighbour's children.
    fn mend(&mut self, at: usize, heap_bytes: &mut usize) {
        if self.children[at].is_empty() {
            self.remove_child(at, heap_bytes);
            return;
        }
        // The neighbour before, or else the one behind.
        for first in [at.wrapping_sub(1), at] {
            if first < self.children.len() - 1 && self.join(first, heap_bytes) {
                return;
            }
        }
    }

    /// Joins the child at `at` with the next one, if they are not too large; whether they were not.
    fn join(&mut self, at: usize, heap_bytes: &mut usize) -> bool {
        let [first, second] = &mut self.children[at..at + 2] else {
            return false;
        };
        match (first, second) {
            (Node::Leaf(first), Node::Leaf(second)) => {
                let Some(joined) = first.joined(second, JOINED_BYTES_MAX) else {
                    return false;
                };
                *heap_bytes = *heap_bytes + joined.heap_bytes() - first.heap_bytes();
                *first = joined;
                self.counts[at] += self.counts[at + 1];
                self.remove_child(at + 1, heap_bytes);
                true
            }
            (Node::Inner(first), Node::Inner(second)) => {
                let separator = self.separators.cells().key(at);
                let (first, second) = (Arc::make_mut(first), Arc::make_mut(second));
                let before = first.heap_bytes();
                let seam = first.children.len();
                first.separators.insert(seam - 1, &separator, b"", UNBOUNDED);
                let separators = first.separators.joined(&second.separators, UNBOUNDED);
                first.separators = separators.expect("there is no bound");
                first.counts.append(&mut second.counts);
                first.children.append(&mut second.children);
                *heap_bytes = *heap_bytes + first.heap_bytes() - before;
                // A child that had no neighbour may have one now.
                first.mend_around(seam - 1, heap_bytes);
                let parted = match first.children.len() {
                    ..=CHILDREN_MAX => None,
                    count => Some(first.split_off(count / 2, heap_bytes)),
                };
                self.counts[at] += self.counts[at + 1];
                self.remove_child(at + 1, heap_bytes);
                if let Some((separator, node)) = parted {
                    self.insert_child(at, &separator, node, heap_bytes);
                }
                true
            }
            _ => unreachable!("neighbours are of one level"),
        }
    }
}
