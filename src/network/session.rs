//! What a client has set up on its connection, and what a command that runs there gets.

use crate::channel::message::Caller;
use crate::command::{Command, OF_CLIENT};
use crate::error::CommandError;
use crate::network::multi_state::TransactionState;
use crate::network::subscriptions::{Subscribed, Subscriptions};
use crate::protocol::reply::Version;
use crate::protocol::{Arguments, Reply};
use crate::registry::clients::Client;
use crate::registry::server_state::ServerState;
use crate::registry::tracked_keys::Tracked;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whether commands are answered (CLIENT REPLY).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every command is answered.
    #[default]
    On,
    /// No command is answered.
    Off,
    /// The next command is not answered, the later ones are. Set by CLIENT REPLY SKIP, which itself is not answered.
    SkipNext,
}

/// What one connection's client has set up.
pub struct Session {
    /// The client's entry in the list of all clients.
    pub client: Arc<Client>,
    /// The index of the connection among those of its executor.
    pub connection: u32,
    /// The selected database, `0..16`.
    pub database: u8,
    /// The version of RESP that HELLO chose.
    pub version: Version,
    /// Whether AUTH succeeded or no password is required.
    pub authenticated: bool,
    /// CLIENT REPLY.
    pub reply_mode: ReplyMode,
    /// MULTI and WATCH: the commands that are queued, the keys that are watched.
    pub transaction: TransactionState,
    /// Whether the connection is to be closed once the pending commands were answered.
    pub closing: bool,
    /// The channels and patterns that the client subscribes to, if any; changed by [`Subscriptions`] only.
    pub subscribed: Option<Box<Subscribed>>,
    /// MONITOR; changed by [`Subscriptions`] only.
    pub is_monitor: bool,
    /// CLIENT TRACKING; changed by [`crate::network::tracking_pushes::set_tracking`] only, except for CLIENT
    /// CACHING.
    pub tracking: Option<Box<Tracked>>,
}

impl Session {
    /// The session of a new connection, which has an index among those of its executor.
    pub(super) fn new(client: Arc<Client>, connection: u32, authenticated: bool) -> Session {
        Session {
            client,
            connection,
            database: 0,
            version: Version::Resp2,
            authenticated,
            reply_mode: ReplyMode::On,
            transaction: TransactionState::default(),
            closing: false,
            subscribed: None,
            is_monitor: false,
            tracking: None,
        }
    }

    /// Whether the client subscribes or monitors.
    #[inline]
    pub fn listens(&self) -> bool {
        self.subscribed.is_some() || self.is_monitor
    }

    /// Writes what CLIENT LIST shows of the session to the client's entry.
    pub fn publish(&self) {
        let client = &self.client;
        client.database.set(u64::from(self.database));
        client.version.set(if self.version == Version::Resp3 { 3 } else { 2 });
        let queued = self.transaction.shown_commands();
        client.multi.set(queued.map_or(0, |count| count as u64 + 1));
        client.multi_bytes.set(self.transaction.memory() as u64);
        client.watched_keys.set(self.transaction.watched_keys() as u64);
    }

    /// Whether pushes are for the client, or may be.
    pub fn is_told(&self) -> bool {
        self.listens() || self.tracking.is_some() || self.client.is_redirected_to.load(Ordering::Relaxed)
    }

    /// CLIENT CACHING is about one command: it is over with the first that is none of CLIENT's subcommands.
    pub fn end_caching(&mut self, command: &Command) {
        if let Some(tracked) = self.tracking.as_deref_mut().filter(|tracked| tracked.caching)
            && !command.flags.has(OF_CLIENT)
            && !self.transaction.is_open()
        {
            tracked.caching = false;
        }
    }

    /// On whose behalf the client's commands run.
    #[inline]
    pub fn caller(&self) -> Caller {
        Caller {
            client_id: self.client.id,
            executor: self.client.executor as u16,
            tracks: self.tracking.as_deref().is_some_and(Tracked::remembers),
            version: self.version,
            database: self.database,
        }
    }
}

/// What a command that runs on the network executor gets.
pub struct NetworkContext<'a> {
    /// The command and its arguments; arity is checked.
    pub arguments: Arguments<'a>,
    /// Where the reply goes, in the session's version when the command began.
    pub reply: Reply<'a>,
    /// The connection's settings.
    pub session: &'a mut Session,
    /// What all executors share.
    pub server: &'a ServerState,
    /// What the clients of this executor subscribe to.
    pub subscriptions: &'a RefCell<Subscriptions>,
    /// The command's row.
    pub command: &'static Command,
    /// Set by a handler that must block (a file, a disk): work that runs on another thread and returns the whole reply,
    /// instead of what the handler wrote.
    pub deferred: Option<Deferred>,
    /// Set by a handler whose reply is given when a time is up, or something happens before.
    pub waits: Option<WaitHere>,
}

/// What a command that runs on the network executor waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitHere {
    /// How long, in milliseconds; 0 for ever.
    pub timeout_ms: u64,
    /// What ends the wait before that.
    pub until: Until,
}

/// What ends a wait before its time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Nothing: WAIT, as there are no replicas.
    TimeIsUp,
    /// All earlier writes are on disk: WAITAOF.
    Durable,
    /// The server knows whether they are: WAITAOF that asks for nothing.
    Known,
    /// Nothing, but the reply says whether they are on disk: WAITAOF for replicas, of which there are none.
    TimeIsUpAfterDurable,
}

/// Work for a thread that may block; returns the reply as RESP.
pub type Deferred = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// A handler that runs on the network executor: writes its reply or returns the error to answer.
pub type NetworkHandler = fn(&mut NetworkContext<'_>) -> Result<(), CommandError>;
