//! Collections in memory: [`residents`] are a shard's, each a [`cell_tree`] or two.

pub mod cell_block;
pub mod cell_tree;
pub mod residents;
