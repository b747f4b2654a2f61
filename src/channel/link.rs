//! The sending end: collects the requests of one reactor turn per storage executor, within credits.
//!
//! A credit is one request that is out. What is out is bounded per link, so the channel behind it can hold all of it
//! and a send never blocks; when the credits are used up, the sockets are not read until boxes come home.

use super::message::{BATCH_BYTES_FULL, Batch, Caller, Priority, RequestId};
use crate::commands::table::Command;
use crate::faults;
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
    retry_at: Instant,
    retry_delay: Duration,
    requests_out: usize,
    bytes_out: usize,
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
    home: flume::Sender<Box<Batch>>,
    credits: Credits,
}

impl Links {
    /// `senders[i]` leads to storage executor `i`; boxes come home through `home`.
    pub fn new(senders: Vec<flume::Sender<Box<Batch>>>, home: flume::Sender<Box<Batch>>, credits: Credits) -> Links {
        let link = |sender| Link {
            sender,
            open: [None, None],
            unsent: VecDeque::new(),
            retry_at: Instant::now(),
            retry_delay: RETRY_DELAY_FIRST,
            requests_out: 0,
            bytes_out: 0,
        };
        Links {
            links: senders.into_iter().map(link).collect(),
            spare: Vec::new(),
            home,
            credits,
        }
    }

    /// Links to the same executors whose boxes come home through `home`.
    pub fn to_the_same(&self, home: flume::Sender<Box<Batch>>) -> Links {
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

    /// Whether some link has no credits left: then no more commands are read from sockets.
    pub fn is_blocked(&self) -> bool {
        self.links.iter().any(|link| {
            link.requests_out >= self.credits.requests || link.bytes_out >= BYTES_OUT_MAX || !link.unsent.is_empty()
        })
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
        let spare = &mut self.spare;
        let home = &self.home;
        let place = usize::from(priority == Priority::Low);
        let target = &mut self.links[link];
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

    /// Hands over every open batch; normal ones before low ones, which keeps the order of a connection's commands.
    pub fn flush(&mut self) -> Flushed {
        let mut flushed = Flushed::default();
        for link in &mut self.links {
            for place in 0..link.open.len() {
                if let Some(batch) = link.open[place].take() {
                    link.unsent.push_back(batch);
                }
            }
            link.send_unsent(&mut flushed);
        }
        flushed
    }

    /// Offers again what a channel did not take, if its time has come. Returns the batches that gave up: none of their
    /// requests was handed over and all deadlines have passed.
    pub fn retry(&mut self) -> (Flushed, Vec<Box<Batch>>) {
        let mut flushed = Flushed::default();
        let mut late = Vec::new();
        let now = Instant::now();
        for link in &mut self.links {
            if now >= link.retry_at {
                link.send_unsent(&mut flushed);
            }
            let all_late = |batch: &Batch| batch.requests.iter().all(|request| request.deadline < now);
            while link.unsent.front().is_some_and(|batch| all_late(batch)) {
                late.extend(link.unsent.pop_front());
            }
        }
        (flushed, late)
    }

    /// Gives up the senders: when all have, the storage executors end. Boxes that are out are lost to this sender.
    pub fn close(&mut self) {
        self.links.clear();
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
        if self.spare.len() < SPARE_BOXES_PER_LINK * self.links.len() {
            batch.clear();
            self.spare.push(batch);
        }
    }
}

impl Link {
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
                Err(flume::TrySendError::Full(batch) | flume::TrySendError::Disconnected(batch)) => {
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
