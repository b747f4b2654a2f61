//! The storage executors: each is the sole owner of its shards.
//!
//! The common way of a request: [`turn`] takes its batch from the [`queue`], [`request`] runs its handler on a
//! [`shard`](crate::storage::shard), and [`turn`] logs what was written and
//! sends the batch back, at once or when [`release`] lets it go, because the [`syncer`] says how far the disk has
//! followed. [`storage_executor`] is what all of that belongs to, and its start and end.
//!
//! - Commands for which memory does not have all: [`missed_requests`]; the [`disk_readers`] wait for the disk in their
//!   place.
//! - Commands on large collections, which come in steps: [`stepped_requests`].
//! - Scripts that take long: [`open_turn`].
//! - Commands that wait for a key: [`blocked_commands`], and the lines of [`waiters`].
//! - Transactions over several executors: [`participant`] does their steps, the [`locks`] say which goes first,
//!   [`parked_requests`] wait for them, [`decided_parts`] are theirs until they are logged, and [`handed_back`] are
//!   commands that become such transactions because they need more than their keys here.
//! - Who is told of written keys: [`key_interests`], with [`watches`] and [`key_readers`]; the [`outbox`] keeps what is
//!   to be published until its writes are logged.
//! - Every few milliseconds: [`housekeeping`]. The [`checkpointer`] gives RocksDB what was logged, the [`reclaimer`]
//!   gives the space of large deleted collections back, the [`disposer`] large memory, and the [`disk_watch`] looks how
//!   much room there is on the disk.

mod blocked_commands;
pub mod checkpointer;
mod decided_parts;
pub mod disk_readers;
pub mod disk_watch;
pub mod disposer;
pub mod handed_back;
mod housekeeping;
mod key_interests;
pub mod key_readers;
pub mod locks;
mod missed_requests;
mod open_turn;
pub mod outbox;
mod parked_requests;
pub mod participant;
mod queue;
pub mod reclaimer;
mod release;
mod request;
mod stepped_requests;
pub mod storage_executor;
pub mod syncer;
mod turn;
pub mod waiters;
pub mod watches;
