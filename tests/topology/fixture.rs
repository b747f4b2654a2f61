//! Small machines as files, in the layout of today's kernels, for one test each.

use std::fs;
use std::path::{Path, PathBuf};

use corelane::topology::{CoreMap, CpuId, CpuSet, Topology};
use tempfile::TempDir;

/// A root folder with a machine's files, removed when dropped.
pub(super) struct Machine {
    directory: TempDir,
}

impl Machine {
    /// A root without any file.
    pub(super) fn empty() -> Machine {
        Machine {
            directory: TempDir::new().expect("a temporary folder"),
        }
    }

    /// `cores` physical cores with `threads` threads each, numbered as Linux does: first one thread of each core, then
    /// the second ones. One package and one node; nothing about speed.
    pub(super) fn with_cores(cores: usize, threads: usize) -> Machine {
        let machine = Machine::empty();
        machine.write("sys/devices/system/cpu/online", &format!("0-{}\n", cores * threads - 1));
        machine.write(
            "sys/devices/system/cpu/present",
            &format!("0-{}\n", cores * threads - 1),
        );
        for cpu in 0..cores * threads {
            let core = cpu % cores;
            let siblings: Vec<String> = (0..threads).map(|thread| (core + thread * cores).to_string()).collect();
            machine.write_of_cpu(cpu, "topology/core_id", &format!("{core}\n"));
            machine.write_of_cpu(cpu, "topology/physical_package_id", "0\n");
            machine.write_of_cpu(cpu, "topology/core_cpus_list", &format!("{}\n", siblings.join(",")));
        }
        machine.write_node(0, &format!("0-{}", cores * threads - 1));
        machine
    }

    /// The folder to read the topology from.
    pub(super) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("files lie in folders")).expect("a folder for the file");
        fs::write(path, text).expect("the file");
    }

    pub(super) fn write_of_cpu(&self, cpu: usize, name: &str, text: &str) {
        self.write(&format!("sys/devices/system/cpu/cpu{cpu}/{name}"), text);
    }

    pub(super) fn write_node(&self, node: usize, cpus: &str) {
        self.write(
            &format!("sys/devices/system/node/node{node}/cpulist"),
            &format!("{cpus}\n"),
        );
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).expect("the file to remove");
    }

    /// Takes a CPU offline as the kernel shows it: not in `online`, without its topology folder.
    pub(super) fn take_offline(&self, cpu: usize, online: &str) {
        self.write("sys/devices/system/cpu/online", online);
        self.write_of_cpu(cpu, "online", "0\n");
        fs::remove_dir_all(self.root().join(format!("sys/devices/system/cpu/cpu{cpu}/topology"))).expect("the folder");
    }

    /// Has the recorded process allowed these CPUs only.
    pub(super) fn allow(&self, cpus: &str) {
        self.write(
            "proc/self/status",
            &format!("Name:\tcorelane\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t0-1\n"),
        );
    }

    pub(super) fn topology(&self) -> Topology {
        Topology::read(self.root(), None).expect("a readable machine")
    }
}

/// Two nodes with 16 single-threaded cores each.
pub(super) fn two_nodes() -> Machine {
    let machine = Machine::with_cores(32, 1);
    machine.write_node(0, "0-15");
    machine.write_node(1, "16-31");
    machine
}

pub(super) fn cpu(number: u32) -> CpuId {
    CpuId::new(number).expect("a possible CPU number")
}

/// A set written as the kernel writes it.
pub(super) fn cpus(list: &str) -> CpuSet {
    CpuSet::parse_list(list).expect("a list of CPUs")
}

/// A map's three lists in the kernel's notation: network, storage, background.
pub(super) fn roles(map: &CoreMap) -> [String; 3] {
    [&map.network, &map.storage, &map.background].map(|cpus| cpus.iter().copied().collect::<CpuSet>().to_string())
}

/// What every map must be, whatever the machine: each role has usable CPUs, none twice; no two executors share a
/// physical core; on hybrid machines they are on fast cores only.
pub(super) fn assert_sensible(topology: &Topology, map: &CoreMap) {
    let usable = topology.usable();
    for list in [&map.network, &map.storage, &map.background] {
        let set: CpuSet = list.iter().copied().collect();
        assert!(
            !list.is_empty() && set.len() == list.len() && set.difference(&usable).is_empty(),
            "{map:?}"
        );
    }
    let executors = map.executors();
    let cores: CpuSet = executors
        .iter()
        .map(|executor| core_of(topology, executor.cpu))
        .collect();
    assert_eq!(cores.len(), executors.len(), "two executors on one core: {map:?}");
    let is_fast = |id: CpuId| topology.cpu(id).expect("online").kind == corelane::topology::CoreKind::Fast;
    if usable.iter().any(is_fast) {
        assert!(
            executors.iter().all(|executor| is_fast(executor.cpu)),
            "an executor on a slow core: {map:?}"
        );
    }
    if topology.usable_cores().len() > 2 {
        let busy = |id: &CpuId| cores.contains(core_of(topology, *id));
        assert!(
            !map.background.iter().any(busy),
            "background threads on an executor's core: {map:?}"
        );
    }
    for reasons in [&map.reasons.network, &map.reasons.storage, &map.reasons.background] {
        assert!(!reasons.is_empty(), "every role says why: {map:?}");
    }
}

fn core_of(topology: &Topology, id: CpuId) -> CpuId {
    topology.cpu(id).expect("online").core
}

/// The folder of the recorded machines beside the checkout, which not every checkout has.
pub(super) fn recordings() -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/topologies"));
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: the recorded machines are not there ({})", folder.display());
    None
}
