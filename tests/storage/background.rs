//! A batch that is with the committer: the executor goes on meanwhile, and nobody is told of the batch before it is
//! written, nor anything that it does not become.
//!
//! `hold-writes` keeps a batch on its way for as long as a test wants.

use super::{Node, Switch, contents, key_on};
use crate::harness::client::Client;
use crate::harness::observe::waits_for_a_thread;
use crate::harness::process::wait_for;
use crate::harness::value::Value;

/// Every batch goes to the committer, except those of commands that look at the disk.
const FLAGS: &str = "--shards 1 --background-commit-writes 1";

/// A server with a key `old` and one batch under way, with `SET key new`, sent by the returned client.
fn with_a_batch_under_way(flags: &str, faults: &str) -> (Node, Switch, Client) {
    let mut node = Node::new();
    let hold = node.switch("hold");
    node.start(
        &format!("{FLAGS} {flags}"),
        &format!("hold-writes={},{faults}", hold.when()),
    );
    let mut writer = node.connect();
    for key in ["key", "other", "large"] {
        assert_eq!(writer.command(&["SET", key, "old"]).render(), "OK");
    }
    hold.on();
    writer.send(&["SET", "key", "new"]).expect("the server reads");
    assert!(wait_for(|| node.info("executors", "executor0", "held") == "1"));
    (node, hold, writer)
}

/// Clients that each sent one command, none of which may be answered yet.
fn waiting(node: &Node, commands: &[&[&str]]) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    for command in commands {
        let mut client = node.connect();
        client.send(command).expect("the server reads");
        // One after the other: each must have run before the next is sent.
        let sent = clients.len() + 2;
        assert!(
            wait_for(|| node.info("executors", "executor0", "held") == sent.to_string()),
            "{command:?} is not waiting"
        );
        clients.push(client);
    }
    node.wait_until_it_has_gone_on();
    for (client, command) in clients.iter_mut().zip(commands) {
        assert!(client.has_no_reply(), "{command:?} was answered before its writes were");
    }
    clients
}

#[test]
fn who_has_seen_a_batch_under_way_waits_for_it_and_others_do_not() {
    let (mut node, _hold, mut writer) = with_a_batch_under_way("", "");
    let mut others = node.connect();
    assert_eq!(others.command(&["GET", "other"]).render(), "\"old\"");
    assert_eq!(others.command(&["EXISTS", "nothing"]), Value::Integer(0));
    let commands: [&[&str]; 6] = [
        &["GET", "key"],
        &["SET", "key", "newer"],
        &["GET", "key"],
        &["SET", "more", "1"],
        // It counts the key that is not written.
        &["DBSIZE"],
        &["DEL", "other"],
    ];
    waiting(&node, &commands);
    assert!(writer.has_no_reply());
    assert_eq!(others.command(&["GET", "large"]).render(), "\"old\"");
    node.kill_9();
    node.start(FLAGS, "");
    let mut client = node.connect();
    let found = client.command(&["MGET", "key", "more", "other"]).render();
    assert_eq!(found, "1) \"old\"\n2) (nil)\n3) \"old\"", "nothing was acknowledged");
}

#[test]
fn a_batch_that_is_written_lets_its_replies_go_and_what_was_staged_meanwhile_follows() {
    let (mut node, hold, mut writer) = with_a_batch_under_way("", "");
    let mut clients = waiting(&node, &[&["GET", "key"], &["SET", "key", "newer"], &["DBSIZE"]]);
    hold.off();
    assert_eq!(writer.read().expect("it is written").render(), "OK");
    let replies: Vec<String> = clients
        .iter_mut()
        .map(|client| client.read().expect("it is written").render())
        .collect();
    assert_eq!(replies, ["\"new\"", "OK", "(integer) 3"]);
    node.kill_9();
    node.start(FLAGS, "");
    assert_eq!(node.connect().command(&["GET", "key"]).render(), "\"newer\"");
}

#[test]
fn a_batch_that_fails_takes_with_it_what_was_staged_on_top() {
    for (fault, expected, command_waits) in [
        ("fail-write", "SHARDDOWN", false),
        ("disk-full", "MISCONF", false),
        ("disk-full", "MISCONF", true),
    ] {
        let switch_path = tempfile::tempdir().expect("a temporary directory can be made");
        let switch = Switch {
            path: switch_path.path().join("fault"),
        };
        let (mut node, hold, writer) = with_a_batch_under_way("", &format!("{fault}={}", switch.when()));
        let mut clients = waiting(
            &node,
            &[
                &["GET", "key"],
                &["SET", "key", "newer", "PX", "100000"],
                &["DEL", "other"],
                &["APPEND", "more", "1"],
            ],
        );
        clients.push(writer);
        if command_waits {
            // One that looks at the disk waits for the batch before it runs; it learns of the failure, too.
            let mut client = node.connect();
            client.send(&["RANDOMKEY"]).expect("the server reads");
            let held = (clients.len() + 1).to_string();
            assert!(
                wait_for(|| node.info("executors", "executor0", "held") == held),
                "RANDOMKEY does not wait"
            );
            clients.push(client);
        }
        switch.on();
        hold.off();
        for client in &mut clients {
            let reply = client.read().expect("the server answers").render();
            assert!(reply.starts_with(&format!("(error) {expected} ")), "{fault}: {reply}");
        }
        if fault == "disk-full" {
            let mut client = node.connect();
            let all = ["MGET", "key", "other", "more"];
            let found = client.command(&all).render();
            assert_eq!(found, "1) \"old\"\n2) \"old\"\n3) (nil)", "as if nothing had been");
            assert_eq!(client.command(&["DBSIZE"]), Value::Integer(3));
            switch.off();
            assert!(
                wait_for(|| client.command(&["SET", "more", "2"]).render() == "OK"),
                "there is room again"
            );
            assert_eq!(client.command(&["DBSIZE"]), Value::Integer(4));
        }
        node.kill_9();
        node.start(FLAGS, "");
        let mut client = node.connect();
        let found = client.command(&["MGET", "key", "other"]).render();
        assert_eq!(found, "1) \"old\"\n2) \"old\"", "{fault}");
        assert_eq!(client.command(&["TTL", "key"]), Value::Integer(-1), "{fault}");
        assert_eq!(node.terminate().0.code(), Some(0));
        contents::check(&node.data_directory());
    }
}

#[test]
fn a_batch_that_stalls_is_written_again_with_what_was_staged_meanwhile() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let stall = Switch {
        path: folder.path().join("stall"),
    };
    let (mut node, hold, mut writer) = with_a_batch_under_way("", &format!("stall-writes={}", stall.when()));
    let commands: [&[&str]; 5] = [
        // The deadline's entry is in no batch yet when it is replaced.
        &["SET", "key", "newer", "PXAT", "40000000000000"],
        &["SET", "key", "newest", "PXAT", "50000000000000"],
        &["DEL", "other"],
        &["INCR", "more"],
        &["GET", "key"],
    ];
    let mut clients = waiting(&node, &commands);
    stall.on();
    hold.off();
    node.wait_for_state(0, "stalled");
    assert_eq!(
        node.connect().command(&["GET", "large"]).render(),
        "\"old\"",
        "reads go on"
    );
    node.wait_until_it_has_gone_on();
    assert!(writer.has_no_reply() && clients.iter_mut().all(Client::has_no_reply));
    stall.off();
    assert_eq!(writer.read().expect("the stall is over").render(), "OK");
    let replies: Vec<String> = clients
        .iter_mut()
        .map(|client| client.read().expect("the stall is over").render())
        .collect();
    assert_eq!(replies, ["OK", "OK", "(integer) 1", "(integer) 1", "\"newest\""]);
    node.kill_9();
    contents::check(&node.data_directory());
    node.start(FLAGS, "");
    let mut client = node.connect();
    let found = client.command(&["MGET", "key", "other", "more"]).render();
    assert_eq!(found, "1) \"newest\"\n2) (nil)\n3) \"1\"");
    assert_eq!(
        client.command(&["PEXPIRETIME", "key"]),
        Value::Integer(50_000_000_000_000)
    );
}

#[test]
fn keys_that_expire_do_not_make_the_executor_wait_for_a_batch() {
    let (node, hold, mut writer) = with_a_batch_under_way("", "");
    let mut client = node.connect();
    // Its deadline is in the batch after, and passes before that is written.
    let mut waiting = waiting(&node, &[&["SET", "short", "1", "PX", "50"]]);
    let now_ms = |client: &mut Client| match client.command(&["TIME"]) {
        Value::Array(Some(parts)) => {
            let number = |part: &Value| part.text().and_then(|text| text.parse::<u64>().ok()).expect("a number");
            number(&parts[0]) * 1000 + number(&parts[1]) / 1000
        }
        reply => panic!("TIME was answered {}", reply.render()),
    };
    let is_over = now_ms(&mut client) + 51;
    let passes = wait_for(|| {
        assert_eq!(client.command(&["GET", "other"]).render(), "\"old\"");
        now_ms(&mut client) > is_over
    });
    assert!(passes, "the server's clock stands still");
    node.wait_until_it_has_gone_on();
    hold.off();
    for client in waiting.iter_mut().chain([&mut writer]) {
        assert_eq!(client.read().expect("it is written").render(), "OK");
    }
    let swept = wait_for(|| client.command(&["DBSIZE"]) == Value::Integer(3));
    assert!(swept, "DBSIZE is {}", client.command(&["DBSIZE"]).render());
}

/// They look at the disk, so they wait for the batch themselves.
#[test]
fn commands_on_a_whole_shard_see_a_batch_that_was_under_way() {
    let expected = [
        (
            &["SCAN", "0", "COUNT", "100", "MATCH", "k*"][..],
            "1) \"0\"\n2) 1) \"key\"",
            "\"new\"",
        ),
        (&["KEYS", "k*"], "1) \"key\"", "\"new\""),
        (&["FLUSHALL"], "OK", "(nil)"),
        (&["FLUSHDB"], "OK", "(nil)"),
        (&["SWAPDB", "0", "1"], "OK", "(nil)"),
    ];
    for (command, reply, key_after) in expected {
        let (mut node, hold, mut writer) = with_a_batch_under_way("", "");
        let mut client = node.connect();
        client.send(command).expect("the server reads");
        // KEYS waits on the executor's thread, which answers no INFO meanwhile.
        let waits = wait_for(|| match command[0] {
            "KEYS" => waits_for_a_thread(node.pid()),
            _ => node.info("executors", "executor0", "held") == "2",
        });
        assert!(waits, "{command:?} does not wait");
        assert!(client.has_no_reply(), "{command:?}");
        hold.off();
        assert_eq!(
            client.read().expect("the server answers").render(),
            reply,
            "{command:?}"
        );
        assert_eq!(writer.read().expect("it is written").render(), "OK");
        assert_eq!(client.command(&["GET", "key"]).render(), key_after, "{command:?}");
        node.kill_9();
        node.start(FLAGS, "");
        assert_eq!(
            node.connect().command(&["GET", "key"]).render(),
            key_after,
            "{command:?}"
        );
        assert_eq!(node.terminate().0.code(), Some(0));
        contents::check(&node.data_directory());
    }
}

#[test]
fn a_server_that_stops_finishes_the_batch_under_way() {
    let (mut node, hold, mut writer) = with_a_batch_under_way("--durability always", "record-synced-log=1");
    let mut clients = waiting(&node, &[&["SET", "more", "1"]]);
    node.process().signal(libc::SIGTERM);
    assert!(wait_for(|| node.process().output().contains("shutting down")));
    hold.off();
    for client in clients.iter_mut().chain([&mut writer]) {
        assert_eq!(client.read().expect("it is written").render(), "OK");
    }
    node.wait_for_exit();
    node.cut_unsynced(|synced, _| synced);
    node.start(FLAGS, "");
    let found = node.connect().command(&["MGET", "key", "more"]).render();
    assert_eq!(found, "1) \"new\"\n2) \"1\"");
}

/// A turn may be written in two parts: by a command that looks at the disk, and at its end. Only the sync after the
/// second makes the turn durable.
#[test]
fn the_second_part_of_a_turn_waits_for_its_own_sync_under_always() {
    let mut node = Node::new();
    // Slow enough that the first part is synced before the second is written.
    let faults = "delay-write-ms=300,record-synced-log=1";
    node.start(&format!("{FLAGS} --durability always"), faults);
    let mut client = node.connect();
    client
        .send_bytes(b"SET first 1\r\nRANDOMKEY\r\nSET second 2\r\n")
        .expect("the server reads");
    for expected in ["OK", "\"first\"", "OK"] {
        assert_eq!(client.read().expect("the server answers").render(), expected);
    }
    node.kill_9();
    node.cut_unsynced(|synced, _| synced);
    node.start(FLAGS, "");
    let found = node.connect().command(&["MGET", "first", "second"]).render();
    assert_eq!(found, "1) \"1\"\n2) \"2\"", "what was acknowledged is on disk");
}

/// What one command has staged on several shards is committed as one. When a batch that it has seen fails on one of
/// them, the others must not keep their parts.
#[test]
fn a_batch_that_fails_takes_with_it_what_was_staged_with_its_shard_on_others() {
    let core = crate::harness::server::allowed_cpus()[0];
    let mut node = Node::new();
    let (hold, full) = (node.switch("hold"), node.switch("full"));
    let faults = format!("hold-writes={},disk-full=1:{}", hold.when(), full.when());
    let flags = format!(
        "--shards 4 --background-commit-writes 1 --durability interval --network-cores {core} --storage-cores {core}"
    );
    node.start(&flags, &faults);
    let [first, second, third] = [0, 1, 2].map(|shard| key_on(shard, 4, "key"));
    let mut writer = node.connect();
    let all = ["MSET", &first, "old", &second, "old", &third, "old"];
    assert_eq!(writer.command(&all).render(), "OK");
    hold.on();
    writer.send(&["SET", &first, "new"]).expect("the server reads");
    assert!(wait_for(|| node.info("executors", "executor0", "held") == "1"));
    let mut clients = waiting(
        &node,
        &[
            &["MSET", &first, "newer", &second, "newer"],
            &["APPEND", &second, "newest"],
            &["SET", &third, "newest"],
        ],
    );
    clients.push(writer);
    full.on();
    hold.off();
    // Of a write to several shards the server does not say that nothing was written; it closes the connection.
    assert!(clients.remove(0).is_closed());
    for client in &mut clients {
        let reply = client.read().expect("the server answers").render();
        assert!(reply.starts_with("(error) MISCONF "), "{reply}");
    }
    let mut client = node.connect();
    let read = ["MGET", &first, &second, &third];
    let before = "1) \"old\"\n2) \"old\"\n3) \"old\"";
    assert_eq!(client.command(&read).render(), before, "as if nothing had been");
    full.off();
    let again = ["SET", &third, "written"];
    assert!(
        wait_for(|| client.command(&again).render() == "OK"),
        "there is room again"
    );
    node.kill_9();
    node.start(&flags, "");
    let found = node.connect().command(&read).render();
    assert_eq!(found, "1) \"old\"\n2) \"old\"\n3) \"written\"");
}
