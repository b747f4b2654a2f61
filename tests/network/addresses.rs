//! CONFIG SET of `bind` and `port` while the server runs.

use std::net::SocketAddr;

use super::{one_executor, several_executors};
use crate::harness::client::Client;
use crate::harness::observe::info_number;
use crate::harness::process::{free_address, wait_for};
use crate::harness::redis::RedisOracle;
use crate::harness::server::Server;

fn connects(address: SocketAddr) -> bool {
    Client::connect(address).is_ok_and(|mut client| {
        let ping = client.send(&["PING"]).and_then(|()| client.read());
        ping.is_ok_and(|reply| reply.render() == "PONG")
    })
}

fn set(client: &mut Client, words: &[&str]) -> String {
    client.command(&[&["CONFIG", "SET"], words].concat()).render()
}

/// What is expected of Corelane, and of redis-server.
fn addresses_change(address: SocketAddr) {
    let mut client = Client::connect(address).expect("the server accepts");
    let second = SocketAddr::from(([127, 0, 0, 2], address.port()));
    assert!(!connects(second));
    assert_eq!(set(&mut client, &["bind", "127.0.0.1 127.0.0.2"]), "OK");
    assert!(connects(address) && connects(second));
    // Not an address of this machine (RFC 5737), and a name that is none: everything is as it was.
    for wrong in ["192.0.2.1", "127.0.0.1 no.such.host.invalid"] {
        assert_eq!(
            set(&mut client, &["timeout", "100", "bind", wrong]),
            "(error) ERR CONFIG SET failed (possibly related to argument 'bind') - Failed to bind to specified \
             addresses."
        );
        assert!(connects(address) && connects(second));
    }
    let settings = client.command(&["CONFIG", "GET", "bind", "timeout"]).render();
    assert!(
        settings.contains("127.0.0.1 127.0.0.2") && settings.contains("\"0\""),
        "{settings}"
    );
    // A port that somebody has.
    let somebody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = somebody.local_addr().expect("it is bound").port();
    assert_eq!(
        set(&mut client, &["port", &taken.to_string()]),
        "(error) ERR CONFIG SET failed (possibly related to argument 'port') - Unable to listen on this port. Check \
         server logs."
    );
    drop(somebody);
    assert!(connects(address));
    // Other ports and all addresses; who is connected stays.
    let port = free_address().port();
    assert_eq!(set(&mut client, &["port", &port.to_string()]), "OK");
    let moved = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(connects(moved) && connects(SocketAddr::from(([127, 0, 0, 2], port))));
    assert!(!connects(address));
    assert_eq!(info_number(&mut client, "server", "tcp_port"), u64::from(port));
    for bind in ["*", "127.0.0.1"] {
        assert_eq!(set(&mut client, &["bind", bind]), "OK");
        assert!(connects(moved));
    }
    assert!(!connects(SocketAddr::from(([127, 0, 0, 2], port))));
    assert_eq!(set(&mut client, &["port", &address.port().to_string()]), "OK");
    assert!(connects(address));
    assert_eq!(client.command(&["PING"]).render(), "PONG");
}

#[test]
fn addresses_and_port_change_while_the_server_runs() {
    if let Some(redis) = RedisOracle::start() {
        addresses_change(redis.address());
    }
    for flags in [one_executor(), several_executors()] {
        let mut server = Server::builder().flags(&flags).start();
        addresses_change(server.address());
        assert!(wait_for(|| connects(server.address())));
        assert_eq!(server.terminate().code(), Some(0), "{}", server.process().output());
    }
}
