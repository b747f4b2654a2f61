//! One request: its handler is run, its writes stand or are rolled back, its reply is appended to its batch.

use super::blocked_commands::waiting_response;
use super::missed_requests::Missed;
use super::stepped_requests::Begun;
use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Caller, REPLY_BYTES_MAX, Request, RequestId, Response};
use crate::channel::step_arguments::Schedule;
use crate::command::{self, BLOCKING, Command, Internal, QUIET, READ, Runs, Step};
use crate::commands::blocking::Waiting;
use crate::commands::pausing::{Pausing, may_pause};
use crate::commands::script_runs::Driven;
use crate::commands::steps::InSteps;
use crate::commands::{Context, Handler, keys};
use crate::error::CommandError;
use crate::executor::waiters::Claim;
use crate::panics::{self, Panicked};
use crate::protocol::{Arguments, Reply, Span, Version};
use crate::registry::clients::Ticket;
use crate::registry::metrics::{StorageMetrics, count_ran};
use crate::registry::tracked_keys::Reader;
use crate::storage::pieces::{Pieces, Written};
use crate::storage::transaction_scope::Scope;
use crate::storage::view::{LocalShards, View};
use std::time::Instant;

/// A script, or a transaction with scripts, that goes on when others have had their turn.
pub(super) struct Paused {
    pub(super) command: Pausing,
    /// Where its reply begins among those of its batch.
    pub(super) reply_at: usize,
}

/// How far a request was run.
pub(super) enum Ran {
    /// To its end, at this time.
    Ended(Instant),
    /// Into the middle of its script.
    Paused(Paused),
    /// To something that is not in memory: it was undone, and is to be set aside.
    Missed(Missed),
    /// To its next step.
    InSteps(Begun),
}

/// The part of a reply that is not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remainder {
    None,
    /// Pieces, kept under this number.
    Begun(u64),
    /// The data cannot be read to their end.
    Unreadable,
}

impl Remainder {
    /// The number of the pieces, 0 if there are none.
    pub(super) fn number(self) -> u64 {
        match self {
            Remainder::Begun(number) => number,
            Remainder::None | Remainder::Unreadable => 0,
        }
    }
}

/// What came of a handler.
pub(super) struct Handled {
    pub(super) result: Result<(), CommandError>,
    pub(super) pieces: Option<Box<Pieces>>,
    pub(super) waits: Option<Box<Waiting>>,
    /// What goes on in steps.
    pub(super) steps: Option<Box<InSteps>>,
    /// The command is a script that is to go on.
    pub(super) is_paused: bool,
}

impl Handled {
    pub(super) fn of(result: Result<(), CommandError>) -> Handled {
        Handled {
            result,
            pieces: None,
            waits: None,
            steps: None,
            is_paused: false,
        }
    }
}

/// The client that sent a command is gone, or was answered otherwise.
pub(super) struct NobodyWaits;

/// Refuses replies of a batch of which the positions do not fit 32 bits.
pub(super) fn check_len(replies: &[u8]) -> Result<(), CommandError> {
    match replies.len() <= REPLY_BYTES_MAX {
        true => Ok(()),
        false => Err(CommandError::text("ERR the reply is longer than 4 GiB")),
    }
}

/// The handler of a request of a network executor that is no client's command.
fn internal_handler(internal: Internal) -> Option<Handler> {
    match internal {
        Internal::PiecesNext => Some(keys::pieces_next),
        Internal::PiecesDrop => Some(keys::pieces_drop),
        // These are about the executor and not about its data.
        Internal::WatchesDrop | Internal::WaitersDrop | Internal::WaitDurable | Internal::WaitSource => None,
    }
}

/// Runs a handler; a panic becomes an error, and the executor lives.
#[inline]
pub(super) fn run_contained(
    command: &Command,
    context: &mut Context<'_>,
    metrics: &StorageMetrics,
) -> Result<(), CommandError> {
    let handler = match command.runs {
        Runs::Internal(internal) => internal_handler(internal),
        _ => context.handlers.of(command),
    };
    let handler = handler.ok_or(CommandError::Internal)?;
    panics::contain(|| handler(context)).unwrap_or_else(|Panicked| {
        metrics.panics.add(1);
        tracing::error!(command = command.name, "a handler panicked; its writes were dropped");
        Err(CommandError::Internal)
    })
}

/// Begins or resumes a command that may pause; `begun` has it if it does. A panic becomes an error.
pub(super) fn run_pausing(
    command: &Command,
    context: &mut Context<'_>,
    metrics: &StorageMetrics,
    begun: &mut Option<Pausing>,
) -> Result<Driven, CommandError> {
    let run = || {
        let begun = match begun {
            Some(begun) => begun,
            None => begun.insert(Pausing::begin(command, context)?),
        };
        begun.drive(context)
    };
    panics::contain(run).unwrap_or_else(|Panicked| {
        metrics.panics.add(1);
        tracing::error!(command = command.name, "a script panicked; its writes were dropped");
        Err(CommandError::Internal)
    })
}

impl StorageExecutor {
    /// Runs one request and appends its response, unless it is to be answered later. A script that is `resumed` goes
    /// on.
    pub(super) fn run_request(
        &mut self,
        batch: &mut Batch,
        request: &Request,
        began: Instant,
        resumed: Option<Paused>,
    ) -> Ran {
        match request.command.runs {
            Runs::Internal(Internal::WaitDurable) => {
                self.answer_when_durable(batch, request);
                return Ran::Ended(began);
            }
            Runs::Internal(Internal::WaitSource) => {
                self.wait_for_source(batch, request, began);
                return Ran::Ended(Instant::now());
            }
            _ => {}
        }
        let claim = match self.claim_of(batch, request) {
            Ok(claim) => claim,
            // The client is gone, or was answered by another executor.
            Err(NobodyWaits) => {
                batch.responses.push(waiting_response(request));
                return Ran::Ended(began);
            }
        };
        let start = resumed.as_ref().map_or(batch.replies.len(), |paused| paused.reply_at);
        let mut resumed = resumed.map(|paused| paused.command);
        let whose = (request.id, request.command, request.caller);
        let random = self.random;
        if resumed.is_none() {
            self.begin_command(whose);
        }
        let Some(mut handled) = self.handle(batch, request, began, &mut resumed) else {
            // The request is parked, and answered later.
            return Ran::Ended(began);
        };
        if self.shards.has_missed() {
            drop(resumed);
            self.undo_command(batch, start);
            let (ended, took) = (Instant::now(), began.elapsed());
            return Ran::Missed(Missed { ended, took, random });
        }
        if let Some(command) = resumed.take_if(|_| handled.is_paused) {
            let reply_at = start;
            return Ran::Paused(Paused { command, reply_at });
        }
        if handled.result == Err(CommandError::Elsewhere) {
            self.hand_back(batch, request, start);
            return Ran::Ended(Instant::now());
        }
        if request.command.runs == Runs::Exec {
            // The client's transaction is over, whatever came of it.
            self.interests.unwatch(&mut self.shards, request.caller.client_id);
        }
        if request.caller.tracks {
            self.track_read(batch, request);
        }
        if let Some(command) = handled.steps.take_if(|_| handled.result.is_ok()) {
            assert!(
                claim.is_none() && batch.replies.len() == start,
                "its steps write its reply"
            );
            self.command_stands(request.caller.client_id);
            let (ended, took) = (Instant::now(), began.elapsed());
            return Ran::InSteps(Begun { command, ended, took });
        }
        let Some(claim) = claim else {
            let ended = self.settle(handled, whose, batch, start, began);
            self.serve_waiters(ended);
            return Ran::Ended(ended);
        };
        self.settle_one_that_may_wait(handled, claim, batch, request, (start, began))
    }

    /// Runs a request's handler, or does the step that it is. `None` if it waits for something first.
    #[inline]
    fn handle(
        &mut self,
        batch: &mut Batch,
        request: &Request,
        began: Instant,
        resumed: &mut Option<Pausing>,
    ) -> Option<Handled> {
        Some(if began > request.deadline && resumed.is_none() {
            self.metrics.timeouts.add(1);
            Handled::of(Err(CommandError::Timeout))
        } else if let Runs::Step(step) = request.command.runs
            && step != Step::Run
        {
            Handled::of(self.run_or_park_step(step, batch, request)?)
        } else if let Runs::Internal(internal @ (Internal::WatchesDrop | Internal::WaitersDrop)) = request.command.runs
        {
            Handled::of(self.drop_interest(internal, batch, request))
        } else {
            let may_miss = resumed.is_none() && self.may_miss(batch, request);
            let may_take_steps = self.may_take_steps(request);
            let (mut arguments, replies) = batch.parts(request);
            let mut command = request.command;
            if matches!(command.runs, Runs::Step(_)) {
                arguments = arguments.from(1);
                command = command::find(arguments.get(0)).unwrap_or(command);
            }
            self.shards.set_may_miss(may_miss);
            self.stepped.may_begin = may_take_steps;
            let handled = self.run_handler(command, request.caller, arguments, replies, resumed);
            self.stepped.may_begin = false;
            self.shards.set_may_miss(false);
            handled
        })
    }

    /// Ends a command that may wait: it is entered among the waiters, or answered unless another executor has done
    /// that.
    fn settle_one_that_may_wait(
        &mut self,
        mut handled: Handled,
        claim: Claim,
        batch: &mut Batch,
        request: &Request,
        (start, began): (usize, Instant),
    ) -> Ran {
        let whose = (request.id, request.command, request.caller);
        match handled.waits.take() {
            Some(waiting) if handled.result.is_ok() => {
                // The command does not wake itself by what it wrote: it is not entered yet.
                self.command_stands(request.caller.client_id);
                let seen = self.shards.touched().epoch;
                self.serve_waiters(began);
                batch.replies.truncate(start);
                let waiters = &mut self.interests.waiters;
                waiters.add((batch, request), claim, &waiting, (began, seen));
                self.interests.update_interest(&mut self.shards);
                batch.responses.push(waiting_response(request));
                Ran::Ended(Instant::now())
            }
            _ if !claim.take() => {
                self.roll_back_command();
                batch.replies.truncate(start);
                batch.responses.push(waiting_response(request));
                Ran::Ended(began)
            }
            _ => {
                let ended = self.settle(handled, whose, batch, start, began);
                self.forget_command(&claim);
                self.serve_waiters(ended);
                Ran::Ended(ended)
            }
        }
    }

    /// A client does not watch any more, or does not wait any more: it was answered elsewhere, or is gone.
    fn drop_interest(&mut self, internal: Internal, batch: &mut Batch, request: &Request) -> Result<(), CommandError> {
        let (arguments, replies) = batch.parts(request);
        if internal == Internal::WatchesDrop {
            self.interests.unwatch(&mut self.shards, request.caller.client_id);
        } else {
            let client_id = arguments.get(1).first_chunk().ok_or(CommandError::Internal)?;
            let ticket = arguments.get(2).first_chunk().ok_or(CommandError::Internal)?;
            let (client_id, ticket) = (u64::from_be_bytes(*client_id), Ticket::from_be_bytes(*ticket));
            self.interests.waiters.remove_command(client_id, ticket);
        }
        Reply::new(replies, request.caller.version).ok();
        Ok(())
    }

    /// The claim to answer a command that may wait; `None` for any other command.
    pub(super) fn claim_of(&self, batch: &Batch, request: &Request) -> Result<Option<Claim>, NobodyWaits> {
        let (command, caller) = (request.command, request.caller);
        if !command.flags.has(BLOCKING) || !command.may_wait(batch.arguments(request)) {
            return Ok(None);
        }
        let client = self.interests.waiters.client(caller.client_id).ok_or(NobodyWaits)?;
        let ticket = Ticket::of(request.id.sequence);
        match client.awaits(ticket) {
            true => Ok(Some(Claim { client, ticket })),
            false => Err(NobodyWaits),
        }
    }

    /// Begins a command that a client has asked for.
    #[inline]
    pub(super) fn begin_command(&mut self, (id, command, caller): (RequestId, &'static Command, Caller)) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.shards.begin_command();
        self.shards.set_quiet(command.flags.has(QUIET));
        self.interests.tracked.command = (caller.client_id, id.sequence);
        self.shards.track_missed(self.effects.wants_missed(command));
        if caller.tracks {
            self.shards.track_modified(true);
            self.effects.tracks_read = true;
        }
    }

    /// Runs a command's handler. What that staged neither stands nor is dropped yet.
    #[inline]
    pub(super) fn run_handler(
        &mut self,
        command: &'static Command,
        caller: Caller,
        arguments: Arguments<'_>,
        replies: &mut Vec<u8>,
        resumed: &mut Option<Pausing>,
    ) -> Handled {
        let may_pause = may_pause(command, arguments);
        if may_pause {
            self.effects.is_monitored = self.outbox.is_monitored();
        }
        let denies_in_part = command.may_write() && self.shards.any_takes_no_writes();
        if denies_in_part {
            self.shards.set_frees_space(command.frees_space());
            let keys = command::database_keys_of(command, arguments, caller.database);
            self.shards.deny_writes_in_part(&keys);
        }
        let begins_exec = command.runs == Runs::Exec && resumed.is_none();
        let is_watched_key_modified = begins_exec
            && self
                .interests
                .is_watched_key_modified(&mut self.shards, caller.client_id);
        let (mut context, metrics) = self.context(caller, arguments, replies);
        context.is_watched_key_modified = is_watched_key_modified;
        let (result, is_paused) = match may_pause {
            true => match run_pausing(command, &mut context, metrics, resumed) {
                Ok(Driven::Done) => (Ok(()), false),
                Ok(Driven::Paused) => (Ok(()), true),
                Err(error) => (Err(error), false),
            },
            false => (run_contained(command, &mut context, metrics), false),
        };
        let handled = Handled {
            pieces: context.pieces.take(),
            waits: context.waits.take(),
            steps: context.steps.take(),
            is_paused,
            ..Handled::of(result)
        };
        if denies_in_part {
            self.shards.allow_writes();
            self.shards.set_frees_space(false);
        }
        handled
    }

    /// What a handler gets that runs for `caller`, and the counters, which are free meanwhile.
    #[inline(always)]
    pub(super) fn context<'a>(
        &'a mut self,
        caller: Caller,
        arguments: Arguments<'a>,
        replies: &'a mut Vec<u8>,
    ) -> (Context<'a>, &'a StorageMetrics) {
        let context = Context {
            arguments,
            reply: Reply::new(replies, caller.version),
            now_ms: self.shards.now_ms(),
            view: View::Local(LocalShards {
                shards: &mut self.shards,
                watches_and_locks: &mut self.interests,
            }),
            database: caller.database,
            seed: self.random,
            string_bytes_max: self.settings.current.proto_max_bulk_len.as_usize(),
            client_id: caller.client_id,
            is_watched_key_modified: false,
            is_inner: false,
            handlers: self.handlers,
            script_seat: Some(&self.script_seat),
            effects: &mut self.effects,
            pieces: None,
            may_take_steps: self.stepped.may_begin,
            steps: None,
            waits: None,
        };
        (context, &self.metrics)
    }

    /// Ends a command: its writes stand, or are rolled back if it failed, and its response is appended to `batch`, in
    /// whose replies its own begin at `start`. Returns the time.
    #[inline]
    pub(super) fn settle(
        &mut self,
        handled: Handled,
        (id, command, caller): (RequestId, &'static Command, Caller),
        batch: &mut Batch,
        start: usize,
        began: Instant,
    ) -> Instant {
        assert!(start <= batch.replies.len(), "replies are only appended");
        let Handled { result, pieces, .. } = handled;
        let outcome = result.and_then(|()| self.write_pieces(pieces, &mut batch.replies, caller.version));
        let outcome = outcome.and_then(|remainder| self.shards.check_frame_len().map(|()| remainder));
        let failed = outcome.is_err();
        // An error about a shard's state depends on no data: it need not wait until what the command has read is safe.
        let is_of_state = matches!(
            outcome,
            Err(CommandError::Stalled | CommandError::DiskFull | CommandError::ShardDown(_) | CommandError::Timeout)
        );
        let more = match outcome {
            Ok(remainder) => {
                if remainder == Remainder::Unreadable {
                    // An empty reply, with no more to come, closes the connection.
                    batch.replies.truncate(start);
                }
                self.command_stands(caller.client_id);
                remainder.number()
            }
            Err(error) => {
                self.roll_back_command();
                batch.replies.truncate(start);
                Reply::new(&mut batch.replies, caller.version).error(error.to_string());
                0
            }
        };
        self.count_inner();
        let ended = Instant::now();
        let touched = self.shards.touched();
        if command.counts_look_ups() {
            self.metrics.keyspace_hits.add(u64::from(touched.found));
            self.metrics.keyspace_misses.add(u64::from(touched.missed));
        }
        let reply = Span::new(start, batch.replies.len() - start);
        batch.responses.push(Response {
            id,
            reply,
            command,
            took_ns: ended
                .saturating_duration_since(began)
                .as_nanos()
                .min(u128::from(u32::MAX)) as u32,
            failed,
            commit_epoch: if is_of_state { 0 } else { touched.epoch },
            more,
        });
        ended
    }

    /// Counts the commands that were parts of the one that has ended.
    pub(super) fn count_inner(&mut self) {
        if !self.effects.ran.is_empty() {
            let (commands, errors) = (&self.metrics.commands, &self.metrics.errors);
            self.metrics
                .inner_commands
                .add(count_ran(&mut self.effects, commands, errors));
            self.outbox.show(&mut self.effects.shown);
        }
    }

    /// What a command has written stands, also if it has found nothing and is to wait (that a group's consumer was
    /// seen): clients and blocked commands are told of it, and its effects go to the outbox.
    #[inline]
    pub(super) fn command_stands(&mut self, client_id: u64) {
        self.shards.keep_command();
        if !self.effects.watched.is_empty() {
            let watched = self.effects.watched.drain(..);
            self.interests.watch(&mut self.shards, client_id, watched);
        }
        self.interests.after_command(&mut self.shards, client_id);
        self.keep_effects();
    }

    /// The client that sent a request tracks the keys that the request and its parts have read: before it is known what
    /// they wrote, so that a key which was read and then written is told.
    pub(super) fn track_read(&mut self, batch: &Batch, request: &Request) {
        let reader = Reader {
            client_id: request.caller.client_id,
            executor: request.caller.executor,
            connection: request.id.connection,
        };
        let arguments = batch.arguments(request);
        if let Runs::Step(Step::Schedule) = request.command.runs {
            // The coordinator reads for the client what the step asks for.
            let schedule = Schedule::decode(arguments.get(1));
            if let Some(schedule) = schedule
                && let Scope::Keys(keys) = &schedule.scope
            {
                let reader = Reader {
                    connection: schedule.connection,
                    ..reader
                };
                self.interests
                    .track_read(keys.iter().map(|(_, key)| key.as_slice()), reader);
            }
        } else if request.command.flags.has(READ) {
            self.interests.track_read(request.command.keys.of(arguments), reader);
        }
        self.effects.tracks_read = false;
        let read = std::mem::take(&mut self.effects.read);
        self.interests.track_read(read.iter().map(Vec::as_slice), reader);
        let keys_max = self.settings.current.tracking_table_max_keys;
        self.interests.tracked.make_room(keys_max);
    }

    /// Drops what the command has staged and what was to be published. The clients that were to be told of outdated
    /// keys are told all the same: a read too many is never wrong.
    pub(super) fn roll_back_command(&mut self) {
        self.shards.roll_back_command();
        self.effects.clear();
        self.keep_effects();
    }

    /// Undoes a command that is to be run again: of all that it did nothing is left, and nobody is told of it.
    pub(super) fn undo_command(&mut self, batch: &mut Batch, start: usize) {
        drop(self.shards.take_key_outcomes());
        self.roll_back_command();
        self.effects.forget_ran();
        self.effects.tracks_read = false;
        self.effects.read.clear();
        batch.replies.truncate(start);
    }

    /// Moves a command's effects to the outbox.
    #[inline]
    fn keep_effects(&mut self) {
        if !self.effects.classes.is_empty() {
            self.effects.add_key_outcomes(&self.shards.take_key_outcomes());
        }
        let outdated = self.interests.tracked.take_outdated();
        let touched = self.shards.touched();
        self.outbox.take_in(touched.epoch, &mut self.effects, outdated);
    }

    /// Writes the next piece of a reply, or all that are left if too many replies have begun.
    ///
    /// # Errors
    /// Those of [`check_len`].
    pub(super) fn write_pieces(
        &mut self,
        pieces: Option<Box<Pieces>>,
        replies: &mut Vec<u8>,
        version: Version,
    ) -> Result<Remainder, CommandError> {
        check_len(replies)?;
        let Some(mut pieces) = pieces else {
            return Ok(Remainder::None);
        };
        loop {
            let written = pieces.write_next(&mut self.shards, replies, version);
            check_len(replies)?;
            let remainder = match written {
                Written::Piece if self.shards.replies_begun.has_room() => {
                    return Ok(Remainder::Begun(self.shards.replies_begun.keep(pieces)));
                }
                Written::Piece => continue,
                Written::All => Remainder::None,
                Written::Broken => Remainder::Unreadable,
            };
            self.shards.replies_begun.end(*pieces);
            return Ok(remainder);
        }
    }
}
