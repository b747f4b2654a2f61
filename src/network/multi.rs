//! MULTI's queue and EXEC: what was queued goes to its storage executor as one request.
//!
//! Commands that run on this executor (SELECT, PING, CLIENT…) are run when the others have been, since a modified key that is
//! watched keeps all of them from running; the connection waits meanwhile, as they may change its session.

use super::connection::{Awaited, Connection};
use super::dispatch::reply_suppressed;
use super::executor::NetworkExecutor;
use super::session::ReplyMode;
use super::transaction::{Queue, Queued};
use crate::commands::connection::session_after;
use crate::commands::keys;
use crate::commands::table::{Command, Merge, Runs, WATCHES_DROP};
use crate::commands::transactions::{ExecHeader, PartHeader, REPLY_LEN_BYTES};
use crate::error::CommandError;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, Reply};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The deadline of a request to forget watched keys, which nobody waits for.
const FORGET_DEADLINE: Duration = Duration::from_secs(3600);

/// An EXEC of which some commands run here, when those on the storage executor have been run.
pub(super) struct Executing {
    queue: Queue,
}

impl NetworkExecutor {
    /// Queues a command of a transaction.
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
        {
            let mut session = connection.session.borrow_mut();
            let database = session.database;
            for key in command.keys.of(arguments) {
                session.transaction.watch(self.link_of(key), database, key);
            }
        }
        self.split_by_key(connection, command, Merge::AllOk, arguments, deadline);
    }

    /// Tells the storage executors that the client does not watch keys any more, if it has said so.
    #[inline]
    pub(super) fn forget_watches(&self, connection: &Rc<Connection>) {
        let links = connection.session.borrow_mut().transaction.take_to_forget();
        for link in links {
            // The answer finds no command that waits for it.
            let part = (connection.replies.borrow().no_sequence(), 0);
            let arguments = [WATCHES_DROP.name.as_bytes()];
            let deadline = Instant::now() + FORGET_DEADLINE;
            self.send_part(connection, &WATCHES_DROP, link, part, arguments, deadline);
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
    pub(super) fn exec(self: &Rc<Self>, connection: &Rc<Connection>, command: &'static Command, deadline: Instant) {
        let (queue, database, version) = {
            let mut session = connection.session.borrow_mut();
            (session.transaction.take_queue(), session.database, session.version)
        };
        let Some(queue) = queue else {
            return self.fail(connection, command, "ERR EXEC without MULTI");
        };
        if queue.is_refused() {
            connection.session.borrow_mut().transaction.unwatch();
            self.forget_watches(connection);
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return self.fail(connection, command, text);
        }
        let watched = connection.session.borrow_mut().transaction.take_watched_links();
        let mut links = watched.clone();
        let mut parts: Vec<(Queued, PartHeader)> = Vec::with_capacity(queue.commands().len());
        let mut selected = (database, version);
        for queued in queue.commands() {
            let arguments = queue.arguments(queued);
            match queued.command.runs {
                Runs::Network(_) => selected = session_after(queued.command, arguments, selected),
                _ => {
                    self.add_links(queued.command, arguments, &mut links);
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
        match links[..] {
            [] => self.exec_here(connection, command, queue),
            [link] => self.exec_on(connection, command, queue, (link, &parts), deadline),
            _ => self.exec_on_several(connection, command, &watched),
        }
    }

    /// Adds the storage executors that a command needs.
    fn add_links(&self, command: &Command, arguments: Arguments<'_>, links: &mut Vec<usize>) {
        let count = self.server.router.executor_count();
        let mut add = |link| {
            if !links.contains(&link) {
                links.push(link);
            }
        };
        match command.runs {
            Runs::Network(_) | Runs::Container => {}
            _ if count == 1 => add(0),
            Runs::All(..) => (0..count).for_each(add),
            Runs::Cursor(_) => match keys::cursor_slot(arguments.get(1)) {
                Ok(slot) => add(usize::from(self.server.router.executor_of(slot).0)),
                // Any of them can tell what is wrong with it.
                Err(_) => add(0),
            },
            _ => {
                let mut has_keys = false;
                for key in command.keys.of(arguments) {
                    has_keys = true;
                    add(self.link_of(key));
                }
                if !has_keys {
                    add(0);
                }
            }
        }
    }

    /// EXEC of commands that all run on this executor.
    fn exec_here(self: &Rc<Self>, connection: &Rc<Connection>, command: &'static Command, queue: Queue) {
        let array = b"*0\r\n";
        self.count(command, 0, array);
        if queue.commands().is_empty() {
            return self.answer(connection, &array[..], reply_suppressed(connection));
        }
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        connection.gathering.set(true);
        self.run_network_parts(connection, sequence, queue, Vec::new());
    }

    /// EXEC of commands for one storage executor, or of some that it does not let run because a watched key was modified.
    fn exec_on(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        queue: Queue,
        (link, parts): (usize, &[(Queued, PartHeader)]),
        deadline: Instant,
    ) {
        let is_split = queue.has_network_commands();
        let header = ExecHeader {
            commands: parts.len() as u32,
            is_split,
        };
        let header = header.encode();
        let headers: Vec<[u8; 8]> = parts.iter().map(|(_, header)| header.encode()).collect();
        let arguments = parts
            .iter()
            .zip(&headers)
            .flat_map(|((queued, _), header)| std::iter::once(&header[..]).chain(queue.arguments(queued).iter()));
        let arguments = [command.name.as_bytes(), &header[..]].into_iter().chain(arguments);
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        self.send_part(connection, command, link, (sequence, 0), arguments, deadline);
        if is_split {
            connection.gathering.set(true);
            if let Some(slot) = connection.replies.borrow_mut().slot(sequence) {
                slot.awaited = Awaited::Exec(Box::new(Executing { queue }));
            }
        }
    }

    /// EXEC of commands, or with watched keys, on several storage executors. `watched` are those that know of watched keys.
    fn exec_on_several(&self, connection: &Rc<Connection>, command: &'static Command, watched: &[usize]) {
        connection.session.borrow_mut().transaction.forget(watched);
        self.forget_watches(connection);
        let text = "ERR the keys of a transaction on several storage executors cannot be used together yet; give them one {hash tag}";
        self.fail(connection, command, text);
    }

    /// The storage executor has run its part of an EXEC, or answers why not.
    pub(super) fn exec_ran(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        sequence: u32,
        executing: Executing,
        reply: &[u8],
    ) {
        match reply.split_first() {
            Some((0, replies)) => self.run_network_parts(connection, sequence, executing.queue, replies.to_vec()),
            _ => self.exec_ended(connection, sequence, reply),
        }
    }

    /// Runs the commands of an EXEC that run here, and answers all of it; `replies` are those of the other commands, each
    /// behind its length.
    fn run_network_parts(self: &Rc<Self>, connection: &Rc<Connection>, sequence: u32, queue: Queue, replies: Vec<u8>) {
        let (executor, connection) = (Rc::clone(self), Rc::clone(connection));
        glommio::spawn_local(async move {
            let mut rest = &replies[..];
            let mut out = Vec::new();
            let count = queue.commands().len();
            {
                let mut session = connection.session.borrow_mut();
                session.transaction.set_running(Some(count));
                Reply::new(&mut out, session.version).array(count);
            }
            for queued in queue.commands() {
                let is_on = connection.session.borrow().reply_mode != ReplyMode::Off;
                match queued.command.runs {
                    Runs::Network(handler) => {
                        let began = Instant::now();
                        let arguments = queue.arguments(queued);
                        let (mut reply, work, suppressed) =
                            executor.call_here(&connection, queued.command, handler, arguments, !is_on);
                        if let Some(work) = work {
                            reply = executor.begin_elsewhere(work).await;
                        }
                        executor.metrics.commands_processed.add(1);
                        executor.count(queued.command, began.elapsed().as_nanos() as u64, &reply);
                        if !suppressed {
                            out.extend_from_slice(&reply);
                        }
                    }
                    _ => {
                        let (reply, after) = split_reply(rest);
                        rest = after;
                        if is_on {
                            out.extend_from_slice(reply);
                        }
                    }
                }
            }
            connection.session.borrow_mut().transaction.set_running(None);
            executor.forget_watches(&connection);
            executor.exec_ended(&connection, sequence, &out);
            executor.flush_touched();
            if connection.session.borrow().closing {
                // CLIENT KILL of itself.
                connection.abort();
            }
        })
        .detach();
    }

    /// EXEC is answered, and the connection's next command may run.
    fn exec_ended(&self, connection: &Rc<Connection>, sequence: u32, reply: &[u8]) {
        let mut replies = connection.replies.borrow_mut();
        replies.complete(sequence, reply, &mut connection.output.borrow_mut().bytes);
        drop(replies);
        connection.session.borrow().publish();
        connection.gathering.set(false);
        self.room.notify();
        self.touch(connection);
    }
}

/// The first of several replies, each behind its length, and the others.
fn split_reply(replies: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = replies.split_at(REPLY_LEN_BYTES);
    let len = len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    rest.split_at(len)
}
