//! MULTI's queue and EXEC: the queued commands go to their storage executor as one request.
//!
//! Commands that run on the network executor (SELECT, PING, CLIENT…) run when the others have, since a watched key that
//! was modified keeps all of them from running. The connection's next command waits meanwhile, as the session may
//! change.

use super::connection::{Awaited, Connection};
use super::dispatch::reply_suppressed;
use super::local_commands::Later;
use super::session::ReplyMode;
use crate::command::exec_request::{ExecHeader, PartHeader, REPLY_LEN_BYTES};
use crate::command::{self, Command, Merge, RUNS_SCRIPT, Runs, WATCHES_DROP};
use crate::commands::keys;
use crate::error::CommandError;
use crate::network::coordination::{ExecOnSeveral, Work};
use crate::network::handlers::connection_commands::session_after;
use crate::network::multi_state::{Queue, Queued};
use crate::network::network_executor::NetworkExecutor;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, OwnedArguments, Reply};
use crate::scripts::registry::Reach;
use crate::storage::transaction_scope::DatabaseKey;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The deadline of a request to forget watched keys, which nobody waits for.
const FORGET_DEADLINE: Duration = Duration::from_secs(3600);

/// An EXEC of which some commands run on the network executor, or must be shown to clients that monitor, when those on
/// the storage executor have run.
pub(super) struct Executing {
    queue: Queue,
    command: &'static Command,
    /// EXEC as the client has written it.
    arguments: OwnedArguments,
}

/// Bytes that are held for a client outside of its pending replies, counted until the value is dropped.
struct HeldElsewhere {
    connection: Rc<Connection>,
    bytes: usize,
}

impl HeldElsewhere {
    fn new(connection: &Rc<Connection>) -> HeldElsewhere {
        HeldElsewhere {
            connection: Rc::clone(connection),
            bytes: 0,
        }
    }

    /// So many bytes are held now.
    fn set(&mut self, bytes: usize) {
        let held = &self.connection.held_elsewhere;
        assert!(
            held.get() >= self.bytes,
            "an EXEC holds more than is held for its client"
        );
        held.set(held.get() - self.bytes + bytes);
        self.bytes = bytes;
    }
}

impl Drop for HeldElsewhere {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl NetworkExecutor {
    /// Queues a command behind MULTI.
    pub(super) fn queue(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
    ) {
        let queued = connection.session.borrow_mut().transaction.push(command, arguments);
        match queued {
            Ok(()) => self.answer(connection, &b"+QUEUED\r\n"[..], reply_suppressed(connection)),
            Err(error) => self.refuse(connection, Some(command), &error),
        }
    }

    /// WATCH: each key's storage executor remembers the client.
    pub(super) fn watch(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        if connection.session.borrow().transaction.is_open() {
            return self.fail(connection, command, "ERR WATCH inside MULTI is not allowed");
        }
        let mut parts: Vec<(usize, Vec<&[u8]>)> = Vec::new();
        {
            let mut session = connection.session.borrow_mut();
            let database = session.database;
            for key in command.keys.of(arguments) {
                let destination = self.destination_of(key);
                session.transaction.watch(destination, database, key);
                match parts
                    .iter_mut()
                    .find(|(part_destination, _)| *part_destination == destination)
                {
                    Some((_, words)) => words.push(key),
                    None => parts.push((destination, vec![arguments.get(0), key])),
                }
            }
        }
        self.send_parts(connection, command, Merge::AllOk, parts, deadline);
    }

    /// Tells the storage executors that the client does not watch keys any more, if its session says so.
    #[inline]
    pub(super) fn forget_watches(&self, connection: &Rc<Connection>) {
        let destinations = connection.session.borrow_mut().transaction.take_to_forget();
        for destination in destinations {
            // No pending reply has this number, so the answer is dropped.
            let part = (connection.replies.borrow().no_sequence(), 0);
            let arguments = [WATCHES_DROP.name.as_bytes()];
            let deadline = Instant::now() + FORGET_DEADLINE;
            self.send_part(connection, &WATCHES_DROP, destination, part, arguments, deadline);
        }
    }

    /// Answers a command with its error.
    fn fail(&self, connection: &Rc<Connection>, command: &'static Command, text: &'static str) {
        let mut reply = Vec::new();
        Reply::new(&mut reply, Version::Resp2).error(CommandError::text(text).to_string());
        self.count(command, 0, &reply);
        self.answer(connection, reply, reply_suppressed(connection));
    }

    /// EXEC
    pub(super) fn exec(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        let (queue, database, version) = {
            let mut session = connection.session.borrow_mut();
            (session.transaction.take_queue(), session.database, session.version)
        };
        let Some(queue) = queue else {
            self.show_to_monitors(connection, command, arguments);
            return self.fail(connection, command, "ERR EXEC without MULTI");
        };
        if queue.is_refused() {
            self.show_to_monitors(connection, command, arguments);
            connection.session.borrow_mut().transaction.unwatch();
            self.forget_watches(connection);
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return self.fail(connection, command, text);
        }
        let mut parts: Vec<(Queued, PartHeader)> = Vec::with_capacity(queue.commands().len());
        let mut selected = (database, version);
        for queued in queue.commands() {
            let arguments = queue.arguments(queued);
            match queued.command.runs {
                Runs::Network => selected = session_after(queued.command, arguments, selected),
                _ => {
                    let (database, version) = selected;
                    let header = PartHeader {
                        index: queued.command.index() as u16,
                        database,
                        version,
                        arguments: arguments.len() as u32,
                    };
                    parts.push((*queued, header));
                }
            }
        }
        let (watched_destinations, watched_keys) = connection.session.borrow_mut().transaction.take_watched();
        let executing = Executing {
            queue,
            command,
            arguments: OwnedArguments::of(arguments.iter()),
        };
        if parts.is_empty() && watched_destinations.is_empty() {
            return self.exec_here(connection, executing);
        }
        let scope = self.scope_of(&executing.queue, &parts, watched_keys);
        match scope {
            ExecScope::One(destination) => self.exec_on(connection, executing, (destination, &parts), deadline),
            ExecScope::Several(keys) => {
                self.exec_on_several(connection, executing, &parts, (keys, watched_destinations), deadline);
            }
        }
    }

    /// Where the parts of an EXEC run that do not run on the network executor.
    fn scope_of(&self, queue: &Queue, parts: &[(Queued, PartHeader)], watched: BTreeSet<DatabaseKey>) -> ExecScope {
        let mut keys: Vec<DatabaseKey> = watched.into_iter().collect();
        let (mut is_whole, mut writes, mut goes_beyond) = (false, false, false);
        let mut cursor_destination = None;
        for (queued, header) in parts {
            let arguments = queue.arguments(queued);
            writes |= queued.command.may_write();
            match queued.command.runs {
                Runs::All(_) | Runs::Each(_) | Runs::Whole => is_whole = true,
                Runs::Cursor => {
                    // Any executor refuses a word that is no cursor.
                    let destination =
                        keys::cursor_slot(arguments.get(1)).map(|slot| self.server.router.executor_of(slot).0);
                    let destination = usize::from(destination.unwrap_or(0));
                    is_whole |= *cursor_destination.get_or_insert(destination) != destination;
                }
                _ => {
                    let reach = self.reach_of(queued.command, arguments);
                    is_whole |= reach == Some(Reach::Everything);
                    goes_beyond |= reach == Some(Reach::Keys);
                    keys.extend(command::database_keys_of(queued.command, arguments, header.database));
                }
            }
        }
        let destination = self.only_destination_of(keys.iter().map(|(_, key)| key.as_slice()), writes);
        let is_everywhere = is_whole && self.only_destination_of(std::iter::empty(), writes).is_none();
        match (destination, cursor_destination) {
            _ if is_everywhere => ExecScope::Several(None),
            (_, None) if goes_beyond => ExecScope::Several(Some(keys)),
            (_, Some(_)) if goes_beyond => ExecScope::Several(None),
            (Some(Some(destination)), Some(cursor)) if destination != cursor => ExecScope::Several(None),
            (Some(None), Some(_)) => ExecScope::Several(None),
            (Some(None), None) => ExecScope::Several(Some(keys)),
            (Some(Some(destination)), _) | (None, Some(destination)) => ExecScope::One(destination),
            // No keys at all: the handlers refuse the commands, on any executor.
            (None, None) => ExecScope::One(0),
        }
    }

    /// EXEC of commands that all run on this executor.
    fn exec_here(self: &Rc<Self>, connection: &Rc<Connection>, executing: Executing) {
        let array = b"*0\r\n";
        self.count(executing.command, 0, array);
        if executing.queue.commands().is_empty() {
            self.show_exec(connection, &executing);
            return self.answer(connection, &array[..], reply_suppressed(connection));
        }
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        connection.begin_coordinating();
        self.run_network_parts(connection, sequence, executing, Vec::new());
    }

    /// EXEC whose commands, and watched keys, are for one storage executor: that runs the commands, unless a watched
    /// key was modified.
    fn exec_on(
        &self,
        connection: &Rc<Connection>,
        executing: Executing,
        (destination, parts): (usize, &[(Queued, PartHeader)]),
        deadline: Instant,
    ) {
        let command = executing.command;
        let is_split = self.is_split(&executing);
        let arguments = exec_arguments(&executing, parts, is_split);
        let arguments = arguments.get().iter();
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        self.send_part(connection, command, destination, (sequence, 0), arguments, deadline);
        if is_split {
            connection.begin_coordinating();
            connection.waiting_bytes.set(executing.queue.memory());
            if let Some(pending) = connection.replies.borrow_mut().pending(sequence) {
                pending.awaited = Awaited::Exec(Box::new(executing));
            }
        }
    }

    /// EXEC whose commands, or watched keys, are for several storage executors: a transaction.
    fn exec_on_several(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        executing: Executing,
        parts: &[(Queued, PartHeader)],
        (keys, watched_destinations): (Option<Vec<DatabaseKey>>, Vec<usize>),
        deadline: Instant,
    ) {
        let command = executing.command;
        let is_split = self.is_split(&executing);
        let arguments = exec_arguments(&executing, parts, is_split);
        let writes = parts.iter().any(|(queued, _)| queued.command.may_write());
        let exec = ExecOnSeveral {
            executing: is_split.then_some(executing),
            watched_destinations,
            writes,
        };
        let asked = (command, Work::Handler, arguments);
        self.coordinate_exec(connection, asked, keys, Some(exec), deadline);
    }

    /// The storage executors have run their part of an EXEC, or the reply says why not.
    pub(super) fn exec_ran(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        sequence: u32,
        executing: Executing,
        reply: &[u8],
    ) {
        match reply.split_first() {
            Some((0, replies)) => self.run_network_parts(connection, sequence, executing, replies.to_vec()),
            _ => {
                self.show_exec(connection, &executing);
                self.exec_ended(connection, sequence, reply);
            }
        }
    }

    /// Whether the storage executor must keep the replies to the commands of an EXEC apart: those to other commands
    /// come between them, or clients that monitor are shown each command in its order.
    fn is_split(&self, executing: &Executing) -> bool {
        executing.queue.has_network_commands() || self.server.pubsub.is_monitored()
    }

    /// Shows an EXEC to clients that monitor: behind the commands that it has run, as Redis does.
    pub(super) fn show_exec(&self, connection: &Connection, executing: &Executing) {
        self.show_to_monitors(connection, executing.command, executing.arguments.get());
    }

    /// Runs the commands of an EXEC that run on the network executor, and answers the EXEC. `replies` are those to the
    /// other commands, as [`split_reply`] reads them.
    fn run_network_parts(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        sequence: u32,
        executing: Executing,
        replies: Vec<u8>,
    ) {
        let (executor, connection) = (Rc::clone(self), Rc::clone(connection));
        glommio::spawn_local(async move {
            let mut rest = &replies[..];
            let mut out = Vec::new();
            let queue = &executing.queue;
            let mut held = HeldElsewhere::new(&connection);
            let count = queue.commands().len();
            {
                let mut session = connection.session.borrow_mut();
                session.transaction.set_running(Some(count));
                Reply::new(&mut out, session.version).array(count);
            }
            for queued in queue.commands() {
                // The client may have gone before this task ran, or while an earlier command of its EXEC worked: then
                // its index may be another connection's.
                if connection.closed.get() {
                    return;
                }
                let is_on = connection.session.borrow().reply_mode != ReplyMode::Off;
                match queued.command.runs {
                    Runs::Network => {
                        let began = Instant::now();
                        let arguments = queue.arguments(queued);
                        let (mut reply, later, suppressed) =
                            executor.call_here(&connection, queued.command, arguments, !is_on);
                        // A command that would wait is answered as if its time were up.
                        if let Some(Later::Work(work)) = later {
                            reply = executor.begin_elsewhere(work).await;
                            if connection.closed.get() {
                                return;
                            }
                        }
                        executor.show_to_monitors(&connection, queued.command, arguments);
                        executor.metrics.commands_processed.add(1);
                        executor.count(queued.command, began.elapsed().as_nanos() as u64, &reply);
                        if !suppressed {
                            out.extend_from_slice(&reply);
                        }
                    }
                    _ => {
                        executor.show_to_monitors(&connection, queued.command, queue.arguments(queued));
                        let (reply, shown, after) = split_reply(rest);
                        rest = after;
                        if !shown.is_empty() {
                            executor.server.pubsub.show_to_monitors(shown);
                        }
                        if is_on {
                            out.extend_from_slice(reply);
                        }
                    }
                }
                held.set(replies.len() + out.len());
                if executor.exceeds_output_limit(&connection, Instant::now()) {
                    return executor.close_for_output(&connection);
                }
            }
            assert!(
                rest.is_empty(),
                "there are as many replies as commands on storage executors"
            );
            drop(held);
            connection.session.borrow_mut().transaction.set_running(None);
            executor.show_exec(&connection, &executing);
            executor.forget_watches(&connection);
            executor.exec_ended(&connection, sequence, &out);
            executor.flush_touched();
            if connection.session.borrow().closing {
                // The client has killed itself (CLIENT KILL).
                connection.abort();
            }
        })
        .detach();
    }

    /// EXEC is answered, and the connection's next command may run.
    fn exec_ended(&self, connection: &Rc<Connection>, sequence: u32, reply: &[u8]) {
        let mut replies = connection.replies.borrow_mut();
        replies.complete(sequence, reply, &mut connection.output.borrow_mut());
        drop(replies);
        connection.session.borrow().publish();
        connection.waiting_bytes.set(0);
        connection.end_coordinating();
        self.room.notify();
        self.touch(connection);
    }
}

/// Where the commands of an EXEC run.
enum ExecScope {
    /// On one storage executor.
    One(usize),
    /// As a transaction on these keys, or on everything.
    Several(Option<Vec<DatabaseKey>>),
}

/// The arguments of EXEC for its handler: a header, and each command behind one of its own.
fn exec_arguments(executing: &Executing, parts: &[(Queued, PartHeader)], is_split: bool) -> OwnedArguments {
    let (command, queue) = (executing.command, &executing.queue);
    let header = ExecHeader {
        runs_script: parts.iter().any(|(queued, _)| queued.command.flags.has(RUNS_SCRIPT)),
        commands: parts.len() as u32,
        is_split,
    };
    let mut arguments = OwnedArguments::default();
    arguments.push(command.name.as_bytes());
    arguments.push(&header.encode());
    for (queued, header) in parts {
        arguments.push(&header.encode());
        queue
            .arguments(queued)
            .iter()
            .for_each(|argument| arguments.push(argument));
    }
    arguments
}

/// The reply to the first of several commands, the lines of the commands that it called for clients that monitor, and
/// what comes behind. Reply and lines begin with their length, in [`REPLY_LEN_BYTES`].
fn split_reply(replies: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let (reply, rest) = split_field(replies);
    let (shown, rest) = split_field(rest);
    (reply, shown, rest)
}

fn split_field(fields: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = fields.split_at(REPLY_LEN_BYTES);
    let len = len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    rest.split_at(len)
}
