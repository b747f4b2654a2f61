//! CLIENT TRACKING: clients that keep what they have read are told when it is outdated.
//!
//! Storage executors know which client has read which key ([`crate::executor::key_readers`]) and say what was written;
//! the network executor of a client knows what the client wants to hear, and how. A push goes behind the replies of all
//! commands that are out, so the client never learns that a value is outdated before it has the value.

use crate::registry::subscribers::PubSub;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// A client that has read something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// CLIENT ID.
    pub client_id: u64,
    /// The client's network executor.
    pub executor: u16,
    /// The index of its connection there.
    pub connection: u32,
}

/// What is outdated.
#[derive(Debug)]
pub enum Invalidation {
    /// A key that these clients have read.
    Read {
        /// The key.
        key: Box<[u8]>,
        /// The clients that have read the key.
        readers: Vec<Reader>,
        /// The client that wrote the key; 0 for none.
        writer: u64,
    },
    /// A key, for the clients that asked for all keys with some prefix (BCAST).
    Matching {
        /// The key.
        key: Box<[u8]>,
        /// The client that wrote the key; 0 for none.
        writer: u64,
    },
    /// Every key: databases were flushed.
    Everything(FlushId),
}

/// Which command flushed: the client and the command's number on its connection. Every storage executor tells of it.
pub type FlushId = (u64, u32);

/// What a written key costs in [`Written`] beside its bytes.
const WRITTEN_BYTES: u64 = 32;

/// Keys that were written, each with the client that wrote it.
pub(crate) type Written = BTreeMap<Box<[u8]>, u64>;

/// What a network executor's clients have to be told.
pub(crate) enum TrackingPush {
    /// A key is outdated: for the clients (with their connections) that have read it.
    Read {
        key: Arc<[u8]>,
        readers: Vec<(u64, u32)>,
        writer: u64,
    },
    /// Keys are outdated: for the clients that asked for them by a prefix.
    Matching(Arc<Written>),
    /// All keys are outdated: for all clients that track.
    Everything(FlushId),
    /// Keys of another client, which wants this one to be told of them (REDIRECT).
    Redirected { to: u64, connection: u32, keys: Outdated },
}

/// Keys, or `None` for all.
pub(crate) type Outdated = Option<Arc<[Arc<[u8]>]>>;

/// What all threads know about clients that track.
pub struct Tracking {
    pubsub: Arc<PubSub>,
    /// By network executor: how many clients track, and how many of those with BCAST.
    clients: Vec<[AtomicU64; 2]>,
    clients_total: AtomicU64,
    broadcasts_total: AtomicU64,
    /// How many clients asked for each prefix, for INFO.
    prefixes: Mutex<BTreeMap<Box<[u8]>, usize>>,
    keys: AtomicU64,
    items: AtomicU64,
    /// Clients that are told of what they have read. Held for as long as a slice of the tracked keys is looked through.
    readers: RwLock<HashSet<u64>>,
    /// How often one of those has gone, or is not told any more.
    departures: AtomicU64,
}

impl Tracking {
    /// For that many network executors; no client tracks yet.
    pub fn new(pubsub: Arc<PubSub>, executors: usize) -> Tracking {
        Tracking {
            pubsub,
            clients: (0..executors).map(|_| Default::default()).collect(),
            clients_total: AtomicU64::new(0),
            broadcasts_total: AtomicU64::new(0),
            prefixes: Mutex::default(),
            keys: AtomicU64::new(0),
            items: AtomicU64::new(0),
            readers: RwLock::default(),
            departures: AtomicU64::new(0),
        }
    }

    /// Whether any client tracks.
    #[inline]
    pub fn is_used(&self) -> bool {
        self.clients_total.load(Ordering::Acquire) > 0
    }

    /// Whether any client asked for all keys with some prefix.
    #[inline]
    pub fn broadcasts(&self) -> bool {
        self.broadcasts_total.load(Ordering::Acquire) > 0
    }

    /// How many clients track.
    pub fn client_count(&self) -> u64 {
        self.clients_total.load(Ordering::Relaxed)
    }

    /// How many keys clients have read and track.
    pub fn tracked_keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// How many keys clients have read and track, each key counted once for each client.
    pub fn tracked_items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    /// How many prefixes clients asked for.
    pub fn prefix_count(&self) -> usize {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Counts a key that a storage executor tracks from now on.
    pub fn add_key(&self) {
        self.keys.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more reader of a key.
    pub fn add_reader(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts keys off that a storage executor does not track any more, and readers off that keys do not have any more.
    pub fn remove_keys(&self, keys: usize, readers: usize) {
        let keys_before = self.keys.fetch_sub(keys as u64, Ordering::Relaxed);
        let readers_before = self.items.fetch_sub(readers as u64, Ordering::Relaxed);
        assert!(
            keys_before >= keys as u64 && readers_before >= readers as u64,
            "keys and readers are counted before they are forgotten"
        );
    }

    /// How often a reader has gone so far: what those have read may be forgotten.
    pub fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// The clients that are told of what they have read, by CLIENT ID.
    pub fn readers(&self) -> RwLockReadGuard<'_, HashSet<u64>> {
        self.readers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a client is told of what it reads, or not any more.
    pub(crate) fn set_reading(&self, client_id: u64, is_reader: bool) {
        let mut readers = self.readers.write().unwrap_or_else(PoisonError::into_inner);
        match is_reader {
            true => drop(readers.insert(client_id)),
            false => {
                if readers.remove(&client_id) {
                    self.departures.fetch_add(1, Ordering::Release);
                }
            }
        }
    }

    /// Sends what is outdated to the network executors of the clients that want to know. For any thread; never waits.
    pub fn send(&self, outdated: Vec<Invalidation>) {
        let mut written = Written::new();
        for invalidation in outdated {
            match invalidation {
                Invalidation::Read { key, readers, writer } => self.send_to_readers(key.into(), &readers, writer),
                Invalidation::Matching { key, writer } => {
                    written.insert(key, writer);
                }
                Invalidation::Everything(flush) => self.send_to_all(0, || (TrackingPush::Everything(flush), 0)),
            }
        }
        if !written.is_empty() {
            let bytes = written.keys().map(|key| key.len() as u64 + WRITTEN_BYTES).sum();
            let written = Arc::new(written);
            self.send_to_all(1, || (TrackingPush::Matching(Arc::clone(&written)), bytes));
        }
    }

    fn send_to_readers(&self, key: Arc<[u8]>, readers: &[Reader], writer: u64) {
        for executor in 0..self.clients.len() {
            let here = readers.iter().filter(|reader| usize::from(reader.executor) == executor);
            let readers: Vec<(u64, u32)> = here.map(|reader| (reader.client_id, reader.connection)).collect();
            if !readers.is_empty() {
                // The executors share the key; each gets a list of its own readers.
                let (receivers, list_bytes) = (readers.len() as u64, size_of_val(&readers[..]) as u64);
                let bytes = key.len() as u64 + list_bytes;
                let key = Arc::clone(&key);
                let push = TrackingPush::Read { key, readers, writer };
                self.pubsub.inbox(executor).post_outdated(push, bytes, receivers);
            }
        }
    }

    /// Sends to the executors that have clients which track (`which` 0), or track with BCAST (1); `push` makes the
    /// push, and says how many bytes it has.
    fn send_to_all(&self, which: usize, push: impl Fn() -> (TrackingPush, u64)) {
        for (executor, clients) in self.clients.iter().enumerate() {
            let clients = clients[which].load(Ordering::Relaxed);
            if clients > 0 {
                let (push, bytes) = push();
                self.pubsub.inbox(executor).post_outdated(push, bytes, clients);
            }
        }
    }

    /// Counts a client of a network executor that begins (1) or ends (-1) to track in a way.
    pub(crate) fn count(&self, executor: usize, tracked: &Tracked, by: i64) {
        let mut counters = vec![&self.clients[executor][0], &self.clients_total];
        if tracked.broadcast {
            counters.extend([&self.clients[executor][1], &self.broadcasts_total]);
        }
        for counter in counters {
            // Two's complement: adding −1 subtracts.
            counter.fetch_add(by as u64, Ordering::AcqRel);
        }
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        for prefix in &tracked.prefixes {
            match by > 0 {
                true => *prefixes.entry(prefix.clone()).or_default() += 1,
                false => {
                    if let Some(count) = prefixes.get_mut(prefix) {
                        *count -= 1;
                        if *count == 0 {
                            prefixes.remove(prefix);
                        }
                    }
                }
            }
        }
    }
}

/// How a client tracks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// REDIRECT: the client that is told instead; 0 for none.
    pub redirect: u64,
    /// BCAST: the client is told of all keys with its prefixes, whether it has read them or not.
    pub broadcast: bool,
    /// The prefixes of BCAST: no prefix begins with another, and there is at least one.
    pub prefixes: BTreeSet<Box<[u8]>>,
    /// OPTIN: the client is told only of what it reads after CLIENT CACHING YES.
    pub opt_in: bool,
    /// OPTOUT: the client is not told of what it reads after CLIENT CACHING NO.
    pub opt_out: bool,
    /// NOLOOP: the client is not told of what it writes itself.
    pub no_loop: bool,
    /// CLIENT CACHING was given for the next command.
    pub caching: bool,
    /// The client of `redirect` is gone.
    pub is_broken: bool,
    /// The flush by which the client was last told that everything is outdated, and the number of the first command
    /// that it sent after that.
    pub flushed_at: Option<(FlushId, u32)>,
}

impl Tracked {
    /// Whether the keys that the next command reads are remembered.
    pub fn remembers(&self) -> bool {
        match (self.opt_in, self.opt_out) {
            _ if self.broadcast => false,
            (true, _) => self.caching,
            (_, true) => !self.caching,
            _ => true,
        }
    }
}
