//! From a command to where it runs, and from its parts' replies back to one.

use super::connection::{Awaited, Connection, PiecesOut};
use super::executor::NetworkExecutor;
use super::session::{NetworkContext, NetworkHandler, ReplyMode};
use crate::channel::message::{Batch, Caller, Priority, RequestId, Response, WAITS};
use crate::channel::router::Slot;
use crate::commands::effects::Effects;
use crate::commands::table::{
    self, BLOCKING, Command, GATHER_APPLY, GATHER_FETCH, LOW_PRIORITY, Merge, NO_AUTH, PIECES_DROP, PIECES_NEXT, Runs,
    WAIT_DURABLE, WRITE,
};
use crate::commands::waiting::{Waiting, may_wait};
use crate::commands::{Context, Handler, keys};
use crate::error::CommandError;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, OwnedArguments, Reply};
use crate::storage::encoding::Type;
use crate::storage::executor::reactor_turn;
use crate::storage::view::{Gathered, View, collections_on_several_executors};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes of an unknown command and its arguments that the error repeats, as in Redis.
const UNKNOWN_COMMAND_SHOWN_MAX: usize = 128;

/// The deadline of the second half of a gathered command: what was decided must be written, however long it waits.
pub(super) const APPLY_DEADLINE: Duration = Duration::from_secs(3600);

/// Output that waits for a client when the next piece of a large reply is asked for: enough to keep its socket busy for the
/// time that takes.
const PIECES_AHEAD_BYTES: usize = 512 * 1024;

/// A database and a key.
type Place = (u8, Vec<u8>);

/// A database, a key, and the record to be stored there (`None`: a deletion).
type Write = (u8, Vec<u8>, Option<Vec<u8>>);

/// A command whose parts ran on several storage executors.
pub(super) struct Merging {
    command: &'static Command,
    merge: Merge,
    version: Version,
    parts_left: usize,
    took_ns: u64,
    sum: i64,
    error: Option<Vec<u8>>,
    /// By part: its reply, if the merge needs it whole.
    replies: Vec<Vec<u8>>,
    /// By part: the places of its keys in the reply ([`Merge::ByKey`]).
    places: Vec<Vec<usize>>,
    /// Where [`Merge::AnyOf`] begins.
    seed: usize,
}

impl Merging {
    /// Takes one part's reply; returns whether it was the last.
    fn add(&mut self, part: usize, reply: &[u8], took_ns: u64) -> bool {
        self.parts_left -= 1;
        self.took_ns += took_ns;
        match (reply.first(), self.merge) {
            (Some(b'-'), _) => {
                self.error.get_or_insert_with(|| reply.to_vec());
            }
            (_, Merge::Sum) => self.sum += read_integer(reply).unwrap_or(0),
            (_, Merge::AllOk) => {}
            _ => self.replies[part].extend_from_slice(reply),
        }
        self.parts_left == 0
    }

    /// The reply to the whole.
    fn finish(&self) -> Vec<u8> {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, self.version);
        match self.merge {
            Merge::Sum => reply.integer(self.sum),
            Merge::AllOk => reply.ok(),
            Merge::AnyOf => {
                let count = self.replies.len();
                let parts = (0..count).map(|step| &self.replies[(self.seed + step) % count]);
                match parts.into_iter().find(|part| !is_null(part)) {
                    Some(part) => reply.raw(part),
                    None => reply.null(),
                }
            }
            Merge::Concatenate => {
                let parts: Vec<_> = self.replies.iter().filter_map(|part| array_of(part)).collect();
                reply.array(parts.iter().map(|(count, _)| count).sum());
                parts.iter().for_each(|(_, elements)| reply.raw(elements));
            }
            Merge::ByKey => {
                let mut elements: Vec<&[u8]> = vec![b""; self.places.iter().map(Vec::len).sum()];
                for (part, places) in self.replies.iter().zip(&self.places) {
                    for (element, place) in bulk_strings(part).zip(places) {
                        elements[*place] = element;
                    }
                }
                reply.array(elements.len());
                elements.iter().for_each(|element| reply.raw(element));
            }
        }
        out
    }
}

/// A command whose keys lie on several executors and whose handler runs here.
pub(super) struct Gathering {
    command: &'static Command,
    handler: Handler,
    arguments: OwnedArguments,
    version: Version,
    database: u8,
    string_bytes_max: usize,
    parts_left: usize,
    took_ns: u64,
    error: Option<Vec<u8>>,
    /// By part: the databases and keys that were asked for.
    asked: Vec<Vec<Place>>,
    gathered: Gathered,
    /// The handler's reply, once it ran and its writes are out.
    reply: Option<Vec<u8>>,
}

/// What to do after a command was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Read the next.
    Yes,
    /// It must wait (CLIENT PAUSE); offer it again.
    Paused,
}

impl NetworkExecutor {
    /// Takes one command of a connection: answers it, or sends it on its way.
    pub(super) fn dispatch(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        arguments: Arguments<'_>,
        now: Instant,
    ) -> Taken {
        let command = match find_command(arguments) {
            Ok(command) => command,
            Err((command, error)) => {
                self.refuse(connection, command, &error);
                return Taken::Yes;
            }
        };
        let authenticated = connection.session.borrow().authenticated || self.settings.borrow().requirepass.is_empty();
        if !authenticated && !command.flags.has(NO_AUTH) {
            self.refuse(
                connection,
                Some(command),
                &CommandError::text("NOAUTH Authentication required."),
            );
            return Taken::Yes;
        }
        if self.server.pause.holds(command.flags.has(WRITE)) && !is_pause_exempt(command) {
            return Taken::Paused;
        }
        self.metrics.commands_processed.add(1);
        connection.client.commands.add(1);
        connection.client.last_command.set(command.index() as u64);
        let deadline = now + self.request_timeout.get();
        if command.flags.has(BLOCKING)
            && may_wait(command.name, arguments)
            && self.send_blocking(connection, command, arguments, deadline)
        {
            return Taken::Yes;
        }
        match command.runs {
            Runs::Network(handler) => self.run_here(connection, command, handler, arguments),
            Runs::Shard(_) => {
                let key = arguments.get(command.keys.first);
                self.send_whole(connection, command, self.link_of(key), arguments, deadline);
            }
            Runs::Split(_, merge) => self.split_by_key(connection, command, merge, arguments, deadline),
            Runs::Transaction(handler) => match self.only_link(command, arguments) {
                Some(link) => self.send_whole(connection, command, link, arguments, deadline),
                None => self.gather(connection, command, handler, arguments, deadline),
            },
            Runs::All(_, merge) => self.send_to_all(connection, command, merge, arguments, deadline),
            Runs::Cursor(_) => match keys::cursor_slot(arguments.get(1)) {
                Ok(slot) => {
                    let link = usize::from(self.server.router.executor_of(slot).0);
                    self.send_whole(connection, command, link, arguments, deadline);
                }
                Err(error) => self.refuse(connection, Some(command), &error),
            },
            Runs::Container => unreachable!("find_command resolves containers"),
        }
        Taken::Yes
    }

    pub(super) fn link_of(&self, key: &[u8]) -> usize {
        usize::from(self.server.router.executor_of(Slot::of(key)).0)
    }

    /// The one storage executor that has all keys, if there is one.
    pub(super) fn only_link(&self, command: &Command, arguments: Arguments<'_>) -> Option<usize> {
        if self.server.router.executor_count() == 1 {
            return Some(0);
        }
        let mut links = command.keys.of(arguments).map(|key| self.link_of(key));
        // Without keys the handler has an error to tell, anywhere.
        let Some(first) = links.next() else { return Some(0) };
        links.all(|link| link == first).then_some(first)
    }

    /// Answers a command that is not run.
    fn refuse(self: &Rc<Self>, connection: &Rc<Connection>, command: Option<&'static Command>, error: &CommandError) {
        if let Some(counters) = command.and_then(|command| self.metrics.commands.get(command.index())) {
            counters.rejected.add(1);
        }
        let mut reply = Vec::new();
        Reply::new(&mut reply, Version::Resp2).error(error.to_string());
        self.count_error(&reply);
        self.answer(connection, reply, reply_suppressed(connection));
    }

    /// Runs a handler of this executor.
    fn run_here(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        handler: NetworkHandler,
        arguments: Arguments<'_>,
    ) {
        let suppressed = reply_suppressed(connection);
        let began = Instant::now();
        let mut bytes = Vec::new();
        let (outcome, deferred, waits, mode) = {
            let mut session = connection.session.borrow_mut();
            let version = session.version;
            let mut context = NetworkContext {
                arguments,
                reply: Reply::new(&mut bytes, version),
                session: &mut session,
                server: &self.server,
                command,
                deferred: None,
                waits: None,
            };
            let run = std::panic::AssertUnwindSafe(|| handler(&mut context));
            let outcome = std::panic::catch_unwind(run).unwrap_or(Err(CommandError::Internal));
            let (deferred, waits) = (context.deferred.take(), context.waits.take());
            (outcome, deferred, waits, session.reply_mode)
        };
        // CLIENT REPLY ON answers itself although replies were off; OFF and SKIP do not answer.
        let suppressed = match (command.name, mode) {
            ("client|reply", ReplyMode::On) => false,
            ("client|reply", _) => true,
            _ => suppressed,
        };
        if let Err(error) = &outcome {
            bytes.clear();
            Reply::new(&mut bytes, Version::Resp2).error(error.to_string());
        }
        if let Some(wait) = waits.filter(|_| outcome.is_ok()) {
            return self.wait_here(connection, command, (bytes, suppressed), wait);
        }
        match deferred.filter(|_| outcome.is_ok()) {
            Some(work) => {
                let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
                self.run_elsewhere(connection, command, sequence, work);
            }
            None => {
                self.count(command, began.elapsed().as_nanos() as u64, &bytes);
                self.answer(connection, bytes, suppressed);
            }
        }
    }

    /// Answers a command at once, behind those that are still out.
    fn answer(&self, connection: &Rc<Connection>, reply: Vec<u8>, suppressed: bool) {
        let mut replies = connection.replies.borrow_mut();
        if replies.is_empty() {
            if !suppressed {
                connection.output.borrow_mut().bytes.extend_from_slice(&reply);
            }
        } else {
            replies.open(Awaited::Ready(reply), suppressed);
        }
        drop(replies);
        self.touch(connection);
    }

    /// Sends a command as a whole to one storage executor.
    #[inline]
    fn send_whole(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        link: usize,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        self.send_part(connection, command, link, (sequence, 0), arguments.iter(), deadline);
    }

    pub(super) fn send_part<'a>(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        link: usize,
        (sequence, part): (u32, u32),
        arguments: impl IntoIterator<Item = &'a [u8]>,
        deadline: Instant,
    ) {
        let low = command.flags.has(LOW_PRIORITY) || connection.low_out.get() > 0;
        let priority = if low { Priority::Low } else { Priority::Normal };
        if low {
            connection.low_out.set(connection.low_out.get() + 1);
        }
        let id = RequestId {
            connection: connection.index,
            generation: connection.generation,
            sequence,
            part,
        };
        let session = connection.session.borrow();
        let full = self
            .links
            .borrow_mut()
            .push((link, priority), id, command, session.caller(), deadline, arguments);
        match full {
            true => self.flush_links(),
            false => self.flush_wanted.notify(),
        }
    }

    fn split_by_key(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        merge: Merge,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        if let Some(link) = self.only_link(command, arguments) {
            return self.send_whole(connection, command, link, arguments, deadline);
        }
        // By part: its link, and the numbers of its keys.
        let mut parts: Vec<(usize, Vec<usize>)> = Vec::new();
        for (number, key) in command.keys.of(arguments).enumerate() {
            let link = self.link_of(key);
            match parts.iter_mut().find(|(part_link, _)| *part_link == link) {
                Some((_, numbers)) => numbers.push(number),
                None => parts.push((link, vec![number])),
            }
        }
        let sequence = self.open_merge(
            connection,
            command,
            merge,
            parts.iter().map(|(_, numbers)| numbers.clone()).collect(),
        );
        for (part, (link, numbers)) in parts.iter().enumerate() {
            let key_of = |number: &usize| arguments.get(command.keys.first + number * command.keys.step);
            let part_arguments = std::iter::once(arguments.get(0)).chain(numbers.iter().map(key_of));
            self.send_part(
                connection,
                command,
                *link,
                (sequence, part as u32),
                part_arguments,
                deadline,
            );
        }
    }

    fn send_to_all(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        merge: Merge,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        let count = self.server.router.executor_count();
        if count == 1 {
            return self.send_whole(connection, command, 0, arguments, deadline);
        }
        let sequence = self.open_merge(connection, command, merge, vec![Vec::new(); count]);
        for link in 0..count {
            self.send_part(
                connection,
                command,
                link,
                (sequence, link as u32),
                arguments.iter(),
                deadline,
            );
        }
    }

    fn open_merge(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        merge: Merge,
        places: Vec<Vec<usize>>,
    ) -> u32 {
        let parts = places.len();
        let merging = Merging {
            command,
            merge,
            version: connection.session.borrow().version,
            parts_left: parts,
            took_ns: 0,
            sum: 0,
            error: None,
            replies: vec![Vec::new(); parts],
            places,
            seed: crate::clock::unix_us() as usize,
        };
        let suppressed = reply_suppressed(connection);
        connection
            .replies
            .borrow_mut()
            .open(Awaited::Merge(Box::new(merging)), suppressed)
    }

    /// Fetches the records of all keys, so that the handler can run here.
    fn gather(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        handler: Handler,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        let (version, database) = {
            let session = connection.session.borrow();
            (session.version, session.database)
        };
        let databases =
            std::iter::once(database).chain(keys::second_database(arguments).filter(|_| command.name == "copy"));
        let mut parts: Vec<(usize, Vec<Place>)> = Vec::new();
        for database in databases {
            for key in command.keys.of(arguments) {
                let link = self.link_of(key);
                let place = match parts.iter().position(|(part_link, _)| *part_link == link) {
                    Some(place) => place,
                    None => {
                        parts.push((link, Vec::new()));
                        parts.len() - 1
                    }
                };
                parts[place].1.push((database, key.to_vec()));
            }
        }
        let gathering = Gathering {
            command,
            handler,
            arguments: OwnedArguments::of(arguments.iter()),
            version,
            database,
            string_bytes_max: self.settings.borrow().proto_max_bulk_len.as_usize(),
            parts_left: parts.len(),
            took_ns: 0,
            error: None,
            asked: parts.iter().map(|(_, keys)| keys.clone()).collect(),
            gathered: Gathered::default(),
            reply: None,
        };
        let suppressed = reply_suppressed(connection);
        let sequence = connection
            .replies
            .borrow_mut()
            .open(Awaited::Gather(Box::new(gathering)), suppressed);
        connection.gathering.set(true);
        for (part, (link, keys)) in parts.iter().enumerate() {
            let pairs = keys
                .iter()
                .flat_map(|(database, key)| [std::slice::from_ref(database), key.as_slice()]);
            let fetch_arguments = std::iter::once(GATHER_FETCH.name.as_bytes()).chain(pairs);
            self.send_part(
                connection,
                &GATHER_FETCH,
                *link,
                (sequence, part as u32),
                fetch_arguments,
                deadline,
            );
        }
    }

    /// A response came home: answers its command, or adds it to the parts of one.
    #[inline]
    pub(super) fn take_response(self: &Rc<Self>, batch: &Batch, response: &Response) {
        let connections = self.connections.borrow();
        let connection = connections
            .get(response.id.connection as usize)
            .filter(|connection| connection.generation == response.id.generation && !connection.closed.get());
        let Some(connection) = connection.map(Rc::clone) else {
            drop(connections);
            return match response.more {
                WAITS => {}
                number => self.drop_pieces(batch.link, number),
            };
        };
        drop(connections);
        if batch.priority == Priority::Low {
            connection.low_out.set(connection.low_out.get().saturating_sub(1));
        }
        let bytes = batch.reply(response);
        if bytes.is_empty() && response.more == 0 {
            // What became of the command is unknown (its shard's sync failed): neither OK nor an error would be true. Or the
            // rest of a large reply is missing.
            connection.abort();
            return;
        }
        let sequence = response.id.sequence;
        if connection.is_waiting() {
            if response.more == WAITS {
                return self.visit_next(&connection, sequence);
            }
            if std::ptr::eq(response.command, &WAIT_DURABLE) {
                return self.take_durable(&connection, sequence, batch.reply(response));
            }
            self.after_wait(&connection, sequence, Some(batch.link));
        }
        let mut replies = connection.replies.borrow_mut();
        let Some(slot) = replies.slot(sequence) else { return };
        match &mut slot.awaited {
            Awaited::Ready(_) => {}
            Awaited::Response if response.more != 0 => {
                self.count(response.command, u64::from(response.took_ns), bytes);
                connection.in_pieces.set(connection.in_pieces.get() + 1);
                slot.awaited = Awaited::Pieces(PiecesOut {
                    link: batch.link,
                    number: response.more,
                    is_asked: false,
                    waiting: bytes.to_vec(),
                });
            }
            // An error in the middle of a reply could not be told from its content.
            Awaited::Pieces(_) if response.failed => connection.abort(),
            Awaited::Pieces(pieces) => {
                pieces.waiting.extend_from_slice(bytes);
                (pieces.number, pieces.is_asked) = (response.more, false);
            }
            Awaited::Response => {
                self.count(response.command, u64::from(response.took_ns), bytes);
                replies.complete(sequence, bytes, &mut connection.output.borrow_mut().bytes);
            }
            Awaited::Merge(merging) if response.more != 0 => {
                // The other parts are needed before any of it can be sent, so it is collected here.
                merging.replies[response.id.part as usize].extend_from_slice(bytes);
                drop(replies);
                self.ask_for_piece(&connection, batch.link, (sequence, response.id.part), response.more);
            }
            Awaited::Merge(merging) => {
                if merging.add(response.id.part as usize, bytes, u64::from(response.took_ns)) {
                    let (command, took_ns, reply) = (merging.command, merging.took_ns, merging.finish());
                    self.count(command, took_ns, &reply);
                    replies.complete(sequence, &reply, &mut connection.output.borrow_mut().bytes);
                }
            }
            Awaited::Gather(gathering) => {
                gathering.took_ns += u64::from(response.took_ns);
                gathering.parts_left -= 1;
                if bytes.first() == Some(&b'-') {
                    gathering.error.get_or_insert_with(|| bytes.to_vec());
                } else if gathering.reply.is_none() {
                    gathering.take_records(response.id.part as usize, bytes);
                }
                if gathering.parts_left == 0 {
                    let mut gathering = match std::mem::replace(&mut slot.awaited, Awaited::Response) {
                        Awaited::Gather(gathering) => gathering,
                        _ => unreachable!("the slot was matched as gathering"),
                    };
                    drop(replies);
                    match gathering.next() {
                        Next::Answer(reply) => {
                            connection.gathering.set(false);
                            self.room.notify();
                            self.count(gathering.command, gathering.took_ns, &reply);
                            let mut replies = connection.replies.borrow_mut();
                            replies.complete(sequence, &reply, &mut connection.output.borrow_mut().bytes);
                        }
                        Next::Wait(waiting) => {
                            connection.gathering.set(false);
                            self.wait_for_streams(
                                &connection,
                                gathering.command,
                                sequence,
                                gathering.arguments.get(),
                                &waiting,
                            );
                        }
                        Next::Write(writes) => self.apply(&connection, sequence, gathering, writes),
                    }
                }
            }
        }
        self.touch(&connection);
    }

    /// Moves the piece of a large reply that is next in line to the output, and asks for the one after it if the client has
    /// taken most of what is there.
    pub(super) fn advance_pieces(self: &Rc<Self>, connection: &Rc<Connection>) {
        while connection.in_pieces.get() > 0 && !connection.closed.get() {
            let mut replies = connection.replies.borrow_mut();
            let Some((sequence, suppressed, pieces)) = replies.first_in_pieces() else {
                return;
            };
            let mut output = connection.output.borrow_mut();
            if !suppressed {
                output.bytes.append(&mut pieces.waiting);
            }
            pieces.waiting = Vec::new();
            if pieces.number == 0 {
                connection.in_pieces.set(connection.in_pieces.get() - 1);
                replies.complete(sequence, b"", &mut output.bytes);
                continue;
            }
            if pieces.is_asked || output.len() > PIECES_AHEAD_BYTES {
                return;
            }
            pieces.is_asked = true;
            let (link, number) = (pieces.link, pieces.number);
            drop((replies, output));
            return self.ask_for_piece(connection, link, (sequence, 0), number);
        }
    }

    /// Asks for the next piece when the reactor has looked at the sockets: a client that reads as fast as it is sent to would
    /// otherwise keep this executor going from piece to piece, and nobody else would be heard.
    fn ask_for_piece(self: &Rc<Self>, connection: &Rc<Connection>, link: usize, part: (u32, u32), number: u64) {
        let (executor, connection) = (Rc::clone(self), Rc::clone(connection));
        glommio::spawn_local(async move {
            reactor_turn().await;
            if connection.closed.get() {
                return executor.drop_pieces(link, number);
            }
            let number = number.to_be_bytes();
            let arguments = [PIECES_NEXT.name.as_bytes(), &number[..]];
            let deadline = Instant::now() + APPLY_DEADLINE;
            executor.send_part(&connection, &PIECES_NEXT, link, part, arguments, deadline);
        })
        .detach();
    }

    /// The client is gone: what is kept of its large replies may go.
    pub(super) fn drop_all_pieces(&self, connection: &Connection) {
        for slot in connection.replies.borrow_mut().drain() {
            // One that was asked for comes, finds nobody, and is dropped then.
            if let Awaited::Pieces(pieces) = slot.awaited
                && !pieces.is_asked
            {
                self.drop_pieces(pieces.link, pieces.number);
            }
        }
    }

    fn drop_pieces(&self, link: usize, number: u64) {
        if number == 0 {
            return;
        }
        let nobody = RequestId {
            connection: u32::MAX,
            ..RequestId::default()
        };
        let arguments = [PIECES_DROP.name.as_bytes(), &number.to_be_bytes()];
        let deadline = Instant::now() + APPLY_DEADLINE;
        let (target, caller) = ((link, Priority::Normal), Caller::default());
        self.links
            .borrow_mut()
            .push(target, nobody, &PIECES_DROP, caller, deadline, arguments);
        self.flush_wanted.notify();
    }

    /// Sends what a gathered command's handler staged to the executors that own the keys.
    fn apply(&self, connection: &Rc<Connection>, sequence: u32, mut gathering: Box<Gathering>, writes: Vec<Write>) {
        let mut parts: Vec<(usize, Vec<&Write>)> = Vec::new();
        for write in &writes {
            let link = self.link_of(&write.1);
            match parts.iter_mut().find(|(part_link, _)| *part_link == link) {
                Some((_, part)) => part.push(write),
                None => parts.push((link, vec![write])),
            }
        }
        gathering.parts_left = parts.len();
        if let Some(slot) = connection.replies.borrow_mut().slot(sequence) {
            slot.awaited = Awaited::Gather(gathering);
        }
        let deadline = Instant::now() + APPLY_DEADLINE;
        for (part, (link, writes)) in parts.iter().enumerate() {
            let triples = writes.iter().flat_map(|(database, key, stored)| {
                [
                    std::slice::from_ref(database),
                    key.as_slice(),
                    stored.as_deref().unwrap_or_default(),
                ]
            });
            let arguments = std::iter::once(GATHER_APPLY.name.as_bytes()).chain(triples);
            self.send_part(
                connection,
                &GATHER_APPLY,
                *link,
                (sequence, part as u32),
                arguments,
                deadline,
            );
        }
    }

    /// Counts a command that was answered.
    #[inline]
    pub(super) fn count(&self, command: &Command, took_ns: u64, reply: &[u8]) {
        let failed = reply.first() == Some(&b'-');
        if let Some(counters) = self.metrics.commands.get(command.index()) {
            counters.calls.add(1);
            counters.took_ns.add(took_ns);
            if failed {
                counters.failed.add(1);
            }
        }
        if failed {
            self.count_error(reply);
        }
    }

    fn count_error(&self, reply: &[u8]) {
        if reply.starts_with(b"-TIMEOUT") {
            self.metrics.timeouts.add(1);
        }
        let word = reply[1..]
            .split(|byte| *byte == b' ' || *byte == b'\r')
            .next()
            .unwrap_or_default();
        let word = String::from_utf8_lossy(word).into_owned();
        let mut errors = self
            .metrics
            .errors
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *errors.entry(word).or_default() += 1;
    }
}

/// What a gathered command needs next.
enum Next {
    Answer(Vec<u8>),
    Wait(Waiting),
    Write(Vec<Write>),
}

impl Gathering {
    fn take_records(&mut self, part: usize, reply: &[u8]) {
        for (element, place) in bulk_strings(reply).zip(std::mem::take(&mut self.asked[part])) {
            self.gathered
                .records
                .insert(place, bulk_content(element).map(<[u8]>::to_vec));
        }
    }

    /// All parts are back: runs the handler, or, if its writes are done, gives its reply.
    fn next(&mut self) -> Next {
        if let Some(error) = self.error.take() {
            return Next::Answer(error);
        }
        if let Some(reply) = self.reply.take() {
            return Next::Answer(reply);
        }
        let began = Instant::now();
        self.gathered.now_ms = crate::clock::unix_ms();
        let mut bytes = Vec::new();
        let mut effects = Effects::default();
        let mut context = Context {
            arguments: self.arguments.get(),
            reply: Reply::new(&mut bytes, self.version),
            now_ms: self.gathered.now_ms,
            view: View::Gathered(&mut self.gathered),
            database: self.database,
            seed: crate::clock::unix_us(),
            string_bytes_max: self.string_bytes_max,
            client_id: 0,
            is_inner: false,
            effects: &mut effects,
            pieces: None,
            waits: None,
        };
        let handler = self.handler;
        let run = std::panic::AssertUnwindSafe(|| handler(&mut context));
        let outcome = std::panic::catch_unwind(run).unwrap_or(Err(CommandError::Internal));
        let outcome = match context.waits.take() {
            Some(waiting) if outcome.is_ok() && waiting.kind == Type::Stream => return Next::Wait(waiting),
            // A move that has found nothing would have to be woken by one executor and run on two.
            Some(_) => outcome.and(Err(collections_on_several_executors())),
            None => outcome,
        };
        self.took_ns += began.elapsed().as_nanos() as u64;
        if let Err(error) = outcome {
            bytes.clear();
            Reply::new(&mut bytes, self.version).error(error.to_string());
            return Next::Answer(bytes);
        }
        let written = std::mem::take(&mut self.gathered.written);
        if written.is_empty() {
            return Next::Answer(bytes);
        }
        self.reply = Some(bytes);
        let record_of = |place: Place| {
            let stored = self.gathered.records.remove(&place).flatten();
            (place.0, place.1, stored)
        };
        Next::Write(written.into_iter().map(record_of).collect())
    }
}

/// Whether a command is answered at all; takes note of CLIENT REPLY SKIP's one command.
pub(super) fn reply_suppressed(connection: &Connection) -> bool {
    let mut session = connection.session.borrow_mut();
    match session.reply_mode {
        ReplyMode::On => false,
        ReplyMode::Off => true,
        ReplyMode::SkipNext => {
            session.reply_mode = ReplyMode::On;
            true
        }
    }
}

/// CLIENT and what may come before it on a connection (AUTH, HELLO…) run during a pause, so that CLIENT UNPAUSE can end
/// it. Redis holds those too; it holds all others as we do.
fn is_pause_exempt(command: &Command) -> bool {
    command.container() == Some("client") || command.flags.has(NO_AUTH)
}

/// The row of a command, its arity checked; the error otherwise, with the row if the command is known.
fn find_command(arguments: Arguments<'_>) -> Result<&'static Command, (Option<&'static Command>, CommandError)> {
    let Some(mut command) = table::find(arguments.get(0)) else {
        return Err((None, unknown_command(arguments)));
    };
    let has_subcommands = matches!(command.runs, Runs::Container) || (command.name == "command" && arguments.len() > 1);
    if has_subcommands && arguments.len() > 1 {
        let name = arguments.get(1);
        command = table::find_subcommand(command, name).ok_or_else(|| {
            let shown = CommandError::quoted(&name[..name.len().min(UNKNOWN_COMMAND_SHOWN_MAX)]);
            let help = command.name.to_ascii_uppercase();
            (
                Some(command),
                CommandError::text(format!("ERR unknown subcommand '{shown}'. Try {help} HELP.")),
            )
        })?;
    }
    match command.accepts(arguments.len()) && !matches!(command.runs, Runs::Container) {
        true => Ok(command),
        false => Err((Some(command), CommandError::Arity(command.name.to_owned()))),
    }
}

fn unknown_command(arguments: Arguments<'_>) -> CommandError {
    let shown = |bytes: &[u8], max: usize| CommandError::quoted(&bytes[..bytes.len().min(max)]).into_owned();
    let name = shown(arguments.get(0), UNKNOWN_COMMAND_SHOWN_MAX);
    let mut rest = String::new();
    for argument in arguments.iter().skip(1) {
        if rest.len() >= UNKNOWN_COMMAND_SHOWN_MAX {
            break;
        }
        let room = UNKNOWN_COMMAND_SHOWN_MAX - rest.len();
        rest.push_str(&format!("'{}' ", shown(argument, room)));
    }
    CommandError::text(format!(
        "ERR unknown command '{name}', with args beginning with: {rest}"
    ))
}

fn read_integer(reply: &[u8]) -> Option<i64> {
    let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_null(reply: &[u8]) -> bool {
    matches!(reply, b"$-1\r\n" | b"_\r\n" | b"")
}

/// The number of an array's elements, and their bytes.
fn array_of(reply: &[u8]) -> Option<(usize, &[u8])> {
    let end = memchr::memchr(b'\n', reply)?;
    let digits = reply.get(1..end.checked_sub(1)?)?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, &reply[end + 1..]))
}

/// The elements of an array of bulk strings and nulls, each as its bytes in the reply.
fn bulk_strings(reply: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = array_of(reply).map_or(&reply[..0], |(_, rest)| rest);
    std::iter::from_fn(move || {
        let line_end = memchr::memchr(b'\n', rest)?;
        let len = match rest.first()? {
            b'$' => std::str::from_utf8(rest.get(1..line_end.checked_sub(1)?)?)
                .ok()?
                .parse::<i64>()
                .ok()?,
            _ => -1,
        };
        let end = usize::try_from(len).map_or(line_end + 1, |len| line_end + 1 + len + 2);
        let (element, tail) = rest.split_at_checked(end)?;
        rest = tail;
        Some(element)
    })
}

/// The content of a bulk string as it stands in a reply, `None` for a null.
fn bulk_content(element: &[u8]) -> Option<&[u8]> {
    if is_null(element) {
        return None;
    }
    let start = memchr::memchr(b'\n', element)? + 1;
    element.get(start..element.len().checked_sub(2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_a_reply_are_found_whatever_they_contain() {
        let reply = b"*4\r\n$3\r\na\r\n\r\n$-1\r\n_\r\n$0\r\n\r\n";
        let elements: Vec<_> = bulk_strings(reply).collect();
        assert_eq!(elements, [&b"$3\r\na\r\n\r\n"[..], b"$-1\r\n", b"_\r\n", b"$0\r\n\r\n"]);
        let contents: Vec<_> = elements.into_iter().map(bulk_content).collect();
        assert_eq!(contents, [Some(&b"a\r\n"[..]), None, None, Some(&b""[..])]);
        assert_eq!(array_of(b"*12\r\nrest"), Some((12, &b"rest"[..])));
        assert_eq!(
            bulk_strings(b"*1\r\n$5\r\nab").count(),
            0,
            "a cut reply has no whole element"
        );
    }
}
