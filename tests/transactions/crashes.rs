//! A process that dies at every point of a transaction, and a power that fails: all of it or none is there afterwards, and what
//! was acknowledged is.

use super::{SHARDS, key_per_shard, mget, mset, run};
use crate::harness::client::Client;
use crate::harness::value::Value;
use crate::storage::{Node, four_shards_on_two_executors};

/// More writes than a start and a transaction make.
const WRITES_MAX: u64 = 60;

/// What `LMOVE`, `SMOVE` and `MSET` have left: the values and where the element and the member are.
fn contents(client: &mut Client, keys: &[String], pair: &[String]) -> (Vec<String>, i64, i64) {
    let Value::Array(Some(values)) = client.command(&mget(keys)) else {
        panic!("MGET answers an array");
    };
    let mut count = |command: &str, key: &str| match run(client, &format!("{command} {key}")) {
        Value::Integer(count) => count,
        other => panic!("{command} {key}: {other:?}"),
    };
    (
        values.iter().map(Value::render).collect(),
        count("LLEN", &pair[0]),
        count("LLEN", &pair[1]),
    )
}

fn dies_at_every_write(flags: &str, power_fails: bool) {
    let keys = key_per_shard("k");
    let lists = key_per_shard("list");
    let pair = [lists[0].clone(), lists[3].clone()];
    let record = if power_fails { "record-synced-log=1," } else { "" };
    let mut was_half_done = 0;
    for write in 1.. {
        assert!(write < WRITES_MAX, "the transaction does not end");
        let mut node = Node::new();
        node.start(flags, record);
        let mut client = node.connect();
        assert_eq!(client.command(&mset(&keys, "old")).render(), "OK");
        assert_eq!(
            run(&mut client, &format!("RPUSH {} element", pair[0])).render(),
            "(integer) 1"
        );
        let (status, output) = node.terminate();
        assert!(status.success(), "{output}");
        let point = if write % 2 == 0 {
            "kill-before-commit"
        } else {
            "kill-after-commit"
        };
        let switch = node.switch("dying");
        node.start(
            flags,
            &format!("{record}{point}={}:{}", write.div_ceil(2), switch.when()),
        );
        let mut client = node.connect();
        switch.on();
        let acknowledged: Vec<bool> = [
            mset(&keys, "new")
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
            ["LMOVE", &pair[0], &pair[1], "LEFT", "LEFT"]
                .map(str::to_owned)
                .to_vec(),
        ]
        .iter()
        .map(|words| {
            let reply = client.send(words).and_then(|()| client.read());
            reply.is_ok_and(|reply| !matches!(reply, Value::Error(_)))
        })
        .collect();
        let survived = acknowledged == [true, true] && client.send(&["PING"]).and_then(|()| client.read()).is_ok();
        if survived {
            node.kill_9();
        } else {
            node.wait_for_exit();
        }
        if power_fails {
            node.cut_unsynced(|synced, _| synced);
        }
        node.start(flags, record);
        let (values, left, moved) = contents(&mut node.connect(), &keys, &pair);
        let shown = format!("{point} {write}: {values:?}, {left} and {moved}, acknowledged {acknowledged:?}");
        assert!(
            values.iter().all(|value| *value == values[0]),
            "half of a write: {shown}"
        );
        assert_eq!(left + moved, 1, "an element is lost or doubled: {shown}");
        assert!(
            !acknowledged[0] || values[0] == "\"new\"",
            "an acknowledged write is lost: {shown}"
        );
        assert!(!acknowledged[1] || moved == 1, "an acknowledged move is lost: {shown}");
        was_half_done += u64::from(!acknowledged[0] && values[0] == "\"new\"");
        // A start after the recovery finds nothing to do, and later writes stand.
        let mut client = node.connect();
        assert_eq!(client.command(&mset(&keys, "newer")).render(), "OK");
        node.kill_9();
        if power_fails {
            node.cut_unsynced(|_, written| written);
        }
        node.start(flags, "");
        let (values, ..) = contents(&mut node.connect(), &keys, &pair);
        assert!(
            values.iter().all(|value| value == "\"newer\""),
            "an old record came back: {values:?}"
        );
        if survived {
            break;
        }
    }
    assert!(was_half_done > 0, "no death came between the decision and the reply");
}

#[test]
fn a_killed_process_leaves_all_or_nothing_over_executors() {
    dies_at_every_write(&four_shards_on_two_executors(), false);
}

#[test]
fn a_killed_process_leaves_all_or_nothing_over_shards_of_one_executor() {
    let cpu = crate::harness::server::allowed_cpus()[0];
    dies_at_every_write(
        &format!("--shards {SHARDS} --network-cores {cpu} --storage-cores {cpu}"),
        false,
    );
}

#[test]
fn a_power_loss_leaves_all_or_nothing_and_all_that_was_acknowledged() {
    dies_at_every_write(&format!("{} --durability always", four_shards_on_two_executors()), true);
}

#[test]
fn a_power_loss_leaves_all_or_nothing_on_one_executor() {
    let cpu = crate::harness::server::allowed_cpus()[0];
    let flags = format!("--shards {SHARDS} --network-cores {cpu} --storage-cores {cpu} --durability always");
    dies_at_every_write(&flags, true);
}

/// A command on several shards of one executor may have found what was staged in its turn and not committed. Where it survives a
/// death, that does too.
#[test]
fn what_a_command_has_seen_of_its_turn_survives_with_it() {
    let cpu = crate::harness::server::allowed_cpus()[0];
    let flags = format!("--shards {SHARDS} --network-cores {cpu} --storage-cores {cpu}");
    let keys = key_per_shard("k");
    let (list, copied) = (&key_per_shard("list")[3], &key_per_shard("copied")[3]);
    let (with_list, copy) = (&keys[0], &keys[1]);
    let mut survivors = 0;
    for write in 1.. {
        assert!(write < WRITES_MAX, "the pipeline does not end");
        let mut node = Node::new();
        let switch = node.switch("dying");
        node.start(&flags, &format!("kill-after-commit={write}:{}", switch.when()));
        let mut client = node.connect();
        switch.on();
        let pipeline = format!(
            "RPUSH {list} first\r\nMULTI\r\nRPUSH {list} second\r\nSET {with_list} written\r\nEXEC\r\n\
             SET {copied} value\r\nCOPY {copied} {copy}\r\n"
        );
        client.send_bytes(pipeline.as_bytes()).expect("the server reads");
        let survived = (0..7).all(|_| client.read().is_ok());
        match survived {
            true => node.kill_9(),
            false => node.wait_for_exit(),
        }
        node.start(&flags, "");
        let mut client = node.connect();
        let mut answer = |line: &str| run(&mut client, line).render();
        if answer(&format!("EXISTS {with_list}")) == "(integer) 1" {
            let elements = answer(&format!("LRANGE {list} 0 -1"));
            assert_eq!(elements, "1) \"first\"\n2) \"second\"", "death at write {write}");
            survivors += 1;
        }
        if answer(&format!("EXISTS {copy}")) == "(integer) 1" {
            let original = answer(&format!("GET {copied}"));
            assert_eq!(original, "\"value\"", "death at write {write}");
        }
        if survived {
            break;
        }
    }
    assert!(survivors > 1, "no death came after the transaction's decision");
}
