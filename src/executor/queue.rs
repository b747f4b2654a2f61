//! What has arrived at a storage executor and was not run yet, in the order of priorities.

use crate::channel::message::{Batch, Priority};
use std::collections::VecDeque;

/// Normal batches that are served before a waiting low one gets its turn: low ones cost about as much as that many.
pub(super) const NORMAL_PER_LOW: usize = 16;

/// What has arrived and was not run yet, by priority.
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

    pub(super) fn pop(&mut self) -> Option<Box<Batch>> {
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
                self.normal_served -= 1;
                self.normal.push_front(batch);
            }
            // Those that had to go before it have gone.
            Priority::Low => self.low.push_front((0, batch)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.high.is_empty() && self.normal.is_empty() && self.low.is_empty()
    }
}
