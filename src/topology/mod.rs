//! The machine's CPUs, and which role gets which of them.
//!
//! ```text
//! sysfs.rs     ROOT/sys, ROOT/proc  ->  Topology: CPUs, cores, nodes, and what the process may use
//! core_map.rs  Topology + overrides ->  CoreMap: the network, storage and background CPUs, and why
//! overrides.rs flags, TOML file     ->  CoreMapOverrides
//! describe.rs  Topology + CoreMap   ->  what `corelane cores` prints
//! affinity.rs  the system calls that pin threads and their memory
//! cpu_set.rs   CPU numbers, node numbers, and Linux's notations for sets of them
//! ```
//!
//! glommio's own placement reads /sys but neither the affinity mask nor the cgroup's cpuset, so the map is computed
//! here and glommio only pins each executor to the CPU that it names.

mod affinity;
mod core_map;
mod cpu_set;
mod describe;
mod overrides;
mod sysfs;
mod usable_memory;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use affinity::{
    ThreadId, affinity_of, allowed_cpus, lower_priority, pin_current_thread, prefer_memory_of_node, set_affinity_of,
    thread_affinities,
};
pub use core_map::{CoreMap, ExecutorPlacement, RoleReasons};
pub use cpu_set::{CPU_COUNT_MAX, CpuId, CpuSet, NODE_COUNT_MAX, NodeId};
pub use describe::{cores_command, describe, describe_json};
pub use overrides::{CoreMapOverrides, Role};
pub use usable_memory::usable_memory_bytes;

/// Why no topology or core map could be made; each is one sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The root holds no CPU at all.
    #[error(
        "{} lists no CPU, neither in a file named online nor as a folder named cpuN: \
         the root must be the folder that holds a machine's sys folder",
        folder.display()
    )]
    NoCpus {
        /// Where CPUs were looked for.
        folder: PathBuf,
    },
    /// CPUs are online, but the process may use none of them.
    #[error("no CPU that this process may use is online (allowed: {}; online: {})", allowed.named(), online.named())]
    NoneUsable {
        /// What the affinity mask or cpuset allows.
        allowed: CpuSet,
        /// What is online.
        online: CpuSet,
    },
    /// The affinity mask could not be read.
    #[error("cannot ask the kernel which CPUs this process may use (sched_getaffinity): {0}")]
    Affinity(#[source] io::Error),
    /// A core map's file could not be read.
    #[error("cannot read the core map {}: {source}", path.display())]
    CoreMapFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A flag or a line of a core map is wrong.
    #[error("{origin}: {why}")]
    CoreMap {
        /// The flag with its value, or the file with line and key.
        origin: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Whether a core is one of the fast or of the slow ones; on a machine with equal cores all are `Fast`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CoreKind {
    /// A performance core, or any core of a machine whose cores are equal.
    Fast,
    /// An efficiency (or LITTLE) core.
    Slow,
}

/// An online logical CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// Its number.
    pub id: CpuId,
    /// The physical core that it belongs to, named by that core's lowest online CPU. The kernel's `core_id` is not used
    /// as a name: two cores of one package may share it (AMD packages with two nodes, for one).
    pub core: CpuId,
    /// The socket, where it is recorded.
    pub package: Option<u32>,
    /// The NUMA node, where it is recorded.
    pub node: Option<NodeId>,
    /// Fast or slow.
    pub kind: CoreKind,
    /// Whether this process may use it.
    pub usable: bool,
}

/// A NUMA node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its online CPUs.
    pub cpus: CpuSet,
    /// Whether the cpuset lets this process have memory of this node.
    pub memory_allowed: bool,
}

/// A physical core with at least one usable CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Core {
    /// Its usable CPUs, ascending, never empty. An executor takes the first; the others are its SMT siblings.
    pub cpus: Vec<CpuId>,
    /// The node of its first CPU.
    pub node: Option<NodeId>,
    /// Fast or slow.
    pub kind: CoreKind,
}

/// A machine's CPUs and nodes as Linux describes them under one root, with at least one usable CPU.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The online CPUs, ascending.
    pub cpus: Vec<Cpu>,
    /// The CPUs that are present but not online.
    pub offline: CpuSet,
    /// The NUMA nodes, ascending, including those without CPUs; empty where none are recorded.
    pub nodes: Vec<Node>,
    /// What was missing or contradictory under the root, and what was done instead: one sentence each.
    pub notes: Vec<String>,
}

impl Topology {
    /// Reads the topology under `root`, `/` for this machine. Usable are the online CPUs among `allowed`; with `None`,
    /// among those that the root's own proc/self/status or cpuset allows, as recorded machines have them.
    ///
    /// Missing and damaged files are noted and worked around. An error means that no CPU is left to use.
    pub fn read(root: &Path, allowed: Option<CpuSet>) -> Result<Topology, TopologyError> {
        sysfs::read(root, allowed)
    }

    /// Reads this machine's topology with the CPUs that the calling thread may use. Call it in `main`, before any
    /// thread is pinned.
    pub fn read_live() -> Result<Topology, TopologyError> {
        let allowed = allowed_cpus().map_err(TopologyError::Affinity)?;
        Topology::read(Path::new("/"), Some(allowed))
    }

    /// The online CPU with this number.
    pub fn cpu(&self, id: CpuId) -> Option<&Cpu> {
        self.cpus
            .binary_search_by_key(&id, |cpu| cpu.id)
            .ok()
            .map(|index| &self.cpus[index])
    }

    /// The online CPUs.
    pub fn online(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// The online CPUs that this process may use; never empty.
    pub fn usable(&self) -> CpuSet {
        self.cpus.iter().filter(|cpu| cpu.usable).map(|cpu| cpu.id).collect()
    }

    /// The physical cores with usable CPUs, in the order of their first usable CPU; never empty.
    pub fn usable_cores(&self) -> Vec<Core> {
        let mut cores: BTreeMap<CpuId, Core> = BTreeMap::new();
        for cpu in self.cpus.iter().filter(|cpu| cpu.usable) {
            let core = cores.entry(cpu.core);
            let core = core.or_insert_with(|| Core {
                cpus: Vec::new(),
                node: cpu.node,
                kind: cpu.kind,
            });
            core.cpus.push(cpu.id);
        }
        let mut cores: Vec<Core> = cores.into_values().collect();
        cores.sort_by_key(|core| core.cpus[0]);
        cores
    }

    /// The node that a thread on this CPU should prefer memory of: its own, unless the machine has only one node (there
    /// is no choice) or the cpuset forbids that node's memory (the kernel would refuse).
    pub fn memory_node_of(&self, cpu: CpuId) -> Option<NodeId> {
        let node = self.cpu(cpu)?.node?;
        let allowed = self
            .nodes
            .iter()
            .any(|candidate| candidate.id == node && candidate.memory_allowed);
        (allowed && self.nodes.len() > 1).then_some(node)
    }
}

/// The number of shards for a new data directory on this machine: half the usable physical cores, rounded up to a power
/// of two, at least 1. (16384 slots bound it from above: a machine has at most 8192 CPUs.)
pub fn default_shard_count(topology: &Topology) -> u16 {
    let half = topology.usable_cores().len().div_ceil(2).next_power_of_two();
    u16::try_from(half).expect("half of at most 8192 cores is at most 4096")
}
