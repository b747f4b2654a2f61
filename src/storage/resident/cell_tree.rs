//! An ordered map from byte strings to byte strings, complete in memory, that knows ranks: a counted B+tree.
//!
//! Leaves are packed blocks ([`super::cell_block`]) of at most 4 KiB, so that an entry costs some ten bytes beside its
//! own and a range is read along memory; an entry that is larger has a leaf of its own. A node above has up to 64
//! children, their counts, and the separators between them, which are a packed block as well.
//!
//! A leaf's allocation is as large as what lies in it, up to a quarter of a power of two. So a tree that was filled at
//! random has no more memory free than one whose leaves are kept full by moving entries to their neighbours, and a
//! small tree is small.
//!
//! All nodes are shared until they are changed: a [`Snapshot`] costs nothing to take, and the tree copies what it
//! changes while one is there, one leaf and what lies above it at a time. Without one nothing is copied. A tree and
//! its snapshots are of one thread (`Arc`); a tree that has no snapshots could be sent to another one as a whole, since
//! nothing else shares its nodes.

use super::cell_block::{ARC_BYTES, BLOCK_BYTES_MAX, CellBlock, Cells, common_bytes};
use crate::storage::database::Direction;
use std::ops::{ControlFlow, Deref};
use std::sync::Arc;

/// The most children of a node: searching it and adding up its counts then costs about what searching a leaf does.
const CHILDREN_MAX: usize = 64;

/// A node with fewer children than this is joined with a neighbour, or takes some of the neighbour's: far from half of
/// the most, so that nodes do not split and join in turn.
const CHILDREN_MIN: usize = 16;

/// Two leaves are joined if they fit in this: so that what they become has room.
const JOINED_BYTES_MAX: usize = BLOCK_BYTES_MAX / 4 * 3;

/// A leaf that uses less than this tries to join a neighbour, whenever it has given back memory.
const LEAF_BYTES_MIN: usize = BLOCK_BYTES_MAX / 2;

/// Larger entries stand where a leaf is parted for them, since halves of the leaf may have no room either.
const SMALL_ENTRY_BYTES_MAX: usize = BLOCK_BYTES_MAX / 8;

/// Separators have no bound: there are few, but each is as long as what its neighbours have in common.
const UNBOUNDED: usize = usize::MAX;

/// The keys from the first to before the second; `None` is the end of the tree.
pub type KeyRange<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A key and its value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// An ordered map from byte strings to byte strings.
#[derive(Default)]
pub struct CellTree {
    root: Option<Node>,
    len: usize,
    heap_bytes: usize,
}

/// A tree as it was: it does not change while the tree does.
pub struct Snapshot(CellTree);

/// A range of a tree, entry by entry.
pub struct Entries<'a, 'b> {
    walk: Walk<'a, 'b>,
    stretch: Stretch<'a>,
}

#[derive(Clone)]
enum Node {
    Leaf(CellBlock),
    Inner(Arc<Inner>),
}

// A node is what an inner node has for each child.
const _: () = assert!(size_of::<Node>() == 16);

/// A node above others.
struct Inner {
    /// One less than there are children. A child's keys are not less than the separator before it, and less than the
    /// one behind it.
    separators: CellBlock,
    /// The entries below each child.
    counts: Vec<usize>,
    children: Vec<Node>,
}

/// What became of an entry that was to be put somewhere below a node.
enum Put<R> {
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

/// Whether a node is the first or the last of its level in the whole tree.
#[derive(Clone, Copy)]
struct Edges {
    first: bool,
    last: bool,
}

/// A leaf that was found.
struct Leaf<'a> {
    cells: Cells<'a>,
    /// How many entries come before the leaf's.
    before: usize,
    /// The node above, unless the leaf is the root, and which of its children the leaf is.
    parent: Option<(&'a Inner, usize)>,
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
    /// The rank of the entry that the next leaf is to be found by: the leaf's first, or last if the walk goes
    /// backward. `None` behind the last leaf.
    next: Option<usize>,
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
fn separator<'a>(before: &[u8], behind: &'a [u8]) -> &'a [u8] {
    &behind[..common_bytes(before, behind) + 1]
}

/// The nodes above those of a level, as equal as may be, and the separators between them.
fn level_above(level: Vec<Node>, separators: Vec<Vec<u8>>) -> (Vec<Node>, Vec<Vec<u8>>) {
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
    fn count(&self) -> usize {
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
    fn heap_bytes(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.heap_bytes(),
            Node::Inner(inner) => inner.heap_bytes(),
        }
    }

    /// Puts an entry below this node; `replaced` sees the value that it had. Keeps `heap_bytes` right.
    fn put<R>(
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
                    last: edges.last && at + 1 == inner.children.len(),
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
    fn take<R>(&mut self, key: &[u8], heap_bytes: &mut usize, removed: impl FnOnce(&[u8]) -> R) -> Option<(R, bool)> {
        match self {
            Node::Leaf(leaf) => {
                let cells = leaf.cells();
                let at = cells.search(key).ok()?;
                let result = removed(cells.cell(at).1);
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
    fn take_range(
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
                    removed(key, value);
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
    fn drop_last(&mut self, leaves_max: usize, heap_bytes: &mut usize) -> (usize, usize) {
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
            let old = cells.cell(at).1;
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
    if leaf.insert(at, key, value, BLOCK_BYTES_MAX) {
        *heap_bytes = *heap_bytes + leaf.heap_bytes() - before;
        return Put::Added;
    }
    let cells = leaf.cells();
    let is_large = key.len() + value.len() > SMALL_ENTRY_BYTES_MAX;
    // At the tree's ends leaves stay full, for keys that ascend or descend.
    let (text, node, added) = if at == count && (edges.last || is_large || count == 1) {
        let text = separator(cells.last_key(), key).to_vec();
        (text, CellBlock::one(key, value), true)
    } else if at == 0 && (edges.first || is_large || count == 1) {
        let text = separator(key, cells.key(0)).to_vec();
        (text, std::mem::replace(leaf, CellBlock::one(key, value)), true)
    } else {
        let middle = if is_large { at } else { cells.middle() };
        let text = separator(cells.key(middle - 1), cells.key(middle)).to_vec();
        let (first, second) = leaf.split(middle);
        *leaf = first;
        (text, second, false)
    };
    *heap_bytes = *heap_bytes + leaf.heap_bytes() + node.heap_bytes() - before;
    Put::Split(text, Node::Leaf(node), added)
}

impl Inner {
    fn heap_bytes(&self) -> usize {
        let children = self.children.capacity() * size_of::<Node>() + self.counts.capacity() * size_of::<usize>();
        ARC_BYTES + size_of::<Inner>() + children + self.separators.heap_bytes()
    }

    /// The child that has a key, if any has it.
    #[inline]
    fn child_for(&self, key: &[u8]) -> usize {
        match self.separators.cells().search(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// The child that has the entry of a rank; `before` is how many entries come before this node, and then before the
    /// child.
    #[inline]
    fn child_at(&self, rank: usize, before: &mut usize) -> usize {
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
                if first.used_bytes() + second.used_bytes() > JOINED_BYTES_MAX {
                    return false;
                }
                let joined = first.joined(second);
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
                first.separators.insert(seam - 1, separator, b"", UNBOUNDED);
                first.separators = first.separators.joined(&second.separators);
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

impl CellTree {
    /// A tree without entries, which takes nothing of the heap.
    pub fn new() -> CellTree {
        CellTree::default()
    }

    /// The tree of entries whose keys ascend, with full leaves.
    pub fn from_sorted<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> CellTree {
        // The leaves, and the separator before each but the first.
        let (mut level, mut separators) = (Vec::<Node>::new(), Vec::<Vec<u8>>::new());
        let mut leaf: Option<CellBlock> = None;
        for (key, value) in entries {
            if let Some(last) = &mut leaf {
                let cells = last.cells();
                let last_key = cells.last_key();
                assert!(last_key < key, "the keys of a tree that is built ascend");
                if last.insert(cells.len(), key, value, BLOCK_BYTES_MAX) {
                    continue;
                }
                separators.push(separator(last.cells().last_key(), key).to_vec());
                level.extend(leaf.take().map(Node::Leaf));
            }
            let mut next = CellBlock::with_most_room(key, value);
            next.insert(0, key, value, BLOCK_BYTES_MAX);
            leaf = Some(next);
        }
        level.extend(leaf.map(Node::Leaf));
        for node in &mut level {
            if let Node::Leaf(leaf) = node {
                leaf.shrink();
            }
        }
        let mut tree = CellTree::new();
        tree.len = level.iter().map(Node::count).sum();
        tree.heap_bytes = level.iter().map(Node::heap_bytes).sum();
        while level.len() > 1 {
            (level, separators) = level_above(level, separators);
            tree.heap_bytes += level.iter().map(Node::heap_bytes).sum::<usize>();
        }
        tree.root = level.pop();
        tree
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the tree takes of the heap: what it has asked the allocator for. What a snapshot has in common with it counts
    /// for both.
    pub fn bytes(&self) -> usize {
        self.heap_bytes
    }

    /// The tree as it is now. Takes no time; as long as the snapshot is there, a write copies the leaf that it changes,
    /// once, and what lies above it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(CellTree {
            root: self.root.clone(),
            len: self.len,
            heap_bytes: self.heap_bytes,
        })
    }

    /// Sets the value of a key. Returns the one that it had.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        self.insert_with(key, value, <[u8]>::to_vec)
    }

    /// The same, but the value that the key had is shown to `replaced` and not copied.
    pub fn insert_with<R>(&mut self, key: &[u8], value: &[u8], replaced: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let edges = Edges {
            first: true,
            last: true,
        };
        let (mut replaced, mut result) = (Some(replaced), None);
        loop {
            let Some(root) = &mut self.root else {
                let leaf = CellBlock::one(key, value);
                self.heap_bytes += leaf.heap_bytes();
                self.len += 1;
                self.root = Some(Node::Leaf(leaf));
                return result;
            };
            match root.put((key, value), edges, &mut self.heap_bytes, &mut replaced) {
                Put::Added => {
                    self.len += 1;
                    return result;
                }
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
                        self.len += 1;
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
        let (result, is_small) = self.root.as_mut()?.take(key, &mut self.heap_bytes, removed)?;
        self.len -= 1;
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
        let Some(root) = &mut self.root else {
            return 0;
        };
        if matches!(range, (Some(from), Some(to)) if from >= to) {
            return 0;
        }
        let count = root.take_range(range, entries_max, &mut self.heap_bytes, &mut removed);
        self.len -= count;
        self.lower_root();
        count
    }

    /// Drops up to `leaves_max` leaves, the last ones, with their entries, so that a large tree can be dropped in steps
    /// of some microseconds. Returns whether there are more. What is left is a tree as any other.
    pub fn drop_some(&mut self, leaves_max: usize) -> bool {
        match &mut self.root {
            Some(root @ Node::Inner(_)) => {
                let (_, entries) = root.drop_last(leaves_max, &mut self.heap_bytes);
                self.len -= entries;
                self.lower_root();
            }
            _ => *self = CellTree::new(),
        }
        self.root.is_some()
    }

    /// The root was split: there is a node above it and its second half.
    fn raise_root(&mut self, separator: &[u8], second: Node) {
        let first = self.root.take().expect("what was split is there");
        let root = Inner {
            separators: CellBlock::one(separator, b""),
            counts: vec![first.count(), second.count()],
            children: vec![first, second],
        };
        self.heap_bytes += root.heap_bytes();
        self.root = Some(Node::Inner(Arc::new(root)));
    }

    /// A root with one child or none is not needed.
    fn lower_root(&mut self) {
        while let Some(root) = &mut self.root {
            let below = match root {
                Node::Leaf(leaf) if !leaf.is_empty() => return,
                Node::Leaf(_) => None,
                Node::Inner(inner) if inner.children.len() > 1 => return,
                Node::Inner(inner) => inner.children.first().cloned(),
            };
            self.heap_bytes -= root.heap_bytes();
            self.root = below;
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let mut node = self.root.as_ref()?;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_for(key)],
                Node::Leaf(leaf) => {
                    let cells = leaf.cells();
                    return Some(cells.cell(cells.search(key).ok()?).1);
                }
            }
        }
    }

    /// How many keys are less than `key`, which need not be there.
    pub fn rank(&self, key: &[u8]) -> usize {
        match self.leaf_for(key) {
            Some(leaf) => leaf.before + leaf.cells.keys_below(key),
            None => 0,
        }
    }

    /// The entry before which there are `rank` others.
    pub fn nth(&self, rank: usize) -> Option<Entry<'_>> {
        let leaf = self.leaf_at(rank)?;
        Some(leaf.cells.cell(rank - leaf.before))
    }

    /// The entry with the least key.
    pub fn first(&self) -> Option<Entry<'_>> {
        self.nth(0)
    }

    /// The entry with the greatest key.
    pub fn last(&self) -> Option<Entry<'_>> {
        self.nth(self.len.checked_sub(1)?)
    }

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
            && let Some(Leaf { cells, before, .. }) = self.leaf_at(rank)
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

    /// The leaf that has a key, if any has it.
    #[inline]
    fn leaf_for(&self, key: &[u8]) -> Option<Leaf<'_>> {
        let (mut node, mut before, mut parent) = (self.root.as_ref()?, 0, None);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let cells = leaf.cells();
                    return Some(Leaf { cells, before, parent });
                }
                Node::Inner(inner) => {
                    let at = inner.child_for(key);
                    before += inner.counts[..at].iter().sum::<usize>();
                    parent = Some((&**inner, at));
                    node = &inner.children[at];
                }
            }
        }
    }

    /// The leaf that has the entry of a rank.
    #[inline]
    fn leaf_at(&self, rank: usize) -> Option<Leaf<'_>> {
        if rank >= self.len {
            return None;
        }
        let (mut node, mut before, mut parent) = (self.root.as_ref()?, 0, None);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let cells = leaf.cells();
                    return Some(Leaf { cells, before, parent });
                }
                Node::Inner(inner) => {
                    let at = inner.child_at(rank, &mut before);
                    parent = Some((&**inner, at));
                    node = &inner.children[at];
                }
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
            (Some(key), _) => self.leaf_for(key),
            (None, Direction::Forward) => self.leaf_at(0),
            (None, Direction::Backward) => self.leaf_at(self.len - 1),
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
    fn next(&mut self, direction: Direction) -> Option<Entry<'a>> {
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
                self.next = (to == count).then_some(leaf.before + count);
                Stretch { cells, from: at, to }
            }
            Direction::Backward => {
                let from = match self.bound {
                    Some(from) if !leaf.begins_with_or_behind(from) => cells.keys_below(from),
                    _ => 0,
                };
                self.next = if from == 0 { leaf.before.checked_sub(1) } else { None };
                Stretch { cells, from, to: at }
            }
        }
    }

    /// The next leaf's part of the range.
    fn next(&mut self) -> Option<Stretch<'a>> {
        let leaf = self.tree.leaf_at(self.next?)?;
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
        self.parent.is_some_and(|(parent, at)| {
            let separators = parent.separators.cells();
            at < separators.len() && separators.key(at) <= key
        })
    }

    /// Whether no key is known to be less than `key`, by the separator before the leaf.
    #[inline]
    fn begins_with_or_behind(&self, key: &[u8]) -> bool {
        self.parent
            .is_some_and(|(parent, at)| at > 0 && parent.separators.cells().key(at - 1) >= key)
    }
}

impl<'a> Iterator for Entries<'a, '_> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            if let Some(entry) = self.stretch.next(self.walk.direction) {
                return Some(entry);
            }
            self.stretch = self.walk.next()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell_block::checks;
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    use std::ops::Bound;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    /// Panics unless the tree is sound; returns what it takes of the heap, counted anew.
    fn check(tree: &CellTree) -> usize {
        let Some(root) = &tree.root else {
            assert_eq!((tree.len, tree.heap_bytes), (0, 0));
            return 0;
        };
        assert!(tree.len > 0, "an empty tree has no root");
        let (len, bytes, _) = check_node(root, (None, None), true);
        assert_eq!(
            (tree.len, tree.heap_bytes),
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
                assert!(leaf.used_bytes() <= BLOCK_BYTES_MAX || cells.len() == 1);
                assert!(from.is_none_or(|from| from <= cells.key(0)) && to.is_none_or(|to| cells.last_key() < to));
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
            let low = if at == 0 { from } else { Some(separators.key(at - 1)) };
            let high = if at + 1 == count { to } else { Some(separators.key(at)) };
            let (child_entries, child_bytes, height) = check_node(child, (low, high), false);
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

    fn bound<'a>(key: &'a Option<Vec<u8>>) -> Option<&'a [u8]> {
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
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut tree, mut model) = (CellTree::new(), Model::new());
        for _ in 0..entries {
            let (key, value) = (shape.key(&mut random), shape.value(&mut random));
            tree.insert(&key, &value);
            model.insert(key, value);
        }
        let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
        let mut grows = true;
        for number in 0..operations {
            if random.random_range(0..operations / 6) == 0 {
                grows = !grows;
            }
            let key = shape.key(&mut random);
            let (from, to) = match random.random_range(0..4) {
                _ if shape == Shape::Tall && random.random_range(0..8) > 0 => {
                    let width = random.random_range(1..2_000);
                    let to = u16::from_be_bytes([key[0], key[1]]).saturating_add(width);
                    (Some(key.clone()), Some(to.to_be_bytes().to_vec()))
                }
                0 => (None, Some(key.clone())),
                1 => (Some(key.clone()), None),
                _ => (Some(key.clone()), Some(shape.key(&mut random))),
            };
            let range = (bound(&from), bound(&to));
            match random.random_range(0..100) {
                0..45 => {
                    if grows || random.random_range(0..4) == 0 {
                        let value = shape.value(&mut random);
                        assert_eq!(tree.insert(&key, &value), model.insert(key, value));
                    } else {
                        assert_eq!(tree.remove(&key), model.remove(&key));
                    }
                }
                45..60 => {
                    // One that is there goes, or gets another value.
                    if model.is_empty() {
                        continue;
                    }
                    let rank = random.random_range(0..model.len());
                    let (key, value) = tree
                        .nth(rank)
                        .map(|(key, value)| (key.to_vec(), value.to_vec()))
                        .unwrap();
                    assert_eq!(tree.rank(&key), rank);
                    if grows {
                        let new = shape.value(&mut random);
                        assert_eq!(tree.insert(&key, &new).as_ref(), Some(&value));
                        assert_eq!(model.insert(key, new), Some(value));
                    } else {
                        assert_eq!(tree.remove(&key).as_ref(), Some(&value));
                        assert_eq!(model.remove(&key), Some(value));
                    }
                }
                60..70 => {
                    assert_eq!(tree.get(&key), model.get(&key).map(|value| &value[..]));
                    assert_eq!(tree.rank(&key), model.range(..key.clone()).count());
                    let first = model.first_key_value().map(|(key, value)| (&key[..], &value[..]));
                    let last = model.last_key_value().map(|(key, value)| (&key[..], &value[..]));
                    assert_eq!((tree.first(), tree.last()), (first, last));
                    assert_eq!(tree.nth(model.len()), None);
                }
                70..85 => {
                    let limit = [1, 10, usize::MAX][random.random_range(0..3)];
                    let mut expected = in_model(&model, &from, &to);
                    let direction = [Direction::Forward, Direction::Backward][random.random_range(0..2)];
                    if direction == Direction::Backward {
                        expected.reverse();
                    }
                    let entries = tree
                        .entries(range, direction)
                        .map(|(key, value)| (key.to_vec(), value.to_vec()));
                    assert!(entries.take(limit).eq(expected.iter().take(limit).cloned()));
                    expected.truncate(limit);
                    assert!(visited(&tree, range, direction, limit) == expected);
                    // The same by rank.
                    let rank = match (direction, &from, &to) {
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
                85..88 => {
                    let max = if grows {
                        random.random_range(0..5)
                    } else {
                        random.random_range(0..300)
                    };
                    let mut expected = in_model(&model, &from, &to);
                    expected.truncate(max);
                    let mut removed = Vec::new();
                    let count =
                        tree.remove_up_to(range, max, |key, value| removed.push((key.to_vec(), value.to_vec())));
                    assert_eq!(count, removed.len());
                    assert!(removed == expected);
                    for (key, _) in expected {
                        model.remove(&key);
                    }
                }
                88..91 => {
                    snapshots.push((tree.snapshot(), model.clone()));
                    if snapshots.len() > 3 {
                        let (mut snapshot, _) = snapshots.remove(random.random_range(0..3));
                        while random.random_range(0..4) > 0 && snapshot.drop_some(2) {
                            check(&snapshot);
                        }
                    }
                }
                91 if !grows => {
                    let more = tree.drop_some(random.random_range(0..3));
                    assert_eq!(more, !tree.is_empty());
                    let keep = tree.len();
                    model = std::mem::take(&mut model).into_iter().take(keep).collect();
                }
                92 if random.random_range(0..20) == 0 => {
                    tree = CellTree::from_sorted(model.iter().map(|(key, value)| (&key[..], &value[..])));
                    assert_same(&tree, &model);
                }
                _ => snapshots.truncate(1),
            }
            assert_eq!(tree.len(), model.len());
            if number % (check_every / 50).max(1) == 0 {
                check(&tree);
            }
            if number % check_every == 0 {
                assert_same(&tree, &model);
                for (snapshot, was) in &snapshots {
                    assert_same(snapshot, was);
                    check(snapshot);
                }
            }
        }
        assert_same(&tree, &model);
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
        for shape in [Shape::Prefixes, Shape::Scores, Shape::Large, Shape::SameHeads] {
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
            each_leaf(tree.root.as_ref().unwrap(), &mut |leaf| {
                used += leaf.used_bytes();
                most += BLOCK_BYTES_MAX;
            });
            assert!(used * 100 > most * 98, "{used} of {most}");
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
            let score: f64 = random.random();
            tree.insert(
                &[
                    &score.to_bits().to_be_bytes()[..],
                    format!("member:{number:09}").as_bytes(),
                ]
                .concat(),
                b"",
            );
        }
        assert!(
            tree.bytes() <= 40 * tree.len(),
            "{} bytes each",
            tree.bytes() as f64 / tree.len() as f64
        );
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
        let keys: Vec<[u8; 4]> = (0..20_000_u32).map(u32::to_be_bytes).collect();
        let mut tree = CellTree::from_sorted(keys.iter().map(|key| (&key[..], &b"value"[..])));
        let (mut steps, mut len) = (1, tree.len());
        while tree.drop_some(3) {
            check(&tree);
            assert!(tree.len() < len, "each step drops something");
            len = tree.len();
            steps += 1;
        }
        assert!(steps > 20, "{steps} steps");
        assert_eq!((tree.len(), tree.bytes(), tree.first()), (0, 0, None));
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
