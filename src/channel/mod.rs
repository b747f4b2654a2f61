//! The only way from one executor to another: batches of requests to the storage executors, and the same batches back
//! with the responses.
//!
//! [`message`] is what travels, [`destinations`] sends it within its credits, [`responses`] is the way back, [`router`]
//! says where a key lives. [`step_arguments`] and [`step_answers`] are what coordinators and storage executors say to
//! each other in the steps of a transaction.

pub mod destinations;
pub mod message;
pub mod responses;
pub mod router;
pub mod step_answers;
pub mod step_arguments;
