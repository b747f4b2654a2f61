//! The handlers of commands that run on the network executor: about the connection, the server, channels, scripts, and
//! whatever else is not in a shard.

pub mod client_commands;
pub mod client_tracking;
pub mod connection_commands;
pub mod help_commands;
pub mod memory_commands;
pub mod multi_commands;
pub mod persistence;
pub mod pubsub;
pub mod script_commands;
pub mod server_commands;
pub mod wait_commands;
