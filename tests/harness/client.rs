//! A blocking client that hides nothing: it sends what it is given and returns each reply as a [`Value`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::value::{self, Value};

/// How long a reply may take before the test fails: far above any command's time, even on a busy machine with two
/// cores and a build beside the tests.
pub(crate) const REPLY_SECONDS_MAX: u64 = 20;

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    /// What has arrived and was not returned yet.
    received: Vec<u8>,
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    ///
    /// Those of connect(2) and of setting socket options.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Client> {
        let timeout = Duration::from_secs(REPLY_SECONDS_MAX);
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Client {
            stream,
            received: Vec::new(),
        })
    }

    /// Sends one command and does not wait for its reply.
    ///
    /// # Errors
    ///
    /// Those of send(2).
    pub(crate) fn send(&mut self, arguments: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments.iter().map(AsRef::as_ref) {
            request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            request.extend_from_slice(argument);
            request.extend_from_slice(b"\r\n");
        }
        self.send_bytes(&request)
    }

    /// Sends bytes as they are: a pipeline made beforehand, or what is no command at all.
    ///
    /// # Errors
    ///
    /// Those of send(2).
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` or `ConnectionReset` when the server has closed the connection, `TimedOut` after
    /// [`REPLY_SECONDS_MAX`], `InvalidData` when the bytes are no reply.
    pub(crate) fn read(&mut self) -> io::Result<Value> {
        loop {
            let parsed = value::parse(&self.received);
            if let Some((value, length)) = parsed.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))? {
                self.received.drain(..length);
                return Ok(value);
            }
            let filled = self.received.len();
            self.received.resize(filled + READ_BYTES, 0);
            let read = self.stream.read(&mut self.received[filled..]);
            self.received.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                // A read timeout is EAGAIN on Linux.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether something arrives before [`REPLY_SECONDS_MAX`] have passed.
    pub(crate) fn can_read(&mut self) -> bool {
        !self.received.is_empty() || self.stream.peek(&mut [0]).is_ok_and(|length| length > 0)
    }

    /// Whether nothing has arrived: a look, without waiting.
    pub(crate) fn has_no_reply(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket has the option");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket has the option");
        self.received.is_empty() && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends one command and returns its reply. Panics when there is none.
    pub(crate) fn command(&mut self, arguments: &[impl AsRef<[u8]>]) -> Value {
        let reply = self.send(arguments).and_then(|()| self.read());
        reply.unwrap_or_else(|error| {
            let words: Vec<_> = arguments
                .iter()
                .map(|word| String::from_utf8_lossy(word.as_ref()))
                .collect();
            panic!("no reply to {}: {error}", words.join(" "))
        })
    }

    /// Waits until the server has closed the connection; false when it sends a reply instead, or nothing for
    /// [`REPLY_SECONDS_MAX`].
    pub(crate) fn is_closed(&mut self) -> bool {
        self.read().is_err_and(|error| is_close(&error))
    }
}

/// Whether an error of [`Client::read`] says that the server has closed the connection.
pub(crate) fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}
