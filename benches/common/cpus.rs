//! Which CPUs a bench puts executors on.

use corelane::topology::{CpuId, Topology};

/// The first CPUs that this process may use, at most `count`: of different cores as far as there are enough.
pub(crate) fn first_cpus(count: usize) -> Vec<CpuId> {
    let cores = Topology::read_live()
        .expect("this process may use a CPU")
        .usable_cores();
    let firsts = cores.iter().map(|core| core.cpus[0]);
    let siblings = cores.iter().flat_map(|core| core.cpus.iter().skip(1).copied());
    firsts.chain(siblings).take(count).collect()
}
