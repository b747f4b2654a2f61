//! `memory-size` bounds what the process takes, however much is written, and how fast.

use std::fmt::Write;

use super::Node;
use crate::harness::client::Client;
use crate::harness::value::Value;

const MIB: u64 = 1 << 20;
const MEMORY_SIZE: u64 = 256 * MIB;

/// Bytes that are written of each kind: more than there may be in memory.
const WRITTEN_BYTES: u64 = MEMORY_SIZE * 5 / 4;

const VALUE_BYTES: u64 = 4000;
const PIPELINE: u64 = 100;

/// The most memory that a process has had at a time.
fn most_resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("the kernel says how much memory was resident") * 1024
}

/// Runs many commands, a hundred at a time, which `command` writes in the inline form.
fn run_all(client: &mut Client, count: u64, command: impl Fn(&mut String, u64)) {
    for first in (0..count).step_by(PIPELINE as usize) {
        let numbers = first..count.min(first + PIPELINE);
        let mut lines = String::new();
        for number in numbers.clone() {
            command(&mut lines, number);
            lines.push_str("\r\n");
        }
        client.send_bytes(lines.as_bytes()).expect("the server reads");
        for number in numbers {
            let reply = client.read().expect("the server answers");
            assert!(!matches!(reply, Value::Error(_)), "{number}: {}", reply.render());
        }
    }
}

#[test]
fn what_one_turn_writes_may_be_more_than_may_wait() {
    let node = Node::started("--shards 1 --memory-size 0");
    let mut client = node.connect();
    // More than 32 MiB: in one value, in one command, and behind others that wait already.
    let large = "v".repeat(100 * MIB as usize);
    assert_eq!(client.command(&["SET", "large", &large]).render(), "OK");
    let part = &large[..10 * MIB as usize];
    let mut many = vec!["MSET".to_owned()];
    many.extend((0..6).flat_map(|number| [format!("part:{number}"), part.to_owned()]));
    assert_eq!(client.command(&many).render(), "OK");
    for number in 0..6 {
        client
            .send(&["SET", &format!("part:{number}"), part])
            .expect("the server reads");
    }
    for _ in 0..6 {
        assert_eq!(client.read().expect("the server answers").render(), "OK");
    }
    assert_eq!(
        client.command(&["STRLEN", "large"]).render(),
        format!("(integer) {}", large.len())
    );
    assert_eq!(
        client.command(&["STRLEN", "part:5"]).render(),
        format!("(integer) {}", part.len())
    );
}

#[test]
fn memory_stays_within_its_size_whatever_is_written() {
    let node = Node::started(&format!("--shards 2 --memory-size {MEMORY_SIZE}"));
    let mut client = node.connect();
    let count = WRITTEN_BYTES / VALUE_BYTES;
    let value = "v".repeat(VALUE_BYTES as usize);
    // Records, collections whose members are read back, and records again, while collections have a part of the memory.
    run_all(&mut client, count, |line, number| {
        write!(line, "SET string:{number} {value}").unwrap()
    });
    let hash_of = |number: u64| format!("hash:{}", number % 500);
    run_all(&mut client, count, |line, number| {
        write!(line, "HSET {} {number} {value}", hash_of(number)).unwrap();
    });
    run_all(&mut client, count / 4, |line, number| {
        write!(line, "HSTRLEN {} {number}", hash_of(number)).unwrap();
    });
    run_all(&mut client, count, |line, number| {
        write!(line, "SET string:{number} {value}").unwrap()
    });
    let most = most_resident_bytes(node.pid());
    assert!(most <= MEMORY_SIZE, "{} MiB of {}", most / MIB, MEMORY_SIZE / MIB);
    assert!(most > MEMORY_SIZE / 2, "{} MiB: what may be used is used", most / MIB);
    // Nothing of it is lost.
    for number in [0, count / 2, count - 1] {
        let string = client.command(&["STRLEN", &format!("string:{number}")]);
        let field = client.command(&["HSTRLEN", &hash_of(number), &number.to_string()]);
        assert_eq!(
            (string.render(), field.render()),
            ("(integer) 4000".into(), "(integer) 4000".into())
        );
    }
}
