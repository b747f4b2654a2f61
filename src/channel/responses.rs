//! The way back: the channel by which batches return to the sender of their requests, and how many bytes of replies lie
//! there.
//!
//! The channel is unbounded, since no more batches can be under way than the sender has credits for; but how many bytes
//! they carry is only known when the requests were run. A sender that does not take its replies in gets no more
//! requests run than [`REPLY_BYTES_WAITING_MAX`]: a storage executor sets its batches aside, and serves the others
//! ([`ResponseSender::is_behind`]).

use super::message::{Batch, REPLY_BYTES_FULL};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes of replies that may lie unread at one sender before no more of its requests are run: what storage executors
/// may be ahead of a network executor whose clients ask for large values.
pub const REPLY_BYTES_WAITING_MAX: usize = 16 * REPLY_BYTES_FULL;

/// Batches with fewer bytes of replies are not counted: they are bounded by the credits, and to count costs both sides.
const REPLY_BYTES_COUNTED_MIN: usize = 64 << 10;

struct Channel {
    sender: flume::Sender<Box<Batch>>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The way back to one sender of requests; goes along with its batches.
#[derive(Clone)]
pub struct ResponseSender(Arc<Channel>);

/// Where a sender of requests gets its batches back.
pub struct Responses {
    receiver: flume::Receiver<Box<Batch>>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The two ends of a new channel.
pub fn responses() -> (ResponseSender, Responses) {
    let (sender, receiver) = flume::unbounded();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let sender = ResponseSender(Arc::new(Channel {
        sender,
        waiting_bytes: Arc::clone(&waiting_bytes),
    }));
    (
        sender,
        Responses {
            receiver,
            waiting_bytes,
        },
    )
}

fn counted_bytes(batch: &Batch) -> usize {
    match batch.replies.len() {
        few if few < REPLY_BYTES_COUNTED_MIN => 0,
        many => many,
    }
}

impl ResponseSender {
    /// Sends a batch back. Its sender may be gone: then it is freed.
    pub(super) fn send(self, batch: Box<Batch>) {
        let bytes = counted_bytes(&batch);
        if bytes > 0 {
            self.0.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let _ = self.0.sender.send(batch);
    }

    /// Whether so much lies unread there that no more of the sender's requests should be run now. A sender that is gone
    /// takes nothing in any more, and its requests are run.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.0.waiting_bytes.load(Ordering::Relaxed) >= REPLY_BYTES_WAITING_MAX && !self.0.sender.is_disconnected()
    }

    /// Whether both lead to the same sender of requests.
    pub fn is_same(&self, other: &ResponseSender) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Responses {
    /// Waits for the next batch; `None` when no more can come.
    pub async fn next(&self) -> Option<Box<Batch>> {
        self.receiver.recv_async().await.ok().map(|batch| self.take(batch))
    }

    /// The next batch if one is here.
    pub fn try_next(&self) -> Option<Box<Batch>> {
        self.receiver.try_recv().ok().map(|batch| self.take(batch))
    }

    /// Waits for the next batch, on a thread that may; `Ok(None)` when none has come in time.
    ///
    /// # Errors
    /// No more can come.
    pub fn next_within(&self, patience: Duration) -> Result<Option<Box<Batch>>, flume::RecvError> {
        match self.receiver.recv_timeout(patience) {
            Ok(batch) => Ok(Some(self.take(batch))),
            Err(flume::RecvTimeoutError::Timeout) => Ok(None),
            Err(flume::RecvTimeoutError::Disconnected) => Err(flume::RecvError::Disconnected),
        }
    }

    fn take(&self, batch: Box<Batch>) -> Box<Batch> {
        let bytes = counted_bytes(&batch);
        if bytes > 0 {
            let before = self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            assert!(before >= bytes, "a batch is counted before it is sent");
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_behind_by_the_bytes_that_it_has_not_taken_and_not_when_it_is_gone() {
        let (sender, responses) = responses();
        let with_replies = |bytes: usize| {
            let mut batch = Batch::new(sender.clone());
            batch.replies = vec![0; bytes];
            batch
        };
        with_replies(REPLY_BYTES_WAITING_MAX - 1).send_back();
        (0..100).for_each(|_| with_replies(100).send_back());
        assert!(!sender.is_behind(), "small ones are not counted");
        with_replies(REPLY_BYTES_COUNTED_MIN).send_back();
        assert!(sender.is_behind());
        assert!(responses.try_next().is_some());
        assert!(!sender.is_behind());
        with_replies(REPLY_BYTES_WAITING_MAX).send_back();
        assert!(sender.is_behind());
        drop(responses);
        assert!(!sender.is_behind());
    }
}
