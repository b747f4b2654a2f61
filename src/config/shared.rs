//! The settings as all threads see them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Settings;

/// One copy of the settings for all threads; cloning it gives another handle to the same copy.
///
/// An executor keeps an `Arc<Settings>` and the version that it belongs to, and compares [`version`](Self::version)
/// once per turn, so that reading a setting on a request's path costs nothing.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    version: AtomicU64,
    current: Mutex<Arc<Settings>>,
}

impl SharedSettings {
    /// Shares `settings` as version 1.
    pub fn new(settings: Settings) -> Self {
        let current = Mutex::new(Arc::new(settings));
        Self {
            shared: Arc::new(Shared {
                version: AtomicU64::new(1),
                current,
            }),
        }
    }

    /// The settings as they are now. Takes a lock: call it when [`version`](Self::version) has changed, after reading
    /// the version, so that an update between the two is seen again on the next turn and not missed.
    pub fn snapshot(&self) -> Arc<Settings> {
        Arc::clone(&self.lock())
    }

    /// A number that grows with every update: one atomic load.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// Runs `change` on a copy of the settings and, if it succeeds, shares the copy and raises the version before
    /// returning; after an error, or a panic in `change`, nothing has changed. Updates run one after another, and
    /// `change` must not call back in here.
    pub fn update<R, E>(&self, change: impl FnOnce(&mut Settings) -> Result<R, E>) -> Result<R, E> {
        let mut current = self.lock();
        let mut changed = Settings::clone(&current);
        let result = change(&mut changed)?;
        *current = Arc::new(changed);
        // Under the lock: a thread that sees the new version and then takes the lock finds the new settings.
        self.shared.version.fetch_add(1, Ordering::Release);
        Ok(result)
    }

    /// A thread that panicked in `update` left the old settings in place, so a poisoned lock holds good settings.
    fn lock(&self) -> MutexGuard<'_, Arc<Settings>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
