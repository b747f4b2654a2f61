//! Server processes: a free port, start, wait until it answers, signals, exit.
//!
//! `unsafe`: kill(2) has no safe form in the standard library except for SIGKILL.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::Client;
use super::value::Value;

/// How long a server may take to answer its first PING, and to exit: a debug build on a busy machine takes seconds.
pub(crate) const SERVER_SECONDS_MAX: u64 = 30;

/// Pause between two looks at a condition: short enough to cost a test nothing.
pub(crate) const POLL_PAUSE_MS: u64 = 2;

/// Ports are taken from here up: below 32768, where Linux begins to give ports to outgoing connections, so that no
/// client of another test can sit on the port between the choice and the server's bind.
const PORT_FIRST: u16 = 15_000;
const PORT_COUNT: u16 = 17_000;
const _: () = assert!(PORT_FIRST + PORT_COUNT < 32_768);

/// A prime: ports between those that processes with neighbouring numbers begin at.
const PROCESS_SPREAD: u32 = 1_009;

/// An address on loopback that nothing listens on. No two calls in one process return the same one: servers that
/// listen with SO_REUSEPORT would share a port without a word.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test processes at once begin at different places, far apart even where their numbers are not.
    let start = (std::process::id().wrapping_mul(PROCESS_SPREAD) % u32::from(PORT_COUNT)) as u16;
    for _ in 0..PORT_COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + (start + offset % PORT_COUNT) % PORT_COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free between {PORT_FIRST} and {}", PORT_FIRST + PORT_COUNT);
}

/// A child process and what it has printed. Dropping it kills it.
pub(crate) struct ServerProcess {
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl ServerProcess {
    /// Starts a program and collects what it prints. Panics when it cannot be started.
    pub(crate) fn spawn(mut command: Command) -> ServerProcess {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| collect_lines(pipe, Arc::clone(&output))));
        readers.extend(child.stderr.take().map(|pipe| collect_lines(pipe, Arc::clone(&output))));
        ServerProcess { child, output, readers }
    }

    /// Waits until the server at `address` answers PING. Panics with what the process printed when it exits first, or
    /// does not answer within [`SERVER_SECONDS_MAX`].
    pub(crate) fn wait_until_ready(&mut self, address: SocketAddr) {
        let ready = wait_for(|| {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.join_readers();
                panic!(
                    "the server exited ({status}) before it answered at {address}:\n{}",
                    self.output()
                );
            }
            answers_ping(address)
        });
        assert!(
            ready,
            "the server did not answer at {address} within {SERVER_SECONDS_MAX} s:\n{}",
            self.output()
        );
    }

    /// Waits until the server at `address` answers PING, or has ended: then false.
    pub(crate) fn is_ready_before_it_ends(&mut self, address: SocketAddr) -> bool {
        let mut is_up = false;
        let is_known = wait_for(|| {
            is_up = answers_ping(address);
            is_up || matches!(self.child.try_wait(), Ok(Some(_)))
        });
        assert!(is_known, "the server neither answers nor ends:\n{}", self.output());
        is_up
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process has printed so far, on stdout and stderr.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal, for example `libc::SIGTERM`.
    pub(crate) fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process number fits pid_t");
        // SAFETY: kill takes two integers. The child was not waited for, so the number is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(
            result,
            0,
            "kill({pid}, {signal}) failed: {}",
            std::io::Error::last_os_error()
        );
    }

    /// Kills the process with SIGKILL and waits until it is gone.
    pub(crate) fn kill_9(&mut self) {
        // An error says that the process has ended by itself, which is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join_readers();
    }

    /// Waits for the process to end and returns how it did. Panics, with what it printed, after
    /// [`SERVER_SECONDS_MAX`].
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for(|| {
            status = self.child.try_wait().expect("the child can be waited for");
            status.is_some()
        });
        let Some(status) = status else {
            panic!(
                "the server did not exit within {SERVER_SECONDS_MAX} s; it printed:\n{}",
                self.output()
            );
        };
        self.join_readers();
        status
    }

    /// Waits until all that a process printed before its end is in `output`.
    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("the reader of a server's output does not panic");
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Looks at a condition every [`POLL_PAUSE_MS`] until it holds; false when it does not within [`SERVER_SECONDS_MAX`].
pub(crate) fn wait_for(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(SERVER_SECONDS_MAX);
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(POLL_PAUSE_MS));
    }
}

/// Looks at a condition every [`POLL_PAUSE_MS`] for a span of time, for what must not happen and leaves no other trace
/// of not happening; false as soon as the condition does not hold.
pub(crate) fn holds_for(span: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + span;
    while condition() {
        if Instant::now() >= until {
            return true;
        }
        std::thread::sleep(Duration::from_millis(POLL_PAUSE_MS));
    }
    false
}

/// Held by tests that load the machine or measure time or memory, so that they do not measure each other.
pub(crate) fn measures() -> MutexGuard<'static, ()> {
    static MEASURES: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock has nothing to do with the next.
    MEASURES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a server at the address answers PING, or asks for a password first.
fn answers_ping(address: SocketAddr) -> bool {
    let reply = Client::connect(address).and_then(|mut client| {
        client.send(&["PING"])?;
        client.read()
    });
    match reply {
        Ok(Value::Simple(text)) => text == "PONG",
        Ok(Value::Error(text)) => text.starts_with("NOAUTH"),
        _ => false,
    }
}

fn collect_lines(pipe: impl Read + Send + 'static, output: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            output
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
