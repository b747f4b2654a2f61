//! What becomes of a panic: the command that it ended gets an error, or the process ends. Nothing limps on.
//!
//! A panic is *contained* where what it may have left half done is thrown away: in a handler (whose writes are rolled
//! back) and where a connection's own bytes are read (the connection is closed). Anywhere else on a thread of this
//! server (an executor's turn, a commit, a sync) the state that other clients rely on may be wrong, and a thread that
//! is gone would look to the others as if it were only slow: the process ends with [`EXIT_STATUS`], and what starts it
//! again recovers everything that was acknowledged.

use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread::{self, JoinHandle};

/// The exit status after a panic that was not contained: EX_SOFTWARE of sysexits.h.
pub const EXIT_STATUS: i32 = 70;

thread_local! {
    /// Whether panics of this thread end the process.
    static ENDS_PROCESS: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread is inside of [`contain`], and not inside of [`uncontained`].
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// A contained call panicked. The panic's message has been printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Calls `run`. A panic in `run` ends the call and nothing else.
///
/// # Errors
/// [`Panicked`], if `run` did.
#[inline]
pub fn contain<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    let _restored = Restored(IS_CONTAINED.replace(true));
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|_| Panicked)
}

/// From now on until the returned value is dropped, a panic ends the process although the call is contained: others
/// than the caller rely on what is changed meanwhile.
#[inline]
pub fn uncontained() -> Restored {
    Restored(IS_CONTAINED.replace(false))
}

/// Sets back whether the thread's panics are contained when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Restored(bool);

impl Drop for Restored {
    #[inline]
    fn drop(&mut self) {
        IS_CONTAINED.set(self.0);
    }
}

/// From now on a panic of the calling thread that is not contained ends the process.
pub fn end_process_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            earlier(panic);
            // A thread that is about to end has no such values any more: it is not one of this server's at its work.
            let ends = ENDS_PROCESS.try_with(Cell::get).unwrap_or(false);
            if ends && !IS_CONTAINED.try_with(Cell::get).unwrap_or(false) {
                end_process(panic);
            }
        }));
    });
    ENDS_PROCESS.set(true);
}

fn end_process(panic: &panic::PanicHookInfo<'_>) -> ! {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed").to_owned();
    tracing::error!(thread = name, "{panic}");
    eprintln!(
        "corelane: the thread {name} has panicked outside of a command, so the process ends; start it again, and \
         please report the message above"
    );
    // Without destructors and handlers at exit: the state may be wrong, and other threads are at work.
    signal_hook::low_level::exit(EXIT_STATUS)
}

/// Starts a thread named `name` whose panics end the process unless they are contained.
///
/// # Errors
/// The system's, if it has no more threads.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(move || {
        end_process_on_panic();
        run()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_ends_its_call_only() {
        // A panic that is not contained would end the process of the tests here.
        let outcome = spawn("contained", || {
            let inner = contain(|| -> u32 { panic!("on purpose") });
            (inner, contain(|| 1), IS_CONTAINED.get())
        });
        let outcome = outcome
            .expect("a thread can be started")
            .join()
            .expect("it was contained");
        assert_eq!(outcome, (Err(Panicked), Ok(1), false));
    }

    #[test]
    fn what_is_uncontained_is_so_until_its_end() {
        let seen = contain(|| {
            let uncontained = uncontained();
            let inside = IS_CONTAINED.get();
            drop(uncontained);
            (inside, IS_CONTAINED.get())
        });
        assert_eq!((seen, IS_CONTAINED.get()), (Ok((false, true)), false));
    }
}
