//! The network executors: each owns its connections, from the bytes that a client sends to the bytes that it gets.
//!
//! [`executor`] runs the tasks of one core, [`connection`] is one client's input, output and order of replies, [`dispatch`]
//! takes a command to where it runs, `coordination` those whose keys lie on several storage executors. [`session`] is what a
//! client has set up, [`transaction`] what it has queued since MULTI, `multi` how EXEC gets to where it runs, and [`clients`]
//! the list of all of them. [`pubsub`] is who subscribes to what, [`inbox`] what is under way to subscribers, [`delivery`] how
//! it reaches them, [`monitor`] what clients that monitor are shown, and [`tracking`] what clients are told of keys that they
//! have read.

pub mod clients;
pub mod connection;
mod coordination;
pub mod delivery;
pub mod dispatch;
pub mod executor;
pub mod inbox;
mod merging;
pub mod monitor;
mod multi;
pub mod pubsub;
pub mod session;
mod socket;
pub mod tracking;
pub mod transaction;

pub(crate) use coordination::THREADS_MAX as TRANSACTION_THREADS_MAX;
