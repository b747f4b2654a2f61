//! The thread that feeds RocksDB, one per storage executor: it takes sealed segments of the log and does what
//! [`checkpointing`] says.
//!
//! What does not find room on the disk, or finds RocksDB behind with its compactions, is tried again, and the log grows
//! meanwhile. What fails otherwise ends it: the executor's shards stop, since their log would only grow.

use crate::faults::{self, Bug};
use crate::slots::ShardId;
use crate::storage::checkpointing::{self, Databases};
use crate::storage::database::{Database, DatabaseError};
use crate::storage::executor_log::{LogProgress, Window};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread waits before it tries again what found no room, or compactions behind.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Retries between two lines in the server's log about them.
const RETRIES_PER_LINE: u64 = 600;

/// A checkpoint that has ended.
#[derive(Debug)]
pub struct CheckpointReport {
    /// Why there will be no more checkpoints, if so; else the log's watermark has moved.
    pub result: Result<(), DatabaseError>,
}

/// What a checkpointer has done.
#[derive(Debug, Default)]
struct Totals {
    checkpoints: AtomicU64,
    checkpoint_ns: AtomicU64,
    log_bytes: AtomicU64,
    file_bytes: AtomicU64,
    retries: AtomicU64,
}

/// What a checkpointer has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckpointTotals {
    /// Checkpoints.
    pub checkpoints: u64,
    /// Nanoseconds that they took.
    pub checkpoint_ns: u64,
    /// Bytes of the log that they have taken in.
    pub log_bytes: u64,
    /// Bytes of the files that they have made of them.
    pub file_bytes: u64,
    /// How often one was tried again, for want of room on the disk or because compactions were behind.
    pub retries: u64,
}

/// The executor's end.
pub struct Checkpointer {
    progress: Arc<LogProgress>,
    totals: Arc<Totals>,
    thread: Option<JoinHandle<()>>,
}

struct Worker {
    progress: Arc<LogProgress>,
    databases: Databases,
    totals: Arc<Totals>,
    reports: flume::Sender<CheckpointReport>,
}

impl Checkpointer {
    /// Starts the thread, named `name`, after `on_start` ran in it (it pins itself there). `databases` are those of the
    /// shards whose log it is; reports go to `reports`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        name: String,
        progress: Arc<LogProgress>,
        databases: impl IntoIterator<Item = (ShardId, Arc<Database>)>,
        reports: flume::Sender<CheckpointReport>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Checkpointer> {
        let totals = Arc::<Totals>::default();
        let worker = Worker {
            progress: Arc::clone(&progress),
            databases: databases.into_iter().collect(),
            totals: Arc::clone(&totals),
            reports,
        };
        let thread = crate::panics::spawn(name, move || {
            on_start();
            worker.run();
        })?;
        Ok(Checkpointer {
            progress,
            totals,
            thread: Some(thread),
        })
    }

    /// What it has done so far.
    pub fn totals(&self) -> CheckpointTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CheckpointTotals {
            checkpoints: get(&self.totals.checkpoints),
            checkpoint_ns: get(&self.totals.checkpoint_ns),
            log_bytes: get(&self.totals.log_bytes),
            file_bytes: get(&self.totals.file_bytes),
            retries: get(&self.totals.retries),
        }
    }

    /// Ends the thread when it has ingested what is sealed; what finds no room is left to the next start. It has no
    /// database any more then.
    pub fn stop(mut self) {
        self.progress.stop();
        if let Some(thread) = self.thread.take() {
            // The thread cannot have panicked: that would have ended the process.
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn run(&self) {
        while let Some(window) = self.progress.wait_for_window() {
            let began = Instant::now();
            let result = self.checkpoint_until_done(&window);
            let Some(result) = result else { return };
            let took = began.elapsed();
            if let Ok(file_bytes) = result {
                let add = |counter: &AtomicU64, number| counter.fetch_add(number, Ordering::Relaxed);
                add(&self.totals.checkpoints, 1);
                add(&self.totals.checkpoint_ns, took.as_nanos() as u64);
                add(&self.totals.log_bytes, window.bytes());
                add(&self.totals.file_bytes, file_bytes);
                tracing::debug!(
                    watermark = window.last_segment(),
                    log_bytes = window.bytes(),
                    file_bytes,
                    ?took,
                    "checkpoint"
                );
            }
            let has_failed = result.is_err();
            let result = result.map(|_| ());
            // The executor drains this channel each time it runs; it is gone only when the server stops.
            let _ = self.reports.send(CheckpointReport { result });
            if has_failed {
                return;
            }
        }
    }

    /// Returns the bytes of the files; `None` if the thread is to end before there is room.
    fn checkpoint_until_done(&self, window: &Window) -> Option<Result<u64, DatabaseError>> {
        loop {
            faults::may_panic(Bug::Checkpoint);
            let waits_for = match self.checkpoint(window) {
                Ok(file_bytes) => return Some(Ok(file_bytes)),
                Err(error @ DatabaseError::Failed(_)) => {
                    tracing::error!(%error, "a checkpoint has failed: the log cannot become shorter any more");
                    return Some(Err(error));
                }
                Err(error) => error,
            };
            let retries = self.totals.retries.fetch_add(1, Ordering::Relaxed);
            if retries.is_multiple_of(RETRIES_PER_LINE) {
                tracing::warn!(error = %waits_for, "a checkpoint is tried again until it succeeds");
            }
            if !self.progress.pause(RETRY_PAUSE) {
                return None;
            }
        }
    }

    fn checkpoint(&self, window: &Window) -> Result<u64, DatabaseError> {
        if self.databases.values().any(|database| database.is_stalled()) {
            return Err(DatabaseError::Stalled);
        }
        let prepared = checkpointing::prepare(&self.progress, &self.databases, window)?;
        let file_bytes = prepared.file_bytes();
        checkpointing::finish(&self.progress, &self.databases, prepared)?;
        Ok(file_bytes)
    }
}
