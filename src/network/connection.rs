//! One client's connection: bytes that came in and are no whole command yet, pending replies in the order of their
//! commands, and bytes that the socket has not taken yet.

use super::key_walks::KeyWalk;
use super::merging::Merging;
use super::multi::Executing;
use super::session::{Session, Until};
use super::socket;
use crate::channel::message::Priority;
use crate::command::Command;
use crate::config::OutputBufferLimit;
use crate::protocol::{OwnedArguments, Parser};
use crate::registry::clients::Client;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// Capacity that an empty output buffer keeps: most turns need less, and ten thousand idle clients must not hold more.
const OUTPUT_BYTES_KEPT: usize = 16 * 1024;

/// Bytes after which a chunk of output that the socket does not take is followed by a new one.
const CHUNK_BYTES_FULL: usize = 1 << 20;

/// From how many bytes on a message is a chunk of its own, which the clients that are sent the message share: fewer
/// bytes are copied faster than they are sent by themselves.
const CHUNK_BYTES_MIN: usize = 16 * 1024;

/// Most bytes that one connection sends before others have their turn: a client that reads as fast as we send would
/// otherwise be sent all that waits for it. More than a socket's buffer takes as a rule.
pub(super) const SENT_BYTES_PER_TURN: usize = 4 << 20;

/// Commands of one connection that may be out. Commands beyond that wait in its socket: so other clients never wait for
/// more than these, however costly they are, and of a client that leaves little is run for nobody.
pub(super) const COMMANDS_OUT_MAX: usize = 1024;

/// Bytes of replies that a connection may hold and that are not output yet, because they wait behind a slower reply or
/// are being put together. From there on no more of its commands are run: the slower reply will come, and the commands
/// that are out may make as much again. More than many pipelines of usual values ever have.
pub(super) const UNREADY_BYTES_MAX: usize = 16 << 20;

/// Fewer bytes that are not output yet are compared with the output limit once a second only.
pub(super) const UNREADY_BYTES_CHECKED_MIN: usize = 1 << 20;

/// Where a command's reply will come from.
pub(super) enum Awaited {
    /// From one storage executor.
    Response,
    /// The reply is here, behind others that are not.
    Ready(Cow<'static, [u8]>),
    /// No reply, but bytes that the client is sent behind the replies before them ([`super::delivery`]).
    Pushed(Vec<Chunk>),
    /// From several storage executors, to be merged.
    Merge(Box<Merging>),
    /// From one storage executor after the other.
    KeyWalk(Box<KeyWalk>),
    /// From one storage executor, and then from commands that run here.
    Exec(Box<Executing>),
    /// From one storage executor, a piece at a time.
    Pieces(PiecesOut),
}

impl Awaited {
    /// Bytes of the reply that are here and are not output yet.
    fn held_bytes(&self) -> usize {
        match self {
            // What an EXEC keeps is what its client sent.
            Awaited::Response | Awaited::Exec(_) => 0,
            Awaited::Ready(reply) => reply.len(),
            Awaited::Pushed(chunks) => chunks.iter().map(|chunk| chunk.bytes().len()).sum(),
            Awaited::Merge(merging) => merging.held_bytes(),
            Awaited::KeyWalk(walk) => walk.held_bytes(),
            Awaited::Pieces(pieces) => pieces.waiting.len(),
        }
    }
}

/// Bytes that are sent to several clients and lie in memory once.
#[derive(Clone)]
pub(super) struct PushedBytes(Rc<Vec<u8>>);

impl PushedBytes {
    /// Bytes to be sent to each connection that gets a clone.
    pub(super) fn new(bytes: Vec<u8>) -> PushedBytes {
        PushedBytes(Rc::new(bytes))
    }
}

/// A run of bytes to be sent.
pub(super) enum Chunk {
    /// Bytes for one client.
    Own(Vec<u8>),
    /// Bytes for several clients.
    Shared(PushedBytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Own(bytes) => bytes,
            Chunk::Shared(shared) => &shared.0,
        }
    }
}

/// A large reply that comes in pieces.
pub(super) struct PiecesOut {
    /// The storage executor that keeps the remainder.
    pub(super) destination: usize,
    /// The remainder's number there; 0 when the last piece is here.
    pub(super) number: u64,
    /// The next piece was asked for and is not here.
    pub(super) is_asked: bool,
    /// Bytes that are here and cannot be sent yet, because earlier replies are not.
    pub(super) waiting: Vec<u8>,
}

/// When a client was last known to take the large replies that come in pieces, and how many bytes it had been sent
/// then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PiecesProgress {
    at: Instant,
    bytes_out: u64,
}

/// Bytes of a large reply that a client must take within `large-reply-timeout`: some hundred a second, far fewer than
/// any line carries, and so many that a client cannot keep a snapshot of a shard by taking a byte now and then.
const PIECES_PROGRESS_BYTES_MIN: u64 = 16 * 1024;

/// A move between storage executors that waits for its source: when the source is there, the move runs as a transaction
/// once more.
pub(super) struct MoveOut {
    pub(super) arguments: OwnedArguments,
    /// The position of the source among the arguments.
    pub(super) source: usize,
    /// When the command's time is up.
    pub(super) until: Option<Instant>,
    /// The command's number in the queue for the source, once it has waited.
    pub(super) queue_number: Option<u64>,
}

/// A command that may wait.
pub(super) struct WaitOut {
    pub(super) command: &'static Command,
    /// The command's number on its connection.
    pub(super) sequence: u32,
    /// The storage executors that the command was sent to.
    pub(super) destinations: Vec<usize>,
    /// The storage executors that the command is still to be sent to, one after the other, with its keys there.
    pub(super) visits: VecDeque<(usize, OwnedArguments)>,
    /// How many storage executors have not said yet whether all is on disk (WAITAOF).
    pub(super) durable_left: usize,
    /// What ends the wait beside an answer from a storage executor.
    pub(super) until: Until,
    /// The reply when the time is up.
    pub(super) late_reply: Vec<u8>,
    /// Set for a move between storage executors.
    pub(super) moves: Option<MoveOut>,
}

/// The reply of a command that was read and not answered.
pub(super) struct PendingReply {
    pub(super) awaited: Awaited,
    /// CLIENT REPLY OFF or SKIP: the command is run but not answered.
    pub(super) suppressed: bool,
}

/// A connection's pending replies, in the order of their commands. Each has a number, its command's `sequence`, which
/// wraps around: far fewer than 2^32 are pending ([`COMMANDS_OUT_MAX`]).
#[derive(Default)]
pub(super) struct Replies {
    /// The number of the oldest.
    head: u32,
    pending: VecDeque<PendingReply>,
    /// Bytes that the pending replies hold and that are not output yet.
    held_bytes: usize,
}

impl Replies {
    /// Enters a command; returns its number on this connection.
    #[inline]
    pub(super) fn open(&mut self, awaited: Awaited, suppressed: bool) -> u32 {
        self.held_bytes += awaited.held_bytes();
        self.pending.push_back(PendingReply { awaited, suppressed });
        self.head.wrapping_add(self.pending.len() as u32 - 1)
    }

    /// A number that no pending reply has.
    pub(super) fn no_sequence(&self) -> u32 {
        self.head.wrapping_sub(1)
    }

    /// The number that the next command will have.
    pub(super) fn next_sequence(&self) -> u32 {
        self.head.wrapping_add(self.pending.len() as u32)
    }

    /// Enters bytes that are no reply behind the replies that are pending so far.
    // A command that waits for other clients must not hold such bytes back: such a command is to say so here.
    pub(super) fn push(&mut self, pushed: &PushedBytes) {
        let bytes = &pushed.0[..];
        self.held_bytes += bytes.len();
        let is_small = bytes.len() < CHUNK_BYTES_MIN;
        let chunk = || match is_small {
            true => Chunk::Own(bytes.to_vec()),
            false => Chunk::Shared(pushed.clone()),
        };
        match self.pending.back_mut().map(|pending| &mut pending.awaited) {
            Some(Awaited::Pushed(chunks)) => match chunks.last_mut() {
                Some(Chunk::Own(own)) if is_small && own.len() < CHUNK_BYTES_FULL => own.extend_from_slice(bytes),
                _ => chunks.push(chunk()),
            },
            _ => self.pending.push_back(PendingReply {
                awaited: Awaited::Pushed(vec![chunk()]),
                suppressed: false,
            }),
        }
    }

    /// Bytes that are here and are not output yet: they wait for replies before them, or for other parts of their own.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Counts that a pending reply which held `before` bytes holds `now` bytes.
    pub(super) fn change_held(&mut self, before: usize, now: usize) {
        assert!(
            self.held_bytes >= before,
            "a pending reply held more than all of them together"
        );
        self.held_bytes = self.held_bytes - before + now;
    }

    /// The pending reply with a number; `None` if its command was answered.
    pub(super) fn pending(&mut self, sequence: u32) -> Option<&mut PendingReply> {
        let index = sequence.wrapping_sub(self.head);
        debug_assert!(
            (index as usize) < self.pending.len() || index.cast_signed() < 0,
            "a number is that of a reply that was opened"
        );
        self.pending.get_mut(index as usize)
    }

    /// Of the oldest pending reply, if it comes in pieces: its number, whether it is suppressed, and the pieces.
    pub(super) fn first_in_pieces(&mut self) -> Option<(u32, bool, &mut PiecesOut)> {
        let head = self.head;
        match self.pending.front_mut()? {
            PendingReply {
                awaited: Awaited::Pieces(pieces),
                suppressed,
            } => Some((head, *suppressed, pieces)),
            _ => None,
        }
    }

    /// Takes all pending replies out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = PendingReply> + '_ {
        self.held_bytes = 0;
        self.head = self.next_sequence();
        self.pending.drain(..)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// A command's reply is here: if it is the oldest, it goes to `output`, and with it those behind it that are ready;
    /// otherwise it is held until those before it have left.
    #[inline]
    pub(super) fn complete(&mut self, sequence: u32, reply: &[u8], output: &mut Output) {
        if sequence != self.head {
            return self.hold(sequence, || Cow::Owned(reply.to_vec()));
        }
        if let Some(oldest) = self.pop_oldest()
            && !oldest.suppressed
        {
            output.append(reply);
        }
        self.give_out_ready(output);
    }

    /// [`Replies::complete`] for a reply that need not be copied.
    pub(super) fn complete_owned(&mut self, sequence: u32, reply: Vec<u8>, output: &mut Output) {
        if sequence != self.head {
            return self.hold(sequence, || Cow::Owned(reply));
        }
        if let Some(oldest) = self.pop_oldest()
            && !oldest.suppressed
        {
            output.append_chunk(Chunk::Own(reply));
        }
        self.give_out_ready(output);
    }

    /// Keeps a reply whose predecessors are not here.
    fn hold(&mut self, sequence: u32, reply: impl FnOnce() -> Cow<'static, [u8]>) {
        let Some(pending) = self.pending(sequence) else { return };
        let before = pending.awaited.held_bytes();
        pending.awaited = Awaited::Ready(match pending.suppressed {
            true => Cow::Borrowed(b""),
            false => reply(),
        });
        let now = pending.awaited.held_bytes();
        self.change_held(before, now);
    }

    #[inline]
    fn pop_oldest(&mut self) -> Option<PendingReply> {
        let oldest = self.pending.pop_front()?;
        self.head = self.head.wrapping_add(1);
        self.change_held(oldest.awaited.held_bytes(), 0);
        assert!(
            !self.pending.is_empty() || self.held_bytes == 0,
            "bytes are held for no reply"
        );
        Some(oldest)
    }

    /// Moves the oldest replies to the output, up to the first that is not here.
    #[inline]
    fn give_out_ready(&mut self, output: &mut Output) {
        while let Some(PendingReply {
            awaited: Awaited::Ready(_) | Awaited::Pushed(_),
            ..
        }) = self.pending.front()
        {
            let Some(PendingReply { awaited, suppressed }) = self.pop_oldest() else {
                return;
            };
            match awaited {
                Awaited::Ready(Cow::Borrowed(reply)) if !suppressed => output.append(reply),
                Awaited::Ready(Cow::Owned(reply)) if !suppressed => output.append_chunk(Chunk::Own(reply)),
                Awaited::Pushed(chunks) => chunks.into_iter().for_each(|chunk| output.append_chunk(chunk)),
                _ => {}
            }
        }
    }
}

/// Bytes that the socket has not taken yet: in chunks, so that what has left is freed, and a client that is far behind
/// never costs a copy of all that waits for it.
#[derive(Default)]
pub(super) struct Output {
    /// Chunks that nothing is added to any more, oldest first, and their bytes.
    full: VecDeque<Chunk>,
    full_bytes: usize,
    /// The newest chunk.
    bytes: Vec<u8>,
    /// Bytes of the oldest chunk that were sent.
    sent: usize,
    /// A task waits for the socket to take more.
    pub(super) writer_waits: bool,
    over_soft_since: Option<Instant>,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        let bytes = self.full_bytes + self.bytes.len();
        debug_assert!(self.sent <= bytes, "no more was sent than there was");
        bytes - self.sent
    }

    /// Adds bytes to the newest chunk.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a chunk; few bytes are copied to the newest one.
    pub(super) fn append_chunk(&mut self, chunk: Chunk) {
        if chunk.bytes().len() < CHUNK_BYTES_MIN {
            return self.append(chunk.bytes());
        }
        self.end_newest();
        self.full_bytes += chunk.bytes().len();
        self.full.push_back(chunk);
    }

    /// Adds bytes that other clients are sent, too.
    pub(super) fn append_pushed(&mut self, bytes: &PushedBytes) {
        match bytes.0.len() < CHUNK_BYTES_MIN {
            true => self.append(&bytes.0),
            false => self.append_chunk(Chunk::Shared(bytes.clone())),
        }
    }

    /// What the socket takes next: the unsent bytes of the oldest chunk.
    pub(super) fn unsent(&self) -> &[u8] {
        let oldest = self.full.front().map_or(&self.bytes[..], Chunk::bytes);
        &oldest[self.sent..]
    }

    /// The socket took that many bytes of [`Output::unsent`].
    pub(super) fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.unsent().len(), "the socket took what it was given");
        self.sent += count;
        if !self.unsent().is_empty() {
            return;
        }
        self.sent = 0;
        match self.full.pop_front() {
            Some(chunk) => self.full_bytes -= chunk.bytes().len(),
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
            self.end_newest();
        }
    }

    /// Nothing is added any more to the newest chunk.
    fn end_newest(&mut self) {
        if !self.bytes.is_empty() {
            self.full_bytes += self.bytes.len();
            self.full.push_back(Chunk::Own(std::mem::take(&mut self.bytes)));
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

/// A connection, shared by the task that reads it and the task that takes in responses.
pub(super) struct Connection {
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) socket: RawFd,
    pub(super) client: Arc<Client>,
    pub(super) session: RefCell<Session>,
    pub(super) replies: RefCell<Replies>,
    pub(super) output: RefCell<Output>,
    /// Requests, and transactions whose steps are requests, that are out at low priority.
    low_out: Cell<u32>,
    /// Whether the connection is in the list of those that are flushed at the end of the turn.
    pub(super) touched: Cell<bool>,
    /// Bytes of replies that are put together outside of `replies`, by transactions over several executors and by EXEC.
    pub(super) held_elsewhere: Cell<usize>,
    /// Bytes of the arguments of the command that waits.
    pub(super) waiting_bytes: Cell<usize>,
    pub(super) closed: Cell<bool>,
    /// How many replies come in pieces.
    pub(super) in_pieces: Cell<u32>,
    /// How far the client has come in taking those.
    pub(super) pieces_progress: Cell<Option<PiecesProgress>>,
    /// How many commands are transactions whose writes are not on their way yet, or an EXEC that may change the
    /// session: the next command must wait.
    pub(super) coordinating: Cell<u32>,
    /// Set if the last command may have to wait for something to happen: no later command is run.
    pub(super) waiting: RefCell<Option<WaitOut>>,
    /// Wakes the reading task when a command that waited was answered and others are here already.
    pub(super) answered: RefCell<Option<Waker>>,
    /// [`COMMANDS_OUT_MAX`] commands are out, or [`UNREADY_BYTES_MAX`] bytes are held: the next command must wait until
    /// half of that is gone.
    pub(super) is_full: Cell<bool>,
    /// Wakes the reading task when the last pending reply is there.
    pub(super) drained: RefCell<Option<Waker>>,
    /// The socket has bytes, or has ended, as far as is known without the reactor ([`super::busy_polling`]).
    pub(super) is_readable: Cell<bool>,
    /// Wakes the reading task when that is so.
    pub(super) reader: RefCell<Option<Waker>>,
}

impl Connection {
    /// A connection of which nothing was read yet.
    pub(super) fn new(generation: u32, socket: RawFd, client: Arc<Client>, session: Session) -> Connection {
        Connection {
            index: session.connection,
            generation,
            socket,
            client,
            session: RefCell::new(session),
            replies: RefCell::new(Replies::default()),
            output: RefCell::new(Output::default()),
            low_out: Cell::new(0),
            touched: Cell::new(false),
            held_elsewhere: Cell::new(0),
            waiting_bytes: Cell::new(0),
            closed: Cell::new(false),
            in_pieces: Cell::new(0),
            pieces_progress: Cell::new(None),
            coordinating: Cell::new(0),
            waiting: RefCell::new(None),
            answered: RefCell::new(None),
            is_full: Cell::new(false),
            drained: RefCell::new(None),
            is_readable: Cell::new(false),
            reader: RefCell::new(None),
        }
    }

    /// The priority of the next request: low where its command is, and until all that is out at low priority is back,
    /// which keeps the order of the connection's requests.
    #[inline]
    pub(super) fn priority_of_next(&self, is_low: bool) -> Priority {
        match is_low || self.low_out.get() > 0 {
            true => Priority::Low,
            false => Priority::Normal,
        }
    }

    /// Counts a request, or a transaction, that goes out at a priority.
    #[inline]
    pub(super) fn count_out_at(&self, priority: Priority) {
        if priority == Priority::Low {
            self.low_out.set(self.low_out.get() + 1);
        }
    }

    /// Counts off a request, or a transaction, that was out at a priority and is back.
    #[inline]
    pub(super) fn count_back_at(&self, priority: Priority) {
        if priority == Priority::Low {
            self.low_out.set(self.low_out.get().saturating_sub(1));
        }
    }

    /// A transaction begins: the next command comes behind its writes.
    pub(super) fn begin_coordinating(&self) {
        self.coordinating.set(self.coordinating.get() + 1);
    }

    /// A transaction's writes are on their way, or it is over.
    pub(super) fn end_coordinating(&self) {
        let coordinating = self.coordinating.get();
        assert!(coordinating > 0, "a transaction ends once");
        self.coordinating.set(coordinating - 1);
    }

    /// The commands that run here of an EXEC whose other part has not run on its storage executor after all.
    pub(super) fn take_executing(&self, sequence: u32) -> Option<Executing> {
        let mut replies = self.replies.borrow_mut();
        let awaited = &mut replies.pending(sequence)?.awaited;
        match std::mem::replace(awaited, Awaited::Response) {
            Awaited::Exec(executing) => {
                // The transaction that the EXEC becomes has a copy of the arguments.
                self.waiting_bytes.set(0);
                Some(*executing)
            }
            other => {
                *awaited = other;
                None
            }
        }
    }

    /// Sends what the socket takes now; returns how many bytes that were, and whether that was all.
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

    /// Whether the client has taken too little of a large reply for as long as `timeout`. What such a reply is read
    /// from is kept on disk, and nothing of it may be deleted, until the client has taken all of it.
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

    /// Bytes of replies that are here and are not output yet.
    #[inline]
    pub(super) fn unready_bytes(&self) -> usize {
        self.replies.borrow().held_bytes() + self.held_elsewhere.get()
    }

    /// Publishes how many bytes of replies are held: those that the socket has not taken, and those that are not output
    /// yet.
    pub(super) fn publish_output(&self) {
        let bytes = self.output.borrow().len() + self.unready_bytes();
        self.client.output_bytes.set(bytes as u64);
    }

    /// Whether so much is out, or held and not output yet, that no more of the connection's commands are run until half
    /// of that is gone.
    #[inline]
    pub(super) fn fills_up(&self) -> bool {
        let is_full = self.is_full.get()
            || self.replies.borrow().len() >= COMMANDS_OUT_MAX
            || self.unready_bytes() >= UNREADY_BYTES_MAX;
        self.is_full.set(is_full);
        is_full
    }

    /// Whether there is room again after [`Connection::fills_up`].
    pub(super) fn has_emptied(&self) -> bool {
        let is_emptied = self.is_full.get()
            && self.replies.borrow().len() <= COMMANDS_OUT_MAX / 2
            && self.unready_bytes() <= UNREADY_BYTES_MAX / 2;
        if is_emptied {
            self.is_full.set(false);
        }
        is_emptied
    }

    /// Ends the connection: pending replies are not sent, and the reading task wakes up.
    pub(super) fn abort(&self) {
        if !self.closed.replace(true) {
            socket::shutdown(self.socket);
        }
        self.wake_reader();
    }

    /// Whether the last command may have to wait: no later command is run.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.borrow().is_some()
    }

    /// The command with a number was answered: takes out what is known of its wait, if that is the command that may
    /// wait.
    pub(super) fn end_wait(&self, sequence: u32) -> Option<WaitOut> {
        let mut waiting = self.waiting.borrow_mut();
        let ended = waiting.take_if(|waiting| waiting.sequence == sequence)?;
        self.waiting_bytes.set(0);
        if let Some(waker) = self.answered.borrow_mut().take() {
            waker.wake();
        }
        Some(ended)
    }

    /// Wakes the task that reads, if it waits for the pending replies to leave.
    pub(super) fn wake_reader(&self) {
        if let Some(waker) = self.drained.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Bytes of a client that are not a whole command yet.
pub(super) struct Input {
    pub(super) parser: Parser,
    /// Bytes of earlier reads; the current frame begins at `start`.
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
    /// Bytes that the current frame needs at least before it is whole.
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

    /// Drops the bytes that were parsed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Merge;
    use crate::protocol::reply::Version;

    /// Everything that an output would send, and how many chunks that are.
    fn sent(output: &mut Output) -> (Vec<u8>, usize) {
        let (mut bytes, mut chunks) = (Vec::new(), 0);
        while output.len() > 0 {
            let chunk = output.unsent().to_vec();
            output.advance(chunk.len());
            bytes.extend(chunk);
            chunks += 1;
        }
        (bytes, chunks)
    }

    #[test]
    fn what_waits_behind_a_slower_reply_is_counted_until_it_is_output() {
        let (mut replies, mut output) = (Replies::default(), Output::default());
        let first = replies.open(Awaited::Response, false);
        let second = replies.open(Awaited::Response, false);
        let unwanted = replies.open(Awaited::Response, true);
        replies.open(Awaited::Ready(Cow::Borrowed(b"+PONG\r\n")), false);
        replies.complete(second, &[b'2'; 1000], &mut output);
        replies.complete(unwanted, &[b'3'; 1000], &mut output);
        assert_eq!(
            (replies.held_bytes(), output.len()),
            (1007, 0),
            "nobody gets what is suppressed"
        );
        let (small, large) = (
            PushedBytes::new(vec![b's'; 10]),
            PushedBytes::new(vec![b'l'; CHUNK_BYTES_MIN]),
        );
        for pushed in [&small, &small, &large, &small] {
            replies.push(pushed);
        }
        let pushed_bytes = 30 + CHUNK_BYTES_MIN;
        assert_eq!(replies.held_bytes(), 1007 + pushed_bytes);
        assert_eq!(Rc::strong_count(&large.0), 2, "the bytes are shared");
        replies.complete(first, b"1", &mut output);
        assert_eq!((replies.held_bytes(), output.len()), (0, 1 + 1007 + pushed_bytes));
        let (bytes, chunks) = sent(&mut output);
        let expected = [
            b"1".to_vec(),
            vec![b'2'; 1000],
            b"+PONG\r\n".to_vec(),
            vec![b's'; 20],
            vec![b'l'; CHUNK_BYTES_MIN],
            vec![b's'; 10],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(chunks, 3);
        assert_eq!(Rc::strong_count(&large.0), 1);
    }

    #[test]
    fn parts_of_a_merged_reply_are_counted_until_they_are_merged() {
        let (mut replies, mut output) = (Replies::default(), Output::default());
        let mut merging = Merging::new(Merge::Concatenate, Version::Resp2, 2);
        merging.add_piece(0, b"*1\r\n$1\r\n");
        assert!(!merging.add(0, b"a\r\n"));
        assert_eq!(merging.held_bytes(), 11);
        let sequence = replies.open(Awaited::Merge(Box::new(merging)), false);
        assert_eq!(replies.held_bytes(), 11);
        let Some(Awaited::Merge(merging)) = replies.pending(sequence).map(|pending| &mut pending.awaited) else {
            panic!("it was entered")
        };
        assert!(merging.add(1, b"*0\r\n"));
        let reply = merging.finish();
        let held = merging.held_bytes();
        replies.change_held(11, held);
        replies.complete_owned(sequence, reply, &mut output);
        assert_eq!(replies.held_bytes(), 0);
        assert_eq!(sent(&mut output).0, b"*1\r\n$1\r\na\r\n");
    }
}
