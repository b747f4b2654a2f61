//! System calls on an executor's own connected sockets that glommio has no name for.
//!
//! `unsafe` because they are plain system calls on descriptors. Every caller owns the connection whose descriptor it
//! passes, on the thread that would close it, so the descriptor cannot be closed or reused meanwhile.
#![allow(unsafe_code)]

use rustix::event::epoll::{self, EventData, EventFlags};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Sends what the socket takes at once; [`io::ErrorKind::WouldBlock`] if that is nothing.
pub(super) fn send(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a live slice, which the kernel only reads.
    let sent = unsafe {
        libc::send(
            socket,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Takes what has arrived; [`io::ErrorKind::WouldBlock`] if that is nothing, 0 if nothing will.
pub(super) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of a live slice, which the kernel alone writes meanwhile.
    let received = unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Has an epoll tell of a socket, by `number`, as long as it has bytes or its peer has ended.
pub(super) fn watch(epoll: &OwnedFd, socket: RawFd, number: u64) -> io::Result<()> {
    // SAFETY: the descriptor is the caller's, and stays open for this call.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    let flags = EventFlags::IN | EventFlags::RDHUP;
    epoll::add(epoll, socket, EventData::new_u64(number), flags).map_err(io::Error::from)
}

/// Ends the connection in both directions: a read that waits returns, and the peer sees the end after what was sent.
pub(super) fn shutdown(socket: RawFd) {
    // SAFETY: no memory is passed. An error (the peer was faster) leaves nothing to do.
    unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
}

/// A second descriptor of the same socket, to wait for room in its send buffer while the first waits for bytes.
pub(super) fn duplicate(socket: RawFd) -> io::Result<RawFd> {
    // SAFETY: no memory is passed.
    let duplicate = unsafe { libc::fcntl(socket, libc::F_DUPFD_CLOEXEC, 0) };
    if duplicate < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(duplicate)
    }
}

/// glommio's stream over a descriptor, which it owns from now on.
pub(super) fn stream_from(descriptor: RawFd) -> glommio::net::TcpStream {
    // SAFETY: callers pass a descriptor that they own and give up.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) }
}

/// glommio's listener over a descriptor, which it owns from now on.
pub(super) fn listener_from(descriptor: std::os::fd::OwnedFd) -> glommio::net::TcpListener {
    let descriptor = std::os::fd::IntoRawFd::into_raw_fd(descriptor);
    // SAFETY: the descriptor was owned and is given up.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) }
}

/// Makes the kernel probe an idle peer after `seconds` (and twice more, a third of that apart, as Redis does).
pub(super) fn set_keepalive(socket: RawFd, seconds: u64) -> io::Result<()> {
    let idle = i32::try_from(seconds).unwrap_or(i32::MAX);
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (idle / 3).max(1)),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
    ];
    for (level, name, value) in options {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option's value is one C int, which outlives the call.
        let result = unsafe { libc::setsockopt(socket, level, name, std::ptr::from_ref(&value).cast(), len) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
