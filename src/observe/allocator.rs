//! What the C library's allocator, which RocksDB and the script interpreters use, is asked by MEMORY PURGE and behind
//! checkpoints. It has `unsafe`, because its calls are foreign.
//!
//! The server's own allocator gives pages back by itself, soon after nothing lies in them.
#![allow(unsafe_code)]

/// Gives back to the kernel what the allocator holds ready and nobody uses. Takes as long as it takes to look through
/// all of its memory.
pub fn give_back() {
    // SAFETY: takes no pointer, and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
