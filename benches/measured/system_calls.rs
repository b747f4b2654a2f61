//! The system calls that the standard library has no way to: epoll, and the CPU time of a thread.
//!
//! `unsafe`, since libc's functions are; each is handed memory of this frame and descriptors that are open.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The most sockets that one wait reports: more than one thread of a load has.
const EVENTS_MAX: usize = 1024;

/// Waits for any of many sockets to have bytes.
pub(crate) struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// Waits for nothing yet.
    pub(crate) fn new() -> Epoll {
        // SAFETY: takes no pointers.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(descriptor >= 0, "epoll_create1: {}", io::Error::last_os_error());
        Epoll {
            // SAFETY: just opened, and owned by nobody else.
            descriptor: unsafe { OwnedFd::from_raw_fd(descriptor) },
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX],
        }
    }

    /// Waits for this socket, too, which is reported as `index` until it is closed.
    pub(crate) fn add(&self, socket: &impl AsRawFd, index: usize) {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: index as u64,
        };
        // SAFETY: both descriptors are open, and the kernel copies the event.
        let result = unsafe {
            libc::epoll_ctl(
                self.descriptor.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        };
        assert!(result == 0, "epoll_ctl: {}", io::Error::last_os_error());
    }

    /// The indexes of the sockets that have bytes: waits until one has, at most so long.
    pub(crate) fn wait(&mut self, at_most: Duration) -> impl Iterator<Item = usize> + '_ {
        let count = loop {
            // SAFETY: the kernel writes at most as many events as there is room for.
            let count = unsafe {
                libc::epoll_wait(
                    self.descriptor.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    EVENTS_MAX as i32,
                    at_most.as_millis() as i32,
                )
            };
            if count >= 0 {
                break count as usize;
            }
            let error = io::Error::last_os_error();
            assert!(error.kind() == io::ErrorKind::Interrupted, "epoll_wait: {error}");
        };
        self.events[..count].iter().map(|event| event.u64 as usize)
    }
}

/// The CPU time that the calling thread has used.
pub(crate) fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert!(result == 0, "clock_gettime: {}", io::Error::last_os_error());
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
