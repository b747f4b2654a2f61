//! What the tests are made with: servers that start on a port and a directory of their own, a client that shows every
//! byte of a reply's meaning, and transcripts that run on Corelane and on a real redis-server alike.

pub(crate) mod client;
pub(crate) mod observe;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod redis;
pub(crate) mod server;
pub(crate) mod transcript;
pub(crate) mod value;
