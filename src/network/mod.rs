//! The network executors: each owns its connections, from the bytes that a client sends to the bytes that it gets.
//!
//! [`network_executor`] runs the tasks of one core, [`connection`] is one client's input, output and order of replies,
//! [`dispatch`] takes a command to where it runs, `replies` what comes back, `coordinator` those whose keys lie on
//! several storage executors, `key_walks` SCAN. [`session`] is what a client has set up, [`multi_state`] what it has
//! queued since MULTI, `multi` how EXEC gets to where it runs, `blocked_clients` is about those in commands that wait.
//! [`delivery`] is how published messages reach [subscribers](subscriptions) and monitors, [`tracking_pushes`] what
//! clients are told of keys that they have read. [`handlers`] are those of commands that run here, [`script_calls`]
//! runs those for scripts.

mod blocked_clients;
pub mod connection;
mod coordinator;
pub mod delivery;
pub mod dispatch;
pub mod handlers;
mod key_walks;
mod merging;
mod multi;
pub mod multi_state;
pub mod network_executor;
mod replies;
pub mod script_calls;
pub mod session;
mod socket;
pub mod subscriptions;
pub mod tracking_pushes;

pub(crate) use coordinator::THREADS_MAX as TRANSACTION_THREADS_MAX;
