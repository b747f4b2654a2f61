//! Threads for commands that must wait for a disk: SAVE, BGSAVE, CONFIG REWRITE, CONFIG SET of addresses.
//!
//! A few threads for the whole server, which exist only while there is something to do: clients that ask for such
//! commands again and again wait in a queue, and get no thread each.

use crate::error::CommandError;
use crate::panics::{self, Panicked};
use crate::topology::{self, CpuId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Threads at a time: they wait for the same disk, so more would not be faster. One may wait long (SAVE), the others go
/// on.
const THREADS_MAX: usize = 4;

/// Commands that wait for a thread: far more than administrators send, and some kilobytes each at most.
const WAITING_MAX: usize = 256;

/// Work to be done, which answers its client by itself.
type Job = Box<dyn FnOnce() + Send>;

/// See the module's documentation.
pub struct AdminThreads {
    /// The CPUs that the threads run on.
    cpus: Vec<CpuId>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    threads: usize,
    waiting: VecDeque<Job>,
}

impl AdminThreads {
    /// No threads yet; they will run on `cpus`.
    pub fn new(cpus: Vec<CpuId>) -> Arc<AdminThreads> {
        Arc::new(AdminThreads {
            cpus,
            state: Mutex::default(),
        })
    }

    /// Has `job` done on one of the threads. A panic in `job` ends nothing else.
    ///
    /// # Errors
    /// Too many jobs wait already, or there can be no thread: `job` is not done.
    pub fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> Result<(), CommandError> {
        let mut state = self.lock();
        if state.waiting.len() >= WAITING_MAX {
            return Err(CommandError::text(
                "ERR too many commands wait for the disk; try again later",
            ));
        }
        if state.threads < THREADS_MAX {
            let threads = Arc::clone(self);
            match panics::spawn("admin", move || threads.work()) {
                Ok(_) => state.threads += 1,
                // The threads that there are will do the job.
                Err(_) if state.threads > 0 => {}
                Err(error) => {
                    tracing::error!(%error, "a thread for administration cannot be started");
                    return Err(CommandError::Internal);
                }
            }
        }
        state.waiting.push_back(Box::new(job));
        Ok(())
    }

    /// Does the jobs that wait, until none does.
    fn work(&self) {
        if let Err(error) = topology::pin_current_thread(&self.cpus) {
            tracing::warn!(%error, "a thread for administration could not be pinned");
        }
        while let Some(job) = self.next() {
            if let Err(Panicked) = panics::contain(job) {
                tracing::error!("a command that waits for the disk panicked");
            }
        }
    }

    /// The job that has waited longest; a thread that gets none ends.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        assert!(state.threads > 0, "a thread that asks for a job is counted");
        let job = state.waiting.pop_front();
        state.threads -= usize::from(job.is_none());
        job
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_threads_than_a_few_and_the_line_is_bounded() {
        let threads = AdminThreads::new(Vec::new());
        let (go, gate) = flume::bounded::<()>(1);
        let (started, begun) = flume::unbounded();
        let (done, ended) = flume::unbounded();
        let ask = || {
            let (gate, started, done) = (gate.clone(), started.clone(), done.clone());
            threads.run(move || {
                let _ = started.send(());
                let _ = gate.recv();
                let _ = done.send(());
            })
        };
        for _ in 0..THREADS_MAX {
            assert_eq!(ask(), Ok(()));
        }
        (0..THREADS_MAX).for_each(|_| begun.recv().expect("each has a thread"));
        for _ in 0..WAITING_MAX {
            assert_eq!(ask(), Ok(()));
        }
        assert!(ask().is_err());
        assert_eq!(threads.lock().threads, THREADS_MAX);
        assert!(begun.is_empty(), "the others wait");
        drop(go);
        (0..THREADS_MAX + WAITING_MAX).for_each(|_| ended.recv().expect("all are done"));
        // One that panics ends alone.
        assert_eq!(threads.run(|| panic!("on purpose")), Ok(()));
        assert_eq!(ask(), Ok(()));
        ended.recv().expect("the one behind it is done");
    }
}
