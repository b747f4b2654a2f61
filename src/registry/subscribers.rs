//! Subscriptions.
//!
//! Every network executor owns its clients' subscriptions ([`crate::network::subscriptions`]): for a channel or a
//! pattern, the connections. All threads share a summary of them ([`PubSub`]): how many there are on which network
//! executor. So PUBLISH, on any thread, counts the receivers at once and sends one message to each network executor
//! that has some.
//!
//! Order: messages that one thread publishes reach every subscriber in that order, because they go through the same
//! inbox. A subscriber gets what was published after it had subscribed and nothing that was published before, though
//! that may come out of the inbox later: both sides take the number of the change to the summary that they saw.

use crate::config::{OutputBufferLimit, OutputBufferLimits};
use crate::glob;
use crate::registry::inboxes::{Backlog, Inbox, Posted, Push, Receivers};
use foldhash::fast::RandomState;
use std::collections::HashMap;
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
    /// How many changes of the subscriptions came before the message.
    pub(crate) changes_seen: u64,
}

/// The subscribers of one name on one network executor.
#[derive(Clone)]
struct Group {
    executor: u16,
    count: u32,
    /// What waits for these subscribers.
    backlog: Arc<Backlog>,
}

/// The subscribers of one name, by network executor. Most names have them on one.
#[derive(Default)]
struct Groups(Vec<Group>);

impl Groups {
    fn total(&self) -> u64 {
        self.0.iter().map(|group| u64::from(group.count)).sum()
    }
}

/// The subscribers, by [`Kind`] and name.
#[derive(Default)]
struct Summary {
    names: [HashMap<Box<[u8]>, Groups, RandomState>; Kind::ALL.len()],
    /// How often the summary was changed.
    changes: u64,
}

impl Summary {
    /// Calls `visit` with the subscribers of a channel and of the patterns that match it.
    fn visit_groups(&self, kind: Kind, channel: &[u8], mut visit: impl FnMut(&Group)) {
        if let Some(groups) = self.names[kind as usize].get(channel) {
            groups.0.iter().for_each(&mut visit);
        }
        if kind == Kind::Channel {
            let patterns = self.names[Kind::Pattern as usize].iter();
            patterns
                .filter(|(pattern, _)| glob::matches(pattern, channel, false))
                .for_each(|(_, groups)| groups.0.iter().for_each(&mut visit));
        }
    }
}

/// Bytes of a message's output beside its channel and its content, at least: `*3`, `$7`, `message`, two lengths and
/// five line ends. A backlog must never be counted as longer than the output that it becomes.
const MESSAGE_BYTES_MIN: u64 = 29;

/// What all threads know about subscriptions and monitors.
pub struct PubSub {
    /// By network executor.
    inboxes: Vec<Inbox>,
    /// All subscriptions of all clients: publishing costs this one look when there is none.
    subscriptions: AtomicU64,
    /// Locked for as long as a look-up or a change takes, never while anything is sent: no executor waits for the work
    /// of another.
    summary: RwLock<Summary>,
    /// By network executor: how many of its clients monitor.
    monitors: Vec<AtomicU64>,
    monitors_total: AtomicU64,
    /// Bytes that may wait for a subscriber, and for a client that monitors: the hard limits of
    /// `client-output-buffer-limit`.
    subscriber_bytes_max: AtomicU64,
    monitor_bytes_max: AtomicU64,
}

impl PubSub {
    /// For that many network executors; no client subscribes yet. Returns each executor's end of its inbox, too.
    pub fn new(executors: usize) -> (PubSub, Vec<flume::Receiver<Posted>>) {
        let (inboxes, receivers) = (0..executors).map(|_| Inbox::new()).unzip();
        let pubsub = PubSub {
            inboxes,
            subscriptions: AtomicU64::new(0),
            summary: RwLock::default(),
            monitors: (0..executors).map(|_| AtomicU64::new(0)).collect(),
            monitors_total: AtomicU64::new(0),
            subscriber_bytes_max: AtomicU64::new(u64::MAX),
            monitor_bytes_max: AtomicU64::new(u64::MAX),
        };
        (pubsub, receivers)
    }

    /// Takes over `client-output-buffer-limit`: what is too much for a client to have waiting is too much in an inbox,
    /// too.
    pub fn set_limits(&self, limits: &OutputBufferLimits) {
        let bytes_max = |limit: &OutputBufferLimit| match limit.hard_bytes {
            0 => u64::MAX,
            bytes => bytes,
        };
        self.subscriber_bytes_max
            .store(bytes_max(&limits.pubsub), Ordering::Relaxed);
        self.monitor_bytes_max
            .store(bytes_max(&limits.normal), Ordering::Relaxed);
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
        let mut groups: Vec<Group> = Vec::new();
        let summary = self.read();
        summary.visit_groups(kind, channel, |group| groups.push(group.clone()));
        let changes_seen = summary.changes;
        drop(summary);
        let total: u64 = groups.iter().map(|group| u64::from(group.count)).sum();
        if total == 0 {
            return 0;
        }
        let published = Arc::new(Published {
            kind,
            channel: channel.into(),
            message: message.into(),
            changes_seen,
        });
        let bytes = MESSAGE_BYTES_MIN + channel.len() as u64 + message.len() as u64;
        let bytes_max = self.subscriber_bytes_max.load(Ordering::Relaxed);
        for (executor, inbox) in self.inboxes.iter().enumerate() {
            let here = || groups.iter().filter(|group| usize::from(group.executor) == executor);
            let receivers: u64 = here().map(|group| u64::from(group.count)).sum();
            if receivers > 0 {
                let backlogs = here().map(|group| Arc::clone(&group.backlog)).collect();
                let push = Push::Published(Arc::clone(&published));
                inbox.post(push, bytes, backlogs, receivers, bytes_max);
            }
        }
        total
    }

    /// Whether a network executor is behind with what was published: connections should wait before they publish more.
    #[inline]
    pub fn is_slow(&self) -> bool {
        self.inboxes.iter().any(Inbox::is_slow)
    }

    /// Whether a network executor that has receivers of a channel is behind: connections that publish there wait for no
    /// other.
    pub fn is_slow_for(&self, kind: Kind, channel: &[u8]) -> bool {
        let mut is_slow = false;
        self.read().visit_groups(kind, channel, |group| {
            is_slow |= self.inboxes[usize::from(group.executor)].is_slow();
        });
        is_slow
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
                let (push, bytes) = (Push::Monitored(Arc::clone(&line)), line.len() as u64);
                let bytes_max = self.monitor_bytes_max.load(Ordering::Relaxed);
                inbox.post(push, bytes, vec![Arc::clone(&inbox.monitors)], monitors, bytes_max);
            }
        }
    }

    /// The names of a kind that have subscribers: of those the ones that match a pattern, if there is a pattern.
    pub fn names(&self, kind: Kind, pattern: Option<&[u8]>) -> Vec<Vec<u8>> {
        let summary = self.read();
        let names = summary.names[kind as usize].keys();
        names
            .filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name, false)))
            .map(|name| name.to_vec())
            .collect()
    }

    /// How many names of a kind have subscribers.
    pub fn name_count(&self, kind: Kind) -> usize {
        self.read().names[kind as usize].len()
    }

    /// How many clients subscribe to a name.
    pub fn subscriber_count(&self, kind: Kind, name: &[u8]) -> u64 {
        self.read().names[kind as usize].get(name).map_or(0, Groups::total)
    }

    /// A client of a network executor subscribes to one more name; returns the change's number.
    pub(crate) fn add(&self, kind: Kind, name: &[u8], executor: u16) -> u64 {
        let mut summary = self.write();
        summary.changes += 1;
        let names = &mut summary.names[kind as usize];
        if !names.contains_key(name) {
            names.insert(name.into(), Groups::default());
        }
        let groups = &mut names.get_mut(name).expect("the name was entered if it was not there").0;
        match groups.iter_mut().find(|group| group.executor == executor) {
            Some(group) => group.count += 1,
            None => groups.push(Group {
                executor,
                count: 1,
                backlog: Backlog::new(Receivers::Subscribers(kind, name.into())),
            }),
        }
        self.subscriptions.fetch_add(1, Ordering::AcqRel);
        summary.changes
    }

    /// A client of a network executor does not subscribe to a name any more.
    pub(crate) fn remove(&self, kind: Kind, name: &[u8], executor: u16) {
        let mut summary = self.write();
        let names = &mut summary.names[kind as usize];
        let groups = names.get_mut(name).map(|Groups(groups)| groups);
        let groups = groups.expect("a name with a subscription has groups");
        let index = groups.iter().position(|group| group.executor == executor);
        let index = index.expect("a subscription is in its executor's group");
        assert!(groups[index].count > 0, "a group that is empty is removed");
        groups[index].count -= 1;
        if groups[index].count == 0 {
            groups.swap_remove(index);
        }
        if groups.is_empty() {
            names.remove(name);
        }
        let before = self.subscriptions.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a subscription is counted when it begins");
    }

    fn read(&self) -> RwLockReadGuard<'_, Summary> {
        self.summary.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Summary> {
        self.summary.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a backlog is for the subscribers that a name has now on a network executor: those for which it was may
    /// all have gone since, and others come.
    pub(crate) fn is_for_subscribers(&self, backlog: &Arc<Backlog>, kind: Kind, name: &[u8], executor: usize) -> bool {
        let summary = self.read();
        let groups = summary.names[kind as usize].get(name);
        groups.is_some_and(|groups| {
            let mut groups = groups.0.iter();
            groups.any(|group| usize::from(group.executor) == executor && Arc::ptr_eq(&group.backlog, backlog))
        })
    }

    /// A client of a network executor begins or ends to monitor.
    pub(crate) fn count_monitor(&self, executor: u16, on: bool) {
        for count in [&self.monitors[usize::from(executor)], &self.monitors_total] {
            let before = match on {
                true => count.fetch_add(1, Ordering::Relaxed),
                false => count.fetch_sub(1, Ordering::Relaxed),
            };
            assert!(on || before > 0, "a client that ends to monitor has begun to");
        }
    }

    /// The inbox of a network executor.
    pub(crate) fn inbox(&self, executor: usize) -> &Inbox {
        &self.inboxes[executor]
    }
}
