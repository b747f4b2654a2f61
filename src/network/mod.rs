//! The network executors: each owns its connections, from the bytes that a client sends to the bytes that it gets.
//!
//! [`executor`] runs the tasks of one core, [`connection`] is one client's input, output and order of replies, [`dispatch`]
//! takes a command to where it runs and its parts' replies back together, [`session`] is what a client has set up, and
//! [`clients`] the list of all of them.

pub mod clients;
pub mod connection;
pub mod dispatch;
pub mod executor;
pub mod session;
mod socket;
mod waiting;
