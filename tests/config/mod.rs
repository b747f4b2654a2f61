//! The settings: the list, the values, the file, the flags, CONFIG GET/SET/REWRITE and what the threads share.

mod file;
mod flags;
mod list;
mod live;
mod rewrite;
mod shared;
mod values;
