//! MULTI and EXEC where a transcript cannot look: memory, statistics, lost connections, pipelines that go on behind
//! EXEC.

use std::io::Write;

use super::{exchange, one_executor, raw, request, several_executors};
use crate::harness::client::Client;
use crate::harness::observe::{info, info_number};
use crate::harness::process::wait_for;
use crate::harness::server::Server;

/// The reply to a command, words separated by blanks, as redis-cli shows it.
fn run(client: &mut Client, line: &str) -> String {
    client.command(&line.split_whitespace().collect::<Vec<_>>()).render()
}

#[test]
fn a_queue_that_grows_past_the_query_buffer_s_limit_ends_the_connection() {
    let server = Server::builder()
        .flags(&one_executor())
        .flags(&["--client-query-buffer-limit", "1mb"])
        .start();
    let mut other = server.connect();
    let mut greedy = raw(&server);
    exchange(&mut greedy, b"MULTI\r\n", b"+OK\r\n");
    let command = request(&["SET", "key", &"v".repeat(10_000)]);
    let refused = (0..1_000).any(|_| greedy.write_all(&command).is_err());
    assert!(refused, "ten million bytes were queued");
    assert_eq!(
        info_number(&mut other, "stats", "client_query_buffer_limit_disconnections"),
        1
    );
    assert_eq!(run(&mut other, "EXISTS key"), "(integer) 0");
    // What was run does not count any more.
    let mut modest = server.connect();
    for _ in 0..30 {
        assert_eq!(run(&mut modest, "MULTI"), "OK");
        for _ in 0..10 {
            modest
                .send(&["SET", "key", &"v".repeat(10_000)])
                .expect("the server reads");
            assert_eq!(modest.read().expect("a reply").render(), "QUEUED");
        }
        assert!(run(&mut modest, "EXEC").starts_with(" 1) OK"));
    }
}

#[test]
fn a_client_that_leaves_inside_multi_has_done_nothing_and_is_forgotten() {
    let server = Server::builder().flags(&several_executors()).start();
    let mut other = server.connect();
    {
        let mut leaving = server.connect();
        assert_eq!(run(&mut leaving, "WATCH {t}a"), "OK");
        assert_eq!(run(&mut leaving, "MULTI"), "OK");
        assert_eq!(run(&mut leaving, "SET {t}a 1"), "QUEUED");
        assert_eq!(run(&mut other, "SET {t}a 0"), "OK");
        assert!(run(&mut other, "CLIENT LIST").contains(" flags=xd "));
    }
    assert!(wait_for(|| info_number(&mut other, "clients", "connected_clients") == 1));
    assert_eq!(run(&mut other, "GET {t}a"), "\"0\"");
    assert!(!run(&mut other, "CLIENT LIST").contains(" flags=xd "));
}

#[test]
fn what_follows_exec_in_a_pipeline_runs_in_the_database_that_was_selected_inside() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut client = raw(&server);
        let (mut sent, mut expected) = (Vec::new(), String::new());
        for database in (0..16).cycle().take(100) {
            let queued = ["SELECT", "SET", "EXEC"];
            sent.extend(
                format!(
                    "MULTI\r\nSELECT {database}\r\nSET {{t}}k {database}\r\nEXEC\r\nGET {{t}}k\r\nMULTI\r\nGET \
                 {{t}}k\r\nEXEC\r\n"
                )
                .into_bytes(),
            );
            let value = format!("${}\r\n{database}\r\n", database.to_string().len());
            expected += "+OK\r\n";
            expected += &"+QUEUED\r\n".repeat(queued.len() - 1);
            expected += &format!("*2\r\n+OK\r\n+OK\r\n{value}+OK\r\n+QUEUED\r\n*1\r\n{value}");
        }
        exchange(&mut client, &sent, expected.as_bytes());
    }
}

#[test]
fn commands_inside_exec_are_counted_as_commands_and_their_errors_as_errors() {
    commands_inside_exec_are_counted(&one_executor(), "none");
    // With a key on another executor, if there is one.
    commands_inside_exec_are_counted(&several_executors(), "a");
    commands_inside_exec_are_counted(&several_executors(), "b");
}

fn commands_inside_exec_are_counted(flags: &[String], absent: &str) {
    let server = Server::builder().flags(flags).start();
    let mut client = server.connect();
    assert_eq!(run(&mut client, "SET s text"), "OK");
    let before = info_number(&mut client, "stats", "total_commands_processed");
    let (get, del) = (format!("GET {absent}"), format!("DEL {absent}"));
    for line in ["MULTI", "INCR s", "GET s", &get, "ECHO hi", &del, "EXEC"] {
        run(&mut client, line);
    }
    let after = info_number(&mut client, "stats", "total_commands_processed");
    // MULTI, the five, EXEC, and INFO itself.
    assert_eq!(after - before, 8);
    let statistics = info(&mut client, "commandstats");
    for (name, calls, failed) in [
        ("get", 2, 0),
        ("incr", 1, 1),
        ("echo", 1, 0),
        ("exec", 1, 0),
        ("multi", 1, 0),
    ] {
        let line = statistics
            .lines()
            .find(|line| line.starts_with(&format!("cmdstat_{name}:")));
        let line = line.unwrap_or_else(|| panic!("{name} is missing:\n{statistics}"));
        assert!(line.contains(&format!(":calls={calls},")), "{line}");
        assert!(line.contains(&format!("failed_calls={failed}")), "{line}");
    }
    assert_eq!(info_number(&mut client, "stats", "keyspace_hits"), 1);
    assert_eq!(info_number(&mut client, "stats", "keyspace_misses"), 1);
    assert!(info(&mut client, "errorstats").contains("errorstat_ERR:count=1"));
}

#[test]
fn keys_on_several_storage_executors_are_written_together() {
    let server = Server::builder().flags(&several_executors()).start();
    let mut client = server.connect();
    run(&mut client, "MULTI");
    for key in ["a", "b", "c", "d"] {
        assert_eq!(run(&mut client, &format!("SET {key} 1")), "QUEUED");
    }
    assert_eq!(run(&mut client, "EXEC"), "1) OK\n2) OK\n3) OK\n4) OK");
    assert_eq!(run(&mut client, "EXISTS a b c d"), "(integer) 4");
    assert_eq!(run(&mut client, "EXEC"), "(error) ERR EXEC without MULTI");
}
