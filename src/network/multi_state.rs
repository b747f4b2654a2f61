//! What a client has queued since MULTI, and the keys that it watches.

use crate::channel::message::Request;
use crate::command::{Command, Runs};
use crate::error::CommandError;
use crate::protocol::{Arguments, Span};
use crate::storage::transaction_scope::DatabaseKey;
use std::collections::BTreeSet;

/// A queued command. Its arguments are in the queue, which has those of all commands in one piece.
#[derive(Clone, Copy)]
pub struct Queued {
    /// The command's row.
    pub command: &'static Command,
    first_span: usize,
    span_count: usize,
}

/// The commands that were queued since MULTI.
#[derive(Default)]
pub struct Queue {
    commands: Vec<Queued>,
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// A command was refused: EXEC will run none.
    refused: bool,
    /// How many of the commands run on the network executor.
    network_commands: usize,
}

impl Queue {
    /// The commands, oldest first.
    pub fn commands(&self) -> &[Queued] {
        &self.commands
    }

    /// The arguments of a command of this queue.
    pub fn arguments(&self, queued: &Queued) -> Arguments<'_> {
        let spans = &self.spans[queued.first_span..][..queued.span_count];
        Arguments::new(&self.bytes, spans)
    }

    /// Whether a command was refused.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether some of the commands run on the network executor.
    pub fn has_network_commands(&self) -> bool {
        self.network_commands > 0
    }

    /// The memory that the queue takes, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.spans.len() * size_of::<Span>() + self.commands.len() * size_of::<Queued>()
    }

    fn push(&mut self, command: &'static Command, arguments: Arguments<'_>) -> Result<(), CommandError> {
        let added: usize = arguments.iter().map(<[u8]>::len).sum();
        // Offsets have 32 bits, here and in the batch for the storage executor, which has a few bytes more.
        if self.memory() + added + size_of::<Request>() > QUEUE_BYTES_MAX {
            return Err(CommandError::text(
                "OOM the transaction's commands take more than 2 GiB",
            ));
        }
        let first_span = self.spans.len();
        for argument in arguments.iter() {
            self.spans.push(Span::new(self.bytes.len(), argument.len()));
            self.bytes.extend_from_slice(argument);
        }
        self.commands.push(Queued {
            command,
            first_span,
            span_count: arguments.len(),
        });
        self.network_commands += usize::from(command.runs == Runs::Network);
        Ok(())
    }
}

/// Most that one queue may take, whatever `client-query-buffer-limit` says: offsets in it have 32 bits.
const QUEUE_BYTES_MAX: usize = 2 << 30;

/// What one client has queued, and the keys that it watches.
#[derive(Default)]
pub struct TransactionState {
    queue: Option<Queue>,
    /// How many commands EXEC has, while it runs.
    running: Option<usize>,
    /// Storage executors that know of keys which the client watches.
    watched_destinations: Vec<usize>,
    watched_keys: BTreeSet<DatabaseKey>,
    /// Storage executors that must be told to forget what the client watches.
    to_forget: Vec<usize>,
}

impl TransactionState {
    /// MULTI
    ///
    /// # Errors
    /// MULTI was called before.
    pub fn begin(&mut self) -> Result<(), CommandError> {
        if self.is_open() {
            return Err(CommandError::text("ERR MULTI calls can not be nested"));
        }
        self.queue = Some(Queue::default());
        Ok(())
    }

    /// Whether commands are queued now.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues a command.
    ///
    /// # Errors
    /// The queue would take more than [`QUEUE_BYTES_MAX`].
    pub fn push(&mut self, command: &'static Command, arguments: Arguments<'_>) -> Result<(), CommandError> {
        match &mut self.queue {
            Some(queue) => queue.push(command, arguments),
            None => Err(CommandError::Internal),
        }
    }

    /// A command could not be queued: EXEC will run none of those that were.
    pub fn refuse(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.refused = true;
        }
    }

    /// The transaction is over: EXEC or DISCARD takes its commands.
    pub fn take_queue(&mut self) -> Option<Queue> {
        self.queue.take()
    }

    /// EXEC runs so many commands, or (`None`) is over.
    pub fn set_running(&mut self, commands: Option<usize>) {
        self.running = commands;
    }

    /// How many commands CLIENT LIST shows; `None` outside of MULTI.
    pub fn shown_commands(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.commands.len()).or(self.running)
    }

    /// The memory that the queue takes, in bytes.
    pub fn memory(&self) -> usize {
        self.queue.as_ref().map_or(0, Queue::memory)
    }

    /// Whether a queued command is one of those that `is_wanted` names.
    pub fn has(&self, is_wanted: impl Fn(&Command) -> bool) -> bool {
        let mut commands = self.queue.iter().flat_map(Queue::commands);
        commands.any(|queued| is_wanted(queued.command))
    }

    /// A storage executor is told to watch a key.
    pub fn watch(&mut self, destination: usize, database: u8, key: &[u8]) {
        if !self.watched_destinations.contains(&destination) {
            self.watched_destinations.push(destination);
        }
        self.watched_keys.insert((database, key.to_vec()));
    }

    /// The commands that EXEC will run, and their arguments.
    pub fn queued(&self) -> impl Iterator<Item = (&'static Command, Arguments<'_>)> {
        let queue = self.queue.iter();
        queue.flat_map(|queue| {
            queue
                .commands()
                .iter()
                .map(|queued| (queued.command, queue.arguments(queued)))
        })
    }

    /// The storage executors that know of keys which the client watches.
    pub fn watched_destinations(&self) -> &[usize] {
        &self.watched_destinations
    }

    /// How many keys are watched.
    pub fn watched_keys(&self) -> usize {
        self.watched_keys.len()
    }

    /// Takes the storage executors that know of watched keys, and the keys: EXEC asks those executors, which forget the
    /// keys then.
    pub fn take_watched(&mut self) -> (Vec<usize>, BTreeSet<DatabaseKey>) {
        (
            std::mem::take(&mut self.watched_destinations),
            std::mem::take(&mut self.watched_keys),
        )
    }

    /// UNWATCH
    pub fn unwatch(&mut self) {
        let (destinations, _) = self.take_watched();
        self.to_forget.extend(destinations);
    }

    /// Storage executors that EXEC did not ask must forget what the client watches.
    pub fn forget(&mut self, destinations: &[usize]) {
        self.to_forget.extend(destinations);
    }

    /// Takes the storage executors that are to forget what the client watches.
    #[inline]
    pub fn take_to_forget(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.to_forget)
    }

    /// RESET, and the end of the connection.
    pub fn reset(&mut self) {
        self.queue = None;
        self.unwatch();
    }
}
