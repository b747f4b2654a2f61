//! CLIENT KILL and CLIENT LIST, over connections of several executors.

use std::io::Write;

use super::{expect, one_executor, raw, request, separate_executors, several_executors};
use crate::harness::client::Client;
use crate::harness::observe::{executors_sum, info_number};
use crate::harness::process::wait_for;
use crate::harness::server::Server;

fn id_of(client: &mut Client) -> String {
    client.command(&["CLIENT", "ID"]).text().expect("CLIENT ID is a number")
}

#[test]
fn a_killed_client_is_disconnected_wherever_its_connection_lives() {
    for flags in [one_executor(), several_executors()] {
        let server = Server::builder().flags(&flags).start();
        let mut control = server.connect();
        let mut victims: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        let mut bystanders: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        for victim in &mut victims {
            let id = id_of(victim);
            assert_eq!(control.command(&["CLIENT", "KILL", "ID", &id]).render(), "(integer) 1");
            assert_eq!(control.command(&["CLIENT", "KILL", "ID", &id]).render(), "(integer) 0");
            assert!(victim.is_closed());
        }
        for bystander in &mut bystanders {
            assert_eq!(bystander.command(&["PING"]).render(), "PONG");
        }
        assert!(wait_for(
            || info_number(&mut control, "clients", "connected_clients") == 9
        ));
    }
}

#[test]
fn a_client_that_kills_itself_is_answered_first() {
    let server = Server::builder().flags(&one_executor()).start();
    let mut client = server.connect();
    let id = id_of(&mut client);
    assert_eq!(
        client.command(&["CLIENT", "KILL", "ID", &id, "SKIPME", "no"]).render(),
        "(integer) 1"
    );
    assert!(client.is_closed());
}

/// What a killed client had out runs, as nobody can call it back; its replies go nowhere, though its place, and the
/// numbers of its commands, are those of the next connection.
#[test]
fn replies_of_a_killed_client_do_not_reach_the_next_one_in_its_place() {
    const COMMANDS: usize = 500;
    let server = Server::builder().flags(&separate_executors()).start();
    let mut control = server.connect();
    assert_eq!(control.command(&["SET", "right", "1"]).render(), "OK");
    assert!(wait_for(
        || info_number(&mut control, "clients", "connected_clients") == 1
    ));
    let mut sleeper = raw(&server);
    for _ in 0..10 {
        // The replies come when the shard wakes up; by then the connection is another.
        sleeper.write_all(b"DEBUG SLEEP 0.2\r\n").expect("the server reads");
        let mut victim = server.connect();
        let id = id_of(&mut victim);
        victim
            .send_bytes(&request(&["GET", "wrong"]).repeat(COMMANDS))
            .expect("the server reads");
        assert!(wait_for(|| executors_sum(&mut control, "pending")
            == COMMANDS as u64 + 1
            || is_awake(&mut sleeper)));
        assert_eq!(control.command(&["CLIENT", "KILL", "ID", &id]).render(), "(integer) 1");
        assert!(wait_for(
            || info_number(&mut control, "clients", "connected_clients") == 2
        ));
        let mut next = raw(&server);
        exchange(
            &mut next,
            &request(&["GET", "right"]).repeat(COMMANDS),
            &b"$1\r\n1\r\n".repeat(COMMANDS),
        );
        drop(next);
        expect(&mut sleeper, b"+OK\r\n");
        assert!(wait_for(
            || info_number(&mut control, "clients", "connected_clients") == 2
        ));
    }
}

/// Whether a reply has come: then the commands behind the sleep have run already, on a machine that is slow enough.
fn is_awake(sleeper: &mut TcpStream) -> bool {
    sleeper.set_nonblocking(true).expect("a socket has the option");
    let awake = sleeper.peek(&mut [0]).is_ok();
    sleeper.set_nonblocking(false).expect("a socket has the option");
    awake
}
