//! The subscriptions of one network executor's clients: for each channel and pattern, the connections.
//!
//! What all threads share of them is in [`crate::registry::subscribers`].

use crate::glob;
use crate::network::session::Session;
use crate::registry::clients::Client;
use crate::registry::subscribers::{Kind, PubSub};
use foldhash::fast::RandomState;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What one client subscribes to.
#[derive(Default)]
pub struct Subscribed {
    /// By [`Kind`].
    names: [HashSet<Arc<[u8]>, RandomState>; Kind::ALL.len()],
}

impl Subscribed {
    /// How many names of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.names[kind as usize].len()
    }

    fn is_empty(&self) -> bool {
        self.names.iter().all(HashSet::is_empty)
    }
}

/// The connections that subscribe to one name, by their index, each with the number of the change that its subscription
/// was.
pub(crate) type Subscribers = HashMap<u32, u64, RandomState>;

/// What the clients of one network executor subscribe to.
pub struct Subscriptions {
    executor: u16,
    /// By [`Kind`].
    names: [HashMap<Arc<[u8]>, Subscribers, RandomState>; Kind::ALL.len()],
    monitors: HashSet<u32, RandomState>,
}

impl Subscriptions {
    pub(crate) fn new(executor: usize) -> Subscriptions {
        Subscriptions {
            executor: u16::try_from(executor).expect("network executors are numbered in 16 bits"),
            names: Default::default(),
            monitors: HashSet::default(),
        }
    }

    /// A client subscribes to a name; nothing changes if it did before.
    pub fn add(&mut self, pubsub: &PubSub, session: &mut Session, kind: Kind, name: &[u8]) {
        let subscribed = session.subscribed.get_or_insert_default();
        if subscribed.names[kind as usize].contains(name) {
            return;
        }
        let names = &mut self.names[kind as usize];
        let name = match names.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(name),
        };
        subscribed.names[kind as usize].insert(Arc::clone(&name));
        publish_counts(&session.client, subscribed);
        let change = pubsub.add(kind, &name, self.executor);
        names.entry(name).or_default().insert(session.connection, change);
    }

    /// A client does not subscribe to a name any more; nothing changes if it did not.
    pub fn remove(&mut self, pubsub: &PubSub, session: &mut Session, kind: Kind, name: &[u8]) {
        let Some(subscribed) = &mut session.subscribed else {
            return;
        };
        if !subscribed.names[kind as usize].remove(name) {
            return;
        }
        publish_counts(&session.client, subscribed);
        if subscribed.is_empty() {
            session.subscribed = None;
        }
        self.forget(pubsub, session.connection, kind, name);
    }

    /// What a client subscribes to, of one kind.
    pub fn names_of(session: &Session, kind: Kind) -> Vec<Arc<[u8]>> {
        let subscribed = session.subscribed.as_ref();
        subscribed.map_or_else(Vec::new, |subscribed| {
            subscribed.names[kind as usize].iter().cloned().collect()
        })
    }

    /// A client leaves, or is as new (RESET): it neither subscribes nor monitors.
    pub fn leave(&mut self, pubsub: &PubSub, session: &mut Session) {
        self.set_monitor(pubsub, session, false);
        let Some(subscribed) = session.subscribed.take() else {
            return;
        };
        for kind in Kind::ALL {
            for name in &subscribed.names[kind as usize] {
                self.forget(pubsub, session.connection, kind, name);
            }
        }
        publish_counts(&session.client, &Subscribed::default());
    }

    fn forget(&mut self, pubsub: &PubSub, connection: u32, kind: Kind, name: &[u8]) {
        if let Some(subscribers) = self.names[kind as usize].get_mut(name) {
            let was_subscribed = subscribers.remove(&connection).is_some();
            assert!(
                was_subscribed,
                "a client and its executor know of the same subscriptions"
            );
            if subscribers.is_empty() {
                self.names[kind as usize].remove(name);
            }
        }
        pubsub.remove(kind, name, self.executor);
    }

    /// A client begins or ends to monitor.
    pub fn set_monitor(&mut self, pubsub: &PubSub, session: &mut Session, on: bool) {
        if session.is_monitor == on {
            return;
        }
        session.is_monitor = on;
        session.client.is_monitor.store(on, Ordering::Relaxed);
        let has_changed = match on {
            true => self.monitors.insert(session.connection),
            false => self.monitors.remove(&session.connection),
        };
        assert!(has_changed, "a client and its executor know whether it monitors");
        pubsub.count_monitor(self.executor, on);
    }

    /// The connections that subscribe to a name.
    pub(crate) fn of(&self, kind: Kind, name: &[u8]) -> Option<&Subscribers> {
        self.names[kind as usize].get(name)
    }

    /// The patterns that match a channel, each with its connections.
    pub(crate) fn matching<'a>(&'a self, channel: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a Subscribers)> {
        let patterns = self.names[Kind::Pattern as usize].iter();
        patterns
            .filter(|(pattern, _)| glob::matches(pattern, channel, false))
            .map(|(pattern, subscribers)| (&**pattern, subscribers))
    }

    /// The connections that monitor.
    pub(crate) fn monitors(&self) -> impl Iterator<Item = u32> {
        self.monitors.iter().copied()
    }
}

/// Tells CLIENT LIST how many subscriptions a client has.
fn publish_counts(client: &Client, subscribed: &Subscribed) {
    for kind in Kind::ALL {
        client.subscriptions[kind as usize].set(subscribed.count(kind) as u64);
    }
}
