//! What a storage executor does every few milliseconds: expiry, stalled commits, notes, metrics.

use super::storage_executor::StorageExecutor;
use crate::channel::message::Batch;
use crate::channel::responses::responses;
use crate::commands::{Context, hash};
use crate::config::Durability;
use crate::error::CommandError;
use crate::faults;
use crate::protocol::{Arguments, Reply, Version};
use crate::scripts::interpreter;
use crate::storage::expiry;
use crate::storage::transaction_scope::Mode;
use crate::storage::view::{LocalShards, SEVERAL_SHARDS, View};
use std::time::Instant;

impl StorageExecutor {
    /// Deletes keys whose deadline has passed, in a turn of its own. It looks at the disk, so it leaves out a shard
    /// whose batch is with the committer, and is called again when that is written.
    pub(super) fn sweep(&mut self) {
        let now_ms = self.begin_turn();
        self.sweep_waits = false;
        let budget = self.current.expire_keys_per_turn;
        let mut hashes = Vec::new();
        let locks = &self.interests.locks;
        for (shard, metrics) in self.shards.list_mut().iter_mut().zip(&self.shard_metrics) {
            if shard.is_committing() {
                self.sweep_waits = true;
                continue;
            }
            let is_locked = |place: &expiry::DueHash| locks.holds(place, Mode::Exclusive);
            match expiry::sweep(shard, now_ms, budget, &mut hashes, is_locked) {
                Ok(expired) => metrics.expired_keys.add(expired as u64),
                // A shard that takes no writes keeps its expired keys, invisible as they are.
                Err(CommandError::DiskFull | CommandError::Stalled | CommandError::ShardDown(_)) => {}
                Err(error) => tracing::warn!(shard = shard.id().0, %error, "the expiry sweep failed"),
            }
        }
        for place in 0..self.shards.list().len() {
            let notes = self.shards.list_mut()[place].lifecycle.take();
            self.effects.note_key_fates(&notes);
            self.outbox
                .take_in(place as u16, self.turn, &mut self.effects, Vec::new());
        }
        self.interests.after_command(&mut self.shards, 0);
        let outdated = self.interests.tracked.take_outdated();
        self.outbox
            .take_in(SEVERAL_SHARDS, self.turn, &mut self.effects, outdated);
        self.expire_fields(&hashes, now_ms, budget);
    }

    /// What no client asks for: deadlines, redo records, requests that have waited too long.
    pub(super) fn look_after_shards(&mut self) {
        self.sweep();
        self.serve_waiters(Instant::now());
        self.delete_notes();
        // What was acknowledged as durable needs its record until it is.
        let syncer = (self.current.durability == Durability::Always).then_some(&self.syncer);
        self.shards.finish_commands(|place, shard| {
            let durable_epoch = syncer.map_or(u64::MAX, |syncer| syncer.durable_epoch(place));
            shard.settled_epoch().min(durable_epoch)
        });
        let mut done = Vec::new();
        if self.has_parked() {
            self.look_at_parked(&mut done);
        }
        if !self.parked.long.is_empty()
            && let Some(requests) = self.requests.upgrade()
        {
            // Their turn would come with the next request; this one is empty, and nobody waits for the box.
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
        if !self.script_is_open {
            self.look_after_shards();
        }
        if !self.held.is_empty() && self.current.durability == Durability::Always {
            // They may wait for turns that were committed before this setting, or by the start of the server.
            self.syncer.sync_soon();
        }
        self.release_held();
        self.interests.tracked.forget_gone();
        self.update_metrics();
    }

    /// Removes at most `budget` expired fields of the hashes that a sweep has named.
    pub(super) fn expire_fields(&mut self, hashes: &[expiry::DueHash], now_ms: u64, mut budget: usize) {
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
            let mut context = Context {
                arguments: Arguments::new(&[], &[]),
                reply: Reply::new(&mut no_reply, Version::Resp2),
                view: View::Local(LocalShards {
                    shards: &mut self.shards,
                    beside: &mut self.interests,
                }),
                now_ms,
                database: *database,
                seed: 0,
                string_bytes_max: 0,
                client_id: 0,
                is_inner: false,
                handlers: self.handlers,
                script_seat: Some(&self.script_seat),
                effects: &mut self.effects,
                pieces: None,
                waits: None,
            };
            match hash::expire_fields(&mut context, key, budget) {
                Ok(expired) => {
                    // A hash lies on one shard.
                    self.shards.keep_step();
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

    /// Stages the deletion of the notes of versions that are reclaimed.
    pub(super) fn delete_notes(&mut self) {
        for (place, note) in self.reclaimer.take_done() {
            match self.shards.list_mut()[place].delete_note(&note) {
                Ok(was_there) => self.shard_metrics[place]
                    .reclaimed_collections
                    .add(u64::from(was_there)),
                Err(CommandError::Stalled | CommandError::DiskFull) => self.reclaimer.keep_done(place, note),
                // A shard that takes no writes any more keeps the note: the next start finds it, and nothing to
                // reclaim.
                Err(_) => {}
            }
        }
    }

    pub(super) fn publish_all(&mut self) {
        (0..self.shard_metrics.len()).for_each(|place| self.publish_counts(place));
        self.update_metrics();
    }

    /// The numbers of keys of the shard at `place`.
    pub(super) fn publish_counts(&self, place: usize) {
        for (number, [keys, expires]) in self.shard_metrics[place].databases.iter().enumerate() {
            let counts = self.shards.list()[place].counts(number as u8);
            keys.set(counts.keys);
            expires.set(counts.expires);
        }
    }

    pub(super) fn update_metrics(&mut self) {
        let (keys, keys_without) = self.interests.waiters.key_counts();
        self.metrics.blocking_keys.set(keys as u64);
        self.metrics.blocking_keys_on_nokey.set(keys_without as u64);
        self.metrics.decided.set(self.parked.decided_len() as u64);
        self.metrics.in_doubt.set(self.interests.locks.in_doubt().len() as u64);
        self.metrics.held.set(self.held.len() as u64);
        self.metrics.replies_begun.set(self.shards.replies_begun.len() as u64);
        let (syncs, sync_ns) = self.syncer.totals();
        self.metrics.syncs.set(syncs);
        self.metrics.sync_ns.set(sync_ns);
        let are_full = self.disk_watch.take_new();
        for (place, (shard, metrics)) in self.shards.list_mut().iter_mut().zip(&self.shard_metrics).enumerate() {
            metrics.state.set(shard.state().code());
            let counters = shard.records().counters();
            metrics.hits.set(counters.hits);
            metrics.misses.set(counters.misses);
            metrics.evictions.set(counters.evictions);
            let cached = shard.records().bytes() + shard.orders().bytes();
            metrics.cache_bytes.set(cached as u64);
            metrics.cache_records.set(shard.records().len() as u64);
            metrics.committed_epoch.set(shard.committed_epoch());
            metrics.durable_epoch.set(self.syncer.durable_epoch(place));
            metrics.reclaims_pending.set(self.reclaimer.pending(place));
            if let Some(are_full) = &are_full {
                // What is in use is made again, once per look.
                shard.rest();
                if let Some(is_full) = are_full[place] {
                    shard.set_disk_full(is_full);
                }
            }
        }
        if are_full.is_some() {
            self.script_seat.scripts.note_memory(interpreter::idle_memory());
        }
    }
}
