//! What `corelane cores` prints.

use corelane::topology::{CoreMapOverrides, Role, cores_command};
use serde_json::{Value, json};

use super::fixture::Machine;

#[test]
fn the_table_shows_every_cpu_and_why() {
    let machine = Machine::with_cores(3, 2);
    machine.take_offline(4, "0-3,5\n");
    machine.allow("0-3,5");
    let text = cores_command(Some(machine.root()), &CoreMapOverrides::default(), false).expect("a description");
    let expected = "\
CPU  core  package  node  kind   role
0    0     0        0     equal  network
1    1     0        0     equal  storage
2    2     0        0     equal  background
3    0     0        0     equal  -
4    -     -        -     -      (offline)
5    2     0        0     equal  background

network: CPU 0
  one executor on each of 2 cores, none on an SMT sibling: 1 for network, 1 for storage

storage: CPU 1
  1 executor, 2 of the 2 shards on each

background: CPUs 2,5
  1 core of 3 (an eighth, at least one) with all of their threads, where no executor runs

shards of a new data directory: 2

notes
  left out, being offline: CPU 4
  nothing says how fast each core is (cpu_capacity, acpi_cppc, cpufreq): they are treated as equal
";
    assert_eq!(text, expected);
}

#[test]
fn the_json_has_the_same_facts_under_stable_names() {
    let machine = Machine::with_cores(2, 1);
    machine.allow("1");
    machine.write_of_cpu(1, "cpu_capacity", "1024");
    machine.write_of_cpu(0, "cpu_capacity", "1024");
    let text = cores_command(Some(machine.root()), &CoreMapOverrides::default(), true).expect("a description");
    let why = "CPU 1 is on the only core for executors: one executor runs both roles there, \
               and a request between them costs no wake";
    let shared = [
        "shares the executors' CPUs, as no other CPU is left",
        "background threads and executors share CPU 1: expect slower requests during compaction",
    ];
    let expected = json!({
        "network": [1],
        "storage": [1],
        "background": [1],
        "executors": [{ "cpu": 1, "network": true, "storage": true, "node": null }],
        "default_shard_count": 1,
        "cpus": [
            { "cpu": 0, "core": 0, "package": 0, "node": 0, "kind": "fast", "state": "forbidden", "roles": [] },
            { "cpu": 1, "core": 1, "package": 0, "node": 0, "kind": "fast", "state": "usable",
              "roles": ["network", "storage", "background"] },
        ],
        "nodes": [{ "node": 0, "cpus": [0, 1], "memory_allowed": true }],
        "reasons": { "network": [why], "storage": [why], "background": shared },
        "notes": ["left out, as this process's affinity mask or cpuset forbids them: CPU 0"],
    });
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
}

#[test]
fn this_machine_can_be_described() {
    let text = cores_command(None, &CoreMapOverrides::default(), false).expect("a description");
    assert!(text.starts_with("CPU  core"), "{text}");
}

#[test]
fn overrides_are_checked_against_the_recorded_machine() {
    let mut overrides = CoreMapOverrides::default();
    overrides.set_flag(Role::Network, "2").expect("a list");
    let error = cores_command(Some(Machine::with_cores(2, 1).root()), &overrides, false).expect_err("no such CPU");
    assert_eq!(
        error.to_string(),
        "--network-cores 2: there is no CPU 2 on this machine (it has CPUs 0-1)"
    );
}
