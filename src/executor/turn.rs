//! A turn: what is queued is run, up to `batch-size` requests; what that staged is committed once; and each batch whose
//! replies may leave goes back to its sender. This is the common way, from the queue to the sender.
//!
//! Aside of it: scripts that need a turn of their own ([`open_turn`](super::open_turn)), and replies that wait for the
//! committer or the syncer ([`release`](super::release)).

use super::open_turn::{OpenTurn, run_open_turn};
use super::release::Released;
use super::request::{Paused, Ran};
use super::storage_executor::{StorageExecutor, reactor_turn};
use crate::channel::message::{Batch, REPLY_BYTES_FULL};
use crate::config::Durability;
use crate::faults::{self, Bug};
use crate::storage::database::BatchWriter;
use crate::storage::shard::{Shard, ShardState};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Batches that are to leave at the end of the turn, or that wait.
// Boxes, since a batch travels in its allocation.
#[allow(clippy::vec_box)]
pub(super) type Batches = Vec<Box<Batch>>;

/// A turn that runs what is queued, and how far it has come.
struct Turn {
    began: Instant,
    /// When the last request had ended.
    now: Instant,
    /// Batches with responses, which may leave when the turn is committed.
    done: Batches,
    requests_run: usize,
    /// Staged bytes of all shards at which the turn ends.
    staged_bytes_max: usize,
    has_staged_much: bool,
    /// Whether nothing of earlier turns was left to be committed when it began.
    began_clean: bool,
}

/// How long the executor may run turn after turn before it lets its reactor look at sockets, timers and wakes.
pub(super) const BUSY_SPAN_MAX: Duration = Duration::from_micros(500);

/// How often the executor looks whether the senders whose batches are set aside have taken their replies in: about what
/// it takes to copy a few full batches.
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

/// Waits for the next batch; `None` when it is time to look at the batches that are set aside.
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
        assert!(!self.long_script.is_open, "a turn begins when the last one has ended");
        let now_ms = crate::clock::unix_ms();
        self.epoch += 1;
        self.interests.begin_turn(&mut self.shards);
        self.shards.begin_turn(self.epoch, now_ms);
        self.tell_durable_commits();
        self.shards.track_key_fates(!self.effects.classes.is_empty());
        now_ms
    }

    /// Runs what is queued: one turn of at most `batch-size` requests. Returns what is left open if a script wants to
    /// pause.
    pub(super) fn run_turn(&mut self) -> Option<OpenTurn> {
        let mut turn = self.begin_turn_of_requests();
        while turn.requests_run < self.settings.current.requests_at_once()
            && !turn.has_staged_much
            && let Some((mut batch, was_parked)) = self.next_to_run(&turn)
        {
            if let Some(script) = self.run_batch(&mut turn, &mut batch, was_parked) {
                assert!(
                    turn.done.is_empty() && self.woken.is_empty(),
                    "no answer waits for the end of a turn that stays open"
                );
                self.long_script.is_open = true;
                return Some(OpenTurn {
                    script,
                    batch,
                    began: turn.began,
                    was_parked,
                });
            }
            if !self.take_answered(batch, &mut turn.done) {
                break;
            }
        }
        self.end_turn(turn.done, turn.requests_run, turn.began);
        None
    }

    fn begin_turn_of_requests(&mut self) -> Turn {
        faults::hold_storage(self.number());
        self.settings_are_current();
        self.take_up_commits();
        let began = Instant::now();
        self.begin_turn();
        let shards = self.shards.list();
        let is_clean = |shard: &Shard| !shard.has_staged() && !shard.is_committing();
        Turn {
            began,
            now: began,
            done: Vec::new(),
            requests_run: 0,
            // What a stalled shard keeps from earlier turns is not of this one.
            staged_bytes_max: self.shards.staged_bytes() + STAGED_BYTES_PER_TURN_MAX,
            has_staged_much: false,
            began_clean: shards.iter().all(is_clean),
        }
    }

    /// The next batch: at the beginning of a turn a script that is known to be long and has waited (`true`), if there
    /// is one, or else the next of the queue.
    fn next_to_run(&mut self, turn: &Turn) -> Option<(Box<Batch>, bool)> {
        while turn.requests_run == 0
            && let Some(long) = self.parked.long.pop_front()
        {
            if !self.is_held(&long, &long.requests[0]) {
                return Some((long, true));
            }
            self.stand_in_line(long);
        }
        self.queue.pop().map(|batch| (batch, false))
    }

    /// Runs the requests of a batch until all are run, their replies are many, or the turn is to end. Returns a script
    /// that pauses and for which the turn stays open.
    fn run_batch(&mut self, turn: &mut Turn, batch: &mut Batch, was_parked: bool) -> Option<Paused> {
        self.long_script.is_next |= was_parked;
        if batch.run == 0 {
            batch.received_at = turn.began;
            let queued = turn.began.saturating_duration_since(batch.sent_at);
            self.metrics.queue_ns.record(queued.as_nanos() as u64);
        }
        let run_before = batch.run;
        while batch.run < batch.requests.len() && batch.replies.len() < REPLY_BYTES_FULL && !turn.has_staged_much {
            let request = batch.requests[batch.run];
            if !was_parked && self.must_wait(batch, &request) {
                self.park(batch, &request);
                batch.run += 1;
                continue;
            }
            match self.run_request(batch, &request, turn.now, None) {
                Ran::Ended(ended) => turn.now = ended,
                Ran::Paused(script) if self.stays_open(turn, batch.run == run_before) => return Some(script),
                Ran::Paused(script) => {
                    self.drop_long_script(script, batch);
                    break;
                }
            }
            batch.run += 1;
            if was_parked {
                self.run_behind(request.caller.client_id, &mut turn.done);
            }
            self.resume(&mut turn.done);
            turn.has_staged_much = request.command.may_write() && self.shards.staged_bytes() >= turn.staged_bytes_max;
            if std::mem::take(&mut self.long_script.is_next) {
                // The script was not so long this time; the turn is its own nevertheless.
                break;
            }
        }
        turn.requests_run += batch.run - run_before;
        None
    }

    /// Whether a turn stays open for a script that pauses: one that is known to be long, or happens to have the turn
    /// for itself so far.
    fn stays_open(&mut self, turn: &Turn, is_first_of_batch: bool) -> bool {
        turn.done.is_empty()
            && (std::mem::take(&mut self.long_script.is_next)
                || (turn.began_clean && turn.requests_run == 0 && is_first_of_batch))
    }

    /// Takes a batch, or the responses that it has so far, into `done`. Returns whether all of its requests were run:
    /// the others are queued again, before everything else.
    pub(super) fn take_answered(&mut self, mut batch: Box<Batch>, done: &mut Batches) -> bool {
        assert!(
            batch.responses.len() <= batch.run && batch.run <= batch.requests.len(),
            "a request that was run has one response here, or waits in a batch of its own"
        );
        let is_whole = batch.run == batch.requests.len();
        if is_whole {
            self.metrics.batches.add(1);
            done.push(batch);
        } else {
            done.push(batch.take_responses());
            self.queue.push_back_to_front(batch);
        }
        is_whole
    }

    /// Commits what a turn has staged and sends back the replies that may leave then.
    pub(super) fn end_turn(&mut self, mut done: Batches, requests_run: usize, began: Instant) {
        self.metrics.requests.add(requests_run as u64);
        done.append(&mut self.woken);
        self.commit_and_release(done);
        self.metrics.turns.add(1);
        self.metrics.turn_ns.record(began.elapsed().as_nanos() as u64);
    }

    /// Commits what is staged, and lets go of what waits for that: replies, and the locks of decided transactions.
    /// Requests that wait for those locks are run at once.
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
            self.send_back_or_hold(batch, &released);
        }
    }

    /// Commits what each shard staged in this turn (or in earlier ones, if it was stalled or its batch is with the
    /// committer).
    pub(super) fn commit(&mut self, done: &mut [Box<Batch>]) {
        assert!(
            !self.long_script.is_open,
            "the writes of an open script are not committed"
        );
        if !done.is_empty() {
            faults::may_panic(Bug::Turn);
        }
        if self.shards.is_linked() {
            self.tell_durable_commits();
            self.shards.commit_linked();
        }
        let may_commit = !self.shards.is_linked();
        let mut any = false;
        for shard_index in 0..self.shards.list().len() {
            let shard = &mut self.shards.list_mut()[shard_index];
            if shard.is_committing() || !may_commit {
                // What is staged rides the next batch.
            } else if shard.staged_len() >= self.threads.committer.writes_min && *shard.state() == ShardState::Healthy {
                let database = Arc::clone(shard.database());
                if let Some(writes) = shard.begin_commit() {
                    self.threads.committer.committer.submit(shard_index, database, writes);
                }
            } else {
                // Flushes and scans commit by themselves, so the shard's epoch tells what was committed, and what was
                // rolled back tells what failed; after a stall what is staged waits for the next call.
                let _ = shard.commit();
            }
            self.answer_rolled_back(shard_index, done);
            let settled_epoch = self.shards.list()[shard_index].settled_epoch();
            let commits = self.shards.list()[shard_index].commits();
            let (published_epoch, published_commits) = self.published[shard_index];
            if (settled_epoch, commits) != (published_epoch, published_commits) {
                assert!(
                    settled_epoch >= published_epoch
                        || matches!(self.shards.list()[shard_index].state(), ShardState::Unavailable(_)),
                    "the epochs that a shard has committed only grow"
                );
                any = true;
                self.published[shard_index] = (settled_epoch, commits);
                // At once, and not with the other figures: what a reply says is what INFO keyspace shows.
                self.publish_counts(shard_index);
                self.threads.syncer.committed(shard_index, settled_epoch, commits);
            }
            if self.shards.list_mut()[shard_index].take_committed_markers() {
                self.threads.reclaimer.look_for_markers(shard_index);
            }
        }
        if any && self.settings.current.durability == Durability::Always {
            self.threads.syncer.sync_soon();
        }
    }

    /// Sends back a batch, or those of its responses that may leave; the others are held until a commit or a sync lets
    /// them go.
    pub(super) fn send_back_or_hold(&mut self, mut batch: Box<Batch>, released: &Released) {
        if released.includes_all(&batch) {
            return batch.send_back();
        }
        if let Some(ready) = batch.split_off(|response| released.includes_response(response)) {
            ready.send_back();
        }
        assert!(!batch.responses.is_empty(), "what is held has something to wait for");
        self.held.push_back(batch);
    }
}
