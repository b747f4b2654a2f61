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
#[cfg(feature = "fault-injection")]
#[test]
fn replies_of_a_killed_client_do_not_reach_the_next_one_in_its_place() {
    use crate::storage::Switch;
    const COMMANDS: usize = 500;
    // With one executor for both roles nothing would be read while it is held.
    if !super::has_two_cpus("the test of replies of killed clients") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let held = Switch::in_folder(folder.path(), "held");
    let server = Server::builder()
        .flags(&separate_executors())
        .faults(&format!("hold-storage={}", held.when()))
        .start();
    let mut control = server.connect();
    assert_eq!(control.command(&["SET", "right", "1"]).render(), "OK");
    assert!(wait_for(
        || info_number(&mut control, "clients", "connected_clients") == 1
    ));
    for _ in 0..10 {
        // The replies come when the storage executor goes on; by then the connection is another.
        held.on();
        let mut victim = server.connect();
        let id = id_of(&mut victim);
        victim
            .send_bytes(&request(&["GET", "wrong"]).repeat(COMMANDS))
            .expect("the server reads");
        assert!(wait_for(|| executors_sum(&mut control, "pending") == COMMANDS as u64));
        assert_eq!(control.command(&["CLIENT", "KILL", "ID", &id]).render(), "(integer) 1");
        assert!(wait_for(
            || info_number(&mut control, "clients", "connected_clients") == 1
        ));
        let mut next = raw(&server);
        next.write_all(&request(&["GET", "right"]).repeat(COMMANDS))
            .expect("the server reads");
        assert!(wait_for(
            || executors_sum(&mut control, "pending") == 2 * COMMANDS as u64
        ));
        held.off();
        expect(&mut next, &b"$1\r\n1\r\n".repeat(COMMANDS));
        drop(next);
        assert!(wait_for(
            || info_number(&mut control, "clients", "connected_clients") == 1
        ));
    }
}
