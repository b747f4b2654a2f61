//! Commands whose keys lie on several storage executors: each runs as a transaction, and this executor coordinates
//! those of its clients.
//!
//! Every executor that has keys of the command is asked to lock them and to tell what is under them (the schedule step;
//! all at once, one trip). When all have, the handler runs here, on the keys as they were told ([`Gathered`]). If it
//! needs more than that, it runs again on a thread that may ask for more and wait. The writes are split by shard. The
//! first shard, the primary, commits the redo record and its part, then the others theirs; the locks of a shard go with
//! its part. Then the client has its reply. A transaction that has written to one shard, or none, needs no record.
//!
//! [`coordination`](super::coordination) has a transaction's phases. Here are the ways from one phase to the next:
//! `take_…` ends a phase, with the answers of the participants, and the other functions begin one.
//!
//! A client that goes away changes nothing: a transaction belongs to the executor, and ends.

use super::coordination::{
    AnswersLeft, Applying, Coordination, End, Locking, Phase, Prepared, Ran, Refusal, RunningEverywhere, Work,
};
use super::merging::Merging;
use super::network_executor::NetworkExecutor;
use super::redo_deletion::RedoDeletions;
use super::transaction_steps::{DELETIONS, NO_ROUND, STEPS, no_deadline};
use super::transaction_threads::TransactionThreads;
use crate::channel::message::{Batch, RequestId, Response};
use crate::channel::step_answers::StepAnswer;
use crate::channel::step_arguments::{Apply, Prepare, Resolve, Schedule};
use crate::command::exec_request::parts_of_exec;
use crate::command::{
    Merge, RUNS_SCRIPT, Runs, TRANSACTION_APPLY, TRANSACTION_PREPARE, TRANSACTION_RESOLVE, TRANSACTION_RUN,
    TRANSACTION_SCHEDULE,
};
use crate::error::CommandError;
use crate::protocol::Reply;
use crate::registry::metrics::count_ran;
use crate::storage::gathered::Gathered;
use crate::storage::keyspace::Keyspace;
use crate::storage::redo::{Part, RECORD_BYTES_MAX, encode_parts, parts_of};
use crate::storage::transaction_scope::{TransactionId, next_transaction_id};
use crate::storage::undeclared::Undeclared;
use slab::Slab;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often a transaction locks more keys because its handler was found to need them; then it locks everything, since
/// one that finds its keys by what others write meanwhile might never have them all.
const ROUNDS_OF_MORE_KEYS_MAX: u32 = 3;

/// How long a transaction waits before it begins again behind its client's earlier commands: about as long as another
/// one takes.
const BEHIND_PAUSE: Duration = Duration::from_millis(1);

/// The answer to a transaction whose redo record was taken back with other writes of its shard.
const NOT_COMMITTED: &[u8] = b"-ERR the transaction could not be committed and was rolled back\r\n";

/// The transactions of one network executor.
#[derive(Default)]
pub(super) struct Transactions {
    /// By number. `None` while one is not waiting for answers or a thread: it is worked on, or a thread has it, or it
    /// pauses.
    under_way: Slab<Option<(Box<Coordination>, Phase)>>,
    pub(super) threads: TransactionThreads,
    pub(super) deletions: RedoDeletions,
}

impl Transactions {
    /// Whether none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// A transaction begins; returns its number.
    pub(super) fn add(&mut self) -> usize {
        self.under_way.insert(None)
    }

    /// A transaction waits in a phase.
    pub(super) fn put(&mut self, coordination: Box<Coordination>, phase: Phase) {
        let waiting = &mut self.under_way[coordination.number];
        assert!(waiting.is_none(), "a transaction is in one phase");
        *waiting = Some((coordination, phase));
    }

    /// A transaction that waits goes on.
    pub(super) fn take(&mut self, number: usize) -> (Box<Coordination>, Phase) {
        self.under_way[number].take().expect("the transaction waits")
    }

    /// The transaction that waits for the answer to a step, if one does.
    fn take_waiting_for(&mut self, step: RequestId) -> Option<(Box<Coordination>, Phase)> {
        if step.connection != STEPS || step.sequence == NO_ROUND {
            return None;
        }
        let waiting = self.under_way.get_mut(step.generation as usize)?;
        waiting.take_if(|(coordination, _)| coordination.round == step.sequence)
    }

    /// A transaction is over.
    pub(super) fn remove(&mut self, number: usize) {
        let waiting = self.under_way.remove(number);
        assert!(waiting.is_none(), "a transaction that waits is not over");
    }
}

impl NetworkExecutor {
    /// Asks all participants at once for the locks, as the transaction `id`.
    pub(super) fn lock(self: &Rc<Self>, mut coordination: Box<Coordination>, id: TransactionId) {
        assert!(
            id > coordination.locks.id,
            "locks are asked for again with a new number"
        );
        coordination.locks.id = id;
        let is_whole = coordination.locks.is_whole;
        let participants = &coordination.locks.participants;
        if participants.is_empty() {
            // A script that has declared no key: its run shows what it needs.
            return self.run_locked(coordination, Gathered::new(is_whole));
        }
        let scripts = &self.server.scripts;
        if scripts.any_busy() && (participants.iter()).any(|participant| scripts.is_busy(participant.destination)) {
            // The locks would not be granted before the script is over: answered as any command for a busy executor.
            let mut reply = Vec::new();
            Reply::new(&mut reply, coordination.job.origin.caller.version).error(scripts.busy_error().to_string());
            // A move that has waited for its source has that locked already.
            if coordination.job.waited.is_some() {
                self.release_all(&coordination);
            }
            return self.finish(coordination, End::Failed(reply));
        }
        let locking = Locking::new(is_whole, participants.len());
        begin_round(&mut coordination);
        for (part, participant) in coordination.locks.participants.iter().enumerate() {
            let schedule = Schedule {
                id,
                watcher: match &coordination.job.exec {
                    Some(exec) if exec.watched_destinations.contains(&participant.destination) => {
                        coordination.job.origin.caller.client_id
                    }
                    _ => 0,
                },
                connection: coordination.job.origin.connection,
                is_handed_back: coordination.handed_back_by.is_some(),
                frees_space: coordination.job.command.frees_space(),
                mode: coordination.job.mode,
                scope: participant.scope.clone(),
            };
            let (step, target) = (&TRANSACTION_SCHEDULE, (participant.destination, part));
            let deadline = coordination.lock_deadline;
            self.send_step(&coordination, step, target, deadline, &[&schedule.encode()]);
        }
        self.wait_in(coordination, Phase::Locking(locking));
    }

    /// An earlier command of the client waits for another transaction: asks for the locks when that may be over.
    fn lock_later(self: &Rc<Self>, coordination: Box<Coordination>) {
        let executor = Rc::clone(self);
        glommio::spawn_local(async move {
            glommio::timer::sleep(BEHIND_PAUSE).await;
            executor.lock(coordination, next_transaction_id());
        })
        .detach();
    }

    /// A participant has locked its keys and tells what is under them, or refuses to lock them.
    fn take_locks(self: &Rc<Self>, coordination: Box<Coordination>, mut locking: Locking, part: usize, bytes: &[u8]) {
        let participant = &coordination.locks.participants[part];
        if locking.take_answer(&participant.scope, bytes) {
            // At once, so that nobody waits for what will come to nothing.
            self.release_all(&coordination);
        }
        if !locking.answers_left.take_one() {
            return self.wait_in(coordination, Phase::Locking(locking));
        }
        match locking.refusal {
            None => self.run_locked(coordination, locking.gathered),
            Some(Refusal::TooLate) => {
                self.metrics.transaction_retries.add(1);
                self.lock(coordination, next_transaction_id());
            }
            Some(Refusal::Behind) => {
                self.metrics.transaction_retries.add(1);
                self.lock_later(coordination);
            }
            Some(Refusal::Failed(error)) => self.finish(coordination, End::Failed(error)),
            Some(Refusal::Unknown) => self.finish(coordination, End::Unknown),
        }
    }

    /// Everything is locked: runs the command.
    fn run_locked(self: &Rc<Self>, mut coordination: Box<Coordination>, mut gathered: Gathered) {
        if let Work::Everywhere(merge) = coordination.job.work {
            return self.run_everywhere(coordination, merge);
        }
        if coordination.job.runs_script() {
            // A script may take long, and other clients' sockets are here.
            return self.run_on_thread(coordination, gathered);
        }
        let began = Instant::now();
        let (outcome, ran) = coordination.job.run_handler(&mut gathered, None);
        coordination.took_ns += began.elapsed().as_nanos() as u64;
        if gathered.has_missed {
            return self.run_on_thread(coordination, gathered);
        }
        self.take_outcome(coordination, gathered, outcome, ran);
    }

    /// Has every executor run the command on all its shards.
    fn run_everywhere(&self, mut coordination: Box<Coordination>, merge: Merge) {
        let participants = coordination.locks.participants.len();
        assert_eq!(participants, self.destination_count(), "everything is locked");
        let merging = Merging::new(merge, coordination.job.origin.caller.version, participants);
        begin_round(&mut coordination);
        let words: Vec<&[u8]> = coordination.job.arguments.get().iter().collect();
        for (part, participant) in coordination.locks.participants.iter().enumerate() {
            let target = (participant.destination, part);
            self.send_step(&coordination, &TRANSACTION_RUN, target, no_deadline(), &words);
        }
        let running = RunningEverywhere {
            merging,
            is_unknown: false,
        };
        self.wait_in(coordination, Phase::RunningEverywhere(running));
    }

    /// The command has run on one executor, or a piece of a large reply has come.
    fn take_run(
        self: &Rc<Self>,
        mut coordination: Box<Coordination>,
        mut running: RunningEverywhere,
        batch: &Batch,
        response: &Response,
    ) {
        let (part, bytes) = (response.id.part as usize, batch.reply(response));
        if response.more != 0 {
            // The other executors' replies are needed before any of it can be sent.
            running.merging.add_piece(part, bytes);
            self.hold_for_client(&mut coordination, running.merging.held_bytes());
            if self.client_of(&coordination).is_some() {
                self.ask_for_more(batch.destination, &coordination, response);
                return self.wait_in(coordination, Phase::RunningEverywhere(running));
            }
            // Nobody gets the reply any more.
            self.drop_pieces(batch.destination, response.more);
        }
        running.is_unknown |= bytes.is_empty();
        if !running.merging.add(part, bytes) {
            return self.wait_in(coordination, Phase::RunningEverywhere(running));
        }
        let reply = running.merging.finish();
        self.release_all(&coordination);
        let ran = Ran {
            reply,
            ..Ran::default()
        };
        let end = match running.is_unknown {
            true => End::Unknown,
            false => End::Done(ran),
        };
        self.finish(coordination, end);
    }

    /// The handler has run: splits its writes by shard and has them committed.
    pub(super) fn take_outcome(
        self: &Rc<Self>,
        mut coordination: Box<Coordination>,
        mut gathered: Gathered,
        outcome: Result<(), CommandError>,
        mut ran: Ran,
    ) {
        if let Some(undeclared) = gathered.take_undeclared() {
            return self.lock_more(coordination, undeclared);
        }
        self.forget_reach(&coordination, &gathered);
        let shard_count = self.server.router.shard_count();
        let parts = outcome.and_then(|()| parts_of(gathered.take_writes(), shard_count, RECORD_BYTES_MAX));
        let parts = parts.unwrap_or_else(|error| {
            ran.fail(&error, coordination.job.origin.caller.version);
            gathered.begin_again();
            Vec::new()
        });
        self.count_inner(&coordination, &mut gathered, &mut ran);
        self.hold_for_client(&mut coordination, ran.reply.len());
        let locks = &coordination.locks;
        let destinations: Vec<usize> = parts.iter().map(|part| self.destination_with(part)).collect();
        assert!(
            destinations.iter().all(|destination| locks.has(*destination)),
            "what is written is locked"
        );
        for participant in &locks.participants {
            if !destinations.contains(&participant.destination) {
                self.release(&coordination, participant.destination);
            }
        }
        match parts.len() {
            0 => self.finish(coordination, End::Done(ran)),
            1 => self.write_one(coordination, ran, &parts),
            _ => self.prepare(coordination, Prepared { ran, parts }),
        }
    }

    /// The handler has needed more than is locked, so nothing that it did stands: runs it again when that is locked,
    /// too.
    fn lock_more(self: &Rc<Self>, mut coordination: Box<Coordination>, undeclared: Undeclared) {
        self.release_all(&coordination);
        self.metrics.transaction_retries.add(1);
        coordination.rounds_of_more_keys += 1;
        let keys = match undeclared {
            Undeclared::Keys(mut keys) if coordination.rounds_of_more_keys <= ROUNDS_OF_MORE_KEYS_MAX => {
                keys.extend(coordination.locks.take_keys());
                Some(keys)
            }
            Undeclared::Keys(_) | Undeclared::Everything => None,
        };
        coordination.locks = self.locks_on(keys);
        coordination.lock_deadline = Instant::now() + self.request_timeout.get();
        self.lock(coordination, next_transaction_id());
    }

    /// Has the one shard that is written to commit: nothing is torn apart if it does not.
    fn write_one(&self, mut coordination: Box<Coordination>, ran: Ran, parts: &[Part]) {
        let steps = self.send_apply_steps(&mut coordination, parts, false);
        assert_eq!(steps, 1, "one part is for one executor");
        self.wait_in(coordination, Phase::WritingOne(ran));
    }

    /// The one shard has committed its part, or not.
    fn take_written(self: &Rc<Self>, coordination: Box<Coordination>, ran: Ran, bytes: &[u8]) {
        let end = match StepAnswer::decode(bytes) {
            StepAnswer::Done => End::Done(ran),
            StepAnswer::Error(text) => End::Failed(text.to_vec()),
            _ => End::Unknown,
        };
        self.finish(coordination, end);
    }

    /// Has the primary commit the redo record, and its part.
    fn prepare(&self, mut coordination: Box<Coordination>, prepared: Prepared) {
        assert!(prepared.parts.len() > 1, "one part needs no redo record");
        begin_round(&mut coordination);
        let parts = &prepared.parts;
        let primary = self.destination_with(&parts[0]);
        let is_only = parts[1..].iter().all(|part| self.destination_with(part) != primary);
        let argument = Prepare::encode(coordination.locks.id, is_only, parts);
        let (step, target) = (&TRANSACTION_PREPARE, (primary, 0));
        self.send_step(&coordination, step, target, no_deadline(), &[&argument]);
        self.wait_in(coordination, Phase::Preparing(prepared));
    }

    /// The primary has committed the redo record, or not, or does not know.
    fn take_prepared(self: &Rc<Self>, coordination: Box<Coordination>, prepared: Prepared, bytes: &[u8]) {
        match StepAnswer::decode(bytes) {
            StepAnswer::Done => self.apply(coordination, prepared),
            StepAnswer::Error(text) => self.roll_back(coordination, text),
            _ => self.resolve(coordination, prepared),
        }
    }

    /// Writes of the primary were taken back, or its log could not be synced: asks whether the redo record was among
    /// them.
    fn resolve(&self, mut coordination: Box<Coordination>, prepared: Prepared) {
        begin_round(&mut coordination);
        let part = &prepared.parts[0];
        let (id, shard) = (coordination.locks.id, part.shard);
        let argument = Resolve { id, shard }.encode();
        let target = (self.destination_with(part), 0);
        self.send_step(&coordination, &TRANSACTION_RESOLVE, target, no_deadline(), &[&argument]);
        self.wait_in(coordination, Phase::InDoubt(prepared));
    }

    /// The primary tells whether the redo record is committed.
    fn take_resolved(self: &Rc<Self>, coordination: Box<Coordination>, prepared: Prepared, bytes: &[u8]) {
        match StepAnswer::decode(bytes) {
            StepAnswer::Decided => self.apply(coordination, prepared),
            StepAnswer::NeverWas => self.roll_back(coordination, NOT_COMMITTED),
            answer if answer.is_of_stopped_shard() => {
                // The primary has stopped, and its log has the record or not. Only a restart tells.
                self.keep_in_doubt(&coordination);
                self.finish(coordination, End::Unknown);
            }
            // The answer was lost with other writes of its turn that were taken back.
            _ => self.resolve(coordination, prepared),
        }
    }

    /// The redo record was not committed, so no shard writes anything.
    fn roll_back(self: &Rc<Self>, coordination: Box<Coordination>, error: &[u8]) {
        self.release_all(&coordination);
        self.finish(coordination, End::Failed(error.to_vec()));
    }

    /// The transaction is decided: sends their parts to the shards that have not written them with the redo record.
    fn apply(&self, mut coordination: Box<Coordination>, prepared: Prepared) {
        let Prepared { ran, parts } = prepared;
        let steps = self.send_apply_steps(&mut coordination, &parts[1..], true);
        let applying = Applying {
            ran,
            shards: parts
                .iter()
                .map(|part| (self.destination_with(part), part.shard))
                .collect(),
            answers_left: AnswersLeft::new(steps),
            is_left_to_restart: false,
        };
        self.wait_in(coordination, Phase::Applying(applying));
    }

    /// A participant has committed its parts, or its shard has stopped.
    fn take_applied(self: &Rc<Self>, coordination: Box<Coordination>, mut applying: Applying, bytes: &[u8]) {
        applying.is_left_to_restart |= StepAnswer::decode(bytes) != StepAnswer::Done;
        if !applying.answers_left.take_one() {
            return self.wait_in(coordination, Phase::Applying(applying));
        }
        if applying.is_left_to_restart {
            return self.finish(coordination, End::Unknown);
        }
        let id = coordination.locks.id;
        self.transactions.borrow_mut().deletions.add(id, &applying.shards);
        self.finish(coordination, End::Done(applying.ran));
    }

    /// Sends parts to their shards, one step for each executor; returns how many.
    fn send_apply_steps(&self, coordination: &mut Coordination, parts: &[Part], is_decided: bool) -> usize {
        begin_round(coordination);
        let mut by_destination: Vec<Vec<u8>> = vec![Vec::new(); self.destination_count()];
        for part in parts {
            let argument = &mut by_destination[self.destination_with(part)];
            if argument.is_empty() {
                *argument = Apply::begin(coordination.locks.id, is_decided);
            }
            encode_parts(argument, [part]);
        }
        let mut steps = 0;
        for (destination, argument) in by_destination.iter().enumerate() {
            if !argument.is_empty() {
                let (step, target) = (&TRANSACTION_APPLY, (destination, 0));
                self.send_step(coordination, step, target, no_deadline(), &[argument]);
                steps += 1;
            }
        }
        self.run_behind(coordination);
        // Requests that the client sends now come behind these parts to the same executors. Commands of an EXEC that
        // run on this executor may change what such a request means, so they come first.
        let goes_on_here = (coordination.job.exec.as_ref()).is_some_and(|exec| exec.executing.is_some());
        if !goes_on_here {
            self.let_client_go_on(coordination);
        }
        steps
    }

    /// A step's response came back: goes on with the transaction whose phase waits for it.
    pub(super) fn take_step(self: &Rc<Self>, batch: &Batch, response: &Response) {
        if response.id.connection == DELETIONS {
            return self.take_deletion(response);
        }
        let taken = self.transactions.borrow_mut().take_waiting_for(response.id);
        let Some((mut coordination, phase)) = taken else { return };
        assert!(
            phase.awaits(response.command),
            "an answer to {} comes in another phase",
            response.command.name
        );
        coordination.took_ns += u64::from(response.took_ns);
        let (part, bytes) = (response.id.part as usize, batch.reply(response));
        match phase {
            Phase::Locking(locking) => self.take_locks(coordination, locking, part, bytes),
            Phase::WaitingForThread(_) => unreachable!("no answer is awaited in this phase"),
            Phase::RunningEverywhere(running) => self.take_run(coordination, running, batch, response),
            Phase::WritingOne(ran) => self.take_written(coordination, ran, bytes),
            Phase::Preparing(prepared) => self.take_prepared(coordination, prepared, bytes),
            Phase::InDoubt(prepared) => self.take_resolved(coordination, prepared, bytes),
            Phase::Applying(applying) => self.take_applied(coordination, applying, bytes),
        }
    }

    /// The transaction waits for the answers to the steps that were sent.
    fn wait_in(&self, coordination: Box<Coordination>, phase: Phase) {
        self.transactions.borrow_mut().put(coordination, phase);
    }

    /// If one executor could have run the transaction's scripts this time, it is forgotten that they were found to need
    /// more keys than they declare: the next time one executor tries.
    fn forget_reach(&self, coordination: &Coordination, gathered: &Gathered) {
        let job = &coordination.job;
        if !job.runs_script() {
            return;
        }
        let was_foreseen = coordination.handed_back_by.is_none() && coordination.rounds_of_more_keys == 0;
        let is_on_one = match coordination.locks.is_whole {
            true => was_foreseen && !gathered.used_everything,
            false => coordination.locks.participants.len() <= 1,
        };
        if is_on_one {
            let scripts = &self.server.scripts;
            let arguments = job.arguments.get();
            match job.command.runs {
                Runs::Exec => {
                    let parts = parts_of_exec(arguments).filter(|(_, part, _)| part.flags.has(RUNS_SCRIPT));
                    parts.for_each(|(_, _, arguments)| scripts.forget_reach(arguments.get(1)));
                }
                _ => scripts.forget_reach(arguments.get(1)),
            }
        }
    }

    /// Counts the commands that an EXEC or a script has called, and the keys that were looked up; and shows the
    /// commands of scripts to clients that monitor.
    fn count_inner(&self, coordination: &Coordination, gathered: &mut Gathered, ran: &mut Ran) {
        if coordination.job.command.counts_look_ups() {
            let touched = gathered.touched();
            self.metrics.keyspace_hits.add(u64::from(touched.found));
            self.metrics.keyspace_misses.add(u64::from(touched.missed));
        }
        let (commands, errors) = (&self.metrics.commands, &self.metrics.errors);
        let calls = count_ran(&mut ran.effects, commands, errors);
        self.metrics.commands_processed.add(calls);
        let shown = std::mem::take(&mut ran.effects.shown);
        if !shown.is_empty() {
            self.server.pubsub.show_to_monitors(&shown);
        }
    }
}

/// The next steps of a transaction are those of another round.
fn begin_round(coordination: &mut Coordination) {
    coordination.round = (coordination.round + 1) % NO_ROUND;
}
