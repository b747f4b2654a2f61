//! The orders of a set's members, or a hash's fields: as they were added, and by name.
//!
//! Each name has a number, greater than those of the names before it. Up to [`LISTED_MAX`] names are listed by their
//! numbers, as Redis does, and clients have come to like.
//!
//! `data` has the names in the order of their bytes, but for those of a packed collection. The one at a rank of that
//! order is a random one, if the rank is: that costs one read, of memory or of what [`stored_ranks`] keep in `score`.

use super::Context;
use super::collection::{Collection, Column, Direction, damaged_members};
use super::sorted_sets::counted_tree::Store;
use super::stored_ranks::{self, Order, needed_tree, whole};
use crate::error::CommandError;
use crate::storage::encoding::{NameOrder, SCORE_MEMBERS};
use crate::storage::view::View;
use std::ops::ControlFlow;

type Outcome = Result<(), CommandError>;

/// The most names that are listed as they were added: as many as Redis keeps in one piece of memory by default
/// (hash-max-listpack-entries, set-max-listpack-entries).
pub(super) const LISTED_MAX: u64 = 128;

/// The order of names. A tree has each with the byte before it that the keys have which a tree counts.
struct ByName;

impl Order for ByName {
    const COLUMN: Column = Column::Data;

    fn tree_key(name: &[u8]) -> Vec<u8> {
        [&SCORE_MEMBERS.0, name].concat()
    }

    fn walk(
        context: &mut Context<'_>,
        collection: &Collection,
        (from, to): (&[u8], &[u8]),
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Outcome {
        // From here on keys are those of names, or the end of all.
        let from = from.get(1..).unwrap_or_default();
        let to = (*to < SCORE_MEMBERS.1[..]).then(|| to.get(1..).unwrap_or_default());
        let mut key = SCORE_MEMBERS.0.to_vec();
        let visit = |name: &[u8], _: &[u8]| {
            key.truncate(SCORE_MEMBERS.0.len());
            key.extend_from_slice(name);
            visit(&key)
        };
        context.scan_members(collection, Column::Data, (from, to), Direction::Forward, visit)
    }
}

/// A new name has come into `data`; it is counted already.
pub(super) fn added(context: &mut Context<'_>, collection: &Collection, order: &mut NameOrder, name: &[u8]) -> Outcome {
    stored_ranks::added::<ByName>(context, collection, &mut order.tree, name)
}

/// A name has gone from `data`; it is counted off already.
pub(super) fn removed(
    context: &mut Context<'_>,
    collection: &Collection,
    order: &mut NameOrder,
    name: &[u8],
) -> Outcome {
    stored_ranks::removed::<ByName>(context, collection, &mut order.tree, name)
}

/// The name before which there are `rank` others, which is below the count: in the order of their bytes, or as they
/// were added, if the collection is packed.
pub(super) fn name_at(
    context: &mut Context<'_>,
    collection: &Collection,
    order: &NameOrder,
    rank: u64,
) -> Result<Vec<u8>, CommandError> {
    if let Some(mut cells) = collection.packed_cells() {
        let cell = cells.nth(usize::try_from(rank).unwrap_or(usize::MAX));
        return cell.map(|cell| cell.member.to_vec()).ok_or_else(damaged_members);
    }
    let names = (&collection.owner, collection.count);
    if let Some(name) = context.view.key_at_rank_in_memory(names, Column::Data, rank)? {
        return Ok(name);
    }
    let mut tree = needed_tree::<ByName>(context, collection, order.tree)?;
    let block = tree.block_of_rank(rank)?.unwrap_or_else(|| whole(collection));
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
