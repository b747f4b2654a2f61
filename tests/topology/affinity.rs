//! Pinning, checked in /proc.

use std::sync::mpsc;
use std::thread;

use corelane::topology::{
    CpuSet, Topology, affinity_of, allowed_cpus, pin_current_thread, prefer_memory_of_node, set_affinity_of,
    thread_affinities,
};

use super::fixture::cpu;

#[test]
fn a_thread_pins_itself_and_is_pinned_by_another() {
    let allowed: Vec<_> = allowed_cpus().expect("this thread's mask").iter().collect();
    let (first, last) = (allowed[0], *allowed.last().expect("at least one CPU"));
    let (report_pinned, pinned) = mpsc::channel();
    let (end, wait_for_end) = mpsc::channel::<()>();
    let worker = thread::Builder::new().name("pinned-worker".to_owned()).spawn(move || {
        pin_current_thread(&[first]).expect("an allowed CPU");
        report_pinned.send(()).expect("the test waits");
        // Returns when the test drops its end.
        _ = wait_for_end.recv();
    });
    let worker = worker.expect("a thread");
    pinned.recv().expect("the worker pins itself");

    let find = || {
        let threads = thread_affinities().expect("this process's threads");
        let (thread, _, cpus) = threads
            .into_iter()
            .find(|(_, name, _)| name == "pinned-worker")
            .expect("the worker");
        (thread, cpus)
    };
    let (thread, cpus) = find();
    assert_eq!(cpus, CpuSet::from_iter([first]));
    set_affinity_of(thread, &[last]).expect("an allowed CPU");
    assert_eq!(find().1, CpuSet::from_iter([last]));
    assert_eq!(
        affinity_of(thread).expect("the worker's mask"),
        CpuSet::from_iter([last])
    );
    drop(end);
    worker.join().expect("no panic");
}

#[test]
fn pinning_to_no_cpu_or_to_an_absent_one_fails() {
    let error = pin_current_thread(&[]).expect_err("no CPU");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    let absent = cpu(8191);
    if !allowed_cpus().expect("this thread's mask").contains(absent) {
        let error = pin_current_thread(&[absent]).expect_err("no such CPU");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn memory_of_an_executors_node_can_be_preferred() {
    let topology = Topology::read_live().expect("this machine");
    for node in &topology.nodes {
        // Each on a thread of its own, as the policy stays with the thread. Containers may forbid the call.
        let node = node.id;
        let result = thread::spawn(move || prefer_memory_of_node(node))
            .join()
            .expect("no panic");
        if let Err(error) = result {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        }
    }
}
