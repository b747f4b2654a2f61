//! What a transaction over several storage executors means to its client: how much of its reply is held, when the
//! client's next command may run, and what the client is answered at the end.

use super::connection::{Connection, MoveOut, UNREADY_BYTES_CHECKED_MIN};
use super::coordination::{Coordination, End, Ran, WaitedForSource};
use super::network_executor::NetworkExecutor;
use crate::command::WATCHES_DROP;
use crate::commands::blocking::Waiting;
use crate::executor::outbox;
use crate::storage::encoding::Type;
use std::rc::Rc;
use std::time::{Duration, Instant};

impl NetworkExecutor {
    /// The transaction is over: answers the client.
    pub(super) fn finish(self: &Rc<Self>, mut coordination: Box<Coordination>, end: End) {
        self.transactions.borrow_mut().remove(coordination.number);
        self.hold_for_client(&mut coordination, 0);
        self.run_behind(&mut coordination);
        if let End::Done(ran) = &end {
            let effects = &ran.effects;
            outbox::publish(&self.server.pubsub, effects.classes, &effects.events, &effects.messages);
        }
        let Some(connection) = self.client_of(&coordination) else {
            let origin = &coordination.job.origin;
            for destination in coordination.job.exec.iter().flat_map(|exec| &exec.watched_destinations) {
                self.tell((*destination, origin.priority), &WATCHES_DROP, origin.caller, b"");
            }
            return;
        };
        connection.count_back_at(coordination.job.origin.priority);
        let (has_run, reply) = match end {
            // Neither OK nor an error would be true.
            End::Unknown => return connection.abort(),
            End::Done(Ran {
                waits: Some(waiting), ..
            }) => return self.let_client_wait(&connection, coordination, &waiting),
            End::Done(ran) => (true, ran.reply),
            End::Failed(error) => (false, error),
        };
        self.answer_client(&connection, coordination, reply, has_run);
    }

    /// The command has found nothing, and its client waits.
    fn let_client_wait(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        mut coordination: Box<Coordination>,
        waiting: &Waiting,
    ) {
        self.let_client_go_on(&mut coordination);
        let job = coordination.job;
        let (command, sequence) = (job.command, job.origin.sequence);
        if waiting.kind == Type::Stream {
            return self.wait_for_streams(connection, command, sequence, job.arguments.get(), waiting);
        }
        let until = || {
            let timeout = Some(waiting.timeout_ms).filter(|timeout_ms| *timeout_ms != 0)?;
            Instant::now().checked_add(Duration::from_millis(timeout))
        };
        let waited = job.waited.unwrap_or_else(|| WaitedForSource {
            until: until(),
            queue_number: None,
        });
        let moves = MoveOut {
            arguments: job.arguments,
            source: waiting.keys.start,
            until: waited.until,
            queue_number: waited.queue_number,
        };
        self.wait_for_source(connection, (command, sequence), moves);
    }

    fn answer_client(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        mut coordination: Box<Coordination>,
        reply: Vec<u8>,
        has_run: bool,
    ) {
        let (command, sequence) = (coordination.job.command, coordination.job.origin.sequence);
        if let Some(exec) = coordination.job.exec.take() {
            connection
                .session
                .borrow_mut()
                .transaction
                .forget(&exec.watched_destinations);
            self.forget_watches(connection);
            match exec.executing {
                Some(executing) if has_run && reply.first() == Some(&0) => {
                    self.count(command, coordination.took_ns, &reply);
                    return self.exec_ran(connection, sequence, executing, &reply);
                }
                Some(executing) => self.show_exec(connection, &executing),
                None => {}
            }
        }
        self.count(command, coordination.took_ns, &reply);
        let mut replies = connection.replies.borrow_mut();
        replies.complete_owned(sequence, reply, &mut connection.output.borrow_mut());
        drop(replies);
        self.touch(connection);
        self.let_client_go_on(&mut coordination);
    }

    /// The client's connection, if it is still open.
    pub(super) fn client_of(&self, coordination: &Coordination) -> Option<Rc<Connection>> {
        let origin = &coordination.job.origin;
        self.open_connection(origin.connection, origin.generation)
    }

    /// Counts so many bytes of a transaction's reply as held for its client. A client for whom too much is held is
    /// disconnected, as one that does not read.
    pub(super) fn hold_for_client(&self, coordination: &mut Coordination, bytes: usize) {
        let Some(connection) = self.client_of(coordination) else {
            return;
        };
        let held = &connection.held_elsewhere;
        let held_before = std::mem::replace(&mut coordination.held_bytes, bytes);
        assert!(held.get() >= held_before, "a transaction held more than all together");
        held.set(held.get() - held_before + bytes);
        if bytes >= UNREADY_BYTES_CHECKED_MIN && self.exceeds_output_limit(&connection, Instant::now()) {
            self.close_for_output(&connection);
        } else if bytes < held_before {
            // The client's next command may have waited for this.
            self.touch(&connection);
        }
    }

    /// The client's next command may run. Does so once: the next command may be a transaction, too, for which the
    /// connection waits then.
    pub(super) fn let_client_go_on(&self, coordination: &mut Coordination) {
        let held = std::mem::replace(&mut coordination.holds_client, false);
        if let Some(connection) = self.client_of(coordination).filter(|_| held) {
            connection.end_coordinating();
            self.room.notify();
        }
    }
}
