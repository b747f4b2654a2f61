//! The io_uring system calls of every executor, with one flag more than glommio asks for.
//!
//! glommio makes its rings without `IORING_SETUP_COOP_TASKRUN`. The kernel then interrupts an executor, by an
//! inter-processor interrupt, for every socket that becomes readable, though the executor will look at its rings
//! anyway within the same turn. With the flag the completion waits for the executor's next system call (or the next
//! timer tick), which about doubles what one executor serves at pipeline 1.
//!
//! The flag's price: glommio's spin before it parks makes no system call, so an executor with sockets does not see them
//! until the spin is over, and a request that arrives meanwhile waits for the end of the spin (measured:
//! `tuning/README.md`). Executors with sockets must spin for 50 µs at most; others are woken through a queue in memory,
//! which the spin does look at.
//!
//! glommio has no switch for it, so this file takes the place of `src/syscall.c` of the liburing that glommio carries.
//! The object of that file defines exactly these four functions, nothing else in liburing enters the kernel for a ring,
//! and all are redefined here: the linker, which meets this crate before glommio's, then never takes liburing's object
//! out of its archive. Leaving one out would pull that object in and end the build with duplicate symbols; that is
//! wanted. The convention is libc's: `-1` with `errno` set, which liburing turns into `-errno` itself.
//!
//! [`install`] must be called by whatever makes executors: the call is what keeps this file in the program. [`counts`]
//! says how many rings were made and how many have the flag, and a test compares the two.

// Unsafe: C functions that glommio links to, raw system calls, and a pointer to the parameters that C hands over.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libc::{c_int, c_long, c_uint, c_void, sigset_t};

/// `IORING_SETUP_COOP_TASKRUN` of linux/io_uring.h: run completions when the task enters the kernel by itself.
/// Linux 5.19 and later; an older kernel answers `EINVAL` to any flag that it does not know.
const SETUP_COOP_TASKRUN: u32 = 1 << 8;

/// Bytes of the kernel's signal set (`_NSIG / 8`), which is not the size of libc's `sigset_t`.
const KERNEL_SIGNAL_SET_BYTES: usize = 8;

/// The head of `struct io_uring_params` (linux/io_uring.h). The kernel's struct is longer, and its other fields are the
/// caller's business.
#[repr(C)]
struct SetupParametersHead {
    submission_entries: u32,
    completion_entries: u32,
    flags: u32,
}

/// `struct io_uring_params` at its full size, 120 bytes, for the ring that [`probe`] makes itself.
#[repr(C)]
struct SetupParameters {
    head: SetupParametersHead,
    rest: [u32; 27],
}

const _: () = assert!(size_of::<SetupParameters>() == 120);

static COOPERATIVE: AtomicBool = AtomicBool::new(true);
static RINGS: AtomicU64 = AtomicU64::new(0);
static RINGS_COOPERATIVE: AtomicU64 = AtomicU64::new(0);

/// How many rings this process has made since it started, for INFO and for the test that all of them are flagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingCounts {
    /// Rings made: three for each executor, and one by which glommio asks the kernel for its operations.
    pub rings: u64,
    /// Rings that have the cooperative flag.
    pub cooperative: u64,
}

/// Takes over glommio's io_uring system calls, and says whether rings made from now on get the cooperative flag
/// (`false` is for comparison only). Call it before the first executor is made.
// Never inlined: inlined into the caller's crate, nothing would refer to this file's object any more, and the linker
// would take liburing's functions instead.
#[inline(never)]
pub fn install(cooperative: bool) {
    COOPERATIVE.store(cooperative, Ordering::Release);
}

/// How many rings this process has made, and how many of them have the cooperative flag.
pub fn counts() -> RingCounts {
    // The rings with the flag first: a ring made in between is then counted as made, and never as flagged only.
    let cooperative = RINGS_COOPERATIVE.load(Ordering::Acquire);
    RingCounts {
        rings: RINGS.load(Ordering::Acquire),
        cooperative,
    }
}

/// Makes a ring of one entry, enters it once without work, and closes it: the only way to learn whether this process
/// may use io_uring, since a sysctl, a seccomp profile and the kernel's build each have a say. Not counted.
///
/// # Errors
///
/// The kernel's: `ENOSYS` (not built in, or a seccomp profile that pretends so), `EPERM` (sysctl
/// `kernel.io_uring_disabled` or a seccomp profile), `ENOMEM` (RLIMIT_MEMLOCK, before Linux 5.12), `EMFILE`.
pub fn probe() -> io::Result<()> {
    let mut parameters = SetupParameters {
        head: SetupParametersHead {
            submission_entries: 0,
            completion_entries: 0,
            flags: 0,
        },
        rest: [0; 27],
    };
    // SAFETY: the struct is as large as the kernel's, and lives across the call.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1 as c_uint, &raw mut parameters) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let ring = unsafe { OwnedFd::from_raw_fd(descriptor as c_int) };
    // SAFETY: nothing to submit, nothing to wait for, no signal set.
    let entered = unsafe { enter(descriptor as c_int, 0, 0, 0, std::ptr::null(), KERNEL_SIGNAL_SET_BYTES) };
    let result = if entered < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    };
    drop(ring);
    result
}

/// Registers this process for expedited memory barriers (membarrier(2)), which glommio issues before each sleep.
/// Registered while only one thread runs it costs nothing; left to glommio, the first sleep of an executor takes
/// 30 to 80 ms. Call it in `main` before any thread starts. A kernel without the call is no error: glommio has another
/// way.
pub fn register_membarrier() {
    let flags: c_uint = 0;
    let cpu: c_int = 0;
    // SAFETY: the call takes no pointers. Its failure changes nothing: see above.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_membarrier,
            libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
            flags,
            cpu,
        )
    };
}

/// io_uring_setup(2) as glommio calls it, with the cooperative flag added where the kernel knows it.
#[unsafe(no_mangle)]
extern "C" fn __sys_io_uring_setup(entries: c_uint, parameters: *mut c_void) -> c_int {
    let setup = || {
        // SAFETY: the caller's entries and parameters, unchanged but for one flag.
        unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, parameters) as c_int }
    };
    // SAFETY: liburing hands over a `struct io_uring_params` of its own; its third word is `flags`.
    let flags = unsafe { &raw mut (*parameters.cast::<SetupParametersHead>()).flags };

    if COOPERATIVE.load(Ordering::Acquire) {
        // SAFETY: as above; the kernel writes the parameters back only when it has made the ring.
        let flags_asked = unsafe { *flags };
        unsafe { *flags = flags_asked | SETUP_COOP_TASKRUN };
        let ring = setup();
        if ring >= 0 {
            RINGS.fetch_add(1, Ordering::AcqRel);
            RINGS_COOPERATIVE.fetch_add(1, Ordering::AcqRel);
            return ring;
        }
        // Linux before 5.19: the ring as glommio asked for it is better than none.
        unsafe { *flags = flags_asked };
    }
    let ring = setup();
    if ring >= 0 {
        RINGS.fetch_add(1, Ordering::AcqRel);
    }
    ring
}

/// io_uring_register(2), unchanged.
#[unsafe(no_mangle)]
extern "C" fn __sys_io_uring_register(
    descriptor: c_int,
    operation: c_uint,
    argument: *const c_void,
    argument_count: c_uint,
) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            descriptor,
            operation,
            argument,
            argument_count,
        ) as c_int
    }
}

/// io_uring_enter(2), unchanged.
#[unsafe(no_mangle)]
extern "C" fn __sys_io_uring_enter2(
    descriptor: c_int,
    to_submit: c_uint,
    completions_min: c_uint,
    flags: c_uint,
    signals: *const sigset_t,
    signals_bytes: c_int,
) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    unsafe {
        enter(
            descriptor,
            to_submit,
            completions_min,
            flags,
            signals,
            signals_bytes as usize,
        ) as c_int
    }
}

/// io_uring_enter(2) with the kernel's own signal set size, unchanged.
#[unsafe(no_mangle)]
extern "C" fn __sys_io_uring_enter(
    descriptor: c_int,
    to_submit: c_uint,
    completions_min: c_uint,
    flags: c_uint,
    signals: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    unsafe {
        enter(
            descriptor,
            to_submit,
            completions_min,
            flags,
            signals,
            KERNEL_SIGNAL_SET_BYTES,
        ) as c_int
    }
}

/// # Safety
///
/// As io_uring_enter(2): `descriptor` is a ring's, and `signals` is null or points to `signals_bytes` bytes.
unsafe fn enter(
    descriptor: c_int,
    to_submit: c_uint,
    completions_min: c_uint,
    flags: c_uint,
    signals: *const sigset_t,
    signals_bytes: usize,
) -> c_long {
    // SAFETY: the caller's promise.
    unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            descriptor,
            to_submit,
            completions_min,
            flags,
            signals,
            signals_bytes,
        )
    }
}
