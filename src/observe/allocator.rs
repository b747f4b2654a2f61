//! What the allocators hold ready and nobody uses, and when it is given back to the kernel: the C library's, which
//! RocksDB and the script interpreters use, and the server's own. It has `unsafe`, because their calls are foreign.
//!
//! The server's own gives pages back by itself when its threads free others, or end: not where all is at rest, and what
//! is freed last, as the buffers of a checkpoint are, would stay for as long as that.
#![allow(unsafe_code)]

/// mimalloc's `purge_delay`: how long it keeps a page that nobody uses, in milliseconds. Its own second is as much as
/// writing frees in that time: 80 MiB, where values of 4,000 bytes are written. What less takes of the CPU could not
/// be measured.
const KEPT_MS: libc::c_long = 20;
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Has what nobody uses given back soon, unless the environment (`MIMALLOC_PURGE_DELAY`) says when. For the start.
pub fn give_back_soon() {
    // SAFETY: it takes no pointer, and an option that the allocator did not have would be ignored.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT_MS) };
}

/// Gives it back, as far as it is not kept for a thread that runs. Takes as long as it takes to look through all of
/// their memory.
pub fn give_back() {
    // SAFETY: neither takes a pointer, and both may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
        libmimalloc_sys::mi_collect(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_allocator_s_delay_which_is_a_second_by_itself() {
        // SAFETY: as above.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        let before = delay();
        give_back_soon();
        assert_eq!((before, delay()), (1000, KEPT_MS));
    }
}
