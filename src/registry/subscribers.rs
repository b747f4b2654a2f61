//! Who subscribes to what.
//!
//! Every network executor owns its clients' subscriptions ([`Subscriptions`]): for a channel or a pattern, the
//! connections. All threads share a summary of them ([`PubSub`]): how many there are on which network executor. So
//! PUBLISH, on any thread, counts the receivers at once and sends one message to each network executor that has some.
//!
//! Order: messages that one thread publishes reach every subscriber in that order, because they go through the same
//! inbox. A subscriber gets what was published after it had subscribed and nothing that was published before, though
//! that may come out of the inbox later: both sides take the number of the change to the summary that they saw.

use crate::commands::glob;
use crate::network::session::Session;
use crate::registry::clients::Client;
use crate::registry::inboxes::{Inbox, PUSH_BYTES, Posted, Push};
use foldhash::fast::RandomState;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What a subscription names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A channel (SUBSCRIBE).
    Channel,
    /// A pattern of channels (PSUBSCRIBE).
    Pattern,
    /// A shard channel (SSUBSCRIBE): a name space of its own.
    ShardChannel,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::ShardChannel];
}

/// A published message on its way.
pub struct Published {
    /// [`Kind::Channel`] or [`Kind::ShardChannel`].
    pub(crate) kind: Kind,
    pub(crate) channel: Box<[u8]>,
    pub(crate) message: Box<[u8]>,
    /// How many changes to the subscriptions it has seen.
    pub(crate) changes_seen: u64,
}

/// The subscribers of one name: how many on which network executor. Most names have one.
#[derive(Default)]
struct Receivers(Vec<(u16, u32)>);

impl Receivers {
    fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| u64::from(*count)).sum()
    }
}

/// By [`Kind`] and name: who subscribes.
#[derive(Default)]
struct Summary {
    names: [HashMap<Box<[u8]>, Receivers, RandomState>; Kind::ALL.len()],
    /// How often it was changed.
    changes: u64,
}

/// What all threads know about subscriptions and monitors.
pub struct PubSub {
    /// By network executor.
    inboxes: Vec<Inbox>,
    /// All subscriptions of all clients: publishing costs this one look when there is none.
    subscriptions: AtomicU64,
    /// Held for as long as a look-up or a change takes, never while anything is sent: an executor waits for no other
    /// that has work to do.
    summary: RwLock<Summary>,
    /// By network executor: its clients that monitor.
    monitors: Vec<AtomicU64>,
    monitors_total: AtomicU64,
}

impl PubSub {
    /// For that many network executors; returns each one's end of its inbox too.
    pub fn new(executors: usize) -> (PubSub, Vec<flume::Receiver<Posted>>) {
        let (inboxes, receivers) = (0..executors).map(|_| Inbox::new()).unzip();
        let pubsub = PubSub {
            inboxes,
            subscriptions: AtomicU64::new(0),
            summary: RwLock::default(),
            monitors: (0..executors).map(|_| AtomicU64::new(0)).collect(),
            monitors_total: AtomicU64::new(0),
        };
        (pubsub, receivers)
    }

    /// Sends a message to all who subscribe to `channel` or to a pattern that matches it; returns to how many
    /// subscriptions. For any thread; never waits.
    #[inline]
    pub fn publish(&self, channel: &[u8], message: &[u8]) -> u64 {
        match self.subscriptions.load(Ordering::Acquire) {
            0 => 0,
            _ => self.send(Kind::Channel, channel, message),
        }
    }

    /// Sends a message to all who subscribe to a shard channel; returns to how many.
    pub fn publish_to_shard_channel(&self, channel: &[u8], message: &[u8]) -> u64 {
        match self.subscriptions.load(Ordering::Acquire) {
            0 => 0,
            _ => self.send(Kind::ShardChannel, channel, message),
        }
    }

    fn send(&self, kind: Kind, channel: &[u8], message: &[u8]) -> u64 {
        let mut by_executor = vec![0u64; self.inboxes.len()];
        let summary = self.read();
        let mut count = |receivers: &Receivers| {
            for (executor, count) in &receivers.0 {
                by_executor[usize::from(*executor)] += u64::from(*count);
            }
        };
        if let Some(receivers) = summary.names[kind as usize].get(channel) {
            count(receivers);
        }
        if kind == Kind::Channel {
            let patterns = summary.names[Kind::Pattern as usize].iter();
            patterns
                .filter(|(pattern, _)| glob::matches(pattern, channel, false))
                .for_each(|(_, receivers)| count(receivers));
        }
        let changes_seen = summary.changes;
        drop(summary);
        let total = by_executor.iter().sum();
        if total > 0 {
            let published = Arc::new(Published {
                kind,
                channel: channel.into(),
                message: message.into(),
                changes_seen,
            });
            let bytes = channel.len() as u64 + message.len() as u64 + PUSH_BYTES;
            for (inbox, receivers) in self.inboxes.iter().zip(by_executor).filter(|(_, count)| *count > 0) {
                inbox.post(Push::Published(Arc::clone(&published)), bytes * receivers);
            }
        }
        total
    }

    /// Whether a network executor is behind with what was published: who can wait should, before it publishes more.
    pub fn is_slow(&self) -> bool {
        self.inboxes.iter().any(Inbox::is_slow)
    }

    /// Whether any client monitors.
    #[inline]
    pub fn is_monitored(&self) -> bool {
        self.monitors_total.load(Ordering::Relaxed) > 0
    }

    /// Sends a line to all clients that monitor.
    pub fn show_to_monitors(&self, line: &[u8]) {
        let line: Arc<[u8]> = line.into();
        for (inbox, monitors) in self.inboxes.iter().zip(&self.monitors) {
            let monitors = monitors.load(Ordering::Relaxed);
            if monitors > 0 {
                let bytes = (line.len() as u64 + PUSH_BYTES) * monitors;
                inbox.post(Push::Monitored(Arc::clone(&line)), bytes);
            }
        }
    }

    /// The names of a kind that somebody subscribes to: those that match a pattern, if there is one.
    pub fn names(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Vec<u8>> {
        let summary = self.read();
        let names = summary.names[kind as usize].keys();
        names
            .filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name, false)))
            .map(|name| name.to_vec())
            .collect()
    }

    /// How many names of a kind somebody subscribes to.
    pub fn name_count(&self, kind: Kind) -> usize {
        self.read().names[kind as usize].len()
    }

    /// How many clients subscribe to a name.
    pub fn subscriber_count(&self, kind: Kind, name: &[u8]) -> u64 {
        self.read().names[kind as usize].get(name).map_or(0, Receivers::total)
    }

    /// A client of a network executor subscribes to one more name; returns the change's number.
    fn add(&self, kind: Kind, name: &[u8], executor: u16) -> u64 {
        let mut summary = self.write();
        summary.changes += 1;
        let names = &mut summary.names[kind as usize];
        if !names.contains_key(name) {
            names.insert(name.into(), Receivers::default());
        }
        let receivers = &mut names.get_mut(name).expect("it was entered if it was not there").0;
        match receivers.iter_mut().find(|(at, _)| *at == executor) {
            Some((_, count)) => *count += 1,
            None => receivers.push((executor, 1)),
        }
        self.subscriptions.fetch_add(1, Ordering::AcqRel);
        summary.changes
    }

    /// A client of a network executor does not subscribe to a name any more.
    fn remove(&self, kind: Kind, name: &[u8], executor: u16) {
        let mut summary = self.write();
        let names = &mut summary.names[kind as usize];
        let Some(Receivers(receivers)) = names.get_mut(name) else {
            return;
        };
        let Some(place) = receivers.iter().position(|(at, _)| *at == executor) else {
            return;
        };
        receivers[place].1 -= 1;
        if receivers[place].1 == 0 {
            receivers.swap_remove(place);
        }
        if receivers.is_empty() {
            names.remove(name);
        }
        self.subscriptions.fetch_sub(1, Ordering::AcqRel);
    }

    fn read(&self) -> RwLockReadGuard<'_, Summary> {
        self.summary.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Summary> {
        self.summary.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn inbox(&self, executor: usize) -> &Inbox {
        &self.inboxes[executor]
    }
}

/// What one client subscribes to.
#[derive(Default)]
pub struct Subscribed {
    /// By [`Kind`].
    names: [HashSet<Arc<[u8]>, RandomState>; Kind::ALL.len()],
}

impl Subscribed {
    /// How many names of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.names[kind as usize].len()
    }

    fn is_empty(&self) -> bool {
        self.names.iter().all(HashSet::is_empty)
    }
}

/// The connections that subscribe to one name, by their place, each with the number of the change that it made.
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
            executor: executor as u16,
            names: Default::default(),
            monitors: HashSet::default(),
        }
    }

    /// A client subscribes to a name; nothing changes if it does already.
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

    /// A client leaves, or is as new: it neither subscribes nor monitors.
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
            subscribers.remove(&connection);
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
        if on {
            self.monitors.insert(session.connection);
        } else {
            self.monitors.remove(&session.connection);
        }
        for count in [&pubsub.monitors[usize::from(self.executor)], &pubsub.monitors_total] {
            match on {
                true => count.fetch_add(1, Ordering::Relaxed),
                false => count.fetch_sub(1, Ordering::Relaxed),
            };
        }
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

/// For CLIENT LIST.
fn publish_counts(client: &Client, subscribed: &Subscribed) {
    for kind in Kind::ALL {
        client.subscriptions[kind as usize].set(subscribed.count(kind) as u64);
    }
}
