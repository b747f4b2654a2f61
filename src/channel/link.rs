//! The sending end: collects the requests of one reactor turn per storage executor, within credits.
//!
//! A credit is one request that is out. What is out is bounded per link, so the channel behind it can hold all of it
//! and a send never blocks; when the credits of one link are used up, the sockets whose next command needs that link
//! are not read until boxes come home.

use super::message::{BATCH_BYTES_FULL, Batch, Caller, Priority, RequestId};
use super::responses::{ResponseSender, responses};
use crate::command::Command;
use crate::error::CommandError;
use crate::faults;
use crate::panics;
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Argument bytes that may be out per link: a bound on memory beside the bound on requests. One request above it may be
/// out alone.
const BYTES_OUT_MAX: usize = 64 << 20;

/// Empty boxes that an executor keeps for its next batches: two per link is what a busy one turns over.
const SPARE_BOXES_PER_LINK: usize = 4;

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
struct Link {
    sender: flume::Sender<Box<Batch>>,
    /// The batches being filled: normal and low.
    open: [Option<Box<Batch>>; 2],
    /// Batches that the channel did not take; nothing of theirs was handed over.
    unsent: VecDeque<Box<Batch>>,
    /// The executor has ended, and takes nothing any more: a server that stops, or an engine that was closed.
    is_dead: bool,
    retry_at: Instant,
    retry_delay: Duration,
    requests_out: usize,
    bytes_out: usize,
    /// Somebody was told that there is no room, and waits.
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
pub struct Links {
    links: Vec<Link>,
    // Boxes, since it is the box that travels.
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Batch>>,
    home: ResponseSender,
    credits: Credits,
    /// A link that somebody waits for has room again.
    has_freed: bool,
}

impl Links {
    /// `senders[i]` leads to storage executor `i`; boxes come home through `home`.
    pub fn new(senders: Vec<flume::Sender<Box<Batch>>>, home: ResponseSender, credits: Credits) -> Links {
        let link = |sender| Link {
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
        Links {
            links: senders.into_iter().map(link).collect(),
            spare: Vec::new(),
            home,
            credits,
            has_freed: false,
        }
    }

    /// Links to the same executors whose boxes come home through `home`.
    pub fn to_the_same(&self, home: ResponseSender) -> Links {
        let senders = self.links.iter().map(|link| link.sender.clone()).collect();
        Links::new(senders, home, self.credits)
    }

    /// The number of storage executors.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is none (never so in a server).
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether some link has no room: then commands that need it are not read from sockets. One to an executor that has
    /// ended holds up nobody: what is meant for it is answered with an error.
    #[inline]
    pub fn any_is_blocked(&self) -> bool {
        self.links.iter().any(|link| !link.has_room(&self.credits))
    }

    /// Whether a link has no room. If so, [`Links::take_freed`] will tell when it has.
    pub fn is_blocked(&self, link: usize) -> bool {
        let link = &self.links[link];
        let is_blocked = !link.has_room(&self.credits);
        if is_blocked {
            link.is_awaited.set(true);
        }
        is_blocked
    }

    /// Whether a link that was found blocked has got room since the last call.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.has_freed)
    }

    /// Requests that are out, over all links.
    pub fn requests_out(&self) -> usize {
        self.links.iter().map(|link| link.requests_out).sum()
    }

    /// Takes over a changed `batch-size`.
    pub fn set_batch_size(&mut self, batch_size: usize) {
        self.credits.batch_size = batch_size;
    }

    /// Adds a request to the open batch for a link. Returns whether that batch is full, so that it should be flushed.
    #[inline]
    pub fn push<'a>(
        &mut self,
        (link, priority): (usize, Priority),
        id: RequestId,
        command: &'static Command,
        caller: Caller,
        deadline: Instant,
        arguments: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        // Other connections' requests are in the same batch.
        let _uncontained = panics::uncontained();
        let spare = &mut self.spare;
        let home = &self.home;
        let place = usize::from(priority == Priority::Low);
        let target = &mut self.links[link];
        if target.open[place]
            .as_ref()
            .is_some_and(|batch| batch.bytes_len() >= BATCH_BYTES_FULL)
        {
            // Whoever filled it has not flushed it yet. Where arguments lie in a batch is told in 32 bits.
            target.close_open();
        }
        let batch = target.open[place].get_or_insert_with(|| {
            let mut batch = spare.pop().unwrap_or_else(|| Batch::new(home.clone()));
            (batch.link, batch.priority) = (link, priority);
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
        for link in &mut self.links {
            link.close_open();
            link.send_unsent(&mut flushed);
        }
        flushed
    }

    /// Offers again what a channel did not take, if its time has come. Returns the batches that gave up, each of its
    /// requests answered with an error: none was handed over, and all deadlines have passed or there is nobody to take
    /// them.
    pub fn retry(&mut self) -> (Flushed, Vec<Box<Batch>>) {
        let mut flushed = Flushed::default();
        let mut given_up = Vec::new();
        let now = Instant::now();
        for link in &mut self.links {
            if now >= link.retry_at {
                link.send_unsent(&mut flushed);
            }
            let (is_dead, error) = match link.is_dead {
                true => (
                    true,
                    CommandError::text("SHARDDOWN the storage executor of this shard has ended"),
                ),
                false => (false, CommandError::Timeout),
            };
            let is_late = |batch: &Batch| batch.requests.iter().all(|request| request.deadline < now);
            while let Some(mut batch) = link.unsent.pop_front_if(|batch| is_dead || is_late(batch)) {
                batch.answer_all_with_error(&error);
                given_up.push(batch);
            }
        }
        (flushed, given_up)
    }

    /// Gives up the senders: when all have, the storage executors end. Whoever waits for boxes that are out and do not
    /// come home is told that none will.
    pub fn close(&mut self) {
        self.links.clear();
        self.spare.clear();
        (self.home, _) = responses();
    }

    /// A box came home and its responses were read: its credits are free again.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        let Some(link) = self.links.get_mut(batch.link) else {
            return;
        };
        assert!(
            link.requests_out >= batch.credits,
            "a link got back more credits than it gave out"
        );
        link.requests_out -= batch.credits;
        link.bytes_out -= batch.bytes_charged;
        if link.is_awaited.get() && link.has_room(&self.credits) {
            link.is_awaited.set(false);
            self.has_freed = true;
        }
        if self.spare.len() < SPARE_BOXES_PER_LINK * self.links.len() {
            batch.clear();
            self.spare.push(batch);
        }
    }
}

impl Link {
    /// What is open is filled no further; normal batches before low ones, which keeps the order of a connection's
    /// commands.
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

    fn push(links: &mut Links, link: usize) {
        crate::rows::install();
        let get = command::find(b"get").expect("the table has it");
        let (target, id, caller) = ((link, Priority::Normal), RequestId::default(), Caller::default());
        let deadline = Instant::now() + Duration::from_secs(3600);
        links.push(target, id, get, caller, deadline, [&b"get"[..], b"k"]);
    }

    #[test]
    fn what_is_meant_for_an_executor_that_has_ended_is_answered_and_holds_up_nobody() {
        let ((dead, receiver), (alive, received)) = (flume::unbounded(), flume::unbounded());
        drop(receiver);
        let (home, _) = responses();
        let credits = Credits {
            requests: 8,
            batch_size: 8,
        };
        let mut links = Links::new(vec![dead, alive], home, credits);
        for _ in 0..20 {
            push(&mut links, 0);
        }
        push(&mut links, 1);
        let flushed = links.flush();
        assert_eq!((flushed.batches, received.len()), (1, 1));
        assert!(!links.any_is_blocked() && !links.is_blocked(0));
        let (_, given_up) = links.retry();
        let replies = given_up.iter().flat_map(|batch| {
            let responses = batch.responses.iter();
            responses.map(|response| String::from_utf8_lossy(batch.reply(response)).into_owned())
        });
        let replies: Vec<String> = replies.collect();
        let expected = "-SHARDDOWN the storage executor of this shard has ended\r\n";
        assert_eq!(replies, [expected; 20]);
        given_up.into_iter().for_each(|batch| links.recycle(batch));
        assert_eq!(links.requests_out(), 1);
    }

    /// Where arguments lie in a batch is told in 32 bits, so a sender that does not flush must not be able to fill one
    /// further and further.
    #[test]
    fn a_batch_that_is_full_takes_no_more_whether_it_was_flushed_or_not() {
        crate::rows::install();
        let (sender, receiver) = flume::unbounded();
        let (home, _) = responses();
        let credits = Credits {
            requests: 1000,
            batch_size: 1000,
        };
        let mut links = Links::new(vec![sender], home, credits);
        let set = command::find(b"set").expect("SET is a command");
        let value = vec![0; ARGUMENT_BYTES];
        let mut push = |sequence: u32, priority: Priority, arguments: &[&[u8]]| {
            let id = RequestId {
                sequence,
                ..RequestId::default()
            };
            let (caller, deadline) = (Caller::default(), Instant::now() + Duration::from_secs(1));
            links.push((0, priority), id, set, caller, deadline, arguments.iter().copied())
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
        links.flush();
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
