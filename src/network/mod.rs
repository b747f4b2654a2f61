//! The network executors: each owns its connections, from the bytes that a client sends to the bytes that it gets.
//!
//! A command's way: [`network_executor`] reads it and takes its reply back, [`dispatch`] finds out where it runs, and
//! [`connection`] keeps the order of a client's replies, and its output. `local_commands` run right here,
//! `partial_replies` takes in replies that come in pieces and parts, `key_walks` is SCAN. `coordinator` runs commands
//! whose keys lie on several storage executors, each as a transaction with the phases of `coordination`; the files
//! `transaction_…` have how one begins, its steps, its threads and its end, `redo_deletion` what is left to clear away.
//! [`session`] is what a client has set up, [`multi_state`] what it has queued since MULTI, `multi` how EXEC gets to
//! where it runs, `blocked_clients` is about clients in commands that wait. [`accepting`] is how connections come,
//! `periodic_checks` when they must go. [`delivery`] is how published messages reach [subscribers](subscriptions) and
//! monitors, [`tracking_pushes`] what clients are told of keys that they have read. [`handlers`] are those of commands
//! that run here, [`script_calls`] runs those for scripts.

pub mod accepting;
mod blocked_clients;
mod busy_polling;
pub mod connection;
mod coordination;
mod coordinator;
pub mod delivery;
pub mod dispatch;
pub mod handlers;
mod key_walks;
mod local_commands;
mod local_signal;
mod merging;
mod multi;
pub mod multi_state;
pub mod network_executor;
mod partial_replies;
mod periodic_checks;
mod redo_deletion;
pub mod script_calls;
pub mod session;
mod socket;
pub mod subscriptions;
pub mod tracking_pushes;
mod transaction_begin;
mod transaction_end;
mod transaction_steps;
mod transaction_threads;

pub(crate) use transaction_threads::THREADS_MAX as TRANSACTION_THREADS_MAX;
