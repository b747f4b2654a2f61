//! The thread that gives the space of large deleted collections back, one per storage executor.
//!
//! DEL of a collection, an overwrite or its expiry writes one record of `meta` and leaves the members behind, dead;
//! compactions drop what they meet of them, but RocksDB does not know that there is anything to compact. So the same
//! batch that makes a large version dead notes it in `system`, and this thread deletes the files that hold nothing else
//! and compacts what is left of the range. Then the executor deletes the note. The notes are the queue: it needs no
//! memory, and a crash loses nothing of it.
//!
//! **A file is deleted only when the log with the record of `meta` is on disk**, whatever `durability` says: a machine
//! that fails must not bring back a collection whose members are gone. Therefore the thread syncs the log between
//! reading a note, which is in the same batch as the record, and deleting anything; the filter of compactions has the
//! same rule.

use crate::faults::{self, Bug};
use crate::storage::database::{Column, Database, DatabaseError};
use crate::storage::encoding;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Notes that are read at a time, and their bytes: keys may be long.
const NOTES_MAX: usize = 256;
const NOTE_BYTES_MAX: usize = 1 << 20;

/// How long the thread waits after a version could not be reclaimed, because the disk is full or a compaction failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The longest rest after a reclaim; see [`Shared::rest`].
const REST_MAX: Duration = Duration::from_secs(60);

/// The executor's end.
pub struct Reclaimer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Of the executor's shards, in their order.
    databases: Vec<Arc<Database>>,
    /// Notes that were found and not worked off, by place.
    pending: Vec<AtomicU64>,
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    /// By place: whether there may be notes.
    wanted: Vec<bool>,
    /// Notes of versions that are reclaimed, with their places, until the executor takes them: it looks every few
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

    /// A note was committed on the shard at `place`.
    pub fn noted(&self, place: usize) {
        // One at least; how many there are the thread finds out.
        self.shared.pending[place].fetch_max(1, Ordering::Relaxed);
        self.shared.lock().wanted[place] = true;
        self.shared.wake.notify_one();
    }

    /// The notes of versions that were reclaimed since the last call, with the places of their shards.
    pub fn take_done(&self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.shared.lock().done)
    }

    /// A note could not be deleted now, and is to be taken again.
    pub fn keep_done(&self, place: usize, note: Vec<u8>) {
        self.shared.lock().done.push((place, note));
    }

    /// Dead versions on the shard at `place` that the thread knows of and has not reclaimed.
    pub fn pending(&self, place: usize) -> u64 {
        self.shared.pending[place].load(Ordering::Relaxed)
    }

    /// Tells the thread to begin nothing more. [`Database::stop_background_work`] ends what it is at.
    pub fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
    }

    /// Waits for the end of the thread, after [`Reclaimer::stop`].
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: that would have ended the process.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut pause = None;
        while let Some(places) = self.wait(pause.take()) {
            for place in places {
                if !self.reclaim_all(place) {
                    self.lock().wanted[place] = true;
                    pause = Some(RETRY_PAUSE);
                }
            }
        }
    }

    /// Waits for `pause` if there is one, and then until there may be notes; `None` to stop.
    fn wait(&self, pause: Option<Duration>) -> Option<Vec<usize>> {
        if let Some(pause) = pause {
            self.rest(pause);
        }
        let mut state = self.lock();
        while !state.stop && !state.wanted.contains(&true) {
            state = self.wake.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        let wanted = std::mem::take(&mut state.wanted);
        state.wanted = vec![false; wanted.len()];
        let places = (0..wanted.len()).filter(|place| wanted[*place]).collect();
        (!state.stop).then_some(places)
    }

    /// Reclaims what is noted on the shard at `place`; returns whether all of that succeeded. The logs with the members
    /// are as large as they; a log goes when all columns are flushed that it has something of, which the small ones
    /// seldom are.
    fn reclaim_all(&self, place: usize) -> bool {
        let (mut from, to) = encoding::dead_version_range();
        let (mut failed, mut any) = (0, false);
        loop {
            let notes = match self.notes(place, (&from, &to)) {
                Ok((notes, count)) => {
                    self.pending[place].store(failed + count, Ordering::Relaxed);
                    notes
                }
                Err(error) => {
                    tracing::warn!(place, %error, "the notes of dead versions cannot be read");
                    return false;
                }
            };
            let Some(last) = notes.last() else { break };
            from.clone_from(last);
            from.push(0);
            for note in notes {
                if self.lock().stop {
                    return true;
                }
                let reclaimed = self.reclaim_one(place, note);
                failed += u64::from(!reclaimed);
                any |= reclaimed;
            }
        }
        // At a shutdown it is refused.
        if any
            && let Err(error) = self.databases[place].flush()
            && !self.lock().stop
        {
            tracing::warn!(place, %error, "logs stay that only hold what is in files");
        }
        failed == 0
    }

    /// The first notes of a range, and the number of all.
    fn notes(&self, place: usize, (from, to): (&[u8], &[u8])) -> Result<(Vec<Vec<u8>>, u64), DatabaseError> {
        let (mut notes, mut bytes, mut count) = (Vec::new(), 0, 0);
        self.databases[place].scan(Column::System, from, to, |note, _| {
            count += 1;
            if notes.is_empty() || (notes.len() < NOTES_MAX && bytes + note.len() <= NOTE_BYTES_MAX) {
                bytes += note.len();
                notes.push(note.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        Ok((notes, count))
    }

    fn reclaim_one(&self, place: usize, note: Vec<u8>) -> bool {
        faults::may_panic(Bug::Reclaim);
        let began = Instant::now();
        let reclaimed = reclaim_noted(&self.databases[place], &note);
        let took = began.elapsed();
        if let Err(error) = &reclaimed {
            tracing::warn!(place, %error, "the space of a deleted collection cannot be reclaimed yet");
        }
        let reclaimed = reclaimed.unwrap_or(false);
        if reclaimed {
            tracing::debug!(place, ?took, "the space of a deleted collection was reclaimed");
            self.pending[place].fetch_sub(1, Ordering::Relaxed);
            self.lock().done.push((place, note));
        }
        self.rest(took.min(REST_MAX));
        reclaimed
    }

    /// Leaves the disk to others, after a reclaim for as long as it took: at least half of the background threads' time
    /// is left to flushes and to the compactions that writes wait for.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.stop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.wake.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Gives the space of a dead version back; returns whether nothing of it is left.
fn reclaim_noted(database: &Database, note: &[u8]) -> Result<bool, DatabaseError> {
    let Some(prefix) = encoding::prefix_of_dead_version(note) else {
        return Err(DatabaseError::Failed("a note is damaged".to_owned()));
    };
    let columns = [Column::Data, Column::Score];
    let mut left = Vec::new();
    for column in columns {
        if !database.has_none(column, prefix)? {
            left.push(column);
        }
    }
    // The note was read before this, so what is synced includes the record that made the version dead.
    if !left.is_empty() && !database.sync_log()? {
        return Ok(false);
    }
    let mut all = true;
    for column in left {
        all &= database.reclaim(column, prefix)?;
    }
    Ok(all)
}
