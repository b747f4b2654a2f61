//! The addresses: free, and this machine's.

use super::PreflightError;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// How long an address may be in use before it is refused: the kernel closes the listeners of a process that had them
/// in io_uring a moment after the process is gone, so a server that is started again at once finds its own address
/// taken.
const ADDRESS_RELEASE_LIMIT: Duration = Duration::from_secs(3);

/// How often it is tried in that time.
const ADDRESS_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Checks that `address` is free and may be listened on, by binding a socket to it for a moment.
///
/// Without SO_REUSEPORT, which glommio's listeners always set: with it a second server would bind without a word and
/// take half of the connections. With SO_REUSEADDR, so that connections of an earlier server which linger in TIME_WAIT
/// do not count.
///
/// # Errors
///
/// [`PreflightError::AddressInUse`], [`PreflightError::AddressNotLocal`], [`PreflightError::AddressForbidden`] or
/// [`PreflightError::AddressFailed`].
pub fn listen_address(address: SocketAddr) -> Result<(), PreflightError> {
    let give_up_at = Instant::now() + ADDRESS_RELEASE_LIMIT;
    loop {
        match bind_for_a_moment(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up_at => {
                thread::sleep(ADDRESS_RETRY_INTERVAL);
            }
            bound => return bound.map_err(|error| address_error(address, error)),
        }
    }
}

fn bind_for_a_moment(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn address_error(address: SocketAddr, error: io::Error) -> PreflightError {
    match error.kind() {
        io::ErrorKind::AddrInUse => PreflightError::AddressInUse { address },
        io::ErrorKind::AddrNotAvailable => PreflightError::AddressNotLocal { address },
        io::ErrorKind::PermissionDenied => PreflightError::AddressForbidden { address },
        _ => PreflightError::AddressFailed { address, error },
    }
}

/// Whether this machine has an address: for those that `bind` marks as optional.
pub fn is_usable(address: SocketAddr) -> bool {
    match bind_for_a_moment(address) {
        Ok(()) => true,
        Err(error) => !matches!(
            address_error(address, error),
            PreflightError::AddressNotLocal { .. } | PreflightError::AddressFailed { .. }
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_refused_even_if_its_owner_shares_ports() {
        let owner = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        owner.set_reuse_port(true).unwrap();
        owner.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        owner.listen(1).unwrap();
        let address = owner.local_addr().unwrap().as_socket().unwrap();
        let refusal = listen_address(address).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!(
                "the address {address} is already in use; find its owner with `ss -ltnp 'sport = :{}'` and stop it, \
                 or choose another port with --port",
                address.port()
            )
        );
        drop(owner);
        listen_address(address).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        // TEST-NET-1 of RFC 5737 belongs to nobody.
        let refusal = listen_address(SocketAddr::from(([192, 0, 2, 1], 6379))).unwrap_err();
        assert!(matches!(refusal, PreflightError::AddressNotLocal { .. }), "{refusal}");
    }
}
