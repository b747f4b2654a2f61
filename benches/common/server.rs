//! The built program as a process on a port of its own, for the benches that load it over TCP.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long the server may take to accept the first connection, and to answer: far more than it needs.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause between two tries to connect to a server that is starting.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);

/// The server's process. Dropping it kills it; its directory must outlive it.
pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts the built program with the default settings but for `flags`, and waits until it listens.
    pub(crate) fn start(data_directory: &Path, flags: &[&str]) -> Server {
        let address = free_address();
        let process = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args([
                "--bind",
                &address.ip().to_string(),
                "--port",
                &address.port().to_string(),
            ])
            .arg("--data-dir")
            .arg(data_directory)
            .args(["--log-level", "error"])
            .args(flags)
            .stdin(Stdio::null())
            .spawn()
            .expect("the built program starts");
        let mut server = Server { process, address };
        server.wait_until_it_listens();
        server
    }

    fn wait_until_it_listens(&mut self) {
        let give_up = Instant::now() + WAIT_MAX;
        loop {
            match TcpStream::connect(self.address) {
                Ok(_) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < give_up => {}
                Err(error) => panic!("the server does not accept a connection at {}: {error}", self.address),
            }
            if let Some(status) = self.process.try_wait().expect("the child can be waited for") {
                panic!("the server ended before it listened: {status}");
            }
            thread::sleep(CONNECT_PAUSE);
        }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server accepts a connection");
        stream.set_nodelay(true).expect("a socket can be set to send at once");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("a read can be bounded");
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address on loopback whose port was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a bound socket has an address")
}
