//! What must be true of the machine before the server starts, each checked in advance.
//!
//! Most of it would come to light later anyway, as a panic inside glommio, a vague errno or a server that answers half
//! of its clients. Here each failure is a [`PreflightError`]: one sentence that says what is wrong and how to mend it.
//! [`Preflight::run`] makes all checks in order; [`wake_self_test`] comes after it, when the core map is known to be
//! good.

// Unsafe: getrlimit(2), setrlimit(2), uname(2), statfs(2), statvfs(3) and the CPU's feature registers.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use glommio::{CpuLocation, CpuSet, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ring;

/// The oldest kernel on which glommio finds all io_uring operations it uses.
const KERNEL_MIN: KernelVersion = KernelVersion { major: 5, minor: 8 };
/// The first kernel with `IORING_SETUP_COOP_TASKRUN`; see [`ring`] for what it is worth.
const KERNEL_COOPERATIVE: KernelVersion = KernelVersion { major: 5, minor: 19 };

/// glommio refuses to make an executor below this soft limit, whatever its rings take and whoever runs it.
const LOCKED_BYTES_FLOOR: u64 = 512 * 1024;
/// Each executor has a main, a latency and a poll ring.
const RINGS_PER_EXECUTOR: u64 = 3;
/// How long a data directory may be in use by a process that is being taken down before it is refused: the kernel frees
/// a server's memory, which can take seconds, before its locks.
const DIRECTORY_RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// The same if the process seems to live: for a moment after SIGKILL it does.
const DIRECTORY_RELEASE_LEAST: Duration = Duration::from_millis(100);
/// How often its lock is tried in that time.
const DIRECTORY_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Registered with every ring of an executor: the least that glommio allocates, since sockets do not use it.
pub const EXECUTOR_IO_MEMORY_BYTES: usize = 64 * 1024;
/// CAP_IPC_LOCK's bit in the capability masks of /proc/self/status.
const CAPABILITY_IPC_LOCK: u32 = 14;

/// How long an address may be in use before it is refused: the kernel closes the listeners of a process that had them
/// in io_uring a moment after the process is gone, so a server that is started again at once finds its own address
/// taken.
const ADDRESS_RELEASE_LIMIT: Duration = Duration::from_secs(3);
/// How often it is tried in that time.
const ADDRESS_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Below this the server would start into a disk that is full after the first flushes: RocksDB's logs alone
/// preallocate some MiB for each shard.
pub const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// In the data directory; holds the process id of the server that uses it.
const LOCK_FILE_NAME: &str = "LOCK";

/// How long one wake of the self-test may take. A good machine needs some 50 µs; a second is beyond any load.
const WAKE_LIMIT: Duration = Duration::from_secs(1);
/// An unanswered executor gets another wake this often: glommio may park with a task still queued when its thread was
/// descheduled for longer than the preempt timer (100 ms). Real executors have a housekeeping timer against that; here
/// a timer would hide the lost wakes that the test is for.
const WAKE_NUDGE_INTERVAL: Duration = Duration::from_millis(50);
/// A machine that is overloaded at the start may hold a wake up for a second; one that loses wakes does it every time.
const WAKE_TEST_ATTEMPTS: usize = 3;
/// Wakes of each kind for each executor. The first also pays for page faults and cold caches.
const WAKE_ROUNDS: usize = 3;
/// Between rounds, so that the executors are asleep when the next wake comes.
const WAKE_ROUND_PAUSE: Duration = Duration::from_millis(2);
/// How long an executor of the self-test may take to start; making its rings takes some milliseconds.
const EXECUTOR_START_LIMIT: Duration = Duration::from_secs(60);
/// One probe and one nudge are under way at most; more room only keeps `try_send` from failing.
const PROBES_UNDER_WAY_MAX: usize = 4;
/// The self-test's executors hold a handful of operations.
const WAKE_TEST_RING_DEPTH: usize = 64;
/// The kernel gives the locked memory of closed rings back from a work queue, typically after 10 to 50 ms.
const RING_RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Why the server cannot start. Each message is one sentence, with its remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum PreflightError {
    #[error(
        "this CPU lacks {missing}, which this build of corelane uses; build it for this CPU: take the `rustflags` line out of \
         .cargo/config.toml and run `cargo build --release`"
    )]
    Cpu { missing: String },
    #[error(
        "Linux {release} is too old: corelane needs 5.8 or later, and 5.19 or later for full speed; start a newer kernel"
    )]
    KernelTooOld { release: String },
    #[error(
        "io_uring is switched off on this machine (sysctl kernel.io_uring_disabled is {value}); switch it on with \
         `sysctl -w kernel.io_uring_disabled=0`"
    )]
    IoUringDisabled { value: String },
    #[error(
        "io_uring is forbidden to this process (io_uring_setup: EPERM), most likely by a seccomp profile such as Docker's \
         default; allow io_uring_setup, io_uring_enter and io_uring_register in the profile, or start the container with \
         `--security-opt seccomp=unconfined`"
    )]
    IoUringForbidden,
    #[error(
        "this kernel has no io_uring, or a seccomp profile hides it (io_uring_setup: ENOSYS); start a kernel with \
         CONFIG_IO_URING, or allow io_uring_setup, io_uring_enter and io_uring_register in the profile"
    )]
    IoUringMissing,
    #[error(
        "the kernel made no io_uring ring for a test ({error}); look for the reason in `dmesg`, and in the limits of locked \
         memory (`ulimit -l`) and open files (`ulimit -n`)"
    )]
    IoUringFailed { error: io::Error },
    #[error(
        "the limit of locked memory (RLIMIT_MEMLOCK) is {limit_kib} KiB, but {executors} executors need {needed_kib} KiB; \
         raise it with `ulimit -l {needed_kib}` as root, LimitMEMLOCK= in a systemd unit or `--ulimit memlock=` in Docker"
    )]
    LockedMemory {
        limit_kib: u64,
        needed_kib: u64,
        executors: usize,
    },
    #[error(
        "the limit of open files (RLIMIT_NOFILE) is {limit}, but corelane needs {needed} for itself and one client; raise it with \
         `ulimit -n {needed}` or more as root, LimitNOFILE= in a systemd unit or `--ulimit nofile=` in Docker"
    )]
    OpenFiles { limit: u64, needed: u64 },
    #[error("the data directory {} is not a directory; move that file away, or name another with --data-dir", path.display())]
    DirectoryIsFile { path: PathBuf },
    #[error(
        "the data directory {} cannot be made ({error}); let this user write in the directory above it, or name another with \
         --data-dir",
        path.display()
    )]
    DirectoryNotMade { path: PathBuf, error: io::Error },
    #[error(
        "the data directory {} cannot be written ({error}); let this user write in it, or name another with --data-dir",
        path.display()
    )]
    DirectoryNotWritable { path: PathBuf, error: io::Error },
    #[error("the data directory {} is in use by {owner}; stop it, or name another directory with --data-dir", path.display())]
    DirectoryLocked { path: PathBuf, owner: String },
    #[error(
        "the data directory {} has {free_mib} MiB free, but corelane needs {needed_mib} MiB to start; make room, or name another \
         with --data-dir",
        path.display()
    )]
    DirectoryFull {
        path: PathBuf,
        free_mib: u64,
        needed_mib: u64,
    },
    #[error(
        "the address {address} is already in use; find its owner with `ss -ltnp 'sport = :{}'` and stop it, or choose another port \
         with --port",
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
        "no executor could be started on CPU {cpu} ({reason}); give the server only CPUs that it may use, as `corelane cores` lists \
         them"
    )]
    ExecutorNotStarted { cpu: usize, reason: String },
    #[error(
        "a wake from {from} to the executor on CPU {cpu} did not arrive within 1 s; free that CPU of other work, and if it is idle \
         start with --no-coop-taskrun or another kernel"
    )]
    WakeLost { from: String, cpu: usize },
}

/// What the server is about to do, as far as the machine must allow it.
pub struct Preflight<'a> {
    /// Made if missing.
    pub data_directory: &'a Path,
    /// Those the server will listen on; port 0 (any free port) is allowed.
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

/// Checks that the CPU has the features that this binary was compiled for (`.cargo/config.toml`).
///
/// std's `is_x86_feature_detected!` is no help: for a feature that is compiled in it is the constant `true`.
///
/// # Errors
///
/// [`PreflightError::Cpu`] with the names of the missing features.
#[cfg(target_arch = "x86_64")]
pub fn cpu_features() -> Result<(), PreflightError> {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    let leaf_max = __cpuid(0).eax;
    let extended_leaf_max = __cpuid(0x8000_0000).eax;
    let basic = __cpuid(1);
    let extended_ebx = if leaf_max >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    let amd_ecx = if extended_leaf_max >= 0x8000_0001 {
        __cpuid(0x8000_0001).ecx
    } else {
        0
    };
    let has = |register: u32, bit: u32| register & (1 << bit) != 0;
    // AVX needs the operating system too: it must save the wide registers (XCR0 bits 1 and 2) when it switches threads.
    let wide_registers_saved = has(basic.ecx, 27) && {
        // SAFETY: OSXSAVE (bit 27) says that the instruction may be used.
        (unsafe { _xgetbv(0) }) & 0b110 == 0b110
    };

    // Name, compiled in, present: the bits are those of Intel's manual, volume 2A, CPUID.
    let features = [
        ("SSE3", cfg!(target_feature = "sse3"), has(basic.ecx, 0)),
        ("PCLMULQDQ", cfg!(target_feature = "pclmulqdq"), has(basic.ecx, 1)),
        ("SSSE3", cfg!(target_feature = "ssse3"), has(basic.ecx, 9)),
        (
            "FMA",
            cfg!(target_feature = "fma"),
            has(basic.ecx, 12) && wide_registers_saved,
        ),
        ("CMPXCHG16B", cfg!(target_feature = "cmpxchg16b"), has(basic.ecx, 13)),
        ("SSE4.1", cfg!(target_feature = "sse4.1"), has(basic.ecx, 19)),
        ("SSE4.2", cfg!(target_feature = "sse4.2"), has(basic.ecx, 20)),
        ("MOVBE", cfg!(target_feature = "movbe"), has(basic.ecx, 22)),
        ("POPCNT", cfg!(target_feature = "popcnt"), has(basic.ecx, 23)),
        ("XSAVE", cfg!(target_feature = "xsave"), has(basic.ecx, 26)),
        (
            "AVX",
            cfg!(target_feature = "avx"),
            has(basic.ecx, 28) && wide_registers_saved,
        ),
        (
            "F16C",
            cfg!(target_feature = "f16c"),
            has(basic.ecx, 29) && wide_registers_saved,
        ),
        ("BMI1", cfg!(target_feature = "bmi1"), has(extended_ebx, 3)),
        (
            "AVX2",
            cfg!(target_feature = "avx2"),
            has(extended_ebx, 5) && wide_registers_saved,
        ),
        ("BMI2", cfg!(target_feature = "bmi2"), has(extended_ebx, 8)),
        ("LZCNT", cfg!(target_feature = "lzcnt"), has(amd_ecx, 5)),
    ];
    let missing: Vec<&str> = features
        .iter()
        .filter(|(_, compiled_in, present)| *compiled_in && !*present)
        .map(|(name, _, _)| *name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(PreflightError::Cpu {
            missing: missing.join(", "),
        })
    }
}

/// Other architectures are built for their baseline: nothing to check.
///
/// # Errors
///
/// None.
#[cfg(not(target_arch = "x86_64"))]
pub fn cpu_features() -> Result<(), PreflightError> {
    Ok(())
}

/// A Linux version, as far as features depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 in 6.18.44.
    pub major: u32,
    /// 18 in 6.18.44.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads the head of a release such as `6.1.0-28-amd64`; `None` if it does not begin with two numbers.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        Some(Self {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

/// Checks that the kernel is new enough, and returns its version. A release that cannot be read counts as the oldest
/// good one: the ring that [`io_uring`] makes decides then.
///
/// # Errors
///
/// [`PreflightError::KernelTooOld`] below 5.8. Below 5.19 there is a warning.
pub fn kernel_version(warnings: &mut Vec<String>) -> Result<KernelVersion, PreflightError> {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: uname fills the struct, all strings terminated; it was zeroed in case it fails.
    let release = unsafe {
        libc::uname(name.as_mut_ptr());
        CStr::from_ptr((*name.as_ptr()).release.as_ptr())
            .to_string_lossy()
            .into_owned()
    };
    kernel_release_check(&release, warnings)
}

fn kernel_release_check(release: &str, warnings: &mut Vec<String>) -> Result<KernelVersion, PreflightError> {
    let version = KernelVersion::parse(release).unwrap_or(KERNEL_MIN);
    if version < KERNEL_MIN {
        return Err(PreflightError::KernelTooOld {
            release: release.to_owned(),
        });
    }
    if version < KERNEL_COOPERATIVE {
        warnings.push(format!(
            "Linux {release} has no cooperative task running (5.19 or later): each request costs an interrupt more"
        ));
    }
    Ok(version)
}

/// Checks that this process may use io_uring, by making a ring.
///
/// # Errors
///
/// [`PreflightError::IoUringDisabled`], [`PreflightError::IoUringForbidden`], [`PreflightError::IoUringMissing`] or
/// [`PreflightError::IoUringFailed`], by the kernel's answer.
pub fn io_uring() -> Result<(), PreflightError> {
    let Err(error) = ring::probe() else {
        return Ok(());
    };
    Err(match error.raw_os_error() {
        Some(libc::ENOSYS) => PreflightError::IoUringMissing,
        Some(libc::EPERM | libc::EACCES) => {
            // The sysctl is there since 6.6: 0 all, 1 only a group and CAP_SYS_ADMIN, 2 nobody.
            match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
                Ok(value) if value.trim() != "0" => PreflightError::IoUringDisabled {
                    value: value.trim().to_owned(),
                },
                _ => PreflightError::IoUringForbidden,
            }
        }
        _ => PreflightError::IoUringFailed { error },
    })
}

/// Bytes of locked memory that `executors` with rings of `ring_depth` entries are charged for, where they are charged.
///
/// What was found (Linux 6.18, 64 KiB of I/O memory, bisected with a user of its own for each try; the charge is per
/// user, all processes together):
///
/// - with CAP_IPC_LOCK nothing is charged, and glommio's own floor of 512 KiB is the only limit;
/// - without it a ring of depth D is charged for 64 D (submission entries) + 2 D × 16 (completions) + 4 D, in pages of
///   4 KiB, plus its registered 64 KiB: 504 KiB for each executor at depth 1024, 1,404 KiB at 4096. Least that
///   worked at 1024: 827 KiB for two executors, 1,464 for four, 3,688 for eight; less than the sum, since the buffers
///   that no longer fit are only warned of;
/// - Linux 5.12 to 6.13 charge the registered buffers only; 5.11 and older the rings too, rounded up to powers of two.
fn locked_bytes_needed(executors: usize, ring_depth: usize, kernel: KernelVersion) -> u64 {
    const PAGE_BYTES: u64 = 4096;
    const RING_HEADER_BYTES: u64 = 64;
    let depth = (ring_depth as u64).next_power_of_two();
    let submission_bytes = (64 * depth).next_multiple_of(PAGE_BYTES);
    let completion_bytes = (RING_HEADER_BYTES + 2 * depth * 16 + 4 * depth).next_multiple_of(PAGE_BYTES);
    let ring_bytes = if kernel < (KernelVersion { major: 5, minor: 12 }) {
        submission_bytes.next_power_of_two() + completion_bytes.next_power_of_two()
    } else if kernel < (KernelVersion { major: 6, minor: 14 }) {
        0
    } else {
        submission_bytes + completion_bytes
    };
    let buffer_bytes = (EXECUTOR_IO_MEMORY_BYTES as u64).next_multiple_of(PAGE_BYTES);
    let charged = executors as u64 * RINGS_PER_EXECUTOR * (ring_bytes + buffer_bytes);
    charged.max(LOCKED_BYTES_FLOOR)
}

/// Checks RLIMIT_MEMLOCK for `executors` with rings of `ring_depth` entries, after raising the soft limit to the hard
/// one.
///
/// # Errors
///
/// [`PreflightError::LockedMemory`] when the hard limit is too low.
pub fn locked_memory(executors: usize, ring_depth: usize, kernel: KernelVersion) -> Result<(), PreflightError> {
    let limit = raise_to_hard_limit(libc::RLIMIT_MEMLOCK);
    let needed = if locked_memory_is_charged() {
        locked_bytes_needed(executors, ring_depth, kernel)
    } else {
        LOCKED_BYTES_FLOOR
    };
    if limit >= needed {
        return Ok(());
    }
    Err(PreflightError::LockedMemory {
        limit_kib: limit / 1024,
        needed_kib: needed.div_ceil(1024),
        executors,
    })
}

/// Whether the kernel counts this process's rings against RLIMIT_MEMLOCK: unless it has CAP_IPC_LOCK.
fn locked_memory_is_charged() -> bool {
    let capabilities = status_field("CapEff:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    capabilities.is_none_or(|mask| mask & (1 << CAPABILITY_IPC_LOCK) == 0)
}

/// The first word after `name` in /proc/self/status; `None` without such a line.
fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// Sets the soft limit to the hard one, and returns what holds then. The hard limit is an administrator's decision and
/// stays.
fn raise_to_hard_limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read or write the struct, which lives across them.
    unsafe {
        if libc::getrlimit(resource, &mut limit) != 0 {
            return 0;
        }
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            rlim_max: limit.rlim_max,
        };
        if libc::setrlimit(resource, &raised) == 0 {
            raised.rlim_cur
        } else {
            limit.rlim_cur
        }
    }
}

/// Checks RLIMIT_NOFILE, after raising the soft limit to the hard one, and returns how many clients it leaves room for:
/// `clients_max`, or fewer, with a warning, as Redis does.
///
/// # Errors
///
/// [`PreflightError::OpenFiles`] when not one client fits beside the `reserved` descriptors.
pub fn open_files(clients_max: usize, reserved: usize, warnings: &mut Vec<String>) -> Result<usize, PreflightError> {
    clients_within(
        raise_to_hard_limit(libc::RLIMIT_NOFILE),
        clients_max,
        reserved,
        warnings,
    )
}

fn clients_within(
    limit: u64,
    clients_max: usize,
    reserved: usize,
    warnings: &mut Vec<String>,
) -> Result<usize, PreflightError> {
    let reserved = reserved as u64;
    if limit <= reserved {
        return Err(PreflightError::OpenFiles {
            limit,
            needed: reserved + 1,
        });
    }
    let room = usize::try_from(limit - reserved).unwrap_or(usize::MAX);
    if room < clients_max {
        warnings.push(format!(
            "maxclients is {room} instead of {clients_max}: the limit of open files (RLIMIT_NOFILE) is {limit}, and corelane keeps \
             {reserved} for itself; raise it with `ulimit -n` or LimitNOFILE="
        ));
    }
    Ok(room.min(clients_max))
}

/// The right to use a data directory: an exclusive flock(2) on its `LOCK` file, held until this is dropped or the
/// process ends in whatever way. The file holds the process id, for the message that others get.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

/// Makes the data directory if it is missing, takes its lock, and checks that it can hold data.
///
/// # Errors
///
/// [`PreflightError::DirectoryIsFile`], [`PreflightError::DirectoryNotMade`], [`PreflightError::DirectoryNotWritable`],
/// [`PreflightError::DirectoryLocked`], [`PreflightError::DirectoryFull`]. A file system on which data does not last,
/// or on which fsync promises less, is a warning.
pub fn data_directory(path: &Path, warnings: &mut Vec<String>) -> Result<DataDirLock, PreflightError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(PreflightError::DirectoryIsFile { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(_) => fs::create_dir_all(path).map_err(|error| PreflightError::DirectoryNotMade {
            path: path.to_owned(),
            error,
        })?,
    }
    let lock = lock_directory(path)?;
    let free_bytes = free_bytes(path).map_err(|error| PreflightError::DirectoryNotWritable {
        path: path.to_owned(),
        error,
    })?;
    if free_bytes < FREE_BYTES_MIN {
        return Err(PreflightError::DirectoryFull {
            path: path.to_owned(),
            free_mib: free_bytes / (1024 * 1024),
            needed_mib: FREE_BYTES_MIN / (1024 * 1024),
        });
    }
    if let Some(concern) = file_system_concern(path) {
        warnings.push(format!("the data directory {} is on {concern}", path.display()));
    }
    Ok(lock)
}

fn lock_directory(path: &Path) -> Result<DataDirLock, PreflightError> {
    let not_writable = |error| PreflightError::DirectoryNotWritable {
        path: path.to_owned(),
        error,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // Until the lock is ours, the process id in it is another's.
        .open(path.join(LOCK_FILE_NAME))
        .map_err(not_writable)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(not_writable(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        // Unreadable or not yet written: the message is less exact then.
        let owner = fs::read_to_string(path.join(LOCK_FILE_NAME)).unwrap_or_default();
        let owner = owner.trim().parse::<u32>().ok();
        let patience = if owner.is_some_and(is_being_taken_down) {
            DIRECTORY_RELEASE_LIMIT
        } else {
            DIRECTORY_RELEASE_LEAST
        };
        if began.elapsed() >= patience {
            return Err(PreflightError::DirectoryLocked {
                path: path.to_owned(),
                owner: owner.map_or("another process".to_owned(), |process| format!("process {process}")),
            });
        }
        thread::sleep(DIRECTORY_RETRY_INTERVAL);
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(not_writable)?;
    Ok(DataDirLock { _file: file })
}

/// Whether a process is gone, has given up its memory, or was sent a SIGKILL that it has not obeyed yet.
fn is_being_taken_down(process: u32) -> bool {
    let sigkill = 1 << (libc::SIGKILL - 1);
    let read = |file| fs::read_to_string(format!("/proc/{process}/{file}"));
    let (Ok(command), Ok(status)) = (read("cmdline"), read("status")) else {
        return true;
    };
    let is_pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:"));
        mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & sigkill != 0))
    };
    command.is_empty() || status.lines().any(is_pending)
}

/// Bytes that this user may still write in `path`'s file system.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut figures = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a terminated path, and a struct that is read only when the call has filled it.
    unsafe {
        if libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let figures = figures.assume_init();
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}

/// What to know about the file system of `path`, if anything: the end of a sentence.
fn file_system_concern(path: &Path) -> Option<&'static str> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut figures = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: as in `free_bytes`.
    let kind = unsafe {
        if libc::statfs(path.as_ptr(), figures.as_mut_ptr()) != 0 {
            return None;
        }
        figures.assume_init().f_type
    };
    // The numbers are those of linux/magic.h and statfs(2); SMB's are unsigned there.
    match kind as u32 {
        0x0102_1994 | 0x8584_58f6 => Some("tmpfs: all data is lost when the machine restarts"),
        0x794c_7630 => Some(
            "overlayfs, as in a container's own layer: data is lost with the container, and slow; mount a volume there",
        ),
        0x6969 => Some("NFS: a sync takes as long as the server wishes, and locks depend on it; use a local disk"),
        0xff53_4d42 | 0xfe53_4d42 => {
            Some("SMB: a sync takes as long as the server wishes, and locks depend on it; use a local disk")
        }
        0x6573_5546 => Some("FUSE: what a sync promises depends on the program behind it; use a local disk"),
        0x0102_1997 => Some("9p: what a sync promises depends on the host; use a local disk"),
        _ => None,
    }
}

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

/// Latencies of one kind of wake, from sending to the moment at which the woken executor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeLatency {
    /// The middle one of all measured.
    pub median: Duration,
    /// The longest of all measured.
    pub worst: Duration,
}

/// What [`wake_self_test`] measured. Its `Display` is one line for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WakeReport {
    /// An ordinary thread woke a sleeping executor.
    pub thread_to_executor: WakeLatency,
    /// An executor woke a sleeping executor.
    pub executor_to_executor: WakeLatency,
    /// Wakes that came only after a second one was sent: the machine is overloaded, or wakes get lost.
    pub late: usize,
}

impl fmt::Display for WakeReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "thread to executor {} µs (worst {}), executor to executor {} µs (worst {}), late {}",
            self.thread_to_executor.median.as_micros(),
            self.thread_to_executor.worst.as_micros(),
            self.executor_to_executor.median.as_micros(),
            self.executor_to_executor.worst.as_micros(),
            self.late
        )
    }
}

/// A message of the self-test.
enum Probe {
    /// Say how long this took to arrive.
    Answer {
        sent_at: Instant,
        answers: flume::Sender<Duration>,
    },
    /// Send an `Answer` to another executor.
    Forward {
        to: flume::Sender<Probe>,
        answers: flume::Sender<Duration>,
    },
}

/// An executor that only answers probes.
struct ProbedExecutor {
    cpu: usize,
    probes: flume::Sender<Probe>,
    nudges: flume::Sender<()>,
    thread: thread::JoinHandle<()>,
}

/// Starts an executor on each of `cpus` (two on the same one if there is only one), lets a thread and the other
/// executors wake each of them from sleep, and stops them: a kernel or a sandbox in which wakes get lost would
/// otherwise show as a server that hangs now and then. Takes some 20 ms.
///
/// # Errors
///
/// [`PreflightError::ExecutorNotStarted`], and [`PreflightError::WakeLost`] when each of some attempts ended in 1 s
/// without an answer; an executor that hangs is left behind, as nothing can stop it.
///
/// # Panics
///
/// Panics if `cpus` is empty: a core map never is.
pub fn wake_self_test(cpus: &[usize]) -> Result<WakeReport, PreflightError> {
    for _ in 1..WAKE_TEST_ATTEMPTS {
        match wake_each_other(cpus) {
            Err(PreflightError::WakeLost { from, cpu }) => {
                tracing::warn!(from, cpu, "a wake took longer than a second; testing again");
            }
            outcome => return outcome,
        }
    }
    wake_each_other(cpus)
}

fn wake_each_other(cpus: &[usize]) -> Result<WakeReport, PreflightError> {
    assert!(!cpus.is_empty(), "the self-test of wakes needs a CPU");
    let pinned_before = status_field("VmPin:");

    // All start at once; `starts` is waited for only then.
    let twice = [cpus[0], cpus[0]];
    let starts: Vec<_> = if cpus.len() == 1 { &twice[..] } else { cpus }
        .iter()
        .map(|cpu| ProbedExecutor::start(*cpu))
        .collect::<Result<_, _>>()?;
    let executors: Vec<ProbedExecutor> = starts
        .into_iter()
        .map(ProbedExecutorStart::wait)
        .collect::<Result<_, _>>()?;

    let mut from_thread = Vec::with_capacity(WAKE_ROUNDS * executors.len());
    let mut from_executor = Vec::with_capacity(WAKE_ROUNDS * executors.len());
    let mut late = 0;
    for _ in 0..WAKE_ROUNDS {
        thread::sleep(WAKE_ROUND_PAUSE);
        for executor in &executors {
            from_thread.push(executor.wake_from_thread(&mut late)?);
        }
        thread::sleep(WAKE_ROUND_PAUSE);
        for (index, executor) in executors.iter().enumerate() {
            let next = &executors[(index + 1) % executors.len()];
            from_executor.push(executor.wake_other(next, &mut late)?);
        }
    }

    for executor in executors {
        executor.stop();
    }
    if locked_memory_is_charged() {
        wait_for_ring_memory(pinned_before.as_deref());
    }
    Ok(WakeReport {
        thread_to_executor: WakeLatency::of(from_thread),
        executor_to_executor: WakeLatency::of(from_executor),
        late,
    })
}

impl WakeLatency {
    fn of(mut latencies: Vec<Duration>) -> Self {
        assert!(!latencies.is_empty());
        latencies.sort_unstable();
        Self {
            median: latencies[latencies.len() / 2],
            worst: latencies[latencies.len() - 1],
        }
    }
}

/// Waits, for a second at most, until the kernel has given back the memory of the self-test's rings: the server's own
/// executors, made next, are charged to the same limit.
fn wait_for_ring_memory(pinned_before: Option<&str>) {
    let waited_since = Instant::now();
    while status_field("VmPin:").as_deref() != pinned_before && waited_since.elapsed() < RING_RELEASE_LIMIT {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A [`ProbedExecutor`] whose rings may still be in the making.
struct ProbedExecutorStart {
    executor: ProbedExecutor,
    started: mpsc::Receiver<Result<(), String>>,
}

impl ProbedExecutorStart {
    fn wait(self) -> Result<ProbedExecutor, PreflightError> {
        let started = match self.started.recv_timeout(EXECUTOR_START_LIMIT) {
            Ok(started) => started,
            Err(mpsc::RecvTimeoutError::Timeout) => Err("its rings were not made within 10 s".to_owned()),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err("glommio panicked".to_owned()),
        };
        match started {
            Ok(()) => Ok(self.executor),
            Err(reason) => Err(PreflightError::ExecutorNotStarted {
                cpu: self.executor.cpu,
                reason,
            }),
        }
    }
}

impl ProbedExecutor {
    fn start(cpu: usize) -> Result<ProbedExecutorStart, PreflightError> {
        let (probes, probes_received) = flume::bounded(PROBES_UNDER_WAY_MAX);
        let (nudges, nudges_received) = flume::bounded(PROBES_UNDER_WAY_MAX);
        let (report_start, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("wake-test-{cpu}"))
            .spawn(move || match probe_executor(cpu) {
                Ok(executor) => {
                    // The receiver is gone only if the start was given up.
                    let _ = report_start.send(Ok(()));
                    executor.run(answer_probes(probes_received, nudges_received));
                }
                Err(reason) => {
                    let _ = report_start.send(Err(reason));
                }
            })
            .map_err(|error| PreflightError::ExecutorNotStarted {
                cpu,
                reason: error.to_string(),
            })?;
        Ok(ProbedExecutorStart {
            executor: Self {
                cpu,
                probes,
                nudges,
                thread,
            },
            started,
        })
    }

    fn wake_from_thread(&self, late: &mut usize) -> Result<Duration, PreflightError> {
        let (answers, answered) = flume::bounded(1);
        let probe = Probe::Answer {
            sent_at: Instant::now(),
            answers,
        };
        self.deliver(probe, "a thread")?;
        answer_or_nudge(&answered, &[self], late).ok_or_else(|| self.wake_lost("a thread"))
    }

    /// Has this executor wake `other`. Itself it is woken by a thread first, which the test before has proved to work.
    fn wake_other(&self, other: &Self, late: &mut usize) -> Result<Duration, PreflightError> {
        let from = format!("the executor on CPU {}", self.cpu);
        let (answers, answered) = flume::bounded(1);
        let probe = Probe::Forward {
            to: other.probes.clone(),
            answers,
        };
        self.deliver(probe, "a thread")?;
        answer_or_nudge(&answered, &[self, other], late).ok_or_else(|| other.wake_lost(&from))
    }

    fn deliver(&self, probe: Probe, from: &str) -> Result<(), PreflightError> {
        // One probe at a time: the channel has room, unless the executor is gone or no longer takes any.
        self.probes.try_send(probe).map_err(|_| self.wake_lost(from))
    }

    fn wake_lost(&self, from: &str) -> PreflightError {
        PreflightError::WakeLost {
            from: from.to_owned(),
            cpu: self.cpu,
        }
    }

    fn stop(self) {
        drop(self.probes);
        drop(self.nudges);
        // It has answered every probe; a panic after that concerns nobody.
        let _ = self.thread.join();
    }
}

/// Waits for an answer, and wakes the `executors` a second time on the way. `None` after [`WAKE_LIMIT`].
fn answer_or_nudge(
    answered: &flume::Receiver<Duration>,
    executors: &[&ProbedExecutor],
    late: &mut usize,
) -> Option<Duration> {
    if let Ok(latency) = answered.recv_timeout(WAKE_NUDGE_INTERVAL) {
        return Some(latency);
    }
    *late += 1;
    let give_up_at = Instant::now() + WAKE_LIMIT;
    while Instant::now() < give_up_at {
        for executor in executors {
            // Full: an earlier nudge waits there still.
            let _ = executor.nudges.try_send(());
        }
        if let Ok(latency) = answered.recv_timeout(WAKE_NUDGE_INTERVAL) {
            return Some(latency);
        }
    }
    None
}

/// An executor as the server makes them, bound to one CPU, which never spins: it must sleep to be woken.
fn probe_executor(cpu: usize) -> Result<LocalExecutor, String> {
    // `Fenced` takes our word for the CPU; `Fixed` would read it from /sys, where a container may show nothing.
    let fence: CpuSet = [CpuLocation {
        cpu,
        core: cpu,
        package: 0,
        numa_node: 0,
    }]
    .into_iter()
    .collect();
    LocalExecutorBuilder::new(Placement::Fenced(fence))
        .io_memory(EXECUTOR_IO_MEMORY_BYTES)
        .ring_depth(WAKE_TEST_RING_DEPTH)
        // No thread for blocking calls: nothing here makes any.
        .blocking_thread_pool_placement(PoolPlacement::Custom(Vec::new()))
        .make()
        .map_err(|error| error.to_string())
}

/// Answers probes until the other side hangs up.
async fn answer_probes(probes: flume::Receiver<Probe>, nudges: flume::Receiver<()>) {
    // A nudge need not do anything: that the executor wakes is enough to make it run what it has queued.
    let nudged = glommio::spawn_local(async move { while nudges.recv_async().await.is_ok() {} });
    while let Ok(probe) = probes.recv_async().await {
        match probe {
            Probe::Answer { sent_at, answers } => {
                // Gone only when the tester has given up.
                let _ = answers.try_send(sent_at.elapsed());
            }
            Probe::Forward { to, answers } => {
                let sent_at = Instant::now();
                let _ = to.try_send(Probe::Answer { sent_at, answers });
            }
        }
    }
    nudged.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_that_runs_the_tests_has_the_features_compiled_in() {
        cpu_features().unwrap();
    }

    #[test]
    fn kernel_releases_are_read_as_distributions_write_them() {
        for (release, major, minor) in [
            ("6.18.44-fc", 6, 18),
            ("5.8", 5, 8),
            ("6.1.0-28-amd64", 6, 1),
            ("5.19-rc1", 5, 19),
        ] {
            assert_eq!(
                KernelVersion::parse(release),
                Some(KernelVersion { major, minor }),
                "{release}"
            );
        }
        assert_eq!(KernelVersion::parse("linux"), None);
        assert_eq!(KernelVersion::parse(""), None);
    }

    #[test]
    fn a_kernel_before_5_8_is_refused_and_one_before_5_19_warned_of() {
        let mut warnings = Vec::new();
        let refusal = kernel_release_check("5.4.0-150-generic", &mut warnings).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "Linux 5.4.0-150-generic is too old: corelane needs 5.8 or later, and 5.19 or later for full speed; start a newer kernel"
        );
        assert!(warnings.is_empty());
        kernel_release_check("5.15.0", &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
        kernel_release_check("5.19.0", &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn executors_are_charged_as_measured() {
        let current = KernelVersion { major: 6, minor: 18 };
        let needed_kib = |executors, ring_depth| locked_bytes_needed(executors, ring_depth, current) / 1024;
        assert_eq!(needed_kib(1, 64), 512);
        assert_eq!(needed_kib(2, 1024), 2 * 504);
        assert_eq!(needed_kib(2, 4096), 2 * 1404);
        // Linux 6.1 charges the registered buffers only.
        assert_eq!(
            locked_bytes_needed(4, 4096, KernelVersion { major: 6, minor: 1 }),
            4 * 192 * 1024
        );
    }

    #[test]
    fn too_few_descriptors_mean_fewer_clients() {
        let mut warnings = Vec::new();
        assert_eq!(clients_within(1024, 10_000, 64, &mut warnings).unwrap(), 960);
        assert!(
            warnings[0].starts_with("maxclients is 960 instead of 10000: "),
            "{warnings:?}"
        );
        assert_eq!(clients_within(20_000, 10_000, 64, &mut warnings).unwrap(), 10_000);
        assert_eq!(warnings.len(), 1);
        let refusal = clients_within(64, 10_000, 64, &mut warnings).unwrap_err();
        assert!(matches!(refusal, PreflightError::OpenFiles { limit: 64, needed: 65 }));
    }

    #[test]
    fn a_second_lock_of_a_directory_names_the_first_process_and_a_dropped_one_frees_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/by/preflight");
        let first = data_directory(&path, &mut Vec::new()).unwrap();
        let refusal = data_directory(&path, &mut Vec::new()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!(
                "the data directory {} is in use by process {}; stop it, or name another directory with --data-dir",
                path.display(),
                std::process::id()
            )
        );
        drop(first);
        data_directory(&path, &mut Vec::new()).unwrap();
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = data_directory(file.path(), &mut Vec::new()).unwrap_err();
        assert!(matches!(refusal, PreflightError::DirectoryIsFile { .. }));
        let refusal = data_directory(&file.path().join("below"), &mut Vec::new()).unwrap_err();
        assert!(matches!(refusal, PreflightError::DirectoryNotMade { .. }));
    }

    #[test]
    fn memory_file_systems_are_warned_of_and_disks_are_not() {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        if mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
            let concern = file_system_concern(Path::new("/dev/shm")).unwrap();
            assert!(concern.starts_with("tmpfs: "), "{concern}");
        }
        // Neither in memory nor on a network: as unremarkable as a disk.
        assert_eq!(file_system_concern(Path::new("/proc")), None);
    }

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
                "the address {address} is already in use; find its owner with `ss -ltnp 'sport = :{}'` and stop it, or choose \
                 another port with --port",
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

    #[test]
    fn wakes_arrive_between_threads_and_executors() {
        ring::install(true);
        let cpus: Vec<usize> = core_affinity::get_core_ids()
            .unwrap()
            .iter()
            .map(|core| core.id)
            .collect();
        let report = wake_self_test(&cpus).unwrap();
        assert!(report.thread_to_executor.worst < WAKE_LIMIT, "{report}");
        assert!(report.executor_to_executor.worst < WAKE_LIMIT, "{report}");
        wake_self_test(&cpus[..1]).unwrap();
    }

    #[test]
    fn an_executor_on_a_missing_cpu_is_refused() {
        ring::install(true);
        let refusal = wake_self_test(&[1023]).unwrap_err();
        assert!(
            refusal
                .to_string()
                .starts_with("no executor could be started on CPU 1023 ("),
            "{refusal}"
        );
    }
}
