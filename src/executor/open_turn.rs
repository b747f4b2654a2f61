//! Scripts that run for long: such a one gets a turn of its own, which is left open each time the script pauses, so
//! that the executor's reactor goes round meanwhile.

use super::blocked_commands::waiting_response;
use super::request::{NobodyWaits, Paused, Ran};
use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Request};
use crate::command::{INTERNAL, Runs, Step};
use crate::error::CommandError;
use std::time::Instant;

/// A turn that was left in the middle of a script, which is the last command it runs.
pub(super) struct OpenTurn {
    pub(super) script: Paused,
    /// The batch of the script's request, which is its next one.
    pub(super) batch: Box<Batch>,
    pub(super) began: Instant,
    /// Whether the script had waited for a transaction, so that its client's next commands wait behind it.
    pub(super) was_parked: bool,
}

/// One step of a turn that a script has left open.
pub(super) fn run_open_turn(
    executor: &mut StorageExecutor,
    mut turn: OpenTurn,
    requests: &flume::Receiver<Box<Batch>>,
) -> Option<OpenTurn> {
    if requests.is_disconnected() || executor.long_script.failure.is_some() {
        executor.stop_script(turn);
        return None;
    }
    if turn.script.command.is_busy() {
        executor.take_up(requests);
        executor.answer_busy(&mut turn);
    }
    executor.go_on(turn)
}

impl StorageExecutor {
    /// A script that has run for a while turns out to be long. What the turn did before is committed and answered
    /// without waiting for the script, which is undone and begins anew in the next turn.
    pub(super) fn drop_long_script(&mut self, script: Paused, batch: &mut Batch) {
        self.effects.forget_after(script.command.effects_mark());
        self.effects.forget_ran();
        batch.replies.truncate(script.reply_at);
        drop(script);
        self.roll_back_command();
        self.long_script.is_next = true;
    }

    /// A script that gets a turn of its own is next: what a stall holds back is logged before, if it can be.
    pub(super) fn before_long_script(&mut self) {
        if self.long_script.is_next || !self.parked.long.is_empty() {
            self.commit(&mut []);
        }
    }

    /// Runs on the script of an open turn. Returns the turn if it is still open.
    pub(super) fn go_on(&mut self, open: OpenTurn) -> Option<OpenTurn> {
        assert!(self.long_script.is_open, "only an open script goes on");
        let OpenTurn {
            script,
            mut batch,
            began,
            was_parked,
        } = open;
        let request = batch.requests[batch.run];
        match self.run_request(&mut batch, &request, began, Some(script)) {
            Ran::Paused(script) => {
                return Some(OpenTurn {
                    script,
                    batch,
                    began,
                    was_parked,
                });
            }
            Ran::Missed(_) => unreachable!("a script that goes on waits for what it reads"),
            Ran::InSteps(_) => unreachable!("a script has no steps"),
            Ran::Ended(_) => {}
        }
        self.long_script.is_open = false;
        batch.run += 1;
        let mut done = Vec::new();
        if was_parked {
            self.run_behind(request.caller.client_id, &mut done);
        }
        self.resume(&mut done);
        self.take_answered(batch, &mut done);
        self.end_turn(done, 1, began);
        self.take_up_failure();
        None
    }

    /// Ends the script of an open turn, because the executor ends or its shards must stop.
    pub(super) fn stop_script(&mut self, mut open: OpenTurn) {
        open.script.command.stop();
        let still_open = self.go_on(open);
        assert!(still_open.is_none(), "a script that was stopped is over");
    }

    /// Answers what waits behind a busy script, as Redis does; what executors send each other stays.
    pub(super) fn answer_busy(&mut self, open: &mut OpenTurn) {
        let error = self.script_seat.scripts.busy_error();
        // Transactions that would lock keys are refused as commands are.
        let is_internal = |request: &Request| {
            request.command.flags.has(INTERNAL) && request.command.runs != Runs::Step(Step::Schedule)
        };
        let behind = open.batch.run + 1;
        if behind < open.batch.requests.len() && !open.batch.requests[behind..].iter().any(is_internal) {
            let mut refused = open.batch.split_requests(behind);
            self.refuse(&mut refused, &error);
            refused.send_back();
        }
        let (mut queue, others) = std::mem::take(&mut self.queue).without_set_aside();
        self.queue = others;
        while let Some(mut batch) = queue.pop_any() {
            if batch.requests[batch.run..].iter().any(is_internal) {
                self.queue.push(batch);
                continue;
            }
            // Those that were run before are counted already.
            self.metrics.requests.add((batch.requests.len() - batch.run) as u64);
            self.refuse(&mut batch, &error);
            batch.send_back();
        }
        for mut batch in self.take_fetched() {
            self.refuse(&mut batch, &error);
            batch.send_back();
        }
    }

    /// Answers what was not run of a batch without running it.
    pub(super) fn refuse(&mut self, batch: &mut Batch, error: &CommandError) {
        for index in batch.run..batch.requests.len() {
            let request = batch.requests[index];
            if request.command.runs == Runs::Exec {
                self.interests.unwatch(&mut self.shards, request.caller.client_id);
            }
            // A command that waits elsewhere, too, may be answered there meanwhile.
            let is_claimed = match self.claim_of(batch, &request) {
                Ok(None) => true,
                Ok(Some(claim)) => claim.take(),
                Err(NobodyWaits) => false,
            };
            match is_claimed {
                true => batch.answer_with_error(index, error),
                false => batch.responses.push(waiting_response(&request)),
            }
        }
        batch.run = batch.requests.len();
    }
}
