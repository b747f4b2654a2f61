//! The thread that gives memory back which takes long to give back, one per storage executor: a table of records that
//! FLUSHALL has replaced has millions of them, each with two allocations; and a large reply may be the last that keeps
//! what a collection was.

use crate::storage::pieces::Pieces;
use crate::storage::records::Records;
use std::thread::JoinHandle;

/// What is to be given back.
enum Disposed {
    Tables { _tables: Vec<Records> },
    Replies { _replies: Vec<Pieces> },
}

/// The executor's end.
pub struct Disposer {
    disposed: flume::Sender<Disposed>,
    thread: JoinHandle<()>,
}

impl Disposer {
    /// Starts the thread, named `name`, after `on_start` ran in it (it pins itself there).
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(name: String, on_start: impl FnOnce() + Send + 'static) -> std::io::Result<Disposer> {
        // As many as come: what bounds them is the memory that they take.
        let (disposed, to_drop) = flume::unbounded::<Disposed>();
        let thread = crate::panics::spawn(name, move || {
            on_start();
            to_drop.iter().for_each(drop);
        })?;
        Ok(Disposer { disposed, thread })
    }

    /// Drops tables there.
    pub fn dispose(&self, tables: Vec<Records>) {
        if !tables.is_empty() {
            self.send(Disposed::Tables { _tables: tables });
        }
    }

    /// Drops what replies had left, or have read.
    pub fn dispose_replies(&self, replies: Vec<Pieces>) {
        if !replies.is_empty() {
            self.send(Disposed::Replies { _replies: replies });
        }
    }

    fn send(&self, disposed: Disposed) {
        // The thread is there as long as its other end.
        let _ = self.disposed.send(disposed);
    }

    /// Ends the thread when it has dropped what it has, and waits for it.
    pub fn stop(self) {
        drop(self.disposed);
        // The thread cannot have panicked: that would have ended the process.
        let _ = self.thread.join();
    }
}
