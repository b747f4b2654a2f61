//! What a storage executor does every few milliseconds: expiry, stalled commits, markers of dead versions, metrics.

use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Caller};
use crate::channel::responses::responses;
use crate::commands::hash;
use crate::config::Durability;
use crate::error::CommandError;
use crate::faults;
use crate::protocol::Arguments;
use crate::registry::server_state::HOUSEKEEPING_INTERVAL;
use crate::scripts::interpreter;
use crate::storage::executor_log::ExecutorLog;
use crate::storage::expiry;
use crate::storage::shard::Shard;
use crate::storage::transaction_scope::Mode;
use std::time::{Duration, Instant};

/// How long what was logged waits at most before RocksDB gets it, also where a segment fills slowly: so much of the log
/// need not be read at a start.
const SEAL_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// The same where keys were deleted, whose space is to come back soon, and where much was logged.
const SEAL_INTERVAL: Duration = Duration::from_secs(5);

/// So much is worth a compaction, which rewrites more than what is new: the keys of each file lie all over the others'.
const SEALED_EARLY_BYTES_MIN: u64 = 8 << 20;

/// How often segments are sealed at most because memory is short.
const SEAL_PAUSE_MIN: Duration = Duration::from_millis(100);

/// What a segment has at least that is sealed for that: files of less are not worth their compactions.
const SEALED_BYTES_MIN: u64 = 4 << 20;

/// Memory is short when more than this part of it waits for RocksDB.
const UNCLEAN_DIVISOR: usize = 4;

/// Records that are worked off between two looks at the clock, and at the beginning of a turn: a tenth of a
/// millisecond, or twice that where the table has no room. A turn after one that has written more works off more.
pub(super) const RECORDS_WORKED_OFF_PER_TURN: usize = 256;

/// How long records are worked off in one go.
const WORK_OFF_MAX: Duration = Duration::from_millis(1);

/// How long a sweep holds the executor, over all of its shards.
const SWEEP_MAX: Duration = Duration::from_millis(2);

/// The least time between two sweeps: what has arrived is served in between.
const SWEEP_PAUSE_MIN: Duration = Duration::from_micros(200);

/// When the executor keeps house.
pub(super) struct House {
    last: Instant,
    /// How long it waits before it does again, or sweeps again.
    pub(super) pause: Duration,
}

impl House {
    pub(super) fn new() -> House {
        House {
            last: Instant::now(),
            pause: HOUSEKEEPING_INTERVAL,
        }
    }
}

/// How long to wait after a sweep that took `took` and left keys that have been due for `late_ms`: the later the sweeps
/// are, the larger is their share of the executor, so that expiry keeps up with any load.
fn pause_after_sweep(took: Duration, late_ms: u64) -> Duration {
    let pause = match late_ms {
        0 => HOUSEKEEPING_INTERVAL,
        1..50 => 3 * took,
        50..100 => took,
        _ => took / 4,
    };
    pause.clamp(SWEEP_PAUSE_MIN, HOUSEKEEPING_INTERVAL)
}

impl StorageExecutor {
    /// Deletes keys whose deadline has passed, in a turn of its own.
    pub(super) fn sweep(&mut self) {
        let began = Instant::now();
        let now_ms = self.begin_turn();
        let budget = self.settings.current.expire_keys_per_turn;
        let mut hashes = Vec::new();
        let locks = &self.interests.locks;
        let time_per_shard = SWEEP_MAX / self.shard_metrics.len().max(1) as u32;
        let mut late_ms = 0;
        for (shard, metrics) in self.shards.list_mut().iter_mut().zip(&self.shard_metrics) {
            let is_locked = |hash: &expiry::DueHash| locks.holds(hash, Mode::Exclusive);
            let (mut left, began) = (budget, Instant::now());
            loop {
                match expiry::sweep(shard, now_ms, left, &mut hashes, is_locked) {
                    Ok(expired) => {
                        metrics.expired_keys.add(expired as u64);
                        left -= expired;
                    }
                    // A shard that takes no writes keeps its expired keys, invisible as they are.
                    Err(CommandError::DiskFull | CommandError::Stalled | CommandError::ShardDown(_)) => break,
                    Err(error) => {
                        tracing::warn!(shard = shard.id().0, %error, "the expiry sweep failed");
                        break;
                    }
                }
                if left == 0 || shard.swept.late_ms(now_ms) == 0 || began.elapsed() >= time_per_shard {
                    late_ms = late_ms.max(shard.swept.late_ms(now_ms));
                    break;
                }
            }
        }
        for shard_index in 0..self.shards.list().len() {
            let outcomes = self.shards.list_mut()[shard_index].lifecycle.take();
            self.effects.add_key_outcomes(&outcomes);
            self.outbox.take_in(self.epoch, &mut self.effects, Vec::new());
        }
        self.interests.after_command(&mut self.shards, 0);
        let outdated = self.interests.tracked.take_outdated();
        self.outbox.take_in(self.epoch, &mut self.effects, outdated);
        self.expire_fields(&hashes, budget);
        self.house.pause = pause_after_sweep(began.elapsed(), late_ms);
    }

    /// What is to be done now: all of it every [`HOUSEKEEPING_INTERVAL`], and sweeps as often as it takes.
    pub(super) fn tick(&mut self) {
        // A sweep may find that it is too long.
        self.house.pause = HOUSEKEEPING_INTERVAL;
        if self.house.last.elapsed() >= HOUSEKEEPING_INTERVAL {
            self.house.last = Instant::now();
            return self.keep_house();
        }
        self.settings_are_current();
        if !self.long_script.is_open {
            self.look_after_shards();
        }
    }

    /// What no client asks for: deadlines, redo records, requests that have waited too long.
    pub(super) fn look_after_shards(&mut self) {
        self.sweep();
        self.serve_waiters(Instant::now());
        self.delete_markers();
        let mut done = Vec::new();
        if self.has_parked() {
            self.look_at_parked(&mut done);
        }
        if (!self.parked.long.is_empty() || self.goes_on_by_itself())
            && let Some(requests) = self.requests.upgrade()
        {
            // Their turn would come with the next batch; this one is empty, and nobody waits for it.
            let (nobody, _) = responses();
            let _ = requests.send(Batch::new(nobody));
        }
        done.append(&mut self.woken);
        self.commit_and_release(done);
    }

    /// What is to be done every [`HOUSEKEEPING_INTERVAL`], whether there is work or not.
    pub(super) fn keep_house(&mut self) {
        faults::hold_storage(self.number());
        self.settings_are_current();
        if !self.long_script.is_open {
            self.look_after_shards();
        }
        if !self.held.is_empty() && self.settings.current.durability == Durability::Always {
            // The replies may wait for turns that were logged before this setting, or by the start of the server.
            self.threads.syncer.sync_soon();
        }
        self.release_held(self.released_epoch());
        // The checkpointer syncs the log, too, and says nothing of it.
        if !self.durable_waits.is_empty() {
            self.tell_durable();
        }
        self.answer_steps_from_disk();
        self.look_after_log();
        self.interests.tracked.forget_gone();
        self.update_metrics();
    }

    /// Gives the checkpointer what it is to have before a segment is full, and works off what RocksDB has got.
    fn look_after_log(&mut self) {
        if self.shards.log().is_some_and(|log| log.unclean_bytes() == 0) {
            // What comes next is the first that waits.
            self.log_care.last_seal = Instant::now();
            self.log_care.deletes_keys = false;
        }
        self.log_care.deletes_keys |= self.shards.take_deletes_keys();
        let since_last_seal = self.log_care.last_seal.elapsed();
        let memory_bytes: usize = self.shards.list().iter().map(Shard::memory_bytes).sum();
        // What RocksDB lacks leaves less room for what is hot.
        let is_memory_short =
            self.shards.take_needs_clean() || self.shards.unclean_bytes() > memory_bytes / UNCLEAN_DIVISOR;
        let is_memory_short = is_memory_short && since_last_seal >= SEAL_PAUSE_MIN;
        // Nothing comes then but what frees space.
        let is_disk_full = self.shards.is_disk_full();
        let bytes_min = match is_memory_short {
            _ if since_last_seal >= SEAL_INTERVAL_MAX => Some(0),
            _ if since_last_seal >= SEAL_INTERVAL && self.log_care.deletes_keys => Some(0),
            _ if since_last_seal >= SEAL_INTERVAL => Some(SEALED_EARLY_BYTES_MIN),
            true => Some(SEALED_BYTES_MIN),
            false => None,
        };
        if let Some(log) = self.shards.log_mut()
            && (log.is_checkpoint_wanted()
                || bytes_min.is_some_and(|bytes_min| log.has_to_be_sealed(bytes_min, is_disk_full)))
        {
            log.seal();
            self.log_care.last_seal = Instant::now();
            self.log_care.deletes_keys = false;
        }
        self.follow_watermark(usize::MAX);
        for shard in self.shards.list_mut() {
            self.threads.disposer.dispose(shard.take_discarded());
        }
        let ended = self.shards.replies_begun.take_ended();
        self.threads.disposer.dispose_replies(ended);
    }

    /// RocksDB may have got more of the log: tells the reclaimer of new markers, and works off up to about
    /// `records_max` records that need not stay in memory for that any more. Returns how many.
    pub(super) fn follow_watermark(&mut self, records_max: usize) -> usize {
        let watermark = self.shards.log().map_or(0, ExecutorLog::watermark);
        if watermark != self.log_care.watermark {
            self.log_care.watermark = watermark;
            self.log_care.has_work = true;
            for (shard_index, shard) in self.shards.list_mut().iter_mut().enumerate() {
                if shard.take_ingested_markers(watermark) {
                    self.threads.reclaimer.look_for_markers(shard_index);
                }
            }
        }
        let mut worked_off = 0;
        if self.log_care.has_work {
            let began = Instant::now();
            while self.log_care.has_work && worked_off < records_max && began.elapsed() < WORK_OFF_MAX {
                self.log_care.has_work = self.shards.work_off(watermark, RECORDS_WORKED_OFF_PER_TURN);
                worked_off += RECORDS_WORKED_OFF_PER_TURN;
            }
        }
        worked_off
    }

    /// Removes at most `budget` expired fields of the hashes that a sweep has named.
    fn expire_fields(&mut self, hashes: &[expiry::DueHash], mut budget: usize) {
        for (database, key) in hashes {
            if budget == 0 {
                return;
            }
            if self.interests.locks.holds(&(*database, key.clone()), Mode::Exclusive) {
                // A transaction that has read it decides what becomes of it.
                continue;
            }
            self.shards.begin_command();
            let mut no_reply = Vec::new();
            let nobody = Caller {
                database: *database,
                ..Caller::default()
            };
            let (mut context, _) = self.context(nobody, Arguments::new(&[], &[]), &mut no_reply);
            match hash::expire_fields(&mut context, key, budget) {
                Ok(expired) => {
                    self.command_stands(0);
                    budget -= expired.min(budget);
                }
                Err(error) => {
                    self.roll_back_command();
                    tracing::debug!(%error, "fields of a hash stay for the next sweep");
                }
            }
        }
    }

    /// Stages the deletion of the markers of versions that are reclaimed.
    fn delete_markers(&mut self) {
        for (shard_index, marker) in self.threads.reclaimer.take_done() {
            match self.shards.list_mut()[shard_index].delete_marker(&marker) {
                Ok(was_there) => self.shard_metrics[shard_index]
                    .reclaimed_collections
                    .add(u64::from(was_there)),
                Err(CommandError::Stalled | CommandError::DiskFull) => {
                    self.threads.reclaimer.keep_done(shard_index, marker);
                }
                // A shard that takes no writes any more keeps the marker: the next start finds it, and nothing to
                // reclaim.
                Err(_) => {}
            }
        }
    }

    pub(super) fn publish_all(&mut self) {
        (0..self.shard_metrics.len()).for_each(|shard_index| self.publish_counts(shard_index));
        self.update_metrics();
    }

    /// The numbers of keys of the shard at `shard_index`.
    pub(super) fn publish_counts(&self, shard_index: usize) {
        for (number, [keys, expires]) in self.shard_metrics[shard_index].databases.iter().enumerate() {
            let counts = self.shards.list()[shard_index].counts(number as u8);
            keys.set(counts.keys);
            expires.set(counts.expires);
        }
    }

    fn update_log_metrics(&self) {
        let metrics = &self.metrics.log;
        if let Some(log) = self.shards.log() {
            metrics.unclean_bytes.set(log.unclean_bytes());
            let newest_sealed = log.open_segment() - 1;
            metrics.segments_behind.set(u64::from(newest_sealed - log.watermark()));
        }
    }

    pub(super) fn update_metrics(&mut self) {
        let (keys, keys_without) = self.interests.waiters.key_counts();
        self.metrics.blocking_keys.set(keys as u64);
        self.metrics.blocking_keys_on_nokey.set(keys_without as u64);
        self.metrics.decided.set(self.parked.decided_len() as u64);
        self.metrics.in_doubt.set(self.interests.locks.in_doubt().len() as u64);
        self.metrics.held.set(self.held.len() as u64);
        self.metrics.waiting_for_disk.set(self.missed.len() as u64);
        self.metrics.fetched_reads.set(self.threads.disk_readers.fetched());
        self.metrics.replies_begun.set(self.shards.replies_begun.len() as u64);
        let (syncs, sync_ns) = self.threads.syncer.totals();
        self.metrics.syncs.set(syncs);
        self.metrics.sync_ns.set(sync_ns);
        self.update_log_metrics();
        let are_full = self.threads.disk_watch.take_new();
        let (logged_epoch, durable_epoch) = (self.shards.logged_epoch(), self.threads.syncer.durable_epoch());
        for (shard_index, (shard, metrics)) in self.shards.list_mut().iter_mut().zip(&self.shard_metrics).enumerate() {
            metrics.state.set(shard.state().code());
            let counters = shard.records().counters();
            metrics.hits.set(counters.hits);
            metrics.misses.set(counters.misses);
            metrics.evictions.set(counters.evictions);
            metrics.cache_bytes.set(shard.records().bytes() as u64);
            metrics.cache_records.set(shard.records().len() as u64);
            metrics.pinned_bytes.set(shard.records().unclean_bytes() as u64);
            let residents = shard.residents();
            metrics.resident_bytes.set(residents.bytes() as u64);
            for (figure, bytes) in metrics.resident_bytes_by_type.iter().zip(residents.bytes_by_type()) {
                figure.set(bytes as u64);
            }
            metrics.resident_collections.set(shard.residents().len() as u64);
            metrics.committed_epoch.set(logged_epoch);
            metrics.durable_epoch.set(durable_epoch);
            metrics
                .reclaims_pending
                .set(self.threads.reclaimer.pending(shard_index));
            if are_full.is_some() {
                // What is in use is made again: once for each look at the disk.
                shard.release_readers();
            }
        }
        if let Some(are_full) = are_full {
            for (shard_index, is_full) in are_full.into_iter().enumerate() {
                if let Some(is_full) = is_full {
                    self.shards.set_disk_full(shard_index, is_full);
                }
            }
            self.script_seat.scripts.record_memory(interpreter::idle_memory());
        }
    }
}
