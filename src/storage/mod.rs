//! A shard's data: staging, commit, expiry, every byte on disk.
//!
//! What a turn's commands have staged on the executor's [`shards`] goes as one frame into the [`executor_log`], as
//! [`operations`]; RocksDB ([`database`]) gets it from there later. A [`shard`]'s table of [`records`] has what is
//! staged, what RocksDB lacks and what is hot; the [`overlay`] has what RocksDB lacks in order. [`range_cursor`] reads
//! a range little by little as it was ([`open_ranges`]). [`resident`] has the collections in memory, but for small
//! ones, which are [`packed`] into their records; [`encoding`] has every byte on disk, [`gaps`] where collections are
//! empty that are not in memory, [`pieces`] the remainders of large replies, [`scan_positions`] where walks have
//! stopped. [`lifecycle`] tracks keys that come and expire. [`redo`] records keep transactions over several executors
//! whole; [`gathered`] is what one sees. A handler sees a [`view`], and through it a [`keyspace`]: the one or the
//! other; [`undeclared`] is what a command needs beyond the keys that it named, [`missed_reads`] what it would have to
//! wait for the disk for.
//!
//! What becomes of a frame later: [`checkpointing`] expands segments of the [`log`] to [`cell_writes`], which RocksDB
//! gets as sorted files; [`recovery`] does so at a start with what was left.

pub mod cell_writes;
pub mod checkpointing;
pub mod compaction;
pub mod database;
pub mod dead_versions;
pub mod encoding;
pub mod executor_log;
pub mod expiry;
pub mod fields;
pub mod gaps;
pub mod gathered;
mod key_steps;
pub mod keyspace;
pub mod lifecycle;
pub mod log;
mod log_files;
pub mod look_ahead;
pub mod manifest;
pub mod missed_reads;
pub mod open_ranges;
pub mod operations;
pub mod overlay;
pub mod packed;
mod pieced_list;
pub mod pieces;
pub mod range_cursor;
mod record_entries;
pub mod records;
pub mod recovery;
#[cfg(all(test, feature = "fault-injection"))]
mod recovery_model;
pub mod redo;
pub mod resident;
mod sampling;
pub mod scan_positions;
#[cfg(test)]
pub(crate) mod seeded_random;
pub mod shard;
pub mod shards;
pub mod transaction_scope;
pub mod undeclared;
pub mod view;
