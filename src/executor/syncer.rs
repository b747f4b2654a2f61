//! The thread that waits for the disk, one per storage executor, so that the executor never does.
//!
//! Group commit without a timer: while one sync runs, the executor goes on committing turns; the next sync covers them
//! all. The epoch is read *before* the log is synced, so "durable up to" is never more than what the sync covered.

use crate::config::{Durability, SharedSettings};
use crate::faults::{self, Bug};
use crate::storage::database::{Database, DatabaseError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How far one shard's log has been written and synced.
pub struct LogProgress {
    database: Arc<Database>,
    committed_epoch: AtomicU64,
    durable_epoch: AtomicU64,
    /// Write batches that were committed, and how many of them are on disk.
    commits: AtomicU64,
    durable_commits: AtomicU64,
    failed: AtomicBool,
}

/// A shard whose sync ended.
#[derive(Debug)]
pub struct SyncReport {
    /// The shard's index on its executor.
    pub shard_index: usize,
    /// The log is on disk up to this epoch, or why not.
    pub result: Result<u64, DatabaseError>,
}

struct Shared {
    logs: Vec<LogProgress>,
    /// Set by the executor, taken by the thread; the mutex is only for the condition variable's sleep.
    wanted: AtomicBool,
    asleep: Mutex<bool>,
    wake: Condvar,
    stop: AtomicBool,
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
        databases: Vec<Arc<Database>>,
        settings: SharedSettings,
        reports: flume::Sender<SyncReport>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Syncer> {
        let log = |database| LogProgress {
            database,
            committed_epoch: AtomicU64::new(0),
            durable_epoch: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            durable_commits: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        let shared = Arc::new(Shared {
            logs: databases.into_iter().map(log).collect(),
            wanted: AtomicBool::new(false),
            asleep: Mutex::new(false),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
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

    /// All up to `epoch`, and so many write batches, is committed to the log of the shard at `shard_index`. The next
    /// sync covers it.
    pub fn committed(&self, shard_index: usize, epoch: u64, commits: u64) {
        let log = &self.shared.logs[shard_index];
        assert!(
            epoch >= log.durable_epoch.load(Ordering::Acquire),
            "what is on disk was committed before"
        );
        log.commits.store(commits, Ordering::Release);
        log.committed_epoch.store(epoch, Ordering::Release);
    }

    /// Asks for a sync of everything committed so far.
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

    /// The last epoch of the shard at `shard_index` that is on disk.
    pub fn durable_epoch(&self, shard_index: usize) -> u64 {
        self.shared.logs[shard_index].durable_epoch.load(Ordering::Acquire)
    }

    /// How many write batches of the shard at `shard_index` are on disk, of those that were committed since it was
    /// opened.
    pub fn durable_commits(&self, shard_index: usize) -> u64 {
        self.shared.logs[shard_index].durable_commits.load(Ordering::Acquire)
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
        let on_disk = |log: &LogProgress| {
            !log.failed.load(Ordering::Acquire)
                && log.durable_epoch.load(Ordering::Acquire) == log.committed_epoch.load(Ordering::Acquire)
        };
        joined && self.shared.logs.iter().all(on_disk)
    }
}

impl Shared {
    fn run(&self, settings: &SharedSettings, reports: &flume::Sender<SyncReport>) {
        let mut last_pass = Instant::now();
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
                self.sync_all(reports);
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

    fn sync_all(&self, reports: &flume::Sender<SyncReport>) {
        faults::may_panic(Bug::Sync);
        for (shard_index, log) in self.logs.iter().enumerate() {
            let epoch = log.committed_epoch.load(Ordering::Acquire);
            let commits = log.commits.load(Ordering::Acquire);
            let is_durable = epoch == log.durable_epoch.load(Ordering::Relaxed)
                && commits == log.durable_commits.load(Ordering::Relaxed);
            if is_durable || log.failed.load(Ordering::Relaxed) {
                continue;
            }
            let began = Instant::now();
            let result = match log.database.sync_log() {
                // The disk is full: tried again at the next pass.
                Ok(false) => continue,
                result => result.map(|_| epoch),
            };
            self.syncs.fetch_add(1, Ordering::Relaxed);
            self.sync_ns
                .fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
            match &result {
                Ok(epoch) => {
                    log.durable_commits.store(commits, Ordering::Release);
                    log.durable_epoch.store(*epoch, Ordering::Release);
                }
                Err(error) => {
                    tracing::error!(shard_index, %error, "a log could not be synced");
                    log.failed.store(true, Ordering::Release);
                }
            }
            // The executor drains this channel each time it runs; it is gone only when the server stops.
            let _ = reports.send(SyncReport { shard_index, result });
        }
    }
}
