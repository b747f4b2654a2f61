//! The threads that read from the disk what commands have missed in memory, a few per storage executor, on background
//! cores: as many reads are under way as there are threads, and the executor waits for none.

use crate::faults;
use crate::storage::database::Database;
use crate::storage::missed_reads::MissedRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A read, and the index of its shard among the executor's.
pub type ShardRead = (usize, MissedRead);

/// The executor's end.
pub struct DiskReaders {
    /// Reads that nobody has begun; `None` at the end. Unbounded: each is for a request that was taken up, of which the
    /// senders' credits bound the number.
    orders: Option<flume::Sender<ShardRead>>,
    threads: Vec<JoinHandle<()>>,
    fetched: Arc<AtomicU64>,
}

struct Worker {
    /// Of the executor's shards, in their order.
    databases: Arc<[Arc<Database>]>,
    orders: flume::Receiver<ShardRead>,
    reports: flume::Sender<ShardRead>,
    fetched: Arc<AtomicU64>,
}

impl DiskReaders {
    /// Starts `count` threads, each named `name` and a number, after `on_start` ran in it (it pins itself there). Each
    /// read that is over, whatever came of it, is told to `reports`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        name: &str,
        count: usize,
        databases: Vec<Arc<Database>>,
        reports: &flume::Sender<ShardRead>,
        on_start: impl FnOnce() + Clone + Send + 'static,
    ) -> std::io::Result<DiskReaders> {
        assert!(count > 0, "somebody must read");
        let (sender, orders) = flume::unbounded();
        let databases: Arc<[Arc<Database>]> = databases.into();
        let fetched = Arc::<AtomicU64>::default();
        let start = |number| {
            let worker = Worker {
                databases: Arc::clone(&databases),
                orders: orders.clone(),
                reports: reports.clone(),
                fetched: Arc::clone(&fetched),
            };
            let on_start = on_start.clone();
            crate::panics::spawn(format!("{name}-{number}"), move || {
                on_start();
                worker.run();
            })
        };
        let threads = (0..count).map(start).collect::<std::io::Result<Vec<_>>>()?;
        Ok(DiskReaders {
            orders: Some(sender),
            threads,
            fetched,
        })
    }

    /// Asks for a read.
    pub fn fetch(&self, read: ShardRead) {
        let orders = self.orders.as_ref().expect("nothing is asked for at the end");
        // The threads take orders until their sender is gone.
        let _ = orders.send(read);
    }

    /// How many reads are over.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Ends the threads when they have done what was asked for. They have no database any more then.
    pub fn stop(mut self) {
        self.orders = None;
        for thread in self.threads.drain(..) {
            // The thread cannot have panicked: that would have ended the process.
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn run(&self) {
        while let Ok((shard_index, read)) = self.orders.recv() {
            faults::hold_fetch();
            if let Err(error) = read.fetch(&self.databases[shard_index]) {
                tracing::warn!(shard_index, %error, "the disk cannot be read");
            }
            self.fetched.fetch_add(1, Ordering::Relaxed);
            // The executor has the receiver until it has stopped the threads.
            let _ = self.reports.send((shard_index, read));
        }
    }
}
