//! Replies that cannot leave with their turn ([`turn`](super::turn)): they wait for room in the log and, with `always`,
//! for the syncer; and the replies that speak of writes which were taken back.

use super::storage_executor::StorageExecutor;
use crate::channel::message::Batch;
use crate::config::Durability;
use crate::executor::checkpointer::CheckpointReport;
use crate::executor::syncer::SyncReport;
use crate::protocol::{Reply, Span, Version};
use crate::storage::database::DatabaseError;
use crate::storage::pieces::RepliesBegun;
use crate::storage::shards::TakenBack;

/// Replaces the replies that speak of writes which were taken back. Where these may be there after a restart, neither
/// OK nor an error would be true: an empty reply makes the network executor close the connection.
fn answer_taken_back(batch: &mut Batch, taken_back: &TakenBack, begun: &mut RepliesBegun) {
    for response in &mut batch.responses {
        if response.commit_epoch >= taken_back.from_epoch.max(1) {
            let start = batch.replies.len();
            if !taken_back.may_stand {
                Reply::new(&mut batch.replies, Version::Resp2).error(taken_back.error.to_string());
            }
            response.reply = Span::new(start, batch.replies.len() - start);
            (response.commit_epoch, response.failed) = (0, true);
            if let Some(pieces) = begun.take(std::mem::take(&mut response.more)) {
                begun.end(*pieces);
            }
        }
    }
}

impl StorageExecutor {
    /// Answers what waits for writes which were taken back: the commands of `done`, those that are held, and steps.
    pub(super) fn answer_taken_back(&mut self, taken_back: &TakenBack, done: &mut [Box<Batch>]) {
        self.outbox.forget(taken_back.from_epoch);
        self.stepped.take_back(taken_back);
        self.answer_waiters_of(taken_back);
        let waiting = self.held.iter_mut().chain(&mut self.parked.for_disk);
        for batch in done.iter_mut().chain(waiting) {
            answer_taken_back(batch, taken_back, &mut self.shards.replies_begun);
        }
    }

    /// The last epoch whose replies may leave.
    pub(super) fn released_epoch(&self) -> u64 {
        let waits_for_disk = self.settings.current.durability == Durability::Always;
        let durable_epoch = waits_for_disk.then(|| self.threads.syncer.durable_epoch());
        self.shards.released_epoch(durable_epoch)
    }

    /// Lets go of what the log and the syncs have caught up with: what commands did, and held batches.
    pub(super) fn release_held(&mut self, released: u64) {
        if self.held.is_empty() && self.outbox.is_empty() {
            return;
        }
        self.outbox.give_out(released);
        for batch in std::mem::take(&mut self.held) {
            self.send_back_or_hold(batch, released);
        }
    }

    /// RocksDB has got some of the log, or never will.
    pub(super) fn on_checkpoint(&mut self, report: CheckpointReport) {
        match report.result {
            // What that allows is done with the next turn, or the next housekeeping.
            Ok(_) if !self.shards.has_staged() || self.long_script.is_open => {}
            // What is staged may have waited for room in the log.
            Ok(_) => self.commit_and_release(Vec::new()),
            Err(error) => self.log_has_ended(error),
        }
    }

    /// A sync ended: replies leave, or the shards stop.
    pub(super) fn on_sync(&mut self, report: SyncReport) {
        match report.result {
            Ok(_) => self.after_sync(),
            Err(error) => self.log_has_ended(error),
        }
    }

    fn log_has_ended(&mut self, error: DatabaseError) {
        if self.long_script.is_open {
            // The shards may stop only when no script is half done there.
            self.long_script.failure.get_or_insert(error);
            return;
        }
        self.stop_shards(&error);
    }

    /// Stops the shards if the log has ended while a script was open.
    pub(super) fn take_up_failure(&mut self) {
        if let Some(error) = self.long_script.failure.take() {
            self.stop_shards(&error);
        }
    }

    /// Nothing can be written any more: the shards stop for good, all of them, since they have one log. Whether writes
    /// that are not known to be durable are on disk is unknown, and they may be there after a restart: who waits for
    /// them is not answered.
    fn stop_shards(&mut self, error: &DatabaseError) {
        self.shards.stop_at(self.threads.syncer.durable_epoch(), error);
        self.commit(&mut []);
        self.after_sync();
    }

    fn after_sync(&mut self) {
        self.settings_are_current();
        self.release_held(self.released_epoch());
        self.tell_durable();
        self.answer_steps_from_disk();
    }
}
