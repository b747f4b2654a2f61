//! What a storage executor that does nothing for a while means to the clients of another one: nothing.

#![cfg(feature = "fault-injection")]

use super::has_two_cpus;
use crate::harness::observe::executors_sum;
use crate::harness::process::wait_for;
use crate::harness::server::{Server, allowed_cpus};
use crate::storage::{Switch, key_on};

#[test]
fn clients_of_one_storage_executor_are_served_while_another_does_nothing() {
    if !has_two_cpus("the test of a held storage executor") {
        return;
    }
    let cpus = allowed_cpus();
    let (first, both) = (cpus[0].to_string(), format!("{},{}", cpus[0], cpus[cpus.len() - 1]));
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let held = Switch::in_folder(folder.path(), "held");
    let server = Server::builder()
        .flags(&["--shards", "2", "--network-cores", &first, "--storage-cores", &both])
        .faults(&format!("hold-storage={}", held.when()))
        .start();
    let (here, there) = (key_on(0, 2, "here"), key_on(1, 2, "there"));
    let (mut waiting, mut other) = (server.connect(), server.connect());
    held.on_for_executor(1);
    waiting.send(&["SET", &there, "v"]).expect("the server reads");
    assert!(wait_for(|| executors_sum(&mut other, "pending") == 1));
    for number in 1..=1000 {
        assert_eq!(other.command(&["INCR", &here]).render(), format!("(integer) {number}"));
    }
    // The figure is read now and then, and may have been while one of those was out.
    assert!(wait_for(|| executors_sum(&mut other, "pending") == 1));
    held.off();
    assert_eq!(waiting.read().expect("SET is answered").render(), "OK");
    assert_eq!(other.command(&["GET", &there]).render(), "\"v\"");
}
