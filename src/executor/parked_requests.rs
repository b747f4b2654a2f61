//! Requests that wait for transactions over several executors: commands in the lines for their keys, and the schedule
//! steps of the transactions themselves; and the later commands of the same clients, which wait behind these and behind
//! [`missed_requests`](super::missed_requests).

use super::decided_parts::Decided;
use super::missed_requests::Attempt;
use super::request::Ran;
use super::storage_executor::StorageExecutor;
use super::turn::Batches;
use crate::channel::message::{Batch, Request};
use crate::channel::step_answers::StepAnswer;
use crate::command::{self, Runs};
use crate::error::CommandError;
use crate::executor::locks::Admission;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId, next_transaction_id};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// The answer to a command that would write a key of a transaction that is in doubt.
const IN_DOUBT: &str = "SHARDDOWN a shard stopped in the middle of a transaction that writes this key; \
                        the restart that the shard needs finishes it";

/// Requests that transactions keep waiting, each in a batch of its own with its credit.
#[derive(Default)]
pub(super) struct Parked {
    /// Commands, by their number in the lines for their keys.
    commands: HashMap<TransactionId, Box<Batch>>,
    /// By client that has one of those, or one that waits for the disk: its later commands, which wait behind it.
    pub(super) behind: HashMap<u64, VecDeque<Box<Batch>>>,
    /// Clients whose commands wait behind one that was handed back.
    pub(super) handed_back: HashSet<u64>,
    /// Clients of which such a command is over, or one that has waited for the disk: what waits behind it may run.
    pub(super) no_longer_ahead: Vec<u64>,
    /// Scripts that have waited, in batches of their own, and turned out to be long: each gets a turn of its own.
    pub(super) long: VecDeque<Box<Batch>>,
    /// Schedule steps that wait for their locks.
    pub(super) schedules: HashMap<TransactionId, Box<Batch>>,
    /// Decided transactions whose parts here are not committed yet. Bounded by the transactions that are under way.
    pub(super) decided: Vec<Decided>,
    /// Answers to steps whose writes must be on disk first.
    pub(super) for_disk: Batches,
    /// Schedule steps of transactions that were given up.
    given_up: Batches,
    /// Transactions and commands whose locks were granted: the former are to be answered, the latter to be run.
    pub(super) granted: VecDeque<TransactionId>,
    /// Keys that have something for blocked commands, which wait for the locks of the keys.
    pub(super) ready_later: Vec<DatabaseKey>,
    /// Locks were released since those keys were looked at.
    ready_later_is_due: bool,
}

impl Parked {
    /// Whether locks were granted, or are free for blocked commands.
    #[inline]
    pub(super) fn can_resume(&self) -> bool {
        !(self.granted.is_empty() && self.given_up.is_empty() && self.no_longer_ahead.is_empty())
            || self.ready_later_is_due
    }

    /// How many decided transactions have parts that are not committed.
    #[inline]
    pub(super) fn decided_len(&self) -> usize {
        self.decided.len()
    }
}

impl StorageExecutor {
    /// Whether a request must wait for a transaction, or for an earlier command of its client that does, or that waits
    /// for the disk.
    #[inline]
    pub(super) fn must_wait(&self, batch: &Batch, request: &Request) -> bool {
        // Commands that wait for locks are among these, too, but for scripts that turned out to be long.
        let is_free = self.interests.locks.is_empty() && self.parked.behind.is_empty();
        if is_free || matches!(request.command.runs, Runs::Step(_)) {
            return false;
        }
        self.is_behind_own(request) || self.is_held(batch, request)
    }

    fn is_behind_own(&self, request: &Request) -> bool {
        self.parked.behind.contains_key(&request.caller.client_id)
    }

    /// Whether a transaction holds something that a request needs.
    pub(super) fn is_held(&self, batch: &Batch, request: &Request) -> bool {
        if self.interests.locks.is_empty() {
            return false;
        }
        let (scope, mode) = needs_of(batch, request);
        self.interests.locks.holds_some(&scope, mode)
    }

    /// Lets a request wait.
    pub(super) fn park(&mut self, batch: &mut Batch, request: &Request) {
        self.metrics.parked.add(1);
        let alone = batch.take_request(request);
        self.fetch_ahead(&alone);
        match self.parked.behind.get_mut(&request.caller.client_id) {
            Some(line) => line.push_back(alone),
            None => self.stand_in_line(alone),
        }
    }

    /// Enters a command in the lines for its keys. It gets the newest number of all, so it waits, and no transaction
    /// that is there waits for it.
    pub(super) fn stand_in_line(&mut self, alone: Box<Batch>) {
        let request = alone.requests[0];
        let (scope, mode) = needs_of(&alone, &request);
        let id = next_transaction_id();
        let admission = self.interests.locks.enter(id, scope, mode);
        assert_eq!(admission, Admission::Waits, "only what is held stands in line");
        if request.caller.client_id != 0 {
            self.parked.behind.entry(request.caller.client_id).or_default();
        }
        self.parked.commands.insert(id, alone);
    }

    /// Answers the transactions that have been granted their locks, and runs what need not wait any more.
    #[inline]
    pub(super) fn resume(&mut self, done: &mut Batches) {
        if self.parked.can_resume() {
            self.resume_granted(done);
        }
        if !self.missed.fetched.is_empty() {
            self.run_fetched(done);
        }
    }

    fn resume_granted(&mut self, done: &mut Batches) {
        for mut batch in std::mem::take(&mut self.parked.given_up) {
            let request = batch.requests[0];
            batch.answer(&request, StepAnswer::TooLate.fixed());
            done.push(batch);
        }
        while let Some(client) = self.parked.no_longer_ahead.pop() {
            self.run_behind(client, done);
        }
        while let Some(id) = self.parked.granted.pop_front() {
            if let Some(schedule) = self.parked.schedules.remove(&id) {
                self.run_alone(schedule, Attempt::last(), done);
            }
            if let Some(command) = self.parked.commands.remove(&id) {
                let client = command.requests[0].caller.client_id;
                self.interests.locks.set_running(Some(id));
                let is_over = self.run_alone(command, Attempt::last(), done);
                self.interests.locks.set_running(None);
                if self.are_of_steps(id) {
                    continue;
                }
                self.release_locks(id);
                if is_over {
                    self.run_behind(client, done);
                }
            }
        }
        if std::mem::take(&mut self.parked.ready_later_is_due) {
            self.interests.ready.extend(self.parked.ready_later.drain(..));
            self.serve_waiters(Instant::now());
        }
    }

    /// Runs a request that has waited. False if it is not over: if it must wait for the disk, goes on in steps, or is a
    /// script that wants to pause and begins anew, in a turn of its own.
    pub(super) fn run_alone(&mut self, mut alone: Box<Batch>, attempt: Attempt, done: &mut Batches) -> bool {
        match self.run_attempt(&mut alone, &attempt) {
            Ran::Ended(_) => {
                match done.last_mut().filter(|last| last.has_room_for(&alone)) {
                    Some(last) => last.absorb(&alone),
                    None => done.push(alone),
                }
                true
            }
            Ran::Missed(missed) => {
                self.set_aside(alone, attempt, &missed);
                false
            }
            Ran::InSteps(begun) => {
                self.take_steps(alone, begun);
                false
            }
            Ran::Paused(script) => {
                self.drop_long_script(script, &mut alone);
                self.parked.long.push_back(alone);
                false
            }
        }
    }

    /// A client's command that has waited was run: the next ones follow, until one must wait itself.
    pub(super) fn run_behind(&mut self, client: u64, done: &mut Batches) {
        while !self.parked.handed_back.contains(&client)
            && let Some(next) = self.parked.behind.get_mut(&client).and_then(VecDeque::pop_front)
        {
            if self.is_held(&next, &next.requests[0]) {
                return self.stand_in_line(next);
            }
            if !self.run_alone(next, Attempt::default(), done) {
                return;
            }
        }
        if !self.parked.handed_back.contains(&client) {
            self.parked.behind.remove(&client);
        }
    }

    /// Tries again what could not be done, and gives up what has waited too long; in a turn that has begun.
    pub(super) fn look_at_parked(&mut self, done: &mut Batches) {
        let mut decided = std::mem::take(&mut self.parked.decided);
        decided.iter_mut().for_each(|decided| self.stage_decided(decided));
        self.parked.decided = decided;
        let now = Instant::now();
        let waiting = self.parked.schedules.iter().chain(&self.parked.commands);
        let late: Vec<TransactionId> = waiting
            .filter(|(_, batch)| batch.requests[0].deadline < now)
            .map(|(id, _)| *id)
            .collect();
        // Their answer is a timeout, because they are run so late.
        for id in late {
            let granted = self.interests.locks.leave(id);
            self.parked.granted.extend(granted);
            self.parked.granted.push_back(id);
        }
        if self.script_seat.scripts.any_busy() {
            // As commands are that wait for a busy executor.
            let scripts = Arc::clone(&self.script_seat.scripts);
            self.refuse_behind(&scripts.busy_transactions(), &scripts.busy_error(), done);
        }
        if !self.interests.locks.in_doubt().is_empty() {
            let in_doubt = self.interests.locks.in_doubt().to_vec();
            self.refuse_behind(&in_doubt, &CommandError::text(IN_DOUBT), done);
        }
        self.resume(done);
    }

    /// Answers commands and steps that wait for one of `others` with an error.
    fn refuse_behind(&mut self, others: &[TransactionId], error: &CommandError, done: &mut Batches) {
        let waiting = self.parked.schedules.keys().chain(self.parked.commands.keys());
        let behind: Vec<TransactionId> = waiting
            .filter(|id| self.interests.locks.is_behind(**id, others))
            .copied()
            .collect();
        for id in behind {
            let schedule = self.parked.schedules.remove(&id);
            let command = self.parked.commands.remove(&id);
            self.release_locks(id);
            let client = command.as_ref().map(|command| command.requests[0].caller.client_id);
            for mut batch in schedule.into_iter().chain(command) {
                self.refuse(&mut batch, error);
                done.push(batch);
            }
            if let Some(client) = client {
                self.run_behind(client, done);
            }
        }
    }

    /// Whether anything waits for a transaction.
    pub(super) fn has_parked(&self) -> bool {
        !(self.parked.commands.is_empty() && self.parked.schedules.is_empty() && self.parked.decided.is_empty())
    }

    /// A transaction is over here: the next ones are granted what it had.
    pub(super) fn release_locks(&mut self, id: TransactionId) {
        let granted = self.interests.locks.leave(id);
        self.parked.granted.extend(granted);
        self.parked.ready_later_is_due |= !self.parked.ready_later.is_empty();
        // A transaction that was given up before its locks were granted is answered all the same.
        if let Some(batch) = self.parked.schedules.remove(&id) {
            self.parked.given_up.push(batch);
        }
    }
}

/// The locks that a command would need.
fn needs_of(batch: &Batch, request: &Request) -> (Scope, Mode) {
    let arguments = batch.arguments(request);
    let mode = match request.command.writes(arguments) {
        true => Mode::Exclusive,
        false => Mode::Shared,
    };
    // Commands that read everything of an executor see what is committed of each transaction.
    if mode == Mode::Exclusive && matches!(request.command.runs, Runs::Whole | Runs::All(_)) {
        return (Scope::Everything, mode);
    }
    let keys = command::database_keys_of(request.command, arguments, request.caller.database);
    (Scope::Keys(keys), mode)
}
