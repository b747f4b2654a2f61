//! Ranks: how many members of a sorted set come before one, and which member is at a rank.

use super::{Outcome, Stretch};
use crate::commands::Context;
use crate::commands::collection::{Collection, Column, Direction};
use crate::error::CommandError;
use crate::storage::encoding::SCORE_MEMBERS;
use std::ops::ControlFlow;

/// Members that are walked along one by one.
pub const BLOCK_MEMBERS_MAX: u64 = 128;

/// A member's key has come into `score`.
pub fn inserted(_context: &mut Context<'_>, _set: &mut Collection, _key: &[u8]) -> Outcome {
    Ok(())
}

/// A member's key has gone from `score`.
pub fn removed(_context: &mut Context<'_>, _set: &mut Collection, _key: &[u8]) -> Outcome {
    Ok(())
}

/// A new set has got these keys, which are in order.
pub fn build(_context: &mut Context<'_>, _set: &mut Collection, _keys: &[Vec<u8>]) -> Outcome {
    Ok(())
}

/// How many members have keys below `key`.
pub fn rank(context: &mut Context<'_>, set: &Collection, key: &[u8]) -> Result<u64, CommandError> {
    let mut rank = 0;
    let range = (&SCORE_MEMBERS.0[..], Some(key));
    context.scan_members(set, Column::Score, range, Direction::Forward, |_, _| {
        rank += 1;
        ControlFlow::Continue(())
    })?;
    Ok(rank)
}

/// `take` members from the rank `rank` on or down; it is below the count.
pub fn stretch_at(
    _context: &mut Context<'_>,
    set: &Collection,
    rank: u64,
    take: u64,
    direction: Direction,
) -> Result<Stretch, CommandError> {
    let skip = match direction {
        Direction::Forward => rank,
        Direction::Backward => set.count - 1 - rank,
    };
    Ok(Stretch {
        skip,
        ..Stretch::from_end(direction, take)
    })
}
