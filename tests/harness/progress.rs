//! How far the clients of a test have come: what it waits for before it kills, stops or switches something under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::process::{SERVER_SECONDS_MAX, wait_for};

/// What clients have done, all together: replies they got, for example. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// A client has done something.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until clients have done so many things more than when this was called. Panics when they do not within
    /// [`SERVER_SECONDS_MAX`].
    pub(crate) fn wait_for(&self, more: u64) {
        let done = || self.0.load(Ordering::Relaxed);
        let goal = done() + more;
        assert!(
            wait_for(|| done() >= goal),
            "the clients have done {} of {goal} things within {SERVER_SECONDS_MAX} s",
            done()
        );
    }
}
