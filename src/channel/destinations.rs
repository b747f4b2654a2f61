//! A sender's end of the channels to the storage executors: collects the requests of one turn of the reactor for each,
//! within credits.
//!
//! A credit is one request that is out. What is out is bounded per destination, so the channel behind it can hold all
//! of it and a send never blocks; when the credits of one destination are used up, the sockets whose next command needs
//! that destination are not read until batches come back.

use super::message::{BATCH_BYTES_FULL, Batch, Caller, Priority, RequestId};
use super::responses::{ResponseSender, responses};
use crate::command::Command;
use crate::error::CommandError;
use crate::faults;
use crate::panics;
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Argument bytes that may be out per destination: a bound on memory beside the bound on requests. One request above it
/// may be out alone.
const BYTES_OUT_MAX: usize = 64 << 20;

/// Empty batches that a sender keeps to be filled again: two per destination is what a busy one turns over.
const SPARE_BATCHES_PER_DESTINATION: usize = 4;

/// The first wait before a batch that a channel did not take is offered again; doubles up to the last.
const RETRY_DELAY_FIRST: Duration = Duration::from_millis(1);
const RETRY_DELAY_LAST: Duration = Duration::from_millis(64);

/// Requests that a network executor (or the in-process engine) may have out to one storage executor.
#[derive(Clone, Copy, Debug)]
pub struct Credits {
    /// Requests.
    pub requests: usize,
    /// Requests per batch after which it is sent at once.
    pub batch_size: usize,
}

/// One storage executor, as seen by one sender.
struct Destination {
    sender: flume::Sender<Box<Batch>>,
    /// The batches that are being filled, by priority: normal and low.
    open: [Option<Box<Batch>>; 2],
    /// Batches that are closed and not handed over: the channel did not take them.
    unsent: VecDeque<Box<Batch>>,
    /// The executor has ended, and takes nothing any more: a server that stops, or an engine that was closed.
    is_dead: bool,
    retry_at: Instant,
    retry_delay: Duration,
    requests_out: usize,
    bytes_out: usize,
    /// A connection was told that there is no room, and waits.
    is_awaited: Cell<bool>,
}

/// What became of batches in one flush.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flushed {
    /// Batches handed over.
    pub batches: u64,
    /// Requests in them.
    pub requests: u64,
    /// Batches that a channel did not take; they are offered again.
    pub failures: u64,
}

/// All storage executors, as seen by one sender.
pub struct Destinations {
    destinations: Vec<Destination>,
    // Boxes, since a batch travels in its allocation.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Batch>>,
    reply_to: ResponseSender,
    credits: Credits,
    /// A destination that connections wait for has room again.
    has_freed: bool,
}

impl Destinations {
    /// `senders[i]` leads to storage executor `i`; batches come back through `reply_to`.
    pub fn new(senders: Vec<flume::Sender<Box<Batch>>>, reply_to: ResponseSender, credits: Credits) -> Destinations {
        let destination = |sender| Destination {
            sender,
            open: [None, None],
            unsent: VecDeque::new(),
            is_dead: false,
            retry_at: Instant::now(),
            retry_delay: RETRY_DELAY_FIRST,
            requests_out: 0,
            bytes_out: 0,
            is_awaited: Cell::new(false),
        };
        Destinations {
            destinations: senders.into_iter().map(destination).collect(),
            spare: Vec::new(),
            reply_to,
            credits,
            has_freed: false,
        }
    }

    /// Destinations to the same executors whose batches come back through `reply_to`.
    pub fn to_the_same(&self, reply_to: ResponseSender) -> Destinations {
        let senders = self
            .destinations
            .iter()
            .map(|destination| destination.sender.clone())
            .collect();
        Destinations::new(senders, reply_to, self.credits)
    }

    /// The number of storage executors.
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// Whether there is none (never so in a server).
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }

    /// Whether some destination has no room: then commands that need it are not read from sockets. A storage executor
    /// that has ended holds up nobody: requests for it are answered with an error.
    #[inline]
    pub fn any_is_blocked(&self) -> bool {
        self.destinations
            .iter()
            .any(|destination| !destination.has_room(&self.credits))
    }

    /// Whether a destination has no room. If so, [`Destinations::take_freed`] will tell when it has.
    pub fn is_blocked(&self, destination: usize) -> bool {
        let destination = &self.destinations[destination];
        let is_blocked = !destination.has_room(&self.credits);
        if is_blocked {
            destination.is_awaited.set(true);
        }
        is_blocked
    }

    /// Whether a destination that [`Destinations::is_blocked`] found blocked has got room since the last call.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.has_freed)
    }

    /// Requests that are out, over all destinations.
    pub fn requests_out(&self) -> usize {
        self.destinations
            .iter()
            .map(|destination| destination.requests_out)
            .sum()
    }

    /// Takes over a changed `batch-size`.
    pub fn set_batch_size(&mut self, batch_size: usize) {
        self.credits.batch_size = batch_size;
    }

    /// Adds a request to the open batch for a destination. Returns whether that batch is full, so that it should be
    /// flushed.
    #[inline]
    pub fn push<'a>(
        &mut self,
        (destination, priority): (usize, Priority),
        id: RequestId,
        command: &'static Command,
        caller: Caller,
        deadline: Instant,
        arguments: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        // Other connections' requests are in the same batch.
        let _uncontained = panics::uncontained();
        let spare = &mut self.spare;
        let reply_to = &self.reply_to;
        let index = usize::from(priority == Priority::Low);
        let target = &mut self.destinations[destination];
        if target.open[index]
            .as_ref()
            .is_some_and(|batch| batch.bytes_len() >= BATCH_BYTES_FULL)
        {
            // The sender has filled the batch and not flushed it yet. A span in a batch has 32 bits.
            target.close_open();
        }
        let batch = target.open[index].get_or_insert_with(|| {
            let mut batch = spare.pop().unwrap_or_else(|| Batch::new(reply_to.clone()));
            (batch.destination, batch.priority) = (destination, priority);
            batch
        });
        let bytes_before = batch.bytes_len();
        batch.push(id, command, caller, deadline, arguments);
        target.requests_out += 1;
        let bytes = batch.bytes_len() - bytes_before;
        batch.bytes_charged += bytes;
        target.bytes_out += bytes;
        batch.requests.len() >= self.credits.batch_size || batch.bytes_len() >= BATCH_BYTES_FULL
    }

    /// Hands over every open batch.
    pub fn flush(&mut self) -> Flushed {
        let _uncontained = panics::uncontained();
        let mut flushed = Flushed::default();
        for destination in &mut self.destinations {
            destination.close_open();
            destination.send_unsent(&mut flushed);
        }
        flushed
    }

    /// Offers batches again that a channel did not take, if their time has come. Returns the batches that are given up,
    /// because all their deadlines have passed or their storage executor has ended: none of their requests was handed
    /// over, and each is answered with an error.
    pub fn retry(&mut self) -> (Flushed, Vec<Box<Batch>>) {
        let mut flushed = Flushed::default();
        let mut given_up = Vec::new();
        let now = Instant::now();
        for destination in &mut self.destinations {
            if now >= destination.retry_at {
                destination.send_unsent(&mut flushed);
            }
            let (is_dead, error) = match destination.is_dead {
                true => (
                    true,
                    CommandError::text("SHARDDOWN the storage executor of this shard has ended"),
                ),
                false => (false, CommandError::Timeout),
            };
            let is_late = |batch: &Batch| batch.requests.iter().all(|request| request.deadline < now);
            while let Some(mut batch) = destination.unsent.pop_front_if(|batch| is_dead || is_late(batch)) {
                batch.answer_all_with_error(&error);
                given_up.push(batch);
            }
        }
        (flushed, given_up)
    }

    /// Gives up the senders: when all have, the storage executors end. A task that waits for batches to come back is
    /// told that none will.
    pub fn close(&mut self) {
        self.destinations.clear();
        self.spare.clear();
        (self.reply_to, _) = responses();
    }

    /// A batch came back and its responses were read: its credits are free again.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        let Some(destination) = self.destinations.get_mut(batch.destination) else {
            return;
        };
        assert!(
            destination.requests_out >= batch.credits && destination.bytes_out >= batch.bytes_charged,
            "a destination got back more credits or bytes than it gave out"
        );
        destination.requests_out -= batch.credits;
        destination.bytes_out -= batch.bytes_charged;
        if destination.is_awaited.get() && destination.has_room(&self.credits) {
            destination.is_awaited.set(false);
            self.has_freed = true;
        }
        if self.spare.len() < SPARE_BATCHES_PER_DESTINATION * self.destinations.len() {
            batch.clear();
            self.spare.push(batch);
        }
    }
}

impl Destination {
    /// Fills the open batches no further. The normal one goes before the low one, which keeps the order of a
    /// connection's commands.
    fn close_open(&mut self) {
        let open = self.open.iter_mut().filter_map(Option::take);
        self.unsent.extend(open);
    }

    #[inline]
    fn has_room(&self, credits: &Credits) -> bool {
        self.is_dead || self.requests_out < credits.requests && self.bytes_out < BYTES_OUT_MAX && self.unsent.is_empty()
    }

    fn send_unsent(&mut self, flushed: &mut Flushed) {
        while let Some(mut batch) = self.unsent.pop_front() {
            assert!(
                batch.credits == batch.requests.len() && batch.responses.is_empty(),
                "a batch that is sent has a credit for each request, and no response"
            );
            batch.sent_at = Instant::now();
            let requests = batch.requests.len() as u64;
            let handed_over = match faults::refuses_send() {
                true => Err(flume::TrySendError::Full(batch)),
                false => self.sender.try_send(batch),
            };
            match handed_over {
                Ok(()) => {
                    flushed.batches += 1;
                    flushed.requests += requests;
                    self.retry_delay = RETRY_DELAY_FIRST;
                }
                Err(refused) => {
                    self.is_dead |= matches!(refused, flume::TrySendError::Disconnected(_));
                    let batch = refused.into_inner();
                    flushed.failures += 1;
                    self.unsent.push_front(batch);
                    self.retry_at = Instant::now() + self.retry_delay;
                    self.retry_delay = (self.retry_delay * 2).min(RETRY_DELAY_LAST);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    const ARGUMENT_BYTES: usize = 200 * 1024;

    fn push(destinations: &mut Destinations, destination: usize) {
        crate::rows::install();
        let get = command::find(b"get").expect("the table has it");
        let (target, id, caller) = ((destination, Priority::Normal), RequestId::default(), Caller::default());
        let deadline = Instant::now() + Duration::from_secs(3600);
        destinations.push(target, id, get, caller, deadline, [&b"get"[..], b"k"]);
    }

    #[test]
    fn what_is_meant_for_an_executor_that_has_ended_is_answered_and_holds_up_nobody() {
        let ((dead, receiver), (alive, received)) = (flume::unbounded(), flume::unbounded());
        drop(receiver);
        let (reply_to, _) = responses();
        let credits = Credits {
            requests: 8,
            batch_size: 8,
        };
        let mut destinations = Destinations::new(vec![dead, alive], reply_to, credits);
        for _ in 0..20 {
            push(&mut destinations, 0);
        }
        push(&mut destinations, 1);
        let flushed = destinations.flush();
        assert_eq!((flushed.batches, received.len()), (1, 1));
        assert!(!destinations.any_is_blocked() && !destinations.is_blocked(0));
        let (_, given_up) = destinations.retry();
        let replies = given_up.iter().flat_map(|batch| {
            let responses = batch.responses.iter();
            responses.map(|response| String::from_utf8_lossy(batch.reply(response)).into_owned())
        });
        let replies: Vec<String> = replies.collect();
        let expected = "-SHARDDOWN the storage executor of this shard has ended\r\n";
        assert_eq!(replies, [expected; 20]);
        given_up.into_iter().for_each(|batch| destinations.recycle(batch));
        assert_eq!(destinations.requests_out(), 1);
    }

    /// Where arguments lie in a batch is told in 32 bits, so a sender that does not flush must not be able to fill one
    /// further and further.
    #[test]
    fn a_batch_that_is_full_takes_no_more_whether_it_was_flushed_or_not() {
        crate::rows::install();
        let (sender, receiver) = flume::unbounded();
        let (reply_to, _) = responses();
        let credits = Credits {
            requests: 1000,
            batch_size: 1000,
        };
        let mut destinations = Destinations::new(vec![sender], reply_to, credits);
        let set = command::find(b"set").expect("SET is a command");
        let value = vec![0; ARGUMENT_BYTES];
        let mut push = |sequence: u32, priority: Priority, arguments: &[&[u8]]| {
            let id = RequestId {
                sequence,
                ..RequestId::default()
            };
            let (caller, deadline) = (Caller::default(), Instant::now() + Duration::from_secs(1));
            destinations.push((0, priority), id, set, caller, deadline, arguments.iter().copied())
        };
        for sequence in 0..9 {
            let is_full = push(sequence, Priority::Normal, &[&value]);
            assert_eq!(is_full, sequence % 2 == 1, "two of them fill a batch");
        }
        // Of a low batch and the normal one before it, the normal one goes first, also if only the low one is full.
        push(9, Priority::Low, &[&value, &value]);
        push(10, Priority::Low, &[&value]);
        // Empty arguments take room, too.
        let empty: &[u8] = &[];
        assert!(push(11, Priority::Normal, &vec![empty; BATCH_BYTES_FULL / 8]));
        destinations.flush();
        let mut sequences = Vec::new();
        for batch in receiver.try_iter() {
            assert!(batch.bytes_len() < BATCH_BYTES_FULL + 2 * ARGUMENT_BYTES + 100);
            sequences.push(
                batch
                    .requests
                    .iter()
                    .map(|request| request.id.sequence)
                    .collect::<Vec<_>>(),
            );
        }
        let expected = [&[0, 1][..], &[2, 3], &[4, 5], &[6, 7], &[8], &[9], &[11], &[10]];
        assert_eq!(sequences, expected);
    }
}
