//! Starting and stopping: what the server checks before it listens, and the rings that it makes.

mod lifecycle;
mod preflight;
mod ring;
