//! A storage executor's part in transactions over several executors: the steps that the coordinator asks for.
//!
//! A network executor coordinates (`network::coordinator`): it schedules a transaction on every executor that has keys
//! of it; each answers, once the keys are locked ([`locks`](super::locks)), with what is under them. The command runs
//! where all that has come together. What it wrote goes to the shards: first to the primary, with the redo record, then
//! to the others ([`redo`](crate::storage::redo)). Once the record is committed the transaction is decided
//! ([`decided_parts`](super::decided_parts)). Where nothing was written the locks are released.

use super::blocked_commands::waiting_response;
use super::decided_parts::Decided;
use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Request};
use crate::channel::step_answers::{StepAnswer, end_keys, write_key, write_member};
use crate::channel::step_arguments::{Apply, Forget, Prepare, Question, Resolve, Schedule, decode_id};
use crate::command::Step;
use crate::config::Durability;
use crate::error::CommandError;
use crate::executor::locks::Admission;
use crate::faults::{self, Point};
use crate::slots::{Slot, shard_of};
use crate::storage::fields::FieldWriter;
use crate::storage::gathered::KeyRange;
use crate::storage::redo::{self, Part};
use crate::storage::shard::Shard;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId};
use crate::storage::view::{LocalShards, View};
use std::ops::ControlFlow;

/// Keys that are looked at for one answer.
const KEYS_PER_ANSWER: usize = 1024;

/// What became of a step.
enum StepOutcome {
    /// The reply is written.
    Answered,
    /// The answer comes when the transaction's locks are granted.
    WaitsForLocks(TransactionId),
    /// The answer comes when these parts, which are decided, are committed.
    WaitsForCommit(TransactionId, Vec<Part>),
    /// The answer comes when what the step has written is on disk, whatever the durability setting.
    WaitsForDisk,
}

impl StorageExecutor {
    /// Keeps a step until it can be done.
    fn park_step(&mut self, outcome: StepOutcome, batch: &mut Batch, request: &Request) {
        match outcome {
            StepOutcome::Answered => unreachable!("what is answered does not wait"),
            StepOutcome::WaitsForLocks(id) => {
                let step = batch.take_request(request);
                let earlier = self.parked.schedules.insert(id, step);
                assert!(earlier.is_none(), "a transaction is scheduled once");
            }
            StepOutcome::WaitsForCommit(id, parts) => {
                faults::reached(Point::BeforeApply);
                let mut decided = Decided::new(id, batch.take_for_answer(request), parts);
                self.stage_decided(&mut decided);
                self.parked.decided.push(decided);
                faults::reached(Point::AfterApply);
            }
            StepOutcome::WaitsForDisk => self.answer_from_disk(batch, request),
        }
    }

    /// Does one step; the reply goes to the end of the batch's replies. `None` if it waits for something first. On a
    /// full disk the steps of a transaction that was let in may write: that only frees space, or was let in before.
    pub(super) fn run_or_park_step(
        &mut self,
        step: Step,
        batch: &mut Batch,
        request: &Request,
    ) -> Option<Result<(), CommandError>> {
        self.shards.set_frees_space(true);
        let outcome = match self.run_step(step, batch, request) {
            Ok(StepOutcome::Answered) => Some(Ok(())),
            Ok(later) => {
                self.effects.tracks_read = false;
                self.park_step(later, batch, request);
                None
            }
            Err(error) => Some(Err(error)),
        };
        self.shards.set_frees_space(false);
        outcome
    }

    fn run_step(&mut self, step: Step, batch: &mut Batch, request: &Request) -> Result<StepOutcome, CommandError> {
        let (arguments, replies) = batch.parts(request);
        let (argument, client_id) = (arguments.get(1), request.caller.client_id);
        let answer = match step {
            Step::Schedule => return self.schedule(argument, client_id, replies),
            Step::Read => {
                self.answer_question(argument, replies)?;
                return Ok(StepOutcome::Answered);
            }
            Step::Run => return Err(CommandError::Internal),
            Step::Prepare => self.prepare(argument, client_id)?,
            Step::Apply => {
                let apply = Apply::decode(argument).ok_or(CommandError::Internal)?;
                if apply.is_decided {
                    return Ok(StepOutcome::WaitsForCommit(apply.id, apply.parts));
                }
                self.apply(&apply, client_id)?
            }
            Step::Release => {
                self.release_locks(decode_id(argument).ok_or(CommandError::Internal)?);
                StepAnswer::Done
            }
            Step::Resolve => self.resolve(argument)?,
            Step::KeepInDoubt => {
                self.keep_in_doubt(decode_id(argument).ok_or(CommandError::Internal)?);
                StepAnswer::Done
            }
            Step::RunBehind => {
                if self.parked.handed_back.remove(&client_id) {
                    self.parked.no_longer_ahead.push(client_id);
                }
                StepAnswer::Done
            }
            Step::Forget => match self.forget(argument)? {
                true => return Ok(StepOutcome::WaitsForDisk),
                false => StepAnswer::Done,
            },
        };
        replies.extend_from_slice(answer.fixed());
        Ok(StepOutcome::Answered)
    }

    /// Locks the keys of a transaction and tells what is under them, or lets the step wait for the locks.
    fn schedule(
        &mut self,
        argument: &[u8],
        client_id: u64,
        replies: &mut Vec<u8>,
    ) -> Result<StepOutcome, CommandError> {
        let schedule = Schedule::decode(argument).ok_or(CommandError::Internal)?;
        let is_ahead = schedule.is_handed_back && self.parked.handed_back.contains(&client_id);
        if self.parked.behind.contains_key(&client_id) && !is_ahead {
            replies.extend_from_slice(StepAnswer::Behind.fixed());
            return Ok(StepOutcome::Answered);
        }
        let Schedule {
            id,
            mode,
            watcher,
            scope,
            frees_space,
            ..
        } = schedule;
        if mode == Mode::Exclusive
            && let Err(error) = self.check_writable(&scope, frees_space)
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
        if let Err(error) = self.tell(&scope, watcher, replies) {
            self.release_locks(id);
            return Err(error);
        }
        if mode == Mode::Exclusive && self.settings.current.durability == Durability::Always {
            self.follow_all_writes();
        }
        Ok(StepOutcome::Answered)
    }

    /// The answer waits until all that was written before is on disk. The redo record gets there with the log of
    /// another executor: a loss of power that spared the record, and so this executor's part of the transaction, would
    /// otherwise take an earlier write.
    fn follow_all_writes(&mut self) {
        if self.shards.has_staged() || self.shards.logged_epoch() > self.threads.syncer.durable_epoch() {
            self.shards.follow_all_writes();
        }
    }

    fn check_writable(&self, scope: &Scope, frees_space: bool) -> Result<(), CommandError> {
        let takes_writes = |shard: &Shard| shard.takes_writes(frees_space);
        match scope {
            Scope::Everything => self.shards.list().iter().try_for_each(takes_writes),
            Scope::Keys(keys) => keys
                .iter()
                .try_for_each(|(_, key)| takes_writes(self.shards.shard_of(Slot::of(key))?)),
        }
    }

    /// What the reply to a granted schedule step says: whether a key that the client watches was modified, the newest
    /// version of the shards' collections, their database map if everything is locked, and each key.
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
        if let Scope::Keys(keys) = scope {
            for key in keys {
                self.shards.export(key, replies)?;
            }
        }
        Ok(())
    }

    /// Answers a [`Question`].
    fn answer_question(&mut self, argument: &[u8], replies: &mut Vec<u8>) -> Result<(), CommandError> {
        let question = Question::decode(argument).ok_or(CommandError::Internal)?;
        StepAnswer::begin_content(replies);
        let view = &mut View::Local(LocalShards {
            shards: &mut self.shards,
            watches_and_locks: &mut self.interests,
        });
        match question {
            Question::Member(owner, column, member) => {
                let value = view.member(&owner, column, member)?.map(<[u8]>::to_vec);
                FieldWriter(replies).optional_bytes(value.as_deref());
            }
            Question::Members(owner, column, range, direction, count) => {
                let mut left = count;
                // How many members there are is not told, so that none are loaded into memory.
                view.scan_members((&owner, u64::MAX), column, range, direction, |member, value| {
                    if left == 0 {
                        return ControlFlow::Break(());
                    }
                    left -= 1;
                    write_member(replies, member, value);
                    ControlFlow::Continue(())
                })?;
            }
            Question::Keys(keys) => self.answer_keys_at(&keys, replies)?,
            Question::Count(database) => FieldWriter(replies).number(self.shards.key_count(database)?),
            Question::KeysOf(database, range, now_ms) => self.answer_keys_of(database, &range, now_ms, replies)?,
        }
        Ok(())
    }

    /// Each key as [`Shards::export`](crate::storage::shards::Shards::export) has it, behind the length of that.
    fn answer_keys_at(&mut self, keys: &[DatabaseKey], replies: &mut Vec<u8>) -> Result<(), CommandError> {
        for key in keys {
            let mut exported = Vec::new();
            self.shards.export(key, &mut exported)?;
            FieldWriter(replies).bytes(&exported);
        }
        Ok(())
    }

    fn answer_keys_of(
        &mut self,
        database: u8,
        range: &KeyRange,
        now_ms: u64,
        replies: &mut Vec<u8>,
    ) -> Result<(), CommandError> {
        let (mut seen, mut last) = (0, None);
        let id = shard_of(Slot(range.slot), self.shards.shard_count());
        self.shards.with_shard(id, |shard| {
            let slots = range.slot..range.end;
            let epoch = shard.scan(database, slots, range.after.as_deref(), |_, key, record| {
                if record.is_alive(now_ms) {
                    write_key(replies, record.kind, key);
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
        end_keys(replies, last.as_deref());
        Ok(())
    }

    /// Stages the redo record of a transaction, and the part of the shard that has it.
    fn prepare(&mut self, argument: &[u8], client_id: u64) -> Result<StepAnswer<'static>, CommandError> {
        let Prepare {
            id,
            releases_locks,
            parts: stored,
        } = Prepare::decode(argument).ok_or(CommandError::Internal)?;
        let parts = redo::decode_parts(stored).ok_or(CommandError::Internal)?;
        let primary = parts.first().ok_or(CommandError::Internal)?;
        self.begin_parts_of(id, client_id);
        self.interests.tell_whole_changes_of(&mut self.shards, primary);
        self.shards.with_shard(primary.shard, |shard| {
            shard.apply(&primary.writes)?;
            Ok(((), shard.stage_redo(id, stored.to_vec())?))
        })?;
        faults::reached(Point::RedoStaged);
        if releases_locks {
            self.release_locks(id);
        }
        Ok(StepAnswer::Done)
    }

    /// Stages the parts of a transaction that has no redo record: all it has written is on one shard.
    fn apply(&mut self, apply: &Apply, client_id: u64) -> Result<StepAnswer<'static>, CommandError> {
        self.begin_parts_of(apply.id, client_id);
        let applied = apply.parts.iter().try_for_each(|part| {
            self.interests.tell_whole_changes_of(&mut self.shards, part);
            self.shards
                .with_shard(part.shard, |shard| Ok(((), shard.apply(&part.writes)?)))
        });
        // If it fails, nobody has been told that it is done, and nothing else has been written.
        self.release_locks(apply.id);
        applied.map(|()| StepAnswer::Done)
    }

    /// Parts of a transaction are about to be staged.
    pub(super) fn begin_parts_of(&mut self, id: TransactionId, client_id: u64) {
        assert!(
            self.interests.locks.is_granted(id),
            "a transaction writes under its locks"
        );
        // All parts are one to clients that are told of a flush.
        self.interests.tracked.command = (client_id, id as u32);
    }

    /// Tells whether a transaction's redo record is there.
    fn resolve(&mut self, argument: &[u8]) -> Result<StepAnswer<'static>, CommandError> {
        let Resolve { id, shard } = Resolve::decode(argument).ok_or(CommandError::Internal)?;
        let is_decided = self.shards.with_shard(shard, |shard| shard.has_redo(id))?;
        Ok(match is_decided {
            true => StepAnswer::Decided,
            false => StepAnswer::NeverWas,
        })
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

    /// Redo records, or the markers of applied parts, are not needed any more. Returns whether records were among them:
    /// without its marker a part would be applied again, over newer writes, by a start that finds its record. So the
    /// markers may go when the records have gone from the disk, and not only from memory: they lie in other logs, which
    /// keep more or less of their ends when power fails.
    fn forget(&mut self, argument: &[u8]) -> Result<bool, CommandError> {
        let records = Forget::decode_all(argument).ok_or(CommandError::Internal)?;
        let mut are_records = false;
        for Forget { is_primary, shard, id } in records {
            are_records |= is_primary;
            self.shards.with_shard(shard, |shard| {
                if !is_primary {
                    return Ok(((), shard.forget_applied(id)?));
                }
                faults::reached(Point::BeforeForget);
                let epoch = shard.delete_redo(id)?;
                faults::reached(Point::AfterForget);
                Ok(((), epoch))
            })?;
        }
        Ok(are_records)
    }

    /// Lets what a step has written stand, and has its answer wait for the disk. The step's credit goes back at once:
    /// where syncs are rare, the answers of many steps wait, and none of the clients' requests may wait for these.
    fn answer_from_disk(&mut self, batch: &mut Batch, request: &Request) {
        self.command_stands(request.caller.client_id);
        let mut answer = Batch::new(batch.reply_to().clone());
        answer.destination = batch.destination;
        answer.answer(request, StepAnswer::Done.fixed());
        for response in &mut answer.responses {
            (response.failed, response.commit_epoch) = (false, self.shards.touched().epoch);
        }
        batch.responses.push(waiting_response(request));
        self.parked.for_disk.push(answer);
    }

    /// What was written is on disk, or never will be: steps that wait for that are answered.
    pub(super) fn answer_steps_from_disk(&mut self) {
        let durable_epoch = self.threads.syncer.durable_epoch();
        let on_disk = self.shards.released_epoch(Some(durable_epoch));
        let is_due = |answer: &mut Box<Batch>| answer.responses.iter().all(|response| response.commit_epoch <= on_disk);
        self.parked.for_disk.extract_if(.., is_due).for_each(Batch::send_back);
    }
}
