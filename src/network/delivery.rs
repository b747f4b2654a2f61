//! From a network executor's inbox to its clients: messages and pushes, which are no replies.
//!
//! A push goes out behind the replies to all commands that were read from the connection: it never lands inside a
//! reply, and comes after whatever was answered before it was sent. The inbox is emptied before the next command of a
//! client runs that subscribes or monitors, so that the command's reply tells the client that all earlier pushes have
//! come.

use super::connection::{Connection, PushedBytes};
use crate::config::OutputBufferLimit;
use crate::executor::storage_executor::reactor_turn;
use crate::network::network_executor::NetworkExecutor;
use crate::network::subscriptions::Subscribers;
use crate::panics;
use crate::protocol::Reply;
use crate::protocol::reply::Version;
use crate::registry::inboxes::{Backlog, Posted, Push, Receivers};
use crate::registry::subscribers::{Kind, Published};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Bytes that are put into outputs, as the inbox counts them, before the outputs are sent and the other tasks may run.
/// To send is what costs, so it is worth having several messages in each send; but what is in outputs and was not sent
/// is not yet held against any limit.
const BYTES_PER_SEND: u64 = 16 << 20;

/// Output that may wait for a client that has not authenticated, as in Redis: a client without the password gets short
/// errors, and must not make the server keep many of them by not reading.
const UNAUTHENTICATED_OUTPUT: OutputBufferLimit = OutputBufferLimit {
    hard_bytes: 1024,
    soft_bytes: 0,
    soft_seconds: 0,
};

impl NetworkExecutor {
    /// Delivers what arrives in the inbox, for as long as the executor runs.
    pub(super) async fn take_deliveries(self: Rc<Self>, inbox: flume::Receiver<Posted>) {
        while let Ok(posted) = inbox.recv_async().await {
            let mut bytes = self.take_push(&posted);
            while let Ok(posted) = inbox.try_recv() {
                bytes += self.take_push(&posted);
                if bytes >= BYTES_PER_SEND {
                    bytes = 0;
                    self.end_of_delivery();
                    reactor_turn().await;
                }
            }
            self.end_of_delivery();
        }
    }

    /// Delivers what is in the inbox now.
    pub(super) fn deliver_now(self: &Rc<Self>) {
        let left = self.inbox.len();
        if left == 0 {
            return;
        }
        // Pushes change other connections than the one whose command comes next.
        let _uncontained = panics::uncontained();
        let mut bytes = 0;
        for _ in 0..left {
            let Ok(posted) = self.inbox.try_recv() else { break };
            bytes += self.take_push(&posted);
            if bytes >= BYTES_PER_SEND {
                bytes = 0;
                self.flush_touched();
            }
        }
        self.end_of_delivery();
    }

    fn end_of_delivery(self: &Rc<Self>) {
        self.flush_touched();
        // For those that wait to publish more.
        self.room.notify();
    }

    /// A backlog was longer than each of its receivers may have waiting, so that they do not get all of it: their
    /// connections are closed, since they must not miss a part unknowingly.
    fn tell_of_loss(&self, backlog: &Arc<Backlog>) {
        backlog.end_loss();
        match &backlog.receivers {
            Receivers::Subscribers(kind, name) => {
                if self.server.pubsub.is_for_subscribers(backlog, *kind, name, self.index) {
                    let subscribers = self.subscriptions.borrow().of(*kind, name).cloned();
                    self.close_listeners(subscribers.unwrap_or_default().into_keys());
                }
            }
            Receivers::Monitors => {
                let monitors: Vec<u32> = self.subscriptions.borrow().monitors().collect();
                self.close_listeners(monitors.into_iter());
            }
            // These need not go: to be told that everything is outdated is as good.
            Receivers::Trackers => self.outdate_everything(),
        }
    }

    fn close_listeners(&self, listeners: impl Iterator<Item = u32>) {
        let connections = self.connections.borrow();
        for connection in listeners.filter_map(|index| connections.get(index as usize)) {
            // So that nothing more is put into its output.
            let mut session = connection.session.borrow_mut();
            self.subscriptions.borrow_mut().leave(&self.server.pubsub, &mut session);
            drop(session);
            self.close_for_output(connection);
        }
    }

    /// Puts a push into the outputs of its receivers; returns how many bytes that were, as the inbox counts them.
    fn take_push(&self, posted: &Posted) -> u64 {
        self.server.pubsub.inbox(self.index).count_taken(posted);
        match &posted.push {
            Push::Published(published) => self.take_published(published),
            Push::Tracking(push) => self.take_tracking(push),
            Push::Monitored(line) => {
                let (subscriptions, connections) = (self.subscriptions.borrow(), self.connections.borrow());
                let monitors = subscriptions.monitors();
                let bytes = PushedBytes::new(line.to_vec());
                monitors
                    .filter_map(|connection| connections.get(connection as usize))
                    .for_each(|connection| self.push_to(connection, &bytes));
            }
            Push::Lost(backlog) => self.tell_of_loss(backlog),
        }
        posted.output_bytes
    }

    fn take_published(&self, published: &Published) {
        let Published {
            kind, channel, message, ..
        } = published;
        let subscriptions = self.subscriptions.borrow();
        if let Some(subscribers) = subscriptions.of(*kind, channel) {
            let word = if *kind == Kind::ShardChannel {
                "smessage"
            } else {
                "message"
            };
            let write = |reply: &mut Reply<'_>| {
                reply.push(3);
                reply.text(word);
                reply.bulk(channel);
                reply.bulk(message);
            };
            self.push_to_all(subscribers, published.changes_seen, write);
        }
        if *kind == Kind::Channel {
            for (pattern, subscribers) in subscriptions.matching(channel) {
                let write = |reply: &mut Reply<'_>| {
                    reply.push(4);
                    reply.text("pmessage");
                    reply.bulk(pattern);
                    reply.bulk(channel);
                    reply.bulk(message);
                };
                self.push_to_all(subscribers, published.changes_seen, write);
            }
        }
    }

    /// Pushes to all that had subscribed when a message was published. The message is written once for each version of
    /// the protocol.
    fn push_to_all(&self, subscribers: &Subscribers, changes_seen: u64, write: impl Fn(&mut Reply<'_>)) {
        let connections = self.connections.borrow();
        let mut written: [Option<PushedBytes>; 2] = [None, None];
        for (connection, change) in subscribers {
            let Some(connection) = connections.get(*connection as usize) else {
                continue;
            };
            if *change > changes_seen {
                continue;
            }
            let version = connection.session.borrow().version;
            let written = &mut written[usize::from(version == Version::Resp3)];
            let bytes = written.get_or_insert_with(|| {
                let mut bytes = Vec::new();
                write(&mut Reply::new(&mut bytes, version));
                PushedBytes::new(bytes)
            });
            self.push_to(connection, bytes);
        }
    }

    /// Sends bytes that are no reply to a client, at the end of the turn, behind the pending replies.
    pub(super) fn push_to(&self, connection: &Rc<Connection>, bytes: &PushedBytes) {
        if connection.closed.get() {
            return;
        }
        let mut replies = connection.replies.borrow_mut();
        match replies.is_empty() {
            true => connection.output.borrow_mut().append_pushed(bytes),
            false => replies.push(bytes),
        }
        drop(replies);
        self.touch(connection);
    }

    /// Whether more is held for a client than may be: what its socket does not take, and what is not output yet. A
    /// client that monitors is `normal`, as in Redis.
    pub(super) fn exceeds_output_limit(&self, connection: &Connection, now: Instant) -> bool {
        let limits = self.settings.borrow().client_output_buffer_limit;
        let limit = match connection.session.borrow().subscribed.is_some() {
            _ if !self.has_authenticated(connection) => UNAUTHENTICATED_OUTPUT,
            true => limits.pubsub,
            false => limits.normal,
        };
        let unready_bytes = connection.unready_bytes();
        connection.output.borrow_mut().exceeds(unready_bytes, &limit, now)
    }
}
