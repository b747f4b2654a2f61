//! Collections in memory: [`residents`] are a shard's, each a [`cell_tree`] or two, of [`cell_node`]s and
//! [`cell_block`]s; [`cell_walk`] reads ranges of them, and [`undo`] takes changes back.

mod cell_block;
mod cell_node;
pub mod cell_tree;
pub mod cell_walk;
pub mod residents;
mod undo;
