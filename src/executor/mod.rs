//! The storage executors: each is the sole owner of its shards.
//!
//! [`storage_executor`] takes batches from the channel, runs each request's handler on its
//! [`shard`](crate::storage::shard), commits once per turn (large batches by way of the [`committer`]) and sends the
//! batches back; the [`syncer`] tells it how far the disk has followed. [`blocked_commands`] are those that wait for a
//! key, [`waiters`] the lines they stand in; [`participant`] is this thread's part in transactions over several
//! executors, in which the [`locks`] say who goes first;
//! [`handed_back`] are commands that become such transactions because they need more than their keys here. [`watches`]
//! knows who watches which key, [`key_readers`] who
//! has read it, and the [`outbox`] keeps what is to be published until the commit. The [`reclaimer`] gives the space of
//! large deleted collections back, and the [`disk_watch`] looks how much there is.

mod blocked_commands;
pub mod committer;
mod decided_parts;
pub mod disk_watch;
pub mod handed_back;
mod housekeeping;
mod key_interests;
pub mod key_readers;
pub mod locks;
mod open_turn;
pub mod outbox;
mod parked_requests;
pub mod participant;
mod queue;
pub mod reclaimer;
mod release;
mod request;
pub mod storage_executor;
pub mod syncer;
mod turn;
pub mod waiters;
pub mod watches;
