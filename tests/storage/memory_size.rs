//! `memory-size` bounds what the process takes, however much is written, and how fast.

use super::{Node, run_all};
use crate::harness::observe::most_resident_bytes;

const MIB: u64 = 1 << 20;
const MEMORY_SIZE: u64 = 256 * MIB;

/// Bytes that are written of each kind: more than there may be in memory.
const WRITTEN_BYTES: u64 = MEMORY_SIZE * 5 / 4;

const VALUE_BYTES: u64 = 4000;

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
    let set = |number: u64| ["SET", &format!("string:{number}"), &value].map(str::to_owned).to_vec();
    let hash_of = |number: u64| format!("hash:{}", number % 500);
    let set_field = |number: u64| vec!["HSET".into(), hash_of(number), number.to_string(), value.clone()];
    let field_len = |number: u64| vec!["HSTRLEN".into(), hash_of(number), number.to_string()];
    run_all(&mut client, (0..count).map(set));
    run_all(&mut client, (0..count).map(set_field));
    run_all(&mut client, (0..count / 4).map(field_len));
    run_all(&mut client, (0..count).map(set));
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
