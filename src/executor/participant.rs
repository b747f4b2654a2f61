//! A storage executor's part in transactions over several executors: their steps, and the commands that wait for them.
//!
//! A network executor coordinates (`network::transactions`): it schedules a transaction on every executor that has keys
//! of it; each answers, once the keys are locked, with what is under them. The command runs where all that has come
//! together. What it wrote goes to the shards: first to the primary, with the redo record, then to the others
//! ([`redo`](crate::storage::redo)). Once the record is committed the transaction is decided: a participant keeps its
//! locks until its parts are committed, however often a full disk or a stall takes them back, and only a shard that has
//! stopped leaves its part to the restart. Where nothing was written the locks are released.

use super::handed_back;
use super::request::Ran;
use super::storage_executor::StorageExecutor;
use super::turn::Batches;
use crate::channel::message::{Batch, HANDED_BACK, Request, Response};
use crate::channel::step_answers::StepAnswer;
use crate::command::{self, Runs, Step};
use crate::config::Durability;
use crate::error::CommandError;
use crate::executor::locks::Admission;
use crate::faults::{self, Point};
use crate::protocol::Span;
use crate::slots::{ShardId, Slot, shard_of};
use crate::storage::database::Direction;
use crate::storage::database::{Column, DatabaseError};
use crate::storage::encoding::Type;
use crate::storage::fields::{FieldReader, FieldWriter};
use crate::storage::gathered::{KeyAndType, KeyRange, Member, Range};
use crate::storage::keyspace::SEVERAL_SHARDS;
use crate::storage::redo::{self, Part};
use crate::storage::shard::Owner;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId, next_transaction_id};
use crate::storage::undeclared::Undeclared;
use crate::storage::view::{LocalShards, View, WatchesAndLocks};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// The answer to who would write a key of a transaction that is in doubt.
const IN_DOUBT: &str = "SHARDDOWN a shard stopped in the middle of a transaction that writes this key; \
                        the restart that the shard needs finishes it";

/// What the schedule step says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Which transaction.
    pub id: TransactionId,
    /// Whether it may write.
    pub mode: Mode,
    /// The client of which is asked whether a key that it watches was modified; 0 for none.
    pub watcher: u64,
    /// The place of the client's connection on its executor.
    pub connection: u32,
    /// Whether an executor has handed it back: then it is not behind what waits for it to be over.
    pub is_handed_back: bool,
    /// What it locks here.
    pub scope: Scope,
}

impl Schedule {
    /// The step's argument.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        fields.number(self.id);
        fields.number(self.watcher);
        fields.number(u64::from(self.connection));
        fields.byte(u8::from(self.mode == Mode::Exclusive));
        fields.byte(u8::from(self.is_handed_back));
        fields.byte(u8::from(self.scope == Scope::Everything));
        if let Scope::Keys(places) = &self.scope {
            for (database, key) in places {
                fields.byte(*database);
                fields.bytes(key);
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Schedule> {
        let mut fields = FieldReader(bytes);
        let (id, watcher) = (fields.number()?, fields.number()?);
        let connection = u32::try_from(fields.number()?).ok()?;
        let mode = match fields.byte()? {
            0 => Mode::Shared,
            _ => Mode::Exclusive,
        };
        let is_handed_back = fields.byte()? != 0;
        let is_whole = fields.byte()? != 0;
        let mut places = Vec::new();
        while !fields.is_at_end() {
            places.push((fields.byte()?, fields.bytes()?.to_vec()));
        }
        let scope = if is_whole {
            Scope::Everything
        } else {
            Scope::Keys(places)
        };
        Some(Schedule {
            id,
            mode,
            watcher,
            connection,
            is_handed_back,
            scope,
        })
    }

    /// The connection of the client that reads what the step's argument names, and that.
    pub(super) fn read_by(argument: &[u8]) -> Option<(u32, Vec<DatabaseKey>)> {
        let Schedule { connection, scope, .. } = Schedule::decode(argument)?;
        match scope {
            Scope::Keys(places) => Some((connection, places)),
            Scope::Everything => None,
        }
    }
}

/// What the read step asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// A member's value.
    Member(&'a Owner, Column, &'a [u8]),
    /// The first members of a range, and how many of them.
    Members(&'a Owner, Column, Range<'a>, Direction, usize),
    /// Keys.
    Keys(&'a [DatabaseKey]),
    /// The number of keys of a database.
    Count(u8),
    /// The keys of a database that are alive at a time (Unix milliseconds), on the shard of the first slot.
    KeysOf(u8, &'a KeyRange, u64),
}

impl Question<'_> {
    /// The step's argument.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut fields = FieldWriter(&mut out);
        let mut of = |kind: u8, owner: &Owner, column: Column| {
            fields.byte(kind);
            fields.byte(owner.database);
            fields.bytes(&owner.key);
            fields.number(owner.version);
            fields.byte(u8::from(column == Column::Score));
        };
        match self {
            Question::Keys(places) => {
                fields.byte(0);
                for (database, key) in *places {
                    fields.byte(*database);
                    fields.bytes(key);
                }
            }
            Question::Member(owner, column, member) => {
                of(1, owner, *column);
                fields.bytes(member);
            }
            Question::Members(owner, column, (from, to), direction, count) => {
                of(2, owner, *column);
                fields.bytes(from);
                fields.optional_bytes(*to);
                fields.byte(u8::from(*direction == Direction::Backward));
                fields.number(*count as u64);
            }
            Question::Count(database) => {
                fields.byte(3);
                fields.byte(*database);
                fields.bytes(b"");
            }
            Question::KeysOf(database, range, now_ms) => {
                fields.byte(4);
                fields.byte(*database);
                fields.bytes(b"");
                fields.number(u64::from(range.slot));
                fields.number(u64::from(range.end));
                fields.optional_bytes(range.after.as_deref());
                fields.number(*now_ms);
            }
        }
        out
    }
}

/// Reads an answer to [`Question::Members`]; `None` if it is damaged.
pub fn decode_members(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut fields = FieldReader(bytes);
    let mut members = Vec::new();
    while !fields.is_at_end() {
        members.push((fields.bytes()?.to_vec(), fields.bytes()?.to_vec()));
    }
    Some(members)
}

/// Reads an answer to [`Question::KeysOf`]: keys and their types, and the last one that was looked at if there are
/// more; `None` if it is damaged.
pub fn decode_keys(bytes: &[u8]) -> Option<(Vec<KeyAndType>, Option<Vec<u8>>)> {
    let mut fields = FieldReader(bytes);
    let mut keys = Vec::new();
    while fields.byte()? == 1 {
        let kind = Type::from_code(fields.byte()?)?;
        keys.push((fields.bytes()?.to_vec(), kind));
    }
    Some((keys, fields.optional_bytes()?.map(<[u8]>::to_vec)))
}

/// Keys that are looked at for one answer.
const KEYS_PER_ANSWER: usize = 1024;

/// Requests that transactions keep waiting, each in a box of its own with its credit.
#[derive(Default)]
pub(super) struct Parked {
    /// Commands, by their number in the lines for their keys.
    commands: HashMap<TransactionId, Box<Batch>>,
    /// By client that has one of those: its later commands, which wait behind it.
    behind: HashMap<u64, VecDeque<Box<Batch>>>,
    /// Clients whose commands wait behind one that was handed back.
    handed_back: HashSet<u64>,
    /// Clients of which such a command is over.
    over: Vec<u64>,
    /// Scripts that have waited, in boxes of their own, and turned out to be long: each gets a turn of its own.
    pub(super) long: VecDeque<Box<Batch>>,
    /// Schedule steps that wait for their locks.
    schedules: HashMap<TransactionId, Box<Batch>>,
    /// Decided transactions whose parts here are not committed yet. Bounded by the transactions that are under way.
    decided: Vec<Decided>,
    /// Schedule steps of transactions that were given up.
    given_up: Batches,
    /// Those whose locks were granted: their schedule steps are to be answered, and commands run.
    granted: VecDeque<TransactionId>,
    /// Keys that have something for those who wait for it, and for which these must wait.
    pub(super) ready_later: Vec<DatabaseKey>,
    /// Locks were released since those were looked at.
    is_due: bool,
}

impl Parked {
    /// Whether locks were granted, or are free for those who wait for keys.
    #[inline]
    pub(super) fn can_resume(&self) -> bool {
        !(self.granted.is_empty() && self.given_up.is_empty() && self.over.is_empty()) || self.is_due
    }

    /// How many decided transactions have parts that are not committed.
    #[inline]
    pub(super) fn decided_len(&self) -> usize {
        self.decided.len()
    }
}

/// A decided transaction's parts on the shards of this executor, until they are committed.
struct Decided {
    id: TransactionId,
    /// The apply step, which is answered then.
    step: Box<Batch>,
    parts: Vec<Part>,
    /// By part: the turn in which it is staged, if it is.
    staged: Vec<Option<u64>>,
}

/// What became of a step.
pub(super) enum StepOutcome {
    /// The reply is written.
    Answered,
    /// It is answered when its locks are granted.
    WaitsForLocks(TransactionId),
    /// It is answered when these parts, which are decided, are committed.
    WaitsForCommit(TransactionId, Vec<Part>),
}

impl StorageExecutor {
    /// Whether a request must wait for a transaction, or for an earlier one of its client that does.
    #[inline]
    pub(super) fn must_wait(&self, batch: &Batch, request: &Request) -> bool {
        // Who waits is among the locks, too, but for scripts that turned out to be long.
        let is_free = self.interests.locks.is_empty() && self.parked.behind.is_empty();
        if is_free || matches!(request.command.runs, Runs::Step(_)) {
            return false;
        }
        self.is_behind_own(request) || self.is_held(batch, request)
    }

    fn is_behind_own(&self, request: &Request) -> bool {
        self.parked.behind.contains_key(&request.caller.client_id)
    }

    pub(super) fn is_held(&self, batch: &Batch, request: &Request) -> bool {
        let (scope, mode) = needs_of(batch, request);
        self.interests.locks.holds_some(&scope, mode)
    }

    /// Lets a request wait.
    pub(super) fn park(&mut self, batch: &mut Batch, request: &Request) {
        self.metrics.parked.add(1);
        let alone = batch.take_request(request);
        match self.parked.behind.get_mut(&request.caller.client_id) {
            Some(line) => line.push_back(alone),
            None => self.stand_in_line(alone),
        }
    }

    /// Enters a command in the lines for its keys. It has the newest number of all, so it waits, and nobody waits for
    /// it who has what it waits for.
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

    /// Keeps a step until it can be done.
    pub(super) fn park_step(&mut self, outcome: StepOutcome, batch: &mut Batch, request: &Request) {
        match outcome {
            StepOutcome::Answered => unreachable!("what is answered does not wait"),
            StepOutcome::WaitsForLocks(id) => {
                let step = batch.take_request(request);
                self.parked.schedules.insert(id, step);
            }
            StepOutcome::WaitsForCommit(id, parts) => {
                faults::reached(Point::BeforeApply);
                let mut decided = Decided {
                    id,
                    step: batch.take_for_answer(request),
                    staged: vec![None; parts.len()],
                    parts,
                };
                self.stage_decided(&mut decided);
                self.parked.decided.push(decided);
                faults::reached(Point::AfterApply);
            }
        }
    }

    /// Answers the transactions that have been granted their locks, and runs what needs not wait any more.
    #[inline]
    pub(super) fn resume(&mut self, done: &mut Batches) {
        if self.parked.can_resume() {
            self.resume_granted(done);
        }
    }

    fn resume_granted(&mut self, done: &mut Batches) {
        for mut batch in std::mem::take(&mut self.parked.given_up) {
            let request = batch.requests[0];
            batch.answer(&request, StepAnswer::TooLate.fixed());
            done.push(batch);
        }
        while let Some(client) = self.parked.over.pop() {
            self.run_behind(client, done);
        }
        while let Some(id) = self.parked.granted.pop_front() {
            if let Some(schedule) = self.parked.schedules.remove(&id) {
                self.run_alone(schedule, done);
            }
            if let Some(command) = self.parked.commands.remove(&id) {
                let client = command.requests[0].caller.client_id;
                self.interests.locks.set_running(Some(id));
                let is_over = self.run_alone(command, done);
                self.interests.locks.set_running(None);
                self.release_locks(id);
                if is_over {
                    self.run_behind(client, done);
                }
            }
        }
        if std::mem::take(&mut self.parked.is_due) {
            self.interests.ready.extend(self.parked.ready_later.drain(..));
            self.serve_waiters(Instant::now());
        }
    }

    /// Runs a request that has waited. False if it is a script that wants to pause: that begins anew, in a turn of its
    /// own.
    fn run_alone(&mut self, mut alone: Box<Batch>, done: &mut Batches) -> bool {
        let request = alone.requests[0];
        match self.run_request(&mut alone, &request, Instant::now(), None) {
            Ran::Ended(_) => {
                done.push(alone);
                true
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
            if !self.run_alone(next, done) {
                return;
            }
        }
        if !self.parked.handed_back.contains(&client) {
            self.parked.behind.remove(&client);
        }
    }

    /// A command got to what it has not named and may not use here. Nothing of it stands; the network executor runs it
    /// as a transaction, and the client's later commands wait here until that is over.
    pub(super) fn hand_back(&mut self, batch: &mut Batch, request: &Request, start: usize) {
        let undeclared = self.shards.take_undeclared().unwrap_or(Undeclared::Everything);
        self.roll_back_command();
        self.effects.forget_ran();
        self.effects.notes_read = false;
        self.effects.read.clear();
        let client = request.caller.client_id;
        let watched = self.interests.keys_watched_by(client).to_vec();
        let (arguments, replies) = batch.parts(request);
        replies.truncate(start);
        handed_back::encode(&request.caller, &undeclared, &watched, arguments, replies);
        let reply = Span {
            start: start as u32,
            len: (replies.len() - start) as u32,
        };
        batch.responses.push(Response {
            id: request.id,
            reply,
            command: request.command,
            took_ns: 0,
            failed: false,
            commit_epoch: 0,
            shard: 0,
            more: HANDED_BACK,
        });
        if client != 0 {
            self.parked.behind.entry(client).or_default();
            self.parked.handed_back.insert(client);
        }
        self.metrics.handed_back.add(1);
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
        // They are told so when they are run so late.
        for id in late {
            let granted = self.interests.locks.leave(id);
            self.parked.granted.extend(granted);
            self.parked.granted.push_back(id);
        }
        if self.script_seat.scripts.any_busy() {
            // As who waits for a busy executor.
            let scripts = Arc::clone(&self.script_seat.scripts);
            self.refuse_behind(&scripts.busy_transactions(), &scripts.busy_error(), done);
        }
        if !self.interests.locks.in_doubt().is_empty() {
            let in_doubt = self.interests.locks.in_doubt().to_vec();
            self.refuse_behind(&in_doubt, &CommandError::text(IN_DOUBT), done);
        }
        self.resume(done);
    }

    /// A transaction is in doubt until a restart: its keys here can be read and not written.
    fn keep_in_doubt(&mut self, id: TransactionId) {
        let granted = self.interests.locks.keep_in_doubt(id);
        self.parked.granted.extend(granted);
        if self.interests.locks.in_doubt().contains(&id) {
            tracing::warn!(
                transaction = id,
                "a shard stopped in the middle of a transaction: its keys cannot be written before a restart"
            );
        }
    }

    /// Answers those who wait for one of some transactions with an error.
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

    pub(super) fn release_locks(&mut self, id: TransactionId) {
        let granted = self.interests.locks.leave(id);
        self.parked.granted.extend(granted);
        self.parked.is_due |= !self.parked.ready_later.is_empty();
        // One that was given up before its locks were granted is answered all the same.
        if let Some(batch) = self.parked.schedules.remove(&id) {
            self.parked.given_up.push(batch);
        }
    }

    /// Stages the redo record of a transaction, and the part of the shard that has it. Returns the transaction if its
    /// locks here go with that.
    fn prepare(&mut self, client_id: u64, fields: &mut FieldReader<'_>) -> Result<Option<TransactionId>, CommandError> {
        let id = fields.number().ok_or(CommandError::Internal)?;
        // All parts are one to those who are told of a flush.
        self.interests.tracked.command = (client_id, id as u32);
        let releases = fields.byte().ok_or(CommandError::Internal)? != 0;
        let parts = redo::decode_parts(fields.0).ok_or(CommandError::Internal)?;
        let primary = parts.first().ok_or(CommandError::Internal)?;
        let stored = fields.0.to_vec();
        self.interests.tell_whole_changes_of(&mut self.shards, primary);
        self.shards.with_shard(primary.shard, |shard| {
            shard.apply(&primary.writes)?;
            Ok(((), shard.stage_redo(id, stored)?))
        })?;
        faults::reached(Point::RedoStaged);
        Ok(releases.then_some(id))
    }

    /// Does one step; the reply goes to the end of the batch's replies.
    pub(super) fn run_step(
        &mut self,
        step: Step,
        batch: &mut Batch,
        request: &Request,
    ) -> Result<StepOutcome, CommandError> {
        let (arguments, replies) = batch.parts(request);
        let argument = arguments.get(1);
        let mut fields = FieldReader(argument);
        match step {
            Step::Schedule => {
                let schedule = Schedule::decode(argument).ok_or(CommandError::Internal)?;
                let client = request.caller.client_id;
                let is_ahead = schedule.is_handed_back && self.parked.handed_back.contains(&client);
                if self.parked.behind.contains_key(&client) && !is_ahead {
                    replies.extend_from_slice(StepAnswer::Behind.fixed());
                    return Ok(StepOutcome::Answered);
                }
                return self.schedule(schedule, replies);
            }
            Step::Read => {
                let written = self.answer_question(&mut fields, replies)?;
                written.ok_or(CommandError::Internal)?;
            }
            Step::Run => return Err(CommandError::Internal),
            Step::Prepare => {
                let releases = self.prepare(request.caller.client_id, &mut fields)?;
                if let Some(id) = releases {
                    self.release_locks(id);
                }
                replies.extend_from_slice(StepAnswer::Done.fixed());
            }
            Step::Apply => {
                let id = fields.number().ok_or(CommandError::Internal)?;
                let is_decided = fields.byte().ok_or(CommandError::Internal)? != 0;
                let parts = redo::decode_parts(fields.0).ok_or(CommandError::Internal)?;
                if is_decided {
                    return Ok(StepOutcome::WaitsForCommit(id, parts));
                }
                self.interests.tracked.command = (request.caller.client_id, id as u32);
                let applied = parts.iter().try_for_each(|part| {
                    self.interests.tell_whole_changes_of(&mut self.shards, part);
                    self.shards
                        .with_shard(part.shard, |shard| Ok(((), shard.apply(&part.writes)?)))
                });
                // If it fails, nobody has been told that it is done, and nothing else has been written.
                self.release_locks(id);
                applied?;
                replies.extend_from_slice(StepAnswer::Done.fixed());
            }
            Step::Release => {
                let id = fields.number().ok_or(CommandError::Internal)?;
                self.release_locks(id);
                replies.extend_from_slice(StepAnswer::Done.fixed());
            }
            Step::Resolve => {
                let (id, shard) = (fields.number(), fields.number());
                let (id, shard) = id.zip(shard).ok_or(CommandError::Internal)?;
                let is_decided = self
                    .shards
                    .with_shard(ShardId(shard as u16), |shard| shard.has_redo(id))?;
                let answer = match is_decided {
                    true => StepAnswer::Decided,
                    false => StepAnswer::NeverWas,
                };
                replies.extend_from_slice(answer.fixed());
            }
            Step::KeepInDoubt => {
                self.keep_in_doubt(fields.number().ok_or(CommandError::Internal)?);
                replies.extend_from_slice(StepAnswer::Done.fixed());
            }
            Step::RunBehind => {
                let client = request.caller.client_id;
                if self.parked.handed_back.remove(&client) {
                    self.parked.over.push(client);
                }
                replies.extend_from_slice(StepAnswer::Done.fixed());
            }
            Step::Forget => {
                self.forget(fields)?;
                replies.extend_from_slice(StepAnswer::Done.fixed());
            }
        }
        Ok(StepOutcome::Answered)
    }

    fn schedule(&mut self, schedule: Schedule, replies: &mut Vec<u8>) -> Result<StepOutcome, CommandError> {
        let Schedule {
            id,
            mode,
            watcher,
            scope,
            ..
        } = schedule;
        if mode == Mode::Exclusive
            && let Err(error) = self.check_writable(&scope)
        {
            self.release_locks(id);
            return Err(error);
        }
        if !self.interests.locks.has_entered(id) {
            match self.interests.locks.enter(id, scope.clone(), mode) {
                Admission::Granted => {}
                Admission::Waits => return Ok(StepOutcome::WaitsForLocks(id)),
                Admission::Refused => {
                    replies.extend_from_slice(StepAnswer::TooLate.fixed());
                    return Ok(StepOutcome::Answered);
                }
            }
        }
        let told = self.tell(&scope, watcher, replies);
        if told.is_err() {
            self.release_locks(id);
        }
        if mode == Mode::Exclusive && self.current.durability == Durability::Always {
            self.follow_all_writes(&scope)?;
        }
        told.map(|()| StepOutcome::Answered)
    }

    /// The answer waits until all that was written before on the shards of the scope is on disk. The redo record gets
    /// there with the log of another shard: a loss of power that spared the record, and so this shard's part of the
    /// transaction, would otherwise take an earlier write of this shard.
    fn follow_all_writes(&mut self, scope: &Scope) -> Result<(), CommandError> {
        match scope {
            Scope::Everything => self.shards.follow_all_writes_of_all(),
            Scope::Keys(keys) => {
                for (_, key) in keys {
                    self.shards.follow_all_writes(Slot::of(key))?;
                }
            }
        }
        Ok(())
    }

    fn check_writable(&self, scope: &Scope) -> Result<(), CommandError> {
        match scope {
            Scope::Everything => self.shards.list().iter().try_for_each(|shard| shard.takes_writes()),
            Scope::Keys(places) => places
                .iter()
                .try_for_each(|(_, key)| self.shards.shard_of(Slot::of(key))?.takes_writes()),
        }
    }

    /// What the reply to a granted schedule step says: whether a key that the client
    /// watches was modified, the newest version of the shards' collections, their database map if everything is locked,
    /// and each key.
    fn tell(&mut self, scope: &Scope, watcher: u64, replies: &mut Vec<u8>) -> Result<(), CommandError> {
        let newest = self.shards.list().iter().map(|shard| shard.last_version()).max();
        StepAnswer::begin_content(replies);
        let mut fields = FieldWriter(replies);
        fields.byte(u8::from(
            watcher != 0 && self.interests.is_watched_key_modified(&mut self.shards, watcher),
        ));
        fields.number(newest.unwrap_or(0));
        let map = self.shards.list().first().map(|shard| shard.database_map().encode());
        fields.optional_bytes(map.filter(|_| *scope == Scope::Everything).as_deref());
        if let Scope::Keys(places) = scope {
            for place in places {
                self.shards.export(place, replies)?;
            }
        }
        Ok(())
    }

    /// Answers [`Question`]; `Ok(None)` if it cannot be understood.
    fn answer_question(
        &mut self,
        fields: &mut FieldReader<'_>,
        replies: &mut Vec<u8>,
    ) -> Result<Option<()>, CommandError> {
        StepAnswer::begin_content(replies);
        let read_place = |fields: &mut FieldReader<'_>| Some((fields.byte()?, fields.bytes()?.to_vec()));
        let Some(kind) = fields.byte() else {
            return Ok(None);
        };
        if kind == 0 {
            return self.answer_keys_at(fields, replies);
        }
        let Some((database, key)) = read_place(fields) else {
            return Ok(None);
        };
        if kind == 3 {
            let count = self.shards.key_count(database)?;
            FieldWriter(replies).number(count);
            return Ok(Some(()));
        }
        if kind == 4 {
            return self.answer_keys(database, fields, replies);
        }
        let read = |fields: &mut FieldReader<'_>| -> Option<(u64, Column)> {
            let version = fields.number()?;
            let column = if fields.byte()? == 0 {
                Column::Data
            } else {
                Column::Score
            };
            Some((version, column))
        };
        let Some((version, column)) = read(fields) else {
            return Ok(None);
        };
        let owner = Owner { database, key, version };
        let Some(first) = fields.bytes() else { return Ok(None) };
        let view = &mut View::Local(LocalShards {
            shards: &mut self.shards,
            watches_and_locks: &mut self.interests,
        });
        if kind == 1 {
            let value = view.member(&owner, column, first)?.map(<[u8]>::to_vec);
            FieldWriter(replies).optional_bytes(value.as_deref());
            return Ok(Some(()));
        }
        let (Some(to), Some(backward), Some(mut left)) = (fields.optional_bytes(), fields.byte(), fields.number())
        else {
            return Ok(None);
        };
        let direction = match backward {
            0 => Direction::Forward,
            _ => Direction::Backward,
        };
        view.scan_members(&owner, column, (first, to), direction, |member, value| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            let mut fields = FieldWriter(replies);
            fields.bytes(member);
            fields.bytes(value);
            ControlFlow::Continue(())
        })?;
        Ok(Some(()))
    }

    /// Each key as [`Shards::export`](crate::storage::shards::Shards::export) has it, behind the length of that.
    fn answer_keys_at(
        &mut self,
        fields: &mut FieldReader<'_>,
        replies: &mut Vec<u8>,
    ) -> Result<Option<()>, CommandError> {
        while !fields.is_at_end() {
            let (Some(database), Some(key)) = (fields.byte(), fields.bytes()) else {
                return Ok(None);
            };
            let mut exported = Vec::new();
            self.shards.export(&(database, key.to_vec()), &mut exported)?;
            FieldWriter(replies).bytes(&exported);
        }
        Ok(Some(()))
    }

    fn answer_keys(
        &mut self,
        database: u8,
        fields: &mut FieldReader<'_>,
        replies: &mut Vec<u8>,
    ) -> Result<Option<()>, CommandError> {
        let read = |fields: &mut FieldReader<'_>| -> Option<(u16, u16, Option<Vec<u8>>, u64)> {
            let (slot, end) = (fields.number()? as u16, fields.number()? as u16);
            let after = fields.optional_bytes()?.map(<[u8]>::to_vec);
            Some((slot, end, after, fields.number()?))
        };
        let Some((slot, end, after, now_ms)) = read(fields) else {
            return Ok(None);
        };
        let mut fields = FieldWriter(replies);
        let (mut seen, mut last) = (0, None);
        let id = shard_of(Slot(slot), self.shards.shard_count());
        self.shards.with_shard(id, |shard| {
            let epoch = shard.scan(database, slot..end, after.as_deref(), |_, key, record| {
                if record.is_alive(now_ms) {
                    fields.byte(1);
                    fields.byte(record.kind as u8);
                    fields.bytes(key);
                }
                seen += 1;
                if seen < KEYS_PER_ANSWER {
                    return ControlFlow::Continue(());
                }
                last = Some(key.to_vec());
                ControlFlow::Break(())
            })?;
            Ok(((), epoch))
        })?;
        fields.byte(0);
        fields.optional_bytes(last.as_deref());
        Ok(Some(()))
    }

    /// Stages those parts of a decided transaction that are not staged, where a shard takes writes: each by itself,
    /// with the note that it is applied.
    fn stage_decided(&mut self, decided: &mut Decided) {
        let Decided {
            id,
            step,
            parts,
            staged,
        } = decided;
        let whose = step.requests[0].caller.client_id;
        for (part, staged) in parts.iter().zip(staged).filter(|(_, staged)| staged.is_none()) {
            if self.shards.shard_mut(part.shard).can_stage().is_err() {
                continue;
            }
            self.shards.begin_command();
            // All parts are one to those who are told of a flush.
            self.interests.tracked.command = (whose, *id as u32);
            self.interests.tell_whole_changes_of(&mut self.shards, part);
            let applied = self.shards.with_shard(part.shard, |shard| {
                shard.apply(&part.writes)?;
                let epoch = shard.note_applied(*id)?;
                Ok((epoch, epoch))
            });
            match applied {
                Ok(epoch) => {
                    *staged = Some(epoch);
                    self.shards.keep_step();
                    self.command_stands(whose);
                }
                Err(error) => {
                    self.roll_back_command();
                    if !matches!(error, CommandError::DiskFull | CommandError::Stalled) {
                        // It cannot be read, and must not go on without what is decided.
                        let error = DatabaseError::Failed(error.to_string());
                        self.shards.shard_mut(part.shard).stop(&error);
                    }
                }
            }
        }
        self.serve_waiters(Instant::now());
    }

    /// After a commit: answers the decided transactions whose parts are committed, releases their locks, and notes
    /// which parts were taken back, so that they are staged again.
    pub(super) fn finish_decided(&mut self, done: &mut Batches) {
        for mut decided in std::mem::take(&mut self.parked.decided) {
            match self.is_committed(&mut decided) {
                None => self.parked.decided.push(decided),
                Some(is_lost) => {
                    self.release_locks(decided.id);
                    done.push(self.answer_decided(decided, is_lost));
                }
            }
        }
    }

    /// Whether nothing more is to be done here for a decided transaction; then also whether a shard has stopped, so
    /// that its part is left to the restart.
    fn is_committed(&mut self, decided: &mut Decided) -> Option<bool> {
        let Decided { id, parts, staged, .. } = decided;
        let (mut is_over, mut is_lost) = (true, false);
        for (part, staged) in parts.iter().zip(staged) {
            let shard = self.shards.shard_mut(part.shard);
            if shard.check_readable().is_err() {
                is_lost = true;
            } else if let Some(epoch) = staged.filter(|_| shard.has_applied(*id).is_ok_and(|has_applied| has_applied)) {
                is_over &= shard.settled_epoch() >= epoch;
            } else {
                *staged = None;
                is_over = false;
            }
        }
        is_over.then_some(is_lost)
    }

    /// The apply step's answer. It leaves when what it speaks of is as safe as the durability setting asks for.
    fn answer_decided(&self, decided: Decided, is_lost: bool) -> Box<Batch> {
        let Decided {
            mut step,
            parts,
            staged,
            ..
        } = decided;
        let request = step.requests[0];
        // Of what is left to the restart neither OK nor an error would be true.
        let answer = match is_lost {
            true => StepAnswer::Unknown,
            false => StepAnswer::Done,
        };
        step.answer(&request, answer.fixed());
        if let Some(response) = step.responses.last_mut() {
            response.failed = is_lost;
            response.commit_epoch = staged.into_iter().flatten().max().unwrap_or(0);
            response.shard = match parts[..] {
                [ref part] => self.shards.index_of_shard(part.shard),
                _ => SEVERAL_SHARDS,
            };
        }
        step
    }

    /// Fields: whether it is the primary, its or another shard's number as eight bytes, the transaction; and so on.
    fn forget(&mut self, mut fields: FieldReader<'_>) -> Result<(), CommandError> {
        while !fields.is_at_end() {
            let (is_primary, shard, id) = match (fields.byte(), fields.number(), fields.number()) {
                (Some(is_primary), Some(shard), Some(id)) => (is_primary != 0, ShardId(shard as u16), id),
                _ => return Err(CommandError::Internal),
            };
            self.shards.with_shard(shard, |shard| {
                if is_primary {
                    faults::reached(Point::BeforeForget);
                    let epoch = shard.delete_redo(id)?;
                    faults::reached(Point::AfterForget);
                    return Ok(((), epoch));
                }
                shard.forget_applied(id);
                Ok(((), 0))
            })?;
        }
        Ok(())
    }
}

/// What a command needs for itself.
fn needs_of(batch: &Batch, request: &Request) -> (Scope, Mode) {
    let arguments = batch.arguments(request);
    let mode = match request.command.writes(arguments) {
        true => Mode::Exclusive,
        false => Mode::Shared,
    };
    // Those that read everything here see what is committed of each transaction.
    if mode == Mode::Exclusive && matches!(request.command.runs, Runs::Whole | Runs::All(_)) {
        return (Scope::Everything, mode);
    }
    let places = command::database_keys_of(request.command, arguments, request.caller.database);
    (Scope::Keys(places), mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_as_it_was_written() {
        for schedule in [
            Schedule {
                id: 7,
                watcher: 3,
                connection: 4,
                is_handed_back: true,
                mode: Mode::Shared,
                scope: Scope::Keys(vec![(0, b"a".to_vec()), (15, Vec::new())]),
            },
            Schedule {
                id: u64::MAX,
                watcher: 0,
                connection: 0,
                is_handed_back: false,
                mode: Mode::Exclusive,
                scope: Scope::Everything,
            },
        ] {
            assert_eq!(Schedule::decode(&schedule.encode()), Some(schedule));
        }
        assert_eq!(Schedule::decode(b"short"), None);
    }
}
