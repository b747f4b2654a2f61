//! What the coordinator of a transaction sends to the participants, and in whose name.

use super::coordination::Coordination;
use super::dispatch::APPLY_DEADLINE;
use super::network_executor::NetworkExecutor;
use crate::channel::message::{Caller, Priority, RequestId, Response};
use crate::channel::step_arguments::encode_id;
use crate::command::{Command, PIECES_NEXT, TRANSACTION_KEEP_IN_DOUBT, TRANSACTION_RELEASE, TRANSACTION_RUN_BEHIND};
use crate::storage::redo::Part;
use crate::storage::transaction_scope::TransactionId;
use std::time::Instant;

/// Requests whose id names this connection, or a higher one, are not of a client: they are steps, or nobody waits for
/// their response.
pub(super) const STEPS_FROM: u32 = DELETIONS;

/// Instead of a connection, in the id of a transaction's step.
pub(super) const STEPS: u32 = u32::MAX - 1;

/// Instead of a connection, in the id of a step that deletes redo records or applied markers.
pub(super) const DELETIONS: u32 = u32::MAX - 2;

/// Instead of a round, in the id of a step whose response nobody waits for.
pub(super) const NO_ROUND: u32 = u32::MAX;

impl NetworkExecutor {
    /// The storage executor that has the shard of a part.
    pub(super) fn destination_with(&self, part: &Part) -> usize {
        usize::from(self.server.router.owner(part.shard).0)
    }

    /// Sends a step of the round that has begun, about the participant or part with the index `part`.
    pub(super) fn send_step(
        &self,
        coordination: &Coordination,
        step: &'static Command,
        (destination, part): (usize, usize),
        deadline: Instant,
        arguments: &[&[u8]],
    ) {
        let id = RequestId {
            connection: STEPS,
            generation: coordination.number as u32,
            sequence: coordination.round,
            part: part as u32,
        };
        let origin = &coordination.job.origin;
        let target = (destination, origin.priority);
        self.push_step(target, id, step, origin.caller, deadline, arguments);
    }

    /// Sends a step in the name of `id`.
    pub(super) fn push_step(
        &self,
        target: (usize, Priority),
        id: RequestId,
        step: &'static Command,
        caller: Caller,
        deadline: Instant,
        arguments: &[&[u8]],
    ) {
        let words = std::iter::once(step.name.as_bytes()).chain(arguments.iter().copied());
        self.destinations
            .borrow_mut()
            .push(target, id, step, caller, deadline, words);
        self.flush_wanted.notify();
    }

    /// Sends a step whose response nobody waits for.
    pub(super) fn tell(&self, target: (usize, Priority), step: &'static Command, caller: Caller, argument: &[u8]) {
        let nobody = RequestId {
            connection: STEPS,
            sequence: NO_ROUND,
            ..RequestId::default()
        };
        self.push_step(target, nobody, step, caller, no_deadline(), &[argument]);
    }

    /// Releases the locks on a destination, whether they are granted yet or not.
    pub(super) fn release(&self, coordination: &Coordination, destination: usize) {
        let origin = &coordination.job.origin;
        self.send_release((destination, origin.priority), coordination.locks.id, origin.caller);
    }

    /// Releases the locks on all participants, whether they are granted yet or not.
    pub(super) fn release_all(&self, coordination: &Coordination) {
        for participant in &coordination.locks.participants {
            self.release(coordination, participant.destination);
        }
    }

    /// Releases the source of a move whose client is gone.
    pub(super) fn release_handed_over(&self, destination: usize, id: TransactionId) {
        self.send_release((destination, Priority::Normal), id, Caller::default());
    }

    fn send_release(&self, target: (usize, Priority), id: TransactionId, caller: Caller) {
        self.tell(target, &TRANSACTION_RELEASE, caller, &encode_id(id));
    }

    /// The command is over, or its writes are on their way: what waits behind it where it was handed back may run.
    pub(super) fn run_behind(&self, coordination: &mut Coordination) {
        if let Some(destination) = coordination.handed_back_by.take() {
            let origin = &coordination.job.origin;
            let target = (destination, origin.priority);
            self.tell(target, &TRANSACTION_RUN_BEHIND, origin.caller, b"");
        }
    }

    /// Asks the executor that has sent a piece of a large reply for the next one.
    pub(super) fn ask_for_more(&self, destination: usize, coordination: &Coordination, response: &Response) {
        let origin = &coordination.job.origin;
        let (target, number) = ((destination, origin.priority), response.more.to_be_bytes());
        let (id, step) = (response.id, &PIECES_NEXT);
        self.push_step(target, id, step, origin.caller, no_deadline(), &[&number]);
    }

    /// Nobody can tell before a restart whether a transaction is decided: its keys may be read, and not written.
    pub(super) fn keep_in_doubt(&self, coordination: &Coordination) {
        let origin = &coordination.job.origin;
        let id = encode_id(coordination.locks.id);
        for participant in &coordination.locks.participants {
            let target = (participant.destination, origin.priority);
            self.tell(target, &TRANSACTION_KEEP_IN_DOUBT, origin.caller, &id);
        }
    }
}

/// The deadline of the steps behind the locks: a transaction that has its locks is ended, however long that takes.
pub(super) fn no_deadline() -> Instant {
    Instant::now() + APPLY_DEADLINE
}
