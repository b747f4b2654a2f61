//! Commands that wait on a storage executor for a key to change.
//!
//! A waiter keeps a copy of its command and no credit: the batch that brought the command has gone back. Each key has
//! its waiters in the order in which they came. A command over several executors has a waiter on each, and whichever
//! claims its [ticket](crate::registry::clients::Ticket) first answers it; the others are dropped when they are met, or
//! when the command's executor says so.

use crate::channel::message::{Batch, Caller, Request, RequestId};
use crate::channel::responses::ResponseSender;
use crate::command::Command;
use crate::commands::blocking::Waiting;
use crate::protocol::OwnedArguments;
use crate::registry::clients::{Client, Clients, Ticket};
use crate::storage::encoding::Type;
use crate::storage::fields::{FieldReader, FieldWriter};
use crate::storage::transaction_scope::DatabaseKey;
use crate::storage::transaction_scope::TransactionId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The client and the command that a waiter is for.
#[derive(Clone)]
pub struct Claim {
    /// The client.
    pub client: Arc<Client>,
    /// The number of its command.
    pub ticket: Ticket,
}

impl Claim {
    /// Takes it upon this executor to answer; false if another has, or nobody waits any more.
    pub fn take(&self) -> bool {
        self.client.claim(self.ticket)
    }
}

/// What a move between executors is told when its source is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOver {
    /// The transaction that it becomes, for which the source is locked.
    pub id: TransactionId,
    /// The number of the move in the queue of waiters, for when it finds nothing after all.
    pub queue_number: u64,
}

impl HandedOver {
    /// As a reply, which begins with a byte that begins no reply of Redis.
    pub fn encode(self, out: &mut Vec<u8>) {
        let mut fields = FieldWriter(out);
        fields.byte(b'=');
        fields.number(self.id);
        fields.number(self.queue_number);
    }

    /// Reads such a reply; `None` if it is something else.
    pub fn decode(reply: &[u8]) -> Option<HandedOver> {
        let mut fields = FieldReader(reply.strip_prefix(b"=")?);
        Some(HandedOver {
            id: fields.number()?,
            queue_number: fields.number()?,
        })
    }
}

/// One command that waits.
pub struct Waiter {
    /// The number in the queue: waiters are numbered as they come.
    pub number: u64,
    /// The client, and the number of its command.
    pub claim: Claim,
    /// The request that is to be answered.
    pub id: RequestId,
    /// What to do.
    pub command: &'static Command,
    /// For whom.
    pub caller: Caller,
    /// With what.
    pub arguments: OwnedArguments,
    /// What must be under a key for the command to run again.
    pub kind: Type,
    /// Whether the command runs again, too, when its key is deleted or something else is there.
    pub without_key: bool,
    /// When the answer is that nothing came.
    pub deadline: Option<Instant>,
    /// The newest epoch whose writes the command saw when it found nothing. (Waiters are shared, so it is atomic.)
    pub seen: AtomicU64,
    /// The index of this storage executor among its sender's destinations.
    pub destination: usize,
    reply_to: ResponseSender,
    keys: Vec<DatabaseKey>,
}

impl Waiter {
    /// An empty batch for the answer.
    pub fn answer_batch(&self) -> Box<Batch> {
        let mut batch = Batch::new(self.reply_to.clone());
        batch.destination = self.destination;
        batch
    }

    /// Whether the answer may go in a batch.
    pub fn fits(&self, batch: &Batch) -> bool {
        batch.destination == self.destination && batch.reply_to().is_same(&self.reply_to)
    }

    /// Whether the command runs again when a key of its holds `kind`.
    pub fn is_woken_by(&self, kind: Option<Type>) -> bool {
        self.without_key || kind == Some(self.kind)
    }
}

/// All commands that wait on one storage executor.
#[derive(Default)]
pub struct Waiters {
    clients: Arc<Clients>,
    by_number: BTreeMap<u64, Arc<Waiter>>,
    by_key: HashMap<DatabaseKey, BTreeSet<u64>>,
    by_command: BTreeSet<(u64, Ticket, u64)>,
    by_deadline: BTreeSet<(Instant, u64)>,
    /// By key: how many of its waiters run again without the key.
    without_key: HashMap<DatabaseKey, usize>,
    last_number: u64,
    /// Whether some came to be since [`Waiters::take_has_new`].
    has_new: bool,
    /// Has a message when the nearest deadline has become nearer.
    nearer: Option<flume::Sender<()>>,
}

impl Waiters {
    /// No waiters yet; their clients are among `clients`.
    pub fn new(clients: Arc<Clients>) -> Waiters {
        Waiters {
            clients,
            ..Waiters::default()
        }
    }

    /// Whether some came to be since this was asked.
    pub fn take_has_new(&mut self) -> bool {
        std::mem::take(&mut self.has_new)
    }

    /// `nearer` gets a message when the nearest deadline has become nearer.
    pub fn watch_deadlines(&mut self, nearer: flume::Sender<()>) {
        self.nearer = Some(nearer);
    }

    /// A connected client.
    pub fn client(&self, id: u64) -> Option<Arc<Client>> {
        self.clients.find(id)
    }

    /// Whether nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// How many keys are waited for, and how many of them by a command that runs again without the key.
    pub fn key_counts(&self) -> (usize, usize) {
        (self.by_key.len(), self.without_key.len())
    }

    /// The number of the newest waiter.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// A command waits: the request `id` of `batch`, which has `seen` the writes of an epoch and found nothing.
    pub fn add(
        &mut self,
        (batch, request): (&Batch, &Request),
        claim: Claim,
        waiting: &Waiting,
        (now, seen): (Instant, u64),
    ) {
        let arguments = batch.arguments(request);
        let keys = arguments.iter().skip(waiting.keys.start).take(waiting.keys.len());
        let mut keys: Vec<DatabaseKey> = keys.map(|key| (request.caller.database, key.to_vec())).collect();
        keys.sort_unstable();
        keys.dedup();
        let replaced = |position: usize| waiting.replaced.iter().find(|(of, _)| *of == position);
        let words = arguments
            .iter()
            .enumerate()
            .map(|(position, word)| replaced(position).map_or(word, |(_, meant)| meant));
        self.has_new = true;
        let number = waiting.queue_number.unwrap_or(self.last_number + 1);
        self.last_number = self.last_number.max(number);
        let waiter = Waiter {
            number,
            claim,
            id: request.id,
            command: request.command,
            caller: request.caller,
            arguments: OwnedArguments::of(words),
            kind: waiting.kind,
            without_key: waiting.without_key,
            deadline: (waiting.timeout_ms > 0)
                .then(|| deadline_after(now, waiting.timeout_ms))
                .flatten(),
            seen: AtomicU64::new(seen),
            destination: batch.destination,
            reply_to: batch.reply_to().clone(),
            keys,
        };
        self.enter(waiter);
    }

    fn enter(&mut self, waiter: Waiter) {
        let number = waiter.number;
        for key in &waiter.keys {
            self.by_key.entry(key.clone()).or_default().insert(number);
            if waiter.without_key {
                *self.without_key.entry(key.clone()).or_default() += 1;
            }
        }
        self.by_command
            .insert((waiter.claim.client.id, waiter.claim.ticket, number));
        if let Some(deadline) = waiter.deadline {
            let is_nearest = self.nearest_deadline().is_none_or(|nearest| deadline < nearest);
            self.by_deadline.insert((deadline, number));
            if is_nearest && let Some(nearer) = &self.nearer {
                // If the channel is full, the message in it says the same.
                let _ = nearer.try_send(());
            }
        }
        waiter.claim.client.mark_blocked(waiter.claim.ticket);
        let earlier = self.by_number.insert(number, Arc::new(waiter));
        assert!(earlier.is_none(), "no two waiters have the same number");
    }

    /// The first of a key's waiters with a number in `range`.
    pub fn next_for(&self, key: &DatabaseKey, range: Range<u64>) -> Option<Arc<Waiter>> {
        let number = self.by_key.get(key)?.range(range).next()?;
        self.by_number.get(number).cloned()
    }

    /// Whether some command waits for a key.
    pub fn wait_for(&self, key: &DatabaseKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether some command that waits for a key runs again without it.
    pub fn wait_without(&self, key: &DatabaseKey) -> bool {
        self.without_key.contains_key(key)
    }

    /// All keys that are waited for, those first whose waiters came first.
    pub fn keys(&self) -> Vec<DatabaseKey> {
        let mut keys: Vec<_> = self.by_key.iter().map(|(key, line)| (line.first(), key)).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key.clone()).collect()
    }

    /// The waiters that have seen what was written in an epoch, or later.
    pub fn that_saw(&self, epoch: u64) -> Vec<Arc<Waiter>> {
        let waiters = self.by_number.values();
        waiters
            .filter(|waiter| waiter.seen.load(Ordering::Relaxed) >= epoch)
            .cloned()
            .collect()
    }

    /// The nearest deadline.
    pub fn nearest_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// The first waiter whose time is up.
    pub fn next_late(&self, now: Instant) -> Option<Arc<Waiter>> {
        let (deadline, number) = self.by_deadline.first()?;
        (*deadline <= now)
            .then(|| self.by_number.get(number).cloned())
            .flatten()
    }

    /// A command was answered or is not wanted any more: its waiters go.
    pub fn remove_command(&mut self, client_id: u64, ticket: Ticket) {
        let of_command = (client_id, ticket, 0)..=(client_id, ticket, u64::MAX);
        let numbers: Vec<u64> = self
            .by_command
            .range(of_command)
            .map(|(_, _, number)| *number)
            .collect();
        for number in numbers {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(waiter) = self.by_number.remove(&number) else {
            return;
        };
        for key in &waiter.keys {
            if let Some(line) = self.by_key.get_mut(key) {
                line.remove(&number);
                if line.is_empty() {
                    self.by_key.remove(key);
                }
            }
            if waiter.without_key
                && let Some(count) = self.without_key.get_mut(key)
            {
                *count -= 1;
                if *count == 0 {
                    self.without_key.remove(key);
                }
            }
        }
        self.by_command
            .remove(&(waiter.claim.client.id, waiter.claim.ticket, number));
        if let Some(deadline) = waiter.deadline {
            self.by_deadline.remove(&(deadline, number));
        }
    }
}

/// The end of a wait; `None` if it is so far away that no clock can tell it.
fn deadline_after(now: Instant, timeout_ms: u64) -> Option<Instant> {
    now.checked_add(std::time::Duration::from_millis(timeout_ms))
}
