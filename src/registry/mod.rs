//! What all threads share: the list of [`clients`], the [`inboxes`] of the network executors, who
//! [subscribes](subscribers) to what, and which clients are told of [keys that they have read](tracked_keys).

pub mod admin_threads;
pub mod clients;
pub mod inboxes;
pub mod listening;
pub mod metrics;
pub mod server_state;
pub mod subscribers;
pub mod totals;
pub mod tracked_keys;
