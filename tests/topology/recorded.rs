//! The maps of real machines, recorded by hwloc's authors.

use std::path::{Path, PathBuf};
use std::process::Command;

use corelane::topology::{CoreKind, CoreMap, CoreMapOverrides, Topology, cores_command, default_shard_count};
use tempfile::TempDir;

use super::fixture::{assert_sensible, cpu, cpus, recordings, roles};

/// A recorded machine, unpacked; `None` where the recordings are absent.
struct Recorded {
    _directory: TempDir,
    root: PathBuf,
    topology: Topology,
    map: CoreMap,
}

fn recorded(name: &str) -> Option<Recorded> {
    let archive = recordings()?.join(format!("{name}.tar.bz2"));
    let directory = TempDir::new().expect("a temporary folder");
    let status = Command::new("tar")
        .arg("-xjf")
        .arg(&archive)
        .arg("-C")
        .arg(directory.path())
        .status();
    assert!(
        status.expect("tar is installed").success(),
        "unpacking {}",
        archive.display()
    );
    let root = only_entry(directory.path());
    let topology = Topology::read(&root, None).expect("a readable recording");
    let map = CoreMap::auto(&topology);
    assert_sensible(&topology, &map);
    // The command itself must do for every machine, in both forms.
    for json in [false, true] {
        cores_command(Some(&root), &CoreMapOverrides::default(), json).expect("a description");
    }
    Some(Recorded {
        _directory: directory,
        root,
        topology,
        map,
    })
}

/// The folder inside an unpacked archive; its name need not be the archive's.
fn only_entry(folder: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let entry = entries.next().expect("one folder in the archive");
    assert_eq!(entries.next(), None);
    entry
}

impl Recorded {
    #[track_caller]
    fn assert_map(&self, expected: [&str; 3], shard_count: u16) {
        assert_eq!(roles(&self.map), expected);
        assert_eq!(default_shard_count(&self.topology), shard_count);
    }

    #[track_caller]
    fn assert_notes(&self, expected: &[&str]) {
        assert_eq!(self.topology.notes, expected, "{}", self.root.display());
    }
}

const ALL_TAKEN: &str =
    "no usable record of the CPUs allowed to the process (proc/self/status, cpuset): took all online ones";
const SPEED_UNKNOWN: &str =
    "nothing says how fast each core is (cpu_capacity, acpi_cppc, cpufreq): they are treated as equal";

#[test]
fn arm_with_two_cores_runs_one_executor() {
    let Some(machine) = recorded("2arm-2c") else { return };
    machine.assert_map(["0", "0", "1"], 1);
    machine.assert_notes(&[
        ALL_TAKEN,
        "sys/devices/system/node has no nodes: the machine is treated as one node",
        "cpufreq/cpuinfo_max_freq does not tell fast cores from slow ones, as it is missing or unusable for CPU 1",
        SPEED_UNKNOWN,
    ]);
}

#[test]
fn two_packages_with_unequal_caches_use_seven_of_eight_cores() {
    let Some(machine) = recorded("8em64t-2s4c-asymcaches") else {
        return;
    };
    machine.assert_map(["0-2", "3-6", "7"], 4);
    assert_eq!(machine.topology.cpu(cpu(3)).expect("online").package, Some(1));
    machine.assert_notes(&[ALL_TAKEN, SPEED_UNKNOWN]);
}

#[test]
fn offline_threads_leave_seven_cores() {
    let Some(machine) = recorded("16em64t-4s2c2t-offlines") else {
        return;
    };
    // CPUs 6 and 10 have lost their siblings 14 and 2; CPUs 5 and 13, a whole core, are off.
    assert_eq!(machine.topology.online(), cpus("0-1,3-4,6-12,15"));
    assert_eq!(machine.topology.offline, cpus("2,5,13-14"));
    assert_eq!(machine.topology.usable_cores().len(), 7);
    machine.assert_map(["0-1,3-4", "6-7", "10"], 4);
    machine.assert_notes(&[
        "sys/devices/system/cpu/online is missing or unusable: \
         took the CPUs with a folder that does not say offline, CPUs 0-1,3-4,6-12,15",
        ALL_TAKEN,
        "left out, being offline: CPUs 2,5,13-14",
        SPEED_UNKNOWN,
    ]);
}

#[test]
fn the_recorded_cpuset_is_respected() {
    let Some(machine) = recorded("16amd64-8n2c-cpusets") else {
        return;
    };
    // The cpuset /dummy allows CPUs 0-6 and 12-15 and the memory of nodes 1-4; CPU 4 is offline.
    assert_eq!(machine.topology.usable(), cpus("0-3,5-6,12-15"));
    machine.assert_map(["0,2,6,12,14", "1,3,5,13", "15"], 8);
    assert_eq!(
        machine.topology.memory_node_of(cpu(3)).map(|node| node.number()),
        Some(1)
    );
    assert_eq!(machine.topology.memory_node_of(cpu(12)), None);
    machine.assert_notes(&[
        "left out, being offline: CPU 4",
        "left out, as this process's affinity mask or cpuset forbids them: CPUs 7-11",
        "the cpuset allows CPUs, but not memory, of these nodes, so threads there use memory of others: 0,6,7",
        SPEED_UNKNOWN,
    ]);
}

#[test]
fn the_hybrid_machine_runs_executors_on_its_six_fast_cores() {
    let Some(machine) = recorded("20em64t-hybrid-1p6c2t+2ca4co1t") else {
        return;
    };
    machine.assert_map(["0,2,4", "6,8,10", "12-19"], 8);
    let slow = machine
        .topology
        .cpus
        .iter()
        .filter(|cpu| cpu.kind == CoreKind::Slow)
        .map(|cpu| cpu.id);
    assert_eq!(slow.collect::<corelane::topology::CpuSet>(), cpus("12-19"));
    machine.assert_notes(&[ALL_TAKEN]);
}

#[test]
fn sparse_nodes_have_six_cores_each() {
    let Some(machine) = recorded("48amd64-4pa2n6c-sparse") else {
        return;
    };
    // Two cores of each package have the same core_id; they are two all the same.
    assert_eq!(machine.topology.usable_cores().len(), 48);
    let nodes: Vec<usize> = machine.topology.nodes.iter().map(|node| node.id.number()).collect();
    assert_eq!(nodes, [0, 1, 2, 33, 34, 45, 72, 73]);
    machine.assert_map(
        [
            "0-3,6-9,12-14,18-20,24-26,30-32,36-38,42-44",
            "4-5,10-11,15-16,21-22,27-28,33-34,39-40,45-46",
            "17,23,29,35,41,47",
        ],
        32,
    );
    assert_eq!(machine.map.executors()[0].node.map(|node| node.number()), Some(0));
    machine.assert_notes(&[ALL_TAKEN]);
}

#[test]
fn ninety_six_cpus_split_evenly_over_four_nodes() {
    let Some(machine) = recorded("96em64t-4no4pa3ca2co") else {
        return;
    };
    machine.assert_map(
        [
            "0-12,24-36,48-60,72-84",
            "13-20,37-44,61-68,85-92",
            "21-23,45-47,69-71,93-95",
        ],
        64,
    );
    machine.assert_notes(&[
        "sys/devices/system/cpu/online is missing or unusable: \
         took the CPUs with a folder that does not say offline, CPUs 0-95",
        ALL_TAKEN,
        SPEED_UNKNOWN,
    ]);
}
