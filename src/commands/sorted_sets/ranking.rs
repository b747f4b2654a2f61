//! Ranks: how many members of a sorted set come before one, and which member is at a rank.
//!
//! Memory tells them, or a tree as [`stored_ranks`] keep it, beside the members' keys, in the same column.

use super::counted_tree::{CountedTree, Store};
use super::{Outcome, Stretch, damaged};
use crate::commands::Context;
use crate::commands::collection::{Collection, Column, Direction};
use crate::commands::stored_ranks::{self, BLOCK_KEYS_MAX, Keys, Order, needed_tree, whole};
use crate::error::CommandError;
use crate::storage::encoding::{SCORE_MEMBERS, SortedSetHeader, TreeRoot, after_prefix};
use std::ops::ControlFlow;

/// Members that are walked along one by one, which then costs about as much as to begin a walk.
pub const BLOCK_MEMBERS_MAX: u64 = BLOCK_KEYS_MAX;

/// The bytes that are kept of the keys at the ends: the score, and enough to tell a queue's members from each other.
const END_LEN_MAX: usize = 32;

/// Members that one command adds to make a tree anew: with fewer, few blocks split.
const BULK_MEMBERS_MIN: usize = 1000;

/// The set may be so many times as large: to walk along that many members costs as much as to add one to a tree.
const BULK_SHARE: u64 = 20;

/// The order of scores. A tree has its keys as `score` does.
struct ByScore;

impl Order for ByScore {
    const COLUMN: Column = Column::Score;

    fn tree_key(key: &[u8]) -> Vec<u8> {
        key.to_vec()
    }

    fn walk(
        context: &mut Context<'_>,
        set: &Collection,
        (from, to): (&[u8], &[u8]),
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Outcome {
        let (lowest, end) = ends(set)?;
        let range = (from.max(&lowest), Some(to.min(&end)));
        let visit = |key: &[u8], _: &[u8]| visit(key);
        context.scan_members(set, Column::Score, range, Direction::Forward, visit)
    }
}

fn header(set: &Collection) -> Result<SortedSetHeader, CommandError> {
    SortedSetHeader::decode(&set.extra).ok_or_else(damaged)
}

/// Works on what a set's header says of its tree, and keeps it there.
fn with_root<'b, T>(
    context: &mut Context<'b>,
    set: &mut Collection,
    work: impl FnOnce(&mut Context<'b>, &Collection, &mut Option<TreeRoot>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let mut header = header(set)?;
    let before = header.tree;
    let result = work(context, set, &mut header.tree)?;
    if header.tree != before {
        set.extra = header.encode();
    }
    Ok(result)
}

/// Works on a set's tree; keeps its root in the set's header.
fn with_tree<'b>(
    context: &mut Context<'b>,
    set: &mut Collection,
    work: impl FnOnce(&mut CountedTree<Keys<'_, 'b, ByScore>>) -> Outcome,
) -> Outcome {
    with_root(context, set, |context, set, root| {
        let mut tree = stored_ranks::tree(context, set, *root);
        work(&mut tree)?;
        *root = tree.root;
        Ok(())
    })
}

/// A member's key comes into `score`: walks must reach it.
pub fn widen(set: &mut Collection, key: &[u8]) -> Outcome {
    let mut header = header(set)?;
    if *key < *header.lowest {
        header.lowest = not_above(key);
    } else if !header.end.is_empty() && *key >= *header.end {
        header.end = above(key);
    } else {
        return Ok(());
    }
    set.extra = header.encode();
    Ok(())
}

/// Whether the set has a tree that must follow its members, or must get one.
fn is_stored(context: &mut Context<'_>, set: &mut Collection) -> Result<bool, CommandError> {
    with_root(context, set, stored_ranks::is_stored::<ByScore>)
}

/// A member's key has come into `score`; it is counted already.
pub fn inserted(context: &mut Context<'_>, set: &mut Collection, key: &[u8]) -> Outcome {
    with_root(context, set, |context, set, root| {
        stored_ranks::added::<ByScore>(context, set, root, key)
    })
}

/// A member's key has gone from `score`.
pub fn removed(context: &mut Context<'_>, set: &mut Collection, key: &[u8]) -> Outcome {
    with_root(context, set, |context, set, root| {
        stored_ranks::removed::<ByScore>(context, set, root, key)
    })
}

/// The members with keys from `key` on have gone, all of them (`Backward`), or those up to it (`Forward`): walks need
/// not look for them again. (What was deleted stays in RocksDB until a compaction, and a queue would read all of it
/// again for each of its next members.)
pub fn removed_end(set: &mut Collection, end: Direction, key: &[u8]) -> Outcome {
    let mut header = header(set)?;
    match end {
        Direction::Forward => header.lowest = not_above(key),
        Direction::Backward => header.end = above(key),
    }
    set.extra = header.encode();
    Ok(())
}

/// The beginning of a key, which is not above it.
fn not_above(key: &[u8]) -> Vec<u8> {
    key[..key.len().min(END_LEN_MAX)].to_vec()
}

/// About as long a text that is above a key.
fn above(key: &[u8]) -> Vec<u8> {
    match key.get(..END_LEN_MAX) {
        Some(beginning) => after_prefix(beginning.to_vec()),
        None => [key, &[0]].concat(),
    }
}

/// Where the keys of a set's members lie: from the first to before the second.
pub fn ends(set: &Collection) -> Result<(Vec<u8>, Vec<u8>), CommandError> {
    let SortedSetHeader { lowest, end, .. } = header(set)?;
    let end = if end.is_empty() { SCORE_MEMBERS.1.to_vec() } else { end };
    Ok((lowest.max(SCORE_MEMBERS.0.to_vec()), end))
}

/// The part of a stretch where members' keys lie.
pub fn within_ends(set: &Collection, stretch: &Stretch) -> Result<(Vec<u8>, Vec<u8>), CommandError> {
    let (lowest, end) = ends(set)?;
    Ok((lowest.max(stretch.from.clone()), end.min(stretch.to.clone())))
}

/// Whether so many members at once are better added without a tree, which is then made anew. (A block that splits is
/// walked along; one walk along all costs less than many of them, each of which begins anew.)
pub fn is_bulk(set: &Collection, members: usize) -> bool {
    members >= BULK_MEMBERS_MIN && members as u64 * BULK_SHARE >= set.count
}

/// Deletes the tree, if there is one.
pub fn clear(context: &mut Context<'_>, set: &mut Collection) -> Outcome {
    with_tree(context, set, |tree| tree.clear())
}

/// Makes the tree anew, after [`clear`], or that of a new set.
pub fn rebuild(context: &mut Context<'_>, set: &mut Collection) -> Outcome {
    if !is_stored(context, set)? {
        return Ok(());
    }
    with_tree(context, set, |tree| tree.build_from_store())
}

/// How many members have keys below `key`.
pub fn rank(context: &mut Context<'_>, set: &Collection, key: &[u8]) -> Result<u64, CommandError> {
    if let Some(rank) = context.view.rank_in_memory((&set.owner, set.count), key)? {
        return Ok(rank);
    }
    let mut tree = needed_tree::<ByScore>(context, set, header(set)?.tree)?;
    let block = tree.block_of_key(key)?.unwrap_or_else(|| whole(set));
    if *key >= *block.to {
        return Ok(block.before + block.count);
    }
    let mut rank = block.before;
    tree.store.walk(&block.from, key, &mut |_| {
        rank += 1;
        ControlFlow::Continue(())
    })?;
    Ok(rank)
}

/// How many members have keys from `from` to before `to`.
pub fn count(context: &mut Context<'_>, set: &Collection, from: &[u8], to: &[u8]) -> Result<u64, CommandError> {
    if from >= to {
        return Ok(0);
    }
    let below = rank(context, set, from)?;
    Ok(rank(context, set, to)?.saturating_sub(below))
}

/// `take` members from the rank `rank` on or down; it is below the count.
pub fn stretch_at(
    context: &mut Context<'_>,
    set: &Collection,
    rank: u64,
    take: u64,
    direction: Direction,
) -> Result<Stretch, CommandError> {
    let stretch = Stretch::from_end(direction, take);
    let at_end = match direction {
        Direction::Forward => rank == 0,
        Direction::Backward => rank + 1 == set.count,
    };
    if at_end {
        return Ok(stretch);
    }
    if let Some(key) = context
        .view
        .key_at_rank_in_memory((&set.owner, set.count), Column::Score, rank)?
    {
        return Ok(match direction {
            Direction::Forward => Stretch { from: key, ..stretch },
            // The first key behind it.
            Direction::Backward => Stretch {
                to: [&key[..], &[0]].concat(),
                ..stretch
            },
        });
    }
    let mut tree = needed_tree::<ByScore>(context, set, header(set)?.tree)?;
    let block = tree.block_of_rank(rank)?.unwrap_or_else(|| whole(set));
    let into = rank.saturating_sub(block.before);
    Ok(match direction {
        Direction::Forward => Stretch {
            from: block.from,
            skip: into,
            ..stretch
        },
        Direction::Backward => Stretch {
            to: block.to,
            skip: block.count.saturating_sub(into + 1),
            ..stretch
        },
    })
}
