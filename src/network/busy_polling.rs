//! Busy polling: as long as requests come one after the other, the executor itself asks the kernel which of its sockets
//! have bytes, and does not go back to glommio's reactor for each.
//!
//! A turn of the reactor that ends with a sleep makes seven system calls beside those that read and send, and each
//! socket that was read is given back to the ring. One call of epoll(7) tells of all sockets, and costs a quarter of a
//! microsecond. The ring keeps its polls: whatever is not seen here, it sees when the executor is idle again.
//!
//! Where nothing is there to be read, the executor goes on asking for a while ([`SpinWindow`]), if that has paid
//! lately: a client that waits for each reply sends its next request sooner than a sleeping core wakes.
//!
//! This is for executors that have both roles, and are the only ones: who waits for another executor's answer must look
//! at the reactor.

use super::connection::Connection;
use super::local_signal::LocalSignal;
use super::network_executor::NetworkExecutor;
use super::socket;
use crate::executor::storage_executor::reactor_turn;
use futures_lite::AsyncRead;
use futures_lite::future::yield_now;
use glommio::net::TcpStream;
use rustix::event::epoll::{self, CreateFlags, Event};
use rustix::time::Timespec;
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Sockets that one call tells of.
const EVENTS_MAX: usize = 256;

/// How long the reactor, with its timers and the wakes of other threads, is not looked at.
const BUSY_SPAN_MAX: Duration = Duration::from_millis(1);

/// How often the other tasks have their turn before it is clear that a request waits for something else than for them:
/// it passes four of them.
const TURNS_MAX: u32 = 16;

/// How long `auto` asks in vain before the executor sleeps.
const SPIN_MAX: Duration = Duration::from_micros(50);

/// Two questions that lie further apart show that somebody else needs the core.
const CROWDED_GAP: Duration = Duration::from_micros(150);

/// So long nothing is asked in vain then.
const CROWDED_PAUSE: Duration = Duration::from_millis(100);

/// The most that is remembered of how often it paid to ask, and of how many sleeps one is delayed to find out again.
const SCORE_MAX: u32 = 8;
const SLEEPS_PER_PROBE: u32 = 16;

/// See the module's documentation.
pub(super) struct BusyPolling {
    sockets: OwnedFd,
    /// Bytes were read by way of the reactor.
    pub(super) traffic: LocalSignal,
    is_at_work: Cell<bool>,
    window: SpinWindow,
}

/// How long an executor that has nothing to do asks its sockets before it sleeps.
struct SpinWindow {
    /// What the setting asks for; `None`: whatever pays.
    chosen: Option<Duration>,
    /// Whether something came lately before the executor slept.
    score: Cell<u32>,
    sleeps: Cell<u32>,
    crowded_until: Cell<Option<Instant>>,
}

impl SpinWindow {
    /// How long it is worth asking, from `now` on.
    fn open(&self, now: Instant) -> Duration {
        if let Some(chosen) = self.chosen {
            return chosen;
        }
        if self.crowded_until.get().is_some_and(|until| now < until) {
            return Duration::ZERO;
        }
        self.sleeps.set(self.sleeps.get().wrapping_add(1));
        match self.score.get() > 0 || self.sleeps.get().is_multiple_of(SLEEPS_PER_PROBE) {
            true => SPIN_MAX,
            false => Duration::ZERO,
        }
    }

    /// Something came.
    fn won(&self) {
        self.score.set((self.score.get() + 2).min(SCORE_MAX));
    }

    /// Nothing came.
    fn lost(&self) {
        self.score.set(self.score.get().saturating_sub(1));
    }

    /// Others need the core.
    fn is_crowded(&self, now: Instant) {
        self.crowded_until.set(Some(now + CROWDED_PAUSE));
    }
}

impl BusyPolling {
    /// Knows no sockets yet; `spin` is how long it asks in vain, `None`: as long as that pays.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn new(spin: Option<Duration>) -> io::Result<BusyPolling> {
        Ok(BusyPolling {
            sockets: epoll::create(CreateFlags::CLOEXEC)?,
            traffic: LocalSignal::default(),
            is_at_work: Cell::new(false),
            window: SpinWindow {
                chosen: spin,
                score: Cell::new(SCORE_MAX),
                sleeps: Cell::new(0),
                crowded_until: Cell::new(None),
            },
        })
    }

    /// A connection's socket is asked for from now on, until it is closed. Where that cannot be, the reactor sees it.
    pub(super) fn add(&self, connection: &Connection) {
        let number = u64::from(connection.generation) << 32 | u64::from(connection.index);
        let _ = socket::watch(&self.sockets, connection.socket, number);
    }
}

/// Reads what a client has sent: at once if its socket is known to have something, or else when the reactor says so.
pub(super) fn poll_receive(
    executor: &NetworkExecutor,
    (stream, connection): (&mut TcpStream, &Connection),
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let Some(polling) = &executor.busy_polling else {
        return Pin::new(stream).poll_read(context, buffer);
    };
    if connection.is_readable.get() {
        let received = socket::receive(connection.socket, buffer);
        connection
            .is_readable
            .set(matches!(received, Ok(count) if count == buffer.len()));
        match received {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            received => {
                executor.metrics.polled_reads.add(1);
                return Poll::Ready(received);
            }
        }
    }
    let read = Pin::new(stream).poll_read(context, buffer);
    match &read {
        Poll::Pending => {
            let mut reader = connection.reader.borrow_mut();
            if !reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
                *reader = Some(context.waker().clone());
            }
        }
        Poll::Ready(_) if !polling.is_at_work.get() => polling.traffic.notify(),
        Poll::Ready(_) => {}
    }
    read
}

impl NetworkExecutor {
    /// Asks the sockets for bytes whenever some were read, until no more come.
    pub(super) async fn poll_sockets(self: Rc<Self>) {
        let Some(polling) = &self.busy_polling else { return };
        let (mut seen, mut events) = (0, Vec::with_capacity(EVENTS_MAX));
        loop {
            seen = polling.traffic.happened_since(seen, 0).await;
            polling.is_at_work.set(true);
            self.poll_until_quiet(polling, &mut events).await;
            polling.is_at_work.set(false);
        }
    }

    async fn poll_until_quiet(&self, polling: &BusyPolling, events: &mut Vec<Event>) {
        let mut reactor_seen_at = Instant::now();
        let mut turns = 0;
        // Since when nothing was there, how long that may last, and when that was seen last.
        let mut quiet: Option<(Instant, Duration, Instant)> = None;
        loop {
            yield_now().await;
            // What was read is on its way through the tasks that run it and send the replies.
            if self.destinations.borrow().requests_out() > 0 {
                turns += 1;
                if turns > TURNS_MAX {
                    return;
                }
                continue;
            }
            turns = 0;
            let is_ready = self.wake_readers(polling, events);
            let now = Instant::now();
            if is_ready {
                if quiet.take().is_some_and(|(_, window, _)| !window.is_zero()) {
                    self.metrics.spins_won.add(1);
                    polling.window.won();
                }
                if now.duration_since(reactor_seen_at) >= BUSY_SPAN_MAX {
                    reactor_turn().await;
                    reactor_seen_at = Instant::now();
                }
                continue;
            }
            let (since, window, last) = *quiet.get_or_insert_with(|| {
                let window = polling.window.open(now);
                self.metrics.spins.add(u64::from(!window.is_zero()));
                (now, window, now)
            });
            if now.duration_since(last) >= CROWDED_GAP {
                return polling.window.is_crowded(now);
            }
            if now.duration_since(since) >= window {
                if !window.is_zero() {
                    polling.window.lost();
                }
                return;
            }
            quiet = Some((since, window, now));
        }
    }

    /// Wakes the tasks that wait for sockets which have bytes now, or have ended. Returns whether there are any.
    fn wake_readers(&self, polling: &BusyPolling, events: &mut Vec<Event>) -> bool {
        events.clear();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error is a signal's: whoever was there is there the next time.
        let _ = epoll::wait(&polling.sockets, rustix::buffer::spare_capacity(events), Some(&at_once));
        let mut is_ready = false;
        for event in events.iter() {
            let number = event.data.u64();
            let Some(connection) = self.open_connection(number as u32, (number >> 32) as u32) else {
                continue;
            };
            connection.is_readable.set(true);
            if let Some(reader) = connection.reader.borrow_mut().take() {
                reader.wake();
                is_ready = true;
            }
        }
        is_ready
    }
}
