//! A turn: what is queued is run, up to `batch-size` requests; what that staged is logged once; and each batch whose
//! replies may leave goes back to its sender. This is the common way, from the queue to the sender.
//!
//! Aside of it: scripts that need a turn of their own ([`open_turn`](super::open_turn)), commands that miss something
//! in memory ([`missed_requests`](super::missed_requests)), and replies that wait for the syncer
//! ([`release`](super::release)).

use super::housekeeping::RECORDS_WORKED_OFF_PER_TURN;
use super::missed_requests::Attempt;
use super::open_turn::{OpenTurn, run_open_turn};
use super::request::{Paused, Ran};
use super::storage_executor::{StorageExecutor, reactor_turn};
use crate::channel::message::{Batch, REPLY_BYTES_FULL, Response};
use crate::command::Place;
use crate::config::Durability;
use crate::faults::{self, Bug};
use crate::number::parse_integer;
use crate::protocol::Arguments;
use crate::storage::look_ahead::{Aim, LOOKED_AHEAD_MAX};
use crate::storage::shards::Logged;
use std::cell::RefCell;
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
    /// Batches with responses, which may leave when the turn is logged.
    done: Batches,
    requests_run: usize,
    /// Staged bytes of all shards at which the turn ends.
    staged_bytes_max: usize,
    has_staged_much: bool,
    /// Whether nothing of earlier turns was left to be logged when it began.
    began_clean: bool,
}

/// How long the executor may run turn after turn before it lets its reactor look at sockets, timers and wakes.
pub(super) const BUSY_SPAN_MAX: Duration = Duration::from_micros(500);

/// How often the executor looks whether the senders whose batches are set aside have taken their replies in: about what
/// it takes to copy a few full batches.
const SET_ASIDE_PAUSE: Duration = Duration::from_millis(1);

/// Bytes of writes after which a turn ends, and what it has staged is logged: bounds the memory of a frame.
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
            executor.borrow_mut().before_long_script();
            let mut open = executor.borrow_mut().run_turn();
            while let Some(turn) = open {
                reactor_turn().await;
                let began = Instant::now();
                open = run_open_turn(&mut executor.borrow_mut(), turn, requests);
                executor.borrow().metrics.longest_turn.record_since(began);
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

/// What of a key's collection is used at this place.
fn aim_at(place: Place, arguments: Arguments<'_>) -> Aim<'_> {
    let argument = |at: usize| (at < arguments.len()).then(|| arguments.get(at));
    let number = |at: usize| usize::try_from(argument(at).and_then(parse_integer)?).ok();
    let aim = match place {
        Place::Unknown => None,
        Place::First => Some(Aim::First),
        Place::Last => Some(Aim::Last),
        Place::Member(at) => argument(at).map(Aim::Member),
        Place::Index(at) => number(at).map(Aim::Rank),
        Place::Byte(at) => number(at).map(Aim::Byte),
        Place::Bit(at) => number(at).map(|bit| Aim::Byte(bit / 8)),
    };
    aim.unwrap_or(Aim::Unknown)
}

impl StorageExecutor {
    /// Queues what has arrived (bounded by the senders' credits); returns whether there is anything to run.
    pub(super) fn take_up(&mut self, requests: &flume::Receiver<Box<Batch>>) -> bool {
        while let Ok(batch) = requests.try_recv() {
            self.queue.push(batch);
        }
        self.queue.take_back();
        !self.queue.is_empty() || !self.parked.long.is_empty() || self.goes_on_by_itself()
    }

    /// Begins a turn; returns its one reading of the clock.
    pub(super) fn begin_turn(&mut self) -> u64 {
        assert!(!self.long_script.is_open, "a turn begins when the last one has ended");
        let now_ms = crate::clock::unix_ms();
        self.epoch += 1;
        self.interests.begin_turn(&mut self.shards);
        self.shards.begin_turn(self.epoch, now_ms);
        let records_owed = self.log_care.records_owed;
        let worked_off = self.follow_watermark(records_owed.max(RECORDS_WORKED_OFF_PER_TURN));
        self.log_care.records_owed = match self.log_care.has_work {
            true => records_owed.saturating_sub(worked_off),
            false => 0,
        };
        self.shards.track_key_fates(!self.effects.classes.is_empty());
        now_ms
    }

    /// Runs what is queued: one turn of at most `batch-size` requests. Returns what is left open if a script wants to
    /// pause.
    pub(super) fn run_turn(&mut self) -> Option<OpenTurn> {
        let mut turn = self.begin_turn_of_requests();
        self.load_missed(&mut turn.done);
        self.run_steps(&mut turn.done);
        turn.began_clean &= !self.shards.has_staged();
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
                self.metrics.longest_turn.record_since(turn.began);
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
        self.metrics.longest_turn.record_since(turn.began);
        None
    }

    fn begin_turn_of_requests(&mut self) -> Turn {
        faults::hold_storage(self.number());
        self.settings_are_current();
        let began = Instant::now();
        self.begin_turn();
        Turn {
            began,
            now: began,
            done: Vec::new(),
            requests_run: 0,
            // What a stalled shard keeps from earlier turns is not of this one.
            staged_bytes_max: self.shards.staged_bytes() + STAGED_BYTES_PER_TURN_MAX,
            has_staged_much: false,
            began_clean: !self.shards.has_staged(),
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
        let mut looked_ahead_to = batch.run;
        while batch.run < batch.requests.len() && batch.replies.len() < REPLY_BYTES_FULL && !turn.has_staged_much {
            if batch.run >= looked_ahead_to {
                looked_ahead_to = self.look_ahead(batch);
            }
            let request = batch.requests[batch.run];
            if !was_parked && self.must_wait(batch, &request) {
                self.park(batch, &request);
                batch.run += 1;
                continue;
            }
            match self.run_request(batch, &request, turn.now, None) {
                Ran::Ended(ended) => turn.now = ended,
                Ran::Missed(missed) => {
                    turn.now = missed.ended;
                    let alone = batch.take_request(&request);
                    self.set_aside(alone, Attempt::default(), &missed);
                    batch.run += 1;
                    continue;
                }
                Ran::InSteps(begun) => {
                    turn.now = begun.ended;
                    let alone = batch.take_request(&request);
                    self.take_steps(alone, begun);
                    batch.run += 1;
                    continue;
                }
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

    /// Looks ahead at the keys of the next requests. Returns before which of them it has to do so again.
    fn look_ahead(&mut self, batch: &Batch) -> usize {
        let end = batch.requests.len().min(batch.run + LOOKED_AHEAD_MAX);
        let requests = &batch.requests[batch.run..end];
        // Alone, a key is found as fast without.
        if requests.len() > 1 {
            self.shards.look_ahead(requests.iter().filter_map(|request| {
                let keys = request.command.keys;
                let arguments = batch.arguments(request);
                let aim = aim_at(keys.place, arguments);
                (keys.first > 0 && keys.first < arguments.len())
                    .then(|| (request.caller.database, arguments.get(keys.first), aim))
            }));
        }
        end
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

    /// Logs what a turn has staged and sends back the replies that may leave then.
    pub(super) fn end_turn(&mut self, mut done: Batches, requests_run: usize, began: Instant) {
        self.metrics.requests.add(requests_run as u64);
        // Those who have waited are answered first, as in Redis: each answer before theirs is a system call. Not where
        // some have begun to wait in this turn: that they do must be heard before their answer.
        let place = match self.interests.waiters.take_has_new() {
            true => done.len(),
            false => 0,
        };
        done.splice(place..place, self.woken.drain(..));
        self.commit_and_release(done);
        self.metrics.turns.add(1);
        self.metrics.turn_ns.record(began.elapsed().as_nanos() as u64);
    }

    /// Logs what is staged, and lets go of what waits for that: replies, and the locks of decided transactions.
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
        let released = self.released_epoch();
        self.release_held(released);
        for batch in done {
            self.send_back_or_hold(batch, released);
        }
    }

    /// Logs what the shards staged in this turn, or in earlier ones if the log was full.
    pub(super) fn commit(&mut self, done: &mut [Box<Batch>]) {
        assert!(!self.long_script.is_open, "the writes of an open script are not logged");
        if !done.is_empty() {
            faults::may_panic(Bug::Turn);
        }
        match self.shards.log_turn(self.epoch) {
            Logged::Frame { before } => {
                // Twice as many as were written, so that what waits grows shorter under any load.
                self.log_care.records_owed += 2 * self.shards.logged_records();
                // At once, and not with the other figures: what a reply says is what INFO keyspace shows.
                for shard_index in 0..self.shards.list().len() {
                    if self.shards.list()[shard_index].newest_epoch() > before {
                        self.publish_counts(shard_index);
                    }
                }
                if self.settings.current.durability == Durability::Always {
                    self.threads.syncer.sync_soon();
                }
            }
            Logged::TakenBack(taken_back) => self.answer_taken_back(&taken_back, done),
            Logged::Nothing | Logged::Stalled => {}
        }
    }

    /// Sends back a batch, or those of its responses that may leave; the others are held until a frame or a sync lets
    /// them go.
    pub(super) fn send_back_or_hold(&mut self, mut batch: Box<Batch>, released: u64) {
        let may_leave = |response: &Response| response.commit_epoch <= released;
        if batch.responses.iter().all(may_leave) {
            return batch.send_back();
        }
        if let Some(ready) = batch.split_off(may_leave) {
            ready.send_back();
        }
        assert!(!batch.responses.is_empty(), "what is held has something to wait for");
        self.held.push_back(batch);
    }
}
