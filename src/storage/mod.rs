//! The storage executors: each is the sole owner of its shards.
//!
//! [`executor`] takes batches from the channel, runs each request's handler on its [`shard`], commits once per turn through
//! [`database`] (large batches by way of the [`committer`]) and sends the boxes home; [`syncer`] tells it how far the disk has followed. [`records`] is a shard's table
//! of hot and staged records, [`encoding`] every byte on disk, [`pieces`] the rest of large replies,
//! [`waiters`] the commands that wait for a key. [`faults`] are for tests.

pub mod committer;
pub mod compaction;
pub mod database;
pub mod encoding;
pub mod executor;
pub mod expiry;
pub mod faults;
pub mod manifest;
pub mod pieces;
pub mod records;
pub mod shard;
pub mod syncer;
pub mod view;
pub mod waiters;
