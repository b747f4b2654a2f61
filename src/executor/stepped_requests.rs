//! Requests whose commands come [in steps](crate::commands::steps): each turn goes on with one of them for half a
//! millisecond. A client's later commands wait behind; those of all others go on, but for those that need its keys.
//!
//! Only what a network executor sends for a client comes in steps, and no EXEC, function or script: these run whole.

use super::request::Handled;
use super::storage_executor::StorageExecutor;
use super::turn::Batches;
use crate::channel::message::{Batch, Caller, Request, RequestId, Response};
use crate::channel::responses::responses;
use crate::command::{self, BLOCKING, Runs};
use crate::commands::removals;
use crate::commands::script_runs::Driven;
use crate::commands::steps::InSteps;
use crate::error::CommandError;
use crate::panics::{self, Panicked};
use crate::protocol::Span;
use crate::slots::Slot;
use crate::storage::keyspace::Touched;
use crate::storage::shard::{Shard, ShardState};
use crate::storage::shards::TakenBack;
use crate::storage::transaction_scope::{DatabaseKey, Mode, Scope, TransactionId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a turn goes on with a command, and with the step that it is at then.
const DRIVEN_MAX: Duration = Duration::from_micros(500);

/// Commands that are gone on with in turn: what each of them has in memory may be as large as the collections that it
/// works on.
const AT_ONCE_MAX: usize = 4;

/// How long a removal waits for room on the disk before it tries again.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(10);

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SteppedRequests {
    /// The first ones are gone on with, the others have only begun.
    begun: VecDeque<Stepped>,
    /// The request that is being run may come in steps.
    pub(super) may_begin: bool,
    /// How many were begun in an earlier run.
    resumed: u64,
}

/// A request that is not over, in a batch of its own with its credit.
struct Stepped {
    batch: Box<Batch>,
    command: Box<InSteps>,
    /// Those that it has been granted.
    locks: Vec<TransactionId>,
    /// What its steps have read and written.
    touched: Touched,
    /// How long they took.
    took: Duration,
    /// The collections that it makes, each by its shard's index and its version.
    makes: Vec<(usize, u64)>,
    /// What it has read or written was taken back.
    failure: Option<CommandError>,
    /// Nobody knows whether a restart will find that.
    may_stand: bool,
    /// All that is left of it is to be logged.
    is_done: bool,
    /// It waits until then: there was no room on the disk.
    pauses_until: Option<Instant>,
}

impl Stepped {
    fn is_due(&self) -> bool {
        self.pauses_until.is_none_or(|until| until <= Instant::now())
    }
}

/// A command that has begun, and goes on in steps.
pub(super) struct Begun {
    pub(super) command: Box<InSteps>,
    /// When its first step was over.
    pub(super) ended: Instant,
    /// How long that took.
    pub(super) took: Duration,
}

impl SteppedRequests {
    /// What writes have done is taken back: commands that have seen that fail.
    pub(super) fn take_back(&mut self, taken_back: &TakenBack) {
        for stepped in &mut self.begun {
            if stepped.touched.epoch >= taken_back.from_epoch {
                stepped.failure.get_or_insert(taken_back.error.clone());
                stepped.may_stand |= taken_back.may_stand;
            }
        }
    }
}

impl StorageExecutor {
    /// Whether the command that begins may come in steps. What may wait for data instead answers whoever comes first.
    pub(super) fn may_take_steps(&self, request: &Request) -> bool {
        let may_be_left = matches!(request.command.runs, Runs::Shard | Runs::Transaction);
        may_be_left && !request.command.flags.has(BLOCKING) && !self.long_script.is_next
    }

    /// Goes on, in the turns to come, with the removals that a crash has interrupted; before anybody is served.
    pub(super) fn resume_removals(&mut self) {
        for index in 0..self.shards.list().len() {
            let shard = &mut self.shards.list_mut()[index];
            let found = shard.removals().unwrap_or_else(|error| {
                tracing::error!(shard = shard.id().0, %error, "cannot read which removals are not over");
                Vec::new()
            });
            for (version, stored) in found {
                let Some(command) = removals::resume(version, &stored) else {
                    tracing::error!(version, "what is to remain of a collection is damaged");
                    continue;
                };
                self.stepped.resumed += 1;
                let scope = Scope::Keys(command.writes().to_vec());
                let locks = vec![self.interests.locks.hold(scope, Mode::Exclusive)];
                self.resume_removal(Box::new(command), locks, None);
            }
        }
        if self.stepped.resumed > 0 {
            tracing::info!(
                found = self.stepped.resumed,
                "going on with removals that the last run had begun"
            );
        }
    }

    /// What nobody waits for comes in steps, too, in a batch to nobody.
    fn resume_removal(&mut self, command: Box<InSteps>, locks: Vec<TransactionId>, pauses_until: Option<Instant>) {
        let (nobody, _) = responses();
        let mut batch = Batch::new(nobody);
        let row = command::find(b"zremrangebyrank").expect("a row that removes members");
        batch.push(RequestId::default(), row, Caller::default(), Instant::now(), []);
        self.stepped.begun.push_back(Stepped {
            touched: Touched::default(),
            batch,
            command,
            locks,
            took: Duration::ZERO,
            makes: Vec::new(),
            failure: None,
            may_stand: false,
            is_done: false,
            pauses_until,
        });
    }

    /// Lets a request wait whose command goes on in steps.
    pub(super) fn take_steps(&mut self, batch: Box<Batch>, begun: Begun) {
        let request = batch.requests[0];
        let Begun { command, took, .. } = begun;
        self.metrics.stepped_requests.add(1);
        if request.caller.client_id != 0 {
            self.parked.behind.entry(request.caller.client_id).or_default();
        }
        let locks = match self.interests.locks.running() {
            // It goes on under the locks that it has waited for.
            Some(id) => vec![id],
            None => {
                let named =
                    command::database_keys_of(request.command, batch.arguments(&request), request.caller.database);
                // Of those that it has named: no transaction has these.
                let is_written = |key: &DatabaseKey| command.writes().contains(key);
                let (writes, reads) = named.into_iter().partition(is_written);
                let locks = &mut self.interests.locks;
                let reads = locks.hold(Scope::Keys(reads), Mode::Shared);
                vec![reads, locks.hold(Scope::Keys(writes), Mode::Exclusive)]
            }
        };
        self.stepped.begun.push_back(Stepped {
            touched: self.shards.touched(),
            batch,
            command,
            locks,
            took,
            makes: Vec::new(),
            failure: None,
            may_stand: false,
            is_done: false,
            pauses_until: None,
        });
    }

    /// Whether locks are those of a command that goes on in steps.
    pub(super) fn are_of_steps(&self, id: TransactionId) -> bool {
        self.stepped.begun.iter().any(|stepped| stepped.locks.contains(&id))
    }

    /// Whether there is a command to go on with. While the log takes nothing, none writes more.
    pub(super) fn has_steps(&self) -> bool {
        let is_stalled = |shard: &Shard| *shard.state() == ShardState::Stalled;
        self.stepped.begun.iter().any(Stepped::is_due) && !self.shards.list().iter().any(is_stalled)
    }

    /// Goes on with one of the commands for a while, in a turn that has begun.
    pub(super) fn run_steps(&mut self, done: &mut Batches) {
        // A long script has its turn for itself.
        if !self.has_steps() || self.long_script.is_next || !self.parked.long.is_empty() {
            return;
        }
        let due = self.stepped.begun.iter().position(Stepped::is_due);
        let Some(mut stepped) = due.and_then(|index| self.stepped.begun.remove(index)) else {
            return;
        };
        let began = Instant::now();
        let driven = self.drive(&mut stepped, began);
        stepped.took += began.elapsed();
        match driven {
            Ok(Driven::Paused) => {
                let place = self.stepped.begun.len().min(AT_ONCE_MAX - 1);
                self.stepped.begun.insert(place, stepped);
            }
            Ok(Driven::Done) => self.end_steps(stepped, Ok(()), done),
            Err(error) => {
                let begun = self.begun_removal(&stepped);
                let may_stand = stepped.may_stand && stepped.command.removes_from.is_some();
                match begun.is_some() || may_stand {
                    true => self.end_unanswered(stepped, begun, &error, done),
                    false => self.end_steps(stepped, Err(error), done),
                }
            }
        }
    }

    /// What was logged of a removal that has failed: the index of its shard, the version, and what is to remain.
    fn begun_removal(&mut self, stepped: &Stepped) -> Option<(usize, u64, Vec<u8>)> {
        self.roll_back_command();
        let owner = stepped.command.removes_from.as_ref()?;
        let index = self.shards.index_of(Slot::of(&owner.key)).ok()?;
        let stored = self.shards.list_mut()[index].removal(owner.version).ok()??;
        Some((index, owner.version, stored))
    }

    /// A removal has failed, of which a part stands or may stand: no answer would be right, so its client's connection
    /// is closed. Where there was no room on the disk it is gone on with when there is; where its data cannot be read
    /// it is given up; and where its shard has stopped the next start goes on with it.
    fn end_unanswered(
        &mut self,
        stepped: Stepped,
        begun: Option<(usize, u64, Vec<u8>)>,
        error: &CommandError,
        done: &mut Batches,
    ) {
        tracing::warn!(%error, "a removal is interrupted");
        let Stepped { mut batch, locks, .. } = stepped;
        let request = batch.requests[0];
        batch.replies.clear();
        batch.responses.push(Response {
            id: request.id,
            reply: Span::new(0, 0),
            command: request.command,
            took_ns: 0,
            failed: true,
            commit_epoch: 0,
            more: 0,
        });
        done.push(batch);
        let has_no_room = *error == CommandError::DiskFull;
        let resumed = begun
            .as_ref()
            .and_then(|(_, version, stored)| removals::resume(*version, stored))
            .filter(|_| has_no_room);
        if let Some(command) = resumed {
            let pauses_until = Instant::now() + NO_ROOM_PAUSE;
            self.resume_removal(Box::new(command), locks, Some(pauses_until));
        } else {
            if let Some((index, version, _)) = begun {
                // Or else it would take members that are added from now on.
                let shard = &mut self.shards.list_mut()[index];
                if shard.write_removal(version, None).is_ok() {
                    self.shards.keep_command();
                }
            }
            locks.into_iter().for_each(|id| self.release_locks(id));
        }
        self.run_behind(request.caller.client_id, done);
        self.resume(done);
    }

    /// Runs steps of a command. If it is not over then, what they have done stands.
    fn drive(&mut self, stepped: &mut Stepped, began: Instant) -> Result<Driven, CommandError> {
        let request = stepped.batch.requests[0];
        self.begin_command((request.id, request.command, request.caller));
        // Those that it has named were told when it began.
        self.effects.tracks_read = false;
        let versions: Vec<u64> = self.shards.list().iter().map(Shard::newest_version).collect();
        if let Some(error) = &stepped.failure {
            return Err(error.clone());
        }
        if stepped.is_done {
            return Ok(Driven::Done);
        }
        let frees_space = request.command.frees_space() && self.shards.any_takes_no_writes();
        self.shards.set_frees_space(frees_space);
        let (arguments, replies) = stepped.batch.parts(&request);
        let (mut context, metrics) = self.context(request.caller, arguments, replies);
        let command = &mut stepped.command;
        let driven = panics::contain(|| command.drive(&mut context, || began.elapsed() >= DRIVEN_MAX));
        let driven = driven.unwrap_or_else(|Panicked| {
            metrics.panics.add(1);
            tracing::error!(
                command = request.command.name,
                "a handler panicked; its writes were dropped"
            );
            Err(CommandError::Internal)
        });
        self.shards.set_frees_space(false);
        let mut driven = driven?;
        if driven == Driven::Done && command.removes_from.is_some() {
            // It ends when its last step is logged, too: until then it may have to be gone on with.
            (stepped.is_done, driven) = (true, Driven::Paused);
        }
        if driven == Driven::Paused {
            self.shards.check_frame_len()?;
            for (index, version) in versions.into_iter().enumerate() {
                let shard = &mut self.shards.list_mut()[index];
                // A command makes one collection.
                if shard.newest_version() > version {
                    stepped.makes.push((index, shard.is_making_newest()));
                }
            }
            self.shards.add_touched(stepped.touched);
            stepped.touched = self.shards.touched();
            self.command_stands(request.caller.client_id);
        }
        Ok(driven)
    }

    /// A command is over: its last step stands, or is rolled back, and what was made before is made or dead.
    fn end_steps(&mut self, stepped: Stepped, result: Result<(), CommandError>, done: &mut Batches) {
        let Stepped {
            mut batch,
            locks,
            touched,
            took,
            makes,
            ..
        } = stepped;
        let request = batch.requests[0];
        let now = Instant::now();
        self.shards.add_touched(touched);
        let whose = (request.id, request.command, request.caller);
        let ended = self.settle(
            Handled::of(result),
            whose,
            &mut batch,
            0,
            now.checked_sub(took).unwrap_or(now),
        );
        for (index, version) in makes {
            self.shards.list_mut()[index].is_made(version);
        }
        self.serve_waiters(ended);
        done.push(batch);
        locks.into_iter().for_each(|id| self.release_locks(id));
        self.run_behind(request.caller.client_id, done);
        self.resume(done);
    }
}
