//! From a command to where the command runs: its row, what may keep it from being run now, and the batch that takes it
//! to the storage executor of its key, or another way.

use super::connection::{Awaited, Connection};
use super::merging::Merging;
use super::session::{ReplyMode, Session};
use crate::channel::message::RequestId;
use crate::command::{
    self, Command, LOW_PRIORITY, Merge, NO_AUTH, NO_MULTI, NO_SCRIPT, NOT_QUEUED, OF_CLIENT, PROTECTED, PUBLISHES,
    PUBSUB, READ, RUNS_SCRIPT, Runs, WHILE_SUBSCRIBED, WRITE,
};
use crate::commands::{keys, monitor_line};
use crate::config::{DebugCommand, Durability};
use crate::error::CommandError;
use crate::network::coordination::Work;
use crate::network::network_executor::NetworkExecutor;
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, Reply};
use crate::registry::subscribers::Kind;
use crate::scripts::registry::Reach;
use crate::slots::Slot;
use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes of an unknown command and its arguments that the error repeats, as in Redis.
const UNKNOWN_COMMAND_SHOWN_MAX: usize = 128;

/// The deadline of requests that must be run however long they wait: they end what was begun.
pub(super) const APPLY_DEADLINE: Duration = Duration::from_secs(3600);

/// The answer to DEBUG where `enable-debug-command` does not allow it, in Redis's words.
const DEBUG_NOT_ALLOWED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \
    \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration \
    file, and then restart the server.";

/// What to do after a command was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The command was taken: read the next.
    Yes,
    /// The command must wait (CLIENT PAUSE, no credits): offer it again.
    Paused,
}

/// The common way: from a command to the batch for the storage executor of its key.
impl NetworkExecutor {
    /// Takes one command of a connection: answers it, or sends it on its way.
    pub(super) fn dispatch(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        arguments: Arguments<'_>,
        now: Instant,
    ) -> Taken {
        let Some(command) = self.row_of(connection, arguments) else {
            return Taken::Yes;
        };
        let in_multi = connection.session.borrow().transaction.is_open();
        let is_told = connection.session.borrow().is_told();
        if let Some(error) = self.refusal_of(connection, command, in_multi, is_told) {
            self.refuse(connection, Some(command), &error);
            return Taken::Yes;
        }
        if self.is_held_up(connection, command, arguments, in_multi) {
            return Taken::Paused;
        }
        connection.client.commands.add(1);
        if in_multi && is_queued(command) {
            self.queue(connection, command, arguments);
            return Taken::Yes;
        }
        self.metrics.commands_processed.add(1);
        let deadline = now + self.request_timeout.get();
        if command.runs != Runs::Network && command.runs != Runs::Exec {
            self.show_to_monitors(connection, command, arguments);
        }
        if self.server.scripts.any_busy() && self.waits_for_script(command, arguments) {
            self.refuse(connection, Some(command), &self.server.scripts.busy_error());
            return Taken::Yes;
        }
        if command.may_wait(arguments) && self.send_blocking(connection, command, arguments, deadline) {
            return Taken::Yes;
        }
        self.run_where_it_runs(connection, command, arguments, deadline);
        if is_told {
            connection.session.borrow_mut().end_caching(command);
        }
        Taken::Yes
    }

    /// The row of a command that may be run as far as its name, its arity and its kind go; any other is answered.
    #[inline]
    fn row_of(self: &Rc<Self>, connection: &Rc<Connection>, arguments: Arguments<'_>) -> Option<&'static Command> {
        let found = find_command(arguments);
        // CLIENT LIST shows a command although it may be refused.
        let row = found.as_ref().map_or_else(|(row, _)| *row, |row| Some(*row));
        let shown = row.map_or(u64::MAX, |row| row.index() as u64);
        connection.client.last_command.set(shown);
        match found {
            Ok(command) if command.flags.has(PROTECTED) && !self.may_debug(connection) => {
                self.refuse(connection, Some(command), &CommandError::text(DEBUG_NOT_ALLOWED));
            }
            Ok(command) => return Some(command),
            Err((None, _)) if is_other_protocol(arguments.get(0)) => self.cut_off_other_protocol(connection),
            Err((command, error)) => self.refuse(connection, command, &error),
        }
        None
    }

    /// Why a client may not have a command run now, if so.
    #[inline]
    fn refusal_of(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &Command,
        in_multi: bool,
        is_told: bool,
    ) -> Option<CommandError> {
        if in_multi && command.flags.has(NO_MULTI) {
            return Some(CommandError::text("ERR Command not allowed inside a transaction"));
        }
        if !command.flags.has(NO_AUTH) && !self.has_authenticated(connection) {
            return Some(CommandError::text("NOAUTH Authentication required."));
        }
        if !is_told {
            return None;
        }
        self.deliver_now();
        refusal_for_listener(&connection.session.borrow(), command)
    }

    /// Whether a command must wait: CLIENT PAUSE, subscribers that are behind, a storage executor without credits.
    #[inline]
    fn is_held_up(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
        in_multi: bool,
    ) -> bool {
        let has_flag = |flag| {
            command.flags.has(flag)
                || in_multi
                    && command.runs == Runs::Exec
                    && connection.session.borrow().transaction.has(|row| row.flags.has(flag))
        };
        let publishes = has_flag(PUBLISHES);
        let writes = has_flag(WRITE) || command.flags.has(RUNS_SCRIPT) && command.may_write();
        if self.server.pause.holds(writes || publishes) && !is_pause_exempt(command) {
            return true;
        }
        if publishes && self.server.pubsub.is_slow() && self.waits_to_publish(command, arguments) {
            return true;
        }
        let any_is_blocked = self.destinations.borrow().any_is_blocked();
        let lacks_credits =
            any_is_blocked && !(in_multi && is_queued(command)) && self.lacks_credits(connection, command, arguments);
        self.metrics.backpressure_events.add(u64::from(lacks_credits));
        lacks_credits
    }

    /// Runs a command here, or sends it to where its row says.
    #[inline]
    fn run_where_it_runs(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: &'static Command,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        match command.runs {
            Runs::Network => {
                self.run_here(connection, command, arguments);
                // Shown with what the command has changed: SELECT with the database that it selected.
                self.show_to_monitors(connection, command, arguments);
            }
            Runs::Shard => {
                let key = arguments.get(command.keys.first);
                self.send_whole(connection, command, self.destination_of(key), arguments, deadline);
            }
            Runs::Transaction => {
                let reach = self.reach_of(command, arguments);
                let destination = match reach {
                    None => self.only_destination(command, arguments),
                    Some(_) => None,
                };
                match destination {
                    Some(destination) => self.send_whole(connection, command, destination, arguments, deadline),
                    None => {
                        let database = connection.session.borrow().database;
                        let is_whole = reach == Some(Reach::Everything);
                        let keys = (!is_whole).then(|| command::database_keys_of(command, arguments, database));
                        self.coordinate(connection, command, Work::Handler, arguments, keys, deadline);
                    }
                }
            }
            Runs::All(_) if self.server.router.executor_count() == 1 => {
                self.send_whole(connection, command, 0, arguments, deadline);
            }
            Runs::All(merge) => {
                self.coordinate(connection, command, Work::Everywhere(merge), arguments, None, deadline);
            }
            Runs::Each(merge) => self.send_to_all(connection, command, merge, arguments, deadline),
            Runs::Cursor => match keys::cursor_slot(arguments.get(1)) {
                Ok(slot) => self.send_scan(connection, command, slot, arguments, deadline),
                Err(error) => self.refuse(connection, Some(command), &error),
            },
            Runs::Whole => match self.only_destination_of(std::iter::empty(), true) {
                Some(destination) => {
                    self.send_whole(connection, command, destination.unwrap_or(0), arguments, deadline)
                }
                None => self.coordinate(connection, command, Work::Handler, arguments, None, deadline),
            },
            Runs::Exec => self.exec(connection, command, arguments, deadline),
            Runs::Watch => self.watch(connection, command, arguments, deadline),
            Runs::Step(_) | Runs::Internal(_) | Runs::Container => unreachable!("no client's command runs so"),
        }
    }

    /// The storage executor of a key.
    #[inline]
    pub(super) fn destination_of(&self, key: &[u8]) -> usize {
        usize::from(self.server.router.executor_of_key(key).0)
    }

    /// Sends a command as a whole to one storage executor.
    #[inline]
    pub(super) fn send_whole(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        destination: usize,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        let suppressed = reply_suppressed(connection);
        let sequence = connection.replies.borrow_mut().open(Awaited::Response, suppressed);
        self.send_part(
            connection,
            command,
            destination,
            (sequence, 0),
            arguments.iter(),
            deadline,
        );
    }

    /// Adds a request, all of a command or a part of it, to the open batch for a storage executor.
    #[inline]
    pub(super) fn send_part<'a>(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        destination: usize,
        (sequence, part): (u32, u32),
        arguments: impl IntoIterator<Item = &'a [u8]>,
        deadline: Instant,
    ) {
        let priority = connection.priority_of_next(command.flags.has(LOW_PRIORITY));
        connection.count_out_at(priority);
        let id = RequestId {
            connection: connection.index,
            generation: connection.generation,
            sequence,
            part,
        };
        let session = connection.session.borrow();
        let full = self.destinations.borrow_mut().push(
            (destination, priority),
            id,
            command,
            session.caller(),
            deadline,
            arguments,
        );
        match full {
            true => self.flush_destinations(),
            false => self.flush_wanted.notify(),
        }
    }
}

/// Commands that go to several storage executors, or may have to.
impl NetworkExecutor {
    /// Sends a command as it is to all storage executors.
    fn send_to_all(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        merge: Merge,
        arguments: Arguments<'_>,
        deadline: Instant,
    ) {
        let parts =
            (0..self.server.router.executor_count()).map(|destination| (destination, arguments.iter().collect()));
        self.send_parts(connection, command, merge, parts.collect(), deadline);
    }

    /// Sends a command's parts to storage executors, each with its arguments.
    pub(super) fn send_parts(
        &self,
        connection: &Rc<Connection>,
        command: &'static Command,
        merge: Merge,
        parts: Vec<(usize, Vec<&[u8]>)>,
        deadline: Instant,
    ) {
        let suppressed = reply_suppressed(connection);
        let merging = Merging::new(merge, connection.session.borrow().version, parts.len());
        let awaited = match parts.len() {
            1 => Awaited::Response,
            _ => Awaited::Merge(Box::new(merging)),
        };
        let sequence = connection.replies.borrow_mut().open(awaited, suppressed);
        for (part, (destination, arguments)) in parts.into_iter().enumerate() {
            self.send_part(
                connection,
                command,
                destination,
                (sequence, part as u32),
                arguments,
                deadline,
            );
        }
    }

    /// The one storage executor that runs a command on all its keys by itself, if there is one. A process that is
    /// killed cannot tear apart what the executor writes to several of its shards; a loss of power could, so if writes
    /// wait for the disk, a command on several shards becomes a transaction.
    pub(super) fn only_destination(&self, command: &Command, arguments: Arguments<'_>) -> Option<usize> {
        // A command without keys is an error, which any executor's handler can tell.
        let keys = command.keys.of(arguments);
        self.only_destination_of(keys, command.may_write()).unwrap_or(Some(0))
    }

    /// [`NetworkExecutor::only_destination`] for any keys; `None` if there are none.
    pub(super) fn only_destination_of<'a>(
        &self,
        mut keys: impl Iterator<Item = &'a [u8]>,
        writes: bool,
    ) -> Option<Option<usize>> {
        let router = &self.server.router;
        let by_shard = writes && self.settings.borrow().durability == Durability::Always;
        if router.shard_count() == 1 || (router.executor_count() == 1 && !by_shard) {
            return Some(Some(0));
        }
        let owner_of = |key: &[u8]| {
            let shard = router.shard_of(Slot::of(key));
            (router.owner(shard), by_shard.then_some(shard))
        };
        let first = owner_of(keys.next()?);
        let is_only = keys.all(|key| owner_of(key) == first);
        Some(is_only.then_some(usize::from(first.0.0)))
    }

    /// What a command that runs a script is known to need beyond its keys, if there are several storage executors.
    #[inline]
    pub(super) fn reach_of(&self, command: &Command, arguments: Arguments<'_>) -> Option<Reach> {
        if !command.flags.has(RUNS_SCRIPT) {
            return None;
        }
        match self.server.router.executor_count() {
            1 => None,
            _ => self.server.scripts.reach(arguments.get(1)),
        }
    }
}

/// What keeps a command from being run now.
impl NetworkExecutor {
    /// Whether a client may use DEBUG.
    fn may_debug(&self, connection: &Connection) -> bool {
        match self.settings.borrow().enable_debug_command {
            DebugCommand::No => false,
            DebugCommand::Local => connection.client.address.ip().to_canonical().is_loopback(),
            DebugCommand::Yes => true,
        }
    }

    /// Whether a client has authenticated, or need not.
    #[inline]
    pub(super) fn has_authenticated(&self, connection: &Connection) -> bool {
        connection.session.borrow().authenticated || self.settings.borrow().requirepass.is_empty()
    }

    /// Closes a connection on which a request of another protocol came, at once and without an answer: the body of that
    /// request follows, and must not be run.
    fn cut_off_other_protocol(&self, connection: &Connection) {
        let now_s = crate::clock::unix_ms() / 1000;
        if self.server.totals.may_warn_of_other_protocol(now_s) {
            tracing::warn!(
                client = connection.client.id,
                address = %connection.client.address,
                "Possible SECURITY ATTACK detected. It looks like somebody is sending POST or Host: commands to \
                 Corelane. This is likely due to an attacker attempting to use Cross Protocol Scripting to compromise \
                 it. Connection aborted."
            );
        }
        connection.abort();
    }

    /// Whether a command goes to a storage executor to which nothing more can be sent now.
    fn lacks_credits(&self, connection: &Connection, command: &Command, arguments: Arguments<'_>) -> bool {
        let is_blocked = |destination: usize| self.destinations.borrow().is_blocked(destination);
        match command.runs {
            Runs::Exec => {
                let session = connection.session.borrow();
                let transaction = &session.transaction;
                transaction
                    .watched_destinations()
                    .iter()
                    .any(|destination| is_blocked(*destination))
                    || transaction
                        .queued()
                        .any(|(command, arguments)| self.goes_to_any(command, arguments, is_blocked))
            }
            _ if self.reach_of(command, arguments) == Some(Reach::Everything) => {
                (0..self.server.router.executor_count()).any(is_blocked)
            }
            _ => self.goes_to_any(command, arguments, is_blocked),
        }
    }

    /// Whether the receivers of what a command publishes are behind.
    fn waits_to_publish(&self, command: &Command, arguments: Arguments<'_>) -> bool {
        let is_slow = |kind: &Kind| self.server.pubsub.is_slow_for(*kind, arguments.get(1));
        match command.runs {
            // PUBLISH and SPUBLISH: subscribers of the name in either name space, and of patterns that match it.
            Runs::Network => [Kind::Channel, Kind::ShardChannel].iter().any(is_slow),
            _ => true,
        }
    }

    /// Whether a command goes to a storage executor that is busy with a script.
    fn waits_for_script(&self, command: &Command, arguments: Arguments<'_>) -> bool {
        // The commands of an EXEC are answered by the storage executor that runs them.
        matches!(command.runs, Runs::All(_) | Runs::Each(_) | Runs::Whole)
            || self.goes_to_any(command, arguments, |destination| {
                self.server.scripts.is_busy(destination)
            })
    }

    /// Whether a command goes to one of the storage executors for which `is_meant` holds. EXEC itself goes to none.
    fn goes_to_any(&self, command: &Command, arguments: Arguments<'_>, is_meant: impl Fn(usize) -> bool) -> bool {
        match command.runs {
            Runs::Network | Runs::Exec | Runs::Step(_) | Runs::Internal(_) | Runs::Container => false,
            Runs::All(_) | Runs::Each(_) | Runs::Whole => (0..self.server.router.executor_count()).any(is_meant),
            Runs::Cursor => {
                let slot = keys::cursor_slot(arguments.get(1));
                slot.is_ok_and(|slot| is_meant(usize::from(self.server.router.executor_of(slot).0)))
            }
            Runs::Shard | Runs::Transaction | Runs::Watch => {
                let mut destinations = command
                    .keys
                    .of(arguments)
                    .map(|key| self.destination_of(key))
                    .peekable();
                match destinations.peek() {
                    Some(_) => destinations.any(is_meant),
                    // A command without keys goes to the first, as `only_destination` says.
                    None => is_meant(0),
                }
            }
        }
    }
}

/// Answers that are given here.
impl NetworkExecutor {
    /// Answers a command that is not run. If it came between MULTI and EXEC, that EXEC will not be run either.
    pub(super) fn refuse(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        command: Option<&'static Command>,
        error: &CommandError,
    ) {
        if let Some(counters) = command.and_then(|command| self.metrics.commands.get(command.index())) {
            counters.rejected.add(1);
        }
        let mut text = error.to_string();
        {
            let transaction = &mut connection.session.borrow_mut().transaction;
            transaction.refuse();
            if command.is_some_and(|command| command.runs == Runs::Exec) {
                transaction.reset();
                let why = text.strip_prefix("ERR ").unwrap_or(&text);
                text = format!("EXECABORT Transaction discarded because of: {why}");
            }
        }
        self.forget_watches(connection);
        let mut reply = Vec::new();
        Reply::new(&mut reply, Version::Resp2).error(text);
        self.count_error(&reply);
        self.answer(connection, reply, reply_suppressed(connection));
    }

    /// Answers a command at once, behind the replies that are pending.
    pub(super) fn answer(&self, connection: &Rc<Connection>, reply: impl Into<Cow<'static, [u8]>>, suppressed: bool) {
        let reply = reply.into();
        let mut replies = connection.replies.borrow_mut();
        if replies.is_empty() {
            if !suppressed {
                connection.output.borrow_mut().append(&reply);
            }
        } else {
            replies.open(Awaited::Ready(reply), suppressed);
        }
        drop(replies);
        self.touch(connection);
    }

    /// Shows a command to the clients that monitor.
    #[inline]
    pub(super) fn show_to_monitors(&self, connection: &Connection, command: &Command, arguments: Arguments<'_>) {
        if self.server.pubsub.is_monitored() && monitor_line::is_shown(command) {
            let database = connection.session.borrow().database;
            let now_us = crate::clock::unix_us();
            let line = monitor_line::line(now_us, database, connection.client.address, command, arguments);
            self.server.pubsub.show_to_monitors(&line);
        }
    }
}

/// Whether the next command is not answered; of CLIENT REPLY SKIP that is used up by it.
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

/// Why a client that subscribes or monitors may not have a command run now.
fn refusal_for_listener(session: &Session, command: &Command) -> Option<CommandError> {
    let name = command.name;
    let is_about_subscriptions = command.flags.has(PUBSUB | NO_SCRIPT) || command.flags.has(WHILE_SUBSCRIBED);
    if session.subscribed.is_some() && session.version == Version::Resp2 && !is_about_subscriptions {
        return Some(CommandError::text(format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
             this context"
        )));
    }
    let touches_data = [READ, WRITE, PUBLISHES].iter().any(|flag| command.flags.has(*flag));
    (session.is_monitor && touches_data).then(|| CommandError::text("ERR Replica can't interact with the keyspace"))
}

/// Whether a command runs during CLIENT PAUSE: CLIENT, and what may come before it on a connection (AUTH, HELLO…), so
/// that CLIENT UNPAUSE can end the pause. Redis holds those too, and all others as we do.
fn is_pause_exempt(command: &Command) -> bool {
    command.flags.has(OF_CLIENT) || command.flags.has(NO_AUTH)
}

/// Whether an unknown command is the beginning of an HTTP request, which a web page makes a browser send to servers
/// that only the browser's machine can reach: its method, or the header that every such request has. Source: Redis's
/// `processCommand`.
fn is_other_protocol(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Whether a command waits for EXEC.
fn is_queued(command: &Command) -> bool {
    match command.runs {
        Runs::Exec | Runs::Watch => false,
        Runs::Network => !command.flags.has(NOT_QUEUED),
        _ => true,
    }
}

/// The row of a command, its arity checked.
///
/// # Errors
/// What to answer, with the row if the command is known.
fn find_command(arguments: Arguments<'_>) -> Result<&'static Command, (Option<&'static Command>, CommandError)> {
    let Some(mut command) = command::find(arguments.get(0)) else {
        return Err((None, unknown_command(arguments)));
    };
    if command.has_subcommands() && arguments.len() > 1 {
        let name = arguments.get(1);
        command = command::find_subcommand(command, name).ok_or_else(|| {
            let shown = CommandError::quoted(&name[..name.len().min(UNKNOWN_COMMAND_SHOWN_MAX)]);
            let help = command.name.to_ascii_uppercase();
            // The error counts for no command, as in Redis.
            let error = CommandError::text(format!("ERR unknown subcommand '{shown}'. Try {help} HELP."));
            (None, error)
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
    let mut shown_arguments = String::new();
    for argument in arguments.iter().skip(1) {
        if shown_arguments.len() >= UNKNOWN_COMMAND_SHOWN_MAX {
            break;
        }
        let room = UNKNOWN_COMMAND_SHOWN_MAX - shown_arguments.len();
        shown_arguments.push_str(&format!("'{}' ", shown(argument, room)));
    }
    CommandError::text(format!(
        "ERR unknown command '{name}', with args beginning with: {shown_arguments}"
    ))
}
