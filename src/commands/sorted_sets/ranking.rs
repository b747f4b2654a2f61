//! Ranks: how many members of a sorted set come before one, and which member is at a rank.
//!
//! A set's order that is in memory knows its ranks, and while nothing else has what is written to the set no others are
//! kept. Elsewhere one of more than [`BLOCK_MEMBERS_MAX`] members may have a [counted tree](super::counted_tree) beside
//! them, in the same column. A rank costs two small reads per level (a
//! million members make three levels) and then one walk along part of a block. A member that comes or goes writes the
//! counts of one node per level, some 60 bytes each; every fortieth one or so also splits a block (a walk along half of
//! it).

use super::counted_tree::{Block, CountedTree, Limits, Store};
use super::{Outcome, Stretch, damaged};
use crate::commands::Context;
use crate::commands::collection::{Collection, Column, Direction};
use crate::error::CommandError;
use crate::storage::encoding::{SCORE_MEMBERS, SortedSetHeader, after_prefix};
use std::ops::ControlFlow;

/// Members that are walked along one by one, which then costs about as much as to begin a walk.
pub const BLOCK_MEMBERS_MAX: u64 = 128;

/// Children of a node: their counts are written with every member, and they are read one after the other.
const FAN_OUT_MAX: usize = 64;

/// The bytes that are kept of the keys at the ends: the score, and enough to tell a queue's members from each other.
const END_LEN_MAX: usize = 32;

/// Members that one command adds to make a tree anew: with fewer, few blocks split.
const BULK_MEMBERS_MIN: usize = 1000;

/// The set may be so many times as large: to walk along that many members costs as much as to add one to a tree.
const BULK_SHARE: u64 = 20;

/// A set's part of the column `score`.
struct Members<'a, 'b> {
    context: &'a mut Context<'b>,
    set: &'a Collection,
}

impl Store for Members<'_, '_> {
    fn read(&mut self, key: &[u8]) -> Result<Option<&[u8]>, CommandError> {
        self.context.member(self.set, Column::Score, key)
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>) -> Outcome {
        self.context.put_member(self.set, Column::Score, key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Outcome {
        self.context.delete_member(self.set, Column::Score, key)
    }

    fn walk(&mut self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Outcome {
        let (lowest, end) = ends(self.set)?;
        let range = (from.max(&lowest), Some(to.min(&end)));
        let visit = |key: &[u8], _: &[u8]| visit(key);
        self.context
            .scan_members(self.set, Column::Score, range, Direction::Forward, visit)
    }
}

fn header(set: &Collection) -> Result<SortedSetHeader, CommandError> {
    SortedSetHeader::decode(&set.extra).ok_or_else(damaged)
}

/// Works on a set's tree; keeps its root in the set's header.
fn with_tree<'b, T>(
    context: &mut Context<'b>,
    set: &mut Collection,
    work: impl FnOnce(&mut CountedTree<Members<'_, 'b>>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let mut header = header(set)?;
    let mut tree = tree(context, set, &header);
    let result = work(&mut tree)?;
    let root = tree.root;
    if root != header.tree {
        header.tree = root;
        set.extra = header.encode();
    }
    Ok(result)
}

fn tree<'a, 'b>(
    context: &'a mut Context<'b>,
    set: &'a Collection,
    header: &SortedSetHeader,
) -> CountedTree<Members<'a, 'b>> {
    CountedTree {
        store: Members { context, set },
        root: header.tree,
        limits: Limits {
            block: BLOCK_MEMBERS_MAX,
            fan_out: FAN_OUT_MAX,
        },
    }
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

/// Whether the set has a tree that must follow its members, or must get one. One that is known in memory alone lets go
/// of the tree that it has.
fn is_stored(context: &mut Context<'_>, set: &mut Collection) -> Result<bool, CommandError> {
    let is_in_memory = context.view.knows_ranks(&set.owner)?;
    if is_in_memory && header(set)?.tree.is_some() {
        clear(context, set)?;
    }
    Ok(!is_in_memory)
}

/// A member's key has come into `score`; it is counted already.
pub fn inserted(context: &mut Context<'_>, set: &mut Collection, key: &[u8]) -> Outcome {
    if !is_stored(context, set)? {
        return Ok(());
    }
    let count = set.count;
    with_tree(context, set, |tree| tree.inserted(key, count))?;
    match count > BLOCK_MEMBERS_MAX && header(set)?.tree.is_none() {
        true => build_in_memory(context, set),
        false => Ok(()),
    }
}

/// A set without a tree is not known in memory alone any more: it gets one, if memory still tells the ranks.
fn build_in_memory(context: &mut Context<'_>, set: &mut Collection) -> Outcome {
    let owner = set.owner.clone();
    let members = (&owner, set.count);
    if context
        .view
        .key_at_rank_in_memory(members, Column::Score, set.count - 1)?
        .is_none()
    {
        return Ok(());
    }
    with_tree(context, set, |tree| {
        tree.build_of_ranks(members.1, |store, rank| {
            let key = store.context.view.key_at_rank_in_memory(members, Column::Score, rank)?;
            key.ok_or_else(damaged)
        })
    })
}

/// A member's key has gone from `score`.
pub fn removed(context: &mut Context<'_>, set: &mut Collection, key: &[u8]) -> Outcome {
    if !is_stored(context, set)? {
        return Ok(());
    }
    with_tree(context, set, |tree| tree.removed(key))
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

/// A rank is needed that is not in memory: without a tree the whole set would be walked along for it, again and again.
fn need_ranks(context: &mut Context<'_>, set: &Collection) -> Outcome {
    match set.count > BLOCK_MEMBERS_MAX && header(set)?.tree.is_none() {
        true => context.view.need_ranks((&set.owner, set.count), Column::Score),
        false => Ok(()),
    }
}

/// A set without a tree is one block.
fn whole(set: &Collection) -> Block {
    Block {
        from: SCORE_MEMBERS.0.to_vec(),
        to: SCORE_MEMBERS.1.to_vec(),
        before: 0,
        count: set.count,
    }
}

/// How many members have keys below `key`.
pub fn rank(context: &mut Context<'_>, set: &Collection, key: &[u8]) -> Result<u64, CommandError> {
    if let Some(rank) = context.view.rank_in_memory((&set.owner, set.count), key)? {
        return Ok(rank);
    }
    need_ranks(context, set)?;
    let mut tree = tree(context, set, &header(set)?);
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
    need_ranks(context, set)?;
    let mut tree = tree(context, set, &header(set)?);
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
