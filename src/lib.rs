//! Corelane: a persistent, Redis-compatible server for Linux, one thread per core.
//!
//! ```text
//!            clients
//!               │ RESP2 / RESP3 over TCP
//!   ┌───────────┴────────────┐
//!   │ network executor × N   │  one pinned glommio executor per network core: sockets, parsing, order of replies
//!   └─────┬────────────▲─────┘
//!  batches│            │the same batches, with responses    (flume channels, bounded by credits)
//!   ┌─────▼────────────┴─────┐       appended      ┌──────────────┐
//!   │ storage executor × M   │ ──────────────────► │ syncer × M   │  waits for the disk, so that no executor does
//!   │ owns shards and a log  │ ◄────────────────── │              │
//!   │                        │   durable up to     └──────────────┘
//!   │                        │   sealed segments   ┌────────────────┐
//!   │                        │ ──────────────────► │ checkpointer×M │  gives RocksDB what was logged, sorted
//!   │                        │ ◄────────────────── └────────────────┘
//!   │                        │     watermark       ┌──────────────┐
//!   │                        │ ──────────────────► │ reclaimer × M│  gives the space of large deleted collections back
//!   └────────────────────────┘ ◄────────────────── └──────────────┘
//!                                   reclaimed
//! ```
//!
//! A core may have both roles; then one executor runs both, with the same code and the same channels.
//! Not drawn: two threads per storage executor, of which one looks at the disk and the other gives large memory back,
//! and some that read what is not in memory; threads for handlers of transactions that must wait for other executors,
//! threads for administration, and RocksDB's own.
//!
//! - [`server`]: start and stop. [`engine`]: the same storage executors for a program that embeds them, without TCP.
//! - [`rows`]: the command table, each command with its handler; [`command`]: what a command is, without its handler.
//! - [`network`]: a client's bytes, from the socket to the channel and back; the coordinators of transactions over
//!   several storage executors; published messages, from the inbox of a network executor to its subscribers.
//! - [`executor`]: the storage executors, which own the shards: turns, waiting commands, their part in transactions.
//! - [`observe`]: what INFO says.
//! - [`registry`]: what threads share: clients, inboxes, subscribers, tracked keys, metrics, the server's state.
//! - [`commands`]: the handlers that run on data, by data type.
//! - [`scripts`]: Lua: interpreters, what scripts may do, and how they are suspended and ended.
//! - [`channel`]: the only way from one executor to another: batches, destinations with credits, the router from key to
//!   executor.
//! - [`storage`]: a shard's data: staging, the log, expiry, every byte on disk.
//! - [`protocol`]: bytes to commands, replies to bytes; no sockets, no storage.
//! - [`config`]: every setting once. [`preflight`]: what must be true before the server starts. [`topology`]: which
//!   executor goes on which core. [`panics`]: what becomes of a bug: the command, or the process, ends.
//!
//! A GET's way: [`network::network_executor`] reads its bytes, [`protocol::parser`] makes a command of them,
//! [`network::dispatch`] finds its row and the executor of its key, [`channel::destinations`] sends the batch; in its
//! [turn](executor) the storage executor takes the request, whose handler is in [`commands::strings`] and reads the key
//! through a [`storage::view`] from the table of [`storage::records`]; the batch goes back, and
//! [`network::connection`] puts the replies in order for the socket.
//!
//! Words that are ours:
//!
//! - *batch*: the requests of one turn of the reactor for one storage executor; the same allocation goes back to its
//!   sender with the responses.
//! - *destination*: a sender's end of the channel to one storage executor; its *credits* bound the requests that may be
//!   out.
//! - *turn*: one pass of a storage executor: run what has arrived, log what it wrote as one *frame*. Its number is the
//!   *epoch* of its writes.
//! - *watermark*: the newest segment of an executor's log that RocksDB has, with all before. What was last written
//!   there is *clean*: it may leave the memory.
//! - *miss*: a read for which memory does not have all. The command is undone and *set aside*, until others have
//!   fetched what it needs from the disk.
//! - *pending reply*: the reply of a command that was read and not answered, in its connection's order.
//! - *handed back*: said of a command that needs keys of other storage executors: it is undone and sent back, to run
//!   again as a transaction.
//! - *primary* of a transaction: the shard that has its redo record; *part*: what the transaction writes on one shard;
//!   *applied marker*: the record by which another shard knows that its part is committed.
//! - *pieces*: what a large reply is sent in, each made as the client takes it; the executor keeps the reply's
//!   *remainder*.

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
