//! The addresses that clients connect to. CONFIG SET of `bind` and `port` changes them while the server runs: the
//! network executor that has the listening sockets is told, and answers whether the new ones could be opened.

use crate::config::Settings;
use crate::preflight;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Why an address is not listened on. `Display` is one sentence with a remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum ListenError {
    #[error(
        "--bind {name} is not an address of this machine ({error}); give an IP address or a host name that resolves"
    )]
    UnknownAddress { name: String, error: io::Error },
    #[error("no address to listen on is left of --bind; give one without a leading '-'")]
    NoAddress,
    #[error("cannot listen on {address} ({error}); choose another address with --bind and --port")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("the server is stopping")]
    Stopping,
}

/// The addresses that `bind` names, without those that may be missing (a leading `-`) and are not this machine's. May
/// have to ask a name server, and wait for it.
///
/// # Errors
/// A name has no address, or no address is left.
pub fn addresses_of(settings: &Settings) -> Result<Vec<SocketAddr>, ListenError> {
    let mut addresses = Vec::new();
    for name in &settings.bind {
        let (optional, host) = name
            .strip_prefix('-')
            .map_or((false, name.as_str()), |host| (true, host));
        let host = match host {
            "*" => "0.0.0.0",
            "::*" => "::",
            host => host,
        };
        match (host, settings.port).to_socket_addrs() {
            Ok(found) => addresses.extend(found.filter(|address| !optional || preflight::is_usable(*address))),
            Err(_) if optional => {}
            Err(error) => {
                return Err(ListenError::UnknownAddress {
                    name: name.clone(),
                    error,
                });
            }
        }
    }
    if addresses.is_empty() {
        Err(ListenError::NoAddress)
    } else {
        Ok(addresses)
    }
}

/// Listens on all addresses; a port of 0 is chosen by the first and then used by all. Returns the port too.
///
/// # Errors
/// An address cannot be listened on; then none is.
pub fn listen(addresses: &[SocketAddr], backlog: u32) -> Result<(Vec<OwnedFd>, u16), ListenError> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let mut listeners = Vec::new();
    let mut port = addresses.first().map_or(0, SocketAddr::port);
    for address in addresses {
        let address = SocketAddr::new(address.ip(), port);
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(backlog)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| ListenError::Listen { address, error })?;
        if let Some(bound) = socket.local_addr().ok().and_then(|bound| bound.as_socket()) {
            port = bound.port();
        }
        listeners.push(socket.into());
    }
    Ok((listeners, port))
}

/// Other addresses to listen on.
pub struct Change {
    /// The addresses to listen on from now on.
    pub addresses: Vec<SocketAddr>,
    /// Where the port is sent to, or the error that left everything as it was.
    pub answer: flume::Sender<Result<u16, ListenError>>,
}

/// What all threads know of the addresses.
pub struct Listening {
    /// The port that is listened on (where the setting is 0, for any).
    port: AtomicU16,
    changes: flume::Sender<Change>,
}

impl Listening {
    /// The server listens on `port`. Changes come out of the receiver.
    pub fn new(port: u16) -> (Arc<Listening>, flume::Receiver<Change>) {
        // A thread that sends a change waits for the answer, so no more come than there are threads for administration.
        let (changes, receiver) = flume::unbounded();
        let port = AtomicU16::new(port);
        (Arc::new(Listening { port, changes }), receiver)
    }

    /// The port that is listened on.
    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// Listens on the addresses of `settings` from now on. Connections that are open stay. Blocks.
    ///
    /// # Errors
    /// Everything is as it was.
    pub fn change(&self, settings: &Settings) -> Result<(), ListenError> {
        let addresses = addresses_of(settings)?;
        let (answer, answered) = flume::bounded(1);
        let asked = self.changes.send(Change { addresses, answer });
        asked.map_err(|_| ListenError::Stopping)?;
        let port = answered.recv().map_err(|_| ListenError::Stopping)??;
        self.port.store(port, Ordering::Relaxed);
        Ok(())
    }
}
