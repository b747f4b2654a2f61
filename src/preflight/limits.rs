//! The limits of locked memory and of open files.

// Unsafe: getrlimit(2) and setrlimit(2).
#![allow(unsafe_code)]

use super::machine::KernelVersion;
use super::{EXECUTOR_IO_MEMORY_BYTES, PreflightError};
use std::fs;

/// glommio refuses to make an executor below this soft limit, whatever its rings take and whichever user runs it.
const LOCKED_BYTES_FLOOR: u64 = 512 * 1024;

/// Each executor has a main, a latency and a poll ring.
const RINGS_PER_EXECUTOR: u64 = 3;

/// CAP_IPC_LOCK's bit in the capability masks of /proc/self/status.
const CAPABILITY_IPC_LOCK: u32 = 14;

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
pub(super) fn locked_memory_is_charged() -> bool {
    let capabilities = status_field("CapEff:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    capabilities.is_none_or(|mask| mask & (1 << CAPABILITY_IPC_LOCK) == 0)
}

/// The first word after `name` in /proc/self/status; `None` without such a line.
pub(super) fn status_field(name: &str) -> Option<String> {
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
            "maxclients is {room} instead of {clients_max}: the limit of open files (RLIMIT_NOFILE) is {limit}, and \
             corelane keeps {reserved} for itself; raise it with `ulimit -n` or LimitNOFILE="
        ));
    }
    Ok(room.min(clients_max))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
