//! Replies that cannot leave with their turn ([`turn`](super::turn)): they wait for the committer and, with `always`,
//! for the syncer; and the replies that speak of writes which were rolled back.

use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Response};
use crate::config::Durability;
use crate::executor::syncer::SyncReport;
use crate::protocol::{Reply, Span, Version};
use crate::storage::database::DatabaseError;
use crate::storage::keyspace::SEVERAL_SHARDS;
use crate::storage::pieces::RepliesBegun;
use crate::storage::shard::{RolledBack, Shard};

/// The epochs up to which the shards' commits (and syncs, if replies wait for them) have come: by shard index.
pub(super) struct Released {
    by_shard: Vec<u64>,
    lowest: u64,
}

impl Released {
    /// Whether what was bound to `epoch` of a shard (its index, or [`SEVERAL_SHARDS`]) may leave.
    pub(super) fn includes(&self, shard: u16, epoch: u64) -> bool {
        let released = match shard {
            SEVERAL_SHARDS => self.lowest,
            shard_index => self.by_shard[usize::from(shard_index)],
        };
        epoch <= released
    }

    pub(super) fn includes_response(&self, response: &Response) -> bool {
        self.includes(response.shard, response.commit_epoch)
    }

    /// Whether all responses of a batch may leave.
    pub(super) fn includes_all(&self, batch: &Batch) -> bool {
        self.lowest == u64::MAX || batch.responses.iter().all(|response| self.includes_response(response))
    }
}

/// Whether a response was bound to the commits of the shard at `shard_index` from `from_epoch` on.
fn bound_to(response: &Response, shard_index: usize, from_epoch: u64) -> bool {
    response.commit_epoch >= from_epoch.max(1)
        && (response.shard == SEVERAL_SHARDS || usize::from(response.shard) == shard_index)
}

/// Replaces the replies that speak of writes which were rolled back. Where a part of a command's writes may stand, on
/// another shard or by an earlier commit of the turn, neither OK nor an error would be true: an empty reply makes the
/// network executor close the connection.
fn answer_rolled_back(batch: &mut Batch, shard_index: usize, rolled_back: &RolledBack, begun: &mut RepliesBegun) {
    for response in &mut batch.responses {
        if bound_to(response, shard_index, rolled_back.from_epoch) {
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
    /// Answers the commands that wait for writes of the shard at `shard_index` which were rolled back, if any were.
    pub(super) fn answer_rolled_back(&mut self, shard_index: usize, done: &mut [Box<Batch>]) {
        if let Some(rolled_back) = self.shards.list_mut()[shard_index].take_rolled_back() {
            self.outbox.forget(shard_index, rolled_back.from_epoch);
            for batch in done.iter_mut().chain(self.held.iter_mut()) {
                answer_rolled_back(batch, shard_index, &rolled_back, &mut self.shards.replies_begun);
            }
        }
    }

    /// The epochs whose replies may leave.
    pub(super) fn released_epochs(&self) -> Released {
        let waits_for_disk = self.settings.current.durability == Durability::Always;
        let of_shard = |(shard_index, shard): (usize, &Shard)| {
            let durable_epoch = waits_for_disk.then(|| self.threads.syncer.durable_epoch(shard_index));
            shard.released_epoch(durable_epoch)
        };
        let by_shard: Vec<u64> = self.shards.list().iter().enumerate().map(of_shard).collect();
        let lowest = by_shard.iter().copied().min().unwrap_or(u64::MAX);
        Released { by_shard, lowest }
    }

    /// Lets go of what the commits and syncs have caught up with: what commands did, and held batches.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() && self.outbox.is_empty() {
            return;
        }
        let released = self.released_epochs();
        self.outbox.give_out(|shard, epoch| released.includes(shard, epoch));
        for batch in std::mem::take(&mut self.held) {
            self.send_back_or_hold(batch, &released);
        }
    }

    /// The committer has written what it got, or failed to: replies leave, and what was staged meanwhile is committed.
    pub(super) fn on_commit(&mut self) {
        if self.long_script.is_open {
            // No batch is with the committer: the script's turn began without one, and gives it none before its end.
            return;
        }
        self.take_up_commits();
        self.commit_and_release(Vec::new());
    }

    /// Takes in what became of the writes that the committer got.
    pub(super) fn take_up_commits(&mut self) {
        if !self.shards.list().iter().any(Shard::is_committing) {
            return;
        }
        let mut any = false;
        while let Some((shard_index, written)) = self.threads.committer.committer.take_done() {
            // What failed shows in the shard's state and in what it has rolled back.
            let _ = self.shards.list_mut()[shard_index].finish_commit(written);
            // Now, because a turn that begins after this sees nothing of what was rolled back.
            self.answer_rolled_back(shard_index, &mut []);
            any = true;
        }
        if any && self.sweep_waits {
            self.sweep();
        }
    }

    /// A sync ended: replies leave, or the shard stops.
    pub(super) fn on_sync(&mut self, report: SyncReport) {
        if self.long_script.is_open && report.result.is_err() {
            // The report's shard may stop only when no script is half done there.
            self.long_script.reports.push(report);
            return;
        }
        self.take_report(&report);
    }

    /// Tells the shards how many of their commits are on disk, if acknowledgements wait for that.
    pub(super) fn tell_durable_commits(&mut self) {
        let shards = 0..self.shards.list().len();
        let is_always = self.settings.current.durability == Durability::Always && shards.len() > 1;
        let durable_commits = is_always.then(|| shards.map(|index| self.threads.syncer.durable_commits(index)));
        self.shards.set_durable_commits(durable_commits);
    }

    /// Deals with what the syncer has reported while a script was open.
    pub(super) fn take_up_reports(&mut self) {
        for report in std::mem::take(&mut self.long_script.reports) {
            self.take_report(&report);
        }
    }

    fn take_report(&mut self, report: &SyncReport) {
        if let Err(error) = &report.result {
            let durable_epoch = self.threads.syncer.durable_epoch(report.shard_index);
            self.outbox.forget(report.shard_index, durable_epoch + 1);
            // Whether these writes are on disk is unknown, and they may be there after a restart: neither OK nor an
            // error would be true. An empty reply makes the network executor close the connection.
            for batch in &mut self.held {
                for response in &mut batch.responses {
                    if bound_to(response, report.shard_index, durable_epoch + 1) {
                        response.reply.len = 0;
                        response.commit_epoch = 0;
                        let begun = &mut self.shards.replies_begun;
                        begun.take(std::mem::take(&mut response.more));
                    }
                }
            }
            let shard = &mut self.shards.list_mut()[report.shard_index];
            shard.stop_at(durable_epoch, &DatabaseError::Failed(error.to_string()));
            // The replies that waited for what this rolls back are among those that were emptied.
            shard.take_rolled_back();
        }
        self.settings_are_current();
        match self.shards.is_linked() && !self.long_script.is_open {
            // A linked commit waits for the sync of the commits before it.
            true => self.commit_and_release(Vec::new()),
            false => self.release_held(),
        }
        self.tell_durable();
    }
}
