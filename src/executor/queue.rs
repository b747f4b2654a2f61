//! What has arrived at a storage executor and was not run yet, in the order of priorities.

use crate::channel::message::{Batch, Priority};
use crate::channel::responses::ResponseSender;
use std::collections::VecDeque;

/// Normal batches that are served before a waiting low one gets its turn: low ones cost about as much as that many.
pub(super) const NORMAL_PER_LOW: usize = 16;

/// Batches that have arrived and were not run yet, by priority.
#[derive(Default)]
pub(super) struct PriorityQueue {
    pub(super) high: VecDeque<Box<Batch>>,
    pub(super) normal: VecDeque<Box<Batch>>,
    /// With the number of normal batches that had arrived before: those go first, so that the commands of a connection
    /// keep their order (the sender keeps it the other way round).
    pub(super) low: VecDeque<(u64, Box<Batch>)>,
    pub(super) normal_arrived: u64,
    pub(super) normal_served: u64,
    pub(super) normal_since_low: usize,
    /// Batches of senders that have too many replies to take in, by sender and in their order: they are run when the
    /// sender has caught up. The others are served meanwhile.
    set_aside: Vec<(ResponseSender, VecDeque<Box<Batch>>)>,
    /// All senders of requests have gone: nothing is set aside any more.
    is_last: bool,
}

impl PriorityQueue {
    pub(super) fn push(&mut self, batch: Box<Batch>) {
        match batch.priority {
            Priority::High => self.high.push_back(batch),
            Priority::Normal => {
                self.normal_arrived += 1;
                self.normal.push_back(batch);
            }
            Priority::Low => self.low.push_back((self.normal_arrived, batch)),
        }
    }

    /// The next batch of a sender that takes its replies in.
    pub(super) fn pop(&mut self) -> Option<Box<Batch>> {
        loop {
            let batch = self.pop_any()?;
            let sender = batch.reply_to();
            let known = self.set_aside.iter_mut().find(|(known, _)| known.is_same(sender));
            match known {
                Some((_, batches)) => batches.push_back(batch),
                None if !sender.is_behind() || self.is_last => return Some(batch),
                None => {
                    let sender = sender.clone();
                    self.set_aside.push((sender, [batch].into()));
                }
            }
        }
    }

    /// Whether batches are set aside.
    pub(super) fn has_set_aside(&self) -> bool {
        !self.set_aside.is_empty()
    }

    /// From now on no batch is set aside.
    pub(super) fn set_nothing_aside(&mut self) {
        self.is_last = true;
    }

    /// Queues again, before all others, what was set aside of senders that have caught up.
    #[inline]
    pub(super) fn take_back(&mut self) {
        if self.set_aside.is_empty() {
            return;
        }
        let is_last = self.is_last;
        let caught_up = self
            .set_aside
            .extract_if(.., |(sender, _)| is_last || !sender.is_behind());
        let caught_up: Vec<_> = caught_up.collect();
        for (_, batches) in caught_up {
            self.push_all_back_to_front(batches);
        }
    }

    /// Queues again, before all others, what was taken out and not run, in the order in which it was taken out.
    fn push_all_back_to_front(&mut self, batches: VecDeque<Box<Batch>>) {
        let (mut low, mut low_after) = (Vec::new(), 0);
        for batch in batches.into_iter().rev() {
            match batch.priority {
                // A low one goes behind the normal ones that had to go before it, which come back, too.
                Priority::Low => low.push(batch),
                Priority::High | Priority::Normal => {
                    low_after += u64::from(batch.priority == Priority::Normal);
                    self.push_back_to_front(batch);
                }
            }
        }
        for batch in low {
            self.low.push_front((self.normal_served + low_after, batch));
        }
    }

    /// What is queued, without what is set aside, and a queue that has only that.
    pub(super) fn without_set_aside(mut self) -> (PriorityQueue, PriorityQueue) {
        let others = PriorityQueue {
            set_aside: std::mem::take(&mut self.set_aside),
            is_last: self.is_last,
            // Batches that were popped before may come back, and are counted as not served then.
            normal_arrived: self.normal_served,
            normal_served: self.normal_served,
            ..PriorityQueue::default()
        };
        (self, others)
    }

    /// The next batch, whoever its sender is.
    pub(super) fn pop_any(&mut self) -> Option<Box<Batch>> {
        if let Some(batch) = self.high.pop_front() {
            return Some(batch);
        }
        let low_may_run = self.low.front().is_some_and(|(after, _)| self.normal_served >= *after);
        if low_may_run && (self.normal.is_empty() || self.normal_since_low >= NORMAL_PER_LOW) {
            self.normal_since_low = 0;
            return self.low.pop_front().map(|(_, batch)| batch);
        }
        let batch = self.normal.pop_front()?;
        self.normal_served += 1;
        self.normal_since_low += 1;
        Some(batch)
    }

    /// Puts back the batch that [`PriorityQueue::pop`] gave last: some of its requests are still to be run.
    pub(super) fn push_back_to_front(&mut self, batch: Box<Batch>) {
        match batch.priority {
            Priority::High => self.high.push_front(batch),
            Priority::Normal => {
                assert!(self.normal_served > 0, "a batch that comes back was popped before");
                self.normal_served -= 1;
                self.normal.push_front(batch);
            }
            // The normal ones that had to go before this one have gone.
            Priority::Low => self.low.push_front((0, batch)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.high.is_empty() && self.normal.is_empty() && self.low.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::responses::{REPLY_BYTES_WAITING_MAX, responses};

    fn batch(sender: &ResponseSender, number: usize, priority: Priority) -> Box<Batch> {
        let mut batch = Batch::new(sender.clone());
        (batch.destination, batch.priority) = (number, priority);
        batch
    }

    fn all(queue: &mut PriorityQueue) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop().map(|batch| batch.destination)).collect()
    }

    #[test]
    fn batches_of_a_sender_that_is_behind_wait_in_their_order_and_the_others_are_served() {
        let (slow, taken_late) = responses();
        let (quick, _taken) = responses();
        let mut replies = batch(&slow, 0, Priority::Normal);
        replies.replies = vec![0; REPLY_BYTES_WAITING_MAX];
        replies.send_back();
        let mut queue = PriorityQueue::default();
        queue.push(batch(&slow, 1, Priority::Normal));
        queue.push(batch(&quick, 2, Priority::Normal));
        queue.push(batch(&slow, 3, Priority::Low));
        queue.push(batch(&slow, 4, Priority::Normal));
        queue.push(batch(&quick, 5, Priority::Low));
        assert_eq!(all(&mut queue), [2, 5]);
        assert!(queue.is_empty() && queue.has_set_aside());
        queue.take_back();
        assert!(queue.is_empty(), "it is still behind");
        assert!(taken_late.try_next().is_some());
        // What comes now is behind what is set aside.
        queue.push(batch(&slow, 6, Priority::Normal));
        queue.push(batch(&quick, 7, Priority::Normal));
        assert_eq!(all(&mut queue), [7]);
        queue.take_back();
        assert!(!queue.has_set_aside());
        assert_eq!(all(&mut queue), [1, 4, 6, 3]);
    }

    /// What a busy script refuses is taken out, and the batch that the script is in comes back when it has ended.
    #[test]
    fn a_batch_that_comes_back_keeps_its_place_when_the_queue_was_emptied_meanwhile() {
        let (sender, _taken) = responses();
        let mut queue = PriorityQueue::default();
        queue.push(batch(&sender, 1, Priority::Normal));
        queue.push(batch(&sender, 2, Priority::Normal));
        let of_script = queue.pop().expect("two are queued");
        let (mut refused, mut queue) = queue.without_set_aside();
        assert_eq!(all(&mut refused), [2]);
        queue.push_back_to_front(of_script);
        queue.push(batch(&sender, 3, Priority::Low));
        queue.push(batch(&sender, 4, Priority::Normal));
        assert_eq!(all(&mut queue), [1, 4, 3]);
    }

    #[test]
    fn nothing_is_set_aside_at_the_end() {
        let (slow, _taken_late) = responses();
        let mut replies = batch(&slow, 0, Priority::Normal);
        replies.replies = vec![0; REPLY_BYTES_WAITING_MAX];
        replies.send_back();
        let mut queue = PriorityQueue::default();
        queue.push(batch(&slow, 1, Priority::Normal));
        assert!(all(&mut queue).is_empty());
        queue.set_nothing_aside();
        queue.push(batch(&slow, 2, Priority::Normal));
        queue.take_back();
        assert_eq!(all(&mut queue), [1, 2]);
    }
}
