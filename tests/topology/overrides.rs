//! Core maps from flags and files: what they override, and the sentence for each mistake.

use std::fs;
use std::path::PathBuf;

use corelane::topology::{CoreMap, CoreMapOverrides, Role, TopologyError};
use tempfile::TempDir;

use super::fixture::{Machine, roles, two_nodes};

/// The map, or the sentence that refuses it, of flags on a machine.
fn with_flags(machine: &Machine, flags: &[(Role, &str)]) -> Result<[String; 3], String> {
    let mut overrides = CoreMapOverrides::default();
    let set = flags
        .iter()
        .try_for_each(|(role, list)| overrides.set_flag(*role, list));
    let map = set.and_then(|()| CoreMap::with_overrides(&machine.topology(), &overrides));
    map.map(|map| roles(&map)).map_err(|error| error.to_string())
}

/// The same of a file `cores.toml`, without the folder in which it lies.
fn with_file(machine: &Machine, text: &str) -> Result<[String; 3], String> {
    let directory = TempDir::new().expect("a temporary folder");
    let path = directory.path().join("cores.toml");
    fs::write(&path, text).expect("the file");
    let map = CoreMap::from_file(&machine.topology(), &path);
    let folder = format!("{}/", directory.path().display());
    map.map(|map| roles(&map))
        .map_err(|error| error.to_string().replace(&folder, ""))
}

fn ok(network: &str, storage: &str, background: &str) -> Result<[String; 3], String> {
    Ok([network, storage, background].map(str::to_owned))
}

fn refused(sentence: &str) -> Result<[String; 3], String> {
    Err(sentence.to_owned())
}

use Role::{Background, Network, Storage};

#[test]
fn flags_give_every_role() {
    let machine = Machine::with_cores(8, 1);
    let flags = [(Network, "0-1"), (Storage, "2,3"), (Background, "4")];
    assert_eq!(with_flags(&machine, &flags), ok("0-1", "2-3", "4"));
}

#[test]
fn a_cpu_with_both_roles_runs_one_executor() {
    let machine = Machine::with_cores(4, 1);
    let mut overrides = CoreMapOverrides::default();
    overrides.set_flag(Network, "2,0").expect("a list");
    overrides.set_flag(Storage, "0-1").expect("a list");
    let map = CoreMap::with_overrides(&machine.topology(), &overrides).expect("a map");
    let executors: Vec<(usize, bool, bool)> = map
        .executors()
        .iter()
        .map(|executor| (executor.cpu.number(), executor.network, executor.storage))
        .collect();
    assert_eq!(executors, [(2, true, false), (0, true, true), (1, false, true)]);
    assert_eq!(roles(&map)[2], "3");
}

#[test]
fn roles_that_are_not_given_come_from_what_is_left() {
    let eight = Machine::with_cores(8, 1);
    assert_eq!(with_flags(&eight, &[(Network, "0-1")]), ok("0-1", "3-6", "7"));
    assert_eq!(with_flags(&eight, &[(Storage, "0-1")]), ok("2-6", "0-1", "7"));
    assert_eq!(with_flags(&eight, &[(Background, "0")]), ok("1-3", "4-7", "0"));
    assert_eq!(with_flags(&eight, &[(Network, "0"), (Storage, "1")]), ok("0", "1", "7"));
    assert_eq!(with_flags(&eight, &[(Network, "0-6")]), ok("0-6", "0-6", "7"));
    assert_eq!(with_flags(&eight, &[(Network, "0-7")]), ok("0-7", "0-7", "0-7"));
    assert_eq!(with_flags(&eight, &[(Background, "0-7")]), ok("0", "0", "0-7"));
    let two = Machine::with_cores(2, 1);
    assert_eq!(with_flags(&two, &[(Network, "1")]), ok("1", "1", "0"));
    assert_eq!(with_flags(&two, &[(Network, "0"), (Storage, "1")]), ok("0", "1", "0-1"));
    let two_with_threads = Machine::with_cores(2, 2);
    assert_eq!(with_flags(&two_with_threads, &[(Network, "0")]), ok("0", "1", "2-3"));
    assert_eq!(
        with_flags(&two_with_threads, &[(Background, "0-1")]),
        ok("2", "3", "0-1")
    );
    assert_eq!(
        with_flags(&two_nodes(), &[(Network, "0-3,16-19")]),
        ok("0-3,16-19", "6-13,22-29", "14-15,30-31")
    );
}

#[test]
fn the_number_of_shards_bounds_the_storage_executors() {
    let topology = Machine::with_cores(16, 1).topology();
    let mut overrides = CoreMapOverrides::default();
    overrides.set_shard_count(2);
    let map = CoreMap::with_overrides(&topology, &overrides).expect("a map");
    assert_eq!(roles(&map), ["0-11", "12-13", "14-15"].map(str::to_owned));
}

#[test]
fn wrong_flags_are_refused_in_a_sentence() {
    let machine = Machine::with_cores(8, 1);
    machine.take_offline(5, "0-4,6-7\n");
    machine.allow("0-6");
    for (role, list, sentence) in [
        (
            Network,
            "0-1,9",
            "--network-cores 0-1,9: there is no CPU 9 on this machine (it has CPUs 0-7)",
        ),
        (Storage, "5", "--storage-cores 5: CPU 5 is offline"),
        (
            Storage,
            "6,7",
            "--storage-cores 6,7: this process may not use CPU 7 (its affinity mask or cpuset allows CPUs 0-4,6)",
        ),
        (Background, "2,2", "--background-cores 2,2: CPU 2 is listed twice"),
        (Background, "0-2,1", "--background-cores 0-2,1: CPU 1 is listed twice"),
        (
            Network,
            "",
            r#"--network-cores "": it names no CPU (leave it out to have it computed)"#,
        ),
        (
            Network,
            "0-",
            r#"--network-cores 0-: "0-" is not a number or a range such as 0-3"#,
        ),
        (
            Network,
            "all",
            r#"--network-cores all: "all" is not a number or a range such as 0-3"#,
        ),
        (Network, "3-1", r#"--network-cores 3-1: the range "3-1" runs backwards"#),
        (
            Network,
            "-1",
            r#"--network-cores -1: "-1" is not a number or a range such as 0-3"#,
        ),
        (
            Network,
            "0-9999",
            r#"--network-cores 0-9999: "9999" is above the highest possible, 8191"#,
        ),
    ] {
        assert_eq!(with_flags(&machine, &[(role, list)]), refused(sentence));
    }
}

#[test]
fn a_file_gives_lists_as_strings_and_as_arrays() {
    let machine = Machine::with_cores(8, 1);
    let text = "# four cores\nnetwork = \"0-1\"\nstorage = [2, 0x3]\n";
    assert_eq!(with_file(&machine, text), ok("0-1", "2-3", "7"));
    assert_eq!(with_file(&machine, "background = '6,7'\n"), ok("0-3", "4-5", "6-7"));
}

#[test]
fn flags_override_a_files_roles_one_by_one() {
    let directory = TempDir::new().expect("a temporary folder");
    let path = directory.path().join("cores.toml");
    fs::write(&path, "network = \"0-1\"\nstorage = [2, 3]\n").expect("the file");
    let mut overrides = CoreMapOverrides::default();
    overrides.read_file(&path).expect("a map");
    overrides.set_flag(Storage, "4-5").expect("a list");
    let map = CoreMap::with_overrides(&Machine::with_cores(8, 1).topology(), &overrides).expect("a map");
    assert_eq!(roles(&map), ["0-1", "4-5", "7"].map(str::to_owned));
    assert_eq!(map.reasons.storage, ["given by --storage-cores 4-5"]);
    assert_eq!(
        map.reasons.network,
        [format!("given by {} line 1, network", path.display())]
    );
}

#[test]
fn wrong_files_are_refused_with_their_line() {
    let machine = Machine::with_cores(4, 1);
    for (text, sentence) in [
        (
            "network = \"0\"\nstorage = [1, 9]\n",
            "cores.toml line 2, storage: there is no CPU 9 on this machine (it has CPUs 0-3)",
        ),
        (
            "storage = [\n  1,\n  2,\n  1,\n]\n",
            "cores.toml line 4, storage: CPU 1 is listed twice",
        ),
        (
            "storage = []\n",
            "cores.toml line 1, storage: it names no CPU (leave it out to have it computed)",
        ),
        (
            "\nnetwork = \"\"\n",
            "cores.toml line 2, network: it names no CPU (leave it out to have it computed)",
        ),
        (
            "network = \"0-x\"\n",
            r#"cores.toml line 1, network: "0-x" is not a number or a range such as 0-3"#,
        ),
        (
            "network = true\n",
            r#"cores.toml line 1, network: a list such as "0-1" or [0, 1] is wanted, not a value of type boolean"#,
        ),
        (
            "network = [0, 1.5]\n",
            "cores.toml line 1, network: CPU numbers are wanted, not a value of type float",
        ),
        (
            "network = [0,\n-1]\n",
            "cores.toml line 2, network: -1 is not a CPU number (0 to 8191)",
        ),
        (
            "network = [99999999999999999999]\n",
            "cores.toml line 1, network: 99999999999999999999 is not a CPU number (0 to 8191)",
        ),
        (
            "network = \"0\"\nnetwrok = \"1\"\n",
            r#"cores.toml line 2: "netwrok" is not a role (network, storage or background)"#,
        ),
        ("network = \"0\"\nnetwork = \"1\"\n", "cores.toml line 2: duplicate key"),
        ("network = 0-1\n", "cores.toml line 1: SYNTAX"),
        ("storage = [1\nnetwork\n", "cores.toml line 2: SYNTAX"),
    ] {
        let result = with_file(&machine, text);
        match sentence.strip_suffix("SYNTAX") {
            // The words after the line are the parser's own.
            Some(start) => {
                let error = result.expect_err("a syntax error");
                assert!(error.starts_with(start) && !error.contains('\n'), "{error}");
            }
            None => assert_eq!(result, refused(sentence)),
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = PathBuf::from("/nonexistent/cores.toml");
    let error = CoreMap::from_file(&Machine::with_cores(2, 1).topology(), &missing).expect_err("no such file");
    assert!(matches!(error, TopologyError::CoreMapFile { .. }));
    let sentence = "cannot read the core map /nonexistent/cores.toml: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), sentence);
}

#[test]
fn executors_that_share_a_core_by_order_are_pointed_out() {
    let machine = Machine::with_cores(4, 2);
    let mut overrides = CoreMapOverrides::default();
    overrides.set_flag(Network, "0,4").expect("a list");
    let map = CoreMap::with_overrides(&machine.topology(), &overrides).expect("a map");
    assert_eq!(
        map.reasons.network,
        [
            "given by --network-cores 0,4",
            "executors on CPUs 0,4 share one physical core"
        ]
    );
    assert_eq!(roles(&map), ["0,4", "1-2", "3,7"].map(str::to_owned));
}
