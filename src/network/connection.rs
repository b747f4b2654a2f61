//! One client's connection: bytes that came in and are no whole command yet, replies in the order of their commands,
//! and bytes that the socket has not taken yet.

use super::merging::Merging;
use super::multi::Executing;
use super::session::{Session, Until};
use super::socket;
use crate::commands::table::Command;
use crate::config::OutputBufferLimit;
use crate::protocol::{OwnedArguments, Parser};
use crate::registry::clients::Client;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// Capacity that an empty output buffer keeps: most turns need less, and ten thousand idle clients must not hold more.
const OUTPUT_BYTES_KEPT: usize = 16 * 1024;

/// Bytes after which a chunk of output that the socket does not take is followed by a new one.
const CHUNK_BYTES_FULL: usize = 1 << 20;

/// Most that one connection sends before others have their turn: a client that reads as fast as we send would otherwise
/// be sent all that waits for it. More than a socket's buffer takes as a rule.
pub(super) const SENT_BYTES_PER_TURN: usize = 4 << 20;

/// Commands of one connection that may be out. What it pipelines beyond that waits in its socket: so the other clients
/// never wait for more of it, however costly it is, and one that leaves has little run for nobody.
pub(super) const COMMANDS_OUT_MAX: usize = 1024;

/// Where a command's reply will come from.
pub(super) enum Awaited {
    /// One storage executor.
    Response,
    /// Nowhere: it is here, behind others that are not.
    Ready(Cow<'static, [u8]>),
    /// Nowhere: it is no reply, but what the client is sent behind the replies before it ([`super::delivery`]).
    Pushed(Vec<u8>),
    /// Several, to be merged.
    Merge(Box<Merging>),
    /// One storage executor, and then commands that run here.
    Exec(Box<Executing>),
    /// One storage executor, a piece at a time.
    Pieces(PiecesOut),
}

/// A large reply that comes in pieces.
pub(super) struct PiecesOut {
    /// Where the rest is.
    pub(super) link: usize,
    /// Its number there; 0 when the last piece is here.
    pub(super) number: u64,
    /// The next piece is under way.
    pub(super) is_asked: bool,
    /// What is here and cannot be sent yet, because earlier replies are not.
    pub(super) waiting: Vec<u8>,
}

/// When a client was last known to take the large replies that come in pieces, and how many bytes it had been sent then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PiecesProgress {
    at: Instant,
    bytes_out: u64,
}

/// What a client must take of a large reply within `large-reply-timeout` at least: some hundred bytes a second, far less
/// than any line carries, and so much that a client cannot keep a snapshot of a shard by taking a byte now and then.
const PIECES_PROGRESS_BYTES_MIN: u64 = 16 * 1024;

/// A move between storage executors that waits for its source: when that is there, it runs as a transaction once more.
pub(super) struct MoveOut {
    pub(super) arguments: OwnedArguments,
    /// The source, by its place among them.
    pub(super) source: usize,
    /// When its time is up.
    pub(super) until: Option<Instant>,
    /// Its place in the line for the source, once it has one.
    pub(super) place: Option<u64>,
}

/// A command that may wait.
pub(super) struct WaitOut {
    pub(super) command: &'static Command,
    /// Its number on the connection.
    pub(super) sequence: u32,
    /// The storage executors that it was sent to.
    pub(super) links: Vec<usize>,
    /// Those that it is still to be sent to, one after the other, with its keys there.
    pub(super) visits: VecDeque<(usize, OwnedArguments)>,
    /// The storage executors that have not said yet whether all is on disk (WAITAOF).
    pub(super) durable_left: usize,
    /// What ends its wait beside an answer from a storage executor.
    pub(super) until: Until,
    /// What it is answered when its time is up.
    pub(super) late_reply: Vec<u8>,
    /// It is such a move.
    pub(super) moves: Option<MoveOut>,
}

/// One command that was read and not answered.
pub(super) struct Slot {
    pub(super) awaited: Awaited,
    /// CLIENT REPLY OFF or SKIP: it is run but not answered.
    pub(super) suppressed: bool,
}

/// Commands that were read and not answered, oldest first.
#[derive(Default)]
pub(super) struct Replies {
    head: u32,
    slots: VecDeque<Slot>,
    /// Bytes in slots that are [`Awaited::Pushed`].
    pushed_bytes: usize,
}

impl Replies {
    /// Enters a command; returns its number on this connection.
    pub(super) fn open(&mut self, awaited: Awaited, suppressed: bool) -> u32 {
        self.slots.push_back(Slot { awaited, suppressed });
        self.head.wrapping_add(self.slots.len() as u32 - 1)
    }

    /// A number that no command has which is not answered yet.
    pub(super) fn no_sequence(&self) -> u32 {
        self.head.wrapping_sub(1)
    }

    /// The number that the next command will have.
    pub(super) fn next_sequence(&self) -> u32 {
        self.head.wrapping_add(self.slots.len() as u32)
    }

    /// Enters bytes that are no reply behind the commands that were entered so far.
    // A command that waits for other clients must not keep them: it is to say so here when there is one.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pushed_bytes += bytes.len();
        match self.slots.back_mut() {
            Some(Slot {
                awaited: Awaited::Pushed(pushed),
                ..
            }) => pushed.extend_from_slice(bytes),
            _ => {
                self.open(Awaited::Pushed(bytes.to_vec()), false);
            }
        }
    }

    /// Bytes that wait for replies before them though they are no replies: a client that does not read must not make
    /// them grow without bound.
    pub(super) fn pushed_bytes(&self) -> usize {
        self.pushed_bytes
    }

    /// The entry of a command that was not answered yet.
    pub(super) fn slot(&mut self, sequence: u32) -> Option<&mut Slot> {
        self.slots.get_mut(sequence.wrapping_sub(self.head) as usize)
    }

    /// The oldest entry's number, whether it is suppressed, and its pieces, if it comes in pieces.
    pub(super) fn first_in_pieces(&mut self) -> Option<(u32, bool, &mut PiecesOut)> {
        let head = self.head;
        match self.slots.front_mut()? {
            Slot {
                awaited: Awaited::Pieces(pieces),
                suppressed,
            } => Some((head, *suppressed, pieces)),
            _ => None,
        }
    }

    /// Takes all entries out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.drain(..)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Puts a command's reply in its place, and whatever is ready at the head into `output`.
    #[inline]
    pub(super) fn complete(&mut self, sequence: u32, reply: &[u8], output: &mut Vec<u8>) {
        let place = sequence.wrapping_sub(self.head) as usize;
        if place > 0 {
            if let Some(slot) = self.slots.get_mut(place) {
                slot.awaited = Awaited::Ready(Cow::Owned(reply.to_vec()));
            }
            return;
        }
        let Some(slot) = self.slots.pop_front() else { return };
        self.head = self.head.wrapping_add(1);
        if !slot.suppressed {
            output.extend_from_slice(reply);
        }
        while let Some(Slot { awaited, suppressed }) = self.slots.front() {
            match awaited {
                Awaited::Ready(_) if *suppressed => {}
                Awaited::Ready(reply) => output.extend_from_slice(reply),
                Awaited::Pushed(bytes) => {
                    output.extend_from_slice(bytes);
                    self.pushed_bytes -= bytes.len();
                }
                _ => return,
            }
            self.slots.pop_front();
            self.head = self.head.wrapping_add(1);
        }
    }
}

/// What the socket has not taken yet: in chunks, so that what has left is freed, and a client that is far behind never
/// costs a copy of all that waits for it.
#[derive(Default)]
pub(super) struct Output {
    /// Chunks that nothing is added to any more, oldest first, and their bytes.
    full: VecDeque<Vec<u8>>,
    full_bytes: usize,
    /// The newest chunk.
    pub(super) bytes: Vec<u8>,
    /// Bytes of the oldest chunk that were sent.
    sent: usize,
    /// A task waits for the socket to take more.
    pub(super) writer_waits: bool,
    over_soft_since: Option<Instant>,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.full_bytes + self.bytes.len() - self.sent
    }

    /// What the socket takes next: the rest of the oldest chunk.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.full.front().unwrap_or(&self.bytes)[self.sent..]
    }

    /// The socket took that many bytes of [`Output::unsent`].
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        if !self.unsent().is_empty() {
            return;
        }
        self.sent = 0;
        match self.full.pop_front() {
            Some(chunk) => self.full_bytes -= chunk.len(),
            None => {
                self.bytes.clear();
                if self.bytes.capacity() > OUTPUT_BYTES_KEPT {
                    self.bytes.shrink_to(OUTPUT_BYTES_KEPT);
                }
            }
        }
    }

    /// The socket is full: a chunk that is large enough grows no more.
    fn end_chunk(&mut self) {
        if self.bytes.len() >= CHUNK_BYTES_FULL {
            self.full_bytes += self.bytes.len();
            self.full.push_back(std::mem::take(&mut self.bytes));
        }
    }

    /// Whether the limit for a client that does not read is passed (its soft part: for too long); `behind` bytes wait
    /// elsewhere to become output.
    pub(super) fn exceeds(&mut self, behind: usize, limit: &OutputBufferLimit, now: Instant) -> bool {
        let len = (self.len() + behind) as u64;
        if limit.hard_bytes > 0 && len > limit.hard_bytes {
            return true;
        }
        if limit.soft_bytes == 0 || len <= limit.soft_bytes {
            self.over_soft_since = None;
            return false;
        }
        let since = *self.over_soft_since.get_or_insert(now);
        now.duration_since(since).as_secs() >= limit.soft_seconds
    }
}

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything.
    All,
    /// The socket is full, or has taken its share of this turn.
    Some,
    /// The connection is gone.
    Closed,
}

/// A connection, shared by the task that reads it and the task that brings responses home.
pub(super) struct Connection {
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) socket: RawFd,
    pub(super) client: Arc<Client>,
    pub(super) session: RefCell<Session>,
    pub(super) replies: RefCell<Replies>,
    pub(super) output: RefCell<Output>,
    /// Requests that are out at low priority: until they are back, the connection's others follow the same way.
    pub(super) low_out: Cell<u32>,
    /// Whether it is in the list of connections to be flushed at the end of the turn.
    pub(super) touched: Cell<bool>,
    pub(super) closed: Cell<bool>,
    /// Replies that come in pieces.
    pub(super) in_pieces: Cell<u32>,
    /// How far the client has come in taking them.
    pub(super) pieces_progress: Cell<Option<PiecesProgress>>,
    /// Commands that are transactions whose writes are not on their way yet, or an EXEC that may change the session:
    /// the next must wait.
    pub(super) coordinating: Cell<u32>,
    /// The last command may have to wait for something to happen: nothing that follows is run.
    pub(super) waiting: RefCell<Option<WaitOut>>,
    /// Wakes the reading task when a command that waited was answered and others are here already.
    pub(super) answered: RefCell<Option<Waker>>,
    /// [`COMMANDS_OUT_MAX`] are out: the next must wait until half of them were answered.
    pub(super) is_full: Cell<bool>,
    /// Wakes the reading task when the last pending reply is there.
    pub(super) drained: RefCell<Option<Waker>>,
}

impl Connection {
    /// A transaction begins behind whose writes the next command comes.
    pub(super) fn begin_coordinating(&self) {
        self.coordinating.set(self.coordinating.get() + 1);
    }

    /// Its writes are on their way, or it is over.
    pub(super) fn end_coordinating(&self) {
        let coordinating = self.coordinating.get();
        assert!(coordinating > 0, "a transaction ends once");
        self.coordinating.set(coordinating - 1);
    }

    /// The commands that run here of an EXEC whose other part has not run on its storage executor after all.
    pub(super) fn take_executing(&self, sequence: u32) -> Option<Executing> {
        let mut replies = self.replies.borrow_mut();
        let awaited = &mut replies.slot(sequence)?.awaited;
        match std::mem::replace(awaited, Awaited::Response) {
            Awaited::Exec(executing) => Some(*executing),
            other => {
                *awaited = other;
                None
            }
        }
    }

    /// Sends what it can; returns how many bytes left and what is left.
    pub(super) fn flush(&self) -> (usize, Sent) {
        let mut output = self.output.borrow_mut();
        let mut sent_now = 0;
        while output.len() > 0 && sent_now < SENT_BYTES_PER_TURN {
            match socket::send(self.socket, output.unsent()) {
                Ok(sent) => {
                    output.advance(sent);
                    sent_now += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return (sent_now, Sent::Closed),
            }
        }
        if output.len() == 0 {
            return (sent_now, Sent::All);
        }
        output.end_chunk();
        (sent_now, Sent::Some)
    }

    /// Whether the client has taken too little of a large reply for as long as `timeout`. What such a reply is read from is
    /// kept on disk, and nothing of it may be deleted, until the client has taken all of it.
    pub(super) fn has_stalled_pieces(&self, now: Instant, timeout: Duration) -> bool {
        let bytes_out = self.client.bytes_out.get();
        let waits_for_client = self.in_pieces.get() > 0 && self.output.borrow().len() > 0;
        let progress = self
            .pieces_progress
            .get()
            .filter(|progress| waits_for_client && bytes_out - progress.bytes_out < PIECES_PROGRESS_BYTES_MIN);
        let progress = progress.unwrap_or(PiecesProgress { at: now, bytes_out });
        self.pieces_progress.set(waits_for_client.then_some(progress));
        now.duration_since(progress.at) > timeout
    }

    /// Ends the connection: what is pending is not sent, and the reading task wakes up.
    pub(super) fn abort(&self) {
        if !self.closed.replace(true) {
            socket::shutdown(self.socket);
        }
        self.wake_reader();
    }

    /// Whether the last command may have to wait: nothing that follows is run.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.borrow().is_some()
    }

    /// The command with a number was answered: takes what is known of its wait, if it is the one that may wait.
    pub(super) fn end_wait(&self, sequence: u32) -> Option<WaitOut> {
        let mut waiting = self.waiting.borrow_mut();
        let ended = waiting.take_if(|waiting| waiting.sequence == sequence)?;
        if let Some(waker) = self.answered.borrow_mut().take() {
            waker.wake();
        }
        Some(ended)
    }

    pub(super) fn wake_reader(&self) {
        if let Some(waker) = self.drained.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Bytes of a client that are not a whole command yet.
pub(super) struct Input {
    pub(super) parser: Parser,
    /// What is left of earlier reads; the current frame begins at `start`.
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
    /// Bytes that the current frame surely still needs.
    pub(super) wanted: usize,
}

/// Capacity that an input buffer keeps between frames.
const INPUT_BYTES_KEPT: usize = 64 * 1024;

impl Input {
    pub(super) fn new() -> Input {
        Input {
            parser: Parser::new(),
            bytes: Vec::new(),
            start: 0,
            wanted: 1,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Drops what was parsed.
    pub(super) fn compact(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
            self.bytes.shrink_to(INPUT_BYTES_KEPT);
        } else if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}
