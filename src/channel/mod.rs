//! The only way across: batches of requests from whoever has clients to the storage executors, and the same boxes back.
//!
//! [`message`] is what travels, [`link`] sends it within its credits, [`router`] says where a key lives.

pub mod link;
pub mod message;
pub mod router;
