//! The thread that feeds RocksDB, one per storage executor: it takes sealed segments of the log and does what
//! [`checkpointing`] says.
//!
//! What does not find room on the disk, or finds RocksDB behind with its compactions, is tried again, and the log grows
//! meanwhile. What fails otherwise ends it: the executor's shards stop, since their log would only grow.

use crate::faults::{self, Bug};
use crate::registry::metrics::StorageMetrics;
use crate::slots::ShardId;
use crate::storage::checkpointing::{self, Databases, Prepared};
use crate::storage::database::{Database, DatabaseError};
use crate::storage::executor_log::{LogProgress, Window};
use crate::topology::lower_priority;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread waits before it looks again whether compactions have caught up; and the first time, before it
/// tries again what found no room.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The longest it waits for room: each try writes as much as there is room for. Room is seldom made in an instant.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// What the thread's name begins with, before the executor's number.
pub const NAME: &str = "checkpointer";

/// How often the server's log says that a checkpoint is tried again.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// A checkpoint that has ended.
#[derive(Debug)]
pub struct CheckpointReport {
    /// Why there will be no more checkpoints, if so; else the log's watermark has moved.
    pub result: Result<(), DatabaseError>,
}

/// The executor's end.
pub struct Checkpointer {
    progress: Arc<LogProgress>,
    thread: Option<JoinHandle<()>>,
}

struct Worker {
    progress: Arc<LogProgress>,
    databases: Databases,
    /// The figures of checkpoints among these are counted by this thread alone.
    metrics: Arc<StorageMetrics>,
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
        (progress, metrics): (Arc<LogProgress>, Arc<StorageMetrics>),
        databases: impl IntoIterator<Item = (ShardId, Arc<Database>)>,
        reports: flume::Sender<CheckpointReport>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Checkpointer> {
        let worker = Worker {
            progress: Arc::clone(&progress),
            databases: databases.into_iter().collect(),
            metrics,
            reports,
        };
        let thread = crate::panics::spawn(name, move || {
            on_start();
            worker.run();
        })?;
        Ok(Checkpointer {
            progress,
            thread: Some(thread),
        })
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
            let Some(result) = self.checkpoint_until_done(window) else {
                return;
            };
            let took = began.elapsed();
            if let Ok((window, file_bytes)) = &result {
                let file_bytes = *file_bytes;
                let figures = &self.metrics.log;
                figures.checkpoints.add(1);
                figures.checkpoint_ns.add(took.as_nanos() as u64);
                figures.checkpointed_bytes.add(window.bytes());
                figures.file_bytes.add(file_bytes);
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

    /// Returns the window, which may have become a wider one, and the bytes of the files; `None` if the thread is to
    /// end before there is room.
    fn checkpoint_until_done(&self, taken: Window) -> Option<Result<(Window, u64), DatabaseError>> {
        // What a try has done is kept for the next one: a disk that is nearly full has no room for it twice.
        let (mut window, mut prepared) = (taken, None);
        let mut is_fresh = true;
        let mut pause = RETRY_PAUSE;
        let mut told_at: Option<Instant> = None;
        loop {
            faults::may_panic(Bug::Checkpoint);
            let waits_for = match self.checkpoint(&window, &mut prepared, is_fresh) {
                Ok(file_bytes) => return Some(Ok((window, file_bytes))),
                Err(error @ DatabaseError::Failed(_)) => {
                    tracing::error!(%error, "a checkpoint has failed: the log cannot become shorter any more");
                    return Some(Err(error));
                }
                Err(error) => error,
            };
            self.metrics.log.checkpoint_retries.add(1);
            if told_at.is_none_or(|told_at| told_at.elapsed() >= LINE_INTERVAL) {
                told_at = Some(Instant::now());
                tracing::warn!(error = %waits_for, "a checkpoint is tried again until it succeeds");
            }
            if !self.progress.pause(pause) {
                return None;
            }
            if !matches!(waits_for, DatabaseError::DiskFull(_)) {
                pause = RETRY_PAUSE;
                continue;
            }
            pause = (2 * pause).min(RETRY_PAUSE_MAX);
            let wider = self.progress.wider(&taken);
            let next = wider.unwrap_or(taken);
            if next.last_segment() != window.last_segment() {
                // What was ingested of the other one does no harm: all that it has comes again, now or later.
                (window, prepared, is_fresh) = (next, None, false);
            }
        }
    }

    fn checkpoint(
        &self,
        window: &Window,
        prepared: &mut Option<Prepared>,
        is_fresh: bool,
    ) -> Result<u64, DatabaseError> {
        if self.databases.values().any(|database| database.is_stalled()) {
            return Err(DatabaseError::Stalled);
        }
        let prepared = match prepared {
            Some(prepared) => prepared,
            None => prepared.insert(self.prepare(window, is_fresh)?),
        };
        checkpointing::finish(&self.progress, &self.databases, prepared)?;
        Ok(prepared.file_bytes())
    }

    /// Prepares a window, on a thread of low priority if the log has much room left, so that clients are hardly slowed.
    /// It holds none of RocksDB's locks, for which executors would wait as long as it does.
    fn prepare(&self, window: &Window, is_fresh: bool) -> Result<Prepared, DatabaseError> {
        self.progress.sync()?;
        let prepare = || {
            let (progress, databases, window) = (Arc::clone(&self.progress), self.databases.clone(), *window);
            move || checkpointing::prepare(&progress, &databases, &window, is_fresh)
        };
        let in_background = prepare();
        let started = (!self.progress.is_half_full()).then(|| {
            let name = std::thread::current().name().map(|own| own.replace(NAME, "preparer"));
            crate::panics::spawn(name.unwrap_or_default(), move || {
                if let Err(error) = lower_priority() {
                    tracing::debug!(%error, "checkpoints have the priority of everything else");
                }
                in_background()
            })
        });
        match started {
            // The thread cannot have panicked: that would have ended the process.
            Some(Ok(thread)) => thread.join().expect("a thread that panics ends the process"),
            // Without a thread it takes more of others' time.
            Some(Err(_)) | None => prepare()(),
        }
    }
}
