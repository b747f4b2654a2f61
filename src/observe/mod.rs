//! What an operator sees: counters and histograms that each executor keeps for itself and that are merged when read.

pub mod allocator;
pub mod info;
pub mod memory;
