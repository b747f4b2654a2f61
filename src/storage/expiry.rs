//! The sweep: keys whose deadline has passed are deleted in the order of their deadlines, a bounded number per turn.
//!
//! An expired key is never visible, swept or not; the sweep gives its space back and lets DBSIZE shrink.

use super::database::Column;
use super::encoding::{self, deadline_of};
use super::shard::Shard;
use crate::error::CommandError;
use std::ops::ControlFlow;

/// Stages the deletion of at most `budget` expired keys of a shard; returns how many were expired.
pub fn sweep(shard: &mut Shard, now_ms: u64, budget: usize) -> Result<usize, CommandError> {
    if shard.next_deadline_ms() >= now_ms {
        return Ok(0);
    }
    // What is staged is not in the index yet.
    shard.commit()?;
    let mut due = Vec::new();
    let mut next_deadline_ms = u64::MAX;
    let from = shard.next_deadline_ms().to_be_bytes();
    let all = [0xff; encoding::DEADLINE_LEN + 1];
    shard.database().scan(
        Column::Expiry,
        &from,
        &all,
        |key, _version| match encoding::split_expiry_key(key) {
            Some((deadline_ms, meta_key)) if deadline_ms < now_ms && due.len() < budget => {
                due.push((key.to_vec(), meta_key.to_vec(), deadline_ms));
                ControlFlow::Continue(())
            }
            Some((deadline_ms, _)) => {
                next_deadline_ms = deadline_ms;
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        },
    )?;
    let mut expired = 0;
    let mut stale = Vec::new();
    for (index_key, meta_key, deadline_ms) in due {
        let current = shard.database().get(Column::Meta, &meta_key, deadline_of)?;
        if current == Some(deadline_ms) {
            shard.delete_meta_key(&meta_key)?;
            shard.keep_command();
            expired += 1;
        } else {
            // FLUSHDB deletes keys by range and leaves their index entries to be found here.
            stale.push(index_key);
        }
    }
    shard.delete_stale_index_entries(&stale)?;
    shard.set_next_deadline_ms(next_deadline_ms);
    Ok(expired)
}
