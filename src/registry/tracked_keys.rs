//! CLIENT TRACKING: clients that keep what they have read are told when it is outdated.
//!
//! Storage executors know which client has read which key ([`crate::executor::key_readers`]) and say what was written;
//! the network executor of a client knows what the client wants to hear, and how. A push goes behind the replies of all
//! commands that are out, so an invalidation never comes before the value that it is about.

use crate::registry::subscribers::PubSub;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// A client that has read something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// CLIENT ID.
    pub client_id: u64,
    /// Its network executor.
    pub executor: u16,
    /// Its place there.
    pub connection: u32,
}

/// What is outdated.
#[derive(Debug)]
pub enum Invalidation {
    /// A key that these clients have read.
    Read {
        /// The key.
        key: Box<[u8]>,
        /// Who has read it.
        readers: Vec<Reader>,
        /// The client that wrote it; 0 for nobody.
        writer: u64,
    },
    /// A key, for those who asked for all with some prefix (BCAST).
    Matching {
        /// The key.
        key: Box<[u8]>,
        /// The client that wrote it; 0 for nobody.
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
    /// That a key is outdated, to these (client and connection), which have read it.
    Read {
        key: Arc<[u8]>,
        readers: Vec<(u64, u32)>,
        writer: u64,
    },
    /// That keys are outdated, to those who asked for them by a prefix.
    Matching(Arc<Written>),
    /// That everything is, to all who track.
    Everything(FlushId),
    /// What another client wants this one to be told (REDIRECT).
    Redirected { to: u64, connection: u32, keys: Outdated },
}

/// Keys, or `None` for all.
pub(crate) type Outdated = Option<Arc<[Arc<[u8]>]>>;

/// What all threads know about clients that track.
pub struct Tracking {
    pubsub: Arc<PubSub>,
    /// By network executor: its clients that track, and those of them with BCAST.
    clients: Vec<[AtomicU64; 2]>,
    clients_total: AtomicU64,
    broadcasts_total: AtomicU64,
    /// How many clients asked for each prefix, for INFO.
    prefixes: Mutex<BTreeMap<Box<[u8]>, usize>>,
    keys: AtomicU64,
    items: AtomicU64,
    /// Clients that are told of what they have read. Held for as long as a slice of the tracked keys is looked through.
    readers: RwLock<HashSet<u64>>,
    /// How often one of them has gone, or is not told of that any more.
    departures: AtomicU64,
}

impl Tracking {
    /// For that many network executors.
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

    /// The same, each key counted once for each client.
    pub fn tracked_items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    /// How many prefixes clients asked for.
    pub fn prefix_count(&self) -> usize {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A storage executor tracks one key more.
    pub fn noted_key(&self) {
        self.keys.fetch_add(1, Ordering::Relaxed);
    }

    /// A key has one reader more.
    pub fn noted_reader(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    /// A storage executor tracks some keys less, which had so many readers together.
    pub fn forgot_keys(&self, keys: usize, readers: usize) {
        self.keys.fetch_sub(keys as u64, Ordering::Relaxed);
        self.items.fetch_sub(readers as u64, Ordering::Relaxed);
    }

    /// How often a reader has gone so far: what it has read may be forgotten.
    pub fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// The clients that are told of what they have read, by CLIENT ID.
    pub fn readers(&self) -> RwLockReadGuard<'_, HashSet<u64>> {
        self.readers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is told of what it reads from now on, or not any more.
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

    /// Sends what is outdated to the network executors of those who want to know. For any thread; never waits.
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
                // The key is shared, the list of its readers goes along.
                let (receivers, list_bytes) = (readers.len() as u64, size_of_val(&readers[..]) as u64);
                let bytes = key.len() as u64 + list_bytes;
                let key = Arc::clone(&key);
                let push = TrackingPush::Read { key, readers, writer };
                self.pubsub.inbox(executor).post_outdated(push, bytes, receivers);
            }
        }
    }

    /// To the executors that have clients which track (0) or track with BCAST (1); `push` counts its bytes once.
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
    /// The client that is told in its place; 0 for itself.
    pub redirect: u64,
    /// BCAST: it is told of all keys with its prefixes, whether it has read them or not.
    pub broadcast: bool,
    /// With BCAST: none begins with another, and there is at least one.
    pub prefixes: BTreeSet<Box<[u8]>>,
    /// OPTIN: only what is read after CLIENT CACHING YES.
    pub opt_in: bool,
    /// OPTOUT: not what is read after CLIENT CACHING NO.
    pub opt_out: bool,
    /// NOLOOP: not what it writes itself.
    pub no_loop: bool,
    /// CLIENT CACHING was given for the next command.
    pub caching: bool,
    /// The client that should be told in its place is gone.
    pub is_broken: bool,
    /// It was told that everything is outdated, by this flush, before it sent its command of this number.
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
