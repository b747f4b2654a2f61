//! The network executors: each owns its connections, from the bytes that a client sends to the bytes that it gets.
//!
//! [`executor`] runs the tasks of one core, [`connection`] is one client's input, output and order of replies, [`dispatch`]
//! takes a command to where it runs, `coordination` those whose keys lie on several storage executors. [`session`] is what a
//! client has set up, [`transaction`] what it has queued since MULTI, `multi` how EXEC gets to where it runs, and [`clients`]
//! the list of all of them.

pub mod clients;
pub mod connection;
mod coordination;
pub mod dispatch;
pub mod executor;
mod merging;
mod multi;
pub mod session;
mod socket;
pub mod transaction;
