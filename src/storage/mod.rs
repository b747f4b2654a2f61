//! The storage executors: each is the sole owner of its shards.
//!
//! [`executor`] takes batches from the channel, runs each request's handler on its [`shard`], commits once per turn through
//! [`database`] (large batches by way of the [`committer`]) and sends the boxes home; [`syncer`] tells it how far the disk has followed. [`records`] is a shard's table
//! of hot and staged records, of which [`uncommitted`] keeps what waits for a commit; [`encoding`] has every byte on disk, [`orders`] the
//! orders of hot sorted sets and [`gaps`] where large ones are empty, [`pieces`] the rest of large replies. [`watches`] knows who watches
//! which key, [`waiters`] which commands wait for it, [`tracking`] who has read it, [`lifecycle`] takes note of keys that come and expire, and the [`outbox`] keeps what
//! is to be published until the commit. The [`reclaimer`] gives the space of large deleted collections back, with the filter of [`compaction`]s. In
//! transactions over several executors the [`locks`] say who goes first and the [`redo`] records keep them whole; [`gathered`] is
//! what one sees. [`faults`] are for tests.

pub mod committer;
pub mod compaction;
pub mod database;
pub mod encoding;
pub mod executor;
pub mod expiry;
pub mod faults;
pub mod fields;
pub mod gaps;
pub mod gathered;
pub mod lifecycle;
pub mod locks;
pub mod manifest;
pub mod orders;
pub mod outbox;
pub mod pieces;
#[cfg(test)]
mod random;
pub mod reclaimer;
pub mod records;
pub mod redo;
pub mod shard;
pub mod syncer;
pub mod tracking;
pub mod transactions;
pub mod uncommitted;
pub mod view;
pub mod waiters;
pub mod watches;
