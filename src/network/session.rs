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

/// What CLIENT REPLY asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every command is answered.
    #[default]
    On,
    /// None is.
    Off,
    /// The next one is not (set by CLIENT REPLY SKIP, which itself is not answered); then they are again.
    SkipNext,
}

/// One connection's settings.
pub struct Session {
    /// The client's entry in the list of all clients.
    pub client: Arc<Client>,
    /// Its place among the connections of its executor.
    pub connection: u32,
    /// The selected database, `0..16`.
    pub database: u8,
    /// The version of RESP that HELLO chose.
    pub version: Version,
    /// Whether AUTH succeeded or no password is required.
    pub authenticated: bool,
    /// What CLIENT REPLY asked for.
    pub reply_mode: ReplyMode,
    /// What it has queued and what it watches.
    pub transaction: TransactionState,
    /// Whether the connection is to be closed once what is pending was answered.
    pub closing: bool,
    /// What it subscribes to, if to anything; changed by [`Subscriptions`] only.
    pub subscribed: Option<Box<Subscribed>>,
    /// MONITOR; changed by [`Subscriptions`] only.
    pub is_monitor: bool,
    /// CLIENT TRACKING; changed by [`crate::network::tracking_pushes::set_tracking`] only, but for what is about the
    /// next command.
    pub tracking: Option<Box<Tracked>>,
}

impl Session {
    /// That of a new connection, at an index of its executor's connections.
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

    /// Whether the client is sent what it did not ask for just now.
    #[inline]
    pub fn listens(&self) -> bool {
        self.subscribed.is_some() || self.is_monitor
    }

    /// Writes what CLIENT LIST shows of it to the client's entry.
    pub fn publish(&self) {
        let client = &self.client;
        client.database.set(u64::from(self.database));
        client.version.set(if self.version == Version::Resp3 { 3 } else { 2 });
        let queued = self.transaction.shown_commands();
        client.multi.set(queued.map_or(0, |count| count as u64 + 1));
        client.multi_bytes.set(self.transaction.memory() as u64);
        client.watched_keys.set(self.transaction.watched_keys() as u64);
    }

    /// Whether pushes are for it, or may be: it must notice if one is lost.
    pub fn is_told(&self) -> bool {
        self.listens() || self.tracking.is_some() || self.client.is_redirected_to.load(Ordering::Relaxed)
    }

    /// CLIENT CACHING is about the command that follows: it is over with the first one that is not CLIENT's.
    pub fn end_caching(&mut self, command: &Command) {
        if let Some(tracked) = self.tracking.as_deref_mut().filter(|tracked| tracked.caching)
            && !command.flags.has(OF_CLIENT)
            && !self.transaction.is_open()
        {
            tracked.caching = false;
        }
    }

    /// On whose behalf its commands run.
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
    /// Set by a handler that must block (a file, a disk): runs on another thread and returns the whole reply, in
    /// place of what the handler wrote.
    pub deferred: Option<Deferred>,
    /// Set by a handler whose reply is only given when the time is up, unless what it waits for comes before.
    pub waits: Option<WaitHere>,
}

/// What a command waits for that runs on the network executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitHere {
    /// How long, in milliseconds; 0 for ever.
    pub timeout_ms: u64,
    /// For what, beside that.
    pub until: Until,
}

/// What ends a wait before its time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Nothing does: WAIT, as there are no replicas.
    TimeIsUp,
    /// All earlier writes are on disk: WAITAOF.
    Durable,
    /// It is known whether they are: WAITAOF that asks for nothing.
    Known,
    /// Nothing does, but the reply says whether they are on disk: WAITAOF for replicas, of which there are none.
    TimeIsUpAfterDurable,
}

/// Work for a thread that may block; returns the reply as RESP.
pub type Deferred = Box<dyn FnOnce() -> Vec<u8> + Send>;

/// A handler that runs on the network executor: writes its reply or returns the error to answer.
pub type NetworkHandler = fn(&mut NetworkContext<'_>) -> Result<(), CommandError>;
