//! The thread that waits for the disk, one per storage executor, so that the executor never does.
//!
//! Group commit without a timer: while one sync runs, the executor goes on committing turns; the next sync covers them
//! all. The epoch is read *before* the log is synced, so "durable up to" is never more than what the sync covered.

use crate::config::{Durability, SharedSettings};
use crate::error::DatabaseError;
use crate::faults::{self, Bug};
use crate::storage::executor_log::LogProgress;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A sync that ended.
#[derive(Debug)]
pub struct SyncReport {
    /// Why nothing more can be made durable, if so; else the log is on disk up to [`Syncer::durable_epoch`].
    pub result: Result<(), DatabaseError>,
}

struct Shared {
    log: Arc<LogProgress>,
    /// Set by the executor, taken by the thread; the mutex is only for the condition variable's sleep.
    wanted: AtomicBool,
    asleep: Mutex<bool>,
    wake: Condvar,
    stop: AtomicBool,
    has_failed: AtomicBool,
    syncs: AtomicU64,
    sync_ns: AtomicU64,
}

/// The executor's end.
pub struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread, named `name`, after `on_start` ran in it (it pins itself there). Reports go to `reports`.
    pub fn start(
        name: String,
        log: Arc<LogProgress>,
        settings: SharedSettings,
        reports: flume::Sender<SyncReport>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Syncer> {
        let shared = Arc::new(Shared {
            log,
            wanted: AtomicBool::new(false),
            asleep: Mutex::new(false),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            sync_ns: AtomicU64::new(0),
        });
        let for_thread = Arc::clone(&shared);
        let thread = crate::panics::spawn(name, move || {
            on_start();
            for_thread.run(&settings, &reports);
        })?;
        Ok(Syncer {
            shared,
            thread: Some(thread),
        })
    }

    /// Asks for a sync of everything logged so far.
    pub fn sync_soon(&self) {
        if !self.shared.wanted.swap(true, Ordering::AcqRel) {
            // The lock orders this with the thread's check before it sleeps.
            let asleep = self
                .shared
                .asleep
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if *asleep {
                self.shared.wake.notify_one();
            }
        }
    }

    /// The last epoch that is on disk.
    pub fn durable_epoch(&self) -> u64 {
        self.shared.log.durable_epoch()
    }

    /// Syncs so far, and the nanoseconds they took.
    pub fn totals(&self) -> (u64, u64) {
        (
            self.shared.syncs.load(Ordering::Relaxed),
            self.shared.sync_ns.load(Ordering::Relaxed),
        )
    }

    /// Syncs what is left and ends the thread. Returns whether everything reached the disk.
    pub fn stop(mut self) -> bool {
        self.shared.stop.store(true, Ordering::Release);
        self.sync_soon();
        let joined = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        joined && self.shared.log.durable_epoch() >= self.shared.log.appended_epoch()
    }
}

impl Shared {
    fn run(&self, settings: &SharedSettings, reports: &flume::Sender<SyncReport>) {
        let mut last_pass = Instant::now();
        let mut told_epoch = 0;
        loop {
            // In this order: a wake that comes with `stop` is not taken without it.
            let wanted = self.wanted.swap(false, Ordering::AcqRel);
            let stopping = self.stop.load(Ordering::Acquire);
            let snapshot = settings.snapshot();
            let interval = Duration::from_millis(snapshot.sync_interval_ms);
            let due = match snapshot.durability {
                Durability::Always => wanted,
                Durability::Interval => last_pass.elapsed() >= interval,
                Durability::None => false,
            };
            if due || stopping {
                last_pass = Instant::now();
                self.sync(reports, &mut told_epoch);
            }
            if stopping {
                return;
            }
            let nap = match snapshot.durability {
                Durability::Always => interval,
                Durability::Interval => interval.saturating_sub(last_pass.elapsed()),
                // A change of the setting comes with a wake.
                Durability::None => Duration::from_secs(1),
            };
            self.sleep(nap);
        }
    }

    fn sleep(&self, nap: Duration) {
        let mut asleep = self.asleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.wanted.load(Ordering::Acquire) {
            return;
        }
        *asleep = true;
        let (mut asleep, _) = self
            .wake
            .wait_timeout(asleep, nap)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *asleep = false;
    }

    /// `told_epoch` is the durable epoch of the last report.
    fn sync(&self, reports: &flume::Sender<SyncReport>, told_epoch: &mut u64) {
        faults::may_panic(Bug::Sync);
        if self.has_failed.load(Ordering::Relaxed) {
            return;
        }
        let durable_epoch = self.log.durable_epoch();
        if durable_epoch >= self.log.appended_epoch() {
            // Where the checkpointer was faster, whoever waits must hear of it nevertheless.
            if std::mem::replace(told_epoch, durable_epoch) != durable_epoch {
                let _ = reports.send(SyncReport { result: Ok(()) });
            }
            return;
        }
        let began = Instant::now();
        let result = self.log.sync().map(|epoch| *told_epoch = epoch);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_ns
            .fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        if let Err(error) = &result {
            tracing::error!(%error, "a log could not be synced");
            self.has_failed.store(true, Ordering::Relaxed);
        }
        // The executor drains this channel each time it runs; it is gone only when the server stops.
        let _ = reports.send(SyncReport { result });
    }
}
