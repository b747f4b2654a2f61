//! The oracle: a real redis-server, which says what a transcript must expect.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::process::{ServerProcess, free_address};
use super::transcript::Version;

/// A running redis-server that keeps nothing on disk. Dropping it kills it.
pub(crate) struct RedisOracle {
    /// Held until it is dropped: then the server is killed.
    _process: ServerProcess,
    _directory: TempDir,
    address: SocketAddr,
    version: Version,
}

impl RedisOracle {
    /// Starts the machine's redis-server and waits until it answers. Where none is installed it prints a sentence and
    /// returns nothing: Corelane's half of a test does not need it.
    pub(crate) fn start() -> Option<RedisOracle> {
        let Ok(printed) = Command::new("redis-server").arg("--version").output() else {
            println!("redis-server is not installed: what the transcripts expect was not compared with it.");
            return None;
        };
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        let version = printed.split_once("v=").and_then(|(_, rest)| Version::parse(rest));
        let version = version.unwrap_or_else(|| panic!("redis-server --version printed no version: {printed}"));
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let address = free_address();
        let mut command = Command::new("redis-server");
        command.current_dir(directory.path());
        command.args([
            "--bind",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
        ]);
        // Nothing is saved; DEBUG answers clients of this machine, as in Corelane.
        command.args(["--save", "", "--appendonly", "no", "--enable-debug-command", "local"]);
        let mut process = ServerProcess::spawn(command);
        process.wait_until_ready(address);
        Some(RedisOracle {
            _process: process,
            _directory: directory,
            address,
            version,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its version, which decides which guarded commands of a transcript run.
    pub(crate) fn version(&self) -> Version {
        self.version
    }
}
