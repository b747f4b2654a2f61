//! The sweep: keys whose deadline has passed are deleted in the order of their deadlines, a bounded number at a time.
//!
//! An expired key is never visible, swept or not; the sweep gives its space back and lets DBSIZE shrink. Hashes of
//! which some fields have expired are named to the caller, since it takes a command to remove fields.
//!
//! A key that is due later than before keeps its entry of the index, until the sweep comes to that and moves it: a
//! deadline that is put off again and again costs one entry in the time it was set to.
//!
//! What a sweep has deleted from the index is passed over by whoever reads it from its beginning, until RocksDB has
//! compacted it: so each sweep begins where the last one has ended.

use super::database::Column;
use super::encoding::{self, DEADLINE_LEN, Record, due_of, entry_of};
use super::shard::Shard;
use crate::error::CommandError;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A hash with fields that have expired: the number of its database, and its key.
pub type DueHash = (u8, Vec<u8>);

/// Entries of the index that one sweep looks at, of keys that have another deadline by now or are gone, among others:
/// a quarter of a millisecond.
const ENTRIES_MAX: usize = 256;

/// Deleted entries of the index that one sweep passes over: a quarter of a millisecond.
const DELETED_PASSED_MAX: u64 = 1024;

/// Entries that are due and stay so, which every sweep looks at.
const PUT_OFF_MAX: usize = 256;

/// Behind the last entry of the index.
const END: [u8; DEADLINE_LEN + 1] = [0xff; DEADLINE_LEN + 1];

/// How far a shard was swept.
#[derive(Default)]
pub struct Swept {
    /// No entry of the index before this is a key's, but those that are put off.
    to: Vec<u8>,
    /// The deadline there, Unix milliseconds.
    deadline_ms: u64,
    /// Entries of keys that are due and must stay for now.
    put_off: BTreeSet<Vec<u8>>,
}

impl Swept {
    /// A key gets a deadline.
    #[inline]
    pub fn add_deadline(&mut self, deadline_ms: u64) {
        if deadline_ms <= self.deadline_ms {
            self.set(deadline_ms.to_be_bytes().to_vec());
        }
    }

    /// Keys may be due again that were deleted.
    pub fn begin_again(&mut self) {
        *self = Swept::default();
    }

    /// For how long keys may have been due that no sweep has looked at; 0 if there are none, or no sweep can before
    /// some of those may go that are put off.
    pub fn late_ms(&self, now_ms: u64) -> u64 {
        match self.put_off.len() < PUT_OFF_MAX {
            true => now_ms.saturating_sub(self.deadline_ms),
            false => 0,
        }
    }

    /// No key expires before this (Unix milliseconds).
    pub fn next_deadline_ms(&self) -> u64 {
        let put_off = self.put_off.first().map_or(u64::MAX, |first| deadline_at(first));
        self.deadline_ms.min(put_off)
    }

    fn set(&mut self, to: Vec<u8>) {
        self.deadline_ms = deadline_at(&to);
        self.to = to;
    }
}

/// The deadline that a key of the index begins with.
fn deadline_at(index_key: &[u8]) -> u64 {
    index_key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What became of an entry of the index.
enum Outcome {
    Expired,
    /// The key is due later (Unix milliseconds), and its entry is there now.
    Moved(u64),
    /// No key has this entry any more. FLUSHDB deletes keys by range and leaves theirs to be found here.
    Stale,
    /// The key must stay for now.
    Stays,
}

/// Stages the deletion of at most `budget` expired keys of a shard, those among them whose entries are only moved;
/// returns how many were expired. Hashes that are due for their fields are added to `hashes`, and stay due until they
/// are written anew.
///
/// What `is_locked` names a transaction has read, and decides what becomes of it: that stays due.
pub fn sweep(
    shard: &mut Shard,
    now_ms: u64,
    budget: usize,
    hashes: &mut Vec<DueHash>,
    is_locked: impl Fn(&DueHash) -> bool,
) -> Result<usize, CommandError> {
    if shard.swept.next_deadline_ms() >= now_ms {
        return Ok(0);
    }
    let (due, end) = match shard.swept.late_ms(now_ms) {
        0 => (Vec::new(), shard.swept.to.clone()),
        _ => due_entries(shard, now_ms)?,
    };
    let put_off: Vec<Vec<u8>> = std::mem::take(&mut shard.swept.put_off).into_iter().collect();
    let put_off_len = put_off.len();
    let (mut expired, mut moved, mut stale) = (0, 0, Vec::new());
    let (mut result, mut earliest_moved) = (Ok(()), None);
    let mut entries = put_off.into_iter().chain(due).enumerate();
    let mut ends_at = end;
    while let Some((number, entry)) = entries.next() {
        let outcome = match expired + moved < budget {
            true => look_at(shard, now_ms, &entry, hashes, &is_locked),
            // No more of those that were put off, either.
            false => Ok(Outcome::Stays),
        };
        let has_room = number < put_off_len || expired + moved < budget && shard.swept.put_off.len() < PUT_OFF_MAX;
        match outcome {
            Ok(Outcome::Expired) => expired += 1,
            Ok(Outcome::Moved(due_ms)) => {
                moved += 1;
                earliest_moved = earliest_moved.into_iter().chain([due_ms]).min();
            }
            Ok(Outcome::Stale) => stale.push(entry),
            Ok(Outcome::Stays) if has_room => {
                shard.swept.put_off.insert(entry);
            }
            Ok(Outcome::Stays) => {
                ends_at = entry;
                break;
            }
            Err(error) => {
                result = Err(error);
                ends_at = match number < put_off_len {
                    true => std::mem::take(&mut shard.swept.to),
                    false => entry.clone(),
                };
                let put_off_left = entries.filter(|(number, _)| *number < put_off_len);
                shard.swept.put_off.extend(put_off_left.map(|(_, entry)| entry));
                if number < put_off_len {
                    shard.swept.put_off.insert(entry);
                }
                break;
            }
        }
    }
    shard.swept.set(ends_at);
    if let Some(deadline_ms) = earliest_moved {
        // It may lie before that.
        shard.swept.add_deadline(deadline_ms);
    }
    result?;
    shard.delete_stale_index_entries(&stale)?;
    Ok(expired)
}

/// Entries of the index that are due, in their order, and the first one behind them that is not, or was not looked at.
fn due_entries(shard: &mut Shard, now_ms: u64) -> Result<(Vec<Vec<u8>>, Vec<u8>), CommandError> {
    let (mut due, mut end) = (Vec::new(), None);
    let from = shard.swept.to.clone();
    let range = (&from[..], &END[..]);
    let (_, passed_to) =
        shard.scan_some(
            Column::Expiry,
            range,
            DELETED_PASSED_MAX,
            |key, _version| match encoding::split_expiry_key(key) {
                Some((deadline_ms, _)) if deadline_ms < now_ms && due.len() < ENTRIES_MAX => {
                    due.push(key.to_vec());
                    ControlFlow::Continue(())
                }
                Some(_) => {
                    end = Some(key.to_vec());
                    ControlFlow::Break(())
                }
                None => ControlFlow::Continue(()),
            },
        )?;
    Ok((due, end.or(passed_to).unwrap_or_else(|| END.to_vec())))
}

/// Stages the deletion of the key of an entry of the index that is due, if it is that key's and may go.
fn look_at(
    shard: &mut Shard,
    now_ms: u64,
    entry: &[u8],
    hashes: &mut Vec<DueHash>,
    is_locked: &impl Fn(&DueHash) -> bool,
) -> Result<Outcome, CommandError> {
    let Some((deadline_ms, meta_key)) = encoding::split_expiry_key(entry) else {
        unreachable!("what is due begins with a deadline");
    };
    let current = shard.peek_record(meta_key, |record| {
        let is_alive = Record::decode(record).is_some_and(|record| record.is_alive(now_ms));
        (entry_of(record), due_of(record), is_alive)
    })?;
    let Some((_, due_ms, is_alive)) = current.filter(|(entry_ms, ..)| *entry_ms == deadline_ms) else {
        return Ok(Outcome::Stale);
    };
    if due_ms >= now_ms {
        shard.move_entry(meta_key)?;
        return Ok(Outcome::Moved(due_ms));
    }
    let database_key = encoding::split_meta_key(meta_key)
        .and_then(|(physical, _, key)| Some((shard.number_of(physical)?, key.to_vec())));
    if database_key.as_ref().is_some_and(is_locked) {
        return Ok(Outcome::Stays);
    }
    if is_alive {
        hashes.extend(database_key);
        return Ok(Outcome::Stays);
    }
    shard.delete_meta_key(meta_key)?;
    shard.keep_command();
    Ok(Outcome::Expired)
}
