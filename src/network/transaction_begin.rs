//! How a command becomes a transaction over several storage executors: because of the keys that it names, because a
//! storage executor has handed it back, or because the source is there that it has waited for.

use super::connection::{Awaited, Connection, MoveOut};
use super::coordination::{Coordination, ExecOnSeveral, Job, Locks, Origin, WaitedForSource, Work};
use super::dispatch::reply_suppressed;
use super::network_executor::NetworkExecutor;
use crate::channel::message::{Batch, Response};
use crate::command::{self, Command, Runs};
use crate::executor::handed_back::HandedBack;
use crate::panics;
use crate::protocol::{Arguments, OwnedArguments};
use crate::storage::transaction_scope::{DatabaseKey, Mode, TransactionId, next_transaction_id};
use crate::storage::undeclared::Undeclared;
use std::rc::Rc;
use std::time::Instant;

impl Origin {
    fn of(connection: &Connection, sequence: u32) -> Origin {
        Origin {
            connection: connection.index,
            generation: connection.generation,
            sequence,
            caller: connection.session.borrow().caller(),
            // Behind its client's earlier commands.
            priority: connection.priority_of_next(false),
        }
    }
}

impl NetworkExecutor {
    /// Begins a transaction on `keys`, or on everything (`None`). What follows on the connection is not read before the
    /// transaction's writes are on their way, so that it finds them.
    pub(super) fn coordinate(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        work: Work,
        arguments: Arguments<'_>,
        keys: Option<Vec<DatabaseKey>>,
        deadline: Instant,
    ) {
        let asked = (command, work, OwnedArguments::of(arguments.iter()));
        self.coordinate_exec(connection, asked, keys, None, deadline);
    }

    /// [`NetworkExecutor::coordinate`] for an EXEC, if `exec` is some.
    pub(super) fn coordinate_exec(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        asked: (&'static Command, Work, OwnedArguments),
        keys: Option<Vec<DatabaseKey>>,
        exec: Option<ExecOnSeveral>,
        deadline: Instant,
    ) {
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        let job = self.job(Origin::of(connection, sequence), asked, exec);
        self.begin(Some(connection), job, (keys, deadline), None, next_transaction_id());
    }

    /// A storage executor hands back a command that needs more than its keys there: the command runs as a transaction
    /// on the keys that it names and those that it was found to need, even if its client is gone.
    pub(super) fn take_back(self: &Rc<Self>, batch: &Batch, response: &Response) {
        let handed_back = HandedBack::decode(batch.reply(response)).expect("an executor encodes what it hands back");
        let (id, command) = (response.id, response.command);
        let connection = self.open_connection(id.connection, id.generation);
        let executing = connection.as_ref().and_then(|connection| {
            connection.count_back_at(batch.priority);
            let executing = connection.take_executing(id.sequence)?;
            connection.end_coordinating();
            Some(executing)
        });
        let arguments = handed_back.arguments.get();
        let exec = (command.runs == Runs::Exec).then(|| ExecOnSeveral {
            executing,
            watched_destinations: match handed_back.watched.is_empty() {
                true => Vec::new(),
                false => vec![batch.destination],
            },
            writes: command.writes(arguments),
        });
        let keys = match handed_back.undeclared {
            Undeclared::Everything => None,
            Undeclared::Keys(undeclared) => {
                let mut keys = command::database_keys_of(command, arguments, handed_back.caller.database);
                keys.extend(undeclared);
                keys.extend(handed_back.watched);
                Some(keys)
            }
        };
        let origin = Origin {
            connection: id.connection,
            generation: id.generation,
            sequence: id.sequence,
            caller: handed_back.caller,
            priority: batch.priority,
        };
        let job = self.job(origin, (command, Work::Handler, handed_back.arguments), exec);
        let deadline = Instant::now() + self.request_timeout.get();
        let (by, id) = (Some(batch.destination), next_transaction_id());
        self.begin(connection.as_ref(), job, (keys, deadline), by, id);
    }

    /// A move has waited for its source, which is there and locked for the transaction `id`.
    pub(super) fn coordinate_move(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        (command, sequence): (&'static Command, u32),
        moves: MoveOut,
        id: TransactionId,
    ) {
        assert_eq!(command.runs, Runs::Transaction, "only those wait for a source");
        let database = connection.session.borrow().database;
        let keys = command::database_keys_of(command, moves.arguments.get(), database);
        let deadline = Instant::now() + self.request_timeout.get();
        let asked = (command, Work::Handler, moves.arguments);
        let mut job = self.job(Origin::of(connection, sequence), asked, None);
        job.waited = Some(WaitedForSource {
            until: moves.until,
            queue_number: moves.queue_number,
        });
        self.begin(Some(connection), job, (Some(keys), deadline), None, id);
    }

    fn job(
        &self,
        origin: Origin,
        (command, work, arguments): (&'static Command, Work, OwnedArguments),
        exec: Option<ExecOnSeveral>,
    ) -> Job {
        let writes = exec.as_ref().map_or(command.may_write(), |exec| exec.writes);
        let settings = self.settings.borrow();
        Job {
            origin,
            command,
            work,
            arguments,
            exec,
            waited: None,
            mode: match writes {
                true => Mode::Exclusive,
                false => Mode::Shared,
            },
            handlers: self.handlers.storage,
            string_bytes_max: settings.proto_max_bulk_len.as_usize(),
            seed: crate::clock::unix_us(),
            event_classes: settings.notify_keyspace_events,
            is_monitored: self.server.pubsub.is_monitored(),
        }
    }

    fn begin(
        self: &Rc<Self>,
        connection: Option<&Rc<Connection>>,
        job: Job,
        (keys, lock_deadline): (Option<Vec<DatabaseKey>>, Instant),
        handed_back_by: Option<usize>,
        id: TransactionId,
    ) {
        if let Some(connection) = connection {
            connection.begin_coordinating();
            // The client's later commands must not overtake the steps that are still to be sent.
            connection.count_out_at(job.origin.priority);
        }
        self.metrics.transactions.add(1);
        // From here on the transaction belongs to the executor, and others wait for its locks.
        let _uncontained = panics::uncontained();
        let coordination = Box::new(Coordination {
            number: self.transactions.borrow_mut().add(),
            job,
            locks: self.locks_on(keys),
            lock_deadline,
            rounds_of_more_keys: 0,
            handed_back_by,
            round: 0,
            holds_client: true,
            held_bytes: 0,
            took_ns: 0,
        });
        self.lock(coordination, id);
    }

    pub(super) fn destination_count(&self) -> usize {
        self.server.router.executor_count()
    }

    pub(super) fn locks_on(&self, keys: Option<Vec<DatabaseKey>>) -> Locks {
        Locks::new(keys, self.destination_count(), |key| self.destination_of(key))
    }
}
