//! An event that happens again and again on one executor, and that tasks of the executor wait for.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct LocalSignal {
    count: Cell<u64>,
    /// The tasks that wait, each with its rank.
    waiters: RefCell<Vec<(u64, Waker)>>,
    last_rank: Cell<u64>,
}

impl LocalSignal {
    /// The event happens: wakes all tasks that wait, in the order of their ranks.
    #[inline]
    pub(super) fn notify(&self) {
        self.count.set(self.count.get() + 1);
        let mut waiters = self.waiters.borrow_mut();
        waiters.sort_unstable_by_key(|(rank, _)| *rank);
        waiters.drain(..).for_each(|(_, waker)| waker.wake());
    }

    /// A rank behind all that were taken.
    pub(super) fn take_rank(&self) -> u64 {
        self.last_rank.set(self.last_rank.get() + 1);
        self.last_rank.get()
    }

    /// Waits until the event has happened more than `seen` times; returns how often it has.
    pub(super) async fn happened_since(&self, seen: u64, rank: u64) -> u64 {
        poll_fn(|context| {
            if self.count.get() > seen {
                return Poll::Ready(self.count.get());
            }
            self.waiters.borrow_mut().push((rank, context.waker().clone()));
            Poll::Pending
        })
        .await
    }

    /// Waits until the event happens the next time.
    pub(super) async fn next(&self, rank: u64) {
        self.happened_since(self.count.get(), rank).await;
    }
}
