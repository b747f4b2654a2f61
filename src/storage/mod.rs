//! A shard's data: staging, commit, expiry, every byte on disk.
//!
//! A [`shard`] commits once per turn through [`database`]. [`records`] is its table of hot and staged records, of which
//! [`uncommitted`] keeps what waits for a commit, [`resident`] has the collections in memory; [`encoding`] has every
//! byte on disk, [`gaps`] where sorted sets are empty that are not in memory, [`pieces`] the remainders of large
//! replies, [`scan_positions`] where walks have stopped. [`lifecycle`] tracks keys that come and expire. [`redo`]
//! records keep transactions over several shards whole; [`gathered`] is what one sees. [`shards`] are those of an executor. A handler sees a [`view`],
//! and through it a [`keyspace`]: the one or the other; [`undeclared`] is what a command needs beyond the keys that it
//! named.

pub mod compaction;
pub mod database;
pub mod dead_versions;
pub mod encoding;
pub mod expiry;
pub mod fields;
pub mod gaps;
pub mod gathered;
pub mod keyspace;
pub mod lifecycle;
mod linked_commits;
pub mod log_check;
pub mod manifest;
pub mod pieces;
pub mod records;
pub mod redo;
pub mod resident;
mod sampling;
pub mod scan_positions;
#[cfg(test)]
pub(crate) mod seeded_random;
pub mod shard;
pub mod shards;
pub mod transaction_scope;
pub mod uncommitted;
pub mod undeclared;
pub mod view;
