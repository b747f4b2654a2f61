//! Corelane: a persistent, Redis-compatible server for Linux, one thread per core.
//!
//! ```text
//!            clients
//!               │ RESP2 / RESP3 over TCP
//!   ┌───────────┴────────────┐
//!   │ network executor × N   │  one pinned glommio executor per network core: sockets, parsing, order of replies
//!   └─────┬────────────▲─────┘
//!  batches│            │the same boxes, filled          (flume channels, bounded by credits)
//!   ┌─────▼────────────┴─────┐        epochs       ┌──────────────┐
//!   │ storage executor × M   │ ──────────────────► │ syncer × M   │  waits for the disk, so that nobody else does
//!   │ owns shards: RocksDB   │ ◄────────────────── │              │
//!   │                        │   durable up to     └──────────────┘
//!   │                        │    large batches    ┌──────────────┐
//!   │                        │ ──────────────────► │ committer × M│  writes them, where it has a core that the executor
//!   │                        │ ◄────────────────── └──────────────┘  has not
//!   │                        │       written       ┌──────────────┐
//!   │                        │ ──────────────────► │ reclaimer × M│  gives the space of large deleted collections back
//!   └────────────────────────┘ ◄────────────────── └──────────────┘
//!                                    reclaimed
//! ```
//!
//! A core may have both roles; then one executor runs both, with the same code and the same channels.
//!
//! - [`network`]: a client's bytes, from the socket to the channel and back; and what is published, from any thread to
//!   the inboxes of the network executors that have subscribers.
//! - [`protocol`]: bytes to commands, replies to bytes; no sockets, no storage.
//! - [`channel`]: the only way across: messages, destinations with credits, the router from key to executor.
//! - [`executor`]: the storage executors, which own the shards: turns, waiting commands, their part in transactions.
//! - [`observe`]: what INFO says.
//! - [`registry`]: what threads share: clients, inboxes, subscribers, tracked keys, metrics, the server's state.
//! - [`rows`]: the command table, each command with its handler; [`command`]: what a command is, without its handler.
//! - [`commands`]: the handlers that run on data, by data type.
//! - [`scripts`]: Lua: interpreters, what scripts may do, and how they are suspended and ended.
//! - [`storage`]: a shard's data: staging, commit, expiry, every byte on disk.
//! - [`topology`]: which executor goes on which core.
//! - [`panics`]: what becomes of a bug: the command, or the process, ends.
//! - [`config`]: every setting once. [`preflight`]: what must be true before the server starts. [`server`]: start and
//!   stop.
//! - [`engine`]: the same storage executors for a program that embeds them, without TCP.
//!
//! A GET's way: [`network::network_executor`] reads and parses, [`network::dispatch`] finds its row in
//! [`command`] and its executor in [`channel::router`], [`channel::destinations`] sends the turn's batch,
//! [`executor::storage_executor`] runs [`commands::strings`]'s handler on a [`storage::shard`], and the box goes back
//! the same way.
//!
//! Words that are ours:
//!
//! - *batch*: the requests of one turn of the reactor for one storage executor; the same allocation (*box*) goes back
//!   *home*, to its sender, with the responses.
//! - *destination*: a sender's end of the channel to one storage executor; its *credits* are the requests that may be out.
//! - *turn*: one pass of a storage executor: run what has arrived, commit once; its number is the writes' *epoch*.
//! - *linked commit*: what a turn wrote to several shards of an executor, committed as one with a redo record.
//! - *home* of a transaction: the shard that has its redo record. *Parts*: what it writes on each shard.
//! - *slot*: a hash slot, as in Redis Cluster; in [`network::connection`], a command whose reply is still to come.
//! - *place*: an index: of an argument, of a shard in its executor's list; with a database, a key's position.
//! - *pieces*: the rest of a large reply, made as the client takes it.
//! - *handed back*: a command that needs keys of other executors, undone, to run again as a transaction.

pub mod channel;
mod clock;
pub mod command;
pub mod commands;
pub mod config;
pub mod engine;
pub mod error;
pub mod executor;
pub mod faults;
pub mod glob;
pub mod network;
mod number;
pub mod observe;
pub mod panics;
pub mod preflight;
pub mod protocol;
pub mod registry;
pub mod ring;
pub mod rows;
pub mod scripts;
pub mod server;
pub mod slots;
pub mod storage;
pub mod topology;

pub use engine::Engine;
