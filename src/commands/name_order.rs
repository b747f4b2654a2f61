//! The orders of a set's members, or a hash's fields: as they were added, and by name.
//!
//! Each name has a number, greater than those of the names before it. Up to [`LISTED_MAX`] names are listed by their
//! numbers, as Redis does, and clients have come to like.
//!
//! `data` has the names in the order of their bytes. The one at a rank of that order is a random one, if the rank is:
//! that costs one read. Memory tells ranks where it has all names. Elsewhere more than [`BLOCK_NAMES_MAX`] of them may
//! have a [counted tree](CountedTree) in `score`; while nothing but memory has what is written to a collection, none is
//! kept.

use super::Context;
use super::collection::{Collection, Column, Direction, damaged_members};
use super::sorted_sets::counted_tree::{Block, CountedTree, Limits, Store};
use crate::error::CommandError;
use crate::storage::encoding::{NameOrder, SCORE_MEMBERS};
use crate::storage::view::View;
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// The most names that are listed as they were added: as many as Redis keeps in one piece of memory by default
/// (hash-max-listpack-entries, set-max-listpack-entries).
pub(super) const LISTED_MAX: u64 = 128;

/// Names that are walked along one by one, which then costs about as much as to begin a walk.
const BLOCK_NAMES_MAX: u64 = 128;

/// Children of a node: their counts are written with every name, and they are read one after the other.
const FAN_OUT_MAX: usize = 64;

/// A collection's names: in the tree's order each has the byte before it that the keys have which a tree counts.
struct Names<'a, 'b> {
    context: &'a mut Context<'b>,
    collection: &'a Collection,
}

impl Store for Names<'_, '_> {
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
        // From here on keys are those of names, or the end of all.
        let from = from.get(1..).unwrap_or_default();
        let to = (*to < SCORE_MEMBERS.1[..]).then(|| to.get(1..).unwrap_or_default());
        let mut key = SCORE_MEMBERS.0.to_vec();
        let visit = |name: &[u8], _: &[u8]| {
            key.truncate(SCORE_MEMBERS.0.len());
            key.extend_from_slice(name);
            visit(&key)
        };
        self.context
            .scan_members(self.collection, Column::Data, (from, to), Direction::Forward, visit)
    }
}

/// A name as the tree's order has it.
fn key_of(name: &[u8]) -> Vec<u8> {
    [&SCORE_MEMBERS.0, name].concat()
}

fn tree<'a, 'b>(
    context: &'a mut Context<'b>,
    collection: &'a Collection,
    order: &NameOrder,
) -> CountedTree<Names<'a, 'b>> {
    CountedTree {
        store: Names { context, collection },
        root: order.tree,
        limits: Limits {
            block: BLOCK_NAMES_MAX,
            fan_out: FAN_OUT_MAX,
        },
    }
}

/// Whether the names have a tree that must follow them, or must get one. One of names that memory alone has goes.
fn is_stored(context: &mut Context<'_>, collection: &Collection, order: &mut NameOrder) -> Result<bool, CommandError> {
    if order.tree.is_none() && collection.count <= BLOCK_NAMES_MAX {
        return Ok(false);
    }
    let is_in_memory = context.view.knows_ranks(&collection.owner)?;
    if is_in_memory && order.tree.is_some() {
        let mut tree = tree(context, collection, order);
        tree.clear()?;
        order.tree = None;
    }
    Ok(!is_in_memory)
}

/// A new name has come into `data`; it is counted already.
pub(super) fn added(context: &mut Context<'_>, collection: &Collection, order: &mut NameOrder, name: &[u8]) -> Outcome {
    if !is_stored(context, collection, order)? {
        return Ok(());
    }
    let mut tree = tree(context, collection, order);
    tree.inserted(&key_of(name), collection.count)?;
    order.tree = tree.root;
    if order.tree.is_some() {
        return Ok(());
    }
    // Memory alone has had the names until now: they get a tree, if it still has them all.
    let owner = &collection.owner;
    let names = (owner, collection.count);
    let last = collection.count - 1;
    if context.view.key_at_rank_in_memory(names, Column::Data, last)?.is_none() {
        return Ok(());
    }
    let mut tree = self::tree(context, collection, order);
    tree.build_of_ranks(collection.count, |store, rank| {
        let name = store.context.view.key_at_rank_in_memory(names, Column::Data, rank)?;
        name.map(|name| key_of(&name)).ok_or_else(damaged_members)
    })?;
    order.tree = tree.root;
    Ok(())
}

/// A name has gone from `data`; it is counted off already.
pub(super) fn removed(
    context: &mut Context<'_>,
    collection: &Collection,
    order: &mut NameOrder,
    name: &[u8],
) -> Outcome {
    if !is_stored(context, collection, order)? {
        return Ok(());
    }
    let mut tree = tree(context, collection, order);
    tree.removed(&key_of(name))?;
    order.tree = tree.root;
    Ok(())
}

/// The name before which there are `rank` others, which is below the count.
pub(super) fn name_at(
    context: &mut Context<'_>,
    collection: &Collection,
    order: &NameOrder,
    rank: u64,
) -> Result<Vec<u8>, CommandError> {
    let names = (&collection.owner, collection.count);
    if let Some(name) = context.view.key_at_rank_in_memory(names, Column::Data, rank)? {
        return Ok(name);
    }
    if collection.count > BLOCK_NAMES_MAX && order.tree.is_none() {
        // All of them would be walked along, again and again.
        context.view.need_ranks(names, Column::Data)?;
    }
    let mut tree = tree(context, collection, order);
    let block = tree.block_of_rank(rank)?.unwrap_or_else(|| Block {
        from: SCORE_MEMBERS.0.to_vec(),
        to: SCORE_MEMBERS.1.to_vec(),
        before: 0,
        count: collection.count,
    });
    let mut skip = rank.saturating_sub(block.before);
    let mut found = None;
    tree.store.walk(&block.from, &block.to, &mut |key| {
        if skip > 0 {
            skip -= 1;
            return ControlFlow::Continue(());
        }
        found = Some(key[SCORE_MEMBERS.0.len()..].to_vec());
        ControlFlow::Break(())
    })?;
    found.ok_or_else(damaged_members)
}

/// Names, and what `data` has of them, as they were added.
pub(super) struct Listed {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    number: u64,
    /// Where in `bytes` the name begins, where its value does, and where that ends.
    name_at: usize,
    value_at: usize,
    end: usize,
}

impl Listed {
    /// Reads all names of a collection; `number_of` tells a name's number from what `data` has of it.
    pub(super) fn read(
        view: &mut View<'_>,
        collection: &Collection,
        number_of: impl Fn(&[u8]) -> Option<u64>,
    ) -> Result<Listed, CommandError> {
        let mut listed = Listed {
            bytes: Vec::new(),
            entries: Vec::with_capacity(collection.count.min(LISTED_MAX) as usize),
        };
        let mut are_numbered = true;
        collection.visit_names(view, |name, value| {
            let number = number_of(value);
            are_numbered &= number.is_some();
            let name_at = listed.bytes.len();
            listed.bytes.extend_from_slice(name);
            let value_at = listed.bytes.len();
            listed.bytes.extend_from_slice(value);
            listed.entries.push(Entry {
                number: number.unwrap_or_default(),
                name_at,
                value_at,
                end: listed.bytes.len(),
            });
        })?;
        if !are_numbered {
            return Err(damaged_members());
        }
        if !listed.entries.is_sorted_by_key(|entry| entry.number) {
            listed.entries.sort_by_key(|entry| entry.number);
        }
        Ok(listed)
    }

    /// The names and what `data` has of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|entry| {
            let name = &self.bytes[entry.name_at..entry.value_at];
            (name, &self.bytes[entry.value_at..entry.end])
        })
    }
}
