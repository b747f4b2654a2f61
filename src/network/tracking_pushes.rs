//! CLIENT TRACKING, the sending side: clients of this executor are told of keys that they have read and that were
//! changed since.

use super::connection::{Connection, PushedBytes};
use super::network_executor::NetworkExecutor;
use super::session::Session;
use crate::protocol::Reply;
use crate::protocol::reply::Version;
use crate::registry::tracked_keys::{FlushId, Outdated, Tracked, Tracking, TrackingPush, Written};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The channel on which RESP2 clients are told.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// A client tracks from now on, or in another way, or (`None`) not any more.
pub fn set_tracking(tracking: &Tracking, session: &mut Session, tracked: Option<Box<Tracked>>) {
    let executor = session.client.executor;
    if let Some(before) = &session.tracking {
        tracking.count(executor, before, -1);
    }
    let was_reader = is_reader(session);
    session.tracking = tracked;
    if is_reader(session) != was_reader {
        tracking.set_reading(session.client.id, !was_reader);
    }
    if let Some(now) = &session.tracking {
        tracking.count(executor, now, 1);
    }
    publish(session);
}

/// Whether a client is told of what it has read.
fn is_reader(session: &Session) -> bool {
    session.tracking.as_deref().is_some_and(|tracked| !tracked.broadcast)
}

/// Tells CLIENT LIST how a client tracks.
fn publish(session: &Session) {
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

impl Connection {
    /// What `read` finds in the client's way of tracking; `None` if the client does not track.
    fn tracked<T>(&self, read: impl FnOnce(&Tracked) -> T) -> Option<T> {
        self.session.borrow().tracking.as_deref().map(read)
    }

    /// The number that the next command will have, and whether all commands before it are answered.
    fn next_command(&self) -> (u32, bool) {
        let replies = self.replies.borrow();
        (replies.next_sequence(), replies.is_empty())
    }
}

impl NetworkExecutor {
    /// Tells the clients that track, or to which others redirect, what a push is about.
    pub(super) fn take_tracking(&self, push: &TrackingPush) {
        match push {
            TrackingPush::Read { key, readers, writer } => {
                let keys: Arc<[Arc<[u8]>]> = [Arc::clone(key)].into();
                for (client_id, connection) in readers {
                    let Some(connection) = self.connection_of(*connection, *client_id) else {
                        continue;
                    };
                    let wants =
                        connection.tracked(|tracked| !(tracked.broadcast || tracked.no_loop && writer == client_id));
                    if wants == Some(true) {
                        self.invalidate(&connection, Some(Arc::clone(&keys)));
                    }
                }
            }
            TrackingPush::Matching(written) => {
                let tracking = self.tracking_connections(|tracked| tracked.broadcast);
                for connection in &tracking {
                    self.invalidate_matching(connection, written);
                }
            }
            TrackingPush::Everything(flush) => {
                let tracking = self.tracking_connections(|_| true);
                for connection in &tracking {
                    self.invalidate_everything(connection, *flush);
                }
            }
            TrackingPush::Redirected { to, connection, keys } => {
                if let Some(target) = self.connection_of(*connection, *to) {
                    self.push_outdated(&target, keys);
                }
            }
        }
    }

    /// The inbox had no room for some outdated keys: every client here that they may concern is told that everything is
    /// outdated.
    pub(super) fn outdate_everything(&self) {
        for connection in &self.tracking_connections(|_| true) {
            self.invalidate(connection, None);
        }
        let connections = self.connections.borrow();
        let told_for_others = connections
            .iter()
            .filter(|(_, connection)| connection.client.is_redirected_to.load(Ordering::Relaxed));
        for (_, connection) in told_for_others {
            self.push_outdated(connection, &None);
        }
    }

    fn connection_of(&self, index: u32, client_id: u64) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        let connection = connections.get(index as usize);
        connection
            .filter(|connection| connection.client.id == client_id)
            .cloned()
    }

    fn tracking_connections(&self, is_meant: impl Fn(&Tracked) -> bool) -> Vec<Rc<Connection>> {
        let connections = self.connections.borrow();
        let meant = connections
            .iter()
            .filter(|(_, connection)| connection.tracked(&is_meant) == Some(true));
        meant.map(|(_, connection)| Rc::clone(connection)).collect()
    }

    /// Sends a client one message for each of its prefixes that written keys have, as in Redis; returns how many.
    fn invalidate_matching(&self, connection: &Rc<Connection>, written: &Written) -> usize {
        let Some((prefixes, no_loop)) = connection.tracked(|tracked| (tracked.prefixes.clone(), tracked.no_loop))
        else {
            return 0;
        };
        let mut delivered = 0;
        for prefix in &prefixes {
            let matching = written
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .filter(|(_, writer)| !(no_loop && **writer == connection.client.id));
            let keys: Vec<Arc<[u8]>> = matching.map(|(key, _)| Arc::from(&**key)).collect();
            if !keys.is_empty() {
                self.invalidate(connection, Some(keys.into()));
                delivered += 1;
            }
        }
        delivered
    }

    /// Tells a client that everything is outdated, once for each flush: all storage executors say so of one FLUSHALL,
    /// and a client that has sent nothing since it was told has nothing more to forget. Returns whether it was told.
    fn invalidate_everything(&self, connection: &Rc<Connection>, flush: FlushId) -> bool {
        let (next, all_answered) = connection.next_command();
        let Some((flushed_at, redirect)) = connection.tracked(|tracked| (tracked.flushed_at, tracked.redirect)) else {
            return false;
        };
        if flushed_at == Some((flush, next)) {
            return false;
        }
        self.invalidate(connection, None);
        // On the same connection a pending reply comes before the push. Where another client is told, the reply may
        // come later, with what is outdated by then.
        let is_last = redirect == 0 || all_answered;
        let flushed_at = is_last.then(|| (flush, connection.next_command().0));
        if let Some(tracked) = connection.session.borrow_mut().tracking.as_deref_mut() {
            tracked.flushed_at = flushed_at;
        }
        true
    }

    /// Tells a client, or the one to which it redirects, what is outdated.
    fn invalidate(&self, connection: &Rc<Connection>, keys: Outdated) {
        let redirect = connection.tracked(|tracked| tracked.redirect).unwrap_or(0);
        if redirect == 0 {
            self.push_outdated(connection, &keys);
            return;
        }
        match self.server.clients.find(redirect) {
            Some(target) => {
                let bytes = keys
                    .iter()
                    .flat_map(|keys| keys.iter())
                    .map(|key| key.len() as u64)
                    .sum::<u64>();
                let push = TrackingPush::Redirected {
                    to: redirect,
                    connection: target.connection.get() as u32,
                    keys,
                };
                self.server.pubsub.inbox(target.executor).post_outdated(push, bytes, 1);
            }
            None => self.break_redirection(connection, redirect),
        }
    }

    fn break_redirection(&self, connection: &Rc<Connection>, redirect: u64) {
        let mut session = connection.session.borrow_mut();
        if let Some(tracked) = session.tracking.as_deref_mut() {
            tracked.is_broken = true;
        }
        publish(&session);
        let version = session.version;
        drop(session);
        if version == Version::Resp3 {
            let mut bytes = Vec::new();
            let mut reply = Reply::new(&mut bytes, version);
            reply.push(2);
            reply.text("tracking-redir-broken");
            reply.integer(redirect as i64);
            self.push_to(connection, &PushedBytes::new(bytes));
        }
    }

    /// Sends what is outdated to a client: as a push, or, for RESP2, as a message if the client has subscribed. A RESP2
    /// client that has not cannot be told. Returns how many messages were sent.
    fn push_outdated(&self, connection: &Rc<Connection>, keys: &Outdated) -> usize {
        let (version, subscribes) = {
            let session = connection.session.borrow();
            (session.version, session.subscribed.is_some())
        };
        let mut bytes = Vec::new();
        let mut reply = Reply::new(&mut bytes, version);
        match version {
            Version::Resp3 => {
                reply.push(2);
                reply.text("invalidate");
            }
            Version::Resp2 if subscribes => {
                reply.array(3);
                reply.text("message");
                reply.bulk(CHANNEL);
            }
            Version::Resp2 => return 0,
        }
        match keys {
            Some(keys) => {
                reply.array(keys.len());
                keys.iter().for_each(|key| reply.bulk(key));
            }
            None => reply.null(),
        }
        self.push_to(connection, &PushedBytes::new(bytes));
        1
    }
}
