//! The thread that writes large batches, one per storage executor, so that the executor reads and answers meanwhile.
//!
//! Where one executor has a core for sockets and shards and another core has time, half of a write's cost (RocksDB's
//! log and memtable) moves there. A shard has one write batch here at a time; what is staged meanwhile rides its next
//! one, so the write batches grow with the load and nothing waits for a timer. A small one is not worth the two wakes
//! and is written by the executor.

use crate::faults::{self, Bug};
use crate::storage::database::{BatchWriter, Database, DatabaseError, Writes};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// A shard's write batch.
struct Job {
    shard_index: usize,
    database: Arc<Database>,
    writes: Writes,
}

#[derive(Default)]
struct State {
    /// At most one per shard.
    jobs: VecDeque<Job>,
    /// By shard index: what became of the jobs, until the executor asks; at most one per shard too.
    done: Vec<(usize, Result<(), DatabaseError>)>,
    stop: bool,
}

/// The executor's end, which its shards share.
pub struct Committer {
    state: Mutex<State>,
    has_work: Condvar,
    has_done: Condvar,
    /// Tells the executor that something is done; one message is enough for all of it.
    wake: flume::Sender<()>,
}

impl Committer {
    /// Starts the thread, named `name`, after `on_start` ran in it (it pins itself there). It ends after
    /// [`Committer::stop`]; whenever a batch is done, `wake` gets a message if it has room.
    pub fn start(
        name: String,
        wake: flume::Sender<()>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<(Arc<Committer>, JoinHandle<()>)> {
        let committer = Arc::new(Committer {
            state: Mutex::default(),
            has_work: Condvar::new(),
            has_done: Condvar::new(),
            wake,
        });
        let for_thread = Arc::clone(&committer);
        let thread = crate::panics::spawn(name, move || {
            on_start();
            for_thread.run();
        })?;
        Ok((committer, thread))
    }

    /// The shard index of some write batch that is done, if there is one, and what became of it.
    pub fn take_done(&self) -> Option<(usize, Result<(), DatabaseError>)> {
        self.lock().done.pop()
    }

    /// Tells the thread to end when it has written what it has.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.has_work.notify_one();
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let Some(job) = state.jobs.pop_front() else {
                if state.stop {
                    return;
                }
                state = self
                    .has_work
                    .wait(state)
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            };
            drop(state);
            faults::may_panic(Bug::Commit);
            let written = job.database.write(job.writes);
            state = self.lock();
            state.done.push((job.shard_index, written));
            self.has_done.notify_one();
            // Full: the executor has not looked yet, and will find this one too.
            let _ = self.wake.try_send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl BatchWriter for Committer {
    fn submit(&self, shard_index: usize, database: Arc<Database>, writes: Writes) {
        let mut state = self.lock();
        assert!(
            state.jobs.iter().all(|job| job.shard_index != shard_index)
                && state.done.iter().all(|(done, _)| *done != shard_index),
            "a shard has one batch here at a time"
        );
        state.jobs.push_back(Job {
            shard_index,
            database,
            writes,
        });
        drop(state);
        self.has_work.notify_one();
    }

    fn wait_for(&self, shard_index: usize) -> Result<(), DatabaseError> {
        let mut state = self.lock();
        loop {
            if let Some(index) = state.done.iter().position(|(done, _)| *done == shard_index) {
                return state.done.swap_remove(index).1;
            }
            state = self
                .has_done
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}
