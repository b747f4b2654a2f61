//! Scripts: Lua code that clients send, and what it finds there beside the language itself.

pub mod libraries;
