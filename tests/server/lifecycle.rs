//! From start to stop: threads where they belong, what was acknowledged still there after each way to stop, and a
//! shutdown that ends in time under load.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::Client;
use crate::harness::observe::{info_number, resident_bytes, threads};
use crate::harness::process::{measures, wait_for};
use crate::harness::server::{Server, allowed_cpus};

/// A shutdown under load must be over by then.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Clients that write while the server stops, and commands per pipeline.
const CLIENTS: usize = 20;
const PIPELINE: usize = 16;

/// Rounds of writes processed before the server is told to stop.
const ACKNOWLEDGED_MIN: u64 = 5_000;

/// How a server is told to stop.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Signal(libc::c_int),
    Command(&'static [&'static str]),
}

/// Flags for four shards on executors with both roles, or on separate ones.
fn shapes() -> Vec<Vec<String>> {
    let cpus = allowed_cpus();
    let (first, last) = (cpus[0].to_string(), cpus[cpus.len() - 1].to_string());
    let both = if first == last {
        first.clone()
    } else {
        format!("{first},{last}")
    };
    let flags = |network: &str, storage: &str| {
        ["--shards", "4", "--network-cores", network, "--storage-cores", storage]
            .map(str::to_owned)
            .to_vec()
    };
    vec![flags(&both, &both), flags(&first, &last)]
}

#[test]
fn sigterm_under_load_keeps_every_acknowledged_write() {
    stop_under_load(Stop::Signal(libc::SIGTERM));
}

#[test]
fn sigint_under_load_keeps_every_acknowledged_write() {
    stop_under_load(Stop::Signal(libc::SIGINT));
}

#[test]
fn shutdown_under_load_keeps_every_acknowledged_write() {
    stop_under_load(Stop::Command(&["SHUTDOWN"]));
}

/// Data is in the log by the time that a write is acknowledged, so there is nothing that NOSAVE could leave unsaved.
#[test]
fn shutdown_nosave_under_load_keeps_every_acknowledged_write() {
    stop_under_load(Stop::Command(&["SHUTDOWN", "NOSAVE"]));
}

#[test]
fn shutdown_now_under_load_keeps_every_acknowledged_write() {
    stop_under_load(Stop::Command(&["SHUTDOWN", "NOW"]));
}

fn stop_under_load(stop: Stop) {
    let _alone = measures();
    for flags in shapes() {
        let mut server = Server::builder().flags(&flags).start();
        let mut control = server.connect();
        let acknowledged: Vec<u64> = std::thread::scope(|scope| {
            let address = server.address();
            let writers: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(move || write_until_closed(address, number)))
                .collect();
            let is_loaded = || info_number(&mut control, "stats", "total_commands_processed") >= 2 * ACKNOWLEDGED_MIN;
            assert!(wait_for(is_loaded), "the load does not run");
            let told_at = Instant::now();
            let status = tell_to_stop(&mut server, &mut control, stop);
            let took = told_at.elapsed();
            assert_eq!(status.code(), Some(0), "{stop:?}: {}", server.process().output());
            assert!(took < SHUTDOWN_MAX, "{stop:?} took {took:?}");
            println!("{stop:?} under load took {took:?}");
            writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer does not panic"))
                .collect()
        });
        // What was processed and what was acknowledged differ by what was on its way.
        assert!(acknowledged.iter().sum::<u64>() >= ACKNOWLEDGED_MIN / 2);

        server.restart();
        let mut client = server.connect();
        for (number, count) in acknowledged.into_iter().enumerate() {
            // The counter itself, and the newest of the keys that were set beside it.
            let counter = client.command(&["GET", &format!("counter-{number}")]).text();
            let counter: u64 = counter.and_then(|text| text.parse().ok()).unwrap_or(0);
            assert!(
                counter >= count,
                "{stop:?}: client {number} was told {count}, and {counter} is there"
            );
            assert!(
                counter <= count + PIPELINE as u64,
                "{stop:?}: {counter} is there, {count} was acknowledged"
            );
            for written in (1..=count).rev().take(300) {
                let key = format!("key-{number}-{written}");
                assert_eq!(
                    client.command(&["GET", &key]).render(),
                    format!("\"{written}\""),
                    "{stop:?}: {key}"
                );
            }
        }
    }
}

/// Writes until the server ends the connection; returns how many rounds it acknowledged, each an INCR and a SET.
fn write_until_closed(address: std::net::SocketAddr, number: usize) -> u64 {
    let mut client = Client::connect(address).expect("the server accepts");
    let mut acknowledged = 0;
    loop {
        for next in (acknowledged + 1..).take(PIPELINE) {
            let sent = client
                .send(&["SET", &format!("key-{number}-{next}"), &next.to_string()])
                .and_then(|()| client.send(&["INCR", &format!("counter-{number}")]));
            if sent.is_err() {
                // What is unread of the replies is lost with a reset: it does not count as acknowledged.
                return acknowledged;
            }
        }
        for _ in 0..PIPELINE {
            let (Ok(set), Ok(counter)) = (client.read(), client.read()) else {
                return acknowledged;
            };
            assert_eq!(set.render(), "OK");
            acknowledged += 1;
            assert_eq!(counter.render(), format!("(integer) {acknowledged}"));
        }
    }
}

fn tell_to_stop(server: &mut Server, control: &mut Client, stop: Stop) -> ExitStatus {
    match stop {
        Stop::Signal(signal) => server.process().signal(signal),
        // It is answered by the end of the connection alone.
        Stop::Command(words) => {
            control.send(words).expect("the server reads");
            assert!(control.is_closed(), "{words:?} was answered");
        }
    }
    server.wait_for_exit()
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let mut server = Server::builder().flags(&shapes()[0]).start();
    // A client that does not read keeps the first shutdown from being over: its replies are waited for.
    let mut silent = TcpStream::connect(server.address()).expect("the server accepts");
    let mut other = server.connect();
    assert_eq!(
        other
            .command(&[b"SET".as_slice(), b"large", &vec![b'x'; 8 << 20]])
            .render(),
        "OK"
    );
    silent.write_all(&b"GET large\r\n".repeat(4)).expect("the server reads");
    assert!(wait_for(|| info_number(
        &mut other,
        "clients",
        "client_recent_max_output_buffer"
    ) > 8 << 20));
    server.process().signal(libc::SIGTERM);
    assert!(wait_for(|| server.process().output().contains("shutting down")));
    let told_at = Instant::now();
    server.process().signal(libc::SIGTERM);
    let status = server.wait_for_exit();
    assert!(
        told_at.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        told_at.elapsed()
    );
    assert_eq!(status.code(), Some(1), "{}", server.process().output());
    // What was acknowledged is in the log all the same.
    server.restart();
    assert_eq!(
        server.connect().command(&["STRLEN", "large"]).render(),
        format!("(integer) {}", 8 << 20)
    );
}

#[test]
fn a_client_that_does_not_read_does_not_keep_the_server_from_stopping() {
    let mut server = Server::builder().flags(&shapes()[0]).start();
    let mut silent = TcpStream::connect(server.address()).expect("the server accepts");
    let mut other = server.connect();
    assert_eq!(
        other
            .command(&[b"SET".as_slice(), b"large", &vec![b'x'; 8 << 20]])
            .render(),
        "OK"
    );
    silent.write_all(&b"GET large\r\n".repeat(4)).expect("the server reads");
    assert!(wait_for(|| info_number(
        &mut other,
        "clients",
        "client_recent_max_output_buffer"
    ) > 8 << 20));
    // Waits no longer than any exit may take, which is far above what the server gives such a client.
    let status = server.terminate();
    assert_eq!(status.code(), Some(0), "{}", server.process().output());
}

#[test]
fn a_stopping_server_takes_no_connections_and_an_idle_one_stops_at_once() {
    let mut server = Server::builder().flags(&shapes()[1]).start();
    let mut idle: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    let told_at = Instant::now();
    let status = server.terminate();
    assert_eq!(status.code(), Some(0), "{}", server.process().output());
    assert!(
        told_at.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        told_at.elapsed()
    );
    assert!(idle.iter_mut().all(Client::is_closed));
    assert!(TcpStream::connect(server.address()).is_err());
}

#[test]
fn a_restart_recovers_databases_expiries_and_swaps() {
    for flags in shapes() {
        let mut server = Server::builder().flags(&flags).start();
        let mut client = server.connect();
        let command = |client: &mut Client, line: &str| client.command(&line.split(' ').collect::<Vec<_>>()).render();
        for line in [
            "MSET zero-a 1 zero-b 2 zero-c 3",
            "SET lasting v EX 100000",
            "SET brief v PX 1",
            "SET gone v",
            "SET past v",
            "PEXPIREAT past 1",
            "SELECT 9",
            "MSET nine-a 1 nine-b 2",
            "SET nine-lasting v PX 100000000",
            "SELECT 3",
            "SET three 3",
            "MOVE three 4",
            "SWAPDB 0 9",
            "SWAPDB 9 15",
        ] {
            command(&mut client, line);
        }
        // Database 0 has what 9 had, 15 what 0 had.
        command(&mut client, "SELECT 15");
        assert_eq!(command(&mut client, "DEL gone"), "(integer) 1");
        assert!(wait_for(|| command(&mut client, "EXISTS brief") == "(integer) 0"));
        let expires_at = command(&mut client, "PEXPIRETIME lasting");
        let looks: &[(&str, &str)] = &[
            ("SELECT 0", "OK"),
            ("DBSIZE", "(integer) 3"),
            ("MGET nine-a nine-b", "1) \"1\"\n2) \"2\""),
            ("SELECT 15", "OK"),
            ("MGET zero-a zero-b zero-c", "1) \"1\"\n2) \"2\"\n3) \"3\""),
            ("EXISTS brief gone past", "(integer) 0"),
            ("PEXPIRETIME lasting", &expires_at),
            ("SELECT 9", "OK"),
            ("DBSIZE", "(integer) 0"),
            ("SELECT 3", "OK"),
            ("DBSIZE", "(integer) 0"),
            ("SELECT 4", "OK"),
            ("GET three", "\"3\""),
        ];
        for round in 0..4 {
            for (line, expected) in looks {
                assert_eq!(command(&mut client, line), *expected, "{line}, round {round}");
            }
            match round {
                // Twice, so that what a start itself writes is read again, and once without a chance to close.
                0 | 1 => assert_eq!(server.terminate().code(), Some(0)),
                _ => server.kill_9(),
            }
            server.restart();
            client = server.connect();
        }
    }
}

#[test]
fn a_data_directory_keeps_its_number_of_shards() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let data = directory.path().join("data");
    let mut server = Server::builder()
        .data_directory(&data)
        .flags(&["--shards", "4"])
        .start();
    for number in 0..100 {
        server.connect().command(&["SET", &format!("key-{number}"), "v"]);
    }
    assert_eq!(server.terminate().code(), Some(0));
    let (status, printed) = Server::builder()
        .data_directory(&data)
        .flags(&["--shards", "2"])
        .start_refused();
    assert_eq!(status.code(), Some(1), "{printed}");
    let sentences: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("corelane: "))
        .collect();
    let [sentence] = sentences[..] else {
        panic!("not one sentence: {printed}")
    };
    assert!(sentence.contains("4 shards") && sentence.contains('2'), "{sentence}");
    // Without the flag, or with the right one, it is opened as it was made, and nothing was touched.
    for flags in [&[][..], &["--shards", "4"]] {
        let mut server = Server::builder().data_directory(&data).flags(flags).start();
        assert_eq!(server.connect().command(&["DBSIZE"]).render(), "(integer) 100");
        assert_eq!(info_number(&mut server.connect(), "server", "shards"), 4);
        assert_eq!(server.terminate().code(), Some(0));
    }
}

#[test]
fn shards_may_move_to_other_executors_between_starts() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let data = directory.path().join("data");
    let keys: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
    for (round, flags) in [&shapes()[0], &shapes()[1], &shapes()[0]].into_iter().enumerate() {
        let mut server = Server::builder().data_directory(&data).flags(flags).start();
        let mut client = server.connect();
        for key in &keys {
            assert_eq!(
                client.command(&["INCR", key]).render(),
                format!("(integer) {}", round + 1)
            );
        }
        assert_eq!(server.terminate().code(), Some(0));
    }
}

/// Every thread of a server that has compacted something, by name: the CPUs that it may use.
fn threads_by_name(server: &Server) -> BTreeMap<String, BTreeSet<String>> {
    let mut by_name: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for thread in threads(server.process().pid()) {
        by_name.entry(thread.name).or_default().insert(thread.cpus);
    }
    by_name
}

#[test]
fn executors_are_pinned_and_everything_else_is_kept_off_their_cores() {
    let cpus = allowed_cpus();
    if cpus.len() < 2 {
        println!("the test of pinned threads was skipped: it needs two CPUs, and this process may use one.");
        return;
    }
    let (own, background) = (cpus[0].to_string(), cpus[1].to_string());
    let server = Server::builder()
        .flags(&[
            "--shards",
            "2",
            "--network-cores",
            &own,
            "--storage-cores",
            &own,
            "--background-cores",
            &background,
        ])
        // A small log, so that compactions start their threads too.
        .flags(&["--log-size-max", "8mb"])
        .start();
    let mut client = server.connect();
    let value = vec![b'x'; 100_000];
    for number in 0..200 {
        client.command(&[b"SET".as_slice(), format!("key-{number}").as_bytes(), &value]);
    }
    let mut by_name = BTreeMap::new();
    // RocksDB starts some of its threads late; they are moved within a second.
    let settled = wait_for(|| {
        by_name = threads_by_name(&server);
        let rocksdb: Vec<_> = by_name
            .iter()
            .filter(|(name, _)| name.starts_with("rocksdb:"))
            .collect();
        !rocksdb.is_empty() && rocksdb.iter().all(|(_, cpus)| cpus.iter().eq([&background]))
    });
    assert!(
        settled,
        "threads of RocksDB are not on the background core {background}: {by_name:?}"
    );
    for (name, cpus) in &by_name {
        let expected = if *name == format!("executor-{own}") {
            &own
        } else {
            &background
        };
        assert!(
            cpus.iter().eq([expected]),
            "{name} may use {cpus:?}, not {expected}: {by_name:?}"
        );
    }
    assert!(by_name.contains_key(&format!("executor-{own}")), "{by_name:?}");
    assert!(by_name.contains_key("syncer-0"), "{by_name:?}");
}

#[test]
fn separate_executors_have_their_names_and_cores() {
    let cpus = allowed_cpus();
    if cpus.len() < 2 {
        println!("the test of separate executors was skipped: it needs two CPUs, and this process may use one.");
        return;
    }
    let (network, storage) = (cpus[0].to_string(), cpus[1].to_string());
    let flags = [
        "--shards",
        "1",
        "--network-cores",
        &network,
        "--storage-cores",
        &storage,
    ];
    let server = Server::builder().flags(&flags).start();
    let by_name = threads_by_name(&server);
    for (name, cpu) in [
        (format!("network-{network}"), &network),
        (format!("storage-{storage}"), &storage),
    ] {
        let cpus = by_name
            .get(&name)
            .unwrap_or_else(|| panic!("there is no thread {name}: {by_name:?}"));
        assert!(cpus.iter().eq([cpu]), "{name} may use {cpus:?}");
    }
    // INFO tells the same names.
    let info = server
        .connect()
        .command(&["INFO", "executors"])
        .text()
        .unwrap_or_default();
    assert!(info.contains(&format!("thread=network-{network}")) && info.contains(&format!("thread=storage-{storage}")));
}

/// A scan over many keys runs in one piece on its shard; others wait for it, but not for long, and not for one scan
/// after the other.
#[test]
fn scans_over_many_keys_hold_others_up_for_a_moment_only() {
    let _alone = measures();
    const KEYS: usize = 200_000;
    let mut server = Server::builder().flags(&shapes()[1]).start();
    let mut loader = server.connect();
    for chunk in 0..KEYS / 1000 {
        let mut words = vec!["MSET".to_owned()];
        words.extend((0..1000).flat_map(|number| [format!("key-{chunk}-{number}"), "v".to_owned()]));
        assert_eq!(loader.command(&words).render(), "OK");
    }
    let stop = AtomicBool::new(false);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        let scans = scope.spawn(|| {
            let mut scanner = server.connect();
            let mut scans = 0;
            while !stop.load(Ordering::Acquire) {
                // Two at a time, so that one always waits.
                scanner
                    .send(&["KEYS", "nothing-*"])
                    .and_then(|()| scanner.send(&["KEYS", "key-1-1"]))
                    .expect("the server reads");
                assert_eq!(scanner.read().expect("KEYS is answered").render(), "(empty array)");
                assert_eq!(scanner.read().expect("KEYS is answered").render(), "1) \"key-1-1\"");
                scans += 2;
            }
            scans
        });
        let mut reader = server.connect();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            assert_eq!(reader.command(&["GET", "key-7-7"]).render(), "\"v\"");
            slowest = slowest.max(asked.elapsed());
        }
        stop.store(true, Ordering::Release);
        println!(
            "{} scans of {KEYS} keys; the slowest GET beside them took {slowest:?}",
            scans.join().expect("KEYS works")
        );
    });
    assert!(slowest < Duration::from_secs(3), "a GET took {slowest:?}");
    assert!(resident_bytes(server.process().pid()) > 0);
    assert_eq!(server.terminate().code(), Some(0));
}
