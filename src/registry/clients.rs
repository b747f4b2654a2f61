//! The list of all clients, for CLIENT LIST, CLIENT KILL and `maxclients`.
//!
//! A connection's executor writes its entry once per turn; only CLIENT's subcommands read it. CLIENT KILL sets a flag
//! that the executor sees before it runs the client's next command, and within its housekeeping interval in any case.

use crate::registry::metrics::Counter;
use crate::registry::subscribers::Kind;
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
    /// The server's end.
    pub local_address: SocketAddr,
    /// The descriptor's number, for show.
    pub descriptor: RawFd,
    /// When it connected, Unix milliseconds.
    pub connected_at_ms: u64,
    /// The network executor that has the client.
    pub executor: usize,
    /// The selected database.
    pub database: Counter,
    /// 2 or 3.
    pub version: Counter,
    /// [`Command::index`](crate::command::Command::index) of the last command.
    pub last_command: Counter,
    /// When the client last sent something, Unix milliseconds.
    pub active_at_ms: Counter,
    /// Bytes read and not yet run.
    pub input_bytes: Counter,
    /// Bytes of replies that are held for the client: not yet taken by the socket, or not output yet.
    pub output_bytes: Counter,
    /// Commands whose replies are not all there yet.
    pub pending: Counter,
    /// Bytes received in all.
    pub bytes_in: Counter,
    /// Bytes sent in all.
    pub bytes_out: Counter,
    /// Commands in all.
    pub commands: Counter,
    /// Commands queued since MULTI and one for MULTI itself; 0 if there is none.
    pub multi: Counter,
    /// Bytes that the queued commands take.
    pub multi_bytes: Counter,
    /// Bytes of a command that waits.
    pub waiting_bytes: Counter,
    /// How many keys the client watches.
    pub watched_keys: Counter,
    /// How many names the client subscribes to, by [`crate::registry::subscribers::Kind`].
    pub subscriptions: [Counter; Kind::ALL.len()],
    /// MONITOR.
    pub is_monitor: AtomicBool,
    /// The index of the connection among those of its executor.
    pub connection: Counter,
    /// CLIENT TRACKING, as bits: the client tracks (1), the client that is to be told is gone (2), with BCAST (4).
    pub tracking: Counter,
    /// The client that is told instead (REDIRECT), 0 for none; `u64::MAX` if the client does not track.
    pub redirect: Counter,
    /// Whether another client has chosen this one to be told instead of it.
    pub is_redirected_to: AtomicBool,
    /// CLIENT NO-EVICT.
    pub no_evict: AtomicBool,
    /// CLIENT NO-TOUCH.
    pub no_touch: AtomicBool,
    killed: AtomicBool,
    /// The blocking command that the client waits for: see [`Client::begin_wait`].
    wait: AtomicU64,
    unblocked: Mutex<Option<Unblocked>>,
    names: Mutex<Names>,
}

/// How CLIENT UNBLOCK ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblocked {
    /// As if the time of the wait were up.
    Timeout,
    /// With an error.
    Error,
}

/// Set in [`Client::wait`] once the command has found nothing and waits.
const IS_BLOCKED: u64 = 1;

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
    /// The names that the client has given itself.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether the client subscribes to anything.
    pub fn is_subscriber(&self) -> bool {
        self.subscriptions.iter().any(|count| count.get() > 0)
    }

    /// Whether CLIENT KILL has chosen the client.
    #[inline]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// A blocking command begins. Several executors may come to answer it, and a timeout and CLIENT UNBLOCK too; the
    /// one that succeeds in [`Client::claim`] does.
    pub fn begin_wait(&self, ticket: Ticket) {
        self.wait.store(ticket.bits(), Ordering::Release);
    }

    /// Whether the answer to a command is still open.
    pub fn awaits(&self, ticket: Ticket) -> bool {
        self.wait.load(Ordering::Acquire) & !IS_BLOCKED == ticket.bits()
    }

    /// Claims a command, which the caller is to answer then; false if another has claimed it.
    pub fn claim(&self, ticket: Ticket) -> bool {
        let open = |wait: u64| (wait & !IS_BLOCKED == ticket.bits()).then_some(0);
        self.wait
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, open)
            .is_ok()
    }

    /// Marks the command as one that has found nothing and waits.
    pub fn mark_blocked(&self, ticket: Ticket) {
        let bits = ticket.bits();
        // Fails only if another has claimed the command meanwhile.
        let _ = self
            .wait
            .compare_exchange(bits, bits | IS_BLOCKED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether the client waits in a blocking command.
    pub fn is_blocked(&self) -> bool {
        self.wait.load(Ordering::Acquire) & IS_BLOCKED != 0
    }

    /// How CLIENT UNBLOCK has ended the client's wait, if the client was not told yet.
    pub fn take_unblocked(&self) -> Option<Unblocked> {
        self.unblocked
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take()
    }
}

/// The number of a blocking command among those of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u32);

impl Ticket {
    /// The ticket of the command with a number on its connection.
    pub fn of(sequence: u32) -> Ticket {
        Ticket(sequence)
    }

    /// Never 0, and even.
    fn bits(self) -> u64 {
        (u64::from(self.0) + 1) << 1
    }

    /// The ticket's bytes on the way between executors.
    pub fn to_be_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// What [`Ticket::to_be_bytes`] made.
    pub fn from_be_bytes(bytes: [u8; 4]) -> Ticket {
        Ticket(u32::from_be_bytes(bytes))
    }
}

/// All clients of the server.
#[derive(Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    last_id: AtomicU64,
    kills: AtomicU64,
    unblocks: AtomicU64,
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
            waiting_bytes: Counter::default(),
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
            wait: AtomicU64::new(0),
            unblocked: Mutex::default(),
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
        let removed = self.lock().remove(&id);
        assert!(removed.is_some(), "a client leaves once");
    }

    /// All clients, oldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        self.lock().values().cloned().collect()
    }

    /// Ends a client's wait; false if the client does not wait. Its executor answers it within its housekeeping
    /// interval.
    pub fn unblock(&self, client: &Client, how: Unblocked) -> bool {
        let blocked = |wait: u64| (wait & IS_BLOCKED != 0).then_some(0);
        // Held until the reason is there, so that no other thread sees the claim without the reason.
        let mut unblocked = client.unblocked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let claimed = client.wait.fetch_update(Ordering::AcqRel, Ordering::Acquire, blocked);
        if claimed.is_ok() {
            *unblocked = Some(how);
            self.unblocks.fetch_add(1, Ordering::Release);
        }
        claimed.is_ok()
    }

    /// How many waits were ended by CLIENT UNBLOCK so far: when this has changed, an executor looks for its own clients
    /// among them.
    pub fn unblocks(&self) -> u64 {
        self.unblocks.load(Ordering::Acquire)
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is no client.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Marks a client to be disconnected.
    pub fn kill(&self, client: &Client) {
        client.killed.store(true, Ordering::Relaxed);
        self.kills.fetch_add(1, Ordering::Release);
    }

    /// How many clients were killed so far: when this has changed, an executor looks for its own among them.
    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.by_id.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
