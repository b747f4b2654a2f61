//! Trees with missing, cut, contradictory and meaningless files: an error or notes, never a panic.

use std::fs;
use std::path::{Path, PathBuf};

use corelane::topology::{CoreMap, CoreMapOverrides, Role, Topology, TopologyError, describe, describe_json};

use super::fixture::{Machine, assert_sensible, cpus, two_nodes};

/// Pseudo-random numbers (SplitMix64, Steele, Lea and Flood 2014) that a seed replays.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A new seed for each run, printed; `CORELANE_SEED` replays one.
fn seed() -> u64 {
    let given = std::env::var("CORELANE_SEED")
        .ok()
        .map(|seed| seed.parse().expect("CORELANE_SEED is a number"));
    let seed = given.unwrap_or_else(|| std::process::id().into());
    println!("seed: CORELANE_SEED={seed}");
    seed
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// A machine with every kind of file that is read.
fn full_machine() -> Machine {
    let machine = two_nodes();
    for cpu in 0..32 {
        machine.write_of_cpu(
            cpu,
            "cpufreq/cpuinfo_max_freq",
            if cpu < 24 { "5000000\n" } else { "3000000\n" },
        );
        machine.write_of_cpu(cpu, "topology/thread_siblings", &format!("{:08x}\n", 1u32 << cpu));
    }
    machine.write("sys/devices/system/node/online", "0-1\n");
    machine.write("sys/devices/cpu_core/cpus", "0-23\n");
    machine.write("sys/devices/cpu_atom/cpus", "24-31\n");
    machine.write("proc/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
    machine.write("proc/self/cpuset", "/a\n");
    machine.write("sys/fs/cgroup/a/cpuset.cpus.effective", "0-31\n");
    machine.allow("0-31");
    machine
}

/// Overwrites a file with something that no kernel writes, or removes it.
fn damage(random: &mut Random, file: &Path) {
    let whole = fs::read(file).expect("a file of the machine");
    let bytes = match random.below(8) {
        0 => return fs::remove_file(file).expect("a file to remove"),
        1 => whole[..random.below(whole.len() + 1)].to_vec(),
        2 => (0..random.below(64)).map(|_| random.next() as u8).collect(),
        3 => b"0-4294967295".to_vec(),
        4 => b"99999999999999999999999".to_vec(),
        5 => b"-1\n".to_vec(),
        6 => b",,-,ffffffff,ffffffff-0-0".repeat(random.below(20_000) + 1),
        _ => format!("{}-{}", random.below(9000), random.below(9000)).into_bytes(),
    };
    fs::write(file, bytes).expect("a file to damage");
}

#[test]
fn damaged_trees_give_a_map_or_an_error() {
    let seed = seed();
    let mut random = Random(seed);
    for round in 0..60 {
        let machine = full_machine();
        let mut files = Vec::new();
        files_below(machine.root(), &mut files);
        files.sort();
        // From a single damaged file to nearly all of them.
        let damaged = 1 + files.len() * round / 60;
        for _ in 0..damaged {
            let file = files.swap_remove(random.below(files.len()));
            damage(&mut random, &file);
        }
        let topology = match Topology::read(machine.root(), None) {
            Ok(topology) => topology,
            Err(TopologyError::NoneUsable { .. } | TopologyError::NoCpus { .. }) => continue,
            Err(other) => panic!("seed {seed}, round {round}: {other}"),
        };
        assert!(topology.notes.len() <= 41, "the notes are bounded");
        let map = CoreMap::auto(&topology);
        assert_sensible(&topology, &map);
        describe(&topology, &map);
        describe_json(&topology, &map);
        let mut overrides = CoreMapOverrides::default();
        overrides
            .set_flag(Role::Network, &topology.usable().to_string())
            .expect("a list of CPUs");
        CoreMap::with_overrides(&topology, &overrides).expect("usable CPUs are accepted");
    }
}

#[test]
fn garbage_core_map_files_are_refused_without_panic() {
    let seed = seed();
    let mut random = Random(seed);
    let topology = Machine::with_cores(4, 1).topology();
    let machine = Machine::empty();
    let alphabet: Vec<char> = "network=storage\"0-3,[]{}.\n\t#\u{e9}\0 1x".chars().collect();
    for _ in 0..2000 {
        let text: String = (0..random.below(60))
            .map(|_| alphabet[random.below(alphabet.len())])
            .collect();
        machine.write("cores.toml", &text);
        if let Err(error) = CoreMap::from_file(&topology, &machine.root().join("cores.toml")) {
            assert!(!error.to_string().contains('\n'), "{error:?}");
        }
    }
    for _ in 0..2000 {
        let list: String = (0..random.below(12))
            .map(|_| alphabet[random.below(alphabet.len())])
            .collect();
        _ = CoreMapOverrides::default().set_flag(Role::Storage, &list);
    }
}

#[test]
fn a_root_without_cpus_is_refused_in_a_sentence() {
    let machine = Machine::empty();
    let error = Topology::read(machine.root(), None).expect_err("there is nothing");
    let sentence = format!(
        "{}/sys/devices/system/cpu lists no CPU, neither in a file named online nor as a folder named cpuN: \
         the root must be the folder that holds a machine's sys folder",
        machine.root().display()
    );
    assert_eq!(error.to_string(), sentence);
}

#[test]
fn an_online_list_alone_is_enough() {
    let machine = Machine::empty();
    machine.write("sys/devices/system/cpu/online", "0-3\n");
    let topology = machine.topology();
    assert_eq!(topology.usable_cores().len(), 4);
    for note in [
        "in sys/devices/system/cpu/online, but without a folder of their own: CPUs 0-3",
        "counted as a core of its own each, with neither SMT siblings nor core_id recorded: CPUs 0-3",
        "topology/physical_package_id is missing or unusable, so the package stays unknown: CPUs 0-3",
    ] {
        assert!(topology.notes.contains(&note.to_owned()), "{:?}", topology.notes);
    }
    assert_sensible(&topology, &CoreMap::auto(&topology));
}

#[test]
fn a_damaged_online_list_falls_back_to_the_folders() {
    let machine = Machine::with_cores(4, 1);
    machine.write("sys/devices/system/cpu/online", "0-3x\n");
    machine.write_of_cpu(2, "online", "0\n");
    let topology = machine.topology();
    assert_eq!(topology.online(), cpus("0-1,3"));
    let note = r#"sys/devices/system/cpu/online: "0-3x" is not a number or a range such as 0-3: ignored"#;
    assert!(topology.notes.contains(&note.to_owned()), "{:?}", topology.notes);
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let machine = Machine::with_cores(2, 1);
    machine.write("sys/devices/system/cpu/online", &"0,".repeat(1024 * 1024));
    let note = "sys/devices/system/cpu/online cannot be read (it is longer than 262144 bytes): ignored";
    assert!(machine.topology().notes.contains(&note.to_owned()));
}

#[test]
fn a_cpuset_that_leads_out_of_the_root_is_not_followed() {
    let machine = Machine::with_cores(4, 1);
    machine.write("proc/mounts", "none /dev/cpuset cpuset rw 0 0\n");
    machine.write("proc/self/cpuset", "/../../outside\n");
    machine.write("outside/cpus", "1\n");
    assert_eq!(machine.topology().usable(), cpus("0-3"));
}

#[test]
fn masks_stand_in_for_lists() {
    let machine = Machine::with_cores(2, 2);
    for cpu in 0..4 {
        machine.remove(&format!("sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"));
        let mask = if cpu % 2 == 0 {
            "00000000,00000005"
        } else {
            "00000000,0000000a"
        };
        machine.write_of_cpu(cpu, "topology/thread_siblings", mask);
    }
    machine.remove("sys/devices/system/node/node0/cpulist");
    machine.write("sys/devices/system/node/node0/cpumap", "0000000f\n");
    let topology = machine.topology();
    assert_eq!(topology.usable_cores().len(), 2);
    assert_eq!(topology.nodes[0].cpus, cpus("0-3"));
}
