//! What a network executor's clients are to be sent although they did not ask for it just now: published messages and
//! MONITOR's lines. Any thread puts it in, the executor takes it out.

use crate::registry::subscribers::Published;
use crate::registry::tracked_keys::TrackingPush;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes that an inbox holds when those who publish from connections begin to wait: far more than an executor sends in
/// the time that they wait for ([`crate::executor::storage_executor::HOUSEKEEPING_INTERVAL`]), so that it never runs
/// dry.
const SLOW_BYTES: u64 = 16 << 20;

/// Bytes that an inbox holds when it takes no more. Storage executors, which cannot wait, come here, and MONITOR. What
/// is lost must be seen to be lost: all subscribers and monitors of that executor are disconnected, as one is whose own
/// output is too long.
const FULL_BYTES: u64 = 256 << 20;

/// What a push costs beside its content: its place in the queue, its header in the protocol.
pub(crate) const PUSH_BYTES: u64 = 128;

/// Something for clients of one network executor.
pub(crate) enum Push {
    /// A message, for those who subscribe to its channel or to a pattern that matches it.
    Published(Arc<Published>),
    /// A line, for those who monitor, as it is sent.
    Monitored(Arc<[u8]>),
    /// Keys that are outdated, for those who track them.
    Tracking(TrackingPush),
}

/// A push in an inbox.
pub struct Posted {
    /// What it is.
    pub(crate) push: Push,
    /// What it counts in the inbox.
    pub(crate) bytes: u64,
}

/// One network executor's inbox, from the side of those who put something in.
pub(crate) struct Inbox {
    sender: flume::Sender<Posted>,
    /// What the pushes in it will take as output, roughly: the content counts once for each receiver, since that is
    /// what delivering costs.
    waiting_bytes: AtomicU64,
    /// Something was not taken; nothing more is until the executor has disconnected whom it was for.
    has_lost: AtomicBool,
}

impl Inbox {
    pub(crate) fn new() -> (Inbox, flume::Receiver<Posted>) {
        // Bounded by the bytes that are counted here.
        let (sender, receiver) = flume::unbounded();
        let inbox = Inbox {
            sender,
            waiting_bytes: AtomicU64::new(0),
            has_lost: AtomicBool::new(false),
        };
        (inbox, receiver)
    }

    /// Puts a push in that will take `bytes` as output. Never waits.
    pub(crate) fn post(&self, push: Push, bytes: u64) {
        if self.has_lost.load(Ordering::Acquire) {
            return;
        }
        if self.waiting_bytes.load(Ordering::Relaxed) > FULL_BYTES {
            self.has_lost.store(true, Ordering::Release);
            return;
        }
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // It fails when the executor has ended, and its clients with it.
        let _ = self.sender.send(Posted { push, bytes });
    }

    /// The executor has taken a push out.
    pub(crate) fn note_taken(&self, posted: &Posted) {
        self.waiting_bytes.fetch_sub(posted.bytes, Ordering::Relaxed);
    }

    /// Whether who publishes should wait.
    pub(crate) fn is_slow(&self) -> bool {
        self.waiting_bytes.load(Ordering::Relaxed) > SLOW_BYTES
    }

    /// Whether something was lost; from now on the inbox takes again.
    pub(crate) fn take_lost(&self) -> bool {
        self.has_lost.load(Ordering::Acquire) && self.has_lost.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Push {
        Push::Monitored(Arc::from(&b"+line\r\n"[..]))
    }

    #[test]
    fn an_inbox_that_is_full_takes_nothing_until_the_loss_was_seen() {
        let (inbox, receiver) = Inbox::new();
        inbox.post(line(), SLOW_BYTES);
        assert!(!inbox.is_slow());
        // One push may be of any size.
        inbox.post(line(), FULL_BYTES);
        assert!(inbox.is_slow() && !inbox.take_lost());
        inbox.post(line(), 1);
        assert_eq!(receiver.len(), 2, "it was full");
        for posted in receiver.drain() {
            inbox.note_taken(&posted);
        }
        assert!(!inbox.is_slow());
        inbox.post(line(), 1);
        assert!(receiver.is_empty(), "what follows a loss is not delivered either");
        assert!(inbox.take_lost() && !inbox.take_lost());
        inbox.post(line(), 1);
        assert_eq!(receiver.len(), 1);
    }
}
