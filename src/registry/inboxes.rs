//! What a network executor's clients are to be sent although they did not ask for it just now: published messages,
//! MONITOR's lines and outdated keys. Any thread puts something in, the executor takes it out.
//!
//! An inbox is bounded for each group of receivers by itself ([`Backlog`]): all of a backlog is for every client of the
//! group, so a backlog that is longer than a client's output may be is too long for each of them and for nobody else.

use crate::registry::subscribers::{Kind, Published};
use crate::registry::tracked_keys::TrackingPush;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of output that the pushes in an inbox will make when connections that publish begin to wait: far more than an
/// executor sends in the time that they wait ([`crate::registry::server_state::HOUSEKEEPING_INTERVAL`]), so
/// that it never runs dry.
const SLOW_BYTES: u64 = 16 << 20;

/// What a push costs beside its content: an entry of the queue, its header in the protocol.
const PUSH_BYTES: u64 = 128;

/// What outdated keys may take in an inbox: a good million of them. Above it the executor's clients are told that
/// everything is outdated in place of the keys, which is true and takes no room.
const TRACKING_BACKLOG_BYTES_MAX: u64 = 64 << 20;

/// Something for clients of one network executor.
pub(crate) enum Push {
    /// A message, for the subscribers of its channel and of patterns that match it.
    Published(Arc<Published>),
    /// A line, as it is sent, for the clients that monitor.
    Monitored(Arc<[u8]>),
    /// Keys that are outdated, for the clients that track them.
    Tracking(TrackingPush),
    /// The receivers of a backlog do not get what comes after this until the executor has seen it.
    Lost(Arc<Backlog>),
}

/// The clients that receive the pushes of a backlog.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Receivers {
    /// The subscribers of a name.
    Subscribers(Kind, Box<[u8]>),
    /// The clients that monitor.
    Monitors,
    /// The clients that track, or are told instead of one.
    Trackers,
}

/// How much waits in one inbox for the same receivers.
pub(crate) struct Backlog {
    pub(crate) receivers: Receivers,
    /// The content of the pushes: what each receiver is sent is a little more.
    bytes: AtomicU64,
    /// A push was not taken; no more are taken until the executor has seen to the receivers.
    has_lost: AtomicBool,
}

impl Backlog {
    /// Nothing waits.
    pub(crate) fn new(receivers: Receivers) -> Arc<Backlog> {
        Arc::new(Backlog {
            receivers,
            bytes: AtomicU64::new(0),
            has_lost: AtomicBool::new(false),
        })
    }

    /// The executor sees to the receivers now: from here on the backlog takes pushes again.
    pub(crate) fn end_loss(&self) {
        let had_lost = self.has_lost.swap(false, Ordering::AcqRel);
        assert!(had_lost, "a backlog tells of a loss once");
    }
}

/// A push in an inbox.
pub struct Posted {
    /// The content.
    pub(crate) push: Push,
    /// The push's bytes of output for all receivers together, roughly.
    pub(crate) output_bytes: u64,
    /// The push's bytes in each of its backlogs.
    bytes: u64,
    backlogs: Vec<Arc<Backlog>>,
}

/// One network executor's inbox, from the side of the threads that put something in.
pub(crate) struct Inbox {
    sender: flume::Sender<Posted>,
    /// Bytes of output that the pushes in the inbox will make: what it costs to deliver them.
    output_bytes: AtomicU64,
    pub(crate) monitors: Arc<Backlog>,
    pub(crate) trackers: Arc<Backlog>,
}

impl Inbox {
    pub(crate) fn new() -> (Inbox, flume::Receiver<Posted>) {
        // Bounded by the bytes that are counted in its backlogs.
        let (sender, receiver) = flume::unbounded();
        let inbox = Inbox {
            sender,
            output_bytes: AtomicU64::new(0),
            monitors: Backlog::new(Receivers::Monitors),
            trackers: Backlog::new(Receivers::Trackers),
        };
        (inbox, receiver)
    }

    /// Puts a push of so many `bytes` in, for all receivers of `backlogs`: `receivers` clients. A backlog that is
    /// longer than `bytes_max` already does not take the push. Never waits.
    pub(crate) fn post(&self, push: Push, bytes: u64, mut backlogs: Vec<Arc<Backlog>>, receivers: u64, bytes_max: u64) {
        backlogs.retain(|backlog| self.takes(backlog, bytes_max));
        if backlogs.is_empty() {
            return;
        }
        for backlog in &backlogs {
            backlog.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let output_bytes = (bytes + PUSH_BYTES) * receivers;
        self.output_bytes.fetch_add(output_bytes, Ordering::Relaxed);
        self.send(Posted {
            push,
            output_bytes,
            bytes,
            backlogs,
        });
    }

    /// [`Inbox::post`] for outdated keys, which so many clients are told of.
    pub(crate) fn post_outdated(&self, push: TrackingPush, bytes: u64, receivers: u64) {
        let trackers = vec![Arc::clone(&self.trackers)];
        let bytes = bytes + PUSH_BYTES;
        self.post(
            Push::Tracking(push),
            bytes,
            trackers,
            receivers,
            TRACKING_BACKLOG_BYTES_MAX,
        );
    }

    /// Whether a backlog takes one more push; of the first that a backlog does not take, the executor is told.
    fn takes(&self, backlog: &Arc<Backlog>, bytes_max: u64) -> bool {
        if backlog.has_lost.load(Ordering::Acquire) {
            return false;
        }
        let is_full = backlog.bytes.load(Ordering::Relaxed) > bytes_max;
        if is_full && !backlog.has_lost.swap(true, Ordering::AcqRel) {
            self.send(Posted {
                push: Push::Lost(Arc::clone(backlog)),
                output_bytes: 0,
                bytes: 0,
                backlogs: Vec::new(),
            });
        }
        !is_full
    }

    fn send(&self, posted: Posted) {
        // Fails when the executor has ended, and its clients with it.
        let _ = self.sender.send(posted);
    }

    /// The executor has taken a push out.
    pub(crate) fn count_taken(&self, posted: &Posted) {
        let subtract = |from: &AtomicU64, bytes: u64| {
            let before = from.fetch_sub(bytes, Ordering::Relaxed);
            assert!(before >= bytes, "a push is counted before it is sent");
        };
        subtract(&self.output_bytes, posted.output_bytes);
        for backlog in &posted.backlogs {
            subtract(&backlog.bytes, posted.bytes);
        }
    }

    /// Whether connections that publish should wait.
    pub(crate) fn is_slow(&self) -> bool {
        self.output_bytes.load(Ordering::Relaxed) > SLOW_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Push {
        Push::Monitored(Arc::from(&b"+line\r\n"[..]))
    }

    fn subscribers(name: &[u8]) -> Arc<Backlog> {
        Backlog::new(Receivers::Subscribers(Kind::Channel, name.into()))
    }

    #[test]
    fn a_full_backlog_takes_nothing_until_the_loss_was_seen_and_the_others_go_on() {
        let (inbox, receiver) = Inbox::new();
        let (full, other) = (subscribers(b"full"), subscribers(b"other"));
        let post = |backlogs: &[&Arc<Backlog>]| {
            inbox.post(line(), 100, backlogs.iter().map(|it| Arc::clone(it)).collect(), 1, 150);
        };
        // One push more than the limit: it is compared with what waits already.
        for _ in 0..2 {
            post(&[&full]);
        }
        assert_eq!(receiver.len(), 2);
        post(&[&full]);
        post(&[&full]);
        assert_eq!(receiver.len(), 3, "the loss is told of once");
        // What is for both goes to the one that takes it.
        post(&[&full, &other]);
        let taken: Vec<Posted> = receiver.drain().collect();
        assert!(matches!(&taken[2].push, Push::Lost(lost) if Arc::ptr_eq(lost, &full)));
        assert_eq!(taken[3].backlogs.len(), 1);
        taken.iter().for_each(|posted| inbox.count_taken(posted));
        post(&[&full]);
        assert!(
            receiver.is_empty(),
            "what follows a loss is not delivered before it was seen"
        );
        full.end_loss();
        post(&[&full]);
        assert_eq!(receiver.len(), 1);
        assert_eq!(other.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_inbox_is_slow_by_what_its_receivers_will_be_sent() {
        let (inbox, receiver) = Inbox::new();
        let backlog = subscribers(b"name");
        inbox.post(line(), SLOW_BYTES / 100, vec![Arc::clone(&backlog)], 99, u64::MAX);
        inbox.post(line(), 1, vec![Arc::clone(&backlog)], 1, u64::MAX);
        assert!(!inbox.is_slow());
        inbox.post(line(), SLOW_BYTES / 100, vec![backlog], 1, u64::MAX);
        assert!(inbox.is_slow());
        receiver.drain().for_each(|posted| inbox.count_taken(&posted));
        assert!(!inbox.is_slow());
    }
}
