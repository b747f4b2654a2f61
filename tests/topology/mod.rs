//! The core map: from fixtures written here, from recorded machines, from flags and files, and from damaged trees.

mod affinity;
mod auto;
mod command;
mod damaged;
mod fixture;
mod overrides;
mod recorded;
