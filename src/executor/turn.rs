//! A turn: what is queued is run, up to `batch-size` requests, and what it staged is committed once. A long script has
//! turns of its own and is left open between them.

use super::blocked_commands::waits_notice;
use super::request::{NobodyWaits, Paused, Ran};
use super::storage_executor::{StorageExecutor, reactor_turn};
use crate::channel::message::{Batch, REPLY_BYTES_FULL, Request};
use crate::command::{INTERNAL, Runs, Step};
use crate::error::CommandError;
use crate::faults;
use crate::storage::shard::Shard;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// A turn that was left in the middle of a script, which is the last command it runs.
pub(super) struct OpenTurn {
    pub(super) script: Paused,
    /// The script's request is the next that it runs.
    pub(super) batch: Box<Batch>,
    pub(super) began: Instant,
    /// It had waited for a transaction, and its client's next commands wait behind it.
    pub(super) was_parked: bool,
}

/// How long the executor may run turn after turn before it lets its reactor look at sockets, timers and wakes.
pub(super) const BUSY_SPAN_MAX: Duration = Duration::from_micros(500);

/// How often the executor looks whether those whose batches are set aside have taken their replies in: about what it
/// takes to copy a few full boxes.
const SET_ASIDE_PAUSE: Duration = Duration::from_millis(1);

/// Bytes of writes after which a turn ends, and what it has staged is committed: bounds the memory of a batch of
/// writes, and the redo record of what several shards have to commit as one.
const STAGED_BYTES_PER_TURN_MAX: usize = 64 << 20;

/// Takes batches from the channel and runs them, turn by turn, until every sender is gone.
pub(super) async fn serve(executor: &RefCell<StorageExecutor>, requests: &flume::Receiver<Box<Batch>>) {
    loop {
        let has_set_aside = executor.borrow().queue.has_set_aside();
        match next_batch(requests, has_set_aside).await {
            Ok(Some(batch)) => executor.borrow_mut().queue.push(batch),
            Ok(None) => {}
            // Nobody sends any more: what was handed over is run, whoever takes the replies.
            Err(_) if has_set_aside => executor.borrow_mut().queue.set_nothing_aside(),
            Err(_) => return,
        }
        let mut busy_since = Instant::now();
        while executor.borrow_mut().take_up(requests) {
            while executor.borrow_mut().must_wait_for_commits() {
                reactor_turn().await;
            }
            let mut open = executor.borrow_mut().run_turn();
            while let Some(turn) = open {
                reactor_turn().await;
                open = run_open_turn(&mut executor.borrow_mut(), turn, requests);
                busy_since = Instant::now();
            }
            if busy_since.elapsed() >= BUSY_SPAN_MAX {
                reactor_turn().await;
                busy_since = Instant::now();
            }
        }
    }
}

/// Waits for the next batch; `None` when it is time to look at those that are set aside.
async fn next_batch(
    requests: &flume::Receiver<Box<Batch>>,
    has_set_aside: bool,
) -> Result<Option<Box<Batch>>, flume::RecvError> {
    let arrives = async { requests.recv_async().await.map(Some) };
    if !has_set_aside {
        return arrives.await;
    }
    let pause = async {
        glommio::timer::sleep(SET_ASIDE_PAUSE).await;
        Ok(None)
    };
    futures_lite::future::or(arrives, pause).await
}

/// One step of a turn that a script has left open.
pub(super) fn run_open_turn(
    executor: &mut StorageExecutor,
    mut turn: OpenTurn,
    requests: &flume::Receiver<Box<Batch>>,
) -> Option<OpenTurn> {
    if requests.is_disconnected() || !executor.reports_waiting.is_empty() {
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
    /// Queues what has arrived (bounded by the senders' credits); returns whether there is anything to run.
    pub(super) fn take_up(&mut self, requests: &flume::Receiver<Box<Batch>>) -> bool {
        while let Ok(batch) = requests.try_recv() {
            self.queue.push(batch);
        }
        self.queue.take_back();
        !self.queue.is_empty() || !self.parked.long.is_empty()
    }

    /// Begins a turn; returns its one reading of the clock.
    pub(super) fn begin_turn(&mut self) -> u64 {
        let now_ms = crate::clock::unix_ms();
        self.turn += 1;
        self.interests.begin_turn(&mut self.shards);
        self.shards.begin_turn(self.turn, now_ms);
        self.shards.watch_keys(!self.effects.classes.is_empty());
        now_ms
    }

    /// Runs what is queued: one turn of at most `batch-size` requests. Returns what is left open if a script wants to
    /// pause.
    pub(super) fn run_turn(&mut self) -> Option<OpenTurn> {
        faults::hold_storage(self.number());
        self.settings_are_current();
        self.take_up_commits();
        let began = Instant::now();
        self.begin_turn();
        // What a stalled shard keeps from earlier turns is not of this one.
        let staged_bytes_max = self.shards.staged_bytes() + STAGED_BYTES_PER_TURN_MAX;
        let shards = self.shards.list();
        let began_clean = !shards.iter().any(|shard| shard.has_staged() || shard.is_committing());
        let mut done: Vec<Box<Batch>> = Vec::new();
        let mut count = 0;
        let mut now = began;
        let mut has_staged_much = false;
        while count < self.current.requests_at_once() && !has_staged_much {
            let long = match count {
                0 => self.parked.long.pop_front(),
                _ => None,
            };
            let was_parked = long.is_some();
            let Some(mut batch) = long.or_else(|| self.queue.pop()) else {
                break;
            };
            if was_parked && self.is_held(&batch, &batch.requests[0]) {
                self.stand_in_line(batch);
                continue;
            }
            self.script_is_long |= was_parked;
            if batch.run == 0 {
                batch.received_at = began;
                self.metrics
                    .queue_ns
                    .record(began.saturating_duration_since(batch.sent_at).as_nanos() as u64);
            }
            let run_before = batch.run;
            while batch.run < batch.requests.len() && batch.replies.len() < REPLY_BYTES_FULL && !has_staged_much {
                let request = batch.requests[batch.run];
                if !was_parked && self.must_wait(&batch, &request) {
                    self.park(&mut batch, &request);
                    batch.run += 1;
                    continue;
                }
                match self.run_request(&mut batch, &request, now, None) {
                    Ran::Ended(ended) => now = ended,
                    // One that is known to be long, or happens to have the turn for itself.
                    Ran::Paused(script)
                        if done.is_empty()
                            && (std::mem::take(&mut self.script_is_long)
                                || (began_clean && count == 0 && batch.run == run_before)) =>
                    {
                        self.script_is_open = true;
                        return Some(OpenTurn {
                            script,
                            batch,
                            began,
                            was_parked,
                        });
                    }
                    Ran::Paused(script) => {
                        self.drop_long_script(script, &mut batch);
                        break;
                    }
                }
                batch.run += 1;
                if was_parked {
                    self.run_behind(request.caller.client_id, &mut done);
                }
                self.resume(&mut done);
                has_staged_much = request.command.may_write() && self.shards.staged_bytes() >= staged_bytes_max;
                if std::mem::take(&mut self.script_is_long) {
                    // It was not so long this time; the turn is its own nevertheless.
                    break;
                }
            }
            count += batch.run - run_before;
            if batch.run < batch.requests.len() {
                done.push(batch.take_responses());
                self.queue.push_back_to_front(batch);
                break;
            }
            self.metrics.batches.add(1);
            done.push(batch);
        }
        self.end_turn(done, count, began);
        None
    }

    /// Commits what a turn has staged and lets go of its replies.
    // Batches, because they travel on.
    #[allow(clippy::vec_box)]
    pub(super) fn end_turn(&mut self, mut done: Vec<Box<Batch>>, count: usize, began: Instant) {
        self.metrics.requests.add(count as u64);
        done.append(&mut self.woken);
        self.commit_and_release(done);
        self.metrics.turns.add(1);
        self.metrics.turn_ns.record(began.elapsed().as_nanos() as u64);
    }

    /// A script that has run for a while turns out to be long. What the turn did before is committed and answered
    /// without waiting for it: nothing of it ever was, and the next turn is its own.
    pub(super) fn drop_long_script(&mut self, script: Paused, batch: &mut Batch) {
        self.effects.forget_after(script.command.effects_mark());
        self.effects.forget_ran();
        batch.replies.truncate(script.reply_at);
        drop(script);
        self.roll_back_command();
        self.script_is_long = true;
    }

    /// Whether a script that gets a turn of its own must wait for writes that are with the committer: those are not
    /// looked after while it runs.
    pub(super) fn must_wait_for_commits(&mut self) -> bool {
        let comes = self.script_is_long || !self.parked.long.is_empty();
        if comes {
            self.take_up_commits();
            self.commit(&mut []);
        }
        comes && self.shards.list().iter().any(Shard::is_committing)
    }

    /// Runs on the script of an open turn. Returns the turn if it is still open.
    pub(super) fn go_on(&mut self, open: OpenTurn) -> Option<OpenTurn> {
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
            Ran::Ended(_) => {}
        }
        self.script_is_open = false;
        batch.run += 1;
        let mut done = Vec::new();
        if was_parked {
            self.run_behind(request.caller.client_id, &mut done);
        }
        self.resume(&mut done);
        if batch.run < batch.requests.len() {
            done.push(batch.take_responses());
            self.queue.push_back_to_front(batch);
        } else {
            self.metrics.batches.add(1);
            done.push(batch);
        }
        self.end_turn(done, 1, began);
        self.take_up_reports();
        None
    }

    /// Ends the script of an open turn, because the executor ends or its shards must stop.
    pub(super) fn stop_script(&mut self, mut open: OpenTurn) {
        open.script.command.stop();
        let still_open = self.go_on(open);
        debug_assert!(still_open.is_none(), "a script that was stopped is over");
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
            self.refuse(&mut batch, &error);
            self.metrics.requests.add(batch.requests.len() as u64);
            batch.send_back();
        }
    }

    /// Answers what was not run of a batch without running it.
    pub(super) fn refuse(&mut self, batch: &mut Batch, error: &CommandError) {
        for place in batch.run..batch.requests.len() {
            let request = batch.requests[place];
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
                true => batch.answer_with_error(place, error),
                false => batch.responses.push(waits_notice(&request)),
            }
        }
        batch.run = batch.requests.len();
    }
}
