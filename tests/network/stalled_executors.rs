//! A storage executor that does nothing for a while, beside one that does its work: whoever needs only the second does
//! not notice, and what is held for those who need the first is bounded.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::{has_two_cpus, raw_at, request};
use crate::harness::client::Client;
use crate::harness::observe::{executors_sum, info_number, resident_bytes};
use crate::harness::process::wait_for;
use crate::harness::server::allowed_cpus;
use crate::storage::{Node, Switch, key_on};

const MIB: usize = 1 << 20;

/// The first CPU has a network executor and storage executor 0, the second storage executor 1 only, which does nothing
/// as long as the switch is on. Four shards, of which 0 and 1 are the first one's.
fn with_stalled_executor(flags: &str) -> (Node, Switch) {
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let mut node = Node::new();
    let stalled = node.switch("stalled");
    // However long the machine takes for a test, nothing that waits is given up.
    let flags = format!(
        "--shards 4 --network-cores {first} --storage-cores {first},{last} --request-timeout-ms 600000 {flags}"
    );
    node.start(&flags, &format!("hold-storage={}", stalled.when()));
    (node, stalled)
}

/// Keys of executor 0 and of executor 1.
fn keys() -> (String, String) {
    (key_on(0, 4, "here"), key_on(3, 4, "there"))
}

/// A figure of CLIENT LIST for the client of a connection that is not asked itself.
fn client_figure(control: &mut Client, id: &str, figure: &str) -> usize {
    let line = control.command(&["CLIENT", "LIST", "ID", id]).text().expect("a line");
    let value = line
        .split_whitespace()
        .find_map(|field| field.strip_prefix(figure)?.strip_prefix('='));
    let value = value.unwrap_or_else(|| panic!("there is no {figure} in {line:?}"));
    value.parse().expect("it is a number")
}

fn id_of(client: &mut Client) -> String {
    client.command(&["CLIENT", "ID"]).text().expect("CLIENT ID is a number")
}

/// The destination to the stalled executor has no credits left, and neither who took them nor who wants some holds up
/// the others.
#[test]
fn clients_of_the_other_executor_are_served_while_one_takes_no_more_requests() {
    if !has_two_cpus("clients_of_the_other_executor_are_served_while_one_takes_no_more_requests") {
        return;
    }
    const CREDITS: usize = 64;
    const FLOOD: usize = 500;
    let _alone = crate::harness::process::measures();
    let (node, stalled) = with_stalled_executor(&format!("--request-credits {CREDITS}"));
    let (here, there) = keys();
    let mut control = node.connect();
    control.command(&["SET", &here, "0"]);
    control.command(&["SET", &there, "0"]);
    stalled.on_for_executor(1);
    let mut floods: Vec<Client> = (0..3).map(|_| node.connect()).collect();
    for flood in &mut floods {
        flood
            .send_bytes(&request(&["INCR", &there]).repeat(FLOOD))
            .expect("the server reads");
    }
    assert!(wait_for(|| executors_sum(&mut control, "pending") >= CREDITS as u64));
    assert!(wait_for(|| executors_sum(&mut control, "backpressure_events") >= 3));
    // One command for each, then what the other executor runs: it waits, in its order.
    let mut mixed = node.connect();
    let pipeline = [request(&["SET", &here, "mixed"]), request(&["GET", &there])].concat();
    mixed.send_bytes(&pipeline).expect("the server reads");
    assert_eq!(mixed.read().expect("an answer").render(), "OK");
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    let began = Instant::now();
    for number in 0..500 {
        for client in &mut clients {
            assert_eq!(client.command(&["SET", &here, &number.to_string()]).render(), "OK");
            assert_eq!(client.command(&["GET", &here]).text(), Some(number.to_string()));
            assert_eq!(client.command(&["PING"]).render(), "PONG");
        }
    }
    println!("6000 commands beside a stalled executor took {:?}", began.elapsed());
    // Queued for the stalled executor; EXEC goes to both.
    assert_eq!(clients[0].command(&["MULTI"]).render(), "OK");
    assert_eq!(clients[0].command(&["GET", &there]).render(), "QUEUED");
    clients[0].send(&["EXEC"]).expect("the server reads");
    assert!(clients[0].has_no_reply() && mixed.has_no_reply());
    stalled.off();
    for flood in &mut floods {
        (0..FLOOD).for_each(|_| drop(flood.read().expect("every command is answered")));
    }
    let total = (3 * FLOOD).to_string();
    assert!(mixed.read().expect("it is answered").text().is_some());
    assert!(clients[0].read().expect("it is answered").render().starts_with("1) "));
    assert_eq!(control.command(&["GET", &there]).text(), Some(total));
    assert!(wait_for(|| executors_sum(&mut control, "pending") == 0));
}

/// Replies that are ready and wait behind one that is not are held for their client: they are in its figures, no more
/// of what it pipelines is run above a bound, and everything comes in its order in the end.
#[test]
fn replies_behind_a_slower_one_stop_their_client_and_are_seen() {
    if !has_two_cpus("replies_behind_a_slower_one_stop_their_client_and_are_seen") {
        return;
    }
    const BEHIND: usize = 60;
    let _alone = crate::harness::process::measures();
    let (node, stalled) = with_stalled_executor("");
    let (here, there) = keys();
    let mut control = node.connect();
    control.command(&[b"SET".as_slice(), here.as_bytes(), &vec![b'v'; MIB]]);
    control.command(&["SET", &there, "late"]);
    let mut client = node.connect();
    let id = id_of(&mut client);
    stalled.on_for_executor(1);
    client.send(&["GET", &there]).expect("the server reads");
    // One after the other, so that no more are out than were asked for before the bound was reached.
    let mut is_stopped = false;
    for number in 1..=BEHIND {
        client.send(&["GET", &here]).expect("the server reads");
        let seen = wait_for(|| {
            is_stopped = client_figure(&mut control, &id, "qbuf") > 0;
            is_stopped || client_figure(&mut control, &id, "omem") >= number * MIB
        });
        assert!(seen, "reply {number} is neither held nor waits its command");
        if is_stopped {
            let rest = request(&["GET", &here]).repeat(BEHIND - number);
            client.send_bytes(&rest).expect("the server reads");
            break;
        }
    }
    assert!(is_stopped, "{BEHIND} MiB are held, and it is still read");
    let small = key_on(0, 4, "small");
    (0..100).for_each(|_| drop(control.command(&["SET", &small, "1"])));
    let held = client_figure(&mut control, &id, "omem");
    assert!((16 * MIB..18 * MIB).contains(&held), "{held} bytes are held");
    assert!(client_figure(&mut control, &id, "tot-mem") >= held);
    assert!(info_number(&mut control, "clients", "client_recent_max_output_buffer") >= held as u64);
    stalled.off();
    assert_eq!(client.read().expect("it is answered").text().as_deref(), Some("late"));
    for _ in 0..BEHIND {
        assert_eq!(
            client
                .read()
                .expect("every command is answered")
                .text()
                .map(|value| value.len()),
            Some(MIB)
        );
    }
    assert!(wait_for(|| client_figure(&mut control, &id, "omem") == 0));
}

/// What was out before anybody could know how large its replies are counts against the output limit as well.
#[test]
fn replies_behind_a_slower_one_count_against_the_output_limit() {
    if !has_two_cpus("replies_behind_a_slower_one_count_against_the_output_limit") {
        return;
    }
    const LIMIT_MIB: usize = 32;
    const BEHIND: usize = 900;
    let _alone = crate::harness::process::measures();
    let (node, stalled) = with_stalled_executor("");
    let (here, there) = keys();
    let mut control = node.connect();
    let limit = format!("normal {LIMIT_MIB}mb 0 0");
    let set = control.command(&["CONFIG", "SET", "client-output-buffer-limit", &limit]);
    assert_eq!(set.render(), "OK");
    control.command(&[b"SET".as_slice(), here.as_bytes(), &vec![b'v'; MIB]]);
    let base_bytes = resident_bytes(node.pid());
    let mut peak_bytes = 0;
    stalled.on_for_executor(1);
    let mut greedy = raw_at(node.address());
    let pipeline = [request(&["GET", &there]), request(&["GET", &here]).repeat(BEHIND)].concat();
    greedy.write_all(&pipeline).expect("the server reads");
    let is_cut_off = wait_for(|| {
        peak_bytes = peak_bytes.max(resident_bytes(node.pid()));
        info_number(&mut control, "stats", "client_output_buffer_limit_disconnections") == 1
    });
    assert!(is_cut_off, "{BEHIND} MiB may be held for one client");
    let held = peak_bytes.saturating_sub(base_bytes) / MIB as u64;
    println!("{held} MiB were held");
    assert!(held < 300, "{held} MiB were held");
    stalled.off();
    let mut rest = Vec::new();
    // It ends, with a reset perhaps.
    let _ = greedy.read_to_end(&mut rest);
    assert!(rest.is_empty(), "a reply came although the first was not there");
    assert_eq!(control.command(&["GET", &there]).render(), "(nil)");
}

/// What a command keeps while it waits is its client's, too.
#[test]
fn a_command_that_waits_is_in_the_figures_and_under_the_limit_of_its_client() {
    if !has_two_cpus("a_command_that_waits_is_in_the_figures_and_under_the_limit_of_its_client") {
        return;
    }
    let (node, _stalled) = with_stalled_executor("--client-query-buffer-limit 1mb");
    let mut control = node.connect();
    let mut waiting = node.connect();
    let id = id_of(&mut waiting);
    let before = client_figure(&mut control, &id, "tot-mem");
    let long = "k".repeat(MIB * 9 / 10);
    waiting.send(&["BLPOP", &long, "0"]).expect("the server reads");
    let is_counted = wait_for(|| client_figure(&mut control, &id, "tot-mem") >= before + long.len());
    assert!(is_counted, "{}", client_figure(&mut control, &id, "tot-mem"));
    // What it sends behind that comes on top.
    let _ = waiting.send(&["SET", "key", &"v".repeat(MIB / 5)]);
    assert!(waiting.is_closed());
    assert_eq!(
        info_number(&mut control, "stats", "client_query_buffer_limit_disconnections"),
        1
    );
}

/// Both executors have both roles, and the second does nothing as long as the switch is on: neither its network part.
fn with_stalled_clients() -> (Node, Switch) {
    let mut node = Node::new();
    let stalled = node.switch("stalled");
    node.start(
        &crate::storage::four_shards_on_two_executors(),
        &format!("hold-storage={}", stalled.when()),
    );
    (node, stalled)
}

/// Connections on the first and on the second network executor.
fn connections(node: &Node, control: &mut Client, here_count: usize, there_count: usize) -> (Vec<Client>, Vec<Client>) {
    let cpus = allowed_cpus();
    let last = cpus[cpus.len() - 1].to_string();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    while here.len() < here_count || there.len() < there_count {
        let before = super::pubsub::connections_on(control, &last);
        let mut client = node.connect();
        assert_eq!(client.command(&["PING"]).render(), "PONG");
        match super::pubsub::connections_on(control, &last) > before {
            true => there.push(client),
            false => here.push(client),
        }
        assert!(here.len() + there.len() < 500, "the connections all go to one executor");
    }
    (here, there)
}

/// An executor that does nothing for a while gets more lines of MONITOR than each of its monitors may have waiting:
/// these are cut off, and its subscribers get everything.
#[test]
fn monitors_that_are_too_far_behind_are_cut_off_and_nobody_else() {
    if !has_two_cpus("monitors_that_are_too_far_behind_are_cut_off_and_nobody_else") {
        return;
    }
    const MONITORS: usize = 30;
    const LINES: usize = 100;
    const LINE_BYTES: usize = 100_000;
    let _alone = crate::harness::process::measures();
    let (node, stalled) = with_stalled_clients();
    let mut control = node.connect();
    let (mut here, mut there) = connections(&node, &mut control, 4, MONITORS + 2);
    let (mut flood, mut stopper) = (here.remove(0), here.remove(0));
    let (mut subscriber, mut late) = (there.remove(0), there.remove(0));
    let mut monitors: Vec<Client> = there.drain(..MONITORS).collect();
    let mut monitor_here = here.remove(0);
    for monitor in monitors.iter_mut().chain([&mut monitor_here]) {
        assert_eq!(monitor.command(&["MONITOR"]).render(), "OK");
    }
    subscriber.command(&["SUBSCRIBE", "channel"]);
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "normal 6mb 0 0"];
    assert_eq!(control.command(&limit).render(), "OK");
    stalled.on_for_executor(1);
    stopper
        .send(&["GET", &key_on(3, 4, "there")])
        .expect("the server reads");
    let long = "e".repeat(LINE_BYTES);
    let reader = std::thread::spawn(move || {
        // Who reads the same lines elsewhere is not behind.
        let mut lines = 0;
        while lines < LINES {
            let line = monitor_here.read().expect("a line comes").render();
            lines += usize::from(line.contains("ECHO"));
        }
    });
    for _ in 0..LINES {
        assert_eq!(
            flood.command(&["ECHO", &long]).text().map(|text| text.len()),
            Some(LINE_BYTES)
        );
        // A script does not wait for those who are behind.
        let script = "return redis.call('PUBLISH', ARGV[1], ARGV[2])";
        flood.command(&["EVAL", script, "1", &key_on(0, 4, "here"), "channel", "x"]);
    }
    reader.join().expect("it got every line");
    stalled.off();
    let disconnections =
        |control: &mut Client| info_number(control, "stats", "client_output_buffer_limit_disconnections");
    assert!(wait_for(|| disconnections(&mut control) == MONITORS as u64));
    for _ in 0..LINES {
        assert!(
            subscriber
                .read()
                .expect("every message comes")
                .render()
                .ends_with("\"x\"")
        );
    }
    late.command(&["SUBSCRIBE", "channel"]);
    assert_eq!(flood.command(&["PUBLISH", "channel", "y"]).render(), "(integer) 2");
    assert_eq!(disconnections(&mut control), MONITORS as u64);
}

/// More outdated keys than an inbox takes: their clients are told that everything is outdated, and stay.
#[test]
fn clients_that_track_are_told_that_everything_is_outdated_when_it_is_too_much() {
    if !has_two_cpus("clients_that_track_are_told_that_everything_is_outdated_when_it_is_too_much") {
        return;
    }
    const WRITES: usize = 80;
    let _alone = crate::harness::process::measures();
    let (node, stalled) = with_stalled_clients();
    let mut control = node.connect();
    let (mut here, mut there) = connections(&node, &mut control, 2, 1);
    let (mut writer, mut stopper, mut tracking) = (here.remove(0), here.remove(0), there.remove(0));
    tracking.command(&["HELLO", "3"]);
    let on = tracking.command(&["CLIENT", "TRACKING", "ON", "BCAST"]);
    assert_eq!(on.render(), "OK");
    stalled.on_for_executor(1);
    stopper
        .send(&["GET", &key_on(3, 4, "there")])
        .expect("the server reads");
    // All on the executor that does its work.
    let tag = key_on(0, 4, "tag");
    for number in 0..WRITES {
        let key = format!("{{{tag}}}{number}{}", "k".repeat(MIB));
        assert_eq!(writer.command(&["SET", &key, "v"]).render(), "OK");
    }
    stalled.off();
    let (mut told, mut everything) = (0, false);
    while !everything {
        let push = tracking.read().expect("it is told").render();
        everything = push.contains("(nil)");
        told += usize::from(!everything);
    }
    assert!(told < WRITES, "{told} keys were told of, and then everything");
    tracking.send(&["PING"]).expect("the server reads");
    assert_eq!(tracking.read().expect("it stays").render(), "PONG");
    // From then on it is as before.
    writer.command(&["SET", "short", "v"]);
    assert!(tracking.read().expect("it is told").render().contains("short"));
}

/// The first commands after a stall are answered soon.
#[test]
fn a_stalled_executor_goes_on_where_it_stopped() {
    if !has_two_cpus("a_stalled_executor_goes_on_where_it_stopped") {
        return;
    }
    let (node, stalled) = with_stalled_executor("");
    let (_, there) = keys();
    let mut client = node.connect();
    client.command(&["SET", &there, "1"]);
    stalled.on_for_executor(1);
    client.send(&["INCR", &there]).expect("the server reads");
    assert!(client.has_no_reply());
    stalled.off();
    let began = Instant::now();
    assert_eq!(client.read().expect("it is answered").render(), "(integer) 2");
    assert!(began.elapsed() < Duration::from_secs(5));
}
