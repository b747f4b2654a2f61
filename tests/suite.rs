//! The one test binary: a folder per layer of `src/`, with the names that the layer has there.

mod commands;
mod config;
mod differential;
mod engine;
mod harness;
mod isolation;
mod network;
mod protocol;
mod scripts;
mod server;
mod simulation;
mod storage;
mod tidy;
mod topology;
mod transactions;
