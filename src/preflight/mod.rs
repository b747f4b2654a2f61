//! What must be true of the machine before the server starts, each checked in advance.
//!
//! Most of it would come to light later anyway, as a panic inside glommio, a vague errno or a server that answers half
//! of its clients. Here each failure is a [`PreflightError`]: one sentence that says what is wrong and how to mend it.
//! [`Preflight::run`] makes all checks in order; [`wake_self_test`] comes after it, when the core map is known to be
//! good.

mod addresses;
mod data_directory;
mod limits;
mod machine;
mod wake_test;

pub use addresses::{is_usable, listen_address};
pub use data_directory::{DataDirLock, FREE_BYTES_MIN, data_directory, free_bytes};
pub use limits::{locked_memory, open_files};
pub use machine::{KernelVersion, cpu_features, io_uring, kernel_version};
pub use wake_test::{WakeLatency, WakeReport, wake_self_test};

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Registered with every ring of an executor: the least that glommio allocates, since sockets do not use it.
pub const EXECUTOR_IO_MEMORY_BYTES: usize = 64 * 1024;

/// Why the server cannot start. Each message is one sentence, with its remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum PreflightError {
    #[error(
        "this CPU lacks {missing}, which this build of corelane uses; build it for this CPU: take the `rustflags` \
         line out of .cargo/config.toml and run `cargo build --release`"
    )]
    Cpu { missing: String },
    #[error(
        "Linux {release} is too old: corelane needs 5.8 or later, and 5.19 or later for full speed; start a newer \
         kernel"
    )]
    KernelTooOld { release: String },
    #[error(
        "io_uring is switched off on this machine (sysctl kernel.io_uring_disabled is {value}); switch it on with \
         `sysctl -w kernel.io_uring_disabled=0`"
    )]
    IoUringDisabled { value: String },
    #[error(
        "io_uring is forbidden to this process (io_uring_setup: EPERM), most likely by a seccomp profile such as \
         Docker's default; allow io_uring_setup, io_uring_enter and io_uring_register in the profile, or start the \
         container with `--security-opt seccomp=unconfined`"
    )]
    IoUringForbidden,
    #[error(
        "this kernel has no io_uring, or a seccomp profile hides it (io_uring_setup: ENOSYS); start a kernel with \
         CONFIG_IO_URING, or allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
    )]
    IoUringMissing,
    #[error(
        "the kernel made no io_uring ring for a test ({error}); look for the reason in `dmesg`, and in the limits of \
         locked memory (`ulimit -l`) and open files (`ulimit -n`)"
    )]
    IoUringFailed { error: io::Error },
    #[error(
        "the limit of locked memory (RLIMIT_MEMLOCK) is {limit_kib} KiB, but {executors} executors need {needed_kib} \
         KiB; raise it with `ulimit -l {needed_kib}` as root, LimitMEMLOCK= in a systemd unit or `--ulimit memlock=` \
         in Docker"
    )]
    LockedMemory {
        limit_kib: u64,
        needed_kib: u64,
        executors: usize,
    },
    #[error(
        "the limit of open files (RLIMIT_NOFILE) is {limit}, but corelane needs {needed} for itself and one client; \
         raise it with `ulimit -n {needed}` or more as root, LimitNOFILE= in a systemd unit or `--ulimit nofile=` in \
         Docker"
    )]
    OpenFiles { limit: u64, needed: u64 },
    #[error(
        "the data directory {} is not a directory; move that file away, or name another with --data-dir",
        path.display()
    )]
    DirectoryIsFile { path: PathBuf },
    #[error(
        "the data directory {} cannot be made ({error}); let this user write in the directory above it, or name \
         another with --data-dir",
        path.display()
    )]
    DirectoryNotMade { path: PathBuf, error: io::Error },
    #[error(
        "the data directory {} cannot be written ({error}); let this user write in it, or name another with --data-dir",
        path.display()
    )]
    DirectoryNotWritable { path: PathBuf, error: io::Error },
    #[error(
        "the data directory {} is in use by {owner}; stop it, or name another directory with --data-dir",
        path.display()
    )]
    DirectoryLocked { path: PathBuf, owner: String },
    #[error(
        "the data directory {} has {free_mib} MiB free, but corelane needs {needed_mib} MiB to start; make room, or \
         name another with --data-dir",
        path.display()
    )]
    DirectoryFull {
        path: PathBuf,
        free_mib: u64,
        needed_mib: u64,
    },
    #[error(
        "the address {address} is already in use; find its owner with `ss -ltnp 'sport = :{}'` and stop it, or choose \
         another port with --port",
        address.port()
    )]
    AddressInUse { address: SocketAddr },
    #[error("the address {address} is not one of this machine; choose one that `ip address` lists with --bind")]
    AddressNotLocal { address: SocketAddr },
    #[error(
        "this user may not listen on {address}; choose a port above 1023 with --port, or grant CAP_NET_BIND_SERVICE"
    )]
    AddressForbidden { address: SocketAddr },
    #[error("no socket can listen on {address} ({error}); choose another address with --bind and --port")]
    AddressFailed { address: SocketAddr, error: io::Error },
    #[error(
        "no executor could be started on CPU {cpu} ({reason}); give the server only CPUs that it may use, as \
         `corelane cores` lists them"
    )]
    ExecutorNotStarted { cpu: usize, reason: String },
    #[error(
        "a wake from {from} to the executor on CPU {cpu} did not arrive within 1 s; free that CPU of other work, and \
         if it is idle start with --no-coop-taskrun or another kernel"
    )]
    WakeLost { from: String, cpu: usize },
}

/// What the server is about to do, as far as the machine must allow it.
pub struct Preflight<'a> {
    /// Made if missing.
    pub data_directory: &'a Path,
    /// The addresses that the server will listen on; port 0 (any free port) is allowed.
    pub addresses: &'a [SocketAddr],
    /// Executors of both roles together.
    pub executors: usize,
    /// Entries of each of an executor's rings.
    pub ring_depth: usize,
    /// Clients to allow at once (`maxclients`).
    pub clients_max: usize,
    /// Descriptors that the server needs for itself: rings, logs, tables, listeners.
    pub descriptors_reserved: usize,
}

/// The outcome of a good [`Preflight`].
#[derive(Debug)]
pub struct Cleared {
    /// Keeps other servers out of the data directory for as long as it lives.
    pub lock: DataDirLock,
    /// Clients that the limit of open files allows: `Preflight::clients_max` or less.
    pub clients_max: usize,
    /// What will work, but worse than it could: one sentence each, for the log.
    pub warnings: Vec<String>,
}

impl Preflight<'_> {
    /// Checks the CPU, the kernel, io_uring, the limits, the data directory and the addresses, in this order.
    ///
    /// # Errors
    ///
    /// The first thing found that keeps the server from starting.
    pub fn run(&self) -> Result<Cleared, PreflightError> {
        let mut warnings = Vec::new();
        cpu_features()?;
        let kernel = kernel_version(&mut warnings)?;
        io_uring()?;
        locked_memory(self.executors, self.ring_depth, kernel)?;
        let clients_max = open_files(self.clients_max, self.descriptors_reserved, &mut warnings)?;
        let lock = data_directory(self.data_directory, &mut warnings)?;
        for address in self.addresses {
            listen_address(*address)?;
        }
        Ok(Cleared {
            lock,
            clients_max,
            warnings,
        })
    }
}
