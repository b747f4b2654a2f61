//! When replies may leave: the turn is committed, and the replies wait for the committer and, with `always`, for the
//! syncer.

use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Response};
use crate::config::Durability;
use crate::executor::participant::Batches;
use crate::executor::syncer::SyncReport;
use crate::faults::{self, Bug};
use crate::protocol::{Reply, Span, Version};
use crate::storage::database::{BatchWriter, DatabaseError};
use crate::storage::pieces::RepliesBegun;
use crate::storage::shard::{RolledBack, Shard, ShardState};
use crate::storage::view::SEVERAL_SHARDS;
use std::sync::Arc;

/// How far the shards' commits (and syncs, if replies wait for them) have come.
pub(super) struct Released {
    pub(super) by_place: Vec<u64>,
    pub(super) lowest: u64,
}

impl Released {
    /// Whether what was bound to turn `epoch` of a shard (its place, or [`SEVERAL_SHARDS`]) may leave.
    pub(super) fn includes(&self, shard: u16, epoch: u64) -> bool {
        let released = match shard {
            SEVERAL_SHARDS => self.lowest,
            place => self.by_place[usize::from(place)],
        };
        epoch <= released
    }

    pub(super) fn includes_response(&self, response: &Response) -> bool {
        self.includes(response.shard, response.commit_epoch)
    }

    /// Sends back the batch, or those of its responses that may leave; returns the rest.
    pub(super) fn send_what_may_leave(&self, mut batch: Box<Batch>) -> Option<Box<Batch>> {
        if self.lowest == u64::MAX || batch.responses.iter().all(|response| self.includes_response(response)) {
            batch.send_back();
            return None;
        }
        if let Some(ready) = batch.split_off(|response| self.includes_response(response)) {
            ready.send_back();
        }
        Some(batch)
    }
}

/// Whether a response was bound to the commits of the shard at `place` from turn `from` on.
pub(super) fn bound_to(response: &Response, place: usize, from: u64) -> bool {
    response.commit_epoch >= from.max(1) && (response.shard == SEVERAL_SHARDS || usize::from(response.shard) == place)
}

/// Replaces the replies that speak of writes which were rolled back. Where a part of a command's writes may stand, on
/// another shard or by an earlier commit of the turn, neither OK nor an error would be true: an empty reply makes the
/// network executor close the connection.
pub(super) fn answer_rolled_back(batch: &mut Batch, place: usize, rolled_back: &RolledBack, begun: &mut RepliesBegun) {
    for response in &mut batch.responses {
        if bound_to(response, place, rolled_back.from_epoch) {
            let start = batch.replies.len();
            let in_part = rolled_back.in_part || response.shard == SEVERAL_SHARDS;
            if !(in_part && response.command.may_write()) {
                Reply::new(&mut batch.replies, Version::Resp2).error(rolled_back.error.to_string());
            }
            response.reply = Span::new(start, batch.replies.len() - start);
            (response.commit_epoch, response.failed) = (0, true);
            begun.take(std::mem::take(&mut response.more));
        }
    }
}

impl StorageExecutor {
    /// Commits what each shard staged in this turn (or in earlier ones, if it was stalled or its batch is with the
    /// committer).
    pub(super) fn commit(&mut self, done: &mut [Box<Batch>]) {
        if !done.is_empty() {
            faults::may_panic(Bug::Turn);
        }
        if self.shards.is_linked() {
            self.shards.commit_linked();
        }
        let may_commit = !self.shards.is_linked();
        let mut any = false;
        for place in 0..self.shards.list().len() {
            let shard = &mut self.shards.list_mut()[place];
            if shard.is_committing() || !may_commit {
                // What is staged rides the next batch.
            } else if shard.staged_len() >= self.committer.writes_min && *shard.state() == ShardState::Healthy {
                let database = Arc::clone(shard.database());
                if let Some(writes) = shard.begin_commit() {
                    self.committer.committer.submit(place, database, writes);
                }
            } else {
                // Flushes and scans commit by themselves, so the shard's epoch tells what was committed, and what was
                // rolled back tells what failed; after a stall what is staged waits for the next call.
                let _ = shard.commit();
            }
            self.answer_rolled_back(place, done);
            let settled_epoch = self.shards.list()[place].settled_epoch();
            if settled_epoch != self.published_epochs[place] {
                any = true;
                self.published_epochs[place] = settled_epoch;
                // At once, and not with the other figures: what a reply says is what INFO keyspace shows.
                self.publish_counts(place);
                self.syncer.committed(place, settled_epoch);
            }
            if self.shards.list_mut()[place].take_noted() {
                self.reclaimer.noted(place);
            }
        }
        if any && self.current.durability == Durability::Always {
            self.syncer.sync_soon();
        }
    }

    /// Commits what is staged, and lets go of what waits for that: replies, and the locks of decided transactions. Who
    /// waits for those locks is served at once.
    pub(super) fn commit_and_release(&mut self, mut done: Batches) {
        self.commit(&mut done);
        if self.parked.decided_len() > 0 {
            self.finish_decided(&mut done);
            if self.parked.can_resume() {
                self.begin_turn();
                self.resume(&mut done);
                done.append(&mut self.woken);
                self.commit(&mut done);
            }
        }
        self.release_held();
        let released = self.released_epochs();
        for batch in done {
            self.release_or_hold(batch, &released);
        }
    }

    /// Answers those who wait for writes of the shard at `place` that were rolled back, if any were.
    pub(super) fn answer_rolled_back(&mut self, place: usize, done: &mut [Box<Batch>]) {
        if let Some(rolled_back) = self.shards.list_mut()[place].take_rolled_back() {
            self.outbox.forget(place, rolled_back.from_epoch);
            for batch in done.iter_mut().chain(self.held.iter_mut()) {
                answer_rolled_back(batch, place, &rolled_back, &mut self.shards.replies_begun);
            }
        }
    }

    /// The last turn whose replies may leave, for the shard at `place`.
    pub(super) fn released_epoch(&self, place: usize) -> u64 {
        let durable = (self.current.durability == Durability::Always).then(|| self.syncer.durable_epoch(place));
        self.shards.list()[place].released_epoch(durable)
    }

    /// The same for all shards, and the lowest of them.
    pub(super) fn released_epochs(&self) -> Released {
        let by_place: Vec<u64> = (0..self.shards.list().len())
            .map(|place| self.released_epoch(place))
            .collect();
        let lowest = by_place.iter().copied().min().unwrap_or(u64::MAX);
        Released { by_place, lowest }
    }

    pub(super) fn release_or_hold(&mut self, batch: Box<Batch>, released: &Released) {
        if let Some(rest) = released.send_what_may_leave(batch) {
            self.held.push_back(rest);
        }
    }

    /// Lets go of what the commits and syncs have caught up with: what commands did, and held batches.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() && self.outbox.is_empty() {
            return;
        }
        let released = self.released_epochs();
        self.outbox.give_out(|shard, epoch| released.includes(shard, epoch));
        for batch in std::mem::take(&mut self.held) {
            self.release_or_hold(batch, &released);
        }
    }

    /// The committer has written batches, or failed to: replies leave, and what was staged meanwhile is committed.
    pub(super) fn on_commit(&mut self) {
        if self.script_is_open {
            // None is under way: its turn began without one.
            return;
        }
        self.take_up_commits();
        self.commit_and_release(Vec::new());
    }

    pub(super) fn take_up_commits(&mut self) {
        if !self.shards.list().iter().any(Shard::is_committing) {
            return;
        }
        let mut any = false;
        while let Some((place, written)) = self.committer.committer.take_done() {
            // What failed shows in the shard's state and in what it has rolled back.
            let _ = self.shards.list_mut()[place].finish_commit(written);
            // Now, because a turn that begins after this sees nothing of it.
            self.answer_rolled_back(place, &mut []);
            any = true;
        }
        if any && self.sweep_waits {
            self.sweep();
        }
    }

    /// A sync ended: replies leave, or the shard stops.
    pub(super) fn on_sync(&mut self, report: SyncReport) {
        if self.script_is_open && report.result.is_err() {
            // Its shard may stop only when nothing is half done there.
            self.reports_waiting.push(report);
            return;
        }
        self.take_report(&report);
    }

    pub(super) fn take_up_reports(&mut self) {
        for report in std::mem::take(&mut self.reports_waiting) {
            self.take_report(&report);
        }
    }

    pub(super) fn take_report(&mut self, report: &SyncReport) {
        if let Err(error) = &report.result {
            let durable_epoch = self.syncer.durable_epoch(report.place);
            self.outbox.forget(report.place, durable_epoch + 1);
            // Whether these writes are on disk is unknown, and they may be there after a restart: neither OK nor an
            // error would be true. An empty reply makes the network executor close the connection.
            for batch in &mut self.held {
                for response in &mut batch.responses {
                    if bound_to(response, report.place, durable_epoch + 1) {
                        response.reply.len = 0;
                        response.commit_epoch = 0;
                        let begun = &mut self.shards.replies_begun;
                        begun.take(std::mem::take(&mut response.more));
                    }
                }
            }
            let shard = &mut self.shards.list_mut()[report.place];
            shard.stop_at(durable_epoch, &DatabaseError::Failed(error.to_string()));
            // Who waited for it was among those.
            shard.take_rolled_back();
        }
        self.settings_are_current();
        self.release_held();
        self.tell_durable();
    }
}
