//! What a command needs beyond the keys that it named: a script builds the name of a key, SORT follows a pattern, a
//! script calls KEYS.
//!
//! Such a command begins where its named keys are. When it gets to a key that it may not use there, everything it did
//! is undone, and it runs again as a transaction that has locked what it needs. After Thomson and others, "Calvin: Fast
//! Distributed Transactions for Partitioned Database Systems" (SIGMOD 2012): its optimistic lock location prediction.

use super::transaction_scope::DatabaseKey;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undeclared {
    /// These keys, of these databases.
    Keys(Vec<DatabaseKey>),
    /// All keys, those included that are not there.
    Everything,
}
