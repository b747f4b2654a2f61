//! The list of all clients, for CLIENT LIST, CLIENT KILL and `maxclients`.
//!
//! A connection's executor writes its entry once per turn; only CLIENT's subcommands read it. CLIENT KILL sets a flag that
//! the executor sees before it runs the client's next command, and within its housekeeping interval in any case.

use super::pubsub::Kind;
use crate::observe::metrics::Counter;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// One client.
pub struct Client {
    /// Unique for the life of the server.
    pub id: u64,
    /// The peer.
    pub address: SocketAddr,
    /// Our end.
    pub local_address: SocketAddr,
    /// The descriptor's number, for show.
    pub descriptor: RawFd,
    /// When it connected, Unix milliseconds.
    pub connected_at_ms: u64,
    /// The network executor that has it.
    pub executor: usize,
    /// The selected database.
    pub database: Counter,
    /// 2 or 3.
    pub version: Counter,
    /// The last command's place in the table.
    pub last_command: Counter,
    /// When it last sent something, Unix milliseconds.
    pub active_at_ms: Counter,
    /// Bytes read and not yet run.
    pub input_bytes: Counter,
    /// Bytes of replies not yet taken by the socket.
    pub output_bytes: Counter,
    /// Commands whose replies are not all there yet.
    pub pending: Counter,
    /// Bytes received in all.
    pub bytes_in: Counter,
    /// Bytes sent in all.
    pub bytes_out: Counter,
    /// Commands in all.
    pub commands: Counter,
    /// Commands queued since MULTI and one for MULTI itself; 0 outside of it.
    pub multi: Counter,
    /// Bytes that they take.
    pub multi_bytes: Counter,
    /// Keys that it watches.
    pub watched_keys: Counter,
    /// What it subscribes to, by [`super::pubsub::Kind`].
    pub subscriptions: [Counter; Kind::ALL.len()],
    /// MONITOR.
    pub is_monitor: AtomicBool,
    /// Its place among the connections of its executor.
    pub connection: Counter,
    /// CLIENT TRACKING, as bits: it does (1), the client that should be told is gone (2), with BCAST (4).
    pub tracking: Counter,
    /// The client that is told in its place, 0 for itself; `u64::MAX` if it does not track.
    pub redirect: Counter,
    /// Whether another client has chosen this one to be told in its place.
    pub is_redirected_to: AtomicBool,
    /// CLIENT NO-EVICT.
    pub no_evict: AtomicBool,
    /// CLIENT NO-TOUCH.
    pub no_touch: AtomicBool,
    killed: AtomicBool,
    names: Mutex<Names>,
}

/// What a client calls itself.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// CLIENT SETNAME.
    pub name: String,
    /// CLIENT SETINFO LIB-NAME.
    pub library: String,
    /// CLIENT SETINFO LIB-VER.
    pub library_version: String,
}

impl Client {
    /// What it calls itself.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether it subscribes to anything.
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions.iter().any(|count| count.get() > 0)
    }

    /// Whether CLIENT KILL has chosen it.
    #[inline]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }
}

/// All clients of the server.
#[derive(Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    last_id: AtomicU64,
    kills: AtomicU64,
}

impl Clients {
    /// Adds a client, unless there are `clients_max` already.
    pub fn add(
        &self,
        (address, local_address): (SocketAddr, SocketAddr),
        descriptor: RawFd,
        executor: usize,
        clients_max: usize,
    ) -> Option<Arc<Client>> {
        let mut by_id = self.lock();
        if by_id.len() >= clients_max {
            return None;
        }
        let now_ms = crate::clock::unix_ms();
        let client = Arc::new(Client {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            address,
            local_address,
            descriptor,
            connected_at_ms: now_ms,
            executor,
            database: Counter::default(),
            version: Counter::default(),
            last_command: Counter::default(),
            active_at_ms: Counter::default(),
            input_bytes: Counter::default(),
            output_bytes: Counter::default(),
            pending: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            commands: Counter::default(),
            multi: Counter::default(),
            multi_bytes: Counter::default(),
            watched_keys: Counter::default(),
            subscriptions: Default::default(),
            is_monitor: AtomicBool::new(false),
            connection: Counter::default(),
            tracking: Counter::default(),
            redirect: Counter::default(),
            is_redirected_to: AtomicBool::new(false),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            names: Mutex::default(),
        });
        client.version.set(2);
        client.redirect.set(u64::MAX);
        client.active_at_ms.set(now_ms);
        client.last_command.set(u64::MAX);
        by_id.insert(client.id, Arc::clone(&client));
        Some(client)
    }

    /// The client with an id.
    pub fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.lock().get(&id).cloned()
    }

    /// The connection is gone.
    pub fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// All clients, oldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.lock().values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Marks a client to be disconnected.
    pub fn kill(&self, client: &Client) {
        client.killed.store(true, Ordering::Relaxed);
        self.kills.fetch_add(1, Ordering::Release);
    }

    /// How many were killed so far: an executor looks for its own when this has changed.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.by_id.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
