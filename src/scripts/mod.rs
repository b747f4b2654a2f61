//! Lua scripts: EVAL and what belongs to it.
//!
//! A script runs on a stack of its own ([`script::Script`]), so that it can be suspended anywhere: when it calls a
//! command, and when it has run for a while. Whoever drives it (`commands::script_runs`) runs its commands, gives
//! others their turn, and ends a script that was killed or has passed a limit. Each thread has interpreters of its own
//! ([`interpreter`]); the texts and what is known of running scripts are shared ([`registry`]).
//!
//! What every run of a script passes through is [`protected_run`], [`redis_call`] and [`convert`], which work on Lua's
//! stack; everything else goes through the `mlua` crate.

pub mod convert;
pub mod function_libraries;
pub mod header;
pub mod interpreter;
pub mod libraries;
pub mod library;
pub mod protected_run;
pub mod raise;
pub mod redis_call;
pub mod registry;
pub mod script;
