//! The server's allocator, and what it and the C library's, which RocksDB and the script interpreters use, hold ready
//! and nobody uses: when that is given back to the kernel. It has `unsafe`, because their calls are foreign.
//!
//! The server's own gives pages back by itself when its threads free others, or end: not where all is at rest, and what
//! is freed last, as the buffers of a checkpoint are, would stay for as long as that.
#![allow(unsafe_code)]

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};
use std::alloc::{GlobalAlloc, Layout};

/// The alignment that C's `malloc` has for everything that is as large (`MI_MAX_ALIGN_SIZE`).
const ALIGNMENT_OF_ALL: usize = 16;

/// mimalloc, asked for an alignment only where it would not have it anyway: it allocates what is asked for with one
/// as if it were larger by that much, and so in the next size class where a class fits, an eighth more.
pub struct Allocator;

#[inline]
fn is_aligned_anyway(align: usize, bytes: usize) -> bool {
    align <= ALIGNMENT_OF_ALL.min(bytes)
}

// SAFETY: mimalloc's functions are an allocator; each that takes no alignment gives memory that is aligned for every
// object of its size up to `ALIGNMENT_OF_ALL`, as C's `malloc` does.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match is_aligned_anyway(layout.align(), layout.size()) {
            true => unsafe { mi_malloc(layout.size()) }.cast(),
            false => unsafe { mi_malloc_aligned(layout.size(), layout.align()) }.cast(),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match is_aligned_anyway(layout.align(), layout.size()) {
            true => unsafe { mi_zalloc(layout.size()) }.cast(),
            false => unsafe { mi_zalloc_aligned(layout.size(), layout.align()) }.cast(),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, place: *mut u8, _: Layout) {
        unsafe { mi_free(place.cast()) };
    }

    #[inline]
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        match is_aligned_anyway(layout.align(), bytes) {
            true => unsafe { mi_realloc(place.cast(), bytes) }.cast(),
            false => unsafe { mi_realloc_aligned(place.cast(), bytes, layout.align()) }.cast(),
        }
    }
}

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
    use libmimalloc_sys::mi_usable_size;

    #[test]
    fn what_fits_a_size_class_is_in_it_and_aligned() {
        for (bytes, align) in [
            (48, 8),
            (96, 8),
            (96, 16),
            (160, 8),
            (3584, 8),
            (80 << 10, 8),
            (96 << 10, 8),
            (8, 8),
        ] {
            let layout = Layout::from_size_align(bytes, align).expect("a layout");
            // SAFETY: the layout is not empty, and each place is freed once and not used behind that.
            unsafe {
                for place in [Allocator.alloc(layout), Allocator.alloc_zeroed(layout)] {
                    assert_eq!((place as usize % align, mi_usable_size(place.cast())), (0, bytes));
                    let place = Allocator.realloc(place, layout, 2 * bytes);
                    assert_eq!((place as usize % align, mi_usable_size(place.cast())), (0, 2 * bytes));
                    Allocator.dealloc(place, layout);
                }
            }
        }
    }

    #[test]
    fn what_needs_more_alignment_than_all_has_it() {
        for (bytes, align) in [(8, 16), (24, 16), (100, 64), (5000, 4096), (24, 128)] {
            let layout = Layout::from_size_align(bytes, align).expect("a layout");
            // SAFETY: as above.
            unsafe {
                let places: Vec<*mut u8> = (0..100).map(|_| Allocator.alloc(layout)).collect();
                for place in places {
                    assert_eq!(place as usize % align, 0);
                    let place = Allocator.realloc(place, layout, 3 * bytes);
                    assert_eq!(place as usize % align, 0);
                    Allocator.dealloc(place, layout);
                }
            }
        }
    }

    #[test]
    fn the_option_is_the_allocator_s_delay_which_is_a_second_by_itself() {
        // SAFETY: as above.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        let before = delay();
        give_back_soon();
        assert_eq!((before, delay()), (1000, KEPT_MS));
    }
}
