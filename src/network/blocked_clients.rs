//! Clients in commands that wait: one storage executor after the other is asked, and the first that has something
//! answers.
//!
//! A command's end may come from a storage executor, from its timeout, from CLIENT UNBLOCK, or from the end of the
//! connection. The one that claims the client's [ticket](crate::registry::clients::Ticket) first answers.

use crate::channel::message::{Caller, Priority, RequestId};
use crate::command::{Command, MoreKeys, WAIT_DURABLE, WAIT_SOURCE, WAITERS_DROP};
use crate::commands::blocking::Waiting;
use crate::executor::waiters::HandedOver;
use crate::network::connection::{Awaited, Connection, MoveOut, WaitOut};
use crate::network::dispatch::{APPLY_DEADLINE, reply_suppressed};
use crate::network::network_executor::NetworkExecutor;
use crate::network::session::{Until, WaitHere};
use crate::protocol::{Arguments, OwnedArguments, Reply, Span};
use crate::registry::clients::{Ticket, Unblocked};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What CLIENT UNBLOCK ERROR answers.
const UNBLOCKED_ERROR: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

impl NetworkExecutor {
    /// Sends a command that may wait. Returns false if the command can only run on several executors at once, as one
    /// that does not wait.
    pub(super) fn send_blocking(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) -> bool {
        // WAIT and its like have no keys and run here.
        if !command.keys.are_some() {
            return false;
        }
        let Some(destination) = self.only_destination(command, arguments) else {
            return self.send_to_first(connection, command, arguments, deadline);
        };
        let late = (null_array(connection), reply_suppressed(connection));
        let sequence = open_wait(connection, command, late, VecDeque::new(), Until::TimeIsUp);
        connection.waiting_bytes.set(arguments_bytes(arguments));
        self.visit(
            connection,
            command,
            destination,
            (sequence, 0),
            arguments.iter(),
            deadline,
        );
        true
    }

    /// Sends a command to the executor that has the first of its keys. The executors of the others are asked if that
    /// one finds nothing. Returns false if the command cannot be asked for in parts.
    fn send_to_first(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) -> bool {
        let Some(mut visits) = self.visits(command, arguments) else {
            return false;
        };
        let Some((destination, first)) = visits.pop_front() else {
            return false;
        };
        let late = (null_array(connection), reply_suppressed(connection));
        let sequence = open_wait(connection, command, late, visits, Until::TimeIsUp);
        connection.waiting_bytes.set(arguments_bytes(arguments));
        self.visit(
            connection,
            command,
            destination,
            (sequence, 1),
            first.get().iter(),
            deadline,
        );
        true
    }

    /// The command for each run of keys on one executor, in the order of the keys: the destination, and the arguments
    /// with those keys only. `None` if the keys of the command mean different things.
    fn visits(&self, command: &Command, arguments: Arguments<'_>) -> Option<VecDeque<(usize, OwnedArguments)>> {
        let is_counted = matches!(command.keys.more, MoreKeys::Counted(_));
        if !is_counted && command.keys.last >= 0 {
            return None;
        }
        if matches!(command.keys.more, MoreKeys::Streams) {
            return None;
        }
        let positions: Vec<usize> = command.keys.positions(arguments).collect();
        let (first, last) = (*positions.first()?, *positions.last()?);
        let destination_at = |position: &usize| self.destination_of(arguments.get(*position));
        let mut visits = VecDeque::new();
        for run in positions.chunk_by(|left, right| destination_at(left) == destination_at(right)) {
            let count = run.len().to_string();
            let words = arguments
                .iter()
                .enumerate()
                .filter_map(|(position, word)| match position {
                    _ if is_counted && position + 1 == first => Some(count.as_bytes()),
                    _ if (first..=last).contains(&position) && !run.contains(&position) => None,
                    _ => Some(word),
                });
            visits.push_back((destination_at(&run[0]), OwnedArguments::of(words)));
        }
        Some(visits)
    }

    /// A reader of streams on several executors has found nothing at first: it waits on each of them, and the first
    /// that has something answers with its streams.
    pub(super) fn wait_for_streams(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        sequence: u32,
        arguments: Arguments<'_>,
        waiting: &Waiting,
    ) {
        let visits = self.visits_to_streams(arguments, waiting);
        begin_wait(
            connection,
            command,
            sequence,
            (null_array(connection), VecDeque::new()),
            Until::TimeIsUp,
        );
        connection.waiting_bytes.set(arguments_bytes(arguments));
        let deadline = Instant::now() + APPLY_DEADLINE;
        for (destination, arguments) in &visits {
            self.visit(
                connection,
                command,
                *destination,
                (sequence, 1),
                arguments.get().iter(),
                deadline,
            );
        }
    }

    /// The command for each executor: with the streams that are there, each with the id that was meant when the command
    /// came (`$` is another one later).
    fn visits_to_streams(&self, arguments: Arguments<'_>, waiting: &Waiting) -> Vec<(usize, OwnedArguments)> {
        let (keys, count) = (waiting.keys.clone(), waiting.keys.len());
        let word = |position: usize| {
            let replaced = waiting.replaced.iter().find(|(at, _)| *at == position);
            replaced.map_or(arguments.get(position), |(_, meant)| meant)
        };
        let destination_at = |position: usize| self.destination_of(arguments.get(position));
        let mut destinations: Vec<usize> = keys.clone().map(destination_at).collect();
        destinations.sort_unstable();
        destinations.dedup();
        let visits = destinations.into_iter().map(|destination| {
            let positions = || {
                keys.clone()
                    .filter(move |position| destination_at(*position) == destination)
            };
            let words = (0..keys.start)
                .chain(positions())
                .chain(positions().map(|position| position + count))
                .map(word);
            (destination, OwnedArguments::of(words))
        });
        visits.collect()
    }

    /// A move between storage executors has found nothing: it waits on the executor that has its source.
    pub(super) fn wait_for_source(
        &self,
        connection: &Rc<Connection>,
        (command, sequence): (&'static Command, u32),
        moves: MoveOut,
    ) {
        let arguments = moves.arguments.get();
        let source = arguments.get(moves.source).to_vec();
        let destination = self.destination_of(&source);
        let others = command.keys.of(arguments).filter(|key| **key != source[..]);
        let targets: Vec<Vec<u8>> = others
            .filter(|key| self.destination_of(key) == destination)
            .map(<[u8]>::to_vec)
            .collect();
        let left_ms = moves.until.map_or(0, |until| {
            let left = until.saturating_duration_since(Instant::now());
            left.as_micros().div_ceil(1000).max(1) as u64
        });
        let queue_number = moves.queue_number.unwrap_or(0);
        let nothing = (null_array(connection), VecDeque::new());
        begin_wait(connection, command, sequence, nothing, Until::TimeIsUp);
        connection.waiting_bytes.set(arguments_bytes(arguments));
        if let Some(waiting) = connection.waiting.borrow_mut().as_mut() {
            waiting.moves = Some(moves);
        }
        let (left_ms, queue_number) = (left_ms.to_be_bytes(), queue_number.to_be_bytes());
        let words = [WAIT_SOURCE.name.as_bytes(), &source, &left_ms[..], &queue_number[..]];
        let words = words.into_iter().chain(targets.iter().map(Vec::as_slice));
        let deadline = Instant::now() + APPLY_DEADLINE;
        self.visit(connection, &WAIT_SOURCE, destination, (sequence, 1), words, deadline);
    }

    /// The source of a move is there, and locked for the transaction that the move becomes; or the executor that has
    /// the source answers the move.
    pub(super) fn take_source(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        sequence: u32,
        destination: usize,
        reply: &[u8],
    ) {
        let command = {
            let waiting = connection.waiting.borrow();
            let waiting = waiting.as_ref().filter(|waiting| waiting.sequence == sequence);
            waiting.map(|waiting| waiting.command)
        };
        let (Some(command), Some(handed)) = (command, HandedOver::decode(reply)) else {
            return match command {
                Some(command) => self.answer_wait(connection, command, sequence, reply),
                None => self.drop_source(destination, reply),
            };
        };
        if let Some(mut moves) = connection.end_wait(sequence).and_then(|waiting| waiting.moves) {
            moves.queue_number = Some(handed.queue_number);
            self.coordinate_move(connection, (command, sequence), moves, handed.id);
        }
    }

    /// The source of a move is there and locked, and the client is gone: the lock is released.
    pub(super) fn drop_source(&self, destination: usize, reply: &[u8]) {
        if let Some(handed) = HandedOver::decode(reply) {
            self.release_handed_over(destination, handed.id);
        }
    }

    fn visit<'a>(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        destination: usize,
        part: (u32, u32),
        arguments: impl IntoIterator<Item = &'a [u8]>,
        deadline: Instant,
    ) {
        if let Some(waiting) = connection.waiting.borrow_mut().as_mut()
            && !waiting.destinations.contains(&destination)
        {
            waiting.destinations.push(destination);
        }
        self.send_part(connection, command, destination, part, arguments, deadline);
    }

    /// A storage executor has found nothing, and the command waits there: asks the next one, if there is one.
    pub(super) fn visit_next(&self, connection: &Rc<Connection>, sequence: u32) {
        let next = {
            let mut waiting = connection.waiting.borrow_mut();
            let waiting = waiting.as_mut().filter(|waiting| waiting.sequence == sequence);
            waiting.and_then(|waiting| Some((waiting.command, waiting.visits.pop_front()?)))
        };
        if let Some((command, (destination, arguments))) = next {
            // A command that waits already must not time out because a later executor is busy.
            let deadline = Instant::now() + APPLY_DEADLINE;
            self.visit(
                connection,
                command,
                destination,
                (sequence, 1),
                arguments.get().iter(),
                deadline,
            );
        }
    }

    /// A command that may have waited is answered, by the storage executor `by` if by any: the other executors on which
    /// it waits forget it.
    pub(super) fn after_wait(&self, connection: &Rc<Connection>, sequence: u32, by: Option<usize>) {
        let Some(waiting) = connection.end_wait(sequence) else {
            return;
        };
        for destination in waiting
            .destinations
            .iter()
            .filter(|destination| Some(**destination) != by)
        {
            self.drop_waiters(connection.client.id, sequence, *destination);
        }
    }

    /// Claims the command that waits, so that nobody answers it any more. Returns false if none waits, or another has
    /// claimed it and is about to answer.
    pub(super) fn give_up_wait(&self, connection: &Rc<Connection>) -> bool {
        let sequence = connection.waiting.borrow().as_ref().map(|waiting| waiting.sequence);
        let Some(sequence) = sequence.filter(|sequence| connection.client.claim(Ticket::of(*sequence))) else {
            return false;
        };
        self.after_wait(connection, sequence, None);
        true
    }

    fn drop_waiters(&self, client_id: u64, sequence: u32, destination: usize) {
        let nobody = RequestId {
            connection: u32::MAX,
            ..RequestId::default()
        };
        let (client_id, ticket) = (client_id.to_be_bytes(), Ticket::of(sequence).to_be_bytes());
        let arguments = [WAITERS_DROP.name.as_bytes(), &client_id[..], &ticket[..]];
        let deadline = Instant::now() + APPLY_DEADLINE;
        let (target, caller) = ((destination, Priority::Normal), Caller::default());
        self.destinations
            .borrow_mut()
            .push(target, nobody, &WAITERS_DROP, caller, deadline, arguments);
        self.flush_wanted.notify();
    }

    /// Answers the clients whose wait CLIENT UNBLOCK has ended.
    pub(super) fn answer_unblocked(self: &Rc<Self>) {
        let unblocks = self.server.clients.unblocks();
        if unblocks == self.unblocks_seen.replace(unblocks) {
            return;
        }
        let connections: Vec<_> = self
            .connections
            .borrow()
            .iter()
            .map(|(_, open)| Rc::clone(open))
            .collect();
        for connection in connections {
            let Some(how) = connection.client.take_unblocked() else {
                continue;
            };
            let (command, sequence, late_reply) = match connection.waiting.borrow().as_ref() {
                Some(waiting) => (waiting.command, waiting.sequence, waiting.late_reply.clone()),
                None => continue,
            };
            let reply = match how {
                Unblocked::Timeout => late_reply,
                Unblocked::Error => {
                    let mut reply = Vec::new();
                    Reply::new(&mut reply, connection.session.borrow().version).error(UNBLOCKED_ERROR);
                    reply
                }
            };
            self.answer_wait(&connection, command, sequence, &reply);
        }
        self.flush_touched();
    }

    /// Answers a command that waited and that this executor has claimed.
    fn answer_wait(self: &Rc<Self>, connection: &Rc<Connection>, command: &Command, sequence: u32, reply: &[u8]) {
        self.after_wait(connection, sequence, None);
        self.count(command, 0, reply);
        let mut replies = connection.replies.borrow_mut();
        replies.complete(sequence, reply, &mut connection.output.borrow_mut());
        drop(replies);
        self.touch(connection);
    }

    /// A command that ran on this executor (WAIT, WAITAOF, DEBUG SLEEP) waits, and is answered `late_reply` when its
    /// time is up.
    pub(super) fn wait_here(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        (late_reply, suppressed): (Vec<u8>, bool),
        wait: WaitHere,
    ) {
        let sequence = open_wait(
            connection,
            command,
            (late_reply, suppressed),
            VecDeque::new(),
            wait.until,
        );
        let ticket = Ticket::of(sequence);
        if wait.until != Until::TimeIsUp {
            self.ask_whether_durable(connection, sequence, wait.until != Until::Known);
        }
        if wait.until == Until::Known {
            return;
        }
        connection.client.mark_blocked(ticket);
        if wait.timeout_ms == 0 {
            return;
        }
        let (executor, waiting) = (Rc::clone(self), Rc::downgrade(connection));
        glommio::spawn_local(async move {
            glommio::timer::sleep(Duration::from_millis(wait.timeout_ms)).await;
            if let Some(connection) = waiting.upgrade()
                && connection.client.claim(ticket)
            {
                executor.answer_late_reply(&connection, sequence);
                executor.flush_touched();
            }
        })
        .detach();
    }

    /// Asks every storage executor whether all that was written so far is on disk. With `hold` an executor answers when
    /// it is, otherwise at once.
    fn ask_whether_durable(&self, connection: &Rc<Connection>, sequence: u32, hold: bool) {
        let count = self.server.router.executor_count();
        if let Some(waiting) = connection.waiting.borrow_mut().as_mut() {
            waiting.durable_left = count;
        }
        let arguments = [WAIT_DURABLE.name.as_bytes(), &[u8::from(hold)]];
        let deadline = Instant::now() + APPLY_DEADLINE;
        for destination in 0..count {
            let part = (sequence, destination as u32 + 1);
            self.send_part(connection, &WAIT_DURABLE, destination, part, arguments, deadline);
        }
    }

    /// One storage executor has said whether all is on disk.
    pub(super) fn take_durable(self: &Rc<Self>, connection: &Rc<Connection>, sequence: u32, reply: &[u8]) {
        {
            let mut waiting = connection.waiting.borrow_mut();
            let Some(waiting) = waiting.as_mut().filter(|waiting| waiting.sequence == sequence) else {
                return;
            };
            if reply != b":1\r\n" {
                // Not all is on disk: an executor says so only if it was not to hold its answer.
                waiting.until = Until::Known;
            } else {
                assert!(waiting.durable_left > 0, "an executor says once that all is on disk");
                waiting.durable_left -= 1;
                if waiting.durable_left > 0 {
                    return;
                }
                waiting.late_reply = DURABLE_REPLY.to_vec();
            }
            if waiting.until == Until::TimeIsUpAfterDurable {
                return;
            }
        }
        if connection.client.claim(Ticket::of(sequence)) {
            self.answer_late_reply(connection, sequence);
        }
    }

    /// Answers a command that waited and that this executor has claimed, as if its time were up.
    fn answer_late_reply(self: &Rc<Self>, connection: &Rc<Connection>, sequence: u32) {
        let waiting = connection.waiting.borrow();
        let late = waiting
            .as_ref()
            .map(|waiting| (waiting.command, waiting.late_reply.clone()));
        drop(waiting);
        if let Some((command, reply)) = late {
            self.answer_wait(connection, command, sequence, &reply);
        }
    }
}

/// WAITAOF's reply when all is on disk: in one local log, and on no replica.
const DURABLE_REPLY: &[u8] = b"*2\r\n:1\r\n:0\r\n";

/// Enters a command that may wait among the pending replies: nothing that follows on the connection is run before it is
/// answered. Returns its number.
fn open_wait(
    connection: &Connection,
    command: &'static Command,
    (late_reply, suppressed): (Vec<u8>, bool),
    visits: VecDeque<(usize, OwnedArguments)>,
    until: Until,
) -> u32 {
    let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
    begin_wait(connection, command, sequence, (late_reply, visits), until);
    sequence
}

/// The same for a command that is among the pending replies already.
fn begin_wait(
    connection: &Connection,
    command: &'static Command,
    sequence: u32,
    (late_reply, visits): (Vec<u8>, VecDeque<(usize, OwnedArguments)>),
    until: Until,
) {
    connection.client.begin_wait(Ticket::of(sequence));
    *connection.waiting.borrow_mut() = Some(WaitOut {
        command,
        sequence,
        destinations: Vec::new(),
        visits,
        durable_left: 0,
        until,
        late_reply,
        moves: None,
    });
}

/// Bytes that the arguments of a command take while it waits, here or on the storage executors.
fn arguments_bytes(arguments: Arguments<'_>) -> usize {
    arguments
        .iter()
        .map(|argument| argument.len() + size_of::<Span>())
        .sum()
}

/// The reply to a command whose keys stay empty until its time is up.
fn null_array(connection: &Connection) -> Vec<u8> {
    let mut reply = Vec::new();
    Reply::new(&mut reply, connection.session.borrow().version).null_array();
    reply
}
