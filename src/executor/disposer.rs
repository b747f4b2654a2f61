//! The thread that gives memory back which takes long to give back, one per storage executor: a table of records that
//! FLUSHALL has replaced has millions of them, each with two allocations.

use crate::storage::records::Records;
use std::thread::JoinHandle;

/// The executor's end.
pub struct Disposer {
    tables: flume::Sender<Vec<Records>>,
    thread: JoinHandle<()>,
}

impl Disposer {
    /// Starts the thread, named `name`, after `on_start` ran in it (it pins itself there).
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(name: String, on_start: impl FnOnce() + Send + 'static) -> std::io::Result<Disposer> {
        // As many as are replaced: what bounds them is the memory that they take.
        let (tables, to_drop) = flume::unbounded::<Vec<Records>>();
        let thread = crate::panics::spawn(name, move || {
            on_start();
            to_drop.iter().for_each(drop);
        })?;
        Ok(Disposer { tables, thread })
    }

    /// Drops tables there.
    pub fn dispose(&self, tables: Vec<Records>) {
        if !tables.is_empty() {
            // The thread is there as long as its other end.
            let _ = self.tables.send(tables);
        }
    }

    /// Ends the thread when it has dropped what it has, and waits for it.
    pub fn stop(self) {
        drop(self.tables);
        // The thread cannot have panicked: that would have ended the process.
        let _ = self.thread.join();
    }
}
