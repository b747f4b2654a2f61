//! What the allocators hold ready and nobody uses, given back to the kernel: the C library's, which RocksDB and the
//! script interpreters use, and the server's own. It has `unsafe`, because their calls are foreign.
//!
//! The server's own gives pages back by itself when its threads free others, or end: not where all is at rest, and what
//! is freed last, as the buffers of a checkpoint are, would stay for as long as that.
#![allow(unsafe_code)]

/// Gives it back, as far as it is not kept for a thread that runs. Takes as long as it takes to look through all of
/// their memory.
pub fn give_back() {
    // SAFETY: neither takes a pointer, and both may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
        libmimalloc_sys::mi_collect(true);
    }
}
