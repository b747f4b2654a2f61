//! The thread that looks at the disk, one per storage executor: how much of it is free, and the figures of the shards
//! that RocksDB has behind its locks. A system call of a slow disk, or a lock that a flush holds, must not hold the
//! executor. When RocksDB has come to rest after checkpoints and compactions, what the allocators keep of them is given
//! back: 36 to 84 bytes for each item of a first checkpoint.

use crate::faults;
use crate::observe::allocator;
use crate::preflight;
use crate::registry::metrics::ShardMetrics;
use crate::storage::database::Database;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it looks.
pub const INTERVAL: Duration = Duration::from_millis(1000);

/// After so many looks at which nothing has changed since the one before, RocksDB has come to rest.
const LOOKS_AT_REST: u64 = 3;

/// What the thread looks after: a shard.
pub struct Watched {
    /// Its RocksDB.
    pub database: Arc<Database>,
    /// Where its figures go.
    pub metrics: Arc<ShardMetrics>,
}

/// The executor's end.
pub struct DiskWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// By shard index: whether there is too little room left for the shard's disk; `None` if that could not be read.
    are_full: Option<Vec<Option<bool>>>,
    stop: bool,
}

impl DiskWatch {
    /// Starts the thread, named `name`, after `on_start` ran in it (it pins itself there). It looks at once.
    pub fn start(
        name: String,
        watched: Vec<Watched>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<DiskWatch> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            on_start();
            for_thread.run(&watched);
        })?;
        Ok(DiskWatch {
            shared,
            thread: Some(thread),
        })
    }

    /// What the newest look has shown, once: by shard index, whether there is too little room left.
    pub fn take_new(&self) -> Option<Vec<Option<bool>>> {
        self.shared.lock().are_full.take()
    }

    /// Ends the thread and waits for it: it has no database any more then.
    pub fn stop(mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed, and concerns figures alone.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn run(&self, watched: &[Watched]) {
        let (mut file_bytes, mut rests) = (0, LOOKS_AT_REST);
        loop {
            let are_full = watched.iter().map(Watched::look).collect();
            let before = file_bytes;
            file_bytes = watched.iter().map(|shard| shard.metrics.file_bytes.get()).sum();
            let is_at_rest = file_bytes == before && watched.iter().all(Watched::is_at_rest);
            rests = if is_at_rest { rests + 1 } else { 0 };
            if rests == LOOKS_AT_REST {
                allocator::give_back();
            }
            let mut state = self.lock();
            state.are_full = Some(are_full);
            let (state, _) = self
                .wake
                .wait_timeout_while(state, INTERVAL, |state| !state.stop)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if state.stop {
                return;
            }
        }
    }
}

impl Watched {
    /// Whether no compaction runs.
    fn is_at_rest(&self) -> bool {
        self.database.property(c"rocksdb.num-running-compactions") == 0
    }

    fn look(&self) -> Option<bool> {
        let Watched { database, metrics } = self;
        metrics
            .file_bytes
            .set(database.property_sum(c"rocksdb.total-sst-files-size"));
        metrics
            .pending_compaction_bytes
            .set(database.property_sum(c"rocksdb.estimate-pending-compaction-bytes"));
        match preflight::free_bytes(database.path()).map(|free| faults::free_bytes(database.path(), free)) {
            Ok(free) => Some(free < preflight::FREE_BYTES_MIN),
            Err(error) => {
                tracing::warn!(path = %database.path().display(), %error, "cannot read the disk's free space");
                None
            }
        }
    }
}
