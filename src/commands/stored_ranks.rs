//! Ranks in an order of a collection's keys, and the [counted tree](CountedTree) that tells them where memory does not.
//!
//! An order that is in memory knows its ranks, and while nothing else has what is written to the collection no others
//! are kept. Elsewhere more than [`BLOCK_KEYS_MAX`] keys may have a tree, in `score`. A rank costs two small reads per
//! level (a million keys make three levels) and then one walk along part of a block. A key that comes or goes writes
//! the counts of one node per level, some 60 bytes each; every fortieth one or so also splits a block (a walk along
//! half of it).

use super::Context;
use super::collection::{Collection, Column, damaged_members};
use super::sorted_sets::counted_tree::{Block, CountedTree, Limits, Store};
use crate::error::CommandError;
use crate::storage::encoding::TreeRoot;
use std::marker::PhantomData;
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// Keys that are walked along one by one, which then costs about as much as to begin a walk.
pub(super) const BLOCK_KEYS_MAX: u64 = 128;

/// Children of a node: their counts are written with every key, and they are read one after the other.
const FAN_OUT_MAX: usize = 64;

/// An order in which a collection's keys lie in a column.
pub(super) trait Order {
    /// The column.
    const COLUMN: Column;

    /// A key of the column as a tree has it.
    fn tree_key(key: &[u8]) -> Vec<u8>;

    /// Calls `visit` with a tree's keys from `from` to before `to`, until it breaks.
    fn walk(
        context: &mut Context<'_>,
        collection: &Collection,
        range: (&[u8], &[u8]),
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Outcome;
}

/// A collection's keys in an order, and the nodes of their tree.
pub(super) struct Keys<'a, 'b, O> {
    context: &'a mut Context<'b>,
    collection: &'a Collection,
    order: PhantomData<O>,
}

impl<O: Order> Store for Keys<'_, '_, O> {
    fn read(&mut self, key: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        self.context.member(self.collection, Column::Score, key)
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) -> Outcome {
        self.context.put_member(self.collection, Column::Score, key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Outcome {
        self.context.delete_member(self.collection, Column::Score, key)
    }

    fn walk(&mut self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Outcome {
        O::walk(self.context, self.collection, (from, to), visit)
    }
}

/// A collection's tree that begins at `root`; to be kept is where it begins afterwards.
pub(super) fn tree<'a, 'b, O: Order>(
    context: &'a mut Context<'b>,
    collection: &'a Collection,
    root: Option<TreeRoot>,
) -> CountedTree<Keys<'a, 'b, O>> {
    CountedTree {
        store: Keys {
            context,
            collection,
            order: PhantomData,
        },
        root,
        limits: Limits {
            block: BLOCK_KEYS_MAX,
            fan_out: FAN_OUT_MAX,
        },
    }
}

/// Whether the collection has a tree that must follow its keys, or must get one. One of keys that memory alone has
/// lets go of the tree that it has.
pub(super) fn is_stored<O: Order>(
    context: &mut Context<'_>,
    collection: &Collection,
    root: &mut Option<TreeRoot>,
) -> Result<bool, CommandError> {
    if root.is_none() && collection.count <= BLOCK_KEYS_MAX {
        return Ok(false);
    }
    let is_in_memory = context.view.knows_ranks(&collection.owner)?;
    if is_in_memory && root.is_some() {
        let mut tree = tree::<O>(context, collection, *root);
        tree.clear()?;
        *root = tree.root;
    }
    Ok(!is_in_memory)
}

/// A key of the column has come; it is counted already.
pub(super) fn added<O: Order>(
    context: &mut Context<'_>,
    collection: &Collection,
    root: &mut Option<TreeRoot>,
    key: &[u8],
) -> Outcome {
    if !is_stored::<O>(context, collection, root)? {
        return Ok(());
    }
    let mut tree = tree::<O>(context, collection, *root);
    tree.inserted(&O::tree_key(key), collection.count)?;
    *root = tree.root;
    match root {
        Some(_) => Ok(()),
        None => build_in_memory::<O>(context, collection, root),
    }
}

/// A collection without a tree is not known in memory alone any more: it gets one, if memory still tells the ranks.
fn build_in_memory<O: Order>(
    context: &mut Context<'_>,
    collection: &Collection,
    root: &mut Option<TreeRoot>,
) -> Outcome {
    let keys = (&collection.owner, collection.count);
    let last = context
        .view
        .key_at_rank_in_memory(keys, O::COLUMN, collection.count - 1)?;
    if last.is_none() {
        return Ok(());
    }
    let mut tree = tree::<O>(context, collection, *root);
    tree.build_of_ranks(collection.count, |store, rank| {
        let key = store.context.view.key_at_rank_in_memory(keys, O::COLUMN, rank)?;
        key.map(|key| O::tree_key(&key)).ok_or_else(damaged_members)
    })?;
    *root = tree.root;
    Ok(())
}

/// A key of the column has gone; it is counted off already.
pub(super) fn removed<O: Order>(
    context: &mut Context<'_>,
    collection: &Collection,
    root: &mut Option<TreeRoot>,
    key: &[u8],
) -> Outcome {
    if !is_stored::<O>(context, collection, root)? {
        return Ok(());
    }
    let mut tree = tree::<O>(context, collection, *root);
    tree.removed(&O::tree_key(key))?;
    *root = tree.root;
    Ok(())
}

/// The tree of a collection of which memory did not tell a rank.
///
/// # Errors
/// [`CommandError::NotInMemory`]: there is none, and the whole order would be walked along for it, again and again.
pub(super) fn needed_tree<'a, 'b, O: Order>(
    context: &'a mut Context<'b>,
    collection: &'a Collection,
    root: Option<TreeRoot>,
) -> Result<CountedTree<Keys<'a, 'b, O>>, CommandError> {
    if collection.count > BLOCK_KEYS_MAX && root.is_none() {
        let keys = (&collection.owner, collection.count);
        context.view.need_ranks(keys, O::COLUMN)?;
    }
    Ok(tree(context, collection, root))
}

/// The block of all keys, where there is no tree.
pub(super) fn whole(collection: &Collection) -> Block {
    Block::first(collection.count)
}
