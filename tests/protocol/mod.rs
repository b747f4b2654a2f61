//! The protocol layer: requests out of bytes, replies into bytes.

mod reply;
mod request;
