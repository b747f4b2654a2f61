//! Blocked commands: run again when a key of theirs has changed, answered when their time is up.

use super::storage_executor::StorageExecutor;
use crate::channel::message::{Batch, Request, Response, WAITS};
use crate::command::{self, Internal, Runs, WAIT_SOURCE};
use crate::commands::blocking::Waiting;
use crate::executor::locks::Admission;
use crate::executor::waiters::{Claim, HandedOver, Waiter};
use crate::protocol::{Reply, Span};
use crate::registry::clients::Ticket;
use crate::storage::encoding::Type;
use crate::storage::fields::FieldReader;
use crate::storage::shards::TakenBack;
use crate::storage::transaction_scope::DatabaseKey;
use crate::storage::transaction_scope::{Mode, Scope, next_transaction_id};
use futures_lite::future;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl StorageExecutor {
    /// A command is over: the waiters for what it wrote are served, first come first served for each key, in the order
    /// in which the keys were written. So are the waiters for what these write.
    pub(super) fn serve_waiters(&mut self, now: Instant) {
        while let Some(key) = self.interests.ready.pop_front() {
            self.serve_key(&key, now);
        }
    }

    /// Serves the waiters for a key, as far as what is there goes; what they write comes behind what is `ready`.
    fn serve_key(&mut self, key: &DatabaseKey, now: Instant) {
        if !self.interests.waiters.wait_for(key) {
            return;
        }
        // A command that comes to wait meanwhile has seen the key as it is.
        let end = self.interests.waiters.last_number() + 1;
        let mut next = 0;
        while let Some(waiter) = self.interests.waiters.next_for(key, next..end) {
            next = waiter.number + 1;
            let kind = self.shards.kind_of(key);
            if waiter.is_woken_by(kind) {
                if self.is_locked(&waiter) {
                    // The waiters behind this one must not go first.
                    self.parked.ready_later.push(key.clone());
                    return;
                }
                if waiter.command.runs != Runs::Internal(Internal::WaitSource) {
                    self.run_again(&waiter, now);
                } else if !self.hand_over(&waiter, key) {
                    self.parked.ready_later.push(key.clone());
                    return;
                }
            } else if kind.is_none() && !self.interests.waiters.wait_without(key) {
                return;
            }
        }
    }

    /// Runs a waiter's command again: it is answered, or waits on at its number in the queue.
    fn run_again(&mut self, waiter: &Waiter, now: Instant) {
        let mut answer = self.answer_batch(waiter);
        let start = answer.replies.len();
        let began = Instant::now().max(now);
        let whose = (waiter.id, waiter.command, waiter.caller);
        self.begin_command(whose);
        let handled = self.run_handler(
            waiter.command,
            waiter.caller,
            waiter.arguments.get(),
            &mut answer.replies,
            &mut None,
        );
        if handled.waits.is_some() && handled.result.is_ok() {
            // That a group's consumer was seen wakes nobody, or each waiter would wake itself.
            let ready = self.interests.ready.len();
            self.command_stands(waiter.caller.client_id);
            self.interests.ready.truncate(ready);
            answer.replies.truncate(start);
            waiter.seen.fetch_max(self.shards.touched().epoch, Ordering::Relaxed);
        } else if waiter.claim.take() {
            self.settle(handled, whose, &mut answer, start, began);
            self.forget_command(&waiter.claim);
        } else {
            self.roll_back_command();
            answer.replies.truncate(start);
            self.forget_command(&waiter.claim);
        }
        if !answer.responses.is_empty() {
            self.woken.push(answer);
        }
    }

    /// A move between executors waits for its source, or has it at once.
    pub(super) fn wait_for_source(&mut self, batch: &mut Batch, request: &Request, now: Instant) {
        batch.responses.push(waiting_response(request));
        let Some(client) = self.interests.waiters.client(request.caller.client_id) else {
            return;
        };
        let ticket = Ticket::of(request.id.sequence);
        if !client.awaits(ticket) {
            return;
        }
        let arguments = batch.arguments(request);
        let number = |position: usize| FieldReader(arguments.get(position)).number().unwrap_or(0);
        let waiting = Waiting {
            queue_number: Some(number(3)).filter(|number| *number != 0),
            ..Waiting::for_keys(1..2, Type::List, number(2))
        };
        let key = (request.caller.database, arguments.get(1).to_vec());
        let claim = Claim { client, ticket };
        // Whether the source is there is asked below, of what all commands so far have written.
        let seen = self.shards.newest_epoch();
        let waiters = &mut self.interests.waiters;
        waiters.add((batch, request), claim, &waiting, (now, seen));
        self.interests.update_interest(&mut self.shards);
        // The source may have come since the move looked.
        self.interests.ready.push_back(key);
        self.serve_waiters(now);
    }

    /// Gives a move its source, locked with all of the move's keys here for the transaction that it becomes: nobody
    /// gets the source before. False if another transaction is in the line for these keys, which may need what this one
    /// is to lock elsewhere.
    fn hand_over(&mut self, waiter: &Waiter, source: &DatabaseKey) -> bool {
        let id = next_transaction_id();
        let targets = waiter
            .arguments
            .get()
            .iter()
            .skip(WAIT_SOURCE.arity.unsigned_abs() as usize);
        let targets = targets.map(|target| (source.0, target.to_vec()));
        let scope = Scope::Keys(std::iter::once(source.clone()).chain(targets).collect());
        if self.interests.locks.enter(id, scope, Mode::Exclusive) != Admission::Granted {
            self.release_locks(id);
            return false;
        }
        if waiter.claim.take() {
            let queue_number = waiter.number;
            self.answer_waiter(waiter, 0, |replies| HandedOver { id, queue_number }.encode(replies));
        } else {
            self.release_locks(id);
        }
        self.forget_command(&waiter.claim);
        true
    }

    /// Answers a waiter that is claimed and has done nothing, but for seeing what was written up to `commit_epoch`.
    fn answer_waiter(&mut self, waiter: &Waiter, commit_epoch: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let mut answer = self.answer_batch(waiter);
        let start = answer.replies.len();
        write(&mut answer.replies);
        let reply = Span::new(start, answer.replies.len() - start);
        answer.responses.push(Response {
            id: waiter.id,
            reply,
            command: waiter.command,
            took_ns: 0,
            failed: false,
            commit_epoch,
            more: 0,
        });
        self.woken.push(answer);
    }

    /// Whether a transaction over several executors holds a key of a waiter.
    fn is_locked(&self, waiter: &Waiter) -> bool {
        let locks = &self.interests.locks;
        if locks.is_empty() {
            return false;
        }
        let keys = command::database_keys_of(waiter.command, waiter.arguments.get(), waiter.caller.database);
        keys.iter().any(|key| locks.holds(key, Mode::Exclusive))
    }

    /// The batch for a waiter's answer: one that goes to the same executor this turn, or a new one.
    fn answer_batch(&mut self, waiter: &Waiter) -> Box<Batch> {
        match self.woken.iter().position(|batch| waiter.fits(batch)) {
            Some(index) => self.woken.swap_remove(index),
            None => waiter.answer_batch(),
        }
    }

    /// A command that may have waited here is answered.
    pub(super) fn forget_command(&mut self, claim: &Claim) {
        if !self.interests.waiters.is_empty() {
            self.interests.waiters.remove_command(claim.client.id, claim.ticket);
        }
    }

    /// Answers the waiters whose time is up: with a null array, whatever they waited for.
    fn answer_late_waiters(&mut self) {
        assert!(self.woken.is_empty(), "answers of a turn leave when it is committed");
        let now = Instant::now();
        while let Some(waiter) = self.interests.waiters.next_late(now) {
            if waiter.claim.take() {
                let version = waiter.caller.version;
                // What the command has not found was not there as far as it saw here: that must be in the log, too.
                self.answer_waiter(&waiter, waiter.seen.load(Ordering::Relaxed), |replies| {
                    Reply::new(replies, version).null_array();
                });
            }
            self.forget_command(&waiter.claim);
        }
        let released = self.released_epoch();
        for answer in std::mem::take(&mut self.woken) {
            self.send_back_or_hold(answer, released);
        }
    }

    /// What was taken back may have been why waiters found nothing: they are answered as commands that saw it. An empty
    /// reply closes the connection.
    pub(super) fn answer_waiters_of(&mut self, taken_back: &TakenBack) {
        for waiter in self.interests.waiters.that_saw(taken_back.from_epoch.max(1)) {
            if waiter.claim.take() {
                let mut answer = waiter.answer_batch();
                if !taken_back.may_stand {
                    let mut reply = Reply::new(&mut answer.replies, waiter.caller.version);
                    reply.error(taken_back.error.to_string());
                }
                answer.responses.push(Response {
                    id: waiter.id,
                    reply: Span::new(0, answer.replies.len()),
                    command: waiter.command,
                    took_ns: 0,
                    failed: true,
                    commit_epoch: 0,
                    more: 0,
                });
                answer.send_back();
            }
            self.forget_command(&waiter.claim);
        }
    }
}

/// A client that waits until what was written is on disk (WAITAOF).
pub(super) struct DurableWait {
    claim: Claim,
    /// The epoch up to which the log must be on disk.
    epoch: u64,
    answer: Box<Batch>,
}

impl StorageExecutor {
    /// Says, at once or when it is so, that all that was written so far is on disk.
    pub(super) fn answer_when_durable(&mut self, batch: &mut Batch, request: &Request) {
        let Some(client) = self.interests.waiters.client(request.caller.client_id) else {
            return;
        };
        let claim = Claim {
            client,
            ticket: Ticket::of(request.id.sequence),
        };
        let holds = batch.arguments(request).get(1) == [1];
        let epoch = self.shards.newest_epoch();
        let is_durable = self.is_durable(epoch);
        if is_durable || !holds {
            return append_integer(batch, request, i64::from(is_durable));
        }
        // Clients whose time was up do not wait any more.
        self.durable_waits
            .retain(|wait| wait.claim.client.awaits(wait.claim.ticket));
        let mut answer = Batch::new(batch.reply_to().clone());
        answer.destination = batch.destination;
        append_integer(&mut answer, request, 1);
        batch.responses.push(waiting_response(request));
        self.durable_waits.push(DurableWait { claim, epoch, answer });
    }

    /// Whether what was written up to `epoch` is on disk. Of a log that has failed nobody can tell.
    fn is_durable(&self, epoch: u64) -> bool {
        let has_failed = self.shards.list().iter().any(|shard| shard.check_readable().is_err());
        !has_failed && self.shards.released_epoch(Some(self.threads.syncer.durable_epoch())) >= epoch
    }

    /// A sync has ended: answers the clients whose writes are on disk.
    pub(super) fn tell_durable(&mut self) {
        for wait in std::mem::take(&mut self.durable_waits) {
            match self.is_durable(wait.epoch) {
                true => wait.answer.send_back(),
                false => self.durable_waits.push(wait),
            }
        }
    }
}

fn append_integer(batch: &mut Batch, request: &Request, number: i64) {
    let start = batch.replies.len();
    Reply::new(&mut batch.replies, request.caller.version).integer(number);
    let reply = Span::new(start, batch.replies.len() - start);
    let response = Response {
        more: 0,
        reply,
        ..waiting_response(request)
    };
    batch.responses.push(response);
}

/// The response which says that a command, or a part of one, waits here or is not wanted any more: the request is done,
/// and an answer comes by itself if there is one.
pub(super) fn waiting_response(request: &Request) -> Response {
    Response {
        id: request.id,
        reply: Span::default(),
        command: request.command,
        took_ns: 0,
        failed: false,
        commit_epoch: 0,
        more: WAITS,
    }
}

/// Answers waiters when their time is up.
pub(super) async fn answer_late(executor: Rc<RefCell<StorageExecutor>>) {
    // One message stands for any number of deadlines that came.
    let (sender, nearer) = flume::bounded(1);
    executor.borrow_mut().interests.waiters.watch_deadlines(sender);
    loop {
        let nearest = executor.borrow().interests.waiters.nearest_deadline();
        let become_nearer = async {
            // The executor has the sender and is there, so this cannot fail.
            let _ = nearer.recv_async().await;
        };
        match nearest {
            None => become_nearer.await,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                future::or(become_nearer, async {
                    glommio::timer::sleep(left).await;
                })
                .await;
            }
        }
        executor.borrow_mut().step(StorageExecutor::answer_late_waiters);
    }
}
