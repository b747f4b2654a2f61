//! CLIENT TRACKING: clients that keep what they have read are told when it is outdated.
//!
//! Storage executors know which client has read which key ([`crate::executor::key_readers`]) and say what was written;
//! the network executor of a client knows what the client wants to hear, and how. A push goes behind the replies of all
//! commands that are out, so an invalidation never comes before the value that it is about.

use crate::network::session::Session;
use crate::registry::inboxes::{PUSH_BYTES, Push};
use crate::registry::subscribers::PubSub;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
            let bytes = written.keys().map(|key| key.len() as u64 + PUSH_BYTES).sum();
            let written = Arc::new(written);
            self.send_to_all(1, || (TrackingPush::Matching(Arc::clone(&written)), bytes));
        }
    }

    fn send_to_readers(&self, key: Arc<[u8]>, readers: &[Reader], writer: u64) {
        for executor in 0..self.clients.len() {
            let here = readers.iter().filter(|reader| usize::from(reader.executor) == executor);
            let readers: Vec<(u64, u32)> = here.map(|reader| (reader.client_id, reader.connection)).collect();
            if !readers.is_empty() {
                let bytes = (key.len() as u64 + PUSH_BYTES) * readers.len() as u64;
                let key = Arc::clone(&key);
                let push = TrackingPush::Read { key, readers, writer };
                self.pubsub.inbox(executor).post(Push::Tracking(push), bytes);
            }
        }
    }

    /// To the executors that have clients which track (0) or track with BCAST (1); `push` counts its bytes once.
    fn send_to_all(&self, which: usize, push: impl Fn() -> (TrackingPush, u64)) {
        for (executor, clients) in self.clients.iter().enumerate() {
            let clients = clients[which].load(Ordering::Relaxed);
            if clients > 0 {
                let (push, bytes) = push();
                let bytes = (bytes + PUSH_BYTES) * clients;
                self.pubsub.inbox(executor).post(Push::Tracking(push), bytes);
            }
        }
    }

    fn count(&self, session: &Session, by: i64) {
        let Some(tracked) = &session.tracking else { return };
        let executor = session.client.executor;
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

    /// A client tracks from now on, or in another way, or (`None`) not any more.
    pub fn set(&self, session: &mut Session, tracked: Option<Box<Tracked>>) {
        self.count(session, -1);
        session.tracking = tracked;
        self.count(session, 1);
        publish(session);
    }
}

/// For CLIENT LIST.
pub(crate) fn publish(session: &Session) {
    let client = &session.client;
    let (letters, redirect) = match session.tracking.as_deref() {
        None => (0, u64::MAX),
        Some(tracked) => {
            let letters = [true, tracked.is_broken, tracked.broadcast].map(u64::from);
            (letters[0] | letters[1] << 1 | letters[2] << 2, tracked.redirect)
        }
    };
    client.tracking.set(letters);
    client.redirect.set(redirect);
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
