//! Requests whose commands come [in steps](crate::commands::steps): each turn goes on with one of them for half a
//! millisecond. A client's later commands wait behind; those of all others go on, but for those that need its keys.
//!
//! Only what a network executor sends for a client comes in steps, and no EXEC, function or script: these run whole.

use super::request::Handled;
use super::storage_executor::StorageExecutor;
use super::turn::Batches;
use crate::channel::message::{Batch, Request};
use crate::command::{self, Runs};
use crate::commands::script_runs::Driven;
use crate::commands::steps::InSteps;
use crate::error::CommandError;
use crate::panics::{self, Panicked};
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

/// See the module's documentation.
#[derive(Default)]
pub(super) struct SteppedRequests {
    /// The first ones are gone on with, the others have only begun.
    begun: VecDeque<Stepped>,
    /// The request that is being run may come in steps.
    pub(super) may_begin: bool,
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
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// What writes have done is taken back: commands that have seen that fail.
    pub(super) fn take_back(&mut self, taken_back: &TakenBack) {
        for stepped in &mut self.begun {
            if stepped.touched.epoch >= taken_back.from_epoch {
                stepped.failure.get_or_insert(taken_back.error.clone());
            }
        }
    }
}

impl StorageExecutor {
    /// Whether the command that begins may come in steps.
    pub(super) fn may_take_steps(&self, request: &Request) -> bool {
        !self.long_script.is_next && matches!(request.command.runs, Runs::Shard | Runs::Transaction)
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
        });
    }

    /// Whether locks are those of a command that goes on in steps.
    pub(super) fn are_of_steps(&self, id: TransactionId) -> bool {
        self.stepped.begun.iter().any(|stepped| stepped.locks.contains(&id))
    }

    /// Whether there is a command to go on with. While the log takes nothing, none writes more.
    pub(super) fn has_steps(&self) -> bool {
        let is_stalled = |shard: &Shard| *shard.state() == ShardState::Stalled;
        !self.stepped.is_empty() && !self.shards.list().iter().any(is_stalled)
    }

    /// Goes on with one of the commands for a while, in a turn that has begun.
    pub(super) fn run_steps(&mut self, done: &mut Batches) {
        // A long script has its turn for itself.
        if !self.has_steps() || self.long_script.is_next || !self.parked.long.is_empty() {
            return;
        }
        let Some(mut stepped) = self.stepped.begun.pop_front() else {
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
            Err(error) => self.end_steps(stepped, Err(error), done),
        }
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
        })?;
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
