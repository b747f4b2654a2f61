//! The sweep: keys whose deadline has passed are deleted in the order of their deadlines, a bounded number per turn.
//!
//! An expired key is never visible, swept or not; the sweep gives its space back and lets DBSIZE shrink. Hashes of
//! which some fields have expired are named to the caller, since it takes a command to remove fields.

use super::database::{Column, Direction};
use super::encoding::{self, Record, due_of};
use super::shard::Shard;
use crate::error::CommandError;
use std::ops::ControlFlow;

/// A hash with fields that have expired: the number of its database, and its key.
pub type DueHash = (u8, Vec<u8>);

/// Stages the deletion of at most `budget` expired keys of a shard; returns how many were expired. Hashes that are due
/// for their fields are added to `hashes`, and stay due until they are written anew.
///
/// What `is_locked` names a transaction has read, and decides what becomes of it: that stays due.
pub fn sweep(
    shard: &mut Shard,
    now_ms: u64,
    budget: usize,
    hashes: &mut Vec<DueHash>,
    is_locked: impl Fn(&DueHash) -> bool,
) -> Result<usize, CommandError> {
    if shard.next_deadline_ms() >= now_ms {
        return Ok(0);
    }
    let mut due = Vec::new();
    let mut next_deadline_ms = u64::MAX;
    let from = shard.next_deadline_ms().to_be_bytes();
    let all = [0xff; encoding::DEADLINE_LEN + 1];
    shard.scan_range(Column::Expiry, (&from, &all), Direction::Forward, |key, _version| {
        match encoding::split_expiry_key(key) {
            Some((deadline_ms, meta_key)) if deadline_ms < now_ms && due.len() < budget => {
                due.push((key.to_vec(), meta_key.to_vec(), deadline_ms));
                ControlFlow::Continue(())
            }
            Some((deadline_ms, _)) => {
                next_deadline_ms = deadline_ms;
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        }
    })?;
    let mut expired = 0;
    let mut stale = Vec::new();
    for (index_key, meta_key, deadline_ms) in due {
        let current = shard.peek_record(&meta_key, |record| {
            let is_alive = Record::decode(record).is_some_and(|record| record.is_alive(now_ms));
            (due_of(record), is_alive)
        })?;
        let database_key = encoding::split_meta_key(&meta_key)
            .and_then(|(physical, _, key)| Some((shard.number_of(physical)?, key.to_vec())));
        if current.is_some() && database_key.as_ref().is_some_and(&is_locked) {
            next_deadline_ms = next_deadline_ms.min(deadline_ms);
            continue;
        }
        match current {
            Some((due_ms, false)) if due_ms == deadline_ms => {
                shard.delete_meta_key(&meta_key)?;
                shard.keep_command();
                expired += 1;
            }
            Some((due_ms, true)) if due_ms == deadline_ms => {
                hashes.extend(database_key);
                next_deadline_ms = next_deadline_ms.min(deadline_ms);
            }
            // FLUSHDB deletes keys by range and leaves their index entries to be found here.
            _ => stale.push(index_key),
        }
    }
    shard.delete_stale_index_entries(&stale)?;
    shard.set_next_deadline_ms(next_deadline_ms);
    Ok(expired)
}
