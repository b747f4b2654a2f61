//! `CoreMap::auto` on machines of every shape that the rules name.

use corelane::topology::{CoreKind, CoreMap, Topology, default_shard_count};

use super::fixture::{Machine, assert_sensible, cpu, cpus, roles, two_nodes};

/// Checks the map of a machine: network, storage, background and the default number of shards.
#[track_caller]
fn assert_map(machine: &Machine, expected: [&str; 3], shard_count: u16) -> (Topology, CoreMap) {
    let topology = machine.topology();
    let map = CoreMap::auto(&topology);
    assert_eq!(roles(&map), expected);
    assert_eq!(default_shard_count(&topology), shard_count);
    assert_sensible(&topology, &map);
    (topology, map)
}

#[test]
fn one_cpu_has_all_roles_in_one_executor() {
    let (_, map) = assert_map(&Machine::with_cores(1, 1), ["0", "0", "0"], 1);
    let executors = map.executors();
    assert_eq!(executors.len(), 1);
    assert!(executors[0].network && executors[0].storage);
    assert_eq!(executors[0].thread_name(), "executor-0");
}

#[test]
fn two_cpus_run_one_executor_with_both_roles_beside_the_background() {
    let (_, map) = assert_map(&Machine::with_cores(2, 1), ["0", "0", "1"], 1);
    assert_eq!(map.executors().len(), 1);
}

#[test]
fn two_threads_of_one_core_are_two_cpus() {
    assert_map(&Machine::with_cores(1, 2), ["0", "0", "1"], 1);
}

#[test]
fn two_cores_with_two_threads_keep_siblings_for_background() {
    assert_map(&Machine::with_cores(2, 2), ["0", "1", "2-3"], 1);
}

#[test]
fn three_and_four_cores_keep_one_for_background() {
    assert_map(&Machine::with_cores(3, 1), ["0", "1", "2"], 2);
    assert_map(&Machine::with_cores(4, 1), ["0-1", "2", "3"], 2);
}

#[test]
fn eight_cores_with_smt_have_seven_executors_and_a_whole_core_for_background() {
    let (topology, map) = assert_map(&Machine::with_cores(8, 2), ["0-2", "3-6", "7,15"], 4);
    assert_eq!(topology.usable_cores()[7].cpus, [cpu(7), cpu(15)]);
    assert_eq!(map.executors().len(), 7);
    assert_eq!(map.executor_index(cpu(3)), Some(3));
    assert_eq!(map.storage_index(cpu(3)), Some(0));
    assert_eq!(map.network_index(cpu(2)), Some(2));
    assert_eq!(map.executor_index(cpu(15)), None);
    assert_eq!(map.executors()[3].thread_name(), "storage-3");
    assert_eq!(map.executors()[2].thread_name(), "network-2");
}

#[test]
fn storage_executors_are_as_many_as_share_the_shards_evenly() {
    for (cores, storage, shard_count) in [(12, 4, 8), (16, 8, 8), (24, 8, 16), (64, 32, 32), (128, 64, 64)] {
        let topology = Machine::with_cores(cores, 1).topology();
        let map = CoreMap::auto(&topology);
        assert_eq!(
            (map.storage.len(), default_shard_count(&topology)),
            (storage, shard_count),
            "{cores} cores"
        );
        assert_eq!(usize::from(shard_count) % storage, 0);
        assert_sensible(&topology, &map);
    }
}

#[test]
fn each_node_has_its_share_of_every_role() {
    let (topology, map) = assert_map(&two_nodes(), ["0-5,16-21", "6-13,22-29", "14-15,30-31"], 16);
    for executor in map.executors() {
        assert_eq!(executor.node, topology.memory_node_of(executor.cpu));
        assert_eq!(executor.node.expect("two nodes").number(), executor.cpu.number() / 16);
    }
}

#[test]
fn an_offline_cpu_is_never_used() {
    let machine = Machine::with_cores(8, 1);
    machine.take_offline(7, "0-6\n");
    let (topology, _) = assert_map(&machine, ["0-3", "4-5", "6"], 4);
    assert_eq!(topology.offline, cpus("7"));
    assert!(
        topology.notes.contains(&"left out, being offline: CPU 7".to_owned()),
        "{:?}",
        topology.notes
    );
}

#[test]
fn a_core_with_an_offline_thread_goes_on_with_the_other() {
    let machine = Machine::with_cores(4, 2);
    machine.take_offline(0, "1-7\n");
    let (topology, _) = assert_map(&machine, ["1-2", "3", "4"], 2);
    assert_eq!(topology.cpu(cpu(4)).expect("online").core, cpu(4));
}

#[test]
fn a_cpuset_that_allows_half_is_respected() {
    let machine = two_nodes();
    machine.allow("0-7,16-23");
    let (topology, _) = assert_map(&machine, ["0-2,16-18", "3-6,19-22", "7,23"], 8);
    assert_eq!(topology.usable(), cpus("0-7,16-23"));
    let note = "left out, as this process's affinity mask or cpuset forbids them: CPUs 8-15,24-31";
    assert!(topology.notes.contains(&note.to_owned()), "{:?}", topology.notes);
}

#[test]
fn a_recorded_cgroup_cpuset_is_respected() {
    for (mount, folder, file) in [
        (
            "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0",
            "sys/fs/cgroup",
            "cpuset.cpus.effective",
        ),
        (
            "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0",
            "sys/fs/cgroup/cpuset",
            "cpuset.effective_cpus",
        ),
        ("none /dev/cpuset cpuset rw 0 0", "dev/cpuset", "cpus"),
    ] {
        let machine = Machine::with_cores(8, 1);
        machine.write("proc/mounts", &format!("proc /proc proc rw 0 0\n{mount}\n"));
        machine.write("proc/self/cpuset", "/kubepods/pod1\n");
        machine.write(&format!("{folder}/kubepods/pod1/{file}"), "4-7\n");
        assert_map(&machine, ["4-5", "6", "7"], 2);
    }
}

#[test]
fn an_affinity_mask_takes_the_place_of_the_recorded_one() {
    let machine = Machine::with_cores(4, 1);
    machine.allow("0");
    let topology = Topology::read(machine.root(), Some(cpus("2-9"))).expect("a readable machine");
    assert_eq!(topology.usable(), cpus("2-3"));
}

#[test]
fn an_affinity_mask_without_online_cpus_is_refused() {
    let machine = Machine::with_cores(4, 1);
    let error = Topology::read(machine.root(), Some(cpus("8-9"))).expect_err("nothing is usable");
    assert_eq!(
        error.to_string(),
        "no CPU that this process may use is online (allowed: CPUs 8-9; online: CPUs 0-3)"
    );
}

#[test]
fn a_node_without_cpus_is_ignored_with_a_note() {
    let machine = Machine::with_cores(4, 1);
    machine.write_node(1, "");
    let (topology, map) = assert_map(&machine, ["0-1", "2", "3"], 2);
    assert_eq!(topology.nodes.len(), 2);
    assert!(
        topology
            .notes
            .contains(&"node 1 has no online CPUs: ignored".to_owned()),
        "{:?}",
        topology.notes
    );
    assert!(
        map.executors()
            .iter()
            .all(|executor| executor.node.is_some_and(|node| node.number() == 0))
    );
}

#[test]
fn memory_that_the_cpuset_forbids_is_not_preferred() {
    let machine = two_nodes();
    machine.write("proc/self/status", "Cpus_allowed_list:\t0-31\nMems_allowed_list:\t1\n");
    let topology = machine.topology();
    assert_eq!(topology.memory_node_of(cpu(0)), None);
    assert_eq!(topology.memory_node_of(cpu(16)).map(|node| node.number()), Some(1));
}

#[test]
fn executors_keep_to_the_fast_cores_whatever_tells_them_apart() {
    let speeds = [
        ("cpu_capacity", "1024", "446"),
        ("acpi_cppc/highest_perf", "67", "39"),
        ("cpufreq/cpuinfo_max_freq", "5200000", "3900000"),
        ("cpufreq/base_frequency", "1900000", "1400000"),
    ];
    for (name, fast, slow) in speeds {
        let machine = Machine::with_cores(8, 1);
        for cpu in 0..8 {
            machine.write_of_cpu(cpu, name, if cpu < 4 { slow } else { fast });
        }
        assert_map(&machine, ["4-5", "6-7", "0-3"], 4);
    }
    let machine = Machine::with_cores(8, 1);
    machine.write("sys/devices/cpu_core/cpus", "0-3\n");
    machine.write("sys/devices/cpu_atom/cpus", "4-6\n");
    assert_map(&machine, ["0-1", "2-3", "4-7"], 4);
}

#[test]
fn equal_cores_that_turbo_ranks_differently_stay_equal() {
    let machine = Machine::with_cores(4, 1);
    for (cpu, highest) in [166, 181, 211, 236].into_iter().enumerate() {
        machine.write_of_cpu(cpu, "acpi_cppc/highest_perf", &highest.to_string());
    }
    let (topology, _) = assert_map(&machine, ["0-1", "2", "3"], 2);
    assert!(topology.cpus.iter().all(|cpu| cpu.kind == CoreKind::Fast));
}

#[test]
fn a_process_on_slow_cores_only_uses_them() {
    let machine = Machine::with_cores(8, 1);
    (0..8).for_each(|cpu| machine.write_of_cpu(cpu, "cpu_capacity", if cpu < 4 { "446" } else { "1024" }));
    machine.allow("0-3");
    assert_map(&machine, ["0-1", "2", "3"], 2);
}

#[test]
fn cores_are_told_apart_by_siblings_and_not_by_core_id() {
    // An AMD package of two nodes numbers the cores of both from 0.
    let machine = Machine::with_cores(4, 1);
    (0..4).for_each(|cpu| machine.write_of_cpu(cpu, "topology/core_id", if cpu % 2 == 0 { "0" } else { "1" }));
    assert_eq!(machine.topology().usable_cores().len(), 4);
}

#[test]
fn without_siblings_the_core_id_groups_threads_and_a_note_says_so() {
    let machine = Machine::with_cores(4, 2);
    (0..8).for_each(|cpu| machine.remove(&format!("sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list")));
    let topology = machine.topology();
    assert_eq!(topology.usable_cores().len(), 4);
    let note = "grouped into cores by package, node and core_id for want of a list of SMT siblings: CPUs 0-7";
    assert!(topology.notes.contains(&note.to_owned()), "{:?}", topology.notes);
}

#[test]
fn every_size_of_machine_gets_a_sensible_map() {
    for cores in 1..=40 {
        for threads in [1, 2, 4] {
            let machine = Machine::with_cores(cores, threads);
            let topology = machine.topology();
            assert_sensible(&topology, &CoreMap::auto(&topology));
        }
    }
}
