//! The only way across: batches of requests from whoever has clients to the storage executors, and the same boxes back.
//!
//! [`message`] is what travels, [`destination`] sends it within its credits, [`responses`] is the way back, [`router`]
//! says where a key lives. [`step_answers`] are what storage executors say to the steps of a transaction.

pub mod destinations;
pub mod message;
pub mod responses;
pub mod router;
pub mod step_answers;
