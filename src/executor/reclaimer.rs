//! The thread that gives the space of large deleted collections back, one per storage executor.
//!
//! DEL of a collection, an overwrite or its expiry writes one record of `meta` and leaves the members behind, dead;
//! compactions drop what they meet of them, but RocksDB does not know that there is anything to compact. So the same
//! batch that makes a large version dead puts a marker of it into `system`, and this thread deletes the files that hold
//! nothing else and compacts what is left of the range. Then the executor deletes the marker. The markers are the
//! queue: it needs no memory, and a crash loses nothing of it.
//!
//! **A file is deleted only when the record of `meta` is durable**, whatever `durability` says: a machine that fails
//! must not bring back a collection whose members are gone. It is, since RocksDB shows a marker only when it has,
//! durably, the whole segment of the log that has the marker and the record.

use crate::faults::{self, Bug};
use crate::storage::database::{Column, Database, DatabaseError};
use crate::storage::encoding;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Markers that are read at a time, and their bytes: a marker has its key, which may be long.
const MARKERS_MAX: usize = 256;
const MARKER_BYTES_MAX: usize = 1 << 20;

/// How long the thread waits after a version could not be reclaimed, because the disk is full or a compaction failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause after a reclaim; see [`Shared::pause_for`].
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The executor's end.
pub struct Reclaimer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Of the executor's shards, in their order.
    databases: Vec<Arc<Database>>,
    /// Markers that were found and not worked off, by shard index.
    pending: Vec<AtomicU64>,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    /// By shard index: whether there may be markers.
    wanted: Vec<bool>,
    /// Shard indexes and markers of versions that are reclaimed, until the executor takes them: it looks every few
    /// milliseconds, and no version is reclaimed faster than that.
    done: Vec<(usize, Vec<u8>)>,
    stop: bool,
}

impl Reclaimer {
    /// Starts the thread, named `name`, after `on_start` ran in it (it pins itself there). It begins with what an
    /// earlier run of the server has left.
    pub fn start(
        name: String,
        databases: Vec<Arc<Database>>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Reclaimer> {
        let shared = Arc::new(Shared {
            pending: databases.iter().map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(State {
                wanted: vec![true; databases.len()],
                done: Vec::new(),
                stop: false,
            }),
            databases,
            wake: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = crate::panics::spawn(name, move || {
            on_start();
            for_thread.run();
        })?;
        Ok(Reclaimer {
            shared,
            thread: Some(thread),
        })
    }

    /// RocksDB has got a marker on the shard at `shard_index`.
    pub fn look_for_markers(&self, shard_index: usize) {
        // At least one marker; how many there are the thread finds out.
        self.shared.pending[shard_index].fetch_max(1, Ordering::Relaxed);
        self.shared.lock().wanted[shard_index] = true;
        self.shared.wake.notify_one();
    }

    /// The shard indexes and markers of versions that were reclaimed since the last call.
    pub fn take_done(&self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.shared.lock().done)
    }

    /// A marker could not be deleted now, and is to be taken again.
    pub fn keep_done(&self, shard_index: usize, marker: Vec<u8>) {
        self.shared.lock().done.push((shard_index, marker));
    }

    /// Dead versions on the shard at `shard_index` that the thread knows of and has not reclaimed.
    pub fn pending(&self, shard_index: usize) -> u64 {
        self.shared.pending[shard_index].load(Ordering::Relaxed)
    }

    /// Tells the thread to begin nothing more. [`Database::stop_background_work`] ends what it is at.
    pub fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
    }

    /// Waits for the end of the thread, after [`Reclaimer::stop`].
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            // The thread cannot have panicked: that would have ended the process.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut pause = None;
        while let Some(shard_indexes) = self.wait(pause.take()) {
            for shard_index in shard_indexes {
                if !self.reclaim_all(shard_index) {
                    self.lock().wanted[shard_index] = true;
                    pause = Some(RETRY_PAUSE);
                }
            }
        }
    }

    /// Waits for `pause` if there is one, and then until there may be markers; `None` to stop.
    fn wait(&self, pause: Option<Duration>) -> Option<Vec<usize>> {
        if let Some(pause) = pause {
            self.pause_for(pause);
        }
        let mut state = self.lock();
        while !state.stop && !state.wanted.contains(&true) {
            state = self.wake.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        let wanted = std::mem::take(&mut state.wanted);
        state.wanted = vec![false; wanted.len()];
        let shard_indexes = (0..wanted.len()).filter(|shard_index| wanted[*shard_index]).collect();
        (!state.stop).then_some(shard_indexes)
    }

    /// Reclaims the dead versions with a marker on the shard at `shard_index`; returns whether all of that succeeded.
    fn reclaim_all(&self, shard_index: usize) -> bool {
        let (mut from, to) = encoding::dead_version_range();
        let mut failed = 0;
        loop {
            let markers = match self.markers(shard_index, (&from, &to)) {
                Ok((markers, count)) => {
                    self.pending[shard_index].store(failed + count, Ordering::Relaxed);
                    markers
                }
                Err(error) => {
                    tracing::warn!(shard_index, %error, "the markers of dead versions cannot be read");
                    return false;
                }
            };
            let Some(last) = markers.last() else { break };
            from.clone_from(last);
            from.push(0);
            for marker in markers {
                if self.lock().stop {
                    return true;
                }
                let reclaimed = self.reclaim_one(shard_index, marker);
                failed += u64::from(!reclaimed);
            }
        }
        failed == 0
    }

    /// The first markers of a range, and the number of all of them.
    fn markers(&self, shard_index: usize, (from, to): (&[u8], &[u8])) -> Result<(Vec<Vec<u8>>, u64), DatabaseError> {
        let (mut markers, mut bytes, mut count) = (Vec::new(), 0, 0);
        self.databases[shard_index].scan(Column::System, from, to, |marker, _| {
            count += 1;
            if markers.is_empty() || (markers.len() < MARKERS_MAX && bytes + marker.len() <= MARKER_BYTES_MAX) {
                bytes += marker.len();
                markers.push(marker.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        Ok((markers, count))
    }

    fn reclaim_one(&self, shard_index: usize, marker: Vec<u8>) -> bool {
        faults::may_panic(Bug::Reclaim);
        let began = Instant::now();
        let reclaimed = reclaim_marked(&self.databases[shard_index], &marker);
        let took = began.elapsed();
        if let Err(error) = &reclaimed {
            tracing::warn!(shard_index, %error, "the space of a deleted collection cannot be reclaimed yet");
        }
        let reclaimed = reclaimed.unwrap_or(false);
        if reclaimed {
            tracing::debug!(shard_index, ?took, "the space of a deleted collection was reclaimed");
            self.pending[shard_index].fetch_sub(1, Ordering::Relaxed);
            self.lock().done.push((shard_index, marker));
        }
        self.pause_for(took.min(PAUSE_MAX));
        reclaimed
    }

    /// Leaves the disk to others, after a reclaim for as long as it took: at least half of the background threads' time
    /// is left to checkpoints and to the compactions that they wait for.
    fn pause_for(&self, pause: Duration) {
        let stops = |state: &mut State| !state.stop;
        // Where the state is poisoned, it is whole nevertheless, and the wait is over.
        let _ = self.wake.wait_timeout_while(self.lock(), pause, stops);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Gives the space of a dead version back; returns whether nothing of it is left.
fn reclaim_marked(database: &Database, marker: &[u8]) -> Result<bool, DatabaseError> {
    let Some(prefix) = encoding::prefix_of_dead_version(marker) else {
        return Err(DatabaseError::Failed("a marker is damaged".to_owned()));
    };
    let columns = [Column::Data, Column::Score];
    let mut left = Vec::new();
    for column in columns {
        if !database.has_none(column, prefix)? {
            left.push(column);
        }
    }
    let mut all = true;
    for column in left {
        all &= database.reclaim(column, prefix)?;
    }
    Ok(all)
}
