//! What a transaction over several executors is to the data: its number, the keys that it names, and whether it may
//! write.

use std::sync::atomic::{AtomicU64, Ordering};

/// A transaction's number: greater than those of all that began before.
pub type TransactionId = u64;

/// The next transaction's number. Those of an earlier run of the server are lower, unless the clock was set back; what
/// they left behind is cleared away before new ones begin.
pub fn next_transaction_id() -> TransactionId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let _ = LAST.compare_exchange(0, crate::clock::unix_us(), Ordering::Relaxed, Ordering::Relaxed);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A database, as SELECT numbers it, and a key.
pub type DatabaseKey = (u8, Vec<u8>);

/// What a transaction needs of an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// These keys.
    Keys(Vec<DatabaseKey>),
    /// All keys, those included that are not there yet.
    Everything,
}

/// Whether other transactions may read meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The transaction only reads.
    Shared,
    /// The transaction may write.
    Exclusive,
}

impl Mode {
    /// Whether one of the two modes shuts the other out.
    pub fn excludes(self, other: Mode) -> bool {
        self == Mode::Exclusive || other == Mode::Exclusive
    }
}
